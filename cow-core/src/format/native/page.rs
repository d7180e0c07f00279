//! Metadata pages: the bytes of a slot, and which of the two slots counts.

use super::bytes::{Reader, Writer, is_zero, slot_crc, stamp_crc};
use super::geometry::{Geometry, PAGE_HEAD};
use crate::format::Load;
use crate::identity::LayerId;
use crate::pages::PAGE_LEN;

pub(super) const PAGE_MAGIC: [u8; 8] = *b"cowbpage";

/// Sequences stay below, so that one fits into a note beside its flags. At a million commits in
/// each second it takes two thousand years.
const SEQUENCE_LIMIT: u64 = 1 << 56;

/// Note of a page: neither slot was ever published; slot 0 must be prepared first.
pub(super) const FRESH: u64 = 1 << 63;
/// Note of a page: the older slot counts, because a power cut tore the newer one.
pub(super) const FELL_BACK: u64 = 1 << 62;
/// Note of a page: sealed, and not yet known to have reached the storage. Sealing it again repeats
/// the sequence, so that a failed write cannot turn the next one on the slot that counts.
pub(super) const SEALED: u64 = 1 << 61;
/// Between the steps of a load: verdict on slot 0, above the bits of its sequence.
const KIND: u64 = 3 << 56;
const KIND_NEVER: u64 = 1 << 56;
const KIND_TORN: u64 = 2 << 56;
const KIND_VALID: u64 = 3 << 56;

/// What the header says about every page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rules {
    /// Written into every page of this overlay.
    pub(super) page_id: LayerId,
    /// Pages of older epochs are empty.
    pub(super) epoch: u64,
    /// Newest session a page may carry.
    pub(super) session: u64,
    /// Newest session that may have left torn slots; 0 for none.
    pub(super) torn_until: u64,
}

/// Fields of a slot before its states.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PageHead {
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    pub(super) session: u64,
}

/// What one slot turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// All zeros: never written.
    Never,
    /// Neither zeros nor a page: what a power cut may leave of a write.
    Torn,
    /// A whole page of this overlay, in its place.
    Valid(PageHead),
    /// A whole page that cannot have come here by our writes and power cuts.
    Alien,
}

/// Verdict on slot 0, as far as it fits into a note between two steps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum First {
    Never,
    Torn,
    /// With this sequence.
    Valid(u64),
}

impl First {
    const fn of(verdict: Verdict) -> Option<Self> {
        match verdict {
            Verdict::Never => Some(Self::Never),
            Verdict::Torn => Some(Self::Torn),
            Verdict::Valid(head) => Some(Self::Valid(head.sequence)),
            Verdict::Alien => None,
        }
    }

    const fn note(self) -> u64 {
        match self {
            Self::Never => KIND_NEVER,
            Self::Torn => KIND_TORN,
            Self::Valid(sequence) => KIND_VALID | sequence,
        }
    }

    const fn from_note(note: u64) -> Self {
        match note & KIND {
            KIND_VALID => Self::Valid(note & (SEQUENCE_LIMIT - 1)),
            KIND_NEVER => Self::Never,
            _ => Self::Torn,
        }
    }
}

/// What two slots come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Choice {
    /// Empty, and slot 0 must be prepared before the first version is published.
    Fresh,
    /// Empty, and prepared.
    Prepared,
    /// Slot 0 counts, if it tolerates a torn slot 1 where it has to.
    First { fell_back: bool },
    /// Slot 1 counts.
    Second { head: PageHead, fell_back: bool },
    /// A slot is not what power cuts can leave.
    Corrupt { slot: u64 },
}

impl Rules {
    /// Judges the bytes of slot `slot` of page `page`.
    pub(super) fn judge(&self, page: u64, slot: u64, bytes: &[u8; PAGE_LEN]) -> Verdict {
        if is_zero(bytes) {
            return Verdict::Never;
        }
        self.parse(page, slot, bytes).unwrap_or(Verdict::Torn)
    }

    fn parse(&self, page: u64, slot: u64, bytes: &[u8; PAGE_LEN]) -> Option<Verdict> {
        let mut fields = Reader(bytes);
        let magic: [u8; 8] = fields.array()?;
        let crc = fields.u32()?;
        if magic != PAGE_MAGIC || crc != slot_crc(bytes) {
            return None;
        }
        let reserved = fields.u32()?;
        let id = LayerId(fields.array()?);
        let index = fields.u64()?;
        let (epoch, sequence, session) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let ours = reserved == 0
            && id == self.page_id
            && index == page
            && sequence & 1 == slot
            && sequence < SEQUENCE_LIMIT
            && epoch <= self.epoch
            && session <= self.session;
        let head = PageHead { sequence, epoch, session };
        Some(if ours { Verdict::Valid(head) } else { Verdict::Alien })
    }

    /// May the other slot of a page of this session be torn?
    fn tolerates(&self, session: u64) -> bool {
        session <= self.torn_until
    }

    /// Which slot counts: the table of [FORMAT 5.6], row by row. Of slot 0 only its kind and
    /// sequence are known by now.
    fn decide(&self, first: First, second: Verdict) -> Choice {
        match (first, second) {
            // Never published; its preparation may have been torn.
            (First::Never | First::Torn, Verdict::Never) => Choice::Fresh,
            // Prepared, and not published.
            (First::Valid(0), Verdict::Never) => Choice::Prepared,
            (First::Valid(_), Verdict::Torn) => Choice::First { fell_back: true },
            (First::Valid(a), Verdict::Valid(b)) if a == b.sequence.wrapping_add(1) => {
                Choice::First { fell_back: false }
            }
            (First::Valid(a), Verdict::Valid(b)) if b.sequence == a.wrapping_add(1) => {
                Choice::Second { head: b, fell_back: false }
            }
            (First::Torn, Verdict::Valid(b)) if self.tolerates(b.session) => {
                Choice::Second { head: b, fell_back: true }
            }
            (First::Torn | First::Never, Verdict::Valid(_)) => Choice::Corrupt { slot: 0 },
            _ => Choice::Corrupt { slot: 1 },
        }
    }

