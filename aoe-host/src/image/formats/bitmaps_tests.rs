//! The identity-mapped formats in every tool.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::config::Layer;
use crate::error::{ErrorKind, Exit};
use crate::image::tests::{Chain, golden, layer};
use crate::image::{Format, FormatOptions};
use crate::tools::{
    CreateRequest, Gate, MapKind, MapRequest, ParentState, Proof, RebindRequest, check, create,
    info, map, rebind, repair, rollback,
};

const SECTORS: usize = 40_000;

fn quiet() -> impl FnMut(u64, u64) {
    |_done, _total| {}
}

fn made(word: &str, path: &Path, backing: &Path, options: &[(&str, &str)]) {
    let request = CreateRequest {
        path: path.to_owned(),
        backing: Some(backing.to_owned()),
        format: Format::named(word).unwrap(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..CreateRequest::default()
    };
    create(&request, &mut quiet()).unwrap_or_else(|e| panic!("{word}: {}", e.report()));
}

type Options = Vec<(&'static str, &'static str)>;

/// Each format, with the name that finds it again.
fn all(dir: &TempDir) -> Vec<(&'static str, Options, PathBuf)> {
    let at = |name: &str| dir.path().join(name);
    let two = format!("dm-cow:{}+{}", at("write").display(), at("bits").display());
    vec![
        ("uml", vec![], at("v3.cow")),
        ("uml", vec![("version", "1")], at("v1.cow")),
        ("uml", vec![("version", "2")], at("v2.cow")),
        ("uml", vec![("align", "64K")], at("aligned.cow")),
        ("cowloop", vec![], at("wide.cow")),
        ("cowloop", vec![("width", "32"), ("order", "big")], at("narrow.cow")),
        ("dm-cow", vec![], two.into()),
        ("uml", vec![], at("over-two.cow")),
    ]
}

fn runs(path: &Path) -> Vec<(u64, u64, Option<usize>)> {
    let mut runs = Vec::new();
    let request =
        MapRequest { chain: path.to_owned().into(), gate: Gate::Closed, ..MapRequest::default() };
    map(&request, &mut |run| {
        assert_eq!(run.kind == MapKind::Data, run.layer.is_some());
        runs.push((run.start, run.sectors, run.layer));
        Ok(())
    })
    .unwrap();
    runs
}

#[test]
fn images_are_made_written_looked_at_checked_and_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    for (word, options, path) in all(&dir) {
        made(word, &path, &base, &options);
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        assert_eq!(chain.overlay.format().word(), word);
        chain.write(10, 0xaa, 6);
        chain.write(39_999, 0xbb, 1);
        assert_eq!([chain.read(9), chain.read(10), chain.read(16)], [9, 0xaa, 16]);
        chain.close();
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        assert!(chain.overlay.was_clean());
        assert_eq!([chain.read(15), chain.read(39_999)], [0xaa, 0xbb]);
        assert_eq!(chain.read(39_998), u8::try_from(39_998 % 251).unwrap());
        chain.close();
        // A unit of cowloop is two sectors.
        let tail = if word == "cowloop" { (39_998, 2) } else { (39_999, 1) };
        let expected =
            [(0, 10, None), (10, 6, Some(0)), (16, tail.0 - 16, None), (tail.0, tail.1, Some(0))];
        let seen = runs(&path);
        let merged = seen.iter().fold(Vec::<(u64, u64, Option<usize>)>::new(), |mut all, run| {
            match all.last_mut() {
                Some(last) if last.2 == run.2 => last.1 += run.1,
                _ => all.push(*run),
            }
            all
        });
        assert_eq!(merged, expected, "{word}");
        let report = check(&path, &Gate::Open, &mut quiet()).unwrap();
        assert_eq!((report.exit(), report.findings_total), (Exit::Success, 0), "{report}");
        assert_eq!(report.data_bytes, (6 + tail.1) * 512);
        let about = info(&path, &Gate::Open).unwrap();
        assert_eq!((about.format.word(), about.disk_bytes), (word, Some(40_000 * 512)), "{about}");
        assert_eq!(about.problems, [""; 0]);
        assert_eq!(about.parents[0].state, ParentState::AsRecorded, "{about}");
        let emptied = rollback(&path).unwrap();
        assert_eq!(emptied.discarded_bytes, Some((6 + tail.1) * 512));
        assert_eq!(runs(&path).iter().filter(|run| run.2.is_some()).count(), 0);
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        assert_eq!(chain.read(10), 10);
    }
}

