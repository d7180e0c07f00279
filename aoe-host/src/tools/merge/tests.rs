//! Merging in place: every format into every other, cut anywhere, and what is refused meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cow_core::units::{Extent, Lba};

use super::*;
use crate::image::tests::{Chain, layer};
use crate::image::{binding_path, open_backing};
use crate::storage::FileTable;
use crate::tools::copy_tests::{SECTORS, bytes_of, chain, content, image_name, quiet, raw};
use crate::tools::{
    ConvertRequest, CreateRequest, MapRequest, RebindRequest, check, convert, create, freeze, info,
    map, rebind, rollback,
};

/// The disk that the overlays of these tests show.
fn wanted() -> Vec<u8> {
    content(11, SECTORS)
}

/// An image that differs from it here and there.
fn half(dir: &Path) -> PathBuf {
    let mut bytes = wanted();
    for (number, piece) in bytes.chunks_mut(512 * 97).enumerate() {
        let len = piece.len();
        piece[..len / 3].fill(if number % 3 == 0 { 0 } else { 0xee });
    }
    raw(dir, "base.img", &bytes)
}

/// An overlay in `format` over `below` with which the chain shows what is wanted.
fn overlay(dir: &Path, name: &str, format: Format, below: &[&Path]) -> PathBuf {
    let target = image_name(dir, name, format);
    let request = ConvertRequest {
        source: raw(dir, "wanted.img", &wanted()).into(),
        target: target.clone(),
        format,
        backing: Some(chain(below)),
        replace: true,
        ..ConvertRequest::default()
    };
    convert(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
    target
}

fn overlays() -> impl Iterator<Item = Format> {
    Format::creatable().filter(|format| !format.ops().is_plain())
}

fn request(names: &[&Path], keep: Option<KeepOverlay>) -> MergeRequest {
    MergeRequest { chain: chain(names), gate: Gate::Closed, keep }
}

fn merged(names: &[&Path], keep: KeepOverlay) -> Merged {
    let merged = merge(&request(names, Some(keep)), &mut quiet());
    merged.unwrap_or_else(|e| panic!("{}", e.report()))
}

fn plain(path: &Path) -> PathBuf {
    ImageName::parse(path).path
}

#[test]
fn every_format_is_merged_into_a_plain_image() {
    for format in overlays() {
        for keep in [KeepOverlay::Leave, KeepOverlay::Empty, KeepOverlay::Delete] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let base = half(dir);
            let top = overlay(dir, "top", format, &[&base]);
            let done = merged(&[&top, &base], keep);
            assert_eq!((done.overlay, done.was_resumed), (keep, false), "{format} {done}");
            assert!(done.warnings.is_empty() && done.orphans.is_empty(), "{format} {done}");
            assert!(fs::read(&base).unwrap() == wanted(), "{format}");
            if keep == KeepOverlay::Delete {
                assert!(!plain(&top).exists() && !binding_path(&plain(&top)).exists(), "{format}");
            } else {
                assert!(bytes_of(dir, &chain(&[&top, &base])) == wanted(), "{format} {keep:?}");
            }
            let report = merge(&request(&[&top, &base], None), &mut quiet());
            assert_eq!(report.is_ok(), keep != KeepOverlay::Delete, "{format}: once more");
            let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().contains("merg")), "{left:?}");
        }
    }
}

