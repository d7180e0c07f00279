//! The conformance harness: the rules of the protocol as cases, and a runner that holds any target
//! against them. No I/O, no clock, no allocation.
//!
//! # For who adds a case
//!
//! Cases are constants in `cases/`, one file per [`Topic`]. They are written with the words of
//! [`prelude`]; read a neighbour and do likewise:
//!
//! ```
//! use aoe_proto::conformance::prelude::*;
//!
//! const CASE: Case = Case::new(Topic::Config, "config.set-if-empty.second", Must, "AoE 4.1")
//!     .shows("a set on a string that is not empty is refused with error 4 and that string")
//!     .otherwise("two hosts that race for a disk both believe that they won it")
//!     .needs(Needs::CONFIG)
//!     .steps(&[
//!         ask(config(ccmd::SET, b"first"), &[plain()]),
//!         ask(
//!             config(ccmd::SET, b"second"),
//!             &[error(code::CONFIG).with(&[Check::String(Text::Is(b"first"))])],
//!         ),
//!     ]);
//! # assert_eq!(CASE.steps.len(), 2);
//! ```
//!
//! 1. Before a case that [`Needs::CONFIG`], [`Needs::MASK`] or [`Needs::RESERVATION`], the string
//!    and the lists that it names are empty; the sectors of the window are as they were before the
//!    run. Afterwards all of it is put back and compared, whatever the case did.
//! 2. A case names every change that it could cause in a target that gets it *wrong*. A test of the
//!    cases compares the needs with the stimuli.
//! 3. Numbers that only the target knows are [`Value`]s: [`Value::LAST`], `Value::MAX.plus(1)`. If
//!    one does not fit its field or frame, the case is skipped for this target.
//! 4. A frame that changes sectors is sent only if all of them lie inside the window, or beyond the
//!    end of the disk; else the case is skipped. Choose a window at the end of the disk to run all.
//! 5. A step accepts a list of [`Answer`]s, the first that fits counts. Where implementations differ
//!    legitimately, add an answer with [`Answer::differs`]: the case passes with a remark. An answer
//!    belongs to a request by its tag alone, and has the R flag; everything else has to be checked.
//!    Offsets count from the destination address (the Error register is byte 25, the Status register
//!    byte 27, data begin at 36).
//! 6. A request without an answer is sent again, same tag and all, [`Timing::tries`] times. So
//!    requests should be idempotent, as the protocol asks. A [`burst`](prelude::burst) is repeated
//!    as a whole, and so is a [`flood`](prelude::flood) that the buffer count allows; a larger one
//!    keeps no more under way than that, and repeats what is missing. Silence is believed at the
//!    second time, of a target that answered a query in between: it may be slow, or its machine busy.
//! 7. Silence is proved by a query that is sent right behind, and answered
//!    ([`silent`](prelude::silent)): this takes no time, and finds targets that die.
//! 8. Every *must* case needs a defect in `tests/conformance.rs` that it alone is meant to catch.
//!
//! # For who drives it
//!
//! ```text
//!           poll(now) -> Event                       received(frame, vlan, now)
//! driver  <---------------------------  Runner  <---------------------------  driver
//! ```
//!
//! 1. Lend [`Memory`], make a [`Runner`] from a [`RunConfig`] and a [`Selection`].
//! 2. Call [`Runner::poll`] and do what the [`Event`] says, until [`Event::Done`]. After
//!    [`Event::Wait`] give it the frames that arrive, and poll again after each and at that time.
//! 3. The link should be promiscuous: an answer to a forged source is seen only so. Take VLAN tags
//!    out of received frames, and name their id. Frames to be sent have theirs inside.
//! 4. [`Event::Record`] has to be durable before the next call; [`Restore`] undoes such a journal.
//!    If it cannot be written call [`Runner::forbid_changes`].
//! 5. [`Event::Act`] names what the tester or a launcher does; then call [`Runner::acted`].
//! 6. [`fields()`] names the bytes of the frames of an [`Evidence`]; [`Mismatch::bytes`] tells which
//!    of them are wrong, and its `Display` what was expected.
//!
//! The runner begins with what the target tells (Query by broadcast to its exact address, IDENTIFY)
//! and what it was like before (lists, string, window), as far as changes are permitted, and ends
//! with a comparison of all that. A list that is not empty is emptied for the cases that edit it:
//! for that time the target admits everybody.

mod case;
mod cases;
mod compose;
mod expect;
mod fields;
mod journal;
mod mend;
pub mod prelude;
mod restore;
mod runner;
mod select;
mod stimulus;
mod value;
mod words;

pub use case::{Action, Case, Exchange, Needs, Proof, Severity, Step, Topic};
pub use cases::ALL;
pub use compose::Unfit;
pub use expect::{Answer, Check, Mismatch, Shape, Test};
pub use fields::{Field, field_at, fields};
pub use journal::{Record, Records};
pub use mend::Altered;
pub use restore::{Restore, RestoreError, RestoreEvent, RestoreResult};
pub use runner::{
    Ended, Event, Evidence, FLOOD_MAX, Failure, Memory, Originals, Outcome, Outgoing, Restored,
    RunConfig, Runner, Summary, Timing, Verdict, Why,
};
pub use select::{Selection, matches};
pub use stimulus::{
    Argument, Ata, Config, Cut, Data, Directives, JUNK, Mask, Part, Reserve, Stimulus, Tail, Text,
};
pub use value::{Base, Facts, Group, Value, Who, Window, pattern};

/// MTU from which a link counts as one with jumbo frames: room for eight sectors. `[AoE 4.2]`
pub const JUMBO_MTU: u16 = 4200;

/// The MTU that [`Action::LowerMtu`] asks for: room for two sectors and the longest config string,
/// and less than usual.
pub const LOW_MTU: u16 = 1100;
