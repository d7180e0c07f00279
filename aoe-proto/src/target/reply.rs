//! Answers: small values that write a whole frame into the caller's buffer, from nothing.

use core::ops::Range;

use crate::ata::identify;
use crate::error::BufferTooSmall;
use crate::incoming::Incoming;
use crate::sectors::SECTOR_BYTES;
use crate::target::config::TargetConfig;
use crate::target::state::{StateChange, TargetState};
use crate::wire::ata::{ATA_DATA_OFFSET, AtaArg, AtaFlags};
use crate::wire::frame::FrameWriter;
use crate::wire::{
    Address, AoeError, Command, ConfigArg, ConfigCommand, Directive, DirectiveCommand,
    FRAME_LEN_MIN, HEADER_LEN, Header, Mac, MaskArg, MaskCommand, MaskError, ReserveArg,
    ReserveCommand, Tag, VERSION,
};

/// The status register of an answer.
const STATUS_READY: u8 = 0x40;
const STATUS_ERROR: u8 = 0x01;
const STATUS_FAULT: u8 = 0x20;

/// How an ATA command failed. `[AoE 5.4]`
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AtaError {
    /// Unsupported, invalid or write-protected.
    Aborted,
    /// The range reaches past the end of the disk.
    IdNotFound,
    /// The medium could not be read.
    Uncorrectable,
    /// The medium could not be written, or the overlay is full.
    WriteFault,
}

impl AtaError {
    /// The Status register: DRDY is always set.
    #[inline]
    pub const fn status(self) -> u8 {
        match self {
            Self::WriteFault => STATUS_READY | STATUS_FAULT | STATUS_ERROR,
            Self::Aborted | Self::IdNotFound | Self::Uncorrectable => STATUS_READY | STATUS_ERROR,
        }
    }

    /// The Error register.
    #[inline]
    pub const fn error(self) -> u8 {
        match self {
            Self::Aborted | Self::WriteFault => 0x04,
            Self::IdNotFound => 0x10,
            Self::Uncorrectable => 0x40,
        }
    }
}

impl core::fmt::Display for AtaError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Aborted => "command aborted",
            Self::IdNotFound => "sector not found",
            Self::Uncorrectable => "uncorrectable data",
            Self::WriteFault => "write fault",
        })
    }
}

impl core::error::Error for AtaError {}

/// Who gets an answer, from whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) dst: Mac,
    pub(super) src: Mac,
    pub(super) address: Address,
    pub(super) tag: Tag,
}

impl Route {
    /// Back to the initiator, in the target's own name even if a wildcard was asked. `[AoE 2.4]`
    #[inline]
    pub(super) fn answering(request: &Incoming<'_>, address: Address) -> Self {
        Self { dst: request.src(), src: request.own_mac(), address, tag: request.tag() }
    }

    /// A header with fresh flags: nothing of the request's flags or error byte. `[AoE 2.1]`
    #[inline]
    fn header(&self, command: Command, error: Option<AoeError>) -> [u8; HEADER_LEN] {
        let header = Header {
            dst: self.dst,
            src: self.src,
            version: VERSION,
            response: true,
            error,
            address: self.address.into(),
            command,
            tag: self.tag,
        };
        header.to_bytes()
    }
}

/// The answer to an ATA command that needs storage. Finish it with [`AtaReply::emit_ok`] or
/// [`AtaReply::emit_error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "the initiator waits for an answer"]
pub struct AtaReply {
    route: Route,
    flags: AtaFlags,
    lba: [u8; 6],
    read_sectors: u8,
}

impl AtaReply {
    /// Bytes in front of the data.
    pub const DATA_OFFSET: usize = ATA_DATA_OFFSET;

    #[inline]
    pub(super) const fn new(route: Route, arg: &AtaArg, read_sectors: u8) -> Self {
        Self { route, flags: arg.flags, lba: arg.lba, read_sectors }
    }

    /// The initiator that gets the answer.
    #[inline]
    pub const fn dst(&self) -> Mac {
        self.route.dst
    }

    /// The target that answers.
    #[inline]
    pub const fn address(&self) -> Address {
        self.route.address
    }

    /// The tag of the request, opaque.
    #[inline]
    pub const fn tag(&self) -> Tag {
        self.route.tag
    }

    /// Where in the transmit buffer a read puts its data; empty for other commands.
    #[inline]
    pub const fn data_range(&self) -> Range<usize> {
        let len = (self.read_sectors as usize).saturating_mul(SECTOR_BYTES);
        ATA_DATA_OFFSET..ATA_DATA_OFFSET.saturating_add(len)
    }

