//! A user-mode-linux guest: a whole Linux kernel as one process, booted in about two seconds.

use core::fmt;
use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::initramfs::Archive;
use crate::net::Segment;
use crate::require;
use crate::wire::{Seen, Wire};

const INIT: &str = include_str!("init.sh");
/// Modules in every guest, if installed; each is loaded with what it depends on.
const MODULES: &[&str] = &["aoe", "overlay", "dm-snapshot"];
/// Programs in every guest, if installed.
const PROGRAMS: &[&str] = &["mke2fs", "e2fsck", "dmsetup"];
const CONFIGURATION: &[&str] = &["/etc/mke2fs.conf"];
/// Frames of this payload never stall the driver by themselves.
const JUMBO: u16 = 9000;

/// How to boot a guest and what it shall do.
#[derive(Clone, Debug)]
pub struct GuestPlan {
    /// Directory of this guest on the host; made if absent, wiped of earlier marks.
    pub dir: PathBuf,
    /// The interface it sits on, if any.
    pub nic: Option<Nic>,
    /// Modules to load, dependencies before dependents.
    pub modules: Vec<String>,
    /// Files of the host that appear as `/dev/ubda`, `/dev/ubdb`, ...
    pub disks: Vec<PathBuf>,
    /// Shell commands, run with the functions of the guest's `/init` at hand.
    pub script: String,
    /// The program that appears in the guest as `disk-worker`.
    pub disk_worker: PathBuf,
    /// Longest run; catches hangs only.
    pub patience: Duration,
    /// Silence with I/O in flight that counts as a stall.
    pub stall: Duration,
}

/// Where a guest is plugged in.
#[derive(Clone, Debug)]
pub struct Nic {
    namespace: String,
    interface: String,
    mac: String,
    mtu: u16,
}

impl Nic {
    /// The place of guest `index` on a segment.
    pub fn on(segment: &Segment, index: usize) -> Self {
        Self {
            namespace: segment.clients().name().into(),
            interface: Segment::client(index),
            mac: Segment::client_mac(index),
            mtu: segment.mtu(),
        }
    }
}

/// An attempt that says nothing about the server: the driver in the guest stalled by itself.
#[derive(Debug)]
pub struct Void(String);

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A running guest; killed on drop.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    plan: GuestPlan,
    deadline: Instant,
}

/// How a guest's script ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status of the script.
    pub status: i32,
    /// Everything on the guest's console.
    pub console: String,
    /// Directory the guest knows as `/host`.
    pub share: PathBuf,
}

impl Finished {
    /// Fails the test unless the script succeeded.
    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!(self.status, 0, "the guest's script failed:\n{}", self.console);
    }
}

impl GuestPlan {
    /// Boots the guest.
    pub fn boot(&self) -> Guest {
        self.prepare();
        let console = File::create(self.dir.join("console")).expect("the console has a file");
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("the console can be shared"))
            .stderr(console)
            .process_group(0)
            .spawn()
            .expect("linux.uml starts");
        Guest { child, plan: self.clone(), deadline: Instant::now() + self.patience }
    }

    /// Directory the guest knows as `/host`.
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    fn prepare(&self) {
        let share = self.share();
        fs::create_dir_all(&share).expect("the guest's directory can be made");
        for stale in ["status", "stalled"] {
            // Absent before the first attempt.
            drop(fs::remove_file(share.join(stale)));
        }
        let (mac, mtu) = self.nic.as_ref().map_or(("", 0), |nic| (nic.mac.as_str(), nic.mtu));
        let (stall, modules) = (self.stall.as_secs(), self.modules.join(" "));
        let settings = format!("MAC={mac}\nMTU={mtu}\nSTALL={stall}\nMODULES='{modules}'\n");
        write(&share.join("settings"), settings.as_bytes());
        write(&share.join("script"), self.script.as_bytes());
        write(&self.dir.join("initramfs"), initramfs(&self.disk_worker));
    }

    fn command(&self) -> Command {
        let program = require::program("linux.uml").expect("user-mode-linux is installed");
        let mut command = match &self.nic {
            None => Command::new(program),
            Some(nic) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &nic.namespace]).arg(program);
                command.arg(format!(
                    "vec0:transport=raw,ifname={},depth=128,gro=1,mtu={}",
                    nic.interface, nic.mtu
                ));
                command
            }
        };
        command
            .args(["mem=256M", "con0=null,fd:1", "con=null", "quiet", "noreboot", "umid=guest"])
            .arg(format!("initrd={}", self.dir.join("initramfs").display()))
            .arg(format!("uml_dir={}", self.dir.join("uml").display()))
            .arg(format!("hostfs={}", self.share().display()));
        for (index, disk) in self.disks.iter().enumerate() {
            command.arg(format!("ubd{index}={}", disk.display()));
        }
        command
    }
}

