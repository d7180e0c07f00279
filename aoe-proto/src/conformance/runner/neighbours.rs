//! Other targets of the segment. What they answer to a question to everybody is not the target's,
//! and what would change them is not sent.

use heapless::Vec;

use super::super::case::{Case, Needs, Step};
use super::super::compose::{self, Seen};
use super::super::stimulus::Part;
use super::steps::stimulus_at;
use super::{Flight, Phase, Question, Runner};
use crate::wire::{Address, AddressPattern, Mac};

/// Neighbours that are known one by one. With more of them every other address counts as one.
const NEIGHBOURS_MAX: usize = 64;

/// Who else answered a query to every shelf and slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    known: Vec<Address, NEIGHBOURS_MAX, u8>,
    crowded: bool,
    /// One of them lives at the target's own MAC address.
    share_mac: bool,
    /// The target answered, too, by its own name.
    target_heard: bool,
}

impl Neighbours {
    fn add(&mut self, address: Address) {
        if !self.known.contains(&address) {
            self.crowded |= self.known.push(address).is_err();
        }
    }

    fn has(&self, address: Address) -> bool {
        self.crowded || self.known.contains(&address)
    }
}

impl Runner<'_> {
    /// Asks who else is there.
    pub(super) fn question_neighbours(&mut self) {
        let tag = self.tag();
        let mut header = compose::question(&self.facts, self.facts.own_mac, 1, tag);
        header.address = AddressPattern::ALL;
        if self.selection.permitted.contains(Needs::BROADCAST) {
            header.dst = Mac::BROADCAST;
        }
        let len =
            compose::request(self.memory.frame, header, &[0; 12], core::iter::empty()).unwrap_or(0);
        self.launch(tag, len, Phase::Learn(Question::Neighbours));
        // Nobody knows how many there are: all the time that one answer has.
        self.patience_ms = (self.config.timing.answer_ms / 2).max(1);
        self.flight = Flight::same(tag, 1, 2);
    }

    pub(super) fn met(&mut self, seen: &Seen<'_>) {
        let Some(address) = seen.header.address.exact() else { return };
        if address == self.facts.address {
            self.neighbours.target_heard = true;
            return;
        }
        self.neighbours.add(address);
        self.neighbours.share_mac |= seen.header.src == self.facts.target_mac;
    }

    /// Everybody who is there was met. A target that does not know its own name must not pass for
    /// its neighbour.
    pub(super) fn all_met(&mut self) {
        if !self.neighbours.target_heard {
            self.neighbours.known.clear();
            self.neighbours.crowded = false;
        }
    }

    /// Whether an answer is a neighbour's.
    pub(super) fn is_neighbours(&self, seen: &Seen<'_>) -> bool {
        let other = |address: &Address| *address != self.facts.address;
        let address = seen.header.address.exact().filter(other);
        address.is_some_and(|address| self.neighbours.has(address))
    }

    /// Whether a case would change other targets at the same MAC address, should they execute what
    /// is addressed to every shelf or slot.
    pub(super) fn endangers_neighbours(&self, case: &Case) -> bool {
        self.neighbours.share_mac && case.steps.iter().any(changes_everybody)
    }
}

fn changes_everybody(step: &'static Step) -> bool {
    let frames = match step {
        Step::Burst(list) => u16::try_from(list.len()).unwrap_or(u16::MAX),
        _ => 1,
    };
    (0..frames).filter_map(|index| stimulus_at(step, index)).any(|stimulus| {
        let everybody = stimulus.shelf == Part::All || stimulus.slot == Part::All;
        everybody && stimulus.may_change()
    })
}
