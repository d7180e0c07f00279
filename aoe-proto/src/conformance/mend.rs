//! Puts a target into a given state: empty before a case, as it was after it. No I/O, no clock.
//!
//! Everything goes the same way: read; if it is not as it should be, change it and read again, a
//! bounded number of times. So whatever the mender reports as reached has been compared.

use core::fmt;

use super::compose::{self, Draft, Seen, Unfit};
use super::value::Facts;
use crate::ata::command::opcode;
use crate::sectors::SECTOR_BYTES;
use crate::wire::config::CONFIG_ARG_LEN;
use crate::wire::mac_mask::Directives;
use crate::wire::{
    AtaArg, AtaFlags, ConfigArg, ConfigCommand, FRAME_LEN_MIN, Mac, MaskArg, ReserveArg,
};

/// What a run alters and puts back.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Altered {
    /// The MAC mask list.
    MaskList,
    /// The reservation.
    Holders,
    /// The config string.
    ConfigString,
    /// Sectors of the window.
    Sectors,
}

impl fmt::Display for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaskList => "MAC mask list",
            Self::Holders => "reservation",
            Self::ConfigString => "config string",
            Self::Sectors => "sectors of the window",
        })
    }
}

/// The state to be reached; `None` is left alone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Goals<'g> {
    pub(super) mask: Option<&'g [[u8; 6]]>,
    pub(super) holders: Option<&'g [[u8; 6]]>,
    pub(super) string: Option<&'g [u8]>,
    /// First sector, contents.
    pub(super) sectors: Option<(u64, &'g [u8])>,
}

impl<'g> Goals<'g> {
    fn has(&self, what: Altered) -> bool {
        match what {
            Altered::MaskList => self.mask.is_some(),
            Altered::Holders => self.holders.is_some(),
            Altered::ConfigString => self.string.is_some(),
            Altered::Sectors => self.sectors.is_some_and(|(_, data)| !data.is_empty()),
        }
    }

    /// First sector and contents of the piece at `offset` bytes.
    fn piece(&self, offset: usize, facts: &Facts) -> Option<(u64, &'g [u8])> {
        let (lba, data) = self.sectors?;
        let rest = data.get(offset..)?;
        let len = rest.len().min(piece_len(facts));
        let distance = u64::try_from(offset / SECTOR_BYTES).ok()?;
        Some((lba.checked_add(distance)?, rest.get(..len)?))
    }
}

/// Bytes that a request of the harness itself moves: what the target and our link can carry.
fn piece_len(facts: &Facts) -> usize {
    let ours = usize::from(facts.mtu).saturating_sub(22) / SECTOR_BYTES;
    let theirs = usize::from(facts.max_sectors.unwrap_or(2));
    ours.min(theirs).clamp(1, 255).saturating_mul(SECTOR_BYTES)
}

/// A READ (or WRITE) of the harness itself.
pub(super) fn transfer(
    buf: &mut [u8],
    facts: &Facts,
    from: Mac,
    tag: u32,
    lba: u64,
    sectors: usize,
    data: &[u8],
) -> Result<usize, Unfit> {
    let write = !data.is_empty();
    let (flags, command_status) = match (facts.lba48, write) {
        (true, false) => (AtaFlags::EXTENDED, opcode::READ_SECTORS_EXT),
        (true, true) => (AtaFlags::EXTENDED.union(AtaFlags::WRITE), opcode::WRITE_SECTORS_EXT),
        (false, false) => (AtaFlags::default(), opcode::READ_SECTORS),
        (false, true) => (AtaFlags::WRITE, opcode::WRITE_SECTORS),
    };
    let arg = AtaArg {
        flags,
        error_feature: 0,
        count: u8::try_from(sectors).unwrap_or(u8::MAX),
        command_status,
        lba: AtaArg::lba_registers(lba),
    };
    let header = compose::question(facts, from, 0, tag);
    compose::request(buf, header, &arg.to_bytes(), data.iter().copied())
}

/// Rounds of change and comparison before the mender gives up. A long mask list takes several.
const ROUNDS_MAX: u8 = 12;

/// What comes next.
pub(super) enum Turn {
    /// A request of this length is in the buffer.
    Send(usize),
    /// Every goal is reached.
    Reached,
}

/// The state of one mending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mender {
    at: Altered,
    changing: bool,
    rounds: u8,
    /// Bytes of the sectors that are done.
    offset: usize,
    second: bool,
}

