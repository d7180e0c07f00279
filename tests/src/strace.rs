//! A server under `strace`: what it asks the system for, and answers that the system does not give.

use core::time::Duration;
use std::fs;
use std::process::{Child, Command, Stdio};

use crate::require;
use crate::server::Server;

/// A tracer of all threads of a server; it lets go when dropped.
#[derive(Debug)]
pub struct Strace(Child);

impl Strace {
    /// Attaches `strace -f options`, and waits until it sees every thread.
    ///
    /// # Panics
    /// If it does not attach, or there is no `strace`.
    pub fn attach(server: &Server, options: &[&str]) -> Self {
        let strace = Command::new(require::program("strace").expect("strace is there"))
            .arg("-f")
            .args(options)
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        let strace = Self(strace);
        let tracer = format!("TracerPid:\t{}", strace.0.id());
        for _ in 0..2000 {
            if is_traced(server.pid(), &tracer) {
                return strace;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("strace does not attach");
    }
}

/// Whether this is the tracer of every thread.
fn is_traced(pid: u32, tracer: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
    let mut texts =
        threads.flatten().map(|thread| fs::read_to_string(thread.path().join("status")));
    // A thread that has just ended has no status.
    texts.all(|text| text.map_or(true, |text| text.contains(tracer)))
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(pid) = libc::pid_t::try_from(self.0.id()) {
            // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
            let _gone = unsafe { libc::kill(pid, libc::SIGINT) };
        }
        let _ended = self.0.wait();
    }
}
