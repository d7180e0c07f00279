//! Open files by the engine's key, and the blocking driver's way to them.

use std::sync::Arc;

use cow_core::blocking::Storages;
use cow_core::engine::IoFailure;
use cow_core::format::Packed;
use cow_core::pages::StorageKey;
use cow_core::storage::ReadStorage;

use super::FileStorage;
use super::unpack::Unpacker;

/// The storages of one engine thread. A key is given out once and never again, so that pages of a
/// file that was removed are not mistaken for another's.
#[derive(Debug, Default)]
pub struct FileTable {
    files: Vec<Option<FileStorage>>,
    unpacker: Arc<Unpacker>,
}

impl FileTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// A table for another thread with the same files under the same keys. What either takes in
    /// later, the other does not know.
    #[must_use]
    pub fn fork(&self) -> Self {
        // Units are kept by key, and keys will differ.
        Self { files: self.files.clone(), unpacker: Arc::default() }
    }

    /// Takes a file in.
    pub fn add(&mut self, file: FileStorage) -> StorageKey {
        let key = self.reserve();
        self.set(key, file);
        key
    }

    /// A key whose file is [`set`](Self::set) later, because somebody else opens it meanwhile.
    /// Operations on it fail until then.
    pub fn reserve(&mut self) -> StorageKey {
        // More than 2^32 files in one process cannot be.
        let key = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(None);
        StorageKey(key)
    }

    /// Puts the file of a reserved key in place.
    pub fn set(&mut self, key: StorageKey, file: FileStorage) {
        if let Some(slot) = self.files.get_mut(key.0 as usize) {
            *slot = Some(file);
        }
    }

    /// Takes a file out; it is closed with its last clone.
    pub fn remove(&mut self, key: StorageKey) -> Option<FileStorage> {
        self.files.get_mut(key.0 as usize).and_then(Option::take)
    }

    /// The file of a key.
    pub fn get(&self, key: StorageKey) -> Option<&FileStorage> {
        self.files.get(key.0 as usize).and_then(Option::as_ref)
    }

    /// All files and their keys.
    pub fn iter(&self) -> impl Iterator<Item = (StorageKey, &FileStorage)> {
        (0..).zip(&self.files).filter_map(|(key, file)| Some((StorageKey(key), file.as_ref()?)))
    }

    /// Unpacks compressed units of these files.
    pub(super) fn unpacker(&self) -> &Arc<Unpacker> {
        &self.unpacker
    }

    fn find(&self, key: StorageKey) -> Result<&FileStorage, IoFailure> {
        self.get(key).ok_or(IoFailure::Medium)
    }
}

impl Storages for FileTable {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.find(key)?.read_at(offset, buf).map_err(|e| e.failure())
    }

    fn unpack(&self, key: StorageKey, packed: &Packed, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.unpacker.read(key, self.find(key)?, packed, buf).map_err(|e| e.failure())
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        self.find(key)?.write(offset, data).map_err(|e| e.failure())
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        self.find(key)?.zero(offset, len).map_err(|e| e.failure())
    }

    fn punch(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        self.find(key)?.punch_hole(offset, len).map_err(|e| e.failure())
    }

    fn sync(&mut self, key: StorageKey) -> Result<(), IoFailure> {
        self.find(key)?.sync_data().map_err(|e| e.failure())
    }
}
