//! Disks that tools write: a plain file, or an overlay with the engine above it.

use std::path::{Path, PathBuf};

use cow_core::blocking::{Blocking, CallError};
use cow_core::engine::{Durability, Engine, Failure, Lent};
use cow_core::format::{IndexEntry, Place};
use cow_core::pages::PagePool;
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::{Extent, Lba, SECTOR_BYTES, SECTOR_LEN};

use super::parts::is_zero;
use super::source::{Memory, call_failed, sectors_in};
use crate::config;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{Backing, Format, ImageFile, ImageKeys, ImageName, open_backing};
use crate::storage::{FileStorage, FileTable};

/// A disk of which sectors are changed. Everything may be lost or torn until
/// [`make_durable`](Self::make_durable) returns.
pub(super) trait WriteDisk {
    /// Fills `buf`, whole sectors, from sector `at` on.
    fn read(&mut self, at: Lba, buf: &mut [u8]) -> Result<()>;

    /// Writes `data`, whole sectors, from sector `at` on.
    fn write(&mut self, at: Lba, data: &[u8]) -> Result<()>;

    /// Makes sectors read as zeros, taking as little room as possible and touching nothing that reads
    /// as zeros already without having room.
    fn make_zero(&mut self, extent: Extent) -> Result<()>;

    /// What was written survives a power cut when this returns.
    fn make_durable(&mut self) -> Result<()>;
}

/// A plain file or block device.
#[derive(Debug)]
pub(super) struct PlainDisk {
    file: FileStorage,
    len: u64,
}

impl PlainDisk {
    pub(super) fn new(file: FileStorage) -> Result<Self> {
        let len = file.len_bytes()?;
        Ok(Self { file, len })
    }

    /// Makes the disk as large as this, if it is smaller and can grow.
    pub(super) fn grow(&mut self, sectors: u64) -> Result<()> {
        let needed = sectors.saturating_mul(SECTOR_BYTES);
        // A last sector that is only partly there is as good as whole until something is written to it.
        if self.len.div_ceil(SECTOR_BYTES) < sectors {
            self.file.extend(needed)?;
            self.len = needed;
        }
        Ok(())
    }
}

impl WriteDisk for PlainDisk {
    fn read(&mut self, at: Lba, buf: &mut [u8]) -> Result<()> {
        let inside = self.len.saturating_sub(at.bytes()).min(buf.len() as u64);
        let (there, behind) = buf.split_at_mut(usize::try_from(inside).unwrap_or(0));
        behind.fill(0);
        Ok(self.file.read_at(at.bytes(), there)?)
    }

    fn write(&mut self, at: Lba, data: &[u8]) -> Result<()> {
        let inside = self.len.saturating_sub(at.bytes()).min(data.len() as u64);
        let (there, behind) = data.split_at(usize::try_from(inside).unwrap_or(0));
        // A file of odd length stays so as long as nothing is lost by it.
        if is_zero(behind) {
            return Ok(self.file.write(at.bytes(), there)?);
        }
        self.file.write(at.bytes(), data)?;
        self.len = self.len.max(at.bytes().saturating_add(data.len() as u64));
        Ok(())
    }

