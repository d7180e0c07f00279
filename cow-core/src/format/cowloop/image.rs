//! Opening, making, closing, checking and repairing a cowfile over blocking storage.

use super::error::{CloseError, CreateError, LoadError, OpenError, ParentFault};
use super::head::{HEAD_LEN, Head, State, UNIT, Width, is_cowloop};
use super::unlisted::{count, list, wipe};
use crate::format::IndexEntry;
use crate::format::bitmap::{
    Finding, Frozen, Geometry, Judged, Report, Volume, Writable, fill_ranks, first_missing, judge,
    ranks_needed,
};
use crate::pages::{Page, StorageKey};
use crate::storage::{ReadStorage, Storage};

/// A cowfile whose head was read and found good, and whose bits were counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    pub(super) head: Head,
    pub(super) geometry: Geometry,
    pub(super) len: u64,
    pub(super) used: u64,
}

impl Opened {
    /// The layout. In a packed file the data are one after the other from
    /// [`Geometry::data_offset`] on.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Width of the words in the head.
    pub const fn width(&self) -> Width {
        self.head.width
    }

    /// The head has the most significant byte first.
    pub const fn is_big_endian(&self) -> bool {
        self.head.big_endian
    }

    /// Only data that are there, one after the other: for keeping, not for writing.
    pub const fn is_packed(&self) -> bool {
        self.head.is_packed()
    }

    /// The last program that wrote to it came to an orderly end.
    pub fn was_closed(&self) -> bool {
        self.head.state() == State::Clean
    }

    /// Units of 1024 bytes of the parent.
    pub const fn units(&self) -> u64 {
        self.head.units
    }

    /// Units of 1024 bytes that the file holds.
    pub const fn used_units(&self) -> u64 {
        self.used
    }

    /// The parent's recorded [fingerprint](super::Fingerprint).
    pub const fn fingerprint(&self) -> u32 {
        let [a, b, c, d, ..] = self.head.fingerprint.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Compares a parent of `len` bytes with the recorded one.
    ///
    /// # Errors
    /// [`ParentFault`]: what differs first.
    pub fn judge_parent(&self, len: u64, fingerprint: u32) -> Result<(), ParentFault> {
        let (expected, found) = (self.head.units, len / UNIT);
        if expected != found {
            return Err(ParentFault::Size { expected, found });
        }
        let expected = self.fingerprint();
        if expected != fingerprint {
            return Err(ParentFault::Fingerprint { expected, found: fingerprint });
        }
        Ok(())
    }

    /// Entries of index memory to read the file: none unless it is packed.
    pub fn index_needed(&self) -> u64 {
        if self.is_packed() { ranks_needed(&self.geometry) } else { 0 }
    }

    const fn volume(&self, storage: StorageKey, end: u64) -> Volume {
        Volume { data: storage, metadata: storage, geometry: self.geometry, end }
    }

    /// As a layer that is only read; `index` is the memory that [`load_index`] filled. Whoever
    /// wrote to the file has ended.
    pub const fn frozen<'m>(&self, storage: StorageKey, index: &'m [IndexEntry]) -> Frozen<'m> {
        let volume = self.volume(storage, self.len);
        if self.is_packed() { Frozen::packed(volume, index) } else { Frozen::new(volume) }
    }
}

fn read_head<S: ReadStorage>(storage: &S) -> Result<(Head, Geometry, u64), OpenError<S::Error>> {
    let len = storage.len_bytes().map_err(OpenError::Storage)?;
    let mut bytes = [0; HEAD_LEN];
    let there = usize::try_from(len).unwrap_or(HEAD_LEN).min(HEAD_LEN);
    if let Some(part) = bytes.get_mut(..there) {
        storage.read_at(0, part).map_err(OpenError::Storage)?;
    }
    if there < HEAD_LEN && bytes.first_chunk().is_some_and(is_cowloop) {
        return Err(OpenError::Truncated { needed: HEAD_LEN as u64, len });
    }
    let head = Head::parse(&bytes)?;
    let geometry = head.geometry()?;
    let needed = UNIT.saturating_add(geometry.bitmap_len());
    if len < needed {
        return Err(OpenError::Truncated { needed, len });
    }
    Ok((head, geometry, len))
}

