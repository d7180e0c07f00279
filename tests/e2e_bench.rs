//! The load generator against vblade and against our server: what it counts is what happened, what it
//! verifies is caught when it is wrong, and nothing is written without leave.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use system_tests::net::Segment;
use system_tests::operator::{Said, cowblade};
use system_tests::pattern::Base;
use system_tests::require::{self, Need};
use system_tests::server::Server;
use system_tests::workspace::WorkDir;
use system_tests::{judge, target};

const NEEDS: &[&[Need]] = &[&[Need::Root, Need::Program("ip"), Need::Program("vblade")]];
const SEED: u64 = 5;
/// 4 MiB.
const SECTORS: u64 = 4 << 11;

/// A segment of MTU 9000 and an image.
struct Place {
    segment: Segment,
    dir: WorkDir,
}

impl Place {
    fn new(test: &str) -> Self {
        let place = Self { segment: Segment::new(9000, 1), dir: WorkDir::new(test) };
        judge::make_golden(&place.image(), SECTORS, SEED);
        place
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image.img")
    }

    fn vblade(&self) -> Server {
        target::vblade(&self.segment, self.dir.path(), "0.0", &self.image(), &["-b", "64"]).start()
    }

    fn ours(&self, options: &[&str]) -> Server {
        let image = self.image().display().to_string();
        let fast = ["--durability", "writeback", "--buffer-count", "64"];
        let arguments = [&[image.as_str()], &fast[..], options].concat();
        target::cowblade(&self.segment, self.dir.path(), &arguments).start()
    }

    fn bench(&self, line: &str) -> Said {
        let interface = Segment::client(0);
        let words: Vec<&str> = ["bench", "-i", &interface, "--json"]
            .into_iter()
            .chain(line.split_whitespace())
            .collect();
        cowblade(self.segment.clients(), &words)
    }

    fn image_is_untouched(&self) {
        assert_eq!(judge::untouched(&self.image(), 0..SECTORS, Base::Golden(SEED)), Ok(()));
    }
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report}"))
}

/// What must hold of every result in which nothing went wrong.
fn assert_sound(said: &Said, requests: u64) -> Value {
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!(report["all"]["requests"], requests, "{report}");
    let both = number(&report, "/reads/requests") + number(&report, "/writes/requests");
    assert!((both - number(&report, "/all/requests")).abs() < 0.5, "{report}");
    for count in ["lost", "failed", "stray_frames", "receive_drops", "send_failures"] {
        assert_eq!(report[count], 0, "{count}: {report}");
    }
    let times: Vec<f64> = ["min", "p50", "p90", "p99", "p999", "max"]
        .map(|name| number(&report, &format!("/all/latency_us/{name}")))
        .into();
    assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
    let course = report["requests_per_100_ms"].as_array().unwrap();
    assert_eq!(course.iter().filter_map(Value::as_u64).sum::<u64>(), requests);
    report
}

#[test]
fn counts_are_those_of_the_wire() {
    // So many that they cost even a fast machine several ticks of the clock that processor time is told in.
    const COUNT: u64 = 20_000;
    let test = "counts_are_those_of_the_wire";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let load = format!("0.0 --count {COUNT} --depth 16 --write 40 --write-allowed 0.0");
    for ours in [false, true] {
        let server = if ours { place.ours(&["--clients", "1"]) } else { place.vblade() };
        let before = frames(&place.segment);
        let said = place.bench(&format!("{load} --pid {}", server.pid()));
        let after = frames(&place.segment);
        let report = assert_sound(&said, COUNT);
        // A query and IDENTIFY come first, each again every 250 ms for 5 s at most.
        let requests = COUNT + number_of(&report, "retransmitted");
        let sent = after.sent - before.sent;
        assert!(
            (requests + 2..=requests + 42).contains(&sent),
            "{sent} frames were sent: {report}"
        );
        // What was asked for again may be answered again; a frame of another kind now and then is the
        // server's.
        let received = after.received - before.received;
        assert!(
            (COUNT + 2..sent + 20).contains(&received),
            "{received} frames came back: {report}"
        );
        assert!(number(&report, "/server_cpu_us_per_request") > 0.0);
        assert!(number(&report, "/processes/0/resident_kib") > 0.0);
        drop(server);
    }
}

struct Frames {
    sent: u64,
    received: u64,
}

