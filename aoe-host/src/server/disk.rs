//! One disk: a target, an engine, and what waits for it.

use core::time::Duration;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use aoe_proto::{AtaError, Mac, Target, TargetConfig};
use cow_core::engine::{Engine, Failure, Request, RequestId, SubmitError};
use cow_core::format::{IndexEntry, Layer, Top, dm_snapshot, native};

use super::frames::Frames;
use super::requests::{Asked, Asker, Ended, Pending, Requests};
use super::{Edge, LogUse, Opened, Report};

/// Requests of one disk in its engine; an initiator keeps at most 64 outstanding. [AoE 8.1]
pub(super) const SLOTS: usize = 64;

/// Requests of one disk that wait for a slot; beyond, frames are dropped.
pub(super) const WAITING_MAX: usize = 256;

/// How long writes fail at once after an overlay could not be created: a client that tries again
/// and again must not keep the storage busy with that.
pub(super) const CREATE_AGAIN: Duration = Duration::from_secs(5);

/// New chunks that one round of a full engine can need, for stores whose index is in memory: every
/// slot with the longest write of a frame, in chunks of one sector.
const ROUND_CHUNKS: u64 = SLOTS as u64 * 256;

/// The engine's request number for work of our own, which no client waits for.
pub(super) const OWN: RequestId = RequestId(u32::MAX);

pub use cow_core::engine::Durability;

/// Where writes of a disk go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Overlay {
    /// Nowhere: writes are refused.
    None,
    /// Into this file, which is created at the first write if it does not exist.
    File(PathBuf),
}

/// What a disk is made from.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    /// For messages, file names and the registry: a client's name or an address.
    pub label: String,
    /// The protocol side.
    pub target: TargetConfig,
    /// Where writes go.
    pub overlay: Overlay,
    /// When they are acknowledged.
    pub durability: Durability,
    /// Most bytes of data in the overlay.
    pub limit: Option<u64>,
    /// The machine that it was made for unasked, and which nobody has registered yet: to be done
    /// when its overlay is created.
    pub newcomer: Option<Mac>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presence {
    /// The disk is read-only.
    None,
    /// No overlay yet; the first write brings one.
    Pristine,
    /// Being created; writes wait.
    Creating,
    Ready,
    /// It is about to have a commit log; writes wait.
    Joining,
    /// It could not be created; writes fail until this time, then the next one tries again.
    Failed {
        until: Duration,
        failure: Failure,
    },
}

/// What a disk did, for `status`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
    pub(super) merged: u64,
    pub(super) last_seen: Option<Duration>,
    pub(super) last_mac: Option<Mac>,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own end")]
