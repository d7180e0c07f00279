//! Files made byte by byte from the description, read, written, repaired and packed.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::blocking::{Blocking, OverBase};
use crate::engine::{Durability, Engine, Lent};
use crate::format::bitmap::{Finding, Writable};
use crate::format::memory::Memory;
use crate::format::{IndexEntry, Layer, Map, Top, raw};
use crate::pages::{Frame, Page, PagePool, StorageKey};
use crate::storage::ReadStorage;
use crate::units::{Extent, Lba};

/// Units of the disk of the literal files: 100 MiB, as in the repository's file [COW 4.1].
const UNITS: u64 = 102_400;
const DATA: usize = 16_384;

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// The head of the file that is kept in a public repository.
fn narrow() -> Vec<u8> {
    let mut f = vec![0; 1024 + 13_312];
    put(&mut f, 0, b"\x7f\x43\x4f\x57\x01\x00\x00\x00\x00\x04\x00\x00\x00\x34\x00\x00");
    put(&mut f, 16, b"\x00\x40\x00\x00\x00\x90\x01\x00\xa0\x4c\x30\x35\x00\x00\x00\x00");
    f
}

/// The same as a 64-bit program writes it.
fn wide() -> Vec<u8> {
    let mut f = vec![0; 1024 + 13_312];
    put(&mut f, 0, b"\x7f\x43\x4f\x57\x01\x00\x00\x00");
    for (at, word) in [(8, 1024), (16, 13_312), (24, 16_384), (32, UNITS), (40, 0x3530_4ca0)] {
        put(&mut f, at, &u64::to_le_bytes(word));
    }
    f
}

/// The same of big-endian machines.
fn big(width: Width) -> Vec<u8> {
    let mut f = vec![0; 1024 + 13_312];
    put(&mut f, 0, b"\x57\x4f\x43\x7f\x00\x01\x00\x00");
    for (at, word) in (0..).zip([1024, 13_312, 16_384, UNITS, 0x3530_4ca0]) {
        match width {
            Width::Bits32 => {
                put(&mut f, 8 + 4 * at, &u32::try_from(word).unwrap().to_be_bytes());
            }
            Width::Bits64 => put(&mut f, 8 + 8 * at, &word.to_be_bytes()),
        }
    }
    f
}

fn all() -> [(Width, bool, Vec<u8>); 4] {
    [
        (Width::Bits32, false, narrow()),
        (Width::Bits64, false, wide()),
        (Width::Bits32, true, big(Width::Bits32)),
        (Width::Bits64, true, big(Width::Bits64)),
    ]
}

/// Sets flags and count of a little-endian 64-bit file.
fn state(file: &mut Vec<u8>, flags: u8, used: u64) {
    put(file, 6, &[flags]);
    put(file, 48, &used.to_le_bytes());
}

fn page() -> Page {
    Page::ZERO.clone()
}

fn pages() -> [Page; 2] {
    [page(), page()]
}

fn findings(file: &Memory) -> Vec<Finding> {
    let mut found = Vec::new();
    check(file, &mut pages(), |finding| found.push(finding)).unwrap();
    found
}

/// Runs `work` on the file over a base of `b`; gives back the overlay to be closed.
fn chain(
    file: &mut Memory,
    work: impl FnOnce(&mut Blocking<'_, '_, OverBase<Memory, Memory>, 4>),
) -> Writable {
    let top = open_writable(file, StorageKey(0), &mut page()).unwrap();
    let sectors = top.sectors();
    let mut engine = Engine::<4>::new(Some(Top::Bitmap(top)), sectors, Durability::Safe).unwrap();
    let len = sectors * 512;
    let base = Memory::new(vec![b'b'; usize::try_from(len).unwrap()]);
    let layers = [Layer::Raw(raw::Raw::new(StorageKey(1), len).unwrap())];
    let mut storages = OverBase { overlay: core::mem::take(file), base };
    let (mut frames, mut memory) = (vec![Frame::EMPTY; 2], vec![Page::ZERO; 2]);
    let mut pool = PagePool::new(&mut memory, &mut frames).unwrap();
    work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut storages,
    });
    *file = storages.overlay;
    let Some(Top::Bitmap(top)) = engine.into_overlay() else { panic!("an overlay") };
    top
}

