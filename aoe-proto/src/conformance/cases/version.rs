//! Protocol versions. `[AoE 2.2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Version, id, severity, section)
}

const REFUSED: &[Answer] =
    &[error(code::VERSION).with(&[Check::Bits { at: 14, mask: 0xff, is: 0x1c }])];

const SILENT: &str = "other versions are dropped (ggaoed)";

pub(super) const CASES: &[Case] = &[
    case("version.two", Should, "AoE 2.2")
        .shows("a request of version 2 is refused with error 5, in a frame of version 1")
        .otherwise("a client of a later protocol believes that it is understood")
        .steps(&[ask_or_silence(query().version(2), REFUSED, SILENT)]),
    case("version.two.broadcast", Should, "AoE 2.2")
        .shows("a request of version 2 to every shelf and slot is dropped")
        .otherwise("noise is answered by every target of the segment")
        .needs(Needs::BROADCAST)
        .steps(&[silent(query().version(2).to_all())]),
    case("version.two.not-executed", Must, "AoE 2.2")
        .shows("a write of version 2 is not executed")
        .otherwise("a frame that means something else destroys data")
        .needs(Needs::WRITES)
        .steps(&[
            ask_or_silence(write(1, Value::WINDOW, n(1)).version(2), REFUSED, SILENT),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
];
