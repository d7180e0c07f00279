//! A test's own directory, and the binaries under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Environment variable that keeps the directories of finished tests for a look.
pub const KEEP: &str = "COWBLADE_KEEP";

/// A directory that vanishes with the test unless [`KEEP`] is set.
#[derive(Debug)]
pub struct WorkDir(TempDir);

impl WorkDir {
    /// Makes a fresh directory; the file `test` in it names its test.
    pub fn new(test: &str) -> Self {
        Self::below(&std::env::temp_dir(), test)
    }

    /// The same where a sync costs nothing, if there is such a place: for tests that make thousands, and
    /// whose kills lose nothing that a process wrote.
    pub fn in_memory(test: &str) -> Self {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() { Self::below(shared, test) } else { Self::new(test) }
    }

    fn below(place: &Path, test: &str) -> Self {
        // A short name: control sockets in here have at most 107 bytes of path.
        let mut dir = tempfile::Builder::new()
            .prefix("cb-")
            .tempdir_in(place)
            .expect("a temporary directory can be made");
        std::fs::write(dir.path().join("test"), test).expect("the directory takes a file");
        if std::env::var_os(KEEP).is_some() {
            dir.disable_cleanup(true);
        }
        Self(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path inside the directory.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The `cowblade` program: `COWBLADE_BIN`, or built from this workspace once per process.
pub fn cowblade() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("COWBLADE_BIN") {
        Some(path) => path.into(),
        None => build_cowblade(),
    })
}

fn build_cowblade() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "aoe-host", "--bin", "cowblade"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "cowblade does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Cargo names the program itself, wherever its target directory is.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(message.get("executable")?.as_str()?.into()))
        .next_back()
        .expect("cargo reports the program it built")
}
