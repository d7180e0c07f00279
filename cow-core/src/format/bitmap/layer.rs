//! The answers to the engine: [`Writable`] and [`Frozen`].

use super::bits;
use super::geometry::{Geometry, Piece};
use crate::format::{
    Adopted, Applied, Cleared, Fill, InPlace, IndexEntry, Load, Located, Map, Overlay, Place,
    Placed, Run, Sealed, State, low_bits,
};
use crate::pages::{FrameState, PAGE_LEN, PagePool, StorageKey};
use crate::units::{Extent, SECTOR_BYTES};

/// What both halves need: the storages, the layout, and where the data end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) data: StorageKey,
    pub(crate) metadata: StorageKey,
    pub(crate) geometry: Geometry,
    /// Bytes of the data storage that there are.
    pub(crate) end: u64,
}

impl Volume {
    /// The first sectors of the extent, or those of them that have no bit.
    fn piece(&self, extent: Extent) -> Result<Piece, Extent> {
        let mapped = extent.until(self.geometry.mapped_sectors());
        if mapped.is_empty() { Err(extent) } else { Ok(Piece::of(&self.geometry, mapped)) }
    }

    fn locate(
        &self,
        extent: Extent,
        pages: &PagePool<'_>,
        offset: impl Fn(&Piece, &[u8; PAGE_LEN]) -> Option<u64>,
    ) -> Located {
        let piece = match self.piece(extent) {
            Ok(piece) => piece,
            Err(unmapped) => {
                let sectors = unmapped.sectors();
                return Located::Run(Run { sectors, place: Place::Absent });
            }
        };
        let Some(bytes) = pages.lookup(self.metadata, piece.page) else {
            return Located::Load(piece.page);
        };
        let (set, units) = bits::run(bytes, piece.first, piece.units);
        let sectors = piece.part(units).sectors();
        if !set {
            return Located::Run(Run { sectors, place: Place::Absent });
        }
        let run = offset(&piece, bytes).and_then(|offset| self.inside(offset, sectors));
        let corrupt = Located::Corrupt { offset: self.geometry.bit_offset(extent.start()) };
        run.map_or(corrupt, Located::Run)
    }

    /// Of data that lie where they would in a full image.
    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        let piece = self.piece(extent).ok().filter(|_| self.geometry.unit_sectors() == 1)?;
        let bytes = pages.lookup(self.metadata, piece.page)?;
        let set = bits::window(bytes, piece.first, piece.units);
        let known = low_bits(piece.extent.sectors());
        let offset = self.geometry.sector_offset(extent.start());
        let whole = self.end.saturating_sub(offset) / SECTOR_BYTES;
        Some(InPlace { data: set & known & low_bits(whole), absent: !set & known, offset })
    }

    /// The first of `sectors` sectors from byte `offset` of the data storage that it holds.
    fn inside(&self, offset: u64, sectors: u64) -> Option<Run> {
        let left = self.end.checked_sub(offset)?;
        let whole = left / SECTOR_BYTES;
        if whole > 0 {
            return Some(Run { sectors: sectors.min(whole), place: Place::Data { offset } });
        }
        let len = u16::try_from(left).ok().filter(|len| *len > 0)?;
        Some(Run { sectors: 1, place: Place::Tail { offset, len } })
    }

    fn load(&self, page: u64, step: u8, bytes: &mut [u8; PAGE_LEN]) -> Load {
        let Some((offset, len)) = self.geometry.page_range(page) else {
            return Load::Corrupt { offset: self.geometry.bitmap_offset() };
        };
        if step == 0 {
            return Load::Read { offset, len };
        }
        for byte in bytes.iter_mut().skip(usize::try_from(len).unwrap_or(PAGE_LEN)) {
            *byte = 0;
        }
        Load::Ready
    }
}

/// A frozen layer. Its data lie where they would in a full image, or packed one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'m> {
    volume: Volume,
    /// Units with data before each page of the bitmap; for packed data only.
    ranks: Option<&'m [IndexEntry]>,
}

impl<'m> Frozen<'m> {
    pub(crate) const fn new(volume: Volume) -> Self {
        Self { volume, ranks: None }
    }

    /// With packed data; `ranks` is memory that [`fill_ranks`](super::fill_ranks) filled.
    pub(crate) const fn packed(volume: Volume, ranks: &'m [IndexEntry]) -> Self {
        Self { volume, ranks: Some(ranks) }
    }