impl Mender {
    pub(super) const fn new() -> Self {
        // The mask first: it decides who is heard at all. Then the reservation, which refuses
        // writes.
        Self { at: Altered::MaskList, changing: false, rounds: 0, offset: 0, second: false }
    }

    /// What is being looked at.
    pub(super) const fn at(&self) -> Altered {
        self.at
    }

    /// The first request.
    pub(super) fn start(
        &mut self,
        goals: &Goals<'_>,
        facts: &Facts,
        tag: u32,
        buf: &mut [u8],
    ) -> Result<Turn, Altered> {
        if goals.has(self.at) {
            return self.ask(goals, facts, tag, buf);
        }
        self.next(goals, facts, tag, buf)
    }

    /// Nothing came back. Goes on with the second address, which the mask may still admit, if there
    /// is one and it was not tried.
    pub(super) fn silence(
        &mut self,
        goals: &Goals<'_>,
        facts: &Facts,
        tag: u32,
        buf: &mut [u8],
    ) -> Result<Turn, Altered> {
        if self.second || facts.second_mac.is_none() {
            return Err(self.at);
        }
        self.second = true;
        self.changing = false;
        self.ask(goals, facts, tag, buf)
    }

    /// An answer to the request of the last turn.
    pub(super) fn answer(
        &mut self,
        goals: &Goals<'_>,
        facts: &Facts,
        seen: &Seen<'_>,
        tag: u32,
        buf: &mut [u8],
    ) -> Result<Turn, Altered> {
        if self.changing {
            self.changing = false;
            return self.ask(goals, facts, tag, buf);
        }
        if self.reached(goals, facts, seen).ok_or(self.at)? {
            // The mask admits us again, now or never.
            self.second = self.second && self.at != Altered::MaskList;
            return self.next(goals, facts, tag, buf);
        }
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds > ROUNDS_MAX {
            return Err(self.at);
        }
        self.changing = true;
        self.change(goals, facts, seen, tag, buf).ok_or(self.at).map(Turn::Send)
    }

    /// On to the next piece or goal.
    fn next(
        &mut self,
        goals: &Goals<'_>,
        facts: &Facts,
        tag: u32,
        buf: &mut [u8],
    ) -> Result<Turn, Altered> {
        self.rounds = 0;
        loop {
            self.at = match self.at {
                Altered::MaskList => Altered::Holders,
                Altered::Holders => Altered::ConfigString,
                Altered::ConfigString => Altered::Sectors,
                Altered::Sectors => {
                    let piece = goals.piece(self.offset, facts);
                    let len = piece.map_or(0, |(_, data)| data.len());
                    self.offset = self.offset.saturating_add(len);
                    if goals.piece(self.offset, facts).is_none_or(|(_, data)| data.is_empty()) {
                        return Ok(Turn::Reached);
                    }
                    return self.ask(goals, facts, tag, buf);
                }
            };
            if goals.has(self.at) {
                return self.ask(goals, facts, tag, buf);
            }
            if self.at == Altered::Sectors {
                return Ok(Turn::Reached);
            }
        }
    }

    fn from(&self, facts: &Facts) -> Mac {
        facts.second_mac.filter(|_| self.second).unwrap_or(facts.own_mac)
    }

    /// The reading request.
    fn ask(
        &mut self,
        goals: &Goals<'_>,
        facts: &Facts,
        tag: u32,
        buf: &mut [u8],
    ) -> Result<Turn, Altered> {
        let from = self.from(facts);
        let plain = |buf: &mut [u8], command: u8| {
            let header = compose::question(facts, from, command, tag);
            compose::request(buf, header, &[0; 12], core::iter::empty())
        };
        let len = match self.at {
            Altered::MaskList => plain(buf, 2),
            Altered::Holders => plain(buf, 3),
            Altered::ConfigString => plain(buf, 1),
            Altered::Sectors => {
                let (lba, data) = goals.piece(self.offset, facts).ok_or(self.at)?;
                transfer(buf, facts, from, tag, lba, data.len() / SECTOR_BYTES, &[])
            }
        };
        len.map(Turn::Send).map_err(|_| self.at)
    }

