//! Drives chains of every writable format in memory, with inputs the optimiser cannot know.

use core::hint::black_box;

use crate::stack::Depth;
use crate::{bitmaps, qcow2};
use cow_core::engine::{
    Buffer, Durability, Engine, IoFailure, Kind, Lent, Note, Operation, Output, Request, RequestId,
};
use cow_core::format::native::{self, CreateOptions, Fresh};
use cow_core::format::raw::Raw;
use cow_core::format::{IndexEntry, Layer, Top, dm_snapshot, qcow1};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::Extent;

/// Stack of one call of the engine.
pub static ENGINE: Depth = Depth::new();

/// Sectors of the disk: two metadata pages of the native format.
pub const SECTORS: u64 = 20_000;

/// Bytes of the overlay's storage that exist; beyond, it is full.
const STORE_LEN: usize = 64 << 10;

/// A storage in memory that is as long as asked for and full from [`STORE_LEN`] on.
pub struct Ram([u8; STORE_LEN]);

impl Ram {
    /// All zeros.
    pub const fn new() -> Self {
        Self([0; STORE_LEN])
    }

    /// Makes all of it zeros again.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }
}

impl embedded_io::ErrorType for Ram {
    type Error = embedded_io::ErrorKind;
}

impl ReadStorage for Ram {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self.0.get(at..).unwrap_or(&[]);
        for (n, to) in buf.iter_mut().enumerate() {
            *to = from.get(n).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, Self::Error> {
        Ok(black_box(1 << 26))
    }
}

impl Storage for Ram {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Self::Error> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = self.0.get_mut(at..).unwrap_or(&mut []);
        if to.len() < data.len() {
            return Err(embedded_io::ErrorKind::OutOfMemory);
        }
        to.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Self::Error> {
        if black_box(false) { Err(embedded_io::ErrorKind::Other) } else { Ok(()) }
    }

