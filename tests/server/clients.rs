//! Who sees which disk: addresses, machines, newcomers, lists, advertisements, protocol state.

use core::time::Duration;

use aoe_host::server::{Durability, GUESTS_MAX, Newcomers};
use aoe_proto::TargetState;
use system_tests::frames::{BROADCAST, Header, Mac, Registers, command, config};
use system_tests::server_sim::{
    Answer, Creation, SERVER, SimEdge, World, address, client, disk, export, painted, shared,
};

const SECTORS: u64 = 20_000;
const SAFE: Durability = Durability::Safe;

/// A world with one address for everybody who is registered.
fn one_address(newcomers: Newcomers, allow: &[Mac]) -> World {
    let mut edge = SimEdge::new(1);
    let (_, layer) = edge.add_base(SECTORS * 512, 1);
    let mut world = World::with(edge, 1, 16, allow);
    let pattern = disk(address(0, 0), "pattern", SECTORS, SAFE);
    world.server.add_export(shared(&pattern, layer, newcomers)).unwrap();
    world
}

fn add_client(world: &mut World, label: &str, macs: &[Mac]) -> u32 {
    let macs: Vec<_> = macs.iter().map(|m| aoe_proto::Mac(*m)).collect();
    let spec = disk(address(0, 0), label, SECTORS, SAFE);
    world.server.add_client(address(0, 0), &macs, spec).unwrap()
}

/// The base's bytes of a sector: what an untouched disk reads as.
fn base(world: &mut World, from: Mac, lba: u64) -> Vec<u8> {
    world.read(from, address(0, 0), lba, 1)
}

#[test]
fn clients_of_one_address_see_their_own_disks() {
    let mut world = one_address(Newcomers::Refuse, &[]);
    let at = address(0, 0);
    add_client(&mut world, "ada", &[client(1), client(11)]);
    add_client(&mut world, "bob", &[client(2)]);
    let before = base(&mut world, client(2), 100);
    world.write(client(1), at, 100, &painted(1, 2));
    assert_eq!(world.read(client(2), at, 100, 1), before, "bob's disk is his own");
    world.write(client(2), at, 101, &painted(2, 1));
    // The second interface of a machine leads to the same disk.
    assert_eq!(world.read(client(11), at, 100, 2), painted(1, 2));
    assert_eq!(world.read(client(2), at, 101, 1), painted(2, 1));
    let identify = |world: &mut World, mac| {
        let asked = Registers { operation: 0xec, count: 1, ..Registers::default() };
        world.ata(mac, at, asked, &[]).unwrap().data().to_vec()
    };
    assert_eq!(identify(&mut world, client(1)), identify(&mut world, client(11)));
    assert_ne!(identify(&mut world, client(1)), identify(&mut world, client(2)), "serials differ");
}

#[test]
fn disks_of_different_addresses_are_apart() {
    let mut world = World::new(2, 16);
    let (_, layer) = world.edge.add_base(SECTORS * 512, 2);
    for slot in 0..4 {
        let spec = disk(address(7, slot), &format!("s{slot}"), SECTORS, SAFE);
        world.server.add_export(export(&spec, layer)).unwrap();
    }
    let before = world.read(client(1), address(7, 3), 5, 1);
    for slot in 0..3 {
        world.write(client(1), address(7, slot), 5, &painted(10 + slot, 1));
    }
    for slot in 0..3 {
        // Everybody sees a disk that is for everybody.
        assert_eq!(world.read(client(9), address(7, slot), 5, 1), painted(10 + slot, 1));
    }
    assert_eq!(world.read(client(1), address(7, 3), 5, 1), before);
    assert!(world.config(client(1), address(7, 4)).is_none(), "nothing is there");
}

