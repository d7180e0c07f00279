//! A hundred thousand spoilt images of every format, with fixed seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use cow_core::fault::Dice;
use cow_core::format::bitmap::Runs;
use cow_core::format::{IndexEntry, Layer, Top, cowloop, dm_cow, dm_snapshot, native, raw, uml};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Page, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use system_tests::hostile_images::{
    Bounded, Field, IMAGES, Image, attack, read_through, write_through,
};

/// Key of the image itself; the base, if there is one, comes last.
const IMAGE: StorageKey = StorageKey(0);
const SECTORS: u64 = 67;

fn page() -> Page {
    Page::ZERO.clone()
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}

fn base(storages: &[Bounded]) -> Layer<'static> {
    let key = u32::try_from(storages.len() - 1).unwrap();
    let len = storages.last().unwrap().len_bytes().unwrap();
    Layer::Raw(raw::Raw::new(StorageKey(key), len.max(1)).unwrap())
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(at + data.len()), 0);
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// What `create` leaves in an empty storage.
fn made(create: impl FnOnce(&mut Bounded)) -> Vec<u8> {
    let mut storage = Bounded::new(Vec::new());
    create(&mut storage);
    let len = storage.len_bytes().unwrap();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    storage.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Some bits of a bitmap.
const BITS: [u8; 5] = [0x81, 0x0f, 0x00, 0xff, 0x10];

fn uml_image(version: uml::Version) -> Image {
    let fields: &[(usize, usize)] = match version {
        uml::Version::V1 => &[(0, 4), (4, 4), (8, 1), (264, 4), (268, 8), (276, 4)],
        uml::Version::V2 => &[(0, 4), (4, 4), (8, 1), (4104, 4), (4108, 8), (4116, 4)],
        uml::Version::V3 => {
            &[(0, 4), (4, 4), (8, 4), (12, 8), (20, 4), (24, 4), (28, 4), (32, 1), (32, 4)]
        }
        _ => &[(0, 4), (4, 4), (8, 4), (16, 8), (24, 4), (28, 4), (32, 4), (36, 1)],
    };
    let old = matches!(version, uml::Version::V1 | uml::Version::V2);
    let mut bits = 0;
    let mut bytes = made(|storage| {
        let options = uml::CreateOptions {
            version,
            path: b"/some/base",
            size_bytes: if old { 72 * 512 } else { SECTORS * 512 - 100 },
            mtime_s: 1_577_934_245,
            alignment: if version == uml::Version::V3 { 512 } else { 4096 },
            wipe: false,
        };
        let opened = uml::create(storage, &options).unwrap();
        bits = usize::try_from(opened.geometry().bitmap_offset()).unwrap();
    });
    put(&mut bytes, bits, &BITS);
    Image::new(bytes, version != uml::Version::V1, fields)
}

fn with_base(mut image: Image) -> Image {
    image.storages.push(vec![b'b'; 40_000]);
    image
}

#[test]
fn uml_files() {
    use uml::Version::{V1, V2, V3, V3Padded};
    let images = [V1, V2, V3, V3Padded].map(|version| with_base(uml_image(version)));
    attack("uml", &images, IMAGES, |storages, dice| {
        let image = storages[0].clone();
        let opened = uml::open(&image).map_err(text)?;
        let report = uml::check(&image, &mut page(), |_| {}).map_err(text)?;
        let _path = uml::read_path(&image, &opened, &mut [0; 4096]);
        count_runs(&image, Runs::new(opened.geometry()), report.data_sectors);
        let layers = [Layer::Bitmap(opened.frozen(IMAGE)), base(storages)];
        let read = read_through(storages, &layers, dice);
        let mut copy = image.clone();
        let mut again = opened;
        let parent = uml::NewParent { path: b"/x", size_bytes: opened.size_bytes(), mtime_s: 5 };
        let _moved = uml::set_parent(&mut copy, &mut again, &parent, &mut page());
        uml::rollback(&mut copy).map_err(text)?;
        let top = uml::open_writable(&mut storages[0], IMAGE, &mut page()).map_err(text)?;
        let layers = [base(storages)];
        write_through(storages, &layers, Top::Bitmap(top), &mut [], dice)?;
        read
    });
}

fn count_runs(image: &Bounded, mut runs: Runs, sectors: u64) {
    let (mut scratch, mut counted) = (page(), 0);
    while let Some((extent, _)) = runs.next(image, &mut scratch).unwrap() {
        counted += extent.sectors();
    }
    assert_eq!(counted, sectors);
}

fn cowloop_images() -> Vec<Image> {
    let narrow = [(0, 4), (4, 2), (6, 2), (8, 4), (12, 4), (16, 4), (20, 4), (24, 4), (28, 4)];
    let wide = [(0, 4), (4, 2), (6, 2), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 8)];
    let mut images = Vec::new();
    for (width, fields) in [(cowloop::Width::Bits32, narrow), (cowloop::Width::Bits64, wide)] {
        for big_endian in [false, true] {
            let (used_at, len) = fields[8];
            let mut bytes = made(|storage| {
                let options = cowloop::CreateOptions {
                    width,
                    big_endian,
                    parent_bytes: 37 * 1024,
                    fingerprint: 1,
                    wipe: false,
                };
                cowloop::create(storage, &options).unwrap();
            });
            put(&mut bytes, 1024, &BITS);
            put(&mut bytes, used_at + if big_endian { len - 1 } else { 0 }, &[15]);
            put(&mut bytes, 4096 + 36 * 1024, &[1; 1024]);
            images.push(Image::new(bytes.clone(), big_endian, &fields));
            let storage = Bounded::new(bytes);
            let opened = cowloop::open(&storage, &mut page()).unwrap();
            let mut target = Bounded::new(Vec::new());
            cowloop::pack(&storage, &opened, &mut target, &mut [page(), page()]).unwrap();
            let mut packed = vec![0; usize::try_from(target.len_bytes().unwrap()).unwrap()];
            target.read_at(0, &mut packed).unwrap();
            images.push(Image::new(packed, big_endian, &fields));
        }
    }
    images.into_iter().map(with_base).collect()
}

