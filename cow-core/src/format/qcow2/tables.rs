//! Room for a writer: free clusters, reference counts, new tables and blocks.
//!
//! Every step looks at one page or changes one, and is remembered: with a pool of two pages the
//! next step may find that page gone.

use super::allocation::{Search, Step};
use super::bytes::put_entry;
use super::entry::{COPIED, OFFSET};
use super::geometry::{Counts, MAX_HOST_OFFSET};
use super::volume::{PAGE_ENTRIES_BITS, PageName};
use super::writable::{Writable, is_ours};
use crate::format::{Applied, Placed};
use crate::pages::{FrameState, PagePool};

/// Clusters of a run that is found at once: bounds the work of a call.
const RUN: u64 = 256;

/// Pages of counts that are looked at for one run.
const MAX_PAGES: usize = 64;

impl Writable {
    /// Where a table is that the table above does not name in the storage yet.
    pub(super) fn known_table(&self, name: PageName) -> Option<u64> {
        let bits = self.volume.geometry.table_page_bits();
        let (table, mark) = match name {
            PageName::L2(n) => (self.tables.find(n >> bits)?, COPIED),
            PageName::Counts(n) => (self.blocks.find(n >> bits)?, 0),
            PageName::L1(_) | PageName::Reftable(_) => return None,
        };
        (table.step >= Step::Known).then_some(table.offset | mark)
    }

    /// Clusters below this one exist from now on.
    pub(super) fn use_up_to(&mut self, cluster: u64) {
        self.free.unused = self.free.unused.max(cluster);
        let end = self.volume.geometry.cluster_offset(self.free.unused);
        self.volume.limit = self.volume.limit.max(end);
        self.volume.len = self.volume.limit;
    }

    /// Finds clusters to hand out: in the next page that may have holes, else behind all others.
    pub(super) fn find_run(&mut self, pages: &PagePool<'_>) -> Result<(), Placed> {
        let per_page = 1_u64 << self.volume.geometry.counts_page_bits();
        if self.free.scan_allowed && !self.free.scanned && self.free.scan < self.free.unused {
            let from = self.free.scan;
            let page_end = (from & !per_page.wrapping_sub(1)).saturating_add(per_page);
            let end = page_end.min(self.free.unused);
            if let Some((first, end)) = self.search(from, end, pages)? {
                self.free.scan = end;
                self.free.found(first, end);
                return Ok(());
            }
            self.free.scan = end;
            self.free.scanned = true;
        }
        let most = self.capacity.min(MAX_HOST_OFFSET >> self.volume.geometry.cluster_bits());
        // Behind the last cluster in use all are free; only leaks could make this go on.
        for _ in 0..MAX_PAGES {
            let from = self.free.unused;
            let page_end = (from & !per_page.wrapping_sub(1)).saturating_add(per_page);
            let end = page_end.min(most);
            if from >= end {
                return Err(Placed::Full);
            }
            let first = self.counted_from(from, pages)?;
            let found = self.search(first.min(end), end, pages)?;
            if let Some((first, end)) = found {
                self.use_up_to(end);
                self.free.found(first, end);
                return Ok(());
            }
            self.use_up_to(end);
        }
        Err(Placed::Full)
    }

    /// The first free run in one page of counts.
    fn search(
        &self,
        from: u64,
        end: u64,
        pages: &PagePool<'_>,
    ) -> Result<Option<(u64, u64)>, Placed> {
        let geometry = &self.volume.geometry;
        let n = from >> geometry.counts_page_bits();
        let name = PageName::Counts(n);
        let Some((_, page, note)) = self.volume.find(pages, name) else {
            return Err(Placed::Load(name.number()));
        };
        let block = n >> geometry.table_page_bits();
        if note & OFFSET == 0 && self.blocks.find(block).is_none() {
            return Ok(None); // nothing is counted here, and no block to count in
        }
        let search = Search {
            counts: Counts(geometry.refcount_order()),
            page,
            first: n << geometry.counts_page_bits(),
            pending: &self.pending,
            tables: &self.tables,
            blocks: &self.blocks,
            volume: &self.volume,
        };
        Ok(search.run(from, end, RUN))
    }

    /// Sees to it that clusters from `from` on have, or will have, a block to be counted in. Gives
    /// the first that may be handed out.
    fn counted_from(&mut self, from: u64, pages: &PagePool<'_>) -> Result<u64, Placed> {
        let geometry = self.volume.geometry;
        let n = from >> geometry.counts_page_bits();
        let name = PageName::Counts(n);
        let Some((_, _, note)) = self.volume.find(pages, name) else {
            return Err(Placed::Load(name.number()));
        };
        let block = n >> geometry.table_page_bits();
        if note & OFFSET != 0 || self.blocks.find(block).is_some() {
            return Ok(from);
        }
        if block >= self.volume.reftable.entries() {
            return Err(Placed::Full);
        }
        // The block counts itself.
        if !self.blocks.insert(block, 0, geometry.cluster_offset(from)) {
            return Err(Placed::AfterCommit);
        }
        self.use_up_to(from.saturating_add(1));
        Ok(from.saturating_add(1))
    }