    /// Length in bytes of the frame that [`AtaReply::emit_ok`] makes.
    #[inline]
    pub const fn len_ok(&self) -> usize {
        let end = self.data_range().end;
        if end < FRAME_LEN_MIN { FRAME_LEN_MIN } else { end }
    }

    /// The 36 bytes in front of the data of a success, for callers that gather.
    #[inline]
    pub fn header_ok(&self) -> [u8; ATA_DATA_OFFSET] {
        self.head(STATUS_READY, 0, 0)
    }

    /// Completes a success around the data that already lies at [`AtaReply::data_range`], and tells
    /// the length of the frame. Everything outside the data is overwritten. `[AoE 5.4]`
    ///
    /// # Errors
    /// [`BufferTooSmall`].
    #[inline]
    pub fn emit_ok(&self, buf: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let needed = self.len_ok();
        let frame = buf.get_mut(..needed).ok_or(BufferTooSmall { needed })?;
        if let Some((head, rest)) = frame.split_first_chunk_mut::<ATA_DATA_OFFSET>() {
            *head = self.header_ok();
            if self.read_sectors == 0 {
                rest.fill(0);
            }
        }
        Ok(needed)
    }

    /// Writes a failure, without data, and tells the length of the frame. `residue` is the number
    /// of sectors not transferred. `[AoE 5.3]` `[AoE 5.4]`
    ///
    /// # Errors
    /// [`BufferTooSmall`].
    #[inline]
    pub fn emit_error(
        &self,
        buf: &mut [u8],
        error: AtaError,
        residue: u8,
    ) -> Result<usize, BufferTooSmall> {
        let mut frame = FrameWriter::new(buf, 0)?;
        frame.put(&self.head(error.status(), error.error(), residue));
        Ok(frame.finish())
    }

    #[inline]
    fn head(&self, status: u8, error: u8, count: u8) -> [u8; ATA_DATA_OFFSET] {
        let registers = AtaArg {
            flags: self.flags,
            error_feature: error,
            count,
            command_status: status,
            lba: self.lba,
        };
        let mut head = [0; ATA_DATA_OFFSET];
        // Constant lengths all the way: a few moves, where a chained copy would loop over bytes.
        if let Some((front, rest)) = head.split_first_chunk_mut() {
            *front = self.route.header(Command::Ata, None);
            if let Some(rest) = rest.first_chunk_mut() {
                *rest = registers.to_bytes();
            }
        }
        head
    }
}

/// A complete answer. [`Target::emit`](crate::Target::emit) writes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "the initiator waits for an answer"]
pub struct Reply {
    pub(super) route: Route,
    pub(super) body: Body,
    pub(super) change: Option<StateChange>,
}

/// What an answer says behind the common header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// Nothing but an error.
    Error { command: Command, error: AoeError },
    /// ATA registers without data.
    Registers(AtaArg),
    /// The IDENTIFY page.
    Identify { flags: AtaFlags, lba: [u8; 6], sectors_max: u8 },
    /// The configuration with its string.
    Config { command: ConfigCommand, error: Option<AoeError>, sectors_max: u8 },
    /// The whole mask list.
    Mask { command: MaskCommand },
    /// A mask edit that stopped after `count` directives.
    MaskStopped { error: MaskError, count: u8 },
    /// A mask command that was refused as a whole.
    MaskRefused { command: MaskCommand },
    /// The reservation list, with or without an error.
    Reserve { command: ReserveCommand, error: Option<AoeError> },
    /// A reserve command that was refused for its form.
    ReserveRefused { command: ReserveCommand },
}

impl Reply {
    #[inline]
    pub(super) const fn new(route: Route, body: Body) -> Self {
        Self { route, body, change: None }
    }

    /// The initiator that gets the answer.
    #[inline]
    pub const fn dst(&self) -> Mac {
        self.route.dst
    }

    /// The target that answers.
    #[inline]
    pub const fn address(&self) -> Address {
        self.route.address
    }

    /// What the request changed. Persist [`Target::state`](crate::Target::state) before the answer
    /// leaves, or a crash takes back what the initiator was told. `[AoE 4.1]`
    #[inline]
    pub const fn change(&self) -> Option<StateChange> {
        self.change
    }

    /// The AoE error the answer carries. Worth a rate limit per initiator, as anybody can cause
    /// them. `[AoE 9 item 13]`
    #[inline]
    pub const fn error(&self) -> Option<AoeError> {
        match self.body {
            Body::Error { error, .. } => Some(error),
            Body::Config { error, .. } | Body::Reserve { error, .. } => error,
            Body::MaskRefused { .. } | Body::ReserveRefused { .. } => Some(AoeError::BadArgument),
            Body::Registers(_)
            | Body::Identify { .. }
            | Body::Mask { .. }
            | Body::MaskStopped { .. } => None,
        }
    }

