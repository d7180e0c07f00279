//! The native format: identity-mapped data and two bits per sector, in pages of two slots.
//!
//! `docs/FORMAT.md` says what each bit is; sections are cited as `[FORMAT n]`. Invariants:
//!
//! 1. A slot of a header or page is written only when the other slot of the pair holds the current
//!    version, durably. A torn write therefore costs nothing that was acknowledged.
//! 2. Data are read only where a published state says that they are there. What a partition held
//!    before never shows.
//! 3. Slot 1 of a page is never written before slot 0 holds a valid page.
//! 4. A pair of slots that no sequence of our writes and power cuts can leave is corruption, and
//!    reads fail. After an orderly end that includes every torn slot.
//! 5. A header change that pages or children depend on (epoch, identity, parent) is durable in both
//!    slots before anything else is done with the image.
#![deny(clippy::big_endian_bytes)]

mod bytes;
mod change;
mod check;
mod geometry;
mod header;
mod image;
mod layer;
mod page;
mod states;
#[cfg(test)]
mod tests;

pub use change::{
    UpdateError, begin_log, close, freeze, open_writable, rollback, set_label, set_parent, thaw,
};
pub use check::{CheckError, Finding, Report, check, load_map, map_len};
pub use geometry::{Geometry, SECTORS_PER_PAGE};
pub use header::{HINT_LEN, Header, LABEL_LEN, LogId, Mode, Parent, VERSION, Window};
pub use image::{
    CreateError, CreateOptions, Fresh, ModeError, OpenError, Opened, create, is_native, open,
};
pub use layer::{Frozen, Writable};
