//! How failures are told, and the commands besides reads and writes. `[AoE 5.4]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Errors, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("errors.unsupported-opcode", Must, "AoE 5.5")
        .shows("an ATA command that is not supported is an ATA abort, not an AoE error")
        .otherwise("Linux drops AoE errors and hangs for 180 s")
        .steps(&[
            ask(ata(0x00, 0, n(0), n(0)), &[aborted()]),
            ask(ata(0xa1, 0, n(0), n(1)), &[aborted()]),
        ]),
    case("errors.unknown-command", Must, "AoE 2.3")
        .shows("an unknown AoE command is answered with error 1")
        .otherwise("a client cannot tell a missing extension from a lost frame")
        .steps(&[
            ask(raw(4, &[0; 12]), &[error(code::COMMAND)]),
            ask(raw(0xf0, &[0; 12]), &[error(code::COMMAND)]),
        ]),
    case("errors.flush", Must, "AoE 5.5")
        .shows("FLUSH CACHE succeeds")
        .otherwise("tools that flush believe that data are lost")
        .steps(&[ask(
            ata(0xe7, 0, n(0), n(0)),
            &[
                done(),
                plain()
                    .with(&[Check::Bits { at: 27, mask: 0xe9, is: 0 }])
                    .differs("DRDY is clear (vblade)"),
            ],
        )]),
    case("errors.check-power-mode", Should, "AoE 5.4")
        .shows("CHECK POWER MODE is answered whatever the count is: active")
        .otherwise("tools that ask before they spin a disk up wait for ever")
        .steps(&[
            ask(ata(0xe5, 0, n(0), n(0)), &[done(), aborted().differs("not supported")]),
            ask(ata(0xe5, 0, n(0), n(1)), &[done(), aborted().differs("not supported")]),
        ]),
];
