//! A link over the operating system's raw socket, through libpnet.
//!
//! Left alone, libpnet receives every `EtherType`, hides packet type and VLAN tag, and turns on
//! promiscuous mode. It is therefore handed a socket that was filtered before it was bound, and
//! that is bound to AoE again after libpnet rebound it to all `EtherType`s. Because the socket
//! stays ours, its readiness can be waited for together with everything else.

use core::time::Duration;
use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aoe_proto::wire::ETHERNET_LEN;
use pnet::datalink::{self, Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::filter::Wanted;
use super::packet_socket::PacketSocket;
use super::sending::{SendFailure, Tally};
use super::watch::Watch;
use super::{InterfaceState, Link, LinkCounters, LinkEvent, Room, SendReport};
use crate::error::{HostError, Result};
use crate::values::{Address, Mac};

/// Largest frame ever taken: the loopback interface's MTU and a header. A frame that fills the
/// buffer, one octet longer than this, was cut and is thrown away. [AoE 9.10]
const FRAME_LEN_MAX: usize = 65_536 + ETHERNET_LEN;

/// How long one frame may wait for room in the send queue before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_millis(10);

/// A link over a raw socket. See the module's documentation.
pub struct PnetLink {
    name: String,
    socket: PacketSocket,
    channel: Option<PnetChannel>,
    watch: Watch,
    /// Why this link and no other, for `status`.
    choice: String,
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
        Self::with_room(name, Room::default(), "pnet".to_owned())
    }

    pub(super) fn with_room(name: &str, room: Room, choice: String) -> Result<Self> {
        let (socket, state) = PacketSocket::of_interface(name, room)?;
        let mut link = Self {
            name: name.to_owned(),
            socket,
            channel: None,
            watch: Watch::new(state),
            choice,
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
        let Ok(found) = self.socket.interface(&self.name) else {
            // Seen as an interface that is not usable; the next look tries again.
            return;
        };
        if let Some(new) = self.watch.replacement(found)
            && self.attach(new).is_err()
        {
            self.counters.receive_errors += 1;
            return;
        }
        self.watch.update(found);
        if let Ok(drops) = self.socket.take_drops() {
            self.counters.receive_drops += u64::from(drops);
        }
    }

    fn note_link_down(&mut self) {
        self.watch.interrupt();
        // What is left on the socket would make every wait return at once.
        drop(self.socket.take_error());
    }
}

impl Link for PnetLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn implementation(&self) -> Cow<'_, str> {
        self.choice.as_str().into()
    }

    fn mac(&self) -> Mac {
        self.watch.state().mac
    }

    fn mtu(&self) -> usize {
        self.watch.state().mtu
    }

    fn is_up(&self) -> bool {
        self.watch.state().up
    }

    fn serve_only(&mut self, addresses: &[Address]) {
        // If the kernel does not take the filter, more frames come than are needed.
        drop(self.socket.set_wanted(&Wanted::by_server(addresses)));
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
        let mut tally = Tally::new(&mut self.counters);
        let mut too_long = false;
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
                Ok(()) => tally.sent(frame.len()),
                Err(failure) => {
                    tally.lost(failure);
                    match failure {
                        SendFailure::TooLong => too_long = true,
                        SendFailure::NoRoom | SendFailure::LinkDown => stuck = Some(failure),
                        SendFailure::Unreadable | SendFailure::Other => {}
                    }
                }
            }
        }
        let report = tally.report;
        if too_long {
            self.watch.suspect();
        }
        if stuck == Some(SendFailure::LinkDown) {
            self.note_link_down();
        }
        report
    }

    fn poll_event(&mut self, now: Duration) -> Option<LinkEvent> {
        if self.watch.is_due(now) {
            self.look();
        }
        self.watch.next_event()
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

fn send_one(channel: &mut PnetChannel, frame: &[u8]) -> core::result::Result<(), SendFailure> {
    match channel.sender.send_to(frame, None) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(send_failure(&error)),
        None => Err(SendFailure::Other),
    }
}

/// libpnet's own failures have no number: the wait for room ended, or the socket is in an error
/// state.
fn send_failure(error: &io::Error) -> SendFailure {
    match error.raw_os_error() {
        Some(_) => SendFailure::of(error),
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
    fn failures_without_a_number_are_told_apart_too() {
        for (error, failure) in [
            (io::Error::from_raw_os_error(libc::EMSGSIZE), SendFailure::TooLong),
            (io::Error::new(io::ErrorKind::TimedOut, "Timed out"), SendFailure::NoRoom),
            (io::Error::other("socket error"), SendFailure::LinkDown),
        ] {
            assert_eq!(send_failure(&error), failure, "{error}");
        }
    }
}
