//! The store as the writable top of a chain.
//!
//! The list is handled in pages of one sector: page p holds the exceptions 32p to 32p + 31, counted
//! from the start of the list across all areas. A sector is what the medium writes whole, so a page
//! is published entirely or not, and the pages of a commit are published one after the other, each
//! in a stage of its own: that is invariant 1.

use super::error::RefuseWriting;
use super::geometry::{ENTRY_BYTES, FIRST_DATA_CHUNK, Geometry, SECTOR_ENTRIES_SHIFT};
use super::index::{self, Mapped, index_needed};
use super::store::VALID_OFFSET;
use super::{Loaded, MERGE_CHUNKS, Runs, locate, runs};
use crate::format::{
    Adopted, Applied, Cleared, Fill, IndexEntry, Load, Located, Map, Overlay, Placed, Sealed, State,
};
use crate::pages::{FrameState, PAGE_LEN, PagePool, StorageKey};
use crate::units::{Extent, SECTOR_BYTES, SECTOR_LEN};

/// Pages of the list that one commit can publish. Each costs a sync, but a commit that publishes
/// few pays for few; it bounds how many new chunks can wait for one commit (256).
const STAGES: u8 = 8;

/// Bytes of a page, as operations count them.
const PAGE_BYTES: u32 = 512;
const _: () = assert!(PAGE_BYTES as usize == SECTOR_LEN);
const _: () = assert!(ENTRY_BYTES << SECTOR_ENTRIES_SHIFT == SECTOR_BYTES);

/// Chunks that one [`Overlay::apply`] looks at: bounds the work of a call.
const APPLY_CHUNKS: u64 = MERGE_CHUNKS;

/// What happens when a write needs a new chunk and the store has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Overflow {
    /// That write fails and everything else goes on: the kernel's `PO`.
    #[default]
    Fail,
    /// From then on every request fails, and the store is to be marked invalid: the kernel's `P`.
    /// It loses whatever was written since the snapshot was made, and is here for those who want to
    /// be told in that way that it is incomplete.
    Invalidate,
}

/// A store that takes writes.
#[derive(Debug)]
pub struct Writable {
    storage: StorageKey,
    geometry: Geometry,
    /// The next data chunk to allocate, and the first area behind it.
    next_free: u64,
    next_area_chunk: u64,
    /// Entries used in the index memory.
    used: u64,
    /// Exceptions in open pages and on the medium; of these, in sealed pages; of these, durable.
    listed: u64,
    sealed: u64,
    published: u64,
    /// Areas below this are zeroed behind the end of the list.
    areas_ready: u64,
    overflow: Overflow,
    overflowed: bool,
}

impl Writable {
    /// The store as overlay. The index memory that [`load_index`](super::load_index) filled to
    /// give `loaded` belongs to it from now on.
    ///
    /// # Errors
    /// See [`RefuseWriting`]; nothing was changed.
    pub fn new(storage: StorageKey, loaded: &Loaded) -> Result<Self, RefuseWriting> {
        let opened = loaded.opened();
        if opened.is_invalidated() {
            return Err(RefuseWriting::Invalidated);
        }
        if let Some(offset) = opened.stale() {
            return Err(RefuseWriting::StaleEntries { offset });
        }
        let (geometry, listed) = (opened.geometry(), opened.exceptions());
        let next_free = opened.next_free();
        Ok(Self {
            storage,
            geometry,
            next_free,
            next_area_chunk: geometry.area_behind(next_free),
            used: listed,
            listed,
            sealed: listed,
            published: listed,
            areas_ready: geometry.area_of(listed).saturating_add(1),
            overflow: Overflow::Fail,
            overflowed: false,
        })
    }

    /// With another way to deal with a full store than [`Overflow::Fail`].
    #[must_use]
    pub const fn with_overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// A write found the store full, and [`Overflow::Invalidate`] was asked for: the driver is to
    /// call [`invalidate`](super::invalidate). Requests fail as corrupt at the header's valid word.
    pub const fn is_to_be_invalidated(&self) -> bool {
        self.overflowed
    }

