//! The conformance harness on a network: targets with testers, runs, and what comes out of them.

pub mod compare;
pub mod document;
pub mod explained;
pub mod in_process;
pub mod launcher;
pub mod sections;
pub mod site;
