//! The format's tests, driven by hand through the trait: no engine.

mod crash;
mod engine;
mod image;
mod layer;
mod slots;

use std::boxed::Box;
use std::collections::HashMap;
use std::vec::Vec;

use embedded_io::ErrorKind;

use super::*;
use crate::format::{Applied, Load, Located, Map, Overlay, Place, Placed, Run, State, low_bits};
use crate::identity::{LayerId, ParentIdentity};
use crate::pages::{Frame, FrameState, PAGE_LEN, Page, PageId, PagePool, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::Extent;

const ID: LayerId = LayerId(*b"0123456789abcdef");
const NEW_ID: LayerId = LayerId(*b"FEDCBA9876543210");
const KEY: StorageKey = StorageKey(7);

/// Sparse bytes of any length; what was never written reads as `fill`.
#[derive(Clone)]
struct Memory {
    len: u64,
    fill: u8,
    sectors: HashMap<u64, [u8; 512]>,
    /// Writes since the storage was made, for cutting; `None` stands for a sync.
    log: Vec<Option<(u64, Vec<u8>)>>,
    log_on: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct OutOfRange;

impl core::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("out of range")
    }
}

impl core::error::Error for OutOfRange {}

impl embedded_io::Error for OutOfRange {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

impl Memory {
    fn new(len: u64, fill: u8) -> Self {
        Self { len, fill, sectors: HashMap::new(), log: Vec::new(), log_on: false }
    }

    fn page_at(&self, offset: u64) -> Box<[u8; PAGE_LEN]> {
        let mut page = Box::new([0; PAGE_LEN]);
        self.read_at(offset, &mut page[..]).unwrap();
        page
    }

    /// The first `until` writes and syncs of the log on top of `self`.
    fn replayed(&self, log: &[Option<(u64, Vec<u8>)>]) -> Self {
        let mut copy = self.clone();
        for (offset, bytes) in log.iter().flatten() {
            copy.write_at(*offset, bytes).unwrap();
        }
        copy
    }
}

impl embedded_io::ErrorType for Memory {
    type Error = OutOfRange;
}

impl ReadStorage for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(OutOfRange);
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let within = usize::try_from(at % 512).unwrap();
            let (piece, tail) = rest.split_at_mut(rest.len().min(512 - within));
            match self.sectors.get(&(at / 512)) {
                Some(sector) => piece.copy_from_slice(&sector[within..within + piece.len()]),
                None => piece.fill(self.fill),
            }
            at += piece.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, OutOfRange> {
        Ok(self.len)
    }
}

impl Storage for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), OutOfRange> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.len) {
            return Err(OutOfRange);
        }
        if self.log_on {
            self.log.push(Some((offset, data.to_vec())));
        }
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = usize::try_from(at % 512).unwrap();
            let (piece, tail) = rest.split_at(rest.len().min(512 - within));
            let sector = self.sectors.entry(at / 512).or_insert([self.fill; 512]);
            sector[within..within + piece.len()].copy_from_slice(piece);
            at += piece.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), OutOfRange> {
        if self.log_on {
            self.log.push(None);
        }
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), OutOfRange> {
        self.len = self.len.max(len);
        Ok(())
    }
}

fn options(sectors: u64) -> CreateOptions<'static> {
    CreateOptions {
        layer_id: ID,
        sectors,
        parent: ParentIdentity::None,
        window: None,
        hint: b"",
        label: b"",
        created_s: 0,
        log: None,
        fresh: Fresh::Zeroed,
    }
}

fn page() -> Box<Page> {
    Box::new(Page::ZERO)
}

fn made(sectors: u64) -> Memory {
    let mut storage = Memory::new(0, 0);
    create(&mut storage, &options(sectors), &mut page()).unwrap();
    storage
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(start, sectors).unwrap()
}

/// What the engine does, in the simplest order: a pool, an overlay, and rule W.
struct Drive {
    storage: Memory,
    overlay: Writable,
    pages: PagePool<'static>,
    open: Vec<PageId>,
    begun: bool,
}

