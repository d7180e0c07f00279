//! Shelf, slot and Ethernet addresses. `[AoE 2.4]` `[AoE 2.5]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Addressing, id, severity, section)
}

/// From the target itself, by its own address, to us.
const OWN: &[Check] = &[
    Check::Mac { at: 0, who: Who::Own },
    Check::Mac { at: 6, who: Who::Target },
    Check::OwnAddress,
];

pub(super) const CASES: &[Case] = &[
    case("addressing.exact", Must, "AoE 2.4")
        .shows("a request to the exact shelf and slot is answered by the target's own address")
        .otherwise("no client finds the disk")
        .steps(&[ask(query(), &[plain().with(OWN)])]),
    case("addressing.wildcard.both", Must, "AoE 2.4")
        .shows("a query to every shelf and slot is answered with the target's own address")
        .otherwise("Linux and Plan 9 never discover the disk")
        .needs(Needs::BROADCAST)
        .steps(&[ask(query().to_all(), &[plain().with(OWN)])]),
    case("addressing.wildcard.slot", Must, "AoE 2.4")
        .shows("a query to every slot of the shelf is answered with the target's own address")
        .otherwise("tools that list one shelf do not see the disk")
        .steps(&[ask(query().address(Part::Own, Part::All), &[plain().with(OWN)])]),
    case("addressing.wildcard.shelf", Must, "AoE 2.4")
        .shows("a query to the slot in every shelf is answered with the target's own address")
        .otherwise("tools that look for a slot do not see the disk")
        .steps(&[ask(query().address(Part::All, Part::Own), &[plain().with(OWN)])]),
    case("addressing.other.shelf", Must, "AoE 2.4")
        .shows("a request to another shelf is not answered")
        .otherwise("the disk appears twice and is written under two names")
        .steps(&[silent(query().address(Part::Other, Part::Own))]),
    case("addressing.other.slot", Must, "AoE 2.4")
        .shows("a request to another slot is not answered")
        .otherwise("the disk appears twice and is written under two names")
        .steps(&[silent(query().address(Part::Own, Part::Other))]),
    case("addressing.other-host", Should, "AoE 2.4")
        .shows("a frame to the MAC address of another host is not answered")
        .otherwise("behind a hub or a bridge one request is served by two machines")
        .steps(&[silent(query().to(Who::Stranger(1)))]),
    case("addressing.source.broadcast", Must, "AoE 2.5")
        .shows("a request that comes from the broadcast address is dropped")
        .otherwise("one forged frame becomes a broadcast to the whole segment")
        .needs(Needs::FORGERY)
        .steps(&[silent(query().from(Who::Broadcast))]),
    case("addressing.wildcard.identify", Must, "AoE 2.4")
        .shows("IDENTIFY to every shelf and slot, by broadcast, is answered")
        .otherwise("WinAoE and WinVBlock, which discover disks this way, never see it")
        .needs(Needs::BROADCAST)
        .steps(&[ask(identify().to_all(), &[done().with(OWN)])]),
    case("addressing.wildcard.write", Should, "AoE 2.4")
        .shows("a write to every shelf and slot is dropped, and nothing is written")
        .otherwise("one stray frame overwrites the same sector of every disk of the segment")
        .needs(Needs::WRITES)
        .steps(&[
            silent(write(1, Value::WINDOW, n(1)).address(Part::All, Part::All)),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
];
