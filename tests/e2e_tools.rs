//! Our initiator against the reference target and ours; the aoetools against ours.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::Path;

use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator::{cowblade, tool};
use system_tests::pattern::Base;
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::server::ServerPlan;
use system_tests::target;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
const VBLADE: &[Need] = &[Need::Program("vblade")];
const AOETOOLS: &[Need] = &[Need::Program("aoeping"), Need::Program("aoecfg")];
const IMAGE: &str = "image.img";
const SEED: u64 = 4;
/// 4 MiB and one sector: a multiple of no request size.
const SECTORS: u64 = (4 << 11) + 1;

fn ours(segment: &Segment, dir: &Path) -> ServerPlan {
    let image = dir.join(IMAGE).display().to_string();
    target::cowblade(segment, dir, &[&image, "--clients", "1"])
}

fn theirs(segment: &Segment, dir: &Path) -> ServerPlan {
    target::vblade(segment, dir, "0.0", &dir.join(IMAGE), &[])
}

/// Finds a target, reads all of it, writes into its middle and reads that back.
fn tour(lab: &Lab, mtu: u16, target: impl Fn(&Segment, &Path) -> ServerPlan) {
    let dir = lab.dir();
    judge::make_golden(&dir.join(IMAGE), SECTORS, SEED);
    let segment = Segment::new(mtu, 1);
    let interface = Segment::client(0);
    let here = segment.clients();
    let at = ["-i", interface.as_str(), "0.0"];
    let absent = cowblade(here, &["ping", "--count", "1", "--timeout", "1", at[0], at[1], at[2]]);
    // Longest wait for an answer, with which hangs are caught only.
    let at = ["-i", interface.as_str(), "0.0", "--timeout", "60"];
    assert_eq!(absent.code, 4, "nobody answers yet: {absent:?}");
    let server = target(&segment, dir).start();

    // It listens for a while only, and a busy machine may answer later.
    let mut looks = (0..30).map(|_| cowblade(here, &["discover", "--json", "-i", &interface]));
    let found = looks.find(|found| found.out.contains("0.0")).unwrap();
    assert!(found.assert_done().json().to_string().contains("0.0"));
    let ping = ["ping", "--ata", "--count", "2", "--interval", "0.1"];
    cowblade(here, &[&ping[..], &at[..]].concat()).assert_done();

    let copy = dir.join("copy").display().to_string();
    cowblade(here, &[&["read", "--verify", "--output", copy.as_str()][..], &at[..]].concat())
        .assert_done();
    assert_eq!(judge::untouched(Path::new(&copy), 0..SECTORS, Base::Golden(SEED)), Ok(()));
    assert_eq!(fs::metadata(&copy).unwrap().len(), SECTORS * 512);

    let mut noise = vec![0; 100_000];
    Rng::new(8).fill(&mut noise);
    let file = dir.join("noise").display().to_string();
    fs::write(&file, &noise).unwrap();
    let write = |options: &[&str]| {
        cowblade(here, &[&["write"][..], options, &at[..], &[file.as_str()]].concat())
    };
    write(&["--verify", "--offset", "512"]).assert_done();
    let window = ["--offset", "512", "--length", "100352"];
    let read = [&["read", "--output", copy.as_str()][..], &window[..], &at[..]].concat();
    cowblade(here, &read).assert_done();
    let back = fs::read(&copy).unwrap();
    assert!(back.starts_with(&noise), "what was written reads back");

    let beyond = (SECTORS * 512).to_string();
    let refused = write(&["--offset", &beyond]);
    assert_ne!(refused.code, 0, "a write past the end: {refused:?}");
    drop(server);
}

#[test]
fn our_initiator_tours_vblade_at_mtu_1500() {
    let test = "our_initiator_tours_vblade_at_mtu_1500";
    if require::met(test, &[ROOT, VBLADE]) {
        tour(&Lab::new(test, DISK_WORKER), 1500, theirs);
    }
}