#[test]
fn chains_of_all_of_them_over_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let mut layers: Vec<Layer> = vec![layer(&base)];
    let mut below = base;
    for (number, (word, options, path)) in (0_u8..).zip(all(&dir)) {
        made(word, &path, &below, &options);
        let about = info(&path, &Gate::Open).unwrap();
        assert_eq!(about.parents.len(), layers.len(), "every name is found: {about}");
        let mut chain = Chain::open(&layers, &path).unwrap();
        chain.write(u64::from(number) * 10, 0xf0 | number, 2);
        chain.close();
        layers.insert(0, layer(&path));
        below = path;
    }
    let top = dir.path().join("native.cow");
    let mut chain = Chain::open(&layers, &top).unwrap();
    for number in 0..8_u8 {
        let at = u64::from(number) * 10;
        let next = u8::try_from(at + 2).unwrap();
        assert_eq!([chain.read(at), chain.read(at + 1)], [0xf0 | number; 2]);
        assert_eq!(chain.read(at + 2), next);
    }
    chain.close();
}

#[test]
fn other_parents_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let other = dir.path().join("other.img");
    fs::write(&other, vec![7; SECTORS * 512]).unwrap();
    let long = dir.path().join("long.img");
    fs::write(&long, vec![7; SECTORS * 512 + 2048]).unwrap();
    for (word, options, path) in all(&dir) {
        made(word, &path, &base, &options);
        let refused = |parent: &Path| match Chain::open(&[layer(parent)], &path) {
            Ok(_) => panic!("{word}: it was opened"),
            Err(error) => error,
        };
        assert_eq!(refused(&long).kind(), ErrorKind::Mismatch, "{word}");
        let moment = fs::metadata(&base).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&other).unwrap();
        file.set_modified(moment + core::time::Duration::from_secs(5)).unwrap();
        let error = refused(&other);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{word}: {error}");
        // A UML file knows nothing but size and time.
        file.set_modified(moment).unwrap();
        let opened = Chain::open(&[layer(&other)], &path).is_ok();
        assert_eq!(opened, word == "uml", "{word}");
        drop(fs::remove_file(&path));
    }
}

#[test]
fn a_touched_parent_is_accepted_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    for (word, options, path) in all(&dir) {
        made(word, &path, &base, &options);
        let file = fs::File::options().write(true).open(&base).unwrap();
        let moment = fs::metadata(&base).unwrap().modified().unwrap();
        file.set_modified(moment + core::time::Duration::from_secs(100)).unwrap();
        let error = Chain::open(&[layer(&base)], &path).err().unwrap();
        assert!(error.to_string().contains("touched"), "{word}: {error}");
        let request =
            RebindRequest { path: path.clone(), parent: base.clone(), proof: Proof::Trust };
        rebind(&request, &mut quiet()).unwrap_or_else(|e| panic!("{word}: {}", e.report()));
        Chain::open(&[layer(&base)], &path).unwrap().close();
        if word == "uml" {
            let about = info(&path, &Gate::Closed).unwrap();
            let version = about.facts["uml"]["version"].as_u64().unwrap();
            let asked = options.iter().find(|(key, _)| *key == "version").map(|(_, v)| *v);
            assert_eq!(version.to_string(), asked.unwrap_or("3"), "the header keeps its version");
        }
    }
}

/// `cow,base` of User-Mode-Linux: the file names its parent, and that is followed by permission.
#[test]
fn the_recorded_parent_of_a_uml_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1_048_676);
    let path = dir.path().join("a.cow");
    made("uml", &path, &base, &[]);
    let about = info(&path, &Gate::Open).unwrap();
    assert_eq!(about.parents[0].path.as_deref(), Some(fs::canonicalize(&base).unwrap().as_path()));
    assert_eq!(about.disk_bytes, Some(2049 * 512));
    assert_eq!(about.facts["uml"]["parent_bytes"], 1_048_676);
    let text = about.to_string();
    assert!(text.contains("version") && text.contains("golden.img"), "{text}");
}

#[test]
fn what_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 10_244 * 512);
    let count = fs::read_dir(dir.path()).unwrap().count();
    let refused = |word: &str, name: &str, options: &[(&str, &str)]| {
        let request = CreateRequest {
            path: name.replace('@', &dir.path().display().to_string()).into(),
            backing: Some(base.clone()),
            format: Format::named(word).unwrap(),
            options: options
                .iter()
                .fold(FormatOptions::default(), |all, (key, value)| all.with(*key, *value)),
            ..CreateRequest::default()
        };
        create(&request, &mut quiet()).unwrap_err().to_string()
    };
    for (error, expected) in [
        (refused("uml", "@/a", &[("version", "1")]), "no bit for the last 4 sectors"),
        (refused("uml", "@/a", &[("version", "4")]), "it is 1, 2 or 3"),
        (refused("uml", "@/a", &[("align", "3000")]), "power of two"),
        (refused("uml", "@/a", &[("chunk", "1")]), "its options are: version"),
        (refused("cowloop", "@/a", &[("width", "16")]), "32 or 64"),
        (refused("cowloop", "@/a", &[("order", "middle")]), "little or big"),
        (refused("dm-cow", "@/a", &[]), "two files"),
        (refused("dm-cow-posted-4096", "dm-cow-posted-4096:@/a+@/b", &[]), "only read"),
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), count);
}

