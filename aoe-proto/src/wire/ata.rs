//! Command 0: the ATA registers, bytes 24 to 36 of a frame. `[AoE 5]`

/// Offset of the data in an ATA frame: both headers and the registers.
pub const ATA_DATA_OFFSET: usize = 36;
/// Bytes of the register block.
pub const ATA_ARG_LEN: usize = 12;

/// The `AFlags` byte. `[AoE 5.1]`
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct AtaFlags(pub u8);

impl AtaFlags {
    /// Extended: an LBA48 command.
    pub const EXTENDED: Self = Self(0x40);
    /// The old drive-select bit; without meaning here.
    pub const DEVICE: Self = Self(0x10);
    /// The answer may precede the medium. A hint, ignored.
    pub const ASYNC: Self = Self(0x02);
    /// Data travels from the initiator to the target.
    pub const WRITE: Self = Self(0x01);

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The register block, in a request or a response.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AtaArg {
    /// E, D, A and W.
    pub flags: AtaFlags,
    /// Features register of a request, Error register of a response.
    pub error_feature: u8,
    /// Sectors asked for, or sectors not transferred.
    pub count: u8,
    /// Command register of a request, Status register of a response.
    pub command_status: u8,
    /// The LBA registers, bits 7:0 first.
    pub lba: [u8; 6],
}

impl AtaArg {
    /// Splits an argument into its registers and its data (with any padding). `None` if shorter
    /// than the registers.
    #[inline]
    pub fn parse(argument: &[u8]) -> Option<(Self, &[u8])> {
        let (registers, data) = argument.split_first_chunk::<ATA_ARG_LEN>()?;
        let [flags, error_feature, count, command_status, l0, l1, l2, l3, l4, l5, _, _] =
            *registers;
        let arg = Self {
            flags: AtaFlags(flags),
            error_feature,
            count,
            command_status,
            lba: [l0, l1, l2, l3, l4, l5],
        };
        Some((arg, data))
    }

    /// The 12 bytes, the reserved two zero.
    #[inline]
    pub const fn to_bytes(&self) -> [u8; ATA_ARG_LEN] {
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        let Self { flags, error_feature, count, command_status, .. } = *self;
        [flags.0, error_feature, count, command_status, l0, l1, l2, l3, l4, l5, 0, 0]
    }

    /// The LBA of a 48-bit command: all six registers. `[AoE 5.2]`
    #[inline]
    pub const fn lba48(&self) -> u64 {
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0])
    }

    /// The LBA of a 28-bit command. The high nibble of the fourth register is the old device
    /// register (Linux puts 0xE0 there) and the last two registers do not count. `[AoE 5.2]`
    #[inline]
    pub const fn lba28(&self) -> u64 {
        let [l0, l1, l2, l3, _, _] = self.lba;
        u64::from_le_bytes([l0, l1, l2, l3 & 0x0f, 0, 0, 0, 0])
    }

    /// The registers for an LBA below 2^48; higher bits are cut off.
    #[inline]
    pub const fn lba_registers(lba: u64) -> [u8; 6] {
        let [l0, l1, l2, l3, l4, l5, _, _] = lba.to_le_bytes();
        [l0, l1, l2, l3, l4, l5]
    }
}

/// One entry of DATA SET MANAGEMENT data: LBA and number of sectors, little-endian. `[AoE 5.5]`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TrimEntry {
    /// First sector, 48 bits.
    pub lba: u64,
    /// Number of sectors; 0 marks an unused entry.
    pub count: u16,
}

impl TrimEntry {
    /// Bytes of an entry.
    pub const LEN: usize = 8;

    /// Reads an entry.
    #[inline]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [l0, l1, l2, l3, l4, l5, c0, c1] = bytes;
        Self {
            lba: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]),
            count: u16::from_le_bytes([c0, c1]),
        }
    }

    /// The 8 bytes; LBA bits above 47 are cut off.
    #[inline]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let [l0, l1, l2, l3, l4, l5, _, _] = self.lba.to_le_bytes();
        let [c0, c1] = self.count.to_le_bytes();
        [l0, l1, l2, l3, l4, l5, c0, c1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 14] =
        [0x41, 0x01, 0x02, 0x34, 0x10, 0x20, 0x30, 0xe4, 0x50, 0x60, 0x99, 0x99, 0xaa, 0xbb];

    #[test]
    fn both_directions() {
        let (arg, data) = AtaArg::parse(&BYTES).unwrap();
        assert!(arg.flags.contains(AtaFlags::EXTENDED.union(AtaFlags::WRITE)));
        assert!(!arg.flags.contains(AtaFlags::ASYNC));
        assert_eq!((arg.error_feature, arg.count, arg.command_status), (1, 2, 0x34));
        assert_eq!(arg.lba48(), 0x6050_e430_2010);
        assert_eq!(arg.lba28(), 0x0430_2010);
        assert_eq!(data, [0xaa, 0xbb]);
        let mut expected = BYTES;
        expected[10..12].fill(0);
        assert_eq!(arg.to_bytes(), expected[..12], "reserved bytes are zero");
        assert_eq!(AtaArg::lba_registers(0xffff_6050_e430_2010), arg.lba);
        assert_eq!(AtaArg::parse(&BYTES[..11]), None);
    }

    #[test]
    fn trim_entries_are_little_endian() {
        let bytes = [6, 5, 4, 3, 2, 1, 0x02, 0x01];
        let entry = TrimEntry { lba: 0x0102_0304_0506, count: 0x0102 };
        assert_eq!(TrimEntry::from_bytes(bytes), entry);
        assert_eq!(entry.to_bytes(), bytes);
    }
}
