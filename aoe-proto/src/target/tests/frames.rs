//! What holds for every command: filters, versions, errors, advertisement.

use super::*;

const READ_CONFIG: [u8; 8] = [0; 8];

#[test]
fn a_config_query_and_its_answer() {
    let mut bench = Bench::new();
    let reply = bench.ask(&request(1, &READ_CONFIG)).unwrap();
    assert_eq!(reply, answer(0x18, 0, 1, &[0, 16, 0x12, 0x34, 2, 0x10, 0, 0]));
}

#[test]
fn frames_that_no_target_may_see() {
    let mut bench = Bench::new();
    let good = request(1, &READ_CONFIG);
    let change = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (frame, refusal) in [
        (change(14, &[0x18]), Refusal::Response),
        (change(14, &[0x1f]), Refusal::Response),
        (change(6, &[0; 6]), Refusal::BadSource),
        (change(6, &[0xff; 6]), Refusal::BadSource),
        (change(6, &[0x03, 0, 0, 0, 0, 1]), Refusal::BadSource),
        (change(6, &OWN.0), Refusal::BadSource),
        (change(0, &BOB.0), Refusal::OtherHost),
        (change(0, &[0x01, 0, 0, 0, 0, 1]), Refusal::OtherHost),
        (change(12, &[0x88, 0xa3]), Refusal::NotAoe { ethertype: 0x88a3 }),
        (change(16, &[0, 8]), Refusal::OtherAddress),
        (change(18, &[4]), Refusal::OtherAddress),
        (change(16, &[0, 8, 0xff]), Refusal::OtherAddress),
    ] {
        assert_eq!(bench.ask(&frame), Err(refusal), "{frame:02x?}");
    }
    assert!(bench.ask(&change(0, &[0xff; 6])).is_ok(), "broadcast is for us");
}

#[test]
fn wildcards_are_answered_in_the_own_name() {
    let mut bench = Bench::new();
    for address in [[0xff, 0xff, 0xff], [0, 7, 0xff], [0xff, 0xff, 3]] {
        let mut frame = request(1, &READ_CONFIG);
        frame[16..19].copy_from_slice(&address);
        let reply = bench.ask(&frame).unwrap();
        assert_eq!(reply[..24], answer_header(0x18, 0, 1));
    }
}

#[test]
fn truncation_of_every_command_is_silent() {
    let mut bench = Bench::new();
    for (command, needed) in [(0u8, 12usize), (1, 8), (2, 4), (3, 2)] {
        let mut argument = [0u8; 12];
        argument[3] = if command == 0 { 0xec } else { 0 };
        for len in 0..needed {
            let frame = request(command, &argument[..len]);
            let refusal = Refusal::ShortArgument { len: 24 + len };
            assert_eq!(bench.ask(&frame), Err(refusal), "command {command}, {len} bytes");
        }
        assert!(bench.ask(&request(command, &argument[..needed])).is_ok(), "command {command}");
    }
    for len in 0..24 {
        let frame = &request(1, &READ_CONFIG)[..len];
        assert!(matches!(bench.ask(frame), Err(Refusal::TooShort { .. })), "{len}");
    }
}

#[test]
fn padding_and_junk_behind_the_argument_are_ignored() {
    let mut bench = Bench::new();
    let plain = bench.ask(&request(1, &READ_CONFIG)).unwrap();
    for junk in [28, 600, 1482] {
        let mut argument = Vec::from(READ_CONFIG);
        argument.resize(8 + junk, 0x77);
        assert_eq!(bench.ask(&request(1, &argument)).unwrap(), plain);
    }
}

#[test]
fn unknown_commands_get_error_1_without_an_argument() {
    let mut bench = Bench::new();
    for command in [4, 5, 239, 240, 255] {
        let reply = bench.ask(&request(command, &[0x77; 100])).unwrap();
        assert_eq!(reply, answer(0x1c, 1, command, &[]));
    }
    assert_eq!(bench.ask(&request(4, &[])).unwrap().len(), 60, "a bare header suffices");
}

