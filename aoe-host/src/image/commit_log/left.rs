//! The files of logs that servers left: found, locked, read.
//!
//! A server locks every file of its log for itself, for as long as it runs. Who enters changes locks the
//! first for itself and the others against servers: so others can tell what it is, and wait for it.

use core::time::Duration;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use cow_core::format::native::LogId;
use cow_core::storage::ReadStorage;

use super::record::{HEADER_LEN, Turn};
use super::{SEGMENT_LEN, SEGMENTS, SUFFIX, segment_name};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::overlay::overlay_options;
use crate::storage::{FileOptions, FileStorage, LockMode};

/// How long others who enter changes may take, usually a fraction of a second, before what they have counts
/// as in use; and the pause before trying again.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// A file of a log that a server left, open and locked.
pub(super) struct Left {
    pub(super) path: PathBuf,
    _file: FileStorage,
    /// What it holds, unless its beginning is none.
    pub(super) turn: Option<Turn>,
    pub(super) bytes: Vec<u8>,
}

impl Left {
    fn is_of(&self, log: LogId, number: usize) -> bool {
        is_called(&self.path, log, number)
    }

    /// It is a part of this log, or was, by what it is called or by what is in it.
    pub(super) fn belongs_to(&self, log: LogId) -> bool {
        is_any_of(&self.path, log) || self.turn.is_some_and(|turn| turn.log == log)
    }
}

fn is_called(path: &Path, log: LogId, number: usize) -> bool {
    path.file_name().is_some_and(|name| *name == *segment_name(log, number))
}

pub(super) fn is_any_of(path: &Path, log: LogId) -> bool {
    (0..SEGMENTS).any(|number| is_called(path, log, number))
}

/// The files of all logs of a directory.
#[derive(Default)]
pub(super) struct Files {
    pub(super) left: Vec<Left>,
    /// What cannot be had, such as those that another process uses.
    pub(super) withheld: Vec<(PathBuf, HostError)>,
}

impl Files {
    /// Those files of logs that are wanted, locked unless a server uses them.
    ///
    /// # Errors
    /// The system's, if it does not say what is in the directory.
    pub(super) fn take(directory: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Self> {
        let entries = entries(directory)?.into_iter();
        let wanted = entries.filter(|(path, kind)| kind.is_file() && is_wanted(path));
        let mut paths: Vec<PathBuf> = wanted.map(|(path, _)| path).collect();
        // In this order, whoever waits for a log has none that comes behind it.
        paths.sort();
        let mut all = Self::default();
        for log in paths.chunk_by(|a, b| stem(a) == stem(b)) {
            all.take_log(log);
        }
        Ok(all)
    }

    /// Takes the files of one log, from its first on.
    fn take_log(&mut self, log: &[PathBuf]) {
        let Some((first, last)) = log.first().zip(log.last()) else { return };
        // Who has the first and not the others is no server.
        let is_passing = || {
            let other = FileStorage::open(last, &locked(LockMode::Shared));
            !other.is_err_and(|error| error.kind() == ErrorKind::InUse)
        };
        for path in log {
            let opened = if path == first {
                patiently(|| open(path, LockMode::Exclusive), is_passing)
            } else {
                open(path, LockMode::Shared)
            };
            match opened.and_then(|file| Ok((is_there(&file), read(&file)?, file))) {
                // Removed by who had it before.
                Ok((false, ..)) => {}
                Ok((true, (turn, bytes), file)) => {
                    self.left.push(Left { path: path.clone(), _file: file, turn, bytes });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let in_use = error.kind() == ErrorKind::InUse;
                    self.withheld.push((path.clone(), error));
                    if in_use {
                        return;
                    }
                }
            }
        }
    }
}

/// Opens a file, of which nobody may have a lock for longer than others are waited for.
pub(super) fn open_patiently(path: &Path, options: &FileOptions) -> Result<FileStorage> {
    patiently(|| FileStorage::open(path, options), || true)
}

/// Tries again while it is in use and worth waiting for.
fn patiently<T>(attempt: impl Fn() -> Result<T>, is_passing: impl Fn() -> bool) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::InUse && Instant::now() < until => {
                if !is_passing() {
                    return Err(error);
                }
                thread::sleep(PAUSE);
            }
            ended => return ended,
        }
    }
}

pub(super) fn locked(lock: LockMode) -> FileOptions {
    FileOptions { lock, ..FileOptions::default() }
}

/// To be read. Some network file systems lock only what may be written for oneself.
fn open(path: &Path, lock: LockMode) -> Result<FileStorage> {
    let writable = FileOptions { lock, ..overlay_options(false) };
    match FileStorage::open(path, &writable) {
        Err(error) if cannot_write(&error) => FileStorage::open(path, &locked(lock)),
        opened => opened,
    }
}

/// It may not be written, or lies where nothing may.
pub(super) fn cannot_write(error: &HostError) -> bool {
    let cause = core::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    let is_read_only = cause.is_some_and(|e| e.kind() == io::ErrorKind::ReadOnlyFilesystem);
    error.kind() == ErrorKind::PermissionDenied || is_read_only
}

/// It still has its name, or had it when the lock was taken.
fn is_there(file: &FileStorage) -> bool {
    file.file().metadata().is_ok_and(|about| about.nlink() > 0)
}

/// Removes what a server left that was killed while it made a log, where a file has a name from the
/// beginning: `.NAME.new-`, and nobody has it.
pub(super) fn remove_unfinished(directory: &Path) -> Result<()> {
    let begun = format!("{SUFFIX}.new-");
    for (path, kind) in entries(directory)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_begun = name.is_some_and(|name| name.starts_with('.') && name.contains(&begun));
        if kind.is_file() && is_begun && open(&path, LockMode::Exclusive).is_ok() {
            drop(fs::remove_file(&path)); // tried again by the next server
        }
    }
    Ok(())
}

/// Whether nothing of a log is missing. At most one segment is being begun at a time, and may have a
/// torn beginning: nobody needs what is in it.
pub(super) fn is_whole(left: &[Left], log: LogId) -> bool {
    let all = (0..SEGMENTS).all(|number| left.iter().any(|left| left.is_of(log, number)));
    let begun = left.iter().filter(|left| left.turn.is_some_and(|turn| turn.log == log));
    all && begun.count() + 1 >= SEGMENTS
}

/// What the files of one log have in common, if they are called as `segment_name` does it.
pub(super) fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let (id, number) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_segment = id.len() == 16
        && id.bytes().all(is_hex)
        && number.parse().is_ok_and(|number: usize| number < SEGMENTS);
    is_segment.then(|| id.to_owned())
}

/// Other files are somebody else's.
pub(super) fn is_segment_name(path: &Path) -> bool {
    stem(path).is_some()
}

/// What is in the directory, and of which kind; links are not followed.
pub(super) fn entries(directory: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let failed = |e: io::Error| HostError::io(e, "look for commit logs in").path(directory);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        paths.push((entry.path(), entry.file_type().map_err(failed)?));
    }
    Ok(paths)
}

/// A segment as it is, and whose it is if its beginning is sound.
fn read(file: &FileStorage) -> Result<(Option<Turn>, Vec<u8>)> {
    let len = file.len_bytes()?.min(SEGMENT_LEN);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok((bytes.first_chunk::<HEADER_LEN>().and_then(Turn::parse), bytes))
}
