//! Reading all tables: a consistency report, and what can be repaired without losing anything.
//!
//! Use of the file is marked in two bits a sector of memory that the caller lends. (Tables and
//! clusters lie on sectors, but not always on clusters.) Where that is less than the file needs, the
//! tables are walked once for each part of the file.

use core::fmt;

use super::geometry::ENTRY_BYTES;
use super::image::{Opened, UpdateError, open, prepare};
use super::volume::{Entry, Volume};
use super::walk::{Step, Walk};
use crate::pages::{PAGE_LEN, Page};
use crate::storage::{ReadStorage, Storage};
use crate::units::SECTOR_BYTES;

/// Something that [`check`] noticed. Entries are named by their byte offsets in the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// The entry names an L2 table behind the end of the file, which reads as absent: the reference
    /// was cut off before it wrote the table.
    TableMissing {
        /// Of the entry.
        entry: u64,
        /// Where the table would be.
        table: u64,
    },
    /// The entry names an L2 table where none can be: in the header, in the L1 table, or not on a
    /// sector. Reads of its clusters fail.
    TableImpossible {
        /// Of the entry.
        entry: u64,
        /// Where the table would be.
        table: u64,
    },
    /// The L2 table of the entry lies where something else does.
    TableTwice {
        /// Of the entry.
        entry: u64,
        /// Where the table is.
        table: u64,
    },
    /// The entry names a cluster behind the end of the file. Reads of it fail.
    ClusterMissing {
        /// Of the entry.
        entry: u64,
        /// Where the cluster would be.
        offset: u64,
    },
    /// The end of the file cuts the compressed cluster of the entry off. Reads of it fail, unless the
    /// compressed bytes happen to end before.
    ClusterCut {
        /// Of the entry.
        entry: u64,
        /// Where the cluster is.
        offset: u64,
    },
    /// The entry names a cluster where none can be: in the header, in the L1 table, or not on a
    /// sector; or it is compressed to nothing. Reads of it fail.
    ClusterImpossible {
        /// Of the entry.
        entry: u64,
        /// Where the cluster would be.
        offset: u64,
    },
    /// The cluster of the entry lies where something else does.
    ClusterTwice {
        /// Of the entry.
        entry: u64,
        /// Where the cluster is.
        offset: u64,
    },
    /// Nothing refers to these bytes: space that is lost.
    Leak {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl Finding {
    /// The content of the disk is in doubt, or will be when it is written to.
    pub const fn is_damage(self) -> bool {
        !matches!(self, Self::Leak { .. } | Self::TableMissing { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableMissing { entry, table } => {
                write!(f, "entry at {entry}: table at {table}, behind the end of the file")
            }
            Self::TableImpossible { entry, table } => {
                write!(f, "entry at {entry}: no table can be at {table}")
            }
            Self::TableTwice { entry, table } => {
                write!(f, "entry at {entry}: the table at {table} is where something else is")
            }
            Self::ClusterMissing { entry, offset } => {
                write!(f, "entry at {entry}: cluster at {offset}, behind the end of the file")
            }
            Self::ClusterCut { entry, offset } => {
                write!(
                    f,
                    "entry at {entry}: the file ends within the compressed cluster at {offset}"
                )
            }
            Self::ClusterImpossible { entry, offset } => {
                write!(f, "entry at {entry}: no cluster can be at {offset}")
            }
            Self::ClusterTwice { entry, offset } => {
                write!(f, "entry at {entry}: the cluster at {offset} is where something else is")
            }
            Self::Leak { offset, len } => write!(f, "{len} bytes at {offset} are lost space"),
        }
    }
}

/// What [`check`] counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// L2 tables.
    pub tables: u64,
    /// Clusters in the file as they are.
    pub clusters: u64,
    /// Compressed clusters.
    pub packed: u64,
    /// Bytes that nothing refers to.
    pub leaked: u64,
    /// Findings that are [damage](Finding::is_damage).
    pub damages: u64,
    /// Findings that [`repair`] has put right; [`check`] leaves them.
    pub repaired: u64,
}

/// Why not all tables were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CheckError<E> {
    /// The image was not even opened, or takes no writes.
    Open(UpdateError<E>),
    /// No memory was lent; see [`check_memory`].
    BufferTooSmall {
        /// Bytes.
        needed: u64,
    },
    /// The medium failed.
    Storage(E),
}

