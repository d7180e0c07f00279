//! qcow version 1: the first copy-on-write format of QEMU, with the variant of Xen's blktap.
//!
//! ```text
//! header, name of the backing file, L1 table, then L2 tables and clusters as they come
//!
//! L1[n]     where L2 table n is, or 0
//! L2[n][m]  where cluster n * entries + m is, or 0; bit 63: compressed
//! ```
//!
//! Everything is big-endian, but for the L1 table of early Xen images. There are no reference
//! counts and there is no free list: space is taken at the end of the file, and what nothing refers
//! to is lost. Sections of `docs/FORMAT-QCOW1.md` are cited as `[QCOW1 n]`. Invariants of the
//! writer:
//!
//! 1. An entry is published when all of its cluster is durable, what the request does not cover
//!    included. (The reference publishes first, and a power cut shows zeros instead of the backing
//!    file's bytes.)
//! 2. A table is zero and durable before the entry that names it is published, so the order of L1
//!    and L2 entries does not matter: both are of one stage.
//! 3. The entry of an L1 table that this process sets is the only one of its page, and is written
//!    while nobody reads it: until it has been written, the table's place is known from memory.
//! 4. An entry of either table lies within a sector of 512 bytes, which reaches the medium whole or
//!    not at all.
//! 5. No byte of the file is handed out twice, but for what a failed request gives back.
#![deny(clippy::little_endian_bytes)]

mod check;
mod geometry;
mod header;
mod image;
mod overlay;
mod pending;
#[cfg(test)]
mod tests;
mod volume;
mod walk;

pub use check::{CHECK_MEMORY_MIN, CheckError, Finding, Report, check, check_memory, repair};
pub use geometry::Geometry;
pub use header::{Header, HeaderFault, L1_ENTRIES_MAX, NAME_LEN, NamePlace, Xen, is_qcow1};
pub use image::{
    CreateError, CreateOptions, Fresh, NameError, OpenError, Opened, Prepared, RebaseError,
    RefuseWriting, UpdateError, create, drop_backing, open, open_writable, prepare, rollback,
    set_backing,
};
pub use overlay::Writable;
pub use walk::{Runs, RunsError};

use super::{IndexEntry, Load, Located, Map};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::Extent;
use volume::Volume;

/// An image that nobody writes to, as a layer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Frozen(Volume);

impl Frozen {
    /// Sizes and places.
    pub const fn geometry(&self) -> Geometry {
        self.0.geometry
    }
}

impl Map for Frozen {
    fn sectors(&self) -> u64 {
        self.0.geometry.sectors()
    }

    fn storage(&self) -> StorageKey {
        self.0.storage
    }

    fn locate(&self, extent: Extent, pages: &PagePool<'_>, _index: &[IndexEntry]) -> Located {
        self.0.locate(extent, pages)
    }

    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.0.load(page, step, None, note, bytes)
    }
}
