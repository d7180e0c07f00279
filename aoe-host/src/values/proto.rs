//! Stand-ins with the interface of `aoe_proto`'s types, until that crate has them.
#![allow(missing_docs, reason = "removed as soon as aoe_proto is merged")]
use core::fmt;
use core::str::FromStr;

#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);
impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);
    pub const fn is_unicast(self) -> bool {
        let [first, rest @ ..] = self.0;
        first & 1 == 0 && (first != 0 || !matches!(rest, [0, 0, 0, 0, 0]))
    }
}
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}
impl FromStr for Mac {
    type Err = fmt::Error;
    fn from_str(text: &str) -> Result<Self, fmt::Error> {
        let parts: Vec<u8> = text
            .split(':')
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
            .map_while(|part| u8::from_str_radix(part, 16).ok())
            .collect();
        if text.len() != 17 {
            return Err(fmt::Error);
        }
        parts.try_into().map(Self).map_err(|_| fmt::Error)
    }
}
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    shelf: u16,
    slot: u8,
}
impl Address {
    pub const SHELF_MAX: u16 = 0xfffe;
    pub const SLOT_MAX: u8 = 0xfe;
    pub const fn new(shelf: u16, slot: u8) -> Option<Self> {
        if shelf > Self::SHELF_MAX || slot > Self::SLOT_MAX {
            return None;
        }
        Some(Self { shelf, slot })
    }
    pub const fn shelf(self) -> u16 {
        self.shelf
    }
    pub const fn slot(self) -> u8 {
        self.slot
    }
    pub const fn is_refused_by_linux(self) -> bool {
        self.shelf == 0x0fff
    }
}
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}
