//! Images that lie: good ones with some fields, entries and lengths changed, by a seed.
//!
//! Whatever an image says, looking at it ends, with an answer or an error, and reads nothing behind
//! its end: [`HostileFile`] counts and watches, [`run`] makes the images.

use core::cell::Cell;
use core::ops::Range;

use cow_core::blocking::{Blocking, Storages};
use cow_core::engine::{Durability, Engine, IoFailure, Lent};
use cow_core::fault::Dice;
use cow_core::format::{Layer, Map, Top};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use embedded_io::{ErrorKind, ErrorType};

/// Operations on one image, at most: an endless loop shows here.
const OPERATIONS: u64 = 200_000;

/// Longest that an image may become by being written to.
const ROOM: usize = 4 << 20;

/// An image in memory.
#[derive(Clone, Debug)]
pub struct HostileFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    left: Cell<u64>,
}

impl HostileFile {
    /// Of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, left: Cell::new(OPERATIONS) }
    }

    fn count(&self) {
        let left = self.left.get();
        assert!(left > 0, "more than {OPERATIONS} operations on one image");
        self.left.set(left - 1);
    }

    fn range(offset: u64, len: usize, end: usize) -> Option<Range<usize>> {
        let at = usize::try_from(offset).ok()?;
        let behind = at.checked_add(len).filter(|behind| *behind <= end)?;
        Some(at..behind)
    }
}

impl ErrorType for HostileFile {
    type Error = ErrorKind;
}

impl ReadStorage for HostileFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ErrorKind> {
        self.count();
        let len = self.bytes.len();
        let range = Self::range(offset, buf.len(), len);
        let range =
            range.unwrap_or_else(|| panic!("{} bytes at {offset} of {len} are read", buf.len()));
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, ErrorKind> {
        Ok(self.bytes.len() as u64)
    }
}

impl Storage for HostileFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        self.count();
        let range = Self::range(offset, data.len(), ROOM).ok_or(ErrorKind::OutOfMemory)?;
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        self.bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ErrorKind> {
        self.count();
        Ok(())
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), ErrorKind> {
        let len = usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?;
        let range = Self::range(offset, len, ROOM).ok_or(ErrorKind::OutOfMemory)?;
        self.write_at(offset, &vec![0; range.len()])
    }

    fn extend(&mut self, len: u64) -> Result<(), ErrorKind> {
        self.count();
        let range = Self::range(len, 0, ROOM).ok_or(ErrorKind::OutOfMemory)?;
        self.bytes.resize(self.bytes.len().max(range.end), 0);
        Ok(())
    }
}

/// An image with key 0, and anything else as a base of zeros. Nothing can be unpacked.
#[derive(Debug)]
pub struct HostileChain(pub HostileFile);

impl Storages for HostileChain {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        if key.0 == 0 {
            return self.0.read_at(offset, buf).map_err(|_| IoFailure::Medium);
        }
        buf.fill(0);
        Ok(())
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        assert_eq!(key.0, 0, "a layer below is written");
        self.0.write_at(offset, data).map_err(failure)
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        assert_eq!(key.0, 0, "a layer below is written");
        self.0.zero_at(offset, len).map_err(failure)
    }

    fn punch(&mut self, key: StorageKey, _: u64, _: u64) -> Result<(), IoFailure> {
        assert_eq!(key.0, 0, "a layer below is written");
        Ok(())
    }

    fn sync(&mut self, _: StorageKey) -> Result<(), IoFailure> {
        Ok(())
    }
}

fn failure(error: ErrorKind) -> IoFailure {
    if error == ErrorKind::OutOfMemory { IoFailure::Full } else { IoFailure::Medium }
}

