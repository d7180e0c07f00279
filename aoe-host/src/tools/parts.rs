//! Bytes of a disk, taken apart into data, zeros, and what need not be touched.

use cow_core::units::SECTOR_LEN;

/// Zeros are kept as holes from so many sectors on: 4 KiB, aligned, what file systems give back.
const GRAIN_SECTORS: u64 = 8;

/// What is to become of some sectors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// They hold something.
    Data,
    /// They are zeros.
    Zeros,
    /// They are what they should be.
    Same,
}

/// A run of sectors within a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part {
    /// First sector, counted from the start of the buffer.
    pub(super) from: usize,
    /// At least 1.
    pub(super) sectors: usize,
    pub(super) content: Content,
}

impl Part {
    /// Its bytes in the buffer.
    pub(super) fn of<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        let from = self.from.saturating_mul(SECTOR_LEN);
        let len = self.sectors.saturating_mul(SECTOR_LEN);
        buf.get(from..from.saturating_add(len)).unwrap_or_default()
    }
}

/// Every byte is 0.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Most data show themselves at once; the rest is written so that the compiler can use wide words.
    let (first, rest) = bytes.split_at(bytes.len().min(64));
    let none = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    none(first) && rest.chunks(1024).all(none)
}

/// Data and zeros of whole sectors, of which the first is sector `start` of the disk.
pub(super) fn data_and_zeros(start: u64, bytes: &[u8], parts: &mut Vec<Part>) {
    parts.clear();
    let mut rest = bytes;
    let mut at = start;
    while !rest.is_empty() {
        let sectors = GRAIN_SECTORS.saturating_sub(at % GRAIN_SECTORS);
        let len = usize::try_from(sectors).unwrap_or(1).saturating_mul(SECTOR_LEN);
        let (piece, after) = rest.split_at(len.min(rest.len()));
        push(parts, piece.len() / SECTOR_LEN, content_of(piece));
        at = at.saturating_add(sectors);
        rest = after;
    }
}

/// Where `new` is not what `old` is. Both are whole sectors and equally long.
pub(super) fn changes(new: &[u8], old: &[u8], parts: &mut Vec<Part>) {
    parts.clear();
    if new == old {
        return push(parts, new.len() / SECTOR_LEN, Content::Same);
    }
    for (new, old) in new.chunks(SECTOR_LEN).zip(old.chunks(SECTOR_LEN)) {
        let content = if new == old { Content::Same } else { content_of(new) };
        push(parts, 1, content);
    }
}

fn content_of(bytes: &[u8]) -> Content {
    if is_zero(bytes) { Content::Zeros } else { Content::Data }
}

fn push(parts: &mut Vec<Part>, sectors: usize, content: Content) {
    match parts.last_mut() {
        Some(last) if last.content == content => {
            last.sectors = last.sectors.saturating_add(sectors);
        }
        last => {
            let from = last.map_or(0, |last| last.from.saturating_add(last.sectors));
            parts.push(Part { from, sectors, content });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(parts: &[Part]) -> Vec<(usize, usize, char)> {
        let letter = |content| match content {
            Content::Data => 'd',
            Content::Zeros => 'z',
            Content::Same => '=',
        };
        parts.iter().map(|p| (p.from, p.sectors, letter(p.content))).collect()
    }

    #[test]
    fn zeros_are_seen_at_every_place() {
        assert!(is_zero(&[]) && is_zero(&[0; 5000]));
        for at in [0, 63, 64, 1023, 1087, 1088, 4999] {
            let mut bytes = [0; 5000];
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
        }
    }

    #[test]
    fn zeros_count_in_aligned_pieces() {
        let mut bytes = vec![0; 30 * 512];
        bytes[7 * 512] = 1;
        let mut parts = Vec::new();
        data_and_zeros(3, &bytes, &mut parts);
        // Sectors 3 to 7, 8 to 15, 16 to 23, 24 to 31, 32.
        assert_eq!(told(&parts), [(0, 5, 'z'), (5, 8, 'd'), (13, 17, 'z')]);
        assert_eq!(parts[1].of(&bytes), &bytes[5 * 512..13 * 512]);
        data_and_zeros(0, &[1; 512], &mut parts);
        assert_eq!(told(&parts), [(0, 1, 'd')]);
    }

    #[test]
    fn changes_count_in_sectors() {
        let old = vec![3; 5 * 512];
        let mut new = old.clone();
        new[512..1024].fill(0);
        new[4 * 512 - 1] = 9;
        let mut parts = Vec::new();
        changes(&new, &old, &mut parts);
        assert_eq!(told(&parts), [(0, 1, '='), (1, 1, 'z'), (2, 1, '='), (3, 1, 'd'), (4, 1, '=')]);
        changes(&old, &old, &mut parts);
        assert_eq!(told(&parts), [(0, 5, '=')]);
    }
}
