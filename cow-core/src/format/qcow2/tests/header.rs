//! Every field of the header, and literal bytes.

use std::vec;

use super::{KEY, Memory, extent, image, opened, page, put, with};
use crate::engine::{Durability, Engine};
use crate::format::qcow2::{
    Backing, CreateError, CreateOptions, HeaderFault, OpenError, OpenWritableError, RebaseError,
    RefuseWriting, Surroundings, backing_name, create, is_qcow2, open, open_writable, set_backing,
};
use crate::format::{Layer, Place, Run};
use crate::units::Lba;

fn refused(memory: &Memory) -> HeaderFault {
    match open(memory) {
        Err(OpenError::Header { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What a header is refused for when a field of `len` bytes holds `value`.
fn fault(at: usize, value: u64, len: usize) -> HeaderFault {
    let mut memory = image(3);
    put(&mut memory, at, value, len);
    refused(&memory)
}

#[test]
fn what_is_none_of_ours_is_told() {
    assert_eq!(fault(0, 0x5146_49fa, 4), HeaderFault::NotQcow2 { found: 0x5146_49fa });
    for found in [0, 1, 4] {
        assert_eq!(fault(4, u64::from(found), 4), HeaderFault::Version { found });
    }
    assert!(is_qcow2(b"QFI\xfb\0\0\0\x03") && is_qcow2(b"QFI\xfb\0\0\0\x07"));
    assert!(!is_qcow2(b"QFI\xfb\0\0\0\x01") && !is_qcow2(b"QFJ\xfb\0\0\0\x02"));
    let short = Memory::new(image(3).bytes[..103].to_vec());
    assert_eq!(refused(&short), HeaderFault::TooShort { needed: 104, len: 103 });
    assert_eq!(refused(&Memory::new(vec![])), HeaderFault::NotQcow2 { found: 0 });
}

#[test]
fn features_that_are_not_known_are_refused_with_their_bits() {
    assert_eq!(fault(32, 1, 4), HeaderFault::Encrypted { method: 1 });
    assert_eq!(fault(32, 2, 4), HeaderFault::Encrypted { method: 2 });
    assert_eq!(fault(32, 3, 4), HeaderFault::Encrypted { method: 3 });
    assert_eq!(fault(72, 4, 8), HeaderFault::ExternalData);
    assert_eq!(fault(72, 32, 8), HeaderFault::Incompatible { bits: 32 });
    assert_eq!(fault(72, 1 << 63 | 1, 8), HeaderFault::Incompatible { bits: 1 << 63 });
    // Compression: type and bit belong together.
    assert_eq!(fault(72, 8, 8), HeaderFault::Compression { found: 0 });
    assert_eq!(fault(104, 1, 1), HeaderFault::Compression { found: 1 });
    assert_eq!(fault(104, 2, 1), HeaderFault::Compression { found: 2 });
    // Subclusters need clusters of 16 KiB.
    assert_eq!(fault(72, 16, 8), HeaderFault::ClusterBits { found: 9 });
    // Unknown compatible and autoclear features are no obstacle.
    let mut memory = image(3);
    put(&mut memory, 80, u64::MAX, 8);
    put(&mut memory, 88, u64::MAX, 8);
    assert!(opened(&memory).header().has_lazy_refcounts());
}

#[test]
fn sizes_are_judged() {
    for found in [0, 8, 22, 1 << 31] {
        assert_eq!(fault(20, u64::from(found), 4), HeaderFault::ClusterBits { found });
    }
    for bytes in [0, 511, 1 << 57, u64::MAX] {
        assert_eq!(fault(24, bytes, 8), HeaderFault::DiskSize { bytes });
    }
    assert_eq!(fault(96, 7, 4), HeaderFault::RefcountOrder { found: 7 });
    for found in [96, 103, 105, 520, u32::MAX] {
        assert_eq!(fault(100, u64::from(found), 4), HeaderFault::HeaderLength { found });
    }
    // 1000 sectors in clusters of one: 16 tables.
    assert_eq!(fault(36, 15, 4), HeaderFault::L1Entries { found: 15, needed: 16 });
    let most = (4 << 20) + 1;
    assert_eq!(fault(36, u64::from(most), 4), HeaderFault::L1Entries { found: most, needed: 16 });
    assert_eq!(fault(24, 1 << 40, 8), HeaderFault::L1Entries { found: 16, needed: 1 << 25 });
    assert_eq!(fault(60, 65_537, 4), HeaderFault::Snapshots { found: 65_537 });
    // What lies behind the last whole sector is left out, as with QEMU.
    let mut memory = image(3);
    put(&mut memory, 24, 999 * 512 + 511, 8);
    assert_eq!(opened(&memory).header().geometry().sectors(), 999);
}

#[test]
fn tables_are_aligned_inside_and_apart() {
    let len = image(3).bytes.len() as u64;
    let table = |field, offset, len| HeaderFault::Table { field, offset, len };
    for offset in [513, len, u64::MAX, 1 << 56] {
        assert_eq!(fault(40, offset, 8), table(40, offset, 128), "L1 at {offset}");
    }
    let reftable = opened(&image(3)).header().reftable_bytes();
    for offset in [1000, len, 1 << 63] {
        assert_eq!(fault(48, offset, 8), table(48, offset, reftable), "reftable at {offset}");
    }
    let at = opened(&image(3)).header().reftable_offset;
    assert_eq!(fault(56, 0, 4), table(56, at, 0));
    assert_eq!(fault(56, 1 << 20, 4), table(48, at, 1 << 29));
    assert_eq!(fault(40, 0, 8), HeaderFault::TablesOverlap { offset: 0 });
    assert_eq!(fault(48, 0, 8), HeaderFault::TablesOverlap { offset: 0 });
    assert_eq!(fault(40, at, 8), HeaderFault::TablesOverlap { offset: at });
    let mut memory = image(3);
    put(&mut memory, 60, 1, 4);
    put(&mut memory, 64, len, 8);
    assert_eq!(refused(&memory), table(64, len, 40));
    put(&mut memory, 64, 700, 8);
    assert_eq!(refused(&memory), table(64, 700, 40));
}

#[test]
fn names_and_extensions_stay_in_the_first_cluster() {
    let name = |offset: u64, len: u32| {
        let mut memory = image(3);
        put(&mut memory, 8, offset, 8);
        put(&mut memory, 16, u64::from(len), 4);
        refused(&memory)
    };
    for (offset, len) in [(500, 13), (111, 5), (1 << 20, 5), (u64::MAX, 5), (200, 1024)] {
        assert_eq!(name(offset, len), HeaderFault::BackingName { offset, len });
    }
    let mut memory = image(3);
    put(&mut memory, 112, 0x1234_5678_0000_0189, 8);
    assert_eq!(refused(&memory), HeaderFault::Extension { offset: 112 });
    put(&mut memory, 112, 0x1234_5678_0000_0188, 8);
    assert!(open(&memory).is_ok(), "exactly to the end");
    put(&mut memory, 112, 0xe279_2aca_0000_0010, 8);
    assert_eq!(refused(&memory), HeaderFault::BackingFormat { len: 16 });
    // A list that never ends is left after a while.
    let mut large = Memory::new(vec![]);
    create(&mut large, &CreateOptions::new(1 << 20), &mut page()).unwrap();
    for at in (112..60_000).step_by(8) {
        put(&mut large, at, 0x7777_7777_0000_0000, 8);
    }
    assert!(matches!(refused(&large), HeaderFault::Extension { .. }));
}

/// The image of version 2 in the specification [COW 6.1], byte by byte.
#[test]
fn the_literal_image_of_the_specification_reads() {
    let mut memory = Memory::new(vec![0; 0x60000]);
    let words: [u64; 9] = [
        0x5146_49fb_0000_0002,
        0x0000_0000_0000_0060,
        0x0000_0008_0000_0010,
        0x0000_0000_0080_0000,
        0x0000_0000_0000_0001,
        0x0000_0000_0003_0000,
        0x0000_0000_0001_0000,
        0x0000_0001_0000_0000,
        0,
    ];
    for (at, word) in words.into_iter().enumerate() {
        put(&mut memory, at * 8, word, 8);
    }
    memory.bytes[72..83].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x03raw");
    memory.bytes[96..104].copy_from_slice(b"base.img");
    put(&mut memory, 0x10000, 0x20000, 8);
    for cluster in 0..6 {
        put(&mut memory, 0x20000 + 2 * cluster, 1, 2);
    }
    put(&mut memory, 0x30000, 0x8000_0000_0004_0000, 8);
    put(&mut memory, 0x40000, 0x8000_0000_0005_0000, 8);
    memory.bytes[0x50000..0x60000].fill(0x77);
    let opened = opened(&memory);
    let header = opened.header();
    assert_eq!((header.version(), header.disk_bytes()), (2, 8 << 20));
    assert_eq!(header.backing_format().unwrap().as_bytes(), b"raw");
    assert_eq!(backing_name(&memory, &opened, &mut [0; 1023]).unwrap(), b"base.img");
    let layers = [Layer::Qcow2(opened.frozen(KEY))];
    let ((), _, _) = with(memory, None, &layers, |chain| {
        let data = Run { sectors: 128, place: Place::Data { offset: 0x50000 } };
        assert_eq!(chain.map(extent(0, 16_384)).unwrap(), (1, data));
        let last = Run { sectors: 1, place: Place::Data { offset: 0x50000 + 127 * 512 } };
        assert_eq!(chain.map(extent(127, 1)).unwrap(), (1, last));
        let (depth, run) = chain.map(extent(128, 16_256)).unwrap();
        assert_eq!((depth, run.sectors, run.place), (2, 16_256, Place::Absent));
        let mut sectors = [1; 1024];
        chain.read(Lba::new(127).unwrap(), &mut sectors).unwrap();
        assert!(sectors[..512] == [0x77; 512] && sectors[512..] == [0; 512]);
    });
}

#[test]
fn creation_judges_what_is_asked_for() {
    let make = |options: CreateOptions<'_>| {
        create(&mut Memory::new(vec![]), &options, &mut page()).unwrap_err()
    };
    let good = CreateOptions::new(1 << 20);
    assert_eq!(make(CreateOptions { version: 1, ..good }), CreateError::Version { asked: 1 });
    for asked in [8, 22] {
        let options = CreateOptions { cluster_bits: asked, ..good };
        assert_eq!(make(options), CreateError::ClusterBits { asked });
    }
    for (version, asked) in [(3, 0), (3, 3), (3, 128), (2, 8)] {
        let options = CreateOptions { version, refcount_bits: asked, ..good };
        assert_eq!(make(options), CreateError::RefcountBits { asked });
    }
    for bytes in [0, 1000, 1 << 60] {
        let options = CreateOptions { disk_bytes: bytes, ..good };
        assert!(matches!(make(options), CreateError::DiskSize { .. }), "{bytes}");
    }
    // 32 MiB of L1 table.
    let tiny = CreateOptions { cluster_bits: 9, disk_bytes: 1 << 38, ..good };
    assert_eq!(make(tiny), CreateError::DiskSize { bytes: 1 << 38, most: 1 << 37 });
    let backing = |name, format| CreateOptions { backing: Some(Backing { name, format }), ..good };
    assert_eq!(make(backing(b"", b"raw")), CreateError::BackingName { most: 1023 });
    assert_eq!(make(backing(&[b'n'; 1024], b"raw")), CreateError::BackingName { most: 1023 });
    assert_eq!(make(backing(b"base", b"")), CreateError::BackingFormat);
    assert_eq!(make(backing(b"base", &[b'f'; 16])), CreateError::BackingFormat);
    let crowded = CreateOptions { cluster_bits: 9, ..backing(&[b'n'; 400], b"raw") };
    assert_eq!(make(crowded), CreateError::BackingName { most: 512 - 112 - 16 - 8 });
}

#[test]
fn another_parent_takes_the_place_of_the_first() {
    let mut memory = Memory::new(vec![]);
    let backing = Some(Backing { name: b"first.img", format: b"raw" });
    let options = CreateOptions { backing, ..CreateOptions::new(1 << 20) };
    create(&mut memory, &options, &mut page()).unwrap();
    let names = |memory: &Memory| {
        let opened = opened(memory);
        let name = backing_name(memory, &opened, &mut [0; 1023]).unwrap().to_vec();
        (name, opened.header().backing_format().map(|f| f.as_bytes().to_vec()))
    };
    let mut now = opened(&memory);
    let long = [b'x'; 900];
    for (name, format) in [(&b"second"[..], &b"qcow2"[..]), (&long, b"raw"), (b"short", b"qcow")] {
        let backing = Some(Backing { name, format });
        set_backing(&mut memory, &mut now, backing, &mut page()).unwrap();
        assert_eq!(names(&memory), (name.to_vec(), Some(format.to_vec())));
        assert_eq!(now.header(), opened(&memory).header());
    }
    set_backing(&mut memory, &mut now, None, &mut page()).unwrap();
    assert_eq!(names(&memory), (vec![], None));
    let refused = |name, format, memory: &mut Memory| {
        let backing = Some(Backing { name, format });
        set_backing(memory, &mut opened(memory), backing, &mut page()).unwrap_err()
    };
    assert_eq!(refused(b"x", b"", &mut memory), RebaseError::BackingFormat);
    let before = memory.bytes.clone();
    assert_eq!(
        refused(&[b'x'; 1024], b"raw", &mut memory),
        RebaseError::BackingName { most: 1023 }
    );
    assert!(memory.bytes == before);
}

#[test]
fn marked_images_take_no_writes_and_promises_end_before_the_first() {
    let writable = |memory: &mut Memory| {
        let opened = opened(memory);
        open_writable(memory, KEY, &opened, &Surroundings::default(), &mut page())
    };
    for (bit, reason) in [(1, RefuseWriting::Dirty), (2, RefuseWriting::Corrupt)] {
        let mut memory = image(3);
        put(&mut memory, 72, bit, 8);
        let before = memory.bytes.clone();
        let refused = writable(&mut memory).unwrap_err();
        assert_eq!(refused, OpenWritableError::Refused { reason });
        assert!(memory.bytes == before && memory.log.is_empty());
        // Reading is another matter.
        let layer = Layer::Qcow2(opened(&memory).frozen(KEY));
        let (read, _, _) = with(memory, None, &[layer], |c| c.read(Lba::ZERO, &mut [0; 512]));
        read.unwrap();
    }
    let mut memory = Memory::new(vec![]);
    create(&mut memory, &CreateOptions::new(1 << 20), &mut page()).unwrap();
    put(&mut memory, 72, 16, 8);
    let refused = writable(&mut memory).unwrap_err();
    assert_eq!(refused, OpenWritableError::Refused { reason: RefuseWriting::Subclusters });
    let mut memory = image(3);
    put(&mut memory, 88, 3 << 40 | 1, 8);
    let top = writable(&mut memory).unwrap();
    assert_eq!(opened(&memory).header().autoclear(), 0);
    assert_eq!(memory.log, [(0, 512), (0, 0)], "one sector, and a sync before any write");
    assert!(
        Engine::<1>::new(Some(crate::format::Top::Qcow2(top)), 1000, Durability::Safe).is_some()
    );
}
