//! What a server costs the system, counted: system calls for each request, and while nobody asks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed preparation fails the test")]
#![allow(clippy::zombie_processes, reason = "the counter is waited for unless the test fails")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::time::Instant;

use system_tests::frames::{ATA, Registers, command, field};
use system_tests::initiator::Initiator;
use system_tests::lab::Lab;
use system_tests::operator;
use system_tests::require::{self, Need};
use system_tests::server::Server;
use system_tests::site::{SECTORS, STEP, Site, is_golden, is_stamped, stamp};
use system_tests::target::LINKS;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const NEEDS: &[Need] = &[Need::Root, Need::Program("ip"), Need::Program("strace")];
/// Requests that are outstanding at the same time.
const DEPTH: usize = 16;
/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

/// Counts the system calls of a server's threads until it is told to stop.
struct Counter {
    strace: Child,
    report: std::path::PathBuf,
}

impl Counter {
    fn attach(lab: &Lab, server: &Server) -> Self {
        let (report, words) = (lab.dir().join("calls"), lab.dir().join("words"));
        let strace = Command::new(require::program("strace").unwrap())
            .args(["-f", "-c", "-o"])
            .arg(&report)
            .args(["-p", &server.pid().to_string()])
            .stderr(File::create(&words).unwrap())
            .spawn()
            .unwrap();
        // It says so when it has every thread.
        wait_until("strace attaches", || {
            std::fs::read_to_string(&words).unwrap().contains(" attached")
        });
        Self { strace, report }
    }

    /// Calls by name.
    fn stop(mut self) -> BTreeMap<String, u64> {
        let pid = libc::pid_t::try_from(self.strace.id()).unwrap();
        // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        self.strace.wait().unwrap();
        let text = std::fs::read_to_string(&self.report).unwrap();
        let calls: BTreeMap<String, u64> = text.lines().filter_map(calls_of_line).collect();
        assert!(!calls.is_empty(), "{text}");
        calls
    }
}

/// A line of strace's table: share, seconds, microseconds for each call, calls, errors if there
/// were any, name.
fn calls_of_line(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = words.last().filter(|name| **name != "total" && **name != "syscall")?;
    words.first()?.parse::<f64>().ok()?;
    Some(((*name).to_owned(), words.get(3)?.parse().ok()?))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether every thread of a server is stopped, by a signal or by who traces it.
fn is_stopped(server: &Server) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        matches!(state, Some("T" | "t"))
    })
}

/// Sends `rounds` times [`DEPTH`] requests, and waits for their answers.
fn exchange(station: &mut Initiator, rounds: u64, request: impl Fn(u64) -> Vec<u8>) {
    exchange_with(station, None, rounds, request);
}

/// The same with a server that sleeps until all [`DEPTH`] are there: otherwise it would be up to the
/// scheduler how many it finds when it looks.
fn exchange_at_once(
    station: &mut Initiator,
    server: &Server,
    rounds: u64,
    request: impl Fn(u64) -> Vec<u8>,
) {
    exchange_with(station, Some(server), rounds, request);
}

fn exchange_with(
    station: &mut Initiator,
    sleeper: Option<&Server>,
    rounds: u64,
    request: impl Fn(u64) -> Vec<u8>,
) {
    let mut buffer = vec![0; 65_536];
    for round in 0..rounds {
        let frames: Vec<Vec<u8>> = (0..DEPTH as u64)
            .map(|n| station.header(command::ATA).with(&request(round * DEPTH as u64 + n)))
            .collect();
        let mut open: Vec<[u8; 4]> = frames.iter().map(|f| field(f, 20).unwrap()).collect();
        if let Some(server) = sleeper {
            server.signal(libc::SIGSTOP);
            wait_until("the server stops", || is_stopped(server));
        }
        for frame in &frames {
            station.socket().send(frame).unwrap();
        }
        if let Some(server) = sleeper {
            server.signal(libc::SIGCONT);
        }
        while !open.is_empty() {
            let len = station.socket().receive(&mut buffer, PATIENCE).unwrap();
            let frame = &buffer[..len.expect("an answer")];
            if frame[14] & 0x08 != 0 && frame.len() >= ATA {
                assert_eq!(frame[27], 0x40, "status");
                open.retain(|tag| Some(*tag) != field(frame, 20));
            }
        }
    }
}

