//! One error type for the host: what failed, on which thing, and what to do about it.
//!
//! ```text
//!   Display        "cannot open the golden image `disk.img`: not found; check the path"
//!                   -------------- op + context ---------  -- kind --  --- advice ---
//!   source()       the system's own words, one level further down
//! ```
//!
//! [`HostError`] prints its kind and context only. The whole chain is printed once, by `main`,
//! through [`HostError::report`]; nothing in between logs and re-throws.

use core::error::Error;
use core::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the program tells its caller when it ends. Listed in `docs/CLI.md` and in `--help`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// 0: everything asked for was done.
    Success = 0,
    /// 1: an operation failed: input/output, network, memory.
    Failure = 1,
    /// 2: the arguments or the configuration file make no sense. Nothing was touched.
    Usage = 2,
    /// 3: `check`, or a verification, ran to its end and found problems.
    Problems = 3,
    /// 4: a file, interface, target or client does not exist or does not answer.
    NotFound = 4,
    /// 5: refused: locked by another process, permission missing, an address already served by
    /// somebody else, a parent that is not the recorded one, a damaged image.
    Refused = 5,
    /// 6: `compare` failed in a way that ends with 1 elsewhere: there, that means *different*.
    NotCompared = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What sort of failure it was. Control flow matches on this, never on texts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Arguments or configuration that make no sense.
    Usage,
    /// A file, interface, target or client that is not there.
    NotFound,
    /// Something of that name is already there.
    AlreadyExists,
    /// The system did not allow it.
    PermissionDenied,
    /// Another process holds it, or another server answers for it.
    InUse,
    /// A file is not the one that was recorded (parent changed, wrong base).
    Mismatch,
    /// A file contradicts itself.
    Corrupt,
    /// No room left.
    Full,
    /// The format, or a part of it, is not supported here.
    Unsupported,
    /// Reading or writing failed.
    Io,
    /// The interface or the socket failed.
    Network,
    /// The other side does not answer.
    Timeout,
    /// The other side answered with an error, or with something that is not an answer.
    Protocol,
}

impl ErrorKind {
    /// The code the process ends with when this is the final error.
    pub const fn exit(self) -> Exit {
        match self {
            Self::Usage => Exit::Usage,
            Self::NotFound | Self::Timeout => Exit::NotFound,
            Self::AlreadyExists
            | Self::PermissionDenied
            | Self::InUse
            | Self::Mismatch
            | Self::Corrupt => Exit::Refused,
            Self::Full | Self::Unsupported | Self::Io | Self::Network | Self::Protocol => {
                Exit::Failure
            }
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Usage => "wrong usage",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::PermissionDenied => "permission denied",
            Self::InUse => "in use",
            Self::Mismatch => "not the recorded one",
            Self::Corrupt => "damaged",
            Self::Full => "no room left",
            Self::Unsupported => "not supported",
            Self::Io => "input/output error",
            Self::Network => "network error",
            Self::Timeout => "no answer",
            Self::Protocol => "unexpected answer",
        }
    }
}

impl From<&io::Error> for ErrorKind {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::WouldBlock
            | io::ErrorKind::AddrInUse
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::ExecutableFileBusy => Self::InUse,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::Unsupported => Self::Unsupported,
            io::ErrorKind::NetworkDown | io::ErrorKind::NetworkUnreachable => Self::Network,
            _ => Self::Io,
        }
    }
}

/// On what the failed operation worked. Every field that is known is printed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Context {
    /// What was being done, as it follows "cannot": `open the golden image`.
    pub op: String,
    /// The file or socket.
    pub path: Option<PathBuf>,
    /// The network interface.
    pub interface: Option<String>,
    /// The export, as `eSHELF.SLOT`.
    pub export: Option<String>,
    /// What exactly is wrong, in place of the kind's general words.
    pub detail: Option<String>,
    /// The way out, as an imperative.
    pub advice: Option<String>,
}

/// A failure for a person: kind, context and cause.
#[derive(Debug)]
pub struct HostError {
    kind: ErrorKind,
    context: Box<Context>,
    source: Option<Box<dyn Error + Send + Sync>>,
    exit: Option<Exit>,
}

