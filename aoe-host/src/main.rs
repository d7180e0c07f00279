//! `cowblade`: arguments in, exit code out.

use std::process::ExitCode;

use aoe_host::cli::{Cli, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("cowblade: {}", error.report());
            error.exit().into()
        }
    }
}
