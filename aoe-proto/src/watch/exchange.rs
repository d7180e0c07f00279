//! Requests and what became of them, found by tag and by content.
//!
//! Two hash tables of small sets in the caller's memory: a set holds [`WAYS`] entries, and when one
//! is full its oldest entry makes room, answered ones first. A frame costs two short searches,
//! however many requests are outstanding.

use super::rule::Rule;
use crate::wire::{AddressPattern, AtaArg, Command, ConfigCommand, Mac, Tag};

/// Entries of a set.
const WAYS: usize = 8;

/// What a request asked for, as far as its answer can be held against it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    Ata(AtaArg),
    Config { command: ConfigCommand, string_len: u16, string: u64 },
    List { sub: u8 },
    Unknown,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// No answer yet.
    Waiting,
    /// Sent again under another tag.
    Superseded,
    /// Answered, though perhaps fewer times than it was sent.
    Answered,
    /// Reported as lost, or complete: nothing is expected any more.
    Closed,
}

/// One request. A slot of the memory that [`super::Watch`] works in.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExchangeSlot(pub(super) Option<Exchange>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) vlan: u16,
    pub(super) initiator: Mac,
    pub(super) dst: Mac,
    pub(super) tag: Tag,
    pub(super) address: AddressPattern,
    pub(super) command: Command,
    pub(super) asked: Asked,
    /// Hash of address, command and argument.
    pub(super) content: u64,
    /// Why a target has to refuse it, or to be silent.
    pub(super) flaw: Option<Rule>,
    /// Whether the target had ever answered before.
    pub(super) target_known: bool,
    pub(super) version: u8,
    pub(super) sent_first_ns: u64,
    pub(super) sent_last_ns: u64,
    /// Transmissions under this tag.
    pub(super) sends: u32,
    /// Transmissions under all its tags.
    pub(super) copies: u32,
    pub(super) answers: u32,
    pub(super) state: State,
}

impl Exchange {
    /// Whether every answer can be waited for: one target is meant, and silence is no answer.
    pub(super) fn expects_answer(&self) -> bool {
        let silent = matches!(
            self.asked,
            Asked::Config { command: ConfigCommand::TestExact | ConfigCommand::TestPrefix, .. }
        );
        // To everybody, before the target was ever heard: the question whether it exists.
        let search =
            self.command == Command::Config && !self.dst.is_unicast() && !self.target_known;
        self.address.exact().is_some() && !silent && !search && self.flaw.is_none()
    }

    /// Transmissions that were not answered.
    pub(super) const fn missing(&self) -> u32 {
        self.sends.saturating_sub(self.answers)
    }
}

/// Where the content of a request was seen last. A slot of the memory that [`super::Watch`] works
/// in.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepeatSlot(Option<Repeat>);

#[derive(Clone, Copy, Debug)]
struct Repeat {
    vlan: u16,
    initiator: Mac,
    content: u64,
    tag: Tag,
    at_ns: u64,
}

/// Both tables.
pub(super) struct Exchanges<'m> {
    slots: &'m mut [ExchangeSlot],
    repeats: &'m mut [RepeatSlot],
}

impl<'m> Exchanges<'m> {
    pub(super) fn new(slots: &'m mut [ExchangeSlot], repeats: &'m mut [RepeatSlot]) -> Self {
        Self { slots, repeats }
    }

