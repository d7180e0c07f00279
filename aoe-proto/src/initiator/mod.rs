//! The initiator: asks one target, with tags, a window and retransmission. No I/O; time is an
//! argument.
//!
//! The caller moves frames and keeps time:
//!
//! 1. [`Initiator::submit`] takes requests, up to `N` at once.
//! 2. [`Initiator::poll_transmit`] writes frames until there is nothing to send; call it again
//!    after every other call.
//! 3. [`Initiator::handle_frame`] takes every received frame; a completion borrows the data from it.
//! 4. [`Initiator::poll_timeout`] tells when to call [`Initiator::handle_timeout`]; requests that
//!    got no answer come out of [`Initiator::poll_completion`] afterwards.
//!
//! Submit [`Request::ConfigRead`] first: its answer tells where the target is, how much it queues
//! and how large its frames are. Until then requests go to the broadcast address one by one, with at
//! most [`SECTORS_BEFORE_CONFIG`] sectors.
//!
//! Requests in flight may take effect in any order, because each may be lost and sent again: do not
//! submit a request that overlaps an outstanding write. Retransmissions keep their tag, so that a
//! late answer still counts. Tags have the top bit set, and the Linux driver of the same machine
//! ignores them. `[AoE 2.6]`

mod discovery;
mod request;
mod window;

pub use discovery::{Found, QUERY_TAG, emit_query};
pub use request::{Request, SubmitError, fill_trim_entries, pieces};

use core::fmt;

use crate::ata::identify::{Identify, Page};
use crate::error::{BufferTooSmall, Refusal};
use crate::link::LinkLimits;
use crate::sectors::SECTOR_BYTES;
use crate::wire::mac_mask::Directives;
use crate::wire::reserve::Macs;
use crate::wire::{
    Address, AoeError, AtaArg, Command, Header, Mac, MaskArg, MaskError, ReserveArg, Tag, VERSION,
};
use request::Limits;
use window::{RoundTrip, Window};

/// Sectors per request before the target has told its limit: what fits everywhere. `[AoE 4]`
pub const SECTORS_BEFORE_CONFIG: u8 = 2;

/// Transmissions to a known machine before it is searched by broadcast: it may have moved to
/// another interface or been replaced.
const UNICAST_ATTEMPTS: u32 = 3;

/// When to send again, and when to give up, all in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Shortest wait for an answer.
    pub retransmit_min_ms: u64,
    /// Wait for the first answer of all, when nothing is known about the round trip.
    pub retransmit_first_ms: u64,
    /// Longest wait, however often it was doubled.
    pub retransmit_max_ms: u64,
    /// A request fails when its first transmission is this old.
    pub give_up_ms: u64,
}

impl Default for Timing {
    /// 250 ms (as iPXE), 500 ms, 10 s, 30 s.
    fn default() -> Self {
        Self {
            retransmit_min_ms: 250,
            retransmit_first_ms: 500,
            retransmit_max_ms: 10_000,
            give_up_ms: 30_000,
        }
    }
}

/// What an initiator needs to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InitiatorConfig {
    /// Address of our interface.
    pub own_mac: Mac,
    /// The target.
    pub address: Address,
    /// What fits into our own frames.
    pub link: LinkLimits,
    /// Where the tags begin; different for every start, so that late answers to an earlier one do
    /// not match.
    pub tag_seed: u32,
    /// Whether to use 48-bit commands; the IDENTIFY page tells whether the target has them.
    pub lba48: bool,
    /// Timers.
    pub timing: Timing,
}

impl InitiatorConfig {
    /// 48-bit commands and default timers.
    pub fn new(own_mac: Mac, address: Address, link: LinkLimits, tag_seed: u32) -> Self {
        Self { own_mac, address, link, tag_seed, lba48: true, timing: Timing::default() }
    }
}

/// The name of an outstanding request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RequestId(u32);

/// A request that was not accepted, with its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rejected<P> {
    /// Why.
    pub error: SubmitError,
    /// What was submitted.
    pub request: Request<P>,
}

/// A request that is done.
#[derive(Clone, Debug)]
pub struct Completion<'f, P> {
    /// What [`Initiator::submit`] returned.
    pub id: RequestId,
    /// What was submitted.
    pub request: Request<P>,
    /// How it went.
    pub result: Result<Answer<'f>, Failure>,
    /// The argument of the answer, which some failures explain (the config string that stands, the
    /// holders of the reservation); empty without an answer.
    pub argument: &'f [u8],
}

