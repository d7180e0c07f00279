//! qcow2 images exchanged with QEMU's tools, both ways: what they make reads here byte for byte,
//! what is written here they check, compare and map.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use core::cell::Cell;
use std::path::{Path, PathBuf};

use aoe_host::storage::{FileStorage, FileTable, StorageError};
use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::qcow2::Surroundings;
use cow_core::format::{Layer, Top, qcow2, raw};
use cow_core::pages::{Frame, Page, PagePool};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba};
use embedded_io::ErrorType;
use system_tests::qemu::{self, MapEntry, TOOLS, key, text};
use system_tests::require;
use system_tests::rng::Rng;
use system_tests::workspace::WorkDir;

/// How an image is made by QEMU.
#[derive(Clone, Debug)]
struct Kind {
    options: String,
    cluster: u64,
    sectors: u64,
    backed: bool,
    /// Compressed clusters among the others.
    packed: bool,
    snapshots: bool,
}

fn kind(version: u32, cluster: u64, sectors: u64) -> Kind {
    let compat = if version == 2 { "0.10" } else { "1.1" };
    let options = format!("compat={compat},cluster_size={cluster}");
    Kind { options, cluster, sectors, backed: false, packed: false, snapshots: false }
}

impl Kind {
    fn with(mut self, option: &str) -> Self {
        self.options = format!("{},{option}", self.options);
        self
    }

    fn backed(self) -> Self {
        Self { backed: true, ..self }
    }

    fn packed(self) -> Self {
        Self { packed: true, ..self }
    }

    fn snapshots(self) -> Self {
        Self { snapshots: true, ..self }
    }
}

/// Cluster sizes, versions, refcount widths, and everything else an entry can say.
fn kinds() -> Vec<Kind> {
    let mut all = Vec::new();
    for (at, cluster) in [512, 1024, 4096, 8192, 65_536, 1 << 21].into_iter().enumerate() {
        let sectors = (cluster / 512 * 70).min(40_000) + 7;
        let (one, other) = if at % 2 == 0 { (2, 3) } else { (3, 2) };
        all.push(kind(one, cluster, sectors).backed().packed());
        all.push(kind(other, cluster, sectors).backed().snapshots().packed());
        let width = ["1", "2", "4", "8", "32", "64"][at];
        // Many compressed clusters share one of the storage: QEMU loses some where it cannot count.
        let narrow = kind(3, cluster, sectors).with(&format!("refcount_bits={width}"));
        all.push(if width.len() > 1 { narrow.packed() } else { narrow });
        let lazy = kind(3, cluster, sectors).with("lazy_refcounts=on");
        all.push(if at % 2 == 0 { lazy.backed() } else { lazy });
        if cluster >= 16_384 {
            let extended = kind(3, cluster, sectors).with("extended_l2=on");
            all.extend([extended.clone().backed(), extended.packed().snapshots()]);
        }
    }
    all.push(kind(3, 65_536, 20_000).with("compression_type=zstd").packed().backed());
    all.push(kind(3, 16_384, 5000).with("extended_l2=on").backed().packed());
    all.push(kind(3, 4096, 3001).with("preallocation=metadata"));
    all.push(kind(3, 65_536, 1));
    all.push(kind(3, 512, 1).backed());
    // More than 2^32 bytes, nearly all of them nowhere; several L2 tables.
    all.push(kind(3, 65_536, 10 << 21).packed());
    all.push(kind(2, 4096, 9 << 20).backed());
    all
}

/// Ranges of a disk on which something is done: everywhere on small ones, around table boundaries on
/// large ones.
fn range(kind: &Kind, rng: &mut Rng) -> (u64, u64) {
    let unit = kind.cluster / 512;
    let table = unit * kind.cluster / 8;
    let near = match rng.below(4) {
        0 => 0,
        1 if kind.sectors > table => rng.below(kind.sectors / table) * table,
        2 => kind.sectors,
        _ => rng.below(kind.sectors.min(60_000)),
    };
    let start = (near + rng.below(2 * unit + 9)).saturating_sub(unit + 4).min(kind.sectors - 1);
    let len = if rng.below(3) == 0 { 1 + rng.below(9) } else { 1 + rng.below(3 * unit) };
    (start, len.min(kind.sectors - start).min(4096))
}

