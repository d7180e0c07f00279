//! What came out of a run, owned; its JSON form is described in `docs/CLI.md`.

use aoe_proto::conformance::{
    Case, Facts, Failure, JUMBO_MTU, Needs, Outcome, Restored, Severity, Topic, Verdict, Why,
    Window,
};
use serde::{Serialize, Serializer};

use super::driver::Plan;
use crate::values::{Address, Mac, serde_text};

/// The program with its version.
pub(super) const PROGRAM: &str = concat!("cowblade ", env!("CARGO_PKG_VERSION"));

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Every selected case has a result.
    Finished,
    /// Somebody ended it; the target was put back.
    Interrupted,
    /// Nobody answered the first query.
    NoAnswer,
}

/// How a case ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// The target did what it should.
    Passed,
    /// It did not.
    Failed,
    /// The case was not run, or not to its end.
    Skipped,
}

/// Bytes that are written in hexadecimal digits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hex(pub Vec<u8>);

impl core::fmt::Display for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, to: S) -> core::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The frames behind a failure.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct EvidenceReport {
    /// The step that failed, counted from 1; `None` if every step passed, and the target died while
    /// its state was put back.
    pub step: Option<usize>,
    /// The frame sent, its VLAN tag included; empty if nothing was.
    pub sent: Hex,
    /// The frame received, without VLAN tag; empty if there was none.
    pub received: Hex,
    /// What would have been accepted; empty if nothing, or silence.
    pub accepted: Vec<&'static str>,
    /// The first and the number of the wrong bytes of the received frame, where they can be told.
    pub wrong: Option<(usize, usize)>,
}

/// How one case ended.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub id: &'static str,
    /// The word for its topic.
    pub topic: &'static str,
    /// `must`, `should` or `note`.
    pub severity: &'static str,
    /// Where the rule is written.
    pub section: &'static str,
    /// What a target does that passes.
    pub purpose: &'static str,
    /// What happens to which client otherwise.
    pub consequence: &'static str,
    /// How it ended.
    pub result: Result,
    /// Why it failed or was skipped.
    pub because: Option<String>,
    /// What was not permitted or provided, if it was skipped for that; in `because` in words.
    #[serde(skip)]
    pub missing: Needs,
    /// It was skipped because the target had stopped answering; in `because` in words.
    #[serde(skip)]
    pub gone: bool,
    /// Legitimate differences from what most targets do.
    pub remarks: Vec<&'static str>,
    /// Whether the target is as before; `None` if nothing was altered.
    pub restored: Option<bool>,
    /// Whether the target stopped answering while its state was put back; the case may have passed.
    pub died_restoring: bool,
    /// How long it took.
    pub elapsed_ms: u64,
    /// The frames behind a failure or a death.
    pub evidence: Option<EvidenceReport>,
}

impl CaseReport {
    /// What a verdict says.
    pub(super) fn new(verdict: &Verdict<'_>, elapsed_ms: u64) -> Self {
        let Case { id, topic, severity, section, purpose, consequence, .. } = *verdict.case;
        let (result, because) = match &verdict.outcome {
            Outcome::Passed => (Result::Passed, None),
            Outcome::Failed(failure) => (Result::Failed, Some(failure.to_string())),
            Outcome::Skipped(why) => (Result::Skipped, Some(why.to_string())),
        };
        let missing = match &verdict.outcome {
            Outcome::Skipped(Why::NotPermitted(needs)) => *needs,
            _ => Needs::NONE,
        };
        let gone = matches!(&verdict.outcome, Outcome::Skipped(Why::Gone));
        let wrong = match &verdict.outcome {
            Outcome::Failed(Failure::Mismatch { mismatch, .. }) => {
                let bytes = mismatch.bytes();
                Some((bytes.start, bytes.len()))
            }
            _ => None,
        };
        let evidence = verdict.evidence.map(|evidence| EvidenceReport {
            step: evidence.step.map(|step| step + 1),
            sent: Hex(evidence.sent.to_vec()),
            received: Hex(evidence.received.to_vec()),
            accepted: evidence.accept.iter().map(|answer| answer.label).collect(),
            wrong,
        });
        Self {
            id,
            topic: topic.word(),
            severity: severity.word(),
            section,
            purpose,
            consequence,
            result,
            because,
            missing,
            gone,
            remarks: verdict.notes.to_vec(),
            restored: match verdict.restored {
                Restored::NotNeeded => None,
                Restored::Yes => Some(true),
                Restored::No(_) => Some(false),
            },
            died_restoring: verdict.died_restoring,
            elapsed_ms,
            evidence,
        }
    }

    /// Whether it failed with this severity.
    pub fn failed(&self, severity: Severity) -> bool {
        self.result == Result::Failed && self.severity == severity.word()
    }
}

