//! What a runner hands out.

use core::fmt;

use super::super::case::{Action, Case, Needs};
use super::super::compose::Unfit;
use super::super::expect::{Answer, Mismatch};
use super::super::journal::Record;
use super::super::mend::Altered;
use super::super::value::Facts;
use crate::wire::Mac;

/// What the driver has to do. Exhaustive on purpose: a driver has to handle every kind.
#[derive(Clone, Copy, Debug)]
pub enum Event<'r> {
    /// Send a frame.
    Send(Outgoing<'r>),
    /// Nothing until this time (in the milliseconds given to `poll`), or until a frame arrives.
    Wait {
        /// The time. `u64::MAX` while the tester acts.
        until_ms: u64,
    },
    /// Append a record to the journal and make it durable, before anything else.
    Record(Record<'r>),
    /// Have something done, and report it with [`Runner::acted`](super::Runner::acted). Frames that
    /// arrive meanwhile still go to [`Runner::received`](super::Runner::received).
    Act(Action),
    /// A case begins.
    Started {
        /// The case.
        case: &'static Case,
        /// Its number among those selected, from 1.
        number: usize,
        /// How many are selected.
        of: usize,
    },
    /// A case has ended, and what it changed is as before. Every selected case has one verdict.
    Verdict(Verdict<'r>),
    /// The run is over.
    Done(Summary),
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'r> {
    /// All of it, VLAN tag included; perhaps shorter than Ethernet allows, to be sent as it is where
    /// the link can.
    pub frame: &'r [u8],
    /// Whether it comes from our second address. Forged sources count as ours.
    pub second: bool,
}

/// How a case ended.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'r> {
    /// The case.
    pub case: &'static Case,
    /// How it ended.
    pub outcome: Outcome,
    /// Legitimate differences from what most targets do.
    pub notes: &'r [&'static str],
    /// Whether the target is as before.
    pub restored: Restored,
    /// Whether the target stopped answering while the changes of the case were put back. That is no
    /// failure of the case; another one is about it.
    pub died_restoring: bool,
    /// The frames behind a failure; or the last one sent before the target died while its state was
    /// put back.
    pub evidence: Option<Evidence<'r>>,
    /// What was known about the target.
    pub facts: &'r Facts,
}

/// The frames behind a failure. [`super::super::fields()`] names their parts.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'r> {
    /// Index of the step that failed; `None` if every step passed, and the target died while its state
    /// was put back.
    pub step: Option<usize>,
    /// The frame sent, with its VLAN tag; empty if nothing was.
    pub sent: &'r [u8],
    /// The frame received; empty if there was none.
    pub received: &'r [u8],
    /// What would have been accepted; empty if nothing, or silence.
    pub accept: &'static [Answer],
}

/// How a case ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// The target broke the rule.
    Failed(Failure),
    /// It was not run, or not to its end.
    Skipped(Why),
}

/// How a target broke a rule.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// No answer, however often the request was sent.
    Silent,
    /// An answer to what must not be answered.
    Answered,
    /// A second answer to one request.
    AnsweredTwice,
    /// The answer is none of those that are accepted.
    Mismatch {
        /// What the closest accepted answer is called.
        closest: &'static str,
        /// Why it is not that one.
        mismatch: Mismatch,
    },
    /// After this frame the target answered nothing any more.
    Died,
    /// The target did not come back after the tester's action.
    NotBack,
    /// The state that the case begins with could not be brought about.
    SetUp(Altered),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no answer"),
            Self::Answered => f.write_str("an answer where there must be none"),
            Self::AnsweredTwice => f.write_str("two answers to one request"),
            Self::Mismatch { closest, mismatch } => write!(f, "not {closest}: {mismatch}"),
            Self::Died => f.write_str("the target stopped answering"),
            Self::NotBack => f.write_str("the target did not come back"),
            Self::SetUp(what) => write!(f, "the {what} cannot be emptied to begin with"),
        }
    }
}

/// Why a case was not run, or not to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// The tester does not permit or provide this.
    NotPermitted(Needs),
    /// The target does not offer this, or its state before the run could not be read.
    NotOffered(Needs),
    /// A frame cannot be built for this target, window or link.
    Unfit(Unfit),
    /// The tester could not do this.
    NotDone(Action),
    /// Something could not be put back earlier; nothing is changed any more.
    NotRestored,
    /// Other targets live at the same MAC address and might be changed, too.
    Neighbours,
    /// The target has stopped answering.
    Gone,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted(needs) => write!(f, "not permitted or provided: {needs}"),
            Self::NotOffered(needs) => write!(f, "not offered by the target: {needs}"),
            Self::Unfit(Unfit::Unknown(_)) => f.write_str("the target has not told a number"),
            Self::Unfit(Unfit::TooLarge(_)) => f.write_str("a number does not fit into its field"),
            Self::Unfit(Unfit::FrameTooLong) => f.write_str("the frame does not fit the MTU"),
            Self::Unfit(Unfit::OutsideWindow) => f.write_str("the window is not large enough"),
            Self::Unfit(Unfit::DiskTooSmall) => f.write_str("the disk is too small"),
            Self::Unfit(Unfit::NoSecondMac) => f.write_str("there is no second MAC address"),
            Self::NotDone(action) => write!(f, "nobody did this: {}", action.instruction()),
            Self::NotRestored => f.write_str("an earlier change could not be undone"),
            Self::Neighbours => f.write_str("other targets of that machine might be changed, too"),
            Self::Gone => f.write_str("the target stopped answering"),
        }
    }
}

/// Whether a target is as it was before a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Restored {
    /// Nothing was to be changed.
    NotNeeded,
    /// It was put back and compared.
    Yes,
    /// It could not be put back; `cowblade conform --restore` can try again.
    No(Altered),
}

/// The end of a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Whether there was anything to test.
    pub ended: Ended,
    /// Cases that passed.
    pub passed: usize,
    /// Of those, cases with legitimate differences.
    pub passed_with_notes: usize,
    /// Failures of "must" cases.
    pub failed_must: usize,
    /// Failures of "should" cases.
    pub failed_should: usize,
    /// Failures of "note" cases.
    pub failed_note: usize,
    /// Cases that were not run.
    pub skipped: usize,
    /// Of all cases, those after which the target died while its state was put back.
    pub died_restoring: usize,
    /// What could not be put back.
    pub not_restored: Option<Altered>,
    /// Another machine that answers for the same address: both destroy each other's data.
    pub foreign: Option<Mac>,
}

/// Whether there was anything to test.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ended {
    /// The cases were run.
    #[default]
    Finished,
    /// Nobody answered the first query: wrong address, wrong link, or a mask without us.
    NoAnswer,
}
