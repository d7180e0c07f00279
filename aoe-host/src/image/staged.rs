//! A file that appears under its name only when it is complete, and in place of another only if that is
//! wanted.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::identity::random_layer_id;
use crate::error::{ErrorKind, HostError, Result};

/// A new file without a name, which vanishes with the process. Where the file system has no such
/// thing it has a name of its own beside the final one, is removed when dropped unfinished, and stays
/// behind when the process is killed: `.NAME.new-` and sixteen hexadecimal digits.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    target: PathBuf,
    /// The file, while it has no name.
    nameless: Option<File>,
    replaces: bool,
    is_finished: bool,
}

/// How a file is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StagedOptions {
    /// Bypass the page cache.
    pub(super) direct: bool,
    /// A regular file of the final name goes when this is finished; its permissions stay.
    pub(super) replace: bool,
}

impl Staged {
    /// Makes an empty file that only its owner may read, or whoever may read the one that it replaces.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the final name is taken; the system's.
    pub(super) fn create(target: &Path, how: StagedOptions) -> Result<(Self, File)> {
        let old = old_file(target, how.replace)?;
        // A link goes on to be one: what it leads to is replaced.
        let target = &*old.as_ref().map_or(target.into(), |(path, _)| Cow::from(path.as_path()));
        let name = target.file_name().ok_or_else(|| {
            HostError::usage("create", "the name of the file is missing").path(target)
        })?;
        let random: String = random_layer_id()?.to_string().chars().take(16).collect();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".new-{random}"));
        let path = target.with_file_name(hidden);
        let (file, nameless) = match nameless_in(directory_of(target), how) {
            Some((file, clone)) => (file, Some(clone)),
            None => (named(&path, target, how)?, None),
        };
        let (target, replaces) = (target.to_owned(), old.is_some());
        let staged = Self { path, target, nameless, replaces, is_finished: false };
        if let Some((_, permissions)) = &old {
            file.set_permissions(permissions.clone())
                .map_err(|e| HostError::io(e, "create").path(&staged.target))?;
        }
        Ok((staged, file))
    }

    /// A name beside the final one that nothing else has, for what is kept beside the file until it is
    /// finished.
    pub(super) fn aside(&self) -> &Path {
        &self.path
    }

    /// Gives a file without a name its first one: the final one if that is free to take.
    fn link(&mut self) -> Result<()> {
        let Some(file) = self.nameless.take() else { return Ok(()) };
        let name = if self.replaces { &self.path } else { &self.target };
        let follow = AtFlags::SYMLINK_FOLLOW;
        match rustix::fs::linkat(CWD, descriptor_path(&file), CWD, name, follow) {
            Ok(()) => {
                self.is_finished = !self.replaces;
                Ok(())
            }
            Err(Errno::EXIST) => Err(taken(&self.target)),
            Err(errno) => Err(HostError::io(errno.into(), "create").path(&self.target)),
        }
    }

    /// Gives the file, whose content is durable, its final name, durably.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if somebody took the name meanwhile; the system's.
    pub(super) fn finish(self) -> Result<()> {
        sync_directory(&self.place()?)
    }

    /// As [`finish`](Self::finish) without the sync of the directory, for who makes several files there.
    /// Gives the final name.
    ///
    /// # Errors
    /// As there.
    pub(super) fn place(mut self) -> Result<PathBuf> {
        self.link()?;
        if self.is_finished {
            return Ok(self.target.clone());
        }
        let failed = |errno| HostError::io(io::Error::from(errno), "create").path(&self.target);
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &self.target, flags) {
            Ok(()) => self.is_finished = true,
            Err(Errno::EXIST) => return Err(taken(&self.target)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if !self.replaces => {
                // This file system cannot refuse to replace by renaming, but linking always does.
                match rustix::fs::link(&self.path, &self.target) {
                    Ok(()) => {} // the first name goes when this is dropped
                    Err(Errno::EXIST) => return Err(taken(&self.target)),
                    Err(errno) => return Err(failed(errno)),
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        Ok(self.target.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_finished && self.nameless.is_none() {
            // A left-over is sparse, hidden and harmless; the error that led here matters more.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// A file without a name in a directory, twice; `None` if there is no such thing here.
fn nameless_in(directory: &Path, how: StagedOptions) -> Option<(File, File)> {
    let direct = if how.direct { libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | direct);
    let file = options.open(directory).ok()?;
    let clone = file.try_clone().ok()?;
    // It gets its name through this path later.
    let can_be_named = descriptor_path(&clone).symlink_metadata().is_ok();
    can_be_named.then_some((file, clone))
}

fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn named(path: &Path, target: &Path, how: StagedOptions) -> Result<File> {
    let failed = |e| HostError::io(e, "create").path(target);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    if how.direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(error).advice("create its directory first"),
        io::ErrorKind::InvalidInput if how.direct => {
            failed(error).advice("leave --direct out for this file system")
        }
        _ => failed(error),
    })
}

/// Where the name in `path` stands.
pub(super) fn directory_of(path: &Path) -> &Path {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

/// The regular file that is to be replaced, where links lead, and who may read it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is anything else, or it is to stay.
fn old_file(target: &Path, replace: bool) -> Result<Option<(PathBuf, Permissions)>> {
    if target.symlink_metadata().is_err() {
        return Ok(None);
    }
    let about = fs::metadata(target).ok().filter(|about| replace && about.is_file());
    let path = fs::canonicalize(target).ok();
    match about.zip(path) {
        Some((about, path)) => Ok(Some((path, about.permissions()))),
        None => Err(taken(target)),
    }
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|handle| handle.sync_all());
    synced.map_err(|e| HostError::io(e, "sync the directory").path(directory))
}

fn taken(target: &Path) -> HostError {
    HostError::new(ErrorKind::AlreadyExists, "create")
        .path(target)
        .advice("choose another name, or remove it first; nothing is overwritten unasked")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn appears_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.cow");
        let (staged, _file) = Staged::create(&target, StagedOptions::default()).unwrap();
        assert!(!target.exists());
        drop(staged);
        assert_eq!(names(dir.path()).len(), 0);
        let (staged, _file) = Staged::create(&target, StagedOptions::default()).unwrap();
        staged.finish().unwrap();
        assert_eq!(names(dir.path()), ["a.cow"]);
    }

    #[test]
    fn never_replaces_anything() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.cow");
        let (staged, _file) = Staged::create(&target, StagedOptions::default()).unwrap();
        fs::write(&target, b"precious").unwrap();
        let error = staged.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(
            Staged::create(&target, StagedOptions::default()).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["a.cow"]);
        std::os::unix::fs::symlink("nowhere", dir.path().join("b.cow")).unwrap();
        let dangling =
            Staged::create(&dir.path().join("b.cow"), StagedOptions::default()).unwrap_err();
        assert_eq!(dangling.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn replaces_a_regular_file_on_demand_and_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("a.img"), dir.path().join("link.img"));
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("a.img", &link).unwrap();
        let how = StagedOptions { replace: true, ..StagedOptions::default() };
        drop(Staged::create(&link, how).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let (staged, file) = Staged::create(&link, how).unwrap();
        io::Write::write_all(&mut &file, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        staged.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let directory = Staged::create(dir.path(), how).unwrap_err();
        assert_eq!(directory.kind(), ErrorKind::AlreadyExists);
    }
}
