//! Opening and making images, over the blocking storage traits.

use super::bitmaps::{Bitmaps, EXT_LEN};
use super::bytes::{put_u32, u32_at};
use super::error::{CreateError, OpenError};
use super::frozen::Frozen;
use super::geometry::{CLUSTER_BITS, Geometry};
use super::header::{
    BITMAPS, EXT_BACKING_FORMAT, EXT_BITMAPS, EXT_END, FormatName, Header, HeaderFault, MAGIC,
    MAX_NAME_LEN, V2_LEN, WRITTEN_LEN,
};
use super::layout::Layout;
use crate::format::Codec;
use crate::pages::{PAGE_LEN, Page, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::{MAX_SECTORS, SECTOR_BYTES, SECTOR_LEN};

/// Header extensions looked at: images have up to half a dozen.
pub(super) const MAX_EXTENSIONS: u32 = 64;

/// Size of the L1 table of the largest disk that is made: as QEMU allows.
const MAX_L1_BYTES: u64 = 32 << 20;

/// True if these are the first bytes of an image of version 2 or later.
pub fn is_qcow2(first: &[u8; 8]) -> bool {
    u32_at(first, 0) == MAGIC && u32_at(first, 4) >= 2
}

/// An image whose header was found good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    pub(super) header: Header,
    pub(super) len: u64,
}

impl Opened {
    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the image when it was opened.
    pub const fn len_bytes(&self) -> u64 {
        self.len
    }

    /// The image as a layer, for reading. Nobody may write to it meanwhile.
    pub const fn frozen(&self, storage: StorageKey) -> Frozen {
        Frozen::new(&self.header, storage, self.len)
    }
}

/// Reads and judges the header and its extensions.
///
/// # Errors
/// See [`OpenError`].
pub fn open<S: ReadStorage>(storage: &S) -> Result<Opened, OpenError<S::Error>> {
    let len = storage.len_bytes().map_err(OpenError::Storage)?;
    let mut bytes = [0; SECTOR_LEN];
    let there = usize::try_from(len).unwrap_or(SECTOR_LEN).min(SECTOR_LEN);
    if let Some(part) = bytes.get_mut(..there) {
        storage.read_at(0, part).map_err(OpenError::Storage)?;
    }
    let mut header = Header::parse(&bytes, len)?;
    read_extensions(storage, &mut header)?;
    Ok(Opened { header, len })
}

fn read_extensions<S: ReadStorage>(
    storage: &S,
    header: &mut Header,
) -> Result<(), OpenError<S::Error>> {
    let (mut at, end) = (u64::from(header.head_len), header.extensions_end());
    for _ in 0..MAX_EXTENSIONS {
        let mut head = [0; 8];
        if at.saturating_add(8) > end {
            return Ok(());
        }
        storage.read_at(at, &mut head).map_err(OpenError::Storage)?;
        let (kind, len) = (u32_at(&head, 0), u32_at(&head, 4));
        if kind == EXT_END {
            return Ok(());
        }
        let data = at.saturating_add(8);
        if data.saturating_add(u64::from(len)) > end {
            return Err(HeaderFault::Extension { offset: at }.into());
        }
        if kind == EXT_BACKING_FORMAT {
            let mut name = [0; super::header::MAX_FORMAT_LEN];
            let there = usize::try_from(len).ok().and_then(|len| name.get_mut(..len));
            let name = there.ok_or(HeaderFault::BackingFormat { len })?;
            storage.read_at(data, name).map_err(OpenError::Storage)?;
            header.backing_format = FormatName::new(name);
        }
        if kind == EXT_BITMAPS && header.autoclear & BITMAPS != 0 {
            let mut bytes = [0; EXT_LEN];
            if len < u32::try_from(EXT_LEN).unwrap_or(u32::MAX) {
                return Err(HeaderFault::Extension { offset: at }.into());
            }
            storage.read_at(data, &mut bytes).map_err(OpenError::Storage)?;
            header.bitmaps = Some(Bitmaps::parse(&bytes));
        }
        at = data.saturating_add(u64::from(len).next_multiple_of(8));
    }
    Err(HeaderFault::Extension { offset: at }.into())
}

/// Reads the parent's name into `buf`. Empty for a disk without parent.
///
/// # Errors
/// The medium's.
pub fn backing_name<'b, S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    buf: &'b mut [u8; MAX_NAME_LEN],
) -> Result<&'b [u8], S::Error> {
    let len = usize::try_from(opened.header.name_len).unwrap_or(0);
    let Some(name) = buf.get_mut(..len) else { return Ok(&[]) };
    if len > 0 {
        storage.read_at(opened.header.name_offset, name)?;
    }
    Ok(name)
}

/// The parent that a new image names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backing<'a> {
    /// Its name, relative to the directory of the image.
    pub name: &'a [u8],
    /// Its format, such as `raw`: always recorded.
    pub format: &'a [u8],
}

/// What [`create`] makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CreateOptions<'a> {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk, a multiple of 512.
    pub disk_bytes: u64,
    /// log2 of the bytes of a cluster, 9 to 21.
    pub cluster_bits: u8,
    /// Bits of a reference count: a power of two up to 64, in version 2 always 16.
    pub refcount_bits: u8,
    /// The parent, if there is one.
    pub backing: Option<Backing<'a>>,
}