pub(super) struct Disk {
    pub(super) spec: DiskSpec,
    pub(super) export: usize,
    pub(super) target: Target,
    pub(super) engine: Engine<SLOTS>,
    pub(super) index: Vec<IndexEntry>,
    pub(super) layers: Arc<[Layer<'static>]>,
    pub(super) presence: Presence,
    /// Requests that wait for a slot or for the overlay, in order of arrival.
    pub(super) waiting: VecDeque<RequestId>,
    pub(super) active: bool,
    /// Operations that were started and have not ended.
    pub(super) under_way: u32,
    /// One has ended since the disk had its last turn.
    pub(super) ended: bool,
    pub(super) starved: bool,
    pub(super) counts: Counts,
    pub(super) reported_read_only: bool,
    /// A frozen layer was changed by somebody: nothing read from it may be believed.
    pub(super) broken: bool,
    /// Notes of an earlier process that are still to be taken up.
    pub(super) notes: Vec<cow_core::engine::Note>,
    /// Of these, how many the engine is taking up.
    pub(super) restoring: usize,
    /// A mapping of an acknowledged write could not be taken up: what the disk reads as cannot be
    /// believed, and its notes must stay.
    pub(super) lost_notes: bool,
    /// An answer with data of a frozen layer that may be changing now must not leave.
    pub(super) suspended: bool,
    /// The commit under way covers every note.
    pub(super) notes_sealed: bool,
    pub(super) log: LogUse,
    /// What is noted of its overlay outlives the process.
    pub(super) is_noted: bool,
}

impl Disk {
    pub(super) fn new(
        spec: DiskSpec,
        export: usize,
        layers: Arc<[Layer<'static>]>,
        sectors: u64,
    ) -> Option<Self> {
        let target = Target::new(spec.target).ok().filter(|t| t.config().sectors == sectors)?;
        let mut engine = Engine::new(None, sectors, spec.durability)?;
        engine.set_weaving(true);
        let presence = match spec.overlay {
            Overlay::None => Presence::None,
            Overlay::File(_) => Presence::Pristine,
        };
        Some(Self {
            spec,
            export,
            target,
            engine,
            index: Vec::new(),
            layers,
            presence,
            waiting: VecDeque::new(),
            active: false,
            under_way: 0,
            ended: false,
            starved: false,
            counts: Counts::default(),
            reported_read_only: false,
            broken: false,
            notes: Vec::new(),
            restoring: 0,
            lost_notes: false,
            suspended: false,
            notes_sealed: false,
            log: LogUse::None,
            is_noted: false,
        })
    }

    /// When its writes are acknowledged, as far as its overlay allows.
    pub(super) fn durability(&self) -> Durability {
        match self.spec.durability {
            Durability::Logged if !self.is_logged() => Durability::Safe,
            wanted => wanted,
        }
    }

    pub(super) fn has_overlay(&self) -> bool {
        matches!(self.presence, Presence::Ready | Presence::Joining)
    }

    /// Its overlay has a commit log.
    pub(super) fn is_logged(&self) -> bool {
        self.log == LogUse::Part
    }

    /// What its commit log holds cannot be entered for want of room.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.is_logged() && self.engine.is_full() && !self.engine.is_read_only()
    }

    pub(super) fn is_drained(&self) -> bool {
        let dirty = self.engine.is_dirty()
            && self.spec.durability != Durability::Ephemeral
            && !self.engine.is_read_only();
        let restored = self.notes.is_empty() && self.restoring == 0;
        let awaited = matches!(self.presence, Presence::Creating | Presence::Joining);
        self.waiting.is_empty() && self.engine.is_idle() && !dirty && restored && !awaited
    }

    /// A commit each second is not needed: what was acknowledged outlives the process without, and is
    /// allowed to go with the power. With a commit log it does neither, but has to be entered again after
    /// a crash; in `Safe` mode only what a full medium refused is left to be committed.
    pub(super) fn can_wait(&self) -> bool {
        self.is_noted && self.durability() == Durability::Writeback
    }

    /// Asks for a commit; false if there is nothing to commit.
    pub(super) fn commit(&mut self) -> bool {
        let due = self.engine.is_dirty() && self.spec.durability != Durability::Ephemeral;
        if due {
            self.engine.commit();
        }
        due
    }

    /// As [`commit`](Self::commit), once nothing is under way: asked for during a commit, the next
    /// one would follow it, and so on for as long as somebody asks.
    pub(super) fn commit_at_rest(&mut self) -> bool {
        self.engine.is_idle() && self.commit()
    }

    /// Asks for a commit because others need the pages that it would free, in every mode.
    pub(super) fn yield_pages(&mut self) -> bool {
        let due = self.engine.is_dirty();
        if due {
            self.engine.commit();
        }
        due
    }

    /// It was made for a machine that nobody registered, and holds nothing that could be lost.
    pub(super) fn is_guest(&self) -> bool {
        self.spec.newcomer.is_some()
            && matches!(self.presence, Presence::Pristine | Presence::Failed { .. })
    }

    pub(super) fn attach(&mut self, opened: Opened) -> bool {
        self.index = opened.index;
        self.log = opened.log;
        self.is_noted = opened.noted;
        self.engine.set_durability(self.durability());
        let attached = self.engine.attach(opened.top);
        if attached {
            let limit = self.spec.limit.map_or(u64::MAX, |bytes| bytes / 512);
            self.engine.set_limit(opened.used, limit);
            self.presence = Presence::Ready;
            self.notes = opened.notes;
        }
        attached
    }

