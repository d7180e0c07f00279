//! Undoes the journal of a run that was killed. No I/O, no clock.

use core::fmt;

use super::compose::{self, Seen, Unfit};
use super::journal::{Record, Records};
use super::mend::{Altered, Goals, Mender, Turn};
use super::runner::{Memory, RunConfig};
use super::value::Facts;
use crate::ata::identify::Identify;
use crate::error::BufferTooSmall;
use crate::sectors::SECTOR_BYTES;
use crate::wire::{AtaArg, ConfigArg, Mac};

/// What the driver of a [`Restore`] has to do.
#[derive(Clone, Copy, Debug)]
pub enum RestoreEvent<'r> {
    /// Send a frame.
    Send {
        /// All of it.
        frame: &'r [u8],
        /// Whether it comes from our second address.
        second: bool,
    },
    /// Nothing until this time, or until a frame arrives.
    Wait {
        /// The time, in milliseconds.
        until_ms: u64,
    },
    /// This is as it was before the run, or cannot be put back.
    Result(Altered, bool),
    /// Over: every record was looked at, or nobody answered.
    Done(RestoreResult),
}

/// The end of a [`Restore`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestoreResult {
    /// Everything is as it was before the run: the journal can be removed.
    Restored,
    /// Some of it is not.
    Incomplete,
    /// The target does not answer.
    NoAnswer,
}

/// A journal without a beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The first record is not that of a run.
    NotAJournal,
    /// The memory lent is too small.
    Buffer(BufferTooSmall),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAJournal => f.write_str("not the journal of a conformance run"),
            Self::Buffer(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RestoreError {}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Query,
    Identify,
    Mend,
    Tell(Altered, bool),
    Done(RestoreResult),
}

/// Puts a target back as a journal describes it.
///
/// Driven as a [`Runner`](super::Runner): `poll` until it waits, `received` for every frame. The
/// address in the [`RunConfig`] is that of the journal, see [`Restore::new`].
#[derive(Debug)]
pub struct Restore<'j> {
    config: RunConfig,
    facts: Facts,
    records: Records<'j>,
    record: Option<Record<'j>>,
    frame: &'j mut [u8],
    mender: Mender,
    phase: Phase,
    tag: u32,
    len: usize,
    until: u64,
    tries: u8,
    failed: bool,
}

impl<'j> Restore<'j> {
    /// Undoes `journal`. Of `config`, the addresses of ours, MTU, tags and times count. `frame` is
    /// working memory of [`Memory::frame_len`] bytes.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn new(
        config: RunConfig,
        journal: &'j [u8],
        frame: &'j mut [u8],
    ) -> Result<Self, RestoreError> {
        let needed = Memory::frame_len(config.mtu);
        if frame.len() < needed {
            return Err(RestoreError::Buffer(BufferTooSmall { needed }));
        }
        let mut records = Records::new(journal);
        let Some(Record::Run { address, .. }) = records.next() else {
            return Err(RestoreError::NotAJournal);
        };
        let finished = records.clone().any(|record| record == Record::Restored);
        let facts = Facts {
            address,
            target_mac: Mac::BROADCAST,
            own_mac: config.own_mac,
            second_mac: config.second_mac,
            mtu: config.mtu,
            buffer_count: None,
            max_sectors: None,
            firmware: None,
            sectors: None,
            lba48: true,
            trim: false,
            smart: false,
            window: None,
            beyond_end: false,
        };
        let mut restore = Self {
            config,
            facts,
            records,
            record: None,
            frame,
            mender: Mender::new(),
            phase: Phase::Done(RestoreResult::Restored),
            tag: config.tag_seed,
            len: 0,
            until: 0,
            tries: 0,
            failed: false,
        };
        if !finished {
            restore.question(Phase::Query);
        }
        Ok(restore)
    }

    /// The target that the journal is about.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What to do now.
    pub fn poll(&mut self, now_ms: u64) -> RestoreEvent<'_> {
        loop {
            match self.phase {
                Phase::Done(result) => return RestoreEvent::Done(result),
                Phase::Tell(what, well) => {
                    self.next_record();
                    return RestoreEvent::Result(what, well);
                }
                _ if now_ms < self.until => {
                    return RestoreEvent::Wait { until_ms: self.until };
                }
                _ if self.tries > 0 => {
                    self.tries = self.tries.saturating_sub(1);
                    self.until = now_ms.saturating_add(self.config.timing.answer_ms);
                    let frame = self.frame.get(..self.len).unwrap_or_default();
                    let src = frame.get(6..12).and_then(<[u8]>::first_chunk).copied().map(Mac);
                    let second = src.is_some() && src == self.facts.second_mac;
                    return RestoreEvent::Send { frame, second };
                }
                _ => self.silent(),
            }
        }
    }

    /// Takes a frame.
    pub fn received(&mut self, frame: &[u8], vlan: Option<u16>) {
        let Some(seen) = Seen::parse(frame, vlan) else { return };
        if seen.tag() != self.tag {
            return;
        }
        match self.phase {
            Phase::Query => {
                self.facts.target_mac = seen.header.src;
                if let Some((arg, _)) = ConfigArg::parse(seen.argument) {
                    self.facts.max_sectors = Some(arg.sector_count).filter(|count| *count > 0);
                }
                self.question(Phase::Identify);
            }
            Phase::Identify => {
                let page = AtaArg::parse(seen.argument)
                    .and_then(|(_, data)| data.first_chunk::<SECTOR_BYTES>());
                if let Some(page) = page {
                    self.facts.lba48 = Identify::new(page).has_lba48();
                }
                self.next_record();
            }
            Phase::Mend => {
                self.turn(|mender, goals, facts, tag, buf| {
                    mender.answer(goals, facts, &seen, tag, buf)
                });
            }
            Phase::Tell(..) | Phase::Done(_) => {}
        }
    }
}

