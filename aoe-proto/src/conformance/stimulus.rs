//! What is sent: a template of a frame, honest by default, in which every part can be replaced.

use super::prelude::ccmd;
use super::value::{Group, Value, Who};
use crate::ata::command::AtaCommand;

/// A frame to be sent. [`super::prelude`] makes the honest ones; the methods here bend them.
#[derive(Clone, Copy, Debug)]
pub struct Stimulus {
    /// Destination.
    pub to: Who,
    /// Source.
    pub from: Who,
    /// VLAN tag, if any; 0 is a priority tag.
    pub vlan: Option<u16>,
    /// Version nibble.
    pub version: u8,
    /// Flag nibble.
    pub flags: u8,
    /// Error byte.
    pub error: u8,
    /// Shelf.
    pub shelf: Part,
    /// Slot.
    pub slot: Part,
    /// Command byte.
    pub command: u8,
    /// A given tag instead of a fresh one. Its answers cannot be told from late ones to the same
    /// tag, so give it only where the tag is the point.
    pub tag: Option<u32>,
    /// What follows the common header.
    pub argument: Argument,
    /// What follows that.
    pub tail: Tail,
    /// Where the frame ends.
    pub cut: Cut,
}

/// Shelf or slot of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// That of the target.
    Own,
    /// The wildcard.
    All,
    /// That of somebody else.
    Other,
}

/// What follows the common header.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// These bytes.
    Bytes(&'static [u8]),
    /// Command 0.
    Ata(Ata),
    /// Command 1.
    Config(Config),
    /// Command 2.
    Mask(Mask),
    /// Command 3.
    Reserve(Reserve),
}

/// The registers of a request, and its data.
#[derive(Clone, Copy, Debug)]
pub struct Ata {
    /// `AFlags`.
    pub flags: u8,
    /// Features register.
    pub feature: u8,
    /// Sector Count register.
    pub count: Value,
    /// Command register.
    pub opcode: u8,
    /// Whether a target without 48-bit commands is sent the 28-bit form instead (READ and WRITE
    /// EXT only): for cases whose point is something else.
    pub adapts: bool,
    /// LBA registers.
    pub lba: Value,
    /// Bits to set in the LBA registers on top, such as 0xE0 in the fourth.
    pub lba_extra: [u8; 6],
    /// What follows.
    pub data: Data,
}

/// The data of an ATA request.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// None.
    None,
    /// [`pattern`](super::pattern) of that many sectors, from the LBA of the request on.
    Pattern {
        /// Name of the pattern.
        seed: u8,
        /// Number of sectors.
        sectors: Value,
    },
    /// Zeros.
    Zeros {
        /// Number of sectors.
        sectors: Value,
    },
    /// One sector of TRIM ranges (LBA, count), the rest of them unused.
    Trim(&'static [(Value, Value)]),
}

/// A Query/Config argument.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Buffer count, firmware version and sector count, to be ignored by targets.
    pub head: [u8; 5],
    /// Byte 29: version nibble and `CCmd`.
    pub ccmd: u8,
    /// Length as the frame claims it, if that is not the truth.
    pub claims: Option<u16>,
    /// The string.
    pub text: Text,
}

/// A config string.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Text {
    /// These bytes.
    Is(&'static [u8]),
    /// That many letters.
    Letters(u16),
}

impl Text {
    /// Length in bytes.
    pub const fn len(self) -> usize {
        match self {
            Self::Is(bytes) => bytes.len(),
            Self::Letters(count) => count as usize,
        }
    }

    /// Whether it has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The byte at `index`.
    pub fn at(self, index: usize) -> Option<u8> {
        match self {
            Self::Is(bytes) => bytes.get(index).copied(),
            Self::Letters(count) => {
                let letter = u8::try_from(index % 26).unwrap_or(0);
                (index < usize::from(count)).then(|| b'a'.saturating_add(letter))
            }
        }
    }
}

/// A MAC mask argument.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    /// `MCmd`.
    pub mcmd: u8,
    /// `MError`, to be ignored by targets.
    pub merror: u8,
    /// Count as the frame claims it, if that is not the truth.
    pub claims: Option<u8>,
    /// The directives.
    pub directives: Directives,
}

/// The directives of a MAC mask argument.
#[derive(Clone, Copy, Debug)]
pub enum Directives {
    /// `DCmd` and address of each.
    Each(&'static [(u8, Who)]),
    /// One `DCmd` for a group.
    All(u8, Group),
}

impl Directives {
    /// How many.
    pub const fn len(self) -> usize {
        match self {
            Self::Each(list) => list.len(),
            Self::All(_, group) => group.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The one at `index`.
    pub fn at(self, index: usize) -> Option<(u8, Who)> {
        match self {
            Self::Each(list) => list.get(index).copied(),
            Self::All(dcmd, group) => Some((dcmd, group.at(index)?)),
        }
    }
}

/// A Reserve/Release argument.
#[derive(Clone, Copy, Debug)]
pub struct Reserve {
    /// `RCmd`.
    pub rcmd: u8,
    /// Count as the frame claims it, if that is not the truth.
    pub claims: Option<u8>,
    /// The holders.
    pub holders: Group,
}

/// The byte that fills what no target should look at, and no answer should contain.
pub const JUNK: u8 = 0xee;

/// What follows the argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tail {
    /// Zeros up to the 60 bytes of an Ethernet frame.
    Pad,
    /// Nothing, as on virtual links.
    None,
    /// That many bytes of [`JUNK`], and more up to 60.
    Junk(u16),
}

/// Where the frame ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// At its end.
    Nowhere,
    /// After that many bytes, counted from the destination address (without a VLAN tag).
    At(u16),
    /// That many bytes before its end.
    Short(u16),
}

impl Stimulus {
    /// An honest request to the target with this command and argument.
    pub const fn new(command: u8, argument: Argument) -> Self {
        Self {
            to: Who::Target,
            from: Who::Own,
            vlan: None,
            version: 1,
            flags: 0,
            error: 0,
            shelf: Part::Own,
            slot: Part::Own,
            command,
            tag: None,
            argument,
            tail: Tail::Pad,
            cut: Cut::Nowhere,
        }
    }

