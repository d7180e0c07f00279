//! Files made byte by byte from the description, read and written.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::blocking::{Blocking, CallError, OverBase};
use crate::engine::{Durability, Engine, Failure, Lent};
use crate::format::bitmap::{Finding, Runs};
use crate::format::memory::Memory;
use crate::format::{Layer, Map, Top, raw};
use crate::pages::{Frame, Page, PagePool, StorageKey};
use crate::units::{Extent, Lba};

const MTIME: i64 = 0x5e0d_5da5;

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// A little-endian file of version 1 over 8 MiB [COW 1.2].
fn v1() -> Vec<u8> {
    let mut f = vec![0; 2560 + (8 << 20)];
    put(&mut f, 0, b"\x4d\x4f\x4f\x4f\x01\x00\x00\x00/base.img");
    put(&mut f, 264, b"\xa5\x5d\x0d\x5e\x00\x00\x80\x00\x00\x00\x00\x00\x00\x02\x00\x00");
    f
}

fn v2() -> Vec<u8> {
    let mut f = vec![0; 6656 + (8 << 20)];
    put(&mut f, 0, b"\x4f\x4f\x4f\x4d\x00\x00\x00\x02/base.img");
    put(&mut f, 4104, b"\x5e\x0d\x5d\xa5\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x02\x00");
    f
}

fn v3() -> Vec<u8> {
    let mut f = vec![0; 12_288 + (8 << 20)];
    put(&mut f, 0, b"\x4f\x4f\x4f\x4d\x00\x00\x00\x03\x5e\x0d\x5d\xa5\x00\x00\x00\x00");
    put(&mut f, 16, b"\x00\x80\x00\x00\x00\x00\x02\x00\x00\x00\x10\x00\x00\x00\x00\x00/base.img");
    f
}

fn v3_padded() -> Vec<u8> {
    let mut f = vec![0; 12_288 + (8 << 20)];
    put(&mut f, 0, b"\x4f\x4f\x4f\x4d\x00\x00\x00\x03\x5e\x0d\x5d\xa5\x00\x00\x00\x00");
    put(&mut f, 16, b"\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x02\x00\x00\x00\x10\x00");
    put(&mut f, 36, b"/base.img");
    f
}

/// Each of the four with where its bitmap and its data are.
fn all() -> [(Version, Vec<u8>, u64, u64); 4] {
    [
        (Version::V1, v1(), 280, 2560),
        (Version::V2, v2(), 4120, 6656),
        (Version::V3, v3(), 8192, 12_288),
        (Version::V3Padded, v3_padded(), 8192, 12_288),
    ]
}

fn page() -> Page {
    Page::ZERO.clone()
}

/// Runs `work` on the file over a base of 8 MiB of `b`.
fn chain<R>(
    file: &mut Memory,
    work: impl FnOnce(&mut Blocking<'_, '_, OverBase<Memory, Memory>, 4>) -> R,
) -> R {
    let top = open_writable(file, StorageKey(0), &mut page()).unwrap();
    let sectors = top.sectors();
    let mut engine = Engine::<4>::new(Some(Top::Bitmap(top)), sectors, Durability::Safe).unwrap();
    let base = Memory::new(vec![b'b'; 8 << 20]);
    let layers = [Layer::Raw(raw::Raw::new(StorageKey(1), 8 << 20).unwrap())];
    let mut storages = OverBase { overlay: core::mem::take(file), base };
    let (mut pages, mut frames) = (vec![Page::ZERO; 2], vec![Frame::EMPTY; 2]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let result = work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut storages,
    });
    *file = storages.overlay;
    result
}

#[test]
fn four_headers_are_read() {
    for (version, bytes, bitmap, data) in all() {
        let file = Memory::new(bytes);
        let opened = open(&file).unwrap();
        assert_eq!(opened.version(), version);
        assert_eq!((opened.size_bytes(), opened.mtime_s()), (8 << 20, 0x5e0d_5da5));
        let geometry = opened.geometry();
        assert_eq!((geometry.sectors(), geometry.mapped_sectors()), (16_384, 16_384));
        let layout = (geometry.bitmap_offset(), geometry.bitmap_len(), geometry.data_offset());
        assert_eq!(layout, (bitmap, 2048, data), "{version:?}");
        let mut buffer = [0; 4096];
        assert_eq!(read_path(&file, &opened, &mut buffer).unwrap(), b"/base.img");
        assert!(is_uml(file.bytes.first_chunk().unwrap()));
        let mut none = |finding| panic!("{finding}");
        assert_eq!(check(&file, &mut page(), &mut none).unwrap().data_sectors, 0);
    }
}

