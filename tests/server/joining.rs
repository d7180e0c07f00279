//! Overlays that get a commit log at their first change: what passes meanwhile, what waits, and what
//! is there afterwards, however it ended.

use aoe_host::server::Durability;
use cow_core::fault::{Dice, Tear};
use system_tests::frames::{Registers, command};
use system_tests::server_sim::{
    Answer, LogPlan, Outcome, Session, SessionPlan, World, address, client, disk, export, painted,
};

const SECTORS: u64 = 40_000;
const LATE: LogPlan = LogPlan { late: true, in_place: 0, failing: 0, breaks_after: None };
const FLUSH: Registers = Registers { flags: 0x40, features: 0, count: 0, operation: 0xea, lba: 0 };

/// Disks 0.0 to 0.`disks`, whose overlays an earlier server left, and their numbers.
fn disks(disks: u8, plan: LogPlan) -> (World, Vec<u32>) {
    let mut world = World::new(7, 64);
    world.edge.plan = Some(plan);
    let (_, layer) = world.edge.add_base(SECTORS * 512, 7);
    let mut add = |slot| {
        let spec = disk(address(0, slot), &format!("disk{slot}"), SECTORS, Durability::Logged);
        let number = world.server.add_export(export(&spec, layer)).unwrap().unwrap();
        world.edge.leave_overlay(&spec);
        let opened = world.edge.open_overlay(number, &spec);
        assert!(world.server.open_overlay(number, opened, &mut world.edge));
        number
    };
    let numbers = (0..disks).map(&mut add).collect();
    (world, numbers)
}

/// Sends without waiting; the tag.
fn send(world: &mut World, slot: u8, registers: Registers, data: &[u8]) -> u32 {
    let header = world.header(client(1), address(0, slot), command::ATA);
    world.deliver(&header.with(&registers.with(data)));
    header.tag
}

fn tags(answers: &[Answer]) -> Vec<u32> {
    answers.iter().map(Answer::tag).collect()
}

/// Registers and data of a TRIM.
fn trim(lba: u64, sectors: u64) -> (Registers, Vec<u8>) {
    let mut data = vec![0; 512];
    data[..8].copy_from_slice(&(lba | sectors << 48).to_le_bytes());
    (Registers { flags: 0x41, features: 1, count: 1, operation: 6, lba: 0 }, data)
}

#[test]
fn reads_pass_an_overlay_that_gets_its_log_and_changes_wait_in_their_order() {
    for (in_place, records) in [(0, 4), (100, 0)] {
        let (mut world, numbers) = disks(1, LogPlan { in_place, ..LATE });
        let before = world.read(client(1), address(0, 0), 0, 2);
        let first = send(&mut world, 0, Registers::write(0, 1), &painted(1, 1));
        assert_eq!(world.edge.joining(), numbers);
        let (registers, data) = trim(0, 1);
        let second = send(&mut world, 0, registers, &data);
        let third = send(&mut world, 0, Registers::write(0, 2), &painted(2, 2));
        let fourth = send(&mut world, 0, Registers::write(0, 1), &painted(3, 1));
        let behind = send(&mut world, 0, Registers::read(0, 2), &[]);
        let beside = send(&mut world, 0, Registers::read(1000, 2), &[]);
        let flush = send(&mut world, 0, FLUSH, &[]);
        let answers = world.settle();
        assert_eq!(tags(&answers), [beside, flush], "what changes nothing passes");
        assert!(answers.iter().all(Answer::is_ok));
        assert_eq!(world.edge.joining(), numbers, "nobody asks twice");

        assert!(world.end_join());
        let answers = world.settle();
        let mut answered = tags(&answers);
        answered.sort_unstable();
        assert_eq!(answered, [first, second, third, fourth, behind]);
        assert!(answers.iter().all(Answer::is_ok));
        let read = answers.iter().find(|a| a.tag() == behind).unwrap();
        let expected = [painted(3, 1), painted(2, 2)[512..].to_vec()].concat();
        assert_eq!(read.data(), expected);
        assert_ne!(read.data(), before);
        assert_eq!(world.edge.names_log(numbers[0]), in_place == 0);
        assert_eq!(world.edge.records(), records, "each change is in the log");
        world.write(client(1), address(0, 0), 5, &painted(9, 1));
        assert!(world.edge.joining().is_empty(), "once is enough");
    }
}

