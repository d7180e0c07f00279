//! ATA writes. `[AoE 5]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Write, id, severity, section)
}

const NEW: &[Check] = &[Check::Pattern { seed: 1, lba: Value::WINDOW, sectors: n(1) }];
const OLD: &[Check] = &[Check::Original { lba: Value::WINDOW, sectors: n(1) }];

pub(super) const CASES: &[Case] = &[
    case("write.read-back", Must, "AoE 5.5")
        .shows("what is written is read back, by 28 and by 48 bits, and its neighbour is untouched")
        .otherwise("every client loses its data")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)), &[done()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
            ask(read28(Value::WINDOW, n(1)), &[done().with(NEW)]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW.plus(1), sectors: n(1) }])],
            ),
        ]),
    case("write.most", Must, "AoE 5.6")
        .shows("as many sectors as advertised are written at once")
        .otherwise("every write of Linux fails, as it always sends that many")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, Value::MAX), &[done()]),
            ask(
                read(Value::WINDOW, Value::MAX),
                &[done().with(&[Check::Pattern {
                    seed: 1,
                    lba: Value::WINDOW,
                    sectors: Value::MAX,
                }])],
            ),
        ]),
    case("write.more", Note, "AoE 5.6")
        .shows("a write of more sectors than advertised that arrives whole is executed, or aborted")
        .otherwise("an AoE error hangs Linux for 180 s")
        .needs(Needs::WRITES)
        .steps(&[ask(
            write(1, Value::WINDOW, Value::MAX.plus(1)),
            &[done(), aborted().differs("refused")],
        )]),
    case("write.cut", Must, "AoE 5.6")
        .shows("a write with one byte missing is aborted, and nothing is written")
        .otherwise("old memory of the target is written to the disk")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(2)).short_by(1), &[aborted()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.without-w", Should, "AoE 5.1")
        .shows("a WRITE without the W flag is aborted, and nothing is written")
        .otherwise("a frame that contradicts itself is taken for a write")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write28(1, Value::WINDOW, n(1)).ata_flags(0), &[aborted()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.response.no-data", Should, "AoE 5.4")
        .shows("the answer to a write has no data")
        .otherwise("every write costs as much on the way back")
        .needs(Needs::WRITES)
        .steps(&[ask(
            write(1, Value::WINDOW, n(1)),
            &[done().with(&[Check::DataLength { sectors: n(0) }])],
        )]),
    case("write.28-bit", Must, "AoE 5.2")
        .shows("WRITE SECTORS, 28 bits, is executed, with 0xE0 in the device register")
        .otherwise("clients of disks below 128 GiB lose their data")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write28(1, Value::WINDOW, n(1)).lba_extra([0, 0, 0, 0xe0, 0x55, 0x55]), &[done()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
        ]),
    case("write.surplus", Must, "AoE 5.6")
        .shows("bytes behind the data of a write are ignored")
        .otherwise("a padded write fails, or the padding goes to the next sector")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).junk(512), &[done()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW.plus(1), sectors: n(1) }])],
            ),
        ]),
    case("write.count-zero", Must, "AoE 5.3")
        .shows("a WRITE of 0 sectors writes nothing")
        .otherwise("256 sectors of old memory are written")
        .needs(Needs::WRITES)
        .steps(&[
            ask(
                write(1, Value::WINDOW, n(1)).count(n(0)),
                &[aborted(), done().differs("success, and nothing is written (vblade)")],
            ),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.missing-sector", Must, "AoE 5.6")
        .shows("a write of two sectors with the data of one is aborted, and nothing is written")
        .otherwise("old memory of the target is written to the disk (qaoed)")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(2)).short_by(512), &[aborted()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW.plus(1), sectors: n(1) }])],
            ),
        ]),
    case("write.registers", Should, "AoE 5.4")
        .shows("a successful write has status 0x40 or 0x50, error 0, count 0, and nothing reserved")
        .otherwise("clients that look at more than the error bit see a failure")
        .needs(Needs::WRITES)
        .steps(&[ask(
            write(1, Value::WINDOW, n(1)),
            &[
                done().with(&[
                    Check::Bits { at: 27, mask: 0xef, is: 0x40 },
                    Check::Bits { at: 25, mask: 0xff, is: 0 },
                    Check::Bits { at: 26, mask: 0xff, is: 0 },
                    Check::Number { at: 34, len: 2, test: Test::is(0) },
                ]),
                done()
                    .with(&[Check::Bits { at: 25, mask: 0xff, is: 0 }])
                    .differs("the count of the request comes back (ggaoed, qaoed)"),
            ],
        )]),
    case("write.sectors-apart", Must, "AoE 5.2")
        .shows("two sectors written at once are read back one by one")
        .otherwise("a file system reads one sector for another")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(3, Value::WINDOW, n(2)), &[done()]),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Pattern {
                    seed: 3,
                    lba: Value::WINDOW.plus(1),
                    sectors: n(1),
                }])],
            ),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Pattern { seed: 3, lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
    case("write.async-flag", Should, "AoE 5.1")
        .shows("a write with the A flag is executed")
        .otherwise("a client that asks for asynchronous writes loses its data")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)).ata_flags(0x43), &[done()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
        ]),
    case("write.dma", Note, "AoE 5.5")
        .shows("WRITE DMA EXT is executed, or aborted and nothing is written")
        .otherwise("nothing: no known client sends it")
        .needs(Needs::WRITES)
        .steps(&[
            ask(
                ata(0x35, 0x41, Value::WINDOW, n(1)).data(Data::Pattern { seed: 1, sectors: n(1) }),
                &[done(), aborted().differs("not offered (vblade)")],
            ),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW), done().with(OLD)]),
        ]),
    case("write.fua", Note, "AoE 5.5")
        .shows("WRITE DMA FUA EXT is executed, or aborted and nothing is written")
        .otherwise("nothing: no known client sends it")
        .needs(Needs::WRITES)
        .steps(&[
            ask(
                ata(0x3d, 0x41, Value::WINDOW, n(1)).data(Data::Pattern { seed: 1, sectors: n(1) }),
                &[done(), aborted().differs("not offered (vblade)")],
            ),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW), done().with(OLD)]),
        ]),
    case("write.after-flush", Must, "AoE 5.5")
        .shows("what was written is still there behind a FLUSH CACHE")
        .otherwise("a flush loses what it should keep")
        .needs(Needs::WRITES)
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)), &[done()]),
            ask(ata(0xe7, 0, n(0), n(0)), &[plain()]),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
        ]),
    case("write.survives-crash", Should, "AoE 9")
        .shows("an acknowledged write is still there after the target was killed and started again")
        .otherwise("clients believe that what was acknowledged is kept")
        .needs(Needs::WRITES.and(Needs::ACTION))
        .steps(&[
            ask(write(1, Value::WINDOW, n(1)), &[done()]),
            Step::Act(Action::Crash),
            ask(read(Value::WINDOW, n(1)), &[done().with(NEW)]),
        ]),
    case("write.trim", Should, "AoE 5.5")
        .shows("TRIM of a sector succeeds and leaves its neighbour alone")
        .otherwise("a file system that discards destroys its neighbours")
        .needs(Needs::WRITES.and(Needs::TRIM))
        .steps(&[
            ask(write(1, Value::WINDOW, n(2)), &[done()]),
            ask(
                ata(0x06, 0x41, n(0), n(1)).feature(1).data(Data::Trim(&[(Value::WINDOW, n(1))])),
                &[done()],
            ),
            ask(
                read(Value::WINDOW.plus(1), n(1)),
                &[done().with(&[Check::Pattern {
                    seed: 1,
                    lba: Value::WINDOW.plus(1),
                    sectors: n(1),
                }])],
            ),
        ]),
    case("write.trim.beyond", Must, "AoE 5.5")
        .shows("TRIM with a range beyond the end is an ATA error, and nothing is trimmed")
        .otherwise("a forged frame punches holes outside of the disk")
        .needs(Needs::WRITES.and(Needs::TRIM).and(Needs::BEYOND_END))
        .steps(&[
            ask(
                ata(0x06, 0x41, n(0), n(1))
                    .feature(1)
                    .data(Data::Trim(&[(Value::WINDOW, n(1)), (Value::SECTORS, n(8))])),
                &[ata_error()],
            ),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
    case("write.trim.other-feature", Should, "AoE 5.5")
        .shows("DATA SET MANAGEMENT without the TRIM bit is aborted")
        .otherwise("a command that means something else discards data")
        .needs(Needs::WRITES)
        .steps(&[
            ask(
                ata(0x06, 0x41, n(0), n(1)).feature(0).data(Data::Trim(&[(Value::WINDOW, n(1))])),
                &[aborted()],
            ),
            ask(read(Value::WINDOW, n(1)), &[done().with(OLD)]),
        ]),
];
