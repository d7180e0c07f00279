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
];
