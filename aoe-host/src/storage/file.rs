//! One file or block device as storage: opening it safely, and positioned I/O on a part of it.

use core::sync::atomic::{AtomicU8, Ordering};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cow_core::storage::{ReadStorage, Storage};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::direct::Direct;
use super::error::StorageError;
use super::lock;
use crate::config::Window;
use crate::error::{ErrorKind, HostError, Result};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// Reading only: whatever happens, the file is not changed.
    #[default]
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// How a file is kept from others while it is open. The lock is advisory (`flock`), and goes with
/// the last clone of the [`FileStorage`], or with the process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LockMode {
    /// Not at all.
    #[default]
    None,
    /// Nobody may hold it exclusively: backing layers.
    Shared,
    /// Nobody may hold it at all: overlays.
    Exclusive,
}

/// How [`FileStorage::open`] opens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FileOptions {
    /// What for.
    pub access: Access,
    /// Against whom.
    pub lock: LockMode,
    /// Bypass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// The part of the file that is the storage.
    pub window: Window,
}

/// Identity of a file in the running system: device and inode number. Two paths of one file
/// have the same.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileKey {
    /// Number of the file system's device; for a block device its own number.
    pub device: u64,
    /// Inode number; 0 for a block device.
    pub inode: u64,
}

impl FileKey {
    /// Who is behind a path; `None` if nothing is.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|about| Self::from_metadata(&about))
    }

    fn from_metadata(about: &Metadata) -> Self {
        if about.file_type().is_block_device() {
            Self { device: about.rdev(), inode: 0 }
        } else {
            Self { device: about.dev(), inode: about.ino() }
        }
    }
}

/// How a read that must not block is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum ReadPolicy {
    /// With `RWF_NOWAIT`.
    NoWait,
    /// Plainly: the file lives in memory.
    Inline,
    /// Not at all.
    Never,
}

/// What [`FileStorage::read_now`] achieved.
pub(super) enum Now {
    Done,
    /// It would block, or the file system cannot tell.
    Later,
    Failed(StorageError),
}

/// An open file or block device, or a window into one. Clones share the open file and its lock.
#[derive(Clone, Debug)]
pub struct FileStorage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Shared with other windows into the same file.
    file: Arc<File>,
    path: Arc<Path>,
    /// First byte of the window, and its length if it was given.
    start: u64,
    len: Option<u64>,
    is_device: bool,
    /// Who it is, if its pages may be lent.
    lendable: Option<FileKey>,
    direct: Option<Direct>,
    read_policy: AtomicU8,
    last_failure: Mutex<Option<StorageError>>,
}

/// Magic numbers of the file systems without a medium behind the page cache (`linux/magic.h`).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
pub(super) const IN_MEMORY: [i64; 2] = [TMPFS_MAGIC, RAMFS_MAGIC];

/// File systems on which calls and mappings of a file that is written meet in one page cache. Elsewhere
/// (network file systems, FUSE) that depends on how they are mounted.
const ONE_CACHE: [i64; 6] = [
    TMPFS_MAGIC,
    RAMFS_MAGIC,
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    BTRFS_MAGIC,
    F2FS_MAGIC,
];

/// File systems that write what is written again to another place: room that a file has does not
/// serve a later write of it.
pub(super) const WRITING_ELSEWHERE: [i64; 5] =
    [BTRFS_MAGIC, F2FS_MAGIC, ZFS_MAGIC, BCACHEFS_MAGIC, NILFS2_MAGIC];
const BTRFS_MAGIC: i64 = 0x9123_683e;
const F2FS_MAGIC: i64 = 0xf2f5_2010;
const ZFS_MAGIC: i64 = 0x2fc1_2fc1;
const BCACHEFS_MAGIC: i64 = 0xca45_1a4e;
const NILFS2_MAGIC: i64 = 0x3434;

/// Unit of direct access to files: what every file system in use accepts.
const DIRECT_UNIT: u64 = 4096;

/// Position within a page of the page cache; where pages are larger, this only asks more often.
const PAGE_MASK: u64 = 4095;

/// Longest piece in which zeros are written where the system has no better way.
const ZEROS: &[u8] = &[0; 64 << 10];

