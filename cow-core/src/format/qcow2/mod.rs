//! QEMU's qcow2, versions 2 and 3: read, and (without subclusters) written byte-compatibly.
//!
//! `docs/FORMAT-QCOW2.md` has the whole story.

#[cfg(test)]
mod tests;

mod allocation;
mod backing;
mod bitmaps;
mod bytes;
mod check;
mod entry;
mod error;
mod frozen;
mod geometry;
mod header;
mod image;
mod layout;
mod repair;
mod rollback;
mod session;
mod snapshot;
mod tables;
mod volume;
mod writable;

pub use backing::{RebaseError, set_backing};
pub use check::{CheckError, Finding, Report, check, check_needed};
pub use error::{CreateError, OpenError, OpenWritableError, RefuseWriting, SnapshotError};
pub use frozen::Frozen;
pub use geometry::Geometry;
pub use header::{FormatName, Header, HeaderFault, MAX_FORMAT_LEN, MAX_NAME_LEN};
pub use image::{Backing, CreateOptions, Opened, backing_name, create, is_qcow2, open};
pub use repair::{RepairError, Repaired, repair};
pub use rollback::{RollbackError, rollback};
pub use session::{Surroundings, close, open_writable};
pub use snapshot::{Snapshot, Snapshots, find_snapshot, snapshots};
pub use writable::Writable;
