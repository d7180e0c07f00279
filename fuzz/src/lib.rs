//! What the fuzz targets do with their input. Each target is one line in `fuzz_targets/`.
//!
//! The demands are the same everywhere: no panic, no endless loop, nothing read behind the end of an
//! image, nothing touched behind the end of a disk, and an answer or an error for everything.

pub mod chain;
pub mod frames;
pub mod images;
