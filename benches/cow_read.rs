//! Reading 4 KiB through a chain, against reading the base itself.
//!
//! `cargo bench -p benchmarks --bench cow_read`
//!
//! The storages are in memory, so what is measured is the engine: the look-up in every layer, the
//! splitting into runs, and one copy. `base` is the same copy without an engine.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

use core::hint::black_box;

use benchmarks::chains::{Chain, Pattern};
use benchmarks::disks::{Memory, SECTORS};
use cow_core::storage::ReadStorage;
use cow_core::units::Lba;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const READ_SECTORS: u64 = 8;
const READ_LEN: usize = 4096;

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
            let mut chain = Chain::new(depth, pattern, SECTORS);
            let id = BenchmarkId::new(format!("{pattern:?}").to_lowercase(), depth);
            chain.use_it(|driver| {
                group.bench_function(id, |bencher| {
                    bencher.iter(|| driver.read(next(), black_box(&mut buf)).expect("read"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