#[test]
fn every_format_is_merged_into_every_other() {
    for middle in overlays() {
        for top in overlays() {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let base = half(dir);
            let before = fs::read(&base).unwrap();
            let parent = image_name(dir, "middle", middle);
            let create_middle = CreateRequest {
                path: parent.clone(),
                backing: Some(base.clone()),
                format: middle,
                ..CreateRequest::default()
            };
            create(&create_middle, &mut quiet()).unwrap();
            let has_mode = freeze(&parent).is_ok();
            let child = overlay(dir, "top", top, &[&parent, &base]);
            let id = |path: &Path| info(path, &Gate::Closed).unwrap().facts;
            let old = id(&parent);
            merged(&[&child, &parent, &base], KeepOverlay::Delete);
            let now = bytes_of(dir, &chain(&[&parent, &base]));
            assert!(now == wanted(), "{top} into {middle}");
            assert!(fs::read(&base).unwrap() == before, "{top} into {middle}");
            let report = check(&parent, &Gate::Closed, &mut quiet()).unwrap();
            assert_eq!(report.findings_total, 0, "{report}");
            if has_mode {
                assert_eq!(freeze(&parent).unwrap_err().kind(), ErrorKind::InUse, "frozen again");
                assert_ne!(old, id(&parent), "under another identity");
            }
        }
    }
}

/// An image that lies on nothing is a parent like any other.
#[test]
fn every_format_is_merged_into_images_without_a_parent() {
    let is_blank = |format: &Format| format.ops().creation().is_some_and(|how| how.blank);
    for parent in overlays().filter(is_blank) {
        for top in overlays() {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let base = image_name(dir, "golden", parent);
            let convert_base = ConvertRequest {
                source: half(dir).into(),
                target: base.clone(),
                format: parent,
                ..ConvertRequest::default()
            };
            convert(&convert_base, &mut quiet()).unwrap();
            let _where_it_can_say_so = freeze(&base);
            let child = overlay(dir, "top", top, &[&base]);
            merged(&[&child, &base], KeepOverlay::Delete);
            let what = format!("{top} into {parent}");
            assert!(bytes_of(dir, &chain(&[&base])) == wanted(), "{what}");
            assert_eq!(info(&base, &Gate::Closed).unwrap().problems, [""; 0], "{what}");
            let report = check(&base, &Gate::Closed, &mut quiet()).unwrap();
            assert!(report.findings.is_empty(), "{what}: {report}");
        }
    }
}

#[test]
fn zeros_stay_sparse_and_a_shorter_parent_grows() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = dir.join("base.img");
    let file = fs::File::create(&base).unwrap();
    file.set_len(20 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[5; 16 << 10], 1 << 20).unwrap();
    let top = dir.join("top.cow");
    let create_top = CreateRequest {
        path: top.clone(),
        backing: Some(base.clone()),
        size_bytes: Some(24 << 20),
        ..CreateRequest::default()
    };
    create(&create_top, &mut quiet()).unwrap();
    let mut overlay = Chain::open(&[layer(&base)], &top).unwrap();
    overlay.write(2048, 0, 32); // over the data
    overlay.write(20_000, 0, 2048); // over a hole
    overlay.write(45_000, 9, 1); // behind the end
    overlay.close();
    let whole = bytes_of(dir, &chain(&[&top, &base]));
    merged(&[&top, &base], KeepOverlay::Leave);
    assert!(fs::read(&base).unwrap() == whole);
    let used = info(&base, &Gate::Closed).unwrap().file;
    assert_eq!(used.apparent_bytes, 24 << 20);
    assert!(used.allocated_bytes <= 16 << 10, "{used:?}");
}

#[test]
fn a_parent_of_odd_length_keeps_it_unless_that_loses_something() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (fill, len) in [(7, 3 * 512), (0, 2 * 512 + 100)] {
        let base = raw(dir, "base.img", &[1; 2 * 512 + 100]);
        let top = dir.join(format!("top{fill}.cow"));
        let mut overlay = Chain::open(&[layer(&base)], &top).unwrap();
        overlay.write(1, fill, 2);
        overlay.close();
        merged(&[&top, &base], KeepOverlay::Leave);
        let bytes = fs::read(&base).unwrap();
        assert_eq!(bytes.len(), len);
        assert!(bytes[..512].iter().all(|b| *b == 1) && bytes[512..].iter().all(|b| *b == fill));
    }
}

