//! Ends of every kind, after every single event of recorded runs.
//!
//! The failure stories:
//!
//! * *Power cut, safe.* A client was told that its write is done; the machine loses its power in any
//!   moment after that. Whatever was not synced is lost, kept, or torn, in any order. The write is
//!   there; every other sector holds what it held or what was being written; the metadata are sound.
//! * *Power cut, writeback.* The last seconds may be lost, but not what a flush or a durable write
//!   vouched for, and a sector never holds anything but an old or a new version of itself.
//! * *Kill, both.* The server is killed and started again. With the notes that it kept, every
//!   acknowledged write is there, though half of it was never published.
//! * *Again.* The power fails while the next process recovers: restores, commits, closes.
//! * *Rollback, freeze, create.* The power fails in the middle: all of it has happened, or nothing.
//!
//! A write tears between sectors, or, with native overlays (whose pages do not rely on sectors) and
//! bitmaps (whose bits only ever get set), anywhere; then a sector of data that was being rewritten
//! may be a mix of its versions.
//!
//! The last tests show that all this can fail: drivers that drop syncs, acknowledge early, publish
//! early or lose notes are found out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use cow_core::engine::Durability;
use cow_core::fault::{Machine, Tear};
use cow_core::format::cowloop::Width;
use cow_core::format::native;
use cow_core::format::uml::Version;
use cow_core::pages::Page;
use system_tests::chain_model::{Format, more_seeds};
use system_tests::crash::{Change, End, Recording, Story, Tally, end_change, is_caught};
use system_tests::sim_plan::{Mischief, Plan};

const CUT: End = End::PowerCut(Tear::Sectors);

/// A disk that needs two native pages; many small writes, or a few large ones that need several
/// stages in a store.
fn story(format: Format, durability: Durability, seed: u64) -> Story {
    let pages = [2, 3, 8][usize::try_from(seed % 3).unwrap()];
    let (requests, longest) = if seed % 4 == 3 { (12, 150) } else { (36, 12) };
    let plan = Plan { longest, ..Plan::new(requests, durability) };
    let sectors = match format {
        // Two pages of the bitmap.
        Format::Uml(_) | Format::DmCow => 32_784,
        _ => 16_140,
    };
    Story { format, sectors, pages, plan, seed }
}

fn end_all(format: Format, durability: Durability, seeds: u64, ends: &[End]) {
    let mut total = Tally::default();
    for seed in 0..seeds * more_seeds() {
        let story = story(format, durability, seed);
        let recording = Recording::new(&story).unwrap_or_else(|e| panic!("{story:?}: {e}"));
        for end in ends {
            let tally = recording.end_everywhere(*end, 2, 11);
            total.add(tally.unwrap_or_else(|e| panic!("{story:?}: {e}")));
        }
    }
    println!("{format:?}, {durability:?}: {total:?}");
    assert!(total.ends > 500 && total.recoveries > 100 && total.older > 500, "{total:?}");
    let notes = durability == Durability::Writeback && ends.contains(&End::Kill);
    assert!(!notes || total.restored > 100, "{total:?}");
}

#[test]
fn safe_native_overlays_lose_nothing() {
    let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
    end_all(Format::Native, Durability::Safe, 6, &ends);
}

#[test]
fn safe_snapshot_stores_lose_nothing() {
    end_all(Format::Dm(8), Durability::Safe, 4, &[CUT, End::Kill]);
    end_all(Format::Dm(1), Durability::Safe, 4, &[CUT, End::Kill]);
}

/// Images as the reference makes them, images with many tables, and clusters of more than a sector
/// over a backing file.
const QCOW1: [Format; 3] = [Format::qcow1(9, 12), Format::qcow1(9, 6), Format::qcow1(12, 9)];

#[test]
fn safe_qcow1_images_lose_nothing() {
    for format in QCOW1 {
        end_all(format, Durability::Safe, 4, &[CUT, End::Kill]);
    }
}

