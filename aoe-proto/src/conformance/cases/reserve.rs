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
    case("reserve.read", Must, "AoE 7.2")
        .shows("the holders can be read")
        .otherwise("nobody can tell who holds the disk")
        .steps(&[ask(
            reserve_read(),
            &[plain().with(&[Check::Bits { at: 24, mask: 0xff, is: 0 }])],
        )]),
    case("reserve.force", Must, "AoE 7.2")
        .shows("a forced set by another takes the disk over")
        .otherwise("the disk of a dead node is lost to the cluster")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Second]).from(Who::Second), &[plain()]),
            ask(reserve(2, &[Who::Own]), &[plain().with(WE)]),
            ask(read(n(0), n(1)), &[done()]),
            ask(read(n(0), n(1)).from(Who::Second), &[error(code::RESERVED)]),
        ]),
    case("reserve.set.again", Must, "AoE 7.2")
        .shows("the holder can set the same reservation again")
        .otherwise("a node whose first answer was lost believes that somebody else won")
        .needs(Needs::RESERVATION)
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain().with(WE)]),
            ask(reserve(1, &[Who::Own]), &[plain().with(WE)]),
        ]),
    case("reserve.taken.list", Should, "AoE 7.2")
        .shows("the refusal of a set shows who holds the disk")
        .otherwise("a node has to ask again")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(
                reserve(1, &[Who::Second]).from(Who::Second),
                &[
                    error(code::RESERVED).with(WE),
                    error(code::RESERVED).differs("the refusal does not show the holders (ggaoed)"),
                ],
            ),
        ]),
    case("reserve.count-beyond-frame", Must, "AoE 7.2")
        .shows("a set of more addresses than the frame holds is refused, and changes nothing")
        .otherwise("old memory of the target becomes the holder: the disk is lost to all")
        .needs(Needs::RESERVATION)
        .steps(&[
            ask(reserve(1, &[Who::Own]).claims(40), &[error(code::ARGUMENT)]),
            ask(reserve_read(), &[plain().with(NOBODY)]),
        ]),
    case("reserve.unknown-rcmd", Must, "AoE 7.2")
        .shows("an unknown RCmd is refused with error 2, and changes nothing")
        .otherwise("a later command is taken for a reservation")
        .needs(Needs::RESERVATION)
        .steps(&[
            ask(reserve(3, &[Who::Own]), &[error(code::ARGUMENT)]),
            ask(reserve_read(), &[plain().with(NOBODY)]),
        ]),
    case("reserve.several", Must, "AoE 7.2")
        .shows("a disk can have several holders, and all of them may read")
        .otherwise("clusters with a shared file system do not work")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(
                reserve(1, &[Who::Own, Who::Second]),
                &[plain().with(&[Check::Holders(Group::Of(&[Who::Own, Who::Second]))])],
            ),
            ask(read(n(0), n(1)), &[done()]),
            ask(read(n(0), n(1)).from(Who::Second), &[done()]),
        ]),
    case("reserve.for-another", Should, "AoE 7.2")
        .shows("who is not among the holders that it set has no access afterwards")
        .otherwise("a fencing tool cannot hand a disk over")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Second]), &[plain()]),
            ask(read(n(0), n(1)), &[error(code::RESERVED)]),
            ask(reserve(1, &[]).from(Who::Second), &[plain().with(NOBODY)]),
        ]),
    case("reserve.gates-write", Must, "AoE 7.2")
        .shows("a write by another gets error 6, and nothing is written")
        .otherwise("two nodes of a cluster write to one disk at once")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC).and(Needs::WRITES))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(write(1, Value::WINDOW, n(1)).from(Who::Second), &[error(code::RESERVED)]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("reserve.gates-others", Should, "AoE 7.2")
        .shows("FLUSH CACHE and CHECK POWER MODE by another get error 6")
        .otherwise("a node that lost the disk still makes it work")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(
                ata(0xe7, 0, n(0), n(0)).from(Who::Second),
                &[
                    error(code::RESERVED),
                    plain().differs("only reads and writes are gated (ggaoed)"),
                ],
            ),
            ask(
                ata(0xe5, 0, n(0), n(0)).from(Who::Second),
                &[
                    error(code::RESERVED),
                    plain().differs("only reads and writes are gated (ggaoed)"),
                ],
            ),
        ]),
    case("reserve.lists-open", Should, "AoE 7.2")
        .shows("a reservation does not keep others from reading the lists")
        .otherwise("a node cannot find out who holds the disk")
        .needs(Needs::RESERVATION.and(Needs::SECOND_MAC))
        .steps(&[
            ask(reserve(1, &[Who::Own]), &[plain()]),
            ask(reserve_read().from(Who::Second), &[plain().with(WE)]),
            ask(mask_read().from(Who::Second), &[plain()]),
        ]),
    case("reserve.largest", Should, "AoE 7.2")
        .shows("a list of 200 holders is kept whole, or refused; the target lives on")
        .otherwise("memory behind the list is overwritten")
        .needs(Needs::RESERVATION)
        .steps(&[
            ask(
                reserve_group(2, Group::Strangers(200)),
                &[
                    plain().with(&[Check::Holders(Group::Strangers(200))]),
                    error(code::ARGUMENT).differs("so many holders are refused"),
                ],
            ),
            ask(reserve(2, &[]), &[plain().with(NOBODY)]),
        ]),
];