#[test]
fn a_dirty_cowfile_is_repaired_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let path = dir.path().join("a.cow");
    made("cowloop", &path, &base, &[]);
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    chain.write(10, 0xaa, 2);
    // Ours, not closed.
    drop(chain);
    let report = check(&path, &Gate::Closed, &mut quiet()).unwrap();
    assert_eq!((report.exit(), report.findings_total), (Exit::Success, 1), "{report}");
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert!(!chain.overlay.was_clean());
    assert_eq!(chain.read(10), 0xaa);
    chain.close();
    // The driver's: dirty, one unit without its bit.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], 6).unwrap();
    file.write_all_at(&[0xdd; 1024], 4096 + 7 * 1024).unwrap();
    let error = Chain::open(&[layer(&base)], &path).err().unwrap();
    assert!(error.report().contains("--repair"), "{}", error.report());
    assert!(info(&path, &Gate::Closed).unwrap().problems[0].contains("not closed"));
    let report = check(&path, &Gate::Closed, &mut quiet()).unwrap();
    assert_eq!(report.exit(), Exit::Problems, "{report}");
    let report = repair(&path, &Gate::Closed, &mut quiet()).unwrap();
    assert_eq!((report.exit(), report.repaired.len()), (Exit::Success, 2), "{report}");
    assert!(report.repaired[0].contains("1 units"), "{report}");
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert_eq!([chain.read(13), chain.read(14), chain.read(16)], [13, 0xdd, 16]);
    chain.close();
    let report = repair(&path, &Gate::Closed, &mut quiet()).unwrap();
    assert_eq!(report.repaired, [""; 0]);
}

#[test]
fn packed_cowfiles_are_layers() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let path = dir.path().join("packed.cow");
    // By hand: units 3 and 19999 of 20000, one after the other behind head and bitmap.
    let mut bytes = vec![0; 4096 + 4096];
    bytes[..8].copy_from_slice(b"\x7fCOW\x01\0\x02\0");
    let words = [1024_u64, 3072, 4096, 20_000, 0, 2];
    for (word, at) in words.iter().zip((8..).step_by(8)) {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes[1024] = 8;
    bytes[1024 + 2499] = 0x80;
    bytes.truncate(4096);
    bytes.extend([0x33; 1024]);
    bytes.extend([0x99; 1024]);
    fs::write(&path, bytes).unwrap();
    let top = dir.path().join("top.cow");
    let mut chain = Chain::open(&[layer(&path), layer(&base)], &top).unwrap();
    assert_eq!([chain.read(5), chain.read(6), chain.read(7), chain.read(8)], [5, 0x33, 0x33, 8]);
    assert_eq!([chain.read(39_998), chain.read(39_999)], [0x99; 2]);
    assert!(chain_warnings(&chain).contains("weak sum"));
    drop(chain);
    let error = Chain::open(&[layer(&base)], &path).err().unwrap();
    assert!(error.report().contains("packed"), "{}", error.report());
    assert!(info(&path, &Gate::Closed).unwrap().to_string().contains("packed"));
    assert_eq!(check(&path, &Gate::Closed, &mut quiet()).unwrap().data_bytes, 2048);
    // Compressed as well.
    fs::write(&path, b"\x1f\x8b\x08\0".repeat(200)).unwrap();
    let name = PathBuf::from(format!("cowloop:{}", path.display()));
    let error = Chain::open(&[layer(&name), layer(&base)], &top).err().unwrap();
    assert!(error.report().contains("gunzip"), "{}", error.report());
}

fn chain_warnings(chain: &Chain) -> String {
    chain.warnings().join(" ")
}

#[test]
fn the_posted_layout_is_read_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let (write, bits) = (dir.path().join("write"), dir.path().join("bits"));
    let two = format!("{}+{}", write.display(), bits.display());
    made("dm-cow", Path::new(&format!("dm-cow:{two}")), &base, &[]);
    fs::write(&write, vec![0xdd; SECTORS * 512]).unwrap();
    fs::File::options().write(true).open(&bits).unwrap().write_all_at(&[2], 0).unwrap();
    let top = dir.path().join("top.cow");
    for (word, sectors) in [
        ("dm-cow", vec![1]),
        ("dm-cow-posted-512", vec![1, 513, 1025, 3585]),
        ("dm-cow-posted-4096", vec![1, 4097, 28_673]),
    ] {
        let name = PathBuf::from(format!("{word}:{two}"));
        let mut chain = Chain::open(&[layer(&name), layer(&base)], &top).unwrap();
        for lba in sectors {
            assert_eq!(chain.read(lba), 0xdd, "{word}, {lba}");
            assert_ne!(chain.read(lba + 1), 0xdd);
        }
        drop(chain);
        fs::remove_file(&top).unwrap();
        let opened = Chain::open(&[layer(&base)], &name);
        assert_eq!(opened.is_ok(), word == "dm-cow", "{word} is written");
    }
}

