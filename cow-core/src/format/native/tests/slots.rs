//! Page slots: literal bytes, and every row of the table in [FORMAT 5.6].

use super::super::page::{FELL_BACK, FRESH, Rules, SEALED, Verdict, sequence, states_mut};
use super::super::states::set;
use super::*;

/// A page written by hand, byte by byte, as the document says.
fn literal(epoch: u64, sequence: u64, session: u64, first_states: u8) -> Box<[u8; PAGE_LEN]> {
    let mut slot = Box::new([0; PAGE_LEN]);
    slot[0..8].copy_from_slice(b"cowbpage");
    slot[16..32].copy_from_slice(&ID.0);
    slot[32] = 0; // index
    slot[40] = u8::try_from(epoch).unwrap();
    slot[48] = u8::try_from(sequence).unwrap();
    slot[56] = u8::try_from(session).unwrap();
    slot[64] = first_states;
    // CRC32C, bit by bit, over everything but its own four bytes.
    let mut crc = u32::MAX;
    for (at, byte) in slot.iter().enumerate() {
        if (8..12).contains(&at) {
            continue;
        }
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    slot[8..12].copy_from_slice(&(!crc).to_le_bytes());
    slot
}

const RULES: Rules = Rules { page_id: ID, epoch: 3, session: 9, torn_until: 5 };

#[test]
fn a_sealed_page_has_the_documented_bytes() {
    let mut bytes = Box::new([0xa5; PAGE_LEN]);
    RULES.prepare(0, &mut bytes);
    assert_eq!(bytes, literal(3, 0, 9, 0));
    set(states_mut(&mut bytes), 0, 1, 1);
    set(states_mut(&mut bytes), 3, 1, 2);
    let mut note = 0;
    assert_eq!(RULES.seal(0, &mut note, &mut bytes), 1);
    assert_eq!(bytes, literal(3, 1, 9, 0b1000_0001));
    // Not known to have been written: the same sequence again, to the same slot.
    assert_eq!((RULES.seal(0, &mut note, &mut bytes), note), (1, SEALED));
    assert_eq!(bytes, literal(3, 1, 9, 0b1000_0001));
    note = 0;
    assert_eq!(RULES.seal(0, &mut note, &mut bytes), 0);
    assert_eq!(bytes, literal(3, 2, 9, 0b1000_0001));
    // A page whose preparation failed is prepared, not published.
    note = FRESH;
    RULES.prepare(0, &mut bytes);
    assert_eq!((RULES.seal(0, &mut note, &mut bytes), note), (0, FRESH));
    assert_eq!(bytes, literal(3, 0, 9, 0));
}

#[test]
fn every_field_is_judged() {
    let judge = |bytes: &[u8; PAGE_LEN], slot| RULES.judge(0, slot, bytes);
    assert_eq!(judge(&[0; PAGE_LEN], 0), Verdict::Never);
    assert_eq!(judge(&[0xff; PAGE_LEN], 0), Verdict::Torn);
    assert!(matches!(judge(&literal(3, 4, 9, 0), 0), Verdict::Valid(h) if h.sequence == 4));
    assert_eq!(judge(&literal(3, 4, 9, 0), 1), Verdict::Alien, "parity");
    assert_eq!(judge(&literal(4, 4, 9, 0), 0), Verdict::Alien, "epoch newer than the header");
    assert_eq!(judge(&literal(3, 4, 10, 0), 0), Verdict::Alien, "session newer than the next");
    assert_eq!(RULES.judge(1, 0, &literal(3, 4, 9, 0)), Verdict::Alien, "another page");
    let other = Rules { page_id: NEW_ID, ..RULES };
    assert_eq!(other.judge(0, 0, &literal(3, 4, 9, 0)), Verdict::Alien, "another image");
    for at in 0..PAGE_LEN {
        let mut bytes = literal(3, 4, 9, 0);
        bytes[at] ^= 0x10;
        assert_eq!(judge(&bytes, 0), Verdict::Torn, "byte {at}");
    }
}

/// What a load of two slots comes to: sequence, epoch of the states, note; or the slot to blame.
fn outcome(rules: Rules, slots: [&[u8; PAGE_LEN]; 2]) -> Result<(u64, u8, u64), u64> {
    let geometry = Geometry::new(1).unwrap();
    let mut storage = Memory::new(geometry.image_len(), 0);
    storage.write_at(8192, slots[0]).unwrap();
    storage.write_at(12_288, slots[1]).unwrap();
    let mut bytes = Box::new([0xa5; PAGE_LEN]);
    let mut note = u64::MAX;
    for step in 0..=3 {
        match rules.load(geometry, 0, step, &mut note, &mut bytes) {
            Load::Read { offset, len: 4096 } => {
                storage.read_at(offset, &mut bytes[..]).unwrap();
            }
            Load::Ready => {
                let sequence = sequence(&bytes);
                return Ok((sequence, bytes[64], note));
            }
            Load::Corrupt { offset } => return Err((offset - 8192) / 4096),
            other @ Load::Read { .. } => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

#[test]
fn every_pair_of_slots() {
    const N: &[u8; PAGE_LEN] = &[0; PAGE_LEN];
    const T: &[u8; PAGE_LEN] = &[0xff; PAGE_LEN];
    fn is(slots: [&[u8; PAGE_LEN]; 2], expected: Result<(u64, u8, u64), u64>) {
        assert_eq!(outcome(RULES, slots), expected);
    }

    let v = |sequence, session| literal(3, sequence, session, 1);
    let old = |sequence, session| literal(2, sequence, session, 1);
    // Nothing published yet.
    is([N, N], Ok((0, 0, FRESH)));
    is([T, N], Ok((0, 0, FRESH)));
    is([&v(0, 9), N], Ok((0, 0, 0)));
    // Slot 1 torn: tolerated up to session 5.
    is([&v(0, 5), T], Ok((0, 0, FELL_BACK)));
    is([&v(0, 6), T], Err(1));
    is([&v(2, 5), T], Ok((2, 1, FELL_BACK)));
    is([&v(2, 6), T], Err(1));
    // Slot 0 torn.
    is([T, &v(1, 5)], Ok((1, 1, FELL_BACK)));
    is([T, &v(1, 6)], Err(0));
    is([T, &v(7, 5)], Ok((7, 1, FELL_BACK)));
    is([T, &v(7, 6)], Err(0));
    // Both valid: neighbours only.
    is([&v(0, 9), &v(1, 9)], Ok((1, 1, 0)));
    is([&v(2, 9), &v(1, 9)], Ok((2, 1, 0)));
    is([&v(2, 9), &v(3, 9)], Ok((3, 1, 0)));
    is([&v(4, 9), &v(1, 9)], Err(1));
    is([&v(0, 9), &v(3, 9)], Err(1));
    // A slot that was written has become zeros, or was never prepared.
    is([&v(2, 5), N], Err(1));
    is([N, &v(1, 5)], Err(0));
    is([N, &v(3, 5)], Err(0));
    // Two bad ones.
    is([N, T], Err(1));
    is([T, T], Err(1));
    // Older epochs: empty, but counting on.
    is([&old(2, 9), &old(1, 9)], Ok((2, 0, 0)));
    is([&old(2, 5), T], Ok((2, 0, FELL_BACK)));
    is([&old(2, 6), T], Err(1));
    is([&old(2, 9), &v(3, 9)], Ok((3, 1, 0)));
    is([T, &old(3, 5)], Ok((3, 0, FELL_BACK)));
    is([&old(0, 9), N], Ok((0, 0, 0)));
    // Whole pages that are not ours.
    is([&literal(4, 0, 9, 0), N], Err(0));
    is([&v(2, 5), &literal(4, 3, 9, 0)], Err(1));
    is([&v(2, 5), &v(2, 5)], Err(1));
    is([&v(1, 5), &v(1, 5)], Err(0));
}

#[test]
fn a_slot_that_changes_between_the_reads_is_not_believed() {
    let geometry = Geometry::new(1).unwrap();
    let mut note = 0;
    let mut bytes = literal(3, 2, 9, 1);
    assert!(matches!(RULES.load(geometry, 0, 1, &mut note, &mut bytes), Load::Read { .. }));
    bytes = literal(3, 1, 9, 1);
    assert!(matches!(RULES.load(geometry, 0, 2, &mut note, &mut bytes), Load::Read { .. }));
    bytes = literal(3, 4, 9, 1);
    assert_eq!(RULES.load(geometry, 0, 3, &mut note, &mut bytes), Load::Corrupt { offset: 8192 });
    assert_eq!(RULES.load(geometry, 1, 0, &mut note, &mut bytes), Load::Corrupt { offset: 0 });
}
