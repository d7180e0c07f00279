//! Sectors, addresses and ranges of a virtual disk; the only place where they are converted to bytes.

use core::fmt;

/// Bytes in a sector, the unit of AoE and of every [`Lba`] here.
pub const SECTOR_BYTES: u64 = 512;

/// [`SECTOR_BYTES`] as a buffer length.
pub const SECTOR_LEN: usize = 512;

/// Most sectors a disk can have: the reach of a 48-bit LBA [ACS-3 4.1].
pub const MAX_SECTORS: u64 = (1 << 48) - 1;

/// Index of a sector in the virtual disk, at most [`MAX_SECTORS`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lba(u64);

impl Lba {
    /// The first sector.
    pub const ZERO: Self = Self(0);

    /// `None` beyond [`MAX_SECTORS`].
    pub const fn new(sector: u64) -> Option<Self> {
        if sector <= MAX_SECTORS { Some(Self(sector)) } else { None }
    }

    /// The sector index.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Byte position of the sector's first octet. Below 2^57, so sums of a few cannot overflow.
    pub const fn bytes(self) -> u64 {
        self.0.wrapping_mul(SECTOR_BYTES)
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of sectors whose end is at most [`MAX_SECTORS`]; may be empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extent {
    start: u64,
    sectors: u64,
}

impl Extent {
    /// No sectors at all.
    pub const EMPTY: Self = Self { start: 0, sectors: 0 };

    /// `None` if the range would end beyond [`MAX_SECTORS`].
    pub const fn new(start: u64, sectors: u64) -> Option<Self> {
        match start.checked_add(sectors) {
            Some(end) if end <= MAX_SECTORS => Some(Self { start, sectors }),
            _ => None,
        }
    }

    /// The first sector.
    pub const fn start(self) -> Lba {
        Lba(self.start)
    }

    /// Number of sectors.
    pub const fn sectors(self) -> u64 {
        self.sectors
    }

    /// The sector after the last one.
    pub const fn end(self) -> Lba {
        Lba(self.start.wrapping_add(self.sectors))
    }

    /// Number of bytes.
    pub const fn bytes(self) -> u64 {
        self.sectors.wrapping_mul(SECTOR_BYTES)
    }

    /// True without a single sector.
    pub const fn is_empty(self) -> bool {
        self.sectors == 0
    }

    /// Both ranges have a sector in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end().0 && other.start < self.end().0
    }

    /// The first `sectors` of this range, or all of it if it is shorter.
    #[must_use]
    pub const fn take(self, sectors: u64) -> Self {
        Self {
            start: self.start,
            sectors: if sectors < self.sectors { sectors } else { self.sectors },
        }
    }

    /// What is left without the first `sectors`.
    #[must_use]
    pub const fn skip(self, sectors: u64) -> Self {
        let cut = if sectors < self.sectors { sectors } else { self.sectors };
        Self { start: self.start.wrapping_add(cut), sectors: self.sectors.wrapping_sub(cut) }
    }

    /// The part below sector `end`.
    #[must_use]
    pub const fn until(self, end: u64) -> Self {
        self.take(end.saturating_sub(self.start))
    }

    /// The part from sector `start` on.
    #[must_use]
    pub const fn from(self, start: u64) -> Self {
        self.skip(start.saturating_sub(self.start))
    }

    /// The smallest range on multiples of `grain` sectors (a power of two) around this one, cut at
    /// the end of a disk of `disk` sectors.
    #[must_use]
    pub const fn widen(self, grain: u64, disk: u64) -> Self {
        let mask = grain.wrapping_sub(1);
        let start = self.start & !mask;
        let up = self.end().0.wrapping_add(mask) & !mask;
        let end = if up < disk { up } else { disk };
        Self { start, sectors: end.saturating_sub(start) }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, sectors: u64) -> Extent {
        Extent::new(start, sectors).unwrap()
    }

    #[test]
    fn the_48_bit_limit_is_the_last_that_fits() {
        assert!(Extent::new(MAX_SECTORS - 1, 1).is_some());
        assert!(Extent::new(MAX_SECTORS, 1).is_none());
        assert!(Extent::new(u64::MAX, 2).is_none());
        assert!(Lba::new(MAX_SECTORS + 1).is_none());
        assert_eq!(extent(MAX_SECTORS - 1, 1).end().bytes(), MAX_SECTORS * 512);
    }

    #[test]
    fn cutting_and_widening_stay_inside() {
        let e = extent(10, 5);
        assert_eq!(e.take(2), extent(10, 2));
        assert_eq!(e.skip(2), extent(12, 3));
        assert_eq!(e.skip(9), extent(15, 0));
        assert_eq!(e.until(12), extent(10, 2));
        assert_eq!(e.until(3).sectors(), 0);
        assert_eq!(e.from(13), extent(13, 2));
        assert_eq!(e.widen(8, 1000), extent(8, 8));
        assert_eq!(e.widen(8, 15), extent(8, 7));
        assert!(
            e.overlaps(extent(14, 1)) && !e.overlaps(extent(15, 1)) && !e.overlaps(extent(9, 1))
        );
    }
}
