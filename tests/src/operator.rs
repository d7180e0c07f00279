//! The person at the keyboard: runs `cowblade` and other tools and reads what they print.

use std::process::{Command, Output};

use crate::net::Namespace;
use crate::workspace;

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What a finished process said.
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use, reason = "often only the assertion matters")]
    pub fn assert_done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `cowblade arguments` in a namespace.
pub fn cowblade(namespace: &Namespace, arguments: &[&str]) -> Said {
    Said::of(&namespace.run(workspace::cowblade(), arguments))
}

/// Runs `cowblade arguments` here, for what needs no network.
///
/// # Panics
/// If it cannot be started.
pub fn local(arguments: &[&str]) -> Said {
    let output = Command::new(workspace::cowblade()).args(arguments).output();
    Said::of(&output.expect("the program can be started"))
}

/// Runs another program in a namespace, a minute at most.
pub fn tool(namespace: &Namespace, arguments: &[&str]) -> Said {
    Said::of(&namespace.run("timeout", &[&["60"], arguments].concat()))
}
