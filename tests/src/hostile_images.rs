//! Images that no honest writer makes: every field of good ones changed, and anything else.
//!
//! A format gives good images with the places of their fields, and a probe that opens, checks,
//! reads and writes. The probe may refuse; it must not panic, go on for ever, or reach outside the
//! storage. Everything follows from fixed seeds, which every failure names.

use core::cell::Cell;
use core::fmt;
use core::ops::Range;

use cow_core::blocking::{Blocking, CallError};
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::fault::Dice;
use cow_core::format::{IndexEntry, Layer, Map, Top};
use cow_core::pages::{Frame, Page, PagePool};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use embedded_io::{ErrorKind, ErrorType};

/// Images that a format is tried with at least.
pub const IMAGES: u64 = 100_000;
/// Operations after which a probe of a small image counts as endless.
const OPERATIONS: u64 = 100_000;
/// Most bytes that a storage grows to.
const ROOM: u64 = 1 << 20;

/// Why a [`Bounded`] storage did not do what it was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Outside the storage.
    Outside,
    /// Longer than it can be.
    NoRoom,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "outside the storage",
            Self::NoRoom => "no room",
        })
    }
}

impl core::error::Error for Refused {}

impl embedded_io::Error for Refused {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Outside => ErrorKind::InvalidInput,
            Self::NoRoom => ErrorKind::OutOfMemory,
        }
    }
}

/// Bytes in memory that count what is done to them and remember whether it was outside.
#[derive(Clone, Debug)]
pub struct Bounded {
    bytes: Vec<u8>,
    operations: Cell<u64>,
    outside: Cell<Option<(u64, u64)>>,
}

impl Bounded {
    /// A storage that holds these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, operations: Cell::new(0), outside: Cell::new(None) }
    }

    fn range(&self, offset: u64, len: u64) -> Result<Range<usize>, Refused> {
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS, "no end of operations");
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes.len() as u64 => {
                let at = |n| usize::try_from(n).expect("inside");
                Ok(at(offset)..at(end))
            }
            _ => {
                self.outside.set(Some((offset, len)));
                Err(Refused::Outside)
            }
        }
    }
}

impl ErrorType for Bounded {
    type Error = Refused;
}

impl ReadStorage for Bounded {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Refused> {
        let range = self.range(offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, Refused> {
        Ok(self.bytes.len() as u64)
    }
}

impl Storage for Bounded {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let range = self.range(offset, data.len() as u64)?;
        self.bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Refused> {
        self.range(0, 0).map(drop)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), Refused> {
        let range = self.range(offset, len)?;
        self.bytes[range].fill(0);
        Ok(())
    }

    fn punch(&mut self, offset: u64, len: u64) -> Result<(), Refused> {
        self.range(offset, len).map(drop)
    }

    fn extend(&mut self, len: u64) -> Result<(), Refused> {
        self.range(0, 0)?;
        if len > ROOM {
            return Err(Refused::NoRoom);
        }
        let len = usize::try_from(len).expect("small");
        self.bytes.resize(self.bytes.len().max(len), 0);
        Ok(())
    }
}

/// A number in a header or table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Number of the storage.
    pub storage: usize,
    /// Byte offset.
    pub offset: usize,
    /// Bytes: 1, 2, 4 or 8.
    pub len: usize,
    /// Its order of bytes.
    pub big_endian: bool,
}

/// A good image of one or more storages.
#[derive(Clone, Debug)]
pub struct Image {
    /// Their bytes; the index is the key.
    pub storages: Vec<Vec<u8>>,
    /// What to change. Tables are worth several entries.
    pub fields: Vec<Field>,
}

impl Image {
    /// An image in one storage with fields at these offsets, of these lengths.
    pub fn new(bytes: Vec<u8>, big_endian: bool, fields: &[(usize, usize)]) -> Self {
        let field = |&(offset, len)| Field { storage: 0, offset, len, big_endian };
        Self { storages: vec![bytes], fields: fields.iter().map(field).collect() }
    }

