//! A chain of images as tools read it: where sectors are, long runs of zeros without reading them, and
//! the bytes of the rest.
//!
//! 1. Nothing is changed, but that an overlay gets what a killed server left in its commit log, and
//!    everything is locked against writers meanwhile.
//! 2. What lies below an image is compared with what the image recorded.
//! 3. Holes of files are zeros without being read, whatever the format above them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::blocking::{Blocking, CallError};
use cow_core::engine::{Durability, Engine, Failure, Lent};
use cow_core::format::{IndexEntry, Layer, Place};
use cow_core::identity::ParentIdentity;
use cow_core::pages::{PagePool, StorageKey};
use cow_core::units::{Extent, Lba, SECTOR_BYTES, SECTOR_LEN};

use super::chain::{Gate, parents};
use super::order::{is_base_first, turned_words};
use crate::config::{self, LayerWord, Window, backing_of, layers_of as table_layers};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Backing, Format, ImageFile, ImageKeys, ImageName, NoteLog, Recorded, default_notes_directory,
    enter_left, open_backing, refuse_itself, refuse_merging,
};
use crate::storage::{
    Change, ChangeWatch, FileKey, FileOptions, FileStorage, FileTable, LockMode, PoolMemory,
    Stretch,
};

/// Metadata pages kept in memory: 4 MiB.
const PAGES: usize = 1024;

/// A run of zeros of so many sectors (64 KiB) ends a read; shorter ones are read along.
const GAP_SECTORS: u64 = 128;

/// A chain as a person names it, from the top to the base. It goes on as the last image says, where that
/// may be followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ChainName {
    /// From the top down.
    layers: Vec<config::Layer>,
    /// How it was read, if it was typed from the base up.
    warning: Option<String>,
}

impl ChainName {
    /// Splits `TOP,...,BASE`, or a line of a device-mapper table; a name that a file has as a whole is
    /// that file. A chain that was typed from the base up is turned round where the files leave no doubt.
    ///
    /// # Errors
    /// A layer without a name; `blank:SIZE` anywhere but at the end, or of no size; a base first, and no
    /// overlay at the end.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let whole = ImageName::parse(Path::new(text));
        let mut files = core::iter::once(&whole.path).chain(&whole.metadata);
        let words = match text.to_str() {
            Some(words) if files.any(|path| path.symlink_metadata().is_err()) => words,
            _ => return Ok(Self::from(PathBuf::from(text))),
        };
        let refused = |detail: &str| HostError::usage(format!("use the chain `{words}`"), detail);
        let parsed = match table_layers(words) {
            Ok(Some(layers)) => Ok(layers),
            Ok(None) => words.split(',').map(str::parse::<LayerWord>).collect(),
            Err(error) => Err(error),
        };
        let parsed = parsed.map_err(|error| refused(&error.to_string()))?;
        let mut layers = backing_of(&parsed).map_err(|detail| refused(&detail))?;
        // What it asks for is the rule here.
        layers.retain(|layer| *layer != config::Layer::Recorded);
        Self { layers, warning: None }.in_order()
    }

    fn in_order(mut self) -> Result<Self> {
        let whole = |layer: &config::Layer| match layer {
            config::Layer::File { path, window } if *window == Window::default() => {
                Some(path.clone())
            }
            _ => None,
        };
        let Some(paths) = self.layers.iter().map(whole).collect::<Option<Vec<_>>>() else {
            return Ok(self);
        };
        match is_base_first(&paths) {
            Ok(true) => {
                self.layers.reverse();
                if let [base, .., top] = paths.as_slice() {
                    self.warning = Some(turned_words(base, top));
                }
            }
            Err(error) if error.kind() == ErrorKind::Usage => return Err(error),
            // Whoever opens the image says what is wrong with it.
            Ok(false) | Err(_) => {}
        }
        Ok(self)
    }

    /// How it was read, if that is not how it was typed.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Takes the first image for this format, whatever it looks like.
    #[must_use]
    pub fn forced(mut self, format: Format) -> Self {
        if let Some(config::Layer::File { path, .. }) = self.layers.first_mut() {
            let mut name = format!("{format}:").into_bytes();
            name.extend_from_slice(path.as_os_str().as_bytes());
            *path = PathBuf::from(OsStr::from_bytes(&name));
        }
        self
    }

    /// The first image; `None` for a blank disk.
    pub fn top(&self) -> Option<&Path> {
        match self.layers.first() {
            Some(config::Layer::File { path, .. }) => Some(path),
            _ => None,
        }
    }

    /// What it names below the first image.
    pub(super) fn lower(&self) -> &[config::Layer] {
        self.layers.split_first().map_or(&[], |(_, lower)| lower)
    }

    /// From the top down.
    pub(super) fn layers(&self) -> &[config::Layer] {
        &self.layers
    }
}

