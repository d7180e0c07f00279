//! A read-only report on an image: every reference counted, and held against what is recorded.

use core::fmt;

use super::bitmaps::Bitmaps;
use super::bytes::{entry, is_zero};
use super::entry::{self as read, Cluster, Table};
use super::geometry::Counts;
use super::image::Opened;
use super::snapshot::snapshots;
use super::volume::{Region, Volume};
use crate::pages::{Page, StorageKey};
use crate::storage::ReadStorage;
use crate::units::{SECTOR_BYTES, SECTOR_LEN};

/// Something that [`check`] noticed. Offsets are bytes of the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// The image is marked dirty: counts that are too low are no surprise.
    Dirty,
    /// The image is marked corrupt by whoever wrote it.
    MarkedCorrupt,
    /// An entry has reserved bits, or a place that is not aligned or where no cluster can be.
    BadEntry {
        /// Of the entry.
        offset: u64,
        /// What it holds.
        entry: u64,
    },
    /// The list of internal snapshots, or the L1 table of one, cannot be followed.
    BadSnapshot {
        /// Of the snapshot's entry.
        offset: u64,
    },
    /// The bitmaps of changes cannot be followed.
    BadBitmaps {
        /// Of their directory, or of an entry in it.
        offset: u64,
    },
    /// The header, a table of the header, or a refcount block is also something else.
    Overlap {
        /// Of the cluster.
        offset: u64,
        /// How many use it.
        uses: u64,
    },
    /// A cluster is used more often than counted.
    CountTooLow {
        /// Of the cluster.
        offset: u64,
        /// Recorded.
        counted: u64,
        /// Found.
        uses: u64,
    },
    /// A cluster is counted and not (or less often) used: lost space.
    Leak {
        /// Of the cluster.
        offset: u64,
        /// Recorded.
        counted: u64,
        /// Found.
        uses: u64,
    },
    /// An entry says that its cluster is used once, which is not so: a write would change what
    /// others see too.
    CopiedWrongly {
        /// Of the entry.
        offset: u64,
    },
    /// An entry does not say that its cluster is used once, although it is: a write would make a
    /// needless copy.
    NotCopied {
        /// Of the entry.
        offset: u64,
    },
}

impl Finding {
    /// Data are lost or in doubt, or would be after a write. False for what a power cut, or a
    /// writer with lazy counts, explains.
    pub const fn is_damage(&self) -> bool {
        !matches!(self, Self::Dirty | Self::Leak { .. } | Self::NotCopied { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dirty => f.write_str("the image was not closed in order"),
            Self::MarkedCorrupt => f.write_str("the image is marked corrupt"),
            Self::BadEntry { offset, entry } => {
                write!(f, "the entry {entry:#018x} at byte {offset} is impossible")
            }
            Self::BadSnapshot { offset } => {
                write!(f, "the snapshot at byte {offset} cannot be followed")
            }
            Self::BadBitmaps { offset } => {
                write!(f, "the bitmaps of changes at byte {offset} cannot be followed")
            }
            Self::Overlap { offset, uses } => {
                write!(f, "the metadata at byte {offset} are used {uses} times")
            }
            Self::CountTooLow { offset, counted, uses } => {
                write!(f, "the cluster at byte {offset} is used {uses} times, counted {counted}")
            }
            Self::Leak { offset, counted, uses } => {
                write!(f, "the cluster at byte {offset} is counted {counted}, used {uses} times")
            }
            Self::CopiedWrongly { offset } => {
                write!(f, "the entry at byte {offset} calls a shared cluster its own")
            }
            Self::NotCopied { offset } => {
                write!(f, "the entry at byte {offset} does not call its cluster its own")
            }
        }
    }
}

/// What [`check`] counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Clusters of the disk with data of their own.
    pub data_clusters: u64,
    /// Of these, compressed ones.
    pub packed_clusters: u64,
    /// Clusters of the disk that are zeros by mark.
    pub zero_clusters: u64,
    /// Clusters of the image that are counted and not used.
    pub leaked_clusters: u64,
    /// Findings that are damage. (Too low counts of a dirty image are not.)
    pub damage: u64,
    /// The others.
    pub warnings: u64,
}

impl Report {
    /// No damage was found.
    pub const fn is_clean(&self) -> bool {
        self.damage == 0
    }
}

