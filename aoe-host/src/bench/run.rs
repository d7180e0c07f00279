//! The loop: sends requests as answers free their places, counts, and checks.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use aoe_proto::SECTOR_BYTES;
use aoe_proto::wire::ETHERNET_LEN;
use aoe_proto::wire::ata::ATA_DATA_OFFSET;

use super::find::{Disk, Pair, find};
use super::flight::{Answer, Ask, Route, Slot, answer};
use super::model::{Finding, Model, SECTORS_MAX};
use super::places::{Random, Region, Walk};
use super::plan::{Plan, Verify};
use super::process::Usage;
use super::report::{Cost, Report, report};
use super::tally::Tally;
use super::wire::{Outgoing, Received, Wire};
use crate::error::{ErrorKind, HostError, Result};

/// Requests sent with one look at the clock: the time of the last is wrong by their cost.
const SEND_BATCH: usize = 16;
/// Sectors per request unless told otherwise.
const SECTORS_DEFAULT: u8 = 8;
/// How often overdue requests are looked for.
const SWEEP_NS: u64 = 20_000_000;
/// Bytes that writes take their data from where nobody looks at it again.
const NOISE_LEN: usize = 128 << 10;
/// Wrong sectors that are kept in full.
const FINDINGS_MAX: usize = 16;

/// One client at one target.
struct Session {
    disk: usize,
    walk: Walk,
    random: Random,
    /// Where the final reading goes on; `None` if another session does it.
    read_back: Option<u64>,
}

/// What became of the attempt to give a slot something to do.
enum Next {
    Send,
    /// Everything that could be asked overlaps what is outstanding.
    Later,
    /// There is nothing more to ask.
    Never,
}

/// Where requests come from.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Source {
    Nothing,
    Walks,
    ReadBack,
}

struct Generator<'p> {
    plan: &'p Plan,
    routes: Vec<Route>,
    sessions: Vec<Session>,
    sectors: u8,
    slots: Vec<Slot>,
    /// Data of the writes of each slot, and their numbers; empty where nothing is verified.
    written: Vec<(Vec<u8>, u32)>,
    noise: Vec<u8>,
    ready: VecDeque<usize>,
    in_flight: usize,
    source: Source,
    /// Requests that may still be sent.
    left: u64,
    counting: bool,
    model: Option<Model>,
    findings: Vec<Finding>,
    wrong_sectors: u64,
    checked_sectors: u64,
    tally: Tally,
    clock: Instant,
    now_ns: u64,
    swept_ns: u64,
}

/// Runs a load over `wire` to its end.
///
/// # Errors
/// `Usage` for a plan that makes no sense or was not allowed, before anything was sent; `Timeout` if
/// a target does not answer; `NotFound` if a process to be watched does not exist.
pub fn run(wire: &mut dyn Wire, plan: &Plan) -> Result<Report> {
    plan.check()?;
    usages(&plan.pids)?;
    let own = [wire.mac()];
    let clients = if plan.clients.is_empty() { &own[..] } else { &plan.clients };
    let pairs: Vec<Pair> = clients
        .iter()
        .flat_map(|client| plan.targets.iter().map(|target| (*client, *target)))
        .collect();
    wire.want_whole_frames(true)?;
    let disks = find(wire, &pairs)?;
    wire.want_whole_frames(plan.verify != Verify::Nothing)?;
    let mut generator = Generator::new(plan, wire.mtu(), &pairs, &disks)?;
    generator.warm_up(wire);
    let drops = wire.drops();
    let before = usages(&plan.pids)?;
    generator.measure(wire);
    let after = usages(&plan.pids)?;
    let elapsed = Duration::from_nanos(generator.now_ns.saturating_sub(generator.tally.start_ns));
    generator.drain(wire);
    generator.read_back(wire);
    let drops = wire.drops().saturating_sub(drops);
    let cost = Cost { elapsed, before, after, drops };
    Ok(generator.into_report(wire.name(), &disks, &cost))
}

