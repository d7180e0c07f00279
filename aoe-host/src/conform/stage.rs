//! What no frame can do: the tester's actions, by commands or by hand.

use core::time::Duration;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use aoe_proto::conformance::{Action, LOW_MTU};

use crate::error::{HostError, Result};
use crate::values::Address;

/// Distance of two looks at a command that has to end.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

/// Does things to the target.
pub trait Stage {
    /// Begins. `false` if it cannot be done here.
    fn begin(&mut self, action: Action) -> bool;

    /// Whether it is done, or could not be; `None` as long as it goes on.
    fn poll(&mut self) -> Option<bool>;

    /// What went wrong with the last action that was not done; `None` if nothing did, and it is just
    /// that nobody can.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// The run is interrupted: waits until what was begun has ended, if it ends by itself. Half a
    /// restart would leave the target down.
    fn settle(&mut self) {}
}

/// Something a tester can provide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActionName {
    /// Stop and start the target.
    Restart,
    /// End it without warning and start it.
    Crash,
    /// Start it after it ended by itself.
    Revive,
    /// Take its interface down and up.
    Link,
    /// Change the MTU of its interface.
    Mtu,
}

impl ActionName {
    /// All of them, with the words that name them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("restart", Self::Restart),
        ("crash", Self::Crash),
        ("revive", Self::Revive),
        ("link", Self::Link),
        ("mtu", Self::Mtu),
    ];

    /// The one that `action` takes.
    pub const fn of(action: Action) -> Self {
        match action {
            Action::Restart => Self::Restart,
            Action::Crash => Self::Crash,
            Action::Revive => Self::Revive,
            Action::LinkDownUp => Self::Link,
            Action::LowerMtu | Action::RestoreMtu => Self::Mtu,
        }
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, name)| *name == self).map_or("", |(word, _)| word)
    }
}

/// Runs a shell command for each action, and asks the tester, if there is one, for the others.
#[derive(Debug)]
pub struct Commands {
    list: Vec<(ActionName, String)>,
    tester: Option<Tester>,
    asking: bool,
    target: Address,
    mtu: usize,
    patience: Duration,
    running: Option<(Child, Instant)>,
    /// The option and the command that runs.
    begun: String,
    trouble: Option<String>,
}

impl Commands {
    /// `commands` for `target`, behind a link of `mtu` octets; each may take as long as
    /// `patience`.
    pub fn new(
        commands: Vec<(ActionName, String)>,
        target: Address,
        mtu: usize,
        patience: Duration,
    ) -> Self {
        let (tester, asking, running, trouble) = (None, false, None, None);
        Self {
            list: commands,
            tester,
            asking,
            target,
            mtu,
            patience,
            running,
            begun: String::new(),
            trouble,
        }
    }

    /// Asks `tester` for what no command does.
    #[must_use]
    pub fn with_tester(self, tester: Option<Tester>) -> Self {
        let mut commands = self;
        commands.tester = tester;
        commands
    }

    /// A target that died can be started again by what restarts it, unless told otherwise.
    fn command(&self, name: ActionName) -> Option<&str> {
        let of = |wanted| self.list.iter().find(|(name, _)| *name == wanted);
        let fallback = || if name == ActionName::Revive { of(ActionName::Restart) } else { None };
        of(name).or_else(fallback).map(|(_, command)| command.as_str())
    }
}

impl Stage for Commands {
    fn begin(&mut self, action: Action) -> bool {
        self.trouble = None;
        self.asking = self.command(ActionName::of(action)).is_none();
        if let (true, Some(tester)) = (self.asking, &mut self.tester) {
            return tester.begin(action);
        }
        let Some(command) = self.command(ActionName::of(action)) else { return false };
        let mtu = if action == Action::LowerMtu { usize::from(LOW_MTU) } else { self.mtu };
        let child = Command::new("sh")
            .args(["-c", command])
            .env("COWBLADE_ACTION", ActionName::of(action).word())
            .env("COWBLADE_TARGET", self.target.to_string())
            .env("COWBLADE_MTU", mtu.to_string())
            .stdin(Stdio::null())
            // Standard output may carry a report.
            .stdout(Stdio::null())
            // Ctrl-C is for the run, which lets the command end.
            .process_group(0)
            .spawn();
        // What to say of it, should it come to nothing.
        let head = format!("--action {}: `{command}`", ActionName::of(action).word());
        match child {
            Ok(child) => self.running = Some((child, Instant::now() + self.patience)),
            Err(error) => self.trouble = Some(format!("{head} cannot be run: {error}")),
        }
        self.begun = head;
        self.running.is_some()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    fn poll(&mut self) -> Option<bool> {
        if let (true, Some(tester)) = (self.asking, &mut self.tester) {
            return tester.poll();
        }
        let Some((child, deadline)) = &mut self.running else { return Some(false) };
        let trouble = match child.try_wait() {
            Ok(None) if Instant::now() < *deadline => return None,
            Ok(None) => {
                // It hangs; what it started stays.
                drop(child.kill());
                drop(child.wait());
                Some(format!("took longer than {} s (--action-time)", self.patience.as_secs_f64()))
            }
            Ok(Some(status)) => (!status.success()).then(|| format!("ended with {status}")),
            Err(error) => Some(format!("cannot be waited for: {error}")),
        };
        self.running = None;
        self.trouble = trouble.map(|trouble| format!("{} {trouble}", self.begun));
        Some(self.trouble.is_none())
    }

    fn settle(&mut self) {
        while self.running.is_some() && self.poll().is_none() {
            std::thread::sleep(SETTLE_INTERVAL);
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.running {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Asks the person in front of the terminal.
#[derive(Debug)]
pub struct Tester {
    lines: Receiver<String>,
}

impl Tester {
    /// Reads standard input from now on.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn at_the_terminal() -> Result<Self> {
        let (sender, lines) = channel();
        let read = move || {
            // It ends with the input, or when nobody listens any more.
            for line in io::stdin().lock().lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(read)
            .map_err(|error| HostError::io(error, "read the terminal"))?;
        Ok(Self { lines })
    }
}

impl Stage for Tester {
    fn begin(&mut self, action: Action) -> bool {
        while self.lines.try_recv().is_ok() {}
        let asked = writeln!(
            io::stderr().lock(),
            "\nPlease {}, then press Enter (or type s and Enter to skip).",
            action.instruction()
        );
        asked.is_ok()
    }

    fn poll(&mut self) -> Option<bool> {
        match self.lines.try_recv() {
            Ok(line) => Some(!line.trim().eq_ignore_ascii_case("s")),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(false),
        }
    }
}
