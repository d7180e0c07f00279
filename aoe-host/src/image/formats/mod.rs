//! Formats of images: one file each, one line each in [`FORMATS`], and no `match` anywhere else.
//!
//! Where sectors are and how they are written is the business of `cow_core::format`. Here is what a
//! program asks beyond that: is this file of the format, what does it say about itself and its
//! parent, open it as a layer or as the overlay, make one, check one, change one.

use core::fmt;
use std::path::Path;

use cow_core::format::native::LogId;
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::storage::ReadStorage;
use serde::{Serialize, Serializer};

use super::binding::Binding;
use super::identity::{identity_of, mtime_of};
use super::name::{ImageFile, ImageKeys};
use super::notes::NoteId;
use super::parent::{Below, Candidate, Recorded};
use super::report::{CheckReport, Facts, Progress};
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::FileStorage;

mod backing_file;
mod bitmaps;
mod cowloop;
mod dm_cow;
mod dm_snapshot;
mod foreign;
mod native;
mod options;
mod qcow1;
mod qcow2;
mod raw;
mod uml;

pub use options::FormatOptions;
pub(crate) use options::OptionSpec;

/// Every format, in the order in which files are asked. The last one takes everything.
static FORMATS: &[&dyn ImageFormat] = &[
    &native::Native,
    &dm_snapshot::DmSnapshot,
    &qcow1::Qcow1,
    &qcow2::Qcow2,
    &uml::Uml,
    &cowloop::Cowloop,
    &dm_cow::INTENDED,
    &dm_cow::POSTED_512,
    &dm_cow::POSTED_1024,
    &dm_cow::POSTED_2048,
    &dm_cow::POSTED_4096,
    &raw::Raw,
];

/// What the host asks of a format. A method changes nothing unless it says so, and nothing at all
/// when it returns an error before its first write: everything that could be refused is looked at
/// first. The defaults are right for a format of one file that knows nothing about its parent.
pub(crate) trait ImageFormat: fmt::Debug + Sync {
    /// Word in names, options and messages: lower-case letters, digits and hyphens.
    fn word(&self) -> &'static str;

    /// What it is, in one line for `--help`.
    fn about(&self) -> &'static str;

    /// Its metadata are in a file of their own, [`ImageFile::metadata`]. Such images are always named
    /// with the word of the format: `word:DATA+METADATA`.
    fn has_metadata_file(&self) -> bool {
        false
    }

    /// Images can hold snapshots inside, which are named `word@SNAPSHOT:PATH` and only read. The one
    /// that is meant is [`ImageFile::snapshot`].
    fn has_snapshots(&self) -> bool {
        false
    }

    /// It cannot exist without a parent, even if nothing is recorded about one.
    fn needs_parent(&self) -> bool {
        false
    }

    /// The disk is a whole number of so many sectors. Of a parent that is not, the rest is left out.
    fn unit_sectors(&self) -> u64 {
        1
    }

    /// When an image is made, its parent is written down in our file beside it, because the format
    /// cannot recognise it.
    fn binds_parent(&self) -> bool {
        false
    }

    /// Whether a file is of this format, by its `first` 512 bytes (zeros if the file is shorter) or
    /// by whatever else it wants to read. Damaged images are still recognised where possible.
    fn detect(&self, first: &[u8; 512], file: &FileStorage) -> Result<bool>;

    /// Tells what the image says about itself. Damage goes to [`Facts::problems`] and is no error.
    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()>;

