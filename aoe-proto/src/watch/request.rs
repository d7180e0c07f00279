//! Rules about a request by itself.

use super::exchange::{Asked, hash_of};
use super::rule::{Detail, Judge, Rule};
use super::{Captured, padding};
use crate::ata::command::{AtaCommand, LbaWidth, opcode};
use crate::sectors::SECTOR_BYTES;
use crate::wire::ata::ATA_DATA_OFFSET;
use crate::wire::{
    AtaArg, AtaFlags, CONFIG_STRING_MAX, Command, ConfigArg, ConfigCommand, HEADER_LEN, Header,
    MaskArg, MaskCommand, ReserveArg, ReserveCommand,
};

/// `AFlags` bits without a meaning. `[AoE 5.1]`
const ATA_FLAGS_RESERVED: u8 = !(0x40 | 0x10 | 0x02 | 0x01);
/// Config commands that only a vendor knows begin here. `[AoE 3]`
const VENDOR_COMMANDS: u8 = 240;

/// What a request asks for, and the first rule it breaks that obliges a target to refuse it.
pub(super) struct Verdict {
    pub(super) asked: Asked,
    pub(super) flaw: Option<Rule>,
}

/// Holds the argument of a request against the rules. `sectors_max` is what the target advertised.
pub(super) fn check(
    header: &Header,
    argument: &[u8],
    captured: &Captured<'_>,
    sectors_max: Option<u8>,
    judge: &mut Judge<'_>,
) -> Verdict {
    let verdict = match header.command {
        Command::Ata => ata(argument, captured, sectors_max, judge),
        Command::Config => config(argument, captured, judge),
        Command::MacMask => mask(argument, captured, judge),
        Command::Reserve => reserve(argument, captured, judge),
        Command::Other(code) => {
            let vendor = code >= VENDOR_COMMANDS;
            let rule = if vendor { Rule::VendorCommand } else { Rule::UnknownCommand };
            judge.say(rule, Detail::Found(code.into()));
            let flaw = (!vendor).then_some(rule);
            Some(Verdict { asked: Asked::Unknown, flaw })
        }
    };
    let Some(mut verdict) = verdict else {
        judge.flag(!captured.is_cut(), Rule::ShortFrame);
        return Verdict { asked: Asked::Unknown, flaw: Some(Rule::ShortFrame) };
    };
    if header.address.is_wildcard() && changes_state(&verdict.asked) {
        judge.flag(true, Rule::WildcardChange);
        verdict.flaw = verdict.flaw.or(Some(Rule::WildcardChange));
    }
    if header.version != crate::wire::VERSION {
        verdict.flaw = Some(Rule::Version);
    }
    verdict
}

/// Whether a request would change the state of a target. `[AoE 2.4]`
fn changes_state(asked: &Asked) -> bool {
    match asked {
        Asked::Ata(arg) => AtaCommand::decode(arg.command_status).changes_disk(),
        Asked::Config { command, .. } => {
            matches!(command, ConfigCommand::Set | ConfigCommand::ForceSet)
        }
        // An edit of the mask list, and both ways to set a reservation.
        Asked::List { sub } => *sub != 0,
        Asked::Unknown => false,
    }
}

fn ata(
    argument: &[u8],
    captured: &Captured<'_>,
    sectors_max: Option<u8>,
    judge: &mut Judge<'_>,
) -> Option<Verdict> {
    let (arg, data) = AtaArg::parse(argument)?;
    reserved(argument, judge);
    judge.found(arg.flags.0 & ATA_FLAGS_RESERVED != 0, Rule::ReservedAtaFlags, arg.flags.0);
    let command = AtaCommand::decode(arg.command_status);
    let data_len = captured.wire_len.saturating_sub(ATA_DATA_OFFSET);
    let mut flaw = None;
    let mut break_rule = |broken: bool, rule: Rule, detail: Detail, judge: &mut Judge<'_>| {
        if broken {
            judge.say(rule, detail);
            flaw = flaw.or(Some(rule));
        }
    };
    let writes = arg.flags.contains(AtaFlags::WRITE);
    break_rule(command.changes_disk() && !writes, Rule::WriteWithoutW, Detail::None, judge);
    let reads = matches!(command, AtaCommand::Read(_));
    break_rule(reads && writes, Rule::ReadWithW, Detail::None, judge);
    if let Some(width) = width_of(command) {
        break_rule(width.lba(&arg).is_none(), Rule::LbaWidth, Detail::None, judge);
        break_rule(arg.count == 0, Rule::CountZero, Detail::None, judge);
    }
    if command.changes_disk() {
        let needed = usize::from(arg.count).saturating_mul(SECTOR_BYTES);
        let detail = Detail::Expected { found: length(data_len), expected: length(needed) };
        break_rule(data_len < needed, Rule::ShortWrite, detail, judge);
        padding::trailer(data, needed, judge);
    } else {
        padding::trailer(data, 0, judge);
    }
    if let Some(max) = sectors_max
        && (reads || matches!(command, AtaCommand::Write { .. }))
        && arg.count > max
    {
        let detail = Detail::Expected { found: arg.count.into(), expected: max.into() };
        judge.say(Rule::CountOverMax, detail);
        // A write that arrived complete may be taken; the data of a read may not fit. [AoE 5.6]
    }
    Some(Verdict { asked: Asked::Ata(arg), flaw })
}