impl Guest {
    /// Creates a file that the guest's script waits for with `await`.
    pub fn tell(&self, name: &str) {
        write(&self.plan.share().join(name), b"");
    }

    /// Waits until the guest's script calls `mark name`; returns the text of the mark.
    pub fn await_mark(&mut self, name: &str, wire: Option<&Wire>) -> Result<String, Void> {
        let path = self.plan.share().join(name);
        loop {
            if let Ok(text) = fs::read_to_string(&path) {
                return Ok(text.trim().into());
            }
            self.check(name, wire)?;
            assert!(
                !self.plan.share().join("status").exists(),
                "the script ended before {name}:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the script has ended and the guest is off.
    pub fn wait(mut self, wire: Option<&Wire>) -> Result<Finished, Void> {
        let path = self.plan.share().join("status");
        while !path.exists() {
            self.check("the end of the script", wire)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = fs::read_to_string(&path).expect("the status can be read");
        let status = text.trim().parse().expect("the status is a number");
        while self.child.try_wait().expect("the guest can be waited for").is_none()
            && Instant::now() < self.deadline
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Finished { status, console: self.console(), share: self.plan.share() })
    }

    /// Everything on the guest's console so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.plan.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Looks once whether the guest is still on its way to `awaited`.
    pub fn check(&mut self, awaited: &str, wire: Option<&Wire>) -> Result<(), Void> {
        if self.plan.share().join("stalled").exists() {
            return Err(self.blame(wire));
        }
        let ended = self.child.try_wait().expect("the guest can be waited for");
        let reported = self.plan.share().join("status").exists();
        assert!(
            ended.is_none() || reported,
            "the guest went down before {awaited}:\n{}",
            self.console()
        );
        let seen = wire.map(Wire::seen);
        assert!(
            Instant::now() < self.deadline,
            "no {awaited} within {:?}; on the wire {seen:?}:\n{}",
            self.plan.patience,
            self.console()
        );
        Ok(())
    }

    fn blame(&self, wire: Option<&Wire>) -> Void {
        let seen = wire.map(Wire::seen).unwrap_or_default();
        let jumbo = self.plan.nic.as_ref().is_some_and(|nic| nic.mtu >= JUMBO);
        match stall(&seen, jumbo) {
            Some(void) => void,
            None => panic!("the server is to blame; on the wire {seen:?}:\n{}", self.console()),
        }
    }
}

/// Judges a silent wire with requests in flight: it is the driver's own fault only at small MTUs,
/// and only if every request that it sent was answered.
fn stall(seen: &Seen, jumbo: bool) -> Option<Void> {
    // A listener that lost frames may have lost the answers.
    let answered = seen.unanswered.is_empty() || seen.missed > 0;
    (answered && !jumbo).then(|| {
        Void(format!(
            "the initiator fell silent with I/O in flight after {} requests, all answered{}",
            seen.requests,
            if seen.missed > 0 { " as far as the listener knows" } else { "" }
        ))
    })
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: kill takes plain numbers; the group was made for this guest alone.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        drop(self.child.wait());
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The root file system, the same for every guest of a process.
fn initramfs(disk_worker: &Path) -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let mut archive = Archive::default();
        archive.add_file("/init", INIT.as_bytes());
        let busybox = require::program("busybox").expect("busybox is installed");
        archive.add_program(&busybox, "/bin/busybox");
        archive.add_program(disk_worker, "/tools/disk-worker");
        for name in PROGRAMS {
            if let Some(path) = require::program(name) {
                archive.add_program(&path, &format!("/tools/{name}"));
            }
        }
        for path in CONFIGURATION {
            if let Ok(data) = fs::read(path) {
                archive.add_file(path, &data);
            }
        }
        for module in MODULES.iter().filter_map(|name| require::uml_module(name)).flatten() {
            let name = module.file_name().expect("a module has a name").to_string_lossy();
            let data = fs::read(&module).expect("a module can be read");
            archive.add_file(&format!("/modules/{name}"), &data);
        }
        archive.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::stall;
    use crate::wire::Seen;

    #[test]
    fn only_a_stall_after_every_answer_at_a_small_mtu_is_void() {
        let answered = Seen { requests: 9, ..Seen::default() };
        let unanswered = Seen { unanswered: vec!["a read".into()], ..answered.clone() };
        let unsure = Seen { missed: 3, ..unanswered.clone() };
        assert!(stall(&answered, false).is_some());
        assert!(stall(&unanswered, false).is_none());
        assert!(stall(&unsure, false).is_some());
        assert!(stall(&answered, true).is_none());
        assert!(stall(&unsure, true).is_none());
    }
}
