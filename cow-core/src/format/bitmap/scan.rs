//! Reading a whole bitmap outside the engine: counts, runs, findings.

use core::fmt;

use super::bits::{self, PAGE_BITS};
use super::geometry::{Geometry, Piece};
use crate::format::IndexEntry;
use crate::pages::{PAGE_LEN, Page};
use crate::storage::ReadStorage;
use crate::units::{Extent, SECTOR_BYTES};

/// Something that a check of one of these formats noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// Bits are set behind the last one that stands for something. No reader looks at them.
    StrayBits {
        /// How many, as far as the last byte of the bitmap.
        bits: u64,
    },
    /// Bits say that data are there, but the storage ends before them. Reads of them fail.
    DataMissing {
        /// The first sector that is missing.
        sector: u64,
        /// How many sectors are missing.
        sectors: u64,
    },
    /// The last sectors of the disk have no bit: they always read from below, and writes to them
    /// are refused. UML versions 1 and 2 round their bitmap down [COW 1.2].
    NoBit {
        /// How many sectors.
        sectors: u64,
    },
    /// The path of the parent is empty.
    NoPath,
    /// The path of the parent fills its field without an end.
    EndlessPath,
    /// The image was not closed in order by this program. All acknowledged writes are in it.
    Unclean,
    /// The image was not closed in order, and bits of data that are in it may be missing.
    Dirty {
        /// Units with data but without a bit.
        unlisted: u64,
    },
    /// The header counts other data units than the bitmap has.
    WrongCount {
        /// According to the header.
        recorded: u64,
        /// According to the bitmap.
        found: u64,
    },
}

impl Finding {
    /// True if data are lost or cannot be trusted.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::DataMissing { .. } | Self::Dirty { .. } | Self::WrongCount { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StrayBits { bits } => {
                write!(f, "{bits} bits are set behind the end of the disk; nobody reads them")
            }
            Self::DataMissing { sector, sectors } => write!(
                f,
                "the image ends before {sectors} sectors that it should hold, from {sector} on"
            ),
            Self::NoBit { sectors } => write!(
                f,
                "the last {sectors} sectors of the disk have no bit: they cannot be written"
            ),
            Self::NoPath => f.write_str("the path of the parent is empty"),
            Self::EndlessPath => f.write_str("the path of the parent has no end"),
            Self::Unclean => {
                f.write_str("the image was not closed; every acknowledged write is in it")
            }
            Self::Dirty { unlisted } => write!(
                f,
                "the image was not closed in order: {unlisted} units have data but no bit"
            ),
            Self::WrongCount { recorded, found } => {
                write!(f, "the header counts {recorded} data units, the bitmap has {found}")
            }
        }
    }
}

/// What a check counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The layout.
    pub geometry: Geometry,
    /// Sectors that the image holds.
    pub data_sectors: u64,
    /// Findings that put the content of the disk in doubt.
    pub errors: u64,
    /// Findings that do not.
    pub warnings: u64,
}

impl Report {
    /// No error was found; warnings do not count.
    pub const fn is_clean(&self) -> bool {
        self.errors == 0
    }
}

/// Counts findings on their way to the caller.
pub(crate) struct Judged<F> {
    found: F,
    errors: u64,
    warnings: u64,
}

impl<F: FnMut(Finding)> Judged<F> {
    pub(crate) const fn new(found: F) -> Self {
        Self { found, errors: 0, warnings: 0 }
    }

    pub(crate) fn tell(&mut self, finding: Finding) {
        let count = if finding.is_damage() { &mut self.errors } else { &mut self.warnings };
        *count = count.saturating_add(1);
        (self.found)(finding);
    }

    /// The end of a check that counted so many sectors whose bit is set.
    pub(crate) fn report(self, geometry: Geometry, data_sectors: u64) -> Report {
        Report { geometry, data_sectors, errors: self.errors, warnings: self.warnings }
    }
}

/// Reads the pages of a bitmap one after the other; `each` gets the page's number, its bits that
/// stand for units, and the page with zeros behind the bitmap's end.
fn each_page<S: ReadStorage, E: From<S::Error>>(
    storage: &S,
    geometry: &Geometry,
    scratch: &mut Page,
    mut each: impl FnMut(u64, usize, &mut [u8; PAGE_LEN]) -> Result<(), E>,
) -> Result<(), E> {
    for page in 0..geometry.pages() {
        read_page(storage, geometry, page, scratch)?;
        let before = page.saturating_mul(PAGE_BITS as u64);
        let left = geometry.units().saturating_sub(before);
        let here = usize::try_from(left).unwrap_or(PAGE_BITS).min(PAGE_BITS);
        each(page, here, scratch.as_bytes_mut())?;
    }
    Ok(())
}

/// Reads a page of a bitmap, with zeros behind the bitmap's end.
pub(crate) fn read_page<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    page: u64,
    scratch: &mut Page,
) -> Result<(), S::Error> {
    let bytes = scratch.as_bytes_mut();
    let Some((offset, len)) = geometry.page_range(page) else {
        bytes.fill(0);
        return Ok(());
    };
    let len = usize::try_from(len).unwrap_or(PAGE_LEN);
    if let Some((held, behind)) = bytes.split_at_mut_checked(len) {
        behind.fill(0);
        storage.read_at(offset, held)?;
    }
    Ok(())
}

