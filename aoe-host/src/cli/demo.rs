//! `cowblade demo`.

use clap::Args;

use crate::error::{Exit, Result};

/// `cowblade demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub clients: u8,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(_args: &DemoArgs) -> Result<Exit> {
    Err(super::not_built_yet("demo"))
}
