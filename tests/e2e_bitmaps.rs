//! UML's COW files, cowfiles and dm-cow layers behind the server and in the hands of the tools: written
//! by a Linux client and, in both durabilities, through kills; UML's are then the kernel's and `uml_moo`'s.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::frames::parse_mac;
use system_tests::initiator::Initiator;
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator::{self, Said};
use system_tests::pattern::Base;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::script::Load;
use system_tests::stack::{Stack, written_by_linux};
use system_tests::target::cowblade;
use system_tests::workspace::{self, WorkDir};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const SERVER: &[Need] = &[Need::Root, Need::Program("ip")];
const MOO: &[Need] = &[Need::Program("uml_moo")];
const STRACE: &[Need] = &[Need::Program("strace")];
const GOLDEN_SEED: u64 = 41;
/// 8 MiB: the older versions of UML's files have a bit for every sector of that.
const SECTORS: u64 = 16_384;
/// Sectors in a request at MTU 9000, as every server offers them.
const STEP: u8 = 16;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tool(words: &[&str]) -> Said {
    operator::local(words)
}

/// Fails unless the program refuses, and gives its words.
#[track_caller]
fn refused(words: &[&str]) -> String {
    let said = tool(words);
    assert!(said.code > 0, "{words:?}: {said:?}");
    said.err + &said.out
}

fn golden(dir: &Path) -> PathBuf {
    let path = dir.join("golden.img");
    judge::make_golden(&path, SECTORS, GOLDEN_SEED);
    path
}

fn golden_unchanged(golden: &Path) {
    let before = judge::golden_bytes(SECTORS, GOLDEN_SEED);
    assert_eq!(judge::unchanged(&before, golden), Ok(()));
}

/// A few writes outside the part that the client of [`written_by_linux`] writes to.
fn earlier(seed: u64) -> Vec<system_tests::pattern::Plan> {
    Load { seed, first: 10, sectors: 4000, writes: 40, base: Base::Blank }.plans()
}

/// Every format, each in an order or a line in which its users have it.
fn disks(dir: &Path) -> Vec<(Stack, String)> {
    let golden = golden(dir);
    let base = text(&golden);
    let stack = |name: &str| Stack::over(dir, name, &golden);
    let mut disks = Vec::new();
    for (name, format, options) in [
        ("uml", "uml", &[][..]),
        ("old", "uml", &["version=1"]),
        ("wide", "cowloop", &[]),
        ("narrow", "cowloop", &["width=32", "order=big"]),
    ] {
        let mut stack = stack(name);
        let top = stack.create(format, options);
        // `ubd0=cow,base`, and the wrong way round.
        let chain = if name == "old" { format!("{base},{top}") } else { format!("{top},{base}") };
        disks.push((stack, chain));
    }
    let mut chain = stack("previous");
    let [plan, ..] = earlier(3)[..] else { panic!("a plan has parts") };
    let previous = chain.push("uml", &[], &plan);
    let current = chain.create("uml", &["version=2"]);
    disks.push((chain, format!("{base},{previous},{current}")));
    let mut table = stack("table");
    let name = table.create("dm-cow", &[]);
    let (write, bits) = name.strip_prefix("dm-cow:").unwrap().split_once('+').unwrap();
    disks.push((table, format!("0 {SECTORS} cow {base} 0 {bits} {write} 0")));
    disks
}

