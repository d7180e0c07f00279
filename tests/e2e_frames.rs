//! Frames of a running server: read by tshark, and provoked by hostile ones.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::Path;

use system_tests::dissector::{self, Dissected};
use system_tests::frames::{Registers, command, config, parse_mac};
use system_tests::hostile::{self, Report};
use system_tests::initiator::Initiator;
use system_tests::judge::{self, Verdict};
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::pattern::{Plan, SECTOR};
use system_tests::raw_socket::RawSocket;
use system_tests::require::{self, Need};
use system_tests::scenario::{self, GOLDEN, GOLDEN_BASE, GOLDEN_SECTORS};
use system_tests::server::{Server, ServerPlan};
use system_tests::target::{LINKS, cowblade, vblade};
use system_tests::wire::Wire;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const ROOT: &[Need] = &[Need::Root, Need::Program("ip")];
const VBLADE: &[Need] = &[Need::Program("vblade")];
const TSHARK: &[Need] = &[Need::Program("tshark")];
/// Sectors in a request at MTU 1500.
const STEP: u8 = 2;

fn ours(segment: &Segment, dir: &Path) -> ServerPlan {
    ours_by("auto", segment, dir)
}

/// Our server, on a link of this kind.
fn ours_by(link: &str, segment: &Segment, dir: &Path) -> ServerPlan {
    let golden = dir.join(GOLDEN).display().to_string();
    cowblade(segment, dir, &[&golden, "--clients", "1", "--link", link])
}

fn theirs(segment: &Segment, dir: &Path) -> ServerPlan {
    vblade(segment, dir, "0.0", &dir.join(GOLDEN), &[])
}

fn find(segment: &Segment) -> Initiator {
    let mac = parse_mac(&Segment::client_mac(0));
    Initiator::find(segment.clients(), &Segment::client(0), mac, (0, 0)).unwrap()
}

/// One exchange of every kind; the tags count up from that of the first request.
fn converse(initiator: &mut Initiator) {
    let data = [0x5a; 1024];
    initiator.request(command::CONFIG, &config(3, 5, b"words")).unwrap();
    initiator.ata(Registers { count: 1, operation: 0xec, ..Registers::default() }, &[]);
    initiator.ata(Registers::write(0x1234, 2), &data);
    initiator.ata(Registers::read(0x1234, 2), &[]);
    initiator.ata(Registers::read(GOLDEN_SECTORS, 2), &[]);
    initiator.ata(Registers { operation: 0xe7, ..Registers::default() }, &[]);
    initiator.request(command::MAC_MASK, &[0, 0, 0, 0]).unwrap();
    initiator.request(command::RESERVE, &[0, 0]).unwrap();
    initiator.request(0x77, &[0; 12]).unwrap();
}

/// Of each response to [`converse`]: command, error flag, error code, ATA status, LBA.
type Answer<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);
const ANSWERS: [Answer<'_>; 9] = [
    ("1", "0", "", "", ""),
    ("0", "0", "", "0x40", "0x0000000000000000"),
    ("0", "0", "", "0x40", "0x0000000000001234"),
    ("0", "0", "", "0x40", "0x0000000000001234"),
    ("0", "0", "", "0x41", "0x0000000000018000"),
    ("0", "0", "", "0x40", "0x0000000000000000"),
    ("2", "0", "", "", ""),
    ("3", "0", "", "", ""),
    ("119", "1", "1", "", ""),
];

fn conversation(lab: &Lab, target: impl Fn(&Segment, &Path) -> ServerPlan) -> Vec<Dissected> {
    let dir = lab.dir();
    scenario::make_golden(dir);
    let segment = Segment::new(1500, 1);
    let capture = dir.join("conversation.pcap");
    let wire = Wire::record(segment.server(), Segment::SERVER, &capture);
    let server = target(&segment, dir).start();
    let mut initiator = find(&segment);
    converse(&mut initiator);
    // The listener ends behind everything that it heard.
    drop((server, wire));
    dissector::dissect(&capture)
}

