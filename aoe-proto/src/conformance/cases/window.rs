//! Requests outstanding at once. `[AoE 4.2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Window, id, severity, section)
}

pub(super) const CASES: &[Case] = &[case("window.full", Must, "AoE 4")
    .shows("as many requests as the buffer count promises are answered when sent at once")
    .otherwise("Linux loses requests, falls back to one at a time and crawls")
    .steps(&[flood(
        Value::BUFFERS,
        read(n(0), n(1)),
        &[done().with(&[Check::DataLength { sectors: n(1) }])],
    )])];
