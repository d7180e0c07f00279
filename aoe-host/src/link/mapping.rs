//! Memory shared with the kernel, which both sides read and write.

#![allow(unsafe_code, reason = "no safe wrapper exists for memory shared with the kernel")]

use core::slice;
use core::sync::atomic::AtomicU32;
use std::io;
use std::os::fd::AsFd;

use rustix::mm::ProtFlags;

use crate::mapped::Region;

/// A piece of memory that the kernel writes to as well. Nobody else in this process knows where it is.
#[derive(Debug)]
pub(super) struct Mapping(Region);

impl Mapping {
    /// Maps the first `len` bytes that `socket` shares.
    pub(super) fn new(socket: impl AsFd, len: usize) -> io::Result<Self> {
        Region::new(socket, 0, len, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// The aligned 32 bit word at `at`; `None` if it is not within the memory.
    pub(super) fn word(&self, at: usize) -> Option<&AtomicU32> {
        let word = self.0.part(at, size_of::<AtomicU32>())?;
        if !at.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        // SAFETY: mapped while `self` lives, aligned because a page and `at` are, and changed by
        // nobody but the kernel and through this type; any bits are a number.
        Some(unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) })
    }

    /// The `len` bytes from `at` on; `None` if they are not within the memory.
    ///
    /// # Safety
    /// Nobody may write to these bytes, the kernel included, while the slice lives.
    pub(super) unsafe fn bytes(&self, at: usize, len: usize) -> Option<&[u8]> {
        let start = self.0.part(at, len)?;
        // SAFETY: mapped while `self` lives, inside as checked above, and unchanged as the caller
        // promises; every byte of a mapping has a value.
        Some(unsafe { slice::from_raw_parts(start.as_ptr(), len) })
    }
}
