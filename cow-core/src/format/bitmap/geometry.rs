//! Where everything lies: the bitmap in one storage, the data in the same or another.

use super::bits::PAGE_BITS;
use crate::pages::PAGE_LEN;
use crate::units::{Extent, Lba, MAX_SECTORS, SECTOR_BYTES};

/// Bits in a page.
const BITS_PER_PAGE: u64 = PAGE_BITS as u64;

/// Layout of an image whose data are identity-mapped behind a bitmap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    sectors: u64,
    /// A bit stands for 2^`shift` sectors, its *unit*.
    shift: u32,
    /// Bits that there are.
    units: u64,
    bitmap_offset: u64,
    data_offset: u64,
    /// Bits of a sector's number that have no influence on where its bit is.
    ignored: u64,
    /// Sectors after which these bits change.
    group: u64,
}

impl Geometry {
    /// A bitmap of one bit for every `1 << shift` sectors. `None` if the disk is empty or too
    /// large, or the image would end behind 2^64 bytes.
    pub(crate) fn new(
        sectors: u64,
        shift: u32,
        bitmap_offset: u64,
        data_offset: u64,
    ) -> Option<Self> {
        if sectors == 0 || sectors > MAX_SECTORS || shift > 6 {
            return None;
        }
        let units = sectors.div_ceil(1 << shift);
        let geometry = Self {
            sectors,
            shift,
            units,
            bitmap_offset,
            data_offset,
            ignored: 0,
            group: BITS_PER_PAGE,
        };
        bitmap_offset.checked_add(geometry.bitmap_len())?;
        data_offset.checked_add(sectors.checked_add(1 << shift)?.checked_mul(SECTOR_BYTES)?)?;
        Some(geometry)
    }

    /// Without bits for what lies behind the first `units` units.
    #[must_use]
    pub(crate) fn with_units(self, units: u64) -> Self {
        Self { units: units.min(self.units), ..self }
    }

    /// With the bits where a mask of one `block_bytes` too few put them [COW 3.2]: in each block
    /// of the bitmap only the first eighth is used, and eight sectors share a bit. `None` unless
    /// the block is a power of two from 512 to 4096.
    pub(crate) fn aliased(self, block_bytes: u64) -> Option<Self> {
        if !block_bytes.is_power_of_two() || !(512..=PAGE_LEN as u64).contains(&block_bytes) {
            return None;
        }
        Some(Self { ignored: block_bytes.wrapping_mul(7), group: block_bytes, ..self })
    }

    /// Size of the disk in sectors.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Sectors that share a bit: a power of two.
    pub const fn unit_sectors(&self) -> u64 {
        1 << self.shift
    }

    /// Bits in the bitmap that stand for something.
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Sectors from the start of the disk that have a bit. Those behind them, at most seven and
    /// only in old images, are always read from below and cannot be written.
    pub const fn mapped_sectors(&self) -> u64 {
        let mapped = self.units << self.shift;
        if mapped < self.sectors { mapped } else { self.sectors }
    }

    /// Byte of the metadata storage where the bitmap begins.
    pub const fn bitmap_offset(&self) -> u64 {
        self.bitmap_offset
    }

    /// Bytes of the bitmap that hold bits.
    pub const fn bitmap_len(&self) -> u64 {
        self.units.div_ceil(8)
    }

    /// Byte of the data storage where sector 0 is, or would be.
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Byte of the data storage where sector `lba` is if it is there.
    pub const fn sector_offset(&self, lba: Lba) -> u64 {
        self.data_offset.wrapping_add(lba.bytes())
    }

    /// Bytes of the data storage up to the end of the last sector.
    pub const fn image_len(&self) -> u64 {
        self.data_offset.wrapping_add(self.sectors.wrapping_mul(SECTOR_BYTES))
    }

    /// The sectors of a unit; empty beyond the disk.
    pub(crate) fn unit_extent(&self, unit: u64) -> Extent {
        let start = unit.saturating_mul(self.unit_sectors());
        let sectors = self.sectors.saturating_sub(start).min(self.unit_sectors());
        Extent::new(start, sectors).unwrap_or(Extent::EMPTY)
    }

    /// The unit of a sector.
    pub(crate) const fn unit_of(&self, lba: Lba) -> u64 {
        lba.get() >> self.shift
    }

    /// Pages of the bitmap.
    pub(crate) const fn pages(&self) -> u64 {
        self.units.div_ceil(BITS_PER_PAGE)
    }

    /// Byte of the metadata storage where page `page` begins, and how many bytes it has.
    pub(crate) fn page_range(&self, page: u64) -> Option<(u64, u32)> {
        let before = page.checked_mul(PAGE_LEN as u64)?;
        let len = self.bitmap_len().checked_sub(before)?.min(PAGE_LEN as u64);
        let len = u32::try_from(len).ok().filter(|len| *len > 0)?;
        Some((self.bitmap_offset.saturating_add(before), len))
    }

    /// Byte of the metadata storage with the bit of a sector.
    pub(super) const fn bit_offset(&self, lba: Lba) -> u64 {
        self.bitmap_offset.saturating_add((self.unit_of(lba) & !self.ignored) / 8)
    }
}

/// The first part of an extent: what has its bits next to each other in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) page: u64,
    /// Bit of the first unit within the page.
    pub(super) first: usize,
    /// Units that the piece touches.
    pub(super) units: usize,
    /// The sectors of the extent that are in them.
    pub(super) extent: Extent,
    /// Sectors of the first unit that lie before the piece.
    within: u64,
    shift: u32,
}

