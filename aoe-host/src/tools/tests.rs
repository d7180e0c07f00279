//! Every command on real files, good and damaged.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::error::{ErrorKind, Exit};
use crate::image::tests::{Chain, golden, layer, store};
use crate::image::{Format, FormatOptions};

fn quiet() -> impl FnMut(u64, u64) {
    |_done, _total| {}
}

fn made(dir: &TempDir, name: &str, backing: &Path) -> PathBuf {
    let path = dir.path().join(name);
    let request = CreateRequest {
        path: path.clone(),
        backing: Some(backing.to_owned()),
        ..CreateRequest::default()
    };
    create(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
    path
}

/// Golden image, overlay over it with two runs of data.
fn written(dir: &TempDir) -> (PathBuf, PathBuf) {
    let base = golden(dir, 40_000 * 512);
    let path = made(dir, "a.cow", &base);
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    chain.write(10, 0xaa, 6);
    chain.write(16_126, 0xbb, 4);
    chain.close();
    (base, path)
}

fn runs(path: &Path, gate: &Gate) -> Vec<(u64, u64, Option<usize>, MapKind)> {
    let mut runs = Vec::new();
    let request =
        MapRequest { chain: path.to_owned().into(), gate: gate.clone(), ..MapRequest::default() };
    let summary = map(&request, &mut |run| {
        runs.push((run.start, run.sectors, run.layer, run.kind));
        Ok(())
    });
    assert_eq!(summary.unwrap().runs, runs.len() as u64);
    runs
}

#[test]
fn create_says_what_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512 + 5);
    let path = dir.path().join("a.cow");
    let request = CreateRequest {
        path: path.clone(),
        backing: Some(base.clone()),
        options: FormatOptions::default().with("label", "lab 1"),
        full_hash: true,
        ..CreateRequest::default()
    };
    let mut told = Vec::new();
    let created = create(&request, &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(told, [(512_005, 512_005)]);
    assert_eq!((created.format, created.disk_bytes), (Format::NATIVE, 1001 * 512));
    assert_eq!(created.parent.as_deref(), Some(fs::canonicalize(&base).unwrap().as_path()));
    assert!(created.file.allocated_bytes < created.file.apparent_bytes);
    assert!(created.to_string().contains("over `"), "{created}");
    let again = create(&request, &mut quiet()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert!(again.to_string().contains("overlay already"), "{again}");

    let blank = CreateRequest {
        path: dir.path().join("blank.cow"),
        size_bytes: Some(4 << 30),
        ..CreateRequest::default()
    };
    assert!(create(&blank, &mut quiet()).unwrap().to_string().contains("4.00 GiB"));
    assert_eq!(runs(&blank.path, &Gate::Closed), [(0, 8 << 20, None, MapKind::Nothing)]);
}

#[test]
fn create_refuses_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let writable = made(&dir, "writable.cow", &base);
    let before = fs::read_dir(dir.path()).unwrap().count();
    let request = CreateRequest {
        path: dir.path().join("new.cow"),
        backing: Some(base.clone()),
        ..CreateRequest::default()
    };
    let dm = Format::named("dm-snapshot").unwrap();
    let with_option = |r: &mut CreateRequest, key: &str, value: &str| {
        r.options = FormatOptions::default().with(key, value);
    };
    let with = |change: &dyn Fn(&mut CreateRequest)| {
        let mut request = request.clone();
        change(&mut request);
        create(&request, &mut quiet()).unwrap_err()
    };
    for (error, word) in [
        (with(&|r| r.backing = None), "size is not known"),
        (with(&|r| r.size_bytes = Some(0)), "multiple of 512"),
        (with(&|r| r.size_bytes = Some(513)), "multiple of 512"),
        (with(&|r| r.size_bytes = Some(1 << 60)), "128 PiB"),
        (with(&|r| r.backing = Some(writable.clone())), "freeze"),
        (with(&|r| r.backing = Some(dir.path().join("none"))), "not found"),
        (with(&|r| r.path = dir.path().join("none/new.cow")), "directory"),
        (with(&|r| r.onto_device = true), "not found"),
        (with(&|r| (r.onto_device, r.path) = (true, writable.clone())), "no block device"),
        (with(&|r| (r.format = dm, with_option(r, "chunk", "1536")).1), "power of two"),
        (with(&|r| (r.format = dm, with_option(r, "chunk", "2G")).1), "power of two"),
        (with(&|r| (r.format = dm, with_option(r, "label", "x")).1), "its options are: chunk"),
        (with(&|r| with_option(r, "chunk", "32K")), "its options are: label"),
        (with(&|r| r.format = Format::RAW), "hide what is below"),
        (with(&|r| (r.format, r.size_bytes) = (dm, Some(512))), "as large"),
        (with(&|r| (r.format, r.backing, r.size_bytes) = (dm, None, Some(512))), "needs an image"),
    ] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

#[test]
fn info_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = written(&dir);
    let native = info(&path, &Gate::Open).unwrap();
    assert_eq!((native.format, native.disk_bytes), (Format::NATIVE, Some(40_000 * 512)));
    let header = &native.facts["native"];
    assert_eq!(header["data_bytes"], 5120);
    assert_eq!((&header["is_clean"], &header["is_frozen"]), (&true.into(), &false.into()));
    assert_eq!(native.parents.len(), 1);
    assert_eq!(native.parents[0].state, ParentState::AsRecorded);
    assert_eq!(native.problems, [""; 0]);
    let text = native.to_string();
    assert!(text.contains("5.00 KiB (5120 bytes)") && text.contains("golden.img [raw]"), "{text}");
    assert_eq!(info(&path, &Gate::Closed).unwrap().parents[0].state, ParentState::Unknown);
    let json = serde_json::to_value(&native).unwrap();
    assert_eq!(json["parents"][0]["state"], "as-recorded");
    assert_eq!((&json["format"], &json["native"]), (&"native".into(), header));

    let raw = info(&base, &Gate::Open).unwrap();
    assert_eq!((raw.format, raw.disk_bytes), (Format::RAW, Some(40_000 * 512)));
    let store = info(store(&dir), &Gate::Open).unwrap();
    let about = &store.facts["dm_snapshot"];
    assert_eq!((&about["chunk_bytes"], &about["exceptions"]), (&4096.into(), &1.into()));
    assert_eq!(about["is_valid"], true);
    assert!(store.to_string().contains("24/512 16, as dmsetup"), "{store}");

    let chain = Chain::open(&[layer(&base)], &path).unwrap();
    let writer = info(&path, &Gate::Closed).unwrap().writer.unwrap();
    assert!(writer.contains(&std::process::id().to_string()), "{writer}");
    drop(chain);
    fs::write(&base, b"changed").unwrap();
    let state = &info(&path, &Gate::Open).unwrap().parents[0].state;
    assert!(matches!(state, ParentState::Different(why) if why.contains("fewer")), "{state:?}");
    fs::remove_file(&base).unwrap();
    let state = &info(&path, &Gate::Open).unwrap().parents[0].state;
    assert!(matches!(state, ParentState::Unusable(_)), "{state:?}");
    assert_eq!(info(&base, &Gate::Open).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn damaged_files_are_described_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_base, path) = written(&dir);
    let whole = fs::read(&path).unwrap();
    let damage = |at: usize, len: usize| {
        let mut bytes = whole.clone();
        bytes[at..at + len].fill(0x5a);
        fs::write(&path, &bytes).unwrap();
        let about = info(&path, &Gate::Closed).unwrap();
        (about.problems, check(&path, &Gate::Closed, &mut quiet()).unwrap())
    };
    let (problems, report) = damage(0, 0);
    assert_eq!((problems.len(), report.exit()), (0, Exit::Success));
    assert_eq!((report.data_bytes, report.findings_total), (5120, 0));
    let (problems, report) = damage(100, 1);
    assert_eq!((problems.len(), report.exit()), (0, Exit::Success), "the other header serves");
    assert!(report.to_string().contains("remark"), "{report}");
    let (problems, report) = damage(4096 + 100, 1);
    assert_eq!((problems.len(), report.exit()), (0, Exit::Success), "the other header serves");
    let (problems, report) = damage(100, 4200);
    assert_eq!((problems.len(), report.exit()), (1, Exit::Problems));
    assert!(report.to_string().contains("DAMAGED"), "{report}");
    // Both slots of page 0, after an orderly end.
    let (_, report) = damage(8192 + 100, 5000);
    assert_eq!(report.exit(), Exit::Problems);
    assert!(report.findings.iter().any(|f| f.is_damage && f.text.contains("page 0")), "{report}");
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let about = info(&path, &Gate::Closed).unwrap();
    assert!(about.problems[0].contains("the image needs"), "{about}");
    for len in [0, 1, 511, 512, 4096, 8191, 8192] {
        fs::write(&path, &whole[..len]).unwrap();
        drop(info(&path, &Gate::Open).unwrap().to_string());
        let report = check(&path, &Gate::Open, &mut quiet()).unwrap();
        assert_eq!(report.exit() == Exit::Problems, len != 1, "{len}: {report}");
    }
}

