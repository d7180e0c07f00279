//! An image as the writable top of a chain: what it answers to the engine.

use super::allocation::{CountTables, Free, FreedRuns, L2Tables, Origin, Pending, PendingRuns};
use super::bytes::put_entry;
use super::entry::{COPIED, Cluster, OFFSET, ZERO};
use super::geometry::Geometry;
use super::volume::{PAGE_ENTRIES_BITS, PageName, Piece, Volume, bytes_of};
use crate::format::{
    Adopted, Applied, Cleared, Fill, IndexEntry, Load, Located, Map, Overlay, Placed, Sealed, State,
};
use crate::pages::{FrameState, PAGE_LEN, PageId, PagePool, StorageKey};
use crate::units::Extent;

/// Stages of a commit: counts name nothing; the refcount table names counts; L2 and L1 entries
/// name clusters that are counted by then.
const STAGE_COUNTS: u8 = 0;
const STAGE_REFTABLE: u8 = 1;
const STAGE_MAP: u8 = 2;
const STAGES: u8 = 3;

/// An image that takes writes.
///
/// Reference counts are exact after every commit, whatever the header says of lazy ones, but for
/// clusters that are counted and not (or no longer) used: what a power cut leaves of those is a
/// leak, which [`check`](super::check) finds and [`repair`](super::repair) gives back.
#[derive(Debug)]
pub struct Writable {
    pub(super) volume: Volume,
    /// Absent clusters are not zeros.
    pub(super) over_parent: bool,
    /// Clusters that the storage can have.
    pub(super) capacity: u64,
    pub(super) free: Free,
    pub(super) pending: PendingRuns,
    pub(super) freed: FreedRuns,
    pub(super) tables: L2Tables,
    pub(super) blocks: CountTables,
}

/// What a write to a cluster has to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Write where it is.
    InPlace(u64),
    /// Write to the cluster that it keeps, which reads as zeros now.
    Kept(u64),
    /// Write to a new one.
    Allocate,
    Bad,
}

impl Way {
    const fn of(cluster: Cluster, table_is_ours: bool) -> Self {
        match cluster {
            Cluster::Data(host) if table_is_ours && host.is_ours => Self::InPlace(host.offset),
            Cluster::Zero { host: Some(host) } if table_is_ours && host.is_ours => {
                Self::Kept(host.offset)
            }
            Cluster::Bad => Self::Bad,
            _ => Self::Allocate,
        }
    }

    /// The same way `ahead` bytes further on in the storage.
    fn goes_on(self, next: Self, ahead: u64) -> bool {
        match (self, next) {
            (Self::InPlace(a), Self::InPlace(b)) | (Self::Kept(a), Self::Kept(b)) => {
                b == a.saturating_add(ahead)
            }
            (Self::Allocate, Self::Allocate) => true,
            _ => false,
        }
    }
}

/// The table of a page is ours alone, and its entries may be changed.
pub(super) const fn is_ours(note: u64) -> bool {
    note & COPIED != 0 && note & OFFSET != 0
}

/// A page of an L2 table, as it was found for a piece of a request.
#[derive(Clone, Copy)]
struct Found<'p> {
    id: PageId,
    bytes: &'p [u8; PAGE_LEN],
    note: u64,
}

impl Writable {
    /// Sizes.
    pub const fn geometry(&self) -> &Geometry {
        &self.volume.geometry
    }

    fn cluster(&self, found: &Found<'_>, index: u64) -> Cluster {
        if found.note & OFFSET == 0 {
            return Cluster::Absent;
        }
        self.volume.cluster_at(found.bytes, index)
    }

    fn way(&self, found: &Found<'_>, index: u64) -> Way {
        Way::of(self.cluster(found, index), is_ours(found.note))
    }

    fn find<'p>(&self, piece: &Piece, pages: &'p PagePool<'_>) -> Result<Found<'p>, u64> {
        let name = PageName::L2(piece.page);
        let (id, bytes, note) = self.volume.find(pages, name).ok_or(name.number())?;
        Ok(Found { id, bytes, note })
    }

    /// Entries from the first of the piece on that go the same way, none of them pending.
    fn same_way(&self, piece: &Piece, found: &Found<'_>, first: Way) -> u64 {
        let most = self.pending.gap(piece.cluster, piece.entries).max(1);
        let goes_on = |n: &u64| {
            let ahead = self.volume.geometry.cluster_offset(*n);
            first.goes_on(self.way(found, piece.entry.saturating_add(*n)), ahead)
        };
        (1..most).find(|n| !goes_on(n)).unwrap_or(most)
    }

