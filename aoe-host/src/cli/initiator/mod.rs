//! `cowblade discover`, `ping`, `config`, `mask`, `reserve`, `read`, `write`: asking targets.

use core::time::Duration;
use std::path::PathBuf;

use clap::{Args, Subcommand};

mod connect;
mod copy;
mod discover;
mod ping;
mod state;

pub(super) use copy::{read, write};
pub(super) use discover::discover;
pub(super) use ping::ping;
pub(super) use state::{config, mask, reserve};

use crate::values::{Address, ByteSize, Mac, ValueError, parse_address, parse_mac};

/// How to reach one target.
#[derive(Clone, Debug, Args)]
pub struct TargetArgs {
    /// The interface to ask on
    #[arg(short, long, value_name = "IFACE")]
    pub interface: String,

    /// Give up after this many seconds without an answer
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub timeout: Duration,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// The interface to ask on (repeat for several)
    #[arg(short, long, value_name = "IFACE", required = true)]
    pub interface: Vec<String>,

    /// Collect answers for this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub wait: Duration,

    /// Do not ask the targets for model, serial number and size
    #[arg(long)]
    pub no_identify: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// The target
    #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
    pub address: Address,

    /// How.
    #[command(flatten)]
    pub target: TargetArgs,

    /// How many times to ask
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub count: u32,

    /// Time between two questions, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub interval: Duration,

    /// Ask the disk (IDENTIFY) instead of the protocol
    #[arg(long)]
    pub ata: bool,
}

/// `cowblade config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What to do with a config string.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Print it
    Get {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Set it, unless another one is set
    Set {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// The string
        #[arg(value_name = "STRING")]
        string: String,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Set it, whatever is set; an empty STRING clears it
    Force {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// The string
        #[arg(value_name = "STRING")]
        string: String,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Ask whether it is STRING; exit code 4 if nobody says so
    Test {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// The string
        #[arg(value_name = "STRING")]
        string: String,
        /// Whether it begins with STRING
        #[arg(long)]
        prefix: bool,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `cowblade mask`.
#[derive(Debug, Args)]
pub struct MaskArgs {
    /// What to do
    #[command(subcommand)]
    pub action: MaskAction,
}

/// What to do with a MAC mask list.
#[derive(Debug, Subcommand)]
pub enum MaskAction {
    /// Print it
    List {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Add addresses; the first one shuts everybody else out
    Add {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// The addresses
        #[arg(value_name = "MAC", value_parser = parse_mac, required = true)]
        macs: Vec<Mac>,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Remove addresses; an empty list admits everybody
    Remove {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// The addresses
        #[arg(value_name = "MAC", value_parser = parse_mac, required = true)]
        macs: Vec<Mac>,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `cowblade reserve`.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ReserveAction,
}

/// What to do with a reservation.
#[derive(Debug, Subcommand)]
pub enum ReserveAction {
    /// Print it
    Show {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Reserve the target, unless others hold it
    Set {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// For whom
        #[arg(value_name = "MAC", value_parser = parse_mac, required = true)]
        macs: Vec<Mac>,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Reserve the target, whoever holds it; without MAC release it
    Force {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// For whom
        #[arg(value_name = "MAC", value_parser = parse_mac)]
        macs: Vec<Mac>,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Release the target, as one of its holders
    Release {
        /// The target
        #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
        address: Address,
        /// How.
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// `cowblade read`.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// The target
    #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
    pub address: Address,

    /// How.
    #[command(flatten)]
    pub target: TargetArgs,

    /// Begin at this byte of the disk, a multiple of 512
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,

    /// Read this many bytes, a multiple of 512 [default: to the end of the disk]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// Where to; `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Read everything twice and compare
    #[arg(long)]
    pub verify: bool,
}

/// `cowblade write`.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// The target
    #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
    pub address: Address,

    /// What to write; its last sector is filled up with zeros
    #[arg(value_name = "FILE")]
    pub input: PathBuf,

    /// How.
    #[command(flatten)]
    pub target: TargetArgs,

    /// Begin at this byte of the disk, a multiple of 512
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,

    /// Read everything back and compare
    #[arg(long)]
    pub verify: bool,
}

/// Reads a positive number of seconds, with up to three decimals.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, ValueError> {
    let malformed =
        || ValueError::new(format!("`{text}` is not a time; write seconds, such as 2 or 0.5"));
    let seconds: f64 = text.parse().map_err(|_| malformed())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| malformed())?;
    if duration.is_zero() || duration > Duration::from_hours(24) {
        return Err(malformed());
    }
    Ok(duration)
}
