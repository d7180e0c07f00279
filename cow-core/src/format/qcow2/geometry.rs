//! Sizes and positions that follow from the header: clusters, tables, and the pages they are read in.

use crate::pages::PAGE_LEN;
use crate::units::{Extent, SECTOR_BYTES};

/// log2 of [`PAGE_LEN`].
const PAGE_BITS: u8 = 12;
const _: () = assert!(1 << PAGE_BITS == PAGE_LEN);

/// log2 of [`SECTOR_BYTES`].
const SECTOR_BITS: u8 = 9;
const _: () = assert!(1 << SECTOR_BITS == SECTOR_BYTES);

/// Smallest and largest cluster: 512 bytes and 2 MiB [COW 6.1].
pub(super) const CLUSTER_BITS: core::ops::RangeInclusive<u32> = 9..=21;

/// Host offsets stay below this [COW 6.2].
pub(super) const MAX_HOST_OFFSET: u64 = 1 << 56;

/// Sizes in powers of two, and how tables are cut into pages. All shifts are below 64 by
/// construction: `cluster_bits` is 9 to 21 and `refcount_order` at most 6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    cluster_bits: u8,
    /// log2 of the bytes of an L2 entry: 3, or 4 with subclusters.
    entry_bits: u8,
    refcount_order: u8,
    sectors: u64,
}

impl Geometry {
    pub(super) const fn new(
        cluster_bits: u8,
        extended_l2: bool,
        refcount_order: u8,
        sectors: u64,
    ) -> Self {
        let entry_bits = if extended_l2 { 4 } else { 3 };
        Self { cluster_bits, entry_bits, refcount_order, sectors }
    }

    /// log2 of the bytes of a cluster.
    pub const fn cluster_bits(&self) -> u8 {
        self.cluster_bits
    }

    /// Bytes of a cluster.
    pub const fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bits of a reference count: 1 to 64.
    pub const fn refcount_bits(&self) -> u8 {
        1 << self.refcount_order
    }

    /// Sectors of the disk.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// L2 entries have a second word with the states of 32 subclusters.
    pub const fn has_subclusters(&self) -> bool {
        self.entry_bits == 4
    }

    pub(super) const fn refcount_order(&self) -> u8 {
        self.refcount_order
    }

    pub(super) const fn cluster_sectors(&self) -> u64 {
        1 << (self.cluster_bits - SECTOR_BITS)
    }

    /// Sectors of the 32nd part of a cluster; at least 1 where there are subclusters.
    pub(super) const fn subcluster_sectors(&self) -> u64 {
        self.cluster_sectors() >> 5
    }

    pub(super) const fn cluster_mask(&self) -> u64 {
        self.cluster_bytes() - 1
    }

    /// Clusters of the disk, the last one perhaps cut.
    pub(super) const fn disk_clusters(&self) -> u64 {
        self.sectors.div_ceil(self.cluster_sectors())
    }

    /// Cluster of the disk that holds a sector.
    pub(super) const fn cluster_of(&self, sector: u64) -> u64 {
        sector >> (self.cluster_bits - SECTOR_BITS)
    }

    /// Sectors before this one in its cluster.
    pub(super) const fn within(&self, sector: u64) -> u64 {
        sector & (self.cluster_sectors() - 1)
    }

    /// First sector of a cluster of the disk.
    pub(super) const fn first_sector(&self, cluster: u64) -> u64 {
        cluster << (self.cluster_bits - SECTOR_BITS)
    }

    /// Sectors of the disk in `count` clusters from `cluster` on, cut at its end.
    pub(super) fn cluster_extent(&self, cluster: u64, count: u64) -> Extent {
        let sectors = count.saturating_mul(self.cluster_sectors());
        Extent::new(self.first_sector(cluster), sectors)
            .or_else(|| Extent::new(self.first_sector(cluster), 0))
            .unwrap_or(Extent::EMPTY)
            .until(self.sectors)
    }

    /// Byte of the storage where a cluster begins.
    pub(super) const fn cluster_offset(&self, host_cluster: u64) -> u64 {
        host_cluster << self.cluster_bits
    }

    /// Cluster of the storage that holds a byte.
    pub(super) const fn host_cluster(&self, offset: u64) -> u64 {
        offset >> self.cluster_bits
    }

    /// The length rounded up to whole clusters.
    pub(super) const fn round_up(&self, bytes: u64) -> u64 {
        bytes.saturating_add(self.cluster_mask()) & !self.cluster_mask()
    }

    /// Bytes of a metadata page: a table may be smaller than [`PAGE_LEN`].
    pub(super) const fn page_bytes(&self) -> u64 {
        1 << self.page_bits()
    }

    const fn page_bits(&self) -> u8 {
        if self.cluster_bits < PAGE_BITS { self.cluster_bits } else { PAGE_BITS }
    }

    /// log2 of the entries of an L2 table.
    pub(super) const fn l2_bits(&self) -> u8 {
        self.cluster_bits - self.entry_bits
    }

    /// log2 of the L2 entries in a page.
    pub(super) const fn l2_page_bits(&self) -> u8 {
        self.page_bits() - self.entry_bits
    }

    /// log2 of the pages in a table of one cluster.
    pub(super) const fn table_page_bits(&self) -> u8 {
        self.cluster_bits - self.page_bits()
    }

    /// Pages in a table of one cluster.
    pub(super) const fn table_pages(&self) -> u64 {
        1 << self.table_page_bits()
    }

