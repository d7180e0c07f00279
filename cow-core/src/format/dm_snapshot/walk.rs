//! Reading the list of exceptions from a store, in order.

use super::error::{Fault, WalkError};
use super::geometry::{ENTRY_BYTES, FIRST_DATA_CHUNK, Geometry};
use super::overlay::words;
use super::store::Opened;
use crate::storage::ReadStorage;
use crate::units::{SECTOR_BYTES, SECTOR_LEN};

/// One exception: a chunk of the disk whose data are in the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exception {
    /// Byte of the store where the exception is.
    pub offset: u64,
    /// Chunk of the disk.
    pub disk_chunk: u64,
    /// Chunk of the store.
    pub store_chunk: u64,
}

/// Walks over the list of a store in the order in which it was written.
#[derive(Debug)]
pub struct Exceptions<'b> {
    geometry: Geometry,
    buffer: &'b mut [u8],
    /// Number of the next exception, and of the first one behind the buffered ones.
    number: u64,
    buffered: u64,
}

impl<'b> Exceptions<'b> {
    /// The list of an opened store. `scratch` is at least
    /// [`SCRATCH_MIN_LEN`](super::SCRATCH_MIN_LEN) bytes; more means fewer reads.
    pub fn new(opened: &Opened, scratch: &'b mut [u8]) -> Self {
        Self::walk(opened.geometry(), scratch)
    }

    pub(super) fn walk(geometry: Geometry, buffer: &'b mut [u8]) -> Self {
        Self { geometry, buffer, number: 0, buffered: 0 }
    }

    /// Number of the exception that [`next`](Self::next) gives next, or where the list ended.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The next exception; `None` at the end of the list. Nothing is verified but that it ends
    /// inside the store.
    ///
    /// # Errors
    /// See [`WalkError`].
    pub fn next<S: ReadStorage>(
        &mut self,
        storage: &S,
    ) -> Result<Option<Exception>, WalkError<S::Error>> {
        if self.number >= self.buffered {
            self.refill(storage)?;
        }
        let offset = self.geometry.entry_offset(self.number);
        // The buffer begins at a sector, and `buffered` is the end of a whole number of sectors.
        let back = self.buffered.saturating_sub(self.number).saturating_mul(ENTRY_BYTES);
        let at = usize::try_from(back).ok().and_then(|back| self.filled().checked_sub(back));
        let entry = at.and_then(|at| self.buffer.get(at..)?.first_chunk::<16>());
        let Some([disk_chunk, store_chunk]) = entry.map(words) else {
            return Err(WalkError::BufferTooSmall { needed: SECTOR_LEN });
        };
        if store_chunk == 0 {
            return Ok(None);
        }
        self.number = self.number.saturating_add(1);
        Ok(Some(Exception { offset, disk_chunk, store_chunk }))
    }

    /// Bytes of the buffer that a read fills: whole sectors, at most an area.
    fn filled(&self) -> usize {
        let area = usize::try_from(self.geometry.chunk_bytes()).unwrap_or(usize::MAX);
        let whole = self.buffer.len().min(area);
        // A power of two, so that pieces never cross the end of an area.
        whole.checked_ilog2().map_or(0, |log| 1_usize.wrapping_shl(log))
    }

    fn refill<S: ReadStorage>(&mut self, storage: &S) -> Result<(), WalkError<S::Error>> {
        let len = self.filled();
        if len < SECTOR_LEN {
            return Err(WalkError::BufferTooSmall { needed: SECTOR_LEN });
        }
        let area = self.geometry.area_chunk(self.geometry.area_of(self.number));
        if !self.geometry.holds(area) {
            let offset = self.geometry.chunk_offset(area);
            return Err(WalkError::Fault { fault: Fault::AreaMissing { offset } });
        }
        let piece = self.buffer.get_mut(..len).unwrap_or_default();
        let offset = self.geometry.entry_offset(self.number);
        storage.read_at(offset, piece).map_err(WalkError::Storage)?;
        self.buffered = self.number.saturating_add(len as u64 / ENTRY_BYTES);
        Ok(())
    }

