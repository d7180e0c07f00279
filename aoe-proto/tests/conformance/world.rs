//! A target with a disk in memory, the runner, and the link between them, in virtual time.

use std::collections::VecDeque;

use aoe_proto::conformance::{
    Action, Event, Evidence, Failure, Memory, Originals, Outcome, Record, Restore, RestoreEvent,
    RestoreResult, Restored, RunConfig, Runner, Selection, Summary, Why, Window, fields,
};
use aoe_proto::target::AtaText;
use aoe_proto::{
    Address, AtaError, Disk, Identity, Incoming, LinkLimits, Mac, SectorRange, Target,
    TargetConfig, TrimSupport, serve,
};

use crate::defects::Defect;

pub(crate) const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);
pub(crate) const SECOND: Mac = Mac([0x02, 0, 0, 0, 0, 0x0b]);
pub(crate) const SERVER: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
pub(crate) const SECTORS: u64 = 500;
/// At the end of the disk, so that no case is skipped for its place.
pub(crate) const WINDOW: Window = Window { lba: SECTORS - 48, sectors: 48 };

pub(crate) fn address() -> Address {
    Address::new(7, 3).unwrap()
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct MemoryDisk(pub Vec<u8>);

impl MemoryDisk {
    pub(crate) fn part(&mut self, range: SectorRange) -> &mut [u8] {
        let start = usize::try_from(range.byte_offset()).unwrap();
        &mut self.0[start..start + range.len_bytes()]
    }
}

impl Disk for MemoryDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        data.copy_from_slice(self.part(range));
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        self.part(range).copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        self.part(range).fill(0);
        Ok(())
    }
}

/// A target with its disk and its interface.
pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) disk: MemoryDisk,
    pub(crate) link: LinkLimits,
    pub(crate) mtu: usize,
    pub(crate) defect: &'static Defect,
    /// Requests that arrived so far: for defects with a memory.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) dead: bool,
    pub(crate) pace: Pace,
    /// Requests that wait, and when each will have been served.
    waiting: VecDeque<(u64, Vec<u8>)>,
}

/// How long a server takes, and how much may wait meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// For a frame.
    pub(crate) frame_ms: u64,
    /// Frames that wait; more are lost.
    pub(crate) room: usize,
    /// The machine does something else after so many frames, for so long.
    pub(crate) pause: Option<(usize, u64)>,
}

impl Pace {
    pub(crate) const PROMPT: Self = Self { frame_ms: 0, room: usize::MAX, pause: None };
}

impl Server {
    pub(crate) fn new(mtu: usize, defect: &'static Defect) -> Self {
        Self::with_disk(mtu, defect, SECTORS)
    }

    /// The same with a disk of so many sectors.
    pub(crate) fn with_disk(mtu: usize, defect: &'static Defect, sectors: u64) -> Self {
        let identity = Identity {
            serial: AtaText::new("CONFORMANCE-1").unwrap(),
            revision: AtaText::new("1").unwrap(),
            model: AtaText::new("in-process target").unwrap(),
            wwn: Some(0x5000_0000_0000_0001),
        };
        let trim = TrimSupport::Zeroing;
        let mut config = TargetConfig { trim, identity, ..TargetConfig::new(address(), sectors) };
        (defect.configure)(&mut config);
        let disk = (0..sectors)
            .flat_map(|lba| (0..512).map(move |at| aoe_proto::conformance::pattern(0xd1, lba, at)));
        Self {
            target: Target::new(config).unwrap(),
            disk: MemoryDisk(disk.collect()),
            link: LinkLimits::for_mtu(mtu).unwrap(),
            mtu,
            defect,
            requests: Vec::new(),
            dead: false,
            pace: Pace::PROMPT,
            waiting: VecDeque::new(),
        }
    }

    /// What our own target does with a frame.
    pub(crate) fn honest(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let Some(frame) = untagged(frame) else { return Vec::new() };
        let Ok(request) = Incoming::parse(&frame, SERVER) else { return Vec::new() };
        let action = self.target.handle(&request, self.link);
        let mut buf = vec![0xa5; self.link.frame_len_max()];
        let len = serve(&self.target, action, &mut self.disk, &mut buf).unwrap();
        len.map(|len| buf[..len].to_vec()).into_iter().collect()
    }

    pub(crate) fn advertisements(&self) -> Vec<Vec<u8>> {
        let emit = |dst| {
            let mut buf = vec![0xa5; self.link.frame_len_max()];
            let reply = self.target.advertisement(dst, SERVER, self.link);
            let len = self.target.emit(&reply, &mut buf).unwrap();
            buf[..len].to_vec()
        };
        self.target.audience().map(emit).collect()
    }

