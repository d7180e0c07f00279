//! The in-flight table: slots, their order, who waits for whom, and which can go on.

use super::{Failure, Note, Request, RequestId, Ticket};
use crate::format::Fill;
use crate::pages::{NIL, PageId};
use crate::units::{Extent, MAX_SECTORS};

/// What a ticket stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Task {
    Data(u16),
    Fill(u16),
    Load(PageId),
    Prepare(PageId),
    ZeroFirst(u16),
    Preamble(PageId),
    Page(PageId),
    Sync,
    Unknown,
}

/// Bits of a ticket below the kind: a slot or a page number.
const NUMBER_BITS: u32 = 24;

impl Task {
    pub(super) fn ticket(self) -> Ticket {
        let (kind, number) = match self {
            Self::Data(at) => (1, u32::from(at)),
            Self::Fill(at) => (2, u32::from(at)),
            Self::Load(page) => (3, page.0),
            Self::Prepare(page) => (4, page.0),
            Self::ZeroFirst(at) => (5, u32::from(at)),
            Self::Preamble(page) => (6, page.0),
            Self::Page(page) => (7, page.0),
            Self::Sync => (8, 0),
            Self::Unknown => (0, 0),
        };
        Ticket(kind << NUMBER_BITS | (number & ((1 << NUMBER_BITS) - 1)))
    }

    pub(super) fn of(ticket: Ticket) -> Self {
        let number = ticket.0 & ((1 << NUMBER_BITS) - 1);
        let slot = u16::try_from(number);
        match (ticket.0 >> NUMBER_BITS, slot) {
            (1, Ok(at)) => Self::Data(at),
            (2, Ok(at)) => Self::Fill(at),
            (3, _) => Self::Load(PageId(number)),
            (4, _) => Self::Prepare(PageId(number)),
            (5, Ok(at)) => Self::ZeroFirst(at),
            (6, _) => Self::Preamble(PageId(number)),
            (7, _) => Self::Page(PageId(number)),
            (8, _) => Self::Sync,
            _ => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Free,
    /// Behind an earlier overlapping request.
    Waiting,
    Start,
    /// Finding runs and putting out their reads.
    Read,
    /// Finding places and putting out the writes of the payload.
    Place,
    /// As `Place`, for zeros and discards.
    Clear,
    /// Filling an allocation unit from below.
    Fill,
    /// Waiting for operations under way.
    Drain,
    /// Putting the new state into open pages.
    Apply,
    /// Having the new mapping noted.
    Note,
    /// Waiting for a commit.
    Commit,
    Punch,
    Done,
}

/// Why a slot that could go on does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Park {
    No,
    /// Operations of its own are under way.
    Operations,
    /// A page is being loaded or prepared.
    Page(PageId),
    /// Pages are held elsewhere.
    Starved,
    /// Until some request or commit of this engine ends.
    Progress,
}

impl Park {
    /// Somebody else ends the wait, with [`Table::wake`]. A slot's own operations find it by its
    /// number; for them nobody need look at all slots.
    fn is_woken(self) -> bool {
        !matches!(self, Self::No | Self::Operations)
    }
}

/// A run being sought down the chain. Kept between page loads, so that a pool of two pages
/// suffices for a chain of any depth: what was found above cannot change while the request runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Walk {
    /// 0 is the overlay.
    pub(super) depth: u16,
    /// Absent in all layers above `depth`; `u64::MAX` if none was asked yet.
    pub(super) sectors: u64,
}

impl Walk {
    pub(super) const TOP: Self = Self { depth: 0, sectors: u64::MAX };
}

/// Bytes of the overlay's storage that a zero or discard leaves unreferenced: the first part that
/// was marked, and what follows it both in the disk and in the storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Gap {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Bytes from the start of the request's range to `offset`.
    lead: u64,
}

impl Gap {
    pub(super) fn new(lead: u64, offset: u64, len: u64) -> Self {
        Self { offset, len, lead }
    }

