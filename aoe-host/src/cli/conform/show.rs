//! `conform --list` and `--explain`: the cases, without running any.

use aoe_proto::conformance::{ALL, Case, Needs};
use serde::Serialize;

use super::ConformArgs;
use super::run::put_json;
use super::setup::choose;
use crate::cli::output::{Table, print_line};
use crate::conform::{explain, find_case, needs_words};
use crate::error::{ErrorKind, Exit, HostError, Result};

/// A case in the list for programs.
#[derive(Debug, Serialize)]
struct Listed {
    id: &'static str,
    topic: &'static str,
    severity: &'static str,
    section: &'static str,
    purpose: &'static str,
    consequence: &'static str,
    /// Words as in the list for people.
    needs: Vec<&'static str>,
}

impl Listed {
    fn of(case: &Case) -> Self {
        let Case { id, topic, severity, section, purpose, consequence, .. } = *case;
        let needs = needs_words(case.needs);
        let (topic, severity) = (topic.word(), severity.word());
        Self { id, topic, severity, section, purpose, consequence, needs }
    }
}

pub(super) fn list(args: &ConformArgs) -> Result<Exit> {
    if let Some(path) = &args.output.json {
        let cases: Vec<Listed> =
            choose(&args.choice)?.cases().into_iter().map(Listed::of).collect();
        put_json(path, &cases)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["case", "severity", "section", "needs", "what a target does"]);
    for case in choose(&args.choice)?.cases() {
        table.add([
            case.id.to_owned(),
            case.severity.to_string(),
            case.section.to_owned(),
            needs_words(case.needs.without(Needs::BROADCAST)).join(" "),
            case.purpose.to_owned(),
        ]);
    }
    print_line(&table.render())?;
    Ok(Exit::Success)
}

pub(super) fn explain_case(id: &str) -> Result<Exit> {
    let Some(case) = find_case(id) else {
        let close: Vec<&str> = ALL
            .iter()
            .copied()
            .flatten()
            .map(|case| case.id)
            .filter(|known| known.contains(id))
            .take(5)
            .collect();
        let advice = if close.is_empty() {
            "`cowblade conform --list` shows all".to_owned()
        } else {
            format!("is it {}?", close.join(", "))
        };
        return Err(HostError::new(ErrorKind::NotFound, format!("explain the case {id}"))
            .detail("there is none of that name")
            .advice(advice));
    };
    print_line(&explain(case))?;
    Ok(Exit::Success)
}
