//! What UML's COW files, dm-cow and cowloop have in common: data at the same place as in the disk,
//! and a bitmap that says which of them are there.
//!
//! ```text
//! metadata storage   | ... | bitmap: bit n = unit n (1 sector, or 2) is here | ...
//! data storage       | ... | unit 0 | unit 1 | unit 2 | ...
//! ```
//!
//! The modules of these formats read and judge headers and give a [`Geometry`]; everything behind
//! that is here, once. Most have one storage for both. Invariants:
//!
//! 1. Bits only ever get set. A bit is set in a page only when the data of its whole unit are
//!    written, and the page reaches the storage only when they are durable. So every bit of every
//!    version of a page is true, whatever a power cut leaves of its write: any mix of an older and a
//!    newer version, torn between sectors or between bytes, names only data that are there.
//! 2. A page of 4 KiB is a unit of reading and writing, not of atomicity: with a bitmap at an odd
//!    place (byte 280, byte 4120) two pages share a sector of the medium, and by 1 that is harmless.
//! 3. Bytes behind the last bit are never changed: what a page write covers ends with the bitmap.
//! 4. Nothing is read behind the end of a storage: a bit whose data would be there is corruption,
//!    but for a last sector of which a part is there.

pub(crate) mod bits;
mod geometry;
mod layer;
mod scan;

pub use geometry::Geometry;
pub use layer::{Frozen, Writable};
pub(crate) use layer::{Mark, Volume};
pub use scan::{Finding, Report, Runs, data_sectors, fill_ranks};
pub(crate) use scan::{Judged, first_missing, judge, ranks_needed, read_page};