    /// The whole of the piece's first cluster, as far as the disk has it, is asked for.
    fn is_whole(&self, piece: &Piece) -> bool {
        let unit = self.volume.geometry.cluster_extent(piece.cluster, 1);
        piece.skip == 0 && piece.extent.end().get() >= unit.end().get()
    }

    /// Clusters of the piece that are asked for as a whole, from the first one on.
    fn whole_clusters(&self, piece: &Piece) -> u64 {
        if piece.skip > 0 {
            return 0;
        }
        let last = piece.cluster.saturating_add(piece.entries).saturating_sub(1);
        let end = self.volume.geometry.cluster_extent(last, 1).end().get();
        let cut = u64::from(piece.extent.end().get() < end);
        piece.entries.saturating_sub(cut)
    }

    fn corrupt_offset(&self, piece: &Piece, note: u64) -> u64 {
        self.volume.entry_offset(piece.page, piece.entry, note)
    }

    /// A placement that is to be published, with the rest of its clusters filled.
    fn pending_write(&mut self, piece: &Piece, host: u64, clusters: u64, origin: Origin) -> Placed {
        let geometry = self.volume.geometry;
        let written = piece.extent.start().get();
        let run = Pending { disk: piece.cluster, host, clusters, counted: 0, origin, written };
        if !self.pending.insert(run) {
            return Placed::Enough; // not reached: there was room
        }
        let offset = geometry.cluster_offset(host);
        let unit = geometry.cluster_extent(piece.cluster, clusters);
        let written = piece.extent.take(piece.sectors(&geometry, clusters));
        Placed::Write {
            sectors: written.sectors(),
            offset: offset.saturating_add(bytes_of(piece.skip)),
            fresh: unit.sectors(),
            publish: true,
            fill: (written != unit).then_some(Fill { unit, offset }),
        }
    }

    /// Puts the clusters of a pending run into the L2 table.
    fn publish(&mut self, piece: &Piece, run: Pending, pages: &mut PagePool<'_>) -> Applied {
        let geometry = self.volume.geometry;
        if run.disk != piece.cluster {
            // Requests are applied from their first cluster on: a defect.
            return Applied::Corrupt { offset: geometry.cluster_offset(run.host) };
        }
        let host = run.host;
        let here = run.clusters.min(piece.entries);
        // Those counted in one page.
        let per_page = 1_u64 << geometry.counts_page_bits();
        let room = per_page.saturating_sub(host & per_page.wrapping_sub(1));
        let here = here.min(room);
        if run.origin != Origin::Kept
            && let Some(wait) = self.count_pending(&run, here, pages)
        {
            return wait;
        }
        if let Some(wait) = self.ready_table(piece.page, pages) {
            return wait;
        }
        let (id, note) = match self.open_page(PageName::L2(piece.page), pages) {
            Ok(open) => open,
            Err(wait) => return wait,
        };
        let mut done = 0;
        for n in 0..here {
            let index = piece.entry.saturating_add(n);
            let Some(bytes) = pages.page(id) else { break };
            let old = self.volume.cluster_at(bytes, index);
            let offset = geometry.cluster_offset(host.saturating_add(n));
            if old == Cluster::Bad {
                return Applied::Corrupt { offset: self.corrupt_offset(piece, note) };
            }
            if !self.give_up(old, Some(offset)) {
                break;
            }
            if let Some(bytes) = pages.page_mut(id) {
                put_entry(bytes, index, offset | COPIED);
            }
            done = n.saturating_add(1);
        }
        if done == 0 {
            return Applied::AfterCommit;
        }
        let next = piece.cluster.saturating_add(done);
        self.pending.published(run.disk, done, geometry.first_sector(next));
        Applied::Done { sectors: piece.sectors(&geometry, done), freed: 0 }
    }

    /// Counts the first clusters of a pending run, which are about to be named.
    fn count_pending(
        &mut self,
        run: &Pending,
        clusters: u64,
        pages: &mut PagePool<'_>,
    ) -> Option<Applied> {
        for n in run.counted..clusters {
            let noted = run.origin == Origin::Noted;
            if let Some(wait) = self.count_up(run.host.saturating_add(n), noted, pages) {
                return Some(wait);
            }
            if let Some(pending) = self.pending.find(run.disk) {
                pending.counted = n.saturating_add(1);
            }
        }
        None
    }

