//! `cowblade merge`, `convert` and `rebase` as processes: killed before system calls of every kind that
//! changes something, on full file systems, and held against `qemu-img commit`.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use system_tests::qemu::{self, TOOLS, text};
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::workspace::{self, WorkDir};

const UML_MOO: &[Need] = &[Need::Program("uml_moo")];
const STRACE: &[Need] = &[Need::Program("strace")];
const MOUNTS: &[Need] = &[Need::Root, Need::Program("unshare"), Need::Program("mount")];
/// Every system call with which images, journals and marks are changed.
const CHANGES: [&str; 10] = [
    "pwrite64",
    "write",
    "fdatasync",
    "fsync",
    "fallocate",
    "ftruncate",
    "rename",
    "renameat2",
    "linkat",
    "unlink",
];
/// Sectors of the disks: no multiple of anything but cowloop's two.
const SECTORS: usize = 2002;

fn cowblade(args: &[&str]) -> Output {
    Command::new(workspace::cowblade()).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    format!("{}: {}", output.status, String::from_utf8_lossy(&text))
}

#[track_caller]
fn tool(args: &[&str]) -> String {
    let output = cowblade(args);
    assert!(output.status.success(), "cowblade {args:?}: {}", said(&output));
    said(&output)
}

/// Data, zeros, and stretches that are like the base.
fn disk(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; SECTORS * 512];
    for run in bytes.chunks_mut(512 * 37) {
        match rng.below(4) {
            0 => {}
            1 => run.fill(0xee),
            _ => rng.fill(run),
        }
    }
    bytes
}

/// An overlay that is to be merged.
struct Case {
    name: &'static str,
    /// Formats from the top to the layer above the base.
    formats: &'static [&'static str],
}

const CASES: [Case; 7] = [
    Case { name: "native", formats: &["native"] },
    Case { name: "dm-snapshot", formats: &["dm-snapshot"] },
    Case { name: "qcow1", formats: &["qcow1"] },
    Case { name: "qcow2", formats: &["qcow2"] },
    Case { name: "native in native", formats: &["native", "native"] },
    Case { name: "uml", formats: &["uml"] },
    Case { name: "cowloop in uml", formats: &["cowloop", "uml"] },
];

/// The images of a case before anything happens, and what the disk shows.
struct Images {
    dir: WorkDir,
    formats: usize,
    wanted: Vec<u8>,
}

impl Images {
    fn new(test: &str, case: &Case) -> Self {
        let dir = WorkDir::in_memory(test);
        fs::create_dir(dir.join("before")).unwrap();
        fs::create_dir(dir.join("now")).unwrap();
        let images = Self { dir, formats: case.formats.len(), wanted: disk(2) };
        // Made where they are used: they record where their parents are.
        fs::write(images.path(images.formats), disk(1)).unwrap();
        fs::write(images.dir.join("wanted.img"), &images.wanted).unwrap();
        for (at, format) in case.formats.iter().enumerate().rev() {
            let (path, below) = (images.path(at), images.chain_from(at + 1));
            if at > 0 {
                tool(&["create", text(&path), text(&images.path(at + 1)), "--format", format]);
                if *format == "native" {
                    tool(&["freeze", text(&path)]);
                }
            } else {
                let wanted = images.dir.join("wanted.img");
                tool(&["convert", text(&wanted), text(&path), "-O", format, "-B", &below]);
            }
        }
        copy(&images.dir.join("now"), &images.dir.join("before"));
        images
    }

    /// 0 is the top.
    fn path(&self, at: usize) -> PathBuf {
        let name = if at == self.formats { "base.img".to_owned() } else { format!("{at}.cow") };
        self.dir.join("now").join(name)
    }

    fn chain_from(&self, at: usize) -> String {
        let names: Vec<_> =
            (at..=self.formats).map(|at| self.path(at).display().to_string()).collect();
        names.join(",")
    }

    fn restore(&self) {
        fs::remove_dir_all(self.dir.join("now")).unwrap();
        fs::create_dir(self.dir.join("now")).unwrap();
        copy(&self.dir.join("before"), &self.dir.join("now"));
    }