    /// What the image recorded about its parent. `None`: it has none, or nothing is known of it.
    ///
    /// The default is for formats that record nothing: our file beside the image.
    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        Ok(Binding::load(&file.main)?.map(|binding| binding.recorded()))
    }

    /// Records what is below as the parent from now on. Changes the image, or the file beside it.
    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        bind(file, below)
    }

    /// Refuses a parent of another content, although the disk itself would be kept the same: for
    /// formats where something beside the disk lies on the parent too.
    fn check_new_parent(&self, _file: &ImageFile) -> Result<()> {
        Ok(())
    }

    /// By what an overlay recognises this image as its parent.
    fn identity(&self, file: &ImageFile) -> Result<ParentIdentity> {
        identity_of(&file.main)
    }

    /// Length of the disk in bytes; of a raw image not rounded up. `None`: the parent has to be asked.
    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>>;

    /// The image's bytes are the disk's, in order, from the first of [`ImageFile::main`] on.
    fn is_plain(&self) -> bool {
        false
    }

    /// Refuses an image that cannot be a parent, such as one that is still written.
    fn check_as_parent(&self, _file: &ImageFile) -> Result<()> {
        Ok(())
    }

    /// Opens a frozen layer over what is `below` it, which is compared with what the image recorded.
    /// `index` is empty, and is filled if the format has no pages.
    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>>;

    /// Opens an image for reading as it is, overlay or layer, without comparing anything.
    /// `below_sectors` is the size of what lies below, where that is known.
    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below_sectors: Option<u64>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>>;

    /// Opens an overlay for writing over what is `below`, which is compared with what the image
    /// recorded. May repair what an earlier process left half done.
    fn open_overlay(
        &self,
        file: &mut ImageFile,
        _keys: ImageKeys,
        _below: &Below,
    ) -> Result<TopImage> {
        Err(HostError::new(ErrorKind::Unsupported, "use the overlay")
            .path(file.path())
            .detail(format!("the format {} is not written", self.word()))
            .advice("use it as a layer, below an overlay"))
    }

    /// Opens an overlay that was just made, before anybody else has seen it. If a commit log is part of
    /// it already, that holds nothing of it.
    fn open_new_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        self.open_overlay(file, keys, below)
    }

    /// Records an orderly end of writing. `top` is idle and committed.
    fn close(&self, file: &mut ImageFile, _top: &mut Top) -> Result<()> {
        file.sync_data()
    }

    /// Under which acknowledged writes are noted that are not in the image yet. `None`: none can be.
    fn note_id(&self, file: &ImageFile) -> Result<Option<NoteId>> {
        Ok(Binding::load(&file.main)?.and_then(|binding| binding.note_id(&file.main)))
    }

    /// Index memory with room for `needed` entries in place of one that has become too small. False:
    /// the format has none, or the two do not fit together.
    fn grow_index(&self, _index: &mut Vec<IndexEntry>, _needed: u64) -> bool {
        false
    }

    /// How images are made in it. `None`: they are not.
    fn creation(&self) -> Option<&'static Creation> {
        None
    }

    /// Writes a new, empty image; durable when this returns. Called only after the request was held
    /// against [`creation`](Self::creation).
    fn create(&self, file: &mut ImageFile, _new: &NewImage<'_>) -> Result<()> {
        Err(self.cannot("create", file.path()))
    }

    /// The last step of making an image: it is filled, closed, and still without its name.
    fn complete(&self, _file: &mut ImageFile, _options: &FormatOptions) -> Result<()> {
        Ok(())
    }

    /// Reads all metadata and tells what is wrong with them.
    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        progress: &mut Progress<'_>,
    ) -> Result<()>;

    /// Repairs what [`check`](Self::check) finds, as far as that loses no data, and says what it did in
    /// [`CheckReport::repaired`], a sentence each. The caller checks again afterwards.
    fn repair(
        &self,
        _file: &mut ImageFile,
        _report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        Ok(())
    }

    /// Empties an overlay: its disk is again what lies below. Returns the bytes that were in it, where
    /// that can be told.
    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        Err(self.cannot("roll back", file.path()))
    }

    /// Makes an overlay a layer that never changes again, under a new identity.
    fn freeze(&self, file: &mut ImageFile) -> Result<LayerId> {
        Err(HostError::new(ErrorKind::Unsupported, "freeze")
            .path(file.path())
            .detail(format!("the format {} cannot say that an image is frozen", self.word()))
            .advice("use it as a layer as it is, and do not write it any more"))
    }

    /// It says of itself that it never changes again.
    fn is_frozen(&self, _file: &ImageFile) -> Result<bool> {
        Ok(false)
    }

    /// Makes a frozen layer an overlay again, under a new identity: what lies on it is refused from
    /// then on. Where layers and overlays are the same, there is nothing to do.
    fn thaw(&self, _file: &mut ImageFile) -> Result<()> {
        Ok(())
    }

    /// This format has no such thing.
    fn cannot(&self, op: &str, path: &Path) -> HostError {
        HostError::new(ErrorKind::Unsupported, op)
            .path(path)
            .detail(format!("the format {} has no such thing", self.word()))
    }
}

