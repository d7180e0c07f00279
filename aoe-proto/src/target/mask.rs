//! Decisions about the MAC mask list. `[AoE 7.1]`

use super::reply::{Body, Reply, Route};
use super::{Action, MASK_ENTRIES_MAX, StateChange, Target};
use crate::error::Refusal;
use crate::incoming::Incoming;
use crate::link::LinkLimits;
use crate::wire::mac_mask::Directives;
use crate::wire::{Directive, DirectiveCommand, MaskArg, MaskCommand, MaskError};

impl Target {
    /// Steps 5 to 7 of `[AoE 10]` for command 2.
    pub(super) fn mask<'f>(&mut self, request: &Incoming<'f>, link: LinkLimits) -> Action<'f> {
        let Some((arg, rest)) = MaskArg::parse(request.argument()) else {
            return Action::Ignore(Refusal::ShortArgument { len: request.len() });
        };
        let command = arg.command;
        let refused = Body::MaskRefused { command };
        match command {
            MaskCommand::Read if self.mask_fits(link) => {
                self.reply(request, Body::Mask { command })
            }
            MaskCommand::Read | MaskCommand::Other(_) => self.reply(request, refused),
            MaskCommand::Edit => {
                if self.refuses_change(request) {
                    return Action::Ignore(Refusal::WildcardChange);
                }
                let Some(directives) = arg.directives(rest) else {
                    return self.reply(request, refused);
                };
                let edit = self.edit_mask(directives, link);
                let body = match edit.error {
                    MaskError::None if self.mask_fits(link) => Body::Mask { command },
                    // Done, but the list is longer than this link can carry.
                    MaskError::None => {
                        Body::MaskStopped { error: MaskError::Unspecified, count: edit.processed }
                    }
                    error => Body::MaskStopped { error, count: edit.processed },
                };
                let route = Route::answering(request, self.config.address);
                let change = edit.changed.then_some(StateChange::MacMask);
                Action::Reply(Reply { change, ..Reply::new(route, body) })
            }
        }
    }

    fn mask_fits(&self, link: LinkLimits) -> bool {
        self.state.mask.len() <= link.mask_entries_max()
    }

    /// Applies directives in order up to the first that fails; those before it stay applied.
    fn edit_mask(&mut self, directives: Directives<'_>, link: LinkLimits) -> Edit {
        let limit = link.mask_entries_max().min(MASK_ENTRIES_MAX);
        let mut edit = Edit { processed: 0, changed: false, error: MaskError::None };
        for directive in directives {
            match self.edit_mask_once(directive, limit) {
                Ok(changed) => edit.changed |= changed,
                Err(error) => return Edit { error, ..edit },
            }
            edit.processed = edit.processed.saturating_add(1);
        }
        edit
    }

    /// Tells whether the list changed: adding a member and deleting a stranger succeed without.
    fn edit_mask_once(&mut self, directive: Directive, limit: usize) -> Result<bool, MaskError> {
        let mask = &mut self.state.mask;
        let present = mask.contains(&directive.mac);
        let changes = match directive.command {
            DirectiveCommand::None => false,
            DirectiveCommand::Add => !present,
            DirectiveCommand::Delete => present,
            DirectiveCommand::Other(_) => return Err(MaskError::BadDirective),
        };
        if !changes {
            return Ok(false);
        }
        if self.config.freeze.mask {
            return Err(MaskError::Unspecified);
        }
        if present {
            mask.retain(|mac| *mac != directive.mac);
        } else if mask.len() >= limit || mask.push(directive.mac).is_err() {
            return Err(MaskError::ListFull);
        }
        Ok(true)
    }
}

/// How far an edit came.
struct Edit {
    processed: u8,
    changed: bool,
    error: MaskError,
}
