//! `cowblade rebind`: accepting another file as the parent, because its content is the same.

use core::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::format::native;
use cow_core::identity::{FileIdentity, ParentIdentity, ParentMismatch};
use cow_core::storage::ReadStorage;
use serde::Serialize;

use super::chain::{Recorded, below_of};
use super::progress::Progress;
use crate::config::Window;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Binding, Format, ImageName, ParentRecord, full_hash, identity_of, native_update_failed,
    overlay_options, same_content, scratch_page,
};
use crate::storage::{FileOptions, FileStorage, LockMode};

/// How [`rebind`] is to know that the content is the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Proof {
    /// By the hash of the whole content that the overlay recorded when it was made.
    #[default]
    RecordedHash,
    /// By comparing every byte with the original, which is still as recorded.
    Original(PathBuf),
    /// Because the caller says so: length and samples are the same, only the time of modification
    /// is not. If the content differs elsewhere, the disk is damaged for ever.
    Trust,
}

/// What [`rebind`] is to do.
#[derive(Clone, Debug, Default)]
pub struct RebindRequest {
    /// The overlay, or the frozen layer.
    pub path: PathBuf,
    /// The parent from now on.
    pub parent: PathBuf,
    /// Why that is right.
    pub proof: Proof,
}

/// What [`rebind`] did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Rebound {
    /// The overlay.
    pub path: PathBuf,
    /// Its parent now.
    pub parent: PathBuf,
    /// What makes the parent acceptable.
    pub because: String,
}

impl fmt::Display for Rebound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, parent) = (self.path.display(), self.parent.display());
        write!(f, "`{path}` lies on `{parent}` now: {}", self.because)
    }
}

/// Records another file of the same content as parent.
///
/// # Errors
/// The overlay is in use; nothing proves that the content is the same, or it is not. Nothing was
/// changed then.
pub fn rebind(request: &RebindRequest, progress: &mut Progress<'_>) -> Result<Rebound> {
    let name = ImageName::parse(&request.path);
    let mut file = FileStorage::open(&name.path, &overlay_options(false))?;
    let format = name.format_of(&file)?;
    let recorded = Recorded::of(&file, format)?.ok_or_else(|| {
        HostError::new(ErrorKind::Unsupported, "rebind")
            .path(&name.path)
            .detail("it recorded no parent")
            .advice("`cowblade info` tells what it is")
    })?;
    let window = recorded.window.map_or_else(Window::default, |w| Window {
        offset_bytes: w.offset,
        len_bytes: Some(w.len),
    });
    // Held until the end, so that nobody changes what is being compared.
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let parent_path = ImageName::parse(&request.parent).path;
    if crate::storage::FileKey::of(&parent_path) == Some(file.key()?) {
        return Err(
            HostError::usage("rebind", "an overlay cannot be its own parent").path(&request.path)
        );
    }
    let parent = FileStorage::open(&parent_path, &options)?;
    let mut below = below_of(&request.parent, window)?;
    let because = match (recorded.identity, &mut below.identity) {
        (old, new) if old.matches(new).is_ok() => {
            "it is the recorded one, which has only moved".to_owned()
        }
        (ParentIdentity::File(old), ParentIdentity::File(new)) => {
            let judge = Judge { request, old, progress };
            judge.prove(&parent, new)?
        }
        (old, new) => {
            let why = old.matches(new).err().map_or_else(String::new, |why| why.to_string());
            return Err(differs(request, &why));
        }
    };
    if identity_of(&parent)? != without_content(below.identity) && format_is_file(&below) {
        return Err(differs(request, "it was changed while it was compared"));
    }
    record(&mut file, format, &below)?;
    Ok(Rebound { path: name.path, parent: below.path.unwrap_or(parent_path), because })
}

fn format_is_file(below: &Below) -> bool {
    matches!(below.identity, ParentIdentity::File(_))
}

fn without_content(identity: ParentIdentity) -> ParentIdentity {
    match identity {
        ParentIdentity::File(file) => ParentIdentity::File(FileIdentity { content: None, ..file }),
        other => other,
    }
}

