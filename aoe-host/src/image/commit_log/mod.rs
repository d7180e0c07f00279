//! Commit logs: what a server acknowledged as durable and has not entered into its overlays yet.
//! `docs/COMMIT-LOG.md` describes the files.
//!
//! A first write in place costs two syncs, each of which enters something into the file system's
//! journal. Here a change is appended with its data to a file that has all its blocks already, and
//! is acknowledged after one sync, which all overlays of a worker share. The overlays follow about
//! once a second, by commits of their own.
//!
//! 1. A change is acknowledged when its record and all records before it are durable.
//! 2. While an overlay's header names a log, every change of that overlay is in the log, in order.
//!    So repeating the records from any one on up to the last gives what the client was told, as long as
//!    everything before is in the overlay.
//! 3. A segment is used again when every overlay with a record in it has durably committed since.
//! 4. After a failed sync nothing more is acknowledged: the overlays take no more writes, and keep their
//!    log.

mod left;
mod record;
mod repeat;

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cow_core::engine::{IoFailure, Note};
use cow_core::format::native::LogId;
use cow_core::identity::LayerId;

use self::record::{DATA_MAX, RECORDS_AT, Record, Turn};
use super::identity::random_layer_id;
use super::overlay::overlay_options;
use super::staged::{Staged, StagedOptions, sync_directory};
use crate::error::{ErrorKind, HostError, Result};
use crate::server::io::{Job, Started};
use crate::storage::{
    FileStorage, HostedDriver, LogSync, StorageError, free_space, is_fit_for_logs,
};
use crate::values::human_bytes;

use self::repeat::overlays;
pub(super) use repeat::enter_advice;
pub use repeat::{
    Repeated, Repeats, enter_left, entered_words, go_on_without, repeat, repeat_into,
};

/// Bytes of a segment: some 4,000 writes of 4 KiB. A full one asks all overlays to commit, so larger
/// ones mean fewer commits, and more to repeat after a power cut.
const SEGMENT_LEN: u64 = 16 << 20;

/// Segments of a log: one that is being filled, and others whose overlays are committing. When all
/// are waited for, writes wait too.
const SEGMENTS: usize = 4;

/// A log takes at most this part, an eighth, of the room that is free: overlays need the rest.
const ROOM_SHARE: u64 = 8;

/// What the name of a segment ends with.
const SUFFIX: &str = ".cowlog";

/// A file of a log.
#[derive(Debug)]
struct Segment {
    file: FileStorage,
    path: PathBuf,
    /// Of its latest turn; 0: it had none.
    generation: u64,
}

/// The segment that comes after the current one. Its beginning is durable before a record goes to it:
/// otherwise a power cut could leave the old beginning with a part of the old records, and the first
/// of them without the last would be repeated over what is newer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    /// Nobody looked for one, or none is free.
    Unknown,
    /// Its beginning is written.
    Written(usize),
    /// And the sync that is under way covers it.
    Syncing(usize),
    /// It can be used.
    Ready(usize),
}

/// From which generation on records of an overlay are needed.
#[derive(Clone, Copy, Debug, Default)]
struct Needed {
    /// Because no commit covers them.
    open: Option<u64>,
    /// Because the commit that covers them is under way.
    sealed: Option<u64>,
}

impl Needed {
    fn first(&self) -> Option<u64> {
        self.open.into_iter().chain(self.sealed).min()
    }
}

/// A change that waits for a segment.
#[derive(Debug)]
struct Parked {
    job: Job,
    layer: LayerId,
    note: Note,
    data: Vec<u8>,
}

/// The log of one worker.
#[derive(Debug)]
pub struct CommitLog {
    id: LogId,
    segments: Vec<Segment>,
    current: usize,
    next: Next,
    generation: u64,
    /// Where the next record goes, and where the segment ends.
    at: u64,
    segment_len: u64,
    needed: HashMap<u32, Needed>,
    /// Of which it has records, needed or not.
    layers: HashSet<LayerId>,
    /// From which generation on overlays need records that will never commit.
    kept: Option<u64>,
    parked: VecDeque<Parked>,
    /// Appended since the last sync began, and to which segments.
    unsynced: Vec<Job>,
    touched: Vec<usize>,
    is_syncing: Arc<AtomicBool>,
    is_broken: Arc<AtomicBool>,
    wants_commit: bool,
    /// And that was told since something was committed.
    has_asked: bool,
    /// An overlay's header may name it.
    is_told: bool,
}