#[test]
fn cowfiles() {
    attack("cowloop", &cowloop_images(), IMAGES, |storages, dice| {
        let image = storages[0].clone();
        let mut pages = [page(), page()];
        let checked = cowloop::check(&image, &mut pages, |_| {}).map_err(text);
        let mut copy = image.clone();
        let repaired = cowloop::repair(&mut copy, &mut pages);
        let emptied = cowloop::rollback(&mut image.clone());
        let opened = cowloop::open(&image, &mut page()).map_err(text)?;
        assert!(checked.is_ok() && repaired.is_ok() && (emptied.is_ok() || opened.is_packed()));
        let mut index = vec![IndexEntry::EMPTY; usize::try_from(opened.index_needed()).unwrap()];
        cowloop::load_index(&image, &opened, &mut index, &mut page()).map_err(text)?;
        let layers = [Layer::Bitmap(opened.frozen(IMAGE, &index)), base(storages)];
        let read = read_through(storages, &layers, dice);
        if opened.is_packed() {
            let mut target = Bounded::new(Vec::new());
            let _large = cowloop::unpack(&image, &opened, &mut target, &mut pages);
            return read;
        }
        let mut target = Bounded::new(Vec::new());
        let _large = cowloop::pack(&image, &opened, &mut target, &mut pages);
        let top = cowloop::open_writable(&mut storages[0], IMAGE, &mut page()).map_err(text)?;
        let layers = [base(storages)];
        let top = write_through(storages, &layers, Top::Bitmap(top), &mut [], dice)?;
        let Top::Bitmap(top) = top else { return Err("another format".into()) };
        cowloop::close(&mut storages[0], &top, &mut pages).map_err(text)?;
        read
    });
}

#[test]
fn dm_cow_layers() {
    let sectors = 67;
    let mut bits = vec![0; usize::try_from(dm_cow::bitmap_bytes(sectors)).unwrap()];
    put(&mut bits, 0, &BITS);
    put(&mut bits, 192 * 512, b"\x11\xbe\xba\xaa\x0e\xbe\xba\x00\x01");
    let data = vec![0xdd; (usize::try_from(sectors).unwrap() + 5) * 512];
    let field = |offset, len| Field { storage: 1, offset, len, big_endian: false };
    let fields = [field(192 * 512, 8), field(192 * 512 + 8, 8), field(0, 8)].into();
    let image = with_base(Image { storages: vec![data, bits], fields });
    attack("dm-cow", &[image], IMAGES, |storages, dice| {
        // The table is the user's, and may be wrong as well.
        let odd = [0, 1, 66, 68, 4095, 4096, 1 << 40, u64::MAX];
        let any = |dice: &mut Dice| odd[usize::try_from(dice.below(8)).unwrap()];
        let chosen = |good, dice: &mut Dice| if dice.chance(80) { good } else { any(dice) };
        let good = dice.roll() & 1 << 40 == 0 || storages[0].len_bytes().unwrap() % 512 == 0;
        let (sectors, write_offset_sectors) =
            if good { (67, 5) } else { (chosen(67, dice), chosen(5, dice)) };
        for block_bytes in [0, 512, 4096] {
            let layout = if block_bytes == 0 {
                dm_cow::Layout::Intended
            } else {
                dm_cow::Layout::AsPosted { block_bytes }
            };
            let table = dm_cow::Table { sectors, write_offset_sectors, layout };
            let (data_key, bitmap_key) = (StorageKey(0), StorageKey(1));
            let len = storages[0].len_bytes().unwrap();
            let opened = dm_cow::open(&storages[1], &table).map_err(text)?;
            let report =
                dm_cow::check(&storages[1], &table, len, &mut page(), |_| {}).map_err(text)?;
            count_runs(&storages[1], Runs::new(opened.geometry()), report.data_sectors);
            let layers = [Layer::Bitmap(opened.frozen(data_key, bitmap_key, len)), base(storages)];
            read_through(storages, &layers, dice)?;
            if block_bytes == 0 {
                let top = opened.writable::<String>(data_key, bitmap_key, len).map_err(text)?;
                let layers = [base(storages)];
                write_through(storages, &layers, Top::Bitmap(top), &mut [], dice)?;
            }
        }
        Ok(())
    });
}

