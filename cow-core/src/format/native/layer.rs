//! The format's answers to the engine: [`Writable`] and [`Frozen`].

use super::geometry::{Geometry, PAGE_SECTORS, SECTORS_PER_PAGE, STATES_LEN};
use super::header::Header;
use super::image::Opened;
use super::page::{self, FRESH, Rules, SEALED};
use super::states::{self, ABSENT, DATA, ZERO};
use crate::format::{
    Adopted, Applied, Cleared, InPlace, IndexEntry, Load, Located, Map, Overlay, Place, Placed,
    Run, Sealed, State,
};
use crate::pages::{FrameState, PAGE_LEN, PagePool, StorageKey};
use crate::units::{Extent, Lba};

/// What both halves need: a storage, its layout, and how its pages are judged.
#[derive(Clone, Copy, Debug)]
struct Volume {
    storage: StorageKey,
    geometry: Geometry,
    rules: Rules,
}

/// The first part of an extent: what lies in one page.
#[derive(Clone, Copy, Debug)]
struct Piece {
    page: u64,
    /// First sector within the page.
    first: usize,
    sectors: usize,
    start: Lba,
}

impl Piece {
    fn of(extent: Extent) -> Self {
        let start = extent.start();
        let (page, first) = (start.get() / SECTORS_PER_PAGE, start.get() % SECTORS_PER_PAGE);
        let sectors = extent.sectors().min(SECTORS_PER_PAGE.saturating_sub(first));
        // Both are at most `SECTORS_PER_PAGE`.
        let small = |n: u64| usize::try_from(n).unwrap_or(PAGE_SECTORS);
        Self { page, first: small(first), sectors: small(sectors), start }
    }

    /// Where the state of the piece's first sector is, in the slot that `bytes` came from.
    fn state_offset(&self, geometry: Geometry, sequence: u64) -> u64 {
        let head = (PAGE_LEN - STATES_LEN) as u64;
        let byte = (self.first / 4) as u64;
        geometry.slot_offset(self.page, sequence).wrapping_add(head).wrapping_add(byte)
    }
}

impl Volume {
    fn locate(&self, piece: Piece, states: &[u8], sequence: u64) -> Located {
        let place = match states::run(states, piece.first, piece.sectors) {
            Some((ABSENT, sectors)) => (Place::Absent, sectors),
            Some((ZERO, sectors)) => (Place::Zero, sectors),
            Some((DATA, sectors)) => {
                (Place::Data { offset: self.geometry.sector_offset(piece.start) }, sectors)
            }
            _ => return self.corrupt_state(piece, sequence),
        };
        Located::Run(Run { sectors: place.1 as u64, place: place.0 })
    }

    fn corrupt_state(&self, piece: Piece, sequence: u64) -> Located {
        Located::Corrupt { offset: piece.state_offset(self.geometry, sequence) }
    }

    fn locate_paged(&self, extent: Extent, pages: &PagePool<'_>) -> Located {
        let piece = Piece::of(extent);
        match pages.lookup(self.storage, piece.page) {
            Some(bytes) => self.locate(piece, page::states(bytes), page::sequence(bytes)),
            None => Located::Load(piece.page),
        }
    }

    fn in_place(&self, piece: Piece, states: &[u8]) -> InPlace {
        let (data, absent) = states::split(states, piece.first, piece.sectors);
        InPlace { data, absent, offset: self.geometry.sector_offset(piece.start) }
    }

    fn in_place_paged(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        let piece = Piece::of(extent);
        let bytes = pages.lookup(self.storage, piece.page)?;
        Some(self.in_place(piece, page::states(bytes)))
    }

    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.rules.load(self.geometry, page, step, note, bytes)
    }
}

/// A frozen native layer. Its metadata are paged, or wholly in memory that the caller lends.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'m> {
    volume: Volume,
    map: Option<&'m [u8]>,
}

impl<'m> Frozen<'m> {
    pub(super) const fn new(header: &Header, storage: StorageKey) -> Self {
        let volume = Volume { storage, geometry: header.geometry, rules: header.rules() };
        Self { volume, map: None }
    }

