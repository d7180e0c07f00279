//! From a target's decision to a request that waits for its disk, or straight to the answer.

use aoe_proto::Action;
use cow_core::engine::Failure;
use cow_core::format::native;
use cow_core::units::Extent;

use super::disk::{CREATE_AGAIN, Presence, WAITING_MAX};
use super::requests::{Asked, Asker, Merged, Pending, Place, Requests, Wish};
use super::{Edge, LogUse, Opened, Server};

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
                let from = Asker { link, reply };
                self.ask(number, &Wish::new(from, Asked::Read, extent_of(range)), edge);
            }
            Action::Verify { range, reply } => {
                let from = Asker { link, reply };
                self.ask(number, &Wish::new(from, Asked::Verify, extent_of(range)), edge);
            }
            Action::Write { range, data, durable, reply } => {
                let wish = Wish::new(Asker { link, reply }, Asked::Write, extent_of(range));
                self.ask(number, &Wish { data, durable, ..wish }, edge);
            }
            Action::Flush { reply } => {
                let from = Asker { link, reply };
                self.ask(number, &Wish::new(from, Asked::Flush, Extent::EMPTY), edge);
            }
            Action::Discard { ranges, reply } => {
                // A list is made because the frame goes away; no client sends these in a hot loop.
                let mut parts: Vec<Extent> = ranges.map(extent_of).collect();
                parts.reverse();
                let first = parts.pop().unwrap_or(Extent::EMPTY);
                let wish = Wish::new(Asker { link, reply }, Asked::Discard, first);
                self.take(number, &wish, parts, edge);
            }
        }
    }

    /// Merges a request with the same one under way, or takes it in.
    fn ask(&mut self, number: u32, wish: &Wish<'_>, edge: &mut impl Edge) {
        if !self.requests.may_have(number, wish) || !self.merge(number, wish) {
            self.take(number, wish, Vec::new(), edge);
        }
    }

    #[cold]
    fn merge(&mut self, number: u32, wish: &Wish<'_>) -> bool {
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return false;
        };
        let merged = self.requests.merge(wish, disk.requests());
        if merged == Merged::Instead {
            disk.counts.dropped += 1;
            self.totals.overrun += 1;
        }
        disk.counts.merged += u64::from(merged != Merged::No);
        merged != Merged::No
    }

    /// Takes a request in that needs storage, and the parts `more` of it behind the first, last first:
    /// it is answered from here on, whatever happens. Without a buffer for it it is dropped and counted.
    fn take(&mut self, number: u32, wish: &Wish<'_>, more: Vec<Extent>, edge: &mut impl Edge) {
        let &Wish { from, asked, range, data, durable } = wish;
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let room = disk.waiting.len() < WAITING_MAX;
        let Some(mut buf) = room.then(|| self.frames.take()).flatten() else {
            disk.counts.dropped += 1;
            self.totals.overrun += 1;
            return;
        };
        // No frame is longer than a buffer: `Server::receive` saw to that.
        if let Some(target) = buf.bytes.get_mut(..data.len()) {
            target.copy_from_slice(data);
        }
        let idle = asked == Asked::Discard && range.is_empty();
        let needed = match disk.presence {
            _ if idle || disk.broken || !asked.changes() => Ok(Needed::Nothing),
            Presence::Failed { until, failure } if self.now < until => Err(failure),
            Presence::Pristine | Presence::Failed { .. } => {
                self.may_create(number).then_some(Needed::Overlay).ok_or(Failure::Full)
            }
            Presence::Ready if disk.log == LogUse::AtFirstChange => Ok(Needed::Log),
            _ => Ok(Needed::Nothing),
        };
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let failure = needed.err().or(disk.broken.then_some(Failure::Medium));
        let waits = failure.is_none() && !idle;
        let spec = (needed == Ok(Needed::Overlay)).then(|| disk.spec.clone());
        match needed {
            Ok(Needed::Overlay) => disk.presence = Presence::Creating,
            Ok(Needed::Log) => disk.presence = Presence::Joining,
            Ok(Needed::Nothing) | Err(_) => {}
        }
        let data_at = if asked == Asked::Read { from.reply.data_range().start } else { 0 };
        let (extent, more) = match asked {
            Asked::Verify => pieces(range, buf.bytes.len() as u64 / 512),
            _ => (range, more),
        };
        let id = self.requests.insert(Pending {
            disk: number,
            from,
            asked,
            range,
            extent,
            more,
            parts: 0,
            waits,
            durable,
            data_at,
            buf,
            failure,
            place: Place::default(),
        });
        if waits {
            disk.waiting.push_back(id);
        } else {
            disk.end(id, &mut self.requests, &mut self.frames, edge);
        }
        self.activate(number);
        if let Some(spec) = spec {
            edge.create_overlay(number, &spec);
        } else if needed == Ok(Needed::Log) {
            edge.join_log(number);
        }
    }

    /// What came of [`Edge::join_log`]: the overlay's header as it is with the log in it, or `None` if
    /// it goes on without, or why it can do neither.
    pub fn log_joined(&mut self, number: u32, joined: Result<Option<native::Opened>, Failure>) {
        if let Some(disk) = self.disk_mut(number) {
            disk.join(joined);
            self.activate(number);
        }
    }

    /// The overlay of a disk exists now and is open, or why it could not be made.
    pub fn overlay_ready(
        &mut self,
        number: u32,
        opened: Result<Opened, Failure>,
        edge: &mut impl Edge,
    ) {
        let until = self.now.saturating_add(CREATE_AGAIN);
        let Some(disk) = self.disks.get_mut(number as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        let fits = |opened| disk.attach(opened).then_some(()).ok_or(Failure::Medium);
        if let Err(failure) = opened.and_then(fits) {
            disk.presence = Presence::Failed { until, failure };
            let changes = |requests: &Requests, id| {
                requests.get(id).is_some_and(|p: &Pending| p.asked.changes())
            };
            for id in core::mem::take(&mut disk.waiting) {
                if changes(&self.requests, id) {
                    if let Some(pending) = self.requests.get_mut(id) {
                        pending.failure = Some(failure);
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

/// What a request needs before it can begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Needed {
    Nothing,
    Overlay,
    Log,
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
