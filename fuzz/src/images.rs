//! Arbitrary images of each format: opened, checked, read as a layer, written as an overlay.
//!
//! The first bytes of the input say what is done, the rest is the image: see [`split`].

use cow_core::format::{
    IndexEntry, Layer, Top, cowloop, dm_cow, dm_snapshot, native, qcow1, qcow2, raw, uml,
};
use cow_core::pages::{Page, StorageKey};

use crate::chain::{Image, drive};

const IMAGE: StorageKey = StorageKey(0);
const DATA: StorageKey = StorageKey(1);

/// Bytes of the input that say what is done.
pub const SCRIPT_LEN: usize = 16;

/// Sectors of the disk, where the image does not say it.
pub const SECTORS: u64 = 1000;

/// What is done, and the image.
fn split(bytes: &[u8]) -> (&[u8], Image) {
    let (script, image) = bytes.split_at(bytes.len().min(SCRIPT_LEN));
    (script, Image::new(image))
}

/// A layer below the image.
fn base() -> Option<Layer<'static>> {
    raw::Raw::new(StorageKey(2), 1 << 20).map(Layer::Raw)
}

fn read(image: &Image, layer: Layer<'_>, script: &[u8]) {
    let layers: Vec<_> = [Some(layer), base()].into_iter().flatten().collect();
    let mut copy = image.clone();
    drive(&mut copy, None, &layers, &mut [], script);
    assert!(copy.into_bytes() == image.clone().into_bytes(), "a layer was written");
}

fn write(image: &mut Image, top: Top, index: &mut [IndexEntry], script: &[u8]) {
    drive(image, Some(top), base().as_slice(), index, script);
}

/// Our own format.
pub fn native(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let mut page = Page::ZERO;
    let Ok(opened) = native::open(&image, &mut page) else { return };
    let _report = native::check(&image, &mut page, &mut |_finding| {});
    read(&image, Layer::Native(opened.snapshot(IMAGE)), script);
    if let Ok(top) = native::open_writable(&mut image, IMAGE, &mut page) {
        write(&mut image, Top::Native(top), &mut [], script);
        let _report = native::check(&image, &mut page, &mut |_finding| {});
    }
    let _emptied = native::rollback(&mut image, &mut page);
}

/// The store of device-mapper's snapshot target.
pub fn dm_snapshot(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let (mut scratch, mut index) = (vec![0; 4096], vec![IndexEntry::EMPTY; 4096]);
    let _report = dm_snapshot::check(&image, SECTORS, &mut index, &mut scratch, |_fault| {});
    let Ok(mut opened) = dm_snapshot::open(&image, SECTORS, &mut scratch) else { return };
    if dm_snapshot::clear_stale(&mut image, &mut opened).is_err() {
        return;
    }
    let loaded = dm_snapshot::load_index(&image, &opened, &mut index, &mut scratch);
    let Ok(loaded) = loaded else { return };
    read(&image, Layer::DmSnapshot(dm_snapshot::Frozen::new(IMAGE, &loaded, &index)), script);
    if let Ok(top) = dm_snapshot::Writable::new(IMAGE, &loaded) {
        write(&mut image, Top::DmSnapshot(top), &mut index, script);
    }
    let _emptied = dm_snapshot::rollback(&mut image);
}

/// COW files of User-Mode-Linux.
pub fn uml(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let mut page = Page::ZERO;
    let _report = uml::check(&image, &mut page, |_finding| {});
    let Ok(opened) = uml::open(&image) else { return };
    let _path = uml::read_path(&image, &opened, page.as_bytes_mut());
    read(&image, Layer::Bitmap(opened.frozen(IMAGE)), script);
    if let Ok(top) = uml::open_writable(&mut image, IMAGE, &mut page) {
        write(&mut image, Top::Bitmap(top), &mut [], script);
    }
    let _emptied = uml::rollback(&mut image);
}

/// Cowfiles of cowloop.
pub fn cowloop(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let (mut pages, mut index) = ([Page::ZERO, Page::ZERO], vec![IndexEntry::EMPTY; 4096]);
    let _report = cowloop::check(&image, &mut pages, |_finding| {});
    let Ok(opened) = cowloop::open(&image, &mut pages[0]) else {
        let _repaired = cowloop::repair(&mut image, &mut pages);
        return;
    };
    if cowloop::load_index(&image, &opened, &mut index, &mut pages[0]).is_ok() {
        read(&image, Layer::Bitmap(opened.frozen(IMAGE, &index)), script);
    }
    if let Ok(top) = cowloop::open_writable(&mut image, IMAGE, &mut pages[0]) {
        write(&mut image, Top::Bitmap(top), &mut [], script);
    }
}

