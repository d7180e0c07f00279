//! A plain image as the base of a chain: identity mapped, never written.

use super::{InPlace, IndexEntry, Load, Located, Map, Place, Run, low_bits};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::{Extent, MAX_SECTORS, SECTOR_BYTES};

/// A raw image of any length. A length that is no multiple of 512 is rounded up; the missing
/// bytes read as zeros and the file is never extended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Raw {
    storage: StorageKey,
    len: u64,
}

impl Raw {
    /// An image of `len` bytes. `None` if it is empty or longer than [`MAX_SECTORS`].
    pub const fn new(storage: StorageKey, len: u64) -> Option<Self> {
        if len == 0 || len.div_ceil(SECTOR_BYTES) > MAX_SECTORS {
            return None;
        }
        Some(Self { storage, len })
    }

    /// Length in bytes.
    pub const fn len_bytes(&self) -> u64 {
        self.len
    }
}

impl Map for Raw {
    fn sectors(&self) -> u64 {
        self.len.div_ceil(SECTOR_BYTES)
    }

    fn storage(&self) -> StorageKey {
        self.storage
    }

    fn locate(&self, extent: Extent, _pages: &PagePool<'_>, _index: &[IndexEntry]) -> Located {
        let offset = extent.start().bytes();
        let whole = extent.until(self.len / SECTOR_BYTES);
        if !whole.is_empty() {
            return Located::Run(Run { sectors: whole.sectors(), place: Place::Data { offset } });
        }
        let tail = u16::try_from(self.len.saturating_sub(offset).min(SECTOR_BYTES - 1));
        Located::Run(match tail {
            Ok(len) if len > 0 => Run { sectors: 1, place: Place::Tail { offset, len } },
            _ => Run { sectors: extent.sectors(), place: Place::Zero },
        })
    }

    fn in_place(&self, extent: Extent, _pages: &PagePool<'_>) -> Option<InPlace> {
        let whole = extent.until(self.len / SECTOR_BYTES).sectors();
        Some(InPlace { data: low_bits(whole), absent: 0, offset: extent.start().bytes() })
    }

    fn load(&self, _page: u64, _step: u8, _note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Load {
        Load::Ready // never asked: `locate` needs no page
    }
}
