//! The conformance harness against our own target, in process and in virtual time; and against
//! targets that are broken on purpose, each of which has to be caught by the case meant for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod defects;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use aoe_proto::conformance::{
    ALL, Argument, Case, Ended, Needs, RestoreResult, Restored, Selection, Severity, Step,
    Stimulus, Unfit, Why, Window,
};

use defects::{Defect, HONEST};
use world::{End, Lossy, Pace, Server, config, restore, run};

static OUR_OWN: Defect = HONEST;

fn everything() -> Selection<'static> {
    Selection { permitted: Needs::ALL, ..Selection::default() }
}

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

#[test]
fn our_own_target_passes() {
    for (mtu, skipped_max) in [(1500, 5), (9000, 0)] {
        let mut server = Server::new(mtu, &OUR_OWN);
        let before = server.disk.clone();
        let start = Instant::now();
        let report =
            run(&mut server, config(mtu), everything(), &mut { Lossy::NOTHING }, usize::MAX);
        println!(
            "MTU {mtu}: {} cases, {} frames, {:?}, {} ms of virtual time: {:?}",
            report.ends.len(),
            report.frames,
            start.elapsed(),
            report.virtual_ms,
            report.summary,
        );
        let mut skipped = 0;
        for (case, end, restored) in &report.ends {
            match end {
                End::Failed(why) => panic!("{}: {why}", case.id),
                End::Skipped(why) => {
                    println!("{}: skipped, {why}", case.id);
                    skipped += 1;
                }
                End::Passed { .. } => {}
            }
            assert!(!matches!(restored, Restored::No(_)), "{}: not restored", case.id);
        }
        assert!(skipped <= skipped_max, "{skipped} cases skipped");
        assert_eq!(report.ends.len(), cases().count());
        assert_eq!(report.summary.ended, Ended::Finished);
        assert_eq!(report.summary.not_restored, None);
        assert!(server.disk == before, "the disk is as before");
        assert_eq!(server.target.state(), &aoe_proto::TargetState::new());
    }
}

#[test]
fn a_lossy_wire_gives_no_failure() {
    for seed in 0..20 {
        let mut server = Server::new(1500, &OUR_OWN);
        let mut config = config(1500);
        config.timing.tries = 16;
        let mut loss = Lossy::one_of(10, seed);
        let report = run(&mut server, config, everything(), &mut loss, usize::MAX);
        for (case, end, _) in &report.ends {
            // A round as large as the window does not get through such a wire as a whole.
            let round = case.steps.iter().any(|step| matches!(step, Step::Flood { .. }));
            if !round {
                assert!(!matches!(end, End::Failed(_)), "seed {seed}: {} {end:?}", case.id);
            }
        }
        assert_eq!(report.summary.not_restored, None);
    }
}

/// A run against our own target at another pace: the cases that failed.
fn failures_at(pace: Pace) -> Vec<&'static str> {
    let mut server = Server::new(1500, &OUR_OWN);
    let promised = usize::from(server.target.config().buffer_count);
    assert!(promised >= pace.room, "a target keeps what it promised");
    server.pace = pace;
    let report = run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, usize::MAX);
    println!("{pace:?}: {} ms of virtual time", report.virtual_ms);
    assert_eq!(report.ends.len(), cases().count());
    assert_eq!(report.summary.not_restored, None);
    report.failures().collect()
}

#[test]
fn a_slow_target_is_no_worse_than_a_prompt_one() {
    // Its queue is as long as its buffer count, and a full one takes longer than any single wait.
    for frame_ms in [5, 30, 60] {
        let slow = Pace { frame_ms, room: 16, pause: None };
        assert_eq!(failures_at(slow), [""; 0]);
    }
}

#[test]
fn a_machine_that_stops_for_a_while_is_no_worse_than_another() {
    for (every, ms) in [(23, 700), (61, 1500), (197, 2500)] {
        let halting = Pace { frame_ms: 1, room: 16, pause: Some((every, ms)) };
        assert_eq!(failures_at(halting), [""; 0]);
    }
}

