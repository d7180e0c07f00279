//! qcow2 images behind the server: golden image, layer and overlay, through kills, a full disk and
//! restarts, with QEMU's tools as the judge.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::frames::{Registers, parse_mac};
use system_tests::initiator::Initiator;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::operator::Said;
use system_tests::qemu::{self, TOOLS, text};
use system_tests::require::{self, Need};
use system_tests::rng::Rng;
use system_tests::target::cowblade;
use system_tests::workspace;

const SERVER: &[Need] = &[Need::Root, Need::Program("ip")];
/// Sectors in a request at MTU 9000, as every server offers them.
const STEP: u8 = 16;
const SECTORS: u64 = 9001;

#[track_caller]
fn tool(args: &[&str]) -> String {
    let output = Command::new(workspace::cowblade()).args(args).output().unwrap();
    Said::of(&output).assert_done().out
}

#[track_caller]
fn sound(image: &Path) {
    let (well, said) = qemu::try_run("qemu-img", &["check", "-f", "qcow2", text(image)]);
    assert!(well, "{said}");
}

/// What QEMU reads through a chain of images that name each other.
fn content(image: &Path) -> Vec<u8> {
    qemu::content(image, "qcow2", &[])
}

/// A raw base of noise, and two qcow2 images of QEMU's above it, the upper one compressed in part.
fn chain(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let mut bytes = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    Rng::new(7).fill(&mut bytes);
    let paths = (dir.join("base.img"), dir.join("middle.qcow2"), dir.join("top.qcow2"));
    std::fs::write(&paths.0, &bytes).unwrap();
    let create = |options: &str, below: &str, format: &str, path: &Path| {
        let args = ["create", "-q", "-f", "qcow2", "-o", options, "-b", below, "-F", format];
        qemu::run("qemu-img", &[&args[..], &[text(path)]].concat());
    };
    create("compat=0.10,cluster_size=4096", "base.img", "raw", &paths.1);
    let writes = ["write -P 1 0 100000", "write -c -P 2 204800 4096", "write -P 3 4000256 512"];
    qemu::io(&paths.1, "qcow2", &writes.map(String::from));
    create("cluster_size=65536", "middle.qcow2", "qcow2", &paths.2);
    let writes = ["write -P 4 50000 70000", "write -c -P 5 655360 65536", "write -z 1000000 99999"];
    qemu::io(&paths.2, "qcow2", &writes.map(String::from));
    paths
}

/// Serves a chain to `work`, then kills the server, or ends it in order.
fn served(lab: &Lab, arguments: &[&str], kill: bool, work: impl FnOnce(&mut Initiator)) {
    let segment = Segment::new(9000, 1);
    let overlays = lab.dir().join("overlays").display().to_string();
    let arguments = [arguments, &["--overlays", &overlays]].concat();
    let mut server = cowblade(&segment, lab.dir(), &arguments).start();
    let mac = parse_mac(&Segment::client_mac(0));
    let mut initiator =
        Initiator::find(segment.clients(), &Segment::client(0), mac, (0, 0)).unwrap();
    work(&mut initiator);
    if kill {
        server.kill();
    } else {
        assert!(server.terminate().success(), "{}", server.log());
    }
}

/// Writes at random, as the client and in the model.
fn write(initiator: &mut Initiator, model: &mut [u8], count: usize, rng: &mut Rng) {
    for _ in 0..count {
        let first = rng.below(SECTORS);
        let len = (1 + rng.below(150)).min(SECTORS - first);
        let at = usize::try_from(first * 512).unwrap();
        let part = &mut model[at..at + usize::try_from(len * 512).unwrap()];
        rng.fill(part);
        initiator.write(first, part, STEP);
    }
}

