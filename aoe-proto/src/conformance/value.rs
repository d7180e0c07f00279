//! Numbers that are known only when the target has told them.

use crate::wire::{Address, Mac};

/// What is known about the target and the link: learnt by the prologue, and again after an
/// [`Action`](super::Action).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Facts {
    /// Who is tested.
    pub address: Address,
    /// The MAC address that answers for it; broadcast until one did.
    pub target_mac: Mac,
    /// Our address.
    pub own_mac: Mac,
    /// Our second address, if there is one.
    pub second_mac: Option<Mac>,
    /// MTU of our link, in bytes.
    pub mtu: u16,
    /// The buffer count that was advertised.
    pub buffer_count: Option<u16>,
    /// Sectors per command, 0 already replaced by the 2 that it means. `[AoE 4]`
    pub max_sectors: Option<u8>,
    /// The firmware version that was advertised.
    pub firmware: Option<u16>,
    /// Size of the disk in sectors, from IDENTIFY.
    pub sectors: Option<u64>,
    /// Whether 48-bit commands are offered.
    pub lba48: bool,
    /// Whether TRIM is offered.
    pub trim: bool,
    /// Whether SMART is offered.
    pub smart: bool,
    /// Where writes are allowed.
    pub window: Option<Window>,
    /// Whether writes may reach beyond the end of the disk.
    pub beyond_end: bool,
}

/// A range of sectors in which the cases may write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// First sector.
    pub lba: u64,
    /// Number of sectors.
    pub sectors: u16,
}

impl Window {
    /// Whether `count` sectors from `lba` lie inside.
    pub(crate) const fn holds(&self, lba: u64, count: u64) -> bool {
        lba >= self.lba && lba.saturating_add(count) <= self.lba.saturating_add(self.sectors as u64)
    }
}

/// A number in a case: a literal, or something about the target, and a distance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Value {
    base: Base,
    plus: i64,
}

/// Something about the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Base {
    /// 0.
    Zero,
    /// Number of sectors of the disk.
    Sectors,
    /// First sector of the window.
    Window,
    /// First sector of the window, and the most sectors per command on top.
    WindowPlusMax,
    /// Most sectors per command, as advertised.
    MaxSectors,
    /// Bytes of an ATA frame with the most sectors.
    MaxFrame,
    /// The advertised buffer count.
    BufferCount,
    /// The MTU of our link.
    Mtu,
}

impl Value {
    /// Number of sectors of the disk.
    pub const SECTORS: Self = Self::of(Base::Sectors);
    /// The last sector of the disk.
    pub const LAST: Self = Self::SECTORS.plus(-1);
    /// The first sector of the window.
    pub const WINDOW: Self = Self::of(Base::Window);
    /// Most sectors per command, as advertised.
    pub const MAX: Self = Self::of(Base::MaxSectors);
    /// The advertised buffer count.
    pub const BUFFERS: Self = Self::of(Base::BufferCount);

    /// A literal.
    pub const fn is(value: i64) -> Self {
        Self { base: Base::Zero, plus: value }
    }

    /// Something about the target.
    pub const fn of(base: Base) -> Self {
        Self { base, plus: 0 }
    }

    /// That much more, or less.
    #[must_use]
    pub const fn plus(self, distance: i64) -> Self {
        Self { plus: self.plus.saturating_add(distance), ..self }
    }

    /// Something about the target, and the distance from it.
    pub(super) const fn parts(self) -> (Base, i64) {
        (self.base, self.plus)
    }

    /// The number. `None` if the target has not told it, or if it is below 0.
    pub fn resolve(self, facts: &Facts) -> Option<u64> {
        let window = || facts.window.map(|window| window.lba);
        let max = || facts.max_sectors.map(u64::from);
        let base = match self.base {
            Base::Zero => 0,
            Base::Sectors => facts.sectors?,
            Base::Window => window()?,
            Base::WindowPlusMax => window()?.checked_add(max()?)?,
            Base::MaxSectors => max()?,
            Base::MaxFrame => max()?.checked_mul(512)?.checked_add(36)?,
            Base::BufferCount => u64::from(facts.buffer_count?),
            Base::Mtu => u64::from(facts.mtu),
        };
        base.checked_add_signed(self.plus)
    }
}

/// Somebody with a MAC address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// We.
    Own,
    /// We, by our second address.
    Second,
    /// The target.
    Target,
    /// Everybody.
    Broadcast,
    /// 00:00:00:00:00:00.
    Zero,
    /// A multicast group that is not AoE's, because AoE has none.
    Multicast,
    /// A machine that does not exist, by number.
    Stranger(u8),
}

impl Who {
    /// The address. `None` if there is no second one.
    pub fn mac(self, facts: &Facts) -> Option<Mac> {
        Some(match self {
            Self::Own => facts.own_mac,
            Self::Second => facts.second_mac?,
            Self::Target => facts.target_mac,
            Self::Broadcast => Mac::BROADCAST,
            Self::Zero => Mac([0; 6]),
            Self::Multicast => Mac([0x01, 0, 0x5e, 0, 0, 0x42]),
            Self::Stranger(number) => Mac([0x02, 0xc0, 0x4e, 0xf0, 0x0e, number]),
        })
    }
}

impl Who {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "this machine",
            Self::Second => "this machine (the second one)",
            Self::Target => "the target",
            Self::Broadcast => "everybody",
            Self::Zero => "nobody (zeros)",
            Self::Multicast => "a multicast group",
            Self::Stranger(_) => "a stranger",
        }
    }
}

/// Several of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// Those.
    Of(&'static [Who]),
    /// Strangers, from number 0 on.
    Strangers(u8),
}

impl Group {
    /// How many.
    pub const fn len(self) -> usize {
        match self {
            Self::Of(list) => list.len(),
            Self::Strangers(count) => count as usize,
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The one at `index`.
    pub fn at(self, index: usize) -> Option<Who> {
        match self {
            Self::Of(list) => list.get(index).copied(),
            Self::Strangers(count) => {
                u8::try_from(index).ok().filter(|number| *number < count).map(Who::Stranger)
            }
        }
    }
}

/// Octet `at` of sector `lba` in the pattern named `seed`: no two sectors are alike, and no two
/// seeds.
#[expect(clippy::cast_possible_truncation, reason = "a hash: every bit goes into the low ones")]
pub const fn pattern(seed: u8, lba: u64, at: usize) -> u8 {
    let mut mix = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed as u64) << 56;
    mix = (mix ^ mix >> 29).wrapping_add(at as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mix ^ mix >> 32 ^ mix >> 51) as u8
}
