//! Requests under way: their tags and their timers.

use super::script::{Fill, Op};
use super::traits::{Tags, Timer, Traits};
use crate::ata::command::opcode;
use crate::conformance::Window as SectorWindow;
use crate::error::BufferTooSmall;
use crate::sectors::SECTOR_BYTES;
use crate::wire::ata::ATA_DATA_OFFSET;
use crate::wire::frame::FrameWriter;
use crate::wire::{
    Address, AddressPattern, AtaArg, AtaFlags, Command, ConfigArg, ConfigCommand, HEADER_LEN,
    Header, Mac, Tag, VERSION,
};

/// Tags that were given up lately, so that late answers are known.
const RETIRED: usize = 16;

/// A request under way. A slot of the memory that [`super::Actor`] works in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot(pub(super) Option<Flying>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Flying {
    pub(super) op: Op,
    pub(super) tag: Tag,
    pub(super) first_ms: u64,
    pub(super) sent_ms: u64,
    pub(super) due_ms: u64,
    pub(super) sends: u32,
}

/// Makes tags as a client does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tagger {
    pub(super) tags: Tags,
    pub(super) counter: u32,
}

impl Tagger {
    pub(super) fn next(&mut self, now_ms: u64) -> Tag {
        self.counter = self.counter.wrapping_add(1);
        let [c0, c1, c2, c3] = self.counter.to_be_bytes();
        // Time in ticks of 10 ms or so; only its change matters.
        let [.., t0, t1] = (now_ms / 10).to_be_bytes();
        Tag(match self.tags {
            Tags::Linux => [c2 & 0x7f, c3, t0, t1],
            Tags::Plan9 => [c2, c3, t0, t1],
            Tags::Ipxe => [0x18, 0xae, c2, c3],
            Tags::WinAoe => [c3, c2, c1, c0],
            Tags::Tools => [c0 | 0x80, c1, c2, c3],
        })
    }

    /// Whether a retransmission gets a new tag.
    pub(super) const fn renews(self) -> bool {
        matches!(self.tags, Tags::Linux | Tags::Plan9)
    }
}

/// A tag that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    tag: Tag,
    pub(super) sent_ms: u64,
    pub(super) answered: bool,
}

/// Tags of requests that are over.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    tags: [Option<Gone>; RETIRED],
    next: usize,
}

impl Retired {
    /// Remembers the tag of a request that was answered, or sent again under another one.
    pub(super) fn add(&mut self, flying: &Flying, answered: bool) {
        if let Some(place) = self.tags.get_mut(self.next) {
            *place = Some(Gone { tag: flying.tag, sent_ms: flying.sent_ms, answered });
        }
        self.next = self.next.saturating_add(1).checked_rem(RETIRED).unwrap_or(0);
    }

    /// What became of a retired tag.
    pub(super) fn find(&self, tag: Tag) -> Option<Gone> {
        self.tags.iter().flatten().find(|gone| gone.tag == tag).copied()
    }
}

/// The round trip, and the wait that follows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    timer: Timer,
    mean_ms: u64,
    deviation_ms: u64,
    known: bool,
    /// Longest wait for a retransmission: the harness has less patience than the clients.
    cap_ms: u64,
}

impl Clock {
    pub(super) const fn new(timer: Timer, cap_ms: u64) -> Self {
        Self { timer, mean_ms: 0, deviation_ms: 0, known: false, cap_ms }
    }

    /// Learns from an answer to a request that was sent once.
    pub(super) fn learn(&mut self, ms: u64) {
        if !self.known {
            (self.mean_ms, self.deviation_ms, self.known) = (ms, ms / 2, true);
            return;
        }
        let off = ms.abs_diff(self.mean_ms);
        self.mean_ms = self.mean_ms.saturating_mul(7).saturating_add(ms) / 8;
        self.deviation_ms = self.deviation_ms.saturating_mul(3).saturating_add(off) / 4;
    }

    /// The wait behind transmission number `sends`, from 1 on.
    pub(super) fn wait_ms(&self, sends: u32) -> u64 {
        let doublings = sends.saturating_sub(1).min(16);
        let ms = match self.timer {
            Timer::Linux if !self.known => 16_500,
            Timer::Linux => {
                let ms = self.mean_ms.saturating_mul(2);
                let ms = ms.saturating_add(self.deviation_ms.saturating_mul(8));
                // Looked at every 100 ms.
                ms.min(self.cap_ms).next_multiple_of(100).max(100)
            }
            Timer::Doubling => 250_u64.checked_shl(doublings).unwrap_or(u64::MAX).min(10_000),
            Timer::Slow => 200_u64.saturating_add(u64::from(sends)).min(10_000),
            Timer::Plan9 => {
                let mean = if self.known { self.mean_ms.clamp_to(20, 320) } else { 320 };
                let doubled = mean.checked_shl(doublings).unwrap_or(u64::MAX).min(320);
                doubled.saturating_mul(2).next_multiple_of(100)
            }
            Timer::Second => 1000,
        };
        ms.min(self.cap_ms).max(1)
    }
}

trait ClampTo {
    fn clamp_to(self, low: Self, high: Self) -> Self;
}

impl ClampTo for u64 {
    /// `clamp` panics when its limits are the wrong way round.
    fn clamp_to(self, low: Self, high: Self) -> Self {
        self.max(low).min(high)
    }
}

