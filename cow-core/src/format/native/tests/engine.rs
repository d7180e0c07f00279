//! The format under the engine: random requests against a plain array, in order and in flight.

use super::*;
use crate::blocking::{Blocking, OverBase};
use crate::engine::{
    Buffer, Durability, Engine, Failure, IoFailure, Kind, Lent, Operation, Output, Request,
    RequestId,
};
use crate::format::{Layer, Top, raw::Raw};
use crate::units::Lba;

const SECTORS: u64 = 40_000;
const OVERLAY: StorageKey = StorageKey(0);
const BASE: StorageKey = StorageKey(1);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Mostly around the seams of pages.
    fn extent(&mut self) -> Extent {
        let near = [0, 16_128, 32_256, 39_980][usize::try_from(self.below(4)).unwrap()];
        let start = (near + self.below(40)).saturating_sub(20).min(SECTORS - 1);
        extent(start, (self.below(30) + 1).min(SECTORS - start))
    }
}

fn base() -> Memory {
    // A length that ends inside a sector.
    let mut base = Memory::new(0, 0);
    base.extend(SECTORS * 512 - 100).unwrap();
    base.fill = 0xbb;
    base
}

fn model() -> Vec<u8> {
    let mut bytes = std::vec![0xbb; usize::try_from(SECTORS).unwrap()];
    *bytes.last_mut().unwrap() = 0xbc; // stands for the sector whose end is missing
    bytes
}

fn content(state: u8) -> [u8; 512] {
    let mut sector = [state; 512];
    if state == 0xbc {
        sector = [0xbb; 512];
        sector[412..].fill(0);
    }
    sector
}

fn range(e: Extent) -> core::ops::Range<usize> {
    let at = |lba: Lba| usize::try_from(lba.get()).unwrap();
    at(e.start())..at(e.end())
}

fn engine_of(storage: &mut Memory, durability: Durability) -> Engine<16> {
    let overlay = open_writable(storage, OVERLAY, &mut page()).unwrap();
    Engine::new(Some(Top::Native(overlay)), SECTORS, durability).unwrap()
}

#[test]
fn two_pages_are_enough() {
    for durability in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        let mut random = Random(0x5eed_0000_0001);
        let mut model = model();
        let mut storages = OverBase { overlay: made(SECTORS), base: base() };
        let layers = [Layer::Raw(Raw::new(BASE, SECTORS * 512 - 100).unwrap())];
        for _session in 0..4 {
            let mut engine = engine_of(&mut storages.overlay, durability);
            let (mut pages, mut frames) = ([Page::ZERO, Page::ZERO], [Frame::EMPTY, Frame::EMPTY]);
            let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
            let lent = Lent { pages: &mut pool, layers: &layers, index: &mut [] };
            let mut chain = Blocking { engine: &mut engine, lent, storages: &mut storages };
            for _ in 0..400 {
                let at = random.extent();
                let len = usize::try_from(at.bytes()).unwrap();
                match random.below(10) {
                    0 => chain.zero(at).map(|()| model[range(at)].fill(0)).unwrap(),
                    1 => chain.discard(at).map(|()| model[range(at)].fill(0)).unwrap(),
                    2 => chain.flush().unwrap(),
                    3..6 => {
                        let byte = u8::try_from(random.below(100)).unwrap();
                        chain.write(at.start(), &std::vec![byte; len]).unwrap();
                        model[range(at)].fill(byte);
                    }
                    _ => {
                        let mut got = std::vec![0xa5; len];
                        chain.read(at.start(), &mut got).unwrap();
                        let wanted = model[range(at)].iter().flat_map(|s| content(*s));
                        assert!(got.into_iter().eq(wanted), "{at}");
                    }
                }
            }
            chain.flush().unwrap();
            let Some(Top::Native(overlay)) = engine.into_overlay() else { panic!() };
            close(&mut storages.overlay, &overlay, &mut page()).unwrap();
            let found = &mut |f: Finding| panic!("{f}");
            let report = check(&storages.overlay, &mut page(), found).unwrap();
            assert_eq!(Some(report.data), overlay.data_sectors());
            assert!(report.data > 0 && report.zero > 0);
        }
    }
}

