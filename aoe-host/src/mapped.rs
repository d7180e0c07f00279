//! Bytes of a mapped file that only the kernel looks at.

#![allow(unsafe_code, reason = "a pointer that crosses threads as a number would")]

use core::ptr::NonNull;

/// Where bytes of a mapped file lie, for a system call to read them.
///
/// No reference: a page behind it may become unreadable at any time, which a system call reports
/// (`EFAULT`) and a look of our own would not survive. Whoever made it says how long it is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MappedBytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length, never dereferenced in this process.
unsafe impl Send for MappedBytes {}

impl MappedBytes {
    /// `len` bytes from `start` on.
    pub(crate) fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// The first byte's address, for a system call.
    pub(crate) fn start(self) -> *const u8 {
        self.start.as_ptr()
    }

    /// How many bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// There are none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}