/// What a frame is made from, besides the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letterhead<'a> {
    pub(super) traits: &'static Traits,
    pub(super) own_mac: Mac,
    pub(super) dst: Mac,
    pub(super) address: Address,
    pub(super) lba48: bool,
    pub(super) area: Option<SectorWindow>,
    pub(super) originals: &'a [u8],
}

impl Letterhead<'_> {
    /// Writes the frame of a request; tells its length.
    pub(super) fn emit(&self, op: Op, tag: Tag, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let everybody =
            matches!(op, Op::Query { everybody: true } | Op::Identify { everybody: true, .. });
        let query = matches!(op, Op::Query { .. });
        let header = Header {
            dst: if everybody || query { Mac::BROADCAST } else { self.dst },
            src: self.own_mac,
            version: VERSION,
            response: false,
            error: None,
            address: if everybody { AddressPattern::ALL } else { self.address.into() },
            command: if query { Command::Config } else { Command::Ata },
            tag,
        };
        let len = match op {
            Op::Query { .. } => HEADER_LEN + 8,
            Op::Identify { trailer, .. } => behind(trailer),
            Op::Read { count, payload: true, .. } | Op::Write { count, .. } => behind(count),
            Op::Read { .. } | Op::Smart => ATA_DATA_OFFSET,
        };
        // The writer pads to 60 bytes; not every client does, and a veth pair shows it.
        let mut frame = FrameWriter::new(buf, len.max(self.traits.padded_to))?;
        frame.put(&header.to_bytes());
        if query {
            let arg = ConfigArg {
                buffer_count: 0,
                firmware: 0,
                sector_count: 0,
                version: 0,
                command: ConfigCommand::Read,
                string_len: 0,
            };
            frame.put(&arg.to_bytes());
        } else {
            frame.put(&self.registers(op, everybody).to_bytes());
        }
        if let Op::Write { lba, count, fill } = op
            && let Some(data) = frame.take(usize::from(count).saturating_mul(SECTOR_BYTES))
        {
            self.fill(data, lba, fill);
        }
        frame.finish();
        Ok(len.max(self.traits.padded_to))
    }

    fn registers(&self, op: Op, everybody: bool) -> AtaArg {
        let mut arg = AtaArg { count: 1, ..AtaArg::default() };
        match op {
            Op::Query { .. } => {}
            Op::Identify { .. } => {
                arg.command_status = opcode::IDENTIFY_DEVICE;
                let [.., lba3, _, _] = &mut arg.lba;
                *lba3 = self.traits.identify_lba3;
                // WinAoE's search alone goes without the E flag.
                arg.flags = AtaFlags(if everybody { 0 } else { self.traits.identify_flags });
            }
            Op::Smart => {
                arg.command_status = opcode::SMART;
                arg.error_feature = 0xda;
                arg.lba = [0, 0x4f, 0xc2, 0, 0, 0];
            }
            Op::Read { lba, count, .. } => {
                let codes = (opcode::READ_SECTORS, opcode::READ_SECTORS_EXT);
                self.address_sectors(&mut arg, lba, count, codes);
            }
            Op::Write { lba, count, .. } => {
                let codes = (opcode::WRITE_SECTORS, opcode::WRITE_SECTORS_EXT);
                self.address_sectors(&mut arg, lba, count, codes);
                arg.flags = arg.flags.union(AtaFlags::WRITE);
            }
        }
        arg
    }

    fn address_sectors(&self, arg: &mut AtaArg, lba: u64, count: u8, (short, long): (u8, u8)) {
        arg.count = count;
        arg.lba = AtaArg::lba_registers(lba);
        if self.lba48 || self.traits.always_lba48 {
            arg.flags = AtaFlags::EXTENDED;
            arg.command_status = long;
        } else {
            arg.command_status = short;
            let [.., lba3, lba4, lba5] = &mut arg.lba;
            // The old device register: LBA addressing, device 0. [AoE 5.2]
            (*lba3, *lba4, *lba5) = (*lba3 & 0x0f | 0xe0, 0, 0);
        }
    }

    fn fill(&self, data: &mut [u8], lba: u64, fill: Fill) {
        match fill {
            Fill::Pattern => {
                for (byte, at) in data.iter_mut().zip(0..) {
                    *byte = pattern(lba, at);
                }
            }
            Fill::Original => {
                let from = self.originals.get(offset(self.area, lba)..).unwrap_or_default();
                for (byte, from) in data.iter_mut().zip(from) {
                    *byte = *from;
                }
            }
        }
    }
}

const fn behind(sectors: u8) -> usize {
    ATA_DATA_OFFSET.saturating_add((sectors as usize).saturating_mul(SECTOR_BYTES))
}

/// Where a sector of the window lies in the memory for it.
pub(super) fn offset(area: Option<SectorWindow>, lba: u64) -> usize {
    let first = area.map_or(0, |area| area.lba);
    let sectors = usize::try_from(lba.saturating_sub(first)).unwrap_or(usize::MAX);
    sectors.saturating_mul(SECTOR_BYTES)
}

/// Byte `at` of what is written from `lba` on: every sector and every byte of it looks different.
pub(super) fn pattern(lba: u64, at: u64) -> u8 {
    let sector = lba.wrapping_add(at / 512);
    let mixed = sector.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at % 512).wrapping_mul(0x2f);
    let [low, ..] = (mixed ^ mixed >> 17).to_le_bytes();
    low
}