impl<E> fmt::Display for CheckError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => e.fmt(f),
            Self::BufferTooSmall { needed } => write!(f, "the check needs {needed} bytes"),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for CheckError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Open(e) => e.source(),
            Self::Storage(e) => Some(e),
            Self::BufferTooSmall { .. } => None,
        }
    }
}

/// Bytes of memory with which a file of `file_len` bytes is checked in one walk: a 2,048th. With
/// less, down to [`CHECK_MEMORY_MIN`] bytes, the tables are walked several times.
pub const fn check_memory(file_len: u64) -> u64 {
    let bytes = file_len.div_ceil(SECTOR_BYTES).div_ceil(SECTORS_PER_BYTE);
    if bytes < CHECK_MEMORY_MIN { CHECK_MEMORY_MIN } else { bytes }
}

/// Fewest bytes of memory to check with.
pub const CHECK_MEMORY_MIN: u64 = 64;

const SECTORS_PER_BYTE: u64 = 4;

/// Marks of a sector of the file. One that several use, each in part, is `PART` and no fault: the
/// header, the L1 table and compressed clusters are not aligned.
const FREE: u8 = 0;
const PART: u8 = 1;
const WHOLE: u8 = 2;

/// The marks of a part of the file.
struct Marks<'m> {
    memory: &'m mut [u8],
    /// The first sector marked, and the first behind.
    first: u64,
    end: u64,
    /// Bytes in a cluster, a power of two.
    cluster: u64,
    /// The lowest sector behind that anything was found to use.
    beyond: Option<u64>,
    file_len: u64,
}

impl<'m> Marks<'m> {
    fn new<E>(opened: &Opened, memory: &'m mut [u8]) -> Result<Self, CheckError<E>> {
        let file_len = opened.file_len();
        if (memory.len() as u64) < CHECK_MEMORY_MIN {
            return Err(CheckError::BufferTooSmall { needed: check_memory(file_len) });
        }
        let cluster = opened.geometry().cluster_bytes();
        Ok(Self { memory, first: 0, end: 0, cluster, beyond: None, file_len })
    }

    /// Begins a part at sector `first`.
    fn begin(&mut self, first: u64) {
        self.memory.fill(0);
        let sectors = (self.memory.len() as u64).saturating_mul(SECTORS_PER_BYTE);
        self.first = first;
        self.end = first.saturating_add(sectors);
        self.beyond = None;
    }

    fn at(&self, sector: u64) -> (usize, u32) {
        let number = sector.wrapping_sub(self.first);
        let shift = (number % SECTORS_PER_BYTE).wrapping_mul(2);
        let byte = usize::try_from(number / SECTORS_PER_BYTE).unwrap_or(usize::MAX);
        (byte, u32::try_from(shift).unwrap_or(0))
    }

    fn get(&self, sector: u64) -> u8 {
        let (byte, shift) = self.at(sector);
        self.memory.get(byte).map_or(FREE, |b| b.wrapping_shr(shift) & 3)
    }

