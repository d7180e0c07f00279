//! After a server was killed: what its commit log holds is entered into the overlays.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::Top;
use cow_core::format::native::{self, LogId, Writable};
use cow_core::identity::LayerId;
use cow_core::storage::ReadStorage;
use cow_core::units::Extent;

use super::record::{HEADER_LEN, RECORDS_AT, Record, Turn};
use super::{SEGMENT_LEN, SUFFIX};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::identity::scratch_page;
use crate::image::overlay::overlay_options;
use crate::serve::PoolMemory;
use crate::storage::{Access, FileOptions, FileStorage, FileTable};

/// Pages for one overlay at a time.
const POOL_PAGES: usize = 64;

/// What [`repeat`] did to one overlay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Repeated {
    /// The overlay.
    pub path: PathBuf,
    /// Changes that the log held of it.
    pub changes: usize,
}

/// A segment that a server left.
struct Left {
    turn: Turn,
    bytes: Vec<u8>,
}

/// Enters what commit logs in `directory` hold into the overlays there, and removes the logs unless
/// some file there cannot be examined. Logs that another server uses stay as they are.
///
/// What fails in between is tried again the next time: repeating a change twice does no harm.
///
/// # Errors
/// The system's; an overlay that is locked or damaged. The log stays then.
pub fn repeat(directory: &Path) -> Result<Vec<Repeated>> {
    let (mut left, mut files) = (Vec::new(), Vec::new());
    for path in entries(directory)? {
        if !path.to_string_lossy().ends_with(SUFFIX) {
            continue;
        }
        match FileStorage::open(&path, &overlay_options(false)) {
            Ok(file) => {
                left.extend(read(&file)?);
                files.push((path, file));
            }
            Err(error) if error.kind() == ErrorKind::InUse => {}
            Err(error) => return Err(error),
        }
    }
    if files.is_empty() {
        return Ok(Vec::new());
    }
    left.sort_by_key(|left| left.turn.generation);
    let mut changes: HashMap<(LogId, LayerId), Vec<(u64, Record<'_>)>> = HashMap::new();
    let mut logs = Vec::new();
    for left in &left {
        logs.push(left.turn.log);
        for record in records(left) {
            let of_layer = changes.entry((left.turn.log, record.layer)).or_default();
            of_layer.push((left.turn.generation, record));
        }
    }
    for of_layer in changes.values_mut() {
        let from = of_layer.last().map_or(0, |(_, latest)| latest.from);
        of_layer.retain(|(generation, _)| *generation >= from);
    }
    let (mut repeated, mut all_known) = (Vec::new(), true);
    for path in entries(directory)? {
        let (layer, log) = match examine(&path) {
            Examined::Logged(layer, log) if logs.contains(&log) => (layer, log),
            Examined::Nothing => continue,
            // Of a log that is elsewhere, or damaged.
            Examined::Logged(..) | Examined::Unreadable => {
                all_known = false;
                continue;
            }
        };
        let changes = changes.get(&(log, layer)).map_or(&[][..], Vec::as_slice);
        enter(&path, log, changes)?;
        repeated.push(Repeated { path, changes: changes.len() });
    }
    // What cannot be examined now may need the log later.
    for (path, _locked) in files.iter().filter(|_| all_known) {
        let removed = fs::remove_file(path);
        removed.map_err(|e| HostError::io(e, "remove the commit log").path(path))?;
    }
    Ok(repeated)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: io::Error| HostError::io(e, "look for commit logs in").path(directory);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// A segment as it is; `None` if it was never begun, or its beginning is torn: nothing in it was
/// acknowledged then.
fn read(file: &FileStorage) -> Result<Option<Left>> {
    let len = file.len_bytes()?.min(SEGMENT_LEN);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    let turn = bytes.first_chunk::<HEADER_LEN>().and_then(Turn::parse);
    Ok(turn.map(|turn| Left { turn, bytes }))
}

/// Every record up to the first that is none: those behind it were not acknowledged.
fn records(left: &Left) -> impl Iterator<Item = Record<'_>> {
    let mut at = RECORDS_AT;
    core::iter::from_fn(move || {
        let rest = left.bytes.get(usize::try_from(at).ok()?..)?;
        let record = Record::parse(left.turn, at, rest)?;
        at = at.saturating_add(record.len() as u64);
        Some(record)
    })
}

/// What a file of the directory has to do with logs.
enum Examined {
    Nothing,
    /// It is this layer, and this log is part of it.
    Logged(LayerId, LogId),
    /// Nobody can tell.
    Unreadable,
}

fn examine(path: &Path) -> Examined {
    let options = FileOptions { access: Access::ReadOnly, ..FileOptions::default() };
    let Ok(file) = FileStorage::open(path, &options) else { return Examined::Unreadable };
    match native::open(&file, &mut scratch_page()) {
        Ok(opened) => {
            let header = opened.header();
            header.log.map_or(Examined::Nothing, |log| Examined::Logged(header.layer_id, log))
        }
        Err(native::OpenError::NotNative) => Examined::Nothing,
        Err(_) => Examined::Unreadable,
    }
}

/// Makes the changes once more, and the log no part of the overlay.
fn enter(path: &Path, log: LogId, changes: &[(u64, Record<'_>)]) -> Result<()> {
    const OP: &str = "enter the commit log into";
    let refused = |detail: String| HostError::new(ErrorKind::Corrupt, OP).path(path).detail(detail);
    let mut file = FileStorage::open(path, &overlay_options(false))?;
    let opened = native::open(&file, &mut scratch_page()).map_err(|e| refused(e.to_string()))?;
    if opened.header().log != Some(log) {
        return Ok(()); // somebody was faster
    }
    // A killed process may have left writes that can be read and are yet not durable.
    file.sync_data()?;
    let mut files = FileTable::new();
    let key = files.add(file.clone());
    let overlay = opened.into_repeating(key).map_err(|e| refused(e.to_string()))?;
    let overlay = make(overlay, changes, &mut files).map_err(|e| {
        let failed = file.take_failure().map_or_else(|| refused(e), HostError::from);
        failed.advice("see to that, and start the server again: the log is kept")
    })?;
    native::close(&mut file, &overlay, &mut scratch_page()).map_err(|e| refused(e.to_string()))?;
    native::end_log(&mut file, &mut scratch_page()).map_err(|e| refused(e.to_string()))
}

fn make(
    overlay: Writable,
    changes: &[(u64, Record<'_>)],
    files: &mut FileTable,
) -> core::result::Result<Writable, String> {
    let sectors = overlay.header().geometry.sectors();
    // Nothing is acknowledged to anybody before all is durable.
    let engine = Engine::<4>::new(Some(Top::Native(overlay)), sectors, Durability::Writeback);
    let mut engine = engine.ok_or("an overlay of no size")?;
    let mut memory = PoolMemory::new(POOL_PAGES);
    let mut pool = memory.pool().map_err(|e| e.to_string())?;
    let lent = Lent { pages: &mut pool, layers: &[], index: &mut [] };
    let mut disk = Blocking { engine: &mut engine, lent, storages: files };
    for (_, change) in changes {
        let extent: Extent = change.extent;
        match change.data {
            Some(data) => disk.write(extent.start(), data),
            None => disk.zero(extent),
        }
        .map_err(|e| e.to_string())?;
    }
    disk.flush().map_err(|e| e.to_string())?;
    match engine.into_overlay() {
        Some(Top::Native(overlay)) => Ok(overlay),
        _ => Err("the overlay is gone".to_owned()),
    }
}
