//! IDENTIFY DEVICE, word by word. `[AoE 6]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Identify, id, severity, section)
}

const fn word(index: u8, mask: u16, is: i64) -> Check {
    Check::Word { index, mask, test: Test::is(is) }
}

const UNTOLD_93: Answer = done().with(&[word(93, 0xffff, 0)]);
const UNTOLD_119: Answer = done().with(&[word(119, 0xffff, 0)]);
const UNTOLD_120: Answer = done().with(&[word(120, 0xffff, 0)]);
const UNTOLD_209: Answer = done().with(&[word(209, 0xffff, 0)]);

/// The two characters of each word are swapped; all that matters here is that they are printable.
fn printable(frame: &[u8], at: usize, len: usize) -> bool {
    let text = || frame.iter().skip(at).take(len);
    text().count() == len
        && text().all(|byte| matches!(byte, b' '..=b'~'))
        && text().any(|byte| *byte != b' ')
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
    case("identify.exact-length", Must, "AoE 5.5")
        .shows("the page has exactly 512 bytes")
        .otherwise("Linux drops a shorter one and hangs for 180 s when it attaches the disk")
        .steps(&[ask(identify(), &[done().with(&[Check::DataLength { sectors: n(1) }])])]),
    case("identify.size-is-readable", Must, "AoE 6")
        .shows("the last sector of the advertised size can be read, the next one cannot")
        .otherwise("partition tools write a GPT where there is no disk")
        .steps(&[
            ask(read(Value::LAST, n(1)), &[done().with(&[Check::DataLength { sectors: n(1) }])]),
            ask(read(Value::SECTORS, n(1)), &[ata_error()]),
        ]),
    case("identify.words100.lba48", Must, "AoE 6")
        .shows("with LBA48, words 100 to 103 hold the size, and words 60 and 61 as much as fits")
        .otherwise("Linux and iPXE see disks of different sizes")
        .needs(Needs::LBA48)
        .steps(&[ask(
            identify(),
            &[done().with(&[
                Check::Words { index: 100, count: 4, test: Test::Is(Value::SECTORS) },
                Check::Words { index: 100, count: 4, test: Test::AtLeast(n(1)) },
            ])],
        )]),
    case("identify.word83.lba48", Must, "AoE 6")
        .shows("words 83 and 86 agree about LBA48")
        .otherwise("Linux uses 48-bit commands, iPXE 28-bit ones, and one of them fails")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(83, 0x0400, 0x0400), word(86, 0x0400, 0x0400)]),
                done()
                    .with(&[word(83, 0x0400, 0), word(86, 0x0400, 0)])
                    .differs("there are no 48-bit commands"),
            ],
        )]),
    case("identify.word83.valid", Should, "AoE 6")
        .shows("words 83, 84 and 87 have the signature 01 in their upper bits")
        .otherwise("tools that verify the page ignore what the words say")
        .steps(&[ask(
            identify(),
            &[done().with(&[
                word(83, 0xc000, 0x4000),
                word(84, 0xc000, 0x4000),
                word(87, 0xc000, 0x4000),
            ])],
        )]),
    case("identify.word83.flush", Must, "AoE 5.5")
        .shows("FLUSH CACHE, which words 83 and 86 offer, succeeds")
        .otherwise("a client that relies on the page loses data with the power")
        .steps(&[
            ask(identify(), &[done().with(&[word(83, 0x1000, 0x1000)])]),
            ask(
                ata(0xe7, 0, n(0), n(0)),
                &[plain().with(&[Check::Bits { at: 27, mask: 0xa9, is: 0 }])],
            ),
        ]),
    case("identify.serial", Should, "AoE 6")
        .shows("the serial number, words 10 to 19, is printable and not empty")
        .otherwise("udev makes no stable names, and multipath mixes disks up")
        .steps(&[ask(
            identify(),
            &[done().with(&[Check::Where {
                what: "printable characters",
                at: 56,
                len: 20,
                holds: |frame, _| printable(frame, 56, 20),
            }])],
        )]),
    case("identify.firmware", Should, "AoE 6")
        .shows("the firmware revision, words 23 to 26, is printable and not empty")
        .otherwise("inventories show garbage")
        .steps(&[ask(
            identify(),
            &[done().with(&[Check::Where {
                what: "printable characters",
                at: 82,
                len: 8,
                holds: |frame, _| printable(frame, 82, 8),
            }])],
        )]),
    case("identify.model", Should, "AoE 6")
        .shows("the model, words 27 to 46, is printable and not empty")
        .otherwise("inventories show garbage")
        .steps(&[ask(
            identify(),
            &[done().with(&[Check::Where {
                what: "printable characters",
                at: 90,
                len: 40,
                holds: |frame, _| printable(frame, 90, 40),
            }])],
        )]),
    case("identify.word47.multiple", Should, "AoE 6")
        .shows("word 47 has 0x80 in its upper byte, word 59 offers no multiple mode by itself")
        .otherwise("tools that verify the page reject it")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(47, 0xff00, 0x8000)]),
                done().with(&[word(47, 0xffff, 0)]).differs("word 47 is 0"),
            ],
        )]),
    case("identify.word50", Note, "AoE 6")
        .shows("word 50 has the signature 01")
        .otherwise("tools that verify the page ignore the word")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(50, 0xc000, 0x4000)]),
                done().with(&[word(50, 0xffff, 0)]).differs("word 50 is 0"),
            ],
        )]),
    case("identify.geometry", Note, "AoE 6")
        .shows("cylinders, heads and sectors per track are told, or all 0")
        .otherwise("old partition tools divide by zero")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[
                    Check::Word { index: 1, mask: 0xffff, test: Test::AtLeast(n(1)) },
                    Check::Word { index: 3, mask: 0xffff, test: Test::AtLeast(n(1)) },
                    Check::Word { index: 6, mask: 0xffff, test: Test::AtLeast(n(1)) },
                ]),
                done()
                    .with(&[word(1, 0xffff, 0), word(3, 0xffff, 0), word(6, 0xffff, 0)])
                    .differs("there is no geometry (vblade)"),
            ],
        )]),
    case("identify.word53", Should, "AoE 6")
        .shows("words 54 to 56 are told if word 53 says that they are valid")
        .otherwise("Linux tells programs a geometry of zeros")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[
                    word(53, 0x0001, 1),
                    Check::Word { index: 54, mask: 0xffff, test: Test::AtLeast(n(1)) },
                    Check::Word { index: 55, mask: 0xffff, test: Test::AtLeast(n(1)) },
                    Check::Word { index: 56, mask: 0xffff, test: Test::AtLeast(n(1)) },
                ]),
                done().with(&[word(53, 0x0001, 0)]).differs("they are not valid (vblade)"),
            ],
        )]),
    case("identify.dma", Should, "AoE 6")
        .shows("modes of DMA are offered only together with DMA in word 49")
        .otherwise("a client chooses commands that are aborted")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(49, 0x0100, 0x0100)]),
                done().with(&[word(49, 0x0100, 0), word(63, 0x0007, 0), word(88, 0x007f, 0)]),
            ],
        )]),
    case("identify.ncq", Should, "AoE 6")
        .shows("words 75 to 79 offer no command queueing: AoE has its own")
        .otherwise("a client sends commands that no target knows")
        .steps(&[ask(identify(), &[done().with(&[word(76, 0x0100, 0)])])]),
    case("identify.version", Note, "AoE 6")
        .shows("word 80 names the versions of ATA that are served")
        .otherwise("tools call the disk unknown")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[Check::Word { index: 80, mask: 0xffff, test: Test::AtLeast(n(2)) }]),
                done().with(&[word(80, 0xffff, 0)]).differs("no version is named (vblade)"),
            ],
        )]),
    case("identify.word86.copies", Should, "AoE 6")
        .shows("words 85 and 86 enable nothing that words 82 and 83 do not offer")
        .otherwise("a client uses what is not there")
        .steps(&[ask(
            identify(),
            &[done().with(&[Check::Where {
                what: "bits that are offered in words 82 and 83",
                at: 206,
                len: 4,
                holds: |frame, _| {
                    let word = |index: usize| {
                        let at = index.wrapping_mul(2).wrapping_add(36);
                        frame
                            .iter()
                            .skip(at)
                            .take(2)
                            .rev()
                            .fold(0_u16, |w, b| w << 8 | u16::from(*b))
                    };
                    word(85) & !word(82) == 0 && word(86) & 0x3fff & !word(83) == 0
                },
            }])],
        )]),
    case("identify.trim", Should, "AoE 6")
        .shows("zeros after TRIM (word 69) are promised only where TRIM (word 169) is offered")
        .otherwise("a file system relies on zeros that never come")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(169, 0x0001, 1)]),
                done().with(&[word(169, 0x0001, 0), word(69, 0x4020, 0)]),
            ],
        )]),
    case("identify.trim.ranges", Should, "AoE 6")
        .shows(
            "word 105, sectors of ranges per TRIM, is told where TRIM is offered, and only there",
        )
        .otherwise("a client sends more ranges than are read, or none at all")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[
                    word(169, 0x0001, 1),
                    Check::Word { index: 105, mask: 0xffff, test: Test::AtLeast(n(1)) },
                ]),
                done().with(&[word(169, 0x0001, 0), word(105, 0xffff, 0)]),
            ],
        )]),
    case("identify.signatures", Note, "AoE 6")
        .shows("words 93, 119, 120 and 209 are 0, or have the signature 01 in their upper bits")
        .otherwise("nothing: a client that looks ignores such a word")
        .steps(&[
            ask(identify(), &[done().with(&[word(93, 0xc000, 0x4000)]), UNTOLD_93]),
            ask(identify(), &[done().with(&[word(119, 0xc000, 0x4000)]), UNTOLD_119]),
            ask(identify(), &[done().with(&[word(120, 0xc000, 0x4000)]), UNTOLD_120]),
            ask(identify(), &[done().with(&[word(209, 0xc000, 0x4000)]), UNTOLD_209]),
        ]),
    case("identify.logical-sector", Should, "AoE 6")
        .shows("words 117 and 118 hold the size of a logical sector, 256 words, or nothing")
        .otherwise("a client multiplies every address by eight")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[Check::Words { index: 117, count: 2, test: Test::is(0) }]),
                done().with(&[Check::Words { index: 117, count: 2, test: Test::is(256) }]),
            ],
        )]),
    case("identify.sector-size", Must, "AoE 6")
        .shows("word 106 does not claim logical sectors other than 512 bytes")
        .otherwise("a client multiplies every address by eight")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(106, 0xc000, 0x4000), word(106, 0x1000, 0)]),
                done().with(&[Check::Word {
                    index: 106,
                    mask: 0xc000,
                    test: Test::Not(n(0x4000)),
                }]),
            ],
        )]),
    case("identify.wwn", Note, "AoE 6")
        .shows("a world wide name is there if word 84 says so")
        .otherwise("udev makes a name of zeros, the same for every disk")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[
                    word(84, 0x0100, 0x0100),
                    Check::Words { index: 108, count: 4, test: Test::AtLeast(n(1)) },
                ]),
                done().with(&[word(84, 0x0100, 0)]).differs("there is none (vblade)"),
            ],
        )]),
    case("identify.rotation", Note, "AoE 6")
        .shows("word 217 says what the medium is, or nothing")
        .otherwise("nothing: Linux does not look")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[word(217, 0xffff, 1)]),
                done().with(&[word(217, 0xffff, 0)]).differs("not told (vblade)"),
            ],
        )]),
    case("identify.transport", Note, "AoE 6")
        .shows("word 222 claims no transport that would need more words")
        .otherwise("nothing: Linux does not look")
        .steps(&[ask(
            identify(),
            &[done().with(&[word(222, 0xffff, 0)]), done().differs("a transport is claimed")],
        )]),
    case("identify.stable", Must, "AoE 9")
        .shows("two IDENTIFYs get the same page")
        .otherwise("Linux, which identifies after each last close, sees another disk")
        .steps(&[
            keep(identify(), &[done()]),
            ask(identify(), &[done().with(&[Check::Kept { at: 36, len: 512 }])]),
        ]),
    case("identify.restart", Should, "AoE 9")
        .shows("the page is the same after the target was killed and started again")
        .otherwise("Linux and udev take the disk for another one")
        .needs(Needs::ACTION)
        .steps(&[
            keep(identify(), &[done()]),
            Step::Act(Action::Crash),
            ask(identify(), &[done().with(&[Check::Kept { at: 36, len: 512 }])]),
        ]),
    case("identify.cylinders", Note, "AoE 6")
        .shows("the size is a multiple of 255 x 63 sectors")
        .otherwise("WinAoE ignores the sectors behind the last whole cylinder")
        .steps(&[ask(
            identify(),
            &[
                done().with(&[Check::Where {
                    what: "a size of whole cylinders of 16065 sectors",
                    at: 236,
                    len: 8,
                    holds: |_, facts| facts.sectors.is_none_or(|s| s.is_multiple_of(16_065)),
                }]),
                done().differs("WinAoE does not use the last sectors"),
            ],
        )]),
];
