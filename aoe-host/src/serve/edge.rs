//! The world of the real server: files, worker threads, notes, registry, log.

use core::time::Duration;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use aoe_proto::{Address, Mac, TargetState};
use cow_core::engine::{IoFailure, Note, Operation, Weave};
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::clients_file::SharedRegistry;
use super::crew::Door;
use super::log::Log;
use super::log_plan::{Joined, LogPlan, Waiter};
use crate::config::{Export, NewClients};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Backing, CommitLog, ImageKeys, ImageName, NoteLog, OpenedOverlay, OverlayOptions,
};
use crate::mapped::MappedBytes;
use crate::registry::{
    Client, Registry, StateSchedule, automatic_name, overlay_file_name, state_file_name,
    write_atomically,
};
use crate::server::io::{IoDriver, Job, Memory, Run, Started};
use crate::server::{
    DiskSpec, Durability, Edge, LeftOverlay, LogUse, Overlay, Report, identity_of,
};
use crate::storage::{FileStorage, HostedDriver, StorageError};

/// What the names of ephemeral overlays in the overlay directory end with.
pub(super) const EPHEMERAL: &str = "ephemeral";

/// What a thread has done for the loop.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once for each overlay, and taken apart at once"
)]
pub(super) enum News {
    /// An overlay was made, or not.
    Overlay(u32, Result<OpenedOverlay>),
    /// The commit log was made, or there is to be none, or it could not be made.
    Log(Result<Option<CommitLog>>),
    /// An overlay has a commit log, or not.
    Joined(Joined),
}

/// What the edge keeps of one disk.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) opened: OpenedOverlay,
    pub(super) notes: Option<NoteLog>,
    /// Why it takes no more writes, if that is known.
    pub(super) failure: Option<String>,
}

pub(super) struct HostedEdge {
    pub(super) driver: HostedDriver,
    registry: Arc<SharedRegistry>,
    pub(super) log: Log,
    pub(super) attachments: HashMap<u32, Attachment>,
    /// By address: what lies below its overlays.
    pub(super) backings: HashMap<Address, Arc<Backing>>,
    pub(super) exports: HashMap<Address, Export>,
    pub(super) first_per_client: Address,
    pub(super) overlays: Option<PathBuf>,
    pub(super) new_clients: NewClients,
    pub(super) direct: bool,
    /// New overlays take room for the whole disk.
    pub(super) preallocate: bool,
    pub(super) notes_dir: PathBuf,
    /// Of this worker, once it was needed.
    pub(super) commit_log: Option<CommitLog>,
    pub(super) log_plan: LogPlan,
    /// Of all workers, if there are several.
    pub(super) doors: Arc<[Door]>,
    /// Frames for others that found no room.
    pub(super) handed_lost: u64,
    schedule: StateSchedule<PathBuf>,
    states: HashMap<PathBuf, Vec<u8>>,
    made: Sender<News>,
    ready: Receiver<News>,
}

impl HostedEdge {
    pub(super) fn new(
        driver: HostedDriver,
        registry: Arc<SharedRegistry>,
        log: Log,
        first_per_client: Address,
    ) -> Self {
        let (made, ready) = unbounded();
        Self {
            driver,
            registry,
            log,
            attachments: HashMap::new(),
            backings: HashMap::new(),
            exports: HashMap::new(),
            first_per_client,
            overlays: None,
            new_clients: NewClients::Refuse,
            direct: false,
            preallocate: false,
            notes_dir: PathBuf::new(),
            commit_log: None,
            log_plan: LogPlan::Settled,
            doors: Arc::default(),
            handed_lost: 0,
            schedule: StateSchedule::new(),
            states: HashMap::new(),
            made,
            ready,
        }
    }

    /// The clients, of all workers. Not to be held while waiting for anybody.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    /// The client of this name.
    fn client(&self, label: &str) -> Option<Client> {
        let registry = self.registry();
        registry.find_name(label).and_then(|id| registry.client(id)).cloned()
    }

