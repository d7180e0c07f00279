//! Command 3: Reserve/Release, bytes 24 to 26 and the addresses. `[AoE 7.2]`

use crate::wire::addr::Mac;
use crate::wire::code::codes;

/// Bytes of the fixed part of the argument.
pub const RESERVE_ARG_LEN: usize = 2;
/// Bytes of one address.
pub const MAC_LEN: usize = 6;

codes! {
    /// The `RCmd` byte.
    pub enum ReserveCommand {
        /// Read the list.
        Read = 0,
        /// Replace the list if it is empty or holds the sender.
        Set = 1,
        /// Replace the list.
        ForceSet = 2,
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
#[derive(Clone, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const BYTES: [u8; 14] = [0x02, 0x02, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    #[test]
    fn both_directions() {
        let (arg, rest) = ReserveArg::parse(&BYTES).unwrap();
        assert_eq!(arg, ReserveArg { command: ReserveCommand::ForceSet, count: 2 });
        assert_eq!(arg.to_bytes(), BYTES[..2]);
        let macs: Vec<_> = arg.macs(rest).unwrap().collect();
        assert_eq!(macs, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
    }

    #[test]
    fn counts_that_lie() {
        let (arg, rest) = ReserveArg::parse(&BYTES).unwrap();
        assert!(ReserveArg { count: 3, ..arg }.macs(rest).is_none());
        assert!(arg.macs(&rest[..11]).is_none());
        assert_eq!(arg.macs(rest).unwrap().len(), 2);
        assert_eq!(ReserveArg::parse(&BYTES[..1]), None);
    }
}
