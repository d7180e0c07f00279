//! Rules about an answer and the request that it belongs to.

use super::answer::{STATUS_ERR, Said};
use super::exchange::{Asked, Exchange, hash_of};
use super::request::{answer_sectors, count_is_result, lba_is_result, length, width_of};
use super::rule::{Detail, Judge, Rule};
use super::{Captured, padding};
use crate::ata::command::AtaCommand;
use crate::sectors::{SECTOR_BYTES, SectorRange};
use crate::wire::ata::ATA_DATA_OFFSET;
use crate::wire::{AoeError, AtaArg, Command, ConfigArg, ConfigCommand, Header, VERSION};

/// Error register: the sectors do not exist. `[AoE 5.4]`
const ERROR_IDNF: u8 = 0x10;

/// Holds an answer against its request. `disk_sectors` is what the target's IDENTIFY page said.
pub(super) fn check(
    header: &Header,
    said: &Said<'_>,
    exchange: &Exchange,
    captured: &Captured<'_>,
    disk_sectors: Option<u64>,
    judge: &mut Judge<'_>,
) {
    if header.command != exchange.command {
        let (found, expected) = (u8::from(header.command), u8::from(exchange.command));
        judge.expected(true, Rule::WrongCommand, found, expected);
        return;
    }
    let unicast = exchange.dst.is_unicast();
    if unicast && header.src != exchange.dst {
        judge.say(Rule::WrongAnswerer, Detail::Machine(exchange.dst));
    }
    refusal(header, said, exchange, judge);
    if let Some(error) = header.error {
        aoe_error(error, exchange, judge);
    }
    match (said, exchange.asked) {
        (Said::Ata { arg, .. }, Asked::Ata(asked)) => {
            let answer = Answer { arg: *arg, captured };
            registers(&answer, &asked, judge);
            range(&answer.arg, &asked, disk_sectors, judge);
        }
        (Said::Config { arg, string }, Asked::Config { command, string_len, string: hash }) => {
            let asked = (command, string_len, hash);
            config(header, arg, *string, asked, judge);
        }
        _ => {}
    }
}

/// A request that breaks a rule must not succeed.
fn refusal(header: &Header, said: &Said<'_>, exchange: &Exchange, judge: &mut Judge<'_>) {
    let Some(flaw) = exchange.flaw else { return };
    let failed = match said {
        Said::Ata { arg, .. } => arg.command_status & STATUS_ERR != 0,
        _ => false,
    };
    if header.error.is_some() || failed {
        return;
    }
    let rule = if flaw == Rule::WildcardChange { Rule::SilenceDue } else { Rule::RefusalDue };
    judge.say(rule, Detail::Because(flaw));
}

/// Which codes belong to which request. `[AoE 2.3]`
fn aoe_error(error: AoeError, exchange: &Exchange, judge: &mut Judge<'_>) {
    let ata = exchange.command == Command::Ata;
    judge.found(ata, Rule::ErrorHangsLinux, u8::from(error));
    let in_place = match error {
        AoeError::UnrecognizedCommand => matches!(exchange.command, Command::Other(_)),
        AoeError::BadArgument => {
            let known = matches!(exchange.command, Command::Other(_));
            !known && !ata && (exchange.flaw.is_some() || may_be_bad(exchange))
        }
        AoeError::DeviceUnavailable => ata,
        AoeError::ConfigStringPresent => {
            matches!(exchange.asked, Asked::Config { command: ConfigCommand::Set, .. })
        }
        AoeError::UnsupportedVersion => exchange.version != VERSION,
        AoeError::TargetReserved => match exchange.asked {
            Asked::Ata(arg) => AtaCommand::decode(arg.command_status) != AtaCommand::Identify,
            // RCmd 1 alone asks for what others may hold.
            Asked::List { sub } => exchange.command == Command::Reserve && sub == 1,
            Asked::Config { .. } | Asked::Unknown => false,
        },
        // Said about the answer already.
        AoeError::Other(_) => true,
    };
    if in_place {
        return;
    }
    let rule = if ata && error == AoeError::BadArgument {
        Rule::ErrorForAta
    } else {
        Rule::ErrorOutOfPlace
    };
    judge.say(rule, Detail::Found(u8::from(error).into()));
}

/// Whether a target may refuse a sound request for what it asks: a list that is too long for it.
fn may_be_bad(exchange: &Exchange) -> bool {
    matches!(exchange.asked, Asked::List { .. })
}

