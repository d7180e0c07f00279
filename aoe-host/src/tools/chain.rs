//! What lies below an image: what it recorded, and what is there now.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::engine::MAX_LAYERS;
use cow_core::identity::{ParentIdentity, ParentMismatch};
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use crate::config::{Layer, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Format, ImageFile, ImageName, Known, Recorded, detect, merging_words, mismatch_words,
    part_of, refuse_merging,
};
use crate::storage::{FileKey, FileOptions};

/// Whether paths that an image names are followed. They are opened for reading only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Gate {
    /// No: an image from a stranger decides nothing.
    #[default]
    Closed,
    /// To files beside the image that names them, or below one of these directories. Symbolic
    /// links count as what they lead to.
    Within(Vec<PathBuf>),
    /// Anywhere.
    Open,
}

impl Gate {
    /// Where what the image at `child` names really is, if that may be opened.
    fn admit(
        &self,
        child: &Path,
        name: &ImageName,
    ) -> core::result::Result<ImageName, ParentState> {
        name.map(|path| self.admit_file(child, path))
    }

    fn admit_file(&self, child: &Path, path: &Path) -> core::result::Result<PathBuf, ParentState> {
        let directories = match self {
            Self::Closed => return Err(ParentState::Unknown),
            Self::Open => return Ok(path.to_owned()),
            Self::Within(directories) => directories,
        };
        let real = std::fs::canonicalize(path)
            .map_err(|e| ParentState::Unusable(format!("it cannot be found: {e}")))?;
        let beside = match child.parent() {
            Some(directory) if directory.as_os_str().is_empty() => Some(Path::new(".")),
            other => other,
        };
        let is_beside = beside
            .and_then(|directory| std::fs::canonicalize(directory).ok())
            .is_some_and(|directory| real.parent() == Some(directory.as_path()));
        let is_below = |directory: &PathBuf| {
            std::fs::canonicalize(directory).is_ok_and(|directory| real.starts_with(directory))
        };
        if is_beside || directories.iter().any(is_below) {
            Ok(real)
        } else {
            Err(ParentState::Elsewhere)
        }
    }
}

/// A parent as an image names it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ParentReport {
    /// Where it was, if that was recorded.
    pub path: Option<PathBuf>,
    /// How it is now.
    #[serde(flatten)]
    pub state: ParentState,
    /// Its format, where it was looked at.
    pub format: Option<Format>,
}

/// What is known of a parent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "kebab-case")]
pub enum ParentState {
    /// It was not looked at: the gate is closed, or no path is known.
    Unknown,
    /// It was not looked at: it is in a directory in which nothing may be followed to.
    Elsewhere,
    /// It is the one that was recorded.
    AsRecorded,
    /// It is there; nothing was recorded by which it could be recognised.
    Unverified,
    /// It cannot be opened.
    Unusable(String),
    /// It is another, or was changed.
    Different(String),
}

impl fmt::Display for ParentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("(path not recorded)")?,
        }
        if let Some(format) = self.format {
            write!(f, " [{format}]")?;
        }
        match &self.state {
            ParentState::Unknown => Ok(()),
            ParentState::Elsewhere => {
                f.write_str(": not looked at; name its directory with --follow")
            }
            ParentState::AsRecorded => f.write_str(": as recorded"),
            ParentState::Unverified => f.write_str(": there, but nothing to recognise it by"),
            ParentState::Unusable(why) | ParentState::Different(why) => write!(f, ": {why}"),
        }
    }
}

impl ParentReport {
    /// It may be read as what lies below.
    pub(crate) fn is_usable(&self) -> bool {
        matches!(self.state, ParentState::AsRecorded | ParentState::Unverified)
    }

    /// It is known to be wrong.
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self.state, ParentState::Unusable(_) | ParentState::Different(_))
    }
}

/// As a layer of a chain; its format is forced, so that it is not guessed a second time.
fn layer(recorded: &Recorded, name: &ImageName, format: Format) -> Layer {
    let name = ImageName { forced: Some(format), ..name.clone() };
    Layer::File { path: name.spelt(), window: recorded.config_window() }
}

/// What a single image would be as a parent, without anything below it.
pub(super) fn below_of(path: &Path, window: Window) -> Result<Below> {
    let name = ImageName::parse(path);
    let (file, format) = name.open(&FileOptions { window, ..FileOptions::default() })?;
    refuse_merging(&file)?;
    below_of_open(&name, &file, format)
}

/// As [`below_of`], of an image that is open already; the part of it that is used is that of its file.
pub(super) fn below_of_open(name: &ImageName, file: &ImageFile, format: Format) -> Result<Below> {
    let refused = |kind, detail: &str| {
        HostError::new(kind, "use the image as parent").path(&name.path).detail(detail)
    };
    format.ops().check_as_parent(file)?;
    let parent = format.candidate(file)?;
    let len = match parent.size_bytes {
        Some(0) => return Err(refused(ErrorKind::Usage, "it is empty")),
        Some(len) => len,
        None => {
            let detail = "nothing says how large its origin is";
            return Err(refused(ErrorKind::Unsupported, detail)
                .advice("serve it once over its origin, which writes that down"));
        }
    };
    Ok(Below {
        parent,
        window: part_of(&file.main)?,
        files: file.keys()?,
        path: name.hint(),
        format: Some(format),
        misleads: name.misleads(&file.main),
        sectors: len.div_ceil(SECTOR_BYTES),
    })
}

