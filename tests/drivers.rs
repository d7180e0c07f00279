//! The engine under its drivers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cow_core::engine::Durability;
use cow_core::fault::{Dice, Machine};
use system_tests::chain_model::{Disk, Format, Model, Opened, PoolMemory};
use system_tests::sim::{Chain, Plan, Sim};

fn one(
    seed: u64,
    format: Format,
    sectors: u64,
    pages: usize,
    durability: Durability,
) -> Result<(), String> {
    let machine = Machine::new();
    let mut dice = Dice::new(seed);
    let disk = Disk::new(&machine, sectors, sectors * 512 - 100, format, seed);
    machine.settle();
    let model = Model::new(sectors, disk.base());
    let opened = disk.open_lower(false)?;
    let layers: Vec<_> = opened.iter().map(Opened::layer).collect();
    let chain = Chain::new(&disk, disk.open_top()?, &layers, model, durability, &mut dice);
    let mut memory = PoolMemory::new(pages);
    let mut sim = Sim::new(&disk, vec![chain], memory.pool(), Plan::new(200, durability), dice);
    sim.run()?;
    let ends = sim.finish()?;
    for (top, _, _) in ends {
        disk.close(&top.unwrap())?;
    }
    disk.check()
}

#[test]
fn first_light() {
    for durability in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        for format in [Format::Native, Format::Dm(8), Format::Dm(1)] {
            for pages in [2, 3, 8, 64] {
                for seed in 0..20 {
                    let r = one(seed, format, 16_140, pages, durability);
                    if let Err(e) = r {
                        println!("{durability:?} {format:?} {pages} pages, seed {seed}: {e}");
                    }
                }
            }
        }
    }
}
