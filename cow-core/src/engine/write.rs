//! Writes, zeros and discards: placing, and entering the new state.

use core::ops::ControlFlow;

use super::table::{Filling, Gap, Park, Phase, Task};
use super::{Buffer, Durability, Engine, Failure, Kind, Lent, Note, Operation, Output, Request};
use crate::format::{Adopted, Applied, Cleared, Fill, Located, Map, Overlay, Place, Placed, State};
use crate::pages::FrameState;
use crate::units::{Extent, SECTOR_BYTES};

impl<const SLOTS: usize> Engine<SLOTS> {
    pub(super) fn place(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let rest = slot.extent.skip(slot.done);
        if slot.failure.is_some() || rest.is_empty() {
            self.settle(at);
            return None;
        }
        self.place_part(at, rest, Kind::Write, lent)
    }

    /// Finds the place of the first sectors of `rest` and puts out their write (or zeroing).
    fn place_part(
        &mut self,
        at: u16,
        rest: Extent,
        kind: Kind,
        lent: &mut Lent<'_, '_>,
    ) -> Option<Output> {
        let overlay = self.overlay.as_mut()?;
        let storage = overlay.metadata();
        match overlay.place(rest, lent.pages, lent.index) {
            Placed::Write { sectors, offset, fresh, publish, fill } => {
                let part = rest.take(sectors);
                if fresh > 0 && self.used.saturating_add(fresh) > self.limit {
                    overlay.abandon(part, lent.index);
                    return self.fail(at, Failure::Full);
                }
                self.used = self.used.saturating_add(fresh);
                let slot = self.table.get_mut(at)?;
                slot.failures_seen = None;
                slot.charged = slot.charged.saturating_add(fresh);
                slot.publish |= publish;
                self.put_out(at, part, kind, offset, fill)
            }
            Placed::Busy => {
                self.table.park(at, Park::Progress);
                None
            }
            Placed::Enough => {
                self.pause(at);
                None
            }
            Placed::AfterCommit => self.wait_for_commit(at, Park::Progress, lent),
            Placed::Load(page) => self.need_page(at, storage, page, lent),
            Placed::Full => self.fail(at, Failure::Full),
            Placed::Unsupported => self.fail(at, Failure::Unsupported),
            Placed::IndexFull { needed } => self.fail(at, Failure::IndexFull { needed }),
            Placed::Corrupt { offset } => self.fail(at, Failure::Corrupt { storage, offset }),
        }
    }

    /// Has what was placed applied before placing goes on.
    fn pause(&mut self, at: u16) {
        let Some(slot) = self.table.get_mut(at) else { return };
        if slot.done > slot.applied {
            slot.pause = Some(slot.done);
            self.settle(at);
        } else {
            self.table.park(at, Park::Progress);
        }
    }

    /// On with placing after a [pause](Self::pause), if there was one.
    fn resume(&mut self, at: u16) -> bool {
        let Some(slot) = self.table.get_mut(at) else { return false };
        let Some(paused_at) = slot.pause.take() else { return false };
        slot.applied = paused_at;
        slot.done = paused_at;
        slot.charged = 0; // what is applied takes its space, whatever comes
        let place = matches!(slot.request, Request::Write { .. });
        self.table.advance(at, if place { Phase::Place } else { Phase::Clear });
        true
    }

    /// One write or zeroing of the request's next sectors, and the filling that goes with it.
    fn put_out(
        &mut self,
        at: u16,
        part: Extent,
        kind: Kind,
        offset: u64,
        fill: Option<Fill>,
    ) -> Option<Output> {
        let storage = self.overlay_key();
        let slot = self.table.get_mut(at)?;
        let position = u32::try_from(slot.done.wrapping_mul(SECTOR_BYTES)).unwrap_or(u32::MAX);
        let buffer = match kind {
            Kind::Write => Buffer::Request { id: slot.id, offset: position },
            _ => Buffer::None,
        };
        slot.done = slot.done.saturating_add(part.sectors());
        slot.placed = slot.done;
        slot.touched = true;
        slot.outstanding = slot.outstanding.saturating_add(1);
        slot.filling = fill.map(|fill| Filling::new(fill, part));
        if slot.filling.is_some() {
            slot.phase = Phase::Fill;
        }
        self.table.push(at);
        Some(Output::Operation(Operation {
            storage,
            kind,
            offset,
            len: part.bytes(),
            buffer,
            ticket: Task::Data(at).ticket(),
        }))
    }

