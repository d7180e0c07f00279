//! Several workers are one server: whatever is asked, and to whichever worker the kernel brings it,
//! all of them together answer what a single one would.

use core::time::Duration;

use aoe_host::server::{Durability, Newcomers};
use aoe_host::share::Share;
use cow_core::fault::Dice;
use system_tests::frames::{BROADCAST, Header, Mac, Registers, command, config};
use system_tests::server_sim::{
    Answer, SERVER, SimEdge, World, address, client, disk, export, painted, shared,
};

const SECTORS: u64 = 20_000;
const SAFE: Durability = Durability::Safe;
/// Addresses with one disk for everybody, with a disk for each registered client, and for newcomers.
const EVERYBODY: [(u16, u8); 4] = [(0, 0), (0, 1), (3, 0), (9, 7)];
const CLIENTS: (u16, u8) = (0, 2);
const NEWCOMERS: (u16, u8) = (3, 1);
/// Registered at [`CLIENTS`]: a name and its machine's addresses.
const REGISTERED: [(&str, &[u8]); 4] =
    [("ada", &[1, 11]), ("bob", &[2]), ("eve", &[3, 13, 23, 33]), ("max", &[4])];

/// The workers of one server.
struct Crew {
    workers: Vec<World>,
    /// Frames that were handed over.
    handed: usize,
}

impl Crew {
    fn new(count: usize, seed: u64) -> Self {
        let workers = (0..count).map(|number| worker(Share::new(number, count).unwrap(), seed));
        Self { workers: workers.collect(), handed: 0 }
    }

    /// Brings a frame to `first`, lets everything end, and gives all answers in a fixed order.
    fn ask(&mut self, first: usize, link: usize, frame: &[u8]) -> Vec<Answer> {
        self.workers[first].deliver_on(link, frame);
        let handed = core::mem::take(&mut self.workers[first].edge.handed);
        self.handed += handed.len();
        for (to, link, frame) in handed {
            assert_ne!(to, first, "to itself");
            let world = &mut self.workers[to];
            world.server.receive_handed(link, &frame, &mut world.edge);
            world.pump();
            assert!(world.edge.handed.is_empty(), "handed on");
        }
        self.settle()
    }

    fn settle(&mut self) -> Vec<Answer> {
        let mut answers: Vec<Answer> = self.workers.iter_mut().flat_map(World::settle).collect();
        answers.sort_by(|a, b| (a.link, &a.frame).cmp(&(b.link, &b.frame)));
        answers
    }

    fn each(&mut self, mut act: impl FnMut(&mut World)) {
        self.workers.iter_mut().for_each(&mut act);
    }
}

/// One worker with everything that it has a part of. Overlays lie on media of its own: what was
/// written by another worker it cannot see.
fn worker(share: Share, seed: u64) -> World {
    let mut edge = SimEdge::new(seed);
    let (_, layer) = edge.add_base(SECTORS * 512, 77);
    let mut world = World::sharing(edge, seed, 16, &[], share);
    world.server.add_link(aoe_proto::Mac([2, 0, 0, 0, 0xff, 1]), 9000);
    for (shelf, slot) in EVERYBODY {
        let spec = disk(address(shelf, slot), &format!("{shelf}.{slot}"), SECTORS, SAFE);
        let number = world.server.add_export(export(&spec, layer)).unwrap();
        assert_eq!(number.is_some(), share.owns(spec.target.address, None));
    }
    for ((shelf, slot), newcomers) in
        [(CLIENTS, Newcomers::Refuse), (NEWCOMERS, Newcomers::Auto { max: 100 })]
    {
        let pattern = disk(address(shelf, slot), "pattern", SECTORS, SAFE);
        world.server.add_export(shared(&pattern, layer, newcomers)).unwrap();
    }
    for (name, machine) in REGISTERED {
        let macs: Vec<_> = machine.iter().map(|n| aoe_proto::Mac(client(*n))).collect();
        let at = address(CLIENTS.0, CLIENTS.1);
        let owner = share.owner(at, macs.first().copied());
        if owner == share.number() {
            world.server.add_client(at, &macs, disk(at, name, SECTORS, SAFE)).unwrap();
        } else {
            world.server.set_owner(at, &macs, owner);
        }
    }
    world
}

/// Any request of any machine.
fn any_request(dice: &mut Dice, tag: u32) -> Vec<u8> {
    let mut below = |n: u64| u8::try_from(dice.below(n)).unwrap();
    let machines = [1, 11, 2, 3, 13, 23, 33, 4, 5, 6, 7, 8];
    let from = client(machines[usize::from(below(12))]);
    let addresses = [EVERYBODY[0], EVERYBODY[1], EVERYBODY[2], EVERYBODY[3], CLIENTS, NEWCOMERS];
    let mut at = addresses[usize::from(below(6))];
    if below(12) == 0 {
        at.0 = 0xffff;
    }
    if below(12) == 0 {
        at.1 = 0xff;
    }
    let lba = u64::from(below(64));
    let (command, argument) = match below(12) {
        0..=3 => (command::ATA, Registers::read(lba, 2).with(&[])),
        4..=7 => (command::ATA, Registers::write(lba, 2).with(&painted(below(250), 2))),
        8 => (
            command::ATA,
            Registers { operation: 0xec, count: 1, ..Registers::default() }.with(&[]),
        ),
        9 => (command::CONFIG, config(if below(2) == 0 { 0 } else { 4 }, 3, &[b'a' + below(9); 3])),
        10 => (command::RESERVE, [&[1, 1], &from[..]].concat()),
        _ => (command::CONFIG, config(0, 0, &[])),
    };
    let to = if below(4) == 0 { BROADCAST } else { SERVER };
    let (shelf, slot) = at;
    Header { to, from, version_flags: 0x10, shelf, slot, command, tag }.with(&argument)
}

