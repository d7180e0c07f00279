//! Retransmissions, losses and counts of whole conversations; and our own target, which must break
//! no rule.

use super::*;
use crate::initiator::emit_query;
use crate::target::AtaText;
use crate::{Disk, Incoming, LinkLimits, SectorRange, Target, TargetConfig, serve};
use std::format;

fn kinds(watch: &mut Watch<'_>, frames: &[(u64, Vec<u8>)]) -> Vec<Kind> {
    frames.iter().map(|(ms, frame)| watch.observe(&Captured::whole(ms * MS, frame)).kind).collect()
}

#[test]
fn a_listener_that_missed_frames_accuses_nobody() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    watch.config.grace_ns = 1000 * MS;
    let mut rules = |ms: u64, frame: Vec<u8>| {
        let seen = watch.observe(&Captured::whole(ms * MS, &frame));
        let rules: Vec<Rule> = seen.findings.as_slice().iter().map(|found| found.rule).collect();
        if ms == 5000 {
            watch.missed(ms * MS);
        }
        rules
    };
    assert_eq!(rules(0, read(1, 5)), []);
    assert_eq!(rules(1, data(1, 5)), []);
    // Nobody asked, and the tag of a request that waits did not come back.
    assert_eq!(rules(3000, data(2, 7)), [Rule::AnswerWithoutRequest]);
    assert_eq!(rules(4000, read(3, 5)), []);
    assert_eq!(rules(4001, data(0x10, 5)), [Rule::WrongTag]);
    assert_eq!(rules(5000, read(4, 6)), []);
    assert_eq!(rules(5900, data(5, 7)), []);
    assert_eq!(rules(5901, data(0x11, 6)), []);
    assert_eq!(rules(6001, data(0x12, 6)), [Rule::WrongTag]);
}

#[test]
fn retransmissions_are_known_by_tag_and_by_content() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let seen = kinds(
        &mut watch,
        &[
            (0, read(1, 5)),
            (250, read(1, 5)),
            (251, data(1, 5)),
            (300, read(2, 6)),
            // As Linux does it.
            (500, read(3, 6)),
            (900, read(4, 6)),
            (901, data(4, 6)),
            (902, data(3, 6)),
            // Reading a sector twice is no retransmission, and neither are two readers at once.
            (1000, read(5, 6)),
            (1005, read(6, 6)),
        ],
    );
    let resent =
        |same_tag, after_ms, sends| Kind::Resent { same_tag, after_ns: after_ms * MS, sends };
    assert_eq!(
        seen,
        [
            Kind::Request,
            resent(true, 250, 2),
            Kind::Answer { after_ns: MS },
            Kind::Request,
            resent(false, 200, 2),
            resent(false, 400, 3),
            Kind::Answer { after_ns: MS },
            Kind::LateAnswer { after_ns: 402 * MS },
            Kind::Request,
            Kind::Request,
        ]
    );
    let target = watch.targets().next().unwrap();
    assert_eq!(target.outstanding(), 2);
    let traffic = target.traffic();
    assert_eq!(
        (traffic.requests.read, traffic.resent, traffic.answers, traffic.late),
        (4, 3, 3, 1)
    );
    // The answers to requests that were sent twice do not tell how long they took.
    assert_eq!(traffic.latency.count(), 1);
    assert_eq!(traffic.bytes_read, 1024);
    assert_eq!(watch.initiators().next().unwrap().traffic().resent, 3);
}

#[test]
fn a_request_that_is_repeated_right_behind_its_answer_is_no_twin() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let query = ask(1, 2, &query(0, b""));
    let frames = [
        (0, read(1, 5)),
        (100, data(1, 5)),
        // 0.2 ms behind the answer, 0.3 ms behind the request.
        (300, read(1, 5)),
        (400, data(1, 5)),
        (1000, query.clone()),
        (1100, tell(1, 2, &config(0, b""))),
        (1300, query),
        (1400, tell(1, 2, &config(0, b""))),
        // Nobody answered this one in between.
        (2000, read(3, 5)),
        (2100, read(3, 5)),
    ];
    let seen: Vec<_> = frames
        .iter()
        .map(|(us, frame)| watch.observe(&Captured::whole(us * 1000, frame)))
        .collect();
    let findings: Vec<_> =
        seen.iter().flat_map(|seen| seen.findings.as_slice()).map(|found| found.rule).collect();
    assert_eq!(findings, [Rule::TwinFrame]);
    assert_eq!(seen[2].kind, Kind::Repeated { after_ns: 300_000 });
    assert_eq!(seen[3].kind, Kind::Answer { after_ns: 100_000 });
    assert_eq!((seen[6].kind, seen[9].kind), (Kind::Request, Kind::Twin));
}

