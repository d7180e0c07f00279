//! Writes the frames: of stimuli, and of the harness's own questions.

use super::stimulus::{
    Argument, Ata, Config, Cut, Data, JUNK, Mask, Part, Reserve, Stimulus, Tail,
};
use super::value::{Facts, Value, pattern};
use crate::ata::command::{AtaCommand, LbaWidth, opcode};
use crate::sectors::SECTOR_BYTES;
use crate::wire::{
    AtaArg, AtaFlags, ETHERTYPE, FRAME_LEN_MIN, HEADER_LEN, Header, Mac, Tag, TrimEntry,
};

/// The Ethernet type of a VLAN tag.
const VLAN_TYPE: u16 = 0x8100;
/// Bytes of a VLAN tag.
pub(super) const VLAN_LEN: usize = 4;

/// Why a frame cannot be sent to this target over this link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Unfit {
    /// Something that the target has not told, or a number below 0.
    Unknown(Value),
    /// A number larger than its field: the disk is too large for 28 bits, or the count for 8.
    TooLarge(Value),
    /// Longer than the MTU of our link, or than the memory lent.
    FrameTooLong,
    /// A change outside of the window, or a comparison with sectors of which only those of the window
    /// are known.
    OutsideWindow,
    /// The disk ends before the sectors that the request is about.
    DiskTooSmall,
    /// There is no second MAC address.
    NoSecondMac,
}

/// A frame under construction. What does not fit is left out, and [`Draft::finish`] tells.
pub(super) struct Draft<'b> {
    buf: &'b mut [u8],
    len: usize,
    overflow: bool,
}

impl<'b> Draft<'b> {
    pub(super) fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, len: 0, overflow: false }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.extend(bytes.iter().copied());
    }

    pub(super) fn extend(&mut self, bytes: impl Iterator<Item = u8>) {
        for byte in bytes {
            match self.buf.get_mut(self.len) {
                Some(to) => {
                    *to = byte;
                    self.len = self.len.saturating_add(1);
                }
                None => self.overflow = true,
            }
        }
    }

    /// Fills up to `len` bytes.
    pub(super) fn pad(&mut self, len: usize, byte: u8) {
        self.extend(core::iter::repeat_n(byte, len.saturating_sub(self.len)));
    }

    /// The length, unless something did not fit.
    pub(super) fn finish(self) -> Result<usize, Unfit> {
        if self.overflow { Err(Unfit::FrameTooLong) } else { Ok(self.len) }
    }
}

/// A plain request of the harness itself: header, argument, padding.
pub(super) fn request(
    buf: &mut [u8],
    header: Header,
    argument: &[u8],
    data: impl Iterator<Item = u8>,
) -> Result<usize, Unfit> {
    let mut draft = Draft::new(buf);
    draft.put(&header.to_bytes());
    draft.put(argument);
    draft.extend(data);
    draft.pad(FRAME_LEN_MIN, 0);
    draft.finish()
}

/// Writes a stimulus with `tag`, unless it brings its own, and tells its length.
pub(super) fn stimulus(
    buf: &mut [u8],
    stimulus: &Stimulus,
    tag: u32,
    facts: &Facts,
) -> Result<usize, Unfit> {
    let mut draft = Draft::new(buf);
    header(&mut draft, stimulus, tag, facts)?;
    match stimulus.argument {
        Argument::Bytes(bytes) => draft.put(bytes),
        Argument::Ata(ata) => self::ata(&mut draft, &ata, facts)?,
        Argument::Config(config) => self::config(&mut draft, &config),
        Argument::Mask(mask) => self::mask(&mut draft, &mask, facts)?,
        Argument::Reserve(reserve) => self::reserve(&mut draft, &reserve, facts)?,
    }
    let tagged = if stimulus.vlan.is_some() { VLAN_LEN } else { 0 };
    let shortest = FRAME_LEN_MIN.saturating_add(tagged);
    match stimulus.tail {
        Tail::None => {}
        Tail::Pad => draft.pad(shortest, 0),
        Tail::Junk(len) => {
            let end = draft.len.saturating_add(usize::from(len));
            draft.pad(end.max(shortest), JUNK);
        }
    }
    let whole = draft.finish()?;
    let len = match stimulus.cut {
        Cut::Nowhere => whole,
        Cut::At(len) => whole.min(usize::from(len).saturating_add(tagged)),
        Cut::Short(by) => whole.saturating_sub(usize::from(by)),
    };
    if len > usize::from(facts.mtu).saturating_add(14).saturating_add(tagged) {
        return Err(Unfit::FrameTooLong);
    }
    Ok(len)
}

