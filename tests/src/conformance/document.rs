//! `docs/CONFORMANCE.md`: three targets side by side, made from runs.

use core::fmt::Write;
use std::collections::BTreeMap;

use aoe_proto::conformance::{ALL, Case, Topic};
use serde_json::Value;

use super::compare::{Cell, Explanation, Run};
use super::sections::sections_part;

/// What is known about one target.
#[derive(Clone, Copy, Debug)]
pub struct Column<'c> {
    /// Its name, for headings.
    pub name: &'static str,
    /// Runs at MTU 1500 and at MTU 9000.
    pub runs: [&'c Run; 2],
    /// Why it fails what it fails.
    pub explanations: &'c [Explanation],
}

/// How clients would fare with one target.
#[derive(Clone, Copy, Debug)]
pub struct ClientColumn<'c> {
    /// Its name, for headings.
    pub name: &'static str,
    /// The JSON reports at MTU 1500 and at MTU 9000.
    pub reports: [&'c Value; 2],
}

/// A defect and the case that catches it.
#[derive(Clone, Copy, Debug)]
pub struct Defect {
    /// What is wrong.
    pub name: &'static str,
    /// The case.
    pub caught_by: &'static str,
}

const HEAD: &str = "\
# Conformance

Made by `tests/conformance-report`, which runs the harness and writes this file; do not edit it. A test compares it with what
the harness finds (`tests/e2e_conform.rs`). The cases are in `aoe-proto/src/conformance/cases/`; `cowblade conform --explain CASE`
tells what a case sends and accepts, and which section of the protocol it rests on.

*pass*: the target does what it should. *remark*: it differs from most, legitimately. **fail**: it does not. *pass (died)*: it does
what the case is about, and ends when its state is put back afterwards; another case is about that. *skip*: the case could not be
run. Every failure and every death is explained below its topic. Where the result depends on the MTU, that at 1500 stands before
that at 9000. *must*: some real client does not work otherwise, or data are at risk; *should*: the protocol or good sense asks
for it; *note*: worth knowing.

";

/// What an independent reader makes of the frames.
const DISSECTOR: &str = "
tshark 4.0 reads the stimuli of a whole run as we do (`tests/e2e_conform.rs`): of every request of version 1 the length, version, R
and E flags, shelf, slot, command and tag; of those with ATA registers also command, sector count and LBA (its fields for ATA
flags and features are not compared). What it cannot: of other versions it reads the version and nothing behind it; a request with
the R flag it takes for an answer, so its registers are not compared; and it has no fields for the arguments of Query/Config, mask
lists and reservations. Those are held against literal bytes in the tests of `aoe-proto`.
";

