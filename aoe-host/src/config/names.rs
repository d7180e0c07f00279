//! Client names: what they may look like, and `--client NAME=MAC[+MAC...]`.

use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::chain::deserialize_macs;
use crate::values::{Mac, ValueError, parse_address, parse_mac_set, serde_text};

/// Longest name in bytes. Leaves room in a file name (255) for addresses and suffixes.
pub const NAME_LEN_MAX: usize = 64;

/// A client: a name with a set of MAC addresses. One `--client`, or one `[[client]]` table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientWord {
    /// The name, which also names the client's overlay.
    pub name: String,
    /// Every address the client sends from.
    #[serde(serialize_with = "serde_text::macs::serialize", deserialize_with = "deserialize_macs")]
    pub mac: Vec<Mac>,
}

impl FromStr for ClientWord {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, macs) = text.split_once('=').ok_or_else(|| {
            ValueError::new(format!(
                "`{text}` has no `=`; write NAME=MAC[+MAC...], such as \
                 lab1=52:54:00:12:34:56"
            ))
        })?;
        check_name(name)?;
        Ok(Self { name: name.to_owned(), mac: parse_mac_set(macs)? })
    }
}

/// Checks that `name` can name a client, an export and a file: ASCII letters, digits, `.`, `_`
/// and `-`, beginning with a letter or digit, and not the address of an export.
///
/// # Errors
/// Says what is wrong with `name`.
pub fn check_name(name: &str) -> Result<(), ValueError> {
    let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX;
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !(fits && begins_well && is_plain) {
        return Err(ValueError::new(format!(
            "`{name}` cannot be a name; use 1 to {NAME_LEN_MAX} ASCII letters, digits, `.`, `_` \
             and `-`, beginning with a letter or a digit"
        )));
    }
    if name.starts_with('e') && parse_address(name).is_ok() {
        return Err(ValueError::new(format!(
            "`{name}` cannot be a name, because it is an address; choose another one"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for name in ["lab1", "A", "0a", "room-3_seat.4", "e0", "e0.1x", &"n".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in
            ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\0", "é", "e0.1", &"n".repeat(65)]
        {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_client_is_a_name_with_a_set_of_macs() {
        let client: ClientWord = "lab1=020000000001+02:00:00:00:00:02".parse().unwrap();
        assert_eq!(client.name, "lab1");
        assert_eq!(client.mac, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        for text in ["lab1", "lab1=", "=020000000001", "../x=020000000001", "lab1=x"] {
            assert!(text.parse::<ClientWord>().is_err(), "{text}");
        }
    }
}
