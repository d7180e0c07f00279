//! Frame buffers, made once and used again, and the answers that wait to be sent.

use std::vec::Vec;

use crate::link::OutFrame;
use crate::mapped::MappedBytes;

/// Most buffers in use at once: more requests than that are dropped. With jumbo frames about
/// 36 MiB, touched only as far as they are used.
pub const FRAMES_MAX: usize = 4096;

/// Smallest buffer in bytes: an answer to any command but a read fits.
const FRAME_LEN_MIN: usize = 2048;

/// One frame, or the payload of one request.
#[derive(Debug)]
pub(super) struct FrameBuf {
    pub(super) bytes: Box<[u8]>,
    pub(super) len: usize,
    /// Where the last bytes of the frame lie if they are not in `bytes`.
    pub(super) tail: Option<MappedBytes>,
}

impl FrameBuf {
    pub(super) fn frame(&self) -> OutFrame<'_> {
        let head = self.len.saturating_sub(self.tail.map_or(0, MappedBytes::len));
        OutFrame { head: self.bytes.get(..head).unwrap_or(&[]), tail: self.tail }
    }
}

/// The buffers.
#[derive(Debug)]
pub(super) struct Frames {
    free: Vec<FrameBuf>,
    made: usize,
    len: usize,
    outbox: Vec<(usize, FrameBuf)>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { free: Vec::new(), made: 0, len: FRAME_LEN_MIN, outbox: Vec::new() }
    }
}

impl Frames {
    /// Buffers hold frames of `len` bytes from now on.
    pub(super) fn grow(&mut self, len: usize) {
        if len > self.len {
            self.len = len;
            self.made -= self.free.len();
            self.free.clear();
        }
    }

    /// Longest frame that a buffer holds.
    pub(super) fn len_max(&self) -> usize {
        self.len
    }

    /// Buffers in existence.
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// A buffer of full length with undefined content, or `None` if all are in use.
    pub(super) fn take(&mut self) -> Option<FrameBuf> {
        if let Some(buf) = self.free.pop() {
            return Some(buf);
        }
        if self.made >= FRAMES_MAX {
            return None;
        }
        self.made += 1;
        Some(FrameBuf { bytes: vec![0; self.len].into_boxed_slice(), len: 0, tail: None })
    }

    pub(super) fn give(&mut self, mut buf: FrameBuf) {
        buf.tail = None;
        if buf.bytes.len() == self.len {
            self.free.push(buf);
        } else {
            self.made -= 1;
        }
    }

    /// Puts an answer of `buf.len` bytes among those to be sent through `link`.
    pub(super) fn post(&mut self, link: usize, buf: FrameBuf) {
        self.outbox.push((link, buf));
    }

    pub(super) fn outbox(&self) -> &[(usize, FrameBuf)] {
        &self.outbox
    }

    /// Takes the sent buffers back.
    pub(super) fn clear_outbox(&mut self) {
        while let Some((_, buf)) = self.outbox.pop() {
            self.give(buf);
        }
    }
}
