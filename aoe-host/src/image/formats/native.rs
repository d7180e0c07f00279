//! Our own overlays (`docs/FORMAT.md`).

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cow_core::format::native::{self, Fresh, Mode, ModeError};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::{Creation, Facts, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::commit_log::enter_advice;
use crate::image::identity::{now_s, random_layer_id, scratch_page};
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::notes::{NoteId, NoteLog, default_notes_directory};
use crate::image::parent::{Below, Recorded};
use crate::image::report::{CheckReport, Progress};
use crate::image::sparse::{Sparse, Told};
use crate::image::text;
use crate::storage::{FileStorage, StorageError};

#[derive(Debug)]
pub(super) struct Native;

static CREATION: Creation = Creation {
    options: &[
        OptionSpec { key: "label", about: "a name to put into it, of up to 128 bytes" },
        OptionSpec {
            key: "preallocate",
            about: "whether room for the whole disk is taken at once, yes or no, no unless given",
        },
    ],
    blank: true,
    other_size: true,
    part: true,
};

impl ImageFormat for Native {
    fn word(&self) -> &'static str {
        "native"
    }

    fn about(&self) -> &'static str {
        "Our own: sector granular, crash safe, sparse"
    }

    fn detect(&self, _first: &[u8; 512], file: &FileStorage) -> Result<bool> {
        Ok(native::is_native(file, &mut scratch_page())?)
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let opened = match native::open(&file.main, &mut scratch_page()) {
            Ok(opened) => opened,
            Err(native::OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => {
                facts.problems.push(damage.to_string());
                return Ok(());
            }
        };
        facts.disk_bytes = Some(opened.geometry().sectors().saturating_mul(SECTOR_BYTES));
        NativeFacts::new(opened.header()).tell(file.path(), facts);
        Ok(())
    }

    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        let opened = open(file, "read the parent of")?;
        let recorded = recorded(opened.header());
        Ok(Some(recorded).filter(|_| opened.header().parent.identity != ParentIdentity::None))
    }

    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        let (identity, window) = (below.parent.identity, below.window);
        let mut parent = native::Parent { identity, window, ..native::Parent::default() };
        if parent.hint.extend_from_slice(&hint(below)).is_err() {
            parent.hint.clear();
        }
        native::set_parent(&mut file.main, parent, &mut scratch_page())
            .map_err(|e| update_failed(e, "rebind", file.path()))?;
        Ok(())
    }

    fn identity(&self, file: &ImageFile) -> Result<ParentIdentity> {
        Ok(ParentIdentity::Layer(open(file, "read the parent")?.header().layer_id))
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let opened = open(file, "measure the disk")?;
        Ok(Some(opened.geometry().sectors().saturating_mul(SECTOR_BYTES)))
    }

    fn check_as_parent(&self, file: &ImageFile) -> Result<()> {
        let op = "use the image as parent";
        if open(file, op)?.header().mode == Mode::Writable {
            return Err(HostError::new(ErrorKind::InUse, op)
                .path(file.path())
                .detail("it is a writable overlay")
                .advice("`cowblade freeze` it first"));
        }
        Ok(())
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let op = "use the layer";
        let opened = open(file, op)?;
        let frozen = opened.frozen(keys.main).map_err(|e| mode_refused(e, op, file.path()))?;
        recorded(opened.header()).check(below, file.path())?;
        Ok(OpenedLayer {
            layer: Layer::Native(frozen),
            identity: ParentIdentity::Layer(opened.header().layer_id),
            size_bytes: opened.geometry().sectors().saturating_mul(SECTOR_BYTES),
            warning: None,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        _below_sectors: Option<u64>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        let op = "read the image";
        let opened = open(file, op)?;
        if opened.header().log.is_some() {
            return Err(mode_refused(ModeError::Logged, op, file.path()));
        }
        Ok(Layer::Native(opened.snapshot(keys.main)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        open_top(file, below, |opened| opened.into_writable(keys.main))
    }

    fn open_new_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        open_top(file, below, |opened| opened.into_repeating(keys.main))
    }

    fn close(&self, file: &mut ImageFile, top: &mut Top) -> Result<()> {
        let Top::Native(overlay) = top else { return file.sync_data() };
        let closed = native::close(&mut file.main, overlay, &mut scratch_page());
        closed.map_err(|e| update_failed(e, "close the overlay", file.path()))?;
        Ok(())
    }

    fn note_id(&self, file: &ImageFile) -> Result<Option<NoteId>> {
        Ok(Some(NoteId::of(open(file, "read the image")?.header())))
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let label = new.options.text("label").unwrap_or_default().as_bytes();
        let options = native::CreateOptions {
            layer_id: random_layer_id()?,
            sectors: new.sectors,
            parent: new.below.parent.identity,
            window: new.below.window,
            hint: &hint(new.below),
            label: label.get(..native::LABEL_LEN).unwrap_or(label),
            created_s: now_s(),
            log: new.log,
            fresh: if new.is_fresh { Fresh::Zeroed } else { Fresh::Unknown },
        };
        let path = file.path().to_owned();
        let is_preallocated = new.options.is_yes("preallocate")?;
        let made = native::create(&mut file.main, &options, &mut scratch_page());
        made.map(drop).map_err(|error| match error {
            native::CreateError::Storage { needed, error } if error.is_full() => {
                HostError::new(ErrorKind::Full, "create the overlay")
                    .path(path)
                    .detail(format!(
                        "its file system does not take a sparse file of {needed} bytes"
                    ))
                    .source(error)
            }
            native::CreateError::Storage { error, .. } => error.into(),
            other => HostError::usage("create the overlay", other.to_string()).path(path),
        })?;
        if is_preallocated { preallocate(&file.main) } else { Ok(()) }
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let opened = native::open(&file.main, &mut scratch_page());
        if opened.as_ref().is_ok_and(|opened| opened.header().log.is_some()) {
            let advice = enter_advice(file.path());
            report.found(false, format!("{}; {advice}", ModeError::Logged));
        }
        let total = opened.map_or(0, |opened| opened.geometry().data_offset());
        let mut tell = |done, total| progress(done, total);
        let told = Told::new(&file.main, total, &mut tell);
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

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let counted = count_data(&file.main).ok().map(|n| n.saturating_mul(SECTOR_BYTES));
        native::rollback(&mut file.main, &mut scratch_page())
            .map_err(|e| update_failed(e, "roll back", file.path()))?;
        Ok(counted)
    }

    fn freeze(&self, file: &mut ImageFile) -> Result<LayerId> {
        let op = "freeze";
        refuse_pending(open(file, op)?.header(), op, file.path())?;
        // A layer that cannot be read would only be found out when others lie on it.
        count_data(&file.main)?;
        let layer_id = random_layer_id()?;
        native::freeze(&mut file.main, layer_id, &mut scratch_page())
            .map_err(|e| update_failed(e, op, file.path()))?;
        Ok(layer_id)
    }

    fn is_frozen(&self, file: &ImageFile) -> Result<bool> {
        Ok(open(file, "read the image")?.header().mode == Mode::Frozen)
    }

    fn thaw(&self, file: &mut ImageFile) -> Result<()> {
        native::thaw(&mut file.main, random_layer_id()?, &mut scratch_page())
            .map_err(|e| update_failed(e, "write to the layer", file.path()))?;
        Ok(())
    }
}

/// The header of a native overlay, for a program.
#[derive(Debug, Serialize)]
struct NativeFacts {
    /// It is a layer for others and takes no writes.
    is_frozen: bool,
    layer_id: String,
    label: String,
    /// When it was made, in seconds since 1970.
    created_s: i64,
    /// The last process that wrote it came to an orderly end.
    is_clean: bool,
    /// Bytes of its own, where the last orderly end counted them.
    data_bytes: Option<u64>,
    /// How often it was emptied, plus 1.
    epoch: u64,
    /// How often it was opened and written.
    session: u64,
    /// Acknowledged writes may be in a commit log.
    is_logged: bool,
}

impl NativeFacts {
    fn new(header: &native::Header) -> Self {
        Self {
            is_frozen: header.mode == Mode::Frozen,
            layer_id: header.layer_id.to_string(),
            label: String::from_utf8_lossy(&header.label).into_owned(),
            created_s: header.created_s,
            is_clean: header.clean,
            data_bytes: header.data_sectors.map(|n| n.saturating_mul(SECTOR_BYTES)),
            epoch: header.epoch,
            session: header.session,
            is_logged: header.log.is_some(),
        }
    }

    fn tell(&self, path: &Path, facts: &mut Facts) {
        facts.set_json(self);
        facts.line("mode", if self.is_frozen { "frozen: a layer for others" } else { "writable" });
        if !self.label.is_empty() {
            facts.line("label", self.label.clone());
        }
        facts.line("identity", self.layer_id.clone());
        facts.line("created", text::moment(self.created_s));
        match self.data_bytes {
            Some(data) => facts.line("holds", text::bytes(data)),
            None => facts.line("holds", "not counted yet"),
        }
        if self.is_logged {
            facts.line("log", format!("{}; {}", ModeError::Logged, enter_advice(path)));
        }
        if !self.is_clean {
            facts.line("state", "in use, or its last user was killed; nothing is lost by that");
        }
    }
}

/// Opens an overlay for writing, if `take` finds that it may be written.
fn open_top(
    file: &mut ImageFile,
    below: &Below,
    take: impl FnOnce(native::Opened) -> core::result::Result<native::Writable, ModeError>,
) -> Result<TopImage> {
    let op = "use the overlay";
    let opened = open(file, op)?;
    let header = opened.header();
    recorded(header).check(Some(below), file.path())?;
    let (sectors, was_clean) = (opened.geometry().sectors(), header.clean);
    let label = String::from_utf8_lossy(&header.label).into_owned();
    let note_id = NoteId::of(header);
    let mut top = take(opened).map_err(|e| mode_refused(e, op, file.path()))?;
    if !was_clean {
        // A killed process may have left writes that can be read and are yet not durable.
        file.sync_data()?;
    }
    let used = if let Some(used) = top.data_sectors() {
        used
    } else {
        let counted = count_data(&file.main)?;
        top.set_data_sectors(counted);
        counted
    };
    Ok(TopImage {
        top: Top::Native(top),
        index: Vec::new(),
        used,
        sectors,
        label,
        note_id: Some(note_id),
        was_clean,
        discards_to_zeros: true,
    })
}

fn open(file: &ImageFile, op: &str) -> Result<native::Opened> {
    let opened = native::open(&file.main, &mut scratch_page());
    opened.map_err(|e| open_failed(e, op, file.path()))
}

/// Takes room for the whole disk; the file is as long as that already.
fn preallocate(file: &FileStorage) -> Result<()> {
    file.set_room_aside().map_err(|error| {
        let kind = if error.is_full() {
            ErrorKind::Full
        } else if error.is_unsupported() {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Io
        };
        let refused = HostError::new(kind, "take room for the whole disk").path(file.path());
        let advice = "make it without `preallocate`: it then grows as it is written";
        refused.advice(advice).source(error)
    })
}

fn recorded(header: &native::Header) -> Recorded {
    let parent = &header.parent;
    let hint = OsStr::from_bytes(&parent.hint);
    let path = (!hint.is_empty()).then(|| PathBuf::from(hint));
    Recorded::identity(parent.identity, parent.window, path)
}

/// Where the parent is. A path that does not fit is left out: the parent is recognised without.
fn hint(below: &Below) -> Vec<u8> {
    let hint = below.hint().map_or_else(Vec::new, |path| path.into_os_string().into_vec());
    if hint.len() > native::HINT_LEN { Vec::new() } else { hint }
}

/// Counts the sectors of an image that was not closed in order.
fn count_data(file: &FileStorage) -> Result<u64> {
    let report = native::check(&Sparse::new(file), &mut scratch_page(), &mut |_finding| {});
    report.map(|r| r.data).map_err(|error| match error {
        native::CheckError::Open(error) => open_failed(error, "use the overlay", file.path()),
        native::CheckError::Storage { error, .. } => error.into(),
        other => HostError::new(ErrorKind::Corrupt, "use the overlay")
            .path(file.path())
            .detail(other.to_string()),
    })
}

/// Acknowledged writes must not be lost by a change that their notes do not survive.
fn refuse_pending(header: &native::Header, op: &str, path: &Path) -> Result<()> {
    let id = NoteId::of(header);
    if NoteLog::is_pending(&default_notes_directory(), id)? {
        return Err(HostError::new(ErrorKind::InUse, op)
            .path(path)
            .detail("a server that was killed left acknowledged writes in its notes")
            .advice("start and stop the server once, which takes them up"));
    }
    Ok(())
}

/// An image that was not opened.
fn open_failed(error: native::OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    use native::OpenError;
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => error.into(),
        OpenError::NewerVersion { .. } | OpenError::UnknownFeatures { .. } => {
            told(ErrorKind::Unsupported).advice("use a later version of cowblade")
        }
        OpenError::NotNative => told(ErrorKind::Unsupported),
        OpenError::Truncated { .. } => told(ErrorKind::Corrupt)
            .advice("the end of the file is missing: copy it again, sparse and complete"),
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade info` shows what is left; restore it from a backup"),
    }
}

/// An image that was not changed.
fn update_failed(error: native::UpdateError<StorageError>, op: &str, path: &Path) -> HostError {
    use native::UpdateError;
    match error {
        UpdateError::Open(error) => open_failed(error, op, path),
        UpdateError::Storage(error) => error.into(),
        UpdateError::Mode(mode) => mode_refused(mode, op, path),
        other => HostError::usage(op, other.to_string()).path(path),
    }
}

/// An image in the wrong mode.
fn mode_refused(mode: ModeError, op: &str, path: &Path) -> HostError {
    let error = HostError::new(ErrorKind::InUse, op).path(path).detail(mode.to_string());
    match mode {
        ModeError::Frozen => {
            error.advice("make a new overlay above it: `cowblade create --backing`")
        }
        ModeError::NotFrozen => error.advice("`cowblade freeze` it"),
        ModeError::Logged => error.advice(enter_advice(path)),
        _ => error,
    }
}
