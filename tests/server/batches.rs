//! Batches of safe writes overlap: while the sync of one is under way the next is written, and the
//! sync that ends one is the first of the next. Counted.

use aoe_host::server::Durability;
use system_tests::frames::{Registers, command};
use system_tests::server_sim::{World, address, client, painted};

use super::merging::{started, tags, world};

/// Sends writes that arrive together; their tags.
fn together(world: &mut World, writes: impl Iterator<Item = (u64, Vec<u8>)>) -> Vec<u32> {
    let mut sent = Vec::new();
    for (lba, data) in writes {
        let header = world.header(client(1), address(0, 0), command::ATA);
        let count = u8::try_from(data.len() / 512).unwrap();
        let frame = header.with(&Registers::write(lba, count).with(&data));
        world.server.receive(0, &frame, &mut world.edge);
        sent.push(header.tag);
    }
    world.pump();
    sent
}

/// A batch of first writes to places of its own.
fn batch(world: &mut World, number: u8) -> Vec<u32> {
    let lba = 100 * u64::from(number);
    together(world, (0..8).map(|n| (lba + 5 * n, painted(number, 2))))
}

/// Ends the sync that is under way; who is answered then.
fn end_sync(world: &mut World) -> Vec<u32> {
    assert_eq!(world.edge.held.len(), 1);
    let completion = world.edge.end(0);
    world.server.complete(&completion);
    world.pump();
    tags(&core::mem::take(&mut world.answers))
}

/// All but syncs ends at once.
fn slow_syncs(durability: Durability) -> World {
    let mut world = world(durability);
    (world.edge.inline, world.edge.slow_syncs) = (100, true);
    world
}

#[test]
fn a_batch_is_written_while_the_sync_of_the_last_one_runs() {
    let mut world = slow_syncs(Durability::Safe);
    let counts = |world: &World| (started(world, "write"), started(world, "sync"));
    let first = batch(&mut world, 1);
    assert_eq!(counts(&world), (8, 1), "written, and being synced; the page is not written yet");
    let second = batch(&mut world, 2);
    assert_eq!(counts(&world), (16, 1), "not held up");
    // The page of the first goes out, and one sync makes that and the data of the second durable.
    assert!(end_sync(&mut world).is_empty());
    assert_eq!(counts(&world), (17, 2));
    let third = batch(&mut world, 3);
    assert_eq!(end_sync(&mut world), first, "durable, and nothing else is");
    assert_eq!(counts(&world), (26, 3));
    assert_eq!(end_sync(&mut world), second);
    assert_eq!(end_sync(&mut world), third);
    // Three batches by themselves would have been six syncs.
    assert_eq!(counts(&world), (27, 4));
    assert!(world.edge.held.is_empty());
    world.edge.slow_syncs = false;
    for number in 1..=3_u8 {
        let lba = 100 * u64::from(number);
        assert_eq!(world.read(client(1), address(0, 0), lba, 2), painted(number, 2));
    }
}

#[test]
fn overwrites_cost_a_sync_a_batch_and_overlap_too() {
    let mut world = slow_syncs(Durability::Safe);
    let places = |half: u64| (0..8).map(move |n| 100 + 5 * n + half);
    world.edge.slow_syncs = false;
    batch(&mut world, 1);
    world.answers.clear();
    world.edge.slow_syncs = true;
    world.edge.started.clear();
    let mut waiting = together(&mut world, places(0).map(|lba| (lba, painted(9, 1))));
    for round in 1..6 {
        // Beside what is being synced.
        let next = together(&mut world, places(round % 2).map(|lba| (lba, painted(9, 1))));
        assert_eq!((started(&world, "write"), started(&world, "sync")), (8 * (round + 1), round));
        assert_eq!(end_sync(&mut world), waiting, "round {round}");
        waiting = next;
    }
}

/// Held back for those that follow them, writes belong to the batch that they would have belonged
/// to: no sync more, and nothing is left behind.
#[test]
fn runs_change_no_batch() {
    for (step, runs) in [(2, 1), (5, 0)] {
        let mut world = world(Durability::Safe);
        world.edge.inline = 100;
        together(&mut world, (0..8).map(|n| (300 + step * n, painted(3, 2))));
        assert_eq!(world.answers.len(), 8);
        let counts = ["write", "run", "sync"].map(|kind| started(&world, kind));
        assert_eq!(counts, [8 + 1, runs, 2]);
    }
}

/// A write that does not follow ends a run, and order among overlapping requests stays.
#[test]
fn what_does_not_follow_ends_a_run() {
    let mut world = world(Durability::Writeback);
    world.edge.inline = 100;
    let four = |lba: u64, paint: u8| (0..4).map(move |n| (lba + 2 * n, painted(paint, 2)));
    // The third four are over the first, and behind them in time.
    let writes = four(10, 1).chain(four(500, 2)).chain(four(11, 3));
    // Twenty that follow each other are more than one run.
    let writes = writes.chain((0..20).map(|n| (600 + n, painted(4, 1))));
    together(&mut world, writes);
    assert_eq!(world.answers.len(), 32);
    assert_eq!(started(&world, "run"), 2 + 1 + 2);
    let read = |world: &mut World, lba, count| world.read(client(1), address(0, 0), lba, count);
    let over = vec![painted(3, 2); 4].concat();
    assert_eq!(read(&mut world, 10, 9), [&painted(1, 1)[..], &over].concat());
    assert_eq!(read(&mut world, 500, 8), vec![painted(2, 2); 4].concat());
    for lba in [600, 610] {
        assert_eq!(read(&mut world, lba, 10), vec![painted(4, 1); 10].concat());
    }
}
