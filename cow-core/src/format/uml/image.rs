//! Opening, making, checking and changing a COW file over blocking storage, outside the engine.

use super::error::{CreateError, OpenError, ParentFault, PathError, PathFault, RollbackError};
use super::header::{
    EMPTYING, HEAD_LEN, Header, Kind, Order, Version, is_alignment, is_uml, judge_path,
};
use crate::format::bitmap::{
    Finding, Frozen, Geometry, Judged, Report, Volume, Writable, first_missing, judge,
};
use crate::pages::{Page, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::{SECTOR_BYTES, SECTOR_LEN};

/// A file whose header was read and found good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    header: Header,
    geometry: Geometry,
    len: u64,
}

impl Opened {
    /// Which header it has.
    pub const fn version(&self) -> Version {
        self.header.version
    }

    /// The layout.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Recorded size of the parent in bytes: that of the disk, which is rounded up to sectors.
    pub const fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// Recorded time of modification of the parent: seconds since 1970, modulo 2^32.
    pub const fn mtime_s(&self) -> u32 {
        self.header.mtime_s
    }

    /// Alignment of bitmap and data in bytes; 512 in versions 1 and 2.
    pub const fn alignment(&self) -> u32 {
        self.header.alignment
    }

    /// The reference implementation can use the file: it keeps the start of the data in a signed
    /// 32-bit number, which is enough for a parent of nearly 8 TiB [COW 1.2].
    pub const fn fits_reference(&self) -> bool {
        self.geometry.data_offset() < 1 << 31
    }

    /// Compares a file with the recorded parent [COW 1.3]: its size, then its time of modification
    /// in whole seconds, modulo 2^32.
    ///
    /// # Errors
    /// [`ParentFault`]: what differs first.
    pub fn judge_parent(&self, size_bytes: u64, mtime_s: i64) -> Result<(), ParentFault> {
        if size_bytes != self.header.size_bytes {
            let expected = self.header.size_bytes;
            return Err(ParentFault::Size { expected, found: size_bytes });
        }
        let found_s = low_word(mtime_s);
        if found_s != self.header.mtime_s {
            return Err(ParentFault::Modified { expected_s: self.header.mtime_s, found_s });
        }
        Ok(())
    }

    /// As a layer that is only read. Whoever wrote to it has ended.
    pub const fn frozen<'m>(&self, storage: StorageKey) -> Frozen<'m> {
        Frozen::new(self.volume(storage))
    }

    const fn volume(&self, storage: StorageKey) -> Volume {
        Volume { data: storage, metadata: storage, geometry: self.geometry, end: self.len }
    }
}

/// The lowest 32 bits.
const fn low_word(seconds: i64) -> u32 {
    let [.., a, b, c, d] = seconds.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Reads and judges the header. The path of the parent is read with [`read_path`].
///
/// # Errors
/// [`OpenError`].
pub fn open<S: ReadStorage>(storage: &S) -> Result<Opened, OpenError<S::Error>> {
    let (kind, head, len) = read_kind(storage)?;
    if kind.emptying {
        return Err(OpenError::BeingEmptied);
    }
    open_kind(storage, &kind, &head, len)
}

fn read_kind<S: ReadStorage>(
    storage: &S,
) -> Result<(Kind, [u8; HEAD_LEN], u64), OpenError<S::Error>> {
    let len = storage.len_bytes().map_err(OpenError::Storage)?;
    let mut head = [0; HEAD_LEN];
    let there = usize::try_from(len).unwrap_or(HEAD_LEN).min(HEAD_LEN);
    if let Some(part) = head.get_mut(..there) {
        storage.read_at(0, part).map_err(OpenError::Storage)?;
    }
    if there < HEAD_LEN && head.first_chunk().is_some_and(is_uml) {
        return Err(OpenError::Truncated { needed: HEAD_LEN as u64, len });
    }
    Ok((Kind::parse(&head)?, head, len))
}

fn open_kind<S: ReadStorage>(
    storage: &S,
    kind: &Kind,
    head: &[u8; HEAD_LEN],
    len: u64,
) -> Result<Opened, OpenError<S::Error>> {
    let header = Header::read(storage, kind, head, len)?;
    let bytes = header.size_bytes;
    let geometry = header.geometry().ok_or(OpenError::DiskSize { bytes })?;
    let needed = geometry.bitmap_offset().saturating_add(geometry.bitmap_len());
    if len < needed {
        return Err(OpenError::Truncated { needed, len });
    }
    Ok(Opened { header, geometry, len })
}

/// Opens an overlay for the engine: the file gets room for every sector, and what a killed process
/// may have left becomes durable.
///
/// # Errors
/// [`OpenError`]; the file reads as before.
pub fn open_writable<S: Storage>(
    storage: &mut S,
    key: StorageKey,
    scratch: &mut Page,
) -> Result<Writable, OpenError<S::Error>> {
    let mut opened = open(storage)?;
    let geometry = opened.geometry;
    let missing = first_missing(storage, &geometry, opened.len, scratch);
    if let Some((sector, sectors)) = missing.map_err(OpenError::Storage)? {
        return Err(OpenError::DataMissing { sector, sectors });
    }
    storage.extend(geometry.image_len()).map_err(OpenError::Storage)?;
    storage.sync().map_err(OpenError::Storage)?;
    opened.len = opened.len.max(geometry.image_len());
    Ok(Writable::new(opened.volume(key), None, None))
}

/// Reads the path of the parent into `buffer`, of at least [`Version::path_most`] bytes (4096 are
/// enough for every version). It is not followed here: that is a permission that only the caller
/// can give.
///
/// # Errors
/// [`PathError`].
pub fn read_path<'b, S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], PathError<S::Error>> {
    let (offset, len) = opened.header.version.path_field();
    let most = opened.header.version.path_most();
    let Some(field) = buffer.get_mut(..len) else {
        return Err(PathError::BufferTooSmall { needed: len });
    };
    storage.read_at(offset, field).map_err(PathError::Storage)?;
    let fault = |reason| PathError::Path { reason };
    match field.iter().position(|byte| *byte == 0) {
        Some(0) => Err(fault(PathFault::Empty)),
        Some(end) => field.get(..end).ok_or(fault(PathFault::TooLong { most })),
        None => Err(fault(PathFault::TooLong { most })),
    }
}

