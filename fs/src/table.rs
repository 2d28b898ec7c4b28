//! A tree in the form that file systems serve it from: rows by number, the entries of a directory side by side.
//!
//! Row 0 is the root, a directory's row comes before those of its entries, names of one file share a row. Only what can
//! be reached has a row.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::tree::{Body, Node, NodeId, Tree};

/// One file of any type.
#[derive(Debug)]
pub(crate) struct Row {
    id: NodeId,
    /// Its own number.
    pub(crate) number: u32,
    /// The row of a directory's parent; the root's is the root.
    pub(crate) parent: u32,
    /// Names that it has, for a directory those within it too.
    pub(crate) links: u32,
    entries: Range<u32>,
}

/// The rows of a tree.
#[derive(Debug)]
pub(crate) struct Table {
    tree: Arc<Tree>,
    rows: Vec<Row>,
    entries: Vec<(Box<[u8]>, u32)>,
}

impl Table {
    pub(crate) fn new(tree: Arc<Tree>) -> Self {
        let root = Row { id: Tree::ROOT, number: 0, parent: 0, links: 2, entries: 0..0 };
        let (mut rows, mut entries) = (vec![root], Vec::new());
        let mut numbers: Vec<Option<u32>> = vec![None; tree.numbered()];
        let number = |count: usize| {
            u32::try_from(count)
                .expect("a tree has fewer nodes than 2^32, and of each one row; names likewise")
        };
        let mut next = 0;
        while next < rows.len() {
            if let Some(directory) = tree.node(rows[next].id).as_directory() {
                let start = number(entries.len());
                for (name, &id) in &directory.entries {
                    let is_directory = tree.node(id).as_directory().is_some();
                    let row = *numbers[id.index()].get_or_insert_with(|| {
                        let (parent, links) = (number(next), if is_directory { 1 } else { 0 });
                        let number = number(rows.len());
                        rows.push(Row { id, number, parent, links, entries: 0..0 });
                        number
                    });
                    rows[row as usize].links += 1;
                    rows[next].links += u32::from(is_directory);
                    entries.push((name.clone(), row));
                }
                rows[next].entries = start..number(entries.len());
            }
            next += 1;
        }
        Self { tree, rows, entries }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn row(&self, number: u32) -> Option<&Row> {
        self.rows.get(number as usize)
    }

    /// What row `number` is; nothing where there is no such row.
    pub(crate) fn node(&self, number: u32) -> Option<&Node> {
        Some(self.tree.node(self.row(number)?.id))
    }

    /// Rows in order, each with what it is.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Row, &Node)> {
        self.rows.iter().map(|row| (row, self.tree.node(row.id)))
    }

    /// The path, from the root, of a regular file that has no other above it; nothing in a tree without one.
    pub(crate) fn first_file(&self) -> Option<PathBuf> {
        let (first, _) = self.rows().find(|(_, node)| matches!(node.body, Body::Regular(_)))?;
        let mut names = Vec::new();
        let mut row = first;
        while row.number != 0 {
            let above = self.row(row.parent)?;
            let (name, _) = self.entries(above).iter().find(|(_, number)| *number == row.number)?;
            names.push(OsStr::from_bytes(name));
            row = above;
        }
        Some(names.into_iter().rev().collect())
    }

    /// The entries of a directory in the order of their names; of anything else none.
    pub(crate) fn entries(&self, row: &Row) -> &[(Box<[u8]>, u32)] {
        self.entries.get(row.entries.start as usize..row.entries.end as usize).unwrap_or_default()
    }
}

/// The extended attributes that a file of this type can have: `user` ones are kept on files and directories only, as
/// Linux does it everywhere.
pub(crate) fn xattrs(node: &Node) -> impl Iterator<Item = (&[u8], &[u8])> {
    let user = matches!(node.body, Body::Directory(_) | Body::Regular(_));
    let all = node.attributes.xattrs.iter().map(|(name, value)| (&**name, &**value));
    all.filter(move |(name, _)| user || !name.starts_with(b"user."))
}

/// Where overlayfs keeps its own attributes, and where those by such names go of a file that it is to show.
const OVERLAY: &[u8] = b"trusted.overlay.";
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";

/// The name that an attribute has in a layer of an overlay mount, which shows it by its own.
pub(crate) fn escaped(name: &[u8]) -> Cow<'_, [u8]> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => Cow::Owned([ESCAPED, rest].concat()),
        None => Cow::Borrowed(name),
    }
}

/// The type bits of a node's mode.
pub(crate) fn type_bits(body: &Body) -> u32 {
    use nix::libc;
    match body {
        Body::Directory(_) => libc::S_IFDIR,
        Body::Regular(_) => libc::S_IFREG,
        Body::Symlink(_) => libc::S_IFLNK,
        Body::BlockDevice { .. } => libc::S_IFBLK,
        Body::Fifo => libc::S_IFIFO,
        // Whiteouts and placeholders are in no merged tree.
        Body::CharDevice { .. } | Body::Whiteout | Body::Below(_) => libc::S_IFCHR,
    }
}

/// The whole mode of a node. Symbolic links have all permissions, as everywhere on Linux.
pub(crate) fn mode(node: &Node) -> u32 {
    let permissions = match node.body {
        Body::Symlink(_) => 0o777,
        _ => node.attributes.mode & 0o7777,
    };
    type_bits(&node.body) | permissions
}

/// The numbers of a device as the kernel packs them into 32 bits; zero for what is none.
pub(crate) fn device(body: &Body) -> u32 {
    match *body {
        Body::CharDevice { major, minor } | Body::BlockDevice { major, minor } => {
            (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Members, Memory};

    #[test]
    fn names_of_one_file_share_a_row() {
        let memory = Memory::default();
        let layer = Members::default().dir("d").file("d/a", &memory, "x").link("b", "d/a").dir("d/e").index();
        let table = Table::new(Arc::new(Tree::merge(&[layer]).unwrap()));
        assert_eq!(table.len(), 4);
        let root = table.row(0).unwrap();
        let names: Vec<_> = table.entries(root).iter().map(|(name, row)| (&**name, *row)).collect();
        assert_eq!(names, [(&b"b"[..], 1), (&b"d"[..], 2)]);
        assert_eq!((root.links, table.row(1).unwrap().links, table.row(2).unwrap().links), (3, 2, 3));
        let d = table.entries(table.row(2).unwrap());
        assert_eq!((d[0].1, &*d[1].0), (1, &b"e"[..]));
        assert_eq!(table.row(d[1].1).unwrap().parent, 2);
        assert!(table.row(4).is_none() && table.node(4).is_none());
        assert_eq!(table.first_file(), Some("b".into()));
    }

    #[test]
    fn the_first_file_has_the_shortest_path() {
        let memory = Memory::default();
        let of = |layer| Table::new(Arc::new(Tree::merge(&[layer]).unwrap())).first_file();
        let deep = || Members::default().dir("a").dir("a/b").file("a/b/c", &memory, "x").dir("d");
        assert_eq!(of(deep().index()), Some("a/b/c".into()));
        assert_eq!(of(deep().empty("d/e").index()), Some("d/e".into()));
        assert_eq!(of(Members::default().dir("a").symlink("b", "a").index()), None);
    }

    #[test]
    fn devices_pack_as_the_kernel_does() {
        assert_eq!(device(&Body::CharDevice { major: 1, minor: 3 }), 0x103);
        assert_eq!(device(&Body::BlockDevice { major: 0xfff, minor: 0xfffff }), 0xffff_ffff);
    }
}
