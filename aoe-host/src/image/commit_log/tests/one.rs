//! What a killed server left is entered into one overlay, without a server.

use super::repeat::enter_advice;
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

/// Its log went while it was elsewhere, or was lost: it goes on with what it holds itself.
#[test]
fn without_its_log_an_overlay_goes_on_if_it_is_told_to() {
    for lost in [1, SEGMENTS] {
        let (elsewhere, directory) = two_directories();
        let base = golden(&elsewhere, 64 << 10);
        let mut life = Life::begin(directory.path(), &base);
        life.change(Extent::new(3, 2).unwrap(), Some(vec![7; 1024]));
        life.commit();
        let committed = life.model.clone();
        let after = life.cut(&base);
        let one = after.path().join("a.cow");
        let before = fs::read(&one).unwrap();
        let refused = go_on_without(&one).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage, "nothing is lost");
        assert!(refused.report().contains("`cowblade check --repair /"), "{}", refused.report());
        // The log counts also if the overlay is named by a link from elsewhere.
        let link = elsewhere.path().join("link.cow");
        std::os::unix::fs::symlink(&one, &link).unwrap();
        assert_eq!(go_on_without(&link).unwrap_err().kind(), ErrorKind::Usage);
        let real =
            format!("`cowblade check --repair {}`", fs::canonicalize(&one).unwrap().display());
        let told = enter_advice(&link);
        assert!(told.contains(&real) && !told.contains("lost"), "{told}");

        let segment = |number| after.path().join(segment_name(life.log.id, number));
        for number in 0..lost {
            fs::remove_file(segment(number)).unwrap();
        }
        let told = read(after.path(), &base).unwrap_err().report();
        for words in ["back beside it", "--repair --log-lost", "rollback"] {
            assert!(told.contains(words), "{told}");
        }
        assert!(!told.contains("start the server"), "it was just started: {told}");
        let missed = repeat_into(&one).unwrap().unwrap().failed;
        assert!(missed[0].report().contains("--log-lost"), "{missed:?}");
        if lost < SEGMENTS {
            let held = FileStorage::open(segment(lost), &overlay_options(false)).unwrap();
            let repeats = go_on_without(&one).unwrap().unwrap();
            assert_eq!(kinds(&repeats), [ErrorKind::InUse], "somebody has the rest");
            drop(held);
        }
        assert!(fs::read(&one).unwrap() == before, "not told to");
        let repeats = go_on_without(&one).unwrap().unwrap();
        assert_eq!(repeats.entered, [Repeated { path: one.clone(), changes: 0 }]);
        assert_eq!((repeats.failed.len(), repeats.removed.len()), (0, SEGMENTS - lost));
        assert!(read(after.path(), &base).unwrap() == committed);
        assert_eq!(entries(after.path()).len(), 1);
        assert!(go_on_without(&one).unwrap().is_none(), "it names no log any more");
    }
}

fn is_a_segment(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "cowlog")
}
