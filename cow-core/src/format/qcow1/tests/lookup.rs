//! Lookups in images that are written down, those of Xen among them.

use super::*;

#[test]
fn present_clusters_are_in_the_file_and_absent_ones_below() {
    read(printed(), 4 << 20, |driver| {
        assert_eq!(sector(driver, 0), [0xa0; 512]);
        assert_eq!(sector(driver, 1), [0xa1; 512]);
        assert_eq!(sector(driver, 2), [0xbb; 512]);
        assert_eq!(sector(driver, 8191), [0xbb; 512], "the last sector of the base");
        assert_eq!(sector(driver, 8192), [0; 512], "behind its end");
        let data = Run { sectors: 2, place: Place::Data { offset: 0x8400 } };
        assert_eq!(map(driver, 0, 100), (1, data));
        // All that a page says, and all that a table would.
        let (depth, run) = map(driver, 2, 16_382);
        assert_eq!((depth, run.sectors), (2, 510));
        let (_, run) = map(driver, 4096, 12_288);
        assert_eq!(run.sectors, 4096);
    });
}

#[test]
fn absent_clusters_of_an_image_that_stands_alone_are_zeros() {
    let mut bytes = head(b"", 8 << 20, [12, 9], 48);
    bytes.resize(80, 0);
    read(bytes, 4 << 20, |driver| {
        assert_eq!(sector(driver, 0), [0; 512]);
        assert_eq!(map(driver, 0, 9), (1, Run { sectors: 9, place: Place::Zero }));
    });
}

#[test]
fn a_table_behind_the_end_of_the_file_is_absent() {
    for table in [0x8800_u64, 0x9000, 1 << 40, u64::MAX] {
        let mut bytes = printed();
        bytes[64..72].copy_from_slice(&table.to_be_bytes());
        read(bytes, 8 << 20, |driver| {
            assert_eq!(sector(driver, 4096), [0xbb; 512], "table at {table:#x}");
            assert_eq!(sector(driver, 0), [0xa0; 512]);
        });
    }
}

