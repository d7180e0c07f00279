//! Changing the header of an image over blocking storage, outside the engine: the beginning and end of a
//! session or a commit log, emptying, freezing, another parent or label.

use core::fmt;

use super::header::{Header, LABEL_LEN, LogId, Mode, Parent};
use super::image::{ModeError, OpenError, Opened, open, put, sane};
use super::layer::Writable;
use crate::identity::{LayerId, ParentIdentity};
use crate::pages::{Page, StorageKey};
use crate::storage::Storage;

/// Why an image was not changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// It was not even opened.
    Open(OpenError<E>),
    /// Its mode forbids the change.
    Mode(ModeError),
    /// The new identity is [`LayerId::NONE`], or the one the image has.
    NotFresh,
    /// The image would be its own parent.
    OwnParent,
    /// The storage holds another image now, or the image was rolled back meanwhile.
    OtherImage,
    /// The parent's window is empty or wraps around.
    BadWindow,
    /// The label is too long.
    LabelTooLong {
        /// Bytes given; at most [`LABEL_LEN`].
        len: usize,
    },
    /// The medium failed. The image is as before or as wanted.
    Storage(E),
}

impl<E> fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => e.fmt(f),
            Self::Mode(e) => e.fmt(f),
            Self::NotFresh => f.write_str("the new layer identity is not fresh"),
            Self::OwnParent => f.write_str("an image cannot be its own parent"),
            Self::OtherImage => f.write_str("the storage holds another image now"),
            Self::BadWindow => f.write_str("the window into the parent is empty or too large"),
            Self::LabelTooLong { len } => {
                write!(f, "the label has {len} bytes, more than {LABEL_LEN}")
            }
            Self::Storage(_) => f.write_str("the medium failed"),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Open(e) => e.source(),
            Self::Storage(e) => Some(e),
            _ => None,
        }
    }
}

/// Opens an overlay for the engine and makes durable what a killed process may have left.
///
/// # Errors
/// [`UpdateError::Open`], [`UpdateError::Mode`], [`UpdateError::Storage`] for the sync.
pub fn open_writable<S: Storage>(
    storage: &mut S,
    key: StorageKey,
    scratch: &mut Page,
) -> Result<Writable, UpdateError<S::Error>> {
    let opened = open(storage, scratch).map_err(UpdateError::Open)?;
    let writable = opened.into_writable(key).map_err(UpdateError::Mode)?;
    storage.sync().map_err(UpdateError::Storage)?;
    Ok(writable)
}

/// Records an orderly end: call it when the engine is idle, committed and still takes writes, then
/// drop the overlay. After a failed sync do not: the next opening must know. A commit log is no part
/// of the image any more, for the image has everything that the log held of it [FORMAT 7.6].
///
/// # Errors
/// [`UpdateError`]; the image then counts as not closed, or as closed if the first of two slots was
/// written. [`UpdateError::OtherImage`] if the storage
/// no longer holds the image that the overlay was opened from.
pub fn close<S: Storage>(
    storage: &mut S,
    overlay: &Writable,
    scratch: &mut Page,
) -> Result<(), UpdateError<S::Error>> {
    // Everything the header vouches for is durable before it says so.
    storage.sync().map_err(UpdateError::Storage)?;
    let Opened { mut header, .. } = open(storage, scratch).map_err(UpdateError::Open)?;
    let rules = overlay.rules();
    if header.page_id != rules.page_id || header.epoch != rules.epoch {
        return Err(UpdateError::OtherImage);
    }
    let has_ended = overlay.closing(&mut header);
    let slots = match (header.log.take(), has_ended) {
        (Some(_), _) => BOTH_SLOTS, // damage to one must not bring a header back that names it
        (None, true) => 1,
        (None, false) => 0,
    };
    write_slots(storage, &mut header, slots, scratch)
}

const BOTH_SLOTS: u32 = 2;

/// Changes a header in both slots, durably one after the other: afterwards damage to one slot
/// cannot bring the old header back. The image must have no writer.
fn update<S: Storage>(
    storage: &mut S,
    scratch: &mut Page,
    change: impl FnOnce(&mut Header) -> Result<(), UpdateError<S::Error>>,
) -> Result<Opened, UpdateError<S::Error>> {
    let opened = open(storage, scratch).map_err(UpdateError::Open)?;
    if opened.header.log.is_some() {
        return Err(UpdateError::Mode(ModeError::Logged));
    }
    replace(opened, storage, scratch, change)
}

/// Writes a changed header to both slots, each durable before the next step.
fn replace<S: Storage>(
    opened: Opened,
    storage: &mut S,
    scratch: &mut Page,
    change: impl FnOnce(&mut Header) -> Result<(), UpdateError<S::Error>>,
) -> Result<Opened, UpdateError<S::Error>> {
    let Opened { mut header, .. } = opened;
    header.settle();
    change(&mut header)?;
    // What a killed process left, the current header included, before the other slot is touched.
    storage.sync().map_err(UpdateError::Storage)?;
    write_slots(storage, &mut header, BOTH_SLOTS, scratch)?;
    Ok(Opened { header, whole: true })
}