#[test]
fn an_answer_that_an_initiator_forged_makes_no_second_server() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let forged = frame(TARGET, INITIATOR, &[0x1c, 9, 0, 7, 3, 1, 0, 0, 0, 0x55]);
    let frames = [(0, read(1, 5)), (1, data(1, 5)), (2, forged), (3, read(2, 5)), (4, data(2, 5))];
    let kinds = kinds(&mut watch, &frames);
    assert_eq!(kinds[2], Kind::UnmatchedAnswer);
    let target = watch.targets().next().unwrap();
    let servers: Vec<_> = target.answerers().map(|a| (a.mac, a.answers)).collect();
    assert_eq!(servers, [(mac(TARGET), 2)]);
    assert_eq!((target.traffic().unmatched, target.traffic().findings.must), (0, 0));
    let initiator = watch.initiators().next().unwrap().traffic();
    assert_eq!(initiator.unmatched, 1);
    assert!(initiator.findings.must + initiator.findings.should + initiator.findings.note > 0);
}

#[test]
fn two_servers_of_one_address_have_counts_of_their_own() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let elsewhere = |mut frame: Vec<u8>| {
        frame[11] = 2;
        frame
    };
    let failed = tell(0, 3, &registers([0x40, 4, 1, 0x41, 5], &[]));
    let frames = [
        (0, read(1, 5)),
        (1, data(1, 5)),
        (2, read(2, 5)),
        (3, elsewhere(data(2, 5))),
        (4, read(3, 5)),
        (5, elsewhere(failed)),
        (6, read(4, 5)),
        (7, elsewhere(refuse(0, 4, 2, &[0; 12]))),
    ];
    kinds(&mut watch, &frames);
    let target = watch.targets().next().unwrap();
    let servers: Vec<_> = target
        .answerers()
        .map(|a| (a.mac, a.answers, a.ata_errors, a.aoe_errors, a.findings.must))
        .collect();
    assert_eq!(servers[0], (mac(TARGET), 1, 0, 0, 0));
    let (other, answers, ata_errors, aoe_errors, must) = servers[1];
    assert_eq!((other, answers, ata_errors, aoe_errors), (mac(2), 3, 1, 1));
    assert!(must > 0, "it answers for an address that is another's");
    assert_eq!(target.traffic().answers, 4);
}

#[test]
fn lost_replies_are_told_once() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    kinds(
        &mut watch,
        &[
            (0, read(1, 5)),
            (250, read(1, 5)),
            (251, data(1, 5)),
            (300, read(2, 6)),
            (800, read(3, 6)),
            (801, data(3, 6)),
            (900, write(4, 9, 9)),
            // Silence is an answer to these, and to the search for a target that is not there.
            (901, ask(1, 5, &query(1, b"other"))),
            (901, elsewhere(ask(1, 7, &query(0, b"")))),
            (902, with_wildcard(identify(6))),
        ],
    );
    assert_eq!(watch.poll(5000 * MS), None);
    let mut lost = Vec::new();
    while let Some(one) = watch.poll(6000 * MS) {
        assert_eq!((one.initiator, one.address.exact()), (mac(INITIATOR), Address::new(7, 3)));
        lost.push((one.tag.0[3], one.sends, one.answers, one.superseded));
    }
    lost.sort_unstable();
    assert_eq!(lost, [(1, 2, 1, false), (2, 1, 0, true), (4, 1, 0, false)]);
    assert_eq!(watch.poll(60_000 * MS), None);
    let target = watch.targets().next().unwrap();
    assert_eq!((target.traffic().lost, target.outstanding()), (3, 0));
    let late = watch.observe(&Captured::whole(61_000 * MS, &written(4, 9))).kind;
    assert_eq!(late, Kind::LateAnswer { after_ns: 60_100 * MS });
}

fn elsewhere(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18] = 4;
    frame
}

fn with_wildcard(mut frame: Vec<u8>) -> Vec<u8> {
    frame[16..19].fill(0xff);
    frame
}

#[test]
fn at_the_end_everything_is_told_that_waited_a_moment() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    kinds(&mut watch, &[(0, read(1, 5)), (95, read(2, 6))]);
    assert_eq!(watch.poll_end(100 * MS).map(|lost| lost.tag.0[3]), Some(1));
    assert_eq!(watch.poll_end(100 * MS), None);
}

#[test]
fn discovery_has_one_tag_for_ever_and_many_answers() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let mut question = [0; 60];
    let len = emit_query(&mut question, mac(INITIATOR), AddressPattern::ALL).unwrap();
    question[20..24].fill(0);
    let question = Vec::from(&question[..len]);
    let other = |mut frame: Vec<u8>| {
        (frame[11], frame[18]) = (2, 4);
        frame
    };
    let answer = || tell(1, 0, &config(0, b""));
    for start in [0, 60_000] {
        let seen = kinds(
            &mut watch,
            &[(start, question.clone()), (start + 1, answer()), (start + 2, other(answer()))],
        );
        let answered = |ms: u64| Kind::Answer { after_ns: ms * MS };
        assert_eq!(seen, [Kind::Request, answered(1), answered(2)]);
    }
    // A target that starts between two rounds, and one that advertises to an allow list.
    let seen = kinds(&mut watch, &[(90_000, answer()), (90_001, other(answer()))]);
    assert_eq!(seen, [Kind::Advertisement; 2]);
    assert_eq!(watch.findings(), FindingCounts::default());
    assert_eq!(watch.poll(200_000 * MS), None, "a broadcast may stay unanswered");
}

