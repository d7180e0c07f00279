//! Opening and creating an image over blocking storage, outside the engine.

use core::fmt;

use super::geometry::Geometry;
use super::header::{
    HINT_LEN, Header, HeaderFault, LABEL_LEN, LogId, Mode, Parent, Window, sequence_of,
};
use super::layer::{Frozen, Writable};
use crate::identity::{LayerId, ParentIdentity};
use crate::pages::{Page, StorageKey};
use crate::storage::{ReadStorage, Storage};

/// Why an image was not opened. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum OpenError<E> {
    /// No header of this format, in neither slot.
    NotNative,
    /// There were headers, but neither has a valid checksum.
    HeadersCorrupt,
    /// Two valid headers whose sequences do not follow each other: a write was lost.
    HeadersDisagree {
        /// Sequences in slots 0 and 1.
        sequences: [u64; 2],
    },
    /// Written by a later version of the format.
    NewerVersion {
        /// Version found; this module reads [`VERSION`](super::VERSION).
        version: u32,
    },
    /// Needs features that this module does not have.
    UnknownFeatures {
        /// Bits of the unknown ones.
        features: u64,
    },
    /// The checksum holds, but a field is impossible.
    InvalidField {
        /// Byte offset in the header slot.
        field: u16,
    },
    /// The storage is shorter than the image.
    Truncated {
        /// Bytes needed.
        needed: u64,
        /// Bytes found.
        len: u64,
    },
    /// The medium failed.
    Storage(E),
}

impl<E> OpenError<E> {
    fn of(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::Foreign => Self::NotNative,
            HeaderFault::Torn => Self::HeadersCorrupt,
            HeaderFault::Newer { version } => Self::NewerVersion { version },
            HeaderFault::Unknown { features } => Self::UnknownFeatures { features },
            HeaderFault::Invalid { field } => Self::InvalidField { field },
        }
    }
}

impl<E> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNative => f.write_str("not a native image"),
            Self::HeadersCorrupt => f.write_str("both headers are corrupt"),
            Self::HeadersDisagree { sequences: [a, b] } => {
                write!(f, "the headers disagree: sequences {a} and {b}")
            }
            Self::NewerVersion { version } => write!(
                f,
                "format version {version} is newer than {}, the latest known here",
                super::VERSION
            ),
            Self::UnknownFeatures { features } => {
                write!(f, "the image needs unknown features {features:#x}")
            }
            Self::InvalidField { field } => {
                write!(f, "the header has an impossible value at byte {field}")
            }
            Self::Truncated { needed, len } => {
                write!(f, "the storage has {len} bytes, the image needs {needed}")
            }
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for OpenError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage(e) = self { Some(e) } else { None }
    }
}

/// Why an opened image does not serve the purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ModeError {
    /// It is frozen: overlays may lie on it, so it takes no writes.
    Frozen,
    /// It is writable: freeze it before anything lies on it.
    NotFrozen,
    /// Acknowledged writes may be in a commit log: repeat them first.
    Logged,
}

impl fmt::Display for ModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frozen => "the image is frozen and takes no writes",
            Self::NotFrozen => "the image is writable and must be frozen first",
            Self::Logged => "acknowledged writes may be in its commit log",
        })
    }
}

impl core::error::Error for ModeError {}

/// An image whose header was read and found usable.
#[derive(Clone, Debug)]
pub struct Opened {
    pub(super) header: Header,
    /// Both slots hold a valid header.
    pub(super) whole: bool,
}

impl Opened {
    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The layout.
    pub const fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// For the engine, as overlay.
    ///
    /// A process that was killed may have left writes that are visible and yet not durable: sync
    /// the storage between opening it and the first commit. [`open_writable`](super::open_writable) does; who opens
    /// many overlays may use one `syncfs` for all.
    ///
    /// # Errors
    /// [`ModeError::Frozen`], [`ModeError::Logged`].
    pub fn into_writable(self, storage: StorageKey) -> Result<Writable, ModeError> {
        if self.header.log.is_some() {
            return Err(ModeError::Logged);
        }
        self.into_repeating(storage)
    }

    /// As [`into_writable`](Self::into_writable), also with a commit log: for who repeats what that
    /// holds, and then [closes](super::close) the image, and for who has just [made](create) the
    /// image, of which it holds nothing.
    ///
    /// # Errors
    /// [`ModeError::Frozen`].
    pub fn into_repeating(self, storage: StorageKey) -> Result<Writable, ModeError> {
        match self.header.mode {
            Mode::Writable => Ok(Writable::new(self.header, storage)),
            Mode::Frozen => Err(ModeError::Frozen),
        }
    }

