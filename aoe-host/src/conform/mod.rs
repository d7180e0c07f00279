//! The conformance harness on a network: drives [`aoe_proto::conformance`] and tells what came out.
//!
//! ```text
//!   driver.rs   does what the runner asks for: sends, waits, records, has things done
//!   wire.rs     the way to the target, and time        stage.rs    what the tester does
//!   journal.rs  what a killed run has altered          undo.rs     puts it back
//!   report.rs   what came out, owned and as JSON
//!   text.rs     the same for people    hex.rs   frames    junit.rs  for build servers
//!   explain.rs  what a case does, in words
//!   clients.rs  drives aoe_proto::profiles: how real clients would fare
//! ```
//!
//! Rules that hold whatever happens:
//!
//! 1. Nothing is altered before the journal that describes it is durable; the journal is removed
//!    only after everything was put back and compared.
//! 2. An interrupted run puts everything back before it ends.

mod clients;
mod driver;
mod explain;
mod hex;
mod journal;
mod junit;
mod report;
mod stage;
mod text;
mod undo;
mod wire;

pub use clients::{ClientReport, ClientsReport, Reason, play_clients};
pub use driver::{Choice, Plan, Progress, Sides, conduct, scout};
pub use explain::{explain, find_case, needs_words};
pub use journal::{Head, Journal, Ledger, Saved, default_directory, journal_path, journals_of};
pub use junit::{clients_junit, junit};
pub use report::{
    CaseReport, Counts, Ended, EvidenceReport, Hex, Result as CaseResult, RunReport, RunnerReport,
    TargetReport,
};
pub use stage::{ActionName, Commands, Stage, Tester};
pub use text::{case_line, client_text, failure_text, reasons_text, render, second_server_text};
pub use undo::{Undone, undo};
pub use wire::{Arrived, ProbeWire, Wire};

#[cfg(test)]
mod tests;
