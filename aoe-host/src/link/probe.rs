//! A socket for examining targets: sends frames from any source address, of any length and with
//! VLAN tags, and hears every AoE frame that passes the interface, with the id of its tag.
//!
//! It is no [`Link`](super::Link), whose first invariant is to hear nothing of the kind.

use core::time::Duration;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aoe_proto::wire::ETHERNET_LEN;

use super::beside::receive_one;
use super::filter::Wanted;
use super::packet_socket::PacketSocket;
use super::{InterfaceState, Room, messages};
use crate::error::{ErrorKind, HostError, Result};
use crate::values::Mac;

/// The id within a VLAN tag; the rest is priority.
const VLAN_ID_MASK: u16 = 0x0FFF;
/// Frames that may wait: the answers to a full window, and to what others ask meanwhile.
const WAITING_FRAMES: usize = 1024;
/// Frames taken by one call: a flood must not keep the caller from its clock.
const TAKEN_MAX: usize = 256;
/// Looks at an interface that is down before it is given up, and their distance: one that was
/// raised a moment ago says so a little later.
const UP_LOOKS: u32 = 20;
const UP_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A socket that says and hears everything. See the module's documentation.
#[derive(Debug)]
pub struct Probe {
    name: String,
    socket: PacketSocket,
    state: InterfaceState,
    buffer: Vec<u8>,
}

impl Probe {
    /// Opens a promiscuous socket on the Ethernet interface `name`.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// `Unsupported` if it is not Ethernet, `Network` if it is down.
    pub fn open(name: &str) -> Result<Self> {
        let (socket, mut state) =
            PacketSocket::of_interface(name, Room::for_frames(WAITING_FRAMES))?;
        let listening = |error| HostError::io(error, "listen").interface(name);
        for _ in 0..UP_LOOKS {
            if state.up {
                break;
            }
            std::thread::sleep(UP_LOOK_INTERVAL);
            state = socket.interface(name).map_err(listening)?.unwrap_or(state);
        }
        if !state.up {
            return Err(HostError::new(ErrorKind::Network, "use the interface")
                .interface(name)
                .detail("it is down")
                .advice(format!("`ip link set {name} up` raises it")));
        }
        socket.set_wanted(&Wanted::Anything).map_err(listening)?;
        socket.hear_everything(state.index).map_err(listening)?;
        socket.tell_tags().map_err(listening)?;
        socket.bind(state.index).map_err(listening)?;
        let buffer = vec![0; state.mtu.saturating_add(ETHERNET_LEN)];
        Ok(Self { name: name.to_owned(), socket, state, buffer })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's own address.
    pub fn mac(&self) -> Mac {
        self.state.mac
    }

    /// Largest Ethernet payload in octets.
    pub fn mtu(&self) -> usize {
        self.state.mtu
    }

    /// Whether it is the loopback interface, where everybody has the address 0 and hears itself.
    pub fn is_loopback(&self) -> bool {
        self.state.mac == Mac([0; 6])
    }

    /// Whether frames shorter than 60 octets arrive as they were sent, as far as this end can
    /// tell: a veth pair and a tap interface do not pad them, nor does loopback.
    pub fn keeps_short_frames(&self) -> bool {
        keeps_short_frames(&Path::new("/sys/class/net").join(&self.name))
    }

    /// Becomes readable when frames wait.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one frame as it is, VLAN tag included. Frames shorter than an Ethernet header cannot
    /// be sent.
    ///
    /// # Errors
    /// When it did not leave: the interface is down, or the frame is too long for it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        messages::send_parts(&self.socket, core::iter::once([frame])).map(drop)
    }

    /// Hands waiting frames to `sink`, a few hundred at most, oldest first, each with the id of its VLAN tag (0: a
    /// priority tag), and tells how many there were. The frame is without its tag.
    pub fn receive(&mut self, sink: &mut dyn FnMut(&[u8], Option<u16>)) -> usize {
        let mut count = 0;
        // What goes wrong here is an interface that goes down and comes back: the target's
        // business as much as ours, seen as silence.
        while count < TAKEN_MAX
            && let Ok(received) = receive_one(self.socket.as_fd(), &mut self.buffer)
        {
            count += 1;
            if let Some(frame) = self.buffer.get(..received.wire_len) {
                sink(frame, received.tci.map(|tci| tci & VLAN_ID_MASK));
            }
        }
        count
    }
}

/// Reads how an interface is made: virtual, and neither a bridge, a bond nor part of another
/// interface, which may all lead to real hardware.
fn keeps_short_frames(interface: &Path) -> bool {
    let Ok(device) = fs::canonicalize(interface) else { return false };
    let words = fs::read_to_string(interface.join("uevent")).unwrap_or_default();
    let has_type = words.lines().any(|line| line.starts_with("DEVTYPE="));
    device.starts_with("/sys/devices/virtual") && !has_type
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_does_not_pad_and_a_wire_that_is_not_there_cannot_be_trusted() {
        let net = Path::new("/sys/class/net");
        if net.join("lo").exists() {
            assert!(keeps_short_frames(&net.join("lo")));
        }
        assert!(!keeps_short_frames(&net.join("no-such-interface")));
    }
}
