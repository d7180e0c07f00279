//! A medium in memory, and a hand-driven engine of the simplest kind.

mod blocking;
mod engine;
mod overlay;
mod power;

use core::iter;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use embedded_io::{ErrorKind, ErrorType};

use super::{Frozen, Opened, Writable, clear_stale, create, index_needed, load_index, open};
use crate::format::{Applied, IndexEntry, Load, Located, Map, Overlay, Place, Placed, State};
use crate::pages::{Frame, FrameState, Page, PageId, PagePool, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::Extent;

type Sector = [u8; 512];

#[derive(Clone, Debug)]
enum Event {
    Write(u64, Box<Sector>),
    Sync,
    /// A write of the disk was begun: first sector, sectors, tag.
    Begin(u64, u64, u32),
    /// All writes up to this many begun ones are acknowledged.
    Acknowledge(usize),
}

/// Sparse, counts in sectors, and takes aligned I/O only.
#[derive(Clone, Debug, Default)]
struct Medium {
    sectors: BTreeMap<u64, Sector>,
    len: u64,
    events: Option<Vec<Event>>,
}

impl Medium {
    fn new(sectors: u64) -> Self {
        Self { len: sectors * 512, ..Self::default() }
    }

    fn put(&mut self, at: u64, data: &Sector) {
        if *data == [0; 512] {
            self.sectors.remove(&at);
        } else {
            self.sectors.insert(at, *data);
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut all = vec![0; len.div_ceil(512) * 512 + 512];
        self.read_at(offset & !511, &mut all).unwrap();
        let skip = usize::try_from(offset & 511).unwrap();
        all[skip..skip + len].to_vec()
    }

    fn poke(&mut self, offset: u64, bytes: &[u8]) {
        let mut sector = self.sectors.get(&(offset / 512)).copied().unwrap_or([0; 512]);
        let at = usize::try_from(offset & 511).unwrap();
        sector[at..at + bytes.len()].copy_from_slice(bytes);
        self.put(offset / 512, &sector);
    }

    /// The list as the format's description has it, without our code.
    fn list(&self) -> Vec<(u64, u64)> {
        let word = |at: u64, len: usize| {
            self.bytes(at, len).iter().rev().fold(0_u64, |n, &byte| n << 8 | u64::from(byte))
        };
        assert_eq!(word(0, 4), 0x7041_6e53);
        let chunk = word(12, 4) * 512;
        let entries = chunk / 16;
        let mut list = Vec::new();
        for area in 0.. {
            let at = (1 + area * (entries + 1)) * chunk;
            for entry in 0..entries {
                let at = at + entry * 16;
                let (old, new) = (word(at, 8), word(at + 8, 8));
                if new == 0 {
                    return list;
                }
                list.push((old, new));
            }
        }
        unreachable!()
    }
}

impl ErrorType for Medium {
    type Error = ErrorKind;
}

impl ReadStorage for Medium {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ErrorKind> {
        assert!(
            offset.is_multiple_of(512) && buf.len().is_multiple_of(512),
            "{offset} {}",
            buf.len()
        );
        if offset + buf.len() as u64 > self.len {
            return Err(ErrorKind::InvalidInput);
        }
        for (at, piece) in (offset / 512..).zip(buf.chunks_mut(512)) {
            piece.copy_from_slice(self.sectors.get(&at).unwrap_or(&[0; 512]));
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, ErrorKind> {
        Ok(self.len)
    }
}

impl Storage for Medium {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        assert!(
            offset.is_multiple_of(512) && data.len().is_multiple_of(512),
            "{offset} {}",
            data.len()
        );
        if offset + data.len() as u64 > self.len {
            return Err(ErrorKind::InvalidInput);
        }
        for (at, piece) in (offset / 512..).zip(data.chunks(512)) {
            let sector = piece.try_into().unwrap();
            self.put(at, &sector);
            if let Some(events) = &mut self.events {
                events.push(Event::Write(at, Box::new(sector)));
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ErrorKind> {
        if let Some(events) = &mut self.events {
            events.push(Event::Sync);
        }
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), ErrorKind> {
        if len > self.len { Err(ErrorKind::Unsupported) } else { Ok(()) }
    }
}

/// What a sector of the disk holds after the write `tag`; 0 is the base, which is mostly zeros.
fn content(lba: u64, tag: u32) -> Sector {
    let mut sector = [0; 512];
    if tag != 0 || lba.is_multiple_of(16) {
        for piece in sector.chunks_mut(16) {
            piece[..8].copy_from_slice(&(lba + 1).to_le_bytes());
            piece[8..12].copy_from_slice(&tag.to_le_bytes());
        }
    }
    sector
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

const KEY: StorageKey = StorageKey(7);

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(start, sectors).unwrap()
}

fn pool(pages: usize) -> PagePool<'static> {
    let pages: &'static mut [Page] = Box::leak(vec![Page::ZERO; pages].into_boxed_slice());
    let frames = Box::leak(vec![Frame::EMPTY; pages.len()].into_boxed_slice());
    PagePool::new(pages, frames).unwrap()
}

/// Opens for writing, with index memory for `more` exceptions.
fn load(medium: &mut Medium, disk: u64, more: u64) -> (Writable, Vec<IndexEntry>) {
    let mut scratch = [0xa5; 1024];
    let mut opened = open(medium, disk, &mut scratch).unwrap();
    clear_stale(medium, &mut opened).unwrap();
    let entries = index_needed(opened.exceptions() + more);
    let mut index = vec![IndexEntry { key: 3, value: 5 }; usize::try_from(entries).unwrap()];
    let loaded = load_index(medium, &opened, &mut index, &mut scratch).unwrap();
    (Writable::new(KEY, &loaded).unwrap(), index)
}

/// One overlay over the base of [`content`], driven one step at a time.
struct Rig {
    medium: Medium,
    top: Writable,
    index: Vec<IndexEntry>,
    pool: PagePool<'static>,
    open: Vec<PageId>,
    disk: u64,
    begun: usize,
}

impl Rig {
    fn create(chunk_sectors: u32, store_chunks: u64, disk: u64, pages: usize) -> Self {
        let mut medium = Medium::new(store_chunks * u64::from(chunk_sectors));
        create(&mut medium, chunk_sectors).unwrap();
        Self::over(medium, disk, pages)
    }

    fn over(mut medium: Medium, disk: u64, pages: usize) -> Self {
        let (top, index) = load(&mut medium, disk, 10_000);
        Self { medium, top, index, pool: pool(pages), open: Vec::new(), disk, begun: 0 }
    }

    fn reopen(&mut self) {
        (self.top, self.index) = load(&mut self.medium, self.disk, 10_000);
        assert!(self.open.is_empty());
        self.pool.forget(KEY);
    }

    fn event(&mut self, event: Event) {
        if let Some(events) = &mut self.medium.events {
            events.push(event);
        }
    }

    /// Writes with one tag, up to the publication; false if the store is full.
    fn write(&mut self, target: Extent, tag: u32) -> bool {
        self.event(Event::Begin(target.start().get(), target.sectors(), tag));
        self.begun += 1;
        let mut rest = target;
        while !rest.is_empty() {
            match self.top.place(rest, &self.pool, &mut self.index) {
                Placed::Write { sectors, offset, fill, publish, .. } => {
                    let here = rest.take(sectors);
                    for (i, lba) in (here.start().get()..here.end().get()).enumerate() {
                        self.medium.write_at(offset + i as u64 * 512, &content(lba, tag)).unwrap();
                    }
                    if let Some(fill) = fill {
                        let all = fill.unit.start().get()..fill.unit.end().get();
                        for (i, lba) in all.enumerate() {
                            if !here.overlaps(extent(lba, 1)) {
                                let at = fill.offset + i as u64 * 512;
                                self.medium.write_at(at, &content(lba, 0)).unwrap();
                            }
                        }
                    }
                    if publish {
                        self.apply(here);
                    }
                    rest = rest.skip(sectors);
                }
                Placed::Full => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    }

    fn apply(&mut self, target: Extent) {
        let mut rest = target;
        while !rest.is_empty() {
            match self.top.apply(rest, State::Data, &mut self.pool, &mut self.index) {
                Applied::Done { sectors, freed: 0 } => rest = rest.skip(sectors),
                Applied::AfterCommit => self.commit(),
                other => self.serve(other),
            }
        }
    }

    /// Does what an answer of `apply` asks for.
    fn serve(&mut self, wish: Applied) {
        match wish {
            Applied::Load(page) => {
                if !self.pool.may_pin() {
                    self.commit();
                }
                let id = self.pool.claim(KEY, page).unwrap();
                let (mut note, mut step) = (0, 0);
                loop {
                    let bytes = self.pool.page_mut(id).unwrap();
                    match self.top.load(page, step, &mut note, bytes) {
                        Load::Read { offset, len } => {
                            let piece = &mut bytes[..len as usize];
                            self.medium.read_at(offset, piece).unwrap();
                        }
                        Load::Ready => break,
                        Load::Corrupt { offset } => panic!("{offset}"),
                    }
                    step += 1;
                }
                self.pool.set_state(id, FrameState::Clean);
            }
            Applied::Open(page) => {
                if !self.pool.may_pin() {
                    self.commit();
                }
                let mut id = self.pool.find(KEY, page).unwrap();
                if self.pool.state(id) == FrameState::Sealed {
                    let newer = self.pool.claim(KEY, page).unwrap();
                    self.pool.copy(id, newer);
                    id = newer;
                }
                assert_ne!(self.pool.state(id), FrameState::Open);
                self.pool.set_state(id, FrameState::Open);
                self.open.push(id);
            }
            Applied::ZeroFirst { offset, len } => {
                self.medium.zero_at(offset, len).unwrap();
                self.top.zeroed(offset);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Syncs the data and seals what is open.
    fn seal(&mut self) -> Vec<PageId> {
        self.medium.sync().unwrap();
        let sealed = core::mem::take(&mut self.open);
        for &id in &sealed {
            self.pool.set_state(id, FrameState::Sealed);
        }
        sealed
    }

    /// Writes the sealed pages stage by stage. Gives their sectors and stages.
    fn publish(&mut self, sealed: &[PageId]) -> Vec<(u64, u8)> {
        let mut written = Vec::new();
        for stage in 0..self.top.stages() {
            for &id in sealed {
                let (_, page) = self.pool.holds(id).unwrap();
                if self.top.stage_of(page) == stage {
                    let bytes = self.pool.page_mut(id).unwrap();
                    let to = self.top.seal(page, &mut 0, bytes);
                    assert_eq!(to.stage, stage);
                    self.medium.write_at(to.offset, &bytes[..to.len as usize]).unwrap();
                    written.push((to.offset / 512, stage));
                }
            }
            if written.last().is_some_and(|&(_, s)| s == stage) {
                self.medium.sync().unwrap();
            }
        }
        assert_eq!(written.len(), sealed.len());
        for &id in sealed {
            let (storage, page) = self.pool.holds(id).unwrap();
            if self.pool.find(storage, page) == Some(id) {
                self.pool.set_state(id, FrameState::Clean);
            } else {
                self.pool.release(id);
            }
        }
        self.top.committed(&mut self.index);
        written
    }

    fn commit(&mut self) {
        let sealed = self.seal();
        let _written = self.publish(&sealed);
    }

    /// The tag in each sector of the disk, as the overlay answers.
    fn tags(&self) -> Vec<u32> {
        tags(&self.medium, &self.top, &self.index, &self.pool, self.disk)
    }
}

/// The tag in each sector of a disk; fails on sectors that are not whole or not at their place.
fn tags(
    medium: &Medium,
    map: &impl Map,
    index: &[IndexEntry],
    pool: &PagePool<'_>,
    disk: u64,
) -> Vec<u32> {
    let mut tags = Vec::new();
    let mut rest = extent(0, disk);
    while !rest.is_empty() {
        let Located::Run(run) = map.locate(rest, pool, index) else { panic!() };
        assert!(run.sectors > 0 && run.sectors <= rest.sectors());
        match run.place {
            Place::Absent => {
                tags.extend(iter::repeat_n(0, usize::try_from(run.sectors).unwrap()));
            }
            Place::Data { offset } => {
                for i in 0..run.sectors {
                    let mut sector = [0; 512];
                    medium.read_at(offset + i * 512, &mut sector).unwrap();
                    let lba = rest.start().get() + i;
                    let tag = u32::from_le_bytes(sector[8..12].try_into().unwrap());
                    assert_eq!(sector, content(lba, tag), "sector {lba}");
                    tags.push(tag);
                }
            }
            other => panic!("{other:?}"),
        }
        rest = rest.skip(run.sectors);
    }
    tags
}

/// As [`tags`], of what a medium holds, opened for reading.
fn tags_on(medium: &Medium, disk: u64) -> (Opened, Vec<u32>) {
    let mut scratch = [0; 512];
    let opened = open(medium, disk, &mut scratch).unwrap();
    let mut index = vec![IndexEntry::EMPTY; usize::try_from(opened.index_needed()).unwrap()];
    let loaded = load_index(medium, &opened, &mut index, &mut scratch).unwrap();
    let frozen = Frozen::new(KEY, &loaded, &index);
    (opened, tags(medium, &frozen, &index, &pool(2), disk))
}
