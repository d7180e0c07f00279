//! Whole lives of chains against a plain model: random requests, several in flight, completed in
//! random order, through restarts, kills, power cuts, rollbacks and freezes, over a grid of sizes,
//! formats, depths and pools.
//!
//! Everything follows from a seed, which every failure names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use cow_core::engine::Durability;
use cow_core::fault::{Dice, Machine};
use cow_core::format::cowloop::Width;
use cow_core::format::uml::Version;
use cow_core::units::MAX_SECTORS;
use system_tests::chain_model::{Disk, Format, more_seeds};
use system_tests::sim_life::{Ending, Life, random_ending};
use system_tests::sim_plan::Plan;

/// One sector, odd ones, one sector around a native page, around a page of a bitmap, a few pages,
/// the largest there is.
const SIZES: [u64; 9] = [1, 7, 500, 16_127, 16_128, 16_129, 32_780, 40_001, MAX_SECTORS];
const FORMATS: [Format; 12] = [
    Format::Native,
    Format::Dm(1),
    Format::Dm(8),
    Format::Dm(64),
    Format::qcow1(9, 12),
    Format::qcow1(12, 9),
    Format::qcow1(9, 6),
    Format::Uml(Version::V1),
    Format::Uml(Version::V3),
    Format::Cowloop(Width::Bits32),
    Format::Cowloop(Width::Bits64),
    Format::DmCow,
];
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

/// What was lived through: a test that never did a thing proves nothing about it.
#[derive(Debug, Default)]
struct Lived {
    sessions: usize,
    kills: usize,
    power_cuts: usize,
    rollbacks: usize,
    freezes: usize,
    deepest: usize,
}

/// Lives a random life; every step of it is in the seed.
fn live(
    seed: u64,
    (sectors, format, pages): (u64, Format, usize),
    lived: &mut Lived,
) -> Result<(), String> {
    let mut dice = Dice::new(seed << 32 ^ (sectors % 9973) << 8 ^ pages as u64);
    let sectors = format.size(sectors);
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
        life.live(pages, plan, dice.roll(), ending).map_err(|e| format!("{step}: {e}"))?;
        lived.sessions += 1;
        lived.kills += usize::from(ending == Ending::Kill);
        lived.power_cuts += usize::from(ending == Ending::PowerCut);
        match dice.below(4) {
            0 if ending == Ending::Close => {
                lived.rollbacks += 1;
                life.rollback(0, &below)?;
            }
            1 | 2 if ending == Ending::Close => {
                lived.freezes += 1;
                let size = if dice.chance(70) { sectors } else { (sectors / 2).max(1) };
                let format = Some(any(&FORMATS, &mut dice)).filter(|f| f.fits(size));
                let format = format.unwrap_or(Format::Native);
                life.freeze(format, format.size(size), dice.roll())?;
                below = life.models[0].clone();
            }
            _ => {}
        }
    }
    lived.deepest = lived.deepest.max(life.disks[0].lower.len());
    let plan = Plan::new(30, Durability::Safe);
    life.live(pages, plan, dice.roll(), Ending::Close)?;
    Ok(())
}

/// Every size with every pool.
fn live_grid(format: Format, first: u64, seeds: u64, lived: &mut Lived) {
    for sectors in SIZES.into_iter().filter(|sectors| format.fits(*sectors)) {
        for pages in POOLS {
            for seed in first..first + seeds * more_seeds() {
                if let Err(e) = live(seed, (sectors, format, pages), lived) {
                    panic!("live({seed}, ({sectors}, {format:?}, {pages})): {e}");
                }
            }
        }
    }
    println!("{format:?}: {lived:?}");
}

#[test]
fn native_overlays_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::Native, 0, 5, &mut lived);
    let Lived { kills, power_cuts, rollbacks, freezes, .. } = lived;
    assert!(kills > 50 && power_cuts > 10 && rollbacks > 20 && freezes > 50, "{lived:?}");
    assert!(lived.deepest >= 5, "{lived:?}");
}