    /// A copy with one to three changes.
    fn spoilt(&self, dice: &mut Dice) -> Vec<Bounded> {
        let mut storages = self.storages.clone();
        for _ in 0..=dice.below(3) {
            match dice.below(12) {
                0 => {
                    let bytes = pick(&mut storages, dice);
                    let len = dice.below(bytes.len() as u64 + 2000);
                    bytes.resize(usize::try_from(len).expect("small"), 0);
                }
                1 => {
                    let bytes = pick(&mut storages, dice);
                    let most = bytes.len().min(if dice.chance(50) { 64 } else { 16_384 });
                    let at = usize::try_from(dice.below(most as u64)).expect("small");
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = dice.roll().to_le_bytes()[0];
                    }
                }
                _ => self.change_field(&mut storages, dice),
            }
        }
        storages.into_iter().map(Bounded::new).collect()
    }

    fn change_field(&self, storages: &mut [Vec<u8>], dice: &mut Dice) {
        let at = usize::try_from(dice.below(self.fields.len() as u64)).expect("small");
        let Field { storage, offset, len, big_endian } = self.fields[at];
        let Some(field) = storages[storage].get_mut(offset..offset + len) else { return };
        let old = field.iter().enumerate().fold(0_u64, |n, (i, byte)| {
            let place = if big_endian { len - 1 - i } else { i };
            n | u64::from(*byte) << (8 * place)
        });
        let new = interesting(old, dice);
        for (i, byte) in field.iter_mut().enumerate() {
            let place = if big_endian { len - 1 - i } else { i };
            *byte = new.to_le_bytes()[place];
        }
    }
}

fn pick<'a>(storages: &'a mut [Vec<u8>], dice: &mut Dice) -> &'a mut Vec<u8> {
    let at = usize::try_from(dice.below(storages.len() as u64)).expect("small");
    &mut storages[at]
}

/// A number that code likes to stumble over.
fn interesting(old: u64, dice: &mut Dice) -> u64 {
    let power = 1_u64 << dice.below(64);
    match dice.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => u64::MAX >> dice.below(64),
        4 => power,
        5 => power.wrapping_sub(1),
        6 => old.wrapping_add(1),
        7 => old.wrapping_sub(1),
        8 => old.wrapping_add(power),
        9 => old ^ power,
        10 => dice.below(4096),
        _ => dice.roll(),
    }
}

/// What became of the images. A run in which all are refused, or none, shows nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// The probe ended well.
    pub accepted: u64,
    /// It gave an error.
    pub refused: u64,
}

/// Shows `count` spoilt images to a probe.
///
/// # Panics
/// If the probe panics, does not end, or reaches outside a storage; or if the run shows nothing.
pub fn attack(
    name: &str,
    images: &[Image],
    count: u64,
    probe: impl Fn(&mut [Bounded], &mut Dice) -> Result<(), String>,
) -> Tally {
    let mut tally = Tally::default();
    for image in images {
        let mut good: Vec<_> = image.storages.iter().cloned().map(Bounded::new).collect();
        let result = probe(&mut good, &mut Dice::new(1));
        assert!(result.is_ok(), "{name}: a good image is refused: {result:?}");
    }
    for seed in 0..count {
        let mut dice = Dice::new(seed ^ 0x5eed << 40);
        let at = usize::try_from(dice.below(images.len() as u64)).expect("small");
        let mut storages = images[at].spoilt(&mut dice);
        let named = Named(name, seed);
        let result = probe(&mut storages, &mut dice);
        for (number, storage) in storages.iter().enumerate() {
            if let Some((offset, len)) = storage.outside.get() {
                panic!("{name}, seed {seed}: {len} bytes at {offset} of storage {number}");
            }
        }
        core::mem::forget(named);
        match result {
            Ok(()) => tally.accepted += 1,
            Err(_) => tally.refused += 1,
        }
    }
    println!("{name}: {tally:?}");
    let few = count / 50;
    assert!(tally.accepted > few && tally.refused > few, "{name}: {tally:?}");
    tally
}