#[test]
fn check_of_stores_and_parents() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = store(&dir);
    let report = check(&path, &Gate::Open, &mut quiet()).unwrap();
    assert_eq!((report.exit(), report.data_bytes), (Exit::Success, 4096));
    assert!(report.findings[0].text.contains("origin is not known"), "{report}");
    Chain::open(&[layer(&base)], &path).unwrap().close();
    assert_eq!(check(&path, &Gate::Open, &mut quiet()).unwrap().findings_total, 0);
    let file = fs::File::options().write(true).open(&path).unwrap();
    // A second exception about the same chunk, and one behind the disk.
    file.write_all_at(&[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], 4096 + 16).unwrap();
    file.write_all_at(&[0, 9, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0], 4096 + 32).unwrap();
    let report = check(&path, &Gate::Open, &mut quiet()).unwrap();
    assert_eq!((report.exit(), report.damage_total), (Exit::Problems, 2), "{report}");

    let native = made(&dir, "n.cow", &base);
    assert_eq!(check(&native, &Gate::Open, &mut quiet()).unwrap().exit(), Exit::Success);
    fs::write(&base, vec![1; 1000 * 512]).unwrap();
    assert_eq!(check(&native, &Gate::Closed, &mut quiet()).unwrap().exit(), Exit::Success);
    let report = check(&native, &Gate::Open, &mut quiet()).unwrap();
    assert_eq!(report.exit(), Exit::Problems, "{report}");
    let lock = crate::storage::FileOptions {
        lock: crate::storage::LockMode::Exclusive,
        ..crate::storage::FileOptions::default()
    };
    let _held = crate::storage::FileStorage::open(&native, &lock).unwrap();
    let error = check(&native, &Gate::Closed, &mut quiet()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
}

