//! Ends a recorded run after every event and looks at what a new process finds.

use cow_core::engine::{Durability, Note};
use cow_core::fault::{Dice, Event, Machine, Tear};
use cow_core::units::{Extent, Lba};

use crate::chain_model::{Disk, Format, Lower, Opened, PoolMemory};
use crate::sector_model::{Model, Promise, SECTOR};
use crate::sim::{Chain, Sim};
use crate::sim_plan::{CommitLog, Logged, Mischief, Notes, Plan};

/// What is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Format of the overlay.
    pub format: Format,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// Pages in the pool.
    pub pages: usize,
    /// How it is driven.
    pub plan: Plan,
    /// Everything else.
    pub seed: u64,
}

/// A run from an empty overlay to its orderly close.
#[derive(Debug)]
pub struct Recording {
    /// The chain, on the machine as it was before the first event.
    pub disk: Disk,
    /// What happened.
    pub log: Vec<Event>,
    /// What the disk must read as.
    pub model: Model,
    /// What was noted.
    pub notes: Notes,
    /// The commit log.
    pub changes: CommitLog,
    durability: Durability,
    seed: u64,
}

/// How a run ends before its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The power fails, and unsynced writes tear like this.
    PowerCut(Tear),
    /// The process is killed; its notes stay.
    Kill,
}

/// How often, and what was seen. A test that never saw a thing proves nothing about it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Ends looked at.
    pub ends: usize,
    /// Ends of a recovery looked at.
    pub recoveries: usize,
    /// Sectors that held something older than what was last written to them.
    pub older: usize,
    /// Notes that were restored.
    pub restored: usize,
}

impl Tally {
    /// Adds what another test saw.
    pub fn add(&mut self, other: Self) {
        self.ends += other.ends;
        self.recoveries += other.recoveries;
        self.older += other.older;
        self.restored += other.restored;
    }
}

impl Recording {
    /// Runs the story.
    ///
    /// # Errors
    /// What went wrong even without an end.
    pub fn new(story: &Story) -> Result<Self, String> {
        let machine = Machine::new();
        let mut dice = Dice::new(story.seed);
        // The base is a little shorter than the disk and ends within a sector.
        let base_len =
            (story.sectors * SECTOR as u64).saturating_sub(5 * SECTOR as u64 + 77).max(1);
        let disk = Disk::new(&machine, story.sectors, base_len, story.format, story.seed);
        let model = Model::new(story.sectors, disk.base());
        machine.settle();
        let start = disk.on(&machine.fork());
        let opened = disk.open_lower(false)?;
        let layers: Vec<_> = opened.iter().map(Opened::layer).collect();
        let (top, durability) = (disk.open_top()?, story.plan.durability);
        let chain = Chain::new(&disk, top, &layers, model, durability, &mut dice);
        let mut memory = PoolMemory::new(story.pages);
        let mut sim = Sim::new(&disk, vec![chain], memory.pool(), story.plan, dice);
        sim.run()?;
        let (top, model, (notes, changes)) = sim.finish()?.pop().ok_or("no chain")?;
        disk.close(&mut top.ok_or("no overlay")?)?;
        let log = machine.log();
        Ok(Self { disk: start, log, model, notes, changes, durability, seed: story.seed })
    }

    /// Ends the run after every event, `outcomes` times each, and after every `every`th recovers in
    /// steps that are themselves ended everywhere.
    ///
    /// # Errors
    /// The first end after which something is wrong.
    pub fn end_everywhere(&self, end: End, outcomes: u64, every: usize) -> Result<Tally, String> {
        let mut tally = Tally::default();
        let now = self.disk.machine.fork();
        for cut in 0..=self.log.len() {
            for outcome in 0..outcomes {
                let seed = self.seed ^ (cut as u64) << 20 ^ outcome << 50;
                let deep = outcome == 0 && every > 0 && cut.is_multiple_of(every);
                self.end_at(&now, end, cut, seed, deep, &mut tally).map_err(|e| {
                    let events = self.log.len();
                    format!("{end:?} after event {cut} of {events}, outcome {outcome}: {e}")
                })?;
            }
            if let Some(event) = self.log.get(cut) {
                now.replay(event);
            }
        }
        Ok(tally)
    }

