//! Chains of real files, written through the engine, and every refusal.

use core::time::Duration;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cow_core::blocking::{Blocking, Storages, part, part_mut};
use cow_core::engine::{Buffer, Durability, Engine, IoFailure, Kind, Lent, Operation};
use cow_core::format::Top;
use cow_core::pages::{Frame, Page, PagePool};
use cow_core::units::Lba;
use tempfile::TempDir;

use super::*;
use crate::config::{Layer, Window};
use crate::error::{ErrorKind, HostError};
use crate::storage::{FileOptions, FileStorage, FileTable, LockMode};

pub(crate) fn golden(dir: &TempDir, len: usize) -> PathBuf {
    let path = dir.path().join("golden.img");
    let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i / 512 % 251).unwrap()).collect();
    fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn layer(path: &Path) -> Layer {
    Layer::File { path: path.to_owned(), window: Window::default() }
}

fn back(layers: &[Layer], files: &mut FileTable) -> Backing {
    open_backing(layers, false, files).unwrap_or_else(|e| panic!("{}", e.report()))
}

fn options() -> OverlayOptions {
    OverlayOptions { label: "client-1".to_owned(), ..OverlayOptions::default() }
}

/// A chain under the blocking driver.
pub(crate) struct Chain {
    files: FileTable,
    backing: Backing,
    pub(crate) overlay: OpenedOverlay,
    engine: Engine<4>,
    index: Vec<cow_core::format::IndexEntry>,
}

impl Chain {
    pub(crate) fn open(layers: &[Layer], overlay: &Path) -> crate::error::Result<Self> {
        let mut files = FileTable::new();
        let backing = open_backing(layers, false, &mut files)?;
        let name = ImageName::parse(overlay);
        let keys = ImageKeys::reserve(&name, &mut files);
        let mut overlay = if name.path.exists() {
            open_overlay(&name, &backing, keys, &options())?
        } else {
            create_overlay(&name, &backing, keys, &options())?
        };
        overlay.enter(&mut files);
        let core = overlay.take_core().unwrap();
        let mut engine = Engine::new(Some(core.top), overlay.sectors(), Durability::Safe).unwrap();
        engine.set_limit(core.used, u64::MAX);
        Ok(Self { files, backing, overlay, engine, index: core.index })
    }

    fn run<T>(&mut self, act: impl FnOnce(&mut Blocking<'_, '_, FileTable, 4>) -> T) -> T {
        let mut pages = vec![Page::ZERO; 8];
        let mut frames = vec![Frame::EMPTY; 8];
        let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
        let lent = Lent { pages: &mut pool, layers: self.backing.layers(), index: &mut self.index };
        act(&mut Blocking { engine: &mut self.engine, lent, storages: &mut self.files })
    }

    pub(crate) fn warnings(&self) -> &[String] {
        self.backing.warnings()
    }

    pub(crate) fn write(&mut self, lba: u64, byte: u8, sectors: usize) {
        let data = vec![byte; sectors * 512];
        self.run(|chain| chain.write(Lba::new(lba).unwrap(), &data)).unwrap();
    }

    pub(crate) fn read(&mut self, lba: u64) -> u8 {
        let mut sector = [0; 512];
        self.run(|chain| chain.read(Lba::new(lba).unwrap(), &mut sector)).unwrap();
        assert!(sector.iter().all(|b| *b == sector[0]));
        sector[0]
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method alone is not general enough in its lifetimes"
    )]
    fn flush(&mut self) {
        self.run(|chain| chain.flush()).unwrap();
    }

    pub(crate) fn close(mut self) -> OpenedOverlay {
        self.flush();
        let mut top: Top = self.engine.into_overlay().unwrap();
        self.overlay.close(&mut top).unwrap();
        self.overlay
    }
}

