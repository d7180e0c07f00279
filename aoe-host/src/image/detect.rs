//! What a file is, by its content; and names that force the answer.

use core::fmt;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::format::{dm_snapshot, native};
use cow_core::storage::ReadStorage;
use serde::Serialize;

use super::identity::scratch_page;
use crate::error::Result;
use crate::storage::FileStorage;

/// Formats of images.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The bytes of a disk, one after the other. Anything that is nothing else.
    Raw,
    /// Our own overlays.
    Native,
    /// The persistent store of the kernel's `snapshot` target.
    DmSnapshot,
}

impl Format {
    /// Word in names and messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Native => "native",
            Self::DmSnapshot => "dm-snapshot",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A path as a person gives it: `raw:PATH` forces the format, which matters for a raw image whose
/// first sector is under the control of a guest. A path that begins like that is written `./raw:...`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageName {
    /// The file or device.
    pub path: PathBuf,
    /// What it is, whatever its content looks like.
    pub forced: Option<Format>,
}

impl ImageName {
    /// Splits the prefix off.
    pub fn parse(name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        for format in [Format::Raw, Format::Native, Format::DmSnapshot] {
            let bytes = name.as_os_str().as_bytes();
            let rest = bytes.strip_prefix(format.word().as_bytes());
            if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b":")) {
                return Self { path: PathBuf::from(OsStr::from_bytes(rest)), forced: Some(format) };
            }
        }
        Self { path: name.to_owned(), forced: None }
    }

    /// The forced format, or what the content says.
    ///
    /// # Errors
    /// As [`detect`].
    pub fn format_of(&self, file: &FileStorage) -> Result<Format> {
        self.forced.map_or_else(|| detect(file), Ok)
    }
}

/// What the content of a file looks like. Damaged overlays are still recognised by what is left of
/// their headers.
///
/// # Errors
/// The medium's.
pub fn detect(file: &FileStorage) -> Result<Format> {
    if native::is_native(file, &mut scratch_page())? {
        return Ok(Format::Native);
    }
    let mut first = [0; 4];
    if file.len_bytes()? >= 512 {
        file.read_at(0, &mut first)?;
    }
    Ok(if dm_snapshot::is_store(&first) { Format::DmSnapshot } else { Format::Raw })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileOptions;

    #[test]
    fn prefixes_force_a_format() {
        for (name, path, forced) in [
            ("golden.img", "golden.img", None),
            ("raw:golden.img", "golden.img", Some(Format::Raw)),
            ("dm-snapshot:/a/b.cow.0", "/a/b.cow.0", Some(Format::DmSnapshot)),
            ("native:x", "x", Some(Format::Native)),
            ("./raw:x", "./raw:x", None),
            ("rawx", "rawx", None),
        ] {
            assert_eq!(ImageName::parse(name), ImageName { path: path.into(), forced }, "{name}");
        }
    }

    #[test]
    fn content_decides_without_a_prefix() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let look = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            detect(&FileStorage::open(file.path(), &FileOptions::default()).unwrap()).unwrap()
        };
        assert_eq!(look(b""), Format::Raw);
        assert_eq!(look(b"SnAp"), Format::Raw);
        let mut store = vec![0; 512];
        store[..16].copy_from_slice(b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        assert_eq!(look(&store), Format::DmSnapshot);
        let mut native = vec![0; 8192];
        native[4096..4104].copy_from_slice(b"cowblade");
        assert_eq!(look(&native), Format::Native);
    }
}
