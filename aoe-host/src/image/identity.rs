//! Recognising files: identities, hashes of content, fresh random names.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use cow_core::identity::{FileIdentity, LayerId, ParentIdentity, sample_hash};
use cow_core::pages::Page;
use cow_core::storage::ReadStorage;
use rustix::rand::GetRandomFlags;
use sha2::{Digest, Sha256};

use crate::error::{ErrorKind, HostError, Result};
use crate::storage::FileStorage;

/// Bytes read at a time when a whole image is read.
const PIECE_LEN: usize = 1 << 20;

/// Memory for one metadata page.
pub(crate) fn scratch_page() -> Box<Page> {
    Box::new(Page::ZERO)
}

/// What a file, all of it, is recognised by later [FORMAT 4.3]. The time of modification counts for
/// regular files only: a device node's says nothing about its content.
pub(crate) fn identity_of(file: &FileStorage) -> Result<ParentIdentity> {
    let file = &file.whole()?;
    let about = file.file().metadata();
    let about = about.map_err(|e| HostError::io(e, "examine").path(file.path()))?;
    let size_bytes = file.len_bytes()?;
    let has_time = !file.is_device();
    Ok(ParentIdentity::File(FileIdentity {
        size_bytes,
        mtime_s: if has_time { about.mtime() } else { 0 },
        mtime_ns: if has_time { u32::try_from(about.mtime_nsec()).unwrap_or(0) } else { 0 },
        sample: sample_hash(file, size_bytes, &mut scratch_page())?,
        content: None,
    }))
}

/// When a regular file was last modified, in whole seconds since 1970.
pub(crate) fn mtime_of(file: &FileStorage) -> Result<Option<i64>> {
    let about = file.file().metadata();
    let about = about.map_err(|e| HostError::io(e, "examine").path(file.path()))?;
    Ok((!file.is_device()).then(|| about.mtime()))
}

/// The first half of the SHA-256 of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// SHA-256 of the whole content. `progress` is told the bytes done now and then.
///
/// # Errors
/// The medium's.
pub fn full_hash(file: &FileStorage, progress: &mut dyn FnMut(u64)) -> Result<[u8; 32]> {
    let len = file.len_bytes()?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; PIECE_LEN];
    let mut at = 0;
    while at < len {
        let piece = piece_of(&mut buf, len - at);
        file.read_at(at, piece)?;
        hash.update(&piece);
        at += piece.len() as u64;
        progress(at);
    }
    Ok(hash.finalize().into())
}

/// Compares two files byte by byte: the first byte that differs, or is in one only.
///
/// # Errors
/// The medium's.
pub fn same_content(
    a: &FileStorage,
    b: &FileStorage,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<u64>> {
    let (len_a, len_b) = (a.len_bytes()?, b.len_bytes()?);
    let len = len_a.min(len_b);
    let (mut buf_a, mut buf_b) = (vec![0; PIECE_LEN], vec![0; PIECE_LEN]);
    let mut at = 0;
    while at < len {
        let (piece_a, piece_b) = (piece_of(&mut buf_a, len - at), piece_of(&mut buf_b, len - at));
        a.read_at(at, piece_a)?;
        b.read_at(at, piece_b)?;
        if let Some(differs) = piece_a.iter().zip(&*piece_b).position(|(a, b)| a != b) {
            return Ok(Some(at + differs as u64));
        }
        at += piece_a.len() as u64;
        progress(at);
    }
    Ok((len_a != len_b).then_some(len))
}

fn piece_of(buf: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    buf.get_mut(..len).unwrap_or_default()
}

/// Sixteen random bytes that no other layer has.
pub(crate) fn random_layer_id() -> Result<LayerId> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| HostError::io(io::Error::from(errno), "draw random bytes"))?;
    if got != bytes.len() || bytes == LayerId::NONE.0 {
        return Err(HostError::new(ErrorKind::Io, "draw random bytes"));
    }
    Ok(LayerId(bytes))
}

/// Seconds since 1970 by the system's clock.
pub(crate) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}
