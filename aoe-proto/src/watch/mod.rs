//! The listener: holds every frame on a wire against the protocol. No I/O; time is an argument.
//!
//! [`Watch`] takes frames of all machines, in the order in which they were on the wire, and tells
//! of each what it is ([`Observation`]) and which [`Rule`]s it breaks. It pairs answers with
//! requests, and knows retransmissions by their tag (iPXE, `WinAoE`) and by their content (Linux and
//! Plan 9 send with new tags). [`Watch::poll`] tells what was lost. What it counts is in
//! [`Watch::targets`] and [`Watch::initiators`].
//!
//! ```
//! use aoe_proto::watch::{Captured, Kind, Memory, Rule, Watch, WatchConfig};
//!
//! let (mut exchanges, mut repeats) = ([Default::default(); 64], [Default::default(); 64]);
//! let (mut targets, mut initiators) = ([Default::default(); 8], [Default::default(); 8]);
//! let memory = Memory {
//!     exchanges: &mut exchanges,
//!     repeats: &mut repeats,
//!     targets: &mut targets,
//!     initiators: &mut initiators,
//! };
//! let mut watch = Watch::new(WatchConfig::default(), memory);
//! // An advertisement of e7.3 with a buffer count of 1.
//! let mut frame = [0; 60];
//! frame[..20].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x88\xa2\x18\0\0\x07\x03\x01");
//! frame[24..30].copy_from_slice(&[0, 1, 0, 0, 2, 0x10]);
//! let seen = watch.observe(&Captured::whole(0, &frame));
//! assert_eq!(seen.kind, Kind::Advertisement);
//! assert!(seen.findings.contains(Rule::BufferCount));
//! ```
//!
//! Invariants:
//!
//! 1. All memory is lent; when it is full, the oldest request is forgotten and counted
//!    ([`Watch::forgotten`]), and targets and initiators without a record are counted
//!    ([`Watch::unrecorded`]).
//! 2. The work for a frame does not depend on how many requests are outstanding, except for answers
//!    that belong to none.
//! 3. What a listener cannot know is not flagged: requests from before it began, machines it cannot
//!    hear, bytes that a capture cut off.

mod answer;
mod answers;
mod asks;
mod exchange;
mod latency;
mod padding;
mod page;
mod pair;
mod record;
mod request;
mod rule;
#[cfg(test)]
mod tests;

pub use exchange::{ExchangeSlot, RepeatSlot};
pub use latency::Latency;
pub use record::{
    ANSWERERS_MAX, Advertised, Answerer, FindingCounts, InitiatorRecord, RequestCounts,
    TargetRecord, Traffic,
};
pub use rule::{Detail, FINDINGS_MAX, Finding, Findings, Rule, Severity};

use exchange::{Exchanges, State};
use rule::Judge;

use crate::error::Refusal;
use crate::wire::{
    Address, AddressPattern, Command, ETHERNET_LEN, ETHERTYPE, Header, Mac, Tag, VERSION,
};

/// One frame as it was on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'f> {
    /// When, in nanoseconds since any moment; never earlier than the frame before.
    pub at_ns: u64,
    /// The bytes from the destination address on, without VLAN tag and without frame check
    /// sequence; a capture may have cut the end off.
    pub frame: &'f [u8],
    /// Length of the whole frame in bytes, without VLAN tag.
    pub wire_len: usize,
    /// VLAN id; 0 without a tag, and for a priority tag.
    pub vlan: u16,
}

impl<'f> Captured<'f> {
    /// A frame without a VLAN tag, of which nothing was cut off.
    pub const fn whole(at_ns: u64, frame: &'f [u8]) -> Self {
        Self { at_ns, frame, wire_len: frame.len(), vlan: 0 }
    }

    /// Whether the capture cut the end off.
    pub const fn is_cut(&self) -> bool {
        self.frame.len() < self.wire_len
    }
}

