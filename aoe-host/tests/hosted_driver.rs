//! The hosted driver on real files, devices and file systems. It is a program of its own because some
//! tests start others: a child holds the locks of its parent until it has become another program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail like the test")]

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aoe_host::server::io::{Completion, IoDriver, Job, Memory, Run};
use aoe_host::storage::{Access, ColdReads, FileOptions, FileStorage, HostedDriver, WorkerCounts};
use cow_core::blocking::Storages;
use cow_core::engine::{
    Buffer, Engine, IoFailure, Kind, Lent, Operation, Output, Request, RequestId,
};
use cow_core::format::Layer;
use cow_core::format::raw::Raw;
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::Extent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Operations are made by an engine only: this one asks for one read of `sectors` from `lba`.
fn read_operation(key: StorageKey, len: u64, lba: u64, sectors: u64) -> Operation {
    let (mut pages, mut frames) = (vec![Page::ZERO; 2], vec![Frame::EMPTY; 2]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let layers = [Layer::Raw(Raw::new(key, len).unwrap())];
    let mut engine: Engine<1> =
        Engine::new(None, len.div_ceil(512), cow_core::engine::Durability::Ephemeral).unwrap();
    engine.submit(RequestId(0), Request::Read(Extent::new(lba, sectors).unwrap())).unwrap();
    let mut lent = Lent { pages: &mut pool, layers: &layers, index: &mut [] };
    match engine.poll(&mut lent) {
        Some(Output::Operation(operation)) => operation,
        other => panic!("{other:?}"),
    }
}

fn with(operation: Operation, kind: Kind, offset: u64, len: u64) -> Operation {
    Operation { kind, offset, len, ..operation }
}

fn job(operation: &Operation) -> Job {
    Job { disk: 7, ticket: operation.ticket, buffer: Buffer::None }
}

/// Waits until something has ended; how much had.
fn wait_for(driver: &mut HostedDriver, sink: &mut dyn FnMut(Completion)) -> usize {
    let (mut ended, begun) = (0, Instant::now());
    while ended == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing was reported");
        if !driver.submit() {
            let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
            let fd = driver.poll_fd();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
        }
        driver.drain(&mut |completion| {
            ended += 1;
            sink(completion);
        });
    }
    ended
}

fn wait(driver: &mut HostedDriver) -> Completion {
    let mut found = None;
    wait_for(driver, &mut |completion| found = Some(completion));
    found.unwrap()
}

fn open(path: &Path, direct: bool) -> FileStorage {
    let options = FileOptions { access: Access::ReadWrite, direct, ..FileOptions::default() };
    FileStorage::open(path, &options).unwrap_or_else(|e| panic!("{}", e.report()))
}

/// Reads through the driver, at once or later.
fn read(driver: &mut HostedDriver, operation: &Operation) -> (Vec<u8>, bool) {
    let mut buf = vec![0xa5; usize::try_from(operation.len).unwrap()];
    if let Some(result) = driver.start(job(operation), operation, Memory::Into(&mut buf)) {
        assert_eq!(result, Ok(()));
        return (buf, true);
    }
    let completion = wait(driver);
    assert_eq!((completion.job, completion.result), (job(operation), Ok(())));
    (completion.data.unwrap(), false)
}

