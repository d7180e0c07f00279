//! What an image says about what lies below it.

use std::path::{Path, PathBuf};

use cow_core::format::qcow2;

use super::super::{Format, backing_file};
use crate::error::Result;
use crate::image::name::ImageFile;
use crate::image::parent::Below;

/// Where the image says that its backing file is.
pub(super) fn backing_path(file: &ImageFile, opened: &qcow2::Opened) -> Result<Option<PathBuf>> {
    if opened.header().backing_name_len() == 0 {
        return Ok(None);
    }
    let mut buffer = [0; qcow2::MAX_NAME_LEN];
    let name = qcow2::backing_name(&file.main, opened, &mut buffer)?;
    backing_file::resolve(name, file.path()).map(Some)
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
    let name = backing_file::name_of(below, path, op)?;
    let format = below.format.unwrap_or(Format::RAW);
    let word = if format.word() == "qcow1" { "qcow" } else { format.word() };
    Ok((name, word.to_owned()))
}
