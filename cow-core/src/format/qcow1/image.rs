//! Opening, creating and emptying an image over blocking storage, outside the engine.

use core::fmt;

use super::Frozen;
use super::geometry::{ENTRY_BYTES, Geometry};
use super::header::{
    CLUSTER_BITS, HEADER_LEN, Header, HeaderFault, NAME_LEN, NamePlace, XEN_HEADER_LEN,
    XEN_L1_ALIGN,
};
use super::overlay::Writable;
use super::volume::Volume;
use crate::pages::{PAGE_LEN, Page, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::SECTOR_BYTES;

/// Where the L1 table's offset is in the header, and where the name's offset and length are.
const L1_FIELD: u64 = 40;
const NAME_FIELD: u64 = 8;

/// Why an image was not opened. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError<E> {
    /// The header cannot be used.
    Header(HeaderFault),
    /// The medium failed.
    Storage(E),
}

impl<E> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(fault) => fault.fmt(f),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for OpenError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage(e) = self { Some(e) } else { None }
    }
}

/// Why the name of the backing file was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NameError<E> {
    /// The buffer is too small; [`NAME_LEN`] bytes always do.
    BufferTooSmall {
        /// Bytes.
        needed: usize,
    },
    /// The medium failed.
    Storage(E),
}

impl<E> fmt::Display for NameError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooSmall { needed } => write!(f, "the name needs {needed} bytes"),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for NameError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage(e) = self { Some(e) } else { None }
    }
}

/// An image whose header was read and found usable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    header: Header,
    len: u64,
}

impl Opened {
    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Sizes and places.
    pub const fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Length of the file in bytes, when it was opened.
    pub const fn file_len(&self) -> u64 {
        self.len
    }

    /// As a layer that others lie on, or to be copied from. Nobody may write to it meanwhile.
    pub const fn frozen(&self, storage: StorageKey) -> Frozen {
        Frozen(self.volume(storage))
    }

    pub(super) const fn volume(&self, storage: StorageKey) -> Volume {
        Volume {
            storage,
            geometry: self.header.geometry,
            backed: self.header.backing.is_some(),
            len: self.len,
        }
    }

    /// The name of the backing file as it is in the image: a path, relative to the image's own
    /// directory if it does not begin at the root. Whoever opens it because an image says so must
    /// have been allowed to.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn backing_name<'b, S: ReadStorage>(
        &self,
        storage: &S,
        buffer: &'b mut [u8],
    ) -> Result<Option<&'b [u8]>, NameError<S::Error>> {
        let Some(NamePlace { offset, len }) = self.header.backing else { return Ok(None) };
        let needed = usize::try_from(len).unwrap_or(NAME_LEN);
        let name = buffer.get_mut(..needed).ok_or(NameError::BufferTooSmall { needed })?;
        storage.read_at(offset, name).map_err(NameError::Storage)?;
        Ok(Some(name))
    }
}

/// Reads and judges the header.
///
/// # Errors
/// [`OpenError`].
pub fn open<S: ReadStorage>(storage: &S) -> Result<Opened, OpenError<S::Error>> {
    let len = storage.len_bytes().map_err(OpenError::Storage)?;
    let mut bytes = [0; XEN_HEADER_LEN];
    let held = usize::try_from(len).unwrap_or(XEN_HEADER_LEN).min(XEN_HEADER_LEN);
    let part = bytes.get_mut(..held).unwrap_or_default();
    storage.read_at(0, part).map_err(OpenError::Storage)?;
    let header = Header::parse(&bytes, len).map_err(OpenError::Header)?;
    Ok(Opened { header, len })
}

/// Why an image takes no writes, though it can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RefuseWriting {
    /// The L1 table begins at a byte that is no multiple of 8: a power cut could tear its entries.
    L1Unaligned {
        /// Byte offset.
        offset: u64,
    },
    /// An entry of the L1 table is impossible: run a check.
    L1Entry {
        /// Byte offset of the entry.
        offset: u64,
    },
}

impl fmt::Display for RefuseWriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L1Unaligned { offset } => write!(
                f,
                "the L1 table at byte {offset} is not aligned to 8 bytes: a power cut could tear \
                 its entries"
            ),
            Self::L1Entry { offset } => {
                write!(f, "the entry of the L1 table at byte {offset} is impossible")
            }
        }
    }
}

impl core::error::Error for RefuseWriting {}

/// Why an image was not changed, or not entirely.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// It was not even opened.
    Open(OpenError<E>),
    /// It takes no writes. Nothing was written.
    Refused(RefuseWriting),
    /// The medium failed. Reads find what they found before; call again.
    Storage(E),
}

impl<E> fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => e.fmt(f),
            Self::Refused(e) => e.fmt(f),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Open(e) => e.source(),
            Self::Refused(e) => Some(e),
            Self::Storage(e) => Some(e),
        }
    }
}

