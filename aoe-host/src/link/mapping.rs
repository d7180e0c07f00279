//! Memory shared with the kernel: mapped from a socket, unmapped when dropped.
//!
//! Invariants:
//! 1. `start` is the address of `len` mapped bytes, readable and writable, aligned to a page.
//! 2. Nobody else in this process knows the address, and only [`Mapping::drop`] unmaps it.

#![allow(unsafe_code, reason = "no safe wrapper exists for memory shared with the kernel")]

use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::AtomicU32;
use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A piece of memory that the kernel writes to as well.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the process, not to a thread (invariants 1 and 2).
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes that `socket` shares.
    pub(super) fn new(socket: impl AsFd, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without an address of ours (null, no FIXED) a mapping replaces nothing.
        let start = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, socket, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The aligned 32 bit word at `at`; `None` if it is not within the memory.
    pub(super) fn word(&self, at: usize) -> Option<&AtomicU32> {
        let inside = at.checked_add(size_of::<AtomicU32>()).is_some_and(|end| end <= self.len);
        if !inside || !at.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        // SAFETY: `at` was found to be inside the memory (invariant 1).
        let word = unsafe { self.start.add(at) };
        // SAFETY: mapped while `self` lives, aligned because a page and `at` are, and changed by
        // nobody but the kernel and through this type; any bits are a number.
        Some(unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) })
    }

    /// The `len` bytes from `at` on; `None` if they are not within the memory.
    ///
    /// # Safety
    /// Nobody may write to these bytes, the kernel included, while the slice lives.
    pub(super) unsafe fn bytes(&self, at: usize, len: usize) -> Option<&[u8]> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return None;
        }
        // SAFETY: `at` was found to be inside the memory, or at its end (invariant 1).
        let start = unsafe { self.start.add(at) };
        // SAFETY: mapped while `self` lives, inside as checked above, and unchanged as the caller
        // promises; every byte of a mapping has a value.
        Some(unsafe { slice::from_raw_parts(start.as_ptr(), len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: invariants 1 and 2, and every slice of it borrowed `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}
