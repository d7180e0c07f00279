//! Query/Config, `[AoE 4]`.

use super::*;

/// A Query/Config request. Fields that initiators may fill with anything are not zero.
fn query(ccmd: u8, string: &[u8]) -> Vec<u8> {
    let [n0, n1] = u16::try_from(string.len()).unwrap().to_be_bytes();
    let mut argument = vec![0x99, 0x99, 0x99, 0x99, 0x99, 0xf0 | ccmd, n0, n1];
    argument.extend_from_slice(string);
    request(1, &argument)
}

/// The same with a length that lies.
fn query_claiming(ccmd: u8, claimed: u16, string: &[u8]) -> Vec<u8> {
    let mut frame = query(ccmd, string);
    frame[30..32].copy_from_slice(&claimed.to_be_bytes());
    frame
}

fn config(flags: u8, error: u8, ccmd: u8, string: &[u8]) -> Vec<u8> {
    let [n0, n1] = u16::try_from(string.len()).unwrap().to_be_bytes();
    let mut argument = vec![0, 16, 0x12, 0x34, 2, 0x10 | ccmd, n0, n1];
    argument.extend_from_slice(string);
    answer(flags, error, 1, &argument)
}

fn bench(string: &[u8]) -> Bench {
    let mut bench = Bench::new();
    bench.target.state_mut().set_config_string(string).unwrap();
    bench
}

#[test]
fn read_looks_at_nothing() {
    let mut bench = bench(b"hello");
    assert_eq!(bench.ask(&query(0, b"")).unwrap(), config(0x18, 0, 0, b"hello"));
    let lying = query_claiming(0, 0xffff, b"junk");
    assert_eq!(bench.ask(&lying).unwrap(), config(0x18, 0, 0, b"hello"));
    assert_eq!(bench.change, None);
}

#[test]
fn exact_test() {
    let mut bench = bench(b"hello");
    assert_eq!(bench.ask(&query(1, b"hello")).unwrap(), config(0x18, 0, 1, b"hello"));
    for miss in [&b"hell"[..], b"hello!", b"", b"HELLO"] {
        assert_eq!(bench.ask(&query(1, miss)), Err(Refusal::ConfigMismatch));
    }
    assert!(Bench::new().ask(&query(1, b"")).is_ok());
}

#[test]
fn prefix_test() {
    let mut bench = bench(b"hello");
    for hit in [&b"hello"[..], b"hel", b"h", b""] {
        assert_eq!(bench.ask(&query(2, hit)).unwrap(), config(0x18, 0, 2, b"hello"));
    }
    for miss in [&b"hello!"[..], b"e", b"x"] {
        assert_eq!(bench.ask(&query(2, miss)), Err(Refusal::ConfigMismatch));
    }
}

#[test]
fn set_works_on_an_empty_string_and_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&query(3, b"one")).unwrap(), config(0x18, 0, 3, b"one"));
    assert_eq!(bench.change, Some(StateChange::ConfigString));
    assert_eq!(bench.ask(&query(3, b"one")).unwrap(), config(0x18, 0, 3, b"one"));
    assert_eq!(bench.change, None, "a retransmission changes nothing");
    assert_eq!(bench.ask(&query(3, b"two")).unwrap(), config(0x1c, 4, 3, b"one"));
    assert_eq!(bench.ask(&query(3, b"")).unwrap(), config(0x1c, 4, 3, b"one"));
    assert_eq!(bench.change, None);
}

#[test]
fn force_always_sets_and_clears() {
    let mut bench = bench(b"one");
    assert_eq!(bench.ask(&query(4, b"two")).unwrap(), config(0x18, 0, 4, b"two"));
    assert_eq!(bench.change, Some(StateChange::ConfigString));
    assert_eq!(bench.ask(&query(4, b"")).unwrap(), config(0x18, 0, 4, b""));
    assert_eq!(bench.target.state().config_string(), b"");
}