    /// Every request remembered.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.slots.iter_mut().filter_map(|slot| slot.0.as_mut())
    }

    /// The next request from slot `from` on, and the slot behind it; for a sweep over all of them.
    pub(super) fn next_from(&mut self, from: usize) -> Option<(usize, &mut Exchange)> {
        let rest = self.slots.get_mut(from..)?;
        let mut found = (from.saturating_add(1)..).zip(rest);
        found.find_map(|(next, slot)| slot.0.as_mut().map(|exchange| (next, exchange)))
    }

    /// Requests of an initiator with a tag.
    pub(super) fn with_tag(
        &mut self,
        vlan: u16,
        initiator: Mac,
        tag: Tag,
    ) -> impl Iterator<Item = &mut Exchange> {
        set_of(self.slots, tag_hash(vlan, initiator, tag))
            .iter_mut()
            .filter_map(|slot| slot.0.as_mut())
            .filter(move |e| e.vlan == vlan && e.initiator == initiator && e.tag == tag)
    }

    /// The tag under which an initiator sent this content last.
    pub(super) fn tag_of(&mut self, vlan: u16, initiator: Mac, content: u64) -> Option<Tag> {
        set_of(self.repeats, content_hash(vlan, initiator, content))
            .iter()
            .filter_map(|slot| slot.0)
            .find(|r| r.vlan == vlan && r.initiator == initiator && r.content == content)
            .map(|repeat| repeat.tag)
    }

    /// Remembers a new request. Tells the one that had to be forgotten for it, if that one still
    /// waited.
    pub(super) fn insert(&mut self, exchange: Exchange) -> Option<Exchange> {
        let Exchange { vlan, initiator, tag, content, sent_last_ns, .. } = exchange;
        let repeat = Repeat { vlan, initiator, content, tag, at_ns: sent_last_ns };
        let set = set_of(self.repeats, content_hash(vlan, initiator, content));
        let same = |r: &Repeat| r.vlan == vlan && r.initiator == initiator && r.content == content;
        let place = set.iter_mut().min_by_key(|slot| match &slot.0 {
            Some(old) if same(old) => (0, 0),
            None => (1, 0),
            Some(old) => (2, old.at_ns),
        });
        if let Some(place) = place {
            *place = RepeatSlot(Some(repeat));
        }
        let set = set_of(self.slots, tag_hash(vlan, initiator, tag));
        let place = set.iter_mut().min_by_key(|slot| match &slot.0 {
            None => (0, 0),
            Some(old) if old.state == State::Closed => (1, old.sent_last_ns),
            Some(old) if old.state != State::Waiting => (2, old.sent_last_ns),
            Some(old) => (3, old.sent_last_ns),
        })?;
        let old = core::mem::replace(place, ExchangeSlot(Some(exchange)));
        old.0.filter(|old| old.state == State::Waiting)
    }
}

/// The set for a hash; all of the table if it is smaller than one set.
fn set_of<T>(slots: &mut [T], hash: u64) -> &mut [T] {
    let sets = slots.len() / WAYS;
    if sets == 0 {
        return slots;
    }
    let set = u64::try_from(sets).ok().and_then(|sets| hash.checked_rem(sets)).unwrap_or(0);
    let start = usize::try_from(set).unwrap_or(0).saturating_mul(WAYS);
    slots.get_mut(start..start.saturating_add(WAYS)).unwrap_or_default()
}

fn tag_hash(vlan: u16, initiator: Mac, tag: Tag) -> u64 {
    let mut hash = Hash::new();
    hash.number(u64::from(vlan) << 32 | u64::from(u32::from_be_bytes(tag.0)));
    hash.mac(initiator);
    hash.finish()
}

fn content_hash(vlan: u16, initiator: Mac, content: u64) -> u64 {
    let mut hash = Hash::new();
    hash.number(content);
    hash.mac(initiator);
    hash.number(u64::from(vlan));
    hash.finish()
}

/// A quick hash for tables and for "is it the same content"; nothing that resists an attacker.
pub(super) struct Hash(u64);

impl Hash {
    pub(super) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn number(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    pub(super) fn mac(&mut self, mac: Mac) {
        let [m0, m1, m2, m3, m4, m5] = mac.0;
        self.number(u64::from_le_bytes([m0, m1, m2, m3, m4, m5, 0, 0]));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.number(u64::from(*byte) | 0x100);
        }
    }

    pub(super) const fn finish(&self) -> u64 {
        let mixed = self.0 ^ self.0 >> 32;
        mixed.wrapping_mul(0x9fb2_1c65_1e98_df25) ^ mixed >> 29
    }
}

/// The hash of some bytes.
pub(super) fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = Hash::new();
    hash.bytes(bytes);
    hash.finish()
}
