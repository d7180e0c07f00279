//! The server loop, deterministic: frames, time and storage outcomes in; frames, operations and
//! reports out. Threads, sockets and clocks are behind [`Edge`].
//!
//! ```text
//!  frame --> demux: address, client --> Target::handle --> Action
//!                                                            |
//!  outbox <-- reply around the data <-- Pending <-- Engine <-+
//!    |                                                |
//!  Server::send                              Edge::start (IoDriver)
//! ```
//!
//! Invariants:
//! 1. Requests of one disk enter its engine in the order in which their frames arrived.
//! 2. A frame that finds no room (buffers, slots) is dropped and counted, never answered wrongly.
//! 3. Every request that was taken is answered exactly once, or its client is gone. One that comes
//!    again meanwhile is not executed again (`requests`).
//! 4. No request allocates once the buffers are warm.
//! 5. Of several workers with a loop each, one has a disk. What comes for a disk of another one is
//!    handed over with [`Edge::hand_over`], once and as it came.

mod adjacent;
mod demux;
mod disk;
mod frames;
pub mod io;
mod lending;
mod noting;
mod requests;
mod run;
mod status;
mod take;

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use aoe_proto::{Address, ForeignAnswer, Incoming, LinkLimits, Mac, Refusal, TargetState};
use cow_core::engine::{IoFailure, Note};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::pages::PagePool;

pub use demux::{AddError, identity_of};
pub use disk::{DiskSpec, Durability, Overlay};
pub use frames::FRAMES_MAX;
pub use io::{Completion, IoDriver, Job, Memory, Started};
pub use status::{DiskStatus, Unknown};

use adjacent::Adjacent;
use demux::Way;
use disk::Disk;
use frames::Frames;
use lending::Lending;
use noting::Noting;
use requests::Requests;

use crate::link::OutFrame;
use crate::share::Share;

/// Most machines that have a disk without being registered, and most of those that are listed and
/// have none, of each export. A forged source address costs nothing to send, so neither number may
/// follow the traffic: who was silent longest goes first.
pub const GUESTS_MAX: usize = 1024;

/// How often some disks are asked to commit: all that have a reason not to wait for
/// [`WRITEBACK_INTERVAL`], and so many of the others that each has its turn within it.
const COMMIT_TICK: Duration = Duration::from_secs(1);

/// Ticks of [`WRITEBACK_INTERVAL`].
const COMMIT_TURNS: u32 = 5;

/// How often a disk in `writeback` mode publishes what it has acknowledged: the "last seconds"
/// that a power cut may take. They are as many as those of ext4 unless told otherwise (`commit=5`).
///
/// What lies apart is written out and finds its place one piece after the other, so a commit each second
/// takes as long as the first writes themselves; within a few seconds pieces come together.
pub const WRITEBACK_INTERVAL: Duration = COMMIT_TICK.saturating_mul(COMMIT_TURNS);

/// Sends frames through a link, in order.
pub type Transmit<'t> = dyn FnMut(usize, &mut dyn Iterator<Item = OutFrame<'_>>) + 't;

/// How long a duplicate is not reported again: a busy one answers thousands of times a second.
const DUPLICATE_QUIET: Duration = Duration::from_mins(1);

/// What the loop causes in the world.
pub trait Edge: IoDriver {
    /// Creates the overlay of a disk that is about to be written for the first time, and answers
    /// with [`Server::overlay_ready`], at once or later.
    fn create_overlay(&mut self, disk: u32, spec: &DiskSpec);

    /// The disk of a machine nobody named, after the pattern of its export: label, identity and
    /// overlay must be the same whenever the machine comes back.
    fn newcomer(&mut self, template: &DiskSpec, address: Address, mac: Mac) -> DiskSpec;

    /// The overlay that an earlier disk of the same machine left, opened; its machine is registered
    /// then.
    fn left_overlay(&mut self, disk: u32, spec: &DiskSpec) -> LeftOverlay;