fn commands(kind: &Kind, count: usize, rng: &mut Rng) -> Vec<String> {
    let unit = kind.cluster / 512;
    let mut commands = Vec::new();
    for _ in 0..count {
        let (start, len) = range(kind, rng);
        let (at, bytes) = (start * 512, len * 512);
        let pattern = 1 + rng.below(255);
        let whole = start / unit * unit;
        let packs = kind.packed && whole + unit <= kind.sectors;
        commands.push(match rng.below(10) {
            0 => format!("write -z {at} {bytes}"),
            1 => format!("write -z -u {at} {bytes}"),
            2 => format!(
                "discard {} {}",
                whole * 512,
                kind.cluster.min((kind.sectors - whole) * 512)
            ),
            3..6 if packs => format!("write -c -P {pattern} {} {}", whole * 512, kind.cluster),
            _ => format!("write -P {pattern} {at} {bytes}"),
        });
    }
    commands
}

/// A base of odd length that is full of text, shorter than the disk.
fn make_base(path: &Path, sectors: u64) {
    let len = usize::try_from((sectors * 512).min(6 << 20)).unwrap();
    let len = len.saturating_sub(3 * 512 + 77).max(100);
    let mut bytes = vec![0; len];
    Rng::new(len as u64).fill(&mut bytes);
    // Some of it can be compressed.
    bytes.chunks_mut(3000).step_by(2).for_each(|part| part.fill(7));
    std::fs::write(path, bytes).unwrap();
}

/// Image, then base: the paths of a chain.
fn chain(dir: &Path, name: &str, kind: &Kind) -> Vec<PathBuf> {
    let mut paths = vec![dir.join(name)];
    let mut args = vec!["create".into(), "-q".into(), "-f".into(), "qcow2".into()];
    args.extend(["-o".into(), kind.options.clone()]);
    if kind.backed {
        let base = dir.join(format!("{name}.base"));
        make_base(&base, kind.sectors);
        args.extend(["-F".into(), "raw".into(), "-b".into(), format!("{name}.base")]);
        paths.push(base);
    }
    args.extend([text(&paths[0]).to_owned(), (kind.sectors * 512).to_string()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    qemu::run("qemu-img", &args);
    paths
}

fn layers(files: &FileTable, paths: &[PathBuf], frozen: qcow2::Frozen) -> Vec<Layer<'static>> {
    let mut layers = vec![Layer::Qcow2(frozen)];
    if paths.len() > 1 {
        let len = files.get(key(1)).unwrap().len_bytes().unwrap();
        layers.push(Layer::Raw(raw::Raw::new(key(1), len).unwrap()));
    }
    layers
}

/// Reads the image, or one of its snapshots, as a frozen layer; and its map.
fn read_here(paths: &[PathBuf], snapshot: Option<&str>, rng: &mut Rng) -> (Vec<u8>, Vec<MapEntry>) {
    let mut files = qemu::files(paths, false);
    let image = files.get(key(0)).unwrap().clone();
    let opened = qcow2::open(&image).unwrap();
    let frozen = match snapshot {
        None => opened.frozen(key(0)),
        Some(name) => {
            let found = qcow2::find_snapshot(&image, &opened, name.as_bytes()).unwrap().unwrap();
            let mut buf = [0; 100];
            assert_eq!(found.name(&image, &mut buf).unwrap(), name.as_bytes());
            found.frozen(&opened, key(0)).unwrap()
        }
    };
    let layers = layers(&files, paths, frozen);
    let pages = [2, 3, 16][usize::try_from(rng.below(3)).unwrap()];
    qemu::with(None, &layers, &mut files, pages, |driver| {
        (qemu::read_all(driver, rng), qemu::map_of(driver, false))
    })
    .0
}

/// Compares without printing megabytes.
fn same(ours: &[u8], theirs: &[u8], what: &dyn core::fmt::Debug) {
    assert_eq!(ours.len(), theirs.len(), "{what:?}");
    let differs = ours.chunks(512).zip(theirs.chunks(512)).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first sector that differs: {what:?}");
}

/// What both maps must agree on: extents of data with their places, and of zeros. QEMU also tells the
/// places of zeros, and looks for holes of the file within data and in a raw base.
fn comparable(map: &[MapEntry], backed: bool) -> Vec<MapEntry> {
    let mut entries: Vec<MapEntry> = Vec::new();
    for entry in map.iter().filter(|e| !backed || (e.depth == 0 && e.data)) {
        let offset = entry.offset.filter(|_| entry.data);
        let entry = MapEntry { offset, depth: 0, zero: !entry.data, ..*entry };
        match entries.last_mut() {
            Some(last) if last.takes(&entry) => last.length += entry.length,
            _ => entries.push(entry),
        }
    }
    entries
}

fn same_map(ours: &[MapEntry], theirs: &[MapEntry], kind: &Kind) {
    let (ours, theirs) = (comparable(ours, kind.backed), comparable(theirs, kind.backed));
    if let Some(at) = (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at))
    {
        panic!(
            "run {at} of the map: {:?} here, {:?} there; {kind:?}",
            ours.get(at),
            theirs.get(at)
        );
    }
}

