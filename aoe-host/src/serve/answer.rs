//! Control requests: status and clients.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Running, setup};
use crate::config::{Durability, Top};
use crate::control::{
    ClientEntry, ClientList, ControlReply, ControlRequest, InterfaceStatus, OverlayStatus,
    SessionStatus, Status, TargetKind, TargetStatus, TrafficStatus, UnknownEntry,
};
use crate::error::{ErrorKind, HostError, Result};
use crate::registry::{Client, automatic_name};
use crate::server::DiskStatus;
use crate::storage::free_space;
use crate::values::Mac;

/// A client that sent nothing for so long is not connected: Linux asks again every minute.
/// [AoE 8.1]
const CONNECTED_S: u64 = 150;

/// How often, and how long each time, an order waits for disks to finish what is under way.
const SETTLE_ROUNDS: u32 = 100;

/// See [`SETTLE_ROUNDS`].
const SETTLE_WAIT: Duration = Duration::from_millis(10);

impl Running<'_> {
    pub(super) fn answer_control(&mut self) {
        while let Some(call) =
            self.control.as_mut().and_then(crate::control::ControlServer::next_call)
        {
            let reply = self.answer(&call.request);
            call.answer(reply.unwrap_or_else(|error| ControlReply::refused(&error)));
        }
    }

    fn answer(&mut self, request: &ControlRequest) -> Result<ControlReply> {
        Ok(match request {
            ControlRequest::Status => ControlReply::Status(Box::new(self.status())),
            ControlRequest::ClientsList => ControlReply::Clients(self.clients()),
            ControlRequest::ClientsAdopt { mac, name } => {
                let name = name.clone().unwrap_or_else(|| automatic_name(*mac));
                ControlReply::Done(self.adopt(*mac, &name)?)
            }
            ControlRequest::ClientsName { client, name } => {
                self.edge.registry().rename(client, name)?;
                self.edge.write_registry()?;
                self.server.relabel(client, name);
                ControlReply::Done(format!("{client} is called {name} now"))
            }
            ControlRequest::ClientsRemove { client } => ControlReply::Done(self.remove(client)?),
            ControlRequest::Advertise => {
                self.advertise(None);
                ControlReply::Done("advertised".to_owned())
            }
            ControlRequest::Shutdown => {
                self.stop_soon();
                ControlReply::Done("stopping".to_owned())
            }
        })
    }

    fn adopt(&mut self, mac: Mac, name: &str) -> Result<String> {
        // Everything that can refuse comes first: a half adopted machine would be on one disk now
        // and on another after the next start.
        let mut registry = self.edge.registry().clone();
        let known = registry.find_name(name).is_some();
        let id = registry.adopt(mac, name)?;
        let client = registry.client(id).cloned().ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "find the client that was adopted")
        })?;
        let is_guest = self.edge.registry().find(mac).is_none();
        let guests = self.disks(|d| is_guest && d.macs.contains(&mac));
        self.settle(&guests, "adopt the machine")?;
        // A machine that was served as a guest has nothing written yet: its disk is made anew.
        for number in guests {
            self.server.remove_disk(number);
        }
        *self.edge.registry() = registry;
        self.edge.write_registry()?;
        let disks = self.disks(|d| d.spec.label == name && !d.macs.is_empty());
        if known && !disks.is_empty() {
            for number in disks {
                self.server.bind_mac(number, mac);
            }
        } else {
            self.add_everywhere(&client)?;
        }
        self.advertise(None);
        Ok(format!("{mac} belongs to {name} now"))
    }

    /// Numbers of the disks that `which` picks.
    fn disks(&self, which: impl Fn(&DiskStatus<'_>) -> bool) -> Vec<u32> {
        self.server.status().filter(|d| which(d)).map(|d| d.number).collect()
    }

    /// Lets disks finish what is under way; refuses if they do not within moments.
    fn settle(&mut self, numbers: &[u32], op: &str) -> Result<()> {
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

    fn add_everywhere(&mut self, client: &Client) -> Result<()> {
        let exports: Vec<_> = self
            .edge
            .exports
            .values()
            .filter(|e| matches!(e.top, Top::PerClient))
            .cloned()
            .collect();
        for export in exports {
            setup::add_client(&self.config, &export, client, &mut self.server, &mut self.edge)?;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<String> {
        if self.edge.registry().find_name(name).is_none() {
            return Err(HostError::new(ErrorKind::NotFound, "remove the client").detail(name));
        }
        let numbers = self.disks(|d| d.spec.label == name && !d.macs.is_empty());
        self.settle(&numbers, "remove the client")?;
        for number in numbers {
            let broken = self.server.status().any(|d| d.number == number && d.read_only);
            if let Some((spec, top)) = self.server.remove_disk(number) {
                self.close_disk(number, &spec, top, broken)?;
            }
        }
        let (_, client) = self.edge.registry().remove(name)?;
        self.edge.write_registry()?;
        Ok(format!("{name} is no client any more; what it wrote stays in {}.cow", client.file_stem))
    }

    fn clients(&self) -> ClientList {
        let now = self.started.elapsed();
        let last_seen = |macs: &[Mac]| {
            let seen = self.server.status().filter_map(|d| d.last_seen);
            seen.filter(|(_, mac)| macs.contains(mac)).map(|(at, _)| at).max()
        };
        let entry = |client: &Client| ClientEntry {
            name: client.name.clone(),
            macs: client.macs.clone(),
            file_stem: client.file_stem.clone(),
            last_seen_s: last_seen(&client.macs).map(|at| now.saturating_sub(at).as_secs()),
        };
        let mut unknown: BTreeMap<Mac, UnknownEntry> = BTreeMap::new();
        for u in self.server.unknown() {
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
        ClientList {
            clients: self.edge.registry().clients().map(|(_, c)| entry(c)).collect(),
            unknown,
        }
    }

    /// Everything `cowblade status` shows.
    pub fn status(&self) -> Status {
        let totals = self.server.totals();
        let interfaces = self.links.iter().map(|link| InterfaceStatus {
            name: link.name().to_owned(),
            mac: link.mac(),
            mtu: link.mtu(),
            up: link.is_up(),
            link: link.implementation().to_owned(),
            counters: link.counters(),
        });
        let mut targets: Vec<TargetStatus> =
            self.config.exports.iter().map(|e| self.target(e)).collect();
        targets.sort_by_key(|t| t.address);
        let space = self.edge.overlays.as_ref().and_then(|d| free_space(d).ok());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            cpu_s: cpu_seconds(),
            interfaces: interfaces.collect(),
            targets,
            sessions: self.server.status().map(|d| self.session(&d)).collect(),
            unknown_stations: self.server.unknown().count(),
            refused_frames: vec![
                ("not for us".to_owned(), totals.ignored),
                ("no room".to_owned(), totals.overrun),
                ("answers of another server".to_owned(), totals.duplicates),
            ],
            overlay_space_free_bytes: space.map(|s| s.free_bytes),
            warnings: self.edge.log.warnings(),
        }
    }

    fn target(&self, export: &crate::config::Export) -> TargetStatus {
        let backing = self.edge.backings.get(&export.address);
        TargetStatus {
            address: export.address,
            name: export.name.clone(),
            kind: match export.top {
                Top::ReadOnly => TargetKind::ReadOnly,
                Top::PerClient => TargetKind::PerClient,
                Top::Own | Top::File(_) => TargetKind::OneOverlay,
            },
            size_bytes: backing.map_or(0, |b| b.sectors() * 512),
            backing: export.backing.iter().map(layer_text).collect(),
            durability: match export.durability {
                Durability::Safe => "safe",
                Durability::Writeback => "writeback",
                Durability::Ephemeral => "ephemeral",
            }
            .to_owned(),
            failure: self.server.failure(export.address).map(str::to_owned),
        }
    }

    fn session(&self, disk: &DiskStatus<'_>) -> SessionStatus {
        let now = self.started.elapsed();
        let last = disk.last_seen.map(|(at, _)| now.saturating_sub(at).as_secs());
        let client = (disk.spec.label != disk.address.to_string()).then(|| disk.spec.label.clone());
        let overlay = self.edge.attachments.get(&disk.number).map(|a| OverlayStatus {
            path: a.opened.file().path().to_owned(),
            bytes_on_disk: a.opened.file().disk_use().map_or(0, |u| u.allocated_bytes),
            limit_bytes: disk.spec.limit,
            read_only_because: disk
                .read_only
                .then(|| "a sync failed, or a layer below was changed".to_owned()),
        });
        let mut macs = disk.macs.clone();
        if let (true, Some((_, mac))) = (macs.is_empty(), disk.last_seen) {
            macs.push(mac);
        }
        SessionStatus {
            address: disk.address,
            client,
            macs,
            connected: last.is_some_and(|s| s < CONNECTED_S),
            last_seen_s: last,
            traffic: TrafficStatus {
                requests: disk.reads + disk.writes,
                reads: disk.reads,
                writes: disk.writes,
                bytes_read: disk.bytes_read,
                bytes_written: disk.bytes_written,
                errors: disk.errors,
                dropped: disk.dropped,
                merged: disk.merged,
            },
            overlay,
        }
    }
}

fn layer_text(layer: &crate::config::Layer) -> String {
    match layer {
        crate::config::Layer::File { path, .. } => path.display().to_string(),
        crate::config::Layer::Recorded => "what it names".to_owned(),
        crate::config::Layer::Blank { len_bytes } => format!("blank:{len_bytes}"),
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let whole = u32::try_from(used.tv_sec).unwrap_or(u32::MAX);
    let nanos = u32::try_from(used.tv_nsec).unwrap_or(0);
    f64::from(whole) + f64::from(nanos) / 1e9
}
