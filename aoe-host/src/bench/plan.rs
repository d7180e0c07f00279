//! What a generator of load is to do, and which plans are refused before anything is sent.

use core::time::Duration;
use std::collections::BTreeSet;

use super::places::Order;
use crate::error::{HostError, Result};
use crate::values::{Address, Mac};

/// Most pairs of a client and a target.
pub const SESSIONS_MAX: usize = 1 << 16;
/// Most requests outstanding in all: their numbers are part of the tags.
pub const SLOTS_MAX: usize = 1 << 20;

/// What a run checks. Sectors are written so that reading them tells what became of every write, and
/// are checked whenever they are read; in the end everything that was written is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verify {
    /// Nothing.
    Nothing,
    /// Everything; each client of a target has a disk of its own.
    OwnDisks,
    /// Everything; the clients of a target share its disk.
    SharedDisks,
}

/// A load: who asks whom for what, how often and how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The targets; each client uses all of them.
    pub targets: Vec<Address>,
    /// Addresses the clients send from; none means one client with the interface's own.
    pub clients: Vec<Mac>,
    /// Targets that may be written to. See invariant 1 of the module.
    pub writable: Vec<Address>,
    /// In which order requests visit their region.
    pub order: Order,
    /// Whether each position is visited once, and the run ends after the last.
    pub once: bool,
    /// Requests of a hundred that write; which ones is decided at random.
    pub write_percent: u8,
    /// Sectors per request; `None` is 8, or what fits into a frame if that is less.
    pub sectors: Option<u8>,
    /// Sectors between two neighbouring positions; `None` is the length of a request.
    pub stride_sectors: Option<u64>,
    /// Requests outstanding for each client at each target.
    pub depth: u16,
    /// Whether `depth` counts even where a target says that it queues less.
    pub beyond_buffer_count: bool,
    /// First sector of the region that is used.
    pub first_sector: u64,
    /// Sectors of the region; `None` is the rest of the disk.
    pub region_sectors: Option<u64>,
    /// How long to run before anything is counted.
    pub warm_up: Duration,
    /// How long to count.
    pub time: Option<Duration>,
    /// How many requests to send after the warm-up.
    pub count: Option<u64>,
    /// What is checked.
    pub verify: Verify,
    /// Where the random numbers begin.
    pub seed: u64,
    /// How long to ask again and again for answers before sleeping until some come.
    pub spin: Duration,
    /// How long to wait for an answer before the request is sent again; doubled each time.
    pub retransmit: Duration,
    /// How long to wait for an answer in all.
    pub give_up: Duration,
    /// Processes whose processor time and memory are looked at.
    pub pids: Vec<u32>,
}

impl Plan {
    /// Random reads of 4 KiB, one at a time, for five seconds after one, over whole disks.
    pub fn new(targets: Vec<Address>) -> Self {
        Self {
            targets,
            clients: Vec::new(),
            writable: Vec::new(),
            order: Order::Random,
            once: false,
            write_percent: 0,
            sectors: None,
            stride_sectors: None,
            depth: 1,
            beyond_buffer_count: false,
            first_sector: 0,
            region_sectors: None,
            warm_up: Duration::from_secs(1),
            time: Some(Duration::from_secs(5)),
            count: None,
            verify: Verify::Nothing,
            seed: 1,
            spin: Duration::ZERO,
            retransmit: Duration::from_millis(500),
            give_up: Duration::from_secs(10),
            pids: Vec::new(),
        }
    }

    /// Whether the number of requests, and not the time, ends the run.
    pub(super) fn is_counted(&self) -> bool {
        self.count.is_some() || self.once
    }