    /// The layout.
    pub const fn geometry(&self) -> Geometry {
        self.volume.geometry
    }

    pub(crate) const fn index(&self) -> &'m [IndexEntry] {
        match self.ranks {
            Some(ranks) => ranks,
            None => &[],
        }
    }
}

/// Units with data before page `page`.
fn rank(ranks: &[IndexEntry], page: u64) -> Option<u64> {
    let entry = ranks.get(usize::try_from(page / 2).ok()?)?;
    Some(if page.is_multiple_of(2) { entry.key } else { entry.value })
}

impl Map for Frozen<'_> {
    fn sectors(&self) -> u64 {
        self.volume.geometry.sectors()
    }

    fn storage(&self) -> StorageKey {
        self.volume.data
    }

    fn metadata(&self) -> StorageKey {
        self.volume.metadata
    }

    fn locate(&self, extent: Extent, pages: &PagePool<'_>, index: &[IndexEntry]) -> Located {
        let geometry = &self.volume.geometry;
        self.volume.locate(extent, pages, |piece, bytes| {
            if self.ranks.is_none() {
                return Some(geometry.sector_offset(extent.start()));
            }
            let here = bits::count(bytes, 0, piece.first) as u64;
            let units = rank(index, piece.page)?.saturating_add(here);
            let sectors =
                units.checked_mul(geometry.unit_sectors())?.checked_add(piece.within())?;
            sectors.checked_mul(SECTOR_BYTES)?.checked_add(geometry.data_offset())
        })
    }

    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        if self.ranks.is_some() { None } else { self.volume.in_place(extent, pages) }
    }

    fn load(&self, page: u64, step: u8, _note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.volume.load(page, step, bytes)
    }
}

/// Bytes at the start of the image that are written before the first change of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) bytes: [u8; Self::MOST],
    pub(crate) len: u8,
}

impl Mark {
    /// Longest mark.
    pub(crate) const MOST: usize = 64;
}

/// An overlay that takes writes.
#[derive(Debug)]
pub struct Writable {
    volume: Volume,
    mark: Option<Mark>,
    /// Data may lie in the storage that have no bit.
    residue: bool,
    /// Bits that are set, those not yet durable included; unknown where nobody counted them.
    used: Option<u64>,
}

impl Writable {
    pub(crate) const fn new(volume: Volume, mark: Option<Mark>, used: Option<u64>) -> Self {
        Self { volume, mark, residue: false, used }
    }

    /// The layout.
    pub const fn geometry(&self) -> Geometry {
        self.volume.geometry
    }

    /// Sectors whose bit is set: what the overlay holds. Unknown until
    /// [`set_data_sectors`](Self::set_data_sectors) unless opening it counted them.
    pub fn data_sectors(&self) -> Option<u64> {
        self.used.map(|units| units.saturating_mul(self.volume.geometry.unit_sectors()))
    }

    /// Tells how many sectors have their bit set, counted while the overlay was not written.
    pub fn set_data_sectors(&mut self, sectors: u64) {
        self.used = Some(sectors / self.volume.geometry.unit_sectors().max(1));
    }

    /// Of an image whose last session was cut short.
    #[must_use]
    pub(crate) const fn with_residue(self) -> Self {
        Self { residue: true, ..self }
    }

    /// A write failed, or the last session was cut short: there may be data without a bit.
    pub(crate) const fn has_residue(&self) -> bool {
        self.residue
    }

    /// Units whose bit is set, if somebody counted.
    pub(crate) const fn used_units(&self) -> Option<u64> {
        self.used
    }

    /// The place of the first sectors of a write in `piece`.
    fn place_piece(&self, piece: &Piece, bytes: &[u8; PAGE_LEN]) -> Placed {
        let geometry = &self.volume.geometry;
        let write = |part: Extent, fresh: usize, fill: Option<Fill>| Placed::Write {
            sectors: part.sectors(),
            offset: geometry.sector_offset(part.start()),
            fresh: (fresh as u64).saturating_mul(geometry.unit_sectors()),
            publish: fresh > 0,
            fill,
        };
        let whole = piece.whole_units(geometry.sectors());
        if piece.begins_whole() && whole > 0 {
            let unset = whole.saturating_sub(bits::count(bytes, piece.first, whole));
            return write(piece.part(whole), unset, None);
        }
        let part = piece.part(1);
        if bits::run(bytes, piece.first, 1).0 {
            return write(part, 0, None);
        }
        let unit = geometry.unit_extent(geometry.unit_of(part.start()));
        write(part, 1, Some(Fill { unit, offset: geometry.sector_offset(unit.start()) }))
    }
}

