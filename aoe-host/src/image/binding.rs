//! The parent of an image whose format cannot name it, or not well: a small JSON file beside the
//! image, `IMAGE.parent.json`.
//!
//! It is written when an image is made, or first used as an overlay, and checked whenever it is used
//! again. An image on a block device has none: beside a device node nothing survives.

use std::path::{Path, PathBuf};

use cow_core::format::native;
use cow_core::identity::{FileIdentity, LayerId, ParentIdentity};
use cow_core::units::SECTOR_BYTES;
use serde::{Deserialize, Serialize};

use super::identity::random_layer_id;
use super::notes::NoteId;
use super::parent::{Below, Recorded};
use crate::error::{ErrorKind, HostError, Result};
use crate::registry::{read_if_exists, write_atomically};
use crate::storage::FileStorage;

/// Version of the file; others are refused.
const VERSION: u32 = 1;

/// What is written down about a store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    version: u32,
    /// Name of the content until the next rollback: 32 hexadecimal digits.
    id: String,
    /// The parent.
    pub parent: ParentRecord,
    /// The part of it that is used; all of it if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<WindowRecord>,
    /// Size of the disk below, which is not that of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk_bytes: Option<u64>,
}

/// Part of a parent in JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowRecord {
    offset_bytes: u64,
    len_bytes: u64,
}

/// A parent in JSON.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ParentRecord {
    /// Zeros.
    None,
    /// A frozen layer with an identity of its own.
    Layer {
        /// 32 hexadecimal digits.
        id: String,
        /// Where it was.
        path: Option<PathBuf>,
    },
    /// Any other file.
    File {
        /// Length in bytes.
        size_bytes: u64,
        /// Time of modification: whole seconds since 1970.
        mtime_s: i64,
        /// Nanoseconds on top.
        mtime_ns: u32,
        /// Hash of samples of the content: 64 hexadecimal digits.
        sample: String,
        /// SHA-256 of the content, if it was taken: 64 hexadecimal digits.
        content: Option<String>,
        /// Where it was.
        path: Option<PathBuf>,
    },
}

impl ParentRecord {
    /// An identity and where it was.
    pub fn new(identity: &ParentIdentity, path: Option<&Path>) -> Self {
        let path = path.map(Path::to_owned);
        match identity {
            ParentIdentity::Layer(id) => Self::Layer { id: id.to_string(), path },
            ParentIdentity::File(file) => Self::File {
                size_bytes: file.size_bytes,
                mtime_s: file.mtime_s,
                mtime_ns: file.mtime_ns,
                sample: hex(&file.sample),
                content: file.content.as_ref().map(|c| hex(c)),
                path,
            },
            _ => Self::None,
        }
    }

    /// Where the parent was, perhaps with its format before it.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Layer { path, .. } | Self::File { path, .. } => path.as_deref(),
        }
    }

    /// The identity, if every number in the record has the right length.
    pub(crate) fn identity(&self) -> Option<ParentIdentity> {
        Some(match self {
            Self::None => ParentIdentity::None,
            Self::Layer { id, .. } => ParentIdentity::Layer(LayerId(unhex(id)?)),
            Self::File { size_bytes, mtime_s, mtime_ns, sample, content, .. } => {
                let content = match content {
                    Some(content) => Some(unhex(content)?),
                    None => None,
                };
                ParentIdentity::File(FileIdentity {
                    size_bytes: *size_bytes,
                    mtime_s: *mtime_s,
                    mtime_ns: *mtime_ns,
                    sample: unhex(sample)?,
                    content,
                })
            }
        })
    }
}

/// Where the binding of a store is kept.
pub fn binding_path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".parent.json");
    PathBuf::from(name)
}

impl Binding {
    /// A new binding of a store whose content is new.
    pub(crate) fn new(below: &Below) -> Result<Self> {
        Ok(Self::over(random_layer_id()?.to_string(), below))
    }

    fn over(id: String, below: &Below) -> Self {
        Self {
            version: VERSION,
            id,
            parent: ParentRecord::new(&below.parent.identity, below.hint().as_deref()),
            window: below.window.map(|w| WindowRecord { offset_bytes: w.offset, len_bytes: w.len }),
            disk_bytes: Some(below.sectors.saturating_mul(SECTOR_BYTES)),
        }
    }

    /// The same content over another parent.
    pub(crate) fn with_parent(&self, below: &Below) -> Self {
        Self::over(self.id.clone(), below)
    }

    /// The same parent under content that is new.
    pub(crate) fn renewed(&self) -> Result<Self> {
        Ok(Self { id: random_layer_id()?.to_string(), ..self.clone() })
    }

