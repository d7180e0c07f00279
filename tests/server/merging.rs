//! Requests that come again while their first copy is under way: executed once, answered as often as
//! somebody may wait. [AoE 9]

use aoe_host::server::{Durability, Newcomers};
use cow_core::engine::{IoFailure, Kind};
use system_tests::frames::{Header, Registers, command};
use system_tests::server_sim::{
    Answer, SERVER, World, address, client, disk, export, painted, shared,
};

const SECTORS: u64 = 40_000;
const FLUSH: Registers = Registers { flags: 0x40, features: 0, count: 0, operation: 0xea, lba: 0 };

/// A disk for everybody at 0.0, which holds sector 1000 already; what is done from here on ends when
/// the test says so.
pub(super) fn world(durability: Durability) -> World {
    let mut world = World::new(7, 64);
    world.server.link_changed(0, aoe_proto::Mac(SERVER), 9000);
    let layer = world.edge.add_base(SECTORS * 512, 7).1;
    let spec = disk(address(0, 0), "one", SECTORS, durability);
    world.server.add_export(export(&spec, layer)).unwrap();
    world.write(client(1), address(0, 0), 1000, &painted(0, 1));
    world.edge.inline = 0;
    world.edge.started.clear();
    world
}

fn header(world: &mut World) -> Header {
    world.header(client(1), address(0, 0), command::ATA)
}

/// Sends without waiting; the tag.
fn send(world: &mut World, registers: Registers, data: &[u8]) -> u32 {
    let header = header(world);
    world.deliver(&header.with(&registers.with(data)));
    header.tag
}

pub(super) fn started(world: &World, kind: &str) -> u64 {
    world.edge.started.get(kind).copied().unwrap_or(0)
}

fn merged(world: &World) -> u64 {
    world.server.status().map(|disk| disk.merged).sum()
}

pub(super) fn tags(answers: &[Answer]) -> Vec<u32> {
    let mut tags: Vec<_> = answers.iter().map(Answer::tag).collect();
    tags.sort_unstable();
    tags
}

/// Lets everything end but syncs, until only one of those is under way.
fn until_sync(world: &mut World) {
    while let Some(at) = world.edge.held.iter().position(|h| h.operation.kind != Kind::Sync) {
        let completion = world.edge.end(at);
        world.server.complete(&completion);
        world.pump();
    }
    assert_eq!(world.edge.held.len(), 1, "{:?}", world.edge.held);
}

fn read(world: &mut World, lba: u64, count: u8) -> Vec<u8> {
    world.edge.inline = 100;
    world.read(client(1), address(0, 0), lba, count)
}

/// What one write costs.
fn cost_of_one() -> (u64, u64) {
    let mut world = world(Durability::Safe);
    let tag = send(&mut world, Registers::write(5, 2), &painted(1, 2));
    assert_eq!(tags(&world.settle()), [tag]);
    (started(&world, "write"), started(&world, "sync"))
}

/// The Linux initiator looks every 100 ms, and sends again under a new tag; of the answers it takes
/// that with its latest tag.
#[test]
fn a_slow_sync_breeds_no_storm() {
    let mut world = world(Durability::Safe);
    let mut sent = vec![send(&mut world, Registers::write(5, 2), &painted(1, 2))];
    until_sync(&mut world);
    for _ in 0..10 {
        sent.push(send(&mut world, Registers::write(5, 2), &painted(1, 2)));
    }
    assert_eq!(world.server.status().next().unwrap().in_flight, 1);
    assert!(world.server.totals().buffers <= 3, "{:?}", world.server.totals());
    let answers = world.settle();
    assert_eq!((started(&world, "write"), started(&world, "sync")), cost_of_one());
    assert_eq!(tags(&answers), sent, "whoever waits is answered, under its tag");
    assert!(answers.iter().all(Answer::is_ok));
    assert_eq!(merged(&world), 10);
    // It is over: the next one is a request by itself.
    let later = send(&mut world, Registers::write(5, 2), &painted(1, 2));
    assert_eq!(tags(&world.settle()), [later]);
    assert_eq!(merged(&world), 10);
    assert_eq!(read(&mut world, 5, 2), painted(1, 2));
}

