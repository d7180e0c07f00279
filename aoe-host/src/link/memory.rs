//! An Ethernet switch in memory. Each port is a [`Link`]; used by the demo, tests and simulation.
//!
//! Deterministic: frames are delivered in the order they were sent, nothing depends on time, and
//! a full queue drops the newest frame. Ports may live in different threads.

use core::time::Duration;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aoe_proto::wire::{ETHERNET_LEN, ETHERTYPE};

use super::state::append_changes;
use super::{InterfaceState, Link, LinkCounters, LinkEvent, SendReport};
use crate::values::Mac;

/// A switch with any number of ports. Cloning gives another handle of the same switch.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    shared: Arc<Mutex<Shared>>,
}

/// One station's connection to a [`Switch`]. Dropping it unplugs the cable.
#[derive(Debug)]
pub struct Port {
    name: String,
    index: usize,
    shared: Arc<Mutex<Shared>>,
    state: InterfaceState,
    wake: Option<UnixStream>,
    events: VecDeque<LinkEvent>,
    /// Frames taken from the switch and not yet handed out; reused from call to call.
    batch: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Shared {
    ports: Vec<Socket>,
    /// Emptied frame buffers, so that a steady exchange allocates nothing.
    spare: Vec<Vec<u8>>,
}

/// The switch's side of one port.
#[derive(Debug)]
struct Socket {
    state: InterfaceState,
    queue: VecDeque<Vec<u8>>,
    queue_len_max: usize,
    wake: Option<UnixStream>,
    counters: LinkCounters,
}

/// How to set up a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortConfig {
    /// The station's address.
    pub mac: Mac,
    /// Largest payload in octets.
    pub mtu: usize,
    /// Frames that may wait; the next is dropped and counted.
    pub queue_len_max: usize,
    /// Whether [`Link::poll_fd`] gives a descriptor. Costs a system call per wake-up.
    pub wake: bool,
}

impl PortConfig {
    /// A port at standard MTU with room for 1024 frames, to be polled.
    pub fn new(mac: Mac) -> Self {
        Self { mac, mtu: 1500, queue_len_max: 1024, wake: false }
    }
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs in a station called `name`.
    ///
    /// # Errors
    /// When a descriptor for waking was asked for and the system has none left.
    pub fn add_port(&self, name: &str, config: PortConfig) -> io::Result<Port> {
        let (outer_wake, inner_wake) = if config.wake {
            let (outer, inner) = UnixStream::pair()?;
            outer.set_nonblocking(true)?;
            inner.set_nonblocking(true)?;
            (Some(outer), Some(inner))
        } else {
            (None, None)
        };
        let mut shared = lock(&self.shared);
        let index = shared.ports.len();
        let state = InterfaceState {
            index: u32::try_from(index).map_err(io::Error::other)?,
            mac: config.mac,
            mtu: config.mtu,
            up: true,
        };
        shared.ports.push(Socket {
            state,
            queue: VecDeque::new(),
            queue_len_max: config.queue_len_max,
            wake: inner_wake,
            counters: LinkCounters::default(),
        });
        Ok(Port {
            name: name.to_owned(),
            index,
            shared: Arc::clone(&self.shared),
            state,
            wake: outer_wake,
            events: VecDeque::new(),
            batch: Vec::new(),
        })
    }

    /// Pulls (`false`) or plugs (`true`) the cable of the port with address `mac`.
    pub fn set_up(&self, mac: Mac, up: bool) {
        self.change(mac, |state| state.up = up);
    }

    /// Changes the largest payload of the port with address `mac`.
    pub fn set_mtu(&self, mac: Mac, mtu: usize) {
        self.change(mac, |state| state.mtu = mtu);
    }

    fn change(&self, mac: Mac, edit: impl Fn(&mut InterfaceState)) {
        for port in &mut lock(&self.shared).ports {
            if port.state.mac == mac {
                edit(&mut port.state);
                if !port.state.up {
                    port.queue.clear();
                }
                port.wake_up();
            }
        }
    }
}

impl Shared {
    /// Delivers `frame`, sent by port `from`, to whom it concerns.
    fn forward(&mut self, from: usize, frame: &[u8]) {
        let Some(destination) = destination_of(frame) else { return };
        for (at, port) in self.ports.iter_mut().enumerate() {
            let concerned = destination == Mac::BROADCAST || destination == port.state.mac;
            if at != from && concerned {
                port.deliver(frame, &mut self.spare);
            }
        }
    }
}