    /// Where the list ended: the byte there, if anything but zeros lies between it and the end of
    /// its area.
    pub(super) fn find_stale<S: ReadStorage>(
        &mut self,
        storage: &S,
    ) -> Result<Option<u64>, WalkError<S::Error>> {
        let end = self.geometry.entry_offset(self.number);
        let area = self.geometry.area_chunk(self.geometry.area_of(self.number));
        let area_end = self.geometry.chunk_offset(area).saturating_add(self.geometry.chunk_bytes());
        let (mut at, mut skip) = (end & !(SECTOR_BYTES - 1), end & (SECTOR_BYTES - 1));
        while at < area_end {
            let left = usize::try_from(area_end.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = self.filled().min(left);
            let Some(piece) = self.buffer.get_mut(..len).filter(|p| !p.is_empty()) else {
                return Err(WalkError::BufferTooSmall { needed: SECTOR_LEN });
            };
            storage.read_at(at, piece).map_err(WalkError::Storage)?;
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX);
            if piece.iter().skip(skipped).any(|&byte| byte != 0) {
                return Ok(Some(end));
            }
            (at, skip) = (at.saturating_add(len as u64), 0);
        }
        Ok(None)
    }
}

/// What a walk over the whole list found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Survey {
    /// Number of exceptions.
    pub(super) exceptions: u64,
    /// Highest usable chunk of the store in the list, or the one before the first.
    pub(super) highest: u64,
    /// Every chunk of the store is higher than the one before: none is there twice.
    pub(super) ascending: bool,
    /// Byte where the list ends, if something lies behind it.
    pub(super) stale: Option<u64>,
}

/// What is wrong with an exception on its own.
fn judge(geometry: &Geometry, exception: Exception) -> Option<Fault> {
    let Exception { offset, disk_chunk, store_chunk } = exception;
    let (disk_chunks, store_chunks) = (geometry.disk_chunks(), geometry.store_chunks());
    if disk_chunk >= disk_chunks {
        Some(Fault::DiskChunkBeyondDisk { offset, disk_chunk, disk_chunks })
    } else if !geometry.holds(store_chunk) {
        Some(Fault::StoreChunkBeyondStore { offset, store_chunk, store_chunks })
    } else if geometry.is_metadata(store_chunk) {
        Some(Fault::StoreChunkIsMetadata { offset, store_chunk })
    } else {
        None
    }
}

/// Reads the list once. Faults go to `report`, whose answer decides whether to go on.
pub(super) fn survey<S: ReadStorage>(
    storage: &S,
    geometry: Geometry,
    scratch: &mut [u8],
    mut report: impl FnMut(Fault) -> Result<(), Fault>,
) -> Result<Survey, WalkError<S::Error>> {
    let mut report = |fault| report(fault).map_err(|fault| WalkError::Fault { fault });
    let mut walk = Exceptions::walk(geometry, scratch);
    let (mut highest, mut ascending) = (FIRST_DATA_CHUNK - 1, true);
    loop {
        match walk.next(storage) {
            Ok(Some(exception)) => {
                if let Some(fault) = judge(&geometry, exception) {
                    report(fault)?;
                } else {
                    ascending &= exception.store_chunk > highest;
                    highest = highest.max(exception.store_chunk);
                }
            }
            Ok(None) => break,
            Err(WalkError::Fault { fault }) => {
                report(fault)?;
                return Ok(Survey { exceptions: walk.number(), highest, ascending, stale: None });
            }
            Err(error) => return Err(error),
        }
    }
    let stale = walk.find_stale(storage)?;
    Ok(Survey { exceptions: walk.number(), highest, ascending, stale })
}

/// The first `count` exceptions, without those that [`judge`] refuses.
pub(super) fn for_each_usable<S: ReadStorage>(
    storage: &S,
    geometry: Geometry,
    count: u64,
    scratch: &mut [u8],
    mut each: impl FnMut(u64, Exception) -> Result<(), Fault>,
) -> Result<u64, WalkError<S::Error>> {
    let mut walk = Exceptions::walk(geometry, scratch);
    let mut usable = 0_u64;
    while walk.number() < count {
        let number = walk.number();
        let Some(exception) = walk.next(storage)? else { break };
        if judge(&geometry, exception).is_none() {
            usable = usable.saturating_add(1);
            each(number, exception).map_err(|fault| WalkError::Fault { fault })?;
        }
    }
    Ok(usable)
}
