//! What a command fails with: one line for people, one object for machines, one exit status.

use std::fmt;
use std::io;
use std::path::Path;

use d4c_image::error::SourceError;
use d4c_image::layers::LayerError;
use d4c_image::tar::{TarError, WriteError};
use di3fs::checkout::CheckoutError;
use di3fs::erofs::ErofsError;
use di3fs::mount::MountError;
use di3fs::store::StoreError;
use di3fs_snapshotter::client::ClientError;
use di3fs_snapshotter::control::ControlError;
use dimg::format::DimgError;
use nix::libc::{EMFILE, ENFILE};
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
    /// The reader of what we print has enough of it: not told to anyone.
    Closed,
    /// The reader of a file that goes to standard output went away before it had all: told by the status alone, as `tar` and `zstd` do, which
    /// SIGPIPE ends.
    Cut,
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
            Self::Cut => 141,
        }
    }

    /// The class in one word.
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Cut => "cut",
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
            _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => Self::NoSpace,
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

    /// The same, and what could be done.
    pub(crate) fn and(self, more: &str) -> Self {
        Self { message: format!("{}; {more}", self.message), ..self }
    }

    /// The offset in the file of what is wrong.
    pub(crate) fn at(mut self, offset: Option<u64>) -> Self {
        self.offset = offset.or(self.offset);
        self
    }

    /// Turns an error about a dimg or cdimg, or about what is made with it, into a failure about the file at `path`.
    pub(crate) fn delta(path: &Path) -> impl Fn(DimgError) -> Self {
        move |error| {
            let kind = match error.class() {
                dimg::format::Class::Failed => Kind::Failed,
                dimg::format::Class::NotFound => Kind::NotFound,
                dimg::format::Class::Corrupt => Kind::Corrupt,
                dimg::format::Class::NoSpace => Kind::NoSpace,
            };
            let offset = error.offset();
            match error {
                DimgError::Io { action, path, source } => Self::io(action, &path)(source),
                DimgError::Output(source) => Self::io("write file", path)(source),
                error => Self::new(kind, "delta file", path.display(), error).at(offset),
            }
        }
    }

    /// Turns an error of writing a layer's tar into a failure about `on`.
    pub(crate) fn tar_write(on: impl fmt::Display) -> impl Fn(WriteError) -> Self {
        let on = on.to_string();
        move |error| match &error {
            WriteError::Output(source) => Self::new(Kind::of_io(source), "write layer", &on, Reason(source)),
            WriteError::Content { source, .. } => {
                let why = format!("{error}: {}", Reason(source));
                Self::new(Kind::of_io(source), "make layer", &on, why)
            }
            _ => Self::new(Kind::Corrupt, "make layer", &on, &error),
        }
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

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let kind = match error.class() {
            d4c_image::error::Class::Usage => Kind::Usage,
            d4c_image::error::Class::NotFound => Kind::NotFound,
            d4c_image::error::Class::Corrupt => Kind::Corrupt,
            d4c_image::error::Class::NoSpace => Kind::NoSpace,
            d4c_image::error::Class::Failed => Kind::Failed,
        };
        match error {
            SourceError::Io { what, path, source } => Self::io(what, &path)(source),
            SourceError::Remote { what, on, why } if why.contains(NUMBER) => {
                Self::new(kind, what, on, reason(&why))
            }
            error => {
                Self { kind, message: error.to_string(), path: Some(error.on()), offset: error.offset() }
            }
        }
    }
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Source(error) => error.into(),
            LayerError::Layer { on, source } => {
                let limit = matches!(source, TarError::Limit { .. });
                let kind = if limit { Kind::NoSpace } else { Kind::Corrupt };
                Self::new(kind, "read layer", on, &source).at(Some(source.offset()))
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { action, path, source } => Self::io(action, &path)(source),
            StoreError::Make { source } => match source.downcast::<DimgError>() {
                Ok(error) => Self::delta(Path::new("recipe"))(*error),
                Err(error) => Self::new(Kind::Failed, "make content", "recipe", plain(&error.to_string())),
            },
            error => {
                let kind = match &error {
                    StoreError::NoSpace { .. } => Kind::NoSpace,
                    StoreError::Wrong { .. } | StoreError::NotMade { .. } => Kind::Corrupt,
                    _ => Kind::Failed,
                };
                Self { kind, message: error.to_string(), path: None, offset: None }
            }
        }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        match error {
            MountError::Io { action, path, source } => Self::io(action, &path)(source),
            MountError::Store(error) => error.into(),
            MountError::Checkout(error) => error.into(),
            MountError::Erofs(ErofsError::Output(error)) => {
                Self::new(Kind::of_io(&error), "write erofs image", "temporary directory", Reason(&error))
            }
            error => {
                let message = plain(&error.to_string());
                Self { kind: Kind::Failed, message, path: None, offset: None }
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (kind, path) = match &error {
            ClientError::Connect { socket, why } => {
                return Self::new(Kind::Failed, "connect to containerd", socket.display(), reason(why));
            }
            ClientError::Usage { .. } => (Kind::Usage, None),
            ClientError::NotThere { chain_id, .. } => (Kind::NotFound, Some(chain_id.clone())),
            ClientError::Call { on, .. } if error.is_not_found() => (Kind::NotFound, Some(on.clone())),
            ClientError::Call { on, .. } if error.is_no_space() => (Kind::NoSpace, Some(on.clone())),
            ClientError::Call { on, .. } => (Kind::Failed, Some(on.clone())),
            _ => (Kind::Failed, None),
        };
        Self { kind, message: plain(&error.to_string()), path, offset: None }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let (kind, path) = match &error {
            ControlError::Connect { socket, why } => {
                return Self::new(
                    Kind::Failed,
                    "connect to di3fs-snapshotter",
                    socket.display(),
                    reason(why),
                );
            }
            ControlError::Refused { code, .. } => (kind_of_code(*code as i32), None),
            _ => (Kind::Failed, None),
        };
        Self { kind, message: plain(&error.to_string()), path, offset: None }
    }
}

