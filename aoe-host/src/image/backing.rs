//! What lies below overlays: frozen layers from upper to base, opened read-only, locked and watched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cow_core::engine::MAX_LAYERS;
use cow_core::format::raw::Raw;
use cow_core::format::{IndexEntry, Layer, Map, dm_snapshot, native};
use cow_core::identity::ParentIdentity;
use cow_core::pages::StorageKey;
use cow_core::storage::ReadStorage;
use cow_core::units::SECTOR_BYTES;

use super::binding::Binding;
use super::detect::{Format, ImageName};
use super::explain::{
    dm_load_failed, dm_open_failed, mode_refused, native_open_failed, parent_refused,
};
use super::identity::{identity_of, scratch_page};
use crate::config::{self, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{
    Access, Change, ChangeWatch, FileKey, FileOptions, FileStorage, FileTable, LockMode,
};

/// Bytes read at a time from a store's list of exceptions.
const LIST_PIECE_LEN: usize = 64 << 10;

/// What an overlay lies on, as it looks from the overlay: enough to make one, or to recognise the
/// parent of one.
#[derive(Clone, Debug)]
pub(crate) struct Below {
    pub(crate) identity: ParentIdentity,
    pub(crate) window: Option<native::Window>,
    /// Absolute, if the system can tell. `None`: nothing is below, or zeros.
    pub(crate) path: Option<PathBuf>,
    pub(crate) sectors: u64,
    /// Every file in the chain.
    pub(crate) files: Vec<FileKey>,
}

/// The layers below the overlays of an export. Stays opened, locked and watched until dropped.
#[derive(Debug)]
pub struct Backing {
    layers: Arc<[Layer<'static>]>,
    below: Below,
    keys: Vec<StorageKey>,
    watches: Vec<ChangeWatch>,
    warnings: Vec<String>,
}

impl Backing {
    /// The layers for the engine, top first.
    pub fn layers(&self) -> &Arc<[Layer<'static>]> {
        &self.layers
    }

    /// Size of the disk in sectors.
    pub fn sectors(&self) -> u64 {
        self.below.sectors
    }

    /// Keys under which the files are in the table, base first.
    pub fn keys(&self) -> &[StorageKey] {
        &self.keys
    }

    /// The watched files, base first.
    pub fn watches(&self) -> &[ChangeWatch] {
        &self.watches
    }

    /// The first file that is not as it was, and how. Costs a few system calls per file.
    pub fn check(&self) -> Option<(&Path, Change)> {
        self.watches.iter().find_map(|watch| match watch.check() {
            Change::None => None,
            change => Some((watch.file().path(), change)),
        })
    }

    /// After [`Change::WriterWaits`]: no program has a file open for writing any more, and nothing
    /// was changed.
    pub fn regain(&self) -> bool {
        self.watches.iter().all(ChangeWatch::regain)
    }

    /// What is legal but should be known, as sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn below(&self) -> &Below {
        &self.below
    }
}

/// Opens the layers of an export, `layers` from upper to base, and enters their files into `files`.
///
/// The index of a dm-snapshot store is leaked on purpose: layers are shared by every disk and
/// thread, are opened once, and live as long as the process.
///
/// # Errors
/// Nothing to serve from, too many layers, a file twice, a layer above something it was not made
/// over, a writable layer, a raw image that is not the base, and whatever is wrong with a file.
pub fn open_backing(
    layers: &[config::Layer],
    direct: bool,
    files: &mut FileTable,
) -> Result<Backing> {
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        return Err(HostError::usage(
            "use the chain",
            format!("it has {} layers; 1 to {MAX_LAYERS} are possible", layers.len()),
        ));
    }
    let mut stack = Stack { direct, ..Stack::default() };
    for layer in layers.iter().rev() {
        match layer {
            config::Layer::Blank { len_bytes } => stack.put_blank(*len_bytes)?,
            config::Layer::File { path, window } => {
                // Keys are given out before the layer is known to be good, but stay empty then.
                stack.put_file(path, *window, files.reserve())?;
            }
        }
    }
    stack.finish(files)
}

