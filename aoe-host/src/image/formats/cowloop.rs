//! Cowfiles of cowloop (`docs/FORMAT-COWLOOP.md`). They know the size of their parent and a weak
//! fingerprint; where it is, and what it is for sure, is in our file beside them.

use std::path::Path;

use cow_core::format::cowloop::{
    self, CloseError, CreateError, LoadError, OpenError, PackError, Width,
};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::pages::Page;
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::{
    Creation, Facts, FormatOptions, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage,
    bitmaps,
};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::{identity_of, scratch_page};
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::parent::{Below, Fingerprint, Known, ParentFacts, Recorded, Units};
use crate::image::report::{CheckReport, Progress};
use crate::image::sparse::{Sparse, SparseMut};
use crate::image::text;
use crate::storage::{FileStorage, StorageError};

/// Bytes of a unit.
const UNIT_BYTES: u64 = 1024;

#[derive(Debug)]
pub(super) struct Cowloop;

static CREATION: Creation = Creation {
    options: &[
        OptionSpec {
            key: "width",
            about: "bits in a word of the machine that is to use it, 32 or 64, 64 unless given",
        },
        OptionSpec {
            key: "order",
            about: "order of bytes of that machine, little or big, little unless given",
        },
        OptionSpec {
            key: "packed",
            about: "yes for only what is there, one after the other, to be kept and not written; no \
                    unless given",
        },
    ],
    blank: false,
    other_size: false,
    part: false,
};

