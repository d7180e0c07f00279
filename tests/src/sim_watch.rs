//! Watches the stream of operations that engines put out, as the media see it.
//!
//! It knows where the formats keep their metadata, from their documents and not from their code:
//! 1. Nothing is written to a frozen layer.
//! 2. Operations in flight never overlap if one of them writes.
//! 3. Rule W: a metadata page never names data whose write is under way, or has ended after the
//!    last sync began.
//! 4. A metadata page is not written again before a sync has begun and ended; a native page's
//!    versions follow each other and alternate between its slots.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use cow_core::engine::Kind;

use cow_core::format::cowloop::Width;
use cow_core::format::uml::Version;

use crate::bitmap_disk::DM_COW_OFFSET;
use crate::chain_model::Format;

/// Where a format keeps what.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// Pages of two 4 KiB slots up to this byte, then the data.
    Native { data: u64 },
    /// Chunks of so many bytes; every area after so many data chunks.
    Dm { chunk: u64 },
    /// L1 entries between two bytes; L2 tables and clusters of so many bytes.
    Qcow1 { l1: u64, l1_end: u64, table: u64, cluster: u64 },
    /// A bitmap between these bytes, bit n for the n-th `unit` sectors from byte `data` on of the
    /// storage with the key `of`.
    Bitmap { start: u64, end: u64, data: u64, unit: u64, of: u32 },
    /// Nothing but data.
    Data,
    /// The same; tables of one cluster.
    Qcow2 { l1: u64, l1_end: u64, cluster: u64 },
}

/// Bits of an entry that are a place.
const QCOW2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Sectors whose states are in a native page.
const PAGE_SECTORS: u64 = 16_128;

#[derive(Debug)]
struct Flying {
    start: u64,
    end: u64,
    kind: Kind,
}

/// What is known of one storage.
#[derive(Debug, Default)]
struct Storage {
    flying: BTreeMap<u64, Flying>,
    /// Of every data sector: when the first write since it was last published as something else ended.
    written: BTreeMap<u64, u64>,
    /// [Units](Storage::unit) that a page names.
    published: BTreeSet<u64>,
    /// As `published`, by what an earlier process wrote: perhaps by an older slot of a page.
    before: BTreeSet<u64>,
    /// Of every native page: the version that was written last, and whether that write failed.
    sequences: HashMap<u64, u64>,
    failed: BTreeSet<u64>,
    /// When the latest write of a metadata page ended.
    pages: HashMap<u64, u64>,
    /// When the latest sync that ended began.
    synced: u64,
    layout: Option<Layout>,
    /// qcow: the tables known so far.
    tables: BTreeSet<u64>,
    /// qcow: what would be wrong with a write if it turned out to be one of a table.
    suspects: BTreeMap<u64, String>,
    /// qcow2: what each page of an L2 table named when it was last written.
    named_by: HashMap<u64, BTreeSet<u64>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    storages: HashMap<u32, Storage>,
    clock: u64,
    orders: bool,
}

/// One operation, as it begins.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Key of the storage.
    pub key: u32,
    /// What.
    pub kind: Kind,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The bytes of a metadata write.
    pub page: Option<&'a [u8]>,
}

impl fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of storage {} at {}+{}", self.kind, self.key, self.offset, self.len)
    }
}

impl Watch {
    /// `orders` is false where nothing is ever synced.
    pub fn new(orders: bool) -> Self {
        Self { orders, ..Self::default() }
    }