/// Writes down what is below an image, in our file beside it.
fn bind(file: &ImageFile, below: &Below) -> Result<()> {
    let binding = match Binding::load(&file.main)? {
        Some(binding) => binding.with_parent(below),
        None => Binding::new(below)?,
    };
    binding.save(&file.main)
}

/// A layer that was opened, and how it looks from above.
#[derive(Debug)]
pub(crate) struct OpenedLayer<'i> {
    pub(crate) layer: Layer<'i>,
    /// As [`ImageFormat::identity`].
    pub(crate) identity: ParentIdentity,
    /// Length of the disk in bytes; of a raw image not rounded up.
    pub(crate) size_bytes: u64,
    /// What is legal but should be known, as a sentence.
    pub(crate) warning: Option<String>,
}

/// An overlay that was opened for writing.
#[derive(Debug)]
pub(crate) struct TopImage {
    pub(crate) top: Top,
    /// Filled index memory; empty for formats with pages.
    pub(crate) index: Vec<IndexEntry>,
    /// Sectors that have space of their own.
    pub(crate) used: u64,
    /// Size of its disk.
    pub(crate) sectors: u64,
    /// The name in it; empty where the format has none.
    pub(crate) label: String,
    /// Under which its notes are kept; `None` if it cannot be told from others.
    pub(crate) note_id: Option<NoteId>,
    /// The last process that wrote it came to an orderly end, as far as the format tells.
    pub(crate) was_clean: bool,
    /// Discarded sectors read as zeros, whatever is below.
    pub(crate) discards_to_zeros: bool,
}

/// How images are made in a format: what it can express.
#[derive(Debug)]
pub(crate) struct Creation {
    /// What `-o` takes.
    pub(crate) options: &'static [OptionSpec],
    /// A disk over nothing.
    pub(crate) blank: bool,
    /// A disk of another size than that of the image below.
    pub(crate) other_size: bool,
    /// A disk over a part of an image.
    pub(crate) part: bool,
}

/// What [`ImageFormat::create`] is to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewImage<'a> {
    /// What lies below.
    pub(crate) below: &'a Below,
    /// Size of the disk.
    pub(crate) sectors: u64,
    /// Keys are known to the format.
    pub(crate) options: &'a FormatOptions,
    /// The file is new and empty; otherwise it is a block device with any content.
    pub(crate) is_fresh: bool,
    /// The commit log that is part of it from the beginning. Formats without logs have none.
    pub(crate) log: Option<LogId>,
}

