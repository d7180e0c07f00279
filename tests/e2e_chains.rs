//! Chains of any format over any other: served to a Linux client and written, judged byte for byte, then
//! checked, merged and converted; as deep as they may be, and refused where they are deeper or come back
//! to themselves.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::operator::{self, Said};
use system_tests::pattern::Plan;
use system_tests::require::{self, UML_INITIATOR};
use system_tests::stack::{Stack, written_by_linux};
use system_tests::workspace::WorkDir;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
/// 8 MiB and 6 KiB: a multiple of no cluster.
const SECTORS: u64 = 16_384 + 12;
const SEED: u64 = 91;
/// Formats of chains over a plain image, from the lowest up. The last is empty and written.
const CHAINS: [(&str, &[&str]); 7] = [
    ("a", &["uml", "qcow1", "native"]),
    ("b", &["cowloop", "dm-snapshot", "uml"]),
    ("c", &["qcow2", "native", "dm-cow"]),
    ("d", &["uml", "dm-cow", "cowloop"]),
    ("e", &["native", "cowloop", "qcow2"]),
    ("f", &["dm-cow", "uml", "dm-snapshot"]),
    (
        "deep",
        &[
            "cowloop",
            "native",
            "uml",
            "dm-snapshot",
            "dm-cow",
            "qcow2",
            "native",
            "cowloop",
            "qcow1",
            "uml",
            "dm-cow",
            "dm-snapshot",
            "native",
            "qcow1",
            "uml",
            "native",
        ],
    ),
];
/// Deepest chain below an overlay.
const DEEPEST: usize = 64;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn tool(words: &[&str]) -> Said {
    operator::local(words).assert_done()
}

/// Fails unless the program refuses, and gives its words.
#[track_caller]
fn refused(words: &[&str]) -> String {
    let said = operator::local(words);
    assert!(said.code > 0, "{words:?}: {said:?}");
    said.err + &said.out
}

/// A chain with data, and zeros over what is below, in every layer but the topmost.
fn chain(dir: &Path, name: &str, base: &Path, formats: &[&str]) -> Stack {
    let mut stack = Stack::over(dir, name, base);
    let (top, lower) = formats.split_last().unwrap();
    for (format, seed) in lower.iter().zip(1..) {
        // Several clusters of any format, beginning and ending within one.
        stack.erase(seed * 1000 + 7, 300);
        let plan = Plan { seed, first: 0, sectors: SECTORS, writes: 25, longest: 40 };
        stack.push(format, &[], &plan);
    }
    stack.create(top, &[]);
    stack
}