/// The whole document.
pub fn document(
    columns: &[Column<'_>],
    clients: &[ClientColumn<'_>],
    defects: &[Defect],
) -> String {
    let mut out = String::from(HEAD);
    summary(&mut out, columns);
    for topic in Topic::ALL {
        topic_part(&mut out, *topic, columns);
    }
    out.push_str(&clients_part(clients));
    out.push_str(&sections_part());
    out.push_str(&defects_part(defects));
    out.push_str(DISSECTOR);
    out
}

fn line(out: &mut String, text: core::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes text");
}

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

fn summary(out: &mut String, columns: &[Column<'_>]) {
    line(out, format_args!("## Summary\n\n{} cases.\n", cases().count()));
    line(
        out,
        format_args!(
            "| target | MTU | failed *must* | *should* | *note* | pass | remark | pass (died) | skip | seconds |"
        ),
    );
    line(out, format_args!("|---|---|---|---|---|---|---|---|---|---|"));
    for column in columns {
        for (mtu, run) in [1500, 9000].into_iter().zip(column.runs) {
            let failed = |word: &str| {
                let of_severity = |case: &&Case| {
                    case.severity.word() == word
                        && matches!(run.cells.get(case.id), Some(Cell::Failed(_)))
                };
                cases().filter(of_severity).count()
            };
            line(
                out,
                format_args!(
                    "| {} | {mtu} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    column.name,
                    failed("must"),
                    failed("should"),
                    failed("note"),
                    run.count("pass"),
                    run.count("remark"),
                    run.count("pass (died)"),
                    run.count("skip"),
                    seconds(run.elapsed_ms),
                ),
            );
        }
    }
    line(
        out,
        format_args!(
            "\nSeconds: the whole suite on a veth pair, most of it waiting for answers that must not come."
        ),
    );
    line(
        out,
        format_args!(
            "In process the clock of the runner is virtual, and no frame waits: that is the time it takes.\n"
        ),
    );
}

/// Whole seconds: more would change with every run.
fn seconds(ms: u64) -> String {
    match ms {
        ..1000 => "< 1".to_owned(),
        _ => (ms / 1000).to_string(),
    }
}

fn topic_part(out: &mut String, topic: Topic, columns: &[Column<'_>]) {
    line(out, format_args!("## {}\n", topic.title()));
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    line(out, format_args!("| case | severity | what a target does | {} |", names.join(" | ")));
    line(out, format_args!("|---|---|---|{}", "---|".repeat(names.len())));
    let of_topic: Vec<&Case> = cases().filter(|case| case.topic == topic).collect();
    for case in &of_topic {
        line(out, format_args!("{}", row(case, columns)));
    }
    out.push('\n');
    let mut told = false;
    for case in of_topic {
        for column in columns {
            for text in details(case, column) {
                line(out, format_args!("- `{}`, {}: {text}", case.id, column.name));
                told = true;
            }
        }
    }
    if told {
        out.push('\n');
    }
}

/// What a document says about each case in the column called `name`, as [`cell_text`] puts it.
pub fn cells_of<'d>(document: &'d str, name: &str) -> BTreeMap<&'d str, &'d str> {
    let mut column = None;
    let mut cells = BTreeMap::new();
    for line in document.lines() {
        let parts: Vec<&str> =
            line.split(" | ").map(|part| part.trim_matches(['|', ' '])).collect();
        if parts.first() == Some(&"case") {
            column = parts.iter().position(|heading| *heading == name);
        }
        let id = parts.first().and_then(|id| id.strip_prefix('`')?.strip_suffix('`'));
        if let (Some(id), Some(cell)) = (id, column.and_then(|column| parts.get(column))) {
            cells.insert(id, *cell);
        }
    }
    cells
}

fn row(case: &Case, columns: &[Column<'_>]) -> String {
    let cells: Vec<String> = columns.iter().map(|column| cell_text(case, column)).collect();
    let front = row_front(case);
    format!("{front}{} |", cells.join(" | "))
}

/// The part of a row that no run can change.
pub fn row_front(case: &Case) -> String {
    format!("| `{}` | {} | {} | ", case.id, case.severity, case.purpose.replace('|', "\\|"))
}

fn cells<'c>(case: &Case, column: &Column<'c>) -> [Option<&'c Cell>; 2] {
    column.runs.map(|run| run.cells.get(case.id))
}

/// The cell of a case and a target.
pub fn cell_text(case: &Case, column: &Column<'_>) -> String {
    let [low, high] = cells(case, column).map(|cell| cell.map_or("-", Cell::word));
    if low == high { low.to_owned() } else { format!("{low}, {high}") }
}

/// What is to be said about a target and a case.
fn details(case: &Case, column: &Column<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for cell in cells(case, column).into_iter().flatten() {
        let text = match cell {
            Cell::Passed => continue,
            Cell::Failed(_) | Cell::Died => {
                let known = column.explanations.iter().find(|known| known.case == case.id);
                // Who makes the document has seen to it that there is one.
                known.map_or_else(|| cell.details(), |known| known.why.to_owned())
            }
            Cell::Remarks(_) | Cell::Skipped(_) => cell.details(),
        };
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// The part about clients.
///
/// # Panics
/// If a report is none.
pub fn clients_part(columns: &[ClientColumn<'_>]) -> String {
    let mut out = String::from(
        "## Real clients\n\nHow real clients would fare, replayed by `cowblade conform --clients`: at MTU 1500, \
         and after the comma at 9000 if that differs.\n\n",
    );
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    line(&mut out, format_args!("| client | {} |", names.join(" | ")));
    line(&mut out, format_args!("|---|{}", "---|".repeat(names.len())));
    let of = |report: &Value| report["clients"].as_array().cloned().expect("a report of clients");
    let all: Vec<[Vec<Value>; 2]> = columns.iter().map(|column| column.reports.map(of)).collect();
    let mut told = Vec::new();
    for at in 0..all.first().map_or(0, |[first, _]| first.len()) {
        let text = |client: &Value, key: &str| client[key].as_str().unwrap_or_default().to_owned();
        let mut cells = Vec::new();
        let mut name = String::new();
        for (column, [low, high]) in columns.iter().zip(&all) {
            let (low, high) = (&low[at], &high[at]);
            name = text(low, "name");
            let verdicts = [low, high].map(|client| text(client, "verdict"));
            let [at_low, at_high] = &verdicts;
            let same = at_low == at_high;
            cells.push(if same { at_low.clone() } else { verdicts.join(", ") });
            for reason in [low, high].into_iter().filter_map(|c| c["reasons"].as_array()).flatten()
            {
                let told_of = format!("- {name}, {}: {}", column.name, text(reason, "text"));
                if !told.contains(&told_of) {
                    told.push(told_of);
                }
            }
        }
        line(&mut out, format_args!("| {name} | {} |", cells.join(" | ")));
    }
    out.push('\n');
    if !told.is_empty() {
        line(&mut out, format_args!("{}\n", told.join("\n")));
    }
    out
}

/// The part about defects, which no run can change.
pub fn defects_part(defects: &[Defect]) -> String {
    let mut out = String::from(
        "## The harness itself\n\nA case that cannot fail proves nothing. Each of these targets is ours, broken in one way; the case \
         beside it has to catch it\n(`aoe-proto/tests/conformance/`, at every `cargo test`).\n\n| defect | caught by |\n|---|---|\n",
    );
    for Defect { name, caught_by } in defects {
        line(&mut out, format_args!("| {} | `{caught_by}` |", name.replace('|', "\\|")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_can_be_read_back() {
        let failed = |word: &str| {
            let all = cases().map(|case| (case.id.to_owned(), Cell::Passed));
            let mut cells: BTreeMap<_, _> = all.collect();
            cells.insert(word.to_owned(), Cell::Failed("no answer".to_owned()));
            Run { cells, elapsed_ms: 21_900 }
        };
        let (low, high) = (failed("config.read"), failed("config.buffers"));
        let known = |case| Explanation { case, why: "it is asleep" };
        let explanations = [known("config.read"), known("config.buffers")];
        let one = Column { name: "one", runs: [&low, &high], explanations: &explanations };
        let two = Column { name: "two", runs: [&high, &high], explanations: &explanations };
        let defect = Defect { name: "a|b", caught_by: "config.read" };
        let report = |verdict: &str| {
            let reasons = serde_json::json!([{"text": "hangs, IDENTIFY: silence"}]);
            let client =
                serde_json::json!({"name": "Linux", "verdict": verdict, "reasons": reasons});
            serde_json::json!({"clients": [client]})
        };
        let (works, hangs) = (report("works"), report("hangs"));
        let clients = ClientColumn { name: "one", reports: [&works, &hangs] };
        let text = document(&[one, two], &[clients], &[defect]);
        assert!(
            text.contains("| Linux | works, hangs |\n\n- Linux, one: hangs, IDENTIFY: silence\n")
        );
        let cells = cells_of(&text, "one");
        assert_eq!(cells.len(), cases().count());
        assert_eq!(
            (cells["config.read"], cells["config.buffers"]),
            ("**fail**, pass", "pass, **fail**")
        );
        assert_eq!(cells_of(&text, "two")["config.buffers"], "**fail**");
        assert!(text.contains("- `config.read`, one: it is asleep\n") && text.contains("| 21 |"));
        for case in cases() {
            assert!(text.contains(&row_front(case)), "{}", case.id);
            assert_eq!(cells[case.id], cell_text(case, &one), "{}", case.id);
        }
        assert!(text.contains("| a\\|b | `config.read` |"), "{text}");
    }
}