/// Bitmap devices of dm-cow.
pub fn dm_cow(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let posted = dm_cow::Layout::AsPosted { block_bytes: 512 };
    for layout in [dm_cow::Layout::Intended, posted] {
        let table = dm_cow::Table { sectors: SECTORS, write_offset_sectors: 3, layout };
        let _report =
            dm_cow::check(&image, &table, 1 << 20, &mut Page::ZERO.clone(), |_finding| {});
        let Ok(opened) = dm_cow::open(&image, &table) else { continue };
        read(&image, Layer::Bitmap(opened.frozen(DATA, IMAGE, 1 << 20)), script);
        if let Ok(top) = opened.writable::<embedded_io::ErrorKind>(DATA, IMAGE, 1 << 20) {
            write(&mut image, Top::Bitmap(top), &mut [], script);
        }
    }
}

/// Images of qcow, version 1.
///
/// # Panics
/// When writing damages an image that was sound.
pub fn qcow1(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let mut pages = [Page::ZERO, Page::ZERO, Page::ZERO];
    let mut memory = [0; 64];
    let [pair @ .., _] = &mut pages;
    let Ok(opened) = qcow1::open(&image) else { return };
    let _name = opened.backing_name(&image, &mut [0; qcow1::NAME_LEN]);
    let before = qcow1::check(&image, &mut memory, pair, &mut |_finding| {});
    let mut runs = qcow1::Runs::new(&opened, pair);
    while !matches!(runs.next(&image), Ok(None)) {}
    read(&image, Layer::Qcow1(opened.frozen(IMAGE)), script);
    let mut copy = image.clone();
    let _repaired = qcow1::repair(&mut copy, &mut memory, &mut pages, &mut |_finding| {});
    if let Ok(top) = qcow1::open_writable(&mut image, IMAGE, &mut pages[0]) {
        write(&mut image, Top::Qcow1(top), &mut [], script);
        let [pair @ .., _] = &mut pages;
        let after = qcow1::check(&image, &mut memory, pair, &mut |_finding| {});
        let (Ok(before), Ok(after)) = (before, after) else { panic!("it was opened before") };
        assert!(before.damages > 0 || after.damages == 0, "damaged by writing: {after:?}");
    }
}

/// qcow2 images.
///
/// # Panics
/// When writing damages an image that was sound.
pub fn qcow2(bytes: &[u8]) {
    let (script, mut image) = split(bytes);
    let mut page = Page::ZERO;
    let Ok(opened) = qcow2::open(&image) else { return };
    let _name = qcow2::backing_name(&image, &opened, &mut [0; qcow2::MAX_NAME_LEN]);
    let mut memory = counts(&opened);
    let before = qcow2::check(&image, &opened, &mut memory, &mut page, &mut |_finding| {});
    read(&image, Layer::Qcow2(opened.frozen(IMAGE)), script);
    for snapshot in qcow2::snapshots(&image, &opened).map_while(Result::ok).take(4) {
        if let Some(frozen) = snapshot.frozen(&opened, IMAGE) {
            read(&image, Layer::Qcow2(frozen), script);
        }
    }
    let mut copy = image.clone();
    let _repaired =
        qcow2::repair(&mut copy, &opened, None, &mut memory, &mut page, &mut |_finding| {});
    let _emptied = qcow2::rollback(&mut image.clone(), &opened, None, &mut page);
    let surroundings = qcow2::Surroundings::default();
    if let Ok(top) = qcow2::open_writable(&mut image, IMAGE, &opened, &surroundings, &mut page) {
        write(&mut image, Top::Qcow2(top), &mut [], script);
        let Ok(now) = qcow2::open(&image) else { panic!("it was opened before") };
        let mut memory = counts(&now);
        let after = qcow2::check(&image, &now, &mut memory, &mut page, &mut |_finding| {});
        let (Ok(before), Ok(after)) = (before, after) else { panic!("it was opened before") };
        assert!(before.damage > 0 || after.damage == 0, "damaged by writing: {after:?}");
    }
}

/// Memory for a check.
fn counts(opened: &qcow2::Opened) -> Vec<u16> {
    vec![0; usize::try_from(qcow2::check_needed(opened)).unwrap_or(0)]
}
