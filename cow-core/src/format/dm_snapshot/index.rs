//! The index of the exceptions: an open-addressing hash table in lent memory.
//!
//! | word | bits | meaning |
//! |---|---|---|
//! | key | 0..64 | chunk of the disk + 1; 0 = the entry is empty |
//! | value | 0..39 | chunk of the store |
//! | value | 39..63 | number of the exception in the list, modulo 2^24 |
//! | value | 63 | pending: allocated for a write under way, not in the list |
//!
//! Linear probing; removal moves later entries back, so there are no tombstones and a chain of
//! used entries never has a hole. At most two thirds are used, see [`index_needed`].

use super::error::IndexTooSmall;
use super::geometry::CHUNK_BITS;
use crate::format::IndexEntry;

const PENDING: u64 = 1 << 63;
const CHUNK_MASK: u64 = (1 << CHUNK_BITS) - 1;
const NUMBER_MASK: u64 = (1 << 24) - 1;

/// Entries of index memory with which `exceptions` exceptions can be looked up quickly.
pub const fn index_needed(exceptions: u64) -> u64 {
    // A few more, so that a small table also keeps an empty entry, where every search ends.
    exceptions.saturating_add(exceptions / 2).saturating_add(8)
}

/// What is known about a chunk of the disk that the store holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mapped {
    /// Chunk of the store.
    pub(super) chunk: u64,
    /// Not yet in the list.
    pub(super) pending: bool,
    /// Number in the list modulo 2^24.
    number: u64,
}

impl Mapped {
    pub(super) const fn pending(chunk: u64) -> Self {
        Self { chunk, pending: true, number: 0 }
    }

    pub(super) const fn listed(chunk: u64, number: u64) -> Self {
        Self { chunk, pending: false, number: number & NUMBER_MASK }
    }

    /// The exception is one of the `count` from number `first` on. `count` is small against 2^24;
    /// an exception that is a multiple of 2^24 older is mistaken for one of them.
    pub(super) const fn is_among(&self, first: u64, count: u64) -> bool {
        !self.pending && self.number.wrapping_sub(first) & NUMBER_MASK < count
    }

    const fn pack(self) -> u64 {
        let flag = if self.pending { PENDING } else { 0 };
        (self.chunk & CHUNK_MASK) | (self.number << CHUNK_BITS) | flag
    }

    const fn unpack(value: u64) -> Self {
        Self {
            chunk: value & CHUNK_MASK,
            pending: value & PENDING != 0,
            number: (value >> CHUNK_BITS) & NUMBER_MASK,
        }
    }
}

/// Where a search ended.
enum Slot {
    Used(usize),
    Empty(usize),
    /// No memory, or a table without an empty entry.
    Nowhere,
}

/// As many entries as are used of a table: positions are computed from 32 bits of a hash.
fn reach(table: &[IndexEntry]) -> usize {
    table.len().min(u32::MAX as usize)
}

/// Multiplicative hash, reduced to the length without a division.
fn home(key: u64, len: usize) -> usize {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed.wrapping_mul(len as u64) >> 32).unwrap_or(0)
}

const fn after(at: usize, len: usize) -> usize {
    let next = at.wrapping_add(1);
    if next < len { next } else { 0 }
}

/// Steps from `from` forward to `to`, around the end.
const fn distance(from: usize, to: usize, len: usize) -> usize {
    if to >= from { to.wrapping_sub(from) } else { to.wrapping_add(len).wrapping_sub(from) }
}

const fn key_of(disk_chunk: u64) -> u64 {
    disk_chunk.wrapping_add(1)
}

fn search(table: &[IndexEntry], key: u64) -> Slot {
    let len = reach(table);
    let mut at = home(key, len);
    // Bounded, as the memory is the caller's and may hold anything.
    for _ in 0..len {
        match table.get(at) {
            Some(entry) if entry.key == key => return Slot::Used(at),
            Some(entry) if entry.key == 0 => return Slot::Empty(at),
            Some(_) => at = after(at, len),
            None => return Slot::Nowhere,
        }
    }
    Slot::Nowhere
}

pub(super) fn find(table: &[IndexEntry], disk_chunk: u64) -> Option<Mapped> {
    match search(table, key_of(disk_chunk)) {
        Slot::Used(at) => table.get(at).map(|e| Mapped::unpack(e.value)),
        Slot::Empty(_) | Slot::Nowhere => None,
    }
}

/// Inserts or replaces. False if the table has no empty entry.
pub(super) fn put(table: &mut [IndexEntry], disk_chunk: u64, mapped: Mapped) -> bool {
    let key = key_of(disk_chunk);
    let (Slot::Used(at) | Slot::Empty(at)) = search(table, key) else { return false };
    let Some(entry) = table.get_mut(at) else { return false };
    *entry = IndexEntry { key, value: mapped.pack() };
    true
}

/// False if the chunk was not there.
pub(super) fn remove(table: &mut [IndexEntry], disk_chunk: u64) -> bool {
    let Slot::Used(mut hole) = search(table, key_of(disk_chunk)) else { return false };
    let len = reach(table);
    let mut at = hole;
    for _ in 0..len {
        at = after(at, len);
        let Some(&entry) = table.get(at) else { break };
        if entry.key == 0 || at == hole {
            break;
        }
        // The entry may move if its search, which begins at its home, passes the hole.
        if distance(home(entry.key, len), at, len) >= distance(hole, at, len) {
            if let Some(free) = table.get_mut(hole) {
                *free = entry;
            }
            hole = at;
        }
    }
    if let Some(entry) = table.get_mut(hole) {
        *entry = IndexEntry::EMPTY;
    }
    true
}

