//! `cowblade merge --in-place`: what an overlay holds becomes part of its parent.
//!
//! 1. Both are locked against everybody for the whole time, and everything that could be refused is
//!    looked at before anything is written, the metadata of the overlay included.
//! 2. The journal and the mark are durable before the parent changes (see
//!    [`merging`](crate::image::KeepOverlay)); a merge that was cut is refused to everybody until it is
//!    run again, and goes on from the last durable part.
//! 3. The overlay is not touched before the parent is complete and durable.
//!
//! A cut leaves in each sector of the parent what was there before, or what the overlay holds, or a
//! torn mixture. All of that is written again by the next run: the overlay still has it.

use core::fmt;
use core::time::Duration;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::chain::{Gate, below_of_open};
use super::disk::{OverlayDisk, PlainDisk, WriteDisk, with_way_out};
use super::source::{ChainName, Found, Memory, Source};
use crate::config;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Format, ImageFile, ImageName, Journal, KeepOverlay, NewJournal, Progress, binding_path,
    bytes_text, enter_left, identity_of, mtime_of, overlay_options, refuse_marked, refuse_merging,
    unmark,
};
use crate::storage::{Access, FileOptions, LockMode};

mod fold;
mod siblings;
#[cfg(test)]
mod tests;

use fold::{CHECKPOINT_SECTORS, Checkpoint, Held, fold, measure};

/// What [`merge`] is to do.
#[derive(Clone, Debug, Default)]
pub struct MergeRequest {
    /// The overlay, the parent into which it is merged, and what lies below that. Of a merge that goes on
    /// the overlay is enough.
    pub chain: ChainName,
    /// Whether the names that images record are followed.
    pub gate: Gate,
    /// What becomes of the overlay. `None`: what was said when the merge began, or that it stays.
    pub keep: Option<KeepOverlay>,
}

