//! The engine under its drivers: blocking with two pages, asynchronous with several chains in one
//! pool or on one device, on several threads, and on media that fail.
//!
//! Nothing may hang: every run has a bound of steps and names its seed when it exceeds it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use cow_core::blocking::CallError;
use cow_core::engine::{
    Buffer, Durability, Engine, Failure, IoFailure, Kind, Lent, MAX_REQUEST_SECTORS, Output,
    Request, RequestId,
};
use cow_core::fault::{Dice, FaultError, FaultyStorage, Machine};
use cow_core::format::cowloop::Width;
use cow_core::format::uml::Version;
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use system_tests::chain_model::{Disk, Format, Opened, PoolMemory, Spots, more_seeds};
use system_tests::sector_model::{Content, Model, SECTOR};
use system_tests::sim_life::{Ending, Life};
use system_tests::sim_plan::Plan;

const MODES: [Durability; 3] = [Durability::Safe, Durability::Writeback, Durability::Ephemeral];
const FORMATS: [Format; 6] = [
    Format::Native,
    Format::Dm(1),
    Format::Dm(8),
    Format::Uml(Version::V1),
    Format::Cowloop(Width::Bits64),
    Format::DmCow,
];

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
                let (result, mut top) = disk
                    .with_blocking(2, durability, |blocking| {
                        random_calls(blocking, &mut model, &mut Dice::new(seed))
                    })
                    .unwrap();
                result.unwrap_or_else(|e| panic!("{format:?}, {durability:?}, seed {seed}: {e}"));
                disk.close(&mut top).unwrap();
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
            for seed in 0..6 * more_seeds() {
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
    for seed in 0..12 * more_seeds() {
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
                for seed in 0..12 * more_seeds() {
                    suffer(format, pages, durability, seed);
                }
            }
        }
    }
}

/// Seeds that once found something rare.
#[test]
fn media_that_failed() {
    // A page was prepared for one request while its failed preparation was repeated by a commit.
    suffer(Format::Native, 3, Durability::Safe, 71);
    suffer_reads(Format::Dm(8), 2, 132);
}

