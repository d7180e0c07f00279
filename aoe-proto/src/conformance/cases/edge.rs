//! Ends of the disk, counts, flags that contradict. `[AoE 5.2]` `[AoE 5.3]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Edge, id, severity, section)
}

const NO_DATA: &[Check] = &[Check::DataLength { sectors: n(0) }];

pub(super) const CASES: &[Case] = &[
    case("edge.read.last", Must, "AoE 5.2")
        .shows("the last sector can be read")
        .otherwise("partition tools that look for the copy of a GPT fail")
        .steps(&[ask(
            read(Value::LAST, n(1)),
            &[done().with(&[Check::DataLength { sectors: n(1) }])],
        )]),
    case("edge.read.beyond", Must, "AoE 5.2")
        .shows("a read that reaches past the end is an ATA error without data")
        .otherwise("an AoE error instead, or silence, hangs Linux for 180 s")
        .steps(&[
            ask(read(Value::SECTORS, n(1)), &[not_found().with(NO_DATA)]),
            ask(
                read(Value::LAST, n(2)),
                &[
                    not_found().with(NO_DATA),
                    ata_error().differs("what lies before the end is returned (vblade)"),
                ],
            ),
        ]),
    case("edge.read.overflow", Must, "AoE 5.2")
        .shows("the largest LBA is out of range: no arithmetic overflows")
        .otherwise("a forged frame reads outside of the disk, or ends the target")
        .needs(Needs::LBA48)
        .steps(&[ask(read(n((1 << 48) - 1), n(2)), &[not_found().with(NO_DATA)])]),
    case("edge.read.count-zero", Should, "AoE 5.3")
        .shows("a READ of 0 sectors is aborted")
        .otherwise("nothing with today's clients; ATA means 256 by it")
        .steps(&[ask(
            read(n(0), n(0)),
            &[
                aborted().with(NO_DATA),
                done().with(NO_DATA).differs("success without data (vblade)"),
            ],
        )]),
    case("edge.read.too-many", Must, "AoE 5.6")
        .shows("a READ of more sectors than advertised is aborted at once")
        .otherwise("WinAoE, which probes this way, loses its disk; an AoE error hangs Linux")
        .steps(&[ask(read(n(0), Value::MAX.plus(1)), &[aborted().with(NO_DATA)])]),
    case("edge.write.beyond", Must, "AoE 5.2")
        .shows("a write that reaches past the end is an ATA error, and nothing is written")
        .otherwise("an image file grows, or the write is lost without a word")
        .needs(Needs::WRITES.and(Needs::BEYOND_END))
        .steps(&[ask(write(1, Value::SECTORS, n(1)), &[not_found()])]),
    case("edge.read.most-at-end", Must, "AoE 5.2")
        .shows("the last sectors of the disk can be read in one frame of full size")
        .otherwise("Linux, which reads the end of the disk so, sees an error")
        .steps(&[ask(
            read(Value::LAST.plus(-1), n(2)),
            &[done().with(&[Check::DataLength { sectors: n(2) }])],
        )]),
    case("edge.read.28-bit-with-e", Should, "AoE 5.2")
        .shows("a 28-bit command with the E flag is aborted, or read as what its code says")
        .otherwise("targets that go by the flag read another sector")
        .steps(&[ask(
            read28(n(1), n(1)).ata_flags(0x40),
            &[aborted(), done().differs("the command code alone decides (vblade)")],
        )]),
    case("edge.read.ext-without-e", Must, "AoE 5.2")
        .shows("READ EXT without the E flag, of an LBA of more than 28 bits, does not wrap")
        .otherwise("another sector is read than was asked for (ggaoed, qaoed, VoE)")
        .needs(Needs::LBA48)
        .steps(&[ask(read(n(1 << 28), n(1)).ata_flags(0), &[ata_error()])]),
    case("edge.read.count-255", Must, "AoE 5.6")
        .shows("a READ of 255 sectors is aborted at once where it does not fit a frame")
        .otherwise("WinAoE waits, and an AoE error hangs Linux for 180 s")
        .steps(&[ask(
            read(n(0), n(255)),
            &[aborted().with(NO_DATA), done().with(&[Check::DataLength { sectors: n(255) }])],
        )]),
    case("edge.read.count-zero.beyond", Should, "AoE 5.3")
        .shows("a READ of 0 sectors beyond the end is an ATA error")
        .otherwise("nothing with today's clients")
        .steps(&[ask(
            read(Value::SECTORS, n(0)),
            &[
                ata_error().with(NO_DATA),
                done().with(NO_DATA).differs("success without data (vblade)"),
            ],
        )]),
    case("edge.read.residue", Note, "AoE 5.3")
        .shows("a refused READ tells the sectors that were not transferred")
        .otherwise("nothing: no known client looks")
        .steps(&[ask(
            read(Value::SECTORS, n(1)),
            &[
                ata_error().with(&[Check::Bits { at: 26, mask: 0xff, is: 1 }]),
                ata_error().differs("another count comes back"),
            ],
        )]),
    case("edge.read.no-error-no-flag", Must, "AoE 2.3")
        .shows("reads that are refused, for whatever reason, never have the E flag")
        .otherwise("Linux drops such answers and hangs for 180 s")
        .steps(&[
            ask(read(Value::SECTORS, n(1)), &[plain()]),
            ask(read(n(0), Value::MAX.plus(1)), &[plain()]),
            ask(read28(n(0x0fff_ffff), n(1)), &[plain()]),
        ]),
    case("edge.write.across-end", Must, "AoE 5.2")
        .shows("a write that begins on the disk and ends behind it writes nothing at all")
        .otherwise("a part of a file system's write is lost, or an image file grows (qaoed)")
        .needs(Needs::WRITES.and(Needs::BEYOND_END))
        .steps(&[
            ask(write(1, Value::LAST, n(2)), &[ata_error()]),
            ask(
                read(Value::LAST, n(1)),
                &[done().with(&[Check::Original { lba: Value::LAST, sectors: n(1) }])],
            ),
        ]),
    case("edge.write.overflow", Must, "AoE 5.2")
        .shows("a write to the largest LBA is out of range: no arithmetic overflows")
        .otherwise("a forged frame writes outside of the disk, or ends the target")
        .needs(Needs::WRITES.and(Needs::BEYOND_END).and(Needs::LBA48))
        .steps(&[ask(write(1, n((1 << 48) - 1), n(2)), &[ata_error()])]),
    case("edge.write.28-bit-beyond", Must, "AoE 5.2")
        .shows("a 28-bit write beyond the end is an ATA error")
        .otherwise("an image file grows")
        .needs(Needs::WRITES.and(Needs::BEYOND_END))
        .steps(&[ask(write28(1, Value::SECTORS, n(1)), &[ata_error()])]),
    case("edge.write.neighbours", Must, "AoE 5.2")
        .shows("a write to the middle of three sectors leaves both neighbours alone")
        .otherwise("a target with larger units destroys what is beside a write")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW.plus(1), n(1)), &[done()]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
            ask(
                read(Value::WINDOW.plus(2), n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW.plus(2), sectors: n(1) }])],
            ),
        ]),
];
