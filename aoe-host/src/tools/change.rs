//! `cowblade rollback` and `cowblade freeze`: changes of one header.

use core::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::image::{ImageName, enter_left, overlay_options, refuse_merging};
use crate::values::human_bytes;

/// What [`rollback`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RolledBack {
    /// The overlay.
    pub path: PathBuf,
    /// Bytes of the disk that were in it and read from below again; unknown if it was damaged.
    pub discarded_bytes: Option<u64>,
    /// Bytes that the file system got back.
    pub freed_bytes: u64,
}

impl fmt::Display for RolledBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let discarded = match self.discarded_bytes {
            Some(bytes) => human_bytes(bytes),
            None => "everything".to_owned(),
        };
        let freed = human_bytes(self.freed_bytes);
        write!(f, "discarded {discarded} from `{}`, freed {freed}", self.path.display())
    }
}

/// Empties an overlay: its disk is again what lies below. There is no way back.
///
/// # Errors
/// It is in use, frozen, or no overlay. A damaged overlay can be emptied as long as its header is whole.
pub fn rollback(path: impl AsRef<Path>) -> Result<RolledBack> {
    let (mut file, format) = ImageName::parse(path).open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let before = file.disk_use()?.allocated_bytes;
    let discarded_bytes = format.ops().rollback(&mut file)?;
    let after = file.disk_use()?.allocated_bytes;
    let freed_bytes = before.saturating_sub(after);
    Ok(RolledBack { path: file.path().to_owned(), discarded_bytes, freed_bytes })
}

/// What [`freeze`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Frozen {
    /// The overlay that was, and the layer that is.
    pub path: PathBuf,
    /// Its new identity.
    pub layer_id: String,
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "froze `{}`: it is layer {} now", self.path.display(), self.layer_id)
    }
}

/// Makes an overlay a layer that never changes again, under an identity of its own.
///
/// # Errors
/// It is in use, frozen already, damaged, of a format that cannot say so, or a killed server
/// acknowledged writes that are only in its notes.
pub fn freeze(path: impl AsRef<Path>) -> Result<Frozen> {
    let name = ImageName::parse(path);
    enter_left(&name)?;
    let (mut file, format) = name.open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let layer_id = format.ops().freeze(&mut file)?;
    Ok(Frozen { path: file.path().to_owned(), layer_id: layer_id.to_string() })
}
