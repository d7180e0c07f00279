//! Listens to the AoE frames that pass an interface, in both directions, with time and VLAN tag.
//!
//! Unlike a [`Link`](super::Link) it hears what other machines say to each other, and never sends.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use aoe_proto::wire::ETHERNET_LEN;

use super::InterfaceState;
use super::beside::receive_one;
use super::filter::tap_program;
use super::packet_socket::{PacketSocket, constant_u16};
use crate::capture::{Tagged, strip_tag};
use crate::error::{ErrorKind, HostError, Result};

/// Largest frame taken whole: the loopback interface's MTU, a header and two VLAN tags.
const FRAME_LEN_MAX: usize = 65_536 + ETHERNET_LEN + 8;

/// Receive buffer asked for: some thousands of frames, which wait while a terminal scrolls.
const RECEIVE_BUFFER_LEN: usize = 32 << 20;

/// A frame that was heard.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'f> {
    /// When the kernel saw it, since 1970.
    pub at: Duration,
    /// The frame without VLAN tag.
    pub frame: &'f [u8],
    /// Its whole length without VLAN tag; longer than `frame` if that was cut.
    pub wire_len: usize,
    /// The tag control information of its VLAN tag.
    pub tci: Option<u16>,
}

/// A socket that hears every AoE frame of an interface.
#[derive(Debug)]
pub struct Tap {
    name: String,
    socket: PacketSocket,
    loopback: bool,
    buffer: Vec<u8>,
}

impl Tap {
    /// Listens on the Ethernet interface `name`; with `promiscuous` also to frames that the
    /// interface would not take otherwise, for as long as the tap lives.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// `Unsupported` if it is not Ethernet.
    pub fn open(name: &str, promiscuous: bool) -> Result<Self> {
        let socket = PacketSocket::open_filtered(&tap_program()).map_err(|error| {
            HostError::io(error, "open a raw socket")
                .interface(name)
                .advice("run as root, or give the program CAP_NET_RAW")
        })?;
        let failed = |error| HostError::io(error, "listen").interface(name);
        let state = socket.interface(name).map_err(failed)?.ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "listen")
                .interface(name)
                .advice("`ip link` lists the interfaces of this machine")
        })?;
        let tap = Self {
            name: name.to_owned(),
            socket,
            // The loopback interface shows every frame twice: as it leaves, and as it comes back.
            loopback: state.mac.0 == [0; 6],
            buffer: vec![0; FRAME_LEN_MAX],
        };
        tap.prepare(&state, promiscuous).map_err(failed)?;
        Ok(tap)
    }

    fn prepare(&self, state: &InterfaceState, promiscuous: bool) -> io::Result<()> {
        self.socket.tell_tags()?;
        self.socket.tell_times()?;
        if promiscuous {
            self.socket.hear_everything(state.index)?;
        }
        // Only who is bound to every `EtherType` sees what leaves.
        self.socket.bind_protocol(state.index, constant_u16(libc::ETH_P_ALL))?;
        drop(self.socket.take_error());
        // As much as the system gives; what does not fit is counted.
        drop(self.socket.grow_receive_buffer(RECEIVE_BUFFER_LEN));
        Ok(())
    }

    /// Becomes readable when frames wait.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The MTU of the interface, now. `None` if it is gone.
    pub fn mtu(&self) -> Option<usize> {
        self.socket.interface(&self.name).ok().flatten().map(|state| state.mtu)
    }

    /// Frames that found no room in the queue since the last call.
    pub fn take_drops(&self) -> u32 {
        self.socket.take_drops().unwrap_or(0)
    }

    /// Hands the next frame to `sink`; `false` if none waits.
    ///
    /// # Errors
    /// When the interface went down or away.
    pub fn receive(&mut self, sink: &mut dyn FnMut(&Heard<'_>)) -> Result<bool> {
        loop {
            let received = receive_one(self.socket.as_fd(), &mut self.buffer);
            let received = match received {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(HostError::io(error, "listen").interface(&self.name)),
                },
            };
            if self.loopback && received.outgoing {
                continue;
            }
            let len = received.wire_len.min(self.buffer.len());
            let Some(bytes) = self.buffer.get_mut(..len) else { return Ok(false) };
            let Tagged { frame, tci } = strip_tag(bytes);
            let wire_len = received.wire_len.saturating_sub(len - frame.len());
            let tci = received.tci.or(tci);
            let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
            let at = received.at.or_else(now).unwrap_or_default();
            sink(&Heard { at, frame, wire_len, tci });
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers for the types at bytes 12 and 16, interpreted here.
    fn verdict(outer: u16, inner: u16) -> bool {
        let program = tap_program();
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = if op.k == 12 { outer.into() } else { inner.into() };
                }
                libc::BPF_JMP => {
                    at += usize::from(if accumulator == op.k { op.jt } else { op.jf });
                }
                libc::BPF_RET => return op.k != 0,
                class => panic!("instruction class {class}"),
            }
        }
    }

    #[test]
    fn the_filter_admits_aoe_with_and_without_a_tag() {
        assert!(verdict(0x88A2, 0));
        assert!(verdict(0x8100, 0x88A2));
        assert!(verdict(0x88A8, 0x88A2));
        assert!(!verdict(0x0800, 0x88A2));
        assert!(!verdict(0x8100, 0x0800));
    }
}
