//! The four headers [COW 1.1]: which fields there are, where, and in which order of bytes.

use super::error::{OpenError, PathFault};
use crate::format::bitmap::Geometry;
use crate::storage::{ReadStorage, Storage};
use crate::units::{MAX_SECTORS, SECTOR_BYTES};

/// `OOOM`
const MAGIC: u32 = 0x4f4f_4f4d;

/// Set in the version while the file is being emptied; no reader knows such a version.
pub(super) const EMPTYING: u32 = 1 << 31;

/// Sector size of every writer.
const SECTOR_SIZE: u32 = 512;

/// Largest alignment that is believed.
pub(super) const MAX_ALIGNMENT: u32 = 1 << 20;

/// Bytes that are read to tell everything but a tail: up to the path in version 3.
pub(super) const HEAD_LEN: usize = 36;

/// Bytes of the fields behind the path in versions 1 and 2.
const TAIL_LEN: usize = 16;

/// Which of the four headers a file has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Version {
    /// Fields in the order of bytes of the machine that wrote it; a path of 255 bytes.
    V1,
    /// Big-endian, a path of 4095 bytes; the bitmap as in version 1.
    V2,
    /// Aligned bitmap and data, and a bit for every sector.
    V3,
    /// Version 3 as 64-bit programs wrote it until December 2005: with four bytes of padding.
    V3Padded,
}

impl Version {
    /// The number in the header.
    pub const fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 | Self::V3Padded => 3,
        }
    }

    /// Bytes of the header.
    const fn header_len(self) -> u64 {
        match self {
            Self::V1 => 280,
            Self::V2 => 4120,
            Self::V3 => 4128,
            Self::V3Padded => 4136,
        }
    }

    /// Where the path is, and how long its field is.
    pub(super) const fn path_field(self) -> (u64, usize) {
        match self {
            Self::V1 => (8, 256),
            Self::V2 => (8, 4096),
            Self::V3 => (32, 4096),
            Self::V3Padded => (36, 4096),
        }
    }

    /// Longest path in bytes: the field ends with a NUL.
    pub const fn path_most(self) -> usize {
        self.path_field().1.saturating_sub(1)
    }

    /// Where mtime, size and sector size are in versions 1 and 2.
    const fn tail_offset(self) -> u64 {
        match self {
            Self::V1 => 264,
            _ => 4104,
        }
    }

    const fn is_aligned(self) -> bool {
        matches!(self, Self::V3 | Self::V3Padded)
    }
}

/// Order of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// Least significant first.
    Little,
    /// Most significant first.
    Big,
}

impl Order {
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }

    fn put(self, word: u32) -> [u8; 4] {
        match self {
            Self::Little => word.to_le_bytes(),
            Self::Big => word.to_be_bytes(),
        }
    }

    fn put_long(self, word: u64) -> [u8; 8] {
        match self {
            Self::Little => word.to_le_bytes(),
            Self::Big => word.to_be_bytes(),
        }
    }
}

/// All fields but the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) version: Version,
    /// Of magic and version.
    pub(super) order: Order,
    /// Of the other fields; differs from `order` in some files of version 1.
    pub(super) tail_order: Order,
    pub(super) mtime_s: u32,
    pub(super) size_bytes: u64,
    /// Of bitmap and data in version 3.
    pub(super) alignment: u32,
}

/// Which file it is, from the first bytes.
pub(super) struct Kind {
    version: Version,
    order: Order,
    pub(super) emptying: bool,
}

impl Kind {
    pub(super) fn parse<E>(head: &[u8; HEAD_LEN]) -> Result<Self, OpenError<E>> {
        let first_word = Order::Big.u32(field(head, 0));
        let order = match first_word {
            MAGIC => Order::Big,
            _ if first_word.swap_bytes() == MAGIC => Order::Little,
            _ => return Err(OpenError::NotUml { first_word }),
        };
        let found = order.u32(field(head, 4));
        let version = match (found & !EMPTYING, order) {
            (1, _) => Version::V1,
            (2, Order::Big) => Version::V2,
            // A path never begins with NUL, the kind of map always does.
            (3, Order::Big) if field(head, 32) == [0; 4] => Version::V3Padded,
            (3, Order::Big) => Version::V3,
            _ => return Err(OpenError::Version { found }),
        };
        Ok(Self { version, order, emptying: found & EMPTYING != 0 })
    }
}

