//! `cowblade map`: where the sectors of a disk are.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Place, Run};
use cow_core::units::{Extent, SECTOR_BYTES};
use serde::Serialize;

use super::chain::{Gate, ParentReport, parents};
use super::source::{ChainName, Found};
use crate::config;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Backing, Format, ImageFile, ImageKeys, ImageName, open_backing, refuse_merging,
};
use crate::storage::{FileOptions, FileTable, LockMode, PoolMemory};

/// Metadata pages kept in memory.
const PAGES: usize = 64;

/// What [`map`] is to look at.
#[derive(Clone, Debug, Default)]
pub struct MapRequest {
    /// The image, and what lies below it if that is named.
    pub chain: ChainName,
    /// Whether to look into the parents that images name too.
    pub gate: Gate,
    /// First byte of the disk, a multiple of 512.
    pub offset_bytes: u64,
    /// Number of bytes, a multiple of 512; `None`: to the end.
    pub len_bytes: Option<u64>,
}

/// Where the sectors of a run are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapKind {
    /// In the file of the layer, from `offset` on; without an offset, compressed.
    Data,
    /// The layer makes them zeros.
    Zero,
    /// Nowhere: they read as zeros.
    Nothing,
    /// In a layer below that was not looked at.
    Below,
}

/// A maximal range of sectors in one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct MapRun {
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// 0 for the image itself, 1 for its parent, and so on; none where no layer has them.
    pub layer: Option<usize>,
    /// Where.
    pub kind: MapKind,
    /// Byte of the layer's file, for data.
    pub offset: Option<u64>,
}

impl fmt::Display for MapRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            MapKind::Data => "data",
            MapKind::Zero => "zero",
            MapKind::Nothing => "nothing",
            MapKind::Below => "below",
        };
        let layer = self.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        write!(f, "{:>14} {:>14}  {layer:>5}  {kind:<7}", self.start, self.sectors)?;
        match self.offset {
            Some(offset) => write!(f, " {offset:>16}"),
            None => Ok(()),
        }
    }
}

impl MapRun {
    /// Heading of the columns that `Display` prints.
    pub const HEADING: &'static str =
        "         start        sectors  layer  kind             at byte";

    /// `next` goes on where this ends, in the same place.
    fn takes(&mut self, next: &Self) -> bool {
        let follows = self.start.saturating_add(self.sectors) == next.start
            && (self.layer, self.kind) == (next.layer, next.kind)
            && self.offset.map(|o| o.saturating_add(self.sectors.saturating_mul(SECTOR_BYTES)))
                == next.offset;
        if follows {
            self.sectors = self.sectors.saturating_add(next.sectors);
        }
        follows
    }
}

/// What [`map`] looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct MapSummary {
    /// Files of the layers, the image first.
    pub layers: Vec<PathBuf>,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Runs told.
    pub runs: u64,
}

/// Tells `each` every run of the range, in order.
///
/// # Errors
/// The image cannot be read, is damaged where it was looked at, or is being written; a range that
/// is not inside the disk; what `each` returns.
pub fn map(
    request: &MapRequest,
    each: &mut dyn FnMut(&MapRun) -> Result<()>,
) -> Result<MapSummary> {
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let top = Found::open_top(&request.chain, &options)?;
    refuse_merging(&top.file)?;
    let mut files = FileTable::new();
    let below = match request.chain.lower() {
        [] => below(&top.file, top.format, &request.gate, &mut files)?,
        lower => named(&top, lower, &request.gate, &mut files)?,
    };
    let Found { name, file, format, .. } = top;
    let keys = ImageKeys::reserve(&name, &mut files);
    keys.enter(&file, &mut files);
    let mut index = Vec::new();
    let below_sectors = below.backing.as_ref().map(Backing::sectors);
    let mut layers = vec![format.ops().view(&file, keys, below_sectors, &mut index)?];
    let mut paths = vec![name.path.clone()];
    if let Some(backing) = &below.backing {
        layers.extend_from_slice(backing.layers());
        paths.extend(below.paths);
    }
    let disk = layers.first().map_or(0, Layer::sectors);
    let range = range_of(request, disk)?;
    let walk = Walk { layers: &layers, is_complete: below.is_complete, range };
    let runs = walk.run(disk, &mut files, each)?;
    let disk_bytes = disk.saturating_mul(SECTOR_BYTES);
    Ok(MapSummary { layers: paths, disk_bytes, runs })
}

/// What is looked at below an image.
struct Parents {
    backing: Option<Backing>,
    /// Of its layers, top first; of two files the one with the data.
    paths: Vec<PathBuf>,
    /// Nothing is below what is looked at.
    is_complete: bool,
}

