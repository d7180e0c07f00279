//! Control requests, and what `cowblade status` shows.

use super::Running;
use crate::config::{Durability, Top};
use crate::control::{
    ControlReply, ControlRequest, InterfaceStatus, OverlayStatus, SessionStatus, Status,
    TargetKind, TargetStatus, TrafficStatus, WorkerStatus,
};
use crate::error::Result;
use crate::link::LinkCounters;
use crate::registry::automatic_name;
use crate::server::{DiskStatus, Totals};
use crate::storage::free_space;

/// A client that sent nothing for so long is not connected: Linux asks again every minute.
/// [AoE 8.1]
const CONNECTED_S: u64 = 150;

/// What one worker has of a status.
struct Part {
    worker: WorkerStatus,
    sessions: Vec<SessionStatus>,
    unknown: usize,
    totals: Totals,
    /// By interface.
    counters: Vec<LinkCounters>,
    cold_reads: String,
}

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
                ControlReply::Done(self.rename(client, name)?)
            }
            ControlRequest::ClientsRemove { client } => ControlReply::Done(self.remove(client)?),
            ControlRequest::Advertise => {
                self.advertise_all();
                ControlReply::Done("advertised".to_owned())
            }
            ControlRequest::Shutdown => {
                self.stop_soon();
                ControlReply::Done("stopping".to_owned())
            }
        })
    }

    /// Everything `cowblade status` shows.
    pub fn status(&mut self) -> Status {
        let parts = self.everywhere(|worker| worker.part());
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        let sum = |count: fn(&Totals) -> u64| parts.iter().map(|p| count(&p.totals)).sum();
        let interfaces = self.links.iter().enumerate().map(|(at, link)| InterfaceStatus {
            name: link.name().to_owned(),
            mac: link.mac(),
            mtu: link.mtu(),
            up: link.is_up(),
            link: link.implementation().into_owned(),
            counters: parts.iter().filter_map(|p| p.counters.get(at)).copied().sum(),
        });
        let mut targets: Vec<TargetStatus> =
            self.config.exports.iter().map(|e| self.target(e)).collect();
        targets.sort_by_key(|t| t.address);
        let space = self.edge.overlays.as_ref().and_then(|d| free_space(d).ok());
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            cpu_s: cpu_seconds(),
            interfaces: interfaces.collect(),
            cold_reads: all_ways(parts.iter().map(|p| p.cold_reads.as_str())),
            targets,
            unknown_stations: parts.iter().map(|p| p.unknown).sum(),
            refused_frames: vec![
                ("not for us".to_owned(), sum(|t| t.ignored)),
                ("no room".to_owned(), sum(|t| t.overrun)),
                ("answers of another server".to_owned(), sum(|t| t.duplicates)),
            ],
            overlay_space_free_bytes: space.map(|s| s.free_bytes),
            warnings: self.edge.log.warnings(),
            workers: Vec::new(),
            sessions: Vec::new(),
        };
        for part in parts {
            status.workers.push(part.worker);
            status.sessions.extend(part.sessions);
        }
        if status.workers.len() > 1 {
            status.sessions.sort_by(|a, b| (a.address, &a.client).cmp(&(b.address, &b.client)));
        }
        status
    }

    fn part(&self) -> Part {
        let totals = self.server.totals();
        let sessions: Vec<_> = self.server.status().map(|d| self.session(&d)).collect();
        let counters: Vec<_> = self.links.iter().map(|link| link.counters()).collect();
        Part {
            worker: WorkerStatus {
                number: self.share().number(),
                cpu_s: thread_seconds(),
                disks: sessions.len(),
                requests: sessions.iter().map(|s| s.traffic.requests).sum(),
                frames_received: counters.iter().map(|c| c.frames_received).sum(),
                handed_over: totals.handed_over,
                taken_over: totals.taken_over,
                hand_over_drops: self.edge.handed_lost,
            },
            sessions,
            unknown: self.server.unknown().count(),
            totals,
            counters,
            cold_reads: self.edge.driver.cold_reads().to_owned(),
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
        let why = |known: Option<&String>| match (known, self.server.failure(disk.address)) {
            (Some(failure), _) => failure.clone(),
            (None, Some(failure)) => failure.to_owned(),
            (None, None) => "the server's messages say why".to_owned(),
        };
        let overlay = self.edge.attachments.get(&disk.number).map(|a| OverlayStatus {
            path: a.opened.file().path().to_owned(),
            bytes_on_disk: a.opened.file().disk_use().map_or(0, |u| u.allocated_bytes),
            limit_bytes: disk.spec.limit,
            has_commit_log: a.opened.logged_layer().is_some(),
            read_only_because: disk.read_only.then(|| why(a.failure.as_ref())),
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

/// What workers say of themselves: once if all say the same, else each thing with how many do.
fn all_ways<'a>(ways: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for way in ways {
        match counts.iter_mut().find(|(known, _)| *known == way) {
            Some((_, count)) => *count += 1,
            None => counts.push((way, 1)),
        }
    }
    if let [(way, _)] = *counts {
        return way.to_owned();
    }
    let each = counts.iter().map(|(way, count)| match count {
        1 => format!("{way} (1 worker)"),
        _ => format!("{way} ({count} workers)"),
    });
    each.collect::<Vec<_>>().join("; ")
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
    seconds(rustix::time::ClockId::ProcessCPUTime)
}

/// Processor time of this thread so far.
fn thread_seconds() -> f64 {
    seconds(rustix::time::ClockId::ThreadCPUTime)
}

fn seconds(clock: rustix::time::ClockId) -> f64 {
    let used = rustix::time::clock_gettime(clock);
    let whole = u32::try_from(used.tv_sec).unwrap_or(u32::MAX);
    let nanos = u32::try_from(used.tv_nsec).unwrap_or(0);
    f64::from(whole) + f64::from(nanos) / 1e9
}

#[cfg(test)]
mod tests {
    use super::all_ways;

    #[test]
    fn what_all_workers_say_is_said_once() {
        assert_eq!(all_ways([].into_iter()), "");
        assert_eq!(all_ways(["io_uring"; 3].into_iter()), "io_uring");
        let threads = "threads, because io_uring is refused";
        let mixed = ["io_uring", threads, "io_uring"];
        assert_eq!(
            all_ways(mixed.into_iter()),
            "io_uring (2 workers); threads, because io_uring is refused (1 worker)"
        );
    }
}
