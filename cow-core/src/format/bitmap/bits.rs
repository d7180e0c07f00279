//! One bit per unit, scanned and set a word at a time.
//!
//! Bit n of a page is at byte n / 8, value 1 << (n % 8): in little-endian 64-bit words, bit n % 64
//! of word n / 64.

use crate::format::low_bits;
use crate::pages::PAGE_LEN;

/// Bits in a page.
pub(crate) const PAGE_BITS: usize = PAGE_LEN * 8;

/// Bits per word.
const BITS: usize = 64;

fn words(page: &[u8; PAGE_LEN]) -> &[[u8; 8]] {
    page.as_chunks::<8>().0
}

/// The part of word `index` that is in the range of `count` bits from `first`.
fn mask(index: usize, first: usize, count: usize) -> u64 {
    let start = index.saturating_mul(BITS);
    let from = first.saturating_sub(start).min(BITS);
    let to = first.saturating_add(count).saturating_sub(start).min(BITS);
    below(to) & !below(from)
}

/// The lowest `bits` bits, at most 64.
fn below(bits: usize) -> u64 {
    let bit = u32::try_from(bits).ok().and_then(|bits| 1_u64.checked_shl(bits));
    bit.map_or(u64::MAX, |bit| bit.wrapping_sub(1))
}

/// Words that a range touches: the first, and how many.
fn touched(first: usize, count: usize) -> (usize, usize) {
    let start = first / BITS;
    let end = first.saturating_add(count).div_ceil(BITS);
    (start, end.saturating_sub(start))
}

/// Bit `first`, and how many bits from there on are like it: at least 1 and at most `count` if
/// `count` is not 0. Outside the page there is one bit that is not set.
pub(crate) fn run(page: &[u8; PAGE_LEN], first: usize, count: usize) -> (bool, usize) {
    let Some((head, tail)) = words(page).get(first / BITS..).and_then(<[_]>::split_first) else {
        return (false, count.min(1));
    };
    let within = first % BITS;
    let word = u64::from_le_bytes(*head) >> within;
    let set = word & 1 != 0;
    let like = if set { u64::MAX } else { 0 };
    // Shifted in zeros may look like a change behind the end of the word: cut there.
    let left = BITS.saturating_sub(within);
    let mut len = equal(word ^ like).min(left);
    if len == left {
        for word in tail {
            if len >= count {
                break;
            }
            let same = equal(u64::from_le_bytes(*word) ^ like);
            len = len.saturating_add(same);
            if same < BITS {
                break;
            }
        }
    }
    (set, len.min(count))
}

/// Leading bits without a difference.
fn equal(difference: u64) -> usize {
    difference.trailing_zeros() as usize
}

/// The bits from `first` on, at most 64; those behind `count` or the page are not set.
pub(crate) fn window(page: &[u8; PAGE_LEN], first: usize, count: usize) -> u64 {
    let mut words = words(page).iter().skip(first / BITS).map(|word| u64::from_le_bytes(*word));
    let (head, next) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    let within = u32::try_from(first % BITS).unwrap_or(0);
    let above = u64::BITS.saturating_sub(within);
    (head >> within | next.checked_shl(above).unwrap_or(0)) & low_bits(count as u64)
}

/// How many of `count` bits from `first` are set.
pub(crate) fn count(page: &[u8; PAGE_LEN], first: usize, count: usize) -> usize {
    let (start, touch) = touched(first, count);
    let words = words(page).iter().enumerate().skip(start).take(touch);
    words.fold(0, |sum, (index, word)| {
        let part = u64::from_le_bytes(*word) & mask(index, first, count);
        sum.wrapping_add(part.count_ones() as usize)
    })
}

/// Sets `count` bits from `first`.
pub(crate) fn set(page: &mut [u8; PAGE_LEN], first: usize, count: usize) {
    let (start, touch) = touched(first, count);
    let words = page.as_chunks_mut::<8>().0;
    for (index, word) in words.iter_mut().enumerate().skip(start).take(touch) {
        *word = (u64::from_le_bytes(*word) | mask(index, first, count)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_n_is_at_byte_n_div_8_lowest_first() {
        // [COW 1.2]: sectors 0, 7, 8 to 15, 63 and 64 give 81 ff 00 00 00 00 00 80 01.
        let mut page = [0; PAGE_LEN];
        for (first, len) in [(0, 1), (7, 9), (63, 2)] {
            set(&mut page, first, len);
        }
        assert_eq!(page[..10], [0x81, 0xff, 0, 0, 0, 0, 0, 0x80, 1, 0]);
        assert_eq!(run(&page, 0, 99), (true, 1));
        assert_eq!(run(&page, 1, 99), (false, 6));
        assert_eq!(run(&page, 7, 99), (true, 9));
        assert_eq!(run(&page, 7, 4), (true, 4));
        assert_eq!(run(&page, 63, 99), (true, 2));
        assert_eq!(run(&page, 65, PAGE_BITS), (false, PAGE_BITS - 65));
        assert_eq!(run(&page, PAGE_BITS, 5), (false, 1));
        assert_eq!((count(&page, 0, 64), count(&page, 8, 56)), (11, 9));
        assert_eq!((window(&page, 7, 12), window(&page, 63, 64)), (0b0001_1111_1111, 0b11));
        assert_eq!(window(&page, PAGE_BITS, 64), 0);
    }

    #[test]
    fn words_agree_with_bits() {
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % below as u64).unwrap()
        };
        for _ in 0..30 {
            let (mut page, mut model) = ([0; PAGE_LEN], std::vec![false; 400]);
            for _ in 0..40 {
                let first = random(400);
                let len = random((400 - first).min(30)) + 1;
                set(&mut page, first, len);
                model[first..first + len].fill(true);
                let from = random(400);
                let most = random(400 - from) + 1;
                let part = &model[from..from + most];
                let same = part.iter().take_while(|bit| **bit == part[0]).count();
                assert_eq!(run(&page, from, most), (part[0], same));
                assert_eq!(count(&page, from, most), part.iter().filter(|bit| **bit).count());
                let few = &part[..most.min(64)];
                let bits = few.iter().rev().fold(0, |bits, bit| bits << 1 | u64::from(*bit));
                assert_eq!(window(&page, from, few.len()), bits);
            }
            assert_eq!(count(&page, 400, PAGE_BITS), 0);
        }
    }
}
