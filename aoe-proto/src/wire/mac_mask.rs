//! Command 2: the MAC mask list, bytes 24 to 28 and the directives. `[AoE 7.1]`

use crate::wire::addr::Mac;

/// Bytes of the fixed part of the argument.
pub const MASK_ARG_LEN: usize = 4;
/// Bytes of one directive.
pub const DIRECTIVE_LEN: usize = 8;

/// The MCmd byte.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MaskCommand {
    /// 0: read the list.
    Read,
    /// 1: apply the directives.
    Edit,
    /// Without a meaning in the protocol.
    Other(u8),
}

impl From<u8> for MaskCommand {
    #[inline]
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Edit,
            other => Self::Other(other),
        }
    }
}

impl From<MaskCommand> for u8 {
    #[inline]
    fn from(command: MaskCommand) -> Self {
        match command {
            MaskCommand::Read => 0,
            MaskCommand::Edit => 1,
            MaskCommand::Other(code) => code,
        }
    }
}

/// The MError byte of a response; not an AoE error.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MaskError {
    /// 0: none.
    None,
    /// 1: unspecified.
    Unspecified,
    /// 2: bad directive command.
    BadDirective,
    /// 3: the list is full.
    ListFull,
    /// Without a meaning in the protocol.
    Other(u8),
}

impl From<u8> for MaskError {
    #[inline]
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Unspecified,
            2 => Self::BadDirective,
            3 => Self::ListFull,
            other => Self::Other(other),
        }
    }
}

impl From<MaskError> for u8 {
    #[inline]
    fn from(error: MaskError) -> Self {
        match error {
            MaskError::None => 0,
            MaskError::Unspecified => 1,
            MaskError::BadDirective => 2,
            MaskError::ListFull => 3,
            MaskError::Other(code) => code,
        }
    }
}

/// The DCmd byte of a directive.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DirectiveCommand {
    /// 0: nothing to do; also the command of every entry in a response.
    None,
    /// 1: add the address.
    Add,
    /// 2: delete the address.
    Delete,
    /// Without a meaning in the protocol.
    Other(u8),
}

impl From<u8> for DirectiveCommand {
    #[inline]
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Add,
            2 => Self::Delete,
            other => Self::Other(other),
        }
    }
}

impl From<DirectiveCommand> for u8 {
    #[inline]
    fn from(command: DirectiveCommand) -> Self {
        match command {
            DirectiveCommand::None => 0,
            DirectiveCommand::Add => 1,
            DirectiveCommand::Delete => 2,
            DirectiveCommand::Other(code) => code,
        }
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
        let [_, command, a, b, c, d, e, f] = bytes;
        Self { command: command.into(), mac: Mac([a, b, c, d, e, f]) }
    }

    /// The 8 bytes, the reserved one zero.
    #[inline]
    pub fn to_bytes(self) -> [u8; DIRECTIVE_LEN] {
        let [a, b, c, d, e, f] = self.mac.0;
        [0, self.command.into(), a, b, c, d, e, f]
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
#[derive(Clone, Copy, Debug)]
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
