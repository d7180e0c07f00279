//! Requests as literal bytes, answers compared as bytes.

mod ata;
mod frames;
mod mask;
mod query;
mod reserve;
mod storage;

use std::vec;
use std::vec::Vec;

use super::*;
use crate::disk::Disk;
use crate::serve::serve;
use crate::wire::{FRAME_LEN_MIN, HEADER_LEN};

pub(super) const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
pub(super) const ALICE: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);
pub(super) const BOB: Mac = Mac([0x02, 0, 0, 0, 0, 0x0b]);
/// Sectors of the disk in most tests.
pub(super) const SECTORS: u64 = 1000;

/// A disk in memory that can be told to fail.
pub(super) struct MemoryDisk {
    pub(super) bytes: Vec<u8>,
    pub(super) fails: Option<AtaError>,
    pub(super) flushes: u32,
}

impl MemoryDisk {
    pub(super) fn new(sectors: u64) -> Self {
        let len = usize::try_from(sectors * 512).unwrap();
        let bytes = (0..len).map(|at| (at / 512 % 251).try_into().unwrap()).collect();
        Self { bytes, fails: None, flushes: 0 }
    }

    fn part(&mut self, range: SectorRange) -> &mut [u8] {
        let start = usize::try_from(range.byte_offset()).unwrap();
        &mut self.bytes[start..start + range.len_bytes()]
    }

    fn outcome(&self) -> Result<(), AtaError> {
        self.fails.map_or(Ok(()), Err)
    }
}

impl Disk for MemoryDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        data.copy_from_slice(self.part(range));
        self.outcome()
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        self.outcome()?;
        self.part(range).copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        self.flushes += 1;
        self.outcome()
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        self.part(range).fill(0);
        self.outcome()
    }
}

/// A target e7.3 with its disk, asked by frames.
pub(super) struct Bench {
    pub(super) target: Target,
    pub(super) disk: MemoryDisk,
    pub(super) link: LinkLimits,
    /// What the last answered request changed.
    pub(super) change: Option<StateChange>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(adjust: impl FnOnce(&mut TargetConfig)) -> Self {
        let mut config = TargetConfig::new(Address::new(7, 3).unwrap(), SECTORS);
        config.firmware = 0x1234;
        adjust(&mut config);
        Self {
            target: Target::new(config).unwrap(),
            disk: MemoryDisk::new(SECTORS),
            link: LinkLimits::for_mtu(1500).unwrap(),
            change: None,
        }
    }

    /// The answer to a frame, emitted into a buffer full of stale bytes.
    pub(super) fn ask(&mut self, frame: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request = Incoming::parse(frame, OWN)?;
        let action = self.target.handle(&request, self.link);
        self.change = None;
        match &action {
            Action::Ignore(refusal) => return Err(*refusal),
            Action::Reply(reply) => self.change = reply.change(),
            _ => {}
        }
        let reads = matches!(action, Action::Read { .. } | Action::Verify { .. });
        let mut buf = vec![0xa5; self.link.frame_len_max()];
        let len = serve(&self.target, action, &mut self.disk, &mut buf).unwrap().unwrap();
        assert!(len >= FRAME_LEN_MIN);
        assert!(reads || buf[len..].iter().all(|byte| *byte == 0xa5), "wrote past the frame");
        buf.truncate(len);
        Ok(buf)
    }
}

/// An Alice-to-e7.3 request with its argument.
pub(super) fn request(command: u8, argument: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x10, 0, 0, 7, 3, command,
        0xca, 0xfe, 0xba, 0xbe,
    ];
    frame.extend_from_slice(argument);
    frame
}

/// The same from Bob.
pub(super) fn from_bob(mut frame: Vec<u8>) -> Vec<u8> {
    frame[11] = 0x0b;
    frame
}

/// The same to every slot of shelf 7.
pub(super) fn to_all_slots(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18] = 0xff;
    frame
}

/// The header of an answer to [`request`], with flags, error and command.
pub(super) fn answer_header(flags: u8, error: u8, command: u8) -> [u8; HEADER_LEN] {
    [
        0x02, 0, 0, 0, 0, 0x0a, 0x02, 0, 0, 0, 0, 0x01, 0x88, 0xa2, flags, error, 0, 7, 3, command,
        0xca, 0xfe, 0xba, 0xbe,
    ]
}

/// A whole answer: header, argument, zeros up to 60 bytes.
pub(super) fn answer(flags: u8, error: u8, command: u8, argument: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(answer_header(flags, error, command));
    frame.extend_from_slice(argument);
    frame.resize(frame.len().max(FRAME_LEN_MIN), 0);
    frame
}
