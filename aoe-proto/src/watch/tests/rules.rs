//! Every rule: frames that break it, after which nothing but it is found, and frames beside it that
//! do not.

use super::*;
use core::fmt::Write;
use std::collections::BTreeSet;
use std::string::String;

/// The rules that the last of `frames` breaks; one frame each 20 ms.
fn judged(frames: &[Vec<u8>]) -> Vec<Rule> {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let mut last = Vec::new();
    for (frame, at) in frames.iter().zip(0..) {
        let seen = watch.observe(&Captured::whole(at * 20 * MS, frame));
        last = seen.findings.as_slice().iter().map(|finding| finding.rule).collect();
    }
    last
}

/// Changes bytes of a frame.
fn with(mut frame: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, value) in changes {
        frame[*at] = *value;
    }
    frame
}

fn words(mut page: Vec<u8>, changes: &[(usize, u16)]) -> Vec<u8> {
    for (word, value) in changes {
        page[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
    }
    page
}

fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

fn longer(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.resize(len, 0);
    frame
}

/// Broken rules of the last frame, for stories of frames about the header.
fn headers() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let advert = || {
        with(
            tell(1, 0, &config(0, b"")),
            &[(0, 0xff), (1, 0xff), (2, 0xff), (3, 0xff), (4, 0xff), (5, 0xff)],
        )
    };
    let to_all =
        |frame| with(frame, &[(0, 0xff), (1, 0xff), (2, 0xff), (3, 0xff), (4, 0xff), (5, 0xff)]);
    vec![
        (vec![read(1, 5)], vec![]),
        (vec![read(1, 5), data(1, 5)], vec![]),
        (vec![advert()], vec![]),
        (vec![with(read(1, 5), &[(14, 0x20)])], vec![Rule::Version]),
        (vec![with(read(1, 5), &[(14, 0x12)])], vec![Rule::ReservedFlags]),
        (vec![with(read(1, 5), &[(14, 0x14)])], vec![Rule::RequestErrorFlag]),
        (vec![with(read(1, 5), &[(15, 2)])], vec![Rule::RequestErrorByte]),
        (vec![read(1, 5), with(data(1, 5), &[(15, 2)])], vec![Rule::ErrorWithoutFlag]),
        (
            vec![ask(1, 1, &query(9, b"")), refuse(1, 1, 7, &config(9, b""))],
            vec![Rule::UnknownError],
        ),
        (vec![with(advert(), &[(18, 0xff)])], vec![Rule::WildcardAnswer]),
        (vec![with(read(1, 5), &[(6, 3)])], vec![Rule::BadSource]),
        (vec![read(1, 5), to_all(data(1, 5))], vec![Rule::BroadcastAnswer, Rule::AnswerToStranger]),
        (vec![with(advert(), &[(16, 0x0f), (17, 0xff)])], vec![Rule::LinuxShelf]),
        (vec![cut(read(1, 5), 23)], vec![Rule::ShortFrame]),
        (vec![cut(read(1, 5), 35)], vec![Rule::ShortFrame]),
        (vec![cut(read(1, 5), 36)], vec![]),
        (
            vec![ask(1, 1, &query(0, b"")), cut(tell(1, 1, &config(0, b"")), 32)],
            vec![Rule::Unpadded],
        ),
        (vec![write(1, 5, 1), with(written(1, 5), &[(59, 1)])], vec![Rule::PaddingLeak]),
        // 60 bytes and a frame check sequence.
        (vec![write(1, 5, 1), with(longer(written(1, 5), 64), &[(60, 0xde)])], vec![]),
        (vec![with(read(1, 5), &[(59, 1)])], vec![Rule::RequestTrailer]),
        (vec![longer(read(1, 5), 1515)], vec![Rule::FrameTooLong]),
        (vec![longer(read(1, 5), 1514)], vec![]),
        (vec![ask(4, 1, &[])], vec![Rule::UnknownCommand]),
        (vec![ask(240, 1, &[])], vec![Rule::VendorCommand]),
    ]
}

