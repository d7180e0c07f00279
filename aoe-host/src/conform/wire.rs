//! The way to the target, and time.

use core::time::Duration;
use std::time::Instant;

use crate::error::{HostError, Result};
use crate::link::probe::Probe;
use crate::link::wait;
use crate::values::Mac;

/// A frame that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'f> {
    /// The frame, without VLAN tag.
    pub frame: &'f [u8],
    /// The id of its VLAN tag, if it had one.
    pub vlan: Option<u16>,
    /// When, as [`Wire::now_ms`] counts.
    pub at_ms: u64,
}

/// Raw frames in both directions, and time.
pub trait Wire {
    /// Milliseconds of any origin that never run backwards.
    fn now_ms(&self) -> u64;

    /// Sends a frame as it is: from any source, with VLAN tag, shorter than Ethernet allows. What
    /// cannot leave is lost, as on any Ethernet.
    fn send(&mut self, frame: &[u8]);

    /// Hands over what arrives. Returns when something did, or at `until_ms`; earlier does no harm.
    ///
    /// # Errors
    /// When the system refuses to wait.
    fn wait(&mut self, until_ms: u64, sink: &mut dyn FnMut(Arrived<'_>)) -> Result<()>;
}

/// Longest wait, so that a signal that arrives just before it is seen soon.
const WAIT_MAX_MS: u64 = 200;

/// A [`Wire`] over an interface of the system.
#[derive(Debug)]
pub struct ProbeWire {
    probe: Probe,
    start: Instant,
}

impl ProbeWire {
    /// A wire over `probe`.
    pub fn new(probe: Probe) -> Self {
        Self { probe, start: Instant::now() }
    }
}

impl Wire for ProbeWire {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn send(&mut self, frame: &[u8]) {
        // An interface that is down for a moment is part of some cases.
        drop(self.probe.send(frame));
    }

    fn wait(&mut self, until_ms: u64, sink: &mut dyn FnMut(Arrived<'_>)) -> Result<()> {
        let now = self.now_ms();
        let patience = Duration::from_millis(until_ms.saturating_sub(now).min(WAIT_MAX_MS));
        wait(&[self.probe.poll_fd()], Some(patience))
            .map_err(|error| HostError::io(error, "wait for frames"))?;
        let at_ms = self.now_ms();
        let loopback = self.probe.is_loopback();
        self.probe.receive(&mut |frame, vlan| {
            // Loopback gives us what we sent, too; only the target's address is that of nobody.
            let own = loopback && frame.get(6..12) != Some(&Mac([0; 6]).0);
            if !own {
                sink(Arrived { frame, vlan, at_ms });
            }
        });
        Ok(())
    }
}
