//! What can be wrong with a layer's members as a file tree.

/// A layer that makes no file tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer member {member:?}: {why}")]
pub struct TreeError {
    /// The member's name as its tar has it, shown lossily.
    pub member: String,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// A component of its path is neither a directory nor a link to one.
    #[error("a part of its path is not a directory")]
    NotADirectory,
    /// Its path leads through more symbolic links than any path may.
    #[error("too many symbolic links")]
    TooManyLinks,
    /// Linux has no such name: a component over 255 bytes, a path over 4,095, a NUL.
    #[error("no file can have such a name")]
    BadName,
    /// A whiteout of nothing, of the directory itself or of its parent.
    #[error("not a valid whiteout")]
    BadWhiteout,
    /// More files and directories than [`dimg::limits::MAX_ENTRIES`].
    #[error("too many files")]
    TooMany,
    /// The file that a hard link names is in no layer up to this one, or is a directory.
    #[error("the target of the hard link is not there")]
    NoLinkTarget,
    /// Linux has no such owner: above 2^32 - 2.
    #[error("no file can have such an owner")]
    BadOwner,
    /// Linux has no such device number: 12 bits of major, 20 of minor.
    #[error("no file can have such a device number")]
    BadDevice,
}

impl TreeError {
    pub(super) fn new(member: &[u8], why: Why) -> Self {
        let shown = String::from_utf8_lossy(&member[..member.len().min(200)]);
        Self { member: shown.into_owned(), why }
    }
}
