//! Which cases rest on which section of the protocol, and what no case can show.

use core::fmt::Write;

use aoe_proto::conformance::{ALL, Case};

/// A section and its subject, in the order of `docs/PROTOCOL.md`.
type Section = (&'static str, &'static str);

const SECTIONS: &[Section] = &[
    ("1", "the model: one answer to one message"),
    ("2", "the common header"),
    ("2.1", "flags"),
    ("2.2", "versions"),
    ("2.3", "error codes"),
    ("2.4", "shelf, slot and destination"),
    ("2.5", "source addresses"),
    ("2.6", "tags"),
    ("2.7", "lengths and padding"),
    ("3", "command codes"),
    ("4", "Query/Config: the fields"),
    ("4.1", "Query/Config: the commands"),
    ("4.2", "buffer count and sector count"),
    ("4.3", "advertisement"),
    ("5", "ATA: the registers that come back"),
    ("5.1", "ATA: flags"),
    ("5.2", "ATA: sector addresses"),
    ("5.3", "ATA: sector counts"),
    ("5.4", "ATA: status and error"),
    ("5.5", "ATA: commands"),
    ("5.6", "ATA: what fits a frame"),
    ("6", "IDENTIFY DEVICE"),
    ("7.1", "MAC mask list"),
    ("7.2", "reserve and release"),
    ("7.3", "extensions"),
    ("8.1", "Linux"),
    ("8.2", "iPXE"),
    ("8.3", "WinAoE and WinVBlock"),
    ("8.4", "Plan 9 and aoetools"),
    ("8.5", "the order of execution"),
    ("9", "hazards"),
    ("10", "the order of decisions"),
];

/// What stands behind a hazard.
enum Shown {
    /// These cases.
    By(&'static [&'static str]),
    /// No case, because.
    Not(&'static str),
}

use Shown::{By, Not};

/// The numbered hazards of section 9, in our words.
const HAZARDS: &[(&str, Shown)] = &[
    (
        "a delayed duplicate reverts a sector",
        By(&["retransmission.delayed-duplicate", "ordering.write-write"]),
    ),
    (
        "requests come again, with the same tag or another",
        By(&[
            "retransmission.same-tag",
            "retransmission.new-tag",
            "retransmission.write.same-tag",
            "retransmission.mask",
        ]),
    ),
    (
        "answers and own frames come back",
        By(&["flags.response", "flags.response.config-set", "flags.response.write"]),
    ),
    (
        "frames are short, padded, or have junk behind them",
        By(&["hostile.cut-header", "hostile.cut-argument", "hostile.cut-ata", "write.surplus"]),
    ),
    (
        "frames of a VLAN that is not served arrive",
        By(&["vlan.foreign", "vlan.priority", "vlan.foreign.last", "vlan.foreign.write"]),
    ),
    ("versions and commands are unknown", By(&["version.two", "errors.unknown-command"])),
    (
        "counts and ranges overflow",
        By(&[
            "edge.read.too-many",
            "edge.read.overflow",
            "edge.write.overflow",
            "hostile.lba-wraps",
        ]),
    ),
    (
        "a write beyond the end lets an image grow",
        By(&["edge.write.beyond", "edge.write.across-end"]),
    ),
    (
        "a write has less data than it says",
        By(&["write.cut", "write.missing-sector", "hostile.cut-write"]),
    ),
    (
        "a frame is longer than the buffer of the target",
        Not("no link carries such a frame: that of the harness has the MTU of the target's"),
    ),
    ("an answer is longer than the MTU has become", By(&["mtu.lowered", "mtu.lowered.read"])),
    (
        "the receive buffer is too short for what was promised",
        By(&[
            "window.full",
            "window.full-of-frames",
            "window.full-of-writes",
            "window.full-of-queries",
        ]),
    ),
    (
        "refusals are larger than requests, or endless",
        By(&["hostile.amplification", "hostile.flood-of-errors"]),
    ),
    (
        "anybody can forge an address",
        Not(
            "a property of the protocol; what an administrator can switch off differs from target to target",
        ),
    ),
    (
        "a machine with two addresses gets two overlays",
        Not(
            "which clients share a disk is configuration; the harness asks for one disk for both its addresses",
        ),
    ),
    (
        "serial numbers are not unique",
        Not(
            "it takes two disks; one disk has to keep its own: `identify.serial`, `identify.stable`",
        ),
    ),
    ("requests are not aligned", By(&["edge.write.neighbours", "ordering.overlap"])),
    (
        "a target comes back as another, or too late",
        By(&[
            "identify.restart",
            "advertisement.after-crash",
            "write.survives-crash",
            "config.persistent",
        ]),
    ),
];

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

fn ids<'c>(ids: impl Iterator<Item = &'c str>) -> String {
    ids.map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}

/// The part of the document about sections, which no run can change.
pub fn sections_part() -> String {
    let mut out = String::from(
        "## Sections and cases\n\nThe sections are those of [PROTOCOL.md](PROTOCOL.md). A case stands at the one that it rests on \
         most.\n\n| section | subject | cases |\n|---|---|---|\n",
    );
    let mut row = |front: String, cases: &str| {
        writeln!(out, "| {front} | {cases} |").expect("a string takes text");
    };
    for (number, subject) in SECTIONS {
        let of_section = cases().filter(|case| case.section.strip_prefix("AoE ") == Some(*number));
        row(format!("{number} | {subject}"), &ids(of_section.map(|case| case.id)));
    }
    out.push_str(
        "\nThe hazards of section 9 one by one; some cases about them stand at other sections.\n\n\
         | hazard | | cases |\n|---|---|---|\n",
    );
    for (number, (hazard, shown)) in (1..).zip(HAZARDS) {
        let shown = match shown {
            By(list) => ids(list.iter().copied()),
            Not(why) => format!("none: {why}"),
        };
        writeln!(out, "| {number} | {hazard} | {shown} |").expect("a string takes text");
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_stands_at_a_section_and_every_section_has_a_case() {
        for case in cases() {
            let known = |(number, _): &Section| case.section.strip_prefix("AoE ") == Some(*number);
            assert_eq!(SECTIONS.iter().filter(|section| known(section)).count(), 1, "{}", case.id);
        }
        for (number, _) in SECTIONS {
            let has = cases().any(|case| case.section.strip_prefix("AoE ") == Some(*number));
            assert!(has, "section {number} has no case");
        }
    }

    #[test]
    fn hazards_name_cases_that_exist_and_no_case_of_section_9_is_left_out() {
        let named: Vec<&str> = HAZARDS
            .iter()
            .filter_map(|(_, shown)| if let By(list) = shown { Some(*list) } else { None })
            .flatten()
            .copied()
            .collect();
        for id in &named {
            assert!(cases().any(|case| case.id == *id), "{id}");
        }
        // About no single hazard.
        let general = ["identify.stable", "hostile.random-argument"];
        for case in cases().filter(|case| case.section == "AoE 9") {
            assert!(named.contains(&case.id) || general.contains(&case.id), "{}", case.id);
        }
    }
}
