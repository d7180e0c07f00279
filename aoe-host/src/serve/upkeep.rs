//! What is looked at now and then: the images below, free space, other servers.

use core::time::Duration;
use std::collections::HashSet;
use std::sync::Arc;

use aoe_proto::initiator::emit_query;
use aoe_proto::{Address, ForeignAnswer, Mac};

use super::crew::{Crew, Outcomes};
use super::edge::HostedEdge;
use crate::config::ServeConfig;
use crate::image::Backing;
use crate::link::Link;
use crate::server::Server;
use crate::storage::{Change, free_space};
use crate::values::human_bytes;

/// How long a starting server listens for others that serve its addresses. A round trip takes
/// well under a millisecond; the rest is for a busy server.
pub(super) const PROBE_WAIT: Duration = Duration::from_millis(300);

/// How often the images below the overlays are compared with what they were.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How often free space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// An overlay that has used so much of its limit, in percent, is worth a warning.
const NEARLY_FULL_PERCENT: u64 = 90;

/// How often the segment is asked again for other servers of our addresses.
const DUPLICATE_INTERVAL: Duration = Duration::from_mins(1);

/// Frames listened to at a time.
const LISTEN_FRAMES: usize = 64;

/// The state of these looks.
#[derive(Debug)]
pub(super) struct Upkeep {
    next_watch: Duration,
    next_space: Duration,
    next_duplicates: Duration,
    low_space: Option<u64>,
    is_low: bool,
    /// Suspended for a writer: the first address above each backing.
    suspended: HashSet<Address>,
    /// The same of those that were changed.
    changed: HashSet<Address>,
    found: Option<(Address, Mac)>,
    /// By link: frames that found no room, when last looked at.
    drops: Vec<u64>,
}

impl Upkeep {
    pub(super) fn new(config: &ServeConfig) -> Self {
        Self {
            next_watch: Duration::ZERO,
            next_space: Duration::ZERO,
            next_duplicates: DUPLICATE_INTERVAL,
            low_space: config.low_space,
            is_low: false,
            suspended: HashSet::new(),
            changed: HashSet::new(),
            found: None,
            drops: Vec::new(),
        }
    }

    pub(super) fn look(
        &mut self,
        now: Duration,
        server: &mut Server<'_>,
        edge: &mut HostedEdge,
        links: &mut [Box<dyn Link>],
        crew: Option<&Crew>,
    ) {
        // What all workers have in common is looked at by one of them.
        let leads = server.share().number() == 0;
        if leads && now >= self.next_watch {
            self.next_watch = now + WATCH_INTERVAL;
            self.watch_backings(server, edge, crew);
        }
        if now >= self.next_space {
            self.next_space = now + SPACE_INTERVAL;
            if leads {
                self.watch_space(edge);
            }
            warn_of_limits(server, edge);
            self.watch_drops(edge, links);
        }
        if leads && now >= self.next_duplicates {
            self.next_duplicates = now + DUPLICATE_INTERVAL;
            self.ask_for_duplicates(server, links);
        }
    }

    /// Every file once, however many addresses lie above it; the verdict goes to all of them.
    fn watch_backings(
        &mut self,
        server: &mut Server<'_>,
        edge: &mut HostedEdge,
        crew: Option<&Crew>,
    ) {
        let mut distinct: Vec<(Arc<Backing>, Vec<Address>)> = Vec::new();
        for address in server.addresses() {
            let Some(backing) = edge.backings.get(&address) else { continue };
            match distinct.iter_mut().find(|(known, _)| Arc::ptr_eq(known, backing)) {
                Some((_, addresses)) => addresses.push(address),
                None => distinct.push((Arc::clone(backing), vec![address])),
            }
        }
        for (backing, addresses) in distinct {
            let Some(first) = addresses.first().copied() else { continue };
            let suspended = self.suspended.contains(&first);
            if let Some(crew) = crew
                && backing.has_waiting_writer()
            {
                // `check` lets it go on: nobody may answer from these layers by then.
                suspend_others(crew, &addresses, true).wait();
            }
            let change = backing.check().map_or(Change::None, |(_, change)| change);
            let shown = shown(&addresses);
            match change {
                Change::None if suspended && backing.regain() => {
                    self.suspended.remove(&first);
                    for address in &addresses {
                        server.suspend(*address, false);
                    }
                    if let Some(crew) = crew {
                        drop(suspend_others(crew, &addresses, false));
                    }
                    edge.log.info(&format!("{shown}: nothing was changed below; serving again"));
                }
                Change::None => {}
                Change::WriterWaits => {
                    self.suspended.insert(first);
                    for address in &addresses {
                        server.suspend(*address, true);
                    }
                    edge.log.warn(&format!(
                        "{shown}: a program opens a layer below the overlays for writing; not \
                         answering until it has closed it again"
                    ));
                }
                Change::Modified => {
                    let is_news = self.changed.insert(first);
                    if let Some(crew) = crew.filter(|_| is_news) {
                        let addresses = addresses.clone();
                        drop(crew.order(move |worker| {
                            backing_changed(&addresses, &mut worker.server, &mut worker.edge);
                        }));
                    }
                    backing_changed(&addresses, server, edge);
                }
                Change::Replaced => edge.log.warn(&format!(
                    "{shown}: the path of a layer below the overlays leads to another file now; \
                     the old file is still served, the new one would not fit the overlays"
                )),
            }
        }
    }

