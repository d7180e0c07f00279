//! Arbitrary frames, one after the other, to a target and to an initiator.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cowblade_fuzz::frames::session(bytes));
