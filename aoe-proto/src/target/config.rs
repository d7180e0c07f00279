//! What the operator decides about a target.

use core::fmt;

use crate::error::TextError;
use crate::sectors::DISK_SECTORS_MAX;
use crate::wire::Address;

/// Text of an IDENTIFY string field: at most `N` printable ASCII characters, padded with spaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AtaText<const N: usize>([u8; N]);

impl<const N: usize> AtaText<N> {
    /// # Errors
    /// [`TextError::TooLong`] and [`TextError::NotPrintable`].
    pub fn new(text: &str) -> Result<Self, TextError> {
        if text.len() > N {
            return Err(TextError::TooLong { max: N });
        }
        let mut padded = [b' '; N];
        for (to, from) in padded.iter_mut().zip(text.bytes()) {
            if !(b' '..=b'~').contains(&from) {
                return Err(TextError::NotPrintable);
            }
            *to = from;
        }
        Ok(Self(padded))
    }

    /// The characters with their padding.
    #[inline]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Default for AtaText<N> {
    fn default() -> Self {
        Self([b' '; N])
    }
}

/// The strings and the name by which clients recognise a disk. All of it must stay the same over
/// restarts and differ between overlays, or multipath merges two of them. `[AoE 9 item 16]`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Serial number, unique per overlay. Words 10 to 19.
    pub serial: AtaText<20>,
    /// Firmware revision. Words 23 to 26.
    pub revision: AtaText<8>,
    /// Model. Words 27 to 46.
    pub model: AtaText<40>,
    /// World wide name (NAA 3 or 5), unique per overlay. Words 108 to 111.
    pub wwn: Option<u64>,
}

/// Whether TRIM is offered, and what trimmed sectors read as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TrimSupport {
    /// DATA SET MANAGEMENT is aborted.
    #[default]
    None,
    /// Offered; trimmed sectors may read as anything.
    Plain,
    /// Offered; trimmed sectors read as zero.
    Zeroing,
}

/// What to do with a request of another protocol version. `[AoE 2.2]`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VersionPolicy {
    /// Answer error 5 to requests that are addressed exactly.
    #[default]
    Answer,
    /// Drop them.
    Silent,
}

/// Commands that the network may not use to change state. `[AoE 9 item 14]`
///
/// A frozen command still reads, and a request that would leave things as they are still succeeds.
/// A refused config set is answered with error 4 and the string that stands, a refused mask
/// directive with `MError` 1 ("unspecified"), a refused reservation with error 6 and the list that
/// stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Freeze {
    /// Config string: set and force set.
    pub config: bool,
    /// MAC mask list: edits.
    pub mask: bool,
    /// Reservation: set and force set.
    pub reserve: bool,
}

/// Everything about a target that does not come from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// Shelf and slot.
    pub address: Address,
    /// Size of the disk in sectors, 1 to [`DISK_SECTORS_MAX`].
    pub sectors: u64,
    /// Whether writes and TRIM are aborted. Never for disks that `WinAoE` writes: it takes every
    /// answer for a success. `[AoE 5.4]`
    pub read_only: bool,
    /// Messages the server queues for this target, advertised; at least 2. `[AoE 4.2]`
    pub buffer_count: u16,
    /// Firmware version, advertised; free to choose. `[AoE 4]`
    pub firmware: u16,
    /// Strings and name.
    pub identity: Identity,
    /// Whether TRIM is offered.
    pub trim: TrimSupport,
    /// Logarithm (base 2) of the sectors per physical sector: 3 for 4 KiB, 0 for "not reported".
    pub physical_sector_log2: u8,
    /// Other protocol versions.
    pub version_policy: VersionPolicy,
    /// Whether a request with a wildcard address may change state. `[AoE 2.4]`
    pub wildcard_changes: bool,
    /// What the network may not change.
    pub freeze: Freeze,
}

impl TargetConfig {
    /// Smallest buffer count. The Linux driver halves it to get its window, and waits for ever
    /// with a window of none. `[AoE 4.2]`
    pub const BUFFER_COUNT_MIN: u16 = 2;

    /// A writable disk with 16 buffers, without TRIM, names, wildcard changes or frozen commands.
    pub fn new(address: Address, sectors: u64) -> Self {
        Self {
            address,
            sectors,
            read_only: false,
            buffer_count: 16,
            firmware: 1,
            identity: Identity::default(),
            trim: TrimSupport::None,
            physical_sector_log2: 0,
            version_policy: VersionPolicy::Answer,
            wildcard_changes: false,
            freeze: Freeze::default(),
        }
    }

    /// # Errors
    /// The first rule that is broken.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.buffer_count < Self::BUFFER_COUNT_MIN {
            return Err(ConfigError::BufferCount { min: Self::BUFFER_COUNT_MIN });
        }
        if self.sectors == 0 || self.sectors > DISK_SECTORS_MAX {
            return Err(ConfigError::Sectors { max: DISK_SECTORS_MAX });
        }
        if self.physical_sector_log2 > 15 {
            return Err(ConfigError::PhysicalSector { max_log2: 15 });
        }
        Ok(())
    }
}

/// A [`TargetConfig`] that cannot work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Fewer buffers than an initiator needs.
    BufferCount {
        /// The smallest count.
        min: u16,
    },
    /// No sector at all, or more than 48 bits can address.
    Sectors {
        /// The largest size in sectors.
        max: u64,
    },
    /// The physical sector does not fit into word 106.
    PhysicalSector {
        /// The largest logarithm.
        max_log2: u8,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferCount { min } => write!(f, "the buffer count must be at least {min}"),
            Self::Sectors { max } => write!(f, "the disk must have 1 to {max} sectors"),
            Self::PhysicalSector { max_log2 } => {
                write!(f, "a physical sector has at most 2^{max_log2} sectors")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_padded_or_refused() {
        assert_eq!(AtaText::<4>::new("ab").unwrap().as_bytes(), b"ab  ");
        assert_eq!(AtaText::<4>::new("abcd").unwrap().as_bytes(), b"abcd");
        assert_eq!(AtaText::<4>::new("abcde"), Err(TextError::TooLong { max: 4 }));
        assert_eq!(AtaText::<4>::new("a\n"), Err(TextError::NotPrintable));
        assert_eq!(AtaText::<4>::new("é"), Err(TextError::NotPrintable));
        assert_eq!(AtaText::<4>::default().as_bytes(), b"    ");
    }

    #[test]
    fn configurations_that_cannot_work() {
        let config = TargetConfig::new(Address::new(0, 0).unwrap(), 1);
        assert_eq!(config.validate(), Ok(()));
        let buffers = TargetConfig { buffer_count: 1, ..config };
        assert_eq!(buffers.validate(), Err(ConfigError::BufferCount { min: 2 }));
        for sectors in [0, 1 << 48] {
            let size = TargetConfig { sectors, ..config };
            assert_eq!(size.validate(), Err(ConfigError::Sectors { max: DISK_SECTORS_MAX }));
        }
        let physical = TargetConfig { physical_sector_log2: 16, ..config };
        assert_eq!(physical.validate(), Err(ConfigError::PhysicalSector { max_log2: 15 }));
    }
}
