//! Requests that arrive twice. `[AoE 9]` item 2

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Retransmission, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("retransmission.same-tag", Must, "AoE 9")
        .shows("a request that arrives twice with the same tag is answered twice")
        .otherwise("iPXE and WinAoE, whose first answer was lost, wait for ever")
        .steps(&[burst(&[
            exchange(read(n(0), n(1)).tag(0x18ae_0007), &[done()]),
            exchange(read(n(0), n(1)).tag(0x18ae_0007), &[done()]),
        ])]),
    case("retransmission.one-answer", Must, "AoE 1")
        .shows("a request is answered once")
        .otherwise("two servers have one address: clients write to both in turn")
        .steps(&[Step::Ask(exchange(query(), &[plain()]).exactly_once())]),
    case("retransmission.delayed-duplicate", Note, "AoE 9")
        .shows("a write that arrives again behind a newer one does not revert the sector")
        .otherwise("a delayed duplicate reverts a sector; no known target defends")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).tag(0x18ae_0008), &[done()]),
            ask(write(2, Value::WINDOW, n(1)).tag(0x18ae_0009), &[done()]),
            ask(write(1, Value::WINDOW, n(1)).tag(0x18ae_0008), &[done()]),
            ask(
                read(Value::WINDOW, n(1)),
                &[
                    done().with(&[Check::Pattern { seed: 2, lba: Value::WINDOW, sectors: n(1) }]),
                    done()
                        .with(&[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }])
                        .differs("a duplicate is executed again, as by every known target"),
                ],
            ),
        ]),
];
