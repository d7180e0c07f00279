//! An image as the writable top of a chain.

use super::geometry::{Geometry, Spot};
use super::image::Prepared;
use super::pending::Pending;
use super::volume::{Entry, NO_TABLE, Volume};
use crate::format::{
    Adopted, Applied, Cleared, Fill, IndexEntry, Load, Located, Map, Overlay, Placed, Sealed, State,
};
use crate::pages::{FrameState, PAGE_LEN, PageId, PagePool, StorageKey};
use crate::units::Extent;

/// Tables whose L1 entries are being changed, at a time.
const LINKS: usize = 16;

/// An L2 table that nothing refers to yet.
#[derive(Clone, Copy, Debug)]
struct Spare {
    offset: u64,
    /// Its bytes are zero in the file.
    zeroed: bool,
}

/// An entry of the L1 table whose page is, or is about to be, open: nobody may read it from the
/// file now.
#[derive(Clone, Copy, Debug)]
struct Link {
    table: u64,
    /// Where the L2 table is; `None` as long as there is none.
    offset: Option<u64>,
}

/// An image that takes writes.
///
/// Space is taken at the end of the file, without end: a file system that is full shows as a
/// failed write, and what lies in the file stays as it is.
#[derive(Debug)]
pub struct Writable {
    volume: Volume,
    /// Where the next cluster or table goes, aligned to clusters.
    next_free: u64,
    pending: Pending,
    spare: Option<Spare>,
    links: [Option<Link>; LINKS],
}

/// How a write to absent or compressed clusters goes.
struct Wanted {
    clusters: u64,
    /// The part of the request that is in them.
    part: Extent,
    /// The part does not cover the only cluster.
    partial: bool,
}

impl Writable {
    /// The image as overlay.
    pub const fn new(storage: StorageKey, prepared: &Prepared) -> Self {
        let volume = prepared.volume(storage);
        let (bytes, sectors) = (volume.geometry.cluster_bytes(), volume.geometry.cluster_sectors());
        Self {
            volume,
            next_free: volume.len,
            pending: Pending::new(bytes, sectors),
            spare: None,
            links: [None; LINKS],
        }
    }

    /// Sizes and places.
    pub const fn geometry(&self) -> Geometry {
        self.volume.geometry
    }

    /// Length of the file in bytes when everything that is allocated has been written.
    pub const fn file_len(&self) -> u64 {
        self.next_free
    }

    /// What lies before byte `end` is taken.
    fn set_end(&mut self, end: u64) {
        self.next_free = self.volume.geometry.align(end);
        self.volume.len = self.volume.len.max(self.next_free);
    }

    fn link_of(&self, table: u64) -> Option<Link> {
        self.links.iter().flatten().find(|l| l.table == table).copied()
    }

    /// Where the table is, if its L1 entry is set but may not have reached the file.
    fn linked(&self, table: u64) -> Option<u64> {
        self.link_of(table)?.offset
    }

    /// States of the page may not have reached the file: whoever relies on them must publish too.
    fn is_unpublished(&self, page: u64, pages: &PagePool<'_>) -> bool {
        let id = pages.find(self.volume.storage, page);
        id.is_none_or(|id| pages.state(id) != FrameState::Clean)
            || self.linked(self.volume.geometry.table_of(page)).is_some()
    }

