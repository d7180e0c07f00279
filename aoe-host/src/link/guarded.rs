//! A copy out of a mapped file that stops where a page cannot be read any more.
//!
//! Somebody may cut a file that is mapped, or its disk may fail: a look at such a page then is a signal
//! (`SIGBUS`) that ends the process. The copy is a single instruction at an address that is known, so the
//! signal's handler can tell that it was this one, and has the thread go on behind it. Every
//! other signal of the kind ends in the handler that was there before.

#![allow(unsafe_code, reason = "a copy that may fail, and the handler of its failure")]

use core::arch::global_asm;
use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr::{self, addr_of};
use core::sync::atomic::{AtomicPtr, Ordering};
use std::io;
use std::sync::OnceLock;

// Copies `rdx` octets from `rsi` to `rdi` and returns how many are left. (System V ABI: the direction
// flag is clear; the registers are the caller's to save.)
global_asm!(
    ".pushsection .text.cowblade_copy_mapped, \"ax\", @progbits",
    ".globl cowblade_copy_mapped",
    ".hidden cowblade_copy_mapped",
    ".type cowblade_copy_mapped, @function",
    "cowblade_copy_mapped:",
    "mov rcx, rdx",
    ".globl cowblade_copy_mapped_reads",
    ".hidden cowblade_copy_mapped_reads",
    "cowblade_copy_mapped_reads:",
    "rep movsb",
    ".globl cowblade_copy_mapped_ends",
    ".hidden cowblade_copy_mapped_ends",
    "cowblade_copy_mapped_ends:",
    "mov rax, rcx",
    "ret",
    ".size cowblade_copy_mapped, . - cowblade_copy_mapped",
    ".popsection",
);

unsafe extern "C" {
    fn cowblade_copy_mapped(to: *mut u8, from: *const u8, len: usize) -> usize;
    /// Labels; what is there is code.
    static cowblade_copy_mapped_reads: u8;
    static cowblade_copy_mapped_ends: u8;
}

/// Who handled the signal before. Never freed: the handler may need it at any time.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// That the handler is installed, which it is for as long as the process lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard(());

impl Guard {
    /// Installs the handler unless that was done.
    pub(super) fn new() -> Option<Self> {
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        INSTALLED.get_or_init(|| install().is_ok()).then_some(Self(()))
    }

    /// Copies `len` bytes from `from` to `to`, and tells whether all of them could be read.
    ///
    /// # Safety
    /// Both are mapped, but for pages of a file that are not there any more behind `from`; nobody
    /// else uses those at `to` meanwhile, and they lie apart.
    #[expect(clippy::unused_self, reason = "who has one knows that the handler is there")]
    pub(super) unsafe fn copy(self, to: *mut u8, from: *const u8, len: usize) -> bool {
        // SAFETY: as the caller promises; where `from` cannot be read the handler ends the copy.
        unsafe { cowblade_copy_mapped(to, from, len) == 0 }
    }
}

fn install() -> io::Result<()> {
    // SAFETY: integers and addresses that may be null: all zero is no flags, an empty mask, the default.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
    // On a stack of its own where a thread has one, as the handler of the runtime.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: reads nothing, and writes what `before` has room for.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) })?;
    BEFORE.store(Box::into_raw(Box::new(before)), Ordering::Release);
    // SAFETY: the handler has the signature that `SA_SIGINFO` asks for and calls nothing that a handler
    // may not call.
    check(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn on_bus_error(
    signal: c_int,
    _information: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let context = context.cast::<libc::ucontext_t>();
    let at = usize::try_from(libc::REG_RIP).unwrap_or_default();
    // SAFETY: with `SA_SIGINFO` the third argument is the interrupted thread's context, ours until we
    // return (sigaction(2)).
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    if let Some(next) = registers.get_mut(at)
        && *next == address(addr_of!(cowblade_copy_mapped_reads))
    {
        *next = address(addr_of!(cowblade_copy_mapped_ends));
        return;
    }
    let before = BEFORE.load(Ordering::Acquire);
    if !before.is_null() {
        // SAFETY: made by `install`, and never freed or changed. What was interrupted is tried again, and
        // fails again, with the old handler.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

/// An address as a register holds it.
fn address(of: *const u8) -> libc::greg_t {
    of.addr().cast_signed() as libc::greg_t
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use rustix::mm::ProtFlags;

    use super::*;
    use crate::mapped::{MappedBytes, Region};

    const PAGE: usize = 4096;

    #[test]
    fn a_copy_ends_where_the_file_does_and_the_next_one_is_whole() {
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * PAGE]).unwrap();
        let region = Region::new(&file, 0, 3 * PAGE, ProtFlags::READ).unwrap();
        let from = |at: usize, len: usize| region.part(at, len).unwrap().as_ptr().cast_const();
        let guard = Guard::new().unwrap();
        let mut to = vec![0; 3 * PAGE];
        // SAFETY: mapped, and as long as that.
        assert!(unsafe { guard.copy(to.as_mut_ptr(), from(1, 2 * PAGE), 2 * PAGE) });
        assert_eq!(to[..2 * PAGE], [7; 2 * PAGE]);
        assert_eq!(to[2 * PAGE], 0);
        file.set_len(PAGE as u64).unwrap();
        for (at, len, all) in [
            (0, PAGE, true),
            (0, PAGE + 1, false),
            (PAGE - 1, 2, false),
            (PAGE, 1, false),
            (2 * PAGE, PAGE, false),
            (PAGE, 0, true),
            (9, 512, true),
        ] {
            // SAFETY: as above, but for what the file has no more.
            let whole = unsafe { guard.copy(to.as_mut_ptr(), from(at, len), len) };
            assert_eq!(whole, all, "{len} from {at}");
        }
        // In another thread, which has no stack for signals unless the runtime gave it one.
        let missing = MappedBytes::of(&region, PAGE, 8).unwrap();
        let ask = move || {
            let mut to = [0; 8];
            // SAFETY: as above; the thread ends before the mapping does.
            unsafe { guard.copy(to.as_mut_ptr(), missing.start(), 8) }
        };
        assert!(!std::thread::spawn(ask).join().unwrap());
    }
}
