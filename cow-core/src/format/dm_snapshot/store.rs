//! Making, opening and emptying a store, over the blocking storage traits.

use super::error::{
    CreateError, Fault, HeaderFault, LoadError, OpenError, RollbackError, WalkError,
};
use super::geometry::{FIRST_DATA_CHUNK, Geometry, MAX_CHUNK_SECTORS};
use super::index::{self, BitSet, Mapped, index_needed};
use super::walk::{Exception, Survey, for_each_usable, survey};
use crate::format::IndexEntry;
use crate::storage::{ReadStorage, Storage};
use crate::units::{SECTOR_BYTES, SECTOR_LEN};

/// Smallest scratch buffer, in bytes. A chunk's worth saves reads.
pub const SCRATCH_MIN_LEN: usize = SECTOR_LEN;

/// `SnAp`
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;
/// Bytes of the header that say something.
const HEADER_BYTES: u64 = 16;
/// Byte of the header with the word that says whether the store is valid.
pub(super) const VALID_OFFSET: u64 = 4;

/// The four words of the header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    magic: u32,
    valid: u32,
    version: u32,
    chunk_sectors: u32,
}

impl Header {
    fn parse(bytes: &[u8; SECTOR_LEN]) -> Self {
        let mut words = bytes
            .chunks_exact(4)
            .map(|word| word.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word)));
        let mut next = || words.next().unwrap_or(0);
        Self { magic: next(), valid: next(), version: next(), chunk_sectors: next() }
    }

    /// Into the first 16 bytes; the others stay.
    fn emit(self, bytes: &mut [u8; SECTOR_LEN]) {
        let words = [self.magic, self.valid, self.version, self.chunk_sectors];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            for (target, byte) in target.iter_mut().zip(word.to_le_bytes()) {
                *target = byte;
            }
        }
    }

    pub(super) const fn is_invalidated(&self) -> bool {
        self.valid == 0
    }

    /// The sizes, if the header is one. A zero first word is accepted where `blank` is true.
    pub(super) fn geometry(
        &self,
        len: u64,
        disk_sectors: u64,
        blank: bool,
    ) -> Result<Geometry, HeaderFault> {
        if self.magic == 0 && !(blank && self.version == VERSION) {
            return Err(HeaderFault::Blank);
        }
        if self.magic != MAGIC && self.magic != 0 {
            return Err(HeaderFault::NotAStore { first_word: self.magic });
        }
        if len < HEADER_BYTES {
            return Err(HeaderFault::TooShort { needed: HEADER_BYTES, len });
        }
        if self.version != VERSION {
            return Err(HeaderFault::Version { found: self.version });
        }
        let sectors = self.chunk_sectors;
        if !is_chunk_size(sectors) {
            return Err(HeaderFault::ChunkSize { sectors });
        }
        let Some(geometry) = Geometry::new(sectors, len, disk_sectors) else {
            return Err(HeaderFault::DiskSize { sectors: disk_sectors });
        };
        let needed = geometry.chunk_offset(FIRST_DATA_CHUNK);
        if len < needed {
            return Err(HeaderFault::TooShort { needed, len });
        }
        Ok(geometry)
    }
}

const fn is_chunk_size(sectors: u32) -> bool {
    sectors.is_power_of_two() && sectors <= MAX_CHUNK_SECTORS
}

/// True if these are the first bytes of a store.
pub fn is_store(first: &[u8; 4]) -> bool {
    u32::from_le_bytes(*first) == MAGIC
}

/// The header of a storage and its length. What a storage shorter than a sector lacks reads as zeros.
pub(super) fn read_header<S: ReadStorage>(
    storage: &S,
    bytes: &mut [u8; SECTOR_LEN],
) -> Result<(Header, u64), S::Error> {
    let len = storage.len_bytes()?;
    let there = usize::try_from(len).unwrap_or(SECTOR_LEN).min(SECTOR_LEN);
    if let Some(part) = bytes.get_mut(..there) {
        storage.read_at(0, part)?;
    }
    Ok((Header::parse(bytes), len))
}

