//! Where everything is in an image, and how its tables are divided into pages.

use super::header::CLUSTER_BITS;
use crate::pages::PAGE_LEN;
use crate::units::{Extent, Lba, SECTOR_BYTES};

/// Bytes of an entry of either table.
pub(super) const ENTRY_BYTES: u64 = 8;

/// Entries of an L2 table in one page, at most, as a power of two.
const PAGE_BITS: u8 = 9;
const _: () = assert!(ENTRY_BYTES << PAGE_BITS == PAGE_LEN as u64);

/// Bit of a page's index that says that the page is one entry of the L1 table. Other pages are
/// pieces of L2 tables, in the order of the disk.
const L1_PAGE: u64 = 1 << 63;

/// Sizes and places of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    pub(super) sectors: u64,
    pub(super) cluster_bits: u8,
    pub(super) l2_bits: u8,
    pub(super) l1_offset: u64,
    pub(super) header_len: u64,
    /// Offset and length of the backing file's name; zeros if there is none.
    pub(super) name: (u64, u64),
    /// The L1 table is little-endian [COW 5.3].
    pub(super) l1_little: bool,
}

/// A sector's place in the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) cluster: u64,
    /// Sectors into the cluster.
    pub(super) within: u64,
    /// Page of the L2 table, and entry in the page.
    pub(super) page: u64,
    pub(super) slot: usize,
}

