//! What the sectors of the demonstration say, and who writes where. Pure.
//!
//! Every sector is text that names its writer and its own number, so that a sector of somebody
//! else, or from elsewhere, is recognised by reading it.

use core::fmt::Write as _;
use core::ops::Range;

use aoe_proto::wire::TrimEntry;

/// Bytes in a sector. [AoE 1]
pub(super) const SECTOR_LEN: usize = 512;

/// Smallest disk on which the regions of all clients have room, in sectors.
pub(super) const SECTORS_MIN: u64 = 8192;

/// Most clients that have a place of their own in every region.
pub(super) const CLIENTS_MAX: u8 = 64;

/// Single sectors that every client scatters over the disk.
const SCATTERED: u64 = 32;

/// What a sector should hold for one client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// What the golden image has there.
    Golden,
    /// What the client wrote.
    Written,
    /// Zeros: the client trimmed it.
    Zeros,
}

/// Where one client writes on a disk of `sectors` sectors. All clients write to the same places,
/// or to overlapping ones: a server that mixes them up cannot go unnoticed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    /// A 256th of the disk.
    unit: u64,
    /// The client, from 0 on.
    number: u64,
}

impl Regions {
    pub(super) fn new(sectors: u64, number: u8) -> Self {
        Self { unit: sectors / 256, number: u64::from(number) }
    }

    /// What the client writes, as ranges of sectors that do not overlap.
    pub(super) fn writes(self) -> impl Iterator<Item = Range<u64>> {
        let Self { unit, number } = self;
        let same_for_all = 8 * unit..10 * unit;
        let larger_for_each = 128 * unit..(129 + number) * unit;
        let scattered = (0..SCATTERED).map(move |n| {
            let lba = (16 + 3 * n) * unit + number;
            lba..lba + 1
        });
        [same_for_all, larger_for_each].into_iter().chain(scattered)
    }

    /// What the client trims: text in the golden image, zeros for this client afterwards.
    pub(super) fn trim(self) -> Range<u64> {
        200 * self.unit..202 * self.unit
    }

    /// The argument of the command that trims: one sector with entries.
    pub(super) fn trim_entries(self) -> Vec<u8> {
        let range = self.trim();
        let starts = range.clone().step_by(usize::from(u16::MAX));
        let mut bytes: Vec<u8> = starts
            .flat_map(|lba| {
                let count = u16::try_from(range.end - lba).unwrap_or(u16::MAX);
                TrimEntry { lba, count }.to_bytes()
            })
            .collect();
        bytes.resize(SECTOR_LEN, 0);
        bytes
    }

    /// What a sector should hold after the client has written and trimmed.
    pub(super) fn content(self, lba: u64) -> Content {
        if self.trim().contains(&lba) {
            Content::Zeros
        } else if self.writes().any(|range| range.contains(&lba)) {
            Content::Written
        } else {
            Content::Golden
        }
    }
}

/// Fills `sectors`, the first of which is `lba`, with the text of `writer`.
pub(super) fn fill(sectors: &mut [u8], lba: u64, writer: &str) {
    let mut line = String::new();
    for (lba, sector) in (lba..).zip(sectors.chunks_mut(SECTOR_LEN)) {
        line.clear();
        // Writing to a string cannot fail.
        let _always_ok = writeln!(line, "{writer}, sector {lba:08}");
        for (byte, text) in sector.iter_mut().zip(line.bytes().cycle()) {
            *byte = text;
        }
    }
}

/// What a sector looks like, for a person who expected something else.
pub(super) fn describe(sector: &[u8]) -> String {
    if sector.iter().all(|byte| *byte == 0) {
        return "zeros".to_owned();
    }
    let line: Vec<u8> = sector.iter().copied().take_while(|b| *b != b'\n').take(48).collect();
    match String::from_utf8(line) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("`{text}`"),
        _ => "something that nobody wrote".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_a_client_stay_apart_and_on_the_disk() {
        for number in [0, 1, CLIENTS_MAX - 1] {
            let regions = Regions::new(SECTORS_MIN, number);
            let mut all: Vec<Range<u64>> = regions.writes().chain([regions.trim()]).collect();
            all.sort_by_key(|range| range.start);
            assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
            assert!(all.iter().all(|range| range.start < range.end && range.end <= SECTORS_MIN));
        }
    }

    #[test]
    fn clients_write_to_the_same_places() {
        let (one, two) = (Regions::new(SECTORS_MIN, 0), Regions::new(SECTORS_MIN, 1));
        let both = |lba: &u64| {
            one.content(*lba) == Content::Written && two.content(*lba) == Content::Written
        };
        assert!((0..SECTORS_MIN).filter(both).count() > 64);
    }

    #[test]
    fn a_sector_names_its_writer_and_its_number() {
        let mut sectors = [0; 2 * SECTOR_LEN];
        fill(&mut sectors, 41, "lab7");
        assert!(sectors.starts_with(b"lab7, sector 00000041\nlab7"));
        assert_eq!(describe(&sectors[SECTOR_LEN..]), "`lab7, sector 00000042`");
        assert_eq!(describe(&[0; SECTOR_LEN]), "zeros");
        assert_eq!(describe(&[0xff; SECTOR_LEN]), "something that nobody wrote");
    }

    #[test]
    fn trim_entries_cover_the_range() {
        let regions = Regions::new(1 << 26, 3);
        let covered: u64 = regions
            .trim_entries()
            .chunks_exact(TrimEntry::LEN)
            .map(|entry| u64::from(TrimEntry::from_bytes(entry.try_into().unwrap()).count))
            .sum();
        let range = regions.trim();
        assert_eq!(covered, range.end - range.start);
    }
}
