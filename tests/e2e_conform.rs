//! `cowblade conform` on a real wire: against our server, against vblade, killed and interrupted.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use aoe_proto::conformance::{ALL, Case};
use aoe_proto::wire::{AtaArg, Header};
use system_tests::conformance::compare::{Cell, Explanation, Run, check, unexplained};
use system_tests::conformance::document::{
    ClientColumn, Column, cell_text, cells_of, clients_part, defects_part, row_front,
};
use system_tests::conformance::sections::sections_part;
use system_tests::conformance::site::{ADDRESS, ConformSite, Which, at_both};
use system_tests::conformance::{explained, in_process};
use system_tests::dissector::{self, Dissected};
use system_tests::frames::{command, config, parse_mac};
use system_tests::initiator::Initiator;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator::{self, Said};
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::wire::Wire;

const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
const VBLADE: &[Need] = &[Need::Program("vblade")];
const TSHARK: &[Need] = &[Need::Program("tshark")];
const DOCUMENT: &str = include_str!("../docs/CONFORMANCE.md");
/// Topics whose cases alter every kind of state, and need nobody to act.
const ALTERING: [&str; 10] = [
    "--topic", "config", "--topic", "mask", "--topic", "reserve", "--topic", "write", "--topic",
    "ordering",
];

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

/// The committed document says of a target what was found.
fn assert_documented(name: &'static str, runs: [&Run; 2], explanations: &[Explanation]) {
    if let Err(gaps) = check(explanations, &runs) {
        panic!("{name}: {gaps}; see tests/src/conformance/explained.rs");
    }
    let column = Column { name, runs, explanations };
    let written = cells_of(DOCUMENT, name);
    for case in cases() {
        let found = cell_text(case, &column);
        assert_eq!(
            written.get(case.id),
            Some(&found.as_str()),
            "{name}, {}: docs/CONFORMANCE.md is old; tests/conformance-report makes it",
            case.id
        );
    }
}

#[test]
fn the_document_names_every_case_and_every_defect() {
    for case in cases() {
        assert!(
            DOCUMENT.contains(&row_front(case)),
            "{}: docs/CONFORMANCE.md is old; tests/conformance-report makes it",
            case.id
        );
    }
    assert!(
        DOCUMENT.contains(&defects_part(&in_process::defects())),
        "the table of defects is old"
    );
    assert!(DOCUMENT.contains(&sections_part()), "the table of sections is old");
    let runs = [1500, 9000].map(in_process::run);
    let [low, high] = &runs;
    assert_documented("in process", [low, high], &explained::in_process());
}

#[test]
fn our_server_keeps_to_the_protocol() {
    let test = "our_server_keeps_to_the_protocol";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let runs = at_both(|mtu| {
        let site = ConformSite::new(&lab, Which::Cowblade, mtu);
        let before = site.snapshot();
        let junit = site.file("junit.xml");
        // It never leaves a question open: time for an answer costs nothing, and a busy machine needs it.
        let words = ["--answer-time", "4", "--junit", &junit.display().to_string()];
        let found = site.examine(&words);
        println!("MTU {mtu}: {}", found.said.out.lines().last().unwrap_or_default());
        assert_eq!(found.said.code, 0, "{:?}", found.said);
        assert_eq!(found.report["counts"]["failed_must"], 0, "{}", found.said.out);
        assert_eq!(found.report["ended"], "finished");
        assert_eq!(found.report["warnings"].as_array().map(Vec::len), Some(0));
        assert_eq!(found.run.cells.len(), cases().count());
        assert_is_junit(&junit, &found.run);
        assert!(site.snapshot() == before, "the target is as before");
        assert!(site.journals_left().is_empty());
        found.run
    });
    let [low, high] = &runs;
    assert_documented("cowblade serve", [low, high], &explained::cowblade());
}