#[test]
fn version_1_comes_in_every_order_of_bytes() {
    let mut mixed = v1();
    put(&mut mixed, 0, b"\x4f\x4f\x4f\x4d\x00\x00\x00\x01");
    let mut big = mixed.clone();
    put(&mut big, 264, b"\x5e\x0d\x5d\xa5\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x02\x00");
    for file in [mixed, big] {
        let opened = open(&Memory::new(file)).unwrap();
        assert_eq!(opened.version(), Version::V1);
        assert_eq!((opened.size_bytes(), opened.mtime_s()), (8 << 20, 0x5e0d_5da5));
    }
}

#[test]
fn sectors_with_a_bit_are_the_files() {
    for (version, mut bytes, bitmap, data) in all() {
        let (bitmap, data) = (usize::try_from(bitmap).unwrap(), usize::try_from(data).unwrap());
        put(&mut bytes, bitmap, b"\x81\xff\0\0\0\0\0\x80\x01");
        put(&mut bytes, bitmap + 2047, b"\x80");
        for sector in [0, 7, 8, 15, 63, 64, 16_383] {
            let name = u8::try_from(sector % 251).unwrap();
            put(&mut bytes, data + sector * 512, &[name; 512]);
        }
        let mut file = Memory::new(bytes);
        let before = file.bytes.clone();
        chain(&mut file, |chain| {
            let mut disk = vec![0; 8 << 20];
            chain.read(Lba::ZERO, &mut disk).unwrap();
            for (sector, found) in disk.chunks(512).enumerate() {
                let expected = match sector {
                    9..15 => 0,
                    0 | 7 | 8 | 15 | 63 | 64 | 16_383 => u8::try_from(sector % 251).unwrap(),
                    _ => b'b',
                };
                assert!(found.iter().all(|b| *b == expected), "{version:?}, sector {sector}");
            }
        });
        assert!(file.bytes == before, "{version:?}: reading writes nothing");
        let report = check(&file, &mut page(), |finding| panic!("{finding}")).unwrap();
        assert_eq!(report.data_sectors, 13);
        let mut runs = Runs::new(report.geometry);
        let (mut scratch, mut seen) = (page(), Vec::new());
        while let Some((extent, offset)) = runs.next(&file, &mut scratch).unwrap() {
            seen.push((extent.start().get(), extent.sectors(), offset - data as u64));
        }
        let at = |lba, sectors| (lba, sectors, lba * 512);
        assert_eq!(seen, [at(0, 1), at(7, 9), at(63, 2), at(16_383, 1)]);
    }
}

#[test]
fn writes_set_bits_and_nothing_else() {
    for (version, bytes, bitmap, data) in all() {
        let mut expected = bytes.clone();
        let (bitmap, data) = (usize::try_from(bitmap).unwrap(), usize::try_from(data).unwrap());
        put(&mut expected, bitmap, b"\x81\xff\0\0\0\0\0\x80\x01");
        for (sector, len) in [(0, 1), (7, 9), (63, 2)] {
            put(&mut expected, data + sector * 512, &vec![0x57; len * 512]);
        }
        let mut file = Memory::new(bytes);
        chain(&mut file, |chain| {
            for (sector, len) in [(0, 1), (7, 9), (63, 2)] {
                chain.write(Lba::new(sector).unwrap(), &vec![0x57; len * 512]).unwrap();
            }
            // Zeros are data; a discard gives back what is there and leaves the rest alone.
            chain.zero(Extent::new(0, 1).unwrap()).unwrap();
            chain.discard(Extent::new(63, 50).unwrap()).unwrap();
            chain.zero(Extent::new(16_383, 1).unwrap()).unwrap();
        });
        put(&mut expected, data, &[0; 512]);
        put(&mut expected, data + 63 * 512, &[0; 1024]);
        put(&mut expected, bitmap + 2047, b"\x80");
        assert!(file.bytes == expected, "{version:?}");
    }
}

