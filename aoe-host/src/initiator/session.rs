//! One target over one link: a question and its answer, with retransmission.

use core::time::Duration;
use std::time::{Instant, SystemTime};

use aoe_proto::ata::identify::Identify;
use aoe_proto::initiator::{
    Completion, Event, Failure, Initiator, InitiatorConfig, Request, SubmitError, Timing,
};
use aoe_proto::wire::AoeError;
use aoe_proto::{Address, LinkLimits, Mac};

use crate::error::{ErrorKind, HostError, Result};
use crate::link::{Link, wait_for_frames};

/// Most requests outstanding, as the Linux initiator has it. [AoE 8.1]
pub const REQUESTS_MAX: usize = 64;

/// Frames taken from the link between two rounds of sending.
const RECEIVE_BATCH: usize = 64;

/// How long to wait when nothing is in flight, because the link takes no frames.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);

/// What IDENTIFY says about a disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DiskIdentity {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Model, without padding.
    pub model: String,
    /// Serial number, without padding.
    pub serial: String,
    /// Firmware revision, without padding.
    pub revision: String,
    /// World wide name.
    pub wwn: Option<u64>,
    /// Whether TRIM is offered.
    pub trim: bool,
    /// Whether 48-bit commands are served.
    pub lba48: bool,
}

/// A conversation with one target. Uses the link alone while it lives.
pub struct Session<'l> {
    link: &'l mut dyn Link,
    initiator: Initiator<Vec<u8>, REQUESTS_MAX>,
    address: Address,
    started: Instant,
    frame: Vec<u8>,
}

impl<'l> Session<'l> {
    /// Prepares to ask the target at `address`; sends nothing yet. A request without an answer
    /// fails after `timeout`.
    ///
    /// # Errors
    /// When the link's MTU is too small for AoE.
    pub fn new(link: &'l mut dyn Link, address: Address, timeout: Duration) -> Result<Self> {
        let give_up_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self::with_timing(link, address, Timing { give_up_ms, ..Timing::default() })
    }

    /// Like [`Session::new`], with every timer given.
    ///
    /// # Errors
    /// When the link's MTU is too small for AoE.
    pub fn with_timing(link: &'l mut dyn Link, address: Address, timing: Timing) -> Result<Self> {
        let limits = LinkLimits::for_mtu(link.mtu()).ok_or_else(|| {
            HostError::new(ErrorKind::Unsupported, "use the interface")
                .interface(link.name())
                .detail(format!("its MTU of {} is too small for AoE", link.mtu()))
                .advice(format!("raise it to {} or more", LinkLimits::MTU_MIN))
        })?;
        let mut config = InitiatorConfig::new(link.mac(), address, limits, tag_seed());
        config.timing = timing;
        let frame = vec![0; limits.frame_len_max()];
        let initiator = Initiator::new(config);
        Ok(Self { link, initiator, address, started: Instant::now(), frame })
    }

    /// The target.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The machine that answers for the target, once it has.
    pub fn target_mac(&self) -> Option<Mac> {
        self.initiator.target_mac()
    }

    /// Most sectors of a request, as far as is known.
    pub fn sectors_max(&self) -> u8 {
        self.initiator.sectors_max()
    }

    /// Finds the target, learns its limits and what its disk is.
    ///
    /// # Errors
    /// `Timeout` if nobody answers for it.
    pub fn connect(&mut self) -> Result<DiskIdentity> {
        self.ask("find the target", Request::ConfigRead, |_| Ok(()))?;
        let identity = self.identify()?;
        self.initiator.set_lba48(identity.lba48);
        Ok(identity)
    }

    /// Asks for the IDENTIFY page.
    ///
    /// # Errors
    /// When there is no answer, or an error.
    pub fn identify(&mut self) -> Result<DiskIdentity> {
        self.ask("identify the disk", Request::Identify, |completion| match completion.result {
            Ok(aoe_proto::initiator::Answer::Identify(page)) => Ok(identity_of(page)),
            Ok(_) => Err(Failure::Malformed),
            Err(failure) => Err(failure),
        })
    }

