//! qcow2: every function of its module, and a chain over an image.

use core::hint::black_box;

use crate::chains::{Ram, SECTORS, drive};
use cow_core::format::qcow2::{self, Backing, CreateOptions, Opened, Surroundings};
use cow_core::format::{Layer, Map, Top};
use cow_core::pages::{Page, StorageKey};

const KEY: StorageKey = StorageKey(0);

/// A chain over an image. True if all went as it should.
pub fn run(store: &mut Ram, page: &mut Page) -> bool {
    let backing = Backing { name: black_box(b"base.img"), format: black_box(b"raw") };
    let options = CreateOptions {
        version: black_box(3),
        disk_bytes: black_box(SECTORS * 512),
        cluster_bits: black_box(9),
        refcount_bits: black_box(16),
        backing: black_box(Some(backing)),
    };
    if qcow2::create(store, &options, page).is_err() {
        return false;
    }
    let Ok(opened) = qcow2::open(store) else { return false };
    let surroundings =
        Surroundings { capacity: black_box(Some(48 << 10)), noted_end: black_box(0) };
    let Ok(top) = qcow2::open_writable(store, KEY, &opened, &surroundings, page) else {
        return false;
    };
    let answered = drive(Some(Top::Qcow2(top)), &mut [], store);
    let again = qcow2::open_writable(store, KEY, &opened, &surroundings, page);
    let closed = again.is_ok_and(|mut top| qcow2::close(store, &mut top, page).is_ok());
    answered && closed && read(store, &opened) && change(store, opened, page)
}

/// Everything that only reads.
fn read(store: &Ram, opened: &Opened) -> bool {
    let mut name = [0; qcow2::MAX_NAME_LEN];
    let named = qcow2::backing_name(store, opened, &mut name).is_ok();
    let layer = Layer::Qcow2(opened.frozen(KEY));
    for snapshot in qcow2::snapshots(store, opened).map_while(Result::ok) {
        black_box((snapshot.name(store, &mut name).is_ok(), snapshot.place()));
        black_box(snapshot.frozen(opened, KEY).map(|frozen| frozen.sectors()));
    }
    let found = qcow2::find_snapshot(store, opened, black_box(b"one"));
    named && layer.sectors() == SECTORS && found.is_ok()
}

/// Everything that changes an image as a whole. The memory is too small for a check, which must say so.
fn change(store: &mut Ram, mut opened: Opened, page: &mut Page) -> bool {
    let mut memory = [0; 64];
    let memory = black_box(memory.as_mut_slice());
    let checked = qcow2::check(store, &opened, memory, page, &mut |finding| {
        black_box(finding.is_damage());
    });
    let repaired = qcow2::repair(store, &opened, None, memory, page, &mut |finding| {
        black_box(finding.is_damage());
    });
    let other = Backing { name: black_box(b"other.img"), format: black_box(b"qcow2") };
    let renamed = qcow2::set_backing(store, &mut opened, black_box(Some(other)), page);
    let emptied = qcow2::rollback(store, &opened, black_box(Some(48 << 10)), page);
    black_box((checked.is_ok(), repaired.is_ok(), emptied.is_ok()));
    renamed.is_ok()
}
