//! The report of a run for people: topic by topic, with the frames behind each failure.

use core::ops::Range;
use std::collections::BTreeMap;

use aoe_proto::conformance::{Needs, Severity, Topic};
use aoe_proto::print::PrintFrame;

use super::clients::ClientReport;
use super::hex::dump;
use super::report::{CaseReport, Counts, Ended, Hex, Result, RunReport};
use crate::values::Address;

/// The whole report. With `verbose` every case is listed, else failures and remarks.
pub fn render(report: &RunReport, verbose: bool) -> String {
    let mut text = head(report);
    for topic in Topic::ALL {
        let cases: Vec<&CaseReport> = report.of_topic(*topic).collect();
        if cases.is_empty() {
            continue;
        }
        let counts = Counts::of(cases.iter().copied());
        push(&mut text, &format!("{:<36} {}", topic.title(), counts_text(&counts)));
        for case in cases {
            let wrong = case.result == Result::Failed || case.died_restoring;
            if verbose || wrong {
                push(&mut text, &case_line(case));
            }
            if wrong {
                text.push_str(&failure_text(case));
            }
        }
    }
    push(&mut text, "");
    text.push_str(&wanting(report));
    for warning in report.actions_failed.iter().chain(&report.warnings) {
        push(&mut text, &format!("warning: {warning}"));
    }
    text.push_str(&conclusion(report));
    text
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn head(report: &RunReport) -> String {
    let (target, runner) = (&report.target, &report.runner);
    let told = [
        target.sectors.map(|count| format!("{count} sectors")),
        target.buffer_count.map(|count| format!("{count} buffers")),
        target.sectors_max.map(|count| format!("{count} sectors per command")),
        target.firmware.map(|version| format!("firmware 0x{version:04x}")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    let mut text = format!(
        "{} at {}: {}\nexamined from {}, MTU {}; permitted: {}\n",
        target.address,
        target.mac,
        told.join(", "),
        runner.mac,
        runner.mtu,
        runner.permitted
    );
    if let Some(other) = &report.second_server {
        push(&mut text, &format!("warning: {}", second_server_text(target.address, other)));
    }
    push(&mut text, "");
    text
}

/// What a second machine at the same address means for a run.
pub fn second_server_text(address: Address, other: impl core::fmt::Display) -> String {
    format!(
        "another machine, {other}, answers for {address} as well: clients of both lose data, and what \
         fails below may be its doing"
    )
}

fn counts_text(counts: &Counts) -> String {
    let mut parts = Vec::new();
    let mut add = |count: usize, words: &str| {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    };
    add(counts.failed_must, "FAILED (must)");
    add(counts.failed_should, "failed (should)");
    add(counts.failed_note, "failed (note)");
    add(counts.passed, "passed");
    add(counts.skipped, "skipped");
    add(counts.died_restoring, "times DIED while its state was put back");
    parts.join(", ")
}

/// One line about a case, and its remarks.
pub fn case_line(case: &CaseReport) -> String {
    let result = match case.result {
        Result::Passed if case.died_restoring => "DIED",
        Result::Passed => "ok  ",
        Result::Failed => "FAIL",
        Result::Skipped => "skip",
    };
    let mut text = format!("  {result} {:<6} {:<34} {}", case.severity, case.id, case.purpose);
    if let (Result::Skipped, Some(because)) = (case.result, &case.because) {
        text.push_str("\n              ");
        text.push_str(because);
    }
    for remark in &case.remarks {
        text.push_str("\n              remark: ");
        text.push_str(remark);
    }
    text
}

/// What happened when the state of the target was put back.
pub(super) fn died_text(case: &CaseReport) -> String {
    let result = match case.result {
        Result::Passed => "passed",
        Result::Failed => "failed",
        Result::Skipped => "skipped",
    };
    format!("{result}, and the target died while its state was put back")
}

/// What is behind a failure: why, what it leads to, and the frames.
pub fn failure_text(case: &CaseReport) -> String {
    let mut text = String::new();
    if case.died_restoring {
        push(&mut text, &format!("      {}", died_text(case)));
    }
    let because = case.because.as_deref().unwrap_or_default();
    if case.result != Result::Failed {
        if let Some(evidence) = &case.evidence {
            frames(&mut text, &evidence.sent, &evidence.received, None);
        }
        return text;
    }
    let Some(evidence) = &case.evidence else {
        push(&mut text, &format!("      {because} [{}]", case.section));
        return text;
    };
    let step = evidence.step.map_or(String::new(), |step| format!("step {step}: "));
    push(&mut text, &format!("      {step}{because} [{}]", case.section));
    push(&mut text, &format!("      otherwise: {}", case.consequence));
    if !evidence.accepted.is_empty() {
        push(&mut text, &format!("      accepted: {}", evidence.accepted.join("; or ")));
    }
    if case.restored == Some(false) {
        push(&mut text, "      what the case altered could not be put back");
    }
    let wrong = evidence.wrong.map(|(start, len)| start..start + len);
    frames(&mut text, &evidence.sent, &evidence.received, wrong);
    text
}

/// A request and its answer, byte by byte.
fn frames(text: &mut String, sent: &Hex, received: &Hex, wrong: Option<Range<usize>>) {
    for (what, frame, wrong) in [("sent", &sent.0, None), ("received", &received.0, wrong)] {
        if frame.is_empty() {
            push(text, &format!("      nothing {what}"));
            continue;
        }
        push(text, &format!("      {what}, {} bytes: {}", frame.len(), PrintFrame(frame)));
        for row in dump(frame, wrong) {
            push(text, &format!("      {row}"));
        }
    }
}

/// Everything about the target that matters to a client, a line each.
pub fn reasons_text(client: &ClientReport) -> String {
    let mut text = String::new();
    for reason in &client.reasons {
        push(&mut text, &format!("      {}", reason.text));
    }
    text
}

/// What is behind the verdict on a client: the reasons, and the frames of the gravest.
pub fn client_text(client: &ClientReport) -> String {
    let mut text = reasons_text(client);
    if !client.sent.0.is_empty() {
        frames(&mut text, &client.sent, &client.received, None);
    }
    if client.restored == Some(false) {
        push(&mut text, "      what the client wrote could not be put back");
    }
    text
}

/// What permits what.
const OPTIONS: [(Needs, &str); 12] = [
    (Needs::CONFIG, "--state config"),
    (Needs::MASK, "--state mask"),
    (Needs::RESERVATION, "--state reservation"),
    (Needs::WRITES, "--write-window end-64"),
    (Needs::BEYOND_END, "--beyond-end"),
    (Needs::SECOND_MAC, "--second-mac auto"),
    (Needs::FORGERY, "--forge"),
    (Needs::VLAN, "--vlan"),
    (Needs::ACTION, "--action or --interactive"),
    (Needs::BROADCAST, "without --no-broadcast"),
    (Needs::SHORT_FRAMES, "--short-frames"),
    (Needs::JUMBO, "an interface with jumbo frames"),
];

/// The options without which cases were skipped, and other reasons.
fn wanting(report: &RunReport) -> String {
    let skipped = || report.cases.iter().filter(|case| case.result == Result::Skipped);
    let lines = OPTIONS.iter().filter_map(|(need, option)| {
        let count = skipped().filter(|case| case.missing.contains(*need)).count();
        (count > 0).then(|| format!("  {}: {option}\n", cases_text(count)))
    });
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for case in skipped().filter(|case| case.missing == Needs::NONE && !case.gone) {
        if let Some(because) = case.because.as_deref() {
            *others.entry(because).or_default() += 1;
        }
    }
    let others = others.iter().map(|(why, count)| format!("  {}: {why}\n", cases_text(*count)));
    let gone = end_of_target(report).map(|(count, last)| {
        format!(
            "  {}: the target stopped answering at {last}; --action revive=COMMAND starts it again\n",
            cases_text(count)
        )
    });
    let lines: String = lines.chain(others).chain(gone).collect();
    if lines.is_empty() { lines } else { format!("skipped for want of, or because of\n{lines}\n") }
}

/// Cases that were not run because the target had stopped answering, and the last one that was.
fn end_of_target(report: &RunReport) -> Option<(usize, &'static str)> {
    let first = report.cases.iter().position(|case| case.gone)?;
    let count = report.cases.iter().filter(|case| case.gone).count();
    let last = report.cases.iter().take(first).rfind(|case| case.result != Result::Skipped);
    Some((count, last.map_or("the start", |case| case.id)))
}

fn cases_text(count: usize) -> String {
    format!("{count:>3} {}", plural(count))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "case" } else { "cases" }
}

fn conclusion(report: &RunReport) -> String {
    let counts = &report.counts;
    let seconds = report.elapsed_ms / 1000;
    let tenths = report.elapsed_ms % 1000 / 100;
    let ended = match report.ended {
        Ended::Finished => "",
        Ended::Interrupted => "interrupted; ",
        Ended::NoAnswer => "nobody answered; ",
    };
    let cases = report.cases.len();
    let remarks = match counts.passed_with_remarks {
        0 => String::new(),
        some => format!(", {some} of the passed with remarks"),
    };
    let gone = end_of_target(report).map_or(String::new(), |(count, last)| {
        format!("; {count} NOT RUN, as the target stopped answering at {last}")
    });
    let what = plural(cases);
    let counts = counts_text(counts);
    format!("{ended}{cases} {what} in {seconds}.{tenths} s: {counts}{remarks}{gone}")
}

/// Whether a failure of this severity counts.
pub(super) fn counts_as_failure(case: &CaseReport, strict: bool) -> bool {
    case.failed(Severity::Must) || strict && case.failed(Severity::Should)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_an_option() {
        let named = OPTIONS.iter().fold(Needs::NONE, |all, (need, _)| all | *need);
        assert_eq!(named, Needs::ALL.without(Needs::OFFERS));
    }
}