/// This process first, then those of the plan.
fn usages(pids: &[u32]) -> Result<Vec<Usage>> {
    core::iter::once(std::process::id())
        .chain(pids.iter().copied())
        .map(|pid| {
            Usage::of(pid).map_err(|error| {
                HostError::new(ErrorKind::NotFound, format!("look at process {pid}")).source(error)
            })
        })
        .collect()
}

/// Sectors of each request: what was asked for, if it fits everywhere.
fn sectors_of(plan: &Plan, mtu: usize, disks: &[Disk]) -> Result<u8> {
    let fits = disks.iter().map(|disk| disk.sectors_max).min().unwrap_or(u8::MAX);
    // Frames are filled to the last sector, where [`aoe_proto::LinkLimits`] prefers multiples of 8.
    let room = (mtu + ETHERNET_LEN).saturating_sub(ATA_DATA_OFFSET) / SECTOR_BYTES;
    let fits = fits.min(u8::try_from(room).unwrap_or(u8::MAX));
    let sectors = plan.sectors.unwrap_or(SECTORS_DEFAULT.min(fits));
    if sectors > fits || sectors == 0 {
        return Err(HostError::usage(
            format!("ask for {sectors} sectors at once"),
            format!("the network or a target takes at most {fits}"),
        ));
    }
    Ok(sectors)
}

