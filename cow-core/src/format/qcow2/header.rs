//! The header: its fields, what is refused, and the extensions behind it [COW 6.1].

use core::fmt;

use super::bitmaps::Bitmaps;
use super::bytes::{put_u32, put_u64, u32_at, u64_at};
use super::geometry::{CLUSTER_BITS, Geometry, MAX_HOST_OFFSET};
use crate::format::Codec;
use crate::units::{MAX_SECTORS, SECTOR_BYTES};

/// `QFI\xfb`
pub(super) const MAGIC: u32 = 0x5146_49fb;

/// Bytes of a version 2 header, and of the shortest version 3 header.
pub(super) const V2_LEN: u32 = 72;
pub(super) const V3_LEN: u32 = 104;
/// Bytes of the version 3 header that is written here, with the compression type.
pub(super) const WRITTEN_LEN: u32 = 112;

/// Most bytes of the name of a parent.
pub const MAX_NAME_LEN: usize = 1023;

/// Most bytes of the name of a parent's format, one less than QEMU's buffer.
pub const MAX_FORMAT_LEN: usize = 15;

/// Largest L1 table (of QEMU too): 32 MiB.
const MAX_L1_ENTRIES: u32 = (32 << 20) / 8;
/// Largest refcount table (of QEMU too): 8 MiB.
pub(super) const MAX_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots (of QEMU too).
const MAX_SNAPSHOTS: u32 = 65_536;

/// Incompatible features.
pub(super) const DIRTY: u64 = 1;
pub(super) const CORRUPT: u64 = 2;
const EXTERNAL_DATA: u64 = 4;
const COMPRESSION_TYPE: u64 = 8;
pub(super) const EXTENDED_L2: u64 = 16;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;
/// Autoclear features.
pub(super) const BITMAPS: u64 = 1;
/// Compatible features.
const LAZY_REFCOUNTS: u64 = 1;

/// Where fields are that are written one by one.
pub(super) const NAME_AT: usize = 8;
pub(super) const REFTABLE_AT: usize = 48;
pub(super) const INCOMPATIBLE_AT: usize = 72;
pub(super) const AUTOCLEAR_AT: usize = 88;

/// Types of header extensions.
pub(super) const EXT_END: u32 = 0;
pub(super) const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const EXT_BITMAPS: u32 = 0x2385_2875;

