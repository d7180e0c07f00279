//! The disks' turns: requests into the engine, its operations out, their ends back in; and the
//! pool of pages that they share.

use std::sync::Arc;

use cow_core::engine::{
    Buffer, Failure, IoFailure, Kind, Lent, Operation, Output, RequestId, Weave,
};
use cow_core::format::{IndexEntry, Layer, Map};
use cow_core::pages::{PagePool, StorageKey};

use super::adjacent::Adjacent;
use super::disk::{Disk, Durability, OWN};
use super::frames::Frames;
use super::io::{Completion, Job, Memory, RUN_PIECES_MAX, Run, Started};
use super::lending::Lending;
use super::noting::Noting;
use super::requests::{Asked, Requests};
use super::{Edge, Report, Server};

impl<'p> Server<'p> {
    /// Does everything that can be done now. Answers wait for [`send`](Self::send).
    pub fn run(&mut self, edge: &mut impl Edge) {
        self.release_held(edge);
        let mut may_press = true;
        loop {
            while let Some(number) = self.active.pop() {
                if self.run_disk(number, edge) {
                    self.wake_starved(Some(number));
                    may_press = true;
                }
            }
            // Half of the pool: as an engine by itself does, before the pool is used up.
            if self.starved == 0 || self.pool.pinned() * 2 < self.pool.len() {
                return;
            }
            if core::mem::take(&mut may_press) {
                self.free_pages();
            } else if !self.give_up() {
                return;
            }
        }
    }

    /// Requests that waited for pages held by another disk are tried again.
    fn wake_starved(&mut self, progressed: Option<u32>) {
        if self.starved == 0 {
            return;
        }
        for number in 0..self.disks.len() {
            let Ok(number) = u32::try_from(number) else { return };
            if Some(number) != progressed
                && let Some(disk) = self.disk_mut(number)
                && core::mem::take(&mut disk.starved)
            {
                disk.engine.wake();
                self.starved = self.starved.saturating_sub(1);
                self.activate(number);
            }
        }
    }

    /// Has every disk publish what it holds in the pool, because some wait for pages: those that
    /// nobody writes to would keep theirs until the next interval, or for ever.
    fn free_pages(&mut self) {
        for number in 0..self.disks.len() {
            let Ok(number) = u32::try_from(number) else { return };
            if self.disk_mut(number).is_some_and(Disk::yield_pages) {
                self.activate(number);
            }
        }
        self.wake_starved(None);
    }

    /// Nothing is under way and no disk gives pages back, because storages are full or broken:
    /// ends what waits for pages. False while there is hope.
    fn give_up(&mut self) -> bool {
        if self.disks().any(|(_, d)| d.under_way > 0) {
            return false;
        }
        let mut any = false;
        for number in 0..self.disks.len() {
            let Ok(number) = u32::try_from(number) else { break };
            if let Some(disk) = self.disk_mut(number).filter(|d| d.starved) {
                disk.engine.give_up();
                disk.starved = false;
                self.starved = self.starved.saturating_sub(1);
                self.activate(number);
                any = true;
            }
        }
        any
    }

    /// Runs one disk until it waits for something. True if that may have freed pages.
    pub(super) fn run_disk(&mut self, number: u32, edge: &mut impl Edge) -> bool {
        let Some(mut turn) = self.turn(number, edge) else { return false };
        turn.disk.active = false;
        let mut progressed = core::mem::take(&mut turn.disk.ended);
        loop {
            let submitted = turn.disk.submit_waiting(turn.requests, turn.frames, turn.edge);
            let any = turn.poll_all();
            progressed |= any;
            if !any && !submitted {
                break;
            }
        }
        let Turn { disk, edge, .. } = turn;
        if disk.has_overlay() && disk.engine.is_read_only() && !disk.reported_read_only {
            disk.reported_read_only = true;
            edge.report(Report::ReadOnly { disk: &disk.spec.label, number });
        }
        let starved = disk.engine.is_starved();
        if core::mem::replace(&mut disk.starved, starved) != starved {
            self.starved = if starved { self.starved + 1 } else { self.starved.saturating_sub(1) };
        }
        progressed
    }