/// The whole chain as golden image; the upper image as overlay; every way of ending.
#[test]
fn images_are_served_as_golden_image_layer_and_overlay() {
    let test = "images_are_served_as_golden_image_layer_and_overlay";
    if !require::met(test, &[TOOLS, SERVER]) {
        return;
    }
    let lab = Lab::new(test, "");
    let (base, middle, top) = chain(lab.dir());
    let golden = content(&top);
    let mut rng = Rng::new(3);

    // Named by the top alone, with a native overlay of the client's above.
    let mut model = golden.clone();
    let export = format!("0.0={},per-client", top.display());
    let arguments = ["--export", &export, "--new-clients", "auto"];
    for round in 0..2 {
        served(&lab, &arguments, round == 0, |initiator| {
            assert!(initiator.read(0, SECTORS, STEP) == model, "round {round}");
            write(initiator, &mut model, 20, &mut rng);
        });
    }
    served(&lab, &arguments, false, |initiator| {
        assert!(initiator.read(0, SECTORS, STEP) == model);
    });
    assert!(content(&top) == golden, "the golden image was written");

    // As it was, by a snapshot inside, when it has been written since.
    qemu::run("qemu-img", &["snapshot", "-c", "as golden", text(&top)]);
    qemu::io(&top, "qcow2", &["write -P 9 0 300000".to_owned()]);
    let export = format!("0.0=qcow2@as golden:{},ro", top.display());
    served(&lab, &["--export", &export], false, |initiator| {
        assert!(initiator.read(0, SECTORS, STEP) == golden);
    });
    qemu::run("qemu-img", &["snapshot", "-a", "as golden", text(&top)]);
    qemu::run("qemu-img", &["snapshot", "-d", "as golden", text(&top)]);

    // As the overlay, which is written itself; killed, and checked each time.
    let mut model = golden;
    for (round, durability) in ["safe", "safe", "writeback", "writeback"].into_iter().enumerate() {
        let export = format!(
            "0.0={},{},{},durability={durability}",
            top.display(),
            middle.display(),
            base.display()
        );
        served(&lab, &["--export", &export], round % 2 == 0, |initiator| {
            assert!(initiator.read(0, SECTORS, STEP) == model, "round {round}");
            write(initiator, &mut model, 40, &mut rng);
        });
        if durability == "safe" || round % 2 == 1 {
            // What a kill leaves is sound but for lost space, which QEMU's check calls 3.
            let said = tool(&["check", text(&top)]);
            println!("{said}");
            assert!(content(&top) == model, "round {round}");
        }
    }
    tool(&["check", "--repair", text(&top)]);
    sound(&top);
    assert!(content(&top) == model);
}

/// A disk without room: the client gets errors, nobody else does, and nothing that was acknowledged is
/// lost.
#[test]
fn a_full_disk_costs_nothing_that_was_acknowledged() {
    let test = "a_full_disk_costs_nothing_that_was_acknowledged";
    if !require::met(test, &[TOOLS, SERVER, &[Need::Program("mount")]]) {
        return;
    }
    let lab = Lab::new(test, "");
    let small = lab.dir().join("small");
    std::fs::create_dir(&small).unwrap();
    let (from, on) = ("tmpfs", text(&small));
    qemu::run("mount", &["-t", "tmpfs", "-o", "size=2M", from, on]);
    let mounted = Mounted(&small);
    let image = small.join("disk.qcow2");
    let size = (SECTORS * 512).to_string();
    tool(&["create", text(&image), "--size", &size, "--format", "qcow2", "-o", "cluster=4K"]);
    let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    let mut maybe = vec![false; usize::try_from(SECTORS).unwrap()];
    let export = format!("0.0={},blank:{size}", image.display());
    served(&lab, &["--export", &export], true, |initiator| {
        let mut rng = Rng::new(5);
        let mut refused = 0;
        for _ in 0..900 {
            let first = rng.below(SECTORS - 16);
            let mut bytes = [0; 16 * 512];
            rng.fill(&mut bytes);
            let at = usize::try_from(first).unwrap();
            if try_write(initiator, first, &bytes) {
                model[at * 512..(at + 16) * 512].copy_from_slice(&bytes);
                maybe[at..at + 16].fill(false);
            } else {
                refused += 1;
                maybe[at..at + 16].fill(true);
            }
            if refused > 20 {
                break;
            }
        }
        assert!(refused > 20, "2 MiB were enough");
        let now = initiator.read(0, SECTORS, STEP);
        compare(&now, &model, &maybe);
    });
    let said = tool(&["check", text(&image)]);
    println!("{said}");
    compare(&content_there(&image, lab.dir()), &model, &maybe);
    // Room again, and on with it.
    qemu::run("mount", &["-o", "remount,size=16M", on]);
    served(&lab, &["--export", &export], false, |initiator| {
        let now = initiator.read(0, SECTORS, STEP);
        compare(&now, &model, &maybe);
        model = now;
        write(initiator, &mut model, 50, &mut Rng::new(6));
    });
    assert!(content_there(&image, lab.dir()) == model);
    tool(&["check", "--repair", text(&image)]);
    sound(&image);
    drop(mounted);
}

/// Unmounted at the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _said = qemu::try_run("umount", &[text(self.0)]);
    }
}

/// The raw copy goes where there is room.
fn content_there(image: &Path, dir: &Path) -> Vec<u8> {
    let raw = dir.join("there.img");
    qemu::run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]);
    std::fs::read(&raw).unwrap()
}

/// Sectors of a write that was refused may be old or new.
#[track_caller]
fn compare(now: &[u8], model: &[u8], maybe: &[bool]) {
    for (lba, maybe) in maybe.iter().enumerate() {
        let range = lba * 512..(lba + 1) * 512;
        assert!(*maybe || now[range.clone()] == model[range], "sector {lba}");
    }
}

/// One request; false if the target answers with an error.
fn try_write(initiator: &mut Initiator, first: u64, bytes: &[u8]) -> bool {
    let response = initiator.ata(Registers::write(first, STEP), bytes);
    response.status().0 & 1 == 0
}
