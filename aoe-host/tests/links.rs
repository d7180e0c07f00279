//! Every link of the operating system against a real pair of virtual Ethernet interfaces.
//!
//! Each test runs once for each kind of link. It makes network namespaces of its own and enters one
//! of them with its own thread, so that no frame leaves them. Without the right to do so the tests print that they were skipped.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use core::time::Duration;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use aoe_host::config::LinkKind;
use aoe_host::link::{self, Link, LinkEvent, Room, wait};
use aoe_host::values::{Address, Mac};

use common::Net;

mod common;

/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than the link's own interval between looks.
const QUIET: Duration = Duration::from_millis(600);

const KINDS: [LinkKind; 4] = [LinkKind::Pnet, LinkKind::Mmsg, LinkKind::Ring, LinkKind::Auto];

/// Two namespaces of a test's own, and the kind of link to try there.
struct Wire {
    net: Net,
    kind: LinkKind,
}

impl Wire {
    fn open_near(&self) -> Box<dyn Link + Send> {
        self.open(&self.net.near, Room::default())
    }

    fn open_far(&self) -> Box<dyn Link + Send> {
        self.open(&self.net.far, Room::default())
    }

    fn open(&self, namespace: &str, room: Room) -> Box<dyn Link + Send> {
        Net::inside(namespace, || link::open(self.kind, "veth0", room).unwrap())
    }
}

/// Runs `test` for every kind of link, with namespaces of its own each time.
fn with_every_kind(name: &str, test: impl Fn(&Wire)) {
    for kind in KINDS {
        let Some(net) = Net::make(name) else { return };
        // For whoever reads why it failed.
        println!("with {kind:?}");
        test(&Wire { net, kind });
    }
}

fn frame(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xa2], payload].concat()
}

/// The same frame with an 802.1Q tag, which the kernel of the receiver takes out.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let tag = [&[0x81, 0x00][..], &vlan.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

fn send(link: &mut dyn Link, frame: &[u8]) {
    let report = link.send(&mut core::iter::once(frame));
    assert_eq!(report.sent, 1, "{report:?}, {:?}", link.counters());
}

/// Sends `payload` to the station `to`.
fn send_to(link: &mut dyn Link, to: Mac, payload: &[u8]) {
    let own = link.mac();
    send(link, &frame(to, own, payload));
}

/// The payload of the next frame.
fn next(link: &mut dyn Link) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut received = None;
        link.receive(1, &mut |frame| received = Some(frame[14..].to_vec()));
        if let Some(payload) = received {
            return payload;
        }
        assert!(Instant::now() < deadline, "no frame came: {:?}", link.counters());
        wait(&[link.poll_fd().unwrap()], Some(Duration::from_millis(100))).unwrap();
    }
}

