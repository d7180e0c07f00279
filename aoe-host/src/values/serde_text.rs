//! Addresses and MAC addresses as text in JSON and TOML: `#[serde(with = "serde_text::macs")]`.

use core::fmt::Display;

use serde::{Deserialize, Deserializer, Serializer, de};

use super::{Address, Mac, ValueError, parse_address, parse_mac};

fn parse_with<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, ValueError>,
) -> Result<T, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

macro_rules! as_text {
    ($(#[$doc:meta])* $name:ident, $type:ty, $parse:path) => {
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// Writes the value as text.
            ///
            /// # Errors
            /// Those of the serializer.
            #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
            pub fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(value)
            }

            /// Reads the value from text.
            ///
            /// # Errors
            /// When the text is not such a value.
            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                parse_with(from, $parse)
            }
        }
    };
}

as_text!(
    /// One [`Address`].
    address,
    Address,
    parse_address
);
as_text!(
    /// One [`Mac`].
    mac,
    Mac,
    parse_mac
);

/// A list of [`Mac`].
pub mod macs {
    use super::{Deserialize, Deserializer, Mac, Serializer, Text, de, parse_mac};

    /// Writes the list as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(macs: &[Mac], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(macs.iter().map(Text))
    }

    /// Reads the list from text.
    ///
    /// # Errors
    /// When one of the texts is not a MAC address.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Mac>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| parse_mac(text).map_err(de::Error::custom)).collect()
    }
}

struct Text<'a, T>(&'a T);

impl<T: Display> serde::Serialize for Text<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self.0)
    }
}
