//! The receive ring that a packet socket shares with its user (`TPACKET_V2`), and how such rings lie in
//! memory.
//!
//! ```text
//!  block 0                          block 1
//!  | frame 0 | frame 1 | .. | unused | frame n | ..
//!    |
//!    status, lengths, offsets | address | gap | Ethernet header | payload
//! ```
//!
//! A frame belongs to the kernel while its status is 0, else to us until we store 0. Frames are
//! filled in order, so that one place has to be looked at.

#![allow(unsafe_code, reason = "frames are read in memory shared with the kernel")]

use core::sync::atomic::Ordering;
use std::io;

use super::mapping::Mapping;
use super::packet_socket::{PacketSocket, RingUse};

/// Octets before the payload: the ring's header, the sender's address, a gap, the Ethernet header
/// (`TPACKET2_HDRLEN` and `tpacket_rcv` of the kernel).
const PAYLOAD_AT: usize = 80;

/// Every frame begins at a multiple of this (`TPACKET_ALIGNMENT`).
const ALIGNMENT: usize = 16;

/// Blocks are pieces of contiguous memory: larger ones waste less at their ends, smaller ones are
/// easier to find on a machine that runs for long.
const BLOCK_LEN: usize = 64 << 10;

/// Most memory of a ring. It counts as ours, and it is never swapped out.
pub(super) const RING_LEN_MAX: usize = 16 << 20;

/// Status of a frame that is ours, and of one after which others found no room.
const STATUS_KERNEL: u32 = libc::TP_STATUS_KERNEL;
const STATUS_USER: u32 = libc::TP_STATUS_USER;
const STATUS_LOSING: u32 = libc::TP_STATUS_LOSING;

/// A ring and the place where its next frame will be.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Mapping,
    layout: RingLayout,
    place: Place,
}

/// A ring in memory: `blocks` pieces of it, each with `per_block` frames at its beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RingLayout {
    /// Octets of one frame with everything around it.
    pub(super) frame_len: usize,
    pub(super) per_block: usize,
    /// Octets of one block, a power of two.
    pub(super) block_len: usize,
    pub(super) blocks: usize,
}

/// A frame's place: its block, and its number within.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Place {
    block: usize,
    frame: usize,
}

/// A frame that is ours as long as this lives; then the kernel may fill its place again.
#[derive(Debug)]
pub(super) struct Lent<'r> {
    ring: &'r mut Ring,
    at: usize,
    status: u32,
}

impl Ring {
    /// Gives `socket`, which has no ring, one with room for `frames` frames of `mtu` octets of
    /// payload, as far as [`RING_LEN_MAX`] allows.
    ///
    /// # Errors
    /// The system has no rings, or no memory for one.
    pub(super) fn new(socket: &PacketSocket, mtu: usize, frames: usize) -> io::Result<Self> {
        let layout = RingLayout::new(mtu.saturating_add(PAYLOAD_AT), frames)?;
        socket.set_ring(RingUse::Receive, Some(layout))?;
        let memory = Mapping::new(socket, 0, layout.len());
        let memory = memory.inspect_err(|_| drop(socket.set_ring(RingUse::Receive, None)))?;
        Ok(Self { memory, layout, place: Place::default() })
    }

    /// Largest payload that a frame has room for, in octets.
    pub(super) fn mtu_max(&self) -> usize {
        self.layout.frame_len - PAYLOAD_AT
    }

    /// Whether a frame waits. Costs a look at memory.
    pub(super) fn is_ready(&self) -> bool {
        let status = self.memory.word(self.layout.offset(self.place));
        // Acquiring is left to `next`, which reads more than the status.
        status.is_some_and(|status| status.load(Ordering::Relaxed) & STATUS_USER != 0)
    }

    /// The oldest frame that waits.
    pub(super) fn next(&mut self) -> Option<Lent<'_>> {
        let at = self.layout.offset(self.place);
        // Pairs with the kernel's barrier between the frame's bytes and its status.
        let status = self.memory.word(at)?.load(Ordering::Acquire);
        if status & STATUS_USER == 0 {
            return None;
        }
        Some(Lent { ring: self, at, status })
    }
}

impl Lent<'_> {
    /// Frames that came later found no room, and were lost.
    pub(super) fn is_losing(&self) -> bool {
        self.status & STATUS_LOSING != 0
    }

    /// The frame from its destination address on; `None` if not all of it found room.
    pub(super) fn frame(&self) -> Option<&[u8]> {
        self.beginning().and_then(|(frame, len)| (frame.len() == len).then_some(frame))
    }

    /// What found room of the frame, from its destination address on, and the length of all of it.
    pub(super) fn beginning(&self) -> Option<(&[u8], usize)> {
        let memory = &self.ring.memory;
        let frame_len = self.ring.layout.frame_len;
        // SAFETY: the status says that the frame is ours until `drop` gives it back, and the
        // borrow of `self` ends before that; the ring's exclusive borrow keeps out other readers.
        let bytes = unsafe { memory.bytes(self.at, frame_len) }?;
        let header = Header::read(bytes)?;
        let end = header.start.checked_add(header.captured)?;
        Some((bytes.get(header.start..end)?, header.len))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(status) = self.ring.memory.word(self.at) {
            // Every read of the frame comes before this.
            status.store(STATUS_KERNEL, Ordering::Release);
        }
        self.ring.place = self.ring.layout.after(self.ring.place);
    }
}

