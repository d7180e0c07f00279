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
