//! The journal of a run as a file: what has to be put back, on the disk before it is altered.
//!
//! ```text
//!   file: | one line of JSON: who runs it, from which interface and addresses | records |
//! ```
//!
//! The records are those of [`aoe_proto::conformance::Record`]. The run holds a lock on the file.
//! A file without a whole record belongs to a run that has not altered anything yet.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aoe_proto::conformance::{Record, Records};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, HostError, Result};
use crate::values::{Address, Mac, serde_text};

/// What the first line of a journal says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Head {
    /// [`Head::FORMAT`].
    pub format: String,
    /// The interface of the run.
    pub interface: String,
    /// The addresses that the run sends from: its own, and perhaps a second one. A mask list that
    /// it made admits them only.
    #[serde(with = "serde_text::macs")]
    pub macs: Vec<Mac>,
}

impl Head {
    /// Name and version of the format.
    pub const FORMAT: &'static str = "cowblade-conform-journal-1";
}

/// Takes records and makes them durable.
pub trait Ledger {
    /// Appends a record; when this returns, it survives a power cut.
    ///
    /// # Errors
    /// When it does not.
    fn record(&mut self, record: &Record<'_>) -> Result<()>;

    /// Everything recorded so far, to be undone: `None` if nothing was, or nothing is left to do.
    fn pending(&self) -> Option<&[u8]>;

    /// Everything recorded was undone.
    ///
    /// # Errors
    /// When the record of that cannot be made durable.
    fn finish(&mut self) -> Result<()>;
}

/// A [`Ledger`] that is a file in a directory, made with the first record.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    head: Head,
    file: Option<(PathBuf, File)>,
    records: Vec<u8>,
}

impl Journal {
    /// A journal in `directory`, which need not exist.
    pub fn new(directory: &Path, head: Head) -> Self {
        Self { directory: directory.to_owned(), head, file: None, records: Vec::new() }
    }

    /// Where the file is, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    fn create(&mut self, address: Address, target_mac: Mac) -> Result<()> {
        let failed =
            |error, path: &Path| HostError::io(error, "keep the journal of the run").path(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| failed(error, &self.directory))?;
        let path = journal_path(&self.directory, address, target_mac);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|error| failed(error, &path))?;
        let line = serde_json::to_string(&self.head)
            .map_err(|error| failed(io::Error::other(error), &path))?;
        lock(&file, &path)?;
        append(&file, format!("{line}\n").as_bytes()).map_err(|error| failed(error, &path))?;
        sync_directory(&self.directory).map_err(|error| failed(error, &self.directory))?;
        self.file = Some((path, file));
        Ok(())
    }
}

impl Ledger for Journal {
    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if let (Record::Run { address, target_mac }, None) = (record, &self.file) {
            self.create(*address, *target_mac)?;
        }
        let Some((path, file)) = &self.file else {
            return Err(HostError::new(ErrorKind::Io, "keep the journal of the run"));
        };
        let failed =
            |error| HostError::io(error, "write to the journal of the run").path(path.as_path());
        let bytes = encoded(record).map_err(failed)?;
        append(file, &bytes).map_err(failed)?;
        self.records.extend_from_slice(&bytes);
        if *record == Record::Restored { self.finish() } else { Ok(()) }
    }

    fn pending(&self) -> Option<&[u8]> {
        self.file.as_ref().map(|_| self.records.as_slice())
    }

    fn finish(&mut self) -> Result<()> {
        let Some((path, _file)) = self.file.take() else { return Ok(()) };
        remove(&path)
    }
}

/// The bytes of a record.
pub(super) fn encoded(record: &Record<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; record.encoded_len()];
    record.encode(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A journal that was left behind, locked.
#[derive(Debug)]
pub struct Saved {
    /// Where it is.
    pub path: PathBuf,
    /// What its first line says.
    pub head: Head,
    /// Its records; empty if the run did not alter anything.
    pub records: Vec<u8>,
    _lock: File,
}

impl Saved {
    /// Opens a journal.
    ///
    /// # Errors
    /// `NotFound`, `InUse` while the run goes on, `Corrupt` if it is no journal, and what reading
    /// gives.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error| HostError::io(error, "open the journal").path(path);
        let mut file = File::open(path).map_err(failed)?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let corrupt = |detail: &str| {
            HostError::new(ErrorKind::Corrupt, "read the journal").path(path).detail(detail)
        };
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Err(corrupt("it has no first line; nothing was altered yet, so delete it"));
        };
        let records = bytes.split_off(end);
        let head: Head = serde_json::from_slice(&bytes)
            .ok()
            .filter(|head: &Head| head.format == Head::FORMAT)
            .ok_or_else(|| corrupt("it is not the journal of a conformance run"))?;
        let mut records = records.get(1..).unwrap_or_default().to_vec();
        if Records::new(&records).next().is_none() {
            if records.len() >= FIRST_RECORD_LEN {
                return Err(corrupt("its first record is damaged"));
            }
            records.clear();
        }
        Ok(Self { path: path.to_owned(), head, records, _lock: file })
    }

    /// The target that it is about; `None` if nothing was altered.
    pub fn target(&self) -> Option<(Address, Mac)> {
        match Records::new(&self.records).next() {
            Some(Record::Run { address, target_mac }) => Some((address, target_mac)),
            _ => None,
        }
    }

    /// Deletes the file: nothing is left to do.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