/// What a new file is to be.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions<'a> {
    /// Which header. [`Version::V1`] is written little-endian.
    pub version: Version,
    /// Path of the parent, at most [`Version::path_most`] bytes, as it is to be stored: the
    /// reference stores an absolute one.
    pub path: &'a [u8],
    /// Size of the parent in bytes.
    pub size_bytes: u64,
    /// Time of its last modification, in seconds since 1970.
    pub mtime_s: i64,
    /// Alignment of bitmap and data: a power of two from 512 to 1 MiB; the reference takes 4096.
    /// Without meaning in versions 1 and 2.
    pub alignment: u32,
    /// The storage may hold something, such as an older file: the bitmap is made zero first.
    pub wipe: bool,
}

/// Makes a file without data, byte for byte as the reference does. The header comes last, so that
/// an interrupted `create` leaves no COW file.
///
/// # Errors
/// [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
) -> Result<Opened, CreateError<S::Error>> {
    let (version, bytes) = (options.version, options.size_bytes);
    judge_path(options.path, version).map_err(|reason| CreateError::Path { reason })?;
    if !is_alignment(options.alignment) {
        return Err(CreateError::Alignment { found: options.alignment });
    }
    let order = if version == Version::V1 { Order::Little } else { Order::Big };
    let header = Header {
        version,
        order,
        tail_order: order,
        mtime_s: low_word(options.mtime_s),
        size_bytes: bytes,
        alignment: options.alignment,
    };
    let geometry = header.geometry().ok_or(CreateError::DiskSize { bytes })?;
    let unmapped = geometry.sectors().saturating_sub(geometry.mapped_sectors());
    if unmapped > 0 {
        return Err(CreateError::NoBit { sectors: unmapped });
    }
    let len = geometry.data_offset().saturating_add(bytes);
    write_new(storage, options, &header, &geometry, len).map_err(CreateError::Storage)?;
    Ok(Opened { header, geometry, len })
}

fn write_new<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
    header: &Header,
    geometry: &Geometry,
    len: u64,
) -> Result<(), S::Error> {
    storage.extend(len)?;
    if options.wipe {
        // An old header must never be seen with a bitmap that is already gone.
        storage.zero_at(0, 8)?;
        storage.sync()?;
        storage.zero_at(0, geometry.data_offset())?;
    }
    storage.write_at(options.version.path_field().0, options.path)?;
    storage.sync()?;
    header.write(storage)?;
    storage.sync()
}

/// A parent as it is recorded.
#[derive(Clone, Copy, Debug)]
pub struct NewParent<'a> {
    /// Path, at most [`Version::path_most`] bytes; the reference stores an absolute one.
    pub path: &'a [u8],
    /// Size in bytes; as many whole or begun sectors as before.
    pub size_bytes: u64,
    /// Time of its last modification, in seconds since 1970.
    pub mtime_s: i64,
}

/// Records another parent (the reference calls that *switching the backing file*). The header keeps
/// its version; the reference makes every header one of version 3, which destroys bits of the older
/// ones [COW 1.3].
///
/// A power cut leaves the old parent, the new one or, if a path is longer than some 470 bytes or the
/// file has version 2, a mix that names no file or one with another time; bits and data are not
/// touched, and a second call mends it.
///
/// # Errors
/// [`PathError`]; unless the storage failed, nothing was written.
pub fn set_parent<S: Storage>(
    storage: &mut S,
    opened: &mut Opened,
    parent: &NewParent<'_>,
    scratch: &mut Page,
) -> Result<(), PathError<S::Error>> {
    let version = opened.header.version;
    judge_path(parent.path, version).map_err(|reason| PathError::Path { reason })?;
    let (expected, found) = (opened.geometry.sectors(), parent.size_bytes.div_ceil(SECTOR_BYTES));
    if expected != found {
        return Err(PathError::Sectors { expected, found });
    }
    let mtime_s = low_word(parent.mtime_s);
    let header = Header { mtime_s, size_bytes: parent.size_bytes, ..opened.header };
    write_parent(storage, &header, opened.len, parent.path, scratch).map_err(PathError::Storage)?;
    opened.header = header;
    Ok(())
}