/// Runs a load to its end over any storage.
fn load(
    map: &impl Map,
    storage: &Memory,
    index: u64,
    note: &mut u64,
    bytes: &mut [u8; PAGE_LEN],
) -> Result<(), u64> {
    for step in 0..=3 {
        match map.load(index, step, note, bytes) {
            Load::Read { offset, len } => {
                let len = usize::try_from(len).unwrap();
                storage.read_at(offset, &mut bytes[..len]).unwrap();
            }
            Load::Ready => return Ok(()),
            Load::Corrupt { offset } => return Err(offset),
        }
    }
    panic!("a load has at most three reads");
}

/// The content of a sector as a client without a parent sees it after opening the image; the byte
/// to blame if its page is corrupt.
fn peek(storage: &Memory, sector: u64) -> Result<[u8; 512], u64> {
    let opened = open(storage, &mut page()).unwrap();
    let map = opened.snapshot(KEY);
    let mut bytes = page();
    load(&map, storage, sector / SECTORS_PER_PAGE, &mut 0, bytes.as_bytes_mut())?;
    let within = usize::try_from(sector % SECTORS_PER_PAGE).unwrap();
    let state = (bytes.as_bytes()[64 + within / 4] >> (2 * (within % 4))) & 3;
    let mut content = [0; 512];
    if state == 1 {
        storage.read_at(opened.geometry().data_offset() + sector * 512, &mut content).unwrap();
    }
    Ok(content)
}

/// Leaked: only for tests that need few.
fn pool() -> PagePool<'static> {
    let pages = std::vec![Page::ZERO; 8].leak();
    let frames = std::vec![Frame::EMPTY; 8].leak();
    PagePool::new(pages, frames).unwrap()
}

impl Drive {
    fn new(mut storage: Memory) -> Self {
        let overlay = open_writable(&mut storage, KEY, &mut page()).unwrap();
        Self::over(storage, overlay)
    }

    fn over(storage: Memory, overlay: Writable) -> Self {
        Self { storage, overlay, pages: pool(), open: Vec::new(), begun: false }
    }

    fn fetch(&mut self, index: u64) -> Result<PageId, u64> {
        if let Some(id) = self.pages.find(KEY, index) {
            return Ok(id);
        }
        let id = self.pages.claim(KEY, index).unwrap();
        let mut note = 0;
        let bytes = self.pages.page_mut(id).unwrap();
        if let Err(offset) = load(&self.overlay, &self.storage, index, &mut note, bytes) {
            self.pages.release(id);
            return Err(offset);
        }
        self.pages.set_aux(id, note);
        self.pages.set_state(id, FrameState::Clean);
        Ok(id)
    }

    /// Where the first sectors of a range are.
    fn locate(&mut self, at: Extent) -> Result<Run, u64> {
        loop {
            match self.overlay.locate(at, &self.pages, &[]) {
                Located::Run(run) => {
                    self.agrees(at, run);
                    return Ok(run);
                }
                Located::Load(index) => drop(self.fetch(index)?),
                Located::Corrupt { offset } => return Err(offset),
            }
        }
    }

    /// What is told of many sectors at once is what was just told of the first ones.
    fn agrees(&self, at: Extent, run: Run) {
        let Some(found) = self.overlay.in_place(at.take(64), &self.pages) else {
            panic!("the page is there");
        };
        let bits = low_bits(run.sectors.min(64));
        let expected = match run.place {
            Place::Data { offset } => {
                assert_eq!(found.offset, offset);
                (bits, 0)
            }
            Place::Absent => (0, bits),
            _ => (0, 0),
        };
        assert_eq!((found.data & bits, found.absent & bits), expected, "{at}");
        assert_eq!(found.data & found.absent, 0);
        assert_eq!((found.data | found.absent) & !low_bits(at.sectors()), 0, "{at}");
    }

