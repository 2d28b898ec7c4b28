//! One member of a layer's tar.

use crate::Digest;

/// What a member makes. `Other` members make nothing in the tree (as containerd ignores them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file, sparse ones included.
    Regular,
    /// A second name of a file of this layer or of one below; `Entry::link` is its path.
    HardLink,
    /// A symbolic link to `Entry::link`.
    Symlink,
    /// A character device. Device 0/0 is a whiteout only on overlayfs, not in a tar.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Anything else, by its type flag: a global pax header (`g`), a volume label, an unknown type.
    Other(u8),
}

/// A content's name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// A run of data in a sparse file; what lies between runs is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Offset in bytes in the file.
    pub offset: u64,
    /// Length in bytes; may be zero (writers mark the file's end so).
    pub bytes: u64,
}

/// One member: what its headers say, long names and pax records already applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index into [`LayerIndex::shapes`](super::LayerIndex::shapes).
    pub shape: u32,
    /// The name as the tar has it: any bytes, `./` and trailing slashes kept.
    pub path: Box<[u8]>,
    /// The mode number as the header has it; some writers add the file type's bits to the lower twelve.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Owner's name, often empty.
    pub uname: Box<[u8]>,
    /// Group's name, often empty.
    pub gname: Box<[u8]>,
    /// Modification time, seconds since the epoch, rounded down.
    pub mtime: i64,
    /// Nanoseconds after `mtime`, below 10⁹.
    pub mtime_nsec: u32,
    /// Major device number.
    pub dev_major: u64,
    /// Minor device number.
    pub dev_minor: u64,
    /// Target of a hard or symbolic link as the tar has it.
    pub link: Box<[u8]>,
    /// Values of the pax records named by [`Shape::pax_keys`](super::Shape::pax_keys), in that order.
    pub pax: Box<[Box<[u8]>]>,
    /// The file's bytes, expanded when sparse; present exactly for regular files (also empty ones) and for `Other`
    /// members that carry data.
    pub content: Option<Content>,
    /// The size that the header claims when there is no content: some writers give links a size.
    pub bare_size: u64,
    /// Data runs of a sparse member, ascending; the tar holds just these. Empty unless the shape is sparse.
    pub sparse: Box<[Extent]>,
    /// Header blocks, data of extension headers included, when `Shape::raw` says that they are kept; else empty.
    pub raw: Box<[u8]>,
}

impl Entry {
    /// Permission bits with set-uid, set-gid and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Size in bytes that a reader of the file sees.
    pub fn size(&self) -> u64 {
        self.content.map_or(self.bare_size, |content| content.size)
    }
}
