//! What lies below an image: what the image says, and what our file beside it adds.

use std::path::{Path, PathBuf};

use cow_core::format::qcow2;
use cow_core::identity::ParentIdentity;

use super::super::{Format, backing_name, detect};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::name::{ImageFile, ImageName};
use crate::image::parent::{Below, Known, Recorded};
use crate::storage::{FileOptions, FileStorage};

/// Where the image says that its backing file is.
pub(super) fn backing_path(file: &ImageFile, opened: &qcow2::Opened) -> Result<Option<PathBuf>> {
    if opened.header().backing_name_len() == 0 {
        return Ok(None);
    }
    let mut buffer = [0; qcow2::MAX_NAME_LEN];
    let name = qcow2::backing_name(&file.main, opened, &mut buffer)?;
    backing_name::resolve(name, file.path()).map(Some)
}

/// The format that a word of QEMU's means. Ours are their own words.
pub(super) fn format_of(word: &[u8]) -> Option<Format> {
    match word {
        b"qcow" => Format::named("qcow1"),
        // QEMU's word for files and devices that it reads as they are.
        b"file" | b"host_device" => Some(Format::RAW),
        other => core::str::from_utf8(other).ok().and_then(Format::named),
    }
}

/// Name and format of what is below, as an image at `path` records them. Empty if nothing is.
pub(super) fn backing_of(below: &Below, path: &Path, op: &str) -> Result<(Vec<u8>, String)> {
    if below.is_blank() {
        return Ok((Vec::new(), String::new()));
    }
    let name = backing_name::name_of(below, path, op)?;
    let format = match (below.forced, &below.parent.raw, &below.path) {
        (Some(forced), _, _) => forced,
        (None, Some(_), _) | (None, None, None) => Format::RAW,
        (None, None, Some(parent)) => {
            let name = ImageName::parse(parent);
            match name.forced.filter(|_| name.metadata.is_some()) {
                Some(format) => format,
                None => detect(&FileStorage::open(parent, &FileOptions::default())?)?,
            }
        }
    };
    let word = if format.word() == "qcow1" { "qcow" } else { format.word() };
    Ok((name, word.to_owned()))
}

/// The image says where its parent is, our file beside it by what it is recognised.
pub(super) fn recorded(
    file: &ImageFile,
    path: PathBuf,
    format: Option<Format>,
) -> Result<Recorded> {
    let mut recorded = match Binding::load(&file.main)? {
        Some(binding) => binding.recorded(),
        None => Recorded { known: Known::Nothing, window: None, path: None, format: None },
    };
    if recorded.known == Known::Identity(ParentIdentity::None) {
        recorded.known = Known::Nothing; // written down when it stood alone
    }
    (recorded.path, recorded.format) = (Some(path), format);
    Ok(recorded)
}

/// Compares what is below with what the image says; a warning, if that is too little.
pub(super) fn compare(
    file: &ImageFile,
    opened: &qcow2::Opened,
    below: Option<&Below>,
) -> Result<Option<String>> {
    let below = below.filter(|below| !below.is_blank());
    let refused = |detail: &str| {
        HostError::new(ErrorKind::Mismatch, "use the image").path(file.path()).detail(detail)
    };
    match (backing_path(file, opened)?, below) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(refused("it stands alone: whatever is below it would not be seen")
            .advice("use it without an image below")),
        (Some(name), None) => Err(refused("its backing file is missing")
            .advice(format!("name the image below it; it was made over `{}`", name.display()))),
        (Some(name), Some(_)) => {
            let recorded = recorded(file, name, None)?;
            recorded.check(below, file.path())?;
            let unknown = recorded.known == Known::Nothing;
            Ok(unknown.then(|| {
                format!(
                    "`{}` knows only the name of its backing file: make sure yourself that it is \
                     the one",
                    file.path().display()
                )
            }))
        }
    }
}
