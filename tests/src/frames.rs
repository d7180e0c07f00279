//! AoE frames put together by hand: the harness must not share a codec with the target.

/// A MAC address.
pub type Mac = [u8; 6];

/// The address of everybody.
pub const BROADCAST: Mac = [0xff; 6];
/// Length of the Ethernet header and the common AoE header.
pub const HEADER: usize = 24;
/// Length of an ATA frame without data.
pub const ATA: usize = 36;
/// Flag of a response.
pub const RESPONSE: u8 = 0x08;
/// Flag of an AoE-level error.
pub const ERROR: u8 = 0x04;

/// Commands of AoE.
pub mod command {
    /// ATA.
    pub const ATA: u8 = 0;
    /// Query config information.
    pub const CONFIG: u8 = 1;
    /// MAC mask list.
    pub const MAC_MASK: u8 = 2;
    /// Reserve/release.
    pub const RESERVE: u8 = 3;
}

/// The common header of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Destination.
    pub to: Mac,
    /// Source.
    pub from: Mac,
    /// Version in the high half, flags in the low half.
    pub version_flags: u8,
    /// Shelf address; all ones means every shelf.
    pub shelf: u16,
    /// Slot address; all ones means every slot.
    pub slot: u8,
    /// Command of AoE.
    pub command: u8,
    /// Returned by the target as it is.
    pub tag: u32,
}

impl Header {
    /// The header followed by `argument`.
    pub fn with(&self, argument: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + argument.len());
        frame.extend_from_slice(&self.to);
        frame.extend_from_slice(&self.from);
        frame.extend_from_slice(&crate::raw_socket::AOE.to_be_bytes());
        frame.extend_from_slice(&[self.version_flags, 0]);
        frame.extend_from_slice(&self.shelf.to_be_bytes());
        frame.extend_from_slice(&[self.slot, self.command]);
        frame.extend_from_slice(&self.tag.to_be_bytes());
        frame.extend_from_slice(argument);
        frame
    }
}

/// The registers of an ATA command.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// 0x40 for 48-bit commands, 0x01 if data travels to the target.
    pub flags: u8,
    /// Features.
    pub features: u8,
    /// Sectors.
    pub count: u8,
    /// Operation code.
    pub operation: u8,
    /// Sector index; 48 bits.
    pub lba: u64,
}

impl Registers {
    /// READ SECTORS EXT.
    pub fn read(lba: u64, count: u8) -> Self {
        Self { flags: 0x40, features: 0, count, operation: 0x24, lba }
    }

    /// WRITE SECTORS EXT.
    pub fn write(lba: u64, count: u8) -> Self {
        Self { flags: 0x41, features: 0, count, operation: 0x34, lba }
    }

    /// The argument of an ATA request: the registers, then `data`.
    pub fn with(&self, data: &[u8]) -> Vec<u8> {
        // Six bytes of LBA, two reserved.
        let lba = (self.lba & 0xffff_ffff_ffff).to_le_bytes();
        let mut argument = vec![self.flags, self.features, self.count, self.operation];
        argument.extend_from_slice(&lba);
        argument.extend_from_slice(data);
        argument
    }
}

/// The argument of a config request.
pub fn config(operation: u8, length: u16, text: &[u8]) -> Vec<u8> {
    let mut argument = vec![0, 0, 0, 0, 0, operation];
    argument.extend_from_slice(&length.to_be_bytes());
    argument.extend_from_slice(text);
    argument
}

/// A copy of `N` bytes of a frame.
pub fn field<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

/// Parses `02:c0:b1:ad:e0:01`.
pub fn parse_mac(text: &str) -> Mac {
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(part, 16).expect("a MAC has hexadecimal parts");
    }
    mac
}
