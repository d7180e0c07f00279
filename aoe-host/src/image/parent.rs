//! What lies below an image: what images record about it, and whether it is that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cow_core::format::native::Window;
use cow_core::identity::{ParentIdentity, ParentMismatch};
use cow_core::storage::ReadStorage;
use cow_core::units::SECTOR_BYTES;

use super::formats::Format;
use super::identity::{identity_of, mtime_of};
use super::name::ImageName;
use crate::config;
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{FileKey, FileStorage};

/// Something that might be a parent, with everything by which images recognise parents.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) identity: ParentIdentity,
    /// Length of its disk in bytes: of a raw image not rounded up. Unknown for a store whose origin
    /// is.
    pub(crate) size_bytes: Option<u64>,
    /// When its file was last modified, in whole seconds since 1970. A device has no such time.
    pub(crate) mtime_s: Option<i64>,
    /// The disk's bytes, where one file has them all in order.
    pub(crate) raw: Option<FileStorage>,
}

impl Candidate {
    /// Nothing: zeros without an end.
    pub(crate) const NOTHING: Self =
        Self { identity: ParentIdentity::None, size_bytes: None, mtime_s: None, raw: None };

    /// A file as the plain image that it would be.
    pub(crate) fn plain(file: &FileStorage) -> Result<Self> {
        Ok(Self {
            identity: identity_of(file)?,
            size_bytes: Some(file.len_bytes()?),
            mtime_s: mtime_of(file)?,
            raw: Some(file.clone()),
        })
    }
}

/// What an overlay lies on, as it looks from the overlay: enough to make one, or to recognise the
/// parent of one.
#[derive(Clone, Debug)]
pub(crate) struct Below {
    pub(crate) parent: Candidate,
    /// The part of the parent that is used, if not all of it.
    pub(crate) window: Option<Window>,
    /// As images remember it: absolute, if the system can tell. `None`: nothing is below, or zeros.
    pub(crate) path: Option<PathBuf>,
    /// The format of what is at the path; `None` of zeros.
    pub(crate) format: Option<Format>,
    /// Its content would be taken for another format.
    pub(crate) misleads: bool,
    pub(crate) sectors: u64,
    /// Every file in the chain.
    pub(crate) files: Vec<FileKey>,
}

impl Below {
    /// A disk of zeros.
    pub(crate) const fn blank(sectors: u64) -> Self {
        Self {
            parent: Candidate::NOTHING,
            window: None,
            path: None,
            format: None,
            misleads: false,
            sectors,
            files: Vec::new(),
        }
    }

    /// What our own records say: the path, or `FORMAT:PATH` where its content would mislead.
    pub(crate) fn hint(&self) -> Option<PathBuf> {
        let path = self.path.as_deref()?;
        let Some(format) = self.format.filter(|_| self.misleads) else {
            return Some(path.to_owned());
        };
        let mut hint = OsString::from(format.word());
        hint.push(":");
        hint.push(path);
        Some(PathBuf::from(hint))
    }

    /// Nothing is below but zeros.
    pub(crate) fn is_blank(&self) -> bool {
        self.files.is_empty()
    }
}

/// The part of a file that is used, if not all of it.
///
/// # Errors
/// The medium's.
pub(crate) fn part_of(file: &FileStorage) -> Result<Option<Window>> {
    if file.window() == config::Window::default() {
        return Ok(None);
    }
    let part = Window { offset: file.window().offset_bytes, len: file.len_bytes()? };
    let is_all = part.offset == 0 && part.len == file.whole()?.len_bytes()?;
    Ok((!is_all).then_some(part))
}

/// By what an image recognises its parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    /// By nothing: it has a parent, and any will do.
    Nothing,
    /// By an identity of ours, in the image or in the file beside it.
    Identity(ParentIdentity),
    /// By what its format records.
    Facts(ParentFacts),
}

/// What formats other than ours record about a parent. What is `None` is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ParentFacts {
    /// Length of the parent's disk, in whole units of so many bytes; a rest was not counted.
    pub(crate) size: Option<Units>,
    /// Low 32 bits of the time of modification, in seconds since 1970.
    pub(crate) mtime_s: Option<u32>,
    /// A sum over some of the content. Compared where the parent is a plain image only.
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// A number of units of some bytes each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Units {
    pub(crate) count: u64,
    /// At least 1.
    pub(crate) unit_bytes: u64,
}

impl Units {
    fn bytes(self) -> u64 {
        self.count.saturating_mul(self.unit_bytes)
    }
}

