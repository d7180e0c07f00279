//! The weak fingerprint of a parent [COW 4.1].

use super::head::UNIT;
use crate::pages::{PAGE_LEN, Page};
use crate::storage::ReadStorage;

/// The first four sums, modulo 256, of blocks of 1024 bytes whose sum is not zero. Different
/// parents easily have the same: it is a hint, no proof.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fingerprint {
    value: u32,
    sums: u8,
}

impl Fingerprint {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self { value: 0, sums: 0 }
    }

    /// Takes the next 1024 bytes of the parent. True if no more are needed.
    pub fn push(&mut self, block_bytes: &[u8]) -> bool {
        let sum = block_bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if sum != 0 && self.sums < 4 {
            self.value |= u32::from(sum) << (u32::from(self.sums) * 8);
            self.sums = self.sums.saturating_add(1);
        }
        self.sums >= 4
    }

    /// The fingerprint of what was taken so far.
    pub const fn value(&self) -> u32 {
        self.value
    }
}

/// Reads the fingerprint of a plain parent. One that is all zeros is read to its end.
///
/// # Errors
/// The medium's.
pub fn fingerprint<S: ReadStorage>(storage: &S, scratch: &mut Page) -> Result<u32, S::Error> {
    let end = storage.len_bytes()? / UNIT * UNIT;
    let (mut print, mut at) = (Fingerprint::new(), 0_u64);
    while at < end {
        let len = usize::try_from(end.saturating_sub(at)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
        let Some(piece) = scratch.as_bytes_mut().get_mut(..len) else { break };
        storage.read_at(at, piece)?;
        if piece.as_chunks::<1024>().0.iter().any(|unit| print.push(unit)) {
            break;
        }
        at = at.saturating_add(len as u64);
    }
    Ok(print.value())
}
