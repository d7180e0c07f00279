//! The world of a simulated server: media whose power can be cut, operations that end when the dice
//! say so, overlays that are made now, later or never, and a record of everything that was caused.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use aoe_host::server::io::{
    Completion, IoDriver, Job, Memory, RUN_LEN_MAX, RUN_PIECES_MAX, Run, Started,
};
use aoe_host::server::{
    DiskSpec, Durability, Edge, LeftOverlay, LogUse, Opened, Overlay, Report, identity_of,
};
use aoe_proto::{Address, Mac, TargetState};
use cow_core::engine::{IoFailure, Kind, Note, Operation, Weave};
use cow_core::fault::{Change, Dice, FaultError, FaultyStorage, Machine, OperationId};
use cow_core::format::{Layer, Top, native, raw};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Page, StorageKey};
use cow_core::storage::ReadStorage;
use cow_core::units::Extent;

use super::log::{LogPlan, SimLog, log_from_the_beginning};
use crate::chain_model::{Disk, Format};
use crate::sim::{CommitLog, Logged, NoteEvent};

/// When an overlay that the server asks for comes into being.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Creation {
    /// Before the next frame.
    Now,
    /// When the test says so.
    Held,
    /// It does not.
    Fails,
}

/// An operation under way.
#[derive(Debug)]
pub struct Held {
    /// As it was started.
    pub job: Job,
    /// What it does.
    pub operation: Operation,
    /// What is read instead, if it comes from two storages.
    pub(super) weave: Option<Weave>,
    pub(super) change: Option<(OperationId, Result<(), FaultError>)>,
    pub(super) early: Option<Vec<u8>>,
    /// The record of the commit log that becomes durable.
    pub(super) record: Option<usize>,
}

/// The file of an overlay.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) key: StorageKey,
    pub(super) sectors: u64,
    /// What happened to its notes, with the number of events in the machine's log.
    notes: Vec<(usize, NoteEvent)>,
    /// Its part of the commit log.
    pub(super) changes: CommitLog,
    /// What an earlier process left of that.
    pub(super) left: Vec<Logged>,
}

/// The world of one process.
#[derive(Debug)]
pub struct SimEdge {
    /// The computer.
    pub machine: Machine,
    /// How many of 100 operations end at once.
    pub inline: u64,
    /// Syncs do not.
    pub slow_syncs: bool,
    /// What becomes of overlays that are asked for.
    pub creation: Creation,
    /// Operations under way.
    pub held: Vec<Held>,
    /// Disks whose overlay was asked for and is not there.
    pub wanted: Vec<(u32, DiskSpec)>,
    /// Labels of the disks whose overlay was made, in order.
    pub created: Vec<String>,
    /// What was to outlive the process, by label and in order.
    pub persisted: Vec<(String, TargetState)>,
    /// What the operator was told.
    pub reports: Vec<String>,
    /// Disks made for machines that nobody registered.
    pub newcomers: Vec<Mac>,
    /// Frames for other workers: whom, the link through which they came, and what they are.
    pub handed: Vec<(usize, usize, Vec<u8>)>,
    /// Operations started, by kind; and runs of writes.
    pub started: BTreeMap<&'static str, u64>,
    /// Notes and records of the commit log are reported as kept and are not: to show that a test
    /// notices.
    pub drops_notes: bool,
    /// What there is for disks in [`Durability::Logged`] mode.
    pub plan: Option<LogPlan>,
    pub(super) log: SimLog,
    pub(super) storages: Vec<FaultyStorage>,
    /// The base that was added last.
    pub(super) base: Option<Layer<'static>>,
    pub(super) files: BTreeMap<PathBuf, File>,
    pub(super) open: HashMap<u32, PathBuf>,
    pub(super) dice: Dice,
}

impl SimEdge {
    /// A world with nothing in it.
    pub fn new(seed: u64) -> Self {
        Self {
            machine: Machine::new(),
            inline: 100,
            slow_syncs: false,
            creation: Creation::Now,
            held: Vec::new(),
            wanted: Vec::new(),
            created: Vec::new(),
            persisted: Vec::new(),
            reports: Vec::new(),
            newcomers: Vec::new(),
            handed: Vec::new(),
            started: BTreeMap::new(),
            drops_notes: false,
            plan: None,
            log: SimLog::default(),
            storages: Vec::new(),
            base: None,
            files: BTreeMap::new(),
            open: HashMap::new(),
            dice: Dice::new(seed ^ 0x0005_1ed9_e000),
        }
    }

    /// A base of `len` bytes of garbage, and its layer.
    pub fn add_base(&mut self, len: u64, seed: u64) -> (FaultyStorage, Layer<'static>) {
        let base = self.machine.add_medium(len, len, seed | 1);
        let key = self.add_storage(base.clone());
        let layer = Layer::Raw(raw::Raw::new(key, len).expect("a base"));
        self.base = Some(layer);
        (base, layer)
    }