#[test]
fn few_system_calls_serve_many_requests() {
    const ROUNDS: u64 = 100;
    let test = "few_system_calls_serve_many_requests";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    for link in LINKS {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 1500, 1);
        let server = site.serve(&["--clients", "1", "--link", link]);
        let mut station = site.station(0);
        let lba = |n: u64| n * u64::from(STEP) % SECTORS;
        let read = |n: u64| Registers::read(lba(n), STEP).with(&[]);
        // Pages of the image, buffers and lists come with the first requests.
        exchange(&mut station, 10, read);
        let counter = Counter::attach(&lab, &server);
        exchange_at_once(&mut station, &server, ROUNDS, read);
        let calls = counter.stop();
        let requests = ROUNDS * DEPTH as u64;
        let all: u64 = calls.values().sum();
        let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<u64>();
        println!("{link}: {all} calls for {requests} requests: {calls:?}");
        assert!(of(&["preadv2", "preadv", "pread64"]) <= requests + 16, "{calls:?}");
        if link == "pnet" {
            assert!(all > 3 * requests, "what the others are measured by: {calls:?}");
            continue;
        }
        // One to read the image; the rest is shared by a batch.
        assert!(all * 10 < requests * 25, "{link}: {calls:?}");
        assert!(of(&["sendmmsg", "sendto"]) * 2 < requests, "{link}: {calls:?}");
        if link == "ring" {
            assert_eq!(of(&["sendmmsg"]), 0, "answers leave through the ring: {calls:?}");
        }
        // Asked once after each sleep, or once in a millisecond.
        let slept = of(&["poll", "ppoll"]);
        assert!(of(&["recvfrom", "read"]) <= 3 * slept + 200, "{link}: {calls:?}");
    }
}

/// Writes of which each begins where the one before it ends share a call as far as they came
/// together; others have one each.
#[test]
fn adjacent_writes_are_written_together() {
    const ROUNDS: u64 = 100;
    let test = "adjacent_writes_are_written_together";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 9000, 1);
    let server = site.serve(&["--clients", "1", "--durability", "writeback"]);
    let mut station = site.station(0);
    let data = vec![7; 4096];
    let write = |lba: u64| Registers::write(lba, 8).with(&data);
    let places = SECTORS / 8;
    let requests = ROUNDS * DEPTH as u64;
    // Twice: first writes, and overwrites.
    for round in ["first", "again"] {
        for (order, step) in [("side by side", 1), ("apart", 37)] {
            let (counter, begun) = (Counter::attach(&lab, &server), Instant::now());
            exchange_at_once(&mut station, &server, ROUNDS, |n| write(n * step % places * 8));
            let calls = counter.stop();
            let seconds = begun.elapsed().as_secs();
            let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<u64>();
            let (runs, alone) = (of(&["pwritev", "pwritev2"]), of(&["pwrite64"]));
            println!("{round}, {order}: {runs} runs, {alone} alone: {calls:?}");
            // Pages, headers and notes are written too, by the commit of each second.
            if order == "apart" {
                assert!(runs <= 16 + seconds && alone >= requests, "{round}: {calls:?}");
                assert!(alone <= requests + 200 + 20 * seconds, "{round}: {calls:?}");
            } else {
                assert!(runs >= requests / 16, "{round}: {calls:?}");
                // The notes of first writes that came together take one call.
                let notes = if round == "first" { places / 2 } else { 0 };
                assert!(runs + alone <= requests * 3 / 4 + notes, "{round}: {calls:?}");
            }
        }
    }
    assert_eq!(station.read(0, 64, 8), vec![7; 64 * 512]);
}

