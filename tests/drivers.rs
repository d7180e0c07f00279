//! The engine under its drivers: blocking with two pages, asynchronous with several chains in one
//! pool or on one device, on several threads, and on media that fail.
//!
//! Nothing may hang: every run has a bound of steps and names its seed when it exceeds it.

use cow_core::engine::Durability;
use cow_core::fault::{Dice, FaultyStorage, Machine};
use cow_core::units::Extent;
use system_tests::chain_model::{Content, Disk, Format, Model, SECTOR, Spots};
use system_tests::sim::Plan;
use system_tests::sim_life::{Ending, Life};

const MODES: [Durability; 3] = [Durability::Safe, Durability::Writeback, Durability::Ephemeral];
const FORMATS: [Format; 3] = [Format::Native, Format::Dm(1), Format::Dm(8)];

/// Two layers and an empty overlay over a base of odd length.
fn three_deep(machine: &Machine, sectors: u64, format: Format, seed: u64) -> Life {
    let base_len = (sectors * 512).saturating_sub(300).max(1);
    let mut life = Life::new(Disk::new(machine, sectors, base_len, Format::Native, seed));
    for (below, above) in [(Format::Native, Format::Dm(8)), (Format::Dm(8), format)] {
        let plan = Plan::new(20, Durability::Ephemeral);
        life.live(8, plan, seed, Ending::Close).unwrap_or_else(|e| panic!("{below:?}: {e}"));
        life.freeze(above, sectors, seed).unwrap();
    }
    life
}

#[test]
fn the_blocking_driver_needs_two_pages() {
    for format in FORMATS {
        for durability in MODES {
            for seed in 0..8 {
                let life = three_deep(&Machine::new(), 16_200, format, seed);
                let (disk, mut model) = (&life.disks[0], life.models[0].clone());
                let (result, top) = disk
                    .with_blocking(2, durability, |blocking| {
                        random_calls(blocking, &mut model, &mut Dice::new(seed))
                    })
                    .unwrap();
                result.unwrap_or_else(|e| panic!("{format:?}, {durability:?}, seed {seed}: {e}"));
                disk.close(&top).unwrap();
                disk.check().unwrap();
            }
        }
    }
}

type Blocking<'a, 'p> =
    cow_core::blocking::Blocking<'a, 'p, [FaultyStorage], { system_tests::chain_model::SLOTS }>;

fn random_calls(
    blocking: &mut Blocking<'_, '_>,
    model: &mut Model,
    dice: &mut Dice,
) -> Result<(), String> {
    let spots = Spots::new(model.sectors(), dice);
    for _ in 0..60 {
        let extent = spots.extent(model.sectors(), 90, dice);
        let mut buffer = vec![0xee; usize::try_from(extent.bytes()).unwrap()];
        let call = dice.below(10);
        let result = match call {
            0..4 => blocking.read(extent.start(), &mut buffer),
            4..7 => {
                let contents = paint(model, extent, &mut buffer);
                let result = blocking.write(extent.start(), &buffer);
                acknowledge(model, extent, &contents);
                result
            }
            7 => {
                acknowledge(model, extent, &vec![Content::Zero; buffer.len() / SECTOR]);
                blocking.zero(extent)
            }
            8 => {
                let zeros = vec![Content::Zero; buffer.len() / SECTOR];
                model.submit(extent, 0, true, &zeros);
                model.acknowledge(extent, &zeros, 0, 0, (true, true));
                blocking.discard(extent)
            }
            _ => blocking.flush(),
        };
        result.map_err(|e| format!("call {call} on {extent}: {e}"))?;
        if call < 4 {
            for (lba, bytes) in (extent.start().get()..).zip(buffer.chunks(SECTOR)) {
                model.judge(lba, bytes, &model.expected(lba), false)?;
            }
        }
    }
    blocking.flush().map_err(|e| e.to_string())
}

fn paint(model: &mut Model, extent: Extent, buffer: &mut [u8]) -> Vec<Content> {
    let mut contents = Vec::new();
    for sector in buffer.chunks_mut(SECTOR) {
        let content = Content::Paint(model.next_paint());
        sector.copy_from_slice(&model.bytes(content));
        contents.push(content);
    }
    assert_eq!(contents.len() as u64, extent.sectors());
    contents
}