/// Requests in flight together, on ranges of their own, with operations that end in any order.
#[test]
fn many_in_flight_in_any_order() {
    for seed in 1..40 {
        let mut random = Random(seed * 0x9e37_79b9);
        let mut overlay = made(SECTORS);
        let mut engine = engine_of(&mut overlay, Durability::Safe);
        let mut pages = std::vec![Page::ZERO; 3];
        let mut frames = std::vec![Frame::EMPTY; 3];
        let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
        let mut lent = Lent { pages: &mut pool, layers: &[], index: &mut [] };
        let mut model = std::vec![0_u8; usize::try_from(SECTORS).unwrap()];
        let (mut under_way, mut pending) = (Vec::<Operation>::new(), 0);
        let mut slots = Slots::default();
        for round in 0..300_u32 {
            // Eight sectors each, of which every request has its own by its number.
            let start = [0, 16_120, 32_250][usize::try_from(random.below(3)).unwrap()];
            let at = extent(start + u64::from(round % 8) * 8, 8);
            let request = Request::Write { extent: at, durable: false };
            if pending < 8 && engine.submit(RequestId(round), request).is_ok() {
                pending += 1;
                model[range(at)].fill(u8::try_from(round % 251).unwrap());
            }
            while let Some(output) = engine.poll(&mut lent) {
                match output {
                    Output::Operation(o) => under_way.push(o),
                    Output::Done { result, .. } => {
                        assert_eq!(result, Ok(()));
                        pending -= 1;
                    }
                    Output::NotesSealed | Output::NotesDurable => {}
                    other => panic!("{other:?}"),
                }
            }
            let last = round == 299;
            while !under_way.is_empty() && (last || random.below(3) > 0) {
                let pick = usize::try_from(random.below(under_way.len() as u64)).unwrap();
                let o = under_way.swap_remove(pick);
                slots.see(&o);
                perform(&o, &mut overlay, lent.pages);
                engine.complete(&mut lent, o.ticket, Ok(()));
                while let Some(output) = engine.poll(&mut lent) {
                    match output {
                        Output::Operation(o) => under_way.push(o),
                        Output::Done { .. } => pending -= 1,
                        Output::NotesSealed | Output::NotesDurable => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        assert_eq!(pending, 0, "a request never ended, seed {seed}");
        for (sector, byte) in model.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            assert_eq!(peek(&overlay, sector as u64), Ok([*byte; 512]), "sector {sector}");
        }
    }
}

/// Watches invariant 1: the slots of a page take turns, with a sync between.
#[derive(Default)]
struct Slots {
    /// By page: the slot written last, and after how many syncs.
    last: HashMap<u64, (u64, u32)>,
    syncs: u32,
}

impl Slots {
    fn see(&mut self, o: &Operation) {
        let data = Geometry::new(SECTORS).unwrap().data_offset();
        match o.kind {
            Kind::Sync => self.syncs += 1,
            Kind::Write if (8192..data).contains(&o.offset) => {
                let (page, slot) = ((o.offset - 8192) / 8192, o.offset / 4096 % 2);
                let now = (slot, self.syncs);
                match self.last.insert(page, now) {
                    None => assert_eq!(slot, 0, "prepared first"),
                    Some((before, syncs)) => {
                        assert_ne!(before, slot, "page {page}: the slot that counts");
                        assert_ne!(syncs, self.syncs, "page {page}: no sync between");
                    }
                }
            }
            _ => {}
        }
    }
}

/// Polls until nothing more comes. Keeps the writes of requests back where there is a place for them;
/// reading a page fails if it is to. Gives what became of requests.
fn turn(
    engine: &mut Engine<16>,
    storage: &mut Memory,
    pages: &mut PagePool<'_>,
    mut held: Option<&mut Vec<Operation>>,
    pages_fail: bool,
) -> Vec<(RequestId, Result<(), Failure>)> {
    let mut lent = Lent { pages, layers: &[], index: &mut [] };
    let mut done = Vec::new();
    while let Some(output) = engine.poll(&mut lent) {
        match (output, &mut held) {
            (Output::Operation(o), Some(held))
                if o.kind == Kind::Write && matches!(o.buffer, Buffer::Request { .. }) =>
            {
                held.push(o);
            }
            (Output::Operation(o), _) if o.kind == Kind::Read && pages_fail => {
                engine.complete(&mut lent, o.ticket, Err(IoFailure::Medium));
            }
            (Output::Operation(o), _) => {
                perform(&o, storage, lent.pages);
                engine.complete(&mut lent, o.ticket, Ok(()));
            }
            (Output::Note { ticket, .. }, _) => engine.complete(&mut lent, ticket, Ok(())),
            (Output::Done { id, result }, _) => done.push((id, result)),
            _ => {}
        }
    }
    done
}

/// Where the sectors of a rewrite are is looked up once more when its data are written, for its note. If
/// their page has left the pool meanwhile and cannot be read, there is no note: the log would undo the
/// rewrite, so the overlay takes no more of them.
#[test]
fn a_logged_rewrite_that_loses_its_page_ends_writing() {
    for (durability, is_ended) in [(Durability::Logged, true), (Durability::Safe, false)] {
        let mut storage = made(SECTORS);
        let mut engine = engine_of(&mut storage, durability);
        let (memory, frames) = (std::vec![Page::ZERO; 2].leak(), std::vec![Frame::EMPTY; 2].leak());
        let mut pages = PagePool::new(memory, frames).unwrap();
        let write = Request::Write { extent: extent(5, 1), durable: false };
        engine.submit(RequestId(1), write).unwrap();
        let done = turn(&mut engine, &mut storage, &mut pages, None, false);
        assert_eq!(done, [(RequestId(1), Ok(()))]);
        engine.commit();
        turn(&mut engine, &mut storage, &mut pages, None, false);
        let mut held = Vec::new();
        engine.submit(RequestId(2), write).unwrap();
        let done = turn(&mut engine, &mut storage, &mut pages, Some(&mut held), false);
        assert_eq!((done.len(), held.len()), (0, 1));
        for (id, start) in [(3, 16_128), (4, 32_256)] {
            engine.submit(RequestId(id), Request::Map(extent(start, 1))).unwrap();
            let done = turn(&mut engine, &mut storage, &mut pages, None, false);
            assert_eq!(done, [(RequestId(id), Ok(()))]);
        }
        assert_eq!(pages.find(OVERLAY, 0), None, "its page has left");
        perform(&held[0], &mut storage, &mut pages);
        let mut lent = Lent { pages: &mut pages, layers: &[], index: &mut [] };
        engine.complete(&mut lent, held[0].ticket, Ok(()));
        let done = turn(&mut engine, &mut storage, &mut pages, None, true);
        let result = if is_ended { Err(Failure::Medium) } else { Ok(()) };
        assert_eq!(done, [(RequestId(2), result)]);
        assert_eq!(engine.is_read_only(), is_ended);
        engine.submit(RequestId(5), write).unwrap();
        let done = turn(&mut engine, &mut storage, &mut pages, None, false);
        let result = if is_ended { Err(Failure::ReadOnly) } else { Ok(()) };
        assert_eq!(done, [(RequestId(5), result)]);
    }
}

/// Payload is the request's number, so that no buffers are needed.
fn perform(o: &Operation, storage: &mut Memory, pages: &mut PagePool<'_>) {
    match (o.kind, o.buffer) {
        (Kind::Read, Buffer::Page { page, .. }) => {
            storage.read_at(o.offset, pages.bytes_mut(page)).unwrap();
        }
        (Kind::Write, Buffer::Page { page, .. }) => {
            storage.write_at(o.offset, pages.bytes(page)).unwrap();
        }
        (Kind::Write, Buffer::Request { id, .. }) => {
            let byte = u8::try_from(id.0 % 251).unwrap();
            let data = std::vec![byte; usize::try_from(o.len).unwrap()];
            storage.write_at(o.offset, &data).unwrap();
        }
        (Kind::Sync, _) => storage.sync().unwrap(),
        other => panic!("{other:?}"),
    }
}
