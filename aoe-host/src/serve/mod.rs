//! `cowblade serve`: the real server around the deterministic loop.
//!
//! ```text
//!  setup.rs   configuration -> files, exports, clients, overlays
//!  mod.rs     links, completions, signals, control, time -> the loop, and back
//!  crew.rs    several workers: their threads, frames handed over, orders
//!  log_plan.rs  the commit log: made when it is needed, and whose overlays have it
//!  idle.rs    whether to stay awake for the next frame
//!  edge.rs    what the loop causes: workers, notes, registry, state files
//!  answer.rs  control requests: status
//!  clients.rs and clients
//!  clients_file.rs  the registry that all workers share, and its file
//!  upkeep.rs  what is looked at now and then: golden image, free space, other servers
//! ```

mod answer;
mod chains;
mod clients;
mod clients_file;
mod crew;
mod edge;
mod idle;
mod log;
mod log_plan;
mod setup;
mod upkeep;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use cow_core::engine::Failure;
use cow_core::pages::PagePool;

use crate::config::{NewClients, ServeConfig, Top};
use crate::control::ControlServer;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::OpenedOverlay;
use crate::link::{self, Link, LinkEvent, Room};
use crate::server::{DiskSpec, Durability, Server};
use crate::share::Share;
use crate::signals::Signals;
use crate::storage::{ColdReads, HostedDriver, PoolMemory, WorkerCounts};
use crew::{Crew, Links};
use edge::{HostedEdge, News};
use idle::{AWAKE_MAX, Idle, Processors};
use setup::Common;
use upkeep::Upkeep;

/// Pages of the metadata pool: 16 MiB, the hot metadata of 32 GiB of overlay data.
const POOL_PAGES: usize = 4096;

/// Pages of the smallest part of it: 4 MiB.
const POOL_PAGES_MIN: usize = 1024;

/// Frames taken from a link before answers are sent: large enough to spread the cost of a round,
/// small enough that the first answer does not wait for the last request.
const BATCH_FRAMES: usize = 8;

/// Longest time for which a busy loop does not ask for signals and control requests, each of which
/// costs a system call.
const ATTENTION_INTERVAL: Duration = Duration::from_millis(1);

/// How often memory is looked at, while staying awake, before the clock is.
const LOOKS: u32 = 16;

/// Clients to make room for where their number is not known.
const CLIENTS_ASSUMED: usize = 16;

/// Longest wait when nothing happens: the grain of everything that is looked at by time.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// How long a stopping server waits for overlays with a commit log that have no room.
const FULL_MAX: Duration = Duration::from_secs(3);

/// How long a stopping server waits for requests and syncs under way.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Serves until told to stop.
///
/// # Errors
/// Whatever keeps the server from starting, or from ending cleanly.
pub fn serve(config: &ServeConfig) -> Result<()> {
    allow_files();
    // Before anything else, so that a signal during a long start ends it cleanly too.
    let mut signals = Signals::install()?;
    let workers = config.workers.count();
    let mut links = open_links(config, workers)?.into_iter();
    let own = links.next().unwrap_or_default();
    let mut memory = PoolMemory::new(pool_pages(workers));
    let mut running = Running::lead(config, own, links.collect(), memory.pool()?)?;
    if running.prepare(&mut signals)? {
        running.log_serving();
    }
    while !running.round(Some(&mut signals)) {}
    running.stop()
}

/// Pages of the pool of one of so many workers: each has a part of the disks.
fn pool_pages(workers: usize) -> usize {
    (POOL_PAGES / workers.max(1)).max(POOL_PAGES_MIN)
}

/// Every overlay takes a descriptor or two, and the usual limit of 1024 is meant for programs that
/// use `select`: as many as the system lets this user have.
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // If even this is refused, opening the overlays says so.
    let _as_before = setrlimit(Resource::Nofile, raised);
}