/// As [`open`], of a file that was not closed or counts its units wrongly, to look at it.
///
/// # Errors
/// [`OpenError`], but not [`OpenError::Dirty`] or [`OpenError::WrongCount`].
pub fn open_in_any_state<S: ReadStorage>(
    storage: &S,
    scratch: &mut Page,
) -> Result<Opened, OpenError<S::Error>> {
    let (head, geometry, len) = read_head(storage)?;
    if head.emptying {
        return Err(OpenError::BeingEmptied);
    }
    let used = fill_ranks(storage, &geometry, &mut [], scratch).map_err(OpenError::Storage)?;
    if head.is_packed() {
        let data = used.checked_mul(UNIT).and_then(|data| data.checked_add(head.data_offset));
        let needed = data.unwrap_or(u64::MAX);
        if len < needed {
            return Err(OpenError::Truncated { needed, len });
        }
    }
    Ok(Opened { head, geometry, len, used })
}

/// Reads and judges the head and counts the bits. A file that this program wrote to and did not
/// close is good: its bits are never behind what was acknowledged.
///
/// # Errors
/// [`OpenError`]; among them a file that another program did not close.
pub fn open<S: ReadStorage>(
    storage: &S,
    scratch: &mut Page,
) -> Result<Opened, OpenError<S::Error>> {
    let opened = open_in_any_state(storage, scratch)?;
    let (recorded, found) = (opened.head.used, opened.used);
    match opened.head.state() {
        State::Clean if recorded != found => Err(OpenError::WrongCount { recorded, found }),
        State::Clean | State::Unclean => Ok(opened),
        State::Dirty => Err(OpenError::Dirty),
    }
}

/// Fills the index memory of a packed file; does nothing for others.
///
/// # Errors
/// [`LoadError`].
pub fn load_index<S: ReadStorage>(
    storage: &S,
    opened: &Opened,
    index: &mut [IndexEntry],
    scratch: &mut Page,
) -> Result<(), LoadError<S::Error>> {
    let needed = opened.index_needed();
    if (index.len() as u64) < needed {
        return Err(LoadError::IndexTooSmall { needed });
    }
    if needed == 0 {
        return Ok(());
    }
    let units = fill_ranks(storage, &opened.geometry, index, scratch);
    if units.map_err(LoadError::Storage)? == opened.used { Ok(()) } else { Err(LoadError::Changed) }
}

/// Opens an overlay for the engine: the file gets room for every unit, and what a killed process
/// may have left becomes durable.
///
/// # Errors
/// [`OpenError`]; the file reads as before.
pub fn open_writable<S: Storage>(
    storage: &mut S,
    key: StorageKey,
    scratch: &mut Page,
) -> Result<Writable, OpenError<S::Error>> {
    let opened = open(storage, scratch)?;
    if opened.is_packed() {
        return Err(OpenError::Packed);
    }
    let geometry = opened.geometry;
    let missing = first_missing(storage, &geometry, opened.len, scratch);
    if let Some((sector, sectors)) = missing.map_err(OpenError::Storage)? {
        return Err(OpenError::DataMissing { sector, sectors });
    }
    storage.extend(geometry.image_len()).map_err(OpenError::Storage)?;
    storage.sync().map_err(OpenError::Storage)?;
    let volume = opened.volume(key, opened.len.max(geometry.image_len()));
    let mark = opened.head.in_use().emit();
    let writable = Writable::new(volume, Some(mark), Some(opened.used));
    Ok(if opened.head.state() == State::Clean { writable } else { writable.with_residue() })
}