    fn add_storage(&mut self, storage: FaultyStorage) -> StorageKey {
        self.storages.push(storage);
        StorageKey(u32::try_from(self.storages.len() - 1).expect("few storages"))
    }

    /// The storage of a key.
    pub fn storage(&self, key: StorageKey) -> &FaultyStorage {
        &self.storages[key.0 as usize]
    }

    /// What the next process finds on `machine`, a copy of this one after its end, when this one's
    /// log had `cut` events. `power`: whether the power was gone, and with it the notes, and what
    /// was not synced of the commit log.
    #[must_use]
    pub fn next_process(&self, machine: &Machine, cut: usize, power: bool) -> Self {
        let mut next = Self::new(cut as u64);
        next.machine = machine.clone();
        next.storages = self.storages.iter().map(|s| s.on(machine)).collect();
        (next.base, next.plan) = (self.base, self.plan);
        for (path, file) in &self.files {
            let left = if power { Vec::new() } else { left(&file.notes, cut) };
            let notes = left.into_iter().map(|note| (0, NoteEvent::Kept(note))).collect();
            let seed = u64::from(file.key.0) << 32 ^ cut as u64;
            let left = file.changes.at(cut, !power, seed).to_vec();
            let (key, sectors, changes) = (file.key, file.sectors, CommitLog::default());
            next.files.insert(path.clone(), File { key, sectors, notes, changes, left });
        }
        next
    }

    /// Makes, or opens, the overlay of a disk.
    ///
    /// # Panics
    /// If there is an overlay that cannot be opened.
    pub fn open_overlay(&mut self, disk: u32, spec: &DiskSpec) -> Opened {
        let Overlay::File(path) = &spec.overlay else { panic!("{} has no overlay", spec.label) };
        let is_logged = self.plan.is_some() && spec.durability == Durability::Logged;
        let is_made = !self.files.contains_key(path);
        if is_made {
            self.make(path.clone(), spec.target.sectors, is_logged);
            self.created.push(spec.label.clone());
        } else {
            self.repeat(path);
        }
        let log = match (is_logged, is_made) {
            (false, _) => LogUse::None,
            (true, true) => LogUse::Part,
            (true, false) => LogUse::AtFirstChange,
        };
        let file = &self.files[path];
        let mut storage = self.storages[file.key.0 as usize].clone();
        let page = &mut Page::ZERO.clone();
        let top = if log == LogUse::Part {
            let made = native::open(&storage, page).expect("was made");
            made.into_repeating(file.key).expect("not frozen")
        } else {
            native::open_writable(&mut storage, file.key, page)
                .unwrap_or_else(|e| panic!("open the overlay of {}: {e}", spec.label))
        };
        assert_eq!(file.sectors, spec.target.sectors, "size of the overlay of {}", spec.label);
        let notes = latest(&left(&file.notes, usize::MAX));
        self.open.insert(disk, path.clone());
        Opened { top: Top::Native(top), index: Vec::new(), used: 0, log, noted: true, notes }
    }

    /// Whether a disk's overlay exists.
    pub fn has_file(&self, spec: &DiskSpec) -> bool {
        matches!(&spec.overlay, Overlay::File(path) if self.files.contains_key(path))
    }

    /// Number of overlays.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Makes the overlay of a disk as a server left it that had no commit log.
    ///
    /// # Panics
    /// If there is one.
    pub fn leave_overlay(&mut self, spec: &DiskSpec) {
        let Overlay::File(path) = &spec.overlay else { panic!("{} has no overlay", spec.label) };
        assert!(!self.files.contains_key(path), "{} has an overlay", spec.label);
        self.make(path.clone(), spec.target.sectors, false);
    }

    fn make(&mut self, path: PathBuf, sectors: u64, is_logged: bool) {
        let len = Disk::top_len(Format::Native, sectors);
        let mut storage = self.machine.add_medium(len, len, 0);
        let number = u8::try_from(self.files.len() % 255).expect("small");
        let options = native::CreateOptions {
            layer_id: LayerId([number + 1; 16]),
            sectors,
            parent: ParentIdentity::None,
            window: None,
            hint: b"",
            label: b"simulated",
            created_s: 0,
            log: log_from_the_beginning(is_logged),
            fresh: native::Fresh::Zeroed,
        };
        native::create(&mut storage, &options, &mut Page::ZERO.clone()).expect("create");
        let key = self.add_storage(storage);
        let (notes, changes, left) = (Vec::new(), CommitLog::default(), Vec::new());
        self.files.insert(path, File { key, sectors, notes, changes, left });
    }

