//! The life of disks through several processes: closed, killed, cut, rolled back, frozen.

use cow_core::engine::{Durability, Note};
use cow_core::fault::{Dice, FaultError, Tear};

use crate::chain_model::{Disk, Format, Opened, PoolMemory};
use crate::sector_model::Model;
use crate::sim::{Chain, Sim};
use crate::sim_plan::Plan;

/// How a process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Committed and closed.
    Close,
    /// Killed in the middle; its notes stay.
    Kill,
    /// The power fails in the middle. Only for `Safe`, whose model is then still exact.
    PowerCut,
}

/// Disks that share storages, with what they must read as. The last one knows every storage.
#[derive(Clone, Debug)]
pub struct Life {
    /// The disks.
    pub disks: Vec<Disk>,
    /// What they must read as.
    pub models: Vec<Model>,
    notes: Vec<Vec<Note>>,
    /// Requests that failed so far.
    pub failures: usize,
}

impl Life {
    /// Of one disk.
    pub fn new(disk: Disk) -> Self {
        let model = Model::new(disk.sectors, disk.base());
        Self { disks: vec![disk], models: vec![model], notes: vec![Vec::new()], failures: 0 }
    }

    /// Another overlay on the same layers; every disk so far must be untouched.
    pub fn add_sibling(&mut self, format: Format, seed: u64) {
        let mut disk = self.disks.last().expect("one at least").clone();
        let sectors = disk.sectors;
        disk.add_top(format, sectors, seed);
        self.push(disk);
    }

    /// Takes in a disk whose storages begin with those of the last one.
    pub fn push(&mut self, disk: Disk) {
        self.models.push(Model::new(disk.sectors, disk.base()));
        self.notes.push(Vec::new());
        self.disks.push(disk);
    }

    /// One process over all disks with one pool.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn live(&mut self, pages: usize, plan: Plan, seed: u64, end: Ending) -> Result<(), String> {
        let mut dice = Dice::new(seed);
        let all = self.disks.last().expect("one at least").clone();
        let mut opened = Vec::new();
        for disk in &self.disks {
            opened.push(disk.open_lower(dice.chance(30))?);
        }
        let layers: Vec<Vec<_>> =
            opened.iter().map(|o| o.iter().map(Opened::layer).collect()).collect();
        let mut chains = Vec::new();
        for ((disk, model), layers) in self.disks.iter().zip(&self.models).zip(&layers) {
            let (top, model) = (disk.open_top()?, model.clone());
            chains.push(Chain::new(disk, top, layers, model, plan.durability, &mut dice));
        }
        if plan.faults && !plan.sound_writes {
            plan_faults(&all, &plan, &mut dice);
        }
        let mut memory = PoolMemory::new(pages);
        let mut sim = Sim::new(&all, chains, memory.pool(), plan, dice);
        let mut well = true;
        for (chain, notes) in self.notes.iter_mut().enumerate() {
            well &= sim.restore(chain, &core::mem::take(notes))?;
        }
        if !well {
            // Nothing is served; another process tries again.
            let end = if plan.faults { Ending::Kill } else { return Err("no restoring".into()) };
            self.break_off(sim, seed, end)
        } else if end == Ending::Close {
            sim.run()?;
            self.failures += sim.failures;
            self.close(sim)
        } else {
            if plan.faults {
                sim.run()?; // to the end, so that nothing may hang
            } else {
                sim.run_part()?;
            }
            self.failures += sim.failures;
            self.break_off(sim, seed, end)
        }
    }

    /// As [`live`](Self::live), with failing operations on the way. The process ends as it must.
    ///
    /// # Errors
    /// What went wrong that does not follow from the failures.
    pub fn suffer(&mut self, pages: usize, plan: Plan, seed: u64) -> Result<(), String> {
        let ending = if plan.durability == Durability::Safe && seed.is_multiple_of(2) {
            Ending::PowerCut
        } else {
            Ending::Kill
        };
        self.live(pages, Plan { faults: true, ..plan }, seed, ending)
    }

    /// As [`suffer`](Self::suffer), where only reads fail.
    ///
    /// # Errors
    /// What went wrong that does not follow from the failures.
    pub fn suffer_reads(&mut self, pages: usize, plan: Plan, seed: u64) -> Result<(), String> {
        let plan = Plan { faults: true, sound_writes: true, ..plan };
        self.live(pages, plan, seed, Ending::Kill)
    }

    fn close(&mut self, sim: Sim<'_, '_>) -> Result<(), String> {
        let ends = sim.finish()?;
        self.models.clear();
        for ((top, model, _), disk) in ends.into_iter().zip(&self.disks) {
            disk.close(&mut top.ok_or("no overlay")?)?;
            disk.check()?;
            self.models.push(model);
        }
        Ok(())
    }

    fn break_off(&mut self, sim: Sim<'_, '_>, seed: u64, end: Ending) -> Result<(), String> {
        let (mut models, mut notes) = (Vec::new(), Vec::new());
        for (mut model, kept) in sim.die() {
            model.break_off();
            models.push(model);
            notes.push(kept.left());
        }
        let machine = &self.disks.first().ok_or("no disk")?.machine;
        let machine = match end {
            Ending::PowerCut => machine.power_cut(Tear::Sectors, seed),
            _ => machine.kill(Tear::Sectors, seed),
        };
        if end == Ending::PowerCut {
            notes.iter_mut().for_each(Vec::clear);
        }
        for disk in &mut self.disks {
            *disk = disk.on(&machine);
            disk.check()?;
        }
        (self.models, self.notes) = (models, notes);
        Ok(())
    }

    /// Empties the overlay of a disk. The model of its layers is what it was when it was added.
    ///
    /// # Errors
    /// What the format says.
    pub fn rollback(&mut self, at: usize, below: &Model) -> Result<(), String> {
        self.disks[at].rollback()?;
        let painted = self.models[at].next_paint();
        self.models[at] = below.clone();
        self.models[at].skip_paint(painted);
        self.disks[at].check()
    }

    /// Freezes the overlay of the only disk and puts a new one above, perhaps of another size.
    ///
    /// # Errors
    /// What the format says.
    pub fn freeze(&mut self, format: Format, sectors: u64, seed: u64) -> Result<(), String> {
        let disk = &mut self.disks[0];
        disk.freeze()?;
        disk.add_top(format, sectors, seed);
        self.models[0].resize(sectors);
        disk.check()
    }
}

/// Some of the operations to come fail.
fn plan_faults(disk: &Disk, plan: &Plan, dice: &mut Dice) {
    let begun = disk.machine.begun();
    for _ in 0..=dice.below(4) {
        let error = if dice.chance(60) { FaultError::NoSpace } else { FaultError::Medium };
        let first = begun + 1 + dice.below(4 * plan.requests as u64);
        // Several in a row, so that trying again does not help at once.
        for operation in first..first + 1 + dice.below(6) {
            disk.machine.fail_at(operation, error);
        }
    }
}

/// How a process of a random life ends.
pub fn random_ending(durability: Durability, dice: &mut Dice) -> Ending {
    match (durability, dice.below(5)) {
        (Durability::Safe, 0) => Ending::PowerCut,
        (Durability::Safe | Durability::Writeback, 1 | 2) => Ending::Kill,
        _ => Ending::Close,
    }
}