#[test]
fn what_was_there_before_is_put_back() {
    let mut server = Server::new(1500, &OUR_OWN);
    server.target.state_mut().set_config_string(b"mine").unwrap();
    let strangers = (1..4).map(|n| [2, 0, 0, 0, 1, n]);
    let ours = [world::OWN.0, world::SECOND.0];
    for mac in ours.into_iter().chain(strangers) {
        let edit = [&[0, 1, 0, 1, 0, 1][..], &mac].concat();
        server.honest(&request(2, &edit));
    }
    server.honest(&request(3, &[&[2, 2][..], &world::OWN.0, &world::SECOND.0].concat()));
    let (disk, state) = (server.disk.clone(), server.target.state().clone());
    assert_eq!((state.mask().len(), state.reservation().len()), (5, 2));
    let report = run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, usize::MAX);
    for (case, end, restored) in &report.ends {
        assert!(!matches!(end, End::Failed(_)), "{} {end:?}", case.id);
        assert!(!matches!(restored, Restored::No(_)), "{}", case.id);
    }
    let after = server.target.state();
    assert_eq!(after.config_string(), b"mine");
    let sorted = |macs: &[aoe_proto::Mac]| macs.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(sorted(after.mask()), sorted(state.mask()));
    assert_eq!(sorted(after.reservation()), sorted(state.reservation()));
    assert!(server.disk == disk);
}

/// A request of our own, without padding.
fn request(command: u8, argument: &[u8]) -> Vec<u8> {
    let mut frame = [&world::SERVER.0[..], &world::OWN.0, &[0x88, 0xa2, 0x10, 0, 0, 7, 3]].concat();
    frame.push(command);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(argument);
    frame
}

#[test]
fn a_killed_run_is_undone_by_its_journal() {
    let whole = {
        let mut server = Server::new(1500, &OUR_OWN);
        run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, usize::MAX)
    };
    assert_eq!(world::journal_kinds(&whole.journal), 4);
    let mut altered = 0;
    for events in (1..).map(|n| n * 11).take_while(|events| *events < whole.frames) {
        let mut server = Server::new(1500, &OUR_OWN);
        server.target.state_mut().set_config_string(b"mine").unwrap();
        let (disk, state) = (server.disk.clone(), server.target.state().clone());
        let report = run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, events);
        altered += usize::from(server.disk != disk || server.target.state() != &state);
        if report.journal.is_empty() {
            continue;
        }
        let result = restore(&mut server, config(1500), &report.journal);
        assert_eq!(result, RestoreResult::Restored, "killed after {events} events");
        assert!(server.disk == disk, "killed after {events} events");
        assert_eq!(server.target.state(), &state, "killed after {events} events");
    }
    assert!(altered > 5, "only {altered} of the kills left something to undo");
}

