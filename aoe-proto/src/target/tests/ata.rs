//! ATA commands as decisions: registers, ranges, refusals, `[AoE 5]`.

use super::*;

const OK: (u8, u8) = (0x40, 0);
const ABORTED: (u8, u8) = (0x41, 0x04);
const NOT_FOUND: (u8, u8) = (0x41, 0x10);
/// The E and W flags.
const E: u8 = 0x40;
const W: u8 = 0x01;

/// Flags, opcode, sector count and LBA registers of a command.
pub(super) struct Ata {
    pub(super) flags: u8,
    pub(super) opcode: u8,
    pub(super) count: u8,
    pub(super) lba: [u8; 6],
}

impl Ata {
    pub(super) fn new(flags: u8, opcode: u8, count: u8, lba: u64) -> Self {
        let bytes = lba.to_le_bytes();
        let lba = bytes[..6].try_into().unwrap();
        Self { flags, opcode, count, lba }
    }

    pub(super) fn frame(&self, feature: u8, data: &[u8]) -> Vec<u8> {
        let mut argument = vec![self.flags, feature, self.count, self.opcode];
        argument.extend_from_slice(&self.lba);
        argument.extend_from_slice(&[0x99, 0x99]);
        argument.extend_from_slice(data);
        request(0, &argument)
    }

    /// Asks, checks everything but status, error, count and data, and returns these.
    fn ask(&self, bench: &mut Bench, feature: u8, data: &[u8]) -> ((u8, u8), u8, Vec<u8>) {
        let reply = bench.ask(&self.frame(feature, data)).unwrap();
        assert_eq!(reply[..24], answer_header(0x18, 0, 0));
        assert_eq!(reply[24], self.flags, "flags are copied");
        assert_eq!(reply[28..34], self.lba, "LBA bytes are copied");
        assert_eq!(reply[34..36], [0, 0]);
        assert_eq!(reply[27] & 0x40, 0x40, "DRDY");
        ((reply[27], reply[25]), reply[26], Vec::from(&reply[36..]))
    }

    /// Asserts a failure without data, and the residue.
    fn fails(&self, bench: &mut Bench, data: &[u8], registers: (u8, u8)) {
        let (status, residue, rest) = self.ask(bench, 0, data);
        assert_eq!(status, registers);
        assert_eq!(residue, self.count, "nothing was transferred");
        assert_eq!(rest, [0; 24]);
    }
}

#[test]
fn identify_takes_any_count_lba_and_flags() {
    let mut bench = Bench::new();
    let (status, residue, page) = Ata::new(0, 0xec, 1, 0xa000_0000).ask(&mut bench, 0, &[]);
    assert_eq!((status, residue, page.len()), (OK, 0, 512));
    for (flags, count, lba, junk) in
        [(E, 0, 0, 0), (0, 255, 0xffff_ffff_ffff, 24), (E | W, 2, 0xe000_0000, 1464)]
    {
        let again = Ata::new(flags, 0xec, count, lba).ask(&mut bench, 0, &vec![0x77; junk]);
        assert_eq!(again, (OK, 0, page.clone()), "identical on each call");
    }
}

#[test]
fn identify_is_answered_to_wildcards() {
    let mut bench = Bench::new();
    let mut frame = Ata::new(E, 0xec, 1, 0).frame(0, &[]);
    frame[..6].fill(0xff);
    frame[16..19].fill(0xff);
    assert_eq!(bench.ask(&frame).unwrap()[..24], answer_header(0x18, 0, 0));
}

#[test]
fn reads_of_every_kind() {
    let mut bench = Bench::new();
    for (flags, opcode) in [(0, 0x20), (0, 0xc8), (E, 0x24), (E, 0x25), (0, 0x24), (0, 0x25)] {
        let (status, residue, data) = Ata::new(flags, opcode, 2, 5).ask(&mut bench, 0, &[]);
        assert_eq!((status, residue), (OK, 0));
        assert_eq!(data, [[5; 512], [6; 512]].concat(), "{opcode:#04x}");
    }
}