#[test]
fn a_table_that_the_file_has_in_part_is_zero_from_there_on() {
    let mut bytes = printed();
    bytes[64..72].copy_from_slice(&0x8800_u64.to_be_bytes());
    bytes.extend(0x8600_u64.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(0x8400_u64.to_be_bytes());
    read(bytes, 8 << 20, |driver| {
        assert_eq!(sector(driver, 4096), [0xa1; 512]);
        assert_eq!(sector(driver, 4097), [0xbb; 512]);
        assert_eq!(sector(driver, 4098), [0xa0; 512]);
        assert_eq!(sector(driver, 4099), [0xbb; 512]);
        assert_eq!(sector(driver, 8191), [0xbb; 512]);
    });
}

/// Reading a sector fails, and says where.
fn corrupt(bytes: Vec<u8>, lba: u64, offset: u64) {
    use crate::blocking::CallError;
    use crate::engine::Failure;
    read(bytes, 8 << 20, |driver| {
        let failed = driver.read(Lba::new(lba).unwrap(), &mut [0; 512]);
        let expected = Failure::Corrupt { storage: StorageKey(0), offset };
        assert_eq!(failed, Err(CallError::Failed(expected)));
    });
}

#[test]
fn tables_and_clusters_cannot_be_just_anywhere() {
    // In the header, in the name, in the L1 table, not on a sector; a table, then a cluster.
    for place in [8_u64, 0x200 - 0x1f8, 48, 56, 64, 0x401] {
        let mut bytes = printed();
        bytes[64..72].copy_from_slice(&place.to_be_bytes());
        corrupt(bytes, 4096, 64);
        let mut bytes = printed();
        bytes[0x410..0x418].copy_from_slice(&place.to_be_bytes());
        corrupt(bytes, 2, 0x410);
    }
    // A cluster behind the end of the file.
    for place in [0x8800_u64, 0x8a00, i64::MAX.cast_unsigned() - 511] {
        let mut bytes = printed();
        bytes[0x408..0x410].copy_from_slice(&place.to_be_bytes());
        corrupt(bytes.clone(), 1, 0x408);
        read(bytes, 8 << 20, |driver| assert_eq!(sector(driver, 0), [0xa0; 512]));
    }
    // Compressed: to nothing, in the header, behind the end.
    for entry in [1_u64 << 63 | 0x8400, 1 << 63 | 1 << 54 | 8, 1 << 63 | 1 << 54 | 0x8800] {
        let mut bytes = printed();
        bytes[0x408..0x410].copy_from_slice(&entry.to_be_bytes());
        corrupt(bytes, 1, 0x408);
    }
}

#[test]
fn what_the_file_lacks_of_a_cluster_is_zeros() {
    let mut bytes = head(b"", 1 << 20, [12, 9], 48);
    bytes.resize(8192 + 700, 0x33);
    bytes[48..56].copy_from_slice(&4096_u64.to_be_bytes());
    bytes[4096..8192].fill(0);
    bytes[4096..4104].copy_from_slice(&8192_u64.to_be_bytes());
    read(bytes, 0, |driver| {
        assert_eq!(sector(driver, 0), [0x33; 512]);
        let second = sector(driver, 1);
        assert!(second[..188] == [0x33; 188] && second[188..] == [0; 324]);
        assert_eq!(sector(driver, 2), [0; 512]);
        assert_eq!(sector(driver, 7), [0; 512]);
        assert_eq!(sector(driver, 8), [0; 512]);
    });
}

/// Length in the bits from 51 on for clusters of 4 KiB, offset below.
#[test]
fn compressed_clusters_are_taken_apart() {
    let mut bytes = head(b"", 1 << 20, [12, 9], 48);
    bytes.resize(9000, 0x33);
    bytes[48..56].copy_from_slice(&4096_u64.to_be_bytes());
    bytes[4096..8192].fill(0);
    let entry = packed(8195, 500);
    bytes[4096..4104].copy_from_slice(&entry.to_be_bytes());
    bytes[4104..4112].copy_from_slice(&entry.to_be_bytes());
    read(bytes, 0, |driver| {
        let part = |from| {
            let codec = Codec::Deflate;
            Place::Packed(Packed { offset: 8195, len: 500, codec, unit_len: 4096, from })
        };
        assert_eq!(map(driver, 0, 16), (1, Run { sectors: 8, place: part(0) }));
        assert_eq!(map(driver, 3, 2), (1, Run { sectors: 2, place: part(1536) }));
        assert_eq!(map(driver, 15, 9), (1, Run { sectors: 1, place: part(3584) }));
        assert_eq!(sector(driver, 9)[1..], [0xcc; 511]);
        assert_eq!(sector(driver, 16), [0; 512]);
    });
}

/// An image of Xen's: the extension, L1 at 4096, the first table at 8192 with a run of preallocated
/// clusters right behind it.
fn xen(flags: u32, l1: [u8; 8]) -> Vec<u8> {
    let mut bytes = head(b"", 1 << 22, [12, 9], 4096);
    bytes.extend(b"XEN\xfb");
    for word in [0xdead_beef_u32, 512, flags] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.resize(12_288, 0);
    bytes[4096..4104].copy_from_slice(&l1);
    for n in 0..4_u64 {
        let at = 8192 + 8 * usize::try_from(n).unwrap();
        bytes[at..at + 8].copy_from_slice(&(12_288 + 4096 * n).to_be_bytes());
        bytes.extend([0x50 + u8::try_from(n).unwrap(); 4096]);
    }
    bytes
}

/// 8192, least significant octet first.
const LITTLE: [u8; 8] = [0, 0x20, 0, 0, 0, 0, 0, 0];

#[test]
fn xens_images_are_read_in_either_order_of_the_first_table() {
    for (flags, l1) in
        [(2, 8192_u64.to_be_bytes()), (3, 8192_u64.to_be_bytes()), (0, LITTLE), (1, LITTLE)]
    {
        let bytes = xen(flags, l1);
        let header = *open(&File::new(bytes.clone())).unwrap().header();
        let expected = Xen { checksum: 0xdead_beef, min_cluster_alloc: 512, flags };
        assert_eq!(header.xen, Some(expected));
        read(bytes, 0, |driver| {
            for n in 0..4 {
                assert_eq!(sector(driver, 8 * n + 3), [0x50 + u8::try_from(n).unwrap(); 512]);
            }
            assert_eq!(sector(driver, 32), [0; 512]);
            assert_eq!(sector(driver, 8191), [0; 512]);
            let run = Run { sectors: 32, place: Place::Data { offset: 12_288 } };
            assert_eq!(map(driver, 0, 100), (1, run));
        });
    }
}

/// Some of Xen's writers made the table far too long, and say nothing about what lies there.
#[test]
fn an_oversized_first_table_is_read_as_far_as_it_is_needed() {
    let mut bytes = xen(2, 8192_u64.to_be_bytes());
    bytes[4112..8192].fill(0xff);
    read(bytes.clone(), 0, |driver| {
        assert_eq!(sector(driver, 0), [0x50; 512]);
        assert_eq!(sector(driver, 8191), [0; 512]);
    });
    let image = written(bytes, 0, |driver| {
        driver.write(Lba::new(8191).unwrap(), &[7; 512]).unwrap();
        assert_eq!(sector(driver, 8191), [7; 512]);
        assert_eq!(sector(driver, 8190), [0; 512]);
    });
    assert!(image.bytes[4112..8192].iter().all(|byte| *byte == 0xff), "not ours");
}

#[test]
fn the_extension_is_looked_for_only_where_it_can_be() {
    // L1 elsewhere; a name that begins where the extension would.
    let mut bytes = xen(0, [0; 8]);
    bytes[40..48].copy_from_slice(&4104_u64.to_be_bytes());
    assert_eq!(open(&File::new(bytes)).unwrap().header().xen, None);
    let mut bytes = xen(0, [0; 8]);
    bytes[8..16].copy_from_slice(&48_u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&9_u32.to_be_bytes());
    let header = *open(&File::new(bytes)).unwrap().header();
    assert_eq!((header.xen, header.backing.map(|b| b.len)), (None, Some(9)));
    // A name behind it.
    let mut bytes = xen(0, [0; 8]);
    bytes[8..16].copy_from_slice(&64_u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&9_u32.to_be_bytes());
    let header = *open(&File::new(bytes)).unwrap().header();
    assert!(header.xen.is_some() && header.backing.is_some());
}

#[test]
fn runs_are_what_the_tables_say() {
    let mut bytes = printed();
    bytes[0x410..0x418].copy_from_slice(&0x8401_u64.to_be_bytes());
    bytes[0x1400..0x1408].copy_from_slice(&0x8400_u64.to_be_bytes());
    let file = File::new(bytes);
    let opened = open(&file).unwrap();
    let mut scratch = [Page::ZERO, Page::ZERO];
    let mut runs = Runs::new(&opened, &mut scratch);
    let at = |first, sectors, offset| {
        Some((Extent::new(first, sectors).unwrap(), Place::Data { offset }))
    };
    assert_eq!(runs.next(&file).unwrap(), at(0, 2, 0x8400));
    assert_eq!(runs.next(&file), Err(RunsError::Corrupt { offset: 0x410 }));
    assert_eq!(runs.next(&file).unwrap(), at(512, 1, 0x8400));
    assert_eq!(runs.next(&file).unwrap(), None);
    assert_eq!(runs.next(&file).unwrap(), None);
}
