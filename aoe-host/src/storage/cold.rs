//! Reads that have to wait for the medium: handed to the kernel's ring, if there is one.
//!
//! 1. The ring's memory is that of the read until it has ended; whoever asked may go away meanwhile.
//! 2. What the ring did not read whole (the file ends, the medium fails) is read by a thread, whose
//!    word is the last: errors are told, and short reads continued, in one place.
//! 3. Beginning a read may block in rare cases: when the file system has to read where the file's
//!    bytes are before it can ask for them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use cow_core::engine::Operation;

use super::FileStorage;
use super::read_ring::{Read, ReadRing};
use crate::server::io::Job;

/// Who does the reads that would block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ColdReads {
    /// The kernel by itself (`io_uring`) where it can, else threads.
    #[default]
    Auto,
    /// Threads.
    Threads,
    /// Threads, because files are read past the page cache.
    Direct,
}

impl ColdReads {
    /// For files that are opened with or without `--direct`.
    pub fn of_files(direct: bool) -> Self {
        if direct { Self::Direct } else { Self::Auto }
    }
}

/// Most reads that the ring has at one time; others wait, without memory for their data. So many keep
/// a disk with one queue of 32 (SATA) or 64 busy. It is no bound of what the medium is asked: looking
/// whether something is in memory asks for it already, so clients' outstanding requests are that
/// bound, and beginning one may block where a device's queue is full.
const UNDER_WAY_MAX: u16 = 64;

/// Which read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) job: Job,
    pub(super) operation: Operation,
}

/// What became of one.
pub(super) enum Ended {
    /// All of it was read.
    Whole(Job, Vec<u8>),
    /// To be read by a thread.
    Again(FileStorage, Wanted),
}

/// The reads of one driver that the kernel has, and those that wait for a place among them.
#[derive(Debug)]
pub(super) struct ColdRing {
    ring: Option<ReadRing<Wanted>>,
    waiting: VecDeque<(FileStorage, Wanted)>,
    /// For threads.
    lost: Vec<(FileStorage, Wanted)>,
    way: String,
}

impl ColdRing {
    pub(super) fn new(how: ColdReads, bell: BorrowedFd<'_>) -> Self {
        let (ring, way) = match how {
            ColdReads::Threads => (None, "threads, as asked for".to_owned()),
            ColdReads::Direct => (None, "threads, past the page cache".to_owned()),
            ColdReads::Auto => match ReadRing::new(UNDER_WAY_MAX, bell) {
                Ok(ring) => (Some(ring), "io_uring".to_owned()),
                Err(error) => (None, by_threads(&error)),
            },
        };
        Self { ring, waiting: VecDeque::new(), lost: Vec::new(), way }
    }

    /// Who does these reads, in words.
    pub(super) fn way(&self) -> &str {
        &self.way
    }

    /// Takes a read; false if a thread is to do it.
    pub(super) fn start(&mut self, job: Job, file: &FileStorage, operation: &Operation) -> bool {
        let may = file.ring_offset(operation.offset, operation.len).is_some();
        if !may || self.ring.is_none() {
            return false;
        }
        let wanted = Wanted { job, operation: *operation };
        self.waiting.push_back((file.clone(), wanted));
        self.fill();
        true
    }

    /// Gives the ring what waits, as far as it has places.
    fn fill(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        while ring.has_place()
            && let Some((file, wanted)) = self.waiting.pop_front()
        {
            let Operation { offset, len, .. } = wanted.operation;
            let place = file.ring_offset(offset, len).zip(usize::try_from(len).ok());
            let Some((offset, len)) = place else {
                self.lost.push((file, wanted));
                continue;
            };
            let read = Read { file, offset, memory: vec![0; len], about: wanted };
            if let Err(read) = ring.push(read) {
                self.lost.push((read.file, read.about));
            }
        }
    }

    /// Whether the kernel may have rung the bell.
    pub(super) fn may_ring(&self) -> bool {
        self.ring.as_ref().is_some_and(ReadRing::is_used)
    }

    /// Whether something has ended. Costs no system call.
    pub(super) fn has_news(&mut self) -> bool {
        self.ring.as_mut().is_some_and(ReadRing::has_news) || !self.lost.is_empty()
    }

    /// Has the kernel begin and end what it can.
    pub(super) fn enter(&mut self) {
        if let Some(ring) = &mut self.ring
            && let Err(error) = ring.enter()
        {
            self.way = by_threads(&error);
            let ring = self.ring.take();
            self.lost.extend(ring.into_iter().flat_map(ReadRing::abandon));
            self.lost.extend(self.waiting.drain(..));
        }
    }

    /// A read that a thread has to do.
    pub(super) fn next_lost(&mut self) -> Option<(FileStorage, Wanted)> {
        self.lost.pop()
    }

    /// A read that has ended, and a place for another.
    pub(super) fn next(&mut self) -> Option<Ended> {
        let (read, is_whole) = self.ring.as_mut()?.next()?;
        if !self.waiting.is_empty() {
            self.fill();
        }
        Some(if is_whole {
            Ended::Whole(read.about.job, read.memory)
        } else {
            Ended::Again(read.file, read.about)
        })
    }
}

fn by_threads(error: &io::Error) -> String {
    format!("threads, without io_uring: {error}")
}
