//! The real server loop in a simulated world: frames and time in, frames out, every operation in
//! the hands of the test.
//!
//! Frames are put together and taken apart by [`frames`](crate::frames), not by the codec of the
//! server.

mod edge;
mod log;
mod session;

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aoe_host::server::{DiskSpec, Durability, ExportSpec, Newcomers, Overlay, Server, identity_of};
use aoe_host::share::Share;
use aoe_proto::{Address, TargetConfig, TrimSupport};
use cow_core::engine::Failure;
use cow_core::fault::Dice;
use cow_core::format::Layer;

use crate::chain_model::PoolMemory;
use crate::frames::{BROADCAST, ERROR, HEADER, Header, Mac, RESPONSE, Registers, command, field};

pub use edge::{Creation, Held, SimEdge};
pub use log::LogPlan;
pub use session::{Outcome, Session, SessionPlan};

/// The server's address on its first link.
pub const SERVER: Mac = [0x02, 0, 0, 0, 0xff, 0];

/// The address of client `n`.
pub fn client(n: u8) -> Mac {
    [0x02, 0, 0, 0, 1, n]
}

/// An AoE address.
pub fn address(shelf: u16, slot: u8) -> Address {
    Address::new(shelf, slot).expect("no wildcard")
}

/// A disk of `sectors` whose overlay is called after it.
pub fn disk(at: Address, label: &str, sectors: u64, durability: Durability) -> DiskSpec {
    let mut target = TargetConfig::new(at, sectors);
    target.trim = TrimSupport::Zeroing;
    target.identity = identity_of(at, label);
    let overlay = Overlay::File(PathBuf::from(format!("{at}-{label}.cow")));
    DiskSpec { label: label.to_owned(), target, overlay, durability, limit: None, newcomer: None }
}

/// An export for everybody, of the disk `spec`.
pub fn export(spec: &DiskSpec, layer: Layer<'static>) -> ExportSpec {
    ExportSpec {
        address: spec.target.address,
        layers: Arc::new([layer]),
        sectors: spec.target.sectors,
        macs: Vec::new(),
        disk: spec.clone(),
        per_client: None,
    }
}

/// An export with a disk for each client, after the pattern of `spec`.
pub fn shared(spec: &DiskSpec, layer: Layer<'static>, newcomers: Newcomers) -> ExportSpec {
    ExportSpec { per_client: Some(newcomers), ..export(spec, layer) }
}

/// A frame that the server sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Through which link.
    pub link: usize,
    /// To whom.
    pub to: Mac,
    /// The whole frame.
    pub frame: Vec<u8>,
}

impl Answer {
    fn new(link: usize, frame: &[u8]) -> Self {
        assert!(frame.len() >= 60, "a frame of {} bytes was sent", frame.len());
        assert_eq!(field(frame, 12), Some(crate::raw_socket::AOE.to_be_bytes()), "its type");
        assert_eq!(frame[14] & !ERROR, 0x10 | RESPONSE, "version and flags of an answer");
        Self { link, to: field(frame, 0).expect("long enough"), frame: frame.to_vec() }
    }

    /// The tag.
    pub fn tag(&self) -> u32 {
        u32::from_be_bytes(field(&self.frame, 20).expect("long enough"))
    }

    /// Shelf and slot.
    pub fn address(&self) -> (u16, u8) {
        (u16::from_be_bytes([self.frame[16], self.frame[17]]), self.frame[18])
    }

    /// The AoE command.
    pub fn command(&self) -> u8 {
        self.frame[19]
    }

    /// Error code of AoE, if any.
    pub fn aoe_error(&self) -> Option<u8> {
        (self.frame[14] & ERROR != 0).then_some(self.frame[15])
    }

    /// Status and error registers of an answer to an ATA command.
    pub fn registers(&self) -> (u8, u8) {
        assert_eq!((self.command(), self.aoe_error()), (command::ATA, None), "an ATA answer");
        (self.frame[HEADER + 3], self.frame[HEADER + 1])
    }

    /// Residue of an ATA answer.
    pub fn residue(&self) -> u8 {
        self.frame[HEADER + 2]
    }

    /// Whether an ATA command succeeded.
    pub fn is_ok(&self) -> bool {
        self.aoe_error().is_none() && self.registers().0 & 0x21 == 0
    }

    /// The data of a read.
    pub fn data(&self) -> &[u8] {
        &self.frame[crate::frames::ATA..]
    }

