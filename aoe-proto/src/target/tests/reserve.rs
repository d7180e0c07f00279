//! Reserve/Release, `[AoE 7.2]`.

use super::*;

const READ: u8 = 0;
const SET: u8 = 1;
const FORCE: u8 = 2;

fn reserve(rcmd: u8, macs: &[Mac]) -> Vec<u8> {
    let mut argument = vec![rcmd, u8::try_from(macs.len()).unwrap()];
    argument.extend(macs.iter().flat_map(|mac| mac.0));
    request(3, &argument)
}

fn list(flags: u8, error: u8, rcmd: u8, macs: &[Mac]) -> Vec<u8> {
    let mut argument = vec![rcmd, u8::try_from(macs.len()).unwrap()];
    argument.extend(macs.iter().flat_map(|mac| mac.0));
    answer(flags, error, 3, &argument)
}

#[test]
fn set_read_and_release() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&reserve(READ, &[])).unwrap(), list(0x18, 0, READ, &[]));
    let both = [ALICE, BOB];
    assert_eq!(bench.ask(&reserve(SET, &both)).unwrap(), list(0x18, 0, SET, &both));
    assert_eq!(bench.change, Some(StateChange::Reservation));
    assert_eq!(bench.ask(&reserve(READ, &[])).unwrap(), list(0x18, 0, READ, &both));
    assert_eq!(bench.change, None);
    let released = bench.ask(&from_bob(reserve(SET, &[]))).unwrap();
    assert_eq!(released[24..26], [SET, 0]);
    assert_eq!(bench.target.state().reservation(), []);
}

#[test]
fn only_holders_and_force_take_it() {
    let mut bench = Bench::new();
    bench.ask(&reserve(SET, &[ALICE])).unwrap();
    let refused = bench.ask(&from_bob(reserve(SET, &[BOB]))).unwrap();
    assert_eq!(refused[14..16], [0x1c, 6]);
    assert_eq!(refused[24..32], [SET, 1, 0x02, 0, 0, 0, 0, 0x0a], "with the list that stands");
    assert_eq!(bench.change, None);
    let forced = bench.ask(&from_bob(reserve(FORCE, &[BOB]))).unwrap();
    assert_eq!(forced[14..16], [0x18, 0]);
    assert_eq!(bench.target.state().reservation(), [BOB]);
    assert_eq!(bench.ask(&reserve(SET, &[])).unwrap(), list(0x1c, 6, SET, &[BOB]));
    assert_eq!(bench.ask(&reserve(FORCE, &[])).unwrap(), list(0x18, 0, FORCE, &[]));
}

#[test]
fn a_retransmission_succeeds_even_for_who_gave_it_away() {
    let mut bench = Bench::new();
    let give = reserve(SET, &[BOB]);
    let first = bench.ask(&give).unwrap();
    assert_eq!(bench.change, Some(StateChange::Reservation));
    assert_eq!(bench.ask(&give).unwrap(), first);
    assert_eq!(bench.change, None);
}

#[test]
fn ata_is_for_holders_except_identify() {
    let mut bench = Bench::new();
    bench.ask(&reserve(SET, &[ALICE])).unwrap();
    let ata = |opcode| {
        let argument = [0, 0, 1, opcode, 0, 0, 0, 0, 0, 0, 0, 0];
        from_bob(request(0, &argument))
    };
    for opcode in [0x20, 0x30, 0xe7, 0xe5, 0xef, 0x00, 0xff] {
        let reply = bench.ask(&ata(opcode)).unwrap();
        assert_eq!(reply[14..16], [0x1c, 6], "{opcode:#04x}");
        assert_eq!(reply[24..], [0; 36], "nothing but the error");
    }
    let reply = bench.ask(&ata(0xec)).unwrap();
    assert_eq!((reply[14], reply[27], reply.len()), (0x18, 0x40, 36 + 512));
    for frame in [request(1, &[0; 8]), request(2, &[0; 4]), reserve(READ, &[])] {
        assert_eq!(bench.ask(&from_bob(frame)).unwrap()[14], 0x18, "not gated");
    }
    assert_eq!(bench.ask(&request(0, &[0, 0, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0])).unwrap()[14], 0x18);
}

#[test]
fn the_list_ends_where_an_answer_does() {
    let mut bench = Bench::new();
    let macs: Vec<Mac> = (0..249u8).map(|number| Mac([2, 0xff, 0, 0, 0, number])).collect();
    assert_eq!(bench.ask(&reserve(SET, &macs)).unwrap(), list(0x1c, 2, SET, &[]));
    let reply = bench.ask(&reserve(SET, &macs[..248])).unwrap();
    assert_eq!(reply, list(0x18, 0, SET, &macs[..248]));
    assert_eq!(reply.len(), 1514);
    bench.link = LinkLimits::for_mtu(1400).unwrap();
    assert_eq!(bench.ask(&reserve(READ, &[])).unwrap(), list(0x1c, 2, READ, &[]));
    assert_eq!(bench.ask(&reserve(FORCE, &macs[..232])).unwrap(), list(0x1c, 2, FORCE, &[]));
    assert_eq!(bench.ask(&reserve(SET, &[ALICE])).unwrap(), answer(0x1c, 6, 3, &[]), "no room");
    assert_eq!(bench.ask(&reserve(FORCE, &[ALICE])).unwrap(), list(0x18, 0, FORCE, &[ALICE]));
}

#[test]
fn malformed_requests_change_nothing() {
    let mut bench = Bench::new();
    let mut lying = reserve(SET, &[ALICE]);
    lying[25] = 2;
    assert_eq!(bench.ask(&lying).unwrap(), list(0x1c, 2, SET, &[]));
    let whole = reserve(FORCE, &[ALICE]);
    assert_eq!(bench.ask(&whole[..whole.len() - 1]).unwrap(), list(0x1c, 2, FORCE, &[]));
    for rcmd in [3, 4, 255] {
        assert_eq!(bench.ask(&reserve(rcmd, &[ALICE])).unwrap(), list(0x1c, 2, rcmd, &[]));
    }
    assert_eq!(bench.target.state().reservation(), []);
    let mut junk = reserve(READ, &[]);
    junk[25] = 255;
    assert_eq!(bench.ask(&junk).unwrap(), list(0x18, 0, READ, &[]), "a read needs no list");
}

#[test]
fn wildcards_read_but_do_not_set() {
    let mut bench = Bench::new();
    assert!(bench.ask(&to_all_slots(reserve(READ, &[]))).is_ok());
    for rcmd in [SET, FORCE] {
        let frame = to_all_slots(reserve(rcmd, &[ALICE]));
        assert_eq!(bench.ask(&frame), Err(Refusal::WildcardChange));
    }
}

#[test]
fn a_frozen_reservation_stands() {
    let mut bench = Bench::with(|config| config.freeze.reserve = true);
    for rcmd in [SET, FORCE] {
        assert_eq!(bench.ask(&reserve(rcmd, &[ALICE])).unwrap(), list(0x1c, 6, rcmd, &[]));
        assert_eq!(bench.ask(&reserve(rcmd, &[])).unwrap(), list(0x18, 0, rcmd, &[]));
    }
    assert_eq!(bench.ask(&reserve(READ, &[])).unwrap(), list(0x18, 0, READ, &[]));
}