#[test]
fn writeback_qcow1_images_are_old_or_new_and_keep_notes() {
    for format in QCOW1 {
        // Two writes into one new cluster, killed between their notes: seed 21 of the last.
        let seeds = if format == QCOW1[2] { 22 } else { 4 };
        end_all(format, Durability::Writeback, seeds, &[CUT, End::Kill]);
    }
}

/// Tiny clusters with many tables; counts of one bit; version 2, which has no mark for zeros.
const QCOW2: [Format; 3] =
    [Format::qcow2(3, 9, 16), Format::qcow2(3, 12, 1), Format::qcow2(2, 12, 16)];

#[test]
fn safe_qcow2_images_lose_nothing() {
    for format in QCOW2 {
        end_all(format, Durability::Safe, 4, &[CUT, End::Kill]);
    }
}

#[test]
fn writeback_qcow2_images_are_old_or_new_and_keep_notes() {
    for format in QCOW2 {
        end_all(format, Durability::Writeback, 4, &[CUT, End::Kill]);
    }
}

#[test]
fn writeback_native_overlays_are_old_or_new_and_keep_notes() {
    let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
    end_all(Format::Native, Durability::Writeback, 6, &ends);
}

#[test]
fn logged_native_overlays_lose_nothing() {
    let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
    end_all(Format::Native, Durability::Logged, 6, &ends);
}

#[test]
fn writeback_snapshot_stores_are_old_or_new_and_keep_notes() {
    end_all(Format::Dm(8), Durability::Writeback, 4, &[CUT, End::Kill]);
    end_all(Format::Dm(1), Durability::Writeback, 4, &[CUT, End::Kill]);
}

const UML: [Format; 3] =
    [Format::Uml(Version::V1), Format::Uml(Version::V2), Format::Uml(Version::V3)];

#[test]
fn safe_uml_files_lose_nothing() {
    for format in UML {
        let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
        end_all(format, Durability::Safe, 2, &ends);
    }
}

#[test]
fn writeback_uml_files_are_old_or_new_and_keep_notes() {
    for format in UML {
        let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
        end_all(format, Durability::Writeback, 2, &ends);
    }
}

#[test]
fn dm_cow_layers_lose_nothing_and_keep_notes() {
    let ends = [CUT, End::PowerCut(Tear::Anywhere), End::Kill];
    end_all(Format::DmCow, Durability::Safe, 4, &ends);
    end_all(Format::DmCow, Durability::Writeback, 4, &ends);
}

#[test]
fn cowfiles_lose_nothing_and_keep_notes() {
    for width in [Width::Bits32, Width::Bits64] {
        end_all(Format::Cowloop(width), Durability::Safe, 2, &[CUT, End::Kill]);
        end_all(Format::Cowloop(width), Durability::Writeback, 2, &[CUT, End::Kill]);
    }
}