/// The links of each worker.
fn open_links(config: &ServeConfig, workers: usize) -> Result<Vec<Links>> {
    // Hashing does not spread evenly.
    let frames = outstanding(config) * 2.min(workers) / workers.max(1);
    let room = Room::for_frames(frames);
    let for_all = config.exports.iter().filter(|e| !matches!(e.top, Top::PerClient));
    let for_all: Vec<_> = for_all.map(|e| e.address).collect();
    let mut links: Vec<Links> = core::iter::repeat_with(Vec::new).take(workers).collect();
    for name in &config.interfaces {
        let several = link::open_several(config.link, name, room, workers, &for_all)?;
        for (links, link) in links.iter_mut().zip(several) {
            links.push(link);
        }
    }
    Ok(links)
}

/// Frames that initiators may have outstanding together, as far as that is known. [AoE 9.12]
fn outstanding(config: &ServeConfig) -> usize {
    let clients = match config.new_clients {
        NewClients::Auto { max } => max.and_then(|max| usize::try_from(max).ok()),
        NewClients::Refuse => Some(config.clients.len()),
    };
    let clients = clients.unwrap_or(CLIENTS_ASSUMED).max(CLIENTS_ASSUMED);
    let windows = config.exports.iter().map(|export| match export.top {
        Top::PerClient => clients,
        Top::ReadOnly | Top::Own | Top::File(_) => 1,
    });
    windows.fold(0, usize::saturating_add).saturating_mul(usize::from(config.buffer_count))
}

/// What came of one pass of the loop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    /// Nothing had happened.
    None,
    /// Something had, and that was all of it.
    Some,
    /// Something had, and there may be more to do.
    More,
}

/// A server that runs: the loop with its links and its world.
pub struct Running<'m> {
    server: Server<'m>,
    edge: HostedEdge,
    links: Vec<Box<dyn Link>>,
    config: ServeConfig,
    control: Option<ControlServer>,
    upkeep: Upkeep,
    idle: Idle,
    /// When signals and control requests are asked for at the latest, on the loop's clock.
    next_attention: Duration,
    started: Instant,
    stopping: Option<Instant>,
    /// Changes are refused because the commit log has no room.
    log_is_short: bool,
    /// The others, if there are several workers.
    crew: Option<Crew>,
}

impl core::fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Running").field("server", &self.server).finish_non_exhaustive()
    }
}

impl<'m> Running<'m> {
    /// Opens everything the configuration names, over links that are open. `quiet` keeps the log
    /// to what is wrong.
    ///
    /// # Errors
    /// The first thing that is wrong. No overlay was written to then; the registry and the
    /// directories may have been.
    pub fn start(
        config: &ServeConfig,
        links: Vec<Box<dyn Link>>,
        pool: PagePool<'m>,
        quiet: bool,
    ) -> Result<Self> {
        let common = Common::open(config, quiet)?;
        let cold = ColdReads::of_files(config.direct);
        let driver = HostedDriver::with_cold_reads(WorkerCounts::default(), cold)?;
        let mut running = Self::assemble(&common, driver, pool, None)?;
        running.plug_in(links);
        running.open_up()?;
        Ok(running)
    }

    /// As [`start`](Self::start), with so many other workers as there are sets of links for them.
    fn lead(
        config: &ServeConfig,
        own: Links,
        others: Vec<Links>,
        pool: PagePool<'m>,
    ) -> Result<Self> {
        let own = own.into_iter().map(|link| -> Box<dyn Link> { link });
        if others.is_empty() {
            return Self::start(config, own.collect(), pool, false);
        }
        let common = Arc::new(Common::open(config, false)?);
        let (driver, crew) = crew::muster(&common, others)?;
        let mut running = Self::assemble(&common, driver, pool, Some(crew))?;
        running.plug_in(own);
        running.open_up()?;
        Ok(running)
    }

