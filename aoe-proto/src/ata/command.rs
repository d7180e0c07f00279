//! ATA opcodes, and which of them a target over AoE serves. `[AoE 5.5]`

use crate::wire::ata::{AtaArg, AtaFlags};

/// Opcodes by their names in the standard. `[ACS-3 7]`
#[expect(missing_docs, reason = "the names are those of the standard")]
pub mod opcode {
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const READ_SECTORS: u8 = 0x20;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const WRITE_SECTORS: u8 = 0x30;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const READ_VERIFY: u8 = 0x40;
    pub const READ_VERIFY_EXT: u8 = 0x42;
    pub const SMART: u8 = 0xb0;
    pub const READ_DMA: u8 = 0xc8;
    pub const WRITE_DMA: u8 = 0xca;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const IDENTIFY_DEVICE: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}

/// How many bits of the LBA registers an opcode uses. The opcode decides, not the E flag.
/// `[AoE 5.2]`
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LbaWidth {
    /// 28 bits.
    Lba28,
    /// 48 bits.
    Lba48,
}

impl LbaWidth {
    /// The LBA in the registers. `None` if the E flag contradicts the opcode: set on a 28-bit
    /// command, or clear on a 48-bit command whose LBA needs more than 28 bits. `[AoE 5.2]`
    #[inline]
    pub const fn lba(self, arg: &AtaArg) -> Option<u64> {
        let extended = arg.flags.contains(AtaFlags::EXTENDED);
        match self {
            Self::Lba28 if extended => None,
            Self::Lba28 => Some(arg.lba28()),
            Self::Lba48 if !extended && arg.lba48() >> 28 != 0 => None,
            Self::Lba48 => Some(arg.lba48()),
        }
    }
}

/// What an opcode asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AtaCommand {
    /// IDENTIFY DEVICE.
    Identify,
    /// READ SECTORS, READ DMA and their EXT forms.
    Read(LbaWidth),
    /// WRITE SECTORS, WRITE DMA and their EXT forms.
    Write {
        /// Width of the LBA.
        width: LbaWidth,
        /// Whether the data must be durable before the answer.
        durable: bool,
    },
    /// READ VERIFY and its EXT form.
    Verify(LbaWidth),
    /// FLUSH CACHE and its EXT form.
    Flush,
    /// DATA SET MANAGEMENT.
    DataSetManagement,
    /// CHECK POWER MODE.
    CheckPowerMode,
    /// The standby and idle commands and SLEEP.
    PowerMode,
    /// SET FEATURES.
    SetFeatures,
    /// SMART.
    Smart,
    /// READ NATIVE MAX ADDRESS and its EXT form.
    ReadNativeMax(LbaWidth),
    /// Everything else.
    Unsupported,
}

impl AtaCommand {
    /// Sorts an opcode.
    #[inline]
    pub const fn decode(opcode: u8) -> Self {
        use LbaWidth::{Lba28, Lba48};
        match opcode {
            opcode::IDENTIFY_DEVICE => Self::Identify,
            opcode::READ_SECTORS | opcode::READ_DMA => Self::Read(Lba28),
            opcode::READ_SECTORS_EXT | opcode::READ_DMA_EXT => Self::Read(Lba48),
            opcode::WRITE_SECTORS | opcode::WRITE_DMA => {
                Self::Write { width: Lba28, durable: false }
            }
            opcode::WRITE_SECTORS_EXT | opcode::WRITE_DMA_EXT => {
                Self::Write { width: Lba48, durable: false }
            }
            opcode::WRITE_DMA_FUA_EXT => Self::Write { width: Lba48, durable: true },
            opcode::READ_VERIFY => Self::Verify(Lba28),
            opcode::READ_VERIFY_EXT => Self::Verify(Lba48),
            opcode::FLUSH_CACHE | opcode::FLUSH_CACHE_EXT => Self::Flush,
            opcode::DATA_SET_MANAGEMENT => Self::DataSetManagement,
            opcode::CHECK_POWER_MODE => Self::CheckPowerMode,
            opcode::STANDBY_IMMEDIATE
            | opcode::IDLE_IMMEDIATE
            | opcode::STANDBY
            | opcode::IDLE
            | opcode::SLEEP => Self::PowerMode,
            opcode::SET_FEATURES => Self::SetFeatures,
            opcode::SMART => Self::Smart,
            opcode::READ_NATIVE_MAX => Self::ReadNativeMax(Lba28),
            opcode::READ_NATIVE_MAX_EXT => Self::ReadNativeMax(Lba48),
            _ => Self::Unsupported,
        }
    }

