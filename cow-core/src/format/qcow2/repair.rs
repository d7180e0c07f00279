//! Repairing an image without losing data: recorded counts become what is used, marks follow.
//!
//! Entries of the tables are never removed, so nothing that can be read now reads differently
//! afterwards. A power cut at any moment leaves an image that can be repaired again: counts go up,
//! wrong marks go, counts go down, missing marks are set, and the image is called sound last.

use super::bytes::{entry, put_entry, put_u64, u64_at};
use super::check::{CheckError, Finding, Report, check, check_again, right_mark};
use super::entry::{self as read, COPIED, Cluster, Table};
use super::geometry::{Counts, Geometry, MAX_HOST_OFFSET};
use super::header::{CORRUPT, DIRTY, INCOMPATIBLE_AT};
use super::image::Opened;
use super::volume::Volume;
use crate::pages::{PAGE_LEN, Page, StorageKey};
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

/// What [`repair`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// Counts that were raised.
    pub raised: u64,
    /// Counts that were lowered: clusters given back or, where they are shared, counted less.
    pub lowered: u64,
    /// Marks of entries that were changed.
    pub marks: u64,
    /// Refcount blocks that were missing.
    pub blocks: u64,
    /// The image is not marked dirty or corrupt any more.
    pub cleared: bool,
    /// What a check finds now. Damage that is left is in entries that cannot be right, or in
    /// tables that overlap: what they should be, the image does not say.
    pub left: Report,
}

operation_error! {
    /// Why a repair was not made.
    RepairError {
        /// The lent memory is too small.
        MemoryTooSmall {
            /// Entries that would do.
            needed: u64
        } => "the repair needs memory for {needed} counts",
        /// Metadata overlap, or entries of the refcount table are impossible: writing anything
        /// might destroy more. Nothing was changed.
        Tangled => "metadata overlap: copy what can be read into a new image",
        /// There is no room for counts of all clusters. What was changed is right.
        NoRoom => "the refcount table has no room",
    }
}

impl<E> From<CheckError<E>> for RepairError<E> {
    fn from(error: CheckError<E>) -> Self {
        match error {
            CheckError::MemoryTooSmall { needed } => Self::MemoryTooSmall { needed },
            CheckError::Storage(error) => Self::Storage(error),
        }
    }
}

/// Makes recorded counts and marks what they should be. `found` hears of everything that is wrong
/// before. `capacity` is the length of a storage that cannot grow.
///
/// # Errors
/// See [`RepairError`].
pub fn repair<S: Storage>(
    storage: &mut S,
    opened: &Opened,
    capacity: Option<u64>,
    memory: &mut [u16],
    page: &mut Page,
    found: &mut dyn FnMut(Finding),
) -> Result<Repaired, RepairError<S::Error>> {
    let mut repaired = Repaired::default();
    let (mut tangled, mut unread) = (false, false);
    let before = check(storage, opened, memory, page, &mut |finding| {
        tangled |= is_tangle(opened, &finding);
        unread |= matches!(finding, Finding::BadEntry { .. } | Finding::BadBitmaps { .. });
        found(finding);
    })?;
    if tangled {
        return Err(RepairError::Tangled);
    }
    let flagged = opened.header.is_dirty() || opened.header.is_corrupt();
    if before.damage == 0 && before.warnings == 0 && !flagged {
        return Ok(Repaired { left: before, ..repaired });
    }
    let mut now = *opened;
    let mut job = Job { storage: &mut *storage, memory: &mut *memory, capacity, page: &mut *page };
    job.add_blocks(&mut now, &mut repaired)?;
    job.set_counts(&now, Direction::Up, &mut repaired)?;
    job.set_marks(&now, false, &mut repaired).map_err(RepairError::Storage)?;
    // An entry that cannot be right may stand for any cluster, such as one that was cut off.
    if !unread {
        job.set_counts(&now, Direction::Down, &mut repaired)?;
        job.set_marks(&now, true, &mut repaired).map_err(RepairError::Storage)?;
    }
    // Nothing is excused by that mark any more.
    now.header.incompatible &= !DIRTY;
    repaired.left = check_again(storage, &now, memory, page, &mut |_| {})?;
    // The marks themselves are among the findings.
    let own = u64::from(opened.header.is_corrupt());
    if flagged && repaired.left.damage <= own {
        clear_flags(storage).map_err(RepairError::Storage)?;
        repaired.left.damage = 0;
        repaired.cleared = true;
    }
    Ok(repaired)
}

