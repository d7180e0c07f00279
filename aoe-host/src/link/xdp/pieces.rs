//! Into which pieces a frame is divided. Pure.

use super::sender::CHUNK_LEN;

/// Most pieces of a frame that the kernel puts together.
pub(super) const PIECES_MAX: usize = 17;

/// Longest frame that is one piece: the kernel copies the first piece into memory that it looks for by
/// its length, where half a page more than this is twice as dear.
const ONE_PIECE_MAX: usize = 2048;

/// First piece of a longer frame: the headers of an answer, so that its data begin a page.
const FIRST_LEN: usize = 36;

/// Lengths of the pieces of a frame of `len` octets.
pub(super) fn lengths(len: usize) -> impl Iterator<Item = usize> {
    let first = if len <= ONE_PIECE_MAX { len } else { FIRST_LEN };
    let rest = len - first;
    let last = rest % CHUNK_LEN;
    let whole = core::iter::repeat_n(CHUNK_LEN, rest / CHUNK_LEN);
    [first].into_iter().chain(whole).chain([last]).filter(|len| *len > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_begin_a_piece_and_nothing_is_lost() {
        let of = |len| lengths(len).collect::<Vec<_>>();
        assert_eq!(of(60), [60]);
        assert_eq!(of(36 + 512), [36 + 512]);
        assert_eq!(of(2048), [2048]);
        assert_eq!(of(36 + 4096), [36, 4096]);
        assert_eq!(of(36 + 8192), [36, 4096, 4096]);
        assert_eq!(of(9014), [36, 4096, 4096, 786]);
        assert_eq!(of(0), [0; 0]);
        for len in 0..70_000 {
            assert_eq!(lengths(len).sum::<usize>(), len);
            assert!(lengths(len).all(|piece| piece <= CHUNK_LEN));
        }
        assert!(lengths(65_536 + 14).count() <= PIECES_MAX + 1);
    }
}
