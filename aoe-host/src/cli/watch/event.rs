//! One event: as a JSON object, and the remarks that follow a frame's line.

use core::time::Duration;

use aoe_proto::print::PrintFrame;
use aoe_proto::watch::{Finding, Kind, Lost, Observation};
use aoe_proto::wire::{AtaArg, ConfigArg, Header};
use serde::Serialize;

use super::session::{Frame, nanos};
use super::summary::Summary;
use crate::capture::vlan_id;

/// What `--json` prints, one object a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// A frame.
    Frame(Box<FrameEvent>),
    /// Transmissions that were never answered.
    Lost(LostEvent),
    /// The end.
    Summary {
        /// The counts.
        #[serde(flatten)]
        summary: Summary,
    },
}

/// A frame, with what was read in it.
#[derive(Debug, Serialize)]
pub(super) struct FrameEvent {
    number: u64,
    /// Since 1970.
    time_ns: u64,
    /// Since the first frame.
    seconds: f64,
    length: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    kind: &'static str,
    /// How long ago the request was sent last: of an answer, or of a request that is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_us: Option<f64>,
    #[serde(flatten)]
    header: Option<HeaderEvent>,
    line: String,
    findings: Vec<FindingEvent>,
}

#[derive(Debug, Serialize)]
struct HeaderEvent {
    src: String,
    dst: String,
    response: bool,
    version: u8,
    /// The code, if the error flag is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<u8>,
    address: String,
    shelf: u16,
    slot: u8,
    command: u8,
    tag: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ata: Option<AtaEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<ConfigEvent>,
}

#[derive(Debug, Serialize)]
struct AtaEvent {
    flags: u8,
    /// Features of a request, error register of an answer.
    error_feature: u8,
    count: u8,
    /// Command of a request, status of an answer.
    command_status: u8,
    /// All six registers.
    lba: u64,
    data: usize,
}

#[derive(Debug, Serialize)]
struct ConfigEvent {
    buffer_count: u16,
    firmware: u16,
    sector_count: u8,
    command: u8,
    string: Option<String>,
}

#[derive(Debug, Serialize)]
struct FindingEvent {
    rule: &'static str,
    severity: &'static str,
    section: &'static str,
    text: String,
}

/// Transmissions that were never answered.
#[derive(Debug, Serialize)]
pub(super) struct LostEvent {
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    initiator: String,
    address: String,
    command: u8,
    tag: u32,
    sends: u32,
    answers: u32,
    superseded: bool,
}

impl Event {
    pub(super) fn of_frame(
        number: u64,
        since: Duration,
        frame: &Frame<'_>,
        observation: &Observation,
    ) -> Self {
        let (kind, after_ns) = match observation.kind {
            Kind::NotAoe => ("foreign", None),
            Kind::Short => ("short", None),
            Kind::Request => ("request", None),
            Kind::Resent { same_tag: true, after_ns, .. } => ("resent", Some(after_ns)),
            Kind::Resent { same_tag: false, after_ns, .. } => ("resent-new-tag", Some(after_ns)),
            Kind::Repeated { after_ns } => ("repeated", Some(after_ns)),
            Kind::Twin => ("twin", None),
            Kind::Answer { after_ns } => ("answer", Some(after_ns)),
            Kind::LateAnswer { after_ns } => ("late-answer", Some(after_ns)),
            Kind::DuplicateAnswer => ("duplicate-answer", None),
            Kind::Advertisement => ("advertisement", None),
            Kind::UnmatchedAnswer => ("unmatched-answer", None),
        };
        Self::Frame(Box::new(FrameEvent {
            number,
            time_ns: nanos(frame.at),
            seconds: since.as_secs_f64(),
            length: frame.wire_len,
            vlan: frame.tci.map(|tci| vlan_id(Some(tci))),
            kind,
            after_us: after_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e6),
            header: Header::parse(frame.bytes)
                .ok()
                .map(|(header, argument)| HeaderEvent::of(&header, argument)),
            line: PrintFrame(frame.bytes).to_string(),
            findings: observation.findings.as_slice().iter().map(FindingEvent::of).collect(),
        }))
    }

    pub(super) fn of_lost(since: Duration, lost: &Lost) -> Self {
        Self::Lost(LostEvent {
            seconds: since.as_secs_f64(),
            vlan: (lost.vlan != 0).then_some(lost.vlan),
            initiator: lost.initiator.to_string(),
            address: lost.address.to_string(),
            command: lost.command.into(),
            tag: u32::from_be_bytes(lost.tag.0),
            sends: lost.sends,
            answers: lost.answers,
            superseded: lost.superseded,
        })
    }
}