operation_error! {
    /// Why a check or repair ended early.
    CheckError {
        /// The lent memory is too small.
        MemoryTooSmall {
            /// Entries that would do.
            needed: u64
        } => "the check needs memory for {needed} counts",
    }
}

/// Entries of memory that [`check`] and [`repair`](super::repair) need: one for each cluster that
/// the image has, and some for those that a repair may add.
pub const fn check_needed(opened: &Opened) -> u64 {
    let geometry = &opened.header.geometry;
    let clusters = geometry.host_cluster(geometry.round_up(opened.len));
    let blocks = clusters >> geometry.counts_bits();
    clusters.saturating_add(blocks).saturating_add(8)
}

/// Counts every reference of an image and its snapshots, holds the sums against the recorded
/// counts, and tells `found` about every difference and every impossible entry. `memory` is left
/// filled with the sums: one for each cluster, 65,535 for that many or more.
///
/// # Errors
/// See [`CheckError`].
pub fn check<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    memory: &mut [u16],
    page: &mut Page,
    found: &mut dyn FnMut(Finding),
) -> Result<Report, CheckError<S::Error>> {
    let needed = check_needed(opened);
    if (memory.len() as u64) < needed {
        return Err(CheckError::MemoryTooSmall { needed });
    }
    check_again(storage, opened, memory, page, found)
}

/// As [`check`], for an image that a repair has made longer: the memory was enough for that.
pub(super) fn check_again<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    memory: &mut [u16],
    page: &mut Page,
    found: &mut dyn FnMut(Finding),
) -> Result<Report, CheckError<S::Error>> {
    let mut report = Report::default();
    let dirty = opened.header.is_dirty();
    let mut tell = |report: &mut Report, finding: Finding| {
        let excused = dirty && matches!(finding, Finding::CountTooLow { .. });
        if finding.is_damage() && !excused {
            report.damage = report.damage.saturating_add(1);
        } else {
            report.warnings = report.warnings.saturating_add(1);
        }
        found(finding);
    };
    if dirty {
        tell(&mut report, Finding::Dirty);
    }
    if opened.header.is_corrupt() {
        tell(&mut report, Finding::MarkedCorrupt);
    }
    let mut walk = Walk::new(storage, opened, memory, page)?;
    walk.count_uses(&mut report, &mut tell)?;
    walk.compare(&mut report, &mut tell)?;
    walk.copied(&mut |finding| tell(&mut report, finding))?;
    Ok(report)
}

/// How findings are told.
pub(super) type Tell<'t> = &'t mut dyn FnMut(&mut Report, Finding);

/// An image being walked.
pub(super) struct Walk<'w, S> {
    pub(super) storage: &'w S,
    pub(super) volume: Volume,
    opened: Opened,
    /// How often each cluster is used.
    pub(super) uses: &'w mut [u16],
    page: &'w mut Page,
    /// The sector of a table that was read last, and its place.
    sector: ([u8; SECTOR_LEN], u64),
}

impl<'w, S: ReadStorage> Walk<'w, S> {
    pub(super) fn new(
        storage: &'w S,
        opened: &Opened,
        memory: &'w mut [u16],
        page: &'w mut Page,
    ) -> Result<Self, CheckError<S::Error>> {
        let geometry = &opened.header.geometry;
        let clusters = geometry.host_cluster(geometry.round_up(opened.len));
        if (memory.len() as u64) < clusters {
            return Err(CheckError::MemoryTooSmall { needed: check_needed(opened) });
        }
        let most = usize::try_from(check_needed(opened)).unwrap_or(usize::MAX).min(memory.len());
        let uses = memory.get_mut(..most).unwrap_or_default();
        uses.fill(0);
        let volume = Volume::new(&opened.header, StorageKey(0), opened.len);
        let sector = ([0; SECTOR_LEN], u64::MAX);
        Ok(Self { storage, volume, opened: *opened, uses, page, sector })
    }

    pub(super) fn uses_of(&self, host: u64) -> u64 {
        let at = usize::try_from(host).unwrap_or(usize::MAX);
        self.uses.get(at).map_or(0, |n| u64::from(*n))
    }

    pub(super) const fn bitmaps(&self) -> Option<Bitmaps> {
        self.opened.header.bitmaps
    }