/// True if these are the first bytes of a COW file of any version.
pub fn is_uml(first: &[u8; 4]) -> bool {
    let word = u32::from_be_bytes(*first);
    word == MAGIC || word.swap_bytes() == MAGIC
}

/// `N` bytes from `at`; zeros where the array ends, which never happens.
fn field<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

impl Header {
    /// Reads and judges the fields of a file of `len` bytes.
    pub(super) fn read<S: ReadStorage>(
        storage: &S,
        kind: &Kind,
        head: &[u8; HEAD_LEN],
        len: u64,
    ) -> Result<Self, OpenError<S::Error>> {
        let version = kind.version;
        let needed = version.header_len();
        if len < needed {
            return Err(OpenError::Truncated { needed, len });
        }
        let big = Order::Big;
        let header = Self {
            version,
            order: kind.order,
            tail_order: big,
            mtime_s: big.u32(field(head, 8)),
            size_bytes: big.u64(field(head, 12)),
            alignment: big.u32(field(head, 24)),
        };
        match version {
            Version::V1 | Version::V2 => {
                let mut tail = [0; TAIL_LEN];
                let at = version.tail_offset();
                storage.read_at(at, &mut tail).map_err(OpenError::Storage)?;
                header.with_tail(&tail)
            }
            Version::V3 => header.judged(big.u32(field(head, 20)), big.u32(field(head, 28))),
            Version::V3Padded => {
                let (size_bytes, alignment) = (big.u64(field(head, 16)), big.u32(field(head, 28)));
                let header = Self { size_bytes, alignment, ..header };
                header.judged(big.u32(field(head, 24)), big.u32(field(head, 32)))
            }
        }
    }

    /// Versions 1 and 2. A big-endian machine's version 1 is told by the sector size.
    fn with_tail<E>(self, tail: &[u8; TAIL_LEN]) -> Result<Self, OpenError<E>> {
        let sector_size = field(tail, 12);
        let swapped = Order::Little.u32(sector_size) == SECTOR_SIZE;
        let little = self.version == Version::V1
            && (swapped
                || (self.order == Order::Little && Order::Big.u32(sector_size) != SECTOR_SIZE));
        let order = if little { Order::Little } else { Order::Big };
        let header = Self {
            tail_order: order,
            mtime_s: order.u32(field(tail, 0)),
            size_bytes: order.u64(field(tail, 4)),
            alignment: SECTOR_SIZE,
            ..self
        };
        header.judged(order.u32(sector_size), 0)
    }

    fn judged<E>(self, sector_size: u32, map_kind: u32) -> Result<Self, OpenError<E>> {
        if sector_size != SECTOR_SIZE {
            return Err(OpenError::SectorSize { found: sector_size });
        }
        if self.geometry().is_none() {
            return Err(OpenError::DiskSize { bytes: self.size_bytes });
        }
        if !is_alignment(self.alignment) {
            return Err(OpenError::Alignment { found: self.alignment });
        }
        if map_kind != 0 {
            return Err(OpenError::MapKind { found: map_kind });
        }
        Ok(self)
    }