    /// Keeps notes of `disk`, at least one, so that they outlive the process.
    ///
    /// # Errors
    /// When they cannot be kept; the writes are then not acknowledged.
    fn note(&mut self, disk: u32, notes: &[Note]) -> Result<(), IoFailure>;

    /// Makes the commit log a part of the overlay of a disk that is about to be changed for the first
    /// time, and answers with [`Server::log_joined`], at once or later.
    fn join_log(&mut self, disk: u32);

    /// Keeps a note of a disk in [`Durability::Logged`] mode in its log, with the data of its
    /// sectors (none if they are zeros), in the order of the calls. As [`IoDriver::start`]: ended
    /// means durable.
    fn log(&mut self, job: Job, note: Note, data: &[u8]) -> Started {
        // Who opens no overlay with a log is never asked.
        let _: (Job, Note, &[u8]) = (job, note, data);
        Some(Err(IoFailure::Medium))
    }

    /// Notes so far belong to the commit that begins now.
    fn notes_sealed(&mut self, disk: u32);

    /// Notes before the last seal are published.
    fn notes_durable(&mut self, disk: u32);

    /// Saves what the network changed about a disk.
    fn persist(&mut self, disk: u32, spec: &DiskSpec, state: &TargetState);

    /// Tells the operator.
    fn report(&mut self, report: Report<'_>);

    /// Brings a frame that came through `link` to another worker, for
    /// [`Server::receive_handed`]. It may be lost, as on any Ethernet.
    fn hand_over(&mut self, worker: usize, link: usize, frame: &[u8]) {
        // Who has no other workers is never asked.
        let _: (usize, usize, &[u8]) = (worker, link, frame);
    }

    /// Whether one more machine may become a client, as far as all workers together know. Asked
    /// only where there are several.
    fn may_join(&self, mac: Mac) -> bool {
        let _: Mac = mac;
        true
    }
}

/// Something the operator should know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// Another machine answers for one of our addresses: initiators will write to both in turn.
    Duplicate {
        /// Our address.
        address: Address,
        /// The other machine.
        mac: Mac,
    },
    /// A machine nobody registered asks for a disk of its own.
    UnknownClient {
        /// The address it asked for.
        address: Address,
        /// The machine.
        mac: Mac,
    },
    /// A request failed in storage.
    Failed {
        /// The disk's label.
        disk: &'a str,
        /// Why.
        failure: cow_core::engine::Failure,
    },
    /// A mapping that an earlier process noted could not be taken up: the disk is not served.
    NotesLost {
        /// The disk's label.
        disk: &'a str,
        /// Why.
        failure: cow_core::engine::Failure,
    },
    /// The overlay of a disk takes no more writes.
    ReadOnly {
        /// The disk's label.
        disk: &'a str,
        /// The disk's number.
        number: u32,
    },
    /// The frozen layers under an export were changed by somebody: nothing is served from them.
    BackingChanged {
        /// The export.
        address: Address,
    },
}

/// One interface.
#[derive(Clone, Copy, Debug)]
struct LinkState {
    mac: Mac,
    /// `None` while the MTU is too small for any target.
    limits: Option<LinkLimits>,
}

/// What is behind one address.
#[derive(Debug)]
struct Export {
    address: Address,
    layers: Arc<[Layer<'static>]>,
    sectors: u64,
    macs: Vec<Mac>,
    sharing: Sharing,
    /// Somebody changed a frozen layer: every request for data fails.
    broken: bool,
    /// Somebody may be about to change one: nothing is answered until that is known.
    suspended: bool,
}

#[derive(Debug)]
enum Sharing {
    /// One disk for everybody.
    One(u32),
    /// One disk for everybody, which another worker has.
    Elsewhere(usize),
    /// A disk for each client, by source address.
    PerClient {
        by_mac: HashMap<Mac, u32>,
        /// Machines whose disk another worker has although the kernel does not know.
        elsewhere: HashMap<Mac, usize>,
        newcomers: Newcomers,
        template: Box<DiskSpec>,
        unknown: Vec<Unknown>,
    },
}

/// What happens to a source address that no client has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Newcomers {
    /// It is listed and not answered.
    Refuse,
    /// It gets a disk, whose overlay is created at its first write, while there are fewer than
    /// so many clients. Until then it is a guest, and there may be more guests than room for
    /// clients: whoever writes first becomes one.
    Auto {
        /// Most clients of this export.
        max: usize,
    },
}

