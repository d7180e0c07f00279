//! The proof that the cores run in firmware: a program of nothing but them.
//!
//! - No `std`, no C library and **no global allocator**: a dependency that allocates does not link.
//! - **No panic path**: the panic handler calls a function that does not exist, so a release build
//!   links only if the optimiser has shown that no call of an entry point below can panic.
//!
//! - **Small stack**: every call of an entry point is measured against a budget.
//!
//! It is also run: frames and a chain are driven once, and the exit status says how far it got.
#![no_std]
#![no_main]

mod bitmaps;
mod chains;
mod conformance;
mod cores;
mod profiles;
mod qcow2;
mod stack;
mod system;

unsafe extern "C" {
    fn a_panic_path_survived() -> !;
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never called; the symbol does not exist, so a program that could get here does not link.
    unsafe { a_panic_path_survived() }
}

/// What the proof must catch, switched on by `firmware/prove` to show that it does.
#[cfg(feature = "planted_panic")]
fn planted(bytes: &[u8]) -> u8 {
    bytes[core::hint::black_box(3)]
}

#[cfg(feature = "planted_allocation")]
mod planted_allocation {
    extern crate alloc;

    pub fn allocate() -> usize {
        alloc::vec![0_u8; core::hint::black_box(3)].len()
    }
}

/// Called by the entry code with an aligned stack.
extern "C" fn main() -> ! {
    #[cfg(feature = "planted_panic")]
    core::hint::black_box(planted(&[1, 2]));
    #[cfg(feature = "planted_allocation")]
    core::hint::black_box(planted_allocation::allocate());
    let status = cores::run();
    system::print("stack of codec and target: ", cores::CODEC.get());
    system::print("stack of the engine: ", chains::ENGINE.get());
    system::print("stack of the conformance runner: ", conformance::RUNNER.get());
    system::print("stack of the client profiles: ", profiles::ACTOR.get());
    let depths = [
        cores::CODEC.get(),
        chains::ENGINE.get(),
        conformance::RUNNER.get(),
        profiles::ACTOR.get(),
    ];
    let deep = depths.into_iter().any(|depth| depth > stack::BUDGET);
    system::exit(status | u8::from(deep) << 1)
}