    /// Looks for damage in every overlay.
    ///
    /// # Errors
    /// The findings.
    pub fn check(&self) -> Result<(), String> {
        for (path, file) in &self.files {
            let mut found = Vec::new();
            let storage = self.storage(file.key);
            native::check(storage, &mut Page::ZERO.clone(), &mut |finding| {
                if finding.is_damage() {
                    found.push(finding.to_string());
                }
            })
            .map_err(|e| format!("check of {}: {e}", path.display()))?;
            if !found.is_empty() {
                return Err(format!("check of {} finds {found:?}", path.display()));
            }
        }
        Ok(())
    }

    /// Ends an operation under way.
    pub fn end(&mut self, at: usize) -> Completion {
        let Held { job, operation, weave, change, early, record } = self.held.swap_remove(at);
        let (result, data) = if let Some(record) = record {
            (self.end_record(job.disk, record), None)
        } else if let Some((id, result)) = change {
            self.machine.end(id, result);
            (result, None)
        } else if let Some(weave) = weave {
            let mut bytes = vec![0xee; usize::try_from(weave.len_bytes()).expect("small")];
            (self.read_woven(&weave, &mut bytes), Some(early.unwrap_or(bytes)))
        } else {
            let mut bytes = vec![0xee; usize::try_from(operation.len).expect("small")];
            let read = self.storage(operation.storage).read_at(operation.offset, &mut bytes);
            (read, Some(early.unwrap_or(bytes)))
        };
        Completion { job, result: result.map_err(failure), data }
    }

    fn read_woven(&self, weave: &Weave, buf: &mut [u8]) -> Result<(), FaultError> {
        for run in weave.runs() {
            let strand = weave.strands[usize::from(run.is_second)];
            let (lead, len) = (run.first as usize * 512, run.sectors as usize * 512);
            let storage = self.storage(strand.storage);
            storage.read_at(strand.offset + lead as u64, &mut buf[lead..][..len])?;
        }
        Ok(())
    }

    /// The change that an operation makes, and where.
    fn begin(&self, operation: &Operation, data: &[u8]) -> (OperationId, Result<(), FaultError>) {
        let storage = self.storage(operation.storage);
        let (offset, len) = (operation.offset, operation.len);
        let change = match operation.kind {
            Kind::Write => Change::Write { offset, data: data.into() },
            Kind::Zero => Change::Zero { offset, len },
            Kind::Punch => Change::Punch { offset, len },
            _ => Change::Sync,
        };
        self.machine.begin(storage.medium(), change)
    }
}

/// The notes that a process finds that starts after `cut` events.
fn left(notes: &[(usize, NoteEvent)], cut: usize) -> Vec<Note> {
    let (mut sealed, mut current) = (Vec::new(), Vec::new());
    for (_, event) in notes.iter().filter(|(at, _)| *at <= cut) {
        match event {
            NoteEvent::Kept(note) => current.push(*note),
            NoteEvent::Sealed => sealed.append(&mut current),
            NoteEvent::Durable => sealed.clear(),
        }
    }
    sealed.append(&mut current);
    sealed
}

/// Every sector at most once, as the notes of the real server are: the last note counts.
fn latest(notes: &[Note]) -> Vec<Note> {
    let mut sectors: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for note in notes {
        let first = note.extent.start().get();
        for at in 0..note.extent.sectors() {
            sectors.insert(first + at, note.offset.map(|offset| offset + at * 512));
        }
    }
    let single = |(lba, offset)| Note { extent: Extent::new(lba, 1).expect("a sector"), offset };
    sectors.into_iter().map(single).collect()
}

fn failure(error: FaultError) -> IoFailure {
    match error {
        FaultError::NoSpace => IoFailure::Full,
        _ => IoFailure::Medium,
    }
}

impl IoDriver for SimEdge {
    fn start_weave(&mut self, job: Job, weave: &Weave, buf: &mut [u8]) -> Started {
        *self.started.entry("weave").or_default() += 1;
        if self.dice.chance(self.inline) {
            return Some(self.read_woven(weave, buf).map_err(failure));
        }
        let mut bytes = vec![0xee; buf.len()];
        let early = self.dice.chance(50) && self.read_woven(weave, &mut bytes).is_ok();
        let operation = Operation {
            storage: weave.strands[0].storage,
            kind: Kind::Read,
            offset: weave.strands[0].offset,
            len: weave.len_bytes(),
            buffer: job.buffer,
            ticket: weave.ticket,
        };
        let (weave, early) = (Some(*weave), early.then_some(bytes));
        self.held.push(Held { job, operation, weave, change: None, early, record: None });
        None
    }

