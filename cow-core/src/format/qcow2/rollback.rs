//! Emptying an image in one step.

use super::header::{CORRUPT, DIRTY, Header};
use super::image::Opened;
use super::layout::Layout;
use super::session::used_end;
use super::volume::Volume;
use crate::pages::{Page, StorageKey};
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

operation_error! {
    /// Why an image was not emptied.
    RollbackError {
        /// It holds internal snapshots, which would be lost.
        Snapshots {
            /// How many.
            count: u32
        } => "the image holds {count} internal snapshots, which would be lost",
        /// The refcount table names a block that cannot be there: repair it first.
        Corrupt {
            /// Byte offset in the image.
            offset: u64
        } => "the refcount table is corrupt at byte {offset}",
        /// There is no room for new tables beside the old ones.
        NoRoom => "the storage has no room for new tables beside the old ones",
    }
}

/// Empties an image: everything reads from below again, or as zeros. Marks of dirt and corruption
/// go with the content.
///
/// New tables are made behind everything that is in use; one sector of the header then exchanges
/// them for the old ones. A power cut leaves the image as before, or empty. After that the tables
/// move to the front in the same way, and what lies behind them is punched. `capacity` is the
/// length of a storage that cannot grow.
///
/// # Errors
/// See [`RollbackError`]; the image is as before then, or empty.
pub fn rollback<S: Storage>(
    storage: &mut S,
    opened: &Opened,
    capacity: Option<u64>,
    page: &mut Page,
) -> Result<(), RollbackError<S::Error>> {
    let header = &opened.header;
    if header.snapshots > 0 {
        return Err(RollbackError::Snapshots { count: header.snapshots });
    }
    let geometry = header.geometry;
    let volume = Volume::new(header, StorageKey(0), opened.len);
    let used = used_end(storage, &volume, page).map_err(|error| match error {
        super::OpenWritableError::Corrupt { offset } => RollbackError::Corrupt { offset },
        super::OpenWritableError::Storage(error) => RollbackError::Storage(error),
        super::OpenWritableError::Refused { .. } => RollbackError::NoRoom, // never said
    })?;
    // Nothing is in use behind the last count, unless counts cannot be believed.
    let believed = !header.is_dirty() && !header.is_corrupt();
    let file_end =
        if capacity.is_some() || believed { 0 } else { geometry.host_cluster(volume.limit) };
    let aside = Layout::at(&geometry, used.max(file_end));
    let fits = capacity.is_none_or(|len| geometry.cluster_offset(aside.end()) <= len);
    if !aside.is_possible() || !fits {
        return Err(RollbackError::NoRoom);
    }
    exchange(storage, header, &aside, page).map_err(RollbackError::Storage)?;
    let front = Layout::at(&geometry, 1);
    let mut end = aside.end();
    if geometry.cluster_offset(front.end()) <= geometry.cluster_offset(used.max(file_end)) {
        exchange(storage, header, &front, page).map_err(RollbackError::Storage)?;
        end = geometry.host_cluster(volume.limit).max(end);
        let from = geometry.cluster_offset(front.end());
        let len = geometry.cluster_offset(end).saturating_sub(from);
        storage.punch(from, len).map_err(RollbackError::Storage)?;
    }
    Ok(())
}

/// Writes tables and has the header name them.
fn exchange<S: Storage>(
    storage: &mut S,
    header: &Header,
    layout: &Layout,
    page: &mut Page,
) -> Result<(), S::Error> {
    layout.write(storage, page)?;
    storage.sync()?;
    let mut header = *header;
    layout.enter(&mut header);
    header.incompatible &= !(DIRTY | CORRUPT);
    header.autoclear = 0;
    let mut sector = [0; SECTOR_LEN];
    storage.read_at(0, &mut sector)?;
    header.emit(&mut sector);
    storage.write_at(0, &sector)?;
    storage.sync()
}
