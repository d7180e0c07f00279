//! cowblade.

fn main() {}
