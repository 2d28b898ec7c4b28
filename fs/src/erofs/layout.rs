//! What is where in the image.

use std::cmp::Ordering;

use crate::table::{Row, Table, xattrs};
use crate::tree::{Body, Node};

use super::inode::{INODE_BYTES, chunks, is_known, xattrs_bytes};
use super::{BLOCK, BLOCK_BYTES, ErofsError, superblock};

/// Bytes of a directory's entry before its name.
const DIRENT_BYTES: u64 = 12;
/// The longest name of an attribute (`XATTR_NAME_MAX`). Those of files are as short in every tree.
const NAME_BYTES: usize = 255;
/// An inode's attributes are counted in words, by 16 bits.
const XATTR_BYTES: usize = 4 * 0xffff;
/// The largest file.
const FILE_BYTES: u64 = 1 << 52;
/// The address of a hole.
const HOLE: [u8; 4] = [0xff; 4];

/// How an inode's data is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// In blocks alone.
    Plain,
    /// In blocks but for the last bytes, which follow the inode.
    Inline,
    /// As a list of chunks, which follows the inode.
    Chunks,
}

/// Where an inode and its data are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) store: Store,
    pub(super) size: u64,
    pub(super) first_block: u32,
    pub(super) blocks: u32,
}

/// Places of all rows.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) places: Vec<Place>,
    blocks: u64,
}

impl Layout {
    pub(super) fn new(table: &Table) -> Result<Self, ErofsError> {
        let mut places = Vec::with_capacity(table.len());
        let mut at = superblock::END;
        for (row, node) in table.rows() {
            check(table, row, node)?;
            let head = INODE_BYTES + xattrs_bytes(node) as u64;
            let (size, tail) = match &node.body {
                Body::Directory(_) => {
                    let size = directory_bytes(table, row);
                    (size, size % BLOCK_BYTES)
                }
                Body::Symlink(target) => (target.len() as u64, target.len() as u64 % BLOCK_BYTES),
                Body::Regular(content) => (content.map_or(0, |content| content.size), 0),
                _ => (0, 0),
            };
            let chunks = match &node.body {
                Body::Regular(_) => chunks(size),
                _ => 0,
            };
            // What is beside the inode must end in the block of the inode.
            let inline = tail > 0 && head + tail <= BLOCK_BYTES;
            let offset = match inline && at % BLOCK_BYTES + head + tail > BLOCK_BYTES {
                true => at.next_multiple_of(BLOCK_BYTES),
                false => at,
            };
            let (store, blocks, after) = match (chunks > 0, inline) {
                (true, _) => (Store::Chunks, 0, 4 * chunks),
                (false, true) => (Store::Inline, size / BLOCK_BYTES, tail),
                (false, false) => (Store::Plain, size.div_ceil(BLOCK_BYTES), 0),
            };
            let blocks = u32::try_from(blocks).map_err(|_| limit(table, row, "too large a directory"))?;
            places.push(Place { offset, store, size, first_block: 0, blocks });
            at = (offset + head + after).next_multiple_of(32);
        }
        let mut next = at.div_ceil(BLOCK_BYTES);
        for place in &mut places {
            if place.blocks > 0 {
                let first =
                    u32::try_from(next).ok().filter(|first| first.checked_add(place.blocks).is_some());
                let why =
                    ErofsError::Limit { path: "/".to_owned(), why: "more than 2^32 blocks of metadata" };
                place.first_block = first.ok_or(why)?;
                next += u64::from(place.blocks);
            }
        }
        Ok(Self { places, blocks: next })
    }

