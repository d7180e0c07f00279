//! Devices made byte by byte from the description.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::blocking::{Blocking, CallError};
use crate::engine::{Durability, Engine, Failure, Lent};
use crate::format::bitmap::Finding;
use crate::format::memory::Memory;
use crate::format::{Layer, Map, Top, raw};
use crate::pages::{Frame, Page, PagePool, StorageKey};
use crate::units::{Extent, Lba};

const DATA: StorageKey = StorageKey(0);
const BASE: StorageKey = StorageKey(1);
const BITMAP: StorageKey = StorageKey(2);

/// Of 16384 sectors, so L is 5 and the magic is in sector 192 [COW 3.2].
const SECTORS: u64 = 16_384;
const TABLE: Table = Table { sectors: SECTORS, write_offset_sectors: 8, layout: Layout::Intended };

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn bitmap() -> Vec<u8> {
    let mut bytes = vec![0; 193 * 512];
    put(&mut bytes, 192 * 512, b"\x11\xbe\xba\xaa\x0e\xbe\xba\x00\x05\0\0\0\0\0\0\0");
    bytes
}

/// The write device: sector n of the disk is sector n + 8, and says its number.
fn data() -> Vec<u8> {
    let sectors = (0..SECTORS).flat_map(|n| n.to_le_bytes().into_iter().cycle().take(512));
    vec![0xee; 8 * 512].into_iter().chain(sectors).collect()
}

fn page() -> Page {
    Page::ZERO.clone()
}

fn table(layout: Layout) -> Table {
    Table { layout, ..TABLE }
}

/// Runs `work` on write device, base and bitmap device.
fn chain(
    storages: &mut [Memory; 3],
    top: Option<Top>,
    layers: &[Layer<'_>],
    work: impl FnOnce(&mut Blocking<'_, '_, [Memory], 4>),
) {
    let mut engine = Engine::<4>::new(top, SECTORS, Durability::Safe).unwrap();
    let (mut frames, mut memory) = (vec![Frame::EMPTY; 2], vec![Page::ZERO; 2]);
    let mut pool = PagePool::new(&mut memory, &mut frames).unwrap();
    work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index: &mut [] },
        storages: &mut storages[..],
    });
}

fn base() -> Memory {
    Memory::new(vec![b'b'; usize::try_from(SECTORS).unwrap() * 512])
}

fn raw_layer() -> Layer<'static> {
    Layer::Raw(raw::Raw::new(BASE, SECTORS * 512).unwrap())
}

#[test]
fn created_bitmaps_are_the_literal_ones() {
    let mut device = Memory::new(vec![0; 193 * 512]);
    device.bytes[..512].fill(0xa5);
    create(&mut device, SECTORS).unwrap();
    assert!(device.bytes == bitmap());
    assert_eq!(open(&device, &TABLE).unwrap().geometry().data_offset(), 8 * 512);
    // The posted example: 8385866 sectors, L 2048, magic at byte 1146880.
    assert_eq!(bitmap_bytes(8_385_866), 1_146_880 + 512);
    let mut device = Memory::new(vec![0; 1_146_880 + 512]);
    create(&mut device, 8_385_866).unwrap();
    assert_eq!(device.bytes[1_146_880..1_146_892], *b"\x11\xbe\xba\xaa\x0e\xbe\xba\0\0\x08\0\0");
    let occupied = CreateError::Occupied { word: 0x00ba_be0e_aaba_be11 };
    assert_eq!(create(&mut device, 8_385_866), Err(occupied));
    unmark(&mut device, 8_385_866).unwrap();
    create(&mut device, 8_385_866).unwrap();
    let short = CreateError::BitmapTooShort { needed: 193 * 512, len: 193 * 512 - 1 };
    assert_eq!(create(&mut Memory::new(vec![0; 193 * 512 - 1]), SECTORS), Err(short));
    assert_eq!(create(&mut device, 0), Err(CreateError::DiskSize { sectors: 0 }));
}

