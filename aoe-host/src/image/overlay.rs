//! Overlays: made whole or not at all, opened over what they were made over, closed in order.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cow_core::format::dm_snapshot::{self, MAX_CHUNK_SECTORS};
use cow_core::format::native::{self, Fresh};
use cow_core::format::{IndexEntry, Top};
use cow_core::identity::ParentIdentity;
use cow_core::pages::StorageKey;
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::SECTOR_BYTES;

use super::backing::{Backing, Below, check_parent, load_list};
use super::binding::{Binding, binding_path};
use super::detect::{Format, ImageName};
use super::explain::{dm_open_failed, mode_refused, native_open_failed, native_update_failed};
use super::identity::{now_s, random_layer_id, scratch_page};
use super::notes::NoteId;
use super::sparse::Sparse;
use super::staged::Staged;
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{Access, FileKey, FileOptions, FileStorage, LockMode};

/// Exceptions for which index memory is kept ready beyond those that a store has. More are looked
/// after by growing the memory when the engine asks for it.
const INDEX_ROOM: u64 = 1 << 14;

/// Bytes read at a time from a store's list of exceptions.
const LIST_PIECE_LEN: usize = 64 << 10;

/// How an overlay is opened or made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OverlayOptions {
    /// Its name in the image, where one is made; cut at 128 bytes.
    pub label: String,
    /// Bypass the page cache.
    pub direct: bool,
}

/// What the engine needs of an overlay.
#[derive(Debug)]
pub struct Core {
    /// The overlay.
    pub top: Top,
    /// Its index memory; empty for native overlays.
    pub index: Vec<IndexEntry>,
    /// Sectors that have space of their own.
    pub used: u64,
}

/// An overlay that is open for writing, locked against everybody else until this is dropped.
#[derive(Debug)]
pub struct OpenedOverlay {
    file: FileStorage,
    key: StorageKey,
    core: Option<Core>,
    format: Format,
    sectors: u64,
    label: String,
    note_id: Option<NoteId>,
    was_clean: bool,
    was_created: bool,
}

impl OpenedOverlay {
    /// The key that its operations name: put [`file`](Self::file) under it into the table.
    pub fn key(&self) -> StorageKey {
        self.key
    }

    /// The file.
    pub fn file(&self) -> &FileStorage {
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

    /// Under which its notes are kept. `None` for a store on a block device, which has no name of
    /// its own: in `writeback` mode the death of the process may cost its last seconds there.
    pub fn note_id(&self) -> Option<NoteId> {
        self.note_id
    }

    /// The last process that wrote it came to an orderly end, as far as the format tells.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// It did not exist before.
    pub fn was_created(&self) -> bool {
        self.was_created
    }

    /// Records an orderly end. `top` is what the engine gave back, idle and committed; after a
    /// failed sync do not call this, but drop the overlay.
    ///
    /// # Errors
    /// The medium's; the next opening then takes it as not closed, which costs nothing else.
    pub fn close(&mut self, top: &Top) -> Result<()> {
        match top {
            Top::Native(overlay) => {
                let closed = native::close(&mut self.file, overlay, &mut scratch_page());
                closed
                    .map_err(|e| native_update_failed(e, "close the overlay", self.file.path()))?;
            }
            _ => self.file.sync_data()?,
        }
        Ok(())
    }

    /// Removes the file and what is kept beside it, at the end of an ephemeral disk. A block
    /// device stays as it is.
    ///
    /// # Errors
    /// The system's.
    pub fn delete(self) -> Result<()> {
        if self.file.is_device() {
            return Ok(());
        }
        let path = self.file.path();
        fs::remove_file(path).map_err(|e| HostError::io(e, "remove the overlay").path(path))?;
        let beside = binding_path(path);
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(HostError::io(e, "remove").path(beside))
            }
            _ => Ok(()),
        }
    }
}

/// Opens an overlay that exists, over the layers that it was made over.
///
/// # Errors
/// The system's; a lock; a file that is no overlay, or is frozen, damaged, or was made over
/// something else. Nothing was changed then.
pub fn open_overlay(
    path: impl AsRef<Path>,
    backing: &Backing,
    key: StorageKey,
    options: &OverlayOptions,
) -> Result<OpenedOverlay> {
    let name = ImageName::parse(path);
    let below = backing.below();
    refuse_itself(&name.path, below)?;
    let file = FileStorage::open(&name.path, &overlay_options(options.direct))?;
    let format = name.format_of(&file)?;
    match format {
        Format::Native => open_native(file, below, key),
        Format::DmSnapshot => open_dm(file, below, key),
        Format::Raw => {
            let is_empty = file.len_bytes()? == 0;
            let detail = if is_empty { "it is empty" } else { "it is no overlay" };
            Err(HostError::new(ErrorKind::Unsupported, "use the overlay")
                .path(&name.path)
                .detail(detail)
                .advice("overlays are made by `cowblade create`, or by the server on demand"))
        }
    }
}

