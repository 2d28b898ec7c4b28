//! How much room contents may take, and sizes as people write them.

use std::str::FromStr;

/// Bounds of the object store. What goes beyond is given back as far as it can be made again and is not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that all contents may have; none for no limit.
    pub limit: Option<u64>,
    /// What should stay free on the disk.
    pub reserve: Reserve,
}

/// A part of a disk that should stay free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths.
    Part(u8),
}

impl Default for Reserve {
    fn default() -> Self {
        Self::Part(5)
    }
}

impl Reserve {
    /// Its bytes, of a disk of `all`.
    #[must_use]
    pub fn bytes(self, all: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Part(part) => all / 100 * u64::from(part),
        }
    }
}

impl FromStr for Reserve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::Bytes(0));
        }
        match text.strip_suffix('%') {
            Some(part) => part
                .parse()
                .ok()
                .filter(|part| *part <= 100)
                .map(Self::Part)
                .ok_or_else(|| "not a part from 0% to 100%".to_owned()),
            None => parse_size(text).map(Self::Bytes),
        }
    }
}

/// Reads a size: digits, then nothing, `B`, or one of K, M, G, T, alone or with `iB` (1024) or `B` (1000) behind.
///
/// # Errors
/// A text of another form, or a size of zero or above 2^63.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err("not a size such as 512MiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size such as 512MiB".to_owned())?;
    number
        .checked_mul(scale)
        .filter(|bytes| (1..=1 << 63).contains(bytes))
        .ok_or_else(|| "a size must be above zero and below 2^63".into())
}

/// Reads a size as [`parse_size`] does, of at least `least` bytes.
///
/// # Errors
/// As for [`parse_size`], or for a smaller one.
pub fn parse_memory(text: &str, least: u64) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes < least { Err(format!("below {}MiB, which is needed at least", least >> 20)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("1", 1), ("512MiB", 512 << 20), ("1G", 1 << 30), ("2kB", 2000), ("3 kib", 3072), ("7b", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "0", "-1", "1.5G", "1X", "99999999999999999999", "99999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_least_size() {
        assert_eq!(parse_memory("64MiB", 64 << 20), Ok(64 << 20));
        for text in ["1", "64", "63MiB", "67108863", "x"] {
            assert!(parse_memory(text, 64 << 20).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reserve_is_a_size_or_a_part() {
        let bytes = |text: &str| text.parse::<Reserve>().map(|reserve| reserve.bytes(1000));
        assert_eq!(bytes("5%"), Ok(50));
        assert_eq!((bytes("0"), bytes("0%"), bytes("2KiB")), (Ok(0), Ok(0), Ok(2048)));
        assert!(["", "%", "101%", "-1%", "x"].iter().all(|text| bytes(text).is_err()));
    }
}
