//! Numbers with units, read from the command line and shown to people.

use std::fmt;
use std::num::NonZeroUsize;

/// A number of bytes as people read it: `1.5 MiB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
            Some((name, unit)) => format!("{:.1} {name}", self.0 as f64 / *unit as f64),
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

/// Reads a size: digits, then nothing, `B`, or one of K, M, G, T, alone or with `iB` (1024) or `B` (1000) behind.
///
/// # Errors
/// A text of another form, or a size of zero or above 2^63.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
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

/// Worker threads that can be asked for: beyond that the system may refuse them.
const MAX_THREADS: usize = 512;

/// Reads a number of threads.
///
/// # Errors
/// A text of another form, or a number out of range.
pub(crate) fn parse_threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MAX_THREADS);
    number.ok_or_else(|| format!("not a number from 1 to {MAX_THREADS}"))
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
    fn threads_are_bounded() {
        assert_eq!(parse_threads("8").map(NonZeroUsize::get), Ok(8));
        for text in ["", "0", "-1", "two", "513", "100000", "99999999999999999999"] {
            assert!(parse_threads(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        let shown = [0, 1023, 1024, 1_572_864, 3 << 30, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "3.0 GiB", "16777216.0 TiB"]);
        assert_eq!(format!("{:>8}|", Bytes(5)), "     5 B|");
    }
}
