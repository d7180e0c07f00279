//! Overlays: made whole or not at all, opened over what they were made over, closed in order.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cow_core::format::native::{self, LogId};
use cow_core::format::{IndexEntry, Top};
use cow_core::identity::{LayerId, ParentIdentity};

use super::backing::Backing;
use super::binding::{Binding, binding_path};
use super::formats::{Format, FormatOptions, NewImage, TopImage};
use super::identity::scratch_page;
use super::merging::{refuse_merged_name, refuse_merging};
use super::name::{ImageFile, ImageKeys, ImageName};
use super::notes::NoteId;
use super::parent::Below;
use super::staged::{Staged, StagedOptions, sync_directory};
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{Access, FileKey, FileOptions, FileStorage, FileTable, LockMode};

/// How an overlay is opened or made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OverlayOptions {
    /// Its name in the image, where one is made; cut at 128 bytes.
    pub label: String,
    /// Bypass the page cache.
    pub direct: bool,
    /// Take room for the whole disk where it is made.
    pub preallocate: bool,
    /// The commit log that is part of it from the beginning, where one is made. One that exists is
    /// told by [`begin_log`].
    pub log: Option<LogId>,
}

/// What the engine needs of an overlay.
#[derive(Debug)]
pub struct Core {
    /// The overlay.
    pub top: Top,
    /// Its index memory; empty for formats with pages.
    pub index: Vec<IndexEntry>,
    /// Sectors that have space of their own.
    pub used: u64,
}

/// An overlay that is open for writing, locked against everybody else until this is dropped.
#[derive(Debug)]
pub struct OpenedOverlay {
    file: ImageFile,
    keys: ImageKeys,
    core: Option<Core>,
    format: Format,
    sectors: u64,
    label: String,
    note_id: Option<NoteId>,
    was_clean: bool,
    was_created: bool,
    discards_to_zeros: bool,
    /// Which its header names.
    log: Option<LogId>,
}

impl OpenedOverlay {
    fn new(file: ImageFile, keys: ImageKeys, format: Format, image: TopImage) -> Self {
        Self {
            file,
            keys,
            core: Some(Core { top: image.top, index: image.index, used: image.used }),
            format,
            sectors: image.sectors,
            label: image.label,
            note_id: image.note_id,
            was_clean: image.was_clean,
            was_created: false,
            discards_to_zeros: image.discards_to_zeros,
            log: None,
        }
    }

    /// Whether its format can say that a commit log is part of it.
    pub fn may_have_log(&self) -> bool {
        self.format == Format::NATIVE
    }

    /// Its header names this log now: [`begin_log`] was told to.
    pub fn names_log(&mut self, log: Option<LogId>) {
        self.log = log;
    }

    /// The layer whose changes go to its commit log; `None` if it has none.
    pub fn logged_layer(&self) -> Option<LayerId> {
        self.note_id.filter(|_| self.log.is_some()).map(|id| id.layer())
    }

    /// Puts its files into the table, under the keys that its operations name.
    pub fn enter(&self, files: &mut FileTable) {
        self.keys.enter(&self.file, files);
    }

    /// Takes its files out of the table.
    pub fn leave(&self, files: &mut FileTable) {
        self.keys.leave(files);
    }

    /// The file or files.
    pub fn file(&self) -> &ImageFile {
        &self.file
    }

