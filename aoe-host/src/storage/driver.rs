//! The hosted driver: what does not block is done at once, the rest by threads.
//!
//! 1. Reads from the page cache and writes into it are done inside [`IoDriver::start`], without an
//!    allocation. A write into part of a page that would have to be read first is not.
//!    Writes that follow each other are done by one call.
//! 2. A read that would block is done into memory of its own: by the kernel's ring, see `cold`, else
//!    by a thread. How a file tells is learnt per file: `RWF_NOWAIT` where the file system has it; at
//!    once where the file lives in memory (tmpfs); always a thread elsewhere.
//! 3. Syncs, zeroing and punching are done by threads of a pool of their own, so that a slow sync
//!    never keeps a read waiting.
//! 4. With direct I/O everything is done by threads.
//! 5. Compressed units are unpacked by threads; a part of one that is at hand is copied at once.
//! 6. What is read again and again is lent from mappings: see `windows`.
//! 7. Sectors that lie in two files by turns are read with one call for each of them.
//! 8. A sync covers every write whose end was reported before it was started: such writes are in
//!    the page cache, or on the device, by then.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cow_core::engine::{IoFailure, Kind, Operation, WEAVE_SECTORS_MAX, Weave};
use cow_core::pages::StorageKey;
use cow_core::storage::ReadStorage;
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::cold::{ColdReads, ColdRing, Ended, Wanted};
use super::file::Now;
use super::unpack::Unpacker;
use super::windows::Windows;
use super::workers::{Bell, Pool, Waker};
use super::{FileStorage, FileTable, StorageError};
use crate::error::Result;
use crate::mapped::MappedBytes;
use crate::server::io::{Completion, IoDriver, Job, Memory, Run, Started};

/// The longest weave.
const SCRATCH_LEN: usize = 64 * SECTOR_LEN;
const _: () = assert!(WEAVE_SECTORS_MAX == 64, "the longest weave fits");

const SECTOR_LEN: usize = 512;

/// How many threads a [`HostedDriver`] has at most. They are started when they are needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkerCounts {
    /// For reads that would block and the kernel does not do by itself, and direct writes.
    pub data: usize,
    /// For syncs, zeroing, punching and [`HostedDriver::spawn`]. A sync sleeps nearly all of its
    /// time, and those of many files at the same time share the commits of a journalling file
    /// system: as many threads as overlays that wait, within reason. One `syncfs` for all would also
    /// wait for whatever else was written to that file system, and tells nobody whose write failed.
    pub slow: usize,
}

impl Default for WorkerCounts {
    fn default() -> Self {
        Self { data: 4, slow: 64 }
    }
}

/// What one sync of a commit log covers.
#[derive(Debug)]
pub(crate) struct LogSync {
    /// Where it was appended.
    pub(crate) files: Vec<FileStorage>,
    /// What was.
    pub(crate) jobs: Vec<Job>,
    /// Cleared at the end, before the outcome is reported.
    pub(crate) is_syncing: Arc<AtomicBool>,
    /// Set when a sync or an append failed: nothing is acknowledged any more.
    pub(crate) is_broken: Arc<AtomicBool>,
}

/// Performs the operations of all engines of one thread.
#[derive(Debug)]
pub struct HostedDriver {
    files: FileTable,
    windows: Windows,
    /// Where the second strand of a weave is read to.
    scratch: Box<[u8]>,
    under_way: usize,
    outcomes: Receiver<Completion>,
    report: Sender<Completion>,
    /// Dropped before the bell that it rings.
    cold: ColdRing,
    bell: Arc<Bell>,
    /// Whether somebody may have slept until the bell rang.
    slept: Cell<bool>,
    data: Pool,
    slow: Pool,
}

impl HostedDriver {
    /// Starts the threads. Cold reads go the best way that there is.
    ///
    /// # Errors
    /// The system has no thread or descriptor to give.
    pub fn new(workers: WorkerCounts) -> Result<Self> {
        Self::with_cold_reads(workers, ColdReads::Auto)
    }

