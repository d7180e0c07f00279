//! Decisions about ATA commands. `[AoE 5]`

use super::reply::{self, AtaError, AtaReply, Body, Route};
use super::{Action, Target, TrimSupport};
use crate::ata::command::{AtaCommand, LbaWidth};
use crate::error::Refusal;
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::sectors::{SECTOR_BYTES, SectorRange};
use crate::wire::{AoeError, AtaArg, AtaFlags, TrimEntry};

/// Features bit 0 of DATA SET MANAGEMENT.
const FEATURE_TRIM: u8 = 0x01;
/// LBA registers 1 and 2 of every SMART command.
const SMART_SIGNATURE: (u8, u8) = (0x4f, 0xc2);
/// Sector count of CHECK POWER MODE: active or idle.
const POWER_ACTIVE: u8 = 0xff;

impl Target {
    /// Steps 5 to 7 of `[AoE 10]` for command 0.
    #[inline]
    pub(super) fn ata<'f>(&self, request: &Incoming<'f>, link: LinkLimits) -> Action<'f> {
        let Some((arg, payload)) = AtaArg::parse(request.argument()) else {
            return Action::Ignore(Refusal::ShortArgument { len: request.len() });
        };
        let command = AtaCommand::decode(arg.command_status);
        if command.changes_disk() && self.refuses_change(request) {
            return Action::Ignore(Refusal::WildcardChange);
        }
        if command != AtaCommand::Identify && !self.holds_reservation(request.src()) {
            return self.error(request, AoeError::TargetReserved);
        }
        match self.ata_command(request, link, command, &arg, payload) {
            Ok(action) => action,
            Err(error) => self.registers(request, &arg, Err(error)),
        }
    }

    #[inline]
    fn ata_command<'f>(
        &self,
        request: &Incoming<'f>,
        link: LinkLimits,
        command: AtaCommand,
        arg: &AtaArg,
        payload: &'f [u8],
    ) -> Result<Action<'f>, AtaError> {
        let route = Route::answering(request, self.config.address);
        let plain = AtaReply::new(route, arg, 0);
        match command {
            AtaCommand::Read(width) => {
                if arg.flags.contains(AtaFlags::WRITE) || arg.count > link.sectors_max() {
                    return Err(AtaError::Aborted);
                }
                let range = self.range(width, arg)?;
                Ok(Action::Read { range, reply: AtaReply::new(route, arg, arg.count) })
            }
            AtaCommand::Write { width, durable } => {
                if self.config.read_only || !arg.flags.contains(AtaFlags::WRITE) {
                    return Err(AtaError::Aborted);
                }
                let range = self.range(width, arg)?;
                let data = payload.get(..range.len_bytes()).ok_or(AtaError::Aborted)?;
                Ok(Action::Write { range, data, durable, reply: plain })
            }
            AtaCommand::Verify(width) => {
                Ok(Action::Verify { range: self.range(width, arg)?, reply: plain })
            }
            AtaCommand::Flush => Ok(Action::Flush { reply: plain }),
            AtaCommand::DataSetManagement => {
                Ok(Action::Discard { ranges: self.trim_ranges(arg, payload)?, reply: plain })
            }
            AtaCommand::Identify => {
                let sectors_max = link.sectors_max();
                let body = Body::Identify { flags: arg.flags, lba: arg.lba, sectors_max };
                Ok(self.reply(request, body))
            }
            AtaCommand::CheckPowerMode => Ok(self.registers(request, arg, Ok(POWER_ACTIVE))),
            AtaCommand::PowerMode => Ok(self.registers(request, arg, Ok(0))),
            AtaCommand::SetFeatures => match arg.error_feature {
                // Transfer mode, write cache on and off, look-ahead off and on: nothing to do.
                0x03 | 0x02 | 0x82 | 0x55 | 0xaa => Ok(self.registers(request, arg, Ok(0))),
                _ => Err(AtaError::Aborted),
            },
            AtaCommand::Smart => self.smart(request, arg),
            AtaCommand::ReadNativeMax(width) => Ok(self.native_max(request, arg, width)),
            AtaCommand::Unsupported => Err(AtaError::Aborted),
        }
    }

    /// Flag consistency, count and range of a command that addresses sectors.
    #[inline]
    fn range(&self, width: LbaWidth, arg: &AtaArg) -> Result<SectorRange, AtaError> {
        let lba = width.lba(arg).ok_or(AtaError::Aborted)?;
        // The register has 256 (or 65,536) as a meaning of 0, which no frame can carry. `[AoE 5.3]`
        if arg.count == 0 {
            return Err(AtaError::Aborted);
        }
        SectorRange::new(lba, u16::from(arg.count), self.config.sectors).ok_or(AtaError::IdNotFound)
    }

    /// The ranges of a TRIM command, all of them checked.
    fn trim_ranges<'f>(&self, arg: &AtaArg, payload: &'f [u8]) -> Result<TrimRanges<'f>, AtaError> {
        let offered = self.config.trim != TrimSupport::None && !self.config.read_only;
        if !offered
            || arg.error_feature != FEATURE_TRIM
            || !arg.flags.contains(AtaFlags::WRITE)
            || arg.count == 0
        {
            return Err(AtaError::Aborted);
        }
        let len = usize::from(arg.count) * SECTOR_BYTES;
        let data = payload.get(..len).ok_or(AtaError::Aborted)?;
        let (entries, _) = data.as_chunks();
        let disk_sectors = self.config.sectors;
        let outside = |entry: &[u8; TrimEntry::LEN]| {
            let TrimEntry { lba, count } = TrimEntry::from_bytes(*entry);
            count != 0 && SectorRange::new(lba, count, disk_sectors).is_none()
        };
        if entries.iter().any(outside) {
            return Err(AtaError::IdNotFound);
        }
        Ok(TrimRanges { entries, disk_sectors })
    }

    /// SMART enable, disable and return status; this disk is always healthy, and the answer to a
    /// disable changes nothing.
    fn smart<'f>(&self, request: &Incoming<'f>, arg: &AtaArg) -> Result<Action<'f>, AtaError> {
        let [_, middle, high, ..] = arg.lba;
        if (middle, high) != SMART_SIGNATURE {
            return Err(AtaError::Aborted);
        }
        match arg.error_feature {
            // A healthy disk returns the signature unchanged, as a failing one does not.
            0xd8..=0xda => Ok(self.registers(request, arg, Ok(0))),
            _ => Err(AtaError::Aborted),
        }
    }

    /// READ NATIVE MAX ADDRESS: the last LBA, as far as the registers can show it.
    fn native_max<'f>(&self, request: &Incoming<'f>, arg: &AtaArg, width: LbaWidth) -> Action<'f> {
        let last = self.config.sectors.saturating_sub(1);
        let shown = match width {
            LbaWidth::Lba28 => last.min(0x0fff_ffff),
            LbaWidth::Lba48 => last,
        };
        let arg = AtaArg { lba: AtaArg::lba_registers(shown), ..*arg };
        self.registers(request, &arg, Ok(0))
    }

    /// An answer of registers only.
    #[inline]
    fn registers<'f>(
        &self,
        request: &Incoming<'f>,
        arg: &AtaArg,
        outcome: Result<u8, AtaError>,
    ) -> Action<'f> {
        self.reply(request, Body::Registers(reply::registers(arg, outcome)))
    }
}

/// The ranges of a TRIM command, in the order of the frame; they may overlap. All of them were
/// checked before the first one comes out, unused entries are left out. `[AoE 5.5]`
#[derive(Clone, Debug)]
pub struct TrimRanges<'f> {
    entries: &'f [[u8; TrimEntry::LEN]],
    disk_sectors: u64,
}

impl Iterator for TrimRanges<'_> {
    type Item = SectorRange;

    #[inline]
    fn next(&mut self) -> Option<SectorRange> {
        while let Some((first, rest)) = self.entries.split_first() {
            self.entries = rest;
            let TrimEntry { lba, count } = TrimEntry::from_bytes(*first);
            if let Some(range) = SectorRange::new(lba, count, self.disk_sectors) {
                return Some(range);
            }
        }
        None
    }
}
