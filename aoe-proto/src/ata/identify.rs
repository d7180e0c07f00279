//! The IDENTIFY DEVICE page: 256 little-endian words. `[AoE 6]` `[ACS-3 7.12.7]`

use crate::sectors::SECTOR_BYTES;
use crate::target::TargetConfig;

pub(crate) fn fill(page: &mut [u8; SECTOR_BYTES], _config: &TargetConfig, _sectors_max: u8) {
    page.fill(0);
}
