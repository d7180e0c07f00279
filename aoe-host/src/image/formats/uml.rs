//! User-Mode-Linux' COW files (`docs/FORMAT-UML.md`). They name their parent, and recognise it by its
//! size and time of modification.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::format::uml::{self, OpenError, PathError, Version};
use cow_core::format::{IndexEntry, Layer};
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::{Creation, Facts, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage, bitmaps};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::{identity_of, scratch_page};
use crate::image::name::{ImageFile, ImageKeys, ImageName};
use crate::image::parent::{Below, Known, ParentFacts, Recorded, Units};
use crate::image::report::{CheckReport, Progress};
use crate::image::sparse::Told;
use crate::image::text;
use crate::storage::{FileStorage, StorageError};

/// As the kernel and `uml_mkcow` take it.
const DEFAULT_ALIGNMENT: u32 = 4096;

#[derive(Debug)]
pub(super) struct Uml;

static CREATION: Creation = Creation {
    options: &[
        OptionSpec { key: "version", about: "version of the header, 1 to 3, 3 unless given" },
        OptionSpec {
            key: "align",
            about: "alignment of bitmap and data in version 3, a power of two from 512 to 1M, 4K \
                    unless given",
        },
    ],
    blank: false,
    other_size: false,
    part: false,
};

impl ImageFormat for Uml {
    fn word(&self) -> &'static str {
        "uml"
    }

    fn about(&self) -> &'static str {
        "COW files of User-Mode-Linux, versions 1 to 3"
    }

    fn needs_parent(&self) -> bool {
        true
    }

    fn detect(&self, first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(first.first_chunk().is_some_and(uml::is_uml))
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let opened = match uml::open(&file.main) {
            Ok(opened) => opened,
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => {
                facts.problems.push(damage.to_string());
                return Ok(());
            }
        };
        facts.disk_bytes = Some(disk_bytes(&opened));
        let parent = match parent_path(file, &opened) {
            Ok(path) => Some(path),
            Err(error) => {
                facts.problems.push(error.to_string());
                None
            }
        };
        UmlFacts::new(&opened, parent).tell(facts);
        Ok(())
    }

    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        let opened = open(file, "read the parent of")?;
        let path = parent_path(file, &opened)?;
        Ok(Some(Recorded { path: Some(path), ..recorded(&opened) }))
    }

    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        let op = "rebind";
        let mut opened = open(file, op)?;
        let name = name_of(below, file.path(), op)?;
        let parent = uml::NewParent {
            path: &name,
            size_bytes: size_of(below),
            mtime_s: below.parent.mtime_s.unwrap_or(0),
        };
        let path = file.path().to_owned();
        uml::set_parent(&mut file.main, &mut opened, &parent, &mut scratch_page())
            .map_err(|error| path_failed(error, op, &path))?;
        // Of a file that was an overlay here: nothing may tell of another parent.
        if Binding::load(&file.main)?.is_some() { super::bind(file, below) } else { Ok(()) }
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        Ok(Some(disk_bytes(&open(file, "measure the disk")?)))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let opened = open(file, "use the layer")?;
        recorded(&opened).check(below, file.path())?;
        Ok(OpenedLayer {
            layer: Layer::Bitmap(opened.frozen(keys.main)),
            identity: identity_of(&file.main)?,
            size_bytes: disk_bytes(&opened),
            warning: None,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        _below_sectors: Option<u64>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        Ok(Layer::Bitmap(open(file, "read the image")?.frozen(keys.main)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the overlay";
        let opened = open(file, op)?;
        recorded(&opened).check(Some(below), file.path())?;
        let used = bitmaps::count(&file.main, &opened.geometry())?;
        let path = file.path().to_owned();
        let top = uml::open_writable(&mut file.main, keys.main, &mut scratch_page())
            .map_err(|error| open_failed(error, op, &path))?;
        bitmaps::overlay(file, below, top, (used, true))
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let op = "create the COW file";
        let path = file.path().to_owned();
        let name = name_of(new.below, &path, op)?;
        let options = uml::CreateOptions {
            version: version(new.options.parsed("version")?)?,
            path: &name,
            size_bytes: size_of(new.below),
            mtime_s: new.below.parent.mtime_s.unwrap_or(0),
            alignment: alignment(new.options.bytes("align")?),
            wipe: !new.is_fresh,
        };
        uml::create(&mut file.main, &options).map(drop).map_err(|error| match error {
            uml::CreateError::Storage(error) => error.into(),
            other => HostError::usage(op, other.to_string()).path(path),
        })
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let total = uml::open(&file.main).map_or(0, |opened| opened.geometry().data_offset());
        let mut tell = |done, total| progress(done, total);
        let told = Told::new(&file.main, total, &mut tell);
        let checked = uml::check(&told, &mut scratch_page(), |f| bitmaps::finding(report, f));
        match checked {
            Ok(counts) => bitmaps::counted(report, &counts),
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => report.found(true, damage.to_string()),
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let held = match uml::open(&file.main) {
            Ok(opened) => bitmaps::count(&file.main, &opened.geometry()).ok(),
            Err(_being_emptied) => None,
        };
        Binding::renew(&file.main)?;
        uml::rollback(&mut file.main).map_err(|error| match error {
            uml::RollbackError::Storage(error) => error.into(),
            other => HostError::new(ErrorKind::Corrupt, "roll back")
                .path(file.path())
                .detail(other.to_string()),
        })?;
        Ok(held.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)))
    }
}

/// The header of a file, for a program.
#[derive(Debug, Serialize)]
struct UmlFacts {
    /// Version of the header.
    version: u32,
    /// The header has the padding that 64-bit programs once wrote.
    is_padded: bool,
    /// The parent as the file names it, from here.
    parent: Option<PathBuf>,
    /// Its size, in bytes.
    parent_bytes: u64,
    /// When it was modified, in seconds since 1970 modulo 2^32.
    parent_mtime_s: u32,
    /// Sectors at the end of the disk that cannot be written.
    unwritable_sectors: u64,
    /// The reference implementation can use it.
    fits_reference: bool,
}

impl UmlFacts {
    fn new(opened: &uml::Opened, parent: Option<PathBuf>) -> Self {
        let geometry = opened.geometry();
        Self {
            version: opened.version().number(),
            is_padded: opened.version() == Version::V3Padded,
            parent,
            parent_bytes: opened.size_bytes(),
            parent_mtime_s: opened.mtime_s(),
            unwritable_sectors: geometry.sectors().saturating_sub(geometry.mapped_sectors()),
            fits_reference: opened.fits_reference(),
        }
    }

    fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        let padded = if self.is_padded { ", with the padding of old 64-bit programs" } else { "" };
        facts.line("version", format!("{}{padded}", self.version));
        facts.line(
            "recorded",
            format!(
                "a parent of {}, modified {}",
                text::bytes(self.parent_bytes),
                text::moment(self.parent_mtime_s.into())
            ),
        );
        if self.unwritable_sectors > 0 {
            let sectors = self.unwritable_sectors;
            facts.line("note", format!("the last {sectors} sectors cannot be written"));
        }
        if !self.fits_reference {
            facts.line("note", "too large for User-Mode-Linux itself");
        }
    }
}

