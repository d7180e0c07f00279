//! Merging an overlay into its parent in place: what is written down so that a merge that was cut can
//! be finished, and so that nobody takes a half-changed parent for a whole one.
//!
//! ```text
//!   OVERLAY.merge.json    the journal: what is merged into what, and how far that is
//!   PARENT.merging.json   the mark: keeps everybody else away
//! ```
//!
//! 1. The journal is durable before the mark is, and the mark before the first byte of the parent
//!    changes.
//! 2. Of a parent without a mark, nothing was changed, or everything that had to be.
//! 3. The journal goes last. As long as it is there, the overlay is used by nobody but the merge.
//!
//! Both are kept under the resolved path, so that they are found through every symbolic link. Beside a
//! device node nothing survives: overlays on devices are not merged in place, and parents on devices
//! have no mark.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cow_core::identity::ParentIdentity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::binding::ParentRecord;
use super::identity::random_layer_id;
use super::name::ImageFile;
use super::staged::sync_directory;
use crate::config::{self, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::registry::{read_if_exists, write_atomically};
use crate::storage::FileStorage;

/// Version of both files; others are refused.
const VERSION: u32 = 1;

/// What becomes of an overlay that was merged into its parent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepOverlay {
    /// It stays as it is, over the changed parent: the same disk, twice the room.
    #[default]
    Leave,
    /// It is emptied, over the changed parent: the same disk.
    Empty,
    /// It is removed.
    Delete,
}

/// A layer below the overlay, by a name that forces its format.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum LayerRecord {
    File { name: PathBuf, offset_bytes: u64, len_bytes: Option<u64> },
    Blank { len_bytes: u64 },
}

impl LayerRecord {
    /// `None` for what is no layer of a chain that was found.
    fn new(layer: &config::Layer) -> Option<Self> {
        Some(match layer {
            config::Layer::File { path, window } => Self::File {
                name: path.clone(),
                offset_bytes: window.offset_bytes,
                len_bytes: window.len_bytes,
            },
            config::Layer::Blank { len_bytes } => Self::Blank { len_bytes: *len_bytes },
            config::Layer::Recorded => return None,
        })
    }

    fn layer(&self) -> config::Layer {
        match self {
            Self::File { name, offset_bytes, len_bytes } => config::Layer::File {
                path: name.clone(),
                window: Window { offset_bytes: *offset_bytes, len_bytes: *len_bytes },
            },
            Self::Blank { len_bytes } => config::Layer::Blank { len_bytes: *len_bytes },
        }
    }
}

/// A merge in place, as far as it must survive being cut.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    version: u32,
    /// Name of this merge, shared with the mark: 32 hexadecimal digits.
    id: String,
    /// The overlay when the merge began.
    overlay: ParentRecord,
    /// The parent when the merge began.
    parent: ParentRecord,
    /// The chain below the overlay, from the parent down.
    below: Vec<LayerRecord>,
    /// The parent was a frozen layer, and is to be one again.
    pub(crate) was_frozen: bool,
    /// Sectors of the disk, from the first on, that are in the parent durably.
    pub(crate) done_sectors: u64,
    /// What becomes of the overlay.
    pub(crate) keep: KeepOverlay,
    /// The parent is complete and durable: only the overlay is left to be seen to.
    pub(crate) is_complete: bool,
}

/// What a new journal says.
pub(crate) struct NewJournal<'a> {
    pub(crate) overlay: &'a ParentIdentity,
    pub(crate) parent: &'a ParentIdentity,
    pub(crate) below: &'a [config::Layer],
    pub(crate) was_frozen: bool,
    pub(crate) keep: KeepOverlay,
}

impl Journal {
    pub(crate) fn new(new: &NewJournal<'_>) -> Result<Self> {
        Ok(Self {
            version: VERSION,
            id: random_layer_id()?.to_string(),
            overlay: ParentRecord::new(new.overlay, None),
            parent: ParentRecord::new(new.parent, None),
            below: new.below.iter().filter_map(LayerRecord::new).collect(),
            was_frozen: new.was_frozen,
            done_sectors: 0,
            keep: new.keep,
            is_complete: false,
        })
    }

    /// The merge of this overlay that is under way, if one is.
    pub(crate) fn load(overlay: &Path) -> Result<Option<Self>> {
        let path = journal_path(overlay);
        let Some(journal): Option<Self> = load(&path)? else { return Ok(None) };
        if journal.version != VERSION || journal.below.is_empty() {
            return Err(malformed(&path, "it was written by another version of cowblade"));
        }
        Ok(Some(journal))
    }

    /// Writes it beside the overlay, durably.
    pub(crate) fn save(&self, overlay: &Path) -> Result<()> {
        save(&journal_path(overlay), self)
    }

