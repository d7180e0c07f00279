//! Clients: how each real initiator behaves, replayed against a target. No I/O, no clock.
//!
//! An [`Actor`] does what its [`Client`] does that matters to a target: how it looks for its disk and
//! what it makes of each field of the answer, its tags and timers, the IDENTIFY words it reads, the
//! sizes of its requests and how many it has outstanding, and what it makes of errors, short answers
//! and silence. It looks for the disk, identifies it, reads its beginning, its end and odd ranges,
//! reads as fast as that client does, writes inside a window if one is permitted and puts back what
//! was there, and looks again. Its [`Report`] says how the client would fare: [`Level`], and every
//! [`Cause`] with its section and its numbers.
//!
//! ```text
//!           poll(now) -> Event                       received(frame, now)
//! driver  <---------------------------  Actor  <---------------------------  driver
//! ```
//!
//! 1. Lend [`Memory`], make an [`Actor`] from a [`Client`] and an [`ActorConfig`].
//! 2. Call [`Actor::poll`] and do what the [`Event`] says, until [`Event::Done`]. After
//!    [`Event::Wait`] give it the frames that arrive, and poll again after each and at that time.
//! 3. [`Event::Record`] has to be durable before the next call; `conformance::Restore` undoes such a
//!    journal. If it cannot be written call [`Actor::forbid_changes`].
//! 4. [`Actor::evidence`] shows the frames behind the gravest cause.
//!
//! Time may be real or virtual. The clients have more patience than anybody who waits for a report:
//! [`ActorConfig::patience_ms`] says when a request counts as unanswered, and no retransmission is
//! later than a quarter of it. With a patience of more than 180 s all timers are the clients' own.
//!
//! While it reads and puts back the window, the actor goes by the protocol and not by the habits of
//! its client: it must not put back what a careless client took for data.

mod flight;
mod judge;
mod script;
#[cfg(test)]
mod tests;
mod traits;
mod why;

pub use flight::Slot;
pub use script::Stage;
pub use traits::Client;
pub use why::{CAUSES_MAX, Cause, Evidence, Level, Report, Why};

use crate::conformance::{Record, Window};
use crate::error::BufferTooSmall;
use crate::sectors::SECTOR_BYTES;
use crate::wire::{Address, Mac, Tag};
use flight::{Clock, Flying, Letterhead, Retired, Tagger};
use script::{Op, Plan};
use traits::{Search, Traits};

/// Longest time that `WinAoE` waits for an answer while it tries frame sizes. `[AoE 5.6]`
const FRAME_SIZE_WAIT_MS: u64 = 250;
/// Time between its transmissions meanwhile.
const FRAME_SIZE_RESEND_MS: u64 = 50;
/// Bytes of a frame in front of the data.
const OVERHEAD: usize = 36;
/// Time between two searches of Linux. `[AoE 8.1]`
const LINUX_SEARCH_MS: u64 = 60_000;

/// What an actor needs to know.
#[derive(Clone, Copy, Debug)]
pub struct ActorConfig {
    /// The target.
    pub address: Address,
    /// Our address.
    pub own_mac: Mac,
    /// MTU of our link in bytes.
    pub mtu: u16,
    /// Where writes are allowed; without it nothing is written.
    pub window: Option<Window>,
    /// Where the tags begin; different for every run.
    pub tag_seed: u32,
    /// When a request counts as unanswered, in milliseconds.
    pub patience_ms: u64,
}

impl ActorConfig {
    /// No writes, and a patience of 3 s.
    pub const fn new(address: Address, own_mac: Mac, mtu: u16) -> Self {
        Self { address, own_mac, mtu, window: None, tag_seed: 0, patience_ms: 3000 }
    }
}

/// What the caller lends.
#[derive(Debug)]
pub struct Memory<'m> {
    /// For the frame being sent: [`Memory::frame_len`] bytes.
    pub frame: &'m mut [u8],
    /// For the request behind the gravest cause: as long.
    pub sent: &'m mut [u8],
    /// For the answer behind the gravest cause: as long.
    pub received: &'m mut [u8],
    /// For the last answer that the client dropped: as long.
    pub dropped: &'m mut [u8],
    /// For the contents of the window: 512 bytes for each of its sectors.
    pub window: &'m mut [u8],
    /// For requests under way; their number bounds the client's own window. 64 are enough.
    pub slots: &'m mut [Slot],
}