/// Reads, maps, and with an overlay writes, zeros and discards here and there. Gives both back.
///
/// # Panics
/// When the engine does, or if there is no disk.
pub fn drive(
    chain: HostileChain,
    top: Option<Top>,
    layers: &[Layer<'_>],
    dice: &mut Dice,
) -> (HostileChain, Option<Top>) {
    let mut chain = chain;
    let writes = top.is_some();
    let sectors = top.as_ref().map_or_else(|| layers[0].sectors(), Map::sectors);
    let mut engine = Engine::<2>::new(top, sectors, Durability::Safe).expect("a disk");
    let (mut pages, mut frames) =
        ([Page::ZERO, Page::ZERO, Page::ZERO], [const { Frame::EMPTY }; 3]);
    let mut pool = PagePool::new(&mut pages, &mut frames).expect("a disk");
    let mut driver = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index: &mut [] },
        storages: &mut chain,
    };
    for _ in 0..6 {
        let near = if dice.chance(70) { dice.below(sectors.min(200)) } else { dice.below(sectors) };
        let extent = Extent::new(near, (1 + dice.below(20)).min(sectors - near)).expect("a disk");
        let mut bytes = [0xee; 20 * 512];
        let part = &mut bytes[..usize::try_from(extent.bytes()).expect("a disk")];
        let lba = Lba::new(near).expect("a disk");
        // Whatever comes of it.
        let _outcome = match dice.below(5) {
            0 if writes => driver.zero(extent),
            1 if writes => driver.discard(extent),
            2 if writes => driver.write(lba, part),
            3 => driver.map(extent).map(drop),
            _ => driver.read(lba, part),
        };
    }
    let _outcome = driver.flush();
    (chain, engine.into_overlay())
}

/// Where in an image lies are worth most: offset and length in bytes of its fields.
pub type Fields = [(usize, usize)];

/// What became of the images. A run in which all are refused, or none, shows little.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Images looked at.
    pub images: u64,
    /// Those that were refused.
    pub refused: u64,
}

/// Changes good images by a seed, `count` times, and has each looked at; `look` tells whether it was
/// accepted.
///
/// # Panics
/// When looking does; the message names the seed.
pub fn run(
    good: &[Vec<u8>],
    fields: &Fields,
    count: u64,
    look: impl Fn(HostileFile, &mut Dice) -> bool + core::panic::RefUnwindSafe,
) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..count {
        let looked = std::panic::catch_unwind(|| {
            let mut dice = Dice::new(seed);
            let bytes = lie(good, fields, &mut dice);
            look(HostileFile::new(bytes), &mut dice)
        });
        let Ok(accepted) = looked else { panic!("the image of seed {seed}, see above") };
        tally.images += 1;
        tally.refused += u64::from(!accepted);
    }
    tally
}

/// The image of a seed.
pub fn lie(good: &[Vec<u8>], fields: &Fields, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good[below(dice, good.len())].clone();
    for _ in 0..=dice.below(3) {
        if bytes.is_empty() {
            break;
        }
        match dice.below(10) {
            0..4 => {
                let (at, len) = fields[below(dice, fields.len())];
                put(&mut bytes, at, len, dice);
            }
            4..7 => {
                let at = below(dice, bytes.len()) & !7;
                put(&mut bytes, at, 8, dice);
            }
            7 => {
                let at = below(dice, bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
            8 => bytes.truncate(below(dice, bytes.len() + 1)),
            _ => {
                let (from, to) = (below(dice, bytes.len()), below(dice, bytes.len()));
                let len = below(dice, 600).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + len, to);
            }
        }
    }
    bytes
}

/// Puts an interesting number where a field is, in either byte order.
fn put(bytes: &mut [u8], at: usize, len: usize, dice: &mut Dice) {
    let file = bytes.len() as u64;
    let end = (at + len).min(bytes.len());
    let Some(field) = bytes.get_mut(at..end).filter(|f| !f.is_empty()) else { return };
    let bits = 8 * field.len() as u64;
    let near = [0, 1, file, 1 << dice.below(64), u64::MAX, u64::MAX >> 1, (file / 2) & !511];
    let number = match dice.below(4) {
        0 => dice.roll(),
        1 => dice.below(file.max(1)),
        _ => near[below(dice, near.len())].wrapping_add(dice.below(3)).wrapping_sub(1),
    };
    let number = if dice.chance(30) { number & !511 } else { number };
    let big = number.wrapping_shl(u32::try_from(64 - bits.min(64)).unwrap_or(0)).to_be_bytes();
    let little = number.to_le_bytes();
    let source = if dice.chance(50) { big } else { little };
    for (to, from) in field.iter_mut().zip(source) {
        *to = from;
    }
}

fn below(dice: &mut Dice, limit: usize) -> usize {
    usize::try_from(dice.below(limit as u64)).expect("below a usize")
}
