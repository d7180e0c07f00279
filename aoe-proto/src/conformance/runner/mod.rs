//! Runs the cases against one target. No I/O, no clock.

mod after;
mod flight;
mod learn;
mod neighbours;
mod report;
mod steps;

pub use flight::FLOOD_MAX;
pub use report::{
    Ended, Event, Evidence, Failure, Outcome, Outgoing, Restored, Summary, Verdict, Why,
};

use heapless::Vec;

use super::case::{Action, Case, Needs, Step};
use super::compose::Seen;
use super::journal::Record;
use super::mend::Mender;
use super::select::Selection;
use super::value::{Facts, Window};
use crate::error::BufferTooSmall;
use crate::sectors::SECTOR_BYTES;
use crate::wire::{Address, CONFIG_STRING_MAX, Mac};
use flight::{Due, Flight};
use neighbours::Neighbours;

/// How long to wait, in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// For an answer, before the request is sent again.
    pub answer_ms: u64,
    /// Transmissions before a request counts as unanswered; at least 1.
    pub tries: u8,
    /// After the answer to a later request, for the answer that must not come. [`super::Proof::Query`]
    pub grace_ms: u64,
    /// For the answer that must not come, if nothing else proves it. [`super::Proof::Time`]
    pub silence_ms: u64,
    /// For an advertisement, after the tester's action.
    pub advertisement_ms: u64,
}

impl Default for Timing {
    /// 400 ms, four transmissions, 40 ms, 1 s, 5 s.
    fn default() -> Self {
        let (answer_ms, tries, grace_ms, silence_ms) = (400, 4, 40, 1000);
        Self { answer_ms, tries, grace_ms, silence_ms, advertisement_ms: 5000 }
    }
}

/// What a run needs to know.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// The target.
    pub address: Address,
    /// Our address.
    pub own_mac: Mac,
    /// A second one of ours, that reaches the same target.
    pub second_mac: Option<Mac>,
    /// MTU of our link in bytes.
    pub mtu: u16,
    /// Where writes are allowed.
    pub window: Option<Window>,
    /// Where the tags begin; different for every run, so that late answers to an earlier one do not
    /// match.
    pub tag_seed: u32,
    /// Waiting times.
    pub timing: Timing,
    /// The cases: [`super::ALL`], as a rule.
    pub cases: &'static [&'static [Case]],
}

impl RunConfig {
    /// All cases, without a second address and without a window.
    pub fn new(address: Address, own_mac: Mac, mtu: u16) -> Self {
        Self {
            address,
            own_mac,
            second_mac: None,
            mtu,
            window: None,
            tag_seed: 0,
            timing: Timing::default(),
            cases: super::ALL,
        }
    }
}

/// What a target was like before the run.
#[derive(Clone, Debug, Default)]
pub struct Originals {
    string: Vec<u8, CONFIG_STRING_MAX, u16>,
    mask: Vec<[u8; 6], 255, u8>,
    holders: Vec<[u8; 6], 255, u8>,
}

impl Originals {
    /// An empty one, to be lent.
    pub const fn new() -> Self {
        Self { string: Vec::new(), mask: Vec::new(), holders: Vec::new() }
    }
}

/// What the caller lends.
#[derive(Debug)]
pub struct Memory<'m> {
    /// For the frame being sent: [`Memory::frame_len`] bytes.
    pub frame: &'m mut [u8],
    /// For the sent frame that a verdict shows: as long.
    pub sent: &'m mut [u8],
    /// For the received frame that a verdict shows: as long.
    pub received: &'m mut [u8],
    /// For an answer that later steps compare with: as long.
    pub kept: &'m mut [u8],
    /// For the contents of the window: 512 bytes for each of its sectors.
    pub window: &'m mut [u8],
    /// For the state of the target.
    pub originals: &'m mut Originals,
}

impl Memory<'_> {
    /// Bytes of a frame on a link with this MTU, VLAN tag included.
    pub const fn frame_len(mtu: u16) -> usize {
        mtu as usize + 18
    }
}

/// What the prologue asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Question {
    Query,
    /// Who else is there.
    Neighbours,
    Identify,
    Mask,
    Holders,
    /// The window, from this byte on.
    Sectors(usize),
    /// Whether the disk can be written at all: with what is there.
    Writable,
}

/// Why somebody has to do something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Step,
    Undo,
    Revive,
}

/// Where to go on after questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Resume {
    First,
    NextStep,
    Undone,
    Revived,
}

