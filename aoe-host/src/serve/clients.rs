//! Control requests about clients: who there is, and who belongs to whom.
//!
//! With several workers, a machine that gets another disk is first taken from all workers that are
//! not to have that disk, and then given to the one that is. What it sends in between is lost, and
//! sent again.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Running, setup};
use crate::config::Top;
use crate::control::{ClientEntry, ClientList, UnknownEntry};
use crate::error::{ErrorKind, HostError, Result};
use crate::registry::Client;
use crate::server::{DiskStatus, Unknown};
use crate::values::{Address, Mac};

/// How often, and how long each time, an order waits for disks to finish what is under way.
const SETTLE_ROUNDS: u32 = 100;

/// See [`SETTLE_ROUNDS`].
const SETTLE_WAIT: Duration = Duration::from_millis(10);

/// Whom one worker has seen.
struct Sightings {
    /// Machines with a disk, and when they were last heard of.
    seen: Vec<(Mac, Duration)>,
    /// Those without one.
    unknown: Vec<Unknown>,
}

/// The disks of one client, and the workers that have them or are to have them.
type Places = Vec<(Address, usize)>;

impl Running<'_> {
    pub(super) fn rename(&mut self, client: &str, name: &str) -> Result<String> {
        self.edge.registry().rename(client, name)?;
        self.edge.write_registry()?;
        let (old, new) = (client.to_owned(), name.to_owned());
        self.everywhere(move |worker| worker.server.relabel(&old, &new));
        Ok(format!("{client} is called {name} now"))
    }

    pub(super) fn adopt(&mut self, mac: Mac, name: &str) -> Result<String> {
        // Everything that can refuse comes first: a half adopted machine would be on one disk now
        // and on another after the next start.
        let mut trial = self.edge.registry().clone();
        let is_known = trial.find_name(name).is_some();
        let id = trial.adopt(mac, name)?;
        let client = trial.client(id).cloned().ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "find the client that was adopted")
        })?;
        let is_guest = self.edge.registry().find(mac).is_none();
        self.everywhere_well(move |worker| worker.settle_guests(mac, is_guest))?;
        let places = self.places(&client, is_known);
        self.edge.registry().adopt(mac, name)?;
        self.edge.write_registry()?;
        let (those, theirs) = (places.clone(), client.clone());
        self.everywhere_well(move |worker| worker.give_up(&those, mac, &theirs, is_guest))?;
        self.everywhere_well(move |worker| worker.take_up(&places, mac, &client, is_guest))?;
        self.advertise_all();
        Ok(format!("{mac} belongs to {name} now"))
    }

    /// Where a client's disks are, or are to be if it has none yet.
    fn places(&mut self, client: &Client, is_known: bool) -> Places {
        let name = client.name.clone();
        let found = self.everywhere(move |worker| worker.disks_of(&name));
        let found = found.into_iter().enumerate().flat_map(|(number, addresses)| {
            addresses.unwrap_or_default().into_iter().map(move |address| (address, number))
        });
        let found: Places = found.collect();
        if is_known && !found.is_empty() {
            return found;
        }
        let per_client = self.edge.exports.values().filter(|e| matches!(e.top, Top::PerClient));
        let first = client.macs.first().copied();
        per_client.map(|e| (e.address, self.share().owner(e.address, first))).collect()
    }

    fn disks_of(&self, name: &str) -> Vec<Address> {
        let disks = self.server.status().filter(|d| is_of(d, name));
        disks.map(|d| d.address).collect()
    }

    /// Numbers of the disks that `which` picks.
    fn disks(&self, which: impl Fn(&DiskStatus<'_>) -> bool) -> Vec<u32> {
        self.server.status().filter(|d| which(d)).map(|d| d.number).collect()
    }

    /// Lets the disks finish that a machine has as a guest.
    fn settle_guests(&mut self, mac: Mac, is_guest: bool) -> Result<()> {
        let guests = self.disks(|d| is_guest && d.macs.contains(&mac));
        self.settle(&guests, "adopt the machine")
    }

    /// Takes away the disks that a machine has as a guest: nothing is written on them yet.
    fn remove_guests(&mut self, mac: Mac, is_guest: bool) -> Result<()> {
        self.settle_guests(mac, is_guest)?;
        if !self.disks(|d| is_guest && d.macs.contains(&mac) && d.has_overlay).is_empty() {
            return Err(HostError::new(ErrorKind::InUse, "adopt the machine")
                .detail("it has just written something, and become a client by itself")
                .advice("`cowblade clients name` gives it a name"));
        }
        for number in self.disks(|d| is_guest && d.macs.contains(&mac)) {
            self.server.remove_disk(number);
        }
        Ok(())
    }

    /// This worker hands over what comes from a machine, where another one has its disk.
    fn give_up(
        &mut self,
        places: &Places,
        mac: Mac,
        client: &Client,
        is_guest: bool,
    ) -> Result<()> {
        let own = self.share().number();
        let mut others = places.iter().filter(|(_, owner)| *owner != own).peekable();
        if others.peek().is_some() {
            self.remove_guests(mac, is_guest)?;
        }
        for (address, owner) in others {
            self.server.set_owner(*address, &client.macs, *owner);
        }
        Ok(())
    }

    /// This worker answers a machine where it has its disk.
    fn take_up(
        &mut self,
        places: &Places,
        mac: Mac,
        client: &Client,
        is_guest: bool,
    ) -> Result<()> {
        let own = self.share().number();
        if places.iter().any(|(_, owner)| *owner == own) {
            self.remove_guests(mac, is_guest)?;
        }
        for (address, _) in places.iter().filter(|(_, owner)| *owner == own) {
            let disks = self.disks(|d| d.address == *address && is_of(d, &client.name));
            if let Some(number) = disks.first() {
                self.server.bind_mac(*number, mac);
            } else if let Some(export) = self.edge.exports.get(address).cloned() {
                setup::add_client(&self.config, &export, client, &mut self.server, &mut self.edge)?;
            }
        }
        Ok(())
    }

    /// Lets disks finish what is under way; refuses if they do not within moments.
    fn settle(&mut self, numbers: &[u32], op: &str) -> Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        for _ in 0..SETTLE_ROUNDS {
            self.server.commit_all();
            self.step();
            if numbers.iter().all(|n| self.server.is_settled(*n)) {
                return Ok(());
            }
            let _came = self.wait(SETTLE_WAIT, None);
        }
        Err(HostError::new(ErrorKind::InUse, op)
            .detail("it has requests under way, or data that are being made durable")
            .advice("try again when it is quiet"))
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<String> {
        if self.edge.registry().find_name(name).is_none() {
            return Err(HostError::new(ErrorKind::NotFound, "remove the client").detail(name));
        }
        let label = name.to_owned();
        self.everywhere_well(move |worker| worker.settle_client(&label).map(drop))?;
        let label = name.to_owned();
        self.everywhere_well(move |worker| worker.remove_disks(&label))?;
        let (_, client) = self.edge.registry().remove(name)?;
        self.edge.write_registry()?;
        let macs = client.macs.clone();
        self.everywhere(move |worker| worker.server.forget_owner(&macs));
        Ok(format!("{name} is no client any more; what it wrote stays in {}.cow", client.file_stem))
    }

    fn settle_client(&mut self, name: &str) -> Result<Vec<u32>> {
        let numbers = self.disks(|d| is_of(d, name));
        self.settle(&numbers, "remove the client")?;
        Ok(numbers)
    }

    fn remove_disks(&mut self, name: &str) -> Result<()> {
        for number in self.settle_client(name)? {
            let broken = self.server.status().any(|d| d.number == number && d.read_only);
            if let Some((spec, top)) = self.server.remove_disk(number) {
                self.close_disk(number, &spec, top, broken)?;
            }
        }
        Ok(())
    }

    pub(super) fn clients(&mut self) -> ClientList {
        let now = self.started.elapsed();
        let all: Vec<Sightings> =
            self.everywhere(|worker| worker.sightings()).into_iter().flatten().collect();
        let last_seen = |macs: &[Mac]| {
            let seen = all.iter().flat_map(|s| &s.seen);
            seen.filter(|(mac, _)| macs.contains(mac)).map(|(_, at)| *at).max()
        };
        let entry = |client: &Client| ClientEntry {
            name: client.name.clone(),
            macs: client.macs.clone(),
            file_stem: client.file_stem.clone(),
            last_seen_s: last_seen(&client.macs).map(|at| now.saturating_sub(at).as_secs()),
        };
        let mut unknown: BTreeMap<Mac, UnknownEntry> = BTreeMap::new();
        for u in all.iter().flat_map(|s| &s.unknown) {
            let entry = unknown.entry(u.mac).or_insert(UnknownEntry {
                mac: u.mac,
                frames: 0,
                first_seen_s: now.saturating_sub(u.first_seen).as_secs(),
                last_seen_s: now.saturating_sub(u.last_seen).as_secs(),
            });
            entry.frames += u.requests;
        }
        let mut unknown: Vec<UnknownEntry> = unknown.into_values().collect();
        unknown.sort_by_key(|u| u.last_seen_s);
        let clients = self.edge.registry().clients().map(|(_, c)| entry(c)).collect();
        ClientList { clients, unknown }
    }

    fn sightings(&self) -> Sightings {
        let seen = self.server.status().filter_map(|d| d.last_seen);
        Sightings {
            seen: seen.map(|(at, mac)| (mac, at)).collect(),
            unknown: self.server.unknown().collect(),
        }
    }
}

/// Whether it is a disk of the client of this name, and not one for everybody that is called so.
fn is_of(disk: &DiskStatus<'_>, name: &str) -> bool {
    disk.spec.label == name && !disk.macs.is_empty()
}
