//! What a C library would bring: entry, exit, and the memory functions that the compiler calls.

use core::arch::{asm, naked_asm};

/// Where the kernel starts the program.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("and rsp, -16", "call {main}", "ud2", main = sym crate::main)
}

/// Ends the program.
pub fn exit(status: u8) -> ! {
    // SAFETY: exit_group takes a status and does not return.
    unsafe {
        asm!("syscall", in("rax") 231, in("rdi") u64::from(status), options(noreturn, nostack))
    }
}

/// Prints a line of text and a number of bytes.
pub fn print(text: &str, bytes: usize) {
    let mut digits = [b'0'; 20];
    let (mut rest, mut first) = (bytes, digits.len());
    while first > 0 && (rest > 0 || first == digits.len()) {
        first -= 1;
        if let Some(digit) = digits.get_mut(first) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        }
        rest /= 10;
    }
    write(text.as_bytes());
    write(digits.get(first..).unwrap_or(&[]));
    write(b" bytes\n");
}

fn write(bytes: &[u8]) {
    // SAFETY: write(1, bytes) reads exactly the slice; what it returns does not matter here.
    unsafe {
        asm!("syscall", inout("rax") 1_usize => _, in("rdi") 1, in("rsi") bytes.as_ptr(),
             in("rdx") bytes.len(), out("rcx") _, out("r11") _, options(nostack, readonly));
    }
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: a forward copy never overwrites bytes that are still to be read here.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: as above, backwards; the direction flag is restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
             inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller vouches for both ranges; volatile keeps this from becoming a call of itself.
        let (x, y) = unsafe {
            (
                core::ptr::read_volatile(a.wrapping_add(at)),
                core::ptr::read_volatile(b.wrapping_add(at)),
            )
        };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}