/// Data, sync, bits, sync.
#[test]
fn bits_follow_durable_data() {
    let mut file = Memory::new(v2());
    chain(&mut file, |chain| {
        chain.storages.overlay.log.clear();
        chain.write(Lba::new(100).unwrap(), &[1; 512]).unwrap();
        let data = (6656 + 51_200, 512);
        assert_eq!(chain.storages.overlay.log, [data, (0, 0), (4120, 2048), (0, 0)]);
    });
}

#[test]
fn created_files_are_the_literal_ones() {
    for (version, bytes, ..) in all() {
        for wipe in [false, true] {
            let mut file = Memory::new(if wipe { vec![0xa5; 2000] } else { Vec::new() });
            let options = CreateOptions {
                version,
                path: b"/base.img",
                size_bytes: 8 << 20,
                mtime_s: MTIME + (1 << 32),
                alignment: 4096,
                wipe,
            };
            create(&mut file, &options).unwrap();
            assert!(file.bytes == bytes, "{version:?}");
        }
    }
    // Other sizes [COW 1.2]: 10243 sectors, 1 sector, an odd tail.
    for (size, data) in [(10_243 * 512, 12_288), (512, 12_288), (1_048_676, 12_288), (1, 12_288)] {
        let mut file = Memory::default();
        let options = CreateOptions {
            version: Version::V3,
            path: b"b",
            size_bytes: size,
            mtime_s: 0,
            alignment: 4096,
            wipe: false,
        };
        let opened = create(&mut file, &options).unwrap();
        assert_eq!(opened.geometry().data_offset(), data);
        assert_eq!(file.bytes.len() as u64, data + size);
        assert_eq!(open(&file).unwrap(), opened);
        // For writing it is extended to whole sectors.
        open_writable(&mut file, StorageKey(0), &mut page()).unwrap();
        assert_eq!(file.bytes.len() as u64, data + size.div_ceil(512) * 512);
    }
}

#[test]
fn impossible_files_are_not_created() {
    let good = CreateOptions {
        version: Version::V2,
        path: b"base",
        size_bytes: 8 << 20,
        mtime_s: 0,
        alignment: 4096,
        wipe: false,
    };
    let make = |options| create(&mut Memory::default(), &options).map(drop);
    let path = |path, version| {
        let Err(CreateError::Path { reason }) = make(CreateOptions { version, path, ..good })
        else {
            panic!("{path:?}");
        };
        reason
    };
    assert_eq!(path(b"", Version::V3), PathFault::Empty);
    assert_eq!(path(b"a\0b", Version::V3), PathFault::Nul);
    assert_eq!(path(&[b'x'; 256], Version::V1), PathFault::TooLong { most: 255 });
    assert_eq!(path(&[b'x'; 4096], Version::V2), PathFault::TooLong { most: 4095 });
    let size = |size_bytes| make(CreateOptions { size_bytes, ..good });
    assert_eq!(size(0), Err(CreateError::DiskSize { bytes: 0 }));
    assert_eq!(size(u64::MAX), Err(CreateError::DiskSize { bytes: u64::MAX }));
    assert_eq!(size((8 << 20) + 1), Err(CreateError::NoBit { sectors: 1 }));
    assert_eq!(size(7 * 512), Err(CreateError::NoBit { sectors: 7 }));
    for alignment in [0, 256, 3000, 2 << 20] {
        let result = make(CreateOptions { alignment, ..good });
        assert_eq!(result, Err(CreateError::Alignment { found: alignment }));
    }
}

#[test]
fn sectors_without_a_bit_take_no_writes() {
    // 8 MiB and three sectors: no bit for the last three.
    let mut bytes = v2();
    put(&mut bytes, 4108, &(16_387_u64 * 512).to_be_bytes());
    bytes.resize(6656 + 16_387 * 512, 0);
    let mut file = Memory::new(bytes);
    let mut findings = Vec::new();
    let report = check(&file, &mut page(), |finding| findings.push(finding)).unwrap();
    assert_eq!(findings, [Finding::NoBit { sectors: 3 }]);
    assert!(report.is_clean() && report.warnings == 1);
    let before = file.bytes.clone();
    chain(&mut file, |chain| {
        let refused = Err(CallError::Failed(Failure::Unsupported));
        let last = |lba| Extent::new(lba, 16_387 - lba).unwrap();
        assert_eq!(chain.write(Lba::new(16_384).unwrap(), &[1; 512]), refused);
        assert_eq!(chain.write(Lba::new(16_386).unwrap(), &[1; 512]), refused);
        assert_eq!(chain.zero(last(16_385)), refused);
        chain.discard(last(16_385)).unwrap();
        let mut sector = [9; 1536];
        chain.read(Lba::new(16_384).unwrap(), &mut sector).unwrap();
        assert_eq!(sector, [0; 1536], "the base ends before");
    });
    assert!(file.bytes == before);
}