#[test]
fn other_versions_get_error_5() {
    let mut bench = Bench::new();
    for version in (0..=15).filter(|version| *version != 1) {
        let mut frame = request(1, &READ_CONFIG);
        frame[14] = version << 4;
        assert_eq!(bench.ask(&frame).unwrap(), answer(0x1c, 5, 1, &[]));
        assert_eq!(bench.ask(&to_all_slots(frame)), Err(Refusal::Version { version }));
    }
    let mut silent = Bench::with(|config| config.version_policy = VersionPolicy::Silent);
    let mut frame = request(1, &READ_CONFIG);
    frame[14] = 0x20;
    assert_eq!(silent.ask(&frame), Err(Refusal::Version { version: 2 }));
}

#[test]
fn version_comes_before_the_command_and_after_the_mask() {
    let mut bench = Bench::new();
    let mut frame = request(77, &[]);
    frame[14] = 0x20;
    assert_eq!(bench.ask(&frame).unwrap(), answer(0x1c, 5, 77, &[]));
    bench.target.state_mut().mask.push(BOB).unwrap();
    assert_eq!(bench.ask(&frame), Err(Refusal::Masked));
}

#[test]
fn nothing_of_the_request_flags_comes_back() {
    let mut bench = Bench::new();
    let mut frame = request(1, &READ_CONFIG);
    frame[14..16].copy_from_slice(&[0x17, 0x99]);
    assert_eq!(bench.ask(&frame).unwrap()[14..16], [0x18, 0]);
    let mut frame = request(0, &[0, 0, 1, 0xec, 0, 0, 0, 0xa0, 0, 0, 0x99, 0x99]);
    frame[14..16].copy_from_slice(&[0x17, 0x99]);
    let reply = bench.ask(&frame).unwrap();
    assert_eq!(reply[14..16], [0x18, 0]);
    assert_eq!(reply[34..36], [0, 0], "reserved bytes are zero");
}

#[test]
fn the_advertisement_is_an_answer_nobody_asked_for() {
    let bench = Bench::new();
    let reply = bench.target.advertisement(Mac::BROADCAST, OWN, bench.link);
    assert_eq!(reply.dst(), Mac::BROADCAST);
    let mut buf = [0xa5; 100];
    let len = bench.target.emit(&reply, &mut buf).unwrap();
    let mut expected = answer(0x18, 0, 1, &[0, 16, 0x12, 0x34, 2, 0x10, 0, 0]);
    expected[..6].fill(0xff);
    expected[20..24].fill(0);
    assert_eq!(buf[..len], expected);
}

#[test]
fn a_masked_target_tells_its_members_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.target.audience().collect::<Vec<_>>(), [Mac::BROADCAST]);
    bench.target.state_mut().mask.extend_from_slice(&[ALICE, BOB]).unwrap();
    assert_eq!(bench.target.audience().collect::<Vec<_>>(), [ALICE, BOB]);
}

#[test]
fn a_buffer_that_is_too_small_is_reported() {
    let bench = Bench::new();
    let reply = bench.target.advertisement(ALICE, OWN, bench.link);
    let mut buf = [0xa5; 59];
    assert_eq!(bench.target.emit(&reply, &mut buf), Err(BufferTooSmall { needed: 60 }));
    assert_eq!(buf, [0xa5; 59]);
}

#[test]
fn answers_of_others_that_claim_an_address() {
    use crate::incoming::ForeignAnswer;
    let mut frame = answer(0x18, 0, 1, &[0; 8]);
    let found = ForeignAnswer::parse(&frame, BOB).unwrap();
    let address = Address::new(7, 3).unwrap();
    assert_eq!(found, ForeignAnswer { src: OWN, address, command: Command::Config });
    assert_eq!(ForeignAnswer::parse(&frame, OWN), None, "our own answer");
    frame[14] = 0x10;
    assert_eq!(ForeignAnswer::parse(&frame, BOB), None, "a request");
}

#[test]
fn the_configuration_can_be_replaced() {
    let mut bench = Bench::new();
    bench.target.state_mut().set_config_string(b"kept").unwrap();
    let bad = TargetConfig { buffer_count: 0, ..*bench.target.config() };
    assert!(bench.target.reconfigure(bad).is_err());
    let grown = TargetConfig { sectors: 2000, ..*bench.target.config() };
    bench.target.reconfigure(grown).unwrap();
    assert_eq!(bench.target.config().sectors, 2000);
    let saved = bench.target.state().clone();
    let mut other = Target::new(grown).unwrap();
    other.restore(saved);
    assert_eq!(other.state().config_string(), b"kept");
}