fn every_kind_of_operation(path: &Path, direct: bool) {
    fs::write(path, vec![1; 1 << 20]).unwrap();
    let mut driver = HostedDriver::new(WorkerCounts { data: 2, slow: 2 }).unwrap();
    let key = driver.files_mut().add(open(path, direct));
    let base = read_operation(key, 1 << 20, 0, 16);

    let write = with(base, Kind::Write, 512, 1024);
    let data = vec![2; 1024];
    let started = driver.start(job(&write), &write, Memory::From(&data));
    assert_eq!(started.is_some(), !direct);
    assert_eq!(started.unwrap_or_else(|| wait(&mut driver).result), Ok(()));
    let (bytes, _) = read(&mut driver, &base);
    assert!(bytes[..512].iter().all(|b| *b == 1) && bytes[512..1536].iter().all(|b| *b == 2));
    assert!(bytes[1536..].iter().all(|b| *b == 1));

    for kind in [Kind::Zero, Kind::Punch, Kind::Sync] {
        let operation = with(base, kind, 4096, 4096);
        assert_eq!(driver.start(job(&operation), &operation, Memory::None), None);
        assert_eq!(driver.under_way(), 1);
        let completion = wait(&mut driver);
        assert_eq!((completion.result, completion.data.is_none()), (Ok(()), true));
        assert_eq!(driver.under_way(), 0);
    }
    let (bytes, _) = read(&mut driver, &base);
    assert!(bytes[1536..4096].iter().all(|b| *b == 1) && bytes[4096..].iter().all(|b| *b == 0));
    assert_eq!(driver.files().get(key).unwrap().len_bytes().unwrap(), 1 << 20);

    let behind = with(base, Kind::Read, 1 << 20, 512);
    let result = driver.start(job(&behind), &behind, Memory::Into(&mut [0; 512]));
    assert_eq!(result.unwrap_or_else(|| wait(&mut driver).result), Err(IoFailure::Medium));
    let failure = driver.files().get(key).unwrap().take_failure().unwrap().to_string();
    assert!(failure.contains("ends before") && failure.contains("1048576"), "{failure}");
    // Memory of another size than the operation says is a defect that costs nothing.
    let odd = driver.start(job(&base), &base, Memory::Into(&mut [0; 5]));
    assert_eq!(odd, Some(Err(IoFailure::Medium)));
    driver.files_mut().remove(key).unwrap();
    assert_eq!(driver.start(job(&base), &base, Memory::None), Some(Err(IoFailure::Medium)));
}

#[test]
fn on_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    every_kind_of_operation(file.path(), false);
}

/// A file that can be accessed past the page cache, or a printed reason why there is none.
fn direct_file(test: &str) -> Option<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = FileOptions { direct: true, ..FileOptions::default() };
    match FileStorage::open(file.path(), &options) {
        Ok(_) => Some(file),
        Err(error) => {
            assert!(error.to_string().contains("--direct"), "{error}");
            println!("SKIP: {test}: {error}");
            None
        }
    }
}

#[test]
fn past_the_page_cache() {
    if let Some(file) = direct_file("past_the_page_cache") {
        every_kind_of_operation(file.path(), true);
    }
}

/// Taken by tests that start programs: a child that has not become another program yet would keep
/// the devices of other tests busy.
static STARTING: Mutex<()> = Mutex::new(());

/// A block device over a file, for as long as this lives.
struct LoopDevice(String);

