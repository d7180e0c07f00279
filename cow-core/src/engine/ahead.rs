//! What is written ahead of a commit: the mark of use, new pages, new regions. All of it is durable
//! before a page of that commit is published, because the commit begins with a sync.

use core::ops::ControlFlow;

use super::commit::Preamble;
use super::table::{Copying, Park, Table, Task};
use super::{Buffer, Durability, Engine, IoFailure, Kind, Lent, Operation, Output};
use crate::format::Overlay;
use crate::pages::{FrameState, PAGE_LEN, PageId};

impl<const SLOTS: usize> Engine<SLOTS> {
    /// Sees to it that the format's mark of use is written before the first commit. Breaks off
    /// while slot `at` has to wait for it.
    pub(super) fn preamble(
        &mut self,
        at: u16,
        lent: &mut Lent<'_, '_>,
    ) -> ControlFlow<Option<Output>> {
        match self.commit.preamble {
            Preamble::Done => return ControlFlow::Continue(()),
            Preamble::Writing(id) => {
                self.table.park(at, Park::Page(id));
                return ControlFlow::Break(None);
            }
            Preamble::Unknown => {}
        }
        let Some(id) = lent.pages.claim_scratch() else {
            self.table.park(at, Park::Starved);
            return ControlFlow::Break(None);
        };
        let storage = self.metadata_key();
        let overlay = self.overlay.as_mut();
        let write = overlay.zip(lent.pages.page_mut(id)).and_then(|(o, bytes)| o.preamble(bytes));
        let Some(write) = write else {
            lent.pages.release(id);
            self.commit.preamble = Preamble::Done;
            return ControlFlow::Continue(());
        };
        self.commit.preamble = Preamble::Writing(id);
        self.table.park(at, Park::Page(id));
        ControlFlow::Break(Some(Output::Operation(Operation {
            storage,
            kind: Kind::Write,
            offset: write.offset,
            len: u64::from(write.len),
            buffer: Buffer::Page { page: id, offset: 0 },
            ticket: Task::Preamble(id).ticket(),
        })))
    }

    pub(super) fn preamble_done(
        &mut self,
        id: PageId,
        result: Result<(), IoFailure>,
        lent: &mut Lent<'_, '_>,
    ) {
        if self.commit.preamble != Preamble::Writing(id) {
            return;
        }
        lent.pages.release(id);
        self.commit.preamble = if result.is_ok() { Preamble::Done } else { Preamble::Unknown };
        self.end_wait(id, result);
    }

    /// Writes an open page as it is, ahead of the commit.
    pub(super) fn prepare_page(
        &mut self,
        at: u16,
        page: u64,
        offset: u64,
        lent: &mut Lent<'_, '_>,
    ) -> Option<Output> {
        let storage = self.metadata_key();
        let id = lent.pages.find(storage, page)?;
        self.table.park(at, Park::Page(id));
        if lent.pages.state(id) != FrameState::Open {
            return None; // being prepared for another request
        }
        lent.pages.set_state(id, FrameState::Preparing);
        Some(Output::Operation(Operation {
            storage,
            kind: Kind::Write,
            offset,
            len: PAGE_LEN as u64,
            buffer: Buffer::Page { page: id, offset: 0 },
            ticket: Task::Prepare(id).ticket(),
        }))
    }

    pub(super) fn prepare_done(
        &mut self,
        id: PageId,
        result: Result<(), IoFailure>,
        lent: &mut Lent<'_, '_>,
    ) {
        if lent.pages.state(id) != FrameState::Preparing {
            return;
        }
        lent.pages.set_state(id, FrameState::Open);
        let mut note = lent.pages.aux(id);
        if let (Ok(()), Some(overlay), Some((_, index))) =
            (result, self.overlay.as_mut(), lent.pages.holds(id))
        {
            overlay.prepared(index, &mut note);
        }
        lent.pages.set_aux(id, note);
        self.commit.data_written();
        if result.is_err() {
            // Nothing is in it yet, and without its preparation it must not be published.
            self.commit.remove_open(id, lent.pages);
            lent.pages.set_state(id, FrameState::Clean);
        }
        if self.commit.is_broken() && self.durability == Durability::Safe {
            self.drop_open(lent);
        }
        self.end_wait(id, result);
    }

