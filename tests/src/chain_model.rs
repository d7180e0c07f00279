//! Chains on simulated media, in every format.

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::fault::{Dice, FaultyStorage, Machine};
use cow_core::format::{
    IndexEntry, Layer, Map, Top, bitmap, cowloop, dm_snapshot, native, qcow1, qcow2, raw, uml,
};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::Extent;

use crate::bitmap_disk;
use crate::qcow1_image::Shape;
use crate::sector_model::SECTOR;

/// Slots of every engine under test.
pub const SLOTS: usize = 8;

/// Format of an overlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Ours.
    Native,
    /// The kernel's snapshot store, with chunks of so many sectors.
    Dm(u32),
    /// qcow version 1, made by the harness.
    Qcow1(Shape),
    /// A UML COW file.
    Uml(uml::Version),
    /// A cowfile with words of this width.
    Cowloop(cowloop::Width),
    /// A dm-cow layer. Its bitmap has the next key.
    DmCow,
    /// qcow2.
    Qcow2(Qcow2),
}

/// What a qcow2 image is made like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Qcow2 {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the bytes of a cluster.
    pub cluster_bits: u8,
    /// Bits of a reference count.
    pub refcount_bits: u8,
}

impl Qcow2 {
    fn l1_entries(self, sectors: u64) -> u64 {
        sectors.div_ceil(1 << (2 * self.cluster_bits - 12))
    }
}

impl Format {
    /// A qcow2 image.
    pub const fn qcow2(version: u32, cluster_bits: u8, refcount_bits: u8) -> Self {
        Self::Qcow2(Qcow2 { version, cluster_bits, refcount_bits })
    }

    /// It lives in a file that grows.
    const fn grows(self) -> bool {
        matches!(self, Self::Qcow1(_) | Self::Qcow2(_))
    }

    /// An image of qcow version 1.
    pub const fn qcow1(cluster_bits: u8, l2_bits: u8) -> Self {
        Self::Qcow1(Shape { cluster_bits, l2_bits })
    }

    /// A disk of so many sectors is not too large for it.
    pub fn fits(self, sectors: u64) -> bool {
        match self {
            // Its writers read the whole first table.
            Self::Qcow1(shape) => shape.l1_entries(sectors) <= 20_000,
            // Its check reads it.
            Self::Qcow2(kind) => kind.l1_entries(sectors) <= 20_000,
            _ => true,
        }
    }

    /// The size closest to `sectors` that a disk of this format can have (and be tested with).
    pub fn size(self, sectors: u64) -> u64 {
        match self {
            // Without a bit for some sectors there would be nothing to test.
            Self::Uml(uml::Version::V1 | uml::Version::V2) => (sectors & !7).max(8),
            // Opening counts all bits.
            Self::Cowloop(_) => (sectors & !1).clamp(2, 70_000),
            _ => sectors,
        }
    }
}

/// A layer below the overlay.
#[derive(Clone, Copy, Debug)]
pub struct Lower {
    /// Its storage.
    pub key: StorageKey,
    /// `None` for a raw base.
    pub format: Option<Format>,
    /// Size of its disk.
    pub sectors: u64,
}