/// Cases by how they ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Of those, with remarks.
    pub passed_with_remarks: usize,
    /// Failed, must.
    pub failed_must: usize,
    /// Failed, should.
    pub failed_should: usize,
    /// Failed, note.
    pub failed_note: usize,
    /// Not run, or not to the end.
    pub skipped: usize,
    /// Of those that were run, cases after which the target died while its state was put back.
    pub died_restoring: usize,
}

impl Counts {
    /// Of these cases.
    pub fn of<'c>(cases: impl Iterator<Item = &'c CaseReport>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            counts.died_restoring += usize::from(case.died_restoring);
            match case.result {
                Result::Passed => {
                    counts.passed += 1;
                    counts.passed_with_remarks += usize::from(!case.remarks.is_empty());
                }
                Result::Skipped => counts.skipped += 1,
                Result::Failed if case.failed(Severity::Must) => counts.failed_must += 1,
                Result::Failed if case.failed(Severity::Should) => counts.failed_should += 1,
                Result::Failed => counts.failed_note += 1,
            }
        }
        counts
    }
}

/// What the target told about itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct TargetReport {
    /// Shelf and slot.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// The address that answers.
    #[serde(with = "serde_text::mac")]
    pub mac: Mac,
    /// The advertised buffer count.
    pub buffer_count: Option<u16>,
    /// The advertised sectors per command.
    pub sectors_max: Option<u8>,
    /// The advertised firmware version.
    pub firmware: Option<u16>,
    /// Size of the disk in sectors of 512 bytes.
    pub sectors: Option<u64>,
    /// Whether it offers 48-bit commands, TRIM, SMART.
    pub lba48: bool,
    /// TRIM.
    pub trim: bool,
    /// SMART.
    pub smart: bool,
}

/// From where the target was examined, and what was permitted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RunnerReport {
    /// Largest payload of the link.
    pub mtu: u16,
    /// Our address.
    #[serde(with = "serde_text::mac")]
    pub mac: Mac,
    /// Our second address.
    pub second_mac: Option<String>,
    /// First sector and number of sectors in which writes were permitted.
    pub window: Option<(u64, u16)>,
    /// Everything that was permitted or provided, in words.
    pub permitted: String,
    /// Where the tags began.
    pub seed: u32,
}

/// What came out of a run.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RunReport {
    /// `cowblade-conformance-1`.
    pub format: &'static str,
    /// The program that made it, with its version.
    pub program: &'static str,
    /// How the run ended.
    pub ended: Ended,
    /// The target.
    pub target: TargetReport,
    /// Another machine that answers for the same address: what failed may be its doing.
    pub second_server: Option<String>,
    /// The examiner.
    pub runner: RunnerReport,
    /// Duration of the run.
    pub elapsed_ms: u64,
    /// All cases.
    pub counts: Counts,
    /// Commands of the tester that failed, and how: cases were not judged for that.
    pub actions_failed: Vec<String>,
    /// What the tester should know.
    pub warnings: Vec<String>,
    /// Case by case, in the order in which they were run.
    pub cases: Vec<CaseReport>,
}

impl RunReport {
    #[expect(clippy::too_many_arguments, reason = "each is a part of the report")]
    pub(super) fn new(
        plan: &Plan,
        facts: &Facts,
        ended: Ended,
        elapsed_ms: u64,
        second_server: Option<Mac>,
        actions_failed: Vec<String>,
        warnings: Vec<String>,
        cases: Vec<CaseReport>,
    ) -> Self {
        let config = &plan.config;
        let permitted = if config.mtu < JUMBO_MTU {
            plan.permitted.without(Needs::JUMBO)
        } else {
            plan.permitted
        };
        Self {
            format: "cowblade-conformance-1",
            program: PROGRAM,
            ended,
            target: TargetReport {
                address: facts.address,
                mac: facts.target_mac,
                buffer_count: facts.buffer_count,
                sectors_max: facts.max_sectors,
                firmware: facts.firmware,
                sectors: facts.sectors,
                lba48: facts.lba48,
                trim: facts.trim,
                smart: facts.smart,
            },
            second_server: second_server.map(|mac| mac.to_string()),
            runner: RunnerReport {
                mtu: config.mtu,
                mac: config.own_mac,
                second_mac: config.second_mac.map(|mac| mac.to_string()),
                window: config.window.map(|Window { lba, sectors }| (lba, sectors)),
                permitted: permitted.without(Needs::OFFERS).to_string(),
                seed: config.tag_seed,
            },
            elapsed_ms,
            counts: Counts::of(cases.iter()),
            actions_failed,
            warnings,
            cases,
        }
    }

    /// The cases of a topic.
    pub fn of_topic(&self, topic: Topic) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(move |case| case.topic == topic.word())
    }

    /// Whether something failed that counts: a *must*, with `strict` also a *should*; or the target
    /// died while its state was put back.
    pub fn has_failed(&self, strict: bool) -> bool {
        let Counts { failed_must, failed_should, died_restoring, .. } = self.counts;
        failed_must > 0 || died_restoring > 0 || strict && failed_should > 0
    }
}
