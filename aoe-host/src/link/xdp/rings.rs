//! The two rings by which frames of an XDP socket leave, and their memory comes back.
//!
//! Both are a number that whoever fills the ring counts up, a number that whoever empties it counts
//! up, and a power of two of places. A place belongs to the side that fills from the moment on at
//! which it was emptied, and to the other one from the moment on at which it was filled; who
//! stores a number releases with it what was written, who loads the other's acquires it.

#![allow(unsafe_code, reason = "places are written and read in memory shared with the kernel")]

use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::AsFd;

use rustix::net::xdp::{
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XdpMmapOffsets, XdpRingOffset,
};

use crate::link::mapping::Mapping;

/// Says that the next place holds more of the same frame (`XDP_PKT_CONTD`).
const CONTINUED: u32 = 1;

/// A piece of a frame, as the kernel is told of it (`struct xdp_desc`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    /// Where it begins in the memory of the frames.
    pub(super) at: usize,
    pub(super) len: usize,
    /// The next one belongs to the same frame.
    pub(super) continued: bool,
}

impl Piece {
    /// Octets of one on the ring.
    const LEN: usize = 16;

    #[expect(clippy::host_endian_bytes, reason = "read by the kernel of this machine")]
    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let len = u32::try_from(self.len).unwrap_or(0).to_ne_bytes();
        let options = if self.continued { CONTINUED } else { 0 }.to_ne_bytes();
        let at = (self.at as u64).to_ne_bytes();
        for (to, from) in bytes.iter_mut().zip(at.iter().chain(&len).chain(&options)) {
            *to = *from;
        }
        bytes
    }
}

/// A ring's memory, and where the parts of it are.
#[derive(Debug)]
struct Shared {
    memory: Mapping,
    filled_at: usize,
    emptied_at: usize,
    places_at: usize,
    /// Octets of a place.
    place_len: usize,
    /// Places, a power of two.
    places: u32,
}

impl Shared {
    fn map(
        socket: impl AsFd,
        offset: u64,
        parts: &XdpRingOffset,
        place_len: usize,
        places: u32,
    ) -> io::Result<Self> {
        let part = |at: u64| usize::try_from(at).map_err(io::Error::other);
        let (filled_at, emptied_at) = (part(parts.producer)?, part(parts.consumer)?);
        let places_at = part(parts.desc)?;
        let end = places_at + usize::try_from(places).map_err(io::Error::other)? * place_len;
        let memory = Mapping::new(socket, offset, end)?;
        let shared = Self { memory, filled_at, emptied_at, places_at, place_len, places };
        if !places.is_power_of_two() || shared.filled().is_none() || shared.emptied().is_none() {
            return Err(io::Error::other("the kernel's rings are not as they should be"));
        }
        Ok(shared)
    }

    /// The number of places filled ever since, modulo its width.
    fn filled(&self) -> Option<&AtomicU32> {
        self.memory.word(self.filled_at)
    }

    fn emptied(&self) -> Option<&AtomicU32> {
        self.memory.word(self.emptied_at)
    }

    /// Where the place is that is filled or emptied as this number.
    fn place(&self, number: u32) -> usize {
        let place = usize::try_from(number % self.places.max(1)).unwrap_or(0);
        self.places_at + place * self.place_len
    }
}

/// The ring of pieces to be sent. Has a place for each chunk of the memory, so it is never full.
#[derive(Debug)]
pub(super) struct Sending {
    shared: Shared,
    /// Places filled so far, published or not.
    filled: u32,
}

impl Sending {
    pub(super) fn map(
        socket: impl AsFd,
        offsets: &XdpMmapOffsets,
        places: u32,
    ) -> io::Result<Self> {
        let shared = Shared::map(socket, XDP_PGOFF_TX_RING, &offsets.tx, Piece::LEN, places)?;
        Ok(Self { shared, filled: 0 })
    }

    /// Adds a piece whose chunk is on no ring, for [`publish`](Self::publish) to show.
    pub(super) fn add(&mut self, piece: Piece) {
        let at = self.shared.place(self.filled);
        // SAFETY: the kernel looks at no place that was not published. This one was emptied: a chunk
        // comes back to us after the place that named it was, and there are as many places as chunks.
        if unsafe { self.shared.memory.write(at, &piece.to_bytes()) }.is_some() {
            self.filled = self.filled.wrapping_add(1);
        }
    }

    /// Shows the kernel what was added.
    pub(super) fn publish(&self) {
        if let Some(filled) = self.shared.filled() {
            // After every write to a place, and to the frames.
            filled.store(self.filled, Ordering::Release);
        }
    }

