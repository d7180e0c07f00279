//! Many frames with one system call: `recvmmsg` and `sendmmsg`.

#![allow(unsafe_code, reason = "no safe wrapper exists that neither allocates nor needs names")]

use core::mem;
use core::ptr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::OutFrame;
use super::gather::Gatherer;
use crate::mapped::MappedBytes;

/// Frames of one call: see `BATCH_FRAMES` of the server for why it is a small number.
pub(super) const MESSAGES_MAX: usize = 16;

/// Parts of all frames of one call: for a header and 17 sectors by turns, as many as a jumbo frame has,
/// in each.
const PARTS_MAX: usize = MESSAGES_MAX * 18;

/// Room for [`MESSAGES_MAX`] frames.
#[derive(Debug)]
pub(super) struct Inbox {
    memory: Box<[u8]>,
    /// Octets of room for each frame.
    frame_len: usize,
}

/// One frame as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrived<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than the room for it.
    Cut,
}

impl Inbox {
    /// Room for frames of `frame_len` octets.
    pub(super) fn new(frame_len: usize) -> Self {
        let len = frame_len.max(1);
        Self { memory: vec![0; len * MESSAGES_MAX].into_boxed_slice(), frame_len: len }
    }

    /// Octets of the longest frame that fits.
    pub(super) fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Takes up to `limit` waiting frames, and at most [`MESSAGES_MAX`], from a socket that does
    /// not block. Returns how many there were.
    ///
    /// # Errors
    /// That of the first frame, "would block" if none waits.
    pub(super) fn receive(
        &mut self,
        socket: impl AsFd,
        limit: usize,
        sink: &mut dyn FnMut(Arrived<'_>),
    ) -> io::Result<usize> {
        let mut parts = [EMPTY_PART; MESSAGES_MAX];
        let mut messages = no_messages();
        for ((chunk, part), message) in
            self.memory.chunks_exact_mut(self.frame_len).zip(&mut parts).zip(&mut messages)
        {
            *part = libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = message_count(limit);
        // SAFETY: the first `count` of `messages` point to parts and memory that outlive the call
        // and that nobody else uses; everything else in them is null or 0, and no time-out is
        // given.
        let taken = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                0,
                ptr::null_mut(),
            )
        };
        let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        for (chunk, message) in self.memory.chunks_exact(self.frame_len).zip(&messages).take(taken)
        {
            let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let len = usize::try_from(message.msg_len).unwrap_or(usize::MAX);
            match chunk.get(..len) {
                Some(frame) if !cut => sink(Arrived::Whole(frame)),
                _ => sink(Arrived::Cut),
            }
        }
        Ok(taken)
    }
}

/// Sends frames, at most [`MESSAGES_MAX`] and as many as there is room for their parts, in order.
/// Returns how many left: fewer than there are if one could not; the next call with that one first
/// says why. What lies in many places is gathered before.
///
/// # Errors
/// That of the first frame.
pub(super) fn send(
    socket: impl AsFd,
    frames: &[OutFrame<'_>],
    gatherer: &mut Gatherer,
) -> io::Result<usize> {
    gatherer.clear();
    let mut parts = [EMPTY_PART; PARTS_MAX];
    let mut counts = [0; MESSAGES_MAX];
    let (mut used, mut taken) = (0, 0);
    for (frame, parts_of_frame) in frames.iter().zip(&mut counts) {
        let head = (frame.head.as_ptr(), frame.head.len());
        let tail = frame.tail.map(|tail| gatherer.gather(tail));
        let tail = tail.into_iter().flat_map(MappedBytes::parts);
        let tail = tail.map(|part| (part.start(), part.len()));
        let mut left = parts.get_mut(used..).unwrap_or_default().iter_mut();
        let mut count = 0;
        let mut fits = true;
        for (start, len) in core::iter::once(head).chain(tail) {
            let Some(part) = left.next() else {
                fits = false;
                break;
            };
            *part = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
            count += 1;
        }
        if !fits && taken > 0 {
            break;
        }
        // Of a frame by itself that has too many parts, which none of ours has, the rest is missing.
        *parts_of_frame = count;
        used += count;
        taken += 1;
    }
    let mut messages = no_messages();
    let mut rest = parts.as_mut_slice();
    for (message, count) in messages.iter_mut().zip(counts).take(taken) {
        let (own, behind) = rest.split_at_mut_checked(count).unwrap_or_default();
        rest = behind;
        message.msg_hdr.msg_iov = own.as_mut_ptr();
        message.msg_hdr.msg_iovlen = own.len() as _;
    }
    send_messages(socket, &mut messages, taken)
}

/// As [`send`], with frames that lie in memory in `P` parts.
pub(super) fn send_parts<'f, const P: usize>(
    socket: impl AsFd,
    frames: impl Iterator<Item = [&'f [u8]; P]>,
) -> io::Result<usize> {
    send_vectors(
        socket,
        frames.map(|frame| {
            frame.map(|part| libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            })
        }),
    )
}

/// Sends frames whose parts a system call may be told to read; one that is not there fails as such.
fn send_vectors<const P: usize>(
    socket: impl AsFd,
    frames: impl Iterator<Item = [libc::iovec; P]>,
) -> io::Result<usize> {
    let mut parts = [[EMPTY_PART; P]; MESSAGES_MAX];
    let mut messages = no_messages();
    let mut count = 0;
    for ((parts, message), frame) in parts.iter_mut().zip(&mut messages).zip(frames) {
        *parts = frame;
        message.msg_hdr.msg_iov = parts.as_mut_ptr();
        message.msg_hdr.msg_iovlen = P as _;
        count += 1;
    }
    send_messages(socket, &mut messages, count)
}

/// Sends the first `count` messages, whose parts the caller keeps until this returns.
fn send_messages(
    socket: impl AsFd,
    messages: &mut [libc::mmsghdr; MESSAGES_MAX],
    count: usize,
) -> io::Result<usize> {
    // SAFETY: as many messages as there are frames point to parts and frames that outlive the
    // call, which reads them only; everything else in them is null or 0.
    let sent = unsafe {
        libc::sendmmsg(socket.as_fd().as_raw_fd(), messages.as_mut_ptr(), message_count(count), 0)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

const EMPTY_PART: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn no_messages() -> [libc::mmsghdr; MESSAGES_MAX] {
    // SAFETY: integers and pointers; all zero is a message without name, parts and control data.
    unsafe { mem::zeroed() }
}

fn message_count(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count.min(MESSAGES_MAX)).unwrap_or(0)
}
