//! Several workers over real sockets: every frame comes to the worker that has its disk, however the
//! kernel deals, and together they are one server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use system_tests::frames::{BROADCAST, Header, Mac, Registers, command, config, field};
use system_tests::initiator::Initiator;
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator::cowblade;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::scenario;
use system_tests::server::Server;
use system_tests::site::{self, BASE, STEP, Site};
use system_tests::target::{self, LINKS};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
/// Machines that are not there but for their frames.
const MACHINES: u8 = 16;
/// Disks for everybody, besides e0.0.
const SHARED: [(u16, u8); 4] = [(1, 0), (1, 1), (1, 2), (7, 0)];
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(300);
/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

/// The test's lab and site, unless it must be skipped.
fn site(test: &'static str, mtu: u16) -> Option<(Lab, Site)> {
    if !require::met(test, &[ROOT]) {
        return None;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, mtu, 1);
    Some((lab, site))
}

/// Two workers: e0.0 with a disk for each machine, and [`SHARED`].
fn serve(site: &Site, options: &[&str]) -> Server {
    let exports = SHARED.map(|(shelf, slot)| format!("{shelf}.{slot}=blank:4M"));
    let exports = exports.iter().flat_map(|words| ["--export", words.as_str()]);
    let usual = ["--workers", "2", "--durability", "writeback", "--buffer-count", "64"];
    let words: Vec<&str> =
        usual.into_iter().chain(exports).chain(options.iter().copied()).collect();
    site.serve(&words)
}

fn machine(n: u8) -> Mac {
    [0x02, 0xaa, 0, 0, 7, n]
}

fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Machine `n` at one of the wires, as an initiator of an address.
fn initiator(site: &Site, wire: usize, n: u8, at: (u16, u8)) -> Initiator {
    let interface = Segment::client(wire);
    Initiator::find(site.segment.clients(), &interface, machine(n), at).expect("it is answered")
}

fn status(site: &Site) -> Value {
    site.order(&["status", "--json"]).assert_done().json()
}

/// The sum of a number over all workers.
fn sum(status: &Value, name: &str) -> u64 {
    each(status, name).iter().sum()
}

