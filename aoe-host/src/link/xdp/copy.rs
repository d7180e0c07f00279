//! Copies out of mapped files, whose pages may be gone.
//!
//! On x86-64 a copy of our own that a missing page ends; elsewhere a system call, which tells of it, for
//! many at a time. The call looks for each page by itself: that takes as long as sending 512 octets
//! saves.

#![allow(unsafe_code, reason = "no safe wrapper exists for reading memory that may not be there")]

use core::ptr;

use crate::link::guarded::Guard;
use crate::link::mapping::Mapping;
use crate::mapped::MappedBytes;

/// Copies of one call.
const COPIES_MAX: usize = 32;

/// A copy of mapped bytes to a place in the memory of the frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) to: usize,
    pub(super) from: MappedBytes,
    /// Number of the frame in its batch.
    pub(super) frame: usize,
}

/// How mapped bytes are copied.
#[derive(Debug)]
pub(super) enum Copier {
    Guarded(Guard),
    Calls(Calls),
}

impl Copier {
    /// `None` if the system lets us do neither. `memory` is tried.
    pub(super) fn new(memory: &Mapping) -> Option<Self> {
        if let Some(guard) = Guard::new() {
            return Some(Self::Guarded(guard));
        }
        Calls::new(memory).map(Self::Calls)
    }

    /// Does all `copies` but for those whose bytes cannot be read: `failed` is told of each.
    ///
    /// # Safety
    /// Nobody may look at where they go to meanwhile.
    pub(super) unsafe fn copy(
        &self,
        memory: &Mapping,
        copies: &[Copy],
        failed: &mut dyn FnMut(&Copy),
    ) {
        match self {
            Self::Guarded(guard) => {
                for copy in copies {
                    let len = copy.from.len();
                    let whole = memory.part(copy.to, len).is_some_and(|to| {
                        // SAFETY: mapped memory of two mappings, of which nobody looks at one, as the
                        // caller promises, and the other one may have lost its pages only.
                        unsafe { guard.copy(to.as_ptr(), copy.from.start(), len) }
                    });
                    if !whole {
                        failed(copy);
                    }
                }
            }
            // SAFETY: as the caller promises.
            Self::Calls(calls) => unsafe { calls.copy(memory, copies, failed) },
        }
    }
}

/// Reads this process's memory by system calls.
#[derive(Debug)]
pub(super) struct Calls {
    process: libc::pid_t,
}

impl Calls {
    /// `None` if the system does not let us, as sandboxes may. `memory` is tried.
    fn new(memory: &Mapping) -> Option<Self> {
        // SAFETY: has no arguments and cannot fail.
        let calls = Self { process: unsafe { libc::getpid() } };
        let trial = Copy { to: 1, from: memory.lend(0, 1)?, frame: 0 };
        // SAFETY: `new` is called before anybody is told of the memory.
        let done = unsafe { calls.copy_some(memory, &[trial]) };
        (done == 1).then_some(calls)
    }

    /// As [`Copier::copy`].
    ///
    /// # Safety
    /// The same.
    unsafe fn copy(&self, memory: &Mapping, copies: &[Copy], failed: &mut dyn FnMut(&Copy)) {
        let mut rest = copies;
        while !rest.is_empty() {
            // SAFETY: as the caller promises.
            let done = unsafe { self.copy_some(memory, rest) };
            rest = rest.get(done..).unwrap_or_default();
            if done < COPIES_MAX
                && let Some((first, behind)) = rest.split_first()
            {
                failed(first);
                rest = behind;
            }
        }
    }

    /// Does at most [`COPIES_MAX`] from the front, up to the first that fails, and tells how many.
    ///
    /// # Safety
    /// Nobody may look at where they go to meanwhile.
    unsafe fn copy_some(&self, memory: &Mapping, copies: &[Copy]) -> usize {
        let mut to = [EMPTY; COPIES_MAX];
        let mut from = [EMPTY; COPIES_MAX];
        let mut count = 0;
        for ((to, from), copy) in to.iter_mut().zip(&mut from).zip(copies) {
            let len = copy.from.len();
            let Some(place) = memory.part(copy.to, len) else { break };
            *to = libc::iovec { iov_base: place.as_ptr().cast(), iov_len: len };
            *from = libc::iovec { iov_base: copy.from.start().cast_mut().cast(), iov_len: len };
            count += 1;
        }
        let vectors = libc::c_ulong::try_from(count).unwrap_or(0);
        // SAFETY: the first `vectors` of `to` are memory that nobody looks at, as the caller promises,
        // and those of `from` are read by the call only, which tells if they cannot be.
        let octets = unsafe {
            libc::process_vm_readv(self.process, to.as_ptr(), vectors, from.as_ptr(), vectors, 0)
        };
        let Ok(mut octets) = usize::try_from(octets) else { return 0 };
        // What was begun counts as not done.
        let whole = copies.iter().take(count).take_while(|copy| {
            let left = octets.checked_sub(copy.from.len());
            octets = left.unwrap_or(0);
            left.is_some()
        });
        whole.count()
    }
}

const EMPTY: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use rustix::mm::ProtFlags;

    use super::*;
    use crate::mapped::Region;

    const PAGE: usize = 4096;

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_copied() {
        let memory = Mapping::anonymous(80 * PAGE).unwrap();
        let calls = Copier::Calls(Calls::new(&memory).unwrap());
        for copier in [calls, Copier::new(&memory).unwrap()] {
            fails_where_pages_are_missing(&copier, &memory);
        }
    }

    fn fails_where_pages_are_missing(copier: &Copier, memory: &Mapping) {
        let mut file: File = tempfile::tempfile().unwrap();
        for n in 0..80_u8 {
            file.write_all(&[n; PAGE]).unwrap();
        }
        let region = Region::new(&file, 0, 80 * PAGE, ProtFlags::READ).unwrap();
        // From the far end of the file, so that what is missing comes first, in the middle or last.
        for (kept, order) in
            [(80, false), (79, false), (40, false), (40, true), (1, true), (0, true)]
        {
            file.set_len(kept as u64 * PAGE as u64).unwrap();
            let page = |n: usize| if order { 79 - n } else { n };
            let asked: Vec<Copy> = (0..80)
                .map(|n| Copy {
                    to: n * PAGE + 7,
                    from: MappedBytes::of(&region, page(n) * PAGE + 100, 3000).unwrap(),
                    frame: n,
                })
                .collect();
            let mut failed = Vec::new();
            // SAFETY: nobody else has the memory.
            unsafe { copier.copy(memory, &asked, &mut |copy| failed.push(copy.frame)) };
            assert_eq!(failed, (0..80).filter(|n| page(*n) >= kept).collect::<Vec<_>>());
            for n in (0..80).filter(|n| page(*n) < kept) {
                // SAFETY: nobody writes to it now.
                let got = unsafe { memory.bytes(n * PAGE + 7, 3000) }.unwrap();
                assert!(got.iter().all(|byte| usize::from(*byte) == page(n)), "{n}");
            }
            // What was there comes back as zeros: another length gives other pages.
            file.set_len(0).unwrap();
            file.set_len(80 * PAGE as u64).unwrap();
            for n in 0..80_u8 {
                std::os::unix::fs::FileExt::write_all_at(
                    &file,
                    &[n; PAGE],
                    u64::from(n) * PAGE as u64,
                )
                .unwrap();
            }
        }
    }
}
