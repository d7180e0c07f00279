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
    case("version.zero-and-fifteen", Should, "AoE 2.2")
        .shows("requests of version 0 and 15 are refused with error 5 as well")
        .otherwise("the version nibble is not looked at, or only partly (vblade, qaoed)")
        .steps(&[
            ask_or_silence(query().version(0), REFUSED, SILENT),
            ask_or_silence(query().version(15), REFUSED, SILENT),
        ]),
    case("version.two.identify", Should, "AoE 2.2")
        .shows("IDENTIFY of version 2 is refused with error 5, and no page is sent")
        .otherwise("a client of a later protocol believes that it is understood")
        .steps(&[ask_or_silence(
            identify().version(2),
            &[error(code::VERSION).with(&[Check::Length(Test::AtMost(n(60)))])],
            SILENT,
        )]),
    case("version.two.no-echo", Should, "AoE 2.2")
        .shows("the refusal has the target's own address, and nothing of the request behind it")
        .otherwise("an answer without a meaning is as long as the request")
        .steps(&[ask_or_silence(
            query().version(2).junk(200),
            &[error(code::VERSION).with(&[
                Check::OwnAddress,
                Check::NoRun { from: 24, byte: JUNK },
                Check::Length(Test::AtMost(n(60))),
            ])],
            SILENT,
        )]),
    case("version.two.unknown-command", Should, "AoE 10")
        .shows("an unknown command of version 2 is refused for its version, not for its command")
        .otherwise("a client of a later protocol looks for the mistake in the wrong place")
        .steps(&[ask_or_silence(raw(4, &[0; 12]).version(2), REFUSED, SILENT)]),
    case("version.two.masked", Should, "AoE 10")
        .shows("a station that the mask list shuts out gets no answer to version 2 either")
        .otherwise("the mask list can be probed, and answers noise")
        .needs(Needs::MASK.and(Needs::SECOND_MAC))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(query().version(2).from(Who::Second)),
        ]),
];
