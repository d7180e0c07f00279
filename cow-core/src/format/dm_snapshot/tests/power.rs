//! Power cuts at every event, with unsynced sectors lost, written or written out of order.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::{Event, Medium, Random, Rig, Sector, extent, load, tags_on};
use crate::format::dm_snapshot::{
    Fault, HeaderFault, OpenError, RollbackError, clear_stale, create, is_store, open, rollback,
};
use crate::storage::{ReadStorage, Storage};

/// Media that a cut after `events` can leave.
fn media(before: &Medium, events: &[Event], random: &mut Random) -> Vec<Medium> {
    let mut durable = before.clone();
    durable.events = None;
    let mut unsynced: Vec<(u64, &Sector)> = Vec::new();
    for event in events {
        match event {
            Event::Write(at, sector) => unsynced.push((*at, sector)),
            Event::Sync => {
                for (at, sector) in unsynced.drain(..) {
                    durable.put(at, sector);
                }
            }
            Event::Begin(..) | Event::Acknowledge(_) => {}
        }
    }
    let mut all = Vec::new();
    for round in 0..5 {
        let mut medium = durable.clone();
        for (at, sector) in &unsynced {
            let arrives = match round {
                0 => false,
                1 => true,
                2 => random.below(2) == 0,
                3 => random.below(10) == 0,
                _ => random.below(10) > 0,
            };
            if arrives {
                medium.put(*at, sector);
            }
        }
        all.push(medium);
        if unsynced.is_empty() {
            break;
        }
    }
    all
}

/// What each sector may hold after `events`: the last acknowledged write or a later one.
fn allowed(disk: u64, events: &[Event]) -> Vec<Vec<u32>> {
    let acknowledged = events
        .iter()
        .rev()
        .find_map(|e| if let Event::Acknowledge(n) = e { Some(*n) } else { None })
        .unwrap_or(0);
    let begun = events.iter().filter_map(|e| {
        if let Event::Begin(start, sectors, tag) = e {
            Some((*start, *sectors, *tag))
        } else {
            None
        }
    });
    let mut allowed = vec![vec![0]; usize::try_from(disk).unwrap()];
    for (number, (start, sectors, tag)) in begun.enumerate() {
        for lba in start..start + sectors {
            let tags = &mut allowed[usize::try_from(lba).unwrap()];
            if number < acknowledged {
                tags.clear();
            }
            tags.push(tag);
        }
    }
    allowed
}

/// A medium full of old exceptions wherever nothing was written yet.
fn dirty_medium(chunk: u32, chunks: u64) -> Medium {
    let mut medium = Medium::new(chunks * u64::from(chunk));
    for at in 1..chunks * u64::from(chunk) {
        let mut sector = [0; 512];
        for (i, byte) in sector.iter_mut().enumerate() {
            *byte = if i % 8 == 0 { 9 } else { 0 };
        }
        medium.put(at, &sector);
    }
    create(&mut medium, chunk).unwrap();
    medium
}

fn record(chunk: u32, chunks: u64, disk: u64, seed: u64) -> (Medium, Vec<Event>) {
    let before = dirty_medium(chunk, chunks);
    let mut rig = Rig::over(before.clone(), disk, 12);
    rig.medium.events = Some(Vec::new());
    let mut random = Random(seed);
    let mut tag = 0;
    let mut write = |rig: &mut Rig, random: &mut Random| {
        tag += 1;
        let start = random.below(disk);
        let sectors = (1 + random.below(u64::from(chunk) * 7)).min(disk - start);
        rig.write(extent(start, sectors), tag)
    };
    for _ in 0..40 {
        for _ in 0..random.below(8) {
            if !write(&mut rig, &mut random) {
                return (before, rig.medium.events.unwrap());
            }
        }
        // A commit with writes while it goes on.
        let begun = rig.begun;
        let sealed = rig.seal();
        if sealed.len() < 4 {
            for lba in 0..random.below(3) {
                // Rewrites and a few new chunks, fewer than would need a commit of their own.
                rig.write(extent(lba, 1), 1_000_000 + u32::try_from(lba).unwrap());
            }
        }
        let _written = rig.publish(&sealed);
        rig.event(Event::Acknowledge(begun));
    }
    (before, rig.medium.events.unwrap())
}

#[test]
fn a_cut_loses_nothing_acknowledged_and_leaves_no_trap() {
    for (chunk, chunks, disk) in [(1, 400, 450), (2, 250, 500), (8, 150, 1300)] {
        let mut random = Random(u64::from(chunk) + 5);
        let (before, events) = record(chunk, chunks, disk, 99 + u64::from(chunk));
        let mut seen = BTreeMap::new();
        for cut in 0..=events.len() {
            // Between two data writes there is nothing to see: some of these cuts are left out.
            let data = matches!(events.get(cut), Some(Event::Write(..)));
            if data && chunk > 1 && random.below(6) > 0 {
                continue;
            }
            let events = &events[..cut];
            let allowed = allowed(disk, events);
            for mut medium in media(&before, events, &mut random) {
                let (opened, tags) = tags_on(&medium, disk);
                for (lba, (tag, allowed)) in tags.iter().zip(&allowed).enumerate() {
                    assert!(allowed.contains(tag), "cut {cut}: sector {lba}: {tag} {allowed:?}");
                }
                // A writer that knows nothing of us can go on: no old exception lies in its way.
                assert_eq!(opened.stale(), None, "cut {cut}");
                *seen.entry(opened.exceptions()).or_insert(0) += 1;
                let (top, _) = load(&mut medium, disk, 5);
                assert_eq!(top.exceptions(), opened.exceptions());
            }
        }
        assert!(seen.len() > 20, "cuts inside commits: {seen:?}");
    }
}

