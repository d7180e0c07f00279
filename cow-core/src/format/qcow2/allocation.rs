//! What a writer remembers between a placement and its publication, in bounded memory.
//!
//! 1. A cluster is handed out only if its reference count is 0 and nothing here holds it.
//! 2. A cluster that lost a reference is counted down only after the entry that named it is
//!    durably gone, and so reused only then.

use super::geometry::Counts;
use super::volume::Volume;
use crate::pages::PAGE_LEN;
use crate::units::Extent;

/// Runs of clusters that are being written. A request that needs more has what it has placed
/// applied first.
const PENDING: usize = 64;

/// Runs of clusters to be counted down. When half are taken, the next change counts some down.
const FREED: usize = 32;

/// L2 tables, and refcount blocks, that the table above does not durably name yet.
const TABLES: usize = 32;
const BLOCKS: usize = 8;

/// Where the clusters of a pending run come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// Newly allocated, not counted yet.
    Fresh,
    /// They belong to these clusters of the disk already, which read as zeros.
    Kept,
    /// An earlier process allocated them and left a note; perhaps they are counted.
    Noted,
}

/// Clusters of the disk that are being written to clusters of the storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) disk: u64,
    pub(super) host: u64,
    /// 0 if unused.
    pub(super) clusters: u64,
    /// So many from the first on are counted.
    pub(super) counted: u64,
    pub(super) origin: Origin,
    /// First sector that the request writes: who has it in its range placed this run. Others may
    /// touch the same cluster.
    pub(super) written: u64,
}

impl Pending {
    const NONE: Self =
        Self { disk: 0, host: 0, clusters: 0, counted: 0, origin: Origin::Fresh, written: 0 };

    const fn has(&self, disk: u64) -> bool {
        disk >= self.disk && disk < self.disk.saturating_add(self.clusters)
    }

    const fn is_of(&self, request: Extent) -> bool {
        self.clusters > 0
            && self.written >= request.start().get()
            && self.written < request.end().get()
    }
}

/// See [`Pending`].
#[derive(Debug)]
pub(super) struct PendingRuns([Pending; PENDING]);

impl PendingRuns {
    pub(super) const fn new() -> Self {
        Self([Pending::NONE; PENDING])
    }

    pub(super) fn find(&mut self, disk: u64) -> Option<&mut Pending> {
        self.0.iter_mut().find(|p| p.has(disk))
    }

    /// The run of this cluster, if `request` placed it.
    pub(super) fn of_request(&self, disk: u64, request: Extent) -> Option<&Pending> {
        self.0.iter().find(|p| p.has(disk) && p.is_of(request))
    }

    pub(super) fn holds(&self, disk: u64) -> bool {
        self.0.iter().any(|p| p.has(disk))
    }

    /// Clusters from `disk` on before the next one that is pending, at most `most`.
    pub(super) fn gap(&self, disk: u64, most: u64) -> u64 {
        let ahead =
            self.0.iter().filter(|p| p.clusters > 0).filter_map(|p| p.disk.checked_sub(disk));
        ahead.min().map_or(most, |gap| gap.min(most))
    }

    pub(super) fn has_room(&self) -> bool {
        self.0.iter().any(|p| p.clusters == 0)
    }

    /// False if there is no room.
    pub(super) fn insert(&mut self, run: Pending) -> bool {
        let slot = self.0.iter_mut().find(|p| p.clusters == 0);
        slot.map(|slot| *slot = run).is_some()
    }

    /// The first `clusters` of the run that begins at `disk` are published; `next_sector` is the
    /// first one behind them.
    pub(super) fn published(&mut self, disk: u64, clusters: u64, next_sector: u64) {
        if let Some(p) = self.0.iter_mut().find(|p| p.clusters > 0 && p.disk == disk) {
            p.disk = p.disk.saturating_add(clusters);
            p.host = p.host.saturating_add(clusters);
            p.clusters = p.clusters.saturating_sub(clusters);
            p.counted = p.counted.saturating_sub(clusters);
            p.written = p.written.max(next_sector);
        }
    }

    /// Takes out a run that `request` placed.
    pub(super) fn take(&mut self, request: Extent) -> Option<Pending> {
        let run = self.0.iter_mut().find(|p| p.is_of(request))?;
        Some(core::mem::replace(run, Pending::NONE))
    }

    /// First cluster of the storage behind `host` that is pending: `host` itself, if it is.
    fn busy_from(&self, host: u64) -> Option<u64> {
        let ends_behind = |p: &&Pending| p.host.saturating_add(p.clusters) > host;
        self.0.iter().filter(ends_behind).map(|p| p.host.max(host)).min()
    }
}

/// When a reference may be counted down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum When {
    /// The entry is gone from an open page.
    Open,
    /// That page is being published.
    Sealed,
    /// Now.
    Now,
}

/// Clusters of the storage that lost a reference each.
#[derive(Clone, Copy, Debug)]
struct Freed {
    host: u64,
    /// 0 if unused.
    clusters: u64,
    when: When,
}

