//! One disk: a target, an engine, and what waits for it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use aoe_proto::{Action, AtaError, AtaReply, Mac, Target, TargetConfig};
use cow_core::engine::{
    Buffer, Engine, Failure, IoFailure, Kind, Lent, Operation, Output, Request, RequestId,
    SubmitError,
};
use cow_core::format::{IndexEntry, Layer, Top, dm_snapshot};
use cow_core::pages::PagePool;
use cow_core::units::Extent;

use super::frames::FrameBuf;
use super::io::{Completion, Job, Memory};
use super::requests::{Asked, Pending, Requests};
use super::{Edge, Opened, Report, Server};

/// Requests of one disk in its engine; an initiator keeps at most 64 outstanding. [AoE 8.1]
pub(super) const SLOTS: usize = 64;

/// Requests of one disk that wait for a slot; beyond, frames are dropped.
const WAITING_MAX: usize = 256;

/// New chunks that one round of a full engine can need, for stores whose index is in memory: every
/// slot with the longest write of a frame, in chunks of one sector.
const ROUND_CHUNKS: u64 = SLOTS as u64 * 256;

/// The engine's request number for work of our own, which no client waits for.
const OWN: RequestId = RequestId(u32::MAX);

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
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    /// The disk is read-only.
    None,
    /// No overlay yet; the first write brings one.
    Pristine,
    /// Being created; writes wait.
    Creating,
    Ready,
    /// It could not be created; writes fail.
    Failed,
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
    pub(super) last_seen: Option<core::time::Duration>,
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
    presence: Presence,
    /// Requests that wait for a slot or for the overlay, in order of arrival.
    waiting: VecDeque<RequestId>,
    pub(super) active: bool,
    pub(super) starved: bool,
    pub(super) counts: Counts,
    reported_read_only: bool,
    /// Notes of an earlier process that are still to be taken up.
    notes: Vec<cow_core::engine::Note>,
    /// Of these, how many the engine is taking up.
    restoring: usize,
    /// The commit under way covers every note.
    notes_sealed: bool,
}

impl Disk {
    pub(super) fn new(
        spec: DiskSpec,
        export: usize,
        layers: Arc<[Layer<'static>]>,
        sectors: u64,
    ) -> Option<Self> {
        let target = Target::new(spec.target).ok()?;
        let engine = Engine::new(None, sectors, spec.durability)?;
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
            starved: false,
            counts: Counts::default(),
            reported_read_only: false,
            notes: Vec::new(),
            restoring: 0,
            notes_sealed: false,
        })
    }

    pub(super) fn has_overlay(&self) -> bool {
        self.presence == Presence::Ready
    }

    pub(super) fn is_drained(&self) -> bool {
        let dirty = self.engine.is_dirty()
            && self.spec.durability != Durability::Ephemeral
            && !self.engine.is_read_only();
        self.waiting.is_empty() && self.engine.is_idle() && !dirty
    }

    /// Asks for a commit; false if there is nothing to commit.
    pub(super) fn commit(&mut self) -> bool {
        let due = self.engine.is_dirty() && self.spec.durability != Durability::Ephemeral;
        if due {
            self.engine.commit();
        }
        due
    }

    pub(super) fn wake(&mut self) {
        self.engine.wake();
    }

    fn attach(&mut self, opened: Opened) -> bool {
        self.index = opened.index;
        let attached = self.engine.attach(opened.top);
        if attached {
            let limit = self.spec.limit.map_or(u64::MAX, |bytes| bytes / 512);
            self.engine.set_limit(opened.used, limit);
            self.presence = Presence::Ready;
            self.notes = opened.notes;
        } else {
            self.presence = Presence::Failed;
        }
        attached
    }

    /// Puts waiting requests into the engine as far as it has slots, in order.
    fn submit_waiting(&mut self, requests: &mut Requests) -> bool {
        self.grow_index();
        let mut progressed = self.restore_notes();
        while let Some(&id) = self.waiting.front() {
            let Some(pending) = requests.get_mut(id) else {
                self.waiting.pop_front();
                continue;
            };
            if self.presence == Presence::Creating && pending.asked.changes()
                || !self.notes.is_empty()
            {
                break;
            }
            let request = match pending.asked {
                Asked::Read | Asked::Verify => Request::Read(pending.extent),
                Asked::Write => Request::Write { extent: pending.extent, durable: pending.durable },
                Asked::Flush => Request::Flush,
                Asked::Discard => Request::Discard(pending.extent),
            };
            match self.engine.submit(id, request) {
                Ok(()) => {}
                Err(SubmitError::Busy) => break,
                Err(_) => pending.failure = Some(Failure::Unsupported),
            }
            self.waiting.pop_front();
            progressed = true;
        }
        progressed
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

    /// Takes up the mappings of an earlier process before any new request.
    fn restore_notes(&mut self) -> bool {
        let mut progressed = false;
        while let Some(&note) = self.notes.last() {
            match self.engine.submit(OWN, Request::Restore(note)) {
                Err(SubmitError::Busy) => return progressed,
                Ok(()) => self.restoring += 1,
                // A note beyond the disk: not of this image, so nothing of it was acknowledged.
                Err(_) => {}
            }
            self.notes.pop();
            progressed = true;
        }
        progressed
    }
}

