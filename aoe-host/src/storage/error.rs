//! What went wrong with a file, where in it, and during what.

use core::error::Error;
use core::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cow_core::engine::IoFailure;
use rustix::io::Errno;

use super::file::is_unsupported;
use crate::error::HostError;

/// An operation on a file that failed.
#[derive(Clone, Debug)]
pub struct StorageError {
    path: Arc<Path>,
    op: &'static str,
    offset: u64,
    reason: Reason,
}

#[derive(Clone, Copy, Debug)]
enum Reason {
    System(Errno),
    /// The file ended before the range did.
    End,
    /// Compressed data that do not unpack to what they should.
    Damaged,
    /// Compressed data of a kind that is not known here.
    NoCodec,
    /// Fixed length, and shorter than wanted.
    TooShort {
        len: u64,
    },
}

impl StorageError {
    pub(super) fn system(path: &Arc<Path>, op: &'static str, offset: u64, errno: Errno) -> Self {
        Self { path: Arc::clone(path), op, offset, reason: Reason::System(errno) }
    }

    pub(super) fn end(path: &Arc<Path>, op: &'static str, offset: u64) -> Self {
        Self { path: Arc::clone(path), op, offset, reason: Reason::End }
    }

    pub(super) fn damaged(path: &Arc<Path>, offset: u64) -> Self {
        Self { path: Arc::clone(path), op: "unpack", offset, reason: Reason::Damaged }
    }

    pub(super) fn no_codec(path: &Arc<Path>, offset: u64) -> Self {
        Self { path: Arc::clone(path), op: "unpack", offset, reason: Reason::NoCodec }
    }

    pub(super) fn too_short(path: &Arc<Path>, wanted: u64, len: u64) -> Self {
        Self {
            path: Arc::clone(path),
            op: "extend",
            offset: wanted,
            reason: Reason::TooShort { len },
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was being done: `read`, `write`, `sync`, `zero`, `punch`, `extend`, `take room for`,
    /// `unpack` or `measure`.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// No room is left, here or within the user's quota.
    pub fn is_full(&self) -> bool {
        matches!(self.reason, Reason::System(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
    }

    /// The file system cannot do that.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.reason, Reason::System(errno) if is_unsupported(errno))
    }

    /// What the engine acts on.
    pub fn failure(&self) -> IoFailure {
        match self.reason {
            _ if self.is_full() => IoFailure::Full,
            Reason::Damaged => IoFailure::Damaged,
            Reason::NoCodec => IoFailure::NoCodec,
            Reason::System(_) | Reason::End | Reason::TooShort { .. } => IoFailure::Medium,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} `{}`", self.op, self.path.display())?;
        if !matches!(self.op, "sync" | "measure" | "take room for") {
            write!(f, " at byte {}", self.offset)?;
        }
        match self.reason {
            Reason::System(errno) => write!(f, ": {}", io::Error::from(errno)),
            Reason::End => f.write_str(": the file ends before that"),
            Reason::Damaged => f.write_str(": the compressed data are damaged"),
            Reason::NoCodec => f.write_str(": this compression is not known"),
            Reason::TooShort { len } => write!(f, ": it has {len} bytes and cannot grow"),
        }
    }
}

impl Error for StorageError {}

impl embedded_io::Error for StorageError {
    fn kind(&self) -> embedded_io::ErrorKind {
        use embedded_io::ErrorKind;
        match self.reason {
            _ if self.is_full() => ErrorKind::OutOfMemory,
            Reason::System(errno) => match errno {
                Errno::NOENT => ErrorKind::NotFound,
                Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::PermissionDenied,
                Errno::INVAL => ErrorKind::InvalidInput,
                Errno::OPNOTSUPP => ErrorKind::Unsupported,
                _ => ErrorKind::Other,
            },
            Reason::Damaged => ErrorKind::InvalidData,
            Reason::NoCodec => ErrorKind::Unsupported,
            Reason::End | Reason::TooShort { .. } => ErrorKind::InvalidInput,
        }
    }
}

impl From<StorageError> for HostError {
    fn from(error: StorageError) -> Self {
        let path = Arc::clone(&error.path);
        let op = error.op;
        match error.reason {
            Reason::System(errno) => Self::io(io::Error::from(errno), op).path(path),
            Reason::End => Self::new(crate::error::ErrorKind::Corrupt, op)
                .path(path)
                .detail(format!("the file ends before byte {}", error.offset)),
            Reason::Damaged => Self::new(crate::error::ErrorKind::Corrupt, op)
                .path(path)
                .detail(format!("the compressed data at byte {} are damaged", error.offset)),
            Reason::NoCodec => Self::new(crate::error::ErrorKind::Unsupported, op)
                .path(path)
                .detail(format!("the compression at byte {} is not known", error.offset)),
            Reason::TooShort { len } => Self::new(crate::error::ErrorKind::Full, op)
                .path(path)
                .detail(format!("it has {len} bytes and needs {}", error.offset)),
        }
    }
}
