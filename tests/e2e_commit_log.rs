//! The commit log of durability `safe` from outside: what its syncs cost, what tools do with what a killed
//! server left, and a file system that is full.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use system_tests::frames::{ATA, Mac, Registers, command, field, parse_mac};
use system_tests::initiator::Initiator;
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::mounted::Mounted;
use system_tests::net::Segment;
use system_tests::operator::{self, Said};
use system_tests::pattern::{SECTOR, Stamp};
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::server::Server;
use system_tests::site::{BASE, SECTORS, SEED, Site};
use system_tests::strace::Strace;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip"), Need::CommitLogs];
const MOUNTED_IMAGE: &[Need] = &[Need::MountedImage];
const STRACE: &[Need] = &[Need::Program("strace")];

/// Writes down every sync of a server's threads, and of what, until it is told to stop.
struct Syncs {
    strace: Strace,
    report: PathBuf,
    overlays: PathBuf,
}

impl Syncs {
    fn of(lab: &Lab, site: &Site, server: &Server) -> Self {
        let report = lab.dir().join("syncs");
        let calls = "trace=fsync,fdatasync,sync_file_range,syncfs,sync";
        let place = report.display().to_string();
        let strace = Strace::attach(server, &["-y", "-e", calls, "-o", &place]);
        Self { strace, report, overlays: site.overlays() }
    }