fn requests() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let queue = || {
        let mut frames =
            vec![ask(1, 1, &query(0, b"")), with(tell(1, 1, &config(0, b"")), &[(25, 2)])];
        frames.extend([read(2, 1), read(3, 2)]);
        frames
    };
    let wildcard = |frame| with(frame, &[(16, 0xff), (17, 0xff)]);
    vec![
        (vec![ask(1, 1, &query(5, b""))], vec![Rule::UnknownSubcommand]),
        (vec![ask(2, 1, &[0, 2, 0, 0])], vec![Rule::UnknownSubcommand]),
        (vec![ask(3, 1, &[3, 0])], vec![Rule::UnknownSubcommand]),
        (vec![with(ask(1, 1, &query(3, b"")), &[(31, 29)])], vec![Rule::ConfigLength]),
        (vec![with(ask(1, 1, &query(3, b"")), &[(31, 28)])], vec![]),
        (vec![with(ask(1, 1, &query(0, b"")), &[(31, 29)])], vec![]),
        (vec![with(ask(1, 1, &query(0, b"")), &[(25, 1)])], vec![Rule::ConfigRequestFields]),
        (vec![ask(2, 1, &[0, 1, 0, 5])], vec![Rule::ListLength]),
        (vec![ask(2, 1, &[0, 1, 0, 4])], vec![]),
        (vec![ask(3, 1, &[1, 6])], vec![Rule::ListLength]),
        (vec![ask(3, 1, &[1, 5])], vec![]),
        (vec![ask(2, 1, &[1, 0, 0, 0])], vec![Rule::ReservedBytes]),
        (vec![with(read(1, 5), &[(34, 1)])], vec![Rule::ReservedBytes]),
        (vec![with(read(1, 5), &[(24, 0x44)])], vec![Rule::ReservedAtaFlags]),
        (vec![with(write(1, 5, 1), &[(24, 0x40)])], vec![Rule::WriteWithoutW]),
        (vec![with(read(1, 5), &[(24, 0x41)])], vec![Rule::ReadWithW]),
        (vec![with(read(1, 5), &[(24, 0), (33, 1)])], vec![Rule::LbaWidth]),
        (vec![with(read(1, 5), &[(24, 0x40), (27, 0x20)])], vec![Rule::LbaWidth]),
        (vec![with(read(1, 5), &[(24, 0), (27, 0x20), (31, 0xe0)])], vec![]),
        (vec![with(read(1, 5), &[(26, 0)])], vec![Rule::CountZero]),
        (vec![cut(write(1, 5, 1), 547)], vec![Rule::ShortWrite]),
        (
            vec![
                ask(1, 1, &query(0, b"")),
                tell(1, 1, &config(0, b"")),
                with(read(1, 5), &[(26, 3)]),
            ],
            vec![Rule::CountOverMax],
        ),
        (vec![wildcard(write(1, 5, 1))], vec![Rule::WildcardChange]),
        (vec![wildcard(ask(1, 1, &query(4, b"x")))], vec![Rule::WildcardChange]),
        (vec![wildcard(ask(2, 1, &[0, 1, 0, 0]))], vec![Rule::WildcardChange]),
        (vec![wildcard(ask(3, 1, &[2, 0]))], vec![Rule::WildcardChange]),
        (vec![wildcard(identify(1))], vec![]),
        (queue(), vec![]),
        ([queue(), vec![read(4, 3)]].concat(), vec![Rule::WindowExceeded]),
        ([queue(), vec![data(2, 1), read(4, 3)]].concat(), vec![]),
        (vec![read(1, 5), read(1, 6)], vec![Rule::TagReused]),
        (vec![read(1, 5), data(1, 5), read(1, 6)], vec![]),
        (
            vec![write(1, 5, 1), written(1, 5), write(2, 5, 2), written(2, 5), write(1, 5, 1)],
            vec![Rule::StaleWrite],
        ),
        (
            vec![write(1, 5, 1), written(1, 5), write(2, 6, 2), written(2, 6), write(1, 5, 1)],
            vec![],
        ),
    ]
}

