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
    case("config.request-head-ignored", Must, "AoE 4")
        .shows("buffer count, firmware, sector count and version nibble of a request are ignored")
        .otherwise("tools that repeat what they were told in their next query get no answer")
        .steps(&[ask(
            Stimulus::new(
                1,
                Argument::Config(Config {
                    head: [0, 16, 0x40, 0x19, 2],
                    ccmd: 0x10,
                    claims: None,
                    text: Text::Is(b""),
                }),
            ),
            &[plain()],
        )]),
    case("config.answer.nibbles", Should, "AoE 4")
        .shows("byte 29 of an answer is 0x10 and the CCmd of the request")
        .otherwise("a tool cannot tell what the answer is about")
        .steps(&[
            ask(query(), &[plain().with(&[Check::Bits { at: 29, mask: 0xff, is: 0x10 }])]),
            ask(
                config(ccmd::PREFIX, b""),
                &[
                    plain().with(&[Check::Bits { at: 29, mask: 0xff, is: 0x12 }]),
                    plain()
                        .with(&[Check::Bits { at: 29, mask: 0xff, is: 0x10 }])
                        .differs("the CCmd does not come back (kvblade, VoE)"),
                ],
            ),
        ]),
    case("config.sector-count.multiple", Note, "AoE 4.2")
        .shows("a sector count of 8 or more is a multiple of 8")
        .otherwise("Linux sends pieces that straddle 4 KiB, which cost the target a read each")
        .steps(&[ask(
            query(),
            &[
                plain().with(&[Check::Number { at: 28, len: 1, test: Test::AtMost(n(7)) }]),
                plain().with(&[Check::Bits { at: 28, mask: 0x07, is: 0 }]),
                plain().differs("the most that fits is advertised, whatever it is (vblade)"),
            ],
        )]),
    case("config.jumbo", Should, "AoE 4.2")
        .shows("on a link with jumbo frames at least 8 sectors are advertised")
        .otherwise("Linux uses small frames, and gets a quarter of the speed")
        .needs(Needs::JUMBO)
        .steps(&[ask(
            query(),
            &[plain().with(&[Check::Number { at: 28, len: 1, test: Test::AtLeast(n(8)) }])],
        )]),
    case("config.firmware", Note, "AoE 4")
        .shows("a firmware version is told")
        .otherwise("nothing: it is free to choose")
        .steps(&[ask(
            query(),
            &[
                plain().with(&[Check::Number { at: 26, len: 2, test: Test::AtLeast(n(1)) }]),
                plain().differs("the firmware version is 0"),
            ],
        )]),
    case("config.stable", Must, "AoE 4.2")
        .shows("two queries get the same answer")
        .otherwise("Linux, which learns from every answer, changes its frames all the time")
        .steps(&[
            keep(query(), &[plain()]),
            ask(query(), &[plain().with(&[Check::Kept { at: 24, len: 4 }])]),
        ]),
    case("config.test.exact-empty", Should, "AoE 4.1")
        .shows("a test for the empty string is answered while there is none")
        .otherwise("a client that looks for an unclaimed disk finds none")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b""), &[plain()]),
            ask(config(ccmd::TEST, b""), &[plain().with(IS_EMPTY)]),
        ]),
    case("config.test.exact-not-empty", Must, "AoE 4.1")
        .shows("a test for the empty string is not answered while there is another one")
        .otherwise("a client that looks for an unclaimed disk takes one that is in use")
        .needs(Needs::CONFIG)
        .steps(&[ask(config(ccmd::FORCE, b"abc"), &[plain()]), silent(config(ccmd::TEST, b""))]),
    case("config.prefix.match", Must, "AoE 4.1")
        .shows("a prefix test is answered for every beginning, and for nothing at all")
        .otherwise("a cluster that names its disks by prefix does not find them")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(config(ccmd::PREFIX, b""), &[plain().with(IS_ABC)]),
            ask(config(ccmd::PREFIX, b"ab"), &[plain().with(IS_ABC)]),
            ask(config(ccmd::PREFIX, b"abc"), &[plain().with(IS_ABC)]),
        ]),
    case("config.prefix.mismatch", Must, "AoE 4.1")
        .shows("a prefix test for another beginning, or a longer string, is not answered")
        .otherwise("a client that looks for its own disks attaches somebody else's")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            silent(config(ccmd::PREFIX, b"b")),
            silent(config(ccmd::PREFIX, b"abcd")),
        ]),
    case("config.force.overwrites", Must, "AoE 4.1")
        .shows("a forced set replaces another string")
        .otherwise("an administrator cannot take a disk back from a dead client")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"xyz"), &[plain()]),
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
    case("config.too-long", Must, "AoE 4.1")
        .shows("a set that claims 1025 bytes is refused, and changes nothing")
        .otherwise("memory behind the string is overwritten")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask_or_silence(
                config_text(ccmd::FORCE, Text::Letters(1025)),
                &[error(code::ARGUMENT)],
                "strings that are too long are dropped (vblade)",
            ),
            ask(query(), &[plain().with(IS_ABC)]),
        ]),
    case("config.padding-not-stored", Must, "AoE 4.1")
        .shows("a set that claims more than the frame has is refused although padding follows")
        .otherwise("padding and old memory become the string, for all to read (vblade)")
        .needs(Needs::CONFIG)
        .steps(&[
            ask_or_silence(
                config(ccmd::FORCE, b"abc").claims(50),
                &[error(code::ARGUMENT)],
                "malformed sets are dropped",
            ),
            ask(query(), &[plain().with(IS_EMPTY)]),
        ]),
    case("config.test.malformed", Should, "AoE 4.1")
        .shows("a test that claims more bytes than the frame has is refused or matches nothing")
        .otherwise("old memory of the target decides who finds the disk")
        .steps(&[ask_or_silence(
            config(ccmd::TEST, b"abc").claims(600),
            &[error(code::ARGUMENT)],
            "a malformed test matches nothing",
        )]),
    case("config.test.malformed-broadcast", Should, "AoE 4.1")
        .shows("a malformed test to every shelf and slot is dropped")
        .otherwise("noise is answered by every target of the segment")
        .needs(Needs::BROADCAST)
        .steps(&[silent(config(ccmd::TEST, b"abc").claims(600).to_all())]),
    case("config.unknown-ccmd", Must, "AoE 4.1")
        .shows("an unknown CCmd is refused with error 2")
        .otherwise("a tool cannot tell a missing extension from a lost frame")
        .steps(&[
            ask(
                config(5, b""),
                &[error(code::ARGUMENT), error(code::COMMAND).differs("error 1 (qaoed)")],
            ),
            ask(
                config(15, b""),
                &[error(code::ARGUMENT), error(code::COMMAND).differs("error 1 (qaoed)")],
            ),
        ]),
    case("config.error-shows-string", Should, "AoE 4.1")
        .shows("the refusal of an unknown CCmd carries the current string")
        .otherwise("a client has to ask again to see what stands")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            ask(
                config(9, b""),
                &[
                    error(code::ARGUMENT).with(IS_ABC),
                    anything().differs("the refusal does not show the string"),
                ],
            ),
        ]),
    case("config.binary", Should, "AoE 4")
        .shows("the string may hold any bytes, zeros too")
        .otherwise("tools that keep structured data in it lose the end")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"a\0b\xff"), &[plain()]),
            ask(query(), &[plain().with(&[Check::String(Text::Is(b"a\0b\xff"))])]),
        ]),
    case("config.not-reserved", Should, "AoE 4.1")
        .shows("a reservation does not keep others from the config string")
        .otherwise("the tools that find out who holds a disk do not work while somebody holds it")
        .needs(Needs::CONFIG.and(Needs::RESERVATION).and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(config(ccmd::FORCE, b"abc").from(Who::Second), &[plain().with(IS_ABC)]),
        ]),
    case("config.masked", Must, "AoE 4.1")
        .shows("the mask list keeps others from the config string")
        .otherwise("whoever is shut out can still rename the disk")
        .needs(Needs::CONFIG.and(Needs::MASK).and(Needs::SECOND_MAC))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(config(ccmd::FORCE, b"xyz").from(Who::Second)),
            ask(query(), &[plain().with(IS_EMPTY)]),
        ]),
];