    /// Numbers by which files are called that had no name when they were opened.
    fn log_numbers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.overlays).unwrap().map(Result::unwrap);
        let logs = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".cowlog"));
        logs.map(|log| format!("/#{}>", log.metadata().unwrap().ino())).collect()
    }

    /// By what was synced: `overlay` (with a name or not yet), `log`, `clients` (who they are), `directory`.
    fn count(&self) -> BTreeMap<&'static str, usize> {
        let text = std::fs::read_to_string(&self.report).unwrap();
        let (mut counts, logs) = (BTreeMap::new(), self.log_numbers());
        // A call that others interrupt is finished in a line of its own.
        for line in text.lines().filter(|line| line.contains("sync") && line.contains('<')) {
            let what = match line {
                _ if line.contains("resumed") => continue,
                _ if logs.iter().any(|number| line.contains(number)) => "log",
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
    fn settle(self) -> BTreeMap<&'static str, usize> {
        let (mut last, mut quiet) = (self.count(), 0);
        while quiet < 15 {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.count();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
        drop(self.strace);
        last
    }
}

/// A new client's overlay is made with the log in its header: made durable once, like its name. Beside
/// that, its first write needs its share of the syncs of the log, and of its commit later.
#[test]
fn the_first_writes_of_new_clients_need_few_syncs() {
    const CLIENTS: usize = 64;
    let test = "the_first_writes_of_new_clients_need_few_syncs";
    if !require::met(test, &[ROOT, STRACE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 1);
    let server = site.serve(&["--new-clients", "auto"]);
    let syncs = Syncs::of(&lab, &site, &server);
    let interface = Segment::client(0);
    let load = ["--clients", "64", "--write", "100", "--write-allowed", "0.0", "--once"];
    let place = ["bench", "0.0", "-i", &interface, "--sectors", "8", "--length", "4K"];
    operator::cowblade(site.segment.clients(), &[&place[..], &load].concat()).assert_done();
    let counts = syncs.settle();
    println!("{CLIENTS} clients, a write each: {counts:?}");
    assert_eq!(Site::files(&site.overlays()).len(), CLIENTS);
    let of = |what| counts.get(what).copied().unwrap_or_default();
    // One before it has a name; two of the commit that follows, and one more where the second of the
    // server's clock began between the data and the page that names them.
    assert!((3 * CLIENTS..=4 * CLIENTS).contains(&of("overlay")), "{counts:?}");
    assert!(of("log") <= CLIENTS, "{counts:?}");
}

/// A log is there when an overlay needs it, and only then; one that was there before has it from its next
/// change on, for the price of its header.
#[test]
fn a_log_is_made_for_who_writes() {
    let test = "a_log_is_made_for_who_writes";
    if !require::met(test, &[ROOT, STRACE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 1);
    let name = format!("c0={}", Segment::client_mac(0));
    let alive = AtomicBool::new(false);
    let mut plain = site.serve(&["--client", &name, "--commit-log=false"]);
    let mut load = Load::new(&site, 0);
    assert!(load.round(&alive));
    assert_eq!(logs(&site), 0, "it was not wanted");
    let has_log = || {
        let status = site.order(&["status", "--json"]).assert_done().json();
        status["sessions"][0]["overlay"]["has_commit_log"].as_bool().unwrap()
    };
    assert!(!has_log());
    assert!(plain.terminate().success(), "{}", plain.log());

    let mut server = site.serve(&["--client", &name]);
    let syncs = Syncs::of(&lab, &site, &server);
    load.find_on_wire();
    assert_eq!(logs(&site), 0, "nobody has written");
    assert!(load.round(&alive));
    assert_eq!(logs(&site), 4);
    assert!(has_log());
    let counts = syncs.settle();
    println!("one client, {DEPTH} writes: {counts:?}");
    // What was there, and both slots of the header; then the commit.
    assert!((5..=6).contains(&counts["overlay"]), "{counts:?}");
    load.find_on_wire();
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(logs(&site), 0);

    // Where it would take too much of what there is, there is none.
    let small = lab.dir().join("small");
    let mounted = Mounted::new(&small, "tmpfs", "size=64M");
    let mut server = site.serve(&["--client", &name, "--overlays", &small.display().to_string()]);
    let mut load = Load::new(&site, 0);
    assert!(load.round(&alive));
    assert_eq!(logs_in(&small), 0, "syncs cost nothing there");
    assert!(server.terminate().success(), "{}", server.log());
    drop(mounted);
    if !require::met(test, &[MOUNTED_IMAGE]) {
        return;
    }
    let mounted = Mounted::image(&small, &lab.dir().join("file-system"), FILE_SYSTEM_BYTES / 2);
    let mut server = site.serve(&["--client", &name, "--overlays", &small.display().to_string()]);
    let mut load = Load::new(&site, 0);
    assert!(load.round(&alive));
    assert!(server.log().contains("cannot make a commit log in"), "{}", server.log());
    assert_eq!(logs_in(&small), 0);
    load.find_on_wire();
    assert!(server.terminate().success(), "{}", server.log());
    drop(mounted);
}

/// Sectors of a write.
const STEP: u8 = 8;
/// Writes that are outstanding at the same time.
const DEPTH: u64 = 8;
/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that writes all over its disk, and remembers what it was told.
struct Load {
    station: Initiator,
    mac: Mac,
    seed: u64,
    rng: Rng,
    number: u64,
    /// Where it writes: so many steps from the beginning of the disk.
    places: u64,
    /// By sector: the last write that was acknowledged; 0: it is golden.
    known: Vec<u64>,
    /// By sector: writes since then that failed, or were never answered.
    doubtful: Vec<Vec<u64>>,
    refused: u64,
}

impl Load {
    fn new(site: &Site, index: usize) -> Self {
        let (seed, sectors) = (100 + index as u64, usize::try_from(SECTORS).unwrap());
        Self {
            station: site.station(index),
            mac: parse_mac(&Segment::client_mac(index)),
            seed,
            rng: Rng::new(seed),
            number: 0,
            places: SECTORS / u64::from(STEP),
            known: vec![0; sectors],
            doubtful: vec![Vec::new(); sectors],
            refused: 0,
        }
    }

    fn bytes(&self, lba: u64, write: u64) -> Vec<u8> {
        let sector = |lba| Stamp { seed: self.seed, lba, write }.sector();
        (lba..lba + u64::from(STEP)).flat_map(sector).collect()
    }

    /// Some writes at once, in places that do not overlap, repeated until they are answered. False if the
    /// server was killed before.
    fn round(&mut self, killed: &AtomicBool) -> bool {
        let places = self.places;
        let first = self.rng.below(places);
        let mut open = BTreeMap::new();
        for n in 0..DEPTH {
            self.number += 1;
            let lba = (first + n * 37) % places * u64::from(STEP);
            let data = self.bytes(lba, self.number);
            let header = self.station.header(command::ATA);
            let frame = header.with(&Registers::write(lba, STEP).with(&data));
            self.station.socket().send(&frame).unwrap();
            open.insert(header.tag.to_be_bytes(), (lba, self.number, frame));
        }
        let (mut buffer, deadline) = (vec![0; 65_536], Instant::now() + PATIENCE);
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "no answer");
            let len = self.station.socket().receive(&mut buffer, Duration::from_millis(200));
            let Some(len) = len.unwrap() else {
                if killed.load(Ordering::Acquire) {
                    break;
                }
                for (_, _, frame) in open.values() {
                    self.station.socket().send(frame).unwrap();
                }
                continue;
            };
            let frame = &buffer[..len];
            let is_answer = frame.len() >= ATA && frame[14] & 0x08 != 0;
            if !is_answer || field(frame, 0) != Some(self.mac) {
                continue;
            }
            let Some((lba, number, _)) = open.remove(&field(frame, 20).unwrap()) else { continue };
            let is_done = frame[14] & 0x04 == 0 && frame[27] & 0xa9 == 0;
            self.refused += u64::from(!is_done);
            self.told(lba, number, is_done);
        }
        let all = open.is_empty();
        for (lba, number, _) in open.into_values() {
            self.told(lba, number, false);
        }
        all
    }

    fn told(&mut self, lba: u64, number: u64, is_done: bool) {
        let first = usize::try_from(lba).unwrap();
        for at in first..first + usize::from(STEP) {
            if is_done {
                self.known[at] = number;
                self.doubtful[at].clear();
            } else {
                self.doubtful[at].push(number);
            }
        }
    }

    /// The disk holds what was acknowledged, or what came after it. From now on what it holds is known.
    #[track_caller]
    fn find(&mut self, disk: &[u8]) {
        assert_eq!(disk.len(), self.known.len() * SECTOR);
        for (at, sector) in disk.chunks(SECTOR).enumerate() {
            let stamp = Stamp::read(sector).unwrap_or_else(|| panic!("sector {at} is torn"));
            assert_eq!(stamp.lba, at as u64, "{stamp:?}");
            let expected = if stamp.write == 0 { SEED } else { self.seed };
            assert_eq!(stamp.seed, expected, "sector {at}: {stamp:?}");
            let is_known = self.known[at] == stamp.write;
            assert!(
                is_known || self.doubtful[at].contains(&stamp.write),
                "sector {at}: {stamp:?}, acknowledged {}, then {:?}",
                self.known[at],
                self.doubtful[at]
            );
            self.known[at] = stamp.write;
            self.doubtful[at].clear();
        }
    }

    #[track_caller]
    fn find_on_wire(&mut self) {
        let disk = self.station.read(0, SECTORS, 16);
        self.find(&disk);
    }
}

/// Kills the server while clients write, after so many rounds of all of them together.
fn kill_under_load(server: &mut Server, loads: &mut [Load], rounds: u64) {
    let (killed, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for load in loads.iter_mut() {
            let (killed, done) = (&killed, &done);
            scope.spawn(move || {
                while load.round(killed) {
                    done.fetch_add(1, Ordering::Release);
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        while done.load(Ordering::Acquire) < rounds {
            assert!(Instant::now() < deadline, "the load has ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        server.kill();
        killed.store(true, Ordering::Release);
    });
    for load in loads {
        assert!(load.doubtful.iter().any(|writes| !writes.is_empty()), "killed while it wrote");
    }
}

/// Files of commit logs.
fn logs(site: &Site) -> usize {
    logs_in(&site.overlays())
}

fn logs_in(directory: &std::path::Path) -> usize {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".cowlog")).count()
}

/// A killed server's overlays and logs once more, and the golden image, for a tool to work on.
fn copied(lab: &Lab, site: &Site) -> PathBuf {
    let copy = lab.dir().join("copied");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).unwrap();
    }
    // With its times: they are part of what the overlays know of it.
    let [from, golden] = [site.overlays(), site.golden()];
    for (what, to) in [(from, copy.clone()), (golden, copy.join("golden.img"))] {
        let copied = Command::new("cp").arg("-a").args([&what, &to]).status().unwrap();
        assert!(copied.success(), "{}", what.display());
    }
    copy
}

/// Whatever a tool reads or changes has what the log holds of it first.
fn entered_by_every_tool(lab: &Lab, site: &Site, name: &str, load: &mut Load) {
    // What is done, and where the disk is afterwards.
    let works: &[(&[&str], &str)] = &[
        (&["convert", "CHAIN", "NEW"], "NEW"),
        (&["merge", "CHAIN", "-o", "NEW"], "NEW"),
        (&["merge", "CHAIN", "--in-place", "--yes"], "GOLDEN"),
        (&["rebase", "CHAIN", "--parent", "blank:4M"], "OVERLAY,blank:4M"),
        (&["rebase", "CHAIN", "--metadata-only", "--parent", "GOLDEN", "--trust"], "CHAIN"),
        (&["rebind", "OVERLAY", "--parent", "GOLDEN", "--trust"], "CHAIN"),
        (&["map", "CHAIN"], "CHAIN"),
        (&["compare", "CHAIN", "CHAIN"], "CHAIN"),
        (&["freeze", "OVERLAY"], "CHAIN"),
        (&["snapshot", "OVERLAY", "NEW"], "NEW,CHAIN"),
        (&["check", "--repair", "OVERLAY"], "CHAIN"),
    ];
    let [new, disk] = ["new", "disk.img"].map(|name| lab.dir().join(name).display().to_string());
    for (words, chain) in works {
        let directory = copied(lab, site);
        let [overlay, golden] =
            [name, "golden.img"].map(|name| directory.join(name).display().to_string());
        let placed = |word: &str| {
            let word = word.replace("CHAIN", "OVERLAY,GOLDEN").replace("NEW", &new);
            word.replace("OVERLAY", &overlay).replace("GOLDEN", &golden)
        };
        let order: Vec<String> = words.iter().map(|word| placed(word)).collect();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let said = operator::local(&order).assert_done();
        let told = [said.out, said.err].concat();
        assert!(
            told.contains("changes from the commit log") || told.contains("repaired"),
            "{told}"
        );
        operator::local(&["convert", "--force", &placed(chain), &disk]).assert_done();
        load.find(&std::fs::read(&disk).unwrap());
        if std::path::Path::new(&overlay).exists() {
            let said = operator::local(&["check", &overlay]).assert_done();
            assert!(!said.out.contains("commit log"), "{order:?}: {said:?}");
        }
        drop(std::fs::remove_file(&new)); // not every tool makes one
    }
}

/// Commands that need the same log, or the same overlay, wait for each other.
fn entered_by_several_at_once(lab: &Lab, site: &Site, loads: &mut [Load]) {
    let directory = copied(lab, site);
    let chain = |n: usize| {
        let [overlay, golden] =
            [&*format!("c{n}.cow"), "golden.img"].map(|name| directory.join(name));
        format!("{},{}", overlay.display(), golden.display())
    };
    let images: Vec<_> = (0..6).map(|n| lab.dir().join(format!("{n}.img"))).collect();
    std::thread::scope(|scope| {
        for (n, image) in images.iter().enumerate() {
            let (chain, image) = (chain(n % 2), image.display().to_string());
            scope.spawn(move || operator::local(&["convert", &chain, &image]).assert_done());
        }
    });
    for (n, image) in images.iter().enumerate() {
        loads[n % 2].find(&std::fs::read(image).unwrap());
        std::fs::remove_file(image).unwrap();
    }
    assert_eq!(logs_in(&directory), 0, "nobody needs it any more");
}

/// Has the lock of a log as a command has it that enters changes, for moments.
fn held_as_by_a_command(site: &Site) -> std::thread::JoinHandle<()> {
    let entries = std::fs::read_dir(site.overlays()).unwrap().map(|entry| entry.unwrap().path());
    let mut first = entries.filter(|path| path.display().to_string().ends_with("-0.cowlog"));
    let held = std::fs::File::open(first.next().unwrap()).unwrap();
    held.lock().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        drop(held);
    })
}

