//! Decisions about Reserve/Release. `[AoE 7.2]`

use super::reply::{Body, Reply, Route};
use super::{Action, RESERVE_ENTRIES_MAX, StateChange, Target};
use crate::error::Refusal;
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::wire::reserve::Macs;
use crate::wire::{AoeError, Mac, ReserveArg, ReserveCommand};

impl Target {
    /// Whether an initiator may send ATA commands.
    #[inline]
    pub(super) fn holds_reservation(&self, mac: Mac) -> bool {
        self.state.reserve.is_empty() || self.state.reserve.contains(&mac)
    }

    /// Steps 5 to 7 of `[AoE 10]` for command 3.
    pub(super) fn reserve<'f>(&mut self, request: &Incoming<'f>, link: LinkLimits) -> Action<'f> {
        let Some((arg, rest)) = ReserveArg::parse(request.argument()) else {
            return Action::Ignore(Refusal::ShortArgument { len: request.len() });
        };
        let command = arg.command;
        let refused = Body::ReserveRefused { command };
        let limit = link.reserve_entries_max();
        match command {
            ReserveCommand::Read if self.state.reserve.len() <= limit => {
                self.reply(request, Body::Reserve { command, error: None })
            }
            ReserveCommand::Read | ReserveCommand::Other(_) => self.reply(request, refused),
            ReserveCommand::Set | ReserveCommand::ForceSet => {
                if self.refuses_change(request) {
                    return Action::Ignore(Refusal::WildcardChange);
                }
                let fits = |macs: &Macs<'_>| macs.len() <= limit.min(RESERVE_ENTRIES_MAX);
                let Some(macs) = arg.macs(rest).filter(fits) else {
                    return self.reply(request, refused);
                };
                match self.set_reservation(command, request.src(), macs) {
                    Ok(change) => {
                        let route = Route::answering(request, self.config.address);
                        let body = Body::Reserve { command, error: None };
                        Action::Reply(Reply { change, ..Reply::new(route, body) })
                    }
                    // The list that stands may have come over a link with larger frames.
                    Err(error) if self.state.reserve.len() > limit => self.error(request, error),
                    Err(error) => {
                        self.reply(request, Body::Reserve { command, error: Some(error) })
                    }
                }
            }
        }
    }

    /// Replaces the list. Setting the list that stands succeeds for anybody, so that a
    /// retransmission whose first answer was lost succeeds too.
    fn set_reservation(
        &mut self,
        command: ReserveCommand,
        src: Mac,
        macs: Macs<'_>,
    ) -> Result<Option<StateChange>, AoeError> {
        if self.state.reserve.iter().copied().eq(macs.clone()) {
            return Ok(None);
        }
        let allowed = command == ReserveCommand::ForceSet || self.holds_reservation(src);
        if !allowed || self.config.freeze.reserve {
            return Err(AoeError::TargetReserved);
        }
        self.state.reserve.clear();
        for mac in macs {
            // The count was compared with the capacity before.
            self.state.reserve.push(mac).map_err(|_| AoeError::BadArgument)?;
        }
        Ok(Some(StateChange::Reservation))
    }
}
