//! The seam between the server loop and storage: operations out, outcomes back.

use cow_core::engine::{Buffer, IoFailure, Operation, Ticket};

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

/// Performs operations: at once where that does not block, later elsewhere.
pub trait IoDriver {
    /// Performs `operation`. `Some` if it ended; `None` if its outcome will be reported to the
    /// server with `job` later (the memory is then not touched any more: a later read brings its
    /// bytes along, a later write has copied them).
    fn start(
        &mut self,
        job: Job,
        operation: &Operation,
        memory: Memory<'_>,
    ) -> Option<Result<(), IoFailure>>;
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
