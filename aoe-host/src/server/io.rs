//! The seam between the server loop and storage: operations out, outcomes back.

use cow_core::engine::{Buffer, IoFailure, Operation, Ticket, Weave};

use crate::mapped::MappedBytes;

/// Which operation of which disk: comes back with the outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Job {
    /// The disk's number in the server.
    pub disk: u32,
    /// The engine's ticket.
    pub ticket: Ticket,
    /// Where the bytes of a read go if they arrive later.
    pub buffer: Buffer,
}

/// The memory of an operation.
#[derive(Debug)]
pub enum Memory<'a> {
    /// Zeroing, punching, syncing.
    None,
    /// To be filled.
    Into(&'a mut [u8]),
    /// To be written.
    From(&'a [u8]),
}

impl Job {
    /// Of an operation that the engine of `disk` asked for.
    pub(super) fn of(disk: u32, operation: &Operation) -> Self {
        Self { disk, ticket: operation.ticket, buffer: operation.buffer }
    }

    /// Of a weave, likewise.
    pub(super) fn of_weave(disk: u32, weave: &Weave) -> Self {
        let buffer = Buffer::Request { id: weave.id, offset: weave.buffer_offset };
        Self { disk, ticket: weave.ticket, buffer }
    }
}

/// Most writes of one run: more than a link hands over at once, so that it seldom ends a run.
pub const RUN_PIECES_MAX: usize = 16;

/// Most bytes of a run: the writes of a run end together, so it must not take long.
pub const RUN_LEN_MAX: u64 = 256 << 10;

/// What became of an operation at once: it ended, or (`None`) its outcome will be reported later.
pub type Started = Option<Result<(), IoFailure>>;

/// Writes of which each begins where the one before it ends, in the same storage: at least two, and
/// at most [`RUN_PIECES_MAX`] of [`RUN_LEN_MAX`] bytes together.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Whose they are.
    pub disk: u32,
    /// The writes.
    pub operations: &'a [Operation],
    /// The bytes of each.
    pub data: &'a [&'a [u8]],
}

impl Run<'_> {
    /// What is reported later of each write.
    pub fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        self.operations.iter().map(|operation| Job::of(self.disk, operation))
    }
}

/// Performs operations: at once where that does not block, later elsewhere.
pub trait IoDriver {
    /// Where the bytes of a read lie, for an answer to be sent from there before the loop's turn ends.
    /// `None`, which is always allowed: the read is to be [`start`](Self::start)ed.
    fn lend(&mut self, operation: &Operation) -> Option<MappedBytes> {
        let _: &Operation = operation;
        None
    }

    /// As [`lend`](Self::lend), of sectors that lie in two places by turns.
    fn lend_weave(&mut self, weave: &Weave) -> Option<MappedBytes> {
        let _: &Weave = weave;
        None
    }

    /// As [`start`](Self::start): fills `buf`, which is as long as the weave.
    fn start_weave(&mut self, job: Job, weave: &Weave, buf: &mut [u8]) -> Started;

    /// Performs `operation`. `Some` if it ended; `None` if its outcome will be reported to the
    /// server with `job` later (the memory is then not touched any more: a later read brings its
    /// bytes along, a later write has copied them).
    fn start(&mut self, job: Job, operation: &Operation, memory: Memory<'_>) -> Started;

    /// Performs the writes of a run, and tells of each what [`start`](Self::start) would: one that
    /// fails does not keep the others from being written. One by one, unless a driver knows better.
    fn start_run(&mut self, run: &Run<'_>, started: &mut [Started]) {
        let pieces = run.operations.iter().zip(run.data).zip(run.jobs());
        for (((operation, data), job), started) in pieces.zip(started) {
            *started = self.start(job, operation, Memory::From(data));
        }
    }
}

/// The outcome of an operation that ended later.
#[derive(Debug)]
pub struct Completion {
    /// As it was started.
    pub job: Job,
    /// How it ended.
    pub result: Result<(), IoFailure>,
    /// Bytes of a read, as many as the operation named.
    pub data: Option<Vec<u8>>,
}