fn refused(layers: &[Layer], overlay: &Path) -> HostError {
    match Chain::open(layers, overlay) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[test]
fn an_overlay_is_found_again_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let before = fs::read(&base).unwrap();
    let path = dir.path().join("a.cow");
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert!(chain.overlay.was_created() && chain.overlay.was_clean());
    assert_eq!(chain.read(7), 7);
    chain.write(7, 0xaa, 3);
    assert_eq!(chain.engine.used_sectors(), 3);
    chain.close();
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert!(!chain.overlay.was_created() && chain.overlay.was_clean());
    assert_eq!(chain.overlay.label(), "client-1");
    assert_eq!(chain.engine.used_sectors(), 3);
    assert_eq!([chain.read(6), chain.read(7), chain.read(9), chain.read(10)], [6, 0xaa, 0xaa, 10]);
    // Not closed: the next one counts what is there.
    chain.write(20, 0xbb, 2);
    drop(chain);
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert!(!chain.overlay.was_clean());
    assert_eq!(chain.engine.used_sectors(), 5);
    assert_eq!(chain.read(21), 0xbb);
    let used = chain.overlay.file().disk_use().unwrap();
    assert!(used.allocated_bytes < used.apparent_bytes, "{used:?}");
    chain.close().delete().unwrap();
    assert!(!path.exists());
    assert_eq!(fs::read(&base).unwrap(), before);
}

#[test]
fn room_is_taken_for_the_whole_disk_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = FileTable::new();
    let backing = back(&[Layer::Blank { len_bytes: 5 << 20 }], &mut files);
    let mut make = |file: &str, preallocate| {
        let name = ImageName::parse(dir.path().join(file));
        let keys = ImageKeys::reserve(&name, &mut files);
        let options = OverlayOptions { preallocate, ..options() };
        create_overlay(&name, &backing, keys, &options).unwrap().file().disk_use().unwrap()
    };
    assert!(make("sparse.cow", false).allocated_bytes < 1 << 20);
    let used = make("whole.cow", true);
    assert!(used.allocated_bytes >= used.apparent_bytes, "{used:?}");
    assert!(used.apparent_bytes >= 5 << 20, "{used:?}");
}

#[test]
fn blank_disks_and_windows() {
    let dir = tempfile::tempdir().unwrap();
    let blank = Layer::Blank { len_bytes: 5 << 20 };
    let path = dir.path().join("blank.cow");
    let mut chain = Chain::open(core::slice::from_ref(&blank), &path).unwrap();
    assert_eq!(chain.overlay.sectors(), 10_240);
    assert_eq!(chain.read(10_239), 0);
    chain.write(10_239, 1, 1);
    chain.close();
    assert_eq!(Chain::open(&[blank], &path).unwrap().read(10_239), 1);

    let base = golden(&dir, 100 * 512 + 77);
    let error = refused(&[layer(&base)], &path);
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    let part = |offset_bytes, len_bytes| Layer::File {
        path: base.clone(),
        window: Window { offset_bytes, len_bytes },
    };
    let path = dir.path().join("part.cow");
    let mut chain = Chain::open(&[part(10 * 512, None)], &path).unwrap();
    assert_eq!(chain.overlay.sectors(), 91);
    assert_eq!(chain.read(0), 10);
    chain.close();
    let error = refused(&[part(11 * 512, None)], &path);
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Chain::open(&[part(10 * 512, None)], &path).unwrap();
    for bad in [part(1 << 30, None), part(0, Some(1 << 30)), part(u64::MAX, Some(5))] {
        let error = refused(&[bad], &dir.path().join("no.cow"));
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    assert!(!dir.path().join("no.cow").exists());
}

#[test]
fn a_parent_that_is_not_the_recorded_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = dir.path().join("a.cow");
    Chain::open(&[layer(&base)], &path).unwrap().close();
    let bytes = fs::read(&base).unwrap();
    let mtime = fs::metadata(&base).unwrap().modified().unwrap();
    let put = |bytes: &[u8], time| {
        fs::write(&base, bytes).unwrap();
        fs::File::options().append(true).open(&base).unwrap().set_modified(time).unwrap();
    };
    let mut other = bytes.clone();
    other[0] ^= 1;
    let cases = [
        (&bytes[..999 * 512], mtime, "fewer"),
        (&[&bytes[..], &[0; 512]].concat()[..], mtime, "more"),
        (&other[..], mtime, "content"),
        (&bytes[..], mtime + Duration::from_nanos(1), "rebind"),
    ];
    for (bytes, time, word) in cases {
        put(bytes, time);
        let error = refused(&[layer(&base)], &path);
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    put(&bytes, mtime);
    Chain::open(&[layer(&base)], &path).unwrap();
    let blank = Layer::Blank { len_bytes: 1000 * 512 };
    let error = refused(&[blank], &path);
    assert!(error.to_string().contains("needs a parent"), "{error}");
}

#[test]
fn frozen_layers_stack_and_writable_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let (mid, top) = (dir.path().join("mid.cow"), dir.path().join("top.cow"));
    let mut chain = Chain::open(&[layer(&base)], &mid).unwrap();
    chain.write(1, 0x11, 2);
    let mut overlay = chain.close();
    let chain_of = [layer(&mid), layer(&base)];
    drop(overlay.take_core());
    let file = overlay.file().clone();
    drop(overlay);
    drop(file);
    let error = refused(&chain_of, &top);
    assert!(error.to_string().contains("freeze"), "{error}");

    let mut file = FileStorage::open(
        &mid,
        &FileOptions { access: crate::storage::Access::ReadWrite, ..FileOptions::default() },
    )
    .unwrap();
    cow_core::format::native::freeze(
        &mut file,
        identity::random_layer_id().unwrap(),
        &mut identity::scratch_page(),
    )
    .unwrap();
    let mut chain = Chain::open(&chain_of, &top).unwrap();
    chain.write(2, 0x22, 1);
    assert_eq!([chain.read(0), chain.read(1), chain.read(2), chain.read(3)], [0, 0x11, 0x22, 3]);
    chain.close();
    // As an overlay a frozen layer takes no writes, and every layer needs its own parent.
    let error = refused(&[layer(&base)], &mid);
    assert!(error.to_string().contains("frozen"), "{error}");
    let error = refused(&[layer(&mid)], &top);
    assert!(error.to_string().contains("needs a parent"), "{error}");
    let error = refused(&[layer(&base)], &top);
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
}

