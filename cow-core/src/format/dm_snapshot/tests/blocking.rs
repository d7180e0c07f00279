//! Opening, creating, checking: literal bytes and every refusal.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use embedded_io::ErrorKind;

use super::{KEY, Medium, Rig, extent, tags_on};
use crate::format::IndexEntry;
use crate::format::dm_snapshot::{
    CheckError, CreateError, Exception, Exceptions, Fault, Geometry, HeaderFault, LoadError,
    OpenError, RefuseWriting, RollbackError, Usage, Writable, check, create, index_needed,
    invalidate, is_store, load_index, open, open_even_invalidated, rollback, unmark,
};

const DISK: u64 = 6400;

/// The store of the format's description: chunk 64, origin chunks 0 and 1 in store chunks 2 and 3.
fn literal(store_sectors: u64) -> Medium {
    let mut medium = Medium::new(store_sectors);
    medium.poke(0, b"\x53\x6e\x41\x70\x01\0\0\0\x01\0\0\0\x40\0\0\0");
    medium.poke(0x8000, b"\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    medium.poke(0x8010, b"\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    medium
}

fn entry(medium: &mut Medium, number: u64, old: u64, new: u64) {
    let at = 0x8000 + number * 16;
    medium.poke(at, &old.to_le_bytes());
    medium.poke(at + 8, &new.to_le_bytes());
}

fn try_load(medium: &Medium, entries: usize) -> Result<(), LoadError<ErrorKind>> {
    let mut scratch = [0; 512];
    let opened = open(medium, DISK, &mut scratch).unwrap();
    let mut index = vec![IndexEntry::EMPTY; entries];
    load_index(medium, &opened, &mut index, &mut scratch).map(|_| ())
}

fn findings(medium: &Medium) -> Vec<Fault> {
    let mut found = Vec::new();
    let mut index = [IndexEntry::EMPTY; 100];
    let report = check(medium, DISK, &mut index, &mut [0; 512], |f| found.push(f)).unwrap();
    assert_eq!(report.errors + report.warnings, found.len() as u64);
    assert_eq!(report.is_clean(), found.iter().all(Fault::is_harmless));
    assert!(found.iter().all(|f| !f.to_string().is_empty()));
    found
}

#[test]
fn the_kernels_bytes_are_understood() {
    let medium = literal(8000);
    let opened = open(&medium, DISK, &mut [0; 600]).unwrap();
    assert_eq!(opened.exceptions(), 2);
    assert_eq!(opened.usage(), Usage { allocated: 256, total: 8000, metadata: 128 });
    let mut scratch = [0; 512];
    let mut walk = Exceptions::new(&opened, &mut scratch);
    let at = |offset, disk_chunk, store_chunk| Exception { offset, disk_chunk, store_chunk };
    assert_eq!(walk.next(&medium), Ok(Some(at(0x8000, 0, 2))));
    assert_eq!(walk.next(&medium), Ok(Some(at(0x8010, 1, 3))));
    assert_eq!(walk.next(&medium), Ok(None));
    assert_eq!(walk.next(&medium), Ok(None));
    assert_eq!(findings(&medium), []);
    assert!(is_store(b"SnAp") && !is_store(b"SnAP"));
}

#[test]
fn areas_lie_where_the_kernel_puts_them() {
    for (chunk, entries, areas) in [(64, 2048, [1, 2050, 4099]), (8, 256, [1, 258, 515])] {
        let geometry = Geometry::new(chunk, 1 << 40, 1 << 30).unwrap();
        for (area, at) in (0_u64..).zip(areas) {
            assert_eq!(geometry.area_chunk(area), at);
            assert_eq!(geometry.entry_offset(area * entries), at * u64::from(chunk) * 512);
            assert!(geometry.is_metadata(at));
            assert!(!geometry.is_metadata(at + 1) && !geometry.is_metadata(at - 1));
            assert_eq!(geometry.area_behind(at + 1), at + entries + 1);
            assert_eq!(geometry.area_behind(at + entries), at + entries + 1);
        }
    }
    assert!(Geometry::new(1 << 21, u64::MAX, 1).is_some());
    assert!(Geometry::new(1 << 22, u64::MAX, 1).is_none());
    let huge = Geometry::new(1, u64::MAX, (1 << 48) - 1).unwrap();
    assert_eq!(huge.store_chunks(), 1 << 39);
    assert_eq!(huge.disk_chunks(), (1 << 48) - 1);
}

#[test]
fn usage_is_what_the_kernels_status_line_says() {
    let mut rig = Rig::create(64, 256, DISK, 2);
    let usage = |rig: &Rig| open(&rig.medium, DISK, &mut [0; 512]).unwrap().usage();
    assert_eq!(usage(&rig), Usage { allocated: 128, total: 16384, metadata: 128 });
    for chunk in 0..9 {
        assert!(rig.write(extent(chunk * 64, 1), 1));
    }
    rig.commit();
    assert_eq!(usage(&rig), Usage { allocated: 704, total: 16384, metadata: 128 });
}

#[test]
fn headers_are_refused_one_by_one() {
    let try_open = |medium: &Medium| open(medium, DISK, &mut [0; 512]).unwrap_err();
    let with = |offset, byte: u8| {
        let mut medium = literal(8000);
        medium.poke(offset, &[byte]);
        try_open(&medium)
    };
    assert_eq!(with(0, 1), OpenError::NotAStore { first_word: 0x7041_6e01 });
    assert_eq!(with(8, 2), OpenError::Version { found: 2 });
    assert_eq!(with(8, 0), OpenError::Version { found: 0 });
    for sectors in [0, 3, 65] {
        assert_eq!(with(12, sectors), OpenError::ChunkSize { sectors: u32::from(sectors) });
    }
    let mut medium = literal(8000);
    medium.poke(12, &(1_u32 << 22).to_le_bytes());
    assert_eq!(try_open(&medium), OpenError::ChunkSize { sectors: 1 << 22 });
    assert_eq!(try_open(&Medium::new(0)), OpenError::Blank);
    assert_eq!(try_open(&Medium::new(8000)), OpenError::Blank);
    let short = try_open(&literal(127));
    assert_eq!(short, OpenError::TooShort { needed: 65536, len: 65024 });
    assert!(short.to_string().contains("65536"));
    for sectors in [0, 1 << 48] {
        assert_eq!(
            open(&literal(8000), sectors, &mut [0; 512]),
            Err(OpenError::DiskSize { sectors })
        );
    }
    assert_eq!(
        open(&literal(8000), DISK, &mut [0; 511]),
        Err(OpenError::BufferTooSmall { needed: 512 })
    );
    // A store that ends inside its length: the medium's own error comes through.
    let mut medium = literal(8000);
    medium.len = 0x8000 + 512;
    assert!(matches!(try_open(&medium), OpenError::TooShort { .. }));
}

#[test]
fn an_invalidated_store_is_read_only_and_only_on_request() {
    let mut medium = literal(8000);
    medium.poke(4, &[0]);
    assert_eq!(
        open(&medium, DISK, &mut [0; 512]),
        Err(OpenError::Fault { fault: Fault::Invalidated })
    );
    assert_eq!(findings(&medium), [Fault::Invalidated]);
    let mut scratch = [0; 512];
    let opened = open_even_invalidated(&medium, DISK, &mut scratch).unwrap();
    assert!(opened.is_invalidated());
    let mut index = vec![IndexEntry::EMPTY; 20];
    let loaded = load_index(&medium, &opened, &mut index, &mut scratch).unwrap();
    assert_eq!(Writable::new(KEY, &loaded).unwrap_err(), RefuseWriting::Invalidated);
    rollback(&mut medium).unwrap();
    assert_eq!(tags_on(&medium, DISK).0.exceptions(), 0);
    assert_eq!(medium.bytes(0, 16), b"SnAp\x01\0\0\0\x01\0\0\0\x40\0\0\0");
}

#[test]
fn a_store_is_marked_invalid_where_the_kernel_marks_it() {
    let mut medium = literal(8000);
    let before = medium.bytes(0, 4096);
    invalidate(&mut medium).unwrap();
    let mut expected = before;
    expected[4] = 0;
    assert_eq!(medium.bytes(0, 4096), expected);
    assert_eq!(findings(&medium), [Fault::Invalidated]);
    invalidate(&mut medium).unwrap();
    let reason = HeaderFault::Blank;
    assert_eq!(invalidate(&mut Medium::new(8000)), Err(RollbackError::Header { reason }));
}

#[test]
fn exceptions_are_refused_one_by_one() {
    let offset = 0x8020;
    let cases = [
        // 100 chunks in the disk, 125 in the store.
        (100, 5, Fault::DiskChunkBeyondDisk { offset, disk_chunk: 100, disk_chunks: 100 }),
        (5, 1, Fault::StoreChunkIsMetadata { offset, store_chunk: 1 }),
        (5, 125, Fault::StoreChunkBeyondStore { offset, store_chunk: 125, store_chunks: 125 }),
        (
            u64::MAX,
            u64::MAX,
            Fault::DiskChunkBeyondDisk { offset, disk_chunk: u64::MAX, disk_chunks: 100 },
        ),
    ];
    for (old, new, fault) in cases {
        let mut medium = literal(8000 + 63);
        entry(&mut medium, 2, old, new);
        assert_eq!(open(&medium, DISK, &mut [0; 512]), Err(OpenError::Fault { fault }));
        entry(&mut medium, 3, 7, 8);
        entry(&mut medium, 4, 8, 9);
        assert_eq!(findings(&medium), [fault], "the others are good");
    }
    let mut medium = literal(8000 + 63);
    entry(&mut medium, 2, 99, 124);
    assert_eq!(findings(&medium), []);
    let disk_twice = Fault::DiskChunkTwice { offset, disk_chunk: 1 };
    let mut medium = literal(8000);
    entry(&mut medium, 2, 1, 4);
    assert_eq!(try_load(&medium, 20), Err(LoadError::Fault { fault: disk_twice }));
    assert_eq!(findings(&medium), [disk_twice]);
    let store_twice = Fault::StoreChunkTwice { offset, store_chunk: 3 };
    let mut medium = literal(8000);
    entry(&mut medium, 2, 9, 3);
    assert_eq!(try_load(&medium, 20), Err(LoadError::Fault { fault: store_twice }));
    assert_eq!(findings(&medium), [store_twice]);
    entry(&mut medium, 3, 9, 3);
    assert_eq!(findings(&medium).len(), 3);
}

#[test]
fn doubles_are_found_far_apart_too() {
    // Twelve index entries are 1536 bits; the chunks in use spread over 40000.
    for (last, twice) in [(7, false), (30_002, true), (39_000, true), (39_001, false)] {
        let mut medium = Medium::new(40_000 * 64);
        medium.sectors = literal(8000).sectors;
        entry(&mut medium, 0, 0, 39_000);
        entry(&mut medium, 1, 1, 30_002);
        entry(&mut medium, 2, 2, last);
        let result = try_load(&medium, usize::try_from(index_needed(3)).unwrap());
        assert_eq!(result.is_err(), twice, "{last}: {result:?}");
    }
}

#[test]
fn a_list_that_runs_off_the_store_is_refused() {
    // 32 exceptions fill area 0; area 1 would be chunk 34.
    let mut rig = Rig::create(1, 40, 1000, 2);
    for lba in 0..32 {
        assert!(rig.write(extent(lba, 1), 1));
    }
    rig.commit();
    assert_eq!(open(&rig.medium, 1000, &mut [0; 512]).unwrap().exceptions(), 32);
    rig.medium.len = 34 * 512;
    let fault = Fault::AreaMissing { offset: 34 * 512 };
    assert_eq!(open(&rig.medium, 1000, &mut [0; 512]), Err(OpenError::Fault { fault }));
    assert_eq!(findings(&rig.medium), [fault]);
}

#[test]
fn memory_that_is_too_small_is_named() {
    let medium = literal(8000);
    let needed = index_needed(2);
    assert_eq!(try_load(&medium, 10), Err(LoadError::IndexTooSmall { needed }));
    assert_eq!(try_load(&medium, 11), Ok(()));
    let checked = |entries: usize, scratch: usize| {
        let mut index = vec![IndexEntry::EMPTY; entries];
        check(&medium, DISK, &mut index, &mut vec![0; scratch], |_| ()).map(|r| r.exceptions)
    };
    assert_eq!(checked(11, 512), Ok(2));
    assert_eq!(checked(10, 512), Err(CheckError::IndexTooSmall { needed }));
    assert_eq!(checked(11, 0), Err(CheckError::BufferTooSmall { needed: 512 }));
    let opened = open(&medium, DISK, &mut [0; 4096]).unwrap();
    let mut index = [IndexEntry::EMPTY; 11];
    assert_eq!(
        load_index(&medium, &opened, &mut index, &mut []),
        Err(LoadError::BufferTooSmall { needed: 512 })
    );
    let mut shrunk = medium.clone();
    entry(&mut shrunk, 1, 0, 0);
    assert_eq!(
        load_index(&shrunk, &opened, &mut index, &mut [0; 512]),
        Err(LoadError::Changed { opened: 2 })
    );
}

#[test]
fn scratch_of_any_length_reads_the_same_list() {
    let mut rig = Rig::create(4, 600, 1600, 3);
    for i in 0..350 {
        assert!(rig.write(extent((i * 37) % 400 * 4, 4), 1));
    }
    rig.commit();
    let list = rig.medium.list();
    for len in [512, 513, 1000, 1024, 2047, 2048, 5000, 1 << 16] {
        let mut scratch = vec![0; len];
        let opened = open(&rig.medium, 1600, &mut scratch).unwrap();
        let mut walk = Exceptions::new(&opened, &mut scratch);
        for &(old, new) in &list {
            let exception = walk.next(&rig.medium).unwrap().unwrap();
            assert_eq!((exception.disk_chunk, exception.store_chunk), (old, new));
        }
        assert_eq!(walk.next(&rig.medium), Ok(None));
    }
}

#[test]
fn creating_refuses_what_it_cannot_make() {
    for sectors in [0, 3, 1 << 22, u32::MAX] {
        assert_eq!(
            create(&mut Medium::new(1000), sectors),
            Err(CreateError::ChunkSize { sectors })
        );
    }
    assert_eq!(
        create(&mut Medium::new(23), 8),
        Err(CreateError::TooShort { needed: 12288, len: 11776 })
    );
    assert_eq!(create(&mut Medium::new(24), 8), Ok(()));
    let mut taken = Medium::new(1000);
    taken.poke(0, &[0x55, 0xaa]);
    let before = taken.sectors.clone();
    assert_eq!(create(&mut taken, 8), Err(CreateError::Occupied { first_word: 0xaa55 }));
    assert_eq!(taken.sectors, before);
    assert_eq!(
        rollback(&mut taken),
        Err(RollbackError::Header { reason: HeaderFault::NotAStore { first_word: 0xaa55 } })
    );
    unmark(&mut taken).unwrap();
    assert_eq!(create(&mut taken, 8), Ok(()));
    assert_eq!(tags_on(&taken, 900).0.exceptions(), 0);
    for chunk in [1, 2, 4, 8, 16, 32, 64, 128, 1 << 12, 1 << 21] {
        let mut medium = Medium::new(3 << 21);
        // Creating zeroes two chunks, which takes a while at the largest size.
        if chunk <= 1 << 12 {
            create(&mut medium, chunk).unwrap();
            let opened = open(&medium, 1 << 30, &mut [0; 512]).unwrap();
            assert_eq!(opened.geometry().chunk_sectors(), u64::from(chunk));
        }
    }
}

#[test]
fn any_list_is_either_clean_and_loads_or_neither() {
    let mut random = super::Random(4711);
    let mut outcomes = [0; 2];
    for _ in 0..3000 {
        // 40 chunks of one sector: areas at 1 and 34.
        let mut medium = Medium::new(40);
        medium.poke(0, b"SnAp\x01\0\0\0\x01\0\0\0\x01\0\0\0");
        let mut fresh = 2;
        for number in 0..random.below(40) {
            let at = (if number < 32 { 512 } else { 34 * 512 }) + number % 32 * 16;
            let wild = random.below(40) == 0;
            let old = if wild { random.below(60) } else { number };
            let new = if wild { random.next() >> random.below(64) } else { fresh };
            fresh += if fresh == 33 { 2 } else { 1 };
            medium.poke(at, &old.to_le_bytes());
            medium.poke(at + 8, &new.to_le_bytes());
        }
        let mut index = vec![IndexEntry::EMPTY; 80];
        let mut scratch = [0; 512];
        let clean = check(&medium, 50, &mut index, &mut scratch, |_| ()).unwrap().is_clean();
        let loads = open(&medium, 50, &mut scratch)
            .is_ok_and(|opened| load_index(&medium, &opened, &mut index, &mut scratch).is_ok());
        assert_eq!(clean, loads);
        outcomes[usize::from(clean)] += 1;
    }
    assert!(outcomes.iter().all(|&n| n > 500), "{outcomes:?}");
}