/// What the runner is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Asking the target about itself.
    Learn(Question),
    /// Handing out journal records.
    Record(u8),
    /// Looking for the next case.
    Choose,
    /// Announcing a case.
    Begin,
    /// Emptying what the case changes.
    SetUp,
    /// Starting a step.
    Enter,
    /// Waiting for the answers of a step.
    Fly,
    /// Waiting for an answer that must not come.
    Linger { until: u64 },
    /// About to ask the tester.
    Call(Purpose, Action),
    /// Waiting for the tester.
    Act(Purpose),
    /// Waiting for an advertisement.
    Listen { until: u64 },
    /// Asking whether the target lives.
    Alive,
    /// Putting back what the case changed.
    Restore,
    /// Handing out a verdict.
    Verdict,
    /// Putting back and comparing everything.
    Final,
    /// Telling the journal that nothing is left.
    Close,
    /// Over.
    Done,
}

/// Whether the silence of a step is believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doubt {
    /// There was none.
    None,
    /// Not yet: the step is tried again if the target answers a query.
    Asking,
    /// The step was tried again.
    TriedAgain,
}

/// The case under way.
#[derive(Clone, Debug)]
struct Run {
    case: &'static Case,
    step: usize,
    outcome: Outcome,
    notes: Vec<&'static str, 4, u8>,
    restored: Restored,
    undo: Option<Action>,
    heard: bool,
    /// A wrong answer within a round that is not complete.
    suspected: Option<Failure>,
    mended_twice: bool,
    died_restoring: bool,
    doubt: Doubt,
    sent_len: usize,
    received_len: usize,
    kept_len: usize,
}

impl Run {
    const fn new(case: &'static Case, outcome: Outcome) -> Self {
        Self {
            case,
            step: 0,
            outcome,
            notes: Vec::new(),
            restored: Restored::NotNeeded,
            undo: None,
            heard: false,
            suspected: None,
            mended_twice: false,
            died_restoring: false,
            doubt: Doubt::None,
            sent_len: 0,
            received_len: 0,
            kept_len: 0,
        }
    }

    fn step(&self) -> Option<&'static Step> {
        self.case.steps.get(self.step)
    }
}

/// Waits for an answer are so many times as long as the slowest of the last answers took,
const SLOWNESS: u64 = 4;
/// but at most so many times as long as the configured time.
const SLOWER_MAX: u64 = 16;

/// What to hand out, before it borrows from the runner.
#[derive(Clone, Copy)]
enum Next {
    Send(usize),
    Wait(u64),
    Record(u8),
    Act(Action),
    Started,
    Verdict,
    Done,
}

/// Runs the cases that a [`Selection`] names against one target.
///
/// See the [module](super) for how to drive it.
pub struct Runner<'m> {
    config: RunConfig,
    selection: Selection<'m>,
    memory: Memory<'m>,
    facts: Facts,
    /// Which parts of its state before the run could be read, by the need to change them.
    known: Needs,
    phase: Phase,
    resume: Resume,
    flight: Flight,
    /// Length of the frame in flight, for frames that are not made anew for every transmission.
    len: usize,
    patience_ms: u64,
    /// What an answer took, if slow ones are forgotten slowly.
    slowest_ms: u64,
    mender: Mender,
    counter: u32,
    group: usize,
    index: usize,
    number: usize,
    planned: usize,
    run: Option<Run>,
    gone: bool,
    neighbours: Neighbours,
    summary: Summary,
}

impl<'m> Runner<'m> {
    /// A runner that has sent nothing yet.
    ///
    /// # Errors
    /// [`BufferTooSmall`] if a part of the memory is, with the length that is needed.
    pub fn new(
        config: RunConfig,
        selection: Selection<'m>,
        memory: Memory<'m>,
    ) -> Result<Self, BufferTooSmall> {
        let needed = Memory::frame_len(config.mtu);
        let parts = [&memory.frame, &memory.sent, &memory.received, &memory.kept];
        if parts.iter().any(|part| part.len() < needed) {
            return Err(BufferTooSmall { needed });
        }
        let sectors = config.window.map_or(0, |window| usize::from(window.sectors));
        let needed = sectors.saturating_mul(SECTOR_BYTES);
        if memory.window.len() < needed {
            return Err(BufferTooSmall { needed });
        }
        let cases = config.cases.iter().copied().flatten();
        let planned = cases.filter(|case| selection.wants(case)).count();
        let mut runner = Self {
            facts: Facts {
                address: config.address,
                target_mac: Mac::BROADCAST,
                own_mac: config.own_mac,
                second_mac: config.second_mac,
                mtu: config.mtu,
                buffer_count: None,
                max_sectors: None,
                firmware: None,
                sectors: None,
                lba48: false,
                trim: false,
                smart: false,
                window: config.window,
                beyond_end: selection.permitted.contains(Needs::BEYOND_END),
            },
            config,
            selection,
            memory,
            known: Needs::NONE,
            phase: Phase::Done,
            resume: Resume::First,
            flight: Flight::default(),
            len: 0,
            patience_ms: config.timing.answer_ms,
            slowest_ms: 0,
            mender: Mender::new(),
            counter: config.tag_seed,
            group: 0,
            index: 0,
            number: 0,
            planned,
            run: None,
            gone: false,
            neighbours: Neighbours::default(),
            summary: Summary::default(),
        };
        runner.learn(Resume::First);
        Ok(runner)
    }

