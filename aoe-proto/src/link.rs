//! What fits into a frame of a link.

use crate::sectors::SECTOR_BYTES;
use crate::wire::CONFIG_STRING_MAX;

/// AoE header and ATA registers inside the Ethernet payload.
const ATA_OVERHEAD: usize = 22;

/// The limits that the MTU of a link puts on answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkLimits {
    mtu: usize,
    sectors_max: u8,
}

impl LinkLimits {
    /// Smallest usable MTU in bytes: that of a Query/Config response with the longest string.
    pub const MTU_MIN: usize = 10 + 8 + CONFIG_STRING_MAX;

    /// The limits of a link with an MTU of `mtu` bytes (the Ethernet payload, 1500 as a rule).
    /// `None` below [`LinkLimits::MTU_MIN`]: no target can work there.
    #[inline]
    pub const fn for_mtu(mtu: usize) -> Option<Self> {
        if mtu < Self::MTU_MIN {
            return None;
        }
        Some(Self { mtu, sectors_max: max_sectors_for_mtu(mtu) })
    }

    /// Lowers the number of sectors per command to what the server accepts; 0 counts as 1.
    #[inline]
    #[must_use]
    pub const fn with_sectors_max(self, limit: u8) -> Self {
        let limit = if limit == 0 { 1 } else { limit };
        let sectors_max = if limit < self.sectors_max { limit } else { self.sectors_max };
        Self { sectors_max, ..self }
    }

    /// The MTU in bytes.
    #[inline]
    pub const fn mtu(&self) -> usize {
        self.mtu
    }

    /// Most sectors of a read, and the number advertised; at least 1.
    #[inline]
    pub const fn sectors_max(&self) -> u8 {
        self.sectors_max
    }

    /// Longest frame in bytes, with the Ethernet header.
    #[inline]
    pub const fn frame_len_max(&self) -> usize {
        self.mtu.saturating_add(14)
    }

    /// Most entries of a MAC mask list that an answer can carry. `[AoE 7.1]`
    #[inline]
    pub const fn mask_entries_max(&self) -> usize {
        self.mtu.saturating_sub(14) / 8
    }

    /// Most addresses of a reservation that an answer can carry. `[AoE 7.2]`
    #[inline]
    pub const fn reserve_entries_max(&self) -> usize {
        self.mtu.saturating_sub(12) / 6
    }
}

/// Sectors per ATA command for an MTU: what fits, at most 255, rounded down to a multiple of 8 from
/// 8 on so that initiators send 4 KiB pieces. 0 if not even one sector fits. `[AoE 4.2]`
pub const fn max_sectors_for_mtu(mtu: usize) -> u8 {
    let mut fit: u8 = 0;
    while fit < u8::MAX && mtu >= ATA_OVERHEAD + (fit as usize + 1) * SECTOR_BYTES {
        fit += 1;
    }
    if fit >= 8 { fit - fit % 8 } else { fit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_common_mtus() {
        for (mtu, sectors) in [
            (0, 0),
            (533, 0),
            (534, 1),
            (1499, 2),
            (1500, 2),
            (4117, 7),
            (4118, 8),
            (4200, 8),
            (8213, 8),
            (8214, 16),
            (9000, 16),
            (65_535, 120),
            (65_536, 120),
            (usize::MAX, 248),
        ] {
            assert_eq!(max_sectors_for_mtu(mtu), sectors, "MTU {mtu}");
        }
    }

    #[test]
    fn list_limits() {
        let standard = LinkLimits::for_mtu(1500).unwrap();
        assert_eq!(standard.mask_entries_max(), 185);
        assert_eq!(standard.reserve_entries_max(), 248);
        assert_eq!(standard.frame_len_max(), 1514);
        assert_eq!(LinkLimits::for_mtu(1041), None);
        assert_eq!(LinkLimits::for_mtu(1042).unwrap().sectors_max(), 1);
    }

    #[test]
    fn server_limit_only_lowers() {
        let jumbo = LinkLimits::for_mtu(9000).unwrap();
        assert_eq!(jumbo.with_sectors_max(255).sectors_max(), 16);
        assert_eq!(jumbo.with_sectors_max(8).sectors_max(), 8);
        assert_eq!(jumbo.with_sectors_max(0).sectors_max(), 1);
    }
}
