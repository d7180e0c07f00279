//! Whole stories of clients, told to any target: the reference target first, then ours.
//!
//! A story returns what happened; the test decides whether that is right, so that the same story
//! can show a broken server being caught.

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::guest::{Finished, Guest, Void};
use crate::judge;
use crate::lab::Lab;
use crate::lossy::{Damage, Forwarder, Trouble};
use crate::net::Segment;
use crate::pattern::Base;
use crate::require;
use crate::script::{self, Load};
use crate::server::{Server, ServerPlan};
use crate::wire::{Seen, Wire};

/// Seed of every golden image.
pub const GOLDEN_SEED: u64 = 77;
/// Sectors of the golden image: 48 MiB.
pub const GOLDEN_SECTORS: u64 = 48 << 11;
/// File name of the golden image in the directory of an attempt.
pub const GOLDEN: &str = "golden.img";
/// What unwritten sectors of a client's disk hold.
pub const GOLDEN_BASE: Base = Base::Golden(GOLDEN_SEED);

/// How the initiator learns of the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attach {
    /// The guest waits before the server starts: only the server's announcement can attach it
    /// before the driver asks again after 60 s.
    Advertisement,
    /// The server runs before the guest loads its driver.
    Discovery,
}

/// What [`everyday`] saw.
#[derive(Debug)]
pub struct Everyday {
    /// How the guest's script ended.
    pub guest: Finished,
    /// What the driver said when the disk appeared.
    pub driver: String,
}

/// Makes the golden image of an attempt.
pub fn make_golden(dir: &Path) {
    judge::make_golden(&dir.join(GOLDEN), GOLDEN_SECTORS, GOLDEN_SEED);
}

/// Judges the golden image of an attempt.
pub fn golden_unchanged(dir: &Path) -> Result<(), judge::Verdict> {
    judge::unchanged(&judge::golden_bytes(GOLDEN_SECTORS, GOLDEN_SEED), &dir.join(GOLDEN))
}

/// Shell commands of a client that scatters writes, makes a file system, fills it and checks it.
fn everyday_script() -> String {
    let load = Load::light(1, GOLDEN_BASE);
    [
        "mark up; await_disk e0.0; mark attached \"$(dmesg | grep aoe:)\"\n",
        &load.write("e0.0"),
        &load.verify("e0.0"),
        &script::filesystem("e0.0"),
    ]
    .concat()
}

/// A client attaches, scatters writes, makes a file system, fills it and checks it.
///
/// `target` plans a server whose disk e0.0 begins with the golden image of the directory.
pub fn everyday(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    attach: Attach,
    target: impl Fn(&Segment, &Path) -> ServerPlan,
) -> Result<Everyday, Void> {
    make_golden(dir);
    let segment = Segment::new(mtu, 1);
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let plan = lab.initiator(dir, &segment, 0, &everyday_script());
    script::make_tree(&plan.share().join("tree"), 3);
    let target = target(&segment, dir);
    let (mut guest, mut server) = match attach {
        Attach::Discovery => {
            let server = target.start();
            (plan.boot(), server)
        }
        Attach::Advertisement => {
            let mut guest = plan.boot();
            let server = announce(&mut guest, &wire, &target)?;
            (guest, server)
        }
    };
    let driver = guest.await_mark("attached", Some(&wire))?;
    let guest = guest.wait(Some(&wire))?;
    server.assert_running();
    Ok(Everyday { guest, driver })
}

/// The same client behind a wire that loses, doubles and swaps frames; returns what the wire did.
pub fn troubled(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    trouble: Trouble,
    target: impl Fn(&Segment, &Path) -> ServerPlan,
) -> Result<(Finished, Damage), Void> {
    make_golden(dir);
    let segment = Segment::with_gap(mtu);
    let forwarder = Forwarder::start(&segment, trouble);
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let mut plan = lab.initiator(dir, &segment, 0, &everyday_script());
    // Before it has measured anything the driver waits 16.5 s for a lost answer.
    plan.stall = Duration::from_mins(1);
    script::make_tree(&plan.share().join("tree"), 3);
    let mut server = target(&segment, dir).start();
    let guest = plan.boot().wait(Some(&wire))?;
    server.assert_running();
    Ok((guest, forwarder.damage()))
}

/// Starts a server before a guest that has given up asking; its announcement must attach the disk.
fn announce(guest: &mut Guest, wire: &Wire, target: &ServerPlan) -> Result<Server, Void> {
    guest.await_mark("up", Some(wire))?;
    let before = await_question(wire);
    let server = target.start();
    guest.await_mark("attached", Some(wire))?;
    let seen = wire.seen();
    assert!(seen.advertisements > before.advertisements, "nothing was announced: {seen:?}");
    assert_eq!(seen.discoveries, before.discoveries, "attached only after asking again: {seen:?}");
    Ok(server)
}

