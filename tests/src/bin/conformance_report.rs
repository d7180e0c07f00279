//! Runs the conformance harness against three targets and prints `docs/CONFORMANCE.md`; called by
//! `tests/conformance-report`. Needs root and vblade.
#![allow(clippy::expect_used, reason = "what fails ends the program, with the reason")]

use std::process::ExitCode;

use system_tests::conformance::compare::check;
use system_tests::conformance::document::{ClientColumn, Column, document};
use system_tests::conformance::site::{ConformSite, Which, at_both};
use system_tests::conformance::{explained, in_process};
use system_tests::lab::Lab;
use system_tests::require::{self, Need};

fn main() -> ExitCode {
    let needs: &[&[Need]] = &[&[Need::Root, Need::Program("ip"), Need::Program("vblade")]];
    if !require::met("conformance-report", needs) {
        return ExitCode::FAILURE;
    }
    let lab = Lab::beside_others("conformance-report");
    // vblade dies some twenty times, and every time silence has to be waited for.
    let words: &[&str] = &["--answer-time", "0.25"];
    let network = |which| at_both(|mtu| ConformSite::new(&lab, which, mtu).examine(words).run);
    let (ours, theirs) = (network(Which::Cowblade), network(Which::Vblade));
    let in_process = [1500, 9000].map(in_process::run);
    let mut columns = Vec::new();
    let explanations = [explained::cowblade(), explained::in_process(), explained::vblade()];
    let names = ["cowblade serve", "in process", "vblade 25"];
    let runs = [&ours, &in_process, &theirs];
    for ((name, runs), explanations) in names.into_iter().zip(runs).zip(&explanations) {
        let [low, high] = runs;
        if let Err(gaps) = check(explanations, &[low, high]) {
            eprintln!("{name}: {gaps}; see tests/src/conformance/explained.rs");
            return ExitCode::FAILURE;
        }
        columns.push(Column { name, runs: [low, high], explanations });
    }
    let clients_of = |which| at_both(|mtu| ConformSite::for_clients(&lab, which, mtu).clients());
    let (with_us, with_them) = (clients_of(Which::Cowblade), clients_of(Which::Vblade));
    let in_process = [1500, 9000].map(in_process::clients);
    let [[our_low, our_high], [low, high], [their_low, their_high]] =
        [&with_us, &in_process, &with_them];
    let clients = [
        ClientColumn { name: "cowblade serve", reports: [our_low, our_high] },
        ClientColumn { name: "in process", reports: [low, high] },
        ClientColumn { name: "vblade 25", reports: [their_low, their_high] },
    ];
    print!("{}", document(&columns, &clients, &in_process::defects()));
    ExitCode::SUCCESS
}
