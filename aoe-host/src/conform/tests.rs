//! Whole runs against our own target in memory, in virtual time.

use core::cell::RefCell;
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;

use aoe_proto::conformance::{Action, LOW_MTU, Needs, Record, RunConfig, Severity, Timing, Window};
use aoe_proto::target::AtaText;
use aoe_proto::{
    AtaError, Disk, Identity, Incoming, LinkLimits, SectorRange, Target, TargetConfig, TargetState,
    serve,
};

use super::*;
use crate::error::{ErrorKind, HostError, Result};
use crate::values::{Address, Mac};

mod trouble;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const SECOND: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
const SERVER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SECTORS: u64 = 200;
const MTU: u16 = 9000;

struct MemoryDisk(Vec<u8>);

impl MemoryDisk {
    fn part(&mut self, range: SectorRange) -> &mut [u8] {
        let start = usize::try_from(range.byte_offset()).unwrap();
        &mut self.0[start..start + range.len_bytes()]
    }
}

impl Disk for MemoryDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> core::result::Result<(), AtaError> {
        data.copy_from_slice(self.part(range));
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> core::result::Result<(), AtaError> {
        self.part(range).copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> core::result::Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, range: SectorRange) -> core::result::Result<(), AtaError> {
        self.part(range).fill(0);
        Ok(())
    }
}

/// The target and what is under way from it.
struct World {
    target: Target,
    disk: MemoryDisk,
    link: LinkLimits,
    arriving: VecDeque<Vec<u8>>,
    now_ms: u64,
    dead: bool,
    /// It ends when a member of the mask list is deleted, as vblade does.
    dies_at_deletion: bool,
    /// Another machine that answers whatever this one answers.
    double: Option<Mac>,
}

impl World {
    fn advertise(&mut self) {
        let destinations: Vec<Mac> = self.target.audience().collect();
        for to in destinations {
            let mut buf = vec![0xa5; self.link.frame_len_max()];
            let reply = self.target.advertisement(to, SERVER, self.link);
            let len = self.target.emit(&reply, &mut buf).unwrap();
            self.arriving.push_back(buf[..len].to_vec());
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let frame = match frame.get(12..16) {
            Some([0x81, 0, _, 0]) => [&frame[..12], &frame[16..]].concat(),
            Some([0x81, 0, ..]) => return,
            _ => frame.to_vec(),
        };
        if self.dies_at_deletion && frame.get(19) == Some(&2) && frame.get(29) == Some(&2) {
            self.dead = true;
            return;
        }
        let Ok(request) = Incoming::parse(&frame, SERVER) else { return };
        let action = self.target.handle(&request, self.link);
        let mut buf = vec![0xa5; self.link.frame_len_max()];
        let len = serve(&self.target, action, &mut self.disk, &mut buf).unwrap();
        let answer = len.map(|len| buf[..len].to_vec());
        let second = self.double.zip(answer.clone()).map(|(mac, mut answer)| {
            answer[6..12].copy_from_slice(&mac.0);
            answer
        });
        self.arriving.extend(answer);
        self.arriving.extend(second);
    }
}

/// One handle for the wire, another for the stage.
#[derive(Clone)]
struct Shared(Rc<RefCell<World>>);

impl Shared {
    fn new() -> Self {
        let address = Address::new(7, 3).unwrap();
        let identity = Identity {
            serial: AtaText::new("CONFORM-1").unwrap(),
            revision: AtaText::new("1").unwrap(),
            model: AtaText::new("target in memory").unwrap(),
            wwn: Some(0x5000_0000_0000_0001),
        };
        let config = TargetConfig { identity, ..TargetConfig::new(address, SECTORS) };
        let target = Target::new(config).unwrap();
        let disk = (0..SECTORS * 512).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]);
        Self(Rc::new(RefCell::new(World {
            target,
            disk: MemoryDisk(disk.collect()),
            link: LinkLimits::for_mtu(usize::from(MTU)).unwrap(),
            arriving: VecDeque::new(),
            now_ms: 0,
            dead: false,
            dies_at_deletion: false,
            double: None,
        })))
    }

    fn snapshot(&self) -> (TargetState, Vec<u8>, usize) {
        let world = self.0.borrow();
        (world.target.state().clone(), world.disk.0.clone(), world.link.frame_len_max())
    }
}

impl Wire for Shared {
    fn now_ms(&self) -> u64 {
        self.0.borrow().now_ms
    }

    fn send(&mut self, frame: &[u8]) {
        let mut world = self.0.borrow_mut();
        if !world.dead {
            world.take(frame);
        }
    }

