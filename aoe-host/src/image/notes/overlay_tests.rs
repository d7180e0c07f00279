//! Notes and overlays together: a process that dies in `writeback` mode, again and again.

use cow_core::blocking::part_mut;
use cow_core::engine::{Durability, Engine, Lent, Output, Request, RequestId};
use cow_core::format::IndexEntry;
use cow_core::pages::{Frame, Page, PagePool};

use super::*;
use crate::config::{Layer, Window};
use crate::image::tests::{golden, perform};
use crate::image::{
    Backing, ImageKeys, ImageName, OverlayOptions, create_overlay, open_backing, open_overlay,
};
use crate::storage::FileTable;

/// One life of a server: nothing is closed when it is dropped.
struct Life {
    files: FileTable,
    backing: Backing,
    _overlay: crate::image::OpenedOverlay,
    engine: Engine<8>,
    index: Vec<IndexEntry>,
    pool: PagePool<'static>,
    log: NoteLog,
    restored: usize,
}

impl Life {
    fn begin(directory: &Path, base: &Path) -> Self {
        let layer = Layer::File { path: base.to_owned(), window: Window::default() };
        let mut files = FileTable::new();
        let backing = open_backing(&[layer], false, &mut files).unwrap();
        let name = ImageName::parse(directory.join("a.cow"));
        let (keys, options) = (ImageKeys::reserve(&name, &mut files), OverlayOptions::default());
        let mut overlay = if name.path.exists() {
            open_overlay(&name, &backing, keys, &options).unwrap()
        } else {
            create_overlay(&name, &backing, keys, &options).unwrap()
        };
        overlay.enter(&mut files);
        let core = overlay.take_core().unwrap();
        let mut log = NoteLog::open(&directory.join("notes"), overlay.note_id().unwrap()).unwrap();
        let notes = log.load().unwrap();
        let engine = Engine::new(Some(core.top), overlay.sectors(), Durability::Writeback).unwrap();
        let mut life = Self {
            files,
            backing,
            _overlay: overlay,
            engine,
            index: core.index,
            pool: PagePool::new(vec![Page::ZERO; 8].leak(), vec![Frame::EMPTY; 8].leak()).unwrap(),
            log,
            restored: notes.len(),
        };
        for note in notes.into_iter().rev() {
            life.request(Request::Restore(note), &mut []);
        }
        life
    }

    /// Runs the engine until it is idle. What it asks for is done at once.
    fn request(&mut self, request: Request, memory: &mut [u8]) {
        self.engine.submit(RequestId(0), request).unwrap();
        self.drive(memory);
    }

    fn commit(&mut self) {
        self.engine.commit();
        self.drive(&mut []);
    }

    fn drive(&mut self, memory: &mut [u8]) {
        let layers = std::sync::Arc::clone(self.backing.layers());
        let mut lent = Lent { pages: &mut self.pool, layers: &layers, index: &mut self.index };
        while let Some(output) = self.engine.poll(&mut lent) {
            match output {
                Output::Operation(o) => {
                    let result = perform(&mut self.files, &o, memory, lent.pages);
                    self.engine.complete(&mut lent, o.ticket, result);
                }
                Output::Note { note, ticket, .. } => {
                    self.log.append(&[note]).unwrap();
                    self.engine.complete(&mut lent, ticket, Ok(()));
                }
                Output::NotesSealed => self.log.seal().unwrap(),
                Output::NotesDurable => self.log.drop_sealed().unwrap(),
                Output::Done { result, .. } => assert_eq!(result, Ok(())),
                Output::Fill { offset, len, .. } => {
                    part_mut(memory, offset, u64::from(len)).unwrap().fill(0);
                }
                Output::Mapped { .. } | Output::Weave(_) => {}
            }
        }
    }
}

impl Life {
    fn write(&mut self, lba: u64, byte: u8, sectors: u64) {
        let mut data = vec![byte; usize::try_from(sectors * 512).unwrap()];
        let extent = Extent::new(lba, sectors).unwrap();
        self.request(Request::Write { extent, durable: false }, &mut data);
    }

    fn read(&mut self, lba: u64) -> u8 {
        let mut sector = [0x5a; 512];
        self.request(Request::Read(Extent::new(lba, 1).unwrap()), &mut sector);
        assert!(sector.iter().all(|b| *b == sector[0]));
        sector[0]
    }
}

#[test]
fn what_was_acknowledged_survives_one_death_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 40_000 * 512);
    let mut model: Vec<u8> = (0..40_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut restored = 0;
    for _death in 0..40 {
        let mut life = Life::begin(dir.path(), &base);
        restored += life.restored;
        for _write in 0..random(12) {
            let (lba, sectors) = (random(39_990), 1 + random(9));
            let byte = u8::try_from(random(256)).unwrap();
            life.write(lba, byte, sectors);
            let at = usize::try_from(lba).unwrap();
            model[at..at + usize::try_from(sectors).unwrap()].fill(byte);
            if random(6) == 0 {
                life.commit();
            }
        }
        for _read in 0..20 {
            let lba = random(40_000);
            assert_eq!(life.read(lba), model[usize::try_from(lba).unwrap()], "{lba}");
        }
    }
    assert!(restored > 50, "{restored}: the notes were never needed");
    let mut life = Life::begin(dir.path(), &base);
    for (lba, byte) in (0..).zip(&model) {
        assert_eq!(life.read(lba), *byte, "{lba}");
    }
    life.commit();
    life.log.seal().unwrap();
    life.log.drop_sealed().unwrap();
    drop(life);
    assert_eq!(Life::begin(dir.path(), &base).restored, 0);
}

#[test]
fn without_its_notes_an_overlay_forgets_what_was_not_committed() {
    // The test above would notice nothing if writes reached the overlay anyway.
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let mut life = Life::begin(dir.path(), &base);
    life.write(5, 0xee, 1);
    life.commit();
    life.write(6, 0xee, 1);
    drop(life);
    fs::remove_dir_all(dir.path().join("notes")).unwrap();
    let mut life = Life::begin(dir.path(), &base);
    assert_eq!([life.read(5), life.read(6)], [0xee, 6]);
}