    /// Whether an answer to a reading request shows what it should. `None` if it shows nothing.
    fn reached(&self, goals: &Goals<'_>, facts: &Facts, seen: &Seen<'_>) -> Option<bool> {
        if seen.header.error.is_some() {
            return None;
        }
        match self.at {
            Altered::MaskList => {
                let list = mask_list(seen)?;
                let goal = goals.mask?;
                let known = list.clone().all(|entry| goal.contains(&entry.mac.0));
                Some(known && list.count() == goal.len())
            }
            Altered::Holders => {
                let (arg, rest) = ReserveArg::parse(seen.argument)?;
                let (mut list, goal) = (arg.macs(rest)?, goals.holders?);
                Some(list.len() == goal.len() && list.all(|mac| goal.contains(&mac.0)))
            }
            Altered::ConfigString => {
                let (arg, rest) = ConfigArg::parse(seen.argument)?;
                Some(arg.string(rest)? == goals.string?)
            }
            Altered::Sectors => {
                let (arg, data) = AtaArg::parse(seen.argument)?;
                let (_, goal) = goals.piece(self.offset, facts)?;
                let data = data.get(..goal.len()).filter(|_| arg.command_status & 1 == 0)?;
                Some(data == goal)
            }
        }
    }

    /// Writes the request that changes what `seen` shows into what it should.
    fn change(
        &self,
        goals: &Goals<'_>,
        facts: &Facts,
        seen: &Seen<'_>,
        tag: u32,
        buf: &mut [u8],
    ) -> Option<usize> {
        let from = self.from(facts);
        match self.at {
            Altered::MaskList => {
                let list = mask_list(seen)?;
                edit(buf, facts, from, tag, &list, goals.mask?).ok()
            }
            Altered::Holders => {
                let list = goals.holders?;
                let header = compose::question(facts, from, 3, tag);
                let argument = [2, u8::try_from(list.len()).ok()?];
                compose::request(buf, header, &argument, list.iter().flatten().copied()).ok()
            }
            Altered::ConfigString => {
                let string = goals.string?;
                let arg = ConfigArg {
                    buffer_count: 0,
                    firmware: 0,
                    sector_count: 0,
                    version: 0,
                    command: ConfigCommand::ForceSet,
                    string_len: u16::try_from(string.len()).ok()?,
                };
                let header = compose::question(facts, from, 1, tag);
                let argument: [u8; CONFIG_ARG_LEN] = arg.to_bytes();
                compose::request(buf, header, &argument, string.iter().copied()).ok()
            }
            Altered::Sectors => {
                let (lba, data) = goals.piece(self.offset, facts)?;
                transfer(buf, facts, from, tag, lba, data.len() / SECTOR_BYTES, data).ok()
            }
        }
    }
}

fn mask_list<'f>(seen: &Seen<'f>) -> Option<Directives<'f>> {
    let (arg, rest) = MaskArg::parse(seen.argument)?;
    arg.directives(rest)
}

/// Deletes strangers, adds what is missing, and deletes ourselves last: a list without us is the
/// last thing that we can bring about. As much as fits into a frame; the next round does the rest.
fn edit(
    buf: &mut [u8],
    facts: &Facts,
    from: Mac,
    tag: u32,
    list: &Directives<'_>,
    goal: &[[u8; 6]],
) -> Result<usize, Unfit> {
    const ADD: u8 = 1;
    const DELETE: u8 = 2;
    let ours = |mac: &[u8; 6]| {
        *mac == facts.own_mac.0 || facts.second_mac.is_some_and(|second| second.0 == *mac)
    };
    let surplus = || list.clone().map(|entry| entry.mac.0).filter(|mac| !goal.contains(mac));
    let missing =
        || goal.iter().copied().filter(|mac| !list.clone().any(|entry| entry.mac.0 == *mac));
    let room = usize::from(facts.mtu).saturating_sub(14) / 8;
    let directives = || {
        let strangers = surplus().filter(|mac| !ours(mac)).map(|mac| (DELETE, mac));
        let added = missing().map(|mac| (ADD, mac));
        let ourselves = surplus().filter(|mac| ours(mac)).map(|mac| (DELETE, mac));
        strangers.chain(added).chain(ourselves).take(room.min(255))
    };
    let count = u8::try_from(directives().count()).unwrap_or(u8::MAX);
    let mut draft = Draft::new(buf);
    draft.put(&compose::question(facts, from, 2, tag).to_bytes());
    draft.put(&[0, 1, 0, count]);
    for (dcmd, mac) in directives() {
        draft.put(&[0, dcmd]);
        draft.put(&mac);
    }
    draft.pad(FRAME_LEN_MIN, 0);
    draft.finish()
}