    pub(super) fn clear(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let rest = slot.extent.skip(slot.done);
        if slot.failure.is_some() || rest.is_empty() {
            self.settle(at);
            return None;
        }
        let discard = matches!(slot.request, Request::Discard(_));
        let overlay = self.overlay.as_mut()?;
        let storage = overlay.metadata();
        match overlay.clear(rest, discard, lent.pages, lent.index) {
            Cleared::Mark { sectors, offset } => {
                let slot = self.table.get_mut(at)?;
                slot.publish = true;
                slot.marked = true;
                let lead = slot.done.wrapping_mul(SECTOR_BYTES);
                let len = sectors.wrapping_mul(SECTOR_BYTES);
                if let Some(offset) = offset {
                    let extended = slot.punch.map(|first| first.extend(lead, offset, len));
                    slot.punch = Some(extended.unwrap_or_else(|| Gap::new(lead, offset, len)));
                }
                slot.done = slot.done.saturating_add(sectors);
                self.table.push(at);
                None
            }
            Cleared::ZeroData { sectors, offset } => {
                self.put_out(at, rest.take(sectors), Kind::Zero, offset, None)
            }
            Cleared::WriteZeros { sectors } => {
                self.place_part(at, rest.take(sectors), Kind::Zero, lent)
            }
            Cleared::Skip { sectors } => {
                let slot = self.table.get_mut(at)?;
                slot.done = slot.done.saturating_add(sectors);
                self.table.push(at);
                None
            }
            Cleared::Busy => {
                self.table.park(at, Park::Progress);
                None
            }
            Cleared::Load(page) => self.need_page(at, storage, page, lent),
            Cleared::Corrupt { offset } => self.fail(at, Failure::Corrupt { storage, offset }),
        }
    }

    /// Every operation of the request has ended: on to the next phase, by kind and outcome.
    pub(super) fn drain(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        if slot.filling.is_some() {
            self.table.advance(at, Phase::Fill); // a failure elsewhere; the copy buffer goes back
            return None;
        }
        if slot.outstanding > 0 {
            self.table.park(at, Park::Operations);
            return None;
        }
        if matches!(slot.request, Request::Read(_) | Request::Map(_) | Request::Flush) {
            self.table.advance(at, Phase::Done);
            return None;
        }
        let (touched, publish) = (slot.touched, slot.publish);
        if touched {
            self.commit.data_written();
        }
        let slot = self.table.get_mut(at)?;
        if slot.failure.is_some() {
            let (extent, placed) = (slot.extent, slot.extent.take(slot.placed));
            self.used = self.used.saturating_sub(slot.charged);
            if let Some(overlay) = self.overlay.as_mut() {
                if !placed.is_empty() {
                    overlay.abandon(placed, lent.index);
                }
                overlay.forsake(extent);
            }
            self.table.advance(at, Phase::Done);
        } else if publish {
            slot.done = slot.applied;
            self.table.advance(at, Phase::Apply);
        } else if self.resume(at) {
            return None;
        } else if touched && self.durability == Durability::Logged {
            // Also what was there before: repeating the log must not bring an older write back.
            if let Some(slot) = self.table.get_mut(at) {
                slot.done = 0;
            }
            self.table.advance(at, Phase::Note);
        } else if touched {
            self.acknowledge(at);
        } else {
            self.table.advance(at, Phase::Done);
        }
        None
    }

