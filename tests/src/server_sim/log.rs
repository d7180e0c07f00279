//! The commit log of a simulated world: overlays name it from their making on, at their first change,
//! or not at all; a record is durable when its sync ends; the next process repeats what is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aoe_host::server::io::{Job, Started};
use cow_core::blocking::Blocking;
use cow_core::engine::{Buffer, Durability, Engine, Failure, IoFailure, Kind, Lent};
use cow_core::engine::{Note, Operation};
use cow_core::fault::{FaultError, Machine};
use cow_core::format::Top;
use cow_core::format::native::{self, LogId};

use cow_core::pages::{Page, StorageKey};
use cow_core::storage::Storage;

use super::edge::{Held, SimEdge};
use crate::chain_model::PoolMemory;
use crate::sim::Logged;

/// Identity of the log.
const LOG: LogId = LogId([0x10; 16]);

/// Changes of the storage by which a header comes to name a log: a sync, and each slot with its own.
const JOIN_CHANGES: u64 = 5;

/// How the commit log of a world behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogPlan {
    /// Overlays get it when the test says so; otherwise before the next frame.
    pub late: bool,
    /// How many of 100 overlays that are to get it go on without.
    pub in_place: u64,
    /// How many of 100 can do neither.
    pub failing: u64,
    /// It takes so many records, then it fails.
    pub breaks_after: Option<usize>,
}

/// The commit log of a world.
#[derive(Debug, Default)]
pub(super) struct SimLog {
    /// Disks that are to get it, and have not been answered.
    joining: Vec<u32>,
    /// Overlays that could not get it: nobody knows what their headers say.
    refused: BTreeSet<PathBuf>,
    records: usize,
    is_broken: bool,
}

impl SimEdge {
    /// Disks whose overlay is about to get the log.
    pub fn joining(&self) -> &[u32] {
        &self.log.joining
    }

    /// Number of records that the log took.
    pub fn records(&self) -> usize {
        self.log.records
    }

    /// Whether the header of a disk's overlay names the log.
    ///
    /// # Panics
    /// If there is no such overlay.
    pub fn names_log(&self, disk: u32) -> bool {
        self.header_log(self.files[&self.open[&disk]].key) == Some(LOG)
    }

    /// Whether a disk's overlay could not get the log.
    pub fn is_refused(&self, disk: u32) -> bool {
        self.open.get(&disk).is_some_and(|path| self.log.refused.contains(path))
    }

    /// Whether the log has failed.
    pub fn is_log_broken(&self) -> bool {
        self.log.is_broken
    }

    /// Whether changes of a disk may fail, for what became of the log.
    pub fn may_fail(&self, disk: u32) -> bool {
        let broken = || self.log.is_broken && self.open.contains_key(&disk) && self.names_log(disk);
        self.is_refused(disk) || broken()
    }

    fn header_log(&self, key: StorageKey) -> Option<LogId> {
        let opened = native::open(self.storage(key), &mut Page::ZERO.clone());
        opened.expect("an overlay").header().log
    }

    /// Nothing may change an overlay of which nobody knows what its header says.
    pub(super) fn assert_changes(&self, operation: &Operation) {
        if !matches!(operation.kind, Kind::Write | Kind::Zero | Kind::Punch) {
            return;
        }
        for disk in &self.log.joining {
            let key = self.files[&self.open[disk]].key;
            assert_ne!(key, operation.storage, "disk {disk} is changed while it gets its log");
        }
        for path in &self.log.refused {
            let key = self.files[path].key;
            assert_ne!(key, operation.storage, "{} is changed without log", path.display());
        }
    }

    pub(super) fn ask_to_join(&mut self, disk: u32) {
        assert!(self.plan.is_some(), "disk {disk} wants a log where there is none");
        assert!(!self.log.joining.contains(&disk), "disk {disk} is to join twice");
        assert!(!self.names_log(disk), "disk {disk} has its log");
        self.log.joining.push(disk);
    }

    /// Has the disk in place `at` of [`joining`](Self::joining) get the log, or not.
    ///
    /// # Panics
    /// If there is none.
    pub fn end_join(&mut self, at: usize) -> (u32, Result<Option<native::Opened>, Failure>) {
        let disk = self.log.joining.swap_remove(at);
        let plan = self.plan.expect("there is a log");
        let path = &self.open[&disk];
        let mut storage = self.storage(self.files[path].key).clone();
        let luck = self.dice.below(100);
        let fails = luck < plan.failing;
        if fails {
            let at = self.machine.begun() + 1 + self.dice.below(JOIN_CHANGES);
            self.machine.fail_at(at, FaultError::Medium);
            self.log.refused.insert(path.clone());
        } else if luck < plan.failing + plan.in_place {
            return (disk, Ok(None));
        }
        let begun = begin_log(&mut storage);
        assert_eq!(begun.is_err(), fails, "disk {disk} gets the log");
        (disk, begun.map(Some))
    }

