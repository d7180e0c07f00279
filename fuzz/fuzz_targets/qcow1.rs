//! Arbitrary qcow images of version 1.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cowblade_fuzz::images::qcow1(bytes));
