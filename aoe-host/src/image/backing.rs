//! What lies below overlays: frozen layers from upper to base, opened read-only, locked and watched.

use std::path::Path;
use std::sync::Arc;

use cow_core::engine::MAX_LAYERS;
use cow_core::format::Layer;
use cow_core::pages::StorageKey;
use cow_core::units::SECTOR_BYTES;

use super::identity::mtime_of;
use super::merging::refuse_merging;
use super::name::{ImageFile, ImageKeys, ImageName};
use super::parent::{Below, Candidate, part_of};
use crate::config::{self, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{Access, Change, ChangeWatch, FileOptions, FileTable, LockMode};

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

    /// A program waits to open a file for writing, and goes on when [`check`](Self::check) is called.
    pub fn has_waiting_writer(&self) -> bool {
        self.watches.iter().any(ChangeWatch::has_waiting_writer)
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
/// Index memory of a layer is leaked on purpose: layers are shared by every disk and thread, are
/// opened once, and live as long as the process.
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
            // `serve` has put the layers in its place by now.
            config::Layer::Recorded => {
                return Err(HostError::usage("use the chain", "its lower end is not named"));
            }
            config::Layer::File { path, window } => {
                let name = ImageName::parse(path);
                // Keys are given out before the layer is known to be good, but stay empty then.
                stack.put_file(&name, *window, ImageKeys::reserve(&name, files))?;
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
    opened: Vec<(ImageKeys, ImageFile)>,
    watches: Vec<ChangeWatch>,
    warnings: Vec<String>,
}

impl Stack {
    fn put_blank(&mut self, len_bytes: u64) -> Result<()> {
        if self.below.is_some() {
            return Err(HostError::usage("use the chain", "blank:SIZE can only be the base"));
        }
        self.below = Some(Below::blank(len_bytes / SECTOR_BYTES));
        Ok(())
    }

    fn put_file(&mut self, name: &ImageName, window: Window, keys: ImageKeys) -> Result<()> {
        let options = FileOptions {
            access: Access::ReadOnly,
            lock: LockMode::Shared,
            direct: self.direct,
            window,
        };
        let (file, format) = name.open(&options)?;
        refuse_merging(&file)?;
        let mut below_files = self.below.as_ref().map_or_else(Vec::new, |b| b.files.clone());
        for key in file.keys()? {
            if below_files.contains(&key) {
                return Err(HostError::usage("use the chain", "the same file is in it twice")
                    .path(&name.path)
                    .advice("name every layer once, from the top to the base"));
            }
            below_files.push(key);
        }
        let watches: Vec<_> = file.files().map(ChangeWatch::new).collect::<Result<_>>()?;
        // Lives as long as the process: see `open_backing`.
        let index = Box::leak(Box::default());
        let opened = format.ops().open_layer(&file, keys, self.below.as_ref(), index)?;
        let window = part_of(&file.main)?;
        self.below = Some(Below {
            parent: Candidate {
                identity: opened.identity,
                size_bytes: Some(opened.size_bytes),
                mtime_s: mtime_of(&file.main)?,
                raw: format.ops().is_plain().then(|| file.main.clone()),
            },
            window,
            path: name.hint(),
            format: Some(format),
            misleads: name.misleads(&file.main),
            sectors: opened.layer.sectors(),
            files: below_files,
        });
        self.layers.insert(0, opened.layer);
        self.warnings.extend(opened.warning);
        self.opened.push((keys, file));
        self.watches.extend(watches);
        Ok(())
    }

    fn finish(self, files: &mut FileTable) -> Result<Backing> {
        let nothing = || HostError::new(ErrorKind::Usage, "use the chain");
        let below = self.below.ok_or_else(nothing)?;
        let keys = self.opened.iter().flat_map(|(keys, _)| keys.all()).collect();
        for (keys, file) in self.opened {
            keys.enter(&file, files);
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