/// A lower layer, opened.
#[derive(Debug)]
pub enum Opened {
    /// A raw base.
    Raw(raw::Raw),
    /// A frozen native layer; perhaps with its metadata in memory.
    Native(native::Frozen<'static>, Option<Vec<u8>>),
    /// A store and its index.
    Dm(StorageKey, Box<dm_snapshot::Loaded>, Vec<IndexEntry>),
    /// A qcow image.
    Qcow1(qcow1::Frozen),
    /// One of the identity-mapped formats.
    Bitmap(bitmap::Frozen<'static>),
    /// A qcow2 image.
    Qcow2(qcow2::Frozen),
}

impl Opened {
    /// For the engine.
    pub fn layer(&self) -> Layer<'_> {
        match self {
            Self::Raw(raw) => Layer::Raw(*raw),
            Self::Native(frozen, None) => Layer::Native(*frozen),
            Self::Native(frozen, Some(map)) => {
                Layer::Native(frozen.with_map(map).expect("a map of the right length"))
            }
            Self::Dm(key, loaded, index) => {
                Layer::DmSnapshot(dm_snapshot::Frozen::new(*key, loaded, index))
            }
            Self::Qcow1(frozen) => Layer::Qcow1(*frozen),
            Self::Bitmap(frozen) => Layer::Bitmap(*frozen),
            Self::Qcow2(frozen) => Layer::Qcow2(*frozen),
        }
    }
}

/// A pool's memory.
#[derive(Debug)]
pub struct PoolMemory(Vec<Page>, Vec<Frame>);

impl PoolMemory {
    /// Room for so many pages.
    pub fn new(pages: usize) -> Self {
        Self(vec![Page::ZERO; pages], vec![Frame::EMPTY; pages])
    }

    /// The pool, empty.
    pub fn pool(&mut self) -> PagePool<'_> {
        PagePool::new(&mut self.0, &mut self.1).expect("enough pages")
    }
}

/// A chain on media: what a process finds when it starts.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The computer.
    pub machine: Machine,
    /// Its storages; the index is the key.
    pub storages: Vec<FaultyStorage>,
    /// Frozen layers, top first.
    pub lower: Vec<Lower>,
    /// Format and storage of the overlay.
    pub top: (Format, StorageKey),
    /// Size in sectors.
    pub sectors: u64,
    ids: u8,
}

impl Disk {
    /// A disk of `sectors` with an empty overlay over a base of `base_len` bytes (0 for none).
    pub fn new(machine: &Machine, sectors: u64, base_len: u64, top: Format, seed: u64) -> Self {
        let mut storages = Vec::new();
        let mut lower = Vec::new();
        if base_len > 0 {
            storages.push(machine.add_medium(base_len, base_len, seed | 1));
            let key = StorageKey(0);
            lower.push(Lower { key, format: None, sectors: base_len.div_ceil(SECTOR as u64) });
        }
        let mut disk = Self {
            machine: machine.clone(),
            storages,
            lower,
            top: (top, StorageKey(0)),
            sectors,
            ids: 0,
        };
        disk.add_top(top, sectors, seed);
        disk
    }

    /// Storage of the base.
    pub fn base(&self) -> Option<FaultyStorage> {
        let base = self.lower.last().filter(|l| l.format.is_none())?;
        Some(self.storage(base.key).clone())
    }

    /// A storage.
    pub fn storage(&self, key: StorageKey) -> &FaultyStorage {
        &self.storages[key.0 as usize]
    }

    /// Where the L1 table of a qcow overlay is; 0 for other formats.
    pub fn l1_offset(&self, (format, key): (Format, StorageKey)) -> u64 {
        let mut field = [0; 8];
        if format.grows() {
            self.storage(key).read_at(40, &mut field).expect("a header");
        }
        u64::from_be_bytes(field)
    }

    fn fresh_id(&mut self) -> LayerId {
        self.ids += 1;
        LayerId([self.ids; 16])
    }

    /// Length in bytes of an overlay's storage.
    pub fn top_len(format: Format, sectors: u64) -> u64 {
        match format {
            Format::Native => native::Geometry::new(sectors).expect("a size").image_len(),
            // Room for every chunk of small disks, and for some of a large one.
            Format::Dm(chunk) => {
                let chunk = u64::from(chunk);
                let chunks = sectors.div_ceil(chunk).min(3000);
                let areas = chunks / (chunk * 32) + 2;
                (1 + chunks + areas) * chunk * SECTOR as u64
            }
            Format::Qcow1(_) | Format::Qcow2(_) => 0, // grows
            // Head, bitmap, alignment twice; a little more does no harm.
            Format::Uml(_) | Format::Cowloop(_) => 16_384 + sectors / 8 + sectors * SECTOR as u64,
            Format::DmCow => (sectors + bitmap_disk::DM_COW_OFFSET) * SECTOR as u64,
        }
    }

