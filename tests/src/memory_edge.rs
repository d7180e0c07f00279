//! The shortest way around the server loop: every storage is memory, every operation ends at once,
//! and is only counted. What is measured over it is the loop's own.

use aoe_host::server::io::{IoDriver, Job, Memory, Run, Started};
use aoe_host::server::{DiskSpec, Durability, Edge, LeftOverlay, LogUse, Opened, Report, Server};
use aoe_proto::{Address, Mac, TargetState};
use cow_core::blocking::{part, part_mut};
use cow_core::engine::{Buffer, IoFailure, Kind, Note, Operation, Weave};
use cow_core::fault::Machine;
use cow_core::format::{Layer, Top, native, raw};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Page, StorageKey};
use cow_core::storage::ReadStorage;

use crate::chain_model::{Disk, Format, PoolMemory};
use crate::frames::Header;
use crate::server_sim::{SERVER, address, client, disk, export};

/// What storages were asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Reads.
    pub reads: u64,
    /// Writes of the data of requests.
    pub data_writes: u64,
    /// Bytes of these.
    pub data_bytes: u64,
    /// Calls that they took: those that follow each other take one.
    pub data_calls: u64,
    /// Writes of metadata.
    pub page_writes: u64,
    /// Bytes of these.
    pub page_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Notes, and how often some were kept.
    pub notes: u64,
    /// See `notes`.
    pub note_calls: u64,
    /// Everything else.
    pub others: u64,
}

impl Traffic {
    fn count(&mut self, operation: &Operation) {
        match (operation.kind, operation.buffer) {
            (Kind::Read, _) => self.reads += 1,
            (Kind::Write, Buffer::Request { .. }) => {
                self.data_writes += 1;
                self.data_calls += 1;
                self.data_bytes += operation.len;
            }
            (Kind::Write, _) => {
                self.page_writes += 1;
                self.page_bytes += operation.len;
            }
            (Kind::Sync, _) => self.syncs += 1,
            _ => self.others += 1,
        }
    }
}

/// A world of memory.
#[derive(Debug, Default)]
pub struct MemoryEdge {
    storages: Vec<Vec<u8>>,
    wanted: Vec<(u32, u64)>,
    traffic: Traffic,
}

impl MemoryEdge {
    /// A storage of zeros; memory that nobody touches is not used.
    fn add(&mut self, len: u64) -> StorageKey {
        self.storages.push(vec![0; usize::try_from(len).expect("fits into memory")]);
        StorageKey(u32::try_from(self.storages.len() - 1).expect("few storages"))
    }

    /// A native overlay that was just made.
    fn overlay(&mut self, sectors: u64) -> Opened {
        let len = Disk::top_len(Format::Native, sectors);
        let mut storage = Machine::new().add_medium(len, len, 0);
        let options = native::CreateOptions {
            layer_id: LayerId([7; 16]),
            sectors,
            parent: ParentIdentity::None,
            window: None,
            hint: b"",
            label: b"in memory",
            created_s: 0,
            log: None,
            fresh: native::Fresh::Zeroed,
        };
        let page = &mut Page::ZERO.clone();
        native::create(&mut storage, &options, page).expect("create");
        let key = self.add(len);
        let top = native::open_writable(&mut storage, key, page).expect("open");
        // What was written so far is at the front: headers and the first pages.
        let memory = &mut self.storages[key.0 as usize];
        let front = memory.len().min(1 << 16);
        storage.read_at(0, &mut memory[..front]).expect("read back");
        Opened {
            top: Top::Native(top),
            index: Vec::new(),
            used: 0,
            log: LogUse::None,
            noted: false,
            notes: Vec::new(),
        }
    }
}

impl IoDriver for MemoryEdge {
    fn start_weave(&mut self, _job: Job, weave: &Weave, buf: &mut [u8]) -> Started {
        self.traffic.reads += 2;
        for run in weave.runs() {
            let strand = weave.strands[usize::from(run.is_second)];
            let (lead, len) = (u64::from(run.first) * 512, u64::from(run.sectors) * 512);
            let storage = &self.storages[strand.storage.0 as usize];
            let at = usize::try_from(strand.offset + lead).expect("inside the storage");
            let from = part(&storage[at..], 0, len).expect("inside the storage");
            let at = run.first * 512;
            part_mut(buf, at, len).expect("inside the buffer").copy_from_slice(from);
        }
        Some(Ok(()))
    }

