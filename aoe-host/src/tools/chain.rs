//! What lies below an image: what it recorded, and what is there now.

use core::fmt;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::engine::MAX_LAYERS;
use cow_core::format::native;
use cow_core::identity::ParentIdentity;
use cow_core::storage::ReadStorage;
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use crate::config::{Layer, Window};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Binding, Format, ImageName, detect, identity_of, mismatch_words, native_open_failed,
    scratch_page,
};
use crate::storage::{FileKey, FileOptions, FileStorage};

/// Whether paths that an image names are followed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Gate {
    /// No: an image from a stranger decides nothing.
    #[default]
    Closed,
    /// Yes, to read.
    Open,
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
    /// It is the one that was recorded.
    AsRecorded,
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
            ParentState::AsRecorded => f.write_str(": as recorded"),
            ParentState::Unusable(why) | ParentState::Different(why) => write!(f, ": {why}"),
        }
    }
}

/// What an image recorded about its parent.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) identity: ParentIdentity,
    pub(super) window: Option<native::Window>,
    pub(super) path: Option<PathBuf>,
}

impl Recorded {
    /// Reads it from a native image or from beside a store. `None` without a parent, or when nothing
    /// is known.
    pub(super) fn of(file: &FileStorage, format: Format) -> Result<Option<Self>> {
        match format {
            Format::Raw => Ok(None),
            Format::Native => {
                let opened = native::open(file, &mut scratch_page())
                    .map_err(|e| native_open_failed(e, "read the parent of", file.path()))?;
                Ok(Self::of_native(opened.header()))
            }
            Format::DmSnapshot => Ok(Binding::load(file)?.map(|binding| Self {
                identity: binding.identity(),
                window: binding.window(),
                path: binding.parent.path().map(Path::to_owned),
            })),
        }
    }

    pub(super) fn of_native(header: &native::Header) -> Option<Self> {
        let parent = &header.parent;
        let hint = OsStr::from_bytes(&parent.hint);
        (parent.identity != ParentIdentity::None).then(|| Self {
            identity: parent.identity,
            window: parent.window,
            path: (!hint.is_empty()).then(|| PathBuf::from(hint)),
        })
    }

    /// Size of a store's disk: that of the part of its origin that is used. `None` if the origin is
    /// a layer, which has to be asked.
    pub(super) fn disk_sectors(&self) -> Option<u64> {
        let ParentIdentity::File(origin) = self.identity else { return None };
        let len = self.window.map_or(origin.size_bytes, |w| w.len);
        Some(len.div_ceil(SECTOR_BYTES))
    }

    /// As a layer of a chain; its format is forced, so that it is not guessed a second time.
    fn layer(&self, path: &Path, format: Format) -> Layer {
        let window = self.window.map_or_else(Window::default, |w| Window {
            offset_bytes: w.offset,
            len_bytes: Some(w.len),
        });
        let mut name = OsString::from(format.word());
        name.push(":");
        name.push(path);
        Layer::File { path: PathBuf::from(name), window }
    }
}