#[test]
fn map_shows_every_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = written(&dir);
    let data = |start, sectors| (start, sectors, Some(0), MapKind::Data);
    let below = |start, sectors| (start, sectors, None, MapKind::Below);
    let alone =
        [below(0, 10), data(10, 6), below(16, 16_110), data(16_126, 4), below(16_130, 23_870)];
    assert_eq!(runs(&path, &Gate::Closed), alone);
    let golden = |start, sectors| (start, sectors, Some(1), MapKind::Data);
    let all =
        [golden(0, 10), data(10, 6), golden(16, 16_110), data(16_126, 4), golden(16_130, 23_870)];
    assert_eq!(runs(&path, &Gate::Open), all);
    assert_eq!(runs(&base, &Gate::Closed), [(0, 40_000, Some(0), MapKind::Data)]);

    let mut first = None;
    let request = MapRequest {
        chain: path.clone().into(),
        gate: Gate::Open,
        offset_bytes: 12 * 512,
        len_bytes: Some(2 * 512),
    };
    let summary = map(&request, &mut |run| {
        first = Some(*run);
        Ok(())
    });
    assert_eq!(summary.unwrap().layers, [path.clone(), fs::canonicalize(&base).unwrap()]);
    let run = first.unwrap();
    // Two header slots, three pages of two slots, then sector 12.
    assert_eq!((run.start, run.sectors, run.offset), (12, 2, Some(8 * 4096 + 12 * 512)));
    assert_eq!(run.to_string().len(), MapRun::HEADING.len());
    for (offset_bytes, len_bytes) in
        [(1, None), (0, Some(5)), (40_001 * 512, None), (0, Some(1 << 30))]
    {
        let request = MapRequest { offset_bytes, len_bytes, ..request.clone() };
        assert_eq!(map(&request, &mut |_| Ok(())).unwrap_err().kind(), ErrorKind::Usage);
    }
    let words = format!("{},{}", path.display(), base.display());
    let chain = ChainName::parse(words.as_ref()).unwrap();
    let whole = MapRequest { chain, ..MapRequest::default() };
    assert_eq!(map(&whole, &mut |_| Ok(())).unwrap().runs, all.len() as u64);
    fs::write(&base, b"changed").unwrap();
    assert_eq!(map(&whole, &mut |_| Ok(())).unwrap_err().kind(), ErrorKind::Mismatch);
    let error = map(&request, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let store = store(&dir);
    let chunk = [below(0, 8), data(8, 8)];
    assert_eq!(runs(&store, &Gate::Closed), chunk);
}