impl LoopDevice {
    fn attach(file: &Path, unit: &str) -> Option<Self> {
        let mut command = std::process::Command::new("losetup");
        let output = command.args(["--find", "--show", "--sector-size", unit]).arg(file).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(Self(String::from_utf8(output.stdout).ok()?.trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(detached.unwrap().success());
    }
}

#[test]
fn on_block_devices() {
    let _alone = STARTING.lock().unwrap();
    for (unit, direct) in [("512", false), ("512", true), ("4096", false), ("4096", true)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let Some(device) = LoopDevice::attach(file.path(), unit) else {
            println!("SKIP: on_block_devices: losetup cannot make a device of {unit}-byte units");
            continue;
        };
        every_kind_of_operation(Path::new(&device.0), direct);
        let first = open(Path::new(&device.0), direct);
        assert!(first.is_device());
        let options = FileOptions { access: Access::ReadWrite, ..FileOptions::default() };
        let second = FileStorage::open(&device.0, &options).unwrap_err();
        assert!(second.to_string().contains("the system uses the device"), "{second}");
        let mut storage = first;
        assert!(storage.extend(1 << 20).is_ok());
        assert!(storage.extend((1 << 20) + 1).unwrap_err().to_string().contains("cannot grow"));
    }
}

#[test]
fn sectors_of_one_unit_written_at_once_keep_each_other() {
    let Some(file) = direct_file("sectors_of_one_unit_written_at_once_keep_each_other") else {
        return;
    };
    fs::write(file.path(), vec![0; 64 << 10]).unwrap();
    let mut driver = HostedDriver::new(WorkerCounts { data: 4, slow: 1 }).unwrap();
    let key = driver.files_mut().add(open(file.path(), true));
    let base = read_operation(key, 64 << 10, 0, 128);
    for round in 1..=20_u8 {
        for sector in 0..128_u64 {
            let write = with(base, Kind::Write, sector * 512, 512);
            let data = [round.wrapping_add(u8::try_from(sector).unwrap()); 512];
            assert_eq!(driver.start(job(&write), &write, Memory::From(&data)), None);
        }
        while driver.under_way() > 0 {
            driver.drain(&mut |completion| assert_eq!(completion.result, Ok(())));
            std::thread::yield_now();
        }
        let (bytes, _) = read(&mut driver, &base);
        for (sector, bytes) in bytes.chunks(512).enumerate() {
            let expected = round.wrapping_add(u8::try_from(sector).unwrap());
            assert!(bytes.iter().all(|b| *b == expected), "round {round}, sector {sector}");
        }
    }
}

/// A driver for each way of reading what is not in memory, as far as this system has them.
fn both_ways(test: &str) -> impl Iterator<Item = HostedDriver> {
    [ColdReads::Auto, ColdReads::Threads].into_iter().filter_map(move |way| {
        let driver = HostedDriver::with_cold_reads(WorkerCounts::default(), way).unwrap();
        let by_ring = driver.cold_reads() == "io_uring";
        if way == ColdReads::Auto && !by_ring {
            println!("SKIP: {test}: {}", driver.cold_reads());
            return None;
        }
        assert_eq!(by_ring, way == ColdReads::Auto);
        Some(driver)
    })
}

/// A file of `pages` pages that say their number, of which none is in memory.
fn numbered_pages(pages: u64) -> (tempfile::NamedTempFile, FileStorage) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..pages).flat_map(|page| page.to_be_bytes().repeat(512)).collect();
    fs::write(file.path(), bytes).unwrap();
    let storage = open(file.path(), false);
    storage.sync_data().unwrap();
    rustix::fs::fadvise(storage.file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    (file, storage)
}

#[test]
fn cold_reads_leave_the_loop_and_warm_ones_do_not() {
    let test = "cold_reads_leave_the_loop_and_warm_ones_do_not";
    for mut driver in both_ways(test) {
        let (_kept, storage) = numbered_pages(256);
        let key = driver.files_mut().add(storage);
        let operation = read_operation(key, 1 << 20, 8, 16);
        let expected = [1_u64.to_be_bytes().repeat(512), 2_u64.to_be_bytes().repeat(512)].concat();
        let (bytes, at_once) = read(&mut driver, &operation);
        assert!(bytes == expected);
        if at_once {
            println!("SKIP: {test}: the page cache kept it");
            return;
        }
        let (bytes, at_once) = read(&mut driver, &operation);
        assert!(bytes == expected);
        if !at_once {
            println!("SKIP: {test}: no RWF_NOWAIT here");
        }
    }
}

#[test]
fn more_cold_reads_than_the_medium_takes_at_once_all_end_right() {
    const PAGES: u64 = 1000;
    for mut driver in both_ways("more_cold_reads_than_the_medium_takes_at_once_all_end_right") {
        let (_kept, storage) = numbered_pages(PAGES);
        let key = driver.files_mut().add(storage);
        let base = read_operation(key, PAGES * 4096, 0, 8);
        let (mut open, mut later) = (std::collections::BTreeMap::new(), 0);
        for n in 0..PAGES {
            let page = n * 37 % PAGES;
            let operation = with(base, Kind::Read, page * 4096, 4096);
            let whose = Job { disk: u32::try_from(page).unwrap(), ..job(&operation) };
            let mut buf = vec![0; 4096];
            match driver.start(whose, &operation, Memory::Into(&mut buf)) {
                Some(result) => {
                    assert_eq!(result, Ok(()));
                    assert!(buf == page.to_be_bytes().repeat(512), "page {page}");
                }
                None => drop(open.insert(whose.disk, page)),
            }
        }
        assert_eq!(driver.under_way(), open.len());
        while !open.is_empty() {
            later += wait_for(&mut driver, &mut |done| {
                let page = open.remove(&done.job.disk).unwrap();
                assert_eq!(done.result, Ok(()));
                assert!(done.data.unwrap() == page.to_be_bytes().repeat(512), "page {page}");
            });
        }
        assert_eq!(driver.under_way(), 0);
        println!("{later} of {PAGES} ended later: {}", driver.cold_reads());
    }
}

/// What ends before it should is told as by a plain read, whoever did it.
#[test]
fn cold_reads_behind_the_end_fail_like_warm_ones() {
    for mut driver in both_ways("cold_reads_behind_the_end_fail_like_warm_ones") {
        let (_kept, storage) = numbered_pages(64);
        let key = driver.files_mut().add(storage.clone());
        let base = read_operation(key, 1 << 20, 0, 8);
        let crossing = with(base, Kind::Read, 63 * 4096, 8192);
        let mut buf = vec![0; 8192];
        let started = driver.start(job(&crossing), &crossing, Memory::Into(&mut buf));
        let result = started.unwrap_or_else(|| wait(&mut driver).result);
        assert_eq!(result, Err(IoFailure::Medium));
        let failure = storage.take_failure().unwrap().to_string();
        assert!(failure.contains("ends before") && failure.contains("262144"), "{failure}");
    }
}

/// Who goes away while reads are under way takes nothing along that is still written to.
#[test]
fn a_driver_may_be_dropped_while_reads_are_under_way() {
    for mut driver in both_ways("a_driver_may_be_dropped_while_reads_are_under_way") {
        let (_kept, storage) = numbered_pages(512);
        let key = driver.files_mut().add(storage);
        let base = read_operation(key, 512 * 4096, 0, 8);
        for page in (0..512).step_by(5) {
            let operation = with(base, Kind::Read, page * 4096, 4096);
            let mut buf = vec![0; 4096];
            let started = driver.start(job(&operation), &operation, Memory::Into(&mut buf));
            assert!(started.is_none_or(|result| result == Ok(())));
        }
        driver.submit();
        driver.files_mut().remove(key).unwrap();
    }
}

#[test]
fn writes_into_cold_pages_leave_the_loop() {
    use rustix::fs::Advice;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![3; 1 << 20]).unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let mut driver = HostedDriver::new(WorkerCounts::default()).unwrap();
    let storage = open(file.path(), false);
    storage.sync_data().unwrap();
    let key = driver.files_mut().add(storage.clone());
    let base = read_operation(key, 2 << 20, 0, 16);
    let mut write = |offset: u64, len: u64| {
        let operation = with(base, Kind::Write, offset, len);
        let data = vec![9; usize::try_from(len).unwrap()];
        let started = driver.start(job(&operation), &operation, Memory::From(&data));
        let at_once = started.is_some();
        assert_eq!(started.unwrap_or_else(|| wait(&mut driver).result), Ok(()));
        at_once
    };
    let cool = || rustix::fs::fadvise(storage.file(), 0, None, Advice::DontNeed).unwrap();
    cool();
    if write(512, 512) {
        println!("SKIP: writes_into_cold_pages_leave_the_loop: the page cache kept it");
        return;
    }
    assert!(write(1024, 512), "the page is warm now");
    assert!(write(8192, 4096) && write(12_288, 8192), "whole pages are never read");
    assert!(!write(40_960 - 512, 512 + 4096 + 512), "one edge is cold");
    assert!(write((1 << 20) + 512, 512) && write((1 << 20) + 5000, 9000), "holes are not read");
    let bytes = fs::read(file.path()).unwrap();
    assert!(bytes[512..1536].iter().all(|b| *b == 9) && bytes[1536..8192].iter().all(|b| *b == 3));
    assert!(bytes[40_448..45_568].iter().all(|b| *b == 9));
    assert_eq!((bytes[40_447], bytes[45_568]), (3, 3));
    assert!(bytes[(1 << 20) + 512..(1 << 20) + 1024].iter().all(|b| *b == 9));
    assert_eq!((bytes[(1 << 20) + 511], bytes[(1 << 20) + 1024]), (0, 0));
}

