//! What images are called, and the file or files that a name stands for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cow_core::pages::StorageKey;

use super::formats::{Format, recognise};
use crate::error::{ErrorKind, HostError, Result};
use crate::storage::{Access, DiskUse, FileKey, FileOptions, FileStorage, FileTable};

/// Stands between the two files of an image that keeps its metadata apart.
const AND: u8 = b'+';

/// Stands between a format and a snapshot inside an image.
const AT: u8 = b'@';

/// A path as a person gives it: `raw:PATH` forces the format, which matters for a raw image whose
/// first sector is under the control of a guest. A path that begins like that is written `./raw:...`.
/// Formats with two files are always forced, and name both: `FORMAT:DATA+METADATA`. An internal
/// snapshot is `FORMAT@SNAPSHOT:PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageName {
    /// The file or device; of two, the one with the data.
    pub path: PathBuf,
    /// The file or device with the metadata, where they are apart.
    pub metadata: Option<PathBuf>,
    /// What it is, whatever its content looks like.
    pub forced: Option<Format>,
    /// The snapshot inside the image that is meant, by its number or name, in place of its disk as it
    /// is now. Such an image is only read.
    pub snapshot: Option<OsString>,
}

impl ImageName {
    /// Splits the prefix off.
    pub fn parse(name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        let prefixed = Format::all().find_map(|format| Some((format, after(name, format)?)));
        let plain = Self { path: name.to_owned(), metadata: None, forced: None, snapshot: None };
        match prefixed {
            Some((format, rest)) => Self::split(Path::new(OsStr::from_bytes(rest)), format),
            None => Format::all().find_map(|format| inside(name, format)).unwrap_or(plain),
        }
    }

    /// The name of an image that is about to be made in `format`.
    pub(crate) fn new_in(format: Format, name: &Path) -> Self {
        if format.ops().has_metadata_file() {
            let rest = after(name, format).unwrap_or(name.as_os_str().as_bytes());
            return Self::split(Path::new(OsStr::from_bytes(rest)), format);
        }
        Self { path: name.to_owned(), metadata: None, forced: Some(format), snapshot: None }
    }

