//! Judges: they look at bytes and say what is wrong. Every one is shown to catch a broken server.

use core::fmt;
use core::ops::Range;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::pattern::{Base, Content, SECTOR, SECTOR_BYTES, Stamp};

/// Mismatches worth printing; the count tells the rest.
const SHOWN: usize = 8;

/// A sector that does not hold what it must.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mismatch {
    /// Sector index.
    pub lba: u64,
    /// What the model says.
    pub expected: Content,
    /// What the disk says.
    pub found: Content,
}

/// What a judge found wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Sectors differ from the model: how many, and the first few.
    Contents(usize, Vec<Mismatch>),
    /// A file that nobody may write has changed; the ranges count bytes.
    Changed(Range<u64>),
    /// A file that nobody may resize has another length: bytes before and after.
    Resized(u64, u64),
    /// A write to a read-only disk was accepted.
    WriteAccepted,
    /// Two disks share this many sectors that each client wrote for itself.
    Shared(usize),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contents(count, first) => {
                write!(f, "{count} sectors are wrong")?;
                for Mismatch { lba, expected, found } in first {
                    write!(f, "\n  lba {lba}: expected {expected}, found {found}")?;
                }
                Ok(())
            }
            Self::Changed(range) => write!(f, "bytes {} to {} changed", range.start, range.end),
            Self::Resized(before, after) => write!(f, "had {before} bytes, has {after}"),
            Self::WriteAccepted => f.write_str("a write to a read-only disk was accepted"),
            Self::Shared(count) => write!(f, "{count} sectors hold another client's data"),
        }
    }
}

/// Compares sectors with a model; `first` is the LBA of the first sector of both.
pub fn contents(expected: &[Content], first: u64, bytes: &[u8]) -> Result<(), Verdict> {
    let mut wrong = expected
        .iter()
        .zip(bytes.chunks(SECTOR))
        .zip(first..)
        .map(|((&expected, sector), lba)| Mismatch { lba, expected, found: Content::of(sector) })
        .filter(|mismatch| mismatch.expected != mismatch.found);
    let shown: Vec<_> = wrong.by_ref().take(SHOWN).collect();
    let missing = expected.len().saturating_sub(bytes.len().div_ceil(SECTOR));
    let count = shown.len() + wrong.count() + missing;
    if count == 0 { Ok(()) } else { Err(Verdict::Contents(count, shown)) }
}

/// Counts sectors of a disk that carry the stamps of a client other than `owner`.
pub fn isolated(owner: &[u64], golden: u64, bytes: &[u8]) -> Result<(), Verdict> {
    let foreign = bytes
        .chunks(SECTOR)
        .filter_map(Stamp::read)
        .filter(|stamp| stamp.seed != golden && !owner.contains(&stamp.seed))
        .count();
    if foreign == 0 { Ok(()) } else { Err(Verdict::Shared(foreign)) }
}

/// Compares a file that nobody may write with its bytes from before.
pub fn unchanged(before: &[u8], path: &Path) -> Result<(), Verdict> {
    let after = std::fs::read(path).expect("the file can be read");
    if before.len() != after.len() {
        return Err(Verdict::Resized(byte_count(before), byte_count(&after)));
    }
    let differs = |(old, new): (&u8, &u8)| old != new;
    let Some(first) = before.iter().zip(&after).position(differs) else { return Ok(()) };
    let last = before.iter().zip(&after).rposition(differs).unwrap_or(first);
    let offset = |index: usize| u64::try_from(index).unwrap_or(u64::MAX);
    Err(Verdict::Changed(offset(first)..offset(last + 1)))
}

/// Judges the outcome of writes to a disk that is read-only.
pub fn refused(any_write_succeeded: bool) -> Result<(), Verdict> {
    if any_write_succeeded { Err(Verdict::WriteAccepted) } else { Ok(()) }
}