/// Four writes of 1 KiB, side by side from `offset` on. How many ended at once.
fn write_run(driver: &mut HostedDriver, base: Operation, offset: u64, paint: u8) -> usize {
    let operations: Vec<Operation> =
        (0..4).map(|n| with(base, Kind::Write, offset + 1024 * n, 1024)).collect();
    let bytes: Vec<Vec<u8>> = (0..4).map(|n| vec![paint + n; 1024]).collect();
    let data: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let mut started = [Some(Err(IoFailure::Medium)); 4];
    driver.start_run(&Run { disk: 7, operations: &operations, data: &data }, &mut started);
    assert!(started.iter().flatten().all(Result::is_ok), "{started:?}");
    let later = started.iter().filter(|started| started.is_none()).count();
    assert_eq!(driver.under_way(), later);
    let mut ended = Vec::new();
    while driver.under_way() > 0 {
        driver.drain(&mut |completion| ended.push(completion));
        std::thread::yield_now();
    }
    assert!(ended.iter().all(|c| c.result == Ok(()) && c.job.disk == 7), "{ended:?}");
    assert_eq!(ended.len(), later);
    4 - later
}

#[test]
fn runs_are_written_at_once_unless_an_edge_is_cold() {
    use rustix::fs::Advice;
    for direct in [false, true] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![0; 1 << 20]).unwrap();
        let options = FileOptions { access: Access::ReadWrite, direct, ..FileOptions::default() };
        let Ok(storage) = FileStorage::open(file.path(), &options) else {
            println!(
                "SKIP: runs_are_written_at_once_unless_an_edge_is_cold: no direct access here"
            );
            continue;
        };
        storage.sync_data().unwrap();
        let mut driver = HostedDriver::new(WorkerCounts::default()).unwrap();
        let key = driver.files_mut().add(storage.clone());
        let base = read_operation(key, 1 << 20, 0, 16);
        rustix::fs::fadvise(storage.file(), 0, None, Advice::DontNeed).unwrap();
        let cold = write_run(&mut driver, base, 512, 10);
        let warm = write_run(&mut driver, base, 512, 20);
        let whole = write_run(&mut driver, base, 16_384, 30);
        if direct {
            assert_eq!((cold, warm, whole), (0, 0, 0));
        } else if cold > 0 {
            println!(
                "SKIP: runs_are_written_at_once_unless_an_edge_is_cold: the page cache kept it"
            );
        } else {
            assert_eq!((warm, whole), (4, 4));
        }
        let bytes = fs::read(file.path()).unwrap();
        for (offset, paint) in [(512, 20), (16_384, 30)] {
            for (n, piece) in (0_u8..4).zip(bytes[offset..].chunks(1024)) {
                assert!(piece.iter().all(|byte| *byte == paint + n), "{offset}: {n}");
            }
        }
        assert!(bytes[..512].iter().chain(&bytes[20_480..]).all(|byte| *byte == 0));
    }
}