    /// What is known about the target so far.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Another machine that answers for the same address, as soon as one was heard: most cases assume
    /// that there is one target.
    pub const fn foreign(&self) -> Option<Mac> {
        self.summary.foreign
    }

    /// What to do now. Call it again after every event but [`Event::Wait`], after which frames or
    /// time have to come first.
    pub fn poll(&mut self, now_ms: u64) -> Event<'_> {
        // Every turn without an event moves on to another phase, step or case.
        let next = loop {
            if let Some(next) = self.advance(now_ms) {
                break next;
            }
        };
        self.event(next)
    }

    /// Takes a frame. `vlan` is the id of the VLAN tag that the link took out of it, if there was
    /// one. Everything that the link sees may come here: frames of others are left alone.
    pub fn received(&mut self, frame: &[u8], vlan: Option<u16>, now_ms: u64) {
        let Some(seen) = Seen::parse(frame, vlan) else { return };
        let src = seen.header.src;
        if src == self.facts.own_mac || Some(src) == self.facts.second_mac {
            return;
        }
        self.note_foreign(&seen);
        if self.is_neighbours(&seen) && self.phase != Phase::Learn(Question::Neighbours) {
            return;
        }
        self.clock(&seen, now_ms);
        match self.phase {
            Phase::Learn(question) if self.is_answer(&seen) => self.learned(question, &seen),
            Phase::SetUp | Phase::Restore | Phase::Final if self.is_answer(&seen) => {
                self.mended(&seen);
            }
            Phase::Alive if self.is_answer(&seen) => self.alive(),
            Phase::Fly | Phase::Linger { .. } => self.step_answer(&seen, now_ms),
            Phase::Act(Purpose::Step) | Phase::Listen { .. } => self.heard(&seen),
            _ => {}
        }
    }

    /// The tester did what [`Event::Act`] asked for, and the target is up again; or could not.
    /// Call it only after that event.
    pub fn acted(&mut self, done: bool, now_ms: u64) {
        let Phase::Act(purpose) = self.phase else { return };
        match (purpose, done) {
            (Purpose::Step, true) => self.acted_for_step(now_ms),
            (Purpose::Step, false) => self.not_done_for_step(),
            (Purpose::Undo, _) => self.learn(Resume::Undone),
            (Purpose::Revive, true) => self.learn(Resume::Revived),
            (Purpose::Revive, false) => self.give_up_target(),
        }
    }

    /// The journal cannot be written: whatever would change the target is skipped from now on. Call
    /// it instead of going on after [`Event::Record`].
    pub fn forbid_changes(&mut self) {
        self.selection.permitted =
            self.selection.permitted.without(Needs::CHANGES | Needs::BEYOND_END);
    }
}

