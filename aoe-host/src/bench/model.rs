//! What every sector must hold, and what is wrong with one that does not.
//!
//! A sector that was written begins with a stamp: which run wrote it, to which disk, which sector,
//! and the number of the write. All other bytes follow from the stamp. So a sector tells whether a
//! write was lost, went elsewhere, or was torn. Of a sector that was only read a fingerprint is
//! kept, which must not change.

use core::fmt;
use core::mem;

use aoe_proto::SECTOR_BYTES;

use super::places::mix;
use crate::values::{Address, Mac};

/// Sectors of all disks together: four bytes are kept for each.
pub(super) const SECTORS_MAX: u64 = 1 << 28;

const MAGIC: u64 = u64::from_be_bytes(*b"cowbench");
/// Words of a stamp.
const STAMP_WORDS: usize = 4;

/// A request for the sector is outstanding.
const BUSY: u32 = 1 << 31;
/// The rest is the number of the write that the sector must hold, else a fingerprint or 0.
const WRITTEN: u32 = 1 << 30;
const VALUE: u32 = WRITTEN - 1;
/// What the sector holds cannot be known: a write failed, or was sent twice, and the second copy
/// may take effect at any time.
const SHAKY: u32 = VALUE;

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wrong {
    /// It holds an earlier write: the last one was lost.
    Stale {
        /// Number of the write that it must hold.
        expected: u32,
        /// Number of the write that it holds.
        found: u32,
    },
    /// It holds a write that went to another sector.
    Misplaced {
        /// The sector it was meant for.
        lba: u64,
    },
    /// It holds a write to another disk.
    OtherDisk,
    /// It holds what another run wrote.
    OtherRun,
    /// It holds the right stamp, and other bytes behind it.
    Torn,
    /// It holds zeros in place of what was written.
    Zeros,
    /// It holds something that was never written by a run.
    Foreign,
    /// Nobody wrote to it, and it is not what it was.
    Changed,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { expected, found } => {
                write!(f, "holds write {found}, not {expected}: a write was lost")
            }
            Self::Misplaced { lba } => write!(f, "holds what was written to sector {lba}"),
            Self::OtherDisk => f.write_str("holds what was written to another disk"),
            Self::OtherRun => f.write_str("holds what an earlier run wrote: a write was lost"),
            Self::Torn => f.write_str("holds a part of what was written"),
            Self::Zeros => f.write_str("holds zeros: a write was lost"),
            Self::Foreign => f.write_str("holds something else: a write was lost or overwritten"),
            Self::Changed => f.write_str("changed, though nobody wrote to it"),
        }
    }
}

/// Neighbouring sectors that are wrong in the same way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The target.
    pub address: Address,
    /// The client that read them.
    pub client: Mac,
    /// The first sector.
    pub lba: u64,
    /// How many.
    pub sectors: u64,
    /// What is wrong with the first.
    pub wrong: Wrong,
}

impl Finding {
    /// Takes `other` in, if it continues this one.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        let alike = mem::discriminant(&self.wrong) == mem::discriminant(&other.wrong)
            && (self.address, self.client) == (other.address, other.client)
            && self.lba.checked_add(self.sectors) == Some(other.lba);
        if alike {
            self.sectors += other.sectors;
        }
        alike
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, client, lba, sectors, wrong } = self;
        write!(f, "{address}, sector {lba}")?;
        if *sectors > 1 {
            write!(f, " and {} more", sectors - 1)?;
        }
        write!(f, ", read by {client}: {wrong}")
    }
}

/// What is known about the disks of a run.
#[derive(Clone, Debug)]
pub(super) struct Model {
    run: u64,
    disks: Vec<Disk>,
}

#[derive(Clone, Debug)]
struct Disk {
    first: u64,
    writes: u32,
    words: Vec<u32>,
}

impl Model {
    /// Knows nothing about disks yet. `run` must differ from run to run.
    pub(super) fn new(run: u64) -> Self {
        Self { run, disks: Vec::new() }
    }