    /// Makes whole clusters read as zeros by their entries, keeping those that are ours.
    fn mark(&mut self, piece: &Piece, clusters: u64, pages: &mut PagePool<'_>) -> Applied {
        let geometry = self.volume.geometry;
        let found = match self.find(piece, pages) {
            Ok(found) => found,
            Err(page) => return Applied::Load(page),
        };
        let changes = |n: u64| {
            let cluster = self.cluster(&found, piece.entry.saturating_add(n));
            match cluster {
                Cluster::Zero { .. } => false,
                Cluster::Absent => self.over_parent,
                _ => true,
            }
        };
        if !(0..clusters).any(changes) {
            return Applied::Done { sectors: piece.sectors(&geometry, clusters), freed: 0 };
        }
        if let Some(wait) = self.ready_table(piece.page, pages) {
            return wait;
        }
        let (id, note) = match self.open_page(PageName::L2(piece.page), pages) {
            Ok(open) => open,
            Err(wait) => return wait,
        };
        let (mut done, mut freed) = (0, 0_u64);
        for n in 0..clusters {
            let index = piece.entry.saturating_add(n);
            let Some(bytes) = pages.page(id) else { break };
            let old = self.volume.cluster_at(bytes, index);
            let entry = match old {
                Cluster::Bad => {
                    return Applied::Corrupt { offset: self.corrupt_offset(piece, note) };
                }
                Cluster::Data(host) if host.is_ours => {
                    let unit = geometry.cluster_extent(piece.cluster.saturating_add(n), 1);
                    freed = freed.saturating_add(unit.sectors());
                    Some(host.offset | COPIED | ZERO)
                }
                Cluster::Data(_) | Cluster::Packed { .. } if !self.give_up(old, None) => break,
                Cluster::Data(_) | Cluster::Packed { .. } => Some(ZERO),
                Cluster::Absent => self.over_parent.then_some(ZERO),
                Cluster::Zero { .. } => None,
            };
            if let (Some(bytes), Some(entry)) = (pages.page_mut(id), entry) {
                put_entry(bytes, index, entry);
            }
            done = n.saturating_add(1);
        }
        if done == 0 {
            return Applied::AfterCommit;
        }
        Applied::Done { sectors: piece.sectors(&geometry, done), freed }
    }

    /// An entry stops naming its cluster, and names the one at `new`. False if that cannot be
    /// remembered now.
    fn give_up(&mut self, old: Cluster, new: Option<u64>) -> bool {
        let geometry = self.volume.geometry;
        let (first, clusters) = match old {
            Cluster::Data(host) | Cluster::Zero { host: Some(host) }
                if Some(host.offset) == new =>
            {
                return true;
            }
            Cluster::Data(host) | Cluster::Zero { host: Some(host) } => {
                (geometry.host_cluster(host.offset), 1)
            }
            Cluster::Packed { offset, len } => {
                let last = offset.saturating_add(u64::from(len)).saturating_sub(1);
                let first = geometry.host_cluster(offset);
                (first, geometry.host_cluster(last).saturating_sub(first).saturating_add(1))
            }
            _ => return true,
        };
        self.freed.insert(first, clusters, false)
    }

    /// The page, open: its frame and note.
    pub(super) fn open_page(
        &self,
        name: PageName,
        pages: &PagePool<'_>,
    ) -> Result<(PageId, u64), Applied> {
        let number = name.number();
        let Some(id) = pages.find(self.volume.storage, number) else {
            return Err(Applied::Load(number));
        };
        match pages.state(id) {
            FrameState::Open => Ok((id, pages.aux(id))),
            FrameState::Clean | FrameState::Preparing | FrameState::Sealed => {
                Err(Applied::Open(number))
            }
            FrameState::Free | FrameState::Loading | FrameState::Scratch => {
                Err(Applied::Load(number))
            }
        }
    }
}

impl Map for Writable {
    fn sectors(&self) -> u64 {
        self.volume.geometry.sectors()
    }

    fn storage(&self) -> StorageKey {
        self.volume.storage
    }

    fn locate(&self, extent: Extent, pages: &PagePool<'_>, _index: &[IndexEntry]) -> Located {
        self.volume.locate(extent, pages)
    }

    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.volume.load(page, step, note, bytes, |name| self.known_table(name))
    }
}

impl Overlay for Writable {
    fn stages(&self) -> u8 {
        STAGES
    }