impl<'p> Generator<'p> {
    fn new(plan: &'p Plan, mtu: usize, pairs: &[Pair], disks: &[Disk]) -> Result<Self> {
        let sectors = sectors_of(plan, mtu, disks)?;
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let run = u64::try_from(run.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
        let mut generator = Self {
            plan,
            routes: Vec::with_capacity(pairs.len()),
            sessions: Vec::with_capacity(pairs.len()),
            sectors,
            slots: Vec::new(),
            written: Vec::new(),
            noise: vec![0; NOISE_LEN + usize::from(u8::MAX) * SECTOR_BYTES],
            ready: VecDeque::new(),
            in_flight: 0,
            source: Source::Walks,
            left: u64::MAX,
            counting: false,
            model: (plan.verify != Verify::Nothing).then(|| Model::new(run)),
            findings: Vec::new(),
            wrong_sectors: 0,
            checked_sectors: 0,
            tally: Tally::default(),
            clock: Instant::now(),
            now_ns: 0,
            swept_ns: 0,
        };
        Random::new(plan.seed).fill(&mut generator.noise);
        let mut used = 0_u64;
        for (number, (pair, disk)) in pairs.iter().zip(disks).enumerate() {
            used = used.saturating_add(generator.add_session(number, *pair, disk)?);
        }
        if generator.model.is_some() && used > SECTORS_MAX {
            return Err(HostError::usage("verify", "the disks are too large to remember")
                .advice("use a part of them only, with --length"));
        }
        generator.add_slots(disks);
        Ok(generator)
    }

    /// Adds the session of a pair, and tells how many sectors of a disk of its own it uses.
    fn add_session(&mut self, number: usize, pair: Pair, disk: &Disk) -> Result<u64> {
        let plan = self.plan;
        let (client, address) = pair;
        let rest = disk.sectors.saturating_sub(plan.first_sector);
        let sectors = plan.region_sectors.unwrap_or(rest);
        let request = u64::from(self.sectors);
        let stride = plan.stride_sectors.unwrap_or(request);
        let region = Region::new(plan.first_sector, sectors, request, stride);
        let Some(region) = region.filter(|_| sectors <= rest) else {
            return Err(HostError::usage("use the region", "it is not inside the disk")
                .export(address)
                .advice(format!("the disk has {} sectors of 512 bytes", disk.sectors)));
        };
        // The first session of each disk reads it in the end.
        let together = plan.verify == Verify::SharedDisks;
        let shared = together && number >= plan.targets.len();
        let own = if together { number % plan.targets.len().max(1) } else { number };
        let seed = Random::new(plan.seed ^ (number as u64) << 32).next();
        if let Some(model) = self.model.as_mut().filter(|_| !shared && sectors <= SECTORS_MAX) {
            model.add_disk(plan.first_sector, sectors);
        }
        self.sessions.push(Session {
            disk: own,
            walk: Walk::new(region, plan.order, plan.once, seed),
            random: Random::new(!seed),
            read_back: (!shared).then_some(plan.first_sector),
        });
        self.routes.push(Route { client, server: disk.server, address, lba48: disk.lba48 });
        Ok(if shared { 0 } else { sectors })
    }

    /// One slot after the other for each session, so that all of them begin at once.
    fn add_slots(&mut self, disks: &[Disk]) {
        let kept = if self.model.is_some() { usize::from(self.sectors) * SECTOR_BYTES } else { 0 };
        for place in 0..self.plan.depth {
            for (session, disk) in disks.iter().enumerate() {
                if place < depth_of(self.plan, disk) {
                    self.ready.push_back(self.slots.len());
                    self.slots.push(Slot::new(session));
                    self.written.push((vec![0; kept], 0));
                }
            }
        }
    }

    fn warm_up(&mut self, wire: &mut dyn Wire) {
        let end_ns = nanos(self.plan.warm_up);
        self.look_at_clock();
        let end_ns = self.now_ns.saturating_add(end_ns);
        while self.now_ns < end_ns && self.is_busy() {
            self.round(wire);
        }
    }

    fn measure(&mut self, wire: &mut dyn Wire) {
        self.look_at_clock();
        self.tally = Tally::starting_at(self.now_ns);
        self.counting = true;
        self.left = self.plan.count.unwrap_or(u64::MAX);
        let end_ns = self.plan.time.map_or(u64::MAX, nanos).saturating_add(self.now_ns);
        while self.now_ns < end_ns && self.is_busy() && (self.left > 0 || self.in_flight > 0) {
            self.round(wire);
        }
        self.counting = false;
    }

    /// Waits for what is outstanding.
    fn drain(&mut self, wire: &mut dyn Wire) {
        self.source = Source::Nothing;
        while self.in_flight > 0 {
            self.round(wire);
        }
    }

    /// Reads every sector that the run wrote.
    fn read_back(&mut self, wire: &mut dyn Wire) {
        if self.model.is_none() {
            return;
        }
        self.source = Source::ReadBack;
        self.left = u64::MAX;
        self.ready = (0..self.slots.len()).collect();
        while self.is_busy() {
            self.round(wire);
        }
    }

    /// Whether anything is outstanding, or may be asked.
    fn is_busy(&self) -> bool {
        self.in_flight > 0 || !self.ready.is_empty()
    }

    fn look_at_clock(&mut self) {
        self.now_ns = nanos(self.clock.elapsed());
    }

    fn round(&mut self, wire: &mut dyn Wire) {
        self.submit(wire);
        let wait = self.in_flight > 0;
        let mut taken = 0;
        if wait && !self.plan.spin.is_zero() {
            let end_ns = self.now_ns.saturating_add(nanos(self.plan.spin));
            while taken == 0 && self.now_ns < end_ns {
                taken = self.collect(wire, false);
                self.look_at_clock();
            }
        }
        if taken == 0 {
            self.collect(wire, wait);
            self.look_at_clock();
        }
        if self.now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = self.now_ns;
            self.sweep(wire);
        }
    }

    /// Gives every free slot something to do, and sends it.
    fn submit(&mut self, wire: &mut dyn Wire) {
        if self.source == Source::Nothing {
            return;
        }
        let mut held = VecDeque::new();
        let mut batch = [0; SEND_BATCH];
        while self.left > 0 && !self.ready.is_empty() {
            let mut len = 0;
            for place in &mut batch {
                let Some(at) = self.next_ready(&mut held) else { break };
                *place = at;
                len += 1;
            }
            if len == 0 {
                break;
            }
            self.look_at_clock();
            self.transmit(wire, batch.get(..len).unwrap_or_default());
        }
        self.ready.append(&mut held);
    }