/// How an export is made.
#[derive(Debug)]
pub struct ExportSpec {
    /// Shelf and slot.
    pub address: Address,
    /// Frozen layers, top first.
    pub layers: Arc<[Layer<'static>]>,
    /// Size of the disk.
    pub sectors: u64,
    /// Only these may see it; empty: everybody.
    pub macs: Vec<Mac>,
    /// Its disk, or the pattern of each client's disk.
    pub disk: DiskSpec,
    /// `None`: one disk for everybody.
    pub per_client: Option<Newcomers>,
}

/// What an overlay has to do with a commit log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogUse {
    /// Nothing.
    None,
    /// The log is part of it.
    Part,
    /// It becomes so with the first change: [`Edge::join_log`] is asked before that.
    AtFirstChange,
}

/// An overlay that is ready to be used.
#[derive(Debug)]
pub struct Opened {
    /// The overlay.
    pub top: Top,
    /// Its index memory.
    pub index: Vec<IndexEntry>,
    /// Sectors with space of their own already.
    pub used: u64,
    /// Whether [`Edge::log`] may be asked. A disk in [`Durability::Logged`] mode whose overlay has no
    /// commit log is a `Safe` one.
    pub log: LogUse,
    /// What [`Edge::note`] keeps of it outlives the process.
    pub noted: bool,
    /// Mappings of an earlier process to be taken up, every sector at most once: they are taken
    /// up in any order.
    pub notes: Vec<Note>,
}

/// What there is of an earlier disk of a machine that nobody registered.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once for each machine, and taken apart at once"
)]
pub enum LeftOverlay {
    /// Nothing: it begins with the layers below.
    None,
    /// Its overlay.
    Opened(Opened),
    /// An overlay that cannot be used: the machine must not see another disk instead.
    Unusable,
}

/// Totals of the loop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Frames that were no request to this server.
    pub ignored: u64,
    /// Requests dropped because buffers or slots were used up.
    pub overrun: u64,
    /// Answers of other machines that claim one of our addresses.
    pub duplicates: u64,
    /// Frames handed over to the workers that they are for.
    pub handed_over: u64,
    /// Frames that other workers handed over.
    pub taken_over: u64,
    /// Frame buffers in existence, at most [`FRAMES_MAX`].
    pub buffers: usize,
}

/// The loop's state: exports, disks, requests under way.
#[derive(Debug)]
pub struct Server<'m> {
    share: Share,
    pool: PagePool<'m>,
    links: Vec<LinkState>,
    exports: Vec<Export>,
    by_address: HashMap<Address, usize>,
    disks: Vec<Option<Box<Disk>>>,
    active: Vec<u32>,
    /// Disks that wait for pages of the pool.
    starved: usize,
    requests: Requests,
    frames: Frames,
    /// Empty between the turns of disks.
    adjacent: Adjacent,
    /// Likewise.
    noting: Noting,
    lending: Lending,
    allow: Vec<Mac>,
    totals: Totals,
    now: Duration,
    duplicate_reported: Option<Duration>,
    next_commit: Duration,
    /// Which disks have their turn to commit, by their number.
    turn: u32,
}

impl<'m> Server<'m> {
    /// A server with nothing to serve. Only stations in `allow` are answered, if there are any.
    pub fn new(pool: PagePool<'m>, allow: Vec<Mac>) -> Self {
        Self::sharing(pool, allow, Share::ALL)
    }