/// Makes a golden image whose every sector carries the stamp of `seed`.
pub fn make_golden(path: &Path, sectors: u64, seed: u64) {
    let mut file = BufWriter::new(File::create(path).expect("the image can be made"));
    for lba in 0..sectors {
        file.write_all(&Stamp { seed, lba, write: 0 }.sector()).expect("the image takes a sector");
    }
    file.flush().expect("the image is complete");
}

/// The bytes of [`make_golden`]'s image.
pub fn golden_bytes(sectors: u64, seed: u64) -> Vec<u8> {
    (0..sectors).flat_map(|lba| Stamp { seed, lba, write: 0 }.sector()).collect()
}

/// Compares a range of sectors of a file or block device with a base that nobody wrote to.
pub fn untouched(path: &Path, lbas: Range<u64>, base: Base) -> Result<(), Verdict> {
    let mut file = File::open(path).expect("the disk can be opened");
    file.seek(SeekFrom::Start(lbas.start * SECTOR_BYTES)).expect("the disk can be positioned");
    let expected: Vec<_> = lbas.clone().map(|lba| base.content(lba)).collect();
    let mut bytes = Vec::new();
    let length = (lbas.end - lbas.start) * SECTOR_BYTES;
    file.take(length).read_to_end(&mut bytes).expect("the disk can be read");
    contents(&expected, lbas.start, &bytes)
}

fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Verdict, contents, isolated, make_golden, refused, unchanged, untouched};
    use crate::pattern::{Base, Plan, SECTOR};

    const PLAN: Plan = Plan { seed: 5, first: 0, sectors: 64, writes: 20, longest: 8 };

    fn disk_after(writes: u64) -> Vec<u8> {
        let mut disk = vec![0; 64 * SECTOR];
        for write in PLAN.iter().take_while(|write| write.number <= writes) {
            let start = usize::try_from(write.lba).unwrap() * SECTOR;
            let bytes = PLAN.bytes(write);
            disk[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        disk
    }

    #[test]
    fn a_correct_disk_passes() {
        let model = PLAN.contents(20, Base::Blank);
        assert_eq!(contents(&model, 0, &disk_after(20)), Ok(()));
    }

    #[test]
    fn a_lost_write_a_torn_sector_and_a_short_disk_are_caught() {
        let model = PLAN.contents(20, Base::Blank);
        assert!(matches!(contents(&model, 0, &disk_after(19)), Err(Verdict::Contents(..))));
        let mut torn = disk_after(20);
        let written = model.iter().position(|content| *content != Base::Blank.content(0)).unwrap();
        torn[written * SECTOR + 300] ^= 1;
        assert!(matches!(contents(&model, 0, &torn), Err(Verdict::Contents(1, _))));
        assert!(matches!(
            contents(&model, 0, &disk_after(20)[..63 * SECTOR]),
            Err(Verdict::Contents(1, _))
        ));
    }

    #[test]
    fn a_shared_overlay_is_caught() {
        assert_eq!(isolated(&[5], 1, &disk_after(20)), Ok(()));
        assert!(matches!(isolated(&[6], 1, &disk_after(20)), Err(Verdict::Shared(_))));
    }

    #[test]
    fn a_written_golden_image_is_caught() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("golden");
        make_golden(&path, 16, 1);
        let before = fs::read(&path).unwrap();
        assert_eq!(unchanged(&before, &path), Ok(()));
        assert_eq!(untouched(&path, 0..16, Base::Golden(1)), Ok(()));
        let mut bytes = before.clone();
        bytes[700] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(unchanged(&before, &path), Err(Verdict::Changed(700..701)));
        assert!(matches!(untouched(&path, 0..16, Base::Golden(1)), Err(Verdict::Contents(1, _))));
        bytes.push(0);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(unchanged(&before, &path), Err(Verdict::Resized(8192, 8193)));
    }

    #[test]
    fn an_accepted_write_is_caught() {
        assert_eq!(refused(false), Ok(()));
        assert_eq!(refused(true), Err(Verdict::WriteAccepted));
    }
}
