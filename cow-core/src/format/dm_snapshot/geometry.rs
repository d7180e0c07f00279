//! Where everything lies in a store: header, areas of the exception list, data chunks.

use core::num::NonZeroU64;

use crate::units::{Extent, Lba, MAX_SECTORS, SECTOR_BYTES};

/// Bytes of an exception: two little-endian u64, the chunk of the disk and the chunk of the store.
pub(super) const ENTRY_BYTES: u64 = 16;

/// Exceptions in a sector of the list, as a shift.
pub(super) const SECTOR_ENTRIES_SHIFT: u32 = 5;

/// First chunk that can hold data: behind the header and the first area.
pub(super) const FIRST_DATA_CHUNK: u64 = 2;

/// Largest chunk, in sectors: the last power of two below 2^22, where the kernel's limit of
/// 2 GiB lies.
pub const MAX_CHUNK_SECTORS: u32 = 1 << 21;

/// Bits of a store chunk's number in an index entry. What lies behind is not used: at the
/// smallest chunk that is all beyond 256 TiB.
pub(super) const CHUNK_BITS: u32 = 39;

/// Sizes of a store and its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    /// A chunk has 2^`shift` sectors; at most 21.
    shift: u32,
    store_chunks: u64,
    disk_sectors: u64,
}

impl Geometry {
    /// `None` if the chunk is no power of two up to [`MAX_CHUNK_SECTORS`], or the disk is empty
    /// or too large.
    pub(super) const fn new(
        chunk_sectors: u32,
        store_bytes: u64,
        disk_sectors: u64,
    ) -> Option<Self> {
        let chunk_fits = chunk_sectors.is_power_of_two() && chunk_sectors <= MAX_CHUNK_SECTORS;
        if !chunk_fits || disk_sectors == 0 || disk_sectors > MAX_SECTORS {
            return None;
        }
        let shift = chunk_sectors.trailing_zeros();
        let (whole, cap) = ((store_bytes / SECTOR_BYTES) >> shift, 1 << CHUNK_BITS);
        let store_chunks = if whole < cap { whole } else { cap };
        Some(Self { shift, store_chunks, disk_sectors })
    }

    /// Sectors in a chunk, 1 to [`MAX_CHUNK_SECTORS`].
    pub const fn chunk_sectors(&self) -> u64 {
        1 << self.shift
    }

    /// Bytes in a chunk.
    pub const fn chunk_bytes(&self) -> u64 {
        SECTOR_BYTES << self.shift
    }

    /// Whole chunks in the store, the header and the areas included.
    pub const fn store_chunks(&self) -> u64 {
        self.store_chunks
    }

    /// Sectors of the disk.
    pub const fn disk_sectors(&self) -> u64 {
        self.disk_sectors
    }

    /// Chunks of the disk; the last may be cut.
    pub const fn disk_chunks(&self) -> u64 {
        // A disk has at most 2^48 sectors, so the sum stays far from the end of u64.
        self.disk_sectors.wrapping_add(self.chunk_sectors()).wrapping_sub(1) >> self.shift
    }

    /// Most exceptions that the store can hold.
    pub fn capacity(&self) -> u64 {
        let beyond_header = self.store_chunks.saturating_sub(1);
        let areas = beyond_header.div_ceil(self.stride().get());
        let data = beyond_header.saturating_sub(areas);
        // A store that ends right behind a full area's data lacks the area after it.
        let last = self.store_chunks.saturating_sub(1);
        let lacks_area = last >= FIRST_DATA_CHUNK && last % self.stride() == 0;
        data.saturating_sub(u64::from(lacks_area)).min(self.disk_chunks())
    }

    /// Exceptions in an area, as a shift.
    pub(super) const fn area_shift(&self) -> u32 {
        self.shift.wrapping_add(SECTOR_ENTRIES_SHIFT)
    }

    /// From one area to the next, in chunks.
    pub(super) const fn stride(&self) -> NonZeroU64 {
        NonZeroU64::MIN.saturating_add(1 << self.area_shift())
    }

    /// The chunk of the store that area `area` of the list fills.
    pub(super) const fn area_chunk(&self, area: u64) -> u64 {
        area.saturating_mul(self.stride().get()).saturating_add(1)
    }

    pub(super) fn is_metadata(&self, chunk: u64) -> bool {
        chunk % self.stride() == 1
    }

    /// The first area behind store chunk `chunk`, as a chunk.
    pub(super) fn area_behind(&self, chunk: u64) -> u64 {
        self.area_chunk(chunk.saturating_add(self.stride().get()).saturating_sub(1) / self.stride())
    }

    /// All of chunk `chunk` is inside the store.
    pub(super) const fn holds(&self, chunk: u64) -> bool {
        chunk < self.store_chunks
    }

    /// The area of exception `number`.
    pub(super) const fn area_of(&self, number: u64) -> u64 {
        number >> self.area_shift()
    }

    /// Byte of the store where exception `number` is.
    pub(super) const fn entry_offset(&self, number: u64) -> u64 {
        let area = self.chunk_offset(self.area_chunk(self.area_of(number)));
        let slot = number & !(u64::MAX << self.area_shift());
        area.saturating_add(slot.wrapping_mul(ENTRY_BYTES))
    }

    /// Byte of the store where `chunk` begins.
    pub(super) const fn chunk_offset(&self, chunk: u64) -> u64 {
        chunk.saturating_mul(self.chunk_bytes())
    }

    /// The chunk of the disk with this sector.
    pub(super) const fn chunk_of(&self, lba: Lba) -> u64 {
        lba.get() >> self.shift
    }

    /// Sectors between the start of its chunk and `lba`.
    pub(super) const fn within(&self, lba: Lba) -> u64 {
        lba.get() & self.chunk_sectors().wrapping_sub(1)
    }

    /// The sectors of the disk in chunk `chunk`; empty beyond the disk.
    pub(super) fn chunk_extent(&self, chunk: u64) -> Extent {
        let start = chunk.saturating_mul(self.chunk_sectors());
        let sectors = self.disk_sectors.saturating_sub(start).min(self.chunk_sectors());
        Extent::new(start, sectors).unwrap_or(Extent::EMPTY)
    }

    /// Byte of the store where the sector `lba` is if its chunk lives in store chunk `chunk`.
    pub(super) const fn sector_offset(&self, chunk: u64, lba: Lba) -> u64 {
        self.chunk_offset(chunk).saturating_add(self.within(lba).wrapping_mul(SECTOR_BYTES))
    }
}
