//! What can be wrong with a tar, or with an index that is to become one.

use std::io;

use dimg::index::Content;

/// A tar that cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header or an extension header says something that it must not.
    #[error("tar header at offset {offset}: {why}")]
    Header {
        /// Offset in bytes of the block.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The tar ends within a member.
    #[error("tar at offset {offset}: {wanted} bytes of {what} wanted, {left} left")]
    CutShort {
        /// Offset in bytes where they were to begin.
        offset: u64,
        /// What was to be read.
        what: &'static str,
        /// How many bytes it has.
        wanted: u64,
        /// How many bytes are there.
        left: u64,
    },
    /// Something exceeds a limit of [`dimg::limits`].
    #[error("tar at offset {offset}: {what} exceeds the limit of {limit}")]
    Limit {
        /// Offset in bytes of the block that claims it.
        offset: u64,
        /// What exceeds it.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl TarError {
    /// Offset in bytes in the tar of what is wrong.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Header { offset, .. } | Self::CutShort { offset, .. } | Self::Limit { offset, .. } => {
                *offset
            }
        }
    }

    pub(super) fn header(offset: usize, why: &'static str) -> Self {
        Self::Header { offset: offset as u64, why }
    }

    pub(super) fn limit(offset: usize, what: &'static str, limit: u64) -> Self {
        Self::Limit { offset: offset as u64, what, limit }
    }
}

/// An index that does not become a tar again.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Writing the tar failed.
    #[error("write tar")]
    Output(#[source] io::Error),
    /// A content could not be opened or read.
    #[error("read content {} of {} bytes", content.digest, content.size)]
    Content {
        /// Which content.
        content: Content,
        /// Why.
        source: io::Error,
    },
    /// A content has another size than the index says.
    #[error("content {} of {} bytes: {why}", content.digest, content.size)]
    Size {
        /// Which content.
        content: Content,
        /// Shorter or longer.
        why: &'static str,
    },
    /// An entry's shape does not fit it, or its headers would say something else than the entry does.
    #[error("tar entry {entry}: {why}")]
    Entry {
        /// Number of the entry in the index.
        entry: usize,
        /// What does not fit.
        why: &'static str,
    },
    /// The index's tail is not one that a tar can have.
    #[error("tar tail: {0}")]
    Tail(&'static str),
}
