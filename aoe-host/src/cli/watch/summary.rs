//! What was counted, by target and by initiator.

use aoe_proto::watch::{Answerer, FindingCounts, InitiatorRecord, TargetRecord, Traffic, Watch};
use serde::Serialize;

use super::event::human_time;
use crate::cli::output::Table;
use crate::values::{Address, human_bytes};

/// The counts of a session.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    frames: u64,
    seconds: f64,
    /// Transmissions without an answer.
    lost: u64,
    /// Frames that the listener itself had no room for: with any, nothing is certain.
    missed: u64,
    /// Requests forgotten while they waited, for lack of memory.
    forgotten: u64,
    findings: Counts,
    targets: Vec<Target>,
    initiators: Vec<Initiator>,
}

/// What the session counted itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) frames: u64,
    pub(super) seconds: f64,
    pub(super) lost: u64,
    pub(super) missed: u64,
}

#[derive(Debug, Serialize)]
struct Counts {
    must: u64,
    should: u64,
    note: u64,
}

#[derive(Debug, Serialize)]
struct Target {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    /// More than one is a danger to the data.
    servers: Vec<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_count: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sectors_max: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_sectors: Option<u64>,
    outstanding: u32,
    #[serde(flatten)]
    traffic: Flow,
}

#[derive(Debug, Serialize)]
struct Server {
    mac: String,
    answers: u64,
    aoe_errors: u64,
    ata_errors: u64,
    findings: Counts,
}

#[derive(Debug, Serialize)]
struct Initiator {
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(flatten)]
    traffic: Flow,
}

#[derive(Debug, Serialize)]
struct Flow {
    requests: Requests,
    resent: u64,
    answers: u64,
    late: u64,
    duplicates: u64,
    lost: u64,
    unmatched: u64,
    aoe_errors: u64,
    ata_errors: u64,
    bytes_read: u64,
    bytes_written: u64,
    latency: Option<Times>,
    findings: Counts,
}

#[derive(Debug, Serialize)]
struct Requests {
    read: u64,
    write: u64,
    identify: u64,
    flush: u64,
    ata_other: u64,
    config: u64,
    mask: u64,
    reserve: u64,
    other: u64,
}

/// All in nanoseconds.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit is part of the name in JSON")]
struct Times {
    min_ns: u64,
    mean_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

impl From<FindingCounts> for Counts {
    fn from(FindingCounts { must, should, note }: FindingCounts) -> Self {
        Self { must, should, note }
    }
}

impl From<&Traffic> for Flow {
    fn from(traffic: &Traffic) -> Self {
        let requests = traffic.requests;
        let latency = &traffic.latency;
        Self {
            requests: Requests {
                read: requests.read,
                write: requests.write,
                identify: requests.identify,
                flush: requests.flush,
                ata_other: requests.ata_other,
                config: requests.config,
                mask: requests.mask,
                reserve: requests.reserve,
                other: requests.other,
            },
            resent: traffic.resent,
            answers: traffic.answers,
            late: traffic.late,
            duplicates: traffic.duplicates,
            lost: traffic.lost,
            unmatched: traffic.unmatched,
            aoe_errors: traffic.aoe_errors,
            ata_errors: traffic.ata_errors,
            bytes_read: traffic.bytes_read,
            bytes_written: traffic.bytes_written,
            latency: latency.min_ns().map(|min_ns| Times {
                min_ns,
                mean_ns: latency.mean_ns().unwrap_or(0),
                p50_ns: latency.quantile_ns(500).unwrap_or(0),
                p99_ns: latency.quantile_ns(990).unwrap_or(0),
                max_ns: latency.max_ns().unwrap_or(0),
            }),
            findings: traffic.findings.into(),
        }
    }
}

fn tagged(vlan: u16) -> Option<u16> {
    (vlan != 0).then_some(vlan)
}

impl Summary {
    /// The counts of `watch`; of one target only, if one was listened for.
    pub(super) fn of(watch: &Watch<'_>, totals: Totals, only: Option<Address>) -> Self {
        let Totals { frames, seconds, lost, missed } = totals;
        Self {
            frames,
            seconds,
            lost,
            missed,
            forgotten: watch.forgotten(),
            findings: watch.findings().into(),
            targets: watch.targets().filter_map(|record| target(record, only)).collect(),
            initiators: watch.initiators().filter_map(initiator).collect(),
        }
    }