impl HeaderEvent {
    fn of(header: &Header, argument: &[u8]) -> Self {
        use aoe_proto::wire::Command;

        let ata = AtaArg::parse(argument).filter(|_| header.command == Command::Ata);
        let config = ConfigArg::parse(argument).filter(|_| header.command == Command::Config);
        Self {
            src: header.src.to_string(),
            dst: header.dst.to_string(),
            response: header.response,
            version: header.version,
            error: header.error.map(u8::from),
            address: header.address.to_string(),
            shelf: header.address.shelf,
            slot: header.address.slot,
            command: header.command.into(),
            tag: u32::from_be_bytes(header.tag.0),
            ata: ata.map(|(arg, data)| AtaEvent {
                flags: arg.flags.0,
                error_feature: arg.error_feature,
                count: arg.count,
                command_status: arg.command_status,
                lba: arg.lba48(),
                data: data.len(),
            }),
            config: config.map(|(arg, rest)| ConfigEvent {
                buffer_count: arg.buffer_count,
                firmware: arg.firmware,
                sector_count: arg.sector_count,
                command: arg.command.into(),
                string: arg.string(rest).map(|s| String::from_utf8_lossy(s).into_owned()),
            }),
        }
    }
}

impl FindingEvent {
    fn of(finding: &Finding) -> Self {
        let rule = finding.rule;
        Self {
            rule: rule.id(),
            severity: rule.severity().name(),
            section: rule.section(),
            text: finding.to_string(),
        }
    }
}

/// What follows a frame's line.
pub(super) fn remark(kind: &Kind) -> String {
    match *kind {
        Kind::NotAoe | Kind::Short | Kind::Request | Kind::Twin | Kind::Advertisement => {
            String::new()
        }
        Kind::Resent { same_tag, after_ns, sends } => {
            let tag = if same_tag { "the same tag" } else { "a new tag" };
            format!("  [sent again after {}, time {sends}, {tag}]", human_time(after_ns))
        }
        Kind::Repeated { after_ns } => {
            format!("  [sent again after {} although answered]", human_time(after_ns))
        }
        Kind::Answer { after_ns } => format!("  [{}]", human_time(after_ns)),
        Kind::LateAnswer { after_ns } => format!("  [late, after {}]", human_time(after_ns)),
        Kind::DuplicateAnswer => "  [duplicate]".to_owned(),
        Kind::UnmatchedAnswer => "  [to no request]".to_owned(),
    }
}

/// A line about transmissions that were never answered.
pub(super) fn lost_line(lost: &Lost) -> String {
    let Lost { initiator, address, sends, answers, .. } = lost;
    let tag = u32::from_be_bytes(lost.tag.0);
    let what = match (answers, lost.superseded) {
        (0, true) => "its first answer is lost; it was sent again under a new tag".to_owned(),
        (0, false) if *sends == 1 => "no answer".to_owned(),
        (0, false) => format!("no answer to {sends} transmissions"),
        _ => format!("{sends} transmissions, {answers} answered"),
    };
    format!("{initiator} > {address} tag {tag:08x} lost: {what}")
}

/// A time with a unit that suits it.
pub(super) fn human_time(ns: u64) -> String {
    let us = Duration::from_nanos(ns).as_secs_f64() * 1e6;
    match us {
        ..1000.0 => format!("{us:.0} us"),
        ..1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}
