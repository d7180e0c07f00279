//! In place of `guarded.rs` where there is no such copy yet: it is written for one processor after the
//! other.

#![allow(unsafe_code, reason = "a method has the same signature everywhere")]

/// See `guarded.rs`. There is none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {}

impl Guard {
    pub(super) fn new() -> Option<Self> {
        None
    }

    /// # Safety
    /// None is needed.
    pub(super) unsafe fn copy(self, _to: *mut u8, _from: *const u8, _len: usize) -> bool {
        match self {}
    }
}