impl From<PathBuf> for ChainName {
    fn from(path: PathBuf) -> Self {
        Self {
            layers: vec![config::Layer::File { path, window: Window::default() }],
            warning: None,
        }
    }
}

/// Memory that a [`Source`] or an overlay works in.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) pool: PoolMemory,
    pub(super) index: Vec<IndexEntry>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self { pool: PoolMemory::new(PAGES), index: Vec::new() }
    }
}

/// An image and the chain below it, as far as they can be found.
pub(super) struct Found {
    pub(super) name: ImageName,
    pub(super) file: ImageFile,
    pub(super) format: Format,
    pub(super) recorded: Option<Recorded>,
    /// From the parent down; empty if it has none.
    pub(super) below: Vec<config::Layer>,
}

impl Found {
    /// Opens the top of a chain and finds what lies below it: what the chain names, or what the
    /// images name themselves, if that may be followed.
    pub(super) fn open(chain: &ChainName, gate: &Gate, options: &FileOptions) -> Result<Self> {
        Self::open_top(chain, options)?.find_below(chain, gate)
    }

    /// Finds what lies below the top of this chain.
    pub(super) fn find_below(self, chain: &ChainName, gate: &Gate) -> Result<Self> {
        let below = match chain.lower() {
            [] => follow(&self.file, self.format, self.recorded.clone(), gate)?,
            lower => self.with_windows(lower, gate)?,
        };
        Ok(Self { below, ..self })
    }

    /// The top alone.
    pub(super) fn open_top(chain: &ChainName, options: &FileOptions) -> Result<Self> {
        let top = Self::open_damaged(chain, options)?;
        let recorded = top.format.ops().parent(&top.file)?;
        Ok(Self { recorded, ..top })
    }

    /// The top alone, of which not even the header need be whole.
    pub(super) fn open_damaged(chain: &ChainName, options: &FileOptions) -> Result<Self> {
        let path = chain.top().ok_or_else(|| {
            HostError::usage("use the chain", "blank:SIZE is no image")
                .advice("name the overlay first")
        })?;
        let name = ImageName::parse(path);
        let window = match chain.layers().first() {
            Some(config::Layer::File { window, .. }) => *window,
            _ => Window::default(),
        };
        enter_left(&name)?;
        let (file, format) = name.open(&FileOptions { window, ..*options })?;
        Ok(Self { name, file, format, recorded: None, below: Vec::new() })
    }

    /// The layers that were named, as the parts of files that the layers above recorded, and those that
    /// the last of them names.
    pub(super) fn with_windows(
        &self,
        lower: &[config::Layer],
        gate: &Gate,
    ) -> Result<Vec<config::Layer>> {
        let mut above = self.recorded.clone();
        let mut layers = Vec::with_capacity(lower.len());
        for (number, layer) in lower.iter().enumerate() {
            let recorded = above.take();
            let config::Layer::File { path, window } = layer else {
                layers.push(layer.clone());
                continue;
            };
            let mut window = *window;
            if window == Window::default() {
                window = recorded.map_or(window, |recorded| recorded.config_window());
            }
            layers.push(config::Layer::File { path: path.clone(), window });
            let options = FileOptions { window, ..FileOptions::default() };
            let (file, format) = ImageName::parse(path).open(&options)?;
            above = format.ops().parent(&file)?;
            if number + 1 == lower.len() {
                layers.extend(follow(&file, format, above.take(), gate)?);
            }
        }
        Ok(layers)
    }

