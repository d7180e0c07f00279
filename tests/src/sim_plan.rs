//! What a simulated run is to do, and the notes that its driver keeps.

use cow_core::engine::{Durability, Note};
use cow_core::fault::Dice;
use cow_core::units::Extent;

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

/// A change in a commit log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Of which sectors.
    pub extent: Extent,
    /// Their data; `None` for zeros.
    pub data: Option<Vec<u8>>,
}

/// Something that happened to the commit log.
#[derive(Clone, Copy, Debug)]
enum LogEvent {
    /// One more record was appended.
    Appended,
    /// So many records are durable.
    Synced(usize),
    /// The commit that begins covers so many records.
    Sealed(usize),
    /// What the latest seal covers is in the overlay.
    Published,
}

/// The commit log of a chain in `Logged` mode.
#[derive(Clone, Debug, Default)]
pub struct CommitLog {
    records: Vec<Logged>,
    events: Vec<(usize, LogEvent)>,
}

impl CommitLog {
    /// Appends a record after `now` events of the machine's log; its number.
    pub fn append(&mut self, now: usize, record: Logged) -> usize {
        self.records.push(record);
        self.events.push((now, LogEvent::Appended));
        self.records.len() - 1
    }

    /// A sync has ended that covers record `number` and all before it.
    pub fn synced(&mut self, now: usize, number: usize) {
        self.events.push((now, LogEvent::Synced(number + 1)));
    }

    /// A commit begins.
    pub fn sealed(&mut self, now: usize) {
        self.events.push((now, LogEvent::Sealed(self.records.len())));
    }

    /// It has ended well.
    pub fn published(&mut self, now: usize) {
        self.events.push((now, LogEvent::Published));
    }

    /// What a process finds that starts after `cut` events: the end is where the power cut left it, or
    /// after a kill the end; the beginning is anywhere before what is needed, because room is
    /// not used again at once.
    pub fn at(&self, cut: usize, killed: bool, seed: u64) -> &[Logged] {
        let (mut appended, mut durable, mut sealed, mut needless) = (0, 0, 0, 0);
        for (_, event) in self.events.iter().filter(|(at, _)| *at <= cut) {
            match *event {
                LogEvent::Appended => appended += 1,
                LogEvent::Synced(count) => durable = durable.max(count),
                LogEvent::Sealed(count) => sealed = count,
                LogEvent::Published => needless = sealed,
            }
        }
        let mut dice = Dice::new(seed ^ 0x10c);
        let mut any = |from: usize, to: usize| {
            from + usize::try_from(dice.below((to - from) as u64 + 1)).expect("small")
        };
        let end = if killed { appended } else { any(durable, appended) };
        &self.records[any(0, needless.min(end))..end]
    }
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