    /// Ends the merge.
    pub(crate) fn remove(overlay: &Path) -> Result<()> {
        remove(&journal_path(overlay))
    }

    /// The chain below the overlay, from the parent down.
    pub(crate) fn below(&self) -> Vec<config::Layer> {
        self.below.iter().map(LayerRecord::layer).collect()
    }

    /// The overlay is the one with which the merge began.
    pub(crate) fn is_overlay(&self, identity: &ParentIdentity) -> bool {
        is_same(&self.overlay, identity)
    }

    /// The parent is as it was when the merge began.
    pub(crate) fn is_untouched_parent(&self, identity: &ParentIdentity) -> bool {
        is_same(&self.parent, identity)
    }

    /// Seconds since 1970 when the parent was last modified before the merge, if it is known by that.
    pub(crate) fn parent_mtime_s(&self) -> Option<i64> {
        match self.parent.identity() {
            Some(ParentIdentity::File(file)) => Some(file.mtime_s),
            _ => None,
        }
    }

    /// The mark of this merge stands beside the parent. Beside a device there is never one.
    pub(crate) fn is_marked(&self, parent: &FileStorage) -> Result<bool> {
        if parent.is_device() {
            return Ok(false);
        }
        let path = marker_path(parent.path());
        match load::<Marker>(&path)? {
            None => Ok(false),
            Some(marker) if marker.id == self.id => Ok(true),
            Some(marker) => Err(in_the_way(parent.path(), &marker.overlay)),
        }
    }

    /// Puts the mark beside the parent, durably.
    pub(crate) fn mark(&self, parent: &FileStorage, overlay: &Path) -> Result<()> {
        if parent.is_device() {
            return Ok(());
        }
        let overlay = resolved(overlay);
        save(
            &marker_path(parent.path()),
            &Marker { version: VERSION, id: self.id.clone(), overlay },
        )
    }
}

/// Takes the mark of a merge away, durably.
pub(crate) fn unmark(parent: &FileStorage) -> Result<()> {
    if parent.is_device() {
        return Ok(());
    }
    remove(&marker_path(parent.path()))
}

/// The mark beside a parent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    version: u32,
    id: String,
    overlay: PathBuf,
}

/// Refuses an image into which, or from which, a merge is under way: an overlay is being merged into
/// it, so that it is neither what it was nor what it will be; or it is itself being merged.
///
/// # Errors
/// [`ErrorKind::InUse`] with the way out; the system's.
pub(crate) fn refuse_merging(file: &ImageFile) -> Result<()> {
    match under_way(file)? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Refuses to make an image under a name beside which a merge has left something.
///
/// # Errors
/// [`ErrorKind::InUse`]; the system's.
pub(crate) fn refuse_merged_name(path: &Path) -> Result<()> {
    for beside in [journal_path(path), marker_path(path)] {
        if is_there(&beside)? {
            return Err(HostError::new(ErrorKind::InUse, "make the image")
                .path(path)
                .detail(format!("a merge is not finished: `{}`", beside.display()))
                .advice("finish it, or choose another name"));
        }
    }
    Ok(())
}

/// Refuses an image into which a merge is under way.
///
/// # Errors
/// As [`refuse_merging`].
pub(crate) fn refuse_marked(file: &ImageFile) -> Result<()> {
    if !file.main.is_device() && is_there(&marker_path(file.path()))? {
        return refuse_merging(file);
    }
    Ok(())
}

/// As [`refuse_merging`], as a finding.
pub(crate) fn merging_words(file: &ImageFile) -> Result<Option<String>> {
    Ok(under_way(file)?.map(|error| {
        let context = error.context();
        let (detail, advice) = (context.detail.as_deref(), context.advice.as_deref());
        format!("{}; {}", detail.unwrap_or_default(), advice.unwrap_or_default())
    }))
}

fn under_way(file: &ImageFile) -> Result<Option<HostError>> {
    if file.main.is_device() {
        return Ok(None);
    }
    if is_there(&marker_path(file.path()))? {
        let marker = load::<Marker>(&marker_path(file.path()));
        let overlay = marker.ok().flatten().map(|marker| marker.overlay);
        return Ok(Some(in_the_way(file.path(), &overlay.unwrap_or_else(|| "OVERLAY".into()))));
    }
    if is_there(&journal_path(file.path()))? {
        let detail = "it is being merged into its parent, which is not finished";
        return Ok(Some(being_merged(file.path(), detail, file.path())));
    }
    Ok(None)
}

fn in_the_way(parent: &Path, overlay: &Path) -> HostError {
    let detail = format!("a merge of `{}` into it is not finished", overlay.display());
    being_merged(parent, &detail, overlay)
}

fn being_merged(path: &Path, detail: &str, overlay: &Path) -> HostError {
    HostError::new(ErrorKind::InUse, "use the image").path(path).detail(detail).advice(format!(
        "run `cowblade merge {} --in-place` again, which goes on where it was cut",
        overlay.display()
    ))
}

/// Where the journal of an overlay is kept.
pub(crate) fn journal_path(overlay: &Path) -> PathBuf {
    beside(overlay, ".merge.json")
}

/// Where the mark of a parent is kept.
pub(crate) fn marker_path(parent: &Path) -> PathBuf {
    beside(parent, ".merging.json")
}

fn beside(image: &Path, suffix: &str) -> PathBuf {
    let mut name = resolved(image).into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Without symbolic links. A file that is gone is looked for where its directory leads.
fn resolved(path: &Path) -> PathBuf {
    let whole = fs::canonicalize(path).ok();
    let parent = || {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::canonicalize(directory.unwrap_or(Path::new("."))).ok()?;
        Some(directory.join(path.file_name()?))
    };
    whole.or_else(parent).unwrap_or_else(|| path.to_owned())
}

fn is_there(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(HostError::io(e, "look for the mark of a merge").path(path)),
    }
}

fn is_same(recorded: &ParentRecord, identity: &ParentIdentity) -> bool {
    recorded.identity().is_some_and(|recorded| recorded.matches(identity).is_ok())
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_if_exists(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| malformed(path, &e.to_string()))
}

fn malformed(path: &Path, detail: &str) -> HostError {
    HostError::new(ErrorKind::Corrupt, "go on with the merge").path(path).detail(detail.to_owned())
}

fn save(path: &Path, content: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(content)
        .map_err(|e| HostError::new(ErrorKind::Io, "write down the merge").path(path).source(e))?;
    text.push(b'\n');
    write_atomically(path, &text)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(HostError::io(e, "remove").path(path)),
    }
}

