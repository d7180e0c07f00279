//! Memory shared with the kernel, which both sides read and write.

#![allow(unsafe_code, reason = "no safe wrapper exists for memory shared with the kernel")]

use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicU32;
use std::io;
use std::os::fd::AsFd;

use rustix::mm::ProtFlags;

use crate::mapped::{MappedBytes, Region};

/// A piece of memory that the kernel writes to as well. Nobody else in this process knows where it is.
#[derive(Debug)]
pub(super) struct Mapping(Region);

impl Mapping {
    /// Maps `len` bytes that `socket` shares, from `offset` on.
    pub(super) fn new(socket: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        Region::new(socket, offset, len, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// Memory of `len` zeros that the kernel is to be told of.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Region::anonymous(len).map(Self)
    }

    /// Address of the `len` bytes from `at` on, for a system call; `None` if they are not within the
    /// memory.
    pub(super) fn part(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        self.0.part(at, len)
    }

    /// These bytes, for a system call to read.
    pub(super) fn lend(&self, at: usize, len: usize) -> Option<MappedBytes> {
        MappedBytes::of(&self.0, at, len)
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

    /// Writes `bytes` from `at` on; `None`, and nothing is written, if they do not fit.
    ///
    /// # Safety
    /// Nobody may look at these bytes meanwhile, the kernel included, and no slice of them may live.
    pub(super) unsafe fn write(&self, at: usize, bytes: &[u8]) -> Option<()> {
        let to = self.0.part(at, bytes.len())?;
        // SAFETY: mapped while `self` lives, inside as checked above, and nobody else's as the caller
        // promises; `bytes` are a reference's, so they lie elsewhere.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(())
    }
}