fn differs(request: &RebindRequest, why: &str) -> HostError {
    HostError::new(ErrorKind::Mismatch, "rebind")
        .path(&request.path)
        .detail(format!("`{}` is not the same: {why}", request.parent.display()))
        .advice("nothing was changed")
}

/// The question whether two files have the same content.
struct Judge<'a> {
    request: &'a RebindRequest,
    old: FileIdentity,
    progress: &'a mut Progress<'a>,
}

impl Judge<'_> {
    /// Why the new parent is as good as the old one. Whole hashes are kept in `new`.
    fn prove(self, parent: &FileStorage, new: &mut FileIdentity) -> Result<String> {
        let (old, found) = (ParentIdentity::File(self.old), ParentIdentity::File(*new));
        match old.matches(&found) {
            Ok(()) | Err(ParentMismatch::Modified { .. }) => {}
            Err(why) => return Err(differs(self.request, &why.to_string())),
        }
        let total = parent.len_bytes()?;
        let progress = self.progress;
        match &self.request.proof {
            Proof::RecordedHash => {
                let Some(recorded) = self.old.content else {
                    return Err(nothing_to_compare(self.request));
                };
                let content = full_hash(parent, &mut |done| progress(done, total))?;
                if content != recorded {
                    return Err(differs(self.request, "the hashes of the content differ"));
                }
                new.content = Some(content);
                Ok("the hash of its whole content is the recorded one".to_owned())
            }
            Proof::Original(path) => {
                let original = open_original(path, &self.old, self.request)?;
                if original.key()? == parent.key()? {
                    return Err(differs(self.request, "it is the original itself"));
                }
                let told = &mut |done| progress(done, total);
                if let Some(at) = same_content(&original, parent, told)? {
                    return Err(differs(self.request, &format!("byte {at} differs")));
                }
                new.content = self.old.content;
                Ok("every byte is that of the original".to_owned())
            }
            Proof::Trust => {
                new.content = self.old.content;
                Ok("length and samples are the same, and the rest was vouched for".to_owned())
            }
        }
    }
}

/// The file that the overlay recorded, unchanged.
fn open_original(
    path: &Path,
    recorded: &FileIdentity,
    request: &RebindRequest,
) -> Result<FileStorage> {
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let original = FileStorage::open(ImageName::parse(path).path, &options)?;
    let found = identity_of(&original)?;
    match ParentIdentity::File(*recorded).matches(&found) {
        Ok(()) => Ok(original),
        Err(why) => Err(HostError::new(ErrorKind::Mismatch, "compare with the original")
            .path(path)
            .detail(format!("it is not what `{}` recorded: {why}", request.path.display()))),
    }
}

fn nothing_to_compare(request: &RebindRequest) -> HostError {
    HostError::new(ErrorKind::Mismatch, "rebind")
        .path(&request.path)
        .detail("it did not record the hash of its parent's whole content")
        .advice(
            "name the unchanged original with --original, or, if only the time of modification \
             was touched and you are sure, say --trust",
        )
}

fn record(file: &mut FileStorage, format: Format, below: &Below) -> Result<()> {
    let path = below.path.as_deref();
    if format == Format::DmSnapshot {
        let old = Binding::load(file)?;
        let record = ParentRecord::new(&below.identity, path);
        let binding = match old {
            Some(binding) => binding.with_parent(record),
            None => Binding::new(below)?,
        };
        return binding.save(file);
    }
    let hint = path.map_or(&[][..], |path| path.as_os_str().as_bytes());
    let (identity, window) = (below.identity, below.window);
    let mut parent = native::Parent { identity, window, ..native::Parent::default() };
    if parent.hint.extend_from_slice(hint).is_err() {
        // A hint that does not fit is left out: the parent is recognised without.
        parent.hint.clear();
    }
    native::set_parent(file, parent, &mut scratch_page())
        .map_err(|e| native_update_failed(e, "rebind", file.path()))?;
    Ok(())
}
