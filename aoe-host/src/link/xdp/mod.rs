//! Frames leave by an XDP socket (`AF_XDP`), beside a packet socket by which they come.
//!
//! ```text
//!   sender.rs  the socket, its memory, one batch        pieces.rs  how a frame lies in memory
//!   rings.rs   what goes round with the kernel          copy.rs    data that lie in mapped files
//! ```
//!
//! The kernel makes a frame out of memory that it knows, with one call for a batch, and hands it to
//! the driver itself: that takes a third less time than `sendmmsg`. Receiving costs the same as by a packet
//! socket's ring, so there is no XDP program, nothing is attached to the interface, and nobody else
//! loses a frame. The price: what leaves this way passes no queueing discipline, and who listens on
//! this interface (tcpdump) does not hear it.
//!
//! What cannot leave this way (too long, no memory free, the interface down) leaves by the packet
//! socket, which says why if it cannot either.

mod copy;
mod pieces;
mod rings;
mod sender;

use std::io;

use aoe_proto::wire::ETHERNET_LEN;

use self::sender::Sender;
use super::sending::{SendFailure, Tally};
use super::{InterfaceState, OutFrame};

/// The way out of one link. See the module's documentation.
#[derive(Debug)]
pub(super) struct Exit {
    /// The number of the interface's queue that it uses.
    queue: u32,
    /// The interface for which a socket was opened or could not be.
    tried: Option<u32>,
    sender: Option<Sender>,
}

impl Exit {
    /// A way out by this queue of the interface as it is now.
    ///
    /// # Errors
    /// With what the system lacks in words.
    pub(super) fn open(state: InterfaceState, queue: u32) -> io::Result<Self> {
        let sender = Sender::open(state.index, queue).map_err(|error| explained(&error, queue))?;
        Ok(Self { queue, tried: Some(state.index), sender: Some(sender) })
    }

    /// Sees to it that the socket is one of the interface as it is found.
    ///
    /// # Errors
    /// As [`Exit::open`], once for each interface.
    pub(super) fn follow(&mut self, found: Option<InterfaceState>) -> io::Result<()> {
        let here = found.map(|state| state.index);
        if here == self.tried {
            return Ok(());
        }
        // The old one first: a queue has one socket.
        self.sender = None;
        self.tried = here;
        if let Some(index) = here {
            let sender = Sender::open(index, self.queue);
            self.sender = Some(sender.map_err(|error| explained(&error, self.queue))?);
        }
        Ok(())
    }

    /// Sends as many frames as can leave this way, from the first one on, and tells how many that
    /// were and what the rest fails of, too, if it is known.
    pub(super) fn send(
        &mut self,
        frames: &[OutFrame<'_>],
        state: InterfaceState,
        tally: &mut Tally<'_>,
    ) -> (usize, Option<SendFailure>) {
        let Some(sender) = self.sender.as_mut().filter(|_| state.up) else { return (0, None) };
        let left = sender.send(frames, state.mtu.saturating_add(ETHERNET_LEN));
        let stuck = left.broken.as_ref().map(|_| SendFailure::LinkDown);
        let mut dropped = left.dropped;
        for (number, frame) in frames.iter().take(left.taken).enumerate() {
            if left.unreadable >> number & 1 != 0 {
                tally.lost(SendFailure::Unreadable);
            } else if let Some(failure) = stuck {
                tally.lost(failure);
            } else if dropped > 0 {
                dropped -= 1;
                tally.lost(SendFailure::NoRoom);
            } else {
                tally.sent(frame.len());
            }
        }
        if stuck.is_some() {
            self.give_up();
        }
        (left.taken, stuck)
    }

    /// Sends what had no room before, if there is any.
    pub(super) fn flush(&mut self) {
        if self.sender.as_mut().is_some_and(|sender| sender.flush().is_err()) {
            self.give_up();
        }
    }

    /// What waits in the socket must not leave when the interface comes back. The next look at it
    /// opens another one.
    fn give_up(&mut self) {
        self.sender = None;
        self.tried = None;
    }
}

fn explained(error: &io::Error, queue: u32) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => "the kernel has no XDP sockets".to_owned(),
        Some(libc::EBUSY) => format!("another XDP socket uses queue {queue} of the interface"),
        Some(libc::EINVAL) => {
            format!("the kernel is older than 6.6, or the interface has no queue {queue}")
        }
        Some(libc::ENOBUFS) => "too little memory may be locked (`ulimit -l`)".to_owned(),
        _ => return io::Error::new(error.kind(), error.to_string()),
    };
    io::Error::new(error.kind(), why)
}
