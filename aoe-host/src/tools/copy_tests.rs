//! `convert` and `compare` on every format that is there, each into each.

use core::time::Duration;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::config::Layer;
use crate::error::ErrorKind;
use crate::image::tests::{Chain, layer};
use crate::image::{Format, FormatOptions, binding_path};

/// Sectors of the disks: no multiple of anything but of cowloop's two.
pub(super) const SECTORS: usize = 3002;

pub(super) fn quiet() -> impl FnMut(u64, u64) {
    |_done, _total| {}
}

/// Bytes of a disk: data, short and long runs of zeros, by a small generator.
pub(super) fn content(seed: u64, sectors: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(sectors * 512);
    while bytes.len() < sectors * 512 {
        let (kind, sectors) = (random() % 4, random() % 70 + 1);
        let sectors = if random() % 8 == 0 { sectors * 20 } else { sectors };
        for _ in 0..sectors {
            let value = u8::try_from(random() % 255 + 1).unwrap();
            let mut sector = [if kind == 0 { 0 } else { value }; 512];
            // Zeros with a little in them.
            if kind == 1 {
                sector[1..].fill(0);
            }
            bytes.extend(sector);
        }
    }
    bytes.truncate(sectors * 512);
    bytes
}

pub(super) fn raw(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

pub(super) fn chain(names: &[&Path]) -> ChainName {
    let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
    ChainName::parse(names.join(",").as_ref()).unwrap()
}

/// What stands for a new image of this format in names.
pub(super) fn image_name(dir: &Path, name: &str, format: Format) -> PathBuf {
    let path = dir.join(format!("{name}.{format}"));
    if !format.ops().has_metadata_file() {
        return path;
    }
    PathBuf::from(format!("{format}:{0}+{0}.map", path.display()))
}

/// The disk as a raw image, byte for byte.
pub(super) fn bytes_of(dir: &Path, source: &ChainName) -> Vec<u8> {
    let target = dir.join("bytes.img");
    let request = ConvertRequest {
        source: source.clone(),
        target: target.clone(),
        replace: true,
        ..ConvertRequest::default()
    };
    convert(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
    fs::read(target).unwrap()
}

fn is_equal(a: &ChainName, b: &ChainName) -> bool {
    let request =
        CompareRequest { first: a.clone(), second: b.clone(), strict: true, ..Default::default() };
    compare(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report())).is_equal
}

/// A disk in a format, and its chain by name. Formats that need something below get an image that is
/// half right.
pub(super) fn made(dir: &Path, name: &str, format: Format, source: &ChainName) -> ChainName {
    let target = image_name(dir, name, format);
    let backed = !format.ops().creation().unwrap().blank;
    let below = dir.join("half.img");
    if backed && !below.exists() {
        let mut bytes = content(1, SECTORS);
        for sector in bytes.chunks_mut(512 * 97) {
            sector[..512].fill(0xee);
        }
        raw(dir, "half.img", &bytes);
    }
    let request = ConvertRequest {
        source: source.clone(),
        target: target.clone(),
        format,
        backing: backed.then(|| ChainName::from(below.clone())),
        ..ConvertRequest::default()
    };
    let converted = convert(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
    assert_eq!(converted.disk_bytes, SECTORS as u64 * 512);
    if backed { chain(&[&target, &below]) } else { ChainName::from(target) }
}

#[test]
fn every_format_becomes_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes = content(1, SECTORS);
    let golden = ChainName::from(raw(dir, "golden.img", &bytes));
    for from in Format::creatable() {
        let first = made(dir, &format!("from-{from}"), from, &golden);
        assert!(is_equal(&golden, &first), "{from}");
        assert!(bytes_of(dir, &first) == bytes, "{from}");
        for to in Format::creatable() {
            let second = made(dir, &format!("{from}-to"), to, &first);
            assert!(bytes_of(dir, &second) == bytes, "{from} to {to}");
            let report = check(second.top().unwrap(), &Gate::Closed, &mut quiet()).unwrap();
            assert_eq!(report.findings_total, 0, "{report}");
        }
    }
}

#[test]
fn zeros_become_holes_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut bytes = vec![0; 8 << 20];
    bytes[4 << 20..(4 << 20) + 5000].fill(1);
    let source = raw(dir, "full.img", &bytes);
    let target = dir.join("sparse.img");
    let request = ConvertRequest {
        source: source.clone().into(),
        target: target.clone(),
        ..ConvertRequest::default()
    };
    let mut told = Vec::new();
    let made = convert(&request, &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(made.data_bytes, 8192, "two pieces of 4 KiB");
    assert!(made.file.allocated_bytes <= 64 << 10, "{:?}", made.file);
    assert!(fs::metadata(&source).unwrap().blocks() * 512 >= 8 << 20);
    assert!(fs::read(&target).unwrap() == bytes);
    assert_eq!(told.last(), Some(&(8 << 20, 8 << 20)));
    assert!(told.is_sorted(), "{told:?}");
    // A sparse source of 4 TiB is not read.
    let huge = File::create(dir.join("huge.img")).unwrap();
    huge.set_len(4 << 40).unwrap();
    huge.write_all_at(&[9; 512], 3 << 40).unwrap();
    let request = ConvertRequest {
        source: dir.join("huge.img").into(),
        target: dir.join("huge.cow"),
        format: Format::NATIVE,
        ..ConvertRequest::default()
    };
    let made = convert(&request, &mut quiet()).unwrap();
    assert!(made.data_bytes <= 4096, "{made}");
    assert!(is_equal(&request.source, &request.target.into()));
}

#[test]
fn a_chain_becomes_one_image_and_a_difference() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut bytes = content(3, SECTORS);
    let base = raw(dir, "base.img", &bytes);
    let (middle, top) = (dir.join("middle.cow"), dir.join("top.cow"));
    let write = |layers: &[Layer], path: &Path, runs: &[(usize, u8, usize)], bytes: &mut [u8]| {
        let mut chain = Chain::open(layers, path).unwrap();
        for (lba, byte, sectors) in runs {
            chain.write(*lba as u64, *byte, *sectors);
            bytes[lba * 512..(lba + sectors) * 512].fill(*byte);
        }
        chain.close();
    };
    write(&[layer(&base)], &middle, &[(5, 1, 3), (2998, 2, 4), (100, 0, 900)], &mut bytes);
    freeze(&middle).unwrap();
    write(&[layer(&middle), layer(&base)], &top, &[(6, 3, 1), (0, 0, 5)], &mut bytes);
    let whole = chain(&[&top, &middle, &base]);
    assert!(bytes_of(dir, &whole) == bytes);
    // The names that the images record serve as well, if they may be followed.
    let partly = chain(&[&top, &middle]);
    let alone = ConvertRequest {
        source: top.clone().into(),
        target: dir.join("alone.img"),
        ..ConvertRequest::default()
    };
    let error = convert(&alone, &mut quiet()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("--follow"), "{error}");
    let followed = ConvertRequest { gate: Gate::Open, ..alone };
    convert(&followed, &mut quiet()).unwrap();
    assert!(fs::read(&followed.target).unwrap() == bytes);
    let beside = ConvertRequest {
        source: partly,
        gate: Gate::Within(Vec::new()),
        replace: true,
        ..followed
    };
    convert(&beside, &mut quiet()).unwrap();
    assert!(fs::read(&beside.target).unwrap() == bytes);
    // Only what differs from the base goes into an overlay above it.
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let target = image_name(dir, "difference", format);
        let request = ConvertRequest {
            source: whole.clone(),
            target: target.clone(),
            format,
            backing: Some(base.clone().into()),
            ..ConvertRequest::default()
        };
        let made = convert(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
        assert!(made.data_bytes < 1 << 20, "{made}");
        assert!(is_equal(&whole, &chain(&[&target, &base])), "{format}");
    }
    // A wrong order, and a wrong base, are refused.
    for wrong in [chain(&[&middle, &top, &base]), chain(&[&top, &base]), chain(&[&base, &top])] {
        let request = ConvertRequest {
            source: wrong.clone(),
            target: dir.join("wrong.img"),
            ..ConvertRequest::default()
        };
        assert!(convert(&request, &mut quiet()).is_err(), "{wrong:?}");
        assert!(!request.target.exists());
    }
}

