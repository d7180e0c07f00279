//! The ranges that an image holds, read from its tables in the order of the disk.

use super::geometry::Geometry;
use super::image::{Opened, l1_piece};
use super::volume::Volume;
use crate::format::{Load, Located, Place, Run};
use crate::pages::{PAGE_LEN, Page, StorageKey};
use crate::storage::ReadStorage;
use crate::units::Extent;

/// The next page of the L2 tables, as a walk sees it.
pub(super) enum Step {
    /// The page is in the second scratch page; its table begins at this byte of the file.
    Page { page: u64, table: u64 },
    /// The entry of the L1 table at this byte names a table behind the end of the file.
    Missing { offset: u64, entry: u64 },
    /// The entry of the L1 table at this byte is impossible; the pages of its table are passed by.
    Corrupt { offset: u64, entry: u64 },
    /// All pages have been seen.
    End,
}

/// Walks over the pages of the tables that exist, with two pages of scratch: one for the L1 table.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) volume: Volume,
    next: u64,
    /// The L1 entries in the first scratch page: the first one's number, and how many.
    l1: (u64, usize),
}

impl Walk {
    pub(super) const fn new(opened: &Opened) -> Self {
        Self { volume: opened.volume(StorageKey(0)), next: 0, l1: (0, 0) }
    }

    /// Passes by the rest of the table of `page`.
    pub(super) fn skip_table(&mut self, page: u64) {
        let g = &self.volume.geometry;
        self.next = g.pages_of(g.table_of(page)).end;
    }

    pub(super) fn step<S: ReadStorage>(
        &mut self,
        storage: &S,
        scratch: &mut [Page; 2],
    ) -> Result<Step, S::Error> {
        let g = self.volume.geometry;
        let [l1, l2] = scratch;
        while self.next < g.pages() {
            let page = self.next;
            let table = g.table_of(page);
            let (first, count) = self.l1;
            let at = table.wrapping_sub(first);
            let Some(at) = usize::try_from(at).ok().filter(|at| *at < count) else {
                self.l1 = (table, l1_piece(storage, &g, table, l1)?);
                continue;
            };
            let entries = l1.as_bytes().as_chunks::<8>().0;
            let entry = entries.get(at).map_or(0, |entry| g.l1_entry(*entry));
            if entry == 0 || entry >= self.volume.len {
                self.next = g.pages_of(table).end;
                if entry == 0 {
                    continue;
                }
                return Ok(Step::Missing { offset: g.l1_entry_offset(table), entry });
            }
            if !self.volume.may_be_table(entry) {
                self.next = g.pages_of(table).end;
                return Ok(Step::Corrupt { offset: g.l1_entry_offset(table), entry });
            }
            self.next = page.saturating_add(1);
            self.read_page(storage, page, entry, l2)?;
            return Ok(Step::Page { page, table: entry });
        }
        Ok(Step::End)
    }

    fn read_page<S: ReadStorage>(
        &self,
        storage: &S,
        page: u64,
        table: u64,
        l2: &mut Page,
    ) -> Result<(), S::Error> {
        let mut note = 0;
        let bytes = l2.as_bytes_mut();
        let load = self.volume.load(page, 0, Some(table), &mut note, bytes);
        if let Load::Read { offset, len } = load {
            let len = usize::try_from(len).unwrap_or(PAGE_LEN);
            storage.read_at(offset, bytes.get_mut(..len).unwrap_or_default())?;
        }
        let _ready = self.volume.load(page, 1, Some(table), &mut note, bytes);
        Ok(())
    }
}

/// The ranges that an image holds, in the order of the disk. Neighbours that are also neighbours in
/// the file are one range, but not across the pages of a table.
#[derive(Debug)]
pub struct Runs<'s> {
    walk: Walk,
    scratch: &'s mut [Page; 2],
    /// What is left of the page in the scratch, and where its table is.
    rest: Extent,
    table: u64,
}

/// Why the ranges could not be told any further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RunsError<E> {
    /// The tables contradict themselves at this byte of the file. The walk may go on.
    Corrupt {
        /// Byte offset.
        offset: u64,
    },
    /// The medium failed.
    Storage(E),
}

impl<E> core::fmt::Display for RunsError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Corrupt { offset } => write!(f, "the tables are corrupt at byte {offset}"),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for RunsError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage(e) = self { Some(e) } else { None }
    }
}

impl<'s> Runs<'s> {
    /// Of an image that nobody writes to meanwhile.
    pub const fn new(opened: &Opened, scratch: &'s mut [Page; 2]) -> Self {
        Self { walk: Walk::new(opened), scratch, rest: Extent::EMPTY, table: 0 }
    }

    /// The next range and where its first sector is; never [`Place::Absent`]. `None` at the end.
    ///
    /// # Errors
    /// [`RunsError`].
    pub fn next<S: ReadStorage>(
        &mut self,
        storage: &S,
    ) -> Result<Option<(Extent, Place)>, RunsError<S::Error>> {
        loop {
            while !self.rest.is_empty() {
                if let Some(found) = self.next_in_page()? {
                    return Ok(Some(found));
                }
            }
            match self.walk.step(storage, self.scratch).map_err(RunsError::Storage)? {
                Step::End => return Ok(None),
                Step::Missing { .. } => {}
                Step::Corrupt { offset, .. } => return Err(RunsError::Corrupt { offset }),
                Step::Page { page, table } => {
                    self.rest = page_extent(&self.walk.volume.geometry, page);
                    self.table = table;
                }
            }
        }
    }

    fn next_in_page<E>(&mut self) -> Result<Option<(Extent, Place)>, RunsError<E>> {
        let volume = &self.walk.volume;
        let spot = volume.geometry.spot(self.rest.start());
        let [_, page] = &*self.scratch;
        match volume.locate_in(self.rest, &spot, page.as_bytes(), self.table) {
            Located::Run(Run { sectors, place }) => {
                let extent = self.rest.take(sectors);
                self.rest = self.rest.skip(sectors.max(1));
                // Bytes that the file lacks of a present cluster are `Zero` too, and are held.
                let held = spot_is_present(volume, page, spot.slot);
                Ok((place != Place::Absent && held).then_some((extent, place)))
            }
            Located::Corrupt { offset } => {
                self.rest = self.rest.skip(volume.reach(self.rest, &spot, 1).max(1));
                Err(RunsError::Corrupt { offset })
            }
            Located::Load(_) => {
                self.rest = Extent::EMPTY; // never asked: the page is here
                Ok(None)
            }
        }
    }
}

fn spot_is_present(volume: &Volume, page: &Page, slot: usize) -> bool {
    volume.entry(page.as_bytes(), slot) != super::volume::Entry::Absent
}

/// The sectors of the disk whose clusters are in a page.
fn page_extent(g: &Geometry, page: u64) -> Extent {
    let first = g.first_sector(g.page_cluster(page));
    let behind = g.first_sector(g.page_cluster(page.saturating_add(1))).min(g.sectors());
    Extent::new(first, behind.saturating_sub(first)).unwrap_or_default()
}
