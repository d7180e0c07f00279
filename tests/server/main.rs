//! The real server loop under simulated clients, links, clocks and media.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod clients;
mod hostile;
mod joining;
mod merging;
mod requests;
mod sessions;
mod shards;
