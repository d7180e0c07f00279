//! Frames leave through memory shared with the kernel: a packet socket's send ring (`TPACKET_V2`).
//!
//! ```text
//!  place 0                                                  place 1
//!  | status, length | description | Ethernet header | payload | ..
//! ```
//!
//! Frames are written to their places, in order, and one call has all of them sent. A server takes 10 to 35 %
//! less processor time than with `sendmmsg`: the kernel neither reads a list of parts for each frame nor
//! stops between two frames to run whoever waits for the first.
//!
//! Without more, the kernel would send the places themselves. Where a frame passes a veth pair, a bridge or a
//! tap, it would then have to find memory and copy it after all (before Linux 4.20 it gave the place
//! back while the frame was still in a queue, and the next answer was written over it). So a description before
//! each frame (`PACKET_VNET_HDR`) says that all of it is header, which the kernel copies at once.
//!
//! With a description nobody compares a frame with the MTU, which may have been lowered, so that is done here for
//! frames that not every interface takes.
//!
//! The frames leave by a socket of their own that hears nothing: with a send ring a socket sends in no
//! other way. What cannot leave this way (too long, no place free, data that cannot be read, the interface
//! down) leaves by `sendmmsg`, which says why if it cannot either.

#![allow(unsafe_code, reason = "frames are written to memory shared with the kernel")]

use core::sync::atomic::Ordering;
use std::io;

use aoe_proto::wire::ETHERNET_LEN;
use rustix::net::{SendFlags, send};

use super::guarded::Guard;
use super::mapping::Mapping;
use super::messages::MESSAGES_MAX;
use super::packet_socket::{PacketSocket, RingUse};
use super::ring::{Place, RingLayout};
use super::{InterfaceState, OutFrame};
use crate::mapped::MappedBytes;

/// Octets from a place's beginning to the frame's description: the ring's header, aligned
/// (`TPACKET_ALIGN(sizeof(struct tpacket2_hdr))`).
const DESCRIPTION_AT: usize = 32;

/// Octets of the description (`struct virtio_net_hdr`): flags, kind, length of the header, and three more
/// numbers, which are of no concern here.
const DESCRIPTION_LEN: usize = 10;

const FRAME_AT: usize = DESCRIPTION_AT + DESCRIPTION_LEN;

/// Longest frame that a description can tell of.
const FRAME_LEN_MAX: usize = u16::MAX as usize;

/// Longest frame of an Ethernet without jumbo frames: with one that is longer than an MTU that was just lowered
/// the hardware may do anything; shorter ones are lost at worst.
const ORDINARY_LEN: usize = 1500 + ETHERNET_LEN;

/// Where a place's header says how long description and frame are.
const LENGTH_AT: usize = 4;

/// Places: answers that a network card has not confirmed yet, which it does for many at once. Some 1.2 MiB with
/// jumbo frames.
const PLACES: usize = 128;

/// Linux before that takes the description for a part of the frame.
const LINUX_MIN: (u32, u32) = (4, 6);

const STATUS_FREE: u32 = libc::TP_STATUS_AVAILABLE;
const STATUS_REQUEST: u32 = libc::TP_STATUS_SEND_REQUEST;
const STATUS_SENDING: u32 = libc::TP_STATUS_SENDING;
const STATUS_WRONG: u32 = libc::TP_STATUS_WRONG_FORMAT;

/// Whether a place of this status is ours. Beside these bits some kernels tell that a time was taken.
fn is_free(status: u32) -> bool {
    status & (STATUS_REQUEST | STATUS_SENDING | STATUS_WRONG) == 0
}