fn open(file: &ImageFile, op: &str) -> Result<uml::Opened> {
    uml::open(&file.main).map_err(|error| open_failed(error, op, file.path()))
}

fn disk_bytes(opened: &uml::Opened) -> u64 {
    opened.geometry().sectors().saturating_mul(SECTOR_BYTES)
}

/// By what the file recognises its parent.
fn recorded(opened: &uml::Opened) -> Recorded {
    let facts = ParentFacts {
        size: Some(Units { count: opened.size_bytes(), unit_bytes: 1 }),
        mtime_s: Some(opened.mtime_s()),
        fingerprint: None,
    };
    Recorded { known: Known::Facts(facts), window: None, path: None, format: None }
}

/// Where the file says that its parent is.
fn parent_path(file: &ImageFile, opened: &uml::Opened) -> Result<PathBuf> {
    let mut buffer = vec![0; opened.version().path_most().saturating_add(1)];
    let name = uml::read_path(&file.main, opened, &mut buffer)
        .map_err(|error| path_failed(error, "read the name of the parent", file.path()))?;
    // Written as an absolute path; whoever edited it may have thought of the file's own directory.
    let beside = file.path().parent().unwrap_or(Path::new(""));
    Ok(ImageName::remembered(Path::new(OsStr::from_bytes(name)), beside).spelt())
}

/// What the file is to call its parent.
fn name_of(below: &Below, image: &Path, op: &str) -> Result<Vec<u8>> {
    let Some(path) = below.path.as_deref() else {
        return Err(HostError::usage(op, "it needs an image below it").path(image));
    };
    Ok(path.as_os_str().as_bytes().to_vec())
}

/// Size of the parent as the format counts it: to the byte, where it is a plain image.
fn size_of(below: &Below) -> u64 {
    below.parent.size_bytes.unwrap_or(below.sectors.saturating_mul(SECTOR_BYTES))
}

fn version(number: Option<u32>) -> Result<Version> {
    match number {
        None | Some(3) => Ok(Version::V3),
        Some(2) => Ok(Version::V2),
        Some(1) => Ok(Version::V1),
        Some(other) => Err(HostError::usage(
            "create the COW file",
            format!("there is no version {other}: it is 1, 2 or 3"),
        )),
    }
}

/// What is no alignment is refused when the file is made.
fn alignment(bytes: Option<u64>) -> u32 {
    bytes.map_or(DEFAULT_ALIGNMENT, |bytes| u32::try_from(bytes).unwrap_or(0))
}

/// A file that was not opened.
fn open_failed(error: OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => error.into(),
        OpenError::NotUml { .. } | OpenError::Version { .. } | OpenError::MapKind { .. } => {
            told(ErrorKind::Unsupported)
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

fn path_failed(error: PathError<StorageError>, op: &str, path: &Path) -> HostError {
    match error {
        PathError::Storage(error) => error.into(),
        other @ PathError::Sectors { .. } => {
            HostError::new(ErrorKind::Mismatch, op).path(path).detail(other.to_string())
        }
        other => HostError::new(ErrorKind::Corrupt, op)
            .path(path)
            .detail(other.to_string())
            .advice("name the image below it yourself"),
    }
}