#[test]
fn making_a_store_is_all_or_nothing() {
    let mut before = dirty_medium(2, 50);
    before.poke(0, &[0; 4]);
    let mut after = before.clone();
    after.events = Some(Vec::new());
    create(&mut after, 4).unwrap();
    let events = after.events.take().unwrap();
    let mut random = Random(3);
    let (mut blank, mut made) = (0, 0);
    for cut in 0..=events.len() {
        for medium in media(&before, &events[..cut], &mut random) {
            match open(&medium, 100, &mut [0; 512]) {
                Ok(opened) => {
                    made += 1;
                    assert_eq!((opened.exceptions(), opened.stale()), (0, None));
                    assert_eq!(opened.geometry().chunk_sectors(), 4);
                }
                Err(error) => {
                    blank += 1;
                    assert_eq!(error, OpenError::Blank);
                }
            }
        }
    }
    assert!(blank > 5 && made > 1);
}

#[test]
fn emptying_a_store_never_shows_a_part_of_it() {
    let mut rig = Rig::over(dirty_medium(4, 400), 900, 4);
    for chunk in 0..200 {
        assert!(rig.write(extent(chunk * 4, 4), 7));
    }
    rig.commit();
    let before = rig.medium.clone();
    let full = tags_on(&before, 900).1;
    let mut after = before.clone();
    after.events = Some(Vec::new());
    rollback(&mut after).unwrap();
    let events = after.events.take().unwrap();
    let mut random = Random(11);
    let mut seen = [0; 3];
    for cut in 0..=events.len() {
        for mut medium in media(&before, &events[..cut], &mut random) {
            match open(&medium, 900, &mut [0; 512]) {
                Err(error) => {
                    // The kernel refuses it as well, and nobody takes it for another image.
                    let mut first = [0; 512];
                    medium.read_at(0, &mut first).unwrap();
                    assert!(is_store(first.first_chunk().unwrap()));
                    assert_eq!(error, OpenError::Fault { fault: Fault::Invalidated });
                    seen[0] += 1;
                }
                Ok(opened) if opened.exceptions() == 0 => {
                    assert_eq!(opened.stale(), None);
                    seen[1] += 1;
                }
                Ok(_) => {
                    assert_eq!(tags_on(&medium, 900).1, full);
                    seen[2] += 1;
                }
            }
            rollback(&mut medium).unwrap();
            let (opened, tags) = tags_on(&medium, 900);
            assert_eq!((opened.exceptions(), opened.stale()), (0, None));
            assert!(tags.iter().all(|&tag| tag == 0));
            assert_eq!(opened.geometry().chunk_sectors(), 4);
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    let mut never = Medium::new(100);
    assert_eq!(rollback(&mut never), Err(RollbackError::Header { reason: HeaderFault::Blank }));
}

#[test]
fn old_entries_behind_the_list_are_cleared_before_writing() {
    let mut rig = Rig::create(8, 400, 900, 4);
    for chunk in 0..40 {
        assert!(rig.write(extent(chunk * 8, 8), 7));
    }
    rig.commit();
    // The first sector of the list is lost, as a kernel's torn area write could do.
    rig.medium.poke(4096 + 20 * 16, &[0; 12 * 16]);
    let before = rig.medium.clone();
    let mut opened = open(&before, 900, &mut [0; 512]).unwrap();
    assert_eq!((opened.exceptions(), opened.stale()), (20, Some(4096 + 320)));
    let mut after = before.clone();
    after.events = Some(Vec::new());
    clear_stale(&mut after, &mut opened).unwrap();
    assert_eq!(opened.stale(), None);
    let events = after.events.take().unwrap();
    let mut random = Random(13);
    let content = tags_on(&before, 900).1;
    for cut in 0..=events.len() {
        for medium in media(&before, &events[..cut], &mut random) {
            let (opened, tags) = tags_on(&medium, 900);
            assert_eq!(opened.exceptions(), 20);
            assert_eq!(tags, content);
        }
    }
    assert_eq!(after.bytes(4096 + 320, 4096 - 320), vec![0; 4096 - 320]);
    assert!(after.sync().is_ok());
    let mut rig = Rig::over(after, 900, 4);
    for chunk in 60..100 {
        assert!(rig.write(extent(chunk * 8, 8), 8));
    }
    rig.commit();
    assert_eq!(rig.medium.list().len(), 60, "nothing came back to life");
}