#[test]
fn every_field_is_judged() {
    let with = |at: usize, data: &[u8]| {
        let mut bytes = v3();
        put(&mut bytes, at, data);
        open(&Memory::new(bytes)).unwrap_err()
    };
    assert_eq!(with(0, b"MOOX"), OpenError::NotUml { first_word: 0x4d4f_4f58 });
    assert_eq!(with(0, b"MOOO"), OpenError::Version { found: 0x0300_0000 });
    assert_eq!(with(4, &[0, 0, 0, 4]), OpenError::Version { found: 4 });
    assert_eq!(with(4, &[0, 0, 0, 0]), OpenError::Version { found: 0 });
    assert_eq!(with(4, &[0x80, 0, 0, 3]), OpenError::BeingEmptied);
    assert_eq!(with(4, &[0x80, 0, 0, 9]), OpenError::Version { found: 0x8000_0009 });
    assert_eq!(with(12, &[0; 8]), OpenError::DiskSize { bytes: 0 });
    assert_eq!(with(12, &[0xff; 8]), OpenError::DiskSize { bytes: u64::MAX });
    assert_eq!(with(20, &[0, 0, 4, 0]), OpenError::SectorSize { found: 1024 });
    for found in [0_u32, 1, 256, 4097, 2 << 20, u32::MAX] {
        assert_eq!(with(24, &found.to_be_bytes()), OpenError::Alignment { found });
    }
    assert_eq!(with(28, &[0, 0, 0, 1]), OpenError::MapKind { found: 1 });
    let tail = |at: usize, data: &[u8]| {
        let mut bytes = v2();
        put(&mut bytes, at, data);
        open(&Memory::new(bytes)).unwrap_err()
    };
    assert_eq!(tail(4116, &[0, 2, 0, 0]), OpenError::SectorSize { found: 0x2_0000 });
    assert_eq!(tail(4108, &[0; 8]), OpenError::DiskSize { bytes: 0 });
    assert_eq!(tail(4108, &(1_u64 << 57).to_be_bytes()), OpenError::DiskSize { bytes: 1 << 57 });
    let mut first = v1();
    put(&mut first, 276, &[0, 0, 0, 0]);
    assert_eq!(open(&Memory::new(first)).unwrap_err(), OpenError::SectorSize { found: 0 });
    let cut = |mut bytes: Vec<u8>, len| {
        bytes.truncate(len);
        open(&Memory::new(bytes)).unwrap_err()
    };
    assert_eq!(cut(v3(), 35), OpenError::Truncated { needed: 36, len: 35 });
    assert_eq!(cut(v3(), 4), OpenError::Truncated { needed: 36, len: 4 });
    assert_eq!(cut(v3(), 3), OpenError::NotUml { first_word: 0x4f4f_4f00 });
    assert_eq!(cut(v3(), 4127), OpenError::Truncated { needed: 4128, len: 4127 });
    assert_eq!(cut(v1(), 279), OpenError::Truncated { needed: 280, len: 279 });
    assert_eq!(cut(v2(), 4120), OpenError::Truncated { needed: 6168, len: 4120 });
    assert_eq!(cut(v3(), 8193), OpenError::Truncated { needed: 10_240, len: 8193 });
    // A huge disk in a small file.
    assert_eq!(
        with(12, &(1_u64 << 50).to_be_bytes()),
        OpenError::Truncated { needed: 8192 + (1 << 38), len: 12_288 + (8 << 20) }
    );
}