#[test]
fn convert_refuses_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let source = raw(dir, "source.img", &content(4, SECTORS));
    let other = raw(dir, "other.img", b"precious");
    let before = fs::read_dir(dir).unwrap().count();
    let request = ConvertRequest {
        source: source.clone().into(),
        target: dir.join("new.img"),
        ..ConvertRequest::default()
    };
    let with = |change: &dyn Fn(&mut ConvertRequest)| {
        let mut request = request.clone();
        change(&mut request);
        convert(&request, &mut quiet()).unwrap_err()
    };
    let dm = Format::named("dm-snapshot").unwrap();
    for (error, word) in [
        (with(&|r| r.target = other.clone()), "already exists"),
        (with(&|r| (r.target, r.replace) = (source.clone(), true)), "one of those that are read"),
        (with(&|r| (r.target, r.replace) = (dir.to_owned(), true)), "neither a file"),
        (with(&|r| r.target = dir.join("none/new.img")), "directory"),
        (with(&|r| r.format = dm), "needs an image below"),
        (with(&|r| r.backing = Some(other.clone().into())), "hide what is below"),
        (with(&|r| r.onto_device = true), "not found"),
        (with(&|r| r.source = dir.join("none").into()), "not found"),
    ] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = ChainName::parse("blank:1G,x".as_ref()).unwrap_err();
    assert!(error.to_string().contains("base"), "{error}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), before);
    assert_eq!(fs::read(&other).unwrap(), b"precious");
    let forced = ConvertRequest { target: other.clone(), replace: true, ..request.clone() };
    convert(&forced, &mut quiet()).unwrap();
    assert!(fs::read(&other).unwrap() == fs::read(&source).unwrap());
    // What is kept beside an image stays until the image is replaced, and goes or changes with it.
    let (store, half) = (dir.join("store"), raw(dir, "half.img", &content(5, SECTORS)));
    let forced = ConvertRequest {
        target: store.clone(),
        format: dm,
        backing: Some(half.clone().into()),
        replace: true,
        ..request.clone()
    };
    convert(&forced, &mut quiet()).unwrap();
    let beside = binding_path(&store);
    let first = fs::read(&beside).unwrap();
    let names = || fs::read_dir(dir).unwrap().count();
    let before = names();
    let wrong = FormatOptions::default().with("chunk", "8M");
    let fails =
        ConvertRequest { options: wrong, source: dir.join("none").into(), ..forced.clone() };
    convert(&fails, &mut quiet()).unwrap_err();
    assert_eq!(fs::read(&beside).unwrap(), first);
    convert(&forced, &mut quiet()).unwrap();
    assert_ne!(fs::read(&beside).unwrap(), first, "another content, another name");
    assert_eq!(names(), before);
    assert!(is_equal(&source.clone().into(), &chain(&[&store, &half])));
    let open = Chain::open(&[layer(&half)], &store).unwrap();
    assert_eq!(convert(&forced, &mut quiet()).unwrap_err().kind(), ErrorKind::InUse);
    drop(open);
    let plain = ConvertRequest { target: store, replace: true, ..request };
    convert(&plain, &mut quiet()).unwrap();
    assert!(!beside.exists());
}