    /// As a layer that others lie on.
    ///
    /// # Errors
    /// [`ModeError::NotFrozen`].
    pub fn frozen<'m>(&self, storage: StorageKey) -> Result<Frozen<'m>, ModeError> {
        match self.header.mode {
            Mode::Frozen => Ok(self.snapshot(storage)),
            Mode::Writable => Err(ModeError::NotFrozen),
        }
    }

    /// As a read-only layer whatever its mode. Only for somebody who keeps all writers away
    /// meanwhile (a lock), such as a tool that reads a stopped client's overlay.
    pub const fn snapshot<'m>(&self, storage: StorageKey) -> Frozen<'m> {
        Frozen::new(&self.header, storage)
    }
}

/// True if the storage starts like a native image, usable or not.
///
/// # Errors
/// The medium's.
pub fn is_native<S: ReadStorage>(storage: &S, scratch: &mut Page) -> Result<bool, S::Error> {
    if storage.len_bytes()? < Geometry::pages_offset() {
        return Ok(false);
    }
    for slot in 0..2 {
        storage.read_at(Geometry::header_offset(slot), scratch.as_bytes_mut())?;
        if sequence_of(slot, scratch.as_bytes()) != Err(HeaderFault::Foreign) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads and judges the header. Works with unclean images; see [`Opened`] for what follows.
///
/// # Errors
/// [`OpenError`].
pub fn open<S: ReadStorage>(
    storage: &S,
    scratch: &mut Page,
) -> Result<Opened, OpenError<S::Error>> {
    let len = storage.len_bytes().map_err(OpenError::Storage)?;
    if len < Geometry::pages_offset() {
        return Err(OpenError::NotNative);
    }
    let first = read_slot(storage, 0, scratch)?;
    let second = read_slot(storage, 1, scratch)?;
    // Slot 1 is still in the scratch page.
    if current_slot(first, second)? == 0 && read_slot(storage, 0, scratch)? != first {
        return Err(OpenError::HeadersCorrupt);
    }
    let header = Header::parse(scratch.as_bytes()).map_err(OpenError::of)?;
    let needed = header.geometry.image_len();
    if len < needed {
        return Err(OpenError::Truncated { needed, len });
    }
    Ok(Opened { header, whole: first.is_ok() && second.is_ok() })
}

/// Reads a header slot; its sequence if the checksum holds.
fn read_slot<S: ReadStorage>(
    storage: &S,
    slot: u64,
    scratch: &mut Page,
) -> Result<Result<u64, HeaderFault>, OpenError<S::Error>> {
    let bytes = scratch.as_bytes_mut();
    storage.read_at(Geometry::header_offset(slot), bytes).map_err(OpenError::Storage)?;
    Ok(sequence_of(slot, bytes))
}

/// Which header slot counts [FORMAT 4.2].
fn current_slot<E>(
    first: Result<u64, HeaderFault>,
    second: Result<u64, HeaderFault>,
) -> Result<u64, OpenError<E>> {
    match (first, second) {
        (Ok(a), Ok(b)) if a == b.wrapping_add(1) => Ok(0),
        (Ok(a), Ok(b)) if b == a.wrapping_add(1) => Ok(1),
        (Ok(a), Ok(b)) => Err(OpenError::HeadersDisagree { sequences: [a, b] }),
        (Ok(_), Err(_)) => Ok(0),
        (Err(_), Ok(_)) => Ok(1),
        (Err(HeaderFault::Foreign), Err(HeaderFault::Foreign)) => Err(OpenError::NotNative),
        (Err(_), Err(_)) => Err(OpenError::HeadersCorrupt),
    }
}

/// What the storage of a new image holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fresh {
    /// Zeros: a file that was just made. Nothing is wiped.
    Zeroed,
    /// Anything, such as an older overlay: headers and metadata are made zero first.
    Unknown,
}

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions<'a> {
    /// Sixteen random bytes.
    pub layer_id: LayerId,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// How the parent is recognised.
    pub parent: ParentIdentity,
    /// Part of the parent that is used; `None` for all.
    pub window: Option<Window>,
    /// Where the parent is, at most [`HINT_LEN`] bytes.
    pub hint: &'a [u8],
    /// Name for people and programs, at most [`LABEL_LEN`] bytes.
    pub label: &'a [u8],
    /// Now, in seconds since 1970.
    pub created_s: i64,
    /// The commit log that is part of it from the beginning [FORMAT 7.6]. As
    /// [`begin_log`](super::begin_log), without a sync of its own.
    pub log: Option<LogId>,
    /// What the storage holds.
    pub fresh: Fresh,
}