#[test]
fn chains_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = dir.path().join("a.cow");
    let link = dir.path().join("link.img");
    symlink(&base, &link).unwrap();
    let empty = dir.path().join("empty.img");
    fs::write(&empty, b"").unwrap();
    let blank = Layer::Blank { len_bytes: 512 };
    let cases: [(&[Layer], &Path, &str); 8] = [
        (&[layer(&link), layer(&base)], &path, "twice"),
        (&[layer(&base), blank.clone()], &path, "hides"),
        (&[blank.clone(), layer(&base)], &path, "only be the base"),
        (&[layer(&empty)], &path, "empty"),
        (&[layer(dir.path())], &path, "neither a file nor"),
        (&[layer(&base)], &link, "below itself"),
        (&[layer(&base)], &empty, "it is empty"),
        (&vec![blank; 65], &path, "65 layers"),
    ];
    for (layers, overlay, word) in cases {
        let error = refused(layers, overlay);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = refused(&[layer(&dir.path().join("nothing.img"))], &path);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!path.exists());
}

#[test]
fn locks_keep_servers_apart() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = dir.path().join("a.cow");
    let first = Chain::open(&[layer(&base)], &path).unwrap();
    let error = refused(&[layer(&base)], &path);
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("in use by process"), "{error}");
    let other = Chain::open(&[layer(&base)], &dir.path().join("b.cow"));
    assert!(other.is_ok(), "backing files are shared");
    let writer = FileOptions { lock: LockMode::Exclusive, ..FileOptions::default() };
    assert_eq!(FileStorage::open(&base, &writer).unwrap_err().kind(), ErrorKind::InUse);
    drop((first, other));
    Chain::open(&[layer(&base)], &path).unwrap();
}

