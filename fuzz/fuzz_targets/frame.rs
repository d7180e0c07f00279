//! An arbitrary frame, by itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cowblade_fuzz::frames::frame(bytes));