    /// Adds a disk of which `sectors` from `first` on are used.
    pub(super) fn add_disk(&mut self, first: u64, sectors: u64) {
        let len = usize::try_from(sectors.min(SECTORS_MAX)).unwrap_or(0);
        self.disks.push(Disk { first, writes: 0, words: vec![0; len] });
    }

    fn words(&mut self, disk: usize, lba: u64, sectors: u8) -> &mut [u32] {
        let Some(disk) = self.disks.get_mut(disk) else { return &mut [] };
        let at = usize::try_from(lba.saturating_sub(disk.first)).unwrap_or(usize::MAX);
        disk.words.get_mut(at..at.saturating_add(usize::from(sectors))).unwrap_or_default()
    }

    /// Reserves sectors for one request; `false` if another one has some of them.
    pub(super) fn claim(&mut self, disk: usize, lba: u64, sectors: u8) -> bool {
        let words = self.words(disk, lba, sectors);
        if words.iter().any(|word| word & BUSY != 0) {
            return false;
        }
        for word in words {
            *word |= BUSY;
        }
        true
    }

    /// Fills `data` with what a write to `lba` is to contain, and tells the number of the write.
    pub(super) fn fill(&mut self, disk: usize, lba: u64, data: &mut [u8]) -> u32 {
        let run = self.run;
        let Some(known) = self.disks.get_mut(disk) else { return 0 };
        // Numbers begin again after a billion writes; 0 is none of them.
        known.writes = known.writes % (VALUE - 1) + 1;
        let number = known.writes;
        for (lba, sector) in (lba..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            for (to, from) in sector.chunks_exact_mut(8).zip(content(run, disk, lba, number)) {
                to.copy_from_slice(&from.to_le_bytes());
            }
        }
        number
    }

    /// A write of this number is done; the sectors are free again.
    pub(super) fn wrote(&mut self, disk: usize, lba: u64, sectors: u8, number: u32) {
        for word in self.words(disk, lba, sectors) {
            *word = if *word & !BUSY == SHAKY { SHAKY } else { WRITTEN | number };
        }
    }

    /// What these sectors hold cannot be known any more; they are free again.
    pub(super) fn spoil(&mut self, disk: usize, lba: u64, sectors: u8) {
        self.words(disk, lba, sectors).fill(SHAKY);
    }

    /// A read ended without data; the sectors are free again.
    pub(super) fn release(&mut self, disk: usize, lba: u64, sectors: u8) {
        for word in self.words(disk, lba, sectors) {
            *word &= !BUSY;
        }
    }

    /// Compares what was read, and frees the sectors. `report` gets what is wrong, each sector once:
    /// from then on it is to stay as it is.
    pub(super) fn check(
        &mut self,
        disk: usize,
        lba: u64,
        data: &[u8],
        report: &mut dyn FnMut(u64, Wrong),
    ) {
        let run = self.run;
        let sectors = u8::try_from(data.len() / SECTOR_BYTES).unwrap_or(u8::MAX);
        let words = self.words(disk, lba, sectors);
        for ((lba, word), sector) in (lba..).zip(words).zip(data.chunks_exact(SECTOR_BYTES)) {
            *word &= !BUSY;
            if *word & WRITTEN != 0 {
                if let Some(wrong) = compare(sector, run, disk, lba, *word & VALUE) {
                    report(lba, wrong);
                    *word = fingerprint(sector);
                }
            } else if *word != SHAKY {
                let seen = fingerprint(sector);
                if *word != 0 && *word != seen {
                    report(lba, Wrong::Changed);
                }
                *word = seen;
            }
        }
    }

    /// The next sectors of a disk, from sector `from` on, that a write of the run is on: the first
    /// and how many, at most `max`.
    pub(super) fn next_written(&self, disk: usize, from: u64, max: u8) -> Option<(u64, u8)> {
        let disk = self.disks.get(disk)?;
        let skip = usize::try_from(from.saturating_sub(disk.first)).ok()?;
        let rest = disk.words.get(skip..)?;
        let written = |word: &u32| word & WRITTEN != 0;
        let gap = rest.iter().position(written)?;
        let run = rest.iter().skip(gap).take(usize::from(max)).take_while(|word| written(word));
        let lba = disk.first.checked_add(u64::try_from(skip.checked_add(gap)?).ok()?)?;
        Some((lba, u8::try_from(run.count()).ok()?))
    }

