//! What can be wrong with a store, and one error per operation on it.

use core::fmt;

/// A store that contradicts itself or does not fit its disk. Offsets are bytes of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The header says invalid: the kernel ran out of room or met an error, and later writes are
    /// missing.
    Invalidated,
    /// The exception names a chunk that the disk does not have: the store belongs to a larger disk.
    DiskChunkBeyondDisk {
        /// Of the exception.
        offset: u64,
        /// The chunk it names.
        disk_chunk: u64,
        /// Chunks of the disk.
        disk_chunks: u64,
    },
    /// The exception's data would be where the header or the list is.
    StoreChunkIsMetadata {
        /// Of the exception.
        offset: u64,
        /// The chunk it names.
        store_chunk: u64,
    },
    /// The exception's data would be behind the end of the store.
    StoreChunkBeyondStore {
        /// Of the exception.
        offset: u64,
        /// The chunk it names.
        store_chunk: u64,
        /// Whole chunks in the store.
        store_chunks: u64,
    },
    /// An earlier exception is about the same chunk of the disk.
    DiskChunkTwice {
        /// Of the later exception.
        offset: u64,
        /// The chunk that both name.
        disk_chunk: u64,
    },
    /// Another exception has its data in the same chunk of the store.
    StoreChunkTwice {
        /// Of the later exception.
        offset: u64,
        /// The chunk that both name.
        store_chunk: u64,
    },
    /// The list goes on in an area behind the end of the store.
    AreaMissing {
        /// Where the area would begin.
        offset: u64,
    },
    /// Old bytes lie behind the end of the list. Harmless to readers; a writer must clear them
    /// first ([`clear_stale`](super::clear_stale)), or they could become exceptions again.
    StaleEntries {
        /// Where the list ends.
        offset: u64,
    },
}

impl Fault {
    /// The content of the disk is not in doubt.
    pub const fn is_harmless(&self) -> bool {
        matches!(self, Self::StaleEntries { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalidated => {
                f.write_str("the store is marked invalid: writes made after that are missing")
            }
            Self::DiskChunkBeyondDisk { offset, disk_chunk, disk_chunks } => write!(
                f,
                "the exception at byte {offset} is about chunk {disk_chunk} of a disk with \
                 {disk_chunks} chunks"
            ),
            Self::StoreChunkIsMetadata { offset, store_chunk } => write!(
                f,
                "the exception at byte {offset} has its data in chunk {store_chunk}, which holds \
                 metadata"
            ),
            Self::StoreChunkBeyondStore { offset, store_chunk, store_chunks } => write!(
                f,
                "the exception at byte {offset} has its data in chunk {store_chunk} of a store \
                 with {store_chunks} chunks"
            ),
            Self::DiskChunkTwice { offset, disk_chunk } => write!(
                f,
                "the exception at byte {offset} is the second about chunk {disk_chunk} of the disk"
            ),
            Self::StoreChunkTwice { offset, store_chunk } => write!(
                f,
                "the exception at byte {offset} is the second with data in chunk {store_chunk}"
            ),
            Self::AreaMissing { offset } => write!(
                f,
                "the list of exceptions goes on at byte {offset}, behind the end of the store"
            ),
            Self::StaleEntries { offset } => {
                write!(f, "old bytes behind the end of the list at byte {offset}")
            }
        }
    }
}

impl core::error::Error for Fault {}

/// Index memory is too small; nothing of use is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IndexTooSmall {
    /// Entries that would do.
    pub needed: u64,
}

impl fmt::Display for IndexTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the index needs {} entries", self.needed)
    }
}

impl core::error::Error for IndexTooSmall {}

/// Why a loaded store cannot be written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RefuseWriting {
    /// The header says invalid. What the store holds can be copied out; the store itself can only
    /// be emptied ([`rollback`](super::rollback)).
    Invalidated,
    /// Call [`clear_stale`](super::clear_stale) first.
    StaleEntries {
        /// Byte of the store where the list ends.
        offset: u64,
    },
}

impl fmt::Display for RefuseWriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Invalidated => Fault::Invalidated.fmt(f),
            Self::StaleEntries { offset } => Fault::StaleEntries { offset }.fmt(f),
        }
    }
}

impl core::error::Error for RefuseWriting {}

operation_error! {
    /// Why [`create`](super::create) failed. Unless the storage failed, nothing was written.
    CreateError {
        /// Not a power of two from 1 to [`MAX_CHUNK_SECTORS`](super::MAX_CHUNK_SECTORS).
        ChunkSize {
            /// What was asked for.
            sectors: u32
        } => "{sectors} sectors are no chunk size: it must be a power of two from 1 to 2097152",
        /// No room for the header, one area and one chunk of data.
        TooShort {
            /// Bytes.
            needed: u64,
            /// Bytes that the storage has.
            len: u64
        } => "the store needs at least {needed} bytes and has {len}",
        /// The storage does not begin with zeros, so it may hold something;
        /// [`unmark`](super::unmark) gives that up.
        Occupied {
            /// The first four bytes, little-endian.
            first_word: u32
        } => "the storage begins with {first_word:#010x} instead of zeros: it may hold data",
    }
}

