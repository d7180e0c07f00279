//! What both halves need to read an image: where its tables are, and how they are paged.
//!
//! Four kinds of metadata share the page numbers of the storage. L2 tables and refcount blocks are
//! numbered by what they describe, not by where they are: a page of theirs is found by one look at
//! the pool, and where it comes from is read, when it is loaded, from the entry of the table above.

use super::bytes::{entry, u64_at};
use super::entry::{self as read, Cluster, Subcluster, Table};
use super::geometry::Geometry;
use super::header::Header;
use crate::format::{Codec, Load, Located, Packed, Place, Run};
use crate::pages::{PAGE_LEN, PageId, PagePool, StorageKey};
use crate::units::{Extent, SECTOR_BYTES};

/// Entries of a page of 8-byte entries that is cut from a table by bytes.
pub(super) const PAGE_ENTRIES_BITS: u8 = 9;
const _: () = assert!(8 << PAGE_ENTRIES_BITS == PAGE_LEN);

/// Where the kind of a page is in its number. Nothing counts to 2^60.
const KIND_SHIFT: u8 = 60;

/// A page's number in the storage, by kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PageName {
    /// Part of an L2 table: number of its first cluster of the disk, in units of its entries.
    L2(u64),
    /// Part of the L1 table.
    L1(u64),
    /// Part of a refcount block: number of its first cluster of the storage, in units of its counts.
    Counts(u64),
    /// Part of the refcount table.
    Reftable(u64),
}

impl PageName {
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::L2(n) => n,
            Self::L1(n) => 1 << KIND_SHIFT | n,
            Self::Counts(n) => 2 << KIND_SHIFT | n,
            Self::Reftable(n) => 3 << KIND_SHIFT | n,
        }
    }

    pub(super) const fn of(number: u64) -> Self {
        let rest = number & ((1 << KIND_SHIFT) - 1);
        match number >> KIND_SHIFT {
            0 => Self::L2(rest),
            1 => Self::L1(rest),
            2 => Self::Counts(rest),
            _ => Self::Reftable(rest),
        }
    }
}

/// A table that the header names: where it is, and its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Region {
    pub(super) const fn entries(&self) -> u64 {
        self.bytes / 8
    }

    /// Byte of an entry in the storage.
    pub(super) const fn entry_offset(&self, index: u64) -> u64 {
        self.offset.saturating_add(index.saturating_mul(8))
    }

    /// Byte and length of a page of it; the length is 0 outside.
    pub(super) const fn page(&self, page: u64) -> (u64, u64) {
        let at = page.saturating_mul(PAGE_LEN as u64);
        let left = self.bytes.saturating_sub(at);
        let len = if left < PAGE_LEN as u64 { left } else { PAGE_LEN as u64 };
        (self.offset.saturating_add(at), len)
    }

    const fn overlaps(&self, offset: u64, bytes: u64) -> bool {
        offset < self.offset.saturating_add(self.bytes)
            && self.offset < offset.saturating_add(bytes)
    }
}

/// Where an image's metadata are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    pub(super) storage: StorageKey,
    pub(super) geometry: Geometry,
    pub(super) version: u32,
    pub(super) codec: Codec,
    pub(super) l1: Region,
    pub(super) reftable: Region,
    /// Bytes of the storage that can be read.
    pub(super) len: u64,
    /// Clusters that begin at or behind this byte do not exist.
    pub(super) limit: u64,
}

/// The part of an extent that lies in one page of an L2 table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// First cluster of the disk.
    pub(super) cluster: u64,
    pub(super) page: u64,
    /// First entry within the page, and how many from there on the extent touches.
    pub(super) entry: u64,
    pub(super) entries: u64,
    /// Sectors of the first cluster before the extent.
    pub(super) skip: u64,
    pub(super) extent: Extent,
}