impl Piece {
    /// Of a part of the disk that is not empty and has bits.
    pub(super) fn of(geometry: &Geometry, extent: Extent) -> Self {
        let start = extent.start();
        let unit = geometry.unit_of(start);
        let within = start.get() & geometry.unit_sectors().wrapping_sub(1);
        let span = geometry.group.saturating_sub(unit & geometry.group.wrapping_sub(1));
        let extent = extent.take((span << geometry.shift).saturating_sub(within));
        let units = within.saturating_add(extent.sectors()).div_ceil(geometry.unit_sectors());
        // Both are below `BITS_PER_PAGE`.
        let small = |n: u64| usize::try_from(n).unwrap_or(PAGE_BITS);
        Self {
            page: unit / BITS_PER_PAGE,
            first: small((unit & !geometry.ignored) % BITS_PER_PAGE),
            units: small(units),
            extent,
            within,
            shift: geometry.shift,
        }
    }

    /// The sectors of the piece that are in its first `units` units.
    pub(super) fn part(&self, units: usize) -> Extent {
        self.extent.take(((units as u64) << self.shift).saturating_sub(self.within))
    }

    /// The first `units` units are covered as a whole, but perhaps for what lies behind the disk.
    pub(super) fn begins_whole(&self) -> bool {
        self.within == 0
    }

    /// Units that the piece covers as a whole, in a disk of `sectors` sectors. For a piece that
    /// [`begins_whole`](Self::begins_whole).
    pub(super) fn whole_units(&self, sectors: u64) -> usize {
        let cut = self.extent.end().get() & (1_u64 << self.shift).wrapping_sub(1) != 0;
        let partial = cut && self.extent.end().get() < sectors;
        self.units.saturating_sub(usize::from(partial))
    }

    /// Sectors of the first unit before the piece.
    pub(super) fn within(&self) -> u64 {
        self.within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(start, sectors).unwrap()
    }

    #[test]
    fn pieces_end_with_their_page() {
        let g = Geometry::new(70_000, 0, 100, 10_000).unwrap();
        assert_eq!((g.units(), g.bitmap_len(), g.pages()), (70_000, 8750, 3));
        assert_eq!(g.page_range(1), Some((4196, 4096)));
        assert_eq!(g.page_range(2), Some((8292, 8750 - 8192)));
        assert_eq!(g.page_range(3), None);
        assert_eq!(g.bit_offset(Lba::new(32_775).unwrap()), 100 + 4096);
        let piece = Piece::of(&g, extent(32_760, 20));
        assert_eq!((piece.page, piece.first, piece.units), (0, 32_760, 8));
        assert_eq!(piece.extent, extent(32_760, 8));
        let piece = Piece::of(&g, extent(32_768, 20));
        assert_eq!((piece.page, piece.first, piece.units), (1, 0, 20));
        assert_eq!(g.image_len(), 10_000 + 70_000 * 512);
    }

    #[test]
    fn units_of_two_sectors_begin_and_end_in_the_middle() {
        let g = Geometry::new(70_000, 1, 1024, 8192).unwrap();
        assert_eq!((g.units(), g.pages()), (35_000, 2));
        let piece = Piece::of(&g, extent(65_533, 9));
        assert_eq!((piece.page, piece.first, piece.units), (0, 32_766, 2));
        assert_eq!(piece.extent, extent(65_533, 3));
        assert_eq!(piece.part(1), extent(65_533, 1));
        assert_eq!(piece.part(2), extent(65_533, 3));
        assert!(!piece.begins_whole());
        let piece = Piece::of(&g, extent(10, 5));
        assert_eq!((piece.units, piece.whole_units(70_000)), (3, 2));
        assert_eq!((piece.part(2), piece.part(9)), (extent(10, 4), extent(10, 5)));
        // An odd disk ends inside a unit; what is not there needs no filling.
        let g = Geometry::new(15, 1, 1024, 8192).unwrap();
        assert_eq!(Piece::of(&g, extent(10, 5)).whole_units(15), 3);
        assert_eq!(g.unit_extent(7), extent(14, 1));
    }

    #[test]
    fn impossible_sizes_are_none() {
        let g = |sectors, shift, bitmap, data| Geometry::new(sectors, shift, bitmap, data);
        assert_eq!(g(0, 0, 0, 0), None);
        assert_eq!(g(MAX_SECTORS + 1, 0, 0, 0), None);
        assert!(g(MAX_SECTORS, 0, 4096, 1 << 60).is_some());
        assert_eq!(g(MAX_SECTORS, 0, 4096, u64::MAX - 512), None);
        assert_eq!(g(8, 0, u64::MAX, 512), None);
        assert_eq!(g(8, 7, 0, 512), None);
    }

    #[test]
    fn aliased_bits_are_shared_by_eight_sectors() {
        let g = Geometry::new(1 << 20, 0, 0, 0).unwrap();
        assert_eq!(g.aliased(256), None);
        assert_eq!(g.aliased(1000), None);
        assert_eq!(g.aliased(8192), None);
        for block in [512_u64, 1024, 4096] {
            let g = g.aliased(block).unwrap();
            let shift = block.trailing_zeros() + 3;
            for n in [0, 1, 511, 512, 4095, 4096, 4097, 32_767, 32_768, 40_000, (1 << 20) - 1] {
                // The posted code's arithmetic [COW 3.2].
                let byte = (n >> shift) * block + ((n & (block - 1)) >> 3);
                let lba = Lba::new(n).unwrap();
                assert_eq!(g.bit_offset(lba), byte, "{n} of {block}");
                let piece = Piece::of(&g, extent(n, 1 << 20).until(1 << 20));
                let bit = piece.page * 32_768 + piece.first as u64;
                assert_eq!((bit / 8, bit % 8), (byte, n & 7), "{n} of {block}");
                assert_eq!(piece.extent.sectors(), block - n % block);
            }
        }
    }
}