    fn receive(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        if self.dead {
            return Vec::new();
        }
        let answers = (self.defect.serve)(self, frame);
        self.requests.push(frame.to_vec());
        answers
    }

    /// Takes a frame into its queue, and serves it at once if it is prompt.
    fn queue(&mut self, frame: &[u8], now: u64) -> Vec<Vec<u8>> {
        let Pace { frame_ms, room, pause } = self.pace;
        if frame_ms == 0 {
            return self.receive(frame);
        }
        if self.waiting.len() < room {
            let number = self.requests.len() + self.waiting.len();
            let pause = pause.filter(|(every, _)| number % every == every - 1);
            let begin = self.waiting.back().map_or(now, |(ready, _)| *ready);
            let ready = begin + frame_ms + pause.map_or(0, |(_, ms)| ms);
            self.waiting.push_back((ready, frame.to_vec()));
        }
        Vec::new()
    }

    fn act(&mut self, action: Action) -> Vec<Vec<u8>> {
        self.waiting.clear();
        match action {
            Action::Revive | Action::Restart | Action::Crash | Action::LinkDownUp => {
                self.dead = false;
                self.requests.clear();
                (self.defect.start)(self)
            }
            Action::LowerMtu => {
                let low = usize::from(aoe_proto::conformance::LOW_MTU);
                self.link = LinkLimits::for_mtu(low).unwrap();
                Vec::new()
            }
            Action::RestoreMtu => {
                self.link = LinkLimits::for_mtu(self.mtu).unwrap();
                Vec::new()
            }
        }
    }
}

/// What an interface that serves no VLAN hands to the target.
pub(crate) fn untagged(frame: &[u8]) -> Option<Vec<u8>> {
    match (frame.get(12..14), frame.get(14..16)) {
        (Some([0x81, 0x00]), Some([_, 0])) => Some([&frame[..12], &frame[16..]].concat()),
        (Some([0x81, 0x00]), _) => None,
        _ => Some(frame.to_vec()),
    }
}

/// How a case ended, for tests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Passed { notes: Vec<&'static str> },
    Failed(String),
    Skipped(Why),
}

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) ends: Vec<(&'static aoe_proto::conformance::Case, End, Restored)>,
    /// Cases after which the target died while its state was put back.
    pub(crate) died: Vec<&'static str>,
    pub(crate) summary: Summary,
    pub(crate) journal: Vec<u8>,
    pub(crate) frames: usize,
    pub(crate) virtual_ms: u64,
}

impl Report {
    pub(crate) fn end(&self, id: &str) -> &End {
        &self.ends.iter().find(|(case, ..)| case.id == id).unwrap_or_else(|| panic!("{id}")).1
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = &'static str> + '_ {
        let failed = self.ends.iter().filter(|(_, end, _)| matches!(end, End::Failed(_)));
        failed.map(|(case, ..)| case.id)
    }
}

/// Loses frames, by a generator with a fixed seed.
pub(crate) struct Lossy {
    one_of: u64,
    state: u64,
}

impl Lossy {
    pub(crate) const NOTHING: Self = Self { one_of: 0, state: 0 };

    /// Loses one of so many frames, in either direction.
    pub(crate) fn one_of(one_of: u64, seed: u64) -> Self {
        Self { one_of, state: seed }
    }

    fn loses(&mut self) -> bool {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.one_of > 0 && (self.state >> 33).is_multiple_of(self.one_of)
    }
}

pub(crate) fn config(mtu: usize) -> RunConfig {
    RunConfig {
        second_mac: Some(SECOND),
        window: Some(WINDOW),
        ..RunConfig::new(address(), OWN, u16::try_from(mtu).unwrap())
    }
}

/// Runs the selected cases. Stops after `events` events, as if killed.
pub(crate) fn run(
    server: &mut Server,
    config: RunConfig,
    selection: Selection<'_>,
    loss: &mut Lossy,
    events: usize,
) -> Report {
    let len = Memory::frame_len(config.mtu);
    let mut buffers: [Vec<u8>; 4] = core::array::from_fn(|_| vec![0x5a; len]);
    let [frame, sent, received, kept] = &mut buffers;
    let mut window = vec![0x5a; 512 * usize::from(config.window.map_or(0, |w| w.sectors))];
    let mut originals = Originals::new();
    let memory =
        Memory { frame, sent, received, kept, window: &mut window, originals: &mut originals };
    let mut runner = Runner::new(config, selection, memory).unwrap();
    let mut wire = Wire { server, loss, arriving: Vec::new(), now: 0 };
    let mut report = Report::default();
    for _ in 0..events {
        if turn(&mut runner, &mut wire, &mut report) {
            break;
        }
    }
    report.virtual_ms = wire.now;
    report
}

/// The link, and what is under way on it.
struct Wire<'a> {
    server: &'a mut Server,
    loss: &'a mut Lossy,
    arriving: Vec<Vec<u8>>,
    now: u64,
}

