//! A segment with one target at one end and `cowblade conform` at the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::conformance::compare::Run;
use crate::conformance::launcher::Launcher;
use crate::frames::{Registers, command, parse_mac};
use crate::initiator::Initiator;
use crate::judge;
use crate::lab::Lab;
use crate::net::Segment;
use crate::operator::Said;
use crate::target;
use crate::workspace;

/// Shelf and slot of the target.
pub const ADDRESS: (u16, u8) = (7, 3);
/// Sectors of its disk.
pub const SECTORS: u64 = 2048;
/// Sectors of a disk for clients: one of them counts in cylinders of 255 x 63 sectors.
pub const CLIENT_SECTORS: u64 = 2 * 255 * 63;

/// Requests that vblade promises to queue: as many writes at once as its socket holds, however late it
/// is run. Of those of MTU 9000, 12 fit what the system gives it, and it would promise 16.
const VBLADE_QUEUE: &str = "8";
/// The same for clients. `WinAoE` has 64 short requests outstanding whatever a target promises; the socket has
/// this number times the MTU, which for 8 of MTU 1500 is room for 29 of them.
const VBLADE_CLIENT_QUEUE: &str = "24";
/// Sectors at the end of the disk that may be written to.
pub const WINDOW: u64 = 64;
/// Seed of the disk's contents.
const SEED: u64 = 57;
/// How often clients are replayed that do not get on with the target.
const CLIENT_TRIES: usize = 6;

/// Which target is examined.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// Our server, with one disk for everybody: a second address must not get another overlay.
    Cowblade,
    /// The reference target.
    Vblade,
}

/// The segment, the target and the tester of one test.
#[derive(Debug)]
pub struct ConformSite {
    // Before the segment: the target lives in one of its namespaces.
    launcher: Launcher,
    /// The segment.
    pub segment: Segment,
    dir: PathBuf,
}

/// A run to its end.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What it printed, and its exit code.
    pub said: Said,
    /// Its report.
    pub report: Value,
    /// The same, case by case.
    pub run: Run,
}

/// Everything that a run must leave as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The IDENTIFY page.
    pub identify: Vec<u8>,
    /// The config string.
    pub string: Vec<u8>,
    /// The answers to the questions for the MAC mask list and for the reservation.
    pub lists: [Vec<u8>; 2],
    /// Every sector.
    pub data: Vec<u8>,
}