    fn wait(&mut self, until_ms: u64, sink: &mut dyn FnMut(Arrived<'_>)) -> Result<()> {
        let mut world = self.0.borrow_mut();
        if world.arriving.is_empty() {
            world.now_ms = world.now_ms.max(until_ms);
        }
        let at_ms = world.now_ms;
        for frame in world.arriving.drain(..) {
            sink(Arrived { frame: &frame, vlan: None, at_ms });
        }
        Ok(())
    }
}

impl Stage for Shared {
    fn begin(&mut self, action: Action) -> bool {
        let mut world = self.0.borrow_mut();
        match action {
            Action::LowerMtu => world.link = LinkLimits::for_mtu(LOW_MTU.into()).unwrap(),
            Action::RestoreMtu => world.link = LinkLimits::for_mtu(MTU.into()).unwrap(),
            Action::Restart | Action::Crash | Action::LinkDownUp | Action::Revive => {
                if world.dead {
                    world.dead = false;
                    world.target.state_mut().clear_mask();
                }
                world.advertise();
            }
        }
        true
    }

    fn poll(&mut self) -> Option<bool> {
        Some(true)
    }
}

#[derive(Default)]
struct MemoryLedger {
    records: Option<Vec<u8>>,
    fails: Option<ErrorKind>,
}

impl Ledger for MemoryLedger {
    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if let Some(kind) = self.fails {
            return Err(HostError::new(kind, "keep the journal"));
        }
        let bytes = journal::encoded(record).unwrap();
        self.records.get_or_insert_default().extend(bytes);
        if *record == Record::Restored { self.finish() } else { Ok(()) }
    }

    fn pending(&self) -> Option<&[u8]> {
        self.records.as_deref()
    }

    fn finish(&mut self) -> Result<()> {
        self.records = None;
        Ok(())
    }
}

fn everything() -> Plan {
    let address = Address::new(7, 3).unwrap();
    let window = Window { lba: SECTORS - 64, sectors: 64 };
    // In virtual time patience costs nothing.
    let timing = Timing { answer_ms: 400, ..Timing::default() };
    let config = RunConfig {
        second_mac: Some(SECOND),
        window: Some(window),
        timing,
        ..RunConfig::new(address, OWN, MTU)
    };
    Plan { config, choice: Choice::default(), permitted: Needs::ALL }
}

/// Runs a plan and interrupts it at its turn number `turns`.
fn run(plan: &Plan, shared: &Shared, ledger: &mut MemoryLedger, turns: usize) -> Result<RunReport> {
    let (mut wire, mut stage) = (shared.clone(), shared.clone());
    let mut left = turns;
    conduct(
        plan,
        &mut Sides {
            wire: &mut wire,
            stage: &mut stage,
            ledger,
            watcher: &mut |_| {},
            interrupted: &mut || {
                left = left.saturating_sub(1);
                left == 0
            },
        },
    )
}

#[test]
fn a_whole_run_and_its_reports() {
    let shared = Shared::new();
    let before = shared.snapshot();
    let mut ledger = MemoryLedger::default();
    let report = run(&everything(), &shared, &mut ledger, usize::MAX).unwrap();
    for case in &report.cases {
        assert_ne!(case.result, CaseResult::Failed, "{}", failure_text(case));
        assert_ne!(case.restored, Some(false), "{}", case.id);
    }
    assert_eq!(
        (report.ended, report.cases.len()),
        (Ended::Finished, everything().choice.cases().len())
    );
    assert!(shared.snapshot() == before && ledger.pending().is_none());
    assert!(!report.has_failed(true) && report.warnings.is_empty(), "{:?}", report.warnings);

    let json: serde_json::Value =
        serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["format"], "cowblade-conformance-1");
    assert_eq!(json["target"]["address"], "e7.3");
    assert_eq!(json["counts"]["passed"], report.counts.passed);
    assert_eq!(json["cases"].as_array().unwrap().len(), report.cases.len());
    let text = render(&report, true);
    for case in &report.cases {
        assert!(text.contains(case.id), "{}", case.id);
    }
}

#[test]
fn what_was_not_permitted_is_told_with_the_option_that_permits_it() {
    let mut plan = everything();
    plan.permitted = Needs::HARMLESS;
    plan.choice.topics = vec![aoe_proto::conformance::Topic::Vlan];
    let report = run(&plan, &Shared::new(), &mut MemoryLedger::default(), usize::MAX).unwrap();
    let text = render(&report, false);
    assert!(text.contains("skipped for want of, or because of"), "{text}");
    assert!(
        text.lines().any(|line| line.split_whitespace().eq(["4", "cases:", "--vlan"])),
        "{text}"
    );
    let text = render(
        &run(&everything(), &Shared::new(), &mut MemoryLedger::default(), usize::MAX).unwrap(),
        false,
    );
    assert!(!text.contains("--"), "{text}");
}

