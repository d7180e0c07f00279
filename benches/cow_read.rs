//! Reading 4 KiB through a chain, against reading the base itself.
//!
//! `cargo bench -p benchmarks --bench cow_read`
//!
//! The storages are in memory, so what is measured is the engine: the look-up in every layer, the
//! splitting into runs, and one copy. `base` is the same copy without an engine.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

mod disks;

use core::hint::black_box;

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Top, native, raw};
use cow_core::identity::LayerId;
use cow_core::pages::{Page, StorageKey};
use cow_core::storage::ReadStorage;
use cow_core::units::Lba;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use disks::{Memory, PoolMemory, SECTORS, overlay};

const READ_SECTORS: u64 = 8;
const READ_LEN: usize = 4096;

/// Which sectors of the overlay hold data.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Empty,
    /// The first half of every 64 KiB.
    Half,
    /// Every second sector: the worst case, a run for each.
    Alternating,
}

impl Pattern {
    fn holds(self, lba: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::Half => lba % 128 < 64,
            Self::Alternating => lba.is_multiple_of(2),
        }
    }
}

/// Writes the pattern into the chain's overlay and gives the overlay back.
fn fill(
    pattern: Pattern,
    top: native::Writable,
    layers: &[Layer<'_>],
    storages: &mut [Memory],
) -> native::Writable {
    let mut memory = PoolMemory::new(16);
    let mut pool = memory.pool();
    let top = Some(Top::Native(top));
    let mut engine = Engine::<4>::new(top, SECTORS, Durability::Ephemeral).expect("a size");
    let mut driver = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index: &mut [] },
        storages,
    };
    for lba in (0..SECTORS).filter(|lba| pattern.holds(*lba)) {
        driver.write(Lba::new(lba).expect("inside"), &[9; 512]).expect("write");
    }
    driver.flush().expect("flush");
    match engine.into_overlay() {
        Some(Top::Native(top)) => top,
        _ => unreachable!("a native overlay went in"),
    }
}

/// Reads all over the disk, a prime number of sectors apart.
fn positions() -> impl FnMut() -> Lba {
    let mut at = 0_u64;
    move || {
        at = (at + 4099) % (SECTORS - READ_SECTORS);
        Lba::new(at).expect("inside")
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read 4 KiB");
    group.throughput(Throughput::Bytes(READ_LEN as u64));
    let base = Memory::filled(SECTORS * 512);
    let mut buf = [0; READ_LEN];
    let mut next = positions();
    group.bench_function("base", |bencher| {
        bencher.iter(|| black_box(&base).read_at(next().bytes(), black_box(&mut buf)));
    });
    for depth in [1_u32, 8] {
        for pattern in [Pattern::Empty, Pattern::Half, Pattern::Alternating] {
            // Layers from the base up; all but the topmost are frozen, and equally filled.
            let mut storages = vec![base.clone()];
            let raw = raw::Raw::new(StorageKey(0), SECTORS * 512).expect("a base");
            let mut layers = vec![Layer::Raw(raw)];
            let mut page = Page::ZERO.clone();
            for key in 1..depth {
                let (storage, top) = overlay(StorageKey(key));
                storages.push(storage);
                let top = fill(pattern, top, &layers, &mut storages);
                let storage = storages.last_mut().expect("just pushed");
                native::close(storage, &top, &mut page).expect("close");
                let id = LayerId([0x80 | u8::try_from(key).expect("few"); 16]);
                let frozen = native::freeze(storage, id, &mut page).expect("freeze");
                let layer = frozen.frozen(StorageKey(key)).expect("frozen");
                layers.insert(0, Layer::Native(layer));
            }
            let (storage, top) = overlay(StorageKey(depth));
            storages.push(storage);
            let top = Some(Top::Native(fill(pattern, top, &layers, &mut storages)));
            let mut memory = PoolMemory::new(64);
            let mut pool = memory.pool();
            let mut engine = Engine::<4>::new(top, SECTORS, Durability::Safe).expect("a size");
            let mut driver = Blocking {
                engine: &mut engine,
                lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
                storages: &mut storages[..],
            };
            let id = BenchmarkId::new(format!("{pattern:?}").to_lowercase(), depth);
            group.bench_function(id, |bencher| {
                bencher.iter(|| driver.read(next(), black_box(&mut buf)).expect("read"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
