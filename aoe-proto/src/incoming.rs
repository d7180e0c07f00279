//! What a frame has to pass before any target looks at it, done once per frame. `[AoE 10 step 1]`

use crate::error::Refusal;
use crate::wire::{Address, AddressPattern, Command, HEADER_LEN, Header, Mac, Tag};

/// A request that an interface may answer: long enough, an AoE request, from an address that can be
/// answered, and sent to this interface or to everybody.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'f> {
    header: Header,
    own_mac: Mac,
    argument: &'f [u8],
}

impl<'f> Incoming<'f> {
    /// Checks a received frame (without frame check sequence and VLAN tag) for the interface whose
    /// address is `own_mac`.
    ///
    /// # Errors
    /// The first of these that applies: too short, another Ethernet type, a response, a source that
    /// is no unicast address or is our own, another destination. All are to be dropped silently.
    #[inline]
    pub fn parse(frame: &'f [u8], own_mac: Mac) -> Result<Self, Refusal> {
        let (header, argument) = Header::parse(frame)?;
        if header.response {
            return Err(Refusal::Response);
        }
        if !header.src.is_unicast() || header.src == own_mac {
            return Err(Refusal::BadSource);
        }
        if header.dst != own_mac && header.dst != Mac::BROADCAST {
            return Err(Refusal::OtherHost);
        }
        Ok(Self { header, own_mac, argument })
    }

    /// The initiator, to which the answer goes.
    #[inline]
    pub const fn src(&self) -> Mac {
        self.header.src
    }

    /// Our address or broadcast.
    #[inline]
    pub const fn dst(&self) -> Mac {
        self.header.dst
    }

    /// The address of the receiving interface, from which the answer goes.
    #[inline]
    pub const fn own_mac(&self) -> Mac {
        self.own_mac
    }

    /// The shelf and slot asked for.
    #[inline]
    pub const fn address(&self) -> AddressPattern {
        self.header.address
    }

    /// What is asked.
    #[inline]
    pub const fn command(&self) -> Command {
        self.header.command
    }

    /// The tag, opaque to a target.
    #[inline]
    pub const fn tag(&self) -> Tag {
        self.header.tag
    }

    /// The version nibble, which is not checked here.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.header.version
    }

    /// Length of the whole frame in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a request always has a header")]
    pub const fn len(&self) -> usize {
        self.argument.len().saturating_add(HEADER_LEN)
    }

    /// Everything behind the common header, with any padding.
    #[inline]
    pub const fn argument(&self) -> &'f [u8] {
        self.argument
    }
}

/// Another machine's response. One that carries our address means two servers export one address,
/// which corrupts data: Linux writes to both in turn. `[AoE 8.1]`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForeignAnswer {
    /// The machine that answers.
    pub src: Mac,
    /// The address it claims.
    pub address: Address,
    /// What it answers.
    pub command: Command,
}

impl ForeignAnswer {
    /// Looks for a response of another machine, whoever it is sent to. `None` for everything else.
    #[inline]
    pub fn parse(frame: &[u8], own_mac: Mac) -> Option<Self> {
        let (header, _) = Header::parse(frame).ok()?;
        if !header.response || header.src == own_mac {
            return None;
        }
        let address = header.address.exact()?;
        Some(Self { src: header.src, address, command: header.command })
    }
}
