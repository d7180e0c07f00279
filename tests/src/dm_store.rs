//! A second reader of dm-snapshot's persistent store, written from the layout alone.
//!
//! It exists to judge what the kernel and our own code wrote; it shares nothing with either.
//! Little-endian: a header chunk, then areas of 16-byte exceptions, each followed by the data
//! chunks they name. `E` exceptions fill an area, and area `a` is chunk `1 + a * (E + 1)`.

use crate::pattern::SECTOR;

const MAGIC: u32 = 0x7041_6e53;
const EXCEPTION: usize = 16;

/// A parsed store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Store {
    /// Bytes in a chunk.
    pub chunk: usize,
    /// Whether the kernel still trusts the store.
    pub valid: bool,
    /// Chunk of the origin, chunk of the store.
    pub exceptions: Vec<(u64, u64)>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Store {
    /// Reads header and exceptions; `None` if this is not a store.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if word(bytes, 0)? != MAGIC || word(bytes, 8)? != 1 {
            return None;
        }
        let chunk = usize::try_from(word(bytes, 12)?).ok()?.checked_mul(SECTOR)?;
        let valid = word(bytes, 4)? == 1;
        let per_area = chunk / EXCEPTION;
        let mut exceptions = Vec::new();
        for area in 0.. {
            let start = (1 + area * (per_area + 1)) * chunk;
            for index in 0..per_area {
                let at = start + index * EXCEPTION;
                let pair = (long(bytes, at)?, long(bytes, at + 8)?);
                if pair.1 == 0 {
                    return Some(Self { chunk, valid, exceptions });
                }
                exceptions.push(pair);
            }
        }
        None
    }

    /// Chunk of the store that holds the first exceptions of area `area`.
    pub fn area(&self, area: usize) -> usize {
        1 + area * (self.chunk / EXCEPTION + 1)
    }

    /// What the snapshot reads as: the origin with the store's chunks in place.
    ///
    /// # Panics
    /// If an exception names a chunk that is not there.
    pub fn view(&self, store: &[u8], origin: &[u8]) -> Vec<u8> {
        let mut view = origin.to_vec();
        for &(old, new) in &self.exceptions {
            let from = range(new, self.chunk, store.len());
            let to = range(old, self.chunk, view.len());
            let length = from.len().min(to.len());
            let data = store.get(from).and_then(|data| data.get(..length)).expect("store chunk");
            let place = view.get_mut(to).and_then(|place| place.get_mut(..length));
            place.expect("origin chunk").copy_from_slice(data);
        }
        view
    }
}

fn range(chunk: u64, length: usize, end: usize) -> core::ops::Range<usize> {
    let start = usize::try_from(chunk).expect("a chunk number is small") * length;
    start..(start + length).min(end)
}

/// A store made by hand: chunks of 8 sectors, with exceptions for the given origin chunks, whose
/// data are `fill` and its successors.
pub fn make_store(origin_chunks: &[u64], fill: u8, length: usize) -> Vec<u8> {
    let chunk = 8 * SECTOR;
    let mut bytes = vec![0; length];
    let header = [MAGIC, 1, 1, 8].map(u32::to_le_bytes).concat();
    put(&mut bytes, 0, &header);
    for ((index, &old), new) in origin_chunks.iter().enumerate().zip(2_u64..) {
        let exception = [old, new].map(u64::to_le_bytes).concat();
        put(&mut bytes, chunk + index * EXCEPTION, &exception);
        let data = vec![fill.wrapping_add(u8::try_from(index).unwrap_or(0)); chunk];
        put(&mut bytes, usize::try_from(new).unwrap_or(0) * chunk, &data);
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    let place = bytes.get_mut(at..at + data.len()).expect("the store is long enough");
    place.copy_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::{Store, make_store};

    #[test]
    fn a_store_reads_as_the_origin_with_its_chunks_replaced() {
        let bytes = make_store(&[3, 0], 0x41, 64 << 10);
        let store = Store::parse(&bytes).unwrap();
        assert_eq!((store.chunk, store.valid), (4096, true));
        assert_eq!(store.exceptions, [(3, 2), (0, 3)]);
        assert_eq!((store.area(0), store.area(1)), (1, 258));
        let view = store.view(&bytes, &vec![0x20; 5 * 4096]);
        assert_eq!(view[..4096], [0x42; 4096]);
        assert_eq!(view[4096..3 * 4096], [0x20; 2 * 4096]);
        assert_eq!(view[3 * 4096..4 * 4096], [0x41; 4096]);
        assert_eq!(view[4 * 4096..], [0x20; 4096]);
    }

    #[test]
    fn a_blank_store_is_none() {
        assert_eq!(Store::parse(&[0; 8192]), None);
    }
}
