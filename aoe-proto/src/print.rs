//! One line of text about any frame, for logs and for people.

use core::fmt;

use crate::ata::command::{self, AtaCommand, LbaWidth};
use crate::error::Refusal;
use crate::wire::{
    AtaArg, AtaFlags, Command, ConfigArg, ConfigCommand, Header, MaskArg, MaskCommand, MaskError,
    ReserveArg, ReserveCommand, VERSION,
};

/// Displays a received or built frame, however broken.
#[derive(Clone, Copy, Debug)]
pub struct PrintFrame<'f>(pub &'f [u8]);

/// Characters of a config string that are shown.
const STRING_SHOWN_MAX: usize = 64;

impl fmt::Display for PrintFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (header, argument) = match Header::parse(self.0) {
            Ok(parts) => parts,
            Err(Refusal::TooShort { len }) => return write!(f, "cut frame of {len} bytes"),
            Err(refusal) => return write!(f, "{refusal}"),
        };
        let kind = if header.response { "answer" } else { "request" };
        write!(f, "{} > {} {} {kind}", header.src, header.dst, header.address)?;
        write!(f, " tag {:08x}", u32::from_be_bytes(header.tag.0))?;
        if header.version != VERSION {
            write!(f, " version {}", header.version)?;
        }
        if let Some(error) = header.error {
            write!(f, " error {}: {error}", u8::from(error))?;
        }
        let shown = match header.command {
            Command::Ata => ata(f, header.response, argument),
            Command::Config => config(f, header.response, argument),
            Command::MacMask => mask(f, header.response, argument),
            Command::Reserve => reserve(f, argument),
            Command::Other(code) => return write!(f, " command {code}"),
        };
        shown.unwrap_or_else(|| f.write_str(" cut argument"))
    }
}

/// What a printer of an argument returns: `None` for one that is incomplete.
type Shown = Option<fmt::Result>;

fn ata(f: &mut fmt::Formatter<'_>, response: bool, argument: &[u8]) -> Shown {
    let (arg, data) = AtaArg::parse(argument)?;
    if response {
        let (status, error) = (arg.command_status, arg.error_feature);
        return Some(write!(
            f,
            " ata status {status:02x} error {error:02x} count {} data {}",
            arg.count,
            data.len()
        ));
    }
    let extended = arg.flags.contains(AtaFlags::EXTENDED);
    let lba = match AtaCommand::decode(arg.command_status) {
        AtaCommand::Read(LbaWidth::Lba28)
        | AtaCommand::Write { width: LbaWidth::Lba28, .. }
        | AtaCommand::Verify(LbaWidth::Lba28) => arg.lba28(),
        _ => arg.lba48(),
    };
    let named = match command::name(arg.command_status) {
        Some(name) => write!(f, " ata {name}"),
        None => write!(f, " ata opcode {:02x}", arg.command_status),
    };
    let flags = arg.flags.0;
    Some(named.and_then(|()| {
        let wide = if extended { " ext" } else { "" };
        write!(f, " lba {lba} count {} feature {:02x}", arg.count, arg.error_feature)?;
        write!(f, " flags {flags:02x}{wide} data {}", data.len())
    }))
}

fn config(f: &mut fmt::Formatter<'_>, response: bool, argument: &[u8]) -> Shown {
    let (arg, rest) = ConfigArg::parse(argument)?;
    let name = match arg.command {
        ConfigCommand::Read => "read",
        ConfigCommand::TestExact => "test",
        ConfigCommand::TestPrefix => "test prefix",
        ConfigCommand::Set => "set",
        ConfigCommand::ForceSet => "force set",
        ConfigCommand::Other(_) => "unknown",
    };
    let told = if response {
        let ConfigArg { buffer_count, firmware, sector_count, .. } = arg;
        write!(
            f,
            " config {name} buffers {buffer_count} sectors {sector_count} firmware {firmware:04x}"
        )
    } else {
        write!(f, " config {name}")
    };
    Some(told.and_then(|()| match arg.string(rest) {
        Some([]) => Ok(()),
        Some(string) => write!(f, " string \"{}\"", Shortened(string)),
        None => write!(f, " string of {} bytes, cut", arg.string_len),
    }))
}

fn mask(f: &mut fmt::Formatter<'_>, response: bool, argument: &[u8]) -> Shown {
    let (arg, _) = MaskArg::parse(argument)?;
    let name = match arg.command {
        MaskCommand::Read => "read",
        MaskCommand::Edit => "edit",
        MaskCommand::Other(_) => "unknown",
    };
    let told = write!(f, " mask {name} count {}", arg.count);
    Some(told.and_then(|()| match arg.error {
        MaskError::None => Ok(()),
        error if response => write!(f, " failed {}", u8::from(error)),
        _ => Ok(()),
    }))
}

fn reserve(f: &mut fmt::Formatter<'_>, argument: &[u8]) -> Shown {
    let (arg, _) = ReserveArg::parse(argument)?;
    let name = match arg.command {
        ReserveCommand::Read => "read",
        ReserveCommand::Set => "set",
        ReserveCommand::ForceSet => "force set",
        ReserveCommand::Other(_) => "unknown",
    };
    Some(write!(f, " reserve {name} count {}", arg.count))
}

/// The front of a string, with everything unprintable escaped: it comes from the network.
struct Shortened<'a>(&'a [u8]);

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let front = self.0.get(..STRING_SHOWN_MAX).unwrap_or(self.0);
        write!(f, "{}", front.escape_ascii())?;
        if front.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}
