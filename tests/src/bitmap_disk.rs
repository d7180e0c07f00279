//! The identity-mapped formats under the chain model: making, opening, closing and checking them.

use cow_core::fault::{FaultyStorage, Machine};
use cow_core::format::bitmap::{Finding, Frozen, Writable};
use cow_core::format::{Map, cowloop, dm_cow, uml};
use cow_core::pages::{Page, StorageKey};
use cow_core::storage::{ReadStorage, Storage};

use crate::chain_model::Format;
use crate::sector_model::SECTOR;

/// Where the sectors of a dm-cow layer begin in its storage.
pub const DM_COW_OFFSET: u64 = 3;

/// Key of the storage with the bitmap of a dm-cow layer.
fn bitmap_key(key: StorageKey) -> StorageKey {
    StorageKey(key.0 + 1)
}

fn table(sectors: u64) -> dm_cow::Table {
    let layout = dm_cow::Layout::Intended;
    dm_cow::Table { sectors, write_offset_sectors: DM_COW_OFFSET, layout }
}

fn page() -> Page {
    Page::ZERO.clone()
}

fn storage(storages: &[FaultyStorage], key: StorageKey) -> FaultyStorage {
    storages[key.0 as usize].clone()
}

/// Makes an overlay; a dm-cow layer also gets a medium for its bitmap.
pub fn create(
    format: Format,
    sectors: u64,
    storage: &mut FaultyStorage,
    machine: &Machine,
    garbage: bool,
) -> Option<FaultyStorage> {
    match format {
        Format::Uml(version) => {
            let options = uml::CreateOptions {
                version,
                path: b"/base",
                size_bytes: sectors * SECTOR as u64,
                mtime_s: 0,
                alignment: 4096,
                wipe: garbage,
            };
            uml::create(storage, &options).expect("create");
        }
        Format::Cowloop(width) => {
            let options = cowloop::CreateOptions {
                width,
                big_endian: false,
                parent_bytes: sectors * SECTOR as u64,
                fingerprint: 0,
                wipe: garbage,
            };
            cowloop::create(storage, &options).expect("create");
        }
        _ => {
            let len = dm_cow::bitmap_bytes(sectors);
            let mut device = machine.add_medium(len, len, 0);
            dm_cow::create(&mut device, sectors).expect("create");
            return Some(device);
        }
    }
    None
}

/// Empties an overlay.
pub fn rollback(
    format: Format,
    sectors: u64,
    storages: &[FaultyStorage],
    key: StorageKey,
) -> Result<(), String> {
    let result = match format {
        Format::Uml(_) => uml::rollback(&mut storage(storages, key)).map_err(|e| e.to_string()),
        Format::Cowloop(_) => {
            cowloop::rollback(&mut storage(storages, key)).map_err(|e| e.to_string())
        }
        _ => dm_cow::rollback(&mut storage(storages, bitmap_key(key)), &table(sectors))
            .map_err(|e| e.to_string()),
    };
    result.map_err(|e| format!("rollback: {e}"))
}

/// Opens a frozen layer.
pub fn open(
    format: Format,
    sectors: u64,
    storages: &[FaultyStorage],
    key: StorageKey,
) -> Result<Frozen<'static>, String> {
    let data = storage(storages, key);
    match format {
        Format::Uml(_) => {
            uml::open(&data).map(|opened| opened.frozen(key)).map_err(|e| e.to_string())
        }
        Format::Cowloop(_) => cowloop::open(&data, &mut page())
            .map(|opened| opened.frozen(key, &[]))
            .map_err(|e| e.to_string()),
        _ => {
            let len = data.len_bytes().map_err(|e| e.to_string())?;
            dm_cow::open(&storage(storages, bitmap_key(key)), &table(sectors))
                .map(|opened| opened.frozen(key, bitmap_key(key), len))
                .map_err(|e| e.to_string())
        }
    }
}

/// Opens an overlay.
pub fn open_writable(
    format: Format,
    sectors: u64,
    storages: &[FaultyStorage],
    key: StorageKey,
) -> Result<Writable, String> {
    let mut data = storage(storages, key);
    let opened = match format {
        Format::Uml(_) => {
            uml::open_writable(&mut data, key, &mut page()).map_err(|e| e.to_string())
        }
        Format::Cowloop(_) => {
            cowloop::open_writable(&mut data, key, &mut page()).map_err(|e| e.to_string())
        }
        _ => {
            let mut device = storage(storages, bitmap_key(key));
            // What a killed process left becomes durable.
            data.sync().and_then(|()| device.sync()).map_err(|e| e.to_string())?;
            let len = data.len_bytes().map_err(|e| e.to_string())?;
            dm_cow::open(&device, &table(sectors))
                .and_then(|opened| opened.writable(key, bitmap_key(key), len))
                .map_err(|e| e.to_string())
        }
    };
    opened.map_err(|e| format!("open: {e}"))
}

/// Closes an overlay in order.
pub fn close(format: Format, top: &Writable, storages: &[FaultyStorage]) -> Result<(), String> {
    let mut data = storage(storages, top.storage());
    let result = if matches!(format, Format::Cowloop(_)) {
        cowloop::close(&mut data, top, &mut [page(), page()]).map_err(|e| e.to_string())
    } else {
        // What `Ephemeral` wrote was never synced.
        let mut device = storage(storages, top.metadata());
        data.sync().and_then(|()| device.sync()).map_err(|e| e.to_string())
    };
    result.map_err(|e| format!("close: {e}"))
}

/// The damage that a check finds.
pub fn check(
    format: Format,
    sectors: u64,
    storages: &[FaultyStorage],
    key: StorageKey,
) -> Result<Vec<String>, String> {
    let data = storage(storages, key);
    let mut found = Vec::new();
    let tell = |finding: Finding| {
        if finding.is_damage() {
            found.push(finding.to_string());
        }
    };
    let result = match format {
        _ if sectors > 1 << 24 => Ok(()), // too many pages to look at
        Format::Uml(_) => uml::check(&data, &mut page(), tell).map(drop).map_err(|e| e.to_string()),
        Format::Cowloop(_) => {
            cowloop::check(&data, &mut [page(), page()], tell).map(drop).map_err(|e| e.to_string())
        }
        _ => {
            let len = data.len_bytes().map_err(|e| e.to_string())?;
            let device = storage(storages, bitmap_key(key));
            dm_cow::check(&device, &table(sectors), len, &mut page(), tell)
                .map(drop)
                .map_err(|e| e.to_string())
        }
    };
    result.map(|()| found).map_err(|e| format!("check: {e}"))
}
