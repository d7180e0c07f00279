//! What a frame costs without storage: parse, decide, emit.
//!
//! `cargo bench -p benchmarks --bench codec`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

use core::hint::black_box;

use aoe_proto::wire::{AddressPattern, AtaArg, AtaFlags, Command, Header, Tag};
use aoe_proto::{Action, Address, Incoming, LinkLimits, Mac, Target, TargetConfig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const CLIENT: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);

fn frame(command: Command, argument: &[u8], payload_len: usize) -> Vec<u8> {
    let header = Header {
        dst: OWN,
        src: CLIENT,
        version: 1,
        response: false,
        error: None,
        address: AddressPattern { shelf: 7, slot: 3 },
        command,
        tag: Tag([1, 2, 3, 4]),
    };
    let mut frame = Vec::from(header.to_bytes());
    frame.extend_from_slice(argument);
    frame.resize((frame.len() + payload_len).max(60), 0);
    frame
}

fn ata(opcode: u8, write: bool, count: u8) -> Vec<u8> {
    let flags = if write { AtaFlags::EXTENDED.union(AtaFlags::WRITE) } else { AtaFlags::EXTENDED };
    let lba = AtaArg::lba_registers(4096);
    let arg = AtaArg { flags, count, command_status: opcode, lba, error_feature: 0 };
    frame(Command::Ata, &arg.to_bytes(), if write { usize::from(count) * 512 } else { 0 })
}

/// Answers as a host does, but leaves the data alone.
fn answer(target: &mut Target, link: LinkLimits, frame: &[u8], buf: &mut [u8]) -> usize {
    let Ok(request) = Incoming::parse(frame, OWN) else {
        return 0;
    };
    let sent = match target.handle(&request, link) {
        Action::Ignore(_) => Ok(0),
        Action::Reply(reply) => target.emit(&reply, buf),
        Action::Write { data, reply, .. } => {
            black_box(data);
            reply.emit_ok(buf)
        }
        Action::Read { reply, .. }
        | Action::Verify { reply, .. }
        | Action::Flush { reply }
        | Action::Discard { reply, .. } => reply.emit_ok(buf),
    };
    sent.unwrap_or(0)
}

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
