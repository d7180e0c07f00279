//! An XDP socket that frames leave by: its memory, and what goes round between it and the kernel.

#![allow(unsafe_code, reason = "frames are written to memory that the kernel reads")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with, sockopt,
};

use super::copy::{Copier, Copy};
use super::pieces::{PIECES_MAX, lengths};
use super::rings::{Piece, Returning, Sending};
use crate::link::OutFrame;
use crate::link::mapping::Mapping;
use crate::link::messages::MESSAGES_MAX;

/// Octets of a chunk, the unit in which memory is given to the kernel: a page of every machine.
pub(super) const CHUNK_LEN: usize = 4096;

/// Chunks, and places of each ring: answers to windows of hundreds of requests. What finds none leaves
/// by the packet socket. Their memory is locked, and systems let everybody lock 8 MiB.
const CHUNKS: u32 = 1024;

/// Places of the ring for received frames, which every such socket must have: there are none.
const UNUSED_PLACES: u32 = 64;

/// Send buffer, in octets as the system counts them: all chunks, each in a page with its description.
const SEND_BUFFER_LEN: usize = 16 << 20;

/// Calls for one batch: the kernel takes 32 pieces with each, and may drop a frame with each.
const CALLS_MAX: usize = 4 * MESSAGES_MAX;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sender {
    socket: OwnedFd,
    memory: Mapping,
    sending: Sending,
    returning: Returning,
    copier: Option<Copier>,
    /// Where the chunks begin that are neither on a ring nor in the kernel.
    free: Vec<usize>,
    batch: Batch,
}

/// What was put into memory and is not sent yet. Empty between calls.
#[derive(Debug)]
struct Batch {
    pieces: Vec<Piece>,
    copies: Vec<Copy>,
    frames: [Staged; MESSAGES_MAX],
}

#[derive(Clone, Copy, Debug, Default)]
struct Staged {
    pieces: usize,
    unreadable: bool,
}

/// What became of the frames of one call, from the first one on.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// They are with the interface, or were refused by it.
    pub(super) taken: usize,
    /// Those of them that are not, by their number: a bit for each.
    pub(super) unreadable: u32,
    /// How many of them the interface dropped. Which, it does not tell.
    pub(super) dropped: usize,
    /// The socket is of no use any more; nothing that was taken has left for certain.
    pub(super) broken: Option<io::Error>,
}

