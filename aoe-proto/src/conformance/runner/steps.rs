//! The steps of a case: frames out, answers in, each held against what is accepted.

use super::super::case::{Action, Exchange, Proof, Step};
use super::super::compose::{self, Seen, Unfit, VLAN_LEN};
use super::super::expect::{Answer, Check, Mismatch, Shape, View};
use super::super::prelude::{query, register};
use super::super::stimulus::{Argument, Stimulus};
use super::super::value::{Value, Window};
use super::flight::Flight;
use super::{
    Doubt, FLOOD_MAX, Failure, Mac, Outcome, Phase, Purpose, Resume, Run, Runner, SECTOR_BYTES, Why,
};
use crate::ata::command::AtaCommand;
use crate::wire::Command;

/// What a step accepts, for reports.
pub(super) fn accepted(step: &'static Step) -> &'static [Answer] {
    match step {
        Step::Ask(exchange) | Step::Flood { exchange, .. } => exchange.accept,
        Step::Advertisement { accept, .. } => accept,
        // Every exchange has its own; the first stands for all in a report.
        Step::Burst(list) => list.first().map_or(&[], |exchange| exchange.accept),
        Step::Silence { .. } | Step::Act(_) => &[],
    }
}

fn exchange_at(step: &'static Step, index: u16) -> Option<&'static Exchange> {
    match step {
        Step::Ask(exchange) | Step::Flood { exchange, .. } => Some(exchange),
        Step::Burst(list) => list.get(usize::from(index)),
        Step::Silence { .. } | Step::Act(_) | Step::Advertisement { .. } => None,
    }
}

/// What an answer stands against, if silence would do as well.
fn silence_of(step: &'static Step) -> Option<&'static str> {
    if let Step::Ask(exchange) = step { exchange.silence } else { None }
}

/// The frame that a step sends at an index. Where silence may pass, the second is the query that
/// proves it.
pub(super) fn stimulus_at(step: &'static Step, index: u16) -> Option<Stimulus> {
    match step {
        Step::Silence { send, .. } if index == 0 => Some(*send),
        Step::Silence { .. } => Some(query()),
        Step::Ask(_) if index > 0 => Some(query()),
        _ => exchange_at(step, index).map(|exchange| exchange.send),
    }
}

impl Runner<'_> {
    /// Why answers to an exchange could not be judged: they would be compared with sectors that
    /// nobody knows, or the disk ends before what is read or written, and no accepted answer says so.
    fn unjudgeable(&self, exchange: &'static Exchange) -> Option<Unfit> {
        let resolve = |value: Value| value.resolve(&self.facts);
        let known = |lba, sectors| {
            let inside = |window: Window| Some(window.holds(resolve(lba)?, resolve(sectors)?));
            self.facts.window.and_then(inside).unwrap_or(false)
        };
        let mut checks = exchange.accept.iter().flat_map(Answer::all_checks);
        let unknown = |check| match check {
            Check::Original { lba, sectors } => !known(lba, sectors),
            _ => false,
        };
        if checks.any(unknown) {
            return Some(Unfit::OutsideWindow);
        }
        let Argument::Ata(ata) = exchange.send.argument else { return None };
        let moves = matches!(
            AtaCommand::decode(ata.opcode),
            AtaCommand::Read(_) | AtaCommand::Verify(_) | AtaCommand::Write { .. }
        );
        let end = resolve(ata.lba)?.checked_add(resolve(ata.count)?)?;
        let outside = moves && self.facts.sectors.is_some_and(|sectors| end > sectors);
        let says_so = |answer: &Answer| match answer.shape {
            Shape::Any | Shape::Plain => true,
            Shape::Failed(bits) => bits == 0 || bits & register::NOT_FOUND != 0,
            Shape::AoeError(_) | Shape::Done => false,
        };
        (outside && !exchange.accept.iter().any(says_so)).then_some(Unfit::DiskTooSmall)
    }

    fn step(&self) -> Option<&'static Step> {
        self.run.as_ref().and_then(Run::step)
    }

    /// Begins the step that is next, or ends the case.
    pub(super) fn enter(&mut self) {
        let Some(step) = self.step() else { return self.conclude(Outcome::Passed) };
        let timing = self.config.timing;
        let (tag, tries) = (self.tag(), timing.tries);
        let flight = match step {
            Step::Ask(exchange) if exchange.silence.is_some() => Flight::same(tag, 2, tries),
            // Two answers to two copies are in order.
            Step::Ask(exchange) if exchange.exactly_once => Flight::rounds(tag, 1, tries),
            Step::Ask(_) => Flight::same(tag, 1, tries),
            Step::Burst(list) => {
                Flight::rounds(tag, u16::try_from(list.len()).unwrap_or(FLOOD_MAX), tries)
            }
            Step::Flood { times, .. } => {
                let Some(times) = times.resolve(&self.facts) else {
                    return self.conclude(Outcome::Skipped(Why::Unfit(Unfit::Unknown(*times))));
                };
                let times = u16::try_from(times).unwrap_or(FLOOD_MAX).clamp(1, FLOOD_MAX);
                // More than was promised may be dropped, by anybody. [AoE 4]
                match self.facts.buffer_count.unwrap_or(1) {
                    room if room < times => Flight::paced(tag, times, tries, room),
                    _ => Flight::rounds(tag, times, tries),
                }
            }
            Step::Silence { proof: Proof::Query, .. } => Flight::same(tag, 2, tries),
            Step::Silence { proof: Proof::Time, .. } => Flight::same(tag, 1, 1),
            Step::Act(action) | Step::Advertisement { action, .. } => {
                if let Some(run) = &mut self.run {
                    run.heard = false;
                    run.undo = action.undo().or(run.undo.filter(|undo| undo != action));
                }
                self.phase = Phase::Call(Purpose::Step, *action);
                return;
            }
        };
        let time = matches!(step, Step::Silence { proof: Proof::Time, .. });
        self.patience_ms = if time { timing.silence_ms } else { self.answer_ms() };
        self.flight = flight;
        self.phase = Phase::Fly;
        // Frames of a flood differ in their tags only.
        let distinct = if matches!(step, Step::Flood { .. }) { 1 } else { flight.frames };
        for index in 0..distinct {
            let unfit = exchange_at(step, index).and_then(|exchange| self.unjudgeable(exchange));
            if let Some(unfit) = unfit.or_else(|| self.compose(index).err()) {
                return self.conclude(Outcome::Skipped(Why::Unfit(unfit)));
            }
        }
    }

    /// Writes the frame at an index into the buffer.
    pub(super) fn compose(&mut self, index: u16) -> Result<usize, Unfit> {
        let stimulus = self.step().and_then(|step| stimulus_at(step, index));
        let Some(stimulus) = stimulus else { return Ok(0) };
        let tag = self.flight.tag.wrapping_add(u32::from(index));
        compose::stimulus(self.memory.frame, &stimulus, tag, &self.facts)
    }

    pub(super) fn next_step(&mut self) {
        if let Some(run) = &mut self.run {
            run.step = run.step.saturating_add(1);
            run.doubt = Doubt::None;
        }
        self.phase = Phase::Enter;
    }

    /// An answer of AoE while a step waits.
    pub(super) fn step_answer(&mut self, seen: &Seen<'_>, now: u64) {
        let Some(step) = self.step() else { return };
        if let Step::Silence { proof, .. } = step {
            return self.silence_answer(step, *proof, seen, now);
        }
        let Some(index) = self.frame_of(step, seen) else { return };
        let may_be_silent = silence_of(step).is_some();
        if may_be_silent && index > 0 {
            return self.proved(now);
        }
        let Some(exchange) = exchange_at(step, index) else { return };
        if self.flight.is_answered(index) {
            if exchange.exactly_once {
                self.fail(index, Some(seen), Failure::AnsweredTwice);
            }
            return;
        }
        if matches!(self.phase, Phase::Linger { .. }) && !may_be_silent {
            return;
        }
        match self.judge(index, exchange.accept, seen) {
            Err((closest, mismatch)) => {
                let failure = Failure::Mismatch { closest, mismatch };
                self.evidence(index, Some(seen));
                // Within a burst it may be the consequence of a frame that was lost: the round has
                // to be complete before it counts.
                let complete = self.flight.answer(index);
                match &mut self.run {
                    Some(run) if matches!(step, Step::Burst(_)) && !complete => {
                        run.suspected.get_or_insert(failure);
                    }
                    _ => self.conclude(Outcome::Failed(failure)),
                }
            }
            Ok(difference) => {
                self.note(difference);
                if exchange.keep {
                    self.keep(seen);
                }
                if self.flight.answer(index) || may_be_silent {
                    if let Some(failure) = self.run.as_mut().and_then(|run| run.suspected.take()) {
                        return self.conclude(Outcome::Failed(failure));
                    }
                    if exchange.exactly_once {
                        let until = now.saturating_add(self.config.timing.grace_ms);
                        self.phase = Phase::Linger { until };
                    } else {
                        self.next_step();
                    }
                }
            }
        }
    }

    /// The frame that an answer belongs to: by its fresh tag, or the first open one that brought
    /// that tag.
    fn frame_of(&self, step: &'static Step, seen: &Seen<'_>) -> Option<u16> {
        let tag = seen.tag();
        let given = |index: u16| stimulus_at(step, index).and_then(|stimulus| stimulus.tag);
        if let Some(index) = self.flight.index(tag) {
            return given(index).is_none().then_some(index);
        }
        let same = |index: &u16| given(*index) == Some(tag);
        let open = (0..self.flight.frames).filter(same).find(|i| !self.flight.is_answered(*i));
        open.or_else(|| (0..self.flight.frames).find(same))
    }

    fn silence_answer(&mut self, step: &'static Step, proof: Proof, seen: &Seen<'_>, now: u64) {
        let given = stimulus_at(step, 0).and_then(|stimulus| stimulus.tag);
        let tag = seen.tag();
        let first = match given {
            Some(given) => tag == given,
            None => self.flight.index(tag) == Some(0),
        };
        // A frame cut inside of its header has no tag: what comes back is anybody's guess, but it
        // comes from the target, to us, and belongs to nothing.
        let cut = stimulus_at(step, 0).is_some_and(
            |stimulus| matches!(stimulus.cut, super::super::stimulus::Cut::At(len) if len < 24),
        );
        let stray = cut
            && seen.header.src == self.facts.target_mac
            && seen.header.dst == self.facts.own_mac
            && tag & 0x8000_0000 == 0;
        if first || stray {
            return self.fail(0, Some(seen), Failure::Answered);
        }
        if proof == Proof::Query && self.flight.index(tag) == Some(1) {
            self.proved(now);
        }
    }

    /// The query behind a frame was answered: only an answer that was overtaken may still come.
    fn proved(&mut self, now: u64) {
        if self.phase == Phase::Fly {
            let until = now.saturating_add(self.config.timing.grace_ms);
            self.phase = Phase::Linger { until };
        }
    }

    /// Nothing came for a moment.
    pub(super) fn lingered(&mut self) {
        let silence = self.step().and_then(silence_of);
        self.note(silence.filter(|_| !self.flight.is_answered(0)));
        self.next_step();
    }

    /// No answer, however often the step was tried.
    pub(super) fn step_silent(&mut self) {
        match self.step() {
            Some(Step::Silence { proof: Proof::Time, .. }) => self.next_step(),
            Some(Step::Silence { .. }) => self.silent_failure(0, Failure::Died),
            Some(step) if silence_of(step).is_some() => self.silent_failure(0, Failure::Died),
            _ => self.silent_failure(self.flight.first_open(), Failure::Silent),
        }
    }

    /// Silence is believed at the second time, of a target that answers other things in between:
    /// on a loaded machine everybody is silent for a while.
    fn silent_failure(&mut self, index: u16, failure: Failure) {
        self.evidence(index, None);
        let Some(run) = &mut self.run else { return };
        let failure = run.suspected.take().unwrap_or(failure);
        if run.doubt == Doubt::TriedAgain {
            return self.conclude(Outcome::Failed(failure));
        }
        run.outcome = Outcome::Failed(failure);
        run.doubt = Doubt::Asking;
        self.check_alive();
    }

    /// A round of a step begins.
    pub(super) fn new_round(&mut self) {
        if let Some(run) = &mut self.run {
            run.suspected = None;
        }
    }

    /// Holds an answer against the accepted ones: the remark of the one that fits, or why the
    /// closest does not.
    fn judge(
        &mut self,
        index: u16,
        accept: &'static [Answer],
        seen: &Seen<'_>,
    ) -> Result<Option<&'static str>, (&'static str, Mismatch)> {
        let sent_len = self.compose(index).unwrap_or(0);
        let tagged = self.step().and_then(|step| stimulus_at(step, index)?.vlan).is_some();
        let kept_len = self.run.as_ref().map_or(0, |run| run.kept_len);
        let window = self.facts.window.map_or(0, |window| usize::from(window.sectors));
        let view = View {
            frame: seen.frame,
            vlan: seen.vlan,
            sent: self.memory.frame.get(..sent_len).unwrap_or_default(),
            sent_tag_len: if tagged { VLAN_LEN } else { 0 },
            kept: self.memory.kept.get(..kept_len).unwrap_or_default(),
            window: self.memory.window.get(..window * SECTOR_BYTES).unwrap_or_default(),
            facts: &self.facts,
        };
        let mut closest: Option<(usize, &'static str, Mismatch)> = None;
        for answer in accept {
            let mut held = 0_usize;
            let wrong = answer.all_checks().find_map(|check: Check| {
                held = held.saturating_add(1);
                check.hold(&view).err()
            });
            match wrong {
                None => return Ok(answer.difference),
                Some(mismatch) if closest.is_none_or(|(best, ..)| held > best) => {
                    closest = Some((held, answer.label, mismatch));
                }
                Some(_) => {}
            }
        }
        // A step that accepts nothing is a step that accepts anything: there is none.
        closest.map_or(Ok(None), |(_, label, mismatch)| Err((label, mismatch)))
    }

    fn note(&mut self, difference: Option<&'static str>) {
        let (Some(run), Some(note)) = (&mut self.run, difference) else { return };
        if !run.notes.contains(&note) {
            // A fifth remark about one case would not be read.
            run.notes.push(note).unwrap_or_default();
        }
    }

    fn keep(&mut self, seen: &Seen<'_>) {
        let len = copy(self.memory.kept, seen.frame);
        if let Some(run) = &mut self.run {
            run.kept_len = len;
        }
    }

    /// Ends the case with the frames at hand as evidence.
    pub(super) fn fail(&mut self, index: u16, seen: Option<&Seen<'_>>, failure: Failure) {
        self.evidence(index, seen);
        self.conclude(Outcome::Failed(failure));
    }

    /// Keeps the frames that show a failure, unless there are some already.
    fn evidence(&mut self, index: u16, seen: Option<&Seen<'_>>) {
        if self.run.as_ref().is_some_and(|run| run.suspected.is_some()) {
            return;
        }
        let len = self.compose(index).unwrap_or(0);
        let sent = self.memory.frame.get(..len).unwrap_or_default();
        let sent_len = copy(self.memory.sent, sent);
        let received_len = seen.map_or(0, |seen| copy(self.memory.received, seen.frame));
        if let Some(run) = &mut self.run {
            run.sent_len = sent_len;
            run.received_len = received_len;
        }
    }

    /// The tester did what the step asked for.
    pub(super) fn acted_for_step(&mut self, now: u64) {
        let heard = self.run.as_ref().is_some_and(|run| run.heard);
        if matches!(self.step(), Some(Step::Advertisement { .. })) && !heard {
            let until = now.saturating_add(self.config.timing.advertisement_ms);
            self.phase = Phase::Listen { until };
        } else if matches!(self.step(), Some(Step::Act(Action::LowerMtu))) {
            // A target that looks at its MTU when it is asked about itself must not be helped.
            self.next_step();
        } else {
            self.learn(Resume::NextStep);
        }
    }

    /// The tester could not.
    pub(super) fn not_done_for_step(&mut self) {
        let Some(Step::Act(action) | Step::Advertisement { action, .. }) = self.step() else {
            return;
        };
        self.conclude(Outcome::Skipped(Why::NotDone(*action)));
    }

    /// A frame while the tester acts, or behind it: perhaps the advertisement.
    pub(super) fn heard(&mut self, seen: &Seen<'_>) {
        let Some(Step::Advertisement { accept, .. }) = self.step() else { return };
        let ours = seen.header.address.exact() == Some(self.facts.address);
        let to_us = seen.header.dst == Mac::BROADCAST || seen.header.dst == self.facts.own_mac;
        // Late answers to our own requests have a tag of ours.
        let asked = seen.tag() & 0x8000_0000 != 0;
        if seen.header.command != Command::Config || !ours || !to_us || asked {
            return;
        }
        // The address of a target may change with its interface.
        self.facts.target_mac = seen.header.src;
        match self.judge(0, accept, seen) {
            Err((closest, mismatch)) => {
                self.fail(0, Some(seen), Failure::Mismatch { closest, mismatch });
            }
            Ok(difference) => {
                self.note(difference);
                if let Some(run) = &mut self.run {
                    run.heard = true;
                }
                if matches!(self.phase, Phase::Listen { .. }) {
                    self.learn(Resume::NextStep);
                }
            }
        }
    }
}

/// Copies as much as fits, and tells how much.
pub(super) fn copy(to: &mut [u8], from: &[u8]) -> usize {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    to.len().min(from.len())
}
