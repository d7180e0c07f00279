//! Links: how frames enter and leave. The seam between the server loop and the network.
//!
//! ```text
//!   packet.rs  packet socket of Linux, read through a ring or by recvmmsg  (the fast ones)
//!   pnet.rs    raw socket of the operating system, through libpnet         (portable)
//!   memory.rs  an in-memory Ethernet switch; each port is a link           (demo, tests)
//!
//!   tap.rs     listens to everything that passes an interface              (`cowblade watch`; no link)
//!   probe.rs   says and hears everything, from and to anybody              (`cowblade conform`; no link)
//!   beside.rs  what the kernel tells beside a frame, for both
//!
//!   load.rs    the socket of a load generator, for many stations           (`cowblade bench`; no link)
//!   open.rs    which of them            packet_socket.rs  the socket under all but memory.rs
//!   fanout.rs  several sockets of one interface, for several workers
//!   filter.rs  what the kernel lets in  ring.rs, mapping.rs, messages.rs  frames, many at a time
//!   gather.rs, guarded.rs  data that lie by turns in two mapped files, where pages may be missing
//!   send_ring.rs  frames leave through memory shared with the kernel  wait.rs  sleeping until something comes
//!   watch.rs, state.rs, upper.rs  what happens to an interface, and what it is part of
//!   sending.rs  what becomes of frames
//! ```
//!
//! Invariants of every implementation:
//!
//! 1. A delivered frame is whole, starts at its destination address, has `EtherType` 0x88A2, no
//!    foreign VLAN tag, and a destination that is this link's own address or broadcast.
//!    [AoE 2.4, 9]
//! 2. No method blocks. Whoever has nothing else to do waits on [`Link::poll_fd`].
//! 3. A link never fails for good: what goes wrong is counted, and seen as a [`LinkEvent`].

use core::time::Duration;
use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::mapped::MappedBytes;
use crate::values::{Address, Mac};

mod beside;
mod fanout;
mod filter;
mod gather;
#[cfg(target_arch = "x86_64")]
mod guarded;
#[cfg(not(target_arch = "x86_64"))]
#[path = "unguarded.rs"]
mod guarded;
pub mod load;
mod mapping;
pub mod memory;
mod messages;
mod open;
pub mod packet;
mod packet_socket;
pub mod pnet;
pub mod probe;
mod ring;
mod send_ring;
mod sending;
mod state;
pub mod tap;
mod upper;
mod wait;
mod watch;

pub use open::{Room, open, open_several};
pub use state::InterfaceState;
pub use upper::taken_by;
pub use wait::{WAITED_FEW, wait, wait_for_any, wait_for_frames};

/// Raw Ethernet, reduced to the frames an AoE station should see. See the module's invariants.
pub trait Link {
    /// The interface's name, for messages.
    fn name(&self) -> &str;

    /// Which implementation it is, and why if there was a choice; for people.
    fn implementation(&self) -> Cow<'_, str>;

    /// This station's own address, as of the last event.
    fn mac(&self) -> Mac;

    /// Largest Ethernet payload in octets, without the 14 octet header, as of the last event.
    fn mtu(&self) -> usize;

    /// Whether frames can pass at all, as of the last event.
    fn is_up(&self) -> bool;

    /// Becomes readable when frames wait, or when something happened to the link. `None`: this
    /// link must simply be asked again.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Only requests, and answers that claim one of `addresses`, are needed from now on: a link
    /// that can have the others dropped early does so. They may still be delivered.
    fn serve_only(&mut self, addresses: &[Address]) {
        // Delivering all of them is allowed.
        let _: &[Address] = addresses;
    }

    /// For one of [several links](open_several) of one interface: takes its share of the frames from
    /// now on, as soon as those before it do. Before that the first takes all.
    fn share(&mut self) {}

    /// Whether a frame waits, if that can be told without a system call: then it pays to ask a
    /// few times before sleeping. Says nothing of other events.
    fn has_frames(&self) -> Option<bool> {
        None
    }

