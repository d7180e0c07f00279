//! Storage whose power can be cut: it records every operation and rebuilds what a cut leaves.
//!
//! A [`Machine`] owns the media; [`FaultyStorage`] is a handle to one of them (or a window of it).
//! Every operation is two events in one log, its start and its end, so that an asynchronous driver
//! can hold operations in flight. Replaying a prefix of the log and calling [`Machine::power_cut`]
//! or [`Machine::kill`] gives the machine that the next process finds.
//!
//! What a power cut leaves:
//! 1. What was written, and ended, before a sync began that ended well: exactly that.
//! 2. Every other write: kept, lost or torn, independently and in any order, as the seed says.
//! 3. A failed sync loses its claim: what it should have covered may be lost even when a later
//!    sync of the same process succeeds. (Another process cannot know; its syncs count again.)
//!
//! A process kill leaves everything that ended; what was under way has happened, or not, or in part.

mod medium;
mod sparse;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use embedded_io::{ErrorKind, ErrorType};

use crate::storage::{ReadStorage, Storage};
use medium::Medium;
use sparse::{Sparse, index};

/// A small deterministic generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence that belongs to `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub const fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 if `limit` is 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        // The high bits are the good ones.
        match (self.roll() >> 16).checked_rem(limit) {
            Some(n) => n,
            None => 0,
        }
    }

    /// True in `percent` of 100 cases.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Where a write can tear.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tear {
    /// Between sectors of 512 bytes; every subset of them may arrive.
    Sectors,
    /// Anywhere, once in every 4 KiB, beside losing whole 4 KiB.
    Anywhere,
}

/// What an operation does to its medium.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// These bytes go to this offset.
    Write {
        /// Byte offset.
        offset: u64,
        /// The bytes.
        data: Arc<[u8]>,
    },
    /// The range becomes zeros.
    Zero {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The range becomes anything: bytes that nobody wrote.
    Punch {
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The medium becomes at least so long.
    Extend {
        /// Bytes.
        len: u64,
    },
    /// Barrier over what has ended before it began.
    Sync,
}

impl Change {
    /// The bytes that it touches: offset and length.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, data } => (*offset, data.len() as u64),
            Self::Zero { offset, len } | Self::Punch { offset, len } => (*offset, *len),
            Self::Extend { .. } | Self::Sync => (0, 0),
        }
    }
}

impl Change {
    /// The part between two bytes inside [`range`](Self::range).
    fn part(&self, from: u64, to: u64) -> Self {
        match self {
            Self::Write { offset, data } => {
                let part = data.get(index(from - offset)..index(to - offset));
                Self::Write { offset: from, data: part.unwrap_or_default().into() }
            }
            Self::Zero { .. } => Self::Zero { offset: from, len: to - from },
            Self::Punch { .. } => Self::Punch { offset: from, len: to - from },
            Self::Extend { .. } | Self::Sync => self.clone(),
        }
    }
}

/// Name of an operation on a machine.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OperationId(u64);

/// One entry of the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// An operation began on a medium.
    Begin {
        /// Which operation.
        id: OperationId,
        /// Number of the medium.
        medium: usize,
        /// What it does.
        change: Change,
    },
    /// It ended, well or with an error.
    End {
        /// Which operation.
        id: OperationId,
        /// How.
        result: Result<(), FaultError>,
    },
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FaultError {
    /// As planned with [`Machine::fail_at`].
    Medium,
    /// As planned, or the medium cannot grow.
    NoSpace,
    /// The range ends past the medium (or the window) of so many bytes.
    OutOfRange {
        /// Bytes.
        len: u64,
    },
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Medium => f.write_str("planned medium error"),
            Self::NoSpace => f.write_str("no space"),
            Self::OutOfRange { len } => write!(f, "past the end of {len} bytes"),
        }
    }
}

impl core::error::Error for FaultError {}

impl embedded_io::Error for FaultError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Medium => ErrorKind::Other,
            Self::NoSpace => ErrorKind::OutOfMemory,
            Self::OutOfRange { .. } => ErrorKind::InvalidInput,
        }
    }
}

/// Media with one log.
#[derive(Clone, Debug, Default)]
struct State {
    media: Vec<Medium>,
    log: Vec<Event>,
    begun: u64,
    under_way: BTreeMap<u64, usize>,
    /// Failures planned by the number of the operation.
    plan: BTreeMap<u64, FaultError>,
    full: bool,
    ignores_syncs: bool,
}

