//! The R, E and Z flags of requests. `[AoE 2.1]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Flags, id, severity, section)
}

const CLEAN: &[Check] =
    &[Check::Bits { at: 14, mask: 0xff, is: 0x18 }, Check::Bits { at: 15, mask: 0xff, is: 0 }];

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
    case("flags.response.config-set", Must, "AoE 2.1")
        .shows("a config set with the R flag is not executed")
        .otherwise("an answer that a hub sends back changes the target")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            silent(config(ccmd::FORCE, b"xyz").flags(0x08)),
            ask(query(), &[plain().with(&[Check::String(Text::Is(b"abc"))])]),
        ]),
    case("flags.response.write", Must, "AoE 2.1")
        .shows("a write with the R flag is not executed")
        .otherwise("an answer that a hub sends back destroys data")
        .needs(Needs::WRITES)
        .steps(&[
            silent(write(1, Value::WINDOW, n(1)).flags(0x08)),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("flags.error.ata", Must, "AoE 2.1")
        .shows("E flag and error byte of an ATA request do not come back in a successful answer")
        .otherwise("Linux drops the answer and hangs for 180 s, iPXE fails the command")
        .steps(&[
            ask(identify().flags(0x04).error(0x2a), &[done().with(CLEAN)]),
            ask(read(n(0), n(1)).flags(0x04).error(1), &[done().with(CLEAN)]),
        ]),
    case("flags.reserved.ata", Should, "AoE 2.1")
        .shows("reserved flags of an ATA request are zero in the answer")
        .otherwise("a later protocol cannot tell who understood its flags")
        .steps(&[ask(
            identify().flags(0x03),
            &[done().with(&[Check::Bits { at: 14, mask: 0x03, is: 0 }])],
        )]),
];
