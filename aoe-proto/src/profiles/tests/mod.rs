//! The clients against our own target, which works for all of them, and against targets with one
//! defect each, of which the protocol's history tells what each client makes.

mod defects;

use super::Client::{Aoetools, Ipxe, Linux, Plan9, WinAoe};
use super::Level::{Corrupts, Degraded, Fails, Hangs, Works};
use super::*;
use crate::{AtaError, Disk, Incoming, LinkLimits, SectorRange, Target, TargetConfig, serve};
use defects::{ABOUT_ANSWERS, ABOUT_BEHAVIOUR, ABOUT_DATA, ABOUT_PAGES};
use std::collections::{BTreeMap, BTreeSet};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const SERVER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Whole cylinders of 255 x 63: `WinAoE` sees all of it.
const SECTORS: u64 = 2 * 255 * 63;
const WINDOW: Window = Window { lba: SECTORS - 40, sectors: 37 };

/// A disk of which only what was written is kept.
#[derive(Clone, Default)]
struct Sparse {
    written: BTreeMap<u64, [u8; 512]>,
}

fn content(lba: u64) -> [u8; 512] {
    core::array::from_fn(|at| lba.wrapping_mul(31).wrapping_add(at as u64 * 7).to_le_bytes()[0])
}

impl Disk for Sparse {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        for (sector, lba) in data.chunks_mut(512).zip(range.lba()..) {
            sector
                .copy_from_slice(&self.written.get(&lba).copied().unwrap_or_else(|| content(lba)));
        }
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        for (sector, lba) in data.chunks(512).zip(range.lba()..) {
            self.written.insert(lba, sector.try_into().unwrap());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, _: SectorRange) -> Result<(), AtaError> {
        Ok(())
    }
}

impl Sparse {
    fn is_as_before(&self) -> bool {
        self.written.iter().all(|(lba, sector)| *sector == content(*lba))
    }
}

/// A target, and what is wrong with it.
struct World {
    target: Target,
    disk: Sparse,
    link: LinkLimits,
    mtu: u16,
    /// Requests so far.
    requests: usize,
    /// Until an answer arrives.
    delay_ms: u64,
    alter: Alter,
}

/// What a target makes of a request.
type Alter = fn(&mut World, &[u8]) -> Vec<Vec<u8>>;

/// What our own target answers.
fn honest(world: &mut World, frame: &[u8]) -> Vec<Vec<u8>> {
    let Ok(request) = Incoming::parse(frame, SERVER) else { return vec![] };
    let mut buf = vec![0xa5; world.link.frame_len_max()];
    let action = world.target.handle(&request, world.link);
    let len = serve(&world.target, action, &mut world.disk, &mut buf).unwrap();
    len.map(|len| buf[..len].to_vec()).into_iter().collect()
}

fn world(
    mtu: u16,
    configure: fn(&mut TargetConfig),
    alter: fn(&mut World, &[u8]) -> Vec<Vec<u8>>,
) -> World {
    let mut config = TargetConfig::new(Address::new(7, 3).unwrap(), SECTORS);
    configure(&mut config);
    let link = LinkLimits::for_mtu(mtu.into()).unwrap();
    let target = Target::new(config).unwrap();
    World { target, disk: Sparse::default(), link, mtu, requests: 0, delay_ms: 1, alter }
}

/// How a run went.
struct Outcome {
    report: Report,
    records: Vec<&'static str>,
    evidence: (Vec<u8>, Option<Vec<u8>>),
    virtual_ms: u64,
}

impl Outcome {
    fn has(&self, why: Why) -> Option<Level> {
        self.report.causes().iter().find(|cause| cause.why == why).map(|cause| cause.level)
    }
}