    /// As [`new`](Self::new), with a choice.
    ///
    /// # Errors
    /// As there.
    pub fn with_cold_reads(workers: WorkerCounts, cold: ColdReads) -> Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let (report, outcomes) = unbounded();
        Ok(Self {
            files: FileTable::new(),
            windows: Windows::new(),
            scratch: vec![0; SCRATCH_LEN].into_boxed_slice(),
            under_way: 0,
            outcomes,
            report,
            cold: ColdRing::new(cold, bell.fd()),
            slept: Cell::new(false),
            data: Pool::new("data", workers.data, &bell)?,
            slow: Pool::new("sync", workers.slow, &bell)?,
            bell,
        })
    }

    /// The files that operations name.
    pub fn files(&self) -> &FileTable {
        &self.files
    }

    /// The files, to add and remove some. Remove a file only when nothing is under way on it.
    pub fn files_mut(&mut self) -> &mut FileTable {
        &mut self.files
    }

    /// Readable when [`drain`](Self::drain) has something to tell, or a spawned task has ended. To be
    /// asked for again before each wait, after [`submit`](Self::submit).
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.slept.set(true);
        self.bell.fd()
    }

    /// Whether [`poll_fd`](Self::poll_fd) is readable, or is about to be. Costs no system call.
    pub fn has_news(&mut self) -> bool {
        self.bell.is_rung() || self.cold.has_news()
    }

    /// Who does reads that would block: `io_uring`, or `threads` and why.
    pub fn cold_reads(&self) -> &str {
        self.cold.way()
    }

    /// Has the kernel begin the cold reads that were started: once for all of them, after the last.
    /// True if [`drain`](Self::drain) has something to tell already.
    pub fn submit(&mut self) -> bool {
        self.cold.enter();
        while let Some((file, Wanted { job, operation })) = self.cold.next_lost() {
            self.by_thread(job, file, &operation, None);
        }
        self.cold.has_news()
    }

    /// What makes [`poll_fd`](Self::poll_fd) readable from another thread.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.bell))
    }

    /// Everything lent has been sent: mappings may change. Called once for each turn of the loop.
    pub fn settle(&mut self, now: Duration) {
        self.windows.settle(now);
    }

    /// Something lent could not be read while it was sent: nothing more is lent before it is looked for.
    pub fn doubt_lent(&mut self) {
        self.windows.doubt();
    }

    /// Operations whose completion has not been drained yet.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Hands every completion that is there to `sink`; never blocks.
    pub fn drain(&mut self, sink: &mut dyn FnMut(Completion)) {
        let by_kernel = self.cold.may_ring() && (self.slept.replace(false) || self.cold.has_news());
        self.bell.silence(by_kernel);
        self.submit();
        while let Some(ended) = self.cold.next() {
            match ended {
                Ended::Whole(job, data) => {
                    self.under_way = self.under_way.saturating_sub(1);
                    sink(Completion { job, result: Ok(()), data: Some(data) });
                }
                Ended::Again(file, Wanted { job, operation }) => {
                    self.by_thread(job, file, &operation, None);
                }
            }
        }
        while let Ok(completion) = self.outcomes.try_recv() {
            self.under_way = self.under_way.saturating_sub(1);
            sink(completion);
        }
    }

    /// Runs a task that may block, such as making an overlay, on a thread. [`poll_fd`](Self::poll_fd)
    /// becomes readable when it has ended; what it achieved it reports through a channel of its own.
    pub fn spawn(&self, task: Box<dyn FnOnce() + Send>) {
        self.slow.run(task);
    }

    /// Has the outcome of an operation reported with the next [`drain`](Self::drain).
    pub(crate) fn end_later(&mut self, job: Job, result: core::result::Result<(), IoFailure>) {
        self.under_way = self.under_way.saturating_add(1);
        let _unread = self.report.send(Completion { job, result, data: None });
        self.bell.ring();
    }

    /// Syncs what was appended to a commit log, and reports every change that this makes durable.
    pub(crate) fn sync_log(&mut self, sync: LogSync) {
        self.under_way = self.under_way.saturating_add(sync.jobs.len());
        let report = self.report.clone();
        self.slow.run(Box::new(move || {
            let mut result = Ok(());
            for file in &sync.files {
                result = result.and(outcome(file.sync_data()));
            }
            // After a failed sync nobody knows what is there, and a later one says nothing about it.
            let failed = result.is_err() || sync.is_broken.load(Ordering::Acquire);
            sync.is_broken.store(failed, Ordering::Release);
            let result = if failed { Err(IoFailure::Medium) } else { Ok(()) };
            sync.is_syncing.store(false, Ordering::Release);
            for job in sync.jobs {
                let _unread = report.send(Completion { job, result, data: None });
            }
        }));
    }

    fn later(&mut self, job: Job, file: FileStorage, operation: &Operation, data: Option<Vec<u8>>) {
        self.under_way = self.under_way.saturating_add(1);
        if operation.kind == Kind::Read && self.cold.start(job, &file, operation) {
            return;
        }
        self.by_thread(job, file, operation, data);
    }

    /// Has an operation that is under way done by a thread.
    fn by_thread(&self, job: Job, file: FileStorage, operation: &Operation, data: Option<Vec<u8>>) {
        let (operation, report) = (*operation, self.report.clone());
        let unpacker = Arc::clone(self.files.unpacker());
        let task = Box::new(move || {
            let (result, data) = perform(&file, &unpacker, &operation, data);
            // The receiver is gone only when the driver is being dropped: nobody is interested.
            let _unread = report.send(Completion { job, result: outcome(result), data });
        });
        match operation.kind {
            Kind::Read | Kind::Unpack(_) | Kind::Write => self.data.run(task),
            Kind::Zero | Kind::Punch | Kind::Sync => self.slow.run(task),
        }
    }
}