#[test]
fn a_name_with_a_comma_is_a_file_if_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = raw(dir.path(), "a,b.img", &[1; 512]);
    assert_eq!(ChainName::parse(path.as_os_str()).unwrap(), ChainName::from(path.clone()));
    let forced = format!("raw:{}", path.display());
    assert_eq!(ChainName::parse(forced.as_ref()).unwrap().top(), Some(Path::new(&forced)));
    let split = ChainName::parse("x.cow,y.img".as_ref()).unwrap().forced(Format::NATIVE);
    assert_eq!(split.top(), Some(Path::new("native:x.cow")));
    assert_eq!(split.layers().len(), 2);
}

/// `base,overlay` and `base,previous,current`, where the files leave no doubt; and what `info` and `check`
/// say of chains.
#[test]
fn a_chain_from_the_base_up_is_turned_round_only_where_nothing_is_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = raw(dir, "base.img", &content(3, SECTORS));
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let over = |name: &str, below: &[&Path]| {
            let target = image_name(dir, name, format);
            let request = ConvertRequest {
                source: raw(dir, "wanted.img", &content(4, SECTORS)).into(),
                target: target.clone(),
                format,
                backing: Some(chain(below)),
                replace: true,
                ..ConvertRequest::default()
            };
            convert(&request, &mut quiet()).unwrap();
            target
        };
        let previous = over("previous", &[&base]);
        let _where_it_can_say_so = freeze(&previous);
        let current = over("current", &[&previous, &base]);
        for typed in [&[&*base, &*previous][..], &[&*base, &*previous, &*current]] {
            let top_first: Vec<&Path> = typed.iter().rev().copied().collect();
            let (turned, straight) = (chain(typed), chain(&top_first));
            assert!(turned.warning().unwrap().contains("from the base up"), "{format}");
            assert_eq!(straight.warning(), None, "{format}");
            assert_eq!(turned.layers(), straight.layers(), "{format}");
            assert!(bytes_of(dir, &turned) == content(4, SECTORS), "{format}");
            let told = info_of_chain(&turned, &Gate::Closed).unwrap();
            assert_eq!(told.format, format);
            let states: Vec<_> = told.parents.iter().map(|parent| parent.state.clone()).collect();
            assert_eq!(states, vec![ParentState::AsRecorded; typed.len() - 1], "{format}");
            let checked = check_chain(&turned, &Gate::Closed, Repairs::None, &mut quiet()).unwrap();
            assert_eq!(checked.len(), typed.len(), "{format}");
            assert!(checked.iter().all(|report| report.findings.is_empty()), "{format}");
        }
        // Another image below than the one that is recorded.
        let other = raw(dir, "other.img", &content(5, SECTORS));
        // Some formats know their parent by its size and the second in which it was changed.
        let later = fs::metadata(&base).unwrap().modified().unwrap() + Duration::from_mins(1);
        File::options().write(true).open(&other).unwrap().set_modified(later).unwrap();
        let wrong = chain(&[&previous, &other]);
        let checked = check_chain(&wrong, &Gate::Closed, Repairs::None, &mut quiet()).unwrap();
        let (first, second) = (&checked[0].findings, &checked[1].findings);
        assert!(first.len() == 1 && second.is_empty(), "{format}: {first:?}");
        let told = info_of_chain(&wrong, &Gate::Closed).unwrap();
        assert!(matches!(told.parents[0].state, ParentState::Different(_)), "{format}: {told}");
    }
    let parse = |names: &[&Path]| {
        let names: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
        ChainName::parse(OsStr::new(&names.join(","))).map(drop).map_err(|e| e.to_string())
    };
    for (last, why) in [("base.img", "a base as well"), ("none", "does not exist")] {
        let error = parse(&[&base, &dir.join(last)]).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    // Whoever opens the first one says what is wrong with it.
    fs::write(dir.join("cut.cow"), b"OOOM").unwrap();
    parse(&[&dir.join("cut.cow"), &base]).unwrap();
}

