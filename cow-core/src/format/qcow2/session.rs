//! Opening an image for writing, and closing it.

use super::allocation::{CountTables, Free, FreedRuns, L2Tables, PendingRuns};
use super::bytes::{entry, is_zero, put_u32, put_u64};
use super::entry::{self as read, Cluster, Table};
use super::error::{OpenWritableError, RefuseWriting, SnapshotError};
use super::geometry::Counts;
use super::header::{AUTOCLEAR_AT, MAX_TABLE_BYTES, REFTABLE_AT};
use super::image::Opened;
use super::layout::{reftable_clusters, write_counts};
use super::snapshot::snapshots;
use super::volume::{Region, Volume};
use super::writable::Writable;
use crate::pages::{PAGE_LEN, Page, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::SECTOR_LEN;

/// Refcount blocks without a single count that are passed over when the end of what is in use is
/// sought. Behind more, space is left unused.
const MAX_EMPTY_BLOCKS: u32 = 64;

/// L1 entries of all snapshots that are looked at when a file is suspected to be cut off. With more it
/// is taken for that.
const MAX_CUT_ENTRIES: u64 = 1 << 24;

/// What a writer must know that the image does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Surroundings {
    /// Length in bytes of a storage that cannot grow, such as a device. `None` for a file.
    pub capacity: Option<u64>,
    /// Byte of the storage behind everything that an earlier process noted and did not publish.
    /// Files need not tell it: they are at least so long.
    pub noted_end: u64,
}

/// Opens an image for writing: finds the end of what is in use, makes the refcount table long
/// enough for the whole disk, the file as long as what is in use, and takes back what earlier
/// writers promised and we do not keep up (bitmaps).
///
/// # Errors
/// See [`OpenWritableError`].
pub fn open_writable<S: Storage>(
    storage: &mut S,
    key: StorageKey,
    opened: &Opened,
    surroundings: &Surroundings,
    page: &mut Page,
) -> Result<Writable, OpenWritableError<S::Error>> {
    let header = &opened.header;
    let refused = |reason| Err(OpenWritableError::Refused { reason });
    if header.is_corrupt() {
        return refused(RefuseWriting::Corrupt);
    }
    if header.is_dirty() {
        return refused(RefuseWriting::Dirty);
    }
    if header.geometry.has_subclusters() {
        return refused(RefuseWriting::Subclusters);
    }
    let geometry = header.geometry;
    let mut volume = Volume::new(header, key, opened.len);
    let mut used = used_end(storage, &volume, page)?;
    // Counts behind the end are what a power cut leaves; entries that name something there are not.
    if geometry.cluster_offset(used) > volume.limit && is_cut_off(storage, opened, &volume, page)? {
        return refused(RefuseWriting::CutOff);
    }
    let capacity = surroundings.capacity.map_or(u64::MAX, |len| geometry.host_cluster(len));
    let room = Room { capacity, behind: used };
    if let Some(end) = grow_reftable(storage, &mut volume, room, page)? {
        used = end;
    }
    if header.autoclear != 0 {
        clear_autoclear(storage).map_err(OpenWritableError::Storage)?;
    }
    let file_end = if surroundings.capacity.is_none() { opened.len } else { 0 };
    let behind = geometry.host_cluster(geometry.round_up(file_end.max(surroundings.noted_end)));
    let unused = used.max(behind);
    let end = geometry.cluster_offset(unused);
    storage.extend(end).map_err(OpenWritableError::Storage)?;
    (volume.len, volume.limit) = (end, end);
    Ok(Writable {
        volume,
        over_parent: header.name_len > 0,
        capacity,
        free: Free::new(used, unused),
        pending: PendingRuns::new(),
        freed: FreedRuns::new(),
        tables: L2Tables::new(),
        blocks: CountTables::new(),
    })
}

