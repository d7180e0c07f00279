//! What an initiator can ask, and the frames that ask it.

use core::fmt;

use crate::ata::command::opcode;
use crate::error::BufferTooSmall;
use crate::sectors::{DISK_SECTORS_MAX, SECTOR_BYTES};
use crate::wire::ata::ATA_ARG_LEN;
use crate::wire::frame::FrameWriter;
use crate::wire::mac_mask::DIRECTIVE_LEN;
use crate::wire::reserve::MAC_LEN;
use crate::wire::{
    AtaArg, AtaFlags, CONFIG_STRING_MAX, Command, ConfigArg, ConfigCommand, HEADER_LEN, Header,
    MaskArg, MaskCommand, MaskError, ReserveArg, ReserveCommand, TrimEntry,
};

/// A request. `P` holds bytes that travel with it; they stay with the initiator until the
/// [`Completion`](super::Completion) gives them back, for every retransmission needs them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request<P> {
    /// Read the configuration and the config string.
    ConfigRead,
    /// Any other Query/Config command. A test that does not match is never answered: it ends with
    /// [`Failure::TimedOut`](super::Failure::TimedOut).
    Config {
        /// Test, set or force.
        command: ConfigCommand,
        /// The argument, at most [`CONFIG_STRING_MAX`] bytes.
        string: P,
    },
    /// IDENTIFY DEVICE.
    Identify,
    /// Read sectors.
    Read {
        /// First sector.
        lba: u64,
        /// Number of sectors, at most [`Initiator::sectors_max`](super::Initiator::sectors_max).
        count: u8,
    },
    /// Write sectors.
    Write {
        /// First sector.
        lba: u64,
        /// Whole sectors, at most [`Initiator::sectors_max`](super::Initiator::sectors_max).
        data: P,
        /// Whether to ask for durability before the answer (WRITE DMA FUA EXT).
        durable: bool,
    },
    /// FLUSH CACHE EXT.
    Flush,
    /// DATA SET MANAGEMENT with TRIM.
    Trim {
        /// Whole sectors of [`TrimEntry`] bytes, unused ones zero.
        ranges: P,
    },
    /// Read the MAC mask list.
    MaskRead,
    /// Edit the MAC mask list.
    MaskEdit {
        /// [`Directive`](crate::wire::Directive) bytes.
        directives: P,
    },
    /// Read the reservation.
    ReserveRead,
    /// Replace the reservation; nobody releases it.
    ReserveSet {
        /// Addresses, 6 bytes each.
        macs: P,
        /// Whether to take it from other holders.
        force: bool,
    },
}

/// Why a request was not accepted. Nothing was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SubmitError {
    /// Every slot is taken: wait for a completion.
    Full,
    /// No sectors, or more than fit.
    Sectors {
        /// The most sectors of one request.
        max: u8,
    },
    /// The range ends past the largest disk that can be addressed.
    Lba {
        /// The largest disk in sectors.
        max: u64,
    },
    /// The payload is longer than a frame carries or the protocol allows.
    TooLong {
        /// The most bytes.
        max: usize,
    },
    /// The payload is no whole number of units.
    Unit {
        /// Bytes of a unit.
        len: usize,
    },
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many requests are outstanding"),
            Self::Sectors { max } => write!(f, "a request carries 1 to {max} sectors"),
            Self::Lba { max } => write!(f, "a disk has at most {max} sectors"),
            Self::TooLong { max } => write!(f, "the payload has at most {max} bytes"),
            Self::Unit { len } => write!(f, "the payload consists of units of {len} bytes"),
        }
    }
}

impl core::error::Error for SubmitError {}

/// What limits requests to a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) sectors_max: u8,
    pub(super) mask_entries_max: usize,
    pub(super) reserve_entries_max: usize,
    pub(super) lba48: bool,
}

impl Limits {
    const fn disk_sectors_max(&self) -> u64 {
        if self.lba48 { DISK_SECTORS_MAX } else { 1 << 28 }
    }
}