/// What came back.
#[derive(Clone, Debug)]
pub enum Answer<'f> {
    /// The configuration.
    Config(Found<'f>),
    /// The IDENTIFY page.
    Identify(Identify<'f>),
    /// Exactly the sectors asked for.
    Data(&'f [u8]),
    /// Done; there is nothing to tell.
    Done,
    /// The MAC mask list; every entry is a directive without a command.
    Mask(Directives<'f>),
    /// The reservation.
    Reserve(Macs<'f>),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Failure {
    /// No answer in time.
    TimedOut,
    /// The target answered with an AoE error.
    Aoe(AoeError),
    /// The target answered with an ATA error.
    Ata {
        /// Status register.
        status: u8,
        /// Error register.
        error: u8,
    },
    /// A mask edit stopped.
    Mask {
        /// Why.
        error: MaskError,
        /// Directives that were processed before.
        processed: u8,
    },
    /// The answer is shorter than it has to be.
    Malformed,
}

/// Bits of the error register, and what they mean for reads and writes. [ACS-3 6.3]
const ERROR_BITS: [(u8, &str); 4] = [
    (0x80, "the frame was damaged on its way (ICRC)"),
    (0x40, "the medium failed, or is write-protected (UNC)"),
    (0x10, "no such sectors (IDNF)"),
    (0x04, "the command was refused (ABRT)"),
];

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no answer"),
            Self::Aoe(error) => write!(f, "AoE error: {error}"),
            Self::Ata { status, error } => {
                f.write_str("ATA error: ")?;
                for (bit, meaning) in ERROR_BITS {
                    if error & bit != 0 {
                        write!(f, "{meaning}, ")?;
                    }
                }
                write!(f, "status {status:#04x}, error {error:#04x}")
            }
            Self::Mask { error, processed } => {
                write!(f, "mask edit stopped after {processed} directives: {error:?}")
            }
            Self::Malformed => f.write_str("the answer is malformed"),
        }
    }
}

impl core::error::Error for Failure {}

/// What a received frame meant.
#[derive(Clone, Debug)]
pub enum Event<'f, P> {
    /// A request is done.
    Completed(Completion<'f, P>),
    /// The target told about itself without being asked.
    Advertised(Found<'f>),
    /// Nothing for this initiator.
    Ignored(Refusal),
}

/// Asks one target, with at most `N` requests outstanding.
#[derive(Debug)]
pub struct Initiator<P, const N: usize> {
    config: InitiatorConfig,
    target_mac: Option<Mac>,
    sectors_max: Option<u8>,
    window: Window,
    round_trip: RoundTrip,
    next_tag: u32,
    next_order: u64,
    slots: [Option<Slot<P>>; N],
}

#[derive(Debug)]
struct Slot<P> {
    request: Request<P>,
    tag: u32,
    /// Requests leave in the order in which they came, retransmissions first.
    order: u64,
    state: State,
    attempts: u32,
    first_sent_ms: u64,
    broadcast: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Queued,
    InFlight { sent_ms: u64, deadline_ms: u64 },
    TimedOut,
}

impl<P: AsRef<[u8]>, const N: usize> Initiator<P, N> {
    /// An initiator that knows nothing about its target yet.
    pub fn new(config: InitiatorConfig) -> Self {
        Self {
            config,
            target_mac: None,
            sectors_max: None,
            window: Window::new(),
            round_trip: RoundTrip::new(),
            next_tag: config.tag_seed,
            next_order: 0,
            slots: core::array::from_fn(|_| None),
        }
    }

    /// The machine that answers for the target, once it has.
    pub const fn target_mac(&self) -> Option<Mac> {
        self.target_mac
    }

    /// Most sectors of a request: the target's limit or that of our link.
    pub fn sectors_max(&self) -> u8 {
        self.sectors_max.unwrap_or(SECTORS_BEFORE_CONFIG).min(self.config.link.sectors_max())
    }

    /// Changes to 28-bit or 48-bit commands.
    pub const fn set_lba48(&mut self, lba48: bool) {
        self.config.lba48 = lba48;
    }

    /// Requests that are not completed.
    pub fn outstanding(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Requests that may be in flight at once, as things are.
    pub const fn window(&self) -> u16 {
        self.window.size()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`Rejected`] gives it back: no free slot, or nothing that fits into a frame.
    pub fn submit(&mut self, request: Request<P>) -> Result<RequestId, Rejected<P>> {
        let limits = Limits {
            sectors_max: self.sectors_max(),
            mask_entries_max: self.config.link.mask_entries_max(),
            reserve_entries_max: self.config.link.reserve_entries_max(),
            lba48: self.config.lba48,
        };
        if let Err(error) = request.validate(&limits) {
            return Err(Rejected { error, request });
        }
        let tag = self.free_tag();
        let order = self.next_order;
        let Some(free) = self.slots.iter_mut().find(|slot| slot.is_none()) else {
            return Err(Rejected { error: SubmitError::Full, request });
        };
        *free = Some(Slot {
            request,
            tag,
            order,
            state: State::Queued,
            attempts: 0,
            first_sent_ms: 0,
            broadcast: false,
        });
        self.next_order = order.wrapping_add(1);
        Ok(RequestId(tag))
    }

    /// Forgets a request, and gives it back. The target may still execute it.
    pub fn cancel(&mut self, id: RequestId) -> Option<Request<P>> {
        let slot =
            self.slots.iter_mut().find(|slot| matches!(slot, Some(slot) if slot.tag == id.0));
        slot?.take().map(|slot| slot.request)
    }

    /// Writes the next frame to the front of `buf` and tells its length, or `None` if there is
    /// nothing to send now.
    ///
    /// # Errors
    /// [`BufferTooSmall`]: the request stays queued.
    pub fn poll_transmit(
        &mut self,
        now_ms: u64,
        buf: &mut [u8],
    ) -> Result<Option<usize>, BufferTooSmall> {
        let in_flight = |slot: &&Slot<P>| matches!(slot.state, State::InFlight { .. });
        let flying = self.slots.iter().flatten().filter(in_flight).count();
        if flying >= usize::from(self.window.size()) {
            return Ok(None);
        }
        let queued = self.slots.iter_mut().flatten().filter(|slot| slot.state == State::Queued);
        let Some(slot) = queued.min_by_key(|slot| slot.order) else {
            return Ok(None);
        };
        let dst = self.target_mac.filter(|_| slot.attempts < UNICAST_ATTEMPTS);
        let header = Header {
            dst: dst.unwrap_or(Mac::BROADCAST),
            src: self.config.own_mac,
            version: VERSION,
            response: false,
            error: None,
            address: self.config.address.into(),
            command: slot.request.command(),
            tag: Tag(slot.tag.to_be_bytes()),
        };
        let len = slot.request.emit(&header, self.config.lba48, buf)?;
        let timing = self.config.timing;
        let wait = self
            .round_trip
            .timeout_ms(timing.retransmit_first_ms)
            .max(timing.retransmit_min_ms)
            .saturating_mul(1 << slot.attempts.min(16))
            .min(timing.retransmit_max_ms);
        if slot.attempts == 0 {
            slot.first_sent_ms = now_ms;
        }
        slot.attempts = slot.attempts.saturating_add(1);
        slot.broadcast = dst.is_none();
        let give_up_ms = slot.first_sent_ms.saturating_add(timing.give_up_ms);
        let deadline_ms = now_ms.saturating_add(wait).min(give_up_ms.max(now_ms));
        slot.state = State::InFlight { sent_ms: now_ms, deadline_ms };
        Ok(Some(len))
    }

    /// When [`Initiator::handle_timeout`] has something to do; `None` while nothing is in flight.
    pub fn poll_timeout(&self) -> Option<u64> {
        let deadline = |slot: &Slot<P>| match slot.state {
            State::InFlight { deadline_ms, .. } => Some(deadline_ms),
            State::Queued | State::TimedOut => None,
        };
        self.slots.iter().flatten().filter_map(deadline).min()
    }

    /// Queues again, or gives up, what was not answered in time.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        let give_up_ms = self.config.timing.give_up_ms;
        let mut lost = false;
        for slot in self.slots.iter_mut().flatten() {
            let State::InFlight { deadline_ms, .. } = slot.state else {
                continue;
            };
            if deadline_ms > now_ms {
                continue;
            }
            lost = true;
            let age_ms = now_ms.saturating_sub(slot.first_sent_ms);
            slot.state = if age_ms >= give_up_ms { State::TimedOut } else { State::Queued };
        }
        if lost {
            self.window.on_loss();
        }
    }

    /// The next request that was given up.
    pub fn poll_completion(&mut self) -> Option<Completion<'static, P>> {
        let given_up = |slot: &&mut Option<Slot<P>>| matches!(slot, Some(slot) if slot.state == State::TimedOut);
        let slot = self.slots.iter_mut().find(given_up)?.take()?;
        Some(Completion {
            id: RequestId(slot.tag),
            request: slot.request,
            result: Err(Failure::TimedOut),
            argument: &[],
        })
    }

    /// Takes a received frame, of whatever kind.
    pub fn handle_frame<'f>(&mut self, now_ms: u64, frame: &'f [u8]) -> Event<'f, P> {
        match self.accept(now_ms, frame) {
            Ok(event) => event,
            Err(refusal) => Event::Ignored(refusal),
        }
    }

    fn accept<'f>(&mut self, now_ms: u64, frame: &'f [u8]) -> Result<Event<'f, P>, Refusal> {
        let (header, argument) = Header::parse(frame)?;
        check_response(&header, self.config.own_mac)?;
        if !matches!(header.address.exact(), Some(address) if address == self.config.address) {
            return Err(Refusal::OtherAddress);
        }
        let tag = u32::from_be_bytes(header.tag.0);
        let known = self.target_mac.is_none_or(|mac| mac == header.src);
        let asked = self.slots.iter_mut().find(
            |slot| matches!(slot, Some(slot) if slot.tag == tag && slot.state != State::TimedOut),
        );
        let Some(entry) = asked else {
            if header.command != Command::Config {
                return Err(Refusal::UnknownTag);
            }
            if !known {
                return Err(Refusal::OtherSource);
            }
            let found = Found::parse(frame, self.config.own_mac)?;
            self.learn(&found);
            return Ok(Event::Advertised(found));
        };
        match entry {
            Some(slot) if slot.request.command() != header.command => {
                return Err(Refusal::OtherCommand);
            }
            Some(slot) if !known && !slot.broadcast => return Err(Refusal::OtherSource),
            _ => {}
        }
        let Some(slot) = entry.take() else {
            return Err(Refusal::UnknownTag);
        };
        self.target_mac = Some(header.src);
        if let State::InFlight { sent_ms, .. } = slot.state
            && slot.attempts == 1
        {
            self.round_trip.on_answer(now_ms.saturating_sub(sent_ms));
        }
        self.window.on_answer();
        let found = Found::parse(frame, self.config.own_mac).ok();
        if let Some(found) = &found {
            self.learn(found);
        }
        let result = match header.error {
            Some(error) => Err(Failure::Aoe(error)),
            None => answer(&slot.request, found, argument),
        };
        let id = RequestId(slot.tag);
        Ok(Event::Completed(Completion { id, request: slot.request, result, argument }))
    }

    fn learn(&mut self, found: &Found<'_>) {
        let first = self.sectors_max.is_none();
        let own_max = u16::try_from(N).unwrap_or(u16::MAX);
        self.target_mac = Some(found.mac);
        self.sectors_max = Some(found.sectors_max);
        self.window.set_buffer_count(found.buffer_count, own_max, first);
    }

    /// A tag that no outstanding request has. There are more tags than slots.
    fn free_tag(&mut self) -> u32 {
        loop {
            let tag = self.next_tag | 0x8000_0000;
            self.next_tag = self.next_tag.wrapping_add(1);
            if !self.slots.iter().flatten().any(|slot| slot.tag == tag) {
                return tag;
            }
        }
    }
}