/// A format of images.
#[derive(Clone, Copy)]
pub struct Format(&'static dyn ImageFormat);

impl Format {
    /// The bytes of a disk, one after the other. Anything that is nothing else.
    pub const RAW: Self = Self(&raw::Raw);

    /// Our own overlays.
    pub const NATIVE: Self = Self(&native::Native);

    /// Every format, in the order in which files are asked.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().copied().map(Self)
    }

    /// Those in which images can be made, the preferred one first.
    pub fn creatable() -> impl Iterator<Item = Self> {
        Self::all().filter(|format| format.0.creation().is_some())
    }

    /// The format of this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::all().find(|format| format.word() == word)
    }

    /// Word in names and messages.
    pub fn word(self) -> &'static str {
        self.0.word()
    }

    /// What it is, in one line.
    pub fn about(self) -> &'static str {
        self.0.about()
    }

    pub(crate) fn ops(self) -> &'static dyn ImageFormat {
        self.0
    }

    /// The file as something that might be a parent.
    pub(crate) fn candidate(self, file: &ImageFile) -> Result<Candidate> {
        Ok(Candidate {
            identity: self.0.identity(file)?,
            size_bytes: self.0.disk_bytes(file)?,
            mtime_s: mtime_of(&file.main)?,
            raw: self.0.is_plain().then(|| file.main.clone()),
        })
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.word() == other.word()
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, to: S) -> core::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

/// What the content of a file looks like. Damaged images are still recognised where their format can
/// be made out.
///
/// # Errors
/// The medium's.
pub fn detect(file: &FileStorage) -> Result<Format> {
    let mut first = [0; 512];
    read_first(file, &mut first)?;
    for format in Format::all() {
        if format.0.detect(&first, file)? {
            return Ok(format);
        }
    }
    Ok(Format::RAW)
}

/// As [`detect`], for a file of which nothing else is known.
///
/// # Errors
/// The medium's; a file that is no plain image by its looks, and of no format that is read.
pub(crate) fn recognise(file: &FileStorage) -> Result<Format> {
    let format = detect(file)?;
    if format == Format::RAW {
        let mut first = [0; 512];
        let len = read_first(file, &mut first)?;
        foreign::refuse(first.get(..len).unwrap_or_default(), file)?;
    }
    Ok(format)
}

/// Reads how a file begins, and how many bytes of that there are.
fn read_first(file: &FileStorage, first: &mut [u8; 512]) -> Result<usize> {
    let len = usize::try_from(file.len_bytes()?).map_or(first.len(), |len| len.min(first.len()));
    file.read_at(0, first.get_mut(..len).unwrap_or_default())?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileOptions;

    #[test]
    fn content_decides_without_a_prefix() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let look = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            detect(&FileStorage::open(file.path(), &FileOptions::default()).unwrap()).unwrap()
        };
        assert_eq!(look(b""), Format::RAW);
        // Cut off in the header: damaged, and nothing else.
        for (bytes, word) in [
            (&b"SnAp"[..], "dm-snapshot"),
            (b"OOOM\0\0\0\x03", "uml"),
            (b"MOOO", "uml"),
            (b"\x7fCOW", "cowloop"),
            (b"QFI\xfb\0\0\0\x01", "qcow1"),
            (b"QFI\xfb\0\0\0\x02", "qcow2"),
            (b"QFI\xfb\0\0\0", "raw"),
            (b"SnA", "raw"),
        ] {
            assert_eq!(look(bytes).word(), word);
        }
        let mut store = vec![0; 512];
        store[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        assert_eq!(look(&store).word(), "dm-snapshot");
        let mut native = vec![0; 8192];
        native[4096..4104].copy_from_slice(b"cowblade");
        assert_eq!(look(&native), Format::NATIVE);
        let mut qcow = vec![0; 560];
        qcow[..8].copy_from_slice(b"QFI\xfb\0\0\0\x01");
        assert_eq!(look(&qcow).word(), "qcow1");
        qcow[7] = 3;
        assert_eq!(look(&qcow).word(), "qcow2");
    }

    #[test]
    fn words_are_words_and_each_is_there_once() {
        for (number, format) in Format::all().enumerate() {
            let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(!format.word().is_empty() && format.word().bytes().all(is_letter));
            assert_eq!(Format::all().position(|other| other == format), Some(number));
            let reserved = ["blank", "cow", "json"];
            assert!(!reserved.contains(&format.word()), "{format}");
        }
        assert_eq!(Format::all().last(), Some(Format::RAW), "raw takes everything");
        assert_eq!(Format::creatable().next(), Some(Format::NATIVE));
    }
}
