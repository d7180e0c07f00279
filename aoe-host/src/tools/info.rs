//! `cowblade info`: what a file is, damaged or not.

use core::fmt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::chain::{Gate, ParentReport, named_parents, parents};
use super::source::ChainName;
use crate::error::{HostError, Result};
use crate::image::{Facts, Format, ImageName, Recorded, bytes_text, line, merging_words};
use crate::storage::{DiskUse, FileOptions, FileStorage};
use crate::values::human_bytes;

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
    /// More that its format tells, under the word of the format with `_` for `-`; nothing for raw
    /// images, and where too little is left of an image.
    #[serde(flatten)]
    pub facts: BTreeMap<String, serde_json::Value>,
    /// The same for a person: names and values.
    #[serde(skip)]
    pub lines: Vec<(&'static str, String)>,
    /// What lies below, from upper to base.
    pub parents: Vec<ParentReport>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// Looks at a file and changes nothing. Damage is told in the report; it is no error.
///
/// # Errors
/// The file cannot be opened or read.
pub fn info(path: impl AsRef<Path>, gate: &Gate) -> Result<Info> {
    info_of_chain(&path.as_ref().to_owned().into(), gate)
}

/// Looks at the top of a chain, and at what was named below it in place of what it records. Changes
/// nothing.
///
/// # Errors
/// As [`info`].
pub fn info_of_chain(chain: &ChainName, gate: &Gate) -> Result<Info> {
    let top =
        chain.top().ok_or_else(|| HostError::usage("look at it", "blank:SIZE is no image"))?;
    let name = ImageName::parse(top);
    let (file, format, doubt) = name.look(&FileOptions::default())?;
    let mut facts = Facts::default();
    format.ops().describe(&file, &mut facts)?;
    let mut info = Info {
        format,
        is_device: file.main.is_device(),
        file: file.disk_use()?,
        disk_bytes: facts.disk_bytes,
        writer: file.files().find_map(FileStorage::writer),
        facts: BTreeMap::new(),
        lines: facts.lines,
        parents: Vec::new(),
        problems: facts.problems,
        path: name.path,
    };
    if !facts.json.is_null() {
        info.facts.insert(format.word().replace('-', "_"), facts.json);
    }
    info.problems.extend(doubt.map(|doubt| doubt.to_string()));
    info.problems.extend(merging_words(&file)?);
    match format.ops().parent(&file) {
        Ok(recorded) => {
            // Of a format that does not say it, the disk is as large as what lies below.
            let below = recorded.as_ref().and_then(Recorded::disk_sectors);
            let below = below.map(|n| n.saturating_mul(SECTOR_BYTES));
            info.disk_bytes = info.disk_bytes.or(below);
            info.parents = match chain.lower() {
                [] => parents(&file, recorded, gate)?.0,
                lower => named_parents(&file, recorded, lower, gate)?,
            };
        }
        Err(error) => {
            let error = error.to_string();
            // A header that cannot be read is among the problems already.
            if !info.problems.iter().any(|problem| error.contains(problem)) {
                info.problems.push(error);
            }
        }
    }
    Ok(info)
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_device { "block device" } else { "file" };
        line(f, "image", &format!("{} ({} {what})", self.path.display(), self.format))?;
        if let Some(len) = self.disk_bytes {
            line(f, "disk", &bytes_text(len))?;
        }
        let (apparent, allocated) = (self.file.apparent_bytes, self.file.allocated_bytes);
        let takes = format!("{}, of {} apparent", bytes_text(allocated), human_bytes(apparent));
        line(f, "takes", &takes)?;
        for (name, value) in &self.lines {
            line(f, name, value)?;
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
