//! ATA reads. `[AoE 5]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Read, id, severity, section)
}

const ONE: &[Check] = &[Check::DataLength { sectors: n(1) }];

pub(super) const CASES: &[Case] = &[
    case("read.lba28-as-lba48", Must, "AoE 5.2")
        .shows("READ SECTORS and READ SECTORS EXT return the same data")
        .otherwise("iPXE or an old client boots from other sectors than Linux wrote")
        .needs(Needs::LBA48)
        .steps(&[
            keep(read(n(0), n(1)), &[done().with(ONE)]),
            ask(read28(n(0), n(1)), &[done().with(&[Check::Kept { at: 36, len: 512 }])]),
        ]),
    case("read.device-register", Must, "AoE 5.2")
        .shows("of a 28-bit LBA the high nibble of the fourth register is ignored, and the rest")
        .otherwise("Linux, which sets 0xE0 there, reads far beyond the end of the disk")
        .steps(&[
            keep(read28(n(1), n(1)), &[done().with(ONE)]),
            ask(
                read28(n(1), n(1)).lba_extra([0, 0, 0, 0xe0, 0x55, 0x55]),
                &[done().with(&[Check::Kept { at: 36, len: 512 }])],
            ),
        ]),
    case("read.most", Must, "AoE 5.6")
        .shows("as many sectors as advertised are read at once")
        .otherwise("every read of Linux fails, as it always asks for that many")
        .steps(&[ask(
            read(n(0), Value::MAX),
            &[done().with(&[Check::DataLength { sectors: Value::MAX }])],
        )]),
    case("read.payload-ignored", Must, "AoE 8.1")
        .shows("a READ that carries zeros is a plain READ")
        .otherwise("Linux, which probes a bad path this way, never uses the path again")
        .steps(&[
            keep(read(n(0), n(1)), &[done().with(ONE)]),
            ask(
                read(n(0), n(1)).data(Data::Zeros { sectors: n(1) }),
                &[done().with(&[Check::Kept { at: 36, len: 512 }])],
            ),
        ]),
    case("read.residue", Note, "AoE 5.3")
        .shows("the Sector Count register of a successful answer is 0: nothing is left")
        .otherwise("nothing: Linux, iPXE and WinAoE do not look")
        .steps(&[ask(
            read(n(0), n(1)),
            &[
                done().with(&[Check::Bits { at: 26, mask: 0xff, is: 0 }]),
                done()
                    .with(&[Check::Bits { at: 26, mask: 0xff, is: 1 }])
                    .differs("the count of the request comes back (ggaoed, qaoed)"),
            ],
        )]),
    case("read.with-w", Should, "AoE 5.1")
        .shows("a READ with the W flag is aborted")
        .otherwise("a frame that contradicts itself is taken for a read, or answered without data")
        .steps(&[ask(
            read(n(0), n(1)).ata_flags(0x41),
            &[aborted().with(&[Check::DataLength { sectors: n(0) }])],
        )]),
    case("read.async-flag", Should, "AoE 5.1")
        .shows("the A flag changes nothing about a READ")
        .otherwise("a client that asks for asynchronous writes cannot read")
        .steps(&[
            keep(read(n(0), n(1)), &[done().with(ONE)]),
            ask(
                read(n(0), n(1)).ata_flags(0x42),
                &[done().with(&[Check::Kept { at: 36, len: 512 }])],
            ),
        ]),
    case("read.drive-flag", Should, "AoE 5.1")
        .shows("the D flag, the old drive select, is ignored")
        .otherwise("iPXE, which may set it, reads nothing")
        .steps(&[
            keep(read(n(0), n(1)), &[done().with(ONE)]),
            ask(
                read(n(0), n(1)).ata_flags(0x50),
                &[done().with(&[Check::Kept { at: 36, len: 512 }])],
            ),
        ]),
    case("read.flags-copied", Note, "AoE 5")
        .shows("the ATA flags come back as they were")
        .otherwise("nothing: no known client looks")
        .steps(&[ask(
            read(n(0), n(1)),
            &[
                done().with(&[Check::Echo { at: 24, len: 1 }]),
                done().differs("the flags do not come back"),
            ],
        )]),
    case("read.registers", Should, "AoE 5.4")
        .shows("a successful answer has status 0x40 or 0x50, error 0, and zeros in bytes 34 and 35")
        .otherwise("clients that look at more than the error bit see a failure")
        .steps(&[ask(
            read(n(0), n(1)),
            &[done().with(&[
                Check::Bits { at: 27, mask: 0xef, is: 0x40 },
                Check::Bits { at: 25, mask: 0xff, is: 0 },
                Check::Number { at: 34, len: 2, test: Test::is(0) },
            ])],
        )]),
    case("read.lba-echo", Note, "AoE 5")
        .shows("the LBA registers come back as they were")
        .otherwise("nothing: no known client looks")
        .steps(&[ask(
            read(n(5), n(1)),
            &[
                done().with(&[Check::Echo { at: 28, len: 6 }]),
                done().differs("the LBA registers do not come back"),
            ],
        )]),
    case("read.winaoe-probe", Must, "AoE 8.3")
        .shows("READ EXT of LBA 0 with 1 and 2 sectors returns exactly that much")
        .otherwise("WinAoE, which measures the frame size this way, uses none")
        .needs(Needs::LBA48)
        .steps(&[
            ask(read(n(0), n(1)), &[done().with(ONE)]),
            ask(read(n(0), n(2)), &[done().with(&[Check::DataLength { sectors: n(2) }])]),
        ]),
    case("read.adjacent", Must, "AoE 5.2")
        .shows("the first of two sectors read at once is the same as when it is read alone")
        .otherwise("a file system reads one sector for another")
        .steps(&[
            keep(read(n(1), n(1)), &[done().with(ONE)]),
            ask(
                read(n(1), n(2)),
                &[done().with(&[
                    Check::DataLength { sectors: n(2) },
                    Check::Kept { at: 36, len: 512 },
                ])],
            ),
        ]),
    case("read.dma", Note, "AoE 5.5")
        .shows("READ DMA and READ DMA EXT read, or are aborted")
        .otherwise("nothing: no known client sends them")
        .steps(&[
            ask(ata(0xc8, 0, n(0), n(1)), &[done().with(ONE), aborted().differs("not offered")]),
            ask(ata(0x25, 0x40, n(0), n(1)), &[done().with(ONE), aborted().differs("not offered")]),
        ]),
    case("read.verify", Note, "AoE 5.5")
        .shows("READ VERIFY takes up to 255 sectors and returns no data, or is aborted")
        .otherwise("nothing: no known client sends it")
        .steps(&[ask(
            ata(0x40, 0, n(0), n(1)),
            &[
                done().with(&[Check::DataLength { sectors: n(0) }]),
                aborted().differs("not offered (vblade)"),
            ],
        )]),
    case("read.verify.beyond", Must, "AoE 5.5")
        .shows("READ VERIFY beyond the end is an ATA error, never an AoE error")
        .otherwise("Linux drops AoE errors and hangs for 180 s")
        .steps(&[ask(ata(0x42, 0x40, Value::SECTORS, n(1)), &[ata_error()])]),
];
