//! 20,000 frames that no honest client sends: no panic, no growth, no data lost.

use core::time::Duration;
use std::collections::BTreeMap;

use aoe_host::server::{Durability, GUESTS_MAX, Newcomers};
use system_tests::frames::{BROADCAST, Header, Mac, Registers, command, config};
use system_tests::hostile::LIES;
use system_tests::rng::Rng;
use system_tests::server_sim::{
    Answer, SERVER, World, address, client, disk, export, painted, shared,
};

const FRAMES: u32 = 20_000;
const SECTORS: u64 = 20_000;
const CLIENTS: u8 = 6;
/// Clients that newcomers may become.
const NEWCOMERS: usize = 3;
const LONGEST: usize = 1514;

/// Three clients behind 0.0, where nobody else is answered; three disks of their own at 1.x, bound
/// to their machines; and 2.0, where every newcomer is welcome.
fn world() -> World {
    let mut world = World::new(42, 64);
    world.edge.inline = 60;
    let layer = world.edge.add_base(SECTORS * 512, 42).1;
    let pattern = disk(address(0, 0), "pattern", SECTORS, Durability::Safe);
    world.server.add_export(shared(&pattern, layer, Newcomers::Refuse)).unwrap();
    for n in 0..3 {
        let spec = disk(address(0, 0), &format!("c{n}"), SECTORS, Durability::Safe);
        world.server.add_client(address(0, 0), &[aoe_proto::Mac(client(n))], spec).unwrap();
        let spec = disk(address(1, n), &format!("d{n}"), SECTORS, Durability::Writeback);
        let mut bound = export(&spec, layer);
        bound.macs = vec![aoe_proto::Mac(client(n + 3))];
        world.server.add_export(bound).unwrap();
    }
    let open = disk(address(2, 0), "open", SECTORS, Durability::Safe);
    world.server.add_export(shared(&open, layer, Newcomers::Auto { max: NEWCOMERS })).unwrap();
    world
}

fn home(n: u8) -> aoe_proto::Address {
    if n < 3 { address(0, 0) } else { address(1, n - 3) }
}

/// Clients whose disks must stay as they left them.
#[derive(Default)]
struct Honest {
    written: BTreeMap<(u8, u64), u8>,
}

impl Honest {
    fn work(&mut self, world: &mut World, rng: &mut Rng) {
        let n = rng.byte() % CLIENTS;
        let (lba, paint) = (rng.below(SECTORS), rng.byte());
        world.write(client(n), home(n), lba, &painted(paint, 1));
        self.written.insert((n, lba), paint);
    }