#[test]
fn answers_right_at_the_beginning_may_belong_to_earlier_requests() {
    let mut bench = Bench::new();
    let memory = Memory {
        exchanges: &mut bench.exchanges,
        repeats: &mut bench.repeats,
        targets: &mut bench.targets,
        initiators: &mut bench.initiators,
    };
    let mut watch = Watch::new(WatchConfig::default(), memory);
    watch.observe(&Captured::whole(0, &read(1, 5)));
    let early = watch.observe(&Captured::whole(999 * MS, &data(9, 8)));
    assert_eq!((early.kind, early.findings.as_slice().len()), (Kind::UnmatchedAnswer, 0));
    let later = watch.observe(&Captured::whole(1000 * MS, &data(9, 8)));
    assert!(later.findings.contains(Rule::AnswerWithoutRequest));
}

#[test]
fn full_memory_forgets_the_oldest_and_says_so() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let requests = 0..200_u8;
    for tag in requests.clone() {
        watch.observe(&Captured::whole(u64::from(tag) * MS, &read(tag, tag)));
    }
    assert!(watch.forgotten() >= 136, "{}", watch.forgotten());
    let outstanding = u64::from(watch.targets().next().unwrap().outstanding());
    assert_eq!(outstanding + watch.forgotten(), 200);
    let answered = watch.observe(&Captured::whole(300 * MS, &data(199, 199)));
    assert_eq!(answered.kind, Kind::Answer { after_ns: 101 * MS });
    for slot in 10..20 {
        let mut frame = read(1, 1);
        frame[18] = slot;
        watch.observe(&Captured::whole(400 * MS, &frame));
    }
    assert!(watch.unrecorded() > 0);
    assert_eq!(watch.targets().count(), 4);
}

struct Zeros;

impl Disk for Zeros {
    fn read(&mut self, _: SectorRange, data: &mut [u8]) -> Result<(), crate::AtaError> {
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, _: SectorRange, _: &[u8]) -> Result<(), crate::AtaError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), crate::AtaError> {
        Ok(())
    }

    fn discard(&mut self, _: SectorRange) -> Result<(), crate::AtaError> {
        Ok(())
    }
}

/// Whatever it is asked, our own target breaks no rule. Requests are ordinary ones of every command
/// with single bytes changed; the listener must also survive them all.
#[test]
fn our_own_target_breaks_no_rule() {
    let mut config = TargetConfig::new(Address::new(7, 3).unwrap(), 300);
    config.identity.serial = AtaText::new("serial-0001").unwrap();
    let mut target = Target::new(config).unwrap();
    let link = LinkLimits::for_mtu(1500).unwrap();
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % limit).unwrap()
    };
    let (mut answers, mut now) = (0, 0);
    for round in 0..30_000_u32 {
        if round % 50 == 0 {
            // A mask or a reservation would silence it for good.
            target = Target::new(config).unwrap();
        }
        let mut asked = match next(9) {
            0 => ask(1, 0, &query(u8::try_from(next(6)).unwrap(), b"words")),
            1 => ask(2, 0, &[0, u8::try_from(next(2)).unwrap(), 0, 1, 0, 0, 2, 0, 0, 0, 0, 9]),
            2 => ask(3, 0, &[0, 0]),
            3 => identify(0),
            4 => write(0, 5, 1),
            5 => ask(0, 0, &registers([0x40, 0, 0, 0xe7, 0], &[])),
            _ => read(0, u8::try_from(next(200)).unwrap()),
        };
        asked[20..24].copy_from_slice(&(round + 1).to_be_bytes());
        if next(2) == 0 {
            let at = 14 + next(46);
            // Tag and flag R: another conversation.
            if !(20..24).contains(&at) {
                asked[at] ^= 1 << next(8);
            }
        }
        now += MS * 20;
        watch.observe(&Captured::whole(now, &asked));
        let Ok(request) = Incoming::parse(&asked, mac(TARGET)) else { continue };
        let mut buffer = [0xa5; 1514];
        let action = target.handle(&request, link);
        let Some(len) = serve(&target, action, &mut Zeros, &mut buffer).unwrap() else { continue };
        answers += 1;
        let seen = watch.observe(&Captured::whole(now + MS, &buffer[..len]));
        // The one thing that the protocol leaves a target no choice about.
        let unavoidable = [Rule::ErrorHangsLinux];
        let broken: Vec<_> = seen
            .findings
            .as_slice()
            .iter()
            .filter(|finding| !unavoidable.contains(&finding.rule))
            .map(|finding| format!("{finding}"))
            .collect();
        let (question, answer) = (crate::print::PrintFrame(&asked), &buffer[..len]);
        assert!(broken.is_empty(), "{question}\n{}\n{broken:?}", crate::print::PrintFrame(answer));
        assert!(matches!(seen.kind, Kind::Answer { .. }), "{question}: {:?}", seen.kind);
    }
    assert!(answers > 15_000, "{answers}");
}