    /// Sectors about which nothing can be said.
    pub(super) fn unverifiable(&self) -> u64 {
        let words = self.disks.iter().flat_map(|disk| &disk.words);
        words.map(|word| u64::from(word & !BUSY == SHAKY)).sum()
    }
}

/// The 64 words of a sector.
fn content(run: u64, disk: usize, lba: u64, number: u32) -> impl Iterator<Item = u64> {
    let owner = (disk as u64) << 32 | u64::from(number);
    let key = mix(mix(mix(run) ^ owner) ^ lba);
    let rest = (1_u64..).map(move |n| mix(key.wrapping_add(n)));
    [MAGIC, run, owner, lba].into_iter().chain(rest).take(SECTOR_BYTES / 8)
}

fn compare(sector: &[u8], run: u64, disk: usize, lba: u64, number: u32) -> Option<Wrong> {
    let words = || sector.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok());
    let mut found = words().map(u64::from_le_bytes);
    if found.clone().eq(content(run, disk, lba, number)) {
        return None;
    }
    let stamp: [u64; STAMP_WORDS] = core::array::from_fn(|_| found.next().unwrap_or(0));
    let [magic, its_run, its_owner, its_lba] = stamp;
    let its_number = u32::try_from(its_owner & u64::from(u32::MAX)).unwrap_or(0);
    Some(if magic != MAGIC {
        if sector.iter().all(|byte| *byte == 0) { Wrong::Zeros } else { Wrong::Foreign }
    } else if its_run != run {
        Wrong::OtherRun
    } else if its_owner >> 32 != disk as u64 {
        Wrong::OtherDisk
    } else if its_lba != lba {
        Wrong::Misplaced { lba: its_lba }
    } else if its_number != number {
        Wrong::Stale { expected: number, found: its_number }
    } else {
        Wrong::Torn
    })
}