/// Runs a client in virtual time; answers take 1 ms. `lose` says which frames the wire loses.
fn run_lossy(client: Client, world: &mut World, lose: &mut dyn FnMut() -> bool) -> Outcome {
    let address = world.target.address();
    let config = ActorConfig {
        window: Some(WINDOW),
        // More than any client has: all timers are its own.
        patience_ms: 200_000,
        ..ActorConfig::new(address, OWN, world.mtu)
    };
    let len = Memory::frame_len(world.mtu);
    let (mut a, mut b, mut c, mut d) = (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
    let mut window = vec![0; 512 * usize::from(WINDOW.sectors)];
    let mut slots = [Slot::default(); 64];
    let memory = Memory {
        frame: &mut a,
        sent: &mut b,
        received: &mut c,
        dropped: &mut d,
        window: &mut window,
        slots: &mut slots,
    };
    let mut actor = Actor::new(client, config, memory).unwrap();
    let mut wire: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut now, mut records) = (1000, Vec::new());
    loop {
        let until = match actor.poll(now) {
            Event::Send(frame) => {
                let frame = frame.to_vec();
                assert!(frame.len() <= len);
                if !lose() {
                    world.requests += 1;
                    let alter = world.alter;
                    let answers = alter(world, &frame).into_iter().filter(|_| !lose());
                    let arrival = now + world.delay_ms;
                    wire.extend(answers.map(|answer| (arrival, answer)));
                }
                continue;
            }
            Event::Record(record) => {
                records.push(match record {
                    Record::Run { .. } => "run",
                    Record::Sectors { lba, data } => {
                        assert_eq!((lba, data.len()), (WINDOW.lba, 37 * 512));
                        assert_eq!(
                            data[..512],
                            content(lba),
                            "what is written down is on the disk"
                        );
                        "sectors"
                    }
                    Record::Restored => "restored",
                    _ => "other",
                });
                continue;
            }
            Event::Started(_) => continue,
            Event::Wait(until) => until,
            Event::Done(_) => break,
        };
        let arrival = wire.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX);
        now = now.max(until.min(arrival));
        assert!(now < 10_000_000, "{:?}", actor.report());
        let (due, later) = wire.into_iter().partition(|(at, _)| *at <= now);
        wire = later;
        let due: Vec<(u64, Vec<u8>)> = due;
        for (_, frame) in due {
            actor.received(&frame, now);
        }
    }
    let frames = actor.evidence();
    let evidence = (frames.sent.to_vec(), frames.received.map(<[u8]>::to_vec));
    Outcome { report: actor.report().clone(), records, evidence, virtual_ms: now - 1000 }
}

fn run(client: Client, world: &mut World) -> Outcome {
    run_lossy(client, world, &mut || false)
}

/// Whether a request is an ATA command with this opcode.
fn is_ata(frame: &[u8], opcodes: &[u8]) -> bool {
    frame[19] == 0 && opcodes.contains(&frame[27])
}

const READS: &[u8] = &[0x20, 0x24];
const IDENTIFY: &[u8] = &[0xec];

/// Alters the honest answers to some requests.
fn altered(
    world: &mut World,
    frame: &[u8],
    which: fn(&[u8]) -> bool,
    how: fn(&mut Vec<u8>),
) -> Vec<Vec<u8>> {
    let mut answers = honest(world, frame);
    if which(frame) {
        answers.iter_mut().for_each(how);
    }
    answers
}

fn reads(frame: &[u8]) -> bool {
    is_ata(frame, READS)
}

fn everything(_: &[u8]) -> bool {
    true
}

