//! Whole lives of chains against a plain model: random requests, several in flight, completed in
//! random order, through restarts, kills, power cuts, rollbacks and freezes, over a grid of sizes,
//! formats, depths and pools.
//!
//! Everything follows from a seed, which every failure names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use cow_core::engine::Durability;
use cow_core::fault::{Dice, Machine};
use cow_core::units::MAX_SECTORS;
use system_tests::chain_model::{Disk, Format};
use system_tests::sim_life::{Ending, Life, random_ending};
use system_tests::sim_plan::Plan;

/// One sector, odd ones, one sector around a native page, a few pages, the largest there is.
const SIZES: [u64; 8] = [1, 7, 500, 16_127, 16_128, 16_129, 40_001, MAX_SECTORS];
const FORMATS: [Format; 4] = [Format::Native, Format::Dm(1), Format::Dm(8), Format::Dm(64)];
const POOLS: [usize; 4] = [2, 3, 8, 64];
const MODES: [Durability; 3] = [Durability::Safe, Durability::Writeback, Durability::Ephemeral];

fn any<T: Copy>(choices: &[T], dice: &mut Dice) -> T {
    let at = usize::try_from(dice.below(choices.len() as u64)).unwrap();
    choices[at]
}

/// A base of odd length, a short one, one longer than the disk, or none.
fn base_len(sectors: u64, dice: &mut Dice) -> u64 {
    let bytes = sectors * 512;
    match dice.below(5) {
        0 => 0,
        1 => bytes,
        2 => (bytes / 2).max(1),
        3 => (bytes + 1000).min(MAX_SECTORS * 512),
        _ => bytes.saturating_sub(1 + dice.below(700)).max(1),
    }
}

/// Lives a random life; every step of it is in the seed.
fn live(seed: u64, sectors: u64, format: Format, pages: usize) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let machine = Machine::new();
    let base_len = base_len(sectors, &mut dice);
    let mut life = Life::new(Disk::new(&machine, sectors, base_len, format, dice.roll()));
    // What rollback returns to.
    let mut below = life.models[0].clone();
    for _session in 0..5 {
        let durability = any(&MODES, &mut dice);
        let longest = any(&[3, 40, 40, 700], &mut dice);
        let plan = Plan { longest, ..Plan::new(40, durability) };
        let ending = random_ending(durability, &mut dice);
        let step = format!("{durability:?}, up to {longest} sectors, {ending:?}");
        if std::env::var("TRACE").is_ok() {
            println!("SESSION {step} {:?}", life.disks[0].top);
        }
        life.live(pages, plan, dice.roll(), ending).map_err(|e| format!("{step}: {e}"))?;
        match dice.below(4) {
            0 if ending == Ending::Close => {
                life.rollback(0, &below)?;
            }
            1 | 2 if ending == Ending::Close => {
                let format = any(&FORMATS, &mut dice);
                let size = if dice.chance(70) { sectors } else { (sectors / 2).max(1) };
                life.freeze(format, size, dice.roll())?;
                below = life.models[0].clone();
            }
            _ => {}
        }
    }
    let plan = Plan::new(30, Durability::Safe);
    life.live(pages, plan, dice.roll(), Ending::Close)
}

/// Every size with every pool. `COW_SEEDS` multiplies the seeds, for a longer search.
fn live_grid(format: Format, first: u64, seeds: u64) {
    let more = std::env::var("COW_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for sectors in SIZES {
        for pages in POOLS {
            for seed in first..first + seeds * more {
                if let Err(e) = live(seed, sectors, format, pages) {
                    panic!("live({seed}, {sectors}, {format:?}, {pages}): {e}");
                }
            }
        }
    }
}

#[test]
fn native_overlays_read_as_the_model() {
    live_grid(Format::Native, 0, 5);
}

#[test]
fn snapshot_stores_read_as_the_model() {
    live_grid(Format::Dm(8), 1000, 3);
    live_grid(Format::Dm(1), 2000, 2);
    live_grid(Format::Dm(64), 3000, 2);
}
