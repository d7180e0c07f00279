//! VLAN tags. `[AoE 9]` item 5

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Vlan, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("vlan.foreign", Must, "AoE 9")
        .shows("a request in a VLAN that the target is not told to serve is not answered")
        .otherwise("the network's separation is void: any VLAN reaches the disk")
        .needs(Needs::VLAN)
        .steps(&[silent(query().vlan(5))]),
    case("vlan.priority", Should, "AoE 9")
        .shows("a request with a priority tag (VLAN 0) is answered as one without")
        .otherwise("hosts that mark storage traffic with a priority do not reach the disk")
        .needs(Needs::VLAN)
        .steps(&[ask(
            query().vlan(0),
            &[plain().with(&[Check::Vlan(None)]), plain().with(&[Check::Vlan(Some(0))])],
        )]),
    case("vlan.foreign.last", Must, "AoE 9")
        .shows("a request in VLAN 4094 is not answered either")
        .otherwise("the network's separation is void: any VLAN reaches the disk")
        .needs(Needs::VLAN)
        .steps(&[silent(query().vlan(4094)), silent(identify().vlan(1))]),
    case("vlan.foreign.write", Must, "AoE 9")
        .shows("a write in a VLAN that the target is not told to serve is not executed")
        .otherwise("any VLAN can destroy the disk")
        .needs(Needs::VLAN.and(Needs::WRITES))
        .steps(&[
            silent(write(1, Value::WINDOW, n(1)).vlan(5)),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
];
