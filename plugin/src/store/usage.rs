//! Disk usage of a directory tree.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::snapshot::Usage;

/// Bytes of a block as `st_blocks` counts them.
const BLOCK_BYTES: u64 = 512;

/// Adds up a tree: allocated blocks and inodes, hard links once. A container may be changing it meanwhile: what
/// vanishes, or lies deeper than a path may be long, is left out.
///
/// # Errors
/// If `root` itself cannot be read.
pub fn disk_usage(root: &Path) -> Result<Usage> {
    let top = fs::symlink_metadata(root).map_err(Error::io("stat", root))?;
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    add(&mut usage, &mut linked, &top);
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if dir == root => return Err(Error::io("read directory", dir)(e)),
            Err(e) => {
                skipped(&dir, &e);
                continue;
            }
        };
        for entry in entries {
            let found = entry.and_then(|e| Ok((e.metadata()?, e)));
            match found {
                Ok((meta, entry)) => {
                    if meta.is_dir() {
                        queue.push(entry.path());
                    }
                    add(&mut usage, &mut linked, &meta);
                }
                Err(e) => skipped(&dir, &e),
            }
        }
    }
    Ok(usage)
}

fn skipped(dir: &Path, e: &io::Error) {
    if e.kind() != io::ErrorKind::NotFound {
        tracing::debug!(dir = %dir.display(), error = %e, "left out of disk usage");
    }
}

fn add(usage: &mut Usage, linked: &mut HashSet<(u64, u64)>, meta: &Metadata) {
    if !meta.is_dir() && meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
        return;
    }
    usage.inodes += 1;
    usage.bytes += meta.blocks() * BLOCK_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_hard_links_once_and_holes_not_at_all() {
        let tmp = tempfile::tempdir().unwrap();
        let empty = disk_usage(tmp.path()).unwrap();
        assert_eq!(empty.inodes, 1);
        fs::create_dir(tmp.path().join("d")).unwrap();
        fs::write(tmp.path().join("d/a"), vec![7; 10_000]).unwrap();
        fs::hard_link(tmp.path().join("d/a"), tmp.path().join("b")).unwrap();
        std::os::unix::fs::symlink("a", tmp.path().join("d/s")).unwrap();
        fs::File::create(tmp.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let usage = disk_usage(tmp.path()).unwrap();
        assert_eq!(usage.inodes, 5, "the root, d, a, s and hole");
        assert!((10_000..200_000).contains(&usage.bytes), "{usage:?}");
        assert!(disk_usage(&tmp.path().join("missing")).is_err());
    }
}