#[test]
fn unknown_machines_are_listed_not_answered_and_can_be_adopted() {
    let mut world = one_address(Newcomers::Refuse, &[]);
    let at = address(0, 0);
    assert!(world.config(client(5), at).is_none());
    assert!(world.ata(client(5), at, Registers::write(0, 1), &painted(5, 1)).is_none());
    assert!(world.discover(client(6)).is_empty());
    let mut unknown: Vec<_> = world.server.unknown().map(|u| (u.mac.0, u.requests)).collect();
    unknown.sort_unstable();
    assert_eq!(unknown, [(client(5), 2), (client(6), 1)]);
    assert_eq!(world.edge.reports.iter().filter(|r| r.contains("UnknownClient")).count(), 2);
    assert_eq!(world.edge.files(), 0);

    add_client(&mut world, "eve", &[client(5)]);
    assert_eq!(world.server.unknown().count(), 1, "no longer unknown");
    world.write(client(5), at, 0, &painted(5, 1));
    assert_eq!(world.read(client(5), at, 0, 1), painted(5, 1));
    // A second interface, bound later.
    let number = world.server.status().next().unwrap().number;
    world.server.bind_mac(number, aoe_proto::Mac(client(6)));
    assert_eq!(world.read(client(6), at, 0, 1), painted(5, 1));
    assert_eq!(world.server.unknown().count(), 0);
    // And taken away again.
    world.drain();
    world.server.remove_disk(number).unwrap();
    assert!(world.config(client(5), at).is_none());
    assert!(world.config(client(6), at).is_none());
}

#[test]
fn newcomers_get_an_overlay_with_their_first_write() {
    let mut world = one_address(Newcomers::Auto { max: 2 }, &[]);
    let at = address(0, 0);
    for n in 1..=5 {
        assert_eq!(world.discover(client(n)).len(), 1);
        world.read(client(n), at, 7, 2);
        let flush = Registers { flags: 0x40, operation: 0xea, ..Registers::default() };
        assert!(world.ata(client(n), at, flush, &[]).unwrap().is_ok());
    }
    assert_eq!(world.edge.files(), 0, "discovery, reads and flushes create nothing");
    world.write(client(4), at, 7, &painted(4, 1));
    world.write(client(2), at, 7, &painted(2, 1));
    assert_eq!(world.edge.created.len(), 2);
    // Two clients there are, more there shall not be: an error, not silence.
    let refused = world.ata(client(1), at, Registers::write(7, 1), &painted(1, 1)).unwrap();
    assert_eq!(refused.registers(), (0x61, 0x04));
    assert!(world.config(client(6), at).is_none(), "nor another guest");
    assert!(world.server.unknown().any(|u| u.mac.0 == client(6)));
    assert_eq!(world.edge.files(), 2);
    assert_eq!(world.read(client(4), at, 7, 1), painted(4, 1));
    // Guests go on reading.
    world.read(client(1), at, 7, 1);
    // When a client goes, a guest can take its place.
    world.drain();
    let gone = world.server.status().find(|s| s.macs.contains(&aoe_proto::Mac(client(4)))).unwrap();
    let gone = gone.number;
    world.server.remove_disk(gone).unwrap();
    world.write(client(1), at, 7, &painted(1, 1));
}

#[test]
fn guests_that_are_silent_make_room() {
    let mut world = one_address(Newcomers::Auto { max: 3 }, &[]);
    let at = address(0, 0);
    world.write(client(1), at, 0, &painted(1, 1));
    let guests = u32::try_from(GUESTS_MAX).unwrap() * 3;
    for n in 0..guests {
        let [_, b, c, d] = n.to_be_bytes();
        let mac = [0x06, 0, 0, b, c, d];
        world.now += Duration::from_millis(1);
        assert!(world.config(mac, at).is_some(), "guest {n}");
    }
    assert_eq!(world.server.status().count(), GUESTS_MAX + 1);
    assert_eq!(world.edge.files(), 1);
    assert_eq!(world.read(client(1), at, 0, 1), painted(1, 1), "clients stay");
    world.write(client(2), at, 0, &painted(2, 1));
    assert_eq!(world.edge.files(), 2);
}

