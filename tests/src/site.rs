//! A small installation: a golden image, a segment, our server, and initiators of our own.

use core::time::Duration;
use std::path::{Path, PathBuf};

use crate::frames::{BROADCAST, command, config, field, parse_mac};
use crate::initiator::Initiator;
use crate::judge;
use crate::lab::Lab;
use crate::net::Segment;
use crate::operator::{self, Said};
use crate::pattern::{Base, SECTOR, Stamp};
use crate::scenario::GOLDEN;
use crate::server::{Server, ServerPlan};
use crate::target::cowblade;

/// Seed of the golden image.
pub const SEED: u64 = 31;
/// What lies under every overlay.
pub const BASE: Base = Base::Golden(SEED);
/// Sectors of the golden image: 4 MiB.
pub const SECTORS: u64 = 4 << 11;
/// Sectors in a request that fit every MTU.
pub const STEP: u8 = 2;

/// The installation of one test.
#[derive(Debug)]
pub struct Site {
    /// The segment.
    pub segment: Segment,
    dir: PathBuf,
}

impl Site {
    /// Makes the golden image and a segment with `stations` places.
    pub fn new(lab: &Lab, mtu: u16, stations: usize) -> Self {
        judge::make_golden(&lab.dir().join(GOLDEN), SECTORS, SEED);
        Self { segment: Segment::new(mtu, stations), dir: lab.dir().into() }
    }

    /// The golden image.
    pub fn golden(&self) -> PathBuf {
        self.dir.join(GOLDEN)
    }

    /// The directory of overlays that the server uses unless told otherwise.
    pub fn overlays(&self) -> PathBuf {
        self.dir.join(format!("{GOLDEN}.overlays"))
    }

    /// Plans `cowblade serve GOLDEN -i srv0 options`.
    pub fn plan(&self, options: &[&str]) -> ServerPlan {
        let golden = self.golden().display().to_string();
        cowblade(&self.segment, &self.dir, &[&[golden.as_str()], options].concat())
    }

    /// Starts the server.
    pub fn serve(&self, options: &[&str]) -> Server {
        self.plan(options).start()
    }

    /// An initiator at place `index`, if somebody answers for the address.
    pub fn find(&self, index: usize, address: (u16, u8)) -> Option<Initiator> {
        let mac = parse_mac(&Segment::client_mac(index));
        let interface = Segment::client(index);
        Initiator::find(self.segment.clients(), &interface, mac, address)
    }

    /// An initiator of disk e0.0 at place `index`, if it answers one quick question.
    pub fn try_station(&self, index: usize) -> Option<Initiator> {
        let mac = parse_mac(&Segment::client_mac(index));
        let (namespace, interface) = (self.segment.clients(), Segment::client(index));
        let mut anybody = Initiator::at(namespace, &interface, mac, (0, 0), BROADCAST);
        let query = config(0, 0, &[]);
        let answer = anybody.request_once(command::CONFIG, &query, Duration::from_millis(200))?;
        let target = field(answer.frame(), 6)?;
        Some(Initiator::at(namespace, &interface, mac, (0, 0), target))
    }

    /// An initiator of disk e0.0 at place `index`.
    ///
    /// # Panics
    /// If nobody answers.
    pub fn station(&self, index: usize) -> Initiator {
        self.find(index, (0, 0)).expect("e0.0 answers")
    }

    /// Runs `cowblade words` on the server's machine, with the golden image at the end.
    pub fn ask(&self, words: &[&str]) -> Said {
        let golden = self.golden().display().to_string();
        operator::cowblade(self.segment.server(), &[words, &[golden.as_str()]].concat())
    }

    /// Runs `cowblade words --overlays DIR` on the server's machine.
    pub fn order(&self, words: &[&str]) -> Said {
        let overlays = self.overlays().display().to_string();
        let place = ["--overlays", overlays.as_str()];
        operator::cowblade(self.segment.server(), &[words, &place].concat())
    }

    /// Overlay files in a directory, by name.
    pub fn files(directory: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "cow"))
            .collect();
        names.sort();
        names
    }
}

/// Writes the sectors of `seed` to a range.
pub fn stamp(initiator: &mut Initiator, seed: u64, lba: u64, sectors: u64) {
    let bytes: Vec<_> =
        (lba..lba + sectors).flat_map(|lba| Stamp { seed, lba, write: 1 }.sector()).collect();
    initiator.write(lba, &bytes, STEP);
}

/// Whether a range holds what [`stamp`] wrote.
pub fn is_stamped(initiator: &mut Initiator, seed: u64, lba: u64, sectors: u64) -> bool {
    let bytes = initiator.read(lba, sectors, STEP);
    bytes
        .chunks(SECTOR)
        .zip(lba..)
        .all(|(sector, lba)| Stamp::read(sector) == Some(Stamp { seed, lba, write: 1 }))
}

/// Whether a range holds what the golden image holds.
pub fn is_golden(initiator: &mut Initiator, lba: u64, sectors: u64) -> bool {
    let expected: Vec<_> = (lba..lba + sectors).map(|lba| BASE.content(lba)).collect();
    judge::contents(&expected, lba, &initiator.read(lba, sectors, STEP)).is_ok()
}