fn answers() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let ask_config = || ask(1, 1, &query(0, b""));
    let told =
        |changes: &[(usize, u8)]| vec![ask_config(), with(tell(1, 1, &config(0, b"")), changes)];
    vec![
        (told(&[]), vec![]),
        (told(&[(25, 1)]), vec![Rule::BufferCount]),
        (told(&[(25, 0)]), vec![Rule::BufferCount]),
        (told(&[(25, 2)]), vec![]),
        (told(&[(28, 3)]), vec![Rule::SectorCountFit]),
        (told(&[(28, 0)]), vec![Rule::SectorCountZero]),
        (told(&[(28, 9)]), vec![Rule::SectorCountOdd, Rule::SectorCountFit]),
        (told(&[(29, 0)]), vec![Rule::ConfigVersion]),
        (told(&[(31, 29)]), vec![Rule::ConfigLength]),
        (vec![ask(2, 1, &[0; 4]), tell(2, 1, &[0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 9])], vec![]),
        (
            vec![ask(2, 1, &[0; 4]), tell(2, 1, &[0, 0, 0, 1, 0, 1, 2, 0, 0, 0, 0, 9])],
            vec![Rule::AnswerListed],
        ),
        (vec![ask(2, 1, &[0; 4]), tell(2, 1, &[0, 0, 4, 0])], vec![Rule::MaskErrorUnknown]),
        (vec![ask(2, 1, &[0; 4]), tell(2, 1, &[0, 0, 0, 5])], vec![Rule::ListLength]),
        (vec![ask(2, 1, &[0; 4]), tell(2, 1, &[0, 0, 3, 5])], vec![]),
        (vec![ask(3, 1, &[0; 2]), tell(3, 1, &[0, 6])], vec![Rule::ListLength]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(27, 0)])], vec![Rule::StatusNotReady]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(27, 0x48)])], vec![Rule::StatusBusy]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(27, 0x41)])], vec![Rule::ErrorRegister]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(25, 4)])], vec![Rule::ErrorRegister]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(25, 4), (27, 0x41), (26, 1)])], vec![]),
    ]
}

fn pairs() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let e7_4 = |frame| with(frame, &[(18, 4)]);
    let failed = || with(written(1, 5), &[(25, 4), (27, 0x41), (26, 1)]);
    let known =
        |frames: Vec<Vec<u8>>| [vec![identify(90), identified(90, &page(b'a'))], frames].concat();
    vec![
        (vec![read(1, 5), data(1, 5), data(2, 7)], vec![Rule::AnswerWithoutRequest]),
        (vec![data(2, 7)], vec![Rule::AnswerToStranger]),
        (vec![read(1, 5), data(0x10, 5)], vec![Rule::WrongTag]),
        (vec![read(1, 5), e7_4(data(1, 5))], vec![Rule::WrongAddress]),
        (vec![read(1, 5), tell(2, 1, &[0; 4])], vec![Rule::WrongCommand]),
        (
            vec![with(frame(TARGET, INITIATOR, &read(1, 5)[14..]), &[(5, 2)]), data(1, 5)],
            vec![Rule::WrongAnswerer],
        ),
        (vec![frame(TARGET, INITIATOR, &read(1, 5)[14..]), data(1, 5)], vec![]),
        (vec![read(1, 5), data(1, 5), data(1, 5)], vec![Rule::DuplicateAnswer]),
        (vec![read(1, 5), read(1, 5), data(1, 5), data(1, 5)], vec![]),
        (
            vec![read(1, 5), data(1, 5), read(2, 6), with(data(2, 6), &[(11, 9)])],
            vec![Rule::DuplicateAddress],
        ),
        (
            vec![with(write(1, 5, 1), &[(24, 0x40)]), with(written(1, 5), &[(24, 0x40)])],
            vec![Rule::RefusalDue],
        ),
        (vec![with(write(1, 5, 1), &[(24, 0x40)]), with(failed(), &[(24, 0x40)])], vec![]),
        (vec![with(read(1, 5), &[(14, 0x20)]), data(1, 5)], vec![Rule::RefusalDue]),
        (vec![with(read(1, 5), &[(14, 0x20)]), refuse(0, 1, 5, &[])], vec![Rule::ErrorHangsLinux]),
        (
            vec![with(write(1, 5, 1), &[(16, 0xff), (17, 0xff)]), written(1, 5)],
            vec![Rule::SilenceDue],
        ),
        (vec![read(1, 5), refuse(0, 1, 2, &[])], vec![Rule::ErrorHangsLinux, Rule::ErrorForAta]),
        (vec![read(1, 5), refuse(0, 1, 6, &[])], vec![Rule::ErrorHangsLinux]),
        (
            vec![read(1, 5), refuse(0, 1, 4, &[])],
            vec![Rule::ErrorHangsLinux, Rule::ErrorOutOfPlace],
        ),
        (
            vec![identify(1), refuse(0, 1, 6, &[])],
            vec![Rule::ErrorHangsLinux, Rule::ErrorOutOfPlace],
        ),
        (vec![read(1, 5), cut(data(1, 5), 547)], vec![Rule::ReadShort]),
        (vec![read(1, 5), longer(data(1, 5), 549)], vec![Rule::ReadLong]),
        (vec![write(1, 5, 1), longer(failed(), 572)], vec![Rule::ErrorWithData]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(24, 0x40)])], vec![Rule::FlagsEcho]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(28, 6)])], vec![Rule::LbaEcho]),
        (vec![write(1, 5, 1), with(written(1, 5), &[(26, 1)])], vec![Rule::Residue]),
        (vec![write(1, 5, 1), with(failed(), &[(26, 2)])], vec![Rule::Residue]),
        (known(vec![read(1, 100), data(1, 100)]), vec![Rule::BeyondEnd]),
        (known(vec![read(1, 99), data(1, 99)]), vec![]),
        (
            known(vec![read(1, 99), tell(0, 1, &registers([0x40, 0x10, 1, 0x41, 99], &[]))]),
            vec![Rule::RangeRefused],
        ),
        (
            known(vec![read(1, 100), tell(0, 1, &registers([0x40, 0x10, 1, 0x41, 100], &[]))]),
            vec![],
        ),
    ]
}

