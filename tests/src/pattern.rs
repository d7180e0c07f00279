//! Sectors that say who wrote them, and the plan of random writes shared by writer and judge.
//!
//! A sector holds its writer's seed, its own LBA and the number of the write. A judge that finds
//! the wrong sector can therefore tell a lost write from a foreign one or a misplaced one.

use core::fmt;

use crate::rng::Rng;

/// Bytes in a sector.
pub const SECTOR: usize = 512;
/// [`SECTOR`] as an offset unit.
pub const SECTOR_BYTES: u64 = 512;
const MAGIC: [u8; 8] = *b"cbSECTOR";

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Seed of the writer.
    pub seed: u64,
    /// Sector index the content was made for.
    pub lba: u64,
    /// Number of the write within the writer's plan; 0 for the golden image.
    pub write: u64,
}

impl Stamp {
    /// The 512 bytes of this stamp.
    pub fn sector(self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        let (head, tail) = bytes.split_at_mut(32);
        let fields =
            [MAGIC, self.seed.to_le_bytes(), self.lba.to_le_bytes(), self.write.to_le_bytes()];
        for (to, from) in head.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&from);
        }
        Rng::new(self.seed ^ self.lba.rotate_left(20) ^ self.write.rotate_left(44)).fill(tail);
        bytes
    }

    /// Reads the stamp of a sector, if the whole sector is intact.
    pub fn read(sector: &[u8]) -> Option<Self> {
        let field = |index: usize| -> Option<u64> {
            let bytes = sector.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if sector.get(..8)? != MAGIC {
            return None;
        }
        let stamp = Self { seed: field(1)?, lba: field(2)?, write: field(3)? };
        (stamp.sector() == sector).then_some(stamp)
    }
}

/// What a sector is expected to hold or was found to hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// A stamped sector.
    Stamped(Stamp),
    /// All zero bytes.
    Zeros,
    /// Bytes of nobody: torn, corrupted or foreign.
    Unknown,
}

impl Content {
    /// Classifies the bytes of one sector.
    pub fn of(sector: &[u8]) -> Self {
        if sector.iter().all(|&byte| byte == 0) {
            return Self::Zeros;
        }
        Stamp::read(sector).map_or(Self::Unknown, Self::Stamped)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stamped(Stamp { seed, lba, write }) => {
                write!(f, "write {write} of seed {seed} for lba {lba}")
            }
            Self::Zeros => f.write_str("zeros"),
            Self::Unknown => f.write_str("bytes of nobody"),
        }
    }
}

/// Random writes over a range of sectors: a function of the seed alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Seed of the writer.
    pub seed: u64,
    /// First sector of the range.
    pub first: u64,
    /// Sectors in the range; at least 1.
    pub sectors: u64,
    /// Writes in the plan.
    pub writes: u64,
    /// Longest write in sectors.
    pub longest: u64,
}

/// One write of a [`Plan`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlannedWrite {
    /// Number of the write, from 1.
    pub number: u64,
    /// First sector.
    pub lba: u64,
    /// Sectors written.
    pub count: u64,
}

impl Plan {
    /// The writes in the order they are made.
    pub fn iter(&self) -> impl Iterator<Item = PlannedWrite> {
        let plan = *self;
        let mut rng = Rng::new(plan.seed);
        (1..=plan.writes).map(move |number| {
            let offset = rng.below(plan.sectors);
            let count = (1 + rng.below(plan.longest)).min(plan.sectors - offset);
            PlannedWrite { number, lba: plan.first + offset, count }
        })
    }

    /// What each sector of the range holds after the first `acknowledged` writes.
    pub fn contents(&self, acknowledged: u64, base: Base) -> Vec<Content> {
        let mut contents: Vec<_> =
            (self.first..self.first + self.sectors).map(|lba| base.content(lba)).collect();
        for write in self.iter().take_while(|write| write.number <= acknowledged) {
            for (slot, lba) in contents
                .iter_mut()
                .zip(self.first..)
                .filter(|(_, lba)| (write.lba..write.lba + write.count).contains(lba))
            {
                *slot = Content::Stamped(Stamp { seed: self.seed, lba, write: write.number });
            }
        }
        contents
    }

    /// Divides the range among `writers` that never touch each other's sectors.
    pub fn split(self, writers: u64) -> Vec<Self> {
        let share = self.sectors.checked_div(writers).unwrap_or(0);
        (0..writers)
            .map(|index| Self {
                seed: self.seed.wrapping_mul(1000).wrapping_add(index),
                first: self.first + index * share,
                sectors: share,
                writes: self.writes.div_ceil(writers),
                longest: self.longest,
            })
            .collect()
    }

    /// The bytes of one write.
    pub fn bytes(&self, write: PlannedWrite) -> Vec<u8> {
        (write.lba..write.lba + write.count)
            .flat_map(|lba| Stamp { seed: self.seed, lba, write: write.number }.sector())
            .collect()
    }
}

/// What lies under the writes of a [`Plan`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Base {
    /// A golden image stamped with this seed.
    Golden(u64),
    /// A blank disk.
    Blank,
}

impl Base {
    /// Content of one sector of the base.
    pub fn content(self, lba: u64) -> Content {
        match self {
            Self::Golden(seed) => Content::Stamped(Stamp { seed, lba, write: 0 }),
            Self::Blank => Content::Zeros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Base, Content, Plan, SECTOR, Stamp};

    #[test]
    fn a_stamp_reads_back_and_notices_any_flipped_byte() {
        let stamp = Stamp { seed: 3, lba: 9, write: 2 };
        let mut sector = stamp.sector();
        assert_eq!(Stamp::read(&sector), Some(stamp));
        for index in 0..SECTOR {
            sector[index] ^= 1;
            assert_eq!(Stamp::read(&sector), None, "byte {index}");
            sector[index] ^= 1;
        }
        assert_eq!(Content::of(&[0; SECTOR]), Content::Zeros);
    }

    #[test]
    fn later_writes_win_and_untouched_sectors_keep_the_base() {
        let plan = Plan { seed: 5, first: 100, sectors: 40, writes: 30, longest: 8 };
        let contents = plan.contents(30, Base::Golden(1));
        for (content, lba) in contents.iter().zip(100..) {
            let last = plan
                .iter()
                .filter(|write| write.lba <= lba && lba < write.lba + write.count)
                .last();
            let expected = last.map_or(Base::Golden(1).content(lba), |write| {
                Content::Stamped(Stamp { seed: 5, lba, write: write.number })
            });
            assert_eq!(*content, expected);
        }
        assert_eq!(plan.contents(0, Base::Blank), vec![Content::Zeros; 40]);
    }
}
