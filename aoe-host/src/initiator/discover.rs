//! Who is there: a broadcast query, and whatever comes back in time.

use core::time::Duration;
use std::time::Instant;

use aoe_proto::initiator::{Found, emit_query};
use aoe_proto::wire::FRAME_LEN_MIN;
use aoe_proto::{Address, AddressPattern, Mac};

use crate::error::{ErrorKind, HostError, Result};
use crate::link::{Link, wait_for_frames};

/// One machine that answers for one address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FoundTarget {
    /// Shelf and slot.
    pub address: Address,
    /// The machine.
    pub mac: Mac,
    /// Messages it queues for this target.
    pub buffer_count: u16,
    /// Most sectors per request.
    pub sectors_max: u8,
    /// Firmware version it advertises.
    pub firmware: u16,
    /// The config string.
    pub config_string: Vec<u8>,
}

/// Asks everybody on `link`, twice, and collects answers until `patience` has passed. Sorted by
/// address; two entries with one address are two servers that answer for it.
///
/// # Errors
/// When the system refuses to wait for frames.
pub fn discover(link: &mut dyn Link, patience: Duration) -> Result<Vec<FoundTarget>> {
    let start = Instant::now();
    let mut found: Vec<FoundTarget> = Vec::new();
    let mut asked = 0_u32;
    loop {
        let elapsed = start.elapsed();
        while link.poll_event(elapsed).is_some() {}
        if elapsed >= patience {
            found.sort();
            return Ok(found);
        }
        // A second query half-way: the first, or an answer, may have been lost.
        let second_at = patience / 2;
        if asked == 0 || (asked == 1 && elapsed >= second_at) {
            ask_everybody(link)?;
            asked += 1;
        }
        let own_mac = link.mac();
        link.receive(usize::MAX, &mut |frame| {
            if let Ok(target) = Found::parse(frame, own_mac) {
                remember(&mut found, &target);
            }
        });
        let until = if asked < 2 { second_at } else { patience };
        let left = until.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        wait_for_frames(link, left)
            .map_err(|error| HostError::io(error, "wait for frames").interface(link.name()))?;
    }
}

fn ask_everybody(link: &mut dyn Link) -> Result<()> {
    let mut frame = [0_u8; FRAME_LEN_MIN];
    let len = emit_query(&mut frame, link.mac(), AddressPattern::ALL)
        .map_err(|error| HostError::new(ErrorKind::Unsupported, "write a query").source(error))?;
    link.send(&mut frame.get(..len).into_iter());
    Ok(())
}

fn remember(found: &mut Vec<FoundTarget>, target: &Found<'_>) {
    let known =
        |known: &&mut FoundTarget| (known.address, known.mac) == (target.address, target.mac);
    let target = FoundTarget {
        address: target.address,
        mac: target.mac,
        buffer_count: target.buffer_count,
        sectors_max: target.sectors_max,
        firmware: target.firmware,
        config_string: target.string.to_vec(),
    };
    match found.iter_mut().find(known) {
        Some(known) => *known = target,
        None => found.push(target),
    }
}