fn header(
    draft: &mut Draft<'_>,
    stimulus: &Stimulus,
    tag: u32,
    facts: &Facts,
) -> Result<(), Unfit> {
    let dst = stimulus.to.mac(facts).ok_or(Unfit::NoSecondMac)?;
    let src = stimulus.from.mac(facts).ok_or(Unfit::NoSecondMac)?;
    draft.put(&dst.0);
    draft.put(&src.0);
    if let Some(id) = stimulus.vlan {
        draft.put(&VLAN_TYPE.to_be_bytes());
        draft.put(&id.to_be_bytes());
    }
    draft.put(&ETHERTYPE.to_be_bytes());
    let shelf = match stimulus.shelf {
        Part::Own => facts.address.shelf(),
        Part::All => 0xffff,
        Part::Other => facts.address.shelf() ^ 0x0101,
    };
    let slot = match stimulus.slot {
        Part::Own => facts.address.slot(),
        Part::All => 0xff,
        Part::Other => facts.address.slot() ^ 0x21,
    };
    // The neighbours of the wildcards, so that "other" never means "all".
    let shelf = if stimulus.shelf == Part::Other && shelf == 0xffff { 0xfffe } else { shelf };
    let slot = if stimulus.slot == Part::Other && slot == 0xff { 0xfe } else { slot };
    draft.put(&[stimulus.version << 4 | stimulus.flags & 0x0f, stimulus.error]);
    draft.put(&shelf.to_be_bytes());
    draft.put(&[slot, stimulus.command]);
    draft.put(&stimulus.tag.unwrap_or(tag).to_be_bytes());
    Ok(())
}

fn number(value: Value, facts: &Facts) -> Result<u64, Unfit> {
    value.resolve(facts).ok_or(Unfit::Unknown(value))
}

/// The LBA of a request, within the bits that its registers have.
fn lba(ata: &Ata, facts: &Facts) -> Result<u64, Unfit> {
    let lba = number(ata.lba, facts)?;
    let wide = match AtaCommand::decode(ata.opcode) {
        AtaCommand::Read(width)
        | AtaCommand::Write { width, .. }
        | AtaCommand::Verify(width)
        | AtaCommand::ReadNativeMax(width) => width == LbaWidth::Lba48,
        _ => true,
    };
    if lba >> (if wide { 48 } else { 28 }) != 0 {
        return Err(Unfit::TooLarge(ata.lba));
    }
    Ok(lba)
}

/// The 28-bit form of READ and WRITE EXT, for targets that have no other.
fn adapted(ata: &Ata, facts: &Facts) -> Ata {
    let opcode = match ata.opcode {
        opcode::READ_SECTORS_EXT => opcode::READ_SECTORS,
        opcode::WRITE_SECTORS_EXT => opcode::WRITE_SECTORS,
        _ => return *ata,
    };
    if facts.lba48 || !ata.adapts {
        return *ata;
    }
    Ata { opcode, flags: ata.flags & !AtaFlags::EXTENDED.0, ..*ata }
}

fn ata(draft: &mut Draft<'_>, ata: &Ata, facts: &Facts) -> Result<(), Unfit> {
    let ata = &adapted(ata, facts);
    let lba = lba(ata, facts)?;
    let count = number(ata.count, facts)?;
    let count = u8::try_from(count).map_err(|_| Unfit::TooLarge(ata.count))?;
    permit(ata, lba, count, facts)?;
    let mut registers = AtaArg::lba_registers(lba);
    for (register, extra) in registers.iter_mut().zip(ata.lba_extra) {
        *register |= extra;
    }
    let arg = AtaArg {
        flags: AtaFlags(ata.flags),
        error_feature: ata.feature,
        count,
        command_status: ata.opcode,
        lba: registers,
    };
    draft.put(&arg.to_bytes());
    match ata.data {
        Data::None => {}
        Data::Zeros { sectors } => {
            let len = sectors_len(sectors, facts)?;
            draft.extend(core::iter::repeat_n(0, len));
        }
        Data::Pattern { seed, sectors } => {
            let count = number(sectors, facts)?;
            sectors_len(sectors, facts)?;
            for sector in 0..count {
                let sector = lba.saturating_add(sector);
                draft.extend((0..SECTOR_BYTES).map(|at| pattern(seed, sector, at)));
            }
        }
        Data::Trim(ranges) => trim(draft, ranges, facts)?,
    }
    Ok(())
}

/// Bytes of that many sectors, if a frame can hold them at all.
fn sectors_len(sectors: Value, facts: &Facts) -> Result<usize, Unfit> {
    let count = u16::try_from(number(sectors, facts)?).map_err(|_| Unfit::TooLarge(sectors))?;
    Ok(usize::from(count).saturating_mul(SECTOR_BYTES))
}