    /// As [`new`](Self::new), one of several: it knows all exports, and has the disks of its share.
    pub fn sharing(pool: PagePool<'m>, allow: Vec<Mac>, share: Share) -> Self {
        Self {
            share,
            pool,
            links: Vec::new(),
            exports: Vec::new(),
            by_address: HashMap::new(),
            disks: Vec::new(),
            active: Vec::new(),
            starved: 0,
            requests: Requests::default(),
            frames: Frames::default(),
            adjacent: Adjacent::default(),
            noting: Noting::default(),
            lending: Lending::default(),
            allow,
            totals: Totals::default(),
            now: Duration::ZERO,
            duplicate_reported: None,
            next_commit: COMMIT_TICK,
            turn: 0,
        }
    }

    /// Adds an interface and returns its number.
    pub fn add_link(&mut self, mac: Mac, mtu: usize) -> usize {
        self.links.push(LinkState { mac, limits: None });
        let link = self.links.len() - 1;
        self.link_changed(link, mac, mtu);
        link
    }

    /// Whether every link takes mapped bytes, so that data may be sent from where they lie.
    pub fn lend_reads(&mut self, lend: bool) {
        self.requests.lend = lend;
    }

    /// Some answer whose data are to be sent from where they lie has not been handed out yet.
    pub fn is_lending(&self) -> bool {
        self.requests.lent > 0 || !self.frames.outbox().is_empty()
    }

    /// The interface has this address and MTU now.
    pub fn link_changed(&mut self, link: usize, mac: Mac, mtu: usize) {
        let limits = LinkLimits::for_mtu(mtu);
        if let Some(state) = self.links.get_mut(link) {
            *state = LinkState { mac, limits };
        }
        if let Some(limits) = limits {
            self.frames.grow(limits.frame_len_max());
        }
    }

    /// Time passes. `now` counts from any origin and never goes back.
    pub fn tick(&mut self, now: Duration, edge: &mut impl Edge) {
        self.now = now;
        if now >= self.next_commit {
            self.next_commit = now.saturating_add(COMMIT_TICK);
            self.turn = (self.turn + 1) % COMMIT_TURNS;
            let turn = self.turn;
            self.commit_where(|number, disk| {
                (number % COMMIT_TURNS == turn || !disk.can_wait()) && disk.commit()
            });
        }
        self.run(edge);
    }

    /// Which worker this is.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Takes one received frame. [`run`](Self::run) follows the batch.
    pub fn receive(&mut self, link: usize, frame: &[u8], edge: &mut impl Edge) {
        self.take_frame(link, frame, Way::Direct(frame), edge);
    }

    /// As [`receive`](Self::receive), of a frame that another worker received.
    pub fn receive_handed(&mut self, link: usize, frame: &[u8], edge: &mut impl Edge) {
        self.totals.taken_over += 1;
        self.take_frame(link, frame, Way::Handed, edge);
    }

    fn take_frame(&mut self, link: usize, frame: &[u8], way: Way<'_>, edge: &mut impl Edge) {
        let Some(state) = self.links.get(link).copied() else { return };
        let Some(limits) = state.limits else { return };
        // Longer than any link of ours ever carried: there is no buffer for what is in it.
        if frame.len() > self.frames.len_max() {
            self.totals.ignored += 1;
            return;
        }
        match Incoming::parse(frame, state.mac) {
            Ok(request) => self.demultiplex((link, limits), &request, way, edge),
            Err(Refusal::Response) => self.foreign(link, frame, state.mac, way, edge),
            Err(_) => self.totals.ignored += 1,
        }
    }

    /// Hands every answer to `transmit`, by link and in order.
    pub fn send(&mut self, transmit: &mut Transmit<'_>) {
        for link in 0..self.links.len() {
            let outbox = self.frames.outbox();
            if outbox.iter().any(|(l, _)| *l == link) {
                let mut frames = outbox.iter().filter(|(l, _)| *l == link).map(|(_, b)| b.frame());
                transmit(link, &mut frames);
            }
        }
        self.frames.clear_outbox();
        self.lending.sent();
    }