    /// Compares what is below with what the image recorded.
    pub(super) fn check(&self, backing: Option<&Backing>) -> Result<()> {
        let below = backing.map(Backing::below);
        if let Some(below) = below {
            refuse_itself(&self.name, below)?;
        }
        if let Some(recorded) = &self.recorded {
            return recorded.check(below, self.file.path());
        }
        // Of a store that records nothing, anything may be the origin, but something must.
        if self.format.ops().needs_parent() || below.is_none() {
            return Ok(());
        }
        Recorded::identity(ParentIdentity::None, None, None).check(below, self.file.path())
    }

    /// Refuses an image whose latest acknowledged writes are not in it yet.
    pub(super) fn refuse_pending(&self) -> Result<()> {
        let Some(id) = self.format.ops().note_id(&self.file)? else { return Ok(()) };
        if !NoteLog::is_pending(&default_notes_directory(), id)? {
            return Ok(());
        }
        Err(HostError::new(ErrorKind::InUse, "read the image")
            .path(self.file.path())
            .detail("a server that was killed left acknowledged writes in its notes")
            .advice("start and stop the server once, which takes them up"))
    }
}

/// The layers below an image, as it and its parents record them, as far as that may be followed.
fn follow(
    file: &ImageFile,
    format: Format,
    recorded: Option<Recorded>,
    gate: &Gate,
) -> Result<Vec<config::Layer>> {
    let (reports, layers) = parents(file, recorded, gate)?;
    let refused = |kind, detail: String| {
        HostError::new(kind, "find what is below the image").path(file.path()).detail(detail)
    };
    match reports.iter().find(|report| !report.is_usable()) {
        None if reports.is_empty() && format.ops().needs_parent() => {
            Err(refused(ErrorKind::NotFound, "nothing says what it is".to_owned())
                .advice("name every image: TOP,...,BASE"))
        }
        None => Ok(layers),
        Some(wrong) if wrong.is_wrong() => Err(refused(ErrorKind::Mismatch, wrong.to_string())
            .advice("name every image, from the top to the base: TOP,...,BASE")),
        Some(elsewhere) => Err(refused(ErrorKind::NotFound, elsewhere.to_string())
            .advice("name every image, TOP,...,BASE, or say --follow DIR")),
    }
}

/// Every layer of a chain that is to lie below something.
pub(super) fn layers_of(chain: &ChainName, gate: &Gate) -> Result<Vec<config::Layer>> {
    let Some(top) = chain.layers().first().filter(|_| chain.top().is_some()) else {
        return Ok(chain.layers().to_vec());
    };
    let found = Found::open(chain, gate, &FileOptions::default())?;
    Ok(core::iter::once(top.clone()).chain(found.below).collect())
}

/// Where the next sectors are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Where {
    /// In a layer.
    Data,
    /// Zeros: a layer says so, or its file has a hole there.
    Zeros,
    /// In no layer that is looked at.
    Nowhere,
}

/// What comes next in a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// Zeros that need not be read.
    Zeros(Extent),
    /// Sectors to read.
    Data(Extent),
}

impl Piece {
    pub(super) const fn extent(self) -> Extent {
        match self {
            Self::Zeros(extent) | Self::Data(extent) => extent,
        }
    }
}

/// A chain that is read.
#[derive(Debug)]
pub(super) struct Source<'m> {
    pool: PagePool<'m>,
    layers: Vec<Layer<'m>>,
    engine: Engine<1>,
    files: FileTable,
    path: PathBuf,
    watches: Vec<ChangeWatch>,
    backing: Option<Backing>,
    known: Option<(StorageKey, u64, Stretch)>,
}

impl<'m> Source<'m> {
    /// Opens a chain of images, compared with each other.
    pub(super) fn open(memory: &'m mut Memory, chain: &ChainName, gate: &Gate) -> Result<Self> {
        if chain.top().is_none() {
            return Self::of_layers(memory, chain.layers(), None);
        }
        let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
        let found = Found::open(chain, gate, &options)?;
        refuse_merging(&found.file)?;
        found.refuse_pending()?;
        let mut files = FileTable::new();
        let backing = match &*found.below {
            [] => None,
            below => Some(open_backing(below, false, &mut files)?),
        };
        found.check(backing.as_ref())?;
        let mut source = Self::over(memory, &found, backing, files)?;
        source.watches = found.file.files().map(ChangeWatch::new).collect::<Result<_>>()?;
        Ok(source)
    }