#[test]
fn our_initiator_tours_vblade_at_mtu_9000() {
    let test = "our_initiator_tours_vblade_at_mtu_9000";
    if require::met(test, &[ROOT, VBLADE]) {
        tour(&Lab::new(test, DISK_WORKER), 9000, theirs);
    }
}

#[test]
fn our_initiator_tours_our_server() {
    let test = "our_initiator_tours_our_server";
    if require::met(test, &[ROOT]) {
        tour(&Lab::new(test, DISK_WORKER), 9000, ours);
    }
}

/// Sets, tests and clears the config string of e0.0.
fn configure(lab: &Lab, target: impl Fn(&Segment, &Path) -> ServerPlan) {
    let dir = lab.dir();
    judge::make_golden(&dir.join(IMAGE), SECTORS, SEED);
    let segment = Segment::new(1500, 1);
    let interface = Segment::client(0);
    let _server = target(&segment, dir).start();
    let config_within = |seconds: &str, operation: &str, words: &[&str]| {
        let start = ["config", operation, "--timeout", seconds, "-i", &interface, "0.0"];
        cowblade(segment.clients(), &[&start[..], words].concat())
    };
    let config = |operation: &str, words: &[&str]| config_within("60", operation, words);
    config("set", &["first"]).assert_done();
    assert_eq!(config("get", &[]).assert_done().out.trim(), "first");
    assert_ne!(config("set", &["second"]).code, 0, "another string is set");
    assert_eq!(config("get", &[]).assert_done().out.trim(), "first");
    config("test", &["first"]).assert_done();
    config("test", &["--prefix", "fi"]).assert_done();
    assert_eq!(config_within("2", "test", &["fi"]).code, 4, "no exact match");
    config("force", &["second"]).assert_done();
    assert_eq!(config("get", &[]).assert_done().out.trim(), "second");
    config("force", &[""]).assert_done();
    assert_eq!(config("get", &[]).assert_done().out.trim(), "");
}

#[test]
fn our_initiator_configures_vblade() {
    let test = "our_initiator_configures_vblade";
    if require::met(test, &[ROOT, VBLADE]) {
        configure(&Lab::new(test, DISK_WORKER), theirs);
    }
}

#[test]
fn our_initiator_configures_our_server() {
    let test = "our_initiator_configures_our_server";
    if require::met(test, &[ROOT]) {
        configure(&Lab::new(test, DISK_WORKER), ours);
    }
}

#[test]
fn the_aoetools_understand_our_server() {
    let test = "the_aoetools_understand_our_server";
    if !require::met(test, &[ROOT, AOETOOLS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    judge::make_golden(&lab.dir().join(IMAGE), SECTORS, SEED);
    let segment = Segment::new(1500, 1);
    let interface = Segment::client(0);
    let _server = ours(&segment, lab.dir()).start();
    let here = segment.clients();
    let identity = tool(here, &["aoeping", "-s", "5", "-I", "0", "0", &interface]).assert_done();
    assert!(identity.out.contains("serial_number:"), "{identity:?}");
    assert!(identity.out.contains("cowblade"), "{identity:?}");
    let config = |words: &[&str]| {
        let start = ["aoecfg", "-t", "1"];
        tool(here, &[&start[..], words, &["0", "0", &interface]].concat()).out
    };
    config(&["-c", "set", "-s", "words"]);
    assert_eq!(config(&["-c", "read"]).trim(), "words");
    assert_eq!(config(&["-c", "test", "-s", "words"]).trim(), "words");
    assert_eq!(config(&["-c", "test", "-s", "word"]).trim(), "");
    assert_eq!(config(&["-c", "prefix", "-s", "word"]).trim(), "words");
    assert!(config(&["-c", "set", "-s", "other"]).contains("badcfg"));
    config(&["-c", "fset", "-s", "other"]);
    assert_eq!(config(&["-c", "read"]).trim(), "other");
}
