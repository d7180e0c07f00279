//! Random sessions of several clients against the server loop, and what their disks must read as.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use aoe_host::server::{DiskSpec, Durability, ExportSpec, Newcomers, WRITEBACK_INTERVAL};
use aoe_proto::Address;
use cow_core::fault::{FaultyStorage, Tear};
use cow_core::format::Layer;
use cow_core::units::Extent;

use super::{Answer, Creation, LogPlan, SERVER, SimEdge, World, address, client, disk};
use crate::chain_model::Spots;
use crate::frames::{Mac, Registers, command, config};
use crate::sector_model::{Content, Model, Promise, SECTOR};

/// How a session is to be.
#[derive(Clone, Copy, Debug)]
pub struct SessionPlan {
    /// Clients, each with a disk of its own.
    pub clients: u8,
    /// All behind one address, told apart by MAC.
    pub shared: bool,
    /// Size of a disk.
    pub sectors: u64,
    /// Pages of the pool that they share.
    pub pages: usize,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// Requests in all.
    pub requests: usize,
    /// Most requests under way of one client.
    pub window: usize,
    /// How many of 100 operations end at once.
    pub inline: u64,
    /// MTU of the link.
    pub mtu: usize,
    /// Overlays are made at the first write, and that takes time.
    pub slow_creation: bool,
    /// Notes and records of the commit log are reported as kept and are not.
    pub drops_notes: bool,
    /// The commit log that there is in [`Durability::Logged`] mode. Overlays that are not made at the
    /// first write were left without by an earlier server.
    pub log: Option<LogPlan>,
}

impl SessionPlan {
    /// A session of three clients behind one address.
    pub fn new(durability: Durability) -> Self {
        Self {
            clients: 3,
            shared: true,
            sectors: 40_000,
            pages: 16,
            durability,
            requests: 150,
            window: 16,
            inline: 50,
            mtu: 9000,
            slow_creation: false,
            drops_notes: false,
            log: None,
        }
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The power fails: what was promised to be durable is there.
    PowerCut(Tear),
    /// The process is killed: what was acknowledged is there, as far as notes are kept.
    Kill(Tear),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Read,
    Write { durable: bool },
    Discard,
    Flush,
    Other,
}

#[derive(Debug)]
struct Pending {
    client: usize,
    kind: Kind,
    parts: Vec<(Extent, Vec<Content>)>,
    /// Of a read: what was asked for before it, by [`Model::order`].
    order: u64,
    submitted: usize,
}

#[derive(Clone, Debug)]
struct Client {
    mac: Mac,
    address: Address,
    /// Of its disk.
    number: u32,
    model: Model,
    spots: Spots,
    under_way: usize,
}

impl Client {
    /// New contents for so many sectors, and their bytes.
    fn paint(&mut self, sectors: usize) -> (Vec<Content>, Vec<u8>) {
        let mut data = vec![0; sectors * SECTOR];
        let paint = |sector: &mut [u8]| {
            let content = Content::Paint(self.model.next_paint());
            sector.copy_from_slice(&self.model.bytes(content));
            content
        };
        (data.chunks_mut(SECTOR).map(paint).collect(), data)
    }
}

/// A session under way.
#[derive(Debug)]
pub struct Session {
    /// The server and its world.
    pub world: World,
    plan: SessionPlan,
    seed: u64,
    layer: Layer<'static>,
    clients: Vec<Client>,
    pending: HashMap<u32, Pending>,
    left: usize,
    /// Reads of disks that were answered while they were about to get their commit log.
    pub reads_amid_joins: usize,
}

impl Session {
    /// A server with clients that have done nothing yet.
    pub fn new(seed: u64, plan: SessionPlan) -> Self {
        let mut edge = SimEdge::new(seed);
        edge.inline = plan.inline;
        edge.drops_notes = plan.drops_notes;
        edge.plan = plan.log;
        // An odd tail: not every image ends with a whole sector.
        let (base, layer) = edge.add_base(plan.sectors * 512 - 100, seed);
        if plan.slow_creation {
            edge.creation = Creation::Held;
        }
        let mut world = World::with(edge, seed, plan.pages, &[]);
        world.server.link_changed(0, aoe_proto::Mac(SERVER), plan.mtu);
        let clients = (0..plan.clients).map(|n| Self::client(n, plan, &base, &mut world)).collect();
        let left = plan.requests;
        let (pending, reads_amid_joins) = (HashMap::new(), 0);
        let mut session =
            Self { world, plan, seed, layer, clients, pending, left, reads_amid_joins };
        session.add_disks();
        session
    }