    /// Bytes of the image.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES
    }

    /// What follows the inode and its attributes.
    pub(super) fn tail(&self, table: &Table, row: &Row, node: &Node, place: &Place) -> Option<Vec<u8>> {
        match (place.store, &node.body) {
            (Store::Chunks, _) => {
                let chunks = usize::try_from(chunks(place.size)).unwrap_or(0);
                Some(HOLE.repeat(chunks))
            }
            (Store::Inline, Body::Directory(_)) => {
                let blocks = self.directory(table, row);
                blocks.last().cloned()
            }
            (Store::Inline, Body::Symlink(target)) => Some(target[place.blocks as usize * BLOCK..].to_vec()),
            _ => None,
        }
    }

    /// What is in the blocks.
    pub(super) fn blocks(&self, table: &Table, row: &Row, node: &Node, place: &Place) -> Vec<u8> {
        match &node.body {
            Body::Directory(_) => {
                let blocks = self.directory(table, row);
                blocks[..place.blocks as usize].concat()
            }
            Body::Symlink(target) => {
                let end = target.len().min(place.blocks as usize * BLOCK);
                target[..end].to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// The blocks of a directory, all but the last one full.
    fn directory(&self, table: &Table, row: &Row) -> Vec<Vec<u8>> {
        let names = names(table, row);
        let blocks = split(&names);
        let last = blocks.len() - 1;
        let block = |(number, range): (usize, &std::ops::Range<usize>)| {
            let names = &names[range.clone()];
            let mut name_at = names.len() as u64 * DIRENT_BYTES;
            let mut block = Vec::with_capacity(BLOCK);
            for (name, row) in names {
                let nid = self.places[*row as usize].offset / 32;
                block.extend(nid.to_le_bytes());
                block.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
                block.extend([file_type(table, *row), 0]);
                name_at += name.len() as u64;
            }
            names.iter().for_each(|(name, _)| block.extend(*name));
            if number < last {
                block.resize(BLOCK, 0);
            }
            block
        };
        blocks.iter().enumerate().map(block).collect()
    }
}

/// The names in a directory with their rows, in the order of their bytes, itself and its parent among them.
fn names<'a>(table: &'a Table, row: &'a Row) -> Vec<(&'a [u8], u32)> {
    let entries = table.entries(row);
    let mut names: Vec<(&[u8], u32)> = Vec::with_capacity(entries.len() + 2);
    names.extend(entries.iter().map(|(name, row)| (&**name, *row)));
    for (name, number) in [(&b"."[..], row.number), (&b".."[..], row.parent)] {
        let at = names.partition_point(|(other, _)| other.cmp(&name) == Ordering::Less);
        names.insert(at, (name, number));
    }
    names
}

/// Which names are in which block.
fn split(names: &[(&[u8], u32)]) -> Vec<std::ops::Range<usize>> {
    let (mut blocks, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (number, (name, _)) in names.iter().enumerate() {
        let more = DIRENT_BYTES + name.len() as u64;
        if bytes + more > BLOCK_BYTES {
            blocks.push(start..number);
            (start, bytes) = (number, 0);
        }
        bytes += more;
    }
    blocks.push(start..names.len());
    blocks
}

fn directory_bytes(table: &Table, row: &Row) -> u64 {
    let names = names(table, row);
    let blocks = split(&names);
    let last = blocks.last().map_or(&names[..], |last| &names[last.clone()]);
    let bytes: u64 = last.iter().map(|(name, _)| DIRENT_BYTES + name.len() as u64).sum();
    (blocks.len() as u64 - 1) * BLOCK_BYTES + bytes
}

fn file_type(table: &Table, row: u32) -> u8 {
    match table.node(row).map(|node| &node.body) {
        Some(Body::Regular(_)) => 1,
        Some(Body::Directory(_)) => 2,
        Some(Body::CharDevice { .. } | Body::Whiteout | Body::Below(_)) => 3,
        Some(Body::BlockDevice { .. }) => 4,
        Some(Body::Fifo) => 5,
        Some(Body::Symlink(_)) => 7,
        None => 0,
    }
}

/// That the format can say all of a file.
fn check(table: &Table, row: &Row, node: &Node) -> Result<(), ErofsError> {
    for (name, _) in xattrs(node).filter(|(name, _)| !is_known(name)) {
        tracing::warn!(name = %String::from_utf8_lossy(name), "extended attribute dropped: EROFS has no such names");
    }
    if matches!(node.body, Body::CharDevice { major: 0, minor: 0 }) {
        tracing::warn!(row = row.number, "character device 0:0 is hidden: overlayfs takes it for a whiteout");
    }
    let long = |(name, value): (&[u8], &[u8])| name.len() > NAME_BYTES || u16::try_from(value.len()).is_err();
    if xattrs(node).any(long) || xattrs_bytes(node) > XATTR_BYTES {
        return Err(limit(table, row, "too large extended attributes"));
    }
    if matches!(&node.body, Body::Regular(Some(content)) if content.size > FILE_BYTES) {
        return Err(limit(table, row, "too large a file"));
    }
    Ok(())
}

/// An error about the file of `row`, by a name that it has.
fn limit(table: &Table, row: &Row, why: &'static str) -> ErofsError {
    let named = table.rows().find_map(|(other, _)| {
        let found = table.entries(other).iter().find(|(_, entry)| *entry == row.number);
        found.map(|(name, _)| String::from_utf8_lossy(name).into_owned())
    });
    ErofsError::Limit { path: named.unwrap_or_else(|| "/".to_owned()), why }
}