#[test]
fn failures_are_shown_with_their_frames_everywhere() {
    let shared = Shared::new();
    shared.0.borrow_mut().dead = true;
    let mut plan = everything();
    plan.permitted = Needs::HARMLESS;
    assert!(scout(&plan.config, &mut shared.clone(), &mut || false).unwrap().is_none());
    let report = run(&plan, &shared, &mut MemoryLedger::default(), usize::MAX).unwrap();
    assert_eq!((report.ended, report.cases.len()), (Ended::NoAnswer, 0));

    shared.0.borrow_mut().dead = false;
    let facts = scout(&plan.config, &mut shared.clone(), &mut || false).unwrap().unwrap();
    assert_eq!((facts.target_mac, facts.sectors), (SERVER, Some(SECTORS)));
    // It dies after a while: a long list of failures and skips.
    plan.choice.topics = vec![aoe_proto::conformance::Topic::Identify];
    let mut wire = shared.clone();
    let report = conduct(
        &plan,
        &mut Sides {
            wire: &mut wire,
            stage: &mut Commands::new(Vec::new(), plan.config.address, 1500, Duration::ZERO),
            ledger: &mut MemoryLedger::default(),
            watcher: &mut |progress| {
                if let Progress::Started(case, number, _) = progress {
                    let dies = number > 10 && case.severity == Severity::Must;
                    shared.0.borrow_mut().dead |= dies;
                }
            },
            interrupted: &mut || false,
        },
    )
    .unwrap();
    assert_eq!(report.counts.failed_must, 1, "{:?}", report.counts);
    assert!(report.counts.skipped > 1 && report.has_failed(false));
    let text = render(&report, false);
    assert!(text.contains("nothing received") && text.contains("ATA command"), "{text}");
    for strict in [false, true] {
        let xml = junit(&report, strict);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let tests = |name| document.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!(tests("testcase"), report.cases.len());
        assert_eq!((tests("failure"), tests("skipped")), (1, report.counts.skipped));
        let root = document.root_element();
        assert_eq!(root.attribute("failures"), Some("1"));
        assert_eq!(root.attribute("tests").unwrap(), report.cases.len().to_string());
    }
}

#[test]
fn an_interrupted_run_puts_everything_back() {
    let turns = {
        let mut turns = 0;
        let shared = Shared::new();
        let (mut wire, mut stage) = (shared.clone(), shared.clone());
        conduct(
            &everything(),
            &mut Sides {
                wire: &mut wire,
                stage: &mut stage,
                ledger: &mut MemoryLedger::default(),
                watcher: &mut |_| {},
                interrupted: &mut || {
                    turns += 1;
                    false
                },
            },
        )
        .unwrap();
        turns
    };
    let mut altered = 0;
    for turns in (1..turns).step_by(turns / 150) {
        let shared = Shared::new();
        shared.0.borrow_mut().target.state_mut().set_config_string(b"mine").unwrap();
        let before = shared.snapshot();
        let mut ledger = MemoryLedger::default();
        let (mut wire, mut stage) = (shared.clone(), shared.clone());
        let mut left = turns;
        let report = conduct(
            &everything(),
            &mut Sides {
                wire: &mut wire,
                stage: &mut stage,
                ledger: &mut ledger,
                watcher: &mut |progress| {
                    if matches!(progress, Progress::Undoing) {
                        altered += usize::from(shared.snapshot() != before);
                    }
                },
                interrupted: &mut || {
                    left -= 1;
                    left == 0
                },
            },
        )
        .unwrap();
        assert_eq!(report.ended, Ended::Interrupted);
        assert!(shared.snapshot() == before, "interrupted at turn {turns}");
        assert!(ledger.pending().is_none() && report.warnings.is_empty(), "{:?}", report.warnings);
    }
    assert!(altered > 10, "only {altered} interruptions left something to put back");
}

#[test]
fn without_a_journal_nothing_is_altered() {
    let shared = Shared::new();
    let before = shared.snapshot();
    let mut ledger = MemoryLedger { fails: Some(ErrorKind::Full), ..MemoryLedger::default() };
    let report = run(&everything(), &shared, &mut ledger, usize::MAX).unwrap();
    assert!(shared.snapshot() == before);
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.counts.skipped > 20 && report.counts.passed > 20, "{:?}", report.counts);

    let mut ledger = MemoryLedger { fails: Some(ErrorKind::AlreadyExists), ..ledger };
    let error = run(&everything(), &shared, &mut ledger, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "another run began meanwhile");
}