fn strings() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let set = |ccmd: u8, string: &[u8]| ask(1, 1, &query(ccmd, string));
    vec![
        (vec![set(3, b"x"), refuse(1, 1, 4, &config(3, b"y"))], vec![]),
        (vec![set(4, b"x"), refuse(1, 1, 4, &config(4, b"y"))], vec![Rule::ErrorOutOfPlace]),
        (vec![set(9, b""), refuse(1, 1, 1, &config(9, b""))], vec![Rule::ErrorOutOfPlace]),
        (vec![set(9, b""), refuse(1, 1, 2, &config(9, b""))], vec![]),
        (vec![ask(9, 1, &[]), refuse(9, 1, 1, &[])], vec![]),
        (vec![set(4, b"x"), tell(1, 1, &config(0, b"x"))], vec![Rule::ConfigEcho]),
        (vec![set(1, b"x"), tell(1, 1, &config(1, b"xy"))], vec![Rule::TestMismatch]),
        (vec![set(1, b"xy"), tell(1, 1, &config(1, b"xy"))], vec![]),
        (vec![set(2, b"y"), tell(1, 1, &config(2, b"xy"))], vec![Rule::TestMismatch]),
        (vec![set(2, b"x"), tell(1, 1, &config(2, b"xy"))], vec![]),
        (vec![set(4, b"x"), tell(1, 1, &config(4, b""))], vec![Rule::SetNotStored]),
        (vec![set(4, b"x"), tell(1, 1, &config(4, b"x"))], vec![]),
        (vec![set(3, b"x"), refuse(1, 1, 4, &config(3, b"x"))], vec![Rule::SetRefusedEqual]),
        (vec![set(3, b"x"), refuse(1, 1, 4, &[])], vec![Rule::ConfigErrorBare]),
    ]
}

