//! What becomes of requests: order, limits, retransmissions, failures, every kind once.

use aoe_host::server::{Durability, FRAMES_MAX, WRITEBACK_INTERVAL};
use cow_core::engine::Kind;
use cow_core::format::Layer;
use system_tests::frames::{Registers, command};
use system_tests::server_sim::{
    Answer, Creation, SERVER, World, address, client, disk, export, painted,
};

const SECTORS: u64 = 40_000;
const FLUSH: Registers = Registers { flags: 0x40, features: 0, count: 0, operation: 0xea, lba: 0 };

/// One disk for everybody at 0.0, whose overlay does not exist yet.
fn one_disk(durability: Durability) -> World {
    let mut world = World::new(7, 64);
    let layer = add_base(&mut world);
    let spec = disk(address(0, 0), "one", SECTORS, durability);
    world.server.add_export(export(&spec, layer)).unwrap();
    world
}

fn add_base(world: &mut World) -> Layer<'static> {
    world.edge.add_base(SECTORS * 512, 7).1
}

/// Sends without waiting; the tag.
fn send(world: &mut World, registers: Registers, data: &[u8]) -> u32 {
    let header = world.header(client(1), address(0, 0), command::ATA);
    world.deliver(&header.with(&registers.with(data)));
    header.tag
}

/// A range of a TRIM.
fn trim_entry(lba: u64, sectors: u64) -> [u8; 8] {
    (lba | (sectors << 48)).to_le_bytes()
}

fn tags(answers: &[Answer]) -> Vec<u32> {
    let mut tags: Vec<_> = answers.iter().map(Answer::tag).collect();
    tags.sort_unstable();
    tags
}

fn take(world: &mut World) -> Vec<Answer> {
    core::mem::take(&mut world.answers)
}

#[test]
fn overlapping_requests_take_effect_in_the_order_of_their_frames() {
    for seed in 0..30 {
        let mut world = one_disk(Durability::Safe);
        world.dice = cow_core::fault::Dice::new(seed);
        world.write(client(1), address(0, 0), 0, &painted(0, 2));
        world.edge.inline = 0;
        let mut reads = Vec::new();
        for n in 1..20 {
            send(&mut world, Registers::write(10, 2), &painted(n, 2));
            send(&mut world, Registers::write(11, 2), &painted(n + 100, 2));
            reads.push((send(&mut world, Registers::read(10, 2), &[]), n));
        }
        let answers = world.settle();
        assert_eq!(answers.len(), 57);
        for (tag, n) in reads {
            let answer = answers.iter().find(|a| a.tag() == tag).unwrap();
            let want = [&painted(n, 1)[..], &painted(n + 100, 1)].concat();
            assert_eq!(answer.data(), want, "seed {seed}, read after write {n}");
        }
    }
}

/// A TRIM of two ranges, whose second part must not overtake the write that comes after it.
#[test]
fn a_write_behind_a_trim_stays() {
    for seed in 0..20 {
        let mut world = one_disk(Durability::Safe);
        world.dice = cow_core::fault::Dice::new(seed);
        world.write(client(1), address(0, 0), 0, &painted(0, 2));
        world.edge.inline = 0;
        let trim = Registers { flags: 0x41, features: 1, count: 1, operation: 6, lba: 0 };
        let mut ranges = vec![0; 512];
        for (at, entry) in ranges.chunks_mut(8).enumerate() {
            entry.copy_from_slice(&trim_entry(100 * at as u64, 50));
        }
        let trimmed = send(&mut world, trim, &ranges);
        let mut written = Vec::new();
        for at in (0..64).step_by(7) {
            written.push(at * 100 + 3);
            send(&mut world, Registers::write(at * 100 + 3, 1), &painted(9, 1));
        }
        assert!(world.settle().iter().any(|a| a.tag() == trimmed && a.is_ok()));
        world.edge.inline = 100;
        for lba in written {
            assert_eq!(world.read(client(1), address(0, 0), lba, 1), painted(9, 1), "{lba}");
            assert_eq!(world.read(client(1), address(0, 0), lba + 1, 1), [0; 512]);
            assert_ne!(world.read(client(1), address(0, 0), lba + 60, 1), [0; 512]);
        }
    }
}

#[test]
fn what_finds_no_room_is_counted_and_everything_else_is_answered_once() {
    let mut world = one_disk(Durability::Safe);
    world.write(client(1), address(0, 0), 0, &painted(0, 1));
    world.edge.inline = 0;
    let sent: Vec<_> =
        (0..5000).map(|n| send(&mut world, Registers::write(n, 1), &painted(1, 1))).collect();
    let dropped = world.server.totals().overrun;
    let status = world.server.status().next().unwrap();
    assert_eq!(status.dropped, dropped);
    assert!(dropped > 4000, "only {dropped} were dropped");
    let answers = world.settle();
    assert!(answers.iter().all(Answer::is_ok));
    let answered = tags(&answers);
    assert_eq!(answered.len() as u64 + dropped, sent.len() as u64);
    // In arrival order there was room first.
    assert_eq!(answered, sent[..answered.len()]);
    // The room is there again.
    world.edge.inline = 100;
    for n in 0..100 {
        world.write(client(1), address(0, 0), n, &painted(2, 1));
    }
    assert!(world.server.totals().buffers <= FRAMES_MAX);
    assert!(world.server.totals().buffers <= 400, "{:?}", world.server.totals());
}

