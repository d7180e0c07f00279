//! Rules about an answer by itself.

use super::request::{length, list_too_long, reserved};
use super::rule::{Detail, Judge, Rule};
use super::{Captured, padding};
use crate::sectors::SECTOR_BYTES;
use crate::wire::{
    Address, AoeError, AtaArg, CONFIG_STRING_MAX, Command, ConfigArg, DirectiveCommand,
    FRAME_LEN_MIN, HEADER_LEN, Header, Mac, MaskArg, MaskError, ReserveArg, VERSION,
};

/// Status bits. `[AoE 5.4]`
pub(super) const STATUS_ERR: u8 = 0x01;
const STATUS_DRQ: u8 = 0x08;
const STATUS_DRDY: u8 = 0x40;
const STATUS_BSY: u8 = 0x80;
/// AoE header and ATA registers inside the Ethernet payload.
const ATA_OVERHEAD: usize = 22;

/// What an answer says, as far as it is compared with its request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'f> {
    Ata {
        arg: AtaArg,
        data: &'f [u8],
    },
    Config {
        arg: ConfigArg,
        string: Option<&'f [u8]>,
    },
    Other,
    /// The argument is incomplete.
    Nothing,
}

/// Holds an answer against the rules that need no request.
pub(super) fn check<'f>(
    header: &Header,
    argument: &'f [u8],
    captured: &Captured<'_>,
    mtu: Option<usize>,
    judge: &mut Judge<'_>,
) -> Said<'f> {
    frame(header, captured, judge);
    if let Some(AoeError::Other(code)) = header.error {
        judge.say(Rule::UnknownError, Detail::Found(code.into()));
    }
    if header.error.is_some() && argument.iter().all(|byte| *byte == 0) {
        bare(header, judge);
        return Said::Other;
    }
    let said = match header.command {
        Command::Ata => ata(header, argument, captured, judge),
        Command::Config => config(argument, captured, mtu, judge),
        Command::MacMask => mask(header, argument, captured, judge),
        Command::Reserve => reserve(argument, captured, judge),
        Command::Other(_) => {
            if header.error.is_some() {
                padding::answer(captured, HEADER_LEN, judge);
            }
            Some(Said::Other)
        }
    };
    judge.flag(said.is_none() && !captured.is_cut(), Rule::ShortFrame);
    said.unwrap_or(Said::Nothing)
}

/// A refusal that is nothing but its header. `[AoE 2.2]` `[AoE 4.1]`
fn bare(header: &Header, judge: &mut Judge<'_>) {
    let informs =
        matches!(header.error, Some(AoeError::BadArgument | AoeError::ConfigStringPresent));
    judge.flag(informs && header.command == Command::Config, Rule::ConfigErrorBare);
}

/// Addresses and length.
fn frame(header: &Header, captured: &Captured<'_>, judge: &mut Judge<'_>) {
    judge.flag(header.address.exact().is_none(), Rule::WildcardAnswer);
    let is_linux_shelf = header.address.exact().is_some_and(Address::is_refused_by_linux);
    judge.flag(is_linux_shelf && header.command == Command::Config, Rule::LinuxShelf);
    let to_all = header.dst == Mac::BROADCAST;
    judge.flag(to_all && !is_advertisement(header), Rule::BroadcastAnswer);
    judge.expected(
        captured.wire_len < FRAME_LEN_MIN,
        Rule::Unpadded,
        length(captured.wire_len),
        length(FRAME_LEN_MIN),
    );
}

/// Whether an answer may be one that nobody asked for. `[AoE 4.3]`
pub(super) fn is_advertisement(header: &Header) -> bool {
    header.command == Command::Config && header.tag.0 == [0; 4] && header.error.is_none()
}

fn ata<'f>(
    header: &Header,
    argument: &'f [u8],
    captured: &Captured<'_>,
    judge: &mut Judge<'_>,
) -> Option<Said<'f>> {
    if header.error.is_some() {
        // The registers of a refusal mean nothing; only stale bytes behind them matter.
        padding::answer(captured, crate::wire::ata::ATA_DATA_OFFSET, judge);
        return Some(Said::Other);
    }
    let (arg, data) = AtaArg::parse(argument)?;
    reserved(argument, judge);
    let status = arg.command_status;
    judge.found(status & STATUS_DRDY == 0, Rule::StatusNotReady, status);
    judge.found(status & (STATUS_BSY | STATUS_DRQ) != 0, Rule::StatusBusy, status);
    let failed = status & STATUS_ERR != 0;
    judge.found(failed != (arg.error_feature != 0), Rule::ErrorRegister, arg.error_feature);
    Some(Said::Ata { arg, data })
}

fn config<'f>(
    argument: &'f [u8],
    captured: &Captured<'_>,
    mtu: Option<usize>,
    judge: &mut Judge<'_>,
) -> Option<Said<'f>> {
    let (arg, rest) = ConfigArg::parse(argument)?;
    judge.found(arg.buffer_count < 2, Rule::BufferCount, arg.buffer_count);
    judge.found(arg.version != VERSION, Rule::ConfigVersion, arg.version);
    let sectors = arg.sector_count;
    judge.flag(sectors == 0, Rule::SectorCountZero);
    judge.found(sectors > 8 && !sectors.is_multiple_of(8), Rule::SectorCountOdd, sectors);
    if let Some(mtu) = mtu {
        let fit = mtu.saturating_sub(ATA_OVERHEAD) / SECTOR_BYTES;
        let broken = usize::from(sectors) > fit;
        judge.expected(broken, Rule::SectorCountFit, sectors, length(fit));
    }
    let len = usize::from(arg.string_len);
    let room = captured.wire_len.saturating_sub(HEADER_LEN + 8).min(CONFIG_STRING_MAX);
    if len > room {
        judge.expected(true, Rule::ConfigLength, length(len), length(room));
    } else {
        padding::answer(captured, HEADER_LEN + 8 + len, judge);
    }
    Some(Said::Config { arg, string: arg.string(rest) })
}

fn mask<'f>(
    header: &Header,
    argument: &'f [u8],
    captured: &Captured<'_>,
    judge: &mut Judge<'_>,
) -> Option<Said<'f>> {
    let (arg, rest) = MaskArg::parse(argument)?;
    let [first, ..] = argument.first_chunk::<4>()?;
    judge.found(*first != 0, Rule::ReservedBytes, *first);
    if let MaskError::Other(code) = arg.error {
        judge.say(Rule::MaskErrorUnknown, Detail::Found(code.into()));
    }
    // After a failed edit the count tells how far it came, and no list follows. [AoE 7.1]
    let listed = header.error.is_none() && arg.error == MaskError::None;
    let len = if listed { usize::from(arg.count).saturating_mul(8) } else { 0 };
    if !list_too_long(len, HEADER_LEN + 4, arg.count, captured, judge) {
        padding::answer(captured, HEADER_LEN + 4 + len, judge);
    }
    if listed && let Some(mut entries) = arg.directives(rest) {
        let directive = entries.any(|entry| entry.command != DirectiveCommand::None);
        judge.flag(directive, Rule::AnswerListed);
    }
    Some(Said::Other)
}

fn reserve<'f>(
    argument: &'f [u8],
    captured: &Captured<'_>,
    judge: &mut Judge<'_>,
) -> Option<Said<'f>> {
    let (arg, _) = ReserveArg::parse(argument)?;
    let len = usize::from(arg.count).saturating_mul(6);
    if !list_too_long(len, HEADER_LEN + 2, arg.count, captured, judge) {
        padding::answer(captured, HEADER_LEN + 2 + len, judge);
    }
    Some(Said::Other)
}
