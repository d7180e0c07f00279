//! `--export SHELF.SLOT=CHAIN[,option...]` and its table form. Parsing only.

use core::str::FromStr;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de};

use super::{Durability, Window, table};
use crate::values::{
    Address, ByteSize, Mac, ValueError, parse_address, parse_mac, parse_mac_set, serde_text,
};

/// The options of an export, for messages.
pub(crate) const EXPORT_OPTIONS: &str = "ro, per-client, mac=, durability=, limit=, name=";

/// One `--export`, or one `[[export]]` table.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExportWord {
    /// Shelf and slot.
    #[serde(with = "serde_text::address")]
    pub address: Address,
    /// Layers from the top to the base.
    #[serde(deserialize_with = "deserialize_chain")]
    pub chain: Vec<LayerWord>,
    /// Refuse writes.
    #[serde(default)]
    pub ro: bool,
    /// One overlay per client on top of the chain.
    #[serde(default)]
    pub per_client: bool,
    /// Only these initiators.
    #[serde(default, deserialize_with = "deserialize_macs")]
    pub mac: Vec<Mac>,
    /// In place of the server's durability.
    #[serde(default)]
    pub durability: Option<Durability>,
    /// In place of the server's overlay limit.
    #[serde(default)]
    pub limit: Option<ByteSize>,
    /// A name for messages.
    #[serde(default)]
    pub name: Option<String>,
}

/// One layer as typed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LayerWord {
    /// A path.
    File(PathBuf),
    /// A part of what is at a path.
    Part(PathBuf, Window),
    /// `cow:PATH`: an overlay, and whatever it says is below it.
    Stack(PathBuf),
    /// `blank:SIZE`.
    Blank(ByteSize),
}

impl FromStr for LayerWord {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(size) = text.strip_prefix("blank:") {
            return size.parse().map(Self::Blank);
        }
        match text.strip_prefix("cow:") {
            Some("") => Err(ValueError::new("`cow:` names no file; write cow:PATH")),
            Some(path) => Ok(Self::Stack(PathBuf::from(path))),
            None if text.is_empty() => Err(ValueError::new("a layer of the chain is empty")),
            None => Ok(Self::File(PathBuf::from(text))),
        }
    }
}

impl FromStr for ExportWord {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (address, rest) = text.split_once('=').ok_or_else(|| {
            ValueError::new(format!(
                "`{text}` has no `=`; write SHELF.SLOT=CHAIN, such as 0.1=golden.img,ro"
            ))
        })?;
        let mut export = Self {
            address: parse_address(address)?,
            chain: Vec::new(),
            ro: false,
            per_client: false,
            mac: Vec::new(),
            durability: None,
            limit: None,
            name: None,
        };
        for word in rest.split(',') {
            export.add_word(word)?;
        }
        if export.chain.is_empty() {
            return Err(ValueError::new(format!(
                "`{text}` names no image; write SHELF.SLOT=CHAIN, such as 0.1=golden.img,ro"
            )));
        }
        Ok(export)
    }
}

impl ExportWord {
    /// Takes one comma separated word: an option, or the next lower layer, or a whole line of a
    /// device-mapper table.
    fn add_word(&mut self, word: &str) -> Result<(), ValueError> {
        if let Some(layers) = table::layers_of(word)? {
            self.chain.extend(layers);
            return Ok(());
        }
        match word {
            "ro" => self.ro = true,
            "per-client" => self.per_client = true,
            _ => match option_of(word) {
                Some(("mac", value)) => self.mac.extend(parse_mac_set(value)?),
                Some(("durability", value)) => {
                    self.durability = Some(Durability::from_str(value, true).map_err(|_| {
                        ValueError::new(format!(
                            "`{value}` is not a durability; write safe, writeback or ephemeral"
                        ))
                    })?);
                }
                Some(("limit", value)) => self.limit = Some(value.parse()?),
                Some(("name", value)) => self.name = Some(value.to_owned()),
                Some((unknown, _)) => {
                    return Err(ValueError::new(format!(
                        "`{unknown}` is not an option of an export ({EXPORT_OPTIONS}); write \
                         `./{word}` if it is a file"
                    )));
                }
                None => self.chain.push(word.parse()?),
            },
        }
        Ok(())
    }
}