/// Where nothing can be written the way out is said.
fn refused_where_nothing_can_be_written(lab: &Lab, site: &Site) {
    if !require::met("tools_enter_what_a_killed_server_left", &[MOUNTED_IMAGE]) {
        return;
    }
    let place = lab.dir().join("read-only");
    let mounted = Mounted::image(&place, &lab.dir().join("file-system"), FILE_SYSTEM_BYTES / 2);
    let from = copied(lab, site);
    let copied = Command::new("cp").arg("-a").args([&from, &place]).status().unwrap();
    assert!(copied.success());
    mounted.make_read_only();
    let [overlay, golden] = ["c0.cow", "golden.img"].map(|name| place.join("copied").join(name));
    let chain = format!("{},{}", overlay.display(), golden.display());
    let said = operator::local(&["map", &chain]);
    let told = said.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.code != 0 && told.contains("and name the copy"), "{said:?}");
    assert_eq!(logs_in(&place.join("copied")), 4);
    operator::local(&["check", &overlay.display().to_string()]).assert_done();
    drop(mounted);
}

/// Who only looks changes nothing, and says that there is more.
fn told_by_who_only_looks(overlay: &str) {
    let before = std::fs::read(overlay).unwrap();
    for words in [["info", overlay], ["check", overlay]] {
        let said = operator::local(&words).assert_done();
        let told = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(&format!("cowblade check --repair {overlay}")), "{said:?}");
    }
    assert!(std::fs::read(overlay).unwrap() == before, "nothing was changed");
}