/// An entry maps to store chunk `chunk`. Looks at the whole table.
pub(super) fn uses_chunk(table: &[IndexEntry], chunk: u64) -> bool {
    table.iter().any(|e| e.key != 0 && Mapped::unpack(e.value).chunk == chunk)
}

/// Copies all entries into larger memory, which is cleared first; pending ones stay pending.
///
/// # Errors
/// [`IndexTooSmall`] if `to` has fewer than [`index_needed`] entries for what `from` holds; `to`
/// is then empty.
pub fn move_index(from: &[IndexEntry], to: &mut [IndexEntry]) -> Result<(), IndexTooSmall> {
    to.fill(IndexEntry::EMPTY);
    let used = from.iter().filter(|e| e.key != 0).count() as u64;
    if index_needed(used) > to.len() as u64 {
        return Err(IndexTooSmall { needed: index_needed(used) });
    }
    for entry in from.iter().filter(|e| e.key != 0) {
        let _always_fits = put(to, entry.key.wrapping_sub(1), Mapped::unpack(entry.value));
    }
    Ok(())
}

/// A set of small numbers in index memory that is not used as a table at the moment.
pub(super) struct BitSet<'a>(pub(super) &'a mut [IndexEntry]);

impl BitSet<'_> {
    /// Numbers below this can be in the set.
    pub(super) fn limit(&self) -> u64 {
        (self.0.len() as u64).saturating_mul(128)
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(IndexEntry::EMPTY);
    }

    /// True if the number was in the set already. Numbers beyond the limit are ignored.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let Ok(at) = usize::try_from(number >> 7) else { return false };
        let Some(entry) = self.0.get_mut(at) else { return false };
        let word = if number & 64 == 0 { &mut entry.key } else { &mut entry.value };
        let bit = 1 << (number & 63);
        let was = *word & bit != 0;
        *word |= bit;
        was
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec;

    use super::*;

    #[test]
    fn behaves_as_a_map_through_insertions_and_removals() {
        for len in [1_usize, 2, 7, 8, 64, 97] {
            let mut table = vec![IndexEntry::EMPTY; len];
            let mut model = BTreeMap::new();
            let mut random = 0x1234_5678_9abc_def1_u64;
            for round in 0..20_000_u64 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let chunk = random % 150;
                if random & (1 << 40) == 0 {
                    let mapped = Mapped::listed(round, round);
                    let fits = model.contains_key(&chunk) || model.len() < len;
                    assert_eq!(put(&mut table, chunk, mapped), fits);
                    if fits {
                        model.insert(chunk, mapped);
                    }
                } else {
                    assert_eq!(remove(&mut table, chunk), model.remove(&chunk).is_some());
                }
                assert_eq!(find(&table, chunk), model.get(&chunk).copied());
            }
            for chunk in 0..150 {
                assert_eq!(find(&table, chunk), model.get(&chunk).copied(), "{len}: {chunk}");
            }
        }
    }

    #[test]
    fn hostile_tables_neither_loop_nor_panic() {
        assert_eq!(find(&[], 5), None);
        assert!(!put(&mut [], 5, Mapped::pending(2)));
        assert!(!remove(&mut [], 5));
        let mut full = vec![IndexEntry { key: u64::MAX, value: u64::MAX }; 9];
        assert_eq!(find(&full, 5), None);
        assert!(!put(&mut full, 5, Mapped::pending(2)));
        assert!(remove(&mut full, u64::MAX - 1), "the key of this chunk is all ones");
    }

    #[test]
    fn words_keep_every_field() {
        let mut table = [IndexEntry::EMPTY; 4];
        let chunk = (1 << CHUNK_BITS) - 1;
        assert!(put(&mut table, (1 << 48) - 1, Mapped::listed(chunk, (1 << 24) + 5)));
        let found = find(&table, (1 << 48) - 1).unwrap();
        assert_eq!((found.chunk, found.pending), (chunk, false));
        assert!(found.is_among(5, 1) && found.is_among(2, 4) && !found.is_among(6, 100));
        assert!(found.is_among((1 << 24) + 4, 2) && !found.is_among(2, 3));
        assert!(put(&mut table, (1 << 48) - 1, Mapped::pending(7)));
        let found = find(&table, (1 << 48) - 1).unwrap();
        assert!(found.pending && found.chunk == 7 && !found.is_among(0, 256));
    }

    #[test]
    fn larger_memory_takes_everything_over() {
        let mut small = vec![IndexEntry::EMPTY; 32];
        for chunk in 0..16 {
            assert!(put(&mut small, chunk * 3, Mapped::listed(chunk + 2, chunk)));
        }
        assert!(put(&mut small, 1, Mapped::pending(99)));
        let needed = index_needed(17);
        let mut large = vec![IndexEntry { key: 9, value: 9 }; usize::try_from(needed).unwrap()];
        assert_eq!(move_index(&small, &mut large[1..]), Err(IndexTooSmall { needed }));
        assert_eq!(move_index(&small, &mut large), Ok(()));
        assert_eq!(find(&large, 1), Some(Mapped::pending(99)));
        for chunk in 0..16 {
            assert_eq!(find(&large, chunk * 3), Some(Mapped::listed(chunk + 2, chunk)));
        }
    }
}
