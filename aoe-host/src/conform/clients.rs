//! How real clients would fare with a target: drives [`aoe_proto::profiles`].

use aoe_proto::SECTOR_BYTES;
use aoe_proto::conformance::RunConfig;
use aoe_proto::profiles::{Actor, ActorConfig, Client, Event, Level, Memory, Report, Slot};
use aoe_proto::wire::FRAME_LEN_MIN;
use serde::Serialize;

use super::driver::{Progress, Sides, record_or_not, too_small};
use super::report::{Hex, PROGRAM};
use super::undo::undo_ledger;
use crate::error::Result;
use crate::values::{Address, serde_text};

/// Requests that one client may have outstanding.
const SLOTS: usize = 64;
/// Distance between the tags of two clients.
const CLIENT_TAGS: u32 = 1 << 19;

/// Something about the target that makes a difference to a client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Reason {
    /// Its name, for programs.
    pub id: &'static str,
    /// `works` (a remark), `degraded`, `fails`, `hangs` or `corrupts`.
    pub verdict: &'static str,
    /// Where it is written, such as `2.3`.
    pub section: &'static str,
    /// Everything in words, with section and numbers.
    pub text: String,
}

/// How one client would fare.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ClientReport {
    /// The word for it.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The worst of the reasons: `works`, `degraded`, `fails`, `hangs` or `corrupts`.
    pub verdict: &'static str,
    /// What matters to it, in the order in which it was met.
    pub reasons: Vec<Reason>,
    /// Requests that were sent, retransmissions included.
    pub requests: u32,
    /// Retransmissions.
    pub retransmissions: u32,
    /// Size of the disk as this client reads it.
    pub sectors: Option<u64>,
    /// Sectors per request that it settled on.
    pub sectors_max: u8,
    /// Requests that it keeps outstanding.
    pub window: u16,
    /// Whether what was written is as before; `None` if nothing was written.
    pub restored: Option<bool>,
    /// How long it took.
    pub elapsed_ms: u64,
    /// The request behind the gravest reason; empty without one.
    pub sent: Hex,
    /// Its answer; empty if there was none.
    pub received: Hex,
}

impl ClientReport {
    /// Whether the client gets on with the target, well or, unless `strict`, not so well.
    pub fn is_usable(&self, strict: bool) -> bool {
        self.verdict == Level::Works.name() || !strict && self.verdict == Level::Degraded.name()
    }
}

/// What came out of replaying every client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ClientsReport {
    /// `cowblade-conformance-clients-1`.
    pub format: &'static str,
    /// The program that made it, with its version.
    pub program: &'static str,
    /// The target.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// Largest payload of the link.
    pub mtu: u16,
    /// First sector and number of sectors in which writes were permitted.
    pub window: Option<(u64, u16)>,
    /// Whether somebody interrupted; everything was put back then.
    pub interrupted: bool,
    /// What the tester should know.
    pub warnings: Vec<String>,
    /// Client by client.
    pub clients: Vec<ClientReport>,
}

impl ClientsReport {
    /// Whether every client gets on with the target, well or, unless `strict`, not so well.
    pub fn all_usable(&self, strict: bool) -> bool {
        self.clients.iter().all(|client| client.is_usable(strict))
    }
}