    /// Sees to it that the block that counts a cluster is there. `None`: it is.
    fn ready_block(&mut self, host: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let geometry = self.volume.geometry;
        let n = host >> geometry.counts_page_bits();
        let index = n >> geometry.table_page_bits();
        let Some(block) = self.blocks.find(index) else {
            let name = PageName::Counts(n);
            let Some((_, _, note)) = self.volume.find(pages, name) else {
                return Some(Applied::Load(name.number()));
            };
            if note & OFFSET != 0 {
                return None;
            }
            return self.block_for_noted(index);
        };
        match block.step {
            Step::Named => return None,
            Step::Counted => {}
            Step::None | Step::Wanted => {
                return Some(Applied::ZeroFirst {
                    offset: block.offset,
                    len: geometry.cluster_bytes(),
                });
            }
            Step::Prepared => {
                let first = index << geometry.table_page_bits();
                if let Some(wait) = self.move_pages(PageName::Counts(first), block.offset, pages) {
                    return Some(wait);
                }
                self.blocks.set_step(index, Step::Known);
                return self.count_block(index, block.offset, pages);
            }
            Step::Known => return self.count_block(index, block.offset, pages),
        }
        self.name_block(index, block.offset, pages)
    }

    /// Counts a new block in itself.
    fn count_block(
        &mut self,
        index: u64,
        offset: u64,
        pages: &mut PagePool<'_>,
    ) -> Option<Applied> {
        let own = self.volume.geometry.host_cluster(offset);
        if let Some(wait) = self.write_count(own, |_| Some(1), pages) {
            return Some(wait);
        }
        // Remembered: the pool may be too small to hold this page open beside the next one.
        self.blocks.set_step(index, Step::Counted);
        self.name_block(index, offset, pages)
    }

    fn name_block(&mut self, index: u64, offset: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let page = PageName::Reftable(index >> PAGE_ENTRIES_BITS);
        let (id, _) = match self.open_page(page, pages) {
            Ok(open) => open,
            Err(wait) => return Some(wait),
        };
        if let Some(bytes) = pages.page_mut(id) {
            let within = index & ((1 << PAGE_ENTRIES_BITS) - 1);
            put_entry(bytes, within, offset);
        }
        self.blocks.set_step(index, Step::Named);
        None
    }

    /// A block for clusters that an earlier process noted: where that process had it, or before.
    /// Its own clusters all lie behind.
    fn block_for_noted(&mut self, index: u64) -> Option<Applied> {
        let geometry = self.volume.geometry;
        let first = index << geometry.counts_bits();
        let at = self.free.used_at_open.max(first);
        if index >= self.volume.reftable.entries() {
            return Some(Applied::Full);
        }
        if !self.blocks.insert(index, 0, geometry.cluster_offset(at)) {
            return Some(Applied::AfterCommit);
        }
        let offset = geometry.cluster_offset(at);
        Some(Applied::ZeroFirst { offset, len: geometry.cluster_bytes() })
    }

    /// Has all pages of a table that are in the pool come from `table` on: their bytes are the same
    /// there. Waits for those that are being loaded from elsewhere.
    fn move_pages(&self, first: PageName, table: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let storage = self.volume.storage;
        let numbers = || (0..self.volume.geometry.table_pages()).map(|n| first.number() | n);
        for number in numbers() {
            let loading = pages
                .find(storage, number)
                .is_some_and(|id| pages.state(id) == FrameState::Loading);
            if loading {
                return Some(Applied::Load(number));
            }
        }
        for number in numbers() {
            if let Some(id) = pages.find(storage, number) {
                pages.set_aux(id, table);
            }
        }
        None
    }

    /// Changes a count in an open page. `change` gives the new one, or `None` for a contradiction.
    fn write_count(
        &self,
        host: u64,
        change: impl Fn(u64) -> Option<u64>,
        pages: &mut PagePool<'_>,
    ) -> Option<Applied> {
        let geometry = &self.volume.geometry;
        let n = host >> geometry.counts_page_bits();
        let (id, note) = match self.open_page(PageName::Counts(n), pages) {
            Ok(open) => open,
            Err(wait) => return Some(wait),
        };
        let counts = Counts(geometry.refcount_order());
        let index = host & ((1_u64 << geometry.counts_page_bits()).wrapping_sub(1));
        let bytes = pages.page_mut(id)?;
        let old = counts.read(bytes, index);
        match change(old) {
            Some(new) => {
                counts.write(bytes, index, new);
                None
            }
            None => {
                let offset = (note & OFFSET).saturating_add(geometry.offset_in_table(n));
                Some(Applied::Corrupt { offset })
            }
        }
    }

