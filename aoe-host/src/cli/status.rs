//! `cowblade status`: asks a running server, prints tables or JSON.

use std::path::PathBuf;

use clap::Args;

use super::output::{Table, human_age, print_json, print_line};
use crate::config::{default_control, default_overlays};
use crate::control::{ControlReply, ControlRequest, SessionStatus, Status, TargetKind, ask};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::values::{Mac, human_bytes};

/// How to find a running server.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Its control socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Its overlay directory, where the control socket is by default
    #[arg(long, value_name = "DIR", conflicts_with = "control")]
    pub overlays: Option<PathBuf>,
}

impl ServerArgs {
    /// The control socket, given also the golden image if it was named.
    pub(super) fn socket(&self, golden: Option<&PathBuf>) -> Result<PathBuf> {
        if let Some(path) = &self.control {
            return Ok(path.clone());
        }
        let overlays = self.overlays.clone().or_else(|| golden.map(|path| default_overlays(path)));
        overlays.map(|directory| default_control(&directory)).ok_or_else(|| {
            HostError::usage("find the server", "neither image nor socket is named")
                .advice("name the golden image, --overlays DIR or --control PATH")
        })
    }
}

/// `cowblade status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The golden image of the server
    #[arg(value_name = "GOLDEN", conflicts_with_all = ["control", "overlays"])]
    pub golden: Option<PathBuf>,

    /// Which server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<Exit> {
    let socket = args.server.socket(args.golden.as_ref())?;
    let ControlReply::Status(status) = ask(&socket, &ControlRequest::Status)? else {
        return Err(unexpected_reply());
    };
    if args.json {
        print_json(&status)?;
    } else {
        print_line(&render(&status))?;
    }
    Ok(Exit::Success)
}

pub(super) fn unexpected_reply() -> HostError {
    HostError::new(ErrorKind::Protocol, "understand the server")
        .detail("it answered something else")
        .advice("use the program version that the server runs")
}

fn render(status: &Status) -> String {
    let mut parts = vec![format!(
        "cowblade {}, process {}, up {}, {:.1} s of processor time",
        status.version,
        status.pid,
        human_age(status.uptime_s),
        status.cpu_s
    )];
    parts.push(interface_table(status).render());
    parts.push(target_table(status).render());
    let sessions = session_table(status);
    parts.push(if sessions.is_empty() { "no clients yet".to_owned() } else { sessions.render() });
    if status.workers.len() > 1 {
        parts.push(worker_table(status).render());
    }
    if status.unknown_stations > 0 {
        parts.push(format!(
            "{} unknown stations; `cowblade clients list` shows them",
            status.unknown_stations
        ));
    }
    if !status.cold_reads.is_empty() {
        parts.push(format!("what is not in memory is read by {}", status.cold_reads));
    }
    if let Some(free) = status.overlay_space_free_bytes {
        parts.push(format!("{} free for overlays", human_bytes(free)));
    }
    parts.extend(status.warnings.iter().map(|warning| format!("warning: {warning}")));
    parts.join("\n\n")
}

fn interface_table(status: &Status) -> Table {
    let headings = [
        "interface",
        "link",
        "mac",
        ">mtu",
        "state",
        ">frames in",
        ">frames out",
        ">lost in",
        ">lost out",
    ];
    let mut table = Table::new(&headings);
    for interface in &status.interfaces {
        let counters = interface.counters;
        let lost_in = counters.receive_drops + counters.receive_truncated;
        let lost_out = counters.send_no_room
            + counters.send_link_down
            + counters.send_too_long
            + counters.send_other;
        table.add([
            interface.name.clone(),
            kind_of(&interface.link).to_owned(),
            interface.mac.to_string(),
            interface.mtu.to_string(),
            if interface.up { "up" } else { "down" }.to_owned(),
            counters.frames_received.to_string(),
            counters.frames_sent.to_string(),
            lost_in.to_string(),
            lost_out.to_string(),
        ]);
    }
    table
}

/// The word for the link, without the reason.
fn kind_of(link: &str) -> &str {
    link.split(',').next().filter(|kind| !kind.is_empty()).unwrap_or("-")
}

fn target_table(status: &Status) -> Table {
    let mut table = Table::new(&["target", "name", ">size", "writes go to", "durability", "base"]);
    for target in &status.targets {
        let kind = match target.kind {
            TargetKind::ReadOnly => "nowhere (read-only)",
            TargetKind::PerClient => "each client's overlay",
            TargetKind::OneOverlay => "one overlay",
        };
        table.add([
            target.address.to_string(),
            target.name.clone().unwrap_or_else(|| "-".to_owned()),
            human_bytes(target.size_bytes),
            target.failure.clone().unwrap_or_else(|| kind.to_owned()),
            target.durability.clone(),
            target.backing.join(" over "),
        ]);
    }
    table
}

