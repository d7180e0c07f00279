//! Small files that are replaced as a whole: readers and crashes see the old or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{HostError, Result};

/// Replaces the file at `path` by one with `contents`, durably: when this returns, the new
/// contents survive a power cut.
///
/// # Errors
/// When any step fails. The old file is then still complete, unless only making the new name
/// durable failed.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let failed = |error: io::Error| HostError::io(error, "write").path(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let staged = staging_path(path);
    let written = write_synced(&staged, contents).and_then(|()| fs::rename(&staged, path));
    if let Err(error) = written {
        // The error that matters is the first one; a left-over is overwritten the next time.
        drop(fs::remove_file(&staged));
        return Err(failed(error));
    }
    // The new name itself lives in the directory.
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(failed)
}

/// The contents of a file, or `None` if there is none.
///
/// # Errors
/// When it exists and cannot be read.
pub fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::io(error, "read").path(path)),
    }
}

fn write_synced(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Beside the file, so that the rename stays within one file system.
fn staging_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.json");
        assert_eq!(read_if_exists(&path).unwrap(), None);
        write_atomically(&path, b"a longer first version").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(read_if_exists(&path).unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no left-overs");
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.json");
        write_atomically(&path, b"old").unwrap();
        // A directory where the new file would be staged makes the write fail, even for root.
        fs::create_dir(staging_path(&path)).unwrap();
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("clients.json"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
