//! The library behind the cowblade binary.