/// First what lies behind the first sector of the file; then, at once, that sector, which holds all
/// of a short path and, but in version 2, size and time of modification.
fn write_parent<S: Storage>(
    storage: &mut S,
    header: &Header,
    len: u64,
    path: &[u8],
    scratch: &mut Page,
) -> Result<(), S::Error> {
    let mut sector = [0; SECTOR_LEN];
    let held = usize::try_from(len).unwrap_or(SECTOR_LEN).min(SECTOR_LEN);
    let Some(first) = sector.get_mut(..held) else { return Ok(()) };
    storage.read_at(0, first)?;
    let (path_at, field_len) = header.version.path_field();
    let path_bytes = path.iter().copied().chain(core::iter::repeat(0)).take(field_len);
    let skip = usize::try_from(path_at).unwrap_or(SECTOR_LEN);
    let mut targets = first.iter_mut().skip(skip).chain(scratch.as_bytes_mut());
    for byte in path_bytes {
        let Some(to) = targets.next() else { break };
        *to = byte;
    }
    let behind = field_len.saturating_add(skip).saturating_sub(held);
    let (facts_at, facts, facts_len) = header.parent_fields();
    let facts = facts.get(..facts_len).unwrap_or(&facts);
    if let Some(tail) = scratch.as_bytes().get(..behind).filter(|tail| !tail.is_empty()) {
        storage.write_at(held as u64, tail)?;
    }
    let at = usize::try_from(facts_at).unwrap_or(SECTOR_LEN);
    let field = first.get_mut(at..).and_then(|rest| rest.get_mut(..facts.len()));
    match field {
        Some(field) => field.iter_mut().zip(facts).for_each(|(to, from)| *to = *from),
        None => storage.write_at(facts_at, facts)?,
    }
    storage.sync()?;
    storage.write_at(0, first)?;
    storage.sync()
}

/// Empties a file: everything reads from below again. Also one whose emptying was cut short.
///
/// The version is an impossible one in between: at no moment is a part of the content visible.
///
/// # Errors
/// [`RollbackError`]; after a failure of the storage, call it again.
pub fn rollback<S: Storage>(storage: &mut S) -> Result<(), RollbackError<S::Error>> {
    let opened = read_kind(storage)
        .and_then(|(kind, head, len)| open_kind(storage, &kind, &head, len))
        .map_err(RollbackError::of)?;
    empty(storage, &opened).map_err(RollbackError::Storage)
}

fn empty<S: Storage>(storage: &mut S, opened: &Opened) -> Result<(), S::Error> {
    let (header, geometry) = (&opened.header, &opened.geometry);
    header.write_version(storage, EMPTYING)?;
    storage.sync()?;
    storage.zero_at(geometry.bitmap_offset(), geometry.bitmap_len())?;
    storage.sync()?;
    header.write_version(storage, 0)?;
    storage.sync()?;
    let data = geometry.data_offset();
    opened.len.checked_sub(data).map_or(Ok(()), |len| storage.punch(data, len))
}

/// Judges header, path and bitmap, and tells `found` what is not in order. Nobody may write
/// meanwhile.
///
/// # Errors
/// [`OpenError`]: no COW file, or one whose header is wrong.
pub fn check<S: ReadStorage>(
    storage: &S,
    scratch: &mut Page,
    found: impl FnMut(Finding),
) -> Result<Report, OpenError<S::Error>> {
    let opened = open(storage)?;
    let mut judged = Judged::new(found);
    match read_path(storage, &opened, scratch.as_bytes_mut()) {
        Ok(_) => {}
        Err(PathError::Path { reason: PathFault::Empty }) => judged.tell(Finding::NoPath),
        Err(PathError::Storage(error)) => return Err(OpenError::Storage(error)),
        Err(_) => judged.tell(Finding::EndlessPath),
    }
    let geometry = opened.geometry;
    let sectors =
        judge(storage, &geometry, opened.len, scratch, &mut judged).map_err(OpenError::Storage)?;
    Ok(judged.report(geometry, sectors))
}

impl<E> RollbackError<E> {
    /// Why there is nothing to empty.
    fn of(error: OpenError<E>) -> Self {
        match error.of_header() {
            Ok(reason) => Self::Header { reason },
            Err(error) => Self::Storage(error),
        }
    }
}