/// A small file: 40 units, of which unit 3 is there.
fn small() -> Memory {
    let options = CreateOptions {
        width: Width::Bits64,
        big_endian: false,
        parent_bytes: 40 * 1024 + 1000,
        fingerprint: 7,
        wipe: false,
    };
    let mut file = Memory::default();
    create(&mut file, &options).unwrap();
    put(&mut file.bytes, 1024, &[8]);
    put(&mut file.bytes, 4096 + 3 * 1024, &[0x33; 1024]);
    state(&mut file.bytes, 0, 1);
    file
}

#[test]
fn heads_of_every_machine_are_read_and_made() {
    for (width, big_endian, bytes) in all() {
        let opened = open(&Memory::new(bytes.clone()), &mut page()).unwrap();
        assert_eq!((opened.width(), opened.is_big_endian()), (width, big_endian));
        assert_eq!((opened.units(), opened.used_units()), (UNITS, 0));
        assert_eq!(opened.fingerprint(), 0x3530_4ca0);
        let geometry = opened.geometry();
        assert_eq!((geometry.sectors(), geometry.unit_sectors()), (2 * UNITS, 2));
        let layout = (geometry.bitmap_offset(), geometry.bitmap_len(), geometry.data_offset());
        assert_eq!(layout, (1024, UNITS / 8, DATA as u64));
        assert!(!opened.is_packed() && opened.index_needed() == 0);
        for wipe in [false, true] {
            let options = CreateOptions {
                width,
                big_endian,
                parent_bytes: UNITS * 1024 + 1023,
                fingerprint: 0x3530_4ca0,
                wipe,
            };
            let mut file = Memory::new(if wipe { vec![0xa5; 14_336] } else { Vec::new() });
            create(&mut file, &options).unwrap();
            assert!(file.bytes == bytes, "{width:?}");
        }
        assert!(is_cowloop(bytes.first_chunk().unwrap()));
    }
}

#[test]
fn parents_are_recognised_by_size_and_then_fingerprint() {
    let opened = open(&Memory::new(narrow()), &mut page()).unwrap();
    let len = UNITS * 1024;
    assert_eq!(opened.judge_parent(len + 1023, 0x3530_4ca0), Ok(()));
    let other = ParentFault::Fingerprint { expected: 0x3530_4ca0, found: 5 };
    assert_eq!(opened.judge_parent(len, 5), Err(other));
    let size = ParentFault::Size { expected: UNITS, found: UNITS - 1 };
    assert_eq!(opened.judge_parent(len - 1, 5), Err(size));
    // A 64-bit tool may have extended the sign.
    let mut extended = wide();
    put(&mut extended, 40, &0xffff_ffff_8530_4ca0_u64.to_le_bytes());
    let opened = open(&Memory::new(extended), &mut page()).unwrap();
    assert_eq!(opened.judge_parent(len, 0x8530_4ca0), Ok(()));
}

#[test]
fn the_fingerprint_is_of_the_first_sums_that_are_not_zero() {
    let print = |bytes: &[u8]| fingerprint(&Memory::new(bytes.to_vec()), &mut page()).unwrap();
    assert_eq!(print(&[]), 0);
    assert_eq!(print(&[9; 1023]), 0, "no whole block");
    let mut base = vec![0; 64 * 1024];
    assert_eq!(print(&base), 0);
    base[5000] = 0xa0;
    base[20_000] = 0x4c;
    // A block whose bytes add up to 256.
    base[24 * 1024] = 0xff;
    base[24 * 1024 + 9] = 1;
    base[30 * 1024] = 0x20;
    base[30 * 1024 + 1] = 0x10;
    assert_eq!(print(&base), 0x0030_4ca0);
    base[63 * 1024] = 0x35;
    base[64 * 1024 - 1] = 0x00;
    assert_eq!(print(&base), 0x3530_4ca0);
    base.push(1);
    assert_eq!(print(&base), 0x3530_4ca0);
}

