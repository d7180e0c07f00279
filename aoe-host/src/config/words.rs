//! The words of `serve`, shared by the command line and the configuration file.

use core::num::NonZero;
use core::str::FromStr;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Deserializer, de};

use super::chain::{ExportWord, OneOrMany, deserialize_macs};
use super::{ClientWord, Durability, FreezeWord, LinkKind, NewClients, Workers};
use crate::share::WORKERS_MAX;
use crate::values::{
    Address, ByteSize, Mac, ValueError, parse_address, parse_mac, parse_mac_set, serde_text,
};

/// What was typed for `serve`. A field that was not typed is `None` or empty.
#[derive(Clone, Debug, Default, Eq, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServeWords {
    /// The golden image: raw, any supported format, or a block device. Never written to
    #[arg(value_name = "GOLDEN")]
    pub golden: Option<PathBuf>,

    /// Serve on this network interface (repeat for several)
    #[arg(short, long, value_name = "IFACE")]
    #[serde(deserialize_with = "deserialize_texts")]
    pub interface: Vec<String>,

    /// Address of the golden image, or of the first of `--clients N` [default: 0.0]
    #[arg(long, value_name = "SHELF.SLOT", value_parser = parse_address)]
    #[serde(deserialize_with = "deserialize_address")]
    pub address: Option<Address>,

    /// A client: a name and every MAC address it sends from (repeat for several)
    #[arg(long, value_name = "NAME=MAC[+MAC...]")]
    pub client: Vec<ClientWord>,

    /// What to do with machines that are not named: refuse, or auto[=MAX] to give each an overlay
    /// at its first write [default: refuse]
    #[arg(long, value_name = "refuse|auto[=MAX]")]
    pub new_clients: Option<NewClients>,

    /// Give each of N clients an address of its own, from --address on
    #[arg(long, value_name = "N")]
    pub clients: Option<u32>,

    /// Show the disk at an address to these MAC addresses only (repeat for several)
    #[arg(long, value_name = "SHELF.SLOT=MAC[+MAC...]")]
    pub bind: Vec<BindWord>,

    /// A disk of its own: images from top to base, or blank:SIZE, or cow:PATH, or a line of a
    /// device-mapper table; options ro, per-client, mac=, durability=, limit=, name= (repeat for
    /// several)
    #[arg(long, value_name = "SHELF.SLOT=CHAIN[,OPTION...]")]
    pub export: Vec<ExportWord>,

    /// Directory of the overlays [default: GOLDEN.overlays]
    #[arg(long, value_name = "DIR")]
    pub overlays: Option<PathBuf>,

    /// What an acknowledged write survives [default: safe]
    #[arg(long, value_enum)]
    pub durability: Option<Durability>,

    /// Most bytes one overlay may take on disk
    #[arg(long, value_name = "SIZE")]
    pub overlay_limit: Option<ByteSize>,

    /// Take room for the whole disk when an overlay is made: first writes are faster then, and cannot
    /// fail for want of room
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub preallocate: Option<bool>,

    /// Make writes durable by a commit log in the overlay directory, where there is room for one: one
    /// sync for the writes of all clients [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub commit_log: Option<bool>,

    /// Warn when the overlays' file system has less room than this
    #[arg(long, value_name = "SIZE")]
    pub low_space: Option<ByteSize>,

    /// Answer these MAC addresses only (repeat for several)
    #[arg(long, value_name = "MAC", value_parser = parse_mac, value_delimiter = ',')]
    #[serde(deserialize_with = "deserialize_macs")]
    pub allow: Vec<Mac>,

    /// Outstanding messages a client may have per target, at least 2 [default: 16]
    #[arg(long, value_name = "N")]
    pub buffer_count: Option<u16>,

    /// Bypass the page cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL")]
    pub direct: Option<bool>,

    /// Serve GOLDEN from this byte on, a multiple of 512 [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub offset: Option<ByteSize>,

    /// Serve this many bytes of GOLDEN [default: to its end]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// Control socket [default: control.sock in the overlay directory]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// How to reach the network [default: auto]
    #[arg(long, value_enum)]
    pub link: Option<LinkKind>,

    /// Threads that share the disks: a number, or auto for half of the processors [default: 1]
    #[arg(long, value_name = "N|auto")]
    pub workers: Option<Workers>,

    /// Where the images below are that images themselves name; beside these they may always be
    /// (repeat for several)
    #[arg(long, value_name = "DIR")]
    pub follow: Vec<PathBuf>,

    /// State that clients may not change: config, mask, reserve
    #[arg(long, value_enum, value_delimiter = ',')]
    pub freeze: Vec<FreezeWord>,
}

