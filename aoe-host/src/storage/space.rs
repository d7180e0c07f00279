//! How much room files take, and how much there is.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use serde::Serialize;

use super::FileStorage;
use super::file::{IN_MEMORY, WRITING_ELSEWHERE, is_unsupported, retry};
use crate::error::{ErrorKind, HostError, Result};

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

/// A maximal part of a file that has room of its own, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// It has no room and reads as zeros.
    pub is_hole: bool,
    /// Byte behind its last one.
    pub end: u64,
}

impl FileStorage {
    /// Where byte `offset` lies. What cannot be told counts as data, to the end.
    pub fn stretch(&self, offset: u64) -> Stretch {
        let start = self.window().offset_bytes;
        let at = start.saturating_add(offset);
        let rest = Stretch { is_hole: false, end: u64::MAX };
        let behind = |end: u64| end.saturating_sub(start).max(offset.saturating_add(1));
        match rustix::fs::seek(self.file(), SeekFrom::Data(at)) {
            Ok(data) if data > at => Stretch { is_hole: true, end: behind(data) },
            Ok(_) => match rustix::fs::seek(self.file(), SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => Stretch { is_hole: false, end: behind(hole) },
                _ => rest,
            },
            // Nothing but a hole up to the end, and nothing behind it.
            Err(Errno::NXIO) => Stretch { is_hole: true, end: u64::MAX },
            Err(_) => rest,
        }
    }

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

/// Whether a file of the file system that holds `path` keeps the places on a medium that it has: those in
/// memory have none, and some write what is written again elsewhere.
///
/// # Errors
/// The system's.
pub(crate) fn is_fit_for_logs(path: &Path) -> Result<bool> {
    let about = rustix::fs::statfs(path).map_err(|errno| {
        HostError::io(io::Error::from(errno), "examine the file system of").path(path)
    })?;
    Ok(!IN_MEMORY.contains(&about.f_type) && !WRITING_ELSEWHERE.contains(&about.f_type))
}

/// Tries on a small file whether the file system of `directory` can promise room to files at all. What
/// else fails, for want of room for example, fails no file that has its room already.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it cannot.
pub(crate) fn may_set_room_aside(directory: &Path) -> Result<()> {
    const LEN: u64 = 4096;
    let Ok(file) = tempfile::tempfile_in(directory) else { return Ok(()) };
    match retry(|| rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, LEN)) {
        Err(errno) if is_unsupported(errno) => {
            Err(HostError::new(ErrorKind::Unsupported, "set room aside for overlays")
                .path(directory)
                .detail("its file system cannot promise room to a file")
                .advice("leave --preallocate out, or keep overlays on ext4 or XFS")
                .source(io::Error::from(errno)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;
    use crate::storage::FileOptions;

    fn storage_with_data(path: &Path) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 512], 1 << 20).unwrap();
    }

    #[test]
    fn holes_are_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let storage = FileStorage::open(file.path(), &FileOptions::default()).unwrap();
        let used = storage.disk_use().unwrap();
        assert_eq!(used.apparent_bytes, 64 << 20);
        assert!(used.allocated_bytes < 1 << 20, "{used:?}");
        assert_eq!(storage.stretch(5), Stretch { is_hole: true, end: u64::MAX });
        storage_with_data(file.path());
        assert_eq!(storage.stretch(0), Stretch { is_hole: true, end: 1 << 20 });
        let data = storage.stretch(1 << 20);
        assert!(!data.is_hole && data.end >= (1 << 20) + 512, "{data:?}");
        let window = Window { offset_bytes: 512 << 10, len_bytes: None };
        let options = FileOptions { window, ..FileOptions::default() };
        let part = FileStorage::open(file.path(), &options).unwrap();
        assert_eq!(part.stretch(512), Stretch { is_hole: true, end: 512 << 10 });
        let free = free_space(file.path()).unwrap();
        assert!(0 < free.free_bytes && free.free_bytes <= free.total_bytes);
    }
}