#[test]
fn writes_fill_units_and_the_end_is_clean() {
    for (width, big_endian, bytes) in all() {
        let mut file = Memory::new(bytes.clone());
        let top = chain(&mut file, |chain| {
            // Sector 1; then sectors 6 to 11, which are whole units; then 21 to 24, both ends cut.
            chain.write(Lba::new(1).unwrap(), &[1; 512]).unwrap();
            chain.write(Lba::new(6).unwrap(), &[2; 6 * 512]).unwrap();
            chain.write(Lba::new(21).unwrap(), &[3; 4 * 512]).unwrap();
            // In place.
            chain.write(Lba::new(7).unwrap(), &[4; 512]).unwrap();
            chain.zero(Extent::new(8, 1).unwrap()).unwrap();
            chain.zero(Extent::new(100, 1).unwrap()).unwrap();
            chain.discard(Extent::new(9, 500).unwrap()).unwrap();
        });
        assert_eq!(top.data_sectors(), Some(8 * 2 + 2 - 2));
        // While it is in use the head says so, and other programs refuse it.
        assert_eq!(file.bytes[if big_endian { 7 } else { 6 }], 1);
        assert_eq!(findings(&file), [Finding::Unclean]);
        close(&mut file, &top, &mut pages()).unwrap();
        let mut expected = bytes;
        let last = if width == Width::Bits32 { 28 } else { 48 };
        let len = if width == Width::Bits32 { 4 } else { 8 };
        put(&mut expected, if big_endian { last + len - 1 } else { last }, &[8]);
        // Units 0, 3, 4, 5, 10, 11, 12 and 50.
        put(&mut expected, 1024, &[0b0011_1001, 0b0001_1100, 0, 0, 0, 0, 0b0000_0100]);
        let mut sector = |n: usize, byte| put(&mut expected, DATA + n * 512, &[byte; 512]);
        for (n, byte) in [(0, b'b'), (1, 1), (6, 2), (7, 4), (8, 0), (9, 0), (10, 0), (11, 0)] {
            sector(n, byte);
        }
        for n in 20..26 {
            sector(n, 0); // discarded again
        }
        sector(20, 0);
        sector(100, 0);
        sector(101, 0);
        expected.resize(DATA + 2 * 512 * 102_400, 0);
        let differ = file.bytes.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((differ, file.bytes.len()), (None, expected.len()), "{width:?} {big_endian}");
        assert_eq!(findings(&file), []);
    }
}

/// The driver refuses a clean file whose count is wrong, and a dirty one.
#[test]
fn the_head_is_dirty_before_the_first_bit_and_clean_after_the_last() {
    let mut file = small();
    let top = chain(&mut file, |chain| {
        chain.storages.overlay.log.clear();
        chain.read(Lba::ZERO, &mut [0; 512]).unwrap();
        chain.write(Lba::new(6).unwrap(), &[1; 512]).unwrap();
        assert_eq!(chain.storages.overlay.log, [(4096 + 3072, 512), (0, 0)], "no bit, no mark");
        chain.storages.overlay.log.clear();
        chain.write(Lba::new(8).unwrap(), &[1; 1024]).unwrap();
        let expected = [(8192, 1024), (0, 56), (0, 0), (1024, 5), (0, 0)];
        assert_eq!(chain.storages.overlay.log, expected);
        chain.storages.overlay.log.clear();
        chain.write(Lba::new(10).unwrap(), &[1; 1024]).unwrap();
        assert_eq!(chain.storages.overlay.log, [(9216, 1024), (0, 0), (1024, 5), (0, 0)]);
    });
    file.log.clear();
    close(&mut file, &top, &mut pages()).unwrap();
    assert_eq!(file.log, [(0, 0), (0, 56), (0, 0)]);
    close(&mut file, &top, &mut pages()).unwrap();
    assert_eq!(open(&file, &mut page()).unwrap().used_units(), 3);
}

#[test]
fn a_session_without_writes_leaves_the_head_alone() {
    let mut file = small();
    let before = file.bytes[..4096].to_vec();
    let top = chain(&mut file, |chain| {
        let mut disk = vec![0; 40 * 1024];
        chain.read(Lba::ZERO, &mut disk).unwrap();
        for (unit, bytes) in disk.chunks(1024).enumerate() {
            let expected = if unit == 3 { 0x33 } else { b'b' };
            assert!(bytes.iter().all(|b| *b == expected), "unit {unit}");
        }
    });
    close(&mut file, &top, &mut pages()).unwrap();
    assert!(file.bytes[..4096] == before);
    // Another file in its place is not closed.
    state(&mut file.bytes, 1, 1);
    assert_eq!(close(&mut file, &top, &mut pages()), Err(CloseError::OtherImage));
    state(&mut file.bytes, 0, 2);
    assert_eq!(close(&mut file, &top, &mut pages()), Err(CloseError::OtherImage));
    assert_eq!(close(&mut Memory::default(), &top, &mut pages()), Err(CloseError::OtherImage));
}