    /// Frames that find no room are sent again by their initiators, after a tenth of a second or
    /// more each: a slow disk that nobody would explain.
    fn watch_drops(&mut self, edge: &mut HostedEdge, links: &[Box<dyn Link>]) {
        self.drops.resize(links.len(), 0);
        for (before, link) in self.drops.iter_mut().zip(links) {
            let now = link.counters().receive_drops;
            if now > core::mem::replace(before, now) {
                edge.log.warn(&format!(
                    "{}: requests arrived faster than they were taken, and some were lost; the \
                     machine is too busy, or the buffer count too high for so many clients",
                    link.name()
                ));
            }
        }
    }

    fn watch_space(&mut self, edge: &mut HostedEdge) {
        let (Some(limit), Some(directory)) = (self.low_space, edge.overlays.clone()) else {
            return;
        };
        let Ok(space) = free_space(&directory) else { return };
        let is_low = space.free_bytes < limit;
        if is_low && !self.is_low {
            edge.log.warn(&format!(
                "only {} are left for overlays in {}; writes fail when there is no room",
                human_bytes(space.free_bytes),
                directory.display()
            ));
        }
        self.is_low = is_low;
    }

    /// Asks every segment who serves our addresses. Answers come as frames like any other.
    #[expect(clippy::unused_self, reason = "one of the looks; the others need it")]
    pub(super) fn ask_for_duplicates(&self, server: &Server<'_>, links: &mut [Box<dyn Link>]) {
        for link in links {
            for address in server.addresses() {
                let mut frame = [0; 60];
                if let Ok(len) = emit_query(&mut frame, link.mac(), address.into())
                    && let Some(frame) = frame.get(..len)
                {
                    let _report = link.send(&mut core::iter::once(frame));
                }
            }
        }
    }

    /// Listens for answers before anything is served. The first foreign one, if any.
    pub(super) fn listen(
        &mut self,
        server: &Server<'_>,
        links: &mut [Box<dyn Link>],
    ) -> Option<(Address, Mac)> {
        let own: Vec<Mac> = links.iter().map(|l| l.mac()).collect();
        let found = &mut self.found;
        for link in links {
            let mac = link.mac();
            link.receive(LISTEN_FRAMES, &mut |frame| {
                let answer = ForeignAnswer::parse(frame, mac);
                if let Some(answer) = answer.filter(|a| !own.contains(&a.src))
                    && server.addresses().any(|a| a == answer.address)
                {
                    *found = Some((answer.address, answer.src));
                }
            });
        }
        self.found
    }
}

/// Has the other workers answer no more for these addresses, or go on.
fn suspend_others(crew: &Crew, addresses: &[Address], suspended: bool) -> Outcomes<()> {
    let addresses = addresses.to_vec();
    crew.order(move |worker| {
        for address in &addresses {
            worker.server.suspend(*address, suspended);
        }
    })
}

fn backing_changed(addresses: &[Address], server: &mut Server<'_>, edge: &mut HostedEdge) {
    for address in addresses {
        server.suspend(*address, false);
        server.backing_changed(*address, edge);
    }
}

/// Warns, once for each, of overlays that near their limit.
fn warn_of_limits(server: &Server<'_>, edge: &mut HostedEdge) {
    for disk in server.status() {
        let Some(limit) = disk.spec.limit else { continue };
        let used = disk.used_sectors.saturating_mul(512);
        if used.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL_PERCENT) {
            edge.log.warn(&format!(
                "{}: its overlay has used {NEARLY_FULL_PERCENT} % or more of its limit of {}; \
                 beyond it writes of this client fail",
                disk.spec.label,
                human_bytes(limit)
            ));
        }
    }
}

/// Addresses for a message: one, or the first and how many more.
fn shown(addresses: &[Address]) -> String {
    match addresses {
        [] => String::new(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}