    /// What a disk's turn works with; `None` if there is no such disk.
    fn turn<'t, E>(&'t mut self, number: u32, edge: &'t mut E) -> Option<Turn<'t, 'p, E>> {
        let disk = self.disks.get_mut(number as usize)?.as_deref_mut()?;
        Some(Turn {
            disk,
            number,
            pool: &mut self.pool,
            requests: &mut self.requests,
            frames: &mut self.frames,
            adjacent: &mut self.adjacent,
            noting: &mut self.noting,
            lending: &mut self.lending,
            edge,
        })
    }

    /// Performs the changes that waited for answers to leave.
    fn release_held(&mut self, edge: &mut impl Edge) {
        if !self.lending.is_holding() {
            return;
        }
        for (number, operation) in self.lending.release() {
            let Some(mut turn) = self.turn(number, edge) else { continue };
            turn.disk.under_way = turn.disk.under_way.saturating_sub(1);
            turn.disk.ended = true;
            turn.perform(&operation);
            self.activate(number);
        }
    }

    /// Some change waits for an answer to leave: there is more to do behind [`send`](Self::send).
    pub fn is_holding(&self) -> bool {
        self.lending.is_holding()
    }

    /// Brings the bytes of a read that ended later to where they belong, and tells the engine.
    pub(super) fn complete_operation(&mut self, completion: &Completion) {
        let job = completion.job;
        let Some(disk) = self.disks.get_mut(job.disk as usize).and_then(Option::as_deref_mut)
        else {
            return;
        };
        disk.under_way = disk.under_way.saturating_sub(1);
        disk.ended = true;
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
}

fn lend<'a, 'p>(
    pool: &'a mut PagePool<'p>,
    layers: &'a Arc<[Layer<'static>]>,
    index: &'a mut [IndexEntry],
) -> Lent<'a, 'p> {
    Lent { pages: pool, layers, index }
}

fn complete(disk: &mut Disk, pool: &mut PagePool<'_>, job: Job, result: Result<(), IoFailure>) {
    disk.engine.complete(&mut lend(pool, &disk.layers, &mut disk.index), job.ticket, result);
}

/// A disk's turn, with everything that it needs.
struct Turn<'t, 'p, E> {
    disk: &'t mut Disk,
    number: u32,
    pool: &'t mut PagePool<'p>,
    requests: &'t mut Requests,
    frames: &'t mut Frames,
    adjacent: &'t mut Adjacent,
    noting: &'t mut Noting,
    lending: &'t mut Lending,
    edge: &'t mut E,
}