    /// With another part, if it comes next. Otherwise what lies between may be somebody else's.
    pub(super) fn extend(self, lead: u64, offset: u64, len: u64) -> Self {
        let apart = lead.wrapping_sub(self.lead);
        if apart != self.len || offset != self.offset.wrapping_add(apart) {
            return self; // giving space back is best effort
        }
        Self { len: apart.saturating_add(len), ..self }
    }
}

/// An allocation unit being filled around a partial write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) fill: Fill,
    /// Sectors of the unit that the request itself writes.
    pub(super) payload: Extent,
    /// The next sector to look at.
    pub(super) cursor: u64,
    /// What is being filled next (once it is known not to be zeros, a page's worth), and how much
    /// of it has been found.
    pub(super) piece: Extent,
    pub(super) found: u64,
    pub(super) page: Option<PageId>,
    pub(super) writing: bool,
    pub(super) outstanding: u32,
}

/// A region of the overlay's storage that is copied ahead of a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copying {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) len: u64,
    /// Bytes copied, and whether the next piece has arrived in the page.
    pub(super) done: u64,
    pub(super) arrived: bool,
    pub(super) page: PageId,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one request")]
pub(super) struct Slot {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) extent: Extent,
    pub(super) phase: Phase,
    pub(super) park: Park,
    /// Sectors placed, read, applied or noted so far, by phase.
    pub(super) done: u64,
    /// Sectors for which a place was found.
    pub(super) placed: u64,
    /// Sectors applied while the others were still to be placed.
    pub(super) applied: u64,
    /// Placing stopped at this sector of the request, until all before it is applied.
    pub(super) pause: Option<u64>,
    /// How far down the chain the next run was sought already.
    pub(super) walk: Walk,
    /// A `Fill` for the odd tail of the base was put out; its read follows.
    pub(super) tail: bool,
    /// Some data were written or zeroed.
    pub(super) touched: bool,
    pub(super) outstanding: u32,
    pub(super) failure: Option<Failure>,
    /// The mapping changes.
    pub(super) publish: bool,
    /// The change is to zero, by mark.
    pub(super) marked: bool,
    /// Bytes of the storage that are unreferenced after that.
    pub(super) punch: Option<Gap>,
    /// Sectors counted against the limit.
    pub(super) charged: u64,
    /// While it waits for a commit to make room: how many had failed before.
    pub(super) failures_seen: Option<u32>,
    /// Commit that makes this request durable.
    pub(super) generation: u32,
    pub(super) filling: Option<Filling>,
    /// A region that is zeroed ahead of the commit, by its byte offset.
    pub(super) zeroing: Option<u64>,
    /// A region that is copied ahead of the commit.
    pub(super) copying: Option<Copying>,
    order: u64,
    next: u16,
    queued: bool,
}

impl Slot {
    const FREE: Self = Self {
        id: RequestId(0),
        request: Request::Flush,
        extent: Extent::EMPTY,
        phase: Phase::Free,
        park: Park::No,
        done: 0,
        placed: 0,
        applied: 0,
        pause: None,
        walk: Walk::TOP,
        tail: false,
        touched: false,
        outstanding: 0,
        failure: None,
        publish: false,
        marked: false,
        punch: None,
        charged: 0,
        failures_seen: None,
        generation: 0,
        filling: None,
        zeroing: None,
        copying: None,
        order: 0,
        next: END,
        queued: false,
    };

    pub(super) fn new(id: RequestId, request: Request, extent: Extent) -> Self {
        Self { id, request, extent, phase: Phase::Start, ..Self::FREE }
    }

    pub(super) fn only_reads(&self) -> bool {
        matches!(self.request, Request::Read(_) | Request::Map(_) | Request::Flush)
    }

    /// The sectors that others must leave alone meanwhile.
    fn guarded(&self, grain: u64) -> Extent {
        if self.only_reads() { self.extent } else { self.extent.widen(grain, MAX_SECTORS) }
    }

    fn conflicts(&self, other: &Self, grain: u64) -> bool {
        !(self.only_reads() && other.only_reads())
            && self.guarded(grain).overlaps(other.guarded(grain))
    }

