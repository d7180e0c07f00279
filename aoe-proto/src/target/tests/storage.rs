//! ATA commands down to the disk: what is read, written, made durable and forgotten.

use super::ata::Ata;
use super::*;
use crate::wire::TrimEntry;

const E: u8 = 0x40;
const EW: u8 = 0x41;

fn status(reply: &[u8]) -> (u8, u8, u8) {
    (reply[27], reply[25], reply[26])
}

fn trim_data(entries: &[(u64, u16)]) -> Vec<u8> {
    let mut data: Vec<u8> = entries
        .iter()
        .flat_map(|(lba, count)| TrimEntry { lba: *lba, count: *count }.to_bytes())
        .collect();
    data.resize(data.len().next_multiple_of(512).max(512), 0);
    data
}

fn trimming(support: TrimSupport) -> Bench {
    Bench::with(|config| config.trim = support)
}

#[test]
fn writes_of_every_kind() {
    for (flags, opcode) in [(1, 0x30), (1, 0xca), (EW, 0x34), (EW, 0x35), (1, 0x34)] {
        let mut bench = Bench::new();
        let reply = bench.ask(&Ata::new(flags, opcode, 2, 998).frame(0, &[0x77; 1024])).unwrap();
        assert_eq!(status(&reply), (0x40, 0, 0));
        assert_eq!(reply[36..], [0; 24], "no request data comes back");
        let (before, after) = bench.disk.bytes.split_at(998 * 512);
        assert_eq!(before, &MemoryDisk::new(998).bytes[..]);
        assert_eq!(after, [0x77; 1024]);
        assert_eq!(bench.disk.flushes, 0);
    }
}

#[test]
fn fua_is_durable_before_the_answer() {
    let mut bench = Bench::new();
    let frame = Ata::new(EW, 0x3d, 1, 0).frame(0, &[0x77; 512]);
    let request = Incoming::parse(&frame, OWN).unwrap();
    let action = bench.target.handle(&request, bench.link);
    assert!(matches!(action, Action::Write { durable: true, .. }));
    bench.ask(&frame).unwrap();
    assert_eq!((bench.disk.flushes, bench.disk.bytes[0]), (1, 0x77));
}

#[test]
fn a_write_must_arrive_complete_and_surplus_is_ignored() {
    let mut bench = Bench::new();
    for len in [0, 1, 512, 1023] {
        let reply = bench.ask(&Ata::new(EW, 0x34, 2, 0).frame(0, &vec![0x77; len])).unwrap();
        assert_eq!(status(&reply), (0x41, 0x04, 2), "{len} bytes");
    }
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
    let reply = bench.ask(&Ata::new(EW, 0x34, 1, 0).frame(0, &[0x77; 1024])).unwrap();
    assert_eq!(status(&reply), (0x40, 0, 0));
    assert_eq!(bench.disk.bytes[511..513], [0x77, 1], "only what was asked for");
}

#[test]
fn a_write_beyond_the_advertised_count_is_taken_if_complete() {
    let mut bench = Bench::new();
    let reply = bench.ask(&Ata::new(EW, 0x34, 255, 0).frame(0, &vec![0x77; 255 * 512])).unwrap();
    assert_eq!(status(&reply), (0x40, 0, 0));
    assert_eq!(bench.disk.bytes[255 * 512 - 1..=255 * 512], [0x77, 4]);
}

#[test]
fn a_read_only_disk_aborts_changes() {
    let mut bench = Bench::with(|config| {
        config.read_only = true;
        config.trim = TrimSupport::Plain;
    });
    for opcode in [0x34, 0x35, 0x3d] {
        let reply = bench.ask(&Ata::new(EW, opcode, 1, 0).frame(0, &[0x77; 512])).unwrap();
        assert_eq!(status(&reply), (0x41, 0x04, 1));
    }
    let reply = bench.ask(&Ata::new(EW, 0x06, 1, 0).frame(1, &trim_data(&[(0, 1)]))).unwrap();
    assert_eq!(status(&reply), (0x41, 0x04, 1));
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
    assert_eq!(bench.ask(&Ata::new(E, 0x24, 1, 0).frame(0, &[])).unwrap()[27], 0x40);
}

#[test]
fn flushes_reach_the_disk() {
    let mut bench = Bench::new();
    for opcode in [0xe7, 0xea] {
        let reply = bench.ask(&Ata::new(0, opcode, 9, 0).frame(0, &[])).unwrap();
        assert_eq!(status(&reply), (0x40, 0, 0));
    }
    assert_eq!(bench.disk.flushes, 2);
}

#[test]
fn failures_of_the_disk_carry_no_data_and_the_residue() {
    for (error, registers) in [
        (AtaError::Aborted, (0x41, 0x04)),
        (AtaError::IdNotFound, (0x41, 0x10)),
        (AtaError::Uncorrectable, (0x41, 0x40)),
        (AtaError::WriteFault, (0x61, 0x04)),
    ] {
        let mut bench = trimming(TrimSupport::Plain);
        bench.disk.fails = Some(error);
        for (frame, residue) in [
            (Ata::new(E, 0x24, 2, 0).frame(0, &[]), 2),
            (Ata::new(EW, 0x34, 2, 0).frame(0, &[0x77; 1024]), 2),
            (Ata::new(E, 0x42, 200, 0).frame(0, &[]), 200),
            (Ata::new(0, 0xea, 0, 0).frame(0, &[]), 0),
            (Ata::new(EW, 0x06, 1, 0).frame(1, &trim_data(&[(0, 1)])), 0),
        ] {
            let reply = bench.ask(&frame).unwrap();
            assert_eq!(status(&reply), (registers.0, registers.1, residue));
            assert_eq!(reply[36..], [0; 24]);
        }
    }
}