fn repair(overlay: &str) -> Said {
    operator::local(&["check", "--repair", overlay])
}

/// Starts a server and ends it after some seconds, unless it ends by itself.
fn start_shortly(site: &Site, clients: &[&str], workers: &str) -> Said {
    let golden = site.golden().display().to_string();
    let program = system_tests::workspace::cowblade().display().to_string();
    let serve = ["5", &program, "serve", &golden, "-i", Segment::SERVER];
    let words = [&serve[..], clients, &["--workers", workers]].concat();
    Said::of(&site.segment.server().run("timeout", &words))
}

/// What `timeout` ends with when time was up.
const TIMED_OUT: i32 = 124;

fn assert_no_log_is_left(site: &Site, overlays: &[&PathBuf], said: &Said) {
    assert_eq!(logs(site), 0, "{said:?}");
    for overlay in overlays {
        let good = operator::local(&["check", &overlay.display().to_string()]).assert_done();
        assert!(!good.out.contains("commit log"), "{good:?}");
    }
}

/// Servers that cannot start, for an overlay that nobody can read, leave no logs behind.
fn failed_starts_leave_no_logs(site: &Site, clients: &[&str]) {
    let [one, other] = [0, 1].map(|n| site.overlays().join(format!("c{n}.cow")));
    for (bad, good) in [(&one, &other), (&other, &one)] {
        let bytes = std::fs::read(bad).unwrap();
        let mut damaged = bytes.clone();
        for at in [100, 4096 + 100] {
            damaged[at] ^= 1;
        }
        std::fs::write(bad, damaged).unwrap();
        for workers in ["1", "2"] {
            let said = start_shortly(site, clients, workers);
            assert!(said.code != 0 && said.code != TIMED_OUT, "{said:?}");
            assert_no_log_is_left(site, &[good], &said);
        }
        std::fs::write(bad, bytes).unwrap();
    }
}

