//! Reservation. `[AoE 7.2]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Reserve, id, severity, section)
}

const NOBODY: &[Check] = &[Check::Holders(Group::Of(&[]))];
const WE: &[Check] = &[Check::Holders(Group::Of(&[Who::Own]))];

pub(super) const CASES: &[Case] = &[
    case("reserve.set-release", Must, "AoE 7.2")
        .shows("the holder of a reservation can release it")
        .otherwise("a disk that was reserved once is lost to the cluster (ggaoed)")
        .needs(Needs::RESERVATION)
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain().with(WE)]),
            ask(reserve_read(), &[plain().with(WE)]),
            ask(reserve(1, &[]), &[plain().with(NOBODY)]),
        ]),
    case("reserve.gates-ata", Must, "AoE 7.2")
        .shows("a read by another gets error 6 while the disk is reserved")
        .otherwise("two nodes of a cluster write to one disk at once")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(read(n(0), n(1)), &[done()]),
            ask(read(n(0), n(1)).from(Who::Second), &[error(code::RESERVED)]),
        ]),
    case("reserve.identify-exempt", Should, "AoE 7.2")
        .shows("IDENTIFY and queries are answered to others while the disk is reserved")
        .otherwise("Linux hangs for 180 s when it attaches the disk")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(identify().from(Who::Second), &[done()]),
            ask(query().from(Who::Second), &[plain()]),
        ]),
    case("reserve.taken", Must, "AoE 7.2")
        .shows("a set by another is refused with error 6, and changes nothing")
        .otherwise("a reservation protects nothing")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(reserve(1, &[Who::Second]).from(Who::Second), &[error(code::RESERVED)]),
            ask(reserve_read(), &[plain().with(WE)]),
        ]),
];
