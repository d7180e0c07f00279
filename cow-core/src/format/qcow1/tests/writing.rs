//! What writing leaves in the file, and in which order.

use super::*;
use crate::format::qcow1::RefuseWriting;

fn lba(n: u64) -> Lba {
    Lba::new(n).unwrap()
}

#[test]
fn data_then_table_then_nothing_is_ever_named_before_it_is_there() {
    // Clusters 0 and 1 are there; 2 to 4 are new, in the same table.
    let image = written(printed(), 4 << 20, |driver| {
        driver.write(lba(1), &[5; 4 * 512]).unwrap();
        driver.flush().unwrap();
        assert_eq!(sector(driver, 0), [0xa0; 512]);
        assert_eq!(sector(driver, 4), [5; 512]);
        assert_eq!(sector(driver, 5), [0xbb; 512]);
    });
    // In place, at the end of the file, sync, the page of the table, sync.
    assert_eq!(image.log, [(0x8600, 512), (0x8800, 1536), (0, 0), (0x400, 4096), (0, 0)]);
    assert_eq!(image.be64(0x410), 0x8800);
    assert_eq!(image.be64(0x418), 0x8a00);
    assert_eq!(image.be64(0x420), 0x8c00);
    assert_eq!(image.be64(0x428), 0);
}

#[test]
fn a_new_table_is_zero_and_durable_before_anything_names_it() {
    let image = written(printed(), 4 << 20, |driver| {
        driver.write(lba(9000), &[5; 512]).unwrap();
        driver.flush().unwrap();
    });
    let log = &image.log;
    assert_eq!(log[0], (0x8800, 512), "data first");
    let zeroed: usize = log.iter().filter(|(at, _)| (0x8a00..0x10a00).contains(at)).count();
    let sync = log.iter().position(|entry| *entry == (0, 0)).unwrap();
    assert!(log[..sync].contains(&(0x10_800, 512)), "all of the table");
    // Behind the sync: the L1 entry and the page of the table, in whatever order.
    let mut published = log[sync + 1..sync + 3].to_vec();
    published.sort_unstable();
    assert_eq!(published, [(72, 8), (0x8a00 + 4096, 4096)]);
    assert_eq!(log[sync + 3..], [(0, 0)]);
    assert_eq!(zeroed, 64 + 1);
    assert_eq!(image.be64(72), 0x8a00);
    assert_eq!(image.be64(0x8a00 + 8 * (9000 - 8192)), 0x8800);
}

#[test]
fn rewriting_needs_no_table() {
    let image = written(printed(), 4 << 20, |driver| {
        driver.write(lba(0), &[5; 1024]).unwrap();
        driver.flush().unwrap();
    });
    assert_eq!(image.log, [(0x8400, 1024), (0, 0)]);
}

/// Larger clusters over a backing file: the rest of the cluster is copied, which the reference does
/// not do; it reads the result rightly.
#[test]
fn the_rest_of_a_large_cluster_is_copied() {
    let mut bytes = head(b"base.img", 1 << 20, [12, 9], 56);
    bytes.resize(64, 0);
    let image = written(bytes, 6000, |driver| {
        driver.write(lba(9), &[5; 512]).unwrap();
        driver.write(lba(2047), &[6; 512]).unwrap();
        driver.flush().unwrap();
        assert_eq!(sector(driver, 8), [0xbb; 512]);
        assert_eq!(sector(driver, 9), [5; 512]);
        assert_eq!(sector(driver, 10), [0xbb; 512]);
        let tail = sector(driver, 11);
        assert!(tail[..368] == [0xbb; 368] && tail[368..] == [0; 144]);
    });
    let (table, cluster) = (image.be64(56), 4096);
    assert_eq!(image.be64(usize::try_from(table).unwrap() + 8), cluster);
    let mut expected = vec![0xbb; 4096];
    expected[512..1024].fill(5);
    expected[6000 - 4096..].fill(0);
    assert!(image.bytes[4096..8192] == expected);
}

#[test]
fn zeros_are_stored_over_a_backing_file_and_nowhere_else() {
    let image = written(printed(), 4 << 20, |driver| {
        driver.zero(Extent::new(1, 3).unwrap()).unwrap();
        assert_eq!(sector(driver, 0), [0xa0; 512]);
        assert_eq!(sector(driver, 1), [0; 512]);
        assert_eq!(sector(driver, 3), [0; 512]);
        assert_eq!(sector(driver, 4), [0xbb; 512]);
        driver.discard(Extent::new(0, 100).unwrap()).unwrap();
        assert_eq!(sector(driver, 0), [0; 512], "what is stored is zeroed");
        assert_eq!(sector(driver, 4), [0xbb; 512], "what is not shows through as before");
    });
    assert_eq!((image.be64(0x408), image.be64(0x410), image.be64(0x420)), (0x8600, 0x8800, 0));
    let mut bytes = head(b"", 8 << 20, [12, 9], 48);
    bytes.resize(80, 0);
    let image = written(bytes, 0, |driver| driver.zero(Extent::new(3, 9000).unwrap()).unwrap());
    assert!(image.log.iter().all(|entry| *entry == (0, 0)), "{:?}", image.log);
}

