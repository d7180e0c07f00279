//! dm-snapshot stores, exchanged with the kernel's own driver in a guest: both ways, and in turn.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cow_core::format::dm_snapshot::{self, Overflow};
use cow_core::format::{IndexEntry, Top};
use cow_core::units::Lba;
use system_tests::dm_store::{Store, make_store};
use system_tests::frames::parse_mac;
use system_tests::guest::Finished;
use system_tests::image_chain::{self, OVERLAY};
use system_tests::initiator::Initiator;
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::pattern::SECTOR;
use system_tests::require::{self, Need};
use system_tests::scenario::{self, GOLDEN, GOLDEN_BASE, GOLDEN_SECTORS};
use system_tests::script::Load;
use system_tests::target::cowblade;
use system_tests::workspace;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const KERNEL: &[Need] = &[
    Need::Program("linux.uml"),
    Need::Program("busybox"),
    Need::Program("dmsetup"),
    Need::UmlModule("dm-snapshot"),
];
const SERVER: &[Need] = &[Need::Root, Need::Program("ip")];
const STORE_BYTES: u64 = 64 << 20;
/// Sectors in a request at MTU 9000, as every server offers them.
const STEP: u8 = 16;

/// The writes of both sides; enough for several areas of exceptions with small chunks.
const LOAD: Load = Load { seed: 21, first: 1000, sectors: 32_768, writes: 300, base: GOLDEN_BASE };

/// Boots a kernel whose snapshot of `origin` lives in `store`, and runs `work` on it.
fn in_kernel(lab: &Lab, name: &str, store: &Path, chunk_sectors: u32, work: &str) -> Finished {
    let script = format!(
        "export DM_DISABLE_UDEV=1
         dmsetup create snap --noudevsync --table \
            \"0 $(blockdev --getsz /dev/ubda) snapshot /dev/ubda /dev/ubdb p {chunk_sectors}\" \
            || fail create
         {work}
         mark table \"$(dmsetup status snap)\"
         dmsetup remove snap --noudevsync || fail remove\n"
    );
    let disks = vec![lab.dir().join(GOLDEN), store.to_path_buf()];
    let mut plan = lab.kernel(&lab.dir().join(name), disks, &script);
    plan.modules = ["dm-mod", "dm-bufio", "dm-snapshot"].map(Into::into).into();
    let finished = plan.boot().wait(None).unwrap();
    finished.assert_success();
    finished
}

fn worker(command: &str) -> String {
    format!("disk-worker {command} /dev/mapper/snap {LOAD} || fail {command}\n")
}

fn blank_store(lab: &Lab) -> PathBuf {
    let path = lab.dir().join("store.cow");
    fs::File::create(&path).unwrap().set_len(STORE_BYTES).unwrap();
    path
}

/// Compares a whole disk with the golden image under the writes of [`LOAD`].
fn judge_disk(bytes: &[u8]) {
    assert_eq!(bytes.len(), usize::try_from(GOLDEN_SECTORS).unwrap() * SECTOR);
    let mut model: Vec<_> = (0..GOLDEN_SECTORS).map(|lba| GOLDEN_BASE.content(lba)).collect();
    for plan in LOAD.plans() {
        let at = usize::try_from(plan.first).unwrap();
        let contents = plan.contents(plan.writes, GOLDEN_BASE);
        model[at..at + contents.len()].copy_from_slice(&contents);
    }
    if let Err(verdict) = judge::contents(&model, 0, bytes) {
        panic!("{verdict}");
    }
}

#[test]
fn the_kernels_store_has_the_layout_of_the_specification() {
    let test = "the_kernels_store_has_the_layout_of_the_specification";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    let path = blank_store(&lab);
    in_kernel(&lab, "guest", &path, 8, &[worker("write"), worker("verify")].concat());
    let mut bytes = fs::read(&path).unwrap();
    let store = Store::parse(&bytes).unwrap();
    assert!(store.valid);
    assert!(store.exceptions.len() > 2 * 256, "{} exceptions", store.exceptions.len());
    judge_disk(&store.view(&bytes, &fs::read(lab.dir().join(GOLDEN)).unwrap()));
    // The judge must notice a single foreign chunk.
    let written = usize::try_from(store.exceptions[5].1).unwrap() * store.chunk;
    bytes[written..written + store.chunk].fill(0);
    let view = store.view(&bytes, &fs::read(lab.dir().join(GOLDEN)).unwrap());
    assert!(std::panic::catch_unwind(|| judge_disk(&view)).is_err());
}

#[test]
fn the_kernel_reads_a_store_made_by_hand() {
    let test = "the_kernel_reads_a_store_made_by_hand";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    let path = lab.dir().join("store.cow");
    fs::write(&path, make_store(&[7, 2], b'a', 1 << 20)).unwrap();
    let work = "dd if=/dev/mapper/snap of=/host/seen bs=4096 count=9 2>/dev/null || fail dd\n";
    let finished = in_kernel(&lab, "guest", &path, 8, work);
    let seen = fs::read(finished.share.join("seen")).unwrap();
    let golden = fs::read(lab.dir().join(GOLDEN)).unwrap();
    let mut expected = golden[..9 * 4096].to_vec();
    expected[7 * 4096..8 * 4096].fill(b'a');
    expected[2 * 4096..3 * 4096].fill(b'b');
    assert!(seen == expected, "the kernel reads other bytes");
}

