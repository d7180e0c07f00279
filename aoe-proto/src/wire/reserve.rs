//! Command 3: Reserve/Release, bytes 24 to 26 and the addresses. `[AoE 7.2]`

use crate::wire::addr::Mac;

/// Bytes of the fixed part of the argument.
pub const RESERVE_ARG_LEN: usize = 2;
/// Bytes of one address.
pub const MAC_LEN: usize = 6;

/// The RCmd byte.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReserveCommand {
    /// 0: read the list.
    Read,
    /// 1: replace the list if it is empty or holds the sender.
    Set,
    /// 2: replace the list.
    ForceSet,
    /// Without a meaning in the protocol.
    Other(u8),
}

impl From<u8> for ReserveCommand {
    #[inline]
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Set,
            2 => Self::ForceSet,
            other => Self::Other(other),
        }
    }
}

impl From<ReserveCommand> for u8 {
    #[inline]
    fn from(command: ReserveCommand) -> Self {
        match command {
            ReserveCommand::Read => 0,
            ReserveCommand::Set => 1,
            ReserveCommand::ForceSet => 2,
            ReserveCommand::Other(code) => code,
        }
    }
}

/// The fixed part of a Reserve/Release argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReserveArg {
    /// Read, set or force.
    pub command: ReserveCommand,
    /// Addresses that follow.
    pub count: u8,
}

impl ReserveArg {
    /// Splits an argument into its fixed part and whatever follows. `None` if incomplete.
    #[inline]
    pub fn parse(argument: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = argument.split_first_chunk::<RESERVE_ARG_LEN>()?;
        let [command, count] = *fixed;
        Some((Self { command: command.into(), count }, rest))
    }

    /// The claimed addresses within what follows. `None` if they are not all there.
    #[inline]
    pub fn macs<'a>(&self, rest: &'a [u8]) -> Option<Macs<'a>> {
        let (entries, _) = rest.as_chunks::<MAC_LEN>();
        entries.get(..usize::from(self.count)).map(|entries| Macs { entries })
    }

    /// The 2 bytes.
    #[inline]
    pub fn to_bytes(&self) -> [u8; RESERVE_ARG_LEN] {
        [self.command.into(), self.count]
    }
}

/// The addresses of a frame, in order.
#[derive(Clone, Copy, Debug)]
pub struct Macs<'a> {
    entries: &'a [[u8; MAC_LEN]],
}

impl Iterator for Macs<'_> {
    type Item = Mac;

    #[inline]
    fn next(&mut self) -> Option<Mac> {
        let (first, rest) = self.entries.split_first()?;
        self.entries = rest;
        Some(Mac(*first))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.entries.len(), Some(self.entries.len()))
    }
}

impl ExactSizeIterator for Macs<'_> {}
