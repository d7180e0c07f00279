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
];