#[test]
fn sectors_with_a_bit_are_the_write_devices() {
    let mut bits = bitmap();
    put(&mut bits, 0, b"\x81\xff");
    put(&mut bits, 2047, b"\x80");
    let opened = open(&Memory::new(bits.clone()), &TABLE).unwrap();
    let mut storages = [Memory::new(data()), base(), Memory::new(bits)];
    let len = storages[0].bytes.len() as u64;
    let layers = [Layer::Bitmap(opened.frozen(DATA, BITMAP, len)), raw_layer()];
    let before = storages.clone();
    chain(&mut storages, None, &layers, |chain| {
        let mut disk = vec![0; usize::try_from(SECTORS).unwrap() * 512];
        chain.read(Lba::ZERO, &mut disk).unwrap();
        for (n, found) in disk.chunks(512).enumerate() {
            let held = matches!(n, 0 | 7..=15 | 16_383);
            let expected = if held { (n as u64).to_le_bytes() } else { [b'b'; 8] };
            assert!(found.chunks(8).all(|word| word == expected), "sector {n}");
        }
    });
    assert_eq!(storages, before);
    let report =
        check(&storages[2], &TABLE, len, &mut page(), |finding| panic!("{finding}")).unwrap();
    assert_eq!(report.data_sectors, 11);
}

/// Data, sync of the write device, bits, sync of the bitmap device: the posted code had no order.
#[test]
fn bits_follow_durable_data_on_two_devices() {
    let mut storages = [Memory::new(data()), base(), Memory::new(bitmap())];
    let len = storages[0].bytes.len() as u64;
    let opened = open(&storages[2], &TABLE).unwrap();
    let top = opened.writable::<()>(DATA, BITMAP, len).unwrap();
    assert_eq!((top.storage(), top.metadata()), (DATA, BITMAP));
    chain(&mut storages, Some(Top::Bitmap(top)), &[raw_layer()], |chain| {
        chain.write(Lba::new(9).unwrap(), &[7; 1024]).unwrap();
        assert_eq!(chain.storages[0].log, [(17 * 512, 1024), (0, 0)]);
        assert_eq!(chain.storages[2].log, [(0, 2048), (0, 0)]);
        chain.write(Lba::new(10).unwrap(), &[8; 512]).unwrap();
        assert_eq!(chain.storages[0].log.len(), 4, "in place: data and one sync");
        assert_eq!(chain.storages[2].log.len(), 2);
        let mut sectors = [0; 2048];
        chain.read(Lba::new(8).unwrap(), &mut sectors).unwrap();
        let names = [sectors[0], sectors[512], sectors[1024], sectors[1536]];
        assert_eq!(names, [b'b', 7, 8, b'b']);
        chain.zero(Extent::new(12, 1).unwrap()).unwrap();
    });
    let mut expected = bitmap();
    put(&mut expected, 1, &[0b0001_0110]);
    assert!(storages[2].bytes == expected);
    assert_eq!(storages[1].bytes, base().bytes);
}

#[test]
fn every_word_is_judged() {
    let with = |at: usize, bytes: &[u8]| {
        let mut device = bitmap();
        put(&mut device, at, bytes);
        open(&Memory::new(device), &TABLE).unwrap_err()
    };
    let magic = 192 * 512;
    assert_eq!(with(magic, &[0; 8]), OpenError::Blank);
    assert_eq!(with(magic, &[0x12]), OpenError::NotDmCow { word: 0x00ba_be0e_aaba_be12 });
    assert_eq!(with(magic + 7, &[0x80]), OpenError::BeingEmptied);
    assert_eq!(with(magic + 8, &[4]), OpenError::Length { recorded: 4, expected: 5 });
    let other = |table: Table, device: Vec<u8>| open(&Memory::new(device), &table).unwrap_err();
    let sized = |sectors| Table { sectors, ..TABLE };
    assert_eq!(other(sized(0), bitmap()), OpenError::DiskSize { sectors: 0 });
    assert_eq!(other(sized(1 << 48), bitmap()), OpenError::DiskSize { sectors: 1 << 48 });
    let far = Table { write_offset_sectors: u64::MAX / 256, ..TABLE };
    assert_eq!(other(far, bitmap()), OpenError::DiskSize { sectors: SECTORS });
    // A disk that is a little larger has its magic in the same place.
    assert_eq!(other(sized(5 * 4096), bitmap()), OpenError::Length { recorded: 5, expected: 6 });
    let mut short = bitmap();
    short.pop();
    let needed = 193 * 512;
    assert_eq!(other(TABLE, short), OpenError::BitmapTooShort { needed, len: needed - 1 });
    for bytes in [0, 256, 1000, 8192] {
        let posted = table(Layout::AsPosted { block_bytes: bytes });
        assert_eq!(other(posted, bitmap()), OpenError::BlockSize { bytes });
    }
}

