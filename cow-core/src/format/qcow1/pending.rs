//! Clusters that were allocated for requests under way and are not yet in a table.
//!
//! The memory is small and fixed: one run for each stretch of absent clusters of a request. A
//! request that needs more has what it placed so far entered first.

/// Runs at a time.
pub(super) const RUNS: usize = 32;

/// Consecutive clusters of the disk, at consecutive clusters of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The first cluster.
    pub(super) first: u64,
    /// Byte offset in the file.
    pub(super) offset: u64,
    /// The sector behind the request's last one: its name, since requests under way are disjoint.
    owner: u64,
    /// Clusters; 0 for an unused run.
    count: u32,
    /// Sectors of the first cluster before those that the request writes.
    lead: u8,
    /// Noted by an earlier process.
    adopted: bool,
}

impl Run {
    const UNUSED: Self = Self { first: 0, offset: 0, owner: 0, count: 0, lead: 0, adopted: false };

    const fn end(&self) -> u64 {
        self.first.wrapping_add(self.count as u64)
    }

    const fn covers(&self, cluster: u64) -> bool {
        cluster >= self.first && cluster < self.end()
    }

    /// Clusters from `cluster`, which it covers, to its end.
    pub(super) const fn left(&self, cluster: u64) -> u64 {
        self.end().saturating_sub(cluster)
    }

    pub(super) const fn is_adopted(&self) -> bool {
        self.adopted
    }
}

/// All runs.
#[derive(Debug)]
pub(super) struct Pending {
    runs: [Run; RUNS],
    cluster_bytes: u64,
    cluster_sectors: u64,
}

impl Pending {
    pub(super) const fn new(cluster_bytes: u64, cluster_sectors: u64) -> Self {
        Self { runs: [Run::UNUSED; RUNS], cluster_bytes, cluster_sectors }
    }

