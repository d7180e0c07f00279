//! `-o KEY=VALUE`: what is particular to the making of an image in one format.

use core::str::FromStr;

use super::Format;
use crate::error::{HostError, Result};
use crate::values::ByteSize;

/// An option that a format takes when an image is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OptionSpec {
    /// Lower-case letters and hyphens.
    pub(crate) key: &'static str,
    /// What it means, with its default, as a phrase.
    pub(crate) about: &'static str,
}

/// Options as given. Of two with one key the later counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FormatOptions(Vec<(String, String)>);

impl FormatOptions {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }

    /// Refuses what `format` does not know.
    pub(crate) fn check(&self, format: Format, known: &[OptionSpec]) -> Result<()> {
        let unknown = self.0.iter().find(|(key, _)| known.iter().all(|spec| spec.key != key));
        let Some((key, _)) = unknown else { return Ok(()) };
        let all: Vec<_> = known.iter().map(|o| format!("{} ({})", o.key, o.about)).collect();
        let advice = match &*all {
            [] => "it has no options".to_owned(),
            all => format!("its options are: {}", all.join(", ")),
        };
        let detail = format!("the format {format} does not know it");
        Err(HostError::usage(format!("use the option `{key}`"), detail).advice(advice))
    }

    /// The text of an option.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The value of an option, in any type that is read from a word.
    ///
    /// # Errors
    /// What is wrong with the word.
    pub(crate) fn parsed<T>(&self, key: &str) -> Result<Option<T>>
    where
        T: FromStr<Err: core::fmt::Display>,
    {
        let parse = |text: &str| {
            text.parse().map_err(|error: T::Err| {
                HostError::usage(format!("use the option `{key}={text}`"), error.to_string())
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// Whether an option is given as `yes`; `no` unless given.
    ///
    /// # Errors
    /// Another word.
    pub(crate) fn is_yes(&self, key: &str) -> Result<bool> {
        match self.text(key) {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(other) => {
                let op = format!("use the option `{key}={other}`");
                Err(HostError::usage(op, "it is yes or no"))
            }
        }
    }

    /// A number of bytes such as `32K`.
    ///
    /// # Errors
    /// What is wrong with the word.
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<u64>> {
        self.parsed::<ByteSize>(key).map(|size| size.map(ByteSize::bytes))
    }
}

impl FromIterator<(String, String)> for FormatOptions {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(options: I) -> Self {
        Self(options.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_and_understood() {
        let known = [OptionSpec { key: "chunk", about: "size of a chunk" }];
        let options = FormatOptions::default().with("chunk", "8K").with("chunk", "32K");
        options.check(Format::RAW, &known).unwrap();
        assert_eq!(options.bytes("chunk").unwrap(), Some(32 << 10));
        assert_eq!(options.parsed::<u8>("none").unwrap(), None);
        let error = options.parsed::<u8>("chunk").unwrap_err();
        assert!(error.to_string().contains("chunk=32K"), "{error}");
        let error = options.check(Format::RAW, &[]).unwrap_err();
        assert!(error.to_string().contains("no options"), "{error}");
        let error = options.with("color", "red").check(Format::RAW, &known).unwrap_err();
        assert!(error.to_string().contains("chunk (size of a chunk)"), "{error}");
    }
}
