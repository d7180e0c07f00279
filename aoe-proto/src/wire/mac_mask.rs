//! Command 2: the MAC mask list, bytes 24 to 28 and the directives. `[AoE 7.1]`

use crate::wire::addr::Mac;
use crate::wire::code::codes;

/// Bytes of the fixed part of the argument.
pub const MASK_ARG_LEN: usize = 4;
/// Bytes of one directive.
pub const DIRECTIVE_LEN: usize = 8;

codes! {
    /// The `MCmd` byte.
    pub enum MaskCommand {
        /// Read the list.
        Read = 0,
        /// Apply the directives.
        Edit = 1,
    }
}

codes! {
    /// The `MError` byte of a response; not an AoE error.
    pub enum MaskError {
        /// None.
        None = 0,
        /// Unspecified.
        Unspecified = 1,
        /// Bad directive command.
        BadDirective = 2,
        /// The list is full.
        ListFull = 3,
    }
}

codes! {
    /// The `DCmd` byte of a directive.
    pub enum DirectiveCommand {
        /// Nothing to do; also the command of every entry in a response.
        None = 0,
        /// Add the address.
        Add = 1,
        /// Delete the address.
        Delete = 2,
    }
}

/// One entry of the argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Directive {
    /// What to do with the address.
    pub command: DirectiveCommand,
    /// The address.
    pub mac: Mac,
}

impl Directive {
    /// Reads one entry; the reserved byte is ignored.
    #[inline]
    pub fn from_bytes(bytes: [u8; DIRECTIVE_LEN]) -> Self {
        let [_, command, m0, m1, m2, m3, m4, m5] = bytes;
        Self { command: command.into(), mac: Mac([m0, m1, m2, m3, m4, m5]) }
    }

    /// The 8 bytes, the reserved one zero.
    #[inline]
    pub fn to_bytes(self) -> [u8; DIRECTIVE_LEN] {
        let [m0, m1, m2, m3, m4, m5] = self.mac.0;
        [0, self.command.into(), m0, m1, m2, m3, m4, m5]
    }
}

/// The fixed part of a MAC mask argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MaskArg {
    /// Read or edit.
    pub command: MaskCommand,
    /// What went wrong, in a response.
    pub error: MaskError,
    /// Directives that follow; after a failed edit, those that were processed.
    pub count: u8,
}

impl MaskArg {
    /// Splits an argument into its fixed part and whatever follows. `None` if incomplete.
    #[inline]
    pub fn parse(argument: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = argument.split_first_chunk::<MASK_ARG_LEN>()?;
        let [_, command, error, count] = *fixed;
        Some((Self { command: command.into(), error: error.into(), count }, rest))
    }

    /// The claimed directives within what follows. `None` if they are not all there.
    #[inline]
    pub fn directives<'a>(&self, rest: &'a [u8]) -> Option<Directives<'a>> {
        let (entries, _) = rest.as_chunks::<DIRECTIVE_LEN>();
        entries.get(..usize::from(self.count)).map(|entries| Directives { entries })
    }

    /// The 4 bytes, the reserved one zero.
    #[inline]
    pub fn to_bytes(&self) -> [u8; MASK_ARG_LEN] {
        [0, self.command.into(), self.error.into(), self.count]
    }
}

/// The directives of a frame, in order.
#[derive(Clone, Debug)]
pub struct Directives<'a> {
    entries: &'a [[u8; DIRECTIVE_LEN]],
}

impl Iterator for Directives<'_> {
    type Item = Directive;

    #[inline]
    fn next(&mut self) -> Option<Directive> {
        let (first, rest) = self.entries.split_first()?;
        self.entries = rest;
        Some(Directive::from_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 20] =
        [0x99, 0x01, 0x03, 0x02, 0x99, 0x01, 2, 0, 0, 0, 0, 1, 0x00, 0x02, 2, 0, 0, 0, 0, 2];

    #[test]
    fn both_directions() {
        let (arg, rest) = MaskArg::parse(&BYTES).unwrap();
        let expected = MaskArg { command: MaskCommand::Edit, error: MaskError::ListFull, count: 2 };
        assert_eq!(arg, expected);
        assert_eq!(arg.to_bytes(), [0, 1, 3, 2]);
        let mut directives = arg.directives(rest).unwrap();
        let add = Directive { command: DirectiveCommand::Add, mac: Mac([2, 0, 0, 0, 0, 1]) };
        assert_eq!(directives.next(), Some(add));
        assert_eq!(add.to_bytes(), [0, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(directives.next().unwrap().command, DirectiveCommand::Delete);
        assert_eq!(directives.next(), None);
    }

    #[test]
    fn counts_that_lie() {
        let (arg, rest) = MaskArg::parse(&BYTES).unwrap();
        assert!(MaskArg { count: 3, ..arg }.directives(rest).is_none());
        assert!(arg.directives(&rest[..15]).is_none());
        assert_eq!(MaskArg { count: 0, ..arg }.directives(&[]).unwrap().next(), None);
        assert_eq!(MaskArg::parse(&BYTES[..3]), None);
    }
}