    /// The config string of a config answer.
    pub fn config_string(&self) -> &[u8] {
        assert_eq!(self.command(), command::CONFIG, "a config answer");
        let len = u16::from_be_bytes([self.frame[HEADER + 6], self.frame[HEADER + 7]]);
        &self.frame[HEADER + 8..HEADER + 8 + usize::from(len)]
    }

    /// Sectors per command that a config answer offers.
    pub fn sectors_max(&self) -> u8 {
        assert_eq!(self.command(), command::CONFIG, "a config answer");
        self.frame[HEADER + 4]
    }
}

/// A server with its world.
#[derive(Debug)]
pub struct World {
    /// The server loop under test.
    pub server: Server<'static>,
    /// Everything it causes.
    pub edge: SimEdge,
    /// The clock.
    pub now: Duration,
    /// The seed's dice.
    pub dice: Dice,
    /// Answers that nobody has looked at.
    pub answers: Vec<Answer>,
    tags: u32,
}

impl World {
    /// A server with one link of MTU 1500 and a pool of `pages`.
    pub fn new(seed: u64, pages: usize) -> Self {
        Self::with(SimEdge::new(seed), seed, pages, &[])
    }

    /// A server in this world. Only `allow` are answered, if there are any.
    pub fn with(edge: SimEdge, seed: u64, pages: usize, allow: &[Mac]) -> Self {
        Self::sharing(edge, seed, pages, allow, Share::ALL)
    }

    /// As [`with`](Self::with), one worker of several.
    pub fn sharing(edge: SimEdge, seed: u64, pages: usize, allow: &[Mac], share: Share) -> Self {
        // A server borrows its pool, and a world lives for one test.
        let memory: &'static mut PoolMemory = Box::leak(Box::new(PoolMemory::new(pages)));
        let allow = allow.iter().map(|mac| aoe_proto::Mac(*mac)).collect();
        let mut server = Server::sharing(memory.pool(), allow, share);
        server.add_link(aoe_proto::Mac(SERVER), 1500);
        Self {
            server,
            edge,
            now: Duration::ZERO,
            dice: Dice::new(seed),
            answers: Vec::new(),
            tags: 0,
        }
    }

    /// The header of a request of `from`, with a tag of its own.
    pub fn header(&mut self, from: Mac, at: Address, command: u8) -> Header {
        self.tags += 1;
        Header {
            to: SERVER,
            from,
            version_flags: 0x10,
            shelf: at.shelf(),
            slot: at.slot(),
            command,
            tag: self.tags,
        }
    }

    /// Hands a frame to the server and lets it do what it can.
    pub fn deliver(&mut self, frame: &[u8]) {
        self.deliver_on(0, frame);
    }

    /// As [`deliver`](Self::deliver), on another link.
    pub fn deliver_on(&mut self, link: usize, frame: &[u8]) {
        self.server.receive(link, frame, &mut self.edge);
        self.pump();
    }

    /// Lets the server do what it can, and takes its answers.
    pub fn pump(&mut self) {
        loop {
            self.server.tick(self.now, &mut self.edge);
            let creates = self.edge.creation != Creation::Held && !self.edge.wanted.is_empty();
            let late = self.edge.plan.is_some_and(|plan| plan.late);
            let joins = !late && !self.edge.joining().is_empty();
            if creates {
                self.make_overlays();
            }
            if joins {
                self.answer_join();
            }
            if !creates && !joins {
                break;
            }
        }
        let answers = &mut self.answers;
        self.server.send(&mut |link, frames| {
            answers.extend(frames.map(|frame| Answer::new(link, frame.head)));
        });
    }

    /// Makes the overlays that were asked for, or fails to.
    pub fn make_overlays(&mut self) {
        for (number, spec) in core::mem::take(&mut self.edge.wanted) {
            let made = self.edge.creation != Creation::Fails;
            let opened = made.then(|| self.edge.open_overlay(number, &spec)).ok_or(Failure::Full);
            self.server.overlay_ready(number, opened, &mut self.edge);
        }
    }

    /// Has one disk get its commit log, or not, any of those that are about to. False if there is
    /// none.
    pub fn end_join(&mut self) -> bool {
        let any = self.answer_join();
        if any {
            self.pump();
        }
        any
    }

    fn answer_join(&mut self) -> bool {
        let count = self.edge.joining().len() as u64;
        if count == 0 {
            return false;
        }
        let at = usize::try_from(self.dice.below(count)).expect("small");
        let (disk, joined) = self.edge.end_join(at);
        self.server.log_joined(disk, joined);
        true
    }