    /// A worker with its exports and disks, and without links.
    fn assemble(
        common: &Common,
        driver: HostedDriver,
        pool: PagePool<'m>,
        crew: Option<Crew>,
    ) -> Result<Self> {
        let config = &common.config;
        let share = crew.as_ref().map_or(Share::ALL, Crew::share);
        let mut server = Server::sharing(pool, config.allow.clone(), share);
        let mut edge = common.edge(driver);
        if let Some(crew) = &crew {
            edge.doors = crew.doors();
        }
        setup::exports(config, &mut server, &mut edge)?;
        Ok(Self {
            server,
            edge,
            links: Vec::new(),
            config: config.clone(),
            control: None,
            upkeep: Upkeep::new(config),
            idle: Idle::new(Processors::here(), share.count()),
            next_attention: Duration::ZERO,
            started: common.started,
            stopping: None,
            log_is_short: false,
            crew,
        })
    }

    /// Makes what others can see of a server that is in order.
    fn open_up(&mut self) -> Result<()> {
        let listen = || self.config.control.as_deref().map(ControlServer::listen).transpose();
        setup::directories(&self.config, &self.edge)?;
        self.control = listen()?;
        Ok(())
    }

    /// Takes links, in the order of the interfaces.
    fn plug_in(&mut self, links: impl IntoIterator<Item = Box<dyn Link>>) {
        let addresses: Vec<_> = self.server.addresses().collect();
        for mut link in links {
            self.server.add_link(link.mac(), link.mtu());
            link.serve_only(&addresses);
            self.links.push(link);
        }
        self.server.lend_reads(self.links.iter().all(|link| link.takes_mapped()));
    }