    /// Names an overlay; all other storages are frozen. `l1` is where a qcow image has its L1 table.
    pub fn add_overlay(&mut self, key: u32, format: Format, sectors: u64, l1: u64) {
        let layout = match format {
            Format::Native => Layout::Native { data: 8192 + sectors.div_ceil(PAGE_SECTORS) * 8192 },
            Format::Dm(chunk) => Layout::Dm { chunk: u64::from(chunk) * 512 },
            Format::Qcow1(shape) => {
                let cluster = 1 << shape.cluster_bits;
                let l1_end = l1 + 8 * shape.l1_entries(sectors);
                Layout::Qcow1 { l1, l1_end, table: shape.table_len(), cluster }
            }
            Format::Uml(version) => {
                let len = sectors.div_ceil(8);
                let (start, data) = match version {
                    Version::V1 => (280, (280 + len).next_multiple_of(512)),
                    Version::V2 => (4120, (4120 + len).next_multiple_of(512)),
                    _ => (8192, (8192 + len).next_multiple_of(4096)),
                };
                Layout::Bitmap { start, end: start + len, data, unit: 1, of: key }
            }
            Format::Cowloop(Width::Bits32 | Width::Bits64) => {
                let (start, len) = (1024, (sectors / 2).div_ceil(8));
                let data = (1024 + len.next_multiple_of(1024)).next_multiple_of(4096);
                Layout::Bitmap { start, end: start + len, data, unit: 2, of: key }
            }
            Format::DmCow => {
                let (end, data) = (sectors.div_ceil(8), DM_COW_OFFSET * 512);
                let layout = Layout::Bitmap { start: 0, end, data, unit: 1, of: key };
                self.storages.entry(key + 1).or_default().layout = Some(layout);
                Layout::Data
            }
            Format::Qcow2(kind) => {
                let entries = sectors.div_ceil(1 << (2 * kind.cluster_bits - 12));
                let l1_end = l1 + 8 * entries;
                Layout::Qcow2 { l1, l1_end, cluster: 1 << kind.cluster_bits }
            }
        };
        self.storages.entry(key).or_default().layout = Some(layout);
    }

    /// An operation begins; gives its name.
    ///
    /// # Errors
    /// Which rule is broken.
    pub fn begin(&mut self, seen: Seen<'_>) -> Result<u64, String> {
        self.clock += 1;
        let clock = self.clock;
        let storage = self.storages.entry(seen.key).or_default();
        if storage.layout.is_none() && seen.kind != Kind::Read {
            return Err(format!("{seen:?} changes a frozen layer"));
        }
        let flying = Flying { start: seen.offset, end: seen.offset + seen.len, kind: seen.kind };
        if let Some(other) = storage.flying.values().find(|f| f.conflicts(&flying))
            && !storage.reads_an_entry(&flying, other)
        {
            return Err(format!("{seen:?} runs beside {other:?}"));
        }
        if seen.kind == Kind::Zero {
            let zeroed = seen.offset..seen.offset + seen.len;
            storage.suspects.retain(|at, _| !zeroed.contains(at));
        }
        if let (Some(bytes), true) = (seen.page, self.orders) {
            self.publish(seen.key, seen.offset, bytes)?;
        }
        self.storages.entry(seen.key).or_default().flying.insert(clock, flying);
        Ok(clock)
    }

    fn publish(&mut self, key: u32, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let Some(storage) = self.storages.get_mut(&key) else { return Ok(()) };
        let apart = matches!(storage.layout, Some(Layout::Bitmap { of, .. }) if of != key);
        let (Some(page), true) = (storage.page_of(offset), apart) else {
            return storage.publish(offset, bytes);
        };
        let named: Vec<u64> = storage.named(page, bytes).collect();
        storage.once(page)?;
        let data = self.storages.entry(self.data_of(key)).or_default();
        named.into_iter().try_for_each(|unit| data.name_unit(unit))
    }

    /// Key of the storage that the metadata in this one are about.
    fn data_of(&self, key: u32) -> u32 {
        match self.storages.get(&key).and_then(|storage| storage.layout) {
            Some(Layout::Bitmap { of, .. }) => of,
            _ => key,
        }
    }

    /// An earlier process wrote these sectors of the storage and noted them.
    pub fn restored(&mut self, key: u32, offset: u64, sectors: u64) {
        let storage = self.storages.entry(key).or_default();
        // What a chunk held around them was written with them.
        let unit = match storage.layout {
            Some(
                Layout::Dm { chunk: bytes }
                | Layout::Qcow1 { cluster: bytes, .. }
                | Layout::Qcow2 { cluster: bytes, .. },
            ) => bytes / 512,
            Some(Layout::Bitmap { unit, .. }) => unit,
            _ => 1,
        };
        let (start, end) = (offset / 512, offset / 512 + sectors);
        let sectors = start / unit * unit..end.div_ceil(unit) * unit;
        let tracked = storage.unit();
        storage.before.extend(sectors.start / tracked..sectors.end / tracked);
    }

