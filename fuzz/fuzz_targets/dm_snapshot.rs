//! Arbitrary dm-snapshot stores.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cowblade_fuzz::images::dm_snapshot(bytes));
