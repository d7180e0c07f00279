//! Runs inside a guest: writes a disk past the page cache by plan, and later compares it.
//!
//! ```text
//! disk-worker write  DEVICE seed=1 first=0 sectors=4096 writes=500 longest=16 writers=4 progress=FILE
//! disk-worker verify DEVICE seed=1 first=0 sectors=4096 writes=500 longest=16 writers=4 base=golden:9
//! disk-worker try-write DEVICE first=0
//! disk-worker read   DEVICE first=0 sectors=4096 step=8 to=FILE
//! ```
//! A write counts as acknowledged once the kernel says so; `progress` names a file that holds
//! their number all the time. `verify` expects exactly the acknowledged writes of the whole plan.
#![allow(clippy::expect_used, reason = "a failed worker fails its test")]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use system_tests::judge;
use system_tests::pattern::{Base, Plan, SECTOR_BYTES, Stamp};

/// Alignment that direct I/O accepts everywhere.
const ALIGNMENT: usize = 4096;
/// Sectors compared at a time: 64 KiB requests.
const STEP: u64 = 128;

/// A buffer whose usable part begins at [`ALIGNMENT`].
struct Aligned(Vec<u8>);

impl Aligned {
    fn with(bytes: &[u8]) -> Self {
        let mut buffer = Self(vec![0; bytes.len() + ALIGNMENT]);
        buffer.part(bytes.len()).copy_from_slice(bytes);
        buffer
    }

    fn part(&mut self, length: usize) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(ALIGNMENT);
        self.0.get_mut(start..start + length).expect("the buffer has room")
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(command), Some(device)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: disk-worker write|verify|try-write|read DEVICE key=value...");
        return ExitCode::from(2);
    };
    let options: BTreeMap<String, String> = arguments
        .map(|word| {
            let (key, value) = word.split_once('=').expect("options look like key=value");
            (key.into(), value.into())
        })
        .collect();
    let result = match command.as_str() {
        "write" => write(Path::new(&device), &options),
        "verify" => verify(Path::new(&device), &options),
        "try-write" => try_write(Path::new(&device), &options),
        "read" => read(Path::new(&device), &options),
        other => Err(format!("no such command: {other}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("disk-worker {command} {device}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn number(options: &BTreeMap<String, String>, key: &str) -> Result<u64, String> {
    let value = options.get(key).ok_or_else(|| format!("{key}= is missing"))?;
    value.parse().map_err(|error| format!("{key}={value}: {error}"))
}

fn plans(options: &BTreeMap<String, String>) -> Result<Vec<Plan>, String> {
    let plan = Plan {
        seed: number(options, "seed")?,
        first: number(options, "first")?,
        sectors: number(options, "sectors")?,
        writes: number(options, "writes")?,
        longest: number(options, "longest")?,
    };
    Ok(plan.split(number(options, "writers")?))
}

fn open(device: &Path, writable: bool) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(libc::O_DIRECT)
        .open(device)
        .map_err(|error| error.to_string())
}

fn write(device: &Path, options: &BTreeMap<String, String>) -> Result<(), String> {
    let plans = plans(options)?;
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = plans
            .iter()
            .map(|plan| scope.spawn(|| write_plan(device, *plan, &acknowledged)))
            .collect();
        if let Some(path) = options.get("progress") {
            while writers.iter().any(|writer| !writer.is_finished()) {
                report(path, acknowledged.load(Ordering::Relaxed));
                std::thread::sleep(Duration::from_millis(20));
            }
            // Whoever waits for a number must not miss the last ones.
            report(path, acknowledged.load(Ordering::Relaxed));
        }
        writers.into_iter().try_for_each(|writer| writer.join().expect("writers do not panic"))
    })
}

fn write_plan(device: &Path, plan: Plan, acknowledged: &AtomicU64) -> Result<(), String> {
    let file = open(device, true)?;
    for write in plan.iter() {
        let bytes = plan.bytes(write);
        let mut buffer = Aligned::with(&bytes);
        file.write_all_at(buffer.part(bytes.len()), write.lba * SECTOR_BYTES)
            .map_err(|error| format!("{write:?}: {error}"))?;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Replaces the progress file in one step: the host never reads half a number.
fn report(path: &str, acknowledged: u64) {
    let new = format!("{path}.new");
    std::fs::write(&new, acknowledged.to_string()).expect("progress can be written");
    std::fs::rename(&new, path).expect("progress can be renamed");
}

fn verify(device: &Path, options: &BTreeMap<String, String>) -> Result<(), String> {
    let base = match options.get("base").map(String::as_str) {
        Some("blank") => Base::Blank,
        Some(text) => {
            let seed = text.strip_prefix("golden:").ok_or("base= is golden:SEED or blank")?;
            Base::Golden(seed.parse().map_err(|error| format!("base={text}: {error}"))?)
        }
        None => return Err("base= is missing".into()),
    };
    let file = open(device, false)?;
    for plan in plans(options)? {
        verify_plan(&file, &plan, base)?;
    }
    Ok(())
}

fn verify_plan(file: &File, plan: &Plan, base: Base) -> Result<(), String> {
    let contents = plan.contents(plan.writes, base);
    let step = usize::try_from(STEP).expect("a step is short");
    for (expected, lba) in contents.chunks(step).zip((plan.first..).step_by(step)) {
        let length = expected.len() * system_tests::pattern::SECTOR;
        let mut buffer = Aligned::with(&vec![0; length]);
        file.read_exact_at(buffer.part(length), lba * SECTOR_BYTES)
            .map_err(|error| format!("reading lba {lba}: {error}"))?;
        judge::contents(expected, lba, buffer.part(length)).map_err(|wrong| wrong.to_string())?;
    }
    Ok(())
}

/// Copies sectors to a file, by requests of `step` sectors: some drivers are wrong about long ones.
fn read(device: &Path, options: &BTreeMap<String, String>) -> Result<(), String> {
    let (first, sectors) = (number(options, "first")?, number(options, "sectors")?);
    let step = number(options, "step")?;
    let to = options.get("to").ok_or("to= is missing")?;
    let file = open(device, false)?;
    let mut copy = Vec::new();
    let mut lba = first;
    while lba < first + sectors {
        let count = step.min(first + sectors - lba);
        let length = usize::try_from(count * SECTOR_BYTES).expect("a step is short");
        let mut buffer = Aligned::with(&vec![0; length]);
        file.read_exact_at(buffer.part(length), lba * SECTOR_BYTES)
            .map_err(|error| format!("reading lba {lba}: {error}"))?;
        copy.extend_from_slice(buffer.part(length));
        lba += count;
    }
    std::fs::write(to, copy).map_err(|error| format!("{to}: {error}"))
}

/// Succeeds if the disk takes a write.
fn try_write(device: &Path, options: &BTreeMap<String, String>) -> Result<(), String> {
    let lba = number(options, "first")?;
    let file = open(device, true)?;
    let mut buffer = Aligned::with(&Stamp { seed: 0xbad, lba, write: 1 }.sector());
    file.write_all_at(buffer.part(system_tests::pattern::SECTOR), lba * SECTOR_BYTES)
        .map_err(|error| error.to_string())
}
