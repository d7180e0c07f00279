//! User-Mode-Linux' COW files: versions 1, 2 and 3, and version 3 as 64-bit programs once wrote it.
//!
//! ```text
//! header with the parent's path, size and mtime | bitmap, a bit for each sector | sectors
//! ```
//!
//! `docs/FORMAT-UML.md` has the layout and its history. The bitmap engine is
//! [`bitmap`](super::bitmap), with its invariants; here are the headers. Two rules:
//!
//! 1. A header is only ever written in its own version.
//! 2. A sector without a bit (versions 1 and 2 have up to seven at the end of some disks) is read
//!    from below, and a write to it fails.

mod error;
mod header;
mod image;
#[cfg(test)]
mod tests;

pub use error::{CreateError, OpenError, ParentFault, PathError, PathFault, RollbackError};
pub use header::{Version, is_uml};
pub use image::{
    CreateOptions, NewParent, Opened, check, create, open, open_writable, read_path, rollback,
    set_parent,
};