#[test]
fn snapshot_stores_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::Dm(8), 1000, 3, &mut lived);
    live_grid(Format::Dm(1), 2000, 2, &mut lived);
    live_grid(Format::Dm(64), 3000, 2, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

/// The sizes that the reference chooses, the smallest and the largest tables, and clusters of more
/// than a sector over a backing file, which we read and write but do not make.
#[test]
fn qcow1_images_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::qcow1(9, 12), 5000, 2, &mut lived);
    live_grid(Format::qcow1(12, 9), 6000, 2, &mut lived);
    live_grid(Format::qcow1(9, 6), 7000, 2, &mut lived);
    live_grid(Format::qcow1(16, 13), 8000, 1, &mut lived);
    live_grid(Format::qcow1(11, 7), 9000, 1, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

/// Tiny clusters with many tables, the usual ones, and larger ones; both versions; every unlike width
/// of counts.
#[test]
fn qcow2_images_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::qcow2(3, 9, 16), 10_000, 2, &mut lived);
    live_grid(Format::qcow2(2, 9, 16), 11_000, 1, &mut lived);
    live_grid(Format::qcow2(3, 10, 64), 12_000, 1, &mut lived);
    live_grid(Format::qcow2(3, 12, 1), 13_000, 1, &mut lived);
    live_grid(Format::qcow2(2, 12, 16), 14_000, 1, &mut lived);
    live_grid(Format::qcow2(3, 16, 16), 15_000, 1, &mut lived);
    live_grid(Format::qcow2(3, 18, 8), 16_000, 1, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

/// A disk that ends beyond 2^32 bytes.
#[test]
fn large_qcow1_images_read_as_the_model() {
    let mut lived = Lived::default();
    for (shape, sectors) in [((9, 12), 9_000_011), ((12, 9), (1 << 25) + 1), ((16, 13), 1 << 33)] {
        for seed in 0..6 * more_seeds() {
            let format = Format::qcow1(shape.0, shape.1);
            live(seed, (sectors, format, 3), &mut lived)
                .unwrap_or_else(|e| panic!("seed {seed}, {sectors} sectors, {format:?}: {e}"));
        }
    }
}

#[test]
fn uml_files_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::Uml(Version::V3), 4000, 2, &mut lived);
    live_grid(Format::Uml(Version::V3Padded), 5000, 1, &mut lived);
    live_grid(Format::Uml(Version::V2), 6000, 1, &mut lived);
    live_grid(Format::Uml(Version::V1), 7000, 2, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

#[test]
fn dm_cow_layers_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::DmCow, 8000, 4, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

#[test]
fn cowfiles_read_as_the_model() {
    let mut lived = Lived::default();
    live_grid(Format::Cowloop(Width::Bits64), 9000, 2, &mut lived);
    live_grid(Format::Cowloop(Width::Bits32), 10_000, 2, &mut lived);
    assert!(lived.kills > 50 && lived.rollbacks > 20 && lived.freezes > 50, "{lived:?}");
}

/// A store that has room for some chunks: writes that need more fail, everything else goes on.
#[test]
fn full_stores_read_as_the_model() {
    let mut failures = 0;
    for seed in 0..24 * more_seeds() {
        let machine = Machine::new();
        let (sectors, chunk) = (16_140, [1, 8, 64][usize::try_from(seed % 3).unwrap()]);
        let mut disk = Disk::new(&machine, sectors, sectors * 512, Format::Native, seed);
        let len = (3 + 2 * seed) * u64::from(chunk) * 512;
        let short = machine.add_medium(len, len, 0);
        disk.add_top_on(Format::Dm(chunk), sectors, short, false);
        let mut life = Life::new(disk);
        for (step, durability) in MODES.into_iter().enumerate() {
            let ending = if step == 0 { Ending::Kill } else { Ending::Close };
            life.live(3, Plan::new(60, durability), seed, ending)
                .unwrap_or_else(|e| panic!("seed {seed}, {durability:?}: {e}"));
        }
        failures += life.failures;
    }
    assert!(failures > 100, "{failures}");
}