impl CreateOptions<'_> {
    /// As QEMU makes it by default: version 3, clusters of 64 KiB, counts of 16 bits, no parent.
    pub const fn new(disk_bytes: u64) -> Self {
        Self { version: 3, disk_bytes, cluster_bits: 16, refcount_bits: 16, backing: None }
    }

    fn geometry<E>(&self) -> Result<Geometry, CreateError<E>> {
        if !matches!(self.version, 2 | 3) {
            return Err(CreateError::Version { asked: self.version });
        }
        if !CLUSTER_BITS.contains(&u32::from(self.cluster_bits)) {
            return Err(CreateError::ClusterBits { asked: self.cluster_bits });
        }
        let asked = self.refcount_bits;
        if !asked.is_power_of_two() || asked > 64 || (self.version == 2 && asked != 16) {
            return Err(CreateError::RefcountBits { asked });
        }
        let order = u8::try_from(asked.trailing_zeros()).unwrap_or(0);
        let bytes = self.disk_bytes;
        let sectors = bytes / SECTOR_BYTES;
        let geometry = Geometry::new(self.cluster_bits, false, order, sectors);
        // An L1 entry stands for a table of entries that stand for a cluster each.
        let reach = (MAX_L1_BYTES / 8) << geometry.l2_bits() << self.cluster_bits;
        let most = reach.min(MAX_SECTORS.saturating_mul(SECTOR_BYTES));
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) || bytes > most {
            return Err(CreateError::DiskSize { bytes, most });
        }
        Ok(geometry)
    }
}

/// Makes an empty image at the beginning of the storage. What it held there is gone; behind the
/// metadata nothing is written, and nothing is taken for granted.
///
/// A power cut leaves a storage whose first sector is as before, or zeros, or the new image: the
/// header is written last.
///
/// # Errors
/// See [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
    page: &mut Page,
) -> Result<(), CreateError<S::Error>> {
    let geometry = options.geometry()?;
    let mut header = new_header(options, geometry);
    let layout = Layout::at(&geometry, 1);
    layout.enter(&mut header);
    let (name_offset, name_len) = emit_head(&header, options, page)?;
    (header.name_offset, header.name_len) = (name_offset, name_len);
    make(storage, options, &layout, &header, page).map_err(CreateError::Storage)
}

fn make<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
    layout: &Layout,
    header: &Header,
    page: &mut Page,
) -> Result<(), S::Error> {
    let geometry = &header.geometry;
    storage.extend(geometry.cluster_offset(layout.end()))?;
    storage.zero_at(0, SECTOR_BYTES)?;
    storage.sync()?;
    storage.zero_at(0, geometry.cluster_bytes())?;
    layout.write(storage, page)?;
    storage.sync()?;
    // What was written into this page before, again: it served for the counts meanwhile.
    let bytes = page.as_bytes_mut();
    bytes.fill(0);
    header.emit(bytes);
    let extensions = put_extensions(header, options, bytes);
    let head = usize::try_from(geometry.page_bytes()).unwrap_or(PAGE_LEN);
    if let Some(backing) = options.backing {
        // The name may lie behind the first page only if the cluster does.
        debug_assert!(extensions <= PAGE_LEN, "one short extension");
        storage.write_at(header.name_offset, backing.name)?;
        copy_into(bytes, extensions, backing.name);
    }
    let head = bytes.get(..head).unwrap_or_default();
    // The first sector makes it an image: everything else is durable before.
    let (first, rest) = head.split_at_checked(SECTOR_LEN).unwrap_or((head, &[]));
    storage.write_at(SECTOR_BYTES, rest)?;
    storage.sync()?;
    storage.write_at(0, first)?;
    storage.sync()
}

/// The header of a new image; its tables are elsewhere.
fn new_header(options: &CreateOptions<'_>, geometry: Geometry) -> Header {
    Header {
        version: options.version,
        geometry,
        disk_bytes: options.disk_bytes,
        l1_entries: 0,
        l1_offset: 0,
        reftable_offset: 0,
        reftable_clusters: 0,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        head_len: if options.version == 2 { V2_LEN } else { WRITTEN_LEN },
        codec: Codec::Deflate,
        name_offset: 0,
        name_len: 0,
        backing_format: options.backing.and_then(|b| FormatName::new(b.format)),
        bitmaps: None,
    }
}

/// Checks that header, extensions and name fit; gives place and length of the name.
fn emit_head<E>(
    header: &Header,
    options: &CreateOptions<'_>,
    page: &mut Page,
) -> Result<(u64, u32), CreateError<E>> {
    let Some(backing) = options.backing else { return Ok((0, 0)) };
    if header.backing_format.is_none() || backing.format.is_empty() {
        return Err(CreateError::BackingFormat);
    }
    let at = put_extensions(header, options, page.as_bytes_mut()) as u64;
    let room = header.geometry.cluster_bytes().saturating_sub(at);
    let most = room.min(MAX_NAME_LEN as u64);
    match u32::try_from(backing.name.len()) {
        Ok(len) if len > 0 && u64::from(len) <= most => Ok((at, len)),
        _ => Err(CreateError::BackingName { most }),
    }
}

/// Puts the extensions behind the header; gives the byte after them.
fn put_extensions(header: &Header, options: &CreateOptions<'_>, bytes: &mut [u8]) -> usize {
    let mut at = usize::try_from(header.head_len).unwrap_or(0);
    if let Some(backing) = options.backing {
        put_u32(bytes, at, EXT_BACKING_FORMAT);
        put_u32(bytes, at.saturating_add(4), u32::try_from(backing.format.len()).unwrap_or(0));
        copy_into(bytes, at.saturating_add(8), backing.format);
        at = at.saturating_add(8).saturating_add(backing.format.len().next_multiple_of(8));
    }
    put_u32(bytes, at, EXT_END);
    put_u32(bytes, at.saturating_add(4), 0);
    at.saturating_add(8)
}

fn copy_into(bytes: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}
