//! Arbitrary qcow2 images.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cowblade_fuzz::images::qcow2(bytes));