impl Geometry {
    /// Size of the disk in sectors.
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Bytes of a cluster, 512 to 65,536.
    pub const fn cluster_bytes(&self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits as u32)
    }

    /// Sectors of a cluster, 1 to 128.
    pub const fn cluster_sectors(&self) -> u64 {
        1_u64.wrapping_shl((self.cluster_bits.wrapping_sub(*CLUSTER_BITS.start())) as u32)
    }

    /// Entries of an L2 table, 64 to 8,192.
    pub const fn l2_entries(&self) -> u64 {
        1_u64.wrapping_shl(self.l2_bits as u32)
    }

    /// Bytes of an L2 table.
    pub const fn l2_len(&self) -> u64 {
        self.l2_entries().wrapping_mul(ENTRY_BYTES)
    }

    /// Byte offset of the L1 table.
    pub const fn l1_offset(&self) -> u64 {
        self.l1_offset
    }

    /// Clusters of the disk; the last one may be cut off by its end.
    pub const fn clusters(&self) -> u64 {
        // A cluster has at least one sector.
        self.sectors.saturating_add(self.cluster_sectors().wrapping_sub(1))
            >> (self.cluster_bits.wrapping_sub(*CLUSTER_BITS.start()))
    }

    /// Entries of the L1 table that the disk needs. The table may be longer [COW 5.3].
    pub const fn l1_entries(&self) -> u64 {
        self.clusters().saturating_add(self.l2_entries().wrapping_sub(1)) >> self.l2_bits
    }

    /// Bytes of these entries.
    pub const fn l1_len(&self) -> u64 {
        self.l1_entries().saturating_mul(ENTRY_BYTES)
    }

    /// Byte offset of an entry of the L1 table.
    pub(super) const fn l1_entry_offset(&self, table: u64) -> u64 {
        self.l1_offset.wrapping_add(table.wrapping_mul(ENTRY_BYTES))
    }

    /// Entries in a page of an L2 table, as a power of two.
    const fn page_bits(&self) -> u8 {
        if self.l2_bits < PAGE_BITS { self.l2_bits } else { PAGE_BITS }
    }

    /// Entries in a page of an L2 table.
    pub(super) const fn page_entries(&self) -> usize {
        1_usize.wrapping_shl(self.page_bits() as u32)
    }

    /// Bytes of a page of an L2 table, 512 to 4096.
    pub(super) const fn page_len(&self) -> u32 {
        8_u32.wrapping_shl(self.page_bits() as u32)
    }

    /// Pages of an L2 table, as a power of two.
    const fn table_bits(&self) -> u8 {
        self.l2_bits.wrapping_sub(self.page_bits())
    }

    /// Pages of L2 tables that the disk needs.
    pub(super) const fn pages(&self) -> u64 {
        self.clusters().saturating_add((self.page_entries() as u64).wrapping_sub(1))
            >> self.page_bits()
    }

    /// The L2 table that a page is of.
    pub(super) const fn table_of(&self, page: u64) -> u64 {
        page >> self.table_bits()
    }

    /// The pages of an L2 table.
    pub(super) const fn pages_of(&self, table: u64) -> core::ops::Range<u64> {
        let first = table << self.table_bits();
        first..first.wrapping_add(1 << self.table_bits())
    }

    /// Bytes from the start of its table to a page.
    pub(super) const fn page_within(&self, page: u64) -> u64 {
        let number = page & (1_u64 << self.table_bits()).wrapping_sub(1);
        number.wrapping_mul(PAGE_LEN as u64)
    }

    /// The first cluster of a page.
    pub(super) const fn page_cluster(&self, page: u64) -> u64 {
        page << self.page_bits()
    }

    /// The first cluster behind those of the L2 table that a page is of.
    pub(super) const fn table_end(&self, page: u64) -> u64 {
        self.table_of(page).wrapping_add(1) << self.l2_bits
    }

    /// Index of the page that is the L1 entry of a table.
    pub(super) const fn l1_page(table: u64) -> u64 {
        table | L1_PAGE
    }

    /// The table, if the page is an L1 entry.
    pub(super) const fn is_l1_page(page: u64) -> Option<u64> {
        if page & L1_PAGE != 0 { Some(page & !L1_PAGE) } else { None }
    }

    pub(super) const fn cluster_of(&self, lba: Lba) -> u64 {
        lba.get() >> (self.cluster_bits.wrapping_sub(*CLUSTER_BITS.start()))
    }

    /// First sector of a cluster.
    pub(super) const fn first_sector(&self, cluster: u64) -> u64 {
        cluster << (self.cluster_bits.wrapping_sub(*CLUSTER_BITS.start()))
    }

    /// Sectors of a cluster that the disk has.
    pub(super) const fn cluster_extent(&self, cluster: u64) -> Extent {
        match Extent::new(self.first_sector(cluster), self.cluster_sectors()) {
            Some(whole) => whole.until(self.sectors),
            None => Extent::EMPTY,
        }
    }

    /// The sector's place in the tables.
    pub(super) fn spot(&self, lba: Lba) -> Spot {
        let cluster = self.cluster_of(lba);
        let slot = cluster & (self.page_entries() as u64).wrapping_sub(1);
        Spot {
            cluster,
            within: lba.get().wrapping_sub(self.first_sector(cluster)),
            page: cluster >> self.page_bits(),
            slot: usize::try_from(slot).unwrap_or(0), // below 512
        }
    }

    /// The range of the file touches the header, the backing file's name or the L1 table.
    pub(super) const fn is_metadata(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let (name, name_len) = self.name;
        offset < self.header_len
            || (offset < name.wrapping_add(name_len) && name < end)
            || (offset < self.l1_offset.wrapping_add(self.l1_len()) && self.l1_offset < end)
    }

    /// Rounds a byte offset up to whole clusters; beyond what can be addressed it stays.
    pub(super) const fn align(&self, offset: u64) -> u64 {
        let mask = self.cluster_bytes().wrapping_sub(1);
        match offset.checked_add(mask) {
            Some(up) => up & !mask,
            None => offset,
        }
    }

    /// An L1 entry as it is in the file, as a number.
    #[expect(clippy::little_endian_bytes, reason = "early Xen images")]
    pub(super) const fn l1_entry(&self, bytes: [u8; 8]) -> u64 {
        if self.l1_little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) }
    }

    /// A number as it is in the L1 table.
    #[expect(clippy::little_endian_bytes, reason = "early Xen images")]
    pub(super) const fn l1_bytes(&self, entry: u64) -> [u8; 8] {
        if self.l1_little { entry.to_le_bytes() } else { entry.to_be_bytes() }
    }

    /// Bytes of `sectors` sectors.
    pub(super) const fn bytes(sectors: u64) -> u64 {
        sectors.wrapping_mul(SECTOR_BYTES)
    }
}