/// What the client's interface has counted.
fn frames(segment: &Segment) -> Frames {
    let shown = segment.clients().ip(&["-j", "-s", "link", "show", &Segment::client(0)]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let count = |side: &str| shown[0]["stats64"][side]["packets"].as_u64().unwrap();
    Frames { sent: count("tx"), received: count("rx") }
}

fn number_of(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap()
}

#[test]
fn sound_servers_verify() {
    let test = "sound_servers_verify";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let load = "0.0 --count 6000 --depth 32 --write 50 --write-allowed 0.0 --sectors 5 --verify";
    for ours in [true, false] {
        let server = if ours { place.ours(&["--clients", "1"]) } else { place.vblade() };
        let report = assert_sound(&place.bench(load), 6000);
        assert_eq!(report["verified"]["wrong_sectors"], 0, "{report}");
        assert!(number(&report, "/verified/checked_sectors") > 10_000.0);
        drop(server);
        if ours {
            place.image_is_untouched();
        }
    }
}

#[test]
fn many_clients_of_one_address_have_disks_of_their_own() {
    let test = "many_clients_of_one_address_have_disks_of_their_own";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let server = place.ours(&["--new-clients", "auto=20"]);
    let load = "0.0 --clients 20 --depth 4 --write 50 --write-allowed 0.0 --verify --count 4000";
    let report = assert_sound(&place.bench(load), 4000);
    assert_eq!(report["verified"]["wrong_sectors"], 0, "{report}");
    // What the disks say is believed: to take 20 disks for one is found out.
    let shared = place.bench(&load.replace("--verify", "--verify=shared"));
    assert_eq!(shared.code, 3, "{shared:?}");
    assert!(number(&shared.json(), "/verified/wrong_sectors") > 0.0, "{shared:?}");
    drop(server);
    place.image_is_untouched();
    // And one that is shared for 20.
    let server = place.vblade();
    let shared = place.bench(&load.replace("--verify", "--verify=shared"));
    assert_eq!(assert_sound(&shared, 4000)["verified"]["wrong_sectors"], 0);
    assert_eq!(place.bench(load).code, 3, "each overwrites what the others wrote");
    drop(server);
}

#[test]
fn many_targets_at_once() {
    let test = "many_targets_at_once";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let _server = place.ours(&["--clients", "40", "--address", "0.240"]);
    let load = "0.240-1.24 --depth 2 --write 50 --write-allowed 0.240-1.24 --verify --count 4000";
    let report = assert_sound(&place.bench(load), 4000);
    assert_eq!(report["workload"]["targets"].as_array().unwrap().len(), 40);
    assert_eq!(report["verified"]["wrong_sectors"], 0, "{report}");
}

#[test]
fn a_disk_that_changes_underneath_is_caught() {
    let test = "a_disk_that_changes_underneath_is_caught";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let _server = place.vblade();
    // Only reads: what nobody wrote must not change. And writes: what was written must stay.
    for write in ["", "--write 100 --write-allowed 0.0"] {
        // Until the load came back to a place that was altered since: a slow machine needs longer.
        let mut loads = [1, 10, 60].into_iter().map(|seconds| {
            let line = format!("0.0 --time {seconds} --depth 4 --verify {write}");
            while_altering(&place.image(), || place.bench(&line))
        });
        let said = loads.find(|said| said.code != 0).unwrap();
        assert_eq!(said.code, 3, "{said:?}");
        let report = said.json();
        assert!(number(&report, "/verified/wrong_sectors") > 0.0, "{report}");
        let finding = report["verified"]["findings"][0].as_str().unwrap();
        assert!(finding.starts_with("e0.0, sector "), "{finding}");
    }
}

/// Runs `body` while somebody else writes into the sixth sector of each 4 KiB of the file, again and again.
///
/// All of the file, because the load overwrites what it has not read yet: of one place it is luck who wrote last.
fn while_altering(path: &Path, body: impl FnOnce() -> Said) -> Said {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(path).unwrap();
            for byte in (0..=u8::MAX).cycle() {
                for place in 0..SECTORS / 8 {
                    file.write_all_at(&[byte; 512], (place * 8 + 5) * 512).unwrap();
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(core::time::Duration::from_millis(1));
            }
        });
        let said = body();
        over.store(true, Ordering::Relaxed);
        said
    })
}

#[test]
fn nothing_is_written_without_leave() {
    let test = "nothing_is_written_without_leave";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let server = place.vblade();
    let before = fs::metadata(place.image()).unwrap().modified().unwrap();
    let frames_before = frames(&place.segment).sent;
    for line in [
        "0.0 --write 1 --count 100",
        "0.0 --write 100 --write-allowed 0.1 --count 100",
        "0.0,0.1 --write 100 --write-allowed 0.0 --count 100",
        "0.0 --write 101 --write-allowed 0.0 --count 100",
    ] {
        let refused = place.bench(line);
        assert_eq!((refused.code, refused.out.as_str()), (2, ""), "{line}: {refused:?}");
    }
    assert_eq!(frames(&place.segment).sent, frames_before, "not even a question was sent");
    // Reading is allowed, and what is outside the disk is refused.
    assert_sound(&place.bench("0.0 --count 100"), 100);
    let outside = "0.0 --write 100 --write-allowed 0.0 --offset 4M --length 4K --count 1";
    assert_eq!(place.bench(outside).code, 2);
    assert_eq!(place.bench("0.7 --count 1").code, 4, "nobody answers");
    drop(server);
    assert_eq!(fs::metadata(place.image()).unwrap().modified().unwrap(), before);
    place.image_is_untouched();
}

#[test]
fn people_get_pictures() {
    let test = "people_get_pictures";
    if !require::met(test, NEEDS) {
        return;
    }
    let _turn = require::alone();
    let place = Place::new(test);
    let server = place.vblade();
    let interface = Segment::client(0);
    let pid = server.pid().to_string();
    let words = ["bench", "0.0", "-i", &interface, "--count", "500", "--pid", &pid];
    let said = cowblade(place.segment.clients(), &words).assert_done();
    for part in ["e0.0 on cli0: random reads of 8 sectors", "p99.9", "server: ", "####"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
}