/// Writes a header to so many slots, each durable before the next one. What is in the image is durable.
fn write_slots<S: Storage>(
    storage: &mut S,
    header: &mut Header,
    slots: u32,
    scratch: &mut Page,
) -> Result<(), UpdateError<S::Error>> {
    for _slot in 0..slots {
        header.sequence = header.sequence.wrapping_add(1);
        put(storage, header, scratch).map_err(UpdateError::Storage)?;
        storage.sync().map_err(UpdateError::Storage)?;
    }
    Ok(())
}

fn writable<E>(header: &Header) -> Result<(), UpdateError<E>> {
    match header.mode {
        Mode::Writable => Ok(()),
        Mode::Frozen => Err(UpdateError::Mode(ModeError::Frozen)),
    }
}

/// Empties an overlay: all pages belong to an older epoch afterwards. Then gives the space back.
///
/// # Errors
/// [`UpdateError`]; a storage error after the headers were written leaves the overlay empty.
pub fn rollback<S: Storage>(
    storage: &mut S,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    let opened = open(storage, scratch).map_err(UpdateError::Open)?;
    let opened = replace(opened, storage, scratch, |header| {
        writable(header)?;
        header.epoch = header.epoch.saturating_add(1);
        header.data_sectors = Some(0);
        // Nothing that a log holds is wanted any more.
        header.log = None;
        Ok(())
    })?;
    let geometry = opened.geometry();
    let data = geometry.data_offset();
    storage.punch(data, geometry.image_len().saturating_sub(data)).map_err(UpdateError::Storage)?;
    Ok(opened)
}

/// Makes an overlay a frozen layer under an identity of its own. Its pages stay as they are: they
/// carry the page identity, which does not change.
///
/// # Errors
/// [`UpdateError`].
pub fn freeze<S: Storage>(
    storage: &mut S,
    layer_id: LayerId,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    update(storage, scratch, |header| {
        writable(header)?;
        header.rename(layer_id)?;
        header.mode = Mode::Frozen;
        Ok(())
    })
}

impl Header {
    /// Gives the layer another identity, which nobody else has.
    fn rename<E>(&mut self, layer_id: LayerId) -> Result<(), UpdateError<E>> {
        let used = layer_id == self.layer_id || layer_id == self.page_id;
        let is_parent = self.parent.identity == ParentIdentity::Layer(layer_id);
        if used || is_parent || layer_id == LayerId::NONE {
            return Err(UpdateError::NotFresh);
        }
        self.layer_id = layer_id;
        Ok(())
    }
}

/// Makes a frozen layer an overlay again, under an identity of its own: images that lie on it do not
/// recognise it any more, from before its first change on [FORMAT 7.3].
///
/// # Errors
/// [`UpdateError`]; [`ModeError::NotFrozen`] if it is an overlay already.
pub fn thaw<S: Storage>(
    storage: &mut S,
    layer_id: LayerId,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    update(storage, scratch, |header| {
        if header.mode == Mode::Writable {
            return Err(UpdateError::Mode(ModeError::NotFrozen));
        }
        header.rename(layer_id)?;
        header.mode = Mode::Writable;
        Ok(())
    })
}

/// Records another parent, or the same one with a new time of modification. Whoever calls this has
/// compared the content: absent sectors read from the new parent afterwards.
///
/// # Errors
/// [`UpdateError`].
pub fn set_parent<S: Storage>(
    storage: &mut S,
    parent: Parent,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    update(storage, scratch, |header| {
        if parent.identity == ParentIdentity::Layer(header.layer_id) {
            return Err(UpdateError::OwnParent);
        }
        if !sane(parent.window) {
            return Err(UpdateError::BadWindow);
        }
        header.parent = parent;
        Ok(())
    })
}

/// Records another label.
///
/// # Errors
/// [`UpdateError`].
pub fn set_label<S: Storage>(
    storage: &mut S,
    label: &[u8],
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    update(storage, scratch, |header| {
        header.label = heapless::Vec::from_slice(label)
            .map_err(|_full| UpdateError::LabelTooLong { len: label.len() })?;
        Ok(())
    })
}

/// Makes a commit log part of the image of this identity, which is open for writing and has no session
/// under way: from now on what its client is told may be in the log alone [FORMAT 7.6]. Who writes the
/// image has to [know](Writable::renew) the new header before its first change.
///
/// # Errors
/// [`UpdateError`].
pub fn begin_log<S: Storage>(
    storage: &mut S,
    layer: LayerId,
    log: LogId,
    scratch: &mut Page,
) -> Result<Opened, UpdateError<S::Error>> {
    update(storage, scratch, |header| {
        writable(header)?;
        if header.layer_id != layer {
            return Err(UpdateError::OtherImage);
        }
        header.log = Some(log);
        Ok(())
    })
}
