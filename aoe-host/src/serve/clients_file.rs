//! The registry as all workers share it, and its file.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::registry::{REGISTRY_FILE, Registry, write_atomically};

/// The clients of a server. Nobody waits for storage while the registry is held.
#[derive(Debug)]
pub(super) struct SharedRegistry {
    registry: Mutex<Registry>,
    /// Who writes has its turn: an older state must not replace a newer one.
    turn: Mutex<()>,
}

impl SharedRegistry {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry: Mutex::new(registry), turn: Mutex::new(()) }
    }

    /// The clients. Not to be held while waiting for anybody.
    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        // Its invariants are kept by every single call.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When this returns, what changed before is durable, whoever wrote it: of many who ask at once
    /// the second one writes for all the others.
    ///
    /// # Errors
    /// The system's; the next call tries again.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let text = {
            let mut registry = self.lock();
            registry.take_changed().then(|| registry.to_json())
        };
        let Some(text) = text else { return Ok(()) };
        let written = write_atomically(&directory.join(REGISTRY_FILE), &text);
        if written.is_err() {
            self.lock().mark_changed();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use aoe_proto::Mac;

    use super::*;

    #[test]
    fn what_changed_is_written_once_for_all_and_again_after_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(REGISTRY_FILE);
        let shared = SharedRegistry::new(Registry::new());
        std::thread::scope(|scope| {
            for n in 1..=16 {
                let (shared, directory) = (&shared, directory.path());
                scope.spawn(move || {
                    shared.lock().admit(Mac([2, 0, 0, 0, 0, n]), None).unwrap();
                    shared.write(directory).unwrap();
                    let text = std::fs::read(directory.join(REGISTRY_FILE)).unwrap();
                    let read = Registry::from_json(&text).unwrap();
                    assert!(read.find(Mac([2, 0, 0, 0, 0, n])).is_some(), "{n} is durable");
                });
            }
        });
        std::fs::remove_file(&file).unwrap();
        shared.write(directory.path()).unwrap();
        assert!(!file.exists(), "nothing had changed");
        shared.lock().admit(Mac([2, 0, 0, 0, 1, 0]), None).unwrap();
        shared.write(&directory.path().join("missing")).unwrap_err();
        shared.write(directory.path()).unwrap();
        assert_eq!(Registry::from_json(&std::fs::read(&file).unwrap()).unwrap().len(), 17);
    }
}