    /// A chain shows the disk that was to come out.
    fn shows_what_is_wanted(&self, chain: &str, what: &str) {
        let wanted = self.dir.join("wanted.img");
        let output = cowblade(&["compare", "--strict", chain, text(&wanted)]);
        assert!(output.status.success(), "after {what}: {}", said(&output));
    }

    /// Whoever takes the parent gets what it was, or what it is to be.
    fn nobody_takes_a_half(&self) {
        let (chain, out) = (self.chain_from(1), self.dir.join("half.img"));
        let output = cowblade(&["convert", &chain, text(&out), "--force"]);
        if output.status.success() {
            let bytes = fs::read(out).unwrap();
            assert!(bytes == disk(1) || bytes == self.wanted, "half of it was taken for a whole");
        } else {
            let words = said(&output);
            assert_eq!(output.status.code(), Some(5), "{words}");
            assert!(words.contains("--in-place"), "{words}");
        }
    }

    /// Merges once more, and looks at everything.
    fn is_finished_by(&self, merge: &[&str], what: &str) {
        let output = cowblade(merge);
        assert!(output.status.success(), "after {what}: {}", said(&output));
        self.shows_what_is_wanted(&self.chain_from(1), what);
        self.shows_what_is_wanted(&self.chain_from(0), what);
        for entry in fs::read_dir(self.dir.join("now")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("merg"), "after {what}: {name}");
        }
        for at in 0..self.formats {
            tool(&["check", text(&self.path(at))]);
        }
    }
}

/// Copies files with their times, by which parents are recognised.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy_file(&entry.path(), &to.join(entry.file_name()));
    }
}

fn copy_file(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let modified = from.metadata().unwrap().modified().unwrap();
    fs::File::options().append(true).open(to).unwrap().set_modified(modified).unwrap();
}

/// The first four calls of a kind, and ever fewer of the later ones, which are alike. (That a merge can
/// be cut at every single operation is shown by the unit tests.)
fn numbers() -> impl Iterator<Item = u32> {
    core::iter::successors(Some(1_u32), |number| Some(number + 1 + number / 4))
}

/// Which of the calls `cowblade args` makes. It runs to its end.
fn changes_of(args: &[&str]) -> Vec<&'static str> {
    let log = WorkDir::in_memory("changes_of");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", text(&log.join("log")), "-e", "signal=none", "-e"])
        .arg(format!("trace={}", CHANGES.join(",")))
        .arg(workspace::cowblade())
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let log = fs::read_to_string(log.join("log")).unwrap();
    CHANGES.into_iter().filter(|call| log.contains(&format!(" {call}("))).collect()
}

/// Runs `cowblade args`, which meets `fault` at the `number`th time that one thread of it calls `call`.
/// `None` if it came to its end before that.
fn faulty(call: &str, fault: &str, number: u32, args: &[&str]) -> Option<Output> {
    let inject = format!("inject={call}:{fault}:when={number}");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e"])
        .args([&format!("trace={call}"), "-e", &inject])
        .arg(workspace::cowblade())
        .args(args)
        .output()
        .unwrap();
    (!output.status.success()).then_some(output)
}

#[test]
fn a_merge_killed_before_any_system_call_is_finished_by_the_next() {
    let test = "a_merge_killed_before_any_system_call_is_finished_by_the_next";
    if !require::met(test, &[STRACE]) {
        return;
    }
    for case in &CASES {
        let images = Images::new(test, case);
        // To empty the overlay takes all the steps of the other, and more.
        let keep = if case.name == "native" { "leave" } else { "empty" };
        let chain = images.chain_from(0);
        let merge = ["merge", &chain, "--in-place", "--yes", "--keep-overlay", keep];
        let mut kills = 0;
        for call in changes_of(&merge) {
            for number in numbers() {
                images.restore();
                if faulty(call, "signal=KILL", number, &merge).is_none() {
                    break;
                }
                kills += 1;
                let what = format!("{}, {keep}: killed before {call} {number}", case.name);
                images.nobody_takes_a_half();
                images.is_finished_by(&merge, &what);
            }
        }
        assert!(kills > 15, "{}: {kills}", case.name);
        println!("{}, {keep}: killed at {kills} places", case.name);
    }
}

