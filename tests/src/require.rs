//! What a test needs from the machine. A missing need skips the test, aloud and counted.

use core::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mounted::Mounted;

/// Environment variable with the file that collects one line per skipped test.
pub const SKIP_LOG: &str = "COWBLADE_SKIP_LOG";
/// Environment variable with the file that collects one line per void attempt.
pub const VOID_LOG: &str = "COWBLADE_VOID_LOG";

/// One need of a test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Effective user id 0: namespaces and raw sockets.
    Root,
    /// A program on `PATH`.
    Program(&'static str),
    /// A file of an installed package.
    File(&'static str),
    /// A module of the installed user-mode-linux kernel.
    UmlModule(&'static str),
    /// The system mounts a file system that is in a file.
    MountedImage,
    /// Temporary files are where a server keeps commit logs.
    CommitLogs,
}

/// File systems that are no use for commit logs, as `stat` calls them.
const WITHOUT_LOGS: [&str; 7] = ["tmpfs", "ramfs", "btrfs", "f2fs", "zfs", "bcachefs", "nilfs"];

/// What every test with a user-mode-linux initiator needs.
pub const UML_INITIATOR: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("linux.uml"),
    Need::Program("busybox"),
    Need::UmlModule("aoe"),
];

impl Need {
    fn is_met(self) -> bool {
        match self {
            // SAFETY: geteuid has no preconditions and cannot fail.
            Self::Root => unsafe { libc::geteuid() == 0 },
            Self::Program(name) => program(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::UmlModule(name) => uml_module(name).is_some(),
            Self::MountedImage => Mounted::are_images_possible(),
            Self::CommitLogs => !WITHOUT_LOGS.contains(&&*kind_of(&std::env::temp_dir())),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Program(name) => write!(f, "the program {name}"),
            Self::File(path) => write!(f, "the file {path}"),
            Self::UmlModule(name) => write!(f, "user-mode-linux's module {name}"),
            Self::MountedImage => f.write_str("a loop device with an ext4"),
            Self::CommitLogs => f.write_str("a temporary directory with places on a disk"),
        }
    }
}

/// What `stat` calls the file system that holds a directory.
fn kind_of(directory: &Path) -> String {
    let said = Command::new("stat").args(["-f", "-c", "%T"]).arg(directory).output();
    String::from_utf8_lossy(&said.expect("stat starts").stdout).trim().to_owned()
}

/// Says whether `test` can run; if not, prints and counts the skip.
pub fn met(test: &str, needs: &[&[Need]]) -> bool {
    let missing: Vec<_> = needs.iter().copied().flatten().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return true;
    }
    let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
    announce(SKIP_LOG, &format!("SKIP: {test}: missing {}", names.join(", ")));
    false
}

/// Prints a line past the test runner's capture and appends it to the file that `variable` names.
pub fn announce(variable: &str, line: &str) {
    // Written, not printed: the runner swallows the output of passing tests.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").expect("standard output is open");
    if let Some(path) = std::env::var_os(variable) {
        let mut log =
            OpenOptions::new().create(true).append(true).open(&path).expect("the log opens");
        writeln!(log, "{line}").expect("the log takes a line");
    }
}

/// Finds a program the way a shell of root would.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|candidate| candidate.is_file())
}

/// Directory of the modules of the installed user-mode-linux kernel.
pub fn uml_modules() -> Option<PathBuf> {
    let mut releases: Vec<_> = std::fs::read_dir("/usr/lib/uml/modules")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    releases.sort();
    releases.pop()
}

/// Paths of a module and of everything it depends on, in the order to load them.
pub fn uml_module(name: &str) -> Option<Vec<PathBuf>> {
    let root = uml_modules()?;
    let table = std::fs::read_to_string(root.join("modules.dep")).ok()?;
    let wanted = format!("/{name}.ko:");
    let line = table.lines().find(|line| line.contains(&wanted))?;
    let (module, dependencies) = line.split_once(':')?;
    // modules.dep lists a dependency before what that one needs itself.
    let mut order: Vec<_> = dependencies.split_whitespace().rev().collect();
    order.push(module);
    Some(order.into_iter().map(|path| root.join(path)).collect())
}

/// Lets one end-to-end test run at a time: guests and servers share few processors.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