/// Why a header is refused. Offsets are bytes of the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HeaderFault {
    /// The first four bytes are not those of a qcow image.
    NotQcow2 {
        /// What they are, as a big-endian number.
        found: u32,
    },
    /// Neither version 2 nor 3. (Version 1 is another format.)
    Version {
        /// The version.
        found: u32,
    },
    /// The image ends within its header.
    TooShort {
        /// Bytes that the header has.
        needed: u64,
        /// Bytes that there are.
        len: u64,
    },
    /// Not 9 to 21 (14 to 21 with subclusters).
    ClusterBits {
        /// log2 of the cluster size.
        found: u32,
    },
    /// The disk has no whole sector, or more than fit a 48-bit address.
    DiskSize {
        /// Bytes.
        bytes: u64,
    },
    /// The image is encrypted, which is not supported.
    Encrypted {
        /// 1 for AES, 2 for LUKS.
        method: u32,
    },
    /// The data are in another file, which is not supported.
    ExternalData,
    /// Features that a reader must know and we do not.
    Incompatible {
        /// Their bits.
        bits: u64,
    },
    /// The L1 table is too long, or too short for the disk.
    L1Entries {
        /// Entries.
        found: u32,
        /// Entries that the disk needs.
        needed: u64,
    },
    /// A table that the header names is not aligned, or not wholly inside the image.
    Table {
        /// Byte of the header where it is named.
        field: u32,
        /// Where it would be.
        offset: u64,
        /// Bytes it would have.
        len: u64,
    },
    /// Two tables that the header names overlap, or one overlaps the header.
    TablesOverlap {
        /// Where.
        offset: u64,
    },
    /// Reference counts have more than 64 bits, or none.
    RefcountOrder {
        /// log2 of the bits.
        found: u32,
    },
    /// The header's own length is no multiple of 8, too small, or larger than a cluster.
    HeaderLength {
        /// Bytes.
        found: u32,
    },
    /// Neither zlib nor zstd, or in contradiction to the feature bits.
    Compression {
        /// The type.
        found: u8,
    },
    /// More than 65,536 snapshots.
    Snapshots {
        /// How many.
        found: u32,
    },
    /// The parent's name is too long or not inside the first cluster.
    BackingName {
        /// Where it would be.
        offset: u64,
        /// Bytes it would have.
        len: u32,
    },
    /// The name of the parent's format is longer than 15 bytes.
    BackingFormat {
        /// Bytes it would have.
        len: u32,
    },
    /// A header extension ends behind the place where extensions end, or there are too many.
    Extension {
        /// Where it begins.
        offset: u64,
    },
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotQcow2 { found } => write!(f, "not a qcow2 image: it begins with {found:08x}"),
            Self::Version { found } => write!(f, "version {found} of the format is not supported"),
            Self::TooShort { needed, len } => {
                write!(f, "the image has {len} bytes, its header alone needs {needed}")
            }
            Self::ClusterBits { found } => write!(f, "clusters of 2^{found} bytes do not exist"),
            Self::DiskSize { bytes } => write!(f, "a disk of {bytes} bytes is not supported"),
            Self::Encrypted { method: 1 } => f.write_str("the image is encrypted (AES)"),
            Self::Encrypted { method: 2 } => f.write_str("the image is encrypted (LUKS)"),
            Self::Encrypted { method } => write!(f, "the image is encrypted (method {method})"),
            Self::ExternalData => f.write_str("the data are in another file"),
            Self::Incompatible { bits } => {
                write!(f, "the image uses features that are not known here (bits {bits:#x})")
            }
            Self::L1Entries { found, needed } => {
                write!(f, "the L1 table has {found} entries, the disk needs {needed}")
            }
            Self::Table { field, offset, len } => write!(
                f,
                "the table named at byte {field} would have {len} bytes from {offset}, which is \
                 not aligned or not inside the image"
            ),
            Self::TablesOverlap { offset } => {
                write!(f, "the table at byte {offset} overlaps another one or the header")
            }
            Self::RefcountOrder { found } => {
                write!(f, "reference counts of 2^{found} bits do not exist")
            }
            Self::HeaderLength { found } => write!(f, "a header of {found} bytes is impossible"),
            Self::Compression { found } => {
                write!(f, "compression type {found} is unknown, or the feature bits deny it")
            }
            Self::Snapshots { found } => write!(f, "{found} snapshots are too many"),
            Self::BackingName { offset, len } => write!(
                f,
                "the parent's name of {len} bytes at {offset} is too long or outside the first \
                 cluster"
            ),
            Self::BackingFormat { len } => {
                write!(f, "the name of the parent's format has {len} bytes")
            }
            Self::Extension { offset } => {
                write!(f, "the header extension at byte {offset} is not inside the header")
            }
        }
    }
}

impl core::error::Error for HeaderFault {}

/// Name of a format as a header extension has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FormatName {
    bytes: [u8; MAX_FORMAT_LEN],
    len: u8,
}

impl FormatName {
    /// `None` for more than [`MAX_FORMAT_LEN`] bytes.
    pub fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_FORMAT_LEN];
        bytes.get_mut(..name.len())?.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        Some(Self { bytes, len: u8::try_from(name.len()).ok()? })
    }

    /// The name, such as `raw` or `qcow2`; nothing promises that it is text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// A header that was found good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) disk_bytes: u64,
    pub(super) l1_entries: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) head_len: u32,
    pub(super) codec: Codec,
    pub(super) name_offset: u64,
    pub(super) name_len: u32,
    pub(super) backing_format: Option<FormatName>,
    /// Where bitmaps of changes are, if the image vouches for them.
    pub(super) bitmaps: Option<Bitmaps>,
}

impl Header {
    /// 2 or 3.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Sizes.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Virtual size in bytes as recorded; the disk has as many whole sectors.
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// How compressed clusters were made.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Whoever wrote it last died with reference counts that may be too low.
    pub const fn is_dirty(&self) -> bool {
        self.incompatible & DIRTY != 0
    }

    /// Whoever wrote it last met metadata that contradict each other.
    pub const fn is_corrupt(&self) -> bool {
        self.incompatible & CORRUPT != 0
    }

    /// Writers may leave reference counts behind (they are always kept here).
    pub const fn has_lazy_refcounts(&self) -> bool {
        self.compatible & LAZY_REFCOUNTS != 0
    }

    /// Features that end with the first write of somebody who does not know them, such as us.
    pub const fn autoclear(&self) -> u64 {
        self.autoclear
    }

    /// Number of internal snapshots.
    pub const fn snapshots(&self) -> u32 {
        self.snapshots
    }

