//! Reads whose sectors alternate between two storages, put out as one.
//!
//! Sector by sector such a read would take as many operations as it has runs. What lies in order in
//! each of the two, as in an overlay that keeps data at their place and the image below it, can be
//! had with one read of each.

use super::read::Resolved;
use super::table::{Task, Walk};
use super::{Engine, Lent, RequestId, Ticket};
use crate::format::{IN_PLACE_MAX, InPlace, Map, Place, Run, low_bits};
use crate::pages::StorageKey;
use crate::units::{Extent, SECTOR_BYTES};

/// Most sectors of a weave.
pub const WEAVE_SECTORS_MAX: u64 = IN_PLACE_MAX;

/// One of the two storages of a weave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Strand {
    /// Which storage.
    pub storage: StorageKey,
    /// Byte of it where the first sector of the weave would lie: sector *n* lies 512 *n* bytes behind,
    /// if it is one of this strand.
    pub offset: u64,
}

/// A read whose sectors come from two storages by turns; see [`Engine::set_weaving`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weave {
    /// Whose buffer it fills.
    pub id: RequestId,
    /// From this byte of it on.
    pub buffer_offset: u32,
    /// So many sectors, at most [`WEAVE_SECTORS_MAX`].
    pub sectors: u32,
    /// Where they come from. The first sector is of the first one.
    pub strands: [Strand; 2],
    /// Bit *n* is set if sector *n* is of the second one.
    pub second: u64,
    /// To be reported under this name, exactly once.
    pub ticket: Ticket,
}

/// Sectors of a weave that follow each other in one of its strands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WovenRun {
    /// Of the second strand, not of the first.
    pub is_second: bool,
    /// The first, counted from the beginning of the weave.
    pub first: u32,
    /// How many.
    pub sectors: u32,
}

impl Weave {
    /// Bytes that it fills.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.sectors).wrapping_mul(SECTOR_BYTES)
    }

    /// Its runs in order.
    pub fn runs(&self) -> WovenRuns {
        WovenRuns { second: self.second, first: 0, sectors: self.sectors }
    }

    /// From the first to the last sector of a strand: the first one's number, and how many. What lies
    /// between may be anything, but does lie inside the storage.
    pub fn span(&self, is_second: bool) -> (u32, u32) {
        let all = mask(0, u64::from(self.sectors));
        let bits = if is_second { self.second & all } else { !self.second & all };
        let first = bits.trailing_zeros().min(self.sectors);
        (first, (u64::BITS - bits.leading_zeros()).saturating_sub(first))
    }
}

/// See [`Weave::runs`].
#[derive(Clone, Debug)]
pub struct WovenRuns {
    second: u64,
    first: u32,
    sectors: u32,
}

impl Iterator for WovenRuns {
    type Item = WovenRun;

    fn next(&mut self) -> Option<WovenRun> {
        if self.first >= self.sectors {
            return None;
        }
        let rest = self.second.checked_shr(self.first).unwrap_or(0);
        let is_second = rest & 1 == 1;
        let same = if is_second { rest.trailing_ones() } else { rest.trailing_zeros() };
        let run = WovenRun {
            is_second,
            first: self.first,
            sectors: same.min(self.sectors.saturating_sub(self.first)),
        };
        self.first = self.first.saturating_add(run.sectors.max(1));
        Some(run)
    }
}

/// Bits `first` to `first + count`.
fn mask(first: u64, count: u64) -> u64 {
    low_bits(first.saturating_add(count)) & !low_bits(first)
}

/// What a run that is put out was extended to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extended {
    pub(super) sectors: u64,
    pub(super) second: Option<(Strand, u64)>,
}

/// Asks one frozen layer after the other, until `take` has what it wants or one does not know.
fn extend_below(
    extent: Extent,
    lent: &Lent<'_, '_>,
    take: &mut impl FnMut(StorageKey, InPlace) -> bool,
) {
    for layer in lent.layers {
        let inside = extent.until(layer.sectors());
        if inside.is_empty() {
            return;
        }
        let Some(found) = layer.in_place(inside, lent.pages) else { return };
        if !take(layer.storage(), found) {
            return;
        }
    }
}

