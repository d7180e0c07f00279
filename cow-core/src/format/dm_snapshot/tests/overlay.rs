//! The trait's answers, and random writes against a flat model.

use std::vec;
use std::vec::Vec;

use super::{Medium, Random, Rig, content, extent, load, pool, tags_on};
use crate::format::dm_snapshot::{Overflow, create, index_needed};
use crate::format::{
    Adopted, Applied, Cleared, Fill, IndexEntry, Load, Located, Map, Overlay, Place, Placed, Run,
    State,
};

fn place(rig: &mut Rig, start: u64, sectors: u64) -> Placed {
    rig.top.place(extent(start, sectors), &rig.pool, &mut rig.index)
}

fn locate(rig: &Rig, start: u64, sectors: u64) -> Located {
    rig.top.locate(extent(start, sectors), &rig.pool, &rig.index)
}

fn clear(rig: &mut Rig, start: u64, sectors: u64, discard: bool) -> Cleared {
    rig.top.clear(extent(start, sectors), discard, &rig.pool, &rig.index)
}

fn run(sectors: u64, place: Place) -> Located {
    Located::Run(Run { sectors, place })
}

/// The kernel's `P`: everything fails from the first write on that finds no room.
#[test]
fn a_full_store_can_fail_as_a_whole() {
    let mut rig = Rig::create(8, 4, 100, 2);
    rig.top = rig.top.with_overflow(Overflow::Invalidate);
    assert!(rig.write(extent(0, 8), 1) && rig.write(extent(8, 8), 1));
    rig.commit();
    assert!(!rig.top.is_to_be_invalidated());
    assert_eq!(place(&mut rig, 64, 1), Placed::Full);
    assert!(rig.top.is_to_be_invalidated());
    let offset = 4;
    assert_eq!(locate(&rig, 0, 8), Located::Corrupt { offset });
    assert_eq!(place(&mut rig, 0, 8), Placed::Corrupt { offset });
    assert_eq!(clear(&mut rig, 0, 8, true), Cleared::Corrupt { offset });
    // By default only that write fails.
    let mut rig = Rig::create(8, 4, 100, 2);
    assert!(rig.write(extent(0, 16), 1));
    assert_eq!(place(&mut rig, 64, 1), Placed::Full);
    assert!(!rig.top.is_to_be_invalidated());
    assert!(matches!(locate(&rig, 0, 8), Located::Run(_)));
}

