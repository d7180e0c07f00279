//! An image as a layer that is only read.

use super::header::Header;
use super::volume::Volume;
use crate::format::{IndexEntry, Load, Located, Map};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::Extent;

/// A frozen image, or one of its internal snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Frozen(pub(super) Volume);

impl Frozen {
    pub(super) const fn new(header: &Header, storage: StorageKey, len: u64) -> Self {
        Self(Volume::new(header, storage, len))
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
        self.0.load(page, step, note, bytes, |_| None)
    }
}
