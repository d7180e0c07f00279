//! The prologue: what the target tells about itself, and what it was like before.

use heapless::Vec;

use super::super::case::Needs;
use super::super::compose::{self, Seen};
use super::super::mend::transfer;
use super::super::prelude::register;
use super::{Ended, Failure, Next, Outcome, Phase, Question, Resume, Runner, SECTOR_BYTES};
use crate::ata::command::opcode;
use crate::ata::identify::Identify;
use crate::wire::{AtaArg, Command, ConfigArg, Mac, MaskArg, ReserveArg};

/// Sectors per request until more is known, and of targets that advertise 0. `[AoE 4]`
const SECTORS_DEFAULT: u8 = 2;
/// Transmissions of the first query after something was done to the target, as a multiple of the
/// usual: it may just be starting.
const PATIENCE: u8 = 3;

impl Runner<'_> {
    /// Asks the target about itself.
    pub(super) fn learn(&mut self, resume: Resume) {
        self.resume = resume;
        if resume != Resume::First {
            self.facts.target_mac = Mac::BROADCAST;
        }
        self.question(Question::Query);
    }

    fn question(&mut self, question: Question) {
        let tag = self.tag();
        let from = self.facts.own_mac;
        let (command, argument) = match question {
            Question::Query => (1, [0; 12]),
            Question::Identify => {
                let lba = [0, 0, 0, 0xa0, 0, 0];
                let command_status = opcode::IDENTIFY_DEVICE;
                (0, AtaArg { count: 1, command_status, lba, ..AtaArg::default() }.to_bytes())
            }
            Question::Mask => (2, [0; 12]),
            Question::Holders => (3, [0; 12]),
            Question::Neighbours => return self.question_neighbours(),
            Question::Sectors(offset) => return self.question_sectors(offset, tag),
            Question::Writable => return self.question_writable(tag),
        };
        let header = compose::question(&self.facts, from, command, tag);
        let len = compose::request(self.memory.frame, header, &argument, core::iter::empty());
        self.launch(tag, len.unwrap_or(0), Phase::Learn(question));
        if question == Question::Query && self.resume != Resume::First {
            let tries = self.config.timing.tries.saturating_mul(PATIENCE);
            self.flight = super::Flight::same(tag, 1, tries);
        }
    }

    /// Bytes of the window, as far as it is known to lie inside the disk.
    fn window_len(&self) -> usize {
        self.facts.window.map_or(0, |window| usize::from(window.sectors)) * SECTOR_BYTES
    }

    fn question_sectors(&mut self, offset: usize, tag: u32) {
        let left = self.window_len().saturating_sub(offset) / SECTOR_BYTES;
        let ours = usize::from(self.facts.mtu).saturating_sub(22) / SECTOR_BYTES;
        let theirs = usize::from(self.facts.max_sectors.unwrap_or(SECTORS_DEFAULT));
        let sectors = left.min(ours).min(theirs).max(1);
        let lba = self.facts.window.map_or(0, |window| window.lba);
        let lba = lba.saturating_add(u64::try_from(offset / SECTOR_BYTES).unwrap_or(0));
        let (facts, frame) = (&self.facts, &mut *self.memory.frame);
        let len = transfer(frame, facts, facts.own_mac, tag, lba, sectors, &[]);
        self.launch(tag, len.unwrap_or(0), Phase::Learn(Question::Sectors(offset)));
    }

    /// Writes what the first sector of the window holds.
    fn question_writable(&mut self, tag: u32) {
        let lba = self.facts.window.map_or(0, |window| window.lba);
        let data = self.memory.window.get(..SECTOR_BYTES).unwrap_or_default();
        let (facts, frame) = (&self.facts, &mut *self.memory.frame);
        let len = transfer(frame, facts, facts.own_mac, tag, lba, 1, data);
        self.launch(tag, len.unwrap_or(0), Phase::Learn(Question::Writable));
    }

    /// A write-protected disk is no defect, if it says so by an ATA abort. `[AoE 5.4]`
    fn learned_writable(&mut self, seen: &Seen<'_>) {
        let aborted = AtaArg::parse(seen.argument).is_some_and(|(arg, _)| {
            arg.command_status & 1 != 0 && arg.error_feature & register::ABORTED != 0
        });
        if aborted && seen.header.error.is_none() {
            self.know(Needs::WRITES, false);
        }
    }

    pub(super) fn learned(&mut self, question: Question, seen: &Seen<'_>) {
        match question {
            Question::Query => self.learned_config(seen),
            // There may be more.
            Question::Neighbours => return self.met(seen),
            Question::Identify => self.learned_identify(seen),
            Question::Mask => {
                let read = || {
                    let (arg, rest) = MaskArg::parse(seen.argument)?;
                    Some(arg.directives(rest)?.map(|entry| entry.mac.0))
                };
                let list = if seen.header.error.is_none() { read() } else { None };
                let whole = list.is_some_and(|list| fill(&mut self.memory.originals.mask, list));
                self.know(Needs::MASK, whole);
            }
            Question::Holders => {
                let read = || {
                    let (arg, rest) = ReserveArg::parse(seen.argument)?;
                    Some(arg.macs(rest)?.map(|mac| mac.0))
                };
                let list = if seen.header.error.is_none() { read() } else { None };
                let whole = list.is_some_and(|list| fill(&mut self.memory.originals.holders, list));
                self.know(Needs::RESERVATION, whole);
            }
            Question::Writable => self.learned_writable(seen),
            Question::Sectors(offset) => {
                if let Some(next) = self.learned_sectors(seen, offset) {
                    return self.question(Question::Sectors(next));
                }
            }
        }
        self.next_question(question);
    }

    /// Notes that a part of the state is in memory, all of it, and can be put back.
    fn know(&mut self, what: Needs, whole: bool) {
        self.known = if whole { self.known.and(what) } else { self.known.without(what) };
    }

    fn learned_config(&mut self, seen: &Seen<'_>) {
        self.facts.target_mac = seen.header.src;
        let Some((arg, rest)) = ConfigArg::parse(seen.argument) else { return };
        if seen.header.command != Command::Config {
            return;
        }
        self.facts.buffer_count = Some(arg.buffer_count);
        self.facts.firmware = Some(arg.firmware);
        let told = Some(arg.sector_count).filter(|count| *count > 0);
        self.facts.max_sectors = Some(told.unwrap_or(SECTORS_DEFAULT));
        if self.resume == Resume::First {
            let whole = arg.string(rest).is_some_and(|string| {
                self.memory.originals.string.clear();
                self.memory.originals.string.extend_from_slice(string).is_ok()
            });
            self.know(Needs::CONFIG, whole);
        }
    }

    fn learned_identify(&mut self, seen: &Seen<'_>) {
        self.facts.sectors = None;
        let Some((arg, data)) = AtaArg::parse(seen.argument) else { return };
        let Some(page) = data.first_chunk::<SECTOR_BYTES>() else { return };
        if seen.header.error.is_some() || arg.command_status & 1 != 0 {
            return;
        }
        let page = Identify::new(page);
        self.facts.sectors = Some(page.sectors());
        self.facts.lba48 = page.has_lba48();
        self.facts.trim = page.has_trim();
        self.facts.smart = page.word(82) & 1 != 0;
        // Out of the disk, a window protects nothing.
        self.facts.window = self.config.window.filter(|window| {
            window.lba.saturating_add(u64::from(window.sectors)) <= page.sectors()
        });
    }

    /// Keeps a piece of the window; tells where the next one begins, if there is one.
    fn learned_sectors(&mut self, seen: &Seen<'_>, offset: usize) -> Option<usize> {
        let (arg, data) = AtaArg::parse(seen.argument)?;
        if seen.header.error.is_some() || arg.command_status & 1 != 0 {
            return None;
        }
        let end = self.window_len();
        let whole = data.len() / SECTOR_BYTES * SECTOR_BYTES;
        let next = offset.saturating_add(whole).min(end);
        let to = self.memory.window.get_mut(offset..next)?;
        for (to, from) in to.iter_mut().zip(data) {
            *to = *from;
        }
        self.know(Needs::WRITES, next == end && end > 0);
        (next > offset && next < end).then_some(next)
    }

    /// Nothing came back.
    pub(super) fn unlearned(&mut self, question: Question) {
        match (question, self.resume) {
            (Question::Query, Resume::First) => {
                self.summary.ended = Ended::NoAnswer;
                self.phase = Phase::Done;
            }
            (Question::Query, Resume::NextStep) => {
                self.conclude(Outcome::Failed(Failure::NotBack));
            }
            (Question::Query, Resume::Undone | Resume::Revived) => self.give_up_target(),
            (Question::Neighbours, _) => {
                self.all_met();
                self.next_question(question);
            }
            _ => self.next_question(question),
        }
    }

    fn next_question(&mut self, last: Question) {
        if last == Question::Writable {
            self.phase = Phase::Choose;
            return;
        }
        let first = self.resume == Resume::First;
        let wants = |needs| first && self.selection.permitted.contains(needs);
        let next = match last {
            Question::Query if first && self.planned > 0 => Some(Question::Neighbours),
            Question::Query | Question::Neighbours => Some(Question::Identify),
            Question::Identify if wants(Needs::MASK) => Some(Question::Mask),
            Question::Identify | Question::Mask if wants(Needs::RESERVATION) => {
                Some(Question::Holders)
            }
            Question::Identify | Question::Mask | Question::Holders
                if wants(Needs::WRITES) && self.window_len() > 0 =>
            {
                Some(Question::Sectors(0))
            }
            _ => None,
        };
        match (next, self.resume) {
            (Some(question), _) => self.question(question),
            (None, Resume::First) => self.phase = Phase::Record(0),
            (None, Resume::NextStep) => self.next_step(),
            (None, Resume::Undone) => self.restore(),
            (None, Resume::Revived) => self.after_alive(),
        }
    }

    /// The journal: whatever may be changed, before the first change.
    pub(super) fn record(&mut self, number: u8) -> Option<Next> {
        let permitted = self.selection.permitted;
        if !permitted.intersects(Needs::CHANGES) {
            self.phase = Phase::Choose;
            return None;
        }
        let has = match number {
            0 => true,
            1 => self.known.contains(Needs::MASK),
            2 => self.known.contains(Needs::RESERVATION),
            3 => self.known.contains(Needs::CONFIG) && permitted.contains(Needs::CONFIG),
            4 => self.known.contains(Needs::WRITES),
            // What may be changed is in the journal now.
            _ if permitted.contains(Needs::WRITES) && self.known.contains(Needs::WRITES) => {
                self.question(Question::Writable);
                return None;
            }
            _ => {
                self.phase = Phase::Choose;
                return None;
            }
        };
        self.phase = Phase::Record(number.saturating_add(1));
        has.then_some(Next::Record(number))
    }
}

/// Takes a list over. False if it is too long.
fn fill(to: &mut Vec<[u8; 6], 255, u8>, mut from: impl Iterator<Item = [u8; 6]>) -> bool {
    to.clear();
    from.all(|mac| to.push(mac).is_ok())
}
