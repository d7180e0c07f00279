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
];