    /// Hands up to `limit` waiting frames to `sink`, oldest first, and returns how many. The
    /// frame's memory is lent for the duration of the call only.
    fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8])) -> usize;

    /// Sends `frames` in order. A frame that cannot leave now is lost, as on any Ethernet: the
    /// report and the counters say so, the initiator's retransmission repairs it.
    fn send(&mut self, frames: &mut dyn Iterator<Item = &[u8]>) -> SendReport;

    /// Whether [`send_parts`](Self::send_parts) takes frames whose last bytes are mapped.
    fn takes_mapped(&self) -> bool {
        false
    }

    /// As [`send`](Self::send), for frames in two parts. Only where it [`takes_mapped`](Self::takes_mapped)
    /// bytes may there be some.
    fn send_parts(&mut self, frames: &mut dyn Iterator<Item = OutFrame<'_>>) -> SendReport {
        self.send(&mut frames.map(|frame| frame.head))
    }

    /// The next thing that happened to the link, oldest first. To be called until `None` before
    /// each wait, with `now` a monotonic time of any origin; costs nothing when nothing is due.
    fn poll_event(&mut self, now: Duration) -> Option<LinkEvent>;

    /// What passed and what was lost since the link was opened.
    fn counters(&self) -> LinkCounters;
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug)]
pub struct OutFrame<'a> {
    /// The frame, or what of it is ahead of `tail`.
    pub head: &'a [u8],
    /// The rest, where it lies in a mapped file.
    pub tail: Option<MappedBytes>,
}

impl<'a> OutFrame<'a> {
    /// A frame that lies in memory.
    pub fn whole(frame: &'a [u8]) -> Self {
        Self { head: frame, tail: None }
    }

    /// Octets of the frame.
    pub fn len(self) -> usize {
        self.head.len().saturating_add(self.tail.map_or(0, MappedBytes::len))
    }

    /// There are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Something happened to a link. The accessors of [`Link`] already show the new state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkEvent {
    /// Frames can pass (again): advertise. [AoE 4.3]
    Up,
    /// Frames cannot pass. Requests in progress go on; their replies are lost.
    Down,
    /// The largest payload changed: sector counts change, advertise again. [AoE 4.2]
    MtuChanged {
        /// The new largest payload, in octets.
        mtu: usize,
    },
    /// The station's own address changed: the initiators' paths are void, advertise again.
    MacChanged {
        /// The new own address.
        mac: Mac,
    },
    /// The interface was removed from the system. Waiting for one of the same name.
    Gone,
    /// An interface of the same name is back; [`LinkEvent::Up`] follows when it is up.
    Recreated,
}

/// What became of one call of [`Link::send`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SendReport {
    /// Frames handed to the interface.
    pub sent: usize,
    /// Frames lost because the interface or its queue had no room, or was down.
    pub dropped: usize,
    /// Frames lost because they exceed the MTU, which must have changed. [AoE 9.11]
    pub too_long: usize,
    /// Frames lost because their mapped part could not be read.
    pub unreadable: usize,
}

/// Totals of one link since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Frames delivered to the sink.
    pub frames_received: u64,
    /// Octets of these frames, headers included.
    pub bytes_received: u64,
    /// Frames handed to the interface.
    pub frames_sent: u64,
    /// Of these, frames for which the ring had no place, where the link sends through one.
    #[serde(default)]
    pub sent_beside_ring: u64,
    /// Octets of all frames sent, headers included.
    pub bytes_sent: u64,
    /// Frames that arrived but found no room in the receive queue. [AoE 9.12]
    pub receive_drops: u64,
    /// Frames that did not fit the receive buffer and were thrown away. [AoE 9.10]
    pub receive_truncated: u64,
    /// Errors of the receiving side, the interface going down included.
    pub receive_errors: u64,
    /// Frames not sent because a queue had no room.
    pub send_no_room: u64,
    /// Frames not sent because the interface was down or gone.
    pub send_link_down: u64,
    /// Frames not sent because they exceed the MTU. [AoE 9.11]
    pub send_too_long: u64,
    /// Frames not sent for any other reason.
    pub send_other: u64,
}

impl core::iter::Sum for LinkCounters {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            frames_received: a.frames_received + b.frames_received,
            bytes_received: a.bytes_received + b.bytes_received,
            frames_sent: a.frames_sent + b.frames_sent,
            bytes_sent: a.bytes_sent + b.bytes_sent,
            sent_beside_ring: a.sent_beside_ring + b.sent_beside_ring,
            receive_drops: a.receive_drops + b.receive_drops,
            receive_truncated: a.receive_truncated + b.receive_truncated,
            receive_errors: a.receive_errors + b.receive_errors,
            send_no_room: a.send_no_room + b.send_no_room,
            send_link_down: a.send_link_down + b.send_link_down,
            send_too_long: a.send_too_long + b.send_too_long,
            send_other: a.send_other + b.send_other,
        })
    }
}
