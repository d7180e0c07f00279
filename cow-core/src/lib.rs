//! Copy-on-write disks without std, allocation or I/O.
//!
//! A *chain* is one writable overlay over frozen layers down to a base, or over nothing.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::panic)]

#[cfg(any(feature = "std", test))]
extern crate std;

pub mod blocking;
pub mod engine;
#[cfg(feature = "_fault")]
pub mod fault;
pub mod format;
pub mod identity;
pub mod pages;
pub mod storage;
pub mod units;
