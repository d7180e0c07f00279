//! IDENTIFY DEVICE, word by word. `[AoE 6]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Identify, id, severity, section)
}

const fn word(index: u8, mask: u16, is: i64) -> Check {
    Check::Word { index, mask, test: Test::is(is) }
}

pub(super) const CASES: &[Case] = &[
    case("identify.any-count", Must, "AoE 5.5")
        .shows("IDENTIFY is answered whatever its count and LBA say, with the same page")
        .otherwise("a client that sends another count gets an AoE error and hangs for 180 s")
        .steps(&[
            keep(identify(), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
            ask(
                identify().count(n(0)).lba(n(0x0102_0304)),
                &[done().with(&[Check::Kept { at: 36, len: 512 }])],
            ),
        ]),
    case("identify.word0.ata", Must, "AoE 6")
        .shows("word 0 bit 15 is clear: an ATA device")
        .otherwise("a client takes the disk for a CD drive")
        .steps(&[ask(identify(), &[done().with(&[word(0, 0x8000, 0)])])]),
    case("identify.word49.lba", Must, "AoE 6")
        .shows("word 49 bit 9 is set: LBA")
        .otherwise("Plan 9 and old clients address the disk by cylinders")
        .steps(&[ask(identify(), &[done().with(&[word(49, 0x0200, 0x0200)])])]),
    case("identify.words60.lba28", Must, "AoE 6")
        .shows("words 60 and 61 hold the size, at most 0x0FFFFFFF")
        .otherwise("28-bit clients see a disk of another size")
        .steps(&[ask(
            identify(),
            &[done().with(&[
                Check::Words { index: 60, count: 2, test: Test::AtLeast(n(1)) },
                Check::Words { index: 60, count: 2, test: Test::AtMost(n(0x0fff_ffff)) },
                Check::Words { index: 60, count: 2, test: Test::AtMost(Value::SECTORS) },
            ])],
        )]),
    case("identify.word103", Must, "AoE 6")
        .shows("word 103 is 0: Linux reads words 100 to 103 as one 64-bit number")
        .otherwise("Linux sees a disk of impossible size")
        .needs(Needs::LBA48)
        .steps(&[ask(identify(), &[done().with(&[word(103, 0xffff, 0)])])]),
    case("identify.word255.integrity", Should, "AoE 6")
        .shows("word 255 has the signature 0xA5 and a checksum that fits, or is 0")
        .otherwise("tools that verify the page reject it")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[
                    word(255, 0x00ff, 0x00a5),
                    Check::Where {
                        what: "a sum of all bytes of 0",
                        at: 547,
                        len: 1,
                        holds: |frame, _| {
                            frame.iter().skip(36).take(512).fold(0, |s: u8, b| s.wrapping_add(*b))
                                == 0
                        },
                    },
                ]),
                done().with(&[word(255, 0xffff, 0)]).differs("there is no checksum (vblade)"),
            ],
        )]),
];