    pub(super) fn any_uses(&self, first: u64, clusters: u64) -> bool {
        let end = first.saturating_add(clusters).min(self.uses.len() as u64);
        let (Ok(first), Ok(end)) = (usize::try_from(first), usize::try_from(end)) else {
            return false;
        };
        self.uses.get(first..end).is_some_and(|uses| uses.iter().any(|n| *n > 0))
    }

    pub(super) fn add_uses(&mut self, offset: u64, bytes: u64) {
        let geometry = &self.volume.geometry;
        let first = geometry.host_cluster(offset);
        let end = geometry.host_cluster(geometry.round_up(offset.saturating_add(bytes)));
        let (Ok(first), Ok(end)) = (usize::try_from(first), usize::try_from(end)) else { return };
        let clusters = self.uses.get_mut(first..end).unwrap_or_default();
        for n in clusters {
            *n = n.saturating_add(1);
        }
    }

    /// Fills the page.
    fn read(&mut self, offset: u64, len: u64) -> Result<(), CheckError<S::Error>> {
        let there = len.min(self.volume.len.saturating_sub(offset));
        let bytes = self.page.as_bytes_mut();
        bytes.fill(0);
        let part = usize::try_from(there).ok().and_then(|len| bytes.get_mut(..len));
        if let Some(part) = part.filter(|part| !part.is_empty()) {
            self.storage.read_at(offset, part).map_err(CheckError::Storage)?;
        }
        Ok(())
    }

    /// One entry of a table.
    pub(super) fn entry(
        &mut self,
        region: &Region,
        index: u64,
    ) -> Result<u64, CheckError<S::Error>> {
        let at = region.entry_offset(index);
        let start = at & !(SECTOR_BYTES - 1);
        let (bytes, kept) = &mut self.sector;
        if *kept != start {
            *kept = u64::MAX;
            bytes.fill(0);
            let there = self.volume.len.saturating_sub(start).min(SECTOR_BYTES);
            let part = usize::try_from(there).ok().and_then(|len| bytes.get_mut(..len));
            if let Some(part) = part.filter(|part| !part.is_empty()) {
                self.storage.read_at(start, part).map_err(CheckError::Storage)?;
            }
            *kept = start;
        }
        Ok(entry(bytes, at.saturating_sub(start) / 8))
    }

    /// Adds up every use of every cluster.
    pub(super) fn count_uses(
        &mut self,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        let (l1, reftable) = (self.volume.l1, self.volume.reftable);
        self.add_uses(0, 1);
        self.add_uses(l1.offset, l1.bytes);
        self.add_uses(reftable.offset, reftable.bytes);
        for index in 0..reftable.entries() {
            let raw = self.entry(&reftable, index)?;
            match read::reftable(&self.volume.geometry, raw) {
                Table::Absent => {}
                Table::At { offset, .. } if self.volume.may_hold(offset) => {
                    self.add_uses(offset, 1);
                }
                Table::At { .. } | Table::Bad => {
                    let offset = reftable.entry_offset(index);
                    tell(report, Finding::BadEntry { offset, entry: raw });
                }
            }
        }
        self.count_tree(&l1, report, tell)?;
        self.count_snapshots(report, tell)?;
        self.count_bitmaps(report, tell)?;
        self.overlaps(report, tell)
    }

    fn count_snapshots(
        &mut self,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        let opened = self.opened;
        let start = opened.header.snapshots_offset;
        let mut end = start;
        for snapshot in snapshots(self.storage, &opened) {
            let snapshot = match snapshot {
                Ok(snapshot) => snapshot,
                Err(super::SnapshotError::Corrupt { offset }) => {
                    tell(report, Finding::BadSnapshot { offset });
                    break;
                }
                Err(super::SnapshotError::Storage(error)) => {
                    return Err(CheckError::Storage(error));
                }
            };
            end = snapshot.offset.saturating_add(snapshot.entry_bytes());
            let l1 = snapshot.l1;
            let inside = l1.offset.saturating_add(l1.bytes) <= self.volume.len
                && l1.offset & self.volume.geometry.cluster_mask() == 0
                && l1.offset >= self.volume.geometry.cluster_bytes();
            if !inside {
                tell(report, Finding::BadSnapshot { offset: snapshot.offset });
                continue;
            }
            self.add_uses(l1.offset, l1.bytes);
            self.count_tree_of_snapshot(&l1, report, tell)?;
        }
        self.add_uses(start, end.saturating_sub(start));
        Ok(())
    }

