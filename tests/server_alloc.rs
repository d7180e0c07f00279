//! No heap allocation per request on the way through the whole server loop, once it is warm.
//!
//! A counting allocator watches the thread of the loop: first the loop alone over memory, then the
//! real server over real files and a link that hands out frames. Only what is done by time and not
//! by request (looking at images and interfaces) may allocate, so the best of many rounds counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::alloc::System;
use std::borrow::Cow;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Instant;

use aoe_host::config::{
    Durability as HostedDurability, Export, Freeze, Layer, LinkKind, NewClients, ServeConfig, Top,
    Window, Workers,
};
use aoe_host::link::{Link, LinkCounters, LinkEvent, SendReport};
use aoe_host::serve::Running;
use aoe_host::server::Durability;
use aoe_host::storage::PoolMemory;
use aoe_host::values::Mac;
use system_tests::frames::{Registers, command, config};
use system_tests::memory_edge::MemoryServer;
use system_tests::server_sim::{SERVER, address, painted};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Longest wait for answers: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);
/// What is allocated for requests is allocated in every round.
const ROUNDS_MAX: usize = 1000;

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

/// Requests of a kind, 16 of them: a batch as the real server takes it.
fn batch(kind: &str) -> Vec<Vec<u8>> {
    let request = |n: u64| {
        let data = painted(u8::try_from(n).unwrap(), 16);
        let (command, argument) = match kind {
            "read" => (command::ATA, Registers::read(16 * n, 16).with(&[])),
            "write" => (command::ATA, Registers::write(16 * n, 16).with(&data)),
            _ => (command::CONFIG, config(0, 0, &[])),
        };
        MemoryServer::frame(0, command, &argument)
    };
    (0..16).map(request).collect()
}

#[test]
fn the_loop_does_not_allocate() {
    for durability in [Durability::Safe, Durability::Writeback, Durability::Ephemeral] {
        let mut server = MemoryServer::new(4, durability);
        for kind in ["write", "read", "config"] {
            let frames = batch(kind);
            // The first writes make sectors present; buffers and lists grow to their size.
            for _ in 0..10 {
                assert_eq!(server.turn(&frames).0, 16);
            }
            let before = allocations();
            for _ in 0..100 {
                assert_eq!(server.turn(&frames).0, 16);
            }
            assert_eq!(allocations() - before, 0, "1,600 requests: {kind}, {durability:?}");
        }
    }
    // The counter counts.
    let before = allocations();
    drop(core::hint::black_box(vec![1]));
    assert_eq!(allocations() - before, 1);
}

/// A link that hands out the same frames again and again, each time under a new tag.
struct Replay {
    frames: Rc<RefCell<Vec<Vec<u8>>>>,
    left: Rc<Cell<usize>>,
    sent: Rc<Cell<usize>>,
}

impl Link for Replay {
    fn name(&self) -> &'static str {
        "replay"
    }
    fn implementation(&self) -> Cow<'_, str> {
        "replay".into()
    }
    fn mac(&self) -> Mac {
        Mac(SERVER)
    }
    fn mtu(&self) -> usize {
        9000
    }
    fn is_up(&self) -> bool {
        true
    }
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut frames = self.frames.borrow_mut();
        let count = self.left.get().min(limit).min(frames.len());
        for frame in frames.iter_mut().take(count) {
            let tag = &mut frame[20..24];
            let next = u32::from_be_bytes(tag.try_into().unwrap()).wrapping_add(1);
            tag.copy_from_slice(&next.to_be_bytes());
            sink(frame);
        }
        frames.rotate_left(count);
        self.left.set(self.left.get() - count);
        count
    }
    fn send(&mut self, frames: &mut dyn Iterator<Item = &[u8]>) -> SendReport {
        let ok = |frame: &&[u8]| frame[19] != 0 || frame[27] == 0x40;
        self.sent.set(self.sent.get() + frames.filter(ok).count());
        SendReport::default()
    }
    fn poll_event(&mut self, _now: Duration) -> Option<LinkEvent> {
        None
    }
    fn counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}

fn configuration(dir: &std::path::Path, durability: HostedDurability) -> ServeConfig {
    let golden = dir.join("golden.img");
    std::fs::write(&golden, painted(1, 8192)).unwrap();
    let layer = Layer::File { path: golden, window: Window::default() };
    ServeConfig {
        interfaces: vec!["replay".to_owned()],
        exports: vec![Export {
            address: address(0, 0),
            top: Top::Own,
            backing: vec![layer],
            name: None,
            macs: Vec::new(),
            durability,
            limit: None,
        }],
        clients: Vec::new(),
        new_clients: NewClients::Refuse,
        overlays: Some(dir.join("overlays")),
        allow: Vec::new(),
        buffer_count: 16,
        low_space: None,
        direct: false,
        preallocate: false,
        commit_log: true,
        control: None,
        freeze: Freeze::default(),
        follow: Vec::new(),
        link: LinkKind::Auto,
        workers: Workers::ONE,
        warnings: Vec::new(),
    }
}

#[test]
fn the_real_server_does_not_allocate() {
    for (durability, kinds) in [
        // A safe write waits for a sync, which is work for a thread and allocates its errand.
        (HostedDurability::Safe, &["read", "config"][..]),
        (HostedDurability::Writeback, &["write", "read", "config"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = configuration(dir.path(), durability);
        let mut memory = PoolMemory::new(64);
        let (left, sent) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let frames = Rc::new(RefCell::new(batch("write")));
        let link =
            Replay { frames: Rc::clone(&frames), left: Rc::clone(&left), sent: Rc::clone(&sent) };
        let pool = memory.pool().unwrap();
        let mut running = Running::start(&config, vec![Box::new(link)], pool, true).unwrap();
        let mut round = |kind: &str| {
            frames.replace(batch(kind));
            sent.set(0);
            left.set(160);
            let (before, deadline) = (allocations(), Instant::now() + PATIENCE);
            while Instant::now() < deadline {
                running.step();
                if sent.get() == 160 {
                    return allocations() - before;
                }
                if left.get() == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            panic!("{} of 160 answers: {kind}", sent.get());
        };
        round("write");
        for kind in kinds {
            // The slower the machine, the fewer rounds have nothing in them that is done by time.
            let mut rounds = (0..ROUNDS_MAX).map(|_| round(kind));
            assert!(rounds.any(|count| count == 0), "160 requests: {kind}, {durability:?}");
        }
        running.stop_soon();
        while !running.round(None) {}
        running.stop().unwrap();
    }
}