impl Piece {
    pub(super) fn of(geometry: &Geometry, extent: Extent) -> Self {
        let start = extent.start().get();
        let cluster = geometry.cluster_of(start);
        let page = cluster >> geometry.l2_page_bits();
        let per_page = 1_u64 << geometry.l2_page_bits();
        let entry = cluster & per_page.wrapping_sub(1);
        let skip = geometry.within(start);
        let touched = skip.saturating_add(extent.sectors()).div_ceil(geometry.cluster_sectors());
        let entries = touched.min(per_page.saturating_sub(entry));
        let sectors = entries.saturating_mul(geometry.cluster_sectors()).saturating_sub(skip);
        Self { cluster, page, entry, entries, skip, extent: extent.take(sectors) }
    }

    /// Sectors of the extent in the first `entries` clusters.
    pub(super) fn sectors(&self, geometry: &Geometry, entries: u64) -> u64 {
        let whole = entries.saturating_mul(geometry.cluster_sectors());
        whole.saturating_sub(self.skip).min(self.extent.sectors())
    }
}

impl Volume {
    pub(super) const fn new(header: &Header, storage: StorageKey, len: u64) -> Self {
        Self {
            storage,
            geometry: header.geometry,
            version: header.version,
            codec: header.codec,
            l1: Region { offset: header.l1_offset, bytes: header.l1_bytes() },
            reftable: Region { offset: header.reftable_offset, bytes: header.reftable_bytes() },
            len,
            limit: header.geometry.round_up(len),
        }
    }

    /// A cluster may be there: behind the header, below the end, not in a table of the header.
    pub(super) const fn may_hold(&self, offset: u64) -> bool {
        offset < self.limit && self.is_apart(offset)
    }

    /// A cluster there would be apart from the header and the tables that it names.
    pub(super) const fn is_apart(&self, offset: u64) -> bool {
        let bytes = self.geometry.cluster_bytes();
        offset >= bytes
            && !self.l1.overlaps(offset, bytes)
            && !self.reftable.overlaps(offset, bytes)
    }