    /// Adds an overlay on a medium of its own, which holds garbage for some seeds.
    pub fn add_top(&mut self, format: Format, sectors: u64, seed: u64) {
        if format.grows() {
            let file = self.machine.add_file(1 << 62);
            return self.add_top_on(format, sectors, file, false);
        }
        let len = Self::top_len(format, sectors);
        let garbage = if seed.is_multiple_of(3) && len < 1 << 24 { seed | 1 } else { 0 };
        let storage = self.machine.add_medium(len, len, garbage);
        self.add_top_on(format, sectors, storage, garbage != 0);
    }

    /// Adds an overlay on a storage that is long enough.
    pub fn add_top_on(
        &mut self,
        format: Format,
        sectors: u64,
        mut storage: FaultyStorage,
        garbage: bool,
    ) {
        let layer_id = self.fresh_id();
        let mut bitmap = None;
        match format {
            Format::Native => {
                let options = native::CreateOptions {
                    layer_id,
                    sectors,
                    parent: ParentIdentity::None,
                    window: None,
                    hint: b"",
                    label: b"under test",
                    created_s: 0,
                    log: None,
                    fresh: if garbage { native::Fresh::Unknown } else { native::Fresh::Zeroed },
                };
                native::create(&mut storage, &options, &mut Page::ZERO.clone()).expect("create");
            }
            Format::Dm(chunk) => {
                dm_snapshot::unmark(&mut storage).expect("unmark");
                dm_snapshot::create(&mut storage, chunk).expect("create");
            }
            Format::Qcow1(shape) => {
                let backing: &[u8] = if self.lower.is_empty() { b"" } else { b"the layer below" };
                let end = Shape::l1_offset(backing.len()) + 8 * shape.l1_entries(sectors);
                let header = shape.header(sectors * SECTOR as u64, backing);
                storage.extend(end).expect("extend");
                storage.write_at(0, &header).expect("create");
                storage.sync().expect("create");
            }
            Format::Uml(_) | Format::Cowloop(_) | Format::DmCow => {
                bitmap = bitmap_disk::create(format, sectors, &mut storage, &self.machine, garbage);
            }
            Format::Qcow2(kind) => {
                let backing = qcow2::Backing { name: b"the layer below", format: b"raw" };
                let options = qcow2::CreateOptions {
                    version: kind.version,
                    disk_bytes: sectors * SECTOR as u64,
                    cluster_bits: kind.cluster_bits,
                    refcount_bits: kind.refcount_bits,
                    backing: (!self.lower.is_empty()).then_some(backing),
                };
                qcow2::create(&mut storage, &options, &mut Page::ZERO.clone()).expect("create");
            }
        }
        self.storages.push(storage);
        let key = u32::try_from(self.storages.len() - 1).expect("few storages");
        self.storages.extend(bitmap);
        self.top = (format, StorageKey(key));
        self.sectors = sectors;
    }

    /// Freezes the overlay; it becomes the topmost lower layer. [`add_top`](Self::add_top) follows.
    ///
    /// # Errors
    /// What the format says.
    pub fn freeze(&mut self) -> Result<(), String> {
        let (format, key) = self.top;
        if format == Format::Native {
            let id = self.fresh_id();
            let mut storage = self.storage(key).clone();
            native::freeze(&mut storage, id, &mut Page::ZERO.clone())
                .map_err(|e| format!("freeze: {e}"))?;
        }
        self.lower.insert(0, Lower { key, format: Some(format), sectors: self.sectors });
        Ok(())
    }

