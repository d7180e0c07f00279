//! What a simulated run is to do, and the notes that its driver keeps.

use cow_core::engine::{Durability, Note};

/// A driver that is wrong on purpose, to show that the tests notice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mischief {
    /// Right.
    #[default]
    None,
    /// Syncs are reported and not performed.
    DropSyncs,
    /// Writes are acknowledged to the client when their data have been written.
    AcknowledgeEarly,
    /// Syncs are reported at once and performed later, so that metadata overtake data.
    LateSyncs,
    /// Notes are reported and not kept.
    DropNotes,
}

/// How a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests per chain.
    pub requests: usize,
    /// Longest request in sectors.
    pub longest: u64,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// Driver.
    pub mischief: Mischief,
    /// The watch looks on.
    pub watched: bool,
    /// Failures are injected: requests may fail.
    pub faults: bool,
    /// With `faults`: only reads fail.
    pub sound_writes: bool,
    /// One read in so many fails; 0 for none.
    pub read_faults: u64,
}

impl Plan {
    /// A correct driver on sound media.
    pub fn new(requests: usize, durability: Durability) -> Self {
        Self {
            requests,
            longest: 40,
            durability,
            mischief: Mischief::None,
            watched: true,
            faults: false,
            sound_writes: false,
            read_faults: 0,
        }
    }
}

/// Something that happened to the notes.
#[derive(Clone, Copy, Debug)]
pub enum NoteEvent {
    /// One was kept.
    Kept(Note),
    /// A new list began.
    Sealed,
    /// The lists before the current one are published.
    Durable,
}

/// The notes of a chain, with the number of events in the machine's log at each change.
#[derive(Clone, Debug, Default)]
pub struct Notes(Vec<(usize, NoteEvent)>);

impl Notes {
    /// Of an earlier process, none of them published.
    pub fn kept(notes: &[Note]) -> Self {
        Self(notes.iter().map(|note| (0, NoteEvent::Kept(*note))).collect())
    }

    /// Something happens after `now` events.
    pub fn push(&mut self, now: usize, event: NoteEvent) {
        self.0.push((now, event));
    }

    /// What a process finds that starts after `cut` events.
    pub fn at(&self, cut: usize) -> Vec<Note> {
        let (mut sealed, mut current) = (Vec::new(), Vec::new());
        for (_, event) in self.0.iter().filter(|(at, _)| *at <= cut) {
            match event {
                NoteEvent::Kept(note) => current.push(*note),
                NoteEvent::Sealed => sealed.append(&mut current),
                NoteEvent::Durable => sealed.clear(),
            }
        }
        sealed.append(&mut current);
        sealed
    }

    /// All that are left.
    pub fn left(&self) -> Vec<Note> {
        self.at(usize::MAX)
    }
}
