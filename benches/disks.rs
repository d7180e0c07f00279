//! Storages in memory, and overlays and pools of pages in them.

use core::convert::Infallible;

use cow_core::format::native;
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use embedded_io::ErrorType;

/// Size of the disks: a few metadata pages.
pub const SECTORS: u64 = 16_128 * 4;

/// A storage in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// So many bytes that are not zero.
    pub fn filled(len: u64) -> Self {
        Self(vec![7; index(len)])
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl ErrorType for Memory {
    type Error = Infallible;
}

impl ReadStorage for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Infallible> {
        let at = index(offset);
        if let Some(bytes) = self.0.get(at..at + buf.len()) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, Infallible> {
        Ok(self.0.len() as u64)
    }
}

impl Storage for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Infallible> {
        let at = index(offset);
        if let Some(bytes) = self.0.get_mut(at..at + data.len()) {
            bytes.copy_from_slice(data);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), Infallible> {
        self.0.resize(self.0.len().max(index(len)), 0);
        Ok(())
    }
}

/// An empty native overlay of `sectors` sectors, and its storage.
pub fn overlay(key: StorageKey, sectors: u64) -> (Memory, native::Writable) {
    let mut storage = Memory::default();
    let id = u8::try_from(key.0).unwrap_or(0).wrapping_add(1);
    let options = native::CreateOptions {
        layer_id: LayerId([id; 16]),
        sectors,
        parent: ParentIdentity::None,
        window: None,
        hint: b"",
        label: b"",
        created_s: 0,
        log: None,
        fresh: native::Fresh::Zeroed,
    };
    let mut page = Page::ZERO.clone();
    native::create(&mut storage, &options, &mut page).expect("create");
    let writable = native::open_writable(&mut storage, key, &mut page).expect("open");
    (storage, writable)
}

/// Memory of a pool.
pub struct PoolMemory(Vec<Page>, Vec<Frame>);

impl PoolMemory {
    /// So many pages.
    pub fn new(pages: usize) -> Self {
        Self(vec![Page::ZERO; pages], vec![Frame::EMPTY; pages])
    }

    /// The pool.
    pub fn pool(&mut self) -> PagePool<'_> {
        PagePool::new(&mut self.0, &mut self.1).expect("enough pages")
    }
}
