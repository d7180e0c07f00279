//! Byte counts as people write them: `512`, `64M`, `4GiB`. Units are powers of 1024.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ValueError;

/// Unit letters, each 1024 times the one before; the first is bytes.
const UNITS: [char; 6] = ['B', 'K', 'M', 'G', 'T', 'P'];

/// A number of bytes.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize,
)]
#[serde(try_from = "SizeWord", into = "u64")]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    /// Accepts a decimal integer or fraction and an optional unit: K, M, G, T, P (powers of 1024,
    /// also KB and KiB), `s` for sectors of 512 bytes, B or nothing for bytes.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError::new(format!(
                "`{text}` is not a size; write a number and a unit, such as 512, 64M or 4G"
            ))
        };
        let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(number_len);
        let factor = unit_factor(unit).ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
            return Err(malformed());
        }
        let too_large =
            || ValueError::new(format!("`{text}` is too large; the limit is just below 16384P"));
        let whole = whole.parse::<u64>().map_err(|_| too_large())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            bytes = bytes
                .checked_add(fraction_of(fraction, factor).ok_or_else(malformed)?)
                .ok_or_else(too_large)?;
        }
        Ok(Self(bytes))
    }
}

/// Bytes per unit; `None` for a unit nobody knows.
fn unit_factor(unit: &str) -> Option<u64> {
    if unit == "s" {
        return Some(512);
    }
    let upper = unit.to_ascii_uppercase();
    let letter = match upper.as_str() {
        "" => 'B',
        word => {
            let letter = word.chars().next()?;
            let rest = word.get(1..)?;
            let plain = rest.is_empty() || (letter != 'B' && (rest == "B" || rest == "IB"));
            plain.then_some(letter)?
        }
    };
    let exponent = UNITS.iter().position(|&known| known == letter)?;
    1024_u64.checked_pow(u32::try_from(exponent).ok()?)
}

/// `0.fraction * factor`, when that is a whole number of bytes.
fn fraction_of(fraction: &str, factor: u64) -> Option<u64> {
    if fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled = u128::from(fraction.parse::<u64>().ok()?).checked_mul(u128::from(factor))?;
    if scaled % scale != 0 {
        return None;
    }
    u64::try_from(scaled / scale).ok()
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&human_bytes(self.0))
    }
}

/// `bytes` rounded to three significant digits with a binary unit: `0 B`, `1.50 MiB`, `64.0 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut unit = 0_usize;
    let mut scaled = u128::from(bytes) * 1000;
    while scaled >= 1024 * 1000 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    let Some(letter) = UNITS.get(unit).filter(|_| unit > 0) else {
        return format!("{bytes} B");
    };
    let (whole, thousandths) = (scaled / 1000, scaled % 1000);
    match whole {
        0..10 => format!("{whole}.{:02} {letter}iB", thousandths / 10),
        10..100 => format!("{whole}.{} {letter}iB", thousandths / 100),
        _ => format!("{whole} {letter}iB"),
    }
}

/// A size in a configuration file: a bare number of bytes, or text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeWord {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeWord> for ByteSize {
    type Error = ValueError;

    fn try_from(word: SizeWord) -> Result<Self, ValueError> {
        match word {
            SizeWord::Bytes(bytes) => Ok(Self(bytes)),
            SizeWord::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("8s", 4096),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4kb", 4096),
            ("64M", 64 << 20),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
            ("16383P", 16383 << 50),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        for text in
            ["", "M", "-1", "1.M", ".5M", "1..5M", "1X", "1KX", "1BB", "0.3", "16384P", "é", "4Ké"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 << 20, "10.0 MiB"),
            (200 << 30, "200 GiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
