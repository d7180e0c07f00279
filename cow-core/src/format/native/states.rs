//! Two bits per sector, scanned and set a word at a time.
//!
//! Sector n of an array is at byte n / 4, bits 2 (n % 4) and up [FORMAT 5.2]. Arrays are whole
//! little-endian 64-bit words of 32 sectors.

use crate::format::low_bits;

/// Ask the layer below.
pub(super) const ABSENT: u8 = 0;
/// In this layer's data area.
pub(super) const DATA: u8 = 1;
/// Reads as zeros.
pub(super) const ZERO: u8 = 2;

/// Sectors per word.
const SECTORS: usize = 32;
/// The low bit of every sector.
const LOW: u64 = 0x5555_5555_5555_5555;

/// Same state in every sector of a word.
const fn pattern(state: u8) -> u64 {
    (state as u64 & 3).wrapping_mul(LOW)
}

fn words(states: &[u8]) -> &[[u8; 8]] {
    states.as_chunks::<8>().0
}

/// Bits of the sectors of word `index` that are in the range of `count` sectors from `first`.
fn mask(index: usize, first: usize, count: usize) -> u64 {
    let start = index.saturating_mul(SECTORS);
    let from = first.saturating_sub(start).min(SECTORS);
    let to = first.saturating_add(count).saturating_sub(start).min(SECTORS);
    let below = |sector: usize| match u32::try_from(sector.saturating_mul(2)) {
        Ok(bits) => 1_u64.checked_shl(bits).map_or(u64::MAX, |bit| bit.wrapping_sub(1)),
        Err(_) => u64::MAX,
    };
    below(to) & !below(from)
}

/// Words that a range touches: the first, and how many.
fn touched(first: usize, count: usize) -> (usize, usize) {
    let start = first / SECTORS;
    let end = first.saturating_add(count).div_ceil(SECTORS);
    (start, end.saturating_sub(start))
}

/// State of sector `first`, and how many sectors from there on have it: at least 1 and at most
/// `count` if `count` is not 0. `None` outside the array.
pub(super) fn run(states: &[u8], first: usize, count: usize) -> Option<(u8, usize)> {
    let (head, tail) = words(states).get(first / SECTORS..)?.split_first()?;
    let within = first % SECTORS;
    let word = u64::from_le_bytes(*head) >> within.wrapping_mul(2);
    let [low, ..] = word.to_le_bytes();
    let state = low & 3;
    let pattern = pattern(state);
    // Shifted in zeros may look like a change of state behind the end of the word: cut there.
    let left = SECTORS.saturating_sub(within);
    let mut len = equal(word ^ pattern).min(left);
    if len == left {
        for word in tail {
            if len >= count {
                break;
            }
            let same = equal(u64::from_le_bytes(*word) ^ pattern);
            len = len.saturating_add(same);
            if same < SECTORS {
                break;
            }
        }
    }
    Some((state, len.min(count)))
}

/// Leading sectors without a difference.
fn equal(difference: u64) -> usize {
    (difference.trailing_zeros() / 2) as usize
}

/// Which of the sectors from `first` on, at most 64 and not beyond the array, are data, and which are
/// absent: a bit for each. Bits behind `count` are not set.
pub(super) fn split(states: &[u8], first: usize, count: usize) -> (u64, u64) {
    let (start, touch) = touched(first, count);
    let mut known = [(0, 0); 3];
    let words = words(states).iter().skip(start).take(touch);
    for ((data, absent), word) in known.iter_mut().zip(words) {
        let word = u64::from_le_bytes(*word);
        let (low, high) = (word & LOW, (word >> 1) & LOW);
        (*data, *absent) = (packed(low & !high), packed(LOW & !(low | high)));
    }
    let [(data0, absent0), (data1, absent1), (data2, absent2)] = known;
    let within = u32::try_from(first % SECTORS).unwrap_or(0);
    // What the third word holds lies above the 64 bits of the others.
    let above = u64::BITS.saturating_sub(within);
    let joined = |bits: [u64; 3]| {
        let [one, two, three] = bits;
        let all = (one | two << SECTORS) >> within | three.checked_shl(above).unwrap_or(0);
        all & low_bits(count as u64)
    };
    (joined([data0, data1, data2]), joined([absent0, absent1, absent2]))
}