#[test]
fn tshark_reads_what_we_emit() {
    let test = "tshark_reads_what_we_emit";
    if !require::met(test, &[ROOT, TSHARK]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let frames = conversation(&lab, ours);
    let is_response = |frame: &&Dissected| frame.response == "1";
    // The announcement and the answer to the first query come before the conversation. What was
    // answered late was asked again, and has two answers.
    let mut responses: Vec<&Dissected> = Vec::new();
    for frame in frames.iter().filter(is_response) {
        if responses.iter().all(|earlier| earlier.tag != frame.tag) {
            responses.push(frame);
        }
    }
    let answers = responses.split_at(responses.len() - ANSWERS.len()).1;
    for frame in &responses {
        assert_eq!((frame.shelf.as_str(), frame.slot.as_str()), ("0x0000", "0x00"), "{frame:?}");
        assert_eq!((frame.version.as_str(), frame.malformed.as_str()), ("1", ""), "{frame:?}");
        assert!(frame.length.parse::<u32>().unwrap() >= 60, "{frame:?}");
    }
    for (frame, expected) in answers.iter().zip(ANSWERS) {
        let found: Answer<'_> =
            (&frame.command, &frame.error_flag, &frame.error, &frame.status, &frame.lba);
        assert_eq!(found, expected, "{frame:?}");
        // tshark pairs ATA frames only.
        if frame.command == "0" {
            let request = &frames[frame.response_to.parse::<usize>().unwrap() - 1];
            assert_eq!(request.tag, frame.tag, "{frame:?}");
        }
    }
}

#[test]
fn tshark_reads_what_vblade_emits() {
    let test = "tshark_reads_what_vblade_emits";
    if !require::met(test, &[ROOT, VBLADE, TSHARK]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let frames = conversation(&lab, theirs);
    for frame in &frames {
        println!("{frame:?}");
    }
    let answers = frames.iter().filter(|frame| frame.response == "1").count();
    assert!(answers > ANSWERS.len(), "{frames:?}");
    // Known of vblade 25: its answers are not padded, and a flush returns status 0.
    assert!(frames.iter().any(|frame| frame.length == "32"), "{frames:?}");
}

/// What an attack left behind on a server that still answers.
#[derive(Debug)]
struct Aftermath {
    written: Result<(), Verdict>,
    rest: Result<(), Verdict>,
    control_state_kept: bool,
    grown_kib: u64,
}

/// Writes a disk, attacks its server, reads the disk.
fn attack(
    lab: &Lab,
    frames: u32,
    target: impl Fn(&Segment, &Path) -> ServerPlan,
) -> (Report, Option<Aftermath>) {
    let dir = lab.dir();
    scenario::make_golden(dir);
    let segment = Segment::new(1500, 1);
    let mut server: Server = target(&segment, dir).start();
    let mut initiator = find(&segment);
    let listener = RawSocket::open(segment.clients().name(), &Segment::client(0)).unwrap();
    let sectors = initiator.sectors();
    assert_eq!(sectors, GOLDEN_SECTORS);
    let plan = Plan { seed: 9, first: 0, sectors: 1024, writes: 200, longest: 8 };
    for write in plan.iter() {
        initiator.write(write.lba, &plan.bytes(write), STEP);
    }
    initiator.request(command::CONFIG, &config(4, 4, b"kept")).unwrap();
    // A first round fills whatever tables a server may rightly keep.
    let first = hostile::attack(&mut initiator, &listener, frames / 10, sectors, 1);
    if first.silent_after.is_some() {
        return (first, None);
    }
    let before = server.resident_kib();
    let report = hostile::attack(&mut initiator, &listener, frames, sectors, 2);
    if report.silent_after.is_some() {
        return (report, None);
    }
    let grown_kib = server.resident_kib().saturating_sub(before);
    server.assert_running();
    (report, Some(inspect(&mut initiator, &plan, grown_kib)))
}

fn inspect(initiator: &mut Initiator, plan: &Plan, grown_kib: u64) -> Aftermath {
    let bytes = initiator.read(0, GOLDEN_SECTORS, STEP);
    let (written, rest) = bytes.split_at(1024 * SECTOR);
    let untouched: Vec<_> = (1024..GOLDEN_SECTORS).map(|lba| GOLDEN_BASE.content(lba)).collect();
    let mask = initiator.request(command::MAC_MASK, &[0, 0, 0, 0]).unwrap();
    let reserve = initiator.request(command::RESERVE, &[0, 0]).unwrap();
    Aftermath {
        written: judge::contents(&plan.contents(plan.writes, GOLDEN_BASE), 0, written),
        rest: judge::contents(&untouched, 1024, rest),
        control_state_kept: initiator.config_string() == b"kept"
            && mask.argument().get(3) == Some(&0)
            && reserve.argument().get(1) == Some(&0),
        grown_kib,
    }
}

#[test]
fn hostile_frames_cost_nothing() {
    let test = "hostile_frames_cost_nothing";
    if !require::met(test, &[ROOT]) {
        return;
    }
    for link in LINKS {
        println!("on {link}");
        let lab = Lab::new(test, DISK_WORKER);
        let (report, aftermath) = attack(&lab, 20_000, |segment, dir| ours_by(link, segment, dir));
        assert_eq!(report.answered, [].into(), "answers where silence is due: {report:?}");
        assert_eq!(report.succeeded, [].into(), "lies that were believed: {report:?}");
        let after = aftermath.unwrap_or_else(|| panic!("honest clients are ignored: {report:?}"));
        assert_eq!((&after.written, &after.rest), (&Ok(()), &Ok(())));
        assert!(after.control_state_kept, "{after:?}");
        // A page or two of statistics may come; a leak of 20,000 frames would be megabytes.
        assert!(after.grown_kib < 1024, "{after:?}");
        assert_eq!(scenario::golden_unchanged(lab.dir()), Ok(()));
    }
}

#[test]
fn a_trusting_server_is_caught() {
    let test = "a_trusting_server_is_caught";
    if !require::met(test, &[ROOT, VBLADE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    // vblade 25 executes other hosts' and foreign VLANs' frames, and believes counts.
    let (report, aftermath) = attack(&lab, 20_000, theirs);
    println!("{report:?} {aftermath:?}");
    assert!(!report.answered.is_empty(), "{report:?}");
    assert!(!report.succeeded.is_empty(), "{report:?}");
    assert!(aftermath.is_none_or(|after| after.written.is_err()));
}