    fn client(n: u8, plan: SessionPlan, base: &FaultyStorage, world: &mut World) -> Client {
        Client {
            mac: client(n),
            address: if plan.shared { address(1, 0) } else { address(1, n) },
            number: 0,
            model: Model::new(plan.sectors, Some(base.clone())),
            spots: Spots::new(plan.sectors, &mut world.dice),
            under_way: 0,
        }
    }

    fn spec(&self, client: &Client) -> DiskSpec {
        let label = format!("{:02x?}", client.mac);
        disk(client.address, &label, self.plan.sectors, self.plan.durability)
    }

    /// Enters exports and clients, and opens the overlays that exist.
    fn add_disks(&mut self) {
        for (at, client) in self.clients.clone().into_iter().enumerate() {
            let spec = self.spec(&client);
            let export = ExportSpec {
                address: client.address,
                layers: Arc::new([self.layer]),
                sectors: self.plan.sectors,
                macs: Vec::new(),
                disk: spec.clone(),
                per_client: self.plan.shared.then_some(Newcomers::Refuse),
            };
            let (server, edge) = (&mut self.world.server, &mut self.world.edge);
            let number = match server.add_export(export) {
                Ok(Some(number)) => number,
                _ => server
                    .add_client(client.address, &[aoe_proto::Mac(client.mac)], spec.clone())
                    .expect("a client"),
            };
            self.clients[at].number = number;
            if !edge.has_file(&spec) && !self.plan.slow_creation && self.plan.log.is_some() {
                edge.leave_overlay(&spec);
            }
            if edge.has_file(&spec) || !self.plan.slow_creation {
                let opened = edge.open_overlay(number, &spec);
                assert!(server.open_overlay(number, opened, edge), "the overlay fits");
            }
        }
    }

    fn message(&self, what: &str) -> String {
        format!("seed {}, {:?}: {what}", self.seed, self.plan)
    }

    /// Runs `steps` random steps, or until all requests are answered if there are none.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn run(&mut self, steps: Option<usize>) -> Result<(), String> {
        let bound = 100_000 + 1000 * self.plan.requests;
        for _ in 0..steps.unwrap_or(bound) {
            self.step().map_err(|e| self.message(&e))?;
            let edge = &self.world.edge;
            let at_rest = edge.held.is_empty() && edge.joining().is_empty();
            if self.left == 0 && self.pending.is_empty() && at_rest {
                return Ok(());
            }
        }
        if steps.is_some() {
            return Ok(());
        }
        let held = self.world.edge.held.len();
        let what = format!("{} not answered, {held} operations under way", self.pending.len());
        Err(self.message(&what))
    }

    fn step(&mut self) -> Result<(), String> {
        match self.world.dice.below(100) {
            0..40 if self.left > 0 => self.submit(),
            40..85 => drop(self.world.end_one()),
            85..90 if !self.world.edge.wanted.is_empty() => {
                self.world.make_overlays();
                self.world.pump();
            }
            85..88 if self.world.end_join() => {}
            _ => {
                // Long enough for several commits by the clock.
                let most = WRITEBACK_INTERVAL.as_secs() * 400;
                self.world.now += Duration::from_millis(self.world.dice.below(most));
                self.world.pump();
            }
        }
        self.take_answers()
    }

