//! `cowblade rebase`: another parent under an overlay whose disk stays the same.
//!
//! What the overlay does not hold, and the two parents do not have in common, is copied into it from
//! the old parent. That changes nothing of the disk, so it may be cut at any moment: the overlay still
//! lies on the old parent. The new one is recorded at the end, when everything is durable.

use core::fmt;
use std::path::PathBuf;

use cow_core::units::{Extent, SECTOR_BYTES};
use serde::Serialize;

use super::chain::{Gate, below_of};
use super::create::whole_units;
use super::disk::{OverlayDisk, WriteDisk, with_way_out};
use super::parts::{Content, Part, changes};
use super::source::{ChainName, Found, Memory, Piece, Source, layers_of};
use crate::config;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{Below, Progress, bytes_text, overlay_options, refuse_merging};
use crate::storage::FileKey;

/// Sectors compared at a time: 1 MiB.
const CHUNK_SECTORS: u64 = 2048;

/// What [`rebase`] is to do.
#[derive(Clone, Debug, Default)]
pub struct RebaseRequest {
    /// The overlay and what lies below it now.
    pub chain: ChainName,
    /// What lies below it from then on; `blank:SIZE` for nothing.
    pub parent: ChainName,
    /// Whether the names that images record are followed.
    pub gate: Gate,
}

/// What [`rebase`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Rebased {
    /// The overlay.
    pub path: PathBuf,
    /// Its parent now.
    pub parent: Option<PathBuf>,
    /// Bytes that were copied into it, zeros included.
    pub copied_bytes: u64,
}

