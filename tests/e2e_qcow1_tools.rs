//! qcow images of version 1 in the hands of `cowblade`: made, looked at, repaired and served, with
//! QEMU's tools as the judge.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::frames::parse_mac;
use system_tests::initiator::Initiator;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::qemu::{self, TOOLS, text};
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::target::cowblade;
use system_tests::workspace::{self, WorkDir};

const SERVER: &[Need] = &[Need::Root, Need::Program("ip")];
/// Sectors in a request at MTU 9000, as every server offers them.
const STEP: u8 = 16;
const SECTORS: u64 = 9001;

/// What the program says; `None` if it fails.
fn try_tool(args: &[&str]) -> Option<String> {
    let output = Command::new(workspace::cowblade()).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("cowblade {args:?}: {}\n{said}", output.status);
    output.status.success().then_some(said)
}

fn tool(args: &[&str]) -> String {
    try_tool(args).unwrap_or_else(|| panic!("cowblade {args:?} fails"))
}

fn json(args: &[&str]) -> Value {
    let args = [args, &["--json"]].concat();
    serde_json::from_str(&tool(&args)).unwrap()
}

/// A base of noise, and what an image over it must read as.
fn base(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    Rng::new(7).fill(&mut bytes);
    let path = dir.join("base.img");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

/// QEMU writes here and there.
fn qemu_writes(image: &Path, expected: &mut [u8], seed: u64) {
    let mut rng = Rng::new(seed);
    let mut commands = Vec::new();
    for _ in 0..40 {
        let first = rng.below(SECTORS);
        let len = (1 + rng.below(30)).min(SECTORS - first);
        let pattern = rng.byte();
        commands.push(format!("write -P {pattern} {} {}", first * 512, len * 512));
        let at = usize::try_from(first * 512).unwrap();
        expected[at..at + usize::try_from(len * 512).unwrap()].fill(pattern);
    }
    qemu::io(image, "qcow", &commands);
}

#[test]
fn images_are_made_described_mapped_and_emptied() {
    let test = "images_are_made_described_mapped_and_emptied";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let (base, mut expected) = base(dir.path());
    let original = expected.clone();
    let image = dir.join("top.qcow");
    tool(&["create", text(&image), "--backing", text(&base), "--format", "qcow1"]);
    let info = qemu::run("qemu-img", &["info", "-f", "qcow", text(&image)]);
    assert!(info.contains("backing file: base.img (actual path:"), "{info}");
    qemu_writes(&image, &mut expected, 1);
    assert!(qemu::content(&image, "qcow", &[]) == expected);

    let info = json(&["info", text(&image)]);
    let told = info.to_string();
    assert!(told.contains("\"qcow1\"") && told.contains("base.img"), "{told}");
    assert!(told.contains(&(SECTORS * 512).to_string()), "{told}");
    tool(&["check", text(&image)]);
    // The same ranges as QEMU tells, where it has them.
    let theirs: u64 =
        qemu::map(&image, "qcow").iter().filter(|e| e.depth == 0).map(|e| e.length).sum();
    let check = json(&["check", text(&image)]).to_string();
    assert!(check.contains(&format!("\"data_bytes\":{theirs}")), "{theirs}: {check}");

    tool(&["rollback", text(&image), "--yes"]);
    assert!(qemu::content(&image, "qcow", &[]) == original);
    tool(&["check", text(&image)]);
}

#[test]
fn images_that_stand_alone_have_nothing_below() {
    let test = "images_that_stand_alone_have_nothing_below";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let image = dir.join("alone.qcow");
    let args = ["create", text(&image), "--size", "5M", "--format", "qcow1", "-o", "cluster=64K"];
    tool(&[&args[..], &["-o", "table=64"]].concat());
    let info = qemu::run("qemu-img", &["info", "-f", "qcow", text(&image)]);
    assert!(info.contains("5 MiB") && info.contains("cluster_size: 65536"), "{info}");
    assert!(!info.contains("backing file"), "{info}");
    qemu::run("qemu-io", &["-f", "qcow", "-c", "write -P 5 1000000 70000", text(&image)]);
    tool(&["check", text(&image)]);
    for bad in ["cluster=128K", "cluster=3K", "table=32", "color=red"] {
        let other = dir.join("other.qcow");
        let args = ["create", text(&other), "--size", "5M", "--format", "qcow1", "-o", bad];
        assert!(try_tool(&args).is_none(), "{bad}");
        assert!(!other.exists(), "{bad}");
    }
    let (base, _) = base(dir.path());
    let over = dir.join("over.qcow");
    let args = ["create", text(&over), "--backing", text(&base), "--format", "qcow1"];
    assert!(try_tool(&[&args[..], &["-o", "cluster=4K"]].concat()).is_none());
    assert!(!over.exists());
}

#[test]
fn what_a_cut_left_is_repaired() {
    let test = "what_a_cut_left_is_repaired";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let (_, mut expected) = base(dir.path());
    let image = dir.join("top.qcow");
    let create = ["create", "-q", "-f", "qcow", "-b", "base.img", "-F", "raw", text(&image)];
    qemu::run("qemu-img", &[&create[..], &[&(SECTORS * 512).to_string()]].concat());
    let original = expected.clone();
    qemu_writes(&image, &mut expected, 2);
    let whole = std::fs::metadata(&image).unwrap().len();
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(whole - 4096).unwrap();
    assert!(try_tool(&["check", text(&image)]).is_none());
    let said = tool(&["check", "--repair", text(&image)]);
    assert!(said.contains("repaired"), "{said}");
    tool(&["check", text(&image)]);
    // Every sector is what was written or what was below.
    let found = qemu::content(&image, "qcow", &[]);
    let sectors = found.chunks(512).zip(expected.chunks(512)).zip(original.chunks(512));
    for ((found, written), below) in sectors {
        assert!(found == written || found == below);
    }
}

/// Serves the image to `work`, then kills the server.
fn served(lab: &Lab, export: &str, work: impl FnOnce(&mut Initiator)) {
    let segment = Segment::new(9000, 1);
    let overlays = lab.dir().join("overlays").display().to_string();
    let arguments = ["--export", export, "--overlays", &overlays];
    let mut server = cowblade(&segment, lab.dir(), &arguments).start();
    let mac = parse_mac(&Segment::client_mac(0));
    let mut initiator =
        Initiator::find(segment.clients(), &Segment::client(0), mac, (0, 0)).unwrap();
    work(&mut initiator);
    server.kill();
}

/// An overlay of QEMU's, served, written, the server killed, served again; then QEMU reads it.
#[test]
fn an_overlay_is_served_and_survives_a_kill() {
    let test = "an_overlay_is_served_and_survives_a_kill";
    if !require::met(test, &[TOOLS, SERVER]) {
        return;
    }
    let lab = Lab::new(test, "");
    let dir = lab.dir().to_path_buf();
    let (base, mut expected) = base(&dir);
    let image = dir.join("top.qcow");
    let create = ["create", "-q", "-f", "qcow", "-b", "base.img", "-F", "raw", text(&image)];
    qemu::run("qemu-img", &[&create[..], &[&(SECTORS * 512).to_string()]].concat());
    qemu_writes(&image, &mut expected, 3);
    let export = format!("0.0={},{}", image.display(), base.display());
    let mut rng = Rng::new(11);
    served(&lab, &export, |initiator| {
        assert!(initiator.read(0, SECTORS, STEP) == expected);
        for _ in 0..60 {
            let first = rng.below(SECTORS);
            let len = (1 + rng.below(40)).min(SECTORS - first);
            let mut bytes = vec![0; usize::try_from(len * 512).unwrap()];
            rng.fill(&mut bytes);
            initiator.write(first, &bytes, STEP);
            let at = usize::try_from(first * 512).unwrap();
            expected[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    });
    tool(&["check", text(&image)]);
    served(&lab, &export, |initiator| {
        assert!(initiator.read(0, SECTORS, STEP) == expected);
    });
    assert!(qemu::content(&image, "qcow", &[]) == expected);
}

/// As a layer: a compressed image of QEMU's below an overlay of ours.
#[test]
fn a_compressed_image_is_served_as_a_layer() {
    let test = "a_compressed_image_is_served_as_a_layer";
    if !require::met(test, &[TOOLS, SERVER]) {
        return;
    }
    let lab = Lab::new(test, "");
    let dir = lab.dir().to_path_buf();
    let (raw, mut expected) = base(&dir);
    expected.chunks_mut(6000).step_by(2).for_each(|part| part.fill(0x61));
    std::fs::write(&raw, &expected).unwrap();
    let image = dir.join("packed.qcow");
    // It says that it failed, and leaves a good file [COW 5.2].
    let args = ["convert", "-c", "-f", "raw", "-O", "qcow", text(&raw), text(&image)];
    let _ = qemu::try_run("qemu-img", &args);
    let before = std::fs::read(&image).unwrap();
    let overlay = dir.join("top.cow");
    tool(&["create", text(&overlay), "--backing", text(&image)]);
    let export = format!("0.0={},{}", overlay.display(), image.display());
    served(&lab, &export, |initiator| {
        assert!(initiator.read(0, SECTORS, STEP) == expected);
        initiator.write(77, &[9; 1024], STEP);
        expected[77 * 512..79 * 512].fill(9);
        assert!(initiator.read(0, SECTORS, STEP) == expected);
    });
    assert!(std::fs::read(&image).unwrap() == before, "the layer was written");
}
