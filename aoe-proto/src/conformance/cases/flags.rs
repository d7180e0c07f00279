//! The R, E and Z flags of requests. `[AoE 2.1]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Flags, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("flags.response", Must, "AoE 2.1")
        .shows("a frame with the R flag is dropped, whatever it asks for")
        .otherwise("two targets that answer each other's answers loop for ever")
        .steps(&[silent(query().flags(0x08)), silent(identify().flags(0x08))]),
    case("flags.error", Must, "AoE 2.1")
        .shows("E flag and error byte of a request do not come back in a successful answer")
        .otherwise("Linux drops the answer and hangs for 180 s, iPXE fails the command")
        .steps(&[ask(
            query().flags(0x04).error(0x2a),
            &[plain().with(&[
                Check::Bits { at: 14, mask: 0xff, is: 0x18 },
                Check::Bits { at: 15, mask: 0xff, is: 0 },
            ])],
        )]),
    case("flags.reserved", Should, "AoE 2.1")
        .shows("reserved flags of a request are ignored, and are zero in the answer")
        .otherwise("a later protocol cannot tell who understood its flags")
        .steps(&[ask(
            query().flags(0x03),
            &[plain().with(&[Check::Bits { at: 14, mask: 0x03, is: 0 }])],
        )]),
];