    /// What the engine needs; `None` when it was taken before.
    pub fn take_core(&mut self) -> Option<Core> {
        self.core.take()
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Size of its disk in sectors: that of the layers below, unless it was made with another.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The name in the image; empty where the format has none.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Under which its notes are kept. `None` for a format without a name of its own on a block
    /// device: in `writeback` mode the death of the process may cost its last seconds there.
    pub fn note_id(&self) -> Option<NoteId> {
        self.note_id
    }

    /// The last process that wrote it came to an orderly end, as far as the format tells.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Sectors that its client discards read as zeros from then on.
    pub fn discards_to_zeros(&self) -> bool {
        self.discards_to_zeros
    }

    /// It did not exist before.
    pub fn was_created(&self) -> bool {
        self.was_created
    }

    /// Records an orderly end; a commit log is no part of it any more. `top` is what the engine gave back,
    /// idle and committed; after a failed sync do not call this, but drop the overlay.
    ///
    /// # Errors
    /// The medium's; the next opening then takes it as not closed, and with a commit log enters that
    /// once more.
    pub fn close(&mut self, top: &mut Top) -> Result<()> {
        self.format.ops().close(&mut self.file, top)
    }

    /// Removes the files and what is kept beside them, at the end of an ephemeral disk. Block
    /// devices stay as they are.
    ///
    /// # Errors
    /// The system's.
    pub fn delete(self) -> Result<()> {
        for file in self.file.files().filter(|file| !file.is_device()) {
            let path = file.path();
            fs::remove_file(path).map_err(|e| HostError::io(e, "remove the overlay").path(path))?;
        }
        if self.file.main.is_device() {
            return Ok(());
        }
        let beside = binding_path(self.file.path());
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(HostError::io(e, "remove").path(beside))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a commit log part of a native overlay that is open, before its first change. Gives its header
/// as it is then.
///
/// # Errors
/// The medium's.
pub fn begin_log(file: &mut FileStorage, layer: LayerId, log: LogId) -> Result<native::Opened> {
    native::begin_log(file, layer, log, &mut scratch_page()).map_err(|error| match error {
        native::UpdateError::Storage(error) => error.into(),
        other => HostError::new(ErrorKind::Corrupt, "begin the commit log of")
            .path(file.path())
            .detail(other.to_string()),
    })
}

/// Opens an overlay that exists, over the layers that it was made over.
///
/// # Errors
/// The system's; a lock; a file that is no overlay, or is frozen, damaged, or was made over
/// something else. Nothing was changed then.
pub fn open_overlay(
    name: &ImageName,
    backing: &Backing,
    keys: ImageKeys,
    options: &OverlayOptions,
) -> Result<OpenedOverlay> {
    let below = backing.below();
    refuse_itself(name, below)?;
    let (mut file, format) = name.open(&overlay_options(options.direct))?;
    refuse_merging(&file)?;
    let image = format.ops().open_overlay(&mut file, keys, below)?;
    Ok(OpenedOverlay::new(file, keys, format, image))
}

/// Makes a native overlay as large as the layers below, and opens it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`], a name that forces another format, or what the system says; there is
/// nothing under the name then.
pub fn create_overlay(
    name: &ImageName,
    backing: &Backing,
    keys: ImageKeys,
    options: &OverlayOptions,
) -> Result<OpenedOverlay> {
    let below = backing.below();
    let format = Format::NATIVE;
    if let Some(other) = name.forced.filter(|forced| *forced != format) {
        return Err(HostError::new(ErrorKind::NotFound, "use the overlay")
            .path(&name.path)
            .advice(format!("make it with `cowblade create --format {other}`")));
    }
    let mut about = FormatOptions::default().with("label", &*options.label);
    if options.preallocate {
        about = about.with("preallocate", "yes");
    }
    let new = NewOverlay {
        format,
        sectors: below.sectors,
        options: &about,
        direct: options.direct,
        onto_device: false,
        replace: false,
        log: options.log,
    };
    let mut file = make_overlay(name, below, &new)?;
    let image = format.ops().open_new_overlay(&mut file, keys, below)?;
    let opened = OpenedOverlay::new(file, keys, format, image);
    Ok(OpenedOverlay { was_created: true, log: options.log, ..opened })
}

/// What [`make_overlay`] makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewOverlay<'a> {
    pub(crate) format: Format,
    pub(crate) sectors: u64,
    pub(crate) options: &'a FormatOptions,
    pub(crate) direct: bool,
    /// The target is an existing block device; whatever it holds is given up.
    pub(crate) onto_device: bool,
    /// A file of that name is replaced by the finished image.
    pub(crate) replace: bool,
    /// The commit log that is part of it from the beginning, if its format can say so.
    pub(crate) log: Option<LogId>,
}

/// Makes an overlay and leaves it open and locked.
pub(crate) fn make_overlay(
    name: &ImageName,
    below: &Below,
    new: &NewOverlay<'_>,
) -> Result<ImageFile> {
    let image = begin_image(name, below, new)?;
    let file = image.file.clone();
    image.finish(new)?;
    Ok(file)
}

/// An image that was made and is still without its name, so that it can be filled first. Removed when
/// dropped unfinished; a block device stays as it is.
#[derive(Debug)]
pub(crate) struct NewImageFile {
    /// Open and locked.
    pub(crate) file: ImageFile,
    staged: Vec<Staged>,
    /// The final name. What is said about the parent is kept beside another one until then.
    path: PathBuf,
    /// The image that is replaced, locked against everybody.
    replaced: Option<FileStorage>,
    /// The file with the metadata of the image that is replaced.
    old_metadata: Option<PathBuf>,
    is_finished: bool,
}

impl NewImageFile {
    /// Gives it its name, durably. Its content is durable already.
    pub(crate) fn finish(mut self, new: &NewOverlay<'_>) -> Result<()> {
        new.format.ops().complete(&mut self.file, new.options)?;
        let staged = core::mem::take(&mut self.staged);
        if staged.is_empty() {
            self.is_finished = true;
            return Ok(()); // a device
        }
        // A cut between these leaves an image of whose parent nothing is known, never a wrong one; where
        // nothing is replaced it leaves what is said about an image that is not there.
        match &self.replaced {
            Some(old) => Binding::remove(old)?,
            // What was said of an image that is gone is not true of this one.
            None if !self.bind()? => Binding::remove_beside(&self.path)?,
            None => {}
        }
        // The data of one with the metadata of the other would look like an image.
        if let Some(path) = &self.old_metadata {
            fs::remove_file(path).map_err(|e| HostError::io(e, "replace").path(path))?;
            sync_directory(path)?;
        }
        staged.into_iter().try_for_each(Staged::finish)?;
        self.is_finished = true;
        if self.replaced.is_some() {
            self.bind()?;
        }
        Ok(())
    }

    /// The same error, under the name that the image will have.
    pub(crate) fn told(&self, error: HostError) -> HostError {
        renamed(error, self.file.path(), &self.path)
    }

    /// What is said about the parent gets its final name; false if nothing is said.
    fn bind(&self) -> Result<bool> {
        let (from, to) = (binding_path(self.file.path()), binding_path(&self.path));
        if from == to {
            return Ok(false); // nothing is ever said of a format that has its own name meanwhile
        }
        match fs::rename(&from, &to) {
            Ok(()) => sync_directory(&to).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(HostError::io(e, "write down the parent").path(&to)),
        }
    }
}

impl Drop for NewImageFile {
    fn drop(&mut self) {
        if !self.is_finished && self.file.path() != self.path {
            // The error that led here matters more.
            let _left_over = Binding::remove(&self.file.main);
        }
    }
}

/// Makes an image that has its name only when it is finished.
pub(crate) fn begin_image(
    name: &ImageName,
    below: &Below,
    new: &NewOverlay<'_>,
) -> Result<NewImageFile> {
    let ops = new.format.ops();
    let refused = |detail: &str| {
        HostError::usage(format!("create a {} overlay", new.format), detail).path(&name.path)
    };
    let Some(creation) = ops.creation() else {
        return Err(refused("this format is only read"));
    };
    new.options.check(new.format, creation.options)?;
    if ops.has_metadata_file() && name.metadata.is_none() {
        let advice = format!("write {}:DATA+METADATA", new.format);
        return Err(refused("it consists of two files").advice(advice));
    }
    let image = NewImage {
        below,
        sectors: new.sectors,
        options: new.options,
        is_fresh: !new.onto_device,
        log: new.log,
    };
    if new.onto_device {
        refuse_itself(name, below)?;
        let (mut file, _) = name.open(&overlay_options(new.direct))?;
        if let Some(regular) = file.files().find(|file| !file.is_device()) {
            let error = HostError::usage("create onto", "it is no block device");
            return Err(error.path(regular.path()));
        }
        ops.create(&mut file, &image)?;
        return Ok(NewImageFile {
            file,
            staged: Vec::new(),
            path: name.path.clone(),
            replaced: None,
            old_metadata: None,
            is_finished: false,
        });
    }
    refuse_merged_name(&name.path)?;
    let how = StagedOptions { direct: new.direct, replace: new.replace };
    let replaced =
        if new.replace && name.path.exists() { Some(replaceable(&name.path)?) } else { None };
    // A native overlay has nothing beside it, and goes on to be used under its name.
    let is_bound = new.replace || new.format != Format::NATIVE;
    let (main, file) = stage(&name.path, how, is_bound)?;
    let metadata = name.metadata.as_ref().map(|path| stage(path, how, is_bound)).transpose()?;
    let (metadata, metadata_file) = metadata.unzip();
    let mut file = ImageFile { main: file, metadata: metadata_file, snapshot: None };
    ops.create(&mut file, &image).map_err(|error| renamed(error, file.path(), &name.path))?;
    if ops.binds_parent() && below.parent.identity != ParentIdentity::None {
        Binding::new(below)?.save(&file.main)?;
    }
    let staged = core::iter::once(main).chain(metadata).collect();
    let old_metadata = name.metadata.clone().filter(|path| new.replace && path.exists());
    let path = name.path.clone();
    Ok(NewImageFile { file, staged, path, replaced, old_metadata, is_finished: false })
}

/// Nobody has heard of the name that a file has meanwhile.
fn renamed(error: HostError, meanwhile: &Path, path: &Path) -> HostError {
    if error.context().path.as_deref() == Some(meanwhile) { error.path(path) } else { error }
}

/// An image that is about to be replaced, if nobody uses it.
fn replaceable(path: &Path) -> Result<FileStorage> {
    let options = FileOptions { lock: LockMode::Exclusive, ..FileOptions::default() };
    FileStorage::open(path, &options)
}

/// A new file that has its name only when it is finished.
fn stage(path: &Path, how: StagedOptions, is_bound: bool) -> Result<(Staged, FileStorage)> {
    let (staged, file) = Staged::create(path, how)?;
    // What stands beside the final name is said of an old image until this one is finished.
    let known_as = if is_bound { staged.aside() } else { path };
    let file = FileStorage::from_file(file, known_as, &overlay_options(how.direct))?;
    Ok((staged, file))
}

/// Reading and writing, and nobody else.
pub(crate) fn overlay_options(direct: bool) -> FileOptions {
    FileOptions {
        access: Access::ReadWrite,
        lock: LockMode::Exclusive,
        direct,
        ..FileOptions::default()
    }
}

/// An overlay in its own chain would be refused by its own lock; this says why.
pub(crate) fn refuse_itself(name: &ImageName, below: &Below) -> Result<()> {
    for path in core::iter::once(&name.path).chain(&name.metadata) {
        if FileKey::of(path).is_some_and(|key| below.files.contains(&key)) {
            let detail = "it is also one of the layers below itself";
            return Err(HostError::usage("use the overlay", detail)
                .path(path)
                .advice("name another file as overlay"));
        }
    }
    Ok(())
}

/// The parent of a new overlay with the hash of its whole content added.
pub(crate) fn with_content(below: &Below, content: [u8; 32]) -> Below {
    let mut below = below.clone();
    if let ParentIdentity::File(file) = &mut below.parent.identity {
        file.content = Some(content);
    }
    below
}
