//! Frames that no honest client sends. Each breaks one rule; none may change anything.

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};

use crate::frames::{BROADCAST, HEADER, Header, Mac, RESPONSE, Registers, command, config, field};
use crate::initiator::Initiator;
use crate::pattern::SECTOR;
use crate::raw_socket::{AOE, RawSocket};
use crate::rng::Rng;

/// Frames between two honest probes: fewer than any receive queue holds.
const BATCH: u32 = 64;
const VLAN: [u8; 4] = [0x81, 0x00, 0x00, 0x05];
const STRANGER: Mac = [0x02, 0xee, 0xee, 0xee, 0xee, 0xee];

/// The rule that a frame breaks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lie {
    /// Cut inside a header.
    Truncated,
    /// A write with less data than its count.
    ShortData,
    /// Not version 1.
    Version,
    /// A response, not a request.
    Response,
    /// Meant for another host.
    OtherHost,
    /// Tagged for a VLAN that is not ours.
    ForeignVlan,
    /// A source that cannot receive an answer.
    BogusSource,
    /// Reaches past the last sector, or around it.
    PastTheEnd,
    /// Flags that contradict the operation.
    Direction,
    /// Count 0.
    NoSectors,
    /// An unknown or refused ATA operation.
    Operation,
    /// An unknown AoE command.
    Command,
    /// A config string longer than its frame.
    ConfigLength,
    /// An unknown config operation.
    ConfigOperation,
    /// More directives than the frame holds.
    MaskCount,
    /// More addresses than the frame holds.
    ReserveCount,
    /// A change addressed to every disk.
    BroadcastChange,
    /// TRIM of ranges that do not exist, or are not there.
    Trim,
    /// Noise for another shelf.
    Noise,
}

/// All rules that a frame can break.
pub const LIES: &[Lie] = &[
    Lie::Truncated,
    Lie::ShortData,
    Lie::Version,
    Lie::Response,
    Lie::OtherHost,
    Lie::ForeignVlan,
    Lie::BogusSource,
    Lie::PastTheEnd,
    Lie::Direction,
    Lie::NoSectors,
    Lie::Operation,
    Lie::Command,
    Lie::ConfigLength,
    Lie::ConfigOperation,
    Lie::MaskCount,
    Lie::ReserveCount,
    Lie::BroadcastChange,
    Lie::Trim,
    Lie::Noise,
];

impl Lie {
    /// Whether the frame must not be answered at all.
    pub fn is_met_with_silence(self) -> bool {
        matches!(
            self,
            Self::Truncated
                | Self::Response
                | Self::OtherHost
                | Self::ForeignVlan
                | Self::BogusSource
                | Self::BroadcastChange
                | Self::Noise
        )
    }

    /// A frame that breaks this rule, made from the header of an honest request for a disk of
    /// `sectors` sectors.
    pub fn frame(self, honest: Header, sectors: u64, rng: &mut Rng) -> Vec<u8> {
        let ata = Header { command: command::ATA, ..honest };
        let write = |header: Header, rng: &mut Rng| header.with(&some_write(sectors, rng));
        match self {
            Self::Truncated => {
                let mut frame = write(ata, rng);
                frame.truncate(14 + usize::try_from(rng.below(22)).unwrap_or(0));
                frame
            }
            Self::Version => {
                // Any version but 1.
                let version = (2 + rng.byte() % 15) % 16;
                write(Header { version_flags: version << 4, ..ata }, rng)
            }
            Self::Response => {
                write(Header { version_flags: ata.version_flags | RESPONSE, ..ata }, rng)
            }
            Self::OtherHost => write(Header { to: STRANGER, ..ata }, rng),
            Self::ForeignVlan => {
                let mut frame = write(ata, rng);
                frame.splice(12..12, VLAN);
                frame
            }
            Self::BogusSource => {
                let sources = [BROADCAST, [0; 6], [0x01, 0, 0x5e, 0, 0, 1], honest.to];
                let index = usize::try_from(rng.below(4)).unwrap_or(0);
                write(Header { from: sources.get(index).copied().unwrap_or(BROADCAST), ..ata }, rng)
            }
            Self::BroadcastChange => broadcast_change(honest, sectors, rng),
            Self::Command => write(Header { command: 4 + rng.byte() % 252, ..honest }, rng),
            Self::Noise => {
                let mut noise = vec![0; usize::try_from(rng.below(1400)).unwrap_or(0)];
                rng.fill(&mut noise);
                Header { shelf: honest.shelf ^ 0x0101, command: rng.byte() % 4, ..honest }
                    .with(&noise)
            }
            Self::ConfigLength | Self::ConfigOperation | Self::MaskCount | Self::ReserveCount => {
                self.control_frame(honest, rng)
            }
            _ => ata.with(&self.ata_argument(sectors, rng)),
        }
    }