/// Serves the store over the golden image to `work`, then ends the server gracefully or not.
fn served(lab: &Lab, store: &Path, gracefully: bool, work: impl FnOnce(&mut Initiator)) {
    let segment = Segment::new(9000, 1);
    let golden = lab.dir().join(GOLDEN);
    let export = format!("0.0={},{}", store.display(), golden.display());
    let overlays = lab.dir().join("overlays").display().to_string();
    let arguments = ["--export", export.as_str(), "--overlays", overlays.as_str()];
    let mut server = cowblade(&segment, lab.dir(), &arguments).start();
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

fn check(store: &Path) {
    let output = Command::new(workspace::cowblade()).arg("check").arg(store).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn kernel_to_ours(test: &'static str, chunk_sectors: u32) {
    if !require::met(test, &[KERNEL, SERVER]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    let path = blank_store(&lab);
    in_kernel(&lab, "guest", &path, chunk_sectors, &worker("write"));
    check(&path);
    served(&lab, &path, true, |initiator| {
        judge_disk(&initiator.read(0, GOLDEN_SECTORS, STEP));
    });
    assert_eq!(scenario::golden_unchanged(lab.dir()), Ok(()));
}

/// Opens a store with our engine over the golden image, and runs `work` on it.
fn ours<R>(
    lab: &Lab,
    store: &Path,
    overflow: Overflow,
    work: impl FnOnce(&mut image_chain::Driver<'_, '_>) -> R,
) -> (R, dm_snapshot::Writable) {
    let mut file = image_chain::file(store, true);
    let mut scratch = vec![0; 4096];
    let mut opened = dm_snapshot::open(&file, GOLDEN_SECTORS, &mut scratch).unwrap();
    dm_snapshot::clear_stale(&mut file, &mut opened).unwrap();
    let needed = dm_snapshot::index_needed(opened.geometry().capacity());
    let mut index = vec![IndexEntry::EMPTY; usize::try_from(needed).unwrap()];
    let loaded = dm_snapshot::load_index(&file, &opened, &mut index, &mut scratch).unwrap();
    let top = dm_snapshot::Writable::new(OVERLAY, &loaded).unwrap().with_overflow(overflow);
    let golden = lab.dir().join(GOLDEN);
    let (result, top) = image_chain::with(Top::DmSnapshot(top), &mut index, file, &golden, work);
    let Top::DmSnapshot(top) = top else { panic!("another format") };
    (result, top)
}

/// The kernel merges a store into its origin, and we a copy of both: the disks are the same, and the
/// stores are empty.
#[test]
fn a_merge_does_what_snapshot_merge_of_the_kernel_does() {
    let test = "a_merge_does_what_snapshot_merge_of_the_kernel_does";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    let theirs = blank_store(&lab);
    in_kernel(&lab, "guest", &theirs, 8, &worker("write"));
    let golden = lab.dir().join(GOLDEN);
    let (our_golden, ours) = (lab.dir().join("ours.img"), lab.dir().join("ours.cow"));
    fs::copy(&golden, &our_golden).unwrap();
    fs::copy(&theirs, &ours).unwrap();
    let chain = format!("{},{}", ours.display(), our_golden.display());
    let output = Command::new(workspace::cowblade())
        .args(["merge", &chain, "--in-place", "--keep-overlay", "empty", "--yes"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let script = "export DM_DISABLE_UDEV=1
         dmsetup create all --noudevsync --table \
            \"0 $(blockdev --getsz /dev/ubda) snapshot-merge /dev/ubda /dev/ubdb p 8\" \
            || fail create
         for n in $(seq 2000); do
            set -- $(dmsetup status all)
            [ \"${4%/*}\" = \"$5\" ] && break
            sleep 0.1
         done
         mark merged \"$(dmsetup status all)\"
         dmsetup remove all --noudevsync || fail remove\n";
    let disks = vec![golden.clone(), theirs.clone()];
    let mut plan = lab.kernel(&lab.dir().join("merging"), disks, script);
    plan.modules = ["dm-mod", "dm-bufio", "dm-snapshot"].map(Into::into).into();
    plan.boot().wait(None).unwrap().assert_success();
    let merged = fs::read(&our_golden).unwrap();
    judge_disk(&merged);
    assert!(fs::read(&golden).unwrap() == merged, "the kernel comes to another disk");
    for store in [theirs, ours] {
        let store = Store::parse(&fs::read(store).unwrap()).unwrap();
        assert!(store.valid && store.exceptions.is_empty(), "{:?}", store.exceptions.first());
    }
}

/// Chunks of one sector fill many areas of the list; large ones are mostly copied.
#[test]
fn any_chunk_size_goes_back_and_forth() {
    let test = "any_chunk_size_goes_back_and_forth";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    for chunk_sectors in [1, 2, 16, 1024] {
        let path = lab.dir().join(format!("{chunk_sectors}.cow"));
        fs::File::create(&path).unwrap().set_len(STORE_BYTES).unwrap();
        let mut file = image_chain::file(&path, true);
        dm_snapshot::create(&mut file, chunk_sectors).unwrap();
        drop(file);
        let plans = LOAD.plans();
        ours(&lab, &path, Overflow::Fail, |chain| image_chain::write(chain, &plans[0]));
        let name = format!("guest{chunk_sectors}");
        let work = [worker("write"), worker("verify")].concat();
        in_kernel(&lab, &name, &path, chunk_sectors, &work);
        let read =
            |chain: &mut image_chain::Driver<'_, '_>| image_chain::read(chain, 0, GOLDEN_SECTORS);
        judge_disk(&ours(&lab, &path, Overflow::Fail, read).0);
        let bytes = fs::read(&path).unwrap();
        let store = Store::parse(&bytes).unwrap();
        assert!(chunk_sectors > 2 || store.exceptions.len() > 4 * 32 * 2);
        judge_disk(&store.view(&bytes, &fs::read(lab.dir().join(GOLDEN)).unwrap()));
    }
}

/// What the kernel makes of a store that we filled, with both kinds of overflow.
#[test]
fn the_kernel_sees_our_full_store() {
    let test = "the_kernel_sees_our_full_store";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    for (overflow, status) in [(Overflow::Fail, "80/80 16"), (Overflow::Invalidate, "Invalid")] {
        let path = lab.dir().join(format!("{overflow:?}.cow"));
        // Header, area and eight chunks.
        fs::File::create(&path).unwrap().set_len(10 * 4096).unwrap();
        let mut file = image_chain::file(&path, true);
        dm_snapshot::create(&mut file, 8).unwrap();
        let (written, top) = ours(&lab, &path, overflow, |chain| {
            let at = |chunk: u64| Lba::new(chunk * 8).unwrap();
            let written = (0..20).take_while(|n| chain.write(at(*n), &[7; 512]).is_ok()).count();
            let readable = chain.read(at(0), &mut [0; 512]).is_ok();
            assert_eq!(readable, overflow == Overflow::Fail);
            written
        });
        assert_eq!(written, 8);
        assert_eq!(top.is_to_be_invalidated(), overflow == Overflow::Invalidate);
        if top.is_to_be_invalidated() {
            dm_snapshot::invalidate(&mut file).unwrap();
        }
        drop(file);
        let first = "dd if=/dev/mapper/snap of=/host/seen bs=512 count=1 iflag=direct || true\n";
        let finished = in_kernel(&lab, &format!("guest{overflow:?}"), &path, 8, first);
        let table = fs::read_to_string(finished.share.join("table")).unwrap();
        assert!(table.trim().ends_with(status), "{overflow:?}: {table}");
        let seen = fs::read(finished.share.join("seen")).unwrap_or_default();
        assert_eq!(seen == [7; 512], overflow == Overflow::Fail, "{} bytes", seen.len());
    }
}

#[test]
fn we_serve_a_store_of_the_kernel_with_small_chunks() {
    kernel_to_ours("we_serve_a_store_of_the_kernel_with_small_chunks", 8);
}

#[test]
fn we_serve_a_store_of_the_kernel_with_the_recipes_chunks() {
    kernel_to_ours("we_serve_a_store_of_the_kernel_with_the_recipes_chunks", 64);
}

fn ours_to_kernel(test: &'static str, chunk_sectors: u32, gracefully: bool) {
    if !require::met(test, &[KERNEL, SERVER]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    scenario::make_golden(lab.dir());
    let path = lab.dir().join("store.cow");
    let output = Command::new(workspace::cowblade())
        .args(["create", "--format", "dm-snapshot", "--chunk"])
        .arg((chunk_sectors * 512).to_string())
        .arg("--backing")
        .args([&lab.dir().join(GOLDEN), &path])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    served(&lab, &path, gracefully, |initiator| {
        for plan in LOAD.plans() {
            for write in plan.iter() {
                initiator.write(write.lba, &plan.bytes(write), STEP);
            }
        }
    });
    check(&path);
    // The kernel wants room for what it may add.
    fs::File::options().write(true).open(&path).unwrap().set_len(STORE_BYTES).unwrap();
    // It then goes on in our store, and we in its.
    let rewrite = [worker("verify"), worker("write"), worker("verify")].concat();
    in_kernel(&lab, "guest", &path, chunk_sectors, &rewrite);
    served(&lab, &path, true, |initiator| {
        judge_disk(&initiator.read(0, GOLDEN_SECTORS, STEP));
    });
    assert_eq!(scenario::golden_unchanged(lab.dir()), Ok(()));
}

#[test]
fn the_kernel_reads_our_store_with_small_chunks() {
    ours_to_kernel("the_kernel_reads_our_store_with_small_chunks", 8, true);
}

#[test]
fn the_kernel_reads_our_store_after_a_crash() {
    ours_to_kernel("the_kernel_reads_our_store_after_a_crash", 64, false);
}
