//! After a server was killed: what its commit log holds is entered into the overlays.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::Top;
use cow_core::format::native::{self, LogId, Writable};
use cow_core::identity::LayerId;
use cow_core::units::Extent;

use super::left::{
    Files, Left, cannot_write, entries, is_any_of, is_segment_name, is_whole, locked,
    open_patiently, remove_unfinished, stem,
};
use super::record::{HEADER_LEN, RECORDS_AT, Record, Turn};
use super::{SEGMENTS, segment_name};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::formats::Format;
use crate::image::identity::scratch_page;
use crate::image::name::ImageName;
use crate::image::overlay::overlay_options;
use crate::image::staged::directory_of;
use crate::storage::{Access, FileKey, FileOptions, FileStorage, FileTable, LockMode, PoolMemory};

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

/// What [`repeat`] found.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Overlays that hold everything now.
    pub entered: Vec<Repeated>,
    /// Why others do not, or files of a log cannot be read or removed. Such an overlay names its log
    /// still, and opening it is refused; the log is kept.
    pub failed: Vec<HostError>,
    /// Files that are kept because they hold changes of overlays that are not in the directory.
    pub orphaned: Vec<PathBuf>,
    /// Files that nobody needs any more, and which are gone.
    pub removed: Vec<PathBuf>,
}

/// Changes of layers, by log and in order.
type Changes<'a> = HashMap<(LogId, LayerId), Vec<(u64, Record<'a>)>>;

/// Enters what commit logs in `directory` hold into the overlays there, and removes the logs that no
/// overlay there names any more, unless some file cannot be examined, or they hold changes of
/// overlays that are not there. Logs that another process uses stay as they are, and so do those of
/// which a part is missing.
///
/// What fails is tried again the next time: repeating a change twice does no harm.
///
/// # Errors
/// The system's, if it does not say what is in the directory.
pub fn repeat(directory: &Path) -> Result<Repeats> {
    remove_unfinished(directory)?;
    let files = Files::take(directory, is_segment_name)?;
    if files.left.is_empty() && files.withheld.is_empty() {
        return Ok(Repeats::default());
    }
    repeat_files(directory, files, |_| true, IfMissing::Refuse)
}

/// As [`repeat`], for one overlay and the log that it names, which must lie beside it: the other
/// overlays and logs are not touched. `None` if it names no log.
///
/// # Errors
/// As [`repeat`]. What keeps the overlay from its log, such as the server that uses both, is in
/// [`Repeats::failed`].
pub fn repeat_into(overlay: &Path) -> Result<Option<Repeats>> {
    enter_one(overlay, IfMissing::Refuse)
}

/// Before an image is read or changed as a whole: enters what a killed server left in its commit log, if
/// it names one, and says how many changes that were. Where another process writes the image, opening it
/// says so.
///
/// # Errors
/// What keeps the changes from the image; the log is kept.
pub fn enter_left(image: &ImageName) -> Result<Option<usize>> {
    if image.forced.is_some_and(|forced| forced != Format::NATIVE) {
        return Ok(None);
    }
    let image = image.path.as_path();
    let Examined::Native(_, Some(log)) = examine(image) else { return Ok(None) };
    let behind = match whereabouts(image, log) {
        Whereabouts::Behind(file) => Some(file),
        Whereabouts::Here | Whereabouts::Missing => None,
    };
    let Some(repeats) = repeat_into(behind.as_deref().unwrap_or(image))? else { return Ok(None) };
    if let Some(entered) = repeats.entered.first() {
        return Ok(Some(entered.changes));
    }
    let Some(failed) = repeats.failed.into_iter().next() else { return Ok(None) };
    if failed.kind() == ErrorKind::InUse {
        // Who has the image too is told better by its own lock.
        FileStorage::open(image, &locked(LockMode::Shared))?;
    }
    Err(failed)
}

/// What is said of changes that were entered.
pub fn entered_words(overlay: &Path, changes: usize) -> String {
    let plural = if changes == 1 { "" } else { "s" };
    format!("entered {changes} change{plural} from the commit log into `{}`", overlay.display())
}

/// As [`repeat_into`], of an overlay whose log is lost: it names none from then on, and what is in the
/// log alone is lost. What is left of the log is removed if nobody else needs it.
///
/// # Errors
/// As [`repeat_into`]; also in [`Repeats::failed`], if nothing of the log is missing.
pub fn go_on_without(overlay: &Path) -> Result<Option<Repeats>> {
    enter_one(overlay, IfMissing::GoOn)
}

/// What becomes of an overlay whose log is not all there.
#[derive(Clone, Copy, Eq, PartialEq)]
enum IfMissing {
    Refuse,
    /// And an overlay whose log is all there is refused.
    GoOn,
}