fn page_word(frame: &mut [u8], word: usize, value: u16) {
    frame[36 + 2 * word..38 + 2 * word].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn our_own_target_works_for_every_client() {
    for mtu in [1500, 9000] {
        for client in Client::ALL {
            let mut world = world(mtu, |_| {}, honest);
            let outcome = run(*client, &mut world);
            let report = &outcome.report;
            assert_eq!(report.level, Works, "{mtu}: {report}");
            assert_eq!(report.causes(), [], "{report}");
            assert_eq!((report.stage, report.resent), (Stage::Done, 0), "{report}");
            assert_eq!(report.sectors, Some(SECTORS));
            assert!(world.disk.is_as_before(), "{client:?}");
            let writes = *client != Aoetools;
            assert_eq!((report.wrote, report.restored), (writes, writes.then_some(true)));
            assert_eq!(world.disk.written.len(), if writes { 37 } else { 0 });
            let records = if writes { &["run", "sectors", "restored"][..] } else { &[] };
            assert_eq!(outcome.records, records, "{client:?}");
            assert!(outcome.virtual_ms < 2000, "{client:?}: {} ms", outcome.virtual_ms);
        }
    }
}

#[test]
fn each_client_settles_on_its_own_sizes() {
    for (client, mtu, sectors, window) in [
        (Linux, 1500, 2, 16),
        (Linux, 9000, 16, 16),
        (Ipxe, 9000, 2, 1),
        (WinAoe, 9000, 16, 64),
        (WinAoe, 1500, 2, 64),
        (Plan9, 9000, 16, 16),
    ] {
        let report = run(client, &mut world(mtu, |_| {}, honest)).report;
        assert_eq!((report.sectors_max, report.window), (sectors, window), "{client:?} {mtu}");
    }
}

#[test]
fn every_client_makes_of_a_defect_what_it_is_known_to() {
    let mut failures = Vec::new();
    let mut reached = BTreeSet::new();
    let mut causes = Vec::new();
    let all = [ABOUT_ANSWERS, ABOUT_DATA, ABOUT_PAGES, ABOUT_BEHAVIOUR];
    for defect in all.into_iter().flatten() {
        for (client, level, why) in defect.expected {
            let mut world = world(defect.mtu, defect.configure, defect.alter);
            world.delay_ms = defect.delay_ms;
            let outcome = run(*client, &mut world);
            let report = &outcome.report;
            let wrong_cause = why.is_some_and(|why| outcome.has(why).is_none())
                || why.is_none() && !report.causes().is_empty();
            if report.level != *level || wrong_cause {
                failures.push(std::format!("{}: expected {level} {why:?}\n{report}", defect.name));
            }
            if *level > Works {
                assert!(!outcome.evidence.0.is_empty() || outcome.has(Why::Drops).is_some());
            }
            assert!(world.disk.is_as_before(), "{}: {report}", defect.name);
            reached.insert((client.id(), report.level));
            causes.extend(report.causes().iter().map(|cause| cause.why));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // iPXE and the tools give up where others wait: they never hang.
    for (client, levels) in [
        (Linux, &[Works, Degraded, Fails, Hangs, Corrupts][..]),
        (Ipxe, &[Works, Degraded, Fails, Corrupts]),
        (WinAoe, &[Works, Degraded, Fails, Hangs, Corrupts]),
        (Plan9, &[Works, Degraded, Fails, Hangs, Corrupts]),
        (Aoetools, &[Works, Degraded, Fails]),
    ] {
        for level in levels {
            assert!(reached.contains(&(client.id(), *level)), "{client:?} never {level}");
        }
    }
    let missing: Vec<_> = Why::ALL.iter().filter(|why| !causes.contains(why)).collect();
    assert!(missing.is_empty(), "without a defect: {missing:?}");
}

#[test]
fn the_evidence_shows_the_frames() {
    let defect =
        |world: &mut World, frame: &[u8]| altered(world, frame, |f| f[19] == 1, |a| a[25] = 1);
    let outcome = run(Linux, &mut world(1500, |_| {}, defect));
    let (sent, received) = outcome.evidence;
    // The driver's own frame: 32 bytes, no padding, tag 0, everybody.
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x0a, 0x88, 0xa2, 0x10, 0, 0xff, 0xff,
        0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(sent, expected);
    assert_eq!(received.unwrap()[24..26], [0, 1]);
    let text = outcome.report.to_string();
    assert!(
        text.starts_with("Linux aoe: hangs\n  hangs, looking for the disk: a buffer count"),
        "{text}"
    );
    assert!(text.contains("[AoE 4.2]; 1, expected 2"), "{text}");
}

#[test]
fn tags_and_retransmissions_are_the_clients_own() {
    // Everything is lost once: what comes again, and when?
    for (client, same_tag, first_wait) in
        [(Linux, false, 16_500), (Ipxe, true, 250), (WinAoe, true, 201), (Plan9, false, 700)]
    {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut sent = world(1500, |_| {}, honest);
        let mut lose = || false;
        sent.alter = |world, frame| {
            let identify = is_ata(frame, IDENTIFY) && frame[16] != 0xff;
            if !identify {
                return honest(world, frame);
            }
            // Kept where the test finds it.
            world.disk.written.insert(u64::MAX - world.requests as u64, {
                let mut sector = [0; 512];
                sector[..36].copy_from_slice(&frame[..36]);
                sector
            });
            let copies = world.disk.written.len();
            if copies < 2 { vec![] } else { honest(world, frame) }
        };
        let config = ActorConfig {
            patience_ms: 200_000,
            ..ActorConfig::new(Address::new(7, 3).unwrap(), OWN, 1500)
        };
        let outcome = run_without_writing(client, config, &mut sent, &mut lose);
        seen.extend(sent.disk.written.values().rev().map(|sector| sector[..36].to_vec()));
        assert!(seen.len() >= 2, "{client:?}: {}", seen.len());
        assert_eq!(seen[0][20..24] == seen[1][20..24], same_tag, "{client:?}");
        assert_eq!(
            (&seen[0][..20], &seen[0][24..]),
            (&seen[1][..20], &seen[1][24..]),
            "{client:?}"
        );
        assert_eq!(outcome.report.level, Works, "{}", outcome.report);
        let waited = outcome.virtual_ms;
        assert!((first_wait..first_wait + 500).contains(&waited), "{client:?}: {waited}");
    }
}

/// As [`run`], without a window.
fn run_without_writing(
    client: Client,
    config: ActorConfig,
    world: &mut World,
    lose: &mut dyn FnMut() -> bool,
) -> Outcome {
    let len = Memory::frame_len(config.mtu);
    let (mut a, mut b, mut c, mut d) = (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
    let mut slots = [Slot::default(); 8];
    let memory = Memory {
        frame: &mut a,
        sent: &mut b,
        received: &mut c,
        dropped: &mut d,
        window: &mut [],
        slots: &mut slots,
    };
    let mut actor = Actor::new(client, config, memory).unwrap();
    let mut now = 0;
    let mut arriving: Vec<Vec<u8>> = Vec::new();
    loop {
        match actor.poll(now) {
            Event::Send(frame) => {
                let frame = frame.to_vec();
                world.requests += 1;
                let alter = world.alter;
                if !lose() {
                    arriving.extend(alter(world, &frame));
                }
            }
            Event::Record(_) => panic!("nothing is written without a window"),
            Event::Started(_) => {}
            Event::Wait(until) if arriving.is_empty() => now = until,
            Event::Wait(_) => {
                for frame in core::mem::take(&mut arriving) {
                    actor.received(&frame, now);
                }
            }
            Event::Done(_) => break,
        }
    }
    let report = actor.report().clone();
    Outcome { report, records: vec![], evidence: (vec![], None), virtual_ms: now }
}

#[test]
fn a_lossy_wire_delays_but_does_not_change_the_verdict() {
    for client in Client::ALL {
        for seed in 1..12_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut lose = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random.is_multiple_of(25)
            };
            let mut world = world(1500, |_| {}, honest);
            let outcome = run_lossy(*client, &mut world, &mut lose);
            assert_eq!(outcome.report.level, Works, "{seed}: {}", outcome.report);
            assert!(world.disk.is_as_before());
        }
    }
}

/// Dies after so many requests.
fn gone_after<const REQUESTS: usize>(world: &mut World, frame: &[u8]) -> Vec<Vec<u8>> {
    if world.requests > REQUESTS { vec![] } else { honest(world, frame) }
}

#[test]
fn a_target_that_goes_away_costs_little_time() {
    let deaths: [Alter; 10] = [
        gone_after::<1>,
        gone_after::<4>,
        gone_after::<20>,
        gone_after::<30>,
        gone_after::<50>,
        gone_after::<75>,
        gone_after::<100>,
        gone_after::<115>,
        gone_after::<135>,
        gone_after::<150>,
    ];
    let mut altered = 0;
    for client in Client::ALL {
        for (alter, number) in deaths.into_iter().zip(0..) {
            let mut world = world(1500, |_| {}, alter);
            let outcome = run(*client, &mut world);
            let report = outcome.report;
            // Once for the client, twice to put back what it wrote; 200 s each.
            assert!(outcome.virtual_ms < 640_000, "{number}: {} ms {report}", outcome.virtual_ms);
            let whole = report.stage == Stage::Done && report.restored != Some(false);
            assert!(whole || report.level > Works, "{number}: {report}");
            if !world.disk.is_as_before() {
                altered += 1;
                assert_eq!(report.restored, Some(false), "{number}: {report}");
                assert!(!outcome.records.contains(&"restored"));
            }
        }
    }
    assert!(altered > 5, "only {altered} deaths left the window altered");
}

#[test]
fn hostile_answers_break_nothing() {
    let mut random = 0x1357_9bdf_2468_ace1_u64;
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % limit).unwrap()
    };
    for _ in 0..100 {
        for client in Client::ALL {
            let mut world = world(1500, |_| {}, honest);
            let len = Memory::frame_len(1500);
            let (mut a, mut b, mut c, mut d) =
                (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
            let mut window = vec![0; 37 * 512];
            let mut slots = [Slot::default(); 16];
            let config = ActorConfig {
                window: Some(WINDOW),
                patience_ms: 40,
                ..ActorConfig::new(Address::new(7, 3).unwrap(), OWN, 1500)
            };
            let memory = Memory {
                frame: &mut a,
                sent: &mut b,
                received: &mut c,
                dropped: &mut d,
                window: &mut window,
                slots: &mut slots,
            };
            let mut actor = Actor::new(*client, config, memory).unwrap();
            let (mut now, mut turns) = (0, 0);
            loop {
                turns += 1;
                assert!(turns < 100_000, "{:?}", actor.report());
                let frame = match actor.poll(now) {
                    Event::Send(frame) => frame.to_vec(),
                    Event::Wait(until) => {
                        now = until;
                        continue;
                    }
                    Event::Done(_) => break,
                    _ => continue,
                };
                for mut answer in honest(&mut world, &frame) {
                    if next(3) == 0 {
                        let at = next(answer.len().min(80) as u64);
                        answer[at] ^= 1 << next(8);
                    }
                    if next(20) == 0 {
                        answer.truncate(next(600));
                    }
                    actor.received(&answer, now);
                }
            }
        }
    }
}
