//! One error per operation on an image.

use core::fmt;

use super::header::HeaderFault;

operation_error! {
    /// Why an image could not be opened.
    OpenError {
        /// It is none, or none that can be read here.
        Header {
            /// Why.
            reason: HeaderFault
        } => "{reason}",
    }
}

operation_error! {
    /// Why an image could not be made.
    CreateError {
        /// Neither 2 nor 3.
        Version {
            /// What was asked for.
            asked: u32
        } => "version {asked} cannot be written",
        /// Not 9 to 21.
        ClusterBits {
            /// log2 of the bytes.
            asked: u8
        } => "clusters of 2^{asked} bytes do not exist",
        /// Not a power of two up to 64, or not 16 in version 2.
        RefcountBits {
            /// Bits.
            asked: u8
        } => "reference counts of {asked} bits do not exist in this version",
        /// No multiple of 512, 0, or too large for clusters of this size.
        DiskSize {
            /// Bytes.
            bytes: u64,
            /// Most for this cluster size.
            most: u64
        } => "a disk of {bytes} bytes does not fit: a multiple of 512 up to {most} does",
        /// The parent's name is empty, or too long to fit into the first cluster.
        BackingName {
            /// Most bytes of the name.
            most: u64
        } => "the parent's name must have 1 to {most} bytes",
        /// The name of the parent's format is empty or longer than 15 bytes.
        BackingFormat => "the parent's format must have 1 to 15 bytes",
    }
}

operation_error! {
    /// Why an image could not be opened for writing.
    OpenWritableError {
        /// It takes no writes.
        Refused {
            /// Why.
            reason: RefuseWriting
        } => "{reason}",
        /// The refcount table names a block that cannot be there.
        Corrupt {
            /// Byte offset in the image.
            offset: u64
        } => "the refcount table is corrupt at byte {offset}",
    }
}

operation_error! {
    /// Why the internal snapshots could not be listed.
    SnapshotError {
        /// The list contradicts itself or the image.
        Corrupt {
            /// Byte offset of the entry in the image.
            offset: u64
        } => "the list of snapshots is corrupt at byte {offset}",
    }
}

/// Why an image takes no writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RefuseWriting {
    /// It is marked corrupt: it may be read, and be written again after a repair.
    Corrupt,
    /// It is marked dirty: its reference counts may be too low until they are rebuilt.
    Dirty,
    /// Its L2 entries have subclusters; such images are only read here.
    Subclusters,
    /// The file ends before clusters that its tables name. Made longer, it would show zeros there.
    CutOff,
}

impl<E> From<HeaderFault> for OpenError<E> {
    fn from(reason: HeaderFault) -> Self {
        Self::Header { reason }
    }
}

impl fmt::Display for RefuseWriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt => f.write_str("the image is marked corrupt"),
            Self::Dirty => f.write_str("the image is marked dirty and must be repaired first"),
            Self::Subclusters => f.write_str("images with subclusters are not written"),
            Self::CutOff => f.write_str("the file ends before data that its tables name"),
        }
    }
}

impl core::error::Error for RefuseWriting {}