/// The same at MTU 1500 and 9000, both at once: most of the time is spent waiting.
///
/// # Panics
/// If one of them does.
pub fn at_both<T: Send>(act: impl Fn(u16) -> T + Sync) -> [T; 2] {
    let act = &act;
    std::thread::scope(|scope| {
        let running = [1500, 9000].map(|mtu| scope.spawn(move || act(mtu)));
        running.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

impl ConformSite {
    /// Makes the segment and starts the target.
    pub fn new(lab: &Lab, which: Which, mtu: u16) -> Self {
        Self::with_disk(lab, which, mtu, SECTORS, VBLADE_QUEUE)
    }

    /// The same with a disk that real clients are content with, and room for what they send at once.
    pub fn for_clients(lab: &Lab, which: Which, mtu: u16) -> Self {
        Self::with_disk(lab, which, mtu, CLIENT_SECTORS, VBLADE_CLIENT_QUEUE)
    }

    fn with_disk(lab: &Lab, which: Which, mtu: u16, sectors: u64, vblade_queue: &str) -> Self {
        let dir = lab.dir().join(format!("{which:?}-{mtu}-{sectors}"));
        std::fs::create_dir_all(&dir).expect("a site has a directory");
        let disk = dir.join("disk.img");
        judge::make_golden(&disk, sectors, SEED);
        let segment = Segment::new(mtu, 1);
        let (major, minor) = ADDRESS;
        let address = format!("{major}.{minor}");
        let (plan, noticed) = match which {
            // It never looks at its MTU.
            Which::Vblade => {
                let options = ["-b", vblade_queue];
                let plan = target::vblade(&segment, &dir, &address, &disk, &options);
                (plan, "true".to_owned())
            }
            Which::Cowblade => {
                let overlays = dir.join("o").display().to_string();
                let chain = format!("{}/top.cow,{}", dir.display(), disk.display());
                let export = format!("{address}={chain}");
                let options = ["--overlays", overlays.as_str(), "--export", export.as_str()];
                let program = workspace::cowblade().display();
                let status = format!("'{program}' status --json --overlays '{overlays}'");
                let is_told = "grep -Eq \"\\\"mtu\\\": ?$COWBLADE_MTU\\b\"";
                let noticed = format!("until {status} | {is_told}; do sleep 0.05; done");
                (target::cowblade(&segment, &dir, &options), noticed)
            }
        };
        let launcher = Launcher::start(&dir, &plan, &noticed);
        Self { launcher, segment, dir }
    }

    /// The tester.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Where journals are kept.
    pub fn journals(&self) -> PathBuf {
        self.dir.join("journals")
    }

    /// The journals that were left behind.
    pub fn journals_left(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.journals()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// A file of the site.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// `cowblade conform words`, not started yet; journals stay within the site.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.segment.clients().command(workspace::cowblade());
        command.arg("conform").arg("--journal-dir").arg(self.journals()).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `cowblade conform words` to its end.
    pub fn conform(&self, words: &[&str]) -> Said {
        Said::of(&self.command(words).output().expect("cowblade starts"))
    }

    /// `cowblade conform 7.3 -i cli0 words` with everything permitted and provided.
    pub fn everything(&self, words: &[&str]) -> Command {
        let (major, slot) = ADDRESS;
        let (address, window) = (format!("{major}.{slot}"), format!("end-{WINDOW}"));
        let interface = Segment::client(0);
        let mut command = self.command(&[&address, "-i", &interface, "--state", "all"]);
        command
            .args(["--write-window", &window, "--beyond-end", "--second-mac", "auto"])
            .args(["--forge", "--vlan"])
            .args(self.launcher.options())
            .args(words);
        command
    }

    /// Runs every case and reads the report.
    ///
    /// # Panics
    /// If there is none.
    pub fn examine(&self, words: &[&str]) -> Examined {
        let path = self.file("report.json");
        let json = path.display().to_string();
        let output = self.everything(words).args(["--json", &json]).output();
        let said = Said::of(&output.expect("cowblade starts"));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("no report: {error}: {said:?}"));
        let report: Value = serde_json::from_str(&text).expect("the report is JSON");
        let run = Run::of_report(&report);
        Examined { said, report, run }
    }

    /// Examines these cases once more, with ten times the time for every answer: whether they fail on
    /// a machine that is less busy. What is found then counts.
    ///
    /// # Panics
    /// If there is no report.
    pub fn examine_again(&self, run: &mut Run, cases: &[String]) {
        if cases.is_empty() {
            return;
        }
        println!("once more, with more time: {cases:?}");
        let chosen = cases.iter().flat_map(|case| ["--case", case.as_str()]);
        let words: Vec<&str> = ["--answer-time", "2"].into_iter().chain(chosen).collect();
        run.cells.extend(self.examine(&words).run.cells);
    }

    /// Replays every client, and again if one has a complaint: clients are less patient than a busy
    /// machine may be slow, so that only what they complain of each time is the target's doing.
    ///
    /// # Panics
    /// If there is no report.
    pub fn clients(&self) -> Value {
        let is_content = |report: &Value| {
            let clients = report["clients"].as_array();
            clients.is_some_and(|all| all.iter().all(|client| client["verdict"] == "works"))
        };
        let mut report = self.clients_once();
        for _ in 1..CLIENT_TRIES {
            if is_content(&report) {
                break;
            }
            println!("once more: {}", report["clients"]);
            report = self.clients_once();
        }
        report
    }

    fn clients_once(&self) -> Value {
        let (major, minor) = ADDRESS;
        let (target, window) = (format!("{major}.{minor}"), format!("end-{WINDOW}"));
        let interface = Segment::client(0);
        let words = ["--clients", "--write-window", &window, "--json", "-", "-i", &interface];
        let said = self.conform(&[&[target.as_str()], words.as_slice()].concat());
        assert!(matches!(said.code, 0 | 3), "{said:?}");
        said.json()
    }

    /// What the target is like now.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn snapshot(&self) -> Snapshot {
        let mac = parse_mac(&Segment::client_mac(0));
        let (namespace, interface) = (self.segment.clients(), Segment::client(0));
        let mut initiator =
            Initiator::find(namespace, &interface, mac, ADDRESS).expect("the target answers");
        let identify = initiator
            .ata(Registers { count: 1, operation: 0xec, ..Registers::default() }, &[])
            .data()
            .to_vec();
        let lists = [command::MAC_MASK, command::RESERVE].map(|command| {
            let answer = initiator.request(command, &[0; 4]).expect("the target answers");
            answer.argument().to_vec()
        });
        let string = initiator.config_string();
        let data = initiator.read(0, SECTORS, 2);
        Snapshot { identify, string, lists, data }
    }
}