/// Replays every client, one after the other. What one of them did not put back is put back before
/// the next, or nobody is next.
///
/// # Errors
/// When the wire fails, or another run's journal is in the way.
pub fn play_clients(
    config: &RunConfig,
    patience_ms: u64,
    sides: &mut Sides<'_>,
) -> Result<ClientsReport> {
    let mut report = ClientsReport {
        format: "cowblade-conformance-clients-1",
        program: PROGRAM,
        address: config.address,
        mtu: config.mtu,
        window: config.window.map(|window| (window.lba, window.sectors)),
        interrupted: false,
        warnings: Vec::new(),
        clients: Vec::new(),
    };
    let mut seed = config.tag_seed;
    for client in Client::ALL {
        seed = seed.wrapping_add(CLIENT_TAGS);
        let actor = ActorConfig {
            window: config.window,
            tag_seed: seed,
            patience_ms,
            ..ActorConfig::new(config.address, config.own_mac, config.mtu)
        };
        (sides.watcher)(Progress::Playing(*client));
        if let Some(one) = play(*client, actor, sides, &mut report.warnings)? {
            report.clients.push(one);
        } else {
            (sides.watcher)(Progress::Undoing);
            report.interrupted = true;
        }
        let left = undo_ledger(config, sides.ledger, sides.wire)?;
        let stop = left.is_some() || report.interrupted;
        report.warnings.extend(left);
        if stop {
            break;
        }
    }
    Ok(report)
}

/// The client that the actor plays, to its end; `None` if somebody interrupted.
fn play(
    client: Client,
    config: ActorConfig,
    sides: &mut Sides<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<ClientReport>> {
    let start_ms = sides.wire.now_ms();
    let mut buffers = Buffers::new(&config);
    let mut actor = Actor::new(client, config, buffers.lend()).map_err(too_small)?;
    loop {
        if (sides.interrupted)() {
            return Ok(None);
        }
        match actor.poll(sides.wire.now_ms()) {
            Event::Send(frame) => sides.wire.send(frame),
            Event::Wait(until_ms) => sides.wire.wait(until_ms, &mut |arrived| {
                // A client sits behind an interface that takes priority tags out, and no others in.
                if arrived.vlan.is_none_or(|id| id == 0) {
                    actor.received(arrived.frame, arrived.at_ms);
                }
            })?,
            Event::Record(record) => {
                if let Some(why) = record_or_not(&record, sides.ledger)? {
                    if warnings.is_empty() {
                        warnings.push(format!("nothing is written: {why}"));
                    }
                    actor.forbid_changes();
                }
            }
            Event::Started(_) => {}
            Event::Done(_) => break,
        }
    }
    let elapsed_ms = sides.wire.now_ms().saturating_sub(start_ms);
    Ok(Some(report_of(&actor, elapsed_ms)))
}

/// Working memory of an actor.
struct Buffers {
    frames: [Vec<u8>; 4],
    window: Vec<u8>,
    slots: Vec<Slot>,
}

impl Buffers {
    fn new(config: &ActorConfig) -> Self {
        let frame_len = Memory::frame_len(config.mtu).max(FRAME_LEN_MIN);
        let sectors = config.window.map_or(0, |window| usize::from(window.sectors));
        Self {
            frames: core::array::from_fn(|_| vec![0; frame_len]),
            window: vec![0; sectors * SECTOR_BYTES],
            slots: vec![Slot::default(); SLOTS],
        }
    }

    fn lend(&mut self) -> Memory<'_> {
        let [frame, sent, received, dropped] = &mut self.frames;
        let (window, slots) = (&mut self.window, &mut self.slots);
        Memory { frame, sent, received, dropped, window, slots }
    }
}

fn report_of(actor: &Actor<'_>, elapsed_ms: u64) -> ClientReport {
    let Report { client, level, sent, resent, restored, sectors, sectors_max, window, .. } =
        actor.report();
    let reasons = actor.report().causes().iter().map(|cause| Reason {
        id: cause.why.id(),
        verdict: cause.level.name(),
        section: cause.why.section(),
        text: cause.to_string(),
    });
    let frames = actor.evidence();
    ClientReport {
        id: client.id(),
        name: client.name(),
        verdict: level.name(),
        reasons: reasons.collect(),
        requests: *sent,
        retransmissions: *resent,
        sectors: *sectors,
        sectors_max: *sectors_max,
        window: *window,
        restored: *restored,
        elapsed_ms,
        sent: Hex(frames.sent.to_vec()),
        received: Hex(frames.received.unwrap_or_default().to_vec()),
    }
}
