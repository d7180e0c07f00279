//! From arguments to a conversation with one target.

use aoe_proto::Address;

use super::TargetArgs;
use crate::config::LinkKind;
use crate::error::Result;
use crate::initiator::Session;
use crate::link::{self, Room};

/// Opens the interface and runs `conversation` with the target.
pub(super) fn with_session<T>(
    args: &TargetArgs,
    address: Address,
    conversation: impl FnOnce(&mut Session<'_>) -> Result<T>,
) -> Result<T> {
    let mut link = link::open(LinkKind::Auto, &args.interface, Room::default())?;
    let mut session = Session::new(link.as_mut(), address, args.timeout)?;
    conversation(&mut session)
}