/// Why no image was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CreateError<E> {
    /// No sectors, or more than [`MAX_SECTORS`](crate::units::MAX_SECTORS). Nothing was written.
    BadSize {
        /// Sectors wanted.
        sectors: u64,
    },
    /// The identity is [`LayerId::NONE`], or that of the log is as much. Nothing was written.
    NoIdentity,
    /// The parent has the identity of the new image. Nothing was written.
    OwnParent,
    /// The parent's window is empty or wraps around. Nothing was written.
    BadWindow,
    /// Nothing was written.
    LabelTooLong {
        /// Bytes given; at most [`LABEL_LEN`].
        len: usize,
    },
    /// Nothing was written.
    HintTooLong {
        /// Bytes given; at most [`HINT_LEN`].
        len: usize,
    },
    /// The medium failed, or it cannot become `needed` bytes long. There is no image.
    Storage {
        /// Length of the image in bytes.
        needed: u64,
        /// The medium's error.
        error: E,
    },
}

impl<E> fmt::Display for CreateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSize { sectors } => write!(f, "a disk cannot have {sectors} sectors"),
            Self::NoIdentity => f.write_str("the identity of layer or log is all zeros"),
            Self::OwnParent => f.write_str("an image cannot be its own parent"),
            Self::BadWindow => f.write_str("the window into the parent is empty or too large"),
            Self::LabelTooLong { len } => {
                write!(f, "the label has {len} bytes, more than {LABEL_LEN}")
            }
            Self::HintTooLong { len } => {
                write!(f, "the parent's path has {len} bytes, more than {HINT_LEN}")
            }
            Self::Storage { needed, .. } => {
                write!(f, "the medium failed to hold an image of {needed} bytes")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for CreateError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Storage { error, .. } = self { Some(error) } else { None }
    }
}

impl CreateOptions<'_> {
    fn header<E>(&self) -> Result<Header, CreateError<E>> {
        let geometry =
            Geometry::new(self.sectors).ok_or(CreateError::BadSize { sectors: self.sectors })?;
        if self.layer_id == LayerId::NONE || self.log == Some(LogId([0; 16])) {
            return Err(CreateError::NoIdentity);
        }
        if self.parent == ParentIdentity::Layer(self.layer_id) {
            return Err(CreateError::OwnParent);
        }
        if !sane(self.window) {
            return Err(CreateError::BadWindow);
        }
        let label = heapless::Vec::from_slice(self.label)
            .map_err(|_full| CreateError::LabelTooLong { len: self.label.len() })?;
        let hint = heapless::Vec::from_slice(self.hint)
            .map_err(|_full| CreateError::HintTooLong { len: self.hint.len() })?;
        Ok(Header {
            compatible: 0,
            sequence: 0,
            layer_id: self.layer_id,
            page_id: self.layer_id,
            geometry,
            epoch: 1,
            session: 0,
            torn_until: 0,
            mode: Mode::Writable,
            clean: true,
            parent: Parent { identity: self.parent, window: self.window, hint },
            created_s: self.created_s,
            label,
            data_sectors: Some(0),
            log: self.log,
        })
    }
}

pub(super) fn sane(window: Option<Window>) -> bool {
    window.is_none_or(|w| w.len > 0 && w.offset.checked_add(w.len).is_some())
}

/// Makes an image: the storage is extended, wiped as far as `fresh` asks for it, and gets its
/// headers last, so that an interrupted `create` leaves no image.
///
/// # Errors
/// [`CreateError`].
pub fn create<S: Storage>(
    storage: &mut S,
    options: &CreateOptions<'_>,
    scratch: &mut Page,
) -> Result<Opened, CreateError<S::Error>> {
    let mut header = options.header()?;
    let needed = header.geometry.image_len();
    let failed = |error| CreateError::Storage { needed, error };
    storage.extend(needed).map_err(failed)?;
    if options.fresh == Fresh::Unknown {
        // Headers first: an old one must never be seen with pages that are already gone.
        storage.zero_at(0, Geometry::pages_offset()).map_err(failed)?;
        storage.sync().map_err(failed)?;
        let pages = header.geometry.data_offset().saturating_sub(Geometry::pages_offset());
        storage.zero_at(Geometry::pages_offset(), pages).map_err(failed)?;
        storage.sync().map_err(failed)?;
    }
    for sequence in 0..2 {
        header.sequence = sequence;
        put(storage, &header, scratch).map_err(failed)?;
    }
    storage.sync().map_err(failed)?;
    Ok(Opened { header, whole: true })
}

/// Writes a header to the slot of its sequence.
pub(super) fn put<S: Storage>(
    storage: &mut S,
    header: &Header,
    scratch: &mut Page,
) -> Result<(), S::Error> {
    header.emit(scratch.as_bytes_mut());
    storage.write_at(Geometry::header_offset(header.sequence), scratch.as_bytes())
}
