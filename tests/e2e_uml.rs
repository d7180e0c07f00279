//! UML's COW files, exchanged with the driver in a real User-Mode-Linux kernel and with its tools:
//! both ways, and in turn.
//!
//! That kernel reads wrong data with requests of more than a page over partly covered pages, and
//! dies of bases up to 32 KiB: its reads are of 4 KiB, and smaller bases are left to the tools.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cow_core::format::bitmap::Finding;
use cow_core::format::uml::{self, Version};
use cow_core::format::{Map, Top};
use cow_core::pages::Page;
use system_tests::image_chain::{self, OVERLAY};
use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::pattern::{Base, Content, Plan, SECTOR_BYTES, Stamp};
use system_tests::require::{self, Need};
use system_tests::workspace::WorkDir;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const KERNEL: &[Need] = &[Need::Program("linux.uml"), Need::Program("busybox")];
const TOOLS: &[Need] = &[Need::Program("uml_moo"), Need::Program("uml_mkcow")];
const BASE_SEED: u64 = 77;
/// Device names in a guest, in the order of `ubd0`, `ubd1` and so on.
const NAMES: &str = "abcdefgh";

/// A base and the part of it that is written and looked at.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    bytes: u64,
    first: u64,
    sectors: u64,
}

const fn case(name: &'static str, bytes: u64, first: u64, sectors: u64) -> Case {
    Case { name, bytes, first, sectors }
}

/// Odd sector counts, a tail that is no sector, a page of the bitmap, more than 2^32 bytes.
const CASES: [Case; 6] = [
    case("round", 8 << 20, 0, 16_384),
    case("odd", 10_243 * 512, 0, 10_243),
    case("small", 65 * 512, 0, 65),
    case("tail", 1_048_676, 0, 2049),
    case("page", (32_768 + 5) * 512, 32_000, 773),
    case("huge", 5 << 30, (1 << 23) - 400, 800),
];

impl Case {
    fn base(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.img", self.name))
    }

    /// A sparse base that is stamped where it is looked at.
    fn make_base(&self, dir: &Path) {
        let file = File::create(self.base(dir)).unwrap();
        for lba in self.first..self.first + self.sectors {
            let stamp = Stamp { seed: BASE_SEED, lba, write: 0 }.sector();
            let at = lba * SECTOR_BYTES;
            let held = usize::try_from((self.bytes - at).min(SECTOR_BYTES)).unwrap();
            file.write_all_at(&stamp[..held], at).unwrap();
        }
        file.set_len(self.bytes).unwrap();
    }

    fn plan(&self, seed: u64) -> Plan {
        let (first, sectors) = (self.first, self.sectors);
        Plan { seed: seed * 1000 + 1, first, sectors, writes: 60, longest: 20.min(sectors) }
    }

    /// What the looked-at part holds after some plans of writes, as bytes.
    fn model(&self, plans: &[Plan]) -> Vec<u8> {
        let mut contents = Plan { writes: 0, ..self.plan(0) }.contents(0, Base::Golden(BASE_SEED));
        for plan in plans {
            for (to, content) in contents.iter_mut().zip(plan.contents(plan.writes, Base::Blank)) {
                if content != Content::Zeros {
                    *to = content;
                }
            }
        }
        let mut bytes = Vec::new();
        for content in contents {
            match content {
                Content::Stamped(stamp) => bytes.extend_from_slice(&stamp.sector()),
                _ => bytes.extend_from_slice(&[0; 512]),
            }
        }
        // The base's last sector, if nobody wrote it, ends with zeros.
        let last = self.bytes.div_ceil(SECTOR_BYTES) - 1;
        let written = plans.iter().any(|p| p.iter().any(|w| w.lba + w.count > last));
        let at = self.first + self.sectors - 1;
        if at == last && !written && !self.bytes.is_multiple_of(SECTOR_BYTES) {
            let keep = usize::try_from(self.bytes - self.first * SECTOR_BYTES).unwrap();
            bytes[keep..].fill(0);
        }
        bytes
    }