    fn start(
        &mut self,
        _job: Job,
        operation: &Operation,
        memory: Memory<'_>,
    ) -> Option<Result<(), IoFailure>> {
        self.traffic.count(operation);
        let Some(storage) = self.storages.get_mut(operation.storage.0 as usize) else {
            return Some(Err(IoFailure::Medium));
        };
        let at = usize::try_from(operation.offset).expect("inside the storage");
        let done = match (operation.kind, memory) {
            (Kind::Read, Memory::Into(buf)) => {
                part(&storage[at..], 0, operation.len).map(|bytes| buf.copy_from_slice(bytes))
            }
            (Kind::Write, Memory::From(data)) => part_mut(&mut storage[at..], 0, operation.len)
                .map(|bytes| bytes.copy_from_slice(data)),
            (Kind::Zero, _) => {
                part_mut(&mut storage[at..], 0, operation.len).map(|bytes| bytes.fill(0))
            }
            _ => Some(()),
        };
        Some(done.ok_or(IoFailure::Medium))
    }

    fn start_run(&mut self, run: &Run<'_>, started: &mut [Started]) {
        let calls = self.traffic.data_calls + 1;
        let pieces = run.operations.iter().zip(run.data).zip(run.jobs());
        for (((operation, data), job), started) in pieces.zip(started) {
            *started = self.start(job, operation, Memory::From(data));
        }
        self.traffic.data_calls = calls;
    }
}

impl Edge for MemoryEdge {
    fn create_overlay(&mut self, disk: u32, spec: &DiskSpec) {
        self.wanted.push((disk, spec.target.sectors));
    }
    fn newcomer(&mut self, template: &DiskSpec, _address: Address, _mac: Mac) -> DiskSpec {
        template.clone()
    }
    fn left_overlay(&mut self, _disk: u32, _spec: &DiskSpec) -> LeftOverlay {
        LeftOverlay::None
    }
    fn note(&mut self, _disk: u32, notes: &[Note]) -> Result<(), IoFailure> {
        self.traffic.notes += notes.len() as u64;
        self.traffic.note_calls += 1;
        Ok(())
    }
    fn join_log(&mut self, disk: u32) {
        panic!("the overlay of disk {disk} was opened without a log");
    }
    fn notes_sealed(&mut self, _disk: u32) {}
    fn notes_durable(&mut self, _disk: u32) {}
    fn persist(&mut self, _disk: u32, _spec: &DiskSpec, _state: &TargetState) {}
    fn report(&mut self, report: Report<'_>) {
        panic!("{report:?}");
    }
}

/// A server over memory, with a disk of its own for each address from 0.0 on.
#[derive(Debug)]
pub struct MemoryServer {
    server: Server<'static>,
    edge: MemoryEdge,
    now: core::time::Duration,
    sent: (usize, u64),
}

impl MemoryServer {
    /// Sectors of each disk: as many as one page of metadata describes.
    pub const SECTORS: u64 = 16_128;

    /// A server with so many disks on a link of MTU 9000.
    pub fn new(disks: u8, durability: Durability) -> Self {
        let memory: &'static mut PoolMemory = Box::leak(Box::new(PoolMemory::new(1024)));
        let mut server = Server::new(memory.pool(), Vec::new());
        let mut edge = MemoryEdge::default();
        server.add_link(Mac(SERVER), 9000);
        let key = edge.add(Self::SECTORS * 512);
        let layer = Layer::Raw(raw::Raw::new(key, Self::SECTORS * 512).expect("a base"));
        for slot in 0..disks {
            let spec = disk(address(0, slot), &format!("{slot}"), Self::SECTORS, durability);
            let number = server.add_export(export(&spec, layer)).expect("an export");
            let opened = edge.overlay(Self::SECTORS);
            assert!(server.open_overlay(number.expect("a disk"), opened, &mut edge), "it fits");
        }
        Self { server, edge, now: core::time::Duration::ZERO, sent: (0, 0) }
    }

    /// What the storages were asked for since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        core::mem::take(&mut self.edge.traffic)
    }

    /// A request for disk `slot`.
    pub fn frame(slot: u8, command: u8, argument: &[u8]) -> Vec<u8> {
        let header = Header {
            to: SERVER,
            from: client(1),
            version_flags: 0x10,
            shelf: 0,
            slot,
            command,
            tag: 0x1234_5678,
        };
        let mut frame = header.with(argument);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Takes a batch of frames, does what is to be done, sends the answers; how many frames and
    /// bytes were sent.
    pub fn turn(&mut self, frames: &[Vec<u8>]) -> (usize, u64) {
        for frame in frames {
            self.server.receive(0, frame, &mut self.edge);
        }
        self.now += core::time::Duration::from_micros(10);
        self.server.tick(self.now, &mut self.edge);
        let sent = &mut self.sent;
        *sent = (0, 0);
        self.server.send(&mut |_, frames| {
            for frame in frames.map(|frame| frame.head) {
                // Status of an answer to a read or write: ready, no error.
                assert!(frame[19] != 0 || frame[27] == 0x40, "a request failed");
                *sent = (sent.0 + 1, sent.1 + frame.len() as u64);
            }
        });
        *sent
    }
}