    /// Ends one operation under way, any of them. False if there is none.
    pub fn end_one(&mut self) -> bool {
        let count = self.edge.held.len() as u64;
        if count == 0 {
            return false;
        }
        let at = usize::try_from(self.dice.below(count)).expect("small");
        let completion = self.edge.end(at);
        self.server.complete(&completion);
        self.pump();
        true
    }

    /// Lets everything end that is under way, and takes the answers.
    ///
    /// # Panics
    /// If that has no end.
    pub fn settle(&mut self) -> Vec<Answer> {
        self.pump();
        for _ in 0..100_000 {
            if !self.end_one() {
                return core::mem::take(&mut self.answers);
            }
        }
        panic!("operations without end: {:?}", self.edge.started);
    }

    /// Lets a second pass, and everything end.
    pub fn second(&mut self) -> Vec<Answer> {
        self.now += Duration::from_millis(1001);
        self.settle()
    }

    /// Sends one request and gives its answer, everything having ended. `None` if there is none.
    ///
    /// # Panics
    /// If there are two.
    pub fn ask(&mut self, from: Mac, at: Address, command: u8, argument: &[u8]) -> Option<Answer> {
        let header = self.header(from, at, command);
        self.server.receive(0, &header.with(argument), &mut self.edge);
        let mut answers = self.settle();
        answers.retain(|a| a.tag() == header.tag);
        assert!(answers.len() <= 1, "answered {} times", answers.len());
        let answer = answers.pop();
        if let Some(answer) = &answer {
            assert_eq!(answer.to, from, "the answer goes back");
            assert_eq!(answer.address(), (at.shelf(), at.slot()), "in the target's name");
        }
        answer
    }

    /// Asks with ATA registers and data.
    pub fn ata(
        &mut self,
        from: Mac,
        at: Address,
        registers: Registers,
        data: &[u8],
    ) -> Option<Answer> {
        self.ask(from, at, command::ATA, &registers.with(data))
    }

    /// Reads sectors.
    ///
    /// # Panics
    /// If that is not answered well.
    pub fn read(&mut self, from: Mac, at: Address, lba: u64, count: u8) -> Vec<u8> {
        self.try_read(from, at, lba, count).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Reads sectors.
    ///
    /// # Errors
    /// That was not answered, or not well.
    pub fn try_read(
        &mut self,
        from: Mac,
        at: Address,
        lba: u64,
        count: u8,
    ) -> Result<Vec<u8>, String> {
        let answer = self.ata(from, at, Registers::read(lba, count), &[]).ok_or("no answer")?;
        if !answer.is_ok() {
            return Err(format!("read of {lba}+{count}: {:x?}", answer.registers()));
        }
        assert_eq!(answer.data().len(), usize::from(count) * 512, "data of the read");
        Ok(answer.data().to_vec())
    }

    /// Writes sectors.
    ///
    /// # Panics
    /// If that is not answered well.
    pub fn write(&mut self, from: Mac, at: Address, lba: u64, data: &[u8]) {
        let count = u8::try_from(data.len() / 512).expect("a short write");
        let answer = self.ata(from, at, Registers::write(lba, count), data);
        let answer = answer.expect("a write is answered");
        assert!(answer.is_ok(), "write of {lba}+{count}: {:x?}", answer.registers());
    }

    /// The config answer.
    pub fn config(&mut self, from: Mac, at: Address) -> Option<Answer> {
        self.ask(from, at, command::CONFIG, &crate::frames::config(0, 0, &[]))
    }

    /// Asks everybody about every disk; the answers by address.
    pub fn discover(&mut self, from: Mac) -> BTreeMap<(u16, u8), usize> {
        let header = self.header(from, address(0, 0), command::CONFIG);
        let header = Header { to: BROADCAST, shelf: 0xffff, slot: 0xff, ..header };
        let frame = header.with(&crate::frames::config(0, 0, &[]));
        self.server.receive(0, &frame, &mut self.edge);
        let mut found = BTreeMap::new();
        for answer in self.settle().iter().filter(|a| a.tag() == header.tag) {
            assert_eq!(answer.to, from, "the answer goes back");
            *found.entry(answer.address()).or_default() += 1;
        }
        found
    }

    /// Commits everything and lets it end.
    ///
    /// # Panics
    /// If the server does not come to rest.
    pub fn drain(&mut self) {
        for _ in 0..100 {
            self.server.commit_all();
            self.settle();
            if self.server.is_drained() {
                return;
            }
        }
        panic!("the server does not come to rest");
    }
}

/// `sectors` sectors that say who wrote them.
pub fn painted(who: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * 512).map(|at| who ^ u8::try_from(at / 512 % 251).expect("small")).collect()
}