    fn split(path: &Path, format: Format) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let and =
            bytes.iter().rposition(|b| *b == AND).filter(|_| format.ops().has_metadata_file());
        let (path, metadata) = match and.and_then(|at| bytes.split_at_checked(at)) {
            Some((data, metadata)) => {
                (OsStr::from_bytes(data), Some(OsStr::from_bytes(metadata.split_at(1).1)))
            }
            None => (path.as_os_str(), None),
        };
        Self {
            path: path.into(),
            metadata: metadata.map(PathBuf::from),
            forced: Some(format),
            snapshot: None,
        }
    }

    /// How overlays remember where this image is: by its path. One of two files has its whole name
    /// there, which other programs cannot open: they would take one of the files for a plain image.
    /// `None` for a snapshot inside another image: a path that led to the file would be taken for that.
    pub(crate) fn hint(&self) -> Option<PathBuf> {
        if self.snapshot.is_some() {
            return None;
        }
        Some(match self.forced {
            Some(format) if self.metadata.is_some() => self.settled(format),
            _ => std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone()),
        })
    }

    /// What an image in `directory` remembers, see [`hint`](Self::hint). A prefix of a format of one
    /// file is a part of the path.
    pub(crate) fn remembered(hint: &Path, directory: &Path) -> Self {
        let name = Self::parse(hint);
        if name.metadata.is_none() {
            let path = directory.join(hint);
            return Self { path, metadata: None, forced: None, snapshot: None };
        }
        name.map(|path| Ok::<_, core::convert::Infallible>(directory.join(path)))
            .unwrap_or_else(|never| match never {})
    }

    /// The same with other paths.
    pub(crate) fn map<E>(
        &self,
        change: impl Fn(&Path) -> core::result::Result<PathBuf, E>,
    ) -> core::result::Result<Self, E> {
        let metadata = self.metadata.as_deref().map(&change).transpose()?;
        Ok(Self { path: change(&self.path)?, metadata, ..self.clone() })
    }

    /// As [`parse`](Self::parse) reads it.
    pub(crate) fn spelt(&self) -> PathBuf {
        let Some(format) = self.forced else { return self.path.clone() };
        let mut name = OsString::from(format.word());
        if let Some(snapshot) = &self.snapshot {
            name.push(OsStr::from_bytes(&[AT]));
            name.push(snapshot);
        }
        name.push(":");
        name.push(&self.path);
        if let Some(metadata) = &self.metadata {
            name.push(OsStr::from_bytes(&[AND]));
            name.push(metadata);
        }
        PathBuf::from(name)
    }

    /// The content of `file` would be taken for another format than the forced one, or refused. The
    /// [hint](Self::hint) of an image of two files says the format already.
    pub(crate) fn misleads(&self, file: &FileStorage) -> bool {
        let forced = self.forced.filter(|_| self.metadata.is_none());
        forced.is_some_and(|forced| !recognise(file).is_ok_and(|format| format == forced))
    }

    /// A name that means this image from everywhere and never anything else: absolute, with its format.
    pub(crate) fn settled(&self, format: Format) -> PathBuf {
        let absolute =
            |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let metadata = self.metadata.as_deref().map(absolute);
        let (path, snapshot) = (absolute(&self.path), self.snapshot.clone());
        Self { path, metadata, forced: Some(format), snapshot }.spelt()
    }

    /// The forced format, or what the content says.
    ///
    /// # Errors
    /// The medium's; [`ErrorKind::Unsupported`](crate::error::ErrorKind::Unsupported) for images of a
    /// format that is not read.
    pub fn format_of(&self, file: &FileStorage) -> Result<Format> {
        self.forced.map_or_else(|| recognise(file), Ok)
    }

    /// Opens the file or both and finds out what they are. A part that `options` names is one of the
    /// data.
    pub(crate) fn open(&self, options: &FileOptions) -> Result<(ImageFile, Format)> {
        if self.snapshot.is_some() && options.access == Access::ReadWrite {
            return Err(HostError::new(ErrorKind::Unsupported, "write the image")
                .path(&self.path)
                .detail("a snapshot inside an image is only read")
                .advice("make an overlay on it, with `cowblade create --backing`"));
        }
        let (file, format, doubt) = self.look(options)?;
        doubt.map_or(Ok((file, format)), Err)
    }

    /// As [`open`](Self::open), but for a file that is only to be described: one that looks like an image
    /// of a format that is not read is opened as a plain one, with what is wrong with that.
    pub(crate) fn look(
        &self,
        options: &FileOptions,
    ) -> Result<(ImageFile, Format, Option<HostError>)> {
        let main = FileStorage::open(&self.path, options)?;
        let whole = FileOptions { window: crate::config::Window::default(), ..*options };
        let metadata = self.metadata.as_ref().map(|path| FileStorage::open(path, &whole));
        let file =
            ImageFile { main, metadata: metadata.transpose()?, snapshot: self.snapshot.clone() };
        match self.format_of(&file.main) {
            Ok(format) => Ok((file, format, None)),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Ok((file, Format::RAW, Some(error)))
            }
            Err(error) => Err(error),
        }
    }
}

/// What follows `format:` in a name.
fn after(name: &Path, format: Format) -> Option<&[u8]> {
    let rest = name.as_os_str().as_bytes().strip_prefix(format.word().as_bytes())?;
    rest.strip_prefix(b":")
}

/// What `format@snapshot:path` means.
fn inside(name: &Path, format: Format) -> Option<ImageName> {
    let rest = name.as_os_str().as_bytes().strip_prefix(format.word().as_bytes())?;
    let rest = rest.strip_prefix(&[AT]).filter(|_| format.ops().has_snapshots())?;
    let at = rest.iter().position(|byte| *byte == b':').filter(|at| *at > 0)?;
    let (snapshot, path) = rest.split_at_checked(at)?;
    let path = path.split_first().map_or(&[][..], |(_colon, path)| path);
    Some(ImageName {
        path: PathBuf::from(OsStr::from_bytes(path)),
        metadata: None,
        forced: Some(format),
        snapshot: Some(OsString::from(OsStr::from_bytes(snapshot))),
    })
}

/// The open file of an image or, in formats that keep their metadata apart, both.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// The only file, or the one with the data: the image is named after it.
    pub main: FileStorage,
    /// The file with the metadata, where they are apart.
    pub metadata: Option<FileStorage>,
    /// The snapshot inside it that is meant; see [`ImageName::snapshot`].
    pub snapshot: Option<OsString>,
}

