//! Power cuts: header and page writes torn at every byte, updates cut at every write.

use super::*;

/// `new` over `old`, of which only the bytes before (or from) `cut` arrived.
fn torn(old: &[u8], new: &[u8], cut: usize, front: bool) -> Vec<u8> {
    let (head, tail) = if front { (new, old) } else { (old, new) };
    [&head[..cut], &tail[cut..]].concat()
}

#[test]
fn header_torn_at_every_byte() {
    let mut before = made(100);
    before.log_on = true;
    let mut drive = Drive::new(before.clone());
    drive.apply(extent(0, 1), State::Data);
    let (offset, new) = drive.storage.log.iter().flatten().next().unwrap().clone();
    assert_eq!((offset, new.len()), (0, 4096), "the preamble comes first");
    let old = before.page_at(0);
    for front in [true, false] {
        let mut storage = before.clone();
        for cut in 0..=4096 {
            storage.write_at(offset, &torn(&old[..], &new, cut, front)).unwrap();
            let opened = open(&storage, &mut page()).unwrap();
            let arrived = opened.header().sequence == 2;
            assert_eq!(arrived, !opened.header().clean);
            assert!(matches!(opened.header().sequence, 1 | 2), "cut {cut}");
        }
    }
}

#[test]
fn page_torn_at_every_byte() {
    let mut drive = Drive::new(made(100));
    drive.write(extent(0, 1), 1);
    drive.write(extent(1, 1), 2);
    let mut clean = drive.close();
    clean.log_on = true;
    let mut drive = Drive::new(clean.clone());
    drive.write(extent(2, 1), 3);
    // The last write before the last sync is the page; all before it is durable.
    let log = core::mem::take(&mut drive.storage.log);
    let writes: Vec<_> = log.iter().flatten().cloned().collect();
    let ((offset, new), durable) = writes.split_last().unwrap();
    let before = clean.replayed(&durable.iter().cloned().map(Some).collect::<Vec<_>>());
    let old = before.page_at(*offset);
    assert_eq!(*offset, 12_288);
    for front in [true, false] {
        let mut storage = before.clone();
        for cut in 0..=4096 {
            storage.write_at(*offset, &torn(&old[..], new, cut, front)).unwrap();
            assert_eq!(peek(&storage, 0), Ok([1; 512]), "cut {cut}");
            assert_eq!(peek(&storage, 1), Ok([2; 512]), "cut {cut}");
            let third = peek(&storage, 2).unwrap();
            assert!(third == [0; 512] || third == [3; 512], "cut {cut}");
        }
    }
}

#[test]
fn first_commit_torn_at_every_byte() {
    let mut clean = made(100);
    clean.log_on = true;
    let mut drive = Drive::new(clean.clone());
    drive.write(extent(2, 1), 3);
    let log = core::mem::take(&mut drive.storage.log);
    let syncs: Vec<_> = (0..log.len()).filter(|at| log[*at].is_none()).collect();
    // Between each two syncs everything may be lost, whole or torn, each on its own.
    for at in 0..log.len() {
        let Some((offset, new)) = &log[at] else { continue };
        let last_sync = syncs.iter().rev().find(|s| **s < at).map_or(0, |s| *s);
        let durable = clean.replayed(&log[..last_sync]);
        let others = clean.replayed(&log[..at]);
        for base in [durable, others] {
            let old = base.page_at(offset & !4095);
            let old = &old[usize::try_from(offset % 4096).unwrap()..][..new.len()];
            for front in [true, false] {
                let mut storage = base.clone();
                for cut in 0..=new.len() {
                    storage.write_at(*offset, &torn(old, new, cut, front)).unwrap();
                    let content = peek(&storage, 2).unwrap();
                    assert!(content == [0; 512] || content == [3; 512], "{offset} {cut}");
                    if cut % 512 == 100 {
                        // It can be written again, and then is as if nothing had happened.
                        let mut drive = Drive::new(storage.clone());
                        drive.write(extent(3, 1), 4);
                        let closed = drive.close();
                        assert_eq!(peek(&closed, 3), Ok([4; 512]));
                        assert_eq!(peek(&closed, 2), Ok(content));
                    }
                }
            }
        }
    }
}

