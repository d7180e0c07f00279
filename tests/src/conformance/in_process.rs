//! Our target without network, as the tests of `aoe-proto` run it; and their broken targets.

use std::time::Instant;

use aoe_proto::conformance::{Needs, Selection, Window};
use aoe_proto::profiles::{Actor, ActorConfig, Client, Event, Memory, Report, Slot};
use aoe_proto::{Target, TargetConfig};
use serde_json::{Value, json};

use super::compare::{Cell, Run};
use super::document::Defect;
use super::site::{CLIENT_SECTORS, WINDOW};
use crate::defects::{self, HONEST};
use crate::world::{self, End, Lossy, MemoryDisk, Server};

/// Runs every case in virtual time.
pub fn run(mtu: u16) -> Run {
    let mtu = usize::from(mtu);
    let mut server = Server::new(mtu, &HONEST);
    let everything = Selection { permitted: Needs::ALL, ..Selection::default() };
    let mut nothing_lost = Lossy::NOTHING;
    let start = Instant::now();
    let config = world::config(mtu);
    let report = world::run(&mut server, config, everything, &mut nothing_lost, usize::MAX);
    let cells = report.ends.iter().map(|(case, end, _)| {
        let cell = match end {
            End::Passed { .. } if report.died.contains(&case.id) => Cell::Died,
            End::Passed { notes } if notes.is_empty() => Cell::Passed,
            End::Passed { notes } => Cell::Remarks(notes.iter().map(ToString::to_string).collect()),
            End::Failed(why) => Cell::Failed(why.clone()),
            End::Skipped(why) => Cell::Skipped(why.to_string()),
        };
        (case.id.to_owned(), cell)
    });
    let cells = cells.collect();
    Run { cells, elapsed_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1) }
}

/// Replays every client in virtual time; as much of the report as the document needs.
///
/// # Panics
/// If our target has no such disk.
pub fn clients(mtu: u16) -> Value {
    let mut server = Server::new(usize::from(mtu), &HONEST);
    let config = TargetConfig::new(world::address(), CLIENT_SECTORS);
    server.target = Target::new(config).expect("a target has such a disk");
    let len = usize::try_from(CLIENT_SECTORS * 512).expect("the disk fits memory");
    server.disk = MemoryDisk(vec![0x3c; len]);
    let clients = Client::ALL.iter().map(|client| {
        let report = play(&mut server, *client, mtu);
        let reasons = report.causes().iter().map(|cause| json!({"text": cause.to_string()}));
        let reasons: Vec<Value> = reasons.collect();
        json!({"name": client.name(), "verdict": report.level.name(), "reasons": reasons})
    });
    json!({"clients": clients.collect::<Vec<Value>>()})
}

/// One client, to its end.
fn play(server: &mut Server, client: Client, mtu: u16) -> Report {
    let sectors = u16::try_from(WINDOW).expect("the window is small");
    let window = Some(Window { lba: CLIENT_SECTORS - WINDOW, sectors });
    let config = ActorConfig { window, ..ActorConfig::new(world::address(), world::OWN, mtu) };
    let mut frames: [Vec<u8>; 4] = core::array::from_fn(|_| vec![0; Memory::frame_len(mtu)]);
    let [frame, sent, received, dropped] = &mut frames;
    let (mut kept, mut slots) = (vec![0; usize::from(sectors) * 512], vec![Slot::default(); 64]);
    let (window, slots) = (kept.as_mut_slice(), slots.as_mut_slice());
    let memory = Memory { frame, sent, received, dropped, window, slots };
    let mut actor = Actor::new(client, config, memory).expect("the memory is large enough");
    let (mut arriving, mut now) = (Vec::new(), 0);
    loop {
        match actor.poll(now) {
            Event::Send(frame) => arriving.extend(server.honest(frame)),
            Event::Wait(until) => {
                if arriving.is_empty() {
                    now = until;
                }
                for frame in arriving.drain(..) {
                    actor.received(&frame, now);
                }
            }
            Event::Record(_) | Event::Started(_) => {}
            Event::Done(report) => return report.clone(),
        }
    }
}

/// Every broken target and the case that catches it.
pub fn defects() -> Vec<Defect> {
    let each = defects::all();
    each.map(|defect| Defect { name: defect.name, caught_by: defect.caught_by }).collect()
}
