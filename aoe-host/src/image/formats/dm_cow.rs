//! Layers of the `cow` target of 2006 (`docs/FORMAT-DM-COW.md`): `dm-cow:WRITE+BITMAP`. They say
//! nothing about their parent or their size: that is in our file beside the write device.

use std::path::Path;

use cow_core::format::dm_cow::{self, CreateError, Layout, OpenError, Table};
use cow_core::format::{IndexEntry, Layer};
use cow_core::pages::StorageKey;
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::{Creation, Facts, ImageFormat, NewImage, OpenedLayer, TopImage, bitmaps};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::{identity_of, scratch_page};
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::parent::Below;
use crate::image::report::{CheckReport, Progress};
use crate::image::sparse::Told;
use crate::image::text;
use crate::storage::{FileStorage, StorageError};

/// One of the two ways in which bits can lie.
#[derive(Debug)]
pub(super) struct DmCow {
    word: &'static str,
    about: &'static str,
    layout: Layout,
}

/// What was meant, and is written.
pub(super) static INTENDED: DmCow = DmCow {
    word: "dm-cow",
    about: "Layers of the dm-cow target of 2006, in two files",
    layout: Layout::Intended,
};

/// What the posted code did. The size of a block is not recorded, so the user says it.
pub(super) static POSTED_512: DmCow = posted("dm-cow-posted-512", 512);
pub(super) static POSTED_1024: DmCow = posted("dm-cow-posted-1024", 1024);
pub(super) static POSTED_2048: DmCow = posted("dm-cow-posted-2048", 2048);
pub(super) static POSTED_4096: DmCow = posted("dm-cow-posted-4096", 4096);

const fn posted(word: &'static str, block_bytes: u64) -> DmCow {
    DmCow {
        word,
        about: "As the posted code of dm-cow wrote them, with blocks of that size; read only",
        layout: Layout::AsPosted { block_bytes },
    }
}

static CREATION: Creation = Creation { options: &[], blank: false, other_size: false, part: false };

impl DmCow {
    fn table(&self, sectors: u64) -> Table {
        Table { sectors, write_offset_sectors: 0, layout: self.layout }
    }

    fn open(&self, file: &ImageFile, sectors: u64, op: &str) -> Result<dm_cow::Opened> {
        let opened = dm_cow::open(bitmap(file, op)?, &self.table(sectors));
        opened.map_err(|error| open_failed(error, op, file.path()))
    }
}

impl ImageFormat for DmCow {
    fn word(&self) -> &'static str {
        self.word
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn has_metadata_file(&self) -> bool {
        true
    }

    fn needs_parent(&self) -> bool {
        true
    }

    fn binds_parent(&self) -> bool {
        true
    }