fn each(status: &Value, name: &str) -> Vec<u64> {
    let workers = status["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker[name].as_u64().unwrap()).collect()
}

#[test]
fn a_load_of_many_machines_is_shared_and_right() {
    for link in LINKS {
        let Some((_lab, site)) = site("a_load_of_many_machines_is_shared_and_right", 9000) else {
            return;
        };
        let mut server = serve(&site, &["--link", link, "--new-clients", "auto=40"]);
        let bench = |words: &str| {
            let interface = Segment::client(0);
            let words: Vec<&str> =
                ["bench", "-i", &interface, "--json"].into_iter().chain(words.split(' ')).collect();
            let report = cowblade(site.segment.clients(), &words).assert_done().json();
            assert_eq!(report["verified"]["wrong_sectors"], 0, "{link}: {report}");
            for count in ["lost", "failed", "stray_frames"] {
                assert_eq!(report[count], 0, "{link}: {count}: {report}");
            }
        };
        bench("0.0 --count 3000 --clients 16 --depth 4 --write 50 --write-allowed 0.0 --verify");
        bench("1.0-1.2,7.0 --count 2000 --depth 8 --write 50 --write-allowed 1.0-1.2,7.0 --verify");
        let status = status(&site);
        let requests = each(&status, "requests");
        // How many each of them gets depends on which is faster: clients share one count of requests.
        // But every client begins with as many as it may have outstanding.
        let disks = each(&status, "disks");
        assert!(requests.len() == 2 && disks.iter().all(|n| *n > 0), "{link}: {status}");
        assert!(requests.iter().zip(&disks).all(|(n, disks)| *n >= 4 * disks), "{link}: {status}");
        assert_eq!(sum(&status, "hand_over_drops"), 0, "{link}: {status}");
        assert_eq!(sum(&status, "handed_over"), sum(&status, "taken_over"), "{link}: {status}");
        let received = each(&status, "frames_received");
        if link == "pnet" {
            // There is no group for it: one receives, both do the work.
            assert_eq!(received[1], 0, "{status}");
            assert!(sum(&status, "handed_over") >= requests[1], "{status}");
        } else {
            // The kernel knows where everything belongs; only what is for all is copied: a question
            // of each client, and again if it is answered late. Otherwise it would be every other.
            assert!(sum(&status, "handed_over") < 500, "{link}: {status}");
            assert!(received.iter().zip(&requests).all(|(r, n)| r >= n), "{link}: {status}");
        }
        server.assert_running();
        assert!(server.terminate().success(), "{}", server.log());
    }
}

/// The kernel may give one worker what it refuses another, for want of locked memory for example: status
/// says of how many what is true.
#[test]
fn status_tells_of_every_worker_who_reads_what_is_not_in_memory() {
    let test = "status_tells_of_every_worker_who_reads_what_is_not_in_memory";
    if !require::met(test, &[ROOT, &[Need::Program("strace")]]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let site = Site::new(&lab, 1500, 1);
    let told = |refused: &[&str]| {
        let mut plan = site.plan(&["--clients", "1", "--workers", "3"]);
        // The second of the rings that the program asks for.
        let strace = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=io_uring_setup"];
        plan.command.splice(0..0, strace.iter().chain(refused).map(ToString::to_string));
        let mut server = plan.start();
        let told = status(&site)["cold_reads"].as_str().unwrap().to_owned();
        assert!(server.terminate().success(), "{}", server.log());
        told
    };
    let all = told(&[]);
    if all != "io_uring" {
        assert!(all.starts_with("threads") && !all.contains("worker"), "{all}");
        require::announce(require::SKIP_LOG, &format!("SKIP: {test}: {all}"));
        return;
    }
    let some = told(&["-e", "inject=io_uring_setup:error=EPERM:when=2"]);
    let (first, second) = some.split_once("; ").unwrap();
    assert_eq!(first, "io_uring (2 workers)");
    assert!(second.starts_with("threads") && second.ends_with(" (1 worker)"), "{some}");
}

/// Answers to one question for everybody, by address: waits for `wanted` addresses, and then for
/// answers too many.
fn answers(
    site: &Site,
    from: Mac,
    (shelf, slot): (u16, u8),
    wanted: usize,
) -> BTreeMap<(u16, u8), usize> {
    let interface = Segment::client(0);
    let asker = Initiator::at(site.segment.clients(), &interface, from, (0, 0), BROADCAST);
    let header = Header {
        to: BROADCAST,
        from,
        version_flags: 0x10,
        shelf,
        slot,
        command: command::CONFIG,
        tag: 0x00c0_ffee,
    };
    asker.socket().send(&header.with(&config(0, 0, &[]))).unwrap();
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; 2048];
    loop {
        let patience = if found.len() < wanted { PATIENCE } else { SILENCE };
        let Some(len) = asker.socket().receive(&mut buffer, patience).unwrap() else { break };
        let frame = &buffer[..len];
        let is_answer =
            field(frame, 0) == Some(from) && field(frame, 20) == Some([0, 0xc0, 0xff, 0xee]);
        if is_answer && frame[14] & 0x08 != 0 {
            let shelf = u16::from_be_bytes(field(frame, 16).unwrap());
            *found.entry((shelf, frame[18])).or_default() += 1;
        }
    }
    found
}

#[test]
fn a_broadcast_is_answered_once_for_each_target() {
    for link in LINKS {
        let Some((_lab, site)) = site("a_broadcast_is_answered_once_for_each_target", 1500) else {
            return;
        };
        let _server = serve(&site, &["--link", link, "--new-clients", "auto"]);
        let once = |addresses: &[(u16, u8)]| addresses.iter().map(|at| (*at, 1)).collect();
        let all: BTreeMap<_, _> = once(&[&[(0, 0)], &SHARED[..]].concat());
        for n in 0..4 {
            assert_eq!(answers(&site, machine(n), (0xffff, 0xff), all.len()), all, "{link}");
        }
        assert_eq!(answers(&site, machine(1), (1, 0xff), 3), once(&SHARED[..3]), "{link}");
        assert_eq!(answers(&site, machine(2), (7, 0), 1), once(&SHARED[3..]), "{link}");
        // And whether the kernel tells a fan of a broadcast or not, each worker had its copy.
        let status = status(&site);
        assert!(sum(&status, "taken_over") >= 5, "{link}: {status}");
    }
}

#[test]
fn a_machine_on_two_wires_has_one_disk_at_one_worker() {
    let Some((_lab, site)) = site("a_machine_on_two_wires_has_one_disk_at_one_worker", 1500) else {
        return;
    };
    site.segment.add_wire(1);
    // Each has an address of its own on each wire: many of the second ones hash elsewhere.
    let second = |n: u8| n + 100;
    let clients: Vec<String> = (0..MACHINES)
        .map(|n| format!("m{n}={}+{}", text(machine(n)), text(machine(second(n)))))
        .collect();
    let clients: Vec<&str> = clients.iter().flat_map(|c| ["--client", c.as_str()]).collect();
    let mut server = serve(&site, &[&["-i", Segment::SECOND], &clients[..]].concat());
    let mut wires: Vec<[Initiator; 2]> = (0..MACHINES)
        .map(|n| [initiator(&site, 0, n, (0, 0)), initiator(&site, 1, second(n), (0, 0))])
        .collect();
    assert_ne!(wires[0][0].target(), wires[0][1].target());
    for round in 0..6_u64 {
        for (n, machine) in (0..).zip(&mut wires) {
            let seed = round * 100 + n;
            let [writer, reader] = machine;
            site::stamp(writer, seed, 8, 4);
            assert!(site::is_stamped(reader, seed, 8, 4), "machine {n}, round {round}");
            machine.swap(0, 1);
        }
    }
    // What everybody shares is one disk on both wires too.
    for at in SHARED {
        let (mut one, mut other) = (initiator(&site, 0, 1, at), initiator(&site, 1, second(2), at));
        site::stamp(&mut one, 7, 0, 4);
        assert!(site::is_stamped(&mut other, 7, 0, 4), "{at:?}");
    }
    let told = status(&site);
    let disks = each(&told, "disks");
    assert_eq!(disks.iter().sum::<u64>(), u64::from(MACHINES) + SHARED.len() as u64, "{told}");
    assert!(disks.iter().all(|n| *n > 3), "{told}");
    assert!(sum(&told, "handed_over") > 20, "some second addresses belong elsewhere: {told}");

    // Killed without warning, both workers find theirs again.
    server.kill();
    server.restart();
    for (n, machine) in (0..).zip(&mut wires) {
        assert!(site::is_stamped(&mut machine[0], 500 + n, 8, 4), "machine {n} after a restart");
    }
}

#[test]
fn machines_are_adopted_and_removed_at_whichever_worker() {
    let Some((_lab, site)) = site("machines_are_adopted_and_removed_at_whichever_worker", 1500)
    else {
        return;
    };
    let _server = serve(&site, &["--new-clients", "auto=20"]);
    // Half of them have written and are clients, the others are guests.
    let mut machines: Vec<_> = (0..8).map(|n| initiator(&site, 0, n, (0, 0))).collect();
    for (n, machine) in (0..).zip(&mut machines).step_by(2) {
        site::stamp(machine, n, 0, 4);
    }
    for n in (1..8).step_by(2) {
        site.order(&["clients", "adopt", &text(machine(n)), &format!("named{n}")]).assert_done();
    }
    // A second address for each, as a guest first.
    for n in 0..8 {
        drop(initiator(&site, 0, n + 50, (0, 0)));
    }
    let listed = site.order(&["clients", "list", "--json"]).assert_done().json();
    let names: BTreeMap<String, String> = listed["clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["macs"][0].as_str().unwrap().into(), c["name"].as_str().unwrap().into()))
        .collect();
    assert_eq!(names.len(), 8, "{listed}");
    for n in 0..8 {
        let name = &names[&text(machine(n))];
        site.order(&["clients", "adopt", &text(machine(n + 50)), name]).assert_done();
    }
    for (n, first) in (0..).zip(&mut machines) {
        let mut second = initiator(&site, 0, u8::try_from(n).unwrap() + 50, (0, 0));
        site::stamp(first, 1000 + n, 4, 4);
        assert!(site::is_stamped(&mut second, 1000 + n, 4, 4), "machine {n}");
        assert!(n % 2 != 0 || site::is_stamped(&mut second, n, 0, 4), "machine {n}");
    }
    for name in names.values() {
        site.order(&["clients", "name", name, &format!("x{name}")]).assert_done();
        site.order(&["clients", "remove", &format!("x{name}")]).assert_done();
    }
    let status = status(&site);
    assert_eq!(sum(&status, "disks"), SHARED.len() as u64, "{status}");
    // Strangers again. What they wrote is kept for the names that they had last.
    for (n, machine) in (0..8).zip(&mut machines) {
        assert!(site::is_golden(machine, 4, 4), "machine {n}");
    }
}

/// A query, a read and a write of machine `n`; `None` if one of them is not answered soon.
fn visit(site: &Site, n: u8, patience: Duration) -> Option<()> {
    let (namespace, interface) = (site.segment.clients(), Segment::client(0));
    let mut anybody = Initiator::at(namespace, &interface, machine(n), (0, 0), BROADCAST);
    let answer = anybody.request_once(command::CONFIG, &config(0, 0, &[]), patience)?;
    let target = field(answer.frame(), 6)?;
    let mut known = Initiator::at(namespace, &interface, machine(n), (0, 0), target);
    let mut ask = |registers: Registers, data: &[u8]| {
        let answer = known.request_once(command::ATA, &registers.with(data), patience)?;
        assert_eq!(answer.status().0, 0x40);
        Some(answer)
    };
    let lba = u64::from(n);
    let read = ask(Registers::read(lba, STEP), &[])?;
    let expected: Vec<_> = (lba..lba + u64::from(STEP)).map(|lba| BASE.content(lba)).collect();
    let bytes = &read.data()[..usize::from(STEP) * 512];
    assert_eq!(judge::contents(&expected, lba, bytes), Ok(()));
    ask(Registers::write(100, STEP), &[n; 2 * 512])?;
    Some(())
}

#[test]
fn an_interface_that_changes_is_dealt_anew() {
    for link in LINKS.into_iter().filter(|link| *link != "pnet") {
        let Some((_lab, site)) = site("an_interface_that_changes_is_dealt_anew", 1500) else {
            return;
        };
        let mut server = serve(&site, &["--link", link, "--new-clients", "auto"]);
        let netns = |words: &[&str]| site.segment.server().ip(words);
        for (change, act) in [
            ("nothing", &(|| ()) as &dyn Fn()),
            ("down and up", &|| {
                netns(&["link", "set", Segment::SERVER, "down"]);
                std::thread::sleep(Duration::from_millis(400));
                netns(&["link", "set", Segment::SERVER, "up"]);
            }),
            ("a larger MTU", &|| site.segment.set_mtu(9000)),
            ("another address", &|| {
                netns(&["link", "set", Segment::SERVER, "address", "02:ee:00:00:00:01"]);
            }),
            ("a new interface", &|| site.segment.replug()),
        ] {
            act();
            // All of them are answered, by whomever, and then by those who have their disks.
            let until = Instant::now() + PATIENCE;
            // Short at first, as the first try often comes too early; a busy machine needs longer.
            let mut patience = SILENCE;
            loop {
                let before = status(&site);
                let are_served = (0..MACHINES).all(|n| visit(&site, n, patience).is_some());
                let after = status(&site);
                let grown = |name| sum(&after, name) - sum(&before, name);
                let both = |name: &str| {
                    let (after, before) = (each(&after, name), each(&before, name));
                    after.iter().zip(&before).all(|(after, before)| after > before)
                };
                if are_served
                    && grown("handed_over") <= 2
                    && both("frames_received")
                    && both("requests")
                {
                    break;
                }
                patience = (patience * 2).min(PATIENCE / 10);
                server.assert_running();
                assert!(
                    Instant::now() < until,
                    "{link}, {change}: {} {}",
                    before["workers"],
                    after["workers"]
                );
            }
        }
        assert!(server.terminate().success(), "{}", server.log());
    }
}

#[test]
fn a_linux_client_survives_kills_of_a_server_with_two_workers() {
    let test = "a_linux_client_survives_kills_of_a_server_with_two_workers";
    if !require::met(test, &[UML_INITIATOR]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (finished, golden) = lab.attempt(|dir| {
        let serve = |segment: &Segment, dir: &Path| {
            let golden = dir.join(scenario::GOLDEN).display().to_string();
            let words = ["--workers", "2", "--new-clients", "auto", "--durability", "writeback"];
            target::cowblade(segment, dir, &[&[golden.as_str()], &words[..]].concat())
        };
        let finished = scenario::crashes(&lab, dir, 9000, serve)?;
        Ok((finished, scenario::golden_unchanged(dir)))
    });
    for guest in &finished {
        guest.assert_success();
    }
    assert_eq!(golden, Ok(()));
}
