//! What a write costs in storage operations, counted: the data, and one page of metadata for a whole
//! batch of first writes; nothing is copied.
//!
//! For comparison, a store of dm-snapshot with chunks of 64 sectors reads 64 sectors and writes 129 or
//! more, with 2 flushes, for each first write.

use aoe_host::server::Durability;
use system_tests::frames::{Registers, command};
use system_tests::memory_edge::{MemoryServer, Traffic};

const PAGE_LEN: u64 = 4096;
/// What the server takes from a link at once.
const BATCH: u64 = 16;

/// A server whose overlay holds one sector already, so that its page of metadata is in use.
fn server(durability: Durability) -> MemoryServer {
    let mut server = MemoryServer::new(1, durability);
    write(&mut server, 0..1, 1);
    server
}

/// Writes `sectors` sectors at each of these multiples of 8 sectors, all at once, and tells what it
/// took.
fn write(server: &mut MemoryServer, places: core::ops::Range<u64>, sectors: u8) -> Traffic {
    let data = vec![7; usize::from(sectors) * 512];
    let frames: Vec<Vec<u8>> = places
        .map(|place| {
            let argument = Registers::write(8 * place, sectors).with(&data);
            MemoryServer::frame(0, command::ATA, &argument)
        })
        .collect();
    server.take_traffic();
    assert_eq!(server.turn(&frames).0, frames.len(), "every write is answered at once");
    server.take_traffic()
}

/// The data of a batch of writes of 4 KiB side by side: one call.
fn together() -> Traffic {
    Traffic { data_writes: BATCH, data_bytes: BATCH * 4096, data_calls: 1, ..Traffic::default() }
}

#[test]
fn a_first_write_costs_its_data_and_one_page() {
    for (sectors, bytes) in [(1, 512), (8, 4096)] {
        let took = write(&mut server(Durability::Safe), 5..6, sectors);
        let expected = Traffic {
            data_writes: 1,
            data_bytes: bytes,
            data_calls: 1,
            page_writes: 1,
            page_bytes: PAGE_LEN,
            syncs: 2,
            ..Traffic::default()
        };
        assert_eq!(took, expected, "{sectors} sectors");
    }
}

#[test]
fn a_batch_of_first_writes_shares_the_page_and_the_syncs() {
    for (sectors, bytes) in [(1, 512), (8, 4096)] {
        let took = write(&mut server(Durability::Safe), 5..5 + BATCH, sectors);
        let expected = Traffic {
            data_writes: BATCH,
            data_bytes: BATCH * bytes,
            // What lies side by side is written by one call.
            data_calls: if sectors == 8 { 1 } else { BATCH },
            page_writes: 1,
            page_bytes: PAGE_LEN,
            syncs: 2,
            ..Traffic::default()
        };
        assert_eq!(took, expected, "{sectors} sectors");
    }
}

#[test]
fn writing_again_costs_its_data() {
    let mut server = server(Durability::Safe);
    write(&mut server, 5..5 + BATCH, 8);
    let took = write(&mut server, 5..5 + BATCH, 8);
    assert_eq!(took, Traffic { syncs: 1, ..together() });
}

#[test]
fn without_durability_a_write_costs_its_data_whether_first_or_not() {
    for durability in [Durability::Writeback, Durability::Ephemeral] {
        let mut server = server(durability);
        let notes = if durability == Durability::Writeback { BATCH } else { 0 };
        for notes in [notes, 0] {
            let took = write(&mut server, 5..5 + BATCH, 8);
            // What is noted of a batch is noted together.
            let expected = Traffic { notes, note_calls: notes.min(1), ..together() };
            assert_eq!(took, expected, "{durability:?}");
        }
    }
}

#[test]
fn sectors_that_alternate_cost_one_read_of_each_file() {
    let mut server = server(Durability::Ephemeral);
    let every_other: Vec<Vec<u8>> = (0..4)
        .map(|n| {
            let argument = Registers::write(80 + 2 * n, 1).with(&[7; 512]);
            MemoryServer::frame(0, command::ATA, &argument)
        })
        .collect();
    assert_eq!(server.turn(&every_other).0, 4);
    server.take_traffic();
    for (lba, sectors, reads) in [(80, 8, 2), (81, 6, 2), (78, 12, 2), (80, 1, 1), (96, 8, 1)] {
        let read = MemoryServer::frame(0, command::ATA, &Registers::read(lba, sectors).with(&[]));
        assert_eq!(server.turn(&[read]).0, 1);
        let expected = Traffic { reads, ..Traffic::default() };
        assert_eq!(server.take_traffic(), expected, "{sectors} sectors from {lba}");
    }
}

#[test]
fn the_first_write_of_all_prepares_its_page() {
    let mut server = MemoryServer::new(1, Durability::Safe);
    let took = write(&mut server, 5..6, 8);
    assert_eq!((took.data_writes, took.data_bytes), (1, 4096));
    assert!(took.page_writes <= 4 && took.syncs <= 4 && took.reads <= 2, "{took:?}");
}
