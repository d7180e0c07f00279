//! `cowblade serve`: the real server around the deterministic loop.
//!
//! ```text
//!  setup.rs   configuration -> files, exports, clients, overlays
//!  mod.rs     links, completions, signals, control, time -> the loop, and back
//!  edge.rs    what the loop causes: workers, notes, registry, state files
//!  answer.rs  control requests: status and clients
//!  upkeep.rs  what is looked at now and then: golden image, free space, other servers
//! ```

mod answer;
mod edge;
mod log;
mod setup;
mod upkeep;

use core::time::Duration;
use std::time::Instant;

use cow_core::pages::{Frame, Page, PagePool};

use crate::config::{LinkKind, ServeConfig};
use crate::control::ControlServer;
use crate::error::{ErrorKind, HostError, Result};
use crate::link::pnet::PnetLink;
use crate::link::{Link, LinkEvent};
use crate::server::{DiskSpec, Durability, Server};
use crate::signals::Signals;
use edge::HostedEdge;
use upkeep::Upkeep;

/// Pages of the metadata pool: 16 MiB, the hot metadata of 32 GiB of overlay data.
const POOL_PAGES: usize = 4096;

/// Frames taken from a link before answers are sent: large enough to spread the cost of a round,
/// small enough that the first answer does not wait for the last request.
const BATCH_FRAMES: usize = 16;

/// Longest wait when nothing happens: the grain of everything that is looked at by time.
const IDLE_WAIT: Duration = Duration::from_millis(100);

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
    let links = open_links(config)?;
    let mut memory = PoolMemory::new(POOL_PAGES);
    let mut running = Running::start(config, links, memory.pool()?, false)?;
    if running.prepare(&mut signals)? {
        running.log_serving();
    }
    while !running.round(Some(&mut signals)) {}
    running.stop()
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

fn open_links(config: &ServeConfig) -> Result<Vec<Box<dyn Link>>> {
    let open = |name: &String| -> Result<Box<dyn Link>> {
        match config.link {
            LinkKind::Auto | LinkKind::Pnet => Ok(Box::new(PnetLink::open(name)?)),
        }
    };
    config.interfaces.iter().map(open).collect()
}

/// The memory of a metadata pool.
#[derive(Debug)]
pub struct PoolMemory {
    pages: Vec<Page>,
    frames: Vec<Frame>,
}

impl PoolMemory {
    /// Room for `pages` pages.
    pub fn new(pages: usize) -> Self {
        let zeroed = |n| core::iter::repeat_with(|| Page::ZERO).take(n).collect();
        Self { pages: zeroed(pages), frames: vec![Frame::EMPTY; pages] }
    }

    /// The pool.
    ///
    /// # Errors
    /// When there is less than the smallest pool.
    pub fn pool(&mut self) -> Result<PagePool<'_>> {
        PagePool::new(&mut self.pages, &mut self.frames)
            .ok_or_else(|| HostError::new(ErrorKind::Usage, "make a metadata pool of so few pages"))
    }
}

