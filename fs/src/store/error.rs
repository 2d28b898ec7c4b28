//! Why an object store failed.

use std::io;
use std::path::PathBuf;

use dimg::Digest;

/// A failure of an object store. What was being made is not in the store and its files are removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("open object store: {root}: in use by another process")]
    InUse {
        /// The store's directory.
        root: PathBuf,
    },
    /// The disk or a quota is full.
    #[error("{action}: {path}: no space left")]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{action}: {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A recipe failed.
    #[error("make content: {source}")]
    Make {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A recipe made something else.
    #[error("make content {expected} of {expected_bytes} bytes: got {actual} of {actual_bytes} bytes")]
    Wrong {
        /// The content wanted.
        expected: Digest,
        /// Its size.
        expected_bytes: u64,
        /// What was made.
        actual: Digest,
        /// Its size, as far as it was written.
        actual_bytes: u64,
    },
    /// A recipe ended without making all that it says it makes.
    #[error("make content {digest}: its recipe did not make it")]
    NotMade {
        /// The content.
        digest: Digest,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if crate::is_no_space(&source) {
            Self::NoSpace { action, path }
        } else {
            Self::Io { action, path, source }
        }
    }
}