    fn take_answers(&mut self) -> Result<(), String> {
        for answer in core::mem::take(&mut self.world.answers) {
            self.answered(&answer)?;
        }
        Ok(())
    }

    fn pick(&mut self) -> usize {
        usize::try_from(self.world.dice.below(self.clients.len() as u64)).expect("few")
    }

    /// Has a client ask something, if it may.
    fn submit(&mut self) {
        let at = self.pick();
        if self.clients[at].under_way >= self.plan.window {
            return;
        }
        let mut pending = Pending {
            client: at,
            kind: Kind::Other,
            parts: Vec::new(),
            order: 0,
            submitted: self.world.edge.machine.events(),
        };
        let Some((registers, data)) = self.compose(at, &mut pending) else {
            self.deliver(at, command::CONFIG, &config(0, 0, &[]), pending);
            return;
        };
        for (extent, contents) in pending.parts.iter().filter(|_| pending.kind != Kind::Read) {
            self.clients[at].model.submit(*extent, pending.submitted, false, contents);
        }
        self.deliver(at, command::ATA, &registers.with(&data), pending);
        if self.world.dice.chance(5) {
            self.retransmit(at, &registers, &data);
        }
    }

    /// A random ATA request; `None` for a config query.
    fn compose(&mut self, at: usize, pending: &mut Pending) -> Option<(Registers, Vec<u8>)> {
        let most = if self.plan.mtu >= 9000 { 16 } else { 2 };
        let sectors = self.plan.sectors;
        let client = &mut self.clients[at];
        let dice = &mut self.world.dice;
        let extent = client.spots.extent(sectors, most, dice).take(most);
        let count = u8::try_from(extent.sectors()).expect("short");
        let lba = extent.start().get();
        let no_data = Vec::new();
        Some(match dice.below(100) {
            0..35 => {
                pending.kind = Kind::Read;
                pending.order = client.model.order();
                pending.parts.push((extent, Vec::new()));
                (Registers::read(lba, count), no_data)
            }
            35..75 => {
                let durable = dice.chance(20);
                pending.kind = Kind::Write { durable };
                let (contents, data) = client.paint(usize::from(count));
                pending.parts.push((extent, contents));
                let operation = if durable { 0x3d } else { 0x34 };
                (Registers { operation, ..Registers::write(lba, count) }, data)
            }
            75..83 => {
                pending.kind = Kind::Discard;
                let mut data = vec![0; SECTOR];
                let ranges = 1 + usize::try_from(dice.below(5)).expect("few");
                for entry in data.chunks_mut(8).take(ranges) {
                    let extent = client.spots.extent(sectors, 60, dice);
                    let word = extent.start().get() | (extent.sectors() << 48);
                    entry.copy_from_slice(&word.to_le_bytes());
                    let zeros = usize::try_from(extent.sectors()).expect("short");
                    pending.parts.push((extent, vec![Content::Zero; zeros]));
                }
                (Registers { flags: 0x41, features: 1, count: 1, operation: 6, lba: 0 }, data)
            }
            83..90 => {
                pending.kind = Kind::Flush;
                (Registers { flags: 0x40, operation: 0xea, ..Registers::default() }, no_data)
            }
            90..94 => {
                let count = u8::try_from((sectors - lba).min(255)).expect("short");
                (Registers { operation: 0x42, ..Registers::read(lba, count) }, no_data)
            }
            94..97 => (Registers { operation: 0xec, count: 1, ..Registers::default() }, no_data),
            _ => return None,
        })
    }

    /// The same request again under a new tag, before anything else that the client asks: both are
    /// answered, and both have the same effect.
    fn retransmit(&mut self, at: usize, registers: &Registers, data: &[u8]) {
        let submitted = self.world.edge.machine.events();
        let pending =
            Pending { client: at, kind: Kind::Other, parts: Vec::new(), order: 0, submitted };
        self.deliver(at, command::ATA, &registers.with(data), pending);
    }