#[test]
fn a_linux_client_writes_to_chains_of_every_format() {
    let test = "a_linux_client_writes_to_chains_of_every_format";
    if !require::met(test, &[UML_INITIATOR]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (golden, disks) = lab.attempt(|dir| {
        let golden = dir.join("golden.img");
        judge::make_golden(&golden, SECTORS, SEED);
        let with_name = |(name, formats): (&str, &[&str])| {
            let stack = chain(dir, name, &golden, formats);
            let words = stack.chain();
            (stack, words)
        };
        let mut disks = CHAINS.map(with_name);
        written_by_linux(&lab, dir, &mut disks, &[])?;
        Ok((golden, disks))
    });
    for (stack, _) in &disks {
        stack.judge("cowblade convert", &stack.read());
        stack.check();
        becomes_one(lab.dir(), stack);
        is_merged(lab.dir(), stack);
    }
    assert_eq!(judge::unchanged(&judge::golden_bytes(SECTORS, SEED), &golden), Ok(()));
}

/// The chain as one image of the format of its top, over its base; and as a difference to the layer
/// in its middle.
fn becomes_one(dir: &Path, stack: &Stack) {
    let layers = stack.layers();
    let format =
        |name: &str| Path::new(name.split('+').next().unwrap()).extension().unwrap().to_owned();
    let format = format(&layers[0]);
    let format = format.to_str().unwrap();
    for (number, below) in [layers.len() - 1, layers.len() / 2].into_iter().enumerate() {
        let below = layers[below..].join(",");
        let path = dir.join(format!("one{number}"));
        let target = match format {
            "dm-cow" => format!("dm-cow:{0}+{0}.bits", path.display()),
            _ => path.display().to_string(),
        };
        tool(&["convert", &stack.chain(), &target, "-O", format, "-B", &below, "--force"]);
        tool(&["check", &target]);
        tool(&["compare", "--strict", &stack.chain(), &format!("{target},{below}")]);
    }
}

/// The top is merged into the layer below it, into a copy of the chain's directory, as long as there are
/// two; each time the disk stays the same.
fn is_merged(dir: &Path, stack: &Stack) {
    let merged = dir.join("merged.img");
    tool(&["merge", &stack.chain(), "-o", text(&merged), "--force"]);
    stack.judge("merged into a new image", &fs::read(&merged).unwrap());
    let mut layers = stack.layers();
    // All but the last: the base is that of others, too.
    while let [top, rest @ ..] = layers
        && rest.len() > 1
    {
        tool(&["merge", &layers.join(","), "--in-place", "--keep-overlay", "delete", "--yes"]);
        assert!(!Path::new(top).exists());
        tool(&["check", &rest[0]]);
        layers = rest;
    }
    let out = dir.join("out.img");
    tool(&["convert", &layers.join(","), text(&out), "--force"]);
    stack.judge("merged in place", &fs::read(out).unwrap());
}

/// UML's files name their parents.
fn named_chain(dir: &Path, length: usize) -> Vec<PathBuf> {
    let base = dir.join("base.img");
    judge::make_golden(&base, 64, SEED);
    let mut all = vec![base];
    for number in 1..=length {
        let path = dir.join(format!("{number}.uml"));
        let below = all.last().unwrap();
        tool(&["create", text(&path), "--backing", text(below), "--format", "uml"]);
        all.push(path);
    }
    all
}

#[test]
fn chains_are_as_deep_as_they_may_be_and_no_deeper() {
    let dir = WorkDir::new("chains_are_as_deep_as_they_may_be_and_no_deeper");
    let all = named_chain(dir.path(), DEEPEST + 1);
    let out = dir.join("out.img");
    // An overlay over 64 layers, by their names and by those that they record.
    let (deepest, deeper) = (text(&all[DEEPEST]), text(&all[DEEPEST + 1]));
    tool(&["convert", deepest, text(&out), "--parents", "--force"]);
    assert_eq!(judge::unchanged(&judge::golden_bytes(64, SEED), &out), Ok(()));
    let names = |from: usize| {
        let names: Vec<_> = all[..=from].iter().rev().map(|path| text(path)).collect();
        names.join(",")
    };
    tool(&["convert", &names(DEEPEST), text(&out), "--force"]);
    assert!(
        refused(&["convert", &names(DEEPEST + 1), text(&out), "--force"]).contains("65 layers")
    );
    let said = refused(&["convert", deeper, text(&out), "--parents", "--force"]);
    assert!(said.contains("more than 64 layers"), "{said}");
    assert!(tool(&["info", deeper, "--parents"]).out.contains("more than 64 layers"));
    assert_eq!(judge::unchanged(&judge::golden_bytes(64, SEED), &out), Ok(()));
}

#[test]
fn chains_that_come_back_to_themselves_are_refused() {
    let dir = WorkDir::new("chains_that_come_back_to_themselves_are_refused");
    let all = named_chain(dir.path(), 3);
    let [_, lowest, middle, top] = &all[..] else { panic!("four files") };
    let moment = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let recorded = moment(&all[0]);
    // The lowest names `parent`, which has the time that it knows; who lies on it knows its own.
    let name = |parent: &Path| {
        let known = moment(lowest);
        let file = File::options().write(true).open(lowest).unwrap();
        let mut field = [0; 4096];
        let bytes = parent.as_os_str().as_bytes();
        field[..bytes.len()].copy_from_slice(bytes);
        file.write_all_at(&field, 32).unwrap();
        file.set_modified(known).unwrap();
    };
    let out = dir.join("out.img");
    for parent in [lowest, top] {
        name(parent);
        let known_by_child = moment(parent);
        if parent == top {
            File::options().write(true).open(top).unwrap().set_modified(recorded).unwrap();
        }
        for start in [lowest, middle, top] {
            let said = refused(&["convert", text(start), text(&out), "--parents"]);
            assert!(said.contains("comes back to a file above"), "{}: {said}", start.display());
            let said = refused(&["check", text(start), "--parents"]);
            assert!(said.contains("comes back"), "{said}");
        }
        File::options().write(true).open(parent).unwrap().set_modified(known_by_child).unwrap();
    }
    assert!(!out.exists());
    // And a chain that names a file twice, or lies on itself.
    name(&all[0]);
    let whole = [text(top), text(middle), text(lowest), text(&all[0])].join(",");
    tool(&["convert", &whole, text(&out)]);
    for wrong in [format!("{},{whole}", text(middle)), format!("{},{whole}", text(top))] {
        let said = refused(&["convert", &wrong, text(&out), "--force"]);
        assert!(said.contains("also one of the layers below itself"), "{said}");
    }
    let said = refused(&["rebase", &whole, "--parent", &whole]);
    assert!(said.contains("cannot lie on itself"), "{said}");
    assert_eq!(judge::unchanged(&judge::golden_bytes(64, SEED), &out), Ok(()));
}