/// What a listener needs to know. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WatchConfig {
    /// The MTU of the link, if it is known: the largest Ethernet payload in bytes.
    pub mtu: Option<usize>,
    /// A transmission without an answer for this long is lost.
    pub lost_after_ns: u64,
    /// The same content under a new tag is a retransmission only after this long; sooner it is
    /// another request that happens to be equal.
    pub resend_min_ns: u64,
    /// The same frame again within this time came twice; nobody retransmits so soon.
    pub twin_ns: u64,
    /// Answers within this time after the first frame may belong to requests from before.
    pub grace_ns: u64,
}

impl Default for WatchConfig {
    /// No MTU, 5 s, 10 ms (Plan 9 waits 20 ms at least), 1 ms, 1 s.
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            mtu: None,
            lost_after_ns: 5000 * MS,
            resend_min_ns: 10 * MS,
            twin_ns: MS,
            grace_ns: 1000 * MS,
        }
    }
}

/// The memory that a [`Watch`] works in; `Default` slots are empty. A few hundred exchanges and as
/// many repeats suit one initiator, some thousands a segment.
#[derive(Debug)]
pub struct Memory<'m> {
    /// Requests under way and lately answered.
    pub exchanges: &'m mut [ExchangeSlot],
    /// The contents of these requests.
    pub repeats: &'m mut [RepeatSlot],
    /// Targets.
    pub targets: &'m mut [TargetRecord],
    /// Initiators.
    pub initiators: &'m mut [InitiatorRecord],
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Another Ethernet type: not looked at.
    NotAoe,
    /// Shorter than the common header.
    Short,
    /// A request, for the first time.
    Request,
    /// A request that was sent before and not answered.
    Resent {
        /// Whether its tag is the same as before.
        same_tag: bool,
        /// Time since it was sent last.
        after_ns: u64,
        /// How many times it has been sent now.
        sends: u32,
    },
    /// A request that was sent and answered before: a stale duplicate.
    Repeated {
        /// Time since it was sent last.
        after_ns: u64,
    },
    /// The same request twice within a moment.
    Twin,
    /// The answer to a request.
    Answer {
        /// Time since the request was sent last.
        after_ns: u64,
    },
    /// The answer to a request that was sent again under another tag, or given up.
    LateAnswer {
        /// Time since the request was sent last.
        after_ns: u64,
    },
    /// One answer too many.
    DuplicateAnswer,
    /// A config answer that nobody asked for, as targets send when they start. `[AoE 4.3]`
    Advertisement,
    /// An answer to no request.
    UnmatchedAnswer,
}

/// What was seen in one frame.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What it is.
    pub kind: Kind,
    /// What is wrong with it.
    pub findings: Findings,
}

/// Transmissions of a request that were not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lost {
    /// VLAN id.
    pub vlan: u16,
    /// Who asked.
    pub initiator: Mac,
    /// Whom.
    pub address: AddressPattern,
    /// The last tag.
    pub tag: Tag,
    /// What.
    pub command: Command,
    /// How often it was sent under this tag.
    pub sends: u32,
    /// How often it was answered.
    pub answers: u32,
    /// Whether it was sent again under another tag.
    pub superseded: bool,
}

/// Listens. See the module's documentation.
pub struct Watch<'m> {
    config: WatchConfig,
    exchanges: Exchanges<'m>,
    targets: &'m mut [TargetRecord],
    initiators: &'m mut [InitiatorRecord],
    began_ns: Option<u64>,
    missed_ns: Option<u64>,
    sweep: usize,
    forgotten: u64,
    unrecorded: u64,
    findings: FindingCounts,
}

impl core::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Watch").field("findings", &self.findings).finish_non_exhaustive()
    }
}

impl<'m> Watch<'m> {
    /// A listener that has heard nothing yet.
    pub fn new(config: WatchConfig, memory: Memory<'m>) -> Self {
        let Memory { exchanges, repeats, targets, initiators } = memory;
        Self {
            config,
            exchanges: Exchanges::new(exchanges, repeats),
            targets,
            initiators,
            began_ns: None,
            missed_ns: None,
            sweep: 0,
            forgotten: 0,
            unrecorded: 0,
            findings: FindingCounts::default(),
        }
    }