/// Says which image it was when a probe panics.
struct Named<'a>(&'a str, u64);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("{}: the image of seed {} did that", self.0, self.1);
    }
}

/// Places worth a look: the ends, powers of two, anywhere.
fn spots(sectors: u64, dice: &mut Dice) -> Vec<u64> {
    let mut spots = vec![0, sectors.saturating_sub(1), sectors / 2];
    for _ in 0..4 {
        spots.push(dice.below(sectors));
        spots.push((1_u64 << dice.below(48)).min(sectors - 1));
    }
    spots
}

/// Looks runs up and reads sectors of a chain without an overlay, here and there.
///
/// # Errors
/// The first refusal.
pub fn read_through(
    storages: &mut [Bounded],
    layers: &[Layer<'_>],
    dice: &mut Dice,
) -> Result<(), String> {
    let sectors = layers.first().map_or(0, Layer::sectors);
    let mut engine = Engine::<2>::new(None, sectors, Durability::Safe).ok_or("no disk")?;
    drive(storages, layers, &mut engine, &mut [], |chain| {
        let mut buffer = [0; 8 * 512];
        let mut refusal = Ok(());
        for at in spots(sectors, dice) {
            let extent = Extent::new(at, sectors - at).ok_or("outside")?;
            let run = calm(chain.map(extent));
            if let Ok((_, run)) = &run {
                assert!(run.sectors > 0 && run.sectors <= extent.sectors(), "{run:?}");
            }
            let some = extent.take(8).bytes();
            let part = buffer.get_mut(..usize::try_from(some).expect("small")).unwrap_or_default();
            let read = calm(chain.read(Lba::new(at).ok_or("outside")?, part));
            refusal = refusal.and(run.map(drop)).and(read);
        }
        refusal
    })
}

/// Writes, zeroes and discards here and there, and reads it back.
///
/// # Errors
/// The first refusal.
pub fn write_through(
    storages: &mut [Bounded],
    layers: &[Layer<'_>],
    top: Top,
    index: &mut [IndexEntry],
    dice: &mut Dice,
) -> Result<Top, String> {
    let sectors = top.sectors();
    let mut engine = Engine::<2>::new(Some(top), sectors, Durability::Safe).ok_or("no disk")?;
    let result = drive(storages, layers, &mut engine, index, |chain| {
        let mut refusal = Ok(());
        for at in spots(sectors, dice) {
            let extent =
                Extent::new(at, (sectors - at).min(1 + dice.below(12))).ok_or("outside")?;
            let len = usize::try_from(extent.bytes()).expect("small");
            let call = match dice.below(4) {
                0 => chain.zero(extent),
                1 => chain.discard(extent),
                _ => chain.write(extent.start(), &vec![0x77; len]),
            };
            let read = calm(chain.read(extent.start(), &mut vec![0; len]));
            refusal = refusal.and(calm(call)).and(read);
        }
        refusal.and(calm(chain.flush()))
    });
    result.and(engine.into_overlay().ok_or_else(|| "no overlay".into()))
}

fn drive<R>(
    storages: &mut [Bounded],
    layers: &[Layer<'_>],
    engine: &mut Engine<2>,
    index: &mut [IndexEntry],
    work: impl FnOnce(&mut Blocking<'_, '_, [Bounded], 2>) -> R,
) -> R {
    let (mut pages, mut frames) = ([Page::ZERO, Page::ZERO], [Frame::EMPTY, Frame::EMPTY]);
    let mut pool = PagePool::new(&mut pages, &mut frames).expect("two pages");
    let lent = Lent { pages: &mut pool, layers, index };
    work(&mut Blocking { engine, lent, storages })
}

/// A refusal is fine, an engine that gives no answer is not.
fn calm<T>(result: Result<T, CallError>) -> Result<T, String> {
    result.map_err(|error| {
        assert_ne!(error, CallError::Stalled);
        error.to_string()
    })
}