/// Makes a native overlay as large as the layers below, and opens it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`], or what the system says; there is nothing under the name then.
pub fn create_overlay(
    path: impl AsRef<Path>,
    backing: &Backing,
    key: StorageKey,
    options: &OverlayOptions,
) -> Result<OpenedOverlay> {
    let below = backing.below();
    let new = NewOverlay {
        format: NewFormat::Native,
        sectors: below.sectors,
        label: &options.label,
        direct: options.direct,
        onto_device: false,
    };
    let file = make_overlay(path.as_ref(), below, &new)?;
    let mut opened = open_native(file, below, key)?;
    opened.was_created = true;
    Ok(opened)
}

/// Formats in which overlays are made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NewFormat {
    Native,
    DmSnapshot { chunk_sectors: u32 },
}

/// What [`make_overlay`] makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewOverlay<'a> {
    pub(crate) format: NewFormat,
    pub(crate) sectors: u64,
    pub(crate) label: &'a str,
    pub(crate) direct: bool,
    /// The target is an existing block device; whatever it holds is given up.
    pub(crate) onto_device: bool,
}

/// Makes an overlay and leaves it open and locked.
pub(crate) fn make_overlay(
    path: &Path,
    below: &Below,
    new: &NewOverlay<'_>,
) -> Result<FileStorage> {
    let options = overlay_options(new.direct);
    if new.onto_device {
        refuse_itself(path, below)?;
        let mut file = FileStorage::open(path, &options)?;
        if !file.is_device() {
            return Err(HostError::usage("create onto", "it is no block device").path(path));
        }
        fill_new(&mut file, below, new, Fresh::Unknown)?;
        return Ok(file);
    }
    let (staged, file) = Staged::create(path, new.direct)?;
    let mut file = FileStorage::from_file(file, path, &options)?;
    fill_new(&mut file, below, new, Fresh::Zeroed)?;
    if let NewFormat::DmSnapshot { .. } = new.format {
        Binding::new(below)?.save(&file)?;
    }
    staged.finish()?;
    Ok(file)
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
fn refuse_itself(path: &Path, below: &Below) -> Result<()> {
    match FileKey::of(path) {
        Some(key) if below.files.contains(&key) => {
            Err(HostError::usage("use the overlay", "it is also one of the layers below itself")
                .path(path)
                .advice("name another file as overlay"))
        }
        _ => Ok(()),
    }
}

/// Writes a new, empty overlay; durable when this returns.
fn fill_new(
    file: &mut FileStorage,
    below: &Below,
    new: &NewOverlay<'_>,
    fresh: Fresh,
) -> Result<()> {
    match new.format {
        NewFormat::Native => fill_native(file, below, new, fresh),
        NewFormat::DmSnapshot { chunk_sectors } => {
            if !chunk_sectors.is_power_of_two() || chunk_sectors > MAX_CHUNK_SECTORS {
                return Err(HostError::usage(
                    "create a dm-snapshot store",
                    format!("a chunk of {chunk_sectors} sectors is no power of two up to 1 GiB"),
                ));
            }
            if fresh == Fresh::Unknown {
                dm_snapshot::unmark(file)?;
            } else {
                file.extend(store_len(new.sectors, u64::from(chunk_sectors)))?;
            }
            dm_snapshot::create(file, chunk_sectors).map_err(|error| match error {
                dm_snapshot::CreateError::Storage(error) => error.into(),
                other => HostError::new(ErrorKind::Full, "create a dm-snapshot store")
                    .path(file.path())
                    .detail(other.to_string()),
            })
        }
    }
}

/// Bytes of a store that can hold every chunk of a disk: the header, the areas (of which the last
/// ends the list, so that one may be empty), and the data [FORMAT dm-snapshot 2.1].
fn store_len(disk_sectors: u64, chunk_sectors: u64) -> u64 {
    let per_area = chunk_sectors.saturating_mul(SECTOR_BYTES / 16).max(1);
    let chunks = disk_sectors.div_ceil(chunk_sectors.max(1));
    let areas = (chunks / per_area).saturating_add(1);
    let all = chunks.saturating_add(areas).saturating_add(1);
    all.saturating_mul(chunk_sectors).saturating_mul(SECTOR_BYTES)
}

fn fill_native(
    file: &mut FileStorage,
    below: &Below,
    new: &NewOverlay<'_>,
    fresh: Fresh,
) -> Result<()> {
    // A hint that does not fit is left out: the parent is recognised without.
    let hint = below.path.as_deref().map_or(&[][..], |path| path.as_os_str().as_bytes());
    let hint = if hint.len() > native::HINT_LEN { &[] } else { hint };
    let label = new.label.as_bytes();
    let options = native::CreateOptions {
        layer_id: random_layer_id()?,
        sectors: new.sectors,
        parent: below.identity,
        window: below.window,
        hint,
        label: label.get(..native::LABEL_LEN).unwrap_or(label),
        created_s: now_s(),
        fresh,
    };
    let path = file.path().to_owned();
    let made = native::create(file, &options, &mut scratch_page());
    made.map(drop).map_err(|error| match error {
        native::CreateError::Storage { needed, error } if error.is_full() => {
            HostError::new(ErrorKind::Full, "create the overlay")
                .path(path)
                .detail(format!("its file system does not take a sparse file of {needed} bytes"))
                .source(error)
        }
        native::CreateError::Storage { error, .. } => error.into(),
        other => HostError::usage("create the overlay", other.to_string()).path(path),
    })
}

fn open_native(file: FileStorage, below: &Below, key: StorageKey) -> Result<OpenedOverlay> {
    let op = "use the overlay";
    let opened = native::open(&file, &mut scratch_page())
        .map_err(|e| native_open_failed(e, op, file.path()))?;
    let header = opened.header();
    check_parent(&header.parent.identity, header.parent.window, Some(below), file.path())?;
    let (sectors, was_clean) = (opened.geometry().sectors(), header.clean);
    let label = String::from_utf8_lossy(&header.label).into_owned();
    let note_id = NoteId::of(header);
    let mut top = opened.into_writable(key).map_err(|e| mode_refused(e, op, file.path()))?;
    if !was_clean {
        // A killed process may have left writes that can be read and are yet not durable.
        file.sync_data()?;
    }
    let used = if let Some(used) = top.data_sectors() {
        used
    } else {
        let counted = count_data(&file)?;
        top.set_data_sectors(counted);
        counted
    };
    Ok(OpenedOverlay {
        file,
        key,
        core: Some(Core { top: Top::Native(top), index: Vec::new(), used }),
        format: Format::Native,
        sectors,
        label,
        note_id: Some(note_id),
        was_clean,
        was_created: false,
    })
}

/// Counts the sectors of a native image that was not closed in order.
pub(crate) fn count_data(file: &FileStorage) -> Result<u64> {
    let report = native::check(&Sparse::new(file), &mut scratch_page(), &mut |_finding| {});
    report.map(|r| r.data).map_err(|error| match error {
        native::CheckError::Open(error) => {
            native_open_failed(error, "use the overlay", file.path())
        }
        native::CheckError::Storage { error, .. } => error.into(),
        other => HostError::new(ErrorKind::Corrupt, "use the overlay")
            .path(file.path())
            .detail(other.to_string()),
    })
}

fn open_dm(mut file: FileStorage, below: &Below, key: StorageKey) -> Result<OpenedOverlay> {
    let op = "use the dm-snapshot store";
    if below.files.is_empty() {
        return Err(HostError::usage(op, "it needs its origin below it").path(file.path()));
    }
    let binding = Binding::load(&file)?;
    if let Some(binding) = &binding {
        check_parent(&binding.identity(), binding.window(), Some(below), file.path())?;
    }
    let mut piece = vec![0; LIST_PIECE_LEN];
    let mut opened = dm_snapshot::open(&file, below.sectors, &mut piece)
        .map_err(|e| dm_open_failed(e, op, file.path()))?;
    let was_clean = opened.stale().is_none();
    // From here on the store is changed: everything that could be refused has been looked at.
    let binding = if let Some(binding) = binding {
        binding
    } else {
        let binding = Binding::new(below)?;
        binding.save(&file)?;
        binding
    };
    // A killed process may have left writes that can be read and are yet not durable.
    file.sync_data()?;
    dm_snapshot::clear_stale(&mut file, &mut opened)?;
    let (loaded, index) = load_list(&file, &opened, INDEX_ROOM, &mut piece)?;
    let top = dm_snapshot::Writable::new(key, &loaded).map_err(|refused| {
        HostError::new(ErrorKind::Corrupt, op).path(file.path()).detail(refused.to_string())
    })?;
    let used = top.exceptions().saturating_mul(top.geometry().chunk_sectors());
    Ok(OpenedOverlay {
        note_id: (!file.is_device()).then(|| NoteId::new(binding.id(), 0, 0)),
        file,
        key,
        core: Some(Core { top: Top::DmSnapshot(top), index, used }),
        format: Format::DmSnapshot,
        sectors: below.sectors,
        label: String::new(),
        was_clean,
        was_created: false,
    })
}

/// The parent of a new overlay with the hash of its whole content added.
pub(crate) fn with_content(below: &Below, content: [u8; 32]) -> Below {
    let mut below = below.clone();
    if let ParentIdentity::File(file) = &mut below.identity {
        file.content = Some(content);
    }
    below
}
