//! Why an import failed.

use std::io;
use std::path::{Path, PathBuf};

use di3fs::checkout::CheckoutError;
use di3fs::store::StoreError;
use dimg::Digest;
use dimg::format::{Class, DimgError};

use crate::error::Error;

/// A failed import. Messages are one line: what failed, on what, why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read at all.
    #[error("read file: {}: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no cdimg, damaged, or does not fit its parent.
    #[error("import: {}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: DimgError,
    },
    /// The image that the delta starts from was not imported.
    #[error("import: {}: its base image {parent} is not on this node", file.display())]
    NoParent {
        /// Which file.
        file: PathBuf,
        /// Digest of the base's manifest.
        parent: Digest,
    },
    /// A layer cannot be rebuilt as its image says.
    #[error("import: {}: {why}", file.display())]
    Layer {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The disk is full.
    #[error("import: {}: {why}", file.display())]
    NoSpace {
        /// Which file.
        file: PathBuf,
        /// What did not fit.
        why: String,
    },
    /// A content or directory cannot be made.
    #[error("import: {}: {why}", file.display())]
    Make {
        /// Which file.
        file: PathBuf,
        /// What failed.
        why: String,
        /// Whether bytes were wrong, in the file or on the node.
        corrupt: bool,
    },
    /// The plugin's own records failed.
    #[error(transparent)]
    Plugin(#[from] Error),
}

impl ImportError {
    pub(super) fn read(file: &Path, source: io::Error) -> Self {
        Self::Read { file: file.to_owned(), source }
    }

    pub(super) fn file(file: &Path, source: DimgError) -> Self {
        Self::File { file: file.to_owned(), source }
    }

    /// The file cannot be copied.
    pub(super) fn copy(file: &Path, source: io::Error) -> Self {
        let (why, file) = (format!("keep a copy: {source}"), file.to_owned());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { file, why },
            _ => Self::Make { file, why, corrupt: false },
        }
    }

    pub(super) fn layer(file: &Path, error: impl std::fmt::Display) -> Self {
        Self::Layer { file: file.to_owned(), why: error.to_string() }
    }

    pub(super) fn store(file: &Path, error: StoreError) -> Self {
        let file = file.to_owned();
        match error {
            StoreError::NoSpace { .. } => Self::NoSpace { file, why: error.to_string() },
            StoreError::Make { source } => match source.downcast::<DimgError>() {
                Ok(source) => Self::File { file, source: *source },
                Err(source) => Self::Make { file, why: format!("make content: {source}"), corrupt: false },
            },
            StoreError::Wrong { .. } | StoreError::NotMade { .. } => {
                Self::Make { file, why: error.to_string(), corrupt: true }
            }
            other => Self::Make { file, why: other.to_string(), corrupt: false },
        }
    }

    pub(super) fn checkout(file: &Path, error: CheckoutError) -> Self {
        let (file, why) = (file.to_owned(), error.to_string());
        match error {
            error if error.is_no_space() => Self::NoSpace { file, why },
            CheckoutError::Tree(_) => Self::Layer { file, why },
            CheckoutError::WrongSize { .. } => Self::Make { file, why, corrupt: true },
            _ => Self::Make { file, why, corrupt: false },
        }
    }

    /// The class that decides the exit status of the command line.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => Class::of(source),
            Self::File { source, .. } => source.class(),
            Self::NoParent { .. } => Class::NotFound,
            Self::Layer { .. } | Self::Make { corrupt: true, .. } => Class::Corrupt,
            Self::NoSpace { .. } => Class::NoSpace,
            Self::Make { corrupt: false, .. } => Class::Failed,
            Self::Plugin(error) => match error.code() {
                tonic::Code::ResourceExhausted => Class::NoSpace,
                tonic::Code::DataLoss => Class::Corrupt,
                _ => Class::Failed,
            },
        }
    }
}
