//! What a tree is made of.

use std::collections::BTreeMap;

use dimg::index::Content;

/// Number of a node within its tree. Names that share a node are hard links of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl NodeId {
    /// As an index: less than [`Tree::numbered`](super::Tree::numbered).
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Mode, owner, time and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with set-uid, set-gid and sticky: the lower twelve.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since the epoch, rounded down.
    pub mtime: i64,
    /// Nanoseconds after `mtime`.
    pub mtime_nsec: u32,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Attributes {
    /// What a directory gets that no layer describes.
    pub fn of_missing_directory() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}

/// A directory's entries and how it lies over a directory of the layers below.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Entries by name.
    pub entries: BTreeMap<Box<[u8]>, NodeId>,
    /// Nothing of a lower directory shows through. Only in a layer.
    pub opaque: bool,
    /// No member describes it: it takes the attributes of the directory below. Only in a layer.
    pub implied: bool,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A directory.
    Directory(Directory),
    /// A regular file; `None` is an empty one.
    Regular(Option<Content>),
    /// A symbolic link to these bytes.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Hides what the layers below have by this name. Only in a layer.
    Whiteout,
    /// Another name of a file of the layers below, by its path from the root. Only in a layer not yet laid on those.
    Below(Box<[u8]>),
}

/// A file of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its attributes.
    pub attributes: Attributes,
    /// Type and what belongs to that.
    pub body: Body,
}

impl Node {
    pub(super) fn directory(attributes: Attributes) -> Self {
        Self { attributes, body: Body::Directory(Directory::default()) }
    }

    /// The directory that this node is.
    pub fn as_directory(&self) -> Option<&Directory> {
        match &self.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn as_directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }
}