#[test]
fn a_slow_overlay_holds_up_what_it_must() {
    let mut world = one_disk(Durability::Safe);
    world.edge.creation = Creation::Held;
    let before = world.read(client(1), address(0, 0), 0, 2);
    let write = send(&mut world, Registers::write(0, 1), &painted(1, 1));
    let elsewhere = send(&mut world, Registers::read(8, 2), &[]);
    let behind = send(&mut world, Registers::read(0, 2), &[]);
    let flush = send(&mut world, FLUSH, &[]);
    assert_eq!(tags(&take(&mut world)), [elsewhere, flush], "reads go on, writes wait");
    assert_eq!(world.edge.wanted.len(), 1);
    let second = send(&mut world, Registers::write(1, 1), &painted(2, 1));
    assert_eq!(world.edge.wanted.len(), 1, "asked for once");
    world.make_overlays();
    let answers = world.settle();
    assert_eq!(tags(&answers), [write, behind, second]);
    let read = answers.iter().find(|a| a.tag() == behind).unwrap();
    assert_eq!(read.data(), [&painted(1, 1)[..], &before[512..]].concat());
    assert_eq!(world.read(client(1), address(0, 0), 0, 2), {
        [painted(1, 1), painted(2, 1)].concat()
    });
}

#[test]
fn an_overlay_that_cannot_be_made_fails_writes_and_nothing_else() {
    let mut world = one_disk(Durability::Safe);
    world.edge.creation = Creation::Held;
    let waiting = send(&mut world, Registers::write(0, 1), &painted(1, 1));
    let behind = send(&mut world, Registers::read(0, 1), &[]);
    world.edge.creation = Creation::Fails;
    let answers = world.settle();
    assert_eq!(tags(&answers), [waiting, behind]);
    let write = answers.iter().find(|a| a.tag() == waiting).unwrap();
    assert_eq!((write.registers(), write.residue()), ((0x61, 0x04), 1));
    assert!(answers.iter().find(|a| a.tag() == behind).unwrap().is_ok());
    let refused = world.ata(client(1), address(0, 0), Registers::write(0, 2), &painted(1, 2));
    assert_eq!(refused.unwrap().registers(), (0x61, 0x04));
    assert!(world.edge.wanted.is_empty(), "not tried again at once");
    world.read(client(1), address(0, 0), 0, 2);
    // But later, when there is perhaps room again.
    world.edge.creation = Creation::Now;
    for _ in 0..6 {
        world.second();
    }
    world.write(client(1), address(0, 0), 0, &painted(1, 1));
    assert_eq!(world.read(client(1), address(0, 0), 0, 1), painted(1, 1));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let mut world = World::new(7, 16);
    let layer = add_base(&mut world);
    let mut spec = disk(address(0, 0), "golden", SECTORS, Durability::Safe);
    spec.target.read_only = true;
    spec.overlay = aoe_host::server::Overlay::None;
    world.server.add_export(export(&spec, layer)).unwrap();
    let before = world.read(client(1), address(0, 0), 0, 1);
    let write = world.ata(client(1), address(0, 0), Registers::write(0, 1), &painted(1, 1));
    assert_eq!(write.unwrap().registers(), (0x41, 0x04), "aborted");
    assert!(world.ata(client(1), address(0, 0), FLUSH, &[]).unwrap().is_ok());
    assert_eq!(world.read(client(1), address(0, 0), 0, 1), before);
    assert!(world.edge.wanted.is_empty() && world.edge.files() == 0);
    assert!(world.server.is_drained());
}

