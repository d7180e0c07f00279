//! tshark as an independent reader of frames.

use std::path::Path;
use std::process::Command;

use crate::require;

/// What tshark reads in one AoE frame; numbers as it prints them, empty if the field is absent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dissected {
    /// Length of the frame.
    pub length: String,
    /// Source address.
    pub from: String,
    /// Version of AoE.
    pub version: String,
    /// Whether it is a response.
    pub response: String,
    /// Whether the error flag is set.
    pub error_flag: String,
    /// Code of the AoE-level error.
    pub error: String,
    /// Shelf.
    pub shelf: String,
    /// Slot.
    pub slot: String,
    /// Command of AoE.
    pub command: String,
    /// Tag.
    pub tag: String,
    /// ATA operation of a request.
    pub operation: String,
    /// ATA status of a response.
    pub status: String,
    /// Sector count register.
    pub count: String,
    /// LBA register.
    pub lba: String,
    /// Number of the frame that this one answers.
    pub response_to: String,
    /// What tshark has to complain about.
    pub malformed: String,
}

const FIELDS: [&str; 16] = [
    "frame.len",
    "eth.src",
    "aoe.version",
    "aoe.response",
    "aoe.flags_error",
    "aoe.error",
    "aoe.major",
    "aoe.minor",
    "aoe.cmd",
    "aoe.tag",
    "aoe.ata.cmd",
    "aoe.ata.status",
    "aoe.sector_count",
    "aoe.lba",
    "aoe.response_to",
    "_ws.malformed",
];

/// Reads the AoE frames of a capture file.
pub fn dissect(capture: &Path) -> Vec<Dissected> {
    let program = require::program("tshark").expect("tshark is installed");
    let mut command = Command::new(program);
    command.arg("-r").arg(capture).args(["-Y", "aoe", "-T", "fields", "-E", "separator=|"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(parse).collect()
}

fn parse(line: &str) -> Dissected {
    let mut words = line.split('|').map(String::from);
    let mut next = || words.next().unwrap_or_default();
    Dissected {
        length: next(),
        from: next(),
        version: next(),
        response: next(),
        error_flag: next(),
        error: next(),
        shelf: next(),
        slot: next(),
        command: next(),
        tag: next(),
        operation: next(),
        status: next(),
        count: next(),
        lba: next(),
        response_to: next(),
        malformed: next(),
    }
}
