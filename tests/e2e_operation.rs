//! The life of a server: restarts, signals, interfaces that go and come, locks and limits.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use system_tests::frames::{Registers, command, config, parse_mac};
use system_tests::initiator::Initiator;
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::mounted::Mounted;
use system_tests::net::Segment;
use system_tests::operator;
use system_tests::pattern::SECTOR;
use system_tests::require::{self, Need};
use system_tests::server::Server;
use system_tests::site::{self, BASE, SECTORS, STEP, Site};
use system_tests::strace::Strace;
use system_tests::target;
use system_tests::wire::{Seen, Wire};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
const ONE: &[&str] = &["--clients", "1"];

/// The test's lab and site, unless it must be skipped.
fn site(test: &'static str, mtu: u16, stations: usize) -> Option<(Lab, Site)> {
    if !require::met(test, &[ROOT]) {
        return None;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, mtu, stations);
    Some((lab, site))
}

/// Runs `body` with a server on each kind of link, at a site of its own.
fn on_every_link(test: &'static str, mtu: u16, body: impl Fn(&Site, Server)) {
    for link in target::LINKS {
        println!("on {link}");
        let Some((_lab, site)) = site(test, mtu, 1) else { return };
        let server = site.serve(&["--clients", "1", "--link", link]);
        body(&site, server);
    }
}

/// Waits until `wanted` holds; catches hangs only.
fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !wanted() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_restart_keeps_everything_a_client_knows() {
    let Some((_lab, site)) = site("a_restart_keeps_everything_a_client_knows", 1500, 1) else {
        return;
    };
    let mut server = site.serve(ONE);
    let mut station = site.station(0);
    let own = parse_mac(&Segment::client_mac(0));
    site::stamp(&mut station, 1, 100, 64);
    let answer = |station: &mut Initiator, command, argument: &[u8]| {
        station.request(command, argument).expect("an answer").argument().to_vec()
    };
    answer(&mut station, command::CONFIG, &config(4, 5, b"words"));
    answer(&mut station, command::MAC_MASK, &[&[0, 1, 0, 1, 0, 1], &own[..]].concat());
    answer(&mut station, command::RESERVE, &[&[1, 1], &own[..]].concat());
    let known = |station: &mut Initiator| {
        (
            station.identity(),
            station.config_string(),
            answer(station, command::MAC_MASK, &[0, 0, 0, 0]),
            answer(station, command::RESERVE, &[0, 0]),
        )
    };
    let before = known(&mut station);
    assert_eq!((before.1.as_slice(), before.2[3], before.3[1]), (b"words".as_slice(), 1, 1));
    // Changes from the network are stored once a second at most: string, mask and reservation.
    let stored = [b"words", &own[..], &own[..]].concat();
    until("the state is stored", || {
        let files = fs::read_dir(site.overlays()).unwrap().map(|entry| entry.unwrap().path());
        let mut states = files.filter(|path| path.extension().is_some_and(|end| end == "state"));
        states.any(|path| fs::read(path).is_ok_and(|bytes| bytes.ends_with(&stored)))
    });
    for gracefully in [false, true] {
        if gracefully {
            assert!(server.terminate().success(), "{}", server.log());
        } else {
            server.kill();
        }
        server.restart();
        let mut station = site.station(0);
        assert_eq!(known(&mut station), before);
        assert!(site::is_stamped(&mut station, 1, 100, 64));
        assert!(site::is_golden(&mut station, 0, 100));
    }
    assert_eq!(judge::untouched(&site.golden(), 0..SECTORS, BASE), Ok(()));
}

/// Names in a directory that end so.
fn named(directory: &std::path::Path, end: &str) -> usize {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(end)).count()
}