/// A server that runs: the loop with its links and its world.
pub struct Running<'m> {
    server: Server<'m>,
    edge: HostedEdge,
    links: Vec<Box<dyn Link>>,
    config: ServeConfig,
    control: Option<ControlServer>,
    upkeep: Upkeep,
    started: Instant,
    stopping: Option<Instant>,
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
        let mut server = Server::new(pool, config.allow.clone());
        for link in &links {
            server.add_link(link.mac(), link.mtu());
        }
        let mut edge = setup::edge(config, quiet)?;
        setup::exports(config, &mut server, &mut edge)?;
        setup::directories(config, &mut edge)?;
        let control = config.control.as_deref().map(ControlServer::listen).transpose()?;
        let upkeep = Upkeep::new(config);
        let started = Instant::now();
        let config = config.clone();
        Ok(Self { server, edge, links, config, control, upkeep, started, stopping: None })
    }

    /// Asks the segment whether somebody else serves our addresses, then advertises. False if
    /// the server was told to stop meanwhile.
    ///
    /// # Errors
    /// `InUse` if another server answered.
    pub fn prepare(&mut self, signals: &mut Signals) -> Result<bool> {
        self.upkeep.ask_for_duplicates(&self.server, &mut self.links);
        let until = Instant::now() + upkeep::PROBE_WAIT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if signals.take().drain {
                // By the usual way: there may be notes of an earlier process to take up first.
                self.stop_soon();
                return Ok(false);
            }
            self.wait(left.min(IDLE_WAIT), None);
            if let Some((address, mac)) = self.upkeep.listen(&self.server, &mut self.links) {
                return Err(HostError::new(ErrorKind::InUse, "serve").export(address).detail(
                    format!(
                        "{mac} answers for this address already; two servers with one address \
                         corrupt data. Stop the other server, or serve another address"
                    ),
                ));
            }
        }
        self.advertise(None);
        Ok(true)
    }

    /// Sends what every target is, unasked.
    pub fn advertise(&mut self, link: Option<usize>) {
        self.server.advertise(link);
        self.transmit();
    }

    /// Takes what has arrived, does what can be done, waits if that was nothing. True when the
    /// server has been told to stop and has come to rest. What fails is reported and survived.
    pub fn round(&mut self, mut signals: Option<&mut Signals>) -> bool {
        let busy = self.step();
        if let Some(signals) = signals.as_deref_mut() {
            let events = signals.take();
            if events.advertise {
                self.edge.log.info("advertising");
                self.advertise(None);
            }
            if events.drain {
                self.stop_soon();
            }
        }
        self.answer_control();
        if self.is_at_rest() {
            return true;
        }
        if !busy {
            self.wait(IDLE_WAIT, signals.as_deref());
        }
        false
    }

    /// One pass over everything that may have happened. True if something had.
    pub fn step(&mut self) -> bool {
        let now = self.started.elapsed();
        let mut busy = self.link_events(now);
        if self.stopping.is_none() {
            for (number, link) in self.links.iter_mut().enumerate() {
                let (server, edge) = (&mut self.server, &mut self.edge);
                let taken =
                    link.receive(BATCH_FRAMES, &mut |frame| server.receive(number, frame, edge));
                busy |= taken > 0;
            }
        }
        let server = &mut self.server;
        self.edge.driver.drain(&mut |completion| {
            busy = true;
            server.complete(&completion);
        });
        while let Some(ready) = self.edge.next_ready() {
            busy = true;
            self.overlay_ready(ready);
        }
        self.server.tick(now, &mut self.edge);
        self.edge.write_states(now, false);
        self.transmit();
        self.upkeep.look(now, &mut self.server, &mut self.edge, &mut self.links);
        busy
    }

    fn link_events(&mut self, now: Duration) -> bool {
        let mut advertise = Vec::new();
        for (number, link) in self.links.iter_mut().enumerate() {
            while let Some(event) = link.poll_event(now) {
                self.server.link_changed(number, link.mac(), link.mtu());
                let name = link.name();
                match event {
                    LinkEvent::Down => self.edge.log.info(&format!("{name} is down")),
                    LinkEvent::Gone => self.edge.log.info(&format!("{name} is gone")),
                    LinkEvent::Recreated => self.edge.log.info(&format!("{name} is back")),
                    LinkEvent::Up => {
                        self.edge.log.info(&format!("{name} is up"));
                        advertise.push(number);
                    }
                    LinkEvent::MtuChanged { mtu } => {
                        self.edge.log.info(&format!("{name} has an MTU of {mtu} now"));
                        advertise.push(number);
                    }
                    LinkEvent::MacChanged { mac } => {
                        self.edge.log.info(&format!("{name} has the address {mac} now"));
                        advertise.push(number);
                    }
                }
            }
        }
        advertise.dedup();
        for link in &advertise {
            self.server.advertise(Some(*link));
        }
        !advertise.is_empty()
    }

    fn overlay_ready(&mut self, ready: edge::Ready) {
        let durability = self
            .server
            .status()
            .find(|d| d.number == ready.disk)
            .map_or(Durability::Safe, |d| d.spec.durability);
        let disk = ready.disk;
        let opened = ready.opened.and_then(|o| self.edge.attach(disk, o, durability));
        let opened = opened.map_err(|error| self.edge.log.error(&error.report())).ok();
        self.server.overlay_ready(disk, opened, &mut self.edge);
    }

    fn transmit(&mut self) {
        let links = &mut self.links;
        self.server.send(&mut |number, frames| {
            if let Some(link) = links.get_mut(number) {
                // Losses are counted by the link; initiators send again.
                let _report = link.send(frames);
            }
        });
    }

    /// Takes no more frames; what is under way is finished and published.
    pub fn stop_soon(&mut self) {
        if self.stopping.is_none() {
            self.edge.log.info("stopping: finishing what is under way");
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
        self.server.is_drained() && self.edge.driver.under_way() == 0
    }

    fn wait(&self, most: Duration, signals: Option<&Signals>) {
        let mut fds = vec![self.edge.driver.poll_fd()];
        if self.stopping.is_none() {
            // A stopping server takes no frames: they would only keep it awake.
            fds.extend(self.links.iter().filter_map(|l| l.poll_fd()));
        }
        fds.extend(self.control.as_ref().map(ControlServer::poll_fd));
        fds.extend(signals.map(Signals::poll_fd));
        // If the system refuses to wait, the loop only turns faster.
        let _waited = crate::link::wait(&fds, Some(most));
    }

    fn log_serving(&self) {
        let names: Vec<&str> = self.links.iter().map(|l| l.name()).collect();
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
        for (number, broken) in disks {
            let Some((spec, top)) = self.server.remove_disk(number) else {
                outcome = outcome.and(Err(HostError::new(ErrorKind::Io, "finish all requests")));
                continue;
            };
            outcome = outcome.and(self.close_disk(number, &spec, top, broken));
        }
        self.edge.log.info("stopped");
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
        match (spec.durability, top) {
            (Durability::Ephemeral, _) => attachment.opened.delete(),
            (_, Some(top)) if !broken => {
                attachment.opened.close(&top)?;
                attachment.notes.map_or(Ok(()), crate::image::NoteLog::remove)
            }
            _ => Ok(()),
        }
    }
}
