//! Ranges of sectors that were checked against the size of a disk.

/// Bytes in a sector, always. `[AoE 1]`
pub const SECTOR_BYTES: usize = 512;

/// The largest disk, in sectors: addresses have 48 bits. `[AoE 5.2]`
pub const DISK_SECTORS_MAX: u64 = (1 << 48) - 1;

/// A non-empty range of sectors that lies inside its disk.
///
/// Only [`SectorRange::new`] makes one, so whoever holds a range may use it without another check.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SectorRange {
    lba: u64,
    count: u16,
}

impl SectorRange {
    /// Checks `count` sectors from `lba` against a disk of `disk_sectors`.
    ///
    /// `None` if the range is empty or reaches past the end (or past [`DISK_SECTORS_MAX`]); the
    /// arithmetic cannot overflow. `[AoE 5.2]`
    #[inline]
    pub const fn new(lba: u64, count: u16, disk_sectors: u64) -> Option<Self> {
        let size = if disk_sectors > DISK_SECTORS_MAX { DISK_SECTORS_MAX } else { disk_sectors };
        if count == 0 || lba >= size || count as u64 > size - lba {
            return None;
        }
        Some(Self { lba, count })
    }

    /// First sector.
    #[inline]
    pub const fn lba(&self) -> u64 {
        self.lba
    }

    /// Number of sectors, at least 1.
    #[inline]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// The sector after the last one.
    #[inline]
    pub const fn end(&self) -> u64 {
        self.lba.saturating_add(self.count as u64)
    }

    /// The first `count` sectors (at least one), and the rest if there is any.
    #[inline]
    pub const fn split(self, count: u16) -> (Self, Option<Self>) {
        let count = if count == 0 { 1 } else { count };
        if count >= self.count {
            return (self, None);
        }
        let tail = Self {
            lba: self.lba.saturating_add(count as u64),
            count: self.count.saturating_sub(count),
        };
        (Self { count, ..self }, Some(tail))
    }

    /// Length in bytes.
    #[inline]
    pub const fn len_bytes(&self) -> usize {
        (self.count as usize).saturating_mul(SECTOR_BYTES)
    }

    /// Offset of the first sector in bytes. Cannot overflow: the LBA has at most 48 bits.
    #[inline]
    pub const fn byte_offset(&self) -> u64 {
        self.lba.saturating_mul(SECTOR_BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_the_disk() {
        let end = SectorRange::new(99, 1, 100).unwrap();
        assert_eq!((end.lba(), end.count(), end.end()), (99, 1, 100));
        assert_eq!(end.byte_offset(), 99 * 512);
        assert_eq!(SectorRange::new(0, 100, 100).unwrap().len_bytes(), 51_200);
        for (lba, count, size) in
            [(100, 1, 100), (99, 2, 100), (0, 101, 100), (0, 0, 100), (0, 1, 0), (u64::MAX, 1, 100)]
        {
            assert_eq!(SectorRange::new(lba, count, size), None, "{lba}+{count} of {size}");
        }
    }

    #[test]
    fn splitting_covers_the_range() {
        let range = SectorRange::new(10, 5, 100).unwrap();
        let (head, tail) = range.split(2);
        assert_eq!((head.lba(), head.count()), (10, 2));
        assert_eq!(tail.map(|tail| (tail.lba(), tail.count())), Some((12, 3)));
        assert_eq!(range.split(0).0.count(), 1);
        assert_eq!(range.split(5), (range, None));
        assert_eq!(range.split(u16::MAX), (range, None));
    }

    #[test]
    fn huge_values_do_not_wrap() {
        let last = DISK_SECTORS_MAX - 1;
        assert!(SectorRange::new(last, 1, u64::MAX).is_some());
        assert!(SectorRange::new(last, 2, u64::MAX).is_none());
        assert!(SectorRange::new(u64::MAX, u16::MAX, u64::MAX).is_none());
        assert_eq!(SectorRange::new(last, 1, u64::MAX).unwrap().byte_offset(), last * 512);
    }
}