/// What is read again and again is neither read nor copied by the server; and an image that shrinks
/// under it costs answers, not the server.
#[test]
fn what_is_read_often_is_sent_from_where_it_lies() {
    const ROUNDS: u64 = 100;
    let test = "what_is_read_often_is_sent_from_where_it_lies";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    for link in LINKS.into_iter().filter(|link| *link != "pnet") {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 1500, 1);
        // Opened by somebody who may write before it is served: no lease keeps it from being cut.
        let image = OpenOptions::new().write(true).open(site.golden()).unwrap();
        let mut server = site.serve(&["--clients", "1", "--link", link]);
        let mut station = site.station(0);
        let half = SECTORS / 2;
        stamp(&mut station, 1, 8, 4);
        // Often enough for the window; then each page was found in memory once.
        for _ in 0..3 {
            assert!(is_golden(&mut station, half, half), "{link}");
        }
        let counter = Counter::attach(&lab, &server);
        let lba = |n: u64| half + n * u64::from(STEP) % half;
        exchange(&mut station, ROUNDS, |n| Registers::read(lba(n), STEP).with(&[]));
        let calls = counter.stop();
        let requests = ROUNDS * DEPTH as u64;
        let names = ["preadv2", "preadv", "pread64"];
        let reads: u64 = names.iter().filter_map(|name| calls.get(*name)).sum();
        assert!(reads * 20 < requests, "{link}: {calls:?}");
        assert!(is_golden(&mut station, half, half), "{link}: what was lent is the image");
        assert!(is_stamped(&mut station, 1, 8, 4), "{link}: what was written is read");

        image.set_len(half * 512).unwrap();
        let gone =
            station.request_or_silence(command::ATA, &Registers::read(lba(0), STEP).with(&[]));
        if let Some(answer) = gone {
            assert_ne!(answer.status().0 & 1, 0, "{link}: read what is not there");
        }
        server.assert_running();
    }
}