    /// Sizes of the store and the disk.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Exceptions in the list, those not yet durable included.
    pub const fn exceptions(&self) -> u64 {
        self.listed
    }

    /// Entries of index memory with which `more` chunks can be added; [`move_index`](super::move_index)
    /// moves to larger memory between two calls of the engine.
    pub const fn index_needed_for(&self, more: u64) -> u64 {
        index_needed(self.used.saturating_add(more))
    }

    /// Sectors of the store in use, the header and the areas included, as the kernel counts them.
    pub const fn allocated_sectors(&self) -> u64 {
        self.next_free.saturating_mul(self.geometry.chunk_sectors())
    }

    /// The ranges of the disk that the store holds. `index` is this overlay's index memory.
    pub const fn runs<'m>(&self, index: &'m [IndexEntry]) -> Runs<'m> {
        runs(self.geometry, index)
    }

    const fn is_unpublished(&self, mapped: Mapped) -> bool {
        mapped.is_among(self.published, self.listed.saturating_sub(self.published))
    }

    /// `chunk` and what its use needs are inside the store [FORMAT-DM-SNAPSHOT, Full].
    fn has_room_for(&self, chunk: u64) -> bool {
        // Where this chunk is the last before an area, the list can become so long that it needs
        // that area: not to have it would make the store unreadable.
        let last = if self.geometry.is_metadata(chunk.saturating_add(1)) {
            chunk.saturating_add(1)
        } else {
            chunk
        };
        self.geometry.holds(last)
    }

    /// Makes all data chunks up to `chunk` allocated.
    fn allocate_through(&mut self, chunk: u64) {
        self.next_free = chunk.saturating_add(1);
        if self.next_free == self.next_area_chunk {
            self.next_free = self.next_free.saturating_add(1);
            self.next_area_chunk =
                self.next_area_chunk.saturating_add(self.geometry.stride().get());
        }
    }

    /// Takes `chunk` back if it was allocated last.
    fn give_back(&mut self, chunk: u64) {
        let next = chunk.saturating_add(1);
        if next == self.next_free {
            self.next_free = chunk;
        } else if next.saturating_add(1) == self.next_free && self.geometry.is_metadata(next) {
            self.next_free = chunk;
            self.next_area_chunk = next;
        }
    }

    fn allocate(&mut self, extent: Extent, index: &mut [IndexEntry]) -> Placed {
        // The store first: index memory for all it can hold is never asked to be more.
        let chunk = self.next_free;
        if !self.has_room_for(chunk) {
            return Placed::Full;
        }
        let needed = index_needed(self.used.saturating_add(1));
        if needed > index.len() as u64 {
            return Placed::IndexFull { needed };
        }
        let disk_chunk = self.geometry.chunk_of(extent.start());
        if !index::put(index, disk_chunk, Mapped::pending(chunk)) {
            return Placed::IndexFull { needed: needed.saturating_add(1) };
        }
        self.used = self.used.saturating_add(1);
        self.allocate_through(chunk);
        let unit = self.geometry.chunk_extent(disk_chunk);
        let written = extent.until(unit.end().get());
        let fill = Fill { unit, offset: self.geometry.chunk_offset(chunk) };
        Placed::Write {
            sectors: written.sectors(),
            offset: self.geometry.sector_offset(chunk, extent.start()),
            fresh: self.geometry.chunk_sectors(),
            publish: true,
            fill: (written != unit).then_some(fill),
        }
    }

    /// Sectors from the start of `extent` that are in this one and consecutive store chunks, and
    /// all (un)published like the first.
    fn span(&self, extent: Extent, first: Mapped, index: &[IndexEntry]) -> u64 {
        let disk_chunk = self.geometry.chunk_of(extent.start());
        let unpublished = self.is_unpublished(first);
        let chunk_sectors = self.geometry.chunk_sectors();
        let mut sectors = chunk_sectors.saturating_sub(self.geometry.within(extent.start()));
        for i in 1..MERGE_CHUNKS {
            let goes_on = sectors < extent.sectors()
                && index::find(index, disk_chunk.wrapping_add(i)).is_some_and(|m| {
                    !m.pending
                        && m.chunk == first.chunk.wrapping_add(i)
                        && self.is_unpublished(m) == unpublished
                });
            if !goes_on {
                break;
            }
            sectors = sectors.saturating_add(chunk_sectors);
        }
        sectors.min(extent.sectors())
    }

    /// In which step of a commit a page is published.
    pub(super) fn stage_of(&self, page: u64) -> u8 {
        // The pages of a commit follow each other, from the one with the first exception that is
        // not yet durable on.
        let behind = page.saturating_sub(page_of(self.published));
        u8::try_from(behind).unwrap_or(STAGES).min(STAGES - 1)
    }

    /// Appends the exception of a pending chunk. `None`: done.
    fn append(
        &mut self,
        disk_chunk: u64,
        chunk: u64,
        pages: &mut PagePool<'_>,
        index: &mut [IndexEntry],
    ) -> Option<Applied> {
        let number = self.listed;
        let page = page_of(number);
        if page.saturating_sub(page_of(self.published)) >= u64::from(STAGES) {
            return Some(Applied::AfterCommit);
        }
        if let Some(wait) = self.ready_next_area(number) {
            return Some(wait);
        }
        let Some(id) = pages.find(self.storage, page) else { return Some(Applied::Load(page)) };
        match pages.state(id) {
            FrameState::Open | FrameState::Preparing => {}
            FrameState::Clean | FrameState::Sealed => return Some(Applied::Open(page)),
            FrameState::Free | FrameState::Loading | FrameState::Scratch => {
                return Some(Applied::Load(page));
            }
        }
        let bytes = pages.page_mut(id)?;
        let slot = number.wrapping_sub(page << SECTOR_ENTRIES_SHIFT);
        let at = usize::try_from(slot.wrapping_mul(ENTRY_BYTES)).unwrap_or(0);
        let entry = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<16>);
        let corrupt = Applied::Corrupt { offset: self.geometry.entry_offset(number) };
        let Some(entry) = entry else { return Some(corrupt) };
        let [_, new_chunk] = words(entry);
        if new_chunk != 0 {
            return Some(corrupt); // somebody else wrote to the store
        }
        *entry = entry_bytes(disk_chunk, chunk);
        let _always_there = index::put(index, disk_chunk, Mapped::listed(chunk, number));
        self.listed = number.saturating_add(1);
        None
    }

    /// Before the exception that fills an area: the next area must be there and zero.
    fn ready_next_area(&self, number: u64) -> Option<Applied> {
        let next = self.geometry.area_of(number.saturating_add(1));
        if next < self.areas_ready {
            return None;
        }
        let area_chunk = self.geometry.area_chunk(next);
        if !self.geometry.holds(area_chunk) {
            return Some(Applied::Full);
        }
        // The engine zeroes one range at a time: zeros that come late would wipe exceptions.
        Some(Applied::ZeroFirst {
            offset: self.geometry.chunk_offset(area_chunk),
            len: self.geometry.chunk_bytes(),
        })
    }

    /// As [`Overlay::adopt`] for one chunk of the disk.
    fn adopt_chunk(&mut self, disk_chunk: u64, chunk: u64, index: &mut [IndexEntry]) -> bool {
        if let Some(known) = index::find(index, disk_chunk) {
            return known.chunk == chunk; // published in time, or noted twice
        }
        let room = index_needed(self.used.saturating_add(1)) <= index.len() as u64;
        let data = chunk >= FIRST_DATA_CHUNK && !self.geometry.is_metadata(chunk);
        // Notes come in the order of allocation but for races, so the slow search is rare.
        let is_new = chunk >= self.next_free || !index::uses_chunk(index, chunk);
        if !room || !data || !is_new || !self.has_room_for(chunk) {
            return false;
        }
        if !index::put(index, disk_chunk, Mapped::pending(chunk)) {
            return false;
        }
        self.used = self.used.saturating_add(1);
        if chunk >= self.next_free {
            self.next_area_chunk = self.geometry.area_behind(chunk);
            self.allocate_through(chunk);
        }
        true
    }
}

