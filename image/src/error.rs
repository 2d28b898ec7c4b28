//! The error of everything that reads images, and its classes.

use std::io;
use std::path::{Path, PathBuf};

use dimg::Digest;

/// What kind of failure an error is: decides the exit status of the command line (`cli.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The user asked for something that cannot be meant: a malformed name, two images where one is wanted.
    Usage,
    /// There is no such image, tag, blob or file.
    NotFound,
    /// Bytes that are not what their digest, size or format says.
    Corrupt,
    /// No space left, or a limit was reached.
    NoSpace,
    /// Everything else: I/O errors, a registry that refuses.
    Failed,
}

impl Class {
    /// The exit status of the command line for this class.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::NoSpace => 5,
        }
    }

    /// The class in one word, as `--json` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no_space",
        }
    }
}

/// Why an image could not be opened or read.
///
/// Messages read `what failed: on what: why`. `on` names a file, a blob or a reference as the user would.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A source that is no source, or that asks for an impossible choice.
    #[error("image source: {on}: {why}")]
    Usage {
        /// The text given.
        on: String,
        /// Why it cannot be taken.
        why: String,
    },
    /// Something named is not there.
    #[error("{what}: {on}: {why}")]
    NotFound {
        /// What was being done.
        what: &'static str,
        /// The name looked for, or where.
        on: String,
        /// What is there instead.
        why: String,
    },
    /// Bytes that do not follow their format.
    #[error("{what}: {on}{}: {why}", at(*.offset))]
    Corrupt {
        /// What was being done.
        what: &'static str,
        /// The file or blob.
        on: String,
        /// The offset of the offending byte, where there is one.
        offset: Option<u64>,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes whose digest is not the one they go by.
    #[error("{what}: {on}: digest is {actual}, expected {expected}")]
    Digest {
        /// What was being verified.
        what: &'static str,
        /// The file or blob.
        on: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes found.
        actual: Digest,
    },
    /// Bytes that are more or fewer than the descriptor says.
    #[error("{what}: {on}: {actual} bytes, expected {expected}")]
    Size {
        /// What was being verified.
        what: &'static str,
        /// The file or blob.
        on: String,
        /// The size asked for.
        expected: u64,
        /// The size found.
        actual: u64,
    },
    /// More than a limit allows.
    #[error("{what}: {on}: larger than the limit of {limit_bytes} bytes")]
    Limit {
        /// What was being done.
        what: &'static str,
        /// The file or blob.
        on: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A registry that wants another login.
    #[error("{what}: {on}: {why}")]
    Denied {
        /// What was being done.
        what: &'static str,
        /// The repository.
        on: String,
        /// What the registry says.
        why: String,
    },
    /// An image that this program does not handle, though nothing is wrong with it.
    #[error("{what}: {on}: {why}")]
    Unsupported {
        /// What was being done.
        what: &'static str,
        /// The file or blob.
        on: String,
        /// What is not handled.
        why: String,
    },
    /// The registry, or a credential helper, does not do what was asked.
    #[error("{what}: {on}: {why}")]
    Remote {
        /// What was being done.
        what: &'static str,
        /// The reference.
        on: String,
        /// What came back.
        why: String,
    },
    /// A call to the operating system failed.
    #[error("{what}: {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

impl SourceError {
    /// Whether a registry wants another login.
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// The class of the failure.
    pub fn class(&self) -> Class {
        match self {
            Self::Usage { .. } => Class::Usage,
            Self::NotFound { .. } => Class::NotFound,
            Self::Corrupt { .. } | Self::Digest { .. } | Self::Size { .. } => Class::Corrupt,
            Self::Limit { .. } => Class::NoSpace,
            Self::Unsupported { .. } | Self::Denied { .. } | Self::Remote { .. } => Class::Failed,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Class::NotFound,
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::OutOfMemory => Class::NoSpace,
                _ => Class::Failed,
            },
        }
    }

    /// The file, blob or reference that the error is about.
    pub fn on(&self) -> String {
        match self {
            Self::Usage { on, .. }
            | Self::NotFound { on, .. }
            | Self::Corrupt { on, .. }
            | Self::Digest { on, .. }
            | Self::Size { on, .. }
            | Self::Limit { on, .. }
            | Self::Unsupported { on, .. }
            | Self::Denied { on, .. }
            | Self::Remote { on, .. } => on.clone(),
            Self::Io { path, .. } => path.display().to_string(),
        }
    }

    /// The offset of the offending byte, where the error knows one.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Corrupt { offset, .. } => *offset,
            _ => None,
        }
    }

    /// Wraps an error of the operating system.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn usage(on: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Usage { on: on.into(), why: why.into() }
    }

    pub(crate) fn corrupt(what: &'static str, on: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { what, on: on.into(), offset: None, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_class(errno: i32) -> Class {
        SourceError::io("read", Path::new("/f"))(io::Error::from_raw_os_error(errno)).class()
    }

    #[test]
    fn errno_decides_the_class() {
        assert_eq!(io_class(2), Class::NotFound);
        assert_eq!(io_class(20), Class::NotFound);
        assert_eq!(io_class(28), Class::NoSpace);
        assert_eq!(io_class(122), Class::NoSpace);
        assert_eq!(io_class(27), Class::NoSpace);
        assert_eq!(io_class(5), Class::Failed);
        assert_eq!(io_class(13), Class::Failed);
    }

    #[test]
    fn messages_say_what_on_what_and_why() {
        let error = SourceError::Corrupt {
            what: "read tar",
            on: "a.tar".into(),
            offset: Some(512),
            why: "bad checksum".into(),
        };
        assert_eq!(error.to_string(), "read tar: a.tar at offset 512: bad checksum");
        assert_eq!((error.class().exit_code(), error.offset()), (4, Some(512)));
        let error = SourceError::usage("x", "y");
        assert_eq!(error.to_string(), "image source: x: y");
        assert_eq!(error.class().exit_code(), 2);
        let error = SourceError::Limit { what: "unpack layer", on: "l".into(), limit_bytes: 7 };
        assert_eq!(error.to_string(), "unpack layer: l: larger than the limit of 7 bytes");
        assert_eq!(error.class().name(), "no_space");
    }
}
