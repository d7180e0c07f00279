//! Who else lies on an image.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::image::{Candidate, ImageName, Known};
use crate::storage::{FileKey, FileOptions};

/// Files that are looked at in one directory.
const FILES_MAX: usize = 4096;

/// Images in the directories of `known` that recorded `parent`, but for `known` themselves. As good as
/// can be done: there may be more elsewhere, and what cannot be read is left out.
pub(super) fn on(parent: &Candidate, known: [&Path; 2]) -> Vec<PathBuf> {
    let seen: Vec<_> = known.iter().filter_map(|path| FileKey::of(path)).collect();
    let mut directories: Vec<_> = known.iter().filter_map(|path| directory_of(path)).collect();
    directories.dedup();
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten().take(FILES_MAX) {
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let is_known = FileKey::of(&path).is_none_or(|key| seen.contains(&key));
            if is_file && !is_known && lies_on(&path, parent).unwrap_or(false) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn directory_of(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()?.parent().map(Path::to_owned)
}

fn lies_on(path: &Path, parent: &Candidate) -> Result<bool> {
    let name = ImageName { path: path.to_owned(), metadata: None, forced: None, snapshot: None };
    let (file, format) = name.open(&FileOptions::default())?;
    let Some(recorded) = format.ops().parent(&file)? else { return Ok(false) };
    Ok(recorded.known != Known::Nothing && recorded.known.matches(Some(parent))?.is_ok())
}