/// What the kernel says about a frame (`struct tpacket2_hdr`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    /// Octets of the frame as it was on the wire.
    len: usize,
    /// Octets that found room.
    captured: usize,
    /// Where they begin, from the header's own beginning.
    start: usize,
}

impl Header {
    #[expect(clippy::host_endian_bytes, reason = "written by the kernel of this machine")]
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let octets = bytes.get(at..)?.first_chunk()?;
            usize::try_from(u32::from_ne_bytes(*octets)).ok()
        };
        let start = u16::from_ne_bytes(*bytes.get(12..)?.first_chunk()?);
        Some(Self { len: word(4)?, captured: word(8)?, start: usize::from(start) })
    }
}

impl RingLayout {
    /// Room for `frames` frames that take `needed` octets each, with everything around them, as far as
    /// [`RING_LEN_MAX`] allows.
    ///
    /// # Errors
    /// Not even one has room.
    pub(super) fn new(needed: usize, frames: usize) -> io::Result<Self> {
        let frame_len =
            needed.checked_next_multiple_of(ALIGNMENT).ok_or(io::ErrorKind::InvalidInput)?;
        let block_len = BLOCK_LEN.max(frame_len.checked_next_power_of_two().unwrap_or(usize::MAX));
        let blocks_max = RING_LEN_MAX / block_len;
        let per_block = block_len / frame_len;
        let blocks = frames.div_ceil(per_block.max(1)).min(blocks_max);
        if blocks == 0 || per_block == 0 {
            let why = "frames are too long for a ring";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { frame_len, per_block, block_len, blocks })
    }

    /// Octets of all blocks.
    pub(super) fn len(self) -> usize {
        self.block_len * self.blocks
    }

    /// Where the frame at `place` begins.
    pub(super) fn offset(self, place: Place) -> usize {
        place.block * self.block_len + place.frame * self.frame_len
    }

    /// The place behind `place`, from the last one on the first.
    pub(super) fn after(self, place: Place) -> Place {
        if place.frame + 1 < self.per_block {
            return Place { frame: place.frame + 1, ..place };
        }
        let next = place.block + 1;
        Place { block: if next < self.blocks { next } else { 0 }, frame: 0 }
    }
}

/// Header and address of 52 octets, and at least 16 for the Ethernet header.
const _: () = assert!(PAYLOAD_AT == (52_usize + 16).next_multiple_of(ALIGNMENT));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_has_its_place_and_the_last_leads_to_the_first() {
        for (mtu, frames) in [(1500, 1), (1500, 100), (9000, 448), (65_536, 300), (68, 5)] {
            let layout = RingLayout::new(mtu + PAYLOAD_AT, frames).unwrap();
            assert!(layout.per_block * layout.blocks >= frames.min(128), "{layout:?}");
            assert!(layout.block_len.is_multiple_of(4096), "{layout:?}");
            let mut place = Place::default();
            let mut end = 0;
            for _ in 0..layout.per_block * layout.blocks {
                let offset = layout.offset(place);
                assert!(offset >= end && offset.is_multiple_of(ALIGNMENT), "{place:?}");
                let (first, last) = (offset, offset + layout.frame_len - 1);
                assert_eq!(first / layout.block_len, last / layout.block_len, "{place:?}");
                end = last + 1;
                place = layout.after(place);
            }
            assert!(end <= layout.len());
            assert_eq!(place, Place::default());
        }
    }

    #[test]
    fn memory_is_bounded_whatever_is_asked_for() {
        for mtu in [68, 1500, 9000, 65_536] {
            let layout = RingLayout::new(mtu + PAYLOAD_AT, usize::MAX).unwrap();
            assert!(layout.len() <= RING_LEN_MAX, "{layout:?}");
        }
        assert!(RingLayout::new(RING_LEN_MAX + 1, 1).is_err());
        assert!(RingLayout::new(usize::MAX, 1).is_err());
    }

    #[test]
    fn headers_are_read_as_the_kernel_writes_them() {
        let kernel = libc::tpacket2_hdr {
            tp_status: STATUS_USER,
            tp_len: 9014,
            tp_snaplen: 1500,
            tp_mac: 66,
            tp_net: 80,
            ..zeroed_header()
        };
        // SAFETY: a plain structure of integers without hidden padding, read as bytes.
        let bytes: [u8; 32] = unsafe { core::mem::transmute(kernel) };
        assert_eq!(Header::read(&bytes), Some(Header { len: 9014, captured: 1500, start: 66 }));
        assert_eq!(Header::read(&bytes[..13]), None);
    }

    fn zeroed_header() -> libc::tpacket2_hdr {
        // SAFETY: integers only.
        unsafe { core::mem::zeroed() }
    }
}
