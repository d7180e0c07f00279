//! Ethernet addresses, and the shelf and slot that name a target.

use core::fmt;
use core::str::FromStr;

use crate::error::TextError;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether one station can be reached by it: not multicast, broadcast or all zero.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        let [m0, m1, m2, m3, m4, m5] = self.0;
        m0 & 1 == 0 && (m0 | m1 | m2 | m3 | m4 | m5) != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m0, m1, m2, m3, m4, m5] = self.0;
        write!(f, "{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}")
    }
}

impl FromStr for Mac {
    type Err = TextError;

    /// # Errors
    /// [`TextError::Mac`] unless the text is six pairs of hexadecimal digits between colons.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let mut parts = text.split(':');
        let mut mac = [0; 6];
        for byte in &mut mac {
            let part = parts.next().ok_or(TextError::Mac)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(TextError::Mac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| TextError::Mac)?;
        }
        if parts.next().is_some() { Err(TextError::Mac) } else { Ok(Self(mac)) }
    }
}

/// The shelf and slot of one target: never the wildcard values. `[AoE 2.4]`
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    shelf: u16,
    slot: u8,
}

impl Address {
    /// The largest shelf, 65534.
    pub const SHELF_MAX: u16 = 0xfffe;
    /// The largest slot, 254.
    pub const SLOT_MAX: u8 = 0xfe;

    /// `None` for shelf 0xFFFF or slot 0xFF, which mean "all". `[AoE 2.4]`
    #[inline]
    pub const fn new(shelf: u16, slot: u8) -> Option<Self> {
        if shelf > Self::SHELF_MAX || slot > Self::SLOT_MAX {
            return None;
        }
        Some(Self { shelf, slot })
    }

    /// The shelf (header field Major).
    #[inline]
    pub const fn shelf(self) -> u16 {
        self.shelf
    }

    /// The slot (header field Minor).
    #[inline]
    pub const fn slot(self) -> u8 {
        self.slot
    }

    /// Whether the Linux driver refuses this shelf, as it does with 4095 ("shelf address is all
    /// ones"): worth a warning to the operator. `[AoE 2.4]`
    #[inline]
    pub const fn is_refused_by_linux(self) -> bool {
        self.shelf == 0x0fff
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

impl FromStr for Address {
    type Err = TextError;

    /// Reads `7.3` or `e7.3`.
    ///
    /// # Errors
    /// [`TextError::Address`] for anything else, out-of-range and wildcard values included.
    fn from_str(text: &str) -> Result<Self, TextError> {
        let (shelf, slot) =
            text.strip_prefix('e').unwrap_or(text).split_once('.').ok_or(TextError::Address)?;
        Self::new(decimal(shelf)?, decimal(slot)?).ok_or(TextError::Address)
    }
}

/// A number in plain decimal digits, without the sign that `parse` would accept.
fn decimal<T: FromStr>(text: &str) -> Result<T, TextError> {
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(TextError::Address);
    }
    text.parse().map_err(|_| TextError::Address)
}

/// The address in a header: a shelf or all of them, a slot or all of them. `[AoE 2.4]`
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AddressPattern {
    /// The Major field; 0xFFFF is every shelf.
    pub shelf: u16,
    /// The Minor field; 0xFF is every slot.
    pub slot: u8,
}

impl AddressPattern {
    /// Every target.
    pub const ALL: Self = Self { shelf: 0xffff, slot: 0xff };

    /// Whether a target at `address` is meant.
    #[inline]
    pub const fn matches(self, address: Address) -> bool {
        (self.shelf == 0xffff || self.shelf == address.shelf)
            && (self.slot == 0xff || self.slot == address.slot)
    }

    /// Whether several targets may be meant.
    #[inline]
    pub const fn is_wildcard(self) -> bool {
        self.shelf == 0xffff || self.slot == 0xff
    }

    /// The one target meant, or `None` for a wildcard.
    #[inline]
    pub const fn exact(self) -> Option<Address> {
        Address::new(self.shelf, self.slot)
    }
}

impl From<Address> for AddressPattern {
    #[inline]
    fn from(address: Address) -> Self {
        Self { shelf: address.shelf, slot: address.slot }
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shelf {
            0xffff => f.write_str("e*."),
            number => write!(f, "e{number}."),
        }?;
        match self.slot {
            0xff => f.write_str("*"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn mac_text() {
        let mac = Mac([0x02, 0xab, 0, 1, 0xff, 0x10]);
        assert_eq!(mac.to_string(), "02:ab:00:01:ff:10");
        assert_eq!("02:AB:00:01:ff:10".parse(), Ok(mac));
        for bad in [
            "",
            "02:ab:00:01:ff",
            "02:ab:00:01:ff:10:11",
            "2:ab:0:1:ff:10",
            "+2:ab:00:01:ff:10",
            "02-ab-00-01-ff-10",
            "02:ab:00:01:ff:1g",
            "02:ab:00:01:ff:é",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(TextError::Mac), "{bad}");
        }
    }

    #[test]
    fn unicast() {
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(Mac([0, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([0; 6]).is_unicast());
        assert!(!Mac::BROADCAST.is_unicast());
        assert!(!Mac([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }

    #[test]
    fn address_text() {
        let address = Address::new(7, 3).unwrap();
        assert_eq!(address.to_string(), "e7.3");
        assert_eq!("7.3".parse(), Ok(address));
        assert_eq!("e7.3".parse(), Ok(address));
        assert_eq!("65534.254".parse(), Ok(Address::new(65534, 254).unwrap()));
        for bad in [
            "", "7", "7.", ".3", "7.255", "65535.0", "70000.1", "7.256", "-1.0", "+1.0", "e e7.3",
            "7.3.1", "ee7.3", "7.3 ",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(TextError::Address), "{bad}");
        }
    }

    #[test]
    fn wildcards() {
        let address = Address::new(7, 3).unwrap();
        for (shelf, slot, hit) in [
            (7, 3, true),
            (0xffff, 3, true),
            (7, 0xff, true),
            (0xffff, 0xff, true),
            (8, 3, false),
            (7, 4, false),
            (0xffff, 4, false),
            (8, 0xff, false),
        ] {
            let pattern = AddressPattern { shelf, slot };
            assert_eq!(pattern.matches(address), hit, "{pattern}");
        }
        assert_eq!(AddressPattern::from(address).exact(), Some(address));
        assert_eq!(AddressPattern::ALL.exact(), None);
        assert_eq!(AddressPattern::ALL.to_string(), "e*.*");
        assert_eq!(AddressPattern { shelf: 7, slot: 0xff }.to_string(), "e7.*");
        assert!(Address::new(0xffff, 0).is_none() && Address::new(0, 0xff).is_none());
        assert!(Address::new(4095, 0).unwrap().is_refused_by_linux());
    }
}