impl FileStorage {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// What the system says; anything that is neither a regular file nor a block device; a window
    /// that is not inside; a lock that somebody else holds, with the holder's name; `direct` where
    /// the file system refuses it.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path, options)?;
        Self::from_file(file, path, options)
    }

    /// Takes over a file that is open already, with the access and flags that `options` name.
    ///
    /// # Errors
    /// As [`open`](Self::open), without those of the opening itself.
    pub fn from_file(file: File, path: &Path, options: &FileOptions) -> Result<Self> {
        let failed = |op: &'static str| {
            move |errno: Errno| HostError::io(io::Error::from(errno), op).path(path)
        };
        let is_device = kind_of(&file, path)?;
        lock::take(&file, path, options.lock)?;
        let whole = whole_len(&file, is_device).map_err(failed("measure"))?;
        let window = options.window;
        let end = window
            .len_bytes
            .map_or(Some(window.offset_bytes), |len| window.offset_bytes.checked_add(len));
        if window != Window::default() && end.is_none_or(|end| end > whole) {
            return Err(HostError::usage("use a part of", "the part is not inside the file")
                .path(path)
                .advice(format!("it has {whole} bytes; check --offset and --length")));
        }
        // All of a file is no part of it, however it was said: as a line of a table says it.
        let is_all = window.offset_bytes == 0 && window.len_bytes == Some(whole);
        let window = if is_all { Window::default() } else { window };
        let magic = rustix::fs::fstatfs(&file).map_err(failed("examine"))?.f_type;
        let in_memory = !is_device && IN_MEMORY.contains(&magic);
        let policy = if in_memory { ReadPolicy::Inline } else { ReadPolicy::NoWait };
        // What is written must be seen in the mapping: so it is where both are the page cache.
        let read_only = options.access == Access::ReadOnly;
        let lendable = !options.direct && (read_only || ONE_CACHE.contains(&magic) && !is_device);
        let about = lendable.then(|| file.metadata()).transpose();
        let about = about.map_err(|e| HostError::io(e, "examine").path(path))?;
        let lendable = about.map(|about| FileKey::from_metadata(&about));
        let storage = Self {
            inner: Arc::new(Inner {
                direct: direct_of(&file, is_device, options.direct).map_err(failed("examine"))?,
                file: Arc::new(file),
                path: Arc::from(path),
                start: window.offset_bytes,
                len: window.len_bytes,
                is_device,
                lendable,
                read_policy: AtomicU8::new(policy as u8),
                last_failure: Mutex::new(None),
            }),
        };
        storage.probe_direct()?;
        Ok(storage)
    }

    /// All of the file that this is a window into. Reading only: a write here and one there that
    /// share a unit of direct access would not know of each other.
    ///
    /// # Errors
    /// The system's.
    pub fn whole(&self) -> Result<Self> {
        let inner = &self.inner;
        if (inner.start, inner.len) == (0, None) {
            return Ok(self.clone());
        }
        let direct = direct_of(&inner.file, inner.is_device, self.is_direct())
            .map_err(|errno| HostError::io(io::Error::from(errno), "examine").path(self.path()))?;
        Ok(Self {
            inner: Arc::new(Inner {
                file: Arc::clone(&inner.file),
                path: Arc::clone(&inner.path),
                start: 0,
                len: None,
                is_device: inner.is_device,
                lendable: inner.lendable,
                direct,
                read_policy: AtomicU8::new(inner.read_policy.load(Ordering::Relaxed)),
                last_failure: Mutex::new(None),
            }),
        })
    }

    /// Who has the file locked against readers, in words; `None` if nobody has.
    pub fn writer(&self) -> Option<String> {
        lock::writer(&self.inner.file)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Who it is, for telling two paths of one file.
    ///
    /// # Errors
    /// The system's.
    pub fn key(&self) -> Result<FileKey> {
        let about = self.inner.file.metadata();
        let about = about.map_err(|e| HostError::io(e, "examine").path(self.path()))?;
        Ok(FileKey::from_metadata(&about))
    }

    /// It is a block device: of fixed length.
    pub fn is_device(&self) -> bool {
        self.inner.is_device
    }

    /// It bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.inner.direct.is_some()
    }

    /// The window that was asked for.
    pub fn window(&self) -> Window {
        Window { offset_bytes: self.inner.start, len_bytes: self.inner.len }
    }

    /// The open file itself.
    pub fn file(&self) -> &File {
        &self.inner.file
    }

    /// The latest operation that failed, without forgetting it.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        self.inner.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest operation that failed since this was last asked: what the engine's
    /// [`IoFailure`](cow_core::engine::IoFailure) leaves out.
    pub fn take_failure(&self) -> Option<StorageError> {
        self.inner.last_failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn failed(&self, op: &'static str, offset: u64, errno: Errno) -> StorageError {
        self.remember(StorageError::system(&self.inner.path, op, offset, errno))
    }

    fn ended(&self, offset: u64) -> StorageError {
        self.remember(StorageError::end(&self.inner.path, "read", offset))
    }

    pub(super) fn damaged(&self, offset: u64) -> StorageError {
        self.remember(StorageError::damaged(&self.inner.path, offset))
    }

    pub(super) fn no_codec(&self, offset: u64) -> StorageError {
        self.remember(StorageError::no_codec(&self.inner.path, offset))
    }

    fn remember(&self, error: StorageError) -> StorageError {
        let mut last = self.inner.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(error.clone());
        error
    }

    /// The range as bytes of the file, if the window has it.
    pub(super) fn locate(&self, op: &'static str, offset: u64, len: u64) -> FileResult<u64> {
        let end = offset.checked_add(len).ok_or_else(|| self.failed(op, offset, Errno::INVAL))?;
        if self.inner.len.is_some_and(|window| end > window) {
            return Err(self.remember(StorageError::end(&self.inner.path, op, offset)));
        }
        offset.checked_add(self.inner.start).ok_or_else(|| self.failed(op, offset, Errno::INVAL))
    }

    /// Who the file is and where in it a range lies, if the file may be mapped and the range is inside.
    pub(super) fn lendable_at(&self, offset: u64, len: u64) -> Option<(FileKey, u64)> {
        let inner = &*self.inner;
        let end = offset.checked_add(len)?;
        let inside = inner.len.is_none_or(|window| end <= window);
        let start = offset.checked_add(inner.start).filter(|_| inside)?;
        inner.lendable.map(|file| (file, start))
    }

    /// Reads if that does not block. Allocates nothing.
    pub(super) fn read_now(&self, offset: u64, buf: &mut [u8]) -> Now {
        let policy = self.inner.read_policy.load(Ordering::Relaxed);
        if self.inner.direct.is_some() || policy == ReadPolicy::Never as u8 {
            return Now::Later;
        }
        if policy == ReadPolicy::Inline as u8 {
            return self.read_at(offset, buf).map_or_else(Now::Failed, |()| Now::Done);
        }
        let start = match self.locate("read", offset, buf.len() as u64) {
            Ok(start) => start,
            Err(error) => return Now::Failed(error),
        };
        let mut done = 0_usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let (at, mut pieces) = (start.saturating_add(done as u64), [io::IoSliceMut::new(rest)]);
            let got = retry(|| {
                rustix::io::preadv2(&self.inner.file, &mut pieces, at, ReadWriteFlags::NOWAIT)
            });
            match got {
                Ok(0) => return Now::Failed(self.ended(offset.saturating_add(done as u64))),
                Ok(got) => done = done.saturating_add(got),
                Err(Errno::AGAIN) => return Now::Later,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    // This file system cannot say whether it would block: never ask again.
                    self.inner.read_policy.store(ReadPolicy::Never as u8, Ordering::Relaxed);
                    return Now::Later;
                }
                Err(errno) => return Now::Failed(self.failed("read", offset, errno)),
            }
        }
        Now::Done
    }

    /// Where in the file a read begins that the kernel may do by itself: one through the page cache
    /// that does not block whoever asks for it.
    pub(super) fn ring_offset(&self, offset: u64, len: u64) -> Option<u64> {
        let policy = self.inner.read_policy.load(Ordering::Relaxed);
        if self.inner.direct.is_some() || policy != ReadPolicy::NoWait as u8 {
            return None;
        }
        let end = offset.checked_add(len)?;
        let inside = self.inner.len.is_none_or(|window| end <= window);
        offset.checked_add(self.inner.start).filter(|_| inside)
    }

    /// A write through the page cache would first have to read from the medium: it covers a page
    /// partly that is in the file and not in memory. Allocates nothing.
    pub(super) fn is_cold_for_writing(&self, offset: u64, len: u64) -> bool {
        let policy = self.inner.read_policy.load(Ordering::Relaxed);
        if policy != ReadPolicy::NoWait as u8 {
            return false;
        }
        let start = self.inner.start.saturating_add(offset);
        let end = start.saturating_add(len);
        let (first, last) = (start & !PAGE_MASK, end & !PAGE_MASK);
        let cut = [(start != first).then_some(first), (end != last).then_some(last)];
        let cut = if cut[0] == cut[1] { [cut[0], None] } else { cut };
        cut.into_iter().flatten().any(|page| self.is_cold_page(page))
    }

    fn is_cold_page(&self, page: u64) -> bool {
        let mut byte = [0];
        let mut pieces = [io::IoSliceMut::new(&mut byte)];
        let file = &self.inner.file;
        match rustix::io::preadv2(file, &mut pieces, page, ReadWriteFlags::NOWAIT) {
            // Nothing has to be read for a hole either, and most of a new overlay is one.
            Err(Errno::AGAIN) => rustix::fs::seek(file, SeekFrom::Data(page))
                .is_ok_and(|data| data <= page | PAGE_MASK),
            // In memory, behind the end, or not to be known.
            _ => false,
        }
    }

    /// As [`Storage::write_at`]; clones may write at the same time.
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, offset: u64, data: &[u8]) -> FileResult<()> {
        let start = self.locate("write", offset, data.len() as u64)?;
        if let Some(direct) = &self.inner.direct {
            let written = direct.write(&self.inner.file, start, data);
            return written.map_err(|errno| self.failed("write", offset, errno));
        }
        let (mut rest, mut at) = (data, start);
        while !rest.is_empty() {
            match retry(|| rustix::io::pwrite(&self.inner.file, rest, at)) {
                Ok(0) => return Err(self.failed("write", offset, Errno::NOSPC)),
                Ok(put) => {
                    rest = rest.get(put..).unwrap_or_default();
                    at = at.saturating_add(put as u64);
                }
                Err(errno) => return Err(self.failed("write", offset, errno)),
            }
        }
        Ok(())
    }

    /// As [`Storage::sync`]: data, and of the metadata what reading them back needs.
    ///
    /// # Errors
    /// As there.
    pub fn sync_data(&self) -> FileResult<()> {
        retry(|| rustix::fs::fdatasync(&self.inner.file))
            .map_err(|errno| self.failed("sync", 0, errno))
    }

    /// As [`Storage::zero_at`]: by giving the space back where the file system can, else by
    /// marking it, else by writing.
    ///
    /// # Errors
    /// As there.
    pub fn zero(&self, offset: u64, len: u64) -> FileResult<()> {
        let start = self.locate("zero", offset, len)?;
        if len == 0 {
            return Ok(());
        }
        // Punching never makes a file longer, which writing zeros would.
        let end = start.saturating_add(len);
        let inside = whole_len(&self.inner.file, self.inner.is_device).is_ok_and(|l| end <= l);
        let ways = [
            inside.then_some(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            Some(FallocateFlags::ZERO_RANGE),
        ];
        for way in ways.into_iter().flatten() {
            match retry(|| rustix::fs::fallocate(&self.inner.file, way, start, len)) {
                Ok(()) => return Ok(()),
                Err(errno) if is_unsupported(errno) => {}
                Err(errno) => return Err(self.failed("zero", offset, errno)),
            }
        }
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(at, ZEROS.get(..piece).unwrap_or(ZEROS))?;
            at = at.saturating_add(piece as u64);
            left = left.saturating_sub(piece as u64);
        }
        Ok(())
    }

    /// Takes room for the whole file, as long as it is now, where it has none yet. What is in it stays; what had no room
    /// reads as zeros, as before.
    ///
    /// # Errors
    /// The system's: no room, or a file system that cannot promise any.
    pub fn set_room_aside(&self) -> FileResult<()> {
        let len = whole_len(&self.inner.file, self.inner.is_device)
            .map_err(|errno| self.failed("take room for", 0, errno))?;
        if len == 0 || self.inner.is_device {
            return Ok(());
        }
        retry(|| rustix::fs::fallocate(&self.inner.file, FallocateFlags::empty(), 0, len))
            .map_err(|errno| self.failed("take room for", 0, errno))
    }

    /// As [`Storage::punch`].
    ///
    /// # Errors
    /// As there.
    pub fn punch_hole(&self, offset: u64, len: u64) -> FileResult<()> {
        let start = self.locate("punch", offset, len)?;
        let way = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if len == 0 {
            return Ok(());
        }
        match retry(|| rustix::fs::fallocate(&self.inner.file, way, start, len)) {
            Err(errno) if !is_unsupported(errno) => Err(self.failed("punch", offset, errno)),
            _ => Ok(()),
        }
    }

    /// With `direct`, one read shows whether the file system plays along.
    fn probe_direct(&self) -> Result<()> {
        let Some(direct) = &self.inner.direct else { return Ok(()) };
        let read = direct.read(&self.inner.file, 0, &mut [0; 512]);
        read.map(drop).map_err(|errno| {
            HostError::io(io::Error::from(errno), "read past the page cache")
                .path(self.path())
                .advice("leave --direct out for this file system")
        })
    }
}

