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
];