/// One time for all looks of a link.
fn clock() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// Events until `last` was seen.
fn events_until(link: &mut dyn Link, last: LinkEvent) -> Vec<LinkEvent> {
    let start = Instant::now();
    let mut events = Vec::new();
    loop {
        while let Some(event) = link.poll_event(clock()) {
            events.push(event);
            if event == last {
                return events;
            }
        }
        assert!(start.elapsed() < PATIENCE, "{last:?} did not come, but {events:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn settle(link: &mut dyn Link) {
    let start = Instant::now();
    while start.elapsed() < QUIET {
        link.poll_event(clock());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn only_our_own_aoe_frames_are_delivered() {
    with_every_kind("only_our_own_aoe_frames_are_delivered", |wire| {
        let net = &wire.net;
        // Promiscuous, as if a bridge were there: foreign frames do reach the sockets then.
        net.near("link set veth0 promisc on");
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        let (own, other) = (near.mac(), far.mac());
        let stranger = Mac([2, 0, 0, 0, 0, 99]);
        let for_me = frame(own, other, b"for me");
        send(far.as_mut(), &frame(stranger, other, b"for a stranger"));
        send(far.as_mut(), &frame(Mac([0x01, 0, 0x5e, 0, 0, 1]), other, b"for a group"));
        send(far.as_mut(), &tagged(&for_me, 5));
        send(far.as_mut(), &tagged(&frame(Mac::BROADCAST, other, b"other vlan"), 4094));
        let mut foreign = for_me.clone();
        foreign[12..14].copy_from_slice(&[0x08, 0x00]);
        send(far.as_mut(), &foreign);
        send(near.as_mut(), &frame(Mac::BROADCAST, own, b"sent by myself"));
        send(far.as_mut(), &tagged(&for_me, 0xE000));
        send(far.as_mut(), &frame(Mac::BROADCAST, other, b"for everybody"));
        send(far.as_mut(), &for_me);
        assert_eq!(next(near.as_mut()), b"for me", "a priority tag is no VLAN");
        assert_eq!(next(near.as_mut()), b"for everybody");
        assert_eq!(next(near.as_mut()), b"for me");
        assert_eq!(near.receive(9, &mut |frame| panic!("{frame:?}")), 0);
        assert_eq!(near.counters().frames_received, 3);
        assert_eq!(next(far.as_mut()), b"sent by myself");
    });
}

#[test]
fn the_interface_is_not_made_promiscuous() {
    with_every_kind("the_interface_is_not_made_promiscuous", |wire| {
        let net = &wire.net;
        let _near = wire.open_near();
        let output = Command::new("ip")
            .args(["-n", &net.near, "-d", "link", "show", "veth0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("promiscuity 0"), "{text}");
    });
}

#[test]
fn jumbo_frames_pass_and_mtu_changes_are_noticed() {
    with_every_kind("jumbo_frames_pass_and_mtu_changes_are_noticed", |wire| {
        let net = &wire.net;
        net.near("link set veth0 mtu 9000");
        net.far("link set veth0 mtu 9000");
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        assert_eq!((near.mtu(), near.is_up()), (9000, true));
        let jumbo: Vec<u8> = (0..=250).cycle().take(9000).collect();
        let long = frame(near.mac(), far.mac(), &jumbo);
        send(far.as_mut(), &long);
        assert_eq!(next(near.as_mut()), jumbo);

        settle(far.as_mut());
        net.far("link set veth0 mtu 1500");
        let report = far.send(&mut core::iter::once(&long[..]));
        assert_eq!((report.sent, report.too_long), (0, 1), "{:?}", far.counters());
        assert_eq!(far.poll_event(clock()), Some(LinkEvent::MtuChanged { mtu: 1500 }));
        assert_eq!(far.mtu(), 1500);
        net.near("link set veth0 mtu 1500");
        assert_eq!(
            events_until(near.as_mut(), LinkEvent::MtuChanged { mtu: 1500 }),
            [LinkEvent::MtuChanged { mtu: 1500 }]
        );
        let short = frame(near.mac(), far.mac(), b"short");
        send(far.as_mut(), &short);
        assert_eq!(next(near.as_mut()), b"short");
    });
}

#[test]
fn down_and_up_are_noticed_and_survived() {
    with_every_kind("down_and_up_are_noticed_and_survived", |wire| {
        let net = &wire.net;
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        settle(near.as_mut());
        net.near("link set veth0 down");
        assert_eq!(events_until(near.as_mut(), LinkEvent::Down), [LinkEvent::Down]);
        assert!(!near.is_up());
        let reply = frame(far.mac(), near.mac(), b"reply");
        let report = near.send(&mut [&reply[..], &reply].into_iter());
        assert_eq!((report.sent, report.dropped), (0, 2), "{:?}", near.counters());
        assert_eq!(near.receive(1, &mut |_| ()), 0);
        // A dead link must not make every wait return at once.
        let start = Instant::now();
        wait(&[near.poll_fd().unwrap()], Some(Duration::from_millis(200))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());

        net.near("link set veth0 up");
        assert_eq!(events_until(near.as_mut(), LinkEvent::Up).last(), Some(&LinkEvent::Up));
        events_until(far.as_mut(), LinkEvent::Up);
        send(near.as_mut(), &reply);
        assert_eq!(next(far.as_mut()), b"reply");
        send_to(far.as_mut(), near.mac(), b"request");
        assert_eq!(next(near.as_mut()), b"request");
    });
}

#[test]
fn an_outage_between_two_looks_is_still_an_outage() {
    with_every_kind("an_outage_between_two_looks_is_still_an_outage", |wire| {
        let net = &wire.net;
        let mut near = wire.open_near();
        settle(near.as_mut());
        net.near("link set veth0 down");
        net.near("link set veth0 up");
        // The socket reports the failure to whoever uses it next.
        near.receive(1, &mut |_| ());
        let events = events_until(near.as_mut(), LinkEvent::Up);
        assert_eq!(events, [LinkEvent::Down, LinkEvent::Up]);
    });
}

#[test]
fn a_removed_interface_is_awaited_and_used_again() {
    with_every_kind("a_removed_interface_is_awaited_and_used_again", |wire| {
        let net = &wire.net;
        let mut near = wire.open_near();
        settle(near.as_mut());
        let shown =
            Command::new("ip").args(["-n", &net.near, "-o", "link", "show", "veth0"]).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        let (index, _) = shown.split_once(':').unwrap();
        net.near("link del veth0");
        assert_eq!(
            events_until(near.as_mut(), LinkEvent::Gone),
            [LinkEvent::Down, LinkEvent::Gone]
        );
        let lost = frame(Mac::BROADCAST, near.mac(), b"lost");
        assert_eq!(near.send(&mut core::iter::once(&lost[..])).dropped, 1);

        // Under its old number: nothing but its absence tells that it is another one.
        net.near(&format!(
            "link add veth0 index {index} type veth peer name veth0 netns {}",
            net.far
        ));
        net.far("link set veth0 up");
        net.near("link set veth0 up");
        // Another interface may take another socket, which is one of the namespace where it is opened.
        let events = Net::inside(&net.near, || events_until(near.as_mut(), LinkEvent::Up));
        assert!(events.contains(&LinkEvent::Recreated), "{events:?}");
        let mut far = wire.open_far();
        send_to(far.as_mut(), near.mac(), b"hello again");
        assert_eq!(next(near.as_mut()), b"hello again");
        send_to(near.as_mut(), far.mac(), b"welcome back");
        assert_eq!(next(far.as_mut()), b"welcome back");
        assert_eq!(near.counters().sent_beside_ring, 0);
    });
}

#[test]
fn a_changed_address_is_noticed_and_used() {
    with_every_kind("a_changed_address_is_noticed_and_used", |wire| {
        let net = &wire.net;
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        settle(near.as_mut());
        let moved = Mac([2, 0, 0, 0, 0, 42]);
        net.near(&format!("link set veth0 address {moved}"));
        events_until(near.as_mut(), LinkEvent::MacChanged { mac: moved });
        assert_eq!(near.mac(), moved);
        send_to(far.as_mut(), moved, b"to the new address");
        assert_eq!(next(near.as_mut()), b"to the new address");
    });
}

#[test]
fn missing_interfaces_are_named() {
    with_every_kind("missing_interfaces_are_named", |wire| {
        let net = &wire.net;
        for name in ["nosuch0", "", "a-name-that-is-far-too-long"] {
            let opened =
                Net::inside(&net.near, || link::open(wire.kind, name, Room::default()).map(drop));
            let error = opened.unwrap_err();
            assert_eq!(error.kind(), aoe_host::error::ErrorKind::NotFound, "{error}");
            assert!(error.to_string().contains("ip link"), "{error}");
        }
    });
}

/// Waits until something holds: a busy system may deliver a frame some time after it was sent.
fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything that waits, at least `wanted` frames, with `limit` taken at a time: what is in it, as
/// numbers.
fn drain(link: &mut dyn Link, limit: usize, wanted: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    let number = |frame: &[u8]| u32::from_be_bytes(*frame[14..].first_chunk().unwrap());
    wait_until(|| {
        while link.receive(limit, &mut |frame| numbers.push(number(frame))) > 0 {}
        numbers.len() >= wanted
    });
    numbers
}

/// Sends `count` frames with the numbers from `first` on, 32 at a time.
fn send_numbers(from: &mut dyn Link, to: Mac, first: u32, count: u32, len: usize) {
    let own = from.mac();
    let frames: Vec<Vec<u8>> = (first..first + count)
        .map(|number| {
            let mut frame = frame(to, own, &number.to_be_bytes());
            frame.resize(14 + len, 0);
            frame
        })
        .collect();
    for some in frames.chunks(32) {
        let report = from.send(&mut some.iter().map(Vec::as_slice));
        assert_eq!(report.sent, some.len(), "{report:?}");
    }
}

#[test]
fn many_more_frames_pass_than_there_is_room_for() {
    with_every_kind("many_more_frames_pass_than_there_is_room_for", |wire| {
        wire.net.near("link set veth0 mtu 9000");
        wire.net.far("link set veth0 mtu 9000");
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        // The least room there is holds a few hundred: the numbers do not fit it evenly.
        let mut first = 0;
        for (round, count) in [1, 100, 37, 250, 3, 200].repeat(10).into_iter().enumerate() {
            send_numbers(far.as_mut(), near.mac(), first, count, [60, 1500, 9000][round % 3]);
            let got = drain(near.as_mut(), [1, 8, 64][round % 3], count as usize);
            assert_eq!(got, (first..first + count).collect::<Vec<_>>(), "round {round}");
            first += count;
        }
        assert!(near.has_frames().is_none_or(|more| !more));
        assert_eq!(near.counters().receive_drops, 0);
        assert_eq!(near.counters().frames_received, u64::from(first));
    });
}

/// A veth pair hands over the sender's own memory, and says at once that it has left; a socket's queue keeps it.
#[test]
fn what_waits_at_the_receiver_keeps_what_it_holds() {
    let Some(net) = Net::make("what_waits_at_the_receiver_keeps_what_it_holds") else { return };
    net.near("link set veth0 mtu 9000");
    net.far("link set veth0 mtu 9000");
    let open = |namespace: &str, kind| {
        Net::inside(namespace, || link::open(kind, "veth0", Room::for_frames(1000)).unwrap())
    };
    for sender in KINDS {
        let (mut near, mut far) = (open(&net.near, LinkKind::Mmsg), open(&net.far, sender));
        let (own, to) = (far.mac(), near.mac());
        let sent: Vec<Vec<u8>> = (0..600_u32)
            .map(|number| frame(to, own, &number.to_be_bytes().repeat(9000 / 4)))
            .collect();
        for some in sent.chunks(16) {
            let report = far.send(&mut some.iter().map(Vec::as_slice));
            assert_eq!(report.sent, some.len(), "{sender:?}: {report:?}");
        }
        let mut got = Vec::new();
        wait_until(|| {
            while near.receive(64, &mut |frame| got.push(frame.to_vec())) > 0 {}
            got.len() >= sent.len()
        });
        let spoilt = sent.iter().zip(&got).filter(|(sent, got)| sent != got).count();
        assert_eq!((got.len(), spoilt), (sent.len(), 0), "{sender:?}");
    }
}

/// Has what leaves `namespace` wait for its turn, at most `limit` octets at a time. `false`: not on this system.
fn slow_down(test: &str, namespace: &str, rate: &str, limit: usize) -> bool {
    let line = format!(
        "netns exec {namespace} tc qdisc replace dev veth0 root tbf rate {rate} burst 8k limit {limit}"
    );
    let done =
        Command::new("ip").args(line.split(' ')).status().is_ok_and(|status| status.success());
    if !done {
        println!("SKIP: {test}: no queueing discipline here");
    }
    done
}

#[test]
fn frames_may_wait_in_the_queue_of_the_interface() {
    let test = "frames_may_wait_in_the_queue_of_the_interface";
    with_every_kind(test, |wire| {
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        if !slow_down(test, &wire.net.far, "2mbit", 10 << 20) {
            return;
        }
        // More than a send ring has places, and 1.5 s for all of them to leave.
        send_numbers(far.as_mut(), near.mac(), 1000, 250, 1500);
        let mut got = drain(near.as_mut(), 64, 250);
        // Those that found no place may overtake others.
        got.sort_unstable();
        assert_eq!(got, (1000..1250).collect::<Vec<_>>());
        // All places are free again.
        let before = far.counters().sent_beside_ring;
        send_numbers(far.as_mut(), near.mac(), 7, 1, 1500);
        assert_eq!(drain(near.as_mut(), 8, 1), [7]);
        assert_eq!(far.counters().sent_beside_ring, before);
    });
}

#[test]
fn frames_that_a_full_queue_drops_are_counted() {
    let test = "frames_that_a_full_queue_drops_are_counted";
    with_every_kind(test, |wire| {
        const COUNT: u32 = 200;
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        if wire.kind == LinkKind::Pnet || !slow_down(test, &wire.net.far, "1mbit", 20 * 1514) {
            return;
        }
        let (own, to) = (far.mac(), near.mac());
        let frames: Vec<_> = (0..COUNT)
            .map(|number| {
                let mut frame = frame(to, own, &number.to_be_bytes());
                frame.resize(14 + 1500, 0);
                frame
            })
            .collect();
        let report = far.send(&mut frames.iter().map(Vec::as_slice));
        assert_eq!(report.sent + report.dropped, COUNT as usize, "{report:?}");
        assert!(report.sent > 10 && report.dropped > 10, "{report:?}");
        let mut got = drain(near.as_mut(), 64, report.sent);
        settle(near.as_mut());
        got.extend(drain(near.as_mut(), 64, 0));
        assert_eq!(got.len(), report.sent, "what is told as sent arrives, once");
        let before = got.len();
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), before);
    });
}

#[test]
fn frames_that_find_no_room_are_counted() {
    with_every_kind("frames_that_find_no_room_are_counted", |wire| {
        const SENT: u32 = 9000;
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        settle(near.as_mut());
        // Beside the room of other tests, libpnet's socket has as much as everybody.
        send_numbers(far.as_mut(), near.mac(), 0, SENT, 60);
        let mut got = drain(near.as_mut(), 64, 256);
        wait_until(|| {
            near.poll_event(clock());
            got.extend(drain(near.as_mut(), 64, 0));
            got.len() as u64 + near.counters().receive_drops >= u64::from(SENT)
        });
        let (first, rest) = got.split_at(256);
        assert_eq!(first, (0..256).collect::<Vec<_>>(), "the oldest are kept");
        assert!(rest.is_sorted(), "in order");
        settle(near.as_mut());
        let drops = near.counters().receive_drops;
        assert!(drops > 0, "{} of {SENT} had room", got.len());
        assert_eq!(got.len() as u64 + drops, u64::from(SENT));
        // Nothing of it lasts.
        send_numbers(far.as_mut(), near.mac(), SENT, 100, 60);
        assert_eq!(drain(near.as_mut(), 8, 100), (SENT..SENT + 100).collect::<Vec<_>>());
        settle(near.as_mut());
        assert_eq!(near.counters().receive_drops, drops);
    });
}

#[test]
fn a_server_hears_requests_and_its_rivals_only() {
    with_every_kind("a_server_hears_requests_and_its_rivals_only", |wire| {
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        let (own, other) = (near.mac(), far.mac());
        let aoe = |flags: u8, slot: u8| frame(own, other, &[flags, 0, 0, 1, slot, 1, 0, 0, 0, 7]);
        let ours: Vec<Address> =
            [2, 3, 4, 9].iter().map(|slot| Address::new(1, *slot).unwrap()).collect();
        near.serve_only(&ours);
        for (flags, slot) in [(0x18, 1), (0x18, 3), (0x10, 200), (0x18, 5), (0x1C, 9), (0x10, 2)] {
            send(far.as_mut(), &aoe(flags, slot));
        }
        send(far.as_mut(), &aoe(0x10, 2)[..14]);
        let mut heard = Vec::new();
        wait_until(|| {
            while near.receive(8, &mut |frame| heard.push((frame[14], frame[18]))) > 0 {}
            heard.len() >= 4
        });
        assert_eq!(heard, [(0x18, 3), (0x10, 200), (0x1C, 9), (0x10, 2)]);
        // Other targets, another filter.
        near.serve_only(&ours[3..]);
        send(far.as_mut(), &aoe(0x18, 3));
        send(far.as_mut(), &aoe(0x18, 9));
        assert_eq!(next(near.as_mut())[4], 9);
        assert_eq!(near.receive(1, &mut |_| ()), 0);
    });
}

#[test]
fn frames_that_outgrow_their_room_are_counted_until_there_is_more() {
    with_every_kind("frames_that_outgrow_their_room_are_counted_until_there_is_more", |wire| {
        let (mut near, mut far) = (wire.open_near(), wire.open_far());
        settle(near.as_mut());
        wire.net.near("link set veth0 mtu 9000");
        wire.net.far("link set veth0 mtu 9000");
        // Nobody has told the link yet.
        send_numbers(far.as_mut(), near.mac(), 0, 2, 1500);
        send_numbers(far.as_mut(), near.mac(), 2, 3, 1600);
        send_numbers(far.as_mut(), near.mac(), 5, 1, 60);
        let wanted = if wire.kind == LinkKind::Pnet { 6 } else { 3 };
        let got = drain(near.as_mut(), 8, wanted);
        let cut = near.counters().receive_truncated;
        if wire.kind == LinkKind::Pnet {
            assert_eq!((got.len(), cut), (6, 0), "its room is for any frame there is");
        } else {
            assert_eq!((got, cut), (vec![0, 1, 5], 3));
        }
        events_until(near.as_mut(), LinkEvent::MtuChanged { mtu: 9000 });
        send_numbers(far.as_mut(), near.mac(), 10, 600, 9000);
        let got = drain(near.as_mut(), 8, 101);
        assert!(got.len() > 100 && got.is_sorted(), "{}", got.len());
        assert_eq!(near.counters().receive_truncated, cut);
        // A smaller MTU later changes nothing.
        wire.net.far("link set veth0 mtu 1500");
        wire.net.near("link set veth0 mtu 1500");
        events_until(near.as_mut(), LinkEvent::MtuChanged { mtu: 1500 });
        send_numbers(far.as_mut(), near.mac(), 7, 1, 1500);
        // What came late of the others is not meant.
        assert_eq!(drain(near.as_mut(), 8, 1).last(), Some(&7));
    });
}

#[test]
fn a_ring_tells_without_being_asked_that_a_frame_waits() {
    let test = "a_ring_tells_without_being_asked_that_a_frame_waits";
    let Some(net) = Net::make(test) else { return };
    let wire = Wire { net, kind: LinkKind::Ring };
    let (mut near, mut far) = (wire.open_near(), wire.open_far());
    assert!(near.implementation().starts_with("ring"), "{}", near.implementation());
    assert_eq!(near.has_frames(), Some(false));
    send_numbers(far.as_mut(), near.mac(), 1, 2, 60);
    wait_until(|| near.has_frames() == Some(true));
    assert_eq!(near.has_frames(), Some(true));
    assert_eq!(near.receive(1, &mut |_| ()), 1);
    wait_until(|| near.has_frames() == Some(true));
    assert_eq!(near.has_frames(), Some(true));
    assert_eq!(near.receive(1, &mut |_| ()), 1);
    assert_eq!(near.has_frames(), Some(false));
}

#[test]
fn the_best_link_is_chosen() {
    let Some(net) = Net::make("the_best_link_is_chosen") else { return };
    let wire = Wire { net, kind: LinkKind::Auto };
    assert_eq!(wire.open_near().implementation(), "ring, the fastest here");
}

/// A link may have a handler for bus errors of its own.
#[test]
fn other_bus_errors_end_the_process_as_before() {
    const NAMESPACE: &str = "COWBLADE_TEST_BUS_ERROR";
    let test = "other_bus_errors_end_the_process_as_before";
    if let Ok(namespace) = std::env::var(NAMESPACE) {
        let _link = Net::inside(&namespace, || {
            link::open(LinkKind::Ring, "veth0", Room::default()).unwrap()
        });
        let file = tempfile::tempfile().unwrap();
        // SAFETY: a new mapping, at a place that nobody else uses.
        let start = unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(core::ptr::null_mut(), 4096, read, shared, file.as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: none: this is the mistake that must end the process.
        let byte = unsafe { start.cast::<u8>().read_volatile() };
        panic!("read {byte} beyond the end of a file");
    }
    let Some(net) = Net::make(test) else { return };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(NAMESPACE, &net.near)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
}
