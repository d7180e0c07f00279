//! ATA writes. `[AoE 5]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Write, id, severity, section)
}

const NEW: &[Check] = &[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }];
const OLD: &[Check] = &[Check::Original { lba: Value::WINDOW, sectors: n(1) }];

pub(super) const CASES: &[Case] = &[
    case("write.read-back", Must, "AoE 5.5")
        .shows("what is written is read back, by 28 and by 48 bits, and its neighbour is untouched")
        .otherwise("every client loses its data")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)), &[done()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
            ask(read28(Value::WINDOW, n(1)), &[done().with(NEW)]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW.plus(1), sectors: n(1) }])],
            ),
        ]),
    case("write.most", Must, "AoE 5.6")
        .shows("as many sectors as advertised are written at once")
        .otherwise("every write of Linux fails, as it always sends that many")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, Value::MAX), &[done()]),
            ask(
                read(Value::WINDOW, Value::MAX),
                &[done().with(&[Check::Pattern {
                    seed: 1,
                    lba: Value::WINDOW,
                    sectors: Value::MAX,
                }])],
            ),
        ]),
    case("write.cut", Must, "AoE 5.6")
        .shows("a write with one byte missing is aborted, and nothing is written")
        .otherwise("old memory of the target is written to the disk")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(2)).short_by(1), &[aborted()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.without-w", Should, "AoE 5.1")
        .shows("a WRITE without the W flag is aborted, and nothing is written")
        .otherwise("a frame that contradicts itself is taken for a write")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write28(1, Value::WINDOW, n(1)).ata_flags(0), &[aborted()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.response.no-data", Should, "AoE 5.4")
        .shows("the answer to a write has no data")
        .otherwise("every write costs as much on the way back")
        .needs(Needs::WRITES)
        .steps(&[ask(
            write(1, Value::WINDOW, n(1)),
            &[done().with(&[Check::DataLength { sectors: n(0) }])],
        )]),
];
