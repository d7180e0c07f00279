//! Between the cases: choosing, setting up, putting back, and noticing that the target is gone.

use super::super::case::{Action, Case, Needs};
use super::super::compose::{self, Seen};
use super::super::mend::{Altered, Goals, Mender, Turn};
use super::{
    Doubt, EMPTY_LIST, Failure, Outcome, Phase, Purpose, Restored, Run, Runner, SECTOR_BYTES, Why,
};
use crate::conformance::{JUMBO_MTU, Severity};

impl Runner<'_> {
    /// The next selected case, or the end.
    pub(super) fn choose(&mut self) {
        let Some(group) = self.config.cases.get(self.group) else {
            return self.finish();
        };
        let Some(case) = group.get(self.index) else {
            self.group = self.group.saturating_add(1);
            self.index = 0;
            return;
        };
        self.index = self.index.saturating_add(1);
        if !self.selection.wants(case) {
            return;
        }
        self.number = self.number.saturating_add(1);
        let skipped = self.obstacle(case);
        self.phase = if skipped.is_some() { Phase::Verdict } else { Phase::Begin };
        self.run = Some(Run::new(case, skipped.map_or(Outcome::Passed, Outcome::Skipped)));
    }

    /// Why a case cannot be run.
    fn obstacle(&self, case: &Case) -> Option<Why> {
        if self.gone {
            return Some(Why::Gone);
        }
        let mut provided = self.selection.permitted;
        let drop = |provided: &mut Needs, needs, there: bool| {
            if !there {
                *provided = provided.without(needs);
            }
        };
        drop(&mut provided, Needs::SECOND_MAC, self.facts.second_mac.is_some());
        drop(&mut provided, Needs::JUMBO, self.facts.mtu >= JUMBO_MTU);
        drop(&mut provided, Needs::WRITES, self.facts.window.is_some());
        let missing = case.needs.without(provided | Needs::OFFERS);
        if missing != Needs::NONE {
            return Some(Why::NotPermitted(missing));
        }
        // What cannot be read cannot be put back.
        let mut offered = Needs::ALL.without(Needs::CHANGES).and(self.known);
        drop(&mut offered, Needs::LBA48, self.facts.lba48);
        drop(&mut offered, Needs::TRIM, self.facts.trim);
        drop(&mut offered, Needs::SMART, self.facts.smart);
        let missing = case.needs.without(offered);
        if missing != Needs::NONE {
            return Some(Why::NotOffered(missing));
        }
        if self.endangers_neighbours(case) {
            return Some(Why::Neighbours);
        }
        let dirty = self.summary.not_restored.is_some();
        (dirty && case.needs.intersects(Needs::CHANGES)).then_some(Why::NotRestored)
    }

    /// Empties what the case is about to change, if it is not empty.
    pub(super) fn set_up(&mut self) {
        let needs = self.run.as_ref().map_or(Needs::NONE, |run| run.case.needs);
        let originals = &*self.memory.originals;
        let full = [
            (Needs::CONFIG, !originals.string.is_empty()),
            (Needs::MASK, !originals.mask.is_empty()),
            (Needs::RESERVATION, !originals.holders.is_empty()),
        ];
        if full.iter().any(|(need, full)| *full && needs.contains(*need)) {
            self.mend(Phase::SetUp);
        } else {
            self.phase = Phase::Enter;
        }
    }

    fn mend(&mut self, phase: Phase) {
        self.mender = Mender::new();
        self.phase = phase;
        self.turn(Mender::start);
    }

    /// One turn of the mender, with the goals of the phase.
    fn turn(
        &mut self,
        act: impl FnOnce(
            &mut Mender,
            &Goals<'_>,
            &super::Facts,
            u32,
            &mut [u8],
        ) -> Result<Turn, Altered>,
    ) {
        let tag = self.tag();
        let phase = self.phase;
        let case = self.run.as_ref().map_or(Needs::NONE, |run| run.case.needs);
        let wanted = if phase == Phase::Final { self.selection.permitted } else { case };
        let has = |needs: Needs| wanted.contains(needs) && self.known.contains(needs);
        let empty = phase == Phase::SetUp;
        let list =
            |wanted: bool, original| wanted.then_some(if empty { EMPTY_LIST } else { original });
        let originals = &*self.memory.originals;
        let string: &[u8] = if empty { b"" } else { &originals.string };
        let sectors = self.facts.window.and_then(|window| {
            let len = usize::from(window.sectors).saturating_mul(SECTOR_BYTES);
            Some((window.lba, self.memory.window.get(..len)?))
        });
        let goals = Goals {
            mask: list(has(Needs::MASK), &originals.mask),
            holders: list(has(Needs::RESERVATION), &originals.holders),
            string: has(Needs::CONFIG).then_some(string),
            sectors: sectors.filter(|_| !empty && has(Needs::WRITES)),
        };
        let frame = &mut *self.memory.frame;
        match act(&mut self.mender, &goals, &self.facts, tag, frame) {
            Ok(Turn::Send(len)) => self.launch(tag, len, phase),
            Ok(Turn::Reached) => self.reached(),
            Err(what) => self.not_reached(what),
        }
    }

    pub(super) fn mended(&mut self, seen: &Seen<'_>) {
        self.turn(|mender, goals, facts, tag, buf| mender.answer(goals, facts, seen, tag, buf));
    }

    pub(super) fn mender_silence(&mut self) {
        if self.phase == Phase::Restore {
            self.keep_restoring_frame();
        }
        self.turn(Mender::silence);
    }

    fn reached(&mut self) {
        match self.phase {
            Phase::SetUp => self.phase = Phase::Enter,
            Phase::Final => {
                self.summary.not_restored = None;
                self.phase = Phase::Close;
            }
            _ => {
                if let Some(run) = &mut self.run {
                    run.restored = Restored::Yes;
                }
                self.phase = Phase::Verdict;
            }
        }
    }

    fn not_reached(&mut self, what: Altered) {
        match self.phase {
            Phase::SetUp => self.conclude(Outcome::Failed(Failure::SetUp(what))),
            Phase::Final => {
                self.summary.not_restored = Some(what);
                self.phase = Phase::Done;
            }
            _ => {
                let again = self.run.as_mut().is_some_and(|run| {
                    run.restored = Restored::No(what);
                    !core::mem::replace(&mut run.mended_twice, true)
                });
                if again {
                    // Perhaps the target has died: a new one can still be put right.
                    return self.check_alive();
                }
                self.summary.not_restored = Some(what);
                self.phase = Phase::Verdict;
            }
        }
    }

    /// The first frame after which nothing came back, in case that the target died of it.
    fn keep_restoring_frame(&mut self) {
        let frame = self.memory.frame.get(..self.len).unwrap_or_default();
        let first = |run: &&mut Run| !is_failure(run.outcome) && run.sent_len == 0;
        if let Some(run) = self.run.as_mut().filter(first) {
            run.sent_len = super::steps::copy(self.memory.sent, frame);
            run.received_len = 0;
        }
    }

    /// The case has an outcome; what is left is to clean up.
    pub(super) fn conclude(&mut self, outcome: Outcome) {
        if let Some(run) = &mut self.run {
            run.outcome = outcome;
        }
        match outcome {
            Outcome::Failed(Failure::Silent | Failure::Died | Failure::NotBack) => {
                self.check_alive();
            }
            _ => self.after_alive(),
        }
    }

    pub(super) fn check_alive(&mut self) {
        let tag = self.tag();
        let header = compose::question(&self.facts, self.facts.own_mac, 1, tag);
        let len = compose::request(self.memory.frame, header, &[0; 8], core::iter::empty());
        self.launch(tag, len.unwrap_or(0), Phase::Alive);
    }

    pub(super) fn alive(&mut self) {
        let Some(run) = self.run.as_mut().filter(|run| run.doubt == Doubt::Asking) else {
            return self.after_alive();
        };
        // It lives, so the answer may only have been late, or lost.
        run.doubt = Doubt::TriedAgain;
        run.outcome = Outcome::Passed;
        run.sent_len = 0;
        run.received_len = 0;
        self.enter();
    }

    pub(super) fn dead(&mut self) {
        if let Some(run) = &mut self.run {
            run.doubt = Doubt::TriedAgain;
            // One that failed may have been dead before.
            run.died_restoring |= run.mended_twice && !is_failure(run.outcome);
        }
        // A mask without us looks the same: the mender may still get in by the second address.
        let masked = self.run.as_ref().is_some_and(|run| run.case.needs.contains(Needs::MASK));
        let untried = self.run.as_ref().is_some_and(|run| run.restored == Restored::NotNeeded);
        if masked && untried && self.facts.second_mac.is_some() {
            return self.after_alive();
        }
        if self.selection.permitted.contains(Needs::ACTION) {
            self.phase = Phase::Call(Purpose::Revive, Action::Revive);
        } else {
            self.give_up_target();
        }
    }

    pub(super) fn give_up_target(&mut self) {
        self.gone = true;
        let unrestored = |run: &&mut Run| {
            run.case.needs.intersects(Needs::CHANGES) && run.restored == Restored::NotNeeded
        };
        if let Some(run) = self.run.as_mut().filter(unrestored) {
            run.restored = Restored::No(self.mender.at());
        }
        self.phase = Phase::Verdict;
    }

    /// The target answers; or at least there is no reason to doubt it.
    pub(super) fn after_alive(&mut self) {
        let undo = self.run.as_mut().and_then(|run| run.undo.take());
        match undo {
            Some(action) => self.phase = Phase::Call(Purpose::Undo, action),
            None => self.restore(),
        }
    }

    /// Puts back what the case changed.
    pub(super) fn restore(&mut self) {
        let changes =
            self.run.as_ref().is_some_and(|run| run.case.needs.intersects(Needs::CHANGES));
        if changes {
            self.mend(Phase::Restore);
        } else {
            self.phase = Phase::Verdict;
        }
    }

    /// Every case was run: compares everything once more.
    fn finish(&mut self) {
        if !self.selection.permitted.intersects(Needs::CHANGES) {
            self.phase = Phase::Done;
        } else if self.gone {
            self.summary.not_restored = Some(self.mender.at());
            self.phase = Phase::Done;
        } else {
            self.mend(Phase::Final);
        }
    }

    pub(super) fn count(&mut self) {
        let Some(run) = &self.run else { return };
        let summary = &mut self.summary;
        summary.died_restoring =
            summary.died_restoring.saturating_add(usize::from(run.died_restoring));
        let counter = match (run.outcome, run.case.severity) {
            (Outcome::Passed, _) => {
                if !run.notes.is_empty() {
                    summary.passed_with_notes = summary.passed_with_notes.saturating_add(1);
                }
                &mut summary.passed
            }
            (Outcome::Failed(_), Severity::Must) => &mut summary.failed_must,
            (Outcome::Failed(_), Severity::Should) => &mut summary.failed_should,
            (Outcome::Failed(_), Severity::Note) => &mut summary.failed_note,
            (Outcome::Skipped(_), _) => &mut summary.skipped,
        };
        *counter = counter.saturating_add(1);
    }
}

const fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_))
}