/// Nor do those whose addresses another server answers for.
fn refused_starts_leave_no_logs(lab: &Lab, site: &Site, clients: &[&str]) {
    let elsewhere = lab.dir().join("elsewhere").display().to_string();
    let mut plan = site.plan(&["--clients", "1", "--overlays", &elsewhere]);
    plan.namespace = site.segment.clients().name().into();
    let interface = plan.command.iter_mut().find(|word| *word == Segment::SERVER).unwrap();
    *interface = Segment::client(0);
    let mut other = plan.start();
    let overlays = [0, 1].map(|n| site.overlays().join(format!("c{n}.cow")));
    for workers in ["1", "2"] {
        // The other one has a third of a second to answer: on a busy machine it may take more than one try.
        let mut tries = (0..12).map(|_| start_shortly(site, clients, workers));
        let said = tries.find(|said| said.code != TIMED_OUT).unwrap();
        assert!(said.code == 5 && said.err.contains("answers for this address"), "{said:?}");
        assert_no_log_is_left(site, &overlays.each_ref(), &said);
    }
    assert!(other.terminate().success(), "{}", other.log());
}

/// A copy elsewhere, which has lost its log, goes on without.
fn goes_on_without_a_lost_log(lab: &Lab, overlay: &str) {
    let lost = |overlay| operator::local(&["check", "--repair", "--log-lost", overlay]);
    let said = lost(overlay);
    assert!(said.code != 0 && said.err.contains("the log is there"), "{said:?}");
    assert!(operator::local(&["check", "--log-lost", overlay]).code != 0);
    let copy = lab.dir().join("copy.cow").display().to_string();
    std::fs::copy(overlay, &copy).unwrap();
    let said = repair(&copy);
    assert!(said.code != 0 && said.err.contains("--log-lost"), "{said:?}");
    let said = lost(&copy).assert_done();
    assert!(said.out.contains("goes on without its commit log"), "{said:?}");
    assert!(!operator::local(&["check", &copy]).assert_done().out.contains("log"));
}