#[test]
fn snapshot_stores() {
    let images = [1_u32, 2, 8].map(|chunk| {
        let chunk_len = usize::try_from(chunk).unwrap() * 512;
        let mut bytes = vec![0; 60 * chunk_len];
        put(&mut bytes, 0, b"SnAp\x01\0\0\0\x01\0\0\0");
        put(&mut bytes, 12, &chunk.to_le_bytes());
        let mut fields = vec![(0, 4), (4, 4), (8, 4), (12, 4)];
        // More than an area, for the smallest chunks.
        let per_area = chunk_len / 16;
        let (mut at, mut store) = (chunk_len, 2_u64);
        for number in 0..(48 / usize::try_from(chunk).unwrap()) {
            if number > 0 && number % per_area == 0 {
                at = (1 + number / per_area * (per_area + 1)) * chunk_len;
                store += 1;
            }
            put(&mut bytes, at, &(number as u64).to_le_bytes());
            put(&mut bytes, at + 8, &store.to_le_bytes());
            fields.extend([(at, 8), (at + 8, 8)]);
            (at, store) = (at + 16, store + 1);
        }
        with_base(Image::new(bytes, false, &fields))
    });
    attack("dm-snapshot", &images, IMAGES, |storages, dice| {
        let sectors = if dice.chance(90) { SECTORS } else { 1 + dice.below(100) };
        let image = storages[0].clone();
        let mut index = vec![IndexEntry::EMPTY; 512];
        let mut scratch = [0; 1024];
        let _report = dm_snapshot::check(&image, sectors, &mut index, &mut scratch, |_| {});
        let _emptied = dm_snapshot::rollback(&mut image.clone());
        let mut opened =
            dm_snapshot::open_even_invalidated(&image, sectors, &mut scratch).map_err(text)?;
        let loaded = dm_snapshot::load_index(&image, &opened, &mut index, &mut scratch);
        let loaded = loaded.map_err(text)?;
        let frozen = dm_snapshot::Frozen::new(IMAGE, &loaded, &index);
        let layers = [Layer::DmSnapshot(frozen), base(storages)];
        read_through(storages, &layers, dice)?;
        dm_snapshot::clear_stale(&mut storages[0], &mut opened).map_err(text)?;
        let loaded = dm_snapshot::load_index(&storages[0], &opened, &mut index, &mut scratch);
        let top = dm_snapshot::Writable::new(IMAGE, &loaded.map_err(text)?).map_err(text)?;
        let layers = [base(storages)];
        write_through(storages, &layers, Top::DmSnapshot(top), &mut index, dice).map(drop)
    });
}

#[test]
fn native_overlays() {
    let sectors = 100;
    let bytes = made(|storage| {
        let options = native::CreateOptions {
            layer_id: LayerId([7; 16]),
            sectors,
            parent: ParentIdentity::None,
            window: None,
            hint: b"base",
            label: b"label",
            created_s: 0,
            log: None,
            fresh: native::Fresh::Zeroed,
        };
        native::create(storage, &options, &mut page()).unwrap();
        let top = native::open_writable(storage, IMAGE, &mut page()).unwrap();
        let mut dice = Dice::new(3);
        let storages = core::slice::from_mut(storage);
        write_through(storages, &[], Top::Native(top), &mut [], &mut dice).unwrap();
        storages[0].sync().unwrap();
    });
    let fields: Vec<_> =
        (0..4).flat_map(|slot| (0..16).map(move |n| (slot * 4096 + n * 8, 8))).collect();
    let image = with_base(Image::new(bytes, false, &fields));
    attack("native", &[image], IMAGES, |storages, dice| {
        let image = storages[0].clone();
        let checked = native::check(&image, &mut page(), &mut |_| {}).map_err(text);
        let opened = native::open(&image, &mut page()).map_err(text)?;
        checked?;
        let layers = [Layer::Native(opened.snapshot(IMAGE)), base(storages)];
        let read = read_through(storages, &layers, dice);
        let _emptied = native::rollback(&mut image.clone(), &mut page());
        let top = native::open_writable(&mut storages[0], IMAGE, &mut page()).map_err(text)?;
        let layers = [base(storages)];
        write_through(storages, &layers, Top::Native(top), &mut [], dice)?;
        read
    });
}
