//! `cowblade discover`: who is there, and what it offers.

use core::time::Duration;

use serde::Serialize;

use super::DiscoverArgs;
use crate::cli::output::{Table, print_json, print_line};
use crate::config::LinkKind;
use crate::error::{Exit, Result};
use crate::initiator::{DiskIdentity, FoundTarget, Session, discover as ask_everybody};
use crate::link::{self, Room};
use crate::values::{Address, Mac, human_bytes, serde_text};

/// How long a target that answered may take to identify its disk.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// One answer, as JSON shows it.
#[derive(Debug, Serialize)]
struct Entry {
    interface: String,
    #[serde(serialize_with = "serde_text::address::serialize")]
    address: Address,
    #[serde(serialize_with = "serde_text::mac::serialize")]
    mac: Mac,
    buffer_count: u16,
    sectors_max: u8,
    firmware: u16,
    config_string: String,
    /// Another machine answers for the same address on the same interface.
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Disk>,
}

#[derive(Debug, Serialize)]
struct Disk {
    size_bytes: u64,
    model: String,
    serial: String,
    revision: String,
    trim: bool,
}

pub(in crate::cli) fn discover(args: &DiscoverArgs) -> Result<Exit> {
    let mut entries = Vec::new();
    for interface in &args.interface {
        let mut link = link::open(LinkKind::Auto, interface, Room::default())?;
        let found = ask_everybody(link.as_mut(), args.wait)?;
        for target in &found {
            let disk = if args.no_identify {
                None
            } else {
                // A target that does not identify itself is listed all the same.
                let mut session = Session::new(link.as_mut(), target.address, IDENTIFY_TIMEOUT)?;
                session.connect().ok()
            };
            entries.push(entry_of(interface, target, &found, disk));
        }
    }
    if args.json {
        print_json(&entries)?;
    } else {
        print_line(&render(&entries))?;
    }
    Ok(if entries.is_empty() { Exit::NotFound } else { Exit::Success })
}

fn entry_of(
    interface: &str,
    target: &FoundTarget,
    all: &[FoundTarget],
    disk: Option<DiskIdentity>,
) -> Entry {
    let duplicate = all.iter().any(|o| o.address == target.address && o.mac != target.mac);
    Entry {
        interface: interface.to_owned(),
        address: target.address,
        mac: target.mac,
        buffer_count: target.buffer_count,
        sectors_max: target.sectors_max,
        firmware: target.firmware,
        config_string: String::from_utf8_lossy(&target.config_string).into_owned(),
        duplicate,
        disk: disk.map(|disk| Disk {
            size_bytes: disk.sectors.saturating_mul(512),
            model: disk.model,
            serial: disk.serial,
            revision: disk.revision,
            trim: disk.trim,
        }),
    }
}

fn render(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no target answered".to_owned();
    }
    let headings = [
        "target",
        "interface",
        "server",
        ">size",
        "model",
        "serial",
        ">buffers",
        ">sectors",
        "config string",
    ];
    let mut table = Table::new(&headings);
    for entry in entries {
        let text = |pick: fn(&Disk) -> String| {
            entry.disk.as_ref().map(pick).filter(|text| !text.is_empty())
        };
        let dash = || "-".to_owned();
        table.add([
            entry.address.to_string(),
            entry.interface.clone(),
            entry.mac.to_string(),
            text(|disk| human_bytes(disk.size_bytes)).unwrap_or_else(dash),
            text(|disk| disk.model.clone()).unwrap_or_else(dash),
            text(|disk| disk.serial.clone()).unwrap_or_else(dash),
            entry.buffer_count.to_string(),
            entry.sectors_max.to_string(),
            entry.config_string.escape_debug().to_string(),
        ]);
    }
    let mut parts = vec![table.render()];
    let mut duplicates: Vec<_> =
        entries.iter().filter(|entry| entry.duplicate).map(|entry| entry.address).collect();
    duplicates.dedup();
    parts.extend(duplicates.iter().map(|address| {
        format!(
            "warning: several MAC addresses answer for {address}: fine if one server has them all; if \
             they are two servers, initiators write to them in turn and destroy the data"
        )
    }));
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(slot: u8, mac: u8) -> FoundTarget {
        FoundTarget {
            address: Address::new(0, slot).unwrap(),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            buffer_count: 16,
            sectors_max: 2,
            firmware: 1,
            config_string: b"a\x1bb".to_vec(),
        }
    }

    #[test]
    fn two_servers_with_one_address_are_pointed_out() {
        let found = [target(1, 1), target(1, 2), target(2, 1)];
        let entries: Vec<_> =
            found.iter().map(|target| entry_of("eth0", target, &found, None)).collect();
        let text = render(&entries);
        assert_eq!(
            text.matches("warning: several MAC addresses answer for e0.1").count(),
            1,
            "{text}"
        );
        assert!(!text.contains("answer for e0.2"));
        assert!(!text.contains('\x1b'), "a config string must not reach the terminal as it is");
    }

    #[test]
    fn json_has_the_numbers_programs_want() {
        let found = [target(1, 1)];
        let disk = DiskIdentity { sectors: 8, ..DiskIdentity::default() };
        let json = serde_json::to_value(entry_of("eth0", &found[0], &found, Some(disk))).unwrap();
        assert_eq!(json["address"], "e0.1");
        assert_eq!(json["mac"], "02:00:00:00:00:01");
        assert_eq!(json["disk"]["size_bytes"], 4096);
        assert_eq!(json["duplicate"], false);
    }
}