/// One `--bind`, or one `[[bind]]` table.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindWord {
    /// Shelf and slot.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// The initiators that may see it.
    #[serde(deserialize_with = "deserialize_macs")]
    pub mac: Vec<Mac>,
}

impl ServeWords {
    /// What was typed on the command line, completed by what the file says. A single value and a
    /// list given on the command line replace the file's; clients, exports and bindings are joined,
    /// and the command line wins where both name the same client or address.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        Self {
            golden: self.golden.or(file.golden),
            interface: or_list(self.interface, file.interface),
            address: self.address.or(file.address),
            client: joined(self.client, file.client, |a, b| a.name == b.name),
            new_clients: self.new_clients.or(file.new_clients),
            clients: self.clients.or(file.clients),
            bind: joined(self.bind, file.bind, |a, b| a.address == b.address),
            export: joined(self.export, file.export, |a, b| a.address == b.address),
            overlays: self.overlays.or(file.overlays),
            durability: self.durability.or(file.durability),
            overlay_limit: self.overlay_limit.or(file.overlay_limit),
            preallocate: self.preallocate.or(file.preallocate),
            commit_log: self.commit_log.or(file.commit_log),
            low_space: self.low_space.or(file.low_space),
            allow: or_list(self.allow, file.allow),
            buffer_count: self.buffer_count.or(file.buffer_count),
            direct: self.direct.or(file.direct),
            offset: self.offset.or(file.offset),
            length: self.length.or(file.length),
            control: self.control.or(file.control),
            link: self.link.or(file.link),
            workers: self.workers.or(file.workers),
            freeze: or_list(self.freeze, file.freeze),
            follow: or_list(self.follow, file.follow),
        }
    }
}

fn or_list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

fn joined<T>(mut winner: Vec<T>, other: Vec<T>, same: fn(&T, &T) -> bool) -> Vec<T> {
    let typed = winner.len();
    for item in other {
        if !winner.iter().take(typed).any(|won| same(won, &item)) {
            winner.push(item);
        }
    }
    winner
}

impl FromStr for BindWord {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, macs) = text.split_once('=').ok_or_else(|| {
            ValueError::new(format!(
                "`{text}` has no `=`; write SHELF.SLOT=MAC[+MAC...], such as \
                 0.1=52:54:00:12:34:56"
            ))
        })?;
        Ok(Self { address: parse_address(address)?, mac: parse_mac_set(macs)? })
    }
}

impl FromStr for NewClients {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed =
            || ValueError::new(format!("`{text}` is unknown; write refuse, auto or auto=MAX"));
        match text {
            "refuse" => Ok(Self::Refuse),
            "auto" => Ok(Self::Auto { max: None }),
            _ => {
                let max = text.strip_prefix("auto=").ok_or_else(malformed)?;
                let max: u32 = max.parse().map_err(|_| malformed())?;
                if max == 0 {
                    return Err(ValueError::new("auto=0 admits nobody; write refuse"));
                }
                Ok(Self::Auto { max: Some(max) })
            }
        }
    }
}

impl FromStr for Workers {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number =
            text.parse().ok().filter(|n: &NonZero<u8>| usize::from(n.get()) <= WORKERS_MAX);
        number.map(Self::Number).ok_or_else(|| {
            ValueError::new(format!(
                "`{text}` is no number of workers; write 1 to {WORKERS_MAX}, or auto"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Word {
            Number(u64),
            Text(String),
        }
        let text = match Word::deserialize(from)? {
            Word::Number(number) => number.to_string(),
            Word::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for NewClients {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

fn deserialize_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
    serde_text::address::deserialize(from).map(Some)
}

fn deserialize_texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(list) => list,
    })
}
