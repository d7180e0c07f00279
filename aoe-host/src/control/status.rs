//! What `cowblade status` knows: plain data, filled by the server loop, printed by the command.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::link::LinkCounters;
use crate::values::{Address, Mac, serde_text};

/// Everything about a running server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The server's process.
    pub pid: u32,
    /// Seconds since it started to serve.
    pub uptime_s: u64,
    /// Seconds of processor time it has used.
    pub cpu_s: f64,
    /// Where it serves.
    pub interfaces: Vec<InterfaceStatus>,
    /// Who does reads of what is not in memory (`io_uring`, `threads`), and why so; of several
    /// workers that differ, how many each.
    #[serde(default)]
    pub cold_reads: String,
    /// What it serves, by address.
    pub targets: Vec<TargetStatus>,
    /// Who uses it: one entry for each client of each address.
    pub sessions: Vec<SessionStatus>,
    /// Stations that are no clients.
    pub unknown_stations: usize,
    /// Frames that were not answered, by reason.
    pub refused_frames: Vec<(String, u64)>,
    /// Bytes left on the file system of the overlays.
    pub overlay_space_free_bytes: Option<u64>,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// The threads that share the disks; one unless told otherwise.
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number, from 0 on.
    pub number: usize,
    /// Seconds of processor time that its loop has used.
    pub cpu_s: f64,
    /// Disks that it has.
    pub disks: usize,
    /// Reads and writes answered.
    pub requests: u64,
    /// Frames that the kernel brought to it.
    pub frames_received: u64,
    /// Of these, how many it handed over to others; of a broadcast each copy counts.
    pub handed_over: u64,
    /// Frames that others handed over to it.
    pub taken_over: u64,
    /// Frames for others that found no room with them.
    pub hand_over_drops: u64,
}

/// One interface.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its own address.
    #[serde(with = "serde_text::mac")]
    pub mac: Mac,
    /// Largest payload in bytes.
    pub mtu: usize,
    /// Whether frames can pass.
    pub up: bool,
    /// How frames are exchanged with it (`ring`, `mmsg`, `pnet`), and why so.
    #[serde(default)]
    pub link: String,
    /// Totals since the start.
    pub counters: LinkCounters,
}

/// Who may write to a target, and where it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// Nobody.
    ReadOnly,
    /// Each client to an overlay of its own.
    PerClient,
    /// Everybody who sees it, to one overlay.
    OneOverlay,
}

/// One address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Shelf and slot.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Who may write to it.
    pub kind: TargetKind,
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// The layers below the overlay, from upper to base.
    pub backing: Vec<String>,
    /// `safe`, `writeback` or `ephemeral`.
    pub durability: String,
    /// Why it cannot serve, if it cannot.
    pub failure: Option<String>,
}

/// One client of one address.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Shelf and slot.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// The client's name; `None` where an address is not divided by client.
    pub client: Option<String>,
    /// The addresses it was seen with.
    #[serde(with = "serde_text::macs")]
    pub macs: Vec<Mac>,
    /// Whether it was heard of within the last minutes.
    pub connected: bool,
    /// Seconds since its last frame; `None`: not since the server started.
    pub last_seen_s: Option<u64>,
    /// What passed since the server started.
    pub traffic: TrafficStatus,
    /// Its overlay; `None`: nothing written yet, or read-only.
    pub overlay: Option<OverlayStatus>,
}

/// Requests of one client of one address since the server started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Requests answered, of any kind.
    pub requests: u64,
    /// Reads answered.
    pub reads: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Requests dropped because too many were outstanding.
    pub dropped: u64,
    /// Requests that came again while they were under way, and were not executed again.
    #[serde(default)]
    pub merged: u64,
}

/// One overlay.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// Its file.
    pub path: PathBuf,
    /// Bytes it takes on disk.
    pub bytes_on_disk: u64,
    /// Most bytes it may take.
    pub limit_bytes: Option<u64>,
    /// A commit log makes its writes durable.
    #[serde(default)]
    pub has_commit_log: bool,
    /// Why it takes no more writes, if it does not.
    pub read_only_because: Option<String>,
}
