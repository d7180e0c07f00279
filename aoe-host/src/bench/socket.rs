//! The raw socket of the load generator as a [`Wire`].

use super::wire::{Outgoing, Received, TICK, Wire};
use crate::error::Result;
use crate::link::load::{Answers, LoadSocket};
use crate::values::Mac;

/// Answers taken with one look at the clock: the time of the last is wrong by their cost.
const RECEIVE_BATCH: usize = 32;

/// A raw socket as a [`Wire`].
pub struct SocketWire {
    socket: LoadSocket,
    name: String,
    answers: Answers,
    drops: u64,
}

impl SocketWire {
    /// Opens a raw socket on the Ethernet interface `name`. With `every_station` it takes answers
    /// to any address, not only the interface's own.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// others if the system has no packet rings.
    pub fn open(name: &str, every_station: bool) -> Result<Self> {
        let answers = Answers { every_station, whole: true };
        let socket = LoadSocket::open(name, answers)?;
        Ok(Self { socket, name: name.to_owned(), answers, drops: 0 })
    }
}

impl Wire for SocketWire {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> Mac {
        self.socket.state().mac
    }

    fn mtu(&self) -> usize {
        self.socket.state().mtu
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'_>>) -> usize {
        self.socket.send(&mut frames.map(|frame| [frame.head, frame.data]))
    }

    fn receive(&mut self, wait: bool, sink: &mut dyn FnMut(Received<'_>)) -> usize {
        let mut sink = |bytes: &[u8], len: usize| sink(Received { bytes, len });
        let taken = self.socket.receive(RECEIVE_BATCH, &mut sink);
        if taken > 0 || !wait {
            return taken;
        }
        self.socket.wait(TICK);
        self.socket.receive(RECEIVE_BATCH, &mut sink)
    }

    fn want_whole_frames(&mut self, whole: bool) -> Result<()> {
        if whole != self.answers.whole {
            let answers = Answers { whole, ..self.answers };
            self.socket = LoadSocket::open(&self.name, answers)?;
            self.answers = answers;
        }
        Ok(())
    }

    fn drops(&mut self) -> u64 {
        self.drops += u64::from(self.socket.take_drops());
        self.drops
    }
}
