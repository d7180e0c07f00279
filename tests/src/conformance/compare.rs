//! What came out of runs against several targets, side by side.

use core::fmt;
use std::collections::BTreeMap;

use serde_json::Value;

/// How a case ended with one target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cell {
    /// As it should.
    Passed,
    /// As it should, with remarks: differences that are legitimate.
    Remarks(Vec<String>),
    /// As it should; but then the target died while its state was put back.
    Died,
    /// Not as it should.
    Failed(String),
    /// It could not be run.
    Skipped(String),
}

impl Cell {
    /// One word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Remarks(_) => "remark",
            Self::Died => "pass (died)",
            Self::Failed(_) => "**fail**",
            Self::Skipped(_) => "skip",
        }
    }

    /// What is to be said about it.
    pub fn details(&self) -> String {
        match self {
            Self::Passed => String::new(),
            Self::Died => "the target died while its state was put back".to_owned(),
            Self::Remarks(remarks) => remarks.join("; "),
            Self::Failed(why) | Self::Skipped(why) => why.clone(),
        }
    }
}

/// The cells of one run, by case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Run {
    /// Every case that was selected.
    pub cells: BTreeMap<String, Cell>,
    /// Duration.
    pub elapsed_ms: u64,
}

impl Run {
    /// Takes over the JSON report of `cowblade conform`.
    ///
    /// # Panics
    /// If it is not one.
    pub fn of_report(report: &Value) -> Self {
        assert_eq!(report["format"], "cowblade-conformance-1");
        let cases = report["cases"].as_array().expect("a report has cases");
        let cells = cases.iter().map(|case| {
            let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
            let remarks: Vec<String> = case["remarks"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|remark| Some(remark.as_str()?.to_owned()))
                .collect();
            let cell = match case["result"].as_str() {
                Some("passed") if case["died_restoring"] == true => Cell::Died,
                Some("passed") if remarks.is_empty() => Cell::Passed,
                Some("passed") => Cell::Remarks(remarks),
                Some("failed") => Cell::Failed(text("because")),
                _ => Cell::Skipped(text("because")),
            };
            (text("id"), cell)
        });
        let elapsed_ms = report["elapsed_ms"].as_u64().unwrap_or(0);
        Self { cells: cells.collect(), elapsed_ms }
    }

    /// The cases that failed.
    pub fn failures(&self) -> Vec<&str> {
        let failed = self.cells.iter().filter(|(_, cell)| matches!(cell, Cell::Failed(_)));
        failed.map(|(id, _)| id.as_str()).collect()
    }

    /// The cases that ask for an explanation: those that failed, and those after which the target died.
    pub fn faults(&self) -> Vec<&str> {
        let fault = |cell: &Cell| matches!(cell, Cell::Failed(_) | Cell::Died);
        let cells = self.cells.iter().filter(|(_, cell)| fault(cell));
        cells.map(|(id, _)| id.as_str()).collect()
    }

    /// How many cells have this word.
    pub fn count(&self, word: &str) -> usize {
        self.cells.values().filter(|cell| cell.word() == word).count()
    }
}

/// Why a target fails a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The case.
    pub case: &'static str,
    /// Why.
    pub why: &'static str,
}

/// What is wrong with a list of explanations.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gaps {
    /// Failures that nobody explained.
    pub unexplained: Vec<String>,
    /// Explanations of what does not fail.
    pub stale: Vec<String>,
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not explained: {:?}; explained without need: {:?}", self.unexplained, self.stale)
    }
}

/// Failures and deaths of a run that nobody explained.
pub fn unexplained(explanations: &[Explanation], run: &Run) -> Vec<String> {
    let explained = |case: &&str| explanations.iter().any(|known| known.case == *case);
    run.faults().into_iter().filter(|case| !explained(case)).map(str::to_owned).collect()
}

/// Compares failures and deaths, at any MTU, with their explanations.
///
/// # Errors
/// The gaps.
pub fn check(explanations: &[Explanation], runs: &[&Run]) -> Result<(), Gaps> {
    let fails = |case: &str| runs.iter().any(|run| run.faults().contains(&case));
    let mut gaps = Gaps::default();
    for case in runs.iter().flat_map(|run| unexplained(explanations, run)) {
        if !gaps.unexplained.contains(&case) {
            gaps.unexplained.push(case);
        }
    }
    let stale = explanations.iter().map(|known| known.case).filter(|case| !fails(case));
    gaps.stale.extend(stale.map(str::to_owned));
    if gaps == Gaps::default() { Ok(()) } else { Err(gaps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(failed: &[&str]) -> Run {
        let cells = failed.iter().map(|id| ((*id).to_owned(), Cell::Failed("no answer".into())));
        Run { cells: cells.chain([("fine".to_owned(), Cell::Passed)]).collect(), elapsed_ms: 0 }
    }

    #[test]
    fn every_failure_is_explained_once_and_nothing_else() {
        let known = |case| Explanation { case, why: "known" };
        let both = [run(&["a"]), run(&["a", "b"])];
        let runs: Vec<&Run> = both.iter().collect();
        assert_eq!(check(&[known("a"), known("b")], &runs), Ok(()));
        let gaps = check(&[known("a"), known("fine"), known("gone")], &runs).unwrap_err();
        assert_eq!(gaps.unexplained, ["b"]);
        assert_eq!(gaps.stale, ["fine", "gone"]);
    }

    #[test]
    fn a_report_becomes_cells() {
        let report = serde_json::json!({
            "format": "cowblade-conformance-1", "elapsed_ms": 12,
            "cases": [
                {"id": "a", "result": "passed", "remarks": []},
                {"id": "b", "result": "passed", "remarks": ["odd"]},
                {"id": "c", "result": "failed", "because": "no answer", "remarks": []},
                {"id": "d", "result": "skipped", "because": "no TRIM", "remarks": []},
                {"id": "e", "result": "passed", "died_restoring": true, "remarks": ["odd"]},
            ],
        });
        let run = Run::of_report(&report);
        let words: Vec<_> = run.cells.values().map(Cell::word).collect();
        assert_eq!(words, ["pass", "remark", "**fail**", "skip", "pass (died)"]);
        assert_eq!((run.failures(), run.elapsed_ms), (vec!["c"], 12));
        assert_eq!(run.faults(), ["c", "e"]);
    }
}
