//! Writing 4 KiB into a native overlay, against writing the storage itself.
//!
//! `cargo bench -p benchmarks --bench cow_write`
//!
//! The storage is in memory and its sync costs nothing, so what is measured is the engine: placing,
//! entering the new state, and publishing pages with their checksums. `fresh` writes sectors that
//! the overlay did not hold, `again` those that it does.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

use core::hint::black_box;

use benchmarks::disks::{Memory, PoolMemory, SECTORS, overlay};
use cow_core::blocking::{Blocking, OverBase};
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Top, raw};
use cow_core::pages::StorageKey;
use cow_core::storage::Storage;
use cow_core::units::Lba;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const WRITE_SECTORS: u64 = 8;
const WRITE_LEN: usize = 4096;
/// Writes per measurement: all of them to different places.
const WRITES: u64 = 512;

fn places() -> impl Iterator<Item = Lba> {
    let places = SECTORS / WRITE_SECTORS;
    (0..WRITES).filter_map(move |n| Lba::new(n * 4099 % places * WRITE_SECTORS))
}

fn write_all(overlay: &mut OverBase<Memory, Memory>, engine: &mut Engine<4>, data: &[u8]) {
    let raw = raw::Raw::new(StorageKey(1), SECTORS * 512).expect("a base");
    let mut memory = PoolMemory::new(16);
    let mut pool = memory.pool();
    let mut driver = Blocking {
        engine,
        lent: Lent { pages: &mut pool, layers: &[Layer::Raw(raw)], index: &mut [] },
        storages: overlay,
    };
    for lba in places() {
        driver.write(lba, data).expect("write");
    }
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write 4 KiB");
    group.throughput(Throughput::Bytes(WRITES * WRITE_LEN as u64));
    let data = [5; WRITE_LEN];
    let mut plain = Memory::filled(SECTORS * 512);
    group.bench_function("base", |bencher| {
        bencher.iter(|| {
            for lba in places() {
                black_box(&mut plain).write_at(lba.bytes(), black_box(&data)).expect("write");
            }
        });
    });
    for durability in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        let name = format!("{durability:?}").to_lowercase();
        group.bench_function(BenchmarkId::new("fresh", &name), |bencher| {
            bencher.iter_batched(
                || {
                    let (storage, top) = overlay(StorageKey(0), SECTORS);
                    let top = Some(Top::Native(top));
                    let engine = Engine::<4>::new(top, SECTORS, durability).expect("a size");
                    let base = Memory::default(); // native overlays never read it to write
                    (OverBase { overlay: storage, base }, engine)
                },
                |(mut storages, mut engine)| {
                    write_all(&mut storages, &mut engine, black_box(&data));
                    (storages, engine)
                },
                BatchSize::LargeInput,
            );
        });
        let (storage, top) = overlay(StorageKey(0), SECTORS);
        let mut storages = OverBase { overlay: storage, base: Memory::default() };
        let top = Some(Top::Native(top));
        let mut engine = Engine::<4>::new(top, SECTORS, durability).expect("a size");
        let raw = raw::Raw::new(StorageKey(1), SECTORS * 512).expect("a base");
        let mut memory = PoolMemory::new(16);
        let mut pool = memory.pool();
        let mut driver = Blocking {
            engine: &mut engine,
            lent: Lent { pages: &mut pool, layers: &[Layer::Raw(raw)], index: &mut [] },
            storages: &mut storages,
        };
        for lba in places() {
            driver.write(lba, &data).expect("write");
        }
        group.bench_function(BenchmarkId::new("again", &name), |bencher| {
            bencher.iter(|| {
                for lba in places() {
                    driver.write(lba, black_box(&data)).expect("write");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, write);
criterion_main!(benches);