    /// Another destination.
    #[must_use]
    pub const fn to(self, to: Who) -> Self {
        Self { to, ..self }
    }

    /// Another source.
    #[must_use]
    pub const fn from(self, from: Who) -> Self {
        Self { from, ..self }
    }

    /// Inside a VLAN.
    #[must_use]
    pub const fn vlan(self, id: u16) -> Self {
        Self { vlan: Some(id), ..self }
    }

    /// Another protocol version.
    #[must_use]
    pub const fn version(self, version: u8) -> Self {
        Self { version, ..self }
    }

    /// Flags: 8 is R, 4 is E.
    #[must_use]
    pub const fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// An error byte.
    #[must_use]
    pub const fn error(self, error: u8) -> Self {
        Self { error, ..self }
    }

    /// Another shelf and slot.
    #[must_use]
    pub const fn address(self, wanted_shelf: Part, slot: Part) -> Self {
        Self { shelf: wanted_shelf, slot, ..self }
    }

    /// To every shelf and slot, by the broadcast MAC address.
    #[must_use]
    pub const fn to_all(self) -> Self {
        Self { to: Who::Broadcast, shelf: Part::All, slot: Part::All, ..self }
    }

    /// Whether it changes a target that looks at nothing but command and operation.
    pub(super) const fn may_change(&self) -> bool {
        match self.argument {
            Argument::Ata(ata) => AtaCommand::decode(ata.opcode).changes_disk(),
            Argument::Config(config) => matches!(config.ccmd & 0x0f, ccmd::SET | ccmd::FORCE),
            Argument::Mask(mask) => mask.mcmd != 0,
            Argument::Reserve(reserve) => reserve.rcmd != 0,
            Argument::Bytes(_) => false,
        }
    }

    /// A given tag.
    #[must_use]
    pub const fn tag(self, tag: u32) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// Without padding.
    #[must_use]
    pub const fn unpadded(self) -> Self {
        Self { tail: Tail::None, ..self }
    }

    /// With junk behind the argument.
    #[must_use]
    pub const fn junk(self, len: u16) -> Self {
        Self { tail: Tail::Junk(len), ..self }
    }

    /// Cut after that many bytes.
    #[must_use]
    pub const fn cut_at(self, len: u16) -> Self {
        Self { cut: Cut::At(len), ..self }
    }

    /// Cut that many bytes before the end, without padding.
    #[must_use]
    pub const fn short_by(self, len: u16) -> Self {
        Self { cut: Cut::Short(len), tail: Tail::None, ..self }
    }

    /// A claim about the length of the config string, the number of directives or of holders.
    #[must_use]
    pub const fn claims(self, len: u16) -> Self {
        let [_, byte] = len.to_be_bytes();
        let argument = match self.argument {
            Argument::Config(config) => Argument::Config(Config { claims: Some(len), ..config }),
            Argument::Mask(mask) => Argument::Mask(Mask { claims: Some(byte), ..mask }),
            Argument::Reserve(reserve) => {
                Argument::Reserve(Reserve { claims: Some(byte), ..reserve })
            }
            other => other,
        };
        Self { argument, ..self }
    }

    /// Other ATA flags.
    #[must_use]
    pub const fn ata_flags(self, flags: u8) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { flags, ..ata }),
            _ => self,
        }
    }

    /// Another Features register.
    #[must_use]
    pub const fn feature(self, feature: u8) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { feature, ..ata }),
            _ => self,
        }
    }

    /// Another Sector Count register.
    #[must_use]
    pub const fn count(self, count: Value) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { count, ..ata }),
            _ => self,
        }
    }

    /// Other LBA registers.
    #[must_use]
    pub const fn lba(self, lba: Value) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { lba, ..ata }),
            _ => self,
        }
    }

    /// Bits to set in the LBA registers on top.
    #[must_use]
    pub const fn lba_extra(self, lba_extra: [u8; 6]) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { lba_extra, ..ata }),
            _ => self,
        }
    }

    /// Other data.
    #[must_use]
    pub const fn data(self, data: Data) -> Self {
        match self.argument {
            Argument::Ata(ata) => self.with(Ata { data, ..ata }),
            _ => self,
        }
    }

    const fn with(self, ata: Ata) -> Self {
        Self { argument: Argument::Ata(ata), ..self }
    }
}
