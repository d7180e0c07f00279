//! Announcements nobody asked for. `[AoE 4.3]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Advertisement, id, severity, section)
}

const RESPONSE: Check = Check::Bits { at: 14, mask: 0x0f, is: 0x08 };
const TAG_ZERO: Check = Check::Number { at: 20, len: 4, test: Test::is(0) };
const OWN: Check = Check::OwnAddress;

pub(super) const CASES: &[Case] = &[
    case("advertisement.start", Should, "AoE 4.3")
        .shows("a target that starts sends a config answer to everybody, with tag 0")
        .otherwise("Linux finds the disk up to 60 s later, and machines that boot from it fail")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Restart,
            accept: &[
                plain().with(&[Check::Mac { at: 0, who: Who::Broadcast }, RESPONSE, TAG_ZERO, OWN]),
                plain()
                    .called("an answer to us alone, as the mask list restricts the target")
                    .with(&[Check::Mac { at: 0, who: Who::Own }, RESPONSE, TAG_ZERO, OWN]),
            ],
        }]),
    case("advertisement.version", Should, "AoE 4.3")
        .shows("the announcement has version 1")
        .otherwise("iPXE and other clients that check the version ignore it (vblade sends 0)")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Restart,
            accept: &[plain().with(&[Check::Bits { at: 14, mask: 0xf0, is: 0x10 }])],
        }]),
    case("advertisement.content", Should, "AoE 4.3")
        .shows("the announcement tells the same as an answer to a query, with CCmd 0")
        .otherwise("Linux, which learns from it, uses other frames than after its next query")
        .needs(Needs::ACTION)
        .steps(&[
            keep(query(), &[plain()]),
            Step::Advertisement {
                action: Action::Restart,
                accept: &[plain().with(&[
                    Check::Kept { at: 24, len: 5 },
                    Check::Bits { at: 29, mask: 0x0f, is: 0 },
                ])],
            },
        ]),
    case("advertisement.after-crash", Should, "AoE 9")
        .shows("a target that was killed announces itself when it is started again")
        .otherwise("Linux waits for its next discovery, up to 60 s, while its requests time out")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Crash,
            accept: &[plain().with(&[RESPONSE, TAG_ZERO, OWN])],
        }]),
    case("advertisement.masked", Note, "AoE 4.3")
        .shows("a target that is restricted to a list announces itself to its members only")
        .otherwise("everybody hears of a disk that is not for them")
        .needs(Needs::ACTION.and(Needs::MASK))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            Step::Advertisement {
                action: Action::Restart,
                accept: &[
                    plain().with(&[Check::Mac { at: 0, who: Who::Own }, RESPONSE, TAG_ZERO, OWN]),
                    plain()
                        .with(&[Check::Mac { at: 0, who: Who::Broadcast }, RESPONSE, TAG_ZERO, OWN])
                        .differs("to everybody: the list does not outlive the target (vblade)"),
                ],
            },
        ]),
    case("advertisement.link-up", Should, "AoE 4.3")
        .shows("a target announces itself when its interface comes up again")
        .otherwise("a moved cable costs up to 60 s")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::LinkDownUp,
            accept: &[plain().with(&[RESPONSE, TAG_ZERO, OWN])],
        }]),
    case("advertisement.length", Should, "AoE 2.7")
        .shows("the announcement has at least 60 bytes")
        .otherwise("a network card that does not pad sends a frame that switches drop")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Restart,
            accept: &[plain().with(&[Check::Length(Test::AtLeast(n(60)))])],
        }]),
];