#[test]
fn vblade_fails_where_it_is_known_to() {
    let test = "vblade_fails_where_it_is_known_to";
    if !require::met(test, &[ROOT, VBLADE]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let runs = at_both(|mtu| {
        let site = ConformSite::new(&lab, Which::Vblade, mtu);
        let before = site.snapshot();
        let junit = site.file("junit.xml");
        // It dies some twenty times, and every time silence has to be waited for.
        let words = ["--answer-time", "0.2", "--junit", &junit.display().to_string()];
        let mut found = site.examine(&words);
        println!("MTU {mtu}: {}", found.said.out.lines().last().unwrap_or_default());
        assert_eq!(found.said.code, 3, "{:?}", found.said);
        assert_is_junit(&junit, &found.run);
        // What puts a mask back is what it dies of: that is not held against the cases.
        let died = found.report["counts"]["died_restoring"].as_u64().unwrap();
        assert!(died > 10 && found.said.out.contains("DIED must   mask.silence"), "{died}");
        assert!(found.run.failures().contains(&"mask.delete"));
        // The frames behind a failure are shown, and the wrong byte is pointed at.
        assert!(found.said.out.contains("[1c]") && found.said.out.contains("version and flags"));
        assert!(site.snapshot() == before, "the target is as before");
        // A busy machine may answer too late: what is not known to fail gets another chance.
        let odd = unexplained(&explained::vblade(), &found.run);
        site.examine_again(&mut found.run, &odd);
        assert!(site.journals_left().is_empty());
        found.run
    });
    let [low, high] = &runs;
    assert_documented("vblade 25", [low, high], &explained::vblade());
}

#[test]
fn clients_fare_as_documented() {
    let test = "clients_fare_as_documented";
    if !require::met(test, &[ROOT, VBLADE]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let reports = [Which::Cowblade, Which::Vblade].map(|which| {
        at_both(|mtu| {
            let site = ConformSite::for_clients(&lab, which, mtu);
            let report = site.clients();
            assert!(site.journals_left().is_empty());
            report
        })
    });
    let [[our_low, our_high], [their_low, their_high]] = &reports;
    for client in [our_low, our_high].iter().flat_map(|r| r["clients"].as_array().unwrap()) {
        let verdict = client["verdict"].as_str().unwrap();
        assert!(matches!(verdict, "works" | "degraded"), "{client:#}");
        assert_ne!(client["restored"], false, "{client:#}");
    }
    let in_process = [1500, 9000].map(in_process::clients);
    let [low, high] = &in_process;
    let columns = [
        ClientColumn { name: "cowblade serve", reports: [our_low, our_high] },
        ClientColumn { name: "in process", reports: [low, high] },
        ClientColumn { name: "vblade 25", reports: [their_low, their_high] },
    ];
    let found = clients_part(&columns);
    // Reasons may name numbers that differ from run to run; verdicts do not.
    for row in found.lines().filter(|line| line.starts_with('|')) {
        assert!(DOCUMENT.contains(row), "{row}: docs/CONFORMANCE.md is old\n{found}");
    }
}

fn assert_is_junit(path: &Path, run: &Run) {
    let text = fs::read_to_string(path).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let tests = document.descendants().filter(|node| node.has_tag_name("testcase"));
    assert_eq!(tests.count(), run.cells.len());
    let failures = document.descendants().filter(|node| node.has_tag_name("failure"));
    let failures: Vec<_> = failures.filter_map(|node| node.parent()?.attribute("name")).collect();
    let errors = document.descendants().filter(|node| node.has_tag_name("error")).count();
    assert_eq!(errors, run.count(Cell::Died.word()));
    assert!(failures.iter().all(|id| run.failures().contains(id)), "{failures:?}");
}

/// Gives the target a string, a mask and holders, all of which admit the harness.
fn prepare(site: &ConformSite) {
    let (shelf, slot) = ADDRESS;
    let (address, interface) = (format!("{shelf}.{slot}"), Segment::client(0));
    let mac_of = |name: &str| {
        let text = site.segment.clients().ip(&["-o", "link", "show", name]);
        let words: Vec<&str> = text.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "link/ether").unwrap();
        words[at + 1].to_owned()
    };
    let (own, other) = (mac_of(&interface), Segment::client_mac(0));
    let say = |words: &[&str]| {
        let words = [words, &["-i", &interface, "--timeout", "60"]].concat();
        operator::cowblade(site.segment.clients(), &words).assert_done();
    };
    say(&["config", "force", &address, "mine"]);
    say(&["reserve", "set", &address, &own, &other]);
    say(&["mask", "add", &address, &own, &other]);
}

/// What can be seen of the state at a glance: a mask that shuts us out gives nothing.
fn glance(site: &ConformSite) -> Option<[Vec<u8>; 3]> {
    let mac = parse_mac(&Segment::client_mac(0));
    let (namespace, interface) = (site.segment.clients(), Segment::client(0));
    let everybody = system_tests::frames::BROADCAST;
    let mut initiator = Initiator::at(namespace, &interface, mac, ADDRESS, everybody);
    let mut ask = |command, argument: &[u8]| {
        let answer = initiator.request_once(command, argument, Duration::from_secs(2))?;
        Some(answer.argument().to_vec())
    };
    Some([
        ask(command::CONFIG, &config(0, 0, &[]))?,
        ask(command::MAC_MASK, &[0; 4])?,
        ask(command::RESERVE, &[0; 2])?,
    ])
}

/// Starts a run and waits until it is about to alter something.
fn altering_run(site: &ConformSite) -> Child {
    let mut child =
        site.everything(&ALTERING).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while site.journals_left().is_empty() {
        assert_goes_on(&mut child);
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn assert_goes_on(child: &mut Child) {
    assert!(child.try_wait().unwrap().is_none(), "the run is over already");
}

fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Lets the run go on until the target is not as it was `before`, and stops it there.
fn stop_when_altered(site: &ConformSite, child: &mut Child, before: Option<&[Vec<u8>; 3]>) {
    loop {
        signal(child, libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert_goes_on(child);
            std::thread::sleep(Duration::from_millis(1));
        }
        if glance(site).as_ref() != before {
            return;
        }
        signal(child, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(5));
        assert_goes_on(child);
    }
}

#[test]
fn a_killed_run_is_undone() {
    let test = "a_killed_run_is_undone";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let site = ConformSite::new(&lab, Which::Cowblade, 1500);
    prepare(&site);
    let (before, seen) = (site.snapshot(), glance(&site));
    assert!(seen.is_some());
    let mut rng = Rng::new(19);
    for round in 0..6 {
        let mut child = altering_run(&site);
        // At any time, and while there is something to put back.
        if round % 2 == 0 {
            std::thread::sleep(Duration::from_millis(rng.below(3000)));
            assert_goes_on(&mut child);
        } else {
            stop_when_altered(&site, &mut child, seen.as_ref());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(site.journals_left().len(), 1, "round {round}");
        let (shelf, slot) = ADDRESS;
        let address = format!("{shelf}.{slot}");
        let again = site.conform(&[&address, "-i", &Segment::client(0), "--answer-time", "0.1"]);
        // A mask that the killed run left may keep everybody out.
        assert!(matches!(again.code, 4 | 5), "{again:?}");
        assert!(again.err.contains("--restore"), "{again:?}");
        site.conform(&["--restore"]).assert_done();
        assert!(site.snapshot() == before, "round {round}");
        assert!(site.journals_left().is_empty(), "round {round}");
    }
    let nothing = site.conform(&["--restore"]).assert_done();
    assert!(nothing.out.contains("nothing is to be put back"), "{nothing:?}");
}

#[test]
fn an_interrupted_run_puts_everything_back() {
    let test = "an_interrupted_run_puts_everything_back";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let site = ConformSite::new(&lab, Which::Cowblade, 1500);
    prepare(&site);
    let before = site.snapshot();
    let mut rng = Rng::new(23);
    for round in 0..3 {
        let mut child = altering_run(&site);
        std::thread::sleep(Duration::from_millis(rng.below(3000)));
        assert_goes_on(&mut child);
        signal(&child, libc::SIGINT);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "round {round}");
        assert!(site.snapshot() == before, "round {round}");
        assert!(site.journals_left().is_empty(), "round {round}");
    }
}

#[test]
fn exit_codes_and_the_lists_of_cases() {
    let test = "exit_codes_and_the_lists_of_cases";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let site = ConformSite::new(&lab, Which::Cowblade, 1500);
    let said = |line: &str, code: i32| -> Said {
        let said = site.conform(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(said.code, code, "{line}: {said:?}");
        said
    };
    let harmless = said("7.3 -i cli0 --json -", 0).json();
    let cases = harmless["cases"].as_array().unwrap();
    assert!(cases.iter().all(|case| case["restored"].is_null()), "nothing was altered");
    assert!(harmless["counts"]["passed"].as_u64().unwrap() > 90, "{}", harmless["counts"]);
    let some = said("7.3 -i cli0 --case header.* --except *.tag* --severity must -v", 0);
    assert!(some.out.contains("header.flags") && !some.out.contains("header.tag"), "{some:?}");
    said("7.3", 2);
    said("-i cli0", 2);
    said("7.3 -i cli0 --case no.such.case", 2);
    said("7.3 -i cli0 --topic header --case config.*", 2);
    said("7.3 -i cli0 --write-window 2000+100", 2);
    said("7.3 -i cli0 --json - --junit -", 2);
    let nobody = said("9.9 -i cli0 --answer-time 0.05", 4);
    assert!(nobody.err.contains("no answer") && nobody.err.contains("discover"), "{nobody:?}");
    said("7.3 -i nowhere0", 4);
    let listed = said("--list --topic vlan", 0);
    assert!(listed.out.contains("vlan.foreign") && !listed.out.contains("mask."), "{listed:?}");
    let listed = said("--list --topic vlan --json -", 0).json();
    assert!(listed.as_array().unwrap().iter().any(|case| case["id"] == "vlan.foreign"));
    said("--explain vlan.foreign --json -", 2);
    said("--list --junit -", 2);
    let failing = said("7.3 -i cli0 --case advertisement.start --action restart=false", 1);
    let why = "--action restart: `false` ended with exit status: 1";
    assert!(failing.err.contains(why) && failing.out.contains(why), "{failing:?}");
    assert!(failing.out.contains("1 case: nobody did this"), "{failing:?}");
    let explained = said("--explain vlan.foreign", 0);
    assert!(explained.out.contains("in VLAN") && explained.out.contains("[AoE "), "{explained:?}");
    let unknown = said("--explain vlan.foreig", 4);
    assert!(unknown.err.contains("is it vlan.foreign"), "{unknown:?}");
    assert!(site.journals_left().is_empty());
}

#[test]
fn a_tester_at_the_terminal_does_what_no_command_does() {
    let test = "a_tester_at_the_terminal_does_what_no_command_does";
    if !require::met(test, &[ROOT]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let site = ConformSite::new(&lab, Which::Cowblade, 1500);
    let words =
        "7.3 -i cli0 --interactive --case advertisement.start --case advertisement.version -v";
    let mut child = site
        .command(&words.split_whitespace().collect::<Vec<_>>())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut asked = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut await_question = || {
        let question = asked.find(|line| line.as_ref().unwrap().contains("Please"));
        assert!(question.unwrap().unwrap().contains("start it again"));
    };
    await_question();
    site.launcher().act("restart");
    keyboard.write_all(b"\n").unwrap();
    await_question();
    keyboard.write_all(b"s\n").unwrap();
    let said = Said::of(&child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("1 passed, 1 skipped"), "{said:?}");
    assert!(said.out.contains("nobody did this: stop the target"), "{said:?}");
}

/// A frame of a capture file as [`Wire::record`] writes it.
fn frames_of(capture: &[u8]) -> Vec<&[u8]> {
    let mut rest = &capture[24..];
    let mut frames = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<16>() {
        let len = usize::try_from(u32::from_le_bytes(head[8..12].try_into().unwrap())).unwrap();
        let (frame, next) = behind.split_at(len);
        frames.push(frame);
        rest = next;
    }
    frames
}

/// As tshark prints it: decimal or hexadecimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Shelf, slot, command, tag, version, and the R and E flags.
fn common(frame: &[u8], theirs: &Dissected) -> Option<([u64; 7], [Option<u64>; 7])> {
    let (header, _) = Header::parse(frame).ok()?;
    let ours = [
        u16::from_be_bytes([frame[16], frame[17]]).into(),
        frame[18].into(),
        u8::from(header.command).into(),
        u32::from_be_bytes(header.tag.0).into(),
        header.version.into(),
        u64::from(header.response),
        u64::from(frame[14] & 4 != 0),
    ];
    let flag = |text: &str| number(text).or(Some(u64::from(text == "True")));
    let theirs = [
        number(&theirs.shelf),
        number(&theirs.slot),
        number(&theirs.command),
        number(&theirs.tag),
        number(&theirs.version),
        flag(&theirs.response),
        flag(&theirs.error_flag),
    ];
    Some((ours, theirs))
}

#[test]
fn tshark_reads_the_stimuli_as_we_do() {
    let test = "tshark_reads_the_stimuli_as_we_do";
    if !require::met(test, &[ROOT, TSHARK]) {
        return;
    }
    let lab = Lab::beside_others(test);
    let site = ConformSite::new(&lab, Which::Cowblade, 1500);
    let capture = lab.dir().join("run.pcap");
    let wire = Wire::record(site.segment.clients(), &Segment::client(0), &capture);
    let found = site.examine(&[]);
    assert_eq!(found.said.code, 0, "{:?}", found.said);
    drop(wire);
    let bytes = fs::read(&capture).unwrap();
    let frames = frames_of(&bytes);
    let dissected = dissector::dissect(&capture);
    assert_eq!(frames.len(), dissected.len(), "tshark takes every frame for AoE");
    let (mut requests, mut ata) = (0, 0);
    for (frame, theirs) in frames.iter().zip(&dissected) {
        assert_eq!(number(&theirs.length), Some(frame.len() as u64));
        let Some((ours, told)) = common(frame, theirs) else { continue };
        if ours[4] != 1 {
            // tshark knows one version, and reads no further.
            assert_eq!(told[4], Some(ours[4]), "{theirs:?}");
            continue;
        }
        assert_eq!(ours.map(Some), told, "{theirs:?}");
        requests += u32::from(ours[5] == 0);
        // A request with the R flag is taken for an answer.
        if ours[2] != 0 || ours[5] == 1 {
            continue;
        }
        let Some((arg, _)) = AtaArg::parse(&frame[24..]) else { continue };
        ata += 1;
        let ours = [u64::from(arg.command_status), arg.count.into(), arg.lba48()];
        let told = [&theirs.operation, &theirs.count, &theirs.lba].map(|text| number(text));
        assert_eq!(ours.map(Some), told, "{theirs:?}");
    }
    println!("{requests} requests, {ata} of them ATA, read alike");
    assert!(requests > 500 && ata > 200, "{requests} {ata}");
}
