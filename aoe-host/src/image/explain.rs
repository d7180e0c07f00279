//! Errors of the core, in words for a person who has the file.

use core::error::Error;
use std::path::Path;

use cow_core::format::dm_snapshot;
use cow_core::format::native::{self, ModeError};
use cow_core::identity::ParentMismatch;

use crate::error::{ErrorKind, HostError};
use crate::storage::StorageError;

fn medium(error: StorageError) -> HostError {
    HostError::from(error)
}

/// A native image that was not opened.
pub(crate) fn native_open_failed(
    error: native::OpenError<StorageError>,
    op: &str,
    path: &Path,
) -> HostError {
    use native::OpenError;
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => medium(error),
        OpenError::NewerVersion { .. } | OpenError::UnknownFeatures { .. } => {
            told(ErrorKind::Unsupported).advice("use a later version of cowblade")
        }
        OpenError::NotNative => told(ErrorKind::Unsupported),
        OpenError::Truncated { .. } => told(ErrorKind::Corrupt)
            .advice("the end of the file is missing: copy it again, sparse and complete"),
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade info` shows what is left; restore it from a backup"),
    }
}

/// A native image that was not changed.
pub(crate) fn native_update_failed(
    error: native::UpdateError<StorageError>,
    op: &str,
    path: &Path,
) -> HostError {
    use native::UpdateError;
    match error {
        UpdateError::Open(error) => native_open_failed(error, op, path),
        UpdateError::Storage(error) => medium(error),
        UpdateError::Mode(mode) => mode_refused(mode, op, path),
        other => HostError::usage(op, other.to_string()).path(path),
    }
}

/// A native image in the wrong mode.
pub(super) fn mode_refused(mode: ModeError, op: &str, path: &Path) -> HostError {
    let error = HostError::new(ErrorKind::InUse, op).path(path).detail(mode.to_string());
    match mode {
        ModeError::Frozen => {
            error.advice("make a new overlay above it: `cowblade create --backing`")
        }
        ModeError::NotFrozen => error.advice("`cowblade freeze` it"),
        _ => error,
    }
}

/// A dm-snapshot store that was not opened.
pub(crate) fn dm_open_failed(
    error: dm_snapshot::OpenError<StorageError>,
    op: &str,
    path: &Path,
) -> HostError {
    use dm_snapshot::OpenError;
    match error {
        OpenError::Storage(error) => medium(error),
        error @ (OpenError::NotAStore { .. } | OpenError::Version { .. }) => {
            HostError::new(ErrorKind::Unsupported, op).path(path).detail(error.to_string())
        }
        error => damaged(&error, op, path),
    }
}

/// A dm-snapshot store whose list was not read.
pub(super) fn dm_load_failed(
    error: dm_snapshot::LoadError<StorageError>,
    op: &str,
    path: &Path,
) -> HostError {
    match error {
        dm_snapshot::LoadError::Storage(error) => medium(error),
        error => damaged(&error, op, path),
    }
}

fn damaged(error: &dyn Error, op: &str, path: &Path) -> HostError {
    HostError::new(ErrorKind::Corrupt, op)
        .path(path)
        .detail(error.to_string())
        .advice("`cowblade check` lists everything that is wrong with it")
}

/// How two parents differ. Times are left out: they often look alike.
pub(crate) fn mismatch_words(mismatch: ParentMismatch) -> String {
    match mismatch {
        ParentMismatch::Modified { .. } => {
            "the parent was touched or written since: its time of modification is not the recorded \
             one, its length and samples are"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// What lies below an image is not what it was made over.
pub(super) fn parent_refused(mismatch: ParentMismatch, image: &Path, below: &str) -> HostError {
    let error = HostError::new(ErrorKind::Mismatch, "use the overlay")
        .path(image)
        .detail(format!("{} (below it is {below})", mismatch_words(mismatch)));
    match mismatch {
        ParentMismatch::Modified { .. } => error.advice(format!(
            "if its content is the same, accept it with `cowblade rebind {} --parent {below} \
             --original COPY`, where COPY is an untouched copy, or with `--trust` if you know",
            image.display()
        )),
        ParentMismatch::Missing => error.advice("name its parent behind it"),
        ParentMismatch::Unexpected => error.advice("use it without an image below"),
        _ => error.advice("use the image that it was made over; `cowblade info` names it"),
    }
}
