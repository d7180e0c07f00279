//! The header: read, judged, and written for new images [COW 5.1, 5.3].

use core::fmt;

use super::geometry::Geometry;
use crate::units::{MAX_SECTORS, SECTOR_BYTES};

/// `QFI` and 0xfb.
const MAGIC: u32 = 0x5146_49fb;
const VERSION: u32 = 1;
/// `XEN` and 0xfb.
const XEN_MAGIC: u32 = 0x5845_4efb;

/// Bytes of the header, and of the header with Xen's extension.
pub(super) const HEADER_LEN: usize = 48;
pub(super) const XEN_HEADER_LEN: usize = 64;

/// Xen's extension is looked for only if the L1 table is at a multiple of this.
pub(super) const XEN_L1_ALIGN: u64 = 4096;

/// Xen flag: the L1 table is big-endian. Clear: in the order of the x86 machine that wrote it.
const XEN_L1_BIG_ENDIAN: u32 = 2;

/// Longest name of a backing file in bytes.
pub const NAME_LEN: usize = 1023;

/// Bytes in a cluster and entries in an L2 table, as powers of two.
pub(super) const CLUSTER_BITS: core::ops::RangeInclusive<u8> = 9..=16;
pub(super) const L2_BITS: core::ops::RangeInclusive<u8> = 6..=13;

/// Most entries of an L1 table: what the reference can address in memory.
pub const L1_ENTRIES_MAX: u64 = (i32::MAX / 8) as u64;

/// Where the backing file's name is in the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NamePlace {
    /// Byte offset.
    pub offset: u64,
    /// Bytes, 1 to [`NAME_LEN`].
    pub len: u32,
}

/// What the extension of Xen's blktap says [COW 5.3].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Xen {
    /// First word of the MD5 of the L1 table when an image of preallocated clusters was closed.
    /// Advisory; not verified here.
    pub checksum: u32,
    /// Clusters that its writer allocates at a time. Readers need not care.
    pub min_cluster_alloc: u32,
    /// Bit 0: the file is sparse; bit 1: the L1 table is big-endian.
    pub flags: u32,
}

/// The header of an image that can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Where the name of the backing file is; `None` for an image that stands alone.
    pub backing: Option<NamePlace>,
    /// Time of modification of the backing file, in seconds; the reference writes 0 and never looks.
    pub backing_mtime_s: u32,
    /// Size of the disk as written, in bytes; what is left beyond whole sectors is not part of it.
    pub size: u64,
    /// Xen's extension.
    pub xen: Option<Xen>,
    pub(super) geometry: Geometry,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderFault {
    /// It begins with something else.
    NotQcow {
        /// The first four bytes, big-endian.
        first_word: u32,
    },
    /// Another version of the format.
    Version {
        /// What the header says.
        found: u32,
    },
    /// The file ends before the header, the name or the L1 table does.
    TooShort {
        /// Bytes needed.
        needed: u64,
        /// Bytes that it has.
        len: u64,
    },
    /// The content is encrypted, which is not supported: convert it with `qemu-img` and the key.
    Encrypted {
        /// 1 is AES.
        method: u32,
    },
    /// Not 9 to 16.
    ClusterBits {
        /// What the header says.
        found: u8,
    },
    /// Not 6 to 13.
    L2Bits {
        /// What the header says.
        found: u8,
    },
    /// Less than a sector, or more than a disk can have.
    Size {
        /// What the header says, in bytes.
        bytes: u64,
    },
    /// The L1 table would have more entries than the reference can read.
    L1TooLong {
        /// Entries.
        entries: u64,
    },
    /// The L1 table would lie in the header, or end beyond what can be addressed.
    L1Place {
        /// What the header says.
        offset: u64,
    },
    /// The name of the backing file is longer than [`NAME_LEN`].
    NameLength {
        /// What the header says, in bytes.
        len: u32,
    },
    /// The name of the backing file would lie in the header or in the L1 table.
    NamePlace {
        /// What the header says.
        offset: u64,
    },
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotQcow { first_word } => {
                write!(f, "no qcow image: it begins with {first_word:#010x}")
            }
            Self::Version { found } => write!(f, "qcow of version {found}, not 1"),
            Self::TooShort { needed, len } => {
                write!(f, "the image needs at least {needed} bytes and has {len}")
            }
            Self::Encrypted { method: 1 } => f.write_str("the image is encrypted with AES"),
            Self::Encrypted { method } => {
                write!(f, "the image is encrypted with the unknown method {method}")
            }
            Self::ClusterBits { found } => {
                write!(f, "clusters of 2^{found} bytes: must be 2^9 to 2^16")
            }
            Self::L2Bits { found } => {
                write!(f, "L2 tables of 2^{found} entries: must be 2^6 to 2^13")
            }
            Self::Size { bytes } => write!(f, "no disk has {bytes} bytes"),
            Self::L1TooLong { entries } => write!(
                f,
                "an L1 table of {entries} entries, more than {L1_ENTRIES_MAX}: choose larger \
                 clusters or tables"
            ),
            Self::L1Place { offset } => write!(f, "the L1 table cannot be at byte {offset}"),
            Self::NameLength { len } => {
                write!(f, "the backing file's name has {len} bytes, more than {NAME_LEN}")
            }
            Self::NamePlace { offset } => {
                write!(f, "the backing file's name cannot be at byte {offset}")
            }
        }
    }
}

