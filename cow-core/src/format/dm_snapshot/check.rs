//! A read-only report on a store.

use super::Geometry;
use super::error::{CheckError, Fault, WalkError};
use super::index::index_needed;
use super::store::{fill_index, find_doubles, read_header};
use super::walk::survey;
use crate::format::IndexEntry;
use crate::storage::ReadStorage;
use crate::units::SECTOR_LEN;

/// What [`check`] saw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// Sizes of the store and the disk.
    pub geometry: Geometry,
    /// Exceptions in the list, the faulty ones included.
    pub exceptions: u64,
    /// Faults that put the content of the disk in doubt.
    pub errors: u64,
    /// Faults that do not.
    pub warnings: u64,
}

impl Report {
    /// No error was found; warnings do not count.
    pub const fn is_clean(&self) -> bool {
        self.errors == 0
    }
}

/// Verifies header, list and every exception, and tells `found` about each fault. The index memory
/// is used and left filled with nothing of use.
///
/// # Errors
/// See [`CheckError`].
pub fn check<S: ReadStorage>(
    storage: &S,
    disk_sectors: u64,
    index: &mut [IndexEntry],
    scratch: &mut [u8],
    mut found: impl FnMut(Fault),
) -> Result<Report, CheckError<S::Error>> {
    let mut sector = [0; SECTOR_LEN];
    let (header, len) = read_header(storage, &mut sector).map_err(CheckError::Storage)?;
    let geometry = header
        .geometry(len, disk_sectors, false)
        .map_err(|reason| CheckError::Header { reason })?;
    let (mut errors, mut warnings) = (0_u64, 0_u64);
    let mut tell = |fault: Fault| {
        let count = if fault.is_harmless() { &mut warnings } else { &mut errors };
        *count = count.saturating_add(1);
        found(fault);
    };
    if header.is_invalidated() {
        tell(Fault::Invalidated);
    }
    let survey = survey(storage, geometry, scratch, pass_by(&mut tell)).map_err(of_walk)?;
    if let Some(offset) = survey.stale {
        tell(Fault::StaleEntries { offset });
    }
    let needed = index_needed(survey.exceptions);
    if (index.len() as u64) < needed {
        return Err(CheckError::IndexTooSmall { needed });
    }
    find_doubles(storage, geometry, &survey, index, scratch, pass_by(&mut tell))
        .map_err(of_walk)?;
    fill_index(storage, geometry, &survey, index, scratch, pass_by(&mut tell)).map_err(of_walk)?;
    Ok(Report { geometry, exceptions: survey.exceptions, errors, warnings })
}

/// A report after which the walk goes on.
fn pass_by(tell: &mut impl FnMut(Fault)) -> impl FnMut(Fault) -> Result<(), Fault> {
    |fault| {
        tell(fault);
        Ok(())
    }
}

fn of_walk<E>(error: WalkError<E>) -> CheckError<E> {
    match error {
        WalkError::BufferTooSmall { needed } => CheckError::BufferTooSmall { needed },
        // Every fault is reported and passed by, but the list may end earlier on a later reading.
        WalkError::Fault { .. } => CheckError::Changed,
        WalkError::Storage(error) => CheckError::Storage(error),
    }
}