    fn detect(&self, _first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(false) // nothing in the write device says what it is
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let op = "describe";
        facts.disk_bytes = self.disk_bytes(file)?;
        let Some(bytes) = facts.disk_bytes else {
            facts.line("size", "not known: nothing says what it was made over");
            return Ok(());
        };
        match dm_cow::open(bitmap(file, op)?, &self.table(bytes.div_ceil(SECTOR_BYTES))) {
            Ok(opened) => {
                let sectors = bitmaps::count(bitmap(file, op)?, &opened.geometry())?;
                LayerFacts { data_bytes: sectors.saturating_mul(SECTOR_BYTES) }.tell(facts);
            }
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => facts.problems.push(damage.to_string()),
        }
        Ok(())
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let sectors = recorded_sectors(file)?;
        Ok(sectors.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let op = "use the layer";
        let Some(below) = below else {
            return Err(HostError::usage(op, "a dm-cow layer needs its base")
                .path(file.path())
                .advice("name the base behind it"));
        };
        let warning = match self.parent(file)? {
            Some(recorded) => recorded.check(Some(below), file.path()).map(|()| None)?,
            None => Some(format!(
                "nothing says that `{}` belongs to the image below it: make sure yourself",
                file.path().display()
            )),
        };
        let opened = self.open(file, below.sectors, op)?;
        let len = file.main.len_bytes()?;
        Ok(OpenedLayer {
            layer: Layer::Bitmap(opened.frozen(keys.main, bitmap_key(keys), len)),
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
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        let op = "read the image";
        let opened = self.open(file, sectors(file, below_sectors, op)?, op)?;
        let len = file.main.len_bytes()?;
        Ok(Layer::Bitmap(opened.frozen(keys.main, bitmap_key(keys), len)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the overlay";
        if below.is_blank() {
            return Err(HostError::usage(op, "it needs its base below it").path(file.path()));
        }
        if let Some(recorded) = self.parent(file)? {
            recorded.check(Some(below), file.path())?;
        }
        let opened = self.open(file, below.sectors, op)?;
        let len = file.main.len_bytes()?;
        let top = opened
            .writable(keys.main, bitmap_key(keys), len)
            .map_err(|error| open_failed(error, op, file.path()))?;
        let used = bitmaps::count(bitmap(file, op)?, &opened.geometry())?;
        // A killed process may have left writes that can be read and are yet not durable.
        file.sync_data()?;
        bitmaps::overlay(file, below, top, (used, true))
    }

    fn creation(&self) -> Option<&'static Creation> {
        (self.layout == Layout::Intended).then_some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let op = "create the dm-cow layer";
        let path = file.path().to_owned();
        let Some(bitmap) = file.metadata.as_mut() else { return Err(one_file(op, &path)) };
        if new.is_fresh {
            file.main.extend(new.sectors.saturating_mul(SECTOR_BYTES))?;
            bitmap.extend(dm_cow::bitmap_bytes(new.sectors))?;
        } else if bitmap.len_bytes()? >= dm_cow::bitmap_bytes(new.sectors) {
            dm_cow::unmark(bitmap, new.sectors)?;
        }
        dm_cow::create(bitmap, new.sectors).map_err(|error| match error {
            CreateError::Storage(error) => error.into(),
            other => HostError::new(ErrorKind::Full, op).path(path).detail(other.to_string()),
        })
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let op = "check";
        let table = self.table(sectors(file, None, op)?);
        let total = dm_cow::bitmap_bytes(table.sectors);
        let mut tell = |done, total| progress(done, total);
        let told = Told::new(bitmap(file, op)?, total, &mut tell);
        let len = file.main.len_bytes()?;
        let checked = dm_cow::check(&told, &table, len, &mut scratch_page(), |f| {
            bitmaps::finding(report, f);
        });
        match checked {
            Ok(counts) => bitmaps::counted(report, &counts),
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => report.found(true, damage.to_string()),
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let op = "roll back";
        let table = self.table(sectors(file, None, op)?);
        let held = match dm_cow::open(bitmap(file, op)?, &table) {
            Ok(opened) => bitmaps::count(bitmap(file, op)?, &opened.geometry()).ok(),
            Err(_being_emptied) => None,
        };
        Binding::renew(&file.main)?;
        let path = file.path().to_owned();
        let Some(bitmap) = file.metadata.as_mut() else { return Err(one_file(op, &path)) };
        dm_cow::rollback(bitmap, &table).map_err(|error| open_failed(error, op, &path))?;
        file.main.punch_hole(0, table.sectors.saturating_mul(SECTOR_BYTES))?;
        Ok(held.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)))
    }
}

/// What a layer says about itself, for a program.
#[derive(Debug, Serialize)]
struct LayerFacts {
    /// Bytes that it holds.
    data_bytes: u64,
}

impl LayerFacts {
    fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        facts.line("holds", text::bytes(self.data_bytes));
    }
}

/// Size of the disk: recorded in our file, or that of what is below.
fn sectors(file: &ImageFile, below: Option<u64>, op: &str) -> Result<u64> {
    if let Some(sectors) = below {
        return Ok(sectors);
    }
    recorded_sectors(file)?.ok_or_else(|| {
        HostError::usage(op, "nothing says how large its disk is")
            .path(file.path())
            .advice("name the image below it")
    })
}

/// What our file beside the layer says about its size.
fn recorded_sectors(file: &ImageFile) -> Result<Option<u64>> {
    Ok(Binding::load(&file.main)?.and_then(|binding| binding.disk_sectors()))
}

fn bitmap<'f>(file: &'f ImageFile, op: &str) -> Result<&'f FileStorage> {
    file.metadata.as_ref().ok_or_else(|| one_file(op, file.path()))
}

/// The bitmap's key; names of this format always have both.
fn bitmap_key(keys: ImageKeys) -> StorageKey {
    keys.metadata.unwrap_or(keys.main)
}

fn one_file(op: &str, path: &Path) -> HostError {
    HostError::usage(op, "a dm-cow layer consists of two files")
        .path(path)
        .advice("write dm-cow:WRITE+BITMAP")
}

/// A layer that was not opened.
fn open_failed(error: OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => error.into(),
        OpenError::NotDmCow { .. } | OpenError::Blank | OpenError::Length { .. } => {
            told(ErrorKind::Mismatch)
                .advice("make sure that the two files and the base belong together")
        }
        OpenError::ReadOnlyLayout => {
            told(ErrorKind::Unsupported).advice("use it as a layer, below an overlay")
        }
        OpenError::BeingEmptied => {
            told(ErrorKind::Corrupt).advice("`cowblade rollback` it again, to the end")
        }
        _ => told(ErrorKind::Corrupt)
            .advice("the end of a file is missing: copy it again, sparse and complete"),
    }
}