    /// Uses metadata that [`load_map`](super::load_map) read, so that lookups need no page.
    /// `None` if `map` is not [`map_len`](super::map_len) bytes long.
    #[must_use]
    pub fn with_map(self, map: &'m [u8]) -> Option<Self> {
        let fits = Some(map.len()) == super::map_len(self.volume.geometry.sectors());
        fits.then_some(Self { map: Some(map), ..self })
    }
}

impl Map for Frozen<'_> {
    fn sectors(&self) -> u64 {
        self.volume.geometry.sectors()
    }

    fn storage(&self) -> StorageKey {
        self.volume.storage
    }

    fn locate(&self, extent: Extent, pages: &PagePool<'_>, _index: &[IndexEntry]) -> Located {
        let Some(map) = self.map else { return self.volume.locate_paged(extent, pages) };
        let piece = Piece::of(extent);
        match states_of(map, piece.page) {
            Some(states) => self.volume.locate(piece, states, 0),
            None => self.volume.corrupt_state(piece, 0),
        }
    }

    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        let Some(map) = self.map else { return self.volume.in_place_paged(extent, pages) };
        let piece = Piece::of(extent);
        Some(self.volume.in_place(piece, states_of(map, piece.page)?))
    }

    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.volume.load(page, step, note, bytes)
    }
}

/// The states of a page, of those of all pages.
fn states_of(map: &[u8], page: u64) -> Option<&[u8]> {
    let from = usize::try_from(page).ok()?.checked_mul(STATES_LEN)?;
    map.get(from..)?.get(..STATES_LEN)
}

/// A writable native overlay.
#[derive(Debug)]
pub struct Writable {
    volume: Volume,
    /// As it is, or will be once the preamble is written, on the storage.
    header: Header,
    begun: bool,
    data_sectors: Option<u64>,
}

impl Writable {
    pub(super) fn new(header: Header, storage: StorageKey) -> Self {
        let volume = Volume { storage, geometry: header.geometry, rules: header.rules() };
        let data_sectors = header.data_sectors.filter(|_| header.clean);
        Self { volume, header, begun: false, data_sectors }
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Its header was changed on the storage, before the first change of this session.
    pub fn renew(&mut self, changed: Opened) {
        self.header = changed.header;
    }

    /// Sectors in the data area: unknown after an unclean end until
    /// [`set_data_sectors`](Self::set_data_sectors).
    pub const fn data_sectors(&self) -> Option<u64> {
        self.data_sectors
    }

    /// Tells how many sectors are in the data area, counted while the overlay was not written.
    pub fn set_data_sectors(&mut self, sectors: u64) {
        self.data_sectors = Some(sectors);
    }

    /// Makes `header`, as it is on the storage, that of an orderly end. False if it is already.
    pub(super) fn closing(&self, header: &mut Header) -> bool {
        if header.clean {
            return false;
        }
        if header.session == self.volume.rules.session {
            // Slots torn in this session would have been torn by a cut, and there was none.
            header.clean = true;
        } else {
            header.settle();
        }
        header.data_sectors = self.data_sectors;
        true
    }

    pub(super) const fn rules(&self) -> &Rules {
        &self.volume.rules
    }

    /// Moves the counter by what a change of state adds and takes.
    fn count(&mut self, added: usize, taken: usize) {
        self.data_sectors =
            self.data_sectors.map(|n| n.saturating_add(added as u64).saturating_sub(taken as u64));
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
        self.volume.locate_paged(extent, pages)
    }

    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        self.volume.in_place_paged(extent, pages)
    }

    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.volume.load(page, step, note, bytes)
    }
}

