//! The AoE address of a target as people write it: `SHELF.SLOT`.

use super::{Address, ValueError};

/// Reads `0.1` or `e0.1`.
///
/// # Errors
/// Says what is wrong with `text`: not two numbers, out of range, or a broadcast value. [AoE 2.4]
pub fn parse_address(text: &str) -> Result<Address, ValueError> {
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
    let bad_shelf = || {
        ValueError::new(format!(
            "the shelf of `{text}` is out of range; use 0 to 65534 (65535 means every shelf)"
        ))
    };
    let bad_slot = || {
        ValueError::new(format!(
            "the slot of `{text}` is out of range; use 0 to 254 (255 means every slot)"
        ))
    };
    let shelf: u16 = shelf.parse().map_err(|_| bad_shelf())?;
    let slot: u8 = slot.parse().map_err(|_| bad_slot())?;
    if shelf > Address::SHELF_MAX {
        return Err(bad_shelf());
    }
    Address::new(shelf, slot).ok_or_else(bad_slot)
}

/// The address `count` slots after `first`, going on with the next shelf after slot 254; `None`
/// past the last shelf.
pub fn address_after(first: Address, count: u32) -> Option<Address> {
    let slots_per_shelf = u64::from(Address::SLOT_MAX) + 1;
    let linear =
        u64::from(first.shelf()) * slots_per_shelf + u64::from(first.slot()) + u64::from(count);
    let slot = u8::try_from(linear % slots_per_shelf).ok()?;
    Address::new(u16::try_from(linear / slots_per_shelf).ok()?, slot)
}

/// Addresses in the order in which they were named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddressList(pub Vec<Address>);

/// Most addresses of one list: more is a slip of the hand.
const LIST_LEN_MAX: usize = 1 << 16;

/// Reads `0.1`, `0.0-0.63`, or several of these with commas between them. A range goes on with the
/// next shelf after slot 254.
///
/// # Errors
/// Says what is wrong with `text`.
pub fn parse_address_list(text: &str) -> Result<AddressList, ValueError> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (parse_address(first)?, parse_address(last)?);
        if last < first {
            return Err(ValueError::new(format!(
                "the range `{part}` ends before it begins; write the lower address first"
            )));
        }
        let mut next = Some(first);
        while let Some(address) = next.filter(|address| *address <= last) {
            if addresses.len() == LIST_LEN_MAX {
                return Err(ValueError::new(format!(
                    "`{text}` means more than {LIST_LEN_MAX} addresses"
                )));
            }
            addresses.push(address);
            next = address_after(address, 1);
        }
    }
    Ok(AddressList(addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let list = |text| parse_address_list(text).map(|list| list.0);
        assert_eq!(list("e1.2"), Ok(vec![at(1, 2)]));
        assert_eq!(list("0.7,0.1-0.3"), Ok(vec![at(0, 7), at(0, 1), at(0, 2), at(0, 3)]));
        assert_eq!(list("0.253-1.1").unwrap().len(), 4);
        assert_eq!(list("65534.254"), Ok(vec![at(65534, 254)]));
        for text in ["", "0.1,", "0.3-0.1", "0.1-0.2-0.3", "0.1-5", "0.0-65534.254"] {
            assert!(list(text).is_err(), "{text}");
        }
    }

    fn at(shelf: u16, slot: u8) -> Address {
        Address::new(shelf, slot).unwrap()
    }

    #[test]
    fn parses_both_spellings() {
        assert_eq!(parse_address("e7.254"), Ok(at(7, 254)));
        assert_eq!(parse_address("65534.0"), Ok(at(65534, 0)));
    }

    #[test]
    fn refuses_broadcast_values_and_nonsense() {
        for text in
            ["65535.0", "0.255", "0.256", "65536.1", "", "1", "1.", ".1", "-1.0", "+1.0", "a.b"]
        {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_address("0.256").unwrap_err().to_string(),
            "the slot of `0.256` is out of range; use 0 to 254 (255 means every slot)"
        );
    }

    #[test]
    fn counts_on_to_the_next_shelf_after_slot_254() {
        assert_eq!(address_after(at(3, 250), 4), Some(at(3, 254)));
        assert_eq!(address_after(at(3, 250), 5), Some(at(4, 0)));
        assert_eq!(address_after(at(65534, 254), 1), None);
        assert_eq!(address_after(at(0, 0), u32::MAX), None);
    }
}