    /// The next slot that has something to send.
    fn next_ready(&mut self, held: &mut VecDeque<usize>) -> Option<usize> {
        while self.left > 0 {
            let at = self.ready.pop_front()?;
            match self.prepare(at) {
                Next::Send => {
                    self.left -= 1;
                    self.in_flight += 1;
                    return Some(at);
                }
                Next::Later => held.push_back(at),
                Next::Never => {}
            }
        }
        None
    }

    /// Thinks of something to ask in slot `at`.
    fn prepare(&mut self, at: usize) -> Next {
        let Some(slot) = self.slots.get_mut(at) else { return Next::Never };
        let Some(session) = self.sessions.get_mut(slot.session) else { return Next::Never };
        let ask = match self.source {
            Source::Nothing => return Next::Never,
            Source::Walks => {
                let Some(lba) = session.walk.peek() else { return Next::Never };
                let percent = u64::from(self.plan.write_percent);
                let write = percent > 0 && session.random.below(100) < percent;
                Ask { write, lba, sectors: self.sectors }
            }
            Source::ReadBack => {
                let written = session
                    .read_back
                    .zip(self.model.as_ref())
                    .and_then(|(from, model)| model.next_written(session.disk, from, self.sectors));
                let Some((lba, sectors)) = written else { return Next::Never };
                Ask { write: false, lba, sectors }
            }
        };
        if let Some(model) = &mut self.model {
            if !model.claim(session.disk, ask.lba, ask.sectors) {
                // Another place may do; a walk that visits each place once must keep this one.
                if !self.plan.once && self.source == Source::Walks {
                    session.walk.advance();
                }
                return Next::Later;
            }
            if let Some((data, number)) = self.written.get_mut(at).filter(|_| ask.write) {
                *number = model.fill(session.disk, ask.lba, data);
            }
        }
        match self.source {
            Source::ReadBack => session.read_back = ask.lba.checked_add(u64::from(ask.sectors)),
            _ => session.walk.advance(),
        }
        if let Some(route) = self.routes.get(slot.session) {
            slot.begin(at, route, ask);
        }
        Next::Send
    }

    /// Sends the requests of these slots, for the first time or again.
    fn transmit(&mut self, wire: &mut dyn Wire, batch: &[usize]) {
        for at in batch {
            if let Some(slot) = self.slots.get_mut(*at) {
                if slot.attempts == 0 {
                    slot.first_ns = self.now_ns;
                }
                slot.sent_ns = self.now_ns;
                slot.attempts += 1;
            }
        }
        let (slots, written, noise) = (&self.slots, &self.written, &self.noise);
        let verified = self.model.is_some();
        let mut frames = batch.iter().filter_map(|at| {
            let slot = slots.get(*at)?;
            let data = match (slot.ask.write, verified) {
                (false, _) => &[][..],
                (true, true) => written.get(*at)?.0.get(..slot.ask.len_bytes())?,
                // Neighbours differ, and a request that is sent again is the same again.
                (true, false) => {
                    let from = usize::try_from(slot.first_ns % (NOISE_LEN as u64 / 8) * 8).ok()?;
                    noise.get(from..from + slot.ask.len_bytes())?
                }
            };
            Some(Outgoing { head: slot.head(), data })
        });
        let sent = wire.send(&mut frames);
        self.tally.send_failures += (batch.len().saturating_sub(sent)) as u64;
    }

    /// Takes what has arrived.
    fn collect(&mut self, wire: &mut dyn Wire, wait: bool) -> usize {
        let mut first = true;
        wire.receive(wait, &mut |frame| {
            // One look at the clock for what was taken together.
            if first {
                self.look_at_clock();
                first = false;
            }
            self.take(frame);
        })
    }