#[test]
fn a_commit_log_is_entered_by_the_next_server() {
    let test = "a_commit_log_is_entered_by_the_next_server";
    if !require::met(test, &[&[Need::CommitLogs]]) {
        return;
    }
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    let overlay = site.overlays().join("e0.0.cow").display().to_string();
    let chain = format!("{overlay},{}", site.golden().display());
    let read = |words: &[&str]| operator::cowblade(site.segment.server(), words);
    for seed in 1..4 {
        let mut station = site.station(0);
        site::stamp(&mut station, seed, 100, 64);
        trim(&mut station, 120, 4);
        site::stamp(&mut station, seed, 122, 1);
        server.kill();
        assert!(named(&site.overlays(), ".cowlog") > 0);
        let told = read(&["info", &overlay]);
        assert!(told.out.contains("commit log"), "{told:?}");
        let checked = read(&["check", &overlay]);
        assert!(checked.out.contains("commit log"), "{checked:?}");
        server.restart();
        let mut station = site.station(0);
        assert!(site::is_stamped(&mut station, seed, 100, 20));
        assert!(site::is_stamped(&mut station, seed, 122, 1));
        assert!(site::is_stamped(&mut station, seed, 124, 40));
        for lba in [120, 121, 123] {
            assert!(station.read(lba, 1, 1).iter().all(|&byte| byte == 0), "{lba}");
        }
        assert!(site::is_golden(&mut station, 0, 100));
    }
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(named(&site.overlays(), ".cowlog"), 0, "after an orderly end there is none");
    let map = read(&["map", &chain]);
    assert_eq!(map.code, 0, "{map:?}");
    assert_eq!(judge::untouched(&site.golden(), 0..SECTORS, BASE), Ok(()));
}

#[test]
fn a_server_that_ends_before_any_write_costs_nothing() {
    let test = "a_server_that_ends_before_any_write_costs_nothing";
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    site::stamp(&mut site.station(0), 1, 100, 16);
    assert!(server.terminate().success(), "{}", server.log());
    server.restart();
    server.kill();
    assert_eq!(named(&site.overlays(), ".cowlog"), 0);
    // A start that fails late.
    let golden = site.golden().display().to_string();
    let control = site.overlays().join("none/socket").display().to_string();
    let words = [&["serve", &golden, "-i", Segment::SERVER, "--control", &control], ONE];
    let failed = operator::cowblade(site.segment.server(), &words.concat());
    assert!(failed.code != 0, "{failed:?}");
    server.restart();
    assert!(site::is_stamped(&mut site.station(0), 1, 100, 16));
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(named(&site.overlays(), ".cowlog"), 0);
}

#[test]
fn a_log_does_not_undo_what_others_did_to_an_overlay() {
    let test = "a_log_does_not_undo_what_others_did_to_an_overlay";
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mac = Segment::client_mac(0);
    let client = format!("one={mac}");
    let mut server = site.serve(&["--client", &client]);
    site::stamp(&mut site.station(0), 1, 100, 16);
    site.order(&["clients", "remove", "one"]).assert_done();
    let [overlay] = &Site::files(&site.overlays())[..] else { panic!("one overlay") };
    let overlay = site.overlays().join(overlay).display().to_string();
    operator::local(&["rollback", "--yes", &overlay]).assert_done();
    site.order(&["clients", "adopt", &mac, "one"]).assert_done();
    assert!(site::is_golden(&mut site.station(0), 100, 16));
    site::stamp(&mut site.station(0), 2, 108, 1);
    server.kill();
    server.restart();
    assert!(site::is_golden(&mut site.station(0), 100, 8), "not what was rolled back");
    assert!(site::is_stamped(&mut site.station(0), 2, 108, 1));
    assert_eq!(Site::files(&site.overlays()).len(), 1);
}

/// What cannot be entered into one overlay is kept for it, and the server serves the others.
#[test]
fn an_overlay_that_is_locked_keeps_its_log_and_holds_nobody_up() {
    let test = "an_overlay_that_is_locked_keeps_its_log_and_holds_nobody_up";
    if !require::met(test, &[&[Need::CommitLogs]]) {
        return;
    }
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    site::stamp(&mut site.station(0), 1, 100, 16);
    server.kill();
    let stray = site.overlays().join("stray.cow");
    fs::copy(site.overlays().join("e0.0.cow"), &stray).unwrap();
    let held = fs::File::open(&stray).unwrap();
    held.lock().unwrap();
    server.restart();
    assert!(site::is_stamped(&mut site.station(0), 1, 100, 16));
    assert!(server.log().contains("stray.cow"), "{}", server.log());
    assert!(server.terminate().success(), "{}", server.log());
    assert_eq!(named(&site.overlays(), ".cowlog"), 4, "what the stray one needs");
    drop(held);
    let away = site.golden().with_file_name("away.cow");
    fs::rename(&stray, &away).unwrap();
    server.restart();
    assert!(server.terminate().success(), "{}", server.log());
    let words = "acknowledged writes of overlays that are not there";
    assert!(!server.log().contains(words), "its layer is there, in good order: {}", server.log());
    assert_eq!(named(&site.overlays(), ".cowlog"), 0);
}

