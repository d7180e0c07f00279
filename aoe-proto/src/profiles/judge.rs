//! What a client makes of the answers. `[AoE 8]`

use super::Actor;
use super::flight::{Flying, offset, pattern};
use super::script::{Op, Stage};
use super::traits::{Client, DataRule, OnError, Search, SizeRule};
use super::why::{Cause, Evidence, Level, Why};
use crate::ata::identify::{Identify, Page};
use crate::sectors::{DISK_SECTORS_MAX, SECTOR_BYTES};
use crate::wire::{AtaArg, Command, ConfigArg, ConfigCommand, Header, Mac, VERSION};

/// The ERR bit of the Status register, the only one that everybody looks at.
const STATUS_ERR: u8 = 0x01;
/// Sectors of a cylinder in which `WinAoE` counts. `[AoE 6]`
const CYLINDER: u64 = 255 * 63;
/// Smallest config answer. `[AoE 8.2]`
const CONFIG_LEN: usize = 8;

/// An answer that its client recognised.
struct Answer<'f> {
    header: Header,
    argument: &'f [u8],
    frame: &'f [u8],
    now: u64,
}

impl Actor<'_> {
    /// Takes a frame. Everything that the link sees may come here: what is not meant for this client
    /// is left alone.
    pub fn received(&mut self, frame: &[u8], now_ms: u64) {
        let Ok((header, argument)) = Header::parse(frame) else { return };
        let ours = header.dst == self.config.own_mac || header.dst == Mac::BROADCAST;
        if !header.response || !ours || header.src == self.config.own_mac {
            return;
        }
        let answer = Answer { header, argument, frame, now: now_ms };
        let any = self.traits.search == Search::EveryConfig && header.command == Command::Config;
        let find = |wanted: &dyn Fn(&Flying) -> bool| {
            self.memory.slots.iter().position(|slot| slot.0.as_ref().is_some_and(wanted))
        };
        // Linux and Plan 9 take any config answer for one to their search. [AoE 8.1]
        let search = if any { find(&|f| matches!(f.op, Op::Query { .. })) } else { None };
        let at = search.or_else(|| find(&|flying| flying.tag == header.tag));
        match at.and_then(|at| self.memory.slots.get(at)?.0.map(|flying| (at, flying))) {
            Some((at, flying)) => self.candidate(at, &flying, &answer),
            None => self.stray(&answer, any),
        }
    }

    /// An answer to no request under way.
    fn stray(&mut self, answer: &Answer<'_>, any: bool) {
        let Header { address, command, tag, src, .. } = answer.header;
        if address.exact() != Some(self.config.address) {
            return;
        }
        let gone = self.retired.find(tag);
        if command == Command::Config && (any || gone.is_some_and(|gone| gone.answered)) {
            // Another machine that answers the same question, or an advertisement.
            self.learn_server(src, answer);
            return;
        }
        let waits =
            self.memory.slots.iter().filter_map(|slot| slot.0).any(|flying| {
                (command == Command::Config) == matches!(flying.op, Op::Query { .. })
            });
        match gone {
            Some(gone) if !gone.answered => {
                if self.report.client == Client::Linux {
                    // The tag holds the time, so that a late answer still tells the round trip.
                    self.clock.learn(answer.now.saturating_sub(gone.sent_ms));
                }
                self.dismiss(Why::LateAnswers, None, answer);
            }
            None if waits => self.dismiss(Why::WrongTag, Some(number(answer)), answer),
            // A duplicate, or something that nobody waits for.
            Some(_) | None => {}
        }
    }

    /// Remembers why an answer is dropped, in case that nothing better comes.
    fn dismiss(&mut self, why: Why, found: Option<u64>, answer: &Answer<'_>) {
        let len = copy(self.memory.dropped, answer.frame);
        self.near = Some((why, len, found));
    }

    /// An answer with the tag of a request: does the client recognise it?
    fn candidate(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>) {
        let header = &answer.header;
        let everybody = matches!(
            flying.op,
            Op::Query { everybody: true } | Op::Identify { everybody: true, .. }
        );
        let strict = self.stage.is_strict();
        if header.address.exact() != Some(self.config.address) {
            // Another target, as it may be; a wildcard is nobody's address.
            if !everybody || header.address.is_wildcard() {
                self.dismiss(Why::WrongAddress, None, answer);
            }
            return;
        }
        let command =
            if matches!(flying.op, Op::Query { .. }) { Command::Config } else { Command::Ata };
        if header.command != command {
            let found = u64::from(u8::from(header.command));
            return self.dismiss(Why::WrongCommand, Some(found), answer);
        }
        if (self.traits.checks_version || strict) && header.version != VERSION {
            return self.dismiss(Why::WrongVersion, Some(header.version.into()), answer);
        }
        if let Some(error) = header.error {
            let found = Some(u64::from(u8::from(error)));
            match (self.traits.on_error, strict) {
                (_, true) => return self.spoil(at, flying, answer),
                (OnError::Drop, _) => return self.dismiss(Why::ErrorDropped, found, answer),
                (OnError::Fail, _) => return self.failed(at, flying, found, answer),
                (OnError::Ignore, _) => {}
            }
        }
        match flying.op {
            Op::Query { .. } => self.query(at, flying, answer),
            _ => self.ata(at, flying, answer),
        }
    }

    /// The request is over.
    fn conclude(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>) {
        // No client measures its search.
        if flying.sends == 1 && !matches!(flying.op, Op::Query { .. }) {
            self.clock.learn(answer.now.saturating_sub(flying.sent_ms));
        }
        self.retired.add(flying, true);
        if let Some(slot) = self.memory.slots.get_mut(at) {
            slot.0 = None;
        }
        self.near = None;
        if self.stage == Stage::Burst {
            let full = self.traits.window.full(self.buffer_count);
            self.plan.window = self.plan.window.saturating_add(1).min(full.max(1));
            self.report.window = self.report.window.max(self.plan.window);
        }
    }

    /// A strict stage does not get on with this target; no fault of the client's.
    fn spoil(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>) {
        self.spoiled = true;
        self.conclude(at, flying, answer);
    }

    /// The client ends a request because of an AoE error.
    fn failed(&mut self, at: usize, flying: &Flying, found: Option<u64>, answer: &Answer<'_>) {
        self.conclude(at, flying, answer);
        let (why, level) = match self.stage {
            Stage::Smart => (Why::SmartError, Level::Degraded),
            Stage::Sizes => (Why::Trailer, Level::Degraded),
            _ => (Why::ErrorReported, Level::Fails),
        };
        self.blame(why, level, flying, (found, None), Some(answer));
    }

    /// Adds a cause with its frames; stops where the client cannot go on.
    fn blame(
        &mut self,
        why: Why,
        level: Level,
        flying: &Flying,
        (found, expected): (Option<u64>, Option<u64>),
        answer: Option<&Answer<'_>>,
    ) {
        let (lba, count) = flying.op.range().map_or((None, 0), |(lba, n)| (Some(lba), n));
        let cause = Cause {
            why,
            level,
            stage: self.stage,
            evidence: Evidence { lba, count, found, expected },
        };
        if self.report.add(cause) {
            let sent = self.emit(flying.op, flying.tag).unwrap_or(0);
            let sent = copy(self.memory.sent, self.memory.frame.get(..sent).unwrap_or_default());
            let received = match (answer, self.near) {
                (Some(answer), _) => Some(copy(self.memory.received, answer.frame)),
                (None, Some((_, len, _))) => {
                    let dropped = self.memory.dropped.get(..len).unwrap_or_default();
                    Some(copy(self.memory.received, dropped))
                }
                (None, None) => None,
            };
            self.evidence = (sent, received);
        }
        self.refused |= self.stage == Stage::Write && level == Level::Fails;
        let nothing_to_use = matches!(self.stage, Stage::Discover | Stage::Attach);
        if level == Level::Hangs || nothing_to_use && level >= Level::Fails {
            self.stop();
        }
    }

    /// Adds a cause that has no frames.
    pub(super) fn say(&mut self, why: Why, level: Level, evidence: Evidence) {
        self.report.add(Cause { why, level, stage: self.stage, evidence });
    }

    /// A request that nobody answered in time.
    pub(super) fn unanswered(&mut self, flying: &Flying) {
        if self.stage.is_strict() {
            self.spoiled = true;
            // More of the same would only take time.
            self.index = u32::MAX;
            // What there is to be put back shows when it is read; and an answer that only the
            // harness does not take is no fault of the target's for this client.
            if self.stage == Stage::Restore || self.near.is_some() {
                return;
            }
            if self.stage == Stage::Compare {
                self.report.restored = Some(false);
            }
        }
        let (near, found) = match self.near {
            Some((why, _, found)) => (Some(why), found),
            None => (None, None),
        };
        let (why, level) = match self.stage {
            Stage::Discover => {
                let searched = self.traits.search == Search::EveryIdentify;
                let silence = if searched { Why::NoBroadcastIdentify } else { Why::Silence };
                (near.unwrap_or(silence), self.traits.on_absence)
            }
            Stage::FrameSize => {
                // Nothing larger is tried.
                self.index = u32::MAX;
                let level = if self.fitting > 0 { Level::Degraded } else { Level::Hangs };
                (Why::ProbeSilence, level)
            }
            Stage::PathTest => (near.unwrap_or(Why::ProbePayload), Level::Degraded),
            Stage::Sizes => {
                self.index = u32::MAX;
                (Why::Trailer, Level::Degraded)
            }
            Stage::Smart | Stage::Again => (near.unwrap_or(Why::Silence), Level::Degraded),
            _ => (near.unwrap_or(Why::Silence), self.traits.on_silence),
        };
        let stage = self.stage;
        self.blame(why, level, flying, (found, None), None);
        if level >= Level::Fails && self.stage == stage && stage != Stage::FrameSize {
            self.stop();
        }
    }

    /// Takes note of a machine that answers for the target.
    fn learn_server(&mut self, src: Mac, answer: &Answer<'_>) {
        let flying = Flying {
            op: Op::Query { everybody: false },
            tag: answer.header.tag,
            first_ms: 0,
            sent_ms: 0,
            due_ms: 0,
            sends: 0,
        };
        let numbers = (None, None);
        if !src.is_unicast() {
            self.server = src;
            let why = Why::BroadcastSource;
            return self.blame(why, Level::Degraded, &flying, numbers, Some(answer));
        }
        if self.server == Mac::BROADCAST {
            self.server = src;
        } else if self.server != src {
            let (why, level) = if self.traits.multipath {
                (Why::TwoServers, Level::Corrupts)
            } else {
                (Why::OtherServer, Level::Degraded)
            };
            self.blame(why, level, &flying, numbers, Some(answer));
        }
    }

    /// A config answer.
    fn query(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>) {
        let Some((arg, _)) = ConfigArg::parse(answer.argument) else {
            let found = u64::try_from(answer.argument.len()).ok();
            let needed = u64::try_from(CONFIG_LEN).ok();
            debug_assert!(found < needed);
            return self.dismiss(Why::ShortConfig, found, answer);
        };
        if self.traits.refuses_4095 && self.config.address.is_refused_by_linux() {
            return self.dismiss(Why::LinuxShelf, Some(self.config.address.shelf().into()), answer);
        }
        let plan9 = self.report.client == Client::Plan9;
        if plan9 && arg.command != ConfigCommand::Read {
            let found = Some(u64::from(u8::from(arg.command)));
            return self.dismiss(Why::ConfigEcho, found, answer);
        }
        self.conclude(at, flying, answer);
        self.learn_server(answer.header.src, answer);
        if self.stage != Stage::Discover {
            return;
        }
        self.buffer_count = arg.buffer_count;
        let window = self.traits.window.first(arg.buffer_count);
        self.plan.window = window;
        self.report.window = window;
        if window == 0 {
            let found = Some(u64::from(arg.buffer_count));
            let numbers = (found, Some(2));
            self.blame(Why::EmptyWindow, Level::Hangs, flying, numbers, Some(answer));
            return;
        }
        let told = if arg.sector_count == 0 { 2 } else { arg.sector_count };
        self.plan.step = match self.report.client {
            // At most 2 sectors, whatever the target says. [AoE 8.2]
            Client::Ipxe => 2.min(self.plan.own_max),
            _ => told.min(self.plan.own_max),
        };
        self.report.sectors_max = self.plan.step;
    }

    /// An ATA answer.
    fn ata(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>) {
        let Some((arg, data)) = AtaArg::parse(answer.argument) else {
            let len = u64::try_from(answer.argument.len()).ok();
            return self.dismiss(Why::DataLength, len, answer);
        };
        let status = arg.command_status;
        let strict = self.stage.is_strict();
        let mask = if strict { 0xa9 } else { self.traits.status_mask };
        if self.stage == Stage::FrameSize {
            return self.frame_size(at, flying, answer, status, data);
        }
        if self.stage == Stage::Smart {
            // Success and abort are both an answer.
            return self.conclude(at, flying, answer);
        }
        if strict && status & mask != 0 {
            return self.spoil(at, flying, answer);
        }
        if status & mask != 0 {
            self.conclude(at, flying, answer);
            let why = if status & STATUS_ERR != 0 { Why::AtaError } else { Why::StatusBits };
            let level = match self.stage {
                Stage::PathTest | Stage::Sizes => Level::Degraded,
                _ => Level::Fails,
            };
            return self.blame(why, level, flying, (Some(status.into()), None), Some(answer));
        }
        let careless = self.traits.status_mask == 0 && !strict;
        if careless && (status & STATUS_ERR != 0 || answer.header.error.is_some()) {
            self.conclude(at, flying, answer);
            let (why, found) = match answer.header.error {
                Some(error) => (Why::ErrorIgnored, u8::from(error)),
                None => (Why::ErrorTaken, status),
            };
            let level = if self.stage == Stage::Attach { Level::Fails } else { Level::Corrupts };
            return self.blame(why, level, flying, (Some(found.into()), None), Some(answer));
        }
        match flying.op {
            Op::Identify { .. } => self.identify(at, flying, answer, data),
            Op::Read { .. } => self.read(at, flying, answer, data),
            Op::Write { .. } | Op::Smart | Op::Query { .. } => self.conclude(at, flying, answer),
        }
    }

    /// `WinAoE` asks for more and more sectors until an answer is short. `[AoE 5.6]`
    fn frame_size(
        &mut self,
        at: usize,
        flying: &Flying,
        answer: &Answer<'_>,
        status: u8,
        data: &[u8],
    ) {
        self.conclude(at, flying, answer);
        let count = flying.op.range().map_or(0, |(_, count)| count);
        let complete = data.len() >= usize::from(count).saturating_mul(SECTOR_BYTES);
        if complete && status & STATUS_ERR == 0 && answer.header.error.is_none() {
            self.fitting = count;
            return;
        }
        self.index = u32::MAX;
        if self.fitting == 0 {
            let numbers = (u64::try_from(data.len()).ok(), Some(512));
            self.blame(Why::ShortDataTaken, Level::Corrupts, flying, numbers, Some(answer));
        }
    }

    /// The data of a read: what this client makes of their length.
    fn read(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>, data: &[u8]) {
        let (lba, count) = flying.op.range().unwrap_or((0, 0));
        let due = usize::from(count).saturating_mul(SECTOR_BYTES);
        let numbers = (u64::try_from(data.len()).ok(), u64::try_from(due).ok());
        let strict = self.stage.is_strict();
        let rule = if strict { DataRule::AtLeast } else { self.traits.data };
        match rule {
            DataRule::Exactly if data.len() != due => {
                return self.dismiss(Why::DataLength, numbers.0, answer);
            }
            DataRule::AtLeast if data.len() < due && strict => {
                return self.spoil(at, flying, answer);
            }
            DataRule::AtLeast if data.len() < due => {
                self.conclude(at, flying, answer);
                let (why, level) = (Why::ShortData, Level::Fails);
                return self.blame(why, level, flying, numbers, Some(answer));
            }
            DataRule::Any if data.len() < due => {
                self.conclude(at, flying, answer);
                let (why, level) = (Why::ShortDataTaken, Level::Corrupts);
                return self.blame(why, level, flying, numbers, Some(answer));
            }
            _ => {}
        }
        self.conclude(at, flying, answer);
        let data = data.get(..due).unwrap_or_default();
        if let Some(why) = self.contents(lba, data) {
            // Whoever reads wrong sectors would have wrong ones written.
            self.forbidden |= why == Why::DataDiffer;
            self.blame(why, Level::Corrupts, flying, (None, None), Some(answer));
        }
    }

    /// Compares or keeps the data of a read.
    fn contents(&mut self, lba: u64, data: &[u8]) -> Option<Why> {
        let at = offset(self.config.window, lba);
        match self.stage {
            Stage::First => {
                let second = data.get(SECTOR_BYTES..).and_then(|rest| rest.get(..SECTOR_BYTES));
                self.second_sector = second.map(hash_of);
                None
            }
            Stage::Odd if lba == 1 => {
                let sector = data.get(..SECTOR_BYTES).map(hash_of);
                let differs = self.second_sector.is_some() && sector != self.second_sector;
                differs.then_some(Why::DataDiffer)
            }
            Stage::Save => {
                let room = self.memory.window.get_mut(at..).unwrap_or_default();
                for (to, from) in room.iter_mut().zip(data) {
                    *to = *from;
                }
                None
            }
            Stage::ReadBack => {
                let written = data.iter().zip(0..).all(|(byte, at)| *byte == pattern(lba, at));
                // A client that was told so does not expect them there.
                (!written && !self.refused).then_some(Why::NotWritten)
            }
            Stage::Compare => {
                let kept = self.memory.window.get(at..).unwrap_or_default();
                self.spoiled |= !data.iter().zip(kept).all(|(found, kept)| found == kept);
                None
            }
            _ => None,
        }
    }

    /// An IDENTIFY page.
    fn identify(&mut self, at: usize, flying: &Flying, answer: &Answer<'_>, data: &[u8]) {
        let Some(page) = data.first_chunk::<SECTOR_BYTES>() else {
            let found = u64::try_from(data.len()).ok();
            if self.traits.data == DataRule::Exactly {
                return self.dismiss(Why::ShortIdentify, found, answer);
            }
            self.conclude(at, flying, answer);
            let numbers = (found, Some(512));
            return self.blame(Why::ShortIdentify, Level::Fails, flying, numbers, Some(answer));
        };
        self.conclude(at, flying, answer);
        if self.server == Mac::BROADCAST {
            self.learn_server(answer.header.src, answer);
        }
        match self.stage {
            Stage::Attach => self.attach(flying, answer, page),
            Stage::Again => self.compare_page(flying, answer, page),
            _ => {}
        }
    }

    /// The size of the disk, as this client reads it. `[AoE 6]`
    fn attach(&mut self, flying: &Flying, answer: &Answer<'_>, page: &Page) {
        let identify = Identify::new(page);
        if self.traits.size == SizeRule::InsistsOnLba && identify.word(49) & 0x0200 == 0 {
            let found = Some(u64::from(identify.word(49)));
            return self.blame(Why::NoLba, Level::Fails, flying, (found, None), Some(answer));
        }
        let (size, lba48) = size_of(identify, self.traits.size);
        self.lba48 = lba48 || self.traits.always_lba48;
        if size == 0 || size > DISK_SECTORS_MAX {
            let numbers = (Some(size), None);
            return self.blame(Why::NoSize, Level::Fails, flying, numbers, Some(answer));
        }
        let mut used = size;
        if self.traits.size == SizeRule::Cylinders {
            used = size - size % CYLINDER;
            let numbers = (Some(used), Some(size));
            if used == 0 {
                return self.blame(Why::TooSmall, Level::Fails, flying, numbers, Some(answer));
            }
            if used < size {
                self.blame(Why::LostTail, Level::Works, flying, numbers, Some(answer));
            }
            // Nothing is known about the frame size yet.
            self.plan.window = self.traits.window.first(0);
            self.report.window = self.plan.window;
        }
        self.plan.sectors = used;
        self.report.sectors = Some(used);
        self.page = Some((hash_of(page), size));
    }

    /// Another look at the disk.
    fn compare_page(&mut self, flying: &Flying, answer: &Answer<'_>, page: &Page) {
        let Some((hash, size)) = self.page else { return };
        let (now, _) = size_of(Identify::new(page), self.traits.size);
        let numbers = (Some(now), Some(size));
        if now < size {
            self.blame(Why::Shrank, Level::Corrupts, flying, numbers, Some(answer));
        } else if hash_of(page) != hash {
            self.blame(Why::IdentifyChanged, Level::Degraded, flying, numbers, Some(answer));
        }
    }
}

/// Size in sectors, and whether 48-bit commands are used.
fn size_of(identify: Identify<'_>, rule: SizeRule) -> (u64, bool) {
    let long = |first: usize, words: usize| {
        (0..words).rev().fold(0_u64, |value, at| {
            value << 16 | u64::from(identify.word(first.saturating_add(at)))
        })
    };
    let flagged = match rule {
        SizeRule::Either | SizeRule::InsistsOnLba => identify.has_lba48(),
        SizeRule::Word83 => identify.word(83) & 0x0400 != 0,
        SizeRule::Cylinders => true,
    };
    (if flagged { long(100, 4) } else { long(60, 2) }, flagged)
}

/// The tag of an answer, for people.
fn number(answer: &Answer<'_>) -> u64 {
    u64::from(u32::from_be_bytes(answer.header.tag.0))
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Copies as much as fits; tells how much.
fn copy(to: &mut [u8], from: &[u8]) -> usize {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    from.len().min(to.len())
}
