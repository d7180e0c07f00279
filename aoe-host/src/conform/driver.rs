//! Does what the runner asks for, until it is done or somebody interrupts.

use aoe_proto::conformance::{
    ALL, Action, Case, Ended as RunnerEnded, Event, Facts, Memory, Needs, Originals, Record,
    RunConfig, Runner, Selection, Severity, Summary, Topic,
};
use aoe_proto::profiles::Client;
use aoe_proto::{BufferTooSmall, SECTOR_BYTES};

use super::journal::Ledger;
use super::report::{CaseReport, Ended, RunReport};
use super::stage::Stage;
use super::undo::undo_ledger;
use super::wire::Wire;
use crate::error::{ErrorKind, HostError, Result};
use crate::values::Mac;

/// Which cases are run.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Patterns of names; none means all.
    pub ids: Vec<String>,
    /// Patterns of names that are left out.
    pub except: Vec<String>,
    /// Topics; none means all.
    pub topics: Vec<Topic>,
    /// The least severity.
    pub least: Severity,
}

impl Default for Choice {
    fn default() -> Self {
        let (ids, except, topics) = (Vec::new(), Vec::new(), Vec::new());
        Self { ids, except, topics, least: Severity::Note }
    }
}

impl Choice {
    /// The cases that are chosen.
    pub fn cases(&self) -> Vec<&'static Case> {
        self.with_selection(Needs::NONE, |selection| {
            ALL.iter().copied().flatten().filter(|case| selection.wants(case)).collect()
        })
    }

    fn with_selection<T>(&self, permitted: Needs, act: impl FnOnce(Selection<'_>) -> T) -> T {
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let except: Vec<&str> = self.except.iter().map(String::as_str).collect();
        let (topics, least) = (self.topics.as_slice(), self.least);
        act(Selection { ids: &ids, except: &except, topics, least, permitted })
    }
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Target, link and times.
    pub config: RunConfig,
    /// Which cases.
    pub choice: Choice,
    /// What is permitted and provided.
    pub permitted: Needs,
}

/// Something that happened during a run.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'p> {
    /// A case begins: its number among those selected, from 1, and how many there are.
    Started(&'static Case, usize, usize),
    /// A case has ended.
    Ended(&'p CaseReport),
    /// Something has to be done to the target.
    Acting(Action),
    /// Another machine answers for the same address.
    SecondServer(Mac),
    /// Somebody could not do what had to be done to the target, and why.
    NotDone(&'p str),
    /// A client is replayed.
    Playing(Client),
    /// The run was interrupted: everything is put back.
    Undoing,
}

/// Everything that a run works with.
pub struct Sides<'s> {
    /// The way to the target.
    pub wire: &'s mut dyn Wire,
    /// Who does what no frame can do.
    pub stage: &'s mut dyn Stage,
    /// Where the journal goes.
    pub ledger: &'s mut dyn Ledger,
    /// Told of everything that happens.
    pub watcher: &'s mut dyn FnMut(Progress<'_>),
    /// Whether somebody wants the run to end.
    pub interrupted: &'s mut dyn FnMut() -> bool,
}

impl core::fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sides").finish_non_exhaustive()
    }
}

/// Working memory of a runner.
struct Buffers {
    frames: [Vec<u8>; 4],
    window: Vec<u8>,
    originals: Box<Originals>,
}

impl Buffers {
    fn new(config: &RunConfig) -> Self {
        let frame_len = Memory::frame_len(config.mtu);
        let sectors = config.window.map_or(0, |window| usize::from(window.sectors));
        Self {
            frames: core::array::from_fn(|_| vec![0; frame_len]),
            window: vec![0; sectors * SECTOR_BYTES],
            originals: Box::new(Originals::new()),
        }
    }

    fn lend(&mut self) -> Memory<'_> {
        let [frame, sent, received, kept] = &mut self.frames;
        let (window, originals) = (&mut self.window, &mut *self.originals);
        Memory { frame, sent, received, kept, window, originals }
    }
}

pub(super) fn too_small(error: BufferTooSmall) -> HostError {
    HostError::new(ErrorKind::Io, "prepare the run").source(error)
}

