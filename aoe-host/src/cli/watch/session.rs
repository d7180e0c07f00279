//! Frames go past the listener of `aoe-proto`, and what it says is told to a person or a program.

use core::time::Duration;
use std::io::{self, Write};

use aoe_proto::print::PrintFrame;
use aoe_proto::watch::{
    Captured, ExchangeSlot, InitiatorRecord, Kind, Lost, Memory, Observation, RepeatSlot, Severity,
    TargetRecord, Watch, WatchConfig,
};
use aoe_proto::wire::{AddressPattern, Header};

use super::event::{self, Event};
use super::summary::{Summary, Totals};
use crate::capture::{CaptureWriter, vlan_id};
use crate::error::{HostError, Result};
use crate::values::Address;

/// Requests remembered: some seconds of a busy segment.
const EXCHANGES: usize = 16_384;
/// Targets on the segment.
const TARGETS: usize = 4096;
/// Initiators on the segment.
const INITIATORS: usize = 1024;

/// Time between two looks for what was lost: each goes through all the requests remembered.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// The memory of the listener.
#[derive(Debug)]
pub(super) struct WatchMemory {
    exchanges: Vec<ExchangeSlot>,
    repeats: Vec<RepeatSlot>,
    targets: Vec<TargetRecord>,
    initiators: Vec<InitiatorRecord>,
}

impl Default for WatchMemory {
    fn default() -> Self {
        Self {
            exchanges: vec![ExchangeSlot::default(); EXCHANGES],
            repeats: vec![RepeatSlot::default(); EXCHANGES],
            targets: vec![TargetRecord::default(); TARGETS],
            initiators: vec![InitiatorRecord::default(); INITIATORS],
        }
    }
}

/// What is told, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// Tell only of frames of this target, and of those that mean every target.
    pub(super) address: Option<Address>,
    /// One JSON object for each event.
    pub(super) json: bool,
    /// Tell only of frames with something to say about them.
    pub(super) quiet: bool,
}

/// One frame, from wherever it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'f> {
    /// When, since 1970.
    pub(super) at: Duration,
    /// The frame without VLAN tag; its end may be cut off.
    pub(super) bytes: &'f [u8],
    /// Its whole length without VLAN tag.
    pub(super) wire_len: usize,
    /// The tag control information of its VLAN tag.
    pub(super) tci: Option<u16>,
}

/// A listener with a voice.
pub(super) struct Session<'m, W> {
    watch: Watch<'m>,
    options: Options,
    out: W,
    writer: Option<CaptureWriter>,
    /// Of the first frame.
    start: Option<Duration>,
    /// Of the newest frame; the listener's time never runs backwards.
    now: Duration,
    next_tick: Duration,
    told: u64,
    broken: u64,
    lost: u64,
    /// Nobody listens to what is told any more.
    closed: bool,
}

impl<W> core::fmt::Debug for Session<'_, W> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("told", &self.told).finish_non_exhaustive()
    }
}

impl<'m, W: Write> Session<'m, W> {
    /// A session that tells to `out`, and writes the frames that it tells of to `writer`.
    pub(super) fn new(
        memory: &'m mut WatchMemory,
        mtu: Option<usize>,
        options: Options,
        out: W,
        writer: Option<CaptureWriter>,
    ) -> Self {
        let WatchMemory { exchanges, repeats, targets, initiators } = memory;
        let memory = Memory { exchanges, repeats, targets, initiators };
        let config = WatchConfig { mtu, ..WatchConfig::default() };
        Self {
            watch: Watch::new(config, memory),
            options,
            out,
            writer,
            start: None,
            now: Duration::ZERO,
            next_tick: Duration::ZERO,
            told: 0,
            broken: 0,
            lost: 0,
            closed: false,
        }
    }

    /// Whether nobody listens to what is told any more, as after `cowblade watch ... | head`.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Frames told of.
    pub(super) const fn told(&self) -> u64 {
        self.told
    }

    /// Broken rules of severity must, in the frames told of.
    pub(super) const fn broken(&self) -> u64 {
        self.broken
    }

    /// The interface's MTU changed.
    pub(super) const fn set_mtu(&mut self, mtu: Option<usize>) {
        self.watch.set_mtu(mtu);
    }

    /// Frames were missed, now or a moment ago.
    pub(super) fn missed(&mut self, now: Duration) {
        self.watch.missed(nanos(self.now.max(now)));
    }