    /// The image by itself: what it does not hold is nowhere.
    pub(super) fn alone(
        memory: &'m mut Memory,
        found: &Found,
        below_sectors: Option<u64>,
    ) -> Result<Self> {
        let Memory { pool, index } = memory;
        let mut files = FileTable::new();
        let keys = ImageKeys::reserve(&found.name, &mut files);
        keys.enter(&found.file, &mut files);
        let top = found.format.ops().view(&found.file, keys, below_sectors, index)?;
        let path = found.file.path().to_owned();
        Self::new(pool, vec![top], files, top.sectors(), path)
    }

    /// Frozen layers, as what lies below a disk of `sectors`; of their own size if that is `None`.
    pub(super) fn of_layers(
        memory: &'m mut Memory,
        layers: &[config::Layer],
        sectors: Option<u64>,
    ) -> Result<Self> {
        let mut files = FileTable::new();
        let backing = open_backing(layers, false, &mut files)?;
        let sectors = sectors.unwrap_or(backing.sectors());
        let path = backing.below().path.clone().unwrap_or_else(|| PathBuf::from("blank"));
        let layers = backing.layers().to_vec();
        let source = Self::new(&mut memory.pool, layers, files, sectors, path)?;
        Ok(Self { backing: Some(backing), ..source })
    }

    fn over(
        memory: &'m mut Memory,
        found: &Found,
        backing: Option<Backing>,
        mut files: FileTable,
    ) -> Result<Self> {
        let Memory { pool, index } = memory;
        let keys = ImageKeys::reserve(&found.name, &mut files);
        keys.enter(&found.file, &mut files);
        let below_sectors = backing.as_ref().map(Backing::sectors);
        let mut layers = vec![found.format.ops().view(&found.file, keys, below_sectors, index)?];
        layers.extend_from_slice(backing.as_ref().map_or(&[][..], |b| b.layers()));
        let sectors = layers.first().map_or(0, Layer::sectors);
        let path = found.file.path().to_owned();
        let source = Self::new(pool, layers, files, sectors, path)?;
        Ok(Self { backing, ..source })
    }

    fn new(
        memory: &'m mut PoolMemory,
        layers: Vec<Layer<'m>>,
        files: FileTable,
        sectors: u64,
        path: PathBuf,
    ) -> Result<Self> {
        let no_memory = || HostError::new(ErrorKind::Io, "read the chain").path(&path);
        let pool = memory.pool()?;
        let engine = Engine::new(None, sectors, Durability::Ephemeral).ok_or_else(no_memory)?;
        let (watches, backing, known) = (Vec::new(), None, None);
        Ok(Self { pool, layers, engine, files, path, watches, backing, known })
    }

    /// Size of the disk.
    pub(super) fn sectors(&self) -> u64 {
        self.engine.sectors()
    }

    /// Every file of the chain.
    pub(super) fn keys(&self) -> Result<Vec<FileKey>> {
        self.files.iter().map(|(_, file)| file.key()).collect()
    }

    /// What is legal but should be known, as sentences.
    pub(super) fn warnings(&self) -> &[String] {
        self.backing.as_ref().map_or(&[], Backing::warnings)
    }

    fn chain(&mut self) -> Blocking<'_, 'm, FileTable, 1> {
        let lent = Lent { pages: &mut self.pool, layers: &self.layers, index: &mut [] };
        Blocking { engine: &mut self.engine, lent, storages: &mut self.files }
    }

    /// Where the first of these sectors are, and how many of them. `rest` is not empty and inside.
    pub(super) fn locate(&mut self, rest: Extent) -> Result<(Where, u64)> {
        let mapped = self.chain().map(rest);
        let (depth, run) = mapped.map_err(|error| self.failed(error, rest.start()))?;
        let sectors = run.sectors.max(1);
        Ok(match run.place {
            Place::Absent => (Where::Nowhere, sectors),
            Place::Zero => (Where::Zeros, sectors),
            Place::Data { offset } if sectors >= GAP_SECTORS => {
                let layer = usize::from(depth).checked_sub(1);
                let layer = layer.and_then(|at| self.layers.get(at));
                match layer.map(Layer::storage) {
                    Some(key) => self.cut_at_holes(key, offset, sectors),
                    None => (Where::Data, sectors),
                }
            }
            _ => (Where::Data, sectors),
        })
    }

