//! Damage of every kind, found and repaired as far as nothing is lost.

use std::vec;
use std::vec::Vec;

use super::{KEY, Memory, get, image_with, opened, page, put, with};
use crate::format::Top;
use crate::format::qcow2::{
    CheckError, Finding, OpenWritableError, Opened, RefuseWriting, RepairError, Repaired, Report,
    RollbackError, Surroundings, check, check_needed, close, open_writable, repair, rollback,
};
use crate::units::Lba;

/// An image with 40 data clusters at the front and one at sector 900.
fn filled(version: u32) -> Memory {
    filled_with(version, 16)
}

/// The same with counts of so many bits.
fn filled_with(version: u32, refcount_bits: u8) -> Memory {
    let mut memory = image_with(version, refcount_bits);
    // A storage that cannot grow, with room for what is written.
    memory.bytes.resize(64 * 512, 0);
    let now = opened(&memory);
    let device = Surroundings { capacity: Some(64 * 512), ..Surroundings::default() };
    let top = open_writable(&mut memory, KEY, &now, &device, &mut page()).unwrap();
    let ((), mut memory, top) = with(memory, Some(Top::Qcow2(top)), &[], |chain| {
        chain.write(Lba::ZERO, &vec![7; 40 * 512]).unwrap();
        chain.write(Lba::new(900).unwrap(), &[9; 512]).unwrap();
        chain.flush().unwrap();
    });
    let Some(Top::Qcow2(mut top)) = top else { panic!("another overlay") };
    close(&mut memory, &mut top, &mut page()).unwrap();
    memory
}

fn checked(memory: &Memory) -> (Report, Vec<Finding>) {
    let now = opened(memory);
    let mut counts = vec![0; usize::try_from(check_needed(&now)).unwrap()];
    let mut found = Vec::new();
    let report = check(memory, &now, &mut counts, &mut page(), &mut |f| found.push(f)).unwrap();
    assert_eq!(report.damage + report.warnings, found.len() as u64);
    (report, found)
}

fn repaired(memory: &mut Memory) -> Result<Repaired, RepairError<embedded_io::ErrorKind>> {
    let now = opened(memory);
    let mut counts = vec![0; usize::try_from(check_needed(&now)).unwrap()];
    repair(memory, &now, None, &mut counts, &mut page(), &mut |_| {})
}

/// Where the L1 table, the first L2 table, and the first refcount block are.
fn tables(memory: &Memory) -> (usize, usize, usize) {
    let at = |n: u64| usize::try_from(n).unwrap();
    let l1 = at(get(memory, 40));
    let l2 = at(get(memory, l1) & 0x00ff_ffff_ffff_fe00);
    let block = at(get(memory, at(get(memory, 48))));
    (l1, l2, block)
}

/// Place of the count of the cluster at this byte.
fn count_at(memory: &Memory, offset: u64) -> usize {
    tables(memory).2 + usize::try_from(offset / 512 * 2).unwrap()
}

#[test]
fn a_sound_image_has_no_findings_and_nothing_to_repair() {
    for version in [2, 3] {
        let mut memory = filled(version);
        let (report, found) = checked(&memory);
        assert_eq!((found, report.data_clusters, report.leaked_clusters), (vec![], 41, 0));
        let before = memory.bytes.clone();
        let done = repaired(&mut memory).unwrap();
        assert_eq!((done.raised, done.lowered, done.marks, done.cleared), (0, 0, 0, false));
        assert!(memory.bytes == before);
    }
}

#[test]
fn memory_is_asked_for_and_never_guessed() {
    let memory = filled(3);
    let now = opened(&memory);
    let needed = check_needed(&now);
    let mut short = vec![0; usize::try_from(needed).unwrap() - 1];
    let refused = check(&memory, &now, &mut short, &mut page(), &mut |_| {}).unwrap_err();
    assert_eq!(refused, CheckError::MemoryTooSmall { needed });
}