#[test]
fn compare_finds_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes = content(5, SECTORS);
    let a = ChainName::from(raw(dir, "a.img", &bytes));
    for at in [0, 511, 512, 2048 * 512 - 1, 2048 * 512, SECTORS * 512 - 1] {
        let mut other = bytes.clone();
        other[at] ^= 0x10;
        let b = ChainName::from(raw(dir, "b.img", &other));
        let request = CompareRequest { first: a.clone(), second: b, ..Default::default() };
        let found = compare(&request, &mut quiet()).unwrap();
        assert_eq!(found.first_difference, Some(at as u64 / 512));
        assert!(!found.is_equal);
    }
    let longer = |byte| {
        let b = raw(dir, "b.img", &[&bytes[..], &[0; 4096], &[byte; 512]].concat());
        let request =
            CompareRequest { first: a.clone(), second: b.into(), ..CompareRequest::default() };
        let strict = CompareRequest { strict: true, ..request.clone() };
        (compare(&request, &mut quiet()).unwrap(), compare(&strict, &mut quiet()).unwrap())
    };
    let (loose, strict) = longer(0);
    assert!(loose.is_equal && !strict.is_equal, "{loose} {strict}");
    assert!(strict.to_string().contains("size"), "{strict}");
    let (loose, strict) = longer(7);
    assert_eq!(loose.first_difference, Some(SECTORS as u64 + 8));
    assert_eq!((strict.is_equal, strict.first_difference), (false, None));
    let zeros = ChainName::parse("blank:4096".as_ref()).unwrap();
    let b = ChainName::from(raw(dir, "b.img", &[0; 4096]));
    assert!(is_equal(&b, &zeros) && is_equal(&zeros, &b));
}