#[cfg(test)]
mod tests {
    use cow_core::identity::LayerId;

    use super::*;
    use crate::storage::FileOptions;

    fn image(dir: &Path, name: &str) -> ImageFile {
        let path = dir.join(name);
        fs::write(&path, [1; 512]).unwrap();
        FileStorage::open(path, &FileOptions::default()).unwrap().into()
    }

    fn journal(below: &[config::Layer]) -> Journal {
        Journal::new(&NewJournal {
            overlay: &ParentIdentity::Layer(LayerId([1; 16])),
            parent: &ParentIdentity::None,
            below,
            was_frozen: true,
            keep: KeepOverlay::Empty,
        })
        .unwrap()
    }

    #[test]
    fn a_mark_keeps_others_away_through_every_link() {
        let dir = tempfile::tempdir().unwrap();
        let (base, top) = (image(dir.path(), "base.img"), image(dir.path(), "top.cow"));
        std::os::unix::fs::symlink("base.img", dir.path().join("link.img")).unwrap();
        let link = FileStorage::open(dir.path().join("link.img"), &FileOptions::default()).unwrap();
        let below = [
            config::Layer::File {
                path: "raw:/x".into(),
                window: Window { offset_bytes: 512, len_bytes: Some(1024) },
            },
            config::Layer::Blank { len_bytes: 512 },
        ];
        let journal = journal(&below);
        assert_eq!(journal.below(), below);
        refuse_merging(&base).unwrap();
        journal.save(top.path()).unwrap();
        let error = refuse_merging(&top).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("top.cow --in-place"), "{error}");
        assert!(!journal.is_marked(&base.main).unwrap());
        journal.mark(&link, top.path()).unwrap();
        assert!(journal.is_marked(&base.main).unwrap());
        for file in [&base, &link.clone().into()] {
            let error = refuse_merging(file).unwrap_err().to_string();
            assert!(error.contains("top.cow` into it"), "{error}");
            assert!(merging_words(file).unwrap().unwrap().contains("again"));
        }
        assert_eq!(Journal::load(top.path()).unwrap(), Some(journal.clone()));
        let other = self::journal(&below);
        assert_eq!(other.is_marked(&base.main).unwrap_err().kind(), ErrorKind::InUse);
        unmark(&link).unwrap();
        refuse_merging(&base).unwrap();
        // The overlay may be gone by then.
        fs::remove_file(top.path()).unwrap();
        assert!(Journal::load(top.path()).unwrap().is_some());
        Journal::remove(top.path()).unwrap();
        assert_eq!(Journal::load(top.path()).unwrap(), None);
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let base = image(dir.path(), "base.img");
        fs::write(marker_path(base.path()), b"{").unwrap();
        assert_eq!(refuse_merging(&base).unwrap_err().kind(), ErrorKind::InUse);
        let error = journal(&[config::Layer::Blank { len_bytes: 512 }]).is_marked(&base.main);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
        fs::write(journal_path(base.path()), b"{}").unwrap();
        assert_eq!(Journal::load(base.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
