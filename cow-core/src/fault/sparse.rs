//! A sparse image in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Dice;

/// Bytes in a page.
pub(super) const GRAIN: usize = 4096;
pub(super) const GRAIN_BYTES: u64 = GRAIN as u64;
/// Longer ranges are filled only where something was written.
pub(super) const HUGE: u64 = 1 << 26;

/// Bytes of which few were ever written. Clones share their pages.
#[derive(Clone, Debug)]
pub(super) struct Sparse {
    pages: BTreeMap<u64, Arc<[u8; GRAIN]>>,
    /// 0 if what was never written is zeros, otherwise the seed of its garbage.
    garbage: u64,
}

impl Sparse {
    /// Nothing was written; see [`Sparse::garbage`].
    pub(super) const fn new(garbage: u64) -> Self {
        Self { pages: BTreeMap::new(), garbage }
    }

    fn background(&self, page: u64) -> [u8; GRAIN] {
        let mut bytes = [0; GRAIN];
        if self.garbage != 0 {
            let mut dice = Dice::new(self.garbage ^ page.wrapping_mul(0x1000_0001));
            for word in bytes.as_chunks_mut::<8>().0 {
                *word = dice.roll().to_le_bytes();
            }
        }
        bytes
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        pieces(offset, buf.len(), |page, at, from, len| {
            let background;
            let bytes = if let Some(bytes) = self.pages.get(&page) {
                &**bytes
            } else {
                background = self.background(page);
                &background
            };
            if let (Some(to), Some(from)) = (buf.get_mut(from..from + len), bytes.get(at..at + len))
            {
                to.copy_from_slice(from);
            }
        });
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        pieces(offset, data.len(), |page, at, from, len| {
            let fresh = || Arc::new(self.background(page));
            let bytes = match self.pages.get(&page) {
                Some(_) => None,
                None => Some(fresh()),
            };
            let entry = self.pages.entry(page);
            let bytes = entry.or_insert_with(|| bytes.unwrap_or_else(|| Arc::new([0; GRAIN])));
            if let (Some(to), Some(from)) =
                (Arc::make_mut(bytes).get_mut(at..at + len), data.get(from..from + len))
            {
                to.copy_from_slice(from);
            }
        });
    }

    /// Writes `len` bytes that `make` produces for each piece. Of a huge range only what was
    /// written before, which is enough while the rest reads as zeros or nobody reads it.
    pub(super) fn fill(&mut self, offset: u64, len: u64, mut make: impl FnMut(u64, &mut [u8])) {
        let (mut at, end) = (offset, offset.saturating_add(len));
        let mut piece = [0; GRAIN];
        while at < end {
            if len > HUGE {
                let Some((page, _)) = self.pages.range(at / GRAIN_BYTES..).next() else { return };
                at = at.max(page.saturating_mul(GRAIN_BYTES));
                if at >= end {
                    return;
                }
            }
            let room = (GRAIN_BYTES - at % GRAIN_BYTES).min(end - at);
            let bytes = piece.get_mut(..index(room)).unwrap_or_default();
            make(at, bytes);
            self.write(at, bytes);
            at = at.saturating_add(room);
        }
    }
}

/// Splits a range of memory at the pages of a medium: page, offset in it, offset in memory, bytes.
fn pieces(offset: u64, len: usize, mut each: impl FnMut(u64, usize, usize, usize)) {
    let mut done = 0;
    while done < len {
        let at = offset.saturating_add(done as u64);
        let within = index(at % GRAIN_BYTES);
        let piece = (GRAIN - within).min(len - done);
        each(at / GRAIN_BYTES, within, done, piece);
        done += piece;
    }
}

/// A length or offset in memory.
pub(super) fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