#[test]
fn leaks_are_given_back() {
    let mut memory = filled(3);
    let end = memory.bytes.len() as u64;
    // A cluster behind all others, and one count too many for a data cluster.
    memory.bytes.resize(memory.bytes.len() + 512, 0);
    let data = get(&memory, tables(&memory).1) & !(1 << 63);
    let (behind, twice) = (count_at(&memory, end), count_at(&memory, data));
    put(&mut memory, behind, 1, 2);
    put(&mut memory, twice, 2, 2);
    let (report, found) = checked(&memory);
    let leak = |offset, counted, uses| Finding::Leak { offset, counted, uses };
    assert_eq!(found, [leak(data, 2, 1), leak(end, 1, 0)]);
    assert!(report.is_clean() && report.leaked_clusters == 1);
    let done = repaired(&mut memory).unwrap();
    assert_eq!((done.lowered, done.raised), (2, 0));
    assert_eq!(checked(&memory).1, []);
}

#[test]
fn counts_that_are_too_low_are_raised_and_the_dirty_mark_goes() {
    let mut memory = filled(3);
    let (_, l2, _) = tables(&memory);
    let data = get(&memory, l2) & !(1 << 63);
    let at = count_at(&memory, data);
    put(&mut memory, at, 0, 2);
    let low = Finding::CountTooLow { offset: data, counted: 0, uses: 1 };
    let (report, found) = checked(&memory);
    assert!(found == [low] && report.damage == 1);
    put(&mut memory, 72, 1, 8);
    let (report, found) = checked(&memory);
    assert!(found == [Finding::Dirty, low] && report.is_clean(), "explained by the mark");
    let done = repaired(&mut memory).unwrap();
    assert_eq!((done.raised, done.cleared, done.left.damage), (1, true, 0));
    assert_eq!(checked(&memory).1, []);
    assert!(!opened(&memory).header().is_dirty());
}

/// A count of one bit cannot tell that a cluster is shared: the mark of dirt must stay, or nobody
/// would know that a write changes two places.
#[test]
fn what_cannot_be_counted_stays_marked() {
    let mut memory = filled_with(3, 1);
    let (_, l2, _) = tables(&memory);
    let first = get(&memory, l2);
    put(&mut memory, l2 + 8, first, 8);
    put(&mut memory, 72, 1, 8);
    let done = repaired(&mut memory).unwrap();
    assert!(done.left.damage == 1 && !done.cleared, "{done:?}");
    assert!(opened(&memory).header().is_dirty());
}

/// The file was cut off: what is left of it can be read. Growing, it would show zeros in place of what
/// is missing, so nothing is written, and no repair gives the places of the missing clusters away.
#[test]
fn a_file_that_was_cut_off_is_only_read() {
    let mut memory = filled(3);
    let (_, l2, _) = tables(&memory);
    let last = (0..40).map(|n| get(&memory, l2 + 8 * n) & !(1 << 63)).max().unwrap();
    memory.bytes.truncate(usize::try_from(last).unwrap());
    let now = opened(&memory);
    let writable = |memory: &mut Memory, now: &Opened| {
        open_writable(memory, KEY, now, &Surroundings::default(), &mut page()).map(drop)
    };
    let refused = writable(&mut memory, &now);
    assert_eq!(refused, Err(OpenWritableError::Refused { reason: RefuseWriting::CutOff }));
    let before = memory.bytes.clone();
    assert!(repaired(&mut memory).unwrap().left.damage > 0);
    assert!(memory.bytes == before);
    // Counted and named by nothing: what a power cut may leave behind the end.
    let behind = filled(3).bytes.len() as u64 + 512;
    let mut memory = filled(3);
    let at = count_at(&memory, behind);
    put(&mut memory, at, 1, 2);
    let now = opened(&memory);
    assert_eq!(writable(&mut memory, &now), Ok(()));
}

#[test]
fn a_missing_block_is_made_anew() {
    let mut memory = filled(3);
    let reftable = usize::try_from(get(&memory, 48)).unwrap();
    put(&mut memory, reftable, 0, 8);
    put(&mut memory, 72, 1, 8);
    assert!(checked(&memory).1.len() > 41, "every cluster in use");
    let done = repaired(&mut memory).unwrap();
    assert_eq!((done.blocks, done.cleared), (1, true));
    assert_eq!(checked(&memory).1, []);
}

