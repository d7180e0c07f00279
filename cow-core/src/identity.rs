//! Who a layer is, and whether what lies below an overlay is still what it was made over.

use core::fmt;

use sha2::{Digest, Sha256};

use crate::pages::{PAGE_LEN, Page};
use crate::storage::ReadStorage;

/// Identity of a layer: sixteen random bytes that the caller draws. A frozen layer's names one
/// content for ever; whoever changes the content gives a new one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct LayerId(pub [u8; 16]);

impl LayerId {
    /// All zeros, which no layer has: random bytes that were forgotten.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a plain file is recognised by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileIdentity {
    /// Length in bytes.
    pub size_bytes: u64,
    /// Time of last modification: whole seconds since 1970.
    pub mtime_s: i64,
    /// Nanoseconds on top, below 1,000,000,000.
    pub mtime_ns: u32,
    /// [`sample_hash`] of the content.
    pub sample: [u8; 32],
    /// SHA-256 of the whole content, where somebody took the time.
    pub content: Option<[u8; 32]>,
}

/// What an overlay lies on, as recorded in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum ParentIdentity {
    /// Nothing: absent sectors read as zeros.
    #[default]
    None,
    /// A frozen layer that carries an identity of its own.
    Layer(LayerId),
    /// Anything else.
    File(FileIdentity),
}

/// Why something is not the parent that an overlay was made over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ParentMismatch {
    /// The overlay has a parent and was given none.
    Missing,
    /// The overlay has no parent and was given one.
    Unexpected,
    /// A layer instead of a plain file, or the reverse.
    Kind,
    /// Another layer.
    Layer {
        /// Recorded in the overlay.
        expected: LayerId,
        /// Found.
        found: LayerId,
    },
    /// The file lost bytes.
    Shorter {
        /// Bytes, as recorded in the overlay.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The file gained bytes.
    Longer {
        /// Bytes, as recorded in the overlay.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Same length, other bytes.
    Content,
    /// Length and sampled bytes are the same, the time of modification is not. Equal content may be
    /// accepted after a full comparison.
    Modified {
        /// Recorded in the overlay, in seconds since 1970.
        expected_s: i64,
        /// Found, in seconds since 1970.
        found_s: i64,
    },
}

impl fmt::Display for ParentMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the overlay needs a parent"),
            Self::Unexpected => f.write_str("the overlay was made without a parent"),
            Self::Kind => f.write_str("the parent is of another kind than recorded"),
            Self::Layer { expected, found } => {
                write!(f, "the parent is layer {found}, recorded is {expected}")
            }
            Self::Shorter { expected, found } => {
                write!(f, "the parent has {found} bytes, fewer than the {expected} recorded")
            }
            Self::Longer { expected, found } => {
                write!(f, "the parent has {found} bytes, more than the {expected} recorded")
            }
            Self::Content => f.write_str("the parent's content differs from what was recorded"),
            Self::Modified { expected_s, found_s } => write!(
                f,
                "the parent was modified at {found_s}, recorded is {expected_s} (seconds since 1970)"
            ),
        }
    }
}

impl core::error::Error for ParentMismatch {}

impl ParentIdentity {
    /// Compares what is recorded with what is there now. A content hash counts only if both have one.
    ///
    /// # Errors
    /// The gravest difference: [`ParentMismatch::Modified`] means that nothing else differs.
    pub fn matches(&self, found: &Self) -> Result<(), ParentMismatch> {
        match (self, found) {
            (Self::None, Self::None) => Ok(()),
            (_, Self::None) => Err(ParentMismatch::Missing),
            (Self::None, _) => Err(ParentMismatch::Unexpected),
            (Self::Layer(expected), Self::Layer(found)) if expected == found => Ok(()),
            (Self::Layer(expected), Self::Layer(found)) => {
                Err(ParentMismatch::Layer { expected: *expected, found: *found })
            }
            (Self::File(expected), Self::File(found)) => expected.matches(found),
            (Self::Layer(_), Self::File(_)) | (Self::File(_), Self::Layer(_)) => {
                Err(ParentMismatch::Kind)
            }
        }
    }
}