    /// Pieces that the kernel has not taken yet.
    pub(super) fn waiting(&self) -> u32 {
        let emptied = self.shared.emptied().map_or(0, |emptied| emptied.load(Ordering::Acquire));
        self.filled.wrapping_sub(emptied)
    }
}

/// The ring of pieces whose memory is free again.
#[derive(Debug)]
pub(super) struct Returning {
    shared: Shared,
    emptied: u32,
}

impl Returning {
    pub(super) fn map(
        socket: impl AsFd,
        offsets: &XdpMmapOffsets,
        places: u32,
    ) -> io::Result<Self> {
        let place = size_of::<u64>();
        let offset = XDP_UMEM_PGOFF_COMPLETION_RING;
        let shared = Shared::map(socket, offset, &offsets.cr, place, places)?;
        Ok(Self { shared, emptied: 0 })
    }

    /// Hands out where the pieces began.
    #[expect(clippy::host_endian_bytes, reason = "written by the kernel of this machine")]
    pub(super) fn take(&mut self, sink: &mut dyn FnMut(u64)) {
        let Some(filled) = self.shared.filled() else { return };
        let filled = filled.load(Ordering::Acquire);
        if filled == self.emptied {
            return;
        }
        while self.emptied != filled {
            let at = self.shared.place(self.emptied);
            // SAFETY: filled, as the number above says, and not given back before the store below.
            let bytes = unsafe { self.shared.memory.bytes(at, size_of::<u64>()) };
            if let Some(octets) = bytes.and_then(<[u8]>::first_chunk) {
                sink(u64::from_ne_bytes(*octets));
            }
            self.emptied = self.emptied.wrapping_add(1);
        }
        if let Some(emptied) = self.shared.emptied() {
            // After every read of a place.
            emptied.store(self.emptied, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[expect(clippy::host_endian_bytes, reason = "as the kernel of this machine does")]
mod tests {
    use super::*;

    const PLACES: u32 = 8;

    /// A ring without a kernel: both numbers, then the places.
    fn shared(place_len: usize) -> Shared {
        Shared {
            memory: Mapping::anonymous(4096).unwrap(),
            filled_at: 0,
            emptied_at: 64,
            places_at: 128,
            place_len,
            places: PLACES,
        }
    }

    fn bytes(shared: &Shared, number: u32) -> Vec<u8> {
        let at = shared.place(number);
        // SAFETY: nobody else has the memory.
        unsafe { shared.memory.bytes(at, shared.place_len) }.unwrap().to_vec()
    }

    #[test]
    fn pieces_are_shown_when_they_are_published_and_round_the_end() {
        let mut ring = Sending { shared: shared(Piece::LEN), filled: u32::MAX - 2 };
        ring.shared.emptied().unwrap().store(u32::MAX - 2, Ordering::Relaxed);
        for n in 0..5 {
            ring.add(Piece { at: 4096 * n, len: 36 + n, continued: n == 1 });
        }
        assert_eq!(ring.shared.filled().unwrap().load(Ordering::Relaxed), 0);
        assert_eq!(ring.waiting(), 5);
        ring.publish();
        assert_eq!(ring.shared.filled().unwrap().load(Ordering::Relaxed), 2);
        ring.shared.emptied().unwrap().store(1, Ordering::Relaxed);
        assert_eq!(ring.waiting(), 1);
        let mut second = [0; 16];
        second[..8].copy_from_slice(&4096_u64.to_ne_bytes());
        second[8..12].copy_from_slice(&37_u32.to_ne_bytes());
        second[12..].copy_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(bytes(&ring.shared, u32::MAX - 1), second);
        assert_eq!(bytes(&ring.shared, 0)[12..], [0; 4]);
        assert_eq!(bytes(&ring.shared, 0)[8..12], 39_u32.to_ne_bytes());
    }

    #[test]
    fn what_comes_back_is_taken_once() {
        let mut ring = Returning { shared: shared(8), emptied: 6 };
        ring.shared.emptied().unwrap().store(6, Ordering::Relaxed);
        for number in 6..11_u32 {
            let at = ring.shared.place(number);
            // SAFETY: nobody else has the memory.
            unsafe { ring.shared.memory.write(at, &u64::from(number * 4096).to_ne_bytes()) }
                .unwrap();
        }
        ring.shared.filled().unwrap().store(11, Ordering::Relaxed);
        let mut taken = Vec::new();
        ring.take(&mut |at| taken.push(at / 4096));
        assert_eq!(taken, [6, 7, 8, 9, 10]);
        assert_eq!(ring.shared.emptied().unwrap().load(Ordering::Relaxed), 11);
        ring.take(&mut |at| panic!("{at}"));
    }
}