    fn control_frame(self, honest: Header, rng: &mut Rng) -> Vec<u8> {
        let (command, argument) = match self {
            Self::ConfigLength => {
                let length = 9 + u16::from(rng.byte()) * 17;
                (command::CONFIG, config(1 + rng.byte() % 4, length, b"stranger"))
            }
            Self::ConfigOperation => (command::CONFIG, config(5 + rng.byte() % 11, 8, b"stranger")),
            Self::MaskCount => {
                let mut edit = vec![0, 1, 0, 2 + rng.byte() % 254, 0, 1];
                edit.extend_from_slice(&STRANGER);
                (command::MAC_MASK, edit)
            }
            _ => {
                let mut set = vec![1 + rng.byte() % 2, 2 + rng.byte() % 254];
                set.extend_from_slice(&STRANGER);
                (command::RESERVE, set)
            }
        };
        Header { command, ..honest }.with(&argument)
    }

    fn ata_argument(self, sectors: u64, rng: &mut Rng) -> Vec<u8> {
        let data = [0xee; 2 * SECTOR];
        let lba = rng.below(sectors.saturating_sub(2));
        match self {
            Self::ShortData => {
                let short = data.get(..usize::try_from(rng.below(1023)).unwrap_or(0));
                Registers::write(lba, 2 + rng.byte() % 254).with(short.unwrap_or_default())
            }
            Self::PastTheEnd => {
                let beyond = [sectors - 1, sectors, (1 << 48) - 1, (1 << 48) - 2, 1 << 47];
                let index = usize::try_from(rng.below(5)).unwrap_or(0);
                let lba = beyond.get(index).copied().unwrap_or(sectors);
                Registers::write(lba, 2).with(&data)
            }
            Self::Direction => match rng.below(3) {
                0 => Registers { flags: 0x40, ..Registers::write(lba, 2) }.with(&data),
                1 => Registers { flags: 0x41, ..Registers::read(lba, 2) }.with(&data),
                // A 28-bit write with the flag of the 48-bit ones.
                _ => Registers { operation: 0x30, ..Registers::write(lba, 2) }.with(&data),
            },
            Self::NoSectors => Registers::write(lba, 0).with(&data),
            Self::Operation => {
                // Device reset, diagnostics, microcode, security erase, sanitize, write buffer.
                let operations = [0x00, 0x08, 0x90, 0x92, 0xa0, 0xf4, 0xb4, 0xe8, 0x31, 0x3e];
                let index = usize::try_from(rng.below(10)).unwrap_or(0);
                let operation = operations.get(index).copied().unwrap_or(0);
                Registers { operation, ..Registers::write(lba, 2) }.with(&data)
            }
            _ => {
                // One range: one sector of the disk and everything behind it.
                let range = (sectors - 1) | (0xffff << 48);
                let mut ranges = vec![0; SECTOR];
                for (to, from) in ranges.iter_mut().zip(range.to_le_bytes()) {
                    *to = from;
                }
                let count = 1 + rng.byte() % 2 * 7;
                Registers { flags: 0x41, features: 1, count, operation: 0x06, lba: 0 }.with(&ranges)
            }
        }
    }
}

/// The argument of a write that would be executed if its frame were honest.
fn some_write(sectors: u64, rng: &mut Rng) -> Vec<u8> {
    Registers::write(rng.below(sectors.saturating_sub(2)), 2).with(&[0xee; 2 * SECTOR])
}

fn broadcast_change(honest: Header, sectors: u64, rng: &mut Rng) -> Vec<u8> {
    let to_all = Header { shelf: 0xffff, slot: 0xff, to: BROADCAST, ..honest };
    let (command, argument) = match rng.below(4) {
        0 => (command::ATA, some_write(sectors, rng)),
        1 => (command::CONFIG, config(4, 8, b"stranger")),
        2 => (command::MAC_MASK, [&[0, 1, 0, 1, 0, 1], &STRANGER[..]].concat()),
        _ => (command::RESERVE, [&[2, 1], &STRANGER[..]].concat()),
    };
    Header { command, ..to_all }.with(&argument)
}

