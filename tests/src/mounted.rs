//! A file system in memory, for what the usual one does not do.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that is unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a new file system of `kind`, such as `tmpfs`, on a directory, which is made if it is not there.
    pub fn new(place: &Path, kind: &str, options: &str) -> Self {
        std::fs::create_dir_all(place).expect("the directory is made");
        let words = ["-t", kind, "-o", options, "none"];
        let mounted = Command::new("mount").args(words).arg(place).status();
        assert!(mounted.expect("mount starts").success(), "{kind} is mounted");
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "it is unmounted");
    }
}
