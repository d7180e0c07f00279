//! Lookups: what the entries of the tables say, and how pages of tables are read.

use super::geometry::{ENTRY_BYTES, Geometry, Spot};
use crate::format::{Codec, Load, Located, Packed, Place, Run};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::{Extent, SECTOR_BYTES};

/// Note of a page whose table does not exist: all its clusters are absent. Otherwise the note is
/// the table's byte offset, which is never 0.
pub(super) const NO_TABLE: u64 = 0;

/// Entry of an L2 table: compressed.
const PACKED: u64 = 1 << 63;

/// Clusters, L2 tables: every known writer puts them on sectors at least.
const ALIGN: u64 = SECTOR_BYTES;

/// What an entry of an L2 table says, as far as it can be told from the entry alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Absent,
    /// In the file from this byte on.
    Data(u64),
    /// Compressed.
    Packed {
        offset: u64,
        len: u32,
    },
}

impl Entry {
    pub(super) fn of(raw: u64, cluster_bits: u8) -> Self {
        if raw == 0 {
            return Self::Absent;
        }
        if raw & PACKED == 0 {
            return Self::Data(raw);
        }
        let bits = 63_u32.wrapping_sub(u32::from(cluster_bits));
        let offset = raw & 1_u64.wrapping_shl(bits).wrapping_sub(1);
        let len = raw.wrapping_shr(bits) & 1_u64.wrapping_shl(cluster_bits.into()).wrapping_sub(1);
        Self::Packed { offset, len: u32::try_from(len).unwrap_or(0) } // below 2^16
    }
}

/// Entry `slot` of a page of an L2 table.
pub(super) fn raw_entry(bytes: &[u8; PAGE_LEN], slot: usize) -> u64 {
    bytes.as_chunks::<8>().0.get(slot).map_or(0, |entry| u64::from_be_bytes(*entry))
}

/// What both halves need: a storage, its layout, and how much of it there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    pub(super) storage: StorageKey,
    pub(super) geometry: Geometry,
    /// Absent clusters are the backing file's; otherwise zeros.
    pub(super) backed: bool,
    /// Bytes of the file, those that are being added included.
    pub(super) len: u64,
}

impl Volume {
    pub(super) fn entry(&self, bytes: &[u8; PAGE_LEN], slot: usize) -> Entry {
        Entry::of(raw_entry(bytes, slot), self.geometry.cluster_bits)
    }

    /// The table may be at this byte of the file.
    pub(super) fn may_be_table(&self, offset: u64) -> bool {
        offset.is_multiple_of(ALIGN)
            && offset < self.len
            && offset.checked_add(self.geometry.l2_len()).is_some()
            && !self.geometry.is_metadata(offset, self.geometry.l2_len())
    }

    /// The clusters may be at this byte of the file.
    fn may_be_data(&self, offset: u64, clusters: u64) -> bool {
        let len = clusters.saturating_mul(self.geometry.cluster_bytes());
        offset.is_multiple_of(ALIGN)
            && offset < self.len
            && offset.checked_add(len).is_some()
            && !self.geometry.is_metadata(offset, len)
    }

