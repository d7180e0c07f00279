//! Signals as something a poll loop can wait for.
//!
//! `SIGTERM` and `SIGINT` ask for a drain; a second one ends the process at once, which loses
//! nothing that was acknowledged. `SIGHUP` asks for a new advertisement.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::error::{Exit, HostError, Result};

/// What was asked for since the last [`Signals::take`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SignalEvents {
    /// Finish what is in progress, sync, and end.
    pub drain: bool,
    /// Advertise every target again. [AoE 4.3]
    pub advertise: bool,
}

/// The process's signal handlers and the descriptor they write to.
#[derive(Debug)]
pub struct Signals {
    wake: UnixStream,
    drain: Arc<AtomicBool>,
    advertise: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers, for the rest of the process's life.
    ///
    /// # Errors
    /// When the system refuses a handler or a descriptor.
    pub fn install() -> Result<Self> {
        Self::try_install().map_err(|error| HostError::io(error, "install signal handlers"))
    }

    fn try_install() -> io::Result<Self> {
        let (wake, writer) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let drain = Arc::new(AtomicBool::new(false));
        let advertise = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Handlers run in the order of registration: the first signal finds the flag unset.
            let exit = i32::from(Exit::Failure as u8);
            flag::register_conditional_shutdown(signal, exit, Arc::clone(&drain))?;
            flag::register(signal, Arc::clone(&drain))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        flag::register(SIGHUP, Arc::clone(&advertise))?;
        low_level::pipe::register(SIGHUP, writer)?;
        Ok(Self { wake, drain, advertise })
    }

    /// Becomes readable when a signal arrived.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What was asked for; `advertise` once per signal, `drain` for ever after the first.
    pub fn take(&mut self) -> SignalEvents {
        let mut bin = [0_u8; 64];
        while self.wake.read(&mut bin).is_ok_and(|len| len == bin.len()) {}
        SignalEvents {
            drain: self.drain.load(Ordering::SeqCst),
            advertise: self.advertise.swap(false, Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::link;

    // One test: handlers belong to the whole process.
    #[test]
    fn signals_wake_the_loop_and_say_what_they_want() {
        let mut signals = Signals::install().unwrap();
        assert_eq!(signals.take(), SignalEvents::default());

        low_level::raise(SIGHUP).unwrap();
        link::wait(&[signals.poll_fd()], Some(Duration::from_mins(1))).unwrap();
        assert_eq!(signals.take(), SignalEvents { drain: false, advertise: true });
        assert_eq!(signals.take(), SignalEvents::default());

        low_level::raise(SIGTERM).unwrap();
        link::wait(&[signals.poll_fd()], Some(Duration::from_mins(1))).unwrap();
        assert_eq!(signals.take(), SignalEvents { drain: true, advertise: false });
    }
}