/// Counts the sectors that an image holds whose data storage has `end` bytes, and reports bits that
/// stand for nothing or for data that are not there. (For data that lie where they would in a full
/// image; packed ones have no use for `end`.)
pub(crate) fn judge<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    end: u64,
    scratch: &mut Page,
    judged: &mut Judged<impl FnMut(Finding)>,
) -> Result<u64, S::Error> {
    let mut stray = 0_u64;
    each_page(storage, geometry, scratch, |_page, here, bytes| {
        stray = stray.saturating_add(bits::count(bytes, here, PAGE_BITS) as u64);
        Ok::<_, S::Error>(())
    })?;
    let unmapped = geometry.sectors().saturating_sub(geometry.mapped_sectors());
    if unmapped > 0 {
        judged.tell(Finding::NoBit { sectors: unmapped });
    }
    if stray > 0 {
        judged.tell(Finding::StrayBits { bits: stray });
    }
    if let Some((sector, sectors)) = first_missing(storage, geometry, end, scratch)? {
        judged.tell(Finding::DataMissing { sector, sectors });
    }
    data_sectors(storage, geometry, scratch)
}

/// The first sector whose bit is set although none of it is in a data storage of `end` bytes, and
/// how many there are. Reads nothing if the storage is long enough for all.
pub(crate) fn first_missing<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    end: u64,
    scratch: &mut Page,
) -> Result<Option<(u64, u64)>, S::Error> {
    let held = end.saturating_sub(geometry.data_offset()).div_ceil(SECTOR_BYTES);
    let all = Extent::new(0, geometry.mapped_sectors()).unwrap_or(Extent::EMPTY);
    let mut runs = Runs { geometry: *geometry, rest: all.from(held), loaded: None };
    let (mut first, mut sectors) = (None, 0_u64);
    while let Some((extent, _)) = runs.next(storage, scratch)? {
        first = first.or(Some(extent.start().get()));
        sectors = sectors.saturating_add(extent.sectors());
    }
    Ok(first.map(|first| (first, sectors)))
}

/// The ranges of the disk that an image holds, in ascending order, each within a page of the bitmap.
#[derive(Clone, Debug)]
pub struct Runs {
    geometry: Geometry,
    rest: Extent,
    loaded: Option<u64>,
}

impl Runs {
    /// Of an image that was opened.
    pub fn new(geometry: Geometry) -> Self {
        let rest = Extent::new(0, geometry.mapped_sectors()).unwrap_or(Extent::EMPTY);
        Self { geometry, rest, loaded: None }
    }

    /// The next range, and the byte of the data storage where its first sector is (unless the data
    /// are packed). `None` at the end. `storage` holds the bitmap; `scratch` must not be used for
    /// anything else meanwhile.
    ///
    /// # Errors
    /// The medium's.
    pub fn next<S: ReadStorage>(
        &mut self,
        storage: &S,
        scratch: &mut Page,
    ) -> Result<Option<(Extent, u64)>, S::Error> {
        while !self.rest.is_empty() {
            let piece = Piece::of(&self.geometry, self.rest);
            if self.loaded != Some(piece.page) {
                read_page(storage, &self.geometry, piece.page, scratch)?;
                self.loaded = Some(piece.page);
            }
            let (set, units) = bits::run(scratch.as_bytes(), piece.first, piece.units);
            let part = piece.part(units);
            self.rest = self.rest.skip(part.sectors().max(1));
            if set {
                return Ok(Some((part, self.geometry.sector_offset(part.start()))));
            }
        }
        Ok(None)
    }
}

/// Counts the sectors that an image holds. Reads the whole bitmap, which is in `storage`.
///
/// # Errors
/// The medium's.
pub fn data_sectors<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    scratch: &mut Page,
) -> Result<u64, S::Error> {
    let (mut runs, mut sectors) = (Runs::new(*geometry), 0_u64);
    while let Some((extent, _)) = runs.next(storage, scratch)? {
        sectors = sectors.saturating_add(extent.sectors());
    }
    Ok(sectors)
}

/// Entries of index memory that packed data need: two pages of the bitmap each.
pub(crate) fn ranks_needed(geometry: &Geometry) -> u64 {
    geometry.pages().div_ceil(2)
}

/// Fills index memory with what [`Frozen`](super::Frozen) needs to find packed data, and gives the
/// number of units that are there. Entries that the memory lacks are left out.
///
/// # Errors
/// The medium's.
pub fn fill_ranks<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    index: &mut [IndexEntry],
    scratch: &mut Page,
) -> Result<u64, S::Error> {
    let mut units = 0_u64;
    each_page(storage, geometry, scratch, |page, here, bytes| {
        let entry = usize::try_from(page / 2).ok().and_then(|at| index.get_mut(at));
        if let Some(entry) = entry {
            let word = if page.is_multiple_of(2) { &mut entry.key } else { &mut entry.value };
            *word = units;
        }
        units = units.saturating_add(bits::count(bytes, 0, here) as u64);
        Ok::<_, S::Error>(())
    })?;
    Ok(units)
}
