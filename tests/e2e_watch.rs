//! `cowblade watch` on a real wire: what it hears, what it flags, and that tshark reads the same.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use system_tests::dissector;
use system_tests::frames::{BROADCAST, Header, Registers, command, config, parse_mac};
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::lossy::{Forwarder, Trouble};
use system_tests::net::{Namespace, Segment};
use system_tests::operator::{cowblade, tool};
use system_tests::raw_socket::RawSocket;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::scenario::{self, GOLDEN};
use system_tests::script::Load;
use system_tests::server::{Server, ServerPlan};
use system_tests::target::{self, vblade};
use system_tests::workspace;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
const VBLADE: &[Need] = &[Need::Program("vblade")];
const TSHARK: &[Need] = &[Need::Program("tshark")];
const SECTORS: u64 = 4 << 11;
/// What every line about a frame has.
const FRAME: &str = "\"event\":\"frame\"";
/// Who sends [`forged_requests`].
const FORGER: &str = "02:c0:b1:ad:e0:77";
/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

/// A listener in the background.
struct Listener {
    server: Server,
    capture: PathBuf,
}

/// What a listener said.
struct Heard {
    code: Option<i32>,
    frames: Vec<Value>,
    summary: Value,
    capture: PathBuf,
}

impl Listener {
    fn start(namespace: &Namespace, interface: &str, dir: &Path, options: &[&str]) -> Self {
        let capture = dir.join("heard.pcap");
        let shown = capture.display().to_string();
        let words = ["watch", "-i", interface, "--json", "--write", &shown];
        let log = dir.join("watch.log");
        let program = workspace::cowblade();
        let words = [&words[..], options].concat();
        let plan = ServerPlan::new(namespace, program, words, log, "listening on");
        Self { server: plan.start(), capture }
    }

