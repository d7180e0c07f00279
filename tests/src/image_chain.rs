//! An overlay file over a raw base file, driven by the blocking driver: what tools do.

use std::path::Path;

use aoe_host::storage::{Access, FileOptions, FileStorage};
use cow_core::blocking::{Blocking, OverBase};
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{IndexEntry, Layer, Map, Top, raw};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::ReadStorage;
use cow_core::units::Lba;

use crate::pattern::{Plan, SECTOR};

/// Key of the overlay.
pub const OVERLAY: StorageKey = StorageKey(0);

/// A file, to be written if asked for.
pub fn file(path: &Path, writable: bool) -> FileStorage {
    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
    FileStorage::open(path, &FileOptions { access, ..FileOptions::default() }).expect("a file")
}

/// The chain and what is done with it.
pub type Driver<'a, 'p> = Blocking<'a, 'p, OverBase<FileStorage, FileStorage>, 4>;

/// Runs `work` on an overlay with its index memory over a base; gives the overlay back to be closed.
pub fn with<R>(
    top: Top,
    index: &mut [IndexEntry],
    overlay: FileStorage,
    base: &Path,
    work: impl FnOnce(&mut Driver<'_, '_>) -> R,
) -> (R, Top) {
    let base = file(base, false);
    let len = base.len_bytes().expect("the length of the base");
    let sectors = top.sectors();
    let mut engine = Engine::<4>::new(Some(top), sectors, Durability::Safe).expect("an engine");
    let layers = [Layer::Raw(raw::Raw::new(StorageKey(1), len).expect("a base"))];
    let mut storages = OverBase { overlay, base };
    let (mut pages, mut frames) = (vec![Page::ZERO; 4], vec![Frame::EMPTY; 4]);
    let mut pool = PagePool::new(&mut pages, &mut frames).expect("a pool");
    let result = work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index },
        storages: &mut storages,
    });
    (result, engine.into_overlay().expect("an overlay"))
}

/// Writes everything planned.
pub fn write(chain: &mut Driver<'_, '_>, plan: &Plan) {
    for write in plan.iter() {
        let lba = Lba::new(write.lba).expect("an lba");
        chain.write(lba, &plan.bytes(write)).expect("a write");
    }
}

/// Reads a range of sectors.
pub fn read(chain: &mut Driver<'_, '_>, first: u64, sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(sectors).expect("a short range") * SECTOR];
    chain.read(Lba::new(first).expect("an lba"), &mut bytes).expect("a read");
    bytes
}