impl<P: AsRef<[u8]>> Request<P> {
    /// The bytes that travel with the request.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Config { string: payload, .. }
            | Self::Write { data: payload, .. }
            | Self::Trim { ranges: payload }
            | Self::MaskEdit { directives: payload }
            | Self::ReserveSet { macs: payload, .. } => payload.as_ref(),
            Self::ConfigRead
            | Self::Identify
            | Self::Read { .. }
            | Self::Flush
            | Self::MaskRead
            | Self::ReserveRead => &[],
        }
    }

    /// The command of the frame.
    pub(super) const fn command(&self) -> Command {
        match self {
            Self::ConfigRead | Self::Config { .. } => Command::Config,
            Self::Identify
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Flush
            | Self::Trim { .. } => Command::Ata,
            Self::MaskRead | Self::MaskEdit { .. } => Command::MacMask,
            Self::ReserveRead | Self::ReserveSet { .. } => Command::Reserve,
        }
    }

    pub(super) fn validate(&self, limits: &Limits) -> Result<(), SubmitError> {
        let len = self.payload().len();
        let max = limits.sectors_max;
        let (unit, units_max) = match self {
            Self::Read { lba, count } => {
                if *count == 0 || *count > max {
                    return Err(SubmitError::Sectors { max });
                }
                return in_range(*lba, u64::from(*count), limits);
            }
            Self::Write { lba, .. } => {
                let sectors = len / SECTOR_BYTES;
                if sectors == 0 || sectors > usize::from(max) {
                    return Err(SubmitError::Sectors { max });
                }
                in_range(*lba, u64::try_from(sectors).unwrap_or(u64::MAX), limits)?;
                (SECTOR_BYTES, usize::from(max))
            }
            Self::Trim { .. } if len < SECTOR_BYTES => return Err(SubmitError::Sectors { max }),
            Self::Trim { .. } => (SECTOR_BYTES, usize::from(max)),
            Self::Config { .. } => (1, CONFIG_STRING_MAX),
            Self::MaskEdit { .. } => (DIRECTIVE_LEN, limits.mask_entries_max.min(255)),
            Self::ReserveSet { .. } => (MAC_LEN, limits.reserve_entries_max.min(255)),
            _ => return Ok(()),
        };
        if len > unit * units_max {
            return Err(SubmitError::TooLong { max: unit * units_max });
        }
        if !len.is_multiple_of(unit) {
            return Err(SubmitError::Unit { len: unit });
        }
        Ok(())
    }

    /// Writes the frame and tells its length.
    pub(super) fn emit(
        &self,
        header: &Header,
        lba48: bool,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let payload = self.payload();
        let len = payload.len();
        let header = header.to_bytes();
        let mut frame = match self {
            Self::ConfigRead => start(buf, &header, &config(ConfigCommand::Read, 0), 0),
            Self::Config { command, .. } => start(buf, &header, &config(*command, len), len),
            Self::MaskRead => start(buf, &header, &mask(MaskCommand::Read, 0), 0),
            Self::MaskEdit { .. } => {
                start(buf, &header, &mask(MaskCommand::Edit, len / DIRECTIVE_LEN), len)
            }
            Self::ReserveRead => start(buf, &header, &reserve(ReserveCommand::Read, 0), 0),
            Self::ReserveSet { force, .. } => {
                let command = if *force { ReserveCommand::ForceSet } else { ReserveCommand::Set };
                start(buf, &header, &reserve(command, len / MAC_LEN), len)
            }
            _ => start(buf, &header, &self.registers(lba48), len),
        }?;
        frame.put(payload);
        Ok(frame.finish())
    }

    /// The registers of an ATA command.
    fn registers(&self, lba48: bool) -> [u8; ATA_ARG_LEN] {
        let sectors = low_byte(self.payload().len() / SECTOR_BYTES);
        let (command, count, lba, write) = match self {
            Self::Read { lba, count } if lba48 => (opcode::READ_SECTORS_EXT, *count, *lba, false),
            Self::Read { lba, count } => (opcode::READ_SECTORS, *count, *lba, false),
            Self::Write { lba, durable: true, .. } if lba48 => {
                (opcode::WRITE_DMA_FUA_EXT, sectors, *lba, true)
            }
            Self::Write { lba, .. } if lba48 => (opcode::WRITE_SECTORS_EXT, sectors, *lba, true),
            Self::Write { lba, .. } => (opcode::WRITE_SECTORS, sectors, *lba, true),
            Self::Trim { .. } => (opcode::DATA_SET_MANAGEMENT, sectors, 0, true),
            Self::Flush if lba48 => (opcode::FLUSH_CACHE_EXT, 0, 0, false),
            Self::Flush => (opcode::FLUSH_CACHE, 0, 0, false),
            _ => (opcode::IDENTIFY_DEVICE, 1, 0, false),
        };
        let extended = lba48 && command != opcode::IDENTIFY_DEVICE;
        let mut flags = AtaFlags::default();
        if write {
            flags = flags.union(AtaFlags::WRITE);
        }
        if extended {
            flags = flags.union(AtaFlags::EXTENDED);
        }
        let arg = AtaArg {
            flags,
            error_feature: u8::from(matches!(self, Self::Trim { .. })),
            count,
            command_status: command,
            lba: AtaArg::lba_registers(lba),
        };
        arg.to_bytes()
    }
}