#[test]
fn marks_follow_the_counts() {
    let mut memory = filled(3);
    let (_, l2, _) = tables(&memory);
    // The first cluster is used twice, and both entries call it their own; the third entry does not.
    let first = get(&memory, l2);
    put(&mut memory, l2 + 8, first, 8);
    let third = get(&memory, l2 + 16) & !(1 << 63);
    put(&mut memory, l2 + 16, third, 8);
    let (report, found) = checked(&memory);
    let at = l2 as u64;
    assert!(found.contains(&Finding::CopiedWrongly { offset: at }));
    assert!(found.contains(&Finding::CopiedWrongly { offset: at + 8 }));
    assert!(found.contains(&Finding::NotCopied { offset: at + 16 }));
    assert!(report.damage == 3 && report.leaked_clusters == 1);
    let done = repaired(&mut memory).unwrap();
    assert_eq!((done.marks, done.raised, done.lowered, done.left.damage), (3, 1, 1, 0));
    assert_eq!(get(&memory, l2 + 8), first & !(1 << 63));
    assert_eq!(checked(&memory).1, []);
}

#[test]
fn entries_that_cannot_be_are_told_and_left_alone() {
    let sound = filled(3);
    let (l1, l2, _) = tables(&sound);
    let end = sound.bytes.len() as u64;
    let bad = [
        (l1 + 8, 513),                       // not aligned
        (l1 + 8, end.next_multiple_of(512)), // behind the end
        (l1 + 8, 1 << 60 | 1024),            // reserved bits
        (l2 + 40 * 8, 1 << 57 | 512),
        (l2 + 40 * 8, get(&sound, 40) | 1 << 63), // the L1 table
        (l2 + 40 * 8, 1 << 62 | 1 << 50),         // compressed, behind the end
    ];
    for (at, entry) in bad {
        let mut memory = sound.clone();
        put(&mut memory, at, entry, 8);
        let (_, found) = checked(&memory);
        assert!(found.contains(&Finding::BadEntry { offset: at as u64, entry }), "{entry:#x}");
        let before = memory.bytes.clone();
        let done = repaired(&mut memory).unwrap();
        assert!(done.left.damage == 1 && memory.bytes == before, "{entry:#x}");
    }
    // An entry of the refcount table decides about all the others: nothing is touched.
    let mut memory = sound;
    let reftable = usize::try_from(get(&memory, 48)).unwrap();
    put(&mut memory, reftable + 8, 5, 8);
    let before = memory.bytes.clone();
    assert_eq!(repaired(&mut memory), Err(RepairError::Tangled));
    assert!(memory.bytes == before);
}

#[test]
fn tables_that_are_data_too_are_not_repaired_into_ruin() {
    let mut memory = filled(3);
    let (_, l2, block) = tables(&memory);
    put(&mut memory, l2 + 8, 1 << 63 | block as u64, 8);
    let (_, found) = checked(&memory);
    assert!(found.contains(&Finding::Overlap { offset: block as u64, uses: 2 }));
    assert_eq!(repaired(&mut memory), Err(RepairError::Tangled));
}

#[test]
fn rollback_empties_and_keeps_snapshots_safe() {
    for version in [2, 3] {
        let mut memory = filled(version);
        let now = opened(&memory);
        rollback(&mut memory, &now, None, &mut page()).unwrap();
        let (report, found) = checked(&memory);
        assert_eq!((report.data_clusters, found), (0, vec![]));
        put(&mut memory, 60, 1, 4);
        put(&mut memory, 64, 512, 8);
        let before = opened(&memory);
        let refused = rollback(&mut memory, &before, None, &mut page());
        assert_eq!(refused, Err(RollbackError::Snapshots { count: 1 }));
    }
}

/// An image with a directory of one bitmap, its table and a cluster behind everything else, all counted.
/// The extension is read only if the header vouches for it.
fn with_bitmap() -> (Memory, u64) {
    let mut memory = filled(3);
    let at = memory.bytes.len();
    memory.bytes.resize(at + 3 * 512, 0);
    let offset = at as u64;
    for (field, value, len) in [
        (88, 1, 8),            // autoclear: bitmaps
        (112, 0x2385_2875, 4), // the extension
        (116, 24, 4),
        (120, 1, 4),  // one bitmap
        (128, 32, 8), // bytes of the directory
        (136, offset, 8),
        (at, offset + 512, 8), // its table
        (at + 8, 2, 4),        // of two entries
        (at + 18, 3, 2),       // and a name of three bytes
        (at + 512, 1, 8),      // all ones, without a cluster
        (at + 520, offset + 1024, 8),
    ] {
        put(&mut memory, field, value, len);
    }
    for n in 0..3 {
        let count = count_at(&memory, offset + n * 512);
        put(&mut memory, count, 1, 2);
    }
    (memory, offset)
}