/// A sum over some of the content of a parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    pub(crate) value: u32,
    /// How it is formed.
    pub(crate) of: fn(&FileStorage) -> Result<u32>,
}

/// Two formations are never compared: one format has one.
impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for ParentFacts {
    fn eq(&self, other: &Self) -> bool {
        (self.size, self.mtime_s, self.fingerprint)
            == (other.size, other.mtime_s, other.fingerprint)
    }
}

impl Eq for ParentFacts {}

impl Known {
    /// Compares what is recorded with what is there; `None`: nothing is. The inner error is the
    /// gravest difference: [`ParentMismatch::Modified`] means that nothing else differs.
    ///
    /// # Errors
    /// The medium's.
    pub(crate) fn matches(
        &self,
        found: Option<&Candidate>,
    ) -> Result<core::result::Result<(), ParentMismatch>> {
        Ok(match (self, found) {
            (Self::Nothing, Some(_)) => Ok(()),
            (Self::Identity(recorded), found) => {
                recorded.matches(&found.map_or(ParentIdentity::None, |f| f.identity))
            }
            (Self::Facts(facts), Some(found)) if found.identity != ParentIdentity::None => {
                return facts.matches(found);
            }
            (Self::Nothing, None) | (Self::Facts(_), _) => Err(ParentMismatch::Missing),
        })
    }
}

impl ParentFacts {
    fn matches(&self, found: &Candidate) -> Result<core::result::Result<(), ParentMismatch>> {
        if let (Some(size), Some(found)) = (self.size, found.size_bytes) {
            let expected = size.bytes();
            let unit = size.unit_bytes.max(1);
            let found = found / unit * unit;
            if found < expected {
                return Ok(Err(ParentMismatch::Shorter { expected, found }));
            }
            if found > expected {
                return Ok(Err(ParentMismatch::Longer { expected, found }));
            }
        }
        if let (Some(recorded), Some(raw)) = (&self.fingerprint, &found.raw)
            && (recorded.of)(raw)? != recorded.value
        {
            return Ok(Err(ParentMismatch::Content));
        }
        if let (Some(recorded), Some(found_s)) = (self.mtime_s, found.mtime_s)
            && low_seconds(found_s) != recorded
        {
            let expected_s = i64::from(recorded);
            return Ok(Err(ParentMismatch::Modified { expected_s, found_s }));
        }
        Ok(Ok(()))
    }
}

/// Seconds since 1970 as formats with 32 bits keep them: modulo 2^32.
pub(crate) fn low_seconds(seconds: i64) -> u32 {
    u32::try_from(seconds & i64::from(u32::MAX)).unwrap_or(0)
}

/// What an image recorded about its parent.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) known: Known,
    pub(crate) window: Option<Window>,
    /// Where it was; absolute, or resolved against the directory of the image. Of an image of two
    /// files its whole name.
    pub(crate) path: Option<PathBuf>,
    /// Its format, where the image says it. Otherwise its content decides.
    pub(crate) format: Option<Format>,
}

impl Recorded {
    /// Recorded as an identity of ours, with a [hint](Below::hint).
    pub(crate) fn identity(
        identity: ParentIdentity,
        window: Option<Window>,
        hint: Option<PathBuf>,
    ) -> Self {
        let name = hint.map(ImageName::parse);
        let format = name.as_ref().and_then(|name| name.forced);
        let path = name.map(|name| if name.metadata.is_some() { name.spelt() } else { name.path });
        Self { known: Known::Identity(identity), window, path, format }
    }

    /// Size of the parent's disk, or of the part of it that is used. `None` if the parent has to be
    /// asked.
    pub(crate) fn disk_sectors(&self) -> Option<u64> {
        let len = match (self.known, self.window) {
            (Known::Identity(ParentIdentity::File(_)), Some(window)) => window.len,
            (Known::Identity(ParentIdentity::File(file)), None) => file.size_bytes,
            (Known::Facts(facts), _) => facts.size?.bytes(),
            _ => return None,
        };
        Some(len.div_ceil(SECTOR_BYTES))
    }

    /// The part of the parent that is used, as options have it.
    pub(crate) fn config_window(&self) -> config::Window {
        self.window.map_or_else(config::Window::default, |w| config::Window {
            offset_bytes: w.offset,
            len_bytes: Some(w.len),
        })
    }