    /// As [`judge`](Self::judge), of what the kernel read. Behind the end of a base that ends
    /// within a sector it repeats that sector's bytes, until that sector is written.
    fn judge_kernel(&self, share: &Path, when: &str, plans: &[Plan]) {
        let mut found = fs::read(share.join(format!("{}.{when}", self.name))).unwrap();
        let model = self.model(plans);
        let end = usize::try_from(self.bytes - self.first * SECTOR_BYTES).unwrap();
        if let (Some(found), Some(model)) = (found.get_mut(end..), model.get(end..)) {
            found.copy_from_slice(model);
        }
        self.judge(&format!("the kernel {when}"), &found, plans);
    }

    fn judge(&self, who: &str, found: &[u8], plans: &[Plan]) {
        let model = self.model(plans);
        if found == model {
            return;
        }
        let expected: Vec<_> = model.chunks(512).map(Content::of).collect();
        let verdict = judge::contents(&expected, self.first, found);
        panic!("{}: {who}: {verdict:?}, {} bytes", self.name, found.len());
    }

    /// Our own COW file over the base.
    fn create(&self, dir: &Path, cow: &Path, version: Version) {
        let base = self.base(dir);
        File::create(cow).unwrap();
        let options = uml::CreateOptions {
            version,
            path: base.to_str().unwrap().as_bytes(),
            size_bytes: self.bytes,
            mtime_s: fs::metadata(&base).unwrap().mtime(),
            alignment: 4096,
            wipe: false,
        };
        uml::create(&mut image_chain::file(cow, true), &options).unwrap();
    }

    /// Writes with our engine, and gives what it reads afterwards.
    fn ours(&self, dir: &Path, cow: &Path, plan: Option<&Plan>) -> Vec<u8> {
        let mut overlay = image_chain::file(cow, true);
        let top = uml::open_writable(&mut overlay, OVERLAY, &mut Page::ZERO.clone()).unwrap();
        assert_eq!(top.sectors(), self.bytes.div_ceil(SECTOR_BYTES));
        image_chain::with(Top::Bitmap(top), &mut [], overlay, &self.base(dir), |chain| {
            if let Some(plan) = plan {
                image_chain::write(chain, plan);
            }
            image_chain::read(chain, self.first, self.sectors)
        })
        .0
    }