    /// Marks a range of the file as far as it is in this part; true if something else is there.
    fn claim(&mut self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.file_len);
        let (mut sector, mut twice) = ((offset / SECTOR_BYTES).max(self.first), false);
        while sector.saturating_mul(SECTOR_BYTES) < end {
            if sector >= self.end {
                self.beyond = Some(self.beyond.map_or(sector, |b| b.min(sector)));
                break;
            }
            let start = sector.saturating_mul(SECTOR_BYTES);
            let behind = start.saturating_add(SECTOR_BYTES).min(self.file_len);
            let mark = if offset <= start && end >= behind { WHOLE } else { PART };
            let before = self.get(sector);
            twice |= before != FREE && (before, mark) != (PART, PART);
            let (byte, shift) = self.at(sector);
            if let Some(byte) = self.memory.get_mut(byte) {
                *byte |= mark.wrapping_shl(shift);
            }
            sector = sector.saturating_add(1);
        }
        twice
    }

    /// Tells `leak` of the clusters of this part of which nothing was claimed: offset and length in
    /// bytes. Less than a cluster before one is there because clusters are aligned.
    fn leaks(&self, mut leak: impl FnMut(u64, u64)) {
        let mut tell = |from: u64, to: u64| {
            let offset = from.saturating_mul(SECTOR_BYTES).next_multiple_of(self.cluster.max(1));
            let end = to.saturating_mul(SECTOR_BYTES).min(self.file_len);
            let end =
                if end == self.file_len { end } else { end & !self.cluster.saturating_sub(1) };
            if offset < end {
                leak(offset, end.saturating_sub(offset));
            }
        };
        let mut free_from = None;
        let file_end = self.file_len.div_ceil(SECTOR_BYTES);
        // What lies between this part and the next is free too.
        let marked_end = self.end.min(file_end);
        let next = self.beyond.map_or(file_end, |b| b.min(file_end));
        for sector in self.first..marked_end {
            match (self.get(sector), free_from) {
                (FREE, None) => free_from = Some(sector),
                (FREE, Some(_)) | (_, None) => {}
                (_, Some(from)) => {
                    tell(from, sector);
                    free_from = None;
                }
            }
        }
        let rest = free_from.unwrap_or(marked_end);
        if rest < next {
            tell(rest, next);
        }
    }
}

/// A storage that is looked at, and perhaps changed.
trait Medium {
    type Storage: ReadStorage;

    fn storage(&self) -> &Self::Storage;

    /// Makes the entry 0. False if nothing may be changed.
    fn clear(&mut self, entry: u64) -> Result<bool, Error<Self>>;

    /// Gives the entry a copy of its cluster. False if nothing may be changed.
    fn copy(&mut self, volume: &Volume, entry: u64, offset: u64) -> Result<bool, Error<Self>>;
}

type Error<M> = <<M as Medium>::Storage as embedded_io::ErrorType>::Error;

/// Changes nothing.
struct Look<'s, S>(&'s S);

impl<S: ReadStorage> Medium for Look<'_, S> {
    type Storage = S;

    fn storage(&self) -> &S {
        self.0
    }

    fn clear(&mut self, _entry: u64) -> Result<bool, S::Error> {
        Ok(false)
    }

    fn copy(&mut self, _volume: &Volume, _entry: u64, _offset: u64) -> Result<bool, S::Error> {
        Ok(false)
    }
}

/// Repairs.
struct Mend<'s, S> {
    storage: &'s mut S,
    /// Where copies go.
    next_free: u64,
    page: &'s mut Page,
}

impl<S: Storage> Medium for Mend<'_, S> {
    type Storage = S;

    fn storage(&self) -> &S {
        self.storage
    }

    fn clear(&mut self, entry: u64) -> Result<bool, S::Error> {
        self.storage.write_at(entry, &[0; 8])?;
        Ok(true)
    }

    fn copy(&mut self, volume: &Volume, entry: u64, offset: u64) -> Result<bool, S::Error> {
        let cluster = volume.geometry.cluster_bytes();
        let to = self.next_free;
        let Some(end) = to.checked_add(cluster).filter(|end| *end < i64::MAX.cast_unsigned())
        else {
            return Ok(false);
        };
        let held = volume.len.saturating_sub(offset).min(cluster);
        self.storage.extend(end)?;
        let mut done = 0;
        while done < held {
            let len = usize::try_from(held.wrapping_sub(done)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
            let piece = self.page.as_bytes_mut().get_mut(..len).unwrap_or_default();
            self.storage.read_at(offset.saturating_add(done), piece)?;
            self.storage.write_at(to.saturating_add(done), piece)?;
            done = done.saturating_add(len as u64);
        }
        self.storage.zero_at(to.saturating_add(held), cluster.wrapping_sub(held))?;
        // The entry must never name bytes that are not there.
        self.storage.sync()?;
        self.storage.write_at(entry, &to.to_be_bytes())?;
        self.next_free = end;
        Ok(true)
    }
}