    /// Compares it with what is below `image`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`], in words for a person; the medium's.
    pub(crate) fn check(&self, below: Option<&Below>, image: &Path) -> Result<()> {
        if let Err(mismatch) = self.known.matches(below.map(|b| &b.parent))? {
            let shown = below.and_then(|b| b.path.as_deref());
            let shown = shown.map_or_else(|| "nothing".to_owned(), |p| p.display().to_string());
            return Err(parent_refused(mismatch, image, &shown));
        }
        let found = below.and_then(|b| b.window);
        // A part that is all of it is none, however it was written down.
        let whole = below.filter(|b| b.window.is_none()).and_then(|b| b.parent.size_bytes);
        let recorded = self.window.filter(|w| w.offset != 0 || Some(w.len) != whole);
        if recorded == found || self.known == Known::Nothing {
            return Ok(());
        }
        let words = |window: Option<Window>| match window {
            Some(w) => format!("{} bytes from byte {} on", w.len, w.offset),
            None => "all of it".to_owned(),
        };
        Err(HostError::new(ErrorKind::Mismatch, "use the overlay")
            .path(image)
            .detail(format!(
                "it was made over another part of its parent: {}, not {}",
                words(recorded),
                words(found)
            ))
            .advice("check --offset and --length"))
    }
}

/// How two parents differ. Times are left out: they often look alike.
pub(crate) fn mismatch_words(mismatch: ParentMismatch) -> String {
    match mismatch {
        ParentMismatch::Modified { .. } => {
            "the parent was touched or written since: its time of modification is not the recorded \
             one, the rest is"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// What lies below an image is not what it was made over.
fn parent_refused(mismatch: ParentMismatch, image: &Path, below: &str) -> HostError {
    let error = HostError::new(ErrorKind::Mismatch, "use the overlay")
        .path(image)
        .detail(format!("{} (below it is {below})", mismatch_words(mismatch)));
    match mismatch {
        ParentMismatch::Modified { .. } => error.advice(format!(
            "if its content is the same, accept it with `cowblade rebind {} --parent {below} \
             --original COPY`, where COPY is an untouched copy, or with `--trust` if you know",
            image.display()
        )),
        ParentMismatch::Missing => error.advice("name its parent behind it"),
        ParentMismatch::Unexpected => error.advice("use it without an image below"),
        _ => error.advice("use the image that it was made over; `cowblade info` names it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_other_formats_are_compared_as_they_are_kept() {
        let seen = Candidate {
            identity: ParentIdentity::Layer(cow_core::identity::LayerId([1; 16])),
            size_bytes: Some(8 * 1024 + 1023),
            mtime_s: Some((1 << 32) + 5),
            raw: None,
        };
        let facts = |count, unit_bytes, mtime_s| {
            let size = Some(Units { count, unit_bytes });
            let known = Known::Facts(ParentFacts { size, mtime_s, fingerprint: None });
            known.matches(Some(&seen)).unwrap()
        };
        assert_eq!(facts(8, 1024, Some(5)), Ok(()));
        assert_eq!(facts(9215, 1, None), Ok(()));
        assert!(matches!(facts(9216, 1, None), Err(ParentMismatch::Shorter { .. })));
        assert!(matches!(facts(7, 1024, Some(5)), Err(ParentMismatch::Longer { .. })));
        assert!(matches!(facts(8, 1024, Some(6)), Err(ParentMismatch::Modified { .. })));
        for below in [None, Some(&Candidate::NOTHING)] {
            let known = Known::Facts(ParentFacts::default());
            assert_eq!(known.matches(below).unwrap(), Err(ParentMismatch::Missing));
        }
        assert_eq!(Known::Nothing.matches(None).unwrap(), Err(ParentMismatch::Missing));
        assert_eq!(low_seconds(-1), u32::MAX);
    }

    #[test]
    fn fingerprints_are_taken_of_plain_images() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 512]).unwrap();
        let file = FileStorage::open(file.path(), &crate::storage::FileOptions::default()).unwrap();
        let first: fn(&FileStorage) -> Result<u32> = |file| {
            let mut byte = [0];
            file.read_at(0, &mut byte)?;
            Ok(u32::from(byte[0]))
        };
        let with = |value| {
            let fingerprint = Some(Fingerprint { value, of: first });
            let known = Known::Facts(ParentFacts { fingerprint, ..ParentFacts::default() });
            known.matches(Some(&Candidate::plain(&file).unwrap())).unwrap()
        };
        assert_eq!(with(7), Ok(()));
        assert_eq!(with(8), Err(ParentMismatch::Content));
    }
}
