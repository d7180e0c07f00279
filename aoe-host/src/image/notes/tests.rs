use super::*;

fn id() -> NoteId {
    NoteId::new(LayerId([7; 16]), 3, 9)
}

fn note(start: u64, sectors: u64, offset: Option<u64>) -> Note {
    Note { extent: Extent::new(start, sectors).unwrap(), offset }
}

fn load(directory: &Path, id: NoteId) -> Vec<Note> {
    NoteLog::open(directory, id).unwrap().load().unwrap()
}

#[test]
fn notes_outlive_the_process_that_made_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes");
    let mut log = NoteLog::open(&path, id()).unwrap();
    assert_eq!(log.load().unwrap(), []);
    let made = [note(0, 2, Some(16_384)), note(7, 1, None), note((1 << 48) - 2, 1, Some(0))];
    for note in &made {
        log.append(core::slice::from_ref(note)).unwrap();
    }
    drop(log);
    assert_eq!(load(&path, id()), made);
    // Looking at them does not use them up.
    let mut log = NoteLog::open(&path, id()).unwrap();
    assert_eq!(log.load().unwrap(), made);
    log.append(&[note(100, 1, None)]).unwrap();
    drop(log);
    assert_eq!(load(&path, id()).len(), 4);
    NoteLog::open(&path, id()).unwrap().remove().unwrap();
    assert_eq!(load(&path, id()), []);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn the_first_record_is_laid_out_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = NoteLog::open(dir.path(), id()).unwrap();
    log.append(&[note(0x0102, 3, Some(0x0405_0000))]).unwrap();
    let bytes = fs::read(dir.path().join(format!("{}.notes", "07".repeat(16)))).unwrap();
    assert_eq!(bytes.len(), 112);
    assert_eq!(bytes[..24], [&b"cowNOTE1"[..], &[7; 16]].concat());
    assert_eq!(bytes[24..40], boot_id().unwrap());
    assert_eq!(bytes[40..56], [3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..68], [0; 12]);
    assert_eq!(bytes[68..72], CRC32C.checksum(&bytes[..68]).to_le_bytes());
    assert_eq!(bytes[72..80], [80, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[80..96], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[96..108], [0, 0, 5, 4, 0, 0, 0, 0, 2, 0, 0, 0]);
    let covered = [&[7; 16], &bytes[80..108]].concat();
    assert_eq!(bytes[108..], CRC32C.checksum(&covered).to_le_bytes());
}

#[test]
fn only_what_was_sealed_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = NoteLog::open(dir.path(), id()).unwrap();
    log.seal().unwrap();
    log.drop_sealed().unwrap();
    for round in 0..300 {
        log.append(&[note(round * 10, 1, None)]).unwrap();
        log.seal().unwrap();
        log.append(&[note(round * 10 + 5, 1, None)]).unwrap();
        log.drop_sealed().unwrap();
        log.drop_sealed().unwrap();
        assert_eq!(load(dir.path(), id()), [note(round * 10 + 5, 1, None)], "{round}");
    }
    // A commit that failed: its notes belong to the next one.
    log.seal().unwrap();
    log.append(&[note(1, 1, None)]).unwrap();
    log.seal().unwrap();
    assert_eq!(load(dir.path(), id()).len(), 2);
    log.drop_sealed().unwrap();
    assert_eq!(load(dir.path(), id()), []);
    assert_eq!(log.file.as_ref().unwrap().metadata().unwrap().len(), 80, "all given back");
    log.append(&[note(2, 1, None)]).unwrap();
    assert_eq!(load(dir.path(), id()), [note(2, 1, None)]);
}

#[test]
fn a_record_that_was_cut_is_none_and_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = NoteLog::open(dir.path(), id()).unwrap();
    for sector in 0..5 {
        log.append(&[note(sector * 2, 1, None)]).unwrap();
    }
    let path = log.path.clone();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for len in 0..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let mut log = NoteLog::open(dir.path(), id()).unwrap();
        let expected = len.saturating_sub(80) / 32;
        assert_eq!(log.load().unwrap().len(), expected, "{len}");
        log.append(&[note(99, 1, Some(5))]).unwrap();
        assert_eq!(load(dir.path(), id()).len(), expected + 1, "{len}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).unwrap();
        assert!(load(dir.path(), id()).len() <= 5, "{at}");
    }
}

#[test]
fn notes_of_another_time_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = NoteLog::open(dir.path(), id()).unwrap();
    log.append(&[note(1, 1, None)]).unwrap();
    let layer = LayerId([7; 16]);
    for (epoch, session, kept) in [(3, 9, 1), (3, 10, 1), (3, 12, 0), (4, 10, 0), (3, 8, 0)] {
        assert_eq!(load(dir.path(), NoteId::new(layer, epoch, session)).len(), kept);
    }
    // The overlay was taken up by session 10, whose number the file bears now.
    assert_eq!(load(dir.path(), id()), []);
    let mut bytes = fs::read(&log.path).unwrap();
    bytes[24] ^= 1;
    let crc = CRC32C.checksum(&bytes[..68]);
    bytes[68..72].copy_from_slice(&crc.to_le_bytes());
    fs::write(&log.path, bytes).unwrap();
    assert_eq!(load(dir.path(), NoteId::new(layer, 3, 10)), [], "another boot");
    let mut log = NoteLog::open(dir.path(), id()).unwrap();
    assert_eq!(log.load().unwrap(), []);
    log.append(&[note(5, 1, None)]).unwrap();
    assert_eq!(load(dir.path(), id()), [note(5, 1, None)]);
}

#[test]
fn the_latest_note_of_a_sector_counts() {
    let mut states = States::default();
    let mut model = vec![None; 64];
    let mut seed = 0x1234_5678_9abc_def1_u64;
    for round in 0..500_u64 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let start = seed % 60;
        let sectors = 1 + (seed >> 32) % (64 - start).min(9);
        let offset = (seed & (1 << 50) != 0).then_some(round << 20);
        states.put(&note(start, sectors, offset));
        for sector in start..start + sectors {
            let at = usize::try_from(sector).unwrap();
            model[at] = Some(offset.map(|o| o + (sector - start) * 512));
        }
    }
    let mut found = vec![None; 64];
    for note in states.into_notes() {
        for n in 0..note.extent.sectors() {
            let at = usize::try_from(note.extent.start().get() + n).unwrap();
            assert_eq!(found[at].replace(note.offset.map(|o| o + n * 512)), None, "twice");
        }
    }
    assert_eq!(found, model);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let error = NoteLog::open(&path, id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    assert!(NoteLog::open(&link, id()).is_err());
}