    /// Whether [`next_news`](Self::next_news) has something.
    pub(super) fn has_news(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What a thread has done meanwhile, if anything.
    pub(super) fn next_news(&self) -> Option<News> {
        self.ready.try_recv().ok()
    }

    /// Where threads report.
    pub(super) fn news(&self) -> Sender<News> {
        self.made.clone()
    }

    /// Where a client's overlay of an export is kept.
    pub(super) fn overlay_path(&self, address: Address, label: &str) -> Option<PathBuf> {
        let export = self.exports.get(&address)?;
        if let crate::config::Top::File(path) = &export.top {
            return Some(path.clone());
        }
        let file_stem = self.registry().file_stem(label);
        let client = Client { name: label.to_owned(), file_stem, macs: Vec::new() };
        let name = overlay_file_name(export, Some(&client), self.first_per_client)?;
        let path = self.overlays.as_ref()?.join(name);
        Some(match export.durability {
            // A name of its own: what a killed server leaves is then known to be worthless.
            crate::config::Durability::Ephemeral => path.with_extension(EPHEMERAL),
            _ => path,
        })
    }

    /// Where the protocol state of a disk is kept, if anything is.
    pub(super) fn state_path(&self, address: Address, label: &str) -> Option<PathBuf> {
        let export = self.exports.get(&address)?;
        let per_client = matches!(export.top, crate::config::Top::PerClient);
        let client = self.client(label);
        if per_client && client.is_none() {
            return None; // not registered: nothing of it outlives the process
        }
        let name = state_file_name(address, client.as_ref().filter(|_| per_client));
        Some(self.overlays.as_ref()?.join(name))
    }

    /// Writes protocol state that is due, or all of it.
    pub(super) fn write_states(&mut self, now: Duration, all: bool) {
        let mut due = if all { self.schedule.take_all() } else { Vec::new() };
        due.extend(core::iter::from_fn(|| self.schedule.take_due(now)));
        for path in due {
            if let Some(bytes) = self.states.get(&path)
                && let Err(error) = write_atomically(&path, bytes)
            {
                self.log.error(&error.report());
            }
        }
    }

    /// Writes the registry if it changed.
    pub(super) fn write_registry(&self) -> Result<()> {
        self.overlays.as_ref().map_or(Ok(()), |directory| self.registry.write(directory))
    }

    /// Enters the machine behind a disk that is about to be written into the registry, which is still
    /// to be [written](Self::write_registry).
    fn admit(&self, spec: &DiskSpec) -> Result<()> {
        let (label, Some(mac)) = (&spec.label, spec.newcomer) else { return Ok(()) };
        let NewClients::Auto { max } = self.new_clients else { return Ok(()) };
        let mut registry = self.registry();
        if registry.find(mac).is_none() {
            registry.admit(mac, max)?;
            drop(registry);
            self.log.info(&format!("new client {label} ({mac})"));
        }
        Ok(())
    }

    fn options(&self, spec: &DiskSpec) -> OverlayOptions {
        OverlayOptions {
            label: spec.label.clone(),
            direct: self.direct,
            preallocate: self.preallocate,
            log: None,
        }
    }

    /// Opens an overlay that exists; `None` if there is none yet.
    pub(super) fn open_existing(
        &mut self,
        address: Address,
        spec: &DiskSpec,
    ) -> Result<Option<OpenedOverlay>> {
        let Overlay::File(path) = &spec.overlay else { return Ok(None) };
        let name = ImageName::parse(path);
        let exists = name.path.try_exists();
        if !exists.map_err(|e| HostError::io(e, "look for the overlay").path(path))? {
            return Ok(None);
        }
        let backing = self.backing(address, path)?;
        let keys = ImageKeys::reserve(&name, self.driver.files_mut());
        crate::image::open_overlay(&name, &backing, keys, &self.options(spec)).map(Some)
    }

    fn backing(&self, address: Address, path: &Path) -> Result<Arc<Backing>> {
        self.backings.get(&address).cloned().ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "find the layers under the overlay").path(path)
        })
    }

    /// Enters an opened overlay into the tables, with the notes of an earlier process.
    pub(super) fn attach(
        &mut self,
        disk: u32,
        mut opened: OpenedOverlay,
        durability: Durability,
    ) -> Result<crate::server::Opened> {
        let (mut notes, mut log) = (Vec::new(), None);
        if let Some(id) = opened.note_id() {
            // An overlay that an earlier process left with notes takes them up in every mode.
            // In other modes there is no log but to publish what it holds.
            let wanted = durability == Durability::Writeback;
            if wanted || NoteLog::is_pending(&self.notes_dir, id)? {
                let mut kept = NoteLog::open(&self.notes_dir, id)?;
                notes = kept.load()?;
                log = Some(kept);
            }
        }
        // What is noted already is in no log: notes first, and the log the next time. One that was just
        // made has its log already, or there is none; what waited for it begins at once.
        let is_late = opened.was_created() || !notes.is_empty();
        let wanted = durability == Durability::Logged && !is_late;
        let log_use = if opened.logged_layer().is_some() {
            LogUse::Part
        } else if wanted && opened.may_have_log() && self.is_beside(opened.file().path()) {
            LogUse::AtFirstChange
        } else {
            LogUse::None
        };
        opened.enter(self.driver.files_mut());
        let core = opened.take_core().ok_or_else(|| {
            HostError::new(ErrorKind::Io, "attach the overlay").path(opened.file().path())
        })?;
        let outlives = log.is_some();
        self.attachments.insert(disk, Attachment { opened, notes: log, failure: None });
        let (top, index, used) = (core.top, core.index, core.used);
        Ok(crate::server::Opened { top, index, used, log: log_use, noted: outlives, notes })
    }
}