    /// The summary for people.
    pub(super) fn render(&self) -> String {
        let Self { frames, seconds, lost, findings, .. } = self;
        let Counts { must, should, note } = findings;
        let mut parts = vec![format!(
            "{frames} frames in {seconds:.1} s; {lost} transmissions without an answer; rules \
             broken: {must} must, {should} should, {note} note"
        )];
        if self.missed > 0 {
            parts.push(format!(
                "warning: this listener lost {} frames itself; what it says is missing, or \
                 came unasked, may have been in order",
                self.missed
            ));
        }
        if self.forgotten > 0 {
            parts.push(format!(
                "warning: {} requests were forgotten while they waited",
                self.forgotten
            ));
        }
        if !self.targets.is_empty() {
            parts.push(self.targets_table());
        }
        if self.doubles().next().is_some() {
            parts.push(self.servers_table());
        }
        if !self.initiators.is_empty() {
            parts.push(self.initiators_table());
        }
        for target in self.doubles() {
            let macs: Vec<_> = target.servers.iter().map(|server| server.mac.as_str()).collect();
            parts.push(format!(
                "warning: several machines answer for {}: {}; initiators write to them in turn and \
                 destroy the data",
                target.address,
                macs.join(", ")
            ));
        }
        parts.join("\n\n")
    }

    /// Targets for which several machines answer.
    fn doubles(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.servers.len() > 1)
    }

    /// Each of the machines that answer for one address.
    fn servers_table(&self) -> String {
        let headings = ["target", "one of its servers", ">answers", ">errors", ">must", ">should"];
        let mut table = Table::new(&headings);
        for target in self.doubles() {
            for server in &target.servers {
                table.add([
                    with_vlan(&target.address, target.vlan),
                    server.mac.clone(),
                    server.answers.to_string(),
                    (server.aoe_errors + server.ata_errors).to_string(),
                    server.findings.must.to_string(),
                    server.findings.should.to_string(),
                ]);
            }
        }
        table.render()
    }

    fn targets_table(&self) -> String {
        let mut table = Table::new(&[
            "target", "server", ">reads", ">writes", ">other", ">read", ">written", ">again",
            ">lost", ">errors", ">min", ">mean", ">p99", ">must", ">should",
        ]);
        for target in &self.targets {
            let server = match target.servers.as_slice() {
                [] => "-".to_owned(),
                [server] => server.mac.clone(),
                // Whom a request meant cannot be told: these counts are of all of them.
                several => format!("{} servers", several.len()),
            };
            table.add(
                [with_vlan(&target.address, target.vlan), server]
                    .into_iter()
                    .chain(cells(&target.traffic)),
            );
        }
        table.render()
    }

    fn initiators_table(&self) -> String {
        let mut table = Table::new(&[
            "initiator",
            ">reads",
            ">writes",
            ">other",
            ">read",
            ">written",
            ">again",
            ">lost",
            ">errors",
            ">min",
            ">mean",
            ">p99",
            ">must",
            ">should",
        ]);
        for initiator in &self.initiators {
            let name = with_vlan(&initiator.mac, initiator.vlan);
            table.add([name].into_iter().chain(cells(&initiator.traffic)));
        }
        table.render()
    }
}

fn with_vlan(name: &str, vlan: Option<u16>) -> String {
    vlan.map_or_else(|| name.to_owned(), |vlan| format!("{name} vlan {vlan}"))
}

fn cells(flow: &Flow) -> [String; 13] {
    let requests = &flow.requests;
    let other = requests.identify
        + requests.flush
        + requests.ata_other
        + requests.config
        + requests.mask
        + requests.reserve
        + requests.other;
    let time = |pick: fn(&Times) -> u64| {
        flow.latency.as_ref().map_or_else(|| "-".to_owned(), |times| human_time(pick(times)))
    };
    [
        requests.read.to_string(),
        requests.write.to_string(),
        other.to_string(),
        human_bytes(flow.bytes_read),
        human_bytes(flow.bytes_written),
        flow.resent.to_string(),
        flow.lost.to_string(),
        (flow.aoe_errors + flow.ata_errors).to_string(),
        time(|times| times.min_ns),
        time(|times| times.mean_ns),
        time(|times| times.p99_ns),
        flow.findings.must.to_string(),
        flow.findings.should.to_string(),
    ]
}

fn target(record: &TargetRecord, only: Option<Address>) -> Option<Target> {
    let (vlan, address) = record.key()?;
    if only.is_some_and(|only| only != address) {
        return None;
    }
    let server = |answerer: Answerer| Server {
        mac: answerer.mac.to_string(),
        answers: answerer.answers,
        aoe_errors: answerer.aoe_errors,
        ata_errors: answerer.ata_errors,
        findings: answerer.findings.into(),
    };
    Some(Target {
        address: address.to_string(),
        vlan: tagged(vlan),
        servers: record.answerers().map(server).collect(),
        buffer_count: record.advertised().map(|advertised| advertised.buffer_count),
        sectors_max: record.advertised().map(|advertised| advertised.sectors_max()),
        disk_sectors: record.disk_sectors(),
        outstanding: record.outstanding(),
        traffic: record.traffic().into(),
    })
}

fn initiator(record: &InitiatorRecord) -> Option<Initiator> {
    let (vlan, mac) = record.key()?;
    Some(Initiator { mac: mac.to_string(), vlan: tagged(vlan), traffic: record.traffic().into() })
}