/// What a target tells about itself; `None` if nobody answers. Alters nothing.
///
/// # Errors
/// When the wire fails.
pub fn scout(
    config: &RunConfig,
    wire: &mut dyn Wire,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Facts>> {
    let mut buffers = Buffers::new(config);
    // No case is called so: what is left is the prologue.
    let selection = Selection { ids: &[""], ..Selection::default() };
    let mut runner = Runner::new(*config, selection, buffers.lend()).map_err(too_small)?;
    while !interrupted() {
        match runner.poll(wire.now_ms()) {
            Event::Send(outgoing) => wire.send(outgoing.frame),
            Event::Wait { until_ms } => wire.wait(until_ms, &mut |arrived| {
                runner.received(arrived.frame, arrived.vlan, arrived.at_ms);
            })?,
            Event::Done(summary) => {
                let answered = summary.ended == RunnerEnded::Finished;
                return Ok(answered.then_some(*runner.facts()));
            }
            Event::Record(_) | Event::Act(_) | Event::Started { .. } | Event::Verdict(_) => {}
        }
    }
    Ok(None)
}

/// Runs the selected cases, and puts everything back if the run is interrupted.
///
/// # Errors
/// When the wire fails, when another run's journal is in the way, and when an interrupted run
/// cannot be undone for a reason other than the target.
pub fn conduct(plan: &Plan, sides: &mut Sides<'_>) -> Result<RunReport> {
    plan.choice.with_selection(plan.permitted, |selection| examine(plan, selection, sides))
}

fn examine(plan: &Plan, selection: Selection<'_>, sides: &mut Sides<'_>) -> Result<RunReport> {
    let mut buffers = Buffers::new(&plan.config);
    let runner = Runner::new(plan.config, selection, buffers.lend()).map_err(too_small)?;
    let start_ms = sides.wire.now_ms();
    let mut conductor = Conductor {
        runner,
        cases: Vec::new(),
        warnings: Vec::new(),
        troubles: Vec::new(),
        case_start_ms: start_ms,
        acting: None,
        low_mtu: false,
        second_server: None,
    };
    let ended = conductor.run(sides);
    let Conductor { runner, cases, mut warnings, troubles, low_mtu, second_server, .. } = conductor;
    let facts = *runner.facts();
    drop(runner);
    let (ended, summary) = match ended? {
        Some(summary) if summary.ended == RunnerEnded::NoAnswer => (Ended::NoAnswer, summary),
        Some(summary) => (Ended::Finished, summary),
        None => {
            (sides.watcher)(Progress::Undoing);
            warnings.extend(put_back(plan, sides, low_mtu)?);
            (Ended::Interrupted, Summary::default())
        }
    };
    if let Some(what) = summary.not_restored {
        warnings.push(format!("the {what} could not be put back"));
    }
    let elapsed_ms = sides.wire.now_ms().saturating_sub(start_ms);
    Ok(RunReport::new(plan, &facts, ended, elapsed_ms, second_server, troubles, warnings, cases))
}

/// What an interrupted run has altered; returns what could not be put back.
fn put_back(plan: &Plan, sides: &mut Sides<'_>, low_mtu: bool) -> Result<Option<String>> {
    sides.stage.settle();
    if low_mtu && sides.stage.begin(Action::RestoreMtu) {
        while sides.stage.poll().is_none() {
            let soon = sides.wire.now_ms().saturating_add(TURN_MS);
            sides.wire.wait(soon, &mut |_| ())?;
        }
    }
    undo_ledger(&plan.config, sides.ledger, sides.wire)
}

/// Distance of two looks at somebody who does something to the target.
const TURN_MS: u64 = 10;

/// A runner under way.
struct Conductor<'r> {
    runner: Runner<'r>,
    cases: Vec<CaseReport>,
    warnings: Vec<String>,
    /// Actions that failed.
    troubles: Vec<String>,
    case_start_ms: u64,
    /// What somebody is doing to the target.
    acting: Option<Action>,
    /// The target's MTU was changed and not changed back.
    low_mtu: bool,
    /// Another machine that answers for the same address.
    second_server: Option<Mac>,
}