#[test]
fn a_merge_that_meets_a_full_or_broken_medium_says_so_and_goes_on_later() {
    let test = "a_merge_that_meets_a_full_or_broken_medium_says_so_and_goes_on_later";
    if !require::met(test, &[STRACE]) {
        return;
    }
    let images = Images::new(test, &CASES[0]);
    let chain = images.chain_from(0);
    let merge = ["merge", &chain, "--in-place", "--yes"];
    for (call, fault, word) in [
        ("pwrite64", "error=ENOSPC", "no room left"),
        ("pwrite64", "error=EIO", "input/output"),
        ("fdatasync", "error=EIO", "input/output"),
        ("fallocate", "error=EIO", "input/output"),
        ("renameat2", "error=EIO", "input/output"),
        ("rename", "error=ENOSPC", "no room left"),
    ] {
        for number in numbers() {
            images.restore();
            let Some(output) = faulty(call, fault, number, &merge) else { break };
            let words = said(&output);
            assert_eq!(output.status.code(), Some(1), "{call} {number}: {words}");
            assert!(words.contains(word), "{call} {number}: {words}");
            images.nobody_takes_a_half();
            images.is_finished_by(&merge, &format!("{call} {number}: {fault}"));
        }
    }
}

#[test]
fn a_merge_killed_at_any_time_is_finished_in_the_end() {
    let images = Images::new("a_merge_killed_at_any_time_is_finished_in_the_end", &CASES[0]);
    let chain = images.chain_from(0);
    let merge = ["merge", &chain, "--in-place", "--yes"];
    for round in 0..25_u64 {
        images.restore();
        // Killed again and again, a little later each time.
        for attempt in 1..4 {
            let mut child = Command::new(workspace::cowblade())
                .args(merge)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(300 * round * attempt));
            // It may have ended already.
            child.kill().unwrap();
            child.wait().unwrap();
            images.nobody_takes_a_half();
        }
        images.is_finished_by(&merge, &format!("round {round}"));
    }
}

#[test]
fn a_killed_convert_leaves_nothing_under_the_name_or_what_was_there() {
    let test = "a_killed_convert_leaves_nothing_under_the_name_or_what_was_there";
    if !require::met(test, &[STRACE]) {
        return;
    }
    for format in ["raw", "native", "dm-snapshot", "qcow1", "uml", "cowloop", "qcow2"] {
        let images = Images::new(test, &CASES[0]);
        let (chain, base) = (images.chain_from(0), images.path(1));
        let target = images.dir.join("target");
        let beside = images.dir.join("target.parent.json");
        let mut words = vec!["convert", &chain, text(&target), "-O", format];
        if format != "raw" {
            words.extend(["-B", text(&base)]);
        }
        let forced = [&words[..], &["--force"]].concat();
        let whole = |call: &str, number: u32| {
            let what = format!("{format}: {call} {number}");
            // What comes last is making the name durable, moving what is kept beside, and the report.
            assert!(matches!(call, "fsync" | "rename" | "write"), "{what}");
            let shown = match format {
                "raw" => target.display().to_string(),
                _ => format!("{},{}", target.display(), base.display()),
            };
            images.shows_what_is_wanted(&shown, &what);
        };
        let mut kills = 0;
        let calls = changes_of(&words);
        fs::remove_file(&target).unwrap();
        for call in calls.into_iter().chain(["rename", "renameat2"]) {
            for number in numbers() {
                let _left_by_one_that_came_to_its_end = fs::remove_file(&beside);
                let killed = faulty(call, "signal=KILL", number, &words).is_some();
                kills += u32::from(killed);
                if killed && target.exists() {
                    whole(call, number);
                } else if killed && !matches!(call, "linkat" | "rename" | "fsync") {
                    // What stands beside the name would be believed of the next file there.
                    assert!(!beside.exists(), "{format}: {call} {number}");
                }
                // It may not be there.
                let _removed = fs::remove_file(&target);
                if !killed {
                    break;
                }
            }
            fs::write(&target, b"old").unwrap();
            for number in numbers() {
                if faulty(call, "signal=KILL", number, &forced).is_none() {
                    break;
                }
                if fs::read(&target).unwrap() != b"old" {
                    whole(call, number);
                    fs::write(&target, b"old").unwrap();
                }
            }
            fs::remove_file(&target).unwrap();
        }
        assert!(kills > 5, "{format}: {kills}");
    }
}

