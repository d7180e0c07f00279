//! Requests that arrive twice. `[AoE 9]` item 2

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Retransmission, id, severity, section)
}

const LISTED: &[Check] =
    &[Check::Bits { at: 26, mask: 0xff, is: 0 }, Check::MaskList(Group::Of(&[Who::Own]))];

pub(super) const CASES: &[Case] = &[
    case("retransmission.same-tag", Must, "AoE 9")
        .shows("a request that comes again with the same tag, after it was answered, is answered again")
        .otherwise("iPXE and WinAoE, whose first answer was lost, wait for ever")
        // One after the other: copies that wait together may have one answer.
        .steps(&[
            ask(read(n(0), n(1)).tag(0x18ae_0007), &[done()]),
            ask(read(n(0), n(1)).tag(0x18ae_0007), &[done()]),
        ]),
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
    case("retransmission.new-tag", Must, "AoE 8.1")
        .shows("a write that arrives again with another tag is answered, and stands once")
        .otherwise("Linux, which gives every retransmission a new tag, loses the disk")
        .needs(Needs::WRITES)
        .steps(&[
            burst(&[
                exchange(write(1, Value::WINDOW, n(1)).tag(0x0001_0001), &[done()]),
                exchange(write(1, Value::WINDOW, n(1)).tag(0x0001_0002), &[done()]),
            ]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("retransmission.write.same-tag", Must, "AoE 9")
        .shows("a write that arrives twice with the same tag is answered twice")
        .otherwise("iPXE and WinAoE, whose first answer was lost, wait for ever")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).tag(0x18ae_0011), &[done()]),
            ask(write(1, Value::WINDOW, n(1)).tag(0x18ae_0011), &[done()]),
        ]),
    case("retransmission.mask", Must, "AoE 9")
        .shows("an edit of the mask that arrives twice has the same answer twice")
        .otherwise("a tool whose first answer was lost believes that its edit failed")
        .needs(Needs::MASK)
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]).tag(0x18ae_0012), &[plain().with(LISTED)]),
            ask(mask_edit(&[(ADD, Who::Own)]).tag(0x18ae_0012), &[plain().with(LISTED)]),
        ]),
    case("retransmission.one-answer.read", Must, "AoE 1")
        .shows("a read is answered once")
        .otherwise("two servers have one address: clients write to both in turn")
        .steps(&[Step::Ask(exchange(read(n(0), n(1)), &[done()]).exactly_once())]),
    case("retransmission.one-answer.broadcast", Must, "AoE 2.4")
        .shows("a broadcast query to the exact shelf and slot is answered once")
        .otherwise("two servers have one address: clients write to both in turn")
        .needs(Needs::BROADCAST)
        .steps(&[Step::Ask(exchange(query().to(Who::Broadcast), &[plain()]).exactly_once())]),
];