#[test]
fn trim_of_many_ranges_and_of_none() {
    let mut world = one_disk(Durability::Safe);
    world.server.link_changed(0, aoe_proto::Mac(SERVER), 9000);
    let at = address(0, 0);
    world.write(client(1), at, 0, &painted(3, 16));
    let trim = |count| Registers { flags: 0x41, features: 1, count, operation: 6, lba: 0 };
    // More ranges than an engine has slots: 16 sectors of 64, every other sector of the disk.
    let mut ranges = vec![0; 16 * 512];
    for (at, entry) in ranges.chunks_mut(8).enumerate() {
        entry.copy_from_slice(&trim_entry(2 * at as u64, 1));
    }
    world.edge.inline = 30;
    assert!(world.ata(client(1), at, trim(16), &ranges).unwrap().is_ok());
    let read = world.read(client(1), at, 0, 16);
    for (lba, sector) in read.chunks(512).enumerate() {
        let want = if lba % 2 == 0 { [0; 512] } else { [3 ^ u8::try_from(lba).unwrap(); 512] };
        assert_eq!(sector, want, "sector {lba}");
    }
    assert!(world.ata(client(1), at, trim(1), &[0; 512]).unwrap().is_ok(), "no range at all");
    // A range past the end spoils the whole command.
    ranges[8192 - 8..].copy_from_slice(&trim_entry(SECTORS, 1));
    assert!(!world.ata(client(1), at, trim(16), &ranges).unwrap().is_ok());
    // The first TRIM of a disk without overlay makes one.
    let mut world = one_disk(Durability::Writeback);
    assert!(world.ata(client(1), at, trim(1), &ranges[..512]).unwrap().is_ok());
    assert_eq!((world.edge.files(), world.read(client(1), at, 2, 1)), (1, vec![0; 512]));
}

#[test]
fn read_verify_reads_more_than_a_frame_holds() {
    let mut world = one_disk(Durability::Safe);
    let verify = |lba, count| Registers { operation: 0x42, ..Registers::read(lba, count) };
    world.edge.inline = 0;
    let answer = world.ata(client(1), address(0, 0), verify(100, 255), &[]).unwrap();
    assert!(answer.is_ok() && answer.frame.len() == 60);
    assert!(world.edge.started["read"] > 60, "in pieces: {:?}", world.edge.started);
    let read = world.server.status().next().unwrap();
    assert_eq!((read.reads, read.bytes_read), (1, 255 * 512));
    // Damage anywhere is found.
    send(&mut world, verify(100, 255), &[]);
    let lost = world.edge.held.iter().position(|h| h.operation.kind == Kind::Read).unwrap();
    let mut completion = world.edge.end(lost);
    completion.result = Err(cow_core::engine::IoFailure::Medium);
    completion.data = None;
    world.server.complete(&completion);
    let answers = world.settle();
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].registers(), answers[0].residue()), ((0x41, 0x40), 255));
}

#[test]
fn flush_and_fua_by_durability() {
    let syncs = |world: &World| world.edge.started.get("sync").copied().unwrap_or(0);
    let fua = Registers { operation: 0x3d, ..Registers::write(0, 1) };
    let modes =
        [Durability::Safe, Durability::Logged, Durability::Writeback, Durability::Ephemeral];
    for mode in modes {
        let mut world = one_disk(mode);
        let at = address(0, 0);
        assert!(world.ata(client(1), at, FLUSH, &[]).unwrap().is_ok(), "without an overlay");
        assert_eq!(syncs(&world), 0);
        // An ordinary write, a rewrite, a flush, a FUA write: who syncs for it?
        let mut cost = Vec::new();
        for (registers, data) in [
            (Registers::write(0, 1), painted(1, 1)),
            (Registers::write(0, 1), painted(2, 1)),
            (FLUSH, Vec::new()),
            (fua, painted(3, 1)),
            (FLUSH, Vec::new()),
        ] {
            let before = syncs(&world);
            assert!(world.ata(client(1), at, registers, &data).unwrap().is_ok());
            cost.push(syncs(&world) - before);
        }
        match mode {
            // An overlay without a log is as safe.
            Durability::Safe | Durability::Logged => {
                assert!(cost[0] >= 2 && cost[1] >= 1 && cost[3] >= 1, "{cost:?}");
                assert_eq!((cost[2], cost[4]), (0, 0), "{cost:?}");
            }
            Durability::Writeback => {
                assert_eq!((cost[0], cost[1]), (0, 0), "{cost:?}");
                assert!(cost[2] >= 2 && cost[3] >= 1, "{cost:?}");
            }
            Durability::Ephemeral => assert_eq!(cost, [0; 5]),
        }
        world.write(client(1), at, 9, &painted(4, 1));
        let before = syncs(&world);
        for _ in 0..WRITEBACK_INTERVAL.as_secs() {
            world.second();
        }
        let committed = syncs(&world) > before;
        assert_eq!(committed, mode == Durability::Writeback, "after the interval: {mode:?}");
    }
}