/// An image that may be written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prepared {
    opened: Opened,
    cleared: u64,
}

impl Prepared {
    /// What was opened; the length of the file is a whole number of clusters now.
    pub const fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Entries of the L1 table that pointed behind the end of the file.
    pub const fn cleared(&self) -> u64 {
        self.cleared
    }

    pub(super) const fn volume(&self, storage: StorageKey) -> Volume {
        self.opened.volume(storage)
    }
}

/// Makes an image ready for [`Writable`], durably, without a change to what it reads as:
/// entries of the L1 table that point behind the end of the file become 0 (the reference writes an
/// entry before its table, so a power cut leaves such; a growing file would bring them to life),
/// and the file is made a whole number of clusters long.
///
/// Reads the whole L1 table.
///
/// # Errors
/// [`UpdateError`].
pub fn prepare<S: Storage>(
    storage: &mut S,
    opened: &Opened,
    scratch: &mut Page,
) -> Result<Prepared, UpdateError<S::Error>> {
    let g = opened.header.geometry;
    if !g.l1_offset.is_multiple_of(ENTRY_BYTES) {
        return Err(UpdateError::Refused(RefuseWriting::L1Unaligned { offset: g.l1_offset }));
    }
    let volume = opened.volume(StorageKey(0));
    let (mut needed, mut cleared) = (opened.len, 0_u64);
    let mut first = 0;
    while first < g.l1_entries() {
        let count = l1_piece(storage, &g, first, scratch).map_err(UpdateError::Storage)?;
        let before = cleared;
        for (at, bytes) in scratch.as_bytes_mut().as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let entry = if at < count { g.l1_entry(*bytes) } else { 0 };
            if entry >= opened.len {
                *bytes = [0; 8];
                cleared = cleared.saturating_add(1);
            } else if entry != 0 && !volume.may_be_table(entry) {
                let offset = g.l1_entry_offset(first.saturating_add(at as u64));
                return Err(UpdateError::Refused(RefuseWriting::L1Entry { offset }));
            } else if entry != 0 {
                needed = needed.max(entry.saturating_add(g.l2_len()));
            }
        }
        if cleared > before {
            let piece = scratch.as_bytes().get(..count.wrapping_mul(8)).unwrap_or_default();
            let offset = g.l1_entry_offset(first);
            storage.write_at(offset, piece).map_err(UpdateError::Storage)?;
        }
        first = first.saturating_add(count as u64);
    }
    let len = g.align(needed);
    if len > opened.len {
        storage.extend(len).map_err(UpdateError::Storage)?;
        let added = len.saturating_sub(opened.len);
        storage.zero_at(opened.len, added).map_err(UpdateError::Storage)?;
    }
    // Whatever was changed here, and what a killed process may have left.
    storage.sync().map_err(UpdateError::Storage)?;
    Ok(Prepared { opened: Opened { len, ..*opened }, cleared })
}

/// Reads entries of the L1 table from `first` on into the page; how many.
pub(super) fn l1_piece<S: ReadStorage>(
    storage: &S,
    g: &Geometry,
    first: u64,
    page: &mut Page,
) -> Result<usize, S::Error> {
    let left = g.l1_entries().saturating_sub(first);
    let most = PAGE_LEN / 8;
    let count = usize::try_from(left).unwrap_or(most).min(most);
    let piece = page.as_bytes_mut().get_mut(..count.wrapping_mul(8)).unwrap_or_default();
    storage.read_at(g.l1_entry_offset(first), piece)?;
    Ok(count)
}

/// Opens an overlay for the engine.
///
/// # Errors
/// [`UpdateError`].
pub fn open_writable<S: Storage>(
    storage: &mut S,
    key: StorageKey,
    scratch: &mut Page,
) -> Result<Writable, UpdateError<S::Error>> {
    let opened = open(storage).map_err(UpdateError::Open)?;
    let prepared = prepare(storage, &opened, scratch)?;
    Ok(Writable::new(key, &prepared))
}

/// Why no other backing file was named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RebaseError<E> {
    /// The image was not opened, takes no writes, or the medium failed; then it is as before or as
    /// wanted.
    Update(UpdateError<E>),
    /// The name is empty or longer than [`NAME_LEN`]. Nothing was written.
    NameLength {
        /// Bytes given.
        len: usize,
    },
    /// As [`CreateError::ClusterTooLarge`]. Nothing was written.
    ClusterTooLarge {
        /// Bytes of a cluster as a power of two.
        cluster_bits: u8,
    },
}