/// The result of an operation on a file.
pub(super) type FileResult<T> = core::result::Result<T, StorageError>;

impl embedded_io::ErrorType for FileStorage {
    type Error = StorageError;
}

impl ReadStorage for FileStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> FileResult<()> {
        let start = self.locate("read", offset, buf.len() as u64)?;
        if let Some(direct) = &self.inner.direct {
            return match direct.read(&self.inner.file, start, buf) {
                Ok(got) if got == buf.len() => Ok(()),
                Ok(got) => Err(self.ended(offset.saturating_add(got as u64))),
                Err(errno) => Err(self.failed("read", offset, errno)),
            };
        }
        let mut done = 0_usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = start.saturating_add(done as u64);
            match retry(|| rustix::io::pread(&self.inner.file, &mut *rest, at)) {
                Ok(0) => return Err(self.ended(offset.saturating_add(done as u64))),
                Ok(got) => done = done.saturating_add(got),
                Err(errno) => return Err(self.failed("read", offset, errno)),
            }
        }
        Ok(())
    }

    fn len_bytes(&self) -> FileResult<u64> {
        let whole = whole_len(&self.inner.file, self.inner.is_device)
            .map_err(|errno| self.failed("measure", 0, errno))?;
        let rest = whole.saturating_sub(self.inner.start);
        Ok(self.inner.len.map_or(rest, |len| len.min(rest)))
    }
}