    fn is_stage_0_early(&self) -> bool {
        true
    }

    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, _index: &mut [IndexEntry]) -> Placed {
        self.free.scan_allowed = true;
        if self.free.wanted
            && let Err(wait) = self.find_run(pages)
        {
            return wait;
        }
        let piece = Piece::of(&self.volume.geometry, extent);
        if self.pending.holds(piece.cluster) {
            return Placed::Busy;
        }
        let found = match self.find(&piece, pages) {
            Ok(found) => found,
            Err(page) => return Placed::Load(page),
        };
        let way = self.way(&found, piece.entry);
        let same = self.same_way(&piece, &found, way);
        if !matches!(way, Way::Bad | Way::InPlace(_)) && !self.pending.has_room() {
            return Placed::Enough;
        }
        match way {
            Way::Bad => Placed::Corrupt { offset: self.corrupt_offset(&piece, found.note) },
            Way::InPlace(offset) => Placed::Write {
                sectors: piece.sectors(&self.volume.geometry, same),
                offset: offset.saturating_add(bytes_of(piece.skip)),
                fresh: 0,
                // Named, but perhaps not yet durably: an acknowledgement waits for that too.
                publish: pages.state(found.id) != FrameState::Clean,
                fill: None,
            },
            Way::Kept(offset) => {
                let host = self.volume.geometry.host_cluster(offset);
                self.pending_write(&piece, host, same, Origin::Kept)
            }
            Way::Allocate => {
                if self.free.left() == 0 {
                    self.free.wanted = true;
                    if let Err(wait) = self.find_run(pages) {
                        return wait;
                    }
                }
                let clusters = same.min(self.free.left());
                let host = self.free.hand_out(clusters);
                self.pending_write(&piece, host, clusters, Origin::Fresh)
            }
        }
    }

    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        pages: &PagePool<'_>,
        _index: &[IndexEntry],
    ) -> Cleared {
        let piece = Piece::of(&self.volume.geometry, extent);
        if self.pending.holds(piece.cluster) {
            return Cleared::Busy;
        }
        let found = match self.find(&piece, pages) {
            Ok(found) => found,
            Err(page) => return Cleared::Load(page),
        };
        let sectors = |clusters| piece.sectors(&self.volume.geometry, clusters);
        let cluster = self.cluster(&found, piece.entry);
        let way = self.way(&found, piece.entry);
        let whole = self.volume.version >= 3 && self.is_whole(&piece);
        let one = sectors(1);
        match (cluster, way) {
            (Cluster::Bad, _) => {
                Cleared::Corrupt { offset: self.corrupt_offset(&piece, found.note) }
            }
            (Cluster::Zero { .. }, _) => Cleared::Skip { sectors: one },
            (Cluster::Absent, _) if !self.over_parent => {
                let most = self.pending.gap(piece.cluster, piece.entries).max(1);
                let absent = |n: &u64| {
                    let index = piece.entry.saturating_add(*n);
                    self.cluster(&found, index) == Cluster::Absent
                };
                let same = (1..most).find(|n| !absent(n)).unwrap_or(most);
                Cleared::Skip { sectors: sectors(same) }
            }
            (_, Way::InPlace(offset)) if whole => {
                let same = self.same_way(&piece, &found, way).min(self.whole_clusters(&piece));
                Cleared::Mark { sectors: sectors(same), offset: Some(offset) }
            }
            _ if whole => Cleared::Mark { sectors: one, offset: None },
            // Zeros in place would be acknowledged although the entry may still fall back.
            (_, Way::InPlace(offset))
                if keep_reading_below || pages.state(found.id) == FrameState::Clean =>
            {
                let offset = offset.saturating_add(bytes_of(piece.skip));
                Cleared::ZeroData { sectors: one, offset }
            }
            _ if keep_reading_below => Cleared::Skip { sectors: one },
            _ => Cleared::WriteZeros { sectors: one },
        }
    }

    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        _index: &mut [IndexEntry],
    ) -> Applied {
        if let Some(wait) = self.count_down_due(pages) {
            return wait;
        }
        let piece = Piece::of(&self.volume.geometry, extent);
        if let Some(run) = self.pending.of_request(piece.cluster, extent).copied() {
            return self.publish(&piece, run, pages);
        }
        let gap = self.pending.gap(piece.cluster, piece.entries).max(1);
        let whole = self.whole_clusters(&piece).min(gap);
        if state == State::Zero && self.volume.version >= 3 {
            if whole > 0 {
                return self.mark(&piece, whole, pages);
            }
            return Applied::Done { sectors: piece.sectors(&self.volume.geometry, 1), freed: 0 };
        }
        // Written in place.
        Applied::Done { sectors: piece.sectors(&self.volume.geometry, gap), freed: 0 }
    }

    fn prepared(&mut self, _page: u64, _note: &mut u64) {}

    fn zeroed(&mut self, offset: u64) {
        self.tables.prepared(offset);
        self.blocks.prepared(offset);
    }

    fn seal(&mut self, page: u64, note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        // All open pages are sealed together.
        self.freed.sealed();
        let geometry = &self.volume.geometry;
        let in_table = |n| (*note & OFFSET).saturating_add(geometry.offset_in_table(n));
        let table_len = geometry.page_bytes();
        let (offset, len, stage) = match PageName::of(page) {
            PageName::L2(n) => (in_table(n), table_len, STAGE_MAP),
            PageName::Counts(n) => (in_table(n), table_len, STAGE_COUNTS),
            PageName::L1(n) => {
                let (first, end) = named_by(n);
                self.tables.sealed(first, end);
                let (offset, len) = self.volume.l1.page(n);
                (offset, len, STAGE_MAP)
            }
            PageName::Reftable(n) => {
                let (first, end) = named_by(n);
                self.blocks.sealed(first, end);
                let (offset, len) = self.volume.reftable.page(n);
                (offset, len, STAGE_REFTABLE)
            }
        };
        Sealed { offset, len: u32::try_from(len).unwrap_or(0), stage }
    }

    fn failed(&mut self, page: u64, _note: &mut u64) {
        self.freed.failed();
        match PageName::of(page) {
            PageName::L1(n) => {
                let (first, end) = named_by(n);
                self.tables.failed(first, end);
            }
            PageName::Reftable(n) => {
                let (first, end) = named_by(n);
                self.blocks.failed(first, end);
            }
            PageName::L2(_) | PageName::Counts(_) => {}
        }
    }

    fn committed(&mut self, _index: &mut [IndexEntry]) {
        self.freed.committed();
        self.tables.committed();
        self.blocks.committed();
    }

    fn abandon(&mut self, extent: Extent, _index: &mut [IndexEntry]) {
        while let Some(run) = self.pending.take(extent) {
            if run.origin != Origin::Fresh {
                continue;
            }
            let uncounted = run.clusters.saturating_sub(run.counted);
            self.free.take_back(run.host.saturating_add(run.counted), uncounted);
            // Counted, and named by nothing. If there is no room to remember that, it is a leak.
            if run.counted > 0 {
                let _leaked = self.freed.insert(run.host, run.counted, true);
            }
        }
    }

    fn adopt(&mut self, extent: Extent, offset: u64, _index: &mut [IndexEntry]) -> Adopted {
        let geometry = self.volume.geometry;
        let before = bytes_of(geometry.within(extent.start().get()));
        let Some(start) = offset.checked_sub(before) else { return Adopted::Refused };
        let disk = geometry.cluster_of(extent.start().get());
        let around = extent.widen(geometry.cluster_sectors(), geometry.sectors());
        let clusters = around.sectors().div_ceil(geometry.cluster_sectors());
        let host = geometry.host_cluster(start);
        let end = host.saturating_add(clusters);
        let inside = extent.end().get() <= geometry.sectors() && !extent.is_empty();
        if !inside || start & geometry.cluster_mask() != 0 || host == 0 || end > self.capacity {
            return Adopted::Refused;
        }
        if let Some(known) = self.pending.find(disk) {
            // Noted twice, or more of it was noted later.
            let same = (known.disk, known.host) == (disk, host) && known.clusters >= clusters;
            return if same { Adopted::Taken } else { Adopted::Busy };
        }
        self.use_up_to(end);
        let origin = Origin::Noted;
        let written = extent.start().get();
        let run = Pending { disk, host, clusters, counted: 0, origin, written };
        if self.pending.insert(run) { Adopted::Taken } else { Adopted::Busy }
    }

    fn forsake(&mut self, extent: Extent) {
        let geometry = &self.volume.geometry;
        let table = |lba: u64| geometry.cluster_of(lba) >> geometry.l2_bits();
        let last = table(extent.end().get().saturating_sub(1));
        self.tables.forget_unnamed(table(extent.start().get()), last.saturating_add(1));
    }

    fn preamble(&mut self, _bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        None // opening for writing has said all that must be said first
    }
}

/// Entries of the table above that a page of it holds.
const fn named_by(page: u64) -> (u64, u64) {
    let first = page << PAGE_ENTRIES_BITS;
    (first, first.saturating_add(1 << PAGE_ENTRIES_BITS))
}
