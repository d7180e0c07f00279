//! How much room files take, and how much there is.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::FileStorage;
use crate::error::{HostError, Result};

/// Size of a file as it looks and as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct DiskUse {
    /// Its length in bytes.
    pub apparent_bytes: u64,
    /// Bytes that the file system has given it: less where the file has holes.
    pub allocated_bytes: u64,
}

/// Room of a file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct FreeSpace {
    /// Bytes that an unprivileged user can still take.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl FileStorage {
    /// Room that the whole file takes. A block device takes all it has.
    ///
    /// # Errors
    /// The system's.
    pub fn disk_use(&self) -> Result<DiskUse> {
        let about = self.file().metadata();
        let about = about.map_err(|e| HostError::io(e, "examine").path(self.path()))?;
        if self.is_device() {
            let len = cow_core::storage::ReadStorage::len_bytes(self)?;
            return Ok(DiskUse { apparent_bytes: len, allocated_bytes: len });
        }
        // `st_blocks` counts units of 512 bytes whatever the file system.
        let allocated_bytes = about.blocks().saturating_mul(512);
        Ok(DiskUse { apparent_bytes: about.len(), allocated_bytes })
    }
}

/// Room of the file system that holds `path`.
///
/// # Errors
/// The system's.
pub fn free_space(path: &Path) -> Result<FreeSpace> {
    let about = rustix::fs::statvfs(path).map_err(|errno| {
        HostError::io(io::Error::from(errno), "examine the file system of").path(path)
    })?;
    Ok(FreeSpace {
        free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
        total_bytes: about.f_blocks.saturating_mul(about.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileOptions;

    #[test]
    fn holes_are_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let storage = FileStorage::open(file.path(), &FileOptions::default()).unwrap();
        let used = storage.disk_use().unwrap();
        assert_eq!(used.apparent_bytes, 64 << 20);
        assert!(used.allocated_bytes < 1 << 20, "{used:?}");
        let free = free_space(file.path()).unwrap();
        assert!(0 < free.free_bytes && free.free_bytes <= free.total_bytes);
    }
}