#[test]
fn a_linux_client_writes_to_every_format_and_the_kernel_takes_over() {
    let test = "a_linux_client_writes_to_every_format_and_the_kernel_takes_over";
    if !require::met(test, &[UML_INITIATOR, MOO]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let mut disks = lab.attempt(|dir| {
        let mut disks = disks(dir);
        written_by_linux(&lab, dir, &mut disks, &["--durability", "writeback"])?;
        Ok(disks)
    });
    for (stack, _) in &disks {
        stack.judge("cowblade convert", &stack.read());
        stack.check();
    }
    let [(uml, _), (old, _), ..] = &mut disks[..] else { panic!("the first two are UML's") };
    kernel_in_turn(&lab, &mut [uml, old]);
    for (stack, _) in &disks[..2] {
        merged_like_the_tool(lab.dir(), stack);
    }
    golden_unchanged(Path::new(disks[0].0.layers().last().unwrap()));
}

/// `ubd0=cow,base`: a kernel reads what we wrote, and writes; then we read.
fn kernel_in_turn(lab: &Lab, stacks: &mut [&mut Stack]) {
    let load = |letter: char| Load::light(u64::from(u32::from(letter)), Base::Blank);
    let devices = stacks.iter().map(|stack| stack.chain().into()).collect();
    let work = ('a'..).take(stacks.len()).map(|letter| {
        let load = load(letter);
        format!(
            "disk-worker read /dev/ubd{letter} first=0 sectors={SECTORS} step=8 to=/host/{letter} \
             || fail read {letter}
             disk-worker write /dev/ubd{letter} {load} || fail write {letter}\n"
        )
    });
    let script: String = work.collect();
    let finished = lab.kernel(&lab.dir().join("kernel"), devices, &script).boot().wait(None);
    let finished = finished.unwrap();
    finished.assert_success();
    for (stack, letter) in stacks.iter_mut().zip('a'..) {
        let seen = fs::read(finished.share.join(letter.to_string())).unwrap();
        stack.judge("the kernel", &seen);
        load(letter).plans().iter().for_each(|plan| stack.apply(plan));
        stack.judge("we, of the kernel's", &stack.read());
        stack.check();
    }
}

/// `uml_moo` reads ours, and `uml_moo -d` does to a copy what our merge in place does to another.
fn merged_like_the_tool(dir: &Path, stack: &Stack) {
    let [cow, base] = stack.layers() else { panic!("an overlay and its base") };
    let merged = dir.join("merged");
    let _absent = fs::remove_file(&merged);
    run("uml_moo", &[cow, text(&merged)]);
    stack.judge("uml_moo", &fs::read(merged).unwrap());
    let copies = ["moo", "we"].map(|who| {
        let [cow_copy, base_copy] = ["cow", "base"].map(|what| dir.join(format!("{who}.{what}")));
        // With the time of modification.
        run("cp", &["-p", cow, text(&cow_copy)]);
        run("cp", &["-p", base, text(&base_copy)]);
        (cow_copy, base_copy)
    });
    let [(cow, base), (our_cow, our_base)] = &copies;
    run("uml_moo", &["-d", "-b", text(base), text(cow)]);
    let chain = format!("{},{}", text(our_cow), text(our_base));
    tool(&["merge", &chain, "--in-place", "--keep-overlay", "empty", "--yes"]).assert_done();
    stack.judge("uml_moo -d", &fs::read(base).unwrap());
    stack.judge("our merge", &fs::read(our_base).unwrap());
    // The tool leaves its own COW file refused; ours lies on the changed base.
    let out = dir.join("out").display().to_string();
    assert!(
        refused(&["compare", &chain.replace("we.", "moo."), text(our_base)]).contains("touched")
    );
    tool(&["convert", &chain, &out, "--force"]).assert_done();
    stack.judge("the emptied file", &fs::read(out).unwrap());
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
}

/// Serves one disk to `work`, then ends the server gracefully or not.
fn served(dir: &Path, chain: &str, how: (&str, bool), work: impl FnOnce(&mut Initiator)) {
    let (durability, gracefully) = how;
    let segment = Segment::new(9000, 1);
    let export = format!("0.0={chain}");
    let overlays = dir.join("overlays").display().to_string();
    let words = ["--export", &*export, "--overlays", &*overlays, "--durability", durability];
    let mut server = cowblade(&segment, dir, &words).start();
    let mac = parse_mac(&Segment::client_mac(0));
    let mut initiator =
        Initiator::find(segment.clients(), &Segment::client(0), mac, (0, 0)).unwrap();
    work(&mut initiator);
    if gracefully {
        assert!(server.terminate().success(), "{}", server.log());
    } else {
        server.kill();
    }
}

/// What was acknowledged survives a kill in both durabilities, and the image is whole afterwards.
#[test]
fn acknowledged_writes_survive_a_killed_server() {
    let test = "acknowledged_writes_survive_a_killed_server";
    if !require::met(test, &[SERVER]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let golden = golden(lab.dir());
    for (format, durability) in [
        ("uml", "safe"),
        ("uml", "writeback"),
        ("cowloop", "safe"),
        ("cowloop", "writeback"),
        ("dm-cow", "safe"),
        ("dm-cow", "writeback"),
    ] {
        let mut stack = Stack::over(lab.dir(), &format!("{format}-{durability}"), &golden);
        stack.create(format, &[]);
        let chain = stack.chain();
        served(lab.dir(), &chain, (durability, false), |initiator| {
            for plan in earlier(7) {
                for write in plan.iter() {
                    initiator.write(write.lba, &plan.bytes(write), STEP);
                }
            }
        });
        for plan in earlier(7) {
            stack.apply(&plan);
        }
        for gracefully in [false, true] {
            served(lab.dir(), &chain, (durability, gracefully), |initiator| {
                stack.judge("after the kill", &initiator.read(0, SECTORS, STEP));
            });
        }
        stack.judge("afterwards", &stack.read());
        stack.check();
        // The judge sees a few wrong bytes.
        if format == "uml" {
            let lba = earlier(7)[0].iter().next().unwrap().lba;
            let file = File::options().write(true).open(&stack.layers()[0]).unwrap();
            file.write_all_at(&[0xff; 3], 12_288 + lba * 512).unwrap();
            assert!(stack.read() != stack.model, "nobody looks at the file");
        }
    }
    golden_unchanged(&golden);
}

/// The reference's refusals, and the way to accept a parent of equal content [COW 1.3].
#[test]
fn a_parent_is_known_by_size_and_time_and_accepted_on_demand() {
    let test = "a_parent_is_known_by_size_and_time_and_accepted_on_demand";
    let dir = WorkDir::new(test);
    let golden = golden(dir.path());
    for version in ["version=1", "version=2", "version=3"] {
        let mut stack = Stack::over(dir.path(), version, &golden);
        let cow = stack.create("uml", &[version]);
        let out = dir.join("out").display().to_string();
        let over = |base: &Path| {
            ["convert", &*format!("{cow},{}", text(base)), &*out, "--force"].map(str::to_owned)
        };
        let refused_over = |base: &Path| refused(&over(base).each_ref().map(String::as_str));
        let taken_over =
            |base: &Path| tool(&over(base).each_ref().map(String::as_str)).assert_done();
        let moment = fs::metadata(&golden).unwrap().modified().unwrap();
        let copy = dir.join("copy.img");
        fs::copy(&golden, &copy).unwrap();
        let set = |seconds: u64, len: u64| {
            let file = File::options().write(true).open(&copy).unwrap();
            file.set_len(len).unwrap();
            file.set_modified(moment + Duration::from_secs(seconds)).unwrap();
        };
        let len = SECTORS * 512;
        set(0, len - 1);
        assert!(refused_over(&copy).contains("fewer than"));
        // The size is looked at first.
        set(5, len + 512);
        assert!(refused_over(&copy).contains("more than"));
        fs::copy(&golden, &copy).unwrap();
        set(1 << 32, len);
        taken_over(&copy);
        set(1, len);
        let said = refused_over(&copy);
        assert!(said.contains("touched") && said.contains("rebind"), "{said}");
        // Other bytes, as many.
        let (other, base) = (dir.join("other.img"), text(&golden));
        let mut bytes = fs::read(&golden).unwrap();
        bytes[5_000_000] ^= 1;
        fs::write(&other, bytes).unwrap();
        let file = File::options().write(true).open(&other).unwrap();
        file.set_modified(moment + Duration::from_secs(9)).unwrap();
        let said = refused(&["rebind", &cow, "--parent", text(&other), "--original", base]);
        assert!(said.contains("byte 5000000 differs"), "{said}");
        tool(&["rebind", &cow, "--parent", text(&copy), "--original", base]).assert_done();
        taken_over(&copy);
        assert!(refused_over(&golden).contains("touched"));
        let info = tool(&["info", &cow, "--json"]).json();
        let number = version.strip_prefix("version=").unwrap();
        assert_eq!(info["uml"]["version"].to_string(), number, "never made it another version");
    }
    golden_unchanged(&golden);
}

/// As the driver leaves it when the machine dies: data without bits [COW 4.2].
#[test]
fn a_dirty_cowfile_is_repaired_by_the_program() {
    let test = "a_dirty_cowfile_is_repaired_by_the_program";
    let dir = WorkDir::new(test);
    let golden = golden(dir.path());
    let mut stack = Stack::over(dir.path(), "dirty", &golden);
    let cow = stack.create("cowloop", &["width=32"]);
    let [plan, ..] = earlier(9)[..] else { panic!("a plan has parts") };
    stack.apply(&plan);
    let file = File::options().write(true).open(&cow).unwrap();
    // 8192 units: a bitmap of 1 KiB, so data from byte 4096 on. Whole units, as the driver copies them.
    let unit = |n: usize| &stack.model[n * 1024..(n + 1) * 1024];
    let base = fs::read(&golden).unwrap();
    let written = (0..8192).filter(|n| unit(*n) != &base[n * 1024..(n + 1) * 1024]);
    let written: Vec<_> = written.collect();
    assert!(written.len() > 20);
    for (at, n) in written.iter().enumerate() {
        file.write_all_at(unit(*n), 4096 + u64::try_from(*n).unwrap() * 1024).unwrap();
        // Half of the bits had been written.
        if at % 2 == 0 {
            let mut byte = [0];
            let place = 1024 + u64::try_from(n / 8).unwrap();
            File::open(&cow).unwrap().read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] | 1 << (n % 8)], place).unwrap();
        }
    }
    file.write_all_at(&[1, 0], 6).unwrap(); // dirty
    drop(file);
    let out = dir.join("out").display().to_string();
    assert!(refused(&["convert", &stack.chain(), &out]).contains("--repair"));
    assert!(refused(&["check", &cow]).contains("have data but no bit"));
    assert!(tool(&["info", &cow]).assert_done().out.contains("not closed"));
    let said = tool(&["check", &cow, "--repair"]).assert_done().out;
    assert!(said.contains(&format!("{} units of 1 KiB", written.len() / 2)), "{said}");
    stack.judge("repaired", &stack.read());
    stack.check();
}

