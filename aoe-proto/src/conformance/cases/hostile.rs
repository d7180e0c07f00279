//! Input that nobody honest sends. `[AoE 2.7]` `[AoE 9]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Hostile, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("hostile.cut-header", Must, "AoE 2.7")
        .shows("a frame that ends inside its header is dropped")
        .otherwise("old memory of the target is taken for a request")
        .needs(Needs::SHORT_FRAMES)
        .steps(&[
            silent(identify().cut_at(14)),
            silent(identify().cut_at(19)),
            silent(identify().cut_at(23)),
        ]),
    case("hostile.cut-argument", Must, "AoE 2.7")
        .shows("a frame that ends inside the fixed part of its argument is dropped")
        .otherwise("old memory of the target is taken for the rest of the request")
        .needs(Needs::SHORT_FRAMES)
        .steps(&[
            silent(identify().cut_at(35)),
            silent(query().cut_at(31)),
            silent(mask_read().cut_at(27)),
            silent(reserve_read().cut_at(25)),
        ]),
    case("hostile.cut-write", Must, "AoE 9")
        .shows("a write without any data is refused, and nothing is written")
        .otherwise("old memory of the target is written to the disk (qaoed)")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).cut_at(36), &[aborted()]),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("hostile.cut-ata", Must, "AoE 2.7")
        .shows("ATA requests that end inside their registers are dropped, wherever they end")
        .otherwise("old memory of the target is taken for the rest of the request")
        .needs(Needs::SHORT_FRAMES)
        .steps(&[
            silent(identify().cut_at(24)),
            silent(identify().cut_at(27)),
            silent(identify().cut_at(28)),
            silent(identify().cut_at(33)),
        ]),
    case("hostile.random-argument", Should, "AoE 9")
        .shows("requests full of ones are refused or dropped, and the target lives on")
        .otherwise("one frame of anybody ends the target")
        .needs(Needs::MASK.and(Needs::RESERVATION))
        .steps(&[
            ask_or_silence(ata(0xff, 0xff, n((1 << 48) - 1), n(255)), &[anything()], "dropped"),
            ask_or_silence(config(15, b"").claims(0xffff), &[anything()], "dropped"),
            ask_or_silence(
                mask(0xff, Directives::Each(&[(0xff, Who::Broadcast)])).claims(255),
                &[anything()],
                "dropped",
            ),
            ask_or_silence(reserve(0xff, &[Who::Broadcast]).claims(255), &[anything()], "dropped"),
            ask(query(), &[plain()]),
        ]),
    case("hostile.flood-of-errors", Should, "AoE 9")
        .shows("many refused requests in a row leave the target able to serve")
        .otherwise("a client with a defect takes the disk from everybody")
        .steps(&[flood(n(64), raw(4, &[0; 12]), &[anything()]), ask(read(n(0), n(1)), &[done()])]),
    case("hostile.amplification", Should, "AoE 9")
        .shows("a refusal is not longer than the smallest frame")
        .otherwise("forged requests turn the target into an amplifier")
        .steps(&[
            ask(
                raw(4, &[0; 12]),
                &[
                    error(code::COMMAND).with(&[Check::Length(Test::AtMost(n(60)))]),
                    error(code::COMMAND).differs("the request comes back"),
                ],
            ),
            ask(
                read(Value::SECTORS, n(1)),
                &[ata_error().with(&[Check::Length(Test::AtMost(n(60)))])],
            ),
        ]),
    case("hostile.lba-wraps", Must, "AoE 5.2")
        .shows("LBA and count that add up beyond 2^48 are out of range")
        .otherwise("a forged frame reads memory, or ends the target")
        .needs(Needs::LBA48)
        .steps(&[
            ask(read(n((1 << 48) - 1), n(1)), &[ata_error()]),
            ask(read(n((1 << 48) - 2), Value::MAX), &[ata_error()]),
        ]),
    case("hostile.opcodes", Must, "AoE 5.5")
        .shows("ATA commands nobody has heard of are ATA aborts")
        .otherwise("an AoE error or silence hangs who probes for 180 s")
        .steps(&[
            ask(ata(0x01, 0, n(0), n(1)), &[aborted()]),
            ask(ata(0x7f, 0x40, n(0), n(1)), &[aborted()]),
            ask(ata(0xfe, 0x41, n(0), n(1)), &[aborted()]),
            ask(ata(0xff, 0, n(0), n(0)), &[aborted()]),
        ]),
];
