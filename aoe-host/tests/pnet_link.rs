//! The raw socket link against a real pair of virtual Ethernet interfaces.
//!
//! Each test makes network namespaces of its own and enters one of them with its own thread, so
//! that no frame leaves them. Without the right to do so the tests print that they were skipped.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use core::time::Duration;
use std::process::Command;
use std::time::Instant;

use aoe_host::link::pnet::PnetLink;
use aoe_host::link::{Link, LinkEvent, wait};
use aoe_host::values::Mac;

use common::Net;

mod common;

const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than the link's own interval between looks.
const QUIET: Duration = Duration::from_millis(600);

fn open_near(net: &Net) -> PnetLink {
    Net::inside(&net.near, || PnetLink::open("veth0").unwrap())
}

fn open_far(net: &Net) -> PnetLink {
    Net::inside(&net.far, || PnetLink::open("veth0").unwrap())
}

fn frame(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xa2], payload].concat()
}

/// The same frame with an 802.1Q tag, which the kernel of the receiver takes out.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let tag = [&[0x81, 0x00][..], &vlan.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

fn send(link: &mut PnetLink, frame: &[u8]) {
    let report = link.send(&mut core::iter::once(frame));
    assert_eq!(report.sent, 1, "{report:?}, {:?}", link.counters());
}

/// Sends `payload` to the station `to`.
fn send_to(link: &mut PnetLink, to: Mac, payload: &[u8]) {
    let own = link.mac();
    send(link, &frame(to, own, payload));
}