    /// Empties the overlay.
    ///
    /// # Errors
    /// What the format says.
    pub fn rollback(&self) -> Result<(), String> {
        let (format, key) = self.top;
        let mut storage = self.storage(key).clone();
        match format {
            Format::Native => native::rollback(&mut storage, &mut Page::ZERO.clone())
                .map(drop)
                .map_err(|e| format!("rollback: {e}")),
            Format::Dm(_) => {
                dm_snapshot::rollback(&mut storage).map_err(|e| format!("rollback: {e}"))
            }
            Format::Qcow1(_) => qcow1::rollback(&mut storage, &mut Page::ZERO.clone())
                .map(drop)
                .map_err(|e| format!("rollback: {e}")),
            Format::Uml(_) | Format::Cowloop(_) | Format::DmCow => {
                bitmap_disk::rollback(format, self.sectors, &self.storages, key)
            }
            Format::Qcow2(_) => {
                let opened = qcow2::open(&storage).map_err(|e| format!("rollback: {e}"))?;
                qcow2::rollback(&mut storage, &opened, None, &mut Page::ZERO.clone())
                    .map_err(|e| format!("rollback: {e}"))
            }
        }
    }

    /// Opens the layers below the overlay.
    ///
    /// # Errors
    /// What the format says.
    pub fn open_lower(&self, in_memory: bool) -> Result<Vec<Opened>, String> {
        self.lower.iter().map(|lower| self.open_layer(*lower, in_memory)).collect()
    }

    fn open_layer(&self, lower: Lower, in_memory: bool) -> Result<Opened, String> {
        let storage = self.storage(lower.key);
        let mut page = Page::ZERO.clone();
        match lower.format {
            None => {
                let len = storage.len_bytes().map_err(|e| e.to_string())?;
                Ok(Opened::Raw(raw::Raw::new(lower.key, len).ok_or("an empty base")?))
            }
            Some(Format::Native) => {
                let opened = native::open(storage, &mut page).map_err(|e| e.to_string())?;
                let frozen = opened.frozen(lower.key).map_err(|e| e.to_string())?;
                let len = native::map_len(lower.sectors).filter(|len| in_memory && *len < 1 << 20);
                let map = len.map(|len| {
                    let mut map = vec![0; len];
                    native::load_map(storage, &opened, &mut map, &mut page)
                        .map(|()| map)
                        .map_err(|e| e.to_string())
                });
                Ok(Opened::Native(frozen, map.transpose()?))
            }
            Some(Format::Dm(_)) => {
                let (loaded, index) = open_dm(storage, lower.sectors, false)?;
                Ok(Opened::Dm(lower.key, Box::new(loaded), index))
            }
            Some(Format::Qcow1(_)) => {
                let opened = qcow1::open(storage).map_err(|e| e.to_string())?;
                Ok(Opened::Qcow1(opened.frozen(lower.key)))
            }
            Some(Format::Qcow2(_)) => {
                let opened = qcow2::open(storage).map_err(|e| e.to_string())?;
                Ok(Opened::Qcow2(opened.frozen(lower.key)))
            }
            Some(format) => bitmap_disk::open(format, lower.sectors, &self.storages, lower.key)
                .map(Opened::Bitmap),
        }
    }

    /// Opens the overlay with its index memory.
    ///
    /// # Errors
    /// What the format says.
    pub fn open_top(&self) -> Result<(Top, Vec<IndexEntry>), String> {
        let (format, key) = self.top;
        let mut storage = self.storage(key).clone();
        match format {
            Format::Native => native::open_writable(&mut storage, key, &mut Page::ZERO.clone())
                .map(|writable| (Top::Native(writable), Vec::new()))
                .map_err(|e| format!("open: {e}")),
            Format::Dm(_) => {
                let (loaded, index) = open_dm(&storage, self.sectors, true)?;
                let writable =
                    dm_snapshot::Writable::new(key, &loaded).map_err(|e| e.to_string())?;
                Ok((Top::DmSnapshot(writable), index))
            }
            Format::Qcow1(_) => qcow1::open_writable(&mut storage, key, &mut Page::ZERO.clone())
                .map(|writable| (Top::Qcow1(writable), Vec::new()))
                .map_err(|e| format!("open: {e}")),
            Format::Uml(_) | Format::Cowloop(_) | Format::DmCow => {
                bitmap_disk::open_writable(format, self.sectors, &self.storages, key)
                    .map(|writable| (Top::Bitmap(writable), Vec::new()))
            }
            Format::Qcow2(_) => {
                let opened = qcow2::open(&storage).map_err(|e| format!("open: {e}"))?;
                let (file, page) = (qcow2::Surroundings::default(), &mut Page::ZERO.clone());
                qcow2::open_writable(&mut storage, key, &opened, &file, page)
                    .map(|writable| (Top::Qcow2(writable), Vec::new()))
                    .map_err(|e| format!("open: {e}"))
            }
        }
    }

