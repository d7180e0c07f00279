//! What can be wrong with a cowfile, and one error per operation on it.

use core::fmt;

operation_error! {
    /// Why a cowfile could not be opened. Nothing was written.
    OpenError {
        /// The first four bytes are something else.
        NotCowloop {
            /// The first four bytes, little-endian.
            first_word: u32
        } => "no cowfile: it begins with {first_word:#010x}",
        /// Compressed by gzip, as `cowpack -z` does: unpack it with `gunzip` first.
        Gzipped => "the file is compressed by gzip: decompress it first",
        /// Emptying it ([`rollback`](super::rollback)) was cut short: do it again.
        BeingEmptied => "the cowfile is being emptied: roll it back again",
        /// Only version 1 exists.
        Version {
            /// What the head says.
            found: u16
        } => "the cowfile has version {found}, not 1",
        /// Only the flags 1 (dirty) and 2 (packed) exist.
        Flags {
            /// What the head says.
            found: u16
        } => "the cowfile has flags {found:#06x} that are unknown",
        /// Only 1024 was ever written.
        UnitSize {
            /// What the head says.
            bytes: u64
        } => "units of {bytes} bytes are not supported",
        /// The disk would be empty or larger than a disk can be.
        DiskSize {
            /// Units of 1024 bytes, as the head says.
            units: u64
        } => "no disk has {units} units",
        /// The bitmap is too small for the disk, or no multiple of 1024 bytes.
        MapSize {
            /// What the head says.
            bytes: u64,
            /// Bytes that the disk needs.
            needed: u64
        } => "a bitmap of {bytes} bytes, where the disk needs {needed}, is impossible",
        /// The data would begin inside the bitmap, off the sectors, or too far behind.
        DataOffset {
            /// What the head says.
            offset: u64
        } => "the data cannot begin at byte {offset}",
        /// The file ends before its bitmap does.
        Truncated {
            /// Bytes.
            needed: u64,
            /// Bytes that the file has.
            len: u64
        } => "the cowfile has {len} bytes and needs {needed}",
        /// It was not closed in order: [`repair`](super::repair) it.
        Dirty => "the cowfile was not closed in order: repair it",
        /// The head counts other units than the bitmap has: [`repair`](super::repair) it.
        WrongCount {
            /// According to the head.
            recorded: u64,
            /// According to the bitmap.
            found: u64
        } => "the head counts {recorded} units, the bitmap has {found}: repair the cowfile",
        /// To be written to: a packed cowfile must be unpacked first.
        Packed => "the cowfile is packed: unpack it before it is written to",
        /// To be written to: the file ends before data that its bitmap names. Making it longer
        /// would turn them into zeros.
        DataMissing {
            /// The first sector that is missing.
            sector: u64,
            /// How many are.
            sectors: u64
        } => "the cowfile ends before {sectors} sectors that it should hold, from {sector} on",
    }
}

operation_error! {
    /// Why a cowfile was not made. Unless the storage failed, nothing was written.
    CreateError {
        /// The disk is empty or larger than a disk can be.
        DiskSize {
            /// Units of 1024 bytes that were asked for.
            units: u64
        } => "no disk has {units} units",
        /// A head of 32-bit words has no room for such an offset or count.
        TooLarge {
            /// Units of 1024 bytes that were asked for.
            units: u64
        } => "a 32-bit cowfile cannot have {units} units",
    }
}

operation_error! {
    /// Why the index of a packed cowfile was not filled. The index memory holds nothing of use.
    LoadError {
        /// The index memory is too small.
        IndexTooSmall {
            /// Entries that would do.
            needed: u64
        } => "the index needs {needed} entries",
        /// The bitmap is not the one that was opened.
        Changed => "the cowfile changed while it was opened",
    }
}

/// Why [`pack`](super::pack) or [`unpack`](super::unpack) failed: which of the two storages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PackError<S, T> {
    /// The source is packed already, or is not packed.
    Form,
    /// Reading the source failed.
    Source(S),
    /// Writing the target failed; it is of no use.
    Target(T),
}

impl<S, T> fmt::Display for PackError<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the cowfile has that form already",
            Self::Source(_) => "the cowfile could not be read",
            Self::Target(_) => "the new cowfile could not be written",
        })
    }
}

impl<S, T> core::error::Error for PackError<S, T>
where
    S: core::error::Error + 'static,
    T: core::error::Error + 'static,
{
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Form => None,
            Self::Source(error) => Some(error),
            Self::Target(error) => Some(error),
        }
    }
}

operation_error! {
    /// Why a session was not recorded as closed in order.
    CloseError {
        /// The storage holds another cowfile now, or somebody else wrote its head.
        OtherImage => "the storage holds another cowfile now",
    }
}

/// Why something is not the parent that a cowfile was made over [COW 4.2].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ParentFault {
    /// Another size. Judged first.
    Size {
        /// Units of 1024 bytes, as recorded.
        expected: u64,
        /// Whole units found.
        found: u64,
    },
    /// Same size, other bytes at the start.
    Fingerprint {
        /// As recorded.
        expected: u32,
        /// As found.
        found: u32,
    },
}

impl fmt::Display for ParentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected, found } => {
                write!(f, "the parent has {found} units of 1024 bytes, recorded are {expected}")
            }
            Self::Fingerprint { expected, found } => write!(
                f,
                "the parent has the fingerprint {found:#010x}, recorded is {expected:#010x}"
            ),
        }
    }
}

impl core::error::Error for ParentFault {}