    /// The targets that were heard or asked, in the order of their appearance.
    pub fn targets(&self) -> impl Iterator<Item = &TargetRecord> {
        self.targets.iter().filter(|record| record.key.is_some())
    }

    /// The initiators that were heard, in the order of their appearance.
    pub fn initiators(&self) -> impl Iterator<Item = &InitiatorRecord> {
        self.initiators.iter().filter(|record| record.key.is_some())
    }

    /// All findings.
    pub const fn findings(&self) -> FindingCounts {
        self.findings
    }

    /// Requests that were forgotten while they waited, for lack of memory.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Frames of targets and initiators for which there was no record left.
    pub const fn unrecorded(&self) -> u64 {
        self.unrecorded
    }

    /// Changes the MTU of the link.
    pub const fn set_mtu(&mut self, mtu: Option<usize>) {
        self.config.mtu = mtu;
    }

    /// The listener itself missed frames, now or a moment ago. For [`WatchConfig::grace_ns`] answers
    /// to requests that it did not hear are no defect, even if others wait.
    pub const fn missed(&mut self, at_ns: u64) {
        self.missed_ns = Some(at_ns);
    }

    /// Takes one frame.
    pub fn observe(&mut self, captured: &Captured<'_>) -> Observation {
        let began = *self.began_ns.get_or_insert(captured.at_ns);
        let young = captured.at_ns.saturating_sub(began) < self.config.grace_ns;
        let mut findings = Findings::default();
        let (header, argument) = match Header::parse(captured.frame) {
            Ok(parts) => parts,
            Err(Refusal::TooShort { .. }) if is_aoe(captured.frame) => {
                let by = source(captured.frame);
                let mut judge = Judge::new(by, AddressPattern::ALL, &mut findings);
                judge.flag(!captured.is_cut(), Rule::ShortFrame);
                self.findings.add(&findings);
                return Observation { kind: Kind::Short, findings };
            }
            Err(_) => return Observation { kind: Kind::NotAoe, findings },
        };
        let mut judge = Judge::new(header.src, header.address, &mut findings);
        self.common(&header, captured, &mut judge);
        let kind = if header.response {
            self.answer(&header, argument, captured, young, &mut judge)
        } else {
            self.request(&header, argument, captured, &mut judge)
        };
        self.account(&header, captured, kind, &findings);
        Observation { kind, findings }
    }

    /// Rules about every frame.
    fn common(&self, header: &Header, captured: &Captured<'_>, judge: &mut Judge<'_>) {
        let [flags, error] = flags_and_error(captured.frame);
        judge.found(header.version != VERSION, Rule::Version, header.version);
        judge.found(flags & 0x03 != 0, Rule::ReservedFlags, flags & 0x03);
        judge.flag(!header.src.is_unicast(), Rule::BadSource);
        if header.response {
            let stray = header.error.is_none() && error != 0;
            judge.found(stray, Rule::ErrorWithoutFlag, error);
        } else {
            judge.flag(header.error.is_some(), Rule::RequestErrorFlag);
            judge.found(error != 0, Rule::RequestErrorByte, error);
        }
        if let Some(mtu) = self.config.mtu {
            let payload = captured.wire_len.saturating_sub(ETHERNET_LEN);
            let (found, expected) = (request::length(payload), request::length(mtu));
            judge.expected(payload > mtu, Rule::FrameTooLong, found, expected);
        }
    }