impl Server<'_> {
    /// Performs what a target decided about a request.
    pub(super) fn perform(
        &mut self,
        number: u32,
        link: usize,
        action: Action<'_>,
        edge: &mut impl Edge,
    ) {
        match action {
            Action::Ignore(_) => self.totals.ignored += 1,
            Action::Reply(reply) => {
                let Some(disk) = self.disks.get(number as usize).and_then(Option::as_deref) else {
                    return;
                };
                if reply.change().is_some() {
                    edge.persist(number, &disk.spec, disk.target.state());
                }
                let Some(mut buf) = self.frames.take() else {
                    self.totals.overrun += 1;
                    return;
                };
                match disk.target.emit(&reply, &mut buf.bytes) {
                    Ok(len) => {
                        buf.len = len;
                        self.frames.post(link, buf);
                    }
                    Err(_) => self.frames.give(buf),
                }
            }
            Action::Read { range, reply } => {
                self.take(number, link, Asked::Read, reply, extent_of(range), &[], false, edge);
            }
            Action::Verify { range, reply } => {
                self.take(number, link, Asked::Verify, reply, extent_of(range), &[], false, edge);
            }
            Action::Write { range, data, durable, reply } => {
                let extent = extent_of(range);
                self.take(number, link, Asked::Write, reply, extent, data, durable, edge);
            }
            Action::Flush { reply } => {
                self.take(number, link, Asked::Flush, reply, Extent::EMPTY, &[], false, edge);
            }
            Action::Discard { ranges, reply } => {
                // A list is made because the frame goes away; no client sends these in a hot loop.
                let mut more: Vec<Extent> = ranges.map(extent_of).collect();
                let first = more.pop().unwrap_or(Extent::EMPTY);
                if let Some(id) =
                    self.take(number, link, Asked::Discard, reply, first, &[], false, edge)
                    && let Some(pending) = self.requests.get_mut(id)
                {
                    pending.more = more;
                }
            }
        }
    }

    /// Takes a request that needs storage.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, used once each")]
    fn take(
        &mut self,
        number: u32,
        link: usize,
        asked: Asked,
        reply: AtaReply,
        extent: Extent,
        data: &[u8],
        durable: bool,
        edge: &mut impl Edge,
    ) -> Option<RequestId> {
        let disk = self.disks.get_mut(number as usize)?.as_deref_mut()?;
        let broken = self.exports.get(disk.export).is_some_and(|e| e.broken);
        let full = disk.waiting.len() >= WAITING_MAX;
        let Some(mut buf) = self.frames.take().filter(|_| !full) else {
            disk.counts.dropped += 1;
            self.totals.overrun += 1;
            return None;
        };
        let data_at = if asked == Asked::Read { reply.data_range().start } else { 0 };
        if let Some(target) = buf.bytes.get_mut(..data.len()) {
            target.copy_from_slice(data);
        }
        let (extent, more) = match asked {
            Asked::Verify => pieces(extent, buf.bytes.len() as u64 / 512),
            _ => (extent, Vec::new()),
        };
        let failure = None;
        let mut pending = Pending {
            disk: number,
            link,
            asked,
            reply,
            extent,
            durable,
            data_at,
            buf,
            more,
            failure,
        };
        let empty_discard = asked == Asked::Discard && extent.is_empty();
        if broken || disk.presence == Presence::Failed && asked.changes() {
            pending.failure = Some(Failure::Medium);
            self.answer(pending, edge);
            return None;
        }
        if empty_discard {
            self.answer(pending, edge);
            return None;
        }
        let needs_overlay = asked.changes() && disk.presence == Presence::Pristine;
        if needs_overlay {
            disk.presence = Presence::Creating;
        }
        let spec = needs_overlay.then(|| disk.spec.clone());
        let id = self.requests.insert(pending);
        disk.waiting.push_back(id);
        self.activate(number);
        if let Some(spec) = spec {
            edge.create_overlay(number, &spec);
        }
        Some(id)
    }

    /// The overlay of a disk exists now and is open, or could not be made.
    pub fn overlay_ready(&mut self, number: u32, opened: Option<Opened>, edge: &mut impl Edge) {
        let Some(disk) = self.disk_mut(number) else { return };
        let attached = opened.is_some_and(|opened| disk.attach(opened));
        if !attached {
            disk.presence = Presence::Failed;
            let waiting = core::mem::take(&mut disk.waiting);
            for id in waiting {
                let changes = self.requests.get(id).is_some_and(|p| p.asked.changes());
                if changes && let Some(mut pending) = self.requests.remove(id) {
                    pending.failure = Some(Failure::Medium);
                    self.answer(pending, edge);
                } else if let Some(disk) = self.disk_mut(number) {
                    disk.waiting.push_back(id);
                }
            }
        }
        self.activate(number);
    }

    /// Runs one disk until it waits for something.
    pub(super) fn run_disk(&mut self, number: u32, edge: &mut impl Edge) -> bool {
        let mut progressed = false;
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return false;
        };
        disk.active = false;
        loop {
            let submitted = disk.submit_waiting(&mut self.requests);
            let mut any = false;
            while let Some(output) = poll(disk, &mut self.pool) {
                any = true;
                match output {
                    Output::Done { id, result } => {
                        finish(disk, id, result, &mut self.requests, &mut self.frames, edge);
                    }
                    other => perform(disk, number, other, &mut self.pool, &mut self.requests, edge),
                }
            }
            progressed |= any;
            if !any && !submitted {
                break;
            }
        }
        disk.starved = disk.engine.is_starved();
        if disk.has_overlay() && disk.engine.is_read_only() && !disk.reported_read_only {
            disk.reported_read_only = true;
            edge.report(Report::ReadOnly { disk: &disk.spec.label });
        }
        progressed
    }

    /// Brings the bytes of a read that ended later to where they belong, and tells the engine.
    pub(super) fn complete_operation(&mut self, completion: &Completion) {
        let job = completion.job;
        let Some(disk) = self.disks.get_mut(job.disk as usize).and_then(Option::as_deref_mut)
        else {
            return;
        };
        if let Some(data) = &completion.data {
            let len = data.len() as u64;
            let target = match job.buffer {
                Buffer::Page { page, offset } => {
                    cow_core::blocking::part_mut(self.pool.bytes_mut(page), offset, len)
                }
                Buffer::Request { id, offset } => {
                    self.requests.get_mut(id).and_then(|p| p.data_mut(offset, len))
                }
                Buffer::None => None,
            };
            if let Some(target) = target {
                target.copy_from_slice(data);
            }
        }
        complete(disk, &mut self.pool, job, completion.result);
    }

    /// Answers a request that ended before it reached an engine.
    fn answer(&mut self, pending: Pending, edge: &mut impl Edge) {
        let label = self
            .disks
            .get(pending.disk as usize)
            .and_then(Option::as_deref)
            .map_or("", |d| d.spec.label.as_str());
        if let Some(failure) = pending.failure {
            edge.report(Report::Failed { disk: label, failure });
        }
        let (link, buf) = emit(pending);
        self.frames.post(link, buf);
    }
}

