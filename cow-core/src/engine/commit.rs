//! Rule W: batches, their stages and syncs, and what a failure leaves.
//!
//! A commit seals the open pages, syncs (so that the data of every state in them are durable),
//! writes the pages stage by stage with a sync after each, and releases the requests it covers. Where
//! the pages of stage 0 name no data, they go out before the first sync, which then ends that stage.
//! In `Safe` mode the last sync of one commit serves as the first of the next: pages that are
//! open when it begins are sealed then, so a steady stream of writes costs one sync a batch.

use super::table::{Park, Phase, Table, Task, as_page};
use super::{Buffer, Durability, Engine, Failure, IoFailure, Kind, Lent, Operation, Output};
use crate::format::{Overlay, Top};
use crate::pages::{FrameState, NIL, PageId, PagePool, StorageKey};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Idle,
    /// Of data; for a commit without pages the only one.
    FirstSync,
    Pages,
    StageSync,
    FinalSync,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preamble {
    Unknown,
    Writing(PageId),
    Done,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its own end")]
pub(super) struct Commit {
    step: Step,
    /// The commit that states applied from now on belong to.
    generation: u32,
    /// The commit under way, and whether the next one rides on its final sync.
    committing: u32,
    riding: bool,
    wanted: bool,
    stage: u8,
    wrote: bool,
    wrote_stage: bool,
    outstanding: u32,
    error: Option<Failure>,
    /// Commits that failed, and whether the latest one did, for want of space.
    failures: u32,
    full: bool,
    broken: bool,
    unsynced: bool,
    notes_sealed: bool,
    /// The commit under way began with `notes_sealed`.
    notes_covered: bool,
    notes_durable: bool,
    /// The commit that will publish a state which could not be noted.
    unnoted: Option<u32>,
    pub(super) preamble: Preamble,
    /// A region is being zeroed or copied ahead: one at a time.
    pub(super) zeroing: bool,
    open: u32,
    sealed: u32,
}

impl Commit {
    pub(super) const fn new() -> Self {
        Self {
            step: Step::Idle,
            generation: 1,
            committing: 0,
            riding: false,
            wanted: false,
            stage: 0,
            wrote: false,
            wrote_stage: false,
            outstanding: 0,
            error: None,
            failures: 0,
            full: false,
            broken: false,
            unsynced: false,
            notes_sealed: false,
            notes_covered: false,
            notes_durable: false,
            unnoted: None,
            preamble: Preamble::Unknown,
            zeroing: false,
            open: NIL,
            sealed: NIL,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.step == Step::Idle && !self.notes_sealed && !self.notes_durable
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn has_unsynced(&self) -> bool {
        self.unsynced || self.open != NIL || self.step != Step::Idle
    }

    /// There is something that the commit under way, if any, does not cover.
    pub(super) fn has_uncovered(&self) -> bool {
        self.unsynced || self.open != NIL
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// A state was entered whose note could not be kept: until the commit that publishes it, no
    /// acknowledgement may rely on notes alone.
    pub(super) fn state_without_note(&mut self) {
        self.unnoted = Some(self.generation);
        self.wanted = true;
    }

    /// See [`state_without_note`](Self::state_without_note).
    pub(super) fn lacks_notes(&self) -> bool {
        self.unnoted.is_some()
    }

    pub(super) fn data_written(&mut self) {
        self.unsynced = true;
    }

    pub(super) fn add_open(&mut self, id: PageId, pages: &mut PagePool<'_>) {
        pages.set_link(id, self.open);
        self.open = id.0;
    }

    pub(super) fn remove_open(&mut self, id: PageId, pages: &mut PagePool<'_>) {
        let after = pages.link(id);
        if self.open == id.0 {
            self.open = after;
            return;
        }
        let mut at = self.open;
        while let Some(before) = as_page(at) {
            at = pages.link(before);
            if at == id.0 {
                pages.set_link(before, after);
                return;
            }
        }
    }

    /// Some open page could be published now: it is not being prepared.
    pub(super) fn can_seal(&self, pages: &PagePool<'_>) -> bool {
        let mut at = self.open;
        while let Some(id) = as_page(at) {
            if pages.state(id) == FrameState::Open {
                return true;
            }
            at = pages.link(id);
        }
        false
    }
}

impl<const SLOTS: usize> Engine<SLOTS> {
    /// The request ends with the commit that covers everything applied and written so far.
    pub(super) fn await_commit(&mut self, at: u16) {
        if self.commit.broken {
            let _no_output = self.fail(at, Failure::Medium);
            return;
        }
        let generation = self.commit.generation;
        if let Some(slot) = self.table.get_mut(at) {
            slot.phase = Phase::Commit;
            slot.generation = generation;
        }
        self.commit.want();
    }

    /// What the driver has to be told about its notes.
    pub(super) fn poll_notes(&mut self) -> Option<Output> {
        if core::mem::take(&mut self.commit.notes_durable) {
            return Some(Output::NotesDurable);
        }
        core::mem::take(&mut self.commit.notes_sealed).then_some(Output::NotesSealed)
    }

    pub(super) fn poll_commit(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        if let Some(output) = self.poll_notes() {
            return Some(output);
        }
        match self.commit.step {
            Step::Idle => self.begin(lent),
            Step::Pages => self.write_pages(lent),
            Step::FirstSync | Step::StageSync | Step::FinalSync => None,
        }
    }

    fn begin(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let commit = &self.commit;
        // On a full storage only who asks tries again: trying by ourselves would never end.
        let crowded = !commit.full && lent.pages.is_crowded() && commit.can_seal(lent.pages);
        if commit.broken || !(commit.wanted || crowded) {
            return None;
        }
        self.seal_generation(lent);
        if self.durability == Durability::Ephemeral {
            self.commit.step = Step::Pages;
            return self.write_pages(lent);
        }
        self.commit.notes_sealed = true;
        self.commit.notes_covered = true;
        if self.overlay.as_ref().is_some_and(Overlay::is_stage_0_early) {
            // Beside the data; the sync that ends the stage is that of the data too.
            if let Some(output) = self.next_page(lent) {
                self.commit.step = Step::Pages;
                return Some(output);
            }
        }
        Some(self.sync(Step::FirstSync))
    }

    fn seal_generation(&mut self, lent: &mut Lent<'_, '_>) {
        let commit = &mut self.commit;
        commit.wanted = false;
        commit.unsynced = false;
        if let Some(overlay) = self.overlay.as_mut() {
            seal(commit, overlay, lent.pages);
        }
        commit.committing = commit.generation;
        commit.generation = commit.generation.wrapping_add(1);
        commit.stage = 0;
        commit.wrote = false;
        commit.wrote_stage = false;
    }

    /// The first sync makes data durable, the others pages.
    fn sync(&mut self, step: Step) -> Output {
        self.commit.step = step;
        let first = step == Step::FirstSync;
        Output::Operation(Operation {
            storage: if first { self.overlay_key() } else { self.metadata_key() },
            kind: Kind::Sync,
            offset: 0,
            len: 0,
            buffer: Buffer::None,
            ticket: Task::Sync.ticket(),
        })
    }

    /// Puts out the next page of this stage; after the last one has come back, the sync behind it.
    fn write_pages(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        if self.commit.error.is_none()
            && let Some(output) = self.next_page(lent)
        {
            return Some(output);
        }
        if self.commit.outstanding > 0 {
            return None;
        }
        if let Some(failure) = self.commit.error.take() {
            self.abort(failure, lent);
            return None;
        }
        if self.commit.sealed != NIL {
            return self.next_stage(lent);
        }
        if !self.commit.wrote || self.durability == Durability::Ephemeral {
            self.finish_commit(lent);
            return self.poll_commit(lent);
        }
        // A format with stages numbers them from what is published: one commit at a time. And a
        // sync of metadata that are apart from the data is not one of data.
        let stages = self.overlay.as_ref().map_or(1, Overlay::stages);
        let rides = stages == 1 && self.overlay_key() == self.metadata_key();
        if self.durability == Durability::Safe && self.commit.wanted && rides {
            let committing = self.commit.committing;
            self.seal_generation(lent);
            self.commit.riding = true;
            self.commit.committing = committing;
        }
        Some(self.sync(Step::FinalSync))
    }

    /// On to the next stage, behind a sync if this one wrote anything. Bounded by their number.
    fn next_stage(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let stages = self.overlay.as_ref().map_or(1, Overlay::stages);
        self.commit.stage = self.commit.stage.saturating_add(1);
        if self.commit.stage >= stages {
            self.abort(Failure::Unsupported, lent); // a page of no stage: a defect of the format
            return None;
        }
        let wrote = core::mem::take(&mut self.commit.wrote_stage);
        if wrote && self.durability != Durability::Ephemeral {
            return Some(self.sync(Step::StageSync));
        }
        self.write_pages(lent)
    }

    fn next_page(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let (mut before, mut at) = (NIL, self.commit.sealed);
        while let Some(id) = as_page(at) {
            let next = lent.pages.link(id);
            let sealed = lent.pages.sealed(id);
            if sealed.stage != self.commit.stage {
                before = at;
                at = next;
                continue;
            }
            match as_page(before) {
                Some(previous) => lent.pages.set_link(previous, next),
                None => self.commit.sealed = next,
            }
            self.commit.wrote = true;
            self.commit.wrote_stage = true;
            self.commit.outstanding = self.commit.outstanding.saturating_add(1);
            return Some(Output::Operation(Operation {
                storage: self.metadata_key(),
                kind: Kind::Write,
                offset: sealed.offset,
                len: u64::from(sealed.len),
                buffer: Buffer::Page { page: id, offset: 0 },
                ticket: Task::Page(id).ticket(),
            }));
        }
        None
    }

    pub(super) fn page_done(
        &mut self,
        id: PageId,
        result: Result<(), IoFailure>,
        lent: &mut Lent<'_, '_>,
    ) {
        if lent.pages.state(id) != FrameState::Sealed {
            return;
        }
        self.commit.outstanding = self.commit.outstanding.saturating_sub(1);
        if let Err(io) = result {
            self.commit.error.get_or_insert(io.into());
            lent.pages.set_link(id, self.commit.sealed);
            self.commit.sealed = id.0;
            return;
        }
        self.retire(id, lent);
        self.table.retry_starved();
    }

    /// A version that the storage now holds: kept if it is the newest.
    fn retire(&mut self, id: PageId, lent: &mut Lent<'_, '_>) {
        let newest = lent.pages.holds(id).and_then(|(s, i)| lent.pages.find(s, i));
        if newest == Some(id) {
            self.reopened(id, lent);
            lent.pages.set_state(id, FrameState::Clean);
        } else {
            lent.pages.release(id);
        }
    }

    /// Tells the format that what this page becomes comes after what is being, or was, published.
    pub(super) fn reopened(&mut self, id: PageId, lent: &mut Lent<'_, '_>) {
        let (Some(overlay), Some((_, index))) = (self.overlay.as_mut(), lent.pages.holds(id))
        else {
            return;
        };
        let mut note = lent.pages.aux(id);
        overlay.reopened(index, &mut note);
        lent.pages.set_aux(id, note);
    }

    pub(super) fn sync_done(&mut self, result: Result<(), IoFailure>, lent: &mut Lent<'_, '_>) {
        if result.is_err() {
            // Even "no space" from a sync means that something written is lost.
            self.abort(Failure::Medium, lent);
            return;
        }
        match self.commit.step {
            Step::FirstSync | Step::StageSync => self.commit.step = Step::Pages,
            Step::FinalSync => self.finish_commit(lent),
            Step::Idle | Step::Pages => {}
        }
    }

    /// The commit under way is durable; the one that rode on its last sync goes on with its pages.
    fn finish_commit(&mut self, lent: &mut Lent<'_, '_>) {
        self.commit.full = false;
        if let Some(overlay) = self.overlay.as_mut() {
            overlay.committed(lent.index);
        }
        let committed = self.commit.committing;
        let covered = |g: u32| committed.wrapping_sub(g) < u32::MAX / 2;
        self.commit.unnoted = self.commit.unnoted.filter(|g| !covered(*g));
        self.release_committed(None);
        self.commit.notes_durable = core::mem::take(&mut self.commit.notes_covered);
        if !core::mem::take(&mut self.commit.riding) {
            self.commit.step = Step::Idle;
            if self.commit.broken {
                self.fail_uncommitted();
            }
            return;
        }
        self.commit.committing = self.commit.generation.wrapping_sub(1);
        if self.commit.sealed == NIL {
            // Data only: the sync that just ended was theirs too.
            self.release_committed(None);
            self.commit.step = Step::Idle;
        } else {
            self.commit.step = Step::Pages;
        }
    }

    /// Nothing is written any more, but for the commit under way. What was acknowledged stays
    /// readable.
    pub(super) fn stop_writing(&mut self) {
        self.commit.broken = true;
        if self.commit.step == Step::Idle {
            self.fail_uncommitted();
        }
    }

    /// There will be no commit for those that wait for one.
    fn fail_uncommitted(&mut self) {
        self.commit.committing = self.commit.generation;
        self.release_committed(Some(Failure::Medium));
    }

    /// Ends the requests that the commit covers, well or with `failure`.
    fn release_committed(&mut self, failure: Option<Failure>) {
        let committed = self.commit.committing;
        for at in Table::<SLOTS>::numbers() {
            let Some(slot) = self.table.get_mut(at) else { continue };
            let covered = committed.wrapping_sub(slot.generation) < u32::MAX / 2;
            let lost = self.commit.broken && failure.is_some();
            if slot.phase != Phase::Commit || !(covered || lost) {
                continue;
            }
            slot.failure = slot.failure.or(failure);
            let punch = slot.punch.is_some() && slot.failure.is_none();
            self.table.advance(at, if punch { Phase::Punch } else { Phase::Done });
        }
        self.table.wake(|park| matches!(park, Park::Progress | Park::Starved));
    }

    /// The commit failed. Sealed pages become open again (a later commit may succeed when the
    /// storage was only full); after a broken medium nothing is written any more.
    fn abort(&mut self, failure: Failure, lent: &mut Lent<'_, '_>) {
        self.commit.broken |= failure != Failure::Full;
        self.commit.full = failure == Failure::Full;
        self.commit.failures = self.commit.failures.wrapping_add(1);
        self.commit.riding = false;
        self.commit.notes_covered = false;
        self.commit.unsynced = true;
        self.commit.wanted = false;
        self.commit.step = Step::Idle;
        while let Some(id) = as_page(self.commit.sealed) {
            self.commit.sealed = lent.pages.link(id);
            let newest = lent.pages.holds(id).and_then(|(s, i)| lent.pages.find(s, i));
            if let (Some(newest), Some(overlay)) = (newest, self.overlay.as_mut()) {
                let mut note = lent.pages.aux(newest);
                let (_, index) = lent.pages.holds(newest).unwrap_or((StorageKey(0), 0));
                overlay.failed(index, &mut note);
                lent.pages.set_aux(newest, note);
            }
            if newest == Some(id) {
                lent.pages.set_state(id, FrameState::Open);
                self.commit.add_open(id, lent.pages);
            } else {
                lent.pages.release(id); // the newer version holds its states too
            }
        }
        self.commit.committing = self.commit.generation;
        if self.commit.broken && self.durability == Durability::Safe {
            self.drop_open(lent);
        }
        self.release_committed(Some(failure));
    }

    /// Gives the open pages back: nothing in them was acknowledged, and nothing will be.
    pub(super) fn drop_open(&mut self, lent: &mut Lent<'_, '_>) {
        let mut at = core::mem::replace(&mut self.commit.open, NIL);
        while let Some(id) = as_page(at) {
            at = lent.pages.link(id);
            if lent.pages.state(id) == FrameState::Open {
                lent.pages.release(id);
            } else {
                self.commit.add_open(id, lent.pages);
            }
        }
    }
}

/// Moves every open page that is not being prepared to the sealed ones.
fn seal(commit: &mut Commit, overlay: &mut Top, pages: &mut PagePool<'_>) {
    let mut at = core::mem::replace(&mut commit.open, NIL);
    while let Some(id) = as_page(at) {
        at = pages.link(id);
        let Some((_, index)) = pages.holds(id).filter(|_| pages.state(id) == FrameState::Open)
        else {
            commit.add_open(id, pages);
            continue;
        };
        let mut note = pages.aux(id);
        if let Some(bytes) = pages.page_mut(id) {
            let sealed = overlay.seal(index, &mut note, bytes);
            pages.set_sealed(id, sealed);
        }
        pages.set_aux(id, note);
        pages.set_state(id, FrameState::Sealed);
        pages.set_link(id, commit.sealed);
        commit.sealed = id.0;
    }
}