impl<E> fmt::Display for RebaseError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Update(ref e) => e.fmt(f),
            Self::NameLength { len } => {
                write!(f, "a backing file's name has 1 to {NAME_LEN} bytes, not {len}")
            }
            Self::ClusterTooLarge { cluster_bits } => {
                CreateError::<E>::ClusterTooLarge { cluster_bits }.fmt(f)
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for RebaseError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Update(e) = self { e.source() } else { None }
    }
}

/// Names another backing file: absent clusters read from it afterwards. The name goes to the end of
/// the file, and one sector of the header is changed, so that a power cut leaves the old name or the
/// new one.
///
/// # Errors
/// [`RebaseError`].
pub fn set_backing<S: Storage>(
    storage: &mut S,
    name: &[u8],
    scratch: &mut Page,
) -> Result<Opened, RebaseError<S::Error>> {
    let refused = RebaseError::NameLength { len: name.len() };
    let len = match u32::try_from(name.len()) {
        Ok(len) if len > 0 && name.len() <= NAME_LEN => len,
        _ => return Err(refused),
    };
    let opened = open(storage).map_err(|e| RebaseError::Update(UpdateError::Open(e)))?;
    let cluster_bits = opened.geometry().cluster_bits;
    if opened.header.backing.is_none() && cluster_bits > *CLUSTER_BITS.start() {
        return Err(RebaseError::ClusterTooLarge { cluster_bits });
    }
    let prepared = prepare(storage, &opened, scratch).map_err(RebaseError::Update)?;
    let failed = |e| RebaseError::Update(UpdateError::Storage(e));
    let offset = prepared.opened.len;
    storage
        .extend(prepared.opened.header.geometry.align(offset.saturating_add(len.into())))
        .map_err(failed)?;
    storage.write_at(offset, name).map_err(failed)?;
    storage.sync().map_err(failed)?;
    let mut fields = [0; 12];
    let place = offset.to_be_bytes().into_iter().chain(len.to_be_bytes());
    fields.iter_mut().zip(place).for_each(|(to, from)| *to = from);
    storage.write_at(NAME_FIELD, &fields).map_err(failed)?;
    storage.sync().map_err(failed)?;
    open(storage).map_err(|e| RebaseError::Update(UpdateError::Open(e)))
}

/// Names no backing file any more: absent clusters read as zeros afterwards. One sector of the header is
/// changed.
///
/// # Errors
/// [`UpdateError`].
pub fn drop_backing<S: Storage>(
    storage: &mut S,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    let opened = open(storage).map_err(UpdateError::Open)?;
    let _made_whole = prepare(storage, &opened, scratch)?;
    storage.write_at(NAME_FIELD, &[0; 12]).map_err(UpdateError::Storage)?;
    storage.sync().map_err(UpdateError::Storage)?;
    open(storage).map_err(UpdateError::Open)
}

/// What the storage of a new image holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fresh {
    /// Nothing, or zeros: a file that was just made.
    Zeroed,
    /// Anything, such as an older image. What lies behind the new tables stays, as lost space.
    Unknown,
}

/// What a new image is to be.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions<'a> {
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// Name of the backing file, 1 to [`NAME_LEN`] bytes; `None` for an image that stands alone.
    pub backing: Option<&'a [u8]>,
    /// Bytes of a cluster as a power of two, 9 to 16, and 9 for an image with a backing file.
    pub cluster_bits: u8,
    /// Entries of an L2 table as a power of two, 6 to 13.
    pub l2_bits: u8,
    /// What the storage holds.
    pub fresh: Fresh,
}

impl<'a> CreateOptions<'a> {
    /// With the sizes that the reference chooses [COW 5.1].
    pub const fn new(sectors: u64, backing: Option<&'a [u8]>) -> Self {
        let (cluster_bits, l2_bits) = if backing.is_some() { (9, 12) } else { (12, 9) };
        Self { sectors, backing, cluster_bits, l2_bits, fresh: Fresh::Zeroed }
    }

    fn header<E>(&self) -> Result<Header, CreateError<E>> {
        let name = self.backing.unwrap_or_default();
        let len = match u32::try_from(name.len()) {
            Ok(len) if name.len() <= NAME_LEN => len,
            _ => return Err(CreateError::NameTooLong { len: name.len() }),
        };
        if self.backing.is_some() && name.is_empty() {
            return Err(CreateError::NameEmpty);
        }
        if self.backing.is_some() && self.cluster_bits > *CLUSTER_BITS.start() {
            return Err(CreateError::ClusterTooLarge { cluster_bits: self.cluster_bits });
        }
        let name_offset = HEADER_LEN as u64;
        let backing = self.backing.map(|_| NamePlace { offset: name_offset, len });
        let name_end = name_offset.saturating_add(len.into());
        let size = self.sectors.saturating_mul(SECTOR_BYTES);
        let geometry = Geometry {
            sectors: self.sectors,
            cluster_bits: self.cluster_bits,
            l2_bits: self.l2_bits,
            l1_offset: name_end.next_multiple_of(ENTRY_BYTES),
            header_len: HEADER_LEN as u64,
            name: backing.map_or((0, 0), |b| (b.offset, b.len.into())),
            l1_little: false,
        };
        let header = Header { backing, backing_mtime_s: 0, size, xen: None, geometry };
        header.judge(u64::MAX).map_err(CreateError::Header)?;
        Ok(header)
    }
}