    pub(super) fn note_of(&self) -> Option<Note> {
        if let Request::Restore(note) = self.request { Some(note) } else { None }
    }
}

/// End of the ready list.
const END: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Table<const SLOTS: usize> {
    slots: [Slot; SLOTS],
    len: usize,
    writers: usize,
    waiting: usize,
    /// Slots that wait to be [woken](Self::wake).
    parked: usize,
    order: u64,
    /// See [`Overlay::grain`](crate::format::Overlay::grain).
    grain: u64,
    /// First of the slots that may be free; a hint.
    hint: usize,
    ready: u16,
    ready_tail: u16,
}

impl<const SLOTS: usize> Table<SLOTS> {
    pub(super) const fn new(grain: u64) -> Self {
        const { assert!(SLOTS > 0 && SLOTS < END as usize, "slots are numbered in 16 bits") };
        Self {
            slots: [Slot::FREE; SLOTS],
            len: 0,
            writers: 0,
            waiting: 0,
            parked: 0,
            order: 0,
            grain,
            hint: 0,
            ready: END,
            ready_tail: END,
        }
    }

    pub(super) fn set_grain(&mut self, grain: u64) {
        self.grain = grain;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, at: u16) -> Option<&Slot> {
        self.slots.get(usize::from(at)).filter(|s| s.phase != Phase::Free)
    }