impl<E: Edge> Turn<'_, '_, E> {
    /// Does what the engine asks for until it asks for nothing. False if it did not ask at all.
    ///
    /// Writes and notes wait for those that follow them until no request goes on by itself. A commit
    /// begins only when none waits, so that it covers what it would without this.
    fn poll_all(&mut self) -> bool {
        let mut any = false;
        loop {
            let lent = &mut lend(self.pool, &self.disk.layers, &mut self.disk.index);
            let nothing_waits = self.adjacent.is_empty() && self.noting.is_empty();
            let output = if nothing_waits {
                self.disk.engine.poll(lent)
            } else {
                self.disk.engine.poll_requests(lent)
            };
            match output {
                Some(output) => self.obey(output),
                None if nothing_waits => return any,
                None if self.adjacent.is_empty() => self.keep_notes(),
                None => self.write_adjacent(),
            }
            any = true;
        }
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Operation(o) if self.lending.is_disturbed_by(&o) => {
                self.lending.hold(self.number, o);
                self.disk.under_way += 1;
            }
            Output::Operation(o) if Adjacent::may_wait(&o) => {
                if !self.adjacent.takes(&o) {
                    self.write_adjacent();
                }
                self.adjacent.push(o);
            }
            Output::Operation(o) => self.perform(&o),
            Output::Weave(weave) => self.weave(&weave),
            Output::Done { id, result } => {
                finish(self.disk, id, result, self.requests, self.frames, self.edge);
            }
            Output::Fill { id, offset, len } => {
                let pending = self.requests.get_mut(id);
                if let Some(part) = pending.and_then(|p| p.data_mut(offset, u64::from(len))) {
                    part.fill(0);
                }
            }
            Output::Note { id, note, ticket } if self.disk.durability() == Durability::Logged => {
                let job = Job { disk: self.number, ticket, buffer: Buffer::None };
                let data = note.offset.and_then(|_| self.requests.get(id)?.data_of(note.extent));
                let kept = if data.is_some() == note.offset.is_some() {
                    self.edge.log(job, note, data.unwrap_or_default())
                } else {
                    Some(Err(IoFailure::Medium)) // a defect of ours
                };
                self.started(job, kept);
            }
            Output::Note { note, ticket, .. } => {
                self.noting.push(note, ticket);
                if self.noting.is_full() {
                    self.keep_notes();
                }
            }
            Output::NotesSealed => {
                // Notes that are still being taken up are not in this commit: keep all until the
                // next.
                let disk = &mut *self.disk;
                disk.notes_sealed =
                    disk.notes.is_empty() && disk.restoring == 0 && !disk.lost_notes;
                if disk.notes_sealed {
                    self.edge.notes_sealed(self.number);
                }
            }
            Output::NotesDurable => {
                if core::mem::take(&mut self.disk.notes_sealed) {
                    self.edge.notes_durable(self.number);
                }
            }
            Output::Mapped { .. } => {}
        }
    }

    fn perform(&mut self, o: &Operation) {
        let job = Job::of(self.number, o);
        if lent(o, self.requests, self.edge) {
            self.lend(o.storage, o.offset, o.len);
            complete(self.disk, self.pool, job, Ok(()));
            return;
        }
        let started = match memory_of(o, self.pool, self.requests) {
            Some(memory) => self.edge.start(job, o, memory),
            None => Some(Err(IoFailure::Medium)),
        };
        self.started(job, started);
    }

    /// Fills a buffer from two storages, or has the answer sent from both.
    fn weave(&mut self, weave: &Weave) {
        let job = Job::of_weave(self.number, weave);
        let Some(pending) = self.requests.get_mut(weave.id) else { return };
        let whole = weave.buffer_offset == 0 && pending.range.bytes() == weave.len_bytes();
        let may_lend = whole && pending.asked == Asked::Read;
        if may_lend && self.requests.lend {
            let tail = self.edge.lend_weave(weave);
            if tail.is_some()
                && let Some(pending) = self.requests.get_mut(weave.id)
            {
                pending.buf.tail = tail;
                self.requests.lent += 1;
                for (strand, is_second) in weave.strands.iter().zip([false, true]) {
                    let (first, sectors) = weave.span(is_second);
                    let start = strand.offset.saturating_add(u64::from(first) * 512);
                    self.lend(strand.storage, start, u64::from(sectors) * 512);
                }
                complete(self.disk, self.pool, job, Ok(()));
                return;
            }
        }
        let pending = self.requests.get_mut(weave.id);
        let buf = pending.and_then(|p| p.data_mut(weave.buffer_offset, weave.len_bytes()));
        let started = match buf {
            Some(buf) => self.edge.start_weave(job, weave, buf),
            None => Some(Err(IoFailure::Medium)),
        };
        self.started(job, started);
    }

    /// Remembers that an answer will be sent from there, if that may change before.
    fn lend(&mut self, storage: StorageKey, start: u64, len: u64) {
        if self.disk.engine.overlay().is_some_and(|top| top.storage() == storage) {
            self.lending.add(storage, start, len);
        }
    }

    /// Has the notes kept that wait.
    fn keep_notes(&mut self) {
        let kept = self.edge.note(self.number, self.noting.notes());
        let mut at = 0;
        while let Some(ticket) = self.noting.ticket(at) {
            let job = Job { disk: self.number, ticket, buffer: Buffer::None };
            complete(self.disk, self.pool, job, kept);
            at += 1;
        }
        self.noting.clear();
    }

    fn started(&mut self, job: Job, started: Started) {
        match started {
            Some(result) => complete(self.disk, self.pool, job, result),
            None => self.disk.under_way += 1,
        }
    }

    /// Has the writes performed that wait.
    fn write_adjacent(&mut self) {
        let mut started = [Some(Err(IoFailure::Medium)); RUN_PIECES_MAX];
        match *self.adjacent.operations() {
            [] => return,
            [alone] => {
                self.adjacent.clear();
                self.perform(&alone);
                return;
            }
            ref operations => {
                let mut data: [&[u8]; RUN_PIECES_MAX] = [&[]; RUN_PIECES_MAX];
                for (o, data) in operations.iter().zip(&mut data) {
                    // A write without memory, a defect of ours, fails in the driver.
                    if let Buffer::Request { id, offset } = o.buffer {
                        let pending = self.requests.get(id);
                        *data = pending.and_then(|p| p.data(offset, o.len)).unwrap_or_default();
                    }
                }
                let data = data.get(..operations.len()).unwrap_or_default();
                self.edge.start_run(&Run { disk: self.number, operations, data }, &mut started);
            }
        }
        for (at, started) in started.into_iter().enumerate() {
            let Some(operation) = self.adjacent.operations().get(at) else { break };
            self.started(Job::of(self.number, operation), started);
        }
        self.adjacent.clear();
    }
}