#[test]
fn the_drivers_dirty_files_are_refused_and_repaired() {
    let mut file = small();
    state(&mut file.bytes, 1, 1);
    // Units 5 and 39 were written and have no bit; the last is cut by the end of the file.
    put(&mut file.bytes, 4096 + 5 * 1024 + 700, b"x");
    put(&mut file.bytes, 4096 + 39 * 1024 + 200, b"y");
    assert_eq!(open(&file, &mut page()), Err(OpenError::Dirty));
    let refused = open_writable(&mut file, StorageKey(0), &mut page());
    assert_eq!(refused.map(drop), Err(OpenError::Dirty));
    assert_eq!(findings(&file), [Finding::Dirty { unlisted: 2 }]);
    assert!(findings(&file)[0].is_damage());
    let repaired = repair(&mut file, &mut pages()).unwrap();
    assert_eq!((repaired.listed, repaired.used_units), (2, 3));
    assert_eq!(findings(&file), []);
    assert_eq!(file.bytes[1024..1029], [0b0010_1000, 0, 0, 0, 0x80]);
    assert_eq!(file.bytes[48], 3);
    let again = file.clone();
    assert_eq!(repair(&mut file, &mut pages()).unwrap().listed, 0);
    assert_eq!(file, again, "a clean file is left alone");
}

#[test]
fn a_wrong_count_is_refused_and_repaired() {
    let mut file = small();
    state(&mut file.bytes, 0, 5);
    assert_eq!(open(&file, &mut page()), Err(OpenError::WrongCount { recorded: 5, found: 1 }));
    assert_eq!(findings(&file), [Finding::WrongCount { recorded: 5, found: 1 }]);
    repair(&mut file, &mut pages()).unwrap();
    assert_eq!(findings(&file), []);
    assert_eq!(file.bytes[48], 1);
}

/// What we did not acknowledge must not come back through the driver's repair.
#[test]
fn our_unclean_files_are_good_and_lose_what_has_no_bit() {
    let mut file = small();
    let _killed = chain(&mut file, |chain| {
        chain.write(Lba::new(20).unwrap(), &[1; 1024]).unwrap();
    });
    // Half of a unit that was being filled.
    put(&mut file.bytes, 4096 + 30 * 1024, &[9; 512]);
    let unclean = file.clone();
    assert_eq!(open(&file, &mut page()).unwrap().used_units(), 2);
    let top = chain(&mut file, |chain| {
        let mut unit = [0; 1024];
        chain.read(Lba::new(60).unwrap(), &mut unit).unwrap();
        assert_eq!(unit, [b'b'; 1024]);
    });
    close(&mut file, &top, &mut pages()).unwrap();
    assert!(file.bytes[4096 + 30 * 1024..4096 + 31 * 1024].iter().all(|b| *b == 0));
    assert_eq!(file.bytes[4096 + 10 * 1024..4096 + 11 * 1024], [1; 1024]);
    assert_eq!((findings(&file), file.bytes[48]), (vec![], 2));
    // The same by repair.
    let mut repaired = unclean;
    assert_eq!(repair(&mut repaired, &mut pages()).unwrap().listed, 0);
    assert!(repaired.bytes == file.bytes);
}

