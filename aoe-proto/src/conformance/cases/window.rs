//! Requests outstanding at once. `[AoE 4.2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Window, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("window.full", Must, "AoE 4")
        .shows("as many requests as the buffer count promises are answered when sent at once")
        .otherwise("Linux loses requests, falls back to one at a time and crawls")
        .steps(&[flood(
            Value::BUFFERS,
            read(n(0), n(1)),
            &[done().with(&[Check::DataLength { sectors: n(1) }])],
        )]),
    case("window.full-of-frames", Must, "AoE 4")
        .shows("as many reads of the largest size as promised are answered when sent at once")
        .otherwise("Linux loses requests, falls back to one at a time and crawls")
        .steps(&[flood(
            Value::BUFFERS,
            read(n(0), Value::MAX),
            &[done().with(&[Check::DataLength { sectors: Value::MAX }])],
        )]),
    case("window.full-of-writes", Must, "AoE 4")
        .shows("as many writes of the largest size as promised are answered when sent at once")
        .otherwise("Linux loses writes, falls back to one at a time and crawls")
        .needs(Needs::WRITES)
        .steps(&[flood(Value::BUFFERS, write(1, Value::WINDOW, Value::MAX), &[done()])]),
    case("window.full-of-queries", Should, "AoE 4")
        .shows("as many queries as promised are answered when sent at once")
        .otherwise("a segment of many clients does not find its disks after a power cut")
        .steps(&[flood(Value::BUFFERS, query(), &[plain()])]),
];