#[test]
fn raw_is_raw_when_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("evil.img");
    let mut bytes = vec![0; 64 * 512];
    bytes[..8].copy_from_slice(b"cowblade");
    fs::write(&base, &bytes).unwrap();
    let path = dir.path().join("a.cow");
    let error = refused(&[layer(&base)], &path);
    assert!(error.to_string().contains("corrupt"), "{error}");
    let forced = PathBuf::from(format!("raw:{}", base.display()));
    let chain = Chain::open(&[layer(&forced)], &path).unwrap();
    assert_eq!(chain.overlay.sectors(), 64);
}

#[test]
fn changes_of_the_golden_image_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let mut files = FileTable::new();
    let backing = back(&[layer(&base)], &mut files);
    assert!(backing.check().is_none());
    let shorten = || fs::File::options().write(true).open(&base).unwrap().set_len(512);
    let path = base.clone();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        fs::File::options().write(true).open(path).unwrap().set_len(512).unwrap();
    });
    while !writer.is_finished() {
        let _let_the_writer_go_on = backing.check();
        std::thread::sleep(Duration::from_millis(1));
    }
    let (path, change) = backing.check().unwrap();
    assert_eq!((path, change), (&*base, crate::storage::Change::Modified));
    drop(backing);
    shorten().unwrap();
}