#[test]
fn an_unsound_run_writes_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![0; 1 << 20]).unwrap();
    let mut driver = HostedDriver::new(WorkerCounts::default()).unwrap();
    let key = driver.files_mut().add(open(file.path(), false));
    let base = read_operation(key, 1 << 20, 0, 16);
    let write = |offset| with(base, Kind::Write, offset, 512);
    let bytes = [7; 1024];
    for (operations, len) in [([write(0), write(1024)], 512), ([write(0), write(512)], 1024)] {
        let data = [&bytes[..512], &bytes[..len]];
        let mut started = [None; 2];
        driver.start_run(&Run { disk: 7, operations: &operations, data: &data }, &mut started);
        assert_eq!(started, [Some(Err(IoFailure::Medium)); 2]);
    }
    assert!(fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn spawned_tasks_ring_even_when_they_panic() {
    let mut driver = HostedDriver::new(WorkerCounts { data: 1, slow: 1 }).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    for round in 0..20 {
        let counter = Arc::clone(&done);
        driver.spawn(Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            if round % 5 == 4 {
                std::panic::resume_unwind(Box::new("on purpose, and without a message"));
            }
        }));
        let begun = Instant::now();
        while done.load(Ordering::SeqCst) <= round {
            assert!(begun.elapsed() < Duration::from_secs(30));
            let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
            let fd = driver.poll_fd();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
            driver.drain(&mut |_| panic!("a task is no operation"));
        }
    }
}