    /// Waits until so many lines with these words were printed.
    fn await_lines(&self, words: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.server.log().lines().filter(|line| line.contains(words)).count() < count {
            assert!(Instant::now() < deadline, "never {count} of {words}: {}", self.server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends behind everything that was heard.
    fn end(mut self) -> Heard {
        let status = self.server.terminate();
        let (frames, summary) = events(&self.server.log());
        Heard { code: status.code(), frames, summary, capture: self.capture }
    }
}

/// The frames and the summary of what was printed.
fn events(text: &str) -> (Vec<Value>, Value) {
    let events = text.lines().filter(|line| line.starts_with('{'));
    let events: Vec<Value> = events.map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = events.last().cloned().unwrap_or_default();
    assert_eq!(summary["event"], "summary", "{text}");
    (events.into_iter().filter(|event| event["event"] == "frame").collect(), summary)
}

impl Heard {
    /// How often each rule was broken.
    fn rules(&self) -> BTreeMap<String, usize> {
        let mut rules = BTreeMap::new();
        for finding in self.frames.iter().flat_map(|frame| frame["findings"].as_array().unwrap()) {
            *rules.entry(String::from(finding["rule"].as_str().unwrap())).or_default() += 1;
        }
        rules
    }

    fn of_kind(&self, kind: &str) -> usize {
        self.frames.iter().filter(|frame| frame["kind"] == kind).count()
    }
}

/// Our own initiator looks around, reads and writes.
fn converse(segment: &Segment, dir: &Path) {
    let interface = Segment::client(0);
    let here = segment.clients();
    cowblade(here, &["discover", "-i", &interface]).assert_done();
    let file = dir.join("noise").display().to_string();
    std::fs::write(&file, vec![0x5a; 20_000]).unwrap();
    let to = ["--offset", "512", "-i", &interface, "--timeout", "60"];
    cowblade(here, &[&["write"][..], &to[..], &["0.0", file.as_str()]].concat()).assert_done();
    let copy = dir.join("copy").display().to_string();
    let window = [&["--length", "20480"][..], &to[..]].concat();
    cowblade(here, &[&["read", "--output", &copy, "0.0"], &window[..]].concat()).assert_done();
}

fn hear_conversation(lab: &Lab, serve: impl Fn(&Segment, &Path) -> ServerPlan) -> Heard {
    let dir = lab.dir();
    judge::make_golden(&dir.join(GOLDEN), SECTORS, 5);
    let segment = Segment::new(1500, 1);
    let listener = Listener::start(segment.server(), Segment::SERVER, dir, &["--strict"]);
    let server = serve(&segment, dir).start();
    converse(&segment, dir);
    drop(server);
    listener.end()
}

fn theirs(segment: &Segment, dir: &Path) -> ServerPlan {
    vblade(segment, dir, "0.0", &dir.join(GOLDEN), &[])
}

fn ours(segment: &Segment, dir: &Path) -> ServerPlan {
    let golden = dir.join(GOLDEN).display().to_string();
    target::cowblade(segment, dir, &[&golden, "--clients", "1"])
}

/// Every request has its answer, in both directions.
fn assert_paired(heard: &Heard) {
    let requests = heard.of_kind("request");
    assert!(requests > 40, "{}", heard.summary);
    assert!(heard.of_kind("answer") >= requests - 1, "{}", heard.summary);
    assert_eq!(heard.of_kind("unmatched-answer"), 0, "{}", heard.summary);
    assert_eq!(heard.of_kind("advertisement"), 1, "{}", heard.summary);
    let target = &heard.summary["targets"][0];
    assert_eq!(target["address"], "e0.0");
    // What was answered late was asked for again, two sectors at a time.
    let again = 1024 * target["resent"].as_u64().unwrap();
    for what in ["bytes_written", "bytes_read"] {
        let bytes = target[what].as_u64().unwrap();
        assert!((20_480..=20_480 + again).contains(&bytes), "{what}: {target}");
    }
    assert_eq!(target["lost"], 0);
    assert!(target["latency"]["mean_ns"].as_u64().unwrap() > 0, "{target}");
    assert_eq!(heard.summary["missed"], 0);
}

#[test]
fn a_session_with_vblade_is_heard_with_its_defects() {
    let test = "a_session_with_vblade_is_heard_with_its_defects";
    if !require::met(test, &[ROOT, VBLADE]) {
        return;
    }
    let heard = hear_conversation(&Lab::new(test, DISK_WORKER), theirs);
    assert_paired(&heard);
    // What vblade 25 is known to do: an advertisement of version 0, and no padding.
    let rules = heard.rules();
    assert_eq!(rules.get("version"), Some(&1), "{rules:?}");
    assert!(rules.contains_key("unpadded"), "{rules:?}");
    assert_eq!(heard.code, Some(3), "--strict");
}

#[test]
fn a_session_with_our_server_breaks_no_rule() {
    let test = "a_session_with_our_server_breaks_no_rule";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let heard = hear_conversation(&Lab::new(test, DISK_WORKER), ours);
    assert_paired(&heard);
    assert_eq!(heard.rules(), BTreeMap::new());
    assert_eq!(heard.code, Some(0), "--strict");
}

#[test]
fn tshark_reads_the_capture_as_we_do() {
    let test = "tshark_reads_the_capture_as_we_do";
    if !require::met(test, &[ROOT, TSHARK]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let dir = lab.dir();
    judge::make_golden(&dir.join(GOLDEN), SECTORS, 5);
    let segment = Segment::new(1500, 1);
    let listener = Listener::start(segment.server(), Segment::SERVER, dir, &[]);
    let _server = ours(&segment, dir).start();
    converse(&segment, dir);
    let socket = RawSocket::open(segment.clients().name(), &Segment::client(0)).unwrap();
    for (number, frame) in forged_requests().iter().enumerate() {
        socket.send(frame).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    listener.await_lines(FORGER, forged_requests().len());
    let heard = listener.end();
    let theirs = dissector::dissect(&heard.capture);
    let path = heard.capture.display().to_string();
    let again = cowblade(segment.server(), &["watch", "--read", &path, "--json"]).assert_done();
    let (ours, _) = events(&again.out);
    assert_eq!(ours.len(), heard.frames.len(), "the file holds what was heard");
    assert_eq!(theirs.len(), ours.len());
    for (live, (we, they)) in heard.frames.iter().zip(ours.iter().zip(&theirs)) {
        assert_eq!(live["line"], we["line"]);
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let is = |name: &str, field: &Value, text: &str| {
            assert_eq!(field.as_u64(), number(text), "{name}: {we} {they:?}");
        };
        is("length", &we["length"], &they.length);
        is("shelf", &we["shelf"], &they.shelf);
        is("slot", &we["slot"], &they.slot);
        is("version", &we["version"], &they.version);
        is("command", &we["command"], &they.command);
        is("tag", &we["tag"], &they.tag);
        assert_eq!(we["response"], they.response == "1", "{we} {they:?}");
        assert_eq!(we["error"].is_u64(), they.error_flag == "1", "{we} {they:?}");
        // tshark shows the code of answers only.
        if they.response == "1" {
            is("error", &we["error"], &they.error);
        }
        if they.command == "0" {
            let ata = &we["ata"];
            is("count", &ata["count"], &they.count);
            is("lba", &ata["lba"], &they.lba);
            let code = if they.response == "1" { &they.status } else { &they.operation };
            is("command or status", &ata["command_status"], code);
        }
    }
}

/// Requests with a number in every field, of all commands.
fn forged_requests() -> Vec<Vec<u8>> {
    let header = |command, tag| Header {
        to: BROADCAST,
        from: parse_mac(FORGER),
        version_flags: 0x10,
        shelf: 0x1234,
        slot: 0x56,
        command,
        tag,
    };
    let mut frames = vec![
        header(command::ATA, 0x0102_0304).with(&Registers::read(0x6050_4030_2010, 7).with(&[])),
        header(command::ATA, 0x0102_0305).with(&Registers::write(0x10_2030, 2).with(&[0xaa; 1024])),
        header(command::ATA, 0xffff_fffe)
            .with(&Registers { count: 1, operation: 0xec, ..Registers::default() }.with(&[])),
        header(command::CONFIG, 0).with(&config(2, 3, b"abc")),
        header(command::MAC_MASK, 9).with(&[0, 0, 0, 0]),
        header(command::RESERVE, 10).with(&[0, 0]),
    ];
    for frame in &mut frames {
        frame.resize(frame.len().max(60), 0);
    }
    frames
}

#[test]
fn two_servers_with_one_address_are_flagged() {
    let test = "two_servers_with_one_address_are_flagged";
    if !require::met(test, &[ROOT, VBLADE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let dir = lab.dir();
    judge::make_golden(&dir.join(GOLDEN), SECTORS, 5);
    let segment = Segment::new(1500, 2);
    let (client, rival) = (Segment::client(0), Segment::client(1));
    let listener = Listener::start(segment.clients(), &client, dir, &["--strict", "0.0"]);
    let _first = theirs(&segment, dir).start();
    let image = dir.join(GOLDEN).display().to_string();
    let program = require::program("vblade").unwrap();
    let words = ["0", "0", rival.as_str(), image.as_str()];
    let log = dir.join("rival.log");
    let _second = ServerPlan::new(segment.clients(), &program, words, log, "sectors").start();
    // Both answer; who comes first does not matter here.
    cowblade(segment.clients(), &["discover", "--no-identify", "-i", &client]);
    listener.await_lines("duplicate-address", 1);
    let heard = listener.end();
    let rules = heard.rules();
    assert!(rules.contains_key("duplicate-address"), "{rules:?}");
    let servers = heard.summary["targets"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2, "{}", heard.summary);
    assert_eq!(heard.code, Some(3));
}

#[test]
fn forged_frames_are_flagged() {
    let test = "forged_frames_are_flagged";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let segment = Segment::new(1500, 1);
    let listener = Listener::start(segment.server(), Segment::SERVER, lab.dir(), &[]);
    let socket = RawSocket::open(segment.clients().name(), &Segment::client(0)).unwrap();
    let (liar, victim) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
    let header = Header {
        to: BROADCAST,
        from: liar,
        version_flags: 0x18,
        shelf: 7,
        slot: 3,
        command: command::CONFIG,
        tag: 0,
    };
    // An advertisement with a buffer count of 1, then an answer whose tag came back reversed.
    let advert = header.with(&[0, 1, 0, 0, 2, 0x10, 0, 0]);
    let read = Header { from: victim, version_flags: 0x10, command: command::ATA, ..header };
    let question = Header { tag: 0x0102_0304, ..read }.with(&Registers::read(5, 1).with(&[]));
    let answer = Header { to: victim, tag: 0x0403_0201, command: command::ATA, ..header };
    let mut done = Registers::read(5, 0).with(&[7; 512]);
    done[3] = 0x40;
    // And a tag that belongs to VLAN 9.
    let mut tagged = advert.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x09]);
    for frame in [advert, question, answer.with(&done), tagged] {
        let mut frame = frame;
        frame.resize(frame.len().max(60), 0);
        socket.send(&frame).unwrap();
    }
    listener.await_lines(FRAME, 4);
    let heard = listener.end();
    let rules = heard.rules();
    assert_eq!(heard.frames.len(), 4, "{:?}", heard.frames);
    assert_eq!(rules.get("buffer-count"), Some(&2), "{rules:?}");
    assert_eq!(rules.get("wrong-tag"), Some(&1), "{rules:?}");
    assert_eq!(heard.frames[3]["vlan"], 9, "{}", heard.frames[3]);
    assert_eq!(heard.code, Some(0), "only --strict makes it a failure");
}

#[test]
fn the_linux_driver_retransmits_with_new_tags() {
    let test = "the_linux_driver_retransmits_with_new_tags";
    if !require::met(test, &[UML_INITIATOR]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (heard, damage) = lab.attempt(|dir| {
        scenario::make_golden(dir);
        let segment = Segment::with_gap(9000);
        let forwarder =
            Forwarder::start(&segment, Trouble { lost: 30, doubled: 0, swapped: 0, seed: 4 });
        // On the guest's side of the gap: requests are heard before they are lost.
        let listener = Listener::start(segment.switch(), Segment::GAP[1], dir, &[]);
        let wire = system_tests::wire::Wire::listen(segment.server(), Segment::SERVER);
        let load = Load::light(1, scenario::GOLDEN_BASE);
        let script = ["await_disk e0.0\n", &load.write("e0.0"), &load.verify("e0.0")].concat();
        let mut plan = lab.initiator(dir, &segment, 0, &script);
        plan.stall = Duration::from_mins(1);
        let _server = ours(&segment, dir).start();
        plan.boot().wait(Some(&wire))?.assert_success();
        Ok((listener.end(), forwarder.damage()))
    });
    println!("{damage:?} {:?} {}", heard.rules(), heard.summary);
    let resent = heard.of_kind("resent-new-tag");
    assert!(damage.lost > 0 && resent > 0, "{damage:?}: {resent} sent again");
    assert_eq!(heard.of_kind("resent"), 0, "Linux never uses a tag twice");
    assert!(heard.summary["lost"].as_u64().unwrap() > 0, "{}", heard.summary);
    assert_eq!(heard.summary["findings"]["must"], 0, "{:?}", heard.rules());
    let initiators = heard.summary["initiators"].as_array().unwrap();
    let guest = initiators.iter().find(|one| one["mac"] == Segment::client_mac(0)).unwrap();
    assert!(guest["lost"].as_u64().unwrap() <= damage.lost, "{guest}");
}

#[test]
fn a_file_needs_no_privileges() {
    let test = "a_file_needs_no_privileges";
    if !require::met(test, &[ROOT, &[Need::Program("setpriv")]]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let segment = Segment::new(1500, 1);
    let listener = Listener::start(segment.server(), Segment::SERVER, lab.dir(), &[]);
    let socket = RawSocket::open(segment.clients().name(), &Segment::client(0)).unwrap();
    for frame in forged_requests() {
        socket.send(&frame).unwrap();
    }
    listener.await_lines(FRAME, 6);
    let heard = listener.end();
    assert_eq!(heard.frames.len(), 6);
    let program = workspace::cowblade().display().to_string();
    let powerless = |words: &[&str]| {
        let start = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", &program, "watch"];
        tool(segment.server(), &[&start[..], words].concat())
    };
    let refused = powerless(&["-i", Segment::SERVER, "--for", "1"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    let capture = heard.capture.display().to_string();
    let read = powerless(&["--read", &capture]).assert_done();
    assert!(read.out.contains("6 frames in "), "{read:?}");
    assert!(read.out.contains("lba 105897790545936 count 7"), "{read:?}");
    // A file is not written to where it is read from.
    let itself = powerless(&["--read", &capture, "--write", &capture]);
    assert_eq!(itself.code, 2, "{itself:?}");
    powerless(&["--read", &capture]).assert_done();
    // A damaged file: what is whole is told, then the damage.
    let mut bytes = std::fs::read(&heard.capture).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&heard.capture, bytes).unwrap();
    let damaged = powerless(&["--read", &capture]);
    assert_eq!(damaged.code, 5, "{damaged:?}");
    assert!(damaged.out.contains("5 frames in "), "{damaged:?}");
    assert!(damaged.err.contains("it ends in the middle of a record"), "{damaged:?}");
}