#[test]
fn a_part_of_a_parent_is_changed_there_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes = content(12, 100);
    let base = raw(dir, "base.img", &bytes);
    let top = dir.join("top.cow");
    let window = config::Window { offset_bytes: 10 * 512, len_bytes: Some(20 * 512) };
    let part = CreateRequest {
        path: top.clone(),
        backing: Some(base.clone()),
        window,
        ..CreateRequest::default()
    };
    create(&part, &mut quiet()).unwrap();
    let below = [config::Layer::File { path: base.clone(), window }];
    let mut overlay = Chain::open(&below, &top).unwrap();
    overlay.write(0, 0xaa, 3);
    overlay.write(19, 0xbb, 1);
    overlay.close();
    merged(&[&top, &base], KeepOverlay::Empty);
    let mut expected = bytes;
    expected[10 * 512..13 * 512].fill(0xaa);
    expected[29 * 512..30 * 512].fill(0xbb);
    assert!(fs::read(&base).unwrap() == expected);
    assert!(bytes_of(dir, &chain(&[&top, &base])) == expected[10 * 512..30 * 512]);
}

#[test]
fn siblings_are_named_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    let top = overlay(dir, "top", Format::NATIVE, &[&base]);
    let mut expected = Vec::new();
    for format in overlays() {
        let path = image_name(dir, "sibling", format);
        let request = CreateRequest {
            path: path.clone(),
            backing: Some(base.clone()),
            format,
            ..CreateRequest::default()
        };
        create(&request, &mut quiet()).unwrap();
        if info(&path, &Gate::Open).unwrap().parents[0].state
            == crate::tools::ParentState::AsRecorded
            && !format.ops().has_metadata_file()
        {
            expected.push(fs::canonicalize(path).unwrap());
        }
    }
    expected.sort();
    let done = merged(&[&top, &base], KeepOverlay::Leave);
    assert_eq!(done.orphans, expected, "{done}");
    for orphan in done.orphans {
        assert!(
            Found::open(&chain(&[&orphan, &base]), &Gate::Closed, &FileOptions::default())
                .and_then(|found| {
                    let backing = open_backing(&found.below, false, &mut FileTable::new())?;
                    found.check(Some(&backing))
                })
                .is_err()
        );
    }
}

#[test]
fn whoever_counts_whole_seconds_notices() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    // Of this very second, and of a clock that was ahead.
    for ahead in [0, 1000] {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + ahead;
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(&base).unwrap().set_modified(time).unwrap();
        let top = dir.join(format!("top{ahead}.cow"));
        let mut overlay = Chain::open(&[layer(&base)], &top).unwrap();
        overlay.write(1, 0x55, 2);
        overlay.close();
        merged(&[&top, &base], KeepOverlay::Leave);
        let now = fs::metadata(&base).unwrap().modified().unwrap();
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now > seconds, "{now} {seconds}");
    }
}

#[test]
fn what_cannot_be_merged_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    let other = raw(dir, "other.img", &wanted());
    let top = overlay(dir, "top", Format::NATIVE, &[&base]);
    let blank = dir.join("blank.cow");
    let create_blank =
        CreateRequest { path: blank.clone(), size_bytes: Some(1 << 20), ..Default::default() };
    create(&create_blank, &mut quiet()).unwrap();
    let before = fs::read(&base).unwrap();
    let refused = |names: &[&Path], keep| merge(&request(names, keep), &mut quiet()).unwrap_err();
    for (error, word) in [
        (refused(&[&base], None), "no overlay"),
        (refused(&[&top], None), "--follow"),
        (refused(&[&top, &other], None), "content"),
        (refused(&[&blank], None), "no image below"),
        (refused(&[&top, Path::new("blank:1M")], None), "no image below"),
        (refused(&[&top, &dir.join("none")], None), "not found"),
    ] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let reader = open_backing(&[layer(&base)], false, &mut FileTable::new()).unwrap();
    let error = refused(&[&top, &base], None);
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    drop(reader);
    freeze(&top).unwrap();
    let error = refused(&[&top, &base], Some(KeepOverlay::Empty));
    assert!(error.to_string().contains("frozen"), "{error}");
    assert!(fs::read(&base).unwrap() == before);
    assert_eq!(Journal::load(&top).unwrap(), None);
    merged(&[&top, &base], KeepOverlay::Leave);
}