    fn verify(&self, world: &mut World, untouched: &[u8]) {
        for ((n, lba), paint) in &self.written {
            let found = world.read(client(*n), home(*n), *lba, 1);
            assert_eq!(found, painted(*paint, 1), "sector {lba} of client {n}");
        }
        for n in 0..CLIENTS {
            for lba in 0..8 {
                if !self.written.contains_key(&(n, lba)) {
                    let want = &untouched[usize::try_from(lba).unwrap() * 512..][..512];
                    assert_eq!(world.read(client(n), home(n), lba, 1), want, "client {n}, {lba}");
                }
            }
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[usize::try_from(rng.below(of.len() as u64)).unwrap()]
}

/// A machine that nobody knows; different ones with every call.
fn forged(rng: &mut Rng) -> Mac {
    let mut mac = [0x06; 6];
    rng.fill(&mut mac[2..]);
    mac
}

/// A valid request of a stranger.
fn valid(world: &mut World, from: Mac, rng: &mut Rng) -> Vec<u8> {
    let at = pick(rng, &[address(0, 0), address(1, 0), address(1, 2), address(2, 0)]);
    let lba = rng.below(SECTORS - 2);
    let header = |world: &mut World, command| world.header(from, at, command);
    match rng.below(6) {
        0 => header(world, command::CONFIG).with(&config(rng.byte() % 5, 3, b"abc")),
        1 => header(world, command::MAC_MASK).with(&[0, rng.byte() % 2, 0, 0]),
        2 => header(world, command::RESERVE).with(&[rng.byte() % 3, 0]),
        3 => header(world, command::ATA).with(&Registers::read(lba, 2).with(&[])),
        4 => header(world, command::ATA).with(&Registers::write(lba, 2).with(&[0xee; 1024])),
        _ => {
            let trim = Registers { flags: 0x41, features: 1, count: 1, operation: 6, lba: 0 };
            let mut ranges = [0; 512];
            ranges[..8].copy_from_slice(&(lba | (2 << 48)).to_le_bytes());
            header(world, command::ATA).with(&trim.with(&ranges))
        }
    }
}

/// One hostile frame.
fn hostile(world: &mut World, rng: &mut Rng) -> Vec<u8> {
    match rng.below(10) {
        0..4 => {
            let n = rng.byte() % CLIENTS;
            let header = world.header(client(n), home(n), command::ATA);
            pick(rng, LIES).frame(header, SECTORS, rng)
        }
        4 | 5 => {
            let from = forged(rng);
            valid(world, from, rng)
        }
        6 => {
            let from = pick(rng, &[SERVER, BROADCAST, [0; 6], [0x01, 0, 0x5e, 0, 0, 1]]);
            valid(world, from, rng)
        }
        7 => {
            let from = forged(rng);
            let mut frame = valid(world, from, rng);
            for _ in 0..=rng.below(6) {
                let at = 12 + usize::try_from(rng.below(frame.len() as u64 - 12)).unwrap();
                frame[at] ^= 1 << rng.below(8);
            }
            frame.truncate(usize::try_from(14 + rng.below(1500)).unwrap());
            frame
        }
        8 => {
            let mut noise = vec![0; usize::try_from(rng.below(70_000)).unwrap()];
            rng.fill(&mut noise);
            if noise.len() > 20 && rng.below(2) == 0 {
                noise[..6].copy_from_slice(&SERVER);
                noise[6..12].copy_from_slice(&forged(rng));
                noise[12..16].copy_from_slice(&[0x88, 0xa2, 0x10, 0]);
                noise[16..20].copy_from_slice(&[0, 2, 0, rng.byte() % 5]);
            }
            noise
        }
        _ => {
            // Oversized: whatever it says, it says it in more bytes than any link carries.
            let n = rng.byte() % CLIENTS;
            let header = world.header(client(n), home(n), command::ATA);
            let count = 4 + rng.byte() % 252;
            let data = vec![0xee; usize::from(count) * 512];
            Header { from: client(n), ..header }.with(&Registers::write(0, count).with(&data))
        }
    }
}

fn is_decent(answer: &Answer) -> bool {
    let unicast = answer.to[0] & 1 == 0 && answer.to != [0; 6];
    unicast && answer.to != SERVER && answer.frame.len() <= LONGEST
}

#[test]
fn hostile_frames_cost_nothing() {
    let mut world = world();
    let mut rng = Rng::new(4711);
    let mut honest = Honest::default();
    let read = |at: u64| world.read(client(0), address(0, 0), 2 * at, 2);
    let untouched: Vec<u8> = (0..4).flat_map(read).collect();
    for _ in 0..50 {
        honest.work(&mut world, &mut rng);
    }
    let strings: Vec<_> = (0..CLIENTS).map(|n| world.config(client(n), home(n)).unwrap()).collect();
    let mut answers = 0;
    for number in 0..FRAMES {
        let frame = hostile(&mut world, &mut rng);
        world.deliver(&frame);
        if rng.below(3) == 0 {
            world.end_one();
        }
        let sent = core::mem::take(&mut world.answers);
        assert!(sent.iter().all(is_decent), "{sent:?}");
        answers += sent.len();
        if number % 100 == 0 {
            honest.work(&mut world, &mut rng);
            world.now += Duration::from_millis(50);
        }
    }
    // What is kept does not follow the traffic.
    let totals = world.server.totals();
    assert!(totals.buffers <= 400, "{totals:?}");
    assert!(world.server.status().count() <= 6 + NEWCOMERS + GUESTS_MAX);
    assert!(world.server.unknown().count() <= 2 * GUESTS_MAX);
    assert_eq!(world.edge.files(), usize::from(CLIENTS) + NEWCOMERS);
    assert!(answers > 1000 && totals.ignored > 5000, "{answers} answers, {totals:?}");
    // And everybody is served as before.
    honest.verify(&mut world, &untouched);
    for (n, before) in (0..CLIENTS).zip(strings) {
        let now = world.config(client(n), home(n)).unwrap();
        assert_eq!(now.config_string(), before.config_string());
    }
    world.drain();
    assert!(world.server.is_drained());
    world.edge.check().unwrap();
}

#[test]
fn a_flood_of_forged_machines_is_bounded() {
    let mut world = world();
    let mut rng = Rng::new(99);
    let mut honest = Honest::default();
    honest.work(&mut world, &mut rng);
    for number in 0..FRAMES {
        let from = forged(&mut rng);
        let shelf = if number % 2 == 0 { 2 } else { 0 };
        let header = world.header(from, address(shelf, 0), command::CONFIG);
        world.now += Duration::from_micros(10);
        world.deliver(&header.with(&config(0, 0, &[])));
    }
    assert_eq!(world.server.status().count(), 6 + GUESTS_MAX);
    assert_eq!(world.server.unknown().count(), GUESTS_MAX);
    assert!(world.edge.reports.len() <= GUESTS_MAX, "{} lines", world.edge.reports.len());
    // A machine that exists is served in the middle of it.
    world.write(client(200), address(2, 0), 3, &painted(1, 1));
    assert_eq!(world.read(client(200), address(2, 0), 3, 1), painted(1, 1));
    assert!(world.config(client(201), address(0, 0)).is_none());
    assert!(world.server.unknown().any(|u| u.mac.0 == client(201)), "and listed");
    for ((n, lba), paint) in &honest.written {
        assert_eq!(world.read(client(*n), home(*n), *lba, 1), painted(*paint, 1));
    }
}
