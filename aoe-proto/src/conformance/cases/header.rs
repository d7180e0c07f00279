//! The common header of answers. `[AoE 2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Header, id, severity, section)
}

const TAG: Check = Check::Echo { at: 20, len: 4 };

pub(super) const CASES: &[Case] = &[
    case("header.flags", Must, "AoE 2.1")
        .shows("an answer has version 1, the R flag, and no other flag")
        .otherwise("iPXE drops it; others take it for a request or an error")
        .steps(&[ask(
            query(),
            &[anything().with(&[Check::Bits { at: 14, mask: 0xff, is: 0x18 }])],
        )]),
    case("header.command", Must, "AoE 3")
        .shows("an answer repeats the command of its request")
        .otherwise("clients interpret it as something else, or drop it")
        .steps(&[
            ask(query(), &[anything().with(&[Check::Echo { at: 19, len: 1 }])]),
            ask(identify(), &[anything().with(&[Check::Echo { at: 19, len: 1 }])]),
        ]),
    case("header.tag", Must, "AoE 2.6")
        .shows("the tag comes back unchanged, whatever its bits: all zeros, all ones, bit 31")
        .otherwise("Linux, which queries with tag 0, or aoetools, which set bit 31, wait for ever")
        .steps(&[
            ask(query().tag(0), &[plain().with(&[TAG])]),
            ask(query().tag(0xffff_ffff), &[plain().with(&[TAG])]),
            ask(identify().tag(0x18ae_0001), &[done().with(&[TAG])]),
        ]),
    case("header.error-byte", Should, "AoE 2.3")
        .shows("without the E flag the error byte of an answer is 0")
        .otherwise("clients that look at the byte alone see an error")
        .steps(&[ask(query(), &[plain().with(&[Check::Bits { at: 15, mask: 0xff, is: 0 }])])]),
    case("header.tag.error", Must, "AoE 2.6")
        .shows("an answer that tells a failure repeats the tag, too")
        .otherwise("the client does not learn of the failure and waits")
        .steps(&[
            ask(read(Value::SECTORS, n(1)).tag(0x8000_0001), &[anything().with(&[TAG])]),
            ask(raw(4, &[0; 12]).tag(0x8000_0002), &[anything().with(&[TAG])]),
        ]),
    case("header.tag.lists", Should, "AoE 2.6")
        .shows("answers about the mask list and the reservation repeat the tag")
        .otherwise("cluster tools wait for ever")
        .steps(&[
            ask(mask_read().tag(0x0000_0001), &[plain().with(&[TAG])]),
            ask(reserve_read().tag(0xffff_0000), &[plain().with(&[TAG])]),
        ]),
    case("header.address", Must, "AoE 2.4")
        .shows("every kind of answer carries the target's own shelf and slot")
        .otherwise("iPXE rejects the answer; Linux takes it for another disk")
        .steps(&[
            ask(identify(), &[anything().with(&[Check::OwnAddress])]),
            ask(mask_read(), &[anything().with(&[Check::OwnAddress])]),
            ask(reserve_read(), &[anything().with(&[Check::OwnAddress])]),
            ask(raw(4, &[0; 12]), &[anything().with(&[Check::OwnAddress])]),
        ]),
    case("header.ethertype", Must, "AoE 2")
        .shows("an answer has the Ethernet type 0x88A2")
        .otherwise("no client sees it")
        .steps(&[ask(
            query(),
            &[anything().with(&[Check::Number { at: 12, len: 2, test: Test::is(0x88a2) }])],
        )]),
];