impl Conductor<'_> {
    /// Runs to the end; `None` if it was interrupted.
    fn run(&mut self, sides: &mut Sides<'_>) -> Result<Option<Summary>> {
        loop {
            if (sides.interrupted)() {
                return Ok(None);
            }
            let now_ms = sides.wire.now_ms();
            match self.runner.poll(now_ms) {
                Event::Send(outgoing) => sides.wire.send(outgoing.frame),
                Event::Wait { until_ms } => self.wait(until_ms, now_ms, sides)?,
                Event::Record(record) => {
                    if let Some(why) = record_or_not(&record, sides.ledger)? {
                        if self.warnings.is_empty() {
                            self.warnings.push(format!("nothing is altered: {why}"));
                        }
                        self.runner.forbid_changes();
                    }
                }
                Event::Act(action) => {
                    (sides.watcher)(Progress::Acting(action));
                    self.act(action, sides);
                }
                Event::Started { case, number, of } => {
                    self.case_start_ms = now_ms;
                    self.note_second_server(sides);
                    (sides.watcher)(Progress::Started(case, number, of));
                }
                Event::Verdict(verdict) => {
                    let report =
                        CaseReport::new(&verdict, now_ms.saturating_sub(self.case_start_ms));
                    (sides.watcher)(Progress::Ended(&report));
                    self.cases.push(report);
                    self.case_start_ms = now_ms;
                }
                Event::Done(summary) => {
                    self.note_second_server(sides);
                    return Ok(Some(summary));
                }
            }
        }
    }

    /// Tells at once: most of what follows may be the doing of the other one.
    fn note_second_server(&mut self, sides: &mut Sides<'_>) {
        if let (None, Some(mac)) = (self.second_server, self.runner.foreign()) {
            self.second_server = Some(mac);
            (sides.watcher)(Progress::SecondServer(mac));
        }
    }

    fn act(&mut self, action: Action, sides: &mut Sides<'_>) {
        if sides.stage.begin(action) {
            // Until it is known to have failed, it may have happened.
            self.low_mtu |= action == Action::LowerMtu;
            self.acting = Some(action);
        } else {
            self.not_done(sides);
            self.runner.acted(false, sides.wire.now_ms());
        }
    }

    /// Keeps what went wrong when somebody should have done something, once.
    fn not_done(&mut self, sides: &mut Sides<'_>) {
        let Some(why) = sides.stage.trouble() else { return };
        if !self.troubles.contains(&why) {
            (sides.watcher)(Progress::NotDone(&why));
            self.troubles.push(why);
        }
    }

    fn wait(&mut self, until_ms: u64, now_ms: u64, sides: &mut Sides<'_>) -> Result<()> {
        let until_ms = if self.acting.is_some() { now_ms + TURN_MS } else { until_ms };
        let runner = &mut self.runner;
        sides.wire.wait(until_ms, &mut |arrived| {
            runner.received(arrived.frame, arrived.vlan, arrived.at_ms);
        })?;
        if let Some(action) = self.acting
            && let Some(done) = sides.stage.poll()
        {
            self.acting = None;
            if !done {
                self.not_done(sides);
            }
            if done && action == Action::RestoreMtu {
                self.low_mtu = false;
            }
            self.runner.acted(done, sides.wire.now_ms());
        }
        Ok(())
    }
}

/// Makes a record durable; tells why not, if not. Then nothing has been altered yet, and no journal
/// is left behind.
///
/// # Errors
/// When another run's journal is in the way.
pub(super) fn record_or_not(
    record: &Record<'_>,
    ledger: &mut dyn Ledger,
) -> Result<Option<HostError>> {
    match ledger.record(record) {
        Ok(()) => Ok(None),
        Err(error) if is_in_the_way(&error) => Err(error),
        Err(error) => {
            // The last record says that everything is as before.
            if *record != Record::Restored {
                ledger.finish()?;
            }
            Ok(Some(error))
        }
    }
}

/// Not a disk that failed, but another run.
fn is_in_the_way(error: &HostError) -> bool {
    matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::InUse)
}