/// What [`merge`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Merged {
    /// The overlay.
    pub path: PathBuf,
    /// The image that has everything now.
    pub parent: PathBuf,
    /// Bytes that the overlay holds.
    pub data_bytes: u64,
    /// Bytes that it makes zeros.
    pub zero_bytes: u64,
    /// An earlier merge was finished.
    pub was_resumed: bool,
    /// What became of the overlay.
    pub overlay: KeepOverlay,
    /// Other images beside the two that lie on what the parent was, and are refused from now on.
    pub orphans: Vec<PathBuf>,
    /// What should be known, as sentences.
    pub warnings: Vec<String>,
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, parent) = (self.path.display(), self.parent.display());
        let how = if self.was_resumed { "finished merging" } else { "merged" };
        let (data, zeros) = (bytes_text(self.data_bytes), bytes_text(self.zero_bytes));
        write!(f, "{how} `{path}` into `{parent}`: {data} of data, {zeros} of zeros")?;
        f.write_str(match self.overlay {
            KeepOverlay::Leave => "; the overlay is as it was, over the new content",
            KeepOverlay::Empty => "; the overlay is empty",
            KeepOverlay::Delete => "; the overlay is gone",
        })?;
        for orphan in &self.orphans {
            let orphan = orphan.display();
            write!(f, "\nwarning: `{orphan}` lies on what the parent was, and is refused now")?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Writes what an overlay holds into its parent, in place. Run again after it was cut, at whatever
/// moment, it goes on and comes to the same end.
///
/// # Errors
/// What either image is refused for: in use, damaged, not the recorded parent, of a format that is not
/// written; nothing was changed then. The media's, a full one included: run it again when there is room.
pub fn merge(request: &MergeRequest, progress: &mut Progress<'_>) -> Result<Merged> {
    if let Some(merged) = merged_and_deleted(request)? {
        return Ok(merged);
    }
    let options = overlay_options(false);
    let journal = match request.chain.top() {
        Some(path) => Journal::load(&ImageName::parse(path).path)?,
        None => None,
    };
    // One that was cut while its overlay was emptied left an overlay that says nothing any more.
    let top = if journal.as_ref().is_some_and(|journal| journal.is_complete) {
        Found::open_damaged(&request.chain, &options)?
    } else {
        Found::open_top(&request.chain, &options)?
    };
    refuse_unmergeable(&top)?;
    let merge = match journal {
        Some(journal) => Merge::again(top, journal, request)?,
        None => Merge::begin(top, request)?,
    };
    merge.run(progress)
}

/// A merge of this overlay was cut, and [`merge`] would go on with it.
pub fn is_merge_cut(chain: &ChainName) -> bool {
    let path = chain.top().map(|path| ImageName::parse(path).path);
    path.is_some_and(|path| Journal::load(&path).is_ok_and(|journal| journal.is_some()))
}

/// The image into which an overlay is merged.
struct Parent {
    name: ImageName,
    file: ImageFile,
    format: Format,
    /// From its own parent down.
    rest: Vec<config::Layer>,
}

impl Parent {
    /// Opens the first of the layers below an overlay to write it, and nobody else may have it open.
    fn open(below: &[config::Layer], overlay: &Path) -> Result<Self> {
        let Some((config::Layer::File { path, window }, rest)) = below.split_first() else {
            return Err(HostError::usage("merge", "there is no image below it").path(overlay));
        };
        let name = ImageName::parse(path);
        let options = FileOptions {
            access: Access::ReadWrite,
            lock: LockMode::Exclusive,
            window: *window,
            direct: false,
        };
        enter_left(&name)?;
        let (file, format) = name.open(&options)?;
        Ok(Self { name, file, format, rest: rest.to_vec() })
    }

    fn below(&self) -> Result<Below> {
        below_of_open(&self.name, &self.file, self.format)
    }

    /// Opens its disk and hands it to `work`, which leaves it durable; closes it afterwards.
    fn with_disk(
        &self,
        sectors: u64,
        work: impl FnOnce(&mut dyn WriteDisk) -> Result<()>,
    ) -> Result<()> {
        if self.format.ops().is_plain() {
            let mut disk = PlainDisk::new(self.file.main.clone())?;
            if self.can_grow() {
                disk.grow(sectors)?;
            }
            work(&mut disk)?;
            return disk.make_durable();
        }
        let mut memory = Memory::new();
        let image = (&self.name, self.file.clone(), self.format);
        let len_bytes = parent_sectors(self)?.saturating_mul(SECTOR_BYTES);
        let blank = [config::Layer::Blank { len_bytes }];
        let below = if self.rest.is_empty() { &blank } else { &*self.rest };
        let mut disk = OverlayDisk::open(&mut memory, image, below)?;
        work(&mut disk)?;
        disk.close().map(drop)
    }

    fn can_grow(&self) -> bool {
        let whole = self.file.main.window() == config::Window::default();
        self.format.ops().is_plain() && whole && !self.file.main.is_device()
    }
}

/// A merge that can be run.
struct Merge {
    top: Found,
    parent: Parent,
    journal: Journal,
    was_resumed: bool,
    orphans: Vec<PathBuf>,
}

impl Merge {
    fn begin(top: Found, request: &MergeRequest) -> Result<Self> {
        top.refuse_pending()?;
        let top = top.find_below(&request.chain, &request.gate)?;
        let parent = Parent::open(&top.below, top.file.path())?;
        refuse_merging(&parent.file)?;
        let below = parent.below()?;
        match &top.recorded {
            Some(recorded) => recorded.check(Some(&below), top.file.path())?,
            None if top.format.ops().needs_parent() => {}
            None => return Err(HostError::usage("merge", "it has no parent").path(&top.name.path)),
        }
        let was_frozen = parent.format.ops().is_frozen(&parent.file)?;
        let orphans = siblings::on(&below.parent, [top.file.path(), parent.file.path()]);
        let journal = Journal::new(&NewJournal {
            overlay: &top.format.ops().identity(&top.file)?,
            parent: &below.parent.identity,
            below: &settled(&top.below)?,
            was_frozen,
            keep: request.keep.unwrap_or_default(),
        })?;
        Ok(Self { top, parent, journal, was_resumed: false, orphans })
    }

    fn again(mut top: Found, mut journal: Journal, request: &MergeRequest) -> Result<Self> {
        // What the overlay recorded says nothing about a parent that has changed since.
        top.below = match request.chain.lower() {
            [] => journal.below(),
            lower => top.with_windows(lower, &request.gate)?,
        };
        let parent = Parent::open(&top.below, top.file.path())?;
        let refused = |path: &Path, detail: &str| {
            HostError::new(ErrorKind::Mismatch, "go on with the merge").path(path).detail(detail)
        };
        let is_marked = journal.is_marked(&parent.file.main)?;
        if !journal.is_complete {
            top.refuse_pending()?;
            if !journal.is_overlay(&top.format.ops().identity(&top.file)?) {
                return Err(refused(top.file.path(), "it was changed after the merge began"));
            }
            let is_device = parent.file.main.is_device();
            let identity = parent.format.ops().identity(&parent.file)?;
            if !is_marked && !is_device && !journal.is_untouched_parent(&identity) {
                let detail = "it is not the parent with which the merge began";
                return Err(refused(parent.file.path(), detail)
                    .advice("name the right one, with the mark `.merging.json` beside it"));
            }
        }
        journal.keep = request.keep.unwrap_or(journal.keep);
        Ok(Self { top, parent, journal, was_resumed: true, orphans: Vec::new() })
    }

    fn run(mut self, progress: &mut Progress<'_>) -> Result<Merged> {
        refuse_keep(&self.top, self.journal.keep)?;
        let mut held = Held::default();
        if !self.journal.is_complete {
            held = self.fold(progress).map_err(|error| {
                let advice = "make room, then run the same command again, which goes on";
                with_way_out(error, self.parent.file.path(), advice)
            })?;
        }
        self.finish(held)
    }

    /// Makes the parent complete and durable, and says so in the journal.
    fn fold(&mut self, progress: &mut Progress<'_>) -> Result<Held> {
        let Self { top, parent, journal, was_resumed, .. } = self;
        let ops = parent.format.ops();
        let overlay = top.name.path.clone();
        let parent_sectors = parent_sectors(parent)?;
        let mut memory = Memory::new();
        let mut source = Source::alone(&mut memory, top, Some(parent_sectors))?;
        let held = measure(&mut source)?;
        if held.end > parent_sectors && !parent.can_grow() {
            let detail = "it is smaller than the disk of the overlay, and cannot grow";
            let error = HostError::new(ErrorKind::Unsupported, "merge into the image");
            return Err(error.path(parent.file.path()).detail(detail));
        }
        // A killed process may have left writes that can be read and are yet not durable.
        top.file.sync_data()?;
        journal.save(&overlay)?;
        journal.mark(&parent.file.main, &overlay)?;
        if ops.is_frozen(&parent.file)? {
            ops.thaw(&mut parent.file)?;
        }
        let from = journal.done_sectors;
        let mut save = |done| {
            journal.done_sectors = done;
            journal.save(&overlay)
        };
        let sectors = source.sectors();
        let mut was_opened = false;
        let folded = parent.with_disk(sectors, |disk| {
            was_opened = true;
            let checkpoint = &mut Checkpoint { every: CHECKPOINT_SECTORS, save: &mut save };
            fold(&mut source, disk, from, checkpoint, progress)
        });
        if let Err(error) = folded {
            if !was_opened && !*was_resumed && !journal.was_frozen {
                // It takes no writes, and has had none: it is what it was.
                unmark(&parent.file.main)?;
                Journal::remove(&overlay)?;
            }
            return Err(error);
        }
        if journal.was_frozen {
            ops.freeze(&mut parent.file)?;
        }
        show_change(parent, journal)?;
        journal.is_complete = true;
        journal.save(&overlay)?;
        Ok(held)
    }

    /// The parent is complete and durable: lets everybody use it, then sees to the overlay.
    fn finish(mut self, held: Held) -> Result<Merged> {
        let below = self.parent.below()?;
        unmark(&self.parent.file.main)?;
        let ops = self.top.format.ops();
        let path = self.top.name.path.clone();
        if self.journal.is_untouched_parent(&below.parent.identity) {
            self.orphans.clear(); // the overlay held nothing
        }
        let mut merged = Merged {
            parent: self.parent.name.path.clone(),
            data_bytes: held.data.saturating_mul(SECTOR_BYTES),
            zero_bytes: held.zeros.saturating_mul(SECTOR_BYTES),
            was_resumed: self.was_resumed,
            overlay: self.journal.keep,
            orphans: self.orphans,
            warnings: Vec::new(),
            path,
        };
        if self.parent.file.main.is_device() {
            let text =
                "other overlays of the device do not notice that it was changed: do not use them";
            merged.warnings.push(text.to_owned());
        }
        if self.journal.keep == KeepOverlay::Delete {
            if !self.journal.is_overlay(&ops.identity(&self.top.file)?) {
                let error = HostError::new(ErrorKind::Mismatch, "remove the overlay");
                return Err(error
                    .path(&merged.path)
                    .detail("it was changed after the merge began"));
            }
            self.journal.save(&merged.path)?;
            drop(self.parent);
            remove_overlay(&self.top.file)?;
            Journal::remove(&merged.path)?;
            return Ok(merged);
        }
        if self.journal.keep == KeepOverlay::Empty
            && let Err(error) = ops.rollback(&mut self.top.file)
        {
            merged.overlay = KeepOverlay::Leave;
            merged.warnings.push(format!("{error}; the overlay was left as it was"));
        }
        ops.set_parent(&mut self.top.file, &below)?;
        Journal::remove(&merged.path)?;
        Ok(merged)
    }
}

/// Size of the parent's disk, whether it is frozen or, after a cut, writable.
fn parent_sectors(parent: &Parent) -> Result<u64> {
    let len = parent.format.ops().disk_bytes(&parent.file)?;
    let unknown = || HostError::new(ErrorKind::Unsupported, "measure").path(parent.file.path());
    Ok(len.ok_or_else(unknown)?.div_ceil(SECTOR_BYTES))
}

/// Sees to it that whoever knows the parent by whole seconds of its last modification notices.
fn show_change(parent: &Parent, journal: &Journal) -> Result<()> {
    let file = &parent.file.main;
    let (Some(before), Some(now)) = (journal.parent_mtime_s(), mtime_of(file)?) else {
        return Ok(());
    };
    if now > before || file.is_device() || journal.is_untouched_parent(&identity_of(file)?) {
        return Ok(());
    }
    let later = UNIX_EPOCH + Duration::from_secs(u64::try_from(before.max(0)).unwrap_or(0) + 1);
    let failed = |e| HostError::io(e, "set the time of modification of").path(file.path());
    file.file().set_modified(later).and_then(|()| file.file().sync_all()).map_err(failed)
}

/// Looks at the overlay alone.
fn refuse_unmergeable(top: &Found) -> Result<()> {
    let refused = |kind, detail: &str| {
        HostError::new(kind, "merge the overlay").path(top.file.path()).detail(detail)
    };
    if top.format.ops().is_plain() {
        return Err(refused(ErrorKind::Unsupported, "it is no overlay"));
    }
    if top.file.main.is_device() {
        let detail = "on a device, nothing can be written down about a merge that is cut";
        return Err(refused(ErrorKind::Unsupported, detail).advice("make a new image, with -o"));
    }
    top.format.ops().check_new_parent(&top.file)?;
    refuse_marked(&top.file)?;
    top.refuse_pending()
}

fn refuse_keep(top: &Found, keep: KeepOverlay) -> Result<()> {
    if keep == KeepOverlay::Empty && top.format.ops().is_frozen(&top.file)? {
        let error = HostError::new(ErrorKind::InUse, "empty the overlay").path(top.file.path());
        return Err(error
            .detail("it is a frozen layer, on which others may lie")
            .advice("say --keep-overlay leave, or delete"));
    }
    Ok(())
}

/// The chain below, by names that mean the same from everywhere.
fn settled(layers: &[config::Layer]) -> Result<Vec<config::Layer>> {
    let settle = |layer: &config::Layer| {
        let config::Layer::File { path, window } = layer else { return Ok(layer.clone()) };
        let name = ImageName::parse(path);
        let (_, format) = name.open(&FileOptions { window: *window, ..FileOptions::default() })?;
        Ok(config::Layer::File { path: name.settled(format), window: *window })
    };
    layers.iter().map(settle).collect()
}

/// A merge that was cut between removing the overlay and its own journal.
fn merged_and_deleted(request: &MergeRequest) -> Result<Option<Merged>> {
    let Some(path) = request.chain.top() else { return Ok(None) };
    let path = ImageName::parse(path).path;
    if path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let Some(journal) = Journal::load(&path)? else { return Ok(None) };
    if !journal.is_complete || journal.keep != KeepOverlay::Delete {
        return Ok(None);
    }
    let parent = match journal.below().first() {
        Some(config::Layer::File { path, .. }) => ImageName::parse(path).path,
        _ => PathBuf::new(),
    };
    Journal::remove(&path)?;
    Ok(Some(Merged {
        path,
        parent,
        data_bytes: 0,
        zero_bytes: 0,
        was_resumed: true,
        overlay: KeepOverlay::Delete,
        orphans: Vec::new(),
        warnings: Vec::new(),
    }))
}

/// Removes the files of an overlay and what is kept beside them; the file after which it is named goes
/// last.
fn remove_overlay(file: &ImageFile) -> Result<()> {
    let beside = binding_path(file.path());
    let metadata = file.metadata.iter().filter(|file| !file.is_device());
    let metadata = metadata.map(|file| file.path().to_owned());
    let paths = core::iter::once(beside).chain(metadata).chain([file.path().to_owned()]);
    for path in paths {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(HostError::io(e, "remove the overlay").path(path));
            }
            _ => {}
        }
    }
    Ok(())
}
