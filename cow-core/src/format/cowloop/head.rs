//! The head of a cowfile [COW 4.1]: C integers of the machine that made it, so of two widths and
//! two orders of bytes.

use super::error::{CreateError, OpenError};
use crate::format::bitmap::{Geometry, Mark};
use crate::units::MAX_SECTORS;

/// 7f `C O W` on a little-endian machine.
const MAGIC: u32 = 0x574f_437f;
/// Set in the version while the file is being emptied; no reader knows such a version.
const EMPTYING: u16 = 1 << 15;
const VERSION: u16 = 1;
const DIRTY: u16 = 1;
const PACKED: u16 = 2;

/// Bytes of a unit, of the head, and of what the bitmap is rounded up to.
pub(super) const UNIT: u64 = 1024;
/// A unit has 2^1 sectors.
const UNIT_SHIFT: u32 = 1;
/// Where the driver begins the data of a new file.
const DATA_ALIGNMENT: u64 = 4096;

/// Longest head.
pub(super) const HEAD_LEN: usize = 56;

/// Width of the words in a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// 32-bit machines: the head has 32 bytes.
    Bits32,
    /// 64-bit machines: it has 56.
    Bits64,
}

/// How a session with the file ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    Clean,
    /// Written to by this program, which publishes a bit before it acknowledges: the bitmap is
    /// right, only uncounted.
    Unclean,
    /// Bits may be missing.
    Dirty,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) width: Width,
    pub(super) big_endian: bool,
    pub(super) emptying: bool,
    pub(super) flags: u16,
    pub(super) map_len: u64,
    pub(super) data_offset: u64,
    pub(super) units: u64,
    /// All of the word: some tools extended the sign of 32 bits.
    pub(super) fingerprint: u64,
    pub(super) used: u64,
}

/// Integers one after the other.
struct Words<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> u64 {
        let Some((field, rest)) = self.bytes.split_first_chunk::<N>() else { return 0 };
        self.bytes = rest;
        let push = |n: u64, byte: &u8| n << 8 | u64::from(*byte);
        if self.big_endian { field.iter().fold(0, push) } else { field.iter().rev().fold(0, push) }
    }

    fn word(&mut self, width: Width) -> u64 {
        match width {
            Width::Bits32 => self.take::<4>(),
            Width::Bits64 => self.take::<8>(),
        }
    }
}

/// True if these are the first bytes of a cowfile that is not compressed.
pub fn is_cowloop(first: &[u8; 4]) -> bool {
    let word = u32::from_le_bytes(*first);
    word == MAGIC || word.swap_bytes() == MAGIC
}

impl Head {
    pub(super) fn parse<E>(bytes: &[u8; HEAD_LEN]) -> Result<Self, OpenError<E>> {
        let mut words = Words { bytes, big_endian: false };
        let first_word = u32::try_from(words.take::<4>()).unwrap_or(0);
        let big_endian = match first_word {
            MAGIC => false,
            _ if first_word.swap_bytes() == MAGIC => true,
            _ if first_word & 0xffff == 0x8b1f => return Err(OpenError::Gzipped),
            _ => return Err(OpenError::NotCowloop { first_word }),
        };
        words.big_endian = big_endian;
        let mut short = || u16::try_from(words.take::<2>()).unwrap_or(0);
        let (version, flags) = (short(), short());
        // The word behind the flags is 1024. If it has 64 bits, one half of it is zero, and in a
        // head of 32-bit words neither that word nor the length of the bitmap behind it can be.
        let (mut first, mut later) = ([0; 4], [0; 4]);
        for (to, from) in first.iter_mut().chain(&mut later).zip(words.bytes) {
            *to = *from;
        }
        let high = if big_endian { first } else { later };
        let width = if high == [0; 4] { Width::Bits64 } else { Width::Bits32 };
        let bytes = words.word(width);
        if version & !EMPTYING != VERSION {
            return Err(OpenError::Version { found: version });
        }
        if flags & !(DIRTY | PACKED) != 0 {
            return Err(OpenError::Flags { found: flags });
        }
        if bytes != UNIT {
            return Err(OpenError::UnitSize { bytes });
        }
        Ok(Self {
            width,
            big_endian,
            emptying: version & EMPTYING != 0,
            flags,
            map_len: words.word(width),
            data_offset: words.word(width),
            units: words.word(width),
            fingerprint: words.word(width),
            used: words.word(width),
        })
    }

