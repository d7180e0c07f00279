//! Layers of the `cow` target that was posted for device-mapper in November 2006 and never merged:
//! a device with the sectors, and a bitmap on another device.
//!
//! ```text
//! bitmap device   | bitmap, a bit for each sector | ... | magic, length |
//! write device    | ... | sector 0 | sector 1 | ...      from the table's offset on
//! ```
//!
//! Nothing says how large the disk is, which devices belong together or where the sectors begin:
//! that was in the device-mapper table, and is a [`Table`] here. `docs/FORMAT-DM-COW.md` has the
//! layout and the defects of the posted code. The bitmap engine is [`bitmap`](super::bitmap).

mod error;
mod image;
#[cfg(test)]
mod tests;

pub use error::{CreateError, OpenError};
pub use image::{Layout, Opened, Table, bitmap_bytes, check, create, open, rollback, unmark};