    /// Where the extent begins, and the page with its entry and that page's table.
    fn look<'p>(
        &self,
        extent: Extent,
        pages: &'p PagePool<'_>,
    ) -> Result<(Spot, &'p [u8; PAGE_LEN], u64), u64> {
        let spot = self.volume.geometry.spot(extent.start());
        let bytes = pages.lookup(self.volume.storage, spot.page).ok_or(spot.page)?;
        let table = pages.find(self.volume.storage, spot.page).map_or(NO_TABLE, |id| pages.aux(id));
        Ok((spot, bytes, table))
    }

    /// The clusters that one answer can allocate: a single one with a part that needs filling, or
    /// as many whole ones as are absent in a row.
    fn wanted(&self, extent: Extent, spot: &Spot, bytes: &[u8; PAGE_LEN]) -> Wanted {
        let g = &self.volume.geometry;
        let unit = g.cluster_extent(spot.cluster);
        let part = extent.until(unit.end().get());
        if part != unit || self.volume.entry(bytes, spot.slot) != Entry::Absent {
            return Wanted { clusters: 1, part, partial: part != unit };
        }
        let touched = self.volume.clusters_in(extent, spot);
        let absent = self.volume.count(bytes, spot.slot, touched);
        let end = spot.cluster.saturating_add(absent);
        let mut free = self.pending.next_run(spot.cluster, end).saturating_sub(spot.cluster);
        // The last one may be covered in part only.
        let last = g.cluster_extent(spot.cluster.saturating_add(free).saturating_sub(1));
        if free > 1 && last.end() > extent.end() {
            free = free.saturating_sub(1);
        }
        let clusters = free.max(1);
        let behind = g.first_sector(spot.cluster.saturating_add(clusters));
        Wanted { clusters, part: extent.until(behind), partial: false }
    }

    /// Places a write to clusters that are absent or compressed.
    fn allocate(&mut self, extent: Extent, spot: &Spot, bytes: &[u8; PAGE_LEN]) -> Placed {
        let (start, owner) = (extent.start().get(), extent.end().get());
        if self.pending.covering(spot.cluster).is_some() {
            return Placed::Busy;
        }
        let Wanted { clusters, part, partial } = self.wanted(extent, spot, bytes);
        let g = self.volume.geometry;
        let (offset, len) = (self.next_free, clusters.saturating_mul(g.cluster_bytes()));
        let Some(end) = end_of(offset, len) else { return Placed::Full };
        if !self.pending.add(spot.cluster, clusters, offset, (start, owner)) {
            return Placed::Enough;
        }
        self.set_end(end);
        let fill = Fill { unit: g.cluster_extent(spot.cluster), offset };
        Placed::Write {
            sectors: part.sectors(),
            offset: offset.saturating_add(Geometry::bytes(spot.within)),
            fresh: clusters.saturating_mul(g.cluster_sectors()),
            publish: true,
            fill: partial.then_some(fill),
        }
    }

    /// Sees to it that the table exists. `None`: it does, and pages of it that are in the pool know.
    fn ensure_table(&mut self, page: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let storage = self.volume.storage;
        let table = self.volume.geometry.table_of(page);
        let l1_page = Geometry::l1_page(table);
        let ready = |id: &PageId| {
            !matches!(
                pages.state(*id),
                FrameState::Free | FrameState::Loading | FrameState::Scratch
            )
        };
        let l2 = pages.find(storage, page).filter(ready);
        if self.linked(table).is_some() || l2.is_some_and(|id| pages.aux(id) != NO_TABLE) {
            return None;
        }
        let Some(l1) = pages.find(storage, l1_page) else {
            // That there is no table is known from a page of it.
            return Some(Applied::Load(if l2.is_some() { l1_page } else { page }));
        };
        if !ready(&l1) {
            return Some(Applied::Load(l1_page)); // a load that was begun must be ended
        }
        let entry = pages.page(l1).and_then(|bytes| bytes.first_chunk::<8>());
        if entry.is_some_and(|entry| *entry != [0; 8]) {
            // A table that appeared meanwhile, or the entry of one behind the end of the file.
            return Some(match l2 {
                None => Applied::Load(page),
                Some(_) => Applied::Corrupt { offset: self.volume.geometry.l1_entry_offset(table) },
            });
        }
        // Its reading would not learn of the table.
        let loading = self.volume.geometry.pages_of(table).find(|page| {
            let id = pages.find(storage, *page);
            id.is_some_and(|id| pages.state(id) == FrameState::Loading)
        });
        if let Some(loading) = loading {
            return Some(Applied::Load(loading));
        }
        let len = self.volume.geometry.l2_len();
        let spare = match (self.spare, end_of(self.next_free, len)) {
            (Some(spare), _) => spare,
            (None, Some(end)) => {
                let offset = self.next_free;
                self.set_end(end);
                *self.spare.insert(Spare { offset, zeroed: false })
            }
            (None, None) => return Some(Applied::Full),
        };
        if !spare.zeroed {
            return Some(Applied::ZeroFirst { offset: spare.offset, len });
        }
        if !self.announce(table, pages) {
            return Some(Applied::AfterCommit);
        }
        if pages.state(l1) != FrameState::Open {
            return Some(Applied::Open(l1_page));
        }
        self.link(table, spare.offset, l1, pages)
    }

    /// Remembers that the L1 entry of a table is about to change. False if too many are already.
    fn announce(&mut self, table: u64, pages: &PagePool<'_>) -> bool {
        if self.link_of(table).is_some() {
            return true;
        }
        let storage = self.volume.storage;
        // Whoever announced it may have failed since.
        let is_over = |l: &Link| {
            let page = pages.find(storage, Geometry::l1_page(l.table));
            l.offset.is_none() && page.is_none_or(|id| pages.state(id) == FrameState::Clean)
        };
        let free = match self.links.iter().position(Option::is_none) {
            Some(free) => Some(free),
            None => self.links.iter().position(|l| l.as_ref().is_some_and(is_over)),
        };
        match free.and_then(|free| self.links.get_mut(free)) {
            Some(free) => {
                *free = Some(Link { table, offset: None });
                true
            }
            None => false,
        }
    }

    /// Sets the L1 entry of a table that is zero in the file.
    fn link(
        &mut self,
        table: u64,
        offset: u64,
        l1: PageId,
        pages: &mut PagePool<'_>,
    ) -> Option<Applied> {
        let link = self.links.iter_mut().flatten().find(|l| l.table == table)?;
        let entry = pages.page_mut(l1).and_then(|bytes| bytes.first_chunk_mut::<8>())?;
        *entry = self.volume.geometry.l1_bytes(offset);
        link.offset = Some(offset);
        self.spare = None;
        for page in self.volume.geometry.pages_of(table) {
            if let Some(id) = pages.find(self.volume.storage, page) {
                pages.set_aux(id, offset);
            }
        }
        None
    }

    /// Enters clusters of the request into an open page; how many.
    fn enter(
        &mut self,
        extent: Extent,
        spot: &Spot,
        table: u64,
        bytes: &mut [u8; PAGE_LEN],
    ) -> Result<u64, u64> {
        let (start, end) = (extent.start().get(), extent.end().get());
        let Some(run) = self.pending.own(spot.cluster, start, end).copied() else { return Ok(1) };
        let cluster_bits = self.volume.geometry.cluster_bits;
        let most = run.left(spot.cluster).min(self.volume.clusters_in(extent, spot));
        let entries = bytes.as_chunks_mut::<8>().0.iter_mut();
        let entries = entries.take(self.volume.geometry.page_entries()).skip(spot.slot);
        let mut entered = 0_u64;
        for entry in entries.take(usize::try_from(most).unwrap_or(usize::MAX)) {
            let place = self.pending.place(&run, spot.cluster.saturating_add(entered));
            match Entry::of(u64::from_be_bytes(*entry), cluster_bits) {
                Entry::Absent | Entry::Packed { .. } => *entry = place.to_be_bytes(),
                // Noted for a cluster that is elsewhere: the note is of another image.
                Entry::Data(other) if run.is_adopted() && other != place => {
                    let behind = entered.wrapping_mul(8);
                    return Err(self.volume.entry_offset(table, spot).wrapping_add(behind));
                }
                Entry::Data(_) => {}
            }
            entered = entered.saturating_add(1);
        }
        self.pending.entered(spot.cluster, entered, start, end);
        Ok(entered)
    }
}