#[test]
fn paths_are_judged() {
    for (version, mut bytes, ..) in all() {
        let (at, len) = match version {
            Version::V1 => (8, 256),
            Version::V2 => (8, 4096),
            Version::V3 => (32, 4096),
            Version::V3Padded => (36, 4096),
        };
        let most = version.path_most();
        assert_eq!(most, len - 1);
        let mut buffer = [0; 4096];
        let path = |bytes: &Vec<u8>, buffer: &mut [u8]| {
            let file = Memory::new(bytes.clone());
            let opened = open(&file).unwrap();
            let mut findings = Vec::new();
            check(&file, &mut page(), |finding| findings.push(finding)).unwrap();
            (read_path(&file, &opened, buffer).map(<[u8]>::len), findings)
        };
        put(&mut bytes, at, &vec![b'x'; len - 1]);
        assert_eq!(path(&bytes, &mut buffer), (Ok(len - 1), vec![]));
        put(&mut bytes, at, &vec![b'x'; len]);
        let endless = Err(PathError::Path { reason: PathFault::TooLong { most } });
        assert_eq!(path(&bytes, &mut buffer), (endless, vec![Finding::EndlessPath]));
        let small = Err(PathError::BufferTooSmall { needed: len });
        assert_eq!(path(&bytes, &mut [0; 255]).0, small);
        if version != Version::V3 {
            put(&mut bytes, at, &vec![0; len]);
            let empty = Err(PathError::Path { reason: PathFault::Empty });
            assert_eq!(path(&bytes, &mut buffer), (empty, vec![Finding::NoPath]));
        }
    }
}

#[test]
fn parents_are_recognised_by_size_and_then_time() {
    let opened = open(&Memory::new(v3())).unwrap();
    assert_eq!(opened.judge_parent(8 << 20, MTIME), Ok(()));
    assert_eq!(opened.judge_parent(8 << 20, MTIME + (1 << 32)), Ok(()));
    assert_eq!(opened.judge_parent(8 << 20, MTIME - (1 << 32)), Ok(()));
    let modified = ParentFault::Modified { expected_s: 0x5e0d_5da5, found_s: 0x5e0d_5da6 };
    assert_eq!(opened.judge_parent(8 << 20, MTIME + 1), Err(modified));
    let size = ParentFault::Size { expected: 8 << 20, found: 5 };
    assert_eq!(opened.judge_parent(5, MTIME + 1), Err(size));
}

#[test]
fn another_parent_keeps_version_bits_and_data() {
    for (version, mut bytes, bitmap, data) in all() {
        let (bitmap, data) = (usize::try_from(bitmap).unwrap(), usize::try_from(data).unwrap());
        put(&mut bytes, bitmap, b"\x81\xff");
        put(&mut bytes, data, &[7; 8192]);
        for len in [3, 200, 255, 400, 2000, 4095] {
            if len > version.path_most() {
                continue;
            }
            let mut file = Memory::new(bytes.clone());
            let mut opened = open(&file).unwrap();
            let path = vec![b'p'; len];
            let parent = NewParent { path: &path, size_bytes: (8 << 20) - 511, mtime_s: MTIME + 7 };
            set_parent(&mut file, &mut opened, &parent, &mut page()).unwrap();
            assert_eq!(open(&file).unwrap(), opened);
            assert_eq!((opened.version(), opened.mtime_s()), (version, 0x5e0d_5dac));
            assert_eq!(opened.judge_parent((8 << 20) - 511, MTIME + 7), Ok(()));
            assert_eq!(read_path(&file, &opened, &mut [0; 4096]).unwrap(), path);
            assert!(file.bytes[bitmap..] == bytes[bitmap..], "{version:?}");
            // And back.
            let old = NewParent { path: b"/base.img", size_bytes: 8 << 20, mtime_s: MTIME };
            set_parent(&mut file, &mut opened, &old, &mut page()).unwrap();
            assert!(file.bytes == bytes, "{version:?}, {len}");
        }
        let mut file = Memory::new(bytes.clone());
        let mut opened = open(&file).unwrap();
        let long = vec![b'p'; version.path_most() + 1];
        for bad in [&b""[..], b"a\0", &long] {
            let parent = NewParent { path: bad, size_bytes: 8 << 20, mtime_s: 0 };
            let result = set_parent(&mut file, &mut opened, &parent, &mut page());
            assert!(matches!(result, Err(PathError::Path { .. })));
        }
        for size_bytes in [(8 << 20) - 512, (8 << 20) + 1] {
            let parent = NewParent { path: b"/x", size_bytes, mtime_s: 0 };
            let result = set_parent(&mut file, &mut opened, &parent, &mut page());
            let found = size_bytes.div_ceil(512);
            assert_eq!(result, Err(PathError::Sectors { expected: 16_384, found }));
        }
        assert!(file.bytes == bytes);
    }
}

