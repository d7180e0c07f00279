//! MAC mask list, `[AoE 7.1]`.

use super::*;

const ADD: u8 = 1;
const DELETE: u8 = 2;

fn edit(directives: &[(u8, Mac)]) -> Vec<u8> {
    let mut argument = vec![0, 1, 0x99, u8::try_from(directives.len()).unwrap()];
    for (command, mac) in directives {
        argument.extend_from_slice(&[0x99, *command]);
        argument.extend_from_slice(&mac.0);
    }
    request(2, &argument)
}

fn read() -> Vec<u8> {
    request(2, &[0, 0, 0, 0])
}

fn list(mcmd: u8, macs: &[Mac]) -> Vec<u8> {
    let mut argument = vec![0, mcmd, 0, u8::try_from(macs.len()).unwrap()];
    for mac in macs {
        argument.extend_from_slice(&[0, 0]);
        argument.extend_from_slice(&mac.0);
    }
    answer(0x18, 0, 2, &argument)
}

fn stopped(merror: u8, processed: u8) -> Vec<u8> {
    answer(0x18, 0, 2, &[0, 1, merror, processed])
}

fn mac(number: u8) -> Mac {
    Mac([0x02, 0xff, 0, 0, 0, number])
}

#[test]
fn add_read_and_delete() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&read()).unwrap(), list(0, &[]));
    assert_eq!(bench.ask(&edit(&[(ADD, ALICE)])).unwrap(), list(1, &[ALICE]));
    assert_eq!(bench.change, Some(StateChange::MacMask));
    assert_eq!(bench.ask(&edit(&[(ADD, BOB), (0, mac(1))])).unwrap(), list(1, &[ALICE, BOB]));
    assert_eq!(bench.ask(&read()).unwrap(), list(0, &[ALICE, BOB]));
    assert_eq!(bench.change, None);
    assert_eq!(bench.ask(&edit(&[(DELETE, ALICE), (ADD, ALICE)])).unwrap(), list(1, &[BOB, ALICE]));
    assert_eq!(bench.ask(&edit(&[(DELETE, BOB), (DELETE, ALICE)])).unwrap(), list(1, &[]));
}

#[test]
fn edits_that_change_nothing_succeed() {
    let mut bench = Bench::new();
    bench.ask(&edit(&[(ADD, ALICE)])).unwrap();
    for again in [(ADD, ALICE), (DELETE, BOB), (0, BOB)] {
        assert_eq!(bench.ask(&edit(&[again])).unwrap(), list(1, &[ALICE]));
        assert_eq!(bench.change, None);
    }
}

#[test]
fn strangers_are_not_answered_at_all() {
    let mut bench = Bench::new();
    bench.ask(&edit(&[(ADD, ALICE)])).unwrap();
    for frame in [read(), request(1, &[0; 8]), request(9, &[]), request(3, &[0, 0])] {
        assert_eq!(bench.ask(&from_bob(frame.clone())), Err(Refusal::Masked));
        assert!(bench.ask(&frame).is_ok());
    }
}

#[test]
fn who_locks_himself_out_still_gets_that_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(&edit(&[(ADD, BOB)])).unwrap(), list(1, &[BOB]));
    assert_eq!(bench.ask(&read()), Err(Refusal::Masked));
}

#[test]
fn a_bad_directive_stops_the_edit_there() {
    let mut bench = Bench::new();
    let frame = edit(&[(ADD, ALICE), (0, BOB), (3, BOB), (ADD, BOB)]);
    assert_eq!(bench.ask(&frame).unwrap(), stopped(2, 2));
    assert_eq!(bench.change, Some(StateChange::MacMask), "what came before stays");
    assert_eq!(bench.target.state().mask(), [ALICE]);
}

#[test]
fn the_list_ends_where_an_answer_does() {
    let mut bench = Bench::new();
    let all: Vec<_> = (0..184).map(|number| (ADD, mac(number))).collect();
    bench.ask(&edit(&[(ADD, ALICE)])).unwrap();
    let reply = bench.ask(&edit(&all)).unwrap();
    assert_eq!((reply[26], reply[27], reply.len()), (0, 185, 28 + 185 * 8));
    assert!(reply.len() <= 1514);
    assert_eq!(bench.ask(&edit(&[(ADD, ALICE), (ADD, BOB)])).unwrap(), stopped(3, 1));
    bench.link = LinkLimits::for_mtu(9000).unwrap();
    assert_eq!(bench.ask(&edit(&[(ADD, BOB)])).unwrap(), stopped(3, 0), "for every link");
    bench.link = LinkLimits::for_mtu(1400).unwrap();
    assert_eq!(bench.ask(&read()).unwrap(), answer(0x1c, 2, 2, &[0, 0, 0, 0]));
    assert_eq!(bench.ask(&edit(&[(DELETE, mac(0))])).unwrap(), stopped(1, 1));
    assert_eq!(bench.target.state().mask().len(), 184, "the deletion took effect");
    assert_eq!(bench.ask(&edit(&[(ADD, BOB)])).unwrap(), stopped(3, 0), "173 fit here");
}

#[test]
fn malformed_edits_change_nothing() {
    let mut bench = Bench::new();
    let refused = |mcmd| answer(0x1c, 2, 2, &[0, mcmd, 0, 0]);
    let mut lying = edit(&[(ADD, ALICE), (ADD, BOB)]);
    lying[27] = 3;
    assert_eq!(bench.ask(&lying).unwrap(), refused(1));
    lying[27] = 255;
    assert_eq!(bench.ask(&lying).unwrap(), refused(1));
    let whole = edit(&[(ADD, ALICE), (ADD, BOB)]);
    assert_eq!(bench.ask(&whole[..whole.len() - 1]).unwrap(), refused(1));
    assert_eq!(bench.ask(&request(2, &[0, 2, 0, 0])).unwrap(), refused(2));
    assert_eq!(bench.target.state().mask(), []);
}

#[test]
fn wildcards_read_but_do_not_edit() {
    let mut bench = Bench::new();
    assert!(bench.ask(&to_all_slots(read())).is_ok());
    let frame = to_all_slots(edit(&[(ADD, ALICE)]));
    assert_eq!(bench.ask(&frame), Err(Refusal::WildcardChange));
    assert_eq!(bench.target.state().mask(), []);
}

#[test]
fn a_frozen_list_stands() {
    let mut bench = Bench::with(|config| config.freeze.mask = true);
    bench.target.state_mut().mask.push(ALICE).unwrap();
    let frame = edit(&[(ADD, ALICE), (DELETE, BOB), (ADD, BOB)]);
    assert_eq!(bench.ask(&frame).unwrap(), stopped(1, 2));
    assert_eq!(bench.change, None);
    assert_eq!(bench.ask(&read()).unwrap(), list(0, &[ALICE]));
}
