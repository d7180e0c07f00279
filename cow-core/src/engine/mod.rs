//! The engine: requests in, operations out, completions back. It does no I/O and never blocks.
//!
//! A driver [`submit`](Engine::submit)s requests, [`poll`](Engine::poll)s outputs until there are
//! none, performs the operations in any order, and reports each ticket with
//! [`complete`](Engine::complete). Payload bytes never pass through: an operation names a range of
//! the request's own buffer, or a page of the pool.
//!
//! Invariants:
//! 1. A request waits for every earlier request that overlaps it, unless both only read. (What
//!    changes sectors counts as wide as the [grain](crate::format::Overlay::grain) of the format.)
//! 2. *Rule W*: a metadata page is written only after a sync that began when the data of every
//!    state in it had been written; a state is acknowledged (`Safe`) only after a sync that began
//!    when its page had been written.
//! 3. A metadata page is written at most once between two syncs.
//! 4. Nothing is allocated; the work of one call is bounded by the number of slots and pages.
//! 5. After a failed sync or metadata write of a broken medium the overlay takes no more writes;
//!    a later success is not believed.

mod ahead;
mod commit;
mod fill;
mod load;
mod read;
mod table;
mod weave;
mod write;

use crate::format::{IndexEntry, Layer, Map, Overlay, Packed, Run, Top};
use crate::pages::{PageId, PagePool, StorageKey};
use crate::units::{Extent, MAX_SECTORS};
use commit::Commit;
use table::{Phase, Slot, Table};

pub use weave::{Strand, WEAVE_SECTORS_MAX, Weave, WovenRun, WovenRuns};

/// Longest read or write in sectors (32 MiB): buffer offsets travel as 32-bit numbers, and a
/// request holds its range against others for as long as it runs.
pub const MAX_REQUEST_SECTORS: u64 = 1 << 16;

/// Most frozen layers below an overlay. A read may have to ask each of them.
pub const MAX_LAYERS: usize = 64;

/// The caller's name for a request; not interpreted, need not be unique.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestId(pub u32);

/// What a client or tool wants from a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// Fill the request's buffer with these sectors.
    Read(Extent),
    /// Take these sectors from the request's buffer.
    Write {
        /// Where to.
        extent: Extent,
        /// Acknowledge only when durable, in every durability mode but `Ephemeral`.
        durable: bool,
    },
    /// Make these sectors read as zeros.
    Zero(Extent),
    /// Forget these sectors: they read as zeros, or as before where the format has no way to say so.
    Discard(Extent),
    /// Make every acknowledged write durable.
    Flush,
    /// Report where the first sectors of the range live, as [`Output::Mapped`].
    Map(Extent),
    /// Take up a mapping that an earlier process noted and did not publish.
    Restore(Note),
}

/// A mapping that was acknowledged but not yet published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Note {
    /// The sectors.
    pub extent: Extent,
    /// Byte offset of their data in the overlay's storage; `None` for zeros.
    pub offset: Option<u64>,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// When it survives a power cut.
    Safe,
    /// When it survives the process: data written and mapping noted ([`Output::Note`]).
    /// [`Engine::commit`] must be called now and then.
    Writeback,
    /// When it survives a power cut, by one sync instead of two: every change is noted together with
    /// its data ([`Output::Note`]), and the note is reported when both are durable in a log of the
    /// driver's. Until [`Output::NotesDurable`] the log is part of the disk: who opens the overlay
    /// without repeating what the log holds finds it out of date. [`Engine::commit`] must be called
    /// now and then, and a note that fails ends writing.
    Logged,
    /// When it can be read back. Nothing is ever synced.
    Ephemeral,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Failure {
    /// The medium failed. A write may have touched its range.
    Medium,
    /// The overlay's storage or its limit is exhausted; earlier data are intact.
    Full,
    /// The chain has no overlay, or the overlay stopped taking writes after a failed sync.
    ReadOnly,
    /// The lent index memory is too small; this many entries would do.
    IndexFull {
        /// Entries.
        needed: u64,
    },
    /// Metadata contradicts itself. Run a check.
    Corrupt {
        /// Which storage.
        storage: StorageKey,
        /// Byte offset in it.
        offset: u64,
    },
    /// The format cannot express the request.
    Unsupported,
    /// The driver cannot unpack compressed data of this kind.
    NoCodec,
    /// Compressed data cannot be unpacked: they are not what they should be.
    Damaged,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Medium => f.write_str("the medium failed"),
            Self::Full => f.write_str("the overlay has no room"),
            Self::ReadOnly => f.write_str("the chain takes no writes"),
            Self::IndexFull { needed } => write!(f, "the index memory needs {needed} entries"),
            Self::Corrupt { storage, offset } => {
                write!(f, "metadata of storage {} is corrupt at byte {offset}", storage.0)
            }
            Self::Unsupported => f.write_str("the format cannot express this"),
            Self::NoCodec => f.write_str("compressed data of this kind cannot be unpacked here"),
            Self::Damaged => f.write_str("compressed data are damaged"),
        }
    }
}