    fn deliver(&mut self, at: usize, command: u8, argument: &[u8], pending: Pending) {
        let client = &mut self.clients[at];
        let header = self.world.header(client.mac, client.address, command);
        client.under_way += 1;
        self.left = self.left.saturating_sub(1);
        self.pending.insert(header.tag, pending);
        self.world.deliver(&header.with(argument));
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        let now = self.world.edge.machine.events();
        let Some(pending) = self.pending.remove(&answer.tag()) else {
            return Err(format!("tag {} was not asked, or answered twice", answer.tag()));
        };
        let client = &mut self.clients[pending.client];
        client.under_way -= 1;
        if answer.to != client.mac {
            return Err(format!("{:?} of {:x?} answered to another", pending.kind, client.mac));
        }
        if answer.command() != command::ATA {
            return Ok(());
        }
        let edge = &self.world.edge;
        let well = answer.is_ok();
        if !well && (pending.kind == Kind::Read || !edge.may_fail(client.number)) {
            return Err(format!("{:?} failed: {:x?}", pending.kind, answer.registers()));
        }
        let changed = matches!(pending.kind, Kind::Write { .. } | Kind::Discard) && well;
        if changed && edge.is_refused(client.number) {
            return Err(format!("disk {} was changed, and has no log", client.number));
        }
        if changed && edge.joining().contains(&client.number) {
            return Err(format!("disk {} was changed while it gets its log", client.number));
        }
        match pending.kind {
            Kind::Read => {
                let amid = edge.joining().contains(&client.number);
                self.reads_amid_joins += usize::from(amid);
                let (extent, _) = pending.parts[0];
                let sectors = answer.data().chunks(SECTOR);
                for (lba, bytes) in (extent.start().get()..).zip(sectors) {
                    let allowed = if edge.may_fail(client.number) {
                        client.model.expected_amid_failures(lba, pending.order)
                    } else {
                        client.model.expected_at(lba, pending.order)
                    };
                    client
                        .model
                        .judge(lba, bytes, &allowed, false)
                        .map_err(|e| format!("client {}: {e}", pending.client))?;
                }
            }
            Kind::Write { .. } | Kind::Discard => {
                let durable =
                    is_safe(self.plan.durability) || pending.kind == Kind::Write { durable: true };
                for (extent, contents) in &pending.parts {
                    let outcome = (well, durable);
                    client.model.acknowledge(*extent, contents, pending.submitted, now, outcome);
                }
            }
            Kind::Flush if well => client.model.flushed(pending.submitted, now),
            Kind::Flush | Kind::Other => {}
        }
        Ok(())
    }

