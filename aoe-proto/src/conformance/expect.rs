//! What may come back: shapes of answers, and the checks that they are made of.

use core::fmt;
use core::ops::Range;

use super::stimulus::Text;
use super::value::{Facts, Group, Value, Who, pattern};
use crate::sectors::SECTOR_BYTES;
use crate::wire::ata::ATA_DATA_OFFSET;
use crate::wire::mac_mask::Directives;
use crate::wire::reserve::Macs;
use crate::wire::{
    CONFIG_STRING_MAX, ConfigArg, ETHERNET_LEN, HEADER_LEN, Header, MaskArg, ReserveArg,
};

/// An answer that is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What it is, in a few words.
    pub label: &'static str,
    /// The case passes, but differs from most: why that is legitimate.
    pub difference: Option<&'static str>,
    /// What has to hold, with the checks that many answers share.
    pub shape: Shape,
    /// What else has to hold.
    pub checks: &'static [Check],
}

impl Answer {
    /// An answer of a shape, without further checks.
    pub const fn new(label: &'static str, shape: Shape) -> Self {
        Self { label, difference: None, shape, checks: &[] }
    }

    /// What else has to hold.
    #[must_use]
    pub const fn with(self, checks: &'static [Check]) -> Self {
        Self { checks, ..self }
    }

    /// Another name.
    #[must_use]
    pub const fn called(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    /// Accepted with a remark.
    #[must_use]
    pub const fn differs(self, why: &'static str) -> Self {
        Self { difference: Some(why), ..self }
    }

    /// Every check, those of the shape first.
    pub fn all_checks(&self) -> impl Iterator<Item = Check> + '_ {
        self.shape
            .checks()
            .iter()
            .copied()
            .chain(self.shape.code())
            .chain(self.checks.iter().copied())
    }
}

/// The checks that many answers share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// Whatever comes, as long as something does.
    Any,
    /// The E flag is clear.
    Plain,
    /// The E flag is set, with this code.
    AoeError(u8),
    /// An ATA command that succeeded: E clear, DRDY set, and none of the bits that fail a transfer
    /// in Linux (BSY, DF, DRQ, ERR). `[AoE 5.4]`
    Done,
    /// An ATA command that failed: E clear, ERR set, BSY and DRQ clear, and these bits in the Error
    /// register. `[AoE 5.4]`
    Failed(u8),
}

const E_CLEAR: Check = Check::Bits { at: 14, mask: 0x04, is: 0 };
const E_SET: Check = Check::Bits { at: 14, mask: 0x04, is: 0x04 };

impl Shape {
    const fn checks(self) -> &'static [Check] {
        match self {
            Self::Any => &[],
            Self::Plain => &[E_CLEAR],
            Self::AoeError(_) => &[E_SET],
            Self::Done => &[E_CLEAR, Check::Bits { at: 27, mask: 0xe9, is: 0x40 }],
            Self::Failed(_) => &[E_CLEAR, Check::Bits { at: 27, mask: 0x89, is: 0x01 }],
        }
    }

    const fn code(self) -> Option<Check> {
        match self {
            Self::AoeError(code) => Some(Check::Bits { at: 15, mask: 0xff, is: code }),
            Self::Failed(bits) => Some(Check::Bits { at: 25, mask: bits, is: bits }),
            Self::Any | Self::Plain | Self::Done => None,
        }
    }
}