fn lend<'a, 'p>(
    pool: &'a mut PagePool<'p>,
    layers: &'a Arc<[Layer<'static>]>,
    index: &'a mut [IndexEntry],
) -> Lent<'a, 'p> {
    Lent { pages: pool, layers, index }
}

fn poll(disk: &mut Disk, pool: &mut PagePool<'_>) -> Option<Output> {
    disk.engine.poll(&mut lend(pool, &disk.layers, &mut disk.index))
}

fn complete(disk: &mut Disk, pool: &mut PagePool<'_>, job: Job, result: Result<(), IoFailure>) {
    disk.engine.complete(&mut lend(pool, &disk.layers, &mut disk.index), job.ticket, result);
}

/// Does what the engine asks for, short of ending a request.
fn perform(
    disk: &mut Disk,
    number: u32,
    output: Output,
    pool: &mut PagePool<'_>,
    requests: &mut Requests,
    edge: &mut impl Edge,
) {
    match output {
        Output::Operation(o) => {
            let job = Job { disk: number, ticket: o.ticket, buffer: o.buffer };
            let started = match memory_of(&o, pool, requests) {
                Some(memory) => edge.start(job, &o, memory),
                None => Some(Err(IoFailure::Medium)),
            };
            if let Some(result) = started {
                complete(disk, pool, job, result);
            }
        }
        Output::Fill { id, offset, len } => {
            if let Some(part) =
                requests.get_mut(id).and_then(|p| p.data_mut(offset, u64::from(len)))
            {
                part.fill(0);
            }
        }
        Output::Note { note, ticket } => {
            let job = Job { disk: number, ticket, buffer: Buffer::None };
            let kept = edge.note(number, note);
            complete(disk, pool, job, kept);
        }
        Output::NotesSealed => {
            // Notes that are still being taken up are not in this commit: keep all until the next.
            disk.notes_sealed = disk.notes.is_empty() && disk.restoring == 0;
            if disk.notes_sealed {
                edge.notes_sealed(number);
            }
        }
        Output::NotesDurable => {
            if core::mem::take(&mut disk.notes_sealed) {
                edge.notes_durable(number);
            }
        }
        Output::Mapped { .. } | Output::Done { .. } => {}
    }
}