    fn count_tree_of_snapshot(
        &mut self,
        l1: &Region,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        // Its clusters are not of the disk: only the findings count.
        let mut aside = Report::default();
        self.count_tree(l1, &mut aside, &mut |_, finding| tell(report, finding))
    }

    /// Adds up what an L1 table refers to, and its L2 tables.
    fn count_tree(
        &mut self,
        l1: &Region,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        for index in 0..l1.entries() {
            let raw = self.entry(l1, index)?;
            match read::l1(&self.volume.geometry, raw) {
                Table::Absent => {}
                Table::At { offset, .. } if self.volume.may_hold(offset) => {
                    self.add_uses(offset, 1);
                    self.count_table(offset, report, tell)?;
                }
                Table::At { .. } | Table::Bad => {
                    let offset = l1.entry_offset(index);
                    tell(report, Finding::BadEntry { offset, entry: raw });
                }
            }
        }
        Ok(())
    }

    fn count_table(
        &mut self,
        table: u64,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        let geometry = self.volume.geometry;
        let words = u8::from(geometry.has_subclusters());
        for n in 0..geometry.table_pages() {
            let at = table.saturating_add(geometry.offset_in_table(n));
            self.read(at, geometry.page_bytes())?;
            for index in 0..1_u64 << geometry.l2_page_bits() {
                let bytes = self.page.as_bytes();
                let raw = entry(bytes, index << words);
                if raw == 0 && words == 0 {
                    continue;
                }
                let word = if words > 0 { entry(bytes, index << 1 | 1) } else { 0 };
                let cluster = self.volume.cluster_at(bytes, index);
                self.count_cluster(cluster, word, report);
                if cluster == Cluster::Bad || word & (word >> 32) & 0xffff_ffff != 0 {
                    let offset = at.saturating_add((index << words).saturating_mul(8));
                    tell(report, Finding::BadEntry { offset, entry: raw });
                }
            }
        }
        Ok(())
    }

    fn count_cluster(&mut self, cluster: Cluster, word: u64, report: &mut Report) {
        let plus = |n: &mut u64| *n = n.saturating_add(1);
        match cluster {
            Cluster::Data(host) => {
                plus(&mut report.data_clusters);
                self.add_uses(host.offset, 1);
            }
            Cluster::Zero { host } => {
                plus(&mut report.zero_clusters);
                if let Some(host) = host {
                    self.add_uses(host.offset, 1);
                }
            }
            Cluster::Packed { offset, len } => {
                plus(&mut report.data_clusters);
                plus(&mut report.packed_clusters);
                self.add_uses(offset, u64::from(len));
            }
            Cluster::Absent if word >> 32 != 0 => plus(&mut report.zero_clusters),
            Cluster::Absent | Cluster::Bad => {}
        }
    }

    /// Metadata that are found through the header are nobody else's.
    fn overlaps(
        &mut self,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        let geometry = self.volume.geometry;
        let mut once = |walk: &Self, offset: u64| {
            let uses = walk.uses_of(geometry.host_cluster(offset));
            if uses > 1 {
                tell(report, Finding::Overlap { offset, uses });
            }
        };
        once(self, 0);
        let (l1, reftable) = (self.volume.l1, self.volume.reftable);
        for region in [l1, reftable] {
            let mut at = 0;
            while at < region.bytes {
                once(self, region.offset.saturating_add(at));
                at = at.saturating_add(geometry.cluster_bytes());
            }
        }
        for index in 0..reftable.entries() {
            let raw = self.entry(&reftable, index)?;
            if let Table::At { offset, .. } = read::reftable(&geometry, raw) {
                once(self, offset);
            }
        }
        Ok(())
    }

    /// Holds the sums against the recorded counts.
    fn compare(&mut self, report: &mut Report, tell: Tell<'_>) -> Result<(), CheckError<S::Error>> {
        self.each_count(&mut |walk, host, counted| {
            let uses = walk.uses_of(host);
            let offset = walk.volume.geometry.cluster_offset(host);
            // Sums end at 65,535.
            let same = counted == uses || (uses == u64::from(u16::MAX) && counted > uses);
            if counted < uses {
                tell(report, Finding::CountTooLow { offset, counted, uses });
            } else if !same {
                report.leaked_clusters =
                    report.leaked_clusters.saturating_add(u64::from(uses == 0));
                tell(report, Finding::Leak { offset, counted, uses });
            }
        })
    }

