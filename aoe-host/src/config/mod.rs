//! What `serve` was asked to do, in one plain, validated structure.
//!
//! ```text
//!   command line ---\
//!                    > ServeWords --resolve--> ServeConfig --> server
//!   TOML file ------/    (words)    (pure)      (decisions)
//! ```
//!
//! [`ServeWords`] holds exactly what was typed; the file and the command line share it, hence
//! the same words. [`ServeWords::resolve`] is pure: it looks at no file, so every rule about
//! arguments is tested without one.

use core::num::NonZero;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::values::{Address, ByteSize, Mac};

mod chain;
mod file;
mod names;
mod resolve;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use chain::EXPORT_OPTIONS;
pub use chain::{ExportWord, LayerWord};
pub use names::{ClientWord, NAME_LEN_MAX, check_name};
pub(crate) use resolve::{backing_of, default_control, default_overlays};
pub(crate) use table::layers_of;
pub use words::{BindWord, ServeWords};

/// Smallest buffer count with which the Linux initiator works at all. [AoE 4.2]
pub const BUFFER_COUNT_MIN: u16 = 2;

/// Buffer count unless told otherwise, as vblade has it. [AoE 4.2]
pub const BUFFER_COUNT_DEFAULT: u16 = 16;

/// Everything the server needs to know before it touches a file or an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServeConfig {
    /// Interfaces to serve on; at least one, each once.
    pub interfaces: Vec<String>,
    /// Which implementation of a link to use.
    pub link: LinkKind,
    /// Threads that share the disks.
    pub workers: Workers,
    /// The disks, sorted by address; every address occurs once.
    pub exports: Vec<Export>,
    /// Directory of overlays, client registry and protocol state. `None`: nothing is to be kept.
    pub overlays: Option<PathBuf>,
    /// Clients given by name; a MAC belongs to one client at most.
    pub clients: Vec<ClientWord>,
    /// What happens to an initiator nobody named.
    pub new_clients: NewClients,
    /// Only these stations are answered at all; empty: everybody. [AoE 9.14]
    pub allow: Vec<Mac>,
    /// Outstanding messages advertised per target, at least [`BUFFER_COUNT_MIN`]. [AoE 4.2]
    pub buffer_count: u16,
    /// Warn when the overlays' file system has less room than this, in bytes.
    pub low_space: Option<u64>,
    /// Bypass the page cache for the golden image and the overlays.
    pub direct: bool,
    /// New overlays take room for the whole disk.
    pub preallocate: bool,
    /// Writes become durable by a commit log in the overlay directory, where there is room for one.
    pub commit_log: bool,
    /// Path of the control socket. `None`: no control socket.
    pub control: Option<PathBuf>,
    /// Protocol state that the network may not change.
    pub freeze: Freeze,
    /// Paths that images name lead into these directories, besides that of the image itself.
    pub follow: Vec<PathBuf>,
    /// Sentences for the operator about what is legal but probably not meant.
    pub warnings: Vec<String>,
}

/// One address and what is behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Export {
    /// Shelf and slot.
    pub address: Address,
    /// What is on top, and who may write.
    pub top: Top,
    /// Read-only layers below the top, from upper to base; at least one.
    pub backing: Vec<Layer>,
    /// A name for messages.
    pub name: Option<String>,
    /// Only these initiators see the export; empty: all that may see anything.
    pub macs: Vec<Mac>,
    /// What a write survives once it is acknowledged.
    pub durability: Durability,
    /// Most bytes that one overlay of this export may take on disk.
    pub limit: Option<u64>,
}

/// What writes to an export go to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Top {
    /// Nothing: writes are refused.
    ReadOnly,
    /// One overlay per client, in the overlay directory, created at the client's first write.
    PerClient,
    /// One overlay in the overlay directory, named after the export, created on demand.
    Own,
    /// The overlay in this file, created on demand.
    File(PathBuf),
}