    /// Bytes of the parent's name; 0 for a disk without parent.
    pub const fn backing_name_len(&self) -> u32 {
        self.name_len
    }

    /// Format of the parent as recorded. Without it, guessing is a security hole: whoever writes to
    /// a raw parent could make it look like another format [COW 6.3].
    pub const fn backing_format(&self) -> Option<&FormatName> {
        self.backing_format.as_ref()
    }

    /// Byte after the last that can hold a header extension.
    pub(super) const fn extensions_end(&self) -> u64 {
        if self.name_offset == 0 { self.geometry.cluster_bytes() } else { self.name_offset }
    }

    pub(super) const fn l1_bytes(&self) -> u64 {
        self.l1_entries as u64 * 8
    }

    pub(super) const fn reftable_bytes(&self) -> u64 {
        (self.reftable_clusters as u64) << self.geometry.cluster_bits()
    }

    /// Judges the first bytes of an image of `len` bytes; zeros follow where it is shorter than
    /// `bytes`. Extensions come later.
    pub(super) fn parse(bytes: &[u8; 512], len: u64) -> Result<Self, HeaderFault> {
        let found = u32_at(bytes, 0);
        if found != MAGIC {
            return Err(HeaderFault::NotQcow2 { found });
        }
        let version = u32_at(bytes, 4);
        let needed = match version {
            2 => V2_LEN,
            3 => V3_LEN,
            found => return Err(HeaderFault::Version { found }),
        };
        if len < u64::from(needed) {
            return Err(HeaderFault::TooShort { needed: u64::from(needed), len });
        }
        let v3 = version == 3;
        let v3_u64 = |at| if v3 { u64_at(bytes, at) } else { 0 };
        let (incompatible, autoclear) = (v3_u64(INCOMPATIBLE_AT), v3_u64(AUTOCLEAR_AT));
        judge_features(incompatible, u32_at(bytes, 32))?;
        let head_len = if v3 { u32_at(bytes, 100) } else { V2_LEN };
        let (cluster_bits, refcount_order) =
            (u32_at(bytes, 20), if v3 { u32_at(bytes, 96) } else { 4 });
        let extended = incompatible & EXTENDED_L2 != 0;
        let disk_bytes = u64_at(bytes, 24);
        let geometry = geometry(cluster_bits, extended, refcount_order, disk_bytes)?;
        let header = Self {
            version,
            geometry,
            disk_bytes,
            l1_entries: u32_at(bytes, 36),
            l1_offset: u64_at(bytes, 40),
            reftable_offset: u64_at(bytes, REFTABLE_AT),
            reftable_clusters: u32_at(bytes, 56),
            snapshots: u32_at(bytes, 60),
            snapshots_offset: u64_at(bytes, 64),
            incompatible,
            compatible: v3_u64(80),
            autoclear,
            head_len,
            codec: Codec::Deflate,
            name_offset: u64_at(bytes, 8),
            name_len: u32_at(bytes, 16),
            backing_format: None,
            bitmaps: None,
        };
        let too_long = u64::from(head_len) > geometry.cluster_bytes().min(len);
        if v3 && (head_len < V3_LEN || !head_len.is_multiple_of(8) || too_long) {
            return Err(HeaderFault::HeaderLength { found: head_len });
        }
        header.judged(len, bytes)
    }

    fn judged(mut self, len: u64, bytes: &[u8; 512]) -> Result<Self, HeaderFault> {
        let kind = if self.head_len > V3_LEN { bytes[104] } else { 0 };
        let flagged = self.incompatible & COMPRESSION_TYPE != 0;
        self.codec = match (kind, flagged) {
            (0, false) => Codec::Deflate,
            (1, true) => Codec::Zstd,
            (found, _) => return Err(HeaderFault::Compression { found }),
        };
        let needed = self.geometry.l1_needed();
        if self.l1_entries > MAX_L1_ENTRIES || u64::from(self.l1_entries) < needed {
            return Err(HeaderFault::L1Entries { found: self.l1_entries, needed });
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(HeaderFault::Snapshots { found: self.snapshots });
        }
        if self.name_offset == 0 || self.name_len == 0 {
            (self.name_offset, self.name_len) = (0, 0);
        }
        let (offset, name_len) = (self.name_offset, self.name_len);
        let end = offset.saturating_add(u64::from(name_len));
        let too_long = u64::from(name_len) > MAX_NAME_LEN as u64;
        let first = u64::from(self.head_len);
        let outside = offset < first || end > self.geometry.cluster_bytes().min(len);
        if name_len > 0 && (too_long || outside) {
            return Err(HeaderFault::BackingName { offset, len: name_len });
        }
        self.judge_tables(len)?;
        Ok(self)
    }