/// One thing that has to hold of an answer. Offsets count from the destination address, without a
/// VLAN tag.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// These bits of a byte have these values.
    Bits {
        /// Offset of the byte.
        at: u16,
        /// Which bits.
        mask: u8,
        /// Their values.
        is: u8,
    },
    /// A big-endian number.
    Number {
        /// Offset of its first byte.
        at: u16,
        /// Bytes, 1 to 8.
        len: u8,
        /// What has to hold of it.
        test: Test,
    },
    /// A word of the IDENTIFY page that the answer carries.
    Word {
        /// Number of the word, 0 to 255.
        index: u8,
        /// Which bits.
        mask: u16,
        /// What has to hold of them.
        test: Test,
    },
    /// A number of two or four words of the IDENTIFY page, the low one first.
    Words {
        /// Number of the first word.
        index: u8,
        /// How many words, 1 to 4.
        count: u8,
        /// What has to hold of the number.
        test: Test,
    },
    /// Length of the frame in bytes.
    Length(Test),
    /// An ATA answer carries data of exactly that many sectors; none may be padded to 60 bytes.
    DataLength {
        /// Number of sectors.
        sectors: Value,
    },
    /// Only zeros from here to the end of the frame.
    ZerosFrom(u16),
    /// A byte does not occur four times in a row from here on: it filled the request.
    NoRun {
        /// Offset where to start.
        from: u16,
        /// The byte.
        byte: u8,
    },
    /// These bytes are those of the request.
    Echo {
        /// Offset of the first.
        at: u16,
        /// How many.
        len: u16,
    },
    /// These bytes are those of the answer that was kept.
    Kept {
        /// Offset of the first.
        at: u16,
        /// How many; all up to the longer end if there are fewer.
        len: u16,
    },
    /// An address in the answer.
    Mac {
        /// Offset of the address: 0 is the destination, 6 the source.
        at: u16,
        /// Whose it is.
        who: Who,
    },
    /// The answer leaves in a VLAN (0: a priority tag), or in none.
    Vlan(Option<u16>),
    /// The shelf and slot of the target.
    OwnAddress,
    /// A Query/Config answer with this string, length and all.
    String(Text),
    /// A MAC mask answer with this list, in any order.
    MaskList(Group),
    /// A Reserve/Release answer with these holders, in any order.
    Holders(Group),
    /// Read data: [`pattern`](super::pattern), for a number of sectors.
    Pattern {
        /// Name of the pattern.
        seed: u8,
        /// LBA of the first sector of the data.
        lba: Value,
        /// How many sectors are compared.
        sectors: Value,
    },
    /// Read data: what the window held before the run.
    Original {
        /// LBA of the first sector of the data, inside the window.
        lba: Value,
        /// How many sectors are compared.
        sectors: Value,
    },
    /// Anything else, as a function.
    Where {
        /// What has to hold, for people.
        what: &'static str,
        /// Offset of the part in question.
        at: u16,
        /// Its length.
        len: u16,
        /// Whether it holds of an answer.
        holds: fn(&[u8], &Facts) -> bool,
    },
}

/// What has to hold of a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Test {
    /// It is this.
    Is(Value),
    /// It is anything else.
    Not(Value),
    /// It is this, or more.
    AtLeast(Value),
    /// It is this, or less.
    AtMost(Value),
}

impl Test {
    /// Equal to a literal.
    pub const fn is(value: i64) -> Self {
        Self::Is(Value::is(value))
    }

    fn holds(self, found: u64, facts: &Facts) -> bool {
        // Nothing can be said about what the target never told.
        let Some(value) = self.value().resolve(facts) else { return true };
        match self {
            Self::Is(_) => found == value,
            Self::Not(_) => found != value,
            Self::AtLeast(_) => found >= value,
            Self::AtMost(_) => found <= value,
        }
    }

    pub(super) const fn value(self) -> Value {
        let (Self::Is(value) | Self::Not(value) | Self::AtLeast(value) | Self::AtMost(value)) =
            self;
        value
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Is(_) => "",
            Self::Not(_) => "not ",
            Self::AtLeast(_) => "at least ",
            Self::AtMost(_) => "at most ",
        }
    }
}

/// What a check looks at.
pub(super) struct View<'a> {
    /// The answer.
    pub(super) frame: &'a [u8],
    /// Its VLAN.
    pub(super) vlan: Option<u16>,
    /// The request.
    pub(super) sent: &'a [u8],
    /// Bytes of the VLAN tag in front of its Ethernet type.
    pub(super) sent_tag_len: usize,
    /// The answer that was kept.
    pub(super) kept: &'a [u8],
    /// What the window held before the run.
    pub(super) window: &'a [u8],
    pub(super) facts: &'a Facts,
}