#[test]
fn a_file_that_ends_early_says_so() {
    let mut bytes = v3();
    put(&mut bytes, 8192, b"\x0f\0\0\x80");
    bytes.truncate(12_288 + 512 * 2 + 100);
    let mut file = Memory::new(bytes);
    let mut findings = Vec::new();
    let report = check(&file, &mut page(), |finding| findings.push(finding)).unwrap();
    assert_eq!(findings, [Finding::DataMissing { sector: 3, sectors: 2 }]);
    assert_eq!((report.errors, report.data_sectors), (1, 5));
    // Making it longer would pass zeros off as data.
    let missing = OpenError::DataMissing { sector: 3, sectors: 2 };
    let refused = open_writable(&mut file, StorageKey(0), &mut page());
    assert_eq!(refused.map(drop), Err(missing));
    // What is there can be read, a part of a sector with zeros behind it.
    let layers = [
        Layer::Bitmap(open(&file).unwrap().frozen(StorageKey(0))),
        Layer::Raw(raw::Raw::new(StorageKey(1), 8 << 20).unwrap()),
    ];
    let mut engine = Engine::<4>::new(None, 16_384, Durability::Safe).unwrap();
    file.bytes[12_288..].fill(b'u');
    let base = Memory::new(vec![b'b'; 8 << 20]);
    let (mut pages, mut frames) = (vec![Page::ZERO; 2], vec![Frame::EMPTY; 2]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let mut chain = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut OverBase { overlay: file, base },
    };
    let mut sectors = vec![1; 3 * 512];
    chain.read(Lba::ZERO, &mut sectors).unwrap();
    assert!(sectors[..1124].iter().all(|b| *b == b'u') && sectors[1124..].iter().all(|b| *b == 0));
    let corrupt = Failure::Corrupt { storage: StorageKey(0), offset: 8192 };
    let refused = chain.read(Lba::new(3).unwrap(), &mut sectors[..512]);
    assert_eq!(refused, Err(CallError::Failed(corrupt)));
    chain.read(Lba::new(4).unwrap(), &mut sectors).unwrap();
    assert!(sectors.iter().all(|b| *b == b'b'));
}

#[test]
fn stray_bits_are_a_warning() {
    let mut bytes = v3();
    put(&mut bytes, 12, &(8_u64 << 20).wrapping_sub(3 * 512).to_be_bytes());
    put(&mut bytes, 8192 + 2047, b"\xff\xff\xff");
    let mut findings = Vec::new();
    let report = check(&Memory::new(bytes), &mut page(), |f| findings.push(f)).unwrap();
    assert_eq!(findings, [Finding::StrayBits { bits: 3 }]);
    assert_eq!((report.is_clean(), report.data_sectors), (true, 5));
}

#[test]
fn an_emptied_file_is_as_new() {
    for (version, bytes, bitmap, _) in all() {
        let mut file = Memory::new(bytes.clone());
        chain(&mut file, |chain| chain.write(Lba::new(5).unwrap(), &[1; 5120]).unwrap());
        let used = file.bytes.clone();
        rollback(&mut file).unwrap();
        let header = usize::try_from(bitmap).unwrap() + 2048;
        assert!(file.bytes[..header] == bytes[..header], "{version:?}");
        // Cut short, it is no COW file until it is done again.
        file.bytes = used;
        let version_at = if version == Version::V1 { 7 } else { 4 };
        file.bytes[version_at] |= 0x80;
        assert_eq!(open(&file), Err(OpenError::BeingEmptied));
        rollback(&mut file).unwrap();
        assert!(file.bytes[..header] == bytes[..header], "{version:?}");
    }
    let mut other = Memory::new(vec![0; 9000]);
    let reason = OpenError::NotUml { first_word: 0 };
    assert_eq!(rollback(&mut other), Err(RollbackError::Header { reason }));
    assert!(other.log.is_empty());
}

#[test]
fn the_largest_disks_fit() {
    // What the reference can hold ends a little below 8 TiB.
    let geometry = |size_bytes: u64| {
        let mut bytes = v3();
        put(&mut bytes, 12, &size_bytes.to_be_bytes());
        match open(&Memory::new(bytes)) {
            Err(OpenError::Truncated { needed, .. }) => needed,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(geometry(8 << 40), 8192 + (2 << 30));
    assert_eq!(geometry(((1 << 48) - 1) * 512), 8192 + (1 << 45));
    assert!(open(&Memory::new(v3())).unwrap().fits_reference());
}
