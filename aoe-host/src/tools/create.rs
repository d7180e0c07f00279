//! `cowblade create`.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::format::native;
use cow_core::identity::ParentIdentity;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::chain::below_of;
use super::progress::Progress;
use super::text;
use crate::config::Window;
use crate::error::{HostError, Result};
use crate::image::{
    self, Below, Format, NewOverlay, full_hash, make_overlay, scratch_page, with_content,
};
use crate::storage::{DiskUse, FileOptions, FileStorage};

/// Chunks of a dm-snapshot store unless told otherwise: 32 KiB, as in the classic recipe.
pub const DEFAULT_CHUNK_SECTORS: u32 = 64;

/// Formats in which overlays are made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NewFormat {
    /// Our own.
    #[default]
    Native,
    /// The persistent store of the kernel's `snapshot` target.
    DmSnapshot {
        /// A power of two, at most 1 GiB.
        chunk_sectors: u32,
    },
}

/// What [`create`] is to make.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// The overlay, which must not exist.
    pub path: PathBuf,
    /// The image below; `None` for a blank disk.
    pub backing: Option<PathBuf>,
    /// The part of the image below that is used.
    pub window: Window,
    /// Size of the disk in bytes; that of the image below unless given.
    pub size_bytes: Option<u64>,
    /// The format.
    pub format: NewFormat,
    /// A name to put into a native overlay.
    pub label: String,
    /// Record the hash of the whole image below, so that a copy of it can be accepted later.
    pub full_hash: bool,
    /// `path` is a block device whose content is given up.
    pub onto_device: bool,
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
        let size = text::bytes(self.disk_bytes);
        write!(f, "created {} overlay `{}`, a disk of {size}", self.format, self.path.display())?;
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
    let path = &request.path;
    let mut below = match &request.backing {
        Some(backing) => below_of(backing, request.window)?,
        None => blank(request)?,
    };
    let sectors = match request.size_bytes {
        Some(len) => sectors_of(len)?,
        None => below.sectors,
    };
    let format = match request.format {
        NewFormat::Native => image::NewFormat::Native,
        NewFormat::DmSnapshot { chunk_sectors } => {
            refuse_for_store(request, sectors, &below)?;
            image::NewFormat::DmSnapshot { chunk_sectors }
        }
    };
    if !request.onto_device && path.symlink_metadata().is_ok() {
        return Err(already_there(path));
    }
    if request.full_hash
        && let (ParentIdentity::File(_), Some(parent)) = (below.identity, below.path.clone())
    {
        let parent = FileStorage::open(parent, &FileOptions::default())?;
        let total = cow_core::storage::ReadStorage::len_bytes(&parent)?;
        let content = full_hash(&parent, &mut |done| progress(done, total))?;
        below = with_content(&below, content);
    }
    let new = NewOverlay {
        format,
        sectors,
        label: &request.label,
        direct: false,
        onto_device: request.onto_device,
    };
    let file = make_overlay(path, &below, &new)?;
    Ok(Created {
        path: path.clone(),
        format: match request.format {
            NewFormat::Native => Format::Native,
            NewFormat::DmSnapshot { .. } => Format::DmSnapshot,
        },
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
    Ok(Below {
        identity: ParentIdentity::None,
        window: None,
        path: None,
        sectors: sectors_of(len)?,
        files: Vec::new(),
    })
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

/// What the format cannot express.
fn refuse_for_store(request: &CreateRequest, sectors: u64, below: &Below) -> Result<()> {
    let refused = |detail: &str| {
        HostError::usage("create a dm-snapshot store", detail)
            .path(&request.path)
            .advice("use the native format")
    };
    if request.backing.is_none() {
        return Err(refused("it needs an image below it"));
    }
    if sectors != below.sectors {
        return Err(refused("its disk is always as large as the image below it"));
    }
    if below.window.is_some() {
        return Err(refused("it cannot lie on a part of an image"));
    }
    if !request.label.is_empty() {
        return Err(refused("it cannot keep a name"));
    }
    Ok(())
}

fn already_there(path: &Path) -> HostError {
    let kind = crate::error::ErrorKind::AlreadyExists;
    let error = HostError::new(kind, "create the overlay").path(path);
    let file = FileStorage::open(path, &FileOptions::default());
    match file {
        Ok(file) if file.is_device() => {
            error.detail("it is a block device, whose content would be lost")
        }
        Ok(file) if native::is_native(&file, &mut scratch_page()).unwrap_or(false) => {
            error.detail("there is an overlay already").advice("serve it as it is")
        }
        _ => error.advice("choose another name; nothing is ever overwritten"),
    }
}