/// Makes an empty store of the whole storage; its length, rounded down to chunks, is its room.
///
/// A power cut leaves a storage that begins with zeros, which the kernel and [`open`] take as
/// unused: the header is written last.
///
/// # Errors
/// See [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    chunk_sectors: u32,
) -> Result<(), CreateError<S::Error>> {
    if !is_chunk_size(chunk_sectors) {
        return Err(CreateError::ChunkSize { sectors: chunk_sectors });
    }
    let mut sector = [0; SECTOR_LEN];
    let (old, len) = read_header(storage, &mut sector).map_err(CreateError::Storage)?;
    let chunk_bytes = u64::from(chunk_sectors).saturating_mul(SECTOR_BYTES);
    let needed = chunk_bytes.saturating_mul(FIRST_DATA_CHUNK.saturating_add(1));
    if len < needed {
        return Err(CreateError::TooShort { needed, len });
    }
    if old.magic != 0 {
        return Err(CreateError::Occupied { first_word: old.magic });
    }
    storage.zero_at(0, chunk_bytes.saturating_mul(2)).map_err(CreateError::Storage)?;
    // The kernel believes area 0 as soon as it sees the header.
    storage.sync().map_err(CreateError::Storage)?;
    let mut sector = [0; SECTOR_LEN];
    Header { magic: MAGIC, valid: 1, version: VERSION, chunk_sectors }.emit(&mut sector);
    storage.write_at(0, &sector).map_err(CreateError::Storage)?;
    storage.sync().map_err(CreateError::Storage)
}

/// Gives up whatever the storage holds, so that [`create`] takes it: its first sector becomes zero.
///
/// # Errors
/// The medium's.
pub fn unmark<S: Storage>(storage: &mut S) -> Result<(), S::Error> {
    storage.write_at(0, &[0; SECTOR_LEN])?;
    storage.sync()
}

/// A store whose list of exceptions was read once and found good on its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    geometry: Geometry,
    store_sectors: u64,
    invalidated: bool,
    survey: Survey,
}

/// Sectors in use, as the kernel's status line gives them: `allocated/total metadata`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Up to the end of the highest chunk in use.
    pub allocated: u64,
    /// All of the store.
    pub total: u64,
    /// The header and the areas begun.
    pub metadata: u64,
}

impl Opened {
    /// Sizes of the store and the disk.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Number of exceptions: chunks of the disk that the store holds.
    pub const fn exceptions(&self) -> u64 {
        self.survey.exceptions
    }

    /// Entries of index memory to read the store. A store that is written to needs more, at most
    /// [`index_needed`]`(`[`Geometry::capacity`]`())`.
    pub const fn index_needed(&self) -> u64 {
        index_needed(self.survey.exceptions)
    }

    /// The header says invalid.
    pub const fn is_invalidated(&self) -> bool {
        self.invalidated
    }

    /// Where the list ends, in bytes of the store, if old bytes lie behind it in its area: see
    /// [`clear_stale`].
    pub const fn stale(&self) -> Option<u64> {
        self.survey.stale
    }

    /// Sectors in use.
    pub fn usage(&self) -> Usage {
        let areas = self.geometry.area_of(self.survey.exceptions).saturating_add(1);
        let sectors = |chunks: u64| chunks.saturating_mul(self.geometry.chunk_sectors());
        Usage {
            allocated: sectors(self.next_free()),
            total: self.store_sectors,
            metadata: sectors(areas.saturating_add(1)),
        }
    }

    /// The chunk to allocate next: behind the highest in use, as the kernel does.
    pub(super) fn next_free(&self) -> u64 {
        let next = self.survey.highest.saturating_add(1);
        if self.geometry.is_metadata(next) { next.saturating_add(1) } else { next }
    }
}

/// Reads the header and the whole list of exceptions of a store over a disk of `disk_sectors`
/// sectors, and verifies each exception on its own. Nothing in a store says which disk it belongs
/// to, nor how large that is.
///
/// # Errors
/// See [`OpenError`]; among them a store that is marked invalid.
pub fn open<S: ReadStorage>(
    storage: &S,
    disk_sectors: u64,
    scratch: &mut [u8],
) -> Result<Opened, OpenError<S::Error>> {
    let opened = open_even_invalidated(storage, disk_sectors, scratch)?;
    if opened.invalidated {
        return Err(OpenError::Fault { fault: Fault::Invalidated });
    }
    Ok(opened)
}