    /// The tables are aligned, inside the image, and apart from each other and the header.
    fn judge_tables(&self, len: u64) -> Result<(), HeaderFault> {
        let l1 = (self.l1_offset, self.l1_bytes());
        let reftable = (self.reftable_offset, self.reftable_bytes());
        self.judge_table(40, l1, len)?;
        self.judge_table(48, reftable, self.geometry.round_up(len))?;
        if reftable.1 == 0 || reftable.1 > MAX_TABLE_BYTES {
            return Err(HeaderFault::Table { field: 56, offset: reftable.0, len: reftable.1 });
        }
        if self.snapshots > 0 {
            // Each entry has at least 40 bytes; how many it has, reading it shows.
            let least = u64::from(self.snapshots).saturating_mul(40);
            self.judge_table(64, (self.snapshots_offset, least), len)?;
        }
        let end = |(at, len): (u64, u64)| at.saturating_add(self.geometry.round_up(len));
        if l1.0 < end(reftable) && reftable.0 < end(l1) {
            return Err(HeaderFault::TablesOverlap { offset: l1.0.max(reftable.0) });
        }
        Ok(())
    }

    fn judge_table(
        &self,
        field: u32,
        (offset, bytes): (u64, u64),
        len: u64,
    ) -> Result<(), HeaderFault> {
        let end = offset.saturating_add(bytes);
        let aligned = offset & self.geometry.cluster_mask() == 0;
        if !aligned || end > len || end > MAX_HOST_OFFSET {
            return Err(HeaderFault::Table { field, offset, len: bytes });
        }
        if offset < self.geometry.cluster_bytes() {
            return Err(HeaderFault::TablesOverlap { offset });
        }
        Ok(())
    }

    /// Puts the fields into the first bytes of an image; what else is there stays.
    pub(super) fn emit(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, MAGIC);
        put_u32(bytes, 4, self.version);
        put_u64(bytes, 8, self.name_offset);
        put_u32(bytes, 16, self.name_len);
        put_u32(bytes, 20, u32::from(self.geometry.cluster_bits()));
        put_u64(bytes, 24, self.disk_bytes);
        put_u32(bytes, 32, 0);
        put_u32(bytes, 36, self.l1_entries);
        put_u64(bytes, 40, self.l1_offset);
        put_u64(bytes, REFTABLE_AT, self.reftable_offset);
        put_u32(bytes, 56, self.reftable_clusters);
        put_u32(bytes, 60, self.snapshots);
        put_u64(bytes, 64, self.snapshots_offset);
        if self.version == 3 {
            put_u64(bytes, INCOMPATIBLE_AT, self.incompatible);
            put_u64(bytes, 80, self.compatible);
            put_u64(bytes, AUTOCLEAR_AT, self.autoclear);
            put_u32(bytes, 96, u32::from(self.geometry.refcount_order()));
            put_u32(bytes, 100, self.head_len);
        }
    }
}

fn judge_features(incompatible: u64, crypt: u32) -> Result<(), HeaderFault> {
    if incompatible & !KNOWN != 0 {
        return Err(HeaderFault::Incompatible { bits: incompatible & !KNOWN });
    }
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(HeaderFault::ExternalData);
    }
    if crypt != 0 {
        return Err(HeaderFault::Encrypted { method: crypt });
    }
    Ok(())
}

fn geometry(
    cluster_bits: u32,
    extended: bool,
    refcount_order: u32,
    disk_bytes: u64,
) -> Result<Geometry, HeaderFault> {
    let bits = u8::try_from(cluster_bits).ok();
    let Some(bits) =
        bits.filter(|b| CLUSTER_BITS.contains(&cluster_bits) && (!extended || *b >= 14))
    else {
        return Err(HeaderFault::ClusterBits { found: cluster_bits });
    };
    let Some(order) = u8::try_from(refcount_order).ok().filter(|order| *order <= 6) else {
        return Err(HeaderFault::RefcountOrder { found: refcount_order });
    };
    // As QEMU does, the bytes behind the last whole sector are left out.
    let sectors = disk_bytes / SECTOR_BYTES;
    if sectors == 0 || sectors > MAX_SECTORS {
        return Err(HeaderFault::DiskSize { bytes: disk_bytes });
    }
    Ok(Geometry::new(bits, extended, order, sectors))
}
