//! qcow images of version 1 exchanged with QEMU's tools, both ways: what they make reads here byte
//! for byte; what is written here they compare, convert, commit and go on with.
//!
//! `qemu-img check` does not know the format: ours and a reader by the letter of the specification
//! (`qcow1_image`) take its place.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::PathBuf;

use aoe_host::storage::FileTable;
use cow_core::format::{Layer, Place, Top, qcow1, raw};
use cow_core::pages::Page;
use cow_core::storage::ReadStorage;
use cow_core::units::{Extent, Lba};
use system_tests::qcow1_image::{self, Shape};
use system_tests::qemu::{self, Driver, TOOLS, key, text};
use system_tests::require;
use system_tests::rng::Rng;
use system_tests::workspace::WorkDir;

/// An image and what its disk must read as.
struct Subject {
    dir: WorkDir,
    image: PathBuf,
    base: Option<PathBuf>,
    /// As a sparse file, so that large disks cost nothing.
    expected: std::fs::File,
    sectors: u64,
    shape: Shape,
    rng: Rng,
}

/// Sectors that one L2 table stands for, of images as QEMU makes them.
const TABLE: u64 = 4096;

/// One sector, odd numbers, around a table boundary, and beyond 2^32 bytes.
const SIZES: [u64; 8] = [1, 7, 1001, TABLE - 1, TABLE, TABLE + 1, 10_243, (1 << 23) + 77];

impl Subject {
    /// A disk over a base that is shorter, longer, or of the same length; or over none.
    fn new(test: &str, sectors: u64, backed: bool, seed: u64) -> Self {
        let dir = WorkDir::new(test);
        let mut rng = Rng::new(seed ^ sectors << 8);
        let expected_path = dir.join("expected.raw");
        let options = || std::fs::File::options().read(true).write(true).create(true).to_owned();
        let expected = options().truncate(true).open(&expected_path).unwrap();
        let base = backed.then(|| {
            let most = (sectors * 512).min(6 << 20);
            let len = match seed % 3 {
                0 => most,
                1 => most.saturating_sub(3 * 512 + 77).max(1),
                _ => most + 4096,
            };
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            rng.fill(&mut bytes);
            let path = dir.join("base.raw");
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(&expected_path, &bytes).unwrap();
            path
        });
        expected.set_len(sectors * 512).unwrap();
        let image = dir.join("image.qcow");
        let (cluster_bits, l2_bits) = if backed { (9, 12) } else { (12, 9) };
        Self { dir, image, base, expected, sectors, shape: Shape { cluster_bits, l2_bits }, rng }
    }

    fn qemu_creates(&self) {
        let size = (self.sectors * 512).to_string();
        let mut args = vec!["create", "-q", "-f", "qcow"];
        if self.base.is_some() {
            args.extend(["-b", "base.raw", "-F", "raw"]);
        }
        args.extend([text(&self.image), &size]);
        qemu::run("qemu-img", &args);
    }

    fn we_create(&self) {
        std::fs::write(&self.image, b"").unwrap();
        let name = self.base.is_some().then_some(&b"base.raw"[..]);
        let options = qcow1::CreateOptions::new(self.sectors, name);
        let table = qemu::files(core::slice::from_ref(&self.image), true);
        qcow1::create(&mut table.get(key(0)).unwrap().clone(), &options).unwrap();
    }

    /// A range somewhere on a small disk, near table boundaries and ends on a large one.
    fn range(&mut self) -> (u64, u64) {
        let near = match self.rng.below(4) {
            0 => self.rng.below(self.sectors.div_ceil(TABLE)) * TABLE,
            1 => self.sectors,
            _ => self.rng.below(self.sectors.min(9000)),
        };
        let first = (near + self.rng.below(40)).saturating_sub(20).min(self.sectors - 1);
        let most = if self.rng.below(3) == 0 { 2 } else { 100 };
        (first, (1 + self.rng.below(most)).min(self.sectors - first))
    }

    fn expect(&self, first: u64, bytes: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(&self.expected, bytes, first * 512).unwrap();
    }

    fn qemu_writes(&mut self, count: usize) {
        let mut commands = Vec::new();
        for _ in 0..count {
            let (first, len) = self.range();
            let pattern = self.rng.byte();
            commands.push(format!("write -P {pattern} {} {}", first * 512, len * 512));
            self.expect(first, &vec![pattern; usize::try_from(len * 512).unwrap()]);
        }
        qemu::io(&self.image, "qcow", &commands);
    }