    /// Takes a frame; frames of other protocols are ignored.
    ///
    /// # Errors
    /// When nothing can be printed, or the capture file cannot be written.
    pub(super) fn take(&mut self, frame: &Frame<'_>) -> Result<()> {
        let start = *self.start.get_or_insert(frame.at);
        self.now = self.now.max(frame.at);
        let captured = Captured {
            at_ns: nanos(self.now),
            frame: frame.bytes,
            wire_len: frame.wire_len,
            vlan: vlan_id(frame.tci),
        };
        let observation = self.watch.observe(&captured);
        if observation.kind == Kind::NotAoe || !self.is_meant(frame.bytes) {
            return Ok(());
        }
        if let Some(writer) = &mut self.writer {
            writer.append(frame.at, frame.bytes, frame.wire_len, frame.tci)?;
        }
        self.told += 1;
        let findings = observation.findings.as_slice();
        let broken = findings.iter().filter(|f| f.rule.severity() == Severity::Must).count();
        self.broken += u64::try_from(broken).unwrap_or(u64::MAX);
        let since = frame.at.saturating_sub(start);
        let event = Event::of_frame(self.told, since, frame, &observation);
        if self.options.quiet && !worth_telling(&observation) {
            return Ok(());
        }
        if self.options.json {
            return self.tell_json(&event);
        }
        self.tell_frame(since, frame, &observation)
    }

    /// Tells of what was lost until `now`, a time since 1970, and lets the reader see everything.
    /// Does so a few times a second, however often it is called; says whether it did.
    ///
    /// # Errors
    /// When nothing can be printed.
    pub(super) fn tick(&mut self, now: Duration) -> Result<bool> {
        self.now = self.now.max(now);
        if self.now < self.next_tick {
            return Ok(false);
        }
        self.next_tick = self.now + TICK;
        while let Some(lost) = self.watch.poll(nanos(self.now)) {
            self.tell_lost(&lost)?;
        }
        self.flush()?;
        Ok(true)
    }

    /// No more frames will come: tells of what is still missing, and the summary.
    ///
    /// # Errors
    /// When nothing can be printed, or the capture file cannot be written.
    pub(super) fn end(mut self, missed: u64) -> Result<()> {
        while let Some(lost) = self.watch.poll_end(nanos(self.now)) {
            self.tell_lost(&lost)?;
        }
        let seconds = self.now.saturating_sub(self.start.unwrap_or(self.now)).as_secs_f64();
        let totals = Totals { frames: self.told, seconds, lost: self.lost, missed };
        let summary = Summary::of(&self.watch, totals, self.options.address);
        if self.options.json {
            self.tell_json(&Event::Summary { summary })?;
        } else {
            let text = summary.render();
            self.tell(|out| writeln!(out, "\n{text}"))?;
        }
        self.flush()?;
        self.writer.as_mut().map_or(Ok(()), CaptureWriter::flush)
    }

    /// What was told reaches the reader.
    ///
    /// # Errors
    /// When nothing can be printed.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.tell(W::flush)
    }

    /// Whether a frame concerns the target that is listened for.
    fn is_meant(&self, frame: &[u8]) -> bool {
        let Some(address) = self.options.address else { return true };
        Header::parse(frame).is_ok_and(|(header, _)| header.address.matches(address))
    }

    fn tell_frame(
        &mut self,
        since: Duration,
        frame: &Frame<'_>,
        observation: &Observation,
    ) -> Result<()> {
        let remark = event::remark(&observation.kind);
        let findings = &observation.findings;
        self.tell(|out| {
            write!(out, "{} ", Since(since))?;
            if let Some(tci) = frame.tci {
                write!(out, "vlan {} ", vlan_id(Some(tci)))?;
            }
            writeln!(out, "{}{remark}", PrintFrame(frame.bytes))?;
            findings.as_slice().iter().try_for_each(|finding| writeln!(out, "    {finding}"))?;
            match findings.left_out() {
                0 => Ok(()),
                left_out => writeln!(out, "    and {left_out} more"),
            }
        })
    }

    fn tell_lost(&mut self, lost: &Lost) -> Result<()> {
        let meant = |address| AddressPattern::matches(lost.address, address);
        if !self.options.address.is_none_or(meant) {
            return Ok(());
        }
        self.lost += u64::from(lost.sends.saturating_sub(lost.answers));
        let since = self.now.saturating_sub(self.start.unwrap_or(self.now));
        let event = Event::of_lost(since, lost);
        if self.options.json {
            return self.tell_json(&event);
        }
        self.tell(|out| writeln!(out, "{} {}", Since(since), event::lost_line(lost)))
    }

    fn tell_json(&mut self, event: &Event) -> Result<()> {
        let text = serde_json::to_string(event)
            .map_err(|error| HostError::io(io::Error::other(error), "print JSON"))?;
        self.tell(|out| writeln!(out, "{text}"))
    }

    fn tell(&mut self, write: impl FnOnce(&mut W) -> io::Result<()>) -> Result<()> {
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            result => result.map_err(|error| HostError::io(error, "print")),
        }
    }
}

/// Whether a frame is more than everyday traffic.
fn worth_telling(observation: &Observation) -> bool {
    !observation.findings.as_slice().is_empty()
        || !matches!(observation.kind, Kind::Request | Kind::Answer { .. } | Kind::Advertisement)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since the first frame, in a column.
struct Since(Duration);

impl core::fmt::Display for Since {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:>5}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}