#[test]
fn writable_overlays_in_use_and_pending_merges_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = raw(dir, "base.img", &content(6, SECTORS));
    let top = dir.join("top.cow");
    let open = Chain::open(&[layer(&base)], &top).unwrap();
    let request = ConvertRequest {
        source: chain(&[&top, &base]),
        target: dir.join("new.img"),
        ..ConvertRequest::default()
    };
    let error = convert(&request, &mut quiet()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    open.close();
    convert(&request, &mut quiet()).unwrap();
    assert!(!binding_path(&request.target).exists());
}

#[test]
fn rebase_keeps_the_disk_over_every_other_parent() {
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let bytes = content(21, SECTORS);
        let base = raw(dir, "base.img", &bytes);
        let other = raw(dir, "other.img", &content(22, SECTORS));
        // Some formats know nothing of a parent but its size and the second of its last change.
        let file = File::options().write(true).open(&other).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let mut wanted = bytes.clone();
        for piece in wanted.chunks_mut(512 * 400) {
            piece[..512 * 3].copy_from_slice(&content(23, 3));
        }
        let golden = raw(dir, "golden.img", &wanted);
        let top = image_name(dir, "top", format);
        let make = ConvertRequest {
            source: golden.clone().into(),
            target: top.clone(),
            format,
            backing: Some(base.clone().into()),
            ..ConvertRequest::default()
        };
        convert(&make, &mut quiet()).unwrap();
        let onto = |below: &[&Path], parent: &str| {
            let names: Vec<_> = core::iter::once(&*top).chain(below.iter().copied()).collect();
            let parent = ChainName::parse(parent.as_ref()).unwrap();
            rebase(
                &RebaseRequest { chain: chain(&names), parent, gate: Gate::Closed },
                &mut quiet(),
            )
        };
        let done = onto(&[&base], other.to_str().unwrap()).unwrap();
        assert!(done.copied_bytes > 0, "{done}");
        assert!(is_equal(&golden.clone().into(), &chain(&[&top, &other])), "{format}");
        assert!(onto(&[&base], golden.to_str().unwrap()).is_err(), "it lies on another one now");
        assert!(fs::read(&base).unwrap() == bytes);
        let blank = format!("blank:{}", SECTORS * 512);
        match onto(&[&other], &blank) {
            Ok(_) => assert!(is_equal(&golden.clone().into(), &top.clone().into()), "{format}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{format} {error}"),
        }
        let report = check(&top, &Gate::Closed, &mut quiet()).unwrap();
        // The place of the former name may be lost space.
        assert_eq!(report.damage_total, 0, "{report}");
    }
}

