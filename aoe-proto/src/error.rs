//! Why a frame was refused, and what can go wrong while emitting or configuring.

use core::fmt;

/// Why a received frame is not answered. Never sent on the wire; for counters and logs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// Shorter than the 24 bytes of the common header, or than the Ethernet header. `[AoE 2.7]`
    TooShort {
        /// Received length in bytes.
        len: usize,
    },
    /// The Ethernet type is not 0x88A2.
    NotAoe {
        /// The type found at byte 12.
        ethertype: u16,
    },
    /// A response where a request is expected. `[AoE 2.1 rule 1]`
    Response,
    /// A request where a response is expected.
    Request,
    /// The source is zero, multicast, broadcast or our own address. `[AoE 2.5]`
    BadSource,
    /// The destination is neither broadcast nor our address. `[AoE 2.4]`
    OtherHost,
    /// The shelf or slot is not ours. `[AoE 2.4]`
    OtherAddress,
    /// The source is missing from the target's non-empty MAC mask list. `[AoE 7.1]`
    Masked,
    /// The version is not 1, and the target is set to stay silent or the address is a wildcard.
    /// `[AoE 2.2]`
    Version {
        /// The version nibble received.
        version: u8,
    },
    /// The argument header of the command is incomplete. `[AoE 2.7]`
    ShortArgument {
        /// Received length of the whole frame in bytes.
        len: usize,
    },
    /// A wildcard address on a command that would change state. `[AoE 2.4]`
    WildcardChange,
    /// A config string test that does not match, which is answered by silence. `[AoE 4.1]`
    ConfigMismatch,
    /// The tag of a response belongs to no outstanding request of this initiator.
    UnknownTag,
    /// The response came from another machine than the one the request was sent to.
    OtherSource,
    /// The response carries another command than its request.
    OtherCommand,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len } => write!(f, "frame of {len} bytes is too short"),
            Self::NotAoe { ethertype } => write!(f, "Ethernet type {ethertype:#06x} is not AoE"),
            Self::Response => f.write_str("a response, not a request"),
            Self::Request => f.write_str("a request, not a response"),
            Self::BadSource => f.write_str("the source address cannot be answered"),
            Self::OtherHost => f.write_str("sent to another host"),
            Self::OtherAddress => f.write_str("another shelf or slot"),
            Self::Masked => f.write_str("the source is not in the MAC mask list"),
            Self::Version { version } => write!(f, "unsupported AoE version {version}"),
            Self::ShortArgument { len } => {
                write!(f, "frame of {len} bytes ends inside its argument")
            }
            Self::WildcardChange => f.write_str("a change sent to a wildcard address"),
            Self::ConfigMismatch => f.write_str("the config string does not match"),
            Self::UnknownTag => f.write_str("the tag belongs to no outstanding request"),
            Self::OtherSource => f.write_str("answered by another machine"),
            Self::OtherCommand => f.write_str("answers another command"),
        }
    }
}

impl core::error::Error for Refusal {}

/// The caller's buffer cannot hold the frame. Nothing useful was written to it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BufferTooSmall {
    /// Bytes the frame needs.
    pub needed: usize,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the frame needs a buffer of {} bytes", self.needed)
    }
}

impl core::error::Error for BufferTooSmall {}

/// Text that is not what was expected.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum TextError {
    /// Not six hexadecimal pairs separated by colons.
    Mac,
    /// Not `SHELF.SLOT` or `eSHELF.SLOT` with a shelf of 0..=65534 and a slot of 0..=254.
    Address,
    /// More characters than the IDENTIFY field holds.
    TooLong {
        /// Characters the field holds.
        max: usize,
    },
    /// A character outside printable ASCII, which IDENTIFY strings cannot carry. `[ACS-3 3.3.10]`
    NotPrintable,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac => f.write_str("expected a MAC address such as 02:00:00:00:00:01"),
            Self::Address => f.write_str(
                "expected SHELF.SLOT such as 7.3, with a shelf of 0 to 65534 and a slot of 0 to 254",
            ),
            Self::TooLong { max } => write!(f, "longer than {max} characters"),
            Self::NotPrintable => f.write_str("only printable ASCII characters are possible"),
        }
    }
}

impl core::error::Error for TextError {}
