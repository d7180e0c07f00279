//! Mapped memory: what is shared with the kernel, and bytes of files that may be gone when they are
//! looked at.

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

/// Length of the pieces in which bytes may come from two places by turns.
const PIECE_LEN: usize = 512;

/// Where bytes of mapped files lie, for a system call to read them, or a copy that may fail: in one
/// place, or by turns of whole sectors in two.
///
/// No reference: a page behind it may become unreadable at any time, which a system call reports
/// (`EFAULT`) and a look of our own would not survive, unless it is prepared for it. Whoever made it
/// says how long it is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MappedBytes {
    /// Where the first byte lies, or would.
    start: *const u8,
    len: usize,
    /// The same in the other place, and which pieces come from there: bit *n* stands for piece *n*.
    other: *const u8,
    from_other: u64,
}

// SAFETY: addresses and a length; an address belongs to the process, not to a thread.
unsafe impl Send for MappedBytes {}

impl MappedBytes {
    /// `len` bytes of a region from `at` on; `None` if they are not inside.
    pub(crate) fn of(region: &Region, at: usize, len: usize) -> Option<Self> {
        let start = region.part(at, len)?.as_ptr().cast_const();
        Some(Self { start, len, other: start, from_other: 0 })
    }

    /// The first byte's address, for a system call or a copy that may fail, of bytes that lie in one
    /// place.
    pub(crate) fn start(self) -> *const u8 {
        self.start
    }

    /// `len` bytes, of which the 512 of each bit that is set in `from_other` come from there. Of either
    /// place there is what lies from the given byte on.
    pub(crate) fn woven(
        len: usize,
        (first, first_at): (Self, usize),
        (other, other_at): (Self, usize),
        from_other: u64,
    ) -> Self {
        let start = first.start.wrapping_sub(first_at);
        Self { start, len, other: other.start.wrapping_sub(other_at), from_other }
    }

    /// The same in order, each in one place.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let left = self.len.checked_sub(at).filter(|left| *left > 0)?;
            let piece = u32::try_from(at / PIECE_LEN).unwrap_or(u32::MAX);
            let rest = self.from_other.checked_shr(piece).unwrap_or(0);
            let (from, same) = match rest & 1 {
                0 => (self.start, rest.trailing_zeros()),
                _ => (self.other, rest.trailing_ones()),
            };
            // Behind the last bit everything comes from one place.
            let same = if rest == 0 { usize::MAX } else { same as usize };
            let len = same.saturating_mul(PIECE_LEN).min(left);
            let start = from.wrapping_add(at);
            at += len;
            Some(Self { start, len, other: start, from_other: 0 })
        })
    }

    /// Has the processor fetch them into its cache while something else is done: a random read of a
    /// large file waits for memory, and for the tables of pages that say where it lies, longest.
    /// Does nothing where a page is missing.
    pub(crate) fn prefetch(self) {
        for part in self.parts() {
            prefetch(part.start, part.len);
        }
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

#[cfg(target_arch = "x86_64")]
fn prefetch(start: *const u8, len: usize) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for at in (0..len).step_by(64) {
        // SAFETY: a hint, which takes any address and changes nothing but how long things take.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_start: *const u8, _len: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_by_turns() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        let region = Region::new(&file, 0, 1 << 16, ProtFlags::READ).unwrap();
        let start = region.part(0, 1).unwrap().as_ptr().cast_const();
        let place = |part: MappedBytes| (part.start().addr() - start.addr(), part.len());
        let parts = |mapped: MappedBytes| mapped.parts().map(place).collect::<Vec<_>>();
        let plain = MappedBytes::of(&region, 512, 40_000).unwrap();
        assert_eq!(parts(plain), [(512, 40_000)], "longer than there are bits");
        // Sectors 0, 3 and 4 from the front; 1, 2 and 5 from 32 KiB on. Each place lends what is
        // needed of it only.
        let first = MappedBytes::of(&region, 0, 5 * 512).unwrap();
        let other = MappedBytes::of(&region, 32_768 + 512, 5 * 512).unwrap();
        let woven = MappedBytes::woven(6 * 512, (first, 0), (other, 512), 0b10_0110);
        let expected = [(0, 512), (32_768 + 512, 1024), (1536, 1024), (32_768 + 2560, 512)];
        assert_eq!(parts(woven), expected);
        let all = MappedBytes::woven(64 * 512, (first, 0), (other, 512), u64::MAX);
        assert_eq!(parts(all), [(32_768, 64 * 512)]);
    }
}
