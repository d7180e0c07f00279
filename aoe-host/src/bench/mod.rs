//! A load generator: many initiators in one process, what they ask for, and what it cost.
//!
//! ```text
//!   plan.rs       what to do, and which plans are refused
//!   places.rs     where requests go                              (pure)
//!   wire.rs       how frames leave and enter: the trait, and any `Link` as one
//!   socket.rs     a raw socket as one: cheaper than the servers it measures
//!   find.rs       who is there: a query and IDENTIFY for every client and target
//!   flight.rs     requests under way: tags, frames, retransmission (pure)
//!   model.rs      what every sector must hold                    (pure)
//!   run.rs        the loop that joins them
//!   tally.rs      what is counted; histogram.rs latencies; process.rs the server's processor time
//!   report.rs     the result; plot.rs its pictures
//! ```
//!
//! Invariants:
//!
//! 1. Nothing is written to a target that the plan does not name as writable, and this is decided
//!    before the first frame.
//! 2. At most `depth` requests of a client are outstanding at a target, and no more than it says it
//!    queues, unless the plan asks for that.
//! 3. With verification, requests that overlap on one disk are never outstanding together: what a
//!    sector must hold is always known.

mod find;
mod flight;
mod histogram;
mod model;
mod places;
mod plan;
mod plot;
mod process;
mod report;
mod run;
pub mod socket;
mod tally;
mod wire;

pub use histogram::Histogram;
pub use model::{Finding, Wrong};
pub use places::Order;
pub use plan::{Plan, SESSIONS_MAX, SLOTS_MAX, Verify};
pub use report::{Latency, Moved, Process, Report, Verified, Workload};
pub use run::run;
pub use wire::{LinkWire, Outgoing, Received, Wire};

#[cfg(test)]
mod tests;