/// What became of the hostile frames.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Frames sent, by broken rule.
    pub sent: BTreeMap<Lie, u32>,
    /// Answers to frames that must be met with silence, by broken rule.
    pub answered: BTreeMap<Lie, u32>,
    /// Answers that claim success, by broken rule.
    pub succeeded: BTreeMap<Lie, u32>,
    /// Hostile frames after which honest questions were no longer answered.
    pub silent_after: Option<u32>,
}

/// Sends `count` hostile frames, with an honest question after each batch.
///
/// `listener` is another socket on the interface of `initiator`: answers to forged sources do not
/// reach the initiator itself.
pub fn attack(
    initiator: &mut Initiator,
    listener: &RawSocket,
    count: u32,
    sectors: u64,
    seed: u64,
) -> Report {
    let mut rng = Rng::new(seed);
    let mut report = Report::default();
    let mut lies = HashMap::new();
    let target = initiator.target();
    for number in 0..count {
        let index = usize::try_from(rng.below(LIES.len().try_into().unwrap_or(1))).unwrap_or(0);
        let lie = LIES.get(index).copied().unwrap_or(Lie::Noise);
        let header = initiator.header(command::ATA);
        let frame = lie.frame(header, sectors, &mut rng);
        lies.insert(header.tag, lie);
        *report.sent.entry(lie).or_default() += 1;
        initiator.socket().send(&frame).expect("a hostile frame can be sent");
        if number % BATCH == BATCH - 1 {
            let alive = initiator.request_or_silence(command::CONFIG, &config(0, 0, &[]));
            report.collect(listener, target, &lies, Duration::ZERO);
            if alive.is_none() {
                report.silent_after = Some(number + 1);
                return report;
            }
        }
    }
    report.collect(listener, target, &lies, Duration::from_millis(500));
    report
}

impl Report {
    fn collect(
        &mut self,
        listener: &RawSocket,
        target: Mac,
        lies: &HashMap<u32, Lie>,
        patience: Duration,
    ) {
        let mut buffer = [0; 64];
        while let Ok(Some(length)) = listener.receive(&mut buffer, patience) {
            let frame = buffer.get(..length).unwrap_or_default();
            // The listener hears our own frames, too; some pretend to come from the target.
            if field(frame, 6) == Some(target) && field(frame, 0) != Some(target) {
                self.take(frame, lies);
            }
        }
    }

    fn take(&mut self, frame: &[u8], lies: &HashMap<u32, Lie>) {
        let is_response = field(frame, 14).is_some_and(|[flags]: [u8; 1]| flags & RESPONSE != 0);
        let is_aoe = field(frame, 12) == Some(AOE.to_be_bytes());
        let tag = field(frame, 20).map(u32::from_be_bytes);
        let Some(lie) = tag.and_then(|tag| lies.get(&tag)).copied() else { return };
        if !is_aoe || !is_response {
            return;
        }
        if lie.is_met_with_silence() {
            *self.answered.entry(lie).or_default() += 1;
        }
        let [flags, _] = field(frame, 14).unwrap_or_default();
        let [command] = field(frame, 19).unwrap_or_default();
        let [_, _, mask_error, status] = field(frame, HEADER).unwrap_or_default();
        let refused = flags & crate::frames::ERROR != 0
            || (command == command::ATA && status & 1 != 0)
            || (command == command::MAC_MASK && mask_error != 0);
        if !refused {
            *self.succeeded.entry(lie).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LIES, Lie};
    use crate::frames::{Header, command};
    use crate::rng::Rng;

    const HONEST: Header = Header {
        to: [2; 6],
        from: [4; 6],
        version_flags: 0x10,
        shelf: 0,
        slot: 0,
        command: command::ATA,
        tag: 7,
    };

    #[test]
    fn frames_break_the_rule_they_say() {
        let mut rng = Rng::new(1);
        for _ in 0..500 {
            for &lie in LIES {
                let frame = lie.frame(HONEST, 1000, &mut rng);
                assert!(frame.len() >= 14 && frame.len() <= 1514, "{lie:?} {}", frame.len());
                match lie {
                    Lie::Version => assert_ne!(frame[14] >> 4, 1),
                    Lie::Truncated => assert!(frame.len() < 36),
                    Lie::Command => assert!(frame[19] > 3),
                    Lie::ForeignVlan => assert_eq!(frame[12..14], [0x81, 0x00]),
                    Lie::NoSectors => assert_eq!(frame[26], 0),
                    _ => {}
                }
            }
        }
    }
}