/// Has the answer of a read sent from where the data lie, if they all lie in one place and may.
fn lent(o: &Operation, requests: &mut Requests, edge: &mut impl Edge) -> bool {
    if !requests.lend {
        return false;
    }
    let (Kind::Read, Buffer::Request { id, offset: 0 }) = (o.kind, o.buffer) else { return false };
    let Some(pending) = requests.get_mut(id) else { return false };
    if pending.asked == Asked::Read && pending.range.bytes() == o.len {
        pending.buf.tail = edge.lend(o);
    }
    let lent = pending.buf.tail.is_some();
    requests.lent += usize::from(lent);
    lent
}

/// The memory that an operation names. `None` if it names none that exists, a defect of ours.
fn memory_of<'a>(
    o: &Operation,
    pool: &'a mut PagePool<'_>,
    requests: &'a mut Requests,
) -> Option<Memory<'a>> {
    use cow_core::blocking::{part, part_mut};
    Some(match (o.kind, o.buffer) {
        (Kind::Read | Kind::Unpack(_), Buffer::Page { page, offset }) => {
            Memory::Into(part_mut(pool.bytes_mut(page), offset, o.len)?)
        }
        (Kind::Write, Buffer::Page { page, offset }) => {
            Memory::From(part(pool.bytes(page), offset, o.len)?)
        }
        (Kind::Read | Kind::Unpack(_), Buffer::Request { id, offset }) => {
            Memory::Into(requests.get_mut(id)?.data_mut(offset, o.len)?)
        }
        (Kind::Write, Buffer::Request { id, offset }) => {
            Memory::From(requests.get(id)?.data(offset, o.len)?)
        }
        (Kind::Zero | Kind::Punch | Kind::Sync, _) => Memory::None,
        (Kind::Read | Kind::Unpack(_) | Kind::Write, Buffer::None) => return None,
    })
}

/// A part of a request has ended in the engine.
fn finish(
    disk: &mut Disk,
    id: RequestId,
    result: Result<(), Failure>,
    requests: &mut Requests,
    frames: &mut Frames,
    edge: &mut impl Edge,
) {
    if id == OWN {
        disk.restoring = disk.restoring.saturating_sub(1);
        if let Err(failure) = result {
            disk.lost_notes = true;
            disk.counts.errors += 1;
            edge.report(Report::NotesLost { disk: &disk.spec.label, failure });
        }
        return;
    }
    let Some(pending) = requests.get_mut(id) else { return };
    pending.failure = pending.failure.or(result.err());
    pending.parts = pending.parts.saturating_sub(1);
    if pending.parts == 0 && !pending.waits {
        disk.end(id, requests, frames, edge);
    }
}
