//! Why a tree was not written.

use std::io;
use std::path::PathBuf;

use dimg::Digest;

/// A failed checkout. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The destination is there already and is not an empty directory.
    #[error("write tree: {path}: there already, and not an empty directory")]
    DestinationInUse {
        /// The destination.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{action}: {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file: within the tree, or the destination itself.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image wants what only root may do: owners, devices, trusted attributes.
    #[error("{action}: {path}: not permitted; unpacking this image needs root")]
    NeedsRoot {
        /// What was being done.
        action: &'static str,
        /// The file within the tree.
        path: PathBuf,
    },
    /// No source has a file's content.
    #[error("write file: {path}: its content {digest} is not there")]
    MissingContent {
        /// The file within the tree.
        path: PathBuf,
        /// The content.
        digest: Digest,
    },
    /// A source gave a content of another size.
    #[error("write file: {path}: its content {digest} has {actual} bytes instead of {expected}")]
    WrongSize {
        /// The file within the tree.
        path: PathBuf,
        /// The content.
        digest: Digest,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that the source gave.
        actual: u64,
    },
    /// The layer makes no file tree.
    #[error(transparent)]
    Tree(#[from] crate::tree::TreeError),
}

impl CheckoutError {
    /// Whether a full disk or a quota was the reason.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::is_no_space(source))
    }
}
