//! Metadata pages: found in the pool, or loaded by one or more reads that the format judges.

use super::table::{Park, Table, Task};
use super::{Buffer, Engine, Failure, IoFailure, Kind, Lent, Operation, Output};
use crate::format::{Load, Map};
use crate::pages::{FrameState, PAGE_LEN, PageId, StorageKey};

impl<const SLOTS: usize> Engine<SLOTS> {
    /// Sees to it that a page gets into the pool; slot `at` goes on when it is there.
    pub(super) fn need_page(
        &mut self,
        at: u16,
        storage: StorageKey,
        index: u64,
        lent: &mut Lent<'_, '_>,
    ) -> Option<Output> {
        let Some(id) = lent.pages.find(storage, index) else {
            let mut claimed = lent.pages.claim(storage, index);
            if claimed.is_none() && self.give_up_own_loads(lent) {
                claimed = lent.pages.claim(storage, index);
            }
            let Some(id) = claimed else {
                self.table.park(at, Park::Starved);
                return None;
            };
            self.table.park(at, Park::Page(id));
            return self.load_next(id, 0, lent);
        };
        let (step, arrived) = lent.pages.load_step(id);
        self.table.park(at, Park::Page(id));
        if lent.pages.state(id) == FrameState::Loading && arrived {
            return self.load_next(id, step.saturating_add(1), lent);
        }
        // Under way, here or in another engine of the pool, whose end only the driver can tell.
        None
    }

    /// Asks the format for the next step of a load and puts out its read.
    fn load_next(&mut self, id: PageId, step: u8, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let (storage, index) = lent.pages.holds(id)?;
        let mut note = lent.pages.aux(id);
        let bytes = lent.pages.page_mut(id)?;
        let answer = match self.overlay.as_ref().filter(|o| o.metadata() == storage) {
            Some(overlay) => overlay.load(index, step, &mut note, bytes),
            None => match lent.layers.iter().find(|l| l.metadata() == storage) {
                Some(layer) => layer.load(index, step, &mut note, bytes),
                None => Load::Corrupt { offset: 0 },
            },
        };
        lent.pages.set_aux(id, note);
        match answer {
            Load::Read { offset, len } => {
                lent.pages.set_load(id, step, false);
                return Some(Output::Operation(Operation {
                    storage,
                    kind: Kind::Read,
                    offset,
                    len: u64::from(len).min(PAGE_LEN as u64),
                    buffer: Buffer::Page { page: id, offset: 0 },
                    ticket: Task::Load(id).ticket(),
                }));
            }
            Load::Ready => {
                lent.pages.set_state(id, FrameState::Clean);
                self.table.wake_loaded(id);
            }
            Load::Corrupt { offset } => {
                self.load_failed(id, Failure::Corrupt { storage, offset }, lent);
            }
        }
        None
    }

    pub(super) fn load_done(
        &mut self,
        id: PageId,
        result: Result<(), IoFailure>,
        lent: &mut Lent<'_, '_>,
    ) {
        if lent.pages.state(id) != FrameState::Loading {
            return;
        }
        if let Err(io) = result {
            return self.load_failed(id, io.into(), lent);
        }
        if !self.table.waits_for(id) {
            // Whoever wanted it has failed meanwhile; other engines of the pool begin anew.
            lent.pages.release(id);
            return;
        }
        let (step, _) = lent.pages.load_step(id);
        lent.pages.set_load(id, step, true);
        self.arrived = true;
    }

    /// Goes on with loads whose bytes have arrived. Whoever waits for them is asked only when the
    /// page is there: a request that needs another page by then would leave a frame that nobody
    /// completes and nobody may take.
    pub(super) fn continue_loads(&mut self, lent: &mut Lent<'_, '_>) -> Option<Output> {
        for at in Table::<SLOTS>::numbers() {
            let Some(Park::Page(id)) = self.table.get(at).map(|slot| slot.park) else { continue };
            let (step, arrived) = lent.pages.load_step(id);
            let loading = lent.pages.state(id) == FrameState::Loading && arrived;
            // The frame may meanwhile be another engine's.
            if !loading || !self.is_ours(id, lent) {
                continue;
            }
            if let Some(output) = self.load_next(id, step.saturating_add(1), lent) {
                return Some(output);
            }
        }
        self.arrived = false;
        None
    }

    fn is_ours(&self, id: PageId, lent: &Lent<'_, '_>) -> bool {
        let Some((storage, _)) = lent.pages.holds(id) else { return false };
        self.overlay.as_ref().is_some_and(|o| o.metadata() == storage)
            || lent.layers.iter().any(|l| l.metadata() == storage)
    }

    /// Gives up loads of the overlay's pages between two reads that nobody waits for any more:
    /// whoever did was woken early and needed something else. True if there were any.
    fn give_up_own_loads(&mut self, lent: &mut Lent<'_, '_>) -> bool {
        let (table, key) = (&self.table, self.metadata_key());
        lent.pages.release_arrived(|id, storage| storage == key && !table.waits_for(id))
    }

    /// Gives up loads between two reads that nobody here waits for.
    pub(super) fn give_up_loads(&mut self, lent: &mut Lent<'_, '_>) {
        let table = &self.table;
        let _any = lent.pages.release_arrived(|id, _| !table.waits_for(id));
    }

    /// Fails the requests that wait for the page.
    fn load_failed(&mut self, id: PageId, failure: Failure, lent: &mut Lent<'_, '_>) {
        lent.pages.release(id);
        for at in Table::<SLOTS>::numbers() {
            if self.table.get(at).is_some_and(|s| s.park == Park::Page(id)) {
                let _no_output = self.fail(at, failure);
            }
        }
    }
}