    /// Counts what was found against the machine and the target.
    fn account(
        &mut self,
        header: &Header,
        captured: &Captured<'_>,
        kind: Kind,
        findings: &Findings,
    ) {
        if findings.as_slice().is_empty() {
            return;
        }
        self.findings.add(findings);
        let vlan = captured.vlan;
        let forged = kind == Kind::UnmatchedAnswer && self.is_forged(header, captured);
        if header.response && !forged {
            if let Some(address) = header.address.exact()
                && let Some(record) = record::target(self.targets, (vlan, address))
            {
                record.traffic.findings.add(findings);
                if let Some(answerer) = record.answerer(header.src) {
                    answerer.findings.add(findings);
                }
            }
        } else if let Some(record) = record::initiator(self.initiators, (vlan, header.src)) {
            record.traffic.findings.add(findings);
        }
    }

    /// Applies a change to the counts of a request's initiator, and of its target if it names one.
    fn count(
        &mut self,
        vlan: u16,
        initiator: Mac,
        address: Option<Address>,
        change: impl Fn(&mut Traffic),
    ) {
        match record::initiator(self.initiators, (vlan, initiator)) {
            Some(record) => change(&mut record.traffic),
            None => self.unrecorded = self.unrecorded.saturating_add(1),
        }
        let Some(address) = address else { return };
        match record::target(self.targets, (vlan, address)) {
            Some(record) => change(&mut record.traffic),
            None => self.unrecorded = self.unrecorded.saturating_add(1),
        }
    }

    /// A request of a target waits no longer.
    fn leave(&mut self, vlan: u16, address: Option<Address>) {
        let Some(address) = address else { return };
        let key = Some((vlan, address));
        if let Some(record) = self.targets.iter_mut().find(|record| record.key == key) {
            record.outstanding = record.outstanding.saturating_sub(1);
        }
    }

    /// The next request whose answer, or one of whose answers, is lost; `None` if there is none
    /// (any more). Ask until then, now and then.
    pub fn poll(&mut self, now_ns: u64) -> Option<Lost> {
        let after_ns = self.config.lost_after_ns;
        self.next_lost(now_ns, after_ns)
    }

    /// As [`Watch::poll`], when no more frames will come: everything that has waited longer than a
    /// moment is lost.
    pub fn poll_end(&mut self, now_ns: u64) -> Option<Lost> {
        let after_ns = self.config.resend_min_ns;
        self.next_lost(now_ns, after_ns)
    }

    fn next_lost(&mut self, now_ns: u64, after_ns: u64) -> Option<Lost> {
        while let Some((next, exchange)) = self.exchanges.next_from(self.sweep) {
            self.sweep = next;
            let age = now_ns.saturating_sub(exchange.sent_last_ns);
            if exchange.state == State::Closed || age < after_ns {
                continue;
            }
            let before = core::mem::replace(&mut exchange.state, State::Closed);
            let exchange = *exchange;
            if before == State::Waiting {
                self.leave(exchange.vlan, exchange.address.exact());
            }
            let missing = u64::from(exchange.missing());
            if missing == 0 || !exchange.expects_answer() {
                continue;
            }
            self.count(exchange.vlan, exchange.initiator, exchange.address.exact(), |traffic| {
                traffic.lost = traffic.lost.saturating_add(missing);
            });
            return Some(Lost {
                vlan: exchange.vlan,
                initiator: exchange.initiator,
                address: exchange.address,
                tag: exchange.tag,
                command: exchange.command,
                sends: exchange.sends,
                answers: exchange.answers,
                superseded: before == State::Superseded,
            });
        }
        self.sweep = 0;
        None
    }
}

/// The flags and error bytes of a frame that has them.
fn flags_and_error(frame: &[u8]) -> [u8; 2] {
    frame.get(ETHERNET_LEN..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
}

/// Whether a frame that is too short for its header says that it is AoE.
fn is_aoe(frame: &[u8]) -> bool {
    let ethertype = frame.get(12..).and_then(<[u8]>::first_chunk::<2>);
    ethertype.is_some_and(|bytes| u16::from_be_bytes(*bytes) == ETHERTYPE)
}

fn source(frame: &[u8]) -> Mac {
    Mac(frame.get(6..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
}