impl State {
    fn begin(&mut self, medium: usize, change: Change) -> OperationId {
        self.begun += 1;
        let id = OperationId(self.begun);
        if let Some(m) = self.media.get_mut(medium) {
            m.begin(id, &change);
        }
        self.under_way.insert(id.0, medium);
        self.log.push(Event::Begin { id, medium, change });
        id
    }

    fn end(&mut self, id: OperationId, result: Result<(), FaultError>) {
        let clock = self.begun;
        let medium = self.under_way.remove(&id.0);
        if let Some(m) = medium.and_then(|n| self.media.get_mut(n)) {
            m.end(id, clock, result);
        }
        self.log.push(Event::End { id, result });
    }

    fn replay(&mut self, event: &Event) {
        match event {
            Event::Begin { id, medium, change } => {
                self.begun = id.0 - 1;
                self.begin(*medium, change.clone());
            }
            Event::End { id, result } => self.end(*id, *result),
        }
    }

    /// What an operation is going to answer.
    fn verdict(&self, medium: usize, change: &Change) -> Result<(), FaultError> {
        let Some(m) = self.media.get(medium) else { return Err(FaultError::Medium) };
        if let Some(error) = self.plan.get(&(self.begun + 1)) {
            return Err(*error);
        }
        let (offset, len) = change.range();
        match change {
            Change::Extend { len } if *len > m.most => Err(FaultError::NoSpace),
            Change::Write { .. } | Change::Zero { .. } if self.full => Err(FaultError::NoSpace),
            Change::Write { .. } | Change::Zero { .. } => match offset.checked_add(len) {
                Some(end) if end <= m.len || m.grows && end <= m.most => Ok(()),
                _ => Err(FaultError::OutOfRange { len: m.len }),
            },
            _ if offset.checked_add(len).is_none_or(|end| end > m.len) => {
                Err(FaultError::OutOfRange { len: m.len })
            }
            _ => Ok(()),
        }
    }
}

/// A computer with media, whose power can be cut. Clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct Machine(Arc<Mutex<State>>);

impl Machine {
    /// Without media.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a medium of `len` bytes that can grow to `most`. What was never written on it reads
    /// as zeros, or as garbage if `garbage` is not 0.
    pub fn add_medium(&self, len: u64, most: u64, garbage: u64) -> FaultyStorage {
        let mut state = self.state();
        state.media.push(Medium::new(Sparse::new(garbage), len, most));
        let medium = state.media.len() - 1;
        drop(state);
        FaultyStorage { machine: self.clone(), medium, window: None }
    }

    /// Adds a medium like a file: empty, and made longer by writes behind its end, up to `most`
    /// bytes. A write that a power cut tore may have made it longer all the same.
    pub fn add_file(&self, most: u64) -> FaultyStorage {
        let storage = self.add_medium(0, most, 0);
        if let Some(medium) = self.state().media.last_mut() {
            medium.grows = true;
        }
        storage
    }

    /// A handle to a medium that was added before, perhaps to an ancestor of this machine.
    pub fn medium(&self, medium: usize) -> FaultyStorage {
        FaultyStorage { machine: self.clone(), medium, window: None }
    }

    /// A copy that lives on by itself.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Makes everything durable and starts an empty log.
    pub fn settle(&self) {
        let mut state = self.state();
        state.media.iter_mut().for_each(Medium::settle);
        state.log.clear();
    }

    /// Number of events so far.
    pub fn events(&self) -> usize {
        self.state().log.len()
    }

    /// The log since the machine was made, [settled](Self::settle) or cut.
    pub fn log(&self) -> Vec<Event> {
        self.state().log.clone()
    }

    /// Number of operations ever begun.
    pub fn begun(&self) -> u64 {
        self.state().begun
    }

    /// Takes over one event of another machine's log.
    pub fn replay(&self, event: &Event) {
        self.state().replay(event);
    }

    /// The machine after a power cut now.
    #[must_use]
    pub fn power_cut(&self, tear: Tear, seed: u64) -> Self {
        self.ended(|medium, dice| medium.power_cut(tear, dice), seed)
    }

    /// The machine after its process was killed now.
    #[must_use]
    pub fn kill(&self, tear: Tear, seed: u64) -> Self {
        self.ended(|medium, dice| medium.kill(tear, dice), seed)
    }

