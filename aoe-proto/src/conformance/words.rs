//! Cases in words, for people who ask what a case does.

use core::fmt;

use super::expect::{Check, Test};
use super::value::{Base, Value};

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, plus) = self.parts();
        let name = match base {
            Base::Zero => return write!(f, "{plus}"),
            Base::Sectors => "sectors of the disk",
            Base::Window => "window",
            Base::WindowPlusMax => "window + advertised sectors",
            Base::MaxSectors => "advertised sectors",
            Base::MaxFrame => "bytes of the largest frame",
            Base::BufferCount => "advertised buffers",
            Base::Mtu => "MTU",
        };
        f.write_str(name)?;
        match plus {
            0 => Ok(()),
            1.. => write!(f, " + {plus}"),
            _ => write!(f, " - {}", plus.unsigned_abs()),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.word(), self.value())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bits { at, mask: 0xff, is } => write!(f, "byte {at} is 0x{is:02x}"),
            Self::Bits { at, mask, is } => {
                write!(f, "byte {at} has 0x{is:02x} in the bits 0x{mask:02x}")
            }
            Self::Number { at, len, test } => {
                write!(f, "the number of {len} bytes at byte {at} is {test}")
            }
            Self::Word { index, mask: 0xffff, test } => write!(f, "word {index} is {test}"),
            Self::Word { index, mask, test } => {
                write!(f, "the bits 0x{mask:04x} of word {index} are {test}")
            }
            Self::Words { index, count, test } => {
                write!(f, "the number in {count} words from word {index} on is {test}")
            }
            Self::Length(test) => write!(f, "the frame has a length of {test}"),
            Self::DataLength { sectors } => write!(f, "it carries exactly {sectors} sectors"),
            Self::ZerosFrom(at) => write!(f, "there are only zeros from byte {at} on"),
            Self::NoRun { from, byte } => {
                write!(f, "there are never four bytes 0x{byte:02x} in a row from byte {from} on")
            }
            Self::Echo { at, len } => {
                write!(f, "{len} bytes from byte {at} on are those of the request")
            }
            Self::Kept { at, len } => {
                write!(f, "{len} bytes from byte {at} on are those of the earlier answer")
            }
            Self::Mac { at: 0, who } => write!(f, "it goes to {}", who.name()),
            Self::Mac { at: 6, who } => write!(f, "it comes from {}", who.name()),
            Self::Mac { at, who } => write!(f, "the address at byte {at} is {}", who.name()),
            Self::Vlan(Some(0)) => f.write_str("it has a priority tag"),
            Self::Vlan(Some(id)) => write!(f, "it is in VLAN {id}"),
            Self::Vlan(None) => f.write_str("it has no VLAN tag"),
            Self::OwnAddress => f.write_str("it has the target's own shelf and slot"),
            Self::String(text) => write!(f, "it shows the string of {} bytes", text.len()),
            Self::MaskList(group) => write!(f, "it shows the list of {} addresses", group.len()),
            Self::Holders(group) => write!(f, "it shows the {} holders", group.len()),
            Self::Pattern { seed, lba, sectors } => {
                write!(f, "{sectors} sectors from {lba} on hold pattern {seed}")
            }
            Self::Original { lba, sectors } => {
                write!(f, "{sectors} sectors from {lba} on hold what they held before")
            }
            Self::Where { what, .. } => write!(f, "it has {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::super::prelude::*;
    use std::string::ToString;

    #[test]
    fn values_and_checks_in_words() {
        assert_eq!(n(7).to_string(), "7");
        assert_eq!(Value::LAST.to_string(), "sectors of the disk - 1");
        assert_eq!(Value::MAX.plus(1).to_string(), "advertised sectors + 1");
        let test = Test::AtLeast(n(2));
        let number = Check::Number { at: 24, len: 2, test };
        assert_eq!(number.to_string(), "the number of 2 bytes at byte 24 is at least 2");
        let bits = Check::Bits { at: 14, mask: 0x0f, is: 8 };
        assert_eq!(bits.to_string(), "byte 14 has 0x08 in the bits 0x0f");
    }

    #[test]
    fn every_check_of_every_case_has_words() {
        let exchanges = ALL.iter().copied().flatten().flat_map(|case| case.steps);
        let answers = exchanges.filter_map(|step| match step {
            Step::Ask(exchange) | Step::Flood { exchange, .. } => Some(exchange.accept),
            Step::Advertisement { accept, .. } => Some(*accept),
            _ => None,
        });
        for check in answers.flatten().flat_map(Answer::all_checks) {
            let words = check.to_string();
            assert!(words.len() > 8 && !words.ends_with(' '), "{words}");
        }
    }
}
