//! Order of execution. `[AoE 8.5]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Ordering, id, severity, section)
}

const SECOND: &[Check] = &[Check::Pattern { seed: 2, lba: Value::WINDOW, sectors: n(1) }];

pub(super) const CASES: &[Case] = &[
    case("ordering.write-write", Must, "AoE 9")
        .shows("of two writes to one sector, sent back to back, the second stands")
        .otherwise("a file system that rewrites a sector finds the old contents")
        .needs(Needs::WRITES)
        .steps(&[
            burst(&[
                exchange(write(1, Value::WINDOW, n(1)), &[done()]),
                exchange(write(2, Value::WINDOW, n(1)), &[done()]),
            ]),
            ask(read(Value::WINDOW, n(1)), &[done().with(SECOND)]),
        ]),
    case("ordering.write-read", Must, "AoE 8.5")
        .shows("a read right behind a write to the same sector returns the new contents")
        .otherwise("clients that were used to one thread read what they just replaced")
        .needs(Needs::WRITES)
        .steps(&[burst(&[
            exchange(write(1, Value::WINDOW, n(1)), &[done()]),
            exchange(write(2, Value::WINDOW, n(1)), &[done()]),
            exchange(read(Value::WINDOW, n(1)), &[done().with(SECOND)]),
        ])]),
    case("ordering.read-write", Must, "AoE 8.5")
        .shows("a read right in front of a write to the same sector returns the old contents")
        .otherwise("clients that were used to one thread read what they had not written yet")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)), &[done()]),
            burst(&[
                exchange(
                    read(Value::WINDOW, n(1)),
                    &[
                        done().with(&[Check::Pattern {
                            seed: 1,
                            lba: Value::WINDOW,
                            sectors: n(1),
                        }]),
                        // Sent again as a whole after a loss, the round reads what it wrote.
                        done().with(SECOND).called("what a repeated round reads"),
                    ],
                ),
                exchange(write(2, Value::WINDOW, n(1)), &[done()]),
                exchange(read(Value::WINDOW, n(1)), &[done().with(SECOND)]),
            ]),
        ]),
    case("ordering.overlap", Must, "AoE 8.5")
        .shows(
            "of two writes that overlap in one sector, sent back to back, the second stands there",
        )
        .otherwise("a file system that rewrites a sector finds the old contents")
        .needs(Needs::WRITES)
        .steps(&[
            burst(&[
                exchange(write(1, Value::WINDOW, n(2)), &[done()]),
                exchange(write(2, Value::WINDOW.plus(1), n(2)), &[done()]),
            ]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }])],
            ),
            ask(
                read(Value::WINDOW.plus(1), n(2)),
                &[done().with(&[Check::Pattern {
                    seed: 2,
                    lba: Value::WINDOW.plus(1),
                    sectors: n(2),
                }])],
            ),
        ]),
    case("ordering.write-flush-write", Must, "AoE 8.5")
        .shows("a FLUSH CACHE between two writes, sent back to back, loses neither of them")
        .otherwise("a journalling file system is corrupted")
        .needs(Needs::WRITES)
        .steps(&[
            burst(&[
                exchange(write(1, Value::WINDOW.plus(1), n(1)), &[done()]),
                exchange(ata(0xe7, 0, n(0), n(0)), &[plain()]),
                exchange(write(2, Value::WINDOW, n(1)), &[done()]),
            ]),
            ask(read(Value::WINDOW, n(1)), &[done().with(SECOND)]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Pattern {
                    seed: 1,
                    lba: Value::WINDOW.plus(1),
                    sectors: n(1),
                }])],
            ),
        ]),
    case("ordering.config", Should, "AoE 8.5")
        .shows("of two forced sets, sent back to back, the second stands")
        .otherwise("a disk has another name than was given last")
        .needs(Needs::CONFIG)
        .steps(&[
            burst(&[
                exchange(config(ccmd::FORCE, b"abc"), &[plain()]),
                exchange(config(ccmd::FORCE, b"xyz"), &[plain()]),
            ]),
            ask(query(), &[plain().with(&[Check::String(Text::Is(b"xyz"))])]),
        ]),
];