/// A disk in memory whose power goes after some operations.
struct Cut {
    disk: Vec<u8>,
    /// Writes that are not durable: offset and bytes.
    floating: Vec<(usize, Vec<u8>)>,
    left: u64,
    operations: u64,
}

impl Cut {
    fn new(disk: Vec<u8>, left: u64) -> Self {
        Self { disk, floating: Vec::new(), left, operations: 0 }
    }

    fn step(&mut self) -> Result<()> {
        self.operations += 1;
        self.left =
            self.left.checked_sub(1).ok_or_else(|| HostError::new(ErrorKind::Io, "go on"))?;
        Ok(())
    }

    fn now(&self) -> Vec<u8> {
        let mut disk = self.disk.clone();
        for (at, bytes) in &self.floating {
            disk[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk
    }

    /// What the medium holds after the power has gone: of each sector that was on its way, the old
    /// bytes, the new ones, or the first half of the new ones.
    fn power_cut(mut self, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        for (at, bytes) in &self.floating {
            for (sector, bytes) in bytes.chunks(512).enumerate() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let len = [0, 256, 512][usize::try_from(state >> 33).unwrap() % 3].min(bytes.len());
                let at = at + sector * 512;
                self.disk[at..at + len].copy_from_slice(&bytes[..len]);
            }
        }
        self.disk
    }
}

impl WriteDisk for Cut {
    fn read(&mut self, at: Lba, buf: &mut [u8]) -> Result<()> {
        self.step()?;
        let at = usize::try_from(at.bytes()).unwrap();
        buf.copy_from_slice(&self.now()[at..at + buf.len()]);
        Ok(())
    }

    fn write(&mut self, at: Lba, data: &[u8]) -> Result<()> {
        self.floating.push((usize::try_from(at.bytes()).unwrap(), data.to_vec()));
        self.step()
    }

    fn make_zero(&mut self, extent: Extent) -> Result<()> {
        let zeros = vec![0; usize::try_from(extent.bytes()).unwrap()];
        self.floating.push((usize::try_from(extent.start().bytes()).unwrap(), zeros));
        self.step()
    }

    fn make_durable(&mut self) -> Result<()> {
        self.step()?;
        self.disk = self.now();
        self.floating.clear();
        Ok(())
    }
}

#[test]
fn a_merge_that_is_cut_at_any_operation_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    let before = fs::read(&base).unwrap();
    let top = overlay(dir, "top", Format::NATIVE, &[&base]);
    let found = Found::open_top(&chain(&[&top]), &FileOptions::default()).unwrap();
    // Merges on into a medium, from what the journal says; tells what it says afterwards.
    let run = |disk: &mut Cut, mut done: u64| {
        let (from, mut memory) = (done, Memory::new());
        let mut source = Source::alone(&mut memory, &found, Some(SECTORS as u64)).unwrap();
        let mut save = |at| {
            done = at;
            Ok(())
        };
        let checkpoint = &mut Checkpoint { every: 300, save: &mut save };
        let result = fold(&mut source, disk, from, checkpoint, &mut quiet())
            .and_then(|()| disk.make_durable());
        (done, result.is_ok())
    };
    let mut whole = Cut::new(before.clone(), u64::MAX);
    assert!(run(&mut whole, 0).1);
    assert!(whole.disk == wanted());
    let operations = whole.operations;
    assert!(operations > 30, "{operations}");
    for cut in 0..operations {
        let mut first = Cut::new(before.clone(), cut);
        let (done, ended) = run(&mut first, 0);
        assert!(!ended, "{cut}");
        // And the second run, somewhere on its way.
        let mut second = Cut::new(first.power_cut(cut), cut / 2);
        let (done, _) = run(&mut second, done);
        let mut third = Cut::new(second.power_cut(cut + 7), u64::MAX);
        assert!(run(&mut third, done).1);
        assert!(third.disk == wanted(), "cut at operation {cut}");
    }
}

