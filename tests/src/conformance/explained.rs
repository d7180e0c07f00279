//! Why targets fail cases. A failure without an explanation, or an explanation without a failure,
//! fails the tests and the making of `docs/CONFORMANCE.md`.

use super::compare::Explanation;

/// One reason for many failures.
type Reason = (&'static str, &'static [&'static str]);

/// vblade 25, as Debian builds it.
const VBLADE: &[Reason] = &[
    (
        "it takes every frame that its socket delivers, whoever it is addressed to",
        &["addressing.other-host", "addressing.other-host.write", "addressing.multicast-mac"],
    ),
    (
        "it answers whatever the source address is, so that a forged frame becomes a broadcast or a frame to nobody",
        &[
            "addressing.source.broadcast",
            "addressing.source.multicast",
            "addressing.source.zero",
            "addressing.source.own",
        ],
    ),
    (
        "it executes changes that are addressed to every shelf and slot; the protocol says nothing about it",
        &[
            "addressing.wildcard.write",
            "addressing.wildcard.config-set",
            "addressing.wildcard.mask-edit",
            "addressing.wildcard.reserve",
        ],
    ),
    (
        "it does not look at the version, executes the request, and answers with the request's version",
        &[
            "version.two",
            "version.two.broadcast",
            "version.two.not-executed",
            "version.zero-and-fifteen",
            "version.two.identify",
            "version.two.no-echo",
            "version.two.unknown-command",
        ],
    ),
    (
        "it builds its answer in the request, and leaves flags and error byte where they are",
        &["flags.error", "flags.error.ata", "flags.reserved", "flags.reserved.ata"],
    ),
    (
        "it sends answers as short as they are and relies on the network card to pad them",
        &["padding.response.length", "padding.response.every-kind", "advertisement.length"],
    ),
    (
        "it builds its answer in the request, and sends the rest of the request with it",
        &["padding.leak.ata-error", "padding.leak.unknown-command", "padding.zeros.write"],
    ),
    (
        "it compares the length of the string with that of the whole frame, and stores padding and old memory behind the data",
        &["config.set.length-beyond-frame", "config.padding-not-stored"],
    ),
    ("the string is kept in memory only", &["config.persistent"]),
    (
        "it decides by the opcode alone, and does not compare the W flag with it",
        &["read.with-w", "write.without-w"],
    ),
    (
        "a count that does not fit the frame is an AoE error 2, which makes Linux wait for 180 s",
        &[
            "write.cut",
            "write.missing-sector",
            "hostile.cut-write",
            "edge.read.too-many",
            "edge.read.count-255",
            "edge.read.no-error-no-flag",
        ],
    ),
    ("IDENTIFY with another count than 1 is an AoE error 2", &["identify.any-count"]),
    (
        "CHECK POWER MODE with a count of 1 gives its answer a negative length, which is never sent",
        &["errors.check-power-mode"],
    ),
    (
        "it does not compare the number of directives with the frame, and executes old memory",
        &["mask.count-beyond-frame"],
    ),
    (
        "it uses the number of entries as an offset in bytes: the third entry overwrites the second",
        &["mask.add-delete"],
    ),
    ("it ends when an entry is deleted (a negative length of a copy)", &["mask.delete"]),
    (
        "it ends when an entry is deleted, as `mask.delete` shows: here the one that the case had added",
        &[
            "version.two.masked",
            "config.masked",
            "mask.silence",
            "mask.add.again",
            "mask.unknown-dcmd",
            "mask.no-directive",
            "mask.in-order",
            "mask.entries",
            "mask.full",
            "mask.leaving",
            "mask.silence.every-command",
            "mask.silence.broadcast",
            "mask.silence.edit",
            "mask.silence.write",
            "retransmission.mask",
        ],
    ),
    ("its announcement has version 0", &["advertisement.version"]),
    (
        "it ends when its interface goes down (\"read network: Network is down\")",
        &["advertisement.link-up"],
    ),
    (
        "it ends when an answer cannot be sent (\"write to network: Message too long\")",
        &["mtu.lowered.read"],
    ),
    ("its answer to FLUSH CACHE has the status 0", &["errors.flush.status"]),
    (
        "it does not see VLAN tags, which the kernel keeps beside the frame, and answers without one",
        &["vlan.foreign", "vlan.foreign.last", "vlan.foreign.write"],
    ),
];

/// Our server.
const COWBLADE: &[Reason] = &[];

/// Our target in process.
const IN_PROCESS: &[Reason] = &[];

/// Why vblade 25, as Debian builds it, fails what it fails.
pub fn vblade() -> Vec<Explanation> {
    list(VBLADE)
}

/// Why our server fails what it fails.
pub fn cowblade() -> Vec<Explanation> {
    list(COWBLADE)
}

/// Why our target in process fails what it fails.
pub fn in_process() -> Vec<Explanation> {
    list(IN_PROCESS)
}

fn list(reasons: &[Reason]) -> Vec<Explanation> {
    let each = |(why, cases): &Reason| {
        let why = *why;
        cases.iter().map(move |case| Explanation { case, why }).collect::<Vec<_>>()
    };
    reasons.iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use aoe_proto::conformance::ALL;

    use super::*;

    #[test]
    fn every_explanation_is_about_a_case_and_no_case_has_two() {
        for list in [vblade(), cowblade(), in_process()] {
            for (at, Explanation { case, .. }) in list.iter().enumerate() {
                assert!(ALL.iter().copied().flatten().any(|known| known.id == *case), "{case}");
                assert!(list.iter().skip(at + 1).all(|other| other.case != *case), "{case}");
            }
        }
    }
}