/// Verifies the header and every entry of the tables, and tells `found` what is not in order.
/// Writes nothing; nobody else may write meanwhile. See [`check_memory`] for `memory`.
///
/// # Errors
/// [`CheckError`]; everything else is a finding.
pub fn check<S: ReadStorage>(
    storage: &S,
    memory: &mut [u8],
    scratch: &mut [Page; 2],
    found: &mut impl FnMut(Finding),
) -> Result<Report, CheckError<S::Error>> {
    let opened = open(storage).map_err(|e| CheckError::Open(UpdateError::Open(e)))?;
    let mut report = Report::default();
    let mut marks = Marks::new(&opened, memory)?;
    let mut next = Some(0);
    while let Some(first) = next {
        marks.begin(first);
        examine(&mut Look(storage), &opened, &mut marks, scratch, &mut report, found)
            .map_err(CheckError::Storage)?;
        marks.leaks(|offset, len| {
            report.leaked = report.leaked.saturating_add(len);
            found(Finding::Leak { offset, len });
        });
        next = marks.beyond;
    }
    Ok(report)
}

/// As [`check`], and puts right what can be put right without losing anything:
///
/// - entries that name tables or clusters behind the end of the file become 0: there is nothing;
/// - a cluster that lies where something else does gets a copy of its own, so that both read as
///   before and no write to one changes the other.
///
/// `found` is told of each finding that is left. When no damage is left, lost space is given back
/// to the file system; the file does not become shorter.
///
/// # Errors
/// [`CheckError`]; what was repaired until then stays so. Call it again.
pub fn repair<S: Storage>(
    storage: &mut S,
    memory: &mut [u8],
    scratch: &mut [Page; 3],
    found: &mut impl FnMut(Finding),
) -> Result<Report, CheckError<S::Error>> {
    let [page, pair @ ..] = scratch;
    let opened = open(storage).map_err(|e| CheckError::Open(UpdateError::Open(e)))?;
    let prepared = prepare(storage, &opened, page).map_err(CheckError::Open)?;
    let mut report = Report { repaired: prepared.cleared(), ..Report::default() };
    let mut marks = Marks::new(&opened, memory)?;
    let next_free = prepared.opened().file_len();
    let mut mend = Mend { storage, next_free, page };
    let mut next = Some(0);
    while let Some(first) = next {
        marks.begin(first);
        // By the length that the file had: what was added to it is nobody's cluster.
        examine(&mut mend, &opened, &mut marks, pair, &mut report, found)
            .map_err(CheckError::Storage)?;
        next = marks.beyond;
    }
    let storage = mend.storage;
    storage.sync().map_err(CheckError::Storage)?;
    give_back(storage, memory, pair, &mut report, found)?;
    Ok(report)
}

/// Counts what nothing refers to, and punches it if no damage is left.
fn give_back<S: Storage>(
    storage: &mut S,
    memory: &mut [u8],
    scratch: &mut [Page; 2],
    report: &mut Report,
    found: &mut impl FnMut(Finding),
) -> Result<(), CheckError<S::Error>> {
    let opened = open(storage).map_err(|e| CheckError::Open(UpdateError::Open(e)))?;
    let mut marks = Marks::new(&opened, memory)?;
    let mut next = Some(0);
    while let Some(first) = next {
        marks.begin(first);
        let mut again = Report::default();
        examine(&mut Look(&*storage), &opened, &mut marks, scratch, &mut again, &mut |_| {})
            .map_err(CheckError::Storage)?;
        let mut result = Ok(());
        marks.leaks(|offset, len| {
            report.leaked = report.leaked.saturating_add(len);
            found(Finding::Leak { offset, len });
            if result.is_ok() && report.damages == 0 {
                result = storage.punch(offset, len);
            }
        });
        result.map_err(CheckError::Storage)?;
        next = marks.beyond;
    }
    storage.sync().map_err(CheckError::Storage)
}