    /// Sends one request and turns its completion into something owned. `op` is worded to follow
    /// "cannot".
    ///
    /// # Errors
    /// When the request is refused here, when it fails, or when `map` says so.
    pub fn ask<T>(
        &mut self,
        op: &str,
        request: Request<Vec<u8>>,
        map: impl FnOnce(Completion<'_, Vec<u8>>) -> core::result::Result<T, Failure>,
    ) -> Result<T> {
        self.initiator.submit(request).map_err(|rejected| self.unfit(op, rejected.error))?;
        let mut map = Some(map);
        let mut outcome = None;
        while outcome.is_none() {
            self.step(&mut |completion| {
                outcome = map.take().map(|map| map(completion));
            })?;
        }
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(failure)) => Err(self.failed(op, failure)),
            None => Err(self.failed(op, Failure::TimedOut)),
        }
    }

    /// Like [`Session::ask`] for requests whose answer says nothing.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn order(&mut self, op: &str, request: Request<Vec<u8>>) -> Result<()> {
        self.ask(op, request, |completion| completion.result.map(drop))
    }

    /// Makes what was written durable; `false` if the target cannot say that it is.
    ///
    /// # Errors
    /// When the target tried and failed, or does not answer.
    pub fn flush(&mut self) -> Result<bool> {
        /// Error register: command aborted, which is how a target says "no such command".
        const ABORTED: u8 = 0x04;
        let mut supported = true;
        self.ask("make the written data durable", Request::Flush, |completion| {
            match completion.result {
                Err(Failure::Ata { error: ABORTED, .. }) => {
                    supported = false;
                    Ok(())
                }
                result => result.map(drop),
            }
        })?;
        Ok(supported)
    }

    pub(super) fn initiator(&mut self) -> &mut Initiator<Vec<u8>, REQUESTS_MAX> {
        &mut self.initiator
    }

    /// Sends what can be sent, waits until something arrives or is due, and hands completed
    /// requests to `done`.
    pub(super) fn step(&mut self, done: &mut dyn FnMut(Completion<'_, Vec<u8>>)) -> Result<()> {
        while self.link.poll_event(self.started.elapsed()).is_some() {}
        self.transmit()?;
        let mut completed = self.receive(done);
        let now_ms = self.now_ms();
        self.initiator.handle_timeout(now_ms);
        while let Some(completion) = self.initiator.poll_completion() {
            completed = true;
            done(completion);
        }
        if completed {
            return Ok(());
        }
        let due = self.initiator.poll_timeout().map(|due_ms| due_ms.saturating_sub(now_ms));
        let patience = due.map_or(IDLE_INTERVAL, Duration::from_millis);
        wait_for_frames(self.link, patience)
            .map_err(|error| HostError::io(error, "wait for frames").interface(self.link.name()))
    }

    fn transmit(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        loop {
            let polled = self.initiator.poll_transmit(now_ms, &mut self.frame);
            let len = polled.map_err(|error| {
                HostError::new(ErrorKind::Unsupported, "send a request")
                    .interface(self.link.name())
                    .source(error)
            })?;
            let Some(frame) = len.and_then(|len| self.frame.get(..len)) else {
                return Ok(());
            };
            // A frame that is lost here is lost like any other: it will be sent again.
            self.link.send(&mut core::iter::once(frame));
        }
    }

    /// Whether anything was completed.
    fn receive(&mut self, done: &mut dyn FnMut(Completion<'_, Vec<u8>>)) -> bool {
        let now_ms = self.now_ms();
        let initiator = &mut self.initiator;
        let mut completed = false;
        self.link.receive(RECEIVE_BATCH, &mut |frame| {
            if let Event::Completed(completion) = initiator.handle_frame(now_ms, frame) {
                completed = true;
                done(completion);
            }
        });
        completed
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn unfit(&self, op: &str, error: SubmitError) -> HostError {
        HostError::usage(op, error.to_string()).export(self.address)
    }

    pub(super) fn failed(&self, op: &str, failure: Failure) -> HostError {
        let kind = match failure {
            Failure::TimedOut => ErrorKind::Timeout,
            Failure::Ata { .. } => ErrorKind::Io,
            Failure::Aoe(AoeError::TargetReserved) => ErrorKind::InUse,
            _ => ErrorKind::Protocol,
        };
        let error = HostError::new(kind, op)
            .export(self.address)
            .interface(self.link.name())
            .detail(failure.to_string());
        if failure == Failure::TimedOut {
            error.advice("check that the server runs, admits this machine, and shares its network")
        } else {
            error
        }
    }
}

fn identity_of(page: Identify<'_>) -> DiskIdentity {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    DiskIdentity {
        sectors: page.sectors(),
        model: text(&page.model()),
        serial: text(&page.serial()),
        revision: text(&page.revision()),
        wwn: page.wwn(),
        trim: page.has_trim(),
        lba48: page.has_lba48(),
    }
}

/// Different for every start, so that answers to an earlier process do not match.
fn tag_seed() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.subsec_nanos() ^ std::process::id().rotate_left(16)
}
