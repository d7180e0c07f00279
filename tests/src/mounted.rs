//! File systems of a test's own, for what the usual one does not do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system that is unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a new file system of `kind`, such as `tmpfs`, on a directory, which is made if it is not there.
    pub fn new(place: &Path, kind: &str, options: &str) -> Self {
        std::fs::create_dir_all(place).expect("the directory is made");
        mount(&["-t", kind, "-o", options, "none"], place)
    }

    /// Makes an ext4 of so many bytes in a file, and mounts it on a directory in the same way.
    pub fn image(place: &Path, file: &Path, bytes: u64) -> Self {
        Self::try_image(place, file, bytes).expect("a file system in a file is mounted")
    }

    /// Whether this machine lets us do that: tried with a small one.
    pub fn are_images_possible() -> bool {
        let directory = tempfile::tempdir().expect("a directory is made");
        let [place, file] = ["place", "file"].map(|name| directory.path().join(name));
        Self::try_image(&place, &file, 4 << 20).is_some()
    }

    fn try_image(place: &Path, file: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(place).expect("the directory is made");
        let image = std::fs::File::create(file).expect("the image is made");
        image.set_len(bytes).expect("it is as long as that");
        let is_done = |command: &mut Command| {
            let ended = command.stderr(Stdio::null()).status();
            ended.is_ok_and(|status| status.success())
        };
        // All of it for everybody, so that it is full when it says so.
        is_done(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(file))
            .then(|| is_done(Command::new("mount").args(["-o", "loop"]).args([file, place])))
            .filter(|is_mounted| *is_mounted)
            .map(|_| Self(place.to_owned()))
    }

    /// From now on nothing in it can be changed.
    pub fn make_read_only(&self) {
        let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(mounted.expect("mount starts").success(), "it is mounted read-only");
    }
}

fn mount(words: &[&str], place: &Path) -> Mounted {
    let mounted = Command::new("mount").args(words).arg(place).status();
    assert!(mounted.expect("mount starts").success(), "{words:?} is mounted");
    Mounted(place.to_owned())
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "it is unmounted");
    }
}