#[test]
fn a_read_ignores_payload() {
    let mut bench = Bench::new();
    let (status, _, data) = Ata::new(E, 0x24, 2, 0).ask(&mut bench, 0, &[0; 1024]);
    assert_eq!((status, data.len()), (OK, 1024));
}

#[test]
fn the_device_register_is_masked_off() {
    let mut bench = Bench::new();
    let mut read = Ata::new(0, 0x20, 1, 7);
    read.lba[3] = 0xe0;
    read.lba[4..].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(read.ask(&mut bench, 0, &[]).2, [7; 512]);
    read.lba[3] = 0xe1;
    read.fails(&mut bench, &[], NOT_FOUND);
}

#[test]
fn the_e_flag_must_agree() {
    let mut bench = Bench::new();
    for opcode in [0x20, 0xc8, 0x40] {
        Ata::new(E, opcode, 1, 0).fails(&mut bench, &[], ABORTED);
    }
    for opcode in [0x30, 0xca] {
        Ata::new(E | W, opcode, 1, 0).fails(&mut bench, &[0; 512], ABORTED);
    }
    for opcode in [0x24, 0x25, 0x42] {
        Ata::new(0, opcode, 1, 1 << 28).fails(&mut bench, &[], ABORTED);
        Ata::new(0, opcode, 1, (1 << 28) - 1).fails(&mut bench, &[], NOT_FOUND);
        Ata::new(E, opcode, 1, 1 << 28).fails(&mut bench, &[], NOT_FOUND);
    }
}

#[test]
fn the_w_flag_must_agree() {
    let mut bench = Bench::new();
    for (flags, opcode) in [(W, 0x20), (W, 0xc8), (E | W, 0x24), (E | W, 0x25)] {
        Ata::new(flags, opcode, 1, 0).fails(&mut bench, &[0; 512], ABORTED);
    }
    let before = bench.disk.bytes.clone();
    for (flags, opcode) in [(0, 0x30), (0, 0xca), (E, 0x34), (E, 0x35), (E, 0x3d)] {
        Ata::new(flags, opcode, 1, 0).fails(&mut bench, &[0x77; 512], ABORTED);
    }
    assert_eq!(bench.disk.bytes, before);
}

#[test]
fn ranges_end_with_the_disk() {
    let mut bench = Bench::new();
    assert_eq!(Ata::new(E, 0x24, 1, 999).ask(&mut bench, 0, &[]).0, OK);
    for (count, lba) in [(2, 999), (1, 1000), (1, u64::MAX), (2, (1 << 48) - 1)] {
        Ata::new(E, 0x24, count, lba).fails(&mut bench, &[], NOT_FOUND);
        Ata::new(E | W, 0x34, count, lba).fails(&mut bench, &[0; 1024], NOT_FOUND);
        Ata::new(E, 0x42, count, lba).fails(&mut bench, &[], NOT_FOUND);
    }
}

#[test]
fn no_sectors_is_an_abort_even_beyond_the_end() {
    let mut bench = Bench::new();
    for lba in [0, 1000, 1 << 40] {
        for opcode in [0x24, 0x25, 0x42] {
            Ata::new(E, opcode, 0, lba).fails(&mut bench, &[], ABORTED);
        }
        for opcode in [0x34, 0x35, 0x3d] {
            Ata::new(E | W, opcode, 0, lba).fails(&mut bench, &[0; 512], ABORTED);
        }
    }
}