#[test]
fn every_field_is_judged() {
    let with = |at: usize, data: &[u8]| {
        let mut bytes = wide();
        put(&mut bytes, at, data);
        open(&Memory::new(bytes), &mut page()).unwrap_err()
    };
    let word = |at, word: u64| with(at, &word.to_le_bytes());
    assert_eq!(with(0, b"\x7fELF"), OpenError::NotCowloop { first_word: 0x464c_457f });
    assert_eq!(with(0, b"\x1f\x8b\x08\x00"), OpenError::Gzipped);
    assert_eq!(with(4, &[0, 0]), OpenError::Version { found: 0 });
    assert_eq!(with(4, &[2, 0]), OpenError::Version { found: 2 });
    assert_eq!(with(4, &[1, 0x80]), OpenError::BeingEmptied);
    assert_eq!(with(6, &[4, 0]), OpenError::Flags { found: 4 });
    assert_eq!(with(6, &[0, 0x80]), OpenError::Flags { found: 0x8000 });
    assert_eq!(word(8, 512), OpenError::UnitSize { bytes: 512 });
    let needed = UNITS / 8;
    assert_eq!(word(16, 0), OpenError::MapSize { bytes: 0, needed });
    assert_eq!(word(16, 13_313), OpenError::MapSize { bytes: 13_313, needed });
    assert_eq!(word(16, 12_288), OpenError::MapSize { bytes: 12_288, needed });
    for offset in [0, 14_335, 16_385, u64::MAX, u64::MAX - 511] {
        assert_eq!(word(24, offset), OpenError::DataOffset { offset });
    }
    assert_eq!(word(16, !1023), OpenError::DataOffset { offset: 16_384 });
    for units in [0, 1 << 47, u64::MAX] {
        assert_eq!(word(32, units), OpenError::DiskSize { units });
    }
    let missing = OpenError::MapSize { bytes: 13_312, needed: 13_313 };
    assert_eq!(word(32, 13_312 * 8 + 1), missing);
    // Without a gap, as the project's web page draws it.
    let mut packed_tightly = wide();
    put(&mut packed_tightly, 24, &14_336_u64.to_le_bytes());
    let opened = open(&Memory::new(packed_tightly), &mut page()).unwrap();
    assert_eq!(opened.geometry().data_offset(), 14_336);
    let cut = |len| {
        let mut bytes = wide();
        bytes.truncate(len);
        open(&Memory::new(bytes), &mut page()).unwrap_err()
    };
    assert_eq!(cut(55), OpenError::Truncated { needed: 56, len: 55 });
    assert_eq!(cut(4), OpenError::Truncated { needed: 56, len: 4 });
    assert_eq!(cut(3), OpenError::NotCowloop { first_word: 0x4f_437f });
    assert_eq!(cut(13_000), OpenError::Truncated { needed: 13_824, len: 13_000 });
    // A head of 32-bit words whose count would be the one that means something else.
    let mut all_ones = narrow();
    put(&mut all_ones, 20, &[0xff; 4]);
    let units = u32::MAX.into();
    assert_eq!(open(&Memory::new(all_ones), &mut page()), Err(OpenError::DiskSize { units }));
}

#[test]
fn impossible_files_are_not_created() {
    let make = |width, parent_bytes| {
        let options =
            CreateOptions { width, big_endian: false, parent_bytes, fingerprint: 0, wipe: false };
        create(&mut Memory::default(), &options).map(drop)
    };
    assert_eq!(make(Width::Bits64, 1023), Err(CreateError::DiskSize { units: 0 }));
    assert_eq!(make(Width::Bits64, u64::MAX), Err(CreateError::DiskSize { units: u64::MAX >> 10 }));
    let most = u64::from(u32::MAX) * 1024;
    assert_eq!(make(Width::Bits32, most), Err(CreateError::DiskSize { units: u32::MAX.into() }));
}

#[test]
fn a_file_that_ends_early_says_so() {
    let mut file = small();
    put(&mut file.bytes, 1024, &[0x18]);
    state(&mut file.bytes, 0, 2);
    let missing = OpenError::DataMissing { sector: 8, sectors: 2 };
    assert_eq!(findings(&file), [Finding::DataMissing { sector: 8, sectors: 2 }]);
    let refused = open_writable(&mut file, StorageKey(0), &mut page());
    assert_eq!(refused.map(drop), Err(missing));
}

/// Units 0, 3, 4, 5, then 40,000 and the last one, so that three pages of the bitmap are in use.
fn scattered() -> Memory {
    let mut file = wide();
    put(&mut file, 1024, &[0b0011_1001]);
    put(&mut file, 1024 + 40_000 / 8, &[1]);
    put(&mut file, 1024 + 12_799, &[0x80]);
    for unit in [0, 3, 4, 5, 40_000, 102_399] {
        let name = u8::try_from(1 + unit % 250).unwrap();
        put(&mut file, DATA + unit * 1024, &[name; 1024]);
    }
    state(&mut file, 0, 6);
    Memory::new(file)
}

#[test]
fn packing_and_unpacking_give_the_described_files() {
    let original = scattered();
    let opened = open(&original, &mut page()).unwrap();
    let mut packed = Memory::default();
    pack(&original, &opened, &mut packed, &mut pages()).unwrap();
    let mut expected = original.bytes[..DATA].to_vec();
    expected[6] = 2;
    for unit in [0_usize, 3, 4, 5, 40_000, 102_399] {
        expected.extend([u8::try_from(1 + unit % 250).unwrap(); 1024]);
    }
    assert!(packed.bytes == expected);
    let mut restored = Memory::default();
    let opened = open(&packed, &mut page()).unwrap();
    assert!(opened.is_packed());
    unpack(&packed, &opened, &mut restored, &mut pages()).unwrap();
    assert!(restored.bytes == original.bytes, "exactly the file that was packed");
    let again = pack(&packed, &opened, &mut Memory::default(), &mut pages());
    assert!(matches!(again, Err(PackError::Form)));
    let opened = open(&original, &mut page()).unwrap();
    let again = unpack(&original, &opened, &mut Memory::default(), &mut pages());
    assert!(matches!(again, Err(PackError::Form)));
    // An empty one, too.
    let empty = Memory::new(wide());
    let (mut packed, mut restored) = (Memory::default(), Memory::default());
    pack(&empty, &open(&empty, &mut page()).unwrap(), &mut packed, &mut pages()).unwrap();
    let opened = open(&packed, &mut page()).unwrap();
    unpack(&packed, &opened, &mut restored, &mut pages()).unwrap();
    assert!(restored.bytes == empty.bytes);
}