#[test]
fn clusters_of_bitmaps_are_in_use_as_long_as_the_header_vouches_for_them() {
    let (mut memory, offset) = with_bitmap();
    assert_eq!(checked(&memory).1, []);
    let before = memory.bytes.clone();
    let done = repaired(&mut memory).unwrap();
    assert!(done.lowered == 0 && memory.bytes == before);
    put(&mut memory, 88, 0, 8);
    let leak = |n: u64| Finding::Leak { offset: offset + n * 512, counted: 1, uses: 0 };
    assert_eq!(checked(&memory).1, [leak(0), leak(1), leak(2)]);
    assert_eq!(repaired(&mut memory).unwrap().lowered, 3);
}

#[test]
fn bitmaps_that_cannot_be_followed_give_nothing_back() {
    let (good, offset) = with_bitmap();
    let at = usize::try_from(offset).unwrap();
    let bad = |offset| Finding::BadBitmaps { offset };
    let entry = |offset, entry| Finding::BadEntry { offset, entry };
    for (field, value, len, finding) in [
        (120, 0, 4, bad(offset)),      // none
        (120, 2, 4, bad(offset + 32)), // one that is not there
        (128, 24, 8, bad(offset)),     // a name behind the directory
        (128, 1 << 40, 8, bad(offset)),
        (136, offset + 8, 8, bad(offset + 8)), // not aligned
        (136, u64::MAX - 511, 8, bad(u64::MAX - 511)),
        (at + 20, 0xffff_ffff, 4, bad(offset)), // extra data
        (at, 0, 8, bad(offset)),                // its table is the header
        (at, offset, 8, bad(offset)),           // or the directory
        (at + 8, 0, 4, bad(offset)),            // without entries
        (at + 8, 0xffff_ffff, 4, bad(offset)),
        (at + 520, 1 << 40, 8, entry(offset + 520, 1 << 40)), // behind the end
        (at + 520, (offset + 1024) | 2, 8, entry(offset + 520, (offset + 1024) | 2)),
    ] {
        let mut memory = good.clone();
        put(&mut memory, field, value, len);
        let (report, found) = checked(&memory);
        assert!(found.contains(&finding) && report.damage > 0, "{field} {value:#x}: {found:?}");
        let done = repaired(&mut memory).unwrap();
        assert_eq!(done.lowered, 0, "{field} {value:#x}");
    }
    let mut memory = good;
    put(&mut memory, 116, 16, 4);
    assert!(crate::format::qcow2::open(&memory).is_err(), "an extension that is too short");
}

/// QEMU does not pad the last entry of the list, and the file can end there.
#[test]
fn the_list_of_snapshots_may_end_with_the_file() {
    let mut memory = filled(3);
    let at = memory.bytes.len();
    memory.bytes.resize(at + 512, 0);
    let (offset, l1) = (at as u64, get(&memory, 40));
    memory.bytes.resize(at + 512 + 40 + 16 + 2, 0);
    for (field, value, len) in [
        (60, 1, 4),
        (64, offset + 512, 8),
        (at + 512, l1, 8),
        (at + 520, u64::from(u32::try_from(get(&memory, 32)).unwrap()), 4),
        (at + 524, 1, 2),
        (at + 526, 1, 2),
        (at + 548, 16, 4),
        (at + 560, 1000 * 512, 8),
    ] {
        put(&mut memory, field, value, len);
    }
    memory.bytes[at + 568..].copy_from_slice(b"1a");
    let now = opened(&memory);
    let found = crate::format::qcow2::find_snapshot(&memory, &now, b"a").unwrap();
    assert_eq!(found.map(|snapshot| snapshot.disk_bytes()), Some(1000 * 512));
    memory.bytes.truncate(at + 569);
    let now = opened(&memory);
    crate::format::qcow2::find_snapshot(&memory, &now, b"a").unwrap_err();
}