#[test]
fn reads_beyond_the_advertised_count_are_aborted_promptly() {
    let mut bench = Bench::new();
    assert_eq!(Ata::new(E, 0x24, 2, 0).ask(&mut bench, 0, &[]).2.len(), 1024);
    for count in [3, 17, 255] {
        Ata::new(E, 0x24, count, 0).fails(&mut bench, &[], ABORTED);
    }
    bench.link = LinkLimits::for_mtu(9000).unwrap();
    assert_eq!(Ata::new(E, 0x24, 16, 0).ask(&mut bench, 0, &[]).2.len(), 8192);
    Ata::new(E, 0x24, 17, 0).fails(&mut bench, &[], ABORTED);
}

#[test]
fn verify_may_be_longer_than_a_frame() {
    let mut bench = Bench::new();
    for (flags, opcode) in [(0, 0x40), (E, 0x42)] {
        let (status, residue, rest) = Ata::new(flags, opcode, 255, 745).ask(&mut bench, 0, &[]);
        assert_eq!((status, residue), (OK, 0));
        assert_eq!(rest, [0; 24], "no data");
    }
    Ata::new(E, 0x42, 255, 746).fails(&mut bench, &[], NOT_FOUND);
}

#[test]
fn power_and_features() {
    let mut bench = Bench::new();
    for count in [0, 1] {
        let (status, count, rest) = Ata::new(0, 0xe5, count, 0).ask(&mut bench, 0, &[]);
        assert_eq!((status, count, rest), (OK, 0xff, vec![0; 24]), "active");
    }
    for opcode in [0xe0, 0xe1, 0xe2, 0xe3, 0xe6] {
        let (status, residue, _) = Ata::new(0, opcode, 12, 0).ask(&mut bench, 0, &[]);
        assert_eq!((status, residue), (OK, 0));
    }
    for feature in [0x02, 0x82, 0xaa, 0x55, 0x03] {
        assert_eq!(Ata::new(0, 0xef, 0, 0).ask(&mut bench, feature, &[]).0, OK);
    }
    for feature in [0x00, 0x05, 0x10, 0xff] {
        assert_eq!(Ata::new(0, 0xef, 0, 0).ask(&mut bench, feature, &[]).0, ABORTED);
    }
}

#[test]
fn smart_needs_its_signature() {
    let mut bench = Bench::new();
    let signed = Ata::new(0, 0xb0, 0, 0x00c2_4f00);
    for feature in [0xd8, 0xd9, 0xda] {
        assert_eq!(signed.ask(&mut bench, feature, &[]).0, OK, "healthy: the signature returns");
    }
    for feature in [0xd0, 0xd5, 0x00] {
        assert_eq!(signed.ask(&mut bench, feature, &[]).0, ABORTED);
    }
    assert_eq!(Ata::new(0, 0xb0, 0, 0x002c_f400).ask(&mut bench, 0xda, &[]).0, ABORTED);
}

#[test]
fn the_native_maximum_is_the_last_sector() {
    let mut bench = Bench::with(|config| config.sectors = 1 << 40);
    let long = bench.ask(&Ata::new(E, 0x27, 0, 0).frame(0, &[])).unwrap();
    assert_eq!(
        (long[27], &long[28..34]),
        (0x40, &[0xff; 5][..].iter().chain(&[0]).copied().collect::<Vec<_>>()[..])
    );
    let short = bench.ask(&Ata::new(0, 0xf8, 0, 0).frame(0, &[])).unwrap();
    assert_eq!((short[27], &short[28..34]), (0x40, &[0xff, 0xff, 0xff, 0x0f, 0, 0][..]));
}

#[test]
fn everything_else_is_aborted() {
    let mut bench = Bench::new();
    let served = [
        0x06, 0x20, 0x24, 0x25, 0x27, 0x30, 0x34, 0x35, 0x3d, 0x40, 0x42, 0xb0, 0xc8, 0xca, 0xe0,
        0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xe7, 0xea, 0xec, 0xef, 0xf8,
    ];
    for opcode in (0..=255).filter(|opcode| !served.contains(opcode)) {
        Ata::new(0, opcode, 1, 0).fails(&mut bench, &[0; 512], ABORTED);
    }
}
