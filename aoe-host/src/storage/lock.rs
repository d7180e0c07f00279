//! Advisory locks on whole files, and who holds one that we cannot get.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, major, minor};
use rustix::io::Errno;

use super::file::{LockMode, retry};
use crate::error::{ErrorKind, HostError, Result};

/// Takes the lock at once or not at all.
///
/// # Errors
/// [`ErrorKind::InUse`] with the name of the holder where it can be found out.
pub(super) fn take(file: &File, path: &Path, mode: LockMode) -> Result<()> {
    let operation = match mode {
        LockMode::None => return Ok(()),
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match retry(|| rustix::fs::flock(file, operation)) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(refused(file, path, mode)),
        Err(errno) => Err(HostError::io(io::Error::from(errno), "lock").path(path)),
    }
}

/// Who holds the lock exclusively, for a file that is not locked by ourselves.
pub(super) fn writer(file: &File) -> Option<String> {
    match retry(|| rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)) {
        Err(Errno::WOULDBLOCK) => Some(describe_holders(file)),
        Ok(()) => {
            // What was just taken can be given back.
            let _given_back = retry(|| rustix::fs::flock(file, FlockOperation::Unlock));
            None
        }
        Err(_) => None,
    }
}

fn describe_holders(file: &File) -> String {
    let holders: Vec<String> = holders(file).iter().map(|pid| describe(*pid)).collect();
    if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") }
}

fn refused(file: &File, path: &Path, mode: LockMode) -> HostError {
    let by = describe_holders(file);
    let detail = match mode {
        LockMode::Exclusive => format!("it is in use by {by}"),
        _ => format!("it is being written by {by}"),
    };
    let advice = if mode == LockMode::Shared && by.contains("(cowblade)") {
        "stop that first; until then `cowblade info` shows what is recorded, and `cowblade status` what \
         the server holds"
            .to_owned()
    } else {
        format!("stop that first (`fuser -v {}` lists who has it open)", path.display())
    };
    HostError::new(ErrorKind::InUse, "lock").path(path).detail(detail).advice(advice)
}

/// Processes that hold a lock of our kind on the file, as far as the system lets us see them.
fn holders(file: &File) -> Vec<u32> {
    let (Ok(about), Ok(table)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let wanted = format!("{:02x}:{:02x}:{}", major(about.dev()), minor(about.dev()), about.ino());
    table.lines().filter_map(|line| holder_of(line, &wanted)).collect()
}

/// The process in a line such as `1: FLOCK  ADVISORY  WRITE 123 fe:01:4567 0 EOF`, if the line is
/// about the file. Lines of waiting processes have an arrow as second word.
fn holder_of(line: &str, wanted: &str) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let is_flock = words.next()? == "FLOCK";
    let pid = words.nth(2)?.parse().ok()?;
    (is_flock && words.next()? == wanted).then_some(pid)
}

fn describe(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_lock_table() {
        let line = "1: FLOCK  ADVISORY  WRITE 123 fe:01:4567 0 EOF";
        assert_eq!(holder_of(line, "fe:01:4567"), Some(123));
        assert_eq!(holder_of(line, "fe:01:456"), None);
        let posix = "1: POSIX  ADVISORY  WRITE 123 fe:01:4567 0 EOF";
        assert_eq!(holder_of(posix, "fe:01:4567"), None);
        let waiting = "1: -> FLOCK  ADVISORY  WRITE 9 fe:01:4567 0 EOF";
        assert_eq!(holder_of(waiting, "fe:01:4567"), None);
        assert_eq!(holder_of("", "fe:01:4567"), None);
    }

    #[test]
    fn second_holder_is_refused_and_told_the_first() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(path.path()).unwrap();
        let (first, second) = (open(), open());
        take(&first, path.path(), LockMode::Shared).unwrap();
        take(&second, path.path(), LockMode::Shared).unwrap();
        let error = take(&second, path.path(), LockMode::Exclusive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        let text = error.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        // A failed conversion may have given the shared lock up, which is fine here.
        drop(first);
        take(&second, path.path(), LockMode::Exclusive).unwrap();
        let error = take(&open(), path.path(), LockMode::Shared).unwrap_err();
        assert!(error.to_string().contains("being written"), "{error}");
    }
}