    /// What is written down about an overlay, made if it is not there: it names the content for notes.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`save`](Self::save).
    pub(crate) fn of_overlay(store: &FileStorage, below: &Below) -> Result<Self> {
        if let Some(binding) = Self::load(store)? {
            return Ok(binding);
        }
        let binding = Self::new(below)?;
        binding.save(store)?;
        Ok(binding)
    }

    /// Gives the content another name, before it goes: notes of it must not come back.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`save`](Self::save).
    pub(crate) fn renew(store: &FileStorage) -> Result<()> {
        match Self::load(store)? {
            Some(binding) => binding.renewed()?.save(store),
            None => Ok(()),
        }
    }

    /// Reads what is written down about a store; `None` if nothing is.
    ///
    /// # Errors
    /// The system's; a file that is not understood, so that nothing is used with the wrong parent.
    pub fn load(store: &FileStorage) -> Result<Option<Self>> {
        if store.is_device() {
            return Ok(None);
        }
        let path = binding_path(store.path());
        let Some(bytes) = read_if_exists(&path)? else { return Ok(None) };
        let malformed = |detail: String| {
            HostError::new(ErrorKind::Corrupt, "read what is known about the parent")
                .path(&path)
                .detail(detail)
                .advice("remove the file if you are sure which image the store belongs to")
        };
        let binding: Self = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if binding.version != VERSION {
            return Err(malformed(format!("its version is {}, not {VERSION}", binding.version)));
        }
        if binding.parent.identity().is_none() || unhex::<16>(&binding.id).is_none() {
            return Err(malformed("a number in it has the wrong length".to_owned()));
        }
        Ok(Some(binding))
    }

    /// Writes it down, durably. Does nothing for a store on a block device.
    pub(crate) fn save(&self, store: &FileStorage) -> Result<()> {
        if store.is_device() {
            return Ok(());
        }
        let path = binding_path(store.path());
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| {
            HostError::new(ErrorKind::Io, "write down the parent").path(&path).source(e)
        })?;
        text.push(b'\n');
        write_atomically(&path, &text)
    }

    /// Removes what is written down about a store, if anything is.
    pub(crate) fn remove(store: &FileStorage) -> Result<()> {
        match Self::remove_beside(store.path()) {
            Err(_) if store.is_device() => Ok(()),
            removed => removed,
        }
    }

    /// The same, of an image that need not be there.
    pub(crate) fn remove_beside(image: &Path) -> Result<()> {
        let path = binding_path(image);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(HostError::io(e, "remove").path(path))
            }
            _ => Ok(()),
        }
    }

    /// What it says about the parent.
    pub(crate) fn recorded(&self) -> Recorded {
        Recorded::identity(self.identity(), self.window(), self.parent.path().map(Path::to_owned))
    }

    /// Under which notes about the image are kept. `None` on a block device, where nothing tells
    /// this content from what was there before.
    pub(crate) fn note_id(&self, image: &FileStorage) -> Option<NoteId> {
        (!image.is_device()).then(|| NoteId::new(self.id(), 0, 0))
    }

    /// Size of the disk below. `None` if the parent has to be asked.
    pub(crate) fn disk_sectors(&self) -> Option<u64> {
        let recorded = self.disk_bytes.map(|bytes| bytes.div_ceil(SECTOR_BYTES));
        recorded.or_else(|| self.recorded().disk_sectors())
    }

    /// The part of the parent that is used.
    fn window(&self) -> Option<native::Window> {
        self.window.map(|w| native::Window { offset: w.offset_bytes, len: w.len_bytes })
    }

    /// How the parent is recognised.
    fn identity(&self) -> ParentIdentity {
        self.parent.identity().unwrap_or_default()
    }

    /// Name of the content.
    fn id(&self) -> LayerId {
        LayerId(unhex(&self.id).unwrap_or(LayerId::NONE.0))
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != N.checked_mul(2)? || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0_usize..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_every_field() {
        let file = ParentIdentity::File(FileIdentity {
            size_bytes: 5,
            mtime_s: -7,
            mtime_ns: 999_999_999,
            sample: [0xab; 32],
            content: Some([1; 32]),
        });
        for identity in [file, ParentIdentity::None, ParentIdentity::Layer(LayerId([9; 16]))] {
            let record = ParentRecord::new(&identity, Some(Path::new("/x")));
            let text = serde_json::to_string(&record).unwrap();
            let back: ParentRecord = serde_json::from_str(&text).unwrap();
            assert_eq!(back.identity(), Some(identity), "{text}");
        }
        assert_eq!(unhex::<2>("0aFF"), Some([10, 255]));
        for bad in ["", "0a", "0aFFa0", "0a+1", "zzzz", "é0a"] {
            assert_eq!(unhex::<2>(bad), None, "{bad}");
        }
    }
}