    /// As much of a run of data as is the same in the file: room of its own, or none.
    fn cut_at_holes(&mut self, key: StorageKey, offset: u64, sectors: u64) -> (Where, u64) {
        let Some(file) = self.files.get(key) else { return (Where::Data, sectors) };
        let stretch = match self.known {
            Some((k, from, stretch)) if k == key && from <= offset && offset < stretch.end => {
                stretch
            }
            _ => {
                let stretch = file.stretch(offset);
                self.known = Some((key, offset, stretch));
                stretch
            }
        };
        let len = stretch.end.saturating_sub(offset);
        if stretch.is_hole {
            // A sector that is partly in the hole is read.
            return match len / SECTOR_BYTES {
                0 => (Where::Data, 1),
                whole => (Where::Zeros, whole.min(sectors)),
            };
        }
        (Where::Data, len.div_ceil(SECTOR_BYTES).clamp(1, sectors))
    }

    /// What comes at sector `at`: at most `most` sectors of data, or any number of zeros. `at` is
    /// inside.
    pub(super) fn piece(&mut self, at: u64, most: u64) -> Result<Piece> {
        let disk = Extent::new(0, self.sectors()).unwrap_or(Extent::EMPTY).from(at);
        let (first, sectors) = self.locate(disk)?;
        let mut len = sectors;
        if first != Where::Data {
            while !disk.skip(len).is_empty() {
                match self.locate(disk.skip(len))? {
                    (Where::Data, _) => break,
                    (_, more) => len = len.saturating_add(more),
                }
            }
            return Ok(Piece::Zeros(disk.take(len)));
        }
        while len < most && !disk.skip(len).is_empty() {
            match self.locate(disk.skip(len))? {
                (Where::Zeros | Where::Nowhere, more) if more >= GAP_SECTORS => break,
                (_, more) => len = len.saturating_add(more),
            }
        }
        Ok(Piece::Data(disk.take(len.min(most))))
    }

    /// Fills `buf`, whole sectors, from sector `at` on.
    pub(super) fn read(&mut self, at: Lba, buf: &mut [u8]) -> Result<()> {
        let read = self.chain().read(at, buf);
        read.map_err(|error| self.failed(error, at))
    }

    /// Refuses what was read if a file was changed meanwhile.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let lower = self.backing.as_ref().map_or(&[][..], Backing::watches);
        let changed = self.watches.iter().chain(lower).find(|w| w.check() == Change::Modified);
        match changed {
            None => Ok(()),
            Some(watch) => Err(HostError::new(ErrorKind::Mismatch, "read the chain")
                .path(watch.file().path())
                .detail("it was changed while it was read")
                .advice("stop whoever writes it, and try again")),
        }
    }

    fn failed(&self, error: CallError, at: Lba) -> HostError {
        call_failed(error, "read the chain", &self.path, self.files.iter().map(|(_, file)| file))
            .unwrap_or_else(|| {
                HostError::new(ErrorKind::Corrupt, "read the chain")
                    .path(&self.path)
                    .detail(format!("at sector {at}: {error}"))
                    .advice("`cowblade check` lists what is wrong")
            })
    }
}

/// What failed, where a file tells more than the engine does, or the engine names no damage.
pub(super) fn call_failed<'f>(
    error: CallError,
    op: &str,
    path: &Path,
    mut files: impl Iterator<Item = &'f FileStorage>,
) -> Option<HostError> {
    if let Some(error) = files.find_map(FileStorage::take_failure) {
        return Some(error.into());
    }
    let kind = match error {
        CallError::Failed(Failure::Corrupt { .. }) => return None,
        CallError::Failed(Failure::Full | Failure::IndexFull { .. }) => ErrorKind::Full,
        CallError::Failed(Failure::Unsupported) => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    };
    Some(HostError::new(kind, op).path(path).detail(error.to_string()))
}

/// Sectors in a buffer.
pub(super) const fn sectors_in(buf: &[u8]) -> u64 {
    (buf.len() / SECTOR_LEN) as u64
}
