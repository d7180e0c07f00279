//! `cowblade check`: reads all metadata, changes nothing.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::format::{IndexEntry, dm_snapshot, native};
use cow_core::storage::ReadStorage;
use cow_core::units::{MAX_SECTORS, SECTOR_BYTES};
use serde::Serialize;

use super::chain::{Gate, ParentState, Recorded, parents};
use super::info::LIST_PIECE_LEN;
use super::progress::Progress;
use super::text::line;
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::image::{Format, ImageName, Sparse, scratch_page};
use crate::storage::{FileOptions, FileStorage, LockMode, StorageError};
use crate::values::human_bytes;

/// Findings of one image that are kept; more are only counted.
const FINDINGS_MAX: usize = 1000;

/// Something that was found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Data are lost or cannot be trusted; otherwise a power cut or a kill explains it, and it
    /// repairs itself.
    pub is_damage: bool,
    /// What.
    pub text: String,
}

/// What a check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CheckReport {
    /// The image.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes that the image holds itself.
    pub data_bytes: u64,
    /// Bytes that it makes zeros.
    pub zero_bytes: u64,
    /// The first findings.
    pub findings: Vec<Finding>,
    /// All of them.
    pub findings_total: u64,
    /// Those of them that are damage.
    pub damage_total: u64,
}

impl CheckReport {
    /// How the process ends when this was the only image.
    pub fn exit(&self) -> Exit {
        if self.damage_total == 0 { Exit::Success } else { Exit::Problems }
    }

    fn found(&mut self, is_damage: bool, text: String) {
        self.findings_total += 1;
        self.damage_total += u64::from(is_damage);
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { is_damage, text });
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.findings_total, self.damage_total) {
            (0, _) => "clean".to_owned(),
            (notes, 0) => format!("good ({notes} remarks)"),
            (_, damage) => format!("DAMAGED ({damage} findings)"),
        };
        let (data, zero) = (human_bytes(self.data_bytes), human_bytes(self.zero_bytes));
        writeln!(
            f,
            "{}: {verdict}, {}: {data} of data, {zero} of zeros",
            self.path.display(),
            self.format
        )?;
        for finding in &self.findings {
            line(f, if finding.is_damage { "  damage" } else { "  remark" }, &finding.text)?;
        }
        let hidden = self.findings_total.saturating_sub(self.findings.len() as u64);
        if hidden > 0 {
            writeln!(f, "  and {hidden} more")?;
        }
        Ok(())
    }
}

/// Checks an image. With [`Gate::Open`] also whether what lies below is what was recorded.
///
/// # Errors
/// The file cannot be opened or read, or somebody is writing it. Everything that is wrong with its
/// content is in the report.
pub fn check(
    path: impl AsRef<Path>,
    gate: Gate,
    progress: &mut Progress<'_>,
) -> Result<CheckReport> {
    let name = ImageName::parse(path);
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let file = FileStorage::open(&name.path, &options)?;
    let format = name.format_of(&file)?;
    let mut report = CheckReport {
        path: name.path,
        format,
        data_bytes: 0,
        zero_bytes: 0,
        findings: Vec::new(),
        findings_total: 0,
        damage_total: 0,
    };
    match format {
        Format::Raw => {
            report.data_bytes = file.len_bytes()?;
            if report.data_bytes == 0 {
                report.found(true, "the file is empty".to_owned());
            }
            return Ok(report);
        }
        Format::Native => check_native(&file, &mut report, progress)?,
        Format::DmSnapshot => check_dm(&file, &mut report)?,
    }
    check_parents(&file, &mut report, gate)?;
    Ok(report)
}

/// Sparse reading that tells how far it is.
struct Told<'a> {
    file: Sparse<'a>,
    total: u64,
    last: Cell<u64>,
    progress: RefCell<&'a mut Progress<'a>>,
}

/// Bytes between two messages.
const TELL_EVERY: u64 = 1 << 20;

impl embedded_io::ErrorType for Told<'_> {
    type Error = StorageError;
}

impl ReadStorage for Told<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> core::result::Result<(), StorageError> {
        if offset >= self.last.get().saturating_add(TELL_EVERY) {
            self.last.set(offset);
            (self.progress.borrow_mut())(offset.min(self.total), self.total);
        }
        self.file.read_at(offset, buf)
    }

    fn len_bytes(&self) -> core::result::Result<u64, StorageError> {
        self.file.len_bytes()
    }
}

fn check_native(
    file: &FileStorage,
    report: &mut CheckReport,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let opened = native::open(file, &mut scratch_page());
    let total = opened.map_or(0, |opened| opened.geometry().data_offset());
    let told = Told {
        file: Sparse::new(file),
        total,
        last: Cell::new(0),
        progress: RefCell::new(progress),
    };
    let counted = native::check(&told, &mut scratch_page(), &mut |finding| {
        report.found(finding.is_damage(), finding.to_string());
    });
    match counted {
        Ok(counts) => {
            report.data_bytes = counts.data.saturating_mul(SECTOR_BYTES);
            report.zero_bytes = counts.zero.saturating_mul(SECTOR_BYTES);
        }
        Err(
            native::CheckError::Storage { error, .. }
            | native::CheckError::Open(native::OpenError::Storage(error)),
        ) => return Err(error.into()),
        Err(damage) => report.found(true, damage.to_string()),
    }
    Ok(())
}

fn check_dm(file: &FileStorage, report: &mut CheckReport) -> Result<()> {
    let mut piece = vec![0; LIST_PIECE_LEN];
    let sectors = match Recorded::of(file, Format::DmSnapshot) {
        Ok(recorded) => recorded.and_then(|r| r.disk_sectors()).unwrap_or_else(|| {
            let text = "its origin is not known: the sizes of the two were not compared";
            report.found(false, text.to_owned());
            MAX_SECTORS
        }),
        Err(error) => {
            report.found(true, error.to_string());
            MAX_SECTORS
        }
    };
    // Without memory a first reading only tells how much the second needs.
    let asked = dm_snapshot::check(file, sectors, &mut [], &mut piece, |_fault| {});
    let needed = match asked {
        Err(dm_snapshot::CheckError::IndexTooSmall { needed }) => needed,
        _ => 0,
    };
    let entries = usize::try_from(needed).map_err(|_too_many| {
        HostError::new(ErrorKind::Full, "check the dm-snapshot store").path(file.path())
    })?;
    let mut index = vec![IndexEntry::EMPTY; entries];
    let checked = dm_snapshot::check(file, sectors, &mut index, &mut piece, |fault| {
        report.found(!fault.is_harmless(), fault.to_string());
    });
    match checked {
        Err(dm_snapshot::CheckError::Storage(error)) => return Err(error.into()),
        Err(damage) => report.found(true, damage.to_string()),
        Ok(counts) => {
            report.data_bytes = counts.exceptions.saturating_mul(counts.geometry.chunk_bytes());
        }
    }
    Ok(())
}

fn check_parents(file: &FileStorage, report: &mut CheckReport, gate: Gate) -> Result<()> {
    // Headers and bindings that cannot be read are among the findings already.
    let Ok(recorded) = Recorded::of(file, report.format) else { return Ok(()) };
    for parent in parents(file, recorded, gate)?.0 {
        match &parent.state {
            ParentState::Unusable(_) | ParentState::Different(_) => {
                report.found(true, format!("below it: {parent}"));
            }
            ParentState::Unknown | ParentState::AsRecorded => {}
        }
    }
    Ok(())
}
