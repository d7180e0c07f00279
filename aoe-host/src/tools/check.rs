//! `cowblade check`: reads all metadata, and changes nothing unless it is told to repair.

use std::path::Path;

use super::chain::{Gate, parents};
use super::info::info_of_chain;
use super::source::ChainName;
use crate::config::Layer;
use crate::error::Result;
use crate::image::{
    CheckReport, ImageFile, ImageName, Progress, Repeats, merging_words, overlay_options,
    refuse_merging, repeat_into,
};
use crate::storage::{FileOptions, LockMode};

/// Checks an image. With [`Gate::Open`] also whether what lies below is what was recorded.
///
/// # Errors
/// The file cannot be opened or read, or somebody is writing it. Everything that is wrong with its
/// content is in the report.
pub fn check(
    path: impl AsRef<Path>,
    gate: &Gate,
    progress: &mut Progress<'_>,
) -> Result<CheckReport> {
    let name = ImageName::parse(path);
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let (file, format, doubt) = name.look(&options)?;
    let mut report = CheckReport::new(name.path, format);
    format.ops().check(&file, &mut report, progress)?;
    if let Some(doubt) = doubt {
        report.found(true, doubt.to_string());
    }
    if let Some(merging) = merging_words(&file)? {
        report.found(true, merging);
    }
    check_parents(&file, &mut report, gate)?;
    Ok(report)
}

/// Checks every image that a chain names, and whether each is what the one above it was made over. With
/// `repairs` the top is repaired; the others stay as they are, for what lies on them knows them so.
///
/// # Errors
/// As [`check`] and [`repair`].
pub fn check_chain(
    chain: &ChainName,
    gate: &Gate,
    repairs: bool,
    progress: &mut Progress<'_>,
) -> Result<Vec<CheckReport>> {
    let mut reports: Vec<CheckReport> = Vec::new();
    for layer in chain.layers() {
        let Layer::File { path, .. } = layer else { continue };
        let look = if repairs && reports.is_empty() { repair } else { check };
        // What the last one names is followed; what the others name was replaced.
        let is_last = reports.len() + 1 == chain.layers().len();
        reports.push(look(path, if is_last { gate } else { &Gate::Closed }, progress)?);
    }
    if let (Some(report), [_, ..]) = (reports.first_mut(), chain.lower()) {
        for parent in info_of_chain(chain, gate)?.parents.iter().filter(|parent| parent.is_wrong())
        {
            report.found(true, format!("below it: {parent}"));
        }
    }
    Ok(reports)
}

/// Repairs what can be repaired without losing data, and checks what came of it: what a killed server
/// left in a commit log beside an overlay is entered into it. What was repaired is in the report; the
/// findings are those that are left.
///
/// # Errors
/// As [`check`]; somebody has the image open, or its commit log; a part of that is missing; writing
/// failed, after which a second try goes on.
pub fn repair(
    path: impl AsRef<Path>,
    gate: &Gate,
    progress: &mut Progress<'_>,
) -> Result<CheckReport> {
    let name = ImageName::parse(path);
    let repeated = repeat_into(&name.path)?.map(told_repeats).transpose()?;
    let (mut file, format) = name.open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let mut report = CheckReport::new(name.path, format);
    report.repaired.extend(repeated);
    format.ops().repair(&mut file, &mut report, progress)?;
    file.sync_data()?;
    format.ops().check(&file, &mut report, progress)?;
    check_parents(&file, &mut report, gate)?;
    Ok(report)
}

/// What became of the commit log of an overlay.
fn told_repeats(repeats: Repeats) -> Result<String> {
    if let Some(failed) = repeats.failed.into_iter().next() {
        return Err(failed);
    }
    let changes: usize = repeats.entered.iter().map(|repeated| repeated.changes).sum();
    let log = if repeats.removed.is_empty() {
        "kept: other overlays may need it"
    } else {
        "removed: nobody else needs it"
    };
    Ok(format!("{changes} changes entered from its commit log, which is {log}"))
}

fn check_parents(file: &ImageFile, report: &mut CheckReport, gate: &Gate) -> Result<()> {
    // Headers and bindings that cannot be read are among the findings already.
    let Ok(recorded) = report.format.ops().parent(file) else { return Ok(()) };
    for parent in parents(file, recorded, gate)?.0.iter().filter(|parent| parent.is_wrong()) {
        report.found(true, format!("below it: {parent}"));
    }
    Ok(())
}