#[test]
fn tools_enter_what_a_killed_server_left() {
    let test = "tools_enter_what_a_killed_server_left";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 2);
    let names = [0, 1].map(|n| format!("c{n}={}", Segment::client_mac(n)));
    let clients = ["--client", &names[0], "--client", &names[1]];
    let mut server = site.serve(&clients);
    let mut loads = [0, 1].map(|n| Load::new(&site, n));
    for load in &mut loads {
        assert!(load.round(&AtomicBool::new(false)));
    }
    let [one, other] =
        [0, 1].map(|n| site.overlays().join(format!("c{n}.cow")).display().to_string());
    let alive = repair(&one);
    assert!(alive.code != 0 && alive.err.contains("another process uses"), "{alive:?}");

    kill_under_load(&mut server, &mut loads, 120);
    assert_eq!(logs(&site), 4);
    told_by_who_only_looks(&one);
    entered_by_every_tool(&lab, &site, "c0.cow", &mut loads[0]);
    entered_by_several_at_once(&lab, &site, &mut loads);
    refused_where_nothing_can_be_written(&lab, &site);
    told_by_who_only_looks(&one);
    let said = repair(&one).assert_done();
    assert!(said.out.contains("changes entered from its commit log"), "{said:?}");
    assert_eq!(logs(&site), 4, "the other one needs them");
    assert!(!operator::local(&["check", &one]).assert_done().out.contains("log"));
    let said = repair(&one).assert_done();
    assert!(!said.out.contains("repaired"), "once is enough: {said:?}");
    let (chain, image) = (format!("{one},{}", site.golden().display()), lab.dir().join("c0.img"));
    let (chain, image) = (chain.as_str(), image.display().to_string());
    operator::local(&["convert", chain, &image]).assert_done();
    loads[0].find(&std::fs::read(&image).unwrap());
    operator::local(&["compare", "--strict", chain, &image]).assert_done();
    told_by_who_only_looks(&other);

    // What a tool has entered the next server does not enter again; and it waits for one that is at it.
    let held = held_as_by_a_command(&site);
    server.restart();
    held.join().unwrap();
    assert!(server.log().contains("c1.cow"), "{}", server.log());
    assert!(!server.log().contains("into `c0.cow"), "{}", server.log());
    for load in &mut loads {
        load.find_on_wire();
    }
    kill_under_load(&mut server, &mut loads, 20);
    goes_on_without_a_lost_log(&lab, &one);
    assert_eq!(logs(&site), 4, "nobody touched them");
    for (overlay, load) in [one, other].iter().zip(&mut loads) {
        repair(overlay).assert_done();
        let image = lab.dir().join("again.img");
        let chain = format!("{overlay},{}", site.golden().display());
        let image = image.display().to_string();
        operator::local(&["convert", "--force", &chain, &image]).assert_done();
        load.find(&std::fs::read(&image).unwrap());
    }
    assert_eq!(logs(&site), 0, "nobody needs it any more");
    server.restart();
    loads[0].find_on_wire();
    assert!(server.terminate().success(), "{}", server.log());

    failed_starts_leave_no_logs(&site, &clients);
    refused_starts_leave_no_logs(&lab, &site, &clients);
    server.restart();
    loads[0].find_on_wire();
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(judge::untouched(&site.golden(), 0..SECTORS, BASE), Ok(()));
}