#[test]
fn an_overlay_that_is_a_link_has_a_log_too() {
    let test = "an_overlay_that_is_a_link_has_a_log_too";
    let Some((lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    site::stamp(&mut site.station(0), 1, 100, 16);
    assert!(server.terminate().success(), "{}", server.log());
    let (place, elsewhere) = (site.overlays().join("e0.0.cow"), lab.dir().join("elsewhere.cow"));
    fs::rename(&place, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &place).unwrap();
    server.restart();
    site::stamp(&mut site.station(0), 2, 108, 1);
    server.kill();
    server.restart();
    assert!(site::is_stamped(&mut site.station(0), 1, 100, 8));
    assert!(site::is_stamped(&mut site.station(0), 2, 108, 1));
}

/// DATA SET MANAGEMENT with one range.
fn trim(station: &mut Initiator, lba: u64, sectors: u64) {
    let mut ranges = (lba | (sectors << 48)).to_le_bytes().to_vec();
    ranges.resize(SECTOR, 0);
    let registers = Registers { flags: 0x41, features: 1, count: 1, operation: 0x06, lba: 0 };
    assert_eq!(station.ata(registers, &ranges).status(), (0x40, 0));
}

#[test]
fn trimmed_sectors_read_as_zeros() {
    let Some((_lab, site)) = site("trimmed_sectors_read_as_zeros", 1500, 1) else { return };
    let mut server = site.serve(ONE);
    let mut station = site.station(0);
    let word = |identity: &[u8], index: usize| {
        u16::from_le_bytes([identity[index * 2], identity[index * 2 + 1]])
    };
    let identity = station.identity();
    assert_eq!(word(&identity, 169) & 1, 1, "TRIM is offered");
    assert_eq!(word(&identity, 69) & 0x4020, 0x4020, "zeros are promised");
    site::stamp(&mut station, 1, 100, 40);
    // Half of what was written, and as much of the golden image.
    trim(&mut station, 120, 40);
    for _ in 0..2 {
        let mut station = site.station(0);
        assert!(station.read(120, 40, STEP).iter().all(|&byte| byte == 0));
        assert!(site::is_stamped(&mut station, 1, 100, 20));
        assert!(site::is_golden(&mut station, 160, 40));
        server.kill();
        server.restart();
    }
    let mut station = site.station(0);
    site::stamp(&mut station, 2, 130, 4);
    assert!(site::is_stamped(&mut station, 2, 130, 4), "written again");
    assert!(station.read(120, 10, STEP).iter().all(|&byte| byte == 0));
    assert_eq!(judge::untouched(&site.golden(), 0..SECTORS, BASE), Ok(()));
}

#[test]
fn sighup_announces_every_disk_again() {
    let Some((_lab, site)) = site("sighup_announces_every_disk_again", 1500, 1) else { return };
    let wire = Wire::listen(site.segment.server(), Segment::SERVER);
    let mut server = site.serve(&["--clients", "3"]);
    until("announced at start", || wire.seen().advertisements >= 3);
    let before = wire.seen().advertisements;
    server.signal(libc::SIGHUP);
    until("announced again", || wire.seen().advertisements >= before + 3);
    server.assert_running();
    assert!(server.terminate().success());
}

#[test]
fn an_interface_that_goes_and_comes_is_served_again() {
    let test = "an_interface_that_goes_and_comes_is_served_again";
    on_every_link(test, 1500, |site, mut server| {
        let mut station = site.station(0);
        site::stamp(&mut station, 1, 0, 8);
        let wire = Wire::listen(site.segment.clients(), &Segment::client(0));
        for _ in 0..2 {
            let before = wire.seen().advertisements;
            site.segment.server().ip(&["link", "set", Segment::SERVER, "down"]);
            until("the server notices", || {
                let status = site.order(&["status", "--json"]).assert_done().json();
                status["interfaces"][0]["up"] == false
            });
            site.segment.server().ip(&["link", "set", Segment::SERVER, "up"]);
            until("announced at link up", || wire.seen().advertisements > before);
            assert!(site::is_stamped(&mut station, 1, 0, 8));
        }
        server.assert_running();
    });
}

#[test]
fn a_recreated_interface_is_served_again() {
    on_every_link("a_recreated_interface_is_served_again", 1500, |site, mut server| {
        site::stamp(&mut site.station(0), 1, 0, 8);
        site.segment.replug();
        let mut back = None;
        until("answers on the new interface", || {
            server.assert_running();
            back = site.try_station(0);
            back.is_some()
        });
        assert!(site::is_stamped(&mut back.unwrap(), 1, 0, 8));
    });
}

#[test]
fn a_changed_mtu_is_followed() {
    for first in [9000, 1500] {
        on_every_link("a_changed_mtu_is_followed", first, |site, mut server| {
            let mut station = site.station(0);
            for mtu in [first, 1500, 9000] {
                site.segment.set_mtu(mtu);
                let most = if mtu == 9000 { 16 } else { 2 };
                until("offers what fits", || station.sectors_per_request() == most);
                let data = vec![7; usize::from(most) * SECTOR];
                assert_eq!(station.ata(Registers::read(0, most), &[]).status().0, 0x40);
                assert_eq!(station.ata(Registers::write(0, most), &data).status().0, 0x40);
                if mtu == 1500 {
                    assert_eq!(station.ata(Registers::read(0, 16), &[]).status(), (0x41, 0x04));
                }
            }
            server.assert_running();
        });
    }
}

#[test]
fn two_interfaces_show_one_disk() {
    let Some((_lab, site)) = site("two_interfaces_show_one_disk", 1500, 1) else { return };
    site.segment.add_wire(1);
    let mut server = site.serve(&["--clients", "1", "-i", Segment::SECOND]);
    let (mut first, mut second) = (site.station(0), site.station(1));
    assert_ne!(first.target(), second.target());
    assert_eq!(first.identity(), second.identity());
    site::stamp(&mut first, 1, 10, 20);
    assert!(site::is_stamped(&mut second, 1, 10, 20));
    site.segment.server().ip(&["link", "set", Segment::SERVER, "down"]);
    site::stamp(&mut second, 2, 10, 20);
    site.segment.server().ip(&["link", "del", Segment::SERVER]);
    assert!(site::is_stamped(&mut second, 2, 10, 20));
    server.assert_running();
}

/// Starts a server that must refuse; returns its exit code and what it said.
fn refused(mut plan: system_tests::server::ServerPlan) -> (i32, String) {
    plan.command.splice(0..0, ["timeout".into(), "60".into()]);
    let mut words = plan.command.iter().map(String::as_str);
    let program = words.next().unwrap();
    let arguments: Vec<_> = words.collect();
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", &plan.namespace, program])
        .args(arguments)
        .output()
        .unwrap();
    let said = operator::Said::of(&output);
    (said.code, said.err)
}

#[test]
fn a_second_server_on_the_same_overlays_is_refused() {
    let test = "a_second_server_on_the_same_overlays_is_refused";
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    site::stamp(&mut site.station(0), 1, 0, 8);
    let (code, words) = refused(site.plan(&["--clients", "1", "--address", "7.0"]));
    assert_eq!(code, 5, "{words}");
    assert!(site::is_stamped(&mut site.station(0), 1, 0, 8));
    server.assert_running();
}

#[test]
fn an_address_in_use_is_refused() {
    let test = "an_address_in_use_is_refused";
    if !require::met(test, &[ROOT, &[Need::Program("vblade")]]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 1500, 1);
    let image = lab.dir().join("other.img");
    fs::copy(site.golden(), &image).unwrap();
    let mut plan = target::vblade(&site.segment, lab.dir(), "0.0", &image, &[]);
    plan.namespace = site.segment.clients().name().into();
    let interface = plan.command.iter_mut().find(|word| *word == Segment::SERVER).unwrap();
    *interface = Segment::client(0);
    let _other = plan.start();
    // The other one has a third of a second to answer: on a busy machine it may take more than one try.
    let mut plan = site.plan(ONE);
    plan.command.splice(0..0, ["timeout".into(), "5".into()]);
    let timed_out = 124;
    let mut tries = (0..12).map(|_| refused(plan.clone()));
    let (code, words) = tries.find(|(code, _)| *code != timed_out).unwrap();
    assert_eq!(code, 5, "{words}");
    assert!(words.contains("0.0"), "{words}");
}

/// Writes sectors until the target refuses one; returns how many it took, and the refusal.
fn fill(station: &mut Initiator) -> (u64, (u8, u8)) {
    for lba in (0..SECTORS).step_by(STEP.into()) {
        let response = station.ata(Registers::write(lba, STEP), &[0xaa; 2 * SECTOR]);
        if response.status().0 & 1 != 0 {
            return (lba, response.status());
        }
    }
    (SECTORS, (0, 0))
}

#[test]
fn a_full_overlay_fails_the_writes_of_its_client_only() {
    let test = "a_full_overlay_fails_the_writes_of_its_client_only";
    let Some((_lab, site)) = site(test, 1500, 2) else { return };
    let mut server = site.serve(&["--new-clients", "auto", "--overlay-limit", "1M"]);
    let (mut greedy, mut modest) = (site.station(0), site.station(1));
    let (taken, (status, error)) = fill(&mut greedy);
    assert!((64..=2048).contains(&taken), "took {taken} sectors");
    assert_eq!((status & 0x41, error), (0x41, 0x04), "an ATA write error");
    let bytes = greedy.read(0, taken, STEP);
    assert!(bytes.iter().all(|&byte| byte == 0xaa), "what was acknowledged stays");
    assert!(site::is_golden(&mut greedy, taken + 8, 8));
    site::stamp(&mut modest, 2, 0, 64);
    assert!(site::is_stamped(&mut modest, 2, 0, 64));
    server.assert_running();
    let files: u64 =
        Site::files(&site.overlays()).iter().map(|name| blocks(&site.overlays().join(name))).sum();
    assert!(files < (2 << 20) + (512 << 10), "{files} bytes on disk");
}

/// Bytes that a sparse file takes on disk.
fn blocks(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512
}

/// Whoever reads of an overlay that takes no more writes reads why: which file, and what the system said.
#[test]
fn a_failed_sync_is_told_with_its_reason() {
    let test = "a_failed_sync_is_told_with_its_reason";
    if !require::met(test, &[ROOT, &[Need::Program("strace"), Need::CommitLogs]]) {
        return;
    }
    let cases = [
        ("--commit-log=false", "ENOSPC", "e0.0.cow`: No space left on device"),
        ("--commit-log", "EIO", ".cowlog`: Input/output error"),
    ];
    for (durability, error, words) in cases {
        let lab = Lab::new(test, DISK_WORKER);
        let site = Site::new(&lab, 1500, 1);
        let mut server = site.serve(&["--clients", "1", durability]);
        let mut station = site.station(0);
        site::stamp(&mut station, 1, 0, 8);
        let inject = format!("inject=fdatasync:error={error}");
        let sabotage = Strace::attach(&server, &["-e", "trace=fdatasync", "-e", &inject]);
        let refused = station.ata(Registers::write(8, STEP), &[0xaa; 2 * SECTOR]);
        assert_eq!(refused.status().0 & 1, 1, "{durability}: a write that is not durable");
        until("the operator is told", || server.log().contains("takes no more writes"));
        drop(sabotage);
        let log = server.log();
        let warning = log.lines().find(|line| line.contains("takes no more writes")).unwrap();
        assert!(warning.contains("cannot sync `") && warning.contains(words), "{warning}");
        let status = site.order(&["status", "--json"]).assert_done().json();
        let why = status["sessions"][0]["overlay"]["read_only_because"].as_str().unwrap();
        assert!(why.contains("cannot sync `") && why.contains(words), "{status}");
        assert!(site::is_stamped(&mut station, 1, 0, 8), "what was acknowledged stays");
        server.assert_running();
    }
}

/// A server that could not keep what `--preallocate` promises does not start; and where only room is
/// missing, the operator reads so.
#[test]
fn room_that_nobody_can_promise_is_refused_at_the_start() {
    let test = "room_that_nobody_can_promise_is_refused_at_the_start";
    if !require::met(test, &[ROOT, &[Need::Program("mount")]]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 1500, 1);
    let mounted = Mounted::new(&site.overlays(), "ramfs", "mode=0700");
    let top = format!("7.0={}/a.cow,blank:4M", site.overlays().display());
    let elsewhere = lab.dir().join("elsewhere").display().to_string();
    for words in [&["--clients", "1"][..], &["--overlays", &elsewhere, "--export", &top]] {
        let (code, said) = refused(site.plan(&[words, &["--preallocate"]].concat()));
        assert!(code == 1 && said.contains("leave --preallocate out"), "{code}: {said}");
        assert_eq!(fs::read_dir(site.overlays()).unwrap().count(), 0, "nothing is left");
    }
    drop(mounted);

    let mounted = Mounted::new(&site.overlays(), "tmpfs", "size=1M");
    let mut server = site.serve(&["--clients", "1", "--preallocate"]);
    let mut station = site.station(0);
    let response = station.ata(Registers::write(0, STEP), &[0xaa; 2 * SECTOR]);
    assert_eq!(response.status().0 & 1, 1, "there is room for a quarter of it");
    let log = server.log();
    assert!(log.contains("e0.0.cow`: No space left on device"), "{log}");
    assert!(log.contains("e0.0: a request failed: the overlay has no room"), "{log}");
    assert_eq!(Site::files(&site.overlays()).len(), 0);
    assert!(site::is_golden(&mut station, 0, 8));
    server.assert_running();
    drop(server);
    drop(mounted);
}

#[test]
fn overlays_may_live_on_a_ram_disk() {
    let Some((_lab, site)) = site("overlays_may_live_on_a_ram_disk", 1500, 1) else { return };
    let ram = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = ram.path().join("overlays").display().to_string();
    let mut server = site.serve(&["--clients", "1", "--overlays", &place]);
    site::stamp(&mut site.station(0), 1, 0, 8);
    server.kill();
    server.restart();
    assert!(site::is_stamped(&mut site.station(0), 1, 0, 8));
    assert_eq!(Site::files(ram.path().join("overlays").as_path()).len(), 1);
}

#[test]
fn a_golden_image_changed_underneath_is_noticed() {
    let test = "a_golden_image_changed_underneath_is_noticed";
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let mut server = site.serve(ONE);
    let mut station = site.station(0);
    site::stamp(&mut station, 1, 0, 8);
    let image = fs::File::options().write(true).open(site.golden());
    // A lease may keep the writer out; that is as good as noticing.
    if let Ok(image) = image {
        image.write_all_at(&[0xdd; SECTOR], 4000 * 512).unwrap();
        drop(image);
        until("a complaint", || {
            // The server may look when it is asked for something.
            drop(station.request(command::ATA, &Registers::read(4000, 2).with(&[])));
            server.log().contains("changed")
        });
        let response = station.ata(Registers::read(4000, 2), &[]);
        assert_ne!(response.status().0 & 1, 0, "changed bytes are served in silence");
        server.terminate();
        let (code, words) = refused(site.plan(ONE));
        assert_eq!(code, 5, "{words}");
    }
}

#[test]
fn a_part_of_the_image_is_served() {
    let Some((_lab, site)) = site("a_part_of_the_image_is_served", 1500, 1) else { return };
    let options = ["--offset", "5120", "--length", "1M", "--buffer-count", "33"];
    let _server: Server = site.serve(&[ONE, &options].concat());
    let mut station = site.station(0);
    assert_eq!(station.sectors(), 2048);
    let query = station.request(command::CONFIG, &config(0, 0, &[])).unwrap();
    assert_eq!(query.argument()[..2], [0, 33], "buffer count");
    let expected: Vec<_> = (10..74).map(|lba| BASE.content(lba)).collect();
    assert_eq!(judge::contents(&expected, 10, &station.read(0, 64, STEP)), Ok(()));
    assert_eq!(station.ata(Registers::read(2048, 1), &[]).status(), (0x41, 0x10));
}

#[test]
fn nothing_is_announced_on_a_silent_wire() {
    let test = "nothing_is_announced_on_a_silent_wire";
    let Some((_lab, site)) = site(test, 1500, 1) else { return };
    let wire = Wire::listen(site.segment.server(), Segment::SERVER);
    let _server = site.serve(ONE);
    until("announced", || wire.seen().advertisements > 0);
    until("silent", || wire.seen().silent > Duration::from_secs(2));
    let Seen { requests, responses, .. } = wire.seen();
    assert!(requests + responses < 20, "chatter: {:?}", wire.seen());
}
