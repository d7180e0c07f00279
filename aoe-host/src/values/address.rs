//! The AoE address of a target, `SHELF.SLOT`.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ValueError;

/// Shelf that means "every shelf" in a request. [AoE 2.4]
const SHELF_ALL: u16 = 0xFFFF;
/// Slot that means "every slot" in a request. [AoE 2.4]
const SLOT_ALL: u8 = 0xFF;
/// Shelf that the Linux initiator refuses with a message about DIP switches. [AoE 2.4]
const SHELF_LINUX_REFUSES: u16 = 0x0FFF;

/// The address of one target: never a broadcast value.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    shelf: u16,
    slot: u8,
}

impl Address {
    /// Slots per shelf that a target may use: 0..=254.
    pub const SLOTS_PER_SHELF: u32 = 255;

    /// The address `shelf.slot`.
    ///
    /// # Errors
    /// When either is the broadcast value of the protocol.
    pub fn new(shelf: u16, slot: u8) -> Result<Self, ValueError> {
        if shelf == SHELF_ALL {
            return Err(ValueError::new(
                "shelf 65535 means \"every shelf\" in the protocol; use 0 to 65534",
            ));
        }
        if slot == SLOT_ALL {
            return Err(ValueError::new(
                "slot 255 means \"every slot\" in the protocol; use 0 to 254",
            ));
        }
        Ok(Self { shelf, slot })
    }

    /// The shelf, called "major" on the wire.
    pub fn shelf(self) -> u16 {
        self.shelf
    }

    /// The slot, called "minor" on the wire.
    pub fn slot(self) -> u8 {
        self.slot
    }

    /// The address `count` slots further on, continuing on the next shelf after slot 254; `None`
    /// past the last shelf.
    pub fn offset_by(self, count: u32) -> Option<Self> {
        let linear = u64::from(self.shelf) * u64::from(Self::SLOTS_PER_SHELF)
            + u64::from(self.slot)
            + u64::from(count);
        let per_shelf = u64::from(Self::SLOTS_PER_SHELF);
        let slot = u8::try_from(linear % per_shelf).ok()?;
        Self::new(u16::try_from(linear / per_shelf).ok()?, slot).ok()
    }

    /// What to warn the operator about, if this address is legal but troublesome.
    pub fn warning(self) -> Option<String> {
        (self.shelf == SHELF_LINUX_REFUSES).then(|| {
            format!("{self}: the Linux aoe driver ignores shelf 4095; choose another shelf")
        })
    }
}

impl fmt::Display for Address {
    /// `e0.1`, as initiators name the device.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError::new(format!(
                "`{text}` is not an AoE address; write SHELF.SLOT, such as 0.1 or e0.1"
            ))
        };
        let digits = text.strip_prefix('e').unwrap_or(text);
        let (shelf, slot) = digits.split_once('.').ok_or_else(malformed)?;
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(shelf) || !is_number(slot) {
            return Err(malformed());
        }
        let out_of_range = |what: &str, last: u32| {
            ValueError::new(format!("{what} of `{text}` is too large; use 0 to {last}"))
        };
        let shelf = shelf.parse::<u16>().map_err(|_| out_of_range("the shelf", 65534))?;
        let slot = slot.parse::<u8>().map_err(|_| out_of_range("the slot", 254))?;
        Self::new(shelf, slot)
    }
}

impl TryFrom<String> for Address {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_spellings() {
        assert_eq!("e7.254".parse(), Address::new(7, 254));
        assert_eq!("65534.0".parse(), Address::new(65534, 0));
        assert_eq!(Address::new(0, 1).unwrap().to_string(), "e0.1");
    }

    #[test]
    fn refuses_broadcast_values_and_nonsense() {
        for text in
            ["65535.0", "0.255", "0.256", "65536.1", "", "1", "1.", ".1", "-1.0", "+1.0", "a.b"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = "0.256".parse::<Address>().unwrap_err();
        assert_eq!(error.to_string(), "the slot of `0.256` is too large; use 0 to 254");
    }

    #[test]
    fn counts_on_to_the_next_shelf_after_slot_254() {
        let first = Address::new(3, 250).unwrap();
        assert_eq!(first.offset_by(4), Address::new(3, 254).ok());
        assert_eq!(first.offset_by(5), Address::new(4, 0).ok());
        assert_eq!(Address::new(65534, 254).unwrap().offset_by(1), None);
    }

    #[test]
    fn warns_about_the_shelf_linux_refuses() {
        assert!(Address::new(4095, 0).unwrap().warning().is_some());
        assert!(Address::new(4094, 0).unwrap().warning().is_none());
    }
}
