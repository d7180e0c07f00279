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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn print(version_flags: u8, error: u8, command: u8, argument: &[u8]) -> String {
        let mut frame = Vec::from(*b"\x02\0\0\0\0\x01\x02\0\0\0\0\x0a\x88\xa2");
        frame.extend_from_slice(&[version_flags, error, 0, 7, 3, command, 1, 2, 3, 4]);
        frame.extend_from_slice(argument);
        let text = PrintFrame(&frame).to_string();
        let front = "02:00:00:00:00:0a > 02:00:00:00:00:01 e7.3 ";
        String::from(text.strip_prefix(front).unwrap())
    }

    #[test]
    fn every_kind_of_frame() {
        let read = [0x40, 0, 2, 0x24, 5, 0, 0, 0, 1, 0, 0, 0];
        let write = [0x01, 0, 1, 0x30, 5, 0, 0, 0xe0, 0xff, 0xff, 0, 0, 9, 9];
        let config = [0, 16, 0x40, 0x19, 2, 0x13, 0, 3, b'a', b'"', 0xff];
        for (text, expected) in [
            (
                print(0x10, 0, 0, &read),
                "request tag 01020304 ata READ EXT lba 4294967301 count 2 feature 00 flags 40 ext data 0",
            ),
            (
                print(0x10, 0, 0, &write),
                "request tag 01020304 ata WRITE lba 5 count 1 feature 00 flags 01 data 2",
            ),
            (
                print(0x10, 0, 0, &[0, 0, 0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0]),
                "request tag 01020304 ata opcode fe lba 0 count 0 feature 00 flags 00 data 0",
            ),
            (
                print(0x18, 0, 0, &[0x40, 4, 2, 0x41, 0, 0, 0, 0, 0, 0, 0, 0]),
                "answer tag 01020304 ata status 41 error 04 count 2 data 0",
            ),
            (
                print(0x1c, 4, 1, &config),
                "answer tag 01020304 error 4: config string present config set buffers 16 sectors 2 firmware 4019 string \"a\\\"\\xff\"",
            ),
            (
                print(0x20, 0, 1, &[0, 0, 0, 0, 0, 2, 0, 9]),
                "request tag 01020304 version 2 config test prefix string of 9 bytes, cut",
            ),
            (print(0x10, 0, 1, &[0; 8]), "request tag 01020304 config read"),
            (print(0x18, 0, 2, &[0, 1, 3, 2]), "answer tag 01020304 mask edit count 2 failed 3"),
            (print(0x10, 0, 3, &[2, 1]), "request tag 01020304 reserve force set count 1"),
            (print(0x10, 0, 77, &[]), "request tag 01020304 command 77"),
            (print(0x10, 0, 0, &[1, 2]), "request tag 01020304 cut argument"),
        ] {
            assert_eq!(text, expected);
        }
        assert_eq!(PrintFrame(&[0; 3]).to_string(), "cut frame of 3 bytes");
        assert_eq!(PrintFrame(&[0; 60]).to_string(), "Ethernet type 0x0000 is not AoE");
    }

    #[test]
    fn long_strings_are_shortened() {
        let mut argument = Vec::from([0, 0, 0, 0, 0, 3, 0, 100]);
        argument.resize(108, b'x');
        assert!(print(0x10, 0, 1, &argument).ends_with("xxx...\""));
    }
}
