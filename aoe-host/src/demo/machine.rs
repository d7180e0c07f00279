//! One diskless machine of the demonstration: a port of the switch, and what it does with its
//! disk.

use core::time::Duration;

use aoe_proto::initiator::Request;

use super::content::{Content, Regions, SECTOR_LEN, describe, fill};
use super::{ADDRESS, check_failed};
use crate::error::{HostError, Result};
use crate::initiator::{SectorSpan, Session, discover};
use crate::link::memory::{Port, PortConfig, Switch};
use crate::values::Mac;

/// How long a machine waits for an answer. Only a server that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a machine looks for disks. The server is in the same process and idle.
const DISCOVERY_TIME: Duration = Duration::from_millis(100);

/// Largest payload on the demonstration's Ethernet: jumbo frames, 17 sectors each.
pub(super) const MTU: usize = 9000;

/// A machine, plugged in.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) mac: Mac,
    port: Port,
    regions: Regions,
    sectors: u64,
    /// Its overlay was emptied: what it wrote is gone.
    pub(super) rolled_back: bool,
}

impl Machine {
    /// Plugs in machine `number`, from 0 on, whose disk should have `sectors` sectors.
    pub(super) fn plug_in(switch: &Switch, number: u8, sectors: u64) -> Result<Self> {
        let name = format!("lab{}", u16::from(number) + 1);
        let mac = Mac([2, 0, 0, 0, 1, number]);
        let config = PortConfig { mtu: MTU, wake: true, ..PortConfig::new(mac) };
        let port = switch
            .add_port(&name, config)
            .map_err(|error| HostError::io(error, format!("plug in {name}")))?;
        let regions = Regions::new(sectors, number);
        Ok(Self { name, mac, port, regions, sectors, rolled_back: false })
    }

    /// Looks for disks, of which there should be `wanted`.
    pub(super) fn expect_disks(&mut self, wanted: usize) -> Result<()> {
        match discover(&mut self.port, DISCOVERY_TIME)?.len() {
            found if found == wanted => Ok(()),
            found => {
                let name = &self.name;
                Err(check_failed(format!("{name} finds {found} disks, in place of {wanted}")))
            }
        }
    }

    /// Writes and trims its regions, and asks for durability.
    pub(super) fn write(&mut self) -> Result<()> {
        let (name, sectors) = (&self.name, self.sectors);
        let mut session = Session::new(&mut self.port, ADDRESS, PATIENCE)?;
        let disk = session.connect()?;
        if disk.sectors != sectors {
            let found = disk.sectors;
            return Err(check_failed(format!(
                "{name} was given a disk of {found} sectors, the golden image has {sectors}"
            )));
        }
        for range in self.regions.writes() {
            let span = SectorSpan { lba: range.start, sectors: range.end - range.start };
            let mut lba = range.start;
            let source = |data: &mut [u8]| {
                fill(data, lba, name);
                lba += (data.len() / SECTOR_LEN) as u64;
                Ok(())
            };
            session.write(span, source, |_acknowledged| {})?;
        }
        session.order("trim", Request::Trim { ranges: self.regions.trim_entries() })?;
        if session.flush()? {
            return Ok(());
        }
        Err(check_failed(format!("{name} was told that its disk cannot make data durable")))
    }

    /// Reads its whole disk and compares every sector with what should be there.
    pub(super) fn verify(&mut self) -> Result<()> {
        let (name, regions) = (&self.name, self.regions);
        let rolled_back = self.rolled_back;
        let span = SectorSpan { lba: 0, sectors: self.sectors };
        let mut session = Session::new(&mut self.port, ADDRESS, PATIENCE)?;
        session.connect()?;
        let mut lba = 0;
        session.read(span, |data| {
            for sector in data.chunks(SECTOR_LEN) {
                let content = if rolled_back { Content::Golden } else { regions.content(lba) };
                compare(name, lba, sector, content)?;
                lba += 1;
            }
            Ok(())
        })
    }
}

fn compare(name: &str, lba: u64, sector: &[u8], content: Content) -> Result<()> {
    let mut expected = [0; SECTOR_LEN];
    match content {
        Content::Golden => fill(&mut expected, lba, super::GOLDEN),
        Content::Written => fill(&mut expected, lba, name),
        Content::Zeros => {}
    }
    if sector == expected {
        return Ok(());
    }
    let (found, wanted) = (describe(sector), describe(&expected));
    Err(check_failed(format!("{name} reads {found} in sector {lba}, in place of {wanted}")))
}