    fn extend(&mut self, _len: u64) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A chain of each kind takes one request of each kind. True if all were answered.
pub fn run() -> bool {
    let mut store = Ram::new();
    let mut page = Page::ZERO;
    let native = read_only() && over_native(&mut store, &mut page);
    store.clear();
    let snapshot = over_store(&mut store);
    store.clear();
    let qcow1 = over_qcow1(&mut store);
    store.clear();
    let mut pages = [const { Page::ZERO }; 2];
    let qcow2 = qcow2::run(&mut store, &mut page);
    store.clear();
    native && snapshot && qcow1 && qcow2 && bitmaps::run(&mut store, &mut pages)
}

fn read_only() -> bool {
    drive(None, &mut [], &mut Ram::new())
}

fn over_native(store: &mut Ram, page: &mut Page) -> bool {
    let options = CreateOptions {
        layer_id: LayerId(black_box([1; 16])),
        sectors: black_box(SECTORS),
        parent: ParentIdentity::None,
        window: None,
        hint: &[],
        label: black_box(b"proof".as_slice()),
        created_s: 0,
        log: None,
        fresh: Fresh::Unknown,
    };
    if native::create(store, &options, page).is_err() {
        return false;
    }
    let Ok(top) = native::open_writable(store, StorageKey(0), page) else { return false };
    let answered = drive(Some(Top::Native(top)), &mut [], store);
    let checked = native::open(store, page).is_ok();
    let emptied = native::rollback(store, page).is_ok();
    answered && checked && emptied
}

fn over_store(store: &mut Ram) -> bool {
    let mut index = [IndexEntry::EMPTY; 64];
    if dm_snapshot::create(store, black_box(8)).is_err() {
        return false;
    }
    let Some(top) = open_store(store, &mut index) else { return false };
    drive(Some(Top::DmSnapshot(top)), &mut index, store)
}

fn open_store(store: &mut Ram, index: &mut [IndexEntry]) -> Option<dm_snapshot::Writable> {
    let mut page = Page::ZERO;
    let opened = dm_snapshot::open(store, black_box(SECTORS), page.as_bytes_mut()).ok()?;
    let loaded = dm_snapshot::load_index(store, &opened, index, page.as_bytes_mut()).ok()?;
    dm_snapshot::Writable::new(StorageKey(0), &loaded).ok()
}

fn over_qcow1(store: &mut Ram) -> bool {
    let mut scratch = [const { Page::ZERO }; 3];
    let options = qcow1::CreateOptions::new(black_box(SECTORS), black_box(Some(b"proof")));
    if qcow1::create(store, &options).is_err() {
        return false;
    }
    let [page, ..] = &mut scratch;
    let Ok(top) = qcow1::open_writable(store, StorageKey(0), page) else { return false };
    let answered = drive(Some(Top::Qcow1(top)), &mut [], store);
    let Ok(opened) = qcow1::open(store) else { return false };
    let [pair @ .., _] = &mut scratch;
    let runs_end = qcow1::Runs::new(&opened, pair).next(store).is_ok();
    let mut memory = [0; 64];
    let repaired = qcow1::repair(store, &mut memory, &mut scratch, &mut |f| {
        black_box(f);
    });
    let [pair @ .., page] = &mut scratch;
    let checked = qcow1::check(store, &mut memory, pair, &mut |f| {
        black_box(f);
    });
    // The storage is full at its end, where an emptied image has its table.
    let _full = black_box(qcow1::rollback(store, page));
    answered && runs_end && checked.is_ok() && black_box(repaired).is_ok()
}

/// Takes one request of each kind over a small base. True if all were answered.
pub fn drive(overlay: Option<Top>, index: &mut [IndexEntry], store: &mut Ram) -> bool {
    let mut pages = [const { Page::ZERO }; 2];
    let mut frames = [const { Frame::EMPTY }; 2];
    let Some(mut pool) = PagePool::new(&mut pages, &mut frames) else { return false };
    let Some(raw) = Raw::new(StorageKey(1), black_box(1000)) else { return false };
    let layers = [Layer::Raw(raw)];
    let Some(mut engine) = Engine::<4>::new(overlay, SECTORS, durability()) else { return false };
    let mut lent = Lent { pages: &mut pool, layers: black_box(&layers), index };
    let Some(extent) = Extent::new(black_box(0), black_box(2)) else { return false };
    let requests = [
        Request::Read(extent),
        Request::Write { extent, durable: black_box(true) },
        Request::Zero(extent),
        Request::Discard(extent),
        Request::Map(extent),
        Request::Restore(Note { extent, offset: None }),
        Request::Flush,
    ];
    let mut data = [0_u8; 1024];
    let mut answered = 0;
    for request in requests {
        if ENGINE.of(|| engine.submit(RequestId(0), black_box(request))).is_err() {
            return false;
        }
        while let Some(output) = ENGINE.of(|| engine.poll(&mut lent)) {
            match output {
                Output::Operation(o) => {
                    let result = perform(&o, &mut lent, &mut data, store);
                    ENGINE.of(|| engine.complete(&mut lent, o.ticket, result));
                }
                Output::Note { ticket, .. } => engine.complete(&mut lent, ticket, Ok(())),
                Output::Done { .. } => answered += 1,
                _ => {}
            }
        }
        engine.commit();
        engine.wake();
    }
    answered == 7 && engine.is_idle()
}

fn perform(
    o: &Operation,
    lent: &mut Lent<'_, '_>,
    data: &mut [u8],
    store: &mut Ram,
) -> Result<(), IoFailure> {
    use cow_core::blocking::{part, part_mut};
    let failed = |_| IoFailure::Full;
    match (o.kind, o.buffer) {
        (Kind::Read, Buffer::Page { page, offset }) => {
            let to = part_mut(lent.pages.bytes_mut(page), offset, o.len);
            store.read_at(o.offset, to.ok_or(IoFailure::Medium)?).map_err(failed)
        }
        (Kind::Write, Buffer::Page { page, offset }) => {
            let from = part(lent.pages.bytes(page), offset, o.len);
            store.write_at(o.offset, from.ok_or(IoFailure::Medium)?).map_err(failed)
        }
        (Kind::Read, Buffer::Request { offset, .. }) => {
            let to = part_mut(data, offset, o.len).ok_or(IoFailure::Medium)?;
            store.read_at(o.offset, to).map_err(failed)
        }
        (Kind::Write, Buffer::Request { offset, .. }) => {
            let from = part(data, offset, o.len).ok_or(IoFailure::Medium)?;
            store.write_at(o.offset, from).map_err(failed)
        }
        (Kind::Sync, _) => store.sync().map_err(failed),
        _ => Ok(()),
    }
}

fn durability() -> Durability {
    match black_box(0) {
        0 => Durability::Safe,
        1 => Durability::Writeback,
        _ => Durability::Ephemeral,
    }
}