    /// The layout [COW 1.2]. `None` for an impossible size.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        let sectors = self.size_bytes.div_ceil(SECTOR_BYTES);
        if sectors > MAX_SECTORS {
            return None;
        }
        // A bad alignment is reported by itself.
        let alignment = u64::from(self.alignment).max(1);
        let up = |at: u64| at.div_ceil(alignment).saturating_mul(alignment);
        let header = self.version.header_len();
        if self.version.is_aligned() {
            let (bitmap, len) = (up(header), sectors.div_ceil(8));
            return Geometry::new(sectors, 0, bitmap, up(bitmap.saturating_add(len)));
        }
        // The historic way of rounding: down to whole bytes.
        let len = sectors / 8;
        let data = header.saturating_add(len).next_multiple_of(SECTOR_BYTES);
        let geometry = Geometry::new(sectors, 0, header, data)?;
        Some(geometry.with_units(len.saturating_mul(8)))
    }

    /// Writes everything but the path, what [`is_uml`] looks at last. `emptying` marks it.
    pub(super) fn write<S: Storage>(&self, storage: &mut S) -> Result<(), S::Error> {
        let big = Order::Big;
        if !self.version.is_aligned() {
            let order = self.tail_order;
            let mut tail = [0; TAIL_LEN];
            let mut fields = Fields(&mut tail);
            fields.put(&order.put(self.mtime_s));
            fields.put(&order.put_long(self.size_bytes));
            fields.put(&order.put(SECTOR_SIZE));
            storage.write_at(self.version.tail_offset(), &tail)?;
            storage.sync()?;
            return self.write_version(storage, 0);
        }
        let mut head = [0; HEAD_LEN];
        let mut fields = Fields(&mut head);
        fields.put(&big.put(MAGIC));
        fields.put(&big.put(self.version.number()));
        fields.put(&big.put(self.mtime_s));
        let padded = self.version == Version::V3Padded;
        if padded {
            fields.put(&[0; 4]);
        }
        fields.put(&big.put_long(self.size_bytes));
        fields.put(&big.put(SECTOR_SIZE));
        fields.put(&big.put(self.alignment));
        fields.put(&[0; 4]);
        let len = if padded { HEAD_LEN } else { HEAD_LEN.saturating_sub(4) };
        storage.write_at(0, head.get(..len).unwrap_or(&head))
    }

    /// Writes magic and version, with `flag` in the version.
    pub(super) fn write_version<S: Storage>(
        &self,
        storage: &mut S,
        flag: u32,
    ) -> Result<(), S::Error> {
        let mut words = [0; 8];
        let mut fields = Fields(&mut words);
        fields.put(&self.order.put(MAGIC));
        fields.put(&self.order.put(self.version.number() | flag));
        storage.write_at(0, &words)
    }

    /// Where mtime and size are, and their bytes.
    pub(super) fn parent_fields(&self) -> (u64, [u8; 16], usize) {
        let at = if self.version.is_aligned() { 8 } else { self.version.tail_offset() };
        let padding: &[u8] = if self.version == Version::V3Padded { &[0; 4] } else { &[] };
        let mut bytes = [0; 16];
        let mut fields = Fields(&mut bytes);
        fields.put(&self.tail_order.put(self.mtime_s));
        fields.put(padding);
        fields.put(&self.tail_order.put_long(self.size_bytes));
        (at, bytes, padding.len().saturating_add(12))
    }
}

/// Puts fields one after the other; what does not fit is dropped (sizes are constants).
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, field: &[u8]) {
        let whole = core::mem::take(&mut self.0);
        let Some((target, rest)) = whole.split_at_mut_checked(field.len()) else { return };
        for (to, from) in target.iter_mut().zip(field) {
            *to = *from;
        }
        self.0 = rest;
    }
}

/// A power of two from 512 to [`MAX_ALIGNMENT`].
pub(super) fn is_alignment(alignment: u32) -> bool {
    alignment.is_power_of_two() && (SECTOR_SIZE..=MAX_ALIGNMENT).contains(&alignment)
}

/// A path that a header of this version can hold.
pub(super) fn judge_path(path: &[u8], version: Version) -> Result<(), PathFault> {
    let most = version.path_most();
    if path.is_empty() {
        Err(PathFault::Empty)
    } else if path.len() > most {
        Err(PathFault::TooLong { most })
    } else if path.contains(&0) {
        Err(PathFault::Nul)
    } else {
        Ok(())
    }
}
