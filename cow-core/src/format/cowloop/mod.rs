//! The cowfile of cowloop: 1 KiB units, a head of C integers, a dirty flag.
//!
//! ```text
//! 0      1024                        doffset
//! head | bitmap, a bit for each unit | unit 0 | unit 1 | ...
//! ```
//!
//! `docs/FORMAT-COWLOOP.md` has the layout. The bitmap engine is [`bitmap`](super::bitmap), with its
//! invariants. Beyond them:
//!
//! 1. The head says dirty, durably, before the first bit of a session reaches the medium, and clean
//!    only when all bits and the right count of them are durable.
//! 2. While this program writes, the count in the head is one that no other program writes. So a
//!    file that was cut short is told from one of the driver: ours has all bits of acknowledged
//!    writes; in the driver's they may be missing, and it needs [`repair`].
//! 3. When a session ends in order, what has no bit is zero: the driver's repair would believe it.

mod error;
mod head;
mod image;
mod pack;
mod parent;
#[cfg(test)]
mod tests;
mod unlisted;

pub use error::{CloseError, CreateError, LoadError, OpenError, PackError, ParentFault};
pub use head::{Width, is_cowloop};
pub use image::{
    CreateOptions, Opened, Repaired, check, close, create, load_index, open, open_in_any_state,
    open_writable, repair, rollback, set_fingerprint,
};
pub use pack::{pack, unpack};
pub use parent::{Fingerprint, fingerprint};