impl Map for Writable {
    fn sectors(&self) -> u64 {
        self.volume.geometry.sectors()
    }

    fn storage(&self) -> StorageKey {
        self.volume.data
    }

    fn metadata(&self) -> StorageKey {
        self.volume.metadata
    }

    fn locate(&self, extent: Extent, pages: &PagePool<'_>, _index: &[IndexEntry]) -> Located {
        let offset = self.volume.geometry.sector_offset(extent.start());
        self.volume.locate(extent, pages, |_piece, _bytes| Some(offset))
    }

    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        self.volume.in_place(extent, pages)
    }

    fn load(&self, page: u64, step: u8, _note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        self.volume.load(page, step, bytes)
    }
}

impl Overlay for Writable {
    fn stages(&self) -> u8 {
        1
    }

    fn grain(&self) -> u64 {
        self.volume.geometry.unit_sectors()
    }

    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, _index: &mut [IndexEntry]) -> Placed {
        let Ok(piece) = self.volume.piece(extent) else { return Placed::Unsupported };
        match pages.lookup(self.volume.metadata, piece.page) {
            Some(bytes) => self.place_piece(&piece, bytes),
            None => Placed::Load(piece.page),
        }
    }

    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        pages: &PagePool<'_>,
        _index: &[IndexEntry],
    ) -> Cleared {
        let absent = |sectors| {
            if keep_reading_below {
                Cleared::Skip { sectors }
            } else {
                Cleared::WriteZeros { sectors }
            }
        };
        let piece = match self.volume.piece(extent) {
            Ok(piece) => piece,
            Err(unmapped) => return absent(unmapped.sectors()),
        };
        let Some(bytes) = pages.lookup(self.volume.metadata, piece.page) else {
            return Cleared::Load(piece.page);
        };
        let (set, units) = bits::run(bytes, piece.first, piece.units);
        let part = piece.part(units);
        if !set {
            return absent(part.sectors());
        }
        let offset = self.volume.geometry.sector_offset(part.start());
        Cleared::ZeroData { sectors: part.sectors(), offset }
    }

    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        _index: &mut [IndexEntry],
    ) -> Applied {
        let offset = self.volume.geometry.bit_offset(extent.start());
        // There is no mark for zeros, and nothing here asks for one.
        let (Ok(piece), State::Data) = (self.volume.piece(extent), state) else {
            return Applied::Corrupt { offset };
        };
        let Some(id) = pages.find(self.volume.metadata, piece.page) else {
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
        let Some(bytes) = pages.page_mut(id) else { return Applied::Load(piece.page) };
        let before = bits::count(bytes, piece.first, piece.units);
        bits::set(bytes, piece.first, piece.units);
        let added = piece.units.saturating_sub(before) as u64;
        self.used = self.used.map(|used| used.saturating_add(added));
        Applied::Done { sectors: piece.extent.sectors(), freed: 0 }
    }

    fn prepared(&mut self, _page: u64, _note: &mut u64) {}

    fn zeroed(&mut self, _offset: u64) {}

    fn seal(&mut self, page: u64, _note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        // Only pages that `load` accepted are ever open.
        let (offset, len) = self.volume.geometry.page_range(page).unwrap_or((0, 0));
        Sealed { offset, len, stage: 0 }
    }

    fn committed(&mut self, _index: &mut [IndexEntry]) {}

    fn abandon(&mut self, _extent: Extent, _index: &mut [IndexEntry]) {
        self.residue = true;
    }

    fn adopt(&mut self, extent: Extent, offset: u64, _index: &mut [IndexEntry]) -> Adopted {
        Adopted::taken_if(
            extent.end().get() <= self.volume.geometry.mapped_sectors()
                && offset == self.volume.geometry.sector_offset(extent.start()),
        )
    }

    fn preamble(&mut self, bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        let mark = self.mark.as_ref()?;
        for (to, from) in bytes.iter_mut().zip(mark.bytes) {
            *to = from;
        }
        Some(Sealed { offset: 0, len: u32::from(mark.len), stage: 0 })
    }
}