/// A check that does not hold, and where.
#[derive(Clone, Copy, Debug)]
pub struct Mismatch {
    /// The check.
    pub check: Check,
    /// First byte of the answer that is not as expected; may lie behind its end.
    pub start: usize,
    /// First byte behind the part in question.
    pub end: usize,
    /// The number (byte, address) that is expected, or compared with, where there is one.
    pub wanted: Option<u64>,
    /// The number (byte) that is there instead, where there is one.
    pub found: Option<u64>,
}

impl Mismatch {
    /// The bytes of the answer that are not as expected; may lie behind its end.
    pub const fn bytes(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: expected ", self.start)?;
        match self.check {
            Check::Bits { mask: 0xff, is, .. } => write!(f, "0x{is:02x}")?,
            Check::Bits { mask, is, .. } => write!(f, "0x{is:02x} in the bits 0x{mask:02x}")?,
            Check::Number { test, .. } => f.write_str(test.word())?,
            Check::Words { index, test, .. } => write!(f, "words {index} on: {}", test.word())?,
            Check::Word { index, mask: 0xffff, test } => {
                write!(f, "word {index}: {}", test.word())?;
            }
            Check::Word { index, mask, test } => {
                write!(f, "bits 0x{mask:04x} of word {index}: {}", test.word())?;
            }
            Check::Length(test) => write!(f, "a length of {}", test.word())?,
            Check::DataLength { .. } => f.write_str("exactly the data asked for")?,
            Check::ZerosFrom(_) => f.write_str("zeros")?,
            Check::NoRun { .. } => f.write_str("nothing of what filled the request")?,
            Check::Echo { .. } => f.write_str("what the request has there")?,
            Check::Kept { .. } => f.write_str("what the earlier answer has there")?,
            Check::Mac { who, .. } => write!(f, "the address of {}", who.name())?,
            Check::Vlan(Some(id)) => write!(f, "VLAN {id}")?,
            Check::Vlan(None) => f.write_str("no VLAN tag")?,
            Check::OwnAddress => f.write_str("the target's own shelf and slot")?,
            Check::String(text) => write!(f, "the config string of {} bytes", text.len())?,
            Check::MaskList(group) => write!(f, "the list of {} addresses", group.len())?,
            Check::Holders(group) => write!(f, "the {} holders", group.len())?,
            Check::Pattern { .. } => f.write_str("the data that were written")?,
            Check::Original { .. } => f.write_str("the data from before")?,
            Check::Where { what, .. } => f.write_str(what)?,
        }
        // What is said of a number ends with a space already.
        let number = matches!(
            self.check,
            Check::Number { .. } | Check::Words { .. } | Check::Word { .. } | Check::Length(_)
        );
        let space = if number { "" } else { " " };
        match (self.wanted, self.found) {
            (Some(wanted), Some(found)) => {
                write!(f, "{space}0x{wanted:02x} ({wanted}), found 0x{found:02x} ({found})")
            }
            (Some(wanted), None) => write!(f, "{space}0x{wanted:02x} ({wanted}), found nothing"),
            (None, Some(found)) => write!(f, ", found 0x{found:02x}"),
            (None, None) => Ok(()),
        }
    }
}

/// Where a check failed: range, wanted, found.
type Failed = (usize, usize, Option<u64>, Option<u64>);

impl Check {
    pub(super) fn hold(&self, view: &View<'_>) -> Result<(), Mismatch> {
        self.find(view).map_or(Ok(()), |(start, end, wanted, found)| {
            Err(Mismatch { check: *self, start, end, wanted, found })
        })
    }

