//! A server that loses its power: what reached the medium is what was synced, and no more.

use core::time::Duration;

use cow_core::blocking::{Blocking, part};
use cow_core::engine::{
    Buffer, Durability, Engine, Failure, Kind, Lent, Output, Request, RequestId, Ticket,
};
use cow_core::format::native;
use cow_core::pages::{Frame, Page, PagePool};
use cow_core::storage::Storage;
use cow_core::units::{Extent, Lba};

use super::*;
use crate::config::{Layer, Window};
use crate::error::ErrorKind;
use crate::image::tests::{golden, perform};
use crate::image::{
    Backing, ImageKeys, ImageName, OpenedOverlay, OverlayOptions, create_overlay, open_backing,
    open_overlay,
};
use crate::storage::{FileTable, WorkerCounts};

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Room for three of the longest records, so that segments are used again and again.
const SMALL: u64 = RECORDS_AT + 3 * (64 + 16 * 512);

/// A server with one overlay.
struct Life {
    directory: PathBuf,
    /// What the medium holds of the overlay for certain.
    durable: Vec<u8>,
    files: FileTable,
    backing: Backing,
    overlay: OpenedOverlay,
    engine: Engine<8>,
    pool: PagePool<'static>,
    log: CommitLog,
    driver: HostedDriver,
    /// What the client was told that the disk holds.
    model: Vec<u8>,
}

fn backing(base: &Path, files: &mut FileTable) -> Backing {
    let layer = Layer::File { path: base.to_owned(), window: Window::default() };
    open_backing(&[layer], false, files).unwrap()
}

fn pool() -> PagePool<'static> {
    PagePool::new(vec![Page::ZERO; 8].leak(), vec![Frame::EMPTY; 8].leak()).unwrap()
}

impl Life {
    fn begin(directory: &Path, base: &Path) -> Self {
        let mut files = FileTable::new();
        let backing = backing(base, &mut files);
        let name = ImageName::parse(directory.join("a.cow"));
        let mut log = CommitLog::with_segments(directory, SMALL).unwrap();
        let options = OverlayOptions { log: Some(log.tell()), ..OverlayOptions::default() };
        let keys = ImageKeys::reserve(&name, &mut files);
        let mut overlay = create_overlay(&name, &backing, keys, &options).unwrap();
        overlay.enter(&mut files);
        let core = overlay.take_core().unwrap();
        let engine = Engine::new(Some(core.top), overlay.sectors(), Durability::Logged).unwrap();
        let mut model = fs::read(base).unwrap();
        model.resize(usize::try_from(overlay.sectors() * 512).unwrap(), 0);
        Self {
            directory: directory.to_owned(),
            durable: fs::read(directory.join("a.cow")).unwrap(),
            files,
            backing,
            overlay,
            engine,
            pool: pool(),
            log,
            driver: HostedDriver::new(WorkerCounts { data: 1, slow: 2 }).unwrap(),
            model,
        }
    }

    fn change(&mut self, extent: Extent, mut data: Option<Vec<u8>>) {
        let request = match &data {
            Some(_) => Request::Write { extent, durable: false },
            None => Request::Zero(extent),
        };
        self.engine.submit(RequestId(0), request).unwrap();
        self.drive(extent, data.as_deref_mut().unwrap_or_default());
        let at = usize::try_from(extent.start().get() * 512).unwrap();
        let len = usize::try_from(extent.bytes()).unwrap();
        self.model[at..at + len].copy_from_slice(&data.unwrap_or(vec![0; len]));
    }

    fn commit(&mut self) {
        self.engine.commit();
        self.drive(Extent::EMPTY, &mut []);
    }