impl core::error::Error for HeaderFault {}

/// True if these are the first bytes of an image of this format, usable or not.
pub fn is_qcow1(first: &[u8; 8]) -> bool {
    u64::from_be_bytes(*first) == u64::from(MAGIC) << 32 | u64::from(VERSION)
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

impl Header {
    /// Sizes and places.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Judges the first bytes of a file of `len` bytes; what a shorter file lacks is zeros.
    ///
    /// # Errors
    /// [`HeaderFault`].
    pub fn parse(bytes: &[u8; XEN_HEADER_LEN], len: u64) -> Result<Self, HeaderFault> {
        let mut fields = Fields(bytes);
        let first_word = fields.u32();
        if first_word != MAGIC {
            return Err(HeaderFault::NotQcow { first_word });
        }
        match fields.u32() {
            VERSION => {}
            found => return Err(HeaderFault::Version { found }),
        }
        if len < HEADER_LEN as u64 {
            return Err(HeaderFault::TooShort { needed: HEADER_LEN as u64, len });
        }
        let (name_offset, name_len, backing_mtime_s) = (fields.u64(), fields.u32(), fields.u32());
        let (size, cluster_bits, l2_bits) = (fields.u64(), fields.u8(), fields.u8());
        let _padding: [u8; 2] = fields.take();
        let (method, l1_offset) = (fields.u32(), fields.u64());
        if method != 0 {
            return Err(HeaderFault::Encrypted { method });
        }
        // A name may begin where the extension would be.
        let may_extend = name_offset == 0 || name_offset >= XEN_HEADER_LEN as u64;
        let may_extend = may_extend && l1_offset.is_multiple_of(XEN_L1_ALIGN);
        let xen =
            (may_extend && len >= XEN_HEADER_LEN as u64 && fields.u32() == XEN_MAGIC).then(|| {
                Xen { checksum: fields.u32(), min_cluster_alloc: fields.u32(), flags: fields.u32() }
            });
        // As the reference: a name without a place or without a length is none.
        let backing = (name_offset != 0 && name_len != 0)
            .then_some(NamePlace { offset: name_offset, len: name_len });
        let geometry = Geometry {
            sectors: size / SECTOR_BYTES,
            cluster_bits,
            l2_bits,
            l1_offset,
            header_len: if xen.is_some() { XEN_HEADER_LEN as u64 } else { HEADER_LEN as u64 },
            name: backing.map_or((0, 0), |b| (b.offset, u64::from(b.len))),
            l1_little: xen.is_some_and(|x| x.flags & XEN_L1_BIG_ENDIAN == 0),
        };
        let header = Self { backing, backing_mtime_s, size, xen, geometry };
        header.judge(len)?;
        Ok(header)
    }

    /// Everything that must hold for lookups to be sound.
    pub(super) fn judge(&self, len: u64) -> Result<(), HeaderFault> {
        let g = &self.geometry;
        if !CLUSTER_BITS.contains(&g.cluster_bits) {
            return Err(HeaderFault::ClusterBits { found: g.cluster_bits });
        }
        if !L2_BITS.contains(&g.l2_bits) {
            return Err(HeaderFault::L2Bits { found: g.l2_bits });
        }
        if g.sectors == 0 || g.sectors > MAX_SECTORS {
            return Err(HeaderFault::Size { bytes: self.size });
        }
        if g.l1_entries() > L1_ENTRIES_MAX {
            return Err(HeaderFault::L1TooLong { entries: g.l1_entries() });
        }
        let misplaced = HeaderFault::L1Place { offset: g.l1_offset };
        let l1_end = g.l1_offset.checked_add(g.l1_len()).ok_or(misplaced)?;
        if g.l1_offset < g.header_len {
            return Err(misplaced);
        }
        let mut needed = l1_end;
        if let Some(NamePlace { offset, len: name_len }) = self.backing {
            if name_len as usize > NAME_LEN {
                return Err(HeaderFault::NameLength { len: name_len });
            }
            let misplaced = HeaderFault::NamePlace { offset };
            let name_end = offset.checked_add(u64::from(name_len)).ok_or(misplaced)?;
            if offset < g.header_len || (offset < l1_end && g.l1_offset < name_end) {
                return Err(misplaced);
            }
            needed = needed.max(name_end);
        }
        if len < needed {
            return Err(HeaderFault::TooShort { needed, len });
        }
        Ok(())
    }

    /// The bytes of a header without extension.
    pub(super) fn emit(&self) -> [u8; HEADER_LEN] {
        let g = &self.geometry;
        let (name_offset, name_len) = self.backing.map_or((0, 0), |b| (b.offset, b.len));
        let mut bytes = [0; HEADER_LEN];
        let sizes = [g.cluster_bits, g.l2_bits, 0, 0];
        let fields: [&[u8]; 9] = [
            &MAGIC.to_be_bytes(),
            &VERSION.to_be_bytes(),
            &name_offset.to_be_bytes(),
            &name_len.to_be_bytes(),
            &self.backing_mtime_s.to_be_bytes(),
            &self.size.to_be_bytes(),
            &sizes,
            &[0; 4], // not encrypted
            &g.l1_offset.to_be_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}