    /// Reads back every sector that was written, each through the server.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn verify(&mut self) -> Result<(), String> {
        self.world.drain();
        for at in 0..self.clients.len() {
            let Client { mac, address, ref model, .. } = self.clients[at];
            let touched: Vec<u64> = model.touched().collect();
            for lba in touched {
                let bytes = self.world.read(mac, address, lba, 1);
                let model = &self.clients[at].model;
                let allowed = model.expected(lba);
                model
                    .judge(lba, &bytes, &allowed, false)
                    .map_err(|e| self.message(&format!("client {at}: {e}")))?;
            }
        }
        self.world.edge.check().map_err(|e| self.message(&e))
    }

    /// Ends the process now, starts another, and reads back what its disks hold.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn restart(&mut self, outcome: Outcome, seed: u64) -> Result<(), String> {
        self.next_life(outcome, seed).map(drop)
    }

    /// As [`restart`](Self::restart), and gives the session of the new process, with as many
    /// requests to come as this one had; nothing may be [torn](Tear::Anywhere) for that.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub fn next_life(&mut self, outcome: Outcome, seed: u64) -> Result<Self, String> {
        let edge = &mut self.world.edge;
        let cut = edge.machine.events();
        let now = edge.amid_joins();
        let (machine, power, tear) = match outcome {
            Outcome::PowerCut(tear) => (now.power_cut(tear, seed), true, tear),
            Outcome::Kill(tear) => (now.kill(tear, seed), false, tear),
        };
        let promise = match (self.plan.durability, power) {
            (Durability::Writeback, false) => Promise::Acknowledged,
            (durability, _) if is_safe(durability) => Promise::Acknowledged,
            _ => Promise::Durable,
        };
        let edge = edge.next_process(&machine, cut, power);
        let mut next = Self {
            world: World::with(edge, seed, self.plan.pages, &[]),
            plan: self.plan,
            seed: self.seed,
            layer: self.layer,
            clients: self.clients.clone(),
            pending: HashMap::new(),
            left: self.plan.requests,
            reads_amid_joins: 0,
        };
        next.world.server.link_changed(0, aoe_proto::Mac(SERVER), self.plan.mtu);
        next.add_disks();
        let mixed = tear == Tear::Anywhere;
        for (at, client) in self.clients.iter().enumerate() {
            next.clients[at].under_way = 0;
            for lba in client.model.touched() {
                let allowed = client.model.survivors(lba, cut, promise);
                let read = next.world.try_read(client.mac, client.address, lba, 1);
                let judged = read.and_then(|bytes| {
                    client.model.judge(lba, &bytes, &allowed, mixed).map(|()| bytes)
                });
                let bytes = judged.map_err(|e| {
                    self.message(&format!("{outcome:?} seed {seed}: client {at}: {e}"))
                })?;
                if !mixed {
                    next.clients[at].model.begin_anew(lba, &bytes, &allowed);
                }
            }
        }
        next.world.drain();
        let checked = next.world.edge.check();
        checked.map_err(|e| self.message(&format!("{outcome:?} {seed}: {e}")))?;
        next.world.edge.inline = self.plan.inline;
        if self.plan.slow_creation {
            next.world.edge.creation = Creation::Held;
        }
        Ok(next)
    }

    /// Stops the server as at an orderly end, whatever is under way: everything that was asked for
    /// is answered, and every overlay that takes changes is closed.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn stop(&mut self) -> Result<(), String> {
        self.left = 0;
        self.come_to_rest().map_err(|e| self.message(&format!("stop: {e}")))?;
        for client in &self.clients {
            let edge = &mut self.world.edge;
            let read_only = format!("ReadOnly {{ disk: {:?}", format!("{:02x?}", client.mac));
            let told = edge.reports.iter().filter(|r| r.starts_with(&read_only)).count();
            if told > 1 || edge.is_refused(client.number) != (told == 1) && !edge.is_log_broken() {
                let what = format!("disk {}: {told} reports that it is read-only", client.number);
                return Err(self.message(&what));
            }
            let Some((_, top)) = self.world.server.remove_disk(client.number) else {
                let what = format!("disk {} cannot be removed", client.number);
                return Err(self.message(&what));
            };
            if let Some(top) = top.filter(|_| told == 0) {
                edge.close_overlay(client.number, &top);
            }
        }
        Ok(())
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        for _ in 0..100_000 {
            self.world.server.commit_all();
            if self.world.server.is_drained() {
                if !self.world.edge.joining().is_empty() {
                    return Err("drained while an overlay gets its commit log".into());
                }
                self.world.pump();
                self.take_answers()?;
                return match self.pending.len() {
                    0 => Ok(()),
                    count => Err(format!("{count} requests were forgotten")),
                };
            }
            self.step()?;
        }
        Err("the server does not come to rest".into())
    }
}

/// What is acknowledged survives the power.
fn is_safe(durability: Durability) -> bool {
    matches!(durability, Durability::Safe | Durability::Logged)
}