    /// Byte of a page within its table of one cluster.
    pub(super) const fn offset_in_table(&self, page: u64) -> u64 {
        (page & (self.table_pages() - 1)) << self.page_bits()
    }

    /// L1 entries that the disk needs.
    pub(super) const fn l1_needed(&self) -> u64 {
        self.disk_clusters().div_ceil(1 << self.l2_bits())
    }

    /// log2 of the reference counts in a cluster.
    pub(super) const fn counts_bits(&self) -> u8 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// log2 of the reference counts in a page.
    pub(super) const fn counts_page_bits(&self) -> u8 {
        self.page_bits() + 3 - self.refcount_order
    }

    /// The largest reference count.
    pub(super) const fn refcount_max(&self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits())
    }
}

/// Reference counts of 1 to 64 bits: widths below a byte from the low bits up, others big-endian
/// [COW 6.2].
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts(pub(super) u8);

impl Counts {
    /// Count number `index` of a page. Counts outside read as 0.
    pub(super) fn read(self, page: &[u8], index: u64) -> u64 {
        let Ok(index) = usize::try_from(index) else { return 0 };
        match self.0 {
            0..=2 => {
                let (byte, shift) = self.position(index);
                let mask = (1_u8 << (1 << self.0)) - 1;
                page.get(byte).map_or(0, |b| u64::from(b >> shift & mask))
            }
            3 => page.get(index).map_or(0, |b| u64::from(*b)),
            4 => u64::from(super::bytes::u16_at(page, index.saturating_mul(2))),
            5 => u64::from(super::bytes::u32_at(page, index.saturating_mul(4))),
            _ => super::bytes::u64_at(page, index.saturating_mul(8)),
        }
    }

    /// Replaces count number `index`; `value` fits.
    pub(super) fn write(self, page: &mut [u8], index: u64, value: u64) {
        let Ok(index) = usize::try_from(index) else { return };
        if self.0 <= 2 {
            let (byte, shift) = self.position(index);
            let mask = (1_u8 << (1 << self.0)) - 1;
            let [.., low] = value.to_be_bytes();
            if let Some(b) = page.get_mut(byte) {
                *b = *b & !(mask << shift) | (low & mask) << shift;
            }
            return;
        }
        let bytes = value.to_be_bytes();
        let width = 1_usize << (self.0 - 3);
        let field = bytes.get(8_usize.saturating_sub(width)..).unwrap_or_default();
        let at = index.saturating_mul(width);
        for (to, from) in page.iter_mut().skip(at).zip(field) {
            *to = *from;
        }
    }

    fn position(self, index: usize) -> (usize, u8) {
        let per_byte_bits = 3 - self.0;
        let slot = u8::try_from(index & ((1 << per_byte_bits) - 1)).unwrap_or(0);
        (index >> per_byte_bits, slot << self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_lie_where_the_format_says() {
        // Width, index, value, byte, content of that byte (and the next).
        let cases: [(u8, u64, u64, usize, &[u8]); 9] = [
            (0, 0, 1, 0, &[0x01]),
            (0, 9, 1, 1, &[0x02]),
            (1, 3, 2, 0, &[0x80]),
            (2, 1, 0xf, 0, &[0xf0]),
            (3, 2, 0xab, 2, &[0xab]),
            (4, 1, 0x0102, 2, &[1, 2]),
            (5, 1, 0x0102_0304, 4, &[1, 2, 3, 4]),
            (6, 1, 0x0102_0304_0506_0708, 8, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (6, 0, u64::MAX, 0, &[0xff; 8]),
        ];
        for (order, index, value, at, bytes) in cases {
            let mut page = [0; 16];
            Counts(order).write(&mut page, index, value);
            let mut expected = [0; 16];
            expected[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(page, expected, "order {order}");
            assert_eq!(Counts(order).read(&page, index), value);
            // Neighbours are left alone.
            let mut full = [0xff; 16];
            Counts(order).write(&mut full, index, 0);
            let inverse = expected.map(|b| !b);
            if value == u64::MAX >> (64 - (1 << order)) {
                assert_eq!(full, inverse, "order {order}");
            }
            assert_eq!(Counts(order).read(&full, index), 0);
            Counts(order).write(&mut page, 1 << 20, 1);
            assert_eq!((page, Counts(order).read(&page, 1 << 20)), (expected, 0), "outside");
        }
    }

    #[test]
    fn tables_are_cut_into_pages() {
        let geometry = Geometry::new(16, false, 4, 1 << 32);
        assert_eq!((geometry.l2_bits(), geometry.l2_page_bits()), (13, 9));
        assert_eq!((geometry.table_pages(), geometry.page_bytes()), (16, 4096));
        assert_eq!(geometry.offset_in_table(18), 8192);
        assert_eq!(geometry.l1_needed(), 4096, "2 TiB");
        assert_eq!((geometry.counts_bits(), geometry.counts_page_bits()), (15, 11));
        let small = Geometry::new(9, false, 0, 7);
        assert_eq!((small.l2_bits(), small.l2_page_bits(), small.table_pages()), (6, 6, 1));
        assert_eq!((small.page_bytes(), small.counts_page_bits()), (512, 12));
        assert_eq!((small.refcount_max(), geometry.refcount_max()), (1, 0xffff));
        assert_eq!(Geometry::new(9, false, 6, 7).refcount_max(), u64::MAX);
        assert_eq!(geometry.cluster_extent((1 << 25) - 1, 2).sectors(), 128);
    }
}