    /// Consecutive entries that say the same of consecutive clusters, at most `most`.
    pub(super) fn count(&self, bytes: &[u8; PAGE_LEN], slot: usize, most: u64) -> u64 {
        let first = raw_entry(bytes, slot);
        let step = match Entry::of(first, self.geometry.cluster_bits) {
            Entry::Absent => 0,
            Entry::Data(_) => self.geometry.cluster_bytes(),
            Entry::Packed { .. } => return 1,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let entries = bytes.as_chunks::<8>().0.iter().take(self.geometry.page_entries());
        let mut expected = first;
        let same = entries.skip(slot).take(most).take_while(|entry| {
            let goes_on = u64::from_be_bytes(**entry) == expected;
            expected = expected.wrapping_add(step);
            goes_on
        });
        same.count() as u64
    }

    /// Sectors from the start of `extent` that are in `clusters` clusters.
    pub(super) fn reach(&self, extent: Extent, spot: &Spot, clusters: u64) -> u64 {
        let all = clusters.saturating_mul(self.geometry.cluster_sectors());
        all.saturating_sub(spot.within).min(extent.sectors())
    }

    /// Clusters that `extent` touches.
    pub(super) fn clusters_in(&self, extent: Extent, spot: &Spot) -> u64 {
        let sectors = extent.sectors().saturating_add(spot.within);
        let up = sectors.saturating_add(self.geometry.cluster_sectors().wrapping_sub(1));
        self.geometry.cluster_of(crate::units::Lba::new(up).unwrap_or_default())
    }

    /// Byte of the file where the entry of `spot` is, in a table at `table`.
    pub(super) fn entry_offset(&self, table: u64, spot: &Spot) -> u64 {
        let in_page = (spot.slot as u64).wrapping_mul(ENTRY_BYTES);
        table.wrapping_add(self.geometry.page_within(spot.page)).wrapping_add(in_page)
    }

    /// As [`Map::locate`](crate::format::Map::locate).
    pub(super) fn locate(&self, extent: Extent, pages: &PagePool<'_>) -> Located {
        let spot = self.geometry.spot(extent.start());
        let Some(bytes) = pages.lookup(self.storage, spot.page) else {
            return Located::Load(spot.page);
        };
        let table = pages.find(self.storage, spot.page).map_or(NO_TABLE, |id| pages.aux(id));
        if table == NO_TABLE {
            let end = self.geometry.first_sector(self.geometry.table_end(spot.page));
            let sectors = extent.until(end).sectors();
            return Located::Run(Run { sectors, place: self.absent() });
        }
        self.locate_in(extent, &spot, bytes, table)
    }

    const fn absent(&self) -> Place {
        if self.backed { Place::Absent } else { Place::Zero }
    }

    /// Where the first sectors of `extent` are, by a page of the table at `table`.
    pub(super) fn locate_in(
        &self,
        extent: Extent,
        spot: &Spot,
        bytes: &[u8; PAGE_LEN],
        table: u64,
    ) -> Located {
        let count = self.count(bytes, spot.slot, self.clusters_in(extent, spot));
        let sectors = self.reach(extent, spot, count);
        let corrupt = Located::Corrupt { offset: self.entry_offset(table, spot) };
        match self.entry(bytes, spot.slot) {
            Entry::Absent => Located::Run(Run { sectors, place: self.absent() }),
            Entry::Data(offset) if self.may_be_data(offset, count) => {
                Located::Run(self.data(sectors, offset, spot))
            }
            Entry::Data(offset) if self.may_be_data(offset, 1) => {
                let sectors = self.reach(extent, spot, 1);
                Located::Run(self.data(sectors, offset, spot))
            }
            Entry::Packed { offset, len } if self.may_be_packed(offset, len) => {
                let from = Geometry::bytes(spot.within);
                Located::Run(Run {
                    sectors,
                    place: Place::Packed(Packed {
                        offset,
                        len,
                        codec: Codec::Deflate,
                        unit_len: u32::try_from(self.geometry.cluster_bytes()).unwrap_or(0),
                        from: u32::try_from(from).unwrap_or(0),
                    }),
                })
            }
            Entry::Data(_) | Entry::Packed { .. } => corrupt,
        }
    }

    /// Byte of the file at which the write of a present cluster begins, and how many sectors of
    /// `extent` follow it there.
    pub(super) fn present(
        &self,
        entry: Entry,
        count: u64,
        extent: Extent,
        spot: &Spot,
    ) -> Option<(u64, u64)> {
        let Entry::Data(offset) = entry else { return None };
        let count = if self.may_be_data(offset, count) { count } else { 1 };
        let sectors = self.reach(extent, spot, count);
        let offset = offset.saturating_add(Geometry::bytes(spot.within));
        self.is_sound(entry).then_some((offset, sectors))
    }

    pub(super) fn may_be_packed(&self, offset: u64, len: u32) -> bool {
        len > 0 && offset < self.len && !self.geometry.is_metadata(offset, len.into())
    }

    /// The entry is one that reads can follow.
    pub(super) fn is_sound(&self, entry: Entry) -> bool {
        match entry {
            Entry::Absent => true,
            Entry::Data(offset) => self.may_be_data(offset, 1),
            Entry::Packed { offset, len } => self.may_be_packed(offset, len),
        }
    }

    /// Sectors of clusters from byte `offset` on. What the file does not have of them reads as
    /// zeros, as with the reference.
    fn data(&self, sectors: u64, offset: u64, spot: &Spot) -> Run {
        let offset = offset.saturating_add(Geometry::bytes(spot.within));
        let held = self.len.saturating_sub(offset);
        let whole = (held / SECTOR_BYTES).min(sectors);
        if whole > 0 {
            return Run { sectors: whole, place: Place::Data { offset } };
        }
        match u16::try_from(held) {
            Ok(len) if len > 0 => Run { sectors: 1, place: Place::Tail { offset, len } },
            // Behind the end, one sector at a time or all of them: no matter.
            _ => Run { sectors, place: Place::Zero },
        }
    }

    /// As [`Map::load`](crate::format::Map::load); `linked` is where the page's table is (0 for
    /// nowhere), if its entry in the L1 table must not be read from the file.
    pub(super) fn load(
        &self,
        page: u64,
        step: u8,
        linked: Option<u64>,
        note: &mut u64,
        bytes: &mut [u8; PAGE_LEN],
    ) -> Load {
        let g = &self.geometry;
        if let Some(table) = Geometry::is_l1_page(page) {
            return match step {
                0 => Load::Read { offset: g.l1_entry_offset(table), len: 8 },
                _ => Load::Ready,
            };
        }
        if *note != NO_TABLE {
            bytes.iter_mut().skip(self.page_held(page, *note)).for_each(|byte| *byte = 0);
            return Load::Ready;
        }
        let l1_entry = g.l1_entry_offset(g.table_of(page));
        let table = match (linked, step) {
            (Some(table), _) => table,
            (None, 0) => return Load::Read { offset: l1_entry, len: 8 },
            (None, _) => bytes.first_chunk::<8>().map_or(0, |entry| g.l1_entry(*entry)),
        };
        // A table behind the end of the file is one that the reference did not get to write.
        if table == 0 || (table >= self.len && linked.is_none()) {
            bytes.fill(0);
            return Load::Ready;
        }
        if !self.may_be_table(table) {
            return Load::Corrupt { offset: l1_entry };
        }
        *note = table;
        let offset = table.wrapping_add(g.page_within(page));
        match u32::try_from(self.page_held(page, table)) {
            Ok(len) if len > 0 => Load::Read { offset, len },
            _ => {
                bytes.fill(0);
                Load::Ready
            }
        }
    }

    /// Bytes of a page that the file has, if its table is at `table`.
    pub(super) fn page_held(&self, page: u64, table: u64) -> usize {
        let offset = table.wrapping_add(self.geometry.page_within(page));
        let held = self.len.saturating_sub(offset).min(self.geometry.page_len().into());
        usize::try_from(held).unwrap_or(PAGE_LEN)
    }
}