#[test]
fn updates_cut_anywhere_leave_the_old_or_the_new() {
    type Update = fn(&mut Memory) -> Opened;
    let updates: [Update; 4] = [
        |s| rollback(s, &mut page()).unwrap(),
        |s| freeze(s, NEW_ID, &mut page()).unwrap(),
        |s| set_label(s, b"other", &mut page()).unwrap(),
        |s| {
            let parent = Parent { identity: ParentIdentity::Layer(NEW_ID), ..Parent::default() };
            set_parent(s, parent, &mut page()).unwrap()
        },
    ];
    let mut drive = Drive::new(made(100));
    drive.write(extent(0, 9), 1);
    let killed = drive.storage.clone();
    for start in [killed, drive.close()] {
        for update in updates {
            let mut storage = start.clone();
            storage.log_on = true;
            update(&mut storage);
            let log = core::mem::take(&mut storage.log);
            let writes = log.iter().enumerate().filter_map(|(at, w)| Some((at, w.as_ref()?)));
            for (at, (offset, new)) in writes {
                for cut in (0..=4096).step_by(8) {
                    let mut storage = start.replayed(&log[..at]);
                    let old = storage.page_at(*offset);
                    storage.write_at(*offset, &torn(&old[..], new, cut, true)).unwrap();
                    open(&storage, &mut page()).unwrap();
                    // Done again, it ends well whatever the first attempt left.
                    let header = open(&storage, &mut page()).unwrap().header().clone();
                    if header.layer_id != NEW_ID {
                        let again = update(&mut storage);
                        assert!(again.header().clean && again.whole);
                    }
                }
            }
        }
    }
}

#[test]
fn creation_cut_anywhere_leaves_no_image_or_an_empty_one() {
    let mut older = Drive::new(made(100));
    older.write(extent(0, 100), 0xee);
    let start = older.close();
    let mut storage = start.clone();
    storage.log_on = true;
    let new = CreateOptions { layer_id: NEW_ID, fresh: Fresh::Unknown, ..options(100) };
    create(&mut storage, &new, &mut page()).unwrap();
    let log = core::mem::take(&mut storage.log);
    for at in 0..log.len() {
        let storage = start.replayed(&log[..at]);
        match open(&storage, &mut page()) {
            Ok(opened) if opened.header().layer_id == ID => {
                let report = check(&storage, &mut page(), &mut |_| ()).unwrap();
                assert_eq!(report.data, 100, "an old header over wiped pages, at {at}");
            }
            Ok(_) => {
                let report = check(&storage, &mut page(), &mut |_| ()).unwrap();
                assert_eq!(report.absent, 100);
            }
            Err(OpenError::NotNative | OpenError::HeadersCorrupt) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn damage_after_an_orderly_end_is_no_tear() {
    let mut drive = Drive::new(made(100));
    drive.write(extent(0, 1), 1);
    drive.write(extent(1, 1), 2);
    let closed = drive.close();
    for slot in [8192, 12_288] {
        let mut storage = closed.clone();
        storage.write_at(slot + 2000, &[1]).unwrap();
        assert!(Drive::new(storage).read(0).is_err(), "slot at {slot}");
        let mut storage = closed.clone();
        storage.zero_at(slot, 4096).unwrap();
        assert!(Drive::new(storage).read(0).is_err(), "slot at {slot}");
    }
}

#[test]
fn a_tear_is_remembered_across_an_orderly_end() {
    let mut drive = Drive::new(made(40_000));
    for start in [0, 20_000] {
        drive.write(extent(start, 1), 1);
        drive.write(extent(start + 1, 1), 2);
    }
    // A power cut tears slot 1 of page 0; the next session writes elsewhere and ends in order.
    drive.storage.write_at(12_288 + 500, &[9; 700]).unwrap();
    let mut drive = Drive::new(drive.storage);
    drive.write(extent(39_000, 1), 3);
    let mut drive = Drive::new(drive.close());
    assert_eq!(drive.read(1), Ok([2; 512]), "slot 0 still serves");
    // Written twice since, the page is beyond suspicion: what goes wrong now is damage.
    drive.write(extent(2, 1), 4);
    drive.write(extent(3, 1), 5);
    let closed = drive.close();
    for slot in [8192, 12_288] {
        let mut storage = closed.clone();
        storage.write_at(slot + 2000, &[1]).unwrap();
        assert!(Drive::new(storage).read(0).is_err(), "slot at {slot}");
    }
}
