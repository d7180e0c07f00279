//! An image in memory, and an engine that is driven over it.

use core::cell::Cell;

use cow_core::blocking::{Blocking, Storages};
use cow_core::engine::{Durability, Engine, IoFailure, Lent};
use cow_core::format::{IndexEntry, Layer, Map, Top};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use embedded_io::{ErrorKind, ErrorType};

/// Operations on one image, at most: an endless loop shows here.
const OPERATIONS: u64 = 200_000;

/// Longest that an image may become by being written to.
const ROOM: usize = 4 << 20;

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Vec<u8>,
    left: Cell<u64>,
}

impl Image {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), left: Cell::new(OPERATIONS) }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Without a single byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn count(&self) {
        let left = self.left.get();
        assert!(left > 0, "more than {OPERATIONS} operations on one image");
        self.left.set(left - 1);
    }
}

/// The range, if it ends before `end`.
fn range(offset: u64, len: usize, end: usize) -> Option<core::ops::Range<usize>> {
    let at = usize::try_from(offset).ok()?;
    let behind = at.checked_add(len).filter(|behind| *behind <= end)?;
    Some(at..behind)
}

impl ErrorType for Image {
    type Error = ErrorKind;
}

impl ReadStorage for Image {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ErrorKind> {
        self.count();
        let len = self.bytes.len();
        let Some(range) = range(offset, buf.len(), len) else {
            panic!("{} bytes at {offset} of {len} are read", buf.len());
        };
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, ErrorKind> {
        Ok(self.len())
    }
}

impl Storage for Image {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        self.count();
        let range = range(offset, data.len(), ROOM).ok_or(ErrorKind::OutOfMemory)?;
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
        let len = range(offset, len, ROOM).ok_or(ErrorKind::OutOfMemory)?.len();
        self.write_at(offset, &vec![0; len])
    }

    fn extend(&mut self, len: u64) -> Result<(), ErrorKind> {
        self.count();
        let end = range(len, 0, ROOM).ok_or(ErrorKind::OutOfMemory)?.end;
        self.bytes.resize(self.bytes.len().max(end), 0);
        Ok(())
    }
}

/// The image has key 0, a device of zeros for the data of formats with two files key 1, a base of
/// zeros any other. Nothing can be unpacked.
struct Files<'i>(&'i mut Image);

impl Storages for Files<'_> {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        if key.0 == 0 {
            return self.0.read_at(offset, buf).map_err(|_| IoFailure::Medium);
        }
        buf.fill(0);
        Ok(())
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        assert!(key.0 <= 1, "the base is written");
        if key.0 == 0 { self.0.write_at(offset, data).map_err(failure) } else { Ok(()) }
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        assert!(key.0 <= 1, "the base is written");
        if key.0 == 0 { self.0.zero_at(offset, len).map_err(failure) } else { Ok(()) }
    }

    fn punch(&mut self, key: StorageKey, _: u64, _: u64) -> Result<(), IoFailure> {
        assert!(key.0 <= 1, "the base is written");
        Ok(())
    }

    fn sync(&mut self, _: StorageKey) -> Result<(), IoFailure> {
        Ok(())
    }
}

fn failure(error: ErrorKind) -> IoFailure {
    if error == ErrorKind::OutOfMemory { IoFailure::Full } else { IoFailure::Medium }
}

/// Does to a chain what `script` says, two bytes a request.
pub fn drive(
    image: &mut Image,
    top: Option<Top>,
    layers: &[Layer<'_>],
    index: &mut [IndexEntry],
    script: &[u8],
) {
    let sectors = match (&top, layers) {
        (Some(top), _) => top.sectors(),
        (None, [first, ..]) => first.sectors(),
        (None, []) => return,
    };
    let writes = top.is_some();
    let Some(mut engine) = Engine::<2>::new(top, sectors, Durability::Safe) else { return };
    let (mut pages, mut frames) = (vec![Page::ZERO; 3], vec![Frame::EMPTY; 3]);
    let Some(mut pool) = PagePool::new(&mut pages, &mut frames) else { return };
    let mut driver = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index },
        storages: &mut Files(image),
    };
    for step in script.chunks_exact(2) {
        let (what, at) = (step[0], u64::from(step[1]));
        // From the start, from the end, or anywhere in between.
        let first = match what >> 6 {
            0 | 1 => at % sectors,
            2 => sectors - 1 - at % sectors,
            _ => sectors / 256 * at,
        };
        let len = (u64::from(what >> 3 & 7) * 3 + 1).min(sectors - first);
        let (Some(extent), Some(lba)) = (Extent::new(first, len), Lba::new(first)) else { return };
        let mut bytes = vec![0xee; usize::try_from(extent.bytes()).unwrap_or(0)];
        // Whatever comes of it.
        let _outcome = match what & 7 {
            0 | 1 if writes => driver.write(lba, &bytes),
            2 if writes => driver.zero(extent),
            3 if writes => driver.discard(extent),
            4 => driver.map(extent).map(drop),
            _ => driver.read(lba, &mut bytes),
        };
    }
    let _outcome = driver.flush();
}
