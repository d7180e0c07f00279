//! Internal snapshots: listed, and opened as layers [COW 6.2].

use super::bytes::{u16_at, u32_at, u64_at};
use super::error::SnapshotError;
use super::frozen::Frozen;
use super::geometry::Geometry;
use super::image::Opened;
use super::volume::Region;
use crate::pages::StorageKey;
use crate::storage::ReadStorage;
use crate::units::{MAX_SECTORS, SECTOR_BYTES};

/// Bytes of an entry before its extra data.
const HEAD_LEN: usize = 40;
/// Most bytes of extra data (of QEMU too).
const MAX_EXTRA_LEN: u32 = 1024;

/// One snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Byte of the entry in the image.
    pub(super) offset: u64,
    pub(super) l1: Region,
    extra_len: u32,
    id_len: u16,
    name_len: u16,
    disk_bytes: u64,
    seconds: u32,
    vm_state_bytes: u64,
}

impl Snapshot {
    /// Size of the disk when it was taken, in bytes.
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// When it was taken: seconds since 1970.
    pub const fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Bytes of the virtual machine's state that was saved with it; 0 for a disk only.
    pub const fn vm_state_bytes(&self) -> u64 {
        self.vm_state_bytes
    }

    /// Byte and length of its entry in the image, the padding not included. It says when and in which
    /// order the snapshot was taken, and stays the same as long as the snapshot exists.
    pub const fn place(&self) -> (u64, u64) {
        let strings = self.id_len as u64 + self.name_len as u64;
        (self.offset, HEAD_LEN as u64 + self.extra_len as u64 + strings)
    }

    /// Bytes of the whole entry, padding included.
    pub(super) const fn entry_bytes(&self) -> u64 {
        self.place().1.next_multiple_of(8)
    }

    /// The first bytes of the identifier (often a decimal number), as many as fit into `buf`.
    ///
    /// # Errors
    /// The medium's.
    pub fn id<'b, S: ReadStorage>(
        &self,
        storage: &S,
        buf: &'b mut [u8],
    ) -> Result<&'b [u8], S::Error> {
        read_text(storage, self.id_offset(), self.id_len, buf)
    }

    /// The first bytes of the name, as many as fit into `buf`.
    ///
    /// # Errors
    /// The medium's.
    pub fn name<'b, S: ReadStorage>(
        &self,
        storage: &S,
        buf: &'b mut [u8],
    ) -> Result<&'b [u8], S::Error> {
        let at = self.id_offset().saturating_add(u64::from(self.id_len));
        read_text(storage, at, self.name_len, buf)
    }

    /// The disk as it was when the snapshot was taken. `None` if its L1 table is not aligned, not
    /// inside the image, or too short, or the size is one that no disk has.
    pub fn frozen(&self, opened: &Opened, storage: StorageKey) -> Option<Frozen> {
        let whole = &opened.header.geometry;
        let sectors = self.disk_bytes / SECTOR_BYTES;
        let geometry = Geometry::new(
            whole.cluster_bits(),
            whole.has_subclusters(),
            whole.refcount_order(),
            sectors,
        );
        let end = self.l1.offset.saturating_add(self.l1.bytes);
        let fits = sectors > 0
            && sectors <= MAX_SECTORS
            && self.l1.offset & geometry.cluster_mask() == 0
            && self.l1.offset >= geometry.cluster_bytes()
            && end <= opened.len
            && self.l1.entries() >= geometry.l1_needed();
        let mut frozen = opened.frozen(storage);
        frozen.0.geometry = geometry;
        frozen.0.l1 = self.l1;
        fits.then_some(frozen)
    }

    const fn id_offset(&self) -> u64 {
        self.offset.saturating_add(HEAD_LEN as u64).saturating_add(self.extra_len as u64)
    }
}

fn read_text<'b, S: ReadStorage>(
    storage: &S,
    offset: u64,
    len: u16,
    buf: &'b mut [u8],
) -> Result<&'b [u8], S::Error> {
    let len = usize::from(len).min(buf.len());
    let Some(text) = buf.get_mut(..len) else { return Ok(&[]) };
    if len > 0 {
        storage.read_at(offset, text)?;
    }
    Ok(text)
}