/// Every other bit, from the lowest on, side by side.
const fn packed(bits: u64) -> u64 {
    let bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    let bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    let bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    let bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    (bits | bits >> 16) & 0xffff_ffff
}

/// How many sectors of a range are in each state: data, zero, corrupt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) data: usize,
    pub(super) zero: usize,
    pub(super) corrupt: usize,
}

/// Counts the states of `count` sectors from `first`.
pub(super) fn count(states: &[u8], first: usize, count: usize) -> Counts {
    let (start, touch) = touched(first, count);
    let mut counts = Counts::default();
    for (index, word) in words(states).iter().enumerate().skip(start).take(touch) {
        let word = u64::from_le_bytes(*word) & mask(index, first, count);
        let (low, high) = (word & LOW, (word >> 1) & LOW);
        counts.data = counts.data.wrapping_add((low & !high).count_ones() as usize);
        counts.zero = counts.zero.wrapping_add((high & !low).count_ones() as usize);
        counts.corrupt = counts.corrupt.wrapping_add((high & low).count_ones() as usize);
    }
    counts
}

/// Puts `count` sectors from `first` into a state.
pub(super) fn set(states: &mut [u8], first: usize, count: usize, state: u8) {
    let (start, touch) = touched(first, count);
    let pattern = pattern(state);
    let words = states.as_chunks_mut::<8>().0;
    for (index, word) in words.iter_mut().enumerate().skip(start).take(touch) {
        let mask = mask(index, first, count);
        let new = (u64::from_le_bytes(*word) & !mask) | (pattern & mask);
        *word = new.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The definition, one sector at a time.
    fn state_of(states: &[u8], sector: usize) -> u8 {
        (states[sector / 4] >> (2 * (sector % 4))) & 3
    }

    #[test]
    fn sector_n_is_at_byte_n_div_4() {
        let mut states = [0; 16];
        set(&mut states, 5, 1, DATA);
        set(&mut states, 7, 3, ZERO);
        assert_eq!(states[..4], [0, 0b1000_0100, 0b0000_1010, 0]);
        assert_eq!(run(&states, 5, 64), Some((DATA, 1)));
        assert_eq!(run(&states, 6, 64), Some((ABSENT, 1)));
        assert_eq!(run(&states, 7, 2), Some((ZERO, 2)));
        assert_eq!(run(&states, 10, 99), Some((ABSENT, 54)));
        assert_eq!(run(&states, 64, 1), None);
        assert_eq!(count(&states, 0, 64), Counts { data: 1, zero: 3, corrupt: 0 });
        states[15] = 0xff;
        assert_eq!(count(&states, 62, 1), Counts { data: 0, zero: 0, corrupt: 1 });
    }

    #[test]
    fn words_agree_with_sectors() {
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        let mut states = [0_u8; 40];
        let mut model: Vec<u8> = std::vec![0; 160];
        for _ in 0..20_000 {
            let first = random(160);
            let len = random(160 - first) + 1;
            let state = u8::try_from(random(3)).unwrap();
            set(&mut states, first, len, state);
            model[first..first + len].fill(state);
            let from = random(160);
            let most = random(160 - from) + 1;
            let expected = model[from..from + most].iter().take_while(|s| **s == model[from]);
            assert_eq!(run(&states, from, most), Some((model[from], expected.count())));
            let part = &model[from..from + most];
            let few = &part[..part.len().min(64)];
            let bits = |state| few.iter().rev().fold(0, |b, s| b << 1 | u64::from(*s == state));
            assert_eq!(split(&states, from, few.len()), (bits(DATA), bits(ABSENT)));
            let of = |state| part.iter().map(|s| usize::from(*s == state)).sum::<usize>();
            let counts = count(&states, from, most);
            assert_eq!((counts.data, counts.zero, counts.corrupt), (of(DATA), of(ZERO), 0));
        }
        assert!((0..160).all(|n| state_of(&states, n) == model[n]));
    }
}