#[test]
fn a_compressed_cluster_is_replaced_by_a_whole_one() {
    let mut bytes = head(b"", 1 << 20, [12, 9], 48);
    bytes.resize(9000, 0x33);
    bytes[48..56].copy_from_slice(&4096_u64.to_be_bytes());
    bytes[4096..8192].fill(0);
    let entry = packed(8195, 500);
    bytes[4096..4104].copy_from_slice(&entry.to_be_bytes());
    let image = written(bytes, 0, |driver| {
        driver.discard(Extent::new(0, 8).unwrap()).unwrap();
        assert_eq!(sector(driver, 2)[1..], [0xcc; 511], "a discard leaves it");
        driver.write(lba(1), &[5; 512]).unwrap();
        assert_eq!(sector(driver, 0)[1..], [0xcc; 511]);
        assert_eq!(sector(driver, 1), [5; 512]);
        assert_eq!(sector(driver, 7)[1..], [0xcc; 511]);
        driver.zero(Extent::new(2, 1).unwrap()).unwrap();
        assert_eq!(sector(driver, 2), [0; 512]);
    });
    assert_eq!(image.be64(4096), 12_288);
}

/// More absent stretches than can be remembered: what is placed is entered, and placing goes on.
#[test]
fn a_request_of_many_pieces_ends() {
    let mut bytes = printed();
    for n in (0..400).step_by(2) {
        let at = 0x400 + 8 * n;
        bytes[at..at + 8].copy_from_slice(&0x8400_u64.to_be_bytes());
    }
    // Every other cluster has a place of its own.
    let first = bytes.len() as u64;
    for n in (0..400_u64).step_by(2) {
        let at = usize::try_from(0x400 + 8 * n).unwrap();
        bytes[at..at + 8].copy_from_slice(&(first + 512 * n).to_be_bytes());
    }
    bytes.resize(bytes.len() + 400 * 512, 0x44);
    let image = written(bytes, 4 << 20, |driver| {
        let data: Vec<u8> = (0..500_u32).flat_map(|n| [n.to_be_bytes()[3]; 512]).collect();
        driver.write(lba(0), &data).unwrap();
        let mut found = vec![0; data.len()];
        driver.read(lba(0), &mut found).unwrap();
        assert!(found == data);
    });
    let report = check(
        &File::new(image.bytes),
        &mut [0; 4096],
        &mut [Page::ZERO, Page::ZERO],
        &mut |finding| assert!(!finding.is_damage(), "{finding}"),
    );
    assert_eq!(report.unwrap().clusters, 500);
}

#[test]
fn entries_of_xens_little_endian_table_stay_in_that_order() {
    let mut bytes = head(b"", 1 << 22, [12, 9], 4096);
    bytes.extend(b"XEN\xfb");
    bytes.extend([0; 12]);
    bytes.resize(8192, 0);
    let image = written(bytes, 0, |driver| {
        driver.write(lba(4096), &[9; 512]).unwrap();
        assert_eq!(sector(driver, 4096), [9; 512]);
    });
    assert_eq!(image.bytes[4104..4112], [0, 0x30, 0, 0, 0, 0, 0, 0]);
    assert_eq!(image.be64(12_288), 8192);
}

#[test]
fn what_points_behind_the_end_is_cleared_before_the_file_grows() {
    let mut bytes = printed();
    bytes[64..72].copy_from_slice(&0x8800_u64.to_be_bytes());
    bytes.push(1); // within a cluster
    bytes[72..80].copy_from_slice(&0x8a00_u64.to_be_bytes());
    let mut file = File::new(bytes);
    let opened = open(&file).unwrap();
    let prepared = prepare(&mut file, &opened, &mut Page::ZERO.clone()).unwrap();
    // The first table begins inside: all of it is there now. The second is gone.
    assert_eq!((prepared.cleared(), file.be64(64), file.be64(72)), (1, 0x8800, 0));
    assert_eq!(file.bytes.len(), 0x10800);
    assert_eq!(file.log.last(), Some(&(0, 0)));
}

#[test]
fn images_that_cannot_be_written_safely_are_refused_for_writing() {
    let refused = |bytes: Vec<u8>| {
        let mut file = File::new(bytes);
        let error = open_writable(&mut file, StorageKey(0), &mut Page::ZERO.clone()).unwrap_err();
        assert!(file.log.is_empty(), "nothing is written");
        error
    };
    let mut bytes = printed();
    bytes.copy_within(56..88, 57);
    bytes[40..48].copy_from_slice(&57_u64.to_be_bytes());
    assert_eq!(
        refused(bytes.clone()),
        UpdateError::Refused(RefuseWriting::L1Unaligned { offset: 57 })
    );
    read(bytes, 0, |driver| assert_eq!(sector(driver, 0), [0xa0; 512]));
    let mut bytes = printed();
    bytes[72..80].copy_from_slice(&0x401_u64.to_be_bytes());
    assert_eq!(refused(bytes), UpdateError::Refused(RefuseWriting::L1Entry { offset: 72 }));
    assert!(matches!(refused(vec![1; 100]), UpdateError::Open(_)));
}

#[test]
fn an_emptied_image_shows_what_is_below() {
    let mut file = File::new(printed());
    rollback(&mut file, &mut Page::ZERO.clone()).unwrap();
    // The pointer to the new table is the one change of the old image.
    let header = file.log.iter().position(|entry| *entry == (40, 8)).unwrap();
    assert_eq!((file.log[header - 1], file.log[header + 1]), ((0, 0), (0, 0)));
    assert!(file.log[..header].iter().all(|(at, len)| *at >= 0x8800 || *len == 0));
    assert_eq!(file.be64(40), 0x9000);
    let image = written(file.bytes, 4 << 20, |driver| {
        assert_eq!(sector(driver, 0), [0xbb; 512]);
        driver.write(lba(0), &[1; 512]).unwrap();
        assert_eq!(sector(driver, 0), [1; 512]);
    });
    assert!(open(&image).is_ok());
}