#[test]
fn two_whole_chunks_give_the_bytes_that_the_kernel_writes() {
    let mut rig = Rig::create(64, 100, 6400, 2);
    assert!(rig.write(extent(0, 64), 9) && rig.write(extent(64, 64), 9));
    rig.commit();
    let mut header = vec![0; 0x8000];
    header[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x40\0\0\0");
    assert_eq!(rig.medium.bytes(0, 0x8000), header);
    let mut area = vec![0; 0x8000];
    area[8] = 2;
    area[16] = 1;
    area[24] = 3;
    assert_eq!(rig.medium.bytes(0x8000, 0x8000), area);
    assert_eq!(rig.medium.bytes(0x10000, 512), content(0, 9));
    assert_eq!(rig.medium.bytes(0x10000 + 0x8000 + 512, 512), content(65, 9));
}

#[test]
fn placing_allocates_skips_areas_and_asks_for_the_rest_of_the_chunk() {
    // 32 exceptions an area: areas at 1, 34, 67.
    let mut rig = Rig::create(1, 70, 1000, 8);
    for lba in 0..33 {
        let chunk = if lba < 32 { lba + 2 } else { 35 };
        let expected = Placed::Write {
            sectors: 1,
            offset: chunk * 512,
            fresh: 1,
            publish: true,
            fill: None, // the write covers its chunk
        };
        assert_eq!(place(&mut rig, lba * 3, 5), expected);
    }
    // A disk whose last chunk is cut.
    let mut rig = Rig::create(8, 20, 21, 2);
    let unit = extent(16, 5);
    let fill = Some(Fill { unit, offset: 2 * 4096 });
    assert_eq!(
        place(&mut rig, 17, 4),
        Placed::Write { sectors: 4, offset: 2 * 4096 + 512, fresh: 8, publish: true, fill }
    );
    assert_eq!(
        place(&mut rig, 8, 13),
        Placed::Write { sectors: 8, offset: 3 * 4096, fresh: 8, publish: true, fill: None }
    );
    rig.top.abandon(unit, &mut rig.index);
    assert_eq!(
        place(&mut rig, 16, 5),
        Placed::Write { sectors: 5, offset: 4 * 4096, fresh: 8, publish: true, fill: None }
    );
}

#[test]
fn a_pending_chunk_is_busy_and_reads_from_below() {
    let mut rig = Rig::create(8, 20, 100, 2);
    assert!(matches!(place(&mut rig, 9, 2), Placed::Write { sectors: 2, .. }));
    assert_eq!(place(&mut rig, 15, 4), Placed::Busy);
    assert_eq!(clear(&mut rig, 12, 1, true), Cleared::Busy);
    assert_eq!(locate(&rig, 0, 100), run(100, Place::Absent));
    rig.apply(extent(9, 2));
    let data = Place::Data { offset: 2 * 4096 + 512 };
    assert_eq!(locate(&rig, 9, 50), run(7, data), "applied is visible");
    assert_eq!(locate(&rig, 0, 50), run(8, Place::Absent));
    let rewrite = |publish| Placed::Write {
        sectors: 1,
        offset: 2 * 4096 + 7 * 512,
        fresh: 0,
        publish,
        fill: None,
    };
    assert_eq!(place(&mut rig, 15, 9), rewrite(true), "not on the medium yet");
    rig.apply(extent(15, 1));
    assert_eq!(rig.top.exceptions(), 1);
    rig.commit();
    assert_eq!(place(&mut rig, 15, 9), rewrite(false));
}

#[test]
fn consecutive_chunks_are_one_run() {
    let mut rig = Rig::create(2, 200, 400, 8);
    for chunk in [10, 11, 12, 14, 13] {
        assert!(rig.write(extent(chunk * 2, 2), 1));
    }
    let data = |chunk: u64| Place::Data { offset: chunk * 1024 };
    assert_eq!(locate(&rig, 20, 100), run(6, data(2)));
    assert_eq!(locate(&rig, 26, 100), run(2, data(6)));
    assert_eq!(locate(&rig, 28, 100), run(2, data(5)));
    assert_eq!(locate(&rig, 30, 100), run(100, Place::Absent));
    assert_eq!(locate(&rig, 30, 370), run(256, Place::Absent), "bounded");
    assert_eq!(locate(&rig, 0, 100), run(20, Place::Absent));
    rig.commit();
    assert!(
        matches!(place(&mut rig, 21, 9), Placed::Write { sectors: 5, publish: false, .. }),
        "rewrites are merged too"
    );
    assert!(rig.write(extent(2, 2), 1));
    let runs: Vec<_> = rig.top.runs(&rig.index).collect();
    let at = |start, sectors, chunk: u64| (extent(start, sectors), chunk * 1024);
    assert_eq!(runs, [at(2, 2, 7), at(20, 6, 2), at(26, 2, 6), at(28, 2, 5)]);
}

#[test]
fn clearing_zeroes_what_is_there_and_writes_zeros_elsewhere() {
    let mut rig = Rig::create(8, 20, 100, 2);
    assert!(rig.write(extent(8, 8), 1));
    assert_eq!(clear(&mut rig, 10, 90, false), Cleared::WriteZeros { sectors: 6 }, "unpublished");
    let zero = Cleared::ZeroData { sectors: 6, offset: 2 * 4096 + 1024 };
    assert_eq!(clear(&mut rig, 10, 90, true), zero);
    rig.commit();
    assert_eq!(clear(&mut rig, 10, 90, false), zero);
    assert_eq!(clear(&mut rig, 10, 2, true), Cleared::ZeroData { sectors: 2, offset: 9216 });
    assert_eq!(clear(&mut rig, 16, 84, false), Cleared::WriteZeros { sectors: 84 });
    assert_eq!(clear(&mut rig, 3, 84, true), Cleared::Skip { sectors: 5 });
}

#[test]
fn a_full_store_refuses_new_chunks_only() {
    // Room test of the kernel: store_sectors >= (next_free + 1) * chunk_size; a part of a chunk at
    // the end is no room.
    let mut medium = Medium::new(5 * 4 + 3);
    create(&mut medium, 4).unwrap();
    let mut rig = Rig::over(medium, 400, 2);
    for lba in [0, 100, 200] {
        assert!(rig.write(extent(lba, 1), 1));
    }
    assert_eq!(place(&mut rig, 300, 1), Placed::Full);
    assert!(matches!(place(&mut rig, 103, 1), Placed::Write { offset: 7680, .. }));
    rig.commit();
    assert_eq!(rig.top.allocated_sectors(), 20);
    rig.reopen();
    assert_eq!(place(&mut rig, 300, 1), Placed::Full);
    assert_eq!(rig.top.geometry().capacity(), 3);
}

#[test]
fn an_area_is_never_filled_without_room_for_the_next() {
    // Chunks 2 to 33 are the data of area 0; area 1 would be chunk 34.
    for (chunks, room) in [(33, 31), (34, 31), (35, 32), (36, 33)] {
        let mut rig = Rig::create(1, chunks, 1000, 2);
        assert_eq!(rig.top.geometry().capacity(), room);
        for lba in 0..room {
            assert!(rig.write(extent(lba, 1), 1), "{chunks} {lba}");
        }
        assert!(!rig.write(extent(room, 1), 1));
        rig.commit();
        rig.reopen();
        assert_eq!(rig.top.exceptions(), room);
        assert!(!rig.write(extent(room, 1), 1));
    }
}

#[test]
fn the_index_says_how_much_it_needs() {
    let mut medium = Medium::new(800);
    create(&mut medium, 8).unwrap();
    let (mut top, mut index) = load(&mut medium, 800, 3);
    let pool = pool(2);
    for lba in [0, 100, 200] {
        assert!(matches!(top.place(extent(lba, 1), &pool, &mut index), Placed::Write { .. }));
    }
    let needed = index_needed(4);
    assert_eq!(top.place(extent(300, 1), &pool, &mut index), Placed::IndexFull { needed });
    let mut larger = vec![IndexEntry::EMPTY; usize::try_from(needed).unwrap()];
    crate::format::dm_snapshot::move_index(&index, &mut larger).unwrap();
    assert_eq!(top.place(extent(100, 1), &pool, &mut larger), Placed::Busy);
    assert!(matches!(
        top.place(extent(300, 1), &pool, &mut larger),
        Placed::Write { offset: 22528, .. }
    ));
    // Memory that is not the overlay's own: odd answers, but answers.
    for index in [&mut [][..], &mut [IndexEntry { key: u64::MAX, value: u64::MAX }; 3]] {
        assert!(matches!(top.place(extent(500, 1), &pool, index), Placed::IndexFull { .. }));
        top.abandon(extent(500, 1), index);
        let _any = top.locate(extent(0, 800), &pool, index);
    }
}

#[test]
fn what_was_abandoned_is_used_again_if_it_was_the_last() {
    // Areas at 1, 34.
    let mut rig = Rig::create(1, 70, 1000, 2);
    for lba in 0..32 {
        assert!(matches!(place(&mut rig, lba, 1), Placed::Write { .. }));
    }
    rig.top.abandon(extent(31, 1), &mut rig.index); // chunk 33; the next free had become 35
    assert!(matches!(place(&mut rig, 500, 1), Placed::Write { offset: 16896, .. })); // 33
    assert!(matches!(place(&mut rig, 501, 1), Placed::Write { offset: 17920, .. })); // 35
    rig.top.abandon(extent(3, 1), &mut rig.index); // chunk 5: leaked
    assert!(matches!(place(&mut rig, 3, 1), Placed::Write { offset: 18432, .. })); // 36
    for lba in (0..32).chain(500..502) {
        if lba != 31 {
            assert_eq!(place(&mut rig, lba, 1), Placed::Busy, "{lba} can still be found");
        }
    }
    rig.top.abandon(extent(0, 1000), &mut rig.index);
    assert_eq!(locate(&rig, 0, 100), run(100, Place::Absent));
    assert!(rig.index.iter().all(|e| *e == IndexEntry::EMPTY));
    // What is in the list is not given up.
    assert!(rig.write(extent(7, 1), 1));
    rig.top.abandon(extent(0, 1000), &mut rig.index);
    assert!(matches!(locate(&rig, 7, 1), Located::Run(Run { place: Place::Data { .. }, .. })));
}

#[test]
fn notes_are_adopted_unless_they_contradict_the_store() {
    let mut rig = Rig::create(8, 600, 4000, 2); // areas at 1, 258, 515
    assert!(rig.write(extent(0, 8), 1)); // chunk 2
    rig.commit();
    rig.reopen();
    let adopt = |rig: &mut Rig, start, sectors, chunk: u64, skip: u64| {
        let offset = chunk * 4096 + skip * 512;
        rig.top.adopt(extent(start, sectors), offset, &mut rig.index) == Adopted::Taken
    };
    assert!(adopt(&mut rig, 42, 3, 9, 2), "chunk 5 of the disk");
    assert!(adopt(&mut rig, 48, 8, 7, 0), "out of order");
    assert!(adopt(&mut rig, 44, 1, 9, 4), "again");
    assert!(adopt(&mut rig, 0, 8, 2, 0), "published in time");
    assert!(!adopt(&mut rig, 0, 8, 11, 0), "published elsewhere");
    assert!(!adopt(&mut rig, 64, 8, 9, 0), "chunk in use");
    assert!(!adopt(&mut rig, 64, 8, 2, 0), "chunk in use on the medium");
    assert!(!adopt(&mut rig, 64, 8, 0, 0) && !adopt(&mut rig, 64, 8, 1, 0), "header, area");
    assert!(!adopt(&mut rig, 64, 8, 258, 0) && !adopt(&mut rig, 64, 8, 600, 0), "area, beyond");
    assert!(!adopt(&mut rig, 64, 8, u64::MAX / 4096, 0));
    assert!(!adopt(&mut rig, 66, 2, 20, 0), "not at its place in the chunk");
    assert!(!adopt(&mut rig, 4000, 2, 20, 0), "beyond the disk");
    assert!(adopt(&mut rig, 80, 16, 256, 0), "two chunks");
    assert_eq!(place(&mut rig, 42, 1), Placed::Busy);
    assert_eq!(locate(&rig, 40, 8), run(8, Place::Absent));
    for (start, sectors) in [(42, 3), (48, 8), (44, 1), (0, 8), (80, 16)] {
        rig.apply(extent(start, sectors));
    }
    rig.commit();
    assert_eq!(rig.medium.list(), [(0, 2), (5, 9), (6, 7), (10, 256), (11, 257)]);
    assert!(
        matches!(place(&mut rig, 400, 1), Placed::Write { offset, .. } if offset == 259 * 4096),
        "behind everything, and behind the area"
    );
}

#[test]
fn the_next_area_is_zeroed_before_this_one_is_full() {
    let mut rig = Rig::create(1, 100, 1000, 4);
    for lba in 0..31 {
        assert!(rig.write(extent(lba, 1), 1));
    }
    for lba in [40, 50, 60] {
        assert!(matches!(place(&mut rig, lba, 1), Placed::Write { .. }));
    }
    let mut apply = |lba| rig.top.apply(extent(lba, 1), State::Data, &mut rig.pool, &mut rig.index);
    let zero = Applied::ZeroFirst { offset: 34 * 512, len: 512 };
    assert_eq!(apply(40), zero);
    rig.top.abandon(extent(40, 1), &mut rig.index);
    let mut apply = |lba| rig.top.apply(extent(lba, 1), State::Data, &mut rig.pool, &mut rig.index);
    assert_eq!(apply(50), zero, "40 gave up");
    rig.top.zeroed(34 * 512);
    rig.apply(extent(50, 1));
    rig.apply(extent(60, 1));
    rig.commit();
    let list = rig.medium.list();
    assert_eq!(list.len(), 33);
    assert_eq!(list[31..], [(50, 35), (60, 36)]);
}

#[test]
fn a_commit_takes_eight_sectors_of_the_list() {
    let mut rig = Rig::create(1, 2000, 2000, 20);
    for lba in 0..260 {
        assert!(matches!(place(&mut rig, lba, 1), Placed::Write { .. }));
    }
    rig.apply(extent(0, 256));
    let apply =
        |rig: &mut Rig| rig.top.apply(extent(256, 4), State::Data, &mut rig.pool, &mut rig.index);
    assert_eq!(apply(&mut rig), Applied::AfterCommit);
    let sealed = rig.seal();
    assert_eq!(apply(&mut rig), Applied::AfterCommit);
    let expected: Vec<_> = (0..8_u8).map(|i| (1 + 33 * u64::from(i), i)).collect();
    assert_eq!(rig.publish(&sealed), expected, "one sector an area");
    rig.apply(extent(256, 4));
    rig.commit();
    assert_eq!(rig.medium.list().len(), 260);
}

#[test]
fn entries_can_follow_while_a_version_of_their_page_is_published() {
    let mut rig = Rig::create(8, 2000, 2000, 20);
    assert!(rig.write(extent(0, 40), 1)); // 5 exceptions
    let sealed = rig.seal();
    assert!(rig.write(extent(80, 8), 2));
    assert_eq!(rig.medium.list().len(), 0);
    assert_eq!(rig.publish(&sealed).len(), 1);
    assert_eq!(rig.medium.list().len(), 5, "only what was sealed");
    assert!(matches!(place(&mut rig, 80, 1), Placed::Write { publish: true, .. }));
    assert!(matches!(place(&mut rig, 39, 1), Placed::Write { publish: false, .. }));
    rig.commit();
    assert_eq!(rig.medium.list().len(), 6);
    assert!(matches!(place(&mut rig, 80, 1), Placed::Write { publish: false, .. }));
}

#[test]
fn a_store_that_somebody_else_writes_to_is_corrupt() {
    let mut rig = Rig::create(8, 2000, 2000, 20);
    rig.medium.poke(4096 + 8, &[77]);
    assert!(matches!(place(&mut rig, 0, 8), Placed::Write { .. }));
    for _ in 0..2 {
        let wish = rig.top.apply(extent(0, 8), State::Data, &mut rig.pool, &mut rig.index);
        rig.serve(wish);
    }
    assert_eq!(
        rig.top.apply(extent(0, 8), State::Data, &mut rig.pool, &mut rig.index),
        Applied::Corrupt { offset: 4096 }
    );
    let mut page = [0; 4096];
    assert_eq!(
        rig.top.load(u64::MAX >> 5, 0, &mut 0, &mut page),
        Load::Corrupt { offset: u64::MAX }
    );
    assert_eq!(rig.top.load(8, 0, &mut 0, &mut page), Load::Read { offset: 258 * 4096, len: 512 });
    assert_eq!(rig.top.preamble(&mut page), None);
}

#[test]
fn random_writes_read_back_like_a_flat_disk() {
    for (chunk, areas) in [(1_u32, 5), (2, 4), (4, 3), (8, 3), (16, 2), (64, 1), (128, 1)] {
        let entries = u64::from(chunk) * 32;
        let writes = if areas > 1 { entries * areas / 2 } else { 150 };
        let disk = (entries * areas * u64::from(chunk)).min(40_000) - u64::from(chunk) / 2;
        let mut rig =
            Rig::create(chunk, (entries + 2) * areas, disk, 2 + usize::from(chunk % 3 == 1));
        let mut model = vec![0_u32; usize::try_from(disk).unwrap()];
        let mut random = Random(u64::from(chunk) + 77);
        for tag in 1..=u32::try_from(writes).unwrap() {
            let start = random.below(disk);
            let sectors = (1 + random.below(u64::from(chunk) * 3)).min(disk - start);
            assert!(rig.write(extent(start, sectors), tag));
            let at = usize::try_from(start).unwrap();
            model[at..at + usize::try_from(sectors).unwrap()].fill(tag);
            if random.below(9) == 0 {
                rig.commit();
            }
            if random.below(writes / 4) == 0 {
                assert_eq!(rig.tags(), model);
                rig.commit();
                rig.reopen();
            }
        }
        rig.commit();
        assert_eq!(rig.tags(), model, "chunk {chunk}");
        let (opened, on_medium) = tags_on(&rig.medium, disk);
        assert_eq!(on_medium, model);
        assert_eq!(opened.exceptions(), rig.medium.list().len() as u64);
        if areas > 1 {
            assert!(opened.exceptions() > entries, "chunk {chunk}: more than one area");
        }
    }
}

#[test]
fn several_areas_at_the_sizes_that_are_used() {
    for chunk in [16_u32, 64, 128] {
        let entries = u64::from(chunk) * 32;
        let disk = (entries + 50) * u64::from(chunk);
        let mut rig = Rig::create(chunk, entries + 100, disk, 3);
        for i in 0..entries + 40 {
            assert!(rig.write(extent(i * u64::from(chunk) + i % 7, 1), 1));
        }
        rig.commit();
        let (opened, tags) = tags_on(&rig.medium, disk);
        assert_eq!(opened.exceptions(), entries + 40);
        assert_eq!(tags.iter().filter(|&&t| t == 1).count() as u64, entries + 40);
        let list = rig.medium.list();
        assert!(list.iter().all(|&(_, new)| new % (entries + 1) != 1));
        assert_eq!(list.last(), Some(&(entries + 39, entries + 2 + 40)));
    }
}