impl<const SLOTS: usize> Engine<SLOTS> {
    /// Follows the run of data that `rest` begins with: as far as the sectors behind it lie where it
    /// would go on, or in one other storage in the same order.
    pub(super) fn extend(
        &self,
        rest: Extent,
        first: Strand,
        sectors: u64,
        lent: &Lent<'_, '_>,
    ) -> Extended {
        let end = rest.sectors().min(WEAVE_SECTORS_MAX);
        let Extended { sectors: mut done, mut second } =
            self.extend_at_once(rest.take(end), first, sectors, lent);
        while done < end {
            let resolved = self.resolve(
                rest.skip(done).take(end.saturating_sub(done)),
                &mut Walk::TOP.clone(),
                lent,
            );
            let Resolved::Run { storage, run, .. } = resolved else { break };
            let Run { place: Place::Data { offset }, sectors } = run else { break };
            // Where the strand would have begun: it may not, if its order is another one.
            let lead = done.wrapping_mul(SECTOR_BYTES);
            let Some(offset) = offset.checked_sub(lead) else { break };
            let strand = Strand { storage, offset };
            let sectors = sectors.min(end.saturating_sub(done));
            if strand != first {
                let (known, bits) = second.unwrap_or((strand, 0));
                if known != strand {
                    break;
                }
                second = Some((strand, bits | mask(done, sectors)));
            }
            done = done.saturating_add(sectors);
        }
        Extended { sectors: done, second }
    }

    /// As [`extend`](Self::extend), as far as layers know of many sectors at once.
    fn extend_at_once(
        &self,
        extent: Extent,
        first: Strand,
        sectors: u64,
        lent: &Lent<'_, '_>,
    ) -> Extended {
        let known = Extended { sectors, second: None };
        let (mut sought, mut of_first) = (mask(0, extent.sectors()), 0);
        let mut second: Option<(Strand, u64)> = None;
        let mut take = |storage, found: InPlace| {
            let strand = Strand { storage, offset: found.offset };
            let data = found.data & sought;
            sought &= found.absent;
            // Of several others only the one that comes first can be the second strand.
            let rival = second.map_or(u32::MAX, |(_, bits)| bits.trailing_zeros());
            if strand == first {
                of_first |= data;
            } else if data != 0 && data.trailing_zeros() < rival {
                second = Some((strand, data));
            }
            sought != 0
        };
        if let Some(overlay) = &self.overlay {
            let Some(found) = overlay.in_place(extent, lent.pages) else { return known };
            if take(overlay.storage(), found) {
                extend_below(extent, lent, &mut take);
            }
        } else {
            extend_below(extent, lent, &mut take);
        }
        let bits = second.map_or(0, |(_, bits)| bits);
        let done = u64::from((of_first | bits).trailing_ones());
        let second = second.map(|(strand, bits)| (strand, bits & mask(0, done)));
        if done < sectors {
            return known;
        }
        Extended { sectors: done, second: second.filter(|(_, bits)| *bits != 0) }
    }

    /// The weave of an extended run that has a second strand.
    pub(super) fn weave(
        at: u16,
        id: RequestId,
        buffer_offset: u32,
        sectors: u64,
        strands: [Strand; 2],
        second: u64,
    ) -> Weave {
        let sectors = u32::try_from(sectors).unwrap_or(0);
        let ticket = Task::Data(at).ticket();
        Weave { id, buffer_offset, sectors, strands, second, ticket }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weave(sectors: u32, second: u64) -> Weave {
        let strand = |n| Strand { storage: StorageKey(n), offset: 0 };
        Weave {
            id: RequestId(0),
            buffer_offset: 0,
            sectors,
            strands: [strand(0), strand(1)],
            second,
            ticket: Ticket(0),
        }
    }

    fn runs(weave: &Weave) -> heapless::Vec<(bool, u32, u32), 64> {
        weave.runs().map(|run| (run.is_second, run.first, run.sectors)).collect()
    }

    #[test]
    fn runs_and_spans() {
        let alternating = weave(8, 0b1010_1010);
        let each = |n| (n % 2 == 1, n, 1);
        assert_eq!(runs(&alternating), (0..8).map(each).collect::<heapless::Vec<_, 64>>());
        assert_eq!((alternating.span(false), alternating.span(true)), ((0, 7), (1, 7)));

        let longest = weave(64, 1 << 63);
        assert_eq!(runs(&longest)[..], [(false, 0, 63), (true, 63, 1)]);
        assert_eq!((longest.span(false), longest.span(true)), ((0, 63), (63, 1)));

        // Bits behind its end count for nothing.
        let short = weave(5, u64::MAX << 3);
        assert_eq!(runs(&short)[..], [(false, 0, 3), (true, 3, 2)]);
        assert_eq!((short.span(false), short.span(true)), ((0, 3), (3, 2)));
        assert_eq!(weave(3, 0).span(true), (3, 0), "nothing");
    }

    #[test]
    fn masks_reach_from_end_to_end() {
        assert_eq!(mask(0, 64), u64::MAX);
        assert_eq!(mask(63, 1), 1 << 63);
        assert_eq!(mask(2, 3), 0b1_1100);
        assert_eq!(mask(5, 0), 0);
    }
}