/// What a log is for: the data of a first write and where they are need no sync of the overlay.
#[test]
fn with_its_log_a_write_needs_no_sync_of_the_overlay() {
    for (in_place, syncs) in [(0, 0), (100, 2)] {
        let (mut world, numbers) = disks(1, LogPlan { in_place, ..LogPlan::default() });
        world.write(client(1), address(0, 0), 0, &painted(1, 1));
        world.drain();
        let started = |world: &World| world.edge.started.get("sync").copied().unwrap_or(0);
        let before = started(&world);
        world.write(client(1), address(0, 0), 8, &painted(2, 1));
        assert_eq!(started(&world) - before, syncs);
        assert_eq!(world.edge.names_log(numbers[0]), in_place == 0);
    }
}

#[test]
fn a_server_does_not_end_before_the_overlay_has_its_log() {
    for ended in [LATE, LogPlan { in_place: 100, ..LATE }, LogPlan { failing: 100, ..LATE }] {
        let (mut world, numbers) = disks(2, ended);
        assert!(world.server.is_drained());
        let write = send(&mut world, 0, Registers::write(0, 1), &painted(1, 1));
        for _ in 0..10 {
            world.server.commit_all();
            assert!(world.second().is_empty());
            assert!(!world.server.is_drained() && !world.server.is_settled(numbers[0]));
            assert!(world.server.remove_disk(numbers[0]).is_none());
        }
        assert!(world.server.is_settled(numbers[1]));
        assert!(world.server.remove_disk(numbers[1]).is_some(), "of another disk nothing waits");
        assert!(world.end_join());
        assert_eq!(tags(&world.settle()), [write]);
        world.drain();
        assert!(world.server.remove_disk(numbers[0]).is_some());
    }
}

/// The change that wanted the log is answered before there is one: what is written into the header
/// is under way all the same.
#[test]
fn nor_when_nobody_waits_for_that() {
    let (mut world, numbers) = disks(1, LATE);
    let write = send(&mut world, 0, Registers::write(0, 1), &painted(1, 1));
    world.server.backing_changed(address(0, 0), &mut world.edge);
    let answers = world.settle();
    assert_eq!(tags(&answers), [write]);
    assert!(!answers[0].is_ok());
    world.server.commit_all();
    assert!(!world.server.is_drained() && !world.server.is_settled(numbers[0]));
    assert!(world.server.remove_disk(numbers[0]).is_none());
    assert!(world.end_join());
    world.drain();
    assert!(world.server.remove_disk(numbers[0]).is_some());
}

#[test]
fn an_overlay_that_cannot_get_its_log_takes_no_changes_and_the_others_go_on() {
    let (mut world, numbers) = disks(2, LogPlan { failing: 100, ..LATE });
    let before = world.read(client(1), address(0, 0), 0, 1);
    let write = send(&mut world, 0, Registers::write(0, 1), &painted(1, 1));
    let read = send(&mut world, 0, Registers::read(0, 1), &[]);
    assert!(world.end_join());
    let answers = world.settle();
    let answer = |tag| answers.iter().find(|a: &&Answer| a.tag() == tag).unwrap();
    assert!(!answer(write).is_ok());
    assert_eq!(answer(read).data(), before);
    for n in 0..3 {
        let later = send(&mut world, 0, Registers::write(n, 1), &painted(1, 1));
        let (registers, data) = trim(n, 1);
        let trim = send(&mut world, 0, registers, &data);
        let answers = world.second();
        assert_eq!(tags(&answers), [later, trim]);
        assert!(answers.iter().all(|a| !a.is_ok()));
        assert!(world.edge.joining().is_empty(), "it is not tried again");
        assert_eq!(world.read(client(1), address(0, 0), 0, 1), before);
    }
    let told = world.edge.reports.iter().filter(|r| r.starts_with("ReadOnly"));
    assert_eq!(told.count(), 1, "{:?}", world.edge.reports);

    world.edge.plan = Some(LogPlan::default());
    world.write(client(1), address(0, 1), 0, &painted(2, 1));
    assert_eq!(world.read(client(1), address(0, 1), 0, 1), painted(2, 1));
    assert!(world.edge.names_log(numbers[1]));
    world.drain();
    world.edge.check().unwrap();
}