/// Waits until the driver has asked for disks, several times as it may, and the wire is silent.
pub fn await_question(wire: &Wire) -> Seen {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let seen = wire.seen();
        if seen.discoveries > 0 && seen.silent > Duration::from_secs(1) {
            return seen;
        }
        assert!(Instant::now() < deadline, "the driver does not ask: {seen:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the driver logs when it learns that requests may carry this many sectors.
pub fn data_frame(sectors: u32) -> String {
    format!("setting {} byte data frames", sectors * 512)
}

/// Several clients write at once, each to its disk; when all have written, each compares its own.
///
/// `disks` names the disk of each client; they may be equal. Client `i` writes with seed `i + 1`.
pub fn crowd(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    disks: &[&str],
    target: impl Fn(&Segment, &Path) -> Vec<ServerPlan>,
) -> Result<Vec<Finished>, Void> {
    make_golden(dir);
    let segment = Segment::new(mtu, disks.len());
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let mut servers: Vec<_> = target(&segment, dir).iter().map(ServerPlan::start).collect();
    let mut guests = Vec::new();
    for ((index, disk), seed) in disks.iter().enumerate().zip(1..) {
        let load = Load::light(seed, GOLDEN_BASE);
        let script = [
            &format!("await_disk {disk}\n"),
            &load.write(disk),
            "mark written; await go\n",
            &load.verify(disk),
        ]
        .concat();
        guests.push(lab.initiator(dir, &segment, index, &script).boot());
    }
    for guest in &mut guests {
        guest.await_mark("written", Some(&wire))?;
    }
    for guest in &guests {
        guest.tell("go");
    }
    let finished = guests.into_iter().map(|guest| guest.wait(Some(&wire))).collect();
    servers.iter_mut().for_each(Server::assert_running);
    finished
}

/// A client writes while its server is killed and started again and again; then it compares, and
/// so does a second client with the same MAC after one more crash.
pub fn crashes(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    target: impl Fn(&Segment, &Path) -> ServerPlan,
) -> Result<[Finished; 2], Void> {
    make_golden(dir);
    let segment = Segment::new(mtu, 1);
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let load = Load::heavy(5, GOLDEN_BASE);
    let mut server = target(&segment, dir).start();
    let attach = "await_disk e0.0\n";
    let both = [attach, &load.write("e0.0"), &load.verify("e0.0")].concat();
    let writer = lab.initiator(&dir.join("writer"), &segment, 0, &both);
    let mut guest = writer.boot();
    let progress = writer.share().join("progress");
    for quarter in 1..4 {
        while acknowledged(&progress) < load.writes / 4 * quarter {
            guest.check("progress", Some(&wire))?;
            std::thread::sleep(Duration::from_millis(2));
        }
        server.kill();
        server.restart();
    }
    let first = guest.wait(Some(&wire))?;
    server.kill();
    server.restart();
    let again = [attach, &load.verify("e0.0")].concat();
    let reader = lab.initiator(&dir.join("reader"), &segment, 0, &again);
    let second = reader.boot().wait(Some(&wire))?;
    server.assert_running();
    Ok([first, second])
}

/// Writes that a guest's `disk-worker` has seen acknowledged.
fn acknowledged(progress: &Path) -> u64 {
    let text = fs::read_to_string(progress).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// What [`union`] saw.
#[derive(Debug)]
pub struct Union {
    /// How the guest's script ended.
    pub guest: Finished,
    /// Whether the read-only disk took a write.
    pub write_accepted: bool,
    /// Whether the image under the read-only disk is as before.
    pub base: Result<(), judge::Verdict>,
}

/// File name of the read-only image in [`union`].
pub const TREE: &str = "tree.img";

/// A client joins the read-only disk e0.0 (file [`TREE`]) and the blank disk e0.1 by overlayfs.
pub fn union(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    target: impl Fn(&Segment, &Path) -> Vec<ServerPlan>,
) -> Result<Union, Void> {
    let segment = Segment::new(mtu, 1);
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let script = ["await_disk e0.0; await_disk e0.1\n", &script::union_of("e0.0", "e0.1")].concat();
    let mut plan = lab.initiator(dir, &segment, 0, &script);
    plan.modules.push("overlay".into());
    let tree = plan.share().join("tree");
    script::make_tree(&tree, 4);
    let image = dir.join(TREE);
    make_filesystem(&image, &tree);
    let before = fs::read(&image).expect("the image can be read");
    let servers: Vec<_> = target(&segment, dir).iter().map(ServerPlan::start).collect();
    let guest = plan.boot().wait(Some(&wire))?;
    drop(servers);
    let write_accepted = guest.share.join("accepted").exists();
    let refused = guest.share.join("refused").exists();
    assert_ne!(write_accepted, refused, "the guest never tried:\n{}", guest.console);
    Ok(Union { guest, write_accepted, base: judge::unchanged(&before, &image) })
}

/// Makes an ext4 image of 64 MiB that holds a tree.
fn make_filesystem(image: &Path, tree: &Path) {
    let program = require::program("mke2fs").expect("mke2fs is installed");
    let output = Command::new(program)
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(tree)
        .arg(image)
        .arg("64M")
        .output()
        .expect("mke2fs starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