/// The result of everything in the host that may fail.
pub type Result<T> = core::result::Result<T, HostError>;

impl HostError {
    /// An error of `kind` while doing `op`, worded to follow "cannot".
    pub fn new(kind: ErrorKind, op: impl Into<String>) -> Self {
        let context = Context { op: op.into(), ..Context::default() };
        Self { kind, context: Box::new(context), source: None, exit: None }
    }

    /// An argument or configuration error: `detail` says what is wrong with the thing named in
    /// `op`.
    pub fn usage(op: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, op).detail(detail)
    }

    /// Wraps a system error; the kind follows from it.
    pub fn io(source: io::Error, op: impl Into<String>) -> Self {
        Self::new(ErrorKind::from(&source), op).source(source)
    }

    /// Names the file.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.context.path = Some(path.as_ref().to_owned());
        self
    }

    /// Names the interface.
    #[must_use]
    pub fn interface(mut self, interface: impl Into<String>) -> Self {
        self.context.interface = Some(interface.into());
        self
    }

    /// Names the export.
    #[must_use]
    pub fn export(mut self, export: impl fmt::Display) -> Self {
        self.context.export = Some(export.to_string());
        self
    }

    /// Says what exactly is wrong, in place of the kind's general words.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.context.detail = Some(detail.into());
        self
    }

    /// Says what to do about it, as an imperative.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.context.advice = Some(advice.into());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// On what it happened.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The code the process should end with.
    pub fn exit(&self) -> Exit {
        self.exit.unwrap_or(self.kind.exit())
    }

    /// Ends the process with this code in place of that of its kind.
    #[must_use]
    pub fn ending_with(mut self, exit: Exit) -> Self {
        self.exit = Some(exit);
        self
    }

    /// This error and every cause below it, one per line, for the end user.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = Error::source(self);
        while let Some(error) = cause {
            text.push_str("\n  because: ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &*self.context;
        write!(f, "cannot {}", context.op)?;
        if let Some(path) = &context.path {
            write!(f, " `{}`", path.display())?;
        }
        if let Some(interface) = &context.interface {
            write!(f, " (interface {interface})")?;
        }
        if let Some(export) = &context.export {
            write!(f, " ({export})")?;
        }
        write!(f, ": {}", context.detail.as_deref().unwrap_or(self.kind.words()))?;
        if let Some(advice) = &context.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl Error for HostError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_thing_and_the_way_out_but_not_the_cause() {
        let cause = io::Error::from(io::ErrorKind::NotFound);
        let error = HostError::io(cause, "open the golden image")
            .path("disk.img")
            .export("e0.1")
            .advice("check the path");
        assert_eq!(
            error.to_string(),
            "cannot open the golden image `disk.img` (e0.1): not found; check the path"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.exit(), Exit::NotFound);
    }

    #[test]
    fn report_walks_the_chain_once() {
        let inner = HostError::io(io::Error::other("disk on fire"), "read").path("a");
        let outer = HostError::new(ErrorKind::Io, "start the server").source(inner);
        assert_eq!(
            outer.report(),
            "cannot start the server: input/output error\n  because: cannot read `a`: \
             input/output error\n  because: disk on fire"
        );
    }

    #[test]
    fn detail_replaces_the_general_words() {
        let error = HostError::usage("use --address 0.255", "slot 255 means every slot");
        assert_eq!(error.to_string(), "cannot use --address 0.255: slot 255 means every slot");
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn system_errors_map_to_kinds() {
        for (errno, kind) in [
            (libc::ENOENT, ErrorKind::NotFound),
            (libc::EPERM, ErrorKind::PermissionDenied),
            (libc::EAGAIN, ErrorKind::InUse),
            (libc::ENOSPC, ErrorKind::Full),
            (libc::EIO, ErrorKind::Io),
        ] {
            assert_eq!(ErrorKind::from(&io::Error::from_raw_os_error(errno)), kind, "{errno}");
        }
    }
}
