//! A simulated asynchronous driver: operations stay in flight and end in any order.
//!
//! One [`Sim`] is one process: chains with a pool of pages over the media of a machine. Everything
//! that happens is chosen by a seed. Every read is compared with the model, every operation is
//! checked by the [watch](crate::sim_watch), and a run that stops making progress is an error.

use cow_core::blocking::{part, part_mut};
use cow_core::engine::{
    Buffer, Durability, Engine, Failure, IoFailure, Kind, Lent, Note, Operation, Output, Request,
    RequestId, Ticket, Weave,
};
use cow_core::fault::{Change, Dice, FaultError, FaultyStorage, Machine, OperationId};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::pages::{PagePool, StorageKey};
use cow_core::storage::ReadStorage;
use cow_core::units::Extent;

use crate::chain_model::{Disk, Format, SLOTS, Spots};
use crate::sector_model::{Content, Model, SECTOR};
pub use crate::sim_plan::{CommitLog, Logged, Mischief, NoteEvent, Notes, Plan};
use crate::sim_watch::{Seen, Watch};

#[derive(Debug)]
struct Active {
    id: RequestId,
    request: Request,
    buffer: Vec<u8>,
    contents: Vec<Content>,
    order: u64,
    fills: Vec<(u32, u32)>,
    submitted: usize,
    acknowledged: bool,
}

#[derive(Debug)]
enum Work {
    Read,
    Weave(Weave),
    Change {
        id: OperationId,
        result: Result<(), FaultError>,
        bytes: Vec<u8>,
    },
    Note(Note),
    /// A record of the commit log.
    Log(usize),
}

#[derive(Debug)]
struct Flying {
    chain: usize,
    ticket: Ticket,
    operation: Option<Operation>,
    watched: u64,
    work: Work,
}

/// A chain in a process.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The engine.
    pub engine: Engine<SLOTS>,
    /// What its disk must read as.
    pub model: Model,
    /// Its notes.
    pub notes: Notes,
    /// Its commit log.
    pub log: CommitLog,
    layers: &'a [Layer<'a>],
    index: Vec<IndexEntry>,
    top: (Format, StorageKey),
    spots: Spots,
    active: Vec<Active>,
    left: usize,
    submitted: u32,
}

impl<'a> Chain<'a> {
    /// A chain over layers that were opened.
    pub fn new(
        disk: &Disk,
        top: (Top, Vec<IndexEntry>),
        layers: &'a [Layer<'a>],
        model: Model,
        durability: Durability,
        dice: &mut Dice,
    ) -> Self {
        let engine = Engine::new(Some(top.0), disk.sectors, durability).expect("a size");
        Self {
            engine,
            notes: Notes::default(),
            log: CommitLog::default(),
            layers,
            index: top.1,
            top: disk.top,
            spots: Spots::new(disk.sectors, dice),
            model,
            active: Vec::new(),
            left: 0,
            submitted: 0,
        }
    }
}

/// What an orderly end leaves of a chain: its overlay, what the disk must read as, and what was noted.
pub type Ended = (Option<Top>, Model, (Notes, CommitLog));

/// A process.
#[derive(Debug)]
pub struct Sim<'a, 'p> {
    /// Its chains.
    pub chains: Vec<Chain<'a>>,
    /// Requests that failed.
    pub failures: usize,
    machine: Machine,
    storages: Vec<FaultyStorage>,
    pool: PagePool<'p>,
    flying: Vec<Flying>,
    late: Vec<usize>,
    watch: Watch,
    plan: Plan,
    dice: Dice,
}

impl<'a, 'p> Sim<'a, 'p> {
    /// A process over the storages of `disk` (with those of every chain).
    pub fn new(
        disk: &Disk,
        chains: Vec<Chain<'a>>,
        pool: PagePool<'p>,
        plan: Plan,
        dice: Dice,
    ) -> Self {
        let mut watch = Watch::new(plan.durability != Durability::Ephemeral);
        for chain in &chains {
            let l1 = disk.l1_offset(chain.top);
            watch.add_overlay(chain.top.1.0, chain.top.0, chain.model.sectors(), l1);
        }
        if plan.mischief == Mischief::DropSyncs {
            disk.machine.ignore_syncs();
        }
        Self {
            chains,
            failures: 0,
            machine: disk.machine.clone(),
            storages: disk.storages.clone(),
            pool,
            flying: Vec::new(),
            late: Vec::new(),
            watch,
            plan,
            dice,
        }
    }

