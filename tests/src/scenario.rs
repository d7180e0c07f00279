//! Whole stories of clients, told to any target: the reference target first, then ours.

use std::fs;
use std::path::Path;
use std::time::Instant;

use core::time::Duration;

use crate::guest::{Finished, Void};
use crate::judge;
use crate::lab::Lab;
use crate::net::Segment;
use crate::rng::Rng;
use crate::server::{Server, ServerPlan};
use crate::wire::{Seen, Wire};

/// Seed of every golden image.
pub const GOLDEN_SEED: u64 = 77;
/// Sectors of the golden image: 48 MiB.
pub const GOLDEN_SECTORS: u64 = 48 << 11;
/// Bytes of a sector range that guests scatter their writes over.
const SCATTER: &str = "first=4096 sectors=8192 writes=300 longest=64 writers=4";

/// How the initiator learns of the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attach {
    /// The guest waits before the server starts: only the server's announcement can attach it
    /// before the driver asks again after 60 s.
    Advertisement,
    /// The server runs before the guest loads its driver.
    Discovery,
}

/// Shell commands: scattered writes past the page cache, compared with the model.
pub fn random_writes(disk: &str, seed: u64) -> String {
    format!(
        "disk-worker write /dev/etherd/{disk} seed={seed} {SCATTER} progress=/host/progress || fail write\n\
         disk-worker verify /dev/etherd/{disk} seed={seed} {SCATTER} base=golden:{GOLDEN_SEED} || fail verify\n"
    )
}

/// Shell commands: compares the writes of [`random_writes`] once more.
pub fn verify_writes(disk: &str, seed: u64) -> String {
    format!(
        "disk-worker verify /dev/etherd/{disk} seed={seed} {SCATTER} base=golden:{GOLDEN_SEED} || fail verify\n"
    )
}

/// Shell commands: a file system is made, filled from `/host/tree`, mounted again and compared.
pub fn filesystem(disk: &str) -> String {
    format!(
        "D=/dev/etherd/{disk}
         list() {{ (cd \"$1\" && find . -type f -exec sha256sum {{}} + | sort -k 2; find . -type l -exec readlink {{}} + | sort); }}
         mke2fs -q -F -t ext4 $D || fail mke2fs
         mount -t ext4 $D /mnt || fail mount
         cp -a /host/tree /mnt/ || fail copy
         umount /mnt || fail umount
         mount -t ext4 -o ro $D /mnt || fail remount
         list /host/tree >/tmp/original
         list /mnt/tree >/tmp/copy
         [ -s /tmp/original ] || fail empty tree
         diff /tmp/original /tmp/copy || fail the tree differs
         umount /mnt || fail umount
         e2fsck -f -n $D || fail e2fsck\n"
    )
}

/// Makes a directory tree of empty, small and large files, with links.
pub fn make_tree(root: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    for directory in 0..6_u32 {
        let dir = root.join(format!("d{directory}/nested"));
        fs::create_dir_all(&dir).expect("a directory of the tree");
        for file in 0..12_u32 {
            let limit = if file == 0 { 1 << 20 } else { 20_000 };
            let mut bytes = vec![0; usize::try_from(rng.below(limit)).unwrap_or(0)];
            rng.fill(&mut bytes);
            fs::write(dir.join(format!("f{file}")), &bytes).expect("a file of the tree");
        }
        fs::write(dir.join("empty"), b"").expect("an empty file");
        std::os::unix::fs::symlink("f0", dir.join("link")).expect("a link");
    }
}

/// What [`everyday`] saw.
#[derive(Debug)]
pub struct Everyday {
    /// How the guest's script ended.
    pub guest: Finished,
    /// What the driver said when the disk appeared.
    pub driver: String,
}

/// A client attaches, scatters writes, makes a file system, fills it and checks it.
///
/// `target` plans a server whose disk e0.0 begins with the golden image `dir/golden.img`.
pub fn everyday(
    lab: &Lab,
    dir: &Path,
    mtu: u16,
    attach: Attach,
    target: impl Fn(&Segment, &Path) -> ServerPlan,
) -> Result<Everyday, Void> {
    let golden = dir.join("golden.img");
    judge::make_golden(&golden, GOLDEN_SECTORS, GOLDEN_SEED);
    let segment = Segment::new(mtu, 1);
    let wire = Wire::listen(segment.server(), Segment::SERVER);
    let script = [
        "mark up\n await_disk e0.0\n mark attached \"$(dmesg | grep aoe:)\"\n",
        &random_writes("e0.0", 1),
        &filesystem("e0.0"),
    ]
    .concat();
    let plan = lab.initiator(dir, &segment, 0, &script);
    make_tree(&plan.share().join("tree"), 3);
    let target = target(&segment, dir);
    let (guest, driver, mut server) = match attach {
        Attach::Discovery => {
            let server = target.start();
            let mut guest = plan.boot();
            let driver = guest.await_mark("attached", Some(&wire))?;
            (guest, driver, server)
        }
        Attach::Advertisement => {
            let mut guest = plan.boot();
            guest.await_mark("up", Some(&wire))?;
            await_discovery(&wire);
            let asked = wire.seen().discoveries;
            let server = target.start();
            let driver = guest.await_mark("attached", Some(&wire))?;
            let seen = wire.seen();
            assert!(seen.advertisements > 0, "nothing was announced: {seen:?}");
            assert_eq!(seen.discoveries, asked, "attached only after asking again: {seen:?}");
            (guest, driver, server)
        }
    };
    let guest = guest.wait(Some(&wire))?;
    server.assert_running();
    Ok(Everyday { guest, driver })
}

/// Waits until the driver has asked for disks, several times as it may, and fell silent.
fn await_discovery(wire: &Wire) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let quiet = |seen: Seen| seen.discoveries > 0 && seen.silent > Duration::from_secs(1);
    while !quiet(wire.seen()) {
        assert!(Instant::now() < deadline, "the driver never asked: {:?}", wire.seen());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Data bytes of the largest request the driver may send at `mtu`, as it logs them.
pub fn data_frame(mtu: u16) -> String {
    // 24 bytes of headers count towards the MTU without the 14 of Ethernet: 10 + 12.
    let sectors = (u32::from(mtu) - 22) / 512;
    format!("setting {} byte data frames", sectors * 512)
}

/// The reference target with one plain file as disk e`shelf`.`slot`.
pub fn vblade(segment: &Segment, dir: &Path, address: (u16, u8), image: &Path) -> ServerPlan {
    let program = crate::require::program("vblade").expect("vblade is installed");
    let (shelf, slot) = (address.0.to_string(), address.1.to_string());
    let image = image.display().to_string();
    let arguments = [shelf.as_str(), slot.as_str(), Segment::SERVER, image.as_str()];
    let log = dir.join(format!("vblade{shelf}.{slot}.log"));
    ServerPlan::new(segment.server(), &program, arguments, log, "sectors")
}

/// Kills and restarts a server while a guest's writes are under way.
///
/// Waits for the guest's count of acknowledged writes to pass each of `marks` first.
pub fn crash_at(
    server: &mut Server,
    share: &Path,
    marks: &[u64],
    mut alive: impl FnMut() -> Result<(), Void>,
) -> Result<(), Void> {
    for &mark in marks {
        while acknowledged(share) < mark {
            alive()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        server.kill();
        server.restart();
    }
    Ok(())
}

/// Writes a guest's `disk-worker` has seen acknowledged.
pub fn acknowledged(share: &Path) -> u64 {
    let text = fs::read_to_string(share.join("progress")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
