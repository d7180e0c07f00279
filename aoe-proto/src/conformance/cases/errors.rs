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
    case("errors.flush.status", Should, "AoE 5.4")
        .shows("the status of a successful FLUSH CACHE has DRDY, and no other bit but DSC")
        .otherwise("tools that wait for a ready disk believe that it is not (vblade, ggaoed)")
        .steps(&[ask(
            ata(0xe7, 0, n(0), n(0)),
            &[plain().with(&[Check::Bits { at: 27, mask: 0xef, is: 0x40 }])],
        )]),
    case("errors.legacy", Note, "AoE 5.5")
        .shows("commands of old disks (RECALIBRATE, SEEK, SET MULTIPLE) succeed or are aborted")
        .otherwise("an AoE error or silence hangs who probes for 180 s")
        .steps(&[
            ask(ata(0x10, 0, n(0), n(0)), &[done(), aborted()]),
            ask(ata(0x70, 0, n(0), n(0)), &[done(), aborted()]),
            ask(ata(0x91, 0, n(0), n(63)), &[done(), aborted()]),
            ask(ata(0xc6, 0, n(0), n(1)), &[done(), aborted()]),
        ]),
    case("errors.check-power-mode", Should, "AoE 5.4")
        .shows("CHECK POWER MODE is answered whatever the count is: active")
        .otherwise("tools that ask before they spin a disk up wait for ever")
        .steps(&[
            ask(ata(0xe5, 0, n(0), n(0)), &[done(), aborted().differs("not supported")]),
            ask(ata(0xe5, 0, n(0), n(1)), &[done(), aborted().differs("not supported")]),
        ]),
    case("errors.flush-ext", Should, "AoE 5.5")
        .shows("FLUSH CACHE EXT succeeds if IDENTIFY offers it, and is an ATA abort if not")
        .otherwise("tools that flush believe that data are lost")
        .steps(&[ask(
            ata(0xea, 0x40, n(0), n(0)),
            &[done(), aborted().differs("not offered (vblade)")],
        )]),
    case("errors.flush.ignores-registers", Should, "AoE 5.5")
        .shows("FLUSH CACHE does not look at count, LBA or the E flag")
        .otherwise("tools that leave old values in the registers cannot flush")
        .steps(&[ask(
            ata(0xe7, 0x40, n(0x0102_0304), n(7)),
            &[plain().with(&[Check::Bits { at: 27, mask: 0xa9, is: 0 }])],
        )]),
    case("errors.nop", Must, "AoE 5.5")
        .shows("NOP is aborted, as ATA requires")
        .otherwise("tools that probe with it misunderstand the disk")
        .steps(&[ask(ata(0x00, 0, n(0), n(0)), &[aborted()])]),
    case("errors.packet", Must, "AoE 5.5")
        .shows("commands of CD drives and resets are ATA aborts")
        .otherwise("an AoE error or silence hangs who probes for 180 s")
        .steps(&[
            ask(ata(0xa0, 0, n(0), n(0)), &[aborted()]),
            ask(ata(0xa1, 0, n(0), n(1)), &[aborted()]),
            ask(ata(0x08, 0, n(0), n(0)), &[aborted()]),
            ask(ata(0x90, 0, n(0), n(0)), &[aborted(), done().differs("the diagnosis passed")]),
        ]),
    case("errors.multiple", Should, "AoE 5.5")
        .shows("READ MULTIPLE is aborted while words 47 and 59 do not offer it")
        .otherwise("a client transfers another number of sectors than the target")
        .steps(&[ask(
            ata(0xc4, 0, n(0), n(1)),
            &[aborted(), done().differs("it is served although it is not offered")],
        )]),
    case("errors.set-features", Should, "AoE 5.5")
        .shows("SET FEATURES for cache and look-ahead succeeds or is aborted, others are aborted")
        .otherwise("Windows-like probing gives the disk up")
        .steps(&[
            ask(
                ata(0xef, 0, n(0), n(0)).feature(0x02),
                &[done(), aborted().differs("not offered")],
            ),
            ask(
                ata(0xef, 0, n(0), n(0)).feature(0x55),
                &[done(), aborted().differs("not offered")],
            ),
            ask(ata(0xef, 0, n(0), n(0)).feature(0x77), &[aborted()]),
        ]),
    case("errors.smart.without-key", Should, "AoE 5.5")
        .shows("SMART without 4F and C2 in the LBA registers is aborted")
        .otherwise("a stray command changes the health settings")
        .steps(&[ask(ata(0xb0, 0, n(0), n(0)).feature(0xda), &[aborted()])]),
    case("errors.smart.status", Should, "AoE 5.5")
        .shows("SMART RETURN STATUS of a target that offers SMART keeps 4F and C2: healthy")
        .otherwise("aoeping -S reports a dying disk")
        .needs(Needs::SMART)
        .steps(&[ask(
            ata(0xb0, 0, n(0x00c2_4f00), n(0)).feature(0xda),
            &[done().with(&[
                Check::Bits { at: 29, mask: 0xff, is: 0x4f },
                Check::Bits { at: 30, mask: 0xff, is: 0xc2 },
            ])],
        )]),
    case("errors.power", Should, "AoE 5.5")
        .shows("STANDBY, IDLE and SLEEP succeed or are aborted, and reads work behind them")
        .otherwise("one frame of anybody stops the disk for all")
        .steps(&[
            ask(ata(0xe0, 0, n(0), n(0)), &[done(), aborted().differs("not offered")]),
            ask(ata(0xe1, 0, n(0), n(0)), &[done(), aborted().differs("not offered")]),
            ask(ata(0xe6, 0, n(0), n(0)), &[done(), aborted().differs("not offered")]),
            ask(read(n(0), n(1)), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
        ]),
    case("errors.native-max", Note, "AoE 5.5")
        .shows("READ NATIVE MAX ADDRESS EXT tells the last sector, or is aborted")
        .otherwise("tools that look for hidden areas find one")
        .needs(Needs::LBA48)
        .steps(&[ask(
            ata(0x27, 0x40, n(0), n(0)),
            &[
                done().with(&[Check::Where {
                    what: "the last sector in the LBA registers",
                    at: 28,
                    len: 6,
                    holds: |frame, facts| {
                        let bytes = frame.iter().skip(28).take(6).rev();
                        let last = bytes.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
                        facts.sectors.is_none_or(|sectors| last.checked_add(1) == Some(sectors))
                    },
                }]),
                aborted().differs("not offered (vblade)"),
            ],
        )]),
    case("errors.vendor", Must, "AoE 2.3")
        .shows("commands of the vendor range are answered with error 1, or with an extension")
        .otherwise("a client cannot tell a missing extension from a lost frame")
        .steps(&[
            ask(raw(0xef, &[0; 12]), &[error(code::COMMAND)]),
            ask(raw(0xf1, &[0; 12]), &[error(code::COMMAND), anything().differs("an extension")]),
            ask(raw(0xff, &[0; 12]), &[error(code::COMMAND), anything().differs("an extension")]),
        ]),
    case("errors.keyed-reserve", Note, "AoE 7.3")
        .shows("the keyed reservation of Coraid (command 4) is an error 1 or an extension")
        .otherwise("nothing: no published client uses it")
        .steps(&[ask(
            raw(4, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            &[error(code::COMMAND), anything().differs("an extension")],
        )]),
    case("errors.registers", Should, "AoE 5.4")
        .shows("a refusal has status 0x41, ABRT and nothing else, and no data")
        .otherwise("clients that look at more than the error bit see another failure")
        .steps(&[ask(
            ata(0xa1, 0, n(0), n(1)),
            &[aborted().with(&[
                Check::Bits { at: 27, mask: 0xef, is: 0x41 },
                Check::Bits { at: 25, mask: 0xff, is: 0x04 },
                Check::DataLength { sectors: n(0) },
            ])],
        )]),
];
