//! The header: identity, size, parent and state of an image, in two slots [FORMAT 4].

use heapless::Vec;

use super::bytes::{Reader, Writer, slot_crc, stamp_crc};
use super::geometry::Geometry;
use super::page::Rules;
use crate::identity::{FileIdentity, LayerId, ParentIdentity};
use crate::pages::PAGE_LEN;

pub(super) const HEADER_MAGIC: [u8; 8] = *b"cowblade";

/// Version of the format that this module reads and writes.
pub const VERSION: u32 = 1;

/// Most bytes of a label.
pub const LABEL_LEN: usize = 128;

/// Most bytes of a parent's path. It is a hint: the parent is recognised by its identity.
pub const HINT_LEN: usize = 1024;

/// Incompatible feature: a commit log is part of the image [FORMAT 4.4].
const FEATURE_LOG: u64 = 1;

/// Incompatible features that this module knows.
const KNOWN_INCOMPATIBLE: u64 = FEATURE_LOG;

/// What kind of layer an image is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The top of a chain; one process at a time may write it.
    Writable,
    /// Never changes again, may lie below any number of overlays.
    Frozen,
}

/// A part of a parent: its bytes `offset .. offset + len` are the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least 1.
    pub len: u64,
}

/// What an overlay lies on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Parent {
    /// How it is recognised.
    pub identity: ParentIdentity,
    /// Part of it that is used; `None` for all.
    pub window: Option<Window>,
    /// Where it was found last: a path as the host's bytes, not necessarily UTF-8.
    pub hint: Vec<u8, HINT_LEN>,
}

/// Everything a header slot says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// Features a reader may ignore; kept as they are.
    pub compatible: u64,
    /// Counts header writes; its low bit is the slot.
    pub sequence: u64,
    /// Identity of the layer. Freezing gives a new one.
    pub layer_id: LayerId,
    /// Ties pages to this image; the layer identity at creation, and never changed.
    pub page_id: LayerId,
    /// Layout.
    pub geometry: Geometry,
    /// Pages of older epochs are empty. Rollback counts it up.
    pub epoch: u64,
    /// Number of the latest session: an opening that wrote.
    pub session: u64,
    /// Latest session that may have left torn page slots; 0 for none.
    pub torn_until: u64,
    /// Writable or frozen.
    pub mode: Mode,
    /// The latest session ended in order.
    pub clean: bool,
    /// What lies below.
    pub parent: Parent,
    /// When the image was made, in seconds since 1970, by its maker's clock.
    pub created_s: i64,
    /// Name for people and programs, not necessarily UTF-8.
    pub label: Vec<u8, LABEL_LEN>,
    /// Sectors in the data area, where the latest session counted them.
    pub data_sectors: Option<u64>,
    /// The commit log that may hold acknowledged writes which are not in the image yet.
    pub log: Option<LogId>,
}

/// Sixteen random bytes that a commit log and the images that it belongs to have in common; never
/// all zeros.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LogId(pub [u8; 16]);

/// Why a header slot was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeaderFault {
    /// No magic number.
    Foreign,
    /// Checksum, or a sequence that belongs to the other slot.
    Torn,
    /// Written by a later version.
    Newer { version: u32 },
    /// Needs features that this module does not have.
    Unknown { features: u64 },
    /// A whole header with an impossible field at this byte.
    Invalid { field: u16 },
}

const MODE_WRITABLE: u8 = 1;
const MODE_FROZEN: u8 = 2;
const PARENT_NONE: u8 = 0;
const PARENT_LAYER: u8 = 1;
const PARENT_FILE: u8 = 2;
const UNKNOWN_COUNT: u64 = u64::MAX;

/// Sequence of a slot whose checksum holds; nothing else is judged yet.
pub(super) fn sequence_of(slot: u64, bytes: &[u8; PAGE_LEN]) -> Result<u64, HeaderFault> {
    let mut fields = Reader(bytes);
    let (magic, crc) = (fields.array(), fields.u32());
    if magic != Some(HEADER_MAGIC) {
        return Err(HeaderFault::Foreign);
    }
    let _version_and_flags: Option<[u8; 20]> = fields.array();
    match fields.u64() {
        Some(sequence) if crc == Some(slot_crc(bytes)) && sequence & 1 == slot => Ok(sequence),
        _ => Err(HeaderFault::Torn),
    }
}

