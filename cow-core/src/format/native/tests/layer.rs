//! The engine's questions, over a grid of sizes and over storages that hold something already.

use super::*;
use crate::format::{Adopted, Cleared};
use crate::units::MAX_SECTORS;

#[test]
fn first_and_last_sectors_of_all_sizes() {
    for sectors in [1, 2, 16_127, 16_128, 16_129, 3 * 16_128, MAX_SECTORS] {
        let geometry = Geometry::new(sectors).unwrap();
        let mut drive = Drive::new(made(sectors));
        assert_eq!(drive.overlay.sectors(), sectors);
        let last = sectors - 1;
        drive.write(extent(last, 1), 0x77);
        assert_eq!(drive.read(last), Ok([0x77; 512]));
        let offset = geometry.data_offset() + last * 512;
        assert_eq!(drive.storage.page_at(offset - 3584)[3584..], [0x77; 512]);
        assert_eq!(offset + 512, drive.storage.len);
        if sectors > 1 {
            assert_eq!(drive.read(0), Ok([0; 512]));
            drive.write(extent(0, 1), 0x66);
        }
        let mut drive = Drive::new(drive.close());
        assert_eq!(drive.read(last), Ok([0x77; 512]));
        assert_eq!(drive.overlay.data_sectors(), Some(sectors.min(2)));
    }
}

#[test]
fn runs_end_with_their_page() {
    let mut drive = Drive::new(made(40_000));
    drive.write(extent(16_000, 1000), 1);
    let data = Geometry::new(40_000).unwrap().data_offset();
    let run = |sectors, place| Ok(Run { sectors, place });
    let all = |start| extent(start, 40_000 - start);
    assert_eq!(drive.locate(all(0)), run(16_000, Place::Absent));
    assert_eq!(drive.locate(all(16_000)), run(128, Place::Data { offset: data + 16_000 * 512 }));
    assert_eq!(drive.locate(all(16_128)), run(872, Place::Data { offset: data + 16_128 * 512 }));
    assert_eq!(drive.locate(all(17_000)), run(15_256, Place::Absent));
    assert_eq!(drive.locate(extent(16_990, 10)).unwrap().sectors, 10);
}

#[test]
fn placing_tells_what_is_new() {
    let mut drive = Drive::new(made(40_000));
    drive.write(extent(100, 10), 1);
    let place = |drive: &mut Drive, range| match drive.overlay.place(range, &drive.pages, &mut []) {
        Placed::Write { sectors, fresh, publish, fill: None, .. } => (sectors, fresh, publish),
        other => panic!("{other:?}"),
    };
    assert_eq!(place(&mut drive, extent(100, 10)), (10, 0, false));
    assert_eq!(place(&mut drive, extent(99, 12)), (12, 2, true));
    assert_eq!(place(&mut drive, extent(0, 20_000)), (16_128, 16_118, true));
    assert_eq!(drive.overlay.place(extent(16_128, 1), &drive.pages, &mut []), Placed::Load(1));
}

#[test]
fn zeros_free_data_and_come_back() {
    let mut drive = Drive::new(made(1000));
    drive.write(extent(10, 10), 1);
    let range = extent(5, 10);
    for discard in [false, true] {
        let cleared = drive.overlay.clear(range, discard, &drive.pages, &[]);
        assert_eq!(cleared, Cleared::Mark { sectors: 10, offset: Some(16_384 + 5 * 512) });
    }
    assert_eq!(drive.apply(range, State::Zero), 5);
    drive.commit();
    assert_eq!(drive.locate(extent(5, 20)), Ok(Run { sectors: 10, place: Place::Zero }));
    assert_eq!(drive.overlay.data_sectors(), Some(5));
    drive.write(extent(7, 1), 2);
    assert_eq!(drive.overlay.data_sectors(), Some(6));
    let mut drive = Drive::new(drive.close());
    assert_eq!(drive.read(7), Ok([2; 512]));
    assert_eq!(drive.locate(extent(6, 1)), Ok(Run { sectors: 1, place: Place::Zero }));
    assert_eq!(drive.read(15), Ok([1; 512]));
}

#[test]
fn a_page_being_published_takes_more_in_a_copy() {
    let mut drive = Drive::new(made(1000));
    drive.write(extent(0, 1), 1);
    let id = drive.pages.find(KEY, 0).unwrap();
    let apply = |drive: &mut Drive| {
        drive.overlay.apply(extent(1, 1), State::Data, &mut drive.pages, &mut [])
    };
    assert_eq!(apply(&mut drive), Applied::Open(0));
    drive.pages.set_state(id, FrameState::Preparing);
    assert_eq!(apply(&mut drive), Applied::Open(0));
    drive.pages.set_state(id, FrameState::Sealed);
    assert_eq!(apply(&mut drive), Applied::Open(0));
    drive.pages.set_state(id, FrameState::Loading);
    assert_eq!(apply(&mut drive), Applied::Load(0));
}

#[test]
fn a_failed_publication_keeps_its_slot() {
    let mut drive = Drive::new(made(1000));
    drive.write(extent(0, 1), 1); // sequence 1, slot 1
    drive.put(extent(1, 1), 2);
    drive.apply(extent(1, 1), State::Data);
    let id = drive.open[0];
    // The write fails, the engine opens the page again, more comes in.
    assert_eq!(drive.seal(id), 8192);
    drive.told(id, Overlay::failed);
    drive.put(extent(2, 1), 3);
    drive.apply(extent(2, 1), State::Data);
    assert_eq!(drive.seal(id), 8192, "slot 1 still holds what counts");
    drive.told(id, Overlay::failed);
    drive.commit();
    assert_eq!(drive.storage.page_at(8192)[48], 2);
    drive.write(extent(3, 1), 4);
    assert_eq!(drive.storage.page_at(12_288)[48], 3);
    let mut drive = Drive::new(drive.close());
    for (sector, byte) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        assert_eq!(drive.read(sector), Ok([byte; 512]));
    }
}

#[test]
fn adopts_only_what_is_in_place() {
    let mut drive = Drive::new(made(1000));
    let mut adopt = |range, offset| drive.overlay.adopt(range, offset, &mut []) == Adopted::Taken;
    assert!(adopt(extent(10, 5), 16_384 + 5120));
    assert!(!adopt(extent(10, 5), 16_384));
    assert!(!adopt(extent(996, 5), 16_384 + 996 * 512));
}

#[test]
fn storages_that_hold_something() {
    let geometry = Geometry::new(40_000).unwrap();
    let mut older = Drive::new(made(40_000));
    older.write(extent(0, 40_000), 0xee);
    older.write(extent(0, 40_000), 0xee);
    let dirty = [Memory::new(geometry.image_len() + 5000, 0xa5), older.close()];
    for storage in dirty {
        let mut storage = storage;
        let again = CreateOptions { fresh: Fresh::Unknown, ..options(40_000) };
        create(&mut storage, &again, &mut page()).unwrap();
        let report = check(&storage, &mut page(), &mut |f| panic!("{f}")).unwrap();
        assert_eq!((report.absent, report.data), (40_000, 0));
        let mut drive = Drive::new(storage);
        assert_eq!(drive.locate(extent(0, 1)).unwrap().place, Place::Absent);
        drive.write(extent(20_000, 3), 4);
        let mut drive = Drive::new(drive.close());
        assert_eq!(drive.read(20_001), Ok([4; 512]));
        assert_eq!(drive.read(20_003), Ok([0; 512]), "what was there before shows");
        assert_eq!(drive.read(19_999), Ok([0; 512]));
    }
}
