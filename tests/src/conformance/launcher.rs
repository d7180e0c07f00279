//! A target that the conformance harness examines, and the tester who restarts it, kills it, pulls
//! its cable and changes its MTU: a shell script, because that is what `--action` takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::net::Segment;
use crate::server::ServerPlan;

/// Names of the actions, as `--action` and the script know them.
const ACTIONS: [&str; 5] = ["restart", "crash", "revive", "link", "mtu"];

/// What the script does. `{NAME}` is replaced: braces are in no name of a directory.
///
/// A process is only ended if its command line names a file of the test's own directory: its number
/// may belong to another one by now.
const SCRIPT: &str = r#"#!/bin/sh
is_ours() {
    [ -s '{PID}' ] || return 1
    pid=$(cat '{PID}')
    grep -qs '{DIR}' "/proc/$pid/cmdline"
}
stop() {
    is_ours || return 0
    kill "-$1" "$pid"
    for _ in $(seq 500); do
        is_ours || return 0
        sleep 0.02
    done
    exit 1
}
start() {
    : >>'{LOG}'
    before=$(wc -c <'{LOG}')
    ip netns exec {NAMESPACE} {COMMAND} >>'{LOG}' 2>&1 </dev/null &
    echo $! >'{PID}'
    for _ in $(seq 1500); do
        tail -c "+$((before + 1))" '{LOG}' | grep -q '{READY}' && return 0
        sleep 0.02
    done
    exit 1
}
case $1 in
    start) start ;;
    stop) stop KILL ;;
    restart) stop TERM && start ;;
    crash | revive) stop KILL && start ;;
    link)
        ip -n {NAMESPACE} link set {INTERFACE} down &&
            ip -n {NAMESPACE} link set {INTERFACE} up
        ;;
    # A target may look at its interface now and then only.
    mtu) ip -n {NAMESPACE} link set {INTERFACE} mtu "$COWBLADE_MTU" && {NOTICED} ;;
    *) exit 2 ;;
esac
"#;

/// A running target with its tester; ended on drop.
#[derive(Debug)]
pub struct Launcher {
    script: PathBuf,
}

impl Launcher {
    /// Starts what is planned, whose command names a file in `dir`. The shell command `noticed` ends
    /// when the target has noticed the MTU `$COWBLADE_MTU`.
    ///
    /// # Panics
    /// If it does not say that it serves.
    pub fn start(dir: &Path, plan: &ServerPlan, noticed: &str) -> Self {
        let dir_text = dir.display().to_string();
        assert!(
            plan.command.iter().any(|word| word.contains(&dir_text)),
            "a process is recognised by its directory: {:?}",
            plan.command
        );
        let command: Vec<String> = plan.command.iter().map(|word| format!("'{word}'")).collect();
        let script = dir.join("target.sh");
        let text = SCRIPT
            .replace("{NOTICED}", noticed)
            .replace("{COMMAND}", &command.join(" "))
            .replace("{NAMESPACE}", &plan.namespace)
            .replace("{INTERFACE}", Segment::SERVER)
            .replace("{LOG}", &plan.log.display().to_string())
            .replace("{READY}", &plan.ready)
            .replace("{PID}", &dir.join("target.pid").display().to_string())
            .replace("{DIR}", &dir_text);
        fs::write(&script, text).expect("the script can be written");
        let launcher = Self { script };
        launcher.act("start");
        launcher
    }

    /// The options of `cowblade conform` that let it do everything to the target.
    pub fn options(&self) -> Vec<String> {
        let script = self.script.display();
        ACTIONS
            .iter()
            .flat_map(|action| ["--action".into(), format!("{action}=sh '{script}' {action}")])
            .collect()
    }

    /// Does something to the target.
    ///
    /// # Panics
    /// If it cannot be done.
    pub fn act(&self, action: &str) {
        let status = self.command(action).status().expect("sh starts");
        assert!(status.success(), "{action}: {status}");
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg(&self.script).arg(action);
        command
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let stopped = self.command("stop").status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("a target stays behind: {}", self.script.display());
        }
    }
}