    /// Of a new file.
    pub(super) fn new(width: Width, big_endian: bool, units: u64, fingerprint: u32) -> Self {
        let up = |n: u64, to: u64| n.div_ceil(to).saturating_mul(to);
        let map_len = up(units.div_ceil(8), UNIT);
        Self {
            width,
            big_endian,
            emptying: false,
            flags: 0,
            map_len,
            data_offset: up(UNIT.saturating_add(map_len), DATA_ALIGNMENT),
            units,
            fingerprint: fingerprint.into(),
            used: 0,
        }
    }

    /// The layout, if the numbers make sense.
    pub(super) fn geometry<E>(&self) -> Result<Geometry, OpenError<E>> {
        let (units, bytes, offset) = (self.units, self.map_len, self.data_offset);
        // The greatest count that a word holds says something else, see `uncounted`.
        if units == 0 || units > MAX_SECTORS / 2 || units >= self.uncounted() {
            return Err(OpenError::DiskSize { units });
        }
        let needed = units.div_ceil(8);
        if bytes < needed || !bytes.is_multiple_of(UNIT) {
            return Err(OpenError::MapSize { bytes, needed });
        }
        let behind = UNIT.checked_add(bytes).is_some_and(|end| end <= offset);
        let geometry = Geometry::new(units.saturating_mul(2), UNIT_SHIFT, UNIT, offset);
        geometry
            .filter(|_| behind && offset.is_multiple_of(512))
            .ok_or(OpenError::DataOffset { offset })
    }

    /// The new file fits into words of its width.
    pub(super) fn judge_new<E>(&self) -> Result<Geometry, CreateError<E>> {
        let units = self.units;
        let geometry = self.geometry::<E>().map_err(|_| CreateError::DiskSize { units });
        let small = self.width == Width::Bits64 || u32::try_from(self.data_offset).is_ok();
        geometry.and_then(|g| if small { Ok(g) } else { Err(CreateError::TooLarge { units }) })
    }

    /// What stands for the count while this program writes to the file. No count is so large, and
    /// no other program writes it: it tells a bitmap that is right from one that may lack bits.
    pub(super) const fn uncounted(&self) -> u64 {
        match self.width {
            Width::Bits32 => u32::MAX as u64,
            Width::Bits64 => u64::MAX,
        }
    }

    pub(super) const fn is_packed(&self) -> bool {
        self.flags & PACKED != 0
    }

    pub(super) const fn state(&self) -> State {
        if self.flags & DIRTY == 0 {
            State::Clean
        } else if self.used == self.uncounted() {
            State::Unclean
        } else {
            State::Dirty
        }
    }

    /// While this program writes to it.
    pub(super) const fn in_use(self) -> Self {
        Self { flags: self.flags | DIRTY, used: self.uncounted(), ..self }
    }

    /// With all bits where they belong.
    pub(super) const fn clean(self, used: u64) -> Self {
        Self { flags: self.flags & !DIRTY, used, emptying: false, ..self }
    }

    pub(super) const fn with_packed(self, packed: bool) -> Self {
        let flags = self.flags & !PACKED;
        Self { flags: if packed { flags | PACKED } else { flags }, ..self }
    }

    /// The bytes of the head.
    pub(super) fn emit(&self) -> Mark {
        let mut mark = Mark { bytes: [0; Mark::MOST], len: 0 };
        let version = if self.emptying { VERSION | EMPTYING } else { VERSION };
        let mut put = |word: u64, len: usize| {
            let at = usize::from(mark.len);
            for (i, to) in mark.bytes.iter_mut().skip(at).take(len).enumerate() {
                let power =
                    if self.big_endian { len.saturating_sub(1).saturating_sub(i) } else { i };
                *to = word.to_le_bytes().get(power).copied().unwrap_or(0);
            }
            mark.len = mark.len.saturating_add(u8::try_from(len).unwrap_or(0));
        };
        put(MAGIC.into(), 4);
        put(version.into(), 2);
        put(self.flags.into(), 2);
        let len = if self.width == Width::Bits32 { 4 } else { 8 };
        let words = [UNIT, self.map_len, self.data_offset, self.units, self.fingerprint, self.used];
        for word in words {
            put(word, len);
        }
        mark
    }
}
