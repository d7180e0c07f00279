//! The asking side over a link: questions to one target, long copies, discovery.
//!
//! ```text
//!   session.rs   one target: a question and its answer, with retransmission
//!   transfer.rs  many sectors: a window of requests, data handed over in order
//!   discover.rs  who is there: a broadcast and what comes back
//! ```

mod discover;
mod session;
mod transfer;

pub use discover::{FoundTarget, discover};
pub use session::{DiskIdentity, REQUESTS_MAX, Session};
pub use transfer::SectorSpan;

#[cfg(test)]
mod tests;