/// Leaves a merge as a kill does at this step, and says what the step is called.
fn cut_at(step: usize, names: &[&Path]) -> Option<&'static str> {
    let top = Found::open_top(&chain(names), &overlay_options(false)).unwrap();
    let mut merge = Merge::begin(top, &request(names, Some(KeepOverlay::Empty))).unwrap();
    let overlay = merge.top.name.path.clone();
    merge.journal.save(&overlay).unwrap();
    if step == 0 {
        return Some("the journal, no mark");
    }
    merge.journal.mark(&merge.parent.file.main, &overlay).unwrap();
    if step == 1 {
        return Some("the mark, nothing changed");
    }
    let ops = merge.parent.format.ops();
    if ops.is_frozen(&merge.parent.file).unwrap() {
        ops.thaw(&mut merge.parent.file).unwrap();
    }
    let mut memory = Memory::new();
    let mut source = Source::alone(&mut memory, &merge.top, Some(SECTORS as u64)).unwrap();
    let half = |disk: &mut dyn WriteDisk| {
        let mut save = |_| Err(HostError::new(ErrorKind::Io, "go on"));
        let checkpoint = &mut Checkpoint { every: 500, save: &mut save };
        fold(&mut source, disk, 0, checkpoint, &mut quiet())
    };
    if step == 2 {
        assert!(merge.parent.with_disk(SECTORS as u64, half).is_err());
        return Some("a part of the data");
    }
    drop(memory);
    merge.fold(&mut quiet()).unwrap();
    if step == 3 {
        return Some("complete, and still marked");
    }
    unmark(&merge.parent.file.main).unwrap();
    if step == 4 {
        return Some("complete, no mark");
    }
    merge.top.format.ops().rollback(&mut merge.top.file).unwrap();
    (step == 5).then_some("the overlay is empty and over what was")
}

#[test]
fn a_process_killed_between_any_two_steps_is_succeeded_by_another() {
    for middle in [None, Some(Format::NATIVE), Format::named("dm-snapshot")] {
        for step in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let base = half(dir);
            let parent = middle.map(|format| {
                let path = image_name(dir, "middle", format);
                let request = CreateRequest {
                    path: path.clone(),
                    backing: Some(base.clone()),
                    format,
                    ..CreateRequest::default()
                };
                create(&request, &mut quiet()).unwrap();
                let _of_formats_that_have_it = freeze(&path);
                path
            });
            let below: Vec<&Path> = parent.iter().chain([&base]).map(PathBuf::as_path).collect();
            let top = overlay(dir, "top", Format::NATIVE, &below);
            let names: Vec<&Path> = core::iter::once(&*top).chain(below.iter().copied()).collect();
            let what = cut_at(step, &names).unwrap();
            let marked = (1..4).contains(&step);
            refused_meanwhile(dir, &names, marked);
            let done = merge(&request(&[&top], None), &mut quiet());
            let done = done.unwrap_or_else(|e| panic!("{what}: {}", e.report()));
            assert!(done.was_resumed, "{what}");
            assert_eq!(done.overlay, KeepOverlay::Empty, "{what}: as it was said at first");
            assert!(bytes_of(dir, &chain(&below)) == wanted(), "{what}");
            assert!(bytes_of(dir, &chain(&names)) == wanted(), "{what}");
        }
    }
}