    /// Writes, zeros and discards of ours.
    fn we_write(&mut self, count: usize) {
        let mut ranges = Vec::new();
        for _ in 0..count {
            let range = self.range();
            let mut bytes = vec![0; usize::try_from(range.1 * 512).unwrap()];
            let zero = self.rng.below(6) == 0;
            if !zero {
                self.rng.fill(&mut bytes);
            }
            self.expect(range.0, &bytes);
            ranges.push((range, bytes, zero));
        }
        self.overlay(|driver| {
            for ((first, len), bytes, zero) in ranges {
                if zero {
                    driver.zero(Extent::new(first, len).unwrap()).unwrap();
                } else {
                    driver.write(Lba::new(first).unwrap(), &bytes).unwrap();
                }
            }
        });
    }

    fn files(&self, writable: bool) -> FileTable {
        let mut paths = vec![self.image.clone()];
        paths.extend(self.base.clone());
        qemu::files(&paths, writable)
    }

    fn base_layer(files: &FileTable) -> Vec<Layer<'static>> {
        let base = files.get(key(1)).map(|base| raw::Raw::new(key(1), base.len_bytes().unwrap()));
        base.map(|raw| Layer::Raw(raw.unwrap())).into_iter().collect()
    }

    /// Opens the image as an overlay.
    fn overlay<R>(&self, work: impl FnOnce(&mut Driver<'_, '_>) -> R) -> R {
        let mut files = self.files(true);
        let layers = Self::base_layer(&files);
        let mut file = files.get(key(0)).unwrap().clone();
        let top = qcow1::open_writable(&mut file, key(0), &mut Page::ZERO.clone()).unwrap();
        qemu::with(Some(Top::Qcow1(top)), &layers, &mut files, 4, work).0
    }

    /// Opens the image as a layer.
    fn layer<R>(&self, work: impl FnOnce(&mut Driver<'_, '_>) -> R) -> R {
        let mut files = self.files(false);
        let opened = qcow1::open(files.get(key(0)).unwrap()).unwrap();
        let mut layers = vec![Layer::Qcow1(opened.frozen(key(0)))];
        layers.extend(Self::base_layer(&files));
        qemu::with(None, &layers, &mut files, 3, work).0
    }

    /// QEMU finds what is expected.
    fn qemu_compares(&self) {
        let expected = self.dir.join("expected.raw");
        let args = ["compare", "-f", "qcow", "-F", "raw", text(&self.image), text(&expected)];
        let said = qemu::run("qemu-img", &args);
        assert!(said.contains("identical"), "{said}");
    }

    /// So do we, and everything is in order. Of large disks only what they hold is read.
    fn we_compare(&mut self) {
        self.check();
        let small = self.sectors < 1 << 16;
        let expected = self.expected.try_clone().unwrap();
        let (sectors, mut rng) = (self.sectors, self.rng.clone());
        let ranges = if small { vec![(0, sectors)] } else { self.held() };
        self.layer(|driver| {
            for (first, len) in ranges {
                let (mut at, end) = (first, first + len);
                while at < end {
                    let count = (1 + rng.below(300)).min(end - at);
                    let mut found = vec![0xee; usize::try_from(count * 512).unwrap()];
                    driver.read(Lba::new(at).unwrap(), &mut found).unwrap();
                    let mut wanted = vec![0; found.len()];
                    std::os::unix::fs::FileExt::read_exact_at(&expected, &mut wanted, at * 512)
                        .unwrap();
                    assert!(found == wanted, "{count} sectors from {at} of {sectors} differ");
                    at += count;
                }
            }
        });
    }

    /// What the image holds, with a neighbour on each side.
    fn held(&self) -> Vec<(u64, u64)> {
        let files = self.files(false);
        let file = files.get(key(0)).unwrap();
        let opened = qcow1::open(file).unwrap();
        let mut scratch = [Page::ZERO, Page::ZERO];
        let mut runs = qcow1::Runs::new(&opened, &mut scratch);
        let mut held = Vec::new();
        while let Some((extent, _)) = runs.next(file).unwrap() {
            let first = extent.start().get().saturating_sub(1);
            held.push((first, (extent.end().get() + 1).min(self.sectors) - first));
        }
        held
    }

    /// No damage; nothing lost but what alignment and what ended under way explain.
    fn check(&self) -> qcow1::Report {
        let files = self.files(false);
        let mut findings = Vec::new();
        let mut scratch = [Page::ZERO, Page::ZERO];
        let report = qcow1::check(
            files.get(key(0)).unwrap(),
            &mut [0; 1 << 12],
            &mut scratch,
            &mut |finding: qcow1::Finding| {
                if finding.is_damage() {
                    findings.push(finding.to_string());
                }
            },
        );
        assert!(findings.is_empty(), "{findings:?}");
        report.unwrap()
    }
}