/// What is not in memory is read by the kernel without a thread for it, several with one call, and
/// rightly.
#[test]
fn cold_reads_need_no_threads() {
    const PLACES: u64 = SECTORS / 16;
    let test = "cold_reads_need_no_threads";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 1500, 1);
    let server = site.serve(&["--clients", "1"]);
    let status: serde_json::Value =
        serde_json::from_str(&site.order(&["status", "--json"]).out).unwrap();
    let way = status["cold_reads"].as_str().unwrap();
    if way != "io_uring" {
        require::announce(
            require::SKIP_LOG,
            &format!("SKIP: {test}: cold reads are done by {way}"),
        );
        return;
    }
    let mut station = site.station(0);
    let image = File::open(site.golden()).unwrap();
    image.sync_all().unwrap();
    let cool = || {
        // SAFETY: the descriptor is open, and the call takes plain numbers.
        let error =
            unsafe { libc::posix_fadvise(image.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(error, 0);
    };
    cool();
    let counter = Counter::attach(&lab, &server);
    let lba = |n: u64| n * 37 % PLACES * 16;
    let read = |n: u64| Registers::read(lba(n), STEP).with(&[]);
    exchange(&mut station, PLACES / DEPTH as u64, read);
    let calls = counter.stop();
    let of = |name: &str| calls.get(name).copied().unwrap_or(0);
    println!("{calls:?} for {PLACES} requests");
    if of("io_uring_enter") == 0 {
        require::announce(
            require::SKIP_LOG,
            &format!("SKIP: {test}: the page cache kept the image"),
        );
        return;
    }
    // Metadata of the overlay may be read by threads in the meantime; a thread for each read may not.
    assert!(of("pread64") * 10 < PLACES, "{calls:?}");
    assert!(of("futex") * 10 < PLACES, "{calls:?}");
    assert!(of("preadv2") <= PLACES + 16, "each is looked for once: {calls:?}");
    // One to begin it and one to end it, unless others came with it.
    assert!(of("io_uring_enter") < 2 * PLACES, "{calls:?}");
    cool();
    assert!(is_golden(&mut station, 0, SECTORS));
}

/// Sectors of which every other one was written are not read sector by sector: they too are sent from
/// where they lie. A write that comes behind a read, before its answer has left, does not show in it.
#[test]
fn alternating_sectors_are_sent_from_both_files() {
    const ROUNDS: u64 = 100;
    const PLACES: u64 = 16;
    let test = "alternating_sectors_are_sent_from_both_files";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    for link in LINKS {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 9000, 1);
        let server = site.serve(&["--clients", "1", "--link", link, "--durability", "writeback"]);
        let mut station = site.station(0);
        let mut expected = station.read(0, PLACES * 8, 8);
        for (sector, lba) in expected.chunks_mut(512).zip(0..).skip(1).step_by(2) {
            sector.fill(9);
            station.write(lba, sector, 1);
        }
        let read = |n: u64| Registers::read(n % PLACES * 8, 8).with(&[]);
        // Often enough for the windows of both; then each page was found in memory once.
        exchange(&mut station, 12, read);
        let counter = Counter::attach(&lab, &server);
        exchange(&mut station, ROUNDS, read);
        let calls = counter.stop();
        let names = ["preadv2", "preadv", "pread64"];
        let reads: u64 = names.iter().filter_map(|name| calls.get(*name)).sum();
        let requests = ROUNDS * DEPTH as u64;
        println!("{link}: {reads} reads of files for {requests} requests");
        if link == "pnet" {
            assert!(reads <= 2 * requests + 16, "{link}: {calls:?}");
        } else {
            assert!(reads * 20 < requests, "{link}: {calls:?}");
        }
        assert!(station.read(0, PLACES * 8, 8) == expected, "{link}: both files are seen");

        let mut buffer = vec![0; 65_536];
        for round in 0..100_u8 {
            let before = if round == 0 { 9 } else { round - 1 };
            let asked = station.header(command::ATA).with(&read(1));
            let data = Registers::write(9, 1).with(&[round; 512]);
            let changed = station.header(command::ATA).with(&data);
            station.socket().send(&asked).unwrap();
            station.socket().send(&changed).unwrap();
            let mut open = 2;
            while open > 0 {
                let len = station.socket().receive(&mut buffer, PATIENCE).unwrap();
                let frame = &buffer[..len.expect("an answer")];
                if frame[14] & 0x08 != 0 && frame.len() >= ATA {
                    open -= 1;
                    if frame.get(20..24) == asked.get(20..24) {
                        assert_eq!(frame[36 + 512..][..512], [before; 512], "{link}: {round}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_idle_server_sleeps() {
    let test = "an_idle_server_sleeps";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    for link in LINKS {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 1500, 1);
        let server = site.serve(&["--clients", "1", "--link", link]);
        exchange(&mut site.station(0), 10, |n| Registers::read(n, STEP).with(&[]));
        let (before, begun) = (processor_ticks(&server), Instant::now());
        let counter = Counter::attach(&lab, &server);
        std::thread::sleep(Duration::from_secs(2));
        let calls = counter.stop();
        let spent = processor_ticks(&server) - before;
        let all: u64 = calls.values().sum();
        // On a busy machine it may have been watched for longer.
        let tenths = u64::try_from(begun.elapsed().as_millis() / 100).unwrap();
        println!("{link}: {all} calls in {tenths} idle tenths, {spent} ticks: {calls:?}");
        // It wakes ten times a second to look at images, interfaces and space.
        let wakes = tenths + 10;
        assert!(calls.get("ppoll").is_none_or(|count| *count <= wakes), "{link}: {calls:?}");
        assert!(all <= 20 * wakes, "{link}: {calls:?}");
    }
}

/// Processor time of a server so far, in ticks of the system's clock.
fn processor_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn status_tells_the_link_and_what_was_lost() {
    let test = "status_tells_the_link_and_what_was_lost";
    if !require::met(test, &[&NEEDS[..2]]) {
        return;
    }
    for link in LINKS {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 1500, 1);
        let server = site.serve(&["--clients", "1", "--link", link]);
        let mut station = site.station(0);
        // A server that does not run takes nothing: most of these find no room.
        server.signal(libc::SIGSTOP);
        let frame = station.header(command::ATA).with(&Registers::read(0, STEP).with(&[]));
        for _ in 0..20_000 {
            station.socket().send(&frame).unwrap();
        }
        server.signal(libc::SIGCONT);
        let mut said = String::new();
        let mut lost = 0;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            said = site.order(&["status", "--json"]).out;
            let status: serde_json::Value = serde_json::from_str(&said).unwrap();
            let interface = &status["interfaces"][0];
            assert_eq!(interface["link"], format!("{link}, as asked for"), "{said}");
            lost = interface["counters"]["receive_drops"].as_u64().unwrap();
            if lost > 0 && status["warnings"].to_string().contains("faster than they were taken") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(lost > 0 && said.contains("faster than they were taken"), "{link}: {said}");
        let table = operator_text(&site);
        assert!(table.contains(link), "{table}");
        assert_eq!(station.ata(Registers::read(0, STEP), &[]).status().0, 0x40);
    }
}

fn operator_text(site: &Site) -> String {
    let said: operator::Said = site.order(&["status"]);
    said.out
}