impl Wire<'_> {
    /// Tells how many frames were sent in both directions.
    fn send(&mut self, frame: &[u8]) -> usize {
        if self.loss.loses() {
            return 1;
        }
        let mut answers = self.server.queue(frame, self.now);
        let frames = 1 + answers.len();
        answers.retain(|_| !self.loss.loses());
        self.arriving.extend(answers);
        frames
    }

    /// Lets time pass until the server has answered something, at most until `until`.
    fn pass(&mut self, until: u64) {
        while self.arriving.is_empty() {
            let Some((ready, frame)) =
                self.server.waiting.front().filter(|(ready, _)| *ready <= until).cloned()
            else {
                self.now = until;
                return;
            };
            self.server.waiting.pop_front();
            self.now = self.now.max(ready);
            let mut answers = self.server.receive(&frame);
            answers.retain(|_| !self.loss.loses());
            self.arriving.extend(answers);
        }
    }

    fn deliver(&mut self, runner: &mut Runner<'_>) {
        for frame in self.arriving.drain(..) {
            runner.received(&frame, None, self.now);
        }
    }
}

/// One event; true at the end.
fn turn(runner: &mut Runner<'_>, wire: &mut Wire<'_>, report: &mut Report) -> bool {
    match runner.poll(wire.now) {
        Event::Send(outgoing) => report.frames += wire.send(outgoing.frame),
        Event::Wait { until_ms } => {
            if wire.arriving.is_empty() {
                assert!(until_ms > wire.now && until_ms < u64::MAX, "it waits for nothing");
                wire.pass(until_ms);
            }
            wire.deliver(runner);
        }
        Event::Record(record) => {
            let mut bytes = vec![0; record.encoded_len()];
            record.encode(&mut bytes).unwrap();
            report.journal.extend_from_slice(&bytes);
        }
        Event::Act(action) => {
            wire.arriving = wire.server.act(action);
            wire.deliver(runner);
            runner.acted(true, wire.now);
        }
        Event::Started { .. } => {}
        Event::Verdict(verdict) => {
            let end = match verdict.outcome {
                Outcome::Passed => End::Passed { notes: verdict.notes.to_vec() },
                Outcome::Skipped(why) => End::Skipped(why),
                Outcome::Failed(failure) => {
                    let evidence = verdict.evidence.expect("a failure has evidence");
                    End::Failed(describe(&failure, &evidence))
                }
            };
            if verdict.died_restoring {
                report.died.push(verdict.case.id);
            }
            report.ends.push((verdict.case, end, verdict.restored));
        }
        Event::Done(summary) => {
            report.summary = summary;
            return true;
        }
    }
    false
}

fn describe(failure: &Failure, evidence: &Evidence<'_>) -> String {
    let dump = |frame: &[u8]| {
        let part = |field: aoe_proto::conformance::Field| {
            format!("{} {:02x?}", field.name, &frame[field.bytes.start..field.bytes.end.min(64)])
        };
        let short = fields(frame).filter(|field| field.bytes.start < 64);
        short.map(part).collect::<Vec<_>>().join(", ")
    };
    format!(
        "step {:?}: {failure}\n    sent {}\n    received {}",
        evidence.step,
        dump(evidence.sent),
        dump(evidence.received)
    )
}

/// Undoes a journal.
pub(crate) fn restore(server: &mut Server, config: RunConfig, journal: &[u8]) -> RestoreResult {
    let mut frame = vec![0x5a; Memory::frame_len(config.mtu)];
    let mut restore = Restore::new(config, journal, &mut frame).unwrap();
    let mut now = 0;
    let mut arriving: Vec<Vec<u8>> = Vec::new();
    loop {
        match restore.poll(now) {
            RestoreEvent::Send { frame, .. } => {
                let frame = frame.to_vec();
                arriving.extend(server.receive(&frame));
            }
            RestoreEvent::Wait { until_ms } => {
                if arriving.is_empty() {
                    now = until_ms;
                }
                for frame in arriving.drain(..) {
                    restore.received(&frame, None);
                }
            }
            RestoreEvent::Result(..) => {}
            RestoreEvent::Done(result) => return result,
        }
    }
}

/// What a journal would undo, for messages.
pub(crate) fn journal_kinds(journal: &[u8]) -> usize {
    aoe_proto::conformance::Records::new(journal)
        .filter(|record| !matches!(record, Record::Run { .. } | Record::Restored))
        .count()
}