fn subjects(test: &str, work: impl Fn(&mut Subject)) {
    if !require::met(test, &[TOOLS]) {
        return;
    }
    for (seed, sectors) in SIZES.into_iter().enumerate() {
        for backed in [false, true] {
            let mut subject = Subject::new(test, sectors, backed, seed as u64);
            work(&mut subject);
        }
    }
}

#[test]
fn we_read_what_qemu_writes() {
    subjects("we_read_what_qemu_writes", |subject| {
        subject.qemu_creates();
        subject.qemu_compares();
        subject.we_compare();
        subject.qemu_writes(60);
        subject.qemu_compares();
        subject.we_compare();
    });
}

#[test]
fn qemu_reads_what_we_write() {
    subjects("qemu_reads_what_we_write", |subject| {
        subject.we_create();
        subject.qemu_compares();
        subject.we_write(60);
        subject.we_compare();
        subject.qemu_compares();
    });
}

#[test]
fn images_are_written_in_turn() {
    subjects("images_are_written_in_turn", |subject| {
        if subject.sectors % 2 == 0 {
            subject.we_create();
        } else {
            subject.qemu_creates();
        }
        for _ in 0..3 {
            subject.we_write(25);
            subject.qemu_writes(25);
        }
        subject.we_write(10);
        subject.qemu_compares();
        subject.we_compare();
        // A third reader, by the letter of the specification.
        if subject.sectors < 1 << 16 {
            let bytes = std::fs::read(&subject.image).unwrap();
            let image = qcow1_image::Image::parse(&bytes).unwrap();
            assert_eq!((image.sectors, image.shape), (subject.sectors, subject.shape));
            let base = subject.base.as_ref().map_or(Vec::new(), |b| std::fs::read(b).unwrap());
            let expected = std::fs::read(subject.dir.join("expected.raw")).unwrap();
            assert!(image.view(&bytes, &base) == expected);
        }
    });
}

/// The judge must notice a single foreign byte.
#[test]
fn a_wrong_byte_is_found() {
    let test = "a_wrong_byte_is_found";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let mut subject = Subject::new(test, 1001, true, 3);
    subject.we_create();
    subject.we_write(20);
    subject.qemu_compares();
    let (first, _) = subject.held()[1];
    subject.expect(first + 1, &[0x5a; 512]);
    assert!(std::panic::catch_unwind(|| subject.qemu_compares()).is_err());
    let mut subject = core::panic::AssertUnwindSafe(subject);
    assert!(std::panic::catch_unwind(move || subject.we_compare()).is_err());
}

/// Our images begin as QEMU's do, byte for byte.
#[test]
fn our_images_begin_like_qemus() {
    let test = "our_images_begin_like_qemus";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    for backed in [false, true] {
        for sectors in SIZES {
            let subject = Subject::new(test, sectors, backed, 0);
            subject.qemu_creates();
            let theirs = std::fs::read(&subject.image).unwrap();
            subject.we_create();
            let ours = std::fs::read(&subject.image).unwrap();
            let common = theirs.len().min(ours.len());
            let (theirs, their_rest) = theirs.split_at(common);
            let (ours, our_rest) = ours.split_at(common);
            assert!(theirs == ours, "{sectors} sectors, backed: {backed}");
            // The table ends before both: they add a different number of zeros.
            assert!([their_rest, our_rest].concat().iter().all(|byte| *byte == 0));
        }
    }
}

/// Compressed clusters, read; then partly overwritten, so that the rest of them is unpacked.
#[test]
fn compressed_clusters_are_read_and_replaced() {
    let test = "compressed_clusters_are_read_and_replaced";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    for (seed, sectors) in [8, 1001, 10_243].into_iter().enumerate() {
        let mut subject = Subject::new(test, sectors, false, seed as u64);
        // Text that can be compressed, noise that cannot, and nothing.
        let mut bytes = vec![0; usize::try_from(sectors * 512).unwrap()];
        for (at, part) in bytes.chunks_mut(5000).enumerate() {
            match at % 3 {
                0 => {
                    let words = b"all work and no play ".iter().cycle();
                    part.iter_mut().zip(words).for_each(|(to, from)| *to = *from);
                }
                1 => subject.rng.fill(part),
                _ => {}
            }
        }
        subject.expect(0, &bytes);
        let expected = subject.dir.join("expected.raw");
        let args =
            ["convert", "-c", "-f", "raw", "-O", "qcow", text(&expected), text(&subject.image)];
        // It says that it failed, and leaves a good file [COW 5.2].
        let (_, said) = qemu::try_run("qemu-img", &args);
        println!("{said}");
        subject.qemu_compares();
        let report = subject.check();
        assert!(report.packed > 0 && (report.clusters > 0 || sectors < 100), "{report:?}");
        subject.we_compare();
        packed_runs_are_told(&subject, report.packed);
        for _ in 0..2 {
            subject.we_write(12);
            subject.qemu_writes(3);
        }
        subject.we_compare();
        subject.qemu_compares();
    }
}

