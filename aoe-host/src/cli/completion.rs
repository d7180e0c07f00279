//! `cowblade completions` and `cowblade man`: what packages install beside the program.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::print_bytes;
use crate::error::{Exit, HostError, Result};

/// `cowblade completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `cowblade man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write one page per command into this directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cowblade", &mut script);
    print_bytes(&script)?;
    Ok(Exit::Success)
}

pub(super) fn man(args: &ManArgs) -> Result<Exit> {
    let failed = |error| HostError::io(error, "write the manual pages").path(&args.directory);
    fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(failed)?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        man(&ManArgs { directory: directory.path().to_owned() }).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = directory.path().join(format!("cowblade-{}.1", command.get_name()));
            assert!(page.exists(), "{}", page.display());
        }
        let serve = fs::read_to_string(directory.path().join("cowblade-serve.1")).unwrap();
        assert!(serve.contains("new\\-clients"));
    }
}
