//! What the operator reads: one line each on standard error, never faster than a person can read.

use core::time::Duration;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::server::Report;
use crate::storage::StorageError;

/// Most warnings that `status` repeats: some quote addresses, which anybody can invent.
const WARNINGS_MAX: usize = 64;

/// Most lines a second about requests; a failing disk fails thousands of times.
const REPORTS_PER_SECOND: u32 = 10;

/// The log. Its clones are one log, for several threads.
#[derive(Clone, Debug)]
pub(super) struct Log {
    quiet: bool,
    /// How a command finds this server.
    control: Arc<str>,
    said: Arc<Mutex<Said>>,
}

#[derive(Debug)]
struct Said {
    second: Instant,
    lines: u32,
    suppressed: u64,
    /// Sentences that `status` repeats.
    warnings: Vec<String>,
}

impl Log {
    pub(super) fn new(quiet: bool, control: Option<&Path>) -> Self {
        let control = control.map(|path| format!("--control {}", path.display()));
        let said = Said { second: Instant::now(), lines: 0, suppressed: 0, warnings: Vec::new() };
        Self {
            quiet,
            control: Arc::from(control.unwrap_or_default()),
            said: Arc::new(Mutex::new(said)),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Whoever panicked meanwhile has left nothing half done here.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self, text: &str) {
        if !self.quiet {
            eprintln!("cowblade: {text}");
        }
    }

    #[expect(clippy::unused_self, reason = "what goes to the log goes through the log")]
    pub(super) fn error(&self, text: &str) {
        eprintln!("cowblade: {text}");
    }

    /// Says it now, and in every `status` from now on.
    pub(super) fn warn(&self, text: &str) {
        let mut said = self.said();
        if said.warnings.len() < WARNINGS_MAX && !said.warnings.iter().any(|w| w == text) {
            eprintln!("cowblade: warning: {text}");
            said.warnings.push(text.to_owned());
        }
    }

    /// Every sentence of [`warn`](Self::warn), once.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.said().warnings.clone()
    }

    /// `cause`: what the system said, where that is known.
    pub(super) fn report(&self, report: &Report<'_>, cause: Option<&StorageError>) {
        match report {
            Report::Duplicate { address, mac } => self.warn(&format!(
                "{mac} also answers for {address}: initiators will write to both in turn and \
                 corrupt data; stop one of the two servers"
            )),
            Report::UnknownClient { address, mac } => {
                if self.may_report() {
                    self.info(&format!(
                        "{mac} asks for {address} and is no client; to adopt it: cowblade clients \
                         adopt {mac} NAME {}",
                        self.control
                    ));
                }
            }
            Report::Failed { disk, failure } => {
                if self.may_report() {
                    eprintln!("cowblade: {disk}: a request failed: {failure}");
                }
            }
            Report::NotesLost { disk, failure } => self.warn(&format!(
                "{disk}: what was acknowledged before the last end cannot be taken up ({failure}); \
                 the disk is not served and its notes are kept; check the overlay and its storage, \
                 then restart"
            )),
            Report::ReadOnly { disk, .. } => {
                let cause = cause.map(|error| format!(": {error}")).unwrap_or_default();
                self.warn(&format!(
                    "{disk}: its overlay takes no more writes{cause}; acknowledged data are as \
                     before; check the disk, then restart"
                ));
            }
            Report::BackingChanged { address } => self.warn(&format!(
                "{address}: a layer below its overlays was changed by another program; nothing is \
                 served from it any more; restore the image and restart"
            )),
        }
    }

    fn may_report(&self) -> bool {
        let mut said = self.said();
        if said.second.elapsed() >= Duration::from_secs(1) {
            if said.suppressed > 0 {
                eprintln!("cowblade: {} more reports were not listed", said.suppressed);
            }
            (said.second, said.lines, said.suppressed) = (Instant::now(), 0, 0);
        }
        said.lines += 1;
        let may = said.lines <= REPORTS_PER_SECOND;
        said.suppressed += u64::from(!may);
        may
    }
}
