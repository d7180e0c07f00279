//! Unpacking compressed units, and the few that were unpacked last.
//!
//! A unit is a cluster of 512 bytes to 2 MiB, and requests are often a kilobyte: without the last
//! units at hand, reading one from front to back would unpack it dozens of times. Units are only
//! ever read: no format that is written here writes compressed ones, so what is kept stays true.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cow_core::format::{Codec, Packed};
use cow_core::pages::StorageKey;
use cow_core::storage::ReadStorage;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::StreamingDecoder;

use super::{FileStorage, StorageError};

/// Units kept: a few clients read different clusters in turn. At most 8 MiB.
const KEPT: usize = 4;

/// Largest unit of any format.
const MAX_UNIT_LEN: u32 = 2 << 20;

/// Largest window of a Zstandard frame: RFC 8878 advises decoders to support 8 MiB, and no unit
/// has use for more.
const MAX_WINDOW_LEN: u64 = 8 << 20;

/// Bytes of one unit, or why there are none. Whoever wants them while they are being unpacked waits
/// for that.
type Unit = Arc<OnceLock<Result<Vec<u8>, StorageError>>>;

/// Which unit of which storage; `from` is 0.
type Name = (StorageKey, Packed);

/// Unpacks, and keeps a few units. Shared by the threads of a driver.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    /// Latest used last.
    kept: Mutex<Vec<(Name, Unit)>>,
}

impl Unpacker {
    /// Copies a part of a unit into `buf` if that unit is at hand. Never blocks for long.
    pub(super) fn copy_kept(&self, key: StorageKey, packed: &Packed, buf: &mut [u8]) -> bool {
        let name = name(key, packed);
        let mut kept = self.kept();
        let Some(at) = kept.iter().position(|(other, _)| *other == name) else { return false };
        let entry = kept.remove(at);
        let copied = match entry.1.get() {
            Some(Ok(unit)) => copy_part(unit, packed, buf),
            Some(Err(_)) | None => false,
        };
        kept.push(entry);
        copied
    }

    /// Fills `buf` with the bytes of a unit from `packed.from` on.
    pub(super) fn read(
        &self,
        key: StorageKey,
        file: &FileStorage,
        packed: &Packed,
        buf: &mut [u8],
    ) -> Result<(), StorageError> {
        let name = name(key, packed);
        let unit = self.unit(name);
        let unpacked = unit.get_or_init(|| unpack(file, packed));
        match unpacked {
            Ok(bytes) if copy_part(bytes, packed, buf) => Ok(()),
            Ok(_) => Err(file.damaged(packed.offset)),
            Err(error) => {
                // The medium may have been at fault: the next one tries again.
                self.kept().retain(|(_, kept)| !Arc::ptr_eq(kept, &unit));
                Err(error.clone())
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Name, Unit)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The unit of this name, perhaps still to be unpacked.
    fn unit(&self, name: Name) -> Unit {
        let mut kept = self.kept();
        let known = kept.iter().position(|(other, _)| *other == name).map(|at| kept.remove(at));
        let entry = known.unwrap_or_else(|| (name, Unit::default()));
        let unit = Arc::clone(&entry.1);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(entry);
        unit
    }
}

const fn name(key: StorageKey, packed: &Packed) -> Name {
    (key, Packed { from: 0, ..*packed })
}

fn copy_part(unit: &[u8], packed: &Packed, buf: &mut [u8]) -> bool {
    let part = unit.get(packed.from as usize..).and_then(|rest| rest.get(..buf.len()));
    part.map(|part| buf.copy_from_slice(part)).is_some()
}

/// Reads and unpacks a whole unit.
fn unpack(file: &FileStorage, packed: &Packed) -> Result<Vec<u8>, StorageError> {
    // The length is rounded up in the formats: the file may end before.
    let there = file.len_bytes()?.saturating_sub(packed.offset).min(u64::from(packed.len));
    let sane = packed.unit_len <= MAX_UNIT_LEN && packed.len <= MAX_UNIT_LEN.saturating_mul(2);
    let len = usize::try_from(there).unwrap_or(0);
    if !sane || len == 0 {
        return Err(file.damaged(packed.offset));
    }
    let mut bytes = vec![0; len];
    file.read_at(packed.offset, &mut bytes)?;
    let mut unit = vec![0; packed.unit_len as usize];
    let well = match packed.codec {
        Codec::Deflate => inflate(&bytes, &mut unit),
        Codec::Zstd => unpack_zstd(&bytes, &mut unit),
        _ => return Err(file.no_codec(packed.offset)),
    };
    if well { Ok(unit) } else { Err(file.damaged(packed.offset)) }
}

/// True if all of `unit` was filled. What follows in the stream does not matter, as with QEMU.
fn inflate(bytes: &[u8], unit: &mut [u8]) -> bool {
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (_status, _read, written) = decompress(&mut state, bytes, unit, 0, flags);
    written == unit.len()
}

fn unpack_zstd(bytes: &[u8], unit: &mut [u8]) -> bool {
    StreamingDecoder::new_with_max_window_size(bytes, MAX_WINDOW_LEN)
        .is_ok_and(|mut decoder| decoder.read_exact(unit).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Access, FileOptions};

    /// Raw deflate: one stored part of 512 bytes.
    fn stored(byte: u8) -> Vec<u8> {
        let mut bytes = vec![1, 0x00, 0x02, 0xff, 0xfd];
        bytes.extend([byte; 512]);
        bytes
    }

    /// A Zstandard frame: no checksum, single segment, 512 bytes, one run-length part.
    fn run_length(byte: u8) -> Vec<u8> {
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x01];
        let head: u32 = 512 << 3 | 1 << 1 | 1;
        bytes.extend(&head.to_le_bytes()[..3]);
        bytes.push(byte);
        bytes
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, FileStorage) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        let options = FileOptions { access: Access::ReadWrite, ..FileOptions::default() };
        let file = FileStorage::open(&path, &options).unwrap();
        (dir, file)
    }