    /// An operation that was started earlier has ended.
    pub fn complete(&mut self, completion: &Completion) {
        self.complete_operation(completion);
        self.activate(completion.job.disk);
    }

    /// Totals since the start.
    pub fn totals(&self) -> Totals {
        Totals { buffers: self.frames.made(), ..self.totals }
    }

    /// Nothing is under way on any disk, and nothing acknowledged waits to be published.
    pub fn is_drained(&self) -> bool {
        self.disks().all(|(_, d)| d.is_drained())
    }

    /// Publishes everything that was acknowledged, before the end: to be called again until
    /// [`is_drained`](Self::is_drained).
    pub fn commit_all(&mut self) {
        self.commit_where(|_, disk| disk.commit_at_rest());
    }

    /// Publishes what was acknowledged and is not published yet, without waiting for the next
    /// interval.
    pub fn commit_written(&mut self) {
        self.commit_where(|_, disk| disk.commit());
    }

    /// Some overlay with a commit log has no room for what the log holds of it.
    pub fn is_any_full(&self) -> bool {
        self.disks().any(|(_, disk)| disk.is_short_of_room())
    }

    /// Whether disks with a commit log refuse changes, because it has no room.
    pub fn refuse_logged(&mut self, refuse: bool) {
        for disk in self.disks.iter_mut().flatten().filter(|disk| disk.is_logged()) {
            disk.engine.refuse_changes(refuse);
        }
    }

    /// Overlays that have no room take no more writes: at the end, what the commit log holds of
    /// them is kept for the next server.
    pub fn abandon_full(&mut self) {
        for number in 0..self.disks.len() {
            let Ok(number) = u32::try_from(number) else { return };
            if let Some(disk) = self.disk_mut(number).filter(|disk| disk.is_short_of_room()) {
                disk.engine.abandon();
                self.activate(number);
            }
        }
    }

    fn commit_where(&mut self, begin: impl Fn(u32, &mut Disk) -> bool) {
        for number in 0..self.disks.len() {
            let Ok(number) = u32::try_from(number) else { return };
            if self.disk_mut(number).is_some_and(|disk| begin(number, disk)) {
                self.activate(number);
            }
        }
    }

    /// Puts a disk on the list of those that may have something to do.
    fn activate(&mut self, number: u32) {
        if let Some(disk) = self.disk_mut(number)
            && !disk.active
        {
            disk.active = true;
            self.active.push(number);
        }
    }

    fn foreign(
        &mut self,
        link: usize,
        frame: &[u8],
        own_mac: Mac,
        way: Way<'_>,
        edge: &mut impl Edge,
    ) {
        let answer = ForeignAnswer::parse(frame, own_mac);
        let ours = |mac| self.links.iter().any(|l| l.mac == mac);
        // From an address that no machine can have it says nothing about any machine.
        let counts = |a: &ForeignAnswer| {
            self.by_address.contains_key(&a.address) && a.src.is_unicast() && !ours(a.src)
        };
        let Some(answer) = answer.filter(counts) else {
            self.totals.ignored += 1;
            return;
        };
        if let Some(worker) = self.elsewhere(answer.address) {
            // Who has the disk can tell the other server what it is.
            self.hand_over(worker, link, way, edge);
            return;
        }
        self.totals.duplicates += 1;
        let quiet =
            self.duplicate_reported.is_some_and(|at| self.now < at.saturating_add(DUPLICATE_QUIET));
        if !quiet {
            self.duplicate_reported = Some(self.now);
            edge.report(Report::Duplicate { address: answer.address, mac: answer.src });
            self.advertise_to(link, answer.address, answer.src);
        }
    }

    fn disk_mut(&mut self, number: u32) -> Option<&mut Disk> {
        self.disks.get_mut(number as usize)?.as_deref_mut()
    }

    fn disks(&self) -> impl Iterator<Item = (u32, &Disk)> {
        self.disks
            .iter()
            .enumerate()
            .filter_map(|(number, disk)| Some((u32::try_from(number).ok()?, disk.as_deref()?)))
    }
}