    fn make_zero(&mut self, extent: Extent) -> Result<()> {
        let end = extent.end().bytes().min(self.len);
        let mut at = extent.start().bytes();
        while at < end {
            let stretch = self.file.stretch(at);
            let to = stretch.end.min(end);
            if !stretch.is_hole {
                self.file.zero(at, to.saturating_sub(at))?;
            }
            at = to;
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

/// An overlay, or a layer that is one again for a while.
#[derive(Debug)]
pub(super) struct OverlayDisk<'m> {
    pool: PagePool<'m>,
    engine: Engine<1>,
    index: Vec<IndexEntry>,
    backing: Backing,
    files: FileTable,
    file: ImageFile,
    format: Format,
    path: PathBuf,
}

impl<'m> OverlayDisk<'m> {
    /// Opens `file`, which is locked, over `below`, from its parent down. It is compared with what the
    /// image recorded.
    pub(super) fn open(
        memory: &'m mut Memory,
        (name, mut file, format): (&ImageName, ImageFile, Format),
        below: &[config::Layer],
    ) -> Result<Self> {
        let mut files = FileTable::new();
        let backing = open_backing(below, false, &mut files)?;
        let keys = ImageKeys::reserve(name, &mut files);
        let image = format.ops().open_overlay(&mut file, keys, backing.below())?;
        keys.enter(&file, &mut files);
        let path = file.path().to_owned();
        let no_memory = || HostError::new(ErrorKind::Io, "write the image").path(&path);
        let pool = memory.pool.pool()?;
        let engine = Engine::new(Some(image.top), image.sectors, Durability::Writeback);
        let engine = engine.ok_or_else(no_memory)?;
        Ok(Self { pool, engine, index: image.index, backing, files, file, format, path })
    }

    /// Size of the disk.
    pub(super) fn sectors(&self) -> u64 {
        self.engine.sectors()
    }

    /// Records an orderly end; everything is durable then.
    pub(super) fn close(mut self) -> Result<ImageFile> {
        self.make_durable()?;
        let no_top = || HostError::new(ErrorKind::Io, "close the image").path(&self.path);
        let mut top = self.engine.into_overlay().ok_or_else(no_top)?;
        self.format.ops().close(&mut self.file, &mut top)?;
        Ok(self.file)
    }

    fn chain(&mut self) -> Blocking<'_, 'm, FileTable, 1> {
        let layers = self.backing.layers();
        let lent = Lent { pages: &mut self.pool, layers, index: &mut self.index };
        Blocking { engine: &mut self.engine, lent, storages: &mut self.files }
    }

    /// How many of the first of these sectors are in the overlay itself, or are not.
    pub(super) fn holds(&mut self, rest: Extent) -> Result<(bool, u64)> {
        let (depth, run) = self.call("read the image", |chain| chain.map(rest))?;
        Ok((depth == 0 && run.place != Place::Absent, run.sectors.max(1)))
    }

    /// Tries again with more index memory as often as the format asks for it.
    fn call<T>(
        &mut self,
        op: &str,
        mut act: impl FnMut(&mut Blocking<'_, 'm, FileTable, 1>) -> core::result::Result<T, CallError>,
    ) -> Result<T> {
        loop {
            let error = match act(&mut self.chain()) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if let CallError::Failed(Failure::IndexFull { needed }) = error
                && needed > self.index.len() as u64
                && self.format.ops().grow_index(&mut self.index, needed)
            {
                continue;
            }
            let files = self.files.iter().map(|(_, file)| file);
            return Err(call_failed(error, op, &self.path, files).unwrap_or_else(|| {
                HostError::new(ErrorKind::Corrupt, op)
                    .path(&self.path)
                    .detail(error.to_string())
                    .advice("`cowblade check` lists what is wrong")
            }));
        }
    }
}

impl WriteDisk for OverlayDisk<'_> {
    fn read(&mut self, at: Lba, buf: &mut [u8]) -> Result<()> {
        self.call("read the image", |chain| chain.read(at, buf))
    }

    fn write(&mut self, at: Lba, data: &[u8]) -> Result<()> {
        self.call("write the image", |chain| chain.write(at, data))
    }

    fn make_zero(&mut self, extent: Extent) -> Result<()> {
        let mut rest = extent;
        while !rest.is_empty() {
            let (_, run) = self.call("read the image", |chain| chain.map(rest))?;
            let part = rest.take(run.sectors.max(1));
            rest = rest.skip(part.sectors());
            if !matches!(run.place, Place::Absent | Place::Zero) {
                self.clear(part)?;
            }
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<()> {
        // A closure: the method alone is not general enough in its lifetimes.
        #[expect(clippy::redundant_closure_for_method_calls, reason = "see above")]
        self.call("write the image", |chain| chain.flush())
    }
}

impl OverlayDisk<'_> {
    /// Makes the overlay itself hold zeros, whatever is below it. `zeros` are as many.
    pub(super) fn hold_zeros(&mut self, extent: Extent, zeros: &[u8]) -> Result<()> {
        self.call("write the image", |chain| chain.zero(extent))?;
        let mut rest = extent;
        while !rest.is_empty() {
            let (held, sectors) = self.holds(rest)?;
            let part = rest.take(sectors);
            if !held {
                // A format that needs no mark for what reads as zeros anyway.
                let len = usize::try_from(part.bytes()).unwrap_or(0);
                self.write(part.start(), zeros.get(..len).unwrap_or_default())?;
            }
            rest = rest.skip(part.sectors());
        }
        Ok(())
    }

    /// Zeros what is not zero; what is would only take room.
    fn clear(&mut self, extent: Extent) -> Result<()> {
        let mut buf = vec![0; CLEAR_LEN.min(usize::try_from(extent.bytes()).unwrap_or(CLEAR_LEN))];
        let mut rest = extent;
        while !rest.is_empty() {
            let part = rest.take(sectors_in(&buf));
            let len = usize::try_from(part.bytes()).unwrap_or(0);
            let piece = buf.get_mut(..len).unwrap_or_default();
            self.read(part.start(), piece)?;
            if !is_zero(piece) {
                self.call("write the image", |chain| chain.zero(part))?;
            }
            rest = rest.skip(part.sectors());
        }
        Ok(())
    }
}

/// Bytes looked at at a time when zeros are wanted.
const CLEAR_LEN: usize = 128 * SECTOR_LEN;

/// A full storage, with the way out.
pub(super) fn with_way_out(error: HostError, path: &Path, advice: &str) -> HostError {
    if error.kind() != ErrorKind::Full || error.context().advice.is_some() {
        return error;
    }
    HostError::new(ErrorKind::Full, "write").path(path).advice(advice).source(error)
}