    /// Its overlay has its commit log now, or none: what waits goes on. With a failure it takes no
    /// changes, for nobody can tell what its header says.
    pub(super) fn join(&mut self, joined: Result<Option<native::Opened>, Failure>) {
        if self.presence != Presence::Joining {
            return;
        }
        self.presence = Presence::Ready;
        self.log = LogUse::None;
        match (joined, self.engine.overlay_mut()) {
            (Ok(Some(changed)), Some(Top::Native(overlay))) => {
                overlay.renew(changed);
                self.log = LogUse::Part;
            }
            (Ok(_), _) => {}
            (Err(_), _) => self.engine.abandon(),
        }
        self.engine.set_durability(self.durability());
    }

    /// Sees to it that the index memory has room for whatever the next round brings: a request
    /// that finds none fails. Twice the memory each time, so that the copying stays rare.
    fn grow_index(&mut self) {
        let Some(Top::DmSnapshot(store)) = self.engine.overlay() else { return };
        let len = self.index.len() as u64;
        if store.index_needed_for(ROUND_CHUNKS) <= len {
            return;
        }
        let needed = store.index_needed_for(ROUND_CHUNKS.saturating_add(len));
        let Ok(needed) = usize::try_from(needed) else { return };
        let mut larger = vec![IndexEntry::EMPTY; needed];
        if dm_snapshot::move_index(&self.index, &mut larger).is_ok() {
            self.index = larger;
        }
    }

    /// Puts waiting requests into the engine as far as it has slots, in order. True if that got
    /// anywhere.
    pub(super) fn submit_waiting(
        &mut self,
        requests: &mut Requests,
        frames: &mut Frames,
        edge: &mut impl Edge,
    ) -> bool {
        self.grow_index();
        let mut progressed = self.restore_notes();
        while let Some(at) = self.next_waiting(requests) {
            let Some(id) = self.waiting.get(at).copied() else { break };
            let Some(pending) = requests.get_mut(id) else {
                self.waiting.remove(at);
                continue;
            };
            match self.submit_part(id, pending) {
                Err(SubmitError::Busy) => break,
                Err(_) => pending.failure = Some(Failure::Unsupported),
                Ok(()) => {}
            }
            progressed = true;
            if pending.failure.is_none()
                && let Some(next) = pending.more.pop()
            {
                pending.extent = next;
                continue;
            }
            pending.waits = false;
            let ended = pending.parts == 0;
            self.waiting.remove(at);
            if ended {
                self.end(id, requests, frames, edge);
            }
        }
        progressed
    }

    /// Which waiting request is to be put into the engine next: the first. Only while the overlay
    /// is being created or gets its commit log, what does not change anything passes the changes that
    /// it does not touch.
    fn next_waiting(&self, requests: &Requests) -> Option<usize> {
        let waits = !self.notes.is_empty() || self.suspended && !self.broken;
        if self.waiting.is_empty() || waits {
            return None;
        }
        if !matches!(self.presence, Presence::Creating | Presence::Joining) || self.broken {
            return Some(0);
        }
        let waiting = || self.waiting.iter().map(|id| requests.get(*id));
        waiting().enumerate().position(|(at, pending)| {
            let Some(pending) = pending else { return true };
            let held_up = |earlier: &Pending| earlier.asked.changes() && earlier.overlaps(pending);
            !pending.asked.changes() && !waiting().take(at).flatten().any(held_up)
        })
    }

    /// Puts the next part of a request into the engine.
    fn submit_part(&mut self, id: RequestId, pending: &mut Pending) -> Result<(), SubmitError> {
        if self.broken || self.lost_notes {
            pending.failure = pending.failure.or(Some(Failure::Medium));
        }
        if pending.failure.is_some() {
            return Ok(());
        }
        let request = match pending.asked {
            Asked::Read | Asked::Verify => Request::Read(pending.extent),
            Asked::Write => Request::Write { extent: pending.extent, durable: pending.durable },
            // There is nothing that could be made durable.
            Asked::Flush if !self.has_overlay() => return Ok(()),
            Asked::Flush => Request::Flush,
            Asked::Discard => Request::Discard(pending.extent),
        };
        self.engine.submit(id, request)?;
        pending.parts += 1;
        Ok(())
    }