    /// A read is about to end with these bytes: what a metadata page says was published before.
    pub fn read(&mut self, key: u32, offset: u64, bytes: &[u8]) {
        let Some(storage) = self.storages.get_mut(&key) else { return };
        storage.learn(offset, bytes);
        let Some(page) = storage.page_of(offset) else { return };
        let named: Vec<u64> = storage.named(page, bytes).collect();
        self.storages.entry(self.data_of(key)).or_default().before.extend(named);
    }

    /// It ended.
    pub fn end(&mut self, key: u32, name: u64, well: bool) {
        self.clock += 1;
        let clock = self.clock;
        let Some(storage) = self.storages.get_mut(&key) else { return };
        let Some(flying) = storage.flying.remove(&name) else { return };
        match flying.kind {
            Kind::Sync if well => storage.synced = storage.synced.max(name),
            Kind::Write if !well => {
                if let Some(page) = storage.page_of(flying.start) {
                    storage.failed.insert(page);
                }
            }
            Kind::Write | Kind::Zero => {
                if let Some(page) = storage.page_of(flying.start) {
                    storage.pages.insert(page, clock);
                } else if flying.end - flying.start < 1 << 26 {
                    for sector in flying.start / 512..flying.end.div_ceil(512) {
                        storage.written.entry(sector).or_insert(clock);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Flying {
    fn conflicts(&self, other: &Self) -> bool {
        let changes = |k| matches!(k, Kind::Write | Kind::Zero | Kind::Punch);
        (changes(self.kind) || changes(other.kind))
            && self.start < other.end
            && other.start < self.end
    }
}

impl Storage {
    /// A sector of a table is read for one entry while others of it are written: with the place of
    /// an L2 table or a refcount block, which no write beside the load changes.
    fn reads_an_entry(&self, a: &Flying, b: &Flying) -> bool {
        let by_entry = |f: &Flying| f.kind == Kind::Read && f.end - f.start <= 512;
        matches!(self.layout, Some(Layout::Qcow2 { .. }))
            && (by_entry(a) && b.kind == Kind::Write || by_entry(b) && a.kind == Kind::Write)
    }

    /// Sectors that a page names together: of qcow2, whose clusters may have thousands of them, a
    /// cluster.
    fn unit(&self) -> u64 {
        match self.layout {
            Some(Layout::Qcow2 { cluster, .. }) => cluster / 512,
            _ => 1,
        }
    }

    /// The metadata page at this byte.
    fn page_of(&self, offset: u64) -> Option<u64> {
        match self.layout? {
            Layout::Native { data } => {
                (8192..data).contains(&offset).then(|| (offset - 8192) / 8192)
            }
            Layout::Dm { chunk } => {
                let number = offset / chunk;
                let stride = chunk / 16 + 1;
                (number >= 1 && (number - 1).is_multiple_of(stride)).then_some(offset / 512)
            }
            Layout::Qcow1 { l1, l1_end, table, .. } => {
                let of_table =
                    |t: &u64| (offset < t + table).then(|| t + (offset - t) / 4096 * 4096);
                let l2 = self.tables.range(..=offset).next_back().and_then(of_table);
                if (l1..l1_end).contains(&offset) { Some(offset) } else { l2 }
            }
            Layout::Qcow2 { l1, l1_end, cluster } => {
                let of_table =
                    |t: &u64| (offset < t + cluster).then(|| t + (offset - t) / 4096 * 4096);
                let l2 = self.tables.range(..=offset).next_back().and_then(of_table);
                if (l1..l1_end).contains(&offset) { Some(offset / 4096 * 4096) } else { l2 }
            }
            Layout::Bitmap { start, end, .. } => {
                (start..end).contains(&offset).then(|| (offset - start) / 4096)
            }
            Layout::Data => None,
        }
    }

    /// Units of the storage of which these bytes of a page say that they hold data.
    fn named<'b>(&self, page: u64, bytes: &'b [u8]) -> Box<dyn Iterator<Item = u64> + 'b> {
        match self.layout {
            Some(Layout::Native { data }) if bytes.len() == 4096 => {
                let first = data / 512 + page * PAGE_SECTORS;
                let data = (0..PAGE_SECTORS).filter(|at| {
                    let byte = bytes[64 + usize::try_from(at / 4).expect("small")];
                    byte >> (at % 4 * 2) & 3 == 1
                });
                Box::new(data.map(move |at| first + at))
            }
            Some(Layout::Dm { chunk }) => {
                let chunks = bytes.chunks_exact(16).map(|entry| word(&entry[8..16]));
                let used = chunks.take_while(|chunk| *chunk != 0);
                Box::new(used.flat_map(move |n| n * chunk / 512..(n + 1) * chunk / 512))
            }
            Some(Layout::Qcow1 { l1, l1_end, cluster, .. }) if !(l1..l1_end).contains(&page) => {
                let entries = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e));
                let used = entries.filter(|e| *e != 0 && e >> 63 == 0);
                Box::new(used.flat_map(move |at| at / 512..(at.saturating_add(cluster)) / 512))
            }
            Some(Layout::Bitmap { data, unit, .. }) => {
                let first = data / 512 + page * 32_768 * unit;
                let bits = (0..bytes.len() as u64 * 8).filter(|bit| {
                    bytes[usize::try_from(bit / 8).expect("small")] >> (bit % 8) & 1 == 1
                });
                Box::new(bits.flat_map(move |bit| first + bit * unit..first + (bit + 1) * unit))
            }
            Some(Layout::Qcow2 { l1, l1_end, cluster }) if !(l1..l1_end).contains(&page) => {
                let entries = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e));
                let at = entries.filter(|e| e & (1 | 1 << 62) == 0).map(|e| e & QCOW2_OFFSET);
                Box::new(at.filter(|at| *at != 0).map(move |at| at / cluster))
            }
            _ => Box::new(core::iter::empty()),
        }
    }