/// See [`Freed`].
#[derive(Debug)]
pub(super) struct FreedRuns([Freed; FREED]);

impl FreedRuns {
    pub(super) const fn new() -> Self {
        Self([Freed { host: 0, clusters: 0, when: When::Now }; FREED])
    }

    /// Notes clusters whose entry is gone from an open page (or, with `at_once`, that nothing ever
    /// named). False if there is no room.
    pub(super) fn insert(&mut self, host: u64, clusters: u64, at_once: bool) -> bool {
        let when = if at_once { When::Now } else { When::Open };
        let same = |f: &&mut Freed| {
            f.when == when && f.clusters > 0 && f.host.saturating_add(f.clusters) == host
        };
        if let Some(freed) = self.0.iter_mut().find(same) {
            freed.clusters = freed.clusters.saturating_add(clusters);
            return true;
        }
        let slot = self.0.iter_mut().find(|f| f.clusters == 0);
        slot.map(|slot| *slot = Freed { host, clusters, when }).is_some()
    }

    pub(super) fn has_room(&self) -> bool {
        self.0.iter().any(|f| f.clusters == 0)
    }

    /// The first cluster to be counted down now, if it is time to: half the room is taken.
    pub(super) fn due(&self) -> Option<u64> {
        let taken = self.0.iter().filter(|f| f.clusters > 0).count();
        self.next().filter(|_| taken.saturating_mul(2) >= FREED)
    }

    /// The first cluster that may be counted down.
    fn next(&self) -> Option<u64> {
        self.0.iter().find(|f| f.clusters > 0 && f.when == When::Now).map(|f| f.host)
    }

    /// This cluster was counted down.
    pub(super) fn counted_down(&mut self, host: u64) {
        if let Some(f) = self.0.iter_mut().find(|f| f.clusters > 0 && f.host == host) {
            f.host = host.saturating_add(1);
            f.clusters = f.clusters.saturating_sub(1);
        }
    }

    /// Takes one cluster out, whenever it may be counted down: everything is durable.
    pub(super) fn take_any(&mut self) -> Option<u64> {
        let f = self.0.iter_mut().find(|f| f.clusters > 0)?;
        let host = f.host;
        f.host = host.saturating_add(1);
        f.clusters = f.clusters.saturating_sub(1);
        Some(host)
    }

    fn shift(&mut self, from: When, to: When) {
        self.0.iter_mut().filter(|f| f.when == from).for_each(|f| f.when = to);
    }

    /// Every open page is being published.
    pub(super) fn sealed(&mut self) {
        self.shift(When::Open, When::Sealed);
    }

    /// That failed.
    pub(super) fn failed(&mut self) {
        self.shift(When::Sealed, When::Open);
    }

    pub(super) fn committed(&mut self) {
        self.shift(When::Sealed, When::Now);
    }
}

/// A new L2 table or refcount block, on its way to being named by the table above.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewTable {
    /// Number of the entry above that will name it.
    pub(super) index: u64,
    /// The entry that is there now: the table of which this one is a copy, or 0.
    pub(super) old: u64,
    /// Byte of the storage; 0 until a cluster is found.
    pub(super) offset: u64,
    pub(super) step: Step,
    /// The page that names it is being published.
    sealed: bool,
}

/// How far a [`NewTable`] is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Step {
    /// Unused.
    None,
    Wanted,
    /// Zeroed, or copied.
    Prepared,
    /// Pages of it are read from there.
    Known,
    /// A block: it counts itself.
    Counted,
    /// An open page names it.
    Named,
}

/// See [`NewTable`].
#[derive(Debug)]
pub(super) struct NewTables<const N: usize>([NewTable; N]);

/// L2 tables.
pub(super) type L2Tables = NewTables<TABLES>;
/// Refcount blocks.
pub(super) type CountTables = NewTables<BLOCKS>;

impl<const N: usize> NewTables<N> {
    const NONE: NewTable =
        NewTable { index: 0, old: 0, offset: 0, step: Step::None, sealed: false };

    pub(super) const fn new() -> Self {
        Self([Self::NONE; N])
    }

    pub(super) fn find(&self, index: u64) -> Option<NewTable> {
        self.0.iter().find(|t| t.step != Step::None && t.index == index).copied()
    }

    /// False if there is no room.
    pub(super) fn insert(&mut self, index: u64, old: u64, offset: u64) -> bool {
        let slot = self.0.iter_mut().find(|t| t.step == Step::None);
        let table = NewTable { index, old, offset, step: Step::Wanted, sealed: false };
        slot.map(|slot| *slot = table).is_some()
    }

    pub(super) fn set_offset(&mut self, index: u64, offset: u64) {
        for t in self.0.iter_mut().filter(|t| t.step != Step::None && t.index == index) {
            t.offset = offset;
        }
    }

    pub(super) fn set_step(&mut self, index: u64, step: Step) {
        for t in self.0.iter_mut().filter(|t| t.step != Step::None && t.index == index) {
            t.step = step;
        }
    }