impl CommitLog {
    /// Makes the files of a log in a directory, with all their blocks. `None` where that is no use: in
    /// memory syncs cost nothing, and a file system that writes everything elsewhere needs room for each
    /// record, without which the log would end all of its overlays.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::Full`] where it would take too much of the room that is left.
    pub fn create(directory: &Path) -> Result<Option<Self>> {
        if !is_fit_for_logs(directory)? {
            return Ok(None);
        }
        let log_bytes = SEGMENT_LEN * SEGMENTS as u64;
        let free_bytes = free_space(directory)?.free_bytes;
        if free_bytes / ROOM_SHARE < log_bytes {
            return Err(HostError::new(ErrorKind::Full, "make a commit log in")
                .path(directory)
                .detail(format!(
                    "it would take {} of the {} that are free",
                    human_bytes(log_bytes),
                    human_bytes(free_bytes)
                ))
                .advice("make room and start the server again, or say --commit-log=false"));
        }
        Self::with_segments(directory, SEGMENT_LEN).map(Some)
    }

    /// As [`create`](Self::create), with segments of so many bytes.
    fn with_segments(directory: &Path, segment_len: u64) -> Result<Self> {
        let id = LogId(random_layer_id()?.0);
        let mut log = Self {
            id,
            segments: Vec::new(),
            current: 0,
            next: Next::Unknown,
            generation: 0,
            at: segment_len,
            segment_len,
            needed: HashMap::new(),
            layers: HashSet::new(),
            kept: None,
            parked: VecDeque::new(),
            unsynced: Vec::new(),
            touched: Vec::new(),
            is_syncing: Arc::default(),
            is_broken: Arc::default(),
            wants_commit: false,
            has_asked: false,
            is_told: false,
        };
        // Found from the start: an overlay names the log before it has a record.
        let head = Turn { log: id, generation: 0 }.emit();
        let mut staged = Vec::new();
        for number in 0..SEGMENTS {
            let path = directory.join(segment_name(id, number));
            let (unnamed, file) = stage_segment(&path, segment_len, &head)?;
            staged.push(unnamed);
            log.segments.push(Segment { file, path, generation: 0 });
        }
        // Together, once all is written: the medium has all of it to do at a time.
        for segment in &log.segments {
            segment.file.sync_data()?;
        }
        // Locked, and whole: another server's start never sees less of them.
        for unnamed in staged {
            unnamed.place()?;
        }
        sync_directory(&directory.join(SUFFIX))?;
        Ok(log)
    }

    /// What the header of an overlay is going to name it by. From now on the files stay until
    /// [`remove`](Self::remove).
    pub fn tell(&mut self) -> LogId {
        self.is_told = true;
        self.id
    }

    /// Whether an overlay's header may name it from now on. One that was closed in between may have
    /// been changed by others, and its old records would be repeated over that.
    pub fn may_take(&self, layer: LayerId) -> bool {
        !self.layers.contains(&layer)
    }

    /// Appends a change of a disk; it ends with a completion after [`sync`](Self::sync).
    pub fn append(&mut self, job: Job, layer: LayerId, note: Note, data: &[u8]) -> Started {
        if self.is_broken.load(Ordering::Acquire) || data.len() > DATA_MAX {
            return Some(Err(IoFailure::Medium));
        }
        // Records are in the order of the changes.
        if !self.parked.is_empty() {
            self.park(job, layer, note, data);
            return None;
        }
        match self.put(job, layer, note, data) {
            Ok(true) => None,
            Ok(false) => {
                self.park(job, layer, note, data);
                None
            }
            Err(failure) => Some(Err(failure)),
        }
    }

    fn park(&mut self, job: Job, layer: LayerId, note: Note, data: &[u8]) {
        self.parked.push_back(Parked { job, layer, note, data: data.to_vec() });
    }

    /// Writes a record. False if there is no room for it now.
    fn put(
        &mut self,
        job: Job,
        layer: LayerId,
        note: Note,
        data: &[u8],
    ) -> core::result::Result<bool, IoFailure> {
        let mut record = Record::new(layer, &note, data);
        let len = record.len() as u64;
        if self.at.saturating_add(len) > self.segment_len && !self.turn()? {
            return Ok(false);
        }
        let turn = Turn { log: self.id, generation: self.generation };
        let needed = self.needed.entry(job.disk).or_default();
        needed.open.get_or_insert(self.generation);
        record.from = needed.first().unwrap_or(self.generation);
        let head = record.head(turn, self.at);
        let data = record.data.unwrap_or_default();
        self.write(self.current, self.at, &[&head, data])?;
        self.at = self.at.saturating_add(len);
        self.unsynced.push(job);
        self.layers.insert(layer);
        Ok(true)
    }