    fn used(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|r| r.count > 0)
    }

    /// The request of the run and the range of sectors have sectors in common. As requests under
    /// way are disjoint, the range is then of that request.
    fn is_of(&self, run: &Run, start: u64, end: u64) -> bool {
        let first = run.first.wrapping_mul(self.cluster_sectors).wrapping_add(run.lead.into());
        first < end && start < run.owner
    }

    /// Where `cluster` is within a run.
    pub(super) const fn place(&self, run: &Run, cluster: u64) -> u64 {
        let into = cluster.wrapping_sub(run.first).wrapping_mul(self.cluster_bytes);
        run.offset.wrapping_add(into)
    }

    /// The first cluster from `cluster` on, below `end`, that any run covers; else `end`.
    pub(super) fn next_run(&self, cluster: u64, end: u64) -> u64 {
        let begins = |r: &Run| if r.covers(cluster) { cluster } else { r.first };
        self.used().map(begins).filter(|c| *c >= cluster).fold(end, u64::min)
    }

    /// A run that covers `cluster`, of whatever request.
    pub(super) fn covering(&self, cluster: u64) -> Option<&Run> {
        self.used().find(|r| r.covers(cluster))
    }

    /// The run of the request with sectors `start` to `end` that covers `cluster`.
    pub(super) fn own(&self, cluster: u64, start: u64, end: u64) -> Option<&Run> {
        self.used().find(|r| r.covers(cluster) && self.is_of(r, start, end))
    }

    /// Adds clusters of the request with the sectors `start` to `owner`. False without room.
    pub(super) fn add(
        &mut self,
        first: u64,
        count: u64,
        offset: u64,
        (start, owner): (u64, u64),
    ) -> bool {
        let Ok(count) = u32::try_from(count) else { return false };
        let lead = self.lead(first, start);
        self.extend(first, count, offset, owner)
            || self.put(Run { first, offset, owner, count, lead, adopted: false })
    }

    /// Adds clusters that an earlier process allocated. False without room.
    pub(super) fn adopt(
        &mut self,
        first: u64,
        count: u64,
        offset: u64,
        (start, owner): (u64, u64),
    ) -> bool {
        let Ok(count) = u32::try_from(count) else { return false };
        let lead = self.lead(first, start);
        self.put(Run { first, offset, owner, count, lead, adopted: true })
    }

    fn lead(&self, first: u64, start: u64) -> u8 {
        let before = start.saturating_sub(first.wrapping_mul(self.cluster_sectors));
        u8::try_from(before).unwrap_or(0) // below 128
    }

    fn put(&mut self, run: Run) -> bool {
        match self.runs.iter_mut().find(|r| r.count == 0) {
            Some(unused) => {
                *unused = run;
                true
            }
            None => false,
        }
    }

    /// Makes a run of the same request longer, if the clusters follow it in disk and file.
    fn extend(&mut self, first: u64, count: u32, offset: u64, owner: u64) -> bool {
        let bytes = self.cluster_bytes;
        let run = self.runs.iter_mut().find(|r| {
            r.count > 0
                && !r.adopted
                && r.owner == owner
                && r.end() == first
                && r.offset.wrapping_add(u64::from(r.count).wrapping_mul(bytes)) == offset
        });
        let Some(run) = run else { return false };
        match run.count.checked_add(count) {
            Some(count) => {
                run.count = count;
                true
            }
            None => false,
        }
    }

    /// The first `clusters` of what the request with sectors `start` to `end` has from `cluster` on
    /// are in the table, and those before them are no more its business.
    pub(super) fn entered(&mut self, cluster: u64, clusters: u64, start: u64, end: u64) {
        let Some(at) = self.at(cluster, start, end) else { return };
        let bytes = self.cluster_bytes;
        let Some(run) = self.runs.get_mut(at) else { return };
        let gone = cluster.wrapping_sub(run.first).saturating_add(clusters);
        let gone = u32::try_from(gone).unwrap_or(u32::MAX).min(run.count);
        run.first = run.first.wrapping_add(gone.into());
        run.offset = run.offset.wrapping_add(u64::from(gone).wrapping_mul(bytes));
        run.count = run.count.wrapping_sub(gone);
        run.lead = 0;
    }

    fn at(&self, cluster: u64, start: u64, end: u64) -> Option<usize> {
        let own = |r: &Run| r.count > 0 && r.covers(cluster) && self.is_of(r, start, end);
        self.runs.iter().position(own)
    }

    /// Takes away what the request with sectors `start` to `end` has from `cluster` on, and tells
    /// `freed` of each range of the file: offset and length in bytes.
    pub(super) fn drop_from(
        &mut self,
        cluster: u64,
        (start, end): (u64, u64),
        mut freed: impl FnMut(u64, u64),
    ) {
        for at in 0..RUNS {
            let Some(run) = self.runs.get(at).copied() else { return };
            if run.count == 0 || !self.is_of(&run, start, end) {
                continue;
            }
            let keep = u32::try_from(cluster.saturating_sub(run.first)).unwrap_or(u32::MAX);
            let keep = keep.min(run.count);
            let gone = u64::from(run.count.wrapping_sub(keep)).wrapping_mul(self.cluster_bytes);
            if gone > 0 {
                freed(self.place(&run, run.first.wrapping_add(keep.into())), gone);
            }
            if let Some(run) = self.runs.get_mut(at) {
                run.count = keep;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clusters of one sector: sectors and clusters are the same numbers.
    fn pending() -> Pending {
        Pending::new(512, 1)
    }

    #[test]
    fn parts_of_a_request_join_and_other_requests_stay_apart() {
        let mut p = pending();
        assert!(p.add(10, 2, 1024, (10, 20)));
        assert!(p.add(12, 3, 2048, (12, 20)));
        assert_eq!(p.used().count(), 1);
        assert!(p.add(20, 1, 3584, (20, 21)));
        assert_eq!(p.used().count(), 2, "another request");
        assert!(p.own(12, 12, 20).is_some() && p.own(20, 12, 20).is_none());
        assert_eq!(p.own(14, 10, 20).map(|r| p.place(r, 14)), Some(1024 + 4 * 512));
        p.entered(10, 3, 10, 20);
        assert!(p.covering(12).is_none());
        assert_eq!(p.own(13, 13, 20).map(|r| (p.place(r, 13), r.left(13))), Some((2560, 2)));
        let mut freed = std::vec::Vec::new();
        p.drop_from(14, (13, 20), |offset, len| freed.push((offset, len)));
        assert_eq!(freed, [(3072, 512)]);
        p.drop_from(0, (13, 20), |offset, len| freed.push((offset, len)));
        assert_eq!(freed, [(3072, 512), (2560, 512)]);
        assert!(p.covering(20).is_some());
    }

    #[test]
    fn a_full_memory_takes_what_continues_a_run_and_nothing_else() {
        let mut p = pending();
        for n in 0..RUNS as u64 {
            assert!(p.add(10 * n, 1, 4096 * n, (10 * n, 10 * n + 5)));
        }
        assert!(!p.add(1001, 1, 1 << 20, (1001, 1002)));
        assert!(!p.adopt(1001, 1, 1 << 20, (1001, 1002)));
        assert!(p.add(1, 1, 512, (1, 5)));
        p.entered(0, 2, 0, 5);
        assert!(p.adopt(1001, 1, 1 << 20, (1001, 1002)));
        assert!(p.covering(1001).is_some_and(Run::is_adopted));
    }
}