    /// Whether the contents of the disk may change.
    #[inline]
    pub const fn changes_disk(self) -> bool {
        matches!(self, Self::Write { .. } | Self::DataSetManagement)
    }
}

/// The name of an opcode, for people. `None` for those that are not served.
pub const fn name(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        opcode::DATA_SET_MANAGEMENT => "DATA SET MANAGEMENT",
        opcode::READ_SECTORS => "READ",
        opcode::READ_SECTORS_EXT => "READ EXT",
        opcode::READ_DMA_EXT => "READ DMA EXT",
        opcode::READ_NATIVE_MAX_EXT => "READ NATIVE MAX EXT",
        opcode::WRITE_SECTORS => "WRITE",
        opcode::WRITE_SECTORS_EXT => "WRITE EXT",
        opcode::WRITE_DMA_EXT => "WRITE DMA EXT",
        opcode::WRITE_DMA_FUA_EXT => "WRITE DMA FUA EXT",
        opcode::READ_VERIFY => "READ VERIFY",
        opcode::READ_VERIFY_EXT => "READ VERIFY EXT",
        opcode::SMART => "SMART",
        opcode::READ_DMA => "READ DMA",
        opcode::WRITE_DMA => "WRITE DMA",
        opcode::STANDBY_IMMEDIATE => "STANDBY IMMEDIATE",
        opcode::IDLE_IMMEDIATE => "IDLE IMMEDIATE",
        opcode::STANDBY => "STANDBY",
        opcode::IDLE => "IDLE",
        opcode::CHECK_POWER_MODE => "CHECK POWER MODE",
        opcode::SLEEP => "SLEEP",
        opcode::FLUSH_CACHE => "FLUSH CACHE",
        opcode::FLUSH_CACHE_EXT => "FLUSH CACHE EXT",
        opcode::IDENTIFY_DEVICE => "IDENTIFY DEVICE",
        opcode::SET_FEATURES => "SET FEATURES",
        opcode::READ_NATIVE_MAX => "READ NATIVE MAX",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_e_flag_must_agree_with_the_opcode() {
        let arg = |flags, lba| AtaArg { flags: AtaFlags(flags), lba, ..AtaArg::default() };
        let low = [0x78, 0x56, 0x34, 0xe2, 0xff, 0xff];
        assert_eq!(LbaWidth::Lba28.lba(&arg(0, low)), Some(0x0234_5678));
        assert_eq!(LbaWidth::Lba28.lba(&arg(0x40, low)), None);
        let small = [0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert_eq!(LbaWidth::Lba48.lba(&arg(0, small)), Some(0x0fff_ffff));
        assert_eq!(LbaWidth::Lba48.lba(&arg(0, [0, 0, 0, 0x10, 0, 0])), None);
        let big = [1, 2, 3, 4, 5, 6];
        assert_eq!(LbaWidth::Lba48.lba(&arg(0x40, big)), Some(0x0605_0403_0201));
        assert_eq!(LbaWidth::Lba48.lba(&arg(0x51, big)), Some(0x0605_0403_0201));
    }

    #[test]
    fn every_served_opcode_has_a_name() {
        for code in 0..=u8::MAX {
            let served = AtaCommand::decode(code) != AtaCommand::Unsupported;
            assert_eq!(served, name(code).is_some(), "{code:#04x}");
        }
    }
}