/// 30 bits that are neither 0 nor [`SHAKY`].
fn fingerprint(sector: &[u8]) -> u32 {
    let words = sector.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok());
    let hash = words.map(u64::from_le_bytes).fold(1, |hash, word| mix(hash ^ word));
    u32::try_from(hash % u64::from(VALUE - 1)).unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 1000;

    fn model() -> Model {
        let mut model = Model::new(42);
        model.add_disk(FIRST, 64);
        model.add_disk(FIRST, 64);
        model
    }

    /// Writes two sectors and gives back what went over the wire.
    fn write(model: &mut Model, disk: usize, lba: u64) -> Vec<u8> {
        let mut data = vec![0xa5; 1024];
        assert!(model.claim(disk, lba, 2));
        let number = model.fill(disk, lba, &mut data);
        model.wrote(disk, lba, 2, number);
        data
    }

    fn check(model: &mut Model, disk: usize, lba: u64, data: &[u8]) -> Vec<(u64, Wrong)> {
        let mut wrong = Vec::new();
        model.check(disk, lba, data, &mut |lba, what| wrong.push((lba, what)));
        wrong
    }

    #[test]
    fn what_was_written_is_what_must_be_read() {
        let mut model = model();
        let data = write(&mut model, 0, FIRST + 4);
        assert_eq!(check(&mut model, 0, FIRST + 4, &data), []);
        assert_eq!(data[..8], *b"hcnebwoc", "the stamp is little-endian");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut model = model();
        let at = FIRST + 4;
        let old = write(&mut model, 0, at);
        let elsewhere = write(&mut model, 0, at + 2);
        let other_disk = write(&mut model, 1, at);
        let new = write(&mut model, 0, at);
        let mut other_run = Model::new(43);
        other_run.add_disk(FIRST, 64);
        let earlier = write(&mut other_run, 0, at);
        let mut torn = new.clone();
        torn[1023] ^= 1;
        let both = |wrong: Wrong| vec![(at, wrong), (at + 1, wrong)];
        let known = model.clone();
        let check = |data: &[u8]| check(&mut known.clone(), 0, at, data);
        assert_eq!(check(&old), both(Wrong::Stale { expected: 3, found: 1 }));
        assert_eq!(check(&elsewhere)[0], (at, Wrong::Misplaced { lba: at + 2 }));
        assert_eq!(check(&other_disk), both(Wrong::OtherDisk));
        assert_eq!(check(&[0; 1024]), both(Wrong::Zeros));
        assert_eq!(check(&[1; 1024]), both(Wrong::Foreign));
        assert_eq!(check(&earlier), both(Wrong::OtherRun));
        assert_eq!(check(&torn), [(at + 1, Wrong::Torn)]);
        assert_eq!(check(&new), []);
        // Told once; from then on it has to stay as it is.
        let check = |model: &mut Model, data: &[u8]| tests::check(model, 0, at, data);
        assert_eq!(check(&mut model, &old).len(), 2);
        assert_eq!(check(&mut model, &old), []);
        assert_eq!(check(&mut model, &new), both(Wrong::Changed));
    }

    #[test]
    fn neighbours_that_are_wrong_alike_are_one_finding() {
        let finding = |lba, sectors, wrong| {
            let (address, client) = (Address::new(0, 1).unwrap(), Mac([2; 6]));
            Finding { address, client, lba, sectors, wrong }
        };
        let mut first = finding(5, 1, Wrong::Misplaced { lba: 7 });
        assert!(first.join(&finding(6, 1, Wrong::Misplaced { lba: 8 })));
        assert!(!first.join(&finding(7, 1, Wrong::Zeros)));
        assert!(!first.join(&finding(8, 1, Wrong::Misplaced { lba: 9 })));
        assert_eq!(
            first.to_string(),
            "e0.1, sector 5 and 1 more, read by 02:02:02:02:02:02: holds what was written to \
             sector 7"
        );
    }

    #[test]
    fn what_nobody_wrote_must_not_change() {
        let mut model = model();
        assert_eq!(check(&mut model, 0, FIRST, &[5; 1024]), []);
        assert_eq!(check(&mut model, 0, FIRST, &[5; 1024]), []);
        let mut data = vec![5; 1024];
        data[512] = 6;
        assert_eq!(check(&mut model, 0, FIRST, &data), [(FIRST + 1, Wrong::Changed)]);
        assert_eq!(check(&mut model, 0, FIRST, &data), [], "told once");
    }

    #[test]
    fn overlapping_requests_exclude_each_other() {
        let mut model = model();
        assert!(model.claim(0, FIRST, 8));
        assert!(!model.claim(0, FIRST + 7, 2));
        assert!(model.claim(0, FIRST + 8, 2));
        assert!(model.claim(1, FIRST, 8), "another disk");
        model.release(0, FIRST, 8);
        assert!(model.claim(0, FIRST + 6, 2));
    }

    #[test]
    fn what_may_still_change_is_not_judged() {
        let mut model = model();
        write(&mut model, 0, FIRST);
        assert!(model.claim(0, FIRST, 2));
        model.spoil(0, FIRST, 2);
        assert_eq!(check(&mut model, 0, FIRST, &[1; 1024]), []);
        assert_eq!(check(&mut model, 0, FIRST, &[2; 1024]), []);
        write(&mut model, 0, FIRST);
        assert_eq!(check(&mut model, 0, FIRST, &[3; 1024]), [], "the old write may come again");
        assert_eq!((model.unverifiable(), model.next_written(0, FIRST, 8)), (2, None));
    }

    #[test]
    fn everything_written_is_found_again() {
        let mut model = model();
        for lba in [FIRST + 1, FIRST + 3, FIRST + 60, FIRST + 62] {
            write(&mut model, 0, lba);
        }
        let mut found = Vec::new();
        let mut from = FIRST;
        while let Some((lba, sectors)) = model.next_written(0, from, 3) {
            found.push((lba - FIRST, sectors));
            from = lba + u64::from(sectors);
        }
        assert_eq!(found, [(1, 3), (4, 1), (60, 3), (63, 1)]);
        assert_eq!(model.next_written(1, FIRST, 3), None);
    }
}
