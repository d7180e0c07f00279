//! The root file system of a guest: a cpio archive (newc) built from the installed packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

/// A cpio archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory and its parents; `path` is absolute in the guest.
    pub fn add_directory(&mut self, path: &str) {
        let mut parent = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            parent = if parent.is_empty() { part.into() } else { format!("{parent}/{part}") };
            if self.paths.insert(parent.clone()) {
                self.entry(&parent, DIRECTORY, &[]);
            }
        }
    }

    /// Adds a file; `path` is absolute in the guest.
    pub fn add_file(&mut self, path: &str, data: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.add_directory(parent);
        }
        let relative = path.trim_start_matches('/');
        if self.paths.insert(relative.into()) {
            self.entry(relative, EXECUTABLE, data);
        }
    }

    /// Adds a program of this machine as `to`, and the shared libraries it loads.
    pub fn add_program(&mut self, from: &Path, to: &str) {
        self.add_file(to, &read(from));
        let listing = Command::new("ldd").arg(from).output().expect("ldd starts");
        // A static program makes ldd fail, which means: no libraries.
        for word in String::from_utf8_lossy(&listing.stdout).split_whitespace() {
            if word.starts_with('/') && !word.ends_with(':') {
                self.add_file(word, &read(Path::new(word)));
            }
        }
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        let inode = self.paths.len();
        let (length, name_length) = (data.len(), path.len() + 1);
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{name_length:08x}{:08x}",
            0, 0, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_have_the_newc_layout() {
        let mut archive = Archive::default();
        archive.add_file("/a/b", b"xyz");
        archive.add_directory("/a");
        let bytes = archive.finish();
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        assert!(text.starts_with("070701"));
        assert_eq!(text.matches("070701").count(), 3, "directory, file, trailer");
        // A header has 110 bytes; "a" and its NUL end at 112, which is aligned already.
        assert_eq!(text.get(112..118), Some("070701"));
        assert_eq!(text.get(112 + 54..112 + 62), Some("00000003"), "file size");
        assert_eq!(text.get(112 + 110..112 + 114), Some("a/b\0"));
        assert!(text.contains("TRAILER!!!"));
    }
}