impl FileIdentity {
    fn matches(&self, found: &Self) -> Result<(), ParentMismatch> {
        let (expected, size) = (self.size_bytes, found.size_bytes);
        if size < expected {
            return Err(ParentMismatch::Shorter { expected, found: size });
        }
        if size > expected {
            return Err(ParentMismatch::Longer { expected, found: size });
        }
        let other = matches!((self.content, found.content), (Some(a), Some(b)) if a != b);
        if other || self.sample != found.sample {
            return Err(ParentMismatch::Content);
        }
        if (self.mtime_s, self.mtime_ns) != (found.mtime_s, found.mtime_ns) {
            return Err(ParentMismatch::Modified {
                expected_s: self.mtime_s,
                found_s: found.mtime_s,
            });
        }
        Ok(())
    }
}

/// Most pieces that [`sample_hash`] reads.
pub const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = PAGE_LEN as u64;

/// What [`sample_hash`] hashes first: the name of the method and its version.
const SAMPLE_NAME: &[u8; 16] = b"cowblade sample1";

/// Hash of at most 64 pieces of 4 KiB out of the first `len` bytes of a storage: cheap, and enough
/// to tell two images apart that were not made to deceive [FORMAT 4.3].
///
/// # Errors
/// The medium's.
pub fn sample_hash<S: ReadStorage>(
    storage: &S,
    len: u64,
    scratch: &mut Page,
) -> Result<[u8; 32], S::Error> {
    let mut hash = Sha256::new();
    hash.update(SAMPLE_NAME);
    hash.update(len.to_le_bytes());
    for number in 0..SAMPLES {
        let Some((offset, bytes)) = sample(len, number) else { break };
        let bytes = usize::try_from(bytes).unwrap_or(PAGE_LEN);
        let Some(piece) = scratch.as_bytes_mut().get_mut(..bytes) else { break };
        storage.read_at(offset, piece)?;
        hash.update(offset.to_le_bytes());
        hash.update(piece);
    }
    Ok(hash.finalize().into())
}

