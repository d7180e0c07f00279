//! The raw socket of a load generator: requests of many stations leave, answers to all of them come.
//!
//! It must cost less than the servers it measures: answers are read in a ring, as much of them as is
//! wanted, and requests leave in batches, through a ring as well where there is one.

use core::time::Duration;
use std::io;
use std::os::fd::AsFd;

use aoe_proto::wire::ETHERNET_LEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::filter::answers_program;
use super::messages::{self, MESSAGES_MAX};
use super::packet_socket::PacketSocket;
use super::ring::Ring;
use super::send_ring::SendRing;
use super::{InterfaceState, Room, wait};
use crate::error::{HostError, Result};

/// Octets that are taken of each answer where only its header is wanted.
pub const HEAD_LEN: usize = 64;

/// Room for so many answers, as far as a ring may be so large.
const FRAMES: usize = 1 << 16;

/// How long a full send queue is waited for, once in a call.
const SEND_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Which answers a [`LoadSocket`] takes, and how much of each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answers {
    /// Those for every station, not only the interface's own.
    pub every_station: bool,
    /// All octets, not only the first [`HEAD_LEN`].
    pub whole: bool,
}

/// A raw socket; see the module's documentation.
#[derive(Debug)]
pub struct LoadSocket {
    // Before the socket: a ring can only be taken away when it is not mapped.
    ring: Ring,
    socket: PacketSocket,
    send_ring: Option<SendRing>,
    state: InterfaceState,
}

impl LoadSocket {
    /// Opens a socket on the Ethernet interface `name`.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// others if the system has no packet rings.
    pub fn open(name: &str, answers: Answers) -> Result<Self> {
        let (socket, state) = PacketSocket::of_interface(name, Room::default())?;
        let ring = prepare(&socket, &state, answers).map_err(|error| {
            HostError::io(error, "make a raw socket ready for load").interface(name)
        })?;
        let send_ring = SendRing::open(name, state).ok();
        Ok(Self { ring, socket, send_ring, state })
    }

    /// The interface, as it was when the socket was opened.
    pub fn state(&self) -> InterfaceState {
        self.state
    }

    /// Sends frames of two parts in order, and tells how many left. The others are lost.
    pub fn send(&mut self, frames: &mut dyn Iterator<Item = [&[u8]; 2]>) -> usize {
        let mut sent = 0;
        let mut may_wait = true;
        loop {
            let mut batch: [[&[u8]; 2]; MESSAGES_MAX] = [[&[]; 2]; MESSAGES_MAX];
            let mut count = 0;
            for (place, frame) in batch.iter_mut().zip(&mut *frames) {
                *place = frame;
                count += 1;
            }
            let mut rest = batch.get(..count).unwrap_or(&batch);
            if let Some(ring) = &mut self.send_ring {
                let left = ring.send(rest, self.state.mtu.saturating_add(ETHERNET_LEN));
                sent += left;
                rest = rest.get(left..).unwrap_or_default();
            }
            while let Some((_first, behind)) = rest.split_first() {
                match messages::send_parts(&self.socket, rest.iter().copied()) {
                    Ok(left) => {
                        sent += left;
                        rest = rest.get(left.max(1)..).unwrap_or_default();
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && may_wait => {
                        may_wait = false;
                        wait_for_room(&self.socket);
                    }
                    // The first of them is lost, and the others have their turn.
                    Err(_) => rest = behind,
                }
            }
            if count < MESSAGES_MAX {
                return sent;
            }
        }
    }

    /// Hands up to `limit` answers that are there to `sink`, as much of each as is wanted and the
    /// length of all of it, and returns how many.
    pub fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8], usize)) -> usize {
        let mut taken = 0;
        while taken < limit
            && let Some(lent) = self.ring.next()
        {
            if let Some((bytes, len)) = lent.beginning() {
                sink(bytes, len);
            }
            taken += 1;
        }
        taken
    }

    /// Waits until answers are there, or `patience` has passed, or the interface went down.
    pub fn wait(&self, patience: Duration) {
        if wait(&[self.socket.as_fd()], Some(patience)).is_ok() && !self.ring.is_ready() {
            // An error left on the socket would make every wait return at once.
            drop(self.socket.take_error());
        }
    }

    /// Answers that found no room since the last call.
    pub fn take_drops(&self) -> u32 {
        self.socket.take_drops().unwrap_or(0)
    }
}

fn prepare(socket: &PacketSocket, state: &InterfaceState, answers: Answers) -> io::Result<Ring> {
    let mtu = if answers.whole { state.mtu } else { HEAD_LEN };
    let octets = if answers.whole { u32::MAX } else { u32::try_from(HEAD_LEN).unwrap_or(u32::MAX) };
    socket.attach_filter(&answers_program(answers.every_station, octets))?;
    let ring = Ring::new(socket, mtu, FRAMES)?;
    if answers.every_station {
        socket.hear_everything(state.index)?;
    }
    socket.bind(state.index)?;
    Ok(ring)
}

/// Waits a moment until the socket's send queue takes a frame again.
fn wait_for_room(socket: &PacketSocket) {
    let mut waited = [PollFd::new(socket, PollFlags::OUT)];
    // In vain or not: the next attempt to send tells.
    let _ready = poll(&mut waited, Some(&SEND_TIMEOUT));
}