/// What a new cowfile is to be.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Width of the words in the head: that of the machine that is to use the file.
    pub width: Width,
    /// The head has the most significant byte first, as on that machine.
    pub big_endian: bool,
    /// Length of the parent in bytes. What is behind its last whole 1024 bytes is left out.
    pub parent_bytes: u64,
    /// Its [fingerprint](super::fingerprint()).
    pub fingerprint: u32,
    /// The storage may hold something: all of it is made zero first.
    pub wipe: bool,
}

/// Makes a cowfile without data, byte for byte as the driver does.
///
/// # Errors
/// [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    options: &CreateOptions,
) -> Result<Opened, CreateError<S::Error>> {
    let units = options.parent_bytes / UNIT;
    let head = Head::new(options.width, options.big_endian, units, options.fingerprint);
    let geometry = head.judge_new()?;
    let len = UNIT.saturating_add(head.map_len);
    write_new(storage, &head, len, options.wipe).map_err(CreateError::Storage)?;
    Ok(Opened { head, geometry, len, used: 0 })
}

fn write_new<S: Storage>(
    storage: &mut S,
    head: &Head,
    len: u64,
    wipe: bool,
) -> Result<(), S::Error> {
    storage.extend(len)?;
    if wipe {
        storage.zero_at(0, UNIT)?;
        storage.sync()?;
        // The data, too: the driver's own repair believes whatever is not zero.
        let end = storage.len_bytes()?;
        storage.zero_at(0, end)?;
        storage.sync()?;
    }
    put_head(storage, head)?;
    storage.sync()
}

pub(super) fn put_head<S: Storage>(storage: &mut S, head: &Head) -> Result<(), S::Error> {
    let mark = head.emit();
    storage.write_at(0, mark.bytes.get(..usize::from(mark.len)).unwrap_or(&mark.bytes))
}

/// Records an orderly end: call it when the engine is idle, committed and still takes writes, then
/// drop the overlay. After a failed sync do not: the next opening must know.
///
/// Where writes failed, or the session before was cut short, data may lie in the file that no bit
/// names. They are made zero, or a repair by another program would take them for written.
///
/// # Errors
/// [`CloseError`]; the file then counts as not closed.
pub fn close<S: Storage>(
    storage: &mut S,
    overlay: &Writable,
    scratch: &mut [Page; 2],
) -> Result<(), CloseError<S::Error>> {
    storage.sync().map_err(CloseError::Storage)?;
    let Ok((head, geometry, len)) = read_head(storage) else { return Err(CloseError::OtherImage) };
    let same = geometry == overlay.geometry() && !head.is_packed() && !head.emptying;
    let (state, used) = (head.state(), overlay.used_units().unwrap_or(head.used));
    if !same || state == State::Dirty || (state == State::Clean && used != head.used) {
        return Err(CloseError::OtherImage);
    }
    if overlay.has_residue() {
        wipe(storage, &geometry, len, scratch).map_err(CloseError::Storage)?;
    }
    if state == State::Clean {
        return Ok(()); // no bit was written
    }
    put_head(storage, &head.clean(used)).map_err(CloseError::Storage)?;
    storage.sync().map_err(CloseError::Storage)
}

/// What [`repair`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Repaired {
    /// Units of 1024 bytes that had data but no bit, and have one now.
    pub listed: u64,
    /// Units that the file holds now.
    pub used_units: u64,
}

/// Makes a file that was not closed in order usable again.
///
/// If another program wrote to it last, data that are not zero but have no bit are taken as
/// written, as `cowrepair` does: that program may have lost their bits. It is wrong only where the
/// file lay on a medium that was not zero before. If this program did, its bits are complete: what
/// else lies in the file was never acknowledged, and is made zero.
///
/// # Errors
/// [`OpenError`]; call it again after a failure of the storage.
pub fn repair<S: Storage>(
    storage: &mut S,
    scratch: &mut [Page; 2],
) -> Result<Repaired, OpenError<S::Error>> {
    let [first, _] = &mut *scratch;
    let opened = open_in_any_state(storage, first)?;
    let right = opened.head.used == opened.used;
    if opened.is_packed() || (opened.head.state() == State::Clean && right) {
        return Ok(Repaired { listed: 0, used_units: opened.used });
    }
    mend(storage, &opened, scratch).map_err(OpenError::Storage)
}