    /// These bytes of a qcow image may be an entry of its L1 table. Gives the table.
    fn learn(&mut self, offset: u64, bytes: &[u8]) -> Option<u64> {
        if let Some(Layout::Qcow2 { l1, l1_end, .. }) = self.layout {
            if !(l1..l1_end).contains(&offset) {
                return None;
            }
            let entries = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e));
            let tables = entries.map(|e| e & QCOW2_OFFSET).filter(|at| *at != 0);
            // A page of a commit names several; one that is suspected is enough.
            return tables.fold(None, |found, table| {
                let is_new = self.tables.insert(table);
                let suspected = self.suspects.range(table..table + 4096).next().is_some();
                if is_new && suspected { Some(table) } else { found }
            });
        }
        let Some(Layout::Qcow1 { l1, l1_end, .. }) = self.layout else { return None };
        if !(l1..l1_end).contains(&offset) || bytes.len() != 8 {
            return None;
        }
        let table = u64::from_be_bytes(bytes.try_into().ok()?);
        (table != 0 && self.tables.insert(table)).then_some(table)
    }

    /// A write that may turn out to be one of a table that is not known yet, or the entry that
    /// makes one known.
    fn suspect(&mut self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let len = match self.layout {
            Some(Layout::Qcow1 { table, .. }) => table,
            Some(Layout::Qcow2 { cluster, .. }) => cluster,
            _ => return Ok(()),
        };
        if let Some(table) = self.learn(offset, bytes) {
            return match self.suspects.range(table..table + len).next() {
                Some((_, what)) => Err(what.clone()),
                None => Ok(()),
            };
        }
        if self.page_of(offset).is_none() {
            let named: Vec<u64> = self.named(offset, bytes).take(1 << 16).collect();
            match named.into_iter().find_map(|unit| self.why_not(unit)) {
                Some(what) => self.suspects.insert(offset, what),
                None => self.suspects.remove(&offset),
            };
        }
        Ok(())
    }

    /// Why a page must not name this unit of the storage now.
    fn why_not(&self, unit: u64) -> Option<String> {
        if self.published.contains(&unit) || self.before.contains(&unit) {
            return None;
        }
        let sectors = self.sectors_of(unit);
        let not_synced = |(_, ended): &(&u64, &u64)| **ended >= self.synced;
        if let Some((sector, _)) = self.written.range(sectors.clone()).find(not_synced) {
            return Some(format!("published before its sync: sector {sector}"));
        }
        let mut changing = self.flying.values().filter(|f| {
            matches!(f.kind, Kind::Write | Kind::Zero)
                && f.start < sectors.end.saturating_mul(512)
                && sectors.start.saturating_mul(512) < f.end
        });
        let first = changing.find_map(|f| {
            let mut of_it = sectors.start.max(f.start / 512)..sectors.end.min(f.end.div_ceil(512));
            of_it.find(|sector| !self.written.contains_key(sector))
        });
        first.map(|sector| format!("published under way: sector {sector}"))
    }

    fn sectors_of(&self, unit: u64) -> core::ops::Range<u64> {
        let first = unit.saturating_mul(self.unit());
        first..first.saturating_add(self.unit())
    }

    fn publish(&mut self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.suspect(offset, bytes)?;
        let Some(page) = self.page_of(offset) else { return Ok(()) };
        let named: BTreeSet<u64> = self.named(page, bytes).collect();
        if let Some(Layout::Native { data }) = self.layout {
            let sequence = word(&bytes[48..56]);
            if sequence == 0 {
                return if named.is_empty() {
                    Ok(())
                } else {
                    Err("preparation with states".into())
                };
            }
            self.alternate(page, offset, sequence)?;
            let first = data / 512 + page * PAGE_SECTORS;
            let gone: Vec<u64> = self
                .published
                .range(first..first + PAGE_SECTORS)
                .filter(|sector| !named.contains(*sector))
                .copied()
                .collect();
            self.forget(page, gone);
            self.before.retain(|s| !(first..first + PAGE_SECTORS).contains(s) || named.contains(s));
        }
        if let Some(Layout::Qcow2 { .. }) = self.layout {
            // A cluster that reads as zeros keeps its place, and may be named again.
            let before = self.named_by.insert(page, named.clone()).unwrap_or_default();
            let gone = before.difference(&named).copied().collect();
            self.forget(page, gone);
        }
        named.into_iter().try_for_each(|unit| self.name_unit(unit))?;
        self.once(page)
    }

    /// A page does not name these units any more.
    fn forget(&mut self, page: u64, gone: Vec<u64>) {
        for unit in gone {
            self.published.remove(&unit);
            // A write since the previous version is for a later one: a discard that failed may
            // be published all the same.
            let previous = self.pages.get(&page).copied().unwrap_or(0);
            let sectors = self.sectors_of(unit);
            let earlier = |(_, ended): &(&u64, &u64)| **ended <= previous;
            let gone = self.written.range(sectors).filter(earlier).map(|(at, _)| *at);
            for sector in gone.collect::<Vec<_>>() {
                self.written.remove(&sector);
            }
        }
    }

    /// The slot that holds the current version of a page is not the one to write.
    fn alternate(&mut self, page: u64, offset: u64, sequence: u64) -> Result<(), String> {
        let slot = ((offset - 8192) / 4096) & 1;
        match self.sequences.insert(page, sequence) {
            _ if sequence & 1 != slot => Err(format!("version {sequence} goes to slot {slot}")),
            // The same version again is right only after its write failed.
            Some(last) if sequence != last + 1 && !self.failed.remove(&page) => {
                Err(format!("page {page}: version {sequence} follows {last}"))
            }
            _ => Ok(()),
        }
    }

    fn once(&self, page: u64) -> Result<(), String> {
        match self.pages.get(&page) {
            Some(ended) if *ended >= self.synced => {
                Err(format!("page {page} is written twice between two syncs"))
            }
            _ => Ok(()),
        }
    }

    /// A metadata page is about to say that this unit of the storage holds data.
    fn name_unit(&mut self, unit: u64) -> Result<(), String> {
        let why_not = self.why_not(unit);
        self.published.insert(unit);
        why_not.map_or(Ok(()), Err)
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}
