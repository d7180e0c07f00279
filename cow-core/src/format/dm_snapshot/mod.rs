//! The persistent store of the kernel's `snapshot` target, read and written byte for byte.
//!
//! ```text
//! chunk 0      1        2 .. E+1     E+2      E+3 ..
//! header       area 0   data         area 1   data        E = chunk bytes / 16
//! ```
//!
//! The header is `SnAp`, valid, version 1 and the chunk size in sectors, four little-endian u32.
//! An area is a list of exceptions: chunk of the disk, chunk of the store, two little-endian u64.
//! The list ends at the first exception whose second word is 0; a full area continues in the next
//! one. Everything that is not in the list is read from below. `docs/FORMAT-DM-SNAPSHOT.md` has
//! the whole story; the lines below are what the code relies on.
//!
//! 1. The list on the medium is at any time a prefix of the order in which [`Writable`] appended.
//! 2. Whatever lies in an area behind the end of the list is zero before anything is appended, and
//!    area a + 1 is zero and durable before the last exception of area a is published.
//! 3. An exception is published only when all sectors of its chunk that the disk has are durable.
//! 4. A sector of 512 bytes reaches the medium whole or not at all.
//!
//! From a storage to a chain: [`open`], then for writing [`clear_stale`], then [`load_index`] and
//! one of [`Writable::new`] and [`Frozen::new`].

mod check;
mod error;
mod geometry;
mod index;
mod overlay;
mod store;
#[cfg(test)]
mod tests;
mod walk;

pub use check::{Report, check};
pub use error::{
    CheckError, CreateError, Fault, HeaderFault, IndexTooSmall, LoadError, OpenError,
    RefuseWriting, RollbackError, WalkError,
};
pub use geometry::{Geometry, MAX_CHUNK_SECTORS};
pub use index::{index_needed, move_index};
pub use overlay::{Overflow, Writable};
pub use store::{
    Loaded, Opened, SCRATCH_MIN_LEN, Usage, clear_stale, create, invalidate, is_store, load_index,
    open, open_even_invalidated, rollback, unmark,
};
pub use walk::{Exception, Exceptions};

use super::{IndexEntry, Load, Located, Map, Place, Run};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::Extent;

/// Chunks that one lookup merges at most: bounds the work for tiny chunks and long requests.
const MERGE_CHUNKS: u64 = 128;

/// A frozen store with its filled index.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'m> {
    storage: StorageKey,
    geometry: Geometry,
    index: &'m [IndexEntry],
}

impl<'m> Frozen<'m> {
    /// The store as a layer. `index` is the memory that [`load_index`] filled to give `loaded`.
    pub const fn new(storage: StorageKey, loaded: &Loaded, index: &'m [IndexEntry]) -> Self {
        Self { storage, geometry: loaded.geometry(), index }
    }

    /// Sizes of the store and the disk.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The ranges of the disk that the store holds.
    pub const fn runs(&self) -> Runs<'m> {
        runs(self.geometry, self.index)
    }

    pub(crate) const fn index(&self) -> &'m [IndexEntry] {
        self.index
    }
}

impl Map for Frozen<'_> {
    fn sectors(&self) -> u64 {
        self.geometry.disk_sectors()
    }

    fn storage(&self) -> StorageKey {
        self.storage
    }

    fn locate(&self, extent: Extent, _pages: &PagePool<'_>, index: &[IndexEntry]) -> Located {
        Located::Run(locate(&self.geometry, extent, index))
    }

    fn load(&self, _page: u64, _step: u8, _note: &mut u64, _bytes: &mut [u8; PAGE_LEN]) -> Load {
        Load::Ready // never asked: the index answers every lookup
    }
}

/// Where the first sectors of `extent` are. Pending chunks are still below.
fn locate(geometry: &Geometry, extent: Extent, index: &[IndexEntry]) -> Run {
    let first = geometry.chunk_of(extent.start());
    let held = |chunk| index::find(index, chunk).filter(|m| !m.pending).map(|m| m.chunk);
    let here = held(first);
    let mut sectors = geometry.chunk_sectors().saturating_sub(geometry.within(extent.start()));
    for i in 1..MERGE_CHUNKS {
        let expected = here.map(|chunk| chunk.wrapping_add(i));
        if sectors >= extent.sectors() || held(first.wrapping_add(i)) != expected {
            break;
        }
        sectors = sectors.saturating_add(geometry.chunk_sectors());
    }
    let place = here.map_or(Place::Absent, |chunk| Place::Data {
        offset: geometry.sector_offset(chunk, extent.start()),
    });
    Run { sectors: sectors.min(extent.sectors()), place }
}

/// The ranges that a store holds, in the order of the disk; neighbours that are also neighbours in
/// the store are usually one range.
#[derive(Clone, Debug)]
pub struct Runs<'m> {
    geometry: Geometry,
    index: &'m [IndexEntry],
    rest: Extent,
}

const fn runs(geometry: Geometry, index: &[IndexEntry]) -> Runs<'_> {
    let rest = match Extent::new(0, geometry.disk_sectors()) {
        Some(disk) => disk,
        None => Extent::EMPTY,
    };
    Runs { geometry, index, rest }
}

impl Iterator for Runs<'_> {
    /// The sectors, and the byte of the store where the first of them is.
    type Item = (Extent, u64);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let run = locate(&self.geometry, self.rest, self.index);
            let extent = self.rest.take(run.sectors);
            self.rest = self.rest.skip(run.sectors);
            if let Place::Data { offset } = run.place {
                return Some((extent, offset));
            }
        }
        None
    }
}