impl core::error::Error for Failure {}

/// Why an operation failed, as far as the engine acts on it differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IoFailure {
    /// Read, write or sync error.
    Medium,
    /// No space left.
    Full,
    /// [`Kind::Unpack`] of a codec that the driver does not have.
    NoCodec,
    /// The bytes of a [`Kind::Unpack`] do not unpack to what they should.
    Damaged,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SubmitError {
    /// Every slot is in use: complete something first.
    Busy,
    /// The range is empty, ends past the disk, or is longer than [`MAX_REQUEST_SECTORS`].
    OutOfRange {
        /// Size of the disk in sectors.
        sectors: u64,
    },
}

impl core::fmt::Display for SubmitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Busy => f.write_str("too many requests under way"),
            Self::OutOfRange { sectors } => write!(f, "outside the disk of {sectors} sectors"),
        }
    }
}

impl core::error::Error for SubmitError {}

/// The engine's name for an operation under way.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ticket(u32);

/// What an operation does to a storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Fill the buffer.
    Read,
    /// Fill the buffer with a part of a compressed unit. The operation's length counts unpacked
    /// bytes. A driver that keeps the unit it unpacked last saves itself most of the work.
    Unpack(Packed),
    /// Write the buffer.
    Write,
    /// Make the range read as zeros.
    Zero,
    /// Give the range back; best effort.
    Punch,
    /// Barrier over every write that was *completed* before this operation was put out.
    Sync,
}

/// Memory that an operation reads into or writes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Buffer {
    /// None: `Zero`, `Punch` and `Sync`.
    None,
    /// The request's own buffer from byte `offset` on.
    Request {
        /// Which request.
        id: RequestId,
        /// Bytes into its buffer.
        offset: u32,
    },
    /// A page of the pool from byte `offset` on.
    Page {
        /// Which page.
        page: PageId,
        /// Bytes into the page.
        offset: u32,
    },
}

/// One thing for the driver to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operation {
    /// Where.
    pub storage: StorageKey,
    /// What.
    pub kind: Kind,
    /// From this byte of the storage on.
    pub offset: u64,
    /// So many bytes. For reads and writes at most what a request's buffer or a page holds.
    pub len: u64,
    /// With this memory.
    pub buffer: Buffer,
    /// To be reported under this name, exactly once.
    pub ticket: Ticket,
}

/// What [`Engine::poll`] puts out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Output {
    /// Perform this and report its ticket.
    Operation(Operation),
    /// Fill a part of the request's buffer from two storages and report the ticket. Only for
    /// drivers that [asked for it](Engine::set_weaving).
    Weave(Weave),
    /// Zero this range of the request's buffer before its `Done` is passed on. No report.
    Fill {
        /// Which request.
        id: RequestId,
        /// Bytes into its buffer.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Keep this mapping somewhere that outlives the process (not necessarily the power), then
    /// report the ticket. A driver that cannot gives up that guarantee of `Writeback`. In `Logged`
    /// mode with the data, which are still in the request's buffer, and so that both outlive the power;
    /// notes count in the order in which they are put out.
    Note {
        /// Whose.
        id: RequestId,
        /// The mapping.
        note: Note,
        /// To be reported.
        ticket: Ticket,
    },
    /// Notes so far, those that an earlier process left included, will be published by the commit
    /// that begins; start a new list. No report. Seals may follow each other without a
    /// `NotesDurable` between when a commit fails.
    NotesSealed,
    /// The notes before the last `NotesSealed` are published: drop them. No report.
    NotesDurable,
    /// Answer of [`Request::Map`]; its `Done` follows.
    Mapped {
        /// Which request.
        id: RequestId,
        /// 0 for the overlay, 1 for the first frozen layer, and so on.
        depth: u16,
        /// Where the first sectors are; `Absent` at the bottom reads as zeros.
        run: Run,
    },
    /// The request has ended and its buffer is free.
    Done {
        /// Which request.
        id: RequestId,
        /// How.
        result: Result<(), Failure>,
    },
}