#[test]
fn images_of_qemu_read_here_byte_for_byte() {
    if !require::met("images_of_qemu_read_here_byte_for_byte", &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new("qcow2-read");
    let mut void = 0;
    for (at, kind) in kinds().into_iter().enumerate() {
        let well = (0..5).any(|attempt| {
            let name = format!("{at}-{attempt}.qcow2");
            let well =
                reads_alike(dir.path(), &name, &kind, &mut Rng::new(at as u64 + attempt * 1000));
            void += usize::from(!well);
            well
        });
        assert!(well, "QEMU never made a sound image: {kind:?}");
    }
    println!("{void} images were damaged by QEMU itself");
}

/// Has QEMU make an image and compares what it reads as. False if QEMU says that it broke the image:
/// overwriting compressed clusters does that now and then.
fn reads_alike(dir: &Path, name: &str, kind: &Kind, rng: &mut Rng) -> bool {
    let paths = chain(dir, name, kind);
    let large = kind.sectors > 1 << 20;
    let mut kept = Vec::new();
    for round in 0..2 {
        qemu::io(&paths[0], "qcow2", &commands(kind, 40, rng));
        if !qemu::try_run("qemu-img", &["check", "-q", text(&paths[0])]).0 {
            return false;
        }
        if kind.snapshots && round < 1 {
            let name = format!("taken {round}");
            qemu::run("qemu-img", &["snapshot", "-c", &name, text(&paths[0])]);
            let from = format!("snapshot.name={name}");
            kept.push((name, qemu::content(&paths[0], "qcow2", &["-l", &from])));
        }
    }
    let theirs = if large { Vec::new() } else { qemu::content(&paths[0], "qcow2", &[]) };
    let map = qemu::map(&paths[0], "qcow2");
    let (ours, our_map) =
        if large { look_here(&paths, kind, &map) } else { read_here(&paths, None, rng) };
    same(&ours, &theirs, &kind);
    same_map(&our_map, &map, kind);
    for (name, theirs) in kept {
        let (ours, _) = read_here(&paths, Some(&name), rng);
        same(&ours, &theirs, &(&name, &kind));
    }
    true
}

/// Compares the parts of a large disk that hold something, sector by sector with `qemu-io`.
fn look_here(paths: &[PathBuf], kind: &Kind, map: &[MapEntry]) -> (Vec<u8>, Vec<MapEntry>) {
    let mut files = qemu::files(paths, false);
    let opened = qcow2::open(&files.get(key(0)).unwrap().clone()).unwrap();
    let layers = layers(&files, paths, opened.frozen(key(0)));
    let raw = paths[0].with_extension("part");
    let map_here = qemu::with(None, &layers, &mut files, 3, |driver| {
        for entry in map.iter().filter(|e| e.data && e.depth == 0) {
            let first = entry.start / 512;
            let count = (entry.length / 512).min(200);
            let mut ours = vec![0xee; usize::try_from(count * 512).unwrap()];
            driver.read(Lba::new(first).unwrap(), &mut ours).unwrap();
            let skip = format!("skip={first}");
            let (of, count) = (format!("of={}", text(&raw)), format!("count={}", first + count));
            let input = format!("if={}", text(&paths[0]));
            let args = ["dd", "-f", "qcow2", "-O", "raw", "bs=512", &skip, &count, &input, &of];
            qemu::run("qemu-img", &args);
            same(&ours, &std::fs::read(&raw).unwrap(), &(entry, kind));
        }
        qemu::map_of(driver, false)
    })
    .0;
    (Vec::new(), map_here)
}

/// A chain that is written here: its files, and what it must read as.
struct Written {
    paths: Vec<PathBuf>,
    model: Vec<u8>,
    kind: Kind,
}

impl Written {
    /// An image that is made here.
    fn create(dir: &Path, name: &str, kind: &Kind, bits: (u32, u8)) -> Self {
        let (version, refcount_bits) = bits;
        let mut paths = vec![dir.join(name)];
        let base = format!("{name}.base");
        let mut model = vec![0; usize::try_from(kind.sectors * 512).unwrap()];
        if kind.backed {
            paths.push(dir.join(&base));
            make_base(&paths[1], kind.sectors);
            let bytes = std::fs::read(&paths[1]).unwrap();
            model[..bytes.len()].copy_from_slice(&bytes);
        }
        std::fs::write(&paths[0], []).unwrap();
        let backing = qcow2::Backing { name: base.as_bytes(), format: b"raw" };
        let options = qcow2::CreateOptions {
            version,
            disk_bytes: kind.sectors * 512,
            cluster_bits: u8::try_from(kind.cluster.trailing_zeros()).unwrap(),
            refcount_bits,
            backing: kind.backed.then_some(backing),
        };
        let mut file = qemu::files(&paths, true).get(key(0)).unwrap().clone();
        qcow2::create(&mut file, &options, &mut Page::ZERO.clone()).unwrap();
        Self { paths, model, kind: kind.clone() }
    }

    /// One process: opens, changes at random, reads now and then, closes.
    fn session(&mut self, changes: usize, pages: usize, rng: &mut Rng) {
        let mut files = qemu::files(&self.paths, true);
        let mut image = files.get(key(0)).unwrap().clone();
        let opened = qcow2::open(&image).unwrap();
        let page = &mut Page::ZERO.clone();
        let top = qcow2::open_writable(&mut image, key(0), &opened, &Surroundings::default(), page);
        let below = layers(&files, &self.paths, opened.frozen(key(0)));
        let top = Some(Top::Qcow2(top.unwrap()));
        let ((), top) = qemu::with(top, &below[1..], &mut files, pages, |driver| {
            for _ in 0..changes {
                self.change(driver, rng);
            }
            driver.flush().unwrap();
        });
        let Some(Top::Qcow2(mut top)) = top else { panic!("another overlay") };
        qcow2::close(&mut image, &mut top, page).unwrap();
    }

    fn change(&mut self, driver: &mut qemu::Driver<'_, '_>, rng: &mut Rng) {
        let (start, len) = range(&self.kind, rng);
        let extent = Extent::new(start, len).unwrap();
        let at = usize::try_from(start * 512).unwrap();
        let part = &mut self.model[at..at + usize::try_from(len * 512).unwrap()];
        match rng.below(10) {
            0..6 => {
                rng.fill(part);
                driver.write(extent.start(), part).unwrap();
            }
            6 => {
                part.fill(0);
                driver.zero(extent).unwrap();
            }
            7 => {
                driver.discard(extent).unwrap();
                let mut now = vec![0xee; part.len()];
                driver.read(extent.start(), &mut now).unwrap();
                for (now, was) in now.chunks(512).zip(part.chunks_mut(512)) {
                    assert!(now == was || now == [0; 512], "a discard in {extent}");
                    was.copy_from_slice(now);
                }
            }
            _ => {
                let mut now = vec![0xee; part.len()];
                driver.read(extent.start(), &mut now).unwrap();
                same(&now, part, &(extent, &self.kind));
            }
        }
    }

    /// QEMU finds nothing wrong, and reads what the model says.
    fn judge(&self) {
        let image = text(&self.paths[0]);
        let (well, said) = qemu::try_run("qemu-img", &["check", "-f", "qcow2", image]);
        assert!(well, "{said}{:?}", self.kind);
        same(&qemu::content(&self.paths[0], "qcow2", &[]), &self.model, &self.kind);
        let (ours, our_map) = read_here(&self.paths, None, &mut Rng::new(1));
        same(&ours, &self.model, &self.kind);
        same_map(&our_map, &qemu::map(&self.paths[0], "qcow2"), &self.kind);
    }
}

#[test]
fn images_made_here_are_sound_and_the_same_to_qemu() {
    if !require::met("images_made_here_are_sound_and_the_same_to_qemu", &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new("qcow2-write");
    let clusters = [512, 1024, 4096, 8192, 65_536, 1 << 21];
    for (at, cluster) in clusters.into_iter().enumerate() {
        let sectors = (cluster / 512 * 150).min(60_000) + 7;
        let width = [64, 1, 2, 4, 8, 32][at];
        for (n, (bits, backed, sectors)) in [
            ((3, 16), false, sectors),
            ((3, 16), true, sectors),
            ((2, 16), true, sectors),
            ((2, 16), false, sectors),
            ((3, width), true, sectors),
            ((3, 16), true, 1),
        ]
        .into_iter()
        .enumerate()
        {
            let kind = Kind { backed, ..kind(bits.0, cluster, sectors) };
            let mut rng = Rng::new((at * 10 + n) as u64);
            let mut written = Written::create(dir.path(), &format!("{at}-{n}.qcow2"), &kind, bits);
            for pages in [2, 16] {
                written.session(90, pages, &mut rng);
                written.judge();
            }
        }
    }
}

#[test]
fn images_of_qemu_are_written_here_and_in_turn() {
    if !require::met("images_of_qemu_are_written_here_and_in_turn", &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new("qcow2-turn");
    for (at, kind) in kinds().into_iter().enumerate() {
        if kind.options.contains("extended_l2=on") || kind.sectors > 1 << 20 {
            continue;
        }
        let mut rng = Rng::new(500 + at as u64);
        let paths = chain(dir.path(), &format!("{at}.qcow2"), &kind);
        let mut written = Written { paths, model: Vec::new(), kind: kind.clone() };
        let mut kept = Vec::new();
        for round in 0..2 {
            qemu::io(&written.paths[0], "qcow2", &commands(&kind, 20, &mut rng));
            let image = text(&written.paths[0]).to_owned();
            if !qemu::try_run("qemu-img", &["check", "-q", &image]).0 {
                break; // damaged by QEMU itself
            }
            written.model = qemu::content(&written.paths[0], "qcow2", &[]);
            if kind.snapshots {
                let name = format!("taken {round}");
                qemu::run("qemu-img", &["snapshot", "-c", &name, &image]);
                kept.push((name, written.model.clone()));
            }
            written.session(50, [3, 16][round], &mut rng);
            written.judge();
            for (name, theirs) in &kept {
                let from = format!("snapshot.name={name}");
                same(&qemu::content(&written.paths[0], "qcow2", &["-l", &from]), theirs, &kind);
            }
        }
    }
}

/// Counts what is read.
#[derive(Debug)]
struct Counted {
    file: FileStorage,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl Counted {
    fn new(file: FileStorage) -> Self {
        Self { file, reads: Cell::new(0), bytes: Cell::new(0) }
    }

    /// Reads and bytes since the last time.
    fn taken(&self) -> (u64, u64) {
        (self.reads.take(), self.bytes.take())
    }
}

impl ErrorType for Counted {
    type Error = StorageError;
}

impl ReadStorage for Counted {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        self.file.read_at(offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, StorageError> {
        self.file.len_bytes()
    }
}

impl Storage for Counted {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        self.file.write_at(offset, data)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync()
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.file.zero_at(offset, len)
    }

    fn extend(&mut self, len: u64) -> Result<(), StorageError> {
        Storage::extend(&mut self.file, len)
    }
}

/// 2 TiB with data everywhere: opened with a few reads, also for writing, and used with four pages,
/// however long its tables are.
#[test]
fn large_images_open_without_their_tables() {
    if !require::met("large_images_open_without_their_tables", &[TOOLS]) {
        return;
    }
    let dir = WorkDir::new("qcow2-large");
    let path = dir.join("large.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=65536", text(&path), "2T"];
    qemu::run("qemu-img", &args);
    let mut rng = Rng::new(2);
    let sectors = 2_u64 << 31;
    let spots: Vec<u64> = (0..100).map(|_| rng.below(sectors - 8)).collect();
    let writes: Vec<_> =
        spots.iter().map(|at| format!("write -P {} {} 4096", at % 251 + 1, at * 512)).collect();
    qemu::io(&path, "qcow2", &writes);
    let file = qemu::files(core::slice::from_ref(&path), true).get(key(0)).unwrap().clone();
    let mut counted = Counted::new(file);
    let opened = qcow2::open(&counted).unwrap();
    let tables = opened.header().geometry().sectors() / 128 * 8;
    let (reads, bytes) = counted.taken();
    println!("opened with {reads} reads of {bytes} bytes; its tables could have {tables}");
    assert!(reads <= 4 && bytes <= 1024, "{reads} reads, {bytes} bytes");

    let page = &mut Page::ZERO.clone();
    let writable =
        qcow2::open_writable(&mut counted, key(0), &opened, &Surroundings::default(), page)
            .unwrap();
    let (reads, bytes) = counted.taken();
    println!("opened for writing with {reads} reads of {bytes} bytes");
    assert!(reads <= 160 && bytes <= 128 << 10, "{reads} reads, {bytes} bytes");

    let mut engine =
        Engine::<2>::new(Some(Top::Qcow2(writable)), sectors, Durability::Safe).unwrap();
    let (mut pages, mut frames) = (vec![Page::ZERO; 4], vec![Frame::EMPTY; 4]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let mut storages = [counted];
    let mut driver = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &[], index: &mut [] },
        storages: &mut storages[..],
    };
    for (n, at) in spots.iter().enumerate() {
        let mut bytes = [0; 4096];
        driver.read(Lba::new(*at).unwrap(), &mut bytes).unwrap();
        let pattern = u8::try_from(at % 251 + 1).unwrap();
        assert!(bytes == [pattern; 4096], "sector {at}");
        if n % 2 == 0 {
            driver.write(Lba::new(*at).unwrap(), &[0xaa; 4096]).unwrap();
        }
    }
    // An L1 entry, a page of the L2 table, the data; somewhat more where two clusters are touched.
    let (reads, bytes) = driver.storages[0].taken();
    println!("100 reads and 50 writes with four pages: {reads} reads of {bytes} bytes");
    assert!(reads <= 400 && bytes <= 100 * (4096 + 4096 + 2 * 4608), "{reads}, {bytes}");
    let Some(Top::Qcow2(mut top)) = engine.into_overlay() else { panic!("another overlay") };
    qcow2::close(&mut storages[0], &mut top, page).unwrap();
    let (well, said) = qemu::try_run("qemu-img", &["check", "-f", "qcow2", text(&path)]);
    assert!(well, "{said}");
}