fn packed_runs_are_told(subject: &Subject, packed: u64) {
    let files = subject.files(false);
    let file = files.get(key(0)).unwrap();
    let opened = qcow1::open(file).unwrap();
    let mut scratch = [Page::ZERO, Page::ZERO];
    let mut runs = qcow1::Runs::new(&opened, &mut scratch);
    let mut seen = 0;
    while let Some((extent, place)) = runs.next(file).unwrap() {
        assert!(extent.end().get() <= subject.sectors);
        seen += u64::from(matches!(place, Place::Packed(_)));
    }
    assert_eq!(seen, packed);
}

/// `qemu-img commit` folds our overlay into its base and empties it; we go on with both.
#[test]
fn qemu_commits_our_overlay() {
    let test = "qemu_commits_our_overlay";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let mut subject = Subject::new(test, 10_243, true, 0);
    subject.we_create();
    subject.we_write(60);
    qemu::run("qemu-img", &["commit", "-q", "-f", "qcow", text(&subject.image)]);
    let committed = std::fs::read(subject.base.as_ref().unwrap()).unwrap();
    let expected = std::fs::read(subject.dir.join("expected.raw")).unwrap();
    assert!(committed == expected, "the base is not what the overlay was");
    assert!(subject.held().is_empty());
    subject.we_compare();
    subject.we_write(20);
    subject.qemu_compares();
    subject.we_compare();
}

/// What an image was emptied of reads from the backing file again, here and there.
#[test]
fn an_emptied_image_is_good_for_qemu() {
    let test = "an_emptied_image_is_good_for_qemu";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let mut subject = Subject::new(test, 10_243, true, 0);
    subject.qemu_creates();
    subject.qemu_writes(40);
    let mut file = subject.files(true).get(key(0)).unwrap().clone();
    qcow1::rollback(&mut file, &mut Page::ZERO.clone()).unwrap();
    let base = std::fs::read(subject.base.as_ref().unwrap()).unwrap();
    subject.expect(0, &base);
    subject.qemu_compares();
    subject.we_compare();
    subject.qemu_writes(20);
    subject.we_write(20);
    subject.qemu_compares();
    subject.we_compare();
}

/// QEMU was cut off between the L1 entry of a table and the table, or between the L2 entry of a
/// cluster and its data: what is not there reads from below, and is repaired.
#[test]
fn an_image_that_qemu_did_not_end_is_repaired() {
    let test = "an_image_that_qemu_did_not_end_is_repaired";
    if !require::met(test, &[TOOLS]) {
        return;
    }
    let mut subject = Subject::new(test, 10_243, true, 0);
    subject.qemu_creates();
    let base = std::fs::read(subject.base.as_ref().unwrap()).unwrap();
    subject.qemu_writes(1);
    let whole = std::fs::metadata(&subject.image).unwrap().len();
    // The table is there with the header; cut the clusters off, then the table too.
    for (len, tables) in [(whole - 512, 1), (1024, 0)] {
        let cut = std::fs::read(&subject.image).unwrap();
        std::fs::write(&subject.image, &cut[..usize::try_from(len).unwrap()]).unwrap();
        let mut file = subject.files(true).get(key(0)).unwrap().clone();
        let mut scratch = [Page::ZERO, Page::ZERO, Page::ZERO];
        let mut found = Vec::new();
        let report =
            qcow1::repair(&mut file, &mut [0; 4096], &mut scratch, &mut |f| found.push(f)).unwrap();
        assert!(report.repaired > 0, "{report:?}, {found:?}");
        assert_eq!((report.damages, report.tables), (0, tables), "{found:?}");
        subject.check();
    }
    subject.expect(0, &base);
    subject.we_compare();
    subject.qemu_compares();
}
