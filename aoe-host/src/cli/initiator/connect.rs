//! From arguments to a conversation with one target.

use aoe_proto::Address;

use super::TargetArgs;
use crate::error::Result;
use crate::initiator::Session;
use crate::link::pnet::PnetLink;

/// Opens the interface and runs `conversation` with the target.
pub(super) fn with_session<T>(
    args: &TargetArgs,
    address: Address,
    conversation: impl FnOnce(&mut Session<'_>) -> Result<T>,
) -> Result<T> {
    let mut link = PnetLink::open(&args.interface)?;
    let mut session = Session::new(&mut link, address, args.timeout)?;
    conversation(&mut session)
}