/// A chain that is built from its base up.
#[derive(Default)]
struct Stack {
    direct: bool,
    below: Option<Below>,
    layers: Vec<Layer<'static>>,
    opened: Vec<(StorageKey, FileStorage)>,
    watches: Vec<ChangeWatch>,
    warnings: Vec<String>,
}

/// One layer, judged.
struct Judged {
    layer: Layer<'static>,
    identity: ParentIdentity,
    sectors: u64,
}

impl Stack {
    fn put_blank(&mut self, len_bytes: u64) -> Result<()> {
        if self.below.is_some() {
            return Err(HostError::usage("use the chain", "blank:SIZE can only be the base"));
        }
        let sectors = len_bytes / SECTOR_BYTES;
        self.below = Some(Below {
            identity: ParentIdentity::None,
            window: None,
            path: None,
            sectors,
            files: Vec::new(),
        });
        Ok(())
    }

    fn put_file(&mut self, path: &Path, window: Window, key: StorageKey) -> Result<()> {
        let name = ImageName::parse(path);
        let options = FileOptions {
            access: Access::ReadOnly,
            lock: LockMode::Shared,
            direct: self.direct,
            window,
        };
        let file = FileStorage::open(&name.path, &options)?;
        let file_key = file.key()?;
        let mut below_files = self.below.as_ref().map_or_else(Vec::new, |b| b.files.clone());
        if below_files.contains(&file_key) {
            return Err(HostError::usage("use the chain", "the same file is in it twice")
                .path(&name.path)
                .advice("name every layer once, from the top to the base"));
        }
        below_files.push(file_key);
        let watch = ChangeWatch::new(&file)?;
        let judged = match name.format_of(&file)? {
            Format::Raw => self.judge_raw(&file, key)?,
            Format::Native => self.judge_native(&file, key)?,
            Format::DmSnapshot => self.judge_dm(&file, key)?,
        };
        let window = (window != Window::default())
            .then(|| -> Result<_> {
                Ok(native::Window { offset: window.offset_bytes, len: file.len_bytes()? })
            })
            .transpose()?;
        self.below = Some(Below {
            identity: judged.identity,
            window,
            path: Some(std::fs::canonicalize(&name.path).unwrap_or(name.path)),
            sectors: judged.sectors,
            files: below_files,
        });
        self.layers.insert(0, judged.layer);
        self.opened.push((key, file));
        self.watches.push(watch);
        Ok(())
    }

    fn judge_raw(&self, file: &FileStorage, key: StorageKey) -> Result<Judged> {
        if self.below.is_some() {
            return Err(HostError::usage("use the chain", "a raw image hides what is below it")
                .path(file.path())
                .advice("name raw images last"));
        }
        let len = file.len_bytes()?;
        let Some(raw) = Raw::new(key, len) else {
            let detail = if len == 0 { "it is empty" } else { "it is larger than a disk can be" };
            return Err(HostError::usage("serve", detail).path(file.path()));
        };
        Ok(Judged { identity: identity_of(file)?, sectors: raw.sectors(), layer: Layer::Raw(raw) })
    }

    fn judge_native(&self, file: &FileStorage, key: StorageKey) -> Result<Judged> {
        let op = "use the layer";
        let opened = native::open(file, &mut scratch_page())
            .map_err(|e| native_open_failed(e, op, file.path()))?;
        let frozen = opened.frozen(key).map_err(|e| mode_refused(e, op, file.path()))?;
        let parent = &opened.header().parent;
        check_parent(&parent.identity, parent.window, self.below.as_ref(), file.path())?;
        Ok(Judged {
            identity: ParentIdentity::Layer(opened.header().layer_id),
            sectors: frozen.sectors(),
            layer: Layer::Native(frozen),
        })
    }

