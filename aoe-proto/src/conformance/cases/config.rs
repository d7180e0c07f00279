//! Query/Config. `[AoE 4]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Config, id, severity, section)
}

const IS_ABC: &[Check] = &[Check::String(Text::Is(b"abc"))];
const IS_EMPTY: &[Check] = &[Check::String(Text::Is(b""))];

pub(super) const CASES: &[Case] = &[
    case("config.read", Must, "AoE 4.1")
        .shows("a read is answered without looking at the length in the request")
        .otherwise("clients that repeat old values in their queries do not find the disk")
        .steps(&[ask(query(), &[plain()]), ask(query().claims(2000), &[plain()])]),
    case("config.buffers", Must, "AoE 4.2")
        .shows("the buffer count is at least 2")
        .otherwise("Linux halves it to get its window and waits for ever with a window of none")
        .steps(&[ask(
            query(),
            &[plain().with(&[Check::Number { at: 24, len: 2, test: Test::AtLeast(n(2)) }])],
        )]),
    case("config.set-if-empty.first", Must, "AoE 4.1")
        .shows("a set on an empty string stores it, and the answer shows it")
        .otherwise("cluster tools cannot claim a disk")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(
                config(ccmd::SET, b"abc"),
                &[
                    plain().with(IS_ABC),
                    plain().with(IS_EMPTY).differs("the answer to a set shows no string (qaoed)"),
                ],
            ),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
    case("config.set-if-empty.second", Must, "AoE 4.1")
        .shows("a set of another string is refused with error 4, and shows the string that stands")
        .otherwise("two hosts that race for a disk both believe that they won it")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(
                config(ccmd::SET, b"xyz"),
                &[
                    error(code::CONFIG).with(IS_ABC),
                    error(code::CONFIG).differs("the refusal does not show the string (kvblade)"),
                ],
            ),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
    case("config.set-if-empty.same", Must, "AoE 4.1")
        .shows("a set of the string that stands succeeds")
        .otherwise("a client whose first answer was lost believes that somebody else won")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::SET, b"abc"), &[plain()]),
            ask(config(ccmd::SET, b"abc"), &[plain()]),
        ]),
    case("config.force.clear", Must, "AoE 4.1")
        .shows("a forced set of length 0 empties the string")
        .otherwise("a claimed disk cannot be released")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(config(ccmd::FORCE, b""), &[plain()]),
            ask(query(), &[plain().with(IS_EMPTY)]),
        ]),
    case("config.test.mismatch", Must, "AoE 4.1")
        .shows("a test for another string is not answered, one for the same is")
        .otherwise("a client that looks for its own disk attaches somebody else's")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(config(ccmd::TEST, b"abc"), &[plain().with(IS_ABC)]),
            silent(config(ccmd::TEST, b"abd")),
            silent(config(ccmd::TEST, b"ab")),
            silent(config(ccmd::TEST, b"")),
        ]),
    case("config.set.length-beyond-frame", Must, "AoE 4.1")
        .shows("a set that claims more bytes than the frame has is refused, and changes nothing")
        .otherwise("old memory of the target becomes its config string, for all to read")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask_or_silence(
                config(ccmd::FORCE, b"xyz").claims(50),
                &[error(code::ARGUMENT)],
                "malformed sets are dropped (vblade)",
            ),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
    case("config.longest", Should, "AoE 4")
        .shows("a string of 1024 bytes is stored and shown whole")
        .otherwise("tools that keep structured data in it lose the end")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config_text(ccmd::FORCE, Text::Letters(1024)), &[plain()]),
            ask(query(), &[plain().with(&[Check::String(Text::Letters(1024))])]),
        ]),
    case("config.persistent", Note, "AoE 4.1")
        .shows("the string is still there after a restart")
        .otherwise("claims are forgotten when the target restarts")
        .needs(Needs::CONFIG.and(Needs::ACTION))
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            Step::Act(Action::Restart),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
];