/// One read-only layer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Layer {
    /// A file or device of any format.
    File {
        /// Where it is.
        path: PathBuf,
        /// The part of it that is served.
        window: Window,
    },
    /// What the image above, the last but this, says is below it.
    Recorded,
    /// Zeros; always the base.
    Blank {
        /// Size of the disk in bytes, a positive multiple of 512.
        len_bytes: u64,
    },
}

/// A part of a file, as `--offset` and `--length` give it. The default is the whole file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Window {
    /// First byte, a multiple of 512.
    pub offset_bytes: u64,
    /// Number of bytes; `None`: to the end of the file.
    pub len_bytes: Option<u64>,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// The end of the process and the loss of power.
    #[default]
    Safe,
    /// The end of the process; the last seconds may be lost with the power.
    Writeback,
    /// Nothing: the overlay is gone when the server stops.
    Ephemeral,
}

/// Which implementation of a link to use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The fastest that works here.
    #[default]
    Auto,
    /// A raw socket through libpnet.
    Pnet,
    /// Packet sockets with rings that are shared with the kernel.
    Ring,
    /// A packet socket, many frames with one system call.
    Mmsg,
}

/// How many threads share the disks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Workers {
    /// As many as the processors bear, see [`Workers::count`].
    Auto,
    /// So many.
    Number(NonZero<u8>),
}

impl Workers {
    /// One, which costs nothing for others that are not there.
    pub const ONE: Self = Self::Number(NonZero::<u8>::MIN);

    /// The number; for `auto` half of the processors, as the kernel needs about as much for its part
    /// of each request, and at most [`AUTO_WORKERS_MAX`].
    pub fn count(self) -> usize {
        match self {
            Self::Auto => {
                let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
                (processors / 2).clamp(1, AUTO_WORKERS_MAX)
            }
            Self::Number(number) => usize::from(number.get()),
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self::ONE
    }
}

/// Most workers that `auto` starts: what comes through one receive queue does not feed more.
pub const AUTO_WORKERS_MAX: usize = 8;

/// What happens to an initiator nobody named.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NewClients {
    /// It is listed, with the command that adopts it, and not served.
    #[default]
    Refuse,
    /// It becomes a client of its own at its first write.
    Auto {
        /// Most clients in the registry, those named by hand included.
        max: Option<u32>,
    },
}

/// Protocol state that the network may not change. [AoE 9.14]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Freeze {
    /// The config string.
    pub config: bool,
    /// The MAC mask list.
    pub mask: bool,
    /// The reservation.
    pub reserve: bool,
}

/// One word of `--freeze`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezeWord {
    /// The config string.
    Config,
    /// The MAC mask list.
    Mask,
    /// The reservation.
    Reserve,
}

impl Export {
    /// What the export is called in messages: its name, or its address.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }

    /// Whether the overlay directory is needed for it.
    pub fn needs_overlays(&self) -> bool {
        matches!(self.top, Top::PerClient | Top::Own)
    }
}

impl FromIterator<FreezeWord> for Freeze {
    fn from_iter<I: IntoIterator<Item = FreezeWord>>(words: I) -> Self {
        words.into_iter().fold(Self::default(), |frozen, word| match word {
            FreezeWord::Config => Self { config: true, ..frozen },
            FreezeWord::Mask => Self { mask: true, ..frozen },
            FreezeWord::Reserve => Self { reserve: true, ..frozen },
        })
    }
}

/// The number of bytes, if it can be a disk: a positive multiple of 512 below 2^57.
fn disk_len(size: ByteSize) -> Result<u64, String> {
    const DISK_LEN_MAX: u64 = ((1 << 48) - 1) * 512;
    let len = size.bytes();
    if len == 0 || !len.is_multiple_of(512) {
        return Err(format!("{len} bytes is not a positive multiple of 512"));
    }
    if len > DISK_LEN_MAX {
        return Err(format!("{size} is more than the protocol can address (128 PiB)"));
    }
    Ok(len)
}