impl HostedEdge {
    /// What the system said when an overlay, or the log of all of them, failed, as far as it failed last.
    fn failure(&self, disk: u32) -> Option<StorageError> {
        let opened = &self.attachments.get(&disk)?.opened;
        let is_logged = opened.logged_layer().is_some();
        let log = self.commit_log.as_ref().filter(|_| is_logged).and_then(CommitLog::failure);
        log.or_else(|| opened.file().files().find_map(FileStorage::failure))
    }

    /// Has appended changes synced.
    pub(super) fn sync_log(&mut self) {
        if let Some(log) = &mut self.commit_log {
            log.sync(&mut self.driver);
        }
    }
}

impl IoDriver for HostedEdge {
    fn lend(&mut self, operation: &Operation) -> Option<MappedBytes> {
        self.driver.lend(operation)
    }

    fn lend_weave(&mut self, weave: &Weave) -> Option<MappedBytes> {
        self.driver.lend_weave(weave)
    }

    fn start_weave(&mut self, job: Job, weave: &Weave, buf: &mut [u8]) -> Started {
        self.driver.start_weave(job, weave, buf)
    }

    fn start(
        &mut self,
        job: Job,
        operation: &Operation,
        memory: Memory<'_>,
    ) -> Option<core::result::Result<(), IoFailure>> {
        self.driver.start(job, operation, memory)
    }

    fn start_run(&mut self, run: &Run<'_>, started: &mut [Started]) {
        self.driver.start_run(run, started);
    }
}

