//! No heap allocation per request, from frame to storage and back.
//!
//! A counting allocator watches one thread while frames are parsed, decided, run through the engine
//! over a native overlay, and answered. (The two cores cannot allocate at all, which a binary without
//! an allocator shows; this shows that nothing around them does on the way of a request.)
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::convert::Infallible;
use std::alloc::System;

use aoe_proto::wire::{AddressPattern, AtaArg, AtaFlags, Command, Header, Tag};
use aoe_proto::{Action, Address, Incoming, LinkLimits, Mac, Target, TargetConfig};
use cow_core::blocking::{Blocking, OverBase};
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Top, native, raw};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use embedded_io::ErrorType;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System`, which upholds the contract; the counter neither allocates
// nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _gone_at_exit = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    COUNT.with(Cell::get)
}

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const CLIENT: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);
const SECTORS: u64 = 16_128 * 3;

/// A storage in memory that was allocated beforehand.
struct Memory(Vec<u8>);

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadStorage for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Infallible> {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, Infallible> {
        Ok(self.0.len() as u64)
    }
}

impl Storage for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Infallible> {
        let at = usize::try_from(offset).unwrap();
        self.0[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), Infallible> {
        let len = usize::try_from(len).unwrap();
        self.0.resize(self.0.len().max(len), 0);
        Ok(())
    }
}

fn frame(opcode: u8, write: bool, lba: u64, count: u8, fill: u8) -> Vec<u8> {
    let header = Header {
        dst: OWN,
        src: CLIENT,
        version: 1,
        response: false,
        error: None,
        address: AddressPattern { shelf: 7, slot: 3 },
        command: Command::Ata,
        tag: Tag([1, 2, 3, 4]),
    };
    let flags = if write { AtaFlags::EXTENDED.union(AtaFlags::WRITE) } else { AtaFlags::EXTENDED };
    let lba = AtaArg::lba_registers(lba);
    let argument = AtaArg { flags, count, command_status: opcode, lba, error_feature: 0 };
    let mut frame = Vec::from(header.to_bytes());
    frame.extend_from_slice(&argument.to_bytes());
    let payload = if write { usize::from(count) * 512 } else { 0 };
    frame.resize((frame.len() + payload).max(60), fill);
    frame
}

type Driver<'a, 'p> = Blocking<'a, 'p, OverBase<Memory, Memory>, 4>;

/// What a host does with a frame.
fn answer(target: &mut Target, driver: &mut Driver<'_, '_>, frame: &[u8], out: &mut [u8]) -> usize {
    let link = LinkLimits::for_mtu(9000).unwrap();
    let request = Incoming::parse(frame, OWN).unwrap();
    match target.handle(&request, link) {
        Action::Read { range, reply } => {
            let lba = Lba::new(range.lba()).unwrap();
            driver.read(lba, &mut out[reply.data_range()]).unwrap();
            reply.emit_ok(out).unwrap()
        }
        Action::Write { range, data, reply, .. } => {
            driver.write(Lba::new(range.lba()).unwrap(), data).unwrap();
            reply.emit_ok(out).unwrap()
        }
        Action::Flush { reply } => {
            driver.flush().unwrap();
            reply.emit_ok(out).unwrap()
        }
        action => panic!("{action:?}"),
    }
}

fn overlay() -> (Memory, native::Writable) {
    let mut storage = Memory(Vec::new());
    let options = native::CreateOptions {
        layer_id: LayerId([1; 16]),
        sectors: SECTORS,
        parent: ParentIdentity::None,
        window: None,
        hint: b"",
        label: b"",
        created_s: 0,
        log: None,
        fresh: native::Fresh::Zeroed,
    };
    let mut page = Page::ZERO.clone();
    native::create(&mut storage, &options, &mut page).unwrap();
    let writable = native::open_writable(&mut storage, StorageKey(0), &mut page).unwrap();
    (storage, writable)
}

fn run(durability: Durability, pool_pages: usize) {
    let base_len = usize::try_from(SECTORS * 512).unwrap() - 100;
    let (storage, writable) = overlay();
    let mut storages = OverBase { overlay: storage, base: Memory(vec![7; base_len]) };
    let layers = [Layer::Raw(raw::Raw::new(StorageKey(1), base_len as u64).unwrap())];
    let mut engine = Engine::<4>::new(Some(Top::Native(writable)), SECTORS, durability).unwrap();
    let (mut pages, mut frames) = (vec![Page::ZERO; pool_pages], vec![Frame::EMPTY; pool_pages]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let mut driver = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut storages,
    };
    let address = Address::new(7, 3).unwrap();
    let mut target = Target::new(TargetConfig::new(address, SECTORS)).unwrap();
    let mut out = vec![0; 9014];
    let frames: Vec<_> = (0..200)
        .flat_map(|n| {
            // Every page, over page boundaries and over the base's odd end.
            let lba = (n * 977) % (SECTORS - 8);
            let fill = u8::try_from(n).unwrap();
            [
                frame(0x34, true, lba, 8, fill),       // WRITE SECTORS EXT
                frame(0x24, false, lba + 4, 4, 0),     // READ SECTORS EXT, what was written
                frame(0x24, false, SECTORS - 2, 2, 0), // and the tail
                frame(0xea, false, 0, 0, 0),           // FLUSH CACHE EXT
            ]
        })
        .collect();
    let before = allocations();
    let mut answered = 0;
    for frame in &frames {
        answered += answer(&mut target, &mut driver, frame, &mut out);
    }
    driver.discard(Extent::new(0, 5000).unwrap()).unwrap();
    driver.zero(Extent::new(100, 20_000).unwrap()).unwrap();
    assert_eq!(allocations() - before, 0, "{durability:?} with {pool_pages} pages");
    assert_eq!(answered, 200 * (60 + (36 + 4 * 512) + (36 + 2 * 512) + 60));
}

#[test]
fn a_request_allocates_nothing() {
    for durability in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        for pool_pages in [2, 16] {
            run(durability, pool_pages);
        }
    }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    let boxed = core::hint::black_box(Box::new(5));
    assert_eq!(allocations() - before, 1, "{boxed}");
}