/// Nothing on the disk may change outside of the window, whatever the target makes of the request.
/// What lies beyond the end of the disk does not exist.
fn permit(ata: &Ata, lba: u64, count: u8, facts: &Facts) -> Result<(), Unfit> {
    let command = AtaCommand::decode(ata.opcode);
    if !command.changes_disk() || command == AtaCommand::DataSetManagement {
        return Ok(());
    }
    // A target that counts the data instead of trusting the register writes those.
    let data = match ata.data {
        Data::Pattern { sectors, .. } | Data::Zeros { sectors } => number(sectors, facts)?,
        Data::None | Data::Trim(_) => 0,
    };
    inside(lba, data.max(u64::from(count)), facts)
}

fn inside(lba: u64, count: u64, facts: &Facts) -> Result<(), Unfit> {
    let size = facts.sectors.ok_or(Unfit::Unknown(Value::SECTORS))?;
    if !facts.beyond_end && lba.checked_add(count).is_none_or(|end| end > size) {
        // A target that takes it for a sector of its own would lose that.
        return Err(Unfit::OutsideWindow);
    }
    let count = count.min(size.saturating_sub(lba));
    if count == 0 || facts.window.is_some_and(|window| window.holds(lba, count)) {
        return Ok(());
    }
    Err(Unfit::OutsideWindow)
}

fn trim(draft: &mut Draft<'_>, ranges: &[(Value, Value)], facts: &Facts) -> Result<(), Unfit> {
    let end = draft.len.saturating_add(SECTOR_BYTES);
    for (lba, count) in ranges {
        let first = number(*lba, facts)?;
        let sectors = number(*count, facts)?;
        inside(first, sectors, facts)?;
        let count = u16::try_from(sectors).map_err(|_| Unfit::TooLarge(*count))?;
        draft.put(&TrimEntry { lba: first, count }.to_bytes());
    }
    draft.pad(end, 0);
    Ok(())
}

fn config(draft: &mut Draft<'_>, config: &Config) {
    let len = u16::try_from(config.text.len()).unwrap_or(u16::MAX);
    draft.put(&config.head);
    draft.put(&[config.ccmd]);
    draft.put(&config.claims.unwrap_or(len).to_be_bytes());
    draft.extend((0..config.text.len()).map_while(|at| config.text.at(at)));
}

fn mask(draft: &mut Draft<'_>, mask: &Mask, facts: &Facts) -> Result<(), Unfit> {
    let count = u8::try_from(mask.directives.len()).unwrap_or(u8::MAX);
    draft.put(&[0, mask.mcmd, mask.merror, mask.claims.unwrap_or(count)]);
    for (dcmd, who) in (0..mask.directives.len()).map_while(|at| mask.directives.at(at)) {
        let mac = who.mac(facts).ok_or(Unfit::NoSecondMac)?;
        draft.put(&[0, dcmd]);
        draft.put(&mac.0);
    }
    Ok(())
}

fn reserve(draft: &mut Draft<'_>, reserve: &Reserve, facts: &Facts) -> Result<(), Unfit> {
    let count = u8::try_from(reserve.holders.len()).unwrap_or(u8::MAX);
    draft.put(&[reserve.rcmd, reserve.claims.unwrap_or(count)]);
    for who in (0..reserve.holders.len()).map_while(|at| reserve.holders.at(at)) {
        draft.put(&who.mac(facts).ok_or(Unfit::NoSecondMac)?.0);
    }
    Ok(())
}

/// A frame as it was received: the VLAN tag taken out, and the parts that every judgement needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'f> {
    pub(super) frame: &'f [u8],
    pub(super) vlan: Option<u16>,
    pub(super) header: Header,
    pub(super) argument: &'f [u8],
}

impl<'f> Seen<'f> {
    /// `None` for anything that is no answer of AoE.
    ///
    /// A tag inside of the frame cannot be taken out of borrowed bytes: the link has to do that,
    /// and name the VLAN apart.
    pub(super) fn parse(frame: &'f [u8], vlan: Option<u16>) -> Option<Self> {
        let (header, argument) = Header::parse(frame).ok()?;
        header.response.then_some(Self { frame, vlan, header, argument })
    }

    pub(super) fn tag(&self) -> u32 {
        u32::from_be_bytes(self.header.tag.0)
    }
}

/// A header of the harness's own questions.
pub(super) fn question(facts: &Facts, from: Mac, command: u8, tag: u32) -> Header {
    Header {
        dst: facts.target_mac,
        src: from,
        version: 1,
        response: false,
        error: None,
        address: facts.address.into(),
        command: command.into(),
        tag: Tag(tag.to_be_bytes()),
    }
}

const _: () = assert!(HEADER_LEN == 24, "the offsets in cases count from a header of 24 bytes");