/// The snapshots of an image, in the order of its list. Stops at the first error.
#[derive(Debug)]
pub struct Snapshots<'s, S> {
    storage: &'s S,
    disk_bytes: u64,
    len: u64,
    at: u64,
    left: u32,
}

/// Lists the internal snapshots of an image.
pub const fn snapshots<'s, S: ReadStorage>(storage: &'s S, opened: &Opened) -> Snapshots<'s, S> {
    Snapshots {
        storage,
        disk_bytes: opened.header.disk_bytes,
        len: opened.len,
        at: opened.header.snapshots_offset,
        left: opened.header.snapshots,
    }
}

impl<S: ReadStorage> Snapshots<'_, S> {
    fn entry(&self) -> Result<Snapshot, SnapshotError<S::Error>> {
        let corrupt = SnapshotError::Corrupt { offset: self.at };
        let there = |end: u64| end <= self.len;
        let head_end = self.at.saturating_add(HEAD_LEN as u64);
        if !there(head_end) {
            return Err(corrupt);
        }
        let mut head = [0; HEAD_LEN];
        self.storage.read_at(self.at, &mut head).map_err(SnapshotError::Storage)?;
        let extra_len = u32_at(&head, 36);
        let mut snapshot = Snapshot {
            offset: self.at,
            l1: Region {
                offset: u64_at(&head, 0),
                bytes: u64::from(u32_at(&head, 8)).saturating_mul(8),
            },
            extra_len,
            id_len: u16_at(&head, 12),
            name_len: u16_at(&head, 14),
            disk_bytes: self.disk_bytes,
            seconds: u32_at(&head, 16),
            vm_state_bytes: u64::from(u32_at(&head, 32)),
        };
        // Behind the last entry QEMU writes no padding, and the file may end there.
        if extra_len > MAX_EXTRA_LEN || !there(self.at.saturating_add(snapshot.place().1)) {
            return Err(corrupt);
        }
        if extra_len >= 16 {
            let mut extra = [0; 16];
            self.storage.read_at(head_end, &mut extra).map_err(SnapshotError::Storage)?;
            snapshot.vm_state_bytes = u64_at(&extra, 0);
            snapshot.disk_bytes = u64_at(&extra, 8);
        }
        Ok(snapshot)
    }
}

impl<S: ReadStorage> Iterator for Snapshots<'_, S> {
    type Item = Result<Snapshot, SnapshotError<S::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.entry();
        match &entry {
            Ok(snapshot) => self.at = self.at.saturating_add(snapshot.entry_bytes()),
            Err(_) => self.left = 0,
        }
        Some(entry)
    }
}

/// The snapshot with this identifier or, if there is none, this name.
///
/// # Errors
/// See [`SnapshotError`].
pub fn find_snapshot<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    wanted: &[u8],
) -> Result<Option<Snapshot>, SnapshotError<S::Error>> {
    let mut named = None;
    for snapshot in snapshots(storage, opened) {
        let snapshot = snapshot?;
        let id_at = snapshot.id_offset();
        let name_at = id_at.saturating_add(u64::from(snapshot.id_len));
        if is_text(storage, id_at, snapshot.id_len, wanted).map_err(SnapshotError::Storage)? {
            return Ok(Some(snapshot));
        }
        if named.is_none()
            && is_text(storage, name_at, snapshot.name_len, wanted)
                .map_err(SnapshotError::Storage)?
        {
            named = Some(snapshot);
        }
    }
    Ok(named)
}

/// The text at this place is the one that is wanted.
fn is_text<S: ReadStorage>(
    storage: &S,
    offset: u64,
    len: u16,
    wanted: &[u8],
) -> Result<bool, S::Error> {
    if usize::from(len) != wanted.len() {
        return Ok(false);
    }
    let mut at = offset;
    for part in wanted.chunks(64) {
        let mut bytes = [0; 64];
        let Some(bytes) = bytes.get_mut(..part.len()) else { return Ok(false) };
        storage.read_at(at, bytes)?;
        if bytes != part {
            return Ok(false);
        }
        at = at.saturating_add(part.len() as u64);
    }
    Ok(true)
}