/// An answer with registers.
struct Answer<'a, 'f> {
    arg: AtaArg,
    captured: &'a Captured<'f>,
}

/// Data, echoes and residue. `[AoE 5]`
fn registers(answer: &Answer<'_, '_>, asked: &AtaArg, judge: &mut Judge<'_>) {
    let Answer { arg, captured, .. } = answer;
    let failed = arg.command_status & STATUS_ERR != 0;
    let data_len = captured.wire_len.saturating_sub(ATA_DATA_OFFSET);
    let sectors = if failed { Some(0) } else { answer_sectors(asked) };
    if let Some(sectors) = sectors {
        let due = usize::from(sectors).saturating_mul(SECTOR_BYTES);
        let needed = ATA_DATA_OFFSET.saturating_add(due);
        judge.expected(data_len < due, Rule::ReadShort, length(data_len), length(due));
        let surplus = padding::surplus(captured, needed) > 0;
        if failed && surplus {
            judge.found(true, Rule::ErrorWithData, length(data_len));
        } else {
            let long = surplus && due > 0;
            judge.expected(long, Rule::ReadLong, length(data_len), length(due));
        }
        padding::answer(captured, needed, judge);
    }
    judge.expected(arg.flags != asked.flags, Rule::FlagsEcho, arg.flags.0, asked.flags.0);
    if !lba_is_result(asked) {
        let broken = arg.lba != asked.lba;
        judge.expected(broken, Rule::LbaEcho, arg.lba48(), asked.lba48());
    }
    if !count_is_result(asked) {
        let broken = if failed { arg.count > asked.count } else { arg.count != 0 };
        judge.expected(broken, Rule::Residue, arg.count, if failed { asked.count } else { 0 });
    }
}

/// Whether the target's idea of its end is that of its IDENTIFY page. `[AoE 5.2]`
fn range(arg: &AtaArg, asked: &AtaArg, disk_sectors: Option<u64>, judge: &mut Judge<'_>) {
    let width = width_of(AtaCommand::decode(asked.command_status));
    let (Some(width), Some(size)) = (width, disk_sectors) else { return };
    let Some(lba) = width.lba(asked).filter(|_| asked.count > 0) else { return };
    let inside = SectorRange::new(lba, u16::from(asked.count), size).is_some();
    let failed = arg.command_status & STATUS_ERR != 0;
    judge.expected(!inside && !failed, Rule::BeyondEnd, lba, size);
    let refused = failed && arg.error_feature & ERROR_IDNF != 0;
    judge.expected(inside && refused, Rule::RangeRefused, lba, size);
}

/// The string and the echo. `[AoE 4.1]`
fn config(
    header: &Header,
    arg: &ConfigArg,
    string: Option<&[u8]>,
    (command, string_len, hash): (ConfigCommand, u16, u64),
    judge: &mut Judge<'_>,
) {
    judge.expected(
        arg.command != command,
        Rule::ConfigEcho,
        u8::from(arg.command),
        u8::from(command),
    );
    let Some(string) = string else { return };
    let len = usize::from(string_len);
    let equal = string.len() == len && hash_of(string) == hash;
    match (command, header.error) {
        (ConfigCommand::TestExact, None) => judge.flag(!equal, Rule::TestMismatch),
        (ConfigCommand::TestPrefix, None) => {
            let prefix = string.get(..len).is_some_and(|front| hash_of(front) == hash);
            judge.flag(!prefix, Rule::TestMismatch);
        }
        (ConfigCommand::Set | ConfigCommand::ForceSet, None) => {
            judge.flag(!equal, Rule::SetNotStored);
        }
        (ConfigCommand::Set, Some(AoeError::ConfigStringPresent)) => {
            judge.flag(equal, Rule::SetRefusedEqual);
        }
        _ => {}
    }
}

/// The data of a successful IDENTIFY answer.
pub(super) fn identify_page<'f>(
    said: &Said<'f>,
    exchange: &Exchange,
) -> Option<&'f crate::ata::identify::Page> {
    let (Said::Ata { arg, data }, Asked::Ata(asked)) = (said, exchange.asked) else { return None };
    let identify = AtaCommand::decode(asked.command_status) == AtaCommand::Identify;
    if !identify || arg.command_status & STATUS_ERR != 0 {
        return None;
    }
    data.first_chunk()
}