impl HostedDriver {
    /// Reads both strands of a weave if that does not block: the first to its place, the second beside
    /// it, whose sectors then go between.
    fn read_woven_now(
        &mut self,
        [first, second]: &[FileStorage; 2],
        weave: &Weave,
        buf: &mut [u8],
    ) -> Option<()> {
        let span = Span::of(weave, false)?;
        let into = buf.get_mut(span.at..)?.get_mut(..span.len)?;
        let Now::Done = first.read_now(span.offset, into) else { return None };
        self.windows.found(first, span.offset, span.len);
        let span = Span::of(weave, true)?;
        let beside = self.scratch.get_mut(span.at..)?.get_mut(..span.len)?;
        let Now::Done = second.read_now(span.offset, beside) else { return None };
        self.windows.found(second, span.offset, span.len);
        for run in weave.runs().filter(|run| run.is_second) {
            let at = run.first as usize * SECTOR_LEN;
            let len = run.sectors as usize * SECTOR_LEN;
            let from = self.scratch.get(at..)?.get(..len)?;
            buf.get_mut(at..)?.get_mut(..len)?.copy_from_slice(from);
        }
        Some(())
    }

    /// Has a weave read by a thread, run by run.
    fn weave_later(&mut self, job: Job, files: [FileStorage; 2], weave: Weave) {
        self.under_way = self.under_way.saturating_add(1);
        let report = self.report.clone();
        self.data.run(Box::new(move || {
            let mut data = vec![0; usize::try_from(weave.len_bytes()).unwrap_or(0)];
            let result = weave.runs().try_for_each(|run| {
                let [first, second] = &files;
                let [strand, other] = &weave.strands;
                let (file, strand) = if run.is_second { (second, other) } else { (first, strand) };
                let (lead, len) =
                    (run.first as usize * SECTOR_LEN, run.sectors as usize * SECTOR_LEN);
                let part = data.get_mut(lead..).and_then(|rest| rest.get_mut(..len));
                file.read_at(strand.offset.saturating_add(lead as u64), part.unwrap_or_default())
            });
            let result = outcome(result);
            let _unread = report.send(Completion { job, result, data: Some(data) });
        }));
    }

    /// Has a run written by a thread.
    fn run_later(&mut self, run: &Run<'_>, file: FileStorage, offset: u64) {
        let data = run.data.concat();
        let pieces: Vec<(Job, usize)> = run.jobs().zip(run.data.iter().map(|d| d.len())).collect();
        self.under_way = self.under_way.saturating_add(pieces.len());
        let report = self.report.clone();
        self.data.run(Box::new(move || {
            let mut rest = data.as_slice();
            let pieces = pieces.into_iter().map(|(job, len)| {
                let (piece, others) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                rest = others;
                (job, piece)
            });
            let (jobs, data): (Vec<Job>, Vec<&[u8]>) = pieces.unzip();
            file.write_run(offset, &data, &mut |at, result| {
                if let Some(job) = jobs.get(at).copied() {
                    let _unread =
                        report.send(Completion { job, result: outcome(result), data: None });
                }
            });
        }));
    }
}

impl IoDriver for HostedDriver {
    fn lend(&mut self, operation: &Operation) -> Option<MappedBytes> {
        let file = self.files.get(operation.storage)?;
        let lent =
            self.windows.lend(file, operation.offset, usize::try_from(operation.len).ok()?)?;
        lent.prefetch();
        Some(lent)
    }

    fn lend_weave(&mut self, weave: &Weave) -> Option<MappedBytes> {
        let mut lend = |is_second| {
            let span = Span::of(weave, is_second)?;
            let lent = self.windows.lend(self.files.get(span.storage)?, span.offset, span.len)?;
            Some((lent, span.at))
        };
        let (first, second) = (lend(false)?, lend(true)?);
        let len = usize::try_from(weave.len_bytes()).ok()?;
        let woven = MappedBytes::woven(len, first, second, weave.second);
        woven.prefetch();
        Some(woven)
    }

    fn start_weave(&mut self, job: Job, weave: &Weave, buf: &mut [u8]) -> Started {
        let files = weave.strands.map(|strand| self.files.get(strand.storage).cloned());
        let ([Some(first), Some(second)], true) = (files, buf.len() as u64 == weave.len_bytes())
        else {
            return Some(Err(IoFailure::Medium));
        };
        let files = [first, second];
        if self.read_woven_now(&files, weave, buf).is_none() {
            // Also after a failure, which may be one of bytes in between that nobody asked for.
            self.weave_later(job, files, *weave);
            return None;
        }
        Some(Ok(()))
    }

