//! Requests under way: which client waits for what, and the buffer that holds it.
//!
//! A request that comes again while its first copy is under way is *merged* with that: it is not
//! executed again and takes neither a buffer nor a slot, and its answer is that of the first.
//!
//! 1. The same is what asks for the same: command, sectors, every byte of a write. The tag does not
//!    tell: the Linux initiator sends again under a new one, others under the same, and tags are
//!    used again for something else. [AoE 8.1] [AoE 9]
//! 2. Nothing that came in between changes any of the sectors. So the second copy would have found
//!    and left what the first does, and order among overlapping requests stays as it was. A change
//!    that came in between has not ended: it waits for the first copy.
//! 3. Copies that differ in who asks, or in the tag, are answered each: the Linux initiator knows
//!    the latest tag only. Copies that do not differ are one request, and are answered once.

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

/// Most copies of one request that are answered each. Beyond, the oldest is forgotten: whoever sent
/// so many has given up on it.
pub(super) const COPIES_MAX: u32 = 16;

/// Counters of [`Requests::starts`]; about as many requests can be under way.
const STARTS: usize = 8192;

/// Who is to be answered, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Asker {
    pub(super) link: usize,
    pub(super) reply: AtaReply,
}

/// A request as far as it can be the same as another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) from: Asker,
    pub(super) asked: Asked,
    pub(super) range: Extent,
    /// Of a write.
    pub(super) data: &'a [u8],
    pub(super) durable: bool,
}

impl Wish<'_> {
    /// Without data.
    pub(super) fn new(from: Asker, asked: Asked, range: Extent) -> Self {
        Self { from, asked, range, data: &[], durable: false }
    }
}

/// Whether a request was merged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Merged {
    /// It is to be executed.
    No,
    /// It will be answered with the one under way.
    Yes,
    /// And an older copy will not be answered any more.
    Instead,
}

/// One request.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) disk: u32,
    pub(super) from: Asker,
    pub(super) asked: Asked,
    /// Sectors of all parts together; of a discard its first part.
    pub(super) range: Extent,
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
    pub(super) place: Place,
}

/// A request's place among all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Later ones have higher numbers.
    arrival: u64,
    /// Its counter in [`Requests::starts`].
    start: u16,
    /// Its oldest copy.
    copies: Option<u32>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) asked: Asked,
    pub(super) range: Extent,
    pub(super) failure: Option<Failure>,
}

impl Pending {
    /// The wish is this request once more.
    fn is_wish(&self, wish: &Wish<'_>) -> bool {
        if (self.asked, self.range) != (wish.asked, wish.range) {
            return false;
        }
        match self.asked {
            Asked::Read | Asked::Verify => true,
            Asked::Write => {
                (self.durable || !wish.durable)
                    && self.buf.bytes.get(..wish.data.len()) == Some(wish.data)
            }
            // What it covers depends on when it came, so only what cannot be another one.
            Asked::Flush => self.from == wish.from,
            // Its ranges are not kept. Doing it twice does no harm, and it is rare.
            Asked::Discard => false,
        }
    }

    /// A wish that comes after this request must not be taken for one that came before it.
    fn comes_between(&self, wish: &Wish<'_>) -> bool {
        match self.asked {
            _ if wish.asked == Asked::Flush => false,
            Asked::Write => self.range.overlaps(wish.range),
            Asked::Discard => true,
            Asked::Read | Asked::Verify | Asked::Flush => false,
        }
    }

    #[inline]
    pub(super) fn ended(&self) -> Ended {
        Ended { asked: self.asked, range: self.range, failure: self.failure }
    }

    /// The parts that are not in the engine yet share a sector with one of `other`'s.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.waiting_parts().any(|mine| other.waiting_parts().any(|theirs| mine.overlaps(theirs)))
    }

    fn waiting_parts(&self) -> impl Iterator<Item = Extent> + '_ {
        core::iter::once(self.extent).chain(self.more.iter().copied())
    }

    /// The request's buffer from byte `offset` of its data on.
    pub(super) fn data(&self, offset: u32, len: u64) -> Option<&[u8]> {
        cow_core::blocking::part(self.buf.bytes.get(self.data_at..)?, offset, len)
    }

    /// The bytes of these sectors of a write.
    pub(super) fn data_of(&self, extent: Extent) -> Option<&[u8]> {
        let before = extent.start().get().checked_sub(self.range.start().get())?;
        self.data(u32::try_from(before.checked_mul(512)?).ok()?, extent.bytes())
    }

    pub(super) fn data_mut(&mut self, offset: u32, len: u64) -> Option<&mut [u8]> {
        cow_core::blocking::part_mut(self.buf.bytes.get_mut(self.data_at..)?, offset, len)
    }
}

/// A copy that waits for the answer of the request it was merged with.
#[derive(Clone, Copy, Debug)]
struct Copied {
    from: Asker,
    /// The next newer one; of a free entry the next free one.
    next: Option<u32>,
}

