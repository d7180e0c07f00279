//! Ethernet addresses.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ValueError;

/// An Ethernet address, in wire order.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xFF; 6]);

    /// Whether it can belong to one machine: not a group address, not all zero.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

impl FromStr for MacAddr {
    type Err = ValueError;

    /// Accepts `aa:bb:cc:dd:ee:ff`, `aa-bb-cc-dd-ee-ff` and `aabbccddeeff`, in either case.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError::new(format!(
                "`{text}` is not a MAC address; write six hexadecimal octets, such as \
                 52:54:00:12:34:56"
            ))
        };
        let digits: Vec<u8> = match text.len() {
            12 => text.bytes().collect(),
            17 => {
                let separator = text.as_bytes().get(2).copied().ok_or_else(malformed)?;
                let well_placed = matches!(separator, b':' | b'-')
                    && text.bytes().skip(2).step_by(3).all(|byte| byte == separator);
                if !well_placed {
                    return Err(malformed());
                }
                text.bytes().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, b)| b).collect()
            }
            _ => return Err(malformed()),
        };
        let mut octets = [0_u8; 6];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or_else(malformed)?;
                *octet = (*octet << 4) | u8::try_from(value).map_err(|_| malformed())?;
            }
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_one_address() {
        let expected = MacAddr([0x52, 0x54, 0x00, 0x12, 0xab, 0xff]);
        for text in ["52:54:00:12:ab:ff", "52-54-00-12-AB-FF", "52540012abFF"] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(expected.to_string(), "52:54:00:12:ab:ff");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "52:54:00:12:ab",
            "52:54:00:12:ab:f",
            "52:54:00-12:ab:ff",
            "52 54 00 12 ab ff",
            "52:54:00:12:ab:fg",
            "52540012abé",
            "+2:54:00:12:ab:ff",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn group_and_zero_addresses_are_not_unicast() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::default().is_unicast());
    }
}
