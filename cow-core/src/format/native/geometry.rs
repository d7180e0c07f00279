//! Where everything is in an image, in bytes, from its number of sectors alone [FORMAT 3].

use crate::format::Load;
use crate::pages::PAGE_LEN;
use crate::units::{Lba, MAX_SECTORS, SECTOR_BYTES};

/// Bytes of a header slot and of a page slot.
pub(super) const SLOT_LEN: u32 = 4096;
const SLOT_BYTES: u64 = SLOT_LEN as u64;

/// Where the first page's slot 0 is: behind the two header slots.
const PAGES_OFFSET: u64 = 2 * SLOT_BYTES;

/// Bytes of a page before its states.
pub(super) const PAGE_HEAD: usize = 64;

/// Sectors whose states are in one page.
pub const SECTORS_PER_PAGE: u64 = 16_128;

/// [`SECTORS_PER_PAGE`] as a count of things in memory.
pub(super) const PAGE_SECTORS: usize = 16_128;

/// Bytes of states in one page.
pub(super) const STATES_LEN: usize = PAGE_SECTORS / 4;

const _: () = assert!(PAGE_HEAD + STATES_LEN == PAGE_LEN);
const _: () = assert!(PAGE_SECTORS as u64 == SECTORS_PER_PAGE && STATES_LEN.is_multiple_of(8));

/// Layout of an image of a given size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    sectors: u64,
}

impl Geometry {
    /// `None` for no sectors or more than [`MAX_SECTORS`].
    pub const fn new(sectors: u64) -> Option<Self> {
        if sectors == 0 || sectors > MAX_SECTORS { None } else { Some(Self { sectors }) }
    }

    /// Size of the disk in sectors.
    pub const fn sectors(self) -> u64 {
        self.sectors
    }

    /// Number of metadata pages, below 2^35.
    pub const fn pages(self) -> u64 {
        self.sectors.div_ceil(SECTORS_PER_PAGE)
    }

    /// Byte offset of header slot 0 or 1.
    pub(super) const fn header_offset(slot: u64) -> u64 {
        (slot & 1).wrapping_mul(SLOT_BYTES)
    }

    /// Byte offset of the metadata pages.
    pub(super) const fn pages_offset() -> u64 {
        PAGES_OFFSET
    }

    /// Byte offset of slot 0 or 1 of a page below [`pages`](Self::pages).
    pub const fn slot_offset(self, page: u64, slot: u64) -> u64 {
        PAGES_OFFSET
            .wrapping_add(page.wrapping_mul(2 * SLOT_BYTES))
            .wrapping_add((slot & 1).wrapping_mul(SLOT_BYTES))
    }

    pub(super) const fn read_slot(self, page: u64, slot: u64) -> Load {
        Load::Read { offset: self.slot_offset(page, slot), len: SLOT_LEN }
    }

    /// Byte offset of sector 0.
    pub const fn data_offset(self) -> u64 {
        PAGES_OFFSET.wrapping_add(self.pages().wrapping_mul(2 * SLOT_BYTES))
    }

    /// Byte offset of a sector.
    pub const fn sector_offset(self, lba: Lba) -> u64 {
        self.data_offset().wrapping_add(lba.bytes())
    }

    /// Length of the image in bytes, below 2^58.
    pub const fn image_len(self) -> u64 {
        self.data_offset().wrapping_add(self.sectors.wrapping_mul(SECTOR_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_small_and_largest_images() {
        let at = |sectors| {
            let g = Geometry::new(sectors).unwrap();
            (g.pages(), g.data_offset(), g.image_len())
        };
        assert_eq!(at(1), (1, 16_384, 16_896));
        assert_eq!(at(16_127), (1, 16_384, 16_384 + 16_127 * 512));
        assert_eq!(at(16_128), (1, 16_384, 16_384 + 16_128 * 512));
        assert_eq!(at(16_129), (2, 24_576, 24_576 + 16_129 * 512));
        let (pages, data, len) = at(MAX_SECTORS);
        assert_eq!(pages, 17_452_565_521);
        assert_eq!(data, 8192 + pages * 8192);
        assert_eq!(len, data + MAX_SECTORS * 512);
        assert!(len < 1 << 58);
        assert!(Geometry::new(0).is_none() && Geometry::new(MAX_SECTORS + 1).is_none());
    }
}
