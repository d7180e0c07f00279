//! Finding targets: a broadcast query and its answers. `[AoE 8.1]`

use crate::error::{BufferTooSmall, Refusal};
use crate::wire::frame::FrameWriter;
use crate::wire::{
    Address, AddressPattern, Command, ConfigArg, ConfigCommand, HEADER_LEN, Header, Mac, Tag,
    VERSION,
};

/// The tag of every query. The Linux driver of the same machine ignores answers to tags with the
/// top bit set, so it does not take ours for its own. `[AoE 2.6]`
pub const QUERY_TAG: Tag = Tag([0x80, 0, 0, 0]);

/// Writes a query for every target that `pattern` means, and tells the length of the frame. It goes
/// to all machines; answers come until nobody has any, so collect for a second or so and repeat
/// once.
///
/// # Errors
/// [`BufferTooSmall`]: 60 bytes suffice.
pub fn emit_query(
    buf: &mut [u8],
    own_mac: Mac,
    pattern: AddressPattern,
) -> Result<usize, BufferTooSmall> {
    let header = Header {
        dst: Mac::BROADCAST,
        src: own_mac,
        version: VERSION,
        response: false,
        error: None,
        address: pattern,
        command: Command::Config,
        tag: QUERY_TAG,
    };
    let arg = ConfigArg {
        buffer_count: 0,
        firmware: 0,
        sector_count: 0,
        version: 0,
        command: ConfigCommand::Read,
        string_len: 0,
    };
    let mut frame = FrameWriter::new(buf, HEADER_LEN + 8)?;
    frame.put(&header.to_bytes());
    frame.put(&arg.to_bytes());
    Ok(frame.finish())
}

/// What a target tells about itself, asked or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found<'f> {
    /// The machine that answers.
    pub mac: Mac,
    /// The target.
    pub address: Address,
    /// Messages the target can queue.
    pub buffer_count: u16,
    /// Firmware version.
    pub firmware: u16,
    /// Most sectors per command; at least 1.
    pub sectors_max: u8,
    /// The config string.
    pub string: &'f [u8],
}

impl<'f> Found<'f> {
    /// Reads a Query/Config response, be it an answer or an advertisement.
    ///
    /// # Errors
    /// Anything else is refused, answers to other machines included.
    pub fn parse(frame: &'f [u8], own_mac: Mac) -> Result<Self, Refusal> {
        let (header, argument) = Header::parse(frame)?;
        super::check_response(&header, own_mac)?;
        if header.command != Command::Config {
            return Err(Refusal::OtherCommand);
        }
        let address = header.address.exact().ok_or(Refusal::OtherAddress)?;
        let short = Refusal::ShortArgument { len: frame.len() };
        let (arg, rest) = ConfigArg::parse(argument).ok_or(short)?;
        Ok(Self {
            mac: header.src,
            address,
            buffer_count: arg.buffer_count,
            firmware: arg.firmware,
            // 0 means 2, for compatibility. `[AoE 4]`
            sectors_max: if arg.sector_count == 0 { 2 } else { arg.sector_count },
            string: arg.string(rest).ok_or(short)?,
        })
    }
}
