//! The named parts of a frame, for annotated dumps.

use core::ops::Range;

use crate::sectors::SECTOR_BYTES;
use crate::wire::ata::ATA_DATA_OFFSET;
use crate::wire::mac_mask::{DIRECTIVE_LEN, MASK_ARG_LEN};
use crate::wire::reserve::{MAC_LEN, RESERVE_ARG_LEN};
use crate::wire::{Command, ConfigArg, HEADER_LEN, MaskArg, ReserveArg};

/// A named part of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field {
    /// What it is, in lower case but for abbreviations.
    pub name: &'static str,
    /// Its bytes; the range lies inside the frame and is not empty.
    pub bytes: Range<usize>,
}

/// Name and end of each field; it starts where the one before ends.
type Table = &'static [(&'static str, usize)];

const ETHERNET: Table = &[("destination", 6), ("source", 12)];
const COMMON: Table = &[
    ("type", 14),
    ("version and flags", 15),
    ("error", 16),
    ("shelf", 18),
    ("slot", 19),
    ("command", 20),
    ("tag", 24),
];
const ATA_REQUEST: Table = &[
    ("AFlags", 25),
    ("feature", 26),
    ("sector count", 27),
    ("ATA command", 28),
    ("LBA", 34),
    ("reserved", 36),
];
const ATA_ANSWER: Table = &[
    ("AFlags", 25),
    ("ATA error", 26),
    ("sector count", 27),
    ("ATA status", 28),
    ("LBA", 34),
    ("reserved", 36),
];
const CONFIG: Table = &[
    ("buffer count", 26),
    ("firmware version", 28),
    ("sector count", 29),
    ("version and CCmd", 30),
    ("string length", 32),
];
const MASK: Table = &[("reserved", 25), ("MCmd", 26), ("MError", 27), ("directives", 28)];
const RESERVE: Table = &[("RCmd", 25), ("addresses", 26)];

/// The parts of an AoE frame, in order, until its end; nothing is left out. A cut field is as long
/// as what is there. Works on anything: what is no AoE frame has an Ethernet header and "payload".
pub fn fields(frame: &[u8]) -> impl Iterator<Item = Field> + '_ {
    let tag_len = if frame.get(12..14) == Some(&[0x81, 0]) { 4 } else { 0 };
    let tag = [("VLAN tag", 12 + tag_len)];
    let body = Body::of(frame, tag_len);
    let len = frame.len();
    let shifted = move |(name, end): &(&'static str, usize)| (*name, end.saturating_add(tag_len));
    let mut start = 0;
    ETHERNET
        .iter()
        .copied()
        .chain(tag)
        .chain(body.common.iter().map(shifted))
        .chain(body.argument.iter().map(shifted))
        .chain((1..=body.entries).map(move |number| {
            let end = number.saturating_mul(body.entry_len).saturating_add(body.entries_at);
            (body.entry, end.saturating_add(tag_len))
        }))
        .chain([(body.rest, usize::MAX)])
        .filter_map(move |(name, end)| {
            let bytes = start..end.min(len);
            start = bytes.end.max(start);
            (!bytes.is_empty()).then_some(Field { name, bytes })
        })
}

/// What follows the Ethernet addresses.
#[derive(Clone, Copy)]
struct Body {
    common: Table,
    argument: Table,
    entry: &'static str,
    entries_at: usize,
    entries: usize,
    entry_len: usize,
    rest: &'static str,
}