/// Offset and length of sample `number`. Up to 256 KiB the samples cover everything; beyond, they
/// are spread evenly on multiples of 4 KiB, and the last one ends with the last byte.
fn sample(len: u64, number: u64) -> Option<(u64, u64)> {
    if len <= SAMPLES * SAMPLE_BYTES {
        let offset = number.wrapping_mul(SAMPLE_BYTES);
        let left = len.checked_sub(offset).filter(|left| *left > 0)?;
        return Some((offset, left.min(SAMPLE_BYTES)));
    }
    let last = len.wrapping_sub(SAMPLE_BYTES);
    let gaps = SAMPLES - 1;
    if number == gaps {
        return Some((last, SAMPLE_BYTES));
    }
    // last * number / gaps without overflow.
    let even = (last / gaps).wrapping_mul(number);
    let offset = even.wrapping_add((last % gaps).wrapping_mul(number) / gaps);
    Some((offset & !(SAMPLE_BYTES - 1), SAMPLE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::convert::Infallible;
    use std::vec::Vec;

    const FILE: FileIdentity = FileIdentity {
        size_bytes: 1000,
        mtime_s: 50,
        mtime_ns: 7,
        sample: [1; 32],
        content: Some([2; 32]),
    };

    #[test]
    fn the_gravest_difference_is_named() {
        let recorded = ParentIdentity::File(FILE);
        let against = |found| recorded.matches(&ParentIdentity::File(found));
        assert_eq!(against(FILE), Ok(()));
        assert_eq!(against(FileIdentity { content: None, ..FILE }), Ok(()));
        let modified = FileIdentity { mtime_ns: 8, ..FILE };
        let expected = ParentMismatch::Modified { expected_s: 50, found_s: 50 };
        assert_eq!(against(modified), Err(expected));
        let content = Err(ParentMismatch::Content);
        assert_eq!(against(FileIdentity { sample: [3; 32], ..modified }), content);
        assert_eq!(against(FileIdentity { content: Some([3; 32]), ..FILE }), content);
        let shorter = FileIdentity { size_bytes: 999, sample: [3; 32], ..modified };
        let expected = ParentMismatch::Shorter { expected: 1000, found: 999 };
        assert_eq!(against(shorter), Err(expected));
        let longer = FileIdentity { size_bytes: 1001, ..FILE };
        let expected = ParentMismatch::Longer { expected: 1000, found: 1001 };
        assert_eq!(against(longer), Err(expected));
    }

    #[test]
    fn kinds_are_told_apart() {
        let (a, b) = (LayerId([1; 16]), LayerId([2; 16]));
        let layer = ParentIdentity::Layer(a);
        let file = ParentIdentity::File(FILE);
        assert_eq!(layer.matches(&layer), Ok(()));
        assert_eq!(ParentIdentity::None.matches(&ParentIdentity::None), Ok(()));
        let expected = ParentMismatch::Layer { expected: a, found: b };
        assert_eq!(layer.matches(&ParentIdentity::Layer(b)), Err(expected));
        assert_eq!(layer.matches(&file), Err(ParentMismatch::Kind));
        assert_eq!(file.matches(&layer), Err(ParentMismatch::Kind));
        assert_eq!(file.matches(&ParentIdentity::None), Err(ParentMismatch::Missing));
        assert_eq!(ParentIdentity::None.matches(&file), Err(ParentMismatch::Unexpected));
        assert_eq!(std::format!("{a}"), "01".repeat(16));
    }

    /// Byte n is a function of n; one byte may differ.
    struct Pattern {
        len: u64,
        changed: Option<u64>,
    }

    impl embedded_io::ErrorType for Pattern {
        type Error = Infallible;
    }

    impl ReadStorage for Pattern {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Infallible> {
            assert!(offset + buf.len() as u64 <= self.len, "reads behind the end");
            for (at, byte) in (offset..).zip(buf) {
                let [low, ..] = (at ^ (at >> 9)).to_le_bytes();
                *byte = low ^ u8::from(self.changed == Some(at));
            }
            Ok(())
        }

        fn len_bytes(&self) -> Result<u64, Infallible> {
            Ok(self.len)
        }
    }

    fn hash(len: u64, changed: Option<u64>) -> [u8; 32] {
        sample_hash(&Pattern { len, changed }, len, &mut Page::ZERO.clone()).unwrap()
    }

    #[test]
    fn samples_cover_small_files_and_both_ends_of_large_ones() {
        let whole = SAMPLES * SAMPLE_BYTES;
        for len in [1, 511, 4096, 4097, whole - 1, whole] {
            for at in [0, len / 2, len - 1] {
                assert_ne!(hash(len, None), hash(len, Some(at)), "{at} of {len}");
            }
        }
        for len in [whole + 1, 1 << 30, (1 << 57) - 3] {
            for at in [0, 4095, len - 4096, len - 1] {
                assert_ne!(hash(len, None), hash(len, Some(at)), "{at} of {len}");
            }
        }
        assert_ne!(hash(4096, None), hash(4097, None));
        let all: Vec<_> = (0..SAMPLES).map_while(|n| sample((1 << 57) - 3, n)).collect();
        assert_eq!(all.len(), 64);
        assert!(all.windows(2).all(|w| w[0].0 + 4096 <= w[1].0));
        assert_eq!(sample(5000, 1), Some((4096, 904)));
        assert_eq!((sample(5000, 2), sample(0, 0)), (None, None));
    }

    #[test]
    fn the_hash_is_the_documented_one() {
        let mut input: Vec<u8> = b"cowblade sample1".to_vec();
        input.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        input.extend([0; 8]);
        input.extend([0, 1, 2]);
        let expected: [u8; 32] = Sha256::digest(&input).into();
        assert_eq!(hash(3, None), expected);
    }
}
