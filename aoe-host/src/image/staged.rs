//! A file that appears under its name only when it is complete, and never in place of another.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::identity::random_layer_id;
use crate::error::{ErrorKind, HostError, Result};

/// A new file under a name of its own beside the final one; removed when dropped unfinished. A
/// killed process leaves it behind: `.NAME.new-` and sixteen hexadecimal digits.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

impl Staged {
    /// Makes an empty file that only its owner may read.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the final name is taken; the system's.
    pub(super) fn create(target: &Path, direct: bool) -> Result<(Self, File)> {
        if target.symlink_metadata().is_ok() {
            return Err(taken(target));
        }
        let failed = |e| HostError::io(e, "create").path(target);
        let name = target.file_name().ok_or_else(|| {
            HostError::usage("create", "the name of the file is missing").path(target)
        })?;
        let random: String = random_layer_id()?.to_string().chars().take(16).collect();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".new-{random}"));
        let path = target.with_file_name(hidden);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed(error).advice("create its directory first"),
            io::ErrorKind::InvalidInput if direct => {
                failed(error).advice("leave --direct out for this file system")
            }
            _ => failed(error),
        })?;
        Ok((Self { path, target: target.to_owned(), is_finished: false }, file))
    }

    /// Gives the file, whose content is durable, its final name, durably.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if somebody took the name meanwhile; the system's.
    pub(super) fn finish(mut self) -> Result<()> {
        let failed = |errno| HostError::io(io::Error::from(errno), "create").path(&self.target);
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &self.target, flags) {
            Ok(()) => self.is_finished = true,
            Err(Errno::EXIST) => return Err(taken(&self.target)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                // This file system cannot refuse to replace by renaming, but linking always does.
                match rustix::fs::link(&self.path, &self.target) {
                    Ok(()) => {} // the first name goes when this is dropped
                    Err(Errno::EXIST) => return Err(taken(&self.target)),
                    Err(errno) => return Err(failed(errno)),
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        sync_directory(&self.target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_finished {
            // A left-over is sparse, hidden and harmless; the error that led here matters more.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Makes the names in the directory of `path` durable.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|handle| handle.sync_all());
    synced.map_err(|e| HostError::io(e, "sync the directory").path(directory))
}

fn taken(target: &Path) -> HostError {
    HostError::new(ErrorKind::AlreadyExists, "create")
        .path(target)
        .advice("choose another name, or remove it first; nothing is ever overwritten")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn appears_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.cow");
        let (staged, _file) = Staged::create(&target, false).unwrap();
        assert!(!target.exists());
        assert_eq!(names(dir.path()).len(), 1);
        drop(staged);
        assert_eq!(names(dir.path()).len(), 0);
        let (staged, _file) = Staged::create(&target, false).unwrap();
        staged.finish().unwrap();
        assert_eq!(names(dir.path()), ["a.cow"]);
    }

    #[test]
    fn never_replaces_anything() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.cow");
        let (staged, _file) = Staged::create(&target, false).unwrap();
        fs::write(&target, b"precious").unwrap();
        let error = staged.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(Staged::create(&target, false).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["a.cow"]);
        std::os::unix::fs::symlink("nowhere", dir.path().join("b.cow")).unwrap();
        let dangling = Staged::create(&dir.path().join("b.cow"), false).unwrap_err();
        assert_eq!(dangling.kind(), ErrorKind::AlreadyExists);
    }
}
