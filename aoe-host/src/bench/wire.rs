//! How frames leave and enter, for a generator of load.

use core::time::Duration;

use crate::error::Result;
use crate::link::{Link, wait_for_frames};
use crate::values::Mac;

/// How long [`Wire::receive`] waits at most: the generator keeps time between two waits.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A frame to send, in two parts so that data need not be copied behind their header.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'f> {
    /// The beginning, at least the Ethernet header.
    pub head: &'f [u8],
    /// The rest.
    pub data: &'f [u8],
}

/// A frame that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Received<'f> {
    /// The frame, or its beginning where the rest was not wanted.
    pub bytes: &'f [u8],
    /// Length of the whole frame in bytes.
    pub len: usize,
}

/// Where a generator of load sends its requests, and takes answers for all its clients from.
pub trait Wire {
    /// Name of the interface, for messages.
    fn name(&self) -> &str;

    /// Address of the interface.
    fn mac(&self) -> Mac;

    /// Largest Ethernet payload in bytes.
    fn mtu(&self) -> usize;

    /// Sends frames in order and tells how many were handed over. What is not is lost, as on any
    /// Ethernet.
    fn send(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'_>>) -> usize;

    /// Hands over the answers that are there, and tells how many; if there are none and `wait` is
    /// set, waits for some, but not longer than about 10 ms.
    fn receive(&mut self, wait: bool, sink: &mut dyn FnMut(Received<'_>)) -> usize;

    /// Whether whole frames are wanted from now on, or their first 60 bytes are enough. What arrived
    /// before may be lost.
    ///
    /// # Errors
    /// When the system refuses to change it.
    fn want_whole_frames(&mut self, whole: bool) -> Result<()>;

    /// Frames that arrived and found no room, since the wire was opened.
    fn drops(&mut self) -> u64;
}

/// Any [`Link`] as a wire, for the clients of its own address.
pub struct LinkWire<'l> {
    link: &'l mut dyn Link,
    buffer: Vec<u8>,
}

impl<'l> LinkWire<'l> {
    /// Uses the link alone while it lives.
    pub fn new(link: &'l mut dyn Link) -> Self {
        Self { link, buffer: Vec::new() }
    }
}

impl Wire for LinkWire<'_> {
    fn name(&self) -> &str {
        self.link.name()
    }

    fn mac(&self) -> Mac {
        self.link.mac()
    }

    fn mtu(&self) -> usize {
        self.link.mtu()
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'_>>) -> usize {
        let mut sent = 0;
        for frame in frames {
            self.buffer.clear();
            self.buffer.extend_from_slice(frame.head);
            self.buffer.extend_from_slice(frame.data);
            sent += self.link.send(&mut core::iter::once(self.buffer.as_slice())).sent;
        }
        sent
    }

    fn receive(&mut self, wait: bool, sink: &mut dyn FnMut(Received<'_>)) -> usize {
        let mut take = |link: &mut dyn Link| {
            link.receive(64, &mut |frame| sink(Received { bytes: frame, len: frame.len() }))
        };
        let taken = take(self.link);
        if taken > 0 || !wait {
            return taken;
        }
        // A link that cannot be waited for is asked again all the same.
        drop(wait_for_frames(self.link, TICK));
        take(self.link)
    }

    fn want_whole_frames(&mut self, _whole: bool) -> Result<()> {
        Ok(())
    }

    fn drops(&mut self) -> u64 {
        self.link.counters().receive_drops
    }
}