    /// The computer, with whoever is about to get the log somewhere between without and with it.
    pub(super) fn amid_joins(&mut self) -> Machine {
        let now = self.machine.fork();
        for disk in self.log.joining.clone() {
            let (fork, before) = (now.fork(), now.events());
            begin_log(&mut self.storage(self.files[&self.open[&disk]].key).on(&fork))
                .expect("nothing fails");
            let steps = fork.log().split_off(before);
            let most = usize::try_from(self.dice.below(steps.len() as u64 + 1)).expect("small");
            steps.iter().take(most).for_each(|event| now.replay(event));
        }
        now
    }

    /// Takes a record.
    pub(super) fn append(&mut self, job: Job, note: Note, data: &[u8]) -> Started {
        assert!(self.names_log(job.disk), "disk {} has a record without a log", job.disk);
        let wanted = note.offset.map_or(0, |_| note.extent.bytes());
        assert_eq!(data.len() as u64, wanted, "the data of {note:?}");
        let most = self.plan.and_then(|plan| plan.breaks_after);
        self.log.is_broken |= most.is_some_and(|most| self.log.records >= most);
        if self.log.is_broken {
            return Some(Err(IoFailure::Medium));
        }
        self.log.records += 1;
        if self.drops_notes {
            return Some(Ok(()));
        }
        let now = self.machine.events();
        let file = self.files.get_mut(&self.open[&job.disk]).expect("is open");
        let data = note.offset.map(|_| data.to_vec());
        let record = file.changes.append(now, Logged { extent: note.extent, data });
        if self.dice.chance(self.inline) && !self.slow_syncs {
            file.changes.synced(now, record);
            return Some(Ok(()));
        }
        // For whoever looks on it is a sync of nothing.
        let record = Some(record);
        let operation = Operation {
            storage: file.key,
            kind: Kind::Sync,
            offset: 0,
            len: 0,
            buffer: Buffer::None,
            ticket: job.ticket,
        };
        self.held.push(Held { job, operation, weave: None, change: None, early: None, record });
        None
    }

    /// The sync has ended that a record waited for.
    pub(super) fn end_record(&mut self, disk: u32, record: usize) -> Result<(), FaultError> {
        if self.log.is_broken {
            return Err(FaultError::Medium);
        }
        let now = self.machine.events();
        let file = self.files.get_mut(&self.open[&disk]).expect("is open");
        file.changes.synced(now, record);
        Ok(())
    }

    /// Enters what an earlier process left in the log, if the header names it.
    pub(super) fn repeat(&mut self, path: &Path) {
        let file = self.files.get_mut(path).expect("an overlay");
        let (key, sectors, left) = (file.key, file.sectors, core::mem::take(&mut file.left));
        let page = &mut Page::ZERO.clone();
        let mut storage = self.storage(key).clone();
        let opened = native::open(&storage, page).expect("an overlay");
        let Some(log) = opened.header().log else { return };
        assert_eq!(log, LOG, "the log of {}", path.display());
        storage.sync().expect("sync");
        let top = Top::Native(opened.into_repeating(key).expect("not frozen"));
        let layers: Vec<_> = self.base.into_iter().collect();
        let mut engine =
            Engine::<64>::new(Some(top), sectors, Durability::Writeback).expect("fits");
        let mut memory = PoolMemory::new(4);
        let mut blocking = Blocking {
            engine: &mut engine,
            lent: Lent { pages: &mut memory.pool(), layers: &layers, index: &mut [] },
            storages: &mut self.storages.clone()[..],
        };
        for change in left {
            let done = match &change.data {
                Some(data) => blocking.write(change.extent.start(), data),
                None => blocking.zero(change.extent),
            };
            done.unwrap_or_else(|e| panic!("repeat {}: {e}", change.extent));
        }
        blocking.flush().expect("flush");
        let Some(Top::Native(top)) = engine.into_overlay() else { panic!("no overlay") };
        native::close(&mut storage, &top, page).expect("close");
        assert_eq!(self.header_log(key), None, "a closed overlay names no log");
    }

    /// An orderly end of a disk that takes changes: its overlay is closed and names no log.
    ///
    /// # Panics
    /// If that fails.
    pub fn close_overlay(&mut self, disk: u32, top: &Top) {
        let Top::Native(top) = top else { panic!("not a native overlay") };
        let file = self.files.get_mut(&self.open[&disk]).expect("is open");
        let mut storage = self.storages[file.key.0 as usize].clone();
        let page = &mut Page::ZERO.clone();
        native::close(&mut storage, top, page).expect("close");
        let key = file.key;
        file.changes = crate::sim::CommitLog::default();
        assert_eq!(self.header_log(key), None, "a closed overlay names no log");
    }
}

fn begin_log(storage: &mut cow_core::fault::FaultyStorage) -> Result<native::Opened, Failure> {
    let page = &mut Page::ZERO.clone();
    let layer = native::open(storage, page).expect("an overlay").header().layer_id;
    native::begin_log(storage, layer, LOG, page).map_err(|_| Failure::Medium)
}

/// Which log an overlay names that is made now.
pub(super) fn log_from_the_beginning(is_logged: bool) -> Option<LogId> {
    is_logged.then_some(LOG)
}
