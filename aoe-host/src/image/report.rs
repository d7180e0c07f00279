//! What formats tell about an image: facts for `info`, findings for `check`.

use core::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::formats::Format;
use super::text::line;
use crate::error::Exit;
use crate::values::human_bytes;

/// Is told bytes done and bytes in all, now and then.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// What the format of an image tells about it, damaged or not.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Size of the disk in it, where that is known.
    pub(crate) disk_bytes: Option<u64>,
    /// Names and values for a person.
    pub(crate) lines: Vec<(&'static str, String)>,
    /// The same for a program: an object.
    pub(crate) json: serde_json::Value,
    /// What is wrong with it.
    pub(crate) problems: Vec<String>,
}

impl Facts {
    /// Adds a line for a person.
    pub(crate) fn line(&mut self, name: &'static str, value: impl Into<String>) {
        self.lines.push((name, value.into()));
    }

    /// Sets what a program is told.
    pub(crate) fn set_json(&mut self, facts: &impl Serialize) {
        // Plain structures of numbers and texts always become values.
        self.json = serde_json::to_value(facts).unwrap_or_default();
    }
}

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
    /// What was repaired before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<String>,
}

impl CheckReport {
    /// Nothing was found yet.
    pub(crate) const fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            data_bytes: 0,
            zero_bytes: 0,
            findings: Vec::new(),
            findings_total: 0,
            damage_total: 0,
            repaired: Vec::new(),
        }
    }

    /// How the process ends when this was the only image.
    pub fn exit(&self) -> Exit {
        if self.damage_total == 0 { Exit::Success } else { Exit::Problems }
    }

    pub(crate) fn found(&mut self, is_damage: bool, text: String) {
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
        for repair in &self.repaired {
            line(f, "  repaired", repair)?;
        }
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
