//! One end-to-end test: its directory, its turn on the machine, its attempts.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use crate::guest::{GuestPlan, Nic, Void};
use crate::net::Segment;
use crate::require::{self, VOID_LOG};
use crate::workspace::WorkDir;

/// Attempts before a driver that stalls by itself is no longer believed.
const ATTEMPTS: usize = 6;
/// Longest life of a guest; catches hangs only. The driver itself gives up after 180 s.
const PATIENCE: Duration = Duration::from_mins(7);
/// Longer than any pause of the driver on a wire that loses nothing.
const STALL: Duration = Duration::from_secs(12);

/// What one test works with.
#[derive(Debug)]
pub struct Lab {
    test: &'static str,
    dir: WorkDir,
    disk_worker: PathBuf,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Lab {
    /// Waits for the test's turn and makes its directory.
    ///
    /// `disk_worker` is `env!("CARGO_BIN_EXE_disk-worker")`, which only a test can see.
    pub fn new(test: &'static str, disk_worker: &str) -> Self {
        let turn = require::alone();
        let (dir, disk_worker) = (WorkDir::new(test), disk_worker.into());
        Self { test, dir, disk_worker, _turn: Some(turn) }
    }

    /// The same without a turn and without guests: for a test that spends its time waiting, beside
    /// others.
    pub fn beside_others(test: &'static str) -> Self {
        Self { test, dir: WorkDir::new(test), disk_worker: PathBuf::new(), _turn: None }
    }

    /// The test's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Repeats `attempt` in fresh directories until one is not void; counts the void ones.
    pub fn attempt<T>(&self, mut attempt: impl FnMut(&Path) -> Result<T, Void>) -> T {
        for number in 1..=ATTEMPTS {
            let dir = self.dir.join(format!("attempt{number}"));
            fs::create_dir_all(&dir).expect("an attempt has a directory");
            match attempt(&dir) {
                Ok(outcome) => return outcome,
                Err(void) => {
                    let line = format!("VOID: {}: attempt {number}: {void}", self.test);
                    require::announce(VOID_LOG, &line);
                }
            }
        }
        panic!("{ATTEMPTS} attempts were void: not the known stall of the initiator");
    }

    /// A guest with the initiator loaded, at place `index` of a segment.
    pub fn initiator(
        &self,
        dir: &Path,
        segment: &Segment,
        index: usize,
        script: &str,
    ) -> GuestPlan {
        GuestPlan {
            dir: dir.join(format!("guest{index}")),
            nic: Some(Nic::on(segment, index)),
            modules: vec!["aoe".into()],
            disks: Vec::new(),
            script: script.into(),
            disk_worker: self.disk_worker.clone(),
            patience: PATIENCE,
            stall: STALL,
        }
    }

    /// A guest without network, whose disks are files of the host.
    pub fn kernel(&self, dir: &Path, disks: Vec<PathBuf>, script: &str) -> GuestPlan {
        GuestPlan {
            dir: dir.to_path_buf(),
            nic: None,
            modules: Vec::new(),
            disks,
            script: script.into(),
            disk_worker: self.disk_worker.clone(),
            patience: PATIENCE,
            stall: STALL,
        }
    }
}
