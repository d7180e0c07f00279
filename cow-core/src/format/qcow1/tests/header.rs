//! Headers: what is read, what is refused, what is made.

use super::*;

#[test]
fn the_printed_header_says_what_the_specification_says() {
    let opened = open(&File::new(printed())).unwrap();
    let header = *opened.header();
    assert_eq!(header.backing, Some(NamePlace { offset: 48, len: 8 }));
    assert_eq!((header.backing_mtime_s, header.size, header.xen), (0, 8 << 20, None));
    let g = opened.geometry();
    assert_eq!((g.sectors(), g.cluster_bytes(), g.l2_entries()), (16_384, 512, 4096));
    assert_eq!((g.l1_offset(), g.l1_entries(), opened.file_len()), (56, 4, 0x8800));
    let mut name = [0; NAME_LEN];
    assert_eq!(opened.backing_name(&File::new(printed()), &mut name), Ok(Some(&b"base.img"[..])));
    assert_eq!(
        opened.backing_name(&File::new(printed()), &mut name[..7]),
        Err(NameError::BufferTooSmall { needed: 8 })
    );
    assert!(is_qcow1(printed().first_chunk().unwrap()));
    assert!(!is_qcow1(b"QFI\xfb\0\0\0\x02"));
}

fn fault(change: impl FnOnce(&mut Vec<u8>)) -> HeaderFault {
    let mut bytes = printed();
    change(&mut bytes);
    match open(&File::new(bytes)) {
        Err(OpenError::Header(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[test]
fn every_field_is_judged() {
    use HeaderFault as F;
    assert_eq!(fault(|b| b[0] = b'q'), F::NotQcow { first_word: 0x7146_49fb });
    assert_eq!(fault(|b| b[7] = 2), F::Version { found: 2 });
    assert_eq!(fault(|b| b[39] = 1), F::Encrypted { method: 1 });
    assert_eq!(fault(|b| b[36] = 1), F::Encrypted { method: 1 << 24 });
    for bits in [0, 8, 17, 63, 64, 255] {
        assert_eq!(fault(|b| b[32] = bits), F::ClusterBits { found: bits });
    }
    for bits in [0, 5, 14, 64, 255] {
        assert_eq!(fault(|b| b[33] = bits), F::L2Bits { found: bits });
    }
    for size in [0_u64, 1, 511, 1 << 57, u64::MAX] {
        assert_eq!(fault(|b| put(b, 24, &size.to_be_bytes())), F::Size { bytes: size });
    }
    // 2^28 entries of 2 MiB are one more than the reference takes.
    let size = (1_u64 << 49) - 512;
    let entries = 1 << 28;
    assert_eq!(fault(|b| put(b, 24, &size.to_be_bytes())), F::L1TooLong { entries });
    for offset in [0_u64, 47, u64::MAX, u64::MAX - 31] {
        assert_eq!(fault(|b| put(b, 40, &offset.to_be_bytes())), F::L1Place { offset });
    }
    assert_eq!(
        fault(|b| put(b, 40, &0x87f0_u64.to_be_bytes())),
        F::TooShort { needed: 0x8810, len: 0x8800 }
    );
    assert_eq!(fault(|b| put(b, 16, &1024_u32.to_be_bytes())), F::NameLength { len: 1024 });
    for offset in [1_u64, 47, 49, 87, u64::MAX] {
        assert_eq!(fault(|b| put(b, 8, &offset.to_be_bytes())), F::NamePlace { offset });
    }
    assert_eq!(
        fault(|b| put(b, 8, &0x87f9_u64.to_be_bytes())),
        F::TooShort { needed: 0x8801, len: 0x8800 }
    );
    for message in [F::Version { found: 3 }, F::Encrypted { method: 1 }, F::L2Bits { found: 1 }] {
        assert!(!std::format!("{message}").is_empty());
    }
}

#[test]
fn a_file_that_ends_early_is_refused_and_never_read_behind_its_end() {
    let whole = printed();
    for len in 0..88 {
        let refused = open(&File::new(whole[..len].to_vec()));
        let expected = match len {
            0..4 => matches!(refused, Err(OpenError::Header(HeaderFault::NotQcow { .. }))),
            4..8 => matches!(refused, Err(OpenError::Header(HeaderFault::Version { .. }))),
            _ => matches!(refused, Err(OpenError::Header(HeaderFault::TooShort { .. }))),
        };
        assert!(expected, "{len} bytes: {refused:?}");
    }
    assert!(open(&File::new(whole[..88].to_vec())).is_ok());
}

#[test]
fn a_name_without_place_or_length_is_none() {
    for (at, field) in [(8, &[0; 8][..]), (16, &[0; 4][..])] {
        let mut bytes = printed();
        put(&mut bytes, at, field);
        assert_eq!(open(&File::new(bytes)).unwrap().header().backing, None);
    }
}

#[test]
fn a_size_within_a_sector_is_rounded_down() {
    let mut bytes = printed();
    put(&mut bytes, 24, &1535_u64.to_be_bytes());
    assert_eq!(open(&File::new(bytes)).unwrap().geometry().sectors(), 2);
}

#[test]
fn created_images_are_what_the_reference_makes() {
    let mut file = File::default();
    create(&mut file, &CreateOptions::new(16_384, Some(b"base.img"))).unwrap();
    let mut expected = printed()[..88].to_vec();
    expected[56..].fill(0);
    expected.resize(512, 0);
    assert_eq!(file.bytes, expected);
    // The header comes last, between two syncs.
    assert_eq!(file.log, [(48, 8), (0, 0), (0, 48), (0, 0)]);
    let mut file = File::default();
    create(&mut file, &CreateOptions::new(16_384, None)).unwrap();
    let mut expected = head(b"", 8 << 20, [12, 9], 48);
    expected.resize(512, 0);
    assert_eq!(file.bytes, expected);
    // Over an older image.
    let mut file = File::new(vec![0xff; 600]);
    let fresh = Fresh::Unknown;
    create(&mut file, &CreateOptions { fresh, ..CreateOptions::new(16_384, None) }).unwrap();
    expected.resize(600, 0xff);
    assert_eq!(file.bytes, expected);
    assert_eq!(file.log[..2], [(0, 48), (0, 0)]);
}

#[test]
fn images_that_nobody_could_use_are_not_made() {
    let refused = |options: CreateOptions<'_>| {
        let mut file = File::default();
        let error = create(&mut file, &options).unwrap_err();
        assert_eq!(file, File::default(), "nothing is written");
        error
    };
    let long = [b'x'; NAME_LEN + 1];
    let backed = CreateOptions::new(100, Some(b"base"));
    let alone = CreateOptions::new(100, None);
    assert_eq!(
        refused(CreateOptions { backing: Some(&long), ..backed }),
        CreateError::NameTooLong { len: 1024 }
    );
    assert_eq!(refused(CreateOptions { backing: Some(b""), ..backed }), CreateError::NameEmpty);
    assert_eq!(
        refused(CreateOptions { cluster_bits: 10, ..backed }),
        CreateError::ClusterTooLarge { cluster_bits: 10 }
    );
    let header = CreateError::Header;
    for found in [8, 17] {
        let options = CreateOptions { cluster_bits: found, ..alone };
        assert_eq!(refused(options), header(HeaderFault::ClusterBits { found }));
    }
    for found in [5, 14] {
        let options = CreateOptions { l2_bits: found, ..alone };
        assert_eq!(refused(options), header(HeaderFault::L2Bits { found }));
    }
    assert_eq!(
        refused(CreateOptions { sectors: 0, ..alone }),
        header(HeaderFault::Size { bytes: 0 })
    );
    assert_eq!(
        refused(CreateOptions { sectors: 1 << 40, ..alone }),
        header(HeaderFault::L1TooLong { entries: 1 << 28 })
    );
}

#[test]
fn another_backing_file_is_named_by_one_sector() {
    let mut file = File::new(printed());
    let opened = set_backing(&mut file, b"elsewhere/other.img", &mut Page::ZERO.clone()).unwrap();
    assert_eq!(opened.header().backing, Some(NamePlace { offset: 0x8800, len: 19 }));
    assert_eq!(file.log[file.log.len() - 4..], [(0x8800, 19), (0, 0), (8, 12), (0, 0)]);
    let mut name = [0; 30];
    assert_eq!(opened.backing_name(&file, &mut name), Ok(Some(&b"elsewhere/other.img"[..])));
    let mut image = written(file.bytes, 4 << 20, |driver| {
        driver.write(Lba::new(7).unwrap(), &[7; 512]).unwrap();
        assert_eq!(sector(driver, 0), [0xa0; 512]);
        assert_eq!(sector(driver, 2), [0xbb; 512]);
    });
    assert_eq!(open(&image).unwrap().backing_name(&image, &mut name).unwrap().unwrap().len(), 19);
    let mut page = Page::ZERO;
    let opened = drop_backing(&mut image, &mut page).unwrap();
    assert_eq!(opened.backing_name(&image, &mut name).unwrap(), None);
    let mut refused = |bytes: Vec<u8>, name: &[u8]| {
        let mut file = File::new(bytes);
        let error = set_backing(&mut file, name, &mut page).unwrap_err();
        assert!(file.log.is_empty());
        error
    };
    assert_eq!(refused(printed(), b""), RebaseError::NameLength { len: 0 });
    assert_eq!(refused(printed(), &[b'x'; 1024]), RebaseError::NameLength { len: 1024 });
    let mut alone = head(b"", 8 << 20, [12, 9], 48);
    alone.resize(80, 0);
    assert_eq!(refused(alone, b"base"), RebaseError::ClusterTooLarge { cluster_bits: 12 });
}
