//! Writes a frame from front to back, with nothing stale in it.

use crate::error::BufferTooSmall;
use crate::wire::header::FRAME_LEN_MIN;

/// A frame under construction; its rest becomes zeros. `[AoE 2.7]`
pub(crate) struct FrameWriter<'b> {
    rest: &'b mut [u8],
    len: usize,
}

impl<'b> FrameWriter<'b> {
    /// A frame of `len` bytes, or the minimum, at the front of `buf`.
    #[inline]
    pub(crate) fn new(buf: &'b mut [u8], len: usize) -> Result<Self, BufferTooSmall> {
        let needed = len.max(FRAME_LEN_MIN);
        let rest = buf.get_mut(..needed).ok_or(BufferTooSmall { needed })?;
        Ok(Self { rest, len: needed })
    }

    /// Appends bytes. Bytes beyond the length given to `new` are left out, all of one call.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if let Some(front) = self.take(bytes.len()) {
            copy(front, bytes);
        }
    }

    /// The next `len` bytes, for the caller to overwrite completely.
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'b mut [u8]> {
        let rest = core::mem::take(&mut self.rest);
        match rest.split_at_mut_checked(len) {
            Some((front, back)) => {
                self.rest = back;
                Some(front)
            }
            None => None,
        }
    }

    /// Zeros what is left, and tells the length of the frame.
    #[inline]
    pub(crate) fn finish(self) -> usize {
        self.rest.fill(0);
        self.len
    }
}

/// Copies as far as both sides reach: no length that could differ, hence nothing that can panic.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