impl Sender {
    /// A socket that sends by queue number `queue` of the interface of number `index`.
    ///
    /// # Errors
    /// The kernel has no such sockets, or none with frames of several pieces (before Linux 6.6); the
    /// interface has no such queue, or another socket uses it; too little memory may be locked.
    pub(super) fn open(index: u32, queue: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?;
        let count = usize::try_from(CHUNKS).map_err(io::Error::other)?;
        let memory = Mapping::anonymous(count * CHUNK_LEN)?;
        let copier = Copier::new(&memory);
        register(&socket, &memory)?;
        sockopt::set_xdp_umem_fill_ring_size(&socket, UNUSED_PLACES)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, CHUNKS)?;
        sockopt::set_xdp_tx_ring_size(&socket, CHUNKS)?;
        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let sending = Sending::map(&socket, &offsets, CHUNKS)?;
        let returning = Returning::map(&socket, &offsets, CHUNKS)?;
        if sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_LEN).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_LEN)?;
        }
        // Never without a copy: that would take the queue away from the rest of the system.
        let how = SocketAddrXdpFlags::XDP_COPY | SocketAddrXdpFlags::XDP_USE_SG;
        bind(&socket, &SocketAddrXdp::new(how, index, queue))?;
        let batch = Batch {
            pieces: Vec::with_capacity(MESSAGES_MAX * PIECES_MAX),
            copies: Vec::with_capacity(MESSAGES_MAX * PIECES_MAX),
            frames: [Staged::default(); MESSAGES_MAX],
        };
        let free = (0..count).map(|chunk| chunk * CHUNK_LEN).collect();
        Ok(Self { socket, memory, sending, returning, copier, free, batch })
    }

    /// Sends frames of at most `len_max` octets, at most [`MESSAGES_MAX`], up to the first that
    /// cannot leave this way: it is too long, or there is no room for it.
    pub(super) fn send(&mut self, frames: &[OutFrame<'_>], len_max: usize) -> Left {
        self.reclaim();
        let mut left = Left::default();
        for frame in frames.iter().take(MESSAGES_MAX) {
            if frame.len() > len_max || !self.stage(left.taken, frame) {
                break;
            }
            left.taken += 1;
        }
        if left.taken > 0 {
            self.copy_mapped();
            left.unreadable = self.submit(left.taken);
            match self.push() {
                Ok(dropped) => left.dropped = dropped,
                Err(error) => left.broken = Some(error),
            }
        }
        left
    }

    /// Tries again to have sent what the interface had no room for.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.sending.waiting() > 0 {
            self.push()?;
        }
        Ok(())
    }

    /// Takes back the chunks of frames that have left.
    fn reclaim(&mut self) {
        let free = &mut self.free;
        self.returning.take(&mut |at| free.extend(usize::try_from(at)));
    }

    /// Puts a frame into memory as number `number` of the batch, but for what of it is mapped. `false`
    /// if it cannot be.
    fn stage(&mut self, number: usize, frame: &OutFrame<'_>) -> bool {
        let count = lengths(frame.len()).count();
        let reads = frame.tail.is_none() || self.copier.is_some();
        let Some(staged) = self.batch.frames.get_mut(number) else { return false };
        if count == 0 || count > PIECES_MAX || count > self.free.len() || !reads {
            return false;
        }
        *staged = Staged { pieces: count, unreadable: false };
        let mut from = 0;
        for len in lengths(frame.len()) {
            let Some(at) = self.free.pop() else { return false };
            let head = frame.head.get(from..).unwrap_or_default();
            let head = head.get(..len).unwrap_or(head);
            // SAFETY: the chunk is on no ring, so the kernel does not look at it.
            let written = unsafe { self.memory.write(at, head) };
            debug_assert!(written.is_some(), "a chunk is within the memory");
            if let Some(tail) = frame.tail
                && head.len() < len
            {
                let behind = from.saturating_sub(frame.head.len());
                let mut to = at + head.len();
                for part in tail.parts_within(behind, len - head.len()) {
                    self.batch.copies.push(Copy { to, from: part, frame: number });
                    to += part.len();
                }
            }
            from += len;
            self.batch.pieces.push(Piece { at, len, continued: from < frame.len() });
        }
        true
    }

    /// Copies what of the batch is mapped; frames of which something cannot be read are marked.
    fn copy_mapped(&mut self) {
        let Batch { copies, frames, .. } = &mut self.batch;
        if let Some(copier) = self.copier.as_ref().filter(|_| !copies.is_empty()) {
            // SAFETY: they go to chunks that are on no ring.
            unsafe {
                copier.copy(&self.memory, copies, &mut |copy| {
                    if let Some(frame) = frames.get_mut(copy.frame) {
                        frame.unreadable = true;
                    }
                });
            }
        }
        copies.clear();
    }

    /// Shows the kernel the first `count` frames of the batch, and returns those that cannot be read.
    fn submit(&mut self, count: usize) -> u32 {
        let mut unreadable = 0;
        let mut pieces = self.batch.pieces.drain(..);
        for (number, frame) in self.batch.frames.iter().take(count).enumerate() {
            for piece in pieces.by_ref().take(frame.pieces) {
                if frame.unreadable {
                    self.free.push(piece.at);
                } else {
                    self.sending.add(piece);
                }
            }
            unreadable |= u32::from(frame.unreadable) << number;
        }
        drop(pieces);
        self.sending.publish();
        unreadable
    }

    /// Has the kernel send what it was shown, as far as it can now. Returns how many frames it dropped.
    fn push(&mut self) -> io::Result<usize> {
        let mut dropped = 0;
        let mut waiting = self.sending.waiting();
        for _ in 0..CALLS_MAX {
            match send(&self.socket, &[], SendFlags::DONTWAIT) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                // The interface took a frame and dropped it.
                Err(Errno::BUSY) => dropped += 1,
                // After 32 pieces, or because there is no room: then it is tried again later.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    let before = core::mem::replace(&mut waiting, self.sending.waiting());
                    if before == waiting {
                        break;
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(dropped)
    }
}

/// Tells the kernel where frames are going to be.
fn register(socket: &OwnedFd, memory: &Mapping) -> io::Result<()> {
    let len = usize::try_from(CHUNKS).map_err(io::Error::other)? * CHUNK_LEN;
    let start = memory.part(0, len).ok_or(io::ErrorKind::InvalidInput)?;
    let chunk_size = u32::try_from(CHUNK_LEN).map_err(io::Error::other)?;
    sockopt::set_xdp_umem_reg(
        socket,
        XdpUmemReg {
            addr: start.addr().get() as u64,
            len: len as u64,
            chunk_size,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        },
    )?;
    Ok(())
}
