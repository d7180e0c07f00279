//! A link over the operating system's raw socket, through libpnet.
//!
//! Left alone, libpnet receives every `EtherType`, hides packet type and VLAN tag, and turns on
//! promiscuous mode. It is therefore handed a socket that was filtered before it was bound, and
//! that is bound to AoE again after libpnet rebound it to all `EtherType`s. Because the socket
//! stays ours, its readiness can be waited for together with everything else.

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aoe_proto::wire::ETHERNET_LEN;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::packet_socket::PacketSocket;
use super::state::append_changes;
use super::{InterfaceState, Link, LinkCounters, LinkEvent, SendReport};
use crate::error::{ErrorKind, HostError, Result};
use crate::values::Mac;

/// Largest frame ever taken: the loopback interface's MTU and a header. A frame that fills the
/// buffer, one octet longer than this, was cut and is thrown away. [AoE 9.10]
const FRAME_LEN_MAX: usize = 65_536 + ETHERNET_LEN;

/// How long one frame may wait for room in the send queue before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_millis(10);

/// Distance between two looks at the interface when nothing pointed at a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A link over a raw socket. See the module's documentation.
pub struct PnetLink {
    name: String,
    socket: PacketSocket,
    channel: Option<PnetChannel>,
    /// The last look; kept through an absence so that the accessors stay meaningful.
    state: InterfaceState,
    present: bool,
    next_look: Option<Duration>,
    /// A send or receive failed in a way that calls for a look now.
    suspicious: bool,
    /// The socket reported the link down since the last look.
    interrupted: bool,
    events: VecDeque<LinkEvent>,
    counters: LinkCounters,
}

struct PnetChannel {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl PnetLink {
    /// Opens a raw socket on the Ethernet interface `name`, which may be down.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// `Unsupported` if it is not Ethernet.
    pub fn open(name: &str) -> Result<Self> {
        let socket = PacketSocket::open().map_err(|error| {
            HostError::io(error, "open a raw socket")
                .interface(name)
                .advice("run as root, or give the program CAP_NET_RAW")
        })?;
        let state = socket
            .interface(name)
            .map_err(|error| HostError::io(error, "use the interface").interface(name))?
            .ok_or_else(|| {
                HostError::new(ErrorKind::NotFound, "use the interface")
                    .interface(name)
                    .advice("`ip link` lists the interfaces of this machine")
            })?;
        let mut link = Self {
            name: name.to_owned(),
            socket,
            channel: None,
            state,
            present: true,
            next_look: None,
            suspicious: false,
            interrupted: false,
            events: VecDeque::new(),
            counters: LinkCounters::default(),
        };
        link.attach(state)
            .map_err(|error| HostError::io(error, "bind a raw socket").interface(name))?;
        Ok(link)
    }

    /// Binds the socket to the interface in `state` through a fresh libpnet channel.
    fn attach(&mut self, state: InterfaceState) -> io::Result<()> {
        let interface = NetworkInterface {
            name: self.name.clone(),
            description: String::new(),
            index: state.index,
            mac: Some(datalink::MacAddr::from(state.mac.0)),
            ips: Vec::new(),
            flags: 0,
        };
        let config = Config {
            // Only `build_and_send`, which is not used here, needs a write buffer.
            write_buffer_size: 0,
            read_buffer_size: FRAME_LEN_MAX + 1,
            // Readiness was waited for outside; `next` must return at once.
            read_timeout: Some(Duration::ZERO),
            write_timeout: Some(SEND_TIMEOUT),
            promiscuous: false,
            socket_fd: Some(self.socket.duplicate()?),
            ..Config::default()
        };
        self.channel = None;
        let Channel::Ethernet(sender, receiver) = datalink::channel(&interface, config)? else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no Ethernet channel"));
        };
        self.socket.bind(state.index)?;
        // An interface that is down leaves an error on the socket; the state says it already.
        drop(self.socket.take_error());
        self.channel = Some(PnetChannel { sender, receiver });
        Ok(())
    }

    /// Looks at the interface and queues what changed.
    fn look(&mut self) {
        self.suspicious = false;
        let Ok(new) = self.socket.interface(&self.name) else {
            // Seen as an interface that is not usable; the next look tries again.
            return;
        };
        let old = self.present.then_some(self.state);
        let replaced =
            new.filter(|new| old.is_none_or(|old| old.index != new.index || old.mac != new.mac));
        if let Some(new) = replaced
            && self.attach(new).is_err()
        {
            self.counters.receive_errors += 1;
            return;
        }
        append_changes(old.as_ref(), new.as_ref(), self.interrupted, &mut self.events);
        self.interrupted = false;
        self.present = new.is_some();
        self.state = new.unwrap_or(InterfaceState { up: false, ..self.state });
        if let Ok(drops) = self.socket.take_drops() {
            self.counters.receive_drops += u64::from(drops);
        }
    }

