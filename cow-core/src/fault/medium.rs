//! One medium: what reads see, what is durable, and what a cut or a kill makes of the rest.

use std::vec::Vec;

use super::sparse::{GRAIN, GRAIN_BYTES, HUGE, Sparse, index};
use super::{Change, Dice, FaultError, OperationId, Tear};

const SECTOR: u64 = 512;

/// A change that no sync has covered.
#[derive(Clone, Debug)]
struct Pending {
    id: OperationId,
    change: Change,
    /// Number of operations begun when it ended; `None` while under way.
    ended: Option<u64>,
    /// A sync that should have covered it failed.
    doomed: bool,
}

/// One medium: what reads see, what is durable, and what is between.
#[derive(Clone, Debug)]
pub(super) struct Medium {
    pub(super) live: Sparse,
    durable: Sparse,
    pub(super) len: u64,
    durable_len: u64,
    pending: Vec<Pending>,
    /// Longest it may become.
    pub(super) most: u64,
    /// Writes behind its end make it longer.
    pub(super) grows: bool,
}

impl Medium {
    pub(super) fn new(image: Sparse, len: u64, most: u64) -> Self {
        let durable = image.clone();
        Self {
            live: image,
            durable,
            len,
            durable_len: len,
            pending: Vec::new(),
            most,
            grows: false,
        }
    }

    pub(super) fn begin(&mut self, id: OperationId, change: &Change) {
        self.pending.push(Pending { id, change: change.clone(), ended: None, doomed: false });
    }

    pub(super) fn end(&mut self, id: OperationId, clock: u64, result: Result<(), FaultError>) {
        let Some(at) = self.pending.iter().position(|p| p.id == id) else { return };
        let Some(pending) = self.pending.get_mut(at) else { return };
        pending.ended = Some(clock);
        let change = pending.change.clone();
        match (&change, result) {
            (Change::Sync, result) => {
                self.pending.remove(at);
                self.synced(id, result.is_ok());
            }
            (_, Ok(())) => apply(&mut self.live, &mut self.len, &change, id),
            // A failed write may have come through in part.
            (_, Err(_)) => {
                let mut dice = Dice::new(id.0 ^ 0x0fa1_1ed0);
                torn(&mut self.live, &mut self.len, &change, id, Tear::Sectors, &mut dice);
                let came_through = self.seen(&change);
                if let Some(pending) = self.pending.get_mut(at) {
                    pending.change = came_through;
                }
            }
        }
    }

    fn synced(&mut self, sync: OperationId, well: bool) {
        let covered = |p: &Pending| p.ended.is_some_and(|ended| ended < sync.0);
        if !well {
            self.pending.iter_mut().filter(|p| covered(p)).for_each(|p| p.doomed = true);
            return;
        }
        // In the order of their ends, which is the order in which they reached `live`.
        let mut settled: Vec<_> =
            self.pending.extract_if(.., |p| covered(p) && !p.doomed).collect();
        settled.sort_by_key(|p| p.ended);
        for p in settled {
            apply(&mut self.durable, &mut self.durable_len, &p.change, p.id);
            self.supersede(&p);
        }
    }

    /// What lies below a change that has become durable can no longer arrive.
    fn supersede(&mut self, newer: &Pending) {
        let (start, len) = newer.change.range();
        let end = start.saturating_add(len);
        for p in core::mem::take(&mut self.pending) {
            let (from, len) = p.change.range();
            let to = from.saturating_add(len);
            if !p.doomed || p.ended > newer.ended || to <= start || end <= from {
                self.pending.push(p);
                continue;
            }
            for (from, to) in [(from, start.max(from)), (end.min(to), to)] {
                if from < to {
                    let change = p.change.part(from, to);
                    self.pending.push(Pending { change, ..p.clone() });
                }
            }
        }
    }

    /// Everything that ended is durable now.
    pub(super) fn settle(&mut self) {
        self.durable = self.live.clone();
        self.durable_len = self.len;
        self.pending.clear();
    }