    /// Tells the recorded count of every cluster that has one, or that is used.
    fn each_count(
        &mut self,
        each: &mut dyn FnMut(&Self, u64, u64),
    ) -> Result<(), CheckError<S::Error>> {
        let geometry = self.volume.geometry;
        let reftable = self.volume.reftable;
        let clusters = self.uses.len() as u64;
        let per_page = 1_u64 << geometry.counts_page_bits();
        let counts = Counts(geometry.refcount_order());
        let blocks = clusters.div_ceil(1 << geometry.counts_bits()).max(reftable.entries());
        for block in 0..blocks {
            let raw = if block < reftable.entries() { self.entry(&reftable, block)? } else { 0 };
            let table = match read::reftable(&geometry, raw) {
                Table::At { offset, .. } if self.volume.may_hold(offset) => offset,
                _ => 0,
            };
            let first = block << geometry.counts_bits();
            if table == 0 && first >= clusters {
                continue;
            }
            for n in 0..geometry.table_pages() {
                if table == 0 {
                    self.page.as_bytes_mut().fill(0);
                } else {
                    let at = table.saturating_add(geometry.offset_in_table(n));
                    self.read(at, geometry.page_bytes())?;
                }
                let first = first.saturating_add(n.saturating_mul(per_page));
                // Most pages of most blocks hold nothing.
                if is_zero(self.page.as_bytes()) && !self.any_uses(first, per_page) {
                    continue;
                }
                for index in 0..per_page {
                    let counted = counts.read(self.page.as_bytes(), index);
                    let host = first.saturating_add(index);
                    if counted > 0 || self.uses_of(host) > 0 {
                        each(self, host, counted);
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the marks of the current tree: an entry is marked when its cluster is used once.
    pub(super) fn copied(
        &mut self,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<(), CheckError<S::Error>> {
        let geometry = self.volume.geometry;
        let l1 = self.volume.l1;
        for index in 0..l1.entries() {
            let raw = self.entry(&l1, index)?;
            let Table::At { offset, is_ours } = read::l1(&geometry, raw) else { continue };
            if !self.volume.may_hold(offset) {
                continue;
            }
            self.judge_mark(l1.entry_offset(index), (offset, is_ours), tell);
            if !geometry.has_subclusters() {
                self.copied_in_table(offset, tell)?;
            }
        }
        Ok(())
    }

    fn copied_in_table(
        &mut self,
        table: u64,
        tell: &mut dyn FnMut(Finding),
    ) -> Result<(), CheckError<S::Error>> {
        let geometry = self.volume.geometry;
        for n in 0..geometry.table_pages() {
            let at = table.saturating_add(geometry.offset_in_table(n));
            self.read(at, geometry.page_bytes())?;
            for index in 0..1_u64 << geometry.l2_page_bits() {
                let bytes = self.page.as_bytes();
                let (Cluster::Data(host) | Cluster::Zero { host: Some(host) }) =
                    self.volume.cluster_at(bytes, index)
                else {
                    continue;
                };
                let place = at.saturating_add(index.saturating_mul(8));
                self.judge_mark(place, (host.offset, host.is_ours), tell);
            }
        }
        Ok(())
    }

    fn judge_mark(
        &self,
        place: u64,
        (offset, is_ours): (u64, bool),
        tell: &mut dyn FnMut(Finding),
    ) {
        let uses = self.uses_of(self.volume.geometry.host_cluster(offset));
        match right_mark(is_ours, uses) {
            Some(false) => tell(Finding::CopiedWrongly { offset: place }),
            Some(true) => tell(Finding::NotCopied { offset: place }),
            None => {}
        }
    }
}

/// What the mark of an entry should be if it is wrong: set when its cluster is used once.
pub(super) const fn right_mark(is_ours: bool, uses: u64) -> Option<bool> {
    match (is_ours, uses) {
        (true, 2..) => Some(false),
        (false, 1) => Some(true),
        _ => None,
    }
}