    /// Counts a cluster that nothing names yet. One that an earlier process allocated may be
    /// counted already.
    pub(super) fn count_up(
        &mut self,
        host: u64,
        noted: bool,
        pages: &mut PagePool<'_>,
    ) -> Option<Applied> {
        if let Some(wait) = self.ready_block(host, pages) {
            return Some(wait);
        }
        let change = |old| (old == 0 || (noted && old == 1)).then_some(1);
        self.write_count(host, change, pages)
    }

    /// Counts down what has lost its reference durably, once there is a lot of it.
    pub(super) fn count_down_due(&mut self, pages: &mut PagePool<'_>) -> Option<Applied> {
        while let Some(host) = self.freed.due() {
            match self.is_counted(host, pages) {
                Ok(true) => {}
                // Nowhere to count down: a contradiction that was there before.
                Ok(false) => {
                    self.freed.counted_down(host);
                    continue;
                }
                Err(wait) => return Some(wait),
            }
            // A count of 0 is a contradiction that was there before; it does no further harm.
            let change = |old: u64| Some(old.saturating_sub(1));
            if let Some(wait) = self.write_count(host, change, pages) {
                return Some(wait);
            }
            self.freed.counted_down(host);
            self.free.scan = self.free.scan.min(host);
        }
        None
    }

    /// There is a block that counts this cluster.
    fn is_counted(&self, host: u64, pages: &PagePool<'_>) -> Result<bool, Applied> {
        let name = PageName::Counts(host >> self.volume.geometry.counts_page_bits());
        match self.volume.find(pages, name) {
            Some((_, _, note)) => Ok(note & OFFSET != 0),
            None => Err(Applied::Load(name.number())),
        }
    }

    /// Sees to it that the L2 table of a page is there and ours alone. `None`: it is.
    pub(super) fn ready_table(&mut self, page: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let geometry = self.volume.geometry;
        let index = page >> geometry.table_page_bits();
        let Some(table) = self.tables.find(index) else {
            let name = PageName::L2(page);
            let Some((_, _, note)) = self.volume.find(pages, name) else {
                return Some(Applied::Load(name.number()));
            };
            if is_ours(note) {
                return None;
            }
            if !self.tables.insert(index, note & OFFSET, 0) {
                return Some(Applied::AfterCommit);
            }
            return self.ready_table_from(index, pages);
        };
        if table.step == Step::Named { None } else { self.ready_table_from(index, pages) }
    }

    fn ready_table_from(&mut self, index: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        let geometry = self.volume.geometry;
        let mut table = self.tables.find(index)?;
        if table.offset == 0 {
            if let Some(wait) = self.take_cluster(index, pages) {
                return Some(wait);
            }
            table = self.tables.find(index)?;
        }
        let (to, len) = (table.offset, geometry.cluster_bytes());
        if table.step < Step::Prepared {
            return Some(match table.old {
                0 => Applied::ZeroFirst { offset: to, len },
                from => Applied::CopyFirst { from, to, len },
            });
        }
        if table.old != 0 && !self.freed.has_room() {
            return Some(Applied::AfterCommit);
        }
        let name = PageName::L1(index >> PAGE_ENTRIES_BITS);
        let (id, _) = match self.open_page(name, pages) {
            Ok(open) => open,
            Err(wait) => return Some(wait),
        };
        let first = PageName::L2(index << geometry.table_page_bits());
        if let Some(wait) = self.move_pages(first, to | COPIED, pages) {
            return Some(wait);
        }
        if let Some(bytes) = pages.page_mut(id) {
            put_entry(bytes, index & ((1 << PAGE_ENTRIES_BITS) - 1), to | COPIED);
        }
        self.tables.set_step(index, Step::Named);
        if table.old != 0 {
            let _there_is_room = self.freed.insert(geometry.host_cluster(table.old), 1, false);
        }
        None
    }

    /// Finds a cluster for the L2 table of entry `index`, and counts it.
    fn take_cluster(&mut self, index: u64, pages: &mut PagePool<'_>) -> Option<Applied> {
        if self.free.left() == 0
            && let Err(wait) = self.find_run(pages)
        {
            return Some(match wait {
                Placed::Load(page) => Applied::Load(page),
                Placed::AfterCommit => Applied::AfterCommit,
                _ => Applied::Full,
            });
        }
        let host = self.free.next;
        if let Some(wait) = self.count_up(host, false, pages) {
            return Some(wait);
        }
        let _host = self.free.hand_out(1);
        self.tables.set_offset(index, self.volume.geometry.cluster_offset(host));
        None
    }
}
