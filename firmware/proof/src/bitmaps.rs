//! The identity-mapped formats: every function of theirs, and a chain over each.

use core::hint::black_box;

use crate::chains::{Ram, SECTORS, drive};
use cow_core::format::bitmap::{Finding, Runs};
use cow_core::format::{IndexEntry, Layer, Top, cowloop, dm_cow, uml};
use cow_core::pages::{Page, StorageKey};

const KEY: StorageKey = StorageKey(0);

/// A chain over each format. True if all went as it should.
pub fn run(store: &mut Ram, pages: &mut [Page; 2]) -> bool {
    let files = [uml::Version::V1, uml::Version::V2, uml::Version::V3, uml::Version::V3Padded];
    let all = files.into_iter().all(|version| {
        store.clear();
        over_uml(store, black_box(version), pages)
    });
    store.clear();
    let cowfile = over_cowloop(store, pages);
    store.clear();
    all && cowfile && over_dm_cow(store, pages)
}

fn note(finding: Finding) {
    black_box(finding.is_damage());
}

fn over_uml(store: &mut Ram, version: uml::Version, pages: &mut [Page; 2]) -> bool {
    let [page, path] = pages;
    let options = uml::CreateOptions {
        version,
        path: black_box(b"/base".as_slice()),
        size_bytes: black_box(SECTORS * 512),
        mtime_s: black_box(5),
        alignment: black_box(4096),
        wipe: black_box(true),
    };
    let made = uml::create(store, &options).is_ok();
    let Ok(top) = uml::open_writable(store, KEY, page) else { return false };
    let answered = drive(Some(Top::Bitmap(top)), &mut [], store);
    let Ok(mut opened) = uml::open(store) else { return false };
    black_box(opened.judge_parent(black_box(7), black_box(8)).is_ok());
    black_box(Layer::Bitmap(opened.frozen(KEY)));
    let named = uml::read_path(store, &opened, path.as_bytes_mut()).is_ok();
    let checked = uml::check(store, page, note).is_ok();
    let mut runs = Runs::new(opened.geometry());
    let held = matches!(runs.next(store, page), Ok(Some(_)));
    let parent = uml::NewParent {
        path: black_box(b"/b"),
        size_bytes: black_box(opened.size_bytes()),
        mtime_s: black_box(6),
    };
    let moved = uml::set_parent(store, &mut opened, &parent, page).is_ok();
    made && answered && named && checked && held && moved && uml::rollback(store).is_ok()
}

fn over_cowloop(store: &mut Ram, pages: &mut [Page; 2]) -> bool {
    let options = cowloop::CreateOptions {
        width: black_box(cowloop::Width::Bits64),
        big_endian: black_box(false),
        parent_bytes: black_box(SECTORS * 512),
        fingerprint: black_box(1),
        wipe: black_box(false),
    };
    let made = cowloop::create(store, &options).is_ok();
    let [page, _] = &mut *pages;
    let Ok(top) = cowloop::open_writable(store, KEY, page) else { return false };
    let answered = drive(Some(Top::Bitmap(top)), &mut [], store);
    let Ok(top) = cowloop::open_writable(store, KEY, page) else { return false };
    let checked = cowloop::check(store, pages, note).is_ok();
    // The storage claims to be too long for what it would have to look at or to make zero.
    black_box(cowloop::close(store, &top, pages).is_ok());
    black_box(cowloop::repair(store, pages).is_ok());
    let [page, _] = &mut *pages;
    black_box(cowloop::fingerprint(store, page).is_ok());
    let Ok(opened) = cowloop::open(store, page) else { return false };
    let mut index = [IndexEntry::EMPTY; 4];
    let loaded = cowloop::load_index(store, &opened, &mut index, page).is_ok();
    black_box(Layer::Bitmap(opened.frozen(KEY, &index)));
    black_box(opened.judge_parent(black_box(7), black_box(8)).is_ok());
    let mut other = Ram::new();
    black_box(cowloop::pack(store, &opened, &mut other, pages).is_ok());
    black_box(cowloop::unpack(store, &opened, &mut other, pages).is_ok());
    black_box(cowloop::set_fingerprint(&mut other, black_box(3)).is_ok());
    black_box(cowloop::rollback(&mut other).is_ok());
    made && answered && checked && loaded
}

/// The magic of a bitmap device lies behind what the storage holds: only refusals run.
fn over_dm_cow(store: &mut Ram, pages: &mut [Page; 2]) -> bool {
    let [page, _] = pages;
    let table = dm_cow::Table {
        sectors: black_box(SECTORS),
        write_offset_sectors: black_box(5),
        layout: black_box(dm_cow::Layout::AsPosted { block_bytes: 4096 }),
    };
    let made = dm_cow::create(store, table.sectors).is_ok();
    if let Ok(opened) = dm_cow::open(store, &table) {
        black_box(Layer::Bitmap(opened.frozen(KEY, KEY, black_box(9))));
        black_box(opened.writable::<()>(KEY, KEY, black_box(9)).is_ok());
    }
    black_box(dm_cow::check(store, &table, black_box(9), page, note).is_ok());
    black_box(dm_cow::rollback(store, &table).is_ok());
    !made
}
