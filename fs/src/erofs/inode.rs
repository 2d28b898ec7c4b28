//! An inode and its extended attributes.

use crate::table::{Row, device, mode, xattrs};
use crate::tree::{Body, Node};

use super::layout::{Place, Store};

/// Bytes of an inode in the extended form.
pub(super) const INODE_BYTES: u64 = 64;
/// Each chunk of a file has 2^31 bytes: blocks of 2^12, times 2^19.
pub(super) const CHUNK_BITS: u32 = 31;

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

pub(super) fn encode(row: &Row, node: &Node, place: &Place) -> Vec<u8> {
    let attributes = &node.attributes;
    let store: u16 = match place.store {
        Store::Plain => 0,
        Store::Inline => 2,
        Store::Chunks => 4,
    };
    let data: u32 = match place.store {
        Store::Chunks => CHUNK_BITS - 12,
        _ if place.blocks > 0 => place.first_block,
        _ => device(&node.body),
    };
    let xattrs = encode_xattrs(node);
    // Counted in words beyond a header of three.
    let count = if xattrs.is_empty() { 0 } else { (xattrs.len() - 12) / 4 + 1 };
    let mut bytes = Vec::with_capacity(64 + xattrs.len());
    // Version 1, the extended form.
    bytes.extend((1 | store << 1).to_le_bytes());
    bytes.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
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
    bytes.extend(xattrs);
    bytes
}

/// The attributes as they follow the inode: a header of 12 bytes, then each; nothing where there are none.
pub(super) fn encode_xattrs(node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |name: &[u8], value: &[u8]| {
        let Some((rest, number)) = split(name) else { return };
        // The layout has refused what does not fit.
        let (Ok(name_bytes), Ok(value_bytes)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return;
        };
        if bytes.is_empty() {
            bytes.extend([0; 12]);
        }
        bytes.extend([name_bytes, number]);
        bytes.extend(value_bytes.to_le_bytes());
        bytes.extend(rest);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    if let Body::Regular(Some(content)) = &node.body {
        let hex = content.digest.hex();
        let (fan, rest) = hex.split_at(2);
        add(b"trusted.overlay.metacopy", b"");
        add(b"trusted.overlay.redirect", format!("/{fan}/{rest}").as_bytes());
    }
    for (name, value) in xattrs(node) {
        match name.strip_prefix(b"trusted.overlay.") {
            Some(rest) => add(&[b"trusted.overlay.overlay.", rest].concat(), value),
            None => add(name, value),
        }
    }
    bytes
}
