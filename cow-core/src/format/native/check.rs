//! Reading all metadata: a consistency report, and the map of a frozen layer.

use core::fmt;

use super::geometry::{Geometry, PAGE_SECTORS, SECTORS_PER_PAGE, STATES_LEN};
use super::image::{OpenError, Opened, open};
use super::page::{self, FELL_BACK, Rules};
use super::states;
use crate::format::Load;
use crate::pages::Page;
use crate::storage::ReadStorage;

/// Something that [`check`] noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// One header slot is not valid; the other serves. Any change of the header repairs it.
    HeaderSlot,
    /// The latest session did not end in order.
    Unclean,
    /// One slot of a page is torn; the other serves. The next change of the page repairs it.
    TornSlot {
        /// Index of the page.
        page: u64,
    },
    /// Reads of the sectors of a page fail: its slots are not what power cuts can leave.
    CorruptPage {
        /// Index of the page.
        page: u64,
        /// Byte offset in the image.
        offset: u64,
    },
    /// Sectors of a page have the impossible state.
    CorruptStates {
        /// Index of the page.
        page: u64,
        /// How many sectors.
        sectors: u64,
    },
    /// A page has states for sectors behind the end of the disk.
    BehindEnd {
        /// Index of the page.
        page: u64,
    },
    /// The header counts other data sectors than the pages have.
    WrongCount {
        /// According to the header.
        recorded: u64,
        /// According to the pages.
        found: u64,
    },
}

impl Finding {
    /// True if data are lost or cannot be trusted; false for what a power cut explains.
    pub const fn is_damage(self) -> bool {
        !matches!(self, Self::HeaderSlot | Self::Unclean | Self::TornSlot { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderSlot => f.write_str("one header slot is not valid"),
            Self::Unclean => f.write_str("the image was not closed in order"),
            Self::TornSlot { page } => write!(f, "page {page}: one slot is torn"),
            Self::CorruptPage { page, offset } => write!(f, "page {page}: corrupt at {offset}"),
            Self::CorruptStates { page, sectors } => {
                write!(f, "page {page}: {sectors} sectors of impossible state")
            }
            Self::BehindEnd { page } => write!(f, "page {page}: states behind the disk's end"),
            Self::WrongCount { recorded, found } => {
                write!(f, "{found} data sectors, but the header counts {recorded}")
            }
        }
    }
}

/// What [`check`] counted. Sectors of corrupt pages are in no count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Sectors in the data area.
    pub data: u64,
    /// Sectors that read as zeros.
    pub zero: u64,
    /// Sectors that read from below.
    pub absent: u64,
    /// Pages of which one slot is torn.
    pub torn: u64,
    /// Pages that cannot be read.
    pub corrupt: u64,
}

/// Why not all metadata were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CheckError<E> {
    /// The image was not even opened.
    Open(OpenError<E>),
    /// The lent memory is too small.
    BufferTooSmall {
        /// Bytes needed; `u64::MAX` if this machine cannot address them.
        needed: u64,
    },
    /// A page is corrupt at this byte of the image.
    Corrupt {
        /// Byte offset in the image.
        offset: u64,
    },
    /// The medium failed at this byte.
    Storage {
        /// Byte offset in the image.
        offset: u64,
        /// The medium's error.
        error: E,
    },
}

