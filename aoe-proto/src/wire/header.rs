//! The Ethernet header and the common AoE header: the first 24 bytes of every frame.
//!
//! ```text
//!  0       6       12    14       15    16    18    19      20   24
//!  | dst   | src   | type| ver/fl | err | Major| Min | cmd  | tag | argument...
//! ```

use crate::error::Refusal;
use crate::wire::addr::{AddressPattern, Mac};
use crate::wire::code::codes;

/// The Ethernet type of AoE. `[AoE 1]`
pub const ETHERTYPE: u16 = 0x88a2;
/// Bytes of the Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of the Ethernet and common headers together.
pub const HEADER_LEN: usize = 24;
/// Shortest frame sent, without the frame check sequence. `[AoE 2.7]`
pub const FRAME_LEN_MIN: usize = 60;
/// The only protocol version. `[AoE 2.2]`
pub const VERSION: u8 = 1;

const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;

/// The opaque tag of a request, copied into its response. `[AoE 2.6]`
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Tag(pub [u8; 4]);

codes! {
    /// What a frame asks for. `[AoE 3]`
    pub enum Command {
        /// Issue an ATA command.
        Ata = 0,
        /// Query or set the configuration.
        Config = 1,
        /// Read or edit the MAC mask list.
        MacMask = 2,
        /// Read or change the reservation.
        Reserve = 3,
    }
}

codes! {
    /// The error codes of a response whose E flag is set. `[AoE 2.3]`
    pub enum AoeError {
        /// Unrecognised command code.
        UnrecognizedCommand = 1,
        /// Bad argument parameter.
        BadArgument = 2,
        /// Device unavailable.
        DeviceUnavailable = 3,
        /// Config string present.
        ConfigStringPresent = 4,
        /// Unsupported version.
        UnsupportedVersion = 5,
        /// Target is reserved.
        TargetReserved = 6,
    }
}

impl core::fmt::Display for AoeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnrecognizedCommand => f.write_str("unrecognised command code"),
            Self::BadArgument => f.write_str("bad argument parameter"),
            Self::DeviceUnavailable => f.write_str("device unavailable"),
            Self::ConfigStringPresent => f.write_str("config string present"),
            Self::UnsupportedVersion => f.write_str("unsupported version"),
            Self::TargetReserved => f.write_str("target is reserved"),
            Self::Other(code) => write!(f, "error {code}"),
        }
    }
}

/// The first 24 bytes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Version nibble, 1 in everything legal. Only the low four bits are sent.
    pub version: u8,
    /// The R flag.
    pub response: bool,
    /// The error code when the E flag is set; the error byte of other frames means nothing.
    pub error: Option<AoeError>,
    /// Shelf and slot, wildcards included.
    pub address: AddressPattern,
    /// What is asked or answered.
    pub command: Command,
    /// Copied from request to response.
    pub tag: Tag,
}

impl Header {
    /// Splits a frame into its header and its argument (with any padding).
    ///
    /// # Errors
    /// [`Refusal::TooShort`] and [`Refusal::NotAoe`].
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Refusal> {
        let short = Refusal::TooShort { len: frame.len() };
        let (ethernet, rest) = frame.split_first_chunk::<ETHERNET_LEN>().ok_or(short)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
        let ethertype = u16::from_be_bytes([t0, t1]);
        if ethertype != ETHERTYPE {
            return Err(Refusal::NotAoe { ethertype });
        }
        let (common, argument) = rest.split_first_chunk::<10>().ok_or(short)?;
        let [version_flags, error, major0, major1, minor, command, g0, g1, g2, g3] = *common;
        let header = Self {
            dst: Mac([d0, d1, d2, d3, d4, d5]),
            src: Mac([s0, s1, s2, s3, s4, s5]),
            version: version_flags >> 4,
            response: version_flags & FLAG_RESPONSE != 0,
            error: (version_flags & FLAG_ERROR != 0).then(|| error.into()),
            address: AddressPattern { shelf: u16::from_be_bytes([major0, major1]), slot: minor },
            command: command.into(),
            tag: Tag([g0, g1, g2, g3]),
        };
        Ok((header, argument))
    }

