//! The store below the real engine and its blocking driver, against a flat array.

use std::vec;
use std::vec::Vec;

use super::{Medium, Random, content, extent, pool, tags_on};
use crate::blocking::Blocking;
use crate::engine::{Durability, Engine, Kind, Lent, Operation, Output, Request, RequestId};
use crate::format::dm_snapshot::{Writable, check, create, index_needed, load_index, open};
use crate::format::raw::Raw;
use crate::format::{IndexEntry, Layer, Top};
use crate::pages::StorageKey;
use crate::units::Lba;

const BASE: StorageKey = StorageKey(1);

fn base(disk: u64) -> Medium {
    let mut medium = Medium::new(disk);
    for lba in 0..disk {
        medium.put(lba, &content(lba, 0));
    }
    medium
}

fn step(
    chain: &mut Blocking<'_, '_, [Medium], 8>,
    model: &mut [u8],
    random: &mut Random,
    chunk: u64,
    tag: u32,
) {
    let disk = model.len() as u64 / 512;
    let start = random.below(disk);
    let sectors = (1 + random.below(chunk * 3)).min(disk - start);
    let target = extent(start, sectors);
    let bytes =
        usize::try_from(start * 512).unwrap()..usize::try_from(target.end().bytes()).unwrap();
    match random.below(10) {
        0..6 => {
            let data: Vec<u8> = (start..start + sectors).flat_map(|l| content(l, tag)).collect();
            model[bytes].copy_from_slice(&data);
            chain.write(Lba::new(start).unwrap(), &data).unwrap();
        }
        6 => {
            model[bytes].fill(0);
            chain.zero(target).unwrap();
        }
        7 => {
            // Zeros where the store holds the chunk, and as before elsewhere: see what it did.
            chain.discard(target).unwrap();
            let mut now = vec![1; bytes.len()];
            chain.read(Lba::new(start).unwrap(), &mut now).unwrap();
            for (now, old) in now.chunks(512).zip(model[bytes.clone()].chunks(512)) {
                assert!(now == old || now == [0; 512]);
            }
            model[bytes].copy_from_slice(&now);
        }
        _ => {
            let mut now = vec![1; bytes.len()];
            chain.read(Lba::new(start).unwrap(), &mut now).unwrap();
            assert!(now == model[bytes], "{target}");
        }
    }
}

#[test]
fn the_engine_keeps_every_byte_over_all_chunk_sizes_and_modes() {
    let durabilities = [Durability::Safe, Durability::Writeback, Durability::Ephemeral];
    for (round, chunk) in [1_u32, 2, 4, 8, 16, 64, 128].into_iter().enumerate() {
        let disk = (u64::from(chunk) * 300).min(6000) - u64::from(chunk) / 2;
        let mut store = Medium::new(u64::from(chunk) * 400);
        create(&mut store, chunk).unwrap();
        let mut storages = [store, base(disk)];
        let mut model: Vec<u8> = (0..disk).flat_map(|lba| content(lba, 0)).collect();
        let mut random = Random(900 + u64::from(chunk));
        let mut tag = 0;
        for reopened in 0..4 {
            let mut scratch = [0; 4096];
            let opened = open(&storages[0], disk, &mut scratch).unwrap();
            assert_eq!(opened.stale(), None);
            let entries = index_needed(opened.geometry().capacity());
            let mut index = vec![IndexEntry::EMPTY; usize::try_from(entries).unwrap()];
            let loaded = load_index(&storages[0], &opened, &mut index, &mut scratch).unwrap();
            let top = Writable::new(StorageKey(0), &loaded).unwrap();
            let durability = durabilities[(round + reopened) % 3];
            let mut engine =
                Engine::<8>::new(Some(Top::DmSnapshot(top)), disk, durability).unwrap();
            let layers = [Layer::Raw(Raw::new(BASE, disk * 512).unwrap())];
            let mut pages = pool(2 + reopened);
            let mut chain = Blocking {
                engine: &mut engine,
                lent: Lent { pages: &mut pages, layers: &layers, index: &mut index },
                storages: &mut storages[..],
            };
            for _ in 0..120 {
                tag += 1;
                step(&mut chain, &mut model, &mut random, u64::from(chunk), tag);
            }
            let mut all = vec![1; model.len()];
            chain.read(Lba::ZERO, &mut all).unwrap();
            assert!(all == model, "chunk {chunk}");
            chain.flush().unwrap();
            assert!(engine.is_idle() && !engine.is_dirty());
            let mut found = Vec::new();
            let report =
                check(&storages[0], disk, &mut index, &mut scratch, |f| found.push(f)).unwrap();
            assert_eq!(found, []);
            assert_eq!(report.exceptions, storages[0].list().len() as u64);
        }
        // The store alone, read as a layer.
        let mut seen = 0;
        let opened = open(&storages[0], disk, &mut [0; 512]).unwrap();
        for (old, new) in storages[0].list() {
            let bytes = u64::from(chunk) * 512;
            let from = usize::try_from(old * bytes).unwrap();
            let len = (model.len() - from).min(usize::try_from(bytes).unwrap());
            assert!(storages[0].bytes(new * bytes, len) == model[from..from + len]);
            seen += 1;
        }
        assert!(seen == opened.exceptions() && seen > 20, "chunk {chunk}: {seen}");
    }
}