    /// A page that can be looked up now, and its note.
    pub(super) fn find<'p>(
        &self,
        pages: &'p PagePool<'_>,
        name: PageName,
    ) -> Option<(PageId, &'p [u8; PAGE_LEN], u64)> {
        let bytes = pages.lookup(self.storage, name.number())?;
        let id = pages.find(self.storage, name.number())?;
        Some((id, bytes, pages.aux(id)))
    }

    /// The entry of a cluster in a page of its table.
    pub(super) fn cluster_at(&self, bytes: &[u8; PAGE_LEN], index: u64) -> Cluster {
        let words = u8::from(self.geometry.has_subclusters());
        let cluster = read::l2(&self.geometry, self.version, entry(bytes, index << words));
        match cluster {
            Cluster::Data(host) | Cluster::Zero { host: Some(host) }
                if !self.may_hold(host.offset) =>
            {
                Cluster::Bad
            }
            Cluster::Packed { offset, .. } if offset >= self.len => Cluster::Bad,
            cluster => cluster,
        }
    }

    /// Byte of an L2 entry in the storage, for messages; `note` is that of its page.
    pub(super) const fn entry_offset(&self, page: u64, index: u64, note: u64) -> u64 {
        let words = if self.geometry.has_subclusters() { 16 } else { 8 };
        (note & read::OFFSET)
            .saturating_add(self.geometry.offset_in_table(page))
            .saturating_add(index.saturating_mul(words))
    }

    pub(super) fn locate(&self, extent: Extent, pages: &PagePool<'_>) -> Located {
        let piece = Piece::of(&self.geometry, extent);
        let name = PageName::L2(piece.page);
        let Some((_, bytes, note)) = self.find(pages, name) else {
            return Located::Load(name.number());
        };
        if note & read::OFFSET == 0 {
            return Located::Run(self.no_table(extent));
        }
        if self.geometry.has_subclusters() {
            return self.locate_subclusters(&piece, bytes, note);
        }
        let first = self.cluster_at(bytes, piece.entry);
        let place = match first {
            Cluster::Bad => {
                let offset = self.entry_offset(piece.page, piece.entry, note);
                return Located::Corrupt { offset };
            }
            Cluster::Absent => Place::Absent,
            Cluster::Zero { .. } => Place::Zero,
            Cluster::Data(host) => {
                Place::Data { offset: host.offset.saturating_add(bytes_of(piece.skip)) }
            }
            Cluster::Packed { offset, len } => {
                let sectors = piece.sectors(&self.geometry, 1);
                return Located::Run(self.packed(offset, len, piece.skip, sectors));
            }
        };
        let mut same = 1;
        while same < piece.entries && self.goes_on(first, bytes, piece.entry, same) {
            same = same.saturating_add(1);
        }
        Located::Run(self.cut(place, piece.sectors(&self.geometry, same)))
    }

    /// Cluster `entry + ahead` lies `ahead` clusters behind the first one.
    fn goes_on(&self, first: Cluster, bytes: &[u8; PAGE_LEN], entry: u64, ahead: u64) -> bool {
        let next = self.cluster_at(bytes, entry.saturating_add(ahead));
        match (first, next) {
            (Cluster::Absent, Cluster::Absent) | (Cluster::Zero { .. }, Cluster::Zero { .. }) => {
                true
            }
            (Cluster::Data(a), Cluster::Data(b)) => {
                b.offset == a.offset.saturating_add(self.geometry.cluster_offset(ahead))
            }
            _ => false,
        }
    }

    /// Nothing up to the end of what the missing L2 table would describe.
    fn no_table(&self, extent: Extent) -> Run {
        let table = self.geometry.cluster_sectors() << self.geometry.l2_bits();
        let start = extent.start().get();
        let left = table.saturating_sub(start & table.wrapping_sub(1));
        Run { sectors: extent.take(left).sectors(), place: Place::Absent }
    }

    fn packed(&self, offset: u64, len: u32, skip: u64, sectors: u64) -> Run {
        // At most 2 MiB.
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(0);
        let (unit_len, from) = (small(self.geometry.cluster_bytes()), small(bytes_of(skip)));
        let packed = Packed { offset, len, codec: self.codec, unit_len, from };
        Run { sectors, place: Place::Packed(packed) }
    }

    /// Behind the end of the storage data are zeros: the last cluster may be cut.
    fn cut(&self, place: Place, sectors: u64) -> Run {
        let Place::Data { offset } = place else { return Run { sectors, place } };
        let left = self.len.saturating_sub(offset);
        if left >= bytes_of(sectors) {
            return Run { sectors, place };
        }
        let whole = left / SECTOR_BYTES;
        let tail = u16::try_from(left % SECTOR_BYTES).unwrap_or(0);
        match (whole, tail) {
            (0, 0) => Run { sectors, place: Place::Zero },
            (0, len) => Run { sectors: 1, place: Place::Tail { offset, len } },
            _ => Run { sectors: whole, place },
        }
    }

    fn locate_subclusters(&self, piece: &Piece, bytes: &[u8; PAGE_LEN], note: u64) -> Located {
        let corrupt = Located::Corrupt { offset: self.entry_offset(piece.page, piece.entry, note) };
        let cluster = self.cluster_at(bytes, piece.entry);
        let word = entry(bytes, piece.entry << 1 | 1);
        let in_cluster = piece.sectors(&self.geometry, 1);
        let host = match cluster {
            Cluster::Packed { offset, len } if word == 0 => {
                return Located::Run(self.packed(offset, len, piece.skip, in_cluster));
            }
            Cluster::Data(host) => Some(host),
            Cluster::Absent if word.trailing_zeros() >= 32 => None,
            _ => return corrupt,
        };
        let unit = self.geometry.subcluster_sectors();
        let index = piece.skip.checked_div(unit).and_then(|i| u32::try_from(i).ok()).unwrap_or(0);
        let Some((state, count)) = read::subclusters(word, index) else { return corrupt };
        let end = u64::from(index.saturating_add(count)).saturating_mul(unit);
        let sectors = end.saturating_sub(piece.skip).min(in_cluster);
        let place = match (state, host) {
            (Subcluster::Absent, _) => Place::Absent,
            (Subcluster::Zero, _) => Place::Zero,
            (Subcluster::Data, Some(host)) => {
                Place::Data { offset: host.offset.saturating_add(bytes_of(piece.skip)) }
            }
            (Subcluster::Data, None) => return corrupt,
        };
        Located::Run(self.cut(place, sectors))
    }

    /// The steps of [`Map::load`](crate::format::Map::load). `known` tells where the table of a
    /// cluster is that is not yet named in the storage, as the entry that will name it.
    pub(super) fn load(
        &self,
        page: u64,
        step: u8,
        note: &mut u64,
        bytes: &mut [u8; PAGE_LEN],
        known: impl Fn(PageName) -> Option<u64>,
    ) -> Load {
        let name = PageName::of(page);
        let (above, n) = match name {
            PageName::L2(n) => (self.l1, n),
            PageName::Counts(n) => (self.reftable, n),
            PageName::L1(n) => return self.load_region(self.l1, n, step, bytes),
            PageName::Reftable(n) => return self.load_region(self.reftable, n, step, bytes),
        };
        let index = n >> self.geometry.table_page_bits();
        if index >= above.entries() {
            // Past the refcount table: no counts, and no room for them.
            *note = 0;
            bytes.fill(0);
            let is_counts = matches!(name, PageName::Counts(_));
            return if is_counts { Load::Ready } else { Load::Corrupt { offset: above.offset } };
        }
        let at = above.entry_offset(index);
        let raw = match (step, known(name)) {
            (0, Some(raw)) => raw,
            (0, None) => {
                // The sector that the entry is in: storages may be read by sectors only.
                *note = SOUGHT;
                match self.read(at & !(SECTOR_BYTES - 1), SECTOR_BYTES, bytes) {
                    Load::Ready => 0,
                    reading => return reading,
                }
            }
            _ if *note == SOUGHT => {
                u64_at(bytes, usize::try_from(at & (SECTOR_BYTES - 1)).unwrap_or(0))
            }
            _ => return Load::Ready,
        };
        bytes.fill(0);
        let table = match name {
            PageName::Counts(_) => read::reftable(&self.geometry, raw),
            _ => read::l1(&self.geometry, raw),
        };
        match table {
            Table::Absent => {
                *note = 0;
                Load::Ready
            }
            Table::At { offset, .. } if self.may_hold(offset) => {
                *note = raw;
                let from = offset.saturating_add(self.geometry.offset_in_table(n));
                self.read(from, self.geometry.page_bytes(), bytes)
            }
            Table::At { .. } | Table::Bad => Load::Corrupt { offset: at },
        }
    }

    fn load_region(&self, region: Region, page: u64, step: u8, bytes: &mut [u8; PAGE_LEN]) -> Load {
        let (offset, len) = region.page(page);
        match (step, len) {
            (_, 0) => Load::Corrupt { offset },
            (0, _) => self.read(offset, len, bytes),
            _ => Load::Ready,
        }
    }

    /// A read, cut where the storage ends: the last table may be cut too.
    fn read(&self, offset: u64, len: u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        bytes.fill(0);
        let len = len.min(self.len.saturating_sub(offset));
        match u32::try_from(len) {
            Ok(len) if len > 0 => Load::Read { offset, len },
            _ => Load::Ready,
        }
    }
}

/// Note of a page whose place is being read.
const SOUGHT: u64 = u64::MAX;

/// Bytes of so many sectors within a cluster or request.
pub(super) const fn bytes_of(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_BYTES)
}