const fn page_of(number: u64) -> u64 {
    number >> SECTOR_ENTRIES_SHIFT
}

const fn page_offset(geometry: &Geometry, page: u64) -> u64 {
    geometry.entry_offset(page << SECTOR_ENTRIES_SHIFT)
}

/// The two words of an exception: chunk of the disk, chunk of the store.
pub(super) fn words(entry: &[u8; 16]) -> [u64; 2] {
    let (old, new) = entry.split_at(8);
    [old, new].map(|w| w.first_chunk::<8>().map_or(0, |w| u64::from_le_bytes(*w)))
}

fn entry_bytes(disk_chunk: u64, chunk: u64) -> [u8; 16] {
    (u128::from(disk_chunk) | u128::from(chunk) << 64).to_le_bytes()
}

impl Map for Writable {
    fn sectors(&self) -> u64 {
        self.geometry.disk_sectors()
    }

    fn storage(&self) -> StorageKey {
        self.storage
    }

    fn locate(&self, extent: Extent, _pages: &PagePool<'_>, index: &[IndexEntry]) -> Located {
        if self.overflowed {
            return Located::Corrupt { offset: VALID_OFFSET };
        }
        Located::Run(locate(&self.geometry, extent, index))
    }

    fn load(&self, page: u64, step: u8, _note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Load {
        let offset = page_offset(&self.geometry, page);
        let area = self.geometry.area_of(page << SECTOR_ENTRIES_SHIFT);
        match step {
            _ if !self.geometry.holds(self.geometry.area_chunk(area)) => Load::Corrupt { offset },
            0 => Load::Read { offset, len: PAGE_BYTES },
            _ => Load::Ready,
        }
    }
}

impl Overlay for Writable {
    fn stages(&self) -> u8 {
        STAGES
    }

