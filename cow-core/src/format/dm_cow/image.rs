//! Opening, making, checking and emptying a layer over blocking storage.

use super::error::{CreateError, OpenError};
use crate::format::bitmap::{Finding, Frozen, Geometry, Judged, Report, Volume, Writable, judge};
use crate::pages::{Page, StorageKey};
use crate::storage::{ReadStorage, Storage};
use crate::units::SECTOR_BYTES;

/// Little-endian on the device: 11 be ba aa 0e be ba 00.
const MAGIC: u64 = 0x00ba_be0e_aaba_be11;
/// In its place while the layer is being emptied; the posted code refuses it.
const EMPTYING: u64 = MAGIC | 1 << 63;

/// Where the bits are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Layout {
    /// Bit n at byte n / 8: what was meant, and what is written here.
    #[default]
    Intended,
    /// As the posted code computes it [COW 3.2]: only an eighth of each block of the bitmap is
    /// used, and sectors 4096, 8192 and so on share the bits of sector 0. Read only.
    AsPosted {
        /// What the kernel took as block size of the bitmap device: 512 to 4096. It is recorded
        /// nowhere.
        block_bytes: u64,
    },
}

/// What the device-mapper table said about a layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    /// Size of the disk.
    pub sectors: u64,
    /// Sector of the write device where sector 0 is.
    pub write_offset_sectors: u64,
    /// Where the bits are.
    pub layout: Layout,
}

impl Table {
    fn geometry<E>(&self) -> Result<Geometry, OpenError<E>> {
        let sectors = self.sectors;
        let offset = self.write_offset_sectors.checked_mul(SECTOR_BYTES);
        let geometry = offset
            .and_then(|offset| Geometry::new(sectors, 0, 0, offset))
            .ok_or(OpenError::DiskSize { sectors })?;
        match self.layout {
            Layout::Intended => Ok(geometry),
            Layout::AsPosted { block_bytes } => {
                geometry.aliased(block_bytes).ok_or(OpenError::BlockSize { bytes: block_bytes })
            }
        }
    }
}

/// Sectors of bitmap that are recorded for a disk [COW 3.2].
const fn recorded_sectors(sectors: u64) -> u64 {
    (sectors / 4096).saturating_add(1)
}

/// Byte of the bitmap device where the magic is.
const fn magic_offset(sectors: u64) -> u64 {
    let sector = (recorded_sectors(sectors) & !63).saturating_add(192);
    sector.saturating_mul(SECTOR_BYTES)
}

/// Bytes that a bitmap device for a disk of `sectors` sectors needs at least.
pub const fn bitmap_bytes(sectors: u64) -> u64 {
    magic_offset(sectors).saturating_add(SECTOR_BYTES)
}

/// A layer whose bitmap device was found good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    table: Table,
    geometry: Geometry,
}

impl Opened {
    /// What the table said.
    pub const fn table(&self) -> Table {
        self.table
    }

    /// The layout.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    const fn volume(&self, data: StorageKey, bitmap: StorageKey, data_len: u64) -> Volume {
        Volume { data, metadata: bitmap, geometry: self.geometry, end: data_len }
    }

    /// As a layer that is only read. `data_len` is the length of the write device in bytes.
    pub const fn frozen<'m>(
        &self,
        data: StorageKey,
        bitmap: StorageKey,
        data_len: u64,
    ) -> Frozen<'m> {
        Frozen::new(self.volume(data, bitmap, data_len))
    }

    /// For the engine, as overlay. A process that was killed may have left writes that are visible
    /// and yet not durable: sync the bitmap device between opening it and the first commit.
    ///
    /// # Errors
    /// [`OpenError::ReadOnlyLayout`] and [`OpenError::DataTooShort`].
    pub fn writable<E>(
        &self,
        data: StorageKey,
        bitmap: StorageKey,
        data_len: u64,
    ) -> Result<Writable, OpenError<E>> {
        if self.table.layout != Layout::Intended {
            return Err(OpenError::ReadOnlyLayout);
        }
        let needed = self.geometry.image_len();
        if data_len < needed {
            return Err(OpenError::DataTooShort { needed, len: data_len });
        }
        Ok(Writable::new(self.volume(data, bitmap, data_len), None, None))
    }
}

/// What is at the magic's place.
enum Found {
    Words { magic: u64, recorded: u64 },
    TooShort { needed: u64, len: u64 },
}

fn look<S: ReadStorage>(bitmap: &S, sectors: u64) -> Result<Found, S::Error> {
    let (needed, len) = (bitmap_bytes(sectors), bitmap.len_bytes()?);
    if len < needed {
        return Ok(Found::TooShort { needed, len });
    }
    let (mut magic, mut recorded) = ([0; 8], [0; 8]);
    bitmap.read_at(magic_offset(sectors), &mut magic)?;
    bitmap.read_at(magic_offset(sectors).saturating_add(8), &mut recorded)?;
    Ok(Found::Words { magic: u64::from_le_bytes(magic), recorded: u64::from_le_bytes(recorded) })
}

