//! The persistent store of the kernel's `snapshot` target (`docs/FORMAT-DM-SNAPSHOT.md`). It names no
//! parent: that is in our file beside it.

use core::error::Error;
use std::path::Path;

use cow_core::format::dm_snapshot::{self, Fault, Loaded, MAX_CHUNK_SECTORS, RollbackError};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::storage::Storage;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::{Creation, Facts, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::identity_of;
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::parent::Below;
use crate::image::report::{CheckReport, Progress};
use crate::storage::{FileStorage, StorageError};
use crate::values::human_bytes;

/// Bytes read at a time from the list of exceptions.
const LIST_PIECE_LEN: usize = 64 << 10;

/// Exceptions for which index memory is kept ready beyond those that a store has. More are looked
/// after by growing the memory when the engine asks for it.
const INDEX_ROOM: u64 = 1 << 14;

/// Chunks unless told otherwise: 32 KiB, as in the classic recipe.
const DEFAULT_CHUNK_BYTES: u64 = 32 << 10;

#[derive(Debug)]
pub(super) struct DmSnapshot;

static CREATION: Creation = Creation {
    options: &[OptionSpec {
        key: "chunk",
        about: "bytes in a chunk, a power of two from 512 to 1G, 32K unless given",
    }],
    blank: false,
    other_size: false,
    part: false,
};

impl ImageFormat for DmSnapshot {
    fn word(&self) -> &'static str {
        "dm-snapshot"
    }

    fn about(&self) -> &'static str {
        "The persistent exception store of device-mapper's snapshot target"
    }

    fn needs_parent(&self) -> bool {
        true
    }

    fn binds_parent(&self) -> bool {
        true
    }

    fn detect(&self, first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(first.first_chunk().is_some_and(dm_snapshot::is_store))
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let mut piece = vec![0; LIST_PIECE_LEN];
        // The disk's size is not in the store; the largest lets every exception pass.
        match dm_snapshot::open_even_invalidated(&file.main, MAX_SECTORS, &mut piece) {
            Ok(opened) => {
                StoreFacts::new(&opened).tell(facts);
                if opened.is_invalidated() {
                    facts.problems.push(Fault::Invalidated.to_string());
                }
            }
            Err(dm_snapshot::OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => facts.problems.push(damage.to_string()),
        }
        Ok(())
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let origin = Binding::load(&file.main)?.and_then(|binding| binding.disk_sectors());
        Ok(origin.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let Some(below) = below else {
            return Err(HostError::usage("use the layer", "a dm-snapshot store needs its origin")
                .path(file.path())
                .advice("name the origin behind it"));
        };
        let warning = match self.parent(file)? {
            Some(recorded) => recorded.check(Some(below), file.path()).map(|()| None)?,
            None => Some(format!(
                "nothing says that `{}` belongs to the image below it: make sure yourself",
                file.path().display()
            )),
        };
        let loaded = load(&file.main, below.sectors, index)?;
        Ok(OpenedLayer {
            layer: Layer::DmSnapshot(dm_snapshot::Frozen::new(keys.main, &loaded, index)),
            identity: identity_of(&file.main)?,
            size_bytes: below.sectors.saturating_mul(SECTOR_BYTES),
            warning,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below_sectors: Option<u64>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        let recorded = || Binding::load(&file.main).map(|b| b.and_then(|b| b.disk_sectors()));
        let sectors = match below_sectors.map_or_else(recorded, |sectors| Ok(Some(sectors)))? {
            Some(sectors) => sectors,
            None => reach(&file.main)?,
        };
        let loaded = load(&file.main, sectors, index)?;
        Ok(Layer::DmSnapshot(dm_snapshot::Frozen::new(keys.main, &loaded, index)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the dm-snapshot store";
        if below.is_blank() {
            return Err(HostError::usage(op, "it needs its origin below it").path(file.path()));
        }
        if let Some(binding) = Binding::load(&file.main)? {
            binding.recorded().check(Some(below), file.path())?;
        }
        let mut piece = vec![0; LIST_PIECE_LEN];
        let mut opened = dm_snapshot::open(&file.main, below.sectors, &mut piece)
            .map_err(|e| open_failed(e, op, file.path()))?;
        let was_clean = opened.stale().is_none();
        // From here on the store is changed: everything that could be refused has been looked at.
        let binding = Binding::of_overlay(&file.main, below)?;
        // A killed process may have left writes that can be read and are yet not durable.
        file.sync_data()?;
        dm_snapshot::clear_stale(&mut file.main, &mut opened)?;
        let mut index = Vec::new();
        let loaded = load_list(&file.main, &opened, INDEX_ROOM, &mut index, &mut piece)?;
        let top = dm_snapshot::Writable::new(keys.main, &loaded).map_err(|refused| {
            HostError::new(ErrorKind::Corrupt, op).path(file.path()).detail(refused.to_string())
        })?;
        Ok(TopImage {
            used: top.exceptions().saturating_mul(top.geometry().chunk_sectors()),
            top: Top::DmSnapshot(top),
            index,
            sectors: below.sectors,
            label: String::new(),
            note_id: binding.note_id(&file.main),
            was_clean,
            discards_to_zeros: false,
        })
    }

    fn grow_index(&self, index: &mut Vec<IndexEntry>, needed: u64) -> bool {
        // Twice the memory each time, so that the copying stays rare.
        let entries = needed.max((index.len() as u64).saturating_mul(2));
        let Ok(entries) = usize::try_from(entries) else { return false };
        let mut larger = vec![IndexEntry::EMPTY; entries];
        let moved = dm_snapshot::move_index(index, &mut larger).is_ok();
        if moved {
            *index = larger;
        }
        moved
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let chunk_sectors = chunk_sectors(new.options.bytes("chunk")?)?;
        if new.is_fresh {
            file.main.extend(store_len(new.sectors, u64::from(chunk_sectors)))?;
        } else {
            dm_snapshot::unmark(&mut file.main)?;
        }
        dm_snapshot::create(&mut file.main, chunk_sectors).map_err(|error| match error {
            dm_snapshot::CreateError::Storage(error) => error.into(),
            other => HostError::new(ErrorKind::Full, "create a dm-snapshot store")
                .path(file.path())
                .detail(other.to_string()),
        })
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let sectors = match self.disk_bytes(file) {
            Ok(Some(len)) => len / SECTOR_BYTES,
            Ok(None) => {
                let text = "its origin is not known: the sizes of the two were not compared";
                report.found(false, text.to_owned());
                MAX_SECTORS
            }
            Err(error) => {
                report.found(true, error.to_string());
                MAX_SECTORS
            }
        };
        check_list(&file.main, sectors, report)
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let mut piece = vec![0; LIST_PIECE_LEN];
        let opened = dm_snapshot::open_even_invalidated(&file.main, MAX_SECTORS, &mut piece).ok();
        Binding::renew(&file.main)?;
        dm_snapshot::rollback(&mut file.main).map_err(|error| match error {
            RollbackError::Storage(error) => error.into(),
            other => HostError::new(ErrorKind::Corrupt, "roll back")
                .path(file.path())
                .detail(other.to_string()),
        })?;
        Ok(opened.map(|o| o.exceptions().saturating_mul(o.geometry().chunk_bytes())))
    }
}

/// The header and the list of a store, for a program.
#[derive(Debug, Serialize)]
struct StoreFacts {
    /// Bytes in a chunk.
    chunk_bytes: u64,
    /// Chunks of the disk that it holds.
    exceptions: u64,
    /// Sectors in use, as `dmsetup status` shows them.
    allocated_sectors: u64,
    /// All sectors.
    total_sectors: u64,
    /// Of those in use, sectors for the header and the list.
    metadata_sectors: u64,
    /// The kernel has not marked it invalid.
    is_valid: bool,
}

impl StoreFacts {
    fn new(opened: &dm_snapshot::Opened) -> Self {
        let usage = opened.usage();
        Self {
            chunk_bytes: opened.geometry().chunk_bytes(),
            exceptions: opened.exceptions(),
            allocated_sectors: usage.allocated,
            total_sectors: usage.total,
            metadata_sectors: usage.metadata,
            is_valid: !opened.is_invalidated(),
        }
    }

    fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        facts.line("chunks", format!("{} of {}", self.exceptions, human_bytes(self.chunk_bytes)));
        let (used, all, metadata) =
            (self.allocated_sectors, self.total_sectors, self.metadata_sectors);
        facts.line("sectors", format!("{used}/{all} {metadata}, as dmsetup counts"));
    }
}

/// Sectors in a chunk of so many bytes.
fn chunk_sectors(bytes: Option<u64>) -> Result<u32> {
    let len = bytes.unwrap_or(DEFAULT_CHUNK_BYTES);
    let sectors = u32::try_from(len / SECTOR_BYTES).unwrap_or(0);
    if !len.is_power_of_two() || sectors == 0 || sectors > MAX_CHUNK_SECTORS {
        return Err(HostError::usage(
            "create a dm-snapshot store",
            format!("a chunk of {len} bytes is no power of two from 512 to 1 GiB"),
        ));
    }
    Ok(sectors)
}

/// Bytes of a store that can hold every chunk of a disk: the header, the areas (of which the last
/// ends the list, so that one may be empty), and the data [FORMAT dm-snapshot 2.1].
fn store_len(disk_sectors: u64, chunk_sectors: u64) -> u64 {
    let per_area = chunk_sectors.saturating_mul(SECTOR_BYTES / 16).max(1);
    let chunks = disk_sectors.div_ceil(chunk_sectors.max(1));
    let areas = (chunks / per_area).saturating_add(1);
    let all = chunks.saturating_add(areas).saturating_add(1);
    all.saturating_mul(chunk_sectors).saturating_mul(SECTOR_BYTES)
}

/// Reads a store's list into index memory.
fn load(file: &FileStorage, disk_sectors: u64, index: &mut Vec<IndexEntry>) -> Result<Loaded> {
    let mut piece = vec![0; LIST_PIECE_LEN];
    let opened = dm_snapshot::open(file, disk_sectors, &mut piece)
        .map_err(|e| open_failed(e, "open the dm-snapshot store", file.path()))?;
    load_list(file, &opened, 0, index, &mut piece)
}

/// Reads an open store's list into index memory with room for `more` further exceptions, as far as
/// the store can have them.
fn load_list(
    file: &FileStorage,
    opened: &dm_snapshot::Opened,
    more: u64,
    index: &mut Vec<IndexEntry>,
    piece: &mut [u8],
) -> Result<Loaded> {
    let op = "open the dm-snapshot store";
    let room = opened.exceptions().saturating_add(more).min(opened.geometry().capacity());
    let needed = dm_snapshot::index_needed(room).max(opened.index_needed());
    let entries = usize::try_from(needed).map_err(|_too_many| {
        HostError::new(ErrorKind::Full, op).path(file.path()).detail("its index needs more memory")
    })?;
    *index = vec![IndexEntry::EMPTY; entries];
    dm_snapshot::load_index(file, opened, index, piece).map_err(|error| match error {
        dm_snapshot::LoadError::Storage(error) => error.into(),
        error => damaged(&error, op, file.path()),
    })
}

/// Sectors up to the end of the last chunk that a store holds, where its disk's size is unknown.
fn reach(file: &FileStorage) -> Result<u64> {
    let op = "read the dm-snapshot store";
    let mut piece = vec![0; LIST_PIECE_LEN];
    let opened = dm_snapshot::open(file, MAX_SECTORS, &mut piece)
        .map_err(|e| open_failed(e, op, file.path()))?;
    let chunk = opened.geometry().chunk_sectors();
    let mut walk = dm_snapshot::Exceptions::new(&opened, &mut piece);
    let mut end = 0_u64;
    loop {
        match walk.next(file) {
            Ok(Some(exception)) => {
                end = end.max(exception.disk_chunk.saturating_add(1).saturating_mul(chunk));
            }
            Ok(None) => return Ok(end.clamp(1, MAX_SECTORS)),
            Err(dm_snapshot::WalkError::Storage(error)) => return Err(error.into()),
            Err(damage) => {
                return Err(HostError::new(ErrorKind::Corrupt, op)
                    .path(file.path())
                    .detail(damage.to_string()));
            }
        }
    }
}

fn check_list(file: &FileStorage, sectors: u64, report: &mut CheckReport) -> Result<()> {
    let mut piece = vec![0; LIST_PIECE_LEN];
    // Without memory a first reading only tells how much the second needs.
    let asked = dm_snapshot::check(file, sectors, &mut [], &mut piece, |_fault| {});
    let needed = match asked {
        Err(dm_snapshot::CheckError::IndexTooSmall { needed }) => needed,
        _ => 0,
    };
    let entries = usize::try_from(needed).map_err(|_too_many| {
        HostError::new(ErrorKind::Full, "check the dm-snapshot store").path(file.path())
    })?;
    let mut index = vec![IndexEntry::EMPTY; entries];
    let checked = dm_snapshot::check(file, sectors, &mut index, &mut piece, |fault| {
        report.found(!fault.is_harmless(), fault.to_string());
    });
    match checked {
        Err(dm_snapshot::CheckError::Storage(error)) => return Err(error.into()),
        Err(damage) => report.found(true, damage.to_string()),
        Ok(counts) => {
            report.data_bytes = counts.exceptions.saturating_mul(counts.geometry.chunk_bytes());
        }
    }
    Ok(())
}

/// A store that was not opened.
fn open_failed(error: dm_snapshot::OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    use dm_snapshot::OpenError;
    match error {
        OpenError::Storage(error) => error.into(),
        error @ (OpenError::NotAStore { .. } | OpenError::Version { .. }) => {
            HostError::new(ErrorKind::Unsupported, op).path(path).detail(error.to_string())
        }
        error => damaged(&error, op, path),
    }
}

fn damaged(error: &dyn Error, op: &str, path: &Path) -> HostError {
    HostError::new(ErrorKind::Corrupt, op)
        .path(path)
        .detail(error.to_string())
        .advice("`cowblade check` lists everything that is wrong with it")
}
