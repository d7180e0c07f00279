//! The metadata of an image without data: refcount blocks, refcount table, L1 table, in one region.

use super::bytes::put_entry;
use super::geometry::{Counts, Geometry};
use super::header::{Header, MAX_TABLE_BYTES};
use crate::pages::{PAGE_LEN, Page};
use crate::storage::Storage;

/// Where the tables of an empty image go. The header's cluster is used too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    geometry: Geometry,
    /// First cluster of the region: blocks, then the refcount table, then the L1 table.
    start: u64,
    blocks: u64,
    reftable_clusters: u64,
    l1_clusters: u64,
}

impl Layout {
    /// From cluster `start` on, which is behind the header.
    pub(super) fn at(geometry: &Geometry, start: u64) -> Self {
        let cluster = geometry.cluster_bytes();
        let l1_clusters = geometry.l1_needed().saturating_mul(8).div_ceil(cluster);
        let mut layout = Self {
            geometry: *geometry,
            start,
            blocks: 1,
            reftable_clusters: reftable_clusters(geometry, l1_clusters),
            l1_clusters,
        };
        // Blocks count themselves too, and far behind the table is longer: a few rounds settle it.
        for _ in 0..64 {
            let last = layout.end().saturating_sub(1) >> geometry.counts_bits();
            let first = start >> geometry.counts_bits();
            let apart = u64::from(first > 0);
            let blocks = last.saturating_sub(first).saturating_add(1).saturating_add(apart);
            let table = last.saturating_add(8).saturating_mul(8).div_ceil(cluster);
            if blocks <= layout.blocks && table <= layout.reftable_clusters {
                break;
            }
            layout.blocks = layout.blocks.max(blocks);
            layout.reftable_clusters = layout.reftable_clusters.max(table);
        }
        layout
    }

    /// The cluster behind the region.
    pub(super) const fn end(&self) -> u64 {
        self.start
            .saturating_add(self.blocks)
            .saturating_add(self.reftable_clusters)
            .saturating_add(self.l1_clusters)
    }

    /// The refcount table is not longer than tables may be.
    pub(super) const fn is_possible(&self) -> bool {
        self.geometry.cluster_offset(self.reftable_clusters) <= MAX_TABLE_BYTES
    }

    fn reftable_offset(&self) -> u64 {
        self.geometry.cluster_offset(self.start.saturating_add(self.blocks))
    }

    /// Puts the places of the tables into a header.
    pub(super) fn enter(&self, header: &mut Header) {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let l1 = self.end().saturating_sub(self.l1_clusters);
        header.l1_entries = small(self.geometry.l1_needed());
        header.l1_offset = self.geometry.cluster_offset(l1);
        header.reftable_offset = self.reftable_offset();
        header.reftable_clusters = small(self.reftable_clusters);
    }

    /// Number of the block that is in place `n` of the region.
    fn block_index(&self, n: u64) -> u64 {
        let first = self.start >> self.geometry.counts_bits();
        match (first, n) {
            (0, n) => n,
            // The first block of all counts the header.
            (_, 0) => 0,
            (first, n) => first.saturating_add(n).saturating_sub(1),
        }
    }

    /// Writes the region; a sync follows before anything names it.
    pub(super) fn write<S: Storage>(
        &self,
        storage: &mut S,
        page: &mut Page,
    ) -> Result<(), S::Error> {
        let geometry = &self.geometry;
        let from = geometry.cluster_offset(self.start);
        let end = geometry.cluster_offset(self.end());
        storage.extend(end)?;
        storage.zero_at(from, end.saturating_sub(from))?;
        for n in 0..self.blocks {
            let (index, offset) =
                (self.block_index(n), geometry.cluster_offset(self.start.saturating_add(n)));
            let mut raw = [0; 8];
            put_entry(&mut raw, 0, offset);
            let at = self.reftable_offset().saturating_add(index.saturating_mul(8));
            storage.write_at(at, &raw)?;
            let used = |host| host == 0 || (host >= self.start && host < self.end());
            write_counts(storage, geometry, (index, offset), used, page)?;
        }
        Ok(())
    }
}

/// Counts 1 for the clusters that are used in one refcount block of zeros: its number, its place.
pub(super) fn write_counts<S: Storage>(
    storage: &mut S,
    geometry: &Geometry,
    (index, offset): (u64, u64),
    used: impl Fn(u64) -> bool,
    page: &mut Page,
) -> Result<(), S::Error> {
    let counts = Counts(geometry.refcount_order());
    let len = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
    for n in 0..geometry.table_pages() {
        let first =
            (index << geometry.counts_bits()).saturating_add(n << geometry.counts_page_bits());
        let bytes = page.as_bytes_mut();
        bytes.fill(0);
        let mut any = false;
        for at in 0..1_u64 << geometry.counts_page_bits() {
            if used(first.saturating_add(at)) {
                counts.write(bytes, at, 1);
                any = true;
            }
        }
        if any {
            let at = offset.saturating_add(geometry.offset_in_table(n));
            storage.write_at(at, bytes.get(..len).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Clusters of a refcount table with room for the whole disk, its tables, and a little more.
pub(super) fn reftable_clusters(geometry: &Geometry, l1_clusters: u64) -> u64 {
    let data = geometry.disk_clusters().saturating_add(geometry.l1_needed());
    let slack = data >> 6;
    let all = data.saturating_add(l1_clusters).saturating_add(slack).saturating_add(64);
    let blocks = all.div_ceil(1 << geometry.counts_bits());
    let with_blocks = all.saturating_add(blocks).div_ceil(1 << geometry.counts_bits());
    let bytes = with_blocks.saturating_add(1).saturating_mul(8).min(MAX_TABLE_BYTES);
    bytes.div_ceil(geometry.cluster_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_the_header_and_the_region_wherever_it_is() {
        let geometry = Geometry::new(9, false, 6, 100_000); // 64 counts in a block
        for start in [1, 40, 63, 64, 1000, 6399] {
            let layout = Layout::at(&geometry, start);
            let indexes: Vec<u64> = (0..layout.blocks).map(|n| layout.block_index(n)).collect();
            let mut needed: Vec<u64> = (layout.start..layout.end()).map(|c| c / 64).collect();
            needed.insert(0, 0);
            needed.dedup();
            assert!(needed.iter().all(|n| indexes.contains(n)), "{start}: {indexes:?} {needed:?}");
            assert!(indexes.iter().max() < Some(&(layout.reftable_clusters * 64)));
        }
        // As QEMU makes it: header, table, block, L1.
        let usual = Layout::at(&Geometry::new(16, false, 4, 1 << 32), 1);
        assert_eq!((usual.blocks, usual.reftable_clusters, usual.end()), (1, 1, 4));
    }
    use std::vec::Vec;
}
