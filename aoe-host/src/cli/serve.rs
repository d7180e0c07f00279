//! `cowblade serve`: from what was typed to the configuration of the server.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ServeConfig, ServeWords};
use crate::error::{Exit, Result};

/// What follows the options in `serve --help`.
pub(super) const EXAMPLES: &str = "\
Examples:
  One address for all machines, each with an overlay of its own:
    cowblade serve golden.img -i eth0 --client lab1=52:54:00:12:34:56 --client lab2=52:54:00:12:34:57
    cowblade serve golden.img -i eth0 --new-clients auto=30
  An address for each of eight machines:
    cowblade serve golden.img -i eth0 --clients 8
  A read-only disk, and an empty disk for each client:
    cowblade serve -i eth0 --overlays /srv/o --new-clients auto \\
      --export 0.0=golden.img,ro --export 0.1=blank:4G,per-client";

/// `cowblade serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Read this TOML file first; it knows the same words
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Everything else.
    #[command(flatten)]
    pub words: ServeWords,
}

impl ServeArgs {
    /// Joins command line and configuration file, and applies every rule.
    ///
    /// # Errors
    /// When the file cannot be used, or the words make no sense.
    pub fn resolve(self) -> Result<ServeConfig> {
        let words = match &self.config {
            Some(path) => self.words.over(ServeWords::from_file(path)?),
            None => self.words,
        };
        words.resolve()
    }
}

/// Serves until it is told to stop.
pub(super) fn run(args: ServeArgs) -> Result<Exit> {
    let config = args.resolve()?;
    crate::serve::serve(&config)?;
    Ok(Exit::Success)
}