/// A whole window of writes comes again, in order and in disorder.
#[test]
fn a_window_that_comes_again_costs_nothing() {
    let mut world = world(Durability::Safe);
    let write = |world: &mut World, n: u64| {
        send(world, Registers::write(3 * n, 2), &painted(u8::try_from(n).unwrap(), 2))
    };
    let mut sent: Vec<u32> = (0..60).map(|n| write(&mut world, n)).collect();
    until_sync(&mut world);
    let before = world.edge.started.clone();
    sent.extend((0..60).map(|n| write(&mut world, n)));
    sent.extend((0..60).rev().map(|n| write(&mut world, n)));
    assert_eq!((world.edge.started.clone(), merged(&world)), (before, 120));
    let answers = world.settle();
    assert_eq!(tags(&answers), sent);
    for n in 0..60 {
        assert_eq!(read(&mut world, 3 * n, 2), painted(u8::try_from(n).unwrap(), 2));
    }
}

/// Boot ROMs and Windows initiators send again under the same tag: that is one request.
#[test]
fn the_same_tag_is_answered_once() {
    let mut world = world(Durability::Writeback);
    for (registers, data) in [
        (Registers::write(5, 2), painted(1, 2)),
        (Registers::read(5, 2), vec![]),
        (Registers { operation: 0x42, ..Registers::read(5, 200) }, vec![]),
        (FLUSH, vec![]),
    ] {
        let before = merged(&world);
        let header = header(&mut world);
        let frame = header.with(&registers.with(&data));
        (0..5).for_each(|_| world.deliver(&frame));
        let answers = world.settle();
        assert_eq!(tags(&answers), [header.tag], "{registers:?}");
        assert_eq!(merged(&world) - before, 4, "{registers:?}");
        // Copies under another tag are answered once each, however often they come.
        if registers == FLUSH {
            continue; // another tag is another flush, which may have more to cover
        }
        let [first, other] = [(); 2].map(|()| self::header(&mut world));
        for header in [&first, &other, &other, &first, &other] {
            world.deliver(&header.with(&registers.with(&data)));
        }
        assert_eq!(tags(&world.settle()), [first.tag, other.tag], "{registers:?}");
    }
    assert_eq!(read(&mut world, 5, 2), painted(1, 2));
}

/// Tags come again for something else, and the same place is asked for again on purpose.
#[test]
fn what_is_not_the_same_is_executed() {
    let mut world = world(Durability::Safe);
    let tag = header(&mut world);
    let frames = [
        Registers::write(5, 2).with(&painted(1, 2)),
        Registers::write(5, 2).with(&painted(2, 2)),
        Registers::write(6, 1).with(&painted(3, 1)),
        Registers::write(7, 2).with(&painted(3, 2)),
        Registers::read(5, 1).with(&[]),
        Registers::read(5, 2).with(&[]),
        Registers { operation: 0x42, ..Registers::read(5, 2) }.with(&[]),
        Registers { operation: 0x3d, ..Registers::write(7, 2) }.with(&painted(4, 2)),
        FLUSH.with(&[]),
    ];
    for frame in &frames {
        world.deliver(&tag.with(frame));
    }
    let answers = world.settle();
    assert_eq!((answers.len(), merged(&world)), (frames.len(), 0));
    let reads: Vec<&[u8]> = answers.iter().map(Answer::data).filter(|d| d.len() > 60).collect();
    let now = [painted(2, 1), painted(3, 1)].concat();
    assert!(reads.len() == 2 && reads.iter().all(|data| now.starts_with(data)));
    assert_eq!(read(&mut world, 5, 4), [now, painted(4, 2)].concat());
}