/// The memory that an operation names. `None` if it names none that exists, a defect of ours.
fn memory_of<'a>(
    o: &Operation,
    pool: &'a mut PagePool<'_>,
    requests: &'a mut Requests,
) -> Option<Memory<'a>> {
    use cow_core::blocking::{part, part_mut};
    Some(match (o.kind, o.buffer) {
        (Kind::Read, Buffer::Page { page, offset }) => {
            Memory::Into(part_mut(pool.bytes_mut(page), offset, o.len)?)
        }
        (Kind::Write, Buffer::Page { page, offset }) => {
            Memory::From(part(pool.bytes(page), offset, o.len)?)
        }
        (Kind::Read, Buffer::Request { id, offset }) => {
            Memory::Into(requests.get_mut(id)?.data_mut(offset, o.len)?)
        }
        (Kind::Write, Buffer::Request { id, offset }) => {
            Memory::From(requests.get(id)?.data(offset, o.len)?)
        }
        (Kind::Zero | Kind::Punch | Kind::Sync, _) => Memory::None,
        (Kind::Read | Kind::Write, Buffer::None) => return None,
    })
}

/// A request, or one range of a discard, has ended in the engine.
fn finish(
    disk: &mut Disk,
    id: RequestId,
    result: Result<(), Failure>,
    requests: &mut Requests,
    frames: &mut super::frames::Frames,
    edge: &mut impl Edge,
) {
    if let Err(failure) = result {
        disk.counts.errors += 1;
        edge.report(Report::Failed { disk: &disk.spec.label, failure });
    }
    if id == OWN {
        disk.restoring = disk.restoring.saturating_sub(1);
        return;
    }
    let Some(pending) = requests.get_mut(id) else { return };
    pending.failure = pending.failure.or(result.err());
    if pending.failure.is_none()
        && let Some(next) = pending.more.pop()
    {
        pending.extent = next;
        disk.waiting.push_back(id);
        return;
    }
    let Some(pending) = requests.remove(id) else { return };
    let bytes = pending.extent.bytes();
    match pending.asked {
        Asked::Read | Asked::Verify => {
            disk.counts.reads += 1;
            disk.counts.bytes_read += bytes;
        }
        Asked::Write => {
            disk.counts.writes += 1;
            disk.counts.bytes_written += bytes;
        }
        Asked::Flush | Asked::Discard => {}
    }
    let (link, buf) = emit(pending);
    frames.post(link, buf);
}

/// Writes the answer into the request's buffer, around the data of a read.
fn emit(mut pending: Pending) -> (usize, FrameBuf) {
    let buf = &mut pending.buf.bytes;
    let len = match pending.failure {
        None => pending.reply.emit_ok(buf),
        Some(failure) => {
            let error = ata_error(pending.asked, failure);
            let residue = u8::try_from(pending.extent.sectors()).unwrap_or(u8::MAX);
            pending.reply.emit_error(buf, error, residue)
        }
    };
    // Buffers hold every frame of the link; after the MTU shrank none is sent at all.
    pending.buf.len = len.unwrap_or(0);
    (pending.link, pending.buf)
}

/// [AoE 5.4]
fn ata_error(asked: Asked, failure: Failure) -> AtaError {
    match (asked, failure) {
        (Asked::Read | Asked::Verify, _) => AtaError::Uncorrectable,
        (Asked::Discard, Failure::Unsupported) => AtaError::Aborted,
        (Asked::Write | Asked::Discard | Asked::Flush, _) => AtaError::WriteFault,
    }
}

/// A range in pieces of at most `most` sectors: the first, and the others last first.
fn pieces(extent: Extent, most: u64) -> (Extent, Vec<Extent>) {
    let mut rest = extent.skip(most);
    let mut more = Vec::new();
    while !rest.is_empty() && most > 0 {
        more.push(rest.take(most));
        rest = rest.skip(most);
    }
    more.reverse();
    (extent.take(most), more)
}

fn extent_of(range: aoe_proto::SectorRange) -> Extent {
    // A range lies inside its disk, so inside what an extent can hold.
    Extent::new(range.lba(), u64::from(range.count())).unwrap_or(Extent::EMPTY)
}