impl Overlay for Writable {
    fn stages(&self) -> u8 {
        1
    }

    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, _index: &mut [IndexEntry]) -> Placed {
        let piece = Piece::of(extent);
        let Some(bytes) = pages.lookup(self.volume.storage, piece.page) else {
            return Placed::Load(piece.page);
        };
        let counts = states::count(page::states(bytes), piece.first, piece.sectors);
        if counts.corrupt > 0 {
            let offset = piece.state_offset(self.volume.geometry, page::sequence(bytes));
            return Placed::Corrupt { offset };
        }
        let fresh = piece.sectors.saturating_sub(counts.data) as u64;
        Placed::Write {
            sectors: piece.sectors as u64,
            offset: self.volume.geometry.sector_offset(piece.start),
            fresh,
            publish: fresh > 0,
            fill: None,
        }
    }

    fn clear(
        &mut self,
        extent: Extent,
        _keep_reading_below: bool,
        pages: &PagePool<'_>,
        _index: &[IndexEntry],
    ) -> Cleared {
        let piece = Piece::of(extent);
        let Some(bytes) = pages.lookup(self.volume.storage, piece.page) else {
            return Cleared::Load(piece.page);
        };
        // Also where nothing is held: a trimmed sector reads as zeros, whatever lies below, and a
        // range that is marked as a whole can be punched as a whole.
        let states = page::states(bytes);
        if states::count(states, piece.first, piece.sectors).corrupt > 0 {
            let offset = piece.state_offset(self.volume.geometry, page::sequence(bytes));
            return Cleared::Corrupt { offset };
        }
        Cleared::Mark {
            sectors: piece.sectors as u64,
            offset: Some(self.volume.geometry.sector_offset(piece.start)),
        }
    }

    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        _index: &mut [IndexEntry],
    ) -> Applied {
        let piece = Piece::of(extent);
        let Some(id) = pages.find(self.volume.storage, piece.page) else {
            return Applied::Load(piece.page);
        };
        match pages.state(id) {
            FrameState::Open => {}
            FrameState::Clean | FrameState::Preparing | FrameState::Sealed => {
                return Applied::Open(piece.page);
            }
            FrameState::Free | FrameState::Loading | FrameState::Scratch => {
                return Applied::Load(piece.page);
            }
        }
        let fresh = pages.aux(id) & FRESH != 0;
        let Some(bytes) = pages.page_mut(id) else { return Applied::Load(piece.page) };
        if fresh {
            self.volume.rules.prepare(piece.page, bytes);
            let offset = self.volume.geometry.slot_offset(piece.page, 0);
            return Applied::WritePage { page: piece.page, offset };
        }
        let before = states::count(page::states(bytes), piece.first, piece.sectors).data;
        let (code, added, freed) = match state {
            State::Data => (DATA, piece.sectors.saturating_sub(before), 0),
            State::Zero => (ZERO, 0, before),
        };
        states::set(page::states_mut(bytes), piece.first, piece.sectors, code);
        self.count(added, freed);
        Applied::Done { sectors: piece.sectors as u64, freed: freed as u64 }
    }

    fn prepared(&mut self, _page: u64, note: &mut u64) {
        *note &= !(FRESH | SEALED);
    }

    fn zeroed(&mut self, _offset: u64) {}

    fn seal(&mut self, page: u64, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        let slot = self.volume.rules.seal(page, note, bytes);
        let offset = self.volume.geometry.slot_offset(page, slot);
        Sealed { offset, len: super::geometry::SLOT_LEN, stage: 0 }
    }

    fn reopened(&mut self, _page: u64, note: &mut u64) {
        *note &= !SEALED;
    }

    fn failed(&mut self, _page: u64, note: &mut u64) {
        // A fresh page has no version yet that could be repeated.
        if *note & FRESH == 0 {
            *note |= SEALED;
        }
    }

    fn committed(&mut self, _index: &mut [IndexEntry]) {}

    fn abandon(&mut self, _extent: Extent, _index: &mut [IndexEntry]) {}

    fn adopt(&mut self, extent: Extent, offset: u64, _index: &mut [IndexEntry]) -> Adopted {
        Adopted::taken_if(
            extent.end().get() <= self.sectors()
                && offset == self.volume.geometry.sector_offset(extent.start()),
        )
    }

    fn preamble(&mut self, bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        // Asked again, the first write failed: the same header goes to the same slot.
        if !self.begun {
            self.begun = true;
            self.header.torn_until = self.volume.rules.torn_until;
            self.header.session = self.volume.rules.session;
            self.header.clean = false;
            self.header.data_sectors = None;
            self.header.sequence = self.header.sequence.wrapping_add(1);
        }
        self.header.emit(bytes);
        let offset = Geometry::header_offset(self.header.sequence);
        Some(Sealed { offset, len: super::geometry::SLOT_LEN, stage: 0 })
    }
}
