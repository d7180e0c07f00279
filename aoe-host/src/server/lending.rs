//! What answers that have not left yet are sent from, and the changes that wait for them.
//!
//! Data of an overlay that is mapped are sent from where they lie. To its engine such a read has ended,
//! so a change of the same sectors may begin before the answer has left. It is held back until then:
//! an answer never shows a change that came later, nor half of one.

use cow_core::engine::{Kind, Operation};
use cow_core::pages::StorageKey;

/// A part of a storage that may change.
#[derive(Clone, Copy, Debug)]
struct Part {
    storage: StorageKey,
    start: u64,
    end: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Lending {
    parts: Vec<Part>,
    held: Vec<(u32, Operation)>,
}

impl Lending {
    /// An answer will be sent from `len` bytes of an overlay.
    pub(super) fn add(&mut self, storage: StorageKey, start: u64, len: u64) {
        self.parts.push(Part { storage, start, end: start.saturating_add(len) });
    }

    /// Whether an operation would change what is still to be sent.
    #[inline]
    pub(super) fn is_disturbed_by(&self, o: &Operation) -> bool {
        !self.parts.is_empty()
            && matches!(o.kind, Kind::Write | Kind::Zero | Kind::Punch)
            && self.parts.iter().any(|part| {
                part.storage == o.storage
                    && part.start < o.offset.saturating_add(o.len)
                    && o.offset < part.end
            })
    }

    /// Has an operation of a disk wait.
    pub(super) fn hold(&mut self, disk: u32, operation: Operation) {
        self.held.push((disk, operation));
    }

    /// Every answer has left.
    pub(super) fn sent(&mut self) {
        self.parts.clear();
    }

    /// Some operation waits.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// An operation that need not wait any more: all at once, oldest first.
    pub(super) fn release(&mut self) -> Vec<(u32, Operation)> {
        if self.parts.is_empty() { core::mem::take(&mut self.held) } else { Vec::new() }
    }
}