fn in_range(lba: u64, count: u64, limits: &Limits) -> Result<(), SubmitError> {
    let max = limits.disk_sectors_max();
    if lba.checked_add(count).is_none_or(|end| end > max) {
        return Err(SubmitError::Lba { max });
    }
    Ok(())
}

/// The front of a frame of both headers and a payload of `payload_len` bytes.
fn start<'b>(
    buf: &'b mut [u8],
    header: &[u8; HEADER_LEN],
    argument: &[u8],
    payload_len: usize,
) -> Result<FrameWriter<'b>, BufferTooSmall> {
    let mut frame = FrameWriter::new(buf, HEADER_LEN + argument.len() + payload_len)?;
    frame.put(header);
    frame.put(argument);
    Ok(frame)
}

fn config(command: ConfigCommand, len: usize) -> [u8; 8] {
    let string_len = u16::try_from(len).unwrap_or(u16::MAX);
    let arg = ConfigArg {
        buffer_count: 0,
        firmware: 0,
        sector_count: 0,
        version: 0,
        command,
        string_len,
    };
    arg.to_bytes()
}

fn mask(command: MaskCommand, count: usize) -> [u8; 4] {
    MaskArg { command, error: MaskError::None, count: low_byte(count) }.to_bytes()
}

fn reserve(command: ReserveCommand, count: usize) -> [u8; 2] {
    ReserveArg { command, count: low_byte(count) }.to_bytes()
}

/// A count that `validate` has bounded.
fn low_byte(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// Fills `out` with TRIM entries for a range of any length, and tells how many sectors were covered:
/// fewer than `sectors` if `out` (whole sectors, at most 255) is too small. `[AoE 5.5]`
pub fn fill_trim_entries(out: &mut [u8], mut lba: u64, sectors: u64) -> u64 {
    let mut left = sectors;
    out.fill(0);
    for entry in out.as_chunks_mut::<{ TrimEntry::LEN }>().0 {
        let count = u16::try_from(left).unwrap_or(u16::MAX);
        *entry = TrimEntry { lba, count }.to_bytes();
        lba = lba.saturating_add(u64::from(count));
        left = left.saturating_sub(u64::from(count));
        if left == 0 {
            break;
        }
    }
    sectors.saturating_sub(left)
}

/// Cuts a long range into pieces of at most `sectors_max` sectors, each a first sector and a count.
/// Pieces end at multiples of `sectors_max` where they can, so that all but the first are aligned.
pub fn pieces(lba: u64, sectors: u64, sectors_max: u8) -> impl Iterator<Item = (u64, u8)> {
    let size = u64::from(sectors_max.max(1));
    let mut at = lba;
    let mut left = sectors;
    core::iter::from_fn(move || {
        let room = size.saturating_sub(at.checked_rem(size).unwrap_or(0));
        let count = u8::try_from(room.min(left)).ok().filter(|count| *count > 0)?;
        let piece = (at, count);
        at = at.saturating_add(u64::from(count));
        left = left.saturating_sub(u64::from(count));
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pieces_are_aligned_and_cover_everything() {
        let cut: Vec<_> = pieces(5, 20, 8).collect();
        assert_eq!(cut, [(5, 3), (8, 8), (16, 8), (24, 1)]);
        assert_eq!(pieces(0, 0, 8).count(), 0);
        assert_eq!(pieces(3, 2, 0).collect::<Vec<_>>(), [(3, 1), (4, 1)]);
        assert_eq!(pieces(0, 1000, 255).map(|(_, count)| u64::from(count)).sum::<u64>(), 1000);
    }

    #[test]
    fn trim_entries_of_a_long_range() {
        let mut out = [0xa5; 512];
        assert_eq!(fill_trim_entries(&mut out, 0x0102_0304_0506, 70_000), 70_000);
        assert_eq!(&out[..16], [6, 5, 4, 3, 2, 1, 0xff, 0xff, 5, 5, 5, 3, 2, 1, 0x71, 0x11]);
        assert_eq!(&out[16..], [0; 496]);
        assert_eq!(fill_trim_entries(&mut out, 0, u64::MAX), 64 * 65_535);
    }
}