/// What was named, compared with what the image recorded.
fn named(
    top: &Found,
    lower: &[config::Layer],
    gate: &Gate,
    files: &mut FileTable,
) -> Result<Parents> {
    let layers = top.with_windows(lower, gate)?;
    let backing = open_backing(&layers, false, files)?;
    top.check(Some(&backing))?;
    Ok(Parents { is_complete: true, backing: Some(backing), paths: paths_of(&layers) })
}

/// What the image records, as far as it may be followed.
fn below(file: &ImageFile, format: Format, gate: &Gate, files: &mut FileTable) -> Result<Parents> {
    let recorded = format.ops().parent(file)?;
    let has_parent = recorded.is_some() || format.ops().needs_parent();
    let (reports, layers) = parents(file, recorded, gate)?;
    if let Some(wrong) = reports.iter().find(|report| report.is_wrong()) {
        return Err(HostError::new(ErrorKind::Mismatch, "map the layers below")
            .path(file.path())
            .detail(wrong.to_string())
            .advice("map the image alone, without its parents"));
    }
    let usable = !layers.is_empty() && reports.iter().all(ParentReport::is_usable);
    let backing = if usable { Some(open_backing(&layers, false, files)?) } else { None };
    let is_complete = !has_parent || usable;
    Ok(Parents { is_complete, backing, paths: paths_of(&layers) })
}

fn paths_of(layers: &[config::Layer]) -> Vec<PathBuf> {
    let paths = layers.iter().filter_map(|layer| match layer {
        config::Layer::File { path, .. } => Some(ImageName::parse(path).path),
        config::Layer::Recorded | config::Layer::Blank { .. } => None,
    });
    paths.collect()
}

fn range_of(request: &MapRequest, disk: u64) -> Result<Extent> {
    let refused = |detail: String| {
        HostError::usage("map that part", detail)
            .path(request.chain.top().unwrap_or(Path::new("")))
            .advice("give multiples of 512 inside the disk")
    };
    let (offset, len) = (request.offset_bytes, request.len_bytes);
    if !offset.is_multiple_of(SECTOR_BYTES) || !len.unwrap_or(0).is_multiple_of(SECTOR_BYTES) {
        return Err(refused("it does not begin and end with a sector of 512 bytes".to_owned()));
    }
    let start = offset / SECTOR_BYTES;
    let sectors = len.map_or_else(|| disk.saturating_sub(start), |len| len / SECTOR_BYTES);
    Extent::new(start, sectors)
        .filter(|e| e.end().get() <= disk)
        .ok_or_else(|| refused(format!("the disk has {disk} sectors")))
}

/// A walk over a range of a chain of frozen layers.
struct Walk<'a> {
    layers: &'a [Layer<'a>],
    is_complete: bool,
    range: Extent,
}

impl Walk<'_> {
    fn run(
        &self,
        disk: u64,
        files: &mut FileTable,
        each: &mut dyn FnMut(&MapRun) -> Result<()>,
    ) -> Result<u64> {
        let no_memory = || HostError::new(ErrorKind::Io, "map the image");
        let mut memory = PoolMemory::new(PAGES);
        let mut pool = memory.pool()?;
        let mut engine: Engine<1> =
            Engine::new(None, disk, Durability::Ephemeral).ok_or_else(no_memory)?;
        let lent = Lent { pages: &mut pool, layers: self.layers, index: &mut [] };
        let mut chain = Blocking { engine: &mut engine, lent, storages: files };
        let (mut rest, mut runs) = (self.range, 0);
        let mut last: Option<MapRun> = None;
        while !rest.is_empty() {
            let (depth, run) = chain.map(rest).map_err(|error| {
                HostError::new(ErrorKind::Corrupt, "map the image")
                    .detail(format!("at sector {}: {error}", rest.start()))
                    .advice("`cowblade check` lists what is wrong")
            })?;
            let next = self.told(rest.start().get(), depth, run);
            rest = rest.skip(run.sectors.max(1));
            if last.as_mut().is_some_and(|last| last.takes(&next)) {
                continue;
            }
            if let Some(done) = last.replace(next) {
                each(&done)?;
                runs += 1;
            }
        }
        if let Some(done) = last {
            each(&done)?;
            runs += 1;
        }
        Ok(runs)
    }

    /// The engine counts the overlay that a chain of frozen layers does not have.
    fn told(&self, start: u64, depth: u16, run: Run) -> MapRun {
        let layer = usize::from(depth).checked_sub(1).filter(|at| *at < self.layers.len());
        let (kind, offset) = match run.place {
            Place::Data { offset } | Place::Tail { offset, .. } => (MapKind::Data, Some(offset)),
            // Compressed: there, but nowhere as such.
            Place::Packed(_) => (MapKind::Data, None),
            Place::Zero => (MapKind::Zero, None),
            Place::Absent if self.is_complete => (MapKind::Nothing, None),
            Place::Absent => (MapKind::Below, None),
        };
        let layer = layer.filter(|_| run.place != Place::Absent);
        MapRun { start, sectors: run.sectors, layer, kind, offset }
    }
}