fn acknowledge(model: &mut Model, extent: Extent, contents: &[Content]) {
    model.submit(extent, 0, false, contents);
    model.acknowledge(extent, contents, 0, 0, (true, true));
}

#[test]
fn many_chains_share_one_pool() {
    for pages in [2, 3, 8] {
        for durability in MODES {
            for seed in 0..6 {
                let mut life = three_deep(&Machine::new(), 40_000, Format::Native, seed);
                for format in [Format::Dm(8), Format::Native, Format::Dm(1)] {
                    life.add_sibling(format, seed + 1);
                }
                let base = life.models[0].clone();
                life.models.iter_mut().for_each(|model| *model = base.clone());
                for (session, ending) in [Ending::Close, Ending::Close].into_iter().enumerate() {
                    life.live(pages, Plan::new(40, durability), seed, ending).unwrap_or_else(|e| {
                        panic!("{pages} pages, {durability:?}, seed {seed}, {session}: {e}")
                    });
                }
            }
        }
    }
}

#[test]
fn two_chains_on_one_device() {
    for seed in 0..12 {
        let machine = Machine::new();
        let sectors = 16_500;
        let formats = [Format::Native, if seed % 2 == 0 { Format::Native } else { Format::Dm(8) }];
        let lens = formats.map(|format| Disk::top_len(format, sectors));
        // Partitions that are not zeroed, one behind the other.
        let total = lens[0] + lens[1];
        let device = machine.add_medium(total, total, 77 + seed);
        let mut disk = Disk::new(&machine, sectors, sectors * 512 - 9, Format::Native, seed);
        disk.add_top_on(formats[0], sectors, device.window(0, lens[0]), true);
        let mut life = Life::new(disk.clone());
        disk.add_top_on(formats[1], sectors, device.window(lens[0], lens[1]), true);
        life.push(disk);
        for (step, durability) in MODES.into_iter().enumerate() {
            life.live(8, Plan::new(60, durability), seed, Ending::Close)
                .unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
        }
    }
}

#[test]
fn threads_share_frozen_layers() {
    let life = three_deep(&Machine::new(), 40_000, Format::Native, 5);
    let base = life.models[0].clone();
    let mut all = life.clone();
    for _ in 0..3 {
        all.add_sibling(Format::Native, 6);
    }
    std::thread::scope(|scope| {
        for (seed, disk) in all.disks.iter().enumerate().skip(1) {
            let (disk, base) = (disk.clone(), base.clone());
            scope.spawn(move || {
                let mut life = Life::new(disk);
                life.models[0] = base;
                for session in 0..4 {
                    life.live(4, Plan::new(60, Durability::Safe), seed as u64, Ending::Close)
                        .unwrap_or_else(|e| panic!("thread {seed}, session {session}: {e}"));
                }
            });
        }
    });
}

/// Writes, syncs and reads fail: nothing hangs, what was acknowledged stays, the rest is old or new.
#[test]
fn media_that_fail() {
    for format in FORMATS {
        for pages in [2, 3, 8] {
            for durability in [Durability::Safe, Durability::Writeback] {
                for seed in 0..12 {
                    let mut life = three_deep(&Machine::new(), 16_200, format, seed);
                    if seed % 3 == 0 {
                        let below = life.models[0].clone();
                        life.add_sibling(Format::Native, seed);
                        life.models[1] = below;
                    }
                    let read_faults = if seed % 4 == 0 { 40 } else { 0 };
                    for session in 0..3 {
                        let plan = Plan { read_faults, ..Plan::new(40, durability) };
                        life.suffer(pages, plan, seed * 5 + session).unwrap_or_else(|e| {
                            let what = format!("{format:?}, {pages} pages, {durability:?}");
                            panic!("{what}, seed {seed}, session {session}: {e}")
                        });
                    }
                    life.live(pages, Plan::new(20, durability), seed, Ending::Close)
                        .unwrap_or_else(|e| panic!("{format:?}, seed {seed}, at last: {e}"));
                }
            }
        }
    }
}
