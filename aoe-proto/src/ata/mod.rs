//! The ATA side: opcodes and the IDENTIFY page.

pub mod command;
pub mod identify;
