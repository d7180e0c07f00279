//! `cowblade convert`: a disk in another format, or a chain as one image.

use core::fmt;
use std::path::PathBuf;

use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::chain::{Gate, below_of};
use super::create::refuse_impossible;
use super::disk::{OverlayDisk, PlainDisk, WriteDisk, with_way_out};
use super::pump::{Pumped, pump};
use super::source::{ChainName, Memory, Source, layers_of};
use crate::config;
use crate::error::{HostError, Result};
use crate::image::{
    Below, Format, FormatOptions, ImageFile, ImageName, NewOverlay, Progress, begin_image,
    bytes_text,
};
use crate::storage::{DiskUse, FileKey};

/// What [`convert`] is to do.
#[derive(Clone, Debug)]
pub struct ConvertRequest {
    /// The disk to copy.
    pub source: ChainName,
    /// Whether the names that images record are followed.
    pub gate: Gate,
    /// The image to make; for formats of two files both, as `DATA+METADATA`.
    pub target: PathBuf,
    /// Its format.
    pub format: Format,
    /// What is particular to the format.
    pub options: FormatOptions,
    /// What lies below the new image, which then holds only what differs from it.
    pub backing: Option<ChainName>,
    /// A file of that name is replaced.
    pub replace: bool,
    /// `target` is a block device whose content is given up.
    pub onto_device: bool,
}

impl Default for ConvertRequest {
    fn default() -> Self {
        Self {
            source: ChainName::default(),
            gate: Gate::Closed,
            target: PathBuf::new(),
            format: Format::RAW,
            options: FormatOptions::default(),
            backing: None,
            replace: false,
            onto_device: false,
        }
    }
}

/// What [`convert`] made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Converted {
    /// The image.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// Bytes of the disk that were written; the rest reads as zeros, or as what lies below.
    pub data_bytes: u64,
    /// What the image takes.
    pub file: DiskUse,
    /// The image below.
    pub parent: Option<PathBuf>,
    /// What is legal but should be known, as sentences.
    pub warnings: Vec<String>,
}

impl fmt::Display for Converted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, data) = (bytes_text(self.disk_bytes), bytes_text(self.data_bytes));
        write!(f, "made {} image `{}`, a disk of {size}", self.format, self.path.display())?;
        if let Some(parent) = &self.parent {
            write!(f, " over `{}`", parent.display())?;
        }
        write!(f, "; wrote {data}")?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Copies a disk into a new image. Runs of zeros take no room in it. The image appears under its name
/// whole or not at all; a block device is written in place.
///
/// # Errors
/// A name that is taken; a chain that cannot be read or was changed meanwhile; what the format of the
/// target cannot express; no room.
pub fn convert(request: &ConvertRequest, progress: &mut Progress<'_>) -> Result<Converted> {
    let name = ImageName::new_in(request.format, &request.target);
    let mut memory = Memory::new();
    let mut source = Source::open(&mut memory, &request.source, &request.gate)?;
    let sectors = source.sectors();
    let lower = match &request.backing {
        Some(chain) => layers_of(chain, &request.gate)?,
        None => Vec::new(),
    };
    let below = match lower.first() {
        Some(config::Layer::File { path, window }) => below_of(path, *window)?,
        _ => Below::blank(sectors),
    };
    let new = NewOverlay {
        format: request.format,
        sectors,
        options: &request.options,
        direct: false,
        onto_device: request.onto_device,
        replace: request.replace,
        log: None,
    };
    refuse_impossible(&name, &below, &new)?;
    refuse_overlap(&name, &source, &below)?;
    let image = begin_image(&name, &below, &new)?;
    let target = Target { name: &name, file: image.file.clone(), format: request.format };
    let filled = if below.is_blank() {
        target.fill(&mut source, None, sectors, progress)
    } else {
        target.fill(&mut source, Some(&lower), sectors, progress)
    };
    let left = if request.onto_device {
        "the device now holds a part"
    } else {
        "make room and try again; nothing was left behind"
    };
    let pumped = filled.map_err(|error| with_way_out(image.told(error), &name.path, left))?;
    let file = image.file.clone();
    image.finish(&new)?;
    Ok(Converted {
        format: request.format,
        disk_bytes: sectors.saturating_mul(SECTOR_BYTES),
        data_bytes: pumped.data.saturating_mul(SECTOR_BYTES),
        file: file.disk_use()?,
        parent: below.path,
        warnings: source.warnings().to_vec(),
        path: name.path,
    })
}

/// The new image, still without its name.
struct Target<'a> {
    name: &'a ImageName,
    file: ImageFile,
    format: Format,
}

impl Target<'_> {
    /// Fills it; everything is durable afterwards.
    fn fill(
        self,
        source: &mut Source<'_>,
        lower: Option<&[config::Layer]>,
        sectors: u64,
        progress: &mut Progress<'_>,
    ) -> Result<Pumped> {
        if self.format.ops().is_plain() {
            let mut disk = PlainDisk::new(self.file.main)?;
            let pumped = pump(source, None, &mut disk, progress)?;
            disk.make_durable()?;
            return Ok(pumped);
        }
        let blank = [config::Layer::Blank { len_bytes: sectors.saturating_mul(SECTOR_BYTES) }];
        let (mut memory, mut below_memory) = (Memory::new(), Memory::new());
        let mut below = match lower {
            Some(lower) => Some(Source::of_layers(&mut below_memory, lower, None)?),
            None => None,
        };
        let image = (self.name, self.file, self.format);
        let mut disk = OverlayDisk::open(&mut memory, image, lower.unwrap_or(&blank))?;
        let pumped = pump(source, below.as_mut(), &mut disk, progress)?;
        disk.close()?;
        Ok(pumped)
    }
}

/// A chain must not be replaced by its own copy: others may need its images.
fn refuse_overlap(name: &ImageName, source: &Source<'_>, below: &Below) -> Result<()> {
    let used = source.keys()?;
    for path in core::iter::once(&name.path).chain(&name.metadata) {
        let key = FileKey::of(path);
        if key.is_some_and(|key| used.contains(&key) || below.files.contains(&key)) {
            let error = HostError::usage("write the image", "it is one of those that are read");
            return Err(error.path(path).advice("name another file"));
        }
    }
    Ok(())
}