    fn start(
        &mut self,
        job: Job,
        operation: &Operation,
        memory: Memory<'_>,
    ) -> Option<Result<(), IoFailure>> {
        let name = match operation.kind {
            Kind::Read => "read",
            Kind::Unpack(_) => "unpack",
            Kind::Write => "write",
            Kind::Zero => "zero",
            Kind::Punch => "punch",
            Kind::Sync => "sync",
        };
        *self.started.entry(name).or_default() += 1;
        self.assert_changes(operation);
        let slow = self.slow_syncs && operation.kind == Kind::Sync;
        let now = self.dice.chance(self.inline) && !slow;
        let (mut change, mut early) = (None, None);
        match memory {
            Memory::Into(buf) if operation.kind == Kind::Read => {
                let storage = &self.storages[operation.storage.0 as usize];
                if now {
                    return Some(storage.read_at(operation.offset, buf).map_err(failure));
                }
                if self.dice.chance(50) {
                    let mut bytes = vec![0xee; buf.len()];
                    if storage.read_at(operation.offset, &mut bytes).is_ok() {
                        early = Some(bytes);
                    }
                }
            }
            Memory::From(data) if operation.kind == Kind::Write => {
                assert_eq!(data.len() as u64, operation.len, "the memory fits the operation");
                change = Some(self.begin(operation, data));
            }
            Memory::None => change = Some(self.begin(operation, &[])),
            _ => panic!("memory does not fit {operation:?}"),
        }
        if let Some((id, result)) = change.filter(|_| now) {
            self.machine.end(id, result);
            return Some(result.map_err(failure));
        }
        let operation = *operation;
        self.held.push(Held { job, operation, weave: None, change, early, record: None });
        None
    }

    fn start_run(&mut self, run: &Run<'_>, started: &mut [Started]) {
        *self.started.entry("run").or_default() += 1;
        let follows = |pair: &[Operation]| {
            pair[0].storage == pair[1].storage && pair[0].offset + pair[0].len == pair[1].offset
        };
        assert!(run.operations.windows(2).all(follows), "{run:?}");
        assert!((2..=RUN_PIECES_MAX).contains(&run.operations.len()), "{run:?}");
        assert!(run.operations.iter().map(|o| o.len).sum::<u64>() <= RUN_LEN_MAX, "{run:?}");
        // Each ends when the dice say so, as in a driver that gives the whole to a thread.
        let pieces = run.operations.iter().zip(run.data).zip(run.jobs());
        for (((operation, data), job), started) in pieces.zip(started) {
            *started = self.start(job, operation, Memory::From(data));
        }
    }
}

impl Edge for SimEdge {
    fn create_overlay(&mut self, disk: u32, spec: &DiskSpec) {
        self.wanted.push((disk, spec.clone()));
    }

    fn left_overlay(&mut self, _disk: u32, _spec: &DiskSpec) -> LeftOverlay {
        LeftOverlay::None
    }

    fn newcomer(&mut self, template: &DiskSpec, address: Address, mac: Mac) -> DiskSpec {
        self.newcomers.push(mac);
        let label = format!("auto-{mac}");
        let mut spec = template.clone();
        spec.target.identity = identity_of(address, &label);
        spec.overlay = Overlay::File(PathBuf::from(format!("{label}.cow")));
        spec.label = label;
        spec
    }

    fn note(&mut self, disk: u32, notes: &[Note]) -> Result<(), IoFailure> {
        let now = self.machine.events();
        if !self.drops_notes
            && let Some(file) = self.open.get(&disk).and_then(|path| self.files.get_mut(path))
        {
            file.notes.extend(notes.iter().map(|note| (now, NoteEvent::Kept(*note))));
        }
        Ok(())
    }

    fn join_log(&mut self, disk: u32) {
        self.ask_to_join(disk);
    }

    fn log(&mut self, job: Job, note: Note, data: &[u8]) -> Started {
        self.append(job, note, data)
    }

    fn notes_sealed(&mut self, disk: u32) {
        let now = self.machine.events();
        if let Some(file) = self.open.get(&disk).and_then(|path| self.files.get_mut(path)) {
            file.notes.push((now, NoteEvent::Sealed));
            file.changes.sealed(now);
        }
    }

    fn notes_durable(&mut self, disk: u32) {
        let now = self.machine.events();
        if let Some(file) = self.open.get(&disk).and_then(|path| self.files.get_mut(path)) {
            file.notes.push((now, NoteEvent::Durable));
            file.changes.published(now);
        }
    }

    fn persist(&mut self, _disk: u32, spec: &DiskSpec, state: &TargetState) {
        self.persisted.push((spec.label.clone(), state.clone()));
    }

    fn report(&mut self, report: Report<'_>) {
        self.reports.push(format!("{report:?}"));
    }

    fn hand_over(&mut self, worker: usize, link: usize, frame: &[u8]) {
        self.handed.push((worker, link, frame.to_vec()));
    }
}