#[test]
fn rollback_empties_and_says_what_went() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = written(&dir);
    let chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert_eq!(rollback(&path).unwrap_err().kind(), ErrorKind::InUse);
    chain.close();
    let done = rollback(&path).unwrap();
    assert_eq!(done.discarded_bytes, Some(5120));
    assert!(done.freed_bytes >= 8192, "{done:?}");
    assert!(done.to_string().contains("discarded 5.00 KiB"), "{done}");
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert_eq!(chain.read(10), 10);
    chain.write(11, 0xcc, 1);
    chain.close();
    let store = store(&dir);
    Chain::open(&[layer(&base)], &store).unwrap().close();
    let id = |path: &Path| {
        let text = fs::read(crate::image::binding_path(path)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        (value["id"].clone(), value["parent"].clone())
    };
    let before = id(&store);
    assert_eq!(rollback(&store).unwrap().discarded_bytes, Some(4096));
    assert!(id(&store).0 != before.0 && id(&store).1 == before.1);
    let mut chain = Chain::open(&[layer(&base)], &store).unwrap();
    assert_eq!(chain.read(8), 8);
    drop(chain);
    let error = rollback(&base).unwrap_err();
    assert!(error.to_string().contains("no overlay"), "{error}");
    freeze(&path).unwrap();
    let error = rollback(&path).unwrap_err();
    assert!(error.to_string().contains("frozen"), "{error}");
}