    /// Closes the overlay in order.
    ///
    /// # Errors
    /// What the format says.
    pub fn close(&self, top: &mut Top) -> Result<(), String> {
        let mut storage = self.storage(self.top.1).clone();
        match top {
            Top::Native(writable) => native::close(&mut storage, writable, &mut Page::ZERO.clone())
                .map_err(|e| format!("close: {e}")),
            Top::Bitmap(writable) => bitmap_disk::close(self.top.0, writable, &self.storages),
            Top::Qcow2(writable) => qcow2::close(&mut storage, writable, &mut Page::ZERO.clone())
                .map_err(|e| format!("close: {e}")),
            // What `Ephemeral` wrote was never synced.
            _ => storage.sync().map_err(|e| format!("close: {e}")),
        }
    }

    /// Looks for damage in the overlay and the frozen layers.
    ///
    /// # Errors
    /// The findings.
    pub fn check(&self) -> Result<(), String> {
        self.check_layer(self.top.0, self.top.1, self.sectors)?;
        for lower in &self.lower {
            if let Some(format) = lower.format {
                self.check_layer(format, lower.key, lower.sectors)?;
            }
        }
        Ok(())
    }

    fn check_layer(&self, format: Format, key: StorageKey, sectors: u64) -> Result<(), String> {
        let storage = self.storage(key);
        let mut found = Vec::new();
        match format {
            Format::Native if sectors > 1 << 24 => {} // too many pages to look at
            Format::Uml(_) | Format::Cowloop(_) | Format::DmCow => {
                found = bitmap_disk::check(format, sectors, &self.storages, key)?;
            }
            Format::Native => {
                native::check(storage, &mut Page::ZERO.clone(), &mut |finding| {
                    if finding.is_damage() {
                        found.push(finding.to_string());
                    }
                })
                .map_err(|e| format!("check: {e}"))?;
            }
            Format::Dm(_) => {
                let mut index = vec![IndexEntry::EMPTY; 8192];
                dm_snapshot::check(storage, sectors, &mut index, &mut [0; 4096], |fault| {
                    if !fault.is_harmless() {
                        found.push(fault.to_string());
                    }
                })
                .map_err(|e| format!("check: {e}"))?;
            }
            Format::Qcow1(_) => {
                let (mut memory, mut scratch) = ([0; 4096], [Page::ZERO, Page::ZERO]);
                qcow1::check(storage, &mut memory, &mut scratch, &mut |finding| {
                    if finding.is_damage() {
                        found.push(finding.to_string());
                    }
                })
                .map_err(|e| format!("check: {e}"))?;
            }
            Format::Qcow2(_) => drop(check_qcow2(storage, &mut found)?),
        }
        if found.is_empty() { Ok(()) } else { Err(format!("check finds {found:?}")) }
    }

    /// The same chain on another machine, such as the one after a cut.
    #[must_use]
    pub fn on(&self, machine: &Machine) -> Self {
        let storages = self.storages.iter().map(|s| s.on(machine)).collect();
        Self { machine: machine.clone(), storages, ..self.clone() }
    }

