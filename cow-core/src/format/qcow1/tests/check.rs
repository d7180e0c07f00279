//! Checks: each finding, and what is repaired.

use super::*;

fn findings(bytes: &[u8], memory: usize) -> (Report, Vec<Finding>) {
    let mut found = Vec::new();
    let mut memory = vec![0xff; memory];
    let report =
        check(&File::new(bytes.to_vec()), &mut memory, &mut [Page::ZERO, Page::ZERO], &mut |f| {
            found.push(f);
        });
    (report.unwrap(), found)
}

/// The printed image without the space that nothing refers to, and with everything wrong.
fn broken() -> Vec<u8> {
    let mut bytes = printed();
    let mut put = |at: usize, entry: u64| bytes[at..at + 8].copy_from_slice(&entry.to_be_bytes());
    put(64, 0x1_0000); // no table there
    put(72, 0x401); // none can be there
    put(80, 0x400); // the same table again
    put(0x410, 0x9000); // behind the end
    put(0x418, 0x8401);
    put(0x420, 56); // in the L1 table
    put(0x428, 0x8400); // the same cluster again
    put(0x430, 0x600); // in the table
    put(0x438, 1 << 63 | 0x8400); // compressed to nothing
    put(0x440, 1 << 63 | 2 << 54 | 0x87ff); // compressed, and cut off
    bytes
}

#[test]
fn a_sound_image_is_sound() {
    let (report, found) = findings(&printed(), 64);
    assert_eq!((report.tables, report.clusters, report.packed), (1, 2, 0));
    // Between the header's cluster and the table at 0x400.
    assert_eq!(found, [Finding::Leak { offset: 0x200, len: 0x200 }]);
    assert_eq!((report.leaked, report.damages, report.repaired), (0x200, 0, 0));
}

#[test]
fn everything_wrong_is_found() {
    let (report, found) = findings(&broken(), 4096);
    let expected = [
        Finding::ClusterMissing { entry: 0x410, offset: 0x9000 },
        Finding::ClusterImpossible { entry: 0x418, offset: 0x8401 },
        Finding::ClusterImpossible { entry: 0x420, offset: 56 },
        Finding::ClusterTwice { entry: 0x428, offset: 0x8400 },
        Finding::ClusterTwice { entry: 0x430, offset: 0x600 },
        Finding::ClusterImpossible { entry: 0x438, offset: 0x8400 },
        Finding::ClusterCut { entry: 0x440, offset: 0x87ff },
        Finding::ClusterTwice { entry: 0x440, offset: 0x87ff },
        Finding::TableMissing { entry: 64, table: 0x1_0000 },
        Finding::TableImpossible { entry: 72, table: 0x401 },
        Finding::TableTwice { entry: 80, table: 0x400 },
        Finding::Leak { offset: 0x200, len: 0x200 },
    ];
    assert_eq!(found, expected);
    assert_eq!(report.damages, 10, "all but the missing table and the leak");
    assert!(found.iter().all(|f| !std::format!("{f}").is_empty()));
}

/// A file larger than the memory: several walks find the same.
#[test]
fn little_memory_finds_the_same() {
    let mut bytes = printed();
    bytes.resize(1 << 20, 0x77);
    let put = |bytes: &mut Vec<u8>, n: usize, entry: u64| {
        bytes[0x400 + 8 * n..0x408 + 8 * n].copy_from_slice(&entry.to_be_bytes());
    };
    for n in 2..500 {
        put(&mut bytes, n, 0x1_0000 + 512 * n as u64);
    }
    put(&mut bytes, 600, 0x1_0000 + 512 * 300);
    put(&mut bytes, 601, 0xf_fe00);
    let (report, mut found) = findings(&bytes, 1 << 16);
    let (small, mut again) = findings(&bytes, 64);
    assert_eq!(
        (report.clusters, report.damages, report.leaked),
        (small.clusters, small.damages, small.leaked)
    );
    assert_eq!((report.clusters, report.damages), (502, 1));
    let leaks = |found: &mut Vec<Finding>| {
        found.retain(|f| matches!(f, Finding::Leak { .. }));
        found.iter().map(|f| if let Finding::Leak { len, .. } = f { *len } else { 0 }).sum::<u64>()
    };
    assert_eq!(leaks(&mut found), leaks(&mut again));
    assert!(check_memory(1 << 20) <= 1 << 10);
    let none = check(&File::new(bytes), &mut [0; 63], &mut [Page::ZERO, Page::ZERO], &mut |_| {});
    assert!(matches!(none, Err(CheckError::BufferTooSmall { .. })));
}

