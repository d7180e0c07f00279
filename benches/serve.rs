//! What a request costs in the whole server loop: parse, decide, engine, answer, over storage that
//! is memory and ends at once.
//!
//! `cargo bench -p benchmarks --bench serve`
//!
//! Requests come in batches of 16, as the server takes them from a link; the time is that of one
//! request. With many disks each request is for another one: what it costs to have them shows.

use core::hint::black_box;
use core::time::Duration;
use std::time::Instant;

use aoe_host::server::Durability;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use system_tests::frames::{Registers, command, config};
use system_tests::memory_edge::MemoryServer;

const BATCH: u64 = 16;

/// A request of a batch, for one of `disks` disks.
fn frame(kind: &str, number: u8, disks: u8) -> Vec<u8> {
    let slot = number % disks;
    let lba = 60 * u64::from(number);
    match kind {
        "read 8 KiB" => {
            MemoryServer::frame(slot, command::ATA, &Registers::read(lba, 16).with(&[]))
        }
        "write 8 KiB" => {
            let data = [number; 8192];
            MemoryServer::frame(slot, command::ATA, &Registers::write(lba, 16).with(&data))
        }
        "read 1 KiB" => MemoryServer::frame(slot, command::ATA, &Registers::read(lba, 2).with(&[])),
        _ => MemoryServer::frame(slot, command::CONFIG, &config(0, 0, &[])),
    }
}

fn serve(criterion: &mut Criterion) {
    let kinds = ["config query", "read 1 KiB", "read 8 KiB", "write 8 KiB"];
    for (disks, durability) in [
        (1, Durability::Writeback),
        (255, Durability::Writeback),
        (1, Durability::Safe),
        (255, Durability::Safe),
    ] {
        let mut server = MemoryServer::new(disks, durability);
        let mut group = criterion.benchmark_group(format!("serve, {disks} disks, {durability:?}"));
        group.throughput(Throughput::Elements(1));
        for kind in kinds {
            if durability == Durability::Safe && kind != "write 8 KiB" {
                continue; // only writes care
            }
            let frames: Vec<Vec<Vec<u8>>> = (0..=255_u8)
                .map(|number| frame(kind, number, disks))
                .collect::<Vec<_>>()
                .chunks(16)
                .map(<[_]>::to_vec)
                .collect();
            // Every sector is present, and every buffer made.
            for batch in &frames {
                server.turn(batch);
            }
            let mut batches = frames.iter().cycle();
            group.bench_function(kind, |bencher| {
                bencher.iter_custom(|requests| {
                    let rounds = requests.div_ceil(BATCH);
                    let start = Instant::now();
                    for _ in 0..rounds {
                        let batch = batches.next().map_or(&[][..], Vec::as_slice);
                        black_box(server.turn(black_box(batch)));
                    }
                    // The last batch may have been larger than what was asked for.
                    let all = start.elapsed().as_nanos() * u128::from(requests);
                    let asked = all / u128::from((rounds * BATCH).max(1));
                    Duration::from_nanos(u64::try_from(asked).unwrap_or(u64::MAX))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, serve);
criterion_main!(benches);
