//! After a server was killed: what its commit log holds is entered into the overlays.

use std::collections::HashMap;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::Top;
use cow_core::format::native::{self, LogId, Writable};
use cow_core::identity::LayerId;
use cow_core::storage::ReadStorage;
use cow_core::units::Extent;

use super::record::{HEADER_LEN, RECORDS_AT, Record, Turn};
use super::{SEGMENT_LEN, SEGMENTS, SUFFIX, segment_name};
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

/// A file of a log that a server left, open and locked.
struct Left {
    path: PathBuf,
    _file: FileStorage,
    /// What it holds, unless its beginning is none.
    turn: Option<Turn>,
    bytes: Vec<u8>,
}

impl Left {
    fn is_of(&self, log: LogId, number: usize) -> bool {
        self.path.file_name().is_some_and(|name| *name == *segment_name(log, number))
    }
}

/// Enters what commit logs in `directory` hold into the overlays there, and removes the logs that no
/// overlay there names any more, unless some file cannot be examined. Logs that another server uses
/// stay as they are, and so do those of which a part is missing.
///
/// What fails in between is tried again the next time: repeating a change twice does no harm.
///
/// # Errors
/// The system's; an overlay that is locked or damaged. The log stays then.
pub fn repeat(directory: &Path) -> Result<Vec<Repeated>> {
    let mut left = left(directory)?;
    if left.is_empty() {
        return Ok(Vec::new());
    }
    left.sort_by_key(|left| left.turn.map(|turn| turn.generation));
    let mut changes: HashMap<(LogId, LayerId), Vec<(u64, Record<'_>)>> = HashMap::new();
    for (turn, left) in left.iter().filter_map(|left| Some((left.turn?, left))) {
        for record in records(turn, &left.bytes) {
            let of_layer = changes.entry((turn.log, record.layer)).or_default();
            of_layer.push((turn.generation, record));
        }
    }
    for of_layer in changes.values_mut() {
        let from = of_layer.last().map_or(0, |(_, latest)| latest.from);
        of_layer.retain(|(generation, _)| *generation >= from);
    }
    let (mut repeated, mut overlays) = (Vec::new(), overlays(directory)?);
    for (path, layer, log) in core::mem::take(&mut overlays.logged) {
        if !is_whole(&left, log) {
            overlays.logged.push((path, layer, log));
            continue;
        }
        let changes = changes.get(&(log, layer)).map_or(&[][..], Vec::as_slice);
        enter(&path, log, changes)?;
        repeated.push(Repeated { path, changes: changes.len() });
    }
    drop(changes);
    for left in &left {
        let of = |log| (0..SEGMENTS).any(|number| left.is_of(log, number));
        // What cannot be examined now may need the log later.
        if !overlays.all_known || overlays.logged.iter().any(|(.., log)| of(*log)) {
            continue;
        }
        let removed = fs::remove_file(&left.path);
        removed.map_err(|e| HostError::io(e, "remove the commit log").path(&left.path))?;
    }
    Ok(repeated)
}

/// The files of logs that nobody uses.
fn left(directory: &Path) -> Result<Vec<Left>> {
    let mut all = Vec::new();
    for (path, kind) in entries(directory)? {
        if !kind.is_file() || !is_segment_name(&path) {
            continue;
        }
        match FileStorage::open(&path, &overlay_options(false)) {
            Ok(file) => {
                let (turn, bytes) = read(&file)?;
                all.push(Left { path, _file: file, turn, bytes });
            }
            Err(error) if error.kind() == ErrorKind::InUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Whether nothing of a log is missing. At most one segment is being begun at a time, and may have a
/// torn beginning: nobody needs what is in it.
fn is_whole(left: &[Left], log: LogId) -> bool {
    let all = (0..SEGMENTS).all(|number| left.iter().any(|left| left.is_of(log, number)));
    let begun = left.iter().filter(|left| left.turn.is_some_and(|turn| turn.log == log));
    all && begun.count() + 1 >= SEGMENTS
}

/// As `segment_name` makes them: other files are somebody else's.
fn is_segment_name(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let stem = name.as_deref().and_then(|name| name.strip_suffix(SUFFIX));
    stem.and_then(|stem| stem.split_once('-')).is_some_and(|(id, number)| {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        id.len() == 16
            && id.bytes().all(is_hex)
            && number.parse().is_ok_and(|number: usize| number < SEGMENTS)
    })
}

/// What is in the directory, and of which kind; links are not followed.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let failed = |e: io::Error| HostError::io(e, "look for commit logs in").path(directory);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        paths.push((entry.path(), entry.file_type().map_err(failed)?));
    }
    Ok(paths)
}

/// The overlays of a directory that name logs.
pub(super) struct Overlays {
    logged: Vec<(PathBuf, LayerId, LogId)>,
    /// Every file could be examined.
    all_known: bool,
}

impl Overlays {
    /// Whether one names this log, or may do so.
    pub(super) fn is_needed(&self, log: LogId) -> bool {
        !self.all_known || self.logged.iter().any(|(.., named)| *named == log)
    }
}

/// Looks at every overlay: also at those that are links, which are served as well.
pub(super) fn overlays(directory: &Path) -> Result<Overlays> {
    let mut overlays = Overlays { logged: Vec::new(), all_known: true };
    for (path, kind) in entries(directory)? {
        if kind.is_dir() || is_segment_name(&path) {
            continue;
        }
        let Ok(about) = fs::metadata(&path) else {
            overlays.all_known = false;
            continue;
        };
        if !about.is_file() && !about.file_type().is_block_device() {
            continue;
        }
        match examine(&path) {
            Examined::Logged(layer, log) => overlays.logged.push((path, layer, log)),
            Examined::Nothing => {}
            Examined::Unreadable => overlays.all_known = false,
        }
    }
    Ok(overlays)
}

/// A segment as it is, and whose it is if its beginning is sound.
fn read(file: &FileStorage) -> Result<(Option<Turn>, Vec<u8>)> {
    let len = file.len_bytes()?.min(SEGMENT_LEN);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok((bytes.first_chunk::<HEADER_LEN>().and_then(Turn::parse), bytes))
}

/// Every record up to the first that is none: those behind it were not acknowledged.
fn records(turn: Turn, bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = RECORDS_AT;
    core::iter::from_fn(move || {
        let rest = bytes.get(usize::try_from(at).ok()?..)?;
        let record = Record::parse(turn, at, rest)?;
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