#[test]
fn compressed_clusters_may_share_a_unit_and_nothing_else() {
    let mut bytes = head(b"", 1 << 20, [12, 9], 48);
    bytes.resize(16_384, 0x33);
    bytes[48..56].copy_from_slice(&4096_u64.to_be_bytes());
    bytes[4096..8192].fill(0);
    let mut put = |n: usize, entry: u64| {
        bytes[4096 + 8 * n..4104 + 8 * n].copy_from_slice(&entry.to_be_bytes());
    };
    put(0, packed(8192, 500));
    put(1, packed(8692, 3000));
    let (report, found) = findings(&bytes, 64);
    assert_eq!((report.packed, report.damages), (2, 0), "{found:?}");
    let mut put = |n: usize, entry: u64| {
        bytes[4096 + 8 * n..4104 + 8 * n].copy_from_slice(&entry.to_be_bytes());
    };
    put(2, 8192);
    let (_, found) = findings(&bytes, 64);
    assert_eq!(found[0], Finding::ClusterTwice { entry: 4112, offset: 8192 });
}

/// Smaller than a cluster, and at one place: every write through one of them would show in the other.
#[test]
fn two_small_tables_at_one_place_are_found() {
    let mut bytes = head(b"", 26 << 19, [12, 7], 208);
    bytes.resize(529, 0);
    bytes[208..216].copy_from_slice(&512_u64.to_be_bytes());
    bytes[216..224].copy_from_slice(&512_u64.to_be_bytes());
    let (report, found) = findings(&bytes, 64);
    assert_eq!(found[0], Finding::TableTwice { entry: 216, table: 512 });
    assert_eq!(report.damages, 1);
}

#[test]
fn repair_keeps_every_byte_that_could_be_read() {
    let mut bytes = broken();
    // Two tables at one place cannot be told apart, and what is impossible is left to people.
    bytes[80..88].fill(0);
    for at in [72, 0x418, 0x420, 0x438, 0x440] {
        bytes[at..at + 8].fill(0);
    }
    let before: Vec<u8> = bytes[0x600..0x800].to_vec();
    let mut file = File::new(bytes);
    let mut scratch = [Page::ZERO, Page::ZERO, Page::ZERO];
    let mut found = Vec::new();
    let report = repair(&mut file, &mut [0; 64], &mut scratch, &mut |f| found.push(f)).unwrap();
    assert_eq!((report.repaired, report.damages), (4, 0), "{found:?}");
    assert_eq!((file.be64(64), file.be64(0x410)), (0, 0));
    read(file.bytes.clone(), 8 << 20, |driver| {
        assert_eq!(sector(driver, 0), [0xa0; 512]);
        assert_eq!(sector(driver, 2), [0xbb; 512]);
        assert_eq!(sector(driver, 5), [0xa0; 512]);
        assert!(sector(driver, 6)[..] == before[..]);
    });
    let (report, found) = findings(&file.bytes, 64);
    assert_eq!(report.damages, 0, "{found:?}");
    assert_eq!(report.clusters, 4);
    // A write to one of the two leaves the other.
    written(file.bytes, 8 << 20, |driver| {
        driver.write(Lba::new(5).unwrap(), &[1; 512]).unwrap();
        assert_eq!(sector(driver, 0), [0xa0; 512]);
    });
}
