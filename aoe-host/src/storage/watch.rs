//! Whether a file that must not change has changed, or is about to.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::FileStorage;
use super::lease::{self, LeaseState};
use crate::error::{HostError, Result};

/// What [`ChangeWatch::check`] found since it was last asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing.
    None,
    /// Another program wants to open the file for writing. Nothing has changed yet; the program was
    /// held up until now and may write from now on. Reported once.
    WriterWaits,
    /// Length, time of modification or time of change are other than when it was opened: what it
    /// holds can no longer be trusted. Reported for ever.
    Modified,
    /// The path leads to another file now. The open one, which is served, is as it was. Reported
    /// once.
    Replaced,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "it is unchanged",
            Self::WriterWaits => "another program is opening it for writing",
            Self::Modified => "it was changed while it was in use",
            Self::Replaced => "its path leads to another file now; the old one is still in use",
        })
    }
}

/// Watches one open file. Costs two system calls per check, or three.
#[derive(Debug)]
pub struct ChangeWatch {
    file: FileStorage,
    seen: Stamp,
    /// The system gave a lease at all.
    leased: bool,
    has_lease: AtomicBool,
    replaced: AtomicBool,
    /// A writer that was let go on has touched the file, perhaps without a trace in its times.
    touched: AtomicBool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            len: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }

    /// A new link or mode also counts as a change of the inode, which harms nobody.
    fn same_content(&self, now: &Self) -> bool {
        (self.device, self.inode, self.len, self.modified)
            == (now.device, now.inode, now.len, now.modified)
    }
}

impl ChangeWatch {
    /// Begins to watch. A read lease is taken where the system gives one; a block device has none.
    ///
    /// # Errors
    /// The system's.
    pub fn new(file: &FileStorage) -> Result<Self> {
        let failed = |e| HostError::io(e, "examine").path(file.path());
        let has_lease = !file.is_device() && lease::take(file.file());
        // The stamp comes second: a change in between breaks the lease.
        let seen = Stamp::of(&file.file().metadata().map_err(failed)?);
        Ok(Self {
            file: file.clone(),
            seen,
            leased: has_lease,
            has_lease: AtomicBool::new(has_lease),
            replaced: AtomicBool::new(false),
            touched: AtomicBool::new(false),
        })
    }

    /// The file.
    pub fn file(&self) -> &FileStorage {
        &self.file
    }

    /// The system holds writers up until [`check`](Self::check) has told of them.
    pub fn has_lease(&self) -> bool {
        self.has_lease.load(Ordering::Relaxed)
    }

    /// Whether [`check`](Self::check) is about to tell of a writer that waits: it is held up until
    /// then. Costs a system call.
    pub fn has_waiting_writer(&self) -> bool {
        self.has_lease() && lease::state(self.file.file()) == LeaseState::Breaking
    }

    /// Looks again. A writer that waits is let go on by the call that reports it.
    pub fn check(&self) -> Change {
        let file = self.file.file();
        // A file that cannot even be examined is not to be trusted either.
        let Ok(about) = file.metadata() else { return Change::Modified };
        // On a device node the times tell of the node, not of the content.
        let same = self.file.is_device() || self.seen.same_content(&Stamp::of(&about));
        if !same || self.touched.load(Ordering::Relaxed) {
            self.let_go();
            return Change::Modified;
        }
        if self.has_lease.load(Ordering::Relaxed) && lease::state(file) == LeaseState::Breaking {
            self.let_go();
            return Change::WriterWaits;
        }
        if !self.replaced.load(Ordering::Relaxed) && self.is_replaced() {
            self.replaced.store(true, Ordering::Relaxed);
            return Change::Replaced;
        }
        Change::None
    }

    /// After [`Change::WriterWaits`]: tries to hold writers up again. True if no program has the
    /// file open for writing any more, as far as the system tells, and nothing touched it: with a
    /// writer let through even the time of change of the inode counts, which nobody can set.
    pub fn regain(&self) -> bool {
        if self.has_lease() || !self.leased {
            return self.check() == Change::None;
        }
        let held = lease::take(self.file.file());
        self.has_lease.store(held, Ordering::Relaxed);
        if !held {
            return false;
        }
        let now = self.file.file().metadata().map(|about| Stamp::of(&about));
        if !now.is_ok_and(|now| now == self.seen) {
            self.touched.store(true, Ordering::Relaxed);
        }
        self.check() == Change::None
    }

    fn let_go(&self) {
        if self.has_lease.swap(false, Ordering::Relaxed) {
            lease::release(self.file.file());
        }
    }

    /// Only certain knowledge counts: a path that cannot be followed any more says nothing.
    fn is_replaced(&self) -> bool {
        std::fs::metadata(self.file.path())
            .is_ok_and(|there| (there.dev(), there.ino()) != (self.seen.device, self.seen.inode))
    }
}

impl Drop for ChangeWatch {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileOptions;
    use core::time::Duration;
    use std::fs;
    use std::io::Write;
    use std::time::{Instant, UNIX_EPOCH};

    /// A file of long ago: whatever is done to it now has another time, however coarse times are.
    fn golden(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("golden.img");
        fs::write(&path, b"golden bytes").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        path
    }

    fn watch(path: &std::path::Path) -> ChangeWatch {
        let file = FileStorage::open(path, &FileOptions::default()).unwrap();
        ChangeWatch::new(&file).unwrap()
    }

    #[test]
    fn writes_and_truncation_are_modifications() {
        let dir = tempfile::tempdir().unwrap();
        for change in [
            (|path| fs::write(path, b"other bytes!"))
                as fn(&std::path::Path) -> std::io::Result<()>,
            |path| fs::OpenOptions::new().write(true).open(path)?.set_len(3),
        ] {
            let path = golden(&dir);
            let watch = watch(&path);
            assert_eq!(watch.check(), Change::None);
            watch.let_go();
            change(&path).unwrap();
            assert_eq!(watch.check(), Change::Modified);
            assert_eq!(watch.check(), Change::Modified);
        }
    }

    #[test]
    fn a_writer_is_reported_before_it_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = golden(&dir);
        let watch = watch(&path);
        if !watch.has_lease() {
            println!("SKIP: a_writer_is_reported_before_it_can_write: no leases here");
            return;
        }
        assert_eq!(watch.check(), Change::None);
        let writer = std::thread::spawn(move || {
            fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"!").unwrap();
        });
        let begun = Instant::now();
        let reported = loop {
            match watch.check() {
                Change::None if begun.elapsed() < Duration::from_mins(1) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => break other,
            }
        };
        assert_eq!(reported, Change::WriterWaits);
        writer.join().unwrap();
        assert_eq!(watch.check(), Change::Modified);
    }

    #[test]
    fn a_replaced_path_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = golden(&dir);
        let watch = watch(&path);
        fs::write(dir.path().join("new"), b"golden bytes").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(watch.check(), Change::Replaced);
        assert_eq!(watch.check(), Change::None);
    }

    #[test]
    fn a_file_open_for_writing_has_no_lease_but_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = golden(&dir);
        let mut writer = fs::File::options().append(true).open(&path).unwrap();
        let watch = watch(&path);
        assert!(!watch.has_lease());
        writer.write_all(b"more").unwrap();
        assert_eq!(watch.check(), Change::Modified);
    }
}
