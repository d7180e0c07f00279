//! Writes that wait for others which follow them in the same storage, to be written together.

use cow_core::engine::{Buffer, Kind, Operation};

use super::io::{RUN_LEN_MAX, RUN_PIECES_MAX};

/// Writes of which each begins where the one before it ends.
#[derive(Debug, Default)]
pub(super) struct Adjacent {
    operations: Vec<Operation>,
    len_bytes: u64,
}

impl Adjacent {
    /// It may wait: data of a request. Metadata pages lie apart from each other.
    #[inline]
    pub(super) fn may_wait(operation: &Operation) -> bool {
        operation.kind == Kind::Write && matches!(operation.buffer, Buffer::Request { .. })
    }

    /// It follows those that wait, and there is room for it.
    #[inline]
    pub(super) fn takes(&self, operation: &Operation) -> bool {
        let Some(last) = self.operations.last() else { return true };
        last.storage == operation.storage
            && last.offset.checked_add(last.len) == Some(operation.offset)
            && self.operations.len() < RUN_PIECES_MAX
            && self.len_bytes.saturating_add(operation.len) <= RUN_LEN_MAX
    }

    #[inline]
    pub(super) fn push(&mut self, operation: Operation) {
        self.len_bytes = self.len_bytes.saturating_add(operation.len);
        self.operations.push(operation);
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.operations.clear();
        self.len_bytes = 0;
    }
}