fn session_table(status: &Status) -> Table {
    let headings = [
        "client",
        "target",
        "state",
        ">seen",
        ">requests",
        ">read",
        ">written",
        ">errors",
        ">overlay",
        ">limit",
    ];
    let mut table = Table::new(&headings);
    for session in &status.sessions {
        let overlay = session.overlay.as_ref();
        let limit = overlay.and_then(|overlay| overlay.limit_bytes).map(human_bytes);
        table.add([
            session.client.clone().unwrap_or_else(|| join_macs(&session.macs)),
            session.address.to_string(),
            state_of(session).to_owned(),
            session.last_seen_s.map_or_else(|| "-".to_owned(), human_age),
            session.traffic.requests.to_string(),
            human_bytes(session.traffic.bytes_read),
            human_bytes(session.traffic.bytes_written),
            session.traffic.errors.to_string(),
            overlay.map_or_else(|| "-".to_owned(), |overlay| human_bytes(overlay.bytes_on_disk)),
            limit.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

fn worker_table(status: &Status) -> Table {
    let headings = [
        ">worker",
        ">disks",
        ">requests",
        ">frames in",
        ">handed over",
        ">taken over",
        ">lost between",
        ">processor s",
    ];
    let mut table = Table::new(&headings);
    for worker in &status.workers {
        table.add([
            worker.number.to_string(),
            worker.disks.to_string(),
            worker.requests.to_string(),
            worker.frames_received.to_string(),
            worker.handed_over.to_string(),
            worker.taken_over.to_string(),
            worker.hand_over_drops.to_string(),
            format!("{:.1}", worker.cpu_s),
        ]);
    }
    table
}

fn state_of(session: &SessionStatus) -> &'static str {
    let stuck = session.overlay.as_ref().is_some_and(|o| o.read_only_because.is_some());
    match (stuck, session.connected) {
        (true, _) => "read-only!",
        (false, true) => "connected",
        (false, false) => "away",
    }
}

/// `a, b`, or `-`.
pub(super) fn join_macs(macs: &[Mac]) -> String {
    if macs.is_empty() {
        return "-".to_owned();
    }
    macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{
        InterfaceStatus, OverlayStatus, TargetStatus, TrafficStatus, WorkerStatus,
    };
    use crate::link::LinkCounters;
    use crate::values::Address;

    fn sample() -> Status {
        let address = Address::new(0, 0).unwrap();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let session = SessionStatus {
            address,
            client: Some("lab1".into()),
            macs: vec![mac],
            connected: true,
            last_seen_s: Some(3),
            traffic: TrafficStatus { requests: 12, bytes_read: 2048, ..TrafficStatus::default() },
            overlay: Some(OverlayStatus {
                path: "lab1.cow".into(),
                bytes_on_disk: 1 << 20,
                limit_bytes: None,
                has_commit_log: true,
                read_only_because: None,
            }),
        };
        Status {
            version: "0.1.0".into(),
            pid: 7,
            interfaces: vec![InterfaceStatus {
                name: "eth0".into(),
                mac,
                mtu: 9000,
                up: true,
                link: "ring, the fastest here".into(),
                counters: LinkCounters { frames_sent: 5, ..LinkCounters::default() },
            }],
            targets: vec![TargetStatus {
                address,
                name: None,
                kind: TargetKind::PerClient,
                size_bytes: 1 << 30,
                backing: vec!["golden.img".into()],
                durability: "safe".into(),
                failure: None,
            }],
            sessions: vec![session],
            cold_reads: "io_uring".into(),
            unknown_stations: 2,
            ..Status::default()
        }
    }

    #[test]
    fn tables_show_who_is_connected_and_what_it_costs() {
        let text = render(&sample());
        for expected in [
            "eth0",
            "9000",
            "each client's overlay",
            "lab1",
            "connected",
            "1.00 MiB",
            "2 unknown",
            "read by io_uring",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }

    #[test]
    fn workers_are_shown_where_there_are_several() {
        let worker = |number| WorkerStatus { number, taken_over: 4711, ..WorkerStatus::default() };
        let one = Status { workers: vec![worker(0)], ..sample() };
        assert!(!render(&one).contains("taken over"));
        let two = Status { workers: vec![worker(0), worker(1)], ..sample() };
        assert_eq!(render(&two).matches("4711").count(), 2);
    }

    #[test]
    fn the_socket_follows_from_image_directory_or_path() {
        let none = ServerArgs { control: None, overlays: None };
        let golden = PathBuf::from("g.img");
        assert_eq!(
            none.socket(Some(&golden)).unwrap(),
            PathBuf::from("g.img.overlays/control.sock")
        );
        assert_eq!(none.socket(None).unwrap_err().kind(), ErrorKind::Usage);
        let by_path = ServerArgs { control: Some("c".into()), overlays: None };
        assert_eq!(by_path.socket(None).unwrap(), PathBuf::from("c"));
    }
}