/// The payload of the next frame.
fn next(link: &mut PnetLink) -> Vec<u8> {
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

/// Events until `last` was seen.
fn events_until(link: &mut PnetLink, last: LinkEvent) -> Vec<LinkEvent> {
    let start = Instant::now();
    let mut events = Vec::new();
    loop {
        while let Some(event) = link.poll_event(start.elapsed()) {
            events.push(event);
            if event == last {
                return events;
            }
        }
        assert!(start.elapsed() < PATIENCE, "{last:?} did not come, but {events:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn settle(link: &mut PnetLink) {
    let start = Instant::now();
    while start.elapsed() < QUIET {
        link.poll_event(start.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn only_our_own_aoe_frames_are_delivered() {
    let Some(net) = Net::make("only_our_own_aoe_frames_are_delivered") else { return };
    // Promiscuous, as if a bridge were there: foreign frames do reach the sockets then.
    net.near("link set veth0 promisc on");
    let (mut near, mut far) = (open_near(&net), open_far(&net));
    let (own, other) = (near.mac(), far.mac());
    let stranger = Mac([2, 0, 0, 0, 0, 99]);
    let for_me = frame(own, other, b"for me");
    send(&mut far, &frame(stranger, other, b"for a stranger"));
    send(&mut far, &frame(Mac([0x01, 0, 0x5e, 0, 0, 1]), other, b"for a group"));
    send(&mut far, &tagged(&for_me, 5));
    send(&mut far, &tagged(&frame(Mac::BROADCAST, other, b"other vlan"), 4094));
    let mut foreign = for_me.clone();
    foreign[12..14].copy_from_slice(&[0x08, 0x00]);
    send(&mut far, &foreign);
    send(&mut near, &frame(Mac::BROADCAST, own, b"sent by myself"));
    send(&mut far, &tagged(&for_me, 0xE000));
    send(&mut far, &frame(Mac::BROADCAST, other, b"for everybody"));
    send(&mut far, &for_me);
    assert_eq!(next(&mut near), b"for me", "a priority tag is no VLAN");
    assert_eq!(next(&mut near), b"for everybody");
    assert_eq!(next(&mut near), b"for me");
    assert_eq!(near.receive(9, &mut |frame| panic!("{frame:?}")), 0);
    assert_eq!(near.counters().frames_received, 3);
    assert_eq!(next(&mut far), b"sent by myself");
}

#[test]
fn the_interface_is_not_made_promiscuous() {
    let Some(net) = Net::make("the_interface_is_not_made_promiscuous") else { return };
    let _near = open_near(&net);
    let output =
        Command::new("ip").args(["-n", &net.near, "-d", "link", "show", "veth0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("promiscuity 0"), "{text}");
}

#[test]
fn jumbo_frames_pass_and_mtu_changes_are_noticed() {
    let Some(net) = Net::make("jumbo_frames_pass_and_mtu_changes_are_noticed") else { return };
    net.near("link set veth0 mtu 9000");
    net.far("link set veth0 mtu 9000");
    let (mut near, mut far) = (open_near(&net), open_far(&net));
    assert_eq!((near.mtu(), near.is_up()), (9000, true));
    let jumbo: Vec<u8> = (0..=250).cycle().take(9000).collect();
    let long = frame(near.mac(), far.mac(), &jumbo);
    send(&mut far, &long);
    assert_eq!(next(&mut near), jumbo);

    settle(&mut far);
    net.far("link set veth0 mtu 1500");
    let report = far.send(&mut core::iter::once(&long[..]));
    assert_eq!((report.sent, report.too_long), (0, 1), "{:?}", far.counters());
    assert_eq!(far.poll_event(Duration::ZERO), Some(LinkEvent::MtuChanged { mtu: 1500 }));
    assert_eq!(far.mtu(), 1500);
    net.near("link set veth0 mtu 1500");
    assert_eq!(
        events_until(&mut near, LinkEvent::MtuChanged { mtu: 1500 }),
        [LinkEvent::MtuChanged { mtu: 1500 }]
    );
    let short = frame(near.mac(), far.mac(), b"short");
    send(&mut far, &short);
    assert_eq!(next(&mut near), b"short");
}

#[test]
fn down_and_up_are_noticed_and_survived() {
    let Some(net) = Net::make("down_and_up_are_noticed_and_survived") else { return };
    let (mut near, mut far) = (open_near(&net), open_far(&net));
    settle(&mut near);
    net.near("link set veth0 down");
    assert_eq!(events_until(&mut near, LinkEvent::Down), [LinkEvent::Down]);
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
    assert_eq!(events_until(&mut near, LinkEvent::Up).last(), Some(&LinkEvent::Up));
    events_until(&mut far, LinkEvent::Up);
    send(&mut near, &reply);
    assert_eq!(next(&mut far), b"reply");
    send_to(&mut far, near.mac(), b"request");
    assert_eq!(next(&mut near), b"request");
}

#[test]
fn an_outage_between_two_looks_is_still_an_outage() {
    let Some(net) = Net::make("an_outage_between_two_looks_is_still_an_outage") else { return };
    let mut near = open_near(&net);
    settle(&mut near);
    net.near("link set veth0 down");
    net.near("link set veth0 up");
    // The socket reports the failure to whoever uses it next.
    near.receive(1, &mut |_| ());
    let events = events_until(&mut near, LinkEvent::Up);
    assert_eq!(events, [LinkEvent::Down, LinkEvent::Up]);
}

#[test]
fn a_removed_interface_is_awaited_and_used_again() {
    let Some(net) = Net::make("a_removed_interface_is_awaited_and_used_again") else { return };
    let mut near = open_near(&net);
    settle(&mut near);
    net.near("link del veth0");
    assert_eq!(events_until(&mut near, LinkEvent::Gone), [LinkEvent::Down, LinkEvent::Gone]);
    let lost = frame(Mac::BROADCAST, near.mac(), b"lost");
    assert_eq!(near.send(&mut core::iter::once(&lost[..])).dropped, 1);

    net.near(&format!("link add veth0 type veth peer name veth0 netns {}", net.far));
    net.far("link set veth0 up");
    net.near("link set veth0 up");
    let events = events_until(&mut near, LinkEvent::Up);
    assert!(events.contains(&LinkEvent::Recreated), "{events:?}");
    let mut far = open_far(&net);
    send_to(&mut far, near.mac(), b"hello again");
    assert_eq!(next(&mut near), b"hello again");
    send_to(&mut near, far.mac(), b"welcome back");
    assert_eq!(next(&mut far), b"welcome back");
}

#[test]
fn a_changed_address_is_noticed_and_used() {
    let Some(net) = Net::make("a_changed_address_is_noticed_and_used") else { return };
    let (mut near, mut far) = (open_near(&net), open_far(&net));
    settle(&mut near);
    let moved = Mac([2, 0, 0, 0, 0, 42]);
    net.near(&format!("link set veth0 address {moved}"));
    events_until(&mut near, LinkEvent::MacChanged { mac: moved });
    assert_eq!(near.mac(), moved);
    send_to(&mut far, moved, b"to the new address");
    assert_eq!(next(&mut near), b"to the new address");
}

#[test]
fn missing_interfaces_are_named() {
    let Some(net) = Net::make("missing_interfaces_are_named") else { return };
    for name in ["nosuch0", "", "a-name-that-is-far-too-long"] {
        let opened = Net::inside(&net.near, || PnetLink::open(name).map(drop));
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), aoe_host::error::ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("ip link"), "{error}");
    }
}