    /// Submits everything planned in random order and lets it all end.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn run(&mut self) -> Result<(), String> {
        for chain in &mut self.chains {
            chain.left = self.plan.requests;
        }
        self.drive()
    }

    /// As [`run`](Self::run), but stops somewhere in the middle, perhaps with everything under way.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn run_part(&mut self) -> Result<(), String> {
        for chain in &mut self.chains {
            chain.left = self.plan.requests;
        }
        let steps = self.dice.below(20 * (self.plan.requests * self.chains.len()) as u64 + 1);
        for _ in 0..steps {
            if self.step()? {
                break;
            }
        }
        Ok(())
    }

    /// Goes on until every chain is idle.
    fn drive(&mut self) -> Result<(), String> {
        let steps = 20_000 + 4_000 * self.plan.requests * self.chains.len();
        for _ in 0..steps {
            if self.step()? {
                return Ok(());
            }
        }
        Err(format!("no end after {steps} steps: {}", self.state()))
    }

    fn state(&self) -> String {
        let chains: Vec<_> = self
            .chains
            .iter()
            .map(|c| (c.engine.in_flight(), c.engine.is_starved(), c.left, c.active.len()))
            .collect();
        format!("{chains:?}, {} operations in flight", self.flying.len())
    }

    /// One random thing; true if there is nothing left to do.
    fn step(&mut self) -> Result<bool, String> {
        let chain = self.pick(self.chains.len());
        match self.dice.below(10) {
            0 | 1 if self.chains[chain].left > 0 => self.submit_random(chain),
            2..=5 => drop(self.poll(chain)?),
            6..=8 if !self.flying.is_empty() => {
                let at = self.pick(self.flying.len());
                self.complete(at)?;
            }
            9 if self.dice.chance(10) => self.chains[chain].engine.commit(),
            9 if self.chains[chain].engine.is_starved() => self.chains[chain].engine.wake(),
            _ => return self.quiet(),
        }
        Ok(false)
    }

    fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.dice.below(len as u64)).expect("small")
    }

    /// Polls everything; if nothing moves, the run has ended or is stuck.
    fn quiet(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for chain in 0..self.chains.len() {
            moved |= self.poll(chain)?;
        }
        let more = |c: &Chain<'_>| c.left > 0 && c.engine.in_flight() < SLOTS;
        if moved || !self.flying.is_empty() || self.chains.iter().any(more) {
            return Ok(false);
        }
        // Whoever waits for the pool may go on now that others have progressed; each needs a turn.
        for _ in 0..2 * self.chains.len() + 2 {
            for chain in 0..self.chains.len() {
                if self.chains[chain].engine.is_starved() {
                    self.chains[chain].engine.wake();
                }
                moved |= self.poll(chain)?;
            }
            if moved {
                return Ok(false);
            }
        }
        if self.plan.faults && self.make_way()? {
            return Ok(false);
        }
        if self.chains.iter().all(|c| c.engine.is_idle() && c.active.is_empty()) {
            return Ok(true);
        }
        Err(format!("stuck: {}", self.state()))
    }

    /// A chain whose storage failed holds pages of the pool and will not give them back: the others
    /// try once more and then give up. True if something moved.
    fn make_way(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for chain in 0..self.chains.len() {
            if self.chains[chain].engine.is_starved() {
                self.chains[chain].engine.commit();
                moved |= self.poll(chain)?;
            }
        }
        if moved {
            return Ok(true);
        }
        for chain in 0..self.chains.len() {
            if self.chains[chain].engine.is_starved() {
                self.chains[chain].engine.give_up();
                moved |= self.poll(chain)?;
            }
        }
        Ok(moved)
    }

    /// Has everything committed, restores notes first if there are any, and ends the process in
    /// order: the overlays can be closed.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn finish(mut self) -> Result<Vec<Ended>, String> {
        self.plan.requests = self.plan.requests.max(100);
        for chain in 0..self.chains.len() {
            self.submit(chain, Request::Flush);
            self.chains[chain].engine.commit();
        }
        self.drive()?;
        // The flush of `Safe` ends at once; the commit that was asked for may still run.
        let dirty = |c: &Chain<'_>| c.engine.is_dirty() && !c.engine.is_read_only();
        if self.chains.iter().any(dirty) {
            return Err("still dirty after a commit".into());
        }
        let end = |c: Chain<'a>| (c.engine.into_overlay(), c.model, (c.notes, c.log));
        Ok(self.chains.into_iter().map(end).collect())
    }

    /// The process dies: models and notes are all that is left of it.
    pub fn die(self) -> Vec<(Model, Notes)> {
        self.chains.into_iter().map(|c| (c.model, c.notes)).collect()
    }

    /// Takes up the notes of an earlier process and has them published. False if that fails: then
    /// the notes stay and the disk must not be served.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn restore(&mut self, chain: usize, notes: &[Note]) -> Result<bool, String> {
        let failures = self.failures;
        for note in notes {
            if let Some(offset) = note.offset {
                let key = self.chains[chain].top.1.0;
                self.watch.restored(key, offset, note.extent.sectors());
            }
            while !self.submit(chain, Request::Restore(*note)) {
                if self.step()? {
                    break;
                }
            }
        }
        self.drive()?;
        self.chains[chain].engine.commit();
        self.drive()?;
        let c = &mut self.chains[chain];
        let well = self.failures == failures && !c.engine.is_dirty();
        if !well {
            c.notes = Notes::kept(notes);
        }
        Ok(well)
    }

    fn submit_random(&mut self, chain: usize) {
        let c = &mut self.chains[chain];
        let dice = &mut self.dice;
        let extent = c.spots.extent(c.model.sectors(), self.plan.longest, dice);
        let request = match dice.below(100) {
            0..35 => Request::Read(extent),
            35..70 => Request::Write { extent, durable: false },
            70..78 => Request::Write { extent, durable: true },
            78..86 => Request::Zero(extent),
            86..94 => Request::Discard(extent),
            94..97 => Request::Map(extent),
            _ => Request::Flush,
        };
        if self.submit(chain, request) {
            self.chains[chain].left -= 1;
        }
    }

    /// False if the engine has no slot.
    fn submit(&mut self, chain: usize, request: Request) -> bool {
        let now = self.machine.events();
        let c = &mut self.chains[chain];
        let id = RequestId(c.submitted);
        c.engine.set_weaving(c.submitted.is_multiple_of(2));
        if c.engine.submit(id, request).is_err() {
            return false;
        }
        c.submitted += 1;
        let (mut buffer, mut contents) = (Vec::new(), Vec::new());
        let bytes = |e: Extent| usize::try_from(e.bytes()).expect("fits");
        match request {
            Request::Read(extent) => buffer = vec![0xee; bytes(extent)],
            Request::Write { extent, .. } => {
                buffer = vec![0; bytes(extent)];
                for sector in buffer.chunks_mut(SECTOR) {
                    let content = Content::Paint(c.model.next_paint());
                    sector.copy_from_slice(&c.model.bytes(content));
                    contents.push(content);
                }
                c.model.submit(extent, now, false, &contents);
            }
            Request::Zero(extent) | Request::Discard(extent) => {
                contents.resize(bytes(extent) / SECTOR, Content::Zero);
                let optional = matches!(request, Request::Discard(_));
                c.model.submit(extent, now, optional, &contents);
            }
            _ => {}
        }
        c.active.push(Active {
            id,
            request,
            buffer,
            contents,
            order: c.model.order(),
            fills: Vec::new(),
            submitted: now,
            acknowledged: false,
        });
        true
    }

    /// Takes one output; false if there is none.
    fn poll(&mut self, chain: usize) -> Result<bool, String> {
        let c = &mut self.chains[chain];
        let mut lent = Lent { pages: &mut self.pool, layers: c.layers, index: &mut c.index };
        let Some(output) = c.engine.poll(&mut lent) else { return Ok(false) };
        let now = self.machine.events();
        match output {
            Output::Operation(operation) => self.begin(chain, operation)?,
            Output::Weave(weave) => {
                let (ticket, work) = (weave.ticket, Work::Weave(weave));
                self.flying.push(Flying { chain, ticket, operation: None, watched: 0, work });
            }
            Output::Fill { id, offset, len } => {
                let late = self.dice.chance(50);
                let active = find(&mut c.active, id)?;
                active.fills.push((offset, len));
                if !late {
                    active.fill()?;
                }
            }
            Output::Note { id, note, ticket } => {
                let work = if self.plan.durability == Durability::Logged {
                    let data = find(&mut c.active, id)?.data_of(&note)?;
                    Work::Log(c.log.append(now, Logged { extent: note.extent, data }))
                } else {
                    Work::Note(note)
                };
                self.flying.push(Flying { chain, ticket, operation: None, watched: 0, work });
            }
            Output::NotesSealed => {
                c.notes.push(now, NoteEvent::Sealed);
                c.log.sealed(now);
            }
            Output::NotesDurable => {
                c.notes.push(now, NoteEvent::Durable);
                c.log.published(now);
            }
            Output::Mapped { id, run, .. } => {
                let active = find(&mut c.active, id)?;
                let Request::Map(extent) = active.request else {
                    return Err("mapped without being asked".into());
                };
                if run.sectors == 0 || run.sectors > extent.sectors() {
                    return Err(format!("{run:?} of {extent}"));
                }
            }
            Output::Done { id, result } => self.done(chain, id, result)?,
        }
        Ok(true)
    }

    fn begin(&mut self, chain: usize, o: Operation) -> Result<(), String> {
        let storage = self.storages.get(o.storage.0 as usize).ok_or("an unknown storage")?;
        let c = &mut self.chains[chain];
        let bytes = match (o.buffer, o.kind) {
            (Buffer::None, Kind::Zero | Kind::Punch | Kind::Sync) => Vec::new(),
            (Buffer::Page { page, offset }, Kind::Read | Kind::Write) => {
                part(self.pool.bytes(page), offset, o.len).ok_or("outside the page")?.to_vec()
            }
            (Buffer::Request { id, offset }, Kind::Read | Kind::Write) => {
                let active = find(&mut c.active, id)?;
                part(&active.buffer, offset, o.len).ok_or("outside the buffer")?.to_vec()
            }
            _ => return Err(format!("{o:?} with that buffer")),
        };
        if (o.len == 0) != (o.kind == Kind::Sync) {
            return Err(format!("{o:?} of that length"));
        }
        let at = storage.translate(o.offset, o.len).map_err(|e| e.to_string())?;
        if o.kind == Kind::Read {
            let len = storage.len_bytes().map_err(|e| e.to_string())?;
            if o.offset + o.len > len {
                return Err(format!("{o:?} ends past {len}"));
            }
        }
        if o.kind == Kind::Sync && self.plan.mischief == Mischief::LateSyncs {
            return self.sync_late(chain, o, storage.medium());
        }
        let page = (matches!(o.buffer, Buffer::Page { .. }) && o.kind == Kind::Write)
            .then_some(&bytes[..]);
        let seen = Seen { key: o.storage.0, kind: o.kind, offset: o.offset, len: o.len, page };
        let watched = if self.plan.watched { self.watch.begin(seen)? } else { 0 };
        let change = match o.kind {
            Kind::Read => None,
            Kind::Unpack(_) => return Err(format!("{o:?} of a format that packs nothing")),
            Kind::Write => Some(Change::Write { offset: at, data: bytes[..].into() }),
            Kind::Zero => Some(Change::Zero { offset: at, len: o.len }),
            Kind::Punch => Some(Change::Punch { offset: at, len: o.len }),
            Kind::Sync => Some(Change::Sync),
        };
        let work = match change {
            None => Work::Read,
            Some(change) => {
                let (id, result) = self.machine.begin(storage.medium(), change);
                if matches!(result, Err(FaultError::OutOfRange { .. })) {
                    return Err(format!("{o:?} ends past the medium"));
                }
                Work::Change { id, result, bytes }
            }
        };
        self.flying.push(Flying { chain, ticket: o.ticket, operation: Some(o), watched, work });
        Ok(())
    }

    /// Reports a sync and performs the one before it: metadata overtake data.
    fn sync_late(&mut self, chain: usize, o: Operation, medium: usize) -> Result<(), String> {
        if let Some(medium) = self.late.pop() {
            let seen = Seen { key: o.storage.0, kind: Kind::Sync, offset: 0, len: 0, page: None };
            let watched = self.watch.begin(seen)?;
            let (id, result) = self.machine.begin(medium, Change::Sync);
            self.machine.end(id, result);
            self.watch.end(o.storage.0, watched, result.is_ok());
        }
        self.late.push(medium);
        self.report(chain, o.ticket, Ok(()));
        Ok(())
    }

    /// Ends the operation in place `at`.
    fn complete(&mut self, at: usize) -> Result<(), String> {
        let Flying { chain, ticket, operation, watched, work } = self.flying.swap_remove(at);
        let mut result = Ok(());
        match work {
            Work::Note(note) => {
                if self.plan.mischief != Mischief::DropNotes {
                    let now = self.machine.events();
                    self.chains[chain].notes.push(now, NoteEvent::Kept(note));
                }
            }
            Work::Log(number) => {
                if self.plan.mischief != Mischief::DropNotes {
                    self.chains[chain].log.synced(self.machine.events(), number);
                }
            }
            Work::Read => {
                let o = operation.ok_or("a read without operation")?;
                result = self.read(chain, &o)?;
            }
            Work::Weave(weave) => result = self.read_woven(chain, &weave)?,
            Work::Change { id, result: outcome, bytes } => {
                let o = operation.ok_or("a change without operation")?;
                if let Buffer::Page { page, offset } = o.buffer
                    && part(self.pool.bytes(page), offset, o.len) != Some(&bytes[..])
                {
                    return Err(format!("{o:?}: the page changed while it was written"));
                }
                self.machine.end(id, outcome);
                result = outcome.map_err(|e| match e {
                    FaultError::NoSpace => IoFailure::Full,
                    _ => IoFailure::Medium,
                });
            }
        }
        if let Some(o) = operation {
            self.watch.end(o.storage.0, watched, result.is_ok());
        }
        self.report(chain, ticket, result);
        if let (Some(o), Mischief::AcknowledgeEarly) = (operation, self.plan.mischief) {
            self.acknowledge_early(chain, &o);
        }
        Ok(())
    }

    fn report(&mut self, chain: usize, ticket: Ticket, result: Result<(), IoFailure>) {
        let c = &mut self.chains[chain];
        let mut lent = Lent { pages: &mut self.pool, layers: c.layers, index: &mut c.index };
        c.engine.complete(&mut lent, ticket, result);
    }

    fn read(&mut self, chain: usize, o: &Operation) -> Result<Result<(), IoFailure>, String> {
        if self.plan.read_faults > 0 && self.dice.below(self.plan.read_faults) == 0 {
            return Ok(Err(IoFailure::Medium));
        }
        let storage = &self.storages[o.storage.0 as usize];
        let target = match o.buffer {
            Buffer::Page { page, offset } => part_mut(self.pool.bytes_mut(page), offset, o.len),
            Buffer::Request { id, offset } => {
                let active = find(&mut self.chains[chain].active, id)?;
                part_mut(&mut active.buffer, offset, o.len)
            }
            Buffer::None => None,
        };
        let target = target.ok_or("a buffer that went away")?;
        storage.read_at(o.offset, target).map_err(|e| format!("{o:?}: {e}"))?;
        self.watch.read(o.storage.0, o.offset, target);
        Ok(Ok(()))
    }

    /// A weave, run by run.
    fn read_woven(&mut self, chain: usize, weave: &Weave) -> Result<Result<(), IoFailure>, String> {
        if weave.runs().map(|run| run.sectors).sum::<u32>() != weave.sectors {
            return Err(format!("{weave:?}: its runs are something else"));
        }
        for run in weave.runs() {
            let strand = weave.strands[usize::from(run.is_second)];
            let lead = run.first * u32::try_from(SECTOR).expect("small");
            let o = Operation {
                storage: strand.storage,
                kind: Kind::Read,
                offset: strand.offset + u64::from(lead),
                len: u64::from(run.sectors) * SECTOR as u64,
                buffer: Buffer::Request { id: weave.id, offset: weave.buffer_offset + lead },
                ticket: weave.ticket,
            };
            if let Err(failure) = self.read(chain, &o)? {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(()))
    }

    /// What a server does that does not wait for the engine.
    fn acknowledge_early(&mut self, chain: usize, o: &Operation) {
        let (Buffer::Request { id, .. }, Kind::Write) = (o.buffer, o.kind) else { return };
        let now = self.machine.events();
        let c = &mut self.chains[chain];
        let waits = self.flying.iter().any(|f| {
            let buffer = f.operation.map(|o| o.buffer);
            f.chain == chain
                && matches!(buffer, Some(Buffer::Request { id: other, .. }) if other == id)
        });
        let Some(active) = c.active.iter_mut().find(|a| a.id == id) else { return };
        let Request::Write { extent, .. } = active.request else { return };
        if !waits && !active.acknowledged {
            active.acknowledged = true;
            c.model.acknowledge(extent, &active.contents, active.submitted, now, (true, true));
        }
    }

    fn done(
        &mut self,
        chain: usize,
        id: RequestId,
        result: Result<(), Failure>,
    ) -> Result<(), String> {
        let now = self.machine.events();
        let c = &mut self.chains[chain];
        let at = c.active.iter().position(|a| a.id == id).ok_or("done twice")?;
        let mut active = c.active.remove(at);
        active.fill()?;
        if let Err(failure) = result {
            self.failures += 1;
            let full = failure == Failure::Full && matches!(c.top.0, Format::Dm(_));
            let reads = matches!(active.request, Request::Read(_) | Request::Map(_));
            if (!self.plan.faults && !full) || (reads && failure == Failure::Full) {
                return Err(format!("{:?} failed: {failure}", active.request));
            }
        }
        let well = result.is_ok();
        match active.request {
            Request::Read(extent) if well => {
                for (lba, bytes) in (extent.start().get()..).zip(active.buffer.chunks(SECTOR)) {
                    let allowed = c.model.expected_at(lba, active.order);
                    c.model
                        .judge(lba, bytes, &allowed, false)
                        .map_err(|e| format!("{:?}: {e}", active.request))?;
                }
            }
            Request::Write { extent, .. } | Request::Zero(extent) | Request::Discard(extent) => {
                let asked = matches!(active.request, Request::Write { durable: true, .. });
                let durable = matches!(self.plan.durability, Durability::Safe | Durability::Logged)
                    || (asked && self.plan.durability == Durability::Writeback);
                if !active.acknowledged {
                    let outcome = (well, durable);
                    c.model.acknowledge(extent, &active.contents, active.submitted, now, outcome);
                }
            }
            Request::Flush if well && self.plan.durability == Durability::Writeback => {
                c.model.flushed(active.submitted, now);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Active {
    /// What the request writes to the sectors of a note; `None` for zeros.
    fn data_of(&self, note: &Note) -> Result<Option<Vec<u8>>, String> {
        let Request::Write { extent, .. } = self.request else {
            return if note.offset.is_none() { Ok(None) } else { Err(format!("{note:?} of data")) };
        };
        if note.offset.is_none() {
            return Err(format!("{note:?} of a write"));
        }
        let before = note.extent.start().get() - extent.start().get();
        let offset = u32::try_from(before * SECTOR as u64).expect("small");
        let data = part(&self.buffer, offset, note.extent.bytes()).ok_or("outside the buffer")?;
        Ok(Some(data.to_vec()))
    }

    /// Zeroes what the engine asked to be zeroed.
    fn fill(&mut self) -> Result<(), String> {
        for (offset, len) in self.fills.drain(..) {
            part_mut(&mut self.buffer, offset, u64::from(len)).ok_or("fill outside")?.fill(0);
        }
        Ok(())
    }
}

fn find(active: &mut [Active], id: RequestId) -> Result<&mut Active, String> {
    active.iter_mut().find(|a| a.id == id).ok_or_else(|| format!("{id:?} is not under way"))
}