impl Memory<'_> {
    /// Bytes of a frame on a link with this MTU.
    pub const fn frame_len(mtu: u16) -> usize {
        mtu as usize + 14
    }
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Send this frame.
    Send(&'a [u8]),
    /// Wait for frames, at most until this time in milliseconds.
    Wait(u64),
    /// Append this to the journal, durably.
    Record(Record<'a>),
    /// A part of the script begins.
    Started(Stage),
    /// Over.
    Done(&'a Report),
}

/// The frames behind a cause.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// What was asked.
    pub sent: &'a [u8],
    /// What was answered, if anything.
    pub received: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Announcing the stage.
    Announce,
    /// Handing out journal records.
    Record(u8),
    /// Sending and waiting.
    Work,
    Done,
}

/// What to hand out, before it borrows from the actor.
#[derive(Clone, Copy)]
enum Next {
    Send(usize),
    Wait(u64),
    Record(u8),
    Started,
    Done,
}

/// Replays a client against a target. See the [module](self).
#[expect(clippy::struct_excessive_bools, reason = "four things that are known or not")]
pub struct Actor<'m> {
    config: ActorConfig,
    traits: &'static Traits,
    memory: Memory<'m>,
    report: Report,
    phase: Phase,
    stage: Stage,
    /// Number of the next request of the stage.
    index: u32,
    plan: Plan,
    lba48: bool,
    tagger: Tagger,
    retired: Retired,
    clock: Clock,
    /// Where requests go: broadcast until somebody answered.
    server: Mac,
    buffer_count: u16,
    /// Why the last answer was dropped, its length, and the number in it that mattered.
    near: Option<(Why, usize, Option<u64>)>,
    /// Hash and size of the IDENTIFY page.
    page: Option<(u64, u64)>,
    /// Hash of the second sector of the disk.
    second_sector: Option<u64>,
    /// Sectors that the largest complete answer carried.
    fitting: u8,
    burst_lost: u32,
    /// Nothing more may be written, but for what was there before.
    forbidden: bool,
    /// A strict stage failed.
    spoiled: bool,
    /// The client knows that a write failed.
    refused: bool,
    evidence: (usize, Option<usize>),
}

impl core::fmt::Debug for Actor<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Actor").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'m> Actor<'m> {
    /// An actor that has sent nothing yet.
    ///
    /// # Errors
    /// [`BufferTooSmall`] if a part of the memory is, with the length that is needed.
    pub fn new(
        client: Client,
        config: ActorConfig,
        memory: Memory<'m>,
    ) -> Result<Self, BufferTooSmall> {
        let needed = Memory::frame_len(config.mtu).max(60);
        let parts = [&memory.frame, &memory.sent, &memory.received, &memory.dropped];
        if parts.iter().any(|part| part.len() < needed) {
            return Err(BufferTooSmall { needed });
        }
        let sectors = config.window.map_or(0, |window| usize::from(window.sectors));
        let needed = sectors.saturating_mul(SECTOR_BYTES);
        if memory.window.len() < needed {
            return Err(BufferTooSmall { needed });
        }
        if memory.slots.is_empty() {
            return Err(BufferTooSmall { needed: 1 });
        }
        memory.slots.fill(Slot::default());
        let traits = client.traits();
        let own = usize::from(config.mtu).saturating_sub(OVERHEAD) / SECTOR_BYTES;
        let own_max = u8::try_from(own).unwrap_or(u8::MAX).max(1);
        let plan = Plan {
            client,
            search: traits.search,
            sectors: 1,
            step: 2.min(own_max),
            window: 1,
            own_max,
            area: config.window,
        };
        Ok(Self {
            config,
            traits,
            memory,
            report: Report::new(client),
            phase: Phase::Announce,
            stage: Stage::Discover,
            index: 0,
            plan,
            lba48: traits.always_lba48,
            tagger: Tagger { tags: traits.tags, counter: config.tag_seed },
            retired: Retired::default(),
            clock: Clock::new(traits.timer, (config.patience_ms / 4).max(1)),
            server: Mac::BROADCAST,
            buffer_count: 0,
            near: None,
            page: None,
            second_sector: None,
            fitting: 0,
            burst_lost: 0,
            forbidden: config.window.is_none(),
            spoiled: false,
            refused: false,
            evidence: (0, None),
        })
    }

    /// What to do now. Call it again after every event but [`Event::Wait`], after which frames or
    /// time have to come first.
    pub fn poll(&mut self, now_ms: u64) -> Event<'_> {
        // Every turn without an event ends a request, or moves on to another stage.
        let next = loop {
            if let Some(next) = self.advance(now_ms) {
                break next;
            }
        };
        match next {
            Next::Send(len) => Event::Send(self.memory.frame.get(..len).unwrap_or_default()),
            Next::Wait(until) => Event::Wait(until),
            Next::Record(number) => Event::Record(self.record(number)),
            Next::Started => Event::Started(self.stage),
            Next::Done => Event::Done(&self.report),
        }
    }

    /// The journal cannot be written: nothing is changed from now on. Call it instead of going on
    /// after [`Event::Record`].
    pub const fn forbid_changes(&mut self) {
        self.forbidden = true;
    }

    /// What is known so far.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The frames behind the gravest cause; empty without one.
    pub fn evidence(&self) -> Frames<'_> {
        let (sent, received) = self.evidence;
        Frames {
            sent: self.memory.sent.get(..sent).unwrap_or_default(),
            received: received.and_then(|len| self.memory.received.get(..len)),
        }
    }
}

