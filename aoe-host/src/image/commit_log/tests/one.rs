//! What a killed server left is entered into one overlay, without a server.

use super::*;

/// What a killed server leaves, with a second overlay that needs the log as well: `a.cow` and `b.cow`.
fn left_for_two() -> (tempfile::TempDir, PathBuf, Vec<u8>, tempfile::TempDir) {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.change(Extent::new(3, 2).unwrap(), Some(vec![7; 1024]));
    life.change(Extent::new(4, 9).unwrap(), None);
    let after = life.cut(&base);
    fs::copy(after.path().join("a.cow"), after.path().join("b.cow")).unwrap();
    (elsewhere, base, life.model, after)
}

#[test]
fn one_overlay_gets_its_own_and_the_log_stays_for_the_other() {
    let (_elsewhere, base, model, after) = left_for_two();
    let (one, other) = (after.path().join("a.cow"), after.path().join("b.cow"));
    let before = fs::read(&other).unwrap();
    let repeats = repeat_into(&one).unwrap().unwrap();
    assert_eq!(repeats.entered, [Repeated { path: one.clone(), changes: 2 }]);
    assert!(repeats.failed.is_empty() && repeats.removed.is_empty());
    assert!(read(after.path(), &base).unwrap() == model);
    assert!(fs::read(&other).unwrap() == before, "it was not asked for");
    assert_eq!(entries(after.path()).len(), 2 + SEGMENTS);
    assert!(repeat_into(&one).unwrap().is_none(), "it names no log any more");
    // By another name: the log is looked for beside that.
    let link = after.path().join("link.cow");
    std::os::unix::fs::symlink("b.cow", &link).unwrap();
    let repeats = repeat_into(&link).unwrap().unwrap();
    assert_eq!((repeats.removed.len(), repeats.failed.len()), (SEGMENTS, 0));
    fs::remove_file(link).unwrap();
    fs::rename(&other, &one).unwrap();
    assert!(read(after.path(), &base).unwrap() == model);
    assert_eq!(entries(after.path()), [one]);
}

#[test]
fn what_cannot_be_had_is_told_and_nothing_is_touched() {
    let (_elsewhere, _base, _model, after) = left_for_two();
    let one = after.path().join("a.cow");
    let all = || -> Vec<(PathBuf, Vec<u8>)> {
        let mut names = entries(after.path());
        names.sort();
        names.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    };
    let before = all();
    let refused = || {
        let repeats = repeat_into(&one).unwrap().unwrap();
        assert!(repeats.entered.is_empty() && repeats.removed.is_empty());
        assert!(all() == before);
        kinds(&repeats)
    };
    let segment = entries(after.path()).into_iter().find(|path| is_a_segment(path)).unwrap();
    let held = FileStorage::open(&segment, &overlay_options(false)).unwrap();
    assert_eq!(refused(), [ErrorKind::InUse], "a server has the log");
    drop(held);
    let held = FileStorage::open(&one, &overlay_options(false)).unwrap();
    assert_eq!(refused(), [ErrorKind::InUse], "somebody has the overlay");
    drop(held);
    let bytes = fs::read(&segment).unwrap();
    fs::remove_file(&segment).unwrap();
    let repeats = repeat_into(&one).unwrap().unwrap();
    assert_eq!(kinds(&repeats), [ErrorKind::NotFound]);
    assert!(repeats.failed[0].report().contains("--repair"), "{:?}", repeats.failed);
    fs::write(&segment, bytes).unwrap();
    assert!(all() == before);
    assert_eq!(repeat_into(&one).unwrap().unwrap().entered.len(), 1);
}

/// Another log of the directory is another server's business.
#[test]
fn other_logs_are_left_alone() {
    let (_elsewhere, base, model, after) = left_for_two();
    let mut other = CommitLog::with_segments(after.path(), SMALL).unwrap();
    other.tell();
    let mut repeats = repeat_into(&after.path().join("a.cow")).unwrap().unwrap();
    assert!(repeats.failed.is_empty(), "{:?}", repeats.failed);
    repeats = repeat_into(&after.path().join("b.cow")).unwrap().unwrap();
    assert_eq!(repeats.removed.len(), SEGMENTS);
    assert!(read(after.path(), &base).unwrap() == model);
    assert_eq!(entries(after.path()).len(), 2 + SEGMENTS);
    drop(other);
    repeat_into(&after.path().join("a.cow")).unwrap();
    assert_eq!(entries(after.path()).len(), 2 + SEGMENTS, "it is not named");
}

fn is_a_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "cowlog")
}