/// Why no image was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CreateError<E> {
    /// The sizes are impossible. Nothing was written.
    Header(HeaderFault),
    /// The name is longer than [`NAME_LEN`]. Nothing was written.
    NameTooLong {
        /// Bytes given.
        len: usize,
    },
    /// The backing file has no name. Nothing was written.
    NameEmpty,
    /// An image with a backing file and clusters of more than a sector: whoever writes part of a
    /// cluster must copy the rest of it, and the reference does not. Nothing was written.
    ClusterTooLarge {
        /// What was asked for; 9 is right.
        cluster_bits: u8,
    },
    /// The medium failed. There is no image.
    Storage(E),
}

impl<E> fmt::Display for CreateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(fault) => fault.fmt(f),
            Self::NameTooLong { len } => {
                write!(f, "the backing file's name has {len} bytes, more than {NAME_LEN}")
            }
            Self::NameEmpty => f.write_str("the backing file's name is empty"),
            Self::ClusterTooLarge { cluster_bits } => write!(
                f,
                "clusters of 2^{cluster_bits} bytes over a backing file: QEMU would lose the \
                 backing file's part of each cluster that it writes to; only 2^9 is safe"
            ),
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for CreateError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage(error) = self { Some(error) } else { None }
    }
}

/// Makes an image laid out as the reference does: header, name, L1 table. The header comes last, so
/// that an interrupted `create` leaves no image.
///
/// # Errors
/// [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
) -> Result<(), CreateError<S::Error>> {
    let header = options.header()?;
    let g = &header.geometry;
    // Whole sectors, so that whoever looks at the first one finds it.
    let end = g.l1_offset.saturating_add(g.l1_len()).next_multiple_of(SECTOR_BYTES);
    storage.extend(end).map_err(CreateError::Storage)?;
    if options.fresh == Fresh::Unknown {
        // An old header must never be seen with tables that are gone.
        storage.zero_at(0, HEADER_LEN as u64).map_err(CreateError::Storage)?;
        storage.sync().map_err(CreateError::Storage)?;
        let rest = end.saturating_sub(HEADER_LEN as u64);
        storage.zero_at(HEADER_LEN as u64, rest).map_err(CreateError::Storage)?;
    }
    if let Some(name) = options.backing {
        storage.write_at(HEADER_LEN as u64, name).map_err(CreateError::Storage)?;
    }
    storage.sync().map_err(CreateError::Storage)?;
    storage.write_at(0, &header.emit()).map_err(CreateError::Storage)?;
    storage.sync().map_err(CreateError::Storage)
}

/// Empties an image: everything reads from the backing file again, or as zeros. An empty L1 table
/// is added at the end of the file, and the header's pointer to it is the one change that counts.
/// Then the space of the old content is given back.
///
/// # Errors
/// [`UpdateError`]; a storage error after the header was written leaves the image empty.
pub fn rollback<S: Storage>(
    storage: &mut S,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    let opened = open(storage).map_err(UpdateError::Open)?;
    let prepared = prepare(storage, &opened, scratch)?;
    let Opened { mut header, len } = prepared.opened;
    let old = header.geometry;
    // Where Xen's writers have it [COW 5.3]; clusters may be smaller.
    let l1_offset = len.saturating_add(XEN_L1_ALIGN.wrapping_sub(1)) & !(XEN_L1_ALIGN - 1);
    header.geometry.l1_offset = l1_offset;
    let end = old.align(l1_offset.saturating_add(old.l1_len()));
    storage.extend(end).map_err(UpdateError::Storage)?;
    storage.zero_at(len, end.saturating_sub(len)).map_err(UpdateError::Storage)?;
    storage.sync().map_err(UpdateError::Storage)?;
    storage.write_at(L1_FIELD, &l1_offset.to_be_bytes()).map_err(UpdateError::Storage)?;
    storage.sync().map_err(UpdateError::Storage)?;
    let opened = Opened { header, len: end };
    // The header, the name and what lies with them in their sectors stay.
    let (name, name_len) = old.name;
    let kept = old.header_len.max(name.saturating_add(name_len)).next_multiple_of(SECTOR_BYTES);
    storage.punch(kept, len.saturating_sub(kept)).map_err(UpdateError::Storage)?;
    Ok(opened)
}