/// Every parent from an image down, and the layers for [`open_backing`](crate::image::open_backing)
/// as far as all are usable.
pub(crate) fn parents(
    file: &ImageFile,
    recorded: Option<Recorded>,
    gate: &Gate,
) -> Result<(Vec<ParentReport>, Vec<Layer>)> {
    let (mut reports, mut layers) = (Vec::new(), Vec::new());
    let mut seen = file.keys()?;
    let mut next = recorded;
    let mut child = file.path().to_owned();
    while let Some(recorded) = next.take() {
        if reports.len() >= MAX_LAYERS {
            let state = ParentState::Unusable(format!("more than {MAX_LAYERS} layers"));
            reports.push(ParentReport { path: recorded.path, state, format: None });
            break;
        }
        let admitted = match &recorded.path {
            Some(path) => gate.admit(&child, &ImageName::remembered(path, Path::new(""))),
            None => Err(ParentState::Unknown),
        };
        let name = match admitted {
            Ok(name) => name,
            Err(state) => {
                reports.push(ParentReport { path: recorded.path, state, format: recorded.format });
                break;
            }
        };
        let (report, below) = match look(&name, &recorded, &mut seen) {
            Ok(looked) => looked,
            Err(error) => {
                let state = ParentState::Unusable(error.to_string());
                (ParentReport { path: Some(name.spelt()), state, format: None }, None)
            }
        };
        if let (true, Some(format)) = (report.is_usable(), report.format) {
            layers.push(layer(&recorded, &name, format));
            next = below;
        }
        child = name.path;
        reports.push(report);
    }
    Ok((reports, layers))
}

/// As [`parents`], of images that were named: what each is to the one above it. Those that the last one
/// records follow.
pub(super) fn named_parents(
    file: &ImageFile,
    recorded: Option<Recorded>,
    lower: &[Layer],
    gate: &Gate,
) -> Result<Vec<ParentReport>> {
    let (mut reports, mut last) = (Vec::new(), None);
    let mut seen = file.keys()?;
    let mut above = recorded;
    for layer in lower {
        let Layer::File { path, .. } = layer else { return Ok(reports) };
        let name = ImageName::parse(path);
        let looked = match &above {
            Some(recorded) => look(&name, recorded, &mut seen),
            None => look_unknown(&name),
        };
        match looked {
            Ok((report, next)) => {
                reports.push(report);
                above = next;
            }
            Err(error) => {
                let state = ParentState::Unusable(error.to_string());
                let format = name.forced;
                reports.push(ParentReport { path: Some(name.spelt()), state, format });
                return Ok(reports);
            }
        }
        last = Some(name);
    }
    if let (Some(name), Some(_)) = (last, &above) {
        let (file, _) = name.open(&FileOptions::default())?;
        reports.extend(parents(&file, above, gate)?.0);
    }
    Ok(reports)
}

/// Looks at an image of which the one above records nothing.
fn look_unknown(name: &ImageName) -> Result<(ParentReport, Option<Recorded>)> {
    let (file, format) = name.open(&FileOptions::default())?;
    let state = match merging_words(&file)? {
        Some(merging) => ParentState::Unusable(merging),
        None => ParentState::Unverified,
    };
    let report = ParentReport { path: Some(name.spelt()), state, format: Some(format) };
    Ok((report, format.ops().parent(&file)?))
}

/// Looks at one parent: how it is, and what it recorded itself.
fn look(
    name: &ImageName,
    recorded: &Recorded,
    seen: &mut Vec<FileKey>,
) -> Result<(ParentReport, Option<Recorded>)> {
    let (file, _) = name.open(&FileOptions::default())?;
    let report = |state, format| ParentReport { path: Some(name.spelt()), state, format };
    let keys = file.keys()?;
    if keys.iter().any(|key| seen.contains(key)) {
        let state = ParentState::Unusable("the chain comes back to a file above".to_owned());
        return Ok((report(state, None), None));
    }
    seen.extend(keys);
    if let Some(merging) = merging_words(&file)? {
        return Ok((report(ParentState::Unusable(merging), None), None));
    }
    let (format, found) = recognise(&file, name.forced.or(recorded.format), recorded)?;
    Ok(match found {
        Ok(()) => {
            let state = match recorded.known {
                Known::Nothing => ParentState::Unverified,
                _ => ParentState::AsRecorded,
            };
            (report(state, Some(format)), format.ops().parent(&file)?)
        }
        Err(why) => (report(ParentState::Different(mismatch_words(why)), Some(format)), None),
    })
}

/// Finds the format in which a file is the recorded parent. What was recorded as a plain file may hold
/// anything, even what looks like a layer.
fn recognise(
    file: &ImageFile,
    said: Option<Format>,
    recorded: &Recorded,
) -> Result<(Format, core::result::Result<(), ParentMismatch>)> {
    let format = said.map_or_else(|| detect(&file.main), Ok)?;
    let compare = |format: Format| recorded.known.matches(Some(&format.candidate(file)?));
    let is_layer = matches!(recorded.known, Known::Identity(ParentIdentity::Layer(_)));
    // Facts fit many things. Who recorded the length of the whole file meant all of it, whatever a guest
    // has written there since.
    if said.is_none() && matches!(recorded.known, Known::Facts(_)) {
        let plain = compare(Format::RAW)?;
        if plain.is_ok() {
            return Ok((Format::RAW, plain));
        }
    }
    let first = compare(format);
    if said.is_some() || is_layer || matches!(first, Ok(Ok(()))) {
        return Ok((format, first?));
    }
    let plain = compare(Format::RAW)?;
    match first {
        Ok(Err(why)) if plain.is_err() && why != ParentMismatch::Kind => Ok((format, Err(why))),
        _ => Ok((Format::RAW, plain)),
    }
}
