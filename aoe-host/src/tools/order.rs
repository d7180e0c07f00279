//! The order in which a chain was typed: `overlay,base` as ours, or `base,overlay` and
//! `base,previous,current` as some old tools had it.

use std::path::{Path, PathBuf};

use crate::error::{HostError, Result};
use crate::image::ImageName;
use crate::storage::FileOptions;

/// What a name in a chain stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Missing,
    /// Nothing can be below it: a plain image, or one that has no parent.
    Base,
    Overlay,
}

fn kind_of(path: &Path) -> Result<Kind> {
    let name = ImageName::parse(path);
    if !name.path.exists() {
        return Ok(Kind::Missing);
    }
    let (file, format) = name.open(&FileOptions::default())?;
    let ops = format.ops();
    let has_parent = ops.needs_parent() || (!ops.is_plain() && ops.parent(&file)?.is_some());
    Ok(if has_parent { Kind::Overlay } else { Kind::Base })
}

/// Whether a chain of whole files was typed from the base up: the first can only be a base, and the last
/// is an overlay. What is in between is not looked at, and nothing is changed.
///
/// # Errors
/// The first can only be a base and yet no overlay is there, so that the order cannot be told; the
/// system's, and damage of an image that had to be looked at.
pub(crate) fn is_base_first(paths: &[PathBuf]) -> Result<bool> {
    let [first, .., last] = paths else { return Ok(false) };
    if kind_of(first)? != Kind::Base {
        return Ok(false); // an overlay on top, as it should be, or one that is to be made
    }
    let doubt = |detail: &str, advice: &str| {
        Err(HostError::usage("use the chain", detail).path(first).advice(advice))
    };
    match kind_of(last)? {
        Kind::Overlay => Ok(true),
        Kind::Base => doubt(
            "it is a base, which hides what is below it, and the last one is a base as well",
            "name the overlay first; `cowblade create` makes one",
        ),
        Kind::Missing => doubt(
            "it is a base, which hides what is below it, and the last one does not exist",
            "name the overlay first: OVERLAY,BASE",
        ),
    }
}

/// Says how a chain that was typed from the base up was read.
pub(crate) fn turned_words(base: &Path, top: &Path) -> String {
    let (base, top) = (base.display(), top.display());
    format!("the chain was read from the base up: `{base}` is the base and `{top}` the top")
}