    pub(super) fn get_mut(&mut self, at: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(at)).filter(|s| s.phase != Phase::Free)
    }

    pub(super) fn phase(&self, at: u16) -> Phase {
        self.get(at).map_or(Phase::Free, |s| s.phase)
    }

    /// Takes a slot in; it waits if an earlier one overlaps. `None` if the table is full.
    pub(super) fn insert(&mut self, mut slot: Slot) -> Option<()> {
        let free = |s: &Slot| s.phase == Phase::Free;
        let index = match self.slots.get(self.hint) {
            Some(s) if free(s) => self.hint,
            _ => self.slots.iter().position(free)?,
        };
        let at = u16::try_from(index).ok()?;
        slot.order = self.order;
        self.order = self.order.wrapping_add(1);
        let reads = slot.only_reads();
        let waits = !(reads && self.writers == 0)
            && self.slots.iter().any(|s| !free(s) && s.conflicts(&slot, self.grain));
        if waits {
            slot.phase = Phase::Waiting;
            self.waiting = self.waiting.saturating_add(1);
        }
        if !reads {
            self.writers = self.writers.saturating_add(1);
        }
        *self.slots.get_mut(index)? = slot;
        self.len = self.len.saturating_add(1);
        self.hint = index.saturating_add(1);
        if !waits {
            self.push(at);
        }
        Some(())
    }

    /// Takes a finished slot out and lets those go on that waited for it.
    pub(super) fn remove(&mut self, at: u16) -> Option<Slot> {
        let slot = *self.get(at)?;
        self.unpark(at);
        *self.slots.get_mut(usize::from(at))? = Slot::FREE;
        self.hint = usize::from(at);
        self.len = self.len.saturating_sub(1);
        if !slot.only_reads() {
            self.writers = self.writers.saturating_sub(1);
        }
        if self.waiting > 0 {
            self.release_waiting();
        }
        self.wake(|park| park == Park::Progress);
        Some(slot)
    }

    fn release_waiting(&mut self) {
        for index in 0..SLOTS {
            let Some(slot) = self.slots.get(index) else { return };
            if slot.phase != Phase::Waiting {
                continue;
            }
            let blocked = self.slots.iter().any(|s| {
                s.phase != Phase::Free && s.order < slot.order && s.conflicts(slot, self.grain)
            });
            if blocked {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(index) {
                slot.phase = Phase::Start;
                self.waiting = self.waiting.saturating_sub(1);
            }
            if let Ok(at) = u16::try_from(index) {
                self.push(at);
            }
        }
    }

    /// Puts a slot at the end of the ready list, once.
    pub(super) fn push(&mut self, at: u16) {
        self.unpark(at);
        let Some(slot) = self.get_mut(at) else { return };
        if slot.queued {
            return;
        }
        slot.queued = true;
        slot.next = END;
        let tail = self.ready_tail;
        match self.slots.get_mut(usize::from(tail)) {
            Some(last) if tail != END => last.next = at,
            _ => self.ready = at,
        }
        self.ready_tail = at;
    }

    /// Puts a slot before all others of the ready list: what it waited for is there now, and
    /// whoever comes first might take it away again.
    fn push_front(&mut self, at: u16) {
        self.unpark(at);
        let first = self.ready;
        let Some(slot) = self.get_mut(at) else { return };
        if slot.queued {
            return;
        }
        slot.queued = true;
        slot.next = first;
        self.ready = at;
        if first == END {
            self.ready_tail = at;
        }
    }

    /// A page has been loaded: whoever waited for it comes first, then whoever waits for any page.
    pub(super) fn wake_loaded(&mut self, page: PageId) {
        self.wake_with(|park| park == Park::Page(page), Self::push_front);
        self.retry_starved();
    }

    pub(super) fn pop_ready(&mut self) -> Option<u16> {
        let at = self.ready;
        let slot = self.slots.get_mut(usize::from(at))?;
        slot.queued = false;
        self.ready = slot.next;
        if self.ready == END {
            self.ready_tail = END;
        }
        Some(at)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready != END
    }

    /// Moves a slot to its next phase, ready to go on.
    pub(super) fn advance(&mut self, at: u16, phase: Phase) {
        if let Some(slot) = self.get_mut(at) {
            slot.phase = phase;
            self.push(at);
        }
    }

    /// Moves a slot to a phase in which only its operations' ends matter.
    pub(super) fn park_in(&mut self, at: u16, phase: Phase) {
        if let Some(slot) = self.get_mut(at) {
            slot.phase = phase;
        }
        self.park(at, Park::Operations);
    }

    pub(super) fn park(&mut self, at: u16, why: Park) {
        self.unpark(at);
        let Some(slot) = self.get_mut(at) else { return };
        slot.park = why;
        if why.is_woken() {
            self.parked = self.parked.saturating_add(1);
        }
    }

    fn unpark(&mut self, at: u16) {
        let Some(slot) = self.get_mut(at) else { return };
        if core::mem::replace(&mut slot.park, Park::No).is_woken() {
            self.parked = self.parked.saturating_sub(1);
        }
    }

    /// Makes every parked slot ready whose reason satisfies `which`; none does that waits for
    /// operations of its own.
    pub(super) fn wake(&mut self, which: impl Fn(Park) -> bool) {
        self.wake_with(which, Self::push);
    }

    fn wake_with(&mut self, which: impl Fn(Park) -> bool, push: impl Fn(&mut Self, u16)) {
        if self.parked == 0 {
            return;
        }
        for index in 0..SLOTS {
            let Some(slot) = self.slots.get(index) else { return };
            if slot.phase != Phase::Free
                && slot.park != Park::No
                && which(slot.park)
                && let Ok(at) = u16::try_from(index)
            {
                push(self, at);
            }
        }
    }

    pub(super) fn retry_starved(&mut self) {
        self.wake(|park| park == Park::Starved);
    }

    /// Some slot waits for this page.
    pub(super) fn waits_for(&self, page: PageId) -> bool {
        self.parked > 0 && self.slots.iter().any(|s| s.park == Park::Page(page))
    }

    /// Some slot waits for the pool.
    pub(super) fn is_starved(&self) -> bool {
        let waits = |s: &Slot| matches!(s.park, Park::Starved | Park::Page(_));
        self.parked > 0 && self.slots.iter().any(waits)
    }

    /// The slots' numbers, for the few places that look at all of them.
    pub(super) fn numbers() -> impl Iterator<Item = u16> {
        (0..SLOTS).filter_map(|n| u16::try_from(n).ok())
    }
}

/// Frame lists end like the pool's.
pub(super) const fn as_page(link: u32) -> Option<PageId> {
    if link == NIL { None } else { Some(PageId(link)) }
}
