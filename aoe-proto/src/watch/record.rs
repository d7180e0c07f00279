//! What is remembered of every target and every initiator, and counted about it.

use super::latency::Latency;
use super::rule::{Findings, Severity};
use crate::wire::{Address, Mac};

/// Machines remembered that answer for one address.
pub const ANSWERERS_MAX: usize = 4;

/// Findings, by severity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FindingCounts {
    /// Of severity must.
    pub must: u64,
    /// Of severity should.
    pub should: u64,
    /// Of severity note.
    pub note: u64,
}

impl FindingCounts {
    pub(super) fn add(&mut self, findings: &Findings) {
        for finding in findings.as_slice() {
            let count = match finding.rule.severity() {
                Severity::Must => &mut self.must,
                Severity::Should => &mut self.should,
                Severity::Note => &mut self.note,
            };
            *count = count.saturating_add(1);
        }
    }
}

/// Requests by kind; retransmissions are not counted again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestCounts {
    /// ATA reads.
    pub read: u64,
    /// ATA writes.
    pub write: u64,
    /// IDENTIFY DEVICE.
    pub identify: u64,
    /// FLUSH CACHE.
    pub flush: u64,
    /// Other ATA commands.
    pub ata_other: u64,
    /// Query/Config.
    pub config: u64,
    /// MAC mask list.
    pub mask: u64,
    /// Reserve/Release.
    pub reserve: u64,
    /// Commands without a name.
    pub other: u64,
}

impl RequestCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { read, write, identify, flush, ata_other, config, mask, reserve, other } = *self;
        let all = [read, write, identify, flush, ata_other, config, mask, reserve, other];
        all.into_iter().fold(0, u64::saturating_add)
    }
}

/// What a target and an initiator have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Requests by kind.
    pub requests: RequestCounts,
    /// Requests sent again, with the same or another tag.
    pub resent: u64,
    /// Answers that belong to a request, late ones and duplicates included.
    pub answers: u64,
    /// Answers to a request that was already sent again under another tag, or given up.
    pub late: u64,
    /// More answers than requests.
    pub duplicates: u64,
    /// Transmissions of a request that were never answered.
    pub lost: u64,
    /// Answers that belong to no request.
    pub unmatched: u64,
    /// Answers with the AoE error flag.
    pub aoe_errors: u64,
    /// Answers with the ERR bit in the ATA status.
    pub ata_errors: u64,
    /// Bytes read successfully.
    pub bytes_read: u64,
    /// Bytes written successfully.
    pub bytes_written: u64,
    /// Times from a request to its answer, of requests that were sent once.
    pub latency: Latency,
    /// Broken rules.
    pub findings: FindingCounts,
}

/// A machine that answers for an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answerer {
    /// Its address.
    pub mac: Mac,
    /// Its answers, those that belong to no request included.
    pub answers: u64,
    /// Of those, with the AoE error flag.
    pub aoe_errors: u64,
    /// Of those, with the ERR bit in the ATA status.
    pub ata_errors: u64,
    /// Rules broken by them.
    pub findings: FindingCounts,
}

/// What a target said about itself in its last config answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Advertised {
    /// Requests it can queue.
    pub buffer_count: u16,
    /// Sectors per command, 0 meaning 2.
    pub sector_count: u8,
    /// Firmware version.
    pub firmware: u16,
}

impl Advertised {
    /// Sectors per command.
    pub const fn sectors_max(&self) -> u8 {
        if self.sector_count == 0 { 2 } else { self.sector_count }
    }
}

/// The last IDENTIFY page of a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identified {
    /// Who got it: a target may show every initiator another disk.
    pub(super) initiator: Mac,
    pub(super) hash: u64,
    pub(super) serial: [u8; 20],
    pub(super) sectors: u64,
}

/// One address on one VLAN. A slot of the memory that [`super::Watch`] works in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetRecord {
    pub(super) key: Option<(u16, Address)>,
    pub(super) answerers: [Answerer; ANSWERERS_MAX],
    pub(super) advertised: Option<Advertised>,
    pub(super) identified: Option<Identified>,
    pub(super) outstanding: u32,
    pub(super) over_window: bool,
    pub(super) traffic: Traffic,
}

impl TargetRecord {
    /// VLAN id (0 without a tag) and address; `None` for a slot that is not used.
    pub const fn key(&self) -> Option<(u16, Address)> {
        self.key
    }

    /// The machines that answer for it; more than one is a [`super::Rule::DuplicateAddress`].
    pub fn answerers(&self) -> impl Iterator<Item = Answerer> {
        self.answerers.into_iter().filter(|answerer| answerer.answers > 0)
    }

    /// What it said about itself last.
    pub const fn advertised(&self) -> Option<Advertised> {
        self.advertised
    }

    /// Size of its disk in sectors, as its last IDENTIFY page says.
    pub fn disk_sectors(&self) -> Option<u64> {
        self.identified.map(|identified| identified.sectors)
    }

    /// Requests without an answer, now.
    pub const fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The counts.
    pub const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Counts an answer of `mac`; tells another machine that answered before, if `mac` is new.
    pub(super) fn answered_by(&mut self, mac: Mac) -> Option<Mac> {
        if let Some(known) = self.answerer(mac) {
            known.answers = known.answers.saturating_add(1);
            return None;
        }
        let first = self.answerers.first().filter(|a| a.answers > 0).map(|a| a.mac);
        let free = self.answerers.iter_mut().find(|a| a.answers == 0)?;
        *free = Answerer { mac, answers: 1, ..Answerer::default() };
        first
    }

    /// The machine `mac`, if it has answered.
    pub(super) fn answerer(&mut self, mac: Mac) -> Option<&mut Answerer> {
        self.answerers.iter_mut().find(|a| a.answers > 0 && a.mac == mac)
    }
}

/// One machine that asks, on one VLAN. A slot of the memory that [`super::Watch`] works in.
#[derive(Clone, Copy, Debug, Default)]
pub struct InitiatorRecord {
    pub(super) key: Option<(u16, Mac)>,
    pub(super) traffic: Traffic,
}

impl InitiatorRecord {
    /// VLAN id (0 without a tag) and MAC address; `None` for a slot that is not used.
    pub const fn key(&self) -> Option<(u16, Mac)> {
        self.key
    }

    /// The counts.
    pub const fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

/// The record of `key`, made if there is room.
pub(super) fn target(
    records: &mut [TargetRecord],
    key: (u16, Address),
) -> Option<&mut TargetRecord> {
    let known = records.iter().position(|record| record.key == Some(key));
    let at = known.or_else(|| records.iter().position(|record| record.key.is_none()))?;
    let record = records.get_mut(at)?;
    record.key = Some(key);
    Some(record)
}

/// The record of `key`, made if there is room.
pub(super) fn initiator(
    records: &mut [InitiatorRecord],
    key: (u16, Mac),
) -> Option<&mut InitiatorRecord> {
    let known = records.iter().position(|record| record.key == Some(key));
    let at = known.or_else(|| records.iter().position(|record| record.key.is_none()))?;
    let record = records.get_mut(at)?;
    record.key = Some(key);
    Some(record)
}
