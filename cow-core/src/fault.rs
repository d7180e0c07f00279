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

use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use embedded_io::{ErrorKind, ErrorType};

use crate::storage::{ReadStorage, Storage};

/// Bytes in a page of a sparse medium.
const GRAIN: usize = 4096;
const GRAIN_BYTES: u64 = GRAIN as u64;
const SECTOR: u64 = 512;
/// Longer ranges are zeroed or punched only where something was written.
const HUGE: u64 = 1 << 26;

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

/// Bytes of which few were ever written. Clones share their pages.
#[derive(Clone, Debug)]
struct Sparse {
    pages: BTreeMap<u64, Arc<[u8; GRAIN]>>,
    /// 0 if what was never written is zeros, otherwise the seed of its garbage.
    garbage: u64,
}

impl Sparse {
    fn background(&self, page: u64) -> [u8; GRAIN] {
        let mut bytes = [0; GRAIN];
        if self.garbage != 0 {
            let mut dice = Dice::new(self.garbage ^ page.wrapping_mul(0x1000_0001));
            for word in bytes.as_chunks_mut::<8>().0 {
                *word = dice.roll().to_le_bytes();
            }
        }
        bytes
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        pieces(offset, buf.len(), |page, at, from, len| {
            let background;
            let bytes = if let Some(bytes) = self.pages.get(&page) {
                &**bytes
            } else {
                background = self.background(page);
                &background
            };
            if let (Some(to), Some(from)) = (buf.get_mut(from..from + len), bytes.get(at..at + len))
            {
                to.copy_from_slice(from);
            }
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        pieces(offset, data.len(), |page, at, from, len| {
            let fresh = || Arc::new(self.background(page));
            let bytes = match self.pages.get(&page) {
                Some(_) => None,
                None => Some(fresh()),
            };
            let entry = self.pages.entry(page);
            let bytes = entry.or_insert_with(|| bytes.unwrap_or_else(|| Arc::new([0; GRAIN])));
            if let (Some(to), Some(from)) =
                (Arc::make_mut(bytes).get_mut(at..at + len), data.get(from..from + len))
            {
                to.copy_from_slice(from);
            }
        });
    }

    /// Writes `len` bytes that `make` produces for each piece. Of a huge range only what was
    /// written before, which is enough while the rest reads as zeros or nobody reads it.
    fn fill(&mut self, offset: u64, len: u64, mut make: impl FnMut(u64, &mut [u8])) {
        let (mut at, end) = (offset, offset.saturating_add(len));
        let mut piece = [0; GRAIN];
        while at < end {
            if len > HUGE {
                let Some((page, _)) = self.pages.range(at / GRAIN_BYTES..).next() else { return };
                at = at.max(page.saturating_mul(GRAIN_BYTES));
                if at >= end {
                    return;
                }
            }
            let room = (GRAIN_BYTES - at % GRAIN_BYTES).min(end - at);
            let bytes = piece.get_mut(..index(room)).unwrap_or_default();
            make(at, bytes);
            self.write(at, bytes);
            at = at.saturating_add(room);
        }
    }
}

/// Splits a range of memory at the pages of a medium: page, offset in it, offset in memory, bytes.
fn pieces(offset: u64, len: usize, mut each: impl FnMut(u64, usize, usize, usize)) {
    let mut done = 0;
    while done < len {
        let at = offset.saturating_add(done as u64);
        let within = index(at % GRAIN_BYTES);
        let piece = (GRAIN - within).min(len - done);
        each(at / GRAIN_BYTES, within, done, piece);
        done += piece;
    }
}

/// A length or offset in memory.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A change that no sync has covered.
#[derive(Clone, Debug)]
struct Pending {
    id: OperationId,
    change: Change,
    /// Number of operations begun when it ended; `None` while under way.
    ended: Option<u64>,
    /// A sync that should have covered it failed.
    doomed: bool,
}

/// One medium: what reads see, what is durable, and what is between.
#[derive(Clone, Debug)]
struct Medium {
    live: Sparse,
    durable: Sparse,
    len: u64,
    durable_len: u64,
    pending: Vec<Pending>,
    /// Longest it may become.
    most: u64,
}

impl Medium {
    fn begin(&mut self, id: OperationId, change: &Change) {
        self.pending.push(Pending { id, change: change.clone(), ended: None, doomed: false });
    }

    fn end(&mut self, id: OperationId, clock: u64, result: Result<(), FaultError>) {
        let Some(at) = self.pending.iter().position(|p| p.id == id) else { return };
        let Some(pending) = self.pending.get_mut(at) else { return };
        pending.ended = Some(clock);
        let change = pending.change.clone();
        match (&change, result) {
            (Change::Sync, result) => {
                self.pending.remove(at);
                self.synced(id, result.is_ok());
            }
            (_, Ok(())) => apply(&mut self.live, &mut self.len, &change, id),
            // A failed write may have come through in part.
            (_, Err(_)) => {
                let mut dice = Dice::new(id.0 ^ 0x0fa1_1ed0);
                torn(&mut self.live, &mut self.len, &change, id, Tear::Sectors, &mut dice);
            }
        }
    }

    fn synced(&mut self, sync: OperationId, well: bool) {
        let covered = |p: &Pending| p.ended.is_some_and(|ended| ended < sync.0);
        if !well {
            self.pending.iter_mut().filter(|p| covered(p)).for_each(|p| p.doomed = true);
            return;
        }
        // In the order of their ends, which is the order in which they reached `live`.
        let mut settled: Vec<_> =
            self.pending.extract_if(.., |p| covered(p) && !p.doomed).collect();
        settled.sort_by_key(|p| p.ended);
        for p in settled {
            apply(&mut self.durable, &mut self.durable_len, &p.change, p.id);
            self.supersede(&p);
        }
    }

    /// What lies below a change that has become durable can no longer arrive.
    fn supersede(&mut self, newer: &Pending) {
        let (start, len) = newer.change.range();
        let end = start.saturating_add(len);
        for p in core::mem::take(&mut self.pending) {
            let (from, len) = p.change.range();
            let to = from.saturating_add(len);
            if !p.doomed || p.ended > newer.ended || to <= start || end <= from {
                self.pending.push(p);
                continue;
            }
            for (from, to) in [(from, start.max(from)), (end.min(to), to)] {
                if from < to {
                    let change = p.change.part(from, to);
                    self.pending.push(Pending { change, ..p.clone() });
                }
            }
        }
    }

    /// Everything that ended is durable now.
    fn settle(&mut self) {
        self.durable = self.live.clone();
        self.durable_len = self.len;
        self.pending.clear();
    }

    fn power_cut(&mut self, tear: Tear, dice: &mut Dice) {
        let mut pending = core::mem::take(&mut self.pending);
        shuffle(&mut pending, dice);
        // Some cuts lose nearly everything, some nearly nothing: both ends are where bugs are.
        let keep = match dice.below(4) {
            0 => 5,
            1 => 95,
            _ => 50,
        };
        for p in pending {
            let (image, len) = (&mut self.durable, &mut self.durable_len);
            if dice.chance(35) {
                torn(image, len, &p.change, p.id, tear, dice);
            } else if dice.chance(keep) {
                apply(image, len, &p.change, p.id);
            }
        }
        self.live = self.durable.clone();
        self.len = self.durable_len;
    }

    fn kill(&mut self, tear: Tear, dice: &mut Dice) {
        let mut pending = core::mem::take(&mut self.pending);
        pending.retain_mut(|p| {
            p.doomed = false;
            if p.ended.is_some() {
                return true;
            }
            p.ended = Some(0);
            match dice.below(3) {
                0 => return false,
                1 => apply(&mut self.live, &mut self.len, &p.change, p.id),
                _ => torn(&mut self.live, &mut self.len, &p.change, p.id, tear, dice),
            }
            // What has come through is what may become durable.
            let (offset, len) = p.change.range();
            if len > 0 && len <= HUGE {
                let mut bytes = std::vec![0; index(len)];
                self.live.read(offset, &mut bytes);
                p.change = Change::Write { offset, data: bytes.into() };
            }
            p.change != Change::Sync
        });
        self.pending = pending;
    }
}

fn shuffle(pending: &mut [Pending], dice: &mut Dice) {
    for at in (1..pending.len()).rev() {
        pending.swap(at, index(dice.below(at as u64 + 1)));
    }
}

fn apply(image: &mut Sparse, len: &mut u64, change: &Change, id: OperationId) {
    match change {
        Change::Write { offset, data } => image.write(*offset, data),
        Change::Zero { offset, len } => image.fill(*offset, *len, |_, bytes| bytes.fill(0)),
        Change::Punch { offset, len } => punch(image, *offset, *len, id),
        Change::Extend { len: wanted } => *len = (*len).max(*wanted),
        Change::Sync => {}
    }
}

/// Leaves bytes that nobody wrote, so that whoever reads them is found out.
fn punch(image: &mut Sparse, offset: u64, len: u64, id: OperationId) {
    image.fill(offset, len, |at, bytes| {
        let mut dice = Dice::new(at ^ (id.0 << 40));
        bytes.fill_with(|| dice.roll().to_be_bytes()[0]);
    });
}

/// A part of the change arrives.
fn torn(
    image: &mut Sparse,
    len: &mut u64,
    change: &Change,
    id: OperationId,
    tear: Tear,
    dice: &mut Dice,
) {
    let (start, bytes) = change.range();
    if bytes == 0 || bytes > HUGE {
        if dice.chance(50) {
            apply(image, len, change, id);
        }
        return;
    }
    let mut whole = image.clone();
    apply(&mut whole, len, change, id);
    let unit = if tear == Tear::Sectors { SECTOR } else { GRAIN_BYTES };
    let (mut at, end) = (start, start.saturating_add(bytes));
    let mut piece = [0; GRAIN];
    while at < end {
        let room = (unit - at % unit).min(end - at);
        let (skip, take) = match (tear, dice.below(3)) {
            (Tear::Sectors, _) | (Tear::Anywhere, 0) => (0, room * dice.below(2)),
            (Tear::Anywhere, 1) => (0, dice.below(room + 1)),
            (Tear::Anywhere, _) => {
                let skip = dice.below(room + 1);
                (skip, room - skip)
            }
        };
        let part = piece.get_mut(..index(take)).unwrap_or_default();
        whole.read(at + skip, part);
        image.write(at + skip, part);
        at += room;
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
        let image = Sparse { pages: BTreeMap::new(), garbage };
        state.media.push(Medium {
            live: image.clone(),
            durable: image,
            len,
            durable_len: len,
            pending: Vec::new(),
            most,
        });
        let medium = state.media.len() - 1;
        drop(state);
        FaultyStorage { machine: self.clone(), medium, window: None }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, bytes: &[u8]) -> Change {
        Change::Write { offset, data: bytes.into() }
    }

    fn read(storage: &FaultyStorage, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; len];
        storage.read_at(offset, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_synced_is_exact_and_the_rest_is_anything() {
        let mut seen = [0; 3];
        for seed in 0..200 {
            let machine = Machine::new();
            let mut storage = machine.add_medium(8192, 8192, 0);
            storage.write_at(0, &[1; 4096]).unwrap();
            storage.sync().unwrap();
            storage.write_at(0, &[2; 512]).unwrap();
            assert_eq!(read(&storage, 0, 512), [2; 512]);
            storage.write_at(4096, &[3; 1024]).unwrap();
            let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
            let first = read(&cut, 0, 512);
            assert!(first == [1; 512] || first == [2; 512]);
            assert_eq!(read(&cut, 512, 3584), [1; 3584]);
            match read(&cut, 4096, 1024) {
                bytes if bytes == [0; 1024] => seen[0] += 1,
                bytes if bytes == [3; 1024] => seen[1] += 1,
                _ => seen[2] += 1,
            }
            let killed = storage.on(&machine.kill(Tear::Sectors, seed));
            assert_eq!(read(&killed, 0, 512), [2; 512]);
        }
        assert!(seen.iter().all(|n| *n > 10), "lost, kept, torn: {seen:?}");
    }

    #[test]
    fn a_sync_covers_only_what_had_ended_when_it_began() {
        let mut kept = [0; 2];
        for seed in 0..100 {
            let machine = Machine::new();
            let storage = machine.add_medium(4096, 4096, 0);
            let (early, _) = machine.begin(0, write(0, &[1; 512]));
            machine.end(early, Ok(()));
            let (late, _) = machine.begin(0, write(512, &[2; 512]));
            let (sync, _) = machine.begin(0, Change::Sync);
            machine.end(late, Ok(()));
            machine.end(sync, Ok(()));
            let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
            assert_eq!(read(&cut, 0, 512), [1; 512]);
            kept[usize::from(read(&cut, 512, 512) == [2; 512])] += 1;
        }
        assert!(kept.iter().all(|n| *n > 10), "{kept:?}");
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one() {
        let mut lost = 0;
        for seed in 0..100 {
            let machine = Machine::new();
            let mut storage = machine.add_medium(4096, 4096, 0);
            storage.write_at(0, &[1; 512]).unwrap();
            machine.fail_at(machine.begun() + 1, FaultError::Medium);
            assert_eq!(storage.sync(), Err(FaultError::Medium));
            storage.sync().unwrap();
            let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
            lost += usize::from(read(&cut, 0, 512) == [0; 512]);
        }
        assert!(lost > 10, "{lost}");
    }

    #[test]
    fn a_write_after_a_sync_survives_the_doom_of_an_older_one() {
        for seed in 0..100 {
            let machine = Machine::new();
            let mut storage = machine.add_medium(4096, 4096, 0);
            storage.write_at(0, &[1; 512]).unwrap();
            machine.fail_at(machine.begun() + 1, FaultError::Medium);
            assert_eq!(storage.sync(), Err(FaultError::Medium));
            storage.write_at(0, &[2; 512]).unwrap();
            storage.sync().unwrap();
            let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
            assert_eq!(read(&cut, 0, 512), [2; 512], "seed {seed}");
        }
    }

    #[test]
    fn replaying_a_log_gives_the_same_machine() {
        let machine = Machine::new();
        let mut storage = machine.add_medium(10_000, 20_000, 9);
        machine.settle();
        let start = machine.fork();
        storage.extend(12_000).unwrap();
        storage.write_at(500, &[7; 3000]).unwrap();
        storage.punch(1000, 100).unwrap();
        storage.sync().unwrap();
        storage.zero_at(2000, 5000).unwrap();
        for event in machine.log() {
            start.replay(&event);
        }
        let again = storage.on(&start);
        assert_eq!(read(&again, 0, 12_000), read(&storage, 0, 12_000));
        let (a, b) = (machine.power_cut(Tear::Anywhere, 5), start.power_cut(Tear::Anywhere, 5));
        let len = usize::try_from(storage.on(&a).len_bytes().unwrap()).unwrap();
        assert_eq!(read(&storage.on(&a), 0, len), read(&storage.on(&b), 0, len));
    }

    #[test]
    fn windows_and_ends_are_kept() {
        let machine = Machine::new();
        let device = machine.add_medium(4096, 4096, 3);
        let mut window = device.window(512, 1024);
        assert_eq!(window.len_bytes(), Ok(1024));
        window.write_at(0, &[9; 1024]).unwrap();
        assert_eq!(read(&device, 512, 1024), [9; 1024]);
        assert_eq!(window.write_at(1, &[0; 1024]), Err(FaultError::OutOfRange { len: 1024 }));
        assert_eq!(window.extend(1025), Err(FaultError::NoSpace));
        let mut all = device.clone();
        assert_eq!(all.write_at(4000, &[0; 100]), Err(FaultError::OutOfRange { len: 4096 }));
        machine.set_full(true);
        assert_eq!(all.write_at(0, &[0]), Err(FaultError::NoSpace));
    }
}