impl<E> fmt::Display for CheckError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => e.fmt(f),
            Self::BufferTooSmall { needed } => write!(f, "the map needs {needed} bytes"),
            Self::Corrupt { offset } => write!(f, "metadata are corrupt at byte {offset}"),
            Self::Storage { offset, .. } => write!(f, "the medium failed at byte {offset}"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for CheckError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Open(e) => e.source(),
            Self::Storage { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// A page as lookups see it, in `scratch`.
enum Loaded {
    Ready { fell_back: bool },
    Corrupt { offset: u64 },
}

/// The engine's loading steps, one after the other.
fn load_page<S: ReadStorage>(
    storage: &S,
    (geometry, rules): (Geometry, Rules),
    page: u64,
    scratch: &mut Page,
) -> Result<Loaded, CheckError<S::Error>> {
    let mut note = 0;
    for step in 0..=u8::MAX {
        match rules.load(geometry, page, step, &mut note, scratch.as_bytes_mut()) {
            Load::Ready => return Ok(Loaded::Ready { fell_back: note & FELL_BACK != 0 }),
            Load::Corrupt { offset } => return Ok(Loaded::Corrupt { offset }),
            Load::Read { offset, .. } => storage
                .read_at(offset, scratch.as_bytes_mut())
                .map_err(|error| CheckError::Storage { offset, error })?,
        }
    }
    Ok(Loaded::Corrupt { offset: geometry.slot_offset(page, 0) })
}

/// Reads every page and reports what is not in order, in the order of the image. Writes nothing;
/// nobody else may write meanwhile.
///
/// # Errors
/// [`CheckError::Open`] and [`CheckError::Storage`]; everything else is a finding.
pub fn check<S: ReadStorage>(
    storage: &S,
    scratch: &mut Page,
    found: &mut impl FnMut(Finding),
) -> Result<Report, CheckError<S::Error>> {
    let opened = open(storage, scratch).map_err(CheckError::Open)?;
    let header = opened.header();
    if !opened.whole {
        found(Finding::HeaderSlot);
    }
    if !header.clean {
        found(Finding::Unclean);
    }
    let geometry = header.geometry;
    let mut report = Report::default();
    for page in 0..geometry.pages() {
        match load_page(storage, (geometry, header.rules()), page, scratch)? {
            Loaded::Corrupt { offset } => {
                report.corrupt = report.corrupt.saturating_add(1);
                found(Finding::CorruptPage { page, offset });
            }
            Loaded::Ready { fell_back } => {
                if fell_back {
                    report.torn = report.torn.saturating_add(1);
                    found(Finding::TornSlot { page });
                }
                count_page(geometry, page, scratch, &mut report, found);
            }
        }
    }
    if let Some(recorded) = header.data_sectors.filter(|_| header.clean && report.corrupt == 0)
        && recorded != report.data
    {
        found(Finding::WrongCount { recorded, found: report.data });
    }
    Ok(report)
}

fn count_page(
    geometry: Geometry,
    page: u64,
    bytes: &Page,
    report: &mut Report,
    found: &mut impl FnMut(Finding),
) {
    let states = page::states(bytes.as_bytes());
    let left = geometry.sectors().saturating_sub(page.saturating_mul(SECTORS_PER_PAGE));
    let here = usize::try_from(left).unwrap_or(PAGE_SECTORS).min(PAGE_SECTORS);
    let counts = states::count(states, 0, here);
    let (data, zero, corrupt) = (counts.data as u64, counts.zero as u64, counts.corrupt as u64);
    report.data = report.data.saturating_add(data);
    report.zero = report.zero.saturating_add(zero);
    let absent = (here as u64).saturating_sub(data).saturating_sub(zero).saturating_sub(corrupt);
    report.absent = report.absent.saturating_add(absent);
    if corrupt > 0 {
        found(Finding::CorruptStates { page, sectors: corrupt });
    }
    let behind = states::count(states, here, PAGE_SECTORS.saturating_sub(here));
    if behind != states::Counts::default() {
        found(Finding::BehindEnd { page });
    }
}

/// Bytes of memory for the map of a frozen layer of `sectors` sectors: 4,032 for each 16,128
/// sectors. `None` for an impossible size, or one that this machine cannot address.
pub const fn map_len(sectors: u64) -> Option<usize> {
    let Some(geometry) = Geometry::new(sectors) else { return None };
    let len = geometry.pages().wrapping_mul(STATES_LEN as u64);
    if len > MAP_LIMIT {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "compared with the limit of isize above")]
    let len = len as usize;
    Some(len)
}

/// Largest object in memory.
const MAP_LIMIT: u64 = isize::MAX as u64;

/// Fills the map of a frozen layer, for [`Frozen::with_map`](super::Frozen::with_map).
///
/// # Errors
/// [`CheckError`]; `map` then holds anything.
pub fn load_map<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    map: &mut [u8],
    scratch: &mut Page,
) -> Result<(), CheckError<S::Error>> {
    let header = opened.header();
    let geometry = header.geometry;
    let needed = map_len(geometry.sectors());
    if needed != Some(map.len()) {
        let needed = needed.map_or(u64::MAX, |n| n as u64);
        return Err(CheckError::BufferTooSmall { needed });
    }
    for (page, part) in (0..geometry.pages()).zip(map.as_chunks_mut::<STATES_LEN>().0) {
        match load_page(storage, (geometry, header.rules()), page, scratch)? {
            Loaded::Corrupt { offset } => return Err(CheckError::Corrupt { offset }),
            Loaded::Ready { .. } => {
                for (to, from) in part.iter_mut().zip(page::states(scratch.as_bytes())) {
                    *to = *from;
                }
            }
        }
    }
    Ok(())
}