    fn take(&mut self, frame: Received<'_>) {
        let (at, data) = match answer(&self.slots, &self.routes, frame) {
            Answer::Stray => {
                self.tally.stray += 1;
                return;
            }
            Answer::Late => {
                self.tally.late += 1;
                return;
            }
            Answer::Failed { slot } => {
                self.tally.failed += 1;
                self.close(slot, None);
                return;
            }
            Answer::Done { slot, data } => (slot, data),
        };
        let Some(slot) = self.slots.get(at) else { return };
        // With a number of requests only those count that belong to it; with a time, all that are
        // answered within it.
        let counts = !self.plan.is_counted() || slot.first_ns >= self.tally.start_ns;
        if self.counting && counts {
            let latency_ns = self.now_ns.saturating_sub(slot.first_ns);
            self.tally.done(slot.ask.write, slot.ask.sectors, latency_ns, self.now_ns);
        }
        self.close(at, Some(data));
    }

    /// Ends the request in slot `at`, which was answered with `data`, or failed.
    fn close(&mut self, at: usize, data: Option<&[u8]>) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let again = slot.attempts > 1;
        slot.attempts = 0;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.ready.push_back(at);
        let (Some(model), Some(session)) = (&mut self.model, self.sessions.get(slot.session))
        else {
            return;
        };
        let Ask { write, lba, sectors } = slot.ask;
        match data {
            Some(_) if write && !again => {
                let number = self.written.get(at).map_or(0, |(_, number)| *number);
                model.wrote(session.disk, lba, sectors, number);
            }
            _ if write => model.spoil(session.disk, lba, sectors),
            None => model.release(session.disk, lba, sectors),
            Some(data) => {
                self.checked_sectors += u64::from(sectors);
                let Some(route) = self.routes.get(slot.session) else { return };
                let (findings, count) = (&mut self.findings, &mut self.wrong_sectors);
                model.check(session.disk, lba, data, &mut |lba, wrong| {
                    *count += 1;
                    let (address, client) = (route.address, route.client);
                    let finding = Finding { address, client, lba, sectors: 1, wrong };
                    let joined = findings.last_mut().is_some_and(|last| last.join(&finding));
                    if !joined && findings.len() < FINDINGS_MAX {
                        findings.push(finding);
                    }
                });
            }
        }
    }

    /// Sends again what got no answer, and gives up what never will.
    fn sweep(&mut self, wire: &mut dyn Wire) {
        let (wait_ns, give_up_ns) = (nanos(self.plan.retransmit), nanos(self.plan.give_up));
        let mut overdue = Vec::new();
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get(at).filter(|slot| slot.attempts > 0) else { continue };
            let wait_ns = wait_ns.saturating_mul(1 << (slot.attempts - 1).min(16));
            if self.now_ns.saturating_sub(slot.first_ns) >= give_up_ns {
                self.tally.lost += 1;
                self.close(at, None);
            } else if self.now_ns.saturating_sub(slot.sent_ns) >= wait_ns {
                overdue.push(at);
            }
        }
        self.tally.retransmitted += overdue.len() as u64;
        for batch in overdue.chunks(SEND_BATCH) {
            self.transmit(wire, batch);
        }
    }

    fn into_report(self, interface: &str, disks: &[Disk], cost: &Cost) -> Report {
        let depths = disks.iter().map(|disk| depth_of(self.plan, disk));
        let mut report = report(self.plan, &self.tally, cost);
        interface.clone_into(&mut report.interface);
        report.workload.sectors = self.sectors;
        report.workload.depth_used = depths.min().unwrap_or(0);
        report.workload.stride_sectors =
            self.plan.stride_sectors.unwrap_or(u64::from(self.sectors));
        report.set_verified(self.model.as_ref().map(|model| {
            (self.checked_sectors, self.wrong_sectors, model.unverifiable(), &self.findings[..])
        }));
        report
    }
}

/// Requests a client may have outstanding at a target.
fn depth_of(plan: &Plan, disk: &Disk) -> u16 {
    if plan.beyond_buffer_count { plan.depth } else { plan.depth.min(disk.buffer_count) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