    /// Lets the requests go on, or fails those, that waited for a write from frame `id`. A read never
    /// waits for one: it waited for another page that the frame was to hold, and looks again.
    fn end_wait(&mut self, id: PageId, result: Result<(), IoFailure>) {
        for at in Table::<SLOTS>::numbers() {
            let Some(slot) = self.table.get(at).filter(|s| s.park == Park::Page(id)) else {
                continue;
            };
            match result {
                Err(io) if !slot.only_reads() => {
                    let _no_output = self.fail(at, io.into());
                }
                _ => self.table.push(at),
            }
        }
    }

    pub(super) fn zero_first(&mut self, at: u16, offset: u64, len: u64) -> Option<Output> {
        if core::mem::replace(&mut self.commit.zeroing, true) {
            self.table.park(at, Park::Starved);
            return None;
        }
        self.table.park(at, Park::Operations);
        if let Some(slot) = self.table.get_mut(at) {
            slot.zeroing = Some(offset);
        }
        Some(Output::Operation(Operation {
            storage: self.overlay_key(),
            kind: Kind::Zero,
            offset,
            len,
            buffer: Buffer::None,
            ticket: Task::ZeroFirst(at).ticket(),
        }))
    }

    pub(super) fn zero_first_done(
        &mut self,
        at: u16,
        result: Result<(), IoFailure>,
        lent: &mut Lent<'_, '_>,
    ) {
        let Some(slot) = self.table.get_mut(at) else { return };
        if let (Ok(()), Some(c)) = (result, slot.copying.as_mut()) {
            c.arrived = !c.arrived;
            if c.arrived || c.done < c.len {
                self.table.push(at);
                return;
            }
        }
        if let Some(c) = slot.copying.take() {
            lent.pages.release(c.page);
            self.table.retry_starved();
        }
        self.commit.zeroing = false;
        let Some(offset) = self.table.get_mut(at).and_then(|s| s.zeroing.take()) else { return };
        match (result, self.overlay.as_mut()) {
            (Ok(()), Some(overlay)) => {
                overlay.zeroed(offset);
                self.commit.data_written();
                self.table.push(at);
            }
            (Ok(()), None) => {}
            (Err(io), _) => {
                let _no_output = self.fail(at, io.into());
            }
        }
    }

    /// Begins to copy a region of the overlay's storage: from, to, length.
    pub(super) fn copy_first(
        &mut self,
        at: u16,
        (from, to, len): (u64, u64, u64),
        lent: &mut Lent<'_, '_>,
    ) -> Option<Output> {
        if self.commit.zeroing {
            self.table.park(at, Park::Starved);
            return None;
        }
        let Some(page) = lent.pages.claim_scratch() else { return self.wait_for_pins(at, lent) };
        self.commit.zeroing = true;
        let slot = self.table.get_mut(at)?;
        slot.zeroing = Some(to);
        slot.copying = Some(Copying { from, to, len, done: 0, arrived: false, page });
        self.copy_next(at)
    }

    /// The next read or write of a copy.
    pub(super) fn copy_next(&mut self, at: u16) -> Option<Output> {
        let storage = self.overlay_key();
        let c = self.table.get_mut(at)?.copying.as_mut()?;
        let len = c.len.saturating_sub(c.done).min(PAGE_LEN as u64);
        let (kind, offset) = if c.arrived {
            (Kind::Write, c.to.saturating_add(c.done))
        } else {
            (Kind::Read, c.from.saturating_add(c.done))
        };
        if c.arrived {
            c.done = c.done.saturating_add(len);
        }
        let buffer = Buffer::Page { page: c.page, offset: 0 };
        self.table.park(at, Park::Operations);
        let ticket = Task::ZeroFirst(at).ticket();
        Some(Output::Operation(Operation { storage, kind, offset, len, buffer, ticket }))
    }
}