fn pages() -> Vec<(Vec<Vec<u8>>, Vec<Rule>)> {
    let told = |page: Vec<u8>| vec![identify(1), identified(1, &page)];
    let other = |frame| with(frame, &[(18, 4)]);
    let again =
        |page: Vec<u8>| [told(self::page(b'a')), vec![identify(2), identified(2, &page)]].concat();
    let small = words(page(b'a'), &[(60, 99), (100, 99)]);
    vec![
        (told(page(b'a')), vec![]),
        (told(words(page(b'a'), &[(255, 0x00a5)])), vec![Rule::IdentifyChecksum]),
        (told(words(page(b'a'), &[(49, 0)])), vec![Rule::IdentifyWords]),
        (told(words(page(b'a'), &[(87, 0)])), vec![Rule::IdentifyWords]),
        (
            told(words(page(b'a'), &[(103, 1), (60, 0xffff), (61, 0x0fff)])),
            vec![Rule::IdentifySize],
        ),
        (told(words(page(b'a'), &[(60, 99)])), vec![Rule::IdentifySizesDiffer]),
        (told(words(page(b'a'), &[(83, 0x4000), (86, 0)])), vec![Rule::IdentifyLba28]),
        (told(page(b' ')), vec![Rule::IdentifyNoSerial]),
        (again(page(b'a')), vec![]),
        (again(page(b'b')), vec![Rule::IdentifyChanged]),
        (again(small), vec![Rule::IdentifyChanged, Rule::DiskShrank]),
        (
            [told(page(b'a')), vec![other(identify(2)), other(identified(2, &page(b'a')))]]
                .concat(),
            vec![Rule::SerialShared],
        ),
        (
            [told(page(b'a')), vec![other(identify(2)), other(identified(2, &page(b'b')))]]
                .concat(),
            vec![],
        ),
    ]
}

/// Rules that depend on more than the bytes and their order have tests of their own.
const ELSEWHERE: &[Rule] = &[Rule::TwinFrame, Rule::VlanCrossed];

#[test]
fn every_rule_is_flagged_and_nothing_beside_it() {
    let mut proven: BTreeSet<Rule> = ELSEWHERE.iter().copied().collect();
    let mut failures = String::new();
    let stories = [headers(), requests(), answers(), pairs(), strings(), pages()].concat();
    for (story, (frames, expected)) in stories.iter().enumerate() {
        let mut found = judged(frames);
        let mut expected = expected.clone();
        found.sort();
        expected.sort();
        if found != expected {
            let line = crate::print::PrintFrame(frames.last().unwrap());
            writeln!(failures, "{story} {line}\n  found {found:?}, expected {expected:?}").unwrap();
        }
        proven.extend(expected);
    }
    assert!(failures.is_empty(), "{failures}");
    let missing: Vec<_> = Rule::ALL.iter().filter(|rule| !proven.contains(rule)).collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
}

#[test]
fn the_same_request_within_a_moment_came_twice() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    watch.observe(&Captured::whole(0, &read(1, 5)));
    let twin = watch.observe(&Captured::whole(MS - 1, &read(1, 5)));
    assert_eq!(twin.kind, Kind::Twin);
    assert!(twin.findings.contains(Rule::TwinFrame));
    let resent = watch.observe(&Captured::whole(2 * MS, &read(1, 5)));
    assert!(matches!(resent.kind, Kind::Resent { same_tag: true, sends: 2, .. }), "{resent:?}");
}

#[test]
fn an_answer_on_another_vlan() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    let (question, answer) = (read(1, 5), data(1, 5));
    let tagged = |at_ns, frame| Captured { vlan: 5, ..Captured::whole(at_ns, frame) };
    watch.observe(&tagged(0, &question));
    let crossed = watch.observe(&Captured::whole(MS, &answer));
    assert_eq!(crossed.kind, Kind::UnmatchedAnswer);
    let found: Vec<_> = crossed.findings.as_slice().iter().map(|f| (f.rule, f.detail)).collect();
    let detail = Detail::Expected { found: 0, expected: 5 };
    assert_eq!(found, [(Rule::VlanCrossed, detail)]);
    let right = watch.observe(&tagged(2 * MS, &answer));
    assert_eq!(right.kind, Kind::Answer { after_ns: 2 * MS });
}

#[test]
fn what_a_capture_cut_off_is_not_missed() {
    let mut bench = Bench::new();
    let mut watch = bench.watch();
    for (at, whole) in [write(1, 5, 1), written(1, 5), read(2, 6), data(2, 6)].iter().enumerate() {
        let at_ns = u64::try_from(at).unwrap() * MS;
        let frame = &whole[..whole.len().min(40)];
        let captured = Captured { at_ns, frame, wire_len: whole.len(), vlan: 0 };
        let seen = watch.observe(&captured);
        assert_eq!(seen.findings.as_slice(), [], "frame {at}");
    }
    let short = Captured { at_ns: 9 * MS, frame: &read(3, 6)[..30], wire_len: 60, vlan: 0 };
    assert_eq!(watch.observe(&short).findings.as_slice(), []);
}
