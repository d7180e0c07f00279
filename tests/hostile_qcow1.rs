//! At least 100,000 images of each format that lie, by fixed seeds: no panic, no endless loop,
//! nothing read behind the end, and an answer or an error for each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cow_core::fault::Dice;
use cow_core::format::{Layer, Top, qcow1, raw};
use cow_core::pages::{Page, StorageKey};
use system_tests::chain_model::more_seeds;
use system_tests::hostile_file::{HostileChain, HostileFile, drive, run};
use system_tests::qcow1_image::Shape;

/// Images of each format.
const IMAGES: u64 = 100_000;

const QCOW1_FIELDS: [(usize, usize); 18] = [
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 1),
    (33, 1),
    (34, 2),
    (36, 4),
    (40, 8),
    (48, 4),
    (56, 4),
    (60, 4),
    (56, 8),
    (64, 8),
    (4096, 8),
    (4104, 8),
];

/// Some tables, clusters, a compressed one; backed and not, of Xen and not.
fn qcow1_images() -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    for (cluster_bits, l2_bits, backing, xen) in [
        (9, 6, &b"base.img"[..], false),
        (9, 12, b"base.img", false),
        (12, 9, b"", false),
        (12, 9, b"", true),
        (10, 7, b"x", true),
    ] {
        let shape = Shape { cluster_bits, l2_bits };
        let sectors = 5 * shape.table_sectors() + 3;
        let mut bytes = shape.header(sectors * 512, backing);
        let mut l1 = Shape::l1_offset(backing.len());
        if xen {
            // The name moves behind the extension.
            l1 = 4096;
            bytes.truncate(48);
            bytes.extend(b"XEN\xfb\0\0\0\0\0\0\0\x01\0\0\0\x02");
            bytes.extend(backing);
            if !backing.is_empty() {
                bytes[8..16].copy_from_slice(&64_u64.to_be_bytes());
            }
            bytes[40..48].copy_from_slice(&l1.to_be_bytes());
        }
        let cluster = 1_u64 << cluster_bits;
        let mut at = (l1 + 6 * 8).next_multiple_of(cluster);
        let put = |bytes: &mut Vec<u8>, at: u64, entry: u64| {
            let at = usize::try_from(at).unwrap();
            bytes.resize(bytes.len().max(at + 8), 0);
            bytes[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        };
        for table in [0, 2, 5] {
            let place = at;
            put(&mut bytes, l1 + 8 * table, place);
            at = (at + shape.table_len()).next_multiple_of(cluster);
            for slot in [0, 1, 2, 7] {
                put(&mut bytes, place + 8 * slot, at);
                at += cluster;
            }
            let packed = 1 << 63 | 200 << (63 - cluster_bits) | at;
            put(&mut bytes, place + 8 * 4, packed);
            at += cluster;
        }
        bytes.resize(usize::try_from(at).unwrap(), 0x5a);
        images.push(bytes);
    }
    images
}

fn look_at_qcow1(file: HostileFile, dice: &mut Dice) -> bool {
    let opened = match qcow1::open(&file) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let _name = opened.backing_name(&file, &mut [0; qcow1::NAME_LEN]).unwrap();
    let mut scratch = [Page::ZERO, Page::ZERO, Page::ZERO];
    let [pair @ .., _] = &mut scratch;
    let mut memory = [0; 256];
    let memory_len = 64 << dice.below(3);
    let report = qcow1::check(&file, &mut memory[..memory_len], pair, &mut |_| {}).unwrap();
    let mut runs = qcow1::Runs::new(&opened, pair);
    let (mut held, mut corrupt) = (0, 0_u64);
    loop {
        match runs.next(&file) {
            Ok(None) => break,
            Ok(Some((extent, _))) => held += extent.sectors(),
            Err(_) => corrupt += 1,
        }
    }
    assert!(held <= opened.geometry().sectors());
    assert!(corrupt == 0 || report.damages > 0, "{report:?}");
    let base = raw::Raw::new(StorageKey(1), 1 << 30).unwrap();
    let layers = [Layer::Qcow1(opened.frozen(StorageKey(0))), Layer::Raw(base)];
    let (chain, _) = drive(HostileChain(file.clone()), None, &layers, dice);
    assert!(chain.0.bytes == file.bytes, "a layer was written");
    if dice.chance(30) {
        let mut file = file.clone();
        let again = qcow1::repair(&mut file, &mut memory, &mut scratch, &mut |_| {});
        if again.is_ok_and(|report| report.damages == 0) {
            let [pair @ .., _] = &mut scratch;
            let after = qcow1::check(&file, &mut memory, pair, &mut |_| {}).unwrap();
            assert_eq!(after.damages, 0, "repaired, and yet damaged: {after:?}");
        }
    }
    let mut file = file;
    let Ok(top) = qcow1::open_writable(&mut file, StorageKey(0), &mut scratch[0]) else {
        return true;
    };
    let (chain, _) = drive(HostileChain(file), Some(Top::Qcow1(top)), &layers[1..], dice);
    let [pair @ .., _] = &mut scratch;
    let after = qcow1::check(&chain.0, &mut memory, pair, &mut |_| {}).unwrap();
    // Writing adds nothing to what was wrong; what pointed behind the end may point inside now.
    assert!(report.damages > 0 || after.damages == 0, "{report:?}, then {after:?}");
    true
}

#[test]
fn qcow1_images_that_lie() {
    let tally = run(&qcow1_images(), &QCOW1_FIELDS, IMAGES * more_seeds(), look_at_qcow1);
    println!("{tally:?}");
    assert!(tally.refused > IMAGES / 10 && tally.refused < IMAGES * 9 / 10, "{tally:?}");
}
