//! The whole product in one process, without a network: what `cowblade demo` runs.
//!
//! ```text
//!  content.rs     what sectors say, who writes where                        (pure)
//!  machine.rs     a client: writes, trims, reads everything back, compares
//!  background.rs  the real server loop in a thread, over the in-memory Ethernet
//!  mod.rs         the story: write, compare, stop, start, compare, roll back, compare
//! ```
//!
//! Only the Ethernet is not real: overlays, commits, locks and the protocol are those of
//! `cowblade serve`, in a temporary directory.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use tempfile::TempDir;

use crate::config::{
    BUFFER_COUNT_DEFAULT, ClientWord, Durability, Export, Freeze, Layer, LinkKind, NewClients,
    ServeConfig, Top, Window, Workers,
};
use crate::control::{Status, TrafficStatus};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::full_hash;
use crate::link::memory::Switch;
use crate::storage::{FileOptions, FileStorage};
use crate::values::{Address, Mac, human_bytes, serde_text};
use background::BackgroundServer;
use content::{CLIENTS_MAX, SECTOR_LEN, SECTORS_MIN, fill};
use machine::Machine;

mod background;
mod content;
mod machine;
#[cfg(test)]
mod tests;

/// Who wrote the golden image, as its sectors say.
const GOLDEN: &str = "golden image";

/// The address of everybody's disk.
const ADDRESS: Address = match Address::new(0, 0) {
    Some(address) => address,
    None => panic!("0.0 is an address"),
};

/// How large the demonstration is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Number of machines, 1 to 64.
    pub clients: u8,
    /// Size of the golden image, a multiple of 512 bytes, at least 4 MiB.
    pub golden_bytes: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { clients: 8, golden_bytes: 32 << 20 }
    }
}

/// What happens, as it happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// Something was shown to be true.
    Shown(&'a str),
    /// The server has stopped, and will be started again: nobody has these files open.
    Stopped {
        /// Where golden image and overlays are.
        directory: &'a Path,
    },
}

/// What was done and shown.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Size of the golden image in bytes.
    pub golden_bytes: u64,
    /// SHA-256 of the golden image, before and after.
    pub golden_sha256: String,
    /// The machines.
    pub clients: Vec<ClientReport>,
    /// What was shown to be true.
    pub shown: Vec<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// One machine.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ClientReport {
    /// Its name.
    pub name: String,
    /// Its address.
    #[serde(with = "serde_text::mac")]
    pub mac: Mac,
    /// Requests the server answered, over all its starts.
    pub requests: u64,
    /// Bytes it read.
    pub bytes_read: u64,
    /// Bytes it wrote.
    pub bytes_written: u64,
    /// Bytes its overlay took on disk, before any rollback.
    pub overlay_bytes: u64,
}

