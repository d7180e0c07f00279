//! Headers, refusals, and everything outside the engine.

use super::super::bytes::stamp_crc;
use super::*;
use crate::identity::FileIdentity;
use crate::units::MAX_SECTORS;

type OpenResult = Result<Opened, OpenError<OutOfRange>>;

fn opened(storage: &Memory) -> OpenResult {
    open(storage, &mut page())
}

/// Changes a field in both header slots and repairs the checksums.
fn patched(storage: &Memory, at: usize, field: &[u8]) -> Memory {
    let mut copy = storage.clone();
    for slot in 0..2 {
        let mut bytes = copy.page_at(slot * 4096);
        bytes[at..at + field.len()].copy_from_slice(field);
        stamp_crc(&mut bytes);
        copy.write_at(slot * 4096, &bytes[..]).unwrap();
    }
    copy
}

#[test]
fn a_header_has_the_documented_bytes() {
    let identity = FileIdentity {
        size_bytes: 0x0102_0304,
        mtime_s: -2,
        mtime_ns: 999_999_999,
        sample: [0x11; 32],
        content: Some([0x22; 32]),
    };
    let mut storage = Memory::new(0, 0);
    let options = CreateOptions {
        parent: ParentIdentity::File(identity),
        window: Some(Window { offset: 0x10_0000, len: 0x20_0000 }),
        hint: b"/images/\xff.img",
        label: b"client-7",
        created_s: 0x6000_0000,
        ..options(0x1_0001)
    };
    create(&mut storage, &options, &mut page()).unwrap();
    let bytes = storage.page_at(4096);
    let mut expected = [0_u8; PAGE_LEN];
    let mut put = |at: usize, field: &[u8]| expected[at..at + field.len()].copy_from_slice(field);
    put(0, b"cowblade");
    put(8, &bytes[8..12]);
    put(12, &[1, 0, 0, 0]);
    put(32, &[1, 0, 0, 0, 0, 0, 0, 0]); // sequence 1, so slot 1
    put(40, b"0123456789abcdef");
    put(56, b"0123456789abcdef");
    put(72, &[1, 0, 1, 0, 0, 0, 0, 0]);
    put(80, &[1, 0, 0, 0, 0, 0, 0, 0]); // epoch
    put(104, &[1, 1, 2, 1]); // writable, clean, a file, with content hash
    put(108, &[8, 0, 13, 0]);
    put(112, &[0, 0, 0, 0x60, 0, 0, 0, 0]);
    put(128, &[0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
    put(160, &[4, 3, 2, 1, 0, 0, 0, 0]);
    put(168, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    put(176, &[0xff, 0xc9, 0x9a, 0x3b]);
    put(184, &[0x11; 32]);
    put(216, &[0x22; 32]);
    put(248, b"client-7");
    put(376, b"/images/\xff.img");
    assert_eq!(*bytes, expected);
    let header = opened(&storage).unwrap().header().clone();
    assert_eq!(header.parent.identity, ParentIdentity::File(identity));
    assert_eq!(&header.parent.hint[..], b"/images/\xff.img");
    assert_eq!(header.parent.window, options.window);
    assert_eq!((&header.label[..], header.created_s), (&b"client-7"[..], 0x6000_0000));
    assert_eq!((header.data_sectors, header.clean, header.session), (Some(0), true, 0));
}

#[test]
fn creation_refuses_what_cannot_be() {
    let refused = |options: &CreateOptions<'_>| {
        let mut storage = Memory::new(0, 0);
        let result = create(&mut storage, options, &mut page()).map(|_| ());
        assert!(storage.len == 0 && storage.sectors.is_empty(), "touched");
        result.unwrap_err()
    };
    assert_eq!(refused(&options(0)), CreateError::BadSize { sectors: 0 });
    let sectors = MAX_SECTORS + 1;
    assert_eq!(refused(&options(sectors)), CreateError::BadSize { sectors });
    let nobody = CreateOptions { layer_id: LayerId::NONE, ..options(1) };
    assert_eq!(refused(&nobody), CreateError::NoIdentity);
    let nowhere = CreateOptions { log: Some(LogId([0; 16])), ..options(1) };
    assert_eq!(refused(&nowhere), CreateError::NoIdentity);
    let own = CreateOptions { parent: ParentIdentity::Layer(ID), ..options(1) };
    assert_eq!(refused(&own), CreateError::OwnParent);
    let window = CreateOptions { window: Some(Window { offset: 2, len: u64::MAX }), ..options(1) };
    assert_eq!(refused(&window), CreateError::BadWindow);
    let label = CreateOptions { label: &[b'x'; LABEL_LEN + 1], ..options(1) };
    assert_eq!(refused(&label), CreateError::LabelTooLong { len: 129 });
    let hint = CreateOptions { hint: &[b'x'; HINT_LEN + 1], ..options(1) };
    assert_eq!(refused(&hint), CreateError::HintTooLong { len: 1025 });
    let longest =
        CreateOptions { hint: &[b'x'; HINT_LEN], label: &[b'y'; LABEL_LEN], ..options(1) };
    let mut storage = Memory::new(0, 0);
    create(&mut storage, &longest, &mut page()).unwrap();
    assert_eq!(opened(&storage).unwrap().header().parent.hint.len(), HINT_LEN);
}

#[test]
fn opening_refuses_each_for_its_reason() {
    let good = made(100);
    let refused = |storage: &Memory| opened(storage).map(|_| ()).unwrap_err();
    assert_eq!(refused(&Memory::new(8191, 0)), OpenError::NotNative);
    assert_eq!(refused(&Memory::new(1 << 20, 0)), OpenError::NotNative);
    assert_eq!(refused(&Memory::new(1 << 20, 0xa5)), OpenError::NotNative);
    let mut torn = good.clone();
    torn.write_at(100, &[1]).unwrap();
    assert!(opened(&torn).is_ok_and(|o| !o.whole));
    torn.write_at(4096 + 100, &[1]).unwrap();
    assert_eq!(refused(&torn), OpenError::HeadersCorrupt);
    assert!(is_native(&torn, &mut page()).unwrap());
    assert!(!is_native(&Memory::new(1 << 20, 0), &mut page()).unwrap());
    assert!(!is_native(&Memory::new(100, 0), &mut page()).unwrap());
    assert_eq!(refused(&patched(&good, 12, &[2])), OpenError::NewerVersion { version: 2 });
    assert_eq!(refused(&patched(&good, 12, &[0])), OpenError::InvalidField { field: 12 });
    assert_eq!(
        refused(&patched(&good, 24, &[0, 0x80])),
        OpenError::UnknownFeatures { features: 0x8000 }
    );
    let needed = 16_384 + 100 * 512;
    let short = Memory { len: needed - 1, ..good.clone() };
    assert_eq!(refused(&short), OpenError::Truncated { needed, len: needed - 1 });
    assert!(opened(&Memory { len: needed + 1, ..good.clone() }).is_ok(), "longer is no harm");
    // A slot of another time: a header write was lost.
    let mut apart = good.clone();
    let mut slot = apart.page_at(0);
    slot[32] = 4;
    stamp_crc(&mut slot);
    apart.write_at(0, &slot[..]).unwrap();
    assert_eq!(refused(&apart), OpenError::HeadersDisagree { sequences: [4, 1] });
    // A header in the wrong slot is none.
    let mut swapped = good.clone();
    swapped.write_at(0, &good.page_at(4096)[..]).unwrap();
    swapped.write_at(4096, &good.page_at(0)[..]).unwrap();
    assert_eq!(refused(&swapped), OpenError::HeadersCorrupt);
}

#[test]
fn opening_judges_every_field() {
    let good = made(100);
    let fields: [(usize, &[u8], u16); 14] = [
        (40, &[0; 16], 40),               // no layer identity
        (72, &[0; 8], 72),                // no sectors
        (72, &[0, 0, 0, 0, 0, 0, 1], 72), // 2^48 sectors
        (96, &[1], 96),                   // torn in a session that never was
        (104, &[0], 104),
        (104, &[3], 104),
        (105, &[2], 105),
        (106, &[3], 106),
        (107, &[2], 107),
        (108, &[129, 0], 108),
        (110, &[1, 4], 110),
        (120, &[101], 120), // more data than sectors
        (128, &[0xff; 16], 128),
        (136, &[0; 8], 0), // no window: fine
    ];
    for (at, bytes, field) in fields {
        let result = opened(&patched(&good, at, bytes)).map(|_| ());
        let expected = if field == 0 { Ok(()) } else { Err(OpenError::InvalidField { field }) };
        assert_eq!(result, expected, "at {at}");
    }
}

#[test]
fn unknown_compatible_features_are_kept() {
    let mut storage = patched(&made(100), 16, &[0, 0, 4]);
    set_label(&mut storage, b"new", &mut page()).unwrap();
    for slot in 0..2 {
        assert_eq!(storage.page_at(slot * 4096)[16..24], [0, 0, 4, 0, 0, 0, 0, 0]);
    }
    let mut drive = Drive::new(storage);
    drive.write(extent(0, 1), 1);
    let storage = drive.close();
    assert_eq!(opened(&storage).unwrap().header().compatible, 0x4_0000);
}

#[test]
fn an_idle_overlay_is_not_written() {
    let mut storage = made(100);
    storage.log_on = true;
    let drive = Drive::new(storage);
    let storage = drive.close();
    assert!(storage.log.iter().all(Option::is_none), "only syncs");
    assert_eq!(opened(&storage).unwrap().header().sequence, 1);
}

#[test]
fn sessions_are_counted_and_closed() {
    let mut drive = Drive::new(made(100));
    drive.write(extent(3, 4), 1);
    let header = opened(&drive.storage).unwrap().header().clone();
    assert_eq!((header.clean, header.session, header.torn_until), (false, 1, 0));
    assert_eq!((header.sequence, header.data_sectors), (2, None));
    assert_eq!(drive.overlay.data_sectors(), Some(4));
    // Killed: the next session begins with a header of its own, and knows about the first.
    let mut drive = Drive::new(drive.storage);
    assert_eq!(drive.overlay.data_sectors(), None);
    drive.write(extent(5, 4), 2);
    let header = opened(&drive.storage).unwrap().header().clone();
    assert_eq!((header.clean, header.session, header.torn_until), (false, 2, 1));
    drive.overlay.set_data_sectors(6);
    let header = opened(&drive.close()).unwrap().header().clone();
    assert_eq!((header.clean, header.session, header.torn_until), (true, 2, 1));
    assert_eq!((header.sequence, header.data_sectors), (4, Some(6)));
    // Killed, opened, and closed without a write.
    let mut drive = Drive::new(made(100));
    drive.write(extent(0, 1), 1);
    let header = opened(&Drive::new(drive.storage).close()).unwrap().header().clone();
    assert_eq!((header.clean, header.session, header.torn_until), (true, 1, 1));
}

#[test]
fn closing_believes_the_storage_not_its_memory() {
    // The header write of the preamble failed: nothing reached the storage.
    let mut drive = Drive::new(made(100));
    let mut scratch = page();
    assert!(drive.overlay.preamble(scratch.as_bytes_mut()).is_some());
    let first = scratch.clone();
    let again = drive.overlay.preamble(scratch.as_bytes_mut()).unwrap();
    assert_eq!((again.offset, again.len, again.stage), (0, 4096, 0));
    assert_eq!(first.as_bytes(), scratch.as_bytes());
    let storage = drive.close();
    assert_eq!(opened(&storage).unwrap().header().sequence, 1);
    // Another image took the place.
    let mut drive = Drive::new(made(100));
    drive.write(extent(0, 1), 1);
    let new = CreateOptions { layer_id: NEW_ID, fresh: Fresh::Unknown, ..options(50) };
    create(&mut drive.storage, &new, &mut page()).unwrap();
    let result = close(&mut drive.storage, &drive.overlay, &mut page());
    assert_eq!(result, Err(UpdateError::OtherImage));
}

#[test]
fn rollback_empties_and_counts_on() {
    let mut drive = Drive::new(made(40_000));
    drive.write(extent(16_000, 300), 1);
    drive.write(extent(16_000, 300), 2);
    let mut storage = drive.close();
    let opened = rollback(&mut storage, &mut page()).unwrap();
    assert_eq!((opened.header().epoch, opened.header().data_sectors), (2, Some(0)));
    for slot in 0..2 {
        assert_eq!(storage.page_at(slot * 4096)[80], 2, "both headers say it");
    }
    let mut drive = Drive::new(storage);
    let run = drive.locate(extent(16_000, 200)).unwrap();
    assert_eq!(run, Run { sectors: 128, place: Place::Absent });
    drive.write(extent(16_100, 1), 3);
    assert_eq!(drive.read(16_100), Ok([3; 512]));
    assert_eq!(drive.read(16_000), Ok([0; 512]));
    // Page 0 had sequence 2, so its next version is 3, in slot 1, of epoch 2.
    assert_eq!(drive.storage.page_at(12_288)[40..49], [2, 0, 0, 0, 0, 0, 0, 0, 3]);
    let report = check(&drive.close(), &mut page(), &mut |f| panic!("{f}")).unwrap();
    assert_eq!((report.data, report.zero, report.absent), (1, 0, 39_999));
}

#[test]
fn freezing_gives_a_new_identity() {
    let mut drive = Drive::new(made(100));
    drive.write(extent(10, 1), 9);
    let mut storage = drive.close();
    let copy = opened(&storage).unwrap();
    assert_eq!(copy.frozen(KEY).unwrap_err(), ModeError::NotFrozen);
    for id in [ID, LayerId::NONE] {
        assert_eq!(freeze(&mut storage, id, &mut page()).map(|_| ()), Err(UpdateError::NotFresh));
    }
    let frozen = freeze(&mut storage, NEW_ID, &mut page()).unwrap();
    assert_eq!((frozen.header().layer_id, frozen.header().page_id), (NEW_ID, ID));
    for slot in 0..2 {
        assert_eq!(storage.page_at(slot * 4096)[40..56], NEW_ID.0, "both headers say it");
    }
    let reopened = opened(&storage).unwrap();
    assert_eq!(reopened.clone().into_writable(KEY).map(|_| ()), Err(ModeError::Frozen));
    assert_eq!(
        open_writable(&mut storage, KEY, &mut page()).map(|_| ()),
        Err(UpdateError::Mode(ModeError::Frozen))
    );
    let refused = Err(UpdateError::Mode(ModeError::Frozen));
    assert_eq!(rollback(&mut storage, &mut page()).map(|_| ()), refused);
    let other = LayerId([9; 16]);
    assert_eq!(freeze(&mut storage, other, &mut page()).map(|_| ()), refused);
    // Paged and in memory, its content is the same.
    let layer = reopened.frozen(KEY).unwrap();
    let mut pages = pool();
    assert_eq!(layer.locate(extent(10, 5), &pages, &[]), Located::Load(0));
    let id = pages.claim(KEY, 0).unwrap();
    load(&layer, &storage, 0, &mut 0, pages.page_mut(id).unwrap()).unwrap();
    pages.set_state(id, FrameState::Clean);
    let mut map = std::vec![0xa5; map_len(100).unwrap()];
    load_map(&storage, &reopened, &mut map, &mut page()).unwrap();
    assert!(layer.with_map(&map[1..]).is_none());
    let mapped = layer.with_map(&map).unwrap();
    for layer in [layer, mapped] {
        let at = |start, sectors| layer.locate(extent(start, sectors), &pages, &[]);
        let run = |sectors, place| Located::Run(Run { sectors, place });
        assert_eq!(at(10, 5), run(1, Place::Data { offset: 16_384 + 5120 }));
        assert_eq!(at(11, 89), run(89, Place::Absent));
    }
}

#[test]
fn a_parent_is_replaced_in_both_headers() {
    let mut storage = made(100);
    let mut parent = Parent { identity: ParentIdentity::Layer(NEW_ID), ..Parent::default() };
    parent.hint.extend_from_slice(b"below").unwrap();
    let opened = set_parent(&mut storage, parent.clone(), &mut page()).unwrap();
    assert_eq!((opened.header().sequence, &opened.header().parent), (3, &parent));
    for slot in 0..2 {
        assert_eq!(storage.page_at(slot * 4096)[144..160], NEW_ID.0);
    }
    let own = Parent { identity: ParentIdentity::Layer(ID), ..Parent::default() };
    let refused = set_parent(&mut storage, own, &mut page()).map(|_| ());
    assert_eq!(refused, Err(UpdateError::OwnParent));
    let empty = Parent { window: Some(Window { offset: 0, len: 0 }), ..Parent::default() };
    let refused = set_parent(&mut storage, empty, &mut page()).map(|_| ());
    assert_eq!(refused, Err(UpdateError::BadWindow));
    let refused = set_label(&mut storage, &[0; 129], &mut page()).map(|_| ());
    assert_eq!(refused, Err(UpdateError::LabelTooLong { len: 129 }));
}

#[test]
fn a_check_finds_what_is_wrong() {
    let mut drive = Drive::new(made(40_000));
    for start in [0, 16_128, 32_256] {
        drive.write(extent(start, 10), 1);
        drive.write(extent(start + 5, 10), 1);
    }
    let storage = drive.close();
    let findings = |storage: &Memory| {
        let mut found = Vec::new();
        let report = check(storage, &mut page(), &mut |f| found.push(f)).unwrap();
        (report, found)
    };
    let (report, found) = findings(&storage);
    assert_eq!((report.data, report.absent, found), (45, 39_955, Vec::new()));
    // Slot 0 of page 1 holds its latest version, sequence 2.
    let mut damaged = storage.clone();
    damaged.write_at(8192 + 8192 + 1000, &[0x55]).unwrap();
    damaged.write_at(50, &[0x55]).unwrap();
    let (report, found) = findings(&damaged);
    assert_eq!((report.data, report.corrupt), (30, 1));
    assert_eq!(found, [Finding::HeaderSlot, Finding::CorruptPage { page: 1, offset: 16_384 }]);
    assert!(!found[0].is_damage() && found[1].is_damage());
    let opened = opened(&damaged).unwrap();
    let mut map = std::vec![0; map_len(40_000).unwrap()];
    let failed = load_map(&damaged, &opened, &mut map, &mut page());
    assert_eq!(failed, Err(CheckError::Corrupt { offset: 16_384 }));
    let failed = load_map(&damaged, &opened, &mut map[1..], &mut page());
    assert_eq!(failed, Err(CheckError::BufferTooSmall { needed: 3 * 4032 }));
    // The same tear after a power cut is one.
    let mut torn = patched(&storage, 105, &[0]);
    torn.write_at(8192 + 8192 + 1000, &[0x55]).unwrap();
    let (report, found) = findings(&torn);
    assert_eq!((report.data, report.torn, report.corrupt), (40, 1, 0));
    assert_eq!(found, [Finding::Unclean, Finding::TornSlot { page: 1 }]);
    // Valid checksums around impossible states: behind the end (sector 40,000 is 7,744 of page 2).
    let mut wrong = storage.clone();
    let mut slot = wrong.page_at(8192 + 2 * 8192);
    slot[64 + 7744 / 4] = 1;
    slot[64 + 100] = 0xff;
    stamp_crc(&mut slot);
    wrong.write_at(8192 + 2 * 8192, &slot[..]).unwrap();
    let (_, found) = findings(&patched(&wrong, 120, &[44]));
    assert_eq!(
        found,
        [
            Finding::CorruptStates { page: 2, sectors: 4 },
            Finding::BehindEnd { page: 2 },
            Finding::WrongCount { recorded: 44, found: 45 },
        ]
    );
    let mut drive = Drive::new(wrong);
    let at = 8192 + 2 * 8192 + 64 + 100;
    assert_eq!(drive.locate(extent(32_256 + 400, 1)), Err(at));
    let range = extent(32_256 + 390, 20);
    let corrupt = drive.overlay.place(range, &drive.pages, &mut []);
    assert_eq!(corrupt, Placed::Corrupt { offset: at - 3 });
}

#[test]
fn map_lengths() {
    assert_eq!(map_len(0), None);
    assert_eq!(map_len(1), Some(4032));
    assert_eq!(map_len(16_128), Some(4032));
    assert_eq!(map_len(16_129), Some(8064));
    assert_eq!(map_len(MAX_SECTORS), Some(17_452_565_521 * 4032));
    assert_eq!(map_len(MAX_SECTORS + 1), None);
}

#[test]
fn thawing_gives_another_identity_first() {
    let mut drive = Drive::new(made(100));
    drive.write(extent(10, 1), 9);
    let mut storage = drive.close();
    let other = LayerId([9; 16]);
    let refused = Err(UpdateError::Mode(ModeError::NotFrozen));
    assert_eq!(thaw(&mut storage, other, &mut page()).map(|_| ()), refused);
    freeze(&mut storage, NEW_ID, &mut page()).unwrap();
    for id in [ID, NEW_ID, LayerId::NONE] {
        assert_eq!(thaw(&mut storage, id, &mut page()).map(|_| ()), Err(UpdateError::NotFresh));
    }
    thaw(&mut storage, other, &mut page()).unwrap();
    for slot in 0..2 {
        assert_eq!(storage.page_at(slot * 4096)[40..56], other.0, "both headers say it");
    }
    assert_eq!(opened(&storage).unwrap().frozen(KEY).unwrap_err(), ModeError::NotFrozen);
    let mut drive = Drive::new(storage);
    drive.write(extent(11, 1), 8);
    assert_eq!((drive.read(10), drive.read(11)), (Ok([9; 512]), Ok([8; 512])));
    let report = check(&drive.close(), &mut page(), &mut |f| panic!("{f}")).unwrap();
    assert_eq!((report.data, report.zero, report.absent), (2, 0, 98));
}

#[test]
fn a_commit_log_is_part_of_the_image() {
    let log = LogId([7; 16]);
    let mut storage = made(100);
    let mut overlay = open_writable(&mut storage, KEY, &mut page()).unwrap();
    let foreign = begin_log(&mut storage, NEW_ID, log, &mut page()).map(|_| ());
    assert_eq!(foreign, Err(UpdateError::OtherImage));
    overlay.renew(begin_log(&mut storage, ID, log, &mut page()).unwrap());
    assert_eq!(overlay.header().log, Some(log));
    for slot in 0..2 {
        let header = storage.page_at(slot * 4096);
        assert_eq!(header[24..32], [1, 0, 0, 0, 0, 0, 0, 0], "who does not know it refuses");
        assert_eq!(header[1400..1416], [7; 16], "both headers say it");
    }
    let image = opened(&storage).unwrap();
    assert_eq!(image.header().log, Some(log));
    assert_eq!(image.clone().into_writable(KEY).map(|_| ()), Err(ModeError::Logged));
    let logged = Err(UpdateError::Mode(ModeError::Logged));
    assert_eq!(open_writable(&mut storage, KEY, &mut page()).map(|_| ()), logged);
    assert_eq!(freeze(&mut storage, NEW_ID, &mut page()).map(|_| ()), logged);
    assert_eq!(set_label(&mut storage, b"x", &mut page()).map(|_| ()), logged);
    assert_eq!(begin_log(&mut storage, ID, log, &mut page()).map(|_| ()), logged);
    let again = image.into_repeating(KEY).unwrap();
    storage.log.clear();
    storage.log_on = true;
    close(&mut storage, &again, &mut page()).unwrap();
    assert_eq!(storage.log.iter().filter(|entry| entry.is_none()).count(), 3, "syncs");
    for slot in 0..2 {
        let header = storage.page_at(slot * 4096);
        assert!(header[24..32].iter().chain(&header[1400..1416]).all(|byte| *byte == 0));
    }
    let before = storage.page_at(0).to_vec();
    let again = opened(&storage).unwrap().into_repeating(KEY).unwrap();
    close(&mut storage, &again, &mut page()).unwrap();
    assert_eq!(storage.page_at(0).to_vec(), before, "once is enough");
    begin_log(&mut storage, ID, log, &mut page()).unwrap();
    let empty = rollback(&mut storage, &mut page()).unwrap();
    assert_eq!(empty.header().log, None, "what it holds is not wanted any more");
    open_writable(&mut storage, KEY, &mut page()).unwrap();
}

/// From its creation on, and without a sync that one without a log has not got.
#[test]
fn an_image_is_made_with_its_log() {
    let log = LogId([7; 16]);
    let mut storage = Memory::new(0, 0);
    storage.log_on = true;
    let named = CreateOptions { log: Some(log), ..options(100) };
    let made = create(&mut storage, &named, &mut page()).unwrap();
    assert_eq!(storage.log.iter().filter(|entry| entry.is_none()).count(), 1);
    assert!(storage.log.last().unwrap().is_none(), "with all that was written before it");
    for slot in 0..2 {
        let header = storage.page_at(slot * 4096);
        assert_eq!(header[24..32], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(header[1400..1416], [7; 16], "both headers say it");
    }
    let image = opened(&storage).unwrap();
    assert_eq!(image.clone().into_writable(KEY).map(|_| ()), Err(ModeError::Logged));
    let overlay = made.into_repeating(KEY).unwrap();
    assert_eq!(overlay.header(), image.header());
    let mut drive = Drive::over(storage, overlay);
    drive.write(extent(0, 1), 1);
    let during = opened(&drive.storage).unwrap();
    assert_eq!(
        (during.header().log, during.header().clean),
        (Some(log), false),
        "a session keeps it"
    );
    let mut storage = drive.close();
    open_writable(&mut storage, KEY, &mut page()).unwrap();
}

#[test]
fn an_impossible_log_is_refused() {
    let storage = patched(&made(100), 24, &[1]);
    assert_eq!(opened(&storage).unwrap_err(), OpenError::InvalidField { field: 1400 }, "no log");
    let named = patched(&storage, 1400, &[1]);
    assert!(opened(&named).unwrap().header().log.is_some());
    let frozen = patched(&named, 104, &[2]);
    assert_eq!(opened(&frozen).unwrap_err(), OpenError::InvalidField { field: 1400 });
    let unknown = patched(&named, 24, &[3]);
    assert_eq!(opened(&unknown).unwrap_err(), OpenError::UnknownFeatures { features: 2 });
    let without = patched(&made(100), 1400, &[1]);
    assert_eq!(opened(&without).unwrap().header().log, None, "reserved without the feature");
}