impl Body {
    fn of(frame: &[u8], tag_len: usize) -> Self {
        let payload = |common: Table| Self {
            common,
            argument: &[],
            entry: "",
            entries_at: 0,
            entries: 0,
            entry_len: 0,
            rest: "payload",
        };
        let aoe = frame.get(12_usize.saturating_add(tag_len)..).and_then(|rest| rest.get(..2));
        if aoe != Some(&crate::wire::ETHERTYPE.to_be_bytes()) {
            return payload(&[("type", 14)]);
        }
        let start = HEADER_LEN.saturating_add(tag_len);
        let (Some(argument), Some(command)) =
            (frame.get(start..), frame.get(19_usize.saturating_add(tag_len)))
        else {
            return payload(COMMON);
        };
        let response = frame.get(14_usize.saturating_add(tag_len)).is_some_and(|b| b & 8 != 0);
        let common = Self { rest: "padding", ..payload(COMMON) };
        match Command::from(*command) {
            Command::Ata => {
                let data = argument.len().saturating_add(HEADER_LEN)
                    >= ATA_DATA_OFFSET.saturating_add(SECTOR_BYTES);
                Self {
                    argument: if response { ATA_ANSWER } else { ATA_REQUEST },
                    rest: if data { "data" } else { "padding" },
                    ..common
                }
            }
            Command::Config => {
                let len = ConfigArg::parse(argument).map_or(0, |(arg, _)| arg.string_len);
                let (entry, entries_at, entries) = ("config string", 32, usize::from(len > 0));
                let entry_len = usize::from(len);
                Self { argument: CONFIG, entry, entries_at, entries, entry_len, ..common }
            }
            Command::MacMask => {
                let count = MaskArg::parse(argument).map_or(0, |(arg, _)| arg.count);
                let (entry, entries_at) = ("directive", HEADER_LEN + MASK_ARG_LEN);
                let (entries, entry_len) = (usize::from(count), DIRECTIVE_LEN);
                Self { argument: MASK, entry, entries_at, entries, entry_len, ..common }
            }
            Command::Reserve => {
                let count = ReserveArg::parse(argument).map_or(0, |(arg, _)| arg.count);
                let (entry, entries_at) = ("address", HEADER_LEN + RESERVE_ARG_LEN);
                let (entries, entry_len) = (usize::from(count), MAC_LEN);
                Self { argument: RESERVE, entry, entries_at, entries, entry_len, ..common }
            }
            Command::Other(_) => Self { rest: "payload", ..common },
        }
    }
}

/// The name of the field that the byte at `offset` belongs to.
pub fn field_at(frame: &[u8], offset: usize) -> Option<&'static str> {
    fields(frame).find(|field| field.bytes.contains(&offset)).map(|field| field.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Header;
    use std::vec::Vec;

    fn frame(command: u8, flags: u8, argument: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from(*b"\x02\0\0\0\0\x01\x02\0\0\0\0\x0a\x88\xa2");
        frame.extend_from_slice(&[flags, 0, 0, 7, 3, command, 1, 2, 3, 4]);
        frame.extend_from_slice(argument);
        frame
    }

    fn names(frame: &[u8]) -> Vec<(&'static str, Range<usize>)> {
        fields(frame).map(|field| (field.name, field.bytes)).collect()
    }

    #[test]
    fn every_byte_has_a_name() {
        let mut frames = Vec::new();
        for command in 0..=4 {
            for flags in [0x10, 0x18] {
                frames.push(frame(command, flags, &[0xff; 600]));
                frames.push(frame(command, flags, &[0; 36]));
            }
        }
        for frame in frames {
            for len in 0..=frame.len() {
                let mut end = 0;
                for field in fields(&frame[..len]) {
                    assert_eq!(field.bytes.start, end);
                    end = field.bytes.end;
                }
                assert_eq!(end, len);
            }
        }
    }

    #[test]
    fn names_of_parts() {
        let config = frame(1, 0x18, b"\0\x10\x40\x19\x02\x10\0\x02hi\0\0");
        let tail: Vec<_> = names(&config).split_off(9);
        assert_eq!(
            tail,
            [
                ("buffer count", 24..26),
                ("firmware version", 26..28),
                ("sector count", 28..29),
                ("version and CCmd", 29..30),
                ("string length", 30..32),
                ("config string", 32..34),
                ("padding", 34..36),
            ]
        );
        let reserve = frame(3, 0x18, &[1, 1, 2, 0, 0, 0, 0, 9, 0]);
        assert_eq!(field_at(&reserve, 26), Some("address"));
        assert_eq!(field_at(&reserve, 32), Some("padding"));
        assert_eq!(field_at(&frame(0, 0x18, &[0; 600]), 36), Some("data"));
        assert_eq!(field_at(&frame(0, 0x18, &[0; 36]), 36), Some("padding"));
        assert_eq!(field_at(&frame(0, 0x18, &[0; 36]), 27), Some("ATA status"));
        let mut tagged = frame(0, 0x10, &[0; 36]);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert_eq!(field_at(&tagged, 12), Some("VLAN tag"));
        assert_eq!(field_at(&tagged, 31), Some("ATA command"));
        assert_eq!(names(b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x0a\x08\0ab").len(), 4);
    }

    #[test]
    fn the_header_is_that_of_the_codec() {
        assert!(Header::parse(&frame(0, 0x10, &[])).is_ok());
    }
}
