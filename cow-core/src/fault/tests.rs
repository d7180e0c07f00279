//! The rules of the module, one by one.

use std::vec;
use std::vec::Vec;

use super::*;

fn write(offset: u64, bytes: &[u8]) -> Change {
    Change::Write { offset, data: bytes.into() }
}

fn read(storage: &FaultyStorage, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    storage.read_at(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_was_synced_is_exact_and_the_rest_is_anything() {
    let mut seen = [0; 3];
    for seed in 0..200 {
        let machine = Machine::new();
        let mut storage = machine.add_medium(8192, 8192, 0);
        storage.write_at(0, &[1; 4096]).unwrap();
        storage.sync().unwrap();
        storage.write_at(0, &[2; 512]).unwrap();
        assert_eq!(read(&storage, 0, 512), [2; 512]);
        storage.write_at(4096, &[3; 1024]).unwrap();
        let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
        let first = read(&cut, 0, 512);
        assert!(first == [1; 512] || first == [2; 512]);
        assert_eq!(read(&cut, 512, 3584), [1; 3584]);
        match read(&cut, 4096, 1024) {
            bytes if bytes == [0; 1024] => seen[0] += 1,
            bytes if bytes == [3; 1024] => seen[1] += 1,
            _ => seen[2] += 1,
        }
        let killed = storage.on(&machine.kill(Tear::Sectors, seed));
        assert_eq!(read(&killed, 0, 512), [2; 512]);
    }
    assert!(seen.iter().all(|n| *n > 10), "lost, kept, torn: {seen:?}");
}

#[test]
fn a_sync_covers_only_what_had_ended_when_it_began() {
    let mut kept = [0; 2];
    for seed in 0..100 {
        let machine = Machine::new();
        let storage = machine.add_medium(4096, 4096, 0);
        let (early, _) = machine.begin(0, write(0, &[1; 512]));
        machine.end(early, Ok(()));
        let (late, _) = machine.begin(0, write(512, &[2; 512]));
        let (sync, _) = machine.begin(0, Change::Sync);
        machine.end(late, Ok(()));
        machine.end(sync, Ok(()));
        let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
        assert_eq!(read(&cut, 0, 512), [1; 512]);
        kept[usize::from(read(&cut, 512, 512) == [2; 512])] += 1;
    }
    assert!(kept.iter().all(|n| *n > 10), "{kept:?}");
}

#[test]
fn a_failed_sync_is_not_made_good_by_a_later_one() {
    let mut lost = 0;
    for seed in 0..100 {
        let machine = Machine::new();
        let mut storage = machine.add_medium(4096, 4096, 0);
        storage.write_at(0, &[1; 512]).unwrap();
        machine.fail_at(machine.begun() + 1, FaultError::Medium);
        assert_eq!(storage.sync(), Err(FaultError::Medium));
        storage.sync().unwrap();
        let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
        lost += usize::from(read(&cut, 0, 512) == [0; 512]);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_write_after_a_sync_survives_the_doom_of_an_older_one() {
    for seed in 0..100 {
        let machine = Machine::new();
        let mut storage = machine.add_medium(4096, 4096, 0);
        storage.write_at(0, &[1; 512]).unwrap();
        machine.fail_at(machine.begun() + 1, FaultError::Medium);
        assert_eq!(storage.sync(), Err(FaultError::Medium));
        storage.write_at(0, &[2; 512]).unwrap();
        storage.sync().unwrap();
        let cut = storage.on(&machine.power_cut(Tear::Sectors, seed));
        assert_eq!(read(&cut, 0, 512), [2; 512], "seed {seed}");
    }
}

#[test]
fn replaying_a_log_gives_the_same_machine() {
    let machine = Machine::new();
    let mut storage = machine.add_medium(10_000, 20_000, 9);
    machine.settle();
    let start = machine.fork();
    storage.extend(12_000).unwrap();
    storage.write_at(500, &[7; 3000]).unwrap();
    storage.punch(1000, 100).unwrap();
    storage.sync().unwrap();
    storage.zero_at(2000, 5000).unwrap();
    for event in machine.log() {
        start.replay(&event);
    }
    let again = storage.on(&start);
    assert_eq!(read(&again, 0, 12_000), read(&storage, 0, 12_000));
    let (a, b) = (machine.power_cut(Tear::Anywhere, 5), start.power_cut(Tear::Anywhere, 5));
    let len = usize::try_from(storage.on(&a).len_bytes().unwrap()).unwrap();
    assert_eq!(read(&storage.on(&a), 0, len), read(&storage.on(&b), 0, len));
}

#[test]
fn windows_and_ends_are_kept() {
    let machine = Machine::new();
    let device = machine.add_medium(4096, 4096, 3);
    let mut window = device.window(512, 1024);
    assert_eq!(window.len_bytes(), Ok(1024));
    window.write_at(0, &[9; 1024]).unwrap();
    assert_eq!(read(&device, 512, 1024), [9; 1024]);
    assert_eq!(window.write_at(1, &[0; 1024]), Err(FaultError::OutOfRange { len: 1024 }));
    assert_eq!(window.extend(1025), Err(FaultError::NoSpace));
    let mut all = device.clone();
    assert_eq!(all.write_at(4000, &[0; 100]), Err(FaultError::OutOfRange { len: 4096 }));
    machine.set_full(true);
    assert_eq!(all.write_at(0, &[0]), Err(FaultError::NoSpace));
}