/// A finding after which counts are no measure of what may be overwritten.
fn is_tangle(opened: &Opened, finding: &Finding) -> bool {
    let reftable = opened.header.reftable_offset;
    match finding {
        Finding::Overlap { .. } | Finding::BadSnapshot { .. } => true,
        Finding::BadEntry { offset, .. } => {
            *offset >= reftable && *offset < reftable.saturating_add(opened.header.reftable_bytes())
        }
        _ => false,
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    Up,
    Down,
}

struct Job<'j, S> {
    storage: &'j mut S,
    /// How often each cluster is used.
    memory: &'j mut [u16],
    capacity: Option<u64>,
    page: &'j mut Page,
}

impl<S: Storage> Job<'_, S> {
    fn uses_of(&self, host: u64) -> u64 {
        let at = usize::try_from(host).unwrap_or(usize::MAX);
        self.memory.get(at).map_or(0, |n| u64::from(*n))
    }

    /// Makes blocks for clusters that are used and that no block counts.
    fn add_blocks(
        &mut self,
        now: &mut Opened,
        repaired: &mut Repaired,
    ) -> Result<(), RepairError<S::Error>> {
        let geometry = now.header.geometry;
        let last = self.memory.iter().rposition(|n| *n > 0).unwrap_or(0) as u64;
        let mut next =
            last.saturating_add(1).max(geometry.host_cluster(geometry.round_up(now.len)));
        let mut index = 0;
        while index << geometry.counts_bits() < next {
            if self.lacks_block(now, index)? {
                self.add_block(now, index, next)?;
                next = next.saturating_add(1);
                repaired.blocks = repaired.blocks.saturating_add(1);
            }
            index = index.saturating_add(1);
        }
        if repaired.blocks > 0 {
            // They were put behind the end, where the storage is longer now.
            now.len = now.len.max(geometry.cluster_offset(next));
        }
        self.storage.sync().map_err(RepairError::Storage)
    }

    /// Some cluster of this block is used and the block is not there.
    fn lacks_block(&mut self, now: &Opened, index: u64) -> Result<bool, RepairError<S::Error>> {
        let geometry = &now.header.geometry;
        let volume = Volume::new(&now.header, StorageKey(0), now.len);
        let first = index << geometry.counts_bits();
        let end = first.saturating_add(1 << geometry.counts_bits());
        let used = (first..end.min(self.memory.len() as u64)).any(|host| self.uses_of(host) > 0);
        if !used {
            return Ok(false);
        }
        if index >= volume.reftable.entries() {
            return Err(RepairError::NoRoom);
        }
        let mut raw = [0; 8];
        self.storage
            .read_at(volume.reftable.entry_offset(index), &mut raw)
            .map_err(RepairError::Storage)?;
        Ok(read::reftable(geometry, entry(&raw, 0)) == Table::Absent)
    }

    /// One block at cluster `at`, behind everything; it counts itself or is counted by a later one.
    fn add_block(
        &mut self,
        now: &Opened,
        index: u64,
        at: u64,
    ) -> Result<(), RepairError<S::Error>> {
        let geometry = &now.header.geometry;
        let offset = geometry.cluster_offset(at);
        let end = offset.saturating_add(geometry.cluster_bytes());
        let slot = usize::try_from(at).ok().and_then(|at| self.memory.get_mut(at));
        let Some(slot) = slot
            .filter(|_| end <= self.capacity.unwrap_or(MAX_HOST_OFFSET) && end <= MAX_HOST_OFFSET)
        else {
            return Err(RepairError::NoRoom);
        };
        *slot = 1;
        let mut raw = [0; 8];
        put_u64(&mut raw, 0, offset);
        let named_at = now.header.reftable_offset.saturating_add(index.saturating_mul(8));
        let storage = &mut *self.storage;
        storage
            .extend(end)
            .and_then(|()| storage.zero_at(offset, geometry.cluster_bytes()))
            .and_then(|()| storage.sync())
            .and_then(|()| storage.write_at(named_at, &raw))
            .map_err(RepairError::Storage)
    }

    /// Writes recorded counts that are to go up, or down.
    fn set_counts(
        &mut self,
        now: &Opened,
        direction: Direction,
        repaired: &mut Repaired,
    ) -> Result<(), RepairError<S::Error>> {
        let volume = Volume::new(&now.header, StorageKey(0), now.len);
        let geometry = &volume.geometry;
        for index in 0..volume.reftable.entries() {
            let mut raw = [0; 8];
            self.storage
                .read_at(volume.reftable.entry_offset(index), &mut raw)
                .map_err(RepairError::Storage)?;
            let Table::At { offset, .. } = read::reftable(geometry, entry(&raw, 0)) else {
                continue;
            };
            for n in 0..geometry.table_pages() {
                let first = (index << geometry.counts_bits())
                    .saturating_add(n << geometry.counts_page_bits());
                let at = offset.saturating_add(geometry.offset_in_table(n));
                self.set_page(&volume, (at, first), direction, repaired)?;
            }
        }
        self.storage.sync().map_err(RepairError::Storage)
    }

    fn set_page(
        &mut self,
        volume: &Volume,
        (at, first): (u64, u64),
        direction: Direction,
        repaired: &mut Repaired,
    ) -> Result<(), RepairError<S::Error>> {
        let geometry = &volume.geometry;
        let counts = Counts(geometry.refcount_order());
        self.read_page(at, volume.len).map_err(RepairError::Storage)?;
        let mut changed = 0_u64;
        for index in 0..1_u64 << geometry.counts_page_bits() {
            let uses = self.uses_of(first.saturating_add(index));
            let counted = counts.read(self.page.as_bytes(), index);
            let wanted = uses.min(geometry.refcount_max());
            let full = uses == u64::from(u16::MAX) && counted > uses;
            let change = match direction {
                Direction::Up => counted < wanted,
                Direction::Down => counted > wanted && !full,
            };
            if change {
                counts.write(self.page.as_bytes_mut(), index, wanted);
                changed = changed.saturating_add(1);
            }
        }
        if changed > 0 {
            self.write_page(geometry, at).map_err(RepairError::Storage)?;
        }
        let total = match direction {
            Direction::Up => &mut repaired.raised,
            Direction::Down => &mut repaired.lowered,
        };
        *total = total.saturating_add(changed);
        Ok(())
    }

    fn read_page(&mut self, at: u64, len: u64) -> Result<(), S::Error> {
        let bytes = self.page.as_bytes_mut();
        bytes.fill(0);
        let there = usize::try_from(len.saturating_sub(at)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
        match bytes.get_mut(..there) {
            Some(part) if there > 0 => self.storage.read_at(at, part),
            _ => Ok(()),
        }
    }

    fn write_page(&mut self, geometry: &Geometry, at: u64) -> Result<(), S::Error> {
        let len = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
        self.storage.write_at(at, self.page.as_bytes().get(..len).unwrap_or_default())
    }

    /// Sets marks of entries, or takes them away, by what is used.
    fn set_marks(
        &mut self,
        now: &Opened,
        set: bool,
        repaired: &mut Repaired,
    ) -> Result<(), S::Error> {
        let volume = Volume::new(&now.header, StorageKey(0), now.len);
        let geometry = &volume.geometry;
        for index in 0..volume.l1.entries() {
            let at = volume.l1.entry_offset(index);
            let mut raw = [0; 8];
            self.storage.read_at(at, &mut raw)?;
            let value = entry(&raw, 0);
            let Table::At { offset, is_ours } = read::l1(geometry, value) else { continue };
            if !volume.may_hold(offset) {
                continue;
            }
            if right_mark(is_ours, self.uses_of(geometry.host_cluster(offset))) == Some(set) {
                put_u64(&mut raw, 0, value ^ COPIED);
                self.storage.write_at(at, &raw)?;
                repaired.marks = repaired.marks.saturating_add(1);
            }
            for n in 0..geometry.table_pages() {
                let at = offset.saturating_add(geometry.offset_in_table(n));
                self.set_marks_in(&volume, at, set, repaired)?;
            }
        }
        self.storage.sync()
    }

    fn set_marks_in(
        &mut self,
        volume: &Volume,
        at: u64,
        set: bool,
        repaired: &mut Repaired,
    ) -> Result<(), S::Error> {
        let geometry = &volume.geometry;
        let words = u8::from(geometry.has_subclusters());
        self.read_page(at, volume.len)?;
        let before = repaired.marks;
        for index in 0..1_u64 << geometry.l2_page_bits() {
            let (Cluster::Data(host) | Cluster::Zero { host: Some(host) }) =
                volume.cluster_at(self.page.as_bytes(), index)
            else {
                continue;
            };
            let uses = self.uses_of(geometry.host_cluster(host.offset));
            if right_mark(host.is_ours, uses) == Some(set) {
                let value = entry(self.page.as_bytes(), index << words);
                put_entry(self.page.as_bytes_mut(), index << words, value ^ COPIED);
                repaired.marks = repaired.marks.saturating_add(1);
            }
        }
        if repaired.marks > before { self.write_page(geometry, at) } else { Ok(()) }
    }
}

/// The image is sound: neither dirty nor corrupt.
fn clear_flags<S: Storage>(storage: &mut S) -> Result<(), S::Error> {
    let mut sector = [0; SECTOR_LEN];
    storage.read_at(0, &mut sector)?;
    let flags = u64_at(&sector, INCOMPATIBLE_AT) & !(DIRTY | CORRUPT);
    put_u64(&mut sector, INCOMPATIBLE_AT, flags);
    storage.write_at(0, &sector)?;
    storage.sync()
}