#[test]
fn the_mtu_changes_under_requests() {
    let mut world = one_disk(Durability::Safe);
    let (at, mac) = (address(0, 0), aoe_proto::Mac(SERVER));
    assert_eq!(world.config(client(1), at).unwrap().sectors_max(), 2);
    world.write(client(1), at, 0, &painted(1, 2));
    world.edge.inline = 0;
    let small = send(&mut world, Registers::read(0, 2), &[]);
    world.server.link_changed(0, mac, 9000);
    let large = send(&mut world, Registers::write(4, 16), &painted(2, 16));
    assert_eq!(tags(&world.settle()), [small, large]);
    assert_eq!(world.config(client(1), at).unwrap().sectors_max(), 16);
    let read = send(&mut world, Registers::read(4, 16), &[]);
    world.server.link_changed(0, mac, 1500);
    // What was sent before everybody knew is still a write.
    let late = send(&mut world, Registers::write(40, 16), &painted(3, 16));
    let answers = world.settle();
    assert_eq!(tags(&answers), [read, late]);
    assert_eq!(answers.iter().find(|a| a.tag() == read).unwrap().data(), painted(2, 16));
    let aborted = world.ata(client(1), at, Registers::read(4, 16), &[]).unwrap();
    assert_eq!(aborted.registers(), (0x41, 0x04), "its answer would not fit");
    assert_eq!(world.read(client(1), at, 54, 2), painted(3, 16)[14 * 512..]);
    // Too small for any target: silence; and back.
    world.server.link_changed(0, mac, 576);
    assert!(world.config(client(1), at).is_none());
    world.server.link_changed(0, mac, 1500);
    assert_eq!(world.read(client(1), at, 4, 1), painted(2, 16)[..512]);
    // Longer than any link of ours ever carried: no effect.
    let before = world.read(client(1), at, 80, 2);
    let giant = world.ata(client(1), at, Registers::write(80, 100), &painted(9, 100));
    assert!(giant.is_none_or(|a| !a.is_ok()));
    assert_eq!(world.read(client(1), at, 80, 2), before);
}

#[test]
fn a_changed_layer_is_an_error_and_a_suspended_one_silence() {
    let mut world = one_disk(Durability::Safe);
    let at = address(0, 0);
    world.write(client(1), at, 0, &painted(1, 1));
    world.server.suspend(at, true);
    assert!(world.ata(client(1), at, Registers::read(0, 1), &[]).is_none());
    assert!(world.config(client(1), at).is_none());
    assert!(world.server.failure(at).is_some());
    world.server.suspend(at, false);
    world.read(client(1), at, 0, 1);
    // Requests under way when it shows are not answered with what they may have read.
    world.edge.inline = 0;
    let mut under_way: Vec<_> =
        (0..200).map(|n| send(&mut world, Registers::read(n, 1), &[])).collect();
    under_way.push(send(&mut world, Registers::write(0, 1), &painted(2, 1)));
    world.server.backing_changed(at, &mut world.edge);
    let answers = world.settle();
    assert_eq!(tags(&answers), under_way);
    assert!(answers.iter().all(|a| !a.is_ok()));
    assert_eq!(answers[0].registers(), (0x41, 0x40), "uncorrectable");
    for (registers, data) in
        [(Registers::read(0, 1), vec![]), (Registers::write(0, 1), painted(2, 1)), (FLUSH, vec![])]
    {
        let answer = world.ata(client(1), at, registers, &data).unwrap();
        assert!(!answer.is_ok(), "{registers:?}");
    }
    assert!(world.config(client(1), at).is_some(), "the target itself is there");
    world.server.backing_changed(at, &mut world.edge);
    let told = world.edge.reports.iter().filter(|r| r.contains("BackingChanged")).count();
    assert_eq!(told, 1);
}

#[test]
fn an_overlay_at_its_limit_refuses_what_would_exceed_it() {
    let mut world = World::new(7, 16);
    let layer = add_base(&mut world);
    let mut spec = disk(address(0, 0), "limited", SECTORS, Durability::Safe);
    spec.limit = Some(4 * 512);
    world.server.add_export(export(&spec, layer)).unwrap();
    let at = address(0, 0);
    world.write(client(1), at, 0, &painted(1, 2));
    world.write(client(1), at, 10, &painted(1, 2));
    let full = world.ata(client(1), at, Registers::write(20, 1), &painted(1, 1)).unwrap();
    assert_eq!(full.registers(), (0x61, 0x04));
    world.write(client(1), at, 11, &painted(2, 1));
    assert_eq!(world.read(client(1), at, 11, 1), painted(2, 1));
    assert_eq!(world.server.status().next().unwrap().used_sectors, 4);
}

/// The real server asks in every round whether it has come to rest.
#[test]
fn stopping_comes_to_an_end_however_often_it_is_asked_for() {
    for mode in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        let mut world = one_disk(mode);
        world.edge.inline = 0;
        for n in 0..10 {
            send(&mut world, Registers::write(n, 1), &painted(1, 1));
        }
        let mut rounds = 0;
        while !world.server.is_drained() {
            world.server.commit_all();
            world.pump();
            world.end_one();
            rounds += 1;
            assert!(rounds < 200, "{mode:?}: {:?}", world.edge.started);
        }
        assert_eq!(take(&mut world).len(), 10);
    }
}
