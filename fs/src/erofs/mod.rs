//! A tree as an EROFS image of metadata alone.
//!
//! The image is for the upper of two kinds of lower layers of an overlay mount: a regular file in it has its size but no
//! bytes, and two attributes of overlayfs, `trusted.overlay.metacopy` and `trusted.overlay.redirect`, that say where among
//! the data-only layers its content is, which is where an object store has it (`/ab/cdef…`). Attributes of the image in
//! overlayfs' own name space are escaped, as that file system expects it.
//!
//! # Layout
//! Blocks of 4096 bytes, addresses of metadata from the start of the image, so that an inode's number is its offset by 32.
//! The superblock at 1024, which says where the root's inode is; from 1152 on the inodes, all in the extended form of 64 bytes, in the order of the table's
//! rows, each followed by its attributes and then by what fits beside it: a link's target or a directory's last block
//! within the same block, the list of chunks of a file (all holes). Then the blocks of directories that need more. The
//! same tree gives the same bytes.
//!
//! The format: `fs/erofs/erofs_fs.h` of Linux.

mod inode;
mod layout;
mod superblock;

use std::io::{self, Write};

use crate::table::Table;
use layout::Layout;

/// Of the bytes that layers give, by way of their tree: another number whenever these change, so that no image that was kept is taken for what is
/// written now.
pub(crate) const VERSION: u32 = 2;

/// Bytes of a block.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// Why a tree cannot be an EROFS image.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// A file has more than the format can say.
    #[error("write erofs image: {path}: {why}")]
    Limit {
        /// The file's name.
        path: String,
        /// What is too much.
        why: &'static str,
    },
    /// The image cannot be written.
    #[error("write erofs image: {0}")]
    Output(#[from] io::Error),
}

/// Writes `table` to `out`; gives the image's bytes.
pub(crate) fn write(table: &Table, out: &mut dyn Write) -> Result<u64, ErofsError> {
    let layout = Layout::new(table)?;
    let mut writer = Padded { out, at: 0 };
    writer.pad_to(superblock::OFFSET)?;
    writer.write(&superblock::encode(&layout))?;
    let mut inode = Vec::new();
    for ((row, node), place) in table.rows().zip(&layout.places) {
        writer.pad_to(place.offset)?;
        inode::encode(row, node, place, &mut inode);
        writer.write(&inode)?;
        if let Some(tail) = layout.tail(table, row, node, place) {
            writer.write(&tail)?;
        }
    }
    for ((row, node), place) in table.rows().zip(&layout.places) {
        if place.blocks > 0 {
            writer.pad_to(u64::from(place.first_block) * BLOCK_BYTES)?;
            writer.write(&layout.blocks(table, row, node, place))?;
        }
    }
    writer.pad_to(layout.bytes())?;
    Ok(layout.bytes())
}

/// Writes at increasing offsets, zeros between.
struct Padded<'a> {
    out: &'a mut dyn Write,
    at: u64,
}

impl Padded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        while self.at < offset {
            let count = usize::try_from(offset - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(&ZEROS[..count])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