    fn end_at(
        &self,
        now: &Machine,
        end: End,
        cut: usize,
        seed: u64,
        deep: bool,
        tally: &mut Tally,
    ) -> Result<(), String> {
        tally.ends += 1;
        let (machine, notes, promise) = match end {
            End::PowerCut(tear) => (now.power_cut(tear, seed), Vec::new(), Promise::Durable),
            End::Kill => (now.kill(Tear::Sectors, seed), self.notes.at(cut), Promise::Acknowledged),
        };
        let mixed = end == End::PowerCut(Tear::Anywhere);
        // What is in the log is never torn in the disk's place: the log is repeated.
        let changes = match self.durability {
            Durability::Logged => self.changes.at(cut, end == End::Kill, seed),
            _ => &[],
        };
        let notes = if self.durability == Durability::Logged { Vec::new() } else { notes };
        tally.restored += notes.len() + changes.len();
        let disk = self.disk.on(&machine);
        let judge = Judge { recording: self, cut, mixed };
        let before = machine.fork();
        let left = Left { notes: &notes, changes };
        let durable_at = judge.recover(&disk, left, promise, self.durability, tally)?;
        if !deep {
            return Ok(());
        }
        // The recovery was recorded too: end it everywhere by power cuts.
        let recovery = machine.log();
        for step in 0..=recovery.len() {
            tally.recoveries += 1;
            let tear = if mixed { Tear::Anywhere } else { Tear::Sectors };
            let again = self.disk.on(&before.power_cut(tear, seed ^ step as u64));
            // What the kill left becomes durable when the recovery has said so.
            let promise = if step < durable_at { Promise::Durable } else { promise };
            // A log is there until all of it is in the overlay.
            let left = Left { notes: &[], changes };
            judge
                .recover(&again, left, promise, self.durability, tally)
                .map_err(|e| format!("second end in step {step} of {}: {e}", recovery.len()))?;
            if let Some(event) = recovery.get(step) {
                before.replay(event);
            }
        }
        Ok(())
    }
}

/// What a process finds beside the overlay.
#[derive(Clone, Copy)]
struct Left<'l> {
    notes: &'l [Note],
    changes: &'l [Logged],
}

/// Looks at a disk after an end.
struct Judge<'r> {
    recording: &'r Recording,
    cut: usize,
    mixed: bool,
}

impl Judge<'_> {
    /// Opens, restores, reads, commits, closes, opens again. Gives the number of events after
    /// which everything found is promised to be durable.
    fn recover(
        &self,
        disk: &Disk,
        left: Left<'_>,
        promise: Promise,
        durability: Durability,
        tally: &mut Tally,
    ) -> Result<usize, String> {
        disk.check()?;
        let pages = if self.cut.is_multiple_of(2) { 2 } else { 3 };
        let touched: Vec<_> = self.recording.model.touched().collect();
        // As the server repeats a log: nobody is told anything before all of it is durable.
        let logged = durability == Durability::Logged;
        let durability = if logged { Durability::Writeback } else { durability };
        let (result, mut top) = disk.with_blocking(pages, durability, |blocking| {
            for change in left.changes {
                let done = match &change.data {
                    Some(data) => blocking.write(change.extent.start(), data),
                    None => blocking.zero(change.extent),
                };
                done.map_err(|e| format!("repeating {}: {e}", change.extent))?;
            }
            for note in left.notes {
                blocking.restore(*note).map_err(|e| format!("restoring {note:?}: {e}"))?;
            }
            let mut found = Vec::new();
            for extent in extents(&touched, disk.sectors) {
                let mut bytes = vec![0; usize::try_from(extent.bytes()).expect("fits")];
                blocking
                    .read(extent.start(), &mut bytes)
                    .map_err(|e| format!("reading {extent}: {e}"))?;
                found.push((extent, bytes));
            }
            blocking.flush().map_err(|e| format!("flush: {e}"))?;
            Ok::<_, String>(found)
        })?;
        let found = result?;
        let durable_at = disk.machine.events();
        for (extent, bytes) in &found {
            self.judge(*extent, bytes, promise, tally)?;
        }
        disk.close(&mut top)?;
        disk.check().map_err(|e| format!("after the recovery: {e}"))?;
        let (again, _) = disk.with_blocking(pages, durability, |blocking| {
            for (extent, first) in &found {
                let mut bytes = vec![0; first.len()];
                blocking.read(extent.start(), &mut bytes).map_err(|e| e.to_string())?;
                if bytes != *first {
                    return Err(format!("{extent} reads differently after the recovery"));
                }
            }
            Ok(())
        })?;
        again?;
        Ok(durable_at)
    }

    fn judge(
        &self,
        extent: Extent,
        bytes: &[u8],
        promise: Promise,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let model = &self.recording.model;
        for (lba, sector) in (extent.start().get()..).zip(bytes.chunks(SECTOR)) {
            let allowed = model.survivors(lba, self.cut, promise);
            model.judge(lba, sector, &allowed, self.mixed)?;
            let newest = model.bytes(allowed[0]);
            tally.older += usize::from(sector != newest);
        }
        Ok(())
    }
}