/// Copies keep their place among requests that overlap: one that comes after a change is not taken
/// for one that came before it.
#[test]
fn a_change_in_between_parts_copies() {
    for seed in 0..20 {
        let mut world = world(Durability::Safe);
        world.dice = cow_core::fault::Dice::new(seed);
        let one = send(&mut world, Registers::write(5, 2), &painted(1, 2));
        let first = send(&mut world, Registers::read(5, 2), &[]);
        // A read in between parts nothing.
        let copy = send(&mut world, Registers::write(5, 2), &painted(1, 2));
        assert_eq!(merged(&world), 1);
        let two = send(&mut world, Registers::write(6, 3), &painted(2, 3));
        let second = send(&mut world, Registers::read(5, 2), &[]);
        let again = send(&mut world, Registers::read(5, 2), &[]);
        assert_eq!(merged(&world), 2, "the second read with the third, not with the first");
        let back = send(&mut world, Registers::write(5, 2), &painted(1, 2));
        let third = send(&mut world, Registers::read(5, 2), &[]);
        assert_eq!(merged(&world), 2);
        let answers = world.settle();
        assert_eq!(tags(&answers), [one, first, copy, two, second, again, back, third]);
        let data = |tag| answers.iter().find(|a| a.tag() == tag).unwrap().data().to_vec();
        assert_eq!(data(first), painted(1, 2), "seed {seed}");
        let between = [painted(1, 1), painted(2, 1)].concat();
        assert_eq!((data(second), data(again)), (between.clone(), between), "seed {seed}");
        assert_eq!(data(third), painted(1, 2), "seed {seed}");
        assert_eq!(read(&mut world, 5, 4), [painted(1, 2), painted(2, 3)[512..].to_vec()].concat());
    }
}

#[test]
fn a_trim_in_between_parts_copies() {
    let mut world = world(Durability::Safe);
    send(&mut world, Registers::write(5, 1), &painted(1, 1));
    let mut ranges = vec![0; 512];
    // The second range is the one that counts.
    for (entry, lba) in ranges.chunks_mut(8).zip([300_u64, 5]) {
        entry.copy_from_slice(&(lba | (1 << 48)).to_le_bytes());
    }
    let trim = Registers { flags: 0x41, features: 1, count: 1, operation: 6, lba: 0 };
    send(&mut world, trim, &ranges);
    send(&mut world, Registers::write(5, 1), &painted(1, 1));
    assert_eq!((world.settle().len(), merged(&world)), (3, 0));
    assert_eq!(read(&mut world, 5, 1), painted(1, 1));
}

/// A write that must be durable is not answered with one that need not be.
#[test]
fn a_durable_copy_of_a_plain_write_is_executed() {
    let mut world = world(Durability::Writeback);
    let fua = Registers { operation: 0x3d, ..Registers::write(5, 1) };
    send(&mut world, Registers::write(5, 1), &painted(1, 1));
    send(&mut world, fua, &painted(1, 1));
    assert_eq!(merged(&world), 0);
    // The other way about the answer says more than was asked for.
    send(&mut world, Registers::write(5, 1), &painted(1, 1));
    assert_eq!(merged(&world), 1);
    assert_eq!(world.settle().len(), 3);
    assert!(started(&world, "sync") > 0);
}

#[test]
fn copies_share_the_failure_too() {
    let mut world = world(Durability::Safe);
    let mut sent = vec![send(&mut world, Registers::write(5, 2), &painted(1, 2))];
    sent.push(send(&mut world, Registers::write(5, 2), &painted(1, 2)));
    let mut completion = world.edge.end(0);
    completion.result = Err(IoFailure::Full);
    world.server.complete(&completion);
    let answers = world.settle();
    assert_eq!(tags(&answers), sent);
    for answer in &answers {
        assert_eq!((answer.registers(), answer.residue()), ((0x61, 0x04), 2));
    }
}

