//! Measures the stack that a call uses: paints what lies below, calls, looks how far it got.

use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What a call of the cores may use, in bytes.
pub const BUDGET: usize = 4096;

/// Bytes painted: far more than the budget.
const PAINTED: usize = 32 << 10;

/// Left between the painter's own frame and the paint.
const MARGIN: usize = 512;

const PAINT: u8 = 0x5c;

/// The deepest call of a kind so far.
#[derive(Debug)]
pub struct Depth(AtomicUsize);

impl Depth {
    /// Nothing measured yet.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Bytes, counted from the caller of [`Depth::of`].
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Calls `call` and keeps the depth if it is the greatest.
    #[inline(never)]
    pub fn of<T>(&self, call: impl FnOnce() -> T) -> T {
        let bottom = below(MARGIN + PAINTED);
        // SAFETY: the memory below the stack pointer belongs to this thread's stack, which the
        // kernel lets grow far beyond this; nothing lives there while this function is at the top.
        unsafe { paint(bottom) };
        let value = apart(call);
        // SAFETY: as above; only read.
        let untouched = unsafe { unpainted(bottom) };
        self.0.fetch_max(MARGIN + PAINTED - untouched, Ordering::Relaxed);
        value
    }
}

/// A frame of its own, so that what the call needs lies below the painter's.
#[inline(never)]
fn apart<T>(call: impl FnOnce() -> T) -> T {
    call()
}

/// The address so many bytes below the stack pointer.
#[inline(always)]
fn below(bytes: usize) -> usize {
    let top: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) top, options(nomem, nostack, preserves_flags)) };
    top.wrapping_sub(bytes)
}

/// # Safety
/// `bottom` begins [`PAINTED`] bytes of unused stack.
#[inline(always)]
unsafe fn paint(bottom: usize) {
    for at in 0..PAINTED {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::write_volatile(bottom.wrapping_add(at) as *mut u8, PAINT) };
    }
}

/// # Safety
/// As [`paint`].
#[inline(always)]
unsafe fn unpainted(bottom: usize) -> usize {
    let mut at = 0;
    // SAFETY: the caller's promise.
    while at < PAINTED
        && unsafe { core::ptr::read_volatile(bottom.wrapping_add(at) as *const u8) } == PAINT
    {
        at += 1;
    }
    at
}