#[test]
fn rollback_and_freeze_happen_or_do_not() {
    let bitmaps = [
        Format::Uml(Version::V1),
        Format::Uml(Version::V3),
        Format::DmCow,
        Format::Cowloop(Width::Bits64),
    ];
    for seed in 0..3 {
        let mut formats = vec![
            Format::Native,
            Format::Dm(8),
            Format::Dm(1),
            QCOW1[0],
            QCOW1[2],
            QCOW2[0],
            QCOW2[1],
        ];
        formats.push(bitmaps[usize::try_from(seed).unwrap()]);
        formats.extend(bitmaps.get(3).filter(|_| seed == 0));
        for format in formats {
            let story = story(format, Durability::Safe, seed);
            let recording = Recording::new(&story).unwrap();
            end_change(&recording, Change::Rollback, 12)
                .unwrap_or_else(|e| panic!("{format:?}, seed {seed}: {e}"));
        }
        // Freezing a store changes nothing in it.
        let recording = Recording::new(&story(Format::Native, Durability::Safe, seed)).unwrap();
        end_change(&recording, Change::Freeze, 12).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// On a partition that holds an older overlay of ours there is never a mix of the two: no image,
/// or an empty one.
#[test]
fn create_leaves_an_image_or_none() {
    let mut seen = [0; 2];
    for seed in 0..40 {
        let recording = Recording::new(&story(Format::Native, Durability::Safe, seed % 3)).unwrap();
        let machine: &Machine = &recording.disk.machine;
        for event in &recording.log {
            machine.replay(event);
        }
        machine.settle();
        let start = machine.fork();
        let mut disk = recording.disk.clone();
        let storage = disk.storage(disk.top.1).clone();
        disk.add_top_on(Format::Native, disk.sectors, storage.clone(), true);
        let log = machine.log();
        for cut in 0..=log.len() {
            let now = start.power_cut(Tear::Anywhere, seed ^ (cut as u64) << 16);
            let storage = storage.on(&now);
            if let Ok(opened) = native::open(&storage, &mut Page::ZERO.clone()) {
                let disk = recording.disk.on(&now);
                disk.check().unwrap_or_else(|e| panic!("cut {cut}, seed {seed}: {e}"));
                let report = native::check(&storage, &mut Page::ZERO.clone(), &mut |_| {}).unwrap();
                // Before the first operation it is the old image, which has its own identity.
                let old = opened.header().layer_id.0 == [1; 16];
                assert!(old || report.data == 0, "cut {cut}, seed {seed}: {report:?}");
                assert!(!old || cut < log.len(), "the new image is not there");
                seen[usize::from(!old)] += 1;
            }
            if let Some(event) = log.get(cut) {
                start.replay(event);
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 20), "old and new images: {seen:?}");
}

const CAUGHT: [Format; 9] = [
    Format::Native,
    Format::Dm(8),
    QCOW1[0],
    QCOW2[0],
    QCOW2[1],
    QCOW1[2],
    Format::Uml(Version::V3),
    Format::DmCow,
    Format::Cowloop(Width::Bits64),
];

fn caught(mischief: Mischief, durability: Durability, format: Format, end: End) {
    let caught = (0..12).any(|seed| {
        is_caught(&story(format, durability, seed), mischief, end).expect("a recording")
    });
    assert!(caught, "{mischief:?} goes unnoticed: {durability:?}, {format:?}, {end:?}");
}

#[test]
fn a_driver_that_drops_syncs_is_caught() {
    for format in CAUGHT {
        caught(Mischief::DropSyncs, Durability::Safe, format, CUT);
        caught(Mischief::DropSyncs, Durability::Writeback, format, CUT);
    }
}

#[test]
fn a_driver_that_acknowledges_early_is_caught() {
    for format in CAUGHT {
        caught(Mischief::AcknowledgeEarly, Durability::Safe, format, CUT);
        caught(Mischief::AcknowledgeEarly, Durability::Safe, format, End::Kill);
    }
}

#[test]
fn a_driver_that_publishes_early_is_caught() {
    for format in CAUGHT {
        caught(Mischief::LateSyncs, Durability::Safe, format, CUT);
        caught(Mischief::LateSyncs, Durability::Writeback, format, CUT);
    }
}

#[test]
fn a_driver_that_loses_notes_is_caught() {
    for format in CAUGHT {
        caught(Mischief::DropNotes, Durability::Writeback, format, End::Kill);
    }
}

/// Of a commit log: records that are reported before they are durable, changes that are acknowledged
/// without one, commits that are not durable when the log lets go of what they cover.
#[test]
fn a_driver_that_does_not_keep_its_log_is_caught() {
    for mischief in [Mischief::DropNotes, Mischief::AcknowledgeEarly, Mischief::DropSyncs] {
        caught(mischief, Durability::Logged, Format::Native, CUT);
    }
}

/// The watch sees it at once, without any end.
#[test]
fn the_watch_sees_metadata_overtake_data() {
    let seen = (0..12).any(|seed| {
        let story = story(Format::Native, Durability::Safe, seed);
        let plan = Plan { mischief: Mischief::LateSyncs, ..story.plan };
        let run = Recording::new(&Story { plan, ..story });
        run.is_err_and(|e| e.contains("published"))
    });
    assert!(seen);
}