impl Edge for HostedEdge {
    fn create_overlay(&mut self, disk: u32, spec: &DiskSpec) {
        let prepared = self.admit(spec).and_then(|()| {
            let Overlay::File(path) = &spec.overlay else {
                return Err(HostError::new(ErrorKind::Unsupported, "create the overlay"));
            };
            Ok((path.clone(), self.backing(spec.target.address, path)?))
        });
        let (path, backing) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let _closed = self.made.send(News::Overlay(disk, Err(error)));
                return;
            }
        };
        let name = ImageName::parse(path);
        // Named from its creation on, a log costs no sync of its own.
        let is_logged = spec.durability == Durability::Logged && self.is_beside(&name.path);
        if is_logged && self.awaits_log(Waiter::Create(disk, Box::new(spec.clone()))) {
            return;
        }
        let keys = ImageKeys::reserve(&name, self.driver.files_mut());
        let log = self.commit_log.as_mut().filter(|_| is_logged).map(CommitLog::tell);
        let (options, made) = (OverlayOptions { log, ..self.options(spec) }, self.made.clone());
        let (registry, directory) = (Arc::clone(&self.registry), self.overlays.clone());
        self.driver.spawn(Box::new(move || {
            // First: an overlay whose machine nobody remembers would not be found again.
            let kept = directory.map_or(Ok(()), |directory| registry.write(&directory));
            let opened =
                kept.and_then(|()| crate::image::create_overlay(&name, &backing, keys, &options));
            // The receiver is gone only when the server is ending: nobody waits for it.
            let _closed = made.send(News::Overlay(disk, opened));
        }));
    }

    fn newcomer(&mut self, template: &DiskSpec, address: Address, mac: Mac) -> DiskSpec {
        let label = automatic_name(mac);
        let mut spec = template.clone();
        spec.target.identity = identity_of(address, &label);
        if let Some(path) = self.overlay_path(address, &label) {
            spec.overlay = Overlay::File(path);
        }
        spec.label = label;
        spec
    }

    fn left_overlay(&mut self, disk: u32, spec: &DiskSpec) -> LeftOverlay {
        let opened = self
            .open_existing(spec.target.address, spec)
            .and_then(|left| left.map(|o| self.attach(disk, o, spec.durability)).transpose())
            .and_then(|left| {
                if left.is_some() {
                    self.admit(spec).and_then(|()| self.write_registry())?;
                }
                Ok(left)
            });
        match opened {
            Ok(None) => LeftOverlay::None,
            Ok(Some(opened)) => LeftOverlay::Opened(opened),
            Err(error) => {
                self.log.error(&error.report());
                LeftOverlay::Unusable
            }
        }
    }

    fn note(&mut self, disk: u32, notes: &[Note]) -> core::result::Result<(), IoFailure> {
        match self.attachments.get_mut(&disk).and_then(|a| a.notes.as_mut()) {
            Some(log) => log.append(notes).map_err(|error| {
                self.log.error(&error.report());
                IoFailure::Full
            }),
            None => Ok(()),
        }
    }

    fn join_log(&mut self, disk: u32) {
        if !self.awaits_log(Waiter::Join(disk)) {
            self.begin_log_of(disk);
        }
    }

    fn log(&mut self, job: Job, note: Note, data: &[u8]) -> Started {
        let layer = self.attachments.get(&job.disk).and_then(|a| a.opened.logged_layer());
        match (&mut self.commit_log, layer) {
            (Some(log), Some(layer)) => log.append(job, layer, note, data),
            _ => Some(Err(IoFailure::Medium)),
        }
    }

    fn notes_sealed(&mut self, disk: u32) {
        if let Some(log) = &mut self.commit_log {
            log.seal(disk);
        }
        if let Some(log) = self.attachments.get_mut(&disk).and_then(|a| a.notes.as_mut())
            && let Err(error) = log.seal()
        {
            self.log.error(&error.report());
        }
    }

    fn notes_durable(&mut self, disk: u32) {
        if let Some(log) = &mut self.commit_log {
            log.drop_sealed(disk);
        }
        if let Some(log) = self.attachments.get_mut(&disk).and_then(|a| a.notes.as_mut())
            && let Err(error) = log.drop_sealed()
        {
            self.log.error(&error.report());
        }
    }

    fn persist(&mut self, _disk: u32, spec: &DiskSpec, state: &TargetState) {
        let Some(path) = self.state_path(spec.target.address, &spec.label) else { return };
        let mut bytes = vec![0; TargetState::ENCODED_LEN_MAX];
        if let Ok(len) = state.encode(&mut bytes) {
            bytes.truncate(len);
            self.states.insert(path.clone(), bytes);
            self.schedule.mark(path);
        }
    }

    fn report(&mut self, report: Report<'_>) {
        let mut cause = None;
        if let Report::ReadOnly { number, .. } = report {
            cause = self.failure(number);
            if let Some(attachment) = self.attachments.get_mut(&number) {
                attachment.failure = cause.as_ref().map(ToString::to_string);
            }
        }
        self.log.report(&report, cause.as_ref());
    }

    fn hand_over(&mut self, worker: usize, link: usize, frame: &[u8]) {
        let taken = self.doors.get(worker).is_some_and(|door| door.hand_over(link, frame));
        self.handed_lost += u64::from(!taken);
    }

    fn may_join(&self, mac: Mac) -> bool {
        let NewClients::Auto { max: Some(max) } = self.new_clients else { return true };
        let registry = self.registry();
        registry.find(mac).is_some() || u32::try_from(registry.len()).is_ok_and(|len| len < max)
    }
}
