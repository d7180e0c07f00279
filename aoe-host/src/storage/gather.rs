//! Pieces that follow each other in a file, written by as few calls as it takes.

use std::io::IoSlice;

use rustix::io::Errno;

use super::error::StorageError;
use super::file::{FileResult, FileStorage, retry};
use crate::server::io::RUN_PIECES_MAX;

impl FileStorage {
    /// Writes pieces from `offset` on, each where the one before it ends, and tells of each in turn
    /// how that went. One that cannot be written does not keep those behind it from being
    /// written.
    pub(super) fn write_run(
        &self,
        offset: u64,
        pieces: &[&[u8]],
        ended: &mut dyn FnMut(usize, FileResult<()>),
    ) {
        let (mut next, mut at) = (0_usize, offset);
        while let Some(rest) = pieces.get(next..).filter(|rest| !rest.is_empty()) {
            let (written, failure) = self.write_pieces(at, rest);
            let failed = failure.map(Err);
            let outcomes = (0..written).map(|_| Ok(())).chain(failed);
            for (piece, outcome) in rest.iter().zip(outcomes) {
                ended(next, outcome);
                next = next.saturating_add(1);
                at = at.saturating_add(piece.len() as u64);
            }
        }
    }

    /// Writes pieces from `offset` on, each where the one before it ends: all of them, or it fails.
    ///
    /// # Errors
    /// As [`FileStorage::write`].
    pub(crate) fn write_gathered(&self, offset: u64, pieces: &[&[u8]]) -> FileResult<()> {
        let start = self.locate("write", offset, before(pieces, pieces.len()))?;
        let put = |slices: &[IoSlice<'_>], at| rustix::io::pwritev(self.file(), slices, at);
        gather(start, pieces, put).1.map_err(|errno| self.failed("write", offset, errno))
    }

    /// Writes pieces until one fails: how many were written, and why it was not the next. At least
    /// one has been tried.
    fn write_pieces(&self, offset: u64, pieces: &[&[u8]]) -> (usize, Option<StorageError>) {
        let len = before(pieces, pieces.len());
        let written = if self.is_direct() {
            self.write(offset, &pieces.concat()).map_or(0, |()| pieces.len())
        } else {
            let put = |slices: &[IoSlice<'_>], at| rustix::io::pwritev(self.file(), slices, at);
            self.locate("write", offset, len).map_or(0, |start| gather(start, pieces, put).0)
        };
        match pieces.get(written) {
            // By itself, for its own error, and in case that it was only too much at once.
            Some(next) => match self.write(offset.saturating_add(before(pieces, written)), next) {
                Ok(()) => (written.saturating_add(1), None),
                Err(error) => (written, Some(error)),
            },
            None => (written, None),
        }
    }
}

/// Bytes of the first `count` pieces.
fn before(pieces: &[&[u8]], count: usize) -> u64 {
    pieces.iter().take(count).map(|piece| piece.len() as u64).sum()
}

/// Has pieces put from byte `start` on, until all are or one cannot be: how many were put whole.
fn gather(
    start: u64,
    pieces: &[&[u8]],
    mut put: impl FnMut(&[IoSlice<'_>], u64) -> Result<usize, Errno>,
) -> (usize, Result<(), Errno>) {
    let (mut whole, mut within, mut at) = (0_usize, 0_usize, start);
    while let Some((first, others)) = pieces.get(whole..).and_then(<[_]>::split_first) {
        let begun = first.get(within..).unwrap_or_default();
        let mut slices = [IoSlice::new(&[]); RUN_PIECES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(core::iter::once(&begun).chain(others)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let len = match retry(|| put(slices, at)) {
            Ok(0) => return (whole, Err(Errno::NOSPC)),
            Ok(len) => len,
            Err(errno) => return (whole, Err(errno)),
        };
        at = at.saturating_add(len as u64);
        within = within.saturating_add(len);
        while let Some(piece) = pieces.get(whole)
            && within >= piece.len()
        {
            within = within.saturating_sub(piece.len());
            whole = whole.saturating_add(1);
        }
    }
    (whole, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;
    use crate::storage::{Access, FileOptions};

    fn pieces() -> Vec<Vec<u8>> {
        (1..=5).map(|n| vec![n; 512 * usize::from(n)]).collect()
    }

    fn as_slices(pieces: &[Vec<u8>]) -> Vec<&[u8]> {
        pieces.iter().map(Vec::as_slice).collect()
    }

    /// What a file holds then, how many pieces each call was given, and what came of it.
    type Put = (Vec<u8>, Vec<usize>, (usize, Result<(), Errno>));

    /// Puts at most `most` bytes a call, and what `fails` says not at all.
    fn put_with(most: usize, fails: impl Fn(u64) -> bool) -> Put {
        let (mut file, mut calls) = (vec![0; 10_000], Vec::new());
        let pieces = pieces();
        let result = gather(100, &as_slices(&pieces), |slices, at| {
            calls.push(slices.len());
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let len = bytes.len().min(most);
            let from = usize::try_from(at).unwrap();
            if let Some(bad) = (at..at + len as u64).find(|at| fails(*at)) {
                let len = usize::try_from(bad - at).unwrap();
                file[from..from + len].copy_from_slice(&bytes[..len]);
                return if len == 0 { Err(Errno::IO) } else { Ok(len) };
            }
            file[from..from + len].copy_from_slice(&bytes[..len]);
            Ok(len)
        });
        (file, calls, result)
    }

    #[test]
    fn one_call_puts_all() {
        let (file, calls, result) = put_with(usize::MAX, |_| false);
        assert_eq!((calls, result), (vec![5], (5, Ok(()))));
        assert_eq!(file[100..100 + 512 * 15], pieces().concat());
    }

    #[test]
    fn short_writes_are_gone_on_with() {
        for most in [1, 511, 512, 513, 700, 1024, 1536, 4096, 7000] {
            let (file, _, result) = put_with(most, |_| false);
            assert_eq!(result, (5, Ok(())), "{most}");
            assert_eq!(file[100..100 + 512 * 15], pieces().concat(), "{most}");
            assert!(file[..100].iter().chain(&file[100 + 512 * 15..]).all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_failure_tells_how_many_were_put() {
        // In the middle of the third piece, and at its first byte.
        for bad in [100 + 512 * 3 + 700, 100 + 512 * 3] {
            let (file, _, result) = put_with(usize::MAX, |at| at == bad);
            assert_eq!(result, (2, Err(Errno::IO)));
            assert_eq!(file[100..100 + 512 * 3], pieces()[..2].concat());
        }
        let nothing = gather(0, &[&[1; 512]], |_, _| Ok(0));
        assert_eq!(nothing, (0, Err(Errno::NOSPC)), "no room is no loop");
    }

    #[test]
    fn what_fails_fails_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        // Three pieces fit into the window.
        let window = Window { offset_bytes: 4096, len_bytes: Some(512 * 6 + 100) };
        let options = FileOptions { access: Access::ReadWrite, window, ..FileOptions::default() };
        let storage = FileStorage::open(file.path(), &options).unwrap();
        let pieces = pieces();
        let mut ended = Vec::new();
        storage.write_run(0, &as_slices(&pieces), &mut |at, result| ended.push((at, result)));
        let ended: Vec<(usize, bool)> = ended.iter().map(|(at, r)| (*at, r.is_ok())).collect();
        assert_eq!(ended, [(0, true), (1, true), (2, true), (3, false), (4, false)]);
        let mut expected = vec![0; 1 << 20];
        expected[4096..4096 + 512 * 6].copy_from_slice(&pieces[..3].concat());
        assert!(std::fs::read(file.path()).unwrap() == expected);
    }
}