/// Runs the demonstration in a directory of its own, which is deleted at the end.
///
/// # Errors
/// `Usage` for a plan that has no room; else whatever failed first, be it a check or the system.
pub fn run(plan: &Plan, observe: &mut dyn FnMut(&Event<'_>)) -> Result<Report> {
    check_plan(plan)?;
    let directory = tempfile::Builder::new()
        .prefix("cowblade-demo-")
        .tempdir()
        .map_err(|error| HostError::io(error, "make a temporary directory"))?;
    Demo::prepare(plan, directory)?.play(observe)
}

fn check_plan(plan: &Plan) -> Result<()> {
    let least = SECTORS_MIN * SECTOR_LEN as u64;
    if plan.clients == 0 || plan.clients > CLIENTS_MAX {
        return Err(HostError::usage(
            format!("demonstrate {} clients", plan.clients),
            format!("1 to {CLIENTS_MAX} have room"),
        ));
    }
    if plan.golden_bytes < least || !plan.golden_bytes.is_multiple_of(SECTOR_LEN as u64) {
        return Err(HostError::usage(
            format!("demonstrate with a golden image of {} bytes", plan.golden_bytes),
            format!("it takes a multiple of {SECTOR_LEN}, at least {}", human_bytes(least)),
        ));
    }
    Ok(())
}

/// An error about something that should have been true.
fn check_failed(what: String) -> HostError {
    HostError::new(ErrorKind::Io, "confirm a promise").detail(what)
}

struct Demo {
    directory: TempDir,
    golden: PathBuf,
    golden_bytes: u64,
    golden_sha256: String,
    config: ServeConfig,
    switch: Switch,
    machines: Vec<Machine>,
    /// What each machine did, over all starts of the server.
    traffic: Vec<TrafficStatus>,
    shown: Vec<String>,
    started: Instant,
}

impl Demo {
    fn prepare(plan: &Plan, directory: TempDir) -> Result<Self> {
        let started = Instant::now();
        let golden = directory.path().join("golden.img");
        write_golden(&golden, plan.golden_bytes)
            .map_err(|error| HostError::io(error, "make the golden image").path(&golden))?;
        let switch = Switch::new();
        let sectors = plan.golden_bytes / SECTOR_LEN as u64;
        let machines: Vec<Machine> = (0..plan.clients)
            .map(|number| Machine::plug_in(&switch, number, sectors))
            .collect::<Result<_>>()?;
        Ok(Self {
            golden_bytes: plan.golden_bytes,
            golden_sha256: hash_of(&golden)?,
            config: config_of(directory.path(), &golden, &machines),
            traffic: vec![TrafficStatus::default(); machines.len()],
            shown: Vec::new(),
            started,
            directory,
            golden,
            switch,
            machines,
        })
    }

    fn play(mut self, observe: &mut dyn FnMut(&Event<'_>)) -> Result<Report> {
        let server = BackgroundServer::start(&self.config, &self.switch)?;
        self.show_who_is_served(observe)?;
        self.everybody(Machine::write)?;
        self.everybody(Machine::verify)?;
        let compared = human_bytes(self.golden_bytes * self.machines.len() as u64);
        self.show(observe, format!(
            "all wrote their own data to the same sectors; each reads back its own and the golden \
             image everywhere else, never another's ({compared} compared)"
        ));
        self.stop(server, observe)?;
        self.show_golden_unchanged(observe)?;
        let overlays = self.overlay_sizes()?;

        let server = BackgroundServer::start(&self.config, &self.switch)?;
        self.everybody(Machine::verify)?;
        self.show(
            observe,
            "server stopped and started again: everything is still there".to_owned(),
        );
        self.stop(server, observe)?;

        self.roll_back_first()?;
        let server = BackgroundServer::start(&self.config, &self.switch)?;
        self.everybody(Machine::verify)?;
        let others = match self.machines.len() - 1 {
            0 => String::new(),
            others => format!(", the other {others} are as they were"),
        };
        let first = self.name_of_first();
        self.show(
            observe,
            format!("{first} was rolled back: it reads the golden image everywhere{others}"),
        );
        self.collect(&server.stop()?);
        self.show_golden_unchanged_at_end()?;
        Ok(self.report(&overlays))
    }

    fn show(&mut self, observe: &mut dyn FnMut(&Event<'_>), what: String) {
        observe(&Event::Shown(&what));
        self.shown.push(what);
    }

    /// Every machine does `work` at once. The first failure, in the order of the machines.
    fn everybody(&mut self, work: fn(&mut Machine) -> Result<()>) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .machines
                .iter_mut()
                .map(|machine| (machine.name.clone(), scope.spawn(move || work(machine))))
                .collect();
            let ended = threads.into_iter().map(|(name, thread)| {
                let died = |_panic| {
                    let op = format!("run machine {name}");
                    Err(HostError::new(ErrorKind::Io, op).detail("its thread died"))
                };
                thread.join().unwrap_or_else(died)
            });
            // All are waited for before the first failure is told.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn show_who_is_served(&mut self, observe: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        let sectors = self.golden_bytes / SECTOR_LEN as u64;
        let mut stranger = Machine::plug_in(&self.switch, u8::MAX, sectors)?;
        "a machine that nobody named".clone_into(&mut stranger.name);
        self.everybody(|machine| machine.expect_disks(1))?;
        stranger.expect_disks(0)?;
        let what = format!(
            "every machine finds one disk, {ADDRESS}; a machine that nobody named finds none"
        );
        self.show(observe, what);
        Ok(())
    }

    fn show_golden_unchanged(&mut self, observe: &mut dyn FnMut(&Event<'_>)) -> Result<()> {
        self.show_golden_unchanged_at_end()?;
        let short = self.golden_sha256.get(..16).unwrap_or_default();
        let what = format!("the golden image is unchanged: SHA-256 {short}... before and after");
        self.show(observe, what);
        Ok(())
    }

    fn show_golden_unchanged_at_end(&self) -> Result<()> {
        if hash_of(&self.golden)? == self.golden_sha256 {
            return Ok(());
        }
        Err(check_failed("the golden image has changed".to_owned()))
    }

    fn stop(
        &mut self,
        server: BackgroundServer,
        observe: &mut dyn FnMut(&Event<'_>),
    ) -> Result<()> {
        let status = server.stop()?;
        self.collect(&status);
        observe(&Event::Stopped { directory: self.directory.path() });
        Ok(())
    }

    /// Adds what a server counted before it stopped.
    fn collect(&mut self, status: &Status) {
        for (machine, sum) in self.machines.iter().zip(&mut self.traffic) {
            let own = status.sessions.iter().filter(|s| s.macs.contains(&machine.mac));
            for traffic in own.map(|session| session.traffic) {
                sum.requests += traffic.requests;
                sum.bytes_read += traffic.bytes_read;
                sum.bytes_written += traffic.bytes_written;
            }
        }
    }

    fn overlay_of(&self, machine: &Machine) -> PathBuf {
        let overlays = self.config.overlays.as_deref().unwrap_or(self.directory.path());
        overlays.join(format!("{}.cow", machine.name))
    }

    fn overlay_sizes(&self) -> Result<Vec<u64>> {
        let size = |machine: &Machine| {
            let path = self.overlay_of(machine);
            let about = fs::metadata(&path)
                .map_err(|error| HostError::io(error, "look at the overlay").path(&path))?;
            // Counted in units of 512 bytes, whatever the file system uses; see stat(2).
            Ok(about.blocks() * 512)
        };
        self.machines.iter().map(size).collect()
    }

    fn name_of_first(&self) -> String {
        self.machines.first().map(|machine| machine.name.clone()).unwrap_or_default()
    }

    fn roll_back_first(&mut self) -> Result<()> {
        let Some(first) = self.machines.first() else { return Ok(()) };
        crate::tools::rollback(self.overlay_of(first))?;
        if let Some(first) = self.machines.first_mut() {
            first.rolled_back = true;
        }
        Ok(())
    }

    fn report(self, overlays: &[u64]) -> Report {
        let clients = self.machines.iter().zip(&self.traffic).zip(overlays);
        let client = |((machine, traffic), overlay_bytes): ((&Machine, &TrafficStatus), &u64)| {
            ClientReport {
                name: machine.name.clone(),
                mac: machine.mac,
                requests: traffic.requests,
                bytes_read: traffic.bytes_read,
                bytes_written: traffic.bytes_written,
                overlay_bytes: *overlay_bytes,
            }
        };
        Report {
            golden_bytes: self.golden_bytes,
            golden_sha256: self.golden_sha256.clone(),
            clients: clients.map(client).collect(),
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            shown: self.shown,
        }
    }
}

fn write_golden(path: &Path, len_bytes: u64) -> std::io::Result<()> {
    const PIECE_SECTORS: u64 = 256;
    let mut file = File::create_new(path)?;
    let sectors = len_bytes / SECTOR_LEN as u64;
    let mut piece = Vec::new();
    for lba in (0..sectors).step_by(256) {
        let count = usize::try_from(PIECE_SECTORS.min(sectors - lba)).unwrap_or(0);
        piece.resize(count * SECTOR_LEN, 0);
        fill(&mut piece, lba, GOLDEN);
        file.write_all(&piece)?;
    }
    Ok(())
}

fn hash_of(path: &Path) -> Result<String> {
    let file = FileStorage::open(path, &FileOptions::default())?;
    let hash = full_hash(&file, &mut |_done| {})?;
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect())
}

/// What `cowblade serve golden.img --client lab1=... --client lab2=...` would make of its words.
fn config_of(directory: &Path, golden: &Path, machines: &[Machine]) -> ServeConfig {
    let export = Export {
        address: ADDRESS,
        top: Top::PerClient,
        backing: vec![Layer::File { path: golden.to_owned(), window: Window::default() }],
        name: None,
        macs: Vec::new(),
        durability: Durability::Safe,
        limit: None,
    };
    let client = |m: &Machine| ClientWord { name: m.name.clone(), mac: vec![m.mac] };
    ServeConfig {
        interfaces: vec!["memory".to_owned()],
        link: LinkKind::Auto,
        workers: Workers::ONE,
        exports: vec![export],
        overlays: Some(directory.join("golden.img.overlays")),
        clients: machines.iter().map(client).collect(),
        new_clients: NewClients::Refuse,
        allow: Vec::new(),
        buffer_count: BUFFER_COUNT_DEFAULT,
        low_space: None,
        direct: false,
        preallocate: false,
        commit_log: true,
        control: None,
        freeze: Freeze::default(),
        follow: Vec::new(),
        warnings: Vec::new(),
    }
}
