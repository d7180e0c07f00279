//! `cowblade snapshot`: the top of a chain stays as it is for ever, and a new overlay lies on it.

use core::fmt;
use std::path::PathBuf;

use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::create::{CreateRequest, create, refuse_impossible};
use crate::config::Window;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Format, FormatOptions, ImageName, NewOverlay, enter_left, overlay_options,
    refuse_merging,
};

/// What [`snapshot`] is to do.
#[derive(Clone, Debug)]
pub struct SnapshotRequest {
    /// The overlay, or the plain image, that is written so far.
    pub path: PathBuf,
    /// The overlay that is written from then on; must not exist.
    pub new: PathBuf,
    /// Its format.
    pub format: Format,
    /// What is particular to the format.
    pub options: FormatOptions,
}

/// What [`snapshot`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// The layer that must not be written any more.
    pub path: PathBuf,
    /// It says so itself.
    pub is_frozen: bool,
    /// The new overlay.
    pub new: PathBuf,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, new) = (self.path.display(), self.new.display());
        write!(f, "`{new}` lies on `{path}`: use `{new},{path},...` from now on")?;
        if self.is_frozen {
            return write!(f, "; `{path}` is frozen");
        }
        write!(f, "; nothing in `{path}` says that it must not be written any more")
    }
}

/// Freezes the top of a chain, if its format can say so, and makes an empty overlay on it. When it was
/// cut between the two, run it again.
///
/// # Errors
/// The top is in use or damaged, the new name is taken, its format cannot lie on the top; nothing was
/// changed then. No room for the new overlay: the top may be frozen then.
pub fn snapshot(request: &SnapshotRequest) -> Result<Snapshot> {
    let name = ImageName::parse(&request.path);
    enter_left(&name)?;
    let (mut file, format) = name.open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let parent = format.candidate(&file)?;
    let len = parent.size_bytes.ok_or_else(|| {
        HostError::new(ErrorKind::Unsupported, "take a snapshot")
            .path(file.path())
            .detail("nothing says how large its disk is")
    })?;
    let sectors = len.div_ceil(SECTOR_BYTES);
    let files = file.keys()?;
    let below = Below {
        parent,
        window: None,
        path: name.hint(),
        format: Some(format),
        misleads: name.misleads(&file.main),
        sectors,
        files,
    };
    let new = NewOverlay {
        format: request.format,
        sectors,
        options: &request.options,
        direct: false,
        onto_device: false,
        replace: false,
        log: None,
    };
    refuse_impossible(&ImageName::new_in(request.format, &request.new), &below, &new)?;
    if !format.ops().is_frozen(&file)? {
        match format.ops().freeze(&mut file) {
            // It has no such mark.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            frozen => drop(frozen?),
        }
    }
    let is_frozen = format.ops().is_frozen(&file)?;
    drop(file);
    let request = CreateRequest {
        path: request.new.clone(),
        backing: Some(request.path.clone()),
        window: Window::default(),
        format: request.format,
        options: request.options.clone(),
        ..CreateRequest::default()
    };
    let created = create(&request, &mut |_done, _total| {})?;
    Ok(Snapshot { path: name.path, is_frozen, new: created.path })
}