/// What a single file would be as a parent, without anything below it.
pub(super) fn below_of(path: &Path, window: Window) -> Result<Below> {
    let name = ImageName::parse(path);
    let file = FileStorage::open(&name.path, &FileOptions { window, ..FileOptions::default() })?;
    let op = "use the image as parent";
    let len = file.len_bytes()?;
    let (identity, sectors) = match name.format_of(&file)? {
        Format::Raw if len == 0 => {
            return Err(HostError::usage(op, "it is empty").path(&name.path));
        }
        Format::Raw => (identity_of(&file)?, len.div_ceil(SECTOR_BYTES)),
        Format::Native => {
            let opened = native::open(&file, &mut scratch_page())
                .map_err(|e| native_open_failed(e, op, &name.path))?;
            if opened.header().mode == native::Mode::Writable {
                return Err(HostError::new(ErrorKind::InUse, op)
                    .path(&name.path)
                    .detail("it is a writable overlay")
                    .advice("`cowblade freeze` it first"));
            }
            (ParentIdentity::Layer(opened.header().layer_id), opened.geometry().sectors())
        }
        Format::DmSnapshot => {
            let recorded = Recorded::of(&file, Format::DmSnapshot)?;
            let Some(sectors) = recorded.and_then(|r| r.disk_sectors()) else {
                return Err(HostError::new(ErrorKind::Unsupported, op)
                    .path(&name.path)
                    .detail("nothing says how large its origin is")
                    .advice("serve it once over its origin, which writes that down"));
            };
            (identity_of(&file)?, sectors)
        }
    };
    let window = (window != Window::default())
        .then_some(native::Window { offset: window.offset_bytes, len });
    Ok(Below {
        identity,
        window,
        files: vec![file.key()?],
        path: Some(std::fs::canonicalize(&name.path).unwrap_or(name.path)),
        sectors,
    })
}

/// Every parent from an image down, and the layers for [`open_backing`](crate::image::open_backing)
/// as far as all are as recorded.
pub(super) fn parents(
    file: &FileStorage,
    recorded: Option<Recorded>,
    gate: Gate,
) -> Result<(Vec<ParentReport>, Vec<Layer>)> {
    let (mut reports, mut layers) = (Vec::new(), Vec::new());
    let mut seen = vec![file.key()?];
    let mut next = recorded;
    while let Some(recorded) = next.take() {
        if reports.len() >= MAX_LAYERS {
            let state = ParentState::Unusable(format!("more than {MAX_LAYERS} layers"));
            reports.push(ParentReport { path: recorded.path, state, format: None });
            break;
        }
        let path = recorded.path.clone().filter(|_| gate == Gate::Open);
        let Some(path) = path else {
            let state = ParentState::Unknown;
            reports.push(ParentReport { path: recorded.path, state, format: None });
            break;
        };
        let (report, below) = match look(&path, &recorded, &mut seen) {
            Ok(looked) => looked,
            Err(error) => {
                let state = ParentState::Unusable(error.to_string());
                (ParentReport { path: Some(path.clone()), state, format: None }, None)
            }
        };
        if let (ParentState::AsRecorded, Some(format)) = (&report.state, report.format) {
            layers.push(recorded.layer(&path, format));
            next = below;
        }
        reports.push(report);
    }
    Ok((reports, layers))
}

/// Looks at one parent: how it is, and what it recorded itself.
fn look(
    path: &Path,
    recorded: &Recorded,
    seen: &mut Vec<FileKey>,
) -> Result<(ParentReport, Option<Recorded>)> {
    let file = FileStorage::open(path, &FileOptions::default())?;
    let report = |state, format| ParentReport { path: Some(path.to_owned()), state, format };
    let key = file.key()?;
    if seen.contains(&key) {
        let state = ParentState::Unusable("the chain comes back to a file above".to_owned());
        return Ok((report(state, None), None));
    }
    seen.push(key);
    // What was recorded as a plain file may hold anything, even what looks like a layer of ours.
    let detected = detect(&file)?;
    let format = match (recorded.identity, detected) {
        (ParentIdentity::File(_), Format::Native) => Format::Raw,
        _ => detected,
    };
    let found = match format {
        Format::Native => {
            let opened = native::open(&file, &mut scratch_page())
                .map_err(|e| native_open_failed(e, "read the parent", path))?;
            ParentIdentity::Layer(opened.header().layer_id)
        }
        Format::Raw | Format::DmSnapshot => identity_of(&file)?,
    };
    Ok(match recorded.identity.matches(&found) {
        Ok(()) => (report(ParentState::AsRecorded, Some(format)), Recorded::of(&file, format)?),
        Err(why) => (report(ParentState::Different(mismatch_words(why)), Some(format)), None),
    })
}