    fn note_link_down(&mut self) {
        self.suspicious = true;
        self.interrupted = true;
        // What is left on the socket would make every wait return at once.
        drop(self.socket.take_error());
    }
}

impl Link for PnetLink {
    fn name(&self) -> &str {
        &self.name
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
        Some(self.socket.as_fd())
    }

    fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let Some(channel) = &mut self.channel else { return 0 };
        let mut delivered = 0;
        let mut failed = false;
        for _ in 0..limit {
            match channel.receiver.next() {
                Ok(frame) if frame.len() > FRAME_LEN_MAX => self.counters.receive_truncated += 1,
                Ok(frame) => {
                    self.counters.frames_received += 1;
                    self.counters.bytes_received += frame.len() as u64;
                    delivered += 1;
                    sink(frame);
                }
                Err(error) if is_nothing_waiting(&error) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            self.counters.receive_errors += 1;
            self.note_link_down();
        }
        delivered
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = &[u8]>) -> SendReport {
        let mut report = SendReport::default();
        // Once the queue is full or the link down, the rest of the batch shares that fate:
        // waiting again for each frame would stall every initiator.
        let mut stuck: Option<SendFailure> = None;
        for frame in frames {
            let outcome = match (stuck, &mut self.channel) {
                (Some(failure), _) => Err(failure),
                (None, None) => Err(SendFailure::LinkDown),
                (None, Some(channel)) => send_one(channel, frame),
            };
            match outcome {
                Ok(()) => {
                    report.sent += 1;
                    self.counters.frames_sent += 1;
                    self.counters.bytes_sent += frame.len() as u64;
                }
                Err(SendFailure::TooLong) => {
                    report.too_long += 1;
                    self.counters.send_too_long += 1;
                    self.suspicious = true;
                }
                Err(failure) => {
                    report.dropped += 1;
                    match failure {
                        SendFailure::NoRoom => self.counters.send_no_room += 1,
                        SendFailure::LinkDown => self.counters.send_link_down += 1,
                        SendFailure::TooLong | SendFailure::Other => self.counters.send_other += 1,
                    }
                    if failure != SendFailure::Other {
                        stuck = Some(failure);
                    }
                }
            }
        }
        if stuck == Some(SendFailure::LinkDown) {
            self.note_link_down();
        }
        report
    }

    fn poll_event(&mut self, now: Duration) -> Option<LinkEvent> {
        if self.events.is_empty()
            && (self.suspicious || self.next_look.is_none_or(|next_look| now >= next_look))
        {
            self.next_look = Some(now.saturating_add(LOOK_INTERVAL));
            self.look();
        }
        self.events.pop_front()
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SendFailure {
    NoRoom,
    LinkDown,
    TooLong,
    Other,
}

fn send_one(channel: &mut PnetChannel, frame: &[u8]) -> core::result::Result<(), SendFailure> {
    match channel.sender.send_to(frame, None) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(send_failure(&error)),
        None => Err(SendFailure::Other),
    }
}

fn send_failure(error: &io::Error) -> SendFailure {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => SendFailure::TooLong,
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => SendFailure::LinkDown,
        Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => SendFailure::NoRoom,
        Some(_) => SendFailure::Other,
        // libpnet's own: the wait for room ended, or the socket is in an error state.
        None if error.kind() == io::ErrorKind::TimedOut => SendFailure::NoRoom,
        None => SendFailure::LinkDown,
    }
}

fn is_nothing_waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_errors_are_told_apart() {
        for (errno, failure) in [
            (libc::EMSGSIZE, SendFailure::TooLong),
            (libc::ENETDOWN, SendFailure::LinkDown),
            (libc::ENXIO, SendFailure::LinkDown),
            (libc::ENOBUFS, SendFailure::NoRoom),
            (libc::EPERM, SendFailure::Other),
        ] {
            assert_eq!(send_failure(&io::Error::from_raw_os_error(errno)), failure);
        }
        let timed_out = io::Error::new(io::ErrorKind::TimedOut, "Timed out");
        assert_eq!(send_failure(&timed_out), SendFailure::NoRoom);
    }
}