    /// The steps of [`Map::load`](crate::format::Map::load): slot 0, slot 1, and slot 0 again if it
    /// counts.
    pub(super) fn load(
        &self,
        geometry: Geometry,
        page: u64,
        step: u8,
        note: &mut u64,
        bytes: &mut [u8; PAGE_LEN],
    ) -> Load {
        if page >= geometry.pages() {
            return Load::Corrupt { offset: 0 };
        }
        let slot = match step {
            0 => return geometry.read_slot(page, 0),
            1 => 0,
            2 => 1,
            _ => return self.load_again(geometry, page, note, bytes),
        };
        let verdict = self.judge(page, slot, bytes);
        if slot == 0 {
            return match First::of(verdict) {
                Some(first) => {
                    *note = first.note();
                    geometry.read_slot(page, 1)
                }
                None => Load::Corrupt { offset: geometry.slot_offset(page, 0) },
            };
        }
        let first = First::from_note(*note);
        let (head, becomes) = match self.decide(first, verdict) {
            Choice::Fresh => (self.empty(), FRESH),
            Choice::Prepared => (self.empty(), 0),
            Choice::Second { head, fell_back } => (head, if fell_back { FELL_BACK } else { 0 }),
            Choice::First { fell_back } => {
                *note = first.note() | if fell_back { FELL_BACK } else { 0 };
                return geometry.read_slot(page, 0);
            }
            Choice::Corrupt { slot } => {
                return Load::Corrupt { offset: geometry.slot_offset(page, slot) };
            }
        };
        *note = becomes;
        self.finish(page, head, bytes);
        Load::Ready
    }

    /// Slot 0 has been read again because it counts: it must be as before, and if slot 1 is torn,
    /// its session must be one that may have left that.
    fn load_again(
        &self,
        geometry: Geometry,
        page: u64,
        note: &mut u64,
        bytes: &mut [u8; PAGE_LEN],
    ) -> Load {
        let fell_back = *note & FELL_BACK;
        match self.judge(page, 0, bytes) {
            Verdict::Valid(head) if First::Valid(head.sequence) == First::from_note(*note) => {
                if fell_back != 0 && !self.tolerates(head.session) {
                    return Load::Corrupt { offset: geometry.slot_offset(page, 1) };
                }
                *note = fell_back;
                self.finish(page, head, bytes);
                Load::Ready
            }
            _ => Load::Corrupt { offset: geometry.slot_offset(page, 0) },
        }
    }

    fn empty(&self) -> PageHead {
        PageHead { sequence: 0, epoch: self.epoch, session: self.session }
    }

    /// Leaves the page as lookups want it: empty if it is of an older epoch or was never published.
    fn finish(&self, page: u64, head: PageHead, bytes: &mut [u8; PAGE_LEN]) {
        if head.sequence == 0 || head.epoch < self.epoch {
            bytes.fill(0);
            self.write_head(page, head, bytes);
        }
    }

    fn write_head(&self, page: u64, head: PageHead, bytes: &mut [u8; PAGE_LEN]) {
        let mut fields = Writer(bytes);
        fields.bytes(&PAGE_MAGIC);
        fields.bytes(&[0; 8]);
        fields.bytes(&self.page_id.0);
        fields.bytes(&page.to_le_bytes());
        fields.bytes(&head.epoch.to_le_bytes());
        fields.bytes(&head.sequence.to_le_bytes());
        fields.bytes(&head.session.to_le_bytes());
    }

    /// Makes `bytes` the image that prepares slot 0 of a fresh page: no states, sequence 0.
    pub(super) fn prepare(&self, page: u64, bytes: &mut [u8; PAGE_LEN]) {
        bytes.fill(0);
        self.write_head(page, self.empty(), bytes);
        stamp_crc(bytes);
    }

    /// Makes `bytes` the next version of the page and says which slot it goes to.
    pub(super) fn seal(&self, page: u64, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> u64 {
        if *note & FRESH != 0 {
            // Opened, but its preparation failed: there is nothing in it, and slot 0 comes first.
            self.prepare(page, bytes);
            return 0;
        }
        let step = u64::from(*note & SEALED == 0);
        let sequence = sequence(bytes).wrapping_add(step);
        self.write_head(page, PageHead { sequence, ..self.empty() }, bytes);
        stamp_crc(bytes);
        // A torn slot is being replaced, so `FELL_BACK` ends.
        *note = SEALED;
        sequence & 1
    }
}

/// Sequence of the version that a page in memory holds.
pub(super) fn sequence(bytes: &[u8; PAGE_LEN]) -> u64 {
    let mut fields = Reader(bytes);
    let _before: Option<[u8; 48]> = fields.array();
    fields.u64().unwrap_or(0)
}

/// The states of a page.
pub(super) fn states(bytes: &[u8; PAGE_LEN]) -> &[u8] {
    bytes.split_first_chunk::<PAGE_HEAD>().map_or(&[], |(_head, states)| states)
}

/// The states of a page, to be changed.
pub(super) fn states_mut(bytes: &mut [u8; PAGE_LEN]) -> &mut [u8] {
    bytes.split_first_chunk_mut::<PAGE_HEAD>().map_or(&mut [], |(_head, states)| states)
}
