//! Notes of writes that ended together, kept together.

use cow_core::engine::{Note, Ticket};

/// Most notes that are kept at once.
pub(super) const NOTES_MAX: usize = 64;

/// Notes that wait for others, and what their ends are reported under.
#[derive(Debug, Default)]
pub(super) struct Noting {
    notes: Vec<Note>,
    tickets: Vec<Ticket>,
}

impl Noting {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.notes.len() >= NOTES_MAX
    }

    pub(super) fn push(&mut self, note: Note, ticket: Ticket) {
        self.notes.push(note);
        self.tickets.push(ticket);
    }

    pub(super) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What the end of note `at` is reported under. In order, for what waits for its end goes on in
    /// that order.
    pub(super) fn ticket(&self, at: usize) -> Option<Ticket> {
        self.tickets.get(at).copied()
    }

    pub(super) fn clear(&mut self) {
        self.notes.clear();
        self.tickets.clear();
    }
}