    /// `None` if it holds.
    fn find(&self, view: &View<'_>) -> Option<Failed> {
        let frame = view.frame;
        match *self {
            Self::Bits { at, mask, is } => {
                let at = usize::from(at);
                let found = frame.get(at).copied();
                let held = found.is_some_and(|byte| byte & mask == is);
                failed(held, at, 1, None, found.map(u64::from))
            }
            Self::Number { at, len, test } => {
                let (at, len) = (usize::from(at), usize::from(len));
                let found = part(frame, at, len).map(|bytes| big(bytes.iter()));
                let held = found.is_some_and(|found| test.holds(found, view.facts));
                failed(held, at, len, test.value().resolve(view.facts), found)
            }
            Self::Word { index, mask, test } => words(view, index, 1, u64::from(mask), test),
            Self::Words { index, count, test } => words(view, index, count, u64::MAX, test),
            Self::Length(test) => {
                let found = u64::try_from(frame.len()).unwrap_or(u64::MAX);
                let wanted = test.value().resolve(view.facts);
                failed(test.holds(found, view.facts), frame.len(), 0, wanted, Some(found))
            }
            Self::DataLength { sectors } => data_length(view, sectors),
            Self::ZerosFrom(at) => {
                differing(frame, usize::from(at), frame.iter().skip(usize::from(at)).map(|_| 0))
            }
            Self::NoRun { from, byte } => run_of(frame, usize::from(from), byte),
            Self::Echo { at, len } => {
                let at = usize::from(at);
                let skip = at.saturating_add(view.sent_tag_len);
                differing(frame, at, view.sent.iter().copied().skip(skip).take(usize::from(len)))
            }
            Self::Kept { at, len } => kept(view, usize::from(at), usize::from(len)),
            Self::Mac { at, who } => {
                let mac = who.mac(view.facts)?;
                differing(frame, usize::from(at), mac.0.into_iter())
            }
            Self::Vlan(vlan) => failed(view.vlan == vlan, ETHERNET_LEN - 2, 2, None, None),
            Self::OwnAddress => {
                let [high, low] = view.facts.address.shelf().to_be_bytes();
                differing(frame, 16, [high, low, view.facts.address.slot()].into_iter())
            }
            Self::String(text) => string(frame, text),
            Self::MaskList(group) => {
                let list = directives(frame).map(|list| list.map(|entry| entry.mac));
                list_of(view, 28, 8, list, group)
            }
            Self::Holders(group) => list_of(view, 26, 6, holders(frame), group),
            Self::Pattern { seed, lba, sectors } => written(view, seed, lba, sectors),
            Self::Original { lba, sectors } => match original(view, lba, sectors) {
                Some(original) => differing(frame, ATA_DATA_OFFSET, original.iter().copied()),
                None => failed(false, ATA_DATA_OFFSET, 0, None, None),
            },
            Self::Where { at, len, holds, .. } => {
                let held = holds(frame, view.facts);
                failed(held, usize::from(at), usize::from(len), None, None)
            }
        }
    }
}

fn failed(
    held: bool,
    at: usize,
    len: usize,
    wanted: Option<u64>,
    found: Option<u64>,
) -> Option<Failed> {
    if held { None } else { Some((at, at.saturating_add(len), wanted, found)) }
}

fn part(frame: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    frame.get(at..)?.get(..len)
}

fn argument(frame: &[u8]) -> Option<&[u8]> {
    Header::parse(frame).ok().map(|(_, argument)| argument)
}

fn big<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The first byte from `at` on that is not the one wanted.
fn differing(frame: &[u8], at: usize, wanted: impl Iterator<Item = u8>) -> Option<Failed> {
    for (offset, wanted) in wanted.enumerate() {
        let at = at.saturating_add(offset);
        let found = frame.get(at).copied();
        if found != Some(wanted) {
            return failed(false, at, 1, Some(u64::from(wanted)), found.map(u64::from));
        }
    }
    None
}

fn words(view: &View<'_>, index: u8, count: u8, mask: u64, test: Test) -> Option<Failed> {
    let at = usize::from(index).saturating_mul(2).saturating_add(ATA_DATA_OFFSET);
    let len = usize::from(count).saturating_mul(2);
    let found = part(view.frame, at, len).map(|bytes| big(bytes.iter().rev()) & mask);
    let held = found.is_some_and(|found| test.holds(found, view.facts));
    failed(held, at, len, test.value().resolve(view.facts), found)
}

fn data_length(view: &View<'_>, sectors: Value) -> Option<Failed> {
    let count = usize::try_from(sectors.resolve(view.facts)?).ok()?;
    let exact = count.saturating_mul(SECTOR_BYTES).saturating_add(ATA_DATA_OFFSET);
    let len = view.frame.len();
    let padded = count == 0 && len <= 60;
    failed(len == exact || padded, len.min(exact), len.abs_diff(exact), None, None)
}