#[test]
fn frozen_layers_carry_others() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = written(&dir);
    let old = info(&path, &Gate::Closed).unwrap().facts["native"]["layer_id"].clone();
    let frozen = freeze(&path).unwrap();
    assert_ne!(old, frozen.layer_id);
    assert!(frozen.to_string().contains(&frozen.layer_id));
    assert!(freeze(&path).unwrap_err().to_string().contains("frozen"));
    let top = made(&dir, "top.cow", &path);
    let mut chain = Chain::open(&[layer(&path), layer(&base)], &top).unwrap();
    assert_eq!([chain.read(9), chain.read(10)], [9, 0xaa]);
    chain.write(10, 0xdd, 1);
    chain.close();
    let about = info(&top, &Gate::Open).unwrap();
    assert_eq!(about.parents.len(), 2, "{about}");
    assert_eq!(
        runs(&top, &Gate::Open)[1..3],
        [(10, 1, Some(0), MapKind::Data), (11, 5, Some(1), MapKind::Data)]
    );
    let store = store(&dir);
    assert_eq!(freeze(&store).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn rebind_accepts_equal_content_only() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 3 << 20);
    let plain = made(&dir, "plain.cow", &base);
    let hashed = dir.path().join("hashed.cow");
    let request = CreateRequest {
        path: hashed.clone(),
        backing: Some(base.clone()),
        full_hash: true,
        ..CreateRequest::default()
    };
    create(&request, &mut quiet()).unwrap();
    let copy = dir.path().join("copy.img");
    fs::write(&copy, fs::read(&base).unwrap()).unwrap();
    // Differs between the samples only.
    let other = dir.path().join("other.img");
    let mut bytes = fs::read(&base).unwrap();
    bytes[(3 << 19) + 5000] ^= 1;
    fs::write(&other, bytes).unwrap();
    let shorter = dir.path().join("shorter.img");
    fs::write(&shorter, &fs::read(&base).unwrap()[1..]).unwrap();
    // None of them has the time of the base, however coarse times are.
    let later = fs::metadata(&base).unwrap().modified().unwrap() + Duration::from_secs(1);
    for path in [&copy, &other, &shorter] {
        fs::File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
    }

    let run = |path: &Path, parent: &Path, proof: Proof| {
        let (path, parent) = (path.to_owned(), parent.to_owned());
        rebind(&RebindRequest { path, parent, proof }, &mut quiet())
    };
    let original = || Proof::Original(base.clone());
    for (path, parent, proof, word) in [
        (&plain, &copy, Proof::RecordedHash, "--original"),
        (&plain, &other, original(), "byte 1577864 differs"),
        (&plain, &copy, Proof::Original(copy.clone()), "not what"),
        (&plain, &shorter, Proof::Trust, "fewer"),
        (&hashed, &other, Proof::RecordedHash, "hashes of the content differ"),
        (&plain, &plain, Proof::Trust, "own parent"),
        (&base, &copy, Proof::Trust, "recorded no parent"),
    ] {
        let before = fs::read(path).unwrap();
        let error = run(path, parent, proof).unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(fs::read(path).unwrap(), before);
    }
    assert_eq!(Chain::open(&[layer(&copy)], &plain).err().unwrap().kind(), ErrorKind::Mismatch);
    run(&plain, &copy, original()).unwrap();
    run(&hashed, &copy, Proof::RecordedHash).unwrap();
    for path in [&plain, &hashed] {
        Chain::open(&[layer(&copy)], path).unwrap();
        assert!(Chain::open(&[layer(&base)], path).is_err());
        assert_eq!(info(path, &Gate::Open).unwrap().parents[0].state, ParentState::AsRecorded);
    }
    run(&hashed, &base, Proof::RecordedHash).unwrap();
    run(&plain, &base, Proof::Trust).unwrap();
    let moved = dir.path().join("moved.img");
    fs::rename(&base, &moved).unwrap();
    let done = run(&plain, &moved, Proof::RecordedHash).unwrap();
    assert!(done.to_string().contains("only moved"), "{done}");
    assert_eq!(info(&plain, &Gate::Open).unwrap().parents[0].state, ParentState::AsRecorded);

    let store = store(&dir);
    Chain::open(&[layer(&moved)], &store).unwrap().close();
    assert!(Chain::open(&[layer(&copy)], &store).is_err());
    run(&store, &copy, Proof::Original(moved)).unwrap();
    Chain::open(&[layer(&copy)], &store).unwrap();
}

#[test]
fn paths_in_images_are_not_followed_into_anything_odd() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = made(&dir, "a.cow", &base);
    fs::remove_file(&base).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &base,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    // Opening a FIFO in the plain way would wait for ever.
    let about = info(&path, &Gate::Open).unwrap();
    assert!(about.to_string().contains("neither a file nor"), "{about}");
}