    /// Runs `work` with the blocking driver over this chain; gives its result and the overlay.
    ///
    /// # Errors
    /// Why the chain could not be opened.
    pub fn with_blocking<R>(
        &self,
        pages: usize,
        durability: Durability,
        work: impl FnOnce(&mut Blocking<'_, '_, [FaultyStorage], SLOTS>) -> R,
    ) -> Result<(R, Top), String> {
        let opened = self.open_lower(false)?;
        let layers: Vec<_> = opened.iter().map(Opened::layer).collect();
        let (top, mut index) = self.open_top()?;
        if top.sectors() != self.sectors {
            return Err(format!("the overlay has {} sectors", top.sectors()));
        }
        let mut engine = Engine::new(Some(top), self.sectors, durability).expect("a size");
        let mut memory = PoolMemory::new(pages);
        let mut pool = memory.pool();
        let mut storages = self.storages.clone();
        let result = work(&mut Blocking {
            engine: &mut engine,
            lent: Lent { pages: &mut pool, layers: &layers, index: &mut index },
            storages: &mut storages[..],
        });
        Ok((result, engine.into_overlay().expect("an overlay")))
    }
}

/// Adds damage to `found`; gives the number of leaked clusters.
fn check_qcow2(storage: &FaultyStorage, found: &mut Vec<String>) -> Result<u64, String> {
    let opened = qcow2::open(storage).map_err(|e| format!("check: {e}"))?;
    let needed = usize::try_from(qcow2::check_needed(&opened)).expect("a small image");
    let mut memory = vec![0; needed];
    let page = &mut Page::ZERO.clone();
    let report = qcow2::check(storage, &opened, &mut memory, page, &mut |finding| {
        if finding.is_damage() {
            found.push(finding.to_string());
        }
    });
    Ok(report.map_err(|e| format!("check: {e}"))?.leaked_clusters)
}

fn open_dm(
    storage: &FaultyStorage,
    sectors: u64,
    writable: bool,
) -> Result<(dm_snapshot::Loaded, Vec<IndexEntry>), String> {
    let mut storage = storage.clone();
    let mut scratch = [0; 4096];
    let mut opened =
        dm_snapshot::open(&storage, sectors, &mut scratch).map_err(|e| format!("open: {e}"))?;
    if writable {
        dm_snapshot::clear_stale(&mut storage, &mut opened).map_err(|e| e.to_string())?;
    }
    let needed = if writable {
        dm_snapshot::index_needed(opened.geometry().capacity())
    } else {
        opened.index_needed()
    };
    let mut index = vec![IndexEntry::EMPTY; usize::try_from(needed).expect("a small store")];
    let loaded = dm_snapshot::load_index(&storage, &opened, &mut index, &mut scratch)
        .map_err(|e| format!("load: {e}"))?;
    Ok((loaded, index))
}

/// How many times as many seeds as usual: `COW_SEEDS`, for a longer search.
pub fn more_seeds() -> u64 {
    std::env::var("COW_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Places where things happen: page boundaries, chunk boundaries, the end.
#[derive(Clone, Debug)]
pub struct Spots(Vec<u64>);

impl Spots {
    /// For a disk of `sectors`.
    pub fn new(sectors: u64, dice: &mut Dice) -> Self {
        let mut spots = vec![0, 16_128, 16_128 * 2, sectors.saturating_sub(9), sectors / 2];
        spots.push(dice.below(sectors));
        spots.retain(|at| *at < sectors);
        Self(spots)
    }

    /// A range of at most `most` sectors near one of them.
    pub fn extent(&self, sectors: u64, most: u64, dice: &mut Dice) -> Extent {
        let spot = self.0[usize::try_from(dice.below(self.0.len() as u64)).expect("few")];
        let near = (spot + dice.below(48)).saturating_sub(24).min(sectors - 1);
        let len = if dice.chance(40) { 1 + dice.below(3) } else { 1 + dice.below(most) };
        Extent::new(near, len.min(sectors - near)).expect("inside the disk")
    }
}
