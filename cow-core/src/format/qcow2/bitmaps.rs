//! Bitmaps of changes: not read, but their clusters are in use as long as the header vouches for them.
//!
//! A directory lists bitmaps; each has a table of clusters. The header names the directory in an
//! extension, and says with an autoclear bit whether it still holds: whoever writes to the disk without
//! keeping the bitmaps up to date, such as we, takes that bit away, and the clusters become lost space.

use super::bytes::{u16_at, u32_at, u64_at};
use super::check::{CheckError, Finding, Report, Tell, Walk};
use super::entry::OFFSET;
use super::volume::Region;
use crate::storage::ReadStorage;

/// Bytes of the extension, and of an entry of the directory without its name.
pub(super) const EXT_LEN: usize = 24;
const ENTRY_LEN: usize = 24;

/// What an entry of a table may have beside the place of its cluster: all of the bits are set.
const ALL_SET: u64 = 1;

/// Where the directory is, as the extension says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bitmaps {
    count: u32,
    directory: Region,
}

impl Bitmaps {
    pub(super) fn parse(extension: &[u8; EXT_LEN]) -> Self {
        let directory = Region { offset: u64_at(extension, 16), bytes: u64_at(extension, 8) };
        Self { count: u32_at(extension, 0), directory }
    }
}

impl<S: ReadStorage> Walk<'_, S> {
    /// Adds up what the bitmaps refer to. No cluster of a table is walked twice, however often it is
    /// named.
    pub(super) fn count_bitmaps(
        &mut self,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        let Some(Bitmaps { count, directory }) = self.bitmaps() else { return Ok(()) };
        let end = directory.offset.saturating_add(directory.bytes);
        let mut at = directory.offset;
        if count == 0 || !self.is_free_for(&directory) {
            tell(report, Finding::BadBitmaps { offset: at });
            return Ok(());
        }
        self.add_uses(directory.offset, directory.bytes);
        for _ in 0..count {
            let mut entry = [0; ENTRY_LEN];
            let there = at.saturating_add(ENTRY_LEN as u64) <= end.min(self.volume.len);
            if there {
                self.storage.read_at(at, &mut entry).map_err(CheckError::Storage)?;
            }
            let behind =
                u64::from(u16_at(&entry, 18)).saturating_add(u64::from(u32_at(&entry, 20)));
            let next = at.saturating_add(ENTRY_LEN as u64).saturating_add(behind);
            if !there || next > end {
                tell(report, Finding::BadBitmaps { offset: at });
                return Ok(());
            }
            let bytes = u64::from(u32_at(&entry, 8)).saturating_mul(8);
            let table = Region { offset: u64_at(&entry, 0), bytes };
            if self.is_free_for(&table) {
                self.add_uses(table.offset, table.bytes);
                self.count_bitmap(&table, report, tell)?;
            } else {
                tell(report, Finding::BadBitmaps { offset: at });
            }
            at = next.next_multiple_of(8);
        }
        Ok(())
    }

    fn count_bitmap(
        &mut self,
        table: &Region,
        report: &mut Report,
        tell: Tell<'_>,
    ) -> Result<(), CheckError<S::Error>> {
        for index in 0..table.entries() {
            let raw = self.entry(table, index)?;
            let offset = raw & OFFSET;
            let is_aligned = offset & self.volume.geometry.cluster_mask() == 0;
            let is_known = raw & !(OFFSET | ALL_SET) == 0 && (offset == 0 || raw & ALL_SET == 0);
            if !is_known || !is_aligned || (offset != 0 && !self.volume.may_hold(offset)) {
                let offset = table.entry_offset(index);
                tell(report, Finding::BadEntry { offset, entry: raw });
            } else if offset != 0 {
                self.add_uses(offset, 1);
            }
        }
        Ok(())
    }

    /// A table can be there: aligned, inside the image, and where nothing else is.
    fn is_free_for(&self, region: &Region) -> bool {
        let geometry = &self.volume.geometry;
        let end = region.offset.saturating_add(region.bytes);
        let first = geometry.host_cluster(region.offset);
        let clusters = geometry.host_cluster(geometry.round_up(region.bytes));
        region.offset & geometry.cluster_mask() == 0
            && region.bytes > 0
            && end <= geometry.round_up(self.volume.len)
            && !self.any_uses(first, clusters)
    }
}
