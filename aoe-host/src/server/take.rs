//! From a target's decision to a request that waits for its disk, or straight to the answer.

use aoe_proto::{Action, AtaReply};
use cow_core::engine::Failure;
use cow_core::units::Extent;

use super::disk::{CREATE_AGAIN, Presence, WAITING_MAX};
use super::requests::{Asked, Pending, Requests};
use super::{Edge, Opened, Server};

impl Server<'_> {
    /// Performs what a target decided about a request.
    pub(super) fn perform(
        &mut self,
        number: u32,
        link: usize,
        action: Action<'_>,
        edge: &mut impl Edge,
    ) {
        match action {
            Action::Ignore(_) => self.totals.ignored += 1,
            Action::Reply(reply) => {
                let Some(disk) = self.disks.get(number as usize).and_then(Option::as_deref) else {
                    return;
                };
                if reply.change().is_some() {
                    edge.persist(number, &disk.spec, disk.target.state());
                }
                let Some(mut buf) = self.frames.take() else {
                    self.totals.overrun += 1;
                    return;
                };
                match disk.target.emit(&reply, &mut buf.bytes) {
                    Ok(len) => {
                        buf.len = len;
                        self.frames.post(link, buf);
                    }
                    Err(_) => self.frames.give(buf),
                }
            }
            Action::Read { range, reply } => {
                let pending = self.pending(number, link, Asked::Read, reply, extent_of(range));
                self.take(pending, edge);
            }
            Action::Verify { range, reply } => {
                let pending = self.pending(number, link, Asked::Verify, reply, extent_of(range));
                self.take(pending, edge);
            }
            Action::Write { range, data, durable, reply } => {
                let pending = self.pending(number, link, Asked::Write, reply, extent_of(range));
                let filled = pending.map(|pending| pending.filled(data, durable));
                self.take(filled, edge);
            }
            Action::Flush { reply } => {
                let pending = self.pending(number, link, Asked::Flush, reply, Extent::EMPTY);
                self.take(pending, edge);
            }
            Action::Discard { ranges, reply } => {
                // A list is made because the frame goes away; no client sends these in a hot loop.
                let mut parts: Vec<Extent> = ranges.map(extent_of).collect();
                parts.reverse();
                let first = parts.pop().unwrap_or(Extent::EMPTY);
                let pending = self.pending(number, link, Asked::Discard, reply, first);
                self.take(pending.map(|pending| Pending { more: parts, ..pending }), edge);
            }
        }
    }

    /// A request that needs storage, with a buffer. `None`, and counted, if there is no room.
    fn pending(
        &mut self,
        number: u32,
        link: usize,
        asked: Asked,
        reply: AtaReply,
        extent: Extent,
    ) -> Option<Pending> {
        let disk = self.disks.get_mut(number as usize)?.as_deref_mut()?;
        let room = disk.waiting.len() < WAITING_MAX;
        let Some(buf) = room.then(|| self.frames.take()).flatten() else {
            disk.counts.dropped += 1;
            self.totals.overrun += 1;
            return None;
        };
        let sectors = extent.sectors();
        let data_at = if asked == Asked::Read { reply.data_range().start } else { 0 };
        let (extent, more) = match asked {
            Asked::Verify => pieces(extent, buf.bytes.len() as u64 / 512),
            _ => (extent, Vec::new()),
        };
        Some(Pending {
            disk: number,
            link,
            asked,
            reply,
            sectors,
            extent,
            more,
            parts: 0,
            waits: true,
            durable: false,
            data_at,
            buf,
            failure: None,
        })
    }

    /// Takes a request in: it is answered from here on, whatever happens.
    fn take(&mut self, pending: Option<Pending>, edge: &mut impl Edge) {
        let Some(mut pending) = pending else { return };
        let (number, now) = (pending.disk, self.now);
        let Some(disk) = self.disks.get(number as usize).and_then(Option::as_deref) else { return };
        let idle = pending.asked == Asked::Discard && pending.extent.is_empty();
        let created = match disk.presence {
            _ if idle || disk.broken || !pending.asked.changes() => Ok(false),
            Presence::Failed { until } if now < until => Err(Failure::Medium),
            Presence::Pristine | Presence::Failed { .. } => {
                self.may_create(number).then_some(true).ok_or(Failure::Full)
            }
            _ => Ok(false),
        };
        let Some(disk) = self.disk_mut(number) else { return };
        pending.failure = created.err().or(disk.broken.then_some(Failure::Medium));
        pending.waits = pending.failure.is_none() && !idle;
        let spec = (created == Ok(true)).then(|| disk.spec.clone());
        if spec.is_some() {
            disk.presence = Presence::Creating;
        }
        let waits = pending.waits;
        let id = self.requests.insert(pending);
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        if waits {
            disk.waiting.push_back(id);
        } else {
            disk.end(id, &mut self.requests, &mut self.frames, edge);
        }
        self.activate(number);
        if let Some(spec) = spec {
            edge.create_overlay(number, &spec);
        }
    }

    /// The overlay of a disk exists now and is open, or could not be made.
    pub fn overlay_ready(&mut self, number: u32, opened: Option<Opened>, edge: &mut impl Edge) {
        let until = self.now.saturating_add(CREATE_AGAIN);
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        if !opened.is_some_and(|opened| disk.attach(opened)) {
            disk.presence = Presence::Failed { until };
            let changes = |requests: &Requests, id| {
                requests.get(id).is_some_and(|p: &Pending| p.asked.changes())
            };
            for id in core::mem::take(&mut disk.waiting) {
                if changes(&self.requests, id) {
                    if let Some(pending) = self.requests.get_mut(id) {
                        pending.failure = Some(Failure::Medium);
                    }
                    disk.end(id, &mut self.requests, &mut self.frames, edge);
                } else {
                    disk.waiting.push_back(id);
                }
            }
        }
        self.activate(number);
    }
}

/// A range in pieces of at most `most` sectors: the first, and the others last first.
fn pieces(extent: Extent, most: u64) -> (Extent, Vec<Extent>) {
    let mut rest = extent.skip(most);
    let mut more = Vec::new();
    while !rest.is_empty() && most > 0 {
        more.push(rest.take(most));
        rest = rest.skip(most);
    }
    more.reverse();
    (extent.take(most), more)
}

fn extent_of(range: aoe_proto::SectorRange) -> Extent {
    // A range lies inside its disk, so inside what an extent can hold.
    Extent::new(range.lba(), u64::from(range.count())).unwrap_or(Extent::EMPTY)
}