    const KEY: StorageKey = StorageKey(3);

    fn packed(offset: u64, codec: Codec) -> Packed {
        Packed { offset, len: 1024, codec, unit_len: 512, from: 0 }
    }

    #[test]
    fn both_codecs_unpack_and_the_file_may_end_early() {
        let (_dir, file) = file(&[vec![0xee; 7], stored(5), run_length(9)].concat());
        let unpacker = Unpacker::default();
        let mut buf = [0; 512];
        unpacker.read(KEY, &file, &packed(7, Codec::Deflate), &mut buf).unwrap();
        assert_eq!(buf, [5; 512]);
        unpacker.read(KEY, &file, &packed(7 + 517, Codec::Zstd), &mut buf).unwrap();
        assert_eq!(buf, [9; 512]);
    }

    #[test]
    fn a_unit_at_hand_is_not_read_again() {
        let (dir, file) = file(&[stored(5), stored(6)].concat());
        let unpacker = Unpacker::default();
        let (mut buf, mut part) = ([0; 512], [0; 100]);
        let at = packed(0, Codec::Deflate);
        assert!(!unpacker.copy_kept(KEY, &at, &mut buf));
        unpacker.read(KEY, &file, &at, &mut buf).unwrap();
        std::fs::write(dir.path().join("image"), [0xff; 2048]).unwrap();
        assert!(unpacker.copy_kept(KEY, &Packed { from: 412, ..at }, &mut part));
        assert_eq!(part, [5; 100]);
        // Past the unit, of another storage, at another place: not at hand.
        assert!(!unpacker.copy_kept(KEY, &Packed { from: 413, ..at }, &mut part));
        assert!(!unpacker.copy_kept(StorageKey(4), &at, &mut part));
        assert!(!unpacker.copy_kept(KEY, &packed(517, Codec::Deflate), &mut part));
    }

    #[test]
    fn the_number_of_units_is_bounded_and_the_latest_stay() {
        let units: Vec<u8> = (0..10).flat_map(stored).collect();
        let (_dir, file) = file(&units);
        let unpacker = Unpacker::default();
        let mut buf = [0; 512];
        for n in 0..10 {
            unpacker.read(KEY, &file, &packed(n * 517, Codec::Deflate), &mut buf).unwrap();
            assert_eq!(u64::from(buf[0]), n);
            // The first one is used again and again.
            assert!(unpacker.copy_kept(KEY, &packed(0, Codec::Deflate), &mut buf));
        }
        assert_eq!(unpacker.kept().len(), KEPT);
        assert!(!unpacker.copy_kept(KEY, &packed(5 * 517, Codec::Deflate), &mut buf));
    }

    #[test]
    fn damage_is_told_and_not_kept() {
        use cow_core::engine::IoFailure;
        let (dir, file) = file(&[0xff; 600]);
        let unpacker = Unpacker::default();
        let mut buf = [0; 512];
        for codec in [Codec::Deflate, Codec::Zstd] {
            let error = unpacker.read(KEY, &file, &packed(0, codec), &mut buf).unwrap_err();
            assert_eq!(error.failure(), IoFailure::Damaged, "{error}");
        }
        let behind = unpacker.read(KEY, &file, &packed(600, Codec::Zstd), &mut buf);
        assert_eq!(behind.unwrap_err().failure(), IoFailure::Damaged);
        assert!(unpacker.kept().is_empty());
        std::fs::write(dir.path().join("image"), stored(1)).unwrap();
        unpacker.read(KEY, &file, &packed(0, Codec::Deflate), &mut buf).unwrap();
        // A frame that asks for more memory than any unit needs.
        std::fs::write(dir.path().join("image"), [0x28, 0xb5, 0x2f, 0xfd, 0, 0x78, 1, 0, 0])
            .unwrap();
        let greedy = unpacker.read(KEY, &file, &packed(0, Codec::Zstd), &mut buf);
        assert_eq!(greedy.unwrap_err().failure(), IoFailure::Damaged);
    }
}