fn suffer(format: Format, pages: usize, durability: Durability, seed: u64) {
    let mut life = three_deep(&Machine::new(), 16_200, format, seed);
    if seed.is_multiple_of(3) {
        let below = life.models[0].clone();
        life.add_sibling(Format::Native, seed);
        life.models[1] = below;
    }
    let read_faults = if seed.is_multiple_of(4) { 40 } else { 0 };
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

/// A failed request must not keep the page that it was loading from everybody else.
#[test]
fn reads_that_fail_leave_no_page_behind() {
    for format in FORMATS {
        for pages in [2, 3] {
            for seed in 0..30 * more_seeds() {
                suffer_reads(format, pages, seed);
            }
        }
    }
}

fn suffer_reads(format: Format, pages: usize, seed: u64) {
    let mut life = three_deep(&Machine::new(), 40_000, format, seed);
    let plan = Plan { read_faults: 6, ..Plan::new(60, Durability::Writeback) };
    life.suffer_reads(pages, plan, seed)
        .unwrap_or_else(|e| panic!("{format:?}, {pages} pages, seed {seed}: {e}"));
}

/// More runs in one request than 16 bits can count.
#[test]
fn a_request_of_65536_runs_ends_with_the_last_of_them() {
    let sectors = MAX_REQUEST_SECTORS;
    let disk = Disk::new(&Machine::new(), sectors, sectors * 512, Format::Native, 1);
    disk.with_blocking(8, Durability::Ephemeral, |blocking| {
        for lba in (0..sectors).step_by(2) {
            blocking.write(Lba::new(lba).unwrap(), &[1; 512]).unwrap();
        }
        let all = Extent::new(0, sectors).unwrap();
        blocking.engine.submit(RequestId(7), Request::Read(all)).unwrap();
        let mut tickets = Vec::new();
        while let Some(output) = blocking.engine.poll(&mut blocking.lent) {
            match output {
                Output::Operation(o) if matches!(o.buffer, Buffer::Page { .. }) => {
                    let Buffer::Page { page, .. } = o.buffer else { unreachable!() };
                    let bytes = blocking.lent.pages.bytes_mut(page);
                    blocking.storages[o.storage.0 as usize].read_at(o.offset, bytes).unwrap();
                    blocking.engine.complete(&mut blocking.lent, o.ticket, Ok(()));
                }
                Output::Operation(o) => tickets.push(o.ticket),
                output => panic!("{output:?} with {} reads under way", tickets.len()),
            }
        }
        assert_eq!(tickets.len() as u64, sectors);
        let last = tickets.pop().unwrap();
        for ticket in tickets {
            blocking.engine.complete(&mut blocking.lent, ticket, Ok(()));
            assert_eq!(blocking.engine.poll(&mut blocking.lent), None);
        }
        blocking.engine.complete(&mut blocking.lent, last, Ok(()));
        let done = Output::Done { id: RequestId(7), result: Ok(()) };
        assert_eq!(blocking.engine.poll(&mut blocking.lent), Some(done));
    })
    .unwrap();
}

/// Reads over a page boundary whose first part fails while the second page is being loaded.
#[test]
fn a_failed_request_releases_the_page_it_was_loading() {
    let sectors = 16_128 * 6;
    let disk = Disk::new(&Machine::new(), sectors, sectors * 512, Format::Native, 1);
    disk.with_blocking(2, Durability::Ephemeral, |blocking| {
        for page in 1..3 {
            let first = Lba::new(page * 2 * 16_128 - 1).unwrap();
            blocking.write(first, &[1; 512]).unwrap();
            let both = Extent::new(first.get(), 2).unwrap();
            blocking.engine.submit(RequestId(7), Request::Read(both)).unwrap();
            let (mut data, mut result) = (None, None);
            while let Some(output) = blocking.engine.poll(&mut blocking.lent) {
                match output {
                    Output::Operation(o) if matches!(o.buffer, Buffer::Request { .. }) => {
                        data = Some(o.ticket);
                    }
                    Output::Operation(o) => {
                        let Buffer::Page { page, .. } = o.buffer else { unreachable!() };
                        let bytes = blocking.lent.pages.bytes_mut(page);
                        blocking.storages[o.storage.0 as usize].read_at(o.offset, bytes).unwrap();
                        if let Some(ticket) = data.take() {
                            let failed = Err(IoFailure::Medium);
                            blocking.engine.complete(&mut blocking.lent, ticket, failed);
                        }
                        blocking.engine.complete(&mut blocking.lent, o.ticket, Ok(()));
                    }
                    Output::Done { result: how, .. } => result = Some(how),
                    output => panic!("{output:?}"),
                }
            }
            assert_eq!(result, Some(Err(Failure::Medium)));
        }
        blocking.read(Lba::new(sectors - 1).unwrap(), &mut [0; 512]).unwrap();
    })
    .unwrap();
}

/// Two engines, one pool of two pages, and one driver that blocks: no request is left behind.
#[test]
fn a_blocking_call_that_cannot_go_on_ends() {
    let sectors = 16_128 * 2;
    let machine = Machine::new();
    let disk = Disk::new(&machine, sectors, sectors * 512, Format::Native, 1);
    let mut other = disk.clone();
    other.add_top(Format::Native, sectors, 2);
    let mut storages = other.storages.clone();
    let opened = disk.open_lower(false).unwrap();
    let layers: Vec<_> = opened.iter().map(Opened::layer).collect();
    let mut memory = PoolMemory::new(2);
    let mut pool = memory.pool();
    let mut engines = [&disk, &other].map(|d| {
        Engine::<4>::new(Some(d.open_top().unwrap().0), sectors, Durability::Writeback).unwrap()
    });
    // The storage of the first engine is full when it should publish.
    let mut write = |engine: &mut Engine<4>, lba, byte| {
        let mut blocking = cow_core::blocking::Blocking {
            engine,
            lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
            storages: &mut storages[..],
        };
        blocking.write(Lba::new(lba).unwrap(), &[byte; 512])
    };
    write(&mut engines[0], 0, 1).unwrap();
    for fails in 1..4 {
        machine.fail_at(machine.begun() + 3 + fails, FaultError::NoSpace);
    }
    let _full = write(&mut engines[0], 20_000, 2);
    for call in 0..3 {
        let result = write(&mut engines[1], 5, 3);
        assert!(!matches!(result, Err(CallError::Stalled)), "call {call}: {result:?}");
        assert_eq!(engines[1].in_flight(), 0, "call {call}");
    }
}

/// Rule W costs two syncs for a write alone. In a steady stream the last sync of a batch is the
/// first of the next one, so that it comes to one for each batch.
#[test]
fn a_steady_stream_costs_one_sync_a_batch() {
    let sectors = 16_000;
    let disk = Disk::new(&Machine::new(), sectors, sectors * 512, Format::Native, 1);
    let (writes, alone) = stream(&disk, 1);
    assert_eq!(alone, 2 * writes);
    let (writes, together) = stream(&disk, 8);
    // A batch takes what was written during the one before, some three of the eight under way. With
    // two syncs for each batch it would be 270.
    assert!(together <= 150, "{together} syncs for {writes} writes");
}

/// Fresh writes of one sector each, so many under way at a time; gives their and the syncs' number.
fn stream(disk: &Disk, under_way: u32) -> (u32, u32) {
    let (writes, mut syncs) = (400, 0);
    disk.with_blocking(8, Durability::Safe, |blocking| {
        let (mut submitted, mut done, mut flying) = (0, 0, VecDeque::new());
        while done < writes {
            while submitted < writes && submitted - done < under_way {
                let lba = u64::from(submitted) + u64::from(under_way) * 1000;
                let extent = Extent::new(lba, 1).unwrap();
                let request = Request::Write { extent, durable: false };
                blocking.engine.submit(RequestId(submitted), request).unwrap();
                submitted += 1;
            }
            while let Some(output) = blocking.engine.poll(&mut blocking.lent) {
                match output {
                    Output::Operation(o) => flying.push_back(o),
                    Output::Done { result, .. } => {
                        result.unwrap();
                        done += 1;
                    }
                    _ => {}
                }
            }
            let Some(o) = flying.pop_front() else { continue };
            syncs += u32::from(o.kind == Kind::Sync);
            if let (Kind::Read, Buffer::Page { page, .. }) = (o.kind, o.buffer) {
                let bytes = blocking.lent.pages.bytes_mut(page);
                blocking.storages[o.storage.0 as usize].read_at(o.offset, bytes).unwrap();
            }
            if let (Kind::Write, Buffer::Page { page, .. }) = (o.kind, o.buffer) {
                let bytes = blocking.lent.pages.bytes(page);
                blocking.storages[o.storage.0 as usize].write_at(o.offset, bytes).unwrap();
            }
            blocking.engine.complete(&mut blocking.lent, o.ticket, Ok(()));
        }
    })
    .unwrap();
    (writes, syncs)
}