/// Data and bitmap of dm-cow are two files, which cannot be replaced at once: whoever finds the data of
/// one image and the bitmap of another must not take them for an image.
#[test]
fn a_killed_convert_never_mixes_two_files() {
    let test = "a_killed_convert_never_mixes_two_files";
    if !require::met(test, &[STRACE]) {
        return;
    }
    let dir = WorkDir::new(test);
    let golden = golden(dir.path());
    let stacks = [5, 6].map(|seed| {
        let mut stack = Stack::over(dir.path(), &format!("s{seed}"), &golden);
        stack.push("dm-cow", &[], &earlier(seed)[0]);
        stack
    });
    let [old, new] = &stacks;
    let (kept, name) = (dir.join("kept"), &old.layers()[0]);
    let data = Path::new(name.strip_prefix("dm-cow:").unwrap().split('+').next().unwrap());
    let files = ["", ".bits", ".parent.json"].map(|end| format!("{}{end}", text(data)));
    fs::create_dir(&kept).unwrap();
    for file in &files {
        run("cp", &["-p", file, text(&kept)]);
    }
    let (source, base) = (new.chain(), text(&golden));
    let words = ["convert", &*source, &**name, "-O", "dm-cow", "-B", base, "--force"];
    let (mut killed, mut refusals) = (0, 0);
    for call in ["fsync", "rename", "renameat2", "linkat", "unlink", "ftruncate"] {
        for number in 1..20 {
            for file in &files {
                let kept = kept.join(Path::new(file).file_name().unwrap());
                run("cp", &["-p", text(&kept), file]);
            }
            if !is_killed(call, number, &words) {
                break;
            }
            killed += 1;
            let out = dir.join("seen").display().to_string();
            let said = tool(&["convert", &format!("{name},{base}"), &out, "--force"]);
            if said.code == 0 {
                let seen = fs::read(&out).unwrap();
                assert!(seen == old.model || seen == new.model, "{call} {number}: a mixture");
            } else {
                refusals += 1;
            }
        }
    }
    assert!(killed > 8 && refusals > 0, "{killed} {refusals}");
}

/// Runs `cowblade words`, which is killed before its `number`th call of a kind, if it makes so many.
fn is_killed(call: &str, number: u32, words: &[&str]) -> bool {
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e"])
        .args([&format!("trace={call}"), "-e", &inject])
        .arg(workspace::cowblade())
        .args(words)
        .output()
        .unwrap();
    !output.status.success()
}
