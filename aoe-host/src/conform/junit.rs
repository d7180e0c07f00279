//! The report of a run in the XML form that build servers read: a suite for each topic.

use core::fmt::Write;

use aoe_proto::conformance::Topic;

use super::clients::ClientsReport;
use super::report::{CaseReport, Result, RunReport};
use super::text::{client_text, counts_as_failure, died_text, failure_text};

/// The whole document. A failure that does not count, a *should* without `strict` or a *note*, is
/// a skipped test with a message.
pub fn junit(report: &RunReport, strict: bool) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all: Vec<&CaseReport> = report.cases.iter().collect();
    let name = format!("cowblade conform {}", report.target.address);
    open(&mut out, "testsuites", &name, &all, strict);
    for topic in Topic::ALL {
        let cases: Vec<&CaseReport> = report.of_topic(*topic).collect();
        if cases.is_empty() {
            continue;
        }
        open(&mut out, "testsuite", topic.title(), &cases, strict);
        for case in cases {
            test_case(&mut out, case, strict);
        }
        out.push_str("</testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// The same for replayed clients: one suite, a test for each. A client that works, though badly,
/// passes without `strict`.
pub fn clients_junit(report: &ClientsReport, strict: bool) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let all = report.clients.len();
    let failures = report.clients.iter().filter(|client| !client.is_usable(strict)).count();
    let elapsed_ms = report.clients.iter().map(|client| client.elapsed_ms).sum();
    let sums = Sums { all, failures, errors: 0, skipped: 0, elapsed_ms };
    sums.open(&mut out, "testsuites", &format!("cowblade conform {} --clients", report.address));
    sums.open(&mut out, "testsuite", "Real clients");
    for client in &report.clients {
        let head = format_args!(
            "<testcase classname=\"clients\" name=\"{}\" time=\"{}\">",
            escaped(client.id),
            seconds(client.elapsed_ms)
        );
        add(&mut out, head);
        let text = escaped(&client_text(client));
        if !client.is_usable(strict) {
            let message = escaped(&format!("{}: {}", client.name, client.verdict));
            let kind = client.verdict;
            let failure =
                format_args!("<failure type=\"{kind}\" message=\"{message}\">{text}</failure>");
            add(&mut out, failure);
        } else if !text.is_empty() {
            add(&mut out, format_args!("<system-out>{text}</system-out>"));
        }
        out.push_str("</testcase>\n");
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

/// What the head of a suite says.
struct Sums {
    all: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    elapsed_ms: u64,
}

impl Sums {
    fn open(&self, out: &mut String, tag: &str, name: &str) {
        let Self { all, failures, errors, skipped, elapsed_ms } = self;
        let head = format_args!(
            "<{tag} name=\"{}\" tests=\"{all}\" failures=\"{failures}\" errors=\"{errors}\" \
             skipped=\"{skipped}\" time=\"{}\">\n",
            escaped(name),
            seconds(*elapsed_ms)
        );
        add(out, head);
    }
}

fn open(out: &mut String, tag: &str, name: &str, cases: &[&CaseReport], strict: bool) {
    let failures = cases.iter().filter(|case| counts_as_failure(case, strict)).count();
    let passed = cases.iter().filter(|case| case.result == Result::Passed).count();
    let skipped = cases.len() - passed - failures;
    let elapsed_ms = cases.iter().map(|case| case.elapsed_ms).sum();
    let errors = cases.iter().filter(|case| died_only(case)).count();
    Sums { all: cases.len(), failures, errors, skipped, elapsed_ms }.open(out, tag, name);
}

/// The case passed, and the target died of what put its state back.
fn died_only(case: &CaseReport) -> bool {
    case.died_restoring && case.result == Result::Passed
}

fn test_case(out: &mut String, case: &CaseReport, strict: bool) {
    let topic = escaped(case.topic);
    add(
        out,
        format_args!(
            "<testcase classname=\"{topic}\" name=\"{}\" time=\"{}\">",
            escaped(case.id),
            seconds(case.elapsed_ms)
        ),
    );
    let because = case.because.as_deref().unwrap_or_default();
    match case.result {
        Result::Failed if counts_as_failure(case, strict) => {
            let message = format!("{}: {because}", case.purpose);
            add(
                out,
                format_args!(
                    "<failure type=\"{}\" message=\"{}\">{}</failure>",
                    case.severity,
                    escaped(&message),
                    escaped(&failure_text(case))
                ),
            );
        }
        Result::Failed => {
            let message = format!("failed, a \"{}\": {because}", case.severity);
            add(out, format_args!("<skipped message=\"{}\"/>", escaped(&message)));
            add(out, format_args!("<system-out>{}</system-out>", escaped(&failure_text(case))));
        }
        Result::Skipped => add(out, format_args!("<skipped message=\"{}\"/>", escaped(because))),
        Result::Passed if died_only(case) => add(
            out,
            format_args!(
                "<error type=\"died\" message=\"{}\">{}</error>",
                escaped(&died_text(case)),
                escaped(&failure_text(case))
            ),
        ),
        Result::Passed if !case.remarks.is_empty() => {
            let remarks = case.remarks.join("\n");
            add(out, format_args!("<system-out>{}</system-out>", escaped(&remarks)));
        }
        Result::Passed => {}
    }
    out.push_str("</testcase>\n");
}

fn add(out: &mut String, text: core::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = out.write_fmt(text);
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// `text` as character data or as the value of an attribute. Characters that XML 1.0 cannot hold
/// are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'.. => {
                out.push(character);
            }
            _ => out.push('\u{FFFD}'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_text_it_stays_well_formed() {
        assert_eq!(escaped("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;");
        assert_eq!(escaped("\u{0}\u{1b}\r\u{fffe}\n"), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\n");
        assert_eq!(seconds(12_003), "12.003");
    }
}