/// The touched sectors with a neighbour on each side, as ranges.
fn extents(touched: &[u64], sectors: u64) -> Vec<Extent> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for lba in touched {
        let (start, end) = (lba.saturating_sub(1), (lba + 2).min(sectors));
        match ranges.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges.into_iter().filter_map(|(start, end)| Extent::new(start, end - start)).collect()
}

/// A change of a whole overlay, ended after every event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Everything reads from below afterwards.
    Rollback,
    /// Nothing reads differently, and the overlay takes no more writes.
    Freeze,
}

/// Ends a rollback or freeze of the recorded disk after every event: afterwards it is as before or
/// done, never between.
///
/// # Errors
/// The first end after which something is wrong.
pub fn end_change(recording: &Recording, change: Change, outcomes: u64) -> Result<usize, String> {
    let done = recording.disk.machine.fork();
    for event in &recording.log {
        done.replay(event);
    }
    done.settle();
    let mut disk = recording.disk.on(&done);
    let start = done.fork();
    match change {
        Change::Rollback => disk.rollback()?,
        Change::Freeze => disk.freeze()?,
    }
    let log = done.log();
    let mut seen = [0_usize; 2];
    for cut in 0..=log.len() {
        for outcome in 0..outcomes {
            for tear in [Tear::Sectors, Tear::Anywhere] {
                if tear == Tear::Anywhere && recording.disk.top.0 != Format::Native {
                    continue;
                }
                let luck = recording.seed ^ (cut as u64) << 8 ^ outcome << 40;
                let disk = recording.disk.on(&start.power_cut(tear, luck));
                let is_done = after_change(recording, &disk, change)
                    .map_err(|e| format!("{change:?} cut after {cut} of {}: {e}", log.len()))?;
                if cut == log.len() && !is_done {
                    return Err(format!("{change:?} was undone"));
                }
                seen[usize::from(is_done)] += 1;
            }
        }
        if let Some(event) = log.get(cut) {
            start.replay(event);
        }
    }
    if seen.contains(&0) {
        return Err(format!("{change:?}: seen {seen:?} before and after, the test shows nothing"));
    }
    Ok(seen[0] + seen[1])
}

/// True if the change has happened, false if not; everything else is an error.
fn after_change(recording: &Recording, disk: &Disk, change: Change) -> Result<bool, String> {
    let model = &recording.model;
    let mut layers = match change {
        Change::Freeze => disk.clone(),
        Change::Rollback => {
            if let Err(e) = disk.open_top() {
                if disk.top.0 == Format::Native {
                    return Err(e);
                }
                disk.rollback()?; // a store is blank in between, and is emptied by a second call
            }
            disk.clone()
        }
    };
    layers.check()?;
    let frozen = change == Change::Freeze && layers.open_top().is_err();
    if frozen {
        // Frozen already: look at it through a new overlay.
        let lower =
            Lower { key: layers.top.1, format: Some(layers.top.0), sectors: layers.sectors };
        layers.lower.insert(0, lower);
        layers.add_top(Format::Native, layers.sectors, 1);
    }
    let touched: Vec<_> = model.touched().collect();
    let (result, _) = layers.with_blocking(3, Durability::Safe, |blocking| {
        let (mut old, mut empty, mut sector) = (0, 0, [0; SECTOR]);
        for lba in touched {
            let at = Lba::new(lba).ok_or("beyond")?;
            blocking.read(at, &mut sector).map_err(|e| format!("sector {lba}: {e}"))?;
            let before = model.expected(lba).iter().any(|c| model.bytes(*c) == sector);
            let after = model.bytes(model.initial(lba)) == sector;
            match (before, after) {
                (true, false) => old += 1,
                (false, true) => empty += 1,
                (true, true) => {}
                (false, false) => {
                    return Err(format!("sector {lba} holds {}", model.name(lba, &sector)));
                }
            }
        }
        Ok((old, empty))
    })?;
    let (old, empty) = result?;
    match change {
        Change::Freeze if empty > 0 => Err(format!("{empty} sectors were lost by freezing")),
        Change::Freeze => Ok(frozen || recording.disk.top.0 != Format::Native),
        Change::Rollback if old > 0 && empty > 0 => {
            Err(format!("{old} sectors are as before and {empty} are emptied"))
        }
        Change::Rollback => Ok(empty > 0),
    }
}

/// True if a wrong driver is found out by ends.
///
/// # Errors
/// The run could not even be recorded.
pub fn is_caught(story: &Story, mischief: Mischief, end: End) -> Result<bool, String> {
    let plan = Plan { mischief, watched: false, ..story.plan };
    let recording = Recording::new(&Story { plan, ..*story })?;
    Ok(recording.end_everywhere(end, 4, 0).is_err())
}