#[test]
fn a_full_file_system_is_told_apart_from_a_broken_one() {
    const VARIABLE: &str = "COWBLADE_TEST_SMALL_TMPFS";
    let name = "a_full_file_system_is_told_apart_from_a_broken_one";
    if let Some(dir) = std::env::var_os(VARIABLE) {
        return fill_up(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    // A mount of one mebibyte that nobody but this child of ours sees.
    let script = format!(
        "mount -t tmpfs -o size=1m none '{0}' && exec '{1}' --exact {name} --nocapture",
        dir.path().display(),
        std::env::current_exe().unwrap().display()
    );
    let _alone = STARTING.lock().unwrap();
    let mut child = std::process::Command::new("unshare");
    child.args(["-m", "sh", "-c", &script]).env(VARIABLE, dir.path());
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: {name}: mounting needs root");
        return;
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("filled up"), "{output:?}");
}

fn fill_up(dir: &Path) {
    let path = dir.join("full");
    fs::write(&path, b"").unwrap();
    let mut storage = open(&path, false);
    storage.extend(64 << 20).unwrap();
    let mut driver = HostedDriver::new(WorkerCounts::default()).unwrap();
    let key = driver.files_mut().add(storage.clone());
    let base = read_operation(key, 64 << 20, 0, 16);
    let data = vec![1; 1 << 20];
    let write = with(base, Kind::Write, 0, 1 << 20);
    let mut results = Vec::new();
    for piece in 0..3 {
        let write = with(write, Kind::Write, piece << 20, 1 << 20);
        results.push(driver.start(job(&write), &write, Memory::From(&data)).unwrap());
    }
    assert!(results.contains(&Err(IoFailure::Full)), "{results:?}");
    assert!(storage.take_failure().unwrap().is_full());
    // Giving room back makes the next write possible.
    Storages::punch(driver.files_mut(), key, 0, 64 << 20).unwrap();
    assert_eq!(Storages::write(driver.files_mut(), key, 0, &data[..4096]), Ok(()));
    println!("filled up");
}

#[test]
fn in_memory() {
    let Ok(file) = tempfile::NamedTempFile::new_in("/dev/shm") else {
        println!("SKIP: in_memory: no /dev/shm");
        return;
    };
    every_kind_of_operation(file.path(), false);
    let mut driver = HostedDriver::new(WorkerCounts::default()).unwrap();
    let key = driver.files_mut().add(open(file.path(), false));
    let (_, at_once) = read(&mut driver, &read_operation(key, 1 << 20, 0, 16));
    assert!(at_once, "a file in memory is never read by a thread");
}
