//! `cowblade create`.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::identity::ParentIdentity;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::chain::below_of;
use crate::config::Window;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Creation, Format, FormatOptions, ImageName, NewOverlay, Progress, bytes_text, detect,
    full_hash, make_overlay, with_content,
};
use crate::storage::{DiskUse, FileOptions, FileStorage};

/// What [`create`] is to make.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// The overlay, which must not exist; for formats of two files both, as `DATA+METADATA`.
    pub path: PathBuf,
    /// The image below; `None` for a blank disk.
    pub backing: Option<PathBuf>,
    /// The part of the image below that is used.
    pub window: Window,
    /// Size of the disk in bytes; that of the image below unless given.
    pub size_bytes: Option<u64>,
    /// The format.
    pub format: Format,
    /// What is particular to the format.
    pub options: FormatOptions,
    /// Record the hash of the whole image below, so that a copy of it can be accepted later.
    pub full_hash: bool,
    /// `path` is a block device whose content is given up.
    pub onto_device: bool,
}

impl Default for CreateRequest {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            backing: None,
            window: Window::default(),
            size_bytes: None,
            format: Format::NATIVE,
            options: FormatOptions::default(),
            full_hash: false,
            onto_device: false,
        }
    }
}

/// What was made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Created {
    /// The overlay.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// What it takes.
    pub file: DiskUse,
    /// The image below.
    pub parent: Option<PathBuf>,
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = bytes_text(self.disk_bytes);
        let what = if self.format.ops().is_plain() { "image" } else { "overlay" };
        write!(f, "created {} {what} `{}`, a disk of {size}", self.format, self.path.display())?;
        match &self.parent {
            Some(parent) => write!(f, " over `{}`", parent.display()),
            None => f.write_str(", blank"),
        }
    }
}

/// Makes an overlay. It appears under its name whole or not at all.
///
/// # Errors
/// A name that is taken; a size that no disk has; a parent that is writable, empty or unreadable; what
/// the system says.
pub fn create(request: &CreateRequest, progress: &mut Progress<'_>) -> Result<Created> {
    let name = ImageName::new_in(request.format, &request.path);
    let mut below = match &request.backing {
        Some(backing) => below_of(backing, request.window)?,
        None => blank(request)?,
    };
    let sectors = match request.size_bytes {
        Some(len) => sectors_of(len)?,
        None => below.sectors,
    };
    let new = NewOverlay {
        format: request.format,
        sectors,
        options: &request.options,
        direct: false,
        onto_device: request.onto_device,
        replace: false,
        log: None,
    };
    refuse_impossible(&name, &below, &new)?;
    if request.full_hash
        && let (ParentIdentity::File(_), Some(parent)) = (below.parent.identity, below.path.clone())
    {
        let parent = FileStorage::open(parent, &FileOptions::default())?;
        let total = cow_core::storage::ReadStorage::len_bytes(&parent)?;
        let content = full_hash(&parent, &mut |done| progress(done, total))?;
        below = with_content(&below, content);
    }
    let file = make_overlay(&name, &below, &new)?;
    Ok(Created {
        path: name.path,
        format: request.format,
        disk_bytes: sectors.saturating_mul(SECTOR_BYTES),
        file: file.disk_use()?,
        parent: below.path,
    })
}

fn blank(request: &CreateRequest) -> Result<Below> {
    let len = request.size_bytes.ok_or_else(|| {
        HostError::usage("create the overlay", "its size is not known")
            .path(&request.path)
            .advice("give --backing IMAGE or --size SIZE")
    })?;
    Ok(Below::blank(sectors_of(len)?))
}

fn sectors_of(len: u64) -> Result<u64> {
    let sectors = len / SECTOR_BYTES;
    if len == 0 || !len.is_multiple_of(SECTOR_BYTES) || sectors > MAX_SECTORS {
        return Err(HostError::usage(
            "create a disk",
            format!("{len} bytes is not a positive multiple of 512 below 128 PiB"),
        ));
    }
    Ok(sectors)
}

/// Refuses what is there already, and what the format cannot express.
pub(super) fn refuse_impossible(
    name: &ImageName,
    below: &Below,
    new: &NewOverlay<'_>,
) -> Result<()> {
    if let Some(creation) = new.format.ops().creation() {
        new.options.check(new.format, creation.options)?;
        check_expressible(name, below, new, creation)?;
    }
    for path in core::iter::once(&name.path).chain(&name.metadata) {
        if !new.onto_device && !new.replace && path.symlink_metadata().is_ok() {
            return Err(already_there(path));
        }
    }
    Ok(())
}

fn check_expressible(
    name: &ImageName,
    below: &Below,
    new: &NewOverlay<'_>,
    creation: &Creation,
) -> Result<()> {
    let refused = |detail: &str| {
        Err(HostError::usage(format!("create a {} image", new.format), detail)
            .path(&name.path)
            .advice("use the native format"))
    };
    if below.is_blank() && !creation.blank {
        return refused("it needs an image below it");
    }
    if !below.is_blank() && new.format.ops().is_plain() {
        return refused("it would hide what is below it");
    }
    let whole = whole_units(new.format, new.sectors);
    if new.sectors != whole {
        let unit = new.format.ops().unit_sectors().saturating_mul(SECTOR_BYTES);
        let detail = format!("its disk consists of units of {unit} bytes, and this one does not");
        let whole = whole.saturating_mul(SECTOR_BYTES);
        return Err(HostError::usage(format!("create a {} image", new.format), detail)
            .path(&name.path)
            .advice(format!("use the native format, or leave the end out with --size {whole}")));
    }
    if new.sectors != whole_units(new.format, below.sectors) && !creation.other_size {
        return refused("its disk is always as large as the image below it");
    }
    if below.window.is_some() && !creation.part {
        return refused("it cannot lie on a part of an image");
    }
    Ok(())
}

/// As many sectors as a disk in this format has over an image of `sectors` sectors.
pub(super) fn whole_units(format: Format, sectors: u64) -> u64 {
    let unit = format.ops().unit_sectors().max(1);
    sectors / unit * unit
}

fn already_there(path: &Path) -> HostError {
    let error = HostError::new(ErrorKind::AlreadyExists, "create").path(path);
    match FileStorage::open(path, &FileOptions::default()) {
        Ok(file) if file.is_device() => {
            error.detail("it is a block device, whose content would be lost")
        }
        Ok(file) if detect(&file).is_ok_and(|format| format != Format::RAW) => error
            .detail("there is an overlay already")
            .advice("use it as it is, or choose another name"),
        _ => error.advice("choose another name; nothing is overwritten unasked"),
    }
}