/// Walks over all tables and marks what is in the part of the file that `marks` stands for. The
/// first part judges the entries, too.
fn examine<M: Medium>(
    medium: &mut M,
    opened: &Opened,
    marks: &mut Marks<'_>,
    scratch: &mut [Page; 2],
    report: &mut Report,
    found: &mut impl FnMut(Finding),
) -> Result<(), Error<M>> {
    let g = opened.geometry();
    let (name, name_len) = g.name;
    for (offset, len) in [(0, g.header_len), (name, name_len), (g.l1_offset, g.l1_len())] {
        let _they_were_judged_with_the_header = marks.claim(offset, len);
    }
    let mut walk = Walk::new(opened);
    let mut tell = |report: &mut Report, finding: Finding| {
        report.damages = report.damages.saturating_add(finding.is_damage().into());
        found(finding);
    };
    loop {
        match walk.step(medium.storage(), scratch)? {
            Step::End => return Ok(()),
            Step::Missing { offset, entry } if marks.first == 0 => {
                tell(report, Finding::TableMissing { entry: offset, table: entry });
            }
            Step::Corrupt { offset, entry } if marks.first == 0 => {
                tell(report, Finding::TableImpossible { entry: offset, table: entry });
            }
            Step::Missing { .. } | Step::Corrupt { .. } => {}
            Step::Page { page, table } => {
                if g.page_within(page) == 0 {
                    if marks.first == 0 {
                        report.tables = report.tables.saturating_add(1);
                    }
                    if marks.claim(table, g.l2_len()) {
                        let entry = g.l1_entry_offset(g.table_of(page));
                        tell(report, Finding::TableTwice { entry, table });
                        walk.skip_table(page);
                        continue;
                    }
                }
                let at = table.wrapping_add(g.page_within(page));
                let [_, bytes] = &*scratch;
                examine_page(medium, &walk.volume, (at, bytes), marks, report, &mut tell)?;
            }
        }
    }
}

/// The entries of one page, which is at byte `at` of the file.
fn examine_page<M: Medium>(
    medium: &mut M,
    volume: &Volume,
    (at, bytes): (u64, &Page),
    marks: &mut Marks<'_>,
    report: &mut Report,
    tell: &mut impl FnMut(&mut Report, Finding),
) -> Result<(), Error<M>> {
    let first = marks.first == 0;
    for slot in 0..volume.geometry.page_entries() {
        let entry_at = at.wrapping_add((slot as u64).wrapping_mul(ENTRY_BYTES));
        let entry = volume.entry(bytes.as_bytes(), slot);
        let (offset, len) = match entry {
            Entry::Absent => continue,
            Entry::Data(offset) => (offset, volume.geometry.cluster_bytes()),
            Entry::Packed { offset, len } => (offset, len.into()),
        };
        if !volume.is_sound(entry) {
            let finding = if offset >= volume.len {
                Finding::ClusterMissing { entry: entry_at, offset }
            } else {
                Finding::ClusterImpossible { entry: entry_at, offset }
            };
            if first && offset >= volume.len && medium.clear(entry_at)? {
                report.repaired = report.repaired.saturating_add(1);
            } else if first {
                tell(report, finding);
            }
            continue;
        }
        let data = matches!(entry, Entry::Data(_));
        if first {
            let count = if data { &mut report.clusters } else { &mut report.packed };
            *count = count.saturating_add(1);
            if !data && offset.saturating_add(len) > volume.len {
                tell(report, Finding::ClusterCut { entry: entry_at, offset });
            }
        }
        if marks.claim(offset, len) {
            if data && medium.copy(volume, entry_at, offset)? {
                report.repaired = report.repaired.saturating_add(1);
            } else {
                tell(report, Finding::ClusterTwice { entry: entry_at, offset });
            }
        }
    }
    Ok(())
}