    fn drive(&mut self, extent: Extent, memory: &mut [u8]) {
        let layers = Arc::clone(self.backing.layers());
        let layer = self.overlay.logged_layer().unwrap();
        loop {
            let mut lent = Lent { pages: &mut self.pool, layers: &layers, index: &mut [] };
            match self.engine.poll(&mut lent) {
                Some(Output::Operation(o)) => {
                    perform(&mut self.files, &o, memory, lent.pages).unwrap();
                    self.engine.complete(&mut lent, o.ticket, Ok(()));
                    if o.kind == Kind::Sync {
                        self.durable = fs::read(self.directory.join("a.cow")).unwrap();
                    }
                }
                Some(Output::Note { note, ticket, .. }) => {
                    let before = (note.extent.start().get() - extent.start().get()) * 512;
                    let before = u32::try_from(before).unwrap();
                    let data = note.offset.map(|_| part(memory, before, note.extent.bytes()));
                    let data = data.flatten().unwrap_or_default();
                    let job = Job { disk: 0, ticket, buffer: Buffer::None };
                    assert_eq!(self.log.append(job, layer, note, data), None);
                }
                Some(Output::NotesSealed) => self.log.seal(0),
                Some(Output::NotesDurable) => self.log.drop_sealed(0),
                Some(Output::Done { result, .. }) => assert_eq!(result, Ok(())),
                Some(other) => panic!("{other:?}"),
                None => {
                    if self.log.takes_commit() {
                        self.engine.commit();
                        continue;
                    }
                    self.log.sync(&mut self.driver);
                    if self.driver.under_way() == 0 && !self.log.is_full() {
                        return;
                    }
                    let engine = &mut self.engine;
                    self.driver.drain(&mut |completion| {
                        engine.complete(&mut lent, completion.job.ticket, completion.result);
                    });
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
        }
    }

    /// The power fails: a directory with what is on the medium, for the next server.
    fn cut(&self, base: &Path) -> tempfile::TempDir {
        let after = tempfile::tempdir().unwrap();
        fs::write(after.path().join("a.cow"), &self.durable).unwrap();
        for segment in &self.log.segments {
            let name = segment.path.file_name().unwrap();
            fs::copy(&segment.path, after.path().join(name)).unwrap();
        }
        let refused = read(after.path(), base).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse, "it needs its log");
        after
    }
}

impl Life {
    /// A write whose data reach their place only in part, as the client is told.
    fn fail_write(&mut self, extent: Extent, data: &[u8]) {
        let request = Request::Write { extent, durable: false };
        self.engine.submit(RequestId(0), request).unwrap();
        let layers = Arc::clone(self.backing.layers());
        let mut lent = Lent { pages: &mut self.pool, layers: &layers, index: &mut [] };
        let mut result = None;
        while let Some(output) = self.engine.poll(&mut lent) {
            match output {
                Output::Operation(o) if matches!(o.buffer, Buffer::Request { .. }) => {
                    let half = &data[..data.len() / 2];
                    self.files.get(o.storage).unwrap().clone().write_at(o.offset, half).unwrap();
                    self.engine.complete(&mut lent, o.ticket, Err(IoFailure::Medium));
                }
                Output::Operation(o) => {
                    perform(&mut self.files, &o, &mut [], lent.pages).unwrap();
                    self.engine.complete(&mut lent, o.ticket, Ok(()));
                }
                Output::Done { result: told, .. } => result = Some(told),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(result, Some(Err(Failure::Medium)));
        assert!(!self.engine.is_read_only(), "only this write failed");
    }
}

/// Its sectors are old or new, as long as nobody writes them again, and the others as they were; what is
/// acknowledged later counts, whatever was in the log before.
#[test]
fn a_rewrite_that_failed_leaves_old_or_new_and_undoes_nothing() {
    for commits in [false, true] {
        let (elsewhere, directory) = two_directories();
        let base = golden(&elsewhere, 64 << 10);
        let mut life = Life::begin(directory.path(), &base);
        life.change(Extent::new(2, 8).unwrap(), Some(vec![1; 8 * 512]));
        if commits {
            life.commit();
        }
        life.fail_write(Extent::new(4, 4).unwrap(), &[2; 4 * 512]);
        life.change(Extent::new(20, 1).unwrap(), Some(vec![3; 512]));
        life.commit();
        let repeated = |life: &Life| {
            let after = life.cut(&base);
            repeat(after.path()).unwrap();
            read(after.path(), &base).unwrap()
        };
        let found = repeated(&life);
        for (at, (found, model)) in found.chunks(512).zip(life.model.chunks(512)).enumerate() {
            let is_new = (4..8).contains(&at) && found == [2; 512];
            assert!(found == model || is_new, "sector {at}");
        }
        for sector in [4, 7] {
            life.change(Extent::new(sector, 1).unwrap(), Some(vec![4; 512]));
        }
        let found = repeated(&life);
        for at in [4, 7, 20] {
            assert!(found[at * 512..][..512] == life.model[at * 512..][..512], "sector {at}");
        }
    }
}

/// What the disk reads as.
fn read(directory: &Path, base: &Path) -> Result<Vec<u8>> {
    let mut files = FileTable::new();
    let backing = backing(base, &mut files);
    let name = ImageName::parse(directory.join("a.cow"));
    let keys = ImageKeys::reserve(&name, &mut files);
    let mut overlay = open_overlay(&name, &backing, keys, &OverlayOptions::default())?;
    overlay.enter(&mut files);
    let core = overlay.take_core().unwrap();
    let mut engine = Engine::<4>::new(Some(core.top), overlay.sectors(), Durability::Safe).unwrap();
    let layers = Arc::clone(backing.layers());
    let lent = Lent { pages: &mut pool(), layers: &layers, index: &mut [] };
    let mut bytes = vec![0; usize::try_from(overlay.sectors() * 512).unwrap()];
    Blocking { engine: &mut engine, lent, storages: &mut files }
        .read(Lba::new(0).unwrap(), &mut bytes)
        .unwrap();
    Ok(bytes)
}

fn random_change(dice: &mut Dice, sectors: u64) -> (Extent, Option<Vec<u8>>) {
    // Few places, so that most are written again.
    let start = dice.below(sectors.min(60));
    let extent = Extent::new(start, 1 + dice.below(16.min(sectors - start))).unwrap();
    let byte = u8::try_from(1 + dice.below(250)).unwrap();
    let data = dice.chance(85).then(|| vec![byte; usize::try_from(extent.bytes()).unwrap()]);
    (extent, data)
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_power_cut() {
    let mut turns = 0;
    for seed in 0..4 {
        let (elsewhere, directory) = two_directories();
        let base = golden(&elsewhere, 64 << 10);
        let mut life = Life::begin(directory.path(), &base);
        let mut dice = Dice(seed);
        for step in 0..60 {
            let (extent, data) = random_change(&mut dice, life.overlay.sectors());
            life.change(extent, data);
            if dice.chance(7) {
                life.commit();
            }
            if step % 3 != 0 {
                continue;
            }
            let after = life.cut(&base);
            let repeated = repeat(after.path()).unwrap().entered;
            assert_eq!(repeated.len(), 1);
            let found = read(after.path(), &base).unwrap();
            let differs = found.chunks(512).zip(life.model.chunks(512)).position(|(a, b)| a != b);
            assert_eq!(differs, None, "sector, seed {seed}, step {step}");
            let names = fs::read_dir(after.path()).unwrap().count();
            assert_eq!(names, 1, "the log is gone");
            assert_eq!(repeat(after.path()).unwrap().entered, []);
        }
        turns += life.log.generation;
    }
    assert!(turns > 4 * 2 * SEGMENTS as u64, "segments were used again: {turns} turns");
}

#[test]
fn a_power_cut_while_the_log_is_repeated_costs_nothing() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    let mut dice = Dice(9);
    for _ in 0..9 {
        let (extent, data) = random_change(&mut dice, life.overlay.sectors());
        life.change(extent, data);
    }
    let before = life.cut(&base);
    let names: Vec<PathBuf> = entries(before.path());
    // The overlay is done, and the log is still there: as before the last step of repeating.
    let kept: Vec<(PathBuf, Vec<u8>)> =
        names.iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    repeat(before.path()).unwrap();
    let overlay = fs::read(before.path().join("a.cow")).unwrap();
    for (path, bytes) in &kept {
        fs::write(path, bytes).unwrap();
    }
    // Some of it was written in place, the header still names the log.
    let mut half = overlay.clone();
    half[..8192]
        .copy_from_slice(&kept.iter().find(|(p, _)| p.ends_with("a.cow")).unwrap().1[..8192]);
    for bytes in [&half, &overlay] {
        for (path, old) in &kept {
            let bytes = if path.ends_with("a.cow") { bytes } else { old };
            fs::write(path, bytes).unwrap();
        }
        repeat(before.path()).unwrap();
        assert!(read(before.path(), &base).unwrap() == life.model);
    }
}

impl Life {
    /// As [`drive`](Self::drive), of a commit whose pages find no room.
    fn fail_commit(&mut self) {
        self.engine.commit();
        let layers = Arc::clone(self.backing.layers());
        let mut lent = Lent { pages: &mut self.pool, layers: &layers, index: &mut [] };
        while let Some(output) = self.engine.poll(&mut lent) {
            match output {
                Output::Operation(o) if o.kind == Kind::Write => {
                    self.engine.complete(&mut lent, o.ticket, Err(IoFailure::Full));
                }
                Output::Operation(o) => {
                    perform(&mut self.files, &o, &mut [], lent.pages).unwrap();
                    self.engine.complete(&mut lent, o.ticket, Ok(()));
                }
                Output::NotesSealed => self.log.seal(0),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What becomes of a write that is refused at once.
    fn refused(&mut self) -> core::result::Result<(), Failure> {
        let extent = Extent::new(9, 1).unwrap();
        self.engine.submit(RequestId(1), Request::Write { extent, durable: false }).unwrap();
        let layers = Arc::clone(self.backing.layers());
        let mut lent = Lent { pages: &mut self.pool, layers: &layers, index: &mut [] };
        match self.engine.poll(&mut lent) {
            Some(Output::Done { result, .. }) => result,
            other => panic!("{other:?}"),
        }
    }
}

/// The log does not fill with what will not commit: no write waits, and all that was acknowledged
/// is there in the end.
#[test]
fn an_overlay_without_room_takes_no_changes_until_there_is_some() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.change(Extent::new(3, 1).unwrap(), Some(vec![7; 512]));
    // The first record begins a segment, which asks for a commit.
    life.change(Extent::new(20, 1).unwrap(), Some(vec![6; 512]));
    for _ in 0..3 {
        life.fail_commit();
        assert!(life.engine.is_full() && !life.engine.is_read_only());
        assert_eq!(life.refused(), Err(Failure::Full));
        assert!(life.engine.is_idle() && !life.log.is_full());
    }
    let after = life.cut(&base);
    repeat(after.path()).unwrap();
    assert!(read(after.path(), &base).unwrap() == life.model);
    life.commit();
    assert!(!life.engine.is_full());
    life.change(Extent::new(9, 1).unwrap(), Some(vec![8; 512]));
    life.engine.refuse_changes(true);
    assert_eq!(life.refused(), Err(Failure::Full));
    life.engine.refuse_changes(false);
    life.change(Extent::new(9, 1).unwrap(), Some(vec![9; 512]));
    let after = life.cut(&base);
    repeat(after.path()).unwrap();
    assert!(read(after.path(), &base).unwrap() == life.model);
}

/// Another overlay has no room: the log says in time that it will be full, and waits for nobody at
/// the end.
#[test]
fn a_log_that_cannot_go_on_says_so_before_it_is_full() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    assert!(!life.log.is_short());
    let mut warned = 0;
    while !life.log.is_full() {
        append(&mut life, 1);
        settle(&mut life);
        warned += usize::from(life.log.is_short() && !life.log.is_full());
    }
    assert!(warned > 0, "before it was full");
    life.log.give_up(&mut life.driver);
    assert!(!life.log.is_full());
    let path = life.log.segments[0].path.clone();
    life.log.remove().unwrap();
    assert!(path.exists(), "kept for the next server");
}

fn two_directories() -> (tempfile::TempDir, tempfile::TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn kinds(repeats: &Repeats) -> Vec<ErrorKind> {
    repeats.failed.iter().map(HostError::kind).collect()
}

/// One of two overlays cannot be had: the other one gets what is its own, and the log stays until
/// both have.
#[test]
fn an_overlay_that_cannot_be_written_holds_nobody_up() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.change(Extent::new(3, 2).unwrap(), Some(vec![7; 1024]));
    let after = life.cut(&base);
    let copy = after.path().join("b.cow");
    fs::copy(after.path().join("a.cow"), &copy).unwrap();
    let locked = FileStorage::open(&copy, &overlay_options(false)).unwrap();
    let repeats = repeat(after.path()).unwrap();
    assert_eq!(repeats.entered.len(), 1);
    assert_eq!(kinds(&repeats), [ErrorKind::InUse]);
    assert!(repeats.failed[0].report().contains("b.cow"), "{:?}", repeats.failed);
    assert!(read(after.path(), &base).unwrap() == life.model);
    assert_eq!(entries(after.path()).len(), 2 + SEGMENTS, "b.cow still needs it");
    drop(locked);
    let repeats = repeat(after.path()).unwrap();
    assert_eq!(repeats.entered.iter().map(|r| &r.path).collect::<Vec<_>>(), [&copy]);
    assert!(repeats.failed.is_empty() && repeats.orphaned.is_empty());
    fs::rename(&copy, after.path().join("a.cow")).unwrap();
    assert!(read(after.path(), &base).unwrap() == life.model);
    assert_eq!(entries(after.path()).len(), 1);
}

#[test]
fn a_log_waits_for_overlays_that_are_not_there() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.change(Extent::new(3, 2).unwrap(), Some(vec![7; 1024]));
    let after = life.cut(&base);
    let (place, away) = (after.path().join("a.cow"), elsewhere.path().join("away.cow"));
    fs::rename(&place, &away).unwrap();
    for _ in 0..2 {
        let repeats = repeat(after.path()).unwrap();
        assert_eq!(repeats.entered, []);
        let mut all = entries(after.path());
        all.sort();
        assert_eq!((repeats.orphaned, all.len()), (all, SEGMENTS));
        assert!(repeats.failed.is_empty());
    }
    fs::rename(&away, &place).unwrap();
    assert_eq!(repeat(after.path()).unwrap().entered.len(), 1);
    assert!(read(after.path(), &base).unwrap() == life.model);
    assert_eq!(entries(after.path()), [place]);
}

#[test]
fn a_log_that_is_missing_is_missed_and_one_in_use_is_left_alone() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let life = Life::begin(directory.path(), &base);
    let alive = repeat(directory.path()).unwrap();
    assert_eq!(alive.entered, [], "its server is alive");
    assert_eq!(kinds(&alive), [ErrorKind::InUse]);
    let after = life.cut(&base);
    for path in entries(after.path()) {
        if !path.ends_with("a.cow") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(repeat(after.path()).unwrap().entered, []);
    assert!(read(after.path(), &base).is_err());
    let damaged = life.cut(&base);
    fs::write(damaged.path().join("b.cow"), {
        let mut bytes = life.durable.clone();
        bytes[100] ^= 1;
        bytes[4096 + 100] ^= 1;
        bytes
    })
    .unwrap();
    assert_eq!(repeat(damaged.path()).unwrap().entered.len(), 1);
    assert_eq!(entries(damaged.path()).len(), 2 + SEGMENTS, "b.cow may need it");
    let file = FileStorage::open(after.path().join("a.cow"), &overlay_options(false)).unwrap();
    let opened = native::open(&file, &mut Page::ZERO.clone()).unwrap();
    assert_eq!(opened.header().log, Some(life.log.id));
}

/// For jobs that no engine waits for.
fn any_ticket(life: &mut Life) -> Ticket {
    life.engine.submit(RequestId(9), Request::Read(Extent::new(100, 1).unwrap())).unwrap();
    let layers = Arc::clone(life.backing.layers());
    let (mut memory, mut last) = ([0; 512], None);
    loop {
        let mut lent = Lent { pages: &mut life.pool, layers: &layers, index: &mut [] };
        match life.engine.poll(&mut lent) {
            Some(Output::Operation(o)) => {
                perform(&mut life.files, &o, &mut memory, lent.pages).unwrap();
                life.engine.complete(&mut lent, o.ticket, Ok(()));
                last = Some(o.ticket);
            }
            Some(Output::Done { .. }) => return last.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// A record of another overlay, as long as they come.
fn append(life: &mut Life, disk: u32) {
    let note = Note { extent: Extent::new(0, 16).unwrap(), offset: Some(0) };
    let job = Job { disk, ticket: any_ticket(life), buffer: Buffer::None };
    let layer = LayerId([u8::try_from(disk).unwrap(); 16]);
    assert!(matches!(life.log.append(job, layer, note, &[7; 16 * 512]), None | Some(Err(_))));
}

fn settle(life: &mut Life) {
    life.log.sync(&mut life.driver);
    while life.log.is_syncing.load(Ordering::Acquire) || life.driver.under_way() > 0 {
        life.driver.drain(&mut |_| {});
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// What a power cut may leave of a segment that is begun anew: the beginning as it was durable, the first
/// old record, and of the second one what lies over it now.
#[test]
fn a_segment_that_was_just_begun_anew_brings_nothing_back() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    for byte in [1, 2] {
        life.change(Extent::new(3, 1).unwrap(), Some(vec![byte; 512]));
    }
    life.commit();
    let path = life.log.segments[0].path.clone();
    let first = usize::try_from(RECORDS_AT).unwrap();
    let first = first..first + 64 + 512;
    let old = fs::read(&path).unwrap();
    let is_old = || fs::read(&path).unwrap()[first.clone()] == old[first.clone()];
    let mut durable = old[..64].to_vec();
    while is_old() {
        append(&mut life, 1);
        while is_old() {
            settle(&mut life);
            if !is_old() || !life.log.is_full() {
                break;
            }
            durable = fs::read(&path).unwrap()[..64].to_vec();
            life.log.seal(1);
            life.log.drop_sealed(1);
        }
    }
    let after = life.cut(&base);
    let torn = after.path().join(path.file_name().unwrap());
    let mut bytes = fs::read(&torn).unwrap();
    bytes[..64].copy_from_slice(&durable);
    bytes[first.clone()].copy_from_slice(&old[first.clone()]);
    fs::write(&torn, bytes).unwrap();
    repeat(after.path()).unwrap();
    assert!(read(after.path(), &base).unwrap() == life.model);
}

#[test]
fn what_is_left_of_a_log_is_its_end() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    while life.log.generation < 3 {
        append(&mut life, 1);
        settle(&mut life);
    }
    while !life.log.is_full() {
        append(&mut life, 2);
        settle(&mut life);
    }
    life.log.keep_for(2);
    life.log.seal(1);
    life.log.drop_sealed(1);
    for disk in 3..40 {
        append(&mut life, disk);
        settle(&mut life);
        let mut generations: Vec<u64> = life.log.segments.iter().map(|s| s.generation).collect();
        generations.sort_unstable();
        let is_gap = |pair: &[u64]| pair[1] != pair[0] + 1;
        assert!(!generations.windows(2).any(is_gap), "{generations:?}");
        life.log.seal(disk);
        life.log.drop_sealed(disk);
    }
    assert!(life.log.is_broken.load(Ordering::Acquire), "rather than to wait for ever");
}

#[test]
fn a_log_with_a_part_missing_is_missed_and_kept() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.change(Extent::new(3, 1).unwrap(), Some(vec![1; 512]));
    for number in 0..SEGMENTS {
        let after = life.cut(&base);
        let segment = after.path().join(segment_name(life.log.id, number));
        let bytes = fs::read(&segment).unwrap();
        fs::remove_file(&segment).unwrap();
        fs::write(after.path().join("mine.cowlog"), "not a log").unwrap();
        let repeats = repeat(after.path()).unwrap();
        assert_eq!(
            (repeats.entered.as_slice(), kinds(&repeats)),
            (&[][..], vec![ErrorKind::NotFound])
        );
        assert_eq!(entries(after.path()).len(), 1 + SEGMENTS, "nothing is removed");
        fs::write(&segment, bytes).unwrap();
        assert_eq!(repeat(after.path()).unwrap().entered.len(), 1);
        assert_eq!(entries(after.path()).len(), 2);
        assert!(read(after.path(), &base).unwrap() == life.model);
    }
}

#[test]
fn a_log_that_was_never_used_is_repeated_too() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let life = Life::begin(directory.path(), &base);
    let after = life.cut(&base);
    let repeated = repeat(after.path()).unwrap().entered;
    assert_eq!(repeated.iter().map(|r| r.changes).collect::<Vec<_>>(), [0]);
    assert!(read(after.path(), &base).unwrap() == life.model);
    assert_eq!(entries(after.path()).len(), 1);
}

/// A server that fails to start again and again does not fill the disk.
#[test]
fn a_log_that_no_overlay_was_told_of_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = CommitLog::with_segments(directory.path(), SMALL).unwrap();
    assert_eq!(entries(directory.path()).len(), SEGMENTS);
    drop(log);
    assert_eq!(entries(directory.path()).len(), 0);
    let mut log = CommitLog::with_segments(directory.path(), SMALL).unwrap();
    log.tell();
    drop(log);
    assert_eq!(entries(directory.path()).len(), SEGMENTS, "an overlay may name it");
}

#[test]
fn after_a_failure_nothing_is_acknowledged() {
    let (elsewhere, directory) = two_directories();
    let base = golden(&elsewhere, 64 << 10);
    let mut life = Life::begin(directory.path(), &base);
    life.log.is_broken.store(true, Ordering::Release);
    let layer = life.overlay.logged_layer().unwrap();
    let note = Note { extent: Extent::new(3, 1).unwrap(), offset: None };
    let request = Request::Zero(note.extent);
    life.engine.submit(RequestId(7), request).unwrap();
    let layers = Arc::clone(life.backing.layers());
    let mut lent = Lent { pages: &mut life.pool, layers: &layers, index: &mut [] };
    let mut ended = None;
    while let Some(output) = life.engine.poll(&mut lent) {
        match output {
            Output::Operation(o) => {
                perform(&mut life.files, &o, &mut [], lent.pages).unwrap();
                life.engine.complete(&mut lent, o.ticket, Ok(()));
            }
            Output::Note { note, ticket, .. } => {
                let job = Job { disk: 0, ticket, buffer: Buffer::None };
                let refused = life.log.append(job, layer, note, &[]);
                assert_eq!(refused, Some(Err(IoFailure::Medium)));
                life.engine.complete(&mut lent, ticket, Err(IoFailure::Medium));
            }
            Output::Done { result, .. } => ended = Some(result.is_err()),
            _ => {}
        }
    }
    assert_eq!(ended, Some(true));
    assert!(life.engine.is_read_only() && life.engine.is_idle());
}

mod one;
