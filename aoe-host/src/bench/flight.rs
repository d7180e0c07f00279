//! Requests under way: their tags, their frames, and which answer belongs to which.

use aoe_proto::ata::command::opcode;
use aoe_proto::wire::ata::ATA_DATA_OFFSET;
use aoe_proto::wire::{AtaArg, AtaFlags, Command, FRAME_LEN_MIN, Header, Tag, VERSION};
use aoe_proto::{AddressPattern, SECTOR_BYTES};

use super::plan::SLOTS_MAX;
use super::wire::Received;
use crate::values::{Address, Mac};

/// Bits of a tag that number the slot.
const SLOT_BITS: u32 = SLOTS_MAX.ilog2();
/// Bits of a tag that tell the uses of a slot apart.
const USE_BITS: u32 = 31 - SLOT_BITS;
/// The top bit: the Linux driver of this machine ignores such answers. [AoE 2.6]
const FOREIGN: u32 = 1 << 31;

/// The way from a client to a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) client: Mac,
    pub(super) server: Mac,
    pub(super) address: Address,
    pub(super) lba48: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Ask {
    pub(super) write: bool,
    pub(super) lba: u64,
    pub(super) sectors: u8,
}

impl Ask {
    pub(super) fn len_bytes(self) -> usize {
        usize::from(self.sectors) * SECTOR_BYTES
    }
}

/// A place for one outstanding request.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The pair of client and target it belongs to.
    pub(super) session: usize,
    /// What was asked last.
    pub(super) ask: Ask,
    /// First and last transmission, in nanoseconds of the generator's clock.
    pub(super) first_ns: u64,
    pub(super) sent_ns: u64,
    /// Transmissions; 0 while nothing is outstanding.
    pub(super) attempts: u32,
    uses: u32,
    head: [u8; FRAME_LEN_MIN],
}

impl Slot {
    pub(super) fn new(session: usize) -> Self {
        Self {
            session,
            ask: Ask::default(),
            first_ns: 0,
            sent_ns: 0,
            attempts: 0,
            uses: 0,
            head: [0; FRAME_LEN_MIN],
        }
    }

    /// Begins a request in slot number `at`, and tells its tag.
    pub(super) fn begin(&mut self, at: usize, route: &Route, ask: Ask) -> u32 {
        self.ask = ask;
        self.uses = self.uses.wrapping_add(1);
        let tag = tag_of(at, self.uses);
        self.head = head_of(route, ask, tag);
        tag
    }

    /// What precedes the data: the headers of a write, all of a read.
    pub(super) fn head(&self) -> &[u8] {
        let len = if self.ask.write { ATA_DATA_OFFSET } else { FRAME_LEN_MIN };
        self.head.get(..len).unwrap_or_default()
    }
}

fn tag_of(at: usize, uses: u32) -> u32 {
    let slot = u32::try_from(at).unwrap_or(0) & ((1 << SLOT_BITS) - 1);
    FOREIGN | (uses % (1 << USE_BITS)) << SLOT_BITS | slot
}

fn head_of(route: &Route, ask: Ask, tag: u32) -> [u8; FRAME_LEN_MIN] {
    let header = Header {
        dst: route.server,
        src: route.client,
        version: VERSION,
        response: false,
        error: None,
        address: AddressPattern::from(route.address),
        command: Command::Ata,
        tag: Tag(tag.to_be_bytes()),
    };
    let mut lba = AtaArg::lba_registers(ask.lba);
    let (mut flags, command_status) = match (route.lba48, ask.write) {
        (true, false) => (AtaFlags::EXTENDED, opcode::READ_SECTORS_EXT),
        (true, true) => (AtaFlags::EXTENDED, opcode::WRITE_SECTORS_EXT),
        (false, false) => (AtaFlags::default(), opcode::READ_SECTORS),
        (false, true) => (AtaFlags::default(), opcode::WRITE_SECTORS),
    };
    if !route.lba48 {
        // The bit that says "LBA" in the old device register, as Linux sets it. [AoE 5.2]
        lba[3] |= 0xe0;
    }
    if ask.write {
        flags = flags.union(AtaFlags::WRITE);
    }
    let registers = AtaArg { flags, error_feature: 0, count: ask.sectors, command_status, lba };
    let mut head = [0; FRAME_LEN_MIN];
    for (to, from) in head.iter_mut().zip(header.to_bytes().iter().chain(&registers.to_bytes())) {
        *to = *from;
    }
    head
}

/// What an arrived frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer<'f> {
    /// Nothing of ours.
    Stray,
    /// To a request that is no longer outstanding: a second answer, or one that was given up.
    Late,
    /// To the request in this slot: it failed.
    Failed { slot: usize },
    /// To the request in this slot, which is done; data of a read, as far as they were taken.
    Done { slot: usize, data: &'f [u8] },
}