fn enter_one(overlay: &Path, if_missing: IfMissing) -> Result<Option<Repeats>> {
    let Examined::Native(_, Some(log)) = examine(overlay) else { return Ok(None) };
    if if_missing == IfMissing::GoOn && whereabouts(overlay, log) != Whereabouts::Missing {
        return Err(not_lost(overlay));
    }
    let (directory, key) = (directory_of(overlay), FileKey::of(overlay));
    let files = Files::take(directory, |path| is_any_of(path, log))?;
    repeat_files(directory, files, |path| FileKey::of(path) == key, if_missing).map(Some)
}

/// Repeats what these files hold of those overlays that are wanted.
fn repeat_files(
    directory: &Path,
    Files { mut left, withheld }: Files,
    is_wanted: impl Fn(&Path) -> bool,
    if_missing: IfMissing,
) -> Result<Repeats> {
    left.sort_by_key(|left| left.turn.map(|turn| turn.generation));
    let changes = changes(&left);
    let (mut repeats, mut overlays) = (Repeats::default(), overlays(directory)?);
    for (path, layer, log) in core::mem::take(&mut overlays.logged) {
        if !is_wanted(&path) {
            overlays.logged.push((path, layer, log));
            continue;
        }
        let mut changes = changes.get(&(log, layer)).map_or(&[][..], Vec::as_slice);
        let is_withheld = withheld.iter().any(|(path, _)| is_any_of(path, log));
        let entered = match (is_whole(&left, log), if_missing) {
            (true, IfMissing::Refuse) => enter(&path, log, changes),
            (true, IfMissing::GoOn) => Err(not_lost(&path)),
            (false, IfMissing::GoOn) if !is_withheld => {
                changes = &[]; // without those between them they may be older than what is there
                enter(&path, log, changes)
            }
            (false, _) => Err(missed(&path, log, &withheld)),
        };
        match entered {
            Ok(()) => repeats.entered.push(Repeated { path, changes: changes.len() }),
            Err(error) => {
                repeats.failed.push(error);
                overlays.logged.push((path, layer, log));
            }
        }
    }
    // An overlay that is there and names no log, or another, was closed in good order or emptied.
    let homeless = |of: &&(LogId, LayerId)| !overlays.layers.contains(&of.1);
    let orphaned: HashSet<LogId> = changes.keys().filter(homeless).map(|(log, _)| *log).collect();
    for file in &left {
        let is_named = overlays.logged.iter().any(|(.., log)| file.belongs_to(*log));
        let is_part = withheld.iter().any(|(path, _)| stem(path) == stem(&file.path));
        if orphaned.iter().any(|log| file.belongs_to(*log)) {
            repeats.orphaned.push(file.path.clone());
        } else if !is_named && !is_part && overlays.all_known {
            // What cannot be examined now may need the log later.
            match fs::remove_file(&file.path) {
                Ok(()) => repeats.removed.push(file.path.clone()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    let failed = HostError::io(e, "remove the commit log").path(&file.path);
                    repeats.failed.push(failed);
                }
            }
        }
    }
    let withheld = withheld.into_iter().map(|(_, error)| error);
    repeats.failed.extend(withheld.filter(|error| error.kind() != ErrorKind::InUse));
    repeats.orphaned.sort();
    Ok(repeats)
}

/// What logs hold and their overlays perhaps do not.
fn changes(left: &[Left]) -> Changes<'_> {
    let mut changes = Changes::new();
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
    changes
}

/// Why an overlay's log is not repeated.
fn missed(path: &Path, log: LogId, withheld: &[(PathBuf, HostError)]) -> HostError {
    const OP: &str = "enter the commit log into";
    match withheld.iter().find(|(path, _)| is_any_of(path, log)) {
        Some((file, error)) if error.kind() == ErrorKind::InUse => {
            HostError::new(ErrorKind::InUse, OP)
                .path(path)
                .detail(format!("another process uses `{}`", file.display()))
                .advice("a server has its log for as long as it runs; a command, for moments")
        }
        Some((_, error)) => HostError::new(error.kind(), OP).path(path).detail(error.report()),
        None => HostError::new(ErrorKind::NotFound, OP)
            .path(path)
            .detail("parts of its commit log are missing or damaged")
            .advice(missing_advice(path, log)),
    }
}

fn not_lost(path: &Path) -> HostError {
    HostError::new(ErrorKind::Usage, "go on without the commit log of")
        .path(path)
        .detail("the log is there")
        .advice(enter_advice(path))
}

/// Where the files of a log are, by their names.
#[derive(Debug, Eq, PartialEq)]
enum Whereabouts {
    /// Beside the overlay.
    Here,
    /// Not beside it, which is a link, but beside the file to which that leads.
    Behind(PathBuf),
    /// Not all of them in either place, or too much of what they hold is damaged.
    Missing,
}