/// The class of gRPC's code for a failure, by number.
fn kind_of_code(code: i32) -> Kind {
    match code {
        3 => Kind::Usage,
        5 => Kind::NotFound,
        8 => Kind::NoSpace,
        15 => Kind::Corrupt,
        _ => Kind::Failed,
    }
}

/// What stands before the number of an error of the operating system.
const NUMBER: &str = " (os error";

/// `text` without the numbers of the operating system's errors.
fn plain(text: &str) -> String {
    text.split(NUMBER).next().unwrap_or_default().to_owned()
}

/// What the operating system says of an error, in lower case and without its number.
fn reason(text: &str) -> String {
    let text = plain(text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".to_owned(),
    }
}

impl From<CheckoutError> for Failure {
    fn from(error: CheckoutError) -> Self {
        let full = error.is_no_space();
        match error {
            CheckoutError::Io { action, path, source } => {
                let kind = if full { Kind::NoSpace } else { Kind::of_io(&source) };
                Self { kind, ..Self::io(action, &path)(source) }
            }
            CheckoutError::MissingContent { ref path, .. } | CheckoutError::WrongSize { ref path, .. } => {
                let path = Some(path.display().to_string());
                Self { kind: Kind::Corrupt, message: error.to_string(), path, offset: None }
            }
            CheckoutError::Tree(_) => {
                Self { kind: Kind::Corrupt, message: error.to_string(), path: None, offset: None }
            }
            CheckoutError::DestinationInUse { ref path } | CheckoutError::NeedsRoot { ref path, .. } => {
                let path = Some(path.display().to_string());
                Self { kind: Kind::Failed, message: error.to_string(), path, offset: None }
            }
        }
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
        f.write_str(&reason(&self.0.to_string()))
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
        assert_eq!([2, 20, 28, 122, 27, 12, 24, 23, 13, 5].map(code), [3, 3, 5, 5, 5, 5, 5, 5, 1, 1]);
    }

    #[test]
    fn system_errors_read_like_ours() {
        let failure = Failure::io("open", Path::new("f"))(io::Error::from_raw_os_error(2));
        assert_eq!(failure.to_string(), "open: f: no such file or directory");
        let expected = r#"{"error":{"kind":"not_found","message":"open: f: no such file or directory","offset":null,"path":"f"}}"#;
        assert_eq!(failure.json().to_string(), expected);
    }
}