/// Memory and layers that the caller lends for one call. The same ones every time.
#[derive(Debug)]
pub struct Lent<'a, 'p> {
    /// Pages, shared with other engines of this thread.
    pub pages: &'a mut PagePool<'p>,
    /// Frozen layers, top first, at most [`MAX_LAYERS`]; shared with other threads if need be.
    pub layers: &'a [Layer<'a>],
    /// Index memory of the overlay; empty for formats that page their metadata.
    pub index: &'a mut [IndexEntry],
}

/// One chain with up to `SLOTS` requests under way (at most 65,535).
#[derive(Debug)]
pub struct Engine<const SLOTS: usize> {
    overlay: Option<Top>,
    sectors: u64,
    durability: Durability,
    table: Table<SLOTS>,
    commit: Commit,
    /// See [`set_weaving`](Self::set_weaving).
    weaving: bool,
    /// See [`refuse_changes`](Self::refuse_changes).
    refusing: bool,
    /// The bytes of a load have arrived.
    arrived: bool,
    /// Sectors with space of their own in the overlay, and the most there may be.
    used: u64,
    limit: u64,
}

impl<const SLOTS: usize> Engine<SLOTS> {
    /// A chain of `sectors` sectors over the layers that will be lent. Without an overlay it is
    /// read-only until [`attach`](Self::attach).
    ///
    /// `None` for a size of 0 or more than [`MAX_SECTORS`], or an overlay of another size.
    pub fn new(overlay: Option<Top>, sectors: u64, durability: Durability) -> Option<Self> {
        let fits = overlay.as_ref().is_none_or(|o| o.sectors() == sectors);
        if sectors == 0 || sectors > MAX_SECTORS || !fits {
            return None;
        }
        let grain = overlay.as_ref().map_or(1, Overlay::grain);
        Some(Self {
            overlay,
            sectors,
            durability,
            table: Table::new(grain),
            commit: Commit::new(),
            weaving: false,
            refusing: false,
            arrived: false,
            used: 0,
            limit: u64::MAX,
        })
    }

    /// Bounds the space of the overlay: `used` sectors are taken already, `limit` may be in all.
    /// Writes beyond fail with [`Failure::Full`].
    pub fn set_limit(&mut self, used: u64, limit: u64) {
        self.used = used;
        self.limit = limit;
    }

    /// Whether reads of sectors that lie by turns in two storages are put out as one
    /// [`Output::Weave`], and those that lie behind each other in one as one operation, whatever
    /// metadata say where. For drivers that know what to do with it.
    pub fn set_weaving(&mut self, weaving: bool) {
        self.weaving = weaving;
    }

    /// Acknowledges as `durability` says, from now on. For a driver that finds out late what it can
    /// do: only while no change is under way and nothing was changed yet.
    pub fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// Sectors with space of their own, as far as [`set_limit`](Self::set_limit) told the start.
    pub fn used_sectors(&self) -> u64 {
        self.used
    }

    /// Gives a chain without overlay one of the same size; false (and the overlay dropped) otherwise.
    pub fn attach(&mut self, overlay: Top) -> bool {
        let fits = self.overlay.is_none() && overlay.sectors() == self.sectors;
        if fits {
            self.table.set_grain(overlay.grain());
            self.overlay = Some(overlay);
        }
        fits
    }

    /// The overlay, for closing it: only when [`is_idle`](Self::is_idle) and committed.
    pub fn into_overlay(self) -> Option<Top> {
        self.overlay
    }

    /// The overlay, for a driver that changes its header: only while no change is under way and nothing
    /// was changed yet.
    pub fn overlay_mut(&mut self) -> Option<&mut Top> {
        self.overlay.as_mut()
    }

    /// The overlay, to look at.
    pub fn overlay(&self) -> Option<&Top> {
        self.overlay.as_ref()
    }

    /// Size of the disk in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// No request and no commit is under way.
    pub fn is_idle(&self) -> bool {
        self.table.is_empty() && self.commit.is_idle()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.table.len()
    }