    fn ended(&self, end: impl Fn(&mut Medium, &mut Dice), seed: u64) -> Self {
        let mut state = self.state().clone();
        let mut dice = Dice::new(seed);
        state.media.iter_mut().for_each(|medium| end(medium, &mut dice));
        state.log.clear();
        state.under_way.clear();
        state.plan.clear();
        state.full = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// Has the operation with this number (1 is the first ever) fail.
    pub fn fail_at(&self, operation: u64, error: FaultError) {
        self.state().plan.insert(operation, error);
    }

    /// While true, every write fails for want of space.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Breaks the machine on purpose: syncs end well and do nothing. To show that a test notices.
    pub fn ignore_syncs(&self) {
        self.state().ignores_syncs = true;
    }

    /// Begins an operation on a medium; its result is known but not yet reported.
    pub fn begin(&self, medium: usize, change: Change) -> (OperationId, Result<(), FaultError>) {
        let mut state = self.state();
        let verdict = state.verdict(medium, &change);
        let lazy = state.ignores_syncs && change == Change::Sync;
        let change = if lazy { Change::Extend { len: 0 } } else { change };
        (state.begin(medium, change), verdict)
    }

    /// Ends an operation.
    pub fn end(&self, id: OperationId, result: Result<(), FaultError>) {
        self.state().end(id, result);
    }

    fn perform(&self, medium: usize, change: Change) -> Result<(), FaultError> {
        let (id, result) = self.begin(medium, change);
        self.end(id, result);
        result
    }
}

/// A medium of a [`Machine`], or a window of one.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    machine: Machine,
    medium: usize,
    /// Offset and length.
    window: Option<(u64, u64)>,
}

impl FaultyStorage {
    /// The part of `len` bytes from `offset` on, as a storage of its own that cannot grow.
    #[must_use]
    pub fn window(&self, offset: u64, len: u64) -> Self {
        let base = self.window.map_or(0, |(at, _)| at);
        let window = Some((base.saturating_add(offset), len));
        Self { machine: self.machine.clone(), medium: self.medium, window }
    }

    /// The same place on another machine, such as the one after a cut.
    #[must_use]
    pub fn on(&self, machine: &Machine) -> Self {
        Self { machine: machine.clone(), medium: self.medium, window: self.window }
    }

    /// Number of the medium in its machine.
    pub fn medium(&self) -> usize {
        self.medium
    }

    /// The range of the medium that a range of this storage is.
    ///
    /// # Errors
    /// [`FaultError::OutOfRange`] past the window.
    pub fn translate(&self, offset: u64, len: u64) -> Result<u64, FaultError> {
        let Some((start, room)) = self.window else { return Ok(offset) };
        match offset.checked_add(len) {
            Some(end) if end <= room => Ok(start.saturating_add(offset)),
            _ => Err(FaultError::OutOfRange { len: room }),
        }
    }
}

impl ErrorType for FaultyStorage {
    type Error = FaultError;
}

impl ReadStorage for FaultyStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FaultError> {
        let offset = self.translate(offset, buf.len() as u64)?;
        let state = self.machine.state();
        let medium = state.media.get(self.medium).ok_or(FaultError::Medium)?;
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= medium.len => medium.live.read(offset, buf),
            _ => return Err(FaultError::OutOfRange { len: medium.len }),
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, FaultError> {
        let len = self.machine.state().media.get(self.medium).map_or(0, |m| m.len);
        Ok(self.window.map_or(len, |(_, window)| window))
    }
}

impl Storage for FaultyStorage {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), FaultError> {
        let offset = self.translate(offset, data.len() as u64)?;
        self.machine.perform(self.medium, Change::Write { offset, data: data.into() })
    }

    fn sync(&mut self) -> Result<(), FaultError> {
        self.machine.perform(self.medium, Change::Sync)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), FaultError> {
        let offset = self.translate(offset, len)?;
        self.machine.perform(self.medium, Change::Zero { offset, len })
    }

    fn punch(&mut self, offset: u64, len: u64) -> Result<(), FaultError> {
        let offset = self.translate(offset, len)?;
        self.machine.perform(self.medium, Change::Punch { offset, len })
    }

    fn extend(&mut self, len: u64) -> Result<(), FaultError> {
        if self.len_bytes()? >= len {
            return Ok(());
        }
        if self.window.is_some() {
            return Err(FaultError::NoSpace);
        }
        self.machine.perform(self.medium, Change::Extend { len })
    }
}