/// As [`open`], but also a store that is marked invalid: to save what it holds. It was complete
/// until the kernel marked it, and lacks whatever was written later.
///
/// # Errors
/// See [`OpenError`].
pub fn open_even_invalidated<S: ReadStorage>(
    storage: &S,
    disk_sectors: u64,
    scratch: &mut [u8],
) -> Result<Opened, OpenError<S::Error>> {
    let mut sector = [0; SECTOR_LEN];
    let (header, len) = read_header(storage, &mut sector).map_err(OpenError::Storage)?;
    let geometry = header.geometry(len, disk_sectors, false)?;
    let survey = survey(storage, geometry, scratch, Err).map_err(|error| match error {
        WalkError::BufferTooSmall { needed } => OpenError::BufferTooSmall { needed },
        WalkError::Fault { fault } => OpenError::Fault { fault },
        WalkError::Storage(error) => OpenError::Storage(error),
    })?;
    let store_sectors = len / SECTOR_BYTES;
    Ok(Opened { geometry, store_sectors, invalidated: header.is_invalidated(), survey })
}

/// Makes everything behind the end of the list zero, up to the end of its area, if
/// [`Opened::stale`] says that it is not. Needed before writing: a power cut may have left
/// exceptions there that were never acknowledged, and appending would bring them back to life.
///
/// # Errors
/// The medium's; the store is as good as before.
pub fn clear_stale<S: Storage>(storage: &mut S, opened: &mut Opened) -> Result<(), S::Error> {
    let Some(end) = opened.survey.stale else { return Ok(()) };
    let (sector_at, keep) = (end & !(SECTOR_BYTES - 1), end & (SECTOR_BYTES - 1));
    let mut sector = [0; SECTOR_LEN];
    storage.read_at(sector_at, &mut sector)?;
    for byte in sector.iter_mut().skip(usize::try_from(keep).unwrap_or(usize::MAX)) {
        *byte = 0;
    }
    storage.write_at(sector_at, &sector)?;
    let rest = sector_at.saturating_add(SECTOR_BYTES);
    let geometry = opened.geometry;
    let area = geometry.area_chunk(geometry.area_of(opened.survey.exceptions));
    let area_end = geometry.chunk_offset(area).saturating_add(geometry.chunk_bytes());
    storage.zero_at(rest, area_end.saturating_sub(rest))?;
    storage.sync()?;
    opened.survey.stale = None;
    Ok(())
}

/// A store whose index is filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loaded(Opened);

impl Loaded {
    /// What was opened.
    pub const fn opened(&self) -> &Opened {
        &self.0
    }

    /// Sizes of the store and the disk.
    pub const fn geometry(&self) -> Geometry {
        self.0.geometry
    }
}

/// Fills the index memory from the list, and refuses chunks that are there twice. Nobody may have
/// written to the store since it was opened.
///
/// # Errors
/// See [`LoadError`].
pub fn load_index<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    index: &mut [IndexEntry],
    scratch: &mut [u8],
) -> Result<Loaded, LoadError<S::Error>> {
    let needed = opened.index_needed();
    if (index.len() as u64) < needed {
        return Err(LoadError::IndexTooSmall { needed });
    }
    let (geometry, survey) = (opened.geometry, &opened.survey);
    let usable = find_doubles(storage, geometry, survey, index, scratch, Err)
        .and_then(|()| fill_index(storage, geometry, survey, index, scratch, Err));
    match usable {
        Ok(usable) if usable == opened.exceptions() => Ok(Loaded(*opened)),
        Ok(_) => Err(LoadError::Changed { opened: opened.exceptions() }),
        Err(WalkError::BufferTooSmall { needed }) => Err(LoadError::BufferTooSmall { needed }),
        Err(WalkError::Fault { fault }) => Err(LoadError::Fault { fault }),
        Err(WalkError::Storage(error)) => Err(LoadError::Storage(error)),
    }
}