    /// On to a segment that nobody needs. False if there is none yet.
    fn turn(&mut self) -> core::result::Result<bool, IoFailure> {
        self.prepare()?;
        match self.next {
            Next::Ready(next) => {
                self.next = Next::Unknown;
                self.current = next;
                self.generation += 1;
                self.at = RECORDS_AT;
                self.wants_commit = true;
                Ok(true)
            }
            Next::Written(_) | Next::Syncing(_) => Ok(false),
            Next::Unknown if self.is_stuck() => {
                self.is_broken.store(true, Ordering::Release);
                Err(IoFailure::Medium)
            }
            Next::Unknown => {
                self.wants_commit |= !core::mem::replace(&mut self.has_asked, true);
                Ok(false)
            }
        }
    }

    /// Sees to it that the next segment is begun as soon as one is free.
    fn prepare(&mut self) -> core::result::Result<(), IoFailure> {
        match self.next {
            Next::Syncing(at) if !self.is_syncing.load(Ordering::Acquire) => {
                self.next = Next::Ready(at);
            }
            Next::Unknown => {
                let Some(at) = self.free() else { return Ok(()) };
                let turn = Turn { log: self.id, generation: self.generation + 1 };
                self.write(at, 0, &[&turn.emit()])?;
                let Some(segment) = self.segments.get_mut(at) else { return Ok(()) };
                let before = core::mem::replace(&mut segment.generation, turn.generation);
                // Where nothing was nothing comes back.
                self.next = if before == 0 { Next::Ready(at) } else { Next::Written(at) };
            }
            Next::Written(_) | Next::Syncing(_) | Next::Ready(_) => {}
        }
        Ok(())
    }

    /// The segment to be begun next, in the order of their generations: what is left of the log is its
    /// end, without gaps.
    fn free(&self) -> Option<usize> {
        let needed = self.needed.values().filter_map(Needed::first).chain(self.kept).min();
        let others =
            (0..).zip(&self.segments).filter(|(at, _)| *at != self.current || self.generation == 0);
        let (at, oldest) = others.min_by_key(|(_, segment)| segment.generation)?;
        needed.is_none_or(|needed| oldest.generation < needed).then_some(at)
    }

    /// No segment will ever be free again.
    fn is_stuck(&self) -> bool {
        self.kept.is_some_and(|kept| self.segments.iter().all(|s| s.generation >= kept))
    }

    fn write(
        &mut self,
        number: usize,
        at: u64,
        pieces: &[&[u8]],
    ) -> core::result::Result<(), IoFailure> {
        let Some(segment) = self.segments.get(number) else { return Err(IoFailure::Medium) };
        if segment.file.write_gathered(at, pieces).is_err() {
            // A record that is not whole ends the log for who reads it.
            self.is_broken.store(true, Ordering::Release);
            return Err(IoFailure::Medium);
        }
        if !self.touched.contains(&number) {
            self.touched.push(number);
        }
        Ok(())
    }

    /// Appends what waited, if there is room now, and begins a sync of what was appended unless one is
    /// under way: called at the end of each turn of the loop.
    pub fn sync(&mut self, driver: &mut HostedDriver) {
        while let Some(first) = self.parked.pop_front() {
            let broken = self.is_broken.load(Ordering::Acquire);
            let put = if broken {
                Err(IoFailure::Medium)
            } else {
                self.put(first.job, first.layer, first.note, &first.data)
            };
            match put {
                Ok(true) => {}
                Ok(false) => {
                    self.parked.push_front(first);
                    break;
                }
                Err(failure) => driver.end_later(first.job, Err(failure)),
            }
        }
        if !self.is_broken.load(Ordering::Acquire) {
            // If it fails, the next append knows.
            let _broken = self.prepare();
        }
        let is_awaited = !self.parked.is_empty() && matches!(self.next, Next::Written(_));
        let idle = self.unsynced.is_empty() && !is_awaited;
        if idle || self.is_syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Next::Written(at) = self.next {
            self.next = Next::Syncing(at);
        }
        let files = self.touched.drain(..);
        let files = files.filter_map(|at| Some(self.segments.get(at)?.file.clone())).collect();
        driver.sync_log(LogSync {
            files,
            jobs: core::mem::take(&mut self.unsynced),
            is_syncing: Arc::clone(&self.is_syncing),
            is_broken: Arc::clone(&self.is_broken),
        });
    }