operation_error! {
    /// Why a store could not be opened. Nothing was written.
    OpenError {
        /// The scratch buffer is too small.
        BufferTooSmall {
            /// Bytes.
            needed: usize
        } => "the buffer needs {needed} bytes",
        /// The first four bytes are something else.
        NotAStore {
            /// The first four bytes, little-endian.
            first_word: u32
        } => "no dm-snapshot store: it begins with {first_word:#010x}",
        /// The first four bytes are zero: never used, or emptying it was cut short. The kernel
        /// takes it as an empty store; use [`create`](super::create) or
        /// [`rollback`](super::rollback).
        Blank => "the store begins with zeros: it was never used, or is being emptied",
        /// Only version 1 exists.
        Version {
            /// What the header says.
            found: u32
        } => "the store has version {found}, not 1",
        /// Not a power of two from 1 to [`MAX_CHUNK_SECTORS`](super::MAX_CHUNK_SECTORS).
        ChunkSize {
            /// What the header says.
            sectors: u32
        } => "the header says {sectors} sectors a chunk, which is no power of two from 1 to 2097152",
        /// The disk is empty or larger than a disk can be.
        DiskSize {
            /// What the caller said.
            sectors: u64
        } => "no disk has {sectors} sectors",
        /// The storage ends before the first area of the list does.
        TooShort {
            /// Bytes.
            needed: u64,
            /// Bytes that the storage has.
            len: u64
        } => "the store needs at least {needed} bytes and has {len}",
        /// The store contradicts itself.
        Fault {
            /// How.
            fault: Fault
        } => "{fault}",
    }
}

operation_error! {
    /// Why the list of exceptions could not be read.
    WalkError {
        /// The scratch buffer is too small.
        BufferTooSmall {
            /// Bytes.
            needed: usize
        } => "the buffer needs {needed} bytes",
        /// The store contradicts itself.
        Fault {
            /// How.
            fault: Fault
        } => "{fault}",
    }
}

operation_error! {
    /// Why [`load_index`](super::load_index) failed. The index memory holds nothing of use.
    LoadError {
        /// The scratch buffer is too small.
        BufferTooSmall {
            /// Bytes.
            needed: usize
        } => "the buffer needs {needed} bytes",
        /// The index memory is too small.
        IndexTooSmall {
            /// Entries that would do.
            needed: u64
        } => "the index needs {needed} entries",
        /// The list is not the one that was opened: somebody else writes to the store.
        Changed {
            /// Exceptions that were there when it was opened.
            opened: u64
        } => "the store had {opened} exceptions when it was opened, and was changed since",
        /// The store contradicts itself.
        Fault {
            /// How.
            fault: Fault
        } => "{fault}",
    }
}

operation_error! {
    /// Why [`check`](super::check) could not come to an end. (What it finds are no errors.)
    CheckError {
        /// The scratch buffer is too small.
        BufferTooSmall {
            /// Bytes.
            needed: usize
        } => "the buffer needs {needed} bytes",
        /// The index memory is too small.
        IndexTooSmall {
            /// Entries that would do.
            needed: u64
        } => "the index needs {needed} entries",
        /// Somebody writes to the store while it is checked.
        Changed => "the store changed while it was checked",
        /// There is no store to check.
        Header {
            /// What is wrong.
            reason: HeaderFault
        } => "{reason}",
    }
}

operation_error! {
    /// Why [`rollback`](super::rollback) or [`invalidate`](super::invalidate) failed. Unless the
    /// storage failed, nothing was written.
    RollbackError {
        /// There is no store.
        Header {
            /// What is wrong.
            reason: HeaderFault
        } => "{reason}",
    }
}

/// What is wrong with the header of a store: the cases of [`OpenError`] that only it can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderFault {
    /// As [`OpenError::NotAStore`].
    NotAStore {
        /// The first four bytes, little-endian.
        first_word: u32,
    },
    /// As [`OpenError::Blank`].
    Blank,
    /// As [`OpenError::Version`].
    Version {
        /// What the header says.
        found: u32,
    },
    /// As [`OpenError::ChunkSize`].
    ChunkSize {
        /// What the header says.
        sectors: u32,
    },
    /// As [`OpenError::DiskSize`].
    DiskSize {
        /// What the caller said.
        sectors: u64,
    },
    /// As [`OpenError::TooShort`].
    TooShort {
        /// Bytes.
        needed: u64,
        /// Bytes that the storage has.
        len: u64,
    },
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OpenError::<core::convert::Infallible>::from(*self).fmt(f)
    }
}

impl core::error::Error for HeaderFault {}

impl<E> From<HeaderFault> for OpenError<E> {
    fn from(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::NotAStore { first_word } => Self::NotAStore { first_word },
            HeaderFault::Blank => Self::Blank,
            HeaderFault::Version { found } => Self::Version { found },
            HeaderFault::ChunkSize { sectors } => Self::ChunkSize { sectors },
            HeaderFault::DiskSize { sectors } => Self::DiskSize { sectors },
            HeaderFault::TooShort { needed, len } => Self::TooShort { needed, len },
        }
    }
}
