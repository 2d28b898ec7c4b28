//! An inode and its extended attributes.

use crate::table::{Row, device, mode, xattrs};
use crate::tree::{Body, Node};

use super::layout::{Place, Store};

/// Bytes of an inode in the extended form.
pub(super) const INODE_BYTES: u64 = 64;
/// Each chunk of a file has 2^31 bytes: blocks of 2^12, times 2^19.
const CHUNK_BITS: u32 = 31;
/// Those of a larger file than this have as many bytes as they can: else a few files of which a size is all that there is, would fill the disk.
const LARGE_BYTES: u64 = 1 << 40;
const LARGE_CHUNK_BITS: u32 = 12 + 31;

/// The logarithm of a chunk's bytes, in a file of so many.
pub(super) fn chunk_bits(bytes: u64) -> u32 {
    if bytes > LARGE_BYTES { LARGE_CHUNK_BITS } else { CHUNK_BITS }
}

/// How many chunks a file of so many bytes has.
pub(super) fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(1 << chunk_bits(bytes))
}

/// Prefixes of attribute names that the format has a number for, and the number. An empty rest means the whole name.
const PREFIXES: [(&[u8], u8); 6] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"lustre.", 5),
];

fn split(name: &[u8]) -> Option<(&[u8], u8)> {
    PREFIXES.iter().find_map(|(prefix, number)| Some((name.strip_prefix(*prefix)?, *number)))
}

/// Whether the format has attributes of such names.
pub(super) fn is_known(name: &[u8]) -> bool {
    split(name).is_some()
}

/// Puts the inode and its attributes in `bytes`, in the place of what was there.
pub(super) fn encode(row: &Row, node: &Node, place: &Place, bytes: &mut Vec<u8>) {
    let attributes = &node.attributes;
    let store: u16 = match place.store {
        Store::Plain => 0,
        Store::Inline => 2,
        Store::Chunks => 4,
    };
    let data: u32 = match place.store {
        Store::Chunks => chunk_bits(place.size) - 12,
        _ if place.blocks > 0 => place.first_block,
        _ => device(&node.body),
    };
    bytes.clear();
    // Version 1, the extended form.
    bytes.extend((1 | store << 1).to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(u16::try_from(mode(node)).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(place.size.to_le_bytes());
    bytes.extend(data.to_le_bytes());
    bytes.extend((row.number + 1).to_le_bytes());
    bytes.extend(attributes.uid.to_le_bytes());
    bytes.extend(attributes.gid.to_le_bytes());
    bytes.extend(attributes.mtime.to_le_bytes());
    bytes.extend(attributes.mtime_nsec.to_le_bytes());
    bytes.extend(row.links.to_le_bytes());
    bytes.extend([0; 16]);
    let start = bytes.len();
    put_xattrs(node, bytes);
    // Counted in words beyond a header of three.
    let count = match bytes.len() - start {
        0 => 0,
        xattrs => (xattrs - 12) / 4 + 1,
    };
    bytes[2..4].copy_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

/// Where a content is among the data-only layers.
const REDIRECT_BYTES: usize = 66;

/// Bytes of an attribute whose name has so many beyond the prefix.
fn xattr_bytes(rest: usize, value: usize) -> usize {
    (4 + rest + value).next_multiple_of(4)
}

/// Bytes of [`put_xattrs`].
pub(super) fn xattrs_bytes(node: &Node) -> usize {
    let mut bytes = 0;
    if let Body::Regular(Some(_)) = &node.body {
        bytes += xattr_bytes(METACOPY.len(), 0) + xattr_bytes(REDIRECT.len(), REDIRECT_BYTES);
    }
    for (name, value) in xattrs(node) {
        let Some((rest, number)) = split(name) else { continue };
        let escape = if is_overlay(rest, number) { OVERLAY.len() } else { 0 };
        bytes += xattr_bytes(rest.len() + escape, value.len());
    }
    if bytes > 0 { bytes + 12 } else { 0 }
}

const TRUSTED: u8 = 4;
const OVERLAY: &[u8] = b"overlay.";
const METACOPY: &[u8] = b"overlay.metacopy";
const REDIRECT: &[u8] = b"overlay.redirect";

fn is_overlay(rest: &[u8], number: u8) -> bool {
    number == TRUSTED && rest.starts_with(OVERLAY)
}

/// The attributes as they follow the inode: a header of 12 bytes, then each; nothing where there are none.
fn put_xattrs(node: &Node, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    let mut add = |number: u8, rest: [&[u8]; 2], value: &[u8]| {
        let name_bytes = u8::try_from(rest[0].len() + rest[1].len());
        // The layout has refused what does not fit.
        let (Ok(name_bytes), Ok(value_bytes)) = (name_bytes, u16::try_from(value.len())) else {
            return;
        };
        if bytes.len() == start {
            bytes.extend([0; 12]);
        }
        bytes.extend([name_bytes, number]);
        bytes.extend(value_bytes.to_le_bytes());
        rest.iter().for_each(|part| bytes.extend(*part));
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    if let Body::Regular(Some(content)) = &node.body {
        let mut path = [b'/'; REDIRECT_BYTES];
        let hex = content.digest.hex_digits();
        path[1..3].copy_from_slice(&hex[..2]);
        path[4..].copy_from_slice(&hex[2..]);
        add(TRUSTED, [METACOPY, b""], b"");
        add(TRUSTED, [REDIRECT, b""], &path);
    }
    for (name, value) in xattrs(node) {
        let Some((rest, number)) = split(name) else { continue };
        let escape = if is_overlay(rest, number) { OVERLAY } else { b"" };
        add(number, [escape, rest], value);
    }
}
