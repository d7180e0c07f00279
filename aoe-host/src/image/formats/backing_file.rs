//! Backing files of images in QEMU's formats: their names, which are paths relative to the image's own
//! directory, and by what they are recognised, which our file beside the image says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::identity::ParentIdentity;

use super::Format;
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::name::{ImageFile, ImageName};
use crate::image::parent::{Below, Known, Recorded};

/// The path that a name in the image at `image` means.
///
/// # Errors
/// A name that is no path but a protocol, such as `nbd://HOST` or `json:{...}`: QEMU would connect to
/// it, and a file of that name is not what was meant.
pub(super) fn resolve(name: &[u8], image: &Path) -> Result<PathBuf> {
    let remembered = ImageName::remembered(Path::new(OsStr::from_bytes(name)), directory(image));
    if remembered.metadata.is_some() {
        return Ok(remembered.spelt()); // of ours: no such protocol exists
    }
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    let before_colon = name.split(|byte| *byte == b':').next().unwrap_or_default();
    if before_colon.len() < name.len() && !before_colon.contains(&b'/') {
        let shown = String::from_utf8_lossy(name).into_owned();
        return Err(HostError::new(ErrorKind::Unsupported, "follow the image to its backing file")
            .path(image)
            .detail(format!("`{shown}` is not the name of a file"))
            .advice(
                "give it another name with `qemu-img rebase -u`, or convert it with `qemu-img`",
            ));
    }
    Ok(directory(image).join(OsStr::from_bytes(name)))
}

/// The name of what is below, for an image at `image`: only the file's own name if both are in one
/// directory, so that they can be moved together; otherwise the whole path.
///
/// # Errors
/// Nothing is below.
pub(super) fn name_of(below: &Below, image: &Path, op: &str) -> Result<Vec<u8>> {
    let Some(path) = below.path.as_deref() else {
        let detail = if below.is_blank() {
            "the format cannot give up its parent"
        } else {
            "a snapshot inside another image has no name to record"
        };
        return Err(HostError::new(ErrorKind::Unsupported, op).path(image).detail(detail));
    };
    let here = std::fs::canonicalize(directory(image)).ok();
    let short = path.file_name().filter(|_| here.is_some() && path.parent() == here.as_deref());
    let mut name = short.unwrap_or(path.as_os_str()).as_bytes().to_vec();
    // Or it would be taken for a protocol.
    if short.is_some() && name.contains(&b':') {
        name.splice(0..0, *b"./");
    }
    Ok(name)
}

/// The image says where its parent is and perhaps its format, our file beside it by what it is
/// recognised.
pub(super) fn recorded(file: &ImageFile, path: PathBuf, said: Option<Format>) -> Result<Recorded> {
    let mut recorded = match Binding::load(&file.main)? {
        Some(binding) => binding.recorded(),
        None => Recorded { known: Known::Nothing, window: None, path: None, format: None },
    };
    if recorded.known == Known::Identity(ParentIdentity::None) {
        recorded.known = Known::Nothing; // written down when it stood alone
    }
    recorded.path = Some(path);
    recorded.format = said.or(recorded.format);
    Ok(recorded)
}

/// Compares what is below with the backing file that the image names, if any; a warning, if that is
/// too little.
pub(super) fn compare(
    file: &ImageFile,
    named: Option<PathBuf>,
    below: Option<&Below>,
) -> Result<Option<String>> {
    let below = below.filter(|below| !below.is_blank());
    let refused = |detail: &str| {
        HostError::new(ErrorKind::Mismatch, "use the image").path(file.path()).detail(detail)
    };
    match (named, below) {
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

fn directory(image: &Path) -> &Path {
    match image.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_beside_the_image_and_never_protocols() {
        let at = |name: &str| resolve(name.as_bytes(), Path::new("dir/top.qcow"));
        assert_eq!(at("base.img").unwrap(), Path::new("dir/base.img"));
        assert_eq!(at("file:base.img").unwrap(), Path::new("dir/base.img"));
        assert_eq!(at("../a:b").unwrap(), Path::new("dir/../a:b"));
        assert_eq!(at("/abs/base.img").unwrap(), Path::new("/abs/base.img"));
        assert_eq!(resolve(b"x", Path::new("top.qcow")).unwrap(), Path::new("./x"));
        assert_eq!(at("dm-cow:w+/b").unwrap(), Path::new("dm-cow:dir/w+/b"));
        for name in ["dm-cow:w", "nbd://host/x", "json:{\"driver\":\"raw\"}", "fat:rw:dir", ":"] {
            assert!(at(name).is_err(), "{name}");
        }
    }

    #[test]
    fn neighbours_are_named_by_their_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::canonicalize(dir.path()).unwrap();
        let below = |path: PathBuf| Below { path: Some(path), ..Below::blank(1) };
        let image = dir.join("top.qcow");
        let name = |path| name_of(&below(path), &image, "test").unwrap();
        assert_eq!(name(dir.join("base.img")), b"base.img");
        assert_eq!(name(dir.join("a:b")), b"./a:b");
        assert_eq!(name(PathBuf::from("/elsewhere/base.img")), b"/elsewhere/base.img");
        assert!(name_of(&Below::blank(1), &image, "test").is_err());
        for path in [dir.join("base.img"), dir.join("a:b"), PathBuf::from("/elsewhere/x")] {
            assert_eq!(resolve(&name(path.clone()), &image).unwrap().canonicalize().ok(), None);
            let resolved = resolve(&name(path.clone()), &image).unwrap();
            assert_eq!(resolved.file_name(), path.file_name());
        }
    }
}
