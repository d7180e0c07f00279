//! Two network namespaces of a test, and how to enter them.
#![allow(dead_code, reason = "every test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail like the test")]

use core::sync::atomic::{AtomicU32, Ordering};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Says aloud that `test` cannot run here, and counts it where somebody counts.
pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("SKIP: {test}: {why}\n");
    // Written, not printed: the runner swallows the output of passing tests.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    if let Some(path) = std::env::var_os("COWBLADE_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// Two namespaces, `near` and `far`, joined by `veth0` in each.
pub(crate) struct Net {
    pub(crate) near: String,
    pub(crate) far: String,
}

impl Net {
    /// `None`, with a line that says so, where this may not be done.
    pub(crate) fn make(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self { near: format!("cb-near-{unique}"), far: format!("cb-far-{unique}") };
        let script = [
            format!("netns add {}", net.near),
            format!("netns add {}", net.far),
            format!("-n {} link add veth0 type veth peer name veth0 netns {}", net.near, net.far),
            format!("-n {} link set veth0 up", net.near),
            format!("-n {} link set veth0 up", net.far),
        ];
        match script.iter().find(|line| !ip(line)) {
            None => Some(net),
            Some(line) => {
                skip(test, &format!("`ip {line}` is not possible here"));
                None
            }
        }
    }

    pub(crate) fn near(&self, command: &str) {
        let line = format!("-n {} {command}", self.near);
        assert!(ip(&line), "ip {line}");
    }

    pub(crate) fn far(&self, command: &str) {
        let line = format!("-n {} {command}", self.far);
        assert!(ip(&line), "ip {line}");
    }

    /// Runs `body` in a thread that lives in the namespace `name`.
    pub(crate) fn inside<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{name}")).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                body()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.near));
        ip(&format!("netns del {}", self.far));
    }
}

fn ip(line: &str) -> bool {
    let run = Command::new("ip").args(line.split_whitespace()).output();
    run.is_ok_and(|output| output.status.success())
}