    fn place(&mut self, extent: Extent, _pages: &PagePool<'_>, index: &mut [IndexEntry]) -> Placed {
        if self.overflowed {
            return Placed::Corrupt { offset: VALID_OFFSET };
        }
        match index::find(index, self.geometry.chunk_of(extent.start())) {
            None => {
                let placed = self.allocate(extent, index);
                self.overflowed = placed == Placed::Full && self.overflow == Overflow::Invalidate;
                placed
            }
            Some(mapped) if mapped.pending => Placed::Busy,
            Some(mapped) => Placed::Write {
                sectors: self.span(extent, mapped, index),
                offset: self.geometry.sector_offset(mapped.chunk, extent.start()),
                fresh: 0,
                // The chunk may be in the list but not yet on the medium: an acknowledgement must
                // wait for that too. `apply` then has nothing to do.
                publish: self.is_unpublished(mapped),
                fill: None,
            },
        }
    }

    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        _pages: &PagePool<'_>,
        index: &[IndexEntry],
    ) -> Cleared {
        if self.overflowed {
            return Cleared::Corrupt { offset: VALID_OFFSET };
        }
        match index::find(index, self.geometry.chunk_of(extent.start())) {
            Some(mapped) if mapped.pending => Cleared::Busy,
            // Zeros in place would be acknowledged although the chunk may still fall back.
            Some(mapped) if self.is_unpublished(mapped) && !keep_reading_below => {
                Cleared::WriteZeros { sectors: self.span(extent, mapped, index) }
            }
            Some(mapped) => Cleared::ZeroData {
                sectors: self.span(extent, mapped, index),
                offset: self.geometry.sector_offset(mapped.chunk, extent.start()),
            },
            None => {
                let sectors = locate(&self.geometry, extent, index).sectors;
                if keep_reading_below {
                    Cleared::Skip { sectors }
                } else {
                    Cleared::WriteZeros { sectors }
                }
            }
        }
    }

