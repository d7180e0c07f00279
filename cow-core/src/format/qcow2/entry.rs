//! Entries of L1, L2 and refcount tables: what they say, and what they must not [COW 6.2].

use super::geometry::{Geometry, MAX_HOST_OFFSET};

/// Reference count exactly 1: may be changed in place.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Version 3, without subclusters: reads as zeros, with or without a cluster.
pub(super) const ZERO: u64 = 1;
/// Bits 9 to 55.
pub(super) const OFFSET: u64 = (MAX_HOST_OFFSET - 1) & !511;

/// What an L1 entry or an entry of the refcount table says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Table {
    Absent,
    /// Byte of the storage where it is, and whether it is nobody else's.
    At {
        offset: u64,
        is_ours: bool,
    },
    Bad,
}

/// Reads an L1 entry.
pub(super) const fn l1(geometry: &Geometry, raw: u64) -> Table {
    let offset = raw & OFFSET;
    if raw & !(OFFSET | COPIED) != 0 || offset & geometry.cluster_mask() != 0 {
        return Table::Bad;
    }
    if offset == 0 {
        return Table::Absent;
    }
    Table::At { offset, is_ours: raw & COPIED != 0 }
}

/// Reads an entry of the refcount table.
pub(super) const fn reftable(geometry: &Geometry, raw: u64) -> Table {
    if raw & geometry.cluster_mask() != 0 || raw >= MAX_HOST_OFFSET {
        return Table::Bad;
    }
    if raw == 0 { Table::Absent } else { Table::At { offset: raw, is_ours: true } }
}

/// What an L2 entry says of a cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cluster {
    Absent,
    /// Reads as zeros; a cluster may belong to it all the same.
    Zero {
        host: Option<Host>,
    },
    Data(Host),
    /// Compressed bytes from here on, at most so many.
    Packed {
        offset: u64,
        len: u32,
    },
    Bad,
}

/// A cluster of the storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Host {
    pub(super) offset: u64,
    /// Its reference count is 1, as far as this entry knows.
    pub(super) is_ours: bool,
}

/// Reads an L2 entry (its first word, where it has two).
pub(super) const fn l2(geometry: &Geometry, version: u32, raw: u64) -> Cluster {
    if raw & COMPRESSED != 0 {
        return packed(geometry, raw);
    }
    let zero_allowed = version >= 3 && !geometry.has_subclusters();
    let zero = raw & ZERO != 0;
    let offset = raw & OFFSET;
    let reserved = raw & !(OFFSET | COPIED | ZERO) != 0 || (zero && !zero_allowed);
    if reserved || offset & geometry.cluster_mask() != 0 {
        return Cluster::Bad;
    }
    let host = Host { offset, is_ours: raw & COPIED != 0 };
    match (offset, zero) {
        (0, true) => Cluster::Zero { host: None },
        (_, true) => Cluster::Zero { host: Some(host) },
        (0, false) => Cluster::Absent,
        (_, false) => Cluster::Data(host),
    }
}

const fn packed(geometry: &Geometry, raw: u64) -> Cluster {
    let bits = geometry.cluster_bits() - 8;
    let split = 62 - bits;
    let offset = raw & ((1 << split) - 1);
    let sectors = (raw >> split & ((1 << bits) - 1)) + 1;
    let bytes = sectors * 512 - (offset & 511);
    // At most 2^13 sectors.
    if offset == 0 || offset >= MAX_HOST_OFFSET || bytes > u32::MAX as u64 {
        return Cluster::Bad;
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared with u32::MAX above")]
    let len = bytes as u32;
    Cluster::Packed { offset, len }
}

/// What the second word of an entry says of its 32 subclusters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Subcluster {
    Absent,
    Zero,
    Data,
}