    /// Refuses what makes no sense, and what would write where nobody allowed it.
    ///
    /// # Errors
    /// `Usage`, and nothing was sent.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, why: String| Err(HostError::usage(what, why));
        let distinct: BTreeSet<_> = self.targets.iter().collect();
        if self.targets.is_empty() || distinct.len() != self.targets.len() {
            return refuse("use the list of targets", "one is named twice, or none at all".into());
        }
        let clients: BTreeSet<_> = self.clients.iter().collect();
        if clients.len() != self.clients.len() {
            return refuse("use the list of clients", "one is named twice".into());
        }
        let sessions = self.targets.len().saturating_mul(self.clients.len().max(1));
        if sessions > SESSIONS_MAX {
            let why = format!("{sessions} pairs of client and target; the limit is {SESSIONS_MAX}");
            return refuse("use so many clients", why);
        }
        let slots = sessions.saturating_mul(usize::from(self.depth));
        if slots == 0 || slots > SLOTS_MAX {
            let why = format!("{slots} requests at once; use 1 to {SLOTS_MAX}");
            return refuse(&format!("use a depth of {}", self.depth), why);
        }
        if self.write_percent > 100 {
            return refuse("write", format!("{} % is more than all", self.write_percent));
        }
        if self.sectors == Some(0) || self.stride_sectors == Some(0) {
            return refuse("use the request size", "0 sectors are nothing".into());
        }
        if self.time.is_none() && !self.is_counted() {
            return refuse("run", "neither a time nor a count ends it".into());
        }
        if self.verify != Verify::Nothing
            && self.stride_sectors.is_some_and(|stride| self.overlaps(stride))
        {
            return refuse("verify", "the requests overlap; use a stride of their length".into());
        }
        self.check_writable()
    }

    fn overlaps(&self, stride: u64) -> bool {
        self.sectors.is_some_and(|sectors| u64::from(sectors) > stride)
    }

    fn check_writable(&self) -> Result<()> {
        let refused = self.targets.iter().find(|target| !self.writable.contains(target));
        match refused.filter(|_| self.write_percent > 0) {
            None => Ok(()),
            Some(target) => {
                Err(HostError::usage("write", "nobody allowed it").export(target).advice(format!(
                    "what is on the disk will be destroyed; if that is meant, say \
                     `--write-allowed {target}`"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn at(slot: u8) -> Address {
        Address::new(0, slot).unwrap()
    }

    fn refusal(edit: impl FnOnce(&mut Plan)) -> Option<String> {
        let mut plan = Plan::new(vec![at(0), at(1)]);
        edit(&mut plan);
        plan.check().err().map(|error| {
            assert_eq!(error.kind(), ErrorKind::Usage);
            error.to_string()
        })
    }

    #[test]
    fn reading_is_always_allowed_and_writing_where_it_is_named() {
        assert_eq!(refusal(|_| {}), None);
        let none = refusal(|plan| plan.write_percent = 1).unwrap();
        assert!(none.contains("--write-allowed e0.0"), "{none}");
        let one = refusal(|plan| (plan.write_percent, plan.writable) = (1, vec![at(0)])).unwrap();
        assert!(one.contains("--write-allowed e0.1"), "{one}");
        let both = |plan: &mut Plan| (plan.write_percent, plan.writable) = (1, vec![at(1), at(0)]);
        assert_eq!(refusal(both), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let client = Mac([2, 0, 0, 0, 0, 1]);
        assert!(refusal(|plan| plan.targets.clear()).is_some());
        assert!(refusal(|plan| plan.targets.push(at(1))).is_some());
        assert!(refusal(|plan| plan.clients = vec![client, client]).is_some());
        assert!(refusal(|plan| plan.depth = 0).is_some());
        assert!(refusal(|plan| plan.write_percent = 101).is_some());
        assert!(refusal(|plan| plan.sectors = Some(0)).is_some());
        assert!(refusal(|plan| plan.time = None).is_some());
        assert!(refusal(|plan| (plan.time, plan.once) = (None, true)).is_none());
        let many = |n: u32| {
            let [_, a, b, c] = n.to_be_bytes();
            Mac([2, 0, 0, a, b, c])
        };
        assert!(refusal(|plan| plan.clients = (0..40_000).map(many).collect()).is_some());
        let deep = |plan: &mut Plan| {
            plan.clients = (0..30_000).map(many).collect();
            plan.depth = 64;
        };
        assert!(refusal(deep).is_some());
    }

    #[test]
    fn overlapping_requests_cannot_be_verified() {
        let edit = |plan: &mut Plan| {
            plan.verify = Verify::OwnDisks;
            (plan.sectors, plan.stride_sectors) = (Some(8), Some(4));
        };
        assert!(refusal(edit).is_some());
    }
}
