//! A target under test: started in a namespace, killed without warning, started again.

use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

use crate::net::Namespace;

/// Longest wait for a server to say that it serves, or to end: catches hangs only. At its end a server
/// syncs every overlay, each of which may take a loaded disk a second.
const PATIENCE: Duration = Duration::from_mins(5);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// Network namespace to run in.
    pub namespace: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// File that collects what the server prints, over all restarts.
    pub log: PathBuf,
    /// Text in the log that means: it answers now.
    pub ready: String,
}

impl ServerPlan {
    /// Plans `program arguments` in `namespace`.
    pub fn new<S: Into<String>>(
        namespace: &Namespace,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        log: PathBuf,
        ready: &str,
    ) -> Self {
        let mut command = vec![program.display().to_string()];
        command.extend(arguments.into_iter().map(Into::into));
        Self { namespace: namespace.name().into(), command, log, ready: ready.into() }
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self) -> Server {
        let before = self.log_text().len();
        let log = File::options().create(true).append(true).open(&self.log).expect("log opens");
        let child = std::process::Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log can be shared"))
            .stderr(log)
            .spawn()
            .expect("ip netns exec starts");
        let mut server = Server { child: Some(child), plan: self.clone() };
        server.await_ready(before);
        server
    }

    /// Everything the server printed so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    plan: ServerPlan,
}

impl Server {
    /// Process id of the server itself.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Everything the server printed, earlier runs included.
    pub fn log(&self) -> String {
        self.plan.log_text()
    }

    /// Ends the server as a crash would: no signal handler runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server can be killed");
            let status = child.wait().expect("the server can be waited for");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}: {}", self.log());
        }
    }

    /// Starts the server again with the same command after [`Server::kill`] or
    /// [`Server::terminate`].
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the server still runs");
        *self = self.plan.start();
    }

    /// Asks the server to end (SIGTERM) and returns how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let mut child = self.child.take().expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("the server can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().expect("the server can be killed");
                child.wait().expect("the server can be waited for");
                panic!("the server ignores SIGTERM:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id fits");
        // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to the server");
    }

    /// Fails unless the server still runs.
    pub fn assert_running(&mut self) {
        let child = self.child.as_mut().expect("the server runs");
        let ended = child.try_wait().expect("the server can be waited for");
        assert!(ended.is_none(), "the server ended with {ended:?}:\n{}", self.log());
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the server has a status");
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .expect("VmRSS is a number")
    }

    fn await_ready(&mut self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.log();
            if text.get(before..).is_some_and(|new| new.contains(&self.plan.ready)) {
                return;
            }
            self.assert_running();
            assert!(
                Instant::now() < deadline,
                "no {:?} from {:?}:\n{text}",
                self.plan.ready,
                self.plan.command
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The child may have ended by itself; there is nothing left to do then.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
