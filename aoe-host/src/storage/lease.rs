//! A read lease on a file: the system tells us before anybody can open it for writing. The only
//! unsafe code of storage.

#![allow(unsafe_code, reason = "no safe wrapper exists for file leases")]

use core::ffi::c_int;
use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

/// Which signal tells of a lease (`asm-generic/fcntl.h`).
const F_SETSIG: c_int = 10;

/// What the lease of a file is like now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LeaseState {
    /// Ours, and nobody minds.
    Held,
    /// Somebody waits to open or truncate the file for writing, or gave up waiting for us.
    Breaking,
}

/// Takes a read lease. `false` where the system has none to give: a file system without leases,
/// somebody else's file, a file that is open for writing.
pub(super) fn take(file: &File) -> bool {
    // The system tells the holder by a signal whose default would end the process (SIGIO). We poll
    // instead, so the signal becomes one that is ignored unless somebody asked for it.
    control(file, F_SETSIG, libc::SIGURG).is_ok()
        && control(file, libc::F_SETLEASE, libc::F_RDLCK).is_ok()
}

/// Looks at a lease that was taken.
pub(super) fn state(file: &File) -> LeaseState {
    match control(file, libc::F_GETLEASE, 0) {
        Ok(kind) if kind == libc::F_RDLCK => LeaseState::Held,
        _ => LeaseState::Breaking,
    }
}

/// Gives a lease back; whoever waited goes on.
pub(super) fn release(file: &File) {
    // A lease that is gone already is what we want.
    let _gone = control(file, libc::F_SETLEASE, libc::F_UNLCK);
}

fn control(file: &File, command: c_int, argument: c_int) -> Result<c_int, Errno> {
    // SAFETY: the descriptor is open, since `file` is borrowed; the three commands used here
    // (F_SETSIG, F_SETLEASE, F_GETLEASE) take an int and touch no memory of ours [fcntl(2)].
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer < 0 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(answer)
}