/// The end of `len` bytes from `offset` on, if entries can name them.
fn end_of(offset: u64, len: u64) -> Option<u64> {
    offset.checked_add(len).filter(|end| *end < i64::MAX.cast_unsigned())
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
        let link = self.link_of(self.volume.geometry.table_of(page));
        // No table yet: 0, as its L1 entry.
        let table = link.map(|l| l.offset.unwrap_or(NO_TABLE));
        self.volume.load(page, step, table, note, bytes)
    }
}

impl Overlay for Writable {
    fn stages(&self) -> u8 {
        1 // invariant 2
    }

    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, _index: &mut [IndexEntry]) -> Placed {
        let (spot, bytes, table) = match self.look(extent, pages) {
            Ok(found) => found,
            Err(page) => return Placed::Load(page),
        };
        let corrupt = Placed::Corrupt { offset: self.volume.entry_offset(table, &spot) };
        let entry = self.volume.entry(bytes, spot.slot);
        let Entry::Data(_) = entry else {
            return if self.volume.is_sound(entry) {
                self.allocate(extent, &spot, bytes)
            } else {
                corrupt
            };
        };
        // Bytes that the file does not have of an old cluster are added by the write.
        let count = self.volume.count(bytes, spot.slot, self.volume.clusters_in(extent, &spot));
        let Some((offset, sectors)) = self.volume.present(entry, count, extent, &spot) else {
            return corrupt;
        };
        let publish = self.is_unpublished(spot.page, pages);
        Placed::Write { sectors, offset, fresh: 0, publish, fill: None }
    }

    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        pages: &PagePool<'_>,
        _index: &[IndexEntry],
    ) -> Cleared {
        let (spot, bytes, table) = match self.look(extent, pages) {
            Ok(found) => found,
            Err(page) => return Cleared::Load(page),
        };
        // All of them, so that every part is asked for under the request's own end.
        let write = Cleared::WriteZeros { sectors: extent.sectors() };
        let entry = self.volume.entry(bytes, spot.slot);
        let count = self.volume.count(bytes, spot.slot, self.volume.clusters_in(extent, &spot));
        match entry {
            Entry::Absent if !keep_reading_below && self.volume.backed => write,
            Entry::Absent => {
                // Absent clusters of an image without backing file are zeros, and stay so.
                let end = spot.cluster.saturating_add(count);
                let free = self.pending.next_run(spot.cluster, end);
                match free.saturating_sub(spot.cluster) {
                    0 => Cleared::Busy,
                    free => Cleared::Skip { sectors: self.volume.reach(extent, &spot, free) },
                }
            }
            Entry::Data(_) => {
                let Some((offset, sectors)) = self.volume.present(entry, count, extent, &spot)
                else {
                    return Cleared::Corrupt { offset: self.volume.entry_offset(table, &spot) };
                };
                // Zeros in place would be acknowledged although the cluster may still vanish.
                if !keep_reading_below && self.is_unpublished(spot.page, pages) {
                    return write;
                }
                Cleared::ZeroData { sectors, offset }
            }
            Entry::Packed { .. } if !self.volume.is_sound(entry) => {
                Cleared::Corrupt { offset: self.volume.entry_offset(table, &spot) }
            }
            Entry::Packed { .. } if keep_reading_below => {
                Cleared::Skip { sectors: self.volume.reach(extent, &spot, 1) }
            }
            Entry::Packed { .. } => write,
        }
    }

    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        _index: &mut [IndexEntry],
    ) -> Applied {
        let spot = self.volume.geometry.spot(extent.start());
        if state == State::Zero {
            // Only a note can say so, and not one of ours: nothing is ever marked zero.
            let table = self.volume.geometry.table_of(spot.page);
            return Applied::Corrupt { offset: self.volume.geometry.l1_entry_offset(table) };
        }
        let (start, end) = (extent.start().get(), extent.end().get());
        if self.pending.own(spot.cluster, start, end).is_none() {
            // Present before, or entered by another note of the same cluster.
            let all = spot.cluster.saturating_add(self.volume.clusters_in(extent, &spot));
            let from = spot.cluster.saturating_add(1);
            let next = self.pending.next_run(from, all);
            let clusters = next.saturating_sub(spot.cluster);
            let sectors = self.volume.reach(extent, &spot, clusters);
            return Applied::Done { sectors, freed: 0 };
        }
        if let Some(wait) = self.ensure_table(spot.page, pages) {
            return wait;
        }
        let Some(id) = pages.find(self.volume.storage, spot.page) else {
            return Applied::Load(spot.page);
        };
        match pages.state(id) {
            FrameState::Open => {}
            FrameState::Clean | FrameState::Preparing | FrameState::Sealed => {
                return Applied::Open(spot.page);
            }
            FrameState::Free | FrameState::Loading | FrameState::Scratch => {
                return Applied::Load(spot.page);
            }
        }
        let table = pages.aux(id);
        let Some(bytes) = pages.page_mut(id) else { return Applied::Load(spot.page) };
        match self.enter(extent, &spot, table, bytes) {
            Ok(clusters) => {
                let sectors = self.volume.reach(extent, &spot, clusters);
                Applied::Done { sectors, freed: 0 }
            }
            Err(offset) => Applied::Corrupt { offset },
        }
    }

    fn prepared(&mut self, _page: u64, _note: &mut u64) {}

    fn zeroed(&mut self, offset: u64) {
        if let Some(spare) = self.spare.as_mut().filter(|s| s.offset == offset) {
            spare.zeroed = true;
        }
    }

    fn seal(&mut self, page: u64, note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        let g = &self.volume.geometry;
        if let Some(table) = Geometry::is_l1_page(page) {
            return Sealed { offset: g.l1_entry_offset(table), len: 8, stage: 0 };
        }
        let offset = note.wrapping_add(g.page_within(page));
        Sealed { offset, len: g.page_len(), stage: 0 }
    }

    fn reopened(&mut self, page: u64, _note: &mut u64) {
        // An entry that is set is never opened again, so this is the end of its write: from now on
        // it can be read from the file.
        if let Some(table) = Geometry::is_l1_page(page) {
            for link in &mut self.links {
                if link.is_some_and(|l| l.table == table && l.offset.is_some()) {
                    *link = None;
                }
            }
        }
    }

    fn committed(&mut self, _index: &mut [IndexEntry]) {}

    fn abandon(&mut self, extent: Extent, _index: &mut [IndexEntry]) {
        let first = self.volume.geometry.cluster_of(extent.start());
        let request = (extent.start().get(), extent.end().get());
        let (geometry, next_free) = (self.volume.geometry, &mut self.next_free);
        self.pending.drop_from(first, request, |offset, len| {
            if geometry.align(offset.saturating_add(len)) == *next_free {
                *next_free = offset;
            }
        });
    }

    fn adopt(&mut self, extent: Extent, offset: u64, _index: &mut [IndexEntry]) -> Adopted {
        let g = self.volume.geometry;
        if extent.is_empty() || extent.end().get() > g.sectors() {
            return Adopted::Refused;
        }
        let (mut spot, request) =
            (g.spot(extent.start()), (extent.start().get(), extent.end().get()));
        let Some(mut at) = offset.checked_sub(Geometry::bytes(spot.within)) else {
            return Adopted::Refused;
        };
        let mut clusters = self.volume.clusters_in(extent, &spot);
        let len = clusters.saturating_mul(g.cluster_bytes());
        // What was noted had been written, so the file reaches to there.
        let inside = at.checked_add(len).is_some_and(|end| end <= g.align(self.volume.len));
        if !inside || !self.volume.is_sound(Entry::Data(at)) || g.is_metadata(at, len) {
            return Adopted::Refused;
        }
        // Another note may be about other sectors of the first or last cluster.
        let known = |pending: &Pending, cluster| {
            pending.covering(cluster).map(|run| pending.place(run, cluster))
        };
        if let Some(place) = known(&self.pending, spot.cluster) {
            if place != at {
                return Adopted::Refused;
            }
            spot.cluster = spot.cluster.saturating_add(1);
            at = at.saturating_add(g.cluster_bytes());
            clusters = clusters.saturating_sub(1);
        }
        let last = spot.cluster.saturating_add(clusters).saturating_sub(1);
        if clusters > 0
            && let Some(place) = known(&self.pending, last)
        {
            let into = clusters.saturating_sub(1).saturating_mul(g.cluster_bytes());
            if place != at.saturating_add(into) {
                return Adopted::Refused;
            }
            clusters = clusters.saturating_sub(1);
        }
        if clusters == 0 || self.pending.adopt(spot.cluster, clusters, at, request) {
            Adopted::Taken
        } else {
            Adopted::Busy
        }
    }

    fn preamble(&mut self, _bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        None
    }
}
