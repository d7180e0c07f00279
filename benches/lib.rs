//! What the benchmarks in the files beside this one share: chains in memory, and frames.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a benchmark that cannot be set up has to stop"
)]

pub mod chains;
pub mod disks;
pub mod frames;
