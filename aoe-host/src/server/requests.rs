//! Requests under way: which client waits for what, and the buffer that holds it.

use aoe_proto::AtaReply;
use cow_core::engine::{Failure, RequestId};
use cow_core::units::Extent;

use super::frames::FrameBuf;

/// What the initiator asked for, as far as the answer depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    Read,
    Verify,
    Write,
    Flush,
    Discard,
}

impl Asked {
    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Discard)
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) disk: u32,
    pub(super) link: usize,
    pub(super) asked: Asked,
    pub(super) reply: AtaReply,
    /// Sectors of all parts together.
    pub(super) sectors: u64,
    /// The part that goes into the engine next, or the last one.
    pub(super) extent: Extent,
    /// Parts that follow it, last first.
    pub(super) more: Vec<Extent>,
    /// Parts in the engine.
    pub(super) parts: u32,
    /// Waits for its turn: not all parts are in the engine.
    pub(super) waits: bool,
    pub(super) durable: bool,
    /// Where the data begin in `buf`.
    pub(super) data_at: usize,
    pub(super) buf: FrameBuf,
    pub(super) failure: Option<Failure>,
}

impl Pending {
    /// The parts that are not in the engine yet share a sector with one of `other`'s.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.waiting_parts().any(|mine| other.waiting_parts().any(|theirs| mine.overlaps(theirs)))
    }

    fn waiting_parts(&self) -> impl Iterator<Item = Extent> + '_ {
        core::iter::once(self.extent).chain(self.more.iter().copied())
    }

    /// A write, with its data.
    pub(super) fn filled(mut self, data: &[u8], durable: bool) -> Self {
        self.durable = durable;
        // No frame is longer than a buffer: `Server::receive` saw to that.
        if let Some(target) = self.buf.bytes.get_mut(..data.len()) {
            target.copy_from_slice(data);
        }
        self
    }

    /// The request's buffer from byte `offset` of its data on.
    pub(super) fn data(&self, offset: u32, len: u64) -> Option<&[u8]> {
        cow_core::blocking::part(self.buf.bytes.get(self.data_at..)?, offset, len)
    }

    pub(super) fn data_mut(&mut self, offset: u32, len: u64) -> Option<&mut [u8]> {
        cow_core::blocking::part_mut(self.buf.bytes.get_mut(self.data_at..)?, offset, len)
    }
}

/// A table of requests by number.
#[derive(Debug, Default)]
pub(super) struct Requests {
    slots: Vec<Option<Pending>>,
    free: Vec<u32>,
}

impl Requests {
    pub(super) fn insert(&mut self, pending: Pending) -> RequestId {
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            *slot = Some(pending);
            return RequestId(number);
        }
        self.slots.push(Some(pending));
        // Bounded by the number of frame buffers, far below 2^32.
        RequestId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Pending> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut Pending> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(pending)
    }
}