/// Nobody takes the parent of a merge that was cut, or the overlay.
fn refused_meanwhile(dir: &Path, names: &[&Path], marked: bool) {
    let (top, below) = names.split_first().unwrap();
    let parent = below[0];
    let layers: Vec<_> = below.iter().map(|path| layer(path)).collect();
    let is_refusal = |error: HostError| {
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
        assert!(error.to_string().contains("--in-place"), "{error}");
    };
    is_refusal(rollback(top).unwrap_err());
    is_refusal(freeze(top).unwrap_err());
    let rebound = RebindRequest {
        path: top.to_path_buf(),
        parent: parent.to_owned(),
        ..RebindRequest::default()
    };
    is_refusal(rebind(&rebound, &mut quiet()).unwrap_err());
    assert!(!info(top, &Gate::Closed).unwrap().problems.is_empty());
    let whole = MapRequest { chain: chain(names), ..MapRequest::default() };
    is_refusal(map(&whole, &mut |_| Ok(())).unwrap_err());
    let copy = |source| ConvertRequest { source, target: dir.join("no.img"), ..Default::default() };
    is_refusal(convert(&copy(chain(names)), &mut quiet()).unwrap_err());
    let backed = |path: &str| CreateRequest {
        path: dir.join(path),
        backing: Some(parent.to_owned()),
        ..CreateRequest::default()
    };
    if marked {
        is_refusal(open_backing(&layers, false, &mut FileTable::new()).unwrap_err());
        is_refusal(convert(&copy(chain(below)), &mut quiet()).unwrap_err());
        is_refusal(create(&backed("no.cow"), &mut quiet()).unwrap_err());
        assert_eq!(check(parent, &Gate::Closed, &mut quiet()).unwrap().damage_total, 1);
        let problems = info(parent, &Gate::Closed).unwrap().problems;
        assert!(problems[0].contains("not finished"), "{problems:?}");
        // Not even another merge.
        let other = dir.join("other.cow");
        fs::copy(top, &other).unwrap();
        let names = [&[&*other], below].concat();
        is_refusal(merge(&request(&names, None), &mut quiet()).unwrap_err());
    } else {
        open_backing(&layers, false, &mut FileTable::new()).unwrap();
    }
}

#[test]
fn a_merge_does_not_go_on_with_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    let before = fs::read(&base).unwrap();
    let top = overlay(dir, "top", Format::NATIVE, &[&base]);
    cut_at(0, &[&top, &base]).unwrap();
    // No mark, and another parent than at the beginning.
    fs::write(&base, &before[512..]).unwrap();
    let error = merge(&request(&[&top], None), &mut quiet()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(fs::read(&base).unwrap() == before[512..]);
    // Another overlay under the name.
    fs::write(&base, &before).unwrap();
    let other = overlay(dir, "other", Format::NATIVE, &[&base]);
    fs::rename(other, &top).unwrap();
    let error = merge(&request(&[&top, &base], None), &mut quiet()).unwrap_err();
    assert!(error.to_string().contains("changed after"), "{error}");
    // Nothing is made under a name to which an unfinished merge belongs.
    fs::remove_file(&top).unwrap();
    let request =
        CreateRequest { path: top.clone(), backing: Some(base.clone()), ..Default::default() };
    assert_eq!(create(&request, &mut quiet()).unwrap_err().kind(), ErrorKind::InUse);
    assert!(fs::read(&base).unwrap() == before);
}

#[test]
fn an_overlay_that_was_deleted_leaves_only_its_journal_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = half(dir);
    let top = overlay(dir, "top", Format::NATIVE, &[&base]);
    let mut merge_to_cut = Merge::begin(
        Found::open_top(&chain(&[&top]), &overlay_options(false)).unwrap(),
        &request(&[&top, &base], Some(KeepOverlay::Delete)),
    )
    .unwrap();
    merge_to_cut.fold(&mut quiet()).unwrap();
    unmark(&merge_to_cut.parent.file.main).unwrap();
    drop(merge_to_cut);
    fs::remove_file(&top).unwrap();
    let done = merge(&request(&[&top], None), &mut quiet()).unwrap();
    assert_eq!(
        (done.overlay, done.parent),
        (KeepOverlay::Delete, fs::canonicalize(&base).unwrap())
    );
    let error = merge(&request(&[&top], None), &mut quiet()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