    pub(super) fn power_cut(&mut self, tear: Tear, dice: &mut Dice) {
        let mut pending = core::mem::take(&mut self.pending);
        shuffle(&mut pending, dice);
        // Some cuts lose nearly everything, some nearly nothing: both ends are where bugs are.
        let keep = match dice.below(4) {
            0 => 5,
            1 => 95,
            _ => 50,
        };
        for p in pending {
            let (image, len) = (&mut self.durable, &mut self.durable_len);
            if dice.chance(35) {
                torn(image, len, &p.change, p.id, tear, dice);
            } else if dice.chance(keep) {
                apply(image, len, &p.change, p.id);
            }
        }
        self.live = self.durable.clone();
        self.len = self.durable_len;
    }

    pub(super) fn kill(&mut self, tear: Tear, dice: &mut Dice) {
        for mut p in core::mem::take(&mut self.pending) {
            p.doomed = false;
            if p.ended.is_none() {
                match dice.below(3) {
                    0 => continue,
                    1 => apply(&mut self.live, &mut self.len, &p.change, p.id),
                    _ => torn(&mut self.live, &mut self.len, &p.change, p.id, tear, dice),
                }
                p.ended = Some(0);
                p.change = self.seen(&p.change);
            }
            if p.change != Change::Sync {
                self.pending.push(p);
            }
        }
    }

    /// A change that came through in part, as reads see it now: nothing else can become durable.
    fn seen(&self, change: &Change) -> Change {
        let (offset, len) = change.range();
        if len == 0 || len > HUGE {
            return change.clone();
        }
        let mut bytes = std::vec![0; index(len)];
        self.live.read(offset, &mut bytes);
        Change::Write { offset, data: bytes.into() }
    }
}

fn shuffle(pending: &mut [Pending], dice: &mut Dice) {
    for at in (1..pending.len()).rev() {
        pending.swap(at, index(dice.below(at as u64 + 1)));
    }
}

fn apply(image: &mut Sparse, len: &mut u64, change: &Change, id: OperationId) {
    // Never behind the end of a medium that does not grow.
    if matches!(change, Change::Write { .. } | Change::Zero { .. }) {
        let (offset, bytes) = change.range();
        *len = (*len).max(offset.saturating_add(bytes));
    }
    match change {
        Change::Write { offset, data } => image.write(*offset, data),
        Change::Zero { offset, len } => image.fill(*offset, *len, |_, bytes| bytes.fill(0)),
        Change::Punch { offset, len } => punch(image, *offset, *len, id),
        Change::Extend { len: wanted } => *len = (*len).max(*wanted),
        Change::Sync => {}
    }
}

/// Leaves bytes that nobody wrote, so that whoever reads them is found out.
fn punch(image: &mut Sparse, offset: u64, len: u64, id: OperationId) {
    image.fill(offset, len, |at, bytes| {
        let mut dice = Dice::new(at ^ (id.0 << 40));
        bytes.fill_with(|| dice.roll().to_be_bytes()[0]);
    });
}

/// A part of the change arrives.
fn torn(
    image: &mut Sparse,
    len: &mut u64,
    change: &Change,
    id: OperationId,
    tear: Tear,
    dice: &mut Dice,
) {
    let (start, bytes) = change.range();
    if bytes == 0 || bytes > HUGE {
        if dice.chance(50) {
            apply(image, len, change, id);
        }
        return;
    }
    let mut whole = image.clone();
    apply(&mut whole, len, change, id);
    let unit = if tear == Tear::Sectors { SECTOR } else { GRAIN_BYTES };
    let (mut at, end) = (start, start.saturating_add(bytes));
    let mut piece = [0; GRAIN];
    while at < end {
        let room = (unit - at % unit).min(end - at);
        let (skip, take) = match (tear, dice.below(3)) {
            (Tear::Sectors, _) | (Tear::Anywhere, 0) => (0, room * dice.below(2)),
            (Tear::Anywhere, 1) => (0, dice.below(room + 1)),
            (Tear::Anywhere, _) => {
                let skip = dice.below(room + 1);
                (skip, room - skip)
            }
        };
        let part = piece.get_mut(..index(take)).unwrap_or_default();
        whole.read(at + skip, part);
        image.write(at + skip, part);
        at += room;
    }
}
