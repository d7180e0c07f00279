//! `cowblade create`, `info`, `check`, `map`, `rollback`, `freeze`: images on this machine.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::error::{Exit, Result};
use crate::values::ByteSize;

/// Formats in which an overlay can be made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum CreateFormat {
    /// Our own: sector granular, crash safe, sparse
    #[default]
    Native,
    /// The persistent exception store of device-mapper's snapshot target
    DmSnapshot,
}

/// `cowblade create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The overlay to make; must not exist
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// The image below it
    #[arg(long, value_name = "IMAGE", required_unless_present = "size")]
    pub backing: Option<PathBuf>,

    /// Size of the disk; without --backing a blank disk, else the size of IMAGE
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,

    /// Format of the overlay
    #[arg(long, value_enum, default_value_t)]
    pub format: CreateFormat,

    /// Chunk size of a dm-snapshot overlay [default: 32K]
    #[arg(long, value_name = "SIZE")]
    pub chunk: Option<ByteSize>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// Begin at this byte of the disk
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,

    /// Look at this many bytes [default: to the end]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade freeze`.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn create(_args: &CreateArgs) -> Result<Exit> {
    Err(super::not_built_yet("create"))
}

pub(super) fn info(_args: &InfoArgs) -> Result<Exit> {
    Err(super::not_built_yet("info"))
}

pub(super) fn check(_args: &CheckArgs) -> Result<Exit> {
    Err(super::not_built_yet("check"))
}

pub(super) fn map(_args: &MapArgs) -> Result<Exit> {
    Err(super::not_built_yet("map"))
}

pub(super) fn rollback(_args: &RollbackArgs) -> Result<Exit> {
    Err(super::not_built_yet("rollback"))
}

pub(super) fn freeze(_args: &FreezeArgs) -> Result<Exit> {
    Err(super::not_built_yet("freeze"))
}
