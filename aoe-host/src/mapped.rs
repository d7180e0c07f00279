//! Mapped memory: what is shared with the kernel, and bytes of files that only the kernel looks at.

#![allow(unsafe_code, reason = "no safe wrapper exists for memory that others may change")]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapped part of a file or socket, or memory of its own, unmapped when dropped.
///
/// Invariants:
/// 1. `start` is the address of `len` mapped bytes, aligned to a page.
/// 2. Only [`Region::drop`] unmaps it.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the addresses belong to the process, not to a thread.
unsafe impl Send for Region {}

impl Region {
    /// Maps `len` bytes from `offset` on, shared with everybody who maps them, also beyond the end of a
    /// file.
    pub(crate) fn new(
        shared: impl AsFd,
        offset: u64,
        len: usize,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: without an address of ours (null, no FIXED) a mapping replaces nothing.
        let start =
            unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, shared, offset) }?;
        Self::owning(start, len)
    }

    /// Memory of `len` zeros that begins with a page, for this process alone.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without an address of ours (null, no FIXED) a mapping replaces nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        Self::owning(start, len)
    }

    fn owning(start: *mut c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Address of the `len` bytes from `at` on; `None` if they are not inside.
    pub(crate) fn part(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        at.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: inside the mapping or at its end, as just checked.
        Some(unsafe { self.start.add(at) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the invariants; whoever took a reference into it borrowed `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

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
    /// `len` bytes of a region from `at` on; `None` if they are not inside.
    pub(crate) fn of(region: &Region, at: usize, len: usize) -> Option<Self> {
        region.part(at, len).map(|start| Self { start, len })
    }

    /// The `len` of these bytes from `at` on; `None` if they are not inside.
    pub(crate) fn part(self, at: usize, len: usize) -> Option<Self> {
        at.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: inside the bytes or at their end, as just checked, and these are one mapping's.
        Some(Self { start: unsafe { self.start.add(at) }, len })
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