#[test]
fn packed_files_are_read_through_an_index() {
    let original = scattered();
    let opened = open(&original, &mut page()).unwrap();
    let mut packed = Memory::default();
    pack(&original, &opened, &mut packed, &mut pages()).unwrap();
    let opened = open(&packed, &mut page()).unwrap();
    assert_eq!((opened.index_needed(), opened.used_units()), (2, 6));
    let mut index = vec![IndexEntry::EMPTY; 2];
    let small = load_index(&packed, &opened, &mut index[..1], &mut page());
    assert_eq!(small, Err(LoadError::IndexTooSmall { needed: 2 }));
    load_index(&packed, &opened, &mut index, &mut page()).unwrap();
    let layers = [
        Layer::Bitmap(opened.frozen(StorageKey(0), &index)),
        Layer::Raw(raw::Raw::new(StorageKey(1), UNITS * 1024).unwrap()),
    ];
    let mut engine = Engine::<4>::new(None, 2 * UNITS, Durability::Safe).unwrap();
    let base = Memory::new(vec![b'b'; usize::try_from(UNITS * 1024).unwrap()]);
    let (mut frames, mut memory) = (vec![Frame::EMPTY; 2], vec![Page::ZERO; 2]);
    let mut pool = PagePool::new(&mut memory, &mut frames).unwrap();
    let mut chain = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut OverBase { overlay: packed.clone(), base },
    };
    let mut disk = vec![0; usize::try_from(UNITS * 1024).unwrap()];
    chain.read(Lba::ZERO, &mut disk).unwrap();
    for (unit, bytes) in disk.chunks(1024).enumerate() {
        let there = matches!(unit, 0 | 3..=5 | 40_000 | 102_399);
        let expected = if there { u8::try_from(1 + unit % 250).unwrap() } else { b'b' };
        assert!(bytes.iter().all(|b| *b == expected), "unit {unit}");
    }
    // From the middle of a unit.
    let mut sectors = [0; 1024];
    chain.read(Lba::new(80_001).unwrap(), &mut sectors).unwrap();
    assert_eq!(sectors[..512], [1; 512]);
    assert_eq!(sectors[512..], [b'b'; 512]);
    let refused = open_writable(&mut packed, StorageKey(0), &mut page());
    assert_eq!(refused.map(drop), Err(OpenError::Packed));
    assert_eq!(rollback(&mut packed), Err(OpenError::Packed));
    packed.bytes.pop();
    let truncated = OpenError::Truncated { needed: 22_528, len: 22_527 };
    assert_eq!(open(&packed, &mut page()), Err(truncated));
    packed.bytes[1024] = 0;
    assert_eq!(load_index(&packed, &opened, &mut index, &mut page()), Err(LoadError::Changed));
}

#[test]
fn an_emptied_file_is_as_new() {
    let mut file = small();
    let new = {
        let mut new = file.bytes.clone();
        put(&mut new, 1024, &[0]);
        put(&mut new, 4096 + 3 * 1024, &[0; 1024]);
        state(&mut new, 0, 0);
        new
    };
    // A dirty one with data that have no bit.
    put(&mut file.bytes, 4096 + 2 * 1024, &[7; 512]);
    state(&mut file.bytes, 1, 9);
    let dirty = file.clone();
    rollback(&mut file).unwrap();
    assert!(file.bytes == new);
    let mut cut_short = dirty;
    cut_short.bytes[5] |= 0x80;
    assert_eq!(open(&cut_short, &mut page()), Err(OpenError::BeingEmptied));
    rollback(&mut cut_short).unwrap();
    assert!(cut_short.bytes == new);
    assert_eq!(new.len() as u64, file.len_bytes().unwrap());
}
