//! The target: every decision about a request. No I/O, no clock.
//!
//! Decisions are made in the order of `[AoE 10]`, which `docs/PROTOCOL.md` lists.

mod ata;
mod config;
mod mask;
mod query;
mod reply;
mod reserve;
mod state;

pub use ata::TrimRanges;
pub use config::{
    AtaText, ConfigError, Freeze, Identity, TargetConfig, TrimSupport, VersionPolicy,
};
pub use reply::{AtaError, AtaReply, Reply};
pub use state::{MASK_ENTRIES_MAX, RESERVE_ENTRIES_MAX, StateChange, StateError, TargetState};

use crate::error::{BufferTooSmall, Refusal};
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::sectors::SectorRange;
use crate::wire::{Address, AoeError, Command, ConfigCommand, Mac, Tag, VERSION};
use reply::{Body, Route};

/// What the caller must do about one request.
///
/// Exhaustive on purpose: a caller has to handle every kind. Overlapping requests of an initiator
/// must take effect in the order in which they were handled. `[AoE 8.5]` `[AoE 9 item 1]`
#[derive(Clone, Debug)]
#[must_use = "the initiator waits for an answer"]
pub enum Action<'f> {
    /// Send nothing.
    Ignore(Refusal),
    /// Emit the answer with [`Target::emit`], after persisting what [`Reply::change`] names.
    Reply(Reply),
    /// Read the range into [`AtaReply::data_range`] of the transmit buffer, then emit the reply. On
    /// failure the answer carries no data, and the residue is the whole count.
    Read {
        /// What to read.
        range: SectorRange,
        /// How to answer.
        reply: AtaReply,
    },
    /// Write `data` over the range, then emit the reply.
    Write {
        /// Where to write.
        range: SectorRange,
        /// Exactly the bytes of the range, inside the request frame.
        data: &'f [u8],
        /// Whether the data must be on stable storage before the reply (FUA).
        durable: bool,
        /// How to answer.
        reply: AtaReply,
    },
    /// Read the range, drop the data, then emit the reply.
    Verify {
        /// What to read.
        range: SectorRange,
        /// How to answer.
        reply: AtaReply,
    },
    /// Make every write acknowledged so far durable, then emit the reply.
    Flush {
        /// How to answer.
        reply: AtaReply,
    },
    /// Forget the contents of the ranges, then emit the reply.
    Discard {
        /// What to forget; all of it lies inside the disk.
        ranges: TrimRanges<'f>,
        /// How to answer.
        reply: AtaReply,
    },
}

/// One exported disk as one group of clients sees it.
#[derive(Clone, Debug)]
pub struct Target {
    config: TargetConfig,
    state: TargetState,
}

impl Target {
    /// A target with empty state.
    ///
    /// # Errors
    /// [`ConfigError`] for the first rule that `config` breaks.
    pub fn new(config: TargetConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, state: TargetState::new() })
    }

    /// Shelf and slot.
    #[inline]
    pub const fn address(&self) -> Address {
        self.config.address
    }

    /// The configuration in force.
    #[inline]
    pub const fn config(&self) -> &TargetConfig {
        &self.config
    }

    /// Replaces the configuration and keeps the state. A disk must not shrink while an initiator
    /// uses it. `[AoE 6]`
    ///
    /// # Errors
    /// [`ConfigError`]; the old configuration then stays in force.
    pub fn reconfigure(&mut self, config: TargetConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// What the network has changed, to be saved.
    #[inline]
    pub const fn state(&self) -> &TargetState {
        &self.state
    }

    /// The state, for the operator to change; frozen commands do not restrict the operator.
    #[inline]
    pub const fn state_mut(&mut self) -> &mut TargetState {
        &mut self.state
    }

    /// Puts saved state back.
    pub fn restore(&mut self, state: TargetState) {
        self.state = state;
    }

    /// Decides about one request.
    #[inline]
    pub fn handle<'f>(&mut self, request: &Incoming<'f>, link: LinkLimits) -> Action<'f> {
        if !request.address().matches(self.config.address) {
            return Action::Ignore(Refusal::OtherAddress);
        }
        if !self.state.mask.is_empty() && !self.state.mask.contains(&request.src()) {
            return Action::Ignore(Refusal::Masked);
        }
        if request.version() != VERSION {
            return self.other_version(request);
        }
        match request.command() {
            Command::Ata => self.ata(request, link),
            Command::Config => self.query(request, link),
            Command::MacMask => self.mask(request, link),
            Command::Reserve => self.reserve(request, link),
            Command::Other(_) => self.error(request, AoeError::UnrecognizedCommand),
        }
    }

    /// Writes `reply` into `buf`, all of it, and tells the length of the frame.
    ///
    /// # Errors
    /// [`BufferTooSmall`].
    pub fn emit(&self, reply: &Reply, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        reply.emit(&self.config, &self.state, buf)
    }

    /// The answer nobody asked for that makes initiators attach at once: to be sent when the target
    /// or an interface comes up, to every address of [`Target::audience`]. `[AoE 4.3]`
    pub fn advertisement(&self, dst: Mac, own_mac: Mac, link: LinkLimits) -> Reply {
        let route = Route { dst, src: own_mac, address: self.config.address, tag: Tag::default() };
        let command = ConfigCommand::Read;
        let body = Body::Config { command, error: None, sectors_max: link.sectors_max() };
        Reply::new(route, body)
    }

    /// Who may hear of the target: broadcast, or only the members of the MAC mask list. `[AoE 4.3]`
    pub fn audience(&self) -> impl Iterator<Item = Mac> + '_ {
        let everybody = self.state.mask.is_empty().then_some(Mac::BROADCAST);
        everybody.into_iter().chain(self.state.mask.iter().copied())
    }
}

impl Target {
    /// Whether a command that changes state is refused for its wildcard address. `[AoE 2.4]`
    #[inline]
    fn refuses_change(&self, request: &Incoming<'_>) -> bool {
        request.address().is_wildcard() && !self.config.wildcard_changes
    }

    fn other_version<'f>(&self, request: &Incoming<'f>) -> Action<'f> {
        let version = request.version();
        if self.config.version_policy == VersionPolicy::Silent || request.address().is_wildcard() {
            return Action::Ignore(Refusal::Version { version });
        }
        self.error(request, AoeError::UnsupportedVersion)
    }

    fn error<'f>(&self, request: &Incoming<'f>, error: AoeError) -> Action<'f> {
        let body = Body::Error { command: request.command(), error };
        self.reply(request, body)
    }

    #[inline]
    fn reply<'f>(&self, request: &Incoming<'f>, body: Body) -> Action<'f> {
        Action::Reply(Reply::new(Route::answering(request, self.config.address), body))
    }
}

#[cfg(test)]
mod tests;