#[test]
fn several_answer_what_one_would() {
    for count in [2, 3, 5] {
        let (mut one, mut several) = (Crew::new(1, 9), Crew::new(count, 9));
        let mut dice = Dice::new(count as u64);
        let mut answered = 0;
        for tag in 0..3000 {
            let mut frame = any_request(&mut dice, tag);
            let link = usize::from(dice.chance(30));
            if link == 1 && frame[0..6] == SERVER {
                frame[5] = 1;
            }
            // To whom the kernel brings it is any worker.
            let first = usize::try_from(dice.below(count as u64)).unwrap();
            let expected = one.ask(0, link, &frame);
            answered += expected.len();
            assert_eq!(several.ask(first, link, &frame), expected, "frame {tag}: {frame:02x?}");
        }
        assert!(answered > 2000, "{answered} answers");
        assert_eq!(one.handed, 0);
        assert!(several.handed > 1000, "{} handed over", several.handed);
        // Everybody has some of the disks, and nobody has those of others.
        let disks: Vec<usize> = several.workers.iter().map(|w| w.server.status().count()).collect();
        assert!(disks.iter().all(|n| *n > 0), "{disks:?}");
        assert_eq!(disks.iter().sum::<usize>(), one.workers[0].server.status().count());
        let unknown = |crew: &Crew| {
            let of =
                |w: &World| w.server.unknown().map(|u| (u.mac, u.requests)).collect::<Vec<_>>();
            let mut all: Vec<_> = crew.workers.iter().flat_map(of).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(unknown(&several), unknown(&one));
        for crew in [&mut one, &mut several] {
            crew.each(World::drain);
            crew.each(|w| w.edge.check().unwrap());
        }
    }
}

#[test]
fn every_target_is_advertised_once() {
    let (mut one, mut several) = (Crew::new(1, 4), Crew::new(4, 4));
    for crew in [&mut one, &mut several] {
        crew.each(|w| w.server.advertise(None));
    }
    let expected = one.settle();
    assert_eq!(expected.len(), 2 * (4 + 8 + 1));
    assert_eq!(several.settle(), expected);
}

#[test]
fn another_server_is_told_by_whom_it_concerns() {
    for at in [EVERYBODY[1], CLIENTS] {
        let (mut one, mut several) = (Crew::new(1, 4), Crew::new(4, 4));
        let other: Mac = [0x02, 0, 0, 0, 0xee, 0];
        let answer = Header {
            to: client(1),
            from: other,
            version_flags: 0x18,
            shelf: at.0,
            slot: at.1,
            command: command::CONFIG,
            tag: 0,
        };
        let frame = answer.with(&config(0, 0, &[]));
        for crew in [&mut one, &mut several] {
            crew.each(|w| w.now = Duration::from_secs(1));
        }
        let expected = one.ask(0, 0, &frame);
        assert_eq!(expected.len(), 1);
        for first in 0..4 {
            let told = several.ask(first, 0, &frame);
            // Once a minute for each worker that it concerns.
            assert!(told == expected || told.is_empty() && at == EVERYBODY[1], "{told:?}");
        }
        let reports = several.workers.iter().flat_map(|w| &w.edge.reports);
        assert!(reports.filter(|r| r.contains("Duplicate")).count() >= 1);
    }
}

#[test]
fn a_machine_moves_between_workers_and_never_has_two_disks() {
    const COUNT: usize = 3;
    let mut crew = Crew::new(COUNT, 5);
    let at = address(CLIENTS.0, CLIENTS.1);
    let (first, second) = (aoe_proto::Mac(client(2)), aoe_proto::Mac(client(90)));
    let owner = crew.workers[0].server.share().owner(at, Some(first));
    let read = |crew: &mut Crew, tag: u32, worker: usize| {
        let header = Header {
            to: SERVER,
            from: second.0,
            version_flags: 0x10,
            shelf: at.shelf(),
            slot: at.slot(),
            command: command::ATA,
            tag,
        };
        crew.ask(worker, 0, &header.with(&Registers::read(3, 1).with(&[])))
    };
    crew.workers[owner].write(first.0, at, 3, &painted(8, 1));
    for worker in 0..COUNT {
        assert!(read(&mut crew, 1, worker).is_empty(), "a stranger");
    }
    // Who is not the owner learns it first: until the owner has, nobody answers.
    for worker in (0..COUNT).filter(|n| *n != owner) {
        crew.workers[worker].server.set_owner(at, &[second], owner);
    }
    let number =
        crew.workers[owner].server.status().find(|d| d.spec.label == "bob").unwrap().number;
    for worker in (0..COUNT).filter(|n| *n != owner) {
        assert!(read(&mut crew, 2, worker).is_empty(), "not yet");
    }
    crew.workers[owner].server.bind_mac(number, second);
    for worker in 0..COUNT {
        let answers = read(&mut crew, 3, worker);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].data(), painted(8, 1), "bob's disk, brought to worker {worker}");
    }
    // The client goes; its machines are strangers again.
    crew.workers[owner].drain();
    crew.workers[owner].server.remove_disk(number).unwrap();
    crew.each(|w| w.server.forget_owner(&[first, second]));
    for worker in 0..COUNT {
        assert!(read(&mut crew, 4, worker).is_empty());
    }
    let listed = crew.workers.iter().flat_map(|w| w.server.unknown());
    assert_eq!(listed.filter(|u| u.mac == second).count(), 1, "at one worker only");
}