impl fmt::Display for Rebased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` lies on ", self.path.display())?;
        match &self.parent {
            Some(parent) => write!(f, "`{}` now", parent.display())?,
            None => f.write_str("nothing now")?,
        }
        write!(f, ", and shows the same disk: copied {}", bytes_text(self.copied_bytes))
    }
}

/// Puts another parent under an overlay and keeps its disk the same.
///
/// # Errors
/// What the overlay, or one of the two chains, is refused for; a parent of another size where the format
/// has the size of its parent. The media's. The overlay then lies on its old parent, and its disk is as it
/// was.
pub fn rebase(request: &RebaseRequest, progress: &mut Progress<'_>) -> Result<Rebased> {
    let overlay = Found::open(&request.chain, &request.gate, &overlay_options(false))?;
    let refused = |kind, detail: &str| {
        HostError::new(kind, "rebase").path(overlay.file.path()).detail(detail)
    };
    refuse_merging(&overlay.file)?;
    overlay.refuse_pending()?;
    if overlay.format.ops().is_plain() {
        return Err(refused(ErrorKind::Unsupported, "it is no overlay"));
    }
    overlay.format.ops().check_new_parent(&overlay.file)?;
    let layers = layers_of(&request.parent, &request.gate)?;
    let files = layers.iter().filter_map(|layer| match layer {
        config::Layer::File { path, .. } => FileKey::of(path),
        config::Layer::Recorded | config::Layer::Blank { .. } => None,
    });
    let own = overlay.file.keys()?;
    if files.into_iter().any(|key| own.contains(&key)) {
        return Err(refused(ErrorKind::Usage, "an overlay cannot lie on itself"));
    }
    let old = old_layers(&overlay)?;
    let mut memory = (Memory::new(), Memory::new(), Memory::new());
    let image = (&overlay.name, overlay.file.clone(), overlay.format);
    let mut disk = OverlayDisk::open(&mut memory.0, image, &old)?;
    let sectors = disk.sectors();
    let below = match layers.first() {
        Some(config::Layer::File { path, window }) => below_of(path, *window)?,
        _ => Below::blank(sectors),
    };
    let creation = overlay.format.ops().creation();
    if below.is_blank() && overlay.format.ops().needs_parent() {
        return Err(refused(ErrorKind::Unsupported, "its format needs an image below it"));
    }
    let possible = whole_units(overlay.format, below.sectors);
    if possible != sectors && creation.is_none_or(|creation| !creation.other_size) {
        let detail = "its disk is always as large as the image below it, and that one is not";
        return Err(refused(ErrorKind::Unsupported, detail));
    }
    let mut rebase = Rebase {
        old: Source::of_layers(&mut memory.1, &old, Some(sectors))?,
        new: Source::of_layers(&mut memory.2, &layers, Some(sectors))?,
        disk: &mut disk,
        copied: 0,
    };
    let advice = "make room and try again; it still lies on its old parent";
    let kept = rebase.keep(sectors, progress);
    kept.map_err(|error| with_way_out(error, overlay.file.path(), advice))?;
    let copied = rebase.copied;
    let mut file = disk.close()?;
    overlay.format.ops().set_parent(&mut file, &below)?;
    Ok(Rebased {
        path: overlay.name.path,
        parent: below.path,
        copied_bytes: copied.saturating_mul(SECTOR_BYTES),
    })
}

/// What lies below the overlay so far; zeros, if nothing does.
fn old_layers(overlay: &Found) -> Result<Vec<config::Layer>> {
    if !overlay.below.is_empty() {
        return Ok(overlay.below.clone());
    }
    let len = overlay.format.ops().disk_bytes(&overlay.file)?;
    let unknown = || HostError::new(ErrorKind::Unsupported, "rebase").path(overlay.file.path());
    Ok(vec![config::Layer::Blank { len_bytes: len.ok_or_else(unknown)? }])
}

struct Rebase<'a, 'm> {
    old: Source<'a>,
    new: Source<'a>,
    disk: &'a mut OverlayDisk<'m>,
    /// Sectors that were copied.
    copied: u64,
}

impl Rebase<'_, '_> {
    /// Copies what the disk would lose.
    fn keep(&mut self, sectors: u64, progress: &mut Progress<'_>) -> Result<()> {
        let mut rest = Extent::new(0, sectors).unwrap_or(Extent::EMPTY);
        let total = rest.bytes();
        while !rest.is_empty() {
            let (held, sectors) = self.disk.holds(rest)?;
            let mut part = rest.take(sectors);
            if !held {
                part = self.keep_some(part)?;
            }
            rest = rest.skip(part.sectors());
            progress(total.saturating_sub(rest.bytes()), total);
        }
        self.old.check_unchanged()?;
        self.new.check_unchanged()
    }

    /// The same for the first of these sectors, which the overlay does not hold.
    fn keep_some(&mut self, extent: Extent) -> Result<Extent> {
        let at = extent.start().get();
        let pieces = [self.old.piece(at, CHUNK_SECTORS)?, self.new.piece(at, CHUNK_SECTORS)?];
        let shorter = pieces.map(|piece| piece.extent().sectors()).into_iter().min().unwrap_or(1);
        let extent = extent.take(shorter);
        if pieces.iter().all(|piece| matches!(piece, Piece::Zeros(_))) {
            return Ok(extent);
        }
        let extent = extent.take(CHUNK_SECTORS);
        let len = usize::try_from(extent.bytes()).unwrap_or(0);
        let (mut old, mut new, mut parts) = (vec![0; len], vec![0; len], Vec::new());
        self.old.read(extent.start(), &mut old)?;
        self.new.read(extent.start(), &mut new)?;
        changes(&old, &new, &mut parts);
        for part in &parts {
            self.put(extent, part, &old)?;
        }
        Ok(extent)
    }

    fn put(&mut self, extent: Extent, part: &Part, old: &[u8]) -> Result<()> {
        let at = extent.skip(part.from as u64).take(part.sectors as u64);
        match part.content {
            Content::Same => return Ok(()),
            Content::Data => self.disk.write(at.start(), part.of(old))?,
            Content::Zeros => self.disk.hold_zeros(at, part.of(old))?,
        }
        self.copied = self.copied.saturating_add(at.sectors());
        Ok(())
    }
}