impl Socket {
    fn deliver(&mut self, frame: &[u8], spare: &mut Vec<Vec<u8>>) {
        if !self.state.up || !is_untagged_aoe(frame) {
            return;
        }
        if frame.len() > self.state.mtu.saturating_add(ETHERNET_LEN) {
            self.counters.receive_truncated += 1;
            return;
        }
        if self.queue.len() >= self.queue_len_max {
            self.counters.receive_drops += 1;
            return;
        }
        let mut buffer = spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.queue.push_back(buffer);
        if self.queue.len() == 1 {
            self.wake_up();
        }
    }

    fn wake_up(&mut self) {
        if let Some(mut wake) = self.wake.as_ref() {
            // A full pipe has woken its reader already; a closed one has no reader.
            drop(wake.write(&[1]));
        }
    }
}

impl Link for Port {
    fn name(&self) -> &str {
        &self.name
    }

    fn implementation(&self) -> Cow<'_, str> {
        "memory".into()
    }

    fn mac(&self) -> Mac {
        self.state.mac
    }

    fn mtu(&self) -> usize {
        self.state.mtu
    }

    fn is_up(&self) -> bool {
        self.state.up
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wake.as_ref().map(AsFd::as_fd)
    }

    fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        {
            let mut shared = lock(&self.shared);
            let Some(port) = shared.ports.get_mut(self.index) else { return 0 };
            let take = limit.min(port.queue.len());
            for frame in port.queue.drain(..take) {
                port.counters.frames_received += 1;
                port.counters.bytes_received += frame.len() as u64;
                self.batch.push(frame);
            }
            if port.queue.is_empty()
                && let Some(mut wake) = self.wake.as_ref()
            {
                let mut bin = [0_u8; 64];
                while wake.read(&mut bin).is_ok_and(|len| len == bin.len()) {}
            }
        }
        // The switch is not locked here: the sink may well send.
        for frame in &self.batch {
            sink(frame);
        }
        let delivered = self.batch.len();
        lock(&self.shared).spare.append(&mut self.batch);
        delivered
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = &[u8]>) -> SendReport {
        let mut report = SendReport::default();
        let mut shared = lock(&self.shared);
        for frame in frames {
            let Some(port) = shared.ports.get_mut(self.index) else { break };
            if !port.state.up {
                report.dropped += 1;
                port.counters.send_link_down += 1;
            } else if frame.len() > port.state.mtu.saturating_add(ETHERNET_LEN) {
                report.too_long += 1;
                port.counters.send_too_long += 1;
            } else {
                report.sent += 1;
                port.counters.frames_sent += 1;
                port.counters.bytes_sent += frame.len() as u64;
                shared.forward(self.index, frame);
            }
        }
        report
    }

    fn poll_event(&mut self, _now: Duration) -> Option<LinkEvent> {
        if self.events.is_empty() {
            let shared = lock(&self.shared);
            let new = shared.ports.get(self.index).map(|port| port.state);
            if new.is_some_and(|new| new != self.state) {
                append_changes(Some(&self.state), new.as_ref(), false, &mut self.events);
                self.state = new.unwrap_or(self.state);
            }
        }
        self.events.pop_front()
    }

    fn counters(&self) -> LinkCounters {
        lock(&self.shared).ports.get(self.index).map(|port| port.counters).unwrap_or_default()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(port) = lock(&self.shared).ports.get_mut(self.index) {
            port.state.up = false;
            port.queue = VecDeque::new();
            port.wake = None;
        }
    }
}

/// A poisoned switch is still consistent: every change of it is complete before anything panics.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn destination_of(frame: &[u8]) -> Option<Mac> {
    frame.first_chunk::<6>().map(|octets| Mac(*octets))
}

