//! `cowblade rollback` and `cowblade freeze`: changes of one header.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::format::dm_snapshot::{self, RollbackError};
use cow_core::format::native;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::info::LIST_PIECE_LEN;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Binding, Format, ImageName, NoteId, NoteLog, count_data, default_notes_directory,
    native_open_failed, native_update_failed, overlay_options, random_layer_id, scratch_page,
};
use crate::storage::FileStorage;
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
    let op = "roll back";
    let (mut file, format) = open_overlay(path, op)?;
    let before = file.disk_use()?.allocated_bytes;
    let discarded_bytes = if format == Format::Native {
        let counted = count_data(&file).ok().map(|n| n.saturating_mul(SECTOR_BYTES));
        native::rollback(&mut file, &mut scratch_page())
            .map_err(|e| native_update_failed(e, op, file.path()))?;
        counted
    } else {
        rollback_store(&mut file, op)?
    };
    let after = file.disk_use()?.allocated_bytes;
    let freed_bytes = before.saturating_sub(after);
    Ok(RolledBack { path: file.path().to_owned(), discarded_bytes, freed_bytes })
}

/// Empties a dm-snapshot store; bytes that it held.
fn rollback_store(file: &mut FileStorage, op: &str) -> Result<Option<u64>> {
    let mut piece = vec![0; LIST_PIECE_LEN];
    let opened = dm_snapshot::open_even_invalidated(file, MAX_SECTORS, &mut piece).ok();
    // Notes of the content that goes must not come back: the content gets another name first.
    if let Some(binding) = Binding::load(file)? {
        binding.renewed()?.save(file)?;
    }
    dm_snapshot::rollback(file).map_err(|error| match error {
        RollbackError::Storage(error) => error.into(),
        other => HostError::new(ErrorKind::Corrupt, op).path(file.path()).detail(other.to_string()),
    })?;
    Ok(opened.map(|o| o.exceptions().saturating_mul(o.geometry().chunk_bytes())))
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
/// It is in use, frozen already, damaged, no native overlay, or a killed server acknowledged writes
/// that are only in its notes.
pub fn freeze(path: impl AsRef<Path>) -> Result<Frozen> {
    let op = "freeze";
    let (mut file, format) = open_overlay(path, op)?;
    if format != Format::Native {
        return Err(HostError::new(ErrorKind::Unsupported, op)
            .path(file.path())
            .detail("a dm-snapshot store cannot say that it is frozen")
            .advice("use it as a layer as it is, and do not write it any more"));
    }
    let opened = native::open(&file, &mut scratch_page())
        .map_err(|e| native_open_failed(e, op, file.path()))?;
    refuse_pending(opened.header(), op, file.path())?;
    // A layer that cannot be read would only be found out when others lie on it.
    count_data(&file)?;
    let layer_id = random_layer_id()?;
    native::freeze(&mut file, layer_id, &mut scratch_page())
        .map_err(|e| native_update_failed(e, op, file.path()))?;
    Ok(Frozen { path: file.path().to_owned(), layer_id: layer_id.to_string() })
}

/// An overlay that nobody else has open.
fn open_overlay(path: impl AsRef<Path>, op: &str) -> Result<(FileStorage, Format)> {
    let name = ImageName::parse(path);
    let file = FileStorage::open(&name.path, &overlay_options(false))?;
    match name.format_of(&file)? {
        Format::Raw => Err(HostError::new(ErrorKind::Unsupported, op)
            .path(&name.path)
            .detail("it is no overlay")
            .advice("`cowblade info` tells what it is")),
        format => Ok((file, format)),
    }
}

/// Acknowledged writes must not be lost by a change that their notes do not survive.
fn refuse_pending(header: &native::Header, op: &str, path: &Path) -> Result<()> {
    let id = NoteId::of(header);
    if NoteLog::is_pending(&default_notes_directory(), id)? {
        return Err(HostError::new(ErrorKind::InUse, op)
            .path(path)
            .detail("a server that was killed left acknowledged writes in its notes")
            .advice("start and stop the server once, which takes them up"));
    }
    Ok(())
}