/// Any session of several clients: overlays that are made with their log and that get it later, by all
/// ways that this can end.
fn plan(seed: u64) -> SessionPlan {
    let mut dice = Dice::new(seed);
    let mut plan = SessionPlan::new(Durability::Logged);
    plan.inline = [0, 50, 90][usize::try_from(dice.below(3)).unwrap()];
    plan.shared = dice.chance(50);
    plan.slow_creation = dice.chance(25);
    plan.clients = 4;
    plan.requests = 120;
    plan.sectors = [40_000, 17, 16_129][usize::try_from(dice.below(3)).unwrap()];
    plan.log = Some(LogPlan {
        late: dice.chance(75),
        in_place: [0, 40][usize::from(dice.chance(40))],
        failing: [0, 25][usize::from(dice.chance(40))],
        breaks_after: dice.chance(15).then(|| usize::try_from(dice.below(80)).unwrap()),
    });
    plan
}

#[test]
fn clients_read_what_they_wrote_while_overlays_get_their_log() {
    let mut reads = 0;
    for seed in 0..120 {
        let mut session = Session::new(seed, plan(seed));
        session.run(None).and_then(|()| session.verify()).unwrap_or_else(|e| panic!("{e}"));
        session.stop().unwrap_or_else(|e| panic!("{e}"));
        reads += session.reads_amid_joins;
    }
    assert!(reads > 100, "{reads} reads passed");
}

#[test]
fn nothing_is_lost_over_several_lives() {
    // Stops and ends that met some overlay on its way to a log, and overlays that had one.
    let mut met = [0; 3];
    for seed in 0..100 {
        let mut dice = Dice::new(seed ^ 0x11fe);
        let mut session = Session::new(seed, plan(seed));
        for life in 0..4 {
            let steps = usize::try_from(dice.below(300)).unwrap();
            session.run(Some(steps)).unwrap_or_else(|e| panic!("life {life}: {e}"));
            let (outcome, orderly) = match dice.below(10) {
                0..3 => (Outcome::Kill(Tear::Sectors), false),
                3..7 => (Outcome::PowerCut(Tear::Sectors), false),
                _ => (Outcome::PowerCut(Tear::Sectors), true),
            };
            let edge = &session.world.edge;
            met[usize::from(orderly)] += usize::from(!edge.joining().is_empty());
            met[2] += usize::from(edge.records() > 0);
            let ended = if orderly { session.stop() } else { Ok(()) };
            let torn = Outcome::PowerCut(Tear::Anywhere);
            let luck = seed ^ life << 32;
            session = ended
                .and_then(|()| if life == 1 { session.restart(torn, luck) } else { Ok(()) })
                .and_then(|()| session.next_life(outcome, luck))
                .unwrap_or_else(|e| panic!("life {life}: {e}"));
        }
        session.run(None).and_then(|()| session.verify()).unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(met.iter().all(|count| *count > 20), "the test shows nothing: {met:?}");
}

#[test]
fn lost_records_are_noticed() {
    let caught = |drops_notes: bool| {
        (0..20).any(|seed| {
            let log = Some(LogPlan::default());
            let plan = SessionPlan { log, drops_notes, ..SessionPlan::new(Durability::Logged) };
            let mut session = Session::new(seed, plan);
            session.run(Some(150)).unwrap();
            session.restart(Outcome::Kill(Tear::Sectors), seed).is_err()
        })
    };
    assert!(!caught(false));
    assert!(caught(true), "the test cannot fail");
}
