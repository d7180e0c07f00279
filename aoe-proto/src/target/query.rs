//! Decisions about Query/Config. `[AoE 4]`

use super::reply::{Body, Reply, Route};
use super::{Action, StateChange, Target};
use crate::error::Refusal;
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::wire::{AoeError, ConfigArg, ConfigCommand};

impl Target {
    /// Steps 5 to 7 of `[AoE 10]` for command 1. Every answer carries the whole string.
    pub(super) fn query<'f>(&mut self, request: &Incoming<'f>, link: LinkLimits) -> Action<'f> {
        let Some((arg, rest)) = ConfigArg::parse(request.argument()) else {
            return Action::Ignore(Refusal::ShortArgument { len: request.len() });
        };
        let body =
            |error| Body::Config { command: arg.command, error, sectors_max: link.sectors_max() };
        let bad = body(Some(AoeError::BadArgument));
        let string = arg.string(rest);
        match arg.command {
            ConfigCommand::Read => self.reply(request, body(None)),
            ConfigCommand::TestExact | ConfigCommand::TestPrefix => match string {
                // Nothing that is malformed can match, and the others need not hear of it.
                None if request.address().is_wildcard() => Action::Ignore(Refusal::ConfigMismatch),
                None => self.reply(request, bad),
                Some(string) if self.string_matches(arg.command, string) => {
                    self.reply(request, body(None))
                }
                Some(_) => Action::Ignore(Refusal::ConfigMismatch),
            },
            ConfigCommand::Set | ConfigCommand::ForceSet => {
                if self.refuses_change(request) {
                    return Action::Ignore(Refusal::WildcardChange);
                }
                let Some(string) = string else {
                    return self.reply(request, bad);
                };
                match self.set_string(arg.command, string) {
                    Ok(change) => {
                        let route = Route::answering(request, self.config.address);
                        Action::Reply(Reply { change, ..Reply::new(route, body(None)) })
                    }
                    Err(error) => self.reply(request, body(Some(error))),
                }
            }
            ConfigCommand::Other(_) => self.reply(request, bad),
        }
    }

    fn string_matches(&self, command: ConfigCommand, string: &[u8]) -> bool {
        match command {
            ConfigCommand::TestExact => self.state.config_string == *string,
            _ => self.state.config_string.starts_with(string),
        }
    }

    /// Stores a string. Setting the one that stands succeeds, so that a retransmission whose first
    /// answer was lost does not look like a lost race. `[AoE 4.1]`
    fn set_string(
        &mut self,
        command: ConfigCommand,
        string: &[u8],
    ) -> Result<Option<StateChange>, AoeError> {
        if self.state.config_string == *string {
            return Ok(None);
        }
        let occupied = command == ConfigCommand::Set && !self.state.config_string.is_empty();
        if occupied || self.config.freeze.config {
            return Err(AoeError::ConfigStringPresent);
        }
        self.state.set_config_string(string).ok_or(AoeError::BadArgument)?;
        Ok(Some(StateChange::ConfigString))
    }
}
