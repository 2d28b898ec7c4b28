//! All members of one layer.

use std::collections::HashSet;

use super::{Content, Entry, Kind, Shape};

/// What follows the last member: the end marker and padding, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Zero bytes (two blocks by the book; GNU tar and bsdtar pad to a record of 10,240 bytes).
    pub zero_bytes: u64,
    /// Bytes after them; almost always none.
    pub rest: Box<[u8]>,
}

/// A layer's tar without its contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerIndex {
    /// Shapes in order of first use by `entries`, without duplicates.
    pub shapes: Vec<Shape>,
    /// Members in the tar's order, duplicates included.
    pub entries: Vec<Entry>,
    /// What follows them.
    pub tail: Tail,
}

impl LayerIndex {
    /// A layer of one regular file, root's, of time 0: what is not in an image made into one.
    pub fn of_file(path: &[u8], content: Content) -> Self {
        let style = Box::default();
        let shape = Shape { kind: Kind::Regular, raw: false, sparse: false, pax_keys: Vec::new(), style };
        let entry = Entry {
            shape: 0,
            path: path.into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            uname: Box::default(),
            gname: Box::default(),
            mtime: 0,
            mtime_nsec: 0,
            dev_major: 0,
            dev_minor: 0,
            link: Box::default(),
            pax: Box::default(),
            content: Some(content),
            bare_size: 0,
            sparse: Box::default(),
            raw: Box::default(),
        };
        Self { shapes: vec![shape], entries: vec![entry], tail: Tail::default() }
    }

    /// How `entry`, one of ours, was written.
    ///
    /// # Panics
    /// The entry is of another layer.
    pub fn shape(&self, entry: &Entry) -> &Shape {
        &self.shapes[entry.shape as usize]
    }

    /// What `entry`, one of ours, makes.
    pub fn kind(&self, entry: &Entry) -> Kind {
        self.shape(entry).kind
    }

    /// Extended attributes of `entry`, name and value: the `SCHILY.xattr.` records, the only ones that containerd
    /// and docker apply.
    pub fn xattrs<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let keys = self.shape(entry).pax_keys.iter();
        keys.zip(&entry.pax).filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, &**value)))
    }

    /// Every content of the layer once, in order of first use.
    pub fn contents(&self) -> impl Iterator<Item = Content> {
        let mut seen = HashSet::new();
        self.entries
            .iter()
            .filter_map(|entry| entry.content)
            .filter(move |content| seen.insert(content.digest))
    }
}