impl Restore<'_> {
    fn launch(&mut self, len: usize, phase: Phase) {
        self.len = len;
        self.until = 0;
        self.tries = self.config.timing.tries.max(1);
        self.phase = phase;
    }

    fn fresh_tag(&mut self) -> u32 {
        self.tag = 0x8000_0000 | self.tag.wrapping_add(1);
        self.tag
    }

    fn question(&mut self, phase: Phase) {
        let tag = self.fresh_tag();
        let identify = AtaArg {
            count: 1,
            command_status: crate::ata::command::opcode::IDENTIFY_DEVICE,
            ..AtaArg::default()
        };
        let (command, argument) =
            if phase == Phase::Query { (1, [0; 12]) } else { (0, identify.to_bytes()) };
        let header = compose::question(&self.facts, self.facts.own_mac, command, tag);
        let len: Result<usize, Unfit> =
            compose::request(self.frame, header, &argument, core::iter::empty());
        self.launch(len.unwrap_or(0), phase);
    }

    fn silent(&mut self) {
        match self.phase {
            // A mask without us is what may have to be undone: the second address may be in it.
            Phase::Query => match self.facts.second_mac {
                Some(second) if self.facts.own_mac != second => {
                    self.facts.own_mac = second;
                    self.question(Phase::Query);
                }
                _ => self.phase = Phase::Done(RestoreResult::NoAnswer),
            },
            Phase::Identify => self.next_record(),
            _ => self.turn(Mender::silence),
        }
    }

    fn next_record(&mut self) {
        self.facts.own_mac = self.config.own_mac;
        self.record =
            self.records.find(|record| !matches!(record, Record::Run { .. } | Record::Restored));
        if self.record.is_none() {
            let result =
                if self.failed { RestoreResult::Incomplete } else { RestoreResult::Restored };
            self.phase = Phase::Done(result);
            return;
        }
        self.mender = Mender::new();
        self.phase = Phase::Mend;
        self.turn(Mender::start);
    }

    fn turn(
        &mut self,
        act: impl FnOnce(&mut Mender, &Goals<'_>, &Facts, u32, &mut [u8]) -> Result<Turn, Altered>,
    ) {
        let tag = self.fresh_tag();
        let none = Goals::default();
        let (goals, what) = match self.record {
            Some(Record::MaskList(list)) => (Goals { mask: Some(list), ..none }, Altered::MaskList),
            Some(Record::Holders(list)) => {
                (Goals { holders: Some(list), ..none }, Altered::Holders)
            }
            Some(Record::ConfigString(string)) => {
                (Goals { string: Some(string), ..none }, Altered::ConfigString)
            }
            Some(Record::Sectors { lba, data }) => {
                (Goals { sectors: Some((lba, data)), ..none }, Altered::Sectors)
            }
            _ => (none, Altered::MaskList),
        };
        match act(&mut self.mender, &goals, &self.facts, tag, self.frame) {
            Ok(Turn::Send(len)) => self.launch(len, Phase::Mend),
            Ok(Turn::Reached) => self.phase = Phase::Tell(what, true),
            Err(what) => {
                self.failed = true;
                self.phase = Phase::Tell(what, false);
            }
        }
    }
}