    pub(super) fn emit(
        &self,
        config: &TargetConfig,
        state: &TargetState,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        match self.body {
            Body::Error { command, error } => self.emit_parts(command, Some(error), buf, &[]),
            Body::Registers(arg) => self.emit_parts(Command::Ata, None, buf, &arg.to_bytes()),
            Body::Identify { flags, lba, sectors_max } => {
                self.emit_identify(config, flags, lba, sectors_max, buf)
            }
            Body::Config { command, error, sectors_max } => {
                let string = &state.config_string;
                let arg = ConfigArg {
                    buffer_count: config.buffer_count,
                    firmware: config.firmware,
                    sector_count: sectors_max,
                    version: VERSION,
                    command,
                    string_len: u16::try_from(string.len()).unwrap_or(u16::MAX),
                };
                let mut frame = FrameWriter::new(buf, HEADER_LEN + 8 + string.len())?;
                frame.put(&self.route.header(Command::Config, error));
                frame.put(&arg.to_bytes());
                frame.put(string);
                Ok(frame.finish())
            }
            Body::Mask { command } => {
                let count = u8::try_from(state.mask.len()).unwrap_or(u8::MAX);
                let arg = MaskArg { command, error: MaskError::None, count };
                let mut frame = FrameWriter::new(buf, HEADER_LEN + 4 + 8 * state.mask.len())?;
                frame.put(&self.route.header(Command::MacMask, None));
                frame.put(&arg.to_bytes());
                for mac in &state.mask {
                    let entry = Directive { command: DirectiveCommand::None, mac: *mac };
                    frame.put(&entry.to_bytes());
                }
                Ok(frame.finish())
            }
            Body::MaskStopped { error, count } => {
                let arg = MaskArg { command: MaskCommand::Edit, error, count };
                self.emit_parts(Command::MacMask, None, buf, &arg.to_bytes())
            }
            Body::MaskRefused { command } => {
                let arg = MaskArg { command, error: MaskError::None, count: 0 };
                self.emit_parts(Command::MacMask, self.error(), buf, &arg.to_bytes())
            }
            Body::Reserve { command, error } => {
                let count = u8::try_from(state.reserve.len()).unwrap_or(u8::MAX);
                let mut frame = FrameWriter::new(buf, HEADER_LEN + 2 + 6 * state.reserve.len())?;
                frame.put(&self.route.header(Command::Reserve, error));
                frame.put(&ReserveArg { command, count }.to_bytes());
                for mac in &state.reserve {
                    frame.put(&mac.0);
                }
                Ok(frame.finish())
            }
            Body::ReserveRefused { command } => {
                let arg = ReserveArg { command, count: 0 };
                self.emit_parts(Command::Reserve, self.error(), buf, &arg.to_bytes())
            }
        }
    }

    /// A frame of a header and a short argument.
    fn emit_parts(
        &self,
        command: Command,
        error: Option<AoeError>,
        buf: &mut [u8],
        argument: &[u8],
    ) -> Result<usize, BufferTooSmall> {
        let mut frame = FrameWriter::new(buf, HEADER_LEN + argument.len())?;
        frame.put(&self.route.header(command, error));
        frame.put(argument);
        Ok(frame.finish())
    }

    fn emit_identify(
        &self,
        config: &TargetConfig,
        flags: AtaFlags,
        lba: [u8; 6],
        sectors_max: u8,
        buf: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let arg = AtaArg { flags, lba, command_status: STATUS_READY, ..AtaArg::default() };
        let mut frame = FrameWriter::new(buf, ATA_DATA_OFFSET + SECTOR_BYTES)?;
        frame.put(&self.route.header(Command::Ata, None));
        frame.put(&arg.to_bytes());
        if let Some(page) = frame.take(SECTOR_BYTES).and_then(|page| page.first_chunk_mut()) {
            identify::fill(page, config, sectors_max);
        }
        Ok(frame.finish())
    }
}

/// Registers of an answer without data.
#[inline]
pub(super) const fn registers(arg: &AtaArg, outcome: Result<u8, AtaError>) -> AtaArg {
    let (status, error, count) = match outcome {
        Ok(count) => (STATUS_READY, 0, count),
        // Nothing was transferred.
        Err(error) => (error.status(), error.error(), arg.count),
    };
    AtaArg { flags: arg.flags, error_feature: error, count, command_status: status, lba: arg.lba }
}