    /// The zeros or the copy at this byte are there.
    pub(super) fn prepared(&mut self, offset: u64) {
        for t in self.0.iter_mut().filter(|t| t.step == Step::Wanted && t.offset == offset) {
            t.step = Step::Prepared;
        }
    }

    /// Entries `first` up to `end` of the table above are in a page that is being published.
    pub(super) fn sealed(&mut self, first: u64, end: u64) {
        for t in self.0.iter_mut().filter(|t| (first..end).contains(&t.index)) {
            t.sealed = t.step == Step::Named;
        }
    }

    /// Publishing entries `first` up to `end` failed.
    pub(super) fn failed(&mut self, first: u64, end: u64) {
        for t in self.0.iter_mut().filter(|t| (first..end).contains(&t.index)) {
            t.sealed = false;
        }
    }

    /// What was being published is durable: it is found without us from now on.
    pub(super) fn committed(&mut self) {
        self.0.iter_mut().filter(|t| t.sealed).for_each(|t| *t = Self::NONE);
    }

    /// Whoever wanted those between `first` and `end` that are not named yet has failed. A cluster
    /// of theirs is a leak then: zeros or a copy may still be on their way to it.
    pub(super) fn forget_unnamed(&mut self, first: u64, end: u64) {
        let unnamed = |t: &&mut NewTable| t.step < Step::Known && (first..end).contains(&t.index);
        self.0.iter_mut().filter(unnamed).for_each(|t| *t = Self::NONE);
    }

    /// Takes out one that nothing will ever name, and that is counted.
    pub(super) fn take_unnamed(&mut self) -> Option<u64> {
        let t = self
            .0
            .iter_mut()
            .find(|t| t.offset > 0 && t.step != Step::None && t.step < Step::Named)?;
        Some(core::mem::replace(t, Self::NONE).offset)
    }

    fn is_busy(&self, offset: u64) -> bool {
        self.0.iter().any(|t| t.step != Step::None && t.offset == offset)
    }
}

/// Clusters that can be handed out, and where more are sought.
#[derive(Debug)]
pub(super) struct Free {
    /// The next to hand out, and the end of the run. All of them have a count of 0.
    pub(super) next: u64,
    pub(super) end: u64,
    /// Nothing at or behind this cluster was ever handed out.
    pub(super) unused: u64,
    /// A run is needed and none is there.
    pub(super) wanted: bool,
    /// Where holes are sought next, and whether that page was looked at since a run was found.
    pub(super) scan: u64,
    pub(super) scanned: bool,
    /// Notes of an earlier process may still be taken up: holes may be theirs.
    pub(super) scan_allowed: bool,
    /// Behind the last cluster in use when the image was opened.
    pub(super) used_at_open: u64,
}

impl Free {
    pub(super) const fn new(used: u64, unused: u64) -> Self {
        Self {
            next: 0,
            end: 0,
            unused,
            wanted: false,
            scan: 0,
            scanned: false,
            scan_allowed: false,
            used_at_open: used,
        }
    }

    pub(super) const fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }

    pub(super) fn hand_out(&mut self, clusters: u64) -> u64 {
        let first = self.next;
        self.next = first.saturating_add(clusters);
        first
    }

    /// Takes a run back that was handed out and never counted.
    pub(super) fn take_back(&mut self, host: u64, clusters: u64) {
        let end = host.saturating_add(clusters);
        if end == self.next {
            self.next = host;
        } else if self.left() == 0 {
            (self.next, self.end) = (host, end);
        } else {
            self.scan = self.scan.min(host);
        }
    }

    pub(super) fn found(&mut self, first: u64, end: u64) {
        (self.next, self.end) = (first, end);
        self.wanted = false;
        self.scanned = false;
    }
}

/// The first run of clusters with a count of 0 in a page of counts that nothing else holds.
pub(super) struct Search<'a> {
    pub(super) counts: Counts,
    pub(super) page: &'a [u8; PAGE_LEN],
    /// Cluster of the page's first count.
    pub(super) first: u64,
    pub(super) pending: &'a PendingRuns,
    pub(super) tables: &'a L2Tables,
    pub(super) blocks: &'a CountTables,
    pub(super) volume: &'a Volume,
}

impl Search<'_> {
    /// Looks from cluster `from` up to `end` for at most so many.
    pub(super) fn run(&self, from: u64, end: u64, most: u64) -> Option<(u64, u64)> {
        let start = (from..end).find(|host| self.is_free(*host))?;
        let end = end.min(start.saturating_add(most));
        let run_end = (start..end).find(|host| !self.is_free(*host)).unwrap_or(end);
        Some((start, run_end))
    }

    fn is_free(&self, host: u64) -> bool {
        let offset = self.volume.geometry.cluster_offset(host);
        self.counts.read(self.page, host.saturating_sub(self.first)) == 0
            && self.volume.is_apart(offset)
            && self.pending.busy_from(host) != Some(host)
            && !self.tables.is_busy(offset)
            && !self.blocks.is_busy(offset)
    }
}