fn run_of(frame: &[u8], from: usize, byte: u8) -> Option<Failed> {
    let mut run = 0_usize;
    for (at, found) in frame.iter().enumerate().skip(from) {
        run = if *found == byte { run.saturating_add(1) } else { 0 };
        if run == 4 {
            return failed(false, at.saturating_sub(3), 4, None, None);
        }
    }
    None
}

fn kept(view: &View<'_>, at: usize, len: usize) -> Option<Failed> {
    let longer = view.kept.len().max(view.frame.len());
    for at in (at..longer).take(len) {
        let (wanted, found) = (view.kept.get(at).copied(), view.frame.get(at).copied());
        if wanted != found {
            return failed(false, at, 1, wanted.map(u64::from), found.map(u64::from));
        }
    }
    None
}

fn string(frame: &[u8], text: Text) -> Option<Failed> {
    let len_at = HEADER_LEN.saturating_add(6);
    let Some((arg, rest)) = argument(frame).and_then(ConfigArg::parse) else {
        return failed(false, frame.len(), 0, None, None);
    };
    let wanted = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if u64::from(arg.string_len) != wanted {
        return failed(false, len_at, 2, Some(wanted), Some(u64::from(arg.string_len)));
    }
    if rest.len() < text.len() || text.len() > CONFIG_STRING_MAX {
        return failed(false, frame.len(), 0, None, None);
    }
    let at = HEADER_LEN.saturating_add(crate::wire::config::CONFIG_ARG_LEN);
    differing(frame, at, (0..text.len()).map_while(|index| text.at(index)))
}

fn directives(frame: &[u8]) -> Option<Directives<'_>> {
    let (arg, rest) = MaskArg::parse(argument(frame)?)?;
    arg.directives(rest)
}

fn holders(frame: &[u8]) -> Option<Macs<'_>> {
    let (arg, rest) = ReserveArg::parse(argument(frame)?)?;
    arg.macs(rest)
}

/// Compares data with a pattern.
fn written(view: &View<'_>, seed: u8, lba: Value, sectors: Value) -> Option<Failed> {
    let Some((lba, len)) = span(view, lba, sectors) else {
        return failed(false, ATA_DATA_OFFSET, 0, None, None);
    };
    let octets = (0..len).map(|at| {
        let sector = u64::try_from(at / SECTOR_BYTES).unwrap_or(0);
        pattern(seed, lba.saturating_add(sector), at % SECTOR_BYTES)
    });
    differing(view.frame, ATA_DATA_OFFSET, octets)
}

/// Compares a list with a group, in any order.
fn list_of(
    view: &View<'_>,
    at: usize,
    entry_len: usize,
    list: Option<impl Iterator<Item = crate::wire::Mac>>,
    group: Group,
) -> Option<Failed> {
    let Some(list) = list else {
        return failed(false, view.frame.len(), 0, None, None);
    };
    let mut entries = 0_usize;
    for mac in list {
        let known = (0..group.len())
            .filter_map(|index| group.at(index)?.mac(view.facts))
            .any(|member| member == mac);
        if !known {
            return failed(
                false,
                at.saturating_add(entries.saturating_mul(entry_len)),
                entry_len,
                None,
                None,
            );
        }
        entries = entries.saturating_add(1);
    }
    let wanted = u64::try_from(group.len()).unwrap_or(u64::MAX);
    let found = u64::try_from(entries).unwrap_or(u64::MAX);
    failed(entries == group.len(), at.saturating_sub(1), 1, Some(wanted), Some(found))
}

/// LBA, and bytes of that many sectors.
fn span(view: &View<'_>, lba: Value, sectors: Value) -> Option<(u64, usize)> {
    let count = usize::try_from(sectors.resolve(view.facts)?).ok()?;
    Some((lba.resolve(view.facts)?, count.saturating_mul(SECTOR_BYTES)))
}

/// The original of that many sectors of the window.
fn original<'a>(view: &View<'a>, lba: Value, sectors: Value) -> Option<&'a [u8]> {
    let (lba, len) = span(view, lba, sectors)?;
    let skip = usize::try_from(lba.checked_sub(view.facts.window?.lba)?).ok()?;
    part(view.window, skip.checked_mul(SECTOR_BYTES)?, len)
}