#[test]
fn a_write_device_that_is_too_short_is_not_written() {
    let mut bits = bitmap();
    put(&mut bits, 0, b"\x07");
    let bits = Memory::new(bits);
    let opened = open(&bits, &TABLE).unwrap();
    let needed = (SECTORS + 8) * 512;
    let len = needed - 1;
    let refused = opened.writable::<()>(DATA, BITMAP, len).map(drop);
    assert_eq!(refused, Err(OpenError::DataTooShort { needed, len }));
    // Reading it goes as far as it reaches.
    let mut storages = [Memory::new(data()), base(), bits];
    storages[0].bytes.truncate(10 * 512);
    let layers = [Layer::Bitmap(opened.frozen(DATA, BITMAP, 10 * 512)), raw_layer()];
    chain(&mut storages, None, &layers, |chain| {
        chain.read(Lba::ZERO, &mut [0; 1024]).unwrap();
        let corrupt = Failure::Corrupt { storage: BITMAP, offset: 0 };
        let result = chain.read(Lba::new(2).unwrap(), &mut [0; 512]);
        assert_eq!(result, Err(CallError::Failed(corrupt)));
    });
    let mut findings = Vec::new();
    check(&storages[2], &TABLE, 10 * 512, &mut page(), |f| findings.push(f)).unwrap();
    assert_eq!(findings, [Finding::DataMissing { sector: 2, sectors: 1 }]);
}

/// As the posted code would see it: the model is its arithmetic.
#[test]
fn the_posted_layout_is_read_as_posted() {
    for block in [512_usize, 4096] {
        let shift = block.trailing_zeros() + 3;
        let address = |n: usize| ((n >> shift) * block + ((n & (block - 1)) >> 3), n & 7);
        let mut bits = bitmap();
        for n in [0, 5, 9000, 16_383] {
            let (byte, bit) = address(n);
            bits[byte] |= 1 << bit;
        }
        let posted = table(Layout::AsPosted { block_bytes: block as u64 });
        let opened = open(&Memory::new(bits.clone()), &posted).unwrap();
        let mut storages = [Memory::new(data()), base(), Memory::new(bits.clone())];
        let len = storages[0].bytes.len() as u64;
        let layers = [Layer::Bitmap(opened.frozen(DATA, BITMAP, len)), raw_layer()];
        let mut held = 0;
        chain(&mut storages, None, &layers, |chain| {
            let mut disk = vec![0; usize::try_from(SECTORS).unwrap() * 512];
            chain.read(Lba::ZERO, &mut disk).unwrap();
            for (n, found) in disk.chunks(512).enumerate() {
                let (byte, bit) = address(n);
                let set = bits[byte] >> bit & 1 == 1;
                let expected = if set { (n as u64).to_le_bytes() } else { [b'b'; 8] };
                assert!(found.chunks(8).all(|word| word == expected), "sector {n} of {block}");
                held += u64::from(set);
            }
        });
        assert!(held > 8, "{held} sectors share the bits");
        let report = check(&storages[2], &posted, len, &mut page(), |f| panic!("{f}")).unwrap();
        assert_eq!(report.data_sectors, held);
        let refused = opened.writable::<()>(DATA, BITMAP, len).map(drop);
        assert_eq!(refused, Err(OpenError::ReadOnlyLayout));
    }
}

#[test]
fn an_emptied_layer_is_as_new() {
    let mut device = Memory::new(bitmap());
    put(&mut device.bytes, 0, &[0xff; 2048]);
    let used = device.clone();
    rollback(&mut device, &TABLE).unwrap();
    assert!(device.bytes == bitmap());
    let mut cut_short = used;
    cut_short.bytes[192 * 512 + 7] |= 0x80;
    assert_eq!(open(&cut_short, &TABLE), Err(OpenError::BeingEmptied));
    rollback(&mut cut_short, &TABLE).unwrap();
    assert!(cut_short.bytes == bitmap());
    assert_eq!(rollback(&mut Memory::new(vec![0; 193 * 512]), &TABLE), Err(OpenError::Blank));
}