/// Splits `key=value` if the key looks like a word of ours; a path with `=` has a `/`, a `.` or
/// an upper-case letter before it, or is written with `./` in front.
fn option_of(word: &str) -> Option<(&str, &str)> {
    let (key, value) = word.split_once('=')?;
    let is_word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    is_word.then_some((key, value))
}

/// Text, or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    /// A single text.
    One(String),
    /// Several.
    Many(Vec<String>),
}

fn deserialize_chain<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<LayerWord>, D::Error> {
    let words: Vec<String> = match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => text.split(',').map(str::to_owned).collect(),
        OneOrMany::Many(list) => list,
    };
    let mut layers = Vec::new();
    for word in &words {
        match table::layers_of(word).map_err(de::Error::custom)? {
            Some(line) => layers.extend(line),
            None => layers.push(word.parse().map_err(de::Error::custom)?),
        }
    }
    Ok(layers)
}

/// Reads `"MAC[+MAC...]"` or a list of MAC addresses.
pub(super) fn deserialize_macs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Mac>, D::Error> {
    match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => parse_mac_set(&text).map_err(de::Error::custom),
        OneOrMany::Many(list) => {
            list.iter().map(|text| parse_mac(text).map_err(de::Error::custom)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ExportWord, ValueError> {
        text.parse()
    }

    #[test]
    fn chain_from_top_to_base_with_options_anywhere() {
        let export = parse(
            "1.2=top.cow,ro,/img/golden.img,limit=2G,name=lab,durability=writeback,\
             mac=020000000001+020000000002",
        )
        .unwrap();
        assert_eq!(export.address, Address::new(1, 2).unwrap());
        assert_eq!(
            export.chain,
            [LayerWord::File("top.cow".into()), LayerWord::File("/img/golden.img".into())]
        );
        assert!(export.ro && !export.per_client);
        assert_eq!(export.limit, Some(ByteSize(2 << 30)));
        assert_eq!(export.name.as_deref(), Some("lab"));
        assert_eq!(export.durability, Some(Durability::Writeback));
        assert_eq!(export.mac, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
    }

    #[test]
    fn blank_disks() {
        let export = parse("0.1=blank:4G,per-client").unwrap();
        assert_eq!(export.chain, [LayerWord::Blank(ByteSize(4 << 30))]);
        assert!(export.per_client);
    }

    #[test]
    fn a_line_of_a_table_is_a_chain() {
        let export = parse("0.1=0 16384 snapshot /img/golden /img/cow P 64,ro,name=lab").unwrap();
        let origin = Window { offset_bytes: 0, len_bytes: Some(16_384 * 512) };
        assert_eq!(
            export.chain,
            [
                LayerWord::File("dm-snapshot:/img/cow".into()),
                LayerWord::Part("/img/golden".into(), origin)
            ]
        );
        assert!(export.ro);
        assert_eq!(parse("0.1=cow:/a/b.cow").unwrap().chain, [LayerWord::Stack("/a/b.cow".into())]);
    }

    #[test]
    fn paths_that_look_like_options_need_a_hint() {
        let error = parse("0.1=golden=copy").unwrap_err().to_string();
        assert!(error.contains("`golden` is not an option") && error.contains("./golden=copy"));
        assert_eq!(
            parse("0.1=./golden=copy").unwrap().chain,
            [LayerWord::File("./golden=copy".into())]
        );
    }

    #[test]
    fn refuses_what_names_no_image() {
        for text in [
            "0.1",
            "0.1=",
            "0.1=ro",
            "=golden.img",
            "0.1=a,,b",
            "0.1=blank:",
            "0.1=a,limit=x",
            "0.1=cow:",
            "0.1=0 8 snapshot a b N 8",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