    /// Enters the new state into open pages, as far as pages can be had.
    pub(super) fn apply(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        if slot.copying.is_some() {
            return self.copy_next(at);
        }
        let rest = slot.extent.take(slot.pause.unwrap_or(u64::MAX)).skip(slot.done);
        if rest.is_empty() {
            self.applied(at);
            return None;
        }
        if self.commit.is_broken() {
            return self.fail(at, Failure::Medium); // what is applied now is never published
        }
        let zero = slot.marked || slot.note_of().is_some_and(|n| n.offset.is_none());
        let state = if zero { State::Zero } else { State::Data };
        if let ControlFlow::Break(output) = self.preamble(at, lent) {
            return output;
        }
        let overlay = self.overlay.as_mut()?;
        let storage = overlay.metadata();
        match overlay.apply(rest, state, lent.pages, lent.index) {
            Applied::Done { sectors, freed } => {
                self.used = self.used.saturating_sub(freed);
                let slot = self.table.get_mut(at)?;
                slot.done = slot.done.saturating_add(sectors.max(1));
                slot.failures_seen = None;
                self.table.push(at);
                None
            }
            // Who cannot open a page leaves the room to load it to others.
            Applied::Load(page)
                if !lent.pages.may_pin() && lent.pages.find(storage, page).is_none() =>
            {
                self.wait_for_pins(at, lent)
            }
            Applied::Load(page) => self.need_page(at, storage, page, lent),
            Applied::Open(page) => self.open_page(at, page, lent),
            Applied::WritePage { page, offset } => self.prepare_page(at, page, offset, lent),
            Applied::ZeroFirst { offset, len } => self.zero_first(at, offset, len),
            Applied::CopyFirst { from, to, len } => self.copy_first(at, (from, to, len), lent),
            Applied::AfterCommit => self.wait_for_commit(at, Park::Progress, lent),
            Applied::Full => self.fail(at, Failure::Full),
            Applied::Corrupt { offset } => self.fail(at, Failure::Corrupt { storage, offset }),
        }
    }

    fn applied(&mut self, at: u16) {
        // Whoever wants to write beside it into a unit that this request allocated need not wait
        // for the commit.
        self.table.wake(|park| park == Park::Progress);
        if self.resume(at) {
            return;
        }
        let Some(slot) = self.table.get_mut(at) else { return };
        slot.done = 0;
        if slot.note_of().is_some() {
            self.table.advance(at, Phase::Done);
        } else if matches!(self.durability, Durability::Writeback | Durability::Logged) {
            self.table.advance(at, Phase::Note);
        } else {
            self.acknowledge(at);
        }
    }

    /// Has the new mapping noted, run by run.
    pub(super) fn note(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let rest = slot.extent.skip(slot.done);
        if slot.failure.is_some() || rest.is_empty() {
            if slot.outstanding > 0 {
                self.table.park(at, Park::Operations);
            } else if slot.failure.is_some() {
                if self.durability == Durability::Logged {
                    // What comes later could not be told from what the log holds and would repeat.
                    self.stop_writing();
                } else {
                    self.commit.state_without_note();
                }
                self.table.advance(at, Phase::Done);
            } else {
                self.acknowledge(at);
            }
            return None;
        }
        let overlay = self.overlay.as_ref()?;
        let storage = overlay.metadata();
        let run = match overlay.locate(rest, lent.pages, lent.index) {
            Located::Run(run) => run,
            Located::Load(page) => return self.need_page(at, storage, page, lent),
            Located::Corrupt { offset } => {
                return self.fail(at, Failure::Corrupt { storage, offset });
            }
        };
        let slot = self.table.get_mut(at)?;
        let id = slot.id;
        slot.done = slot.done.saturating_add(run.sectors);
        let offset = match run.place {
            Place::Data { offset } | Place::Tail { offset, .. } => Some(offset),
            Place::Zero => None,
            Place::Absent | Place::Packed(_) => {
                self.table.push(at);
                return None;
            }
        };
        slot.outstanding = slot.outstanding.saturating_add(1);
        let note = Note { extent: rest.take(run.sectors), offset };
        self.table.push(at);
        Some(Output::Note { id, note, ticket: Task::Data(at).ticket() })
    }