    /// Every part of a request has ended: counts and answers it.
    pub(super) fn end(
        &mut self,
        id: RequestId,
        requests: &mut Requests,
        frames: &mut Frames,
        edge: &mut impl Edge,
    ) {
        let Some(mut pending) = requests.remove(id) else { return };
        let mut ended = pending.ended();
        if self.broken || self.lost_notes {
            ended.failure = ended.failure.or(Some(Failure::Medium));
        }
        if self.suspended && matches!(ended.asked, Asked::Read | Asked::Verify) {
            // The initiator asks again until the layer below is known to be as it was.
            self.counts.dropped += 1;
            while requests.next_copy(&mut pending.place).is_some() {
                self.counts.dropped += 1;
            }
            frames.give(pending.buf);
            return;
        }
        let bytes = ended.range.bytes();
        match (ended.failure, ended.asked) {
            (Some(failure), _) => {
                self.counts.errors += 1;
                edge.report(Report::Failed { disk: &self.spec.label, failure });
            }
            (None, Asked::Read | Asked::Verify) => {
                self.counts.reads += 1;
                self.counts.bytes_read += bytes;
            }
            (None, Asked::Write) => {
                self.counts.writes += 1;
                self.counts.bytes_written += bytes;
            }
            (None, Asked::Flush | Asked::Discard) => {}
        }
        while let Some(from) = requests.next_copy(&mut pending.place) {
            let Some(mut copy) = frames.take() else {
                self.counts.dropped += 1;
                continue;
            };
            let data = from.reply.data_range();
            if ended.failure.is_none() {
                copy.tail = pending.buf.tail;
            }
            if ended.failure.is_none()
                && copy.tail.is_none()
                && let Some(target) = copy.bytes.get_mut(data.clone())
                && let Some(source) = pending.buf.bytes.get(data)
            {
                target.copy_from_slice(source);
            }
            copy.len = emit(&ended, &from, &mut copy.bytes);
            frames.post(from.link, copy);
        }
        let mut buf = pending.buf;
        buf.tail.take_if(|_| ended.failure.is_some());
        buf.len = emit(&ended, &pending.from, &mut buf.bytes);
        frames.post(pending.from.link, buf);
    }

    /// Its requests under way, in any order; one in parts may be named several times.
    pub(super) fn requests(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().copied().chain(self.engine.requests())
    }

    /// Takes up the mappings of an earlier process before any new request.
    fn restore_notes(&mut self) -> bool {
        let mut progressed = false;
        while let Some(&note) = self.notes.last() {
            match self.engine.submit(OWN, Request::Restore(note)) {
                Err(SubmitError::Busy) => return progressed,
                Ok(()) => self.restoring += 1,
                Err(_) => self.lost_notes = true,
            }
            self.notes.pop();
            progressed = true;
        }
        progressed
    }
}

/// Writes the answer around the data of a read; its length.
fn emit(ended: &Ended, to: &Asker, buf: &mut [u8]) -> usize {
    let len = match ended.failure {
        None => to.reply.emit_ok(buf),
        Some(failure) => {
            let error = ata_error(ended.asked, failure);
            let residue = u8::try_from(ended.range.sectors()).unwrap_or(u8::MAX);
            to.reply.emit_error(buf, error, residue)
        }
    };
    // Buffers hold every frame of the link; after the MTU shrank none is sent at all.
    len.unwrap_or(0)
}

/// [AoE 5.4]
fn ata_error(asked: Asked, failure: Failure) -> AtaError {
    match (asked, failure) {
        (Asked::Read | Asked::Verify, _) => AtaError::Uncorrectable,
        (Asked::Discard, Failure::Unsupported) => AtaError::Aborted,
        (Asked::Write | Asked::Discard | Asked::Flush, _) => AtaError::WriteFault,
    }
}