#[test]
fn another_machine_with_the_same_address_is_not_put_back() {
    let shared = Shared::new();
    shared.0.borrow_mut().target.state_mut().set_config_string(b"theirs").unwrap();
    let address = Address::new(7, 3).unwrap();
    let mut bytes = Vec::new();
    for record in [
        Record::Run { address, target_mac: Mac([2, 0, 0, 0, 0, 0x77]) },
        Record::ConfigString(b"mine"),
    ] {
        bytes.extend(journal::encoded(&record).unwrap());
    }
    let undone = undo(&everything().config, &bytes, &mut shared.clone()).unwrap();
    assert_eq!(undone.result, aoe_proto::conformance::RestoreResult::NoAnswer);
    assert_eq!(shared.snapshot().0.config_string(), b"theirs");
}

/// Replays all clients and interrupts them at turn number `turns`.
fn play(shared: &Shared, ledger: &mut MemoryLedger, turns: usize) -> ClientsReport {
    let mut wire = shared.clone();
    let config = everything().config;
    let mut left = turns;
    play_clients(
        &config,
        3000,
        &mut Sides {
            wire: &mut wire,
            stage: &mut Commands::new(Vec::new(), config.address, 1500, Duration::ZERO),
            ledger,
            watcher: &mut |_| {},
            interrupted: &mut || {
                left = left.saturating_sub(1);
                left == 0
            },
        },
    )
    .unwrap()
}

#[test]
fn clients_are_replayed_and_leave_nothing_behind() {
    let shared = Shared::new();
    let before = shared.snapshot();
    let mut ledger = MemoryLedger::default();
    let report = play(&shared, &mut ledger, usize::MAX);
    assert!(!report.interrupted && ledger.pending().is_none());
    assert_eq!(report.clients.len(), aoe_proto::profiles::Client::ALL.len());
    for client in &report.clients {
        // The disk is too small for the cylinders of WinAoE.
        let usable = client.id != "winaoe";
        assert_eq!(client.is_usable(false), usable, "{}: {:?}", client.name, client.reasons);
        assert_ne!(client.restored, Some(false), "{}", client.name);
    }
    assert!(shared.snapshot() == before && !report.all_usable(false));
    assert!(report.clients.iter().filter(|client| client.restored == Some(true)).count() > 1);

    let mut interrupted = 0;
    for turns in (1..).step_by(37) {
        let report = play(&shared, &mut ledger, turns);
        assert!(shared.snapshot() == before && ledger.pending().is_none(), "at turn {turns}");
        if !report.interrupted {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 10, "only {interrupted} interruptions");
}

#[test]
fn what_clients_meet_is_told_in_every_form() {
    let shared = Shared::new();
    let mut report = play(&shared, &mut MemoryLedger::default(), usize::MAX);
    report.clients.retain(|client| matches!(client.id, "winaoe" | "linux"));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["format"], "cowblade-conformance-clients-1");
    let winaoe = json["clients"].as_array().unwrap().iter().find(|c| c["id"] == "winaoe").unwrap();
    assert_eq!(winaoe["reasons"][0]["id"], "too-small");
    assert_eq!(winaoe["reasons"][0]["section"], "6");

    let xml = clients_junit(&report, false);
    let document = roxmltree::Document::parse(&xml).unwrap();
    let count = |tag: &str| document.descendants().filter(|node| node.has_tag_name(tag)).count();
    assert_eq!((count("testcase"), count("failure")), (2, 1), "{xml}");
    let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
    assert_eq!(failure.attribute("message"), Some("WinAoE/WinVBlock: fails"));
    let text = failure.text().unwrap();
    assert!(text.contains("one cylinder") && text.contains("[AoE 6]"), "{text}");
    assert!(text.contains("received, 548 bytes") && text.contains("IDENTIFY"), "{text}");
    let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
    assert_eq!((suite.attribute("tests"), suite.attribute("failures")), (Some("2"), Some("1")));
}

#[test]
fn a_journal_that_fails_keeps_clients_from_writing() {
    let shared = Shared::new();
    let before = shared.snapshot();
    let mut ledger = MemoryLedger { fails: Some(ErrorKind::Io), ..MemoryLedger::default() };
    let report = play(&shared, &mut ledger, usize::MAX);
    assert!(shared.snapshot() == before);
    assert!(report.warnings[0].contains("nothing is written"), "{:?}", report.warnings);
    assert!(ledger.pending().is_none(), "nothing is left to be put back");
    assert!(report.clients.iter().all(|client| client.restored.is_none()));
    let mut ledger = MemoryLedger { fails: Some(ErrorKind::InUse), ..MemoryLedger::default() };
    let (mut wire, config) = (shared.clone(), everything().config);
    let mut sides = Sides {
        wire: &mut wire,
        stage: &mut Commands::new(Vec::new(), config.address, 1500, Duration::ZERO),
        ledger: &mut ledger,
        watcher: &mut |_| {},
        interrupted: &mut || false,
    };
    assert_eq!(play_clients(&config, 3000, &mut sides).unwrap_err().kind(), ErrorKind::InUse);
}
