//! Input that nobody honest sends. `[AoE 2.7]` `[AoE 9]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Hostile, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("hostile.cut-header", Must, "AoE 2.7")
        .shows("a frame that ends inside its header is dropped")
        .otherwise("old memory of the target is taken for a request")
        .needs(Needs::SHORT_FRAMES)
        .steps(&[
            silent(identify().cut_at(14)),
            silent(identify().cut_at(19)),
            silent(identify().cut_at(23)),
        ]),
    case("hostile.cut-argument", Must, "AoE 2.7")
        .shows("a frame that ends inside the fixed part of its argument is dropped")
        .otherwise("old memory of the target is taken for the rest of the request")
        .needs(Needs::SHORT_FRAMES)
        .steps(&[
            silent(identify().cut_at(35)),
            silent(query().cut_at(31)),
            silent(mask_read().cut_at(27)),
            silent(reserve_read().cut_at(25)),
        ]),
    case("hostile.cut-write", Must, "AoE 9")
        .shows("a write without any data is refused, and nothing is written")
        .otherwise("old memory of the target is written to the disk (qaoed)")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).cut_at(36), &[aborted()]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
];