    /// Whether overlays should commit, so that segments can be used again. Told once.
    pub fn takes_commit(&mut self) -> bool {
        core::mem::take(&mut self.wants_commit)
    }

    /// The commit of a disk that begins now covers its records so far.
    pub fn seal(&mut self, disk: u32) {
        if let Some(needed) = self.needed.get_mut(&disk) {
            // A commit that failed covers nothing.
            needed.sealed = needed.sealed.into_iter().chain(needed.open.take()).min();
        }
    }

    /// What the latest seal covers is durable in the overlay.
    pub fn drop_sealed(&mut self, disk: u32) {
        if let Some(needed) = self.needed.get_mut(&disk) {
            needed.sealed = None;
        }
        self.has_asked = false;
    }

    /// Whether changes wait because every segment is needed.
    pub fn is_full(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Half of the last segment is full, and no other is free: time to take no more if that will not
    /// change soon. What is under way by then has room in the other half.
    pub fn is_short(&self) -> bool {
        self.next == Next::Unknown && self.at > self.segment_len / 2 && self.free().is_none()
    }

    /// Why it takes no more records, if the system said so.
    pub fn failure(&self) -> Option<StorageError> {
        let is_broken = self.is_broken.load(Ordering::Acquire);
        self.segments.iter().filter(|_| is_broken).find_map(|segment| segment.file.failure())
    }

    /// Ends the changes that wait for room, which will not come before the end of the server. The
    /// log is kept.
    pub fn give_up(&mut self, driver: &mut HostedDriver) {
        self.kept.get_or_insert(self.generation);
        for parked in self.parked.drain(..) {
            driver.end_later(parked.job, Err(IoFailure::Full));
        }
    }

    /// A disk takes no more writes and will never commit: the log keeps what it needs for the next
    /// server. All that comes later is kept with it: what is left of a log must be its end.
    pub fn keep_for(&mut self, disk: u32) {
        let first = self.needed.remove(&disk).and_then(|needed| needed.first());
        self.kept = self.kept.into_iter().chain(first).min();
    }

    /// Removes the files, unless they were [kept](Self::keep_for) for an overlay or the header of one
    /// beside them still names the log.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(self) -> Result<()> {
        let Some(directory) = self.segments.first().and_then(|s| s.path.parent()) else {
            return Ok(());
        };
        if self.kept.is_some() || overlays(directory)?.is_needed(self.id) {
            return Ok(());
        }
        for segment in &self.segments {
            let path = &segment.path;
            let removed = fs::remove_file(path);
            removed.map_err(|e| HostError::io(e, "remove the commit log").path(path))?;
        }
        Ok(())
    }
}

/// A log that no overlay was ever told of holds nothing.
impl Drop for CommitLog {
    fn drop(&mut self) {
        if !self.is_told {
            for segment in &self.segments {
                drop(fs::remove_file(&segment.path)); // gone already, or an orphan for the next server
            }
        }
    }
}

/// What the file of a segment is called.
fn segment_name(log: LogId, number: usize) -> String {
    let id: String = LayerId(log.0).to_string().chars().take(16).collect();
    format!("{id}-{number}{SUFFIX}")
}

/// Bytes of zeros that are written at once: a client waits for its log.
const ZEROS_LEN: usize = 1 << 20;

/// A locked file full of zeros behind its beginning, which is still to be synced and named: an unwritten
/// block would cost its first sync an entry in the file system's journal, which is what the log is there
/// to avoid.
fn stage_segment(path: &Path, len: u64, head: &[u8]) -> Result<(Staged, FileStorage)> {
    let failed = |e: io::Error| HostError::io(e, "make the commit log").path(path);
    let (staged, file) = Staged::create(path, StagedOptions::default())?;
    let file = FileStorage::from_file(file, path, &overlay_options(false))?;
    let zeros = vec![0; ZEROS_LEN];
    let mut at = 0;
    while at < len {
        let part = usize::try_from(len - at).unwrap_or(ZEROS_LEN).min(ZEROS_LEN);
        file.file().write_all_at(zeros.get(..part).unwrap_or_default(), at).map_err(failed)?;
        at += part as u64;
    }
    file.file().write_all_at(head, 0).map_err(failed)?;
    Ok((staged, file))
}

#[cfg(test)]
mod tests;
