//! Announcements nobody asked for. `[AoE 4.3]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Advertisement, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("advertisement.start", Should, "AoE 4.3")
        .shows("a target that starts sends a config answer to everybody, with tag 0")
        .otherwise("Linux finds the disk up to 60 s later, and machines that boot from it fail")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Restart,
            accept: &[plain().with(&[
                Check::Bits { at: 14, mask: 0x0f, is: 0x08 },
                Check::Number { at: 20, len: 4, test: Test::is(0) },
                Check::Mac { at: 0, who: Who::Broadcast },
                Check::OwnAddress,
            ])],
        }]),
    case("advertisement.version", Should, "AoE 4.3")
        .shows("the announcement has version 1")
        .otherwise("iPXE and other clients that check the version ignore it (vblade sends 0)")
        .needs(Needs::ACTION)
        .steps(&[Step::Advertisement {
            action: Action::Restart,
            accept: &[plain().with(&[Check::Bits { at: 14, mask: 0xf0, is: 0x10 }])],
        }]),
];