/// Every tool says what is wrong with a damaged image, and none changes it.
#[test]
fn damage_is_told_by_every_tool() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    let at = |name: &str| dir.path().join(name);
    made("uml", &at("uml"), &base, &[]);
    made("cowloop", &at("cowloop"), &base, &[]);
    made("dm-cow", Path::new(&format!("dm-cow:{0}+{0}.bits", at("dm").display())), &base, &[]);
    let (uml, cowloop) = (at("uml"), at("cowloop"));
    let two = PathBuf::from(format!("dm-cow:{0}+{0}.bits", at("dm").display()));
    let bits = at("dm.bits");
    for (name, file, offset, bytes, word) in [
        (&uml, &uml, 4, &[0, 0, 0, 9][..], "version"),
        (&uml, &uml, 20, &[0, 0, 4, 0], "1024"),
        (&uml, &uml, 24, &[0, 0, 0, 0], "alignment"),
        (&uml, &uml, 12, &[1], "for its bitmap alone"),
        (&cowloop, &cowloop, 4, &[7], "version"),
        (&cowloop, &cowloop, 8, &[1], "1025"),
        (&cowloop, &cowloop, 32, &[0, 0, 0, 0], "units"),
        (&cowloop, &cowloop, 48, &[3], "3"),
        (&two, &bits, 192 * 512, &[0, 0, 0, 0, 0, 0, 0, 0], "bitmap"),
        (&two, &bits, 192 * 512 + 8, &[9], "9"),
    ] {
        let before = fs::read(file).unwrap();
        let medium = fs::File::options().write(true).open(file).unwrap();
        medium.write_all_at(bytes, offset).unwrap();
        let damaged = fs::read(file).unwrap();
        let about = info(name, &Gate::Open).unwrap();
        let problems = about.problems.join(" ");
        assert!(problems.contains(word), "{}: {about}", name.display());
        let report = check(name, &Gate::Closed, &mut quiet()).unwrap();
        assert!(report.damage_total > 0, "{report}");
        let error = Chain::open(&[layer(&base)], name).err().unwrap();
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert!(fs::read(file).unwrap() == damaged, "{word}");
        medium
            .write_all_at(&before[usize::try_from(offset).unwrap()..][..bytes.len()], offset)
            .unwrap();
    }
    for name in [uml, cowloop, two] {
        Chain::open(&[layer(&base)], &name).unwrap().close();
    }
}

/// A merge that was cut while it emptied its overlay finds it again.
#[test]
fn an_image_that_is_being_emptied_is_one_still() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    for (word, mark) in [("uml", 4), ("cowloop", 5)] {
        let path = dir.path().join(word);
        made(word, &path, &base, &[]);
        drop(fs::remove_file(crate::image::binding_path(&path)));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0x80], mark).unwrap();
        let about = info(&path, &Gate::Open).unwrap();
        assert_eq!((about.format.word(), about.problems.len()), (word, 1), "{about}");
        assert!(check(&path, &Gate::Open, &mut quiet()).unwrap().damage_total > 0);
        let error = Chain::open(&[layer(&base)], &path).err().unwrap();
        assert!(error.report().contains("cowblade rollback"), "{}", error.report());
        rollback(&path).unwrap();
        Chain::open(&[layer(&base)], &path).unwrap().close();
    }
}

/// A copy of one half of an image is caught, and so is what was cut off.
#[test]
fn images_that_end_early_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, SECTORS * 512);
    for (word, options, path) in all(&dir) {
        made(word, &path, &base, &options);
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        chain.write(39_998, 0xaa, 2);
        chain.close();
        let main = crate::image::ImageName::parse(&path).path;
        let file = fs::File::options().write(true).open(&main).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1024).unwrap();
        let error = Chain::open(&[layer(&base)], &path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{word}: {error}");
        let told = if word == "dm-cow" { "needs 20480000" } else { "from 39998 on" };
        assert!(error.to_string().contains(told), "{word}: {error}");
        let report = check(&path, &Gate::Closed, &mut quiet()).unwrap();
        assert!(report.damage_total > 0, "{report}");
        drop(fs::remove_file(&main));
    }
}
