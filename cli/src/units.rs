//! Numbers with units, read from the command line and shown to people.

use std::fmt;
use std::num::NonZeroUsize;

pub(crate) use di3fs_snapshotter::space::parse_size;

/// A number of bytes as people read it: `1.5 MiB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

/// So many of what one is called: `1 image`, `2 images`.
pub(crate) fn counted(number: impl TryInto<u64>, one: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(start)) => format!("{number} {start}ies"),
        _ => format!("{number} {one}s"),
    }
}

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

/// Reads how many of something are wanted.
///
/// # Errors
/// A text of another form, or 0.
pub(crate) fn parse_count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "not a number above 0".to_owned())
}

/// Reads where a server is.
///
/// # Errors
/// A text without a scheme, or with another one.
pub(crate) fn parse_server(text: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    if is_url { Ok(text.to_owned()) } else { Err("not http:// or https:// and a host".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_bounded() {
        assert_eq!(parse_threads("8").map(NonZeroUsize::get), Ok(8));
        for text in ["", "0", "-1", "two", "513", "100000", "99999999999999999999"] {
            assert!(parse_threads(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_have_their_number() {
        let shown = [0u64, 1, 2].map(|number| [counted(number, "image"), counted(number, "entry")]);
        assert_eq!(shown, [["0 images", "0 entries"], ["1 image", "1 entry"], ["2 images", "2 entries"]]);
    }

    #[test]
    fn sizes_are_shown() {
        let shown = [0, 1023, 1024, 1_572_864, 3 << 30, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "3.0 GiB", "16777216.0 TiB"]);
        assert_eq!(format!("{:>8}|", Bytes(5)), "     5 B|");
    }
}