fn is_untagged_aoe(frame: &[u8]) -> bool {
    frame.get(12..ETHERNET_LEN) == Some(&ETHERTYPE.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn frame(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
        [&to.0[..], &from.0, &ETHERTYPE.to_be_bytes(), payload].concat()
    }

    fn send(port: &mut Port, frame: &[u8]) -> SendReport {
        port.send(&mut core::iter::once(frame))
    }

    fn received(port: &mut Port) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        port.receive(usize::MAX, &mut |frame| frames.push(frame.to_vec()));
        frames
    }

    fn three_ports() -> (Switch, Port, Port, Port) {
        let switch = Switch::new();
        let port = |n| switch.add_port("mem", PortConfig::new(mac(n))).unwrap();
        let (a, b, c) = (port(1), port(2), port(3));
        (switch, a, b, c)
    }

    #[test]
    fn unicast_reaches_one_and_broadcast_all_others() {
        let (_switch, mut a, mut b, mut c) = three_ports();
        let direct = frame(mac(2), mac(1), b"direct");
        let everybody = frame(Mac::BROADCAST, mac(1), b"everybody");
        assert_eq!(send(&mut a, &direct).sent, 1);
        assert_eq!(send(&mut a, &everybody).sent, 1);
        assert_eq!(received(&mut a), Vec::<Vec<u8>>::new());
        assert_eq!(received(&mut b), [direct, everybody.clone()]);
        assert_eq!(received(&mut c), [everybody]);
    }

    #[test]
    fn foreign_ethertypes_and_vlans_do_not_arrive() {
        let (_switch, mut a, mut b, _c) = three_ports();
        let mut tagged = frame(mac(2), mac(1), b"");
        tagged[12..14].copy_from_slice(&0x8100_u16.to_be_bytes());
        send(&mut a, &tagged);
        send(&mut a, &tagged[..13]);
        send(&mut a, &[]);
        assert_eq!(received(&mut b), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn full_queue_drops_the_newest_and_counts() {
        let switch = Switch::new();
        let config = PortConfig { queue_len_max: 2, ..PortConfig::new(mac(2)) };
        let mut a = switch.add_port("a", PortConfig::new(mac(1))).unwrap();
        let mut b = switch.add_port("b", config).unwrap();
        for n in 0..3 {
            send(&mut a, &frame(mac(2), mac(1), &[n]));
        }
        assert_eq!(received(&mut b).iter().map(|f| f[14]).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(b.counters().receive_drops, 1);
        assert_eq!(b.counters().frames_received, 2);
    }

    #[test]
    fn limit_leaves_the_rest_for_later() {
        let (_switch, mut a, mut b, _c) = three_ports();
        for n in 0..3 {
            send(&mut a, &frame(mac(2), mac(1), &[n]));
        }
        let mut seen = Vec::new();
        assert_eq!(b.receive(2, &mut |f| seen.push(f[14])), 2);
        assert_eq!(b.receive(2, &mut |f| seen.push(f[14])), 1);
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn mtu_and_cable_changes_are_events() {
        let (switch, mut a, mut b, _c) = three_ports();
        let long = frame(mac(2), mac(1), &[0; 1501]);
        assert_eq!(send(&mut a, &long).too_long, 1);
        switch.set_mtu(mac(1), 9000);
        assert_eq!(a.poll_event(Duration::ZERO), Some(LinkEvent::MtuChanged { mtu: 9000 }));
        assert_eq!(a.poll_event(Duration::ZERO), None);
        assert_eq!(send(&mut a, &long).sent, 1);
        assert_eq!(received(&mut b).len(), 0, "the receiver's MTU is still small");

        switch.set_up(mac(2), false);
        assert_eq!(b.poll_event(Duration::ZERO), Some(LinkEvent::Down));
        assert_eq!(send(&mut b, &frame(mac(1), mac(2), b"")).dropped, 1);
        switch.set_up(mac(2), true);
        assert_eq!(b.poll_event(Duration::ZERO), Some(LinkEvent::Up));
    }

    #[test]
    fn waking_works_across_threads() {
        let switch = Switch::new();
        let config = PortConfig { wake: true, ..PortConfig::new(mac(2)) };
        let mut a = switch.add_port("a", PortConfig::new(mac(1))).unwrap();
        let mut b = switch.add_port("b", config).unwrap();
        let sender = std::thread::spawn(move || {
            for n in 0..100 {
                send(&mut a, &frame(mac(2), mac(1), &[n]));
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 100 {
            super::super::wait(&[b.poll_fd().unwrap()], Some(Duration::from_mins(1))).unwrap();
            assert!(b.receive(7, &mut |f| seen.push(f[14])) > 0, "woken for nothing");
        }
        sender.join().unwrap();
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
    }
}
