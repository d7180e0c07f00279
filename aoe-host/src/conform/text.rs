//! The report of a run for people: topic by topic, with the frames behind each failure.

use core::ops::Range;
use std::collections::BTreeMap;

use aoe_proto::conformance::{Needs, Severity, Topic};
use aoe_proto::print::PrintFrame;

use super::clients::ClientReport;
use super::hex::dump;
use super::report::{CaseReport, Counts, Ended, Hex, Result, RunReport};

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
            if verbose || case.result == Result::Failed {
                push(&mut text, &case_line(case));
            }
            if case.result == Result::Failed {
                text.push_str(&failure_text(case));
            }
        }
    }
    push(&mut text, "");
    text.push_str(&wanting(report));
    for warning in &report.warnings {
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
    format!(
        "{} at {}: {}\nexamined from {}, MTU {}; permitted: {}\n\n",
        target.address,
        target.mac,
        told.join(", "),
        runner.mac,
        runner.mtu,
        runner.permitted
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
    parts.join(", ")
}

/// One line about a case, and its remarks.
pub fn case_line(case: &CaseReport) -> String {
    let result = match case.result {
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

/// What is behind a failure: why, what it leads to, and the frames.
pub fn failure_text(case: &CaseReport) -> String {
    let mut text = String::new();
    let because = case.because.as_deref().unwrap_or_default();
    let Some(evidence) = &case.evidence else {
        push(&mut text, &format!("      {because} [{}]", case.section));
        return text;
    };
    push(&mut text, &format!("      step {}: {because} [{}]", evidence.step, case.section));
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
        (count > 0).then(|| format!("  {count:>3} cases: {option}\n"))
    });
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for case in skipped().filter(|case| case.missing == Needs::NONE) {
        if let Some(because) = case.because.as_deref() {
            *others.entry(because).or_default() += 1;
        }
    }
    let others = others.iter().map(|(why, count)| format!("  {count:>3} cases: {why}\n"));
    let lines: String = lines.chain(others).collect();
    if lines.is_empty() { lines } else { format!("skipped for want of, or because of\n{lines}\n") }
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
    format!("{ended}{cases} cases in {seconds}.{tenths} s: {}{remarks}", counts_text(counts))
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
