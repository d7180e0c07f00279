//! `cowblade info`: what a file is, damaged or not.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::format::dm_snapshot::{self, Fault};
use cow_core::format::native::{self, Mode};
use cow_core::storage::ReadStorage;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::chain::{Gate, ParentReport, Recorded, parents};
use super::text::{self, line};
use crate::error::Result;
use crate::image::{Format, ImageName, scratch_page};
use crate::storage::{DiskUse, FileOptions, FileStorage};
use crate::values::human_bytes;

/// Bytes read at a time from a store's list of exceptions.
pub(super) const LIST_PIECE_LEN: usize = 64 << 10;

/// What a file is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// It is a block device.
    pub is_device: bool,
    /// Its length, and what of it takes room.
    pub file: DiskUse,
    /// Size of the disk in it, where that is known.
    pub disk_bytes: Option<u64>,
    /// Who is writing it at this moment.
    pub writer: Option<String>,
    /// More about a native overlay.
    pub native: Option<NativeInfo>,
    /// More about a dm-snapshot store.
    pub dm_snapshot: Option<DmSnapshotInfo>,
    /// What lies below, from upper to base.
    pub parents: Vec<ParentReport>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// The header of a native overlay.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NativeInfo {
    /// It is a layer for others and takes no writes.
    pub is_frozen: bool,
    /// Identity of the layer.
    pub layer_id: String,
    /// The name in it.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub created_s: i64,
    /// The last process that wrote it came to an orderly end.
    pub is_clean: bool,
    /// Bytes of its own, where the last orderly end counted them.
    pub data_bytes: Option<u64>,
    /// How often it was emptied, plus 1.
    pub epoch: u64,
    /// How often it was opened and written.
    pub session: u64,
}

/// The header and the list of a dm-snapshot store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DmSnapshotInfo {
    /// Bytes in a chunk.
    pub chunk_bytes: u64,
    /// Chunks of the disk that it holds.
    pub exceptions: u64,
    /// Sectors in use, as `dmsetup status` shows them.
    pub allocated_sectors: u64,
    /// All sectors.
    pub total_sectors: u64,
    /// Of those in use, sectors for the header and the list.
    pub metadata_sectors: u64,
    /// The kernel has not marked it invalid.
    pub is_valid: bool,
}

/// Looks at a file and changes nothing. Damage is told in the report; it is no error.
///
/// # Errors
/// The file cannot be opened or read.
pub fn info(path: impl AsRef<Path>, gate: Gate) -> Result<Info> {
    let name = ImageName::parse(path);
    let file = FileStorage::open(&name.path, &FileOptions::default())?;
    let format = name.format_of(&file)?;
    let mut info = Info {
        format,
        is_device: file.is_device(),
        file: file.disk_use()?,
        disk_bytes: None,
        writer: file.writer(),
        native: None,
        dm_snapshot: None,
        parents: Vec::new(),
        problems: Vec::new(),
        path: name.path,
    };
    match format {
        Format::Raw => info.look_at_raw(&file)?,
        Format::Native => info.look_at_native(&file, gate)?,
        Format::DmSnapshot => info.look_at_dm(&file, gate)?,
    }
    Ok(info)
}

impl Info {
    fn look_at_raw(&mut self, file: &FileStorage) -> Result<()> {
        let len = file.len_bytes()?;
        self.disk_bytes = Some(len.next_multiple_of(SECTOR_BYTES));
        if len == 0 {
            self.problems.push("the file is empty".to_owned());
        }
        Ok(())
    }

