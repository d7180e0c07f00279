//! What the loop tells about itself.

use core::time::Duration;

use aoe_proto::{Address, Mac};

use super::disk::{DiskSpec, Overlay};
use super::{Server, Sharing};

/// A machine that asked for a disk and has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unknown {
    /// The address it asked for.
    pub address: Address,
    /// The machine.
    pub mac: Mac,
    /// When it first asked, on the loop's clock.
    pub first_seen: Duration,
    /// When it last asked.
    pub last_seen: Duration,
    /// How often it asked.
    pub requests: u64,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct DiskStatus<'a> {
    /// Number, for calls.
    pub number: u32,
    /// Shelf and slot.
    pub address: Address,
    /// What it was made from.
    pub spec: &'a DiskSpec,
    /// Machines bound to it; empty for a disk for everybody.
    pub macs: Vec<Mac>,
    /// It has an overlay that is open.
    pub has_overlay: bool,
    /// It should take writes but does not (any more).
    pub read_only: bool,
    /// Requests answered, and their bytes.
    pub reads: u64,
    /// As `reads`.
    pub writes: u64,
    /// As `reads`.
    pub bytes_read: u64,
    /// As `reads`.
    pub bytes_written: u64,
    /// Requests that failed in storage.
    pub errors: u64,
    /// Requests dropped because too many were outstanding.
    pub dropped: u64,
    /// Requests that were the same as one under way, and were answered with it. [AoE 9]
    pub merged: u64,
    /// Requests under way.
    pub in_flight: usize,
    /// Data sectors in the overlay.
    pub used_sectors: u64,
    /// When it was last asked something, on the loop's clock, and by whom.
    pub last_seen: Option<(Duration, Mac)>,
}

impl Server<'_> {
    /// Every disk.
    pub fn status(&self) -> impl Iterator<Item = DiskStatus<'_>> + '_ {
        self.disks().filter_map(|(number, disk)| {
            let export = self.exports.get(disk.export)?;
            let macs = match &export.sharing {
                Sharing::One(_) | Sharing::Elsewhere(_) => export.macs.clone(),
                Sharing::PerClient { by_mac, .. } => {
                    let mut macs: Vec<Mac> =
                        by_mac.iter().filter(|(_, d)| **d == number).map(|(m, _)| *m).collect();
                    macs.sort_unstable();
                    macs
                }
            };
            let counts = disk.counts;
            Some(DiskStatus {
                number,
                address: export.address,
                spec: &disk.spec,
                macs,
                has_overlay: disk.has_overlay(),
                read_only: disk.spec.overlay != Overlay::None
                    && (export.broken
                        || disk.lost_notes
                        || disk.has_overlay() && disk.engine.is_read_only()),
                reads: counts.reads,
                writes: counts.writes,
                bytes_read: counts.bytes_read,
                bytes_written: counts.bytes_written,
                errors: counts.errors,
                dropped: counts.dropped,
                merged: counts.merged,
                in_flight: disk.engine.in_flight(),
                used_sectors: disk.engine.used_sectors(),
                last_seen: counts.last_seen.zip(counts.last_mac),
            })
        })
    }

    /// Why an address cannot serve, if it cannot.
    pub fn failure(&self, address: Address) -> Option<&'static str> {
        let export = self.by_address.get(&address).and_then(|n| self.exports.get(*n))?;
        if export.broken {
            Some("a layer below its overlays was changed by another program")
        } else if export.suspended {
            Some("a program has a layer below its overlays open for writing")
        } else {
            None
        }
    }

    /// A client has another name now.
    pub fn relabel(&mut self, old: &str, new: &str) {
        for disk in self.disks.iter_mut().flatten() {
            if disk.spec.label == old {
                new.clone_into(&mut disk.spec.label);
            }
        }
    }

    /// Machines that asked for a disk and have none.
    pub fn unknown(&self) -> impl Iterator<Item = Unknown> + '_ {
        self.exports
            .iter()
            .flat_map(|e| match &e.sharing {
                Sharing::PerClient { unknown, .. } => unknown.as_slice(),
                Sharing::One(_) | Sharing::Elsewhere(_) => &[],
            })
            .copied()
    }
}