/// What every response has to be, whoever asked.
fn check_response(header: &Header, own_mac: Mac) -> Result<(), Refusal> {
    if !header.response {
        return Err(Refusal::Request);
    }
    if !header.src.is_unicast() || header.src == own_mac {
        return Err(Refusal::BadSource);
    }
    if header.dst != own_mac && header.dst != Mac::BROADCAST {
        return Err(Refusal::OtherHost);
    }
    Ok(())
}

/// Reads the argument of a response without an AoE error.
fn answer<'f, P: AsRef<[u8]>>(
    request: &Request<P>,
    found: Option<Found<'f>>,
    argument: &'f [u8],
) -> Result<Answer<'f>, Failure> {
    match request.command() {
        Command::Config => found.map(Answer::Config).ok_or(Failure::Malformed),
        Command::MacMask => {
            let (arg, rest) = MaskArg::parse(argument).ok_or(Failure::Malformed)?;
            if arg.error != MaskError::None {
                return Err(Failure::Mask { error: arg.error, processed: arg.count });
            }
            arg.directives(rest).map(Answer::Mask).ok_or(Failure::Malformed)
        }
        Command::Reserve => {
            let (arg, rest) = ReserveArg::parse(argument).ok_or(Failure::Malformed)?;
            arg.macs(rest).map(Answer::Reserve).ok_or(Failure::Malformed)
        }
        Command::Ata | Command::Other(_) => ata_answer(request, argument),
    }
}

fn ata_answer<'f, P: AsRef<[u8]>>(
    request: &Request<P>,
    argument: &'f [u8],
) -> Result<Answer<'f>, Failure> {
    /// BSY, DF, DRQ and ERR, any of which Linux takes for a failure. `[AoE 5.4]`
    const STATUS_FAILED: u8 = 0xa9;
    let (arg, data) = AtaArg::parse(argument).ok_or(Failure::Malformed)?;
    if arg.command_status & STATUS_FAILED != 0 {
        return Err(Failure::Ata { status: arg.command_status, error: arg.error_feature });
    }
    match request {
        Request::Read { count, .. } => {
            let len = usize::from(*count) * SECTOR_BYTES;
            data.get(..len).map(Answer::Data).ok_or(Failure::Malformed)
        }
        Request::Identify => {
            let page: &Page = data.first_chunk().ok_or(Failure::Malformed)?;
            Ok(Answer::Identify(Identify::new(page)))
        }
        _ => Ok(Answer::Done),
    }
}