/// The reserved bytes of the register block.
pub(super) fn reserved(argument: &[u8], judge: &mut Judge<'_>) {
    if let Some([.., a, b]) = argument.first_chunk::<12>() {
        let value = u16::from_be_bytes([*a, *b]);
        judge.found(value != 0, Rule::ReservedBytes, value);
    }
}

/// The LBA width of a command that addresses sectors.
pub(super) const fn width_of(command: AtaCommand) -> Option<LbaWidth> {
    match command {
        AtaCommand::Read(width) | AtaCommand::Write { width, .. } | AtaCommand::Verify(width) => {
            Some(width)
        }
        _ => None,
    }
}

fn config(argument: &[u8], captured: &Captured<'_>, judge: &mut Judge<'_>) -> Option<Verdict> {
    let (arg, rest) = ConfigArg::parse(argument)?;
    let answer_fields = arg.buffer_count != 0 || arg.firmware != 0 || arg.sector_count != 0;
    judge.flag(answer_fields, Rule::ConfigRequestFields);
    let mut flaw = None;
    if let ConfigCommand::Other(code) = arg.command {
        judge.say(Rule::UnknownSubcommand, Detail::Found(code.into()));
        flaw = Some(Rule::UnknownSubcommand);
    }
    let room = captured.wire_len.saturating_sub(HEADER_LEN + 8);
    let len = usize::from(arg.string_len);
    // A read says nothing with its string, and nobody looks at it. [AoE 4.1]
    if arg.command != ConfigCommand::Read && (len > CONFIG_STRING_MAX || len > room) {
        let limit = room.min(CONFIG_STRING_MAX);
        let detail = Detail::Expected { found: length(len), expected: length(limit) };
        judge.say(Rule::ConfigLength, detail);
        flaw = flaw.or(Some(Rule::ConfigLength));
    } else if len <= rest.len() {
        padding::trailer(rest, len, judge);
    }
    let string = rest.get(..len).map_or(0, hash_of);
    let asked = Asked::Config { command: arg.command, string_len: arg.string_len, string };
    Some(Verdict { asked, flaw })
}

fn mask(argument: &[u8], captured: &Captured<'_>, judge: &mut Judge<'_>) -> Option<Verdict> {
    let (arg, rest) = MaskArg::parse(argument)?;
    let [first, ..] = argument.first_chunk::<4>()?;
    judge.found(*first != 0, Rule::ReservedBytes, *first);
    let mut flaw = None;
    if let MaskCommand::Other(code) = arg.command {
        judge.say(Rule::UnknownSubcommand, Detail::Found(code.into()));
        flaw = Some(Rule::UnknownSubcommand);
    }
    let len = usize::from(arg.count).saturating_mul(8);
    // The list of a read means nothing; only edits are counted by it.
    if arg.command == MaskCommand::Edit
        && list_too_long(len, HEADER_LEN + 4, arg.count, captured, judge)
    {
        flaw = flaw.or(Some(Rule::ListLength));
    }
    padding::trailer(rest, len, judge);
    Some(Verdict { asked: Asked::List { sub: arg.command.into() }, flaw })
}

fn reserve(argument: &[u8], captured: &Captured<'_>, judge: &mut Judge<'_>) -> Option<Verdict> {
    let (arg, rest) = ReserveArg::parse(argument)?;
    let mut flaw = None;
    if let ReserveCommand::Other(code) = arg.command {
        judge.say(Rule::UnknownSubcommand, Detail::Found(code.into()));
        flaw = Some(Rule::UnknownSubcommand);
    }
    let len = usize::from(arg.count).saturating_mul(6);
    if arg.command != ReserveCommand::Read
        && list_too_long(len, HEADER_LEN + 2, arg.count, captured, judge)
    {
        flaw = flaw.or(Some(Rule::ListLength));
    }
    padding::trailer(rest, len, judge);
    Some(Verdict { asked: Asked::List { sub: arg.command.into() }, flaw })
}

/// Whether a list of `len` bytes behind `offset` exceeds the frame; says so.
pub(super) fn list_too_long(
    len: usize,
    offset: usize,
    count: u8,
    captured: &Captured<'_>,
    judge: &mut Judge<'_>,
) -> bool {
    let broken = len > captured.wire_len.saturating_sub(offset);
    judge.found(broken, Rule::ListLength, count);
    broken
}

pub(super) fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Sectors of data that a successful answer to a command carries; `None` if that is not known.
pub(super) const fn answer_sectors(arg: &AtaArg) -> Option<u8> {
    match AtaCommand::decode(arg.command_status) {
        AtaCommand::Identify => Some(1),
        AtaCommand::Read(_) => Some(arg.count),
        // READ DATA and READ LOG bring data, in amounts of their own.
        AtaCommand::Smart => match arg.error_feature {
            0xd0 | 0xd5 => None,
            _ => Some(0),
        },
        AtaCommand::Unsupported => match arg.command_status {
            // READ MULTIPLE, with and without EXT.
            0xc4 | 0x29 => Some(arg.count),
            _ => None,
        },
        _ => Some(0),
    }
}

/// Whether the sector count of an answer means something else than a residue.
pub(super) const fn count_is_result(arg: &AtaArg) -> bool {
    matches!(arg.command_status, opcode::CHECK_POWER_MODE | opcode::SMART)
}

/// Whether the LBA registers of an answer mean something else than those of the request.
pub(super) const fn lba_is_result(arg: &AtaArg) -> bool {
    matches!(
        arg.command_status,
        opcode::READ_NATIVE_MAX | opcode::READ_NATIVE_MAX_EXT | opcode::SMART
    )
}