#[test]
fn a_disk_with_an_odd_sector_is_kept_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut bytes = content(26, SECTORS + 1);
    let golden = ChainName::from(raw(dir, "golden.img", &bytes));
    bytes.last_mut().into_iter().for_each(|byte| *byte ^= 1);
    let base = raw(dir, "base.img", &bytes);
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let target = image_name(dir, "top", format);
        let request = ConvertRequest {
            source: golden.clone(),
            target: target.clone(),
            format,
            backing: Some(base.clone().into()),
            ..ConvertRequest::default()
        };
        match convert(&request, &mut quiet()) {
            Ok(_) => assert!(is_equal(&golden, &chain(&[&target, &base])), "{format}"),
            Err(error) => {
                assert_eq!((error.kind(), &*format.to_string()), (ErrorKind::Usage, "cowloop"));
                let create_top = CreateRequest {
                    path: target.clone(),
                    backing: Some(base.clone()),
                    format,
                    ..CreateRequest::default()
                };
                let error = create(&create_top, &mut quiet()).unwrap_err().report();
                let whole = SECTORS as u64 * 512;
                assert!(error.contains(&format!("--size {whole}")), "{error}");
                let accepted = CreateRequest { size_bytes: Some(whole), ..create_top };
                assert_eq!(create(&accepted, &mut quiet()).unwrap().disk_bytes, whole);
                let seen = bytes_of(dir, &chain(&[&target, &base]));
                assert!(seen == bytes[..SECTORS * 512], "{format}");
            }
        }
    }
}

#[test]
fn cowfiles_are_packed_and_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let golden = raw(dir, "golden.img", &content(27, SECTORS));
    let mut bytes = content(27, SECTORS);
    for piece in bytes.chunks_mut(512 * 300).take(10) {
        piece[512..512 * 7].fill(0x11);
    }
    let base = raw(dir, "base.img", &bytes);
    let cowloop = Format::named("cowloop").unwrap();
    let to = |name: &str, from: &[&Path], packed: &str| {
        let request = ConvertRequest {
            source: chain(from),
            target: dir.join(name),
            format: cowloop,
            options: FormatOptions::default().with("packed", packed),
            backing: Some(base.clone().into()),
            ..ConvertRequest::default()
        };
        convert(&request, &mut quiet())
    };
    let [plain, packed, again] = ["plain", "packed", "again"].map(|name| dir.join(name));
    to("plain", &[&golden], "no").unwrap();
    let done = to("packed", &[&plain, &base], "yes").unwrap();
    let facts = info(&packed, &Gate::Closed).unwrap().facts;
    assert_eq!(facts["cowloop"]["is_packed"], true);
    let held = facts["cowloop"]["data_bytes"].as_u64().unwrap();
    assert_eq!(done.file.apparent_bytes, 4096 + held);
    assert_eq!(fs::read(&packed).unwrap()[6], 2);
    assert_eq!(check(&packed, &Gate::Closed, &mut quiet()).unwrap().findings_total, 0);
    assert!(is_equal(&golden.clone().into(), &chain(&[&packed, &base])));
    to("again", &[&packed, &base], "no").unwrap();
    let same = |path: &Path| fs::read(path).unwrap();
    assert!(same(&again) == same(&plain), "byte for byte");
    assert_eq!(to("x", &[&plain, &base], "perhaps").unwrap_err().kind(), ErrorKind::Usage);
    assert!(!dir.join("x").exists());
}

#[test]
fn rebase_between_layers_of_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = raw(dir, "base.img", &content(24, SECTORS));
    let (middle, top) = (dir.join("middle.cow"), dir.join("top.cow"));
    let mut overlay = Chain::open(&[layer(&base)], &middle).unwrap();
    overlay.write(10, 0, 5);
    overlay.write(2000, 0x11, 500);
    overlay.close();
    freeze(&middle).unwrap();
    let mut overlay = Chain::open(&[layer(&middle), layer(&base)], &top).unwrap();
    overlay.write(2100, 0x22, 100);
    overlay.close();
    let before = bytes_of(dir, &chain(&[&top, &middle, &base]));
    let request = RebaseRequest {
        chain: chain(&[&top, &middle, &base]),
        parent: chain(&[&base]),
        gate: Gate::Closed,
    };
    let done = rebase(&request, &mut quiet()).unwrap();
    assert!(done.copied_bytes <= 405 * 512, "{done}");
    assert!(bytes_of(dir, &chain(&[&top, &base])) == before);
    let itself = RebaseRequest { chain: chain(&[&top, &base]), parent: chain(&[&top]), ..request };
    assert!(rebase(&itself, &mut quiet()).is_err());
}

