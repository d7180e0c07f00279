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
    case("addressing.wildcard.half-wrong", Must, "AoE 2.4")
        .shows("a wildcard does not excuse the other half: every shelf with another slot is silent")
        .otherwise("a search for one slot finds every disk of the segment")
        .steps(&[
            silent(query().address(Part::All, Part::Other)),
            silent(query().address(Part::Other, Part::All)),
        ]),
    case("addressing.broadcast-mac.exact", Must, "AoE 8.2")
        .shows("a query to the broadcast MAC address and the exact shelf and slot is answered")
        .otherwise("iPXE, which looks for its disk this way, does not boot")
        .needs(Needs::BROADCAST)
        .steps(&[ask(query().to(Who::Broadcast), &[plain().with(OWN)])]),
    case("addressing.broadcast-mac.identify", Must, "AoE 8.3")
        .shows("IDENTIFY to the broadcast MAC address and the exact shelf and slot is answered")
        .otherwise("WinAoE, which learns the address of its server this way, gets no disk")
        .needs(Needs::BROADCAST)
        .steps(&[ask(identify().to(Who::Broadcast), &[done().with(OWN)])]),
    case("addressing.broadcast-mac.write", Should, "AoE 2.4")
        .shows("a write to the broadcast MAC address and the exact shelf and slot is executed")
        .otherwise("clients that know no better address of their disk cannot write")
        .needs(Needs::BROADCAST.and(Needs::WRITES))
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).to(Who::Broadcast), &[done().with(OWN)]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("addressing.wildcard.test", Must, "AoE 2.4")
        .shows("a prefix test to every shelf and slot, by broadcast, is answered by who passes it")
        .otherwise("tools that look for their disks by config string find none")
        .needs(Needs::BROADCAST)
        .steps(&[
            ask(config(ccmd::PREFIX, b"").to_all(), &[plain().with(OWN)]),
            ask(config(ccmd::PREFIX, b"").address(Part::Own, Part::All), &[plain().with(OWN)]),
        ]),
    case("addressing.wildcard.once", Should, "AoE 2.4")
        .shows("a query to every shelf and slot, by broadcast, is answered once")
        .otherwise("two servers have one address: clients write to both in turn")
        .needs(Needs::BROADCAST)
        .steps(&[Step::Ask(exchange(query().to_all(), &[plain().with(OWN)]).exactly_once())]),
    case("addressing.wildcard.read", Should, "AoE 2.4")
        .shows("a read to every shelf and slot, by broadcast, is answered")
        .otherwise("clients that have not learnt the address yet cannot read")
        .needs(Needs::BROADCAST)
        .steps(&[ask(read(n(0), n(1)).to_all(), &[done().with(OWN)])]),
    case("addressing.multicast-mac", Should, "AoE 2.4")
        .shows("a frame to a multicast address is not answered: AoE has none")
        .otherwise("noise of other protocols' groups is answered")
        .steps(&[silent(query().to(Who::Multicast))]),
    case("addressing.own-is-no-wildcard", Must, "AoE 2.4")
        .shows("the answer comes from an address that is not a wildcard")
        .otherwise("Linux refuses the disk, as every request to it would reach every target")
        .steps(&[ask(
            query(),
            &[plain().with(&[
                Check::Number { at: 16, len: 2, test: Test::Not(n(0xffff)) },
                Check::Number { at: 18, len: 1, test: Test::Not(n(0xff)) },
            ])],
        )]),
    case("addressing.shelf-4095", Note, "AoE 2.4")
        .shows("the target's shelf is not 4095")
        .otherwise("Linux logs \"shelf address is all ones\" and ignores the disk")
        .steps(&[ask(
            query(),
            &[plain().with(&[Check::Number { at: 16, len: 2, test: Test::Not(n(0x0fff)) }])],
        )]),
    case("addressing.wildcard.config-set", Should, "AoE 2.4")
        .shows("a config set to every shelf and slot is dropped, and changes nothing")
        .otherwise("one stray frame renames every disk of the segment")
        .needs(Needs::CONFIG)
        .steps(&[
            ask(config(ccmd::FORCE, b"abc"), &[plain()]),
            silent(config(ccmd::FORCE, b"xyz").address(Part::All, Part::All)),
            ask(query(), &[plain().with(&[Check::String(Text::Is(b"abc"))])]),
        ]),
    case("addressing.wildcard.mask-edit", Should, "AoE 2.4")
        .shows("an edit of the mask to every shelf and slot is dropped, and changes nothing")
        .otherwise("one stray frame shuts every client out of every disk")
        .needs(Needs::MASK)
        .steps(&[
            silent(mask_edit(&[(ADD, Who::Own)]).address(Part::All, Part::All)),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[]))])]),
        ]),
    case("addressing.wildcard.reserve", Should, "AoE 2.4")
        .shows("a reservation of every shelf and slot is dropped, and changes nothing")
        .otherwise("one stray frame takes every disk of the segment away")
        .needs(Needs::RESERVATION)
        .steps(&[
            silent(reserve(1, &[Who::Own]).address(Part::All, Part::All)),
            ask(reserve_read(), &[plain().with(&[Check::Holders(Group::Of(&[]))])]),
        ]),
    case("addressing.other-host.write", Must, "AoE 2.4")
        .shows("a write to the MAC address of another host is not executed")
        .otherwise("behind a hub or a bridge one write goes to two disks")
        .needs(Needs::WRITES)
        .steps(&[
            silent(write(1, Value::WINDOW, n(1)).to(Who::Stranger(1))),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("addressing.source.multicast", Should, "AoE 2.5")
        .shows("a request that comes from a multicast address is dropped")
        .otherwise("one forged frame becomes an answer to a whole group")
        .needs(Needs::FORGERY)
        .steps(&[silent(query().from(Who::Multicast))]),
    case("addressing.source.zero", Should, "AoE 2.5")
        .shows("a request that comes from the address of all zeros is dropped")
        .otherwise("answers to nobody flood every port of a switch")
        .needs(Needs::FORGERY)
        .steps(&[silent(query().from(Who::Zero))]),
    case("addressing.source.own", Should, "AoE 2.5")
        .shows("a request that claims to come from the target itself is dropped")
        .otherwise("a looped or forged frame makes the target talk to itself")
        .needs(Needs::FORGERY)
        .steps(&[silent(query().from(Who::Target))]),
    case("addressing.answer.source", Must, "AoE 2.5")
        .shows("a broadcast query is answered from a unicast address, to who asked")
        .otherwise(
            "initiators send all I/O to that address: to everybody, if it is broadcast (VoE)",
        )
        .needs(Needs::BROADCAST)
        .steps(&[ask(
            query().to_all(),
            &[plain().with(&[
                Check::Bits { at: 6, mask: 0x01, is: 0 },
                Check::Mac { at: 0, who: Who::Own },
            ])],
        )]),
];
