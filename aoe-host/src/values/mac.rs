//! Ethernet addresses as people write them.

use super::{Mac, ValueError};

/// Reads `52:54:00:12:34:56`, with colons, dashes or nothing between the octets, in either case.
/// Only addresses that one machine can have are accepted.
///
/// # Errors
/// Says what is wrong with `text`.
pub fn parse_mac(text: &str) -> Result<Mac, ValueError> {
    let octets = octets_of(text).ok_or_else(|| {
        ValueError::new(format!(
            "`{text}` is not a MAC address; write six hexadecimal octets, such as \
             52:54:00:12:34:56"
        ))
    })?;
    let mac = Mac(octets);
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(ValueError::new(format!(
            "`{text}` is a group or zero address, which no machine sends from; use the address \
             that `ip link` shows on the client"
        )))
    }
}

/// Reads `MAC[+MAC...]`: the addresses of one client.
///
/// # Errors
/// When one of them is not a MAC address, or is listed twice.
pub fn parse_mac_set(text: &str) -> Result<Vec<Mac>, ValueError> {
    let mut macs = Vec::new();
    for part in text.split('+') {
        let mac = parse_mac(part)?;
        if macs.contains(&mac) {
            return Err(ValueError::new(format!("{mac} is listed twice in `{text}`")));
        }
        macs.push(mac);
    }
    Ok(macs)
}

fn octets_of(text: &str) -> Option<[u8; 6]> {
    let digits: Vec<u8> = match text.len() {
        12 => text.bytes().collect(),
        17 => {
            let separator = *text.as_bytes().get(2)?;
            let well_placed = matches!(separator, b':' | b'-')
                && text.bytes().skip(2).step_by(3).all(|byte| byte == separator);
            if !well_placed {
                return None;
            }
            text.bytes().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, byte)| byte).collect()
        }
        _ => return None,
    };
    let mut octets = [0_u8; 6];
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16)?;
            *octet = (*octet << 4) | u8::try_from(value).ok()?;
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_one_address() {
        let expected = Mac([0x52, 0x54, 0x00, 0x12, 0xab, 0xff]);
        for text in ["52:54:00:12:ab:ff", "52-54-00-12-AB-FF", "52540012abFF"] {
            assert_eq!(parse_mac(text), Ok(expected), "{text}");
        }
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
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sets_are_joined_by_plus_and_have_no_duplicates() {
        let one = Mac([2, 0, 0, 0, 0, 1]);
        let two = Mac([2, 0, 0, 0, 0, 2]);
        assert_eq!(parse_mac_set("020000000001+02:00:00:00:00:02"), Ok(vec![one, two]));
        assert!(parse_mac_set("020000000001+020000000001").is_err());
        assert!(parse_mac_set("020000000001+").is_err());
    }
}