/// Judges the bitmap device of a layer.
///
/// # Errors
/// [`OpenError`].
pub fn open<S: ReadStorage>(bitmap: &S, table: &Table) -> Result<Opened, OpenError<S::Error>> {
    let (opened, magic) = open_any(bitmap, table)?;
    if magic == EMPTYING { Err(OpenError::BeingEmptied) } else { Ok(opened) }
}

fn open_any<S: ReadStorage>(
    bitmap: &S,
    table: &Table,
) -> Result<(Opened, u64), OpenError<S::Error>> {
    let geometry = table.geometry()?;
    let found = look(bitmap, table.sectors).map_err(OpenError::Storage)?;
    let (magic, recorded) = match found {
        Found::Words { magic, recorded } => (magic, recorded),
        Found::TooShort { needed, len } => return Err(OpenError::BitmapTooShort { needed, len }),
    };
    match magic {
        0 => return Err(OpenError::Blank),
        MAGIC | EMPTYING => {}
        word => return Err(OpenError::NotDmCow { word }),
    }
    let expected = recorded_sectors(table.sectors);
    if recorded != expected {
        return Err(OpenError::Length { recorded, expected });
    }
    Ok((Opened { table: *table, geometry }, magic))
}

/// Makes a bitmap device one for an empty layer of `sectors` sectors. The magic comes last, so that
/// an interrupted `create` leaves a device that was never used.
///
/// # Errors
/// [`CreateError`].
pub fn create<S: Storage>(bitmap: &mut S, sectors: u64) -> Result<(), CreateError<S::Error>> {
    if Geometry::new(sectors, 0, 0, 0).is_none() {
        return Err(CreateError::DiskSize { sectors });
    }
    match look(bitmap, sectors).map_err(CreateError::Storage)? {
        Found::Words { magic: 0, .. } => {}
        Found::Words { magic, .. } => return Err(CreateError::Occupied { word: magic }),
        Found::TooShort { needed, len } => {
            return Err(CreateError::BitmapTooShort { needed, len });
        }
    }
    write_new(bitmap, sectors).map_err(CreateError::Storage)
}

/// Gives up whatever a bitmap device holds for a disk of `sectors` sectors, so that [`create`] takes
/// it: the magic's sector becomes zero.
///
/// # Errors
/// The medium's; it may be too short.
pub fn unmark<S: Storage>(bitmap: &mut S, sectors: u64) -> Result<(), S::Error> {
    bitmap.zero_at(magic_offset(sectors), SECTOR_BYTES)?;
    bitmap.sync()
}

fn write_new<S: Storage>(bitmap: &mut S, sectors: u64) -> Result<(), S::Error> {
    bitmap.zero_at(0, magic_offset(sectors))?;
    let length = recorded_sectors(sectors).to_le_bytes();
    bitmap.write_at(magic_offset(sectors).saturating_add(8), &length)?;
    bitmap.sync()?;
    bitmap.write_at(magic_offset(sectors), &MAGIC.to_le_bytes())?;
    bitmap.sync()
}

/// Judges the bitmap, and tells `found` what is not in order. `data_len` is the length of the write
/// device in bytes.
///
/// # Errors
/// [`OpenError`].
pub fn check<S: ReadStorage>(
    bitmap: &S,
    table: &Table,
    data_len: u64,
    scratch: &mut Page,
    found: impl FnMut(Finding),
) -> Result<Report, OpenError<S::Error>> {
    let opened = open(bitmap, table)?;
    let mut judged = Judged::new(found);
    let sectors = judge(bitmap, &opened.geometry, data_len, scratch, &mut judged)
        .map_err(OpenError::Storage)?;
    Ok(judged.report(opened.geometry, sectors))
}

/// Empties a layer: everything reads from below again. Also one whose emptying was cut short.
///
/// # Errors
/// [`OpenError`]; after a failure of the storage, call it again.
pub fn rollback<S: Storage>(bitmap: &mut S, table: &Table) -> Result<(), OpenError<S::Error>> {
    open_any(bitmap, table)?;
    empty(bitmap, table.sectors).map_err(OpenError::Storage)
}

fn empty<S: Storage>(bitmap: &mut S, sectors: u64) -> Result<(), S::Error> {
    let at = magic_offset(sectors);
    bitmap.write_at(at, &EMPTYING.to_le_bytes())?;
    bitmap.sync()?;
    bitmap.zero_at(0, at)?;
    bitmap.sync()?;
    bitmap.write_at(at, &MAGIC.to_le_bytes())?;
    bitmap.sync()
}