/// Finds out what a frame answers.
pub(super) fn answer<'f>(slots: &[Slot], routes: &[Route], frame: Received<'f>) -> Answer<'f> {
    let Ok((header, argument)) = Header::parse(frame.bytes) else { return Answer::Stray };
    let tag = u32::from_be_bytes(header.tag.0);
    if !header.response || header.command != Command::Ata || tag & FOREIGN == 0 {
        return Answer::Stray;
    }
    let at = usize::try_from(tag & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX);
    let Some(slot) = slots.get(at) else { return Answer::Stray };
    let Some(route) = routes.get(slot.session) else { return Answer::Stray };
    if header.dst != route.client || header.address.exact() != Some(route.address) {
        return Answer::Stray;
    }
    if slot.attempts == 0 || tag_of(at, slot.uses) != tag {
        return Answer::Late;
    }
    let Some((registers, data)) = AtaArg::parse(argument) else {
        return Answer::Failed { slot: at };
    };
    // Error, or device fault. [AoE 5.3]
    let failed = header.error.is_some() || registers.command_status & 0x21 != 0;
    let len = slot.ask.len_bytes();
    let short = !slot.ask.write && frame.len < ATA_DATA_OFFSET + len;
    if failed || short {
        return Answer::Failed { slot: at };
    }
    Answer::Done { slot: at, data: data.get(..len).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route {
            client: Mac([2, 0, 0, 0, 0, 9]),
            server: Mac([2, 0, 0, 0, 0, 1]),
            address: Address::new(0x0102, 3).unwrap(),
            lba48: true,
        }
    }

    #[test]
    fn a_write_as_it_is_on_the_wire() {
        let mut slot = Slot::new(0);
        let ask = Ask { write: true, lba: 0x0102_0304_0506, sectors: 8 };
        let tag = slot.begin(5, &route(), ask);
        assert_eq!(tag, 0x8010_0005, "top bit, first use, slot 5");
        let expected = [
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xa2, 0x10, 0, 1, 2, 3, 0, 0x80, 0x10, 0, 5,
            0x41, 0, 8, 0x34, 6, 5, 4, 3, 2, 1, 0, 0,
        ];
        assert_eq!(slot.head(), expected);
    }

    #[test]
    fn a_read_of_an_old_disk() {
        let mut slot = Slot::new(0);
        let route = Route { lba48: false, ..route() };
        slot.begin(0, &route, Ask { write: false, lba: 0x0405_0607, sectors: 2 });
        assert_eq!(slot.head()[24..36], [0, 0, 2, 0x20, 7, 6, 5, 0xe4, 0, 0, 0, 0]);
        assert_eq!((slot.head().len(), &slot.head()[36..]), (60, &[0; 24][..]));
    }

    /// The answer to a slot's request, as a target gives it.
    fn reply(slot: &Slot, status: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = slot.head()[..36].to_vec();
        let (to, from) = (route().client.0, route().server.0);
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[14] |= 8;
        frame[27] = status;
        frame.extend_from_slice(data);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    #[test]
    fn answers_find_their_request() {
        let mut slots = vec![Slot::new(0), Slot::new(0)];
        let routes = [route()];
        slots[1].begin(1, &route(), Ask { write: false, lba: 7, sectors: 1 });
        slots[1].attempts = 1;
        let is = |slots: &[Slot], frame: &[u8], expected: Answer<'_>| {
            let whole = Received { bytes: frame, len: frame.len() };
            assert_eq!(answer(slots, &routes, whole), expected);
        };
        let data = [7; 512];
        let good = reply(&slots[1], 0x40, &data);
        is(&slots, &good, Answer::Done { slot: 1, data: &data });
        let head = Received { bytes: &good[..60], len: good.len() };
        assert_eq!(answer(&slots, &routes, head), Answer::Done { slot: 1, data: &[] });
        is(&slots, &reply(&slots[1], 0x41, &data), Answer::Failed { slot: 1 });
        is(&slots, &reply(&slots[1], 0x40, &data[1..]), Answer::Failed { slot: 1 });
        for (at, value) in [(0, 4), (14, 0x10), (18, 4), (19, 1), (20, 0), (23, 2)] {
            let mut frame = good.clone();
            frame[at] = value;
            is(&slots, &frame, Answer::Stray);
        }
        is(&slots, &good[..20], Answer::Stray);
        let mut other_use = good.clone();
        other_use[21] ^= 0x20;
        is(&slots, &other_use, Answer::Late);
        slots[1].attempts = 0;
        is(&slots, &good, Answer::Late);
    }
}