/// Bytes of the record that every journal begins with.
const FIRST_RECORD_LEN: usize = 19;

/// Where journals are kept: `$XDG_STATE_HOME/cowblade`, or what stands for it.
pub fn default_directory() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || {
        let home = set("HOME").filter(|_| !rustix::process::geteuid().is_root())?;
        Some(home.join(".local/state"))
    };
    set("XDG_STATE_HOME").or_else(user).unwrap_or_else(|| "/var/lib".into()).join("cowblade")
}

/// The journals in `directory` that are about `address`, whichever machine answered for it; with
/// `None` all.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn journals_of(directory: &Path, address: Option<Address>) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io(error, "look for journals").path(directory)),
    };
    let prefix = address.map_or_else(|| PREFIX.to_owned(), |address| format!("{PREFIX}{address}-"));
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && path.extension().is_some_and(|end| end == "journal")
        })
        .collect();
    found.sort();
    Ok(found)
}

const PREFIX: &str = "conform-";

/// Where in `directory` the journal of a target is.
pub fn journal_path(directory: &Path, address: Address, target_mac: Mac) -> PathBuf {
    let mac = target_mac.to_string().replace(':', "");
    directory.join(format!("{PREFIX}{address}-{mac}.journal"))
}

fn lock(file: &File, path: &Path) -> Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        let error = HostError::io(errno.into(), "use the journal").path(path);
        if errno == rustix::io::Errno::WOULDBLOCK {
            return error.detail("its run still goes on").advice("end that one first");
        }
        error
    })
}

fn append(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<()> {
    let failed = |error| HostError::io(error, "delete the journal").path(path);
    fs::remove_file(path).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_directory).map_err(failed)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn head() -> Head {
        Head {
            format: Head::FORMAT.to_owned(),
            interface: "eth0".to_owned(),
            macs: vec![Mac([2, 0, 0, 0, 0, 1])],
        }
    }

    fn run() -> Record<'static> {
        Record::Run { address: Address::new(7, 3).unwrap(), target_mac: TARGET }
    }

    #[test]
    fn a_run_that_was_killed_leaves_what_it_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/cowblade");
        let mut journal = Journal::new(&state, head());
        assert!(journal.pending().is_none() && journals_of(&state, None).unwrap().is_empty());
        journal.record(&run()).unwrap();
        journal.record(&Record::ConfigString(b"mine")).unwrap();
        let records = journal.pending().unwrap().to_vec();
        let path = journal.path().unwrap().to_owned();
        assert!(path.ends_with("conform-e7.3-020000000009.journal"), "{}", path.display());
        let error = Saved::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "the run goes on");
        let other = Journal::new(&state, head()).record(&run()).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::AlreadyExists);

        drop(journal);
        let address = Address::new(7, 3);
        assert_eq!(journals_of(&state, address).unwrap(), core::slice::from_ref(&path));
        assert!(journals_of(&state, Address::new(7, 30)).unwrap().is_empty());
        let saved = Saved::open(&path).unwrap();
        assert_eq!((&saved.head, &saved.records), (&head(), &records));
        assert_eq!(saved.target(), Some((address.unwrap(), TARGET)));
        saved.remove().unwrap();
        assert!(journals_of(&state, None).unwrap().is_empty());
    }

    #[test]
    fn a_clean_end_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(directory.path(), head());
        journal.record(&run()).unwrap();
        journal.record(&Record::Restored).unwrap();
        assert!(journal.pending().is_none());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn cut_anywhere_it_is_a_journal_or_says_that_nothing_was_altered() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(directory.path(), head());
        journal.record(&run()).unwrap();
        journal.record(&Record::ConfigString(b"mine")).unwrap();
        let whole = fs::read(journal.path().unwrap()).unwrap();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap();
        let path = directory.path().join("cut");
        for len in 0..=whole.len() {
            // A child that another test starts holds the lock of the last one for a moment.
            let path = directory.path().join(format!("cut-{len}"));
            fs::write(&path, &whole[..len]).unwrap();
            match Saved::open(&path) {
                Ok(saved) => {
                    assert!(len > first_line);
                    let first = first_line + 1 + FIRST_RECORD_LEN;
                    assert_eq!(saved.target().is_some(), len >= first, "{len}");
                }
                Err(error) => {
                    assert!(len <= first_line, "{len}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                }
            }
        }
        let mut damaged = whole;
        damaged[first_line + 3] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(Saved::open(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