/// Runs a script with a small file system of its own at `$1`, and the program at `$2`.
fn on_small_disk(size: &str, dir: &Path, script: &str) -> Output {
    let script = format!("mount -t tmpfs -o size={size} none \"$1\" && {script}");
    Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh", text(dir), text(workspace::cowblade())])
        .output()
        .unwrap()
}

#[test]
fn a_full_file_system_is_told_and_nothing_is_left() {
    let test = "a_full_file_system_is_told_and_nothing_is_left";
    if !require::met(test, &[MOUNTS]) {
        return;
    }
    let dir = WorkDir::new(test);
    fs::create_dir(dir.join("small")).unwrap();
    let mut noise = vec![0; 4 << 20];
    Rng::new(3).fill(&mut noise);
    fs::write(dir.join("noise.img"), &noise).unwrap();
    fs::File::create(dir.join("empty.img")).unwrap().set_len(4 << 20).unwrap();
    let over = "-B \"$1/../empty.img\"";
    let formats = [
        ("raw", ""),
        ("native", ""),
        ("qcow1", ""),
        ("qcow2", ""),
        ("uml", over),
        ("cowloop", over),
    ];
    for (format, over) in formats {
        let script = format!(
            "\"$2\" convert \"$1/../noise.img\" \"$1/new\" -O {format} {over}; \
             echo \"ends with $?\"; \
             ls -A \"$1\" | sed 's/^/left: /'"
        );
        let words = said(&on_small_disk("1M", &dir.join("small"), &script));
        assert!(words.contains("ends with 1") && words.contains("no room left"), "{words}");
        assert!(words.contains("nothing was left behind") && !words.contains("left: "), "{words}");
    }
    // A merge into a sparse base goes on when there is room.
    let overlay = dir.join("top.cow");
    let script = format!(
        "truncate -s 4M \"$1/base.img\" && \
         \"$2\" convert \"$1/../noise.img\" {0} -O native -B \"$1/base.img\" --force && \
         ! \"$2\" merge {0},\"$1/base.img\" --in-place --yes && \
         ! \"$2\" convert \"$1/base.img\" \"$1/no.img\" && \
         mount -o remount,size=64M \"$1\" && \
         \"$2\" merge {0} --in-place && cmp \"$1/base.img\" \"$1/../noise.img\" && echo equal",
        text(&overlay)
    );
    let output = on_small_disk("1M", &dir.join("small"), &script);
    let words = said(&output);
    assert!(output.status.success() && words.contains("equal"), "{words}");
    assert!(words.contains("run the same command again"), "{words}");
}

#[test]
fn merging_is_what_qemu_img_commit_does() {
    let test = "merging_is_what_qemu_img_commit_does";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let mut rng = Rng::new(9);
    let at = |name: &str| dir.join(name);
    for (ours, theirs) in [("qcow1", "qcow"), ("qcow2", "qcow2")] {
        let mut bytes = disk(5);
        bytes.extend([7; 512]); // QEMU's disks have whole sectors
        let overlay = |side: &str| {
            let (base, top) = (at(&format!("{ours}-{side}.img")), at(&format!("{side}.{theirs}")));
            fs::write(&base, &bytes).unwrap();
            let names = ["-f", theirs, "-F", "raw", "-b", text(&base), text(&top)];
            qemu::run("qemu-img", &[&["create"], &names[..]].concat());
            (base, top)
        };
        let (our_base, our_top) = overlay("ours");
        let (their_base, their_top) = overlay("theirs");
        let mut commands = Vec::new();
        for _ in 0..60 {
            let first = rng.below(SECTORS as u64);
            let len = (1 + rng.below(60)).min(SECTORS as u64 - first);
            let pattern = if rng.below(3) == 0 { 0 } else { rng.byte() };
            commands.push(format!("write -P {pattern} {} {}", first * 512, len * 512));
        }
        for top in [&our_top, &their_top] {
            qemu::io(top, theirs, &commands);
        }
        let before = qemu::content(&our_top, theirs, &[]);
        tool(&["merge", text(&our_top), "--in-place", "--yes", "--keep-overlay", "empty"]);
        qemu::run("qemu-img", &["commit", "-f", theirs, text(&their_top)]);
        assert!(fs::read(&our_base).unwrap() == fs::read(&their_base).unwrap(), "{ours}");
        assert!(fs::read(&our_base).unwrap() == before, "{ours}");
        assert!(qemu::content(&our_top, theirs, &[]) == before, "{ours}");
        let emptied = qemu::map(&our_top, theirs);
        assert!(emptied.iter().all(|entry| entry.depth == 1), "{emptied:?}");
    }
}