/// Writes into a file until the file system takes no more, then leaves so much room.
fn fill_but(ballast: &std::path::Path, room: u64) {
    let mut file = std::fs::File::create(ballast).unwrap();
    let piece = [7; 16 << 10];
    let mut len = 0;
    while let Ok(taken) = file.write(&piece) {
        len += taken as u64;
    }
    file.set_len(len - room).unwrap();
}

/// Room for overlays of which a commit log takes less than an eighth.
const FILE_SYSTEM_BYTES: u64 = 640 << 20;

/// A file system that is really full: who needs room gets errors, the others go on; room that returns is
/// used; and what was acknowledged is there after a kill, however full it is meanwhile.
#[test]
fn a_full_file_system_costs_nothing_that_was_acknowledged() {
    let test = "a_full_file_system_costs_nothing_that_was_acknowledged";
    if !require::met(test, &[ROOT, MOUNTED_IMAGE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 2);
    let image = lab.dir().join("file-system");
    let mounted = Mounted::image(&site.overlays(), &image, FILE_SYSTEM_BYTES);
    let ballast = site.overlays().join("ballast");
    let names = [0, 1].map(|n| format!("c{n}={}", Segment::client_mac(n)));
    let clients = ["--client", &names[0], "--client", &names[1]];
    let mut server = site.serve(&clients);
    let mut loads = [0, 1].map(|n| Load::new(&site, n));
    let alive = AtomicBool::new(false);
    {
        let [greedy, modest] = &mut loads;
        // It needs no more room than it has.
        modest.places = 32;
        let own = usize::try_from(modest.places).unwrap() * usize::from(STEP);
        while modest.known[..own].contains(&0) {
            modest.round(&alive);
        }
        std::thread::sleep(Duration::from_millis(2500)); // until that is committed
        for _ in 0..2 {
            fill_but(&ballast, 1 << 20);
            while greedy.refused < 20 {
                greedy.round(&alive);
            }
            greedy.refused = 0;
            for _ in 0..20 {
                modest.round(&alive);
            }
            assert_eq!(modest.refused, 0, "it has its room");
            greedy.find_on_wire();
            std::fs::remove_file(&ballast).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !took_all(greedy, &alive) {
                assert!(Instant::now() < deadline, "there is room again");
            }
            greedy.refused = 0;
        }
        fill_but(&ballast, 64 << 10);
    }
    kill_under_load(&mut server, &mut loads, 60);
    assert!(loads[0].refused > 0, "killed while it was full");
    assert_eq!(loads[1].refused, 0);

    // The old log stays until all of it is entered.
    let golden = site.golden().display().to_string();
    let program = system_tests::workspace::cowblade().display().to_string();
    let words = ["3", &*program, "serve", &golden, "-i", Segment::SERVER];
    let words = [&words, &clients[..]].concat();
    let said = Said::of(&site.segment.server().run("timeout", &words));
    println!("while it is full: {said:?}");
    let has_served = said.code == 124;
    assert!(has_served || said.code == 1 && said.err.contains("room"), "{said:?}");
    assert_eq!(logs(&site), if has_served { 0 } else { 4 }, "{said:?}");
    std::fs::remove_file(&ballast).unwrap();
    server.restart();
    for load in &mut loads {
        load.find_on_wire();
        assert!(load.round(&alive));
        load.find_on_wire();
    }
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(logs(&site), 0);
    assert_eq!(judge::untouched(&site.golden(), 0..SECTORS, BASE), Ok(()));
    drop(mounted);
}

/// A round without a single error.
fn took_all(load: &mut Load, killed: &AtomicBool) -> bool {
    let before = load.refused;
    load.round(killed) && load.refused == before
}