    /// Data are written and their state entered: by durability, wait for a commit or not.
    pub(super) fn acknowledge(&mut self, at: u16) {
        let Some(slot) = self.table.get(at) else { return };
        if self.commit.is_broken() {
            let _no_output = self.fail(at, Failure::Medium);
            return;
        }
        let durable = matches!(slot.request, Request::Write { durable: true, .. });
        let waits = match self.durability {
            Durability::Safe => true,
            // What a discard frees may be punched only when nothing refers to it any more.
            // Beside a state that was entered but could not be noted a rewrite has no note either:
            // only the commit makes both outlive the process.
            Durability::Writeback => durable || slot.punch.is_some() || self.commit.lacks_notes(),
            // The note that was kept has the data too.
            Durability::Logged => slot.punch.is_some(),
            Durability::Ephemeral => false,
        };
        if waits {
            self.await_commit(at);
        } else {
            let punch = slot.punch.is_some();
            self.table.advance(at, if punch { Phase::Punch } else { Phase::Done });
        }
    }

    /// Gives the space of a discarded range back; the range stays guarded until that has ended.
    pub(super) fn punch(&mut self, at: u16) -> Option<Output> {
        let storage = self.overlay_key();
        let slot = self.table.get_mut(at)?;
        let Some(gap) = slot.punch.take() else {
            if slot.outstanding == 0 {
                slot.failure = None; // giving space back is best effort
                self.table.advance(at, Phase::Done);
            }
            return None;
        };
        slot.outstanding = slot.outstanding.saturating_add(1);
        self.table.park_in(at, Phase::Punch);
        Some(Output::Operation(Operation {
            storage,
            kind: Kind::Punch,
            offset: gap.offset,
            len: gap.len,
            buffer: Buffer::None,
            ticket: Task::Data(at).ticket(),
        }))
    }

    /// Takes up a mapping that an earlier process noted.
    pub(super) fn restore(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let note = self.table.get(at)?.note_of()?;
        let adopted = match (note.offset, self.overlay.as_mut()) {
            (Some(offset), Some(overlay)) => overlay.adopt(note.extent, offset, lent.index),
            (None, Some(_)) => Adopted::Taken,
            (_, None) => Adopted::Refused,
        };
        match adopted {
            Adopted::Taken => {}
            Adopted::Busy => {
                self.table.park(at, Park::Progress);
                return None;
            }
            Adopted::Refused => return self.fail(at, Failure::Unsupported),
        }
        if note.offset.is_some() {
            self.used = self.used.saturating_add(note.extent.sectors());
        }
        self.table.advance(at, Phase::Apply);
        None
    }

    /// Makes the newest version of a page open, in place or as a copy of the one being published.
    fn open_page(&mut self, at: u16, page: u64, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let storage = self.metadata_key();
        let Some(id) = lent.pages.find(storage, page) else {
            return self.need_page(at, storage, page, lent);
        };
        match lent.pages.state(id) {
            FrameState::Loading => return self.need_page(at, storage, page, lent),
            FrameState::Preparing => self.table.park(at, Park::Page(id)),
            FrameState::Open => self.table.push(at),
            _ if !lent.pages.may_pin() => return self.wait_for_pins(at, lent),
            FrameState::Clean => {
                lent.pages.set_state(id, FrameState::Open);
                self.commit.add_open(id, lent.pages);
                self.table.push(at);
            }
            _ => match lent.pages.claim(storage, page) {
                Some(copy) => {
                    lent.pages.copy(id, copy);
                    self.reopened(copy, lent);
                    lent.pages.set_state(copy, FrameState::Open);
                    self.commit.add_open(copy, lent.pages);
                    self.table.push(at);
                }
                None => return self.wait_for_pins(at, lent),
            },
        }
        None
    }

    /// The pool is full of pages that wait for commits: ours goes on, others' the driver must push.
    pub(super) fn wait_for_pins(&mut self, at: u16, lent: &Lent<'_, '_>) -> Option<Output> {
        self.wait_for_commit(at, Park::Starved, lent)
    }

    /// Asks for a commit if that publishes anything (one that does not would wake whoever asked at
    /// once, to ask again), and waits. Whoever saw it fail has waited long enough.
    fn wait_for_commit(&mut self, at: u16, why: Park, lent: &Lent<'_, '_>) -> Option<Output> {
        let failures = self.commit.failures();
        let seen = *self.table.get_mut(at)?.failures_seen.get_or_insert(failures);
        if seen != failures {
            return self.fail(at, Failure::Full);
        }
        if self.commit.can_seal(lent.pages) {
            self.commit.want();
        }
        self.table.park(at, why);
        None
    }
}
