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