impl ImageFile {
    /// Where the image is.
    pub fn path(&self) -> &Path {
        self.main.path()
    }

    /// What the files take together.
    ///
    /// # Errors
    /// The system's.
    pub fn disk_use(&self) -> Result<DiskUse> {
        let mut used = self.main.disk_use()?;
        if let Some(metadata) = &self.metadata {
            let more = metadata.disk_use()?;
            used.apparent_bytes = used.apparent_bytes.saturating_add(more.apparent_bytes);
            used.allocated_bytes = used.allocated_bytes.saturating_add(more.allocated_bytes);
        }
        Ok(used)
    }

    /// The file or both.
    pub fn files(&self) -> impl Iterator<Item = &FileStorage> {
        core::iter::once(&self.main).chain(&self.metadata)
    }

    pub(crate) fn keys(&self) -> Result<Vec<FileKey>> {
        self.files().map(FileStorage::key).collect()
    }

    /// Waits until everything written is durable.
    pub(crate) fn sync_data(&self) -> Result<()> {
        self.files().try_for_each(|file| Ok(file.sync_data()?))
    }
}

impl From<FileStorage> for ImageFile {
    fn from(main: FileStorage) -> Self {
        Self { main, metadata: None, snapshot: None }
    }
}

/// Under which the engine knows the file or files of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImageKeys {
    /// Of the only file, or of that with the data.
    pub main: StorageKey,
    /// Of the file with the metadata, where they are apart.
    pub metadata: Option<StorageKey>,
}

impl ImageKeys {
    /// Fresh keys for an image of this name; [`enter`](Self::enter) gives them their files.
    pub fn reserve(name: &ImageName, files: &mut FileTable) -> Self {
        let main = files.reserve();
        Self { main, metadata: name.metadata.is_some().then(|| files.reserve()) }
    }

    /// Puts the files of an image under its keys.
    pub fn enter(self, file: &ImageFile, files: &mut FileTable) {
        files.set(self.main, file.main.clone());
        if let (Some(key), Some(metadata)) = (self.metadata, &file.metadata) {
            files.set(key, metadata.clone());
        }
    }

    /// Takes the files out of the table.
    pub fn leave(self, files: &mut FileTable) {
        for key in self.all() {
            drop(files.remove(key));
        }
    }

    /// The key or both.
    pub fn all(self) -> impl Iterator<Item = StorageKey> {
        core::iter::once(self.main).chain(self.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_force_a_format() {
        let dm_snapshot = Format::named("dm-snapshot");
        for (name, path, forced) in [
            ("golden.img", "golden.img", None),
            ("raw:golden.img", "golden.img", Some(Format::RAW)),
            ("dm-snapshot:/a/b.cow.0", "/a/b.cow.0", dm_snapshot),
            ("native:x+y", "x+y", Some(Format::NATIVE)),
            ("./raw:x", "./raw:x", None),
            ("rawx", "rawx", None),
        ] {
            let expected = ImageName { path: path.into(), metadata: None, forced, snapshot: None };
            assert_eq!(ImageName::parse(name), expected, "{name}");
        }
        assert_eq!(dm_snapshot.map(Format::word), Some("dm-snapshot"));
    }

    #[test]
    fn snapshots_are_named_with_their_format() {
        let qcow2 = Format::named("qcow2");
        for (name, path, snapshot, forced) in [
            ("qcow2@monday:/a/b.qcow2", "/a/b.qcow2", Some("monday"), qcow2),
            ("qcow2@1:a:b", "a:b", Some("1"), qcow2),
            ("qcow2@x y/z:a", "a", Some("x y/z"), qcow2),
            ("qcow2@:a", "qcow2@:a", None, None),
            ("qcow2@a", "qcow2@a", None, None),
            ("qcow1@x:a", "qcow1@x:a", None, None),
            ("./qcow2@x:a", "./qcow2@x:a", None, None),
        ] {
            let snapshot = snapshot.map(OsString::from);
            let found = ImageName::parse(name);
            assert_eq!(found, ImageName { path: path.into(), metadata: None, forced, snapshot });
            let again = found.forced.map(|format| ImageName::parse(found.settled(format)));
            assert!(again.is_none_or(|again| again == found), "{name}");
            assert_eq!(found.hint().is_none(), found.snapshot.is_some());
        }
    }
}