impl Header {
    /// Reads a slot that [`sequence_of`] accepted.
    pub(super) fn parse(bytes: &[u8; PAGE_LEN]) -> Result<Self, HeaderFault> {
        let mut fields = Reader(bytes);
        let short = HeaderFault::Invalid { field: 0 };
        let _magic_and_crc: [u8; 12] = fields.array().ok_or(short)?;
        let version = fields.u32().ok_or(short)?;
        if version > VERSION {
            return Err(HeaderFault::Newer { version });
        }
        let (compatible, incompatible) = (fields.u64().ok_or(short)?, fields.u64().ok_or(short)?);
        if incompatible & !KNOWN_INCOMPATIBLE != 0 {
            return Err(HeaderFault::Unknown { features: incompatible & !KNOWN_INCOMPATIBLE });
        }
        if version == 0 {
            return Err(HeaderFault::Invalid { field: 12 });
        }
        Fields::take(&mut fields).ok_or(short)?.judge(compatible, incompatible)
    }

    /// Writes the slot that the sequence belongs to; unused bytes are zeros.
    pub(super) fn emit(&self, bytes: &mut [u8; PAGE_LEN]) {
        let mut to = Writer(bytes);
        to.bytes(&HEADER_MAGIC);
        to.bytes(&[0; 4]);
        to.bytes(&VERSION.to_le_bytes());
        to.bytes(&self.compatible.to_le_bytes());
        let features = if self.log.is_some() { FEATURE_LOG } else { 0 };
        to.bytes(&features.to_le_bytes());
        to.bytes(&self.sequence.to_le_bytes());
        to.bytes(&self.layer_id.0);
        to.bytes(&self.page_id.0);
        to.bytes(&self.geometry.sectors().to_le_bytes());
        to.bytes(&self.epoch.to_le_bytes());
        to.bytes(&self.session.to_le_bytes());
        to.bytes(&self.torn_until.to_le_bytes());
        let (kind, layer, file) = match self.parent.identity {
            ParentIdentity::None => (PARENT_NONE, LayerId::NONE, None),
            ParentIdentity::Layer(id) => (PARENT_LAYER, id, None),
            ParentIdentity::File(file) => (PARENT_FILE, LayerId::NONE, Some(file)),
        };
        let content = file.and_then(|f| f.content);
        let mode = if self.mode == Mode::Frozen { MODE_FROZEN } else { MODE_WRITABLE };
        to.bytes(&[mode, u8::from(self.clean), kind, u8::from(content.is_some())]);
        to.bytes(&length(&self.label));
        to.bytes(&length(&self.parent.hint));
        to.bytes(&self.created_s.to_le_bytes());
        to.bytes(&self.data_sectors.unwrap_or(UNKNOWN_COUNT).to_le_bytes());
        let window = self.parent.window.unwrap_or(Window { offset: 0, len: 0 });
        to.bytes(&window.offset.to_le_bytes());
        to.bytes(&window.len.to_le_bytes());
        to.bytes(&layer.0);
        to.bytes(&file.map_or(0, |f| f.size_bytes).to_le_bytes());
        to.bytes(&file.map_or(0, |f| f.mtime_s).to_le_bytes());
        to.bytes(&file.map_or(0, |f| f.mtime_ns).to_le_bytes());
        to.bytes(&[0; 4]);
        to.bytes(&file.map_or([0; 32], |f| f.sample));
        to.bytes(&content.unwrap_or([0; 32]));
        to.padded(&self.label, LABEL_LEN);
        to.padded(&self.parent.hint, HINT_LEN);
        to.bytes(&self.log.map_or([0; 16], |log| log.0));
        to.finish();
        stamp_crc(bytes);
    }

    /// The state after the latest session, however it ended: nothing is under way any more, and
    /// if that session was cut, torn slots may be there.
    pub(super) fn settle(&mut self) {
        self.torn_until = self.torn_until_now();
        self.clean = true;
    }

    /// [`torn_until`](Self::torn_until) as it holds for a reader who finds this header.
    pub(super) const fn torn_until_now(&self) -> u64 {
        if self.clean { self.torn_until } else { self.session }
    }

    /// What pages are judged by. The next session's number is admitted: a preparation may have
    /// reached the storage before the header that begins its session.
    pub(super) const fn rules(&self) -> Rules {
        Rules {
            page_id: self.page_id,
            epoch: self.epoch,
            session: self.session.saturating_add(1),
            torn_until: self.torn_until_now(),
        }
    }
}