impl ImageFormat for Cowloop {
    fn word(&self) -> &'static str {
        "cowloop"
    }

    fn about(&self) -> &'static str {
        "Cowfiles of the cowloop driver; packed ones are read"
    }

    fn needs_parent(&self) -> bool {
        true
    }

    fn unit_sectors(&self) -> u64 {
        UNIT_BYTES / SECTOR_BYTES
    }

    fn binds_parent(&self) -> bool {
        true
    }

    fn detect(&self, first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(first.first_chunk().is_some_and(cowloop::is_cowloop))
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let sparse = Sparse::new(&file.main);
        match cowloop::open_in_any_state(&sparse, &mut scratch_page()) {
            Ok(opened) => {
                facts.disk_bytes = Some(disk_bytes(&opened));
                CowfileFacts::new(&opened).tell(facts);
            }
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => facts.problems.push(damage.to_string()),
        }
        if let Err(error @ (OpenError::Dirty | OpenError::WrongCount { .. })) =
            cowloop::open(&sparse, &mut scratch_page())
        {
            facts.problems.push(error.to_string());
        }
        Ok(())
    }

    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        if let Some(binding) = Binding::load(&file.main)? {
            return Ok(Some(binding.recorded()));
        }
        let opened = cowloop::open_in_any_state(&Sparse::new(&file.main), &mut scratch_page());
        let opened = opened.map_err(|e| open_failed(e, "read the parent of", file.path()))?;
        Ok(Some(recorded(&opened)))
    }

    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        let op = "rebind";
        let opened = open(file, op)?;
        let size = Recorded { known: Known::Facts(size_of(&opened)), ..recorded(&opened) };
        size.check(Some(below), file.path())?;
        let fingerprint = fingerprint_of(below)?;
        // Who is cut in between is refused with either parent, and rebinding to the new one goes on.
        super::bind(file, below)?;
        let path = file.path().to_owned();
        cowloop::set_fingerprint(&mut file.main, fingerprint)
            .map_err(|error| open_failed(error, op, &path))
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let opened = cowloop::open_in_any_state(&Sparse::new(&file.main), &mut scratch_page());
        let opened = opened.map_err(|e| open_failed(e, "measure the disk", file.path()))?;
        Ok(Some(disk_bytes(&opened)))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let op = "use the layer";
        let opened = open(file, op)?;
        let warning = compare(file, &opened, below)?;
        load_index(file, &opened, index, op)?;
        Ok(OpenedLayer {
            layer: Layer::Bitmap(opened.frozen(keys.main, index)),
            identity: identity_of(&file.main)?,
            size_bytes: disk_bytes(&opened),
            warning,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        _below_sectors: Option<u64>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        let op = "read the image";
        let opened = open(file, op)?;
        load_index(file, &opened, index, op)?;
        Ok(Layer::Bitmap(opened.frozen(keys.main, index)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the overlay";
        let opened = open(file, op)?;
        let _told_when_it_is_made = compare(file, &opened, Some(below))?;
        let top =
            cowloop::open_writable(&mut SparseMut::new(&file.main), keys.main, &mut scratch_page())
                .map_err(|error| open_failed(error, op, file.path()))?;
        let used = opened.used_units().saturating_mul(UNIT_BYTES / SECTOR_BYTES);
        bitmaps::overlay(file, below, top, (used, opened.was_closed()))
    }

    fn close(&self, file: &mut ImageFile, top: &mut Top) -> Result<()> {
        let Top::Bitmap(overlay) = top else { return file.sync_data() };
        let mut storage = SparseMut::new(&file.main);
        cowloop::close(&mut storage, overlay, &mut scratch_pages()).map_err(|error| match error {
            CloseError::Storage(error) => error.into(),
            other => HostError::new(ErrorKind::Corrupt, "close the overlay")
                .path(file.path())
                .detail(other.to_string()),
        })
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let op = "create the cowfile";
        let parent = &new.below.parent;
        let parent_bytes =
            parent.size_bytes.unwrap_or(new.below.sectors.saturating_mul(SECTOR_BYTES));
        let _said_later = new.options.is_yes("packed")?;
        let options = cowloop::CreateOptions {
            width: width(new.options.parsed("width")?)?,
            big_endian: is_big_endian(new.options.text("order"))?,
            parent_bytes,
            fingerprint: fingerprint_of(new.below)?,
            wipe: !new.is_fresh,
        };
        let path = file.path().to_owned();
        cowloop::create(&mut file.main, &options).map(drop).map_err(|error| match error {
            CreateError::Storage(error) => error.into(),
            other => HostError::usage(op, other.to_string()).path(path),
        })
    }

    fn complete(&self, file: &mut ImageFile, options: &FormatOptions) -> Result<()> {
        if !options.is_yes("packed")? {
            return Ok(());
        }
        let op = "pack the cowfile";
        let opened = open(file, op)?;
        // Every unit goes to where it was, or further to the front: onto nothing that is still needed.
        let (source, mut target) = (Sparse::new(&file.main), file.main.clone());
        cowloop::pack(&source, &opened, &mut target, &mut scratch_pages()).map_err(|error| {
            match error {
                PackError::Source(error) | PackError::Target(error) => error.into(),
                other => HostError::usage(op, other.to_string()).path(file.path()),
            }
        })?;
        if !file.main.is_device() {
            let data = opened.used_units().saturating_mul(UNIT_BYTES);
            let end = opened.geometry().data_offset().saturating_add(data);
            let failed = |e| HostError::io(e, op).path(file.path());
            file.main.file().set_len(end).map_err(failed)?;
        }
        file.sync_data()
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let sparse = Sparse::new(&file.main);
        let checked =
            cowloop::check(&sparse, &mut scratch_pages(), |f| bitmaps::finding(report, f));
        match checked {
            Ok(counts) => bitmaps::counted(report, &counts),
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => report.found(true, damage.to_string()),
        }
        Ok(())
    }

    fn repair(
        &self,
        file: &mut ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let sparse = Sparse::new(&file.main);
        let before = match cowloop::open_in_any_state(&sparse, &mut scratch_page()) {
            Ok(before) => before,
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(_cannot_be_repaired) => return Ok(()), // the check that follows tells
        };
        let was_good = before.was_closed() && cowloop::open(&sparse, &mut scratch_page()).is_ok();
        let mut storage = SparseMut::new(&file.main);
        let repaired = cowloop::repair(&mut storage, &mut scratch_pages())
            .map_err(|error| open_failed(error, "repair", file.path()))?;
        if repaired.listed > 0 {
            report.repaired.push(format!(
                "{} units of 1 KiB had data and no bit, and have one now",
                repaired.listed
            ));
        }
        if !was_good && !before.is_packed() {
            report
                .repaired
                .push(format!("the head is clean and counts {} units", repaired.used_units));
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let opened = cowloop::open_in_any_state(&Sparse::new(&file.main), &mut scratch_page());
        let held = opened.map(|opened| opened.used_units().saturating_mul(UNIT_BYTES)).ok();
        Binding::renew(&file.main)?;
        cowloop::rollback(&mut file.main)
            .map_err(|error| open_failed(error, "roll back", file.path()))?;
        Ok(held)
    }
}

/// The head of a cowfile, for a program.
#[derive(Debug, Serialize)]
struct CowfileFacts {
    /// Bits in a word of its head.
    width_bits: u8,
    is_big_endian: bool,
    /// Only what is there, one after the other.
    is_packed: bool,
    /// The last program that wrote it came to an orderly end.
    is_clean: bool,
    /// Bytes that it holds.
    data_bytes: u64,
    /// Whole units of 1024 bytes of the parent.
    parent_units: u64,
    /// Sums of some bytes of the parent.
    fingerprint: u32,
}

impl CowfileFacts {
    fn new(opened: &cowloop::Opened) -> Self {
        Self {
            width_bits: if opened.width() == Width::Bits32 { 32 } else { 64 },
            is_big_endian: opened.is_big_endian(),
            is_packed: opened.is_packed(),
            is_clean: opened.was_closed(),
            data_bytes: opened.used_units().saturating_mul(UNIT_BYTES),
            parent_units: opened.units(),
            fingerprint: opened.fingerprint(),
        }
    }

    fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        let order = if self.is_big_endian { "big" } else { "little" };
        facts.line("head", format!("of a {}-bit {order}-endian machine", self.width_bits));
        facts.line("holds", text::bytes(self.data_bytes));
        if self.is_packed {
            facts.line("form", "packed: to be read only");
        }
        facts.line("recorded", format!("a parent with the fingerprint {:#010x}", self.fingerprint));
    }
}

fn scratch_pages() -> [Page; 2] {
    [const { Page::ZERO }; 2]
}

fn open(file: &ImageFile, op: &str) -> Result<cowloop::Opened> {
    let opened = cowloop::open(&Sparse::new(&file.main), &mut scratch_page());
    opened.map_err(|error| open_failed(error, op, file.path()))
}

fn disk_bytes(opened: &cowloop::Opened) -> u64 {
    opened.units().saturating_mul(UNIT_BYTES)
}

fn load_index(
    file: &ImageFile,
    opened: &cowloop::Opened,
    index: &mut Vec<IndexEntry>,
    op: &str,
) -> Result<()> {
    let entries = usize::try_from(opened.index_needed()).map_err(|_too_many| {
        HostError::new(ErrorKind::Full, op).path(file.path()).detail("its index needs more memory")
    })?;
    *index = vec![IndexEntry::EMPTY; entries];
    cowloop::load_index(&Sparse::new(&file.main), opened, index, &mut scratch_page()).map_err(
        |error| match error {
            LoadError::Storage(error) => error.into(),
            other => {
                HostError::new(ErrorKind::Corrupt, op).path(file.path()).detail(other.to_string())
            }
        },
    )
}

/// By what the file itself recognises its parent.
fn recorded(opened: &cowloop::Opened) -> Recorded {
    let value = opened.fingerprint();
    let fingerprint = (value != 0).then_some(Fingerprint { value, of: fingerprint });
    let facts = ParentFacts { fingerprint, ..size_of(opened) };
    Recorded { known: Known::Facts(facts), window: None, path: None, format: None }
}

/// What remains of it when the content of the parent may be another.
fn size_of(opened: &cowloop::Opened) -> ParentFacts {
    let size = Some(Units { count: opened.units(), unit_bytes: UNIT_BYTES });
    ParentFacts { size, mtime_s: None, fingerprint: None }
}

/// Compares what is below with both records; a warning, if there is only the weak one.
fn compare(
    file: &ImageFile,
    opened: &cowloop::Opened,
    below: Option<&Below>,
) -> Result<Option<String>> {
    recorded(opened).check(below, file.path())?;
    if let Some(binding) = Binding::load(&file.main)? {
        binding.recorded().check(below, file.path())?;
        return Ok(None);
    }
    Ok(Some(format!(
        "`{}` knows its parent by its size and a weak sum only: make sure yourself that it is the one",
        file.path().display()
    )))
}

/// Of a parent that is no plain image nobody has to know it: 0 is compared with nothing.
fn fingerprint_of(below: &Below) -> Result<u32> {
    below.parent.raw.as_ref().map_or(Ok(0), fingerprint)
}

fn fingerprint(file: &FileStorage) -> Result<u32> {
    Ok(cowloop::fingerprint(&Sparse::new(file), &mut scratch_page())?)
}

fn width(bits: Option<u32>) -> Result<Width> {
    match bits {
        None | Some(64) => Ok(Width::Bits64),
        Some(32) => Ok(Width::Bits32),
        Some(other) => Err(HostError::usage(
            "create the cowfile",
            format!("there is no head with words of {other} bits: it is 32 or 64"),
        )),
    }
}

fn is_big_endian(order: Option<&str>) -> Result<bool> {
    match order {
        None | Some("little") => Ok(false),
        Some("big") => Ok(true),
        Some(other) => Err(HostError::usage(
            "create the cowfile",
            format!("`{other}` is no order of bytes: it is little or big"),
        )),
    }
}

/// A file that was not opened.
fn open_failed(error: OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => error.into(),
        OpenError::NotCowloop { .. }
        | OpenError::Version { .. }
        | OpenError::Flags { .. }
        | OpenError::UnitSize { .. } => told(ErrorKind::Unsupported),
        OpenError::Gzipped => told(ErrorKind::Unsupported).advice("`gunzip` it"),
        OpenError::Packed => told(ErrorKind::Unsupported)
            .advice("use it as a layer, below an overlay; or unpack it with `cowblade convert`"),
        OpenError::Dirty | OpenError::WrongCount { .. } => {
            told(ErrorKind::Corrupt).advice("`cowblade check --repair` mends that")
        }
        OpenError::BeingEmptied => {
            told(ErrorKind::Corrupt).advice("`cowblade rollback` it again, to the end")
        }
        OpenError::Truncated { .. } | OpenError::DataMissing { .. } => told(ErrorKind::Corrupt)
            .advice("the end of the file is missing: copy it again, sparse and complete"),
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade info` shows what is left; restore it from a backup"),
    }
}
