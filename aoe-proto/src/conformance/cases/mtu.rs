//! Frame sizes. `[AoE 4.2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Mtu, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("mtu.sector-count", Must, "AoE 4.2")
        .shows("the frame of the most sectors fits the MTU of the link")
        .otherwise("every full-sized read is lost on the wire, without a message")
        .steps(&[ask(
            read(n(0), Value::MAX),
            &[done().with(&[Check::Length(Test::AtMost(Value::of(Base::Mtu).plus(14)))])],
        )]),
    case("mtu.lowered", Should, "AoE 9")
        .shows("after the MTU of the target was lowered, it advertises less and still serves")
        .otherwise("vblade ends at the first answer that does not fit")
        .needs(Needs::ACTION.and(Needs::JUMBO))
        .steps(&[
            Step::Act(Action::LowerMtu),
            ask(
                query(),
                &[plain().with(&[Check::Number { at: 28, len: 1, test: Test::AtMost(n(2)) }])],
            ),
            ask(read(n(0), n(2)), &[done()]),
        ]),
    case("mtu.lowered.read", Must, "AoE 9")
        .shows("a read that no longer fits the lowered MTU is an ATA error; the target lives on")
        .otherwise("the target ends, and takes its disk from everybody (vblade)")
        .needs(Needs::ACTION.and(Needs::JUMBO))
        .steps(&[
            Step::Act(Action::LowerMtu),
            ask(read(n(0), n(8)), &[ata_error().with(&[Check::DataLength { sectors: n(0) }])]),
            ask(read(n(0), n(1)), &[done()]),
        ]),
    case("mtu.write", Must, "AoE 4.2")
        .shows("a write of the most sectors, which fills the link's frames, is executed")
        .otherwise("every full-sized write is lost on the wire, without a message")
        .needs(Needs::WRITES)
        .steps(&[ask(write(1, Value::WINDOW, Value::MAX), &[done()])]),
    case("mtu.not-more", Should, "AoE 4.2")
        .shows("no more sectors are advertised than fit the frames of our link")
        .otherwise("clients with smaller frames see the disk and cannot read")
        .steps(&[ask(
            query(),
            &[plain().with(&[Check::Where {
                what: "at most as many sectors as fit the MTU",
                at: 28,
                len: 1,
                holds: |frame, facts| {
                    let count = frame.get(28).copied().unwrap_or(0);
                    usize::from(count).saturating_mul(512).saturating_add(22)
                        <= usize::from(facts.mtu)
                },
            }])],
        )]),
];