    /// Requests under way, in no order, as [`submit`](Self::submit) named them.
    pub fn requests(&self) -> impl Iterator<Item = RequestId> + '_ {
        Table::<SLOTS>::numbers().filter_map(|at| Some(self.table.get(at)?.id))
    }

    /// Something acknowledged or written is not known to be durable: [`commit`](Self::commit) has work.
    pub fn is_dirty(&self) -> bool {
        self.commit.has_unsynced()
    }

    /// Some request waits for the pool, perhaps for a page that another engine loads or holds:
    /// call [`wake`](Self::wake) and poll again after other engines of the pool have progressed.
    pub fn is_starved(&self) -> bool {
        self.table.is_starved()
    }

    /// See [`is_starved`](Self::is_starved).
    pub fn wake(&mut self) {
        self.table.wake(|park| matches!(park, table::Park::Starved | table::Park::Page(_)));
    }

    /// Ends the requests that wait for pages of the pool with [`Failure::Full`]: for a driver that
    /// has woken and committed every engine of the pool and sees that none will give pages back,
    /// because their storages are full or broken.
    pub fn give_up(&mut self) {
        for at in Table::<SLOTS>::numbers() {
            if self.table.get(at).is_some_and(|s| s.park == table::Park::Starved) {
                let _no_output = self.fail(at, Failure::Full);
            }
        }
    }

    /// The overlay takes no more writes (a sync failed, or there is none).
    pub fn is_read_only(&self) -> bool {
        self.overlay.is_none() || self.commit.is_broken()
    }

    /// The latest commit failed for want of room. In `Logged` mode no further changes are taken until
    /// one succeeds: what the log holds of earlier ones cannot be let go of.
    pub fn is_full(&self) -> bool {
        self.commit.is_full()
    }

    /// Whether changes that have not begun fail with [`Failure::Full`]: for a driver whose log has no
    /// room for them.
    pub fn refuse_changes(&mut self, refuse: bool) {
        self.refusing = refuse;
    }

    /// Takes no more writes, as after a failed sync: for a driver that must end, and whose log keeps
    /// what is not committed.
    pub fn abandon(&mut self) {
        self.stop_writing();
    }

    /// Begins a commit as soon as possible if there is anything that none covers yet.
    pub fn commit(&mut self) {
        if self.commit.has_uncovered() && !self.commit.is_broken() {
            self.commit.want();
        }
    }

    /// Takes a request. Its buffer (for `Read` and `Write`) must stay where it is until `Done`.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was done then.
    pub fn submit(&mut self, id: RequestId, request: Request) -> Result<(), SubmitError> {
        let (extent, most) = match request {
            Request::Read(e) | Request::Write { extent: e, .. } => (Some(e), MAX_REQUEST_SECTORS),
            Request::Zero(e) | Request::Discard(e) | Request::Map(e) => (Some(e), MAX_SECTORS),
            Request::Restore(note) => (Some(note.extent), MAX_SECTORS),
            Request::Flush => (None, 0),
        };
        let refused = SubmitError::OutOfRange { sectors: self.sectors };
        if let Some(e) = extent
            && (e.is_empty() || e.end().get() > self.sectors || e.sectors() > most)
        {
            return Err(refused);
        }
        let slot = Slot::new(id, request, extent.unwrap_or(Extent::EMPTY));
        self.table.insert(slot).ok_or(SubmitError::Busy)
    }

    /// The next thing to do, or `None` until something is submitted, completed or woken.
    pub fn poll(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        self.poll_what(lent, true)
    }

    /// As [`poll`](Self::poll), but begins no commit and goes on with none: for a driver that holds
    /// writes back for others that follow them. Reported before it polls, they belong to the commit
    /// that begins then.
    pub fn poll_requests(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        self.poll_what(lent, false)
    }

    #[inline]
    fn poll_what(&mut self, lent: &mut Lent<'_, '_>, commits: bool) -> Option<Output> {
        // Before any further note: those that follow belong to the next commit.
        if let Some(output) = self.poll_notes() {
            return Some(output);
        }
        loop {
            if self.arrived
                && let Some(output) = self.continue_loads(lent)
            {
                return Some(output);
            }
            while let Some(at) = self.table.pop_ready() {
                if let Some(output) = self.step(at, lent) {
                    return Some(output);
                }
            }
            if !commits {
                return None;
            }
            if let Some(output) = self.poll_commit(lent) {
                return Some(output);
            }
            if !self.table.has_ready() {
                return None;
            }
        }
    }

    /// Reports the outcome of an operation or note.
    pub fn complete(
        &mut self,
        lent: &mut Lent<'_, '_>,
        ticket: Ticket,
        result: Result<(), IoFailure>,
    ) {
        self.table.retry_starved();
        match table::Task::of(ticket) {
            table::Task::Data(at) => self.data_done(at, result),
            table::Task::Fill(at) => self.fill_done(at, result),
            table::Task::Load(page) => self.load_done(page, result, lent),
            table::Task::Prepare(page) => self.prepare_done(page, result, lent),
            table::Task::ZeroFirst(at) => self.zero_first_done(at, result, lent),
            table::Task::Preamble(page) => self.preamble_done(page, result, lent),
            table::Task::Page(page) => self.page_done(page, result, lent),
            table::Task::Sync => self.sync_done(result, lent),
            table::Task::Unknown => {}
        }
    }

    /// Advances one request as far as it goes; an output ends the step and keeps it ready.
    fn step(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        match self.table.phase(at) {
            Phase::Start => self.start(at, lent),
            Phase::Read => self.read(at, lent),
            Phase::Place => self.place(at, lent),
            Phase::Clear => self.clear(at, lent),
            Phase::Fill => self.fill(at, lent),
            Phase::Drain => self.drain(at, lent),
            Phase::Apply => self.apply(at, lent),
            Phase::Note => self.note(at, lent),
            Phase::Punch => self.punch(at),
            Phase::Done => self.finish(at, lent),
            Phase::Free | Phase::Waiting | Phase::Commit => None,
        }
    }

    fn start(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let read_only = self.is_read_only();
        let phase = match slot.request {
            Request::Read(_) | Request::Map(_) => Phase::Read,
            Request::Flush if self.overlay.is_none() => Phase::Done,
            Request::Flush if self.commit.is_broken() => return self.fail(at, Failure::Medium),
            Request::Flush if self.durability == Durability::Writeback => {
                self.await_commit(at);
                return None;
            }
            Request::Flush => Phase::Done,
            _ if read_only => return self.fail(at, Failure::ReadOnly),
            _ if self.refusing || self.durability == Durability::Logged && self.is_full() => {
                return self.fail(at, Failure::Full);
            }
            Request::Write { .. } => Phase::Place,
            Request::Zero(_) | Request::Discard(_) => Phase::Clear,
            Request::Restore(_) => return self.restore(at, lent),
        };
        self.table.advance(at, phase);
        None
    }

    fn finish(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.remove(at)?;
        if slot.failure.is_some() {
            // It may have been loading a page that nobody else wants. Who does begins anew.
            self.give_up_loads(lent);
            self.table.retry_starved();
        }
        Some(Output::Done { id: slot.id, result: slot.failure.map_or(Ok(()), Err) })
    }

    /// Ends a request with a failure once its operations have come back.
    fn fail(&mut self, at: u16, failure: Failure) -> Option<Output> {
        let phase = self.table.phase(at);
        let applying = matches!(phase, Phase::Apply | Phase::Note);
        let begun = self.table.get(at).is_some_and(|slot| slot.applied > 0);
        if (applying || begun) && self.durability == Durability::Writeback {
            self.commit.state_without_note();
        }
        let entered = phase == Phase::Apply && self.table.get(at).is_some_and(|s| s.done > 0);
        if (phase == Phase::Note || begun || entered) && self.durability == Durability::Logged {
            // The change stays, and no note of it: repeating the log would take it back.
            self.stop_writing();
        }
        if let Some(slot) = self.table.get_mut(at) {
            if applying && slot.done > 0 {
                slot.charged = 0; // part of it takes its space all the same
            }
            slot.failure.get_or_insert(failure);
            if slot.outstanding == 0 {
                self.table.advance(at, Phase::Drain);
            } else {
                self.table.park_in(at, Phase::Drain);
            }
        }
        None
    }

    fn overlay_key(&self) -> StorageKey {
        self.overlay.as_ref().map_or(StorageKey(0), Map::storage)
    }

    fn metadata_key(&self) -> StorageKey {
        self.overlay.as_ref().map_or(StorageKey(0), Map::metadata)
    }
}

impl From<IoFailure> for Failure {
    fn from(io: IoFailure) -> Self {
        match io {
            IoFailure::Medium => Self::Medium,
            IoFailure::Full => Self::Full,
            IoFailure::NoCodec => Self::NoCodec,
            IoFailure::Damaged => Self::Damaged,
        }
    }
}