impl Runner<'_> {
    fn advance(&mut self, now: u64) -> Option<Next> {
        match self.phase {
            Phase::Learn(_)
            | Phase::SetUp
            | Phase::Fly
            | Phase::Alive
            | Phase::Restore
            | Phase::Final => return self.fly(now),
            Phase::Record(number) => return self.record(number),
            Phase::Choose => self.choose(),
            Phase::Begin => {
                self.set_up();
                return Some(Next::Started);
            }
            Phase::Enter => self.enter(),
            Phase::Linger { until } | Phase::Listen { until } if now < until => {
                return Some(Next::Wait(until));
            }
            Phase::Linger { .. } => self.lingered(),
            Phase::Listen { .. } => self.conclude(Outcome::Failed(Failure::Silent)),
            Phase::Call(purpose, action) => {
                self.phase = Phase::Act(purpose);
                return Some(Next::Act(action));
            }
            Phase::Act(_) => return Some(Next::Wait(u64::MAX)),
            Phase::Verdict => {
                self.count();
                self.phase = Phase::Choose;
                return Some(Next::Verdict);
            }
            Phase::Close => {
                self.phase = Phase::Done;
                return Some(Next::Record(u8::MAX));
            }
            Phase::Done => return Some(Next::Done),
        }
        None
    }

    fn fly(&mut self, now: u64) -> Option<Next> {
        match self.flight.due(now, self.patience_ms) {
            Due::Send(index) => {
                if self.phase == Phase::Fly {
                    if index == 0 {
                        self.new_round();
                    }
                    self.len = self.compose(index).unwrap_or(0);
                }
                Some(Next::Send(self.len))
            }
            Due::Wait(until) => Some(Next::Wait(until)),
            Due::Silent => {
                self.silent();
                None
            }
        }
    }

    fn silent(&mut self) {
        match self.phase {
            Phase::Learn(question) => self.unlearned(question),
            Phase::SetUp | Phase::Restore | Phase::Final => self.mender_silence(),
            Phase::Alive => self.dead(),
            _ => self.step_silent(),
        }
    }

    /// A fresh tag, with room behind it for the frames of a few rounds.
    fn tag(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(16);
        // The Linux driver ignores answers with the top bit set. [AoE 2.6]
        0x8000_0000 | self.counter << 8
    }

    /// Sends the frame of that length in the buffer, until there is an answer.
    fn launch(&mut self, tag: u32, len: usize, phase: Phase) {
        self.len = len;
        self.patience_ms = self.answer_ms();
        self.flight = Flight::same(tag, 1, self.config.timing.tries);
        self.phase = phase;
    }

    /// How long an answer may take: a machine or a target that is slow now is no worse for it.
    fn answer_ms(&self) -> u64 {
        let least = self.config.timing.answer_ms;
        least.max(self.slowest_ms.saturating_mul(SLOWNESS)).min(least.saturating_mul(SLOWER_MAX))
    }

    /// Learns how long answers take.
    fn clock(&mut self, seen: &Seen<'_>, now: u64) {
        let flying = matches!(
            self.phase,
            Phase::Learn(_)
                | Phase::SetUp
                | Phase::Fly
                | Phase::Alive
                | Phase::Restore
                | Phase::Final
        );
        if !flying {
            return;
        }
        self.flight.note_late(seen.tag());
        if self.flight.index(seen.tag()).is_some() {
            let faded = self.slowest_ms.saturating_sub(self.slowest_ms / 4);
            self.slowest_ms = faded.max(self.flight.age_ms(now));
        }
    }

    fn is_answer(&self, seen: &Seen<'_>) -> bool {
        self.flight.index(seen.tag()) == Some(0)
    }

    /// Two machines that answer for one address destroy each other's data. `[AoE 8.1]`
    fn note_foreign(&mut self, seen: &Seen<'_>) {
        let ours = seen.header.address.exact() == Some(self.facts.address);
        let known = self.facts.target_mac != Mac::BROADCAST;
        if ours && known && seen.header.src != self.facts.target_mac {
            self.summary.foreign = Some(seen.header.src);
        }
    }

    fn event(&self, next: Next) -> Event<'_> {
        match next {
            Next::Send(len) => {
                let frame = self.memory.frame.get(..len).unwrap_or_default();
                let src = frame.get(6..12).and_then(<[u8]>::first_chunk).copied().map(Mac);
                let second = src.is_some() && src == self.facts.second_mac;
                Event::Send(Outgoing { frame, second })
            }
            Next::Wait(until_ms) => Event::Wait { until_ms },
            Next::Record(number) => Event::Record(self.journal_record(number)),
            Next::Act(action) => Event::Act(action),
            Next::Started => self.run.as_ref().map_or(Event::Wait { until_ms: 0 }, |run| {
                Event::Started { case: run.case, number: self.number, of: self.planned }
            }),
            Next::Verdict => self
                .run
                .as_ref()
                .map_or(Event::Wait { until_ms: 0 }, |run| Event::Verdict(self.verdict(run))),
            Next::Done => Event::Done(self.summary),
        }
    }

    fn verdict<'r>(&'r self, run: &'r Run) -> Verdict<'r> {
        let sent = self.memory.sent.get(..run.sent_len).unwrap_or_default();
        let received = self.memory.received.get(..run.received_len).unwrap_or_default();
        let failed = matches!(run.outcome, Outcome::Failed(_));
        let evidence = (failed || run.died_restoring).then_some(Evidence {
            step: failed.then_some(run.step),
            sent,
            received,
            accept: run.step().filter(|_| failed).map_or(&[], steps::accepted),
        });
        Verdict {
            case: run.case,
            outcome: run.outcome,
            notes: &run.notes,
            restored: run.restored,
            died_restoring: run.died_restoring,
            evidence,
            facts: &self.facts,
        }
    }

    fn journal_record(&self, number: u8) -> Record<'_> {
        let window = self.facts.window;
        match number {
            0 => Record::Run { address: self.facts.address, target_mac: self.facts.target_mac },
            1 => Record::MaskList(&self.memory.originals.mask),
            2 => Record::Holders(&self.memory.originals.holders),
            3 => Record::ConfigString(&self.memory.originals.string),
            4 => {
                let len = window.map_or(0, |window| usize::from(window.sectors));
                let len = len.saturating_mul(SECTOR_BYTES);
                let data = self.memory.window.get(..len).unwrap_or_default();
                Record::Sectors { lba: window.map_or(0, |window| window.lba), data }
            }
            _ => Record::Restored,
        }
    }
}

/// The state that cases begin with: nothing is set.
const EMPTY_LIST: &[[u8; 6]] = &[];

impl core::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Runner")
            .field("phase", &self.phase)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
