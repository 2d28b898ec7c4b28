//! What can go wrong with a dimg or cdimg.

use crate::Digest;
use crate::engine::EngineError;
use crate::index::IndexError;
use crate::wire::WireError;
use std::io;
use std::path::{Path, PathBuf};

/// An error about a dimg or cdimg. Offsets are those of the file that was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DimgError {
    /// The operating system refused.
    #[error("{action}: {}: {source}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was made could not be written.
    #[error("write output: {0}")]
    Output(#[source] io::Error),
    /// Bytes that the format does not allow, or that do not have their checksum.
    #[error("read {section} at offset {offset}: {reason}")]
    Corrupt {
        /// The part of the file.
        section: &'static str,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A version or codec that this program does not know.
    #[error("read {section} at offset {offset}: {what} {value} is not supported")]
    Unsupported {
        /// The part of the file.
        section: &'static str,
        /// Where in the file.
        offset: u64,
        /// What is unknown.
        what: &'static str,
        /// Its number.
        value: u64,
    },
    /// A delta needs its parent and none was given.
    #[error("resolve delta: the parent {0} is needed")]
    NoParent(Digest),
    /// The image given as parent is not the one that the delta was made against.
    #[error("match parent: {what}: the delta was made against {expected}, this is {found}")]
    ParentMismatch {
        /// What differs.
        what: String,
        /// What the delta says.
        expected: String,
        /// What the image has.
        found: String,
    },
    /// A content does not have its digest: the base it was made from, or the file, is damaged.
    #[error("make content: {expected}: what was made has the digest {found}")]
    WrongContent {
        /// What was to be made.
        expected: Digest,
        /// What was.
        found: Digest,
    },
    /// A content cannot be made from what was given.
    #[error("make content: {content}: {reason}")]
    Make {
        /// What was to be made.
        content: Digest,
        /// Why it cannot be.
        reason: String,
    },
    /// The manifest or config that a dimg is to get is not the one that it names.
    #[error("write cdimg: the {section} has the digest {found}, not {expected}")]
    WrongDocument {
        /// Which of them.
        section: &'static str,
        /// The digest that the dimg names.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// What was given to be written exceeds a limit, or does not fit together.
    #[error("write dimg: {0}")]
    Refused(String),
    /// Layers that cannot be written, or an edit that cannot be applied.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The compressor failed.
    #[error(transparent)]
    Engine(EngineError),
}

/// What kind of failure it is: the exit status of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Something else failed: status 1.
    Failed,
    /// A file, image or base is not there: status 3.
    NotFound,
    /// Damaged or refused: status 4.
    Corrupt,
    /// No space left, or a limit: status 5.
    NoSpace,
}

impl Class {
    /// The class of an error of the operating system.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Corrupt,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

impl From<EngineError> for DimgError {
    /// An output that could not be written is that here, too, with the system's error.
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Output(source) => Self::Output(source),
            error => Self::Engine(error),
        }
    }
}

impl DimgError {
    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } | Self::Output(source) => Class::of(source),
            Self::NoParent(_) => Class::NotFound,
            Self::Corrupt { .. }
            | Self::Unsupported { .. }
            | Self::ParentMismatch { .. }
            | Self::WrongContent { .. }
            | Self::Make { .. }
            | Self::WrongDocument { .. } => Class::Corrupt,
            Self::Index(IndexError::Limit { .. }) => Class::NoSpace,
            Self::Index(IndexError::Pack(_)) | Self::Engine(_) | Self::Refused(_) => Class::Failed,
            Self::Index(_) => Class::Corrupt,
        }
    }

    /// Where in the file it is, when that is known.
    pub fn offset(&self) -> Option<u64> {
        match *self {
            Self::Corrupt { offset, .. } | Self::Unsupported { offset, .. } => Some(offset),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn corrupt(section: &'static str, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { section, offset, reason: reason.into() }
    }

    /// What is wrong with a section that lies at `offset`; `exact` when its bytes are stored as they are.
    pub(crate) fn wire(section: &'static str, offset: u64, exact: bool, error: &WireError) -> Self {
        let inside = exact && error.of == section;
        let offset = if inside { offset.saturating_add(error.offset) } else { offset };
        Self::corrupt(section, offset, error.to_string())
    }

    /// What an engine says of a frame that lies at `offset`.
    pub(crate) fn frame(offset: u64, error: EngineError) -> Self {
        match error {
            EngineError::Output(source) => Self::Output(source),
            EngineError::Corrupt { offset: inside, .. } | EngineError::Limit { offset: inside, .. } => {
                Self::corrupt("frame", offset.saturating_add(inside), error.to_string())
            }
            other => Self::corrupt("frame", offset, other.to_string()),
        }
    }
}