#[test]
fn the_longest_string() {
    let mut bench = Bench::new();
    let longest: Vec<u8> = (0..1024u32).map(|at| (at % 251).try_into().unwrap()).collect();
    let reply = bench.ask(&query(4, &longest)).unwrap();
    assert_eq!(reply, config(0x18, 0, 4, &longest));
    assert_eq!(reply.len(), 32 + 1024);
    bench.link = LinkLimits::for_mtu(LinkLimits::MTU_MIN).unwrap();
    let reply = bench.ask(&query(0, b"")).unwrap();
    assert_eq!(reply.len(), bench.link.frame_len_max(), "fits the smallest MTU exactly");
}

#[test]
fn lengths_that_lie_change_nothing() {
    for ccmd in 1..=4 {
        let mut bench = bench(b"one");
        for frame in [
            query_claiming(ccmd, 4, b"two"),
            query_claiming(ccmd, 1025, &[0x61; 1025]),
            query_claiming(ccmd, 0xffff, b"two"),
        ] {
            assert_eq!(bench.ask(&frame).unwrap(), config(0x1c, 2, ccmd, b"one"));
            assert_eq!(bench.target.state().config_string(), b"one");
            let refusal = if ccmd < 3 { Refusal::ConfigMismatch } else { Refusal::WildcardChange };
            assert_eq!(bench.ask(&to_all_slots(frame)), Err(refusal));
        }
    }
}

#[test]
fn the_last_byte_may_be_the_last_of_the_frame() {
    let mut bench = Bench::new();
    let frame = query(3, b"exact");
    assert_eq!(frame.len(), 37);
    assert!(bench.ask(&frame).is_ok());
    assert_eq!(bench.target.state().config_string(), b"exact");
}

#[test]
fn unknown_subcommands_get_error_2_and_the_string() {
    let mut bench = bench(b"one");
    for ccmd in 5..=15 {
        assert_eq!(bench.ask(&query(ccmd, b"two")).unwrap(), config(0x1c, 2, ccmd, b"one"));
    }
}

#[test]
fn wildcards_read_and_test_but_do_not_set() {
    let mut bench = bench(b"one");
    for ccmd in 0..=2 {
        assert!(bench.ask(&to_all_slots(query(ccmd, b"one"))).is_ok());
    }
    for ccmd in [3, 4] {
        let frame = to_all_slots(query(ccmd, b"two"));
        assert_eq!(bench.ask(&frame), Err(Refusal::WildcardChange));
    }
    let mut open = Bench::with(|config| config.wildcard_changes = true);
    assert!(open.ask(&to_all_slots(query(3, b"two"))).is_ok());
    assert_eq!(open.target.state().config_string(), b"two");
}

#[test]
fn a_frozen_string_stands() {
    let mut bench = Bench::with(|config| config.freeze.config = true);
    assert_eq!(bench.ask(&query(3, b"two")).unwrap(), config(0x1c, 4, 3, b""));
    bench.target.state_mut().set_config_string(b"one").unwrap();
    for ccmd in [3, 4] {
        assert_eq!(bench.ask(&query(ccmd, b"two")).unwrap(), config(0x1c, 4, ccmd, b"one"));
        assert_eq!(bench.ask(&query(ccmd, b"one")).unwrap(), config(0x18, 0, ccmd, b"one"));
    }
    assert_eq!(bench.change, None);
}

#[test]
fn a_reservation_does_not_gate_the_configuration() {
    let mut bench = Bench::new();
    bench.target.state_mut().reserve.push(BOB).unwrap();
    assert!(bench.ask(&query(4, b"two")).is_ok());
}

#[test]
fn the_sector_count_follows_the_link() {
    let mut bench = Bench::new();
    bench.link = LinkLimits::for_mtu(9000).unwrap();
    assert_eq!(bench.ask(&query(0, b"")).unwrap()[28], 16);
}
