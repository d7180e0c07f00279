//! Length, padding and stale bytes. `[AoE 2.7]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Padding, id, severity, section)
}

const LONG: &[Check] = &[Check::Length(Test::AtLeast(n(60)))];

pub(super) const CASES: &[Case] = &[
    case("padding.request.query", Must, "AoE 2.7")
        .shows("a query of 32 bytes, without padding, is answered")
        .otherwise("no client on a virtual link finds the disk")
        .steps(&[ask(query().unpadded(), &[plain()])]),
    case("padding.request.identify", Must, "AoE 2.7")
        .shows("IDENTIFY in 36 bytes, without padding, is answered")
        .otherwise("no client on a virtual link attaches the disk")
        .steps(&[ask(identify().unpadded(), &[done()])]),
    case("padding.request.trailing", Must, "AoE 2.7")
        .shows("bytes behind a complete request are ignored")
        .otherwise("aoe-sancheck, which pads IDENTIFY up to the MTU, reports small frames only")
        .steps(&[
            ask(query().junk(700), &[plain()]),
            ask(identify().junk(1024), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
        ]),
    case("padding.response.length", Should, "AoE 2.7")
        .shows("every answer has at least 60 bytes")
        .otherwise("a network card that does not pad sends a frame that switches drop")
        .steps(&[ask(query(), &[plain().with(&[Check::Length(Test::AtLeast(n(60)))])])]),
    case("padding.leak.ata-error", Must, "AoE 2.7")
        .shows("the answer to a refused ATA command has no bytes of the request in its padding")
        .otherwise("memory of the target, or data of another client, leaks to whoever asks")
        .steps(&[ask(
            ata(0x00, 0, n(0), n(0)).junk(100),
            &[ata_error().with(&[Check::NoRun { from: 36, byte: JUNK }])],
        )]),
    case("padding.leak.unknown-command", Should, "AoE 2.3")
        .shows("the answer to an unknown command does not carry the request's bytes back")
        .otherwise("an answer without a meaning, as long as the request, doubles the noise")
        .steps(&[ask(
            raw(0x7f, &[JUNK; 64]),
            &[error(code::COMMAND).with(&[Check::NoRun { from: 24, byte: JUNK }])],
        )]),
    case("padding.request.lists", Should, "AoE 2.7")
        .shows("reads of the mask list and the reservation are answered without padding")
        .otherwise("cluster tools do not work on virtual links")
        .steps(&[
            ask(mask_read().unpadded(), &[plain()]),
            ask(reserve_read().unpadded(), &[plain()]),
        ]),
    case("padding.request.sancheck", Must, "AoE 8.4")
        .shows("IDENTIFY is answered with 36 + k x 512 bytes, whatever k fits the link")
        .otherwise("aoe-sancheck reports that only small frames pass")
        .steps(&[
            ask(identify().junk(512), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
            ask(identify().junk(1024), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
        ]),
    case("padding.request.sancheck-jumbo", Should, "AoE 8.4")
        .shows("IDENTIFY in a jumbo frame is answered")
        .otherwise("aoe-sancheck reports that no jumbo frames pass")
        .needs(Needs::JUMBO)
        .steps(&[ask(
            identify().junk(4096),
            &[done().with(&[Check::DataLength { sectors: n(1) }])],
        )]),
    case("padding.response.every-kind", Should, "AoE 2.7")
        .shows("answers to lists, refusals and failed reads have at least 60 bytes, too")
        .otherwise("a network card that does not pad sends a frame that switches drop")
        .steps(&[
            ask(mask_read(), &[plain().with(LONG)]),
            ask(reserve_read(), &[plain().with(LONG)]),
            ask(raw(4, &[0; 12]), &[anything().with(LONG)]),
            ask(read(Value::SECTORS, n(1)), &[anything().with(LONG)]),
        ]),
    case("padding.zeros.config", Must, "AoE 2.7")
        .shows("behind the config string an answer has zeros, not the request's padding")
        .otherwise("memory of the target, or another client's request, leaks to whoever asks")
        .steps(&[ask(query().junk(28), &[plain().with(&[Check::NoRun { from: 32, byte: JUNK }])])]),
    case("padding.zeros.lists", Should, "AoE 2.7")
        .shows("answers about the lists do not end with the request's padding")
        .otherwise("memory of the target, or another client's request, leaks to whoever asks")
        .steps(&[
            ask(mask_read().junk(32), &[plain().with(&[Check::NoRun { from: 28, byte: JUNK }])]),
            ask(reserve_read().junk(34), &[plain().with(&[Check::NoRun { from: 26, byte: JUNK }])]),
        ]),
    case("padding.zeros.write", Must, "AoE 2.7")
        .shows("the answer to a write has zeros behind its registers, not the data")
        .otherwise("written data leak to whoever listens, twice")
        .needs(Needs::WRITES)
        .steps(&[ask(write(1, Value::WINDOW, n(1)), &[done().with(&[Check::ZerosFrom(34)])])]),
    case("padding.zeros.refused-read", Must, "AoE 2.7")
        .shows("the answer to a refused read has zeros behind its registers")
        .otherwise("old memory, or another client's data, leaks to whoever asks")
        .steps(&[ask(
            read(Value::SECTORS, n(1)).junk(600),
            &[ata_error().with(&[Check::ZerosFrom(34)])],
        )]),
];