    /// The 24 bytes, reserved flags zero.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [d0, d1, d2, d3, d4, d5] = self.dst.0;
        let [s0, s1, s2, s3, s4, s5] = self.src.0;
        let [t0, t1] = ETHERTYPE.to_be_bytes();
        let response = if self.response { FLAG_RESPONSE } else { 0 };
        let (error_flag, error) = self.error.map_or((0, 0), |code| (FLAG_ERROR, code.into()));
        let flags = (self.version & 0x0f) << 4 | response | error_flag;
        let [major0, major1] = self.address.shelf.to_be_bytes();
        let [g0, g1, g2, g3] = self.tag.0;
        [
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            t0,
            t1,
            flags,
            error,
            major0,
            major1,
            self.address.slot,
            self.command.into(),
            g0,
            g1,
            g2,
            g3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response of e258.3 with error 6, to every field its own value.
    const FRAME: [u8; 26] = [
        0x02, 0x11, 0x12, 0x13, 0x14, 0x15, 0x02, 0x21, 0x22, 0x23, 0x24, 0x25, 0x88, 0xa2, 0x1c,
        0x06, 0x01, 0x02, 0x03, 0x01, 0xde, 0xad, 0xbe, 0xef, 0x77, 0x78,
    ];

    fn header() -> Header {
        Header {
            dst: Mac([0x02, 0x11, 0x12, 0x13, 0x14, 0x15]),
            src: Mac([0x02, 0x21, 0x22, 0x23, 0x24, 0x25]),
            version: 1,
            response: true,
            error: Some(AoeError::TargetReserved),
            address: AddressPattern { shelf: 0x0102, slot: 3 },
            command: Command::Config,
            tag: Tag([0xde, 0xad, 0xbe, 0xef]),
        }
    }

    #[test]
    fn both_directions() {
        let (parsed, argument) = Header::parse(&FRAME).unwrap();
        assert_eq!(parsed, header());
        assert_eq!(argument, [0x77, 0x78]);
        assert_eq!(header().to_bytes(), FRAME[..24]);
    }

    #[test]
    fn an_error_byte_without_the_flag_means_nothing() {
        let mut frame = FRAME;
        frame[14] = 0x23;
        let (parsed, _) = Header::parse(&frame).unwrap();
        assert_eq!((parsed.version, parsed.response, parsed.error), (2, false, None));
        assert_eq!(parsed.to_bytes()[14..16], [0x20, 0]);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..24 {
            assert_eq!(Header::parse(&FRAME[..len]), Err(Refusal::TooShort { len }));
        }
        assert_eq!(Header::parse(&FRAME[..24]).unwrap().1, []);
    }

    #[test]
    fn another_ethernet_type() {
        let mut frame = FRAME;
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(Header::parse(&frame), Err(Refusal::NotAoe { ethertype: 0x0800 }));
        assert_eq!(Header::parse(&frame[..14]), Err(Refusal::NotAoe { ethertype: 0x0800 }));
    }

    #[test]
    fn codes_have_their_numbers() {
        for (code, command) in
            [(0, Command::Ata), (1, Command::Config), (2, Command::MacMask), (3, Command::Reserve)]
        {
            assert_eq!((Command::from(code), u8::from(command)), (command, code));
        }
        assert_eq!(Command::from(4), Command::Other(4));
        for code in 0..=u8::MAX {
            assert_eq!(u8::from(Command::from(code)), code);
            assert_eq!(u8::from(AoeError::from(code)), code);
        }
        assert_eq!(AoeError::from(4), AoeError::ConfigStringPresent);
        assert_eq!(AoeError::from(5), AoeError::UnsupportedVersion);
    }
}