#[test]
fn merging_is_what_uml_moo_does() {
    let test = "merging_is_what_uml_moo_does";
    if !require::met(test, &[UML_MOO]) {
        return;
    }
    let dir = WorkDir::new(test);
    let mut before = disk(6);
    before.extend([7; 512]);
    let mut after = disk(7);
    after.extend([8; 512]);
    let (base, wanted) = (dir.join("base.img"), dir.join("wanted.img"));
    fs::write(&base, &before).unwrap();
    fs::write(&wanted, &after).unwrap();
    let cow = dir.join("top.cow");
    tool(&["convert", text(&wanted), text(&cow), "-O", "uml", "-B", text(&base)]);
    // To a new image.
    let chain = format!("{},{}", cow.display(), base.display());
    let (ours, theirs) = (dir.join("ours.img"), dir.join("theirs.img"));
    tool(&["merge", &chain, "-o", text(&ours)]);
    qemu::run("uml_moo", &["-b", text(&base), text(&cow), text(&theirs)]);
    assert!(fs::read(&ours).unwrap() == after && fs::read(&theirs).unwrap() == after);
    // In place, each in a copy of its own with the same times.
    for side in ["ours", "theirs"] {
        fs::create_dir(dir.join(side)).unwrap();
        for name in ["base.img", "top.cow"] {
            copy_file(&dir.join(name), &dir.join(side).join(name));
        }
    }
    let at = |side: &str, name: &str| dir.join(side).join(name);
    let (base, cow) = (at("theirs", "base.img"), at("theirs", "top.cow"));
    qemu::run("uml_moo", &["-d", "-b", text(&base), text(&cow)]);
    let chain = format!("{},{}", at("ours", "top.cow").display(), at("ours", "base.img").display());
    tool(&["merge", &chain, "--in-place", "--yes"]);
    assert!(fs::read(base).unwrap() == after);
    assert!(fs::read(at("ours", "base.img")).unwrap() == after);
    // The overlay, which stayed as it was, is one of the new base.
    qemu::run(
        "uml_moo",
        &[
            "-b",
            text(&at("ours", "base.img")),
            text(&at("ours", "top.cow")),
            text(&dir.join("again.img")),
        ],
    );
    assert!(fs::read(dir.join("again.img")).unwrap() == after);
}

#[test]
fn a_killed_rebase_leaves_the_same_disk() {
    let test = "a_killed_rebase_leaves_the_same_disk";
    if !require::met(test, &[STRACE]) {
        return;
    }
    for case in CASES.iter().filter(|case| case.formats.len() == 1) {
        let images = Images::new(test, case);
        let other = images.dir.join("before").join("other.img");
        fs::write(&other, disk(8)).unwrap();
        let (chain, other) = (images.chain_from(0), images.dir.join("now").join("other.img"));
        let rebase = ["rebase", &chain, "--parent", text(&other)];
        let mut kills = 0;
        images.restore();
        for call in changes_of(&rebase) {
            for number in numbers() {
                images.restore();
                let killed = faulty(call, "signal=KILL", number, &rebase).is_some();
                let over = |base: &Path| {
                    let chain = format!("{},{}", images.path(0).display(), base.display());
                    let out = images.dir.join("rebased.img");
                    let output = cowblade(&["convert", &chain, text(&out), "--force"]);
                    output.status.success().then(|| fs::read(out).unwrap())
                };
                let shown = over(&images.path(1)).or_else(|| over(&other)).unwrap();
                assert!(shown == images.wanted, "{}: killed before {call} {number}", case.name);
                if !killed {
                    break;
                }
                kills += 1;
            }
        }
        assert!(kills > 5, "{}: {kills}", case.name);
    }
}