    fn judge_dm(&mut self, file: &FileStorage, key: StorageKey) -> Result<Judged> {
        let Some(below) = &self.below else {
            return Err(HostError::usage("use the layer", "a dm-snapshot store needs its origin")
                .path(file.path())
                .advice("name the origin behind it"));
        };
        match Binding::load(file)? {
            Some(binding) => {
                let (identity, window) = (binding.identity(), binding.window());
                check_parent(&identity, window, Some(below), file.path())?;
            }
            None => self.warnings.push(format!(
                "nothing says that `{}` belongs to the image below it: make sure yourself",
                file.path().display()
            )),
        }
        let (loaded, index) = load_store(file, below.sectors, 0)?;
        // Lives as long as the process: see `open_backing`.
        let index: &'static [IndexEntry] = Vec::leak(index);
        Ok(Judged {
            identity: identity_of(file)?,
            sectors: below.sectors,
            layer: Layer::DmSnapshot(dm_snapshot::Frozen::new(key, &loaded, index)),
        })
    }

    fn finish(self, files: &mut FileTable) -> Result<Backing> {
        let nothing = || HostError::new(ErrorKind::Usage, "use the chain");
        let below = self.below.ok_or_else(nothing)?;
        let keys = self.opened.iter().map(|(key, _)| *key).collect();
        for (key, file) in self.opened {
            files.set(key, file);
        }
        Ok(Backing {
            layers: Arc::from(self.layers),
            below,
            keys,
            watches: self.watches,
            warnings: self.warnings,
        })
    }
}

/// Compares what an image recorded with what is below it.
pub(super) fn check_parent(
    recorded: &ParentIdentity,
    window: Option<native::Window>,
    below: Option<&Below>,
    image: &Path,
) -> Result<()> {
    let found = below.map_or(ParentIdentity::None, |b| b.identity);
    let shown = below.and_then(|b| b.path.as_deref());
    let shown = shown.map_or_else(|| "nothing".to_owned(), |path| path.display().to_string());
    recorded.matches(&found).map_err(|mismatch| parent_refused(mismatch, image, &shown))?;
    let found_window = below.and_then(|b| b.window);
    if window != found_window {
        let words = |w: Option<native::Window>| match w {
            Some(w) => format!("{} bytes from byte {} on", w.len, w.offset),
            None => "all of it".to_owned(),
        };
        return Err(HostError::new(ErrorKind::Mismatch, "use the overlay")
            .path(image)
            .detail(format!(
                "it was made over another part of its parent: {}, not {}",
                words(window),
                words(found_window)
            ))
            .advice("check --offset and --length"));
    }
    Ok(())
}

/// Reads a store's list into index memory with room for `more` further exceptions, as far as the
/// store can have them.
pub(crate) fn load_store(
    file: &FileStorage,
    disk_sectors: u64,
    more: u64,
) -> Result<(dm_snapshot::Loaded, Vec<IndexEntry>)> {
    let op = "open the dm-snapshot store";
    let mut piece = vec![0; LIST_PIECE_LEN];
    let opened = dm_snapshot::open(file, disk_sectors, &mut piece)
        .map_err(|e| dm_open_failed(e, op, file.path()))?;
    load_list(file, &opened, more, &mut piece)
}

/// As [`load_store`], for a store that is open already.
pub(super) fn load_list(
    file: &FileStorage,
    opened: &dm_snapshot::Opened,
    more: u64,
    piece: &mut [u8],
) -> Result<(dm_snapshot::Loaded, Vec<IndexEntry>)> {
    let op = "open the dm-snapshot store";
    let room = opened.exceptions().saturating_add(more).min(opened.geometry().capacity());
    let needed = dm_snapshot::index_needed(room).max(opened.index_needed());
    let entries = usize::try_from(needed).map_err(|_too_many| {
        HostError::new(ErrorKind::Full, op).path(file.path()).detail("its index needs more memory")
    })?;
    let mut index = vec![IndexEntry::EMPTY; entries];
    let loaded = dm_snapshot::load_index(file, opened, &mut index, piece)
        .map_err(|e| dm_load_failed(e, op, file.path()))?;
    Ok((loaded, index))
}
