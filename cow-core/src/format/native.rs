//! The native format. Stub.
use super::{Applied, Cleared, IndexEntry, Load, Located, Map, Overlay, Placed, Sealed, State};
use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::Extent;
/// Frozen layer.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'m> {
    storage: StorageKey,
    index: &'m [IndexEntry],
}
/// Overlay.
#[derive(Debug)]
pub struct Writable {
    storage: StorageKey,
}
impl Frozen<'_> {
    pub(crate) fn index(&self) -> &[IndexEntry] {
        self.index
    }
}
macro_rules! stub {
    ($t:ty) => {
        impl Map for $t {
            fn sectors(&self) -> u64 {
                0
            }
            fn storage(&self) -> StorageKey {
                self.storage
            }
            fn locate(&self, _: Extent, _: &PagePool<'_>, _: &[IndexEntry]) -> Located {
                Located::Corrupt { offset: 0 }
            }
            fn load(&self, _: u64, _: u8, _: &mut u64, _: &mut [u8; PAGE_LEN]) -> Load {
                Load::Ready
            }
        }
    };
}
stub!(Frozen<'_>);
stub!(Writable);
impl Overlay for Writable {
    fn stages(&self) -> u8 {
        1
    }
    fn place(&mut self, _: Extent, _: &PagePool<'_>, _: &mut [IndexEntry]) -> Placed {
        Placed::Full
    }
    fn clear(&mut self, _: Extent, _: bool, _: &PagePool<'_>, _: &[IndexEntry]) -> Cleared {
        Cleared::Busy
    }
    fn apply(
        &mut self,
        _: Extent,
        _: State,
        _: &mut PagePool<'_>,
        _: &mut [IndexEntry],
    ) -> Applied {
        Applied::Full
    }
    fn prepared(&mut self, _: u64, _: &mut u64) {}
    fn zeroed(&mut self, _: u64) {}
    fn seal(&mut self, _: u64, _: &mut u64, _: &mut [u8; PAGE_LEN]) -> Sealed {
        Sealed { offset: 0, len: 0, stage: 0 }
    }
    fn committed(&mut self, _: &mut [IndexEntry]) {}
    fn abandon(&mut self, _: Extent, _: &mut [IndexEntry]) {}
    fn adopt(&mut self, _: Extent, _: u64, _: &mut [IndexEntry]) -> bool {
        false
    }
    fn preamble(&mut self, _: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        None
    }
}