#[test]
fn a_snapshot_keeps_what_was_and_rollback_returns_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = raw(dir, "base.img", &content(25, SECTORS));
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let (top, new) = (image_name(dir, "top", format), dir.join(format!("new-{format}.cow")));
        let request = CreateRequest {
            path: top.clone(),
            backing: Some(base.clone()),
            format,
            ..CreateRequest::default()
        };
        create(&request, &mut quiet()).unwrap();
        let mut overlay = Chain::open(&[layer(&base)], &top).unwrap();
        overlay.write(7, 0x33, 9);
        overlay.close();
        let before = bytes_of(dir, &chain(&[&top, &base]));
        let request = SnapshotRequest {
            path: top.clone(),
            new: new.clone(),
            format: Format::NATIVE,
            options: FormatOptions::default(),
        };
        let taken = snapshot(&SnapshotRequest { new: base.clone(), ..request.clone() });
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let done = snapshot(&request).unwrap_or_else(|e| panic!("{}", e.report()));
        assert_eq!(done.is_frozen, format == Format::NATIVE);
        let mut overlay = Chain::open(&[layer(&top), layer(&base)], &new).unwrap();
        overlay.write(8, 0x44, 2000);
        overlay.close();
        let whole = chain(&[&new, &top, &base]);
        assert!(bytes_of(dir, &whole) != before);
        rollback(&new).unwrap();
        assert!(bytes_of(dir, &whole) == before, "{format}");
        fs::remove_file(&new).unwrap();
        // As after a cut between the two steps: the first was done already.
        snapshot(&request).unwrap();
        assert!(bytes_of(dir, &whole) == before, "{format}");
    }
}

#[test]
fn a_line_of_a_table_names_a_store_that_was_made_over_all_of_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let wanted = raw(dir, "wanted.img", &content(28, SECTORS));
    let dm = Format::named("dm-snapshot").unwrap();
    let store = made(dir, "store", dm, &ChainName::from(wanted.clone()));
    let (top, below) = (store.top().unwrap().display(), dir.join("half.img"));
    let line = format!("0 {SECTORS} snapshot {} {top} P 8", below.display());
    let line = ChainName::parse(line.as_ref()).unwrap();
    assert!(is_equal(&wanted.into(), &line));
    let part = format!("0 {} snapshot {} {top} P 8", SECTORS - 1, below.display());
    let request = ConvertRequest {
        source: ChainName::parse(part.as_ref()).unwrap(),
        target: dir.join("part.img"),
        ..ConvertRequest::default()
    };
    assert_eq!(convert(&request, &mut quiet()).unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn a_plain_image_that_looks_like_a_layer_is_found_again_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // A guest wrote the head of a store into the first sector of its disk.
    let mut bytes = content(26, SECTORS);
    bytes[..512].fill(0);
    bytes[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
    let base = raw(dir, "base.img", &bytes);
    let forced = PathBuf::from(format!("raw:{}", base.display()));
    for format in Format::creatable().filter(|format| !format.ops().is_plain()) {
        let top = image_name(dir, "top", format);
        let request = CreateRequest {
            path: top.clone(),
            backing: Some(forced.clone()),
            format,
            ..CreateRequest::default()
        };
        create(&request, &mut quiet()).unwrap();
        if format.ops().has_metadata_file() {
            continue; // their names are never followed
        }
        let parents = info(&top, &Gate::Open).unwrap().parents;
        assert_eq!(parents[0].format, Some(Format::RAW), "{format}");
        assert_eq!(parents[0].path.as_deref(), Some(&*fs::canonicalize(&base).unwrap()));
        let request = ConvertRequest {
            source: top.into(),
            gate: Gate::Within(Vec::new()),
            target: dir.join("flat.img"),
            replace: true,
            ..ConvertRequest::default()
        };
        convert(&request, &mut quiet()).unwrap_or_else(|e| panic!("{}", e.report()));
        assert!(fs::read(&request.target).unwrap() == bytes, "{format}");
    }
}
