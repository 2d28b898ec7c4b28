//! The superblock: 128 bytes at offset 1024.

use super::BLOCK_BYTES;
use super::layout::Layout;

pub(super) const OFFSET: u64 = 1024;
/// From where on inodes may be; the first is the root's.
pub(super) const END: u64 = OFFSET + 128;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Inodes of whole times are not older than the image: nothing that we write depends on it.
const COMPAT_MTIME: u32 = 2;
/// Files may be lists of chunks.
const INCOMPAT_CHUNKED_FILE: u32 = 4;

pub(super) fn encode(layout: &Layout) -> [u8; 128] {
    let blocks = u32::try_from(layout.bytes() / BLOCK_BYTES).unwrap_or(u32::MAX);
    // In the second block where its entries do not fit beside it in the first.
    let root = layout.places.first().map_or(END, |root| root.offset);
    let root = u16::try_from(root / 32).unwrap_or(u16::MAX);
    let mut bytes = [0; 128];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT_MTIME.to_le_bytes());
    put(12, &[12]); // blkszbits
    put(14, &root.to_le_bytes());
    put(16, &(layout.places.len() as u64).to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
    bytes
}