impl Actor<'_> {
    fn advance(&mut self, now: u64) -> Option<Next> {
        match self.phase {
            Phase::Announce => {
                self.phase = match self.stage {
                    Stage::Done => Phase::Done,
                    Stage::Write if !self.forbidden => Phase::Record(0),
                    _ => Phase::Work,
                };
                (self.stage != Stage::Done).then_some(Next::Started)
            }
            Phase::Record(number) => {
                self.phase = match number {
                    0 => Phase::Record(1),
                    1 => Phase::Work,
                    // The window is restored.
                    _ => {
                        self.enter_next();
                        self.phase
                    }
                };
                Some(Next::Record(number))
            }
            Phase::Work => self.work(now),
            Phase::Done => Some(Next::Done),
        }
    }

    fn record(&self, number: u8) -> Record<'_> {
        let Window { lba, sectors } = self.config.window.unwrap_or(Window { lba: 0, sectors: 0 });
        match number {
            0 => Record::Run { address: self.config.address, target_mac: self.server },
            1 => {
                let len = usize::from(sectors).saturating_mul(SECTOR_BYTES);
                Record::Sectors { lba, data: self.memory.window.get(..len).unwrap_or_default() }
            }
            _ => Record::Restored,
        }
    }

    fn work(&mut self, now: u64) -> Option<Next> {
        if self.stage == Stage::Write && self.forbidden {
            self.enter(Stage::Again);
            return None;
        }
        let due = self
            .memory
            .slots
            .iter()
            .position(|slot| slot.0.is_some_and(|flying| flying.due_ms <= now));
        if let Some(at) = due {
            return self.overdue(at, now);
        }
        let flying = self.memory.slots.iter().filter(|slot| slot.0.is_some()).count();
        let free = self.memory.slots.iter().position(|slot| slot.0.is_none());
        if flying < self.window()
            && let Some(at) = free
            && let Some(op) = self.plan.request(self.stage, self.index)
        {
            self.index = self.index.saturating_add(1);
            let tag = if matches!(op, Op::Query { .. }) && self.traits.search == Search::EveryConfig
            {
                Tag([0; 4])
            } else {
                self.tagger.next(now)
            };
            let flying = Flying { op, tag, first_ms: now, sent_ms: now, due_ms: now, sends: 0 };
            return self.transmit(at, flying, now);
        }
        if flying == 0 {
            self.finish_stage();
            return None;
        }
        let dues = self.memory.slots.iter().filter_map(|slot| slot.0).map(|f| f.due_ms);
        Some(Next::Wait(dues.min().unwrap_or(now)))
    }

    /// Requests outstanding in this stage.
    fn window(&self) -> usize {
        if self.stage == Stage::Burst { usize::from(self.plan.window.max(1)) } else { 1 }
    }

    fn transmit(&mut self, at: usize, mut flying: Flying, now: u64) -> Option<Next> {
        flying.sent_ms = now;
        flying.sends = flying.sends.saturating_add(1);
        let wait = match (self.stage, flying.op) {
            (Stage::FrameSize, _) => {
                let left = flying.first_ms.saturating_add(FRAME_SIZE_WAIT_MS).saturating_sub(now);
                left.min(FRAME_SIZE_RESEND_MS)
            }
            (Stage::Discover, _) if self.traits.search == Search::EveryConfig => {
                LINUX_SEARCH_MS.min(self.config.patience_ms / 4).max(1)
            }
            _ => self.clock.wait_ms(flying.sends),
        };
        flying.due_ms = now.saturating_add(wait);
        let len = self.emit(flying.op, flying.tag);
        if let Some(slot) = self.memory.slots.get_mut(at) {
            slot.0 = len.map(|_| flying);
        }
        self.report.sent = self.report.sent.saturating_add(1);
        self.report.wrote |= self.stage == Stage::Write;
        len.map(Next::Send)
    }

    /// Writes a request into the memory for frames. `None` if it does not fit, which the plan rules
    /// out.
    fn emit(&mut self, op: Op, tag: Tag) -> Option<usize> {
        let Memory { frame, window, .. } = &mut self.memory;
        let letterhead = Letterhead {
            traits: self.traits,
            own_mac: self.config.own_mac,
            dst: self.server,
            address: self.config.address,
            lba48: self.lba48,
            area: self.config.window,
            originals: window,
        };
        letterhead.emit(op, tag, frame).ok()
    }

    /// A request has waited long enough: it is sent again, or given up.
    fn overdue(&mut self, at: usize, now: u64) -> Option<Next> {
        let slot = self.memory.slots.get_mut(at)?;
        let mut flying = slot.0?;
        let searching = self.stage == Stage::FrameSize;
        let patience = if searching { FRAME_SIZE_WAIT_MS } else { self.config.patience_ms };
        if now.saturating_sub(flying.first_ms) >= patience {
            slot.0 = None;
            self.retired.add(&flying, false);
            self.unanswered(&flying);
            return None;
        }
        if self.stage == Stage::Burst && flying.sends == 1 {
            self.burst_lost = self.burst_lost.saturating_add(1);
        }
        if self.tagger.renews() && !matches!(flying.op, Op::Query { .. }) {
            self.retired.add(&flying, false);
            flying.tag = self.tagger.next(now);
        }
        self.report.resent = self.report.resent.saturating_add(1);
        self.transmit(at, flying, now)
    }

    /// All requests of a stage are over.
    fn finish_stage(&mut self) {
        match self.stage {
            Stage::FrameSize => {
                self.plan.step = self.fitting.max(1);
                self.report.sectors_max = self.plan.step;
            }
            Stage::Burst => {
                let total = self.index;
                if self.burst_lost > 0 && self.burst_lost.saturating_mul(4) >= total {
                    let evidence = Evidence {
                        found: Some(self.burst_lost.into()),
                        expected: Some(0),
                        ..Evidence::default()
                    };
                    self.say(Why::Drops, Level::Degraded, evidence);
                }
            }
            Stage::Save if self.spoiled => {
                // What cannot be read cannot be put back.
                self.enter(Stage::Again);
                return;
            }
            Stage::Compare => {
                self.report.restored = Some(!self.spoiled);
                if !self.spoiled {
                    self.phase = Phase::Record(2);
                    return;
                }
            }
            _ => {}
        }
        self.enter_next();
    }

    fn enter_next(&mut self) {
        let next =
            script::after(self.report.client, self.stage, !self.forbidden || self.report.wrote);
        self.enter(next);
    }

    /// Goes on with a stage, or with the first one of the client's behind it.
    fn enter(&mut self, stage: Stage) {
        let stages = script::stages(self.report.client);
        let known = stages.contains(&stage);
        self.stage = if known { stage } else { Stage::Done };
        if self.stage == Stage::Compare {
            // Whether everything was put back is decided by what is there.
            self.spoiled = false;
        }
        self.index = 0;
        self.near = None;
        self.phase = Phase::Announce;
        self.report.stage = self.stage;
    }

    /// The client cannot go on. What was written is put back.
    fn stop(&mut self) {
        for slot in self.memory.slots.iter_mut() {
            slot.0 = None;
        }
        let dirty = self.report.wrote && self.stage < Stage::Restore;
        let reached = self.stage;
        self.enter(if dirty { Stage::Restore } else { Stage::Done });
        if !dirty {
            self.report.stage = reached;
        }
    }
}
