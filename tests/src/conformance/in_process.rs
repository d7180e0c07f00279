//! Our target without network, as the tests of `aoe-proto` run it; and their broken targets.

use aoe_proto::conformance::{Needs, Selection};

use super::compare::{Cell, Run};
use super::document::Defect;
use crate::defects::{DEFECTS, HONEST};
use crate::world::{self, End, Lossy, Server};

/// Runs every case in virtual time.
pub fn run(mtu: u16) -> Run {
    let mtu = usize::from(mtu);
    let mut server = Server::new(mtu, &HONEST);
    let everything = Selection { permitted: Needs::ALL, ..Selection::default() };
    let mut nothing_lost = Lossy::NOTHING;
    let config = world::config(mtu);
    let report = world::run(&mut server, config, everything, &mut nothing_lost, usize::MAX);
    let cells = report.ends.iter().map(|(case, end, _)| {
        let cell = match end {
            End::Passed { notes: 0 } => Cell::Passed,
            End::Passed { .. } => Cell::Remarks(Vec::new()),
            End::Failed(why) => Cell::Failed(why.clone()),
            End::Skipped(why) => Cell::Skipped(why.to_string()),
        };
        (case.id.to_owned(), cell)
    });
    Run { cells: cells.collect(), elapsed_ms: 0 }
}

/// Every broken target and the case that catches it.
pub fn defects() -> Vec<Defect> {
    let each = DEFECTS.iter();
    each.map(|defect| Defect { name: defect.name, caught_by: defect.caught_by }).collect()
}