    fn start(&mut self, job: Job, operation: &Operation, memory: Memory<'_>) -> Started {
        let Some(file) = self.files.get(operation.storage) else {
            return Some(Err(IoFailure::Medium));
        };
        let offset = operation.offset;
        let copy = match (operation.kind, memory) {
            (Kind::Read, Memory::Into(buf)) if buf.len() as u64 == operation.len => {
                match file.read_now(offset, buf) {
                    Now::Done => {
                        self.windows.found(file, offset, buf.len());
                        return Some(Ok(()));
                    }
                    Now::Failed(error) => return Some(Err(error.failure())),
                    Now::Later => None,
                }
            }
            (Kind::Unpack(packed), Memory::Into(buf)) if buf.len() as u64 == operation.len => {
                if self.files.unpacker().copy_kept(operation.storage, &packed, buf) {
                    return Some(Ok(()));
                }
                None
            }
            (Kind::Write, Memory::From(data)) if data.len() as u64 == operation.len => {
                if !file.is_direct() && !file.is_cold_for_writing(offset, operation.len) {
                    return Some(outcome(file.write(offset, data)));
                }
                Some(data.to_vec())
            }
            (Kind::Zero | Kind::Punch | Kind::Sync, Memory::None) => None,
            // Memory that does not fit the operation: a defect of the caller.
            _ => return Some(Err(IoFailure::Medium)),
        };
        let file = file.clone();
        self.later(job, file, operation, copy);
        None
    }

    fn start_run(&mut self, run: &Run<'_>, started: &mut [Started]) {
        let (Some(first), true) = (run.operations.first(), is_sound(run)) else {
            started.fill(Some(Err(IoFailure::Medium)));
            return;
        };
        let Some(file) = self.files.get(first.storage) else {
            started.fill(Some(Err(IoFailure::Medium)));
            return;
        };
        let len = run.operations.iter().map(|operation| operation.len).sum();
        if !file.is_direct() && !file.is_cold_for_writing(first.offset, len) {
            file.write_run(first.offset, run.data, &mut |at, result| {
                if let Some(started) = started.get_mut(at) {
                    *started = Some(outcome(result));
                }
            });
            return;
        }
        started.fill(None);
        let file = file.clone();
        self.run_later(run, file, first.offset);
    }
}

/// From the first to the last sector of a strand.
struct Span {
    storage: StorageKey,
    /// Bytes from the beginning of the weave.
    at: usize,
    /// Byte of the storage.
    offset: u64,
    /// In bytes.
    len: usize,
}

impl Span {
    fn of(weave: &Weave, is_second: bool) -> Option<Self> {
        let strand = weave.strands.get(usize::from(is_second))?;
        let (first, sectors) = weave.span(is_second);
        let at = first as usize * SECTOR_LEN;
        let offset = strand.offset.checked_add(at as u64)?;
        Some(Self { storage: strand.storage, at, offset, len: sectors as usize * SECTOR_LEN })
    }
}

/// Every piece is what its operation says, and begins where the one before it ends.
fn is_sound(run: &Run<'_>) -> bool {
    let fits = |(operation, data): (&Operation, &&[u8])| operation.len == data.len() as u64;
    let follows = |pair: &[Operation]| match pair {
        [one, next] => {
            one.storage == next.storage && one.offset.checked_add(one.len) == Some(next.offset)
        }
        _ => true,
    };
    run.operations.len() == run.data.len()
        && run.operations.iter().zip(run.data).all(fits)
        && run.operations.windows(2).all(follows)
}

fn outcome(result: core::result::Result<(), StorageError>) -> core::result::Result<(), IoFailure> {
    result.map_err(|error| error.failure())
}

/// Does an operation, and takes as long as it takes.
fn perform(
    file: &FileStorage,
    unpacker: &Unpacker,
    operation: &Operation,
    data: Option<Vec<u8>>,
) -> (core::result::Result<(), StorageError>, Option<Vec<u8>>) {
    let (offset, len) = (operation.offset, operation.len);
    match operation.kind {
        Kind::Read => {
            // At most as long as the memory that `start` was given.
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            let result = file.read_at(offset, &mut bytes);
            (result, Some(bytes))
        }
        Kind::Unpack(packed) => {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            let result = unpacker.read(operation.storage, file, &packed, &mut bytes);
            (result, Some(bytes))
        }
        Kind::Write => (file.write(offset, &data.unwrap_or_default()), None),
        Kind::Zero => (file.zero(offset, len), None),
        Kind::Punch => (file.punch_hole(offset, len), None),
        Kind::Sync => (file.sync_data(), None),
    }
}