/// Nothing that may have been read from a layer that is being changed leaves, in copies neither.
#[test]
fn a_suspended_read_is_dropped_with_its_copies() {
    let mut world = world(Durability::Safe);
    for _ in 0..3 {
        send(&mut world, Registers::read(5, 2), &[]);
    }
    world.server.suspend(address(0, 0), true);
    assert!(world.settle().is_empty());
    world.server.suspend(address(0, 0), false);
    let status = world.server.status().next().unwrap();
    assert_eq!((status.merged, status.dropped), (2, 3));
}

/// The Linux initiator sends again through another of its interfaces.
#[test]
fn copies_of_other_interfaces_are_answered_where_they_came_from() {
    let mut world = World::new(7, 64);
    let layer = world.edge.add_base(SECTORS * 512, 7).1;
    let at = address(0, 0);
    let spec = disk(at, "many", SECTORS, Durability::Safe);
    world.server.add_export(shared(&spec, layer, Newcomers::Refuse)).unwrap();
    let macs = [client(1), client(2)].map(aoe_proto::Mac);
    world.server.add_client(at, &macs, disk(at, "two", SECTORS, Durability::Safe)).unwrap();
    world.edge.inline = 0;
    let argument = Registers::read(5, 2).with(&[]);
    let headers = [1, 2, 1].map(|n| world.header(client(n), at, command::ATA));
    for header in &headers {
        world.deliver(&header.with(&argument));
    }
    assert_eq!((started(&world, "read"), merged(&world)), (1, 2));
    let answers = world.settle();
    let to = |tag| answers.iter().find(|a| a.tag() == tag).unwrap();
    for header in &headers {
        assert_eq!(to(header.tag).to, header.from);
        assert_eq!(to(header.tag).data(), to(headers[0].tag).data());
    }
    assert_eq!(answers.len(), 3);
}

/// Another client's disk is another disk.
#[test]
fn the_same_request_of_another_client_is_executed() {
    let mut world = World::new(7, 64);
    let layer = world.edge.add_base(SECTORS * 512, 7).1;
    let at = address(0, 0);
    let spec = disk(at, "many", SECTORS, Durability::Safe);
    world.server.add_export(shared(&spec, layer, Newcomers::Refuse)).unwrap();
    for n in [1, 2] {
        let spec = disk(at, &format!("{n}"), SECTORS, Durability::Safe);
        world.server.add_client(at, &[aoe_proto::Mac(client(n))], spec).unwrap();
    }
    world.edge.inline = 0;
    for n in [1, 2] {
        let header = world.header(client(n), at, command::ATA);
        world.deliver(&header.with(&Registers::write(5, 1).with(&painted(1, 1))));
    }
    assert_eq!((world.settle().len(), merged(&world)), (2, 0));
}

/// Whoever sends without end has the latest copies answered.
#[test]
fn copies_are_bounded() {
    let mut world = world(Durability::Safe);
    let sent: Vec<u32> =
        (0..100).map(|_| send(&mut world, Registers::write(5, 2), &painted(1, 2))).collect();
    let answered = tags(&world.settle());
    assert_eq!(answered.len(), 17);
    assert_eq!((answered[0], &answered[1..]), (sent[0], &sent[84..]));
    let status = world.server.status().next().unwrap();
    assert_eq!((status.merged, status.dropped), (99, 83));
    assert_eq!(world.server.totals().overrun, 83);
}

/// A client that takes long to be given its overlay sends its first write again and again.
#[test]
fn copies_wait_for_the_overlay_with_the_first() {
    let mut world = World::new(7, 64);
    let layer = world.edge.add_base(SECTORS * 512, 7).1;
    let spec = disk(address(0, 0), "one", SECTORS, Durability::Safe);
    world.server.add_export(export(&spec, layer)).unwrap();
    world.edge.creation = system_tests::server_sim::Creation::Held;
    let sent: Vec<u32> =
        (0..5).map(|_| send(&mut world, Registers::write(5, 2), &painted(1, 2))).collect();
    assert_eq!(merged(&world), 4);
    world.make_overlays();
    assert_eq!(tags(&world.settle()), sent);
}
