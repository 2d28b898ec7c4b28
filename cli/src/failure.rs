//! What a command fails with: one line for people, one object for machines, one exit status.

use std::fmt;
use std::io;
use std::path::Path;

use serde_json::json;

/// The class of a failure; decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything without a class of its own.
    Failed,
    /// The command line asks for what cannot be meant.
    Usage,
    /// An image, base or file is not there.
    NotFound,
    /// A digest, a signature or a format does not hold.
    Corrupt,
    /// No space is left, or a limit is reached.
    NoSpace,
    /// The reader of our output went away: not told to anyone.
    Closed,
}

impl Kind {
    /// The exit status.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::NoSpace => 5,
        }
    }

    /// The class in one word.
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no_space",
        }
    }

    /// The class of an error of the operating system.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

/// Why a command failed. Displays as `<what failed>: <on what>: <why>`, on one line whatever the parts hold.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    message: String,
    path: Option<String>,
    offset: Option<u64>,
}

impl Failure {
    /// A failure of any kind.
    pub(crate) fn new(kind: Kind, what: &str, on: impl fmt::Display, why: impl fmt::Display) -> Self {
        let on = on.to_string();
        Self { kind, message: format!("{what}: {on}: {why}"), path: Some(on), offset: None }
    }

    /// A failure of whatever cannot be meant.
    pub(crate) fn usage(on: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, "command line", on, why)
    }

    /// Turns an error of the operating system about `path` into a failure of doing `what`.
    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(Kind::of_io(&error), what, path.display(), Reason(&error))
    }

    /// The object that `--json` prints.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({"error": {
            "kind": self.kind.name(),
            "message": self.to_string(),
            "path": self.path,
            "offset": self.offset,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.message.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// An error of the operating system in lower case and without its number.
pub(crate) struct Reason<'a>(pub(crate) &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut chars = text.chars();
        match chars.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), chars.as_str()),
            None => f.write_str("unknown error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_a_name_holds() {
        let failure = Failure::new(Kind::Failed, "read", "a\nb\x1b[2J", "no");
        assert_eq!(failure.to_string(), "read: a\\nb\\u{1b}[2J: no");
    }

    #[test]
    fn errno_decides_the_exit_status() {
        let code = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            Failure::io("open", Path::new("f"))(error).kind.exit_code()
        };
        assert_eq!([2, 20, 28, 122, 27, 12, 13, 5].map(code), [3, 3, 5, 5, 5, 5, 1, 1]);
    }

    #[test]
    fn system_errors_read_like_ours() {
        let failure = Failure::io("open", Path::new("f"))(io::Error::from_raw_os_error(2));
        assert_eq!(failure.to_string(), "open: f: no such file or directory");
        let expected = r#"{"error":{"kind":"not_found","message":"open: f: no such file or directory","offset":null,"path":"f"}}"#;
        assert_eq!(failure.json().to_string(), expected);
    }
}