fn mend<S: Storage>(
    storage: &mut S,
    opened: &Opened,
    scratch: &mut [Page; 2],
) -> Result<Repaired, S::Error> {
    let geometry = &opened.geometry;
    let listed = if opened.head.state() == State::Unclean {
        wipe(storage, geometry, opened.len, scratch)?;
        0
    } else {
        list(storage, geometry, opened.len, scratch)?
    };
    storage.sync()?;
    let used_units = opened.used.saturating_add(listed);
    put_head(storage, &opened.head.clean(used_units))?;
    storage.sync()?;
    Ok(Repaired { listed, used_units })
}

/// Judges head and bitmap and, after a disorderly end, looks for data without a bit. Tells `found`
/// what is not in order. Nobody may write meanwhile.
///
/// # Errors
/// [`OpenError`]: no cowfile, or one whose head is wrong.
pub fn check<S: ReadStorage>(
    storage: &S,
    scratch: &mut [Page; 2],
    found: impl FnMut(Finding),
) -> Result<Report, OpenError<S::Error>> {
    let [first, _] = &mut *scratch;
    let opened = open_in_any_state(storage, first)?;
    let (head, geometry) = (opened.head, opened.geometry);
    let mut judged = Judged::new(found);
    // Packed data have their end judged already.
    let end = if head.is_packed() { u64::MAX } else { opened.len };
    let sectors = judge(storage, &geometry, end, first, &mut judged).map_err(OpenError::Storage)?;
    let unlisted = |scratch: &mut [Page; 2]| {
        count(storage, &geometry, opened.len, scratch).map_err(OpenError::Storage)
    };
    match head.state() {
        State::Unclean => judged.tell(Finding::Unclean),
        State::Dirty => judged.tell(Finding::Dirty { unlisted: unlisted(scratch)? }),
        State::Clean if head.used != opened.used => {
            judged.tell(Finding::WrongCount { recorded: head.used, found: opened.used });
        }
        State::Clean => {}
    }
    Ok(judged.report(geometry, sectors))
}

/// Records the fingerprint of another parent of the same size, at once.
///
/// # Errors
/// [`OpenError`]: no cowfile, or one that is being emptied. After a failure of the storage the old or
/// the new one is recorded.
pub fn set_fingerprint<S: Storage>(
    storage: &mut S,
    fingerprint: u32,
) -> Result<(), OpenError<S::Error>> {
    let (head, _, _) = read_head(storage)?;
    if head.emptying {
        return Err(OpenError::BeingEmptied);
    }
    // All fields are in one sector of the medium.
    let fingerprint = fingerprint.into();
    put_head(storage, &Head { fingerprint, ..head }).map_err(OpenError::Storage)?;
    storage.sync().map_err(OpenError::Storage)
}

/// Empties a cowfile: everything reads from below again. Also one that is dirty, or whose emptying
/// was cut short. A packed one is refused.
///
/// # Errors
/// [`OpenError`]; after a failure of the storage, call it again.
pub fn rollback<S: Storage>(storage: &mut S) -> Result<(), OpenError<S::Error>> {
    let (head, geometry, len) = read_head(storage)?;
    if head.is_packed() {
        return Err(OpenError::Packed);
    }
    empty(storage, &head, &geometry, len).map_err(OpenError::Storage)
}

fn empty<S: Storage>(
    storage: &mut S,
    head: &Head,
    geometry: &Geometry,
    len: u64,
) -> Result<(), S::Error> {
    put_head(storage, &Head { emptying: true, ..*head })?;
    storage.sync()?;
    storage.zero_at(UNIT, geometry.bitmap_len())?;
    // Not punched: see `unlisted`.
    let data = geometry.data_offset();
    if let Some(len) = len.checked_sub(data) {
        storage.zero_at(data, len)?;
    }
    storage.sync()?;
    put_head(storage, &head.clean(0))?;
    storage.sync()
}
