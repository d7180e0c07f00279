//! Durability `logged` from outside: what its syncs cost, what tools do with what a killed server left, and
//! a file system that is full.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]
#![allow(clippy::zombie_processes, reason = "the tracer is waited for unless the test fails")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator;
use system_tests::require::{self, Need};
use system_tests::server::Server;
use system_tests::site::Site;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const STRACE: &[Need] = &[Need::Root, Need::Program("ip"), Need::Program("strace")];

/// Writes down every sync of a server's threads, and of what, until it is told to stop.
struct Syncs {
    strace: Child,
    report: PathBuf,
}

impl Syncs {
    fn of(lab: &Lab, server: &Server) -> Self {
        let report = lab.dir().join("syncs");
        let strace = Command::new(require::program("strace").unwrap())
            .args(["-f", "-y", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync", "-o"])
            .arg(&report)
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", server.pid());
        let tracer = format!("TracerPid:\t{}", strace.id());
        for _ in 0..2000 {
            if std::fs::read_to_string(&status).unwrap().contains(&tracer) {
                return Self { strace, report };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("strace does not attach");
    }

    /// By what was synced: `overlay` (with a name or not yet), `log`, `clients` (who they are), `directory`.
    fn count(&self) -> BTreeMap<&'static str, usize> {
        let text = std::fs::read_to_string(&self.report).unwrap();
        let mut counts = BTreeMap::new();
        // A call that others interrupt is finished in a line of its own.
        for line in text.lines().filter(|line| line.contains("sync") && line.contains('<')) {
            let what = match line {
                _ if line.contains("resumed") => continue,
                _ if line.contains(".cowlog>") => "log",
                _ if line.contains(".cow>") || line.contains("/#") => "overlay",
                _ if line.contains(".json") => "clients",
                _ if line.contains(".overlays>") => "directory",
                other => panic!("a sync of something else: {other}"),
            };
            *counts.entry(what).or_default() += 1;
        }
        counts
    }

    /// All, once there have been no more for longer than an overlay waits with its commit.
    fn settle(mut self) -> BTreeMap<&'static str, usize> {
        let (mut last, mut quiet) = (self.count(), 0);
        while quiet < 15 {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.count();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        let pid = libc::pid_t::try_from(self.strace.id()).unwrap();
        // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        self.strace.wait().unwrap();
        last
    }
}

/// A new client's overlay is made with the log in its header: made durable once, like its name. Beside
/// that, its first write needs its share of the syncs of the log, and of its commit later.
#[test]
fn the_first_writes_of_new_clients_need_few_syncs() {
    const CLIENTS: usize = 64;
    let test = "the_first_writes_of_new_clients_need_few_syncs";
    if !require::met(test, &[STRACE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 1);
    let server = site.serve(&["--new-clients", "auto", "--durability", "logged"]);
    let syncs = Syncs::of(&lab, &server);
    let interface = Segment::client(0);
    let load = ["--clients", "64", "--write", "100", "--write-allowed", "0.0", "--once"];
    let place = ["bench", "0.0", "-i", &interface, "--sectors", "8", "--length", "4K"];
    operator::cowblade(site.segment.clients(), &[&place[..], &load].concat()).assert_done();
    let counts = syncs.settle();
    println!("{CLIENTS} clients, a write each: {counts:?}");
    assert_eq!(Site::files(&site.overlays()).len(), CLIENTS);
    let of = |what| counts.get(what).copied().unwrap_or_default();
    // One before it has a name; two of the commit that follows.
    assert_eq!(of("overlay"), 3 * CLIENTS, "{counts:?}");
    assert!(of("log") <= CLIENTS, "{counts:?}");
}