fn whereabouts(overlay: &Path, log: LogId) -> Whereabouts {
    let is_beside = |overlay: &Path| {
        let directory = directory_of(overlay);
        let files = (0..SEGMENTS).map(|number| directory.join(segment_name(log, number)));
        let begun = files.map(|path| match head(&path) {
            Ok(turn) => Some(turn.is_some_and(|turn| turn.log == log)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // It is there, whatever keeps us from reading it.
            Err(_) => Some(true),
        });
        let begun: Option<Vec<bool>> = begun.collect();
        begun.is_some_and(|begun| begun.into_iter().filter(|is| !is).count() <= 1)
    };
    if is_beside(overlay) {
        return Whereabouts::Here;
    }
    match fs::canonicalize(overlay) {
        Ok(file) if is_beside(&file) => Whereabouts::Behind(file),
        _ => Whereabouts::Missing,
    }
}

/// The beginning of a segment, if it is sound.
fn head(path: &Path) -> io::Result<Option<Turn>> {
    let file = fs::File::open(path)?;
    let mut head = [0; HEADER_LEN];
    Ok(file.read_exact_at(&mut head, 0).ok().and_then(|()| Turn::parse(&head)))
}

/// How what a commit log holds gets into an overlay that names one, or how to go on without.
pub(in crate::image) fn enter_advice(overlay: &Path) -> String {
    let Examined::Native(_, Some(log)) = examine(overlay) else {
        return "try again".to_owned(); // it has been entered meanwhile
    };
    match whereabouts(overlay, log) {
        Whereabouts::Here => format!(
            "start the server again, or use `cowblade check --repair {}`: both enter what the \
             log's files beside it hold",
            overlay.display()
        ),
        Whereabouts::Behind(file) => format!(
            "its log is beside the file to which this link leads: use `cowblade check --repair {}`",
            file.display()
        ),
        Whereabouts::Missing => missing_advice(overlay, log),
    }
}

fn missing_advice(overlay: &Path, log: LogId) -> String {
    format!(
        "bring `{}` to `{}` back beside it and try again, or name the overlay where they are; if \
         they are lost, `cowblade check --repair --log-lost {}` goes on without what was \
         acknowledged in its last seconds, and `cowblade rollback` empties it",
        segment_name(log, 0),
        segment_name(log, SEGMENTS - 1),
        overlay.display()
    )
}

/// The overlays of a directory.
pub(super) struct Overlays {
    /// Those that name logs.
    logged: Vec<(PathBuf, LayerId, LogId)>,
    /// All, as far as they can have a log.
    layers: HashSet<LayerId>,
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
    let mut overlays = Overlays { logged: Vec::new(), layers: HashSet::new(), all_known: true };
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
            Examined::Native(layer, log) => {
                overlays.layers.insert(layer);
                overlays.logged.extend(log.map(|log| (path, layer, log)));
            }
            Examined::Nothing => {}
            Examined::Unreadable => overlays.all_known = false,
        }
    }
    Ok(overlays)
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
    Native(LayerId, Option<LogId>),
    /// Nobody can tell.
    Unreadable,
}

fn examine(path: &Path) -> Examined {
    let options = FileOptions { access: Access::ReadOnly, ..FileOptions::default() };
    let Ok(file) = FileStorage::open(path, &options) else { return Examined::Unreadable };
    match native::open(&file, &mut scratch_page()) {
        Ok(opened) => {
            let header = opened.header();
            Examined::Native(header.layer_id, header.log)
        }
        Err(native::OpenError::NotNative) => Examined::Nothing,
        Err(_) => Examined::Unreadable,
    }
}

/// Makes the changes once more, and the log no part of the overlay.
fn enter(path: &Path, log: LogId, changes: &[(u64, Record<'_>)]) -> Result<()> {
    const OP: &str = "enter the commit log into";
    let refused = |detail: String| HostError::new(ErrorKind::Corrupt, OP).path(path).detail(detail);
    let mut file = open_patiently(path, &overlay_options(false)).map_err(|error| {
        let advice = "copy it and the `*.cowlog` files beside it to where they can be written, and \
                      name the copy";
        if cannot_write(&error) { error.advice(advice) } else { error }
    })?;
    let opened = native::open(&file, &mut scratch_page()).map_err(|e| match e {
        native::OpenError::Storage(error) => HostError::from(error),
        other => refused(other.to_string()),
    })?;
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
        failed.advice("see to that, and try again: the log is kept")
    })?;
    native::close(&mut file, &overlay, &mut scratch_page()).map_err(|e| match e {
        native::UpdateError::Storage(error) => HostError::from(error),
        other => refused(other.to_string()),
    })
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
