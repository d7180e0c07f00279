//! Work whose instructions are counted: run by `benches/instructions` under valgrind, with a case and
//! a number of times.
//!
//! What a case takes is the difference between two runs of it, divided by the difference of the
//! numbers: what is prepared before costs the same in both.
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has to stop")]

use core::hint::black_box;

use aoe_host::server::Durability as ServerDurability;
use aoe_proto::wire::Command;
use aoe_proto::{Address, LinkLimits, Target, TargetConfig};
use benchmarks::chains::{Chain, Pattern};
use benchmarks::frames::{answer, ata, frame};
use cow_core::engine::Durability;
use cow_core::units::Lba;
use system_tests::frames::{Registers, command};
use system_tests::memory_edge::MemoryServer;

/// Sectors of a disk: what one page of metadata describes, and requests of 4 KiB divide.
const SECTORS: u64 = 16_128;
const REQUEST_SECTORS: u64 = 8;
const REQUEST_LEN: usize = 4096;
/// Requests that the server takes at once.
const BATCH: u64 = 16;

type Case = (&'static str, fn(u64));

const CASES: &[Case] = &[
    ("codec, read 8 KiB", |n| codec(&ata(0x24, false, 16), n)),
    ("codec, write 8 KiB", |n| codec(&ata(0x34, true, 16), n)),
    ("codec, config query", |n| codec(&frame(Command::Config, &[0; 8], 0), n)),
    ("codec, identify", |n| codec(&ata(0xec, false, 1), n)),
    ("codec, frame of another target", |n| codec(&foreign(), n)),
    ("look-up, empty overlay", |n| read(1, Pattern::Empty, n)),
    ("look-up, half filled overlay", |n| read(1, Pattern::Half, n)),
    ("look-up, alternating sectors", |n| read(1, Pattern::Alternating, n)),
    ("look-up, 8 empty overlays", |n| read(8, Pattern::Empty, n)),
    ("look-up, 8 half filled overlays", |n| read(8, Pattern::Half, n)),
    ("engine, first write 4 KiB, safe", |n| write(Pattern::Empty, Durability::Safe, n)),
    ("engine, first write 4 KiB, writeback", |n| write(Pattern::Empty, Durability::Writeback, n)),
    ("server, read 4 KiB", |n| serve("read", ServerDurability::Writeback, n)),
    ("server, overwrite 4 KiB, writeback", |n| serve("write", ServerDurability::Writeback, n)),
    ("server, overwrite 4 KiB, safe", |n| serve("write", ServerDurability::Safe, n)),
    ("server, overwrite 4 KiB side by side", |n| serve("run", ServerDurability::Writeback, n)),
];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let (name, times) = (arguments.next(), arguments.next());
    let times = times.and_then(|times| times.parse().ok()).unwrap_or(1);
    match name.as_deref() {
        Some("--list") => CASES.iter().for_each(|(name, _)| println!("{name}")),
        Some(wanted) => {
            let (_, run) = CASES.iter().find(|(name, _)| *name == wanted).expect("such a case");
            run(times);
        }
        // Without valgrind there is nothing to count: whether each of them runs.
        None => CASES.iter().for_each(|(_, run)| run(BATCH)),
    }
}

fn codec(frame: &[u8], times: u64) {
    let address = Address::new(7, 3).expect("no wildcard");
    let link = LinkLimits::for_mtu(9000).expect("a jumbo link");
    let mut target = Target::new(TargetConfig::new(address, 1 << 27)).expect("a valid target");
    let mut buf = vec![0; link.frame_len_max()];
    for _ in 0..times {
        black_box(answer(&mut target, link, black_box(frame), black_box(&mut buf)));
    }
}

fn foreign() -> Vec<u8> {
    let mut frame = ata(0x24, false, 1);
    frame[18] = 4;
    frame
}

/// Positions all over the disk, each once before any comes again.
fn positions() -> impl Iterator<Item = Lba> {
    let count = SECTORS / REQUEST_SECTORS;
    (0..).filter_map(move |n: u64| Lba::new(n * 1021 % count * REQUEST_SECTORS))
}

/// Reads of 4 KiB through a chain: the look-up, the splitting into runs, and copies.
fn read(depth: u32, pattern: Pattern, times: u64) {
    let mut chain = Chain::new(depth, pattern, SECTORS);
    let mut buf = [0; REQUEST_LEN];
    chain.use_it(|driver| {
        for (lba, _) in positions().zip(0..times) {
            driver.read(black_box(lba), black_box(&mut buf)).expect("read");
        }
    });
}

fn write(pattern: Pattern, durability: Durability, times: u64) {
    let mut chain = Chain::new(1, pattern, SECTORS);
    let data = [5; REQUEST_LEN];
    chain.use_with(durability, |driver| {
        for (lba, _) in positions().zip(0..times) {
            driver.write(black_box(lba), black_box(&data)).expect("write");
        }
    });
}

/// Requests in batches, for a disk that holds every sector.
fn serve(kind: &str, durability: ServerDurability, times: u64) {
    let mut server = MemoryServer::new(1, durability);
    let frame = |kind: &str, lba: Lba| {
        let argument = match kind {
            "read" => Registers::read(lba.get(), 8).with(&[]),
            _ => Registers::write(lba.get(), 8).with(&[7; REQUEST_LEN]),
        };
        MemoryServer::frame(0, command::ATA, &argument)
    };
    let batches = |kind: &str| -> Vec<Vec<Vec<u8>>> {
        let side_by_side = (0..256).map(|n| Lba::new(REQUEST_SECTORS * n).expect("small"));
        let lbas: Vec<Lba> =
            if kind == "run" { side_by_side.collect() } else { positions().take(256).collect() };
        lbas.chunks(16).map(|lbas| lbas.iter().map(|lba| frame(kind, *lba)).collect()).collect()
    };
    for batch in batches(if kind == "read" { "write" } else { kind }) {
        server.turn(&batch);
    }
    let batches = batches(kind);
    for batch in batches.iter().cycle().take(usize::try_from(times / BATCH).unwrap_or(0)) {
        black_box(server.turn(black_box(batch)));
    }
}
