//! `cowblade rebind`: accepting another file as the parent, because its content is the same.

use core::fmt;
use std::path::{Path, PathBuf};

use cow_core::identity::{FileIdentity, ParentIdentity, ParentMismatch};
use cow_core::storage::ReadStorage;
use serde::Serialize;

use super::chain::below_of;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Below, Candidate, ImageName, Known, Progress, enter_left, full_hash, identity_of,
    overlay_options, refuse_merging, same_content,
};
use crate::storage::{FileKey, FileOptions, FileStorage, LockMode};

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
    enter_left(&name)?;
    let (mut file, format) = name.open(&overlay_options(false))?;
    refuse_merging(&file)?;
    let recorded = format.ops().parent(&file)?.ok_or_else(|| {
        HostError::new(ErrorKind::Unsupported, "rebind")
            .path(&name.path)
            .detail("it recorded no parent")
            .advice("`cowblade info` tells what it is")
    })?;
    // Held until the end, so that nobody changes what is being compared.
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let parent_path = ImageName::parse(&request.parent).path;
    if FileKey::of(&parent_path).is_some_and(|key| file.keys().is_ok_and(|k| k.contains(&key))) {
        return Err(
            HostError::usage("rebind", "an overlay cannot be its own parent").path(&request.path)
        );
    }
    let parent = FileStorage::open(&parent_path, &options)?;
    let mut below = below_of(&request.parent, recorded.config_window())?;
    let because = match (recorded.known.matches(Some(&below.parent))?, recorded.known) {
        (Ok(()), Known::Nothing) if request.proof == Proof::Trust => {
            "nothing was recorded to compare it with, and it was vouched for".to_owned()
        }
        (Ok(()), Known::Nothing) => return Err(nothing_recorded(request)),
        (Ok(()), _) => "it is the recorded one, which has only moved".to_owned(),
        (Err(ParentMismatch::Modified { .. }), known) => {
            Judge { request, known, progress }.prove(&parent, &mut below)?
        }
        (Err(why), _) => return Err(differs(request, &why.to_string())),
    };
    if format_is_file(&below) && identity_of(&parent)? != without_content(below.parent.identity) {
        return Err(differs(request, "it was changed while it was compared"));
    }
    format.ops().set_parent(&mut file, &below)?;
    Ok(Rebound { path: name.path, parent: below.path.unwrap_or(parent_path), because })
}

fn format_is_file(below: &Below) -> bool {
    matches!(below.parent.identity, ParentIdentity::File(_))
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
    known: Known,
    progress: &'a mut Progress<'a>,
}

impl Judge<'_> {
    /// Why the new parent is as good as the old one, of which all but the time of modification is
    /// the same. Whole hashes are kept in `below`.
    fn prove(self, parent: &FileStorage, below: &mut Below) -> Result<String> {
        let recorded = match self.known {
            Known::Identity(ParentIdentity::File(old)) => old.content,
            _ => None,
        };
        if let ParentIdentity::File(new) = &mut below.parent.identity {
            new.content = recorded;
        }
        let total = parent.len_bytes()?;
        let progress = self.progress;
        match &self.request.proof {
            Proof::RecordedHash => {
                let Some(recorded) = recorded else {
                    return Err(nothing_to_compare(self.request));
                };
                let content = full_hash(parent, &mut |done| progress(done, total))?;
                if content != recorded {
                    return Err(differs(self.request, "the hashes of the content differ"));
                }
                Ok("the hash of its whole content is the recorded one".to_owned())
            }
            Proof::Original(path) => {
                let original = open_original(path, &self.known, self.request)?;
                if original.key()? == parent.key()? {
                    return Err(differs(self.request, "it is the original itself"));
                }
                let told = &mut |done| progress(done, total);
                if let Some(at) = same_content(&original, parent, told)? {
                    return Err(differs(self.request, &format!("byte {at} differs")));
                }
                Ok("every byte is that of the original".to_owned())
            }
            Proof::Trust => {
                Ok("length and samples are the same, and the rest was vouched for".to_owned())
            }
        }
    }
}

/// The file that the overlay recorded, unchanged.
fn open_original(path: &Path, known: &Known, request: &RebindRequest) -> Result<FileStorage> {
    let options = FileOptions { lock: LockMode::Shared, ..FileOptions::default() };
    let original = FileStorage::open(ImageName::parse(path).path, &options)?;
    match known.matches(Some(&Candidate::plain(&original)?))? {
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

fn nothing_recorded(request: &RebindRequest) -> HostError {
    HostError::new(ErrorKind::Mismatch, "rebind")
        .path(&request.path)
        .detail("it recorded nothing by which its parent could be recognised")
        .advice("if you are sure, say --trust")
}
