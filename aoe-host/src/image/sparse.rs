//! Reading mostly empty files quickly.

use core::cell::{Cell, RefCell};

use cow_core::storage::{ReadStorage, Storage};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::report::Progress;
use crate::config::Window;
use crate::storage::{FileStorage, StorageError};

/// A file whose holes are not read but known: the metadata of a large, hardly used overlay are
/// mostly holes, and every start after a crash reads them all.
#[derive(Debug)]
pub(crate) struct Sparse<'a> {
    file: &'a FileStorage,
    /// Known hole: first byte, and the byte behind the last.
    hole: Cell<(u64, u64)>,
}

impl<'a> Sparse<'a> {
    pub(crate) fn new(file: &'a FileStorage) -> Self {
        Self { file, hole: Cell::new((0, 0)) }
    }
}

impl embedded_io::ErrorType for Sparse<'_> {
    type Error = StorageError;
}

impl ReadStorage for Sparse<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        if self.file.window() != Window::default() {
            return self.file.read_at(offset, buf); // holes are known by offsets of the whole file
        }
        let end = offset.saturating_add(buf.len() as u64);
        let (mut from, mut to) = self.hole.get();
        if offset < from || end > to {
            let next = rustix::fs::seek(self.file.file(), SeekFrom::Data(offset));
            (from, to) = match next {
                Ok(data) => (offset, data),
                Err(Errno::NXIO) => (offset, self.file.len_bytes()?),
                // Holes cannot be asked for here: read everything.
                Err(_) => (offset, offset),
            };
            self.hole.set((from, to));
        }
        if from <= offset && end <= to {
            buf.fill(0);
            return Ok(());
        }
        self.file.read_at(offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, StorageError> {
        self.file.len_bytes()
    }
}

/// A file that is written now and then while it is read as a [`Sparse`] one.
#[derive(Debug)]
pub(crate) struct SparseMut<'a> {
    file: &'a FileStorage,
    sparse: Sparse<'a>,
}

impl<'a> SparseMut<'a> {
    pub(crate) fn new(file: &'a FileStorage) -> Self {
        Self { file, sparse: Sparse::new(file) }
    }

    /// A hole may be none any more.
    fn forget(&self) {
        self.sparse.hole.set((0, 0));
    }
}

impl embedded_io::ErrorType for SparseMut<'_> {
    type Error = StorageError;
}

impl ReadStorage for SparseMut<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.sparse.read_at(offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, StorageError> {
        self.file.len_bytes()
    }
}

impl Storage for SparseMut<'_> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), StorageError> {
        self.forget();
        self.file.write(offset, data)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.file.sync_data()
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.forget();
        self.file.zero(offset, len)
    }

    fn punch(&mut self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.file.punch_hole(offset, len)
    }

    fn extend(&mut self, len: u64) -> Result<(), StorageError> {
        self.forget();
        self.file.clone().extend(len)
    }
}

/// Bytes between two messages.
const TELL_EVERY: u64 = 1 << 20;

/// Sparse reading that tells how far it is.
pub(crate) struct Told<'a> {
    file: Sparse<'a>,
    total: u64,
    last: Cell<u64>,
    progress: RefCell<&'a mut Progress<'a>>,
}

impl<'a> Told<'a> {
    /// Reads up to byte `total`, more or less.
    pub(crate) fn new(file: &'a FileStorage, total: u64, progress: &'a mut Progress<'a>) -> Self {
        Self {
            file: Sparse::new(file),
            total,
            last: Cell::new(0),
            progress: RefCell::new(progress),
        }
    }
}

impl embedded_io::ErrorType for Told<'_> {
    type Error = StorageError;
}

impl ReadStorage for Told<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        if offset >= self.last.get().saturating_add(TELL_EVERY) {
            self.last.set(offset);
            (self.progress.borrow_mut())(offset.min(self.total), self.total);
        }
        self.file.read_at(offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, StorageError> {
        self.file.len_bytes()
    }
}