/// A table of requests by number.
#[derive(Debug)]
pub(super) struct Requests {
    slots: Vec<Option<Pending>>,
    free: Vec<u32>,
    arrivals: u64,
    copies: Vec<Copied>,
    free_copy: Option<u32>,
    /// How many requests begin at a sector, by a hash of disk and sector: most requests are alone
    /// there, and then no other one need be looked at.
    starts: Box<[u16]>,
    /// Whether answers may be sent from where the data lie.
    pub(super) lend: bool,
    /// Requests under way whose data are to be sent from where they lie.
    pub(super) lent: usize,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            arrivals: 0,
            copies: Vec::new(),
            free_copy: None,
            starts: vec![0; STARTS].into_boxed_slice(),
            lend: false,
            lent: 0,
        }
    }
}

impl Requests {
    #[inline]
    pub(super) fn insert(&mut self, mut pending: Pending) -> RequestId {
        let start = start_of(pending.disk, pending.range);
        if let Some(count) = self.starts.get_mut(usize::from(start)) {
            *count = count.saturating_add(1);
        }
        self.arrivals = self.arrivals.wrapping_add(1);
        pending.place = Place { arrival: self.arrivals, start, copies: None };
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

    /// Takes a request out. Its copies are to be taken with [`next_copy`](Self::next_copy).
    #[inline]
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        if pending.buf.tail.is_some() {
            self.lent = self.lent.saturating_sub(1);
        }
        if let Some(count) = self.starts.get_mut(usize::from(pending.place.start)) {
            *count = count.saturating_sub(1);
        }
        Some(pending)
    }

    /// Whether a request of `disk` begins where this one does, or perhaps elsewhere.
    #[inline]
    pub(super) fn may_have(&self, disk: u32, wish: &Wish<'_>) -> bool {
        self.starts.get(usize::from(start_of(disk, wish.range))).is_some_and(|count| *count > 0)
    }

    /// Merges a request with one of `under_way`, those of the same disk, if there is the same and
    /// nothing came in between.
    pub(super) fn merge(
        &mut self,
        wish: &Wish<'_>,
        under_way: impl Iterator<Item = RequestId>,
    ) -> Merged {
        let mut same: Option<(u64, RequestId, Asker)> = None;
        let mut between = 0;
        for (id, pending) in under_way.filter_map(|id| Some((id, self.get(id)?))) {
            let arrival = pending.place.arrival;
            if pending.is_wish(wish) {
                if same.is_none_or(|(latest, ..)| latest < arrival) {
                    same = Some((arrival, id, pending.from));
                }
            } else if pending.comes_between(wish) {
                between = between.max(arrival);
            }
        }
        match same {
            Some((arrival, _, from)) if arrival > between && from == wish.from => Merged::Yes,
            Some((arrival, id, _)) if arrival > between => self.add_copy(id, wish.from),
            _ => Merged::No,
        }
    }

    /// Has one more asker answered with a request; nothing new if it is one already.
    fn add_copy(&mut self, id: RequestId, from: Asker) -> Merged {
        let first = self.get(id).and_then(|pending| pending.place.copies);
        let (mut at, mut last, mut count) = (first, None, 0);
        while let Some(number) = at
            && let Some(copy) = self.copies.get(number as usize)
        {
            if copy.from == from {
                return Merged::Yes;
            }
            (last, at) = (Some(number), copy.next);
            count += 1;
        }
        let mut merged = Merged::Yes;
        if count >= COPIES_MAX && self.next_copy_of(id).is_some() {
            merged = Merged::Instead;
        }
        let new = self.place_copy(Copied { from, next: None });
        if let Some(last) = last.and_then(|last| self.copies.get_mut(last as usize)) {
            last.next = Some(new);
        } else if let Some(pending) = self.get_mut(id) {
            pending.place.copies = Some(new);
        }
        merged
    }

    fn place_copy(&mut self, copy: Copied) -> u32 {
        if let Some(number) = self.free_copy
            && let Some(free) = self.copies.get_mut(number as usize)
        {
            self.free_copy = free.next;
            *free = copy;
            return number;
        }
        self.copies.push(copy);
        // At most COPIES_MAX for each request.
        u32::try_from(self.copies.len() - 1).unwrap_or(u32::MAX)
    }

    fn next_copy_of(&mut self, id: RequestId) -> Option<Asker> {
        let mut place = self.get(id)?.place;
        let from = self.next_copy(&mut place);
        self.get_mut(id)?.place = place;
        from
    }

    /// Takes the oldest copy of a request that was, or is to be, taken out.
    #[inline]
    pub(super) fn next_copy(&mut self, place: &mut Place) -> Option<Asker> {
        let number = place.copies?;
        let copy = self.copies.get_mut(number as usize)?;
        place.copies = core::mem::replace(&mut copy.next, self.free_copy);
        let from = copy.from;
        self.free_copy = Some(number);
        Some(from)
    }
}

/// Which counter is that of a disk's sector: a multiplicative hash, for sectors are regular.
#[inline]
fn start_of(disk: u32, range: Extent) -> u16 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = range.start().get() ^ u64::from(disk) << 40;
    let high = mixed.wrapping_mul(ODD) >> (u64::BITS - STARTS.trailing_zeros());
    u16::try_from(high).unwrap_or(0)
}
