//! What can be wrong with a UML COW file, and one error per operation on it.

use core::fmt;

operation_error! {
    /// Why a file could not be opened. Nothing was written.
    OpenError {
        /// The first four bytes are something else.
        NotUml {
            /// The first four bytes, big-endian.
            first_word: u32
        } => "no UML COW file: it begins with {first_word:#010x}",
        /// Emptying it ([`rollback`](super::rollback)) was cut short: do it again.
        BeingEmptied => "the file is being emptied: roll it back again",
        /// Only versions 1 to 3 exist.
        Version {
            /// What the header says, in the order of the bytes that its magic has.
            found: u32
        } => "version {found} of the format is unknown",
        /// Only 512 was ever written.
        SectorSize {
            /// What the header says.
            found: u32
        } => "sectors of {found} bytes are not supported",
        /// The disk would be empty or larger than a disk can be.
        DiskSize {
            /// What the header says.
            bytes: u64
        } => "no disk has {bytes} bytes",
        /// Not a power of two from 512 to 1 MiB.
        Alignment {
            /// What the header says.
            found: u32
        } => "{found} is no alignment: it must be a power of two from 512 to 1048576",
        /// Only 0, a bitmap, was ever defined.
        MapKind {
            /// What the header says.
            found: u32
        } => "kind {found} of map is unknown",
        /// The file ends before its header or its bitmap does.
        Truncated {
            /// Bytes.
            needed: u64,
            /// Bytes that the file has.
            len: u64
        } => "the file has {len} bytes and needs {needed} for its bitmap alone",
        /// To be written to: the file ends before data that its bitmap names. Making it longer
        /// would turn them into zeros.
        DataMissing {
            /// The first sector that is missing.
            sector: u64,
            /// How many are.
            sectors: u64
        } => "the file ends before {sectors} sectors that it should hold, from {sector} on",
    }
}

operation_error! {
    /// Why a file was not made. Unless the storage failed, nothing was written.
    CreateError {
        /// The disk is empty or larger than a disk can be.
        DiskSize {
            /// What was asked for.
            bytes: u64
        } => "no disk has {bytes} bytes",
        /// In versions 1 and 2 the last sectors of this disk would have no bit [COW 1.2].
        NoBit {
            /// How many.
            sectors: u64
        } => "this version has no bit for the last {sectors} sectors of such a disk; use version 3",
        /// Not a power of two from 512 to 1 MiB.
        Alignment {
            /// What was asked for.
            found: u32
        } => "{found} is no alignment: it must be a power of two from 512 to 1048576",
        /// The path of the parent does not fit.
        Path {
            /// Why.
            reason: PathFault
        } => "{reason}",
    }
}

operation_error! {
    /// Why the parent's name could not be read or was not changed.
    PathError {
        /// The path itself.
        Path {
            /// Why.
            reason: PathFault
        } => "{reason}",
        /// The lent memory is too small.
        BufferTooSmall {
            /// Bytes.
            needed: usize
        } => "the path needs {needed} bytes",
        /// The parent has not as many sectors as the disk.
        Sectors {
            /// Of the disk.
            expected: u64,
            /// Of the parent.
            found: u64
        } => "it is for a parent of {expected} sectors, and this one has {found}",
    }
}

operation_error! {
    /// Why [`rollback`](super::rollback) failed. Unless the storage failed, nothing was written.
    RollbackError {
        /// There is nothing to empty.
        Header {
            /// What is wrong.
            reason: OpenError<core::convert::Infallible>
        } => "{reason}",
    }
}

/// What is wrong with the path of a parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PathFault {
    /// It is empty.
    Empty,
    /// It has no end in its field, or does not fit into it.
    TooLong {
        /// Longest path in bytes.
        most: usize,
    },
    /// It contains a NUL.
    Nul,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the path of the parent is empty"),
            Self::TooLong { most } => {
                write!(f, "the path of the parent has more than {most} bytes")
            }
            Self::Nul => f.write_str("the path of the parent contains a NUL"),
        }
    }
}

impl core::error::Error for PathFault {}

/// Why a file is not the parent that an image was made over [COW 1.3].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ParentFault {
    /// Another size. Judged first.
    Size {
        /// Bytes, as recorded.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Same size, modified since.
    Modified {
        /// Seconds since 1970 modulo 2^32, as recorded.
        expected_s: u32,
        /// The same, as found.
        found_s: u32,
    },
}

impl fmt::Display for ParentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected, found } => {
                write!(f, "the parent has {found} bytes, recorded are {expected}")
            }
            Self::Modified { expected_s, found_s } => write!(
                f,
                "the parent was modified at {found_s}, recorded is {expected_s} (seconds since 1970)"
            ),
        }
    }
}

impl core::error::Error for ParentFault {}

impl<E> OpenError<E> {
    /// The error without the storage's own, or that one.
    pub(super) fn of_header(self) -> Result<OpenError<core::convert::Infallible>, E> {
        Ok(match self {
            Self::NotUml { first_word } => OpenError::NotUml { first_word },
            Self::BeingEmptied => OpenError::BeingEmptied,
            Self::Version { found } => OpenError::Version { found },
            Self::SectorSize { found } => OpenError::SectorSize { found },
            Self::DiskSize { bytes } => OpenError::DiskSize { bytes },
            Self::Alignment { found } => OpenError::Alignment { found },
            Self::MapKind { found } => OpenError::MapKind { found },
            Self::Truncated { needed, len } => OpenError::Truncated { needed, len },
            Self::DataMissing { sector, sectors } => OpenError::DataMissing { sector, sectors },
            Self::Storage(error) => return Err(error),
        })
    }
}