#[test]
fn every_defect_is_caught_by_its_case() {
    let caught = |case: &&Case| defects::all().any(|defect| defect.caught_by == case.id);
    let must = || cases().filter(|case| case.severity == Severity::Must);
    let unproved: Vec<_> = must().filter(|case| !caught(case)).map(|case| case.id).collect();
    assert!(unproved.is_empty(), "must cases that nothing proves able to fail: {unproved:?}");
    let mut missed = Vec::new();
    for defect in defects::all() {
        let mut server = Server::new(9000, defect);
        let report =
            run(&mut server, config(9000), everything(), &mut { Lossy::NOTHING }, usize::MAX);
        if report.ends.is_empty() {
            missed.push(format!("{} ends the run: {:?}", defect.name, report.summary));
            continue;
        }
        let mut end = report.end(defect.caught_by).clone();
        if end == End::Skipped(Why::NotRestored) {
            // It spoils what the harness puts things back with, so an earlier case ended the changes.
            let selection = Selection { ids: &[defect.caught_by], ..everything() };
            let mut server = Server::new(9000, defect);
            let alone =
                run(&mut server, config(9000), selection, &mut { Lossy::NOTHING }, usize::MAX);
            end = alone.end(defect.caught_by).clone();
        }
        if !matches!(end, End::Failed(_)) {
            missed.push(format!("{} by {}: {end:?}", defect.name, defect.caught_by));
        }
        let others: Vec<_> = report.failures().filter(|id| *id != defect.caught_by).collect();
        println!("{}: caught by {} and {others:?}", defect.name, defect.caught_by);
        assert_eq!(report.ends.len(), cases().count(), "{}: every case has a verdict", defect.name);
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_target_that_died_without_a_launcher_ends_the_run() {
    let died = defects::all().find(|defect| defect.name == "ends at a deletion").unwrap();
    let selection =
        Selection { permitted: Needs::ALL.without(Needs::ACTION), ..Selection::default() };
    let mut server = Server::new(1500, died);
    let report = run(&mut server, config(1500), selection, &mut { Lossy::NOTHING }, usize::MAX);
    // It ends while the first case with a mask puts things back.
    assert!(matches!(report.end("version.two.masked"), End::Passed { .. }));
    assert_eq!(
        (report.died.as_slice(), report.summary.died_restoring),
        (&["version.two.masked"][..], 1)
    );
    assert_eq!(*report.end("mask.delete"), End::Skipped(Why::Gone));
    assert!(report.summary.not_restored.is_some(), "nobody can tell");
    let selection = Selection { ids: &["mask.delete"], ..selection };
    let mut server = Server::new(1500, died);
    let report = run(&mut server, config(1500), selection, &mut { Lossy::NOTHING }, usize::MAX);
    assert!(matches!(report.end("mask.delete"), End::Failed(_)));
}

#[test]
fn a_target_that_dies_at_a_deletion_fails_what_is_about_deletions_and_nothing_else() {
    let died = defects::all().find(|defect| defect.name == "ends at a deletion").unwrap();
    let mut server = Server::new(1500, died);
    let report = run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, usize::MAX);
    let deletes = |case: &&Case| {
        let edits = case.steps.iter().flat_map(stimuli).filter_map(|stimulus| {
            let Argument::Mask(mask) = stimulus.argument else { return None };
            mask.directives.at(0)
        });
        edits.into_iter().any(|(dcmd, _)| dcmd == 2)
    };
    let about: Vec<_> = cases().filter(deletes).map(|case| case.id).collect();
    assert_eq!(report.failures().collect::<Vec<_>>(), about);
    assert!(about.contains(&"mask.delete"), "{about:?}");
    assert!(report.died.contains(&"mask.silence") && report.died.len() > 10, "{:?}", report.died);
    assert_eq!(report.summary.died_restoring, report.died.len());
    assert_eq!(report.summary.not_restored, None, "a tester revives it, and all is put back");
}

#[test]
fn a_small_disk_or_window_is_no_defect() {
    for (sectors, window) in
        [(1, 1), (2, 1), (3, 2), (5, 4), (16, 16), (90, 1), (90, 2), (90, 3), (300, 4), (300, 6)]
    {
        for mtu in [1500, 9000] {
            let mut server = Server::with_disk(mtu, &OUR_OWN, sectors);
            let mut config = config(mtu);
            config.window = Some(Window { lba: sectors - u64::from(window), sectors: window });
            let report =
                run(&mut server, config, everything(), &mut { Lossy::NOTHING }, usize::MAX);
            let failures: Vec<_> = report.failures().map(|id| (id, report.end(id))).collect();
            assert!(failures.is_empty(), "{sectors}, window {window}: {failures:?}");
        }
    }
}

/// Cases that are skipped because a window in the middle of the disk is not large enough.
fn skipped_for_the_window(mtu: usize, sectors: u16) -> usize {
    let mut server = Server::new(mtu, &OUR_OWN);
    let mut config = config(mtu);
    config.window = Some(Window { lba: 100, sectors });
    let report = run(&mut server, config, everything(), &mut { Lossy::NOTHING }, usize::MAX);
    let small = End::Skipped(Why::Unfit(Unfit::OutsideWindow));
    report.ends.iter().filter(|(_, end, _)| *end == small).count()
}

#[test]
fn the_documented_windows_suffice() {
    // docs/CLI.md: three sectors, and one more than the target takes at once. What is left is the
    // case that needs the last sector of the disk.
    for (mtu, sectors) in [(1500, 3), (9000, 17)] {
        assert_eq!(skipped_for_the_window(mtu, sectors), 1, "MTU {mtu}");
        assert!(skipped_for_the_window(mtu, sectors - 1) > 1, "MTU {mtu}");
    }
}

#[test]
fn nobody_answers() {
    let mut server = Server::new(1500, &OUR_OWN);
    server.dead = true;
    let report = run(&mut server, config(1500), everything(), &mut { Lossy::NOTHING }, usize::MAX);
    assert_eq!(report.summary.ended, Ended::NoAnswer);
    assert!(report.ends.is_empty() && report.journal.is_empty());
}

#[test]
fn a_window_at_the_end_of_the_disk_ends_there() {
    for sectors in [1, 2, 4] {
        let mut server = Server::new(1500, &OUR_OWN);
        let size = world::SECTORS;
        let first = size - u64::from(sectors);
        let permitted = Needs::ALL.without(Needs::BEYOND_END);
        let selection = Selection { permitted, ..Selection::default() };
        let mut config = config(1500);
        config.window = Some(Window { lba: first, sectors });
        run(&mut server, config, selection, &mut { Lossy::NOTHING }, usize::MAX);
        let mut writes = 0;
        for frame in server.requests.iter().filter(|frame| frame.len() >= 36 && changes(frame)) {
            if frame[19] != 0 || ![0x30, 0x34].contains(&frame[27]) {
                continue;
            }
            let mut lba = [0; 8];
            lba[..6].copy_from_slice(&frame[28..34]);
            let lba = u64::from_le_bytes(lba);
            let lba = if frame[27] == 0x30 { lba & 0x0fff_ffff } else { lba };
            assert!(lba >= first && lba + u64::from(frame[26]) <= size, "{frame:02x?}");
            writes += 1;
        }
        assert!(writes > 0, "{sectors} sectors");
    }
}

#[test]
fn harmless_means_harmless() {
    let mut server = Server::new(1500, &OUR_OWN);
    let report =
        run(&mut server, config(1500), Selection::default(), &mut { Lossy::NOTHING }, usize::MAX);
    assert!(report.journal.is_empty());
    for frame in &server.requests {
        assert!(!changes(frame), "{frame:02x?}");
        assert_eq!(frame[12..14], [0x88, 0xa2]);
        assert_eq!(frame[6..12], world::OWN.0);
    }
}

/// Whether a frame changes something in a target that looks at nothing but command and operation.
fn changes(frame: &[u8]) -> bool {
    match (frame.get(19), frame.get(24), frame.get(25), frame.get(27), frame.get(29)) {
        (Some(0), _, _, Some(opcode), _) => {
            matches!(opcode, 0x30 | 0x34 | 0xca | 0x35 | 0x3d | 0x06)
        }
        (Some(1), _, _, _, Some(ccmd)) => matches!(ccmd & 15, 3 | 4),
        (Some(2), _, Some(mcmd), ..) => *mcmd == 1,
        (Some(3), Some(rcmd), ..) => matches!(rcmd, 1 | 2),
        _ => false,
    }
}

#[test]
fn cases_are_well_formed() {
    let mut ids = BTreeSet::new();
    for (group, topic) in ALL.iter().zip(aoe_proto::conformance::Topic::ALL) {
        assert!(!group.is_empty(), "{topic:?}");
        for case in *group {
            assert!(ids.insert(case.id), "{} is there twice", case.id);
            assert_eq!(case.topic, *topic, "{}", case.id);
            let first = case.id.split('.').next().unwrap();
            assert_eq!(first, topic.word(), "{}: the first part names the topic", case.id);
            let simple = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(case.id.chars().all(simple), "{}", case.id);
            assert!(case.section.starts_with("AoE "), "{}: {}", case.id, case.section);
            for text in [case.purpose, case.consequence] {
                assert!(!text.is_empty() && text.len() <= 110, "{}: {text}", case.id);
                assert!(!text.ends_with('.'), "{}: {text}", case.id);
            }
            assert!(!case.steps.is_empty(), "{}", case.id);
            check_needs(case);
        }
    }
    for defect in defects::all() {
        assert!(ids.contains(defect.caught_by), "{}", defect.caught_by);
    }
}

fn stimuli(step: &Step) -> Vec<Stimulus> {
    match step {
        Step::Ask(exchange) | Step::Flood { exchange, .. } => vec![exchange.send],
        Step::Burst(list) => list.iter().map(|exchange| exchange.send).collect(),
        Step::Silence { send, .. } => vec![*send],
        Step::Act(_) | Step::Advertisement { .. } => Vec::new(),
    }
}

/// A case names what its frames could change, in the best and in the worst target.
fn check_needs(case: &Case) {
    use aoe_proto::conformance::Who;
    let mut needs = Needs::NONE;
    for step in case.steps {
        if matches!(step, Step::Act(_) | Step::Advertisement { .. }) {
            needs = needs | Needs::ACTION;
        }
        for stimulus in stimuli(step) {
            let command = stimulus.command;
            match stimulus.argument {
                Argument::Ata(ata)
                    if matches!(ata.opcode, 0x30 | 0x34 | 0xca | 0x35 | 0x3d | 6) =>
                {
                    needs = needs | Needs::WRITES;
                }
                Argument::Config(config) if matches!(config.ccmd & 15, 3 | 4) => {
                    needs = needs | Needs::CONFIG;
                }
                Argument::Mask(mask) if mask.mcmd != 0 => needs = needs | Needs::MASK,
                Argument::Reserve(reserve) if reserve.rcmd != 0 => {
                    needs = needs | Needs::RESERVATION;
                }
                Argument::Bytes(bytes) if command < 4 && !bytes.iter().all(|byte| *byte == 0) => {
                    panic!("{}: use the words for commands 0 to 3", case.id);
                }
                _ => {}
            }
            if stimulus.from == Who::Second {
                needs = needs | Needs::SECOND_MAC;
            }
            if !matches!(stimulus.from, Who::Own | Who::Second) {
                needs = needs | Needs::FORGERY;
            }
            if stimulus.to == Who::Broadcast {
                needs = needs | Needs::BROADCAST;
            }
            if matches!(stimulus.cut, aoe_proto::conformance::Cut::At(len) if len < 36) {
                needs = needs | Needs::SHORT_FRAMES;
            }
            if stimulus.vlan.is_some() {
                needs = needs | Needs::VLAN;
            }
        }
    }
    let missing = needs.without(case.needs);
    let surplus = case.needs.without(needs | Needs::OFFERS | Needs::JUMBO | Needs::BEYOND_END);
    let exact = missing == Needs::NONE && surplus == Needs::NONE;
    assert!(exact, "{}: more {missing}, less {surplus}", case.id);
}

/// As a golden image is served.
static READ_ONLY: Defect = Defect { configure: |config| config.read_only = true, ..HONEST };

#[test]
fn a_write_protected_disk_is_no_defect() {
    let mut server = Server::new(9000, &READ_ONLY);
    let before = server.disk.clone();
    let report = run(&mut server, config(9000), everything(), &mut { Lossy::NOTHING }, usize::MAX);
    let mut skipped = 0;
    for (case, end, _) in &report.ends {
        match end {
            End::Failed(why) => panic!("{}: {why}", case.id),
            End::Skipped(why) => {
                let protected =
                    matches!(why, Why::NotOffered(needs) if needs.contains(Needs::WRITES));
                assert!(protected, "{}: {why}", case.id);
                skipped += 1;
            }
            End::Passed { .. } => assert!(!case.needs.contains(Needs::WRITES), "{}", case.id),
        }
    }
    assert!(skipped > 30 && server.disk == before, "{skipped}");
}

/// Slot of the neighbour: the one that cases take for another target's.
const NEIGHBOUR: u8 = 3 ^ 0x21;

/// Another target at the same MAC address, which answers first.
static WITH_NEIGHBOUR: Defect = Defect {
    serve: |server, frame| {
        let meant = frame.get(12..15) == Some(&[0x88, 0xa2, 0x10])
            && frame.len() >= 26
            && [[0, 7, NEIGHBOUR], [0xff, 0xff, NEIGHBOUR], [0, 7, 0xff], [0xff; 3]]
                .iter()
                .any(|address| frame[16..19] == *address);
        let mut answers = Vec::new();
        if meant {
            assert!(!changes(frame), "a neighbour is changed: {frame:02x?}");
            let mut theirs = frame.to_vec();
            theirs[16..19].copy_from_slice(&[0, 7, 3]);
            let state = server.target.state().clone();
            server.target.state_mut().clear_mask();
            answers = server.honest(&theirs);
            server.target.restore(state);
            for answer in &mut answers {
                answer[18] = NEIGHBOUR;
            }
        }
        answers.extend(server.honest(frame));
        answers
    },
    ..HONEST
};

#[test]
fn neighbours_are_neither_changed_nor_taken_for_the_target() {
    for permitted in [Needs::ALL, Needs::ALL.without(Needs::BROADCAST)] {
        let mut server = Server::new(9000, &WITH_NEIGHBOUR);
        let selection = Selection { permitted, ..Selection::default() };
        let report = run(&mut server, config(9000), selection, &mut { Lossy::NOTHING }, usize::MAX);
        let mut left_out = Vec::new();
        for (case, end, _) in &report.ends {
            match end {
                End::Failed(why) => panic!("{}: {why}", case.id),
                End::Skipped(Why::Neighbours) => left_out.push(case.id),
                End::Skipped(_) | End::Passed { .. } => {}
            }
        }
        let expected = ["write", "config-set", "mask-edit", "reserve"];
        assert_eq!(left_out, expected.map(|end| format!("addressing.wildcard.{end}")));
        assert_eq!(server.target.state(), &aoe_proto::TargetState::new());
    }
}