impl Storage for FileStorage {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> FileResult<()> {
        self.write(offset, data)
    }

    fn sync(&mut self) -> FileResult<()> {
        self.sync_data()
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> FileResult<()> {
        self.zero(offset, len)
    }

    fn punch(&mut self, offset: u64, len: u64) -> FileResult<()> {
        self.punch_hole(offset, len)
    }

    fn extend(&mut self, len: u64) -> FileResult<()> {
        let have = self.len_bytes()?;
        if have >= len {
            return Ok(());
        }
        let fixed = self.inner.is_device || self.inner.len.is_some();
        match self.inner.start.checked_add(len).filter(|_| !fixed) {
            Some(whole) => retry(|| rustix::fs::ftruncate(&self.inner.file, whole))
                .map_err(|errno| self.failed("extend", len, errno)),
            None => Err(self.remember(StorageError::too_short(&self.inner.path, len, have))),
        }
    }
}

/// Opens without ever blocking on a FIFO, and without changing anything.
fn open_file(path: &Path, options: &FileOptions) -> Result<File> {
    let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    if options.direct {
        flags |= libc::O_DIRECT;
    }
    let write = options.access == Access::ReadWrite;
    if write && std::fs::metadata(path).is_ok_and(|about| about.file_type().is_block_device()) {
        // The system refuses a device that is mounted, or is part of another one.
        flags |= libc::O_EXCL;
    }
    let opened = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    opened.map_err(|error| {
        let refused = options.direct && error.raw_os_error() == Some(libc::EINVAL);
        let error = HostError::io(error, "open").path(path);
        if refused {
            return error
                .detail("its file system cannot bypass the page cache")
                .advice("leave --direct out");
        }
        if path.is_dir() {
            return not_a_file(path);
        }
        match error.kind() {
            ErrorKind::NotFound => error.advice("check the path"),
            ErrorKind::PermissionDenied => error.advice("check the permissions of the file"),
            ErrorKind::InUse => error
                .detail("the system uses the device")
                .advice("unmount it, or take it out of the device above it"),
            _ => error,
        }
    })
}

/// True for a block device, false for a regular file.
fn kind_of(file: &File, path: &Path) -> Result<bool> {
    let about = file.metadata().map_err(|e| HostError::io(e, "examine").path(path))?;
    let kind = about.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(kind.is_block_device());
    }
    Err(not_a_file(path))
}

fn not_a_file(path: &Path) -> HostError {
    HostError::usage("use", "it is neither a file nor a block device").path(path)
}

fn whole_len(file: &File, is_device: bool) -> core::result::Result<u64, Errno> {
    if is_device {
        return rustix::fs::seek(file, SeekFrom::End(0));
    }
    let about = rustix::fs::fstat(file)?;
    Ok(u64::try_from(about.st_size).unwrap_or(0))
}

fn direct_of(
    file: &File,
    is_device: bool,
    wanted: bool,
) -> core::result::Result<Option<Direct>, Errno> {
    if !wanted {
        return Ok(None);
    }
    let unit = if is_device {
        // A device need not end on 4 KiB, so its own unit it is.
        u64::from(rustix::fs::ioctl_blksszget(file)?).next_power_of_two()
    } else {
        DIRECT_UNIT
    };
    Ok(Some(Direct::new(unit)))
}

/// The file system or device cannot do it; no error of the medium.
pub(super) fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL | Errno::PERM)
}

/// Repeats what a signal interrupted.
pub(super) fn retry<T>(
    mut call: impl FnMut() -> core::result::Result<T, Errno>,
) -> core::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