#[test]
fn only_allowed_machines_are_answered() {
    let mut world = one_address(Newcomers::Auto { max: 9 }, &[client(1), client(2)]);
    let (_, layer) = world.edge.add_base(SECTORS * 512, 3);
    // And here only one of them, and somebody who is not allowed at all.
    let spec = disk(address(1, 1), "bound", SECTORS, SAFE);
    let mut bound = export(&spec, layer);
    bound.macs = [client(2), client(3)].map(aoe_proto::Mac).to_vec();
    world.server.add_export(bound).unwrap();
    assert_eq!(world.discover(client(1)).into_keys().collect::<Vec<_>>(), [(0, 0)]);
    assert_eq!(world.discover(client(2)).into_keys().collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    assert!(world.discover(client(3)).is_empty());
    assert_eq!(world.server.unknown().count(), 0, "who is not allowed is not listed either");
    let refused = Registers::write(0, 1);
    assert!(world.ata(client(1), address(1, 1), refused, &painted(1, 1)).is_none());
    assert!(world.ata(client(3), address(1, 1), refused, &painted(1, 1)).is_none());

    // Whoever may not see a target does not hear of it.
    world.server.advertise(None);
    let mut told: Vec<_> = world.settle().iter().map(|a| (a.address(), a.to)).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(
        told,
        [((0, 0), client(1)), ((0, 0), client(2)), ((1, 1), client(2))],
        "advertised to these only"
    );
}

#[test]
fn broadcasts_are_answered_once_for_each_disk() {
    let mut world = World::new(3, 16);
    let (_, layer) = world.edge.add_base(SECTORS * 512, 3);
    for (shelf, slot) in [(1, 0), (1, 1), (2, 0)] {
        let spec = disk(address(shelf, slot), &format!("{shelf}.{slot}"), SECTORS, SAFE);
        world.server.add_export(export(&spec, layer)).unwrap();
    }
    let found: Vec<_> = world.discover(client(1)).into_iter().collect();
    assert_eq!(found, [((1, 0), 1), ((1, 1), 1), ((2, 0), 1)]);
    // One wildcard only.
    let mut ask = |shelf, slot, to| {
        let header = world.header(client(1), address(0, 0), command::CONFIG);
        let header = Header { shelf, slot, to, ..header };
        world.deliver(&header.with(&config(0, 0, &[])));
        let mut found: Vec<_> = world.settle().iter().map(Answer::address).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(ask(1, 0xff, BROADCAST), [(1, 0), (1, 1)]);
    assert_eq!(ask(0xffff, 0, SERVER), [(1, 0), (2, 0)]);
    assert_eq!(ask(3, 0xff, BROADCAST), []);
    // A write to everybody changes nobody.
    let before = world.read(client(1), address(1, 0), 0, 1);
    let header = world.header(client(1), address(0, 0), command::ATA);
    let header = Header { shelf: 0xffff, slot: 0xff, to: BROADCAST, ..header };
    world.deliver(&header.with(&Registers::write(0, 1).with(&painted(1, 1))));
    assert!(world.settle().is_empty());
    assert_eq!(world.read(client(1), address(1, 0), 0, 1), before);
    assert_eq!(world.edge.files(), 0);
}

#[test]
fn advertisements_go_to_those_who_can_use_them() {
    let advertised = |world: &mut World, link| {
        world.server.advertise(link);
        let answers = world.settle();
        assert!(answers.iter().all(|a| a.tag() == 0 && a.command() == command::CONFIG));
        let mut told: Vec<_> = answers.iter().map(|a| (a.link, a.to)).collect();
        told.sort_unstable();
        told
    };
    // One disk for everybody: to everybody; with a mask list only to its members.
    let mut world = World::new(4, 16);
    let (_, layer) = world.edge.add_base(SECTORS * 512, 4);
    let spec = disk(address(0, 0), "all", SECTORS, SAFE);
    world.server.add_export(export(&spec, layer)).unwrap();
    assert_eq!(advertised(&mut world, None), [(0, BROADCAST)]);
    world.server.add_link(aoe_proto::Mac([2, 0, 0, 0, 0xff, 1]), 9000);
    assert_eq!(advertised(&mut world, None), [(0, BROADCAST), (1, BROADCAST)]);
    assert_eq!(advertised(&mut world, Some(1)), [(1, BROADCAST)]);
    world.server.link_changed(1, aoe_proto::Mac([2, 0, 0, 0, 0xff, 1]), 500);
    assert_eq!(advertised(&mut world, None), [(0, BROADCAST)], "no target works at that MTU");
    let add = [&[0, 1, 0, 1, 0, 1], &client(3)[..]].concat();
    assert!(world.ask(client(3), address(0, 0), command::MAC_MASK, &add).is_some());
    assert_eq!(advertised(&mut world, None), [(0, client(3))]);

    // A disk for each client: to each, and to everybody only where newcomers are welcome.
    let mut world = one_address(Newcomers::Refuse, &[]);
    assert_eq!(advertised(&mut world, None), []);
    add_client(&mut world, "ada", &[client(1), client(2)]);
    assert_eq!(advertised(&mut world, None), [(0, client(1)), (0, client(2))]);
    let mut world = one_address(Newcomers::Auto { max: 9 }, &[]);
    assert_eq!(advertised(&mut world, None), [(0, BROADCAST)]);
}

#[test]
fn answers_of_other_servers_are_reported_once_a_minute() {
    let mut world = one_address(Newcomers::Refuse, &[]);
    let foreign = |shelf, from| Header {
        to: client(1),
        from,
        version_flags: 0x18,
        shelf,
        slot: 0,
        command: command::CONFIG,
        tag: 0,
    };
    let other = [0x02, 0, 0, 0, 0xee, 0];
    let report =
        |world: &World| world.edge.reports.iter().filter(|r| r.contains("Duplicate")).count();
    for second in 0..130 {
        world.now = Duration::from_secs(second);
        for _ in 0..10 {
            world.deliver(&foreign(0, other).with(&config(0, 0, &[])));
        }
        world.deliver(&foreign(5, other).with(&config(0, 0, &[])));
        world.deliver(&foreign(0, SERVER).with(&config(0, 0, &[])));
    }
    assert_eq!(report(&world), 3, "at 0, 60 and 120 seconds");
    assert_eq!(world.server.totals().duplicates, 1300);
    // The other server is told as often, whether or not it would be answered.
    let told = core::mem::take(&mut world.answers);
    assert_eq!(told.iter().map(|a| (a.to, a.address())).collect::<Vec<_>>(), [(other, (0, 0)); 3]);
    // But nobody is told at an address that cannot be a machine's.
    for (seconds, from) in [(200, BROADCAST), (300, [0x01, 0, 0x5e, 0, 0, 1]), (400, [0; 6])] {
        world.now = Duration::from_secs(seconds);
        world.deliver(&foreign(0, from).with(&config(0, 0, &[])));
    }
    assert!(world.answers.is_empty(), "{:?}", world.answers);
}

#[test]
fn what_the_network_changes_outlives_the_server() {
    let mut world = one_address(Newcomers::Refuse, &[]);
    let at = address(0, 0);
    add_client(&mut world, "ada", &[client(1)]);
    add_client(&mut world, "bob", &[client(2)]);
    let ask = |world: &mut World, from, command, argument: &[u8]| {
        let answer = world.ask(from, at, command, argument);
        (answer, world.edge.persisted.len())
    };
    let (set, kept) = ask(&mut world, client(1), command::CONFIG, &config(3, 5, b"hello"));
    assert_eq!((set.unwrap().config_string(), kept), (&b"hello"[..], 1));
    let (again, kept) = ask(&mut world, client(1), command::CONFIG, &config(3, 5, b"hello"));
    assert_eq!((again.unwrap().aoe_error(), kept), (None, 1), "nothing changed");
    let (refused, kept) = ask(&mut world, client(1), command::CONFIG, &config(3, 5, b"other"));
    assert_eq!((refused.unwrap().aoe_error(), kept), (Some(4), 1));
    let mask = [&[0, 1, 0, 1, 0, 1], &client(1)[..]].concat();
    assert_eq!(ask(&mut world, client(1), command::MAC_MASK, &mask).1, 2);
    let reserve = [&[1, 1], &client(1)[..]].concat();
    assert_eq!(ask(&mut world, client(1), command::RESERVE, &reserve).1, 3);
    assert_eq!(world.config(client(2), at).unwrap().config_string(), b"", "bob's is his own");

    let (label, state) = world.edge.persisted.last().unwrap().clone();
    assert_eq!(label, "ada");
    let mut bytes = vec![0; TargetState::ENCODED_LEN_MAX];
    let len = state.encode(&mut bytes).unwrap();
    let mut next = one_address(Newcomers::Refuse, &[]);
    let number = add_client(&mut next, "ada", &[client(1), client(3)]);
    next.server.restore_state(number, TargetState::decode(&bytes[..len]).unwrap());
    assert_eq!(next.config(client(1), at).unwrap().config_string(), b"hello");
    assert!(next.config(client(3), at).is_none(), "masked");
    assert_eq!(state.reservation(), [aoe_proto::Mac(client(1))]);
    let before = next.edge.creation == Creation::Now;
    assert!(before && next.edge.files() == 0, "protocol state is no overlay");
}