    fn look_at_native(&mut self, file: &FileStorage, gate: Gate) -> Result<()> {
        let opened = match native::open(file, &mut scratch_page()) {
            Ok(opened) => opened,
            Err(native::OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => {
                self.problems.push(damage.to_string());
                return Ok(());
            }
        };
        let header = opened.header();
        self.disk_bytes = Some(opened.geometry().sectors().saturating_mul(SECTOR_BYTES));
        self.native = Some(NativeInfo {
            is_frozen: header.mode == Mode::Frozen,
            layer_id: header.layer_id.to_string(),
            label: String::from_utf8_lossy(&header.label).into_owned(),
            created_s: header.created_s,
            is_clean: header.clean,
            data_bytes: header.data_sectors.map(|n| n.saturating_mul(SECTOR_BYTES)),
            epoch: header.epoch,
            session: header.session,
        });
        self.look_below(file, Recorded::of_native(header), gate)
    }

    fn look_at_dm(&mut self, file: &FileStorage, gate: Gate) -> Result<()> {
        let mut piece = vec![0; LIST_PIECE_LEN];
        // The disk's size is not in the store; the largest lets every exception pass.
        match dm_snapshot::open_even_invalidated(file, MAX_SECTORS, &mut piece) {
            Ok(opened) => {
                let usage = opened.usage();
                self.dm_snapshot = Some(DmSnapshotInfo {
                    chunk_bytes: opened.geometry().chunk_bytes(),
                    exceptions: opened.exceptions(),
                    allocated_sectors: usage.allocated,
                    total_sectors: usage.total,
                    metadata_sectors: usage.metadata,
                    is_valid: !opened.is_invalidated(),
                });
                if opened.is_invalidated() {
                    self.problems.push(Fault::Invalidated.to_string());
                }
            }
            Err(dm_snapshot::OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => self.problems.push(damage.to_string()),
        }
        match Recorded::of(file, Format::DmSnapshot) {
            Ok(recorded) => self.look_below(file, recorded, gate),
            Err(error) => {
                self.problems.push(error.to_string());
                Ok(())
            }
        }
    }

    fn look_below(
        &mut self,
        file: &FileStorage,
        recorded: Option<Recorded>,
        gate: Gate,
    ) -> Result<()> {
        let below = recorded.as_ref().and_then(Recorded::disk_sectors);
        // A store's disk is as large as what it lies on.
        self.disk_bytes = self.disk_bytes.or(below.map(|n| n.saturating_mul(SECTOR_BYTES)));
        self.parents = parents(file, recorded, gate)?.0;
        Ok(())
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_device { "block device" } else { "file" };
        line(f, "image", &format!("{} ({} {what})", self.path.display(), self.format))?;
        if let Some(len) = self.disk_bytes {
            line(f, "disk", &text::bytes(len))?;
        }
        let (apparent, allocated) = (self.file.apparent_bytes, self.file.allocated_bytes);
        let takes = format!("{}, of {} apparent", text::bytes(allocated), human_bytes(apparent));
        line(f, "takes", &takes)?;
        if let Some(native) = &self.native {
            native.print(f)?;
        }
        if let Some(store) = &self.dm_snapshot {
            store.print(f)?;
        }
        for (depth, parent) in self.parents.iter().enumerate() {
            line(f, if depth == 0 { "over" } else { "and that" }, &parent.to_string())?;
        }
        if let Some(writer) = &self.writer {
            line(f, "in use by", writer)?;
        }
        for problem in &self.problems {
            line(f, "problem", problem)?;
        }
        Ok(())
    }
}

impl NativeInfo {
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.is_frozen { "frozen: a layer for others" } else { "writable" };
        line(f, "mode", mode)?;
        if !self.label.is_empty() {
            line(f, "label", &self.label)?;
        }
        line(f, "identity", &self.layer_id)?;
        line(f, "created", &text::moment(self.created_s))?;
        match self.data_bytes {
            Some(data) => line(f, "holds", &text::bytes(data))?,
            None => line(f, "holds", "not counted yet")?,
        }
        if !self.is_clean {
            line(f, "state", "in use, or its last user was killed; nothing is lost by that")?;
        }
        Ok(())
    }
}

impl DmSnapshotInfo {
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "chunks", &format!("{} of {}", self.exceptions, human_bytes(self.chunk_bytes)))?;
        let (used, all, metadata) =
            (self.allocated_sectors, self.total_sectors, self.metadata_sectors);
        line(f, "sectors", &format!("{used}/{all} {metadata}, as dmsetup counts"))
    }
}
