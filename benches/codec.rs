//! What a frame costs without storage: parse, decide, emit.
//!
//! `cargo bench -p benchmarks --bench codec`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

use core::hint::black_box;

use aoe_proto::wire::Command;
use aoe_proto::{Address, LinkLimits, Target, TargetConfig};
use benchmarks::frames::{answer, ata, frame};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn codec(criterion: &mut Criterion) {
    let address = Address::new(7, 3).expect("no wildcard");
    let link = LinkLimits::for_mtu(9000).expect("a jumbo link");
    let mut target = Target::new(TargetConfig::new(address, 1 << 27)).expect("a valid target");
    let mut buf = vec![0; link.frame_len_max()];
    let mut group = criterion.benchmark_group("parse+handle+emit");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in [
        ("read 8 KiB", ata(0x24, false, 16)),
        ("write 8 KiB", ata(0x34, true, 16)),
        ("identify", ata(0xec, false, 1)),
        ("config read", frame(Command::Config, &[0; 8], 0)),
        ("read past the end", {
            let mut frame = ata(0x24, false, 1);
            frame[33] = 0xff;
            frame
        }),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| answer(&mut target, link, black_box(&frame), black_box(&mut buf)));
        });
    }
    group.bench_function("another target's frame", |bencher| {
        let mut frame = ata(0x24, false, 1);
        frame[18] = 4;
        bencher.iter(|| answer(&mut target, link, black_box(&frame), black_box(&mut buf)));
    });
    group.bench_function("masked by a full list", |bencher| {
        let state = {
            let mut bytes = vec![0; 8 + 6 * 185];
            bytes[..8].copy_from_slice(b"AoE\x01\0\0\xb9\0");
            bytes
        };
        target.state_mut().load(&state).expect("a valid state");
        let frame = ata(0x24, false, 1);
        bencher.iter(|| answer(&mut target, link, black_box(&frame), black_box(&mut buf)));
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