/// Reports chunks of the store that are in the list twice; `index` serves as a set of bits.
pub(super) fn find_doubles<S: ReadStorage>(
    storage: &S,
    geometry: Geometry,
    survey: &Survey,
    index: &mut [IndexEntry],
    scratch: &mut [u8],
    mut report: impl FnMut(Fault) -> Result<(), Fault>,
) -> Result<(), WalkError<S::Error>> {
    let mut seen = BitSet(index);
    let mut first = 0_u64;
    // Nearly always one round; more only if the chunks in use lie far apart.
    while !survey.ascending && first <= survey.highest && seen.limit() > 0 {
        seen.clear();
        for_each_usable(storage, geometry, survey.exceptions, scratch, |_, exception| {
            let store_chunk = exception.store_chunk;
            match store_chunk.checked_sub(first) {
                Some(number) if seen.insert(number) => {
                    report(Fault::StoreChunkTwice { offset: exception.offset, store_chunk })
                }
                _ => Ok(()),
            }
        })?;
        first = first.saturating_add(seen.limit());
    }
    Ok(())
}

/// Fills the index and reports chunks of the disk that are in the list twice. Gives the number of
/// usable exceptions.
pub(super) fn fill_index<S: ReadStorage>(
    storage: &S,
    geometry: Geometry,
    survey: &Survey,
    index: &mut [IndexEntry],
    scratch: &mut [u8],
    mut report: impl FnMut(Fault) -> Result<(), Fault>,
) -> Result<u64, WalkError<S::Error>> {
    index.fill(IndexEntry::EMPTY);
    for_each_usable(storage, geometry, survey.exceptions, scratch, |number, exception| {
        let Exception { offset, disk_chunk, store_chunk } = exception;
        if index::find(index, disk_chunk).is_some() {
            return report(Fault::DiskChunkTwice { offset, disk_chunk });
        }
        let _always_fits = index::put(index, disk_chunk, Mapped::listed(store_chunk, number));
        Ok(())
    })
}

/// Marks a store invalid, as the kernel does when a store of persistence `P` is full: neither the
/// kernel nor [`open`] takes it any more. What it holds stays readable with
/// [`open_even_invalidated`], and [`rollback`] makes it usable again.
///
/// # Errors
/// See [`RollbackError`].
pub fn invalidate<S: Storage>(storage: &mut S) -> Result<(), RollbackError<S::Error>> {
    let mut sector = [0; SECTOR_LEN];
    let (header, len) = read_header(storage, &mut sector).map_err(RollbackError::Storage)?;
    header.geometry(len, 1, false).map_err(|reason| RollbackError::Header { reason })?;
    Header { valid: 0, ..header }.emit(&mut sector);
    storage.write_at(0, &sector).map_err(RollbackError::Storage)?;
    storage.sync().map_err(RollbackError::Storage)
}

/// Empties a store: everything reads from below again, and all its room is free. Also a store that
/// is marked invalid, and one whose emptying was cut short.
///
/// The store is marked invalid in between, so that the kernel and [`open`] refuse it, and everybody
/// still sees what it is: at no moment is a part of the content visible, or the store taken for
/// something else.
///
/// # Errors
/// See [`RollbackError`]; after a failure of the storage, call it again.
pub fn rollback<S: Storage>(storage: &mut S) -> Result<(), RollbackError<S::Error>> {
    let mut sector = [0; SECTOR_LEN];
    let (header, len) = read_header(storage, &mut sector).map_err(RollbackError::Storage)?;
    let geometry =
        header.geometry(len, 1, true).map_err(|reason| RollbackError::Header { reason })?;
    empty(storage, header, geometry, &mut sector).map_err(RollbackError::Storage)
}

fn empty<S: Storage>(
    storage: &mut S,
    header: Header,
    geometry: Geometry,
    sector: &mut [u8; SECTOR_LEN],
) -> Result<(), S::Error> {
    // The other words stay, so that a second call finds the chunk size.
    Header { magic: MAGIC, valid: 0, ..header }.emit(sector);
    storage.write_at(0, sector)?;
    storage.sync()?;
    let area = geometry.chunk_bytes();
    storage.zero_at(area, area)?;
    storage.sync()?;
    Header { magic: MAGIC, valid: 1, ..header }.emit(sector);
    storage.write_at(0, sector)?;
    storage.sync()?;
    let data = geometry.chunk_offset(FIRST_DATA_CHUNK);
    let end = geometry.chunk_offset(geometry.store_chunks());
    storage.punch(data, end.saturating_sub(data))
}