#[test]
fn one_request_over_more_chunks_than_a_commit_takes() {
    let disk = 1000;
    let mut store = Medium::new(1200);
    create(&mut store, 1).unwrap();
    let mut storages = [store, base(disk)];
    let mut scratch = [0; 512];
    let opened = open(&storages[0], disk, &mut scratch).unwrap();
    let mut index = vec![IndexEntry::EMPTY; 2000];
    let loaded = load_index(&storages[0], &opened, &mut index, &mut scratch).unwrap();
    let top = Writable::new(StorageKey(0), &loaded).unwrap();
    let mut engine = Engine::<8>::new(Some(Top::DmSnapshot(top)), disk, Durability::Safe).unwrap();
    let layers = [Layer::Raw(Raw::new(BASE, disk * 512).unwrap())];
    let mut pages = pool(2);
    let mut chain = Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pages, layers: &layers, index: &mut index },
        storages: &mut storages[..],
    };
    let data: Vec<u8> = (0..disk).flat_map(|lba| content(lba, 5)).collect();
    chain.write(Lba::ZERO, &data).unwrap();
    let (opened, tags) = tags_on(&storages[0], disk);
    assert_eq!(opened.exceptions(), 1000);
    assert!(tags.iter().all(|&tag| tag == 5));
}

/// What the engine asks of the overlay's storage for one request.
fn changes(engine: &mut Engine<8>, lent: &mut Lent<'_, '_>, request: Request) -> Vec<Operation> {
    engine.submit(RequestId(1), request).unwrap();
    let mut operations = Vec::new();
    while let Some(output) = engine.poll(lent) {
        match output {
            Output::Operation(o) => {
                engine.complete(lent, o.ticket, Ok(()));
                if o.kind != Kind::Sync && o.storage == StorageKey(0) {
                    operations.push(o);
                }
            }
            Output::Done { result, .. } => assert_eq!(result, Ok(())),
            _ => {}
        }
    }
    operations
}

/// A chunk of 64 sectors around one written sector, over a base of 20 sectors: what lies behind the
/// base is made zero in one go, only the rest goes through pages, a page at a time.
#[test]
fn zeros_around_a_write_are_filled_without_a_page() {
    let mut store = Medium::new(64 * 40);
    create(&mut store, 64).unwrap();
    let opened = open(&store, 1000, &mut [0; 512]).unwrap();
    let mut index = vec![IndexEntry::EMPTY; 256];
    let loaded = load_index(&store, &opened, &mut index, &mut [0; 512]).unwrap();
    let top = Top::DmSnapshot(Writable::new(StorageKey(0), &loaded).unwrap());
    let mut engine = Engine::<8>::new(Some(top), 1000, Durability::Ephemeral).unwrap();
    let mut pages = pool(2);
    let layers = [Layer::Raw(Raw::new(BASE, 20 * 512).unwrap())];
    let mut lent = Lent { pages: &mut pages, layers: &layers, index: &mut index };
    let mut of = |start, sectors| {
        let request = Request::Write { extent: extent(start, sectors), durable: false };
        let seen = changes(&mut engine, &mut lent, request);
        let told = seen.iter().filter(|o| o.offset >= 2 * 64 * 512);
        told.map(|o| (o.kind, o.offset / 512 % 64, o.len / 512)).collect::<Vec<_>>()
    };
    let (write, zero) = (Kind::Write, Kind::Zero);
    assert_eq!(
        of(40, 2),
        [
            (write, 40, 2),
            (write, 0, 8),
            (write, 8, 8),
            (write, 16, 8),
            (zero, 24, 16),
            (zero, 42, 22)
        ]
    );
    assert_eq!(of(64, 1), [(write, 0, 1), (zero, 1, 63)]);
    assert_eq!(of(70, 1), [(write, 6, 1)]);
    // The end of the disk is within a chunk.
    assert_eq!(of(999, 1), [(write, 39, 1), (zero, 0, 39)]);
}