fn length(text: &[u8]) -> [u8; 2] {
    u16::try_from(text.len()).unwrap_or(0).to_le_bytes()
}

/// Fields from byte 32 on, as they are stored.
struct Fields<'a> {
    sequence: u64,
    layer_id: LayerId,
    page_id: LayerId,
    sectors: u64,
    epoch: u64,
    session: u64,
    torn_until: u64,
    marks: [u8; 4],
    label_len: u16,
    hint_len: u16,
    created_s: i64,
    data_sectors: u64,
    window: Window,
    parent_layer: LayerId,
    file: FileIdentity,
    content: [u8; 32],
    label: &'a [u8],
    hint: &'a [u8],
    log: [u8; 16],
}

impl<'a> Fields<'a> {
    fn take(fields: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            sequence: fields.u64()?,
            layer_id: LayerId(fields.array()?),
            page_id: LayerId(fields.array()?),
            sectors: fields.u64()?,
            epoch: fields.u64()?,
            session: fields.u64()?,
            torn_until: fields.u64()?,
            marks: fields.array()?,
            label_len: fields.u16()?,
            hint_len: fields.u16()?,
            created_s: fields.i64()?,
            data_sectors: fields.u64()?,
            window: Window { offset: fields.u64()?, len: fields.u64()? },
            parent_layer: LayerId(fields.array()?),
            file: FileIdentity {
                size_bytes: fields.u64()?,
                mtime_s: fields.i64()?,
                mtime_ns: {
                    let ns = fields.u32()?;
                    let _reserved = fields.u32()?;
                    ns
                },
                sample: fields.array()?,
                content: None,
            },
            content: fields.array()?,
            label: fields.slice(LABEL_LEN)?,
            hint: fields.slice(HINT_LEN)?,
            log: fields.array()?,
        })
    }

    /// Every field within its bounds, or the first that is not.
    fn judge(mut self, compatible: u64, incompatible: u64) -> Result<Header, HeaderFault> {
        let invalid = |field| HeaderFault::Invalid { field };
        let geometry = Geometry::new(self.sectors).ok_or(invalid(72))?;
        let [mode, clean, kind, has_content] = self.marks;
        if self.layer_id == LayerId::NONE {
            return Err(invalid(40));
        }
        if self.torn_until > self.session {
            return Err(invalid(96));
        }
        let mode = match mode {
            MODE_WRITABLE => Mode::Writable,
            MODE_FROZEN => Mode::Frozen,
            _ => return Err(invalid(104)),
        };
        let clean = flag(clean).ok_or(invalid(105))?;
        if flag(has_content).ok_or(invalid(107))? {
            self.file.content = Some(self.content);
        }
        let identity = match kind {
            PARENT_NONE => ParentIdentity::None,
            PARENT_LAYER => ParentIdentity::Layer(self.parent_layer),
            PARENT_FILE => ParentIdentity::File(self.file),
            _ => return Err(invalid(106)),
        };
        let label = text(self.label, self.label_len).ok_or(invalid(108))?;
        let hint = text(self.hint, self.hint_len).ok_or(invalid(110))?;
        let window = (self.window.len > 0).then_some(self.window);
        if window.is_some_and(|w| w.offset.checked_add(w.len).is_none()) {
            return Err(invalid(128));
        }
        let data_sectors = Some(self.data_sectors).filter(|n| *n != UNKNOWN_COUNT);
        if data_sectors.is_some_and(|n| n > self.sectors) {
            return Err(invalid(120));
        }
        let log = (incompatible & FEATURE_LOG != 0).then_some(LogId(self.log));
        if log == Some(LogId([0; 16])) || log.is_some() && mode == Mode::Frozen {
            return Err(invalid(1400));
        }
        Ok(Header {
            compatible,
            sequence: self.sequence,
            layer_id: self.layer_id,
            page_id: self.page_id,
            geometry,
            epoch: self.epoch,
            session: self.session,
            torn_until: self.torn_until,
            mode,
            clean,
            parent: Parent { identity, window, hint },
            created_s: self.created_s,
            label,
            data_sectors,
            log,
        })
    }
}

fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// The first `len` bytes of a text field; the rest is not looked at.
fn text<const N: usize>(field: &[u8], len: u16) -> Option<Vec<u8, N>> {
    let used = field.get(..usize::from(len))?;
    Vec::from_slice(used).ok()
}
