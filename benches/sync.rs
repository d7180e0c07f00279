//! What a commit log would save: the ways to make one first write of 4 KiB durable, on the file system
//! of a directory, side by side and without anything of ours.
//!
//! `cargo bench -p benchmarks --bench sync -- DIRECTORY [SECONDS]`
//!
//! Every way is measured twice, in turn, by 1 writer and by 64, each with a file of its own.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has to stop")]

use core::time::Duration;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

const UNIT: u64 = 4096;
const DATA: [u8; 4096] = [7; 4096];
/// A record and the data behind it.
const ENTRY: [u8; 8192] = [7; 8192];
/// Where data begin, behind what stands for metadata.
const DATA_AT: u64 = 1 << 20;
/// Entries of a log.
const LOG_ENTRIES: u64 = 1024;

#[derive(Clone, Copy)]
enum Way {
    /// Rule W: data, sync, page, sync.
    TwoSyncs,
    /// Data in their place and a page that holds their checksum: one sync.
    Checksums,
    /// Data and record in a log that was written before; their place is written later.
    Log,
    /// The same, one log for all writers, whose syncs cover each other's entries.
    SharedLog,
    /// Data in a place that was written before: what no log can be better than.
    Rewrite,
}

const WAYS: [(Way, &str); 5] = [
    (Way::TwoSyncs, "data, sync, page, sync"),
    (Way::Checksums, "data and page, sync"),
    (Way::Log, "data in a log, sync"),
    (Way::SharedLog, "data in one log for all, sync"),
    (Way::Rewrite, "data in place again, sync"),
];

/// A log that many append to.
struct SharedLog {
    file: File,
    state: Mutex<LogState>,
    ended: Condvar,
}

#[derive(Default)]
struct LogState {
    entries: u64,
    written: u64,
    /// Entries that are durable.
    synced: u64,
    syncing: bool,
}

impl SharedLog {
    fn append(&self) {
        let number = {
            let mut state = self.state.lock().unwrap();
            state.entries += 1;
            state.entries
        };
        self.file.write_all_at(&ENTRY, number % LOG_ENTRIES * ENTRY.len() as u64).unwrap();
        let mut state = self.state.lock().unwrap();
        state.written += 1;
        // A sync covers the entries that were counted, and so written, before it began.
        let mine = state.written;
        while state.synced < mine {
            if state.syncing {
                state = self.ended.wait(state).unwrap();
                continue;
            }
            state.syncing = true;
            let covered = state.written;
            drop(state);
            self.file.sync_data().unwrap();
            state = self.state.lock().unwrap();
            state.synced = covered;
            state.syncing = false;
            self.ended.notify_all();
        }
    }
}

fn file(path: &Path, units: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.unwrap();
    for unit in 0..units {
        file.write_all_at(&DATA, unit * UNIT).unwrap();
    }
    file.set_len(1 << 32).unwrap();
    file.sync_all().unwrap();
    file
}

/// Writes by one writer until the time is over; how long each took.
fn write(way: Way, data: &File, log: &File, shared: &SharedLog, until: Instant) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0.. {
        let from = Instant::now();
        if from >= until {
            break;
        }
        let (fresh, page) = (DATA_AT + n * UNIT, n % 2 * UNIT);
        match way {
            Way::TwoSyncs => {
                data.write_all_at(&DATA, fresh).unwrap();
                data.sync_data().unwrap();
                data.write_all_at(&DATA, page).unwrap();
                data.sync_data().unwrap();
            }
            Way::Checksums => {
                data.write_all_at(&DATA, fresh).unwrap();
                data.write_all_at(&DATA, page).unwrap();
                data.sync_data().unwrap();
            }
            Way::Log => {
                log.write_all_at(&ENTRY, n % 64 * ENTRY.len() as u64).unwrap();
                log.sync_data().unwrap();
            }
            Way::SharedLog => shared.append(),
            Way::Rewrite => {
                data.write_all_at(&DATA, 2 * UNIT + page).unwrap();
                data.sync_data().unwrap();
            }
        }
        took.push(from.elapsed());
    }
    took
}

fn measure(directory: &Path, way: Way, writers: usize, time: Duration) -> (f64, Vec<Duration>) {
    let path = |what: &str, n: usize| -> PathBuf { directory.join(format!("{what}-{n}")) };
    let files: Vec<(File, File)> =
        (0..writers).map(|n| (file(&path("data", n), 4), file(&path("log", n), 128))).collect();
    let shared = SharedLog {
        file: file(&path("shared", 0), 2 * LOG_ENTRIES),
        state: Mutex::default(),
        ended: Condvar::new(),
    };
    let until = Instant::now() + time;
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let shared = &shared;
        let writers: Vec<_> = files
            .iter()
            .map(|(data, log)| scope.spawn(move || write(way, data, log, shared, until)))
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    took.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "a rate for a person")]
    let rate = took.len() as f64 / time.as_secs_f64();
    (rate, took)
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let Some(directory) = words.next() else {
        println!("SKIP: sync: say which directory is to be measured");
        return;
    };
    let time = Duration::from_secs(words.next().map_or(4, |seconds| seconds.parse().unwrap()));
    let directory = Path::new(&directory).join(format!("sync-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    for writers in [1, 64] {
        for round in 1..=2 {
            for (way, name) in WAYS {
                let (rate, took) = measure(&directory, way, writers, time);
                let at = |share: usize| {
                    took.get(took.len() * share / 100).map_or(0, Duration::as_micros)
                };
                println!(
                    "{writers:2} writers, round {round}: {name:30} {rate:8.0} writes/s, p50 {:6} us, p99 {:6} us",
                    at(50),
                    at(99),
                );
            }
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
