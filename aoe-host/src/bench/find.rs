//! Who is there: every client asks for every target before the first request is sent.

use core::time::Duration;
use std::collections::HashMap;
use std::time::Instant;

use aoe_proto::AddressPattern;
use aoe_proto::ata::command::opcode;
use aoe_proto::ata::identify::{Identify, Page};
use aoe_proto::initiator::{Found, emit_query};
use aoe_proto::wire::ata::ATA_DATA_OFFSET;
use aoe_proto::wire::{AtaArg, Command, FRAME_LEN_MIN, Header, Tag, VERSION};

use super::wire::{Outgoing, Wire};
use crate::error::{ErrorKind, HostError, Result};
use crate::values::{Address, Mac};

/// How long the search goes on without any answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After what time a question is asked again.
const RETRY: Duration = Duration::from_millis(250);
/// Questions outstanding: few enough for the smallest receive queue.
const WINDOW: usize = 32;
/// The tag of every question: the Linux driver of this machine ignores it. [AoE 2.6]
const TAG: Tag = Tag([0x80, 0, 0, 1]);

/// A client, and the target it asks for.
pub(super) type Pair = (Mac, Address);

/// What a target is to one client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Disk {
    /// The machine that answers for it.
    pub(super) server: Mac,
    /// Messages it queues.
    pub(super) buffer_count: u16,
    /// Most sectors of a request.
    pub(super) sectors_max: u8,
    /// Size in sectors.
    pub(super) sectors: u64,
    /// Whether 48-bit commands are served.
    pub(super) lba48: bool,
}

/// Asks for every target, then for its size. The answers are in the order of `pairs`.
///
/// # Errors
/// `Timeout` if one does not answer; `InUse` if two machines answer for one: initiators would send
/// to both in turn.
pub(super) fn find(wire: &mut dyn Wire, pairs: &[Pair]) -> Result<Vec<Disk>> {
    let numbers: HashMap<Pair, usize> =
        pairs.iter().enumerate().map(|(number, pair)| (*pair, number)).collect();
    let mut disks = vec![Disk::default(); pairs.len()];
    let mut rival = None;
    let query = |number: usize| question(pairs, number, None);
    ask_all(wire, pairs, &query, &mut |frame| {
        let client = Header::parse(frame).ok()?.0.dst;
        let found = Found::parse(frame, client).ok()?;
        let number = *numbers.get(&(client, found.address))?;
        let disk = disks.get_mut(number)?;
        if disk.buffer_count > 0 && disk.server != found.mac {
            rival = Some((found.address, disk.server, found.mac));
        }
        disk.server = found.mac;
        disk.buffer_count = found.buffer_count.max(1);
        disk.sectors_max = found.sectors_max;
        Some(number)
    })?;
    if let Some((address, one, other)) = rival {
        return Err(HostError::new(ErrorKind::InUse, "use the target")
            .export(address)
            .detail(format!("{one} and {other} both answer for it"))
            .advice("stop one of them; initiators would write to both in turn"));
    }
    let servers: Vec<Mac> = disks.iter().map(|disk| disk.server).collect();
    let identify = |number: usize| question(pairs, number, servers.get(number).copied());
    ask_all(wire, pairs, &identify, &mut |frame| {
        let (header, argument) = Header::parse(frame).ok()?;
        let number = *numbers.get(&(header.dst, header.address.exact()?))?;
        let (registers, data) = AtaArg::parse(argument)?;
        let refused = header.error.is_some() || registers.command_status & 0x21 != 0;
        if header.tag != TAG || header.command != Command::Ata || refused {
            return None;
        }
        let page = Identify::new(data.first_chunk::<{ size_of::<Page>() }>()?);
        let disk = disks.get_mut(number)?;
        (disk.sectors, disk.lba48) = (page.sectors(), page.has_lba48());
        Some(number)
    })?;
    Ok(disks)
}

/// A query to everybody, or IDENTIFY to `server`.
fn question(pairs: &[Pair], number: usize, server: Option<Mac>) -> [u8; FRAME_LEN_MIN] {
    let mut frame = [0; FRAME_LEN_MIN];
    let Some((client, address)) = pairs.get(number) else { return frame };
    let pattern = AddressPattern::from(*address);
    let Some(server) = server else {
        let written = emit_query(&mut frame, *client, pattern);
        debug_assert!(written.is_ok(), "60 bytes suffice for a query");
        return frame;
    };
    let header = Header {
        dst: server,
        src: *client,
        version: VERSION,
        response: false,
        error: None,
        address: pattern,
        command: Command::Ata,
        tag: TAG,
    };
    let registers =
        AtaArg { count: 1, command_status: opcode::IDENTIFY_DEVICE, ..AtaArg::default() };
    for (to, from) in frame.iter_mut().zip(header.to_bytes().iter().chain(&registers.to_bytes())) {
        *to = *from;
    }
    const { assert!(ATA_DATA_OFFSET <= FRAME_LEN_MIN) };
    frame
}

/// Asks every question until each is answered. `take` tells which question a frame answers.
fn ask_all(
    wire: &mut dyn Wire,
    pairs: &[Pair],
    question: &dyn Fn(usize) -> [u8; FRAME_LEN_MIN],
    take: &mut dyn FnMut(&[u8]) -> Option<usize>,
) -> Result<()> {
    let mut asked: Vec<Option<Instant>> = vec![None; pairs.len()];
    let mut open: Vec<usize> = (0..pairs.len()).collect();
    let mut progress = Instant::now();
    while let Some(first) = open.first().copied() {
        let now = Instant::now();
        if now.duration_since(progress) > PATIENCE {
            let missing = pairs.get(first);
            let mut error = HostError::new(ErrorKind::Timeout, "find the target")
                .interface(wire.name())
                .advice("check that the server runs, admits this machine, and shares its network");
            if let Some((client, address)) = missing {
                error = error.export(address).detail(format!("no answer to {client}"));
            }
            return Err(error);
        }
        let recent = |at: &Option<Instant>| at.is_some_and(|at| now.duration_since(at) < RETRY);
        let is_recent = |number: &usize| asked.get(*number).is_some_and(recent);
        let outstanding = open.iter().filter(|number| is_recent(number)).count();
        let room = WINDOW.saturating_sub(outstanding);
        let due: Vec<usize> =
            open.iter().copied().filter(|number| !is_recent(number)).take(room).collect();
        let frames: Vec<_> = due.iter().map(|number| question(*number)).collect();
        wire.send(&mut frames.iter().map(|frame| Outgoing { head: frame, data: &[] }));
        for number in due {
            if let Some(at) = asked.get_mut(number) {
                *at = Some(now);
            }
        }
        let mut answered = Vec::new();
        wire.receive(true, &mut |frame| answered.extend(take(frame.bytes)));
        if !answered.is_empty() {
            progress = now;
            open.retain(|number| !answered.contains(number));
        }
    }
    Ok(())
}