/// A store as the kernel makes it of an empty file with chunks of 8 sectors, holding disk chunk 1.
pub(crate) fn store(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("golden.img.cow.0");
    let mut bytes = vec![0; 64 * 4096];
    bytes[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
    bytes[4096] = 1;
    bytes[4096 + 8] = 2;
    bytes[2 * 4096..3 * 4096].fill(0xcc);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn stores_of_the_recipe_are_served_and_bound_to_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    let path = store(&dir);
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert_eq!([chain.read(7), chain.read(8), chain.read(15), chain.read(16)], [7, 0xcc, 0xcc, 16]);
    assert_eq!(chain.overlay.format().word(), "dm-snapshot");
    chain.write(20, 0x20, 1);
    chain.close();
    assert!(binding_path(&path).exists());
    let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
    assert_eq!([chain.read(19), chain.read(20), chain.read(8)], [19, 0x20, 0xcc]);
    chain.close();
    let other = dir.path().join("other.img");
    fs::write(&other, vec![0; 1000 * 512]).unwrap();
    let error = refused(&[layer(&other)], &path);
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // As a layer of a native overlay; the lock says that nobody writes it.
    let top = dir.path().join("top.cow");
    let mut chain = Chain::open(&[layer(&path), layer(&base)], &top).unwrap();
    assert_eq!([chain.read(20), chain.read(21)], [0x20, 21]);
    assert!(chain.backing.warnings().is_empty());
    drop(chain);
    fs::remove_file(binding_path(&path)).unwrap();
    let chain = Chain::open(&[layer(&path), layer(&base)], &top).unwrap();
    assert!(chain.backing.warnings()[0].contains("make sure"));
    drop(chain);
    fs::write(binding_path(&path), b"{}").unwrap();
    let error = refused(&[layer(&base)], &path);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn only_native_overlays_are_made_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let base = golden(&dir, 1000 * 512);
    for word in ["raw", "dm-snapshot"] {
        let name = format!("{word}:{}/new.cow", dir.path().display());
        let error = refused(&[layer(&base)], Path::new(&name));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let store = format!("dm-snapshot:{}", store(&dir).display());
    let mut chain = Chain::open(&[layer(&base)], Path::new(&store)).unwrap();
    assert_eq!(chain.read(8), 0xcc);
}

#[test]
fn a_new_store_takes_every_chunk_of_the_disk() {
    for (sectors, chunk_sectors) in [(1000, 8), (1, 1), (4096, 1), (4097, 1), (32, 1), (33, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let base = golden(&dir, sectors * 512);
        let path = dir.path().join("new.cow");
        let mut files = FileTable::new();
        let backing = back(&[layer(&base)], &mut files);
        let format = Format::named("dm-snapshot").unwrap();
        let new = NewOverlay {
            format,
            sectors: sectors as u64,
            options: &FormatOptions::default().with("chunk", (chunk_sectors * 512).to_string()),
            direct: false,
            onto_device: false,
            replace: false,
            log: None,
        };
        drop(make_overlay(&ImageName::new_in(format, &path), backing.below(), &new).unwrap());
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        chain.write(0, 0xee, sectors);
        chain.close();
        let mut chain = Chain::open(&[layer(&base)], &path).unwrap();
        assert_eq!(chain.read(sectors as u64 - 1), 0xee, "{sectors} {chunk_sectors}");
    }
}

/// What is said about the parent of an image that never was would be believed of the next file there.
#[test]
fn an_image_that_is_not_finished_has_nothing_beside_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let names = || -> Vec<String> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    fs::write(path("base"), vec![7; 1 << 20]).unwrap();
    let backing = open_backing(&[layer(&path("base"))], false, &mut FileTable::new()).unwrap();
    for format in Format::creatable().filter(|f| f.ops().binds_parent()) {
        if format.ops().has_metadata_file() {
            continue;
        }
        let name = ImageName::new_in(format, &path("new"));
        // Left from an image that is gone.
        fs::write(path("new.parent.json"), "old").unwrap();
        let new = NewOverlay {
            format,
            sectors: 2048,
            options: &FormatOptions::default(),
            direct: false,
            onto_device: false,
            replace: false,
            log: None,
        };
        let image = begin_image(&name, backing.below(), &new).unwrap();
        assert_eq!(fs::read(path("new.parent.json")).unwrap(), b"old", "{format}");
        let hidden: Vec<_> = names().into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(
            matches!(&*hidden, [name] if name.ends_with(".parent.json")),
            "{format}: {hidden:?}"
        );
        drop(image);
        assert_eq!(names(), ["base", "new.parent.json"], "{format}");
        begin_image(&name, backing.below(), &new).unwrap().finish(&new).unwrap();
        assert_eq!(names(), ["base", "new", "new.parent.json"], "{format}");
        assert_ne!(fs::read(path("new.parent.json")).unwrap(), b"old", "{format}");
        fs::remove_file(path("new")).unwrap();
    }
    // Whoever opens for writing what is served is held up by its lease for most of a minute.
    drop(backing);
    // What is wrong is said of the name that was asked for.
    let odd = FormatOptions::default().with("version", "1");
    fs::write(path("base"), vec![7; 2047 * 512]).unwrap();
    let backing = open_backing(&[layer(&path("base"))], false, &mut FileTable::new()).unwrap();
    let uml = Format::named("uml").unwrap();
    let new = NewOverlay {
        format: uml,
        sectors: 2047,
        options: &odd,
        direct: false,
        onto_device: false,
        replace: false,
        log: None,
    };
    let refused = begin_image(&ImageName::new_in(uml, &path("new")), backing.below(), &new);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("/new`") && !error.contains(".new-"), "{error}");
}

/// Does what an engine asks for, at once.
pub(super) fn perform(
    files: &mut FileTable,
    o: &Operation,
    memory: &mut [u8],
    pages: &mut PagePool<'_>,
) -> Result<(), IoFailure> {
    match (o.kind, o.buffer) {
        (Kind::Read, Buffer::Page { page, offset }) => {
            files.read(o.storage, o.offset, part_mut(pages.bytes_mut(page), offset, o.len).unwrap())
        }
        (Kind::Read, Buffer::Request { offset, .. }) => {
            files.read(o.storage, o.offset, part_mut(memory, offset, o.len).unwrap())
        }
        (Kind::Write, Buffer::Page { page, offset }) => {
            files.write(o.storage, o.offset, part(pages.bytes(page), offset, o.len).unwrap())
        }
        (Kind::Write, Buffer::Request { offset, .. }) => {
            files.write(o.storage, o.offset, part(memory, offset, o.len).unwrap())
        }
        (Kind::Sync, _) => files.sync(o.storage),
        (Kind::Zero, _) => files.zero(o.storage, o.offset, o.len),
        (Kind::Punch, _) => files.punch(o.storage, o.offset, o.len),
        (Kind::Unpack(_), _) | (Kind::Read | Kind::Write, Buffer::None) => panic!("{o:?}"),
    }
}