/// Whether an entry of the disk or of a snapshot names a place behind the end of the file, or cannot be
/// right at all.
fn is_cut_off<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    volume: &Volume,
    page: &mut Page,
) -> Result<bool, OpenWritableError<S::Error>> {
    if is_tree_cut_off(storage, volume, volume.l1, page)? {
        return Ok(true);
    }
    let mut left = MAX_CUT_ENTRIES;
    for snapshot in snapshots(storage, opened) {
        let l1 = match snapshot {
            Ok(snapshot) => snapshot.l1,
            Err(SnapshotError::Corrupt { .. }) => return Ok(true),
            Err(SnapshotError::Storage(error)) => return Err(OpenWritableError::Storage(error)),
        };
        left = left.saturating_sub(l1.entries());
        let inside = l1.offset.saturating_add(l1.bytes) <= volume.len;
        if !inside || left == 0 || is_tree_cut_off(storage, volume, l1, page)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_tree_cut_off<S: ReadStorage>(
    storage: &S,
    volume: &Volume,
    l1: Region,
    page: &mut Page,
) -> Result<bool, OpenWritableError<S::Error>> {
    let geometry = &volume.geometry;
    let len = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
    for index in 0..l1.entries() {
        let mut raw = [0; 8];
        read_there(storage, volume.len, l1.entry_offset(index), &mut raw)?;
        let table = match read::l1(geometry, entry(&raw, 0)) {
            Table::Absent => continue,
            Table::At { offset, .. } if volume.may_hold(offset) => offset,
            Table::At { .. } | Table::Bad => return Ok(true),
        };
        for n in 0..geometry.table_pages() {
            let at = table.saturating_add(geometry.offset_in_table(n));
            let bytes = page.as_bytes_mut();
            read_there(storage, volume.len, at, bytes.get_mut(..len).unwrap_or_default())?;
            let is_bad = |index| volume.cluster_at(page.as_bytes(), index) == Cluster::Bad;
            if (0..1_u64 << geometry.l2_page_bits()).any(is_bad) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Counts down what lost its last reference in this session and was not counted down yet. Nothing
/// is lost without it but space, until a [`repair`](super::repair). Only when everything is
/// committed and no request is under way.
///
/// # Errors
/// The medium's.
pub fn close<S: Storage>(
    storage: &mut S,
    writable: &mut Writable,
    page: &mut Page,
) -> Result<(), S::Error> {
    while let Some(host) = writable.freed.take_any() {
        count_down(storage, &writable.volume, host, page)?;
    }
    while let Some(offset) = writable.tables.take_unnamed() {
        let host = writable.volume.geometry.host_cluster(offset);
        count_down(storage, &writable.volume, host, page)?;
    }
    storage.sync()
}

/// Counts a cluster down in the storage itself, if it is counted at all.
fn count_down<S: Storage>(
    storage: &mut S,
    volume: &Volume,
    host: u64,
    page: &mut Page,
) -> Result<(), S::Error> {
    let geometry = &volume.geometry;
    let block = host >> geometry.counts_bits();
    if block >= volume.reftable.entries() {
        return Ok(());
    }
    let mut raw = [0; 8];
    storage.read_at(volume.reftable.entry_offset(block), &mut raw)?;
    let Table::At { offset, .. } = read::reftable(geometry, entry(&raw, 0)) else { return Ok(()) };
    if !volume.may_hold(offset) {
        return Ok(());
    }
    let n = host >> geometry.counts_page_bits();
    let at = offset.saturating_add(geometry.offset_in_table(n));
    let len = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
    let Some(bytes) = page.as_bytes_mut().get_mut(..len) else { return Ok(()) };
    storage.read_at(at, bytes)?;
    let counts = Counts(geometry.refcount_order());
    let index = host & (1_u64 << geometry.counts_page_bits()).wrapping_sub(1);
    let count = counts.read(bytes, index);
    counts.write(bytes, index, count.saturating_sub(1));
    storage.write_at(at, bytes)
}

/// Promises of other writers that end with our first write: they end before it.
fn clear_autoclear<S: Storage>(storage: &mut S) -> Result<(), S::Error> {
    let mut sector = [0; SECTOR_LEN];
    storage.read_at(0, &mut sector)?;
    put_u64(&mut sector, AUTOCLEAR_AT, 0);
    storage.write_at(0, &sector)?;
    storage.sync()
}

/// The cluster behind the last one with a count, a block that counts, or a table of the header.
pub(super) fn used_end<S: ReadStorage>(
    storage: &S,
    volume: &Volume,
    page: &mut Page,
) -> Result<u64, OpenWritableError<S::Error>> {
    let geometry = &volume.geometry;
    let mut used = 1;
    for region in [volume.l1, volume.reftable] {
        let end = geometry.round_up(region.offset.saturating_add(region.bytes));
        used = used.max(geometry.host_cluster(end));
    }
    let (mut empty, mut at_page) = (0, u64::MAX);
    let mut raw = [0; SECTOR_LEN];
    for index in (0..volume.reftable.entries()).rev() {
        let at = volume.reftable.entry_offset(index);
        let sector = at & !(SECTOR_LEN as u64 - 1);
        if sector != at_page {
            read_there(storage, volume.len, sector, &mut raw)?;
            at_page = sector;
        }
        let offset = match read::reftable(geometry, entry(&raw, (at - sector) / 8)) {
            Table::Absent => continue,
            Table::At { offset, .. } if volume.may_hold(offset) => offset,
            Table::At { .. } | Table::Bad => return Err(OpenWritableError::Corrupt { offset: at }),
        };
        used = used.max(geometry.host_cluster(offset).saturating_add(1));
        let first = index << geometry.counts_bits();
        if empty >= MAX_EMPTY_BLOCKS {
            return Ok(used.max(first.saturating_add(1 << geometry.counts_bits())));
        }
        if let Some(last) = last_count(storage, volume, offset, page)? {
            return Ok(used.max(first.saturating_add(last).saturating_add(1)));
        }
        empty = empty.saturating_add(1);
    }
    Ok(used)
}

/// The last cluster with a count in a block, counted from its first.
fn last_count<S: ReadStorage>(
    storage: &S,
    volume: &Volume,
    offset: u64,
    page: &mut Page,
) -> Result<Option<u64>, OpenWritableError<S::Error>> {
    let geometry = &volume.geometry;
    let counts = Counts(geometry.refcount_order());
    let len = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
    for n in (0..geometry.table_pages()).rev() {
        let at = offset.saturating_add(geometry.offset_in_table(n));
        let Some(bytes) = page.as_bytes_mut().get_mut(..len) else { break };
        read_there(storage, volume.len, at, bytes)?;
        if is_zero(bytes) {
            continue;
        }
        let last = (0..1 << geometry.counts_page_bits()).rfind(|i| counts.read(bytes, *i) > 0);
        if let Some(last) = last {
            return Ok(Some((n << geometry.counts_page_bits()).saturating_add(last)));
        }
    }
    Ok(None)
}

/// Reads; what lies behind the end of the storage is zeros.
fn read_there<S: ReadStorage>(
    storage: &S,
    len: u64,
    at: u64,
    bytes: &mut [u8],
) -> Result<(), OpenWritableError<S::Error>> {
    bytes.fill(0);
    let there = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    match bytes.get_mut(..there) {
        Some(part) if there > 0 => storage.read_at(at, part).map_err(OpenWritableError::Storage),
        _ => Ok(()),
    }
}

/// Where a new refcount table may go.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Clusters that the storage can have.
    pub(super) capacity: u64,
    /// The first cluster that nothing uses.
    pub(super) behind: u64,
}

/// Makes the refcount table long enough for the whole disk, so that it need not grow while the
/// image is being written. Images with tiny clusters have one for a few megabytes. Gives the
/// cluster behind the new table, if one was made.
///
/// The new table and the blocks that count it lie behind everything else, where no block counts
/// yet. They are durable before one sector of the header names them; the old table is given back
/// after that.
pub(super) fn grow_reftable<S: Storage>(
    storage: &mut S,
    volume: &mut Volume,
    room: Room,
    page: &mut Page,
) -> Result<Option<u64>, OpenWritableError<S::Error>> {
    let geometry = volume.geometry;
    let l1_clusters = geometry.host_cluster(geometry.round_up(volume.l1.bytes));
    let enough = reftable_clusters(&geometry, l1_clusters);
    if volume.reftable.bytes >= geometry.cluster_offset(enough) {
        return Ok(None);
    }
    let per_block = 1_u64 << geometry.counts_bits();
    // Behind the last block that there is.
    let first_block = blocks_end(storage, volume)?.max(room.behind.div_ceil(per_block));
    let start = first_block << geometry.counts_bits();
    let entries = first_block.saturating_add(8);
    let wanted = enough.max(entries.saturating_mul(8).div_ceil(geometry.cluster_bytes()));
    let new_bytes = geometry.cluster_offset(wanted);
    if new_bytes > MAX_TABLE_BYTES {
        return Ok(None);
    }
    let mut blocks = 1;
    while blocks << geometry.counts_bits() < wanted.saturating_add(blocks) {
        blocks = blocks.saturating_add(1);
    }
    let clusters = wanted.saturating_add(blocks);
    let end = start.saturating_add(clusters);
    if end > room.capacity {
        return Ok(None);
    }
    let grown = Grown { start, blocks, first_block, clusters };
    write_grown(storage, volume, &grown, page).map_err(OpenWritableError::Storage)?;
    let old = volume.reftable;
    volume.reftable.offset = geometry.cluster_offset(start.saturating_add(blocks));
    volume.reftable.bytes = new_bytes;
    let limit = geometry.cluster_offset(end);
    (volume.len, volume.limit) = (limit, limit);
    let first = geometry.host_cluster(old.offset);
    for host in first..first.saturating_add(geometry.host_cluster(old.bytes)) {
        count_down(storage, volume, host, page).map_err(OpenWritableError::Storage)?;
    }
    storage.sync().map_err(OpenWritableError::Storage)?;
    Ok(Some(end))
}

/// Number of the first refcount block behind all that there are.
fn blocks_end<S: ReadStorage>(
    storage: &S,
    volume: &Volume,
) -> Result<u64, OpenWritableError<S::Error>> {
    let mut raw = [0; SECTOR_LEN];
    let mut at_sector = u64::MAX;
    for index in (0..volume.reftable.entries()).rev() {
        let at = volume.reftable.entry_offset(index);
        let sector = at & !(SECTOR_LEN as u64 - 1);
        if sector != at_sector {
            read_there(storage, volume.len, sector, &mut raw)?;
            at_sector = sector;
        }
        if entry(&raw, (at - sector) / 8) != 0 {
            return Ok(index.saturating_add(1));
        }
    }
    Ok(0)
}

/// A new refcount table: first its blocks, then itself.
struct Grown {
    start: u64,
    blocks: u64,
    first_block: u64,
    clusters: u64,
}

fn write_grown<S: Storage>(
    storage: &mut S,
    volume: &Volume,
    grown: &Grown,
    page: &mut Page,
) -> Result<(), S::Error> {
    let geometry = &volume.geometry;
    let (from, bytes) =
        (geometry.cluster_offset(grown.start), geometry.cluster_offset(grown.clusters));
    storage.extend(from.saturating_add(bytes))?;
    storage.zero_at(from, bytes)?;
    let table = geometry.cluster_offset(grown.start.saturating_add(grown.blocks));
    // The old entries, a sector at a time.
    let mut sector = [0; SECTOR_LEN];
    let mut done = 0;
    while done < volume.reftable.bytes.min(volume.len.saturating_sub(volume.reftable.offset)) {
        storage.read_at(volume.reftable.offset.saturating_add(done), &mut sector)?;
        storage.write_at(table.saturating_add(done), &sector)?;
        done = done.saturating_add(SECTOR_LEN as u64);
    }
    for n in 0..grown.blocks {
        let offset = geometry.cluster_offset(grown.start.saturating_add(n));
        let mut raw = [0; 8];
        put_u64(&mut raw, 0, offset);
        let index = grown.first_block.saturating_add(n);
        storage.write_at(table.saturating_add(index.saturating_mul(8)), &raw)?;
        let end = grown.start.saturating_add(grown.clusters);
        write_counts(
            storage,
            geometry,
            (index, offset),
            core::slice::from_ref(&(grown.start..end)),
            page,
        )?;
    }
    storage.sync()?;
    let clusters = geometry.host_cluster(bytes).saturating_sub(grown.blocks);
    storage.read_at(0, &mut sector)?;
    put_u64(&mut sector, REFTABLE_AT, table);
    put_u32(&mut sector, REFTABLE_AT + 8, u32::try_from(clusters).unwrap_or(0));
    storage.write_at(0, &sector)?;
    storage.sync()
}