    /// Asks the segment whether somebody else serves our addresses, then advertises. False if
    /// the server was told to stop meanwhile.
    ///
    /// # Errors
    /// `InUse` if another server answered: this one cannot serve any more.
    pub fn prepare(&mut self, signals: &mut Signals) -> Result<bool> {
        self.upkeep.ask_for_duplicates(&self.server, &mut self.links);
        let until = Instant::now() + upkeep::PROBE_WAIT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if signals.take().drain {
                // By the usual way: there may be notes of an earlier process to take up first.
                self.begin();
                self.stop_soon();
                return Ok(false);
            }
            let _came = self.wait(left.min(IDLE_WAIT), None);
            if let Some((address, mac)) = self.upkeep.listen(&self.server, &mut self.links) {
                return Err(HostError::new(ErrorKind::InUse, "serve").export(address).detail(
                    format!(
                        "{mac} answers for this address already; two servers with one address \
                         corrupt data. Stop the other server, or serve another address"
                    ),
                ));
            }
        }
        self.begin();
        self.advertise_all();
        Ok(true)
    }

    /// Lets the other workers serve too.
    fn begin(&mut self) {
        if let Some(crew) = &mut self.crew {
            for link in &mut self.links {
                link.share();
            }
            crew.begin();
        }
    }

    /// Sends what every target of this worker is, unasked.
    pub fn advertise(&mut self, link: Option<usize>) {
        self.server.advertise(link);
        self.transmit();
    }

    /// Sends what every target is, unasked.
    fn advertise_all(&mut self) {
        if let Some(crew) = &self.crew {
            // Nobody waits for that.
            drop(crew.order(|worker| worker.advertise(None)));
        }
        self.advertise(None);
    }

    /// Takes what has arrived, does what can be done, waits if that was nothing. True when the
    /// server has been told to stop and has come to rest. What fails is reported and survived.
    pub fn round(&mut self, mut signals: Option<&mut Signals>) -> bool {
        let now = self.started.elapsed();
        let mut progress = self.step_at(now);
        if self.obey_orders() {
            progress = Progress::More;
        }
        if now >= self.next_attention {
            self.next_attention = now.saturating_add(ATTENTION_INTERVAL);
            progress = Progress::More;
            self.look_for_the_lost();
            if let Some(signals) = signals.as_deref_mut() {
                self.obey(signals);
            }
            self.answer_control();
        }
        if self.is_at_rest() {
            return true;
        }
        let again = progress == Progress::More
            // What ends does so in several turns.
            || progress == Progress::Some && self.stopping.is_some()
            || self.stay_awake()
            || self.has_work();
        if !again && self.wait(IDLE_WAIT, signals.as_deref()) {
            self.next_attention = Duration::ZERO;
        }
        false
    }

    /// Whether something has come that sleeping would not end for, or would end for at once.
    fn has_work(&self) -> bool {
        self.edge.has_news()
            || self.stopping.is_none()
                && self.links.iter().any(|link| link.has_frames() == Some(true))
    }

    fn obey(&mut self, signals: &mut Signals) {
        let events = signals.take();
        if events.advertise {
            self.edge.log.info("advertising");
            self.advertise_all();
        }
        if events.drain {
            self.stop_soon();
        }
    }

    /// Stops the server if a worker has ended by itself.
    fn look_for_the_lost(&mut self) {
        if self.stopping.is_none() && self.crew.as_ref().is_some_and(Crew::has_lost_one) {
            self.edge.log.error("a worker has ended before its time; stopping");
            self.stop_soon();
        }
    }

    /// Looks at memory for a moment, where that promises more than sleeping. True if something
    /// came.
    fn stay_awake(&mut self) -> bool {
        if self.stopping.is_some() || !self.idle.is_worth_waking() {
            return false;
        }
        if !self.links.iter().any(|link| link.has_frames().is_some()) {
            return false;
        }
        let from = Instant::now();
        let came = loop {
            let came = (0..LOOKS).any(|_| {
                core::hint::spin_loop();
                self.links.iter().any(|link| link.has_frames() == Some(true))
                    || self.edge.driver.has_news()
            });
            if came || from.elapsed() >= AWAKE_MAX {
                break came;
            }
        };
        self.idle.learn(came);
        came
    }

    /// One pass over everything that may have happened. True if something had.
    pub fn step(&mut self) -> bool {
        self.step_at(self.started.elapsed()) != Progress::None
    }

    fn step_at(&mut self, now: Duration) -> Progress {
        let mut more = self.link_events(now);
        let mut busy = false;
        if self.stopping.is_none() {
            for (number, link) in self.links.iter_mut().enumerate() {
                let (server, edge) = (&mut self.server, &mut self.edge);
                let taken =
                    link.receive(BATCH_FRAMES, &mut |frame| server.receive(number, frame, edge));
                busy |= taken > 0;
                more |= taken >= BATCH_FRAMES;
            }
        }
        if busy {
            self.idle.saw_traffic();
        }
        let server = &mut self.server;
        self.edge.driver.drain(&mut |completion| {
            more = true;
            server.complete(&completion);
        });
        // After `drain`, which silences the bell that rings for these as well.
        more |= self.take_handed();
        while let Some(news) = self.edge.next_news() {
            more = true;
            match news {
                News::Overlay(disk, opened) => self.overlay_ready(disk, opened),
                News::Log(made) => self.edge.log_made(made),
                News::Joined(joined) => {
                    let disk = joined.disk;
                    let header = self.edge.take_joined(joined);
                    self.server.log_joined(disk, header);
                }
            }
        }
        more |= self.make_room_in_log();
        self.server.tick(now, &mut self.edge);
        self.edge.sync_log();
        self.edge.write_states(now, false);
        // The medium works while answers are sent.
        more |= self.edge.driver.submit();
        self.transmit();
        more |= self.server.is_holding();
        if !self.server.is_lending() {
            self.edge.driver.settle(now);
        }
        let crew = self.crew.as_ref();
        self.upkeep.look(now, &mut self.server, &mut self.edge, &mut self.links, crew);
        match (more, busy) {
            (true, _) => Progress::More,
            (false, true) => Progress::Some,
            (false, false) => Progress::None,
        }
    }

    /// Has overlays commit whose changes fill the log. True if that was necessary.
    fn make_room_in_log(&mut self) -> bool {
        let Some(log) = &mut self.edge.commit_log else { return false };
        let short = log.is_short() && self.server.is_any_full();
        if short || self.log_is_short {
            if short && !self.log_is_short {
                self.edge.log.error("no room for an overlay, nor for more in the commit log");
            }
            self.log_is_short = short;
            self.server.refuse_logged(short);
        }
        if log.is_full() {
            for disk in self.server.status().filter(|disk| disk.read_only) {
                log.keep_for(disk.number);
            }
        }
        let full = log.takes_commit();
        if full {
            self.server.commit_written();
        }
        full
    }

    /// Takes frames that other workers handed over. True if there may be more.
    fn take_handed(&mut self) -> bool {
        let Some(crew) = &self.crew else { return false };
        for _ in 0..BATCH_FRAMES {
            let Some(handed) = crew.next_handed() else { return false };
            if self.stopping.is_none() {
                self.server.receive_handed(handed.link, &handed.frame, &mut self.edge);
                self.idle.saw_traffic();
            }
        }
        true
    }

    fn link_events(&mut self, now: Duration) -> bool {
        let mut advertise = Vec::new();
        let leads = self.leads();
        for (number, link) in self.links.iter_mut().enumerate() {
            while let Some(event) = link.poll_event(now) {
                self.server.link_changed(number, link.mac(), link.mtu());
                let what = match event {
                    LinkEvent::Down => "is down".to_owned(),
                    LinkEvent::Gone => "is gone".to_owned(),
                    LinkEvent::Recreated => "is back".to_owned(),
                    LinkEvent::Up => "is up".to_owned(),
                    LinkEvent::MtuChanged { mtu } => format!("has an MTU of {mtu} now"),
                    LinkEvent::MacChanged { mac } => format!("has the address {mac} now"),
                };
                // Each worker sees it on a link of its own.
                if leads {
                    self.edge.log.info(&format!("{} {what}", link.name()));
                }
                let is_absent = [LinkEvent::Down, LinkEvent::Gone, LinkEvent::Recreated];
                if !is_absent.contains(&event) {
                    advertise.push(number);
                }
            }
        }
        advertise.dedup();
        for link in &advertise {
            self.server.advertise(Some(*link));
        }
        !advertise.is_empty()
    }

    fn overlay_ready(&mut self, disk: u32, opened: Result<OpenedOverlay>) {
        let durability = self
            .server
            .status()
            .find(|d| d.number == disk)
            .map_or(Durability::Safe, |d| d.spec.durability);
        let opened = opened.and_then(|o| self.edge.attach(disk, o, durability));
        let opened = opened.map_err(|error| {
            self.edge.log.error(&error.report());
            match error.kind() {
                ErrorKind::Full => Failure::Full,
                ErrorKind::Unsupported => Failure::Unsupported,
                _ => Failure::Medium,
            }
        });
        self.server.overlay_ready(disk, opened, &mut self.edge);
    }

    fn transmit(&mut self) {
        let (links, mut unreadable) = (&mut self.links, false);
        self.server.send(&mut |number, frames| {
            if let Some(link) = links.get_mut(number) {
                // Losses are counted by the link; initiators send again.
                unreadable |= link.send_parts(frames).unreadable > 0;
            }
        });
        if unreadable {
            self.edge.driver.doubt_lent();
        }
    }

    /// Takes no more frames; what is under way is finished and published.
    pub fn stop_soon(&mut self) {
        if self.stopping.is_none() {
            if self.leads() {
                self.edge.log.info("stopping: finishing what is under way");
                if let Some(crew) = &self.crew {
                    drop(crew.order(|worker| {
                        worker.stop_soon();
                    }));
                }
            }
            self.stopping = Some(Instant::now());
            self.server.commit_all();
        }
    }

    fn is_at_rest(&mut self) -> bool {
        let Some(since) = self.stopping else { return false };
        if since.elapsed() > DRAIN_MAX {
            self.edge.log.error("some requests did not end; stopping without them");
            return true;
        }
        self.server.commit_all();
        if since.elapsed() > FULL_MAX && self.server.is_any_full() {
            self.edge.log.error("no room for an overlay: the commit log is kept for it");
            self.server.abandon_full();
            if let Some(log) = &mut self.edge.commit_log {
                log.give_up(&mut self.edge.driver);
            }
        }
        self.server.is_drained() && self.edge.driver.under_way() == 0
    }

    /// Sleeps until something comes. True if it was perhaps a signal or a control request.
    fn wait(&mut self, most: Duration, signals: Option<&Signals>) -> bool {
        // Upkeep and orders may have begun reads since the step.
        if self.edge.driver.submit() {
            return false;
        }
        let control = self.control.as_ref().map(ControlServer::poll_fd);
        let signals = signals.map(Signals::poll_fd);
        let rare = usize::from(control.is_some()) + usize::from(signals.is_some());
        // A stopping server takes no frames: they would only keep it awake.
        let links = self.links.iter().filter(|_| self.stopping.is_none());
        let mut fds = control
            .into_iter()
            .chain(signals)
            .chain([self.edge.driver.poll_fd()])
            .chain(links.filter_map(|link| link.poll_fd()));
        // If the system refuses to wait, the loop only turns faster.
        match link::wait_for_any(&mut fds, Some(most)) {
            Ok(Some(first)) => first < rare,
            Ok(None) | Err(_) => true,
        }
    }

    fn log_serving(&self) {
        let names = self.links.iter().map(|l| format!("{} ({})", l.name(), l.implementation()));
        let names: Vec<String> = names.collect();
        let addresses: Vec<String> = self.server.addresses().map(|a| a.to_string()).collect();
        let shown = match addresses.as_slice() {
            [first, .., last] if addresses.len() > 4 => {
                format!("{} addresses from {first} to {last}", addresses.len())
            }
            few => few.join(", "),
        };
        self.edge.log.info(&format!("serving {shown} on {}", names.join(", ")));
    }

    /// Closes every overlay in good order, and deletes those that were to live only so long.
    ///
    /// # Errors
    /// The first that could not be closed; the others were tried all the same.
    pub fn stop(mut self) -> Result<()> {
        let now = self.started.elapsed();
        let stuck = self.edge.driver.under_way() > 0;
        self.edge.write_states(now, true);
        let mut outcome = self.edge.write_registry();
        let disks: Vec<_> = self.server.status().map(|d| (d.number, d.read_only)).collect();
        let is_broken = disks.iter().any(|(_, broken)| *broken);
        for (number, broken) in disks {
            let Some((spec, top)) = self.server.remove_disk(number) else {
                outcome = outcome.and(Err(HostError::new(ErrorKind::Io, "finish all requests")));
                continue;
            };
            outcome = outcome.and(self.close_disk(number, &spec, top, broken));
        }
        if let Some(log) = self.edge.commit_log.take().filter(|_| outcome.is_ok() && !is_broken) {
            outcome = log.remove();
        }
        if let Some(crew) = &mut self.crew {
            outcome = outcome.and(crew.join());
        }
        if self.leads() {
            self.edge.log.info("stopped");
        }
        if stuck {
            // Its threads are stuck in the storage; waiting for them would keep the process alive.
            core::mem::forget(self.edge);
        }
        outcome
    }

    /// Closes the overlay of a disk that was taken out of the loop, or deletes it if it was to
    /// live only so long. A broken one is left as it is: the next opening must know.
    fn close_disk(
        &mut self,
        number: u32,
        spec: &DiskSpec,
        top: Option<cow_core::format::Top>,
        broken: bool,
    ) -> Result<()> {
        let Some(mut attachment) = self.edge.attachments.remove(&number) else { return Ok(()) };
        attachment.opened.leave(self.edge.driver.files_mut());
        if broken && let Some(log) = &mut self.edge.commit_log {
            log.keep_for(number); // who has the number next is somebody else
        }
        match (spec.durability, top) {
            (Durability::Ephemeral, _) => attachment.opened.delete(),
            (_, Some(mut top)) if !broken => {
                attachment.opened.close(&mut top)?;
                attachment.notes.map_or(Ok(()), crate::image::NoteLog::remove)
            }
            _ => Ok(()),
        }
    }
}
