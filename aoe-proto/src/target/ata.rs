//! Decisions about ATA commands. `[AoE 5]`

use super::Action;
use super::Target;
use super::reply::{self, AtaError, AtaReply, Body, Reply, Route};
use crate::error::Refusal;
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::sectors::SectorRange;

/// The ranges of a TRIM command. All were checked before the first one comes out.
#[derive(Clone, Copy, Debug)]
pub struct TrimRanges<'f> {
    entries: &'f [[u8; 8]],
    disk_sectors: u64,
}

impl Iterator for TrimRanges<'_> {
    type Item = SectorRange;

    fn next(&mut self) -> Option<SectorRange> {
        loop {
            let (first, rest) = self.entries.split_first()?;
            self.entries = rest;
            let [l0, l1, l2, l3, l4, l5, c0, c1] = *first;
            let lba = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]);
            let count = u16::from_le_bytes([c0, c1]);
            if let Some(range) = SectorRange::new(lba, count, self.disk_sectors) {
                return Some(range);
            }
        }
    }
}

impl Target {
    pub(super) fn ata<'f>(&self, request: &Incoming<'f>, _link: LinkLimits) -> Action<'f> {
        Action::Ignore(Refusal::ShortArgument { len: request.argument().len() })
    }
}