    /// `uml_moo` makes a new image of both; gives the looked-at part.
    fn merged(&self, dir: &Path, cow: &Path) -> Vec<u8> {
        let out = dir.join("merged");
        let _absent = fs::remove_file(&out);
        run(Command::new("uml_moo").arg("-b").arg(self.base(dir)).arg(cow).arg(&out));
        let file = File::open(&out).unwrap();
        let from = self.first * SECTOR_BYTES;
        // The tool drops a tail that is no sector.
        let end = (from + self.sectors * SECTOR_BYTES).min(file.metadata().unwrap().len());
        let mut bytes = vec![0; usize::try_from(end - from).unwrap()];
        file.read_exact_at(&mut bytes, from).unwrap();
        bytes
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn assert_clean(cow: &Path) {
    let allow = |finding: Finding| {
        assert!(matches!(finding, Finding::StrayBits { .. }), "{}: {finding}", cow.display());
    };
    uml::check(&image_chain::file(cow, false), &mut Page::ZERO.clone(), allow).unwrap();
}

/// The guest copies what it reads, writes a plan and copies again: `NAME.before`, `NAME.after`.
fn guest_script(cases: &[(Case, Plan)]) -> String {
    let work = cases.iter().zip(NAMES.chars()).map(|((case, plan), letter)| {
        let Case { name, first, sectors, .. } = case;
        let Plan { seed, writes, longest, .. } = plan;
        let device = format!("/dev/ubd{letter}");
        let read = format!("disk-worker read {device} first={first} sectors={sectors} step=8");
        format!(
            "{read} to=/host/{name}.before || fail {name} before
             disk-worker write {device} seed={seed} first={first} sectors={sectors} \
                writes={writes} longest={longest} writers=1 || fail {name} write
             {read} to=/host/{name}.after || fail {name} after\n"
        )
    });
    work.collect()
}

/// What `disk-worker` makes of a plan with one writer.
fn worker_plan(plan: Plan) -> Plan {
    plan.split(1)[0]
}

/// Boots a kernel on the pairs; gives the directory with what it read.
fn in_guest(lab: &Lab, name: &str, pairs: &[(Case, PathBuf)], seed: u64) -> PathBuf {
    let disks = pairs
        .iter()
        .map(|(case, cow)| format!("{},{}", cow.display(), case.base(lab.dir()).display()).into());
    let plans: Vec<_> = pairs.iter().map(|(case, _)| (*case, case.plan(seed))).collect();
    let script = guest_script(&plans);
    let plan = lab.kernel(&lab.dir().join(name), disks.collect(), &script);
    let finished = plan.boot().wait(None).unwrap();
    finished.assert_success();
    finished.share
}

/// We write, the kernel reads and writes, we read and write, the tool merges.
fn in_turn(lab: &Lab, pairs: &[(Case, PathBuf)]) {
    for (case, cow) in pairs {
        let plan = case.plan(1);
        case.judge("our own reads", &case.ours(lab.dir(), cow, Some(&plan)), &[plan]);
        assert_clean(cow);
    }
    let share = in_guest(lab, "turn", pairs, 2);
    for (case, cow) in pairs {
        let mut plans = vec![case.plan(1)];
        case.judge_kernel(&share, "before", &plans);
        plans.push(worker_plan(case.plan(2)));
        case.judge_kernel(&share, "after", &plans);
        case.judge("we, of the kernel's", &case.ours(lab.dir(), cow, None), &plans);
        plans.push(case.plan(3));
        let found = case.ours(lab.dir(), cow, plans.last());
        case.judge("we, of both", &found, &plans);
        assert_clean(cow);
        let merged = case.merged(lab.dir(), cow);
        assert!(found.starts_with(&merged), "{}: uml_moo sees other data", case.name);
        assert!(found.len() - merged.len() <= 512);
    }
}

#[test]
fn we_and_the_kernel_write_version_3_in_turn() {
    let test = "we_and_the_kernel_write_version_3_in_turn";
    if !require::met(test, &[KERNEL, TOOLS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let pairs = CASES.map(|case| {
        case.make_base(lab.dir());
        let cow = lab.dir().join(format!("{}.cow", case.name));
        case.create(lab.dir(), &cow, Version::V3);
        (case, cow)
    });
    in_turn(&lab, &pairs);
}

#[test]
fn we_and_the_kernel_write_old_versions_in_turn() {
    let test = "we_and_the_kernel_write_old_versions_in_turn";
    if !require::met(test, &[KERNEL, TOOLS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let pairs: Vec<_> = [
        ("v1", Version::V1, 8 << 20, 0, 16_384),
        ("v1page", Version::V1, (32_768 + 8) << 9, 32_000, 776),
        ("v2", Version::V2, 8 << 20, 0, 16_384),
        ("v2huge", Version::V2, 5 << 30, (1 << 23) - 400, 800),
        ("padded", Version::V3Padded, 10_243 * 512, 0, 10_243),
    ]
    .into_iter()
    .map(|(name, version, bytes, first, sectors)| {
        let case = case(name, bytes, first, sectors);
        case.make_base(lab.dir());
        let cow = lab.dir().join(format!("{name}.cow"));
        case.create(lab.dir(), &cow, version);
        (case, cow)
    })
    .collect();
    in_turn(&lab, &pairs);
    for ((_, cow), version) in pairs.iter().zip([1, 1, 2, 2, 3]) {
        let opened = uml::open(&image_chain::file(cow, false)).unwrap();
        assert_eq!(opened.version().number(), version, "nobody made it another version");
    }
}

/// The kernel makes the files itself; ours are the same, byte for byte.
#[test]
fn files_of_the_kernel_are_read_and_made() {
    let test = "files_of_the_kernel_are_read_and_made";
    if !require::met(test, &[KERNEL, TOOLS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let pairs = CASES.map(|case| {
        case.make_base(lab.dir());
        (case, lab.dir().join(format!("{}.kernel", case.name)))
    });
    let share = in_guest(&lab, "guest", &pairs, 5);
    for (case, cow) in &pairs {
        let plans = [worker_plan(case.plan(5))];
        case.judge_kernel(&share, "after", &plans);
        case.judge("we, of the kernel's", &case.ours(lab.dir(), cow, None), &plans);
        assert_clean(cow);
        // The judge notices a single lost bit.
        let bytes = File::options().read(true).write(true).open(cow).unwrap();
        let mut bit = [0];
        let first = plans[0].iter().next().unwrap().lba;
        bytes.read_exact_at(&mut bit, 8192 + first / 8).unwrap();
        bytes.write_all_at(&[bit[0] & !(1 << (first % 8))], 8192 + first / 8).unwrap();
        let wrong = case.ours(lab.dir(), cow, None);
        assert_ne!(wrong, case.model(&plans), "{}", case.name);
    }
}

/// Both tools, with sizes that the kernel does not survive, too.
#[test]
fn the_tools_agree_about_every_size() {
    let test = "the_tools_agree_about_every_size";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new(test);
    let sizes = [1, 3, 7, 8, 9, 64, 65, 511, 4096, 10_243, 32_767, 32_768, 32_769];
    for sectors in sizes {
        let case = case("size", sectors * 512, 0, sectors);
        case.make_base(dir.path());
        let (ours, theirs) = (dir.join("ours.cow"), dir.join("theirs.cow"));
        // With -f it would keep the bits of an older file.
        let _absent = fs::remove_file(&theirs);
        run(Command::new("uml_mkcow").arg(&theirs).arg(case.base(dir.path())));
        case.create(dir.path(), &ours, Version::V3);
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{sectors} sectors");
        let plan = case.plan(sectors);
        let found = case.ours(dir.path(), &theirs, Some(&plan));
        case.judge("we, in uml_mkcow's file", &found, &[plan]);
        assert!(case.merged(dir.path(), &theirs) == found, "{sectors} sectors");
        // The older versions, where they have a bit for every sector.
        for version in [Version::V1, Version::V2, Version::V3Padded] {
            if version != Version::V3Padded && !sectors.is_multiple_of(8) {
                continue;
            }
            case.create(dir.path(), &ours, version);
            assert!(case.ours(dir.path(), &ours, Some(&plan)) == found);
            assert!(case.merged(dir.path(), &ours) == found, "{sectors} sectors, {version:?}");
        }
        // In place: afterwards the base reads as the chain did.
        let moo = Command::new("uml_moo")
            .args(["-d", "-b"])
            .arg(case.base(dir.path()))
            .arg(&theirs)
            .output()
            .unwrap();
        assert!(moo.status.success());
        assert!(fs::read(case.base(dir.path())).unwrap() == found, "{sectors} sectors in place");
    }
}

/// After we recorded another parent the kernel takes the pair without touching the header.
#[test]
fn the_kernel_accepts_a_parent_that_we_recorded() {
    let test = "the_kernel_accepts_a_parent_that_we_recorded";
    if !require::met(test, &[KERNEL]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let case = case("round", 8 << 20, 0, 16_384);
    case.make_base(lab.dir());
    let cow = lab.dir().join("round.cow");
    case.create(lab.dir(), &cow, Version::V2);
    let plan = case.plan(1);
    case.ours(lab.dir(), &cow, Some(&plan));
    let moved = lab.dir().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::rename(case.base(lab.dir()), case.base(&moved)).unwrap();
    // Another time of modification, too.
    let base = File::options().append(true).open(case.base(&moved)).unwrap();
    base.set_modified(std::time::UNIX_EPOCH + core::time::Duration::from_secs(1 << 30)).unwrap();
    let mut file = image_chain::file(&cow, true);
    let mut opened = uml::open(&file).unwrap();
    let path = case.base(&moved);
    let path = path.to_str().unwrap().as_bytes();
    let mut page = Page::ZERO.clone();
    let parent = uml::NewParent { path, size_bytes: opened.size_bytes(), mtime_s: 1 << 30 };
    uml::set_parent(&mut file, &mut opened, &parent, &mut page).unwrap();
    drop(file);
    let header = |cow| fs::read(cow).unwrap()[..4120].to_vec();
    let before = header(&cow);
    // By its stored path alone.
    let script = guest_script(&[(case, case.plan(2))]);
    let guest = lab.kernel(&lab.dir().join("guest"), vec![cow.clone()], &script);
    let finished = guest.boot().wait(None).unwrap();
    finished.assert_success();
    case.judge_kernel(&finished.share, "before", &[plan]);
    assert!(header(&cow) == before);
    let plans = [plan, worker_plan(case.plan(2))];
    case.judge("we", &case.ours(&moved, &cow, None), &plans);
}
