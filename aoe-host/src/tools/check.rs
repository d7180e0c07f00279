//! `cowblade check`: reads all metadata, and changes nothing unless it is told to repair.

use std::path::Path;

use super::chain::{Gate, parents};
use super::info::info_of_chain;
use super::source::ChainName;
use crate::config::Layer;
use crate::error::Result;
use crate::image::{
    CheckReport, ImageFile, ImageName, Progress, Repeats, go_on_without, merging_words,
    overlay_options, refuse_merging, repeat_into,
};
use crate::storage::{FileOptions, LockMode};

/// What [`check_chain`] repairs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repairs {
    /// Nothing.
    None,
    /// As [`repair`] does.
    Lossless,
    /// As [`repair_without_log`] does.
    LogLost,
}

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
/// repairs the top is repaired; the others stay as they are, for what lies on them knows them so.
///
/// # Errors
/// As [`check`] and [`repair`].
pub fn check_chain(
    chain: &ChainName,
    gate: &Gate,
    repairs: Repairs,
    progress: &mut Progress<'_>,
) -> Result<Vec<CheckReport>> {
    let mut reports: Vec<CheckReport> = Vec::new();
    for layer in chain.layers() {
        let Layer::File { path, .. } = layer else { continue };
        // What the last one names is followed; what the others name was replaced.
        let is_last = reports.len() + 1 == chain.layers().len();
        let gate = if is_last { gate } else { &Gate::Closed };
        reports.push(match repairs {
            Repairs::Lossless if reports.is_empty() => repair(path, gate, progress)?,
            Repairs::LogLost if reports.is_empty() => repair_without_log(path, gate, progress)?,
            _ => check(path, gate, progress)?,
        });
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
    let repeated = repeat_into(&name.path)?.map_or(Ok(None), told_repeats)?;
    mend(name, repeated, gate, progress)
}

/// As [`repair`], of an overlay whose commit log is lost: it goes on without, and what was acknowledged
/// in its last seconds may be lost.
///
/// # Errors
/// As [`repair`]; [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the log is there.
pub fn repair_without_log(
    path: impl AsRef<Path>,
    gate: &Gate,
    progress: &mut Progress<'_>,
) -> Result<CheckReport> {
    let name = ImageName::parse(path);
    let ended = go_on_without(&name.path)?.map_or(Ok(None), told_repeats)?;
    let words =
        "it goes on without its commit log: what was acknowledged in its last seconds may be lost";
    mend(name, ended.map(|_entered| words.to_owned()), gate, progress)
}

/// Repairs what has nothing to do with commit logs, and checks.
fn mend(
    name: ImageName,
    repaired: Option<String>,
    gate: &Gate,
    progress: &mut Progress<'_>,
) -> Result<CheckReport> {
    let (mut file, format) = name.open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let mut report = CheckReport::new(name.path, format);
    report.repaired.extend(repaired);
    format.ops().repair(&mut file, &mut report, progress)?;
    file.sync_data()?;
    format.ops().check(&file, &mut report, progress)?;
    check_parents(&file, &mut report, gate)?;
    Ok(report)
}

/// What became of the commit log of an overlay; `None` if somebody else was faster.
///
/// # Errors
/// What kept the changes from the overlay. A file of the log that stays is no failure.
fn told_repeats(repeats: Repeats) -> Result<Option<String>> {
    let Some(entered) = repeats.entered.first() else {
        return repeats.failed.into_iter().next().map_or(Ok(None), Err);
    };
    let log = match repeats.failed.first() {
        Some(failed) => format!("kept: {failed}"),
        None if repeats.removed.is_empty() => "kept: other overlays may need it".to_owned(),
        None => "removed: no overlay in this directory needs it".to_owned(),
    };
    let changes = entered.changes;
    Ok(Some(format!("{changes} changes entered from its commit log, which is {log}")))
}

fn check_parents(file: &ImageFile, report: &mut CheckReport, gate: &Gate) -> Result<()> {
    // Headers and bindings that cannot be read are among the findings already.
    let Ok(recorded) = report.format.ops().parent(file) else { return Ok(()) };
    for parent in parents(file, recorded, gate)?.0.iter().filter(|parent| parent.is_wrong()) {
        report.found(true, format!("below it: {parent}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, HostError};
    use crate::image::Repeated;

    #[test]
    fn a_log_that_cannot_be_removed_is_no_failure_of_the_overlay() {
        let failed = || {
            let denied = HostError::new(ErrorKind::PermissionDenied, "remove the commit log");
            vec![denied.path("x-0.cowlog")]
        };
        let entered = vec![Repeated { path: "a.cow".into(), changes: 3 }];
        let repeats = Repeats { entered, failed: failed(), ..Repeats::default() };
        let told = told_repeats(repeats).unwrap().unwrap();
        assert!(told.starts_with("3 changes entered"), "{told}");
        assert!(told.contains("kept: cannot remove the commit log `x-0.cowlog`"), "{told}");
        let repeats = Repeats { failed: failed(), ..Repeats::default() };
        assert_eq!(told_repeats(repeats).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(told_repeats(Repeats::default()).unwrap().is_none());
    }
}