#[test]
fn wildcards_read_but_do_not_write() {
    let mut bench = trimming(TrimSupport::Plain);
    let read = Ata::new(E, 0x24, 1, 0).frame(0, &[]);
    assert!(bench.ask(&to_all_slots(read)).is_ok());
    for frame in [
        Ata::new(EW, 0x34, 1, 0).frame(0, &[0x77; 512]),
        Ata::new(1, 0x30, 1, 0).frame(0, &[0x77; 512]),
        Ata::new(EW, 0x06, 1, 0).frame(1, &trim_data(&[(0, 1)])),
        Ata::new(0, 0x34, 0, 0).frame(0, &[]),
    ] {
        assert_eq!(bench.ask(&to_all_slots(frame)), Err(Refusal::WildcardChange));
    }
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
}

#[test]
fn trim_forgets_its_ranges() {
    let mut bench = trimming(TrimSupport::Zeroing);
    let data = trim_data(&[(0, 0), (10, 2), (u64::MAX, 0), (998, 2)]);
    let reply = bench.ask(&Ata::new(EW, 0x06, 1, 0).frame(1, &data)).unwrap();
    assert_eq!(status(&reply), (0x40, 0, 0));
    let mut expected = MemoryDisk::new(SECTORS).bytes;
    expected[10 * 512..12 * 512].fill(0);
    expected[998 * 512..].fill(0);
    assert!(bench.disk.bytes == expected);
}

#[test]
fn one_bad_range_spoils_the_whole_trim() {
    let mut bench = trimming(TrimSupport::Plain);
    for bad in [(999, 2), (1000, 1), ((1 << 48) - 1, 0xffff)] {
        let data = trim_data(&[(0, 10), bad]);
        let reply = bench.ask(&Ata::new(EW, 0x06, 1, 0).frame(1, &data)).unwrap();
        assert_eq!(status(&reply), (0x41, 0x10, 1));
    }
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
}

#[test]
fn trim_must_be_offered_and_complete() {
    let data = trim_data(&[(0, 10)]);
    let mut none = Bench::new();
    let reply = none.ask(&Ata::new(EW, 0x06, 1, 0).frame(1, &data)).unwrap();
    assert_eq!(status(&reply), (0x41, 0x04, 1));
    let mut bench = trimming(TrimSupport::Plain);
    for (flags, count, feature, len) in
        [(E, 1, 1, 512), (EW, 1, 0, 512), (EW, 1, 3, 512), (EW, 0, 1, 512), (EW, 2, 1, 1023)]
    {
        let mut data = data.clone();
        data.resize(len, 0);
        let reply = bench.ask(&Ata::new(flags, 0x06, count, 0).frame(feature, &data)).unwrap();
        assert_eq!(status(&reply), (0x41, 0x04, count));
    }
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
    let mut longer = data;
    longer.extend_from_slice(&[0xff; 512]);
    let reply = bench.ask(&Ata::new(1, 0x06, 1, 0).frame(1, &longer)).unwrap();
    assert_eq!(status(&reply), (0x40, 0, 0), "without E, with surplus");
}

#[test]
fn replies_tell_where_data_goes() {
    let mut bench = Bench::new();
    let frame = Ata::new(E, 0x24, 2, 5).frame(0, &[]);
    let request = Incoming::parse(&frame, OWN).unwrap();
    let Action::Read { range, reply } = bench.target.handle(&request, bench.link) else {
        panic!("not a read");
    };
    assert_eq!((range.lba(), range.count()), (5, 2));
    assert_eq!(reply.data_range(), 36..36 + 1024);
    assert_eq!((reply.len_ok(), reply.dst()), (1060, ALICE));
    let mut buf = [0xa5; 1100];
    assert_eq!(reply.emit_ok(&mut buf), Ok(1060));
    assert_eq!(buf[..36], reply.header_ok());
    assert_eq!(buf[36..], [0xa5; 1064], "the data is the caller's");
    assert_eq!(reply.emit_ok(&mut buf[..1059]), Err(BufferTooSmall { needed: 1060 }));
    let short = &mut buf[..59];
    assert_eq!(
        reply.emit_error(short, AtaError::Uncorrectable, 2),
        Err(BufferTooSmall { needed: 60 })
    );
}

#[test]
fn write_data_is_lent_from_the_frame() {
    let mut bench = Bench::new();
    let frame = Ata::new(EW, 0x34, 1, 5).frame(0, &[0x77; 600]);
    let request = Incoming::parse(&frame, OWN).unwrap();
    let Action::Write { data, durable, reply, .. } = bench.target.handle(&request, bench.link)
    else {
        panic!("not a write");
    };
    assert_eq!(data.as_ptr(), frame[36..].as_ptr());
    assert_eq!(data.len(), 512);
    assert!(!durable);
    assert_eq!((reply.data_range(), reply.len_ok()), (36..36, 60));
}

#[test]
fn a_small_buffer_does_nothing_to_the_disk() {
    let mut bench = Bench::new();
    for frame in [
        Ata::new(EW, 0x34, 1, 0).frame(0, &[0x77; 512]),
        Ata::new(E, 0x24, 1, 0).frame(0, &[]),
        Ata::new(E, 0x42, 1, 0).frame(0, &[]),
        Ata::new(0, 0xea, 1, 0).frame(0, &[]),
    ] {
        let request = Incoming::parse(&frame, OWN).unwrap();
        let action = bench.target.handle(&request, bench.link);
        assert!(serve(&bench.target, action, &mut bench.disk, &mut [0; 59]).is_err());
    }
    assert_eq!(bench.disk.bytes, MemoryDisk::new(SECTORS).bytes);
    assert_eq!(bench.disk.flushes, 0);
}