/// The state of subcluster `index` (below 32), and of how many from there on it is the same.
/// `None` if a subcluster is both data and zero.
pub(super) const fn subclusters(word: u64, index: u32) -> Option<(Subcluster, u32)> {
    let (data, zero) = ((word & 0xffff_ffff) >> index, word >> 32 >> index);
    let (state, same) = match (data & 1, zero & 1) {
        (1, 1) => return None,
        (1, _) => (Subcluster::Data, (data & !zero).trailing_ones()),
        (_, 1) => (Subcluster::Zero, (zero & !data).trailing_ones()),
        _ => (Subcluster::Absent, (data | zero).trailing_zeros()),
    };
    let left = 32_u32.saturating_sub(index);
    Some((state, if same < left { same } else { left }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u8) -> Geometry {
        Geometry::new(bits, false, 4, 1000)
    }

    #[test]
    fn entries_say_what_the_specification_says() {
        let g = geometry(16);
        let host = |offset, is_ours| Host { offset, is_ours };
        assert_eq!(l2(&g, 3, 0), Cluster::Absent);
        assert_eq!(l2(&g, 3, 1), Cluster::Zero { host: None });
        assert_eq!(l2(&g, 3, 0x8000_0000_0005_0000), Cluster::Data(host(0x50000, true)));
        assert_eq!(l2(&g, 2, 0x50000), Cluster::Data(host(0x50000, false)));
        let kept = Cluster::Zero { host: Some(host(0x50000, true)) };
        assert_eq!(l2(&g, 3, 0x8000_0000_0005_0001), kept);
        // Version 2 has no zero mark; entries with subclusters have another one.
        assert_eq!(l2(&g, 2, 1), Cluster::Bad);
        assert_eq!(l2(&Geometry::new(16, true, 4, 1000), 3, 1), Cluster::Bad);
        for bad in [0x50200, 0x50002, 0x50100, 1 << 56 | 0x50000, 1 << 61] {
            assert_eq!(l2(&g, 3, bad), Cluster::Bad, "{bad:#x}");
        }
        // 64 KiB: 54 bits of offset, 8 bits of sectors.
        let raw = 1 << 62 | 2 << 54 | 0x50123;
        assert_eq!(l2(&g, 3, raw), Cluster::Packed { offset: 0x50123, len: 3 * 512 - 0x123 });
        // 2 MiB: 49 and 13 bits.
        let raw = 1 << 62 | 0x1fff << 49 | 0x400;
        assert_eq!(l2(&geometry(21), 3, raw), Cluster::Packed { offset: 0x400, len: 4 << 20 });
        // 512 bytes: 61 bits and 1 bit; more than any file has.
        let raw = 1 << 62 | 1 << 61 | 0x401;
        assert_eq!(l2(&geometry(9), 3, raw), Cluster::Packed { offset: 0x401, len: 1023 });
        assert_eq!(l2(&geometry(9), 3, 1 << 62 | 1 << 60), Cluster::Bad);
    }

    #[test]
    fn tables_are_aligned_and_reserved_bits_zero() {
        let g = geometry(16);
        assert_eq!(l1(&g, 0), Table::Absent);
        assert_eq!(l1(&g, COPIED | 0x40000), Table::At { offset: 0x40000, is_ours: true });
        assert_eq!(l1(&g, 0x40000), Table::At { offset: 0x40000, is_ours: false });
        assert_eq!(reftable(&g, 0x20000), Table::At { offset: 0x20000, is_ours: true });
        assert_eq!(reftable(&g, 0), Table::Absent);
        for bad in [0x40200, 0x40001, 1 << 62 | 0x40000, 1 << 56 | 0x40000] {
            assert_eq!((l1(&g, bad), reftable(&g, bad)), (Table::Bad, Table::Bad), "{bad:#x}");
        }
        assert_eq!(reftable(&g, COPIED | 0x40000), Table::Bad);
    }

    #[test]
    fn subclusters_come_in_runs() {
        // Sectors 0 to 7 and 100 of a 64 KiB cluster [COW 6.2].
        let word = 0x0200_0003;
        assert_eq!(subclusters(word, 0), Some((Subcluster::Data, 2)));
        assert_eq!(subclusters(word, 1), Some((Subcluster::Data, 1)));
        assert_eq!(subclusters(word, 2), Some((Subcluster::Absent, 23)));
        assert_eq!(subclusters(word, 25), Some((Subcluster::Data, 1)));
        assert_eq!(subclusters(word, 26), Some((Subcluster::Absent, 6)));
        assert_eq!(subclusters(0xffff_ffff << 32, 5), Some((Subcluster::Zero, 27)));
        assert_eq!(subclusters(0xffff_ffff, 31), Some((Subcluster::Data, 1)));
        assert_eq!(subclusters(1 << 35 | 1 << 2, 2), Some((Subcluster::Data, 1)));
        assert_eq!(subclusters(1 << 32 | 1, 0), None);
        assert_eq!(subclusters(0, 0), Some((Subcluster::Absent, 32)));
    }
}