/// Whether the kernel took a frame that it was asked to send: it is on its way, or has left.
fn is_taken(status: u32) -> bool {
    status & (STATUS_REQUEST | STATUS_WRONG) == 0
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct SendRing {
    // Before the socket: a ring can only be taken away when it is not mapped.
    memory: Mapping,
    socket: PacketSocket,
    layout: RingLayout,
    /// Where the next frame goes: the kernel's own place, too, between calls.
    place: Place,
    /// How mapped data get here, where that is known.
    guard: Option<Guard>,
    /// Of the interface.
    name: String,
}

impl SendRing {
    /// A ring for the interface `name` as it is now.
    ///
    /// # Errors
    /// The system has no such rings, or no memory for one.
    pub(super) fn open(name: &str, state: InterfaceState) -> io::Result<Self> {
        if !describes_frames(&rustix::system::uname().release().to_string_lossy()) {
            let why = "Linux before 4.6 cannot copy what leaves a send ring";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let longest = state.mtu.saturating_add(ETHERNET_LEN);
        if longest > FRAME_LEN_MAX {
            let why = "frames are too long for a send ring";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let layout = RingLayout::new(FRAME_AT.saturating_add(longest), PLACES)?;
        let socket = PacketSocket::mute()?;
        socket.describe_frames()?;
        socket.set_ring(RingUse::Send, Some(layout))?;
        let memory = Mapping::new(&socket, 0, layout.len())?;
        socket.bind_protocol(state.index, 0)?;
        let (place, guard, name) = (Place::default(), Guard::new(), name.to_owned());
        Ok(Self { memory, socket, layout, place, guard, name })
    }

    fn frame_len_max(&self) -> usize {
        self.layout.frame_len.saturating_sub(FRAME_AT).min(FRAME_LEN_MAX)
    }

    /// Sends frames of at most `len_max` octets, at most [`MESSAGES_MAX`], and returns how many: those
    /// before the first that cannot leave this way now.
    pub(super) fn send<F: Leaving>(&mut self, frames: &[F], len_max: usize) -> usize {
        let first = self.place;
        let mut len_max = len_max.min(self.frame_len_max());
        let longest = frames.iter().map(Leaving::octets).max();
        if longest.is_some_and(|len| len > ORDINARY_LEN) {
            let mtu = self.socket.mtu(&self.name).unwrap_or(0);
            len_max = len_max.min(mtu.saturating_add(ETHERNET_LEN));
        }
        let mut staged = 0;
        for frame in frames.iter().take(MESSAGES_MAX) {
            if frame.octets() > len_max || self.stage(frame).is_none() {
                break;
            }
            staged += 1;
        }
        if staged == 0 {
            return 0;
        }
        // What failed shows in the places.
        let _sent = send(&self.socket, &[], SendFlags::DONTWAIT);
        self.settle(first, staged)
    }

    /// Puts a frame into the next place and asks for it to be sent. `None`: the place is not free, or the
    /// frame cannot be read.
    fn stage(&mut self, frame: &impl Leaving) -> Option<()> {
        let at = self.layout.offset(self.place);
        // Pairs with the kernel's barrier after its last look at the place.
        if !is_free(self.memory.word(at)?.load(Ordering::Acquire)) {
            return None;
        }
        let description = description(frame.octets())?;
        let len = u32::try_from(DESCRIPTION_LEN + frame.octets()).ok()?;
        self.write(at + DESCRIPTION_AT, &description)?;
        frame.write_to(self, at + FRAME_AT)?;
        self.memory.word(at + LENGTH_AT)?.store(len, Ordering::Relaxed);
        self.memory.word(at)?.store(STATUS_REQUEST, Ordering::Release);
        self.place = self.layout.after(self.place);
        Some(())
    }

    /// Writes to the free place in which a frame is being built.
    fn write(&self, at: usize, bytes: &[u8]) -> Option<()> {
        // SAFETY: the place is free, so the kernel does not look at it before its status is stored, and
        // nobody else knows of it.
        unsafe { self.memory.write(at, bytes) }
    }

    /// Copies to the free place in which a frame is being built. `None` if not all of it can be read.
    fn copy(&self, at: usize, bytes: MappedBytes) -> Option<()> {
        let guard = self.guard?;
        let mut to = at;
        for part in bytes.parts() {
            let place = self.memory.part(to, part.len())?;
            // SAFETY: a free place, as above, and a mapping apart from it that may have lost its pages
            // only, which whoever lent it promises.
            if !unsafe { guard.copy(place.as_ptr(), part.start(), part.len()) } {
                return None;
            }
            to += part.len();
        }
        Some(())
    }

    /// Of the `staged` places from `first` on, counts those that the kernel took, which it does in order,
    /// and takes back the others: there it will look first the next time.
    fn settle(&mut self, first: Place, staged: usize) -> usize {
        let mut place = first;
        self.place = first;
        let mut taken = 0;
        for _ in 0..staged {
            let Some(word) = self.memory.word(self.layout.offset(place)) else { break };
            place = self.layout.after(place);
            if is_taken(word.load(Ordering::Acquire)) {
                taken += 1;
                self.place = place;
            } else {
                word.store(STATUS_FREE, Ordering::Release);
            }
        }
        taken
    }
}

/// What can leave through a ring.
pub(super) trait Leaving {
    fn octets(&self) -> usize;

    /// Writes all of it to a place of `ring`, from `at` on.
    fn write_to(&self, ring: &SendRing, at: usize) -> Option<()>;
}

impl Leaving for OutFrame<'_> {
    fn octets(&self) -> usize {
        self.len()
    }

    fn write_to(&self, ring: &SendRing, at: usize) -> Option<()> {
        ring.write(at, self.head)?;
        self.tail.map_or(Some(()), |tail| ring.copy(at + self.head.len(), tail))
    }
}

/// A frame in two parts.
impl Leaving for [&[u8]; 2] {
    fn octets(&self) -> usize {
        self.iter().map(|part| part.len()).sum()
    }

    fn write_to(&self, ring: &SendRing, at: usize) -> Option<()> {
        let [head, tail] = self;
        ring.write(at, head)?;
        ring.write(at + head.len(), tail)
    }
}

/// The description of a frame of `len` octets: nothing special, and all of it header.
#[expect(clippy::host_endian_bytes, reason = "read by the kernel of this machine")]
fn description(len: usize) -> Option<[u8; DESCRIPTION_LEN]> {
    let [low, high] = u16::try_from(len).ok()?.to_ne_bytes();
    Some([0, 0, low, high, 0, 0, 0, 0, 0, 0])
}

/// Whether Linux of this release takes descriptions in a send ring.
fn describes_frames(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    matches!(version, (Some(major), Some(minor)) if (major, minor) >= LINUX_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_frame_is_header() {
        let expected = if cfg!(target_endian = "little") { [0x34, 0x12] } else { [0x12, 0x34] };
        assert_eq!(description(0x1234), Some([0, 0, expected[0], expected[1], 0, 0, 0, 0, 0, 0]));
        assert_eq!(description(65_536), None);
    }

    #[test]
    fn places_are_told_apart_by_what_the_kernel_says() {
        const TIMED: u32 = libc::TP_STATUS_TS_SOFTWARE;
        for (status, free, taken) in [
            (STATUS_FREE, true, true),
            (STATUS_FREE | TIMED, true, true),
            (STATUS_SENDING, false, true),
            (STATUS_REQUEST, false, false),
            (STATUS_WRONG, false, false),
        ] {
            assert_eq!((is_free(status), is_taken(status)), (free, taken), "{status:#x}");
        }
    }

    #[test]
    fn releases_are_compared_by_number() {
        for old in ["4.5.99", "3.18", "4", "", "x.y", "2.6.32-754.el6"] {
            assert!(!describes_frames(old), "{old}");
        }
        for new in ["4.6.0", "4.10", "5.0-rc1", "6.18.44-fc", "10.1"] {
            assert!(describes_frames(new), "{new}");
        }
    }

    #[test]
    fn a_place_has_room_for_the_longest_frame_and_what_is_before_it() {
        for mtu in [68, 1500, 9000, FRAME_LEN_MAX - ETHERNET_LEN] {
            let layout = RingLayout::new(FRAME_AT + mtu + ETHERNET_LEN, PLACES).unwrap();
            assert!(layout.frame_len >= FRAME_AT + mtu + ETHERNET_LEN);
            assert!(layout.frame_len.is_multiple_of(16), "{layout:?}");
            assert!(layout.per_block * layout.blocks >= PLACES, "{layout:?}");
        }
    }
}
