//! Length, padding and stale bytes. `[AoE 2.7]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Padding, id, severity, section)
}

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
];
