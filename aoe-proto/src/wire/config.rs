//! Command 1: Query/Config, bytes 24 to 32 and the config string. `[AoE 4]`

use crate::wire::code::codes;

/// Longest config string in bytes. `[AoE 4]`
pub const CONFIG_STRING_MAX: usize = 1024;
/// Bytes of the fixed part of the argument.
pub const CONFIG_ARG_LEN: usize = 8;

codes! {
    /// The `CCmd` nibble. `[AoE 4.1]`
    pub enum ConfigCommand {
        /// Respond with the string.
        Read = 0,
        /// Respond if the strings are equal.
        TestExact = 1,
        /// Respond if the argument is a prefix of the string.
        TestPrefix = 2,
        /// Set the string if it is empty.
        Set = 3,
        /// Set the string.
        ForceSet = 4,
    }
}

/// The fixed part of a Query/Config argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConfigArg {
    /// Messages the target can queue; zero in requests.
    pub buffer_count: u16,
    /// Firmware version of the target; zero in requests.
    pub firmware: u16,
    /// Most sectors per ATA command, 0 meaning 2; zero in requests.
    pub sector_count: u8,
    /// AoE version of a response, 0 in requests. Only the low four bits are sent.
    pub version: u8,
    /// What to do with the string.
    pub command: ConfigCommand,
    /// Length of the string that follows, in bytes, as the frame claims it.
    pub string_len: u16,
}

impl ConfigArg {
    /// Splits an argument into its fixed part and whatever follows, which may be shorter than the
    /// claimed string and may be padding. `None` if the fixed part is incomplete.
    #[inline]
    pub fn parse(argument: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = argument.split_first_chunk::<CONFIG_ARG_LEN>()?;
        let [b0, b1, f0, f1, sector_count, version_command, n0, n1] = *fixed;
        let arg = Self {
            buffer_count: u16::from_be_bytes([b0, b1]),
            firmware: u16::from_be_bytes([f0, f1]),
            sector_count,
            version: version_command >> 4,
            command: (version_command & 0x0f).into(),
            string_len: u16::from_be_bytes([n0, n1]),
        };
        Some((arg, rest))
    }

    /// The claimed string within what follows the fixed part. `None` if it is longer than
    /// [`CONFIG_STRING_MAX`] or than what arrived. `[AoE 4.1]`
    #[inline]
    pub fn string<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let len = usize::from(self.string_len);
        if len > CONFIG_STRING_MAX { None } else { rest.get(..len) }
    }

    /// The 8 bytes of the fixed part.
    #[inline]
    pub fn to_bytes(&self) -> [u8; CONFIG_ARG_LEN] {
        let [b0, b1] = self.buffer_count.to_be_bytes();
        let [f0, f1] = self.firmware.to_be_bytes();
        let version_command = (self.version & 0x0f) << 4 | (u8::from(self.command) & 0x0f);
        let [n0, n1] = self.string_len.to_be_bytes();
        [b0, b1, f0, f1, self.sector_count, version_command, n0, n1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 11] = [0x01, 0x02, 0x40, 0x19, 0x11, 0x13, 0x00, 0x03, b'a', b'b', b'c'];

    #[test]
    fn both_directions() {
        let (arg, rest) = ConfigArg::parse(&BYTES).unwrap();
        let expected = ConfigArg {
            buffer_count: 0x0102,
            firmware: 0x4019,
            sector_count: 0x11,
            version: 1,
            command: ConfigCommand::Set,
            string_len: 3,
        };
        assert_eq!(arg, expected);
        assert_eq!(arg.string(rest), Some(&b"abc"[..]));
        assert_eq!(arg.to_bytes(), BYTES[..8]);
        assert_eq!(ConfigArg::parse(&BYTES[..7]), None);
    }

    #[test]
    fn lengths_that_lie() {
        let arg = |string_len| ConfigArg { string_len, ..ConfigArg::parse(&BYTES).unwrap().0 };
        assert_eq!(arg(4).string(b"abc"), None);
        assert_eq!(arg(0).string(b"abc"), Some(&b""[..]));
        assert_eq!(arg(1024).string(&[7; 2000]).map(<[u8]>::len), Some(1024));
        assert_eq!(arg(1025).string(&[7; 2000]), None);
        assert_eq!(arg(u16::MAX).string(&[7; 2000]), None);
    }
}