    /// Places and writes a range, every byte `byte`, without publishing.
    fn put(&mut self, range: Extent, byte: u8) {
        let mut rest = range;
        while !rest.is_empty() {
            match self.overlay.place(rest, &self.pages, &mut []) {
                Placed::Write { sectors, offset, fill: None, .. } => {
                    let bytes = usize::try_from(sectors * 512).unwrap();
                    self.storage.write_at(offset, &std::vec![byte; bytes]).unwrap();
                    rest = rest.skip(sectors);
                }
                Placed::Load(index) => drop(self.fetch(index).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    fn apply(&mut self, range: Extent, state: State) -> u64 {
        if !core::mem::replace(&mut self.begun, true) {
            let mut scratch = page();
            if let Some(to) = self.overlay.preamble(scratch.as_bytes_mut()) {
                self.storage.write_at(to.offset, scratch.as_bytes()).unwrap();
            }
        }
        let (mut rest, mut total) = (range, 0);
        while !rest.is_empty() {
            match self.overlay.apply(rest, state, &mut self.pages, &mut []) {
                Applied::Done { sectors, freed } => {
                    rest = rest.skip(sectors);
                    total += freed;
                }
                Applied::Load(index) => drop(self.fetch(index).unwrap()),
                Applied::Open(index) => {
                    let id = self.pages.find(KEY, index).unwrap();
                    self.pages.set_state(id, FrameState::Open);
                    self.open.push(id);
                }
                Applied::WritePage { page, offset } => {
                    let id = self.pages.find(KEY, page).unwrap();
                    self.pages.set_state(id, FrameState::Preparing);
                    self.storage.write_at(offset, self.pages.bytes(id)).unwrap();
                    self.pages.set_state(id, FrameState::Open);
                    let mut note = self.pages.aux(id);
                    self.overlay.prepared(page, &mut note);
                    self.pages.set_aux(id, note);
                }
                other => panic!("{other:?}"),
            }
        }
        total
    }

    /// Seals page `id`; where its bytes would go.
    fn seal(&mut self, id: PageId) -> u64 {
        let (_, index) = self.pages.holds(id).unwrap();
        let mut note = self.pages.aux(id);
        let bytes = self.pages.page_mut(id).unwrap();
        let to = self.overlay.seal(index, &mut note, bytes);
        self.pages.set_aux(id, note);
        assert_eq!((to.len, to.stage), (4096, 0));
        to.offset
    }

    /// Tells the overlay what became of a version.
    fn told(&mut self, id: PageId, tell: impl Fn(&mut Writable, u64, &mut u64)) {
        let (_, index) = self.pages.holds(id).unwrap();
        let mut note = self.pages.aux(id);
        tell(&mut self.overlay, index, &mut note);
        self.pages.set_aux(id, note);
    }

    fn commit(&mut self) {
        self.storage.sync().unwrap();
        for id in core::mem::take(&mut self.open) {
            self.pages.set_state(id, FrameState::Sealed);
            let offset = self.seal(id);
            self.storage.write_at(offset, self.pages.bytes(id)).unwrap();
            self.told(id, Overlay::reopened);
            self.pages.set_state(id, FrameState::Clean);
        }
        self.storage.sync().unwrap();
        self.overlay.committed(&mut []);
    }

    fn write(&mut self, range: Extent, byte: u8) {
        self.put(range, byte);
        self.apply(range, State::Data);
        self.commit();
    }

    fn close(mut self) -> Memory {
        close(&mut self.storage, &self.overlay, &mut page()).unwrap();
        self.storage
    }

    /// The content of a sector as a client without a parent sees it.
    fn read(&mut self, sector: u64) -> Result<[u8; 512], u64> {
        let mut content = [0; 512];
        if let Place::Data { offset } = self.locate(extent(sector, 1))?.place {
            self.storage.read_at(offset, &mut content).unwrap();
        }
        Ok(content)
    }
}