    fn apply(
        &mut self,
        extent: Extent,
        _state: State, // always `Data`: `clear` never answers `Mark`
        pages: &mut PagePool<'_>,
        index: &mut [IndexEntry],
    ) -> Applied {
        let mut done = 0_u64;
        for _ in 0..APPLY_CHUNKS {
            let rest = extent.skip(done);
            if rest.is_empty() {
                break;
            }
            let disk_chunk = self.geometry.chunk_of(rest.start());
            let pending = index::find(index, disk_chunk).filter(|m| m.pending);
            if let Some(mapped) = pending
                && let Some(wait) = self.append(disk_chunk, mapped.chunk, pages, index)
            {
                if done == 0 {
                    return wait;
                }
                break;
            }
            let here =
                self.geometry.chunk_sectors().saturating_sub(self.geometry.within(rest.start()));
            done = done.saturating_add(here).min(extent.sectors());
        }
        Applied::Done { sectors: done, freed: 0 }
    }

    fn prepared(&mut self, _page: u64, _note: &mut u64) {}

    fn zeroed(&mut self, offset: u64) {
        let area = self.areas_ready;
        if offset == self.geometry.chunk_offset(self.geometry.area_chunk(area)) {
            self.areas_ready = area.saturating_add(1);
        }
    }

    fn seal(&mut self, page: u64, _note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        // Counted from the bytes: a newer version of the page may hold more already.
        let used = bytes
            .chunks_exact(16)
            .take(1 << SECTOR_ENTRIES_SHIFT)
            .take_while(|entry| entry.first_chunk::<16>().is_some_and(|e| words(e)[1] != 0));
        let first = page << SECTOR_ENTRIES_SHIFT;
        self.sealed = self.sealed.max(first.saturating_add(used.count() as u64));
        let stage = self.stage_of(page);
        Sealed { offset: page_offset(&self.geometry, page), len: PAGE_BYTES, stage }
    }

    fn committed(&mut self, _index: &mut [IndexEntry]) {
        self.published = self.sealed;
    }

    fn abandon(&mut self, extent: Extent, index: &mut [IndexEntry]) {
        let first = self.geometry.chunk_of(extent.start());
        // Backwards, so that chunks that were allocated last in a row are all given back.
        for i in (0..chunks_in(&self.geometry, extent)).rev() {
            let disk_chunk = first.saturating_add(i);
            let Some(mapped) = index::find(index, disk_chunk).filter(|m| m.pending) else {
                continue;
            };
            if index::remove(index, disk_chunk) {
                self.used = self.used.saturating_sub(1);
            }
            self.give_back(mapped.chunk);
        }
    }

    fn adopt(&mut self, extent: Extent, offset: u64, index: &mut [IndexEntry]) -> Adopted {
        let before = self.geometry.within(extent.start()).wrapping_mul(SECTOR_BYTES);
        let Some(data) = offset.checked_sub(before) else { return Adopted::Refused };
        let first_chunk = data / self.geometry.chunk_bytes().max(1);
        let inside = extent.end().get() <= self.geometry.disk_sectors() && !extent.is_empty();
        if !inside || self.geometry.chunk_offset(first_chunk) != data {
            return Adopted::Refused;
        }
        let first = self.geometry.chunk_of(extent.start());
        Adopted::taken_if((0..chunks_in(&self.geometry, extent)).all(|i| {
            self.adopt_chunk(first.saturating_add(i), first_chunk.saturating_add(i), index)
        }))
    }

    fn preamble(&mut self, _bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        None
    }
}

/// Chunks of the disk that `extent` touches.
fn chunks_in(geometry: &Geometry, extent: Extent) -> u64 {
    let around = extent.widen(geometry.chunk_sectors(), geometry.disk_sectors());
    around.sectors().div_ceil(geometry.chunk_sectors().max(1))
}
